"""Microswimmers that stir each other: Stokeslets in time steps.

    python examples/stokes_swimmers.py
    python examples/stokes_swimmers.py --n 20000 --steps 40 --plot swimmers.png

A swimmer is a rod that pushes the fluid away at both ends, with two opposite forces, and swims along its axis. The flow
of all others carries and turns it. Swimmers that begin side by side do not stay so: this state is unstable (Saintillan
& Shelley, Physical Review Letters 99 (2007), 058102). First, forces that are spread over a sphere must drag the fluid
inside along with Stokes' speed. Exit status: 0 if that speed is right to three digits and sums agree with direct ones,
1 if not.
"""

from __future__ import annotations

import argparse
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np

import fmmloopy as fl

VISCOSITY = 1.0
SPEED, LENGTH = 0.2, 0.04
"""Of a swimmer, in units of the radius of the ball that all are in, and of a second."""
STRENGTH = 40.0
"""Sum of force times length over all swimmers."""
STEP = 0.1
ERROR = 1e-3
NDRAWN = 3000


def directions(rng: np.random.Generator, n: int) -> np.ndarray:
    """Return random unit vectors: shape (n, 3)."""
    vectors = rng.standard_normal((n, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Return vectors divided by their lengths."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def spiral(n: int) -> np.ndarray:
    """Return points on the unit sphere, each with the same share of its surface: shape (n, 3)."""
    z = 1 - (2 * np.arange(n) + 1) / n
    angle = np.pi * (1 + np.sqrt(5)) * np.arange(n)
    across = np.sqrt(1 - z**2)
    return np.stack([across * np.cos(angle), across * np.sin(angle), z], axis=1)


def drag_error(n: int, digits: float) -> float:
    """Return the relative error of the velocity inside a sphere that is pulled with 6 pi mu a U."""
    velocity = np.array([1.0, -0.5, 0.25])
    inside = 0.6 * np.random.default_rng(3).uniform(-1, 1, (200, 3)) / np.sqrt(3)
    fmm = fl.Fmm(spiral(n), inside, fl.stokeslet(VISCOSITY), digits=digits)
    found = fmm.evaluate(np.tile(6 * np.pi * VISCOSITY * velocity / n, (n, 1)))
    return float(np.linalg.norm(found - velocity) / np.linalg.norm(np.tile(velocity, (200, 1))))


def draw(snapshots: list[tuple[float, np.ndarray, np.ndarray]], order: np.ndarray, path: Path) -> None:
    """Draw a slice of the swimmers at the start and at the end, by their direction, and their order over time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.6), layout="constrained")
    axes = figure.subplots(1, 3)
    for (moment, places, axis), panel in zip((snapshots[0], snapshots[-1]), axes, strict=False):
        slab = np.flatnonzero(np.abs(places[:, 1]) < 0.15)[:NDRAWN]
        x, z = places[slab][:, [0, 2]].T
        along, up = axis[slab][:, [0, 2]].T
        angle = np.arctan2(up, along)
        panel.quiver(x, z, along, up, angle, cmap="twilight", clim=(-np.pi, np.pi), scale=45, width=0.003, pivot="mid")
        panel.set(title=f"t = {moment:.1f}", xlim=(-2, 2), ylim=(-2, 2), aspect="equal", xticks=[], yticks=[])
    axes[2].plot(STEP * np.arange(len(order)), order, color="tab:green")
    axes[2].set(xlabel="time", ylabel="mean direction of all swimmers", ylim=(0, 1.05))
    figure.savefig(path, dpi=110)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=20_000, help="forces, two for each swimmer (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=12, help="time steps (default: %(default)s)")
    parser.add_argument("--digits", type=float, default=3, help="accuracy of the velocities (default: %(default)s)")
    parser.add_argument("--plot", type=Path, default=Path("stokes_swimmers.png"), help="picture")
    arguments = parser.parse_args(argv)

    drag = drag_error(arguments.n, arguments.digits)
    print(f"velocity inside a sphere that is pulled by Stokes' drag: relative error {drag:.1e}")

    rng, n = np.random.default_rng(1851), arguments.n // 2
    places = directions(rng, n) * rng.random((n, 1)) ** (1 / 3)
    axis = unit([0.0, 0.0, 1.0] + 0.2 * rng.standard_normal((n, 3)))
    force = STRENGTH / (n * LENGTH)
    fmm = None
    snapshots, order = [(0.0, places, axis)], [float(np.linalg.norm(axis.mean(axis=0)))]
    start = time.perf_counter()
    for step in range(1, arguments.steps + 1):
        ends = np.concatenate([places + 0.5 * LENGTH * axis, places - 0.5 * LENGTH * axis])
        if fmm is None:
            fmm = fl.Fmm(ends, kernel=fl.stokeslet(VISCOSITY), digits=arguments.digits)
            print(fmm)
        else:
            fmm.update(ends)
        flow = fmm.evaluate(force * np.concatenate([axis, -axis]))
        front, back = flow[:n], flow[n:]
        turn = (front - back) / LENGTH
        # What stretches the rod, the flow of its own ends among it, does not turn it.
        turn -= (turn * axis).sum(axis=1, keepdims=True) * axis
        places = places + STEP * (SPEED * axis + 0.5 * (front + back))
        axis = unit(axis + STEP * turn)
        order.append(float(np.linalg.norm(axis.mean(axis=0))))
        snapshots.append((step * STEP, places, axis))
    seconds = (time.perf_counter() - start) / arguments.steps
    assert fmm is not None
    error = fmm.estimate_error(k=300)
    print(f"{arguments.steps} steps: {seconds:.2f} s a step; relative error of the last velocities {error:.1e}")
    print(f"length of the mean direction: {order[0]:.3f} at first, {order[-1]:.3f} at last")
    if find_spec("matplotlib"):
        draw(snapshots, np.array(order), arguments.plot)
        print(f"The picture is in {arguments.plot}")
    return 0 if drag < ERROR and error < 3 * 10.0**-arguments.digits else 1


if __name__ == "__main__":
    sys.exit(main())
