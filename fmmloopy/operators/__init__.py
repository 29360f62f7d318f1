"""The operators of the fast multipole method, each one loopy kernel that is math only: no tags, splits or devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fmmloopy.greens import GreensFunction
from fmmloopy.operators.check_to_equivalent import check_to_equivalent
from fmmloopy.operators.l2l import l2l
from fmmloopy.operators.l2p import l2p
from fmmloopy.operators.m2l import m2l
from fmmloopy.operators.m2l_fft import m2l_forward, m2l_hadamard, m2l_inverse
from fmmloopy.operators.m2l_svd import m2l_svd
from fmmloopy.operators.m2m import m2m
from fmmloopy.operators.m2p import m2p
from fmmloopy.operators.p2l import p2l
from fmmloopy.operators.p2m import p2m
from fmmloopy.operators.p2p import p2p
from fmmloopy.operators.pairwise import Kernel
from fmmloopy.precision import outer_and_inner

__all__ = [
    "check_to_equivalent",
    "l2l",
    "l2p",
    "m2l",
    "m2l_forward",
    "m2l_hadamard",
    "m2l_inverse",
    "m2l_svd",
    "m2m",
    "m2p",
    "math_kernel",
    "p2l",
    "p2m",
    "p2p",
]


def math_kernel(operator: str, greens: GreensFunction, order: int, dtype: Any) -> Kernel:
    """Make the math-level kernel of an operator from what it depends on.

    Args:
        operator: name of one of this package's operators.
        greens: decides the formula of particle operators, and how many components the others have.
        order: of the surfaces; only the FFT form of M2L has it in its loops.
        dtype: float32, float64, or for operators between two kinds of data mixed (see `fmmloopy.precision`).

    Returns:
        A loopy translation unit.
    """
    rows, columns = greens.ntarget_components, greens.nsource_components
    dtype, inner = outer_and_inner(dtype)
    makers: dict[str, Callable[[], Kernel]] = {
        "p2p": lambda: p2p(greens, dtype, inner),
        "p2m": lambda: p2m(greens, dtype, inner),
        "p2l": lambda: p2l(greens, dtype, inner),
        "l2p": lambda: l2p(greens, dtype, inner),
        "m2p": lambda: m2p(greens, dtype, inner),
        "m2m": lambda: m2m(dtype),
        "l2l": lambda: l2l(dtype),
        "m2l": lambda: m2l(dtype),
        "m2l_forward": lambda: m2l_forward(order, columns, dtype, inner),
        "m2l_hadamard": lambda: m2l_hadamard(rows, columns, dtype),
        "m2l_inverse": lambda: m2l_inverse(order, rows, dtype, inner),
        "m2l_svd": lambda: m2l_svd(dtype),
        "check_to_equivalent": lambda: check_to_equivalent(dtype),
    }
    return makers[operator]()
