"""The arrays of one problem on a device, allocated when an operator first needs them, and shared by all operators.

Names and shapes are those of the operators' documentation. Boxes are numbered as in the tree; box ``nboxes`` is a
row of zeros, used for every missing box.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmmloopy.common.sizes import LANES, SIBLINGS, padded
from fmmloopy.components import Components
from fmmloopy.execution.runtime import Array, Runtime
from fmmloopy.greens import GreensFunction
from fmmloopy.octree.lists import CSR
from fmmloopy.octree.near_pairs import local_sources
from fmmloopy.octree.tree import Tree
from fmmloopy.tables.fft import fourier_matrices
from fmmloopy.tables.surfaces import Tables, surface_grid

Boxes = NDArray[np.intp]
"""Numbers of boxes."""


class DeviceArrays:
    """Arrays on a device.

    Args:
        runtime, tree, tables, kernel, dtype: of the problem.
        copied: the tree with a copy of each box for each vector.
        like: other arrays with the same runtime, tables, kernel and dtype, whose arrays of tables are shared.

    Attributes:
        dtype: float32 or float64, the type of everything except indices.
        rows, columns: components of check potentials and of equivalent densities, for one vector of charges.
        vectors: how many vectors of charges are evaluated at once; expansions have all components of each in turn.
        npoints: points of a surface.
        nsurface: the same, padded.
        gathers: shape (nboxes,), which boxes have sources whose multipoles are computed here.
        has_targets: shape (nboxes,), which boxes have any.
        first_target: number of the first target in arrays by target. Targets that are sources share their array.
    """

    def __init__(
        self,
        runtime: Runtime,
        tree: Tree,
        tables: Tables,
        kernel: GreensFunction,
        dtype: np.dtype[Any],
        copied: Tree | None = None,
        like: DeviceArrays | None = None,
    ) -> None:
        self._runtime, self._tree, self._tables, self._greens, self.dtype = runtime, tree, tables, kernel, dtype
        self._copied = copied or tree  # its boxes have one vector each
        self.vectors = self._copied.nboxes // tree.nboxes
        self.rows, self.columns = kernel.translations.ntarget_components, kernel.translations.nsource_components
        self.npoints, self.nsurface = tables.npoints, padded(tables.npoints)
        self.gathers, self.has_targets = tree.gathers, tree.has_targets
        self._shares_points = tree.same_points or tree.first_target is not None
        self.first_target = tree.first_target or 0
        self._by_name: dict[Any, Any] = {}
        self._of_tables: dict[Any, Any] = {} if like is None else like._of_tables

    def upload(self, values: NDArray[Any]) -> Array:
        """Upload numbers in the working dtype."""
        return self._runtime.upload(np.asarray(values, self.dtype))

    def indices(self, numbers: Sequence[int] | NDArray[Any], beyond: int = 0) -> Array:
        """Upload numbers of boxes or pairs, with LANES times ``beyond`` after them, for the idle lanes of a block."""
        return self._runtime.upload(np.concatenate([numbers, [beyond] * LANES], dtype=np.int32, casting="same_kind"))

    def csr(self, csr: CSR) -> dict[str, Array]:
        """Upload lists, once."""
        if id(csr) not in self._by_name:
            arrays = {"list_starts": self._runtime.upload(csr.starts), "lists": self._runtime.upload(csr.lists)}
            self._by_name[id(csr)] = arrays, csr  # a reference to the lists keeps their id valid
        lists: dict[str, Array] = self._by_name[id(csr)][0]
        return lists

    def labels(self, values: NDArray[np.int32]) -> Array:
        """Upload the labels of the entries of a list, once."""
        if id(values) not in self._by_name:
            self._by_name[id(values)] = self._runtime.upload(values), values
        array: Array = self._by_name[id(values)][0]
        return array

    # -- expansions

    @cached_property
    def multipoles(self) -> Array:
        """Upward equivalent densities, (nboxes + 1, columns, nsurface)."""
        return self._vectors(self.columns)

    @cached_property
    def locals(self) -> Array:
        """Downward equivalent densities, (nboxes + 1, columns, nsurface)."""
        return self._vectors(self.columns)

    @cached_property
    def checks(self) -> Array:
        """Check potentials, of the upward pass and then of the downward pass, (nboxes + 1, rows, nsurface)."""
        return self._vectors(self.rows)

    @cached_property
    def between(self) -> Array:
        """Vectors between the two factors of a pseudo-inverse, (nboxes + 1, min(rows, columns), nsurface)."""
        return self._vectors(min(self.rows, self.columns))

    def _vectors(self, components: int) -> Array:
        return self._runtime.zeros((self._tree.nboxes + 1, self.vectors * components, self.nsurface), self.dtype)

    def spectra(self, nvalues: int, nsources: int, ntargets: int) -> dict[str, Array]:
        """Return workspace for transformed multipoles Mr, Mi and check potentials Lr, Li; shared if it is large enough.

        Args:
            nvalues: numbers per octet and component.
            nsources, ntargets: octets.
        """
        sizes = {"M": nvalues * self.columns * nsources, "L": nvalues * self.rows * ntargets}
        for name, size in sizes.items():
            for part in (name + "r", name + "i"):
                if part not in self._by_name or self._by_name[part].size < size:
                    self._by_name[part] = self._runtime.zeros((size,), self.dtype)
        return {name: self._by_name[name] for name in ("Mr", "Mi", "Lr", "Li")}

    # -- points

    def has_charges(self, components: Components, local: bool = False) -> bool:
        """Whether any operator reads these charges."""
        return ("charges", self._columns(components), local) in self._by_name

    def charges(self, components: Components, local: bool = False) -> Array:
        """Charges and dipole moments in tree order, (columns, nsources padded).

        Args:
            components: what the columns are.
            local: whether moments are in the unit of near pairs in float32.
        """
        columns = self._columns(components)
        return self._points("charges", sum(columns), self._tree.nsources, (columns, local))

    def _columns(self, components: Components) -> tuple[int, int]:
        """Return the numbers of charges and of components of dipole moments."""
        count = components.vectors * self._greens.nsource_components
        return count * components.charges, 3 * count * components.dipoles

    def potentials(self, components: Components) -> Array:
        """Potentials and their derivatives in tree order, (rows, ntargets padded), or as many as there are sources."""
        count = self._tree.nsources if self._shares_points else self._tree.ntargets
        return self._points("potentials", components.rows(self._greens.ntarget_components), count)

    def _points(self, name: str, rows: int, count: int, which: tuple[Any, ...] | None = None) -> Array:
        """Return an array of numbers of points, shape (rows, count padded), zero at first."""
        key = (name, *(which or (rows,)))
        if key not in self._by_name:
            self._by_name[key] = self._runtime.zeros((rows, padded(count)), self.dtype)
        array: Array = self._by_name[key]
        return array

    @cached_property
    def points(self) -> dict[str, Any]:
        """Points, centres and ranges of boxes, under the names used by all particle operators."""
        tree = self._tree
        targets = self.sources if self._shares_points else self._coordinates(tree.targets)
        before = np.int32(self.first_target)
        return {
            "targets": targets,
            "centres": self.upload(tree.box_centres),
            "nsources": padded(tree.nsources),
            "ntargets": targets.shape[1],
            "npoints": self.npoints,
            "nsurface": self.nsurface,
            "nboxes": tree.nboxes,
            "box_source_starts": self._runtime.upload(tree.box_source_starts),
            "box_source_ends": self._runtime.upload(tree.box_source_ends),
            "box_target_starts": self._runtime.upload(tree.box_target_starts + before),
            "box_target_ends": self._runtime.upload(tree.box_target_ends + before),
        }

    @cached_property
    def surfaces(self) -> dict[str, Array]:
        """The points of a surface, and the radii of boxes."""
        surface = np.zeros((3, self.nsurface))
        surface[:, : self.npoints] = self._tables.surface
        return {"surface": self.upload(surface), "radii": self.upload(self._tree.box_radii)}

    @cached_property
    def sources(self) -> Array:
        """Sources in tree order, (3, nsources padded)."""
        return self._coordinates(self._tree.sources)

    def local_sources(self, unit: float) -> Array:
        """Sources relative to the centre of their leaf, in a unit, and their rounding errors: (2, 3, padded)."""
        if ("local_sources", unit) not in self._by_name:
            self._by_name["local_sources", unit] = self._coordinates(local_sources(self._tree, unit))
        array: Array = self._by_name["local_sources", unit]
        return array

    def _coordinates(self, points: NDArray[Any]) -> Array:
        coordinates = np.zeros((*points.shape[:-1], padded(points.shape[-1])), points.dtype)
        coordinates[..., : points.shape[-1]] = points
        return self.upload(coordinates)

    # -- boxes

    @cached_property
    def children(self) -> Array:
        """Children that have sources gathered here, nboxes elsewhere, (nboxes + 1, 8)."""
        return self._children(np.repeat(self.gathers, self.vectors))

    @cached_property
    def target_children(self) -> Array:
        """Children that have targets, nboxes elsewhere, (nboxes + 1, 8)."""
        return self._children(np.repeat(self.has_targets, self.vectors))

    def _children(self, wanted: NDArray[np.bool_]) -> Array:
        children, none = self._copied.box_children, self._copied.nboxes
        result = np.full((none + 1, SIBLINGS), none, np.int32)
        result[:-1] = np.where((children >= 0) & wanted[children], children, none)
        return self._runtime.upload(result)

    def scaling(self, radii: NDArray[Any], sign: int) -> NDArray[Any]:
        """Return radius^(sign k) for a function of homogeneity k, whose table is at radius 1; else 1."""
        return np.asarray(radii ** float(sign * (self._greens.translations.homogeneity or 0)), self.dtype)

    def scales(self, sign: int) -> Array:
        """Upload the scaling of every copy of a box, once; 0 for the row of missing boxes."""
        if ("scales", sign) not in self._by_name:
            self._by_name["scales", sign] = self.upload(np.append(self.scaling(self._copied.box_radii, sign), 0))
        array: Array = self._by_name["scales", sign]
        return array

    # -- tables

    def matrix(self, name: str, matrices: NDArray[Any], rows: int, columns: int) -> Array:
        """Upload matrices, once, in the layout of dense products: by columns, with both sides padded with zeros.

        Args:
            name: name of the matrices.
            matrices: shape (..., rows * npoints, columns * npoints).
            rows, columns: numbers of components on both sides.
        """

        def make() -> dict[str, NDArray[Any]]:
            leading = matrices.shape[:-2]
            blocks = matrices.reshape(*leading, rows, self.npoints, columns, self.npoints)
            result = np.zeros((*leading, columns, self.nsurface, rows, self.nsurface), self.dtype)
            result[..., : self.npoints, :, : self.npoints] = np.moveaxis(blocks, (-2, -1), (-4, -3))
            return {name: result}

        return self.of_tables(name, make)[name]

    @property
    def surface_grid(self) -> Array:
        """Grid coordinates of the points of a surface, (3, npoints)."""
        name = "surface_grid"
        return self.of_tables(name, lambda: {name: surface_grid(self._tables.order).astype(np.int32)})[name]

    @property
    def fourier(self) -> dict[str, Array]:
        """Matrices of the Fourier transform and weights of its planes."""
        names = ("dft_r", "dft_i", "plane_weights")
        return self.of_tables(
            "fourier", lambda: dict(zip(names, fourier_matrices(self._tables.order, self.dtype), strict=True))
        )

    def of_tables(self, name: str, make: Callable[[], dict[str, NDArray[Any]]]) -> dict[str, Array]:
        """Upload arrays that depend on nothing but the tables, once for all plans with these tables.

        Args:
            name: name of the arrays.
            make: returns them.
        """
        if name not in self._of_tables:
            self._of_tables[name] = {each: self._runtime.upload(values) for each, values in make().items()}
        arrays: dict[str, Array] = self._of_tables[name]
        return arrays
