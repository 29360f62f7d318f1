"""Choose order, precision and tolerances for the wanted digits.

The error of an order comes from a table for the functions that have one, and for others from chains of translations,
which are measured when they are needed (`fmmloopy.prediction`).
"""

from __future__ import annotations

import math
import numbers
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from fmmloopy.common.sizes import FIRST_ORDER, LAST_ORDER
from fmmloopy.greens import SHIPPED, GreensFunction
from fmmloopy.precision import DOUBLE, PRECISIONS, Precision
from fmmloopy.prediction.predict import Predictor, UnpredictableError

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
"""Relative error in the 2-norm of potentials, by Green's function, for orders 2 to 16. It holds if targets have sources
nearby.

Each is the worst of four cases, with 1e5 charges drawn uniformly from (-1, 1): in the cube, on the sphere, clustered on
four scales, and in the cube with targets on the sphere; ncrit 60, float64. Charges of both signs are the hard case:
relative errors for charges of one sign are 4 to 10 times smaller. For Yukawa, the larger error of decay lengths 1 and
1/10 of the half width (orders 11 to 14: 3e4 charges in the cube, with targets there and on the sphere; orders 15 and
16: length 1 only).
"""

FLOAT64 = 2.0**-29
"""What float64 rounds by, relative to what float32 does: it has 29 bits more."""

FLOORS = {"double": 3e-7 * FLOAT64, "mixed": 3e-7, "reduced": 1.6e-6, "single": 1.3e-6}
"""Error from rounding alone by working precision, measured as above; that of double is derived from mixed, for near
pairs. Rounding of expansions in float64 is part of ERRORS and of predicted errors.

Mixed and reduced are compared with double, also for pairs that are 1e-9 apart and a million units from the origin. The
cases are in docs/measurements/constants.csv.
"""

LEAF_ROUNDING = 2.5e-8
"""The sum over the sources of a leaf is in float32 in all precisions but double. It loses this much more, times the
square root of the number of sources, which matters in large leaves: 1.5e-6 with 5,000 sources. In double, it is less
by FLOAT64.
"""

SAFETY = 3.0
"""A precision below double is chosen only if its rounding error is smaller than the wanted error by this factor."""

SLOW_SAFETY = 1.5
"""The same factor where float64 is slow: GPUs' units give roots to two units in the last place instead of one."""

ROUNDING_SHARE = 0.9
"""Where errors are predicted, rounding may have this share of the wanted error; 0.4 is left for the order."""

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


STALLED = 3
"""The order rises no more if so many orders in a row have not halved the error."""

EXTRAPOLATED = 8
"""From this order on, it rises only as long as order 16 would do if the error fell twice as fast as it did."""

NO_HELP = "higher orders do not help"

PROBED, DOUBTFUL = (3, 5, 7), 1e-3
"""Orders at which functions are tried if an order is given; the last only if the error before it is doubtful."""

SLOW = 10.0
"""A function may not suit the method if two orders more divide the error by less than this; Laplace has about 80."""


def errors_for(kernel: GreensFunction) -> tuple[float, ...] | None:
    """Return the errors in the table for orders 2 to 16; None for a function that has none."""
    for measured in (make() for make in SHIPPED.values()):
        if measured.matrix == kernel.matrix:
            return ERRORS.get(measured.name)
    return None


def table_for(predictor: Predictor) -> tuple[float, ...] | None:
    """Return the errors in the table for orders 2 to 16, if they hold for these points.

    They do not if there are few targets, or if targets have no sources nearby. Potentials of Yukawa's function may then
    be smaller by any factor than where sources are, on which errors depend; those of Laplace's are much the same at all
    targets, and may be small together.
    """
    errors = errors_for(predictor.kernel)
    return None if errors is None or predictor.has_few_targets or predictor.is_apart else errors


@dataclass(frozen=True)
class Estimate:
    """An expected relative error in the 2-norm.

    Attributes:
        error: the error, including rounding.
        source: where it is from.
    """

    error: float
    source: str

    def __str__(self) -> str:
        return f"{self.error:.1e}, {self.source}"


def rounding_for(precision: str, leaf: int) -> float:
    """Return the error from rounding alone, by the name of the precision and the sources in the largest leaf."""
    of_leaf = LEAF_ROUNDING * (FLOAT64 if precision == DOUBLE.name else 1.0)
    return math.hypot(FLOORS[precision], of_leaf * math.sqrt(leaf))


