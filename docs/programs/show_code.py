"""Print the names that P2P offers to recipes, and the code of each step of a recipe."""

from pathlib import Path

import loopy as lp
import numpy as np

import fmmloopy as fl
from fmmloopy.operators import math_kernel
from fmmloopy.recipes import apply_recipe

HERE = Path(__file__).parent


def main() -> None:
    knl = math_kernel("p2p", fl.laplace(), order=6, dtype=np.float64)
    print(knl)
    for step in apply_recipe(fl.load_recipes(HERE / "my_cpu_3.py"), "p2p", knl):
        print(f"// after {step.name!r}")
        print(lp.generate_code_v2(step.kernel).device_code())


if __name__ == "__main__":
    main()
