"""From wanted digits to order, precision and tolerances: tables of what was measured."""

from __future__ import annotations

import numbers
from dataclasses import dataclass
from typing import Any

import numpy as np

from fmmloopy.common.sizes import FIRST_ORDER
from fmmloopy.greens import GreensFunction, laplace, yukawa
from fmmloopy.precision import PRECISIONS, Precision

ERRORS: dict[str, tuple[float, ...]] = {
    "laplace": (
        *(4.4e-2, 2.3e-3, 3.2e-4, 2.8e-5, 3.5e-6, 3.8e-7, 5.6e-8, 8.2e-9, 2.7e-9),
        *(2.1e-10, 3.1e-11, 8.7e-12, 2.3e-12, 5.1e-13, 1.3e-13),
    ),
    "yukawa": (
        *(5.9e-2, 2.6e-3, 3.7e-4, 3.5e-5, 4.8e-6, 6.2e-7, 9.4e-8, 1.4e-8, 3.4e-9),
        *(3.9e-10, 5.9e-11, 1.3e-11, 2.9e-12, 5.0e-13, 1.3e-13),
    ),
}
"""Relative error in the 2-norm of potentials, by Green's function, for orders 2 to 16.

The worst over 1e5 charges drawn uniformly from (-1, 1) in the cube, on the sphere, clustered on four scales, and acting
from the cube on the sphere; ncrit 60, float64. Charges of both signs are the hard case: errors relative to
potentials of charges of one sign are 4 to 10 times smaller. Yukawa's are the worse of decay lengths 1 and 1/10 of
the half width (for orders 11 to 14 with 3e4 charges in the cube, acting on themselves and on the sphere; for 15 and
16 of length 1 only).
"""

FLOORS = {"double": 0.0, "mixed": 3e-7, "reduced": 1.6e-6, "single": 1.3e-6}
"""What rounding leaves, by working precision, measured as above; in float64 it is in ERRORS.

Mixed and reduced against double, also with pairs that are 1e-9 apart and a million units from the origin. The cases are
in docs/measurements/constants.csv.
"""

SAFETY = 3.0
"""Less than double precision is chosen where what rounding leaves is this many times smaller than the wanted error."""


SVD_SHARE = 0.5
"""Share of the error of an order below which singular values of M2L are dropped.

The largest share with which errors hardly grow: docs/measurements/constants.csv.
"""


def svd_tolerance(order: int, dtype: np.dtype[Any]) -> float:
    """Return the tolerance for M2L's singular values that does not show in the error of an order.

    Args:
        order: 2 to 16.
        dtype: float32 or float64; what float32 rounds away anyhow need not be kept.

    Returns:
        Relative to the largest singular value. It follows the errors of Laplace's function for all functions: what is
        left out of a matrix is relative to that function's own potentials.
    """
    error = ERRORS["laplace"][order - FIRST_ORDER]
    return max(SVD_SHARE * error, 0.1 * FLOORS["single"] if dtype == np.float32 else 0.0)


def errors_for(greens: GreensFunction) -> tuple[float, ...]:
    """Return measured errors for orders 2 to 16.

    Raises:
        ValueError: none were measured for this function.
    """
    for measured in (laplace(), yukawa()):
        if measured.matrix == greens.matrix:
            return ERRORS[measured.name]
    raise ValueError(
        f"no errors were measured for the Green's function {greens.name!r}, so digits says nothing; "
        "give order=, 2 to 16, and compare with fmmloopy.direct (Laplace has about as many digits as the order)"
    )


@dataclass(frozen=True)
class Accuracy:
    """How accurate an evaluation is to be.

    Attributes:
        order: points per edge of the surfaces.
        precision: which numbers are float32.
        digits: what was asked for; None if the order was given instead.
    """

    order: int
    precision: Precision
    digits: float | None


def settle_accuracy(greens: GreensFunction, digits: float | None, order: int | None, precision: str | None) -> Accuracy:
    """Choose what is not given of order and precision.

    Args:
        greens: the plain Green's function.
        digits: wanted digits, ignored if ``order`` is given; None for 6, or 5 in single precision.
        order: None for the lowest that has the digits.
        precision: by name; None for the narrowest that has the digits, or with ``order`` for double.

    Raises:
        ValueError: as `order_for`.
    """
    if order is not None:
        return Accuracy(order, PRECISIONS[precision or "double"], None)
    found = order_for(greens, digits, precision or "double")
    name = precision or precision_for(greens, digits)
    return Accuracy(found, PRECISIONS[name], digits_for(digits, name))


def digits_for(digits: Any, precision: str = "double") -> Any:
    """Return the digits that are meant: for None, 6, or 5 in single precision."""
    return (5 if precision == "single" else 6) if digits is None else digits


def order_for(greens: GreensFunction, digits: Any, precision: str = "double") -> int:
    """Return the lowest order whose measured error, with what rounding leaves, is at most 10^-digits.

    Args:
        greens: the Green's function.
        digits: wanted digits, not necessarily whole; None for 6, or 5 in single precision.
        precision: double, mixed, reduced or single.

    Raises:
        ValueError: digits is not a number from 1 to what the precision and order 16 can give.
    """
    digits = digits_for(digits, precision)
    errors, floor = errors_for(greens), FLOORS[precision]
    most = np.floor(-np.log10(errors[-1] + floor))
    remedy = "" if precision == "double" else "; use dtype=numpy.float64 and precision='double'"
    if not isinstance(digits, numbers.Real) or isinstance(digits, bool) or not 1 <= float(digits) <= most:
        raise ValueError(
            f"digits is {digits!r}, expected a number from 1 to {most:.0f} in {precision} precision{remedy}"
        )
    wanted = 10.0 ** -float(digits)
    return next(order for order, error in enumerate(errors, FIRST_ORDER) if error + floor <= wanted)


def precision_for(greens: GreensFunction, digits: float | None = None) -> str:
    """Return the working precision for potentials in float64: reduced or mixed, where rounding spoils no wanted digit.

    Single is never chosen: rounding moves points, by whatever share of the distance of the nearest pair.

    Args:
        greens: the Green's function.
        digits: wanted digits; None for 6.

    Returns:
        reduced, mixed or double.

    Raises:
        ValueError: as `order_for`.
    """
    wanted = 10.0 ** -float(digits_for(digits))
    left = errors_for(greens)[order_for(greens, digits) - FIRST_ORDER]
    fitting = (p for p in ("reduced", "mixed") if SAFETY * FLOORS[p] <= wanted and left + FLOORS[p] <= wanted)
    return next(fitting, "double")


def ncrit_for(order: int) -> int:
    """Return a number of points in a leaf that suits an order where nothing better is known: 25 p.

    What is best depends on the points and on how fast the operators are: see `fmmloopy.choosing.cost_model`. This is
    where its search starts, and what is used without rates of the device.

    Seconds with other numbers of points: docs/measurements/constants.csv.
    """
    return 25 * order