def estimate(predictor: Predictor, order: int, precision: Precision, ncrit: int | None = None) -> Estimate:
    """Return the expected error of potentials; it takes seconds if chains were not measured before.

    Args:
        predictor: the Green's function and the points.
        order, precision: of the evaluation.
        ncrit: the most points in a leaf; None for that of the rule.

    Raises:
        UnpredictableError: the Green's function is not finite where it is needed.
    """
    errors, leaf = table_for(predictor), ncrit_for(order) if ncrit is None else ncrit
    rounding = rounding_for(precision.name, min(leaf, len(predictor.points.sources.keys)))
    if errors is not None:
        return Estimate(math.hypot(errors[order - FIRST_ORDER], rounding), "from the table of measured errors")
    # Potentials that are all alike are small together, beside the terms of their sums.
    error = math.hypot(predictor.error(order, precision), predictor.spread * rounding)
    return Estimate(error, "predicted from chains of translations")


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


def settle_accuracy(
    predictor: Predictor,
    digits: float | None,
    order: int | None,
    precision: str | None,
    eps: float | None = None,
    slow_float64: bool = False,
) -> Accuracy:
    """Choose order and precision, unless they are given.

    Args:
        predictor: the Green's function and the points.
        digits: wanted digits, ignored if ``order`` is given; None for 6, or 5 in single precision.
        order: None for the lowest that reaches the digits.
        precision: by name; None for the narrowest that reaches the digits, or for double if ``order`` is given.
        eps: the relative error that the digits stand for, if that was given: messages are in terms of it.
        slow_float64: whether the device takes many times as long in float64, so that a higher order costs less.

    Raises:
        ValueError: as `order_for`.

    Warns:
        UserWarning: the order is given, and the function may not suit the method.
    """
    if order is not None:
        _warn_if_unsuited(predictor, order)
        return Accuracy(order, PRECISIONS[precision or "double"], None)
    if precision is None and table_for(predictor) is None:
        _check_digits(digits_for(digits), None, DOUBLE.name, eps)
        name = _narrowest_apart(predictor, digits)
        found = order_for(predictor, digits, name, eps)
    else:
        found = order_for(predictor, digits, precision or DOUBLE.name, eps)
        name = precision or precision_for(predictor.kernel, digits, slow_float64)
        errors = table_for(predictor)
        if precision is None and slow_float64 and errors is not None:
            found = _lowest_order(errors, 10.0 ** -float(digits_for(digits)), name)
    return Accuracy(found, PRECISIONS[name], digits_for(digits, name))


def _narrowest_apart(predictor: Predictor, digits: float | None) -> str:
    """Return the working precision for a function without a table, or for targets that it does not hold for.

    Potentials of functions that are not homogeneous may be much smaller than what they are transformed with, and lose
    digits.
    """
    errors = errors_for(predictor.kernel)
    if predictor.kernel.homogeneity is None or errors is None:
        return DOUBLE.name
    wanted, name = 10.0 ** -float(digits_for(digits)), precision_for(predictor.kernel, digits)
    rounding = predictor.spread * rounding_for(name, ncrit_for(_lowest_order(errors, wanted)))
    return name if rounding <= ROUNDING_SHARE * wanted else DOUBLE.name


def digits_for(digits: Any, precision: str = "double") -> Any:
    """Return the given digits; for None, 6, or 5 in single precision."""
    return (5 if precision == "single" else 6) if digits is None else digits


def digits_from(digits: Any, eps: Any) -> Any:
    """Return the digits, given or those that a relative error stands for; None if neither is given.

    Raises:
        ValueError: both are given, or eps is not a number between 0 and 0.1.
    """
    if eps is None:
        return digits
    if digits is not None:
        raise ValueError(f"digits {digits!r} and eps {eps!r} are given, expected only one; eps is 10^-digits")
    if not isinstance(eps, numbers.Real) or isinstance(eps, bool) or not 0 < float(eps) <= 0.1:
        raise ValueError(f"eps is {eps!r}, expected a relative error of at most 0.1, such as 1e-6")
    return float(-np.log10(float(eps)))


