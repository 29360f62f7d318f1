"""Measure the error of each order for all functions that ship, fit a line, and write the table and the picture.

    python docs/programs/write_convergence.py [NAME ...] [--keep]

Only the named functions are measured, and others are kept as they are. It takes some minutes. With ``--keep`` nothing
is measured: the table takes over new orders and speeds from the pages that ``python -m benchmarks.accuracy`` and
``python -m benchmarks.kernels`` write.
"""

from __future__ import annotations

import argparse
import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import fmmloopy as fl
from fmmloopy.measuring.verify import fit_digits

GENERATED = Path(__file__).resolve().parents[1] / "generated"
MEASURED = GENERATED / "convergence.json"
ACCURACY, SPEEDS = GENERATED / "kernel_accuracy.md", GENERATED / "kernel_speeds.md"
NPOINTS, NCRIT, NCHECKED = 3000, 50, 500
DIGITS = (3, 6, 9)


@dataclass(frozen=True)
class Shipped:
    """A function and what the table says about it.

    Attributes:
        kernel: the function.
        call: how it is made.
        formula: in TeX.
        last: highest order that is measured; matrices of several components take long to decompose.
    """

    kernel: fl.GreensFunction
    call: str
    formula: str
    last: int = 8


FUNCTIONS = {
    each.kernel.name: each
    for each in (
        Shipped(fl.laplace(), "laplace()", r"1 / 4 \pi r"),
        Shipped(fl.yukawa(1.0), "yukawa(decay)", r"e^{-\lambda r} / 4 \pi r"),
        Shipped(fl.helmholtz(3.0), "helmholtz(wavenumber)", r"e^{i k r} / 4 \pi r", 7),
        Shipped(fl.stokeslet(), "stokeslet(viscosity)", r"(\delta_{ij} / r + d_i d_j / r^3) / 8 \pi \mu", 7),
        Shipped(fl.stresslet(), "stresslet()", r"-3 d_i d_j d_k / 4 \pi r^5", 7),
        Shipped(fl.rotlet(), "rotlet(viscosity)", r"q \times d / 8 \pi \mu r^3", 7),
        Shipped(fl.biot_savart(), "biot_savart()", r"q \times d / 4 \pi r^3", 7),
        Shipped(
            fl.kelvin(),
            "kelvin(shear_modulus, poisson_ratio)",
            r"((3 - 4 \nu) \delta_{ij} / r + d_i d_j / r^3) / 16 \pi \mu (1 - \nu)",
            7,
        ),
        Shipped(fl.biharmonic(), "biharmonic()", r"-r / 8 \pi"),
        Shipped(fl.plummer(1e-4), "plummer(softening)", r"1 / \sqrt{r^2 + \varepsilon^2}", 7),
        Shipped(fl.gaussian(6.0), "gaussian(width)", r"e^{-r^2 / w^2}", 6),
    )
}


def measure(kernel: fl.GreensFunction, order: int) -> float:
    """Return the error in the unit cube, for charges of both signs."""
    rng = np.random.default_rng(20040801)
    points, charges = rng.random((NPOINTS, 3)), rng.uniform(-1, 1, (NPOINTS, kernel.nsource_components))
    if kernel.is_complex:
        charges = charges[:, 0] + 1j * charges[:, 1]
    charges = charges[:, 0] if charges.ndim == 2 and charges.shape[1] == 1 else charges
    fmm = fl.Fmm(points, kernel=kernel, order=order, ncrit=NCRIT, precision="double")
    return fmm.estimate_error(charges, k=NCHECKED)


def rows_of(page: Path) -> list[list[str]]:
    """Return the rows of the table in a page, without its head."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.read_text().splitlines() if "|" in line]
    return rows[2:]


def chosen_orders(page: Path) -> dict[str, dict[int, str]]:
    """Return the orders that digits led to, by function and digits; "refused" where there was none."""
    found: dict[str, dict[int, str]] = {}
    for name, digits, order, *_ in rows_of(page):
        found.setdefault(name, {})[int(digits)] = order or "refused"
    return found


def speeds(page: Path) -> dict[str, dict[str, str]]:
    """Return the times relative to Laplace's, by function and output."""
    found: dict[str, dict[str, str]] = {}
    for name, output, _, slower, *_ in rows_of(page):
        found.setdefault(name, {})[output] = slower
    return found


