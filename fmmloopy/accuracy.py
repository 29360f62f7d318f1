"""Choose order, precision and tolerances for the wanted digits, from tables of measured errors."""

from __future__ import annotations

import numbers
from dataclasses import dataclass
from typing import Any

import numpy as np

from fmmloopy.common.sizes import FIRST_ORDER
from fmmloopy.greens import SHIPPED, GreensFunction
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

Each is the worst of four cases, with 1e5 charges drawn uniformly from (-1, 1): in the cube, on the sphere, clustered on
four scales, and in the cube with targets on the sphere; ncrit 60, float64. Charges of both signs are the hard case:
relative errors for charges of one sign are 4 to 10 times smaller. For Yukawa, the larger error of decay lengths 1 and
1/10 of the half width (orders 11 to 14: 3e4 charges in the cube, with targets there and on the sphere; orders 15 and
16: length 1 only).
"""

FLOORS = {"double": 0.0, "mixed": 3e-7, "reduced": 1.6e-6, "single": 1.3e-6}
"""Error from rounding alone by working precision, measured as above; that of float64 is part of ERRORS.

Mixed and reduced are compared with double, also for pairs that are 1e-9 apart and a million units from the origin. The
cases are in docs/measurements/constants.csv.
"""

SAFETY = 3.0
"""A precision below double is chosen only if its rounding error is smaller than the wanted error by this factor."""


SVD_SHARE = 0.5
"""Singular values of M2L below this fraction of the error of the order are dropped.

This is the largest fraction for which errors hardly grow: docs/measurements/constants.csv.
"""


def svd_tolerance(order: int, dtype: np.dtype[Any]) -> float:
    """Return a tolerance for M2L's singular values that does not noticeably increase the error of an order.

    Args:
        order: 2 to 16.
        dtype: float32 or float64; what float32 rounds away anyway need not be kept.

    Returns:
        The tolerance relative to the largest singular value. It is derived from the errors of Laplace's function for
        all functions, because what is dropped from a matrix is relative to that function's own potentials.
    """
    error = ERRORS["laplace"][order - FIRST_ORDER]
    return max(SVD_SHARE * error, 0.1 * FLOORS["single"] if dtype == np.float32 else 0.0)


def errors_for(kernel: GreensFunction) -> tuple[float, ...]:
    """Return measured errors for orders 2 to 16.

    Raises:
        ValueError: none were measured for this function.
    """
    for measured in (make() for make in SHIPPED.values()):
        if measured.matrix == kernel.matrix:
            return ERRORS[measured.name]
    raise ValueError(
        f"no errors were measured for the Green's function {kernel.name!r}, so digits cannot determine the order; "
        "give order=, 2 to 16, and compare with fmmloopy.direct (Laplace has about as many digits as the order)"
    )


@dataclass(frozen=True)
class Accuracy:
    """The accuracy of an evaluation.

    Attributes:
        order: points per edge of the surfaces.
        precision: which numbers are float32.
        digits: the wanted digits; None if the order was given instead.
    """

    order: int
    precision: Precision
    digits: float | None


def settle_accuracy(kernel: GreensFunction, digits: float | None, order: int | None, precision: str | None) -> Accuracy:
    """Choose order and precision, unless they are given.

    Args:
        kernel: the Green's function, without gradient.
        digits: wanted digits, ignored if ``order`` is given; None for 6, or 5 in single precision.
        order: None for the lowest that reaches the digits.
        precision: by name; None for the narrowest that reaches the digits, or for double if ``order`` is given.

    Raises:
        ValueError: as `order_for`.
    """
    if order is not None:
        return Accuracy(order, PRECISIONS[precision or "double"], None)
    found = order_for(kernel, digits, precision or "double")
    name = precision or precision_for(kernel, digits)
    return Accuracy(found, PRECISIONS[name], digits_for(digits, name))


def digits_for(digits: Any, precision: str = "double") -> Any:
    """Return the given digits; for None, 6, or 5 in single precision."""
    return (5 if precision == "single" else 6) if digits is None else digits


def order_for(kernel: GreensFunction, digits: Any, precision: str = "double") -> int:
    """Return the lowest order whose measured error, including rounding, is at most 10^-digits.

    Args:
        kernel: the Green's function.
        digits: wanted digits, not necessarily whole; None for 6, or 5 in single precision.
        precision: double, mixed, reduced or single.

    Raises:
        ValueError: digits is not a number from 1 to the most that the precision reaches with order 16.
    """
    digits = digits_for(digits, precision)
    errors, floor = errors_for(kernel), FLOORS[precision]
    most = np.floor(-np.log10(errors[-1] + floor))
    remedy = "" if precision == "double" else "; use dtype=numpy.float64 and precision='double'"
    if not isinstance(digits, numbers.Real) or isinstance(digits, bool) or not 1 <= float(digits) <= most:
        raise ValueError(
            f"digits is {digits!r}, expected a number from 1 to {most:.0f} in {precision} precision{remedy}"
        )
    wanted = 10.0 ** -float(digits)
    return next(order for order, error in enumerate(errors, FIRST_ORDER) if error + floor <= wanted)


def precision_for(kernel: GreensFunction, digits: float | None = None) -> str:
    """Return the working precision for potentials in float64: reduced or mixed if rounding spoils no wanted digit.

    Single is never chosen: it rounds the points, which may change the distance of the nearest pair by any factor.

    Args:
        kernel: the Green's function.
        digits: wanted digits; None for 6.

    Returns:
        reduced, mixed or double.

    Raises:
        ValueError: as `order_for`.
    """
    wanted = 10.0 ** -float(digits_for(digits))
    left = errors_for(kernel)[order_for(kernel, digits) - FIRST_ORDER]
    fitting = (p for p in ("reduced", "mixed") if SAFETY * FLOORS[p] <= wanted and left + FLOORS[p] <= wanted)
    return next(fitting, "double")


def ncrit_for(order: int) -> int:
    """Return a default number of points in a leaf: 25 p.

    The best number depends on the points and on the speed of the operators: see `fmmloopy.choosing.cost_model`. Its
    search starts here, and this value is used if no rates are known for the device.

    Seconds with other numbers of points: docs/measurements/constants.csv.
    """
    return 25 * order
