"""The electrostatic potential of a molecule in salt water, from a file: Yukawa's function.

    python examples/screened_electrostatics.py
    python examples/screened_electrostatics.py --file atoms.csv --screening 0.96

Without --file, a model of DNA is written to a file first and then read like any other: two strands of phosphates with
one charge each, wound around a closed, knotted axis. In a file (.csv, .npz, .h5, .vtu and others), coordinates are in
nanometres and charges, in those of a proton, have the name ``charges``; a CSV file has the columns x, y, z and charges.
Potentials are in units of k T / e, at the Bjerrum length of water.

Next to the model's axis, the potential must be that of a charged cylinder, 2 l_B lambda I0(a / l) K0(rho / l), where
lambda is the charge per length and l the screening length (Brenner & Parsegian, Biophysical Journal 14 (1974), 327).
Exit status: 0 if it is, to 3%, or if the file is your own; 1 if it is not.
"""

from __future__ import annotations

import argparse
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from scipy.special import i0, k0

import fmmloopy as fl
from fmmloopy.files import Problem, read_problem

BJERRUM = 0.7
"""Distance in nm at which two protons in water have the energy k T."""
RISE, TURN, STRAND_RADIUS = 0.34, 10.5, 1.0
"""Of DNA: nm and base pairs of a turn, and the distance of phosphates from the axis in nm."""
DISTANCE = 5.0
"""From the axis, at which the potential is compared with that of a cylinder."""
ERROR = 3e-2
"""The axis bends, that of a short molecule more: 0.8% for 20,000 charges, 2.4% for 4,000."""
NPIXELS = 240


def knot(t: np.ndarray) -> np.ndarray:
    """Return points of a trefoil knot, shape (n, 3), for t from 0 to 2 pi."""
    return np.stack([np.sin(t) + 2 * np.sin(2 * t), np.cos(t) - 2 * np.cos(2 * t), -np.sin(3 * t)], axis=1)


