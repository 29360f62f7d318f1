"""Eight vectors of charges at once: spherical harmonics on a sphere, and their potentials, which are known.

    python examples/many_right_hand_sides.py
    python examples/many_right_hand_sides.py --n 20000 --plot harmonics.png

A density Y_l on the unit sphere has the potential Y_l / (2 l + 1) times r^l inside, and r^-(l + 1) outside.
Exit status: 0 if the potentials agree with this to three digits, 1 if they do not.
"""

from __future__ import annotations

import argparse
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np

import fmmloopy as fl

HARMONICS = {
    "x": (1, lambda x, y, z: x),
    "y": (1, lambda x, y, z: y),
    "z": (1, lambda x, y, z: z),
    "x y": (2, lambda x, y, z: x * y),
    "y z": (2, lambda x, y, z: y * z),
    "z x": (2, lambda x, y, z: z * x),
    "x$^2$ - y$^2$": (2, lambda x, y, z: x**2 - y**2),
    "3 z$^2$ - 1": (2, lambda x, y, z: 3 * z**2 - 1),
}
"""Harmonics of degree l, for points on the unit sphere."""

WIDTH = 2.0  # half of the plane's
NPIXELS = 160


def spiral(n: int) -> np.ndarray:
    """Return points on the unit sphere, each with the same share of its surface: shape (n, 3)."""
    z = 1 - (2 * np.arange(n) + 1) / n
    angle = np.pi * (1 + np.sqrt(5)) * np.arange(n)
    across = np.sqrt(1 - z**2)
    return np.stack([across * np.cos(angle), across * np.sin(angle), z], axis=1)


def plane() -> np.ndarray:
    """Return points of a plane through the centre on which no harmonic vanishes: shape (NPIXELS^2, 3)."""
    right, up = np.linalg.qr(np.array([[1.0, 0.3, 0.2], [0.1, 0.5, 1.0]]).T)[0].T
    ticks = np.linspace(-WIDTH, WIDTH, NPIXELS)
    return (ticks[:, None, None] * up + ticks[None, :, None] * right).reshape(-1, 3)


def exact(targets: np.ndarray) -> np.ndarray:
    """Return the potentials of all harmonics: shape (ntargets, 8)."""
    r = np.linalg.norm(targets, axis=1)
    found = []
    for degree, harmonic in HARMONICS.values():
        radial = np.where(r < 1, r**degree, r ** -(degree + 1.0)) / (2 * degree + 1)
        found.append(radial * harmonic(*(targets / r[:, None]).T))
    return np.stack(found, axis=1)


def draw(potentials: np.ndarray, titles: list[str], seconds: tuple[float, float], path: Path) -> None:
    """Draw each potential on the plane, with the sphere."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Circle

    figure = Figure(figsize=(12, 6.6), layout="constrained")
    figure.suptitle(
        f"Eight densities on a sphere: one evaluation of all takes {seconds[1]:.2f} s, one after the other "
        f"{seconds[0]:.2f} s",
        size=14,
    )
    for axes, title, values in zip(figure.subplots(2, 4).flat, titles, potentials.T, strict=True):
        most = np.abs(values).max()
        image = values.reshape(NPIXELS, NPIXELS)
        extent = (-WIDTH, WIDTH, -WIDTH, WIDTH)
        axes.imshow(image, cmap="RdBu_r", vmin=-most, vmax=most, origin="lower", extent=extent)
        levels = np.linspace(-most, most, 14)
        axes.contour(image, levels=levels, extent=extent, colors="k", linewidths=0.4)
        axes.add_patch(Circle((0, 0), 1, fill=False, linewidth=1.5))
        axes.set(title=title, xticks=[], yticks=[])
    figure.savefig(path, dpi=110)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=100_000, help="sources on the sphere (default: %(default)s)")
    parser.add_argument("--digits", type=float, default=6, help="accuracy of the sums (default: %(default)s)")
    parser.add_argument("--plot", type=Path, default=Path("many_right_hand_sides.png"), help="picture")
    arguments = parser.parse_args(argv)

    sources, targets = spiral(arguments.n), plane()
    densities = np.stack([harmonic(*sources.T) for _, harmonic in HARMONICS.values()], axis=1)
    charges = densities * (4 * np.pi / arguments.n)  # each point has this share of the surface
    fmm = fl.Fmm(sources, targets, digits=arguments.digits, vectors=8)

    fmm.evaluate(charges), fmm.evaluate(charges[:, 0])  # the first time, code is generated
    start = time.perf_counter()
    alone = np.stack([fmm.evaluate(vector) for vector in charges.T], axis=1)
    middle = time.perf_counter()
    together = fmm.evaluate(charges)
    seconds = middle - start, time.perf_counter() - middle
    print(f"{arguments.n:,} sources, {len(targets):,} targets, 8 vectors of charges: shape {together.shape}")
    print(f"one after the other {seconds[0]:.2f} s, at once {seconds[1]:.2f} s")
    difference = np.linalg.norm(together - alone) / np.linalg.norm(alone)
    print(f"they differ by {difference:.1e}; from the direct sum, by {fmm.estimate_error(charges):.1e}")

    # Next to the sphere, a sum over points is not the integral.
    away = np.abs(np.linalg.norm(targets, axis=1) - 1) > 10 / np.sqrt(arguments.n)
    expected = exact(targets)[away]
    error = np.linalg.norm(together[away] - expected) / np.linalg.norm(expected)
    print(f"relative error against the exact potentials, away from the sphere: {error:.1e}")
    if find_spec("matplotlib"):
        draw(together, list(HARMONICS), seconds, arguments.plot)
        print(f"The picture is in {arguments.plot}")
    return 0 if error < 1e-3 else 1


if __name__ == "__main__":
    sys.exit(main())
