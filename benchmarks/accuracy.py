"""Errors of the Green's functions that ship, for the digits that were asked: ``python -m benchmarks.accuracy``.

Potentials of charges of both signs are compared with the direct sum. Points are on a sphere, in a cube, and in a
cluster, where each decade of the distance from its centre has as many; or charges are on the sphere and targets in the
cube. An error above 10^-digits is a miss. ``docs/generated/kernel_accuracy.md`` is what it prints, with ``--output``.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.kernels import PARAMETERS
from fmmloopy.common.messages import one_line
from fmmloopy.execution.devices import choose_device
from fmmloopy.fmm import Fmm
from fmmloopy.greens import GreensFunction
from fmmloopy.kernels import KERNELS
from fmmloopy.vectors import draw_charges

DIGITS = (3, 6, 9)

CHECKED = 1000
"""Targets at which potentials are compared with the direct sum."""

Points = NDArray[np.float64]


def sphere(random: np.random.Generator, count: int) -> Points:
    """Return points on the unit sphere: shape (count, 3)."""
    points: Points = random.standard_normal((count, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return points


def cube(random: np.random.Generator, count: int) -> Points:
    """Return points in the cube around the unit sphere."""
    return random.uniform(-1, 1, (count, 3))


def cluster(random: np.random.Generator, count: int) -> Points:
    """Return points at distances from 1e-3 to 1 of the origin, as many in each decade."""
    return sphere(random, count) * 10.0 ** random.uniform(-3, 0, (count, 1))


DISTRIBUTIONS: dict[str, tuple[Callable[..., Points], Callable[..., Points] | None]] = {
    "sphere": (sphere, None),
    "cube": (cube, None),
    "cluster": (cluster, None),
    "separate targets": (sphere, cube),
}
"""Where charges are, and targets if they are elsewhere."""


@dataclass(frozen=True)
class Accuracy:
    """What one function reaches for so many digits.

    Attributes:
        kernel, digits: which.
        order, precision: what was chosen.
        errors: relative, in the 2-norm, by distribution; those for which it was refused have none.
        refusal: why one was refused, in one line; "" if none was.
    """

    kernel: str
    digits: int
    order: int
    precision: str
    errors: dict[str, float]
    refusal: str = ""

    @property
    def is_met(self) -> bool:
        """Whether all errors are below 10^-digits, where it was not refused."""
        return max(self.errors.values(), default=0.0) < 10.0**-self.digits


def measure(
    kernel: GreensFunction, digits: int, count: int, names: Sequence[str] = tuple(DISTRIBUTIONS), sets: int = 1
) -> Accuracy:
    """Measure the errors of one function.

    Args:
        kernel: the function.
        digits: what is asked for.
        count: points, and targets if there are others.
        names: distributions of points.
        sets: sets of charges. Errors are relative to the potentials of all together, which vary less than those of one.
    """
    errors, order, precision, refusal = {}, 0, "", ""
    for name in names:
        sources_in, targets_in = DISTRIBUTIONS[name]
        random = np.random.default_rng(0)
        sources = sources_in(random, count)
        targets = None if targets_in is None else targets_in(random, count)
        charges = np.stack([draw_charges(random, kernel, count) for _ in range(sets)], axis=-1)
        try:
            fmm = Fmm(sources, targets, kernel, digits)
        except ValueError as error:
            refusal = one_line(error)
            continue
        fmm.evaluate(charges)
        errors[name] = fmm.estimate_error(k=CHECKED)
        order, precision = max(order, fmm.order), fmm.precision
    return Accuracy(kernel.name, digits, order, precision, errors, refusal)


def table(found: Sequence[Accuracy]) -> str:
    """Return a table in Markdown; misses are bold."""
    lines = [
        f"| function | digits | order | precision | {' | '.join(DISTRIBUTIONS)} |",
        f"|---|---|---|---|{'---|' * len(DISTRIBUTIONS)}",
    ]
    for each in found:
        shown = []
        for name in DISTRIBUTIONS:
            error = each.errors.get(name)
            text = "refused" if error is None else f"{error:.1e}"
            shown.append(text if error is None or error < 10.0**-each.digits else f"**{text}**")
        lines.append(f"| {each.kernel} | {each.digits} | {each.order or ''} | {each.precision} | {' | '.join(shown)} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; return 1 if an error is larger than what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="functions (default: all)")
    parser.add_argument("--points", type=int, default=20_000, help="(default: %(default)s)")
    parser.add_argument("--output", type=Path, help="file for the table, beside the screen")
    arguments = parser.parse_args(argv)
    if unknown := [name for name in arguments.names if name not in KERNELS]:
        parser.error(f"{unknown[0]!r} is no function, expected one of {', '.join(KERNELS)}")
    warnings.filterwarnings("ignore", ".* may not suit the method", UserWarning)
    found = []
    for name in arguments.names or KERNELS:
        for digits in DIGITS:
            each = measure(KERNELS[name](*PARAMETERS.get(name, ())), digits, arguments.points)
            found.append(each)
            said = [f"{where} {error:.1e}" for where, error in each.errors.items()]
            said += [each.refusal] if each.refusal else []
            print(f"{name}, {digits} digits, order {each.order}: {', '.join(said)}", flush=True)
    text = f"{arguments.points:,} points, {choose_device().description}:\n\n{table(found)}\n"
    print(f"\n{text}", end="")
    if arguments.output:
        arguments.output.write_text(text)
    return 0 if all(each.is_met for each in found) else 1


if __name__ == "__main__":
    sys.exit(main())
