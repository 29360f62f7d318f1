"""Two star clusters that collide: the fast multipole method in a leapfrog, with `Fmm.update` in every step.

    python examples/nbody_leapfrog.py
    python examples/nbody_leapfrog.py --n 20000 --steps 150 --plot clusters.png

The stars are points of equal mass with Plummer's softened potential, in units in which the gravitational constant and
the mass of all stars are 1. Exit status: 0 if the energy changes by less than a hundredth, 1 if it does not.
"""

from __future__ import annotations

import argparse
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np

import fmmloopy as fl

SOFTENING = 0.01
NCRIT = 300
"""Leaves should be much wider than the softening, because surfaces do not represent this function in narrower ones."""
STEP = 0.05
DISTANCE, OFFSET = 2.0, 1.0
"""Of the centres of both clusters at the start, along the x axis and the y axis."""
SPEED = 0.35
"""Of each cluster, along the x axis."""
MOST_DRIFT = 1e-2
"""Close encounters take less time than a step. With direct sums the energy changes as much."""
CORNER = 12.0
"""Two points without mass are at the corners of a cube of this half width, so that the tree always has the same root.
Translation tables of functions that are not homogeneous depend on the widths of boxes, and are used again then."""
NSNAPSHOTS = 4
NDRAWN = 20_000


def directions(rng: np.random.Generator, n: int) -> np.ndarray:
    """Return random unit vectors: shape (n, 3)."""
    vectors = rng.standard_normal((n, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def cluster(rng: np.random.Generator, n: int, mass: float, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Draw positions and velocities of a Plummer sphere in equilibrium, each of shape (n, 3).

    Aarseth, Henon & Wielen, Astronomy and Astrophysics 37 (1974), 183, appendix.
    """
    inside = rng.uniform(0, 0.97, n)  # share of the mass within the star's radius
    r = (inside ** (-2 / 3) - 1) ** -0.5
    fractions = np.empty(0)  # of the escape velocity, with density q^2 (1 - q^2)^(7/2)
    while len(fractions) < n:
        q, height = rng.random(n), 0.1 * rng.random(n)
        fractions = np.append(fractions, q[height < q**2 * (1 - q**2) ** 3.5])
    speed = fractions[:n] * np.sqrt(2) * (1 + r**2) ** -0.25
    return radius * r[:, None] * directions(rng, n), np.sqrt(mass / radius) * speed[:, None] * directions(rng, n)


def collision(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return positions and velocities of two clusters on their way to each other, each of shape (n, 3)."""
    rng = np.random.default_rng(1911)
    first, second = (cluster(rng, count, 0.5, 0.5) for count in (n // 2, n - n // 2))
    place, velocity = np.array([DISTANCE, OFFSET, 0]) / 2, np.array([SPEED, 0, 0])
    positions = np.concatenate([first[0] - place, second[0] + place])
    velocities = np.concatenate([first[1] + velocity, second[1] - velocity])
    return positions, velocities


def draw(snapshots: list[tuple[float, np.ndarray]], times: np.ndarray, drift: np.ndarray, path: Path) -> None:
    """Draw the stars at some times, and the change of the energy."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 7), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(3, 2))
    for axes, (moment, positions) in zip(above.subplots(1, NSNAPSHOTS), snapshots, strict=True):
        half, every = len(positions) // 2, max(1, len(positions) // NDRAWN)
        for stars, colour in ((positions[:half:every], "tab:blue"), (positions[half::every], "tab:orange")):
            axes.scatter(stars[:, 0], stars[:, 1], s=0.5, color=colour, alpha=0.4, linewidths=0)
        axes.set(title=f"t = {moment:.1f}", xlim=(-3.5, 3.5), ylim=(-3.5, 3.5), aspect="equal", xticks=[], yticks=[])
    axes = below.subplots()
    axes.plot(times, drift, color="tab:green")
    axes.axhline(0, color="k", linewidth=0.5)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    axes.set(xlabel="time", ylabel="relative change of the energy", xlim=(times[0], times[-1]))
    figure.savefig(path, dpi=110)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=50_000, help="stars (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=60, help="steps of the leapfrog (default: %(default)s)")
    parser.add_argument("--digits", type=float, default=3, help="accuracy of the potentials (default: %(default)s)")
    parser.add_argument("--plot", type=Path, default=Path("nbody_leapfrog.png"), help="picture")
    arguments = parser.parse_args(argv)

    positions, velocities = collision(arguments.n)
    masses = np.full(arguments.n, 1 / arguments.n)
    corners = np.array([[-CORNER] * 3, [CORNER] * 3])
    all_masses = np.append(masses, [0, 0])
    fmm = fl.Fmm(
        np.concatenate([positions, corners]), positions, fl.plummer(SOFTENING), digits=arguments.digits, ncrit=NCRIT
    )
    print(fmm)

    def energy(potentials: np.ndarray) -> float:
        """Return the energy of all stars; their potential energy is negative."""
        return float(0.5 * masses @ ((velocities**2).sum(axis=1) - potentials))

    # The potential of gravity is -1 / r, so accelerations are gradients of what is evaluated.
    potentials, accelerations = fmm.evaluate(all_masses, gradient=True)
    energies, snapshots = [energy(potentials)], [(0.0, positions.copy())]
    seconds = {"update": 0.0, "evaluate": 0.0}
    shown = set(np.linspace(0, arguments.steps, NSNAPSHOTS).round().astype(int)[1:].tolist())
    for step in range(1, arguments.steps + 1):
        velocities += 0.5 * STEP * accelerations
        positions += STEP * velocities
        start = time.perf_counter()
        fmm.update(np.concatenate([positions, corners]), positions)
        seconds["update"] += time.perf_counter() - start
        start = time.perf_counter()
        potentials, accelerations = fmm.evaluate(all_masses, gradient=True)
        seconds["evaluate"] += time.perf_counter() - start
        velocities += 0.5 * STEP * accelerations
        energies.append(energy(potentials))
        if step in shown:
            snapshots.append((step * STEP, positions.copy()))

    drift = np.array(energies) / energies[0] - 1
    for what, total in seconds.items():
        print(f"{what}: {total / arguments.steps:.3f} s a step")
    print(f"energy {energies[0]:.6f} at first; it changes by {np.abs(drift).max():.1e} at most")
    if find_spec("matplotlib"):
        draw(snapshots, STEP * np.arange(arguments.steps + 1), drift, arguments.plot)
        print(f"The picture is in {arguments.plot}")
    return 0 if np.abs(drift).max() < MOST_DRIFT else 1


if __name__ == "__main__":
    sys.exit(main())
