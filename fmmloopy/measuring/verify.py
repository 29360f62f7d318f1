"""The error of whole evaluations with a Green's function, order by order."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from fmmloopy.common.arguments import check_count
from fmmloopy.common.sizes import FIRST_ORDER, LAST_ORDER
from fmmloopy.execution.device import Device
from fmmloopy.fmm import Fmm
from fmmloopy.greens import GreensFunction
from fmmloopy.inputs import check_kernel, check_points
from fmmloopy.measuring.plots import check_plot, draw_convergence
from fmmloopy.vectors import draw_charges

NPOINTS, NCRIT, NCHECKED, SEED = 5000, 50, 500, 20040801
"""Points of the standard set, points in a leaf, targets that are compared with the direct sum, and the random seed."""

ROUNDING = 1e-13
"""Errors below this are rounding, and not part of the fit."""

FEWEST_DIGITS = 0.5
"""Digits per order below which errors hardly fall. Functions that suit the method have 0.8 or more; r, whose fields
need two densities on a surface, has 0.4 with one, and Plummer's has none in boxes as wide as its softening."""


@dataclass(frozen=True)
class Convergence:
    """Errors of whole evaluations against the order; ``str()`` gives a table.

    Attributes:
        kernel: name of the Green's function.
        points: what the points are.
        orders: the orders, ascending.
        errors: relative errors in the 2-norm, for charges of both signs.
        expected: what `Fmm.error_estimate` says for each order.
        digits_per_order: slope of the line fitted to the digits; nan for fewer than two errors above rounding.
        offset: the digits of that line at order 0.
    """

    kernel: str
    points: str
    orders: tuple[int, ...]
    errors: tuple[float, ...]
    expected: tuple[float, ...]
    digits_per_order: float
    offset: float

    def __str__(self) -> str:
        rows = zip(self.orders, self.errors, self.expected, strict=True)
        return "\n".join([*_heading(self.kernel, self.points), *(_line(*row) for row in rows), self.fit])

    @property
    def fit(self) -> str:
        """The fitted line in words."""
        if math.isnan(self.digits_per_order):
            return "fit: none, for fewer than two errors above rounding"
        line = f"fit: error = 10^-({self.digits_per_order:.2f} p {self.offset:+.2f}), p the order"
        if self.digits_per_order > FEWEST_DIGITS and np.isfinite(self.errors).all():
            return line
        return (
            f"{line}; errors hardly fall, as surfaces do not represent the function: give it Surfaces, or use "
            "fmmloopy.direct"
        )

    def plot(self, path: str | Path) -> None:
        """Draw errors, expected errors and the fitted line.

        Args:
            path: a .png, .pdf or .svg file.

        Raises:
            MissingPackageError: matplotlib is not installed.
            ValueError: the path is invalid.
        """
        draw_convergence(self, Path(path))


def verify_kernel(
    kernel: GreensFunction,
    orders: Sequence[int] = (3, 4, 5, 6, 7, 8),
    points: ArrayLike | None = None,
    device: str | Device | None = None,
    plot: str | Path | None = None,
    echo: Callable[[str], None] = print,
) -> Convergence:
    """Print the error of the whole method for rising orders, compared with the direct sum, and fit a line to it.

    Code is generated for each order, which takes seconds once.

    Args:
        kernel: the Green's function.
        orders: points per edge of the surfaces, each 2 to 16.
        points: shape (n, 3), sources and targets. None for 5000 points in the unit cube; for functions that are not
            homogeneous, errors depend on the unit of length, so give points like your own.
        device: as for `Fmm`.
        plot: a .png, .pdf or .svg file for a picture; None for no picture.
        echo: prints a line.

    Returns:
        The errors, the expected ones and the fit.

    Raises:
        MissingPackageError: a picture is wanted and matplotlib is not installed.
        ValueError: an invalid argument.
    """
    kernel = check_kernel(kernel)
    chosen = sorted({check_count(order, "orders", FIRST_ORDER, LAST_ORDER) for order in orders})
    if not chosen:
        raise ValueError("orders is empty, expected orders such as (3, 4, 5, 6)")
    if plot is not None:
        check_plot(Path(plot))
    rng = np.random.default_rng(SEED)
    where = rng.random((NPOINTS, 3)) if points is None else check_points(points, "points")
    what = f"{len(where):,} points{' in the unit cube' if points is None else ''}"
    values = draw_charges(rng, kernel, len(where))
    for line in _heading(kernel.name, what):
        echo(line)
    errors, expected = [], []
    for order in chosen:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".* (may not suit the method|is not finite)", UserWarning)
            fmm = Fmm(where, kernel=kernel, device=device, order=order, ncrit=NCRIT)
        errors.append(fmm.estimate_error(values, k=NCHECKED))
        expected.append(fmm.error_estimate)
        echo(_line(order, errors[-1], expected[-1]))
    found = Convergence(kernel.name, what, tuple(chosen), tuple(errors), tuple(expected), *fit_digits(chosen, errors))
    echo(found.fit)
    if plot is not None:
        found.plot(plot)
    return found


def fit_digits(orders: Sequence[int], errors: Sequence[float]) -> tuple[float, float]:
    """Return slope and offset of the digits as a line in the order, without errors that are rounding; nan if none."""
    above = [(p, -math.log10(e)) for p, e in zip(orders, errors, strict=True) if math.isfinite(e) and e > ROUNDING]
    if len(above) < 2:
        return math.nan, math.nan
    slope, offset = np.polyfit([p for p, _ in above], [digits for _, digits in above], 1)
    return float(slope), float(offset)


def _heading(kernel: str, points: str) -> list[str]:
    return [f"{kernel}, {points}: relative error in the 2-norm", "order     error  expected"]


def _line(order: int, error: float, expected: float) -> str:
    return f"{order:5}  {error:8.1e}  {expected:8.1e}"
