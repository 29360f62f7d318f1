"""From fmm3dpy to fmmloopy: the same sums side by side, and the same numbers.

    python -m pip install fmm3dpy
    python examples/from_fmm3dpy.py
    python examples/from_fmm3dpy.py --n 20000 --plot both.png

The Flatiron Institute's FMM3D (https://fmm3d.readthedocs.io) is a library of fast multipole methods for Laplace's,
Helmholtz's and other functions. From version 2.1 on, its functions have the same factor 1 / (4 pi), and dipoles the
same sign. Its arrays have a column per point, where those of fmmloopy have a row, and it builds its tree anew in each
call, where an `Fmm` keeps it. Without fmm3dpy, this example says so and does nothing. Exit status: 1 if numbers differ
by more than was asked for, else 0.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

import fmmloopy as fl

WAVENUMBER = 2.0


@dataclass(frozen=True)
class Comparison:
    """A sum in both libraries.

    Attributes:
        name: what it is.
        theirs: the call of fmm3dpy, which returns its output.
        kernel: the Green's function of fmmloopy.
        dipoles: whether sources have dipole moments beside charges.
    """

    name: str
    theirs: Callable[..., Any]
    kernel: fl.GreensFunction
    dipoles: bool


def comparisons() -> list[Comparison]:
    """Return what is compared."""
    import fmm3dpy

    def waves(**arguments: Any) -> Any:
        return fmm3dpy.hfmm3d(zk=WAVENUMBER, **arguments)

    return [
        Comparison("Laplace, charges", fmm3dpy.lfmm3d, fl.laplace(), False),
        Comparison("Laplace, charges and dipoles", fmm3dpy.lfmm3d, fl.laplace(), True),
        Comparison(f"Helmholtz, k = {WAVENUMBER:g}, charges", waves, fl.helmholtz(WAVENUMBER), False),
    ]


def compare(
    case: Comparison, points: np.ndarray, charges: np.ndarray, dipoles: np.ndarray, digits: float
) -> dict[str, float]:
    """Compute potentials and gradients in both libraries; return relative differences in the 2-norm, and seconds."""
    charges = charges * np.exp(1j * points[:, 0]) if case.kernel.is_complex else charges

    start = time.perf_counter()
    given = {"charges": charges} | ({"dipvec": np.ascontiguousarray(dipoles.T)} if case.dipoles else {})
    output = case.theirs(eps=10.0**-digits, sources=np.ascontiguousarray(points.T), pg=2, **given)
    potentials, gradients = output.pot, output.grad.T
    seconds = time.perf_counter() - start

    fmm = fl.Fmm(points, kernel=case.kernel, digits=digits)
    given = {"charges": charges} | ({"dipoles": dipoles} if case.dipoles else {})
    ours, slopes = fmm.evaluate(**given, gradient=True)
    start = time.perf_counter()
    ours, slopes = fmm.evaluate(**given, gradient=True)
    again = time.perf_counter() - start
    return {
        "potentials": float(np.linalg.norm(ours - potentials) / np.linalg.norm(potentials)),
        "gradients": float(np.linalg.norm(slopes - gradients) / np.linalg.norm(gradients)),
        "fmm3dpy": seconds,
        "fmmloopy": again,
    }


def draw(names: list[str], found: list[dict[str, float]], digits: float, path: Path) -> None:
    """Draw the differences of each sum."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.9 + 0.9 * len(names)), layout="constrained")
    axes = figure.subplots()
    rows = np.arange(len(names))
    for shift, what in ((-0.2, "potentials"), (0.2, "gradients")):
        axes.barh(rows + shift, [each[what] for each in found], 0.35, label=what)
    axes.axvline(10.0**-digits, color="k", linewidth=1, label="asked for")
    axes.set(yticks=rows, yticklabels=names, xscale="log", xlabel="difference between fmm3dpy and fmmloopy, 2-norm")
    axes.invert_yaxis()
    axes.legend()
    figure.savefig(path, dpi=110)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=100_000, help="points in a cube (default: %(default)s)")
    parser.add_argument("--digits", type=float, default=6, help="accuracy of both (default: %(default)s)")
    parser.add_argument("--plot", type=Path, default=Path("from_fmm3dpy.png"), help="picture")
    arguments = parser.parse_args(argv)

    if not find_spec("fmm3dpy"):
        print("fmm3dpy is not installed, so nothing is compared: python -m pip install fmm3dpy")
        return 0
    rng = np.random.default_rng(1987)
    points = rng.random((arguments.n, 3))
    charges, dipoles = rng.uniform(-1, 1, arguments.n), rng.uniform(-1, 1, (arguments.n, 3)) / arguments.n ** (1 / 3)
    cases = comparisons()
    found = [compare(case, points, charges, dipoles, arguments.digits) for case in cases]
    print(f"{arguments.n:,} points in a cube, {arguments.digits:g} digits: relative differences in the 2-norm")
    print(f"{'':32} {'potentials':>10}  {'gradients':>10}  {'fmm3dpy':>8}  {'fmmloopy, again':>15}")
    for case, each in zip(cases, found, strict=True):
        print(
            f"{case.name:32} {each['potentials']:10.1e}  {each['gradients']:10.1e}  {each['fmm3dpy']:6.2f} s  "
            f"{each['fmmloopy']:13.2f} s"
        )
    if find_spec("matplotlib"):
        draw([case.name for case in cases], found, arguments.digits, arguments.plot)
        print(f"The picture is in {arguments.plot}")
    return 0 if all(each["potentials"] < 2 * 10.0**-arguments.digits for each in found) else 1


if __name__ == "__main__":
    sys.exit(main())
