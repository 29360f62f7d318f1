"""Values that the stages of an evaluation pass to each other: arrays on a device, with a type for each meaning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fmmloopy.components import Components
from fmmloopy.execution.arrays import DeviceArrays
from fmmloopy.execution.runtime import Array


@dataclass(frozen=True)
class Charges:
    """Charges and dipole moments of the sources in tree order, (columns, nsources padded).

    Attributes:
        by_dtype: the arrays of a plan, by name of their dtype; charges are written in each dtype that is used.
        components: what the columns are.
    """

    by_dtype: Mapping[str, DeviceArrays]
    components: Components

    def in_dtype(self, name: str, local: bool = False) -> Array:
        """Return the charges for operators that compute in a dtype; if ``local``, with moments in their unit."""
        return self.by_dtype[name].charges(self.components, local and self.components.dipoles)


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
    """Potentials of the targets and their derivatives in tree order, (rows, ntargets padded).

    Attributes:
        array: the potentials.
        components: what the rows are.
    """

    array: Array
    components: Components
