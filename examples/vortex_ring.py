"""Two vortex rings that leapfrog: Biot-Savart's law with smoothed cores, a Green's function of the example's own.

    python examples/vortex_ring.py
    python examples/vortex_ring.py --steps 36 --plot rings.png

Each ring is a bundle of filaments of points. A filament moves with the fluid, and the vorticity of a point is the
circulation times the part of the filament that belongs to it. Cores are smoothed, so velocities are finite: u = q x d
(r^2 + 5 s^2 / 2) / (4 pi (r^2 + s^2)^(5/2)); Winckelmans & Leonard, Journal of Computational Physics 109 (1993), 247.
At a few s this is Biot-Savart's law, so surfaces have the densities of that function.

First, the speed of a single filament is compared with circulation / (4 pi R) (ln(8 R / s) - 1/2), from the integral
over a thin ring. Exit status: 0 if it agrees to three digits, 1 if it does not.
"""

from __future__ import annotations

import argparse
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np

import fmmloopy as fl

SMOOTHING, THIN = 0.08, 0.01
"""Of the rings, and of the filament whose speed is known."""
RADIUS, CORE, DISTANCE = 1.0, 0.12, 0.7
"""Of each ring, of its bundle, and between both rings at the start."""
FILAMENTS = 10
"""In each ring."""
STEP = 0.1
NCRIT = 400
"""Leaves should be wider than a few times the smoothing, where the function is that of Biot-Savart."""
ORDER = 5
ERROR = 1e-3
NSNAPSHOTS = 4
CORNER = 8.0
"""Two points without vorticity are at the corners of a cube of this half width, so that the tree always has the same
root, and no table is built twice."""


def smoothed_biot_savart(smoothing: float) -> fl.GreensFunction:
    """Return the velocity of smoothed points of vorticity; on surfaces, densities are those of Biot-Savart's law."""
    plain = fl.biot_savart()
    factor = "(r*r + 2.5*s*s)/((r*r + s*s)*(r*r + s*s)*sqrt(r*r + s*s))"
    entries = (("0", "d2", "-1*d1"), ("-1*d2", "0", "d0"), ("d1", "-1*d0", "0"))
    matrix = tuple(tuple(e if e == "0" else f"{e}*{factor}" for e in row) for row in entries)
    parameters = {"s": smoothing}
    return fl.GreensFunction("smoothed_biot_savart", matrix, parameters, plain.scaling, surfaces=plain.surfaces)


def ring(n: int, radius: float, height: float) -> np.ndarray:
    """Return points of a circle around the z axis, shape (n, 3)."""
    angle = 2 * np.pi * np.arange(n) / n
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), np.full(n, height)], axis=1)


def bundle(n: int, height: float) -> np.ndarray:
    """Return filaments that fill a ring's core evenly, shape (FILAMENTS, n, 3)."""
    number = np.arange(FILAMENTS)
    across, angle = CORE * np.sqrt((number + 0.5) / FILAMENTS), np.pi * (1 + np.sqrt(5)) * number
    places = zip(across * np.cos(angle), across * np.sin(angle), strict=True)
    return np.stack([ring(n, RADIUS + outward, height + up) for outward, up in places])


def vorticity(filaments: np.ndarray, circulation: float) -> np.ndarray:
    """Return circulation times half the way between the two neighbours of each point, in the shape of the filaments."""
    return circulation * (np.roll(filaments, -1, axis=-2) - np.roll(filaments, 1, axis=-2)) / 2


def speed_of_a_filament(n: int) -> tuple[float, float]:
    """Return the speed of a single filament, and what the integral over a thin ring gives."""
    points = ring(n, RADIUS, 0.0)
    fmm = fl.Fmm(points, kernel=smoothed_biot_savart(THIN), order=ORDER, ncrit=NCRIT)
    print(fmm)
    expected = (np.log(8 * RADIUS / THIN) - 1 / 2) / (4 * np.pi * RADIUS)
    return float(fmm.evaluate(vorticity(points, 1.0))[:, 2].mean()), float(expected)


