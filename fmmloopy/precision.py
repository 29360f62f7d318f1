"""Working precisions: which numbers of an evaluation are float64 or float32. They determine the types of all kernels.

============  ==========  =======  ============  ============  ============
precision     dtype name  points   near pairs    expansions    spectra
============  ==========  =======  ============  ============  ============
``double``    float64     float64  float64       float64       float64
``mixed``     mixed       float64  float32       float64       float32
``reduced``   reduced     float64  float32       float32       float32
``single``    float32     float32  float32       float32       float32
============  ==========  =======  ============  ============  ============

The column "points" also applies to the centres of boxes, the charges as given, and the potentials. Near pairs are
computed by P2P; expansions are multipoles, locals, check potentials and the tables that translate them; spectra are
the transforms in M2L's FFT form.

Each operator reads one kind of number and writes another: its *sides*. If their types differ, the kernel is mixed: it
reads and writes the first kind in float64, and computes in float32, the type of the second. No digit of a distance is
lost: coordinates are made relative to a box before they are rounded, and P2P also reads their rounding errors. If some
points are too close together for this (`fmmloopy.octree.near_pairs`), P2P stays in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

_DOUBLE, _SINGLE = np.dtype(np.float64), np.dtype(np.float32)


@dataclass(frozen=True)
class Types:
    """The floating-point types of a kernel.

    Attributes:
        outer: type of the points, or of the expansions, that it reads and writes.
        inner: type of its arithmetic and of all other numbers; the same as ``outer`` or narrower.
    """

    outer: np.dtype[Any]
    inner: np.dtype[Any]

    @property
    def is_mixed(self) -> bool:
        """Whether both types occur."""
        return self.outer != self.inner

    @property
    def name(self) -> str:
        """float32, float64 or mixed."""
        return "mixed" if self.is_mixed else str(self.outer.name)

    def __str__(self) -> str:
        return self.name


FLOAT64, FLOAT32, MIXED = Types(_DOUBLE, _DOUBLE), Types(_SINGLE, _SINGLE), Types(_DOUBLE, _SINGLE)


@dataclass(frozen=True)
class Precision:
    """A working precision: the types of the numbers in an evaluation, each float64 or float32.

    Attributes:
        name: double, mixed, reduced or single.
        points: type of points, centres of boxes, charges as given, and potentials.
        near: type of the arithmetic in P2P.
        expansions: type of multipoles, locals, check potentials and their tables.
        spectra: type of transformed expansions, the narrowest of all.
    """

    name: str
    points: np.dtype[Any]
    near: np.dtype[Any]
    expansions: np.dtype[Any]
    spectra: np.dtype[Any]

    @property
    def dtype_name(self) -> str:
        """Its name in commands and stored results: float64, mixed, reduced or float32."""
        return self.name if self.points != self.spectra else str(self.points.name)

    @property
    def tables(self) -> Types:
        """The types of the translation tables: of expansions, and of the spectra that M2L computes from them."""
        return Types(self.expansions, self.spectra)

    def types_of(self, sides: tuple[str, str]) -> Types:
        """Return the types of a kernel with these two sides, such as points and expansions."""
        return Types(getattr(self, sides[0]), getattr(self, sides[1]))

    def __str__(self) -> str:
        return self.name


DOUBLE = Precision("double", _DOUBLE, _DOUBLE, _DOUBLE, _DOUBLE)
MIXED_PRECISION = Precision("mixed", _DOUBLE, _SINGLE, _DOUBLE, _SINGLE)
REDUCED = Precision("reduced", _DOUBLE, _SINGLE, _SINGLE, _SINGLE)
SINGLE = Precision("single", _SINGLE, _SINGLE, _SINGLE, _SINGLE)

PRECISIONS = {precision.name: precision for precision in (DOUBLE, MIXED_PRECISION, REDUCED, SINGLE)}
"""By name, the widest first."""

DTYPE_NAMES = {precision.dtype_name: precision for precision in PRECISIONS.values()}
"""By dtype name."""


def find_precision(which: Any) -> Precision:
    """Return the precision for a name, a dtype name or a dtype.

    Raises:
        ValueError: there is no such precision.
    """
    if isinstance(which, Precision):
        return which
    if isinstance(which, str) and which in (PRECISIONS | DTYPE_NAMES):
        return (PRECISIONS | DTYPE_NAMES)[which]
    try:
        name = str(np.dtype(which).name)
    except TypeError:
        raise ValueError(f"dtype is {which!r}, expected float32 or float64") from None
    if name not in DTYPE_NAMES:
        raise ValueError(f"dtype is {name}, expected float32 or float64")
    return DTYPE_NAMES[name]


def find_types(which: Any) -> Types:
    """Return the types of a kernel, given as `Types`, float32, float64, or ``"mixed"``.

    Raises:
        ValueError: there are no such types.
    """
    if isinstance(which, Types):
        return which
    precision = find_precision(which)
    return Types(precision.points, precision.spectra)
