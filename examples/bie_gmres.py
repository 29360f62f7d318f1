"""A boundary integral equation: the field outside two spheres that are conductors, by GMRES.

    python examples/bie_gmres.py
    python examples/bie_gmres.py --n 20000 --plot conductors.png

Two unit spheres are at potentials 1 and -1. The potential outside is that of a single and a double layer of one
density s, u(x) = integral of (G(x - y) + n(y) . grad_y G(x - y)) s(y). This gives an equation of the second kind on the
surfaces, s / 2 + S s + D s = f (Kress, Linear Integral Equations, chapter 6). The operator is one evaluation with
charges and dipoles, and GMRES needs few steps. The charge of a sphere is compared with the sum of Kelvin's image
charges. Exit status: 0 if it agrees to two digits, 1 if it does not.
"""

from __future__ import annotations

import argparse
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from scipy.sparse.linalg import LinearOperator, gmres

import fmmloopy as fl

DISTANCE = 3.0
"""Of the centres, along the x axis."""
TOLERANCE = 1e-6
ERROR = 1e-2
WIDTH, NPIXELS = 4.0, 240
ON_SPHERE = 1 - 1 / 2
"""Single and double layer of density 1 on a unit sphere, at its surface."""


def spiral(n: int) -> np.ndarray:
    """Return points on the unit sphere, each with the same share of its surface: shape (n, 3)."""
    z = 1 - (2 * np.arange(n) + 1) / n
    angle = np.pi * (1 + np.sqrt(5)) * np.arange(n)
    across = np.sqrt(1 - z**2)
    return np.stack([across * np.cos(angle), across * np.sin(angle), z], axis=1)


def charge_by_images(terms: int = 60) -> float:
    """Return the charge of the sphere at potential 1 from its image charges in both spheres.

    By symmetry, the plane between the spheres is at potential 0.
    """
    charges, places = [4 * np.pi], [0.0]  # places are distances from the centre, towards the plane
    for _ in range(terms):
        beyond = DISTANCE - places[-1]  # distance of the other sphere's image from this centre
        charges.append(charges[-1] / beyond)
        places.append(1 / beyond)
    return float(sum(charges))


def layers(density: np.ndarray, normals: np.ndarray, weight: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the charges of a single layer and the dipole moments of a double layer; a last axis is for vectors."""
    charges = weight * density
    return charges, np.einsum("n...,nk->nk...", charges, normals)


def draw(density: np.ndarray, points: np.ndarray, charges: np.ndarray, dipoles: np.ndarray, path: Path) -> None:
    """Draw the density, and the potential in a plane through both centres."""
    from matplotlib.figure import Figure

    ticks = (np.arange(NPIXELS) + 0.5) / NPIXELS * 2 * WIDTH - WIDTH
    x, y = np.meshgrid(ticks, ticks)
    plane = np.stack([x.ravel(), y.ravel(), np.zeros(x.size)], axis=1)
    potential = fl.Fmm(points, plane, digits=4).evaluate(charges, dipoles).reshape(x.shape)
    for sign in (1, -1):
        # Next to a surface, a sum over its points is not the integral: up to there, the potential is known.
        potential[np.hypot(x + sign * DISTANCE / 2, y) < 1 + 2 * np.sqrt(8 * np.pi / len(points))] = sign
    figure = Figure(figsize=(12, 5.2), layout="constrained")
    left, right = figure.add_subplot(1, 2, 1), figure.add_subplot(1, 2, 2, projection="3d")
    extent = (-WIDTH, WIDTH, -WIDTH, WIDTH)
    left.imshow(potential, cmap="RdBu_r", vmin=-1, vmax=1, origin="lower", extent=extent)
    left.contour(x, y, potential, levels=np.linspace(-0.9, 0.9, 19), colors="k", linewidths=0.5)
    left.set(title="potential", xticks=[], yticks=[])
    every = max(1, len(points) // 20_000)
    most = np.abs(density).max()
    drawn = right.scatter(*points[::every].T, c=density[::every], cmap="RdBu_r", vmin=-most, vmax=most, s=3)
    right.set(title="density", box_aspect=(DISTANCE + 2, 2, 2), xticks=[], yticks=[], zticks=[])
    figure.colorbar(drawn, ax=right, shrink=0.6)
    figure.savefig(path, dpi=110)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=100_000, help="points on both spheres (default: %(default)s)")
    parser.add_argument("--digits", type=float, default=6, help="accuracy of the sums (default: %(default)s)")
    parser.add_argument("--plot", type=Path, default=Path("bie_gmres.png"), help="picture")
    arguments = parser.parse_args(argv)

    half = arguments.n // 2
    sphere, centre = spiral(half), np.array([DISTANCE / 2, 0, 0])
    points, normals = np.concatenate([sphere - centre, sphere + centre]), np.concatenate([sphere, sphere])
    weight = 4 * np.pi / half  # of a point: its share of a sphere's surface
    first = np.arange(2 * half) < half
    potential = np.where(first, 1.0, -1.0)
    fmm = fl.Fmm(points, digits=arguments.digits)
    print(fmm)

    # A sum over the other points leaves out the singularity. What it lacks is known where the density is 1.
    ones = np.stack([first, ~first], axis=1).astype(float)
    sums = fmm.evaluate(*layers(ones, normals, weight))
    diagonal = 1 / 2 + ON_SPHERE - np.where(first, sums[:, 0], sums[:, 1])

    def apply(density: np.ndarray) -> np.ndarray:
        return diagonal * density.ravel() + fmm.evaluate(*layers(density.ravel(), normals, weight))

    residuals: list[float] = []
    operator = LinearOperator((2 * half, 2 * half), matvec=apply, dtype=np.float64)
    start = time.perf_counter()
    density, failed = gmres(operator, potential, rtol=TOLERANCE, callback=residuals.append, callback_type="pr_norm")
    seconds = time.perf_counter() - start
    print(f"{len(residuals)} steps of GMRES in {seconds:.1f} s, residual {residuals[-1]:.1e}")

    found, expected = weight * density[first].sum(), charge_by_images()
    error = abs(found / expected - 1)
    print(f"charge of the first sphere {found:.6f}, by images {expected:.6f}: relative error {error:.1e}")
    if find_spec("matplotlib"):
        draw(density, points, *layers(density, normals, weight), arguments.plot)
        print(f"The picture is in {arguments.plot}")
    return 1 if failed or error > ERROR else 0


if __name__ == "__main__":
    sys.exit(main())
