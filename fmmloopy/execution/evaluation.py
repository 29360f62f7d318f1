"""An evaluation: built once for given points, and run for any number of charge vectors."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmmloopy.common.cores import beside
from fmmloopy.common.progress import doing, generating
from fmmloopy.common.range import shift_back
from fmmloopy.components import CHARGES, Components, by_vector
from fmmloopy.execution.key import CodeKey
from fmmloopy.execution.launch import CompiledOperator
from fmmloopy.execution.part import Part, Result
from fmmloopy.execution.passes import downward_pass, far_pass, near_pass, upward_pass
from fmmloopy.execution.plan import Action, Plan, Problem
from fmmloopy.execution.reordering import Reordering, reorders
from fmmloopy.execution.runtime import Runtime
from fmmloopy.execution.setup import Method, Setup
from fmmloopy.execution.stages import Stages
from fmmloopy.execution.values import Locals, Multipoles, Potentials
from fmmloopy.octree.lists import InteractionLists, build_lists
from fmmloopy.octree.near_pairs import least_distance
from fmmloopy.octree.tree import DEEPEST_LEVEL, SortedPoints, Tree, grow_tree, level_radii, sort_points
from fmmloopy.operators import Operator
from fmmloopy.precision import Precision
from fmmloopy.tables.cache import cached_tables
from fmmloopy.tables.surfaces import Tables, table_radii

DEEPEST_SINGLE = 15
"""Centres of boxes are exact in float32 down to this level."""

MOST_VECTORS, MOST_SUMS = 8, 32
"""Most vectors of charges that are evaluated at once, and most sums that kernels have for each target."""

MEMORY_SHARE, EXPANSIONS, UNKNOWN_MEMORY = 8, 4, 2**33
"""Expansions of all vectors, which are in four arrays, take at most this share of a device's memory; bytes of a device
that does not say."""

Timings = dict[str, float]


DONE_IN = {
    "tree": "tree",
    "choice": "choosing order and ncrit",
    "lists": "interaction lists",
    "tables": "translation tables",
    "setup": "code and arrays",
}
"""What is done in the stages of a construction, for those who wait."""


@contextmanager
def timed(timings: Timings, name: str) -> Iterator[None]:
    """Add the duration of a block to a dictionary, in seconds, and show what it does."""
    start = time.perf_counter()
    with doing(DONE_IN.get(name, name)):
        yield
    timings[name] = timings.get(name, 0.0) + time.perf_counter() - start


def grower(points: SortedPoints, precision: Precision) -> Callable[[int], Tree]:
    """Return a function that builds the tree of sorted points for an ncrit.

    Boxes around coincident points are not split, because this would only reduce the accuracy of gradients, whose errors
    are those of potentials divided by the size of the box.
    """
    return partial(grow_tree, points, max_level=deepest_level(precision), split_coincident=False)


def deepest_level(precision: Precision) -> int:
    """Return the level of the finest boxes."""
    return DEEPEST_SINGLE if precision.points == np.float32 else DEEPEST_LEVEL


class Evaluation:
    """The fast multipole method for given points: its passes, recorded once and replayed for new charges.

    Args:
        setup: the method, recipes and device.
        m2l: the form of M2L.
        points: the sorted points.
        tree: the octree of these points.
        runtime: the open device.
        timings: dictionary for seconds by stage: lists, tables, setup.
        previous: an evaluation on the same runtime. If it has the same setup, its code is used again, and its tables if
            they are for the same radii; and what it has run last is recorded at once.
        radius: boxes of all levels use the tables of boxes with this half width; None for the tables of each level.
            Results are wrong for a function that is not homogeneous, but the time to compute them is the same.
        part: the part of a larger problem that this is, whose tree is ``tree``; None if it is whole.
        ahead: operators that evaluations after this one will need: their code is generated together with its own.

    Attributes:
        setup, m2l: as given.
        problem: tree, lists and tables.
        timings: seconds by stage for the construction, and by operator for the last run.
    """

    def __init__(
        self,
        setup: Setup,
        m2l: str,
        points: SortedPoints,
        tree: Tree,
        runtime: Runtime,
        timings: Timings | None = None,
        previous: Evaluation | None = None,
        radius: float | None = None,
        part: Part | None = None,
        ahead: Sequence[Operator] = (),
    ) -> None:
        self.setup, self.m2l, self._ahead = setup, m2l, ahead
        self.timings: Timings = {} if timings is None else timings
        method = setup.method
        searched = method.precision.near != method.precision.points
        self._exchanges: Part | _Whole = part or _Whole(tree)
        together = self._exchanges.together
        with timed(self.timings, "lists"):
            if part is None:
                lists, distance = _lists(points, tree, setup, searched)
            else:
                lists, distance = together(lambda: setup.lists_of(part)), part.distance
        with timed(self.timings, "tables"):
            like = previous if previous is not None and previous.setup is setup else None
            radii = level_radii(tree) if radius is None else np.array([radius])
            tables = together(lambda: _tables(method, radii, like))
        with timed(self.timings, "setup"):
            self.problem = Problem(tree, lists, tables, distance, part)
            used = None if like is None else like._plan
            self._plan: Plan = together(lambda: Plan(runtime, setup, self.problem, like=used))
            self._plans = {1: self._plan}
            self._texts: dict[int, tuple[CodeKey, str]] = {}
            self._expansions: dict[Components, _Expansions] = {}
            self._recorded: dict[Components, tuple[tuple[Action, ...], Potentials]] = {}
            self._reorderings: dict[tuple[Components, str], tuple[Reordering, tuple[Action, ...]]] = {}
            self._last = CHARGES
            wanted = CHARGES if previous is None else previous._last
            self.prepare(wanted if wanted.vectors <= self.most_vectors(wanted) else CHARGES)

    @classmethod
    def of_points(
        cls,
        setup: Setup,
        m2l: str,
        ncrit: int,
        sources: NDArray[Any],
        runtime: Runtime,
        targets: NDArray[Any] | None = None,
        previous: Evaluation | None = None,
        radius: float | None = None,
        ahead: Sequence[Operator] = (),
    ) -> Evaluation:
        """Build an evaluation for sources and targets, shape (n, 3); without targets, they are the sources."""
        precision = setup.method.precision
        sorted_points = sort_points(sources, targets, precision.points)
        tree = grower(sorted_points, precision)(ncrit)
        return cls(setup, m2l, sorted_points, tree, runtime, None, previous, radius, ahead=ahead)

    @property
    def runtime(self) -> Runtime:
        """The open device."""
        return self._plan.runtime

    @property
    def kernels(self) -> tuple[tuple[CodeKey, CompiledOperator], ...]:
        """The kernels that were bound so far, with what their code was generated from."""
        bound = (pair for plan in self._plans.values() for pair in plan.kernels)
        return tuple({self._text(key): (key, code) for key, code in bound}.values())

    def _text(self, key: CodeKey) -> str:
        """Return a key as text; it is made once, since that takes a fraction of a millisecond."""
        if id(key) not in self._texts:
            self._texts[id(key)] = key, key.text()
        return self._texts[id(key)][1]

    def most_vectors(self, components: Components) -> int:
        """Return how many vectors of charges to evaluate at once: a power of two.

        Kernels keep a sum for each row of each vector in registers, and expansions of all vectors are in memory.
        """
        kernel, device, arrays = self.setup.method.kernel, self.setup.device, self._plan.expansions
        sums = max(components.rows(kernel.ntarget_components), arrays.rows)
        numbers = (self.problem.tree.nboxes + 1) * max(arrays.rows, arrays.columns) * arrays.nsurface
        memory = (device.memory or UNKNOWN_MEMORY) // (EXPANSIONS * MEMORY_SHARE * numbers * arrays.dtype.itemsize)
        most = min(MOST_VECTORS, MOST_SUMS // sums, memory, device.limits.most_numbers // numbers)
        most = -int(self._exchanges.largest(np.array([-most]))[0])
        return 1 << (max(most, 1).bit_length() - 1)

    def prepare(self, components: Components) -> None:
        """Record the launches of a run, unless they are recorded; the first time, this generates and compiles code."""
        if components not in self._recorded:
            self._recorded[components] = self._exchanges.together(lambda: self._record(components))

    def run(self, charges: NDArray[Any], components: Components = CHARGES) -> NDArray[Any]:
        """Evaluate once, and store seconds by operator in ``timings``.

        Args:
            charges: shape (columns, nsources), in the original order of the sources; all columns of a vector, then
                those of the next.
            components: what the columns and rows are.

        Returns:
            Shape (rows, ntargets), in the original order of the targets.
        """
        self.prepare(components)
        self._last = components
        launches, potentials = self._recorded[components]
        plan = self._plans[components.vectors]
        reordering = None
        if reorders(plan):
            reordering, launches = self._reordering(components, charges.dtype)
            in_order = charges.copy() if components.vectors > 1 else charges
        else:
            in_order = self._exchanges.bring_in(charges)
        vectors = by_vector(in_order, components.vectors)
        largest = self._exchanges.largest(np.abs(vectors).max(axis=(1, 2), initial=0.0))
        exponents = [plan.exponent(each) for each in largest] if components.vectors > 1 else [0]
        for values, exponent in zip(vectors, exponents, strict=True):  # vectors may be of very different size
            if exponent:
                np.ldexp(values, -exponent, out=values)

        def write() -> int:
            scaled = np.ldexp(largest, np.negative(exponents))
            if reordering:
                return reordering.write(in_order, scaled)
            return plan.write_charges(in_order, components, scaled)

        exponent = self._exchanges.together(write)
        self.timings.update(plan.run(launches))

        def read() -> NDArray[Any]:
            if reordering:
                return reordering.read(exponent)
            return plan.read_potentials(potentials, exponent, charges.dtype)

        found = self._exchanges.together(read)
        found = found if reordering else self._exchanges.take_out(found)
        parts = zip(by_vector(found, components.vectors), exponents, strict=True)
        return np.concatenate([shift_back(part, exponent) for part, exponent in parts]) if any(exponents) else found

    def _reordering(self, components: Components, dtype: np.dtype[Any]) -> tuple[Reordering, tuple[Action, ...]]:
        """Return what puts charges and potentials in order on the device, and the launches of a run with it."""
        if (components, dtype.name) not in self._reorderings:
            launches, potentials = self._recorded[components]
            made = Reordering(self._plans[components.vectors], components, potentials, dtype)
            self._reorderings[components, dtype.name] = made, (*made.before, *launches, *made.after)
        return self._reorderings[components, dtype.name]

    def _record(self, components: Components) -> tuple[tuple[Action, ...], Potentials]:
        """Record the passes; return their launches and the resulting potentials."""
        with generating(f"{self.setup.device.name}, {self.setup.book.name}") as notify:
            if components.vectors not in self._plans:
                plan = Plan(self._plan.runtime, self.setup, self.problem, components.vectors, self._plan)
                self._plans[components.vectors] = plan
            plan, sources = self._plans[components.vectors], replace(components, gradient=False, hessian=False)
            plan.prepare(dict.fromkeys((*plan.operators(self.m2l), *self._ahead)), notify, components)
            if sources not in self._expansions:
                self._expansions[sources] = self._record_expansions(partial(Stages, plan, notify, sources))
            expansions = self._expansions[sources]
            near, far = Stages(plan, notify, components), Stages(plan, notify, components)
            potentials = near_pass(near, near.charges, components)
            potentials = far_pass(far, expansions.multipoles, expansions.locals, potentials)
        return (*expansions.upward, *near.launches, *expansions.downward, *far.launches), potentials

    def _record_expansions(self, stages: Callable[[], Stages]) -> _Expansions:
        """Record the passes that are the same with and without derivatives, whose tables take most of the memory."""
        up, down = stages(), stages()
        multipoles = down.receive(upward_pass(up, up.charges))
        locals_ = downward_pass(down, down.charges, multipoles, self.m2l)
        return _Expansions(tuple(up.launches), tuple(down.launches), multipoles, locals_)


@dataclass(frozen=True)
class _Expansions:
    """What the upward and the downward pass launch, and the expansions that they leave."""

    upward: tuple[Action, ...]
    downward: tuple[Action, ...]
    multipoles: Multipoles
    locals: Locals


class _Whole:
    """A problem that is not divided into parts."""

    def __init__(self, tree: Tree) -> None:
        self._order, self._places = tree.source_order, np.empty_like(tree.target_order)
        self._places[tree.target_order] = np.arange(tree.ntargets)

    def bring_in(self, charges: NDArray[Any]) -> NDArray[Any]:
        # Permute by reading in random order, which is faster than writing in random order. Nothing is clipped.
        return charges.take(self._order, axis=1, mode="clip")

    def take_out(self, potentials: NDArray[Any]) -> NDArray[Any]:
        return potentials.take(self._places, axis=1, mode="clip")

    def largest(self, values: NDArray[Any]) -> NDArray[Any]:
        return values

    def together(self, call: Callable[[], Result]) -> Result:
        return call()


def _lists(points: SortedPoints, tree: Tree, setup: Setup, searched: bool) -> tuple[InteractionLists, float | None]:
    """Return the interaction lists of a whole tree, and a lower bound on distances if it is searched for."""
    if not searched:
        return setup.near_lists(tree, build_lists(tree)), None
    return beside(lambda: setup.near_lists(tree, build_lists(tree)), lambda: least_distance(points, tree))


def _tables(method: Method, radii: NDArray[np.float64], like: Evaluation | None) -> Tables:
    """Return the tables for boxes: those of an evaluation with the same method, if they are for the same radii."""
    if like is not None and np.array_equal(like.problem.tables.radii, table_radii(method.translations, radii)):
        return like.problem.tables
    return cached_tables(method.translations, method.order, radii, method.precision.tables)