def order_for(predictor: Predictor, digits: Any, precision: str = "double", eps: float | None = None) -> int:
    """Return the lowest order whose expected error, including rounding, is at most 10^-digits.

    Args:
        predictor: the Green's function and the points.
        digits: wanted digits, not necessarily whole; None for 6, or 5 in single precision.
        precision: double, mixed, reduced or single.
        eps: as for `settle_accuracy`.

    Raises:
        ValueError: digits is not a number from 1 to the most that the precision reaches with order 16, or the function
            does not reach them.
    """
    digits, errors = digits_for(digits, precision), table_for(predictor)
    _check_digits(digits, errors, precision, eps)
    if errors is None:
        return _raise_order(predictor, float(digits), PRECISIONS[precision], eps)
    return _lowest_order(errors, 10.0 ** -float(digits), precision)


def _check_digits(digits: Any, errors: tuple[float, ...] | None, precision: str, eps: float | None) -> None:
    last = rounding_for(precision, ncrit_for(LAST_ORDER))
    most = np.floor(-np.log10(math.hypot((errors or ERRORS["laplace"])[-1], last)))
    remedy = "" if precision == "double" else "; use dtype=numpy.float64 and precision='double'"
    if not isinstance(digits, numbers.Real) or isinstance(digits, bool) or not 1 <= float(digits) <= most:
        expected = f"a number from 1 to {most:.0f}" if eps is None else f"a relative error from {10**-most:.0e} to 0.1"
        raise ValueError(f"{_asked(digits, eps)}, expected {expected} in {precision} precision{remedy}")


def _asked(digits: Any, eps: float | None) -> str:
    """Return what was asked for, in the caller's words."""
    if eps is not None:
        return f"eps is {eps:.2g}"
    is_number = isinstance(digits, numbers.Real) and not isinstance(digits, bool)
    return f"digits is {digits:g}" if is_number else f"digits is {digits!r}"


def _lowest_order(errors: tuple[float, ...], wanted: float, precision: str = "double") -> int:
    orders = enumerate(errors, FIRST_ORDER)
    return next(p for p, error in orders if math.hypot(error, rounding_for(precision, ncrit_for(p))) <= wanted)


def largest_leaf(predictor: Predictor, accuracy: Accuracy) -> int | None:
    """Return the largest ncrit that leaves the wanted digits; None if any does.

    An evaluation in one leaf has no error but that of rounding. Leaves of the rule's size are always allowed.
    """
    precision, order = accuracy.precision, accuracy.order
    if accuracy.digits is None or precision == DOUBLE:
        return None
    wanted, nsources = 10.0**-accuracy.digits, len(predictor.points.sources.keys)
    if rounding_for(precision.name, nsources) <= wanted:
        return None
    alone = estimate(predictor, order, precision, 0).error
    return max(ncrit_for(order), int(max(wanted**2 - alone**2, 0.0) / LEAF_ROUNDING**2))


def _raise_order(predictor: Predictor, digits: float, precision: Precision, eps: float | None) -> int:
    """Return the lowest order that reaches the digits; orders are tried one after the other.

    Raises:
        ValueError: there is none, or it is not worth trying on; the message says what can be reached, and why.
    """
    errors: list[float] = []
    best, least = FIRST_ORDER, np.inf  # the last order that halved the error, and that error
    for order in range(FIRST_ORDER, LAST_ORDER + 1):
        try:
            errors.append(estimate(predictor, order, precision).error)
        except UnpredictableError as why:
            raise ValueError(
                f"{_asked(digits, eps)}, but {why}; scale the points, change the parameters or use fmmloopy.direct"
            ) from None
        if errors[-1] <= 10.0**-digits:
            return order
        if errors[-1] < least / 2:
            best, least = order, errors[-1]
        elif order >= best + STALLED:
            raise _refusal(predictor, digits, eps, precision, errors, NO_HELP)
        if order >= EXTRAPOLATED and order < LAST_ORDER:
            fall = max((errors[-4] / errors[-1]) ** (1 / 3), 1.0)
            if errors[-1] / fall ** (2 * (LAST_ORDER - order)) > 10.0**-digits:
                last = errors[-1] / fall ** (LAST_ORDER - order)
                trend = f"order {LAST_ORDER} would have about {last:.0e}" if last < least / 2 else NO_HELP
                raise _refusal(predictor, digits, eps, precision, errors, trend)
    raise _refusal(predictor, digits, eps, precision, errors, f"order {LAST_ORDER} is the last")


