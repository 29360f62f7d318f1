"""Run by test_mpi: compares several processes with one, which each of them builds for itself; then the last of them
fails at the places that are named."""

from __future__ import annotations

import faulthandler
import sys
import warnings

import numpy as np
import pytest
from conftest import POINT_SETS, cube, error
from faults import PLACES, call, failing
from mpi4py import MPI

import fmmloopy as fl
from fmmloopy.parts.team import PartError

comm = MPI.COMM_WORLD
ROUNDING = 1e-12  # parts add up the same numbers in another order
OPTIONS = {"order": 4, "ncrit": 40, "m2l": "fft"}


def mine(rows, rng):
    """Return the share of this process, and what puts the shares of all together."""
    owners = rng.integers(0, comm.size, len(rows))
    if comm.size > 2:
        owners[owners == 1] = 0  # process 1 has none
    return owners == comm.rank


def whole(values, chosen):
    """Return the rows of all processes."""
    rows = np.concatenate(comm.allgather(np.flatnonzero(chosen)))
    values = np.concatenate(comm.allgather(values))
    result = np.empty_like(values)
    result[rows] = values
    return result


def main() -> None:
    rng = np.random.default_rng(5)
    for name, make in POINT_SETS.items():
        sources = make(rng, 1500)
        charges = rng.uniform(-1, 1, len(sources))
        targets = make(rng, 900) if name == "cube" else None
        chosen = mine(sources, rng)
        wanted = chosen if targets is None else mine(targets, rng)
        one = fl.Fmm(sources, targets, **OPTIONS)
        part = fl.Fmm(sources[chosen], None if targets is None else targets[wanted], comm=comm, **OPTIONS)
        expected, slopes = one.evaluate(charges, gradient=True)
        found, gradients = part.evaluate(charges[chosen], gradient=True)
        assert np.array_equal(part.evaluate(charges[chosen], gradient=True)[0], found)
        for values, reference in ((found, expected), (gradients, slopes)):
            values = whole(values, wanted)
            assert error(values, reference) < ROUNDING if reference.any() else not values.any(), name
        assert part.estimate_error(k=100) < 1e-2 or not expected.any()
    sources, charges = cube(rng, 1500), rng.uniform(-1, 1, (1500, 3))
    chosen = mine(sources, rng)
    part.update(sources[chosen])
    one.update(sources)
    assert error(whole(part.evaluate(charges[chosen]), chosen), one.evaluate(charges)) < ROUNDING
    part.rebalance()
    assert error(whole(part.evaluate(charges[chosen]), chosen), one.evaluate(charges)) < ROUNDING
    adjoint = part.as_linear_operator().rmatvec(charges[chosen, 0])
    assert error(whole(adjoint, chosen), one.evaluate(charges[:, 0])) < ROUNDING
    for wrong, message in (
        (lambda: part.evaluate(charges[chosen][: -1 if comm.rank == 0 else None]), "charges has shape"),
        (lambda: fl.Fmm(sources[chosen], comm=comm, order=4 + comm.rank), "order is 4 in part 0 and 5 in part 1"),
        (lambda: fl.Fmm(sources[:0], comm=comm), "in all parts, expected at least one point"),
    ):
        if comm.size > 1 or "order" not in message:
            with pytest.raises(ValueError, match=message):
                wrong()
    report = part.plan_report()
    assert [each.nsources for each in report.parts] == comm.allgather(len(part._part.shares.sources.keys))
    assert report.parts[comm.rank].waiting == part.timings["exchange"]
    for place in sys.argv[1:]:
        fail_at(place, rng)
    print(f"process {comm.rank} of {comm.size}: fine")


def fail_at(place: str, rng: np.random.Generator) -> None:
    """Let the last process fail somewhere: all raise an error that says so, and a new evaluation works."""
    which, text, kind = PLACES[place]
    fault = kind("" if kind is KeyboardInterrupt else text)
    points, last, began = cube(rng, 300), comm.size - 1, []
    chosen = mine(points, rng)
    told = pytest.raises(kind if comm.rank == last else PartError)
    with failing(place, fault, lambda: bool(began) and comm.rank == last), told as raised:
        call(which, lambda: fl.Fmm(points[chosen], comm=comm, **OPTIONS), points[chosen], lambda: began.append(1))
    line = f"{text} (in part {last} of {comm.size})"
    assert raised.value is fault if comm.rank == last else str(raised.value) == line
    assert fl.Fmm(points[chosen], comm=comm, **OPTIONS).evaluate(np.ones(chosen.sum())).shape == (chosen.sum(),)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    faulthandler.dump_traceback_later(240, exit=True)  # processes that wait for each other
    try:
        main()
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
        comm.Abort(1)
