"""Time P2P as each version of a book of recipes makes it, and compare the results with the sequential kernels'.

python time_recipes.py [part of a device's description]
"""

import sys
from pathlib import Path

import numpy as np

import fmmloopy as fl

HERE = Path(__file__).parent


def main(device: str | None = None) -> None:
    random = np.random.default_rng(0)
    points = random.random((50_000, 3))
    charges = random.uniform(-1, 1, len(points))
    reference = fl.Fmm(points, order=4, device=device, recipes="sequential").evaluate(charges)
    print(f"{'':15} P2P, seconds   against the first   difference")
    first = 0.0
    for version in range(4):
        fmm = fl.Fmm(points, order=4, device=device, recipes=HERE / f"my_cpu_{version}.py")
        fmm.evaluate(charges)  # the first evaluation includes the device's own compilation
        seconds = []
        for _ in range(10):
            potentials = fmm.evaluate(charges)
            seconds.append(fmm.timings["p2p"])
        difference = np.linalg.norm(potentials - reference) / np.linalg.norm(reference)
        first = first or min(seconds)
        print(f"my_cpu_{version}.py     {min(seconds):10.3f}   {first / min(seconds):17.1f}   {difference:10.0e}")


if __name__ == "__main__":
    main(*sys.argv[1:])