def table(measured: dict[str, dict[int, float]]) -> str:
    """Return the table of all functions."""
    lines = [
        "| function | $G$ | homogeneity | parity | order for 3, 6, 9 digits | digits at order $p$ "
        "| time of potentials, gradients, Laplace = 1 |",
        "|---|---|---|---|---|---|---|",
    ]
    orders_of, times_of = chosen_orders(ACCURACY), speeds(SPEEDS)
    for name, errors in measured.items():
        each = FUNCTIONS[name]
        slope, offset = fit_digits(sorted(errors), [errors[order] for order in sorted(errors)])
        homogeneity = "–" if each.kernel.homogeneity is None else str(each.kernel.homogeneity)
        parity = {1: "even", -1: "odd", None: "–"}[each.kernel.parity]
        orders = ", ".join(orders_of[name][digits] for digits in DIGITS)
        fit = f"${slope:.2f}\\, p {offset:+.2f}$"
        times = ", ".join(times_of[name][output] for output in ("potentials", "gradients"))
        lines.append(f"| `{each.call}` | ${each.formula}$ | {homogeneity} | {parity} | {orders} | {fit} | {times} |")
    return "\n".join(lines)


def errors_table(measured: dict[str, dict[int, float]]) -> str:
    """Return the table of the errors of each order."""
    orders = sorted({order for errors in measured.values() for order in errors})
    lines = ["| function | " + " | ".join(map(str, orders)) + " |", "|---" * (len(orders) + 1) + "|"]
    for name, errors in measured.items():
        values = " | ".join(f"{errors[order]:.1e}" if order in errors else "" for order in orders)
        lines.append(f"| {name} | {values} |")
    return "\n".join(lines)


def draw(measured: dict[str, dict[int, float]], path: Path) -> None:
    """Draw the errors of all functions against the order."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.2), layout="constrained")
    axes = figure.subplots()
    for (name, errors), marker in zip(measured.items(), "osv^<>DPX*h", strict=False):
        axes.semilogy(
            sorted(errors), [errors[order] for order in sorted(errors)], f"{marker}-", label=name, markersize=5
        )
    axes.set(xlabel="order", ylabel="relative error in the 2-norm")
    axes.grid(alpha=0.3)
    axes.legend(ncols=1, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path, dpi=110)


def page(measured: dict[str, dict[int, float]]) -> str:
    """Return the page."""
    return (
        f"{table(measured)}\n\n"
        "Orders are those that `digits=` chose, the highest for the point sets of the [table of accuracy](#accuracy), "
        "whose parameters they have; times are those of the [table of speeds](#speed).\n\n"
        f"Digits at order $p$ are a line through the errors of {NPOINTS:,} points in the unit cube with charges of "
        f"both signs, ncrit {NCRIT}, float64. Here $\\lambda = 1$, $k = 3$, $\\nu = 1/4$, $\\varepsilon = 10^{{-4}}$ "
        "and $w = 6$. Plummer's function converges as Laplace's does as long as boxes are much wider than "
        "$\\varepsilon$; beyond that it stalls, and more digits are refused.\n\n"
        "![Errors against the order](generated/images/convergence.png)\n\n"
        f"Relative errors in the 2-norm by order:\n\n{errors_table(measured)}\n"
    )


def read_measured() -> dict[str, dict[int, float]]:
    """Return the errors that are kept, by function and order."""
    kept = json.loads(MEASURED.read_text()) if MEASURED.exists() else {}
    return {name: {int(order): error for order, error in errors.items()} for name, errors in kept.items()}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", metavar="NAME", help="functions to measure (default: all)")
    parser.add_argument("--keep", action="store_true", help="measure nothing")
    arguments = parser.parse_args(argv)
    measured = read_measured()
    for name in () if arguments.keep else arguments.names or FUNCTIONS:
        measured[name] = {}
        for order in range(3, FUNCTIONS[name].last + 1):
            measured[name][order] = measure(FUNCTIONS[name].kernel, order)
            print(f"{name} {order} {measured[name][order]:.1e}", flush=True)
        MEASURED.write_text(json.dumps(measured, indent=1) + "\n")
    measured = {name: measured[name] for name in FUNCTIONS if name in measured}
    (GENERATED / "convergence.md").write_text(page(measured))
    if not arguments.keep:
        draw(measured, GENERATED / "images" / "convergence.png")


if __name__ == "__main__":
    warnings.filterwarnings("ignore", ".* may not suit the method", UserWarning)
    main()
