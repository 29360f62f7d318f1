"""A plan: every operator bound once to the arrays of one problem, ready to be replayed for new charges.

Each operator is a method that appends launches to the recording. What they need is decided and uploaded here, once;
the order of the operators is the driver's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmmloopy.compile import CompiledOperator, compile_operator
from fmmloopy.greens import GreensFunction
from fmmloopy.lists import CSR, InteractionLists
from fmmloopy.m2l_tables import OctetPairs, find_octet_pairs, fourier_matrices, hadamard_tables
from fmmloopy.recipes import RecipeBook
from fmmloopy.runtime import Array, Launch, Runtime
from fmmloopy.surfaces import Tables, m2l_matrices, surface_grid
from fmmloopy.tree import Tree

ROWS = 16
"""Vectors on a surface are padded to a multiple of this, as :mod:`fmmloopy.operators.dense` asks for."""

BLOCK_PADDING = 64
"""Lists of boxes are padded by this many entries, so that the idle lanes of a block have a box to read: nboxes."""

SPECTRAL_BYTES = 256 * 2**20
"""Workspace for transformed expansions; planes of frequencies are handled in batches that fit."""

FIRST_LEVEL = 2
"""Boxes of levels 0 and 1 have no box that is apart from them, so there are no expansions above this level."""


Boxes = NDArray[np.intp]
"""Numbers of boxes."""


class Plan:
    """Operators bound to the arrays of one problem.

    Attributes:
        nlevels: levels of the tree.
        launches: what the current recording holds.
    """

    def __init__(
        self,
        runtime: Runtime,
        tree: Tree,
        lists: InteractionLists,
        tables: Tables,
        greens: GreensFunction,
        dtype: np.dtype[Any],
        book: RecipeBook,
        parameters: Mapping[str, Mapping[str, Any]],
    ) -> None:
        self.nlevels = tree.nlevels
        self.launches: list[Launch] = []
        self._notify: Callable[[str], None] = lambda operator: None
        self._runtime, self._tree, self._lists, self._tables = runtime, tree, lists, tables
        self._greens, self._dtype, self._book, self._parameters = greens, dtype, book, parameters
        self._code: dict[tuple[str, str], CompiledOperator] = {}
        self._rows, self._columns = greens.ntarget_components, greens.nsource_components
        self._npoints = tables.npoints
        self._nsurface = -(-tables.npoints // ROWS) * ROWS
        self._has_sources = tree.box_source_ends > tree.box_source_starts
        self._has_targets = tree.box_target_ends > tree.box_target_starts

    # -- what evaluate needs

    def record(self, passes: Callable[[Plan], None], notify: Callable[[str], None] | None = None) -> tuple[Launch, ...]:
        """Return the launches that a function of this plan appends, telling ``notify`` each operator beforehand."""
        self.launches, self._notify = [], notify or (lambda operator: None)
        passes(self)
        return tuple(self.launches)

    def write_charges(self, charges: NDArray[Any]) -> None:
        """Put charges of shape (components, nsources), in tree order, on the device."""
        padded = np.zeros(self._charges.shape, self._dtype)
        padded[:, : charges.shape[1]] = charges
        self._runtime.write(self._charges, padded)

    def run(self, launches: Sequence[Launch]) -> dict[str, float]:
        """Replay launches, and return seconds by operator."""
        return self._runtime.run(launches)

    def read_potentials(self, gradient: bool) -> NDArray[Any]:
        """Wait, and return potentials of shape (components, ntargets) in tree order; with gradient, 4 times as many."""
        return self._runtime.read(self._potentials(gradient))[:, : self._tree.ntargets]

    # -- the upward pass

    def clear_checks(self) -> None:
        """Set all check potentials to zero."""
        self.launches.append(self._runtime.clear(self._checks))

    def p2m(self) -> None:
        """Charges of leaves -> upward check potentials."""
        self._particles("p2m", self._source_leaves, self._own, self._tables.outer, {"checks": self._checks})

    def upward_equivalent(self) -> None:
        """Upward check potentials of leaves -> their multipoles."""
        factors = (self._tables.upward_first, self._tables.upward_second)
        self._check_to_equivalent("upward", factors, self._source_leaves, self._multipoles)

    def m2m(self, level: int) -> None:
        """Multipoles of the children -> multipoles of their parents on a level."""
        parents = self._boxes(level, self._has_sources & ~self._tree.is_leaf)
        arguments = {"multipoles": self._multipoles, "result": self._multipoles, "children": self._children}
        self._translate("m2m", self._tables.m2m, level, parents, arguments)

    # -- the downward pass

    def m2l(self, form: str) -> None:
        """Multipoles -> downward check potentials of the boxes whose V lists they are in."""
        for levels, table in self._table_levels():
            (self._m2l_fft if form == "fft" else self._m2l_dense)(levels, table)

    def p2l(self) -> None:
        """Charges of leaves -> downward check potentials of the boxes whose X lists they are in."""
        boxes = _rows_with_entries(self._lists.x)
        self._particles("p2l", boxes, self._lists.x, self._tables.inner, {"checks": self._checks})

    def downward_equivalent(self) -> None:
        """Downward check potentials -> locals."""
        boxes = np.flatnonzero(self._has_targets & self._deep)
        factors = (self._tables.downward_first, self._tables.downward_second)
        self._check_to_equivalent("downward", factors, boxes, self._locals)

    def l2l(self, level: int) -> None:
        """Locals of the parents on a level -> locals of their children."""
        parents = self._boxes(level, self._has_targets & ~self._tree.is_leaf)
        arguments = {"locals": self._locals, "result": self._locals, "children": self._target_children}
        self._translate("l2l", self._tables.l2l, level, parents, arguments)

    # -- potentials at the targets

    def clear_potentials(self, gradient: bool) -> None:
        """Set all potentials to zero."""
        self.launches.append(self._runtime.clear(self._potentials(gradient)))

    def l2p(self, gradient: bool) -> None:
        """Locals of leaves -> potentials."""
        arrays = {"densities": self._locals}
        self._particles("l2p", self._target_leaves, self._own, self._tables.outer, arrays, gradient)

    def m2p(self, gradient: bool) -> None:
        """Multipoles of the W lists -> potentials."""
        boxes = _rows_with_entries(self._lists.w)
        arrays = {"densities": self._multipoles}
        self._particles("m2p", boxes, self._lists.w, self._tables.inner, arrays, gradient)

    def p2p(self, gradient: bool) -> None:
        """Charges of the U lists -> potentials."""
        boxes = _rows_with_entries(self._lists.u)
        self._particles("p2p", boxes, self._lists.u, 0.0, {}, gradient)

    # -- how operators are bound

    def _bind(self, operator: str, arguments: Mapping[str, Any], gradient: bool = False) -> None:
        self.launches.append(self._runtime.bind(self.compiled(operator, gradient), arguments))

    def compiled(self, operator: str, gradient: bool = False) -> CompiledOperator:
        """Return the code of an operator, generated when it is first asked for."""
        greens = self._gradient if gradient else self._greens
        if (operator, greens.name) not in self._code:
            self._notify(operator)
            self._code[operator, greens.name] = compile_operator(
                operator,
                greens,
                self._tables.order,
                self._dtype,
                self._book,
                self._runtime.device,
                self._parameters.get(operator),
            )
        return self._code[operator, greens.name]

    def _particles(
        self,
        operator: str,
        boxes: Boxes,
        csr: CSR,
        radius_factor: float,
        arrays: Mapping[str, Array],
        gradient: bool = False,
    ) -> None:
        if not len(boxes):
            return
        arguments = {
            **self._points,
            **arrays,
            **self._greens.parameters,
            "potentials": self._potentials(gradient) if operator in ("p2p", "l2p", "m2p") else None,
            "scaling": self._greens.scaling,
            "radius_factor": radius_factor,
            "target_boxes": self._indices(boxes),
            "ntarget_boxes": len(boxes),
            "list_starts": self._csr(csr)[0],
            "lists": self._csr(csr)[1],
        }
        self._bind(operator, arguments, gradient)

    def _translate(
        self, operator: str, matrices: NDArray[Any], level: int, parents: Boxes, arrays: Mapping[str, Array]
    ) -> None:
        if not len(parents):
            return
        table = min(level, len(matrices) - 1)
        counts = self._blocks(operator, parents, self._columns * self._nsurface, self._columns * self._nsurface)
        self._bind(
            operator,
            {
                **arrays,
                **counts,
                "table": self._matrix(operator, matrices, self._columns, self._columns),
                "itable": table,
                "ntables": len(matrices),
                "parents": self._indices(parents, self._tree.nboxes),
                "nparents": len(parents),
            },
        )

    def _check_to_equivalent(
        self, which: str, factors: tuple[NDArray[Any], NDArray[Any]], boxes: Boxes, result: Array
    ) -> None:
        first, second = factors
        middle = first.shape[1] // self._npoints
        for levels, table in self._table_levels():
            here = boxes[np.isin(self._tree.box_levels[boxes], levels)]
            if not len(here):
                continue
            common = {"itable": table, "ntables": len(first), "boxes": self._indices(here, self._tree.nboxes)}
            common["ntargets"] = len(here)
            for name, factor, rows, columns, check, equivalent, scales in (
                ("first", first, middle, self._rows, self._checks, self._middle(middle), self._scales(0)),
                ("second", second, self._columns, middle, self._middle(middle), result, self._scales(-1)),
            ):
                counts = self._blocks("check_to_equivalent", here, rows * self._nsurface, columns * self._nsurface)
                self._bind(
                    "check_to_equivalent",
                    {
                        **common,
                        **counts,
                        "table": self._matrix(f"{which} {name}", factor, rows, columns),
                        "check": check,
                        "equivalent": equivalent,
                        "scales": scales,
                    },
                )

    def _m2l_dense(self, levels: range, table: int) -> None:
        boxes = _rows_with_entries(self._lists.v)
        boxes = boxes[np.isin(self._tree.box_levels[boxes], levels)]
        if not len(boxes):
            return
        matrices = m2l_matrices(self._greens, self._tables.order, self._tables.radii[table], self._tables.inner)
        counts = self._blocks("m2l", boxes, self._rows * self._nsurface, self._columns * self._nsurface)
        starts, lists = self._csr(self._lists.v)
        self._bind(
            "m2l",
            {
                **counts,
                "table": self._matrix(f"m2l {table}", matrices[None], self._rows, self._columns),
                "itable": 0,
                "ntables": 1,
                "multipoles": self._multipoles,
                "result": self._checks,
                "scales": self._scales(1),
                "target_boxes": self._indices(boxes),
                "ntargets": len(boxes),
                "list_starts": starts,
                "lists": lists,
                "transfers": self._transfers,
            },
        )

    def _m2l_fft(self, levels: range, table: int) -> None:
        pairs = find_octet_pairs(self._tree, self._lists, levels)
        if not pairs.npairs:
            return
        order, length = self._tables.order, 2 * self._tables.order - 1
        nsources, ntargets = len(pairs.source_children), len(pairs.target_children)
        octet_bytes = 2 * length**2 * 8 * self._dtype.itemsize
        plane_bytes = octet_bytes * (self._columns * (nsources + 1) + self._rows * (ntargets + 1))
        nplanes = int(min(order, max(1, SPECTRAL_BYTES // plane_bytes)))
        kernel = hadamard_tables(self._greens, order, self._tables.radii[table], self._tables.inner, self._dtype)
        spectrum = dict(zip(("Kr", "Ki"), map(self._runtime.upload, kernel), strict=True))
        arrays = self._spectral_arrays(nplanes * length**2 * 8, nsources + 1, ntargets + 1)
        common = {
            "surface_grid": self._surface_grid,
            **self._fourier,
            **arrays,
            "nboxes": self._tree.nboxes,
            "npoints": self._npoints,
            "nsurface": self._nsurface,
        }
        forward = {"octet_children": self._runtime.upload(pairs.source_children), "noctets": nsources}
        inverse = {"octet_children": self._runtime.upload(pairs.target_children), "noctets": ntargets}
        inverse["octet_scales"] = self._runtime.upload(self._octet_scales(pairs))
        hadamard = {
            **spectrum,
            "pair_starts": self._runtime.upload(pairs.starts),
            "pair_targets": self._indices(pairs.targets, 0),
            "pair_sources": self._indices(pairs.sources, 0),
            "nchunks": pairs.nchunks,
            "nsource_octets": nsources,
            "ntarget_octets": ntargets,
            "nfreqs": order * length**2,
        }
        for start in range(0, order, nplanes):
            planes = {"kz_start": start, "kz_end": min(start + nplanes, order)}
            frequencies = {"f_start": start * length**2, "f_end": planes["kz_end"] * length**2}
            self._bind("m2l_forward", {**common, **forward, **planes, "multipoles": self._multipoles})
            self.launches.append(self._runtime.clear(arrays["Lr"]))
            self.launches.append(self._runtime.clear(arrays["Li"]))
            self._bind("m2l_hadamard", {**common, **hadamard, **frequencies})
            self._bind("m2l_inverse", {**common, **inverse, **planes, "checks": self._checks})

    # -- which boxes

    def _boxes(self, level: int, wanted: NDArray[np.bool_]) -> Boxes:
        return np.flatnonzero(wanted & (self._tree.box_levels == level))

    @cached_property
    def _deep(self) -> NDArray[np.bool_]:
        """Which boxes have expansions."""
        return np.asarray(self._tree.box_levels >= FIRST_LEVEL)

    @cached_property
    def _source_leaves(self) -> Boxes:
        return np.flatnonzero(self._tree.is_leaf & self._has_sources & self._deep)

    @cached_property
    def _target_leaves(self) -> Boxes:
        return np.flatnonzero(self._tree.is_leaf & self._has_targets & self._deep)

    @cached_property
    def _own(self) -> CSR:
        """The list of a box that is the box itself."""
        boxes = np.arange(self._tree.nboxes + 1, dtype=np.int32)
        return CSR(boxes, boxes[:-1])

    def _table_levels(self) -> list[tuple[range, int]]:
        """Return which levels share a table: all of them, or each has its own."""
        if len(self._tables.radii) == 1:
            return [(range(FIRST_LEVEL, self.nlevels), 0)] if self.nlevels > FIRST_LEVEL else []
        return [(range(level, level + 1), level) for level in range(FIRST_LEVEL, self.nlevels)]

    # -- arrays on the device

    def _vectors(self, components: int) -> Array:
        return self._runtime.zeros((self._tree.nboxes + 1, components, self._nsurface), self._dtype)

    @cached_property
    def _multipoles(self) -> Array:
        return self._vectors(self._columns)

    @cached_property
    def _locals(self) -> Array:
        return self._vectors(self._columns)

    @cached_property
    def _checks(self) -> Array:
        return self._vectors(self._rows)

    def _middle(self, components: int) -> Array:
        if not hasattr(self, "_middle_array"):
            self._middle_array = self._vectors(components)
        return self._middle_array

    def _spectral_arrays(self, values: int, nsources: int, ntargets: int) -> dict[str, Array]:
        """Allocate transformed multipoles and check potentials, which levels share as far as they fit."""
        needed = {"M": values * self._columns * nsources, "L": values * self._rows * ntargets}
        arrays = self.__dict__.setdefault("_spectral", {})
        for name, size in needed.items():
            if f"{name}r" not in arrays or arrays[f"{name}r"].size < size:
                arrays.update({name + part: self._runtime.zeros((size,), self._dtype) for part in "ri"})
        return dict(arrays)

    @cached_property
    def _points(self) -> dict[str, Any]:
        """Points, boxes and surface, as all particle operators name them."""
        tree = self._tree
        surface = np.zeros((3, self._nsurface))
        surface[:, : self._npoints] = self._tables.surface
        sources = self._upload(_padded_points(tree.sources))
        targets = sources if tree.same_points else self._upload(_padded_points(tree.targets))
        ranges = ("box_source_starts", "box_source_ends", "box_target_starts", "box_target_ends")
        return {
            "sources": sources,
            "targets": targets,
            "charges": self._charges,
            "surface": self._upload(surface),
            "centres": self._upload(tree.box_centres),
            "radii": self._upload(tree.box_radii),
            "nsources": sources.shape[1],
            "ntargets": targets.shape[1],
            "npoints": self._npoints,
            "nsurface": self._nsurface,
            "nboxes": tree.nboxes,
            **{name: self._runtime.upload(getattr(tree, name)) for name in ranges},
        }

    @cached_property
    def _charges(self) -> Array:
        return self._runtime.zeros((self._columns, _padded(self._tree.nsources)), self._dtype)

    def _potentials(self, gradient: bool) -> Array:
        name = "_potential_and_gradient" if gradient else "_potential"
        if name not in self.__dict__:
            rows = self._rows * (4 if gradient else 1)
            self.__dict__[name] = self._runtime.zeros((rows, _padded(self._tree.ntargets)), self._dtype)
        array: Array = self.__dict__[name]
        return array

    @cached_property
    def _gradient(self) -> GreensFunction:
        return self._greens.with_gradient()

    @cached_property
    def _children(self) -> Array:
        children = np.full((self._tree.nboxes + 1, 8), self._tree.nboxes, np.int32)
        children[:-1] = np.where(self._tree.box_children < 0, self._tree.nboxes, self._tree.box_children)
        return self._runtime.upload(children)

    @cached_property
    def _target_children(self) -> Array:
        children, none = self._tree.box_children, self._tree.nboxes
        wanted = np.full((none + 1, 8), none, np.int32)
        wanted[:-1] = np.where((children >= 0) & self._has_targets[children], children, none)
        return self._runtime.upload(wanted)

    @cached_property
    def _transfers(self) -> Array:
        return self._runtime.upload(self._lists.v_transfers.astype(np.int32))

    @cached_property
    def _surface_grid(self) -> Array:
        return self._runtime.upload(surface_grid(self._tables.order).astype(np.int32))

    @cached_property
    def _fourier(self) -> dict[str, Array]:
        names = ("dft_r", "dft_i", "plane_weights")
        matrices = fourier_matrices(self._tables.order, self._dtype)
        return dict(zip(names, map(self._runtime.upload, matrices), strict=True))

    def _scaling(self, radii: NDArray[Any], sign: int) -> NDArray[Any]:
        """Return radius^(sign k) for a function of homogeneity k, whose table is at radius 1; else 1."""
        return np.asarray(radii ** float(sign * (self._greens.homogeneity or 0)), self._dtype)

    def _scales(self, sign: int) -> Array:
        """Return the scale of every box, for what its table gives."""
        scales = self.__dict__.setdefault("_scale_arrays", {})
        if sign not in scales:
            scales[sign] = self._upload(np.append(self._scaling(self._tree.box_radii, sign), 0))
        array: Array = scales[sign]
        return array

    def _octet_scales(self, pairs: OctetPairs) -> NDArray[Any]:
        a_child = pairs.target_children.min(axis=1)
        return self._scaling(self._tree.box_radii[a_child], 1)

    def _matrix(self, name: str, matrices: NDArray[Any], rows: int, columns: int) -> Array:
        """Upload matrices, padded and stored column by column."""
        stored = self.__dict__.setdefault("_matrices", {})
        if name not in stored:
            stored[name] = self._upload(_padded_matrices(matrices, rows, columns, self._npoints, self._nsurface))
        array: Array = stored[name]
        return array

    def _csr(self, csr: CSR) -> tuple[Array, Array]:
        stored = self.__dict__.setdefault("_csr_arrays", {})
        if id(csr) not in stored:
            stored[id(csr)] = (self._runtime.upload(csr.starts), self._runtime.upload(csr.lists))
        arrays: tuple[Array, Array] = stored[id(csr)]
        return arrays

    def _indices(self, boxes: Sequence[int] | NDArray[Any], beyond: int = 0) -> Array:
        """Upload numbers of boxes, with BLOCK_PADDING more entries."""
        return self._runtime.upload(np.append(boxes, [beyond] * BLOCK_PADDING).astype(np.int32))

    def _upload(self, values: NDArray[Any]) -> Array:
        return self._runtime.upload(np.asarray(values, self._dtype))

    def _blocks(self, operator: str, boxes: Boxes, nrows: int, ncolumns: int) -> dict[str, int]:
        """Count the tiles of boxes and rows, given the lanes that the recipe has chosen."""
        lanes = dict(self.compiled(operator).lanes)
        return {
            "btiles": -(-len(boxes) // lanes.get("blanes", 1)),
            "itiles": nrows // lanes["ilanes"],
            "nboxes": self._tree.nboxes,
            "ncolumns": ncolumns,
        }


def _rows_with_entries(csr: CSR) -> Boxes:
    return np.flatnonzero(np.diff(csr.starts))


def _padded(count: int) -> int:
    """Round up to a multiple of 16 numbers, so that every row of a point array starts at an aligned address."""
    return -(-count // 16) * 16


def _padded_points(points: NDArray[Any]) -> NDArray[Any]:
    padded = np.zeros((3, _padded(points.shape[1])), points.dtype)
    padded[:, : points.shape[1]] = points
    return padded


def _padded_matrices(matrices: NDArray[Any], rows: int, columns: int, npoints: int, nsurface: int) -> NDArray[Any]:
    """Return (..., column component, column, row component, row), both padded from npoints to nsurface with zeros."""
    leading = matrices.shape[:-2]
    blocks = matrices.reshape(*leading, rows, npoints, columns, npoints)
    padded = np.zeros((*leading, columns, nsurface, rows, nsurface))
    padded[..., :npoints, :, :npoints] = np.moveaxis(blocks, (-2, -1), (-4, -3))
    return padded
