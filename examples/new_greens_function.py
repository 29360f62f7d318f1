"""Bring your own Green's function: from a formula to potentials, and to a method that converges.

    python examples/new_greens_function.py
    python examples/new_greens_function.py --n 20000 --orders 3 4 5 6 7 8 --plot podolsky.png

The potential of a charge in Podolsky's electrodynamics is (1 - exp(-m r)) / (4 pi r): Coulomb's far away, and finite at
the charge (Podolsky, Physical Review 62 (1942), 68). A string is all that is needed to evaluate it. But one density on
a surface cannot represent its fields, which satisfy an equation of fourth order: errors stop falling with the order,
and `fmmloopy.verify_kernel` shows it. Two densities, of Laplace's and of Yukawa's function, represent both parts.

Exit status: 0 if the potentials agree with the direct sum to the digits that were asked for, 1 if they do not.
"""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np

import fmmloopy as fl

MASS = 5.0
NCHECKED = 2000
WIDTH, NPIXELS = 1.0, 200


def podolsky(mass: float) -> fl.GreensFunction:
    """Return the function, from a string."""
    return fl.GreensFunction("podolsky", "(1 - exp(-m*r))/(4*pi*r)", {"m": mass})


def podolsky_with_two_densities(mass: float) -> fl.GreensFunction:
    """Return the same function, with two densities on surfaces, fitted to two potentials.

    Laplace's part of the field and Yukawa's part are fitted apart. A charge q gives q of one and -q of the other.
    """
    parameters = {"m": mass}
    apart = fl.GreensFunction("apart", (("1/(4*pi*r)", "0"), ("0", "exp(-m*r)/(4*pi*r)")), parameters)
    onto = fl.GreensFunction("onto", (("1/(4*pi*r)",), ("-exp(-m*r)/(4*pi*r)",)), parameters)
    back = fl.GreensFunction("back", (("1/(4*pi*r)", "exp(-m*r)/(4*pi*r)"),), parameters)
    plain = podolsky(mass)
    return fl.GreensFunction("podolsky_2", plain.matrix, parameters, surfaces=fl.Surfaces(apart, onto, back))


def convergence(kernel: fl.GreensFunction, orders: list[int], points: np.ndarray) -> list[float]:
    """Return the error of each order."""
    return list(fl.verify_kernel(kernel, orders, points).errors)


def draw(errors: dict[str, list[float]], orders: list[int], kernel: fl.GreensFunction, path: Path) -> None:
    """Draw errors against the order, and the potential of a few charges, as of Coulomb and of Podolsky."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.4), layout="constrained")
    left, *others = figure.subplots(1, 3)
    for (name, of_order), marker in zip(errors.items(), "os", strict=True):
        left.semilogy(orders, of_order, f"{marker}-", label=name)
    left.set(xlabel="order", ylabel="relative error in the 2-norm", xticks=orders)
    left.legend()
    left.grid(alpha=0.3)
    rng = np.random.default_rng(4)
    charges = np.where(np.arange(12) % 2, 1.0, -1.0)
    places = np.column_stack([rng.uniform(-0.8, 0.8, (12, 2)), np.zeros(12)])
    ticks = np.linspace(-WIDTH, WIDTH, NPIXELS)
    grid = np.stack([*map(np.ravel, np.meshgrid(ticks, ticks)), np.zeros(NPIXELS**2)], axis=1)
    for axes, function, title in zip(others, (fl.laplace(), kernel), ("Coulomb", "Podolsky"), strict=True):
        potential = fl.direct(places, charges, grid, function).reshape(NPIXELS, NPIXELS)
        image = axes.imshow(potential, cmap="RdBu_r", vmin=-0.5, vmax=0.5, origin="lower", extent=(-1, 1, -1, 1))
        axes.set(title=title, xticks=[], yticks=[])
    figure.colorbar(image, ax=others, shrink=0.8, label="potential")
    figure.savefig(path, dpi=110)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=20_000, help="points in a cube (default: %(default)s)")
    parser.add_argument("--digits", type=float, default=5, help="accuracy of the potentials (default: %(default)s)")
    parser.add_argument("--orders", type=int, nargs="+", default=[3, 5, 7], help="of the comparison")
    parser.add_argument("--plot", type=Path, default=Path("new_greens_function.png"), help="picture")
    arguments = parser.parse_args(argv)

    rng = np.random.default_rng(1942)
    points, charges = rng.random((arguments.n, 3)), rng.uniform(-1, 1, arguments.n)
    one, two = podolsky(MASS), podolsky_with_two_densities(MASS)
    some = points[:2000]
    errors = {
        "one density": convergence(one, arguments.orders, some),
        "two densities": convergence(two, arguments.orders, some),
    }
    try:
        fl.Fmm(points, kernel=one, digits=8)
    except ValueError as error:
        print(f"With one density: {error}")

    fmm = fl.Fmm(points, kernel=two, digits=arguments.digits)
    fmm.evaluate(charges)
    print(fmm)
    reached = fmm.estimate_error(k=NCHECKED)
    print(f"relative error {reached:.1e} at {NCHECKED:,} targets, {fmm.error_estimate:.1e} was expected")
    if find_spec("matplotlib"):
        draw(errors, arguments.orders, one, arguments.plot)
        print(f"The picture is in {arguments.plot}")
    return 0 if reached < 10.0**-arguments.digits else 1


if __name__ == "__main__":
    sys.exit(main())