def draw(snapshots: list[tuple[float, np.ndarray]], path: Path) -> None:
    """Draw the filaments from the side, and where they cross a plane through the axis."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.4), layout="constrained")
    axes = figure.subplots(2, NSNAPSHOTS, height_ratios=(3, 1))
    low, high = snapshots[0][1][..., 2].min() - 0.5, snapshots[-1][1][..., 2].max() + 0.5
    for (moment, filaments), above, below in zip(snapshots, *axes, strict=True):
        for first, colour in ((0, "tab:blue"), (FILAMENTS, "tab:orange")):
            for filament in filaments[first : first + FILAMENTS]:
                x, y, z = np.append(filament, filament[:1], axis=0).T
                above.plot(z + 0.35 * y, x, color=colour, linewidth=0.6)  # seen at an angle
                below.plot(filament[0, 2], np.hypot(*filament[0, :2]), ".", color=colour, markersize=4)
        above.set(title=f"t = {moment:.1f}", xlim=(low, high), ylim=(-1.6, 1.6), aspect="equal", xticks=[], yticks=[])
        below.set(xlim=(low, high), ylim=(0.4, 1.5), aspect="equal", xlabel="z")
    axes[1][0].set_ylabel("distance from the axis")
    figure.savefig(path, dpi=110)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=20_000, help="points on both rings (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=8, help="time steps (default: %(default)s)")
    parser.add_argument("--plot", type=Path, default=Path("vortex_ring.png"), help="picture")
    arguments = parser.parse_args(argv)

    kernel = smoothed_biot_savart(SMOOTHING)
    found, expected = speed_of_a_filament(max(arguments.n // 4, 2000))
    error = abs(found / expected - 1)
    print(f"speed of a filament {found:.6f}, of a thin ring {expected:.6f}: relative difference {error:.1e}")

    count = max(arguments.n // (2 * FILAMENTS), 50)
    filaments = np.concatenate([bundle(count, 0.0), bundle(count, DISTANCE)])
    corners = np.array([[-CORNER] * 3, [CORNER] * 3])
    fmm = None
    seconds = 0.0

    def velocity(filaments: np.ndarray) -> np.ndarray:
        nonlocal fmm, seconds
        start = time.perf_counter()
        points = filaments.reshape(-1, 3)
        sources = np.concatenate([points, corners])
        charges = np.concatenate([vorticity(filaments, 1 / FILAMENTS).reshape(-1, 3), np.zeros((2, 3))])
        if fmm is None:
            fmm = fl.Fmm(sources, points, kernel, order=ORDER, ncrit=NCRIT)
        else:
            fmm.update(sources, points)
        velocities = fmm.evaluate(charges).reshape(filaments.shape)
        seconds += time.perf_counter() - start
        return velocities

    snapshots = [(0.0, filaments)]
    shown = set(np.linspace(0, arguments.steps, NSNAPSHOTS).round().astype(int)[1:].tolist())
    for step in range(1, arguments.steps + 1):  # the midpoint rule
        middle = filaments + 0.5 * STEP * velocity(filaments)
        filaments = filaments + STEP * velocity(middle)
        if step in shown:
            snapshots.append((step * STEP, filaments))
    print(f"{arguments.steps} steps with {2 * FILAMENTS * count:,} points: {seconds / arguments.steps:.2f} s a step")
    impulse = [0.5 * np.cross(f, vorticity(f, 1.0)).sum(axis=(0, 1))[2] for f in (snapshots[0][1], filaments)]
    print(f"the impulse of the rings changes by {abs(impulse[1] / impulse[0] - 1):.1e}")
    if find_spec("matplotlib"):
        draw(snapshots, arguments.plot)
        print(f"The picture is in {arguments.plot}")
    return 0 if error < ERROR else 1


if __name__ == "__main__":
    sys.exit(main())
