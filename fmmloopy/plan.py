"""A plan: every operator bound once to the arrays of one problem, ready to be replayed for new charges.

Each operator is a method that appends launches to the recording. What they need is decided and uploaded here, once;
the order of the operators is the driver's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmmloopy.accuracy import svd_tolerance
from fmmloopy.arrays import Boxes, DeviceArrays
from fmmloopy.balance import cut_heavy_boxes
from fmmloopy.compile import compile_operator
from fmmloopy.execution.launch import CompiledOperator
from fmmloopy.greens import GreensFunction
from fmmloopy.lists import CSR, InteractionLists
from fmmloopy.m2l_svd import tiles_of_factors
from fmmloopy.m2l_tables import find_box_pairs, find_octet_pairs, hadamard_tables
from fmmloopy.near_field import find_unit, replace_by_leaves
from fmmloopy.precision import MIXED, TYPES, dtype_name, kernel_dtype
from fmmloopy.recipes import RecipeBook
from fmmloopy.runtime import Array, Launch, Runtime
from fmmloopy.surfaces import Tables, m2l_matrices
from fmmloopy.table_cache import cached_factors
from fmmloopy.tree import Tree

M2L_OPERATORS = {"fft": ("m2l_forward", "m2l_hadamard", "m2l_inverse"), "svd": ("m2l_svd",), "dense": ("m2l",)}
"""Operators of each form of M2L."""

FIRST_LEVEL = 2
"""Boxes of levels 0 and 1 have no box that is apart from them, so there are no expansions above this level."""


def level_radii(tree: Tree) -> NDArray[np.float64]:
    """Return the box radius (half width) on each level that has tables, from FIRST_LEVEL on: one at least."""
    levels = np.arange(FIRST_LEVEL, max(tree.nlevels, FIRST_LEVEL + 1))
    return np.asarray(tree.half_width / 2.0**levels, np.float64)


class Plan:
    """Operators bound to the arrays of one problem.

    The dtype is that of an evaluation, see `fmmloopy.precision`; each operator has arrays in its own. No two points are
    nearer than ``distance``, unless they coincide; without it, P2P is never mixed.

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
        dtype: Any,
        book: RecipeBook,
        parameters: Mapping[str, Mapping[str, Any]],
        distance: float | None = None,
    ) -> None:
        self.nlevels = tree.nlevels
        self.launches: list[Launch] = []
        self._notify: Callable[[str], None] = lambda operator: None
        self._runtime, self._tree, self._lists, self._tables = runtime, tree, lists, tables
        self._greens, self._dtype, self._book, self._parameters = greens, dtype, book, parameters
        types = TYPES[dtype_name(dtype)]
        by_type = {each: DeviceArrays(runtime, tree, tables, greens, each) for each in set(astuple(types))}
        self._points, self._expansions, self._spectra = (
            by_type[each] for each in (types.points, types.expansions, types.spectra)
        )
        self._all_arrays = tuple(by_type.values())
        self._exponent = 0
        self._distance, self._units = distance, dict[bool, float | None]()
        self._code: dict[tuple[str, bool], CompiledOperator] = {}

    # -- what evaluate needs

    def record(self, passes: Callable[[Plan], None], notify: Callable[[str], None] | None = None) -> tuple[Launch, ...]:
        """Return the launches that a function of this plan appends, telling ``notify`` each operator beforehand."""
        self.launches, self._notify = [], notify or (lambda operator: None)
        passes(self)
        return tuple(self.launches)

    def write_charges(self, charges: NDArray[Any]) -> None:
        """Put charges of shape (components, nsources), in tree order, on the device.

        Where they come in float64 and are used in float32, they are divided by a power of two that makes the largest
        about 1, and potentials multiplied with it: float32 has no numbers beyond 10^38.
        """
        narrowed = charges.dtype == np.float64 and self._spectra.dtype == np.float32
        self._exponent = int(np.frexp(np.abs(charges).max(initial=0.0))[1]) if narrowed else 0
        scaled = np.ldexp(charges, -self._exponent) if narrowed else charges
        for arrays in self._all_arrays:
            if arrays.has_charges or len(self._all_arrays) == 1:
                values = np.zeros(arrays.charges.shape, arrays.dtype)
                values[:, : charges.shape[1]] = scaled
                self._runtime.write(arrays.charges, values)

    def run(self, launches: Sequence[Launch]) -> dict[str, float]:
        """Replay launches, wait, and return seconds by operator."""
        return self._runtime.run(launches)

    def read_potentials(self, gradient: bool) -> NDArray[Any]:
        """Return potentials in tree order, shape (components, ntargets); with gradient, 4 times as many components."""
        values = self._runtime.read(self._points.potentials(gradient))[:, : self._tree.ntargets]
        return np.ldexp(values.astype(np.float64), self._exponent) if self._exponent else values

    # -- the upward pass

    def clear_checks(self) -> None:
        """Set all check potentials to zero."""
        self.launches.append(self._runtime.clear(self._expansions.checks))

    def p2m(self) -> None:
        """Charges of leaves -> upward check potentials."""
        arrays = {"checks": self._expansions.checks}
        self._particles("p2m", self._leaves(self._points.has_sources), self._own, self._tables.outer, arrays)

    def upward_equivalent(self) -> None:
        """Upward check potentials of leaves -> their multipoles."""
        factors = (self._tables.upward_first, self._tables.upward_second)
        boxes = self._leaves(self._points.has_sources)
        self._check_to_equivalent("upward", factors, boxes, self._expansions.multipoles)

    def m2m(self, level: int) -> None:
        """Multipoles of the children -> multipoles of their parents on a level."""
        vectors = self._expansions.multipoles
        arrays = {"multipoles": vectors, "result": vectors, "children": self._points.children}
        self._translate("m2m", self._tables.m2m, level, self._parents(level, self._points.has_sources), arrays)

    # -- the downward pass

    def m2l(self, form: str) -> None:
        """Multipoles -> downward check potentials of the boxes whose V lists they are in."""
        for levels, table in self._levels_by_table():
            {"fft": self._m2l_fft, "svd": self._m2l_svd, "dense": self._m2l_dense}[form](levels, table)

    def p2l(self) -> None:
        """Charges of leaves -> downward check potentials of the boxes whose X lists they are in."""
        arrays = {"checks": self._expansions.checks}
        self._particles("p2l", _rows_with_entries(self._lists.x), self._lists.x, self._tables.inner, arrays)

    def downward_equivalent(self) -> None:
        """Downward check potentials -> locals."""
        factors = (self._tables.downward_first, self._tables.downward_second)
        boxes = np.flatnonzero(self._points.has_targets & (self._tree.box_levels >= FIRST_LEVEL))
        self._check_to_equivalent("downward", factors, boxes, self._expansions.locals)

    def l2l(self, level: int) -> None:
        """Locals of the parents on a level -> locals of their children."""
        vectors = self._expansions.locals
        arrays = {"locals": vectors, "result": vectors, "children": self._points.target_children}
        self._translate("l2l", self._tables.l2l, level, self._parents(level, self._points.has_targets), arrays)

    # -- potentials at the targets

    def clear_potentials(self, gradient: bool) -> None:
        """Set all potentials to zero."""
        self.launches.append(self._runtime.clear(self._points.potentials(gradient)))

    def l2p(self, gradient: bool) -> None:
        """Locals of leaves -> potentials."""
        arrays = {"densities": self._expansions.locals, "potentials": self._points.potentials(gradient)}
        boxes = self._leaves(self._points.has_targets)
        self._particles("l2p", boxes, self._own, self._tables.outer, arrays, gradient)

    def m2p(self, gradient: bool) -> None:
        """Multipoles of the W lists -> potentials."""
        arrays = {"densities": self._expansions.multipoles, "potentials": self._points.potentials(gradient)}
        boxes = _rows_with_entries(self._lists.w)
        self._particles("m2p", boxes, self._lists.w, self._tables.inner, arrays, gradient)

    def p2p(self, gradient: bool) -> None:
        """Charges of the U lists -> potentials."""
        arrays: dict[str, Any] = {"potentials": self._points.potentials(gradient)}
        u = self._lists.u
        if self.dtype_of("p2p", gradient) == MIXED:
            unit, u = self._unit(gradient), self._leaves_of_u
            assert unit is not None
            arrays["sources"] = self._spectra.local_sources(unit)
            arrays |= {"unit": unit, "scaling": self._greens.scaling * unit ** -(self._greens.homogeneity or 0)}
        self._particles("p2p", _rows_with_entries(u), u, 0.0, arrays, gradient)

    # -- which boxes

    def _leaves(self, wanted: NDArray[np.bool_]) -> Boxes:
        """Return the leaves that are wanted and have expansions."""
        return np.flatnonzero(self._tree.is_leaf & wanted & (self._tree.box_levels >= FIRST_LEVEL))

    def _parents(self, level: int, wanted: NDArray[np.bool_]) -> Boxes:
        """Return the boxes of a level that are wanted and have children."""
        return np.flatnonzero(~self._tree.is_leaf & wanted & (self._tree.box_levels == level))

    @cached_property
    def _leaves_of_u(self) -> CSR:
        """U lists in which boxes that are no leaves are replaced by their leaves."""
        return replace_by_leaves(self._tree, self._lists.u)

    @cached_property
    def _own(self) -> CSR:
        """The list of a box that is the box itself."""
        boxes = np.arange(self._tree.nboxes + 1, dtype=np.int32)
        return CSR(boxes, boxes[:-1])

    def _levels_by_table(self) -> list[tuple[range, int]]:
        """Return which levels share a table: all of them, or each has its own."""
        if len(self._tables.radii) == 1:
            return [(range(FIRST_LEVEL, self.nlevels), 0)] if self.nlevels > FIRST_LEVEL else []
        return [(range(level, level + 1), level - FIRST_LEVEL) for level in range(FIRST_LEVEL, self.nlevels)]

    def _on(self, levels: range, boxes: Boxes) -> Boxes:
        here = self._tree.box_levels[boxes]
        return boxes[(here >= levels.start) & (here < levels.stop)]

    # -- how operators are bound

    def compiled(self, operator: str, gradient: bool = False) -> CompiledOperator:
        """Return the code of an operator, generated when it is first asked for."""
        if (operator, gradient) not in self._code:
            self._notify(operator)
            self._code[operator, gradient] = compile_operator(
                operator,
                self._greens.with_gradient() if gradient else self._greens,
                self._tables.order,
                self.dtype_of(operator, gradient),
                self._book,
                self._runtime.device,
                self._parameters.get(operator),
            )
        return self._code[operator, gradient]

    def dtype_of(self, operator: str, gradient: bool = False) -> str:
        """Return the dtype of an operator's kernel: P2P is mixed only where float32 holds what near pairs give."""
        dtype = kernel_dtype(operator, self._dtype)
        return str(self._points.dtype) if operator == "p2p" and dtype == MIXED and not self._unit(gradient) else dtype

    def _unit(self, gradient: bool) -> float | None:
        """Return the unit of length in which float32 holds what near pairs give, None if there is none."""
        if gradient not in self._units:
            greens = self._greens.with_gradient() if gradient else self._greens
            is_homogeneous, width = self._greens.homogeneity is not None, self._tree.half_width
            found = None if self._distance is None else find_unit(greens, is_homogeneous, width, self._distance)
            self._units[gradient] = found
        return self._units[gradient]

    def _bind(self, operator: str, arguments: Mapping[str, Any], gradient: bool = False) -> None:
        self.launches.append(self._runtime.bind(self.compiled(operator, gradient), arguments))

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
        # Charges and surfaces are in what the kernel computes in.
        inner = self._spectra if self.dtype_of(operator, gradient) == MIXED else self._points
        arguments = {
            **self._points.points,
            **inner.surfaces,
            "charges": inner.charges,
            "sources": self._points.sources,
            "scaling": self._greens.scaling,
            **arrays,
            **self._points.csr(csr),
            **self._greens.arguments,
            "radius_factor": radius_factor,
            "target_boxes": self._points.indices(boxes),
            "ntarget_boxes": len(boxes),
        }
        if operator in ("p2p", "l2p", "m2p"):
            arguments |= self._pieces(boxes, csr, operator == "p2p")
        self._bind(operator, arguments, gradient)

    def _pieces(self, boxes: Boxes, csr: CSR, by_sources: bool) -> dict[str, Any]:
        """Return the arguments that put pieces in the place of target boxes, if one has too much work."""
        tree, limits = self._tree, self._runtime.device.limits
        sources = tree.box_source_ends - tree.box_source_starts if by_sources else None
        pieces = cut_heavy_boxes(tree, boxes, csr, sources, limits.heavy_share, limits.piece_targets)
        if pieces is None:
            return {}
        return {
            **self._points.csr(pieces.csr),
            "box_target_starts": self._runtime.upload(pieces.starts),
            "box_target_ends": self._runtime.upload(pieces.ends),
            "target_boxes": self._points.indices(np.arange(len(pieces.starts))),
            "ntarget_boxes": len(pieces.starts),
        }

    def _counts(self, operator: str, boxes: Boxes, rows: int, columns: int) -> dict[str, int]:
        """Count the tiles of a dense product, given the lanes that the recipe has chosen."""
        lanes = dict(self.compiled(operator).lanes)
        return {
            "btiles": -(-len(boxes) // lanes.get("blanes", 1)),
            "itiles": rows * self._expansions.nsurface // lanes["ilanes"],
            "ncolumns": columns * self._expansions.nsurface,
            "nboxes": self._tree.nboxes,
        }

    def _translate(
        self, operator: str, matrices: NDArray[Any], level: int, parents: Boxes, arrays: Mapping[str, Array]
    ) -> None:
        if not len(parents):
            return
        columns = self._expansions.columns
        arguments = {
            **arrays,
            **self._counts(operator, parents, columns, columns),
            "table": self._expansions.matrix(operator, matrices, columns, columns),
            "itable": min(level - FIRST_LEVEL, len(matrices) - 1),
            "ntables": len(matrices),
            "parents": self._points.indices(parents, self._tree.nboxes),
            "nparents": len(parents),
        }
        self._bind(operator, arguments)

    def _check_to_equivalent(
        self, which: str, factors: tuple[NDArray[Any], NDArray[Any]], boxes: Boxes, result: Array
    ) -> None:
        """Apply the two factors of a pseudo-inverse, the second with the scaling of every box."""
        arrays = self._expansions
        rows, columns, between = arrays.rows, arrays.columns, min(arrays.rows, arrays.columns)
        stages = (
            ("first", factors[0], between, rows, arrays.checks, arrays.between, arrays.scales(0)),
            ("second", factors[1], columns, between, arrays.between, result, arrays.scales(-1)),
        )
        for levels, table in self._levels_by_table():
            here = self._on(levels, boxes)
            if not len(here):
                continue
            indices = arrays.indices(here, self._tree.nboxes)
            for name, matrices, nrows, ncolumns, check, equivalent, scales in stages:
                arguments = {
                    **self._counts("check_to_equivalent", here, nrows, ncolumns),
                    "table": arrays.matrix(f"{which} {name}", matrices, nrows, ncolumns),
                    "itable": table,
                    "ntables": len(matrices),
                    "check": check,
                    "equivalent": equivalent,
                    "scales": scales,
                    "boxes": indices,
                    "ntargets": len(here),
                }
                self._bind("check_to_equivalent", arguments)

    def _m2l_dense(self, levels: range, table: int) -> None:
        boxes = self._on(levels, _rows_with_entries(self._lists.v))
        if not len(boxes):
            return
        arrays = self._expansions
        matrices = m2l_matrices(self._greens, self._tables.order, self._tables.radii[table], self._tables.inner)
        arguments = {
            **self._counts("m2l", boxes, arrays.rows, arrays.columns),
            **arrays.csr(self._lists.v),
            "table": arrays.matrix(f"m2l {table}", matrices[None], arrays.rows, arrays.columns),
            "itable": 0,
            "ntables": 1,
            "multipoles": arrays.multipoles,
            "result": arrays.checks,
            "scales": arrays.scales(1),
            "target_boxes": arrays.indices(boxes),
            "ntargets": len(boxes),
            "transfers": self._transfers,
        }
        self._bind("m2l", arguments)

    def _m2l_svd(self, levels: range, table: int) -> None:
        boxes = self._on(levels, _rows_with_entries(self._lists.v))
        if not len(boxes):
            return
        arrays, tables = self._expansions, self._tables
        tolerance = svd_tolerance(tables.order, arrays.dtype)
        factors = cached_factors(self._greens, tables.order, tables.radii[table], tables.inner, tolerance)
        pairs = find_box_pairs(self._lists, boxes)
        ktile_starts, right, left = tiles_of_factors(factors, arrays.nsurface)
        arguments = {
            **self._counts("m2l_svd", boxes, arrays.rows, arrays.columns),
            "right": arrays.upload(right),
            "left": arrays.upload(left),
            "ktile_starts": self._runtime.upload(ktile_starts),
            "nktiles": len(right),
            "multipoles": arrays.multipoles,
            "result": arrays.checks,
            "scales": arrays.scales(1),
            "pair_starts": self._runtime.upload(pairs.starts),
            "pair_targets": arrays.indices(pairs.targets),
            "pair_sources": arrays.indices(pairs.sources),
            "nchunks": pairs.nchunks,
        }
        self._bind("m2l_svd", arguments)

    @cached_property
    def _transfers(self) -> Array:
        return self._runtime.upload(self._lists.v_transfers)

    def _m2l_fft(self, levels: range, table: int) -> None:
        pairs = find_octet_pairs(self._tree, self._lists, levels)
        if not pairs.npairs:
            return
        arrays, order = self._expansions, self._tables.order
        plane = (2 * order - 1) ** 2  # frequencies
        nsources, ntargets = len(pairs.source_children), len(pairs.target_children)
        octets = arrays.columns * (nsources + 1) + arrays.rows * (ntargets + 1)
        workspace = self._runtime.device.limits.workspace
        nplanes = int(min(order, max(1, workspace // (2 * plane * 8 * octets * self._spectra.dtype.itemsize))))
        kernel = hadamard_tables(
            self._greens, order, self._tables.radii[table], self._tables.inner, self._spectra.dtype
        )
        spectra = self._spectra.spectra(nplanes * plane * 8, nsources + 1, ntargets + 1)
        common = {
            **spectra,
            **self._spectra.fourier,
            "surface_grid": arrays.surface_grid,
            "npoints": arrays.npoints,
            "nsurface": arrays.nsurface,
            "nboxes": self._tree.nboxes,
        }
        forward = {
            **common,
            "octet_children": self._runtime.upload(pairs.source_children),
            "noctets": nsources,
            "multipoles": arrays.multipoles,
        }
        hadamard = {
            **common,
            **dict(zip(("Kr", "Ki"), map(self._runtime.upload, kernel), strict=True)),
            "pair_starts": self._runtime.upload(pairs.starts),
            "pair_targets": arrays.indices(pairs.targets),
            "pair_sources": arrays.indices(pairs.sources),
            "nchunks": pairs.nchunks,
            "nsource_octets": nsources,
            "ntarget_octets": ntargets,
            "nfreqs": order * plane,
        }
        a_child = pairs.target_children.min(axis=1)
        inverse = {
            **common,
            "octet_children": self._runtime.upload(pairs.target_children),
            "noctets": ntargets,
            "octet_scales": arrays.upload(arrays.scaling(self._tree.box_radii[a_child], 1)),
            "checks": arrays.checks,
        }
        for start in range(0, order, nplanes):
            end = min(start + nplanes, order)
            planes = {"kz_start": start, "kz_end": end}
            self._bind("m2l_forward", {**forward, **planes})
            self.launches += [self._runtime.clear(spectra[name]) for name in ("Lr", "Li")]
            self._bind("m2l_hadamard", {**hadamard, "f_start": start * plane, "f_end": end * plane})
            self._bind("m2l_inverse", {**inverse, **planes})


def _rows_with_entries(csr: CSR) -> Boxes:
    return np.flatnonzero(np.diff(csr.starts))
