"""Working precisions: what is float64 and what float32, and so in which types operators run.

============  =======  ============  ============  ============
precision     points   near pairs    expansions    spectra
============  =======  ============  ============  ============
``double``    float64  float64       float64       float64
``mixed``     float64  float32       float64       float32
``reduced``   float64  float32       float32       float32
``single``    float32  float32       float32       float32
============  =======  ============  ============  ============

Points come with the centres of boxes, charges as they are given, and potentials. Near pairs are P2P's, expansions
multipoles, locals and check potentials with all that translates them, spectra the transforms in M2L's FFT form.

An operator stands between two of these. Where they differ its kernel is mixed: it reads and writes the first in float64
and computes, and keeps the second, in float32. Distances lose no digit of float32 by it: coordinates are relative to a
box before they are rounded, and P2P has what rounding leaves of them as well. Where some points are so near to each
other that this does not do (`fmmloopy.near_field`), P2P stays in float64.

The dtype of a kernel is float32, float64 or ``"mixed"``. That of an evaluation may be ``"reduced"`` too, and stands for
those of all its kernels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

MIXED = "mixed"
"""Dtype of kernels that stand between float64 and float32."""

REDUCED = "reduced"

DTYPES = {"double": "float64", "mixed": MIXED, "reduced": REDUCED, "single": "float32"}
"""Working precision -> dtype of an evaluation."""


@dataclass(frozen=True)
class Types:
    """The types of an evaluation's numbers: float64 or float32 each.

    Attributes:
        points: of points, centres of boxes, and potentials.
        near: of what P2P computes.
        expansions: of multipoles, locals, check potentials and their tables.
        spectra: of transformed expansions.
    """

    points: np.dtype[Any]
    near: np.dtype[Any]
    expansions: np.dtype[Any]
    spectra: np.dtype[Any]


_DOUBLE, _SINGLE = np.dtype(np.float64), np.dtype(np.float32)

TYPES = {
    "float64": Types(_DOUBLE, _DOUBLE, _DOUBLE, _DOUBLE),
    MIXED: Types(_DOUBLE, _SINGLE, _DOUBLE, _SINGLE),
    REDUCED: Types(_DOUBLE, _SINGLE, _SINGLE, _SINGLE),
    "float32": Types(_SINGLE, _SINGLE, _SINGLE, _SINGLE),
}
"""Dtype of an evaluation -> the types of its numbers."""

SIDES = {
    "p2p": ("points", "near"),
    **dict.fromkeys(("p2m", "p2l", "l2p", "m2p"), ("points", "expansions")),
    **dict.fromkeys(("m2l_forward", "m2l_inverse"), ("expansions", "spectra")),
    "m2l_hadamard": ("spectra", "spectra"),
}
"""What operators stand between; all others have expansions on both sides."""


def kernel_dtype(operator: str, dtype: Any) -> str:
    """Return the dtype of an operator's kernel in an evaluation of a dtype: float32, float64 or mixed."""
    types = TYPES[dtype_name(dtype)]
    outer, inner = (getattr(types, side) for side in SIDES.get(operator, ("expansions", "expansions")))
    return str(outer.name) if outer == inner else MIXED


def computed_in(operator: str, dtype: Any) -> str:
    """Return what an operator computes in, in an evaluation of a dtype: float32 or float64."""
    return str(outer_and_inner(kernel_dtype(operator, dtype))[1].name)


def dtype_name(dtype: Any) -> str:
    """Return float32, float64, mixed or reduced.

    Raises:
        ValueError: it is another one.
    """
    if isinstance(dtype, str) and dtype in TYPES:
        return dtype
    try:
        name = str(np.dtype(dtype).name)
    except TypeError:
        raise ValueError(f"dtype is {dtype!r}, expected float32 or float64") from None
    if name not in TYPES:
        raise ValueError(f"dtype is {name}, expected float32 or float64")
    return name


def outer_and_inner(dtype: Any) -> tuple[np.dtype[Any], np.dtype[Any]]:
    """Return the widest and the narrowest type of a kernel, which are what it stands between, or of an evaluation."""
    types = TYPES[dtype_name(dtype)]
    return types.points, types.spectra


def precision_of(dtype: Any) -> str:
    """Return the working precision whose evaluations are of a dtype."""
    name = dtype_name(dtype)
    return next(precision for precision, its_dtype in DTYPES.items() if its_dtype == name)


def tables_dtype(dtype: Any) -> str:
    """Return the dtype that translation tables are made for in an evaluation of a dtype: float32, float64 or mixed."""
    name = dtype_name(dtype)
    return "float32" if name == REDUCED else name
