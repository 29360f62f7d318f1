"""Several devices: points on a sphere are divided among them, and moved until all take equally long.

    python examples/many_devices.py
    python examples/many_devices.py --devices pocl intel --n 100000 --plot devices.png

Without ``--devices``, it divides the cores of the default device between two, if they can be divided, or else uses it
twice. Exit status: 0 if potentials agree with those of one device to three digits, 1 if they do not.
"""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np

import fmmloopy as fl
from fmmloopy.execution.devices import choose_device, choose_devices

ROUNDS = 4
"""How often points are moved."""

DRAWN = 20_000


def default_devices() -> list[fl.Device]:
    """Return two halves of the default device, or twice the whole."""
    device = choose_device()
    try:
        return list(choose_devices(f"{device.description}/2"))
    except fl.DeviceError:
        return [device, device]


def busy(fmm: fl.Fmm) -> list[float]:
    """Return the seconds that the operators of each part took in the last evaluation."""
    stages = {"tree", "choice", "lists", "tables", "setup", "exchange", "evaluate"}
    return [sum(seconds for name, seconds in part.timings.items() if name not in stages) for part in fmm.parts]


def draw(fmm: fl.Fmm, rounds: list[list[float]], names: list[str], path: Path) -> None:
    """Draw which part has which points, and the seconds of the parts in each round."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left = figure.add_subplot(1, 2, 1, projection="3d")
    right = figure.add_subplot(1, 2, 2)
    for number, part in enumerate(fmm.parts):
        points = part.tree.targets[:, :: max(1, part.tree.ntargets * len(names) // DRAWN)]
        left.scatter(*points, s=1, label=f"part {number}: {part.tree.ntargets:,} points")
    left.set_box_aspect((1, 1, 1), zoom=1.35)
    left.set_axis_off()
    left.legend(loc="lower center", markerscale=8)
    width = 0.8 / len(names)
    for number, name in enumerate(names):
        places = np.arange(len(rounds)) + (number - (len(names) - 1) / 2) * width
        right.bar(places, [times[number] for times in rounds], width, label=f"part {number}: {name}")
    right.set_xticks(range(len(rounds)), ["at first", *(f"moved {count} x" for count in range(1, len(rounds)))])
    right.set_ylabel("seconds of the operators")
    right.set_title("One evaluation")
    right.legend()
    figure.savefig(path, dpi=150)


def main() -> int:
    """Divide, evaluate, move and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=200_000, help="number of points (default: %(default)s)")
    parser.add_argument("--devices", nargs="+", help="one for each part, such as pocl intel")
    parser.add_argument("--plot", type=Path, default=Path("many_devices.png"), help="picture (default: %(default)s)")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    points = rng.standard_normal((arguments.n, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    charges = rng.uniform(-1, 1, arguments.n)

    many = fl.Fmm(points, digits=4, devices=arguments.devices or default_devices())
    print(many)
    rounds = []
    for _ in range(ROUNDS):
        many.evaluate(charges)  # late compilation, and caches of the processor
        best = None
        for _ in range(3):
            potentials = many.evaluate(charges)
            best = busy(many) if best is None else np.minimum(best, busy(many))
        rounds.append(list(best))
        print(", ".join(f"part {number}: {seconds:.3f} s" for number, seconds in enumerate(best)))
        if len(rounds) == ROUNDS or not many.rebalance():
            break
    one = fl.Fmm(points, digits=4, ncrit=many.ncrit, m2l=many.m2l).evaluate(charges)
    difference = np.linalg.norm(potentials - one) / np.linalg.norm(one)
    print(f"relative difference from one device: {difference:.1e}")
    if find_spec("matplotlib"):
        draw(many, rounds, [device.name for device in many.devices], arguments.plot)
        print(f"picture: {arguments.plot}")
    return 0 if difference < 1e-3 else 1


if __name__ == "__main__":
    sys.exit(main())
