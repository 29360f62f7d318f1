"""What programs in CUDA C++ need, whoever compiles and runs them: loopy's target, functions, and limits of launches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from fmmloopy.execution.device import DeviceError

PRELUDE = """\
typedef unsigned int uint;
typedef unsigned long ulong;
__device__ static inline double as_double(long x) { return __longlong_as_double(x); }
__device__ static inline float as_float(int x) { return __int_as_float(x); }
__device__ static inline long as_long(double x) { return __double_as_longlong(x); }
__device__ static inline ulong as_ulong(double x) { return (ulong) __double_as_longlong(x); }
__device__ static inline int as_int(float x) { return __float_as_int(x); }
__device__ static inline uint as_uint(float x) { return (uint) __float_as_int(x); }
"""
"""OpenCL's functions for the bits of a number, which the inline functions of recipes use."""

MOST_GROUPS = (2**31 - 1, 65_535, 65_535)
"""The most work-groups on each axis."""

MOST_ITEMS = 1024
"""The most work-items of a group."""

LOCAL_BYTES = 48 * 1024
"""The most local memory that a program may declare."""


def retarget(kernel: Any) -> Any:
    """Return a kernel for which loopy generates CUDA C++."""
    import loopy as lp

    return kernel.copy(target=lp.CudaTarget())


def check_items(operator: str, local: Sequence[int]) -> None:
    """Raise an error if a work-group has too many work-items."""
    if math.prod(local) > MOST_ITEMS:
        raise DeviceError(
            f"{operator} has {math.prod(local)} work-items in a group, expected {MOST_ITEMS} at most; use fewer lanes"
        )