def _refusal(
    predictor: Predictor, digits: float, eps: float | None, precision: Precision, errors: list[float], trend: str
) -> ValueError:
    """Return the error for digits that no order reaches, with the best that can be had and why."""
    best, asked = int(np.argmin(errors)), _asked(digits, eps)
    name, order, reached = predictor.kernel.name, best + FIRST_ORDER, -np.log10(errors[best])
    radius = predictor.worst_radius(order, precision)
    where = "" if radius is None else f"; most of it is from boxes of half width {radius:.2g}"
    if reached < 1:
        return ValueError(
            f"{asked}, but {name} does not suit the method: the best expected error is "
            f"{errors[best]:.1e}, at order {order}, and {trend}{where}, whose surfaces cannot represent it; "
            "use fmmloopy.direct"
        )
    most = np.floor(10 * reached) / 10
    limit = f"at most {most:g}" if eps is None else f"at least {10**-most:.1e}"
    return ValueError(
        f"{asked}, expected {limit} for {name} and these points: the best expected error is "
        f"{errors[best]:.1e}, at order {order}, and {trend}{where}, whose surfaces do not represent it better"
    )


def _warn_if_unsuited(predictor: Predictor, order: int) -> None:
    """Warn if a function converges much slower than Laplace's, or not at all, by its errors at two low orders.

    These cost less than the tables of a moderate order. The error at the given order may cost much more, and is not
    measured before it is asked for.
    """
    if table_for(predictor) is not None:
        return
    name, remedy = predictor.kernel.name, "compare with fmmloopy.direct"
    errors: dict[int, float] = {}
    is_slow = False
    try:
        for probed in PROBED:
            errors[probed] = estimate(predictor, probed, DOUBLE).error
            if probed - 2 in errors:
                is_slow = errors[probed] > max(errors[probed - 2] / SLOW, 10.0**-probed)
                if is_slow or errors[probed] < DOUBTFUL:
                    break
    except UnpredictableError as why:
        warnings.warn(f"{why}; {remedy}", stacklevel=6)
        return
    before, error = errors[probed - 2], errors[probed]
    fall = max(np.sqrt(before / error), 1.0) if error else 1.0
    if is_slow or error / fall ** (order - probed) > 10.0 ** (3 - min(order, probed)):
        warnings.warn(
            f"{name} may not suit the method: for these points the expected error is {error:.1e} at order {probed} "
            f"after {before:.1e} at order {probed - 2}, where Laplace's is "
            f"{ERRORS['laplace'][probed - FIRST_ORDER]:.0e}; Fmm.error_estimate has that of order {order}; {remedy}",
            stacklevel=6,
        )


def precision_for(kernel: GreensFunction, digits: float | None = None, slow_float64: bool = False) -> str:
    """Return the working precision for potentials in float64: reduced or mixed if rounding spoils no wanted digit.

    Single is never chosen: it rounds the points, which may change the distance of the nearest pair by any factor. Nor
    is anything but double for functions without a table, whose rounding errors are not known.

    Args:
        kernel: the Green's function.
        digits: wanted digits, which an order reaches; None for 6.
        slow_float64: whether the device takes many times as long in float64. Then rounding may take more of the error,
            and a higher order makes up for it.

    Returns:
        reduced, mixed or double.
    """
    wanted, errors = 10.0 ** -float(digits_for(digits)), errors_for(kernel)
    if errors is None:
        return "double"
    usual = _lowest_order(errors, wanted)

    def fits(precision: str) -> bool:
        if (SLOW_SAFETY if slow_float64 else SAFETY) * FLOORS[precision] > wanted:
            return False
        orders = range(usual, LAST_ORDER + 1) if slow_float64 else [usual]
        return any(math.hypot(errors[p - FIRST_ORDER], rounding_for(precision, ncrit_for(p))) <= wanted for p in orders)

    return next(filter(fits, ("reduced", "mixed")), "double")


def ncrit_for(order: int) -> int:
    """Return a default number of points in a leaf: 25 p.

    The best number depends on the points and on the speed of the operators: see `fmmloopy.choosing.cost_model`. Its
    search starts here, and this value is used if no rates are known for the device.

    Seconds with other numbers of points: docs/measurements/constants.csv.
    """
    return 25 * order
