"""Working precisions: which operators run in which floating-point types.

============  ======================================================================================
precision     runs
============  ======================================================================================
``double``    everything in float64
``single``    everything in float32
``mixed``     the transforms and products of M2L's FFT form in float32, all else in float64
============  ======================================================================================

A kernel's dtype is float32, float64, or ``"mixed"`` for kernels that read and write expansions in float64 and compute
in float32. ``"mixed"`` is a whole evaluation's dtype too, and stands for that of each operator then.
"""

from __future__ import annotations

from typing import Any

import numpy as np

MIXED = "mixed"
"""Dtype of kernels that read and write expansions in float64 and compute in float32."""

DTYPES = {"double": "float64", "mixed": MIXED, "single": "float32"}
"""Working precision -> dtype of an evaluation."""

MIXED_KERNELS = ("m2l_forward", "m2l_inverse")
"""Operators that stand between float64 and float32 in a mixed evaluation."""

SINGLE_KERNELS = ("m2l_hadamard",)
"""Operators that a mixed evaluation runs in float32."""


def kernel_dtype(operator: str, dtype: Any) -> str:
    """Return the dtype of an operator's kernel in an evaluation of a dtype: float32, float64 or mixed."""
    name = dtype_name(dtype)
    if name != MIXED or operator in MIXED_KERNELS:
        return name
    return "float32" if operator in SINGLE_KERNELS else "float64"


def dtype_name(dtype: Any) -> str:
    """Return float32, float64 or mixed.

    Raises:
        ValueError: it is another one.
    """
    if isinstance(dtype, str) and dtype == MIXED:
        return MIXED
    try:
        name = str(np.dtype(dtype).name)
    except TypeError:
        raise ValueError(f"dtype is {dtype!r}, expected float32 or float64") from None
    if name not in ("float32", "float64"):
        raise ValueError(f"dtype is {name}, expected float32 or float64")
    return name


def outer_and_inner(dtype: Any) -> tuple[np.dtype[Any], np.dtype[Any]]:
    """Return the types of what a kernel reads and writes of expansions, and of what it computes with."""
    name = dtype_name(dtype)
    if name == MIXED:
        return np.dtype(np.float64), np.dtype(np.float32)
    return np.dtype(name), np.dtype(name)
