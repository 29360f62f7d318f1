"""Speed of the Green's functions that ship, relative to Laplace's: ``python -m benchmarks.kernels``.

All are evaluated for the same points, order and ncrit, so that they differ in their kernels alone. A function with more
components, or with functions such as the exponential, has more to do. So times are printed beside the ratio of the
operations that the method needs, with those of special functions; the last column divides one by the other. Run it
while nothing else runs. ``docs/generated/kernel_speeds.md`` is what it prints, with ``--output``.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymbolic.mapper import WalkMapper

from fmmloopy.choosing.work import count_work
from fmmloopy.execution.devices import choose_device
from fmmloopy.fmm import Fmm
from fmmloopy.greens import GreensFunction
from fmmloopy.kernels import KERNELS
from fmmloopy.terms import simplify
from fmmloopy.vectors import draw_charges

CALL_FLOPS = 20
"""Operations that a call of a special function counts as: about those of a polynomial in double precision."""

RUNS, SECONDS = 5, 2.0
"""Least number of evaluations and least time for all of them, of which the fastest counts."""

PARAMETERS: dict[str, tuple[float, ...]] = {"helmholtz": (3.0,), "plummer": (1e-3,), "gaussian": (6.0,)}
"""Of functions that need some."""


@dataclass(frozen=True)
class Speed:
    """The time of one evaluation.

    Attributes:
        kernel: name of the function.
        gradient: whether gradients were computed too.
        seconds: of the fastest evaluation.
        flops: operations that it needs, without special functions.
        calls: calls of special functions.
    """

    kernel: str
    gradient: bool
    seconds: float
    flops: float
    calls: float

    @property
    def work(self) -> float:
        """Operations, with those of special functions."""
        return self.flops + CALL_FLOPS * self.calls


class _Calls(WalkMapper):  # type: ignore[misc]
    """Collects the texts of calls in expressions, with their arguments simplified."""

    def __init__(self) -> None:
        super().__init__()
        self.texts = set[str]()

    def map_call(self, expr: Any, *args: Any) -> None:
        self.texts.add(str(simplify(expr)))
        super().map_call(expr, *args)


def count_calls(kernel: GreensFunction) -> int:
    """Return how many different functions are called per pair; equal calls count once."""
    calls = _Calls()
    for row in kernel.matrix:
        for entry in row:
            calls(entry)
    return len(calls.texts)


def measure(kernel: GreensFunction, points: NDArray[np.float64], order: int, ncrit: int, gradient: bool) -> Speed:
    """Time evaluations of one function."""
    fmm = _build(kernel, points, order, ncrit)
    values = draw_charges(np.random.default_rng(1), kernel, len(points))
    fmm.evaluate(values, gradient=gradient)
    times: list[float] = []
    while len(times) < RUNS or sum(times) < SECONDS:
        start = time.perf_counter()
        fmm.evaluate(values, gradient=gradient)
        times.append(time.perf_counter() - start)
    return _speed(fmm, gradient, min(times))


def _build(kernel: GreensFunction, points: NDArray[np.float64], order: int, ncrit: int) -> Fmm:
    return Fmm(points, kernel=kernel, order=order, ncrit=ncrit, precision="double", m2l="fft")


def _speed(fmm: Fmm, gradient: bool, seconds: float) -> Speed:
    """Return a time beside the work."""
    work = count_work(fmm.tree, fmm.lists, fmm.method, "fft", gradient).values()
    calls = count_calls(fmm.kernel.with_gradient() if gradient else fmm.kernel)
    flops, pairs = sum(each.flops for each in work), sum(each.pairs for each in work)
    return Speed(fmm.kernel.name, gradient, seconds, flops, pairs * calls)


def read_seconds(page: str) -> dict[tuple[str, bool], float]:
    """Return the seconds in a page that `main` wrote, by function and whether gradients were computed."""
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("|")]
    return {(name, what == "gradients"): float(seconds) for name, what, seconds, *_ in rows[2:]}


def table(speeds: Sequence[Speed]) -> str:
    """Return a table in Markdown; each function is compared with Laplace's for the same output."""
    lines = [
        "| function | output | seconds | time, Laplace = 1 | work, Laplace = 1 | time / work |",
        "|---|---|---|---|---|---|",
    ]
    plain = {speed.gradient: speed for speed in speeds if speed.kernel == "laplace"}
    for speed in speeds:
        base = plain[speed.gradient]
        slower, more = speed.seconds / base.seconds, speed.work / base.work
        what = "gradients" if speed.gradient else "potentials"
        lines.append(
            f"| {speed.kernel} | {what} | {speed.seconds:.3f} | {slower:.2f} | {more:.2f} | {slower / more:.2f} |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="functions (default: all)")
    parser.add_argument("--points", type=int, default=100_000, help="in the unit cube (default: %(default)s)")
    parser.add_argument("--order", type=int, default=6, help="(default: %(default)s)")
    parser.add_argument("--ncrit", type=int, default=150, help="(default: %(default)s)")
    parser.add_argument("--output", type=Path, help="file for the table, beside the screen")
    parser.add_argument("--recount", type=Path, help="count the work anew for the seconds in a page of before")
    arguments = parser.parse_args(argv)
    warnings.filterwarnings("ignore", ".* may not suit the method", UserWarning)
    points = np.random.default_rng(0).random((arguments.points, 3))
    names = dict.fromkeys(["laplace", *(arguments.names or KERNELS)])
    given = (points, arguments.order, arguments.ncrit)
    what = f"{arguments.points:,} points in a cube, order {arguments.order}, ncrit {arguments.ncrit}, float64"
    first, known = f"{what}, {choose_device().description}:", dict[tuple[str, bool], float]()
    if arguments.recount:
        page = arguments.recount.read_text()
        first, known = page.splitlines()[0], read_seconds(page)
        if not first.startswith(what):
            parser.error(f"{arguments.recount} is for other points, order or ncrit: {first}")
    speeds = []
    for name in names:
        kernel = KERNELS[name](*PARAMETERS.get(name, ()))
        for gradient in (False, True):
            if not known:
                speeds.append(measure(kernel, *given, gradient))
                print(f"{name}{', gradients' if gradient else ''}: {speeds[-1].seconds:.3f} s", flush=True)
            elif (name, gradient) in known:
                speeds.append(_speed(_build(kernel, *given), gradient, known[name, gradient]))
    text = f"{first}\n\n{table(speeds)}\n"
    print(f"\n{text}", end="")
    if arguments.output:
        arguments.output.write_text(text)


if __name__ == "__main__":
    main()