def axis_of(npairs: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return equally spaced points of the axis and two unit vectors across it, each of shape (npairs, 3)."""
    t = np.linspace(0, 2 * np.pi, 20 * npairs + 1)
    curve = knot(t)
    arc = np.append(0, np.cumsum(np.linalg.norm(np.diff(curve, axis=0), axis=1)))
    at = np.interp(np.arange(npairs) * arc[-1] / npairs, arc, t)
    scale = npairs * RISE / arc[-1]
    tangent = knot(at + 1e-5) - knot(at - 1e-5)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    across = np.cross(tangent, [0.0, 0.0, 1.0])
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    return scale * knot(at), across, np.cross(tangent, across)


def write_model(path: Path, n: int) -> None:
    """Write two strands of phosphates: columns x, y, z and charges."""
    axis, first, second = axis_of(n // 2)
    angle = 2 * np.pi * np.arange(n // 2) / TURN
    strands = []
    for shift in (0.0, 0.8 * np.pi):  # the minor groove is narrower than the major one
        turned = np.cos(angle + shift)[:, None] * first + np.sin(angle + shift)[:, None] * second
        strands.append(axis + STRAND_RADIUS * turned)
    points = np.concatenate(strands)
    table = np.column_stack([points, np.full(len(points), -1.0)])
    np.savetxt(path, table, fmt="%.5f", delimiter=",", header="x,y,z,charges", comments="")


def cylinder(screening: float) -> float:
    """Return the potential of a straight model at DISTANCE from its axis."""
    per_length = -2 / RISE
    return float(2 * BJERRUM * per_length * i0(STRAND_RADIUS / screening) * k0(DISTANCE / screening))


def draw(problem: Problem, kernel: fl.GreensFunction, path: Path) -> None:
    """Draw the potential in the plane z = the mean of all points, and the charges from above."""
    from matplotlib.colors import SymLogNorm
    from matplotlib.figure import Figure

    points = np.asarray(problem.sources, float)
    low, high = points.min(axis=0), points.max(axis=0)
    margin = 0.1 * (high - low).max()
    x, y = (np.linspace(low[axis] - margin, high[axis] + margin, NPIXELS) for axis in (0, 1))
    grid = np.stack([*map(np.ravel, np.meshgrid(x, y)), np.full(NPIXELS**2, points[:, 2].mean())], axis=1)
    potential = 4 * np.pi * BJERRUM * fl.Fmm(points, grid, kernel, digits=3).evaluate(problem.charges)
    figure = Figure(figsize=(12, 5.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    most = np.abs(potential).max()
    drawn = left.imshow(
        potential.reshape(NPIXELS, NPIXELS),
        norm=SymLogNorm(1e-3 * most, vmin=-most, vmax=most),
        cmap="RdBu",
        origin="lower",
        extent=(x[0], x[-1], y[0], y[-1]),
    )
    figure.colorbar(drawn, ax=left, label="potential [k T / e]", shrink=0.8)
    left.set(title=f"at z = {round(points[:, 2].mean(), 1) + 0.0:.1f} nm", xlabel="x [nm]", ylabel="y [nm]")
    order = np.argsort(points[:, 2])[:: max(1, len(points) // 20_000)]
    shown = right.scatter(*points[order, :2].T, c=points[order, 2], s=1.5, cmap="viridis")
    figure.colorbar(shown, ax=right, label="z [nm]", shrink=0.8)
    right.set(title="charges", xlabel="x [nm]", aspect="equal", xlim=left.get_xlim(), ylim=left.get_ylim())
    figure.savefig(path, dpi=110)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--file", type=Path, help="points and charges (default: a model is written to dna.csv)")
    parser.add_argument("--n", type=int, default=20_000, help="charges of the model (default: %(default)s)")
    parser.add_argument("--screening", type=float, default=9.6, help="screening length in nm (default: %(default)s)")
    parser.add_argument("--digits", type=float, default=4, help="accuracy of the potentials (default: %(default)s)")
    parser.add_argument("--plot", type=Path, default=Path("screened_electrostatics.png"), help="picture")
    arguments = parser.parse_args(argv)

    path = arguments.file or Path("dna.csv")
    if arguments.file is None:
        write_model(path, arguments.n)
    problem = read_problem(path)
    print(f"{path}: {len(problem.sources):,} charges, {problem.charges.sum():+,.0f} e in all")

    kernel = fl.yukawa(1 / arguments.screening)
    start = time.perf_counter()
    fmm = fl.Fmm(problem.sources, kernel=kernel, digits=arguments.digits)
    potential, gradient = fmm.evaluate(problem.charges, gradient=True)
    print(fmm)
    potential, field = 4 * np.pi * BJERRUM * potential, -4 * np.pi * BJERRUM * gradient
    energy = 0.5 * float(problem.charges @ potential)
    print(
        f"{time.perf_counter() - start:.1f} s; energy {energy:,.0f} k T, potential at a charge {potential.mean():.2f} "
        f"k T / e, largest force {np.linalg.norm(field, axis=1).max():.2f} k T / nm"
    )
    status = 0
    if arguments.file is None:
        axis, across, _ = axis_of(arguments.n // 2)
        near = (axis + DISTANCE * across)[:: max(1, len(axis) // 500)]
        found = (
            4
            * np.pi
            * BJERRUM
            * fl.Fmm(problem.sources, near, kernel, digits=arguments.digits).evaluate(problem.charges)
        )
        expected = cylinder(arguments.screening)
        error = float(np.abs(np.median(found) / expected - 1))
        print(
            f"{DISTANCE:g} nm from the axis {np.median(found):.4f} k T / e, of a straight cylinder {expected:.4f}: "
            f"relative difference {error:.1e}"
        )
        status = 0 if error < ERROR else 1
    if find_spec("matplotlib"):
        draw(problem, kernel, arguments.plot)
        print(f"The picture is in {arguments.plot}")
    return status


if __name__ == "__main__":
    sys.exit(main())
