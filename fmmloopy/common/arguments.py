"""Check arguments that several public functions have, with messages in the caller's terms."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fmmloopy.common.exchange import on_host


def real_numbers(values: ArrayLike, name: str, may_be_parts: bool = True) -> NDArray[Any]:
    """Return an array of real numbers of any type.

    Args:
        values, name: the numbers, and what the caller calls them.
        may_be_parts: whether real and imaginary parts of complex numbers can be passed one after the other.

    Raises:
        ValueError: values are complex, masked or no numbers, or rows have different lengths.
    """
    values = on_host(values, name)
    if np.ma.isMaskedArray(values):
        count = int(np.ma.getmaskarray(values).sum())
        if count:
            raise ValueError(
                f"{name} has {count} masked {'entry' if count == 1 else 'entries'}, expected numbers everywhere; fill "
                "them in, or leave these points out"
            )
    try:
        array = np.asarray(values)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name} is not an array of numbers: {error}") from None
    if array.dtype.kind == "c":
        remedy = ": pass real and imaginary parts separately" if may_be_parts else ""
        raise ValueError(f"{name} has dtype {array.dtype}, expected real numbers{remedy}")
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{name} has dtype {array.dtype}, expected real numbers")
    return array


def join_parts(values: NDArray[Any]) -> NDArray[Any]:
    """Return complex numbers from real parts and then imaginary parts along axis 1, which goes if one is left."""
    count = values.shape[1] // 2
    whole: NDArray[Any] = values[:, :count] + 1j * values[:, count:]
    return whole[:, 0] if count == 1 else whole


def finite_numbers(array: NDArray[Any], name: str, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return numbers in a dtype, contiguous.

    Raises:
        ValueError: a number is not finite in the dtype; the message names the first row that has one.
    """
    with np.errstate(over="ignore"):
        converted = np.ascontiguousarray(array, dtype)
    if not np.isfinite(converted).all():
        row = int(np.flatnonzero(~np.isfinite(converted.reshape(len(converted), -1)).all(axis=1))[0])
        remedy = "remove it" if not np.isfinite(array[row]).all() else f"it is too large for {dtype}"
        raise ValueError(f"{name}[{row}] is {array[row].tolist()}, expected finite numbers; {remedy}")
    return converted


def check_flag(value: Any, name: str) -> bool:
    """Return a truth value: True, False, 1 or 0."""
    if isinstance(value, (bool, np.bool_)) or (isinstance(value, int) and value in (0, 1)):
        return bool(value)
    raise ValueError(f"{name} is {value!r}, expected True or False")


def check_count(value: Any, name: str, least: int, most: int | None = None) -> int:
    """Return a whole number within its range."""
    expected = f"a whole number of at least {least}" if most is None else f"a whole number from {least} to {most}"
    try:
        count = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} is {value!r}, expected {expected}") from None
    if isinstance(value, bool) or count < least or (most is not None and count > most):
        raise ValueError(f"{name} is {value}, expected {expected}")
    return count
