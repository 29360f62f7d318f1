"""Values that the stages of an evaluation pass to each other: arrays on a device, with a type for each meaning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fmmloopy.execution.arrays import DeviceArrays
from fmmloopy.execution.runtime import Array


@dataclass(frozen=True)
class Charges:
    """Charges of the sources in tree order, (columns, nsources padded).

    Attributes:
        by_dtype: the arrays of a plan, by name of their dtype; charges are written in each dtype that is used.
    """

    by_dtype: Mapping[str, DeviceArrays]

    def in_dtype(self, name: str) -> Array:
        """Return the charges for operators that compute in a dtype."""
        return self.by_dtype[name].charges


@dataclass(frozen=True)
class Checks:
    """Check potentials, (nboxes + 1, rows, nsurface)."""

    array: Array


@dataclass(frozen=True)
class Multipoles:
    """Upward equivalent densities, (nboxes + 1, columns, nsurface)."""

    array: Array


@dataclass(frozen=True)
class Locals:
    """Downward equivalent densities, (nboxes + 1, columns, nsurface)."""

    array: Array


@dataclass(frozen=True)
class Potentials:
    """Potentials of the targets in tree order, (rows, ntargets padded), or with the gradient four times as many rows.

    Attributes:
        array: the potentials.
        gradient: whether they come with their derivatives.
    """

    array: Array
    gradient: bool
