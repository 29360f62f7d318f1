"""A plan: the arrays of one problem on a device, the code of its operators, and how both are bound together.

Plans store nothing that depends on charges, so their arrays and code serve every evaluation.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmmloopy.common.range import shift, shift_back
from fmmloopy.components import CHARGES, Components, by_vector
from fmmloopy.execution.arrays import Boxes, DeviceArrays
from fmmloopy.execution.device import CPU
from fmmloopy.execution.key import CodeKey
from fmmloopy.execution.launch import CompiledOperator, count_tiles
from fmmloopy.execution.part import Part
from fmmloopy.execution.runtime import Array, Launch, Runtime
from fmmloopy.execution.setup import Setup
from fmmloopy.execution.together import compile_together
from fmmloopy.execution.values import Potentials
from fmmloopy.octree.copies import copy_boxes
from fmmloopy.octree.lists import CSR, InteractionLists
from fmmloopy.octree.mutual import make_rounds
from fmmloopy.octree.near_pairs import find_unit, replace_by_leaves
from fmmloopy.octree.tree import FIRST_LEVEL, Tree
from fmmloopy.operators import OPERATORS, Operator
from fmmloopy.operators.operator import Families, Particles
from fmmloopy.precision import Types
from fmmloopy.tables.surfaces import Tables


@dataclass(frozen=True, eq=False)
class Problem:
    """Points with their tree, lists and tables.

    Attributes:
        tree: the octree.
        lists: the interaction lists that the operators use.
        tables: translation tables.
        distance: lower bound on the distance of two points that do not coincide; None if some are too close together
            for float32, or if it is unknown.
        part: the part of a larger problem that this is; None if it is whole.
    """

    tree: Tree
    lists: InteractionLists
    tables: Tables
    distance: float | None = None
    part: Part | None = None


@dataclass(frozen=True)
class Send:
    """The place between two launches from which on multipoles are on their way to other parts.

    Attributes:
        multipoles: the array on the device.
    """

    multipoles: Array


@dataclass(frozen=True)
class Receive:
    """The place between two launches where the multipoles of other parts must have come.

    Attributes:
        multipoles: the array on the device.
    """

    multipoles: Array


Action = Launch | Send | Receive


class Plan:
    """A problem on a device.

    Args:
        runtime: the open device.
        setup: the method, recipes and parameters.
        problem: points, tree, lists and tables.
        vectors: how many vectors of charges are evaluated at once.
        like: a plan on the same runtime, with the same setup, for other points or vectors. Its code is used again, and
            so are its arrays of tables if the tables are the same object.

    Attributes:
        runtime, setup, problem, vectors: as given.
        copied: the problem with a copy of each box for each vector, for all operators except those on particles.
        arrays: arrays on the device, by name of their dtype.
        points, expansions, spectra: the arrays in the dtype of each kind of number.
        gathers: shape (nboxes,), which boxes have sources whose multipoles are computed here.
        has_targets: shape (nboxes,), which boxes have any.
    """

    def __init__(
        self, runtime: Runtime, setup: Setup, problem: Problem, vectors: int = 1, like: Plan | None = None
    ) -> None:
        self.runtime, self.setup, self.problem, self.vectors = runtime, setup, problem, vectors
        self.copied = problem
        if vectors > 1:
            tree, lists = copy_boxes(problem.tree, problem.lists, vectors)
            self.copied = replace(problem, tree=tree, lists=lists)
        method, precision = setup.method, setup.method.precision
        kinds = precision.points, precision.expansions, precision.spectra
        shared = like.arrays if like and like.problem.tables is problem.tables else {}
        self.arrays: dict[str, DeviceArrays] = {
            dtype.name: DeviceArrays(
                *(runtime, problem.tree, problem.tables, method.kernel, dtype, self.copied.tree, shared.get(dtype.name))
            )
            for dtype in dict.fromkeys(kinds)
        }
        self.points, self.expansions, self.spectra = (self.arrays[dtype.name] for dtype in kinds)
        self.gathers, self.has_targets = self.points.gathers, self.points.has_targets
        self._keys: dict[tuple[str, Components], CodeKey] = {}
        self._code: dict[tuple[str, Components], CompiledOperator] = {}
        self._units: dict[Components, float | None] = {}
        self._compiled: dict[tuple[str, Components, Types], tuple[CodeKey, CompiledOperator]] = (
            like._compiled if like else {}
        )

    @property
    def workspace(self) -> int:
        """Bytes for transformed expansions; parts on one machine share those of its processor."""
        device, part = self.runtime.device, self.problem.part
        sharing = part.on_machine if part is not None and device.kind == CPU else 1
        return device.limits.workspace // sharing

    # -- charges and potentials

    def write_charges(
        self, charges: NDArray[Any], components: Components = CHARGES, largest: NDArray[Any] | None = None
    ) -> int:
        """Copy charges and dipole moments of shape (columns, nsources), in tree order, to the device.

        Very large or small charges are divided by a power of two, so that the largest is about 1. So are all charges in
        float64 that operators read in float32, which has no numbers above 10^38.

        Args:
            charges: charges and dipole moments.
            components: what the columns are.
            largest: the largest charges, if others than these count.

        Returns:
            The exponent of that power, by which `read_potentials` multiplies; 0 if nothing was divided.
        """
        exponent = self.exponent(charges if largest is None else largest)
        scaled = np.ldexp(charges, -exponent) if exponent else charges
        for arrays in self.arrays.values():
            for local in (False, True):
                if arrays.has_charges(components, local):
                    array = arrays.charges(components, local)
                    values = np.zeros(array.shape, arrays.dtype)
                    values[:, : charges.shape[1]] = self.moments_in_unit(scaled, components) if local else scaled
                    self.runtime.write(array, values)
        return exponent

    def exponent(self, charges: NDArray[Any]) -> int:
        """Return the exponent of the power of two that charges are divided by, see `write_charges`."""
        narrowed = charges.dtype == np.float64 and self.spectra.dtype == np.float32
        return int(np.frexp(np.abs(charges).max(initial=0.0))[1]) if narrowed else shift(charges)

    def moments_in_unit(self, charges: NDArray[Any], components: Components) -> NDArray[Any]:
        """Return charges, and moments in the unit of near pairs in float32."""
        unit, count = self._unit(components), self.setup.method.kernel.nsource_components
        of_vector = by_vector(charges, components.vectors).copy()
        of_vector[:, count * components.charges :] *= unit
        return of_vector.reshape(charges.shape)

    def run(self, actions: Sequence[Action]) -> dict[str, float]:
        """Replay launches, wait, and return seconds by operator.

        Multipoles go to other parts and come from them while the device works on the launches in between; ``exchange``
        has the seconds that this takes longer than those launches.
        """
        runtime, part = self.runtime, self.problem.part
        launches = [action for action in actions if isinstance(action, Launch)]
        if part is None:
            return runtime.run(launches)
        sends, receives = ([isinstance(action, kind) for action in actions].index(True) for kind in (Send, Receive))
        array = next(action.multipoles for action in actions if isinstance(action, Send))
        before = part.together(lambda: runtime.run(launches[:sends]))
        start = time.perf_counter()
        values = part.together(lambda: runtime.read(array, part.exchanged))
        finish = part.together(lambda: runtime.start(launches[sends : receives - 1]))
        part.exchange_multipoles(values)
        meanwhile = part.together(finish)
        part.together(lambda: runtime.write(array, values, part.exchanged))
        waiting = {"exchange": max(time.perf_counter() - start - sum(meanwhile.values()), 0.0)}
        parts = before, meanwhile, waiting, part.together(lambda: runtime.run(launches[receives - 1 :]))
        return {name: sum(each.get(name, 0.0) for each in parts) for name in dict.fromkeys(chain(*parts))}

    def read_potentials(self, potentials: Potentials, exponent: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return potentials in tree order, shape (rows, ntargets).

        Args:
            potentials: on the device.
            exponent: what `write_charges` has returned.
            dtype: dtype of the charges and of the result.

        Raises:
            ValueError: a potential is above the largest number of the dtype.
        """
        before = self.points.first_target
        values = self.runtime.read(potentials.array)[:, before : before + self.problem.tree.ntargets]
        return shift_back(values.astype(dtype, copy=False), exponent)

    # -- code

    def code(
        self, operator: Operator, notify: Callable[[str], None], components: Components = CHARGES
    ) -> CompiledOperator:
        """Return the code of an operator; ``notify`` is called with its name before the code is first generated."""
        name, own = operator.name, operator.own(components)
        if (name, own) not in self._code:
            types = self.types_of(operator, components)
            self.prepare([operator], notify, components)
            self._keys[name, own], self._code[name, own] = self._compiled[name, own, types]
        return self._code[name, own]

    def operators(self, m2l: str) -> tuple[Operator, ...]:
        """Return the operators that have work, with a form of M2L."""

        def has_work(operator: Operator) -> bool:
            if operator.m2l:
                return operator.m2l == m2l and self.problem.lists.v.lists.size > 0
            if operator.particles:
                return bool(len(self.boxes_of(self.particles_of(operator))))
            return self.problem.tree.nlevels > FIRST_LEVEL + isinstance(operator.over, Families)

        return tuple(filter(has_work, OPERATORS.values()))

    def prepare(
        self, operators: Iterable[Operator], notify: Callable[[str], None], components: Components = CHARGES
    ) -> None:
        """Generate and build the code of operators, several at the same time, before they are bound."""
        keys = {}
        for operator in operators:
            own, types = operator.own(components), self.types_of(operator, components)
            if (operator.name, own, types) not in self._compiled:
                keys[operator.name, own, types] = self.setup.code_key(operator.name, own, types)
        if not keys:
            return
        codes = compile_together(list(keys.values()), self.runtime, notify)
        for (place, key), code in zip(keys.items(), codes, strict=True):
            self._compiled[place] = key, self.setup.admit(key, code) if self.setup.admit else code

    @property
    def kernels(self) -> tuple[tuple[CodeKey, CompiledOperator], ...]:
        """The kernels that were bound so far, with what their code was generated from."""
        return tuple((key, self._code[name]) for name, key in self._keys.items())

    def use(self, code: CompiledOperator, components: Components = CHARGES) -> None:
        """Use other code for an operator, from the next recording on."""
        self._code[code.operator, self.setup.book.operator(code.operator).own(components)] = code

    def types_of(self, operator: Operator, components: Components = CHARGES) -> Types:
        """Return the types of an operator's kernel; P2P is mixed only if near pairs are in the range of float32."""
        record = self.setup.book.operator(operator.name)
        types = record.types_in(self.setup.method.precision)
        if record.is_local and types.is_mixed and not self._unit(components):
            return Types(types.outer, types.outer)
        return types

    def _unit(self, components: Components) -> float | None:
        """Return a unit of length in which near pairs are in the range of float32; None if there is none."""
        if components not in self._units:
            plain = self.setup.method.kernel
            kernel = components.of(plain)
            is_homogeneous, width = plain.homogeneity is not None, self.problem.tree.half_width
            distance = self.problem.distance
            found = None if distance is None else find_unit(kernel, is_homogeneous, width, distance)
            self._units[components] = found
        return self._units[components]

    def bind(
        self,
        operator: Operator,
        arguments: Mapping[str, Any],
        notify: Callable[[str], None],
        components: Components = CHARGES,
    ) -> Launch:
        """Bind an operator to its arguments; others are ignored."""
        return self.runtime.bind(self.code(operator, notify, components), arguments)

    def counts(
        self, operator: Operator, boxes: Boxes, rows: int, columns: int, notify: Callable[[str], None]
    ) -> dict[str, int]:
        """Return the number of tiles of a dense product for copies of boxes, given the lanes fixed by the recipe."""
        lanes, nsurface = dict(self.code(operator, notify).lanes), self.expansions.nsurface
        return {
            **count_tiles(len(boxes), rows * nsurface, lanes),
            "ncolumns": columns * nsurface,
            "nboxes": self.copied.tree.nboxes,
        }

    # -- boxes and lists of the operators

    def particles_of(self, operator: Operator) -> Particles:
        """Return the two sides of a particle operator."""
        particles = self.setup.book.operator(operator.name).particles
        assert particles is not None
        return particles

    def list_of(self, name: str, by_leaves: bool = False) -> CSR:
        """Return an interaction list by its name, ``"own"`` for the list of a box that is the box itself.

        Args:
            name: name of the list.
            by_leaves: whether entries that are not leaves are replaced by their leaves.
        """
        if name == "own":
            return self._own
        return self._leaves_of_u if by_leaves else getattr(self.problem.lists, name)

    def boxes_of(self, particles: Particles) -> Boxes:
        """Return the target boxes of a particle operator: those whose list has entries, or the leaves with points."""
        if particles.list != "own":
            return np.flatnonzero(self.list_of(particles.list).lengths)
        return self.leaves(self.gathers if particles.targets.is_surface else self.has_targets)

    def leaves(self, wanted: NDArray[np.bool_]) -> Boxes:
        """Return the selected leaves that have expansions."""
        tree = self.problem.tree
        return np.flatnonzero(tree.is_leaf & wanted & (tree.box_levels >= FIRST_LEVEL))

    def parents(self, level: int, wanted: NDArray[np.bool_]) -> Boxes:
        """Return the selected boxes of a level that have children."""
        tree = self.problem.tree
        return np.flatnonzero(~tree.is_leaf & wanted & (tree.box_levels == level))

    def children_of(self, operator: Operator) -> Array:
        """Return the children that an operator works on: all of a parent's, or those with targets."""
        over = self.setup.book.operator(operator.name).over
        assert isinstance(over, Families)
        return self.points.children if over.side == "sources" else self.points.target_children

    def levels_by_table(self) -> list[tuple[range, int]]:
        """Return which levels share a table: all levels, or each level alone."""
        nlevels = self.problem.tree.nlevels
        if len(self.problem.tables.radii) == 1:
            return [(range(FIRST_LEVEL, nlevels), 0)] if nlevels > FIRST_LEVEL else []
        return [(range(level, level + 1), level - FIRST_LEVEL) for level in range(FIRST_LEVEL, nlevels)]

    def on_levels(self, levels: range, boxes: Boxes) -> Boxes:
        """Return the copies of boxes that are on some levels."""
        here = self.copied.tree.box_levels[boxes]
        return boxes[(here >= levels.start) & (here < levels.stop)]

    def with_v_lists(self, levels: range) -> Boxes:
        """Return the copies of boxes of some levels that have entries in their V lists."""
        return self.on_levels(levels, np.flatnonzero(self.copied.lists.v.lengths))

    def local_points(self, components: Components) -> dict[str, Any]:
        """Return the arguments for near pairs in float32 that replace sources in float64."""
        unit, kernel = self._unit(components), self.setup.method.kernel
        assert unit is not None
        scaling = kernel.scaling * unit ** -(kernel.homogeneity or 0)
        return {"sources": self.spectra.local_sources(unit), "unit": unit, "scaling": scaling}

    @cached_property
    def rounds(self) -> list[dict[str, Any]]:
        """Return the arguments for each round of pairs of leaves that act on each other."""
        upload = self.runtime.upload
        return [
            {
                "unit_starts": upload(each.unit_starts),
                "nunits": len(each.unit_starts) - 1,
                "pair_targets": upload(each.targets),
                "pair_sources": upload(each.sources),
            }
            for each in make_rounds(self.problem.tree, self.problem.lists.mutual, self.setup.cores)
        ]

    @cached_property
    def _leaves_of_u(self) -> CSR:
        return replace_by_leaves(self.problem.tree, self.problem.lists.u)

    @cached_property
    def _own(self) -> CSR:
        boxes = np.arange(self.problem.tree.nboxes + 1, dtype=np.int32)
        return CSR(boxes, boxes[:-1])
