"""Compare with exafmm-t where it is built: ``python -m benchmarks.peers --exafmm-t PROGRAM``.

The program is that library's own ``fmm_laplace``, built by its own instructions; nothing of it is here. It evaluates
potentials and gradients of charges of both signs and prints its times and errors. For each wanted number of digits it
runs with some orders and leaf sizes, and its fastest run with an error below 10^-digits counts, beside the fastest of
three evaluations of fmmloopy with ``digits=``, potentials and gradients too. Both use as many threads as this process
may. Run it while nothing else runs.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.tables import make_table
from fmmloopy.common.cores import processors
from fmmloopy.common.messages import one_line
from fmmloopy.execution.devices import DeviceError
from fmmloopy.fmm import Fmm
from fmmloopy.measuring.timing import Setting

ORDERS = {3: (4, 5), 6: (6, 7), 9: (10, 11)}
"""Orders of the other library that reach so many digits, or nearly."""

LEAF_SIZES = (100, 200, 300, 500, 800)

DISTRIBUTIONS = ("sphere", "cube")

LINE = re.compile(r"^(?P<name>[A-Z][\w ]*?) *: *(?P<value>[0-9.]+e[+-]\d+)$", re.MULTILINE)
"""What the program prints: a name and a number, such as ``Evaluation           : 2.1e+00``."""

SETUP = ("Build Tree", "Build Lists", "Precomputation", "M2L Setup")
"""Parts of its construction, of which it prints the times."""

LONGEST = 600.0
"""Seconds that one run of the program may take."""


@dataclass(frozen=True)
class Run:
    """One run of a program, or of ours.

    Attributes:
        what: with which parameters.
        construction, evaluation: seconds.
        error: of potentials, relative, in the 2-norm.
    """

    what: str
    construction: float
    evaluation: float
    error: float


def read_output(text: str, what: str) -> Run:
    """Return what the program has printed.

    Raises:
        ValueError: a time or the error is missing.
    """
    found = {line["name"]: float(line["value"]) for line in LINE.finditer(text)}
    try:
        construction = sum(found[name] for name in SETUP)
        return Run(what, construction, found["Evaluation"], found["Potential Error L2"])
    except KeyError as missing:
        raise ValueError(
            f"exafmm-t, {what}, has printed no {missing.args[0]}: {' '.join(text.split())[-200:]}"
        ) from None


def run_theirs(program: Path, folder: str, points: int, distribution: str, order: int, leaf_size: int) -> Run:
    """Run the program once, in a folder where it leaves its tables for the next run.

    Raises:
        ValueError: it fails, or takes too long.
    """
    what = f"p={order}, ncrit={leaf_size}"
    command = [
        str(program.absolute()),
        "-n",
        str(points),
        "-d",
        distribution[0],
        "-P",
        str(order),
        "-c",
        str(leaf_size),
    ]
    threads = str(processors())
    # Its threads call BLAS, which must not have threads of its own.
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            [*command, "-T", threads],
            env=environment,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=LONGEST,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise ValueError(f"exafmm-t, {what}: {one_line(error)}") from None
    return read_output(done.stdout, what)


def run_ours(points: int, distribution: str, digits: int, device: str | None) -> Run:
    """Evaluate potentials and gradients: construction with warm caches, the fastest of three evaluations."""
    where, charges = Setting(points, distribution).make_points(), np.random.default_rng(1).uniform(-1, 1, points)
    Fmm(where, digits=digits, device=device).evaluate(charges, gradient=True)
    start = time.perf_counter()
    fmm = Fmm(where, digits=digits, device=device)
    construction, seconds = time.perf_counter() - start, []
    for _ in range(3):
        start = time.perf_counter()
        fmm.evaluate(charges, gradient=True)
        seconds.append(time.perf_counter() - start)
    fmm.evaluate(charges)
    return Run(f"order {fmm.order}, ncrit {fmm.ncrit}", construction, min(seconds), fmm.estimate_error())


def row_of(distribution: str, digits: int, theirs: Sequence[Run], ours: Run) -> list[str]:
    """Return a row of the table: their fastest run that is accurate enough, beside ours."""
    fitting = [run for run in theirs if run.error <= 10.0**-digits]
    cells = [f"{distribution}, {digits} digits", *_cells(ours)]
    if not fitting:
        return [*cells, f"none of {len(theirs)} runs is accurate enough", "", "", "", "", ""]
    best = min(fitting, key=lambda run: run.evaluation)
    ratios = (
        best.evaluation / ours.evaluation,
        (best.construction + best.evaluation) / (ours.construction + ours.evaluation),
    )
    return [*cells, *_cells(best), *(f"{ratio:.2f}" for ratio in ratios)]


def _cells(run: Run) -> list[str]:
    return [run.what, f"{run.error:.1e}", f"{run.construction:.2f}", f"{run.evaluation:.2f}"]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print a table; return 2 if the program cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--exafmm-t", required=True, type=Path, metavar="PROGRAM", help="its program fmm_laplace")
    parser.add_argument("--points", type=int, default=1_000_000, help="(default: %(default)s)")
    parser.add_argument("--digits", type=int, nargs="+", default=list(ORDERS), choices=list(ORDERS))
    parser.add_argument("--device", help="part of a device's description (default: the preferred one)")
    arguments = parser.parse_args(argv)
    rows = []
    try:
        with TemporaryDirectory() as folder:
            for distribution, digits in product(DISTRIBUTIONS, arguments.digits):
                theirs = [
                    run_theirs(arguments.exafmm_t, folder, arguments.points, distribution, order, size)
                    for order, size in product(ORDERS[digits], LEAF_SIZES)
                ]
                ours = run_ours(arguments.points, distribution, digits, arguments.device)
                rows.append(row_of(distribution, digits, theirs, ours))
                print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    except (ValueError, DeviceError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    one = "parameters", "error", "construction, s", "evaluation, s"
    headings = ("case", *(f"fmmloopy: {name}" for name in one), *(f"exafmm-t: {name}" for name in one))
    print(make_table((*headings, "evaluation: times as fast", "both: times as fast"), rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
