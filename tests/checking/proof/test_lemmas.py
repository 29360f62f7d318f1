"""Lemmas: what steps compute in place of roots and exponentials, over the whole range of its input."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pymbolic import var

from fmmloopy.transforms.inline import ANGLES, EXPONENTIALS, INLINE
from fmmloopy.transforms.inline import exponential as exponential_statements
from fmmloopy.transforms.inline import sine_and_cosine as angle_statements

Numbers = NDArray[Any]

BITS = {np.dtype(np.float32): np.dtype(np.uint32), np.dtype(np.float64): np.dtype(np.uint64)}


def reciprocal_root(x: Numbers) -> Numbers:
    """Compute what the source of ``fmmloopy_rsqrt`` does, operation by operation."""
    real = x.dtype.type
    bits = x.view(BITS[x.dtype])
    one = bits.dtype.type(1)
    if x.dtype == np.float64:
        y = (bits.dtype.type(0x5FE6EB50C7B537A9) - (bits >> one)).view(x.dtype)
        e = 1 - x * y * y
        y = y + y * e * (0.5000006595671703 + e * (0.3760593113616581 + e * 0.31290051686638776))
        e = 1 - x * y * y
        return y + y * e * (0.5 + e * 0.375)
    y = (bits.dtype.type(0x5F375A86) - (bits >> one)).view(x.dtype)
    e = real(1) - x * y * y
    inner = real(0.37500035) + e * (real(0.31393535) + e * real(0.27407937))
    return y + y * e * (real(0.49999834) + e * inner)


def test_the_source_is_what_is_tested() -> None:
    numbers = re.findall(r"0\.\d+|0x[0-9a-f]+", INLINE["fmmloopy_rsqrt"])
    tested = inspect.getsource(reciprocal_root).lower()
    assert numbers
    assert all(number in tested for number in numbers)


def positive_numbers(dtype: Any) -> Iterator[Numbers]:
    """Yield normal numbers with every exponent, and mantissas across two of them; then the ends of the range."""
    info = np.finfo(dtype)
    mantissas = np.linspace(1, 4, 6001, endpoint=False).astype(dtype)
    for exponent in range(info.minexp, info.maxexp - 1):
        yield np.ldexp(mantissas, exponent).astype(dtype)
    yield np.array([info.tiny, np.nextafter(info.tiny, dtype(1)), info.max], dtype)


@pytest.mark.parametrize(("dtype", "units"), [(np.float64, 3.0), (np.float32, 3.0)])
def test_the_iteration_is_a_reciprocal_root(dtype: Any, units: float) -> None:
    worst = 0.0
    for x in positive_numbers(dtype):
        exact = 1 / np.sqrt(x.astype(np.longdouble))
        found = reciprocal_root(x)
        worst = max(worst, float(np.max(np.abs(found.astype(np.longdouble) / exact - 1))))
    # The series leaves 3e-18 or 2.3e-8; a few roundings of half a unit come on top.
    assert worst < units * np.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_iteration_is_finite_where_a_mask_takes_it_back(dtype: Any) -> None:
    x = np.array([0.0, -0.0, np.finfo(dtype).smallest_subnormal, np.finfo(dtype).tiny / 2], dtype)
    with np.errstate(over="ignore"):
        assert np.isfinite(reciprocal_root(x)).all()


def computed(statements: dict[str, Any], x: Numbers) -> dict[str, Any]:
    """Compute the statements that a step inserts; return all variables."""
    real, kind = x.dtype.type, x.dtype.itemsize

    def power(t: Numbers) -> Numbers:
        if kind == 8:
            return ((t.view(np.int64) + 1023) << 52).view(np.float64)
        return ((t.view(np.int32) + np.int32(127)) << np.int32(23)).view(np.float32)

    def value(e: Any) -> Any:
        name = type(e).__name__
        if name == "Variable":
            return known[e.name]
        if name in ("Sum", "Product"):
            first, *rest = map(value, e.children)
            for other in rest:
                first = first + other if name == "Sum" else first * other
            return first
        if name == "If":
            left, right = value(e.condition.left), value(e.condition.right)
            holds = left > right if str(getattr(e.condition.operator, "value", e.condition.operator)) == ">" else None
            return np.where(left < right if holds is None else holds, value(e.then), value(e.else_))
        if name == "Call":
            return power(value(e.parameters[0]))
        return real(e)

    known: dict[str, Any] = {"x": x}
    for name, expression in statements.items():
        known[name] = np.asarray(value(expression), x.dtype)
    return known


def exponential(x: Numbers) -> Numbers:
    """Compute the statements that ``polynomial_exp`` inserts."""
    return np.asarray(computed(exponential_statements("y", var("x"), x.dtype.itemsize), x)["y"])


def sine_and_cosine(x: Numbers) -> tuple[Numbers, Numbers]:
    """Compute the statements that ``polynomial_sin_cos`` inserts."""
    known = computed(angle_statements("y", var("x"), x.dtype.itemsize), x)
    return np.asarray(known["y_sin"]), np.asarray(known["y_cos"])


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_polynomial_is_an_exponential(dtype: Any) -> None:
    _, least, most, *_ = EXPONENTIALS[np.dtype(dtype).itemsize]
    x = np.linspace(least, most, 400_001).astype(dtype)
    near_zero = np.geomspace(np.finfo(dtype).smallest_subnormal * 2, 1, 4001).astype(dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        for some in (x, near_zero, -near_zero, np.array([0.0, -0.0], dtype)):
            exact = np.exp(some.astype(np.longdouble))
            error = np.abs(exponential(some).astype(np.longdouble) / exact - 1)
            # The argument of the polynomial has an error of about a unit, and so has each of its last sums.
            assert error.max() < 4 * np.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_polynomial_beyond_its_range(dtype: Any) -> None:
    _, least, most, *_ = EXPONENTIALS[np.dtype(dtype).itemsize]
    beyond = np.array([most + 1, 10 * most, np.finfo(dtype).max, np.inf], dtype)
    below = np.array([least - 1, 10 * least, np.finfo(dtype).min, -np.inf], dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        assert (exponential(beyond) == exponential(np.array([most], dtype))).all()
        assert (exponential(below) == 0).all()
        assert np.exp(below.astype(np.float64)).max() < np.finfo(dtype).tiny * 2


EXACT_ANGLES = {np.float64: 1e6, np.float32: 1e4}
"""Up to here, the reduction to a quarter of a turn is exact but for the last bit."""


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_polynomials_are_sine_and_cosine(dtype: Any) -> None:
    most, eps = EXACT_ANGLES[dtype], np.finfo(dtype).eps
    third = ANGLES[np.dtype(dtype).itemsize][3][2]
    near_zeros = (np.arange(-2000, 2001) * (np.pi / 2)).astype(dtype)
    tiny = np.geomspace(np.finfo(dtype).tiny, 1, 4001).astype(dtype)
    zeros = np.array([0.0, -0.0], dtype)
    for some in (np.linspace(-most, most, 400_001).astype(dtype), near_zeros, tiny, -tiny, zeros):
        for found, function in zip(sine_and_cosine(some), (np.sin, np.cos), strict=True):
            exact = function(some.astype(np.longdouble))
            error = np.abs(found.astype(np.longdouble) - exact)
            # One unit of the rest of the argument, and two roundings of the last sums. Near zeros, where the rest is
            # small, the rounding of the third part of pi / 2, times the quarters, is more.
            assert (error <= 2.5 * eps * np.abs(exact) + most * third * eps).all()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_larger_arguments_are_rounded_once_more(dtype: Any) -> None:
    _, bound, *_ = ANGLES[np.dtype(dtype).itemsize]
    some = np.geomspace(EXACT_ANGLES[dtype], bound, 100_001).astype(dtype)
    for found, function in zip(sine_and_cosine(some), (np.sin, np.cos), strict=True):
        error = np.abs(found.astype(np.longdouble) - function(some.astype(np.longdouble)))
        assert (error <= np.finfo(dtype).eps * (2 + some)).all()
        assert np.abs(found).max() <= 2
    with np.errstate(over="ignore", invalid="ignore"):
        beyond = np.array([2 * bound, np.finfo(dtype).max, np.inf, -np.inf], dtype)
        found = sine_and_cosine(beyond)
    assert (found[0] == 0).all()
    assert (found[1] == 1).all()
