"""Time operators on a realistic problem, and decide whether two times differ.

A problem is a tree with random charges on the unit sphere, in the unit cube, or clustered around a point. An operator
is timed alone, several times, by the device's clock, on the arrays of a whole evaluation filled with random numbers.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmmloopy.accuracy import ncrit_for
from fmmloopy.choosing.work import Work, count_work
from fmmloopy.common.cores import processors
from fmmloopy.common.sizes import FIRST_ORDER, LAST_ORDER, count_points
from fmmloopy.components import CHARGES, GRADIENT
from fmmloopy.execution.devices import Device, DeviceError
from fmmloopy.execution.launch import CompiledOperator
from fmmloopy.execution.plan import Plan
from fmmloopy.execution.plan import Problem as PlannedProblem
from fmmloopy.execution.runtime import Launch, Runtime
from fmmloopy.execution.setup import Method, Setup
from fmmloopy.execution.stages import Stages
from fmmloopy.execution.values import Charges, Checks, Locals, Multipoles, Potentials
from fmmloopy.greens import SHIPPED, GreensFunction
from fmmloopy.measuring.roofline import count_bytes
from fmmloopy.octree.lists import InteractionLists, build_lists
from fmmloopy.octree.mutual import pair_leaves
from fmmloopy.octree.near_pairs import least_distance
from fmmloopy.octree.small_boxes import absorb_small_boxes
from fmmloopy.octree.tree import FIRST_LEVEL, Tree, grow_tree, level_radii, sort_points
from fmmloopy.operators import M2L_FORMS, OPERATORS, Operator
from fmmloopy.operators.operator import Families
from fmmloopy.precision import DTYPE_NAMES, Precision, Types
from fmmloopy.recipes.book import RecipeBook
from fmmloopy.tables.cache import cached_tables
from fmmloopy.tables.surfaces import Tables

DISTRIBUTIONS: Mapping[str, str] = {"sphere": "on the sphere", "cube": "in the cube", "clustered": "clustered"}
"""Distributions of points, and how messages describe them. Clustered points are normally distributed around one point,
on all scales from 1 down to 1/1000."""

FEWEST_RUNS = 3
"""Fewest runs that give a spread."""

BUDGET = 3.0
"""Seconds after which an operator is not run again, once it has run FEWEST_RUNS times."""

# -- problems


@dataclass(frozen=True)
class Setting:
    """The parameters of a problem; two times of one operator are comparable if their settings are the same.

    Attributes:
        points: number of points, which are both sources and targets.
        distribution: ``"sphere"`` (surface), ``"cube"`` (volume), or ``"clustered"``, see DISTRIBUTIONS.
        order: points per edge of the surfaces.
        dtype: precision of an evaluation: ``"float64"``, ``"float32"``, or, for points in float64 with narrower
            arithmetic, ``"mixed"`` or ``"reduced"``, see `fmmloopy.precision`.
        kernel: name of the Green's function, a key of SHIPPED.

    Raises:
        ValueError: a value is invalid.
    """

    points: int = 100_000
    distribution: str = "sphere"
    order: int = 6
    dtype: str = "float64"
    kernel: str = "laplace"

    def __post_init__(self) -> None:
        if self.points < 1:
            raise ValueError(f"points is {self.points}, expected at least 1")
        if not FIRST_ORDER <= self.order <= LAST_ORDER:
            raise ValueError(f"order is {self.order}, expected {FIRST_ORDER} to {LAST_ORDER}")
        for name, choices in (
            ("distribution", tuple(DISTRIBUTIONS)),
            ("dtype", tuple(DTYPE_NAMES)),
            ("kernel", tuple(SHIPPED)),
        ):
            if getattr(self, name) not in choices:
                expected = " or ".join(map(repr, choices))
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected {expected}")

    @property
    def greens(self) -> GreensFunction:
        """The Green's function."""
        return SHIPPED[self.kernel]()

    @property
    def precision(self) -> Precision:
        """The working precision."""
        return DTYPE_NAMES[self.dtype]

    @property
    def method(self) -> Method:
        """Green's function, order and precision."""
        return Method(self.greens, self.order, self.precision)

    def computed_in(self, operator: str) -> str:
        """Return the dtype that an operator computes in: float64 or float32."""
        return str(OPERATORS[operator].types_in(self.precision).inner.name)

    def check_device(self, device: Device) -> None:
        """Make sure that a device supports the precision of the problem.

        Raises:
            DeviceError: it has no double precision.
        """
        if self.dtype != "float32" and not device.has_float64:
            raise DeviceError(f"{device.name} has no double precision; use float32")

    def __str__(self) -> str:
        where = DISTRIBUTIONS[self.distribution]
        return f"{self.points:,} points {where}, order {self.order}, {self.dtype}, {self.kernel}"

    def make_points(self) -> NDArray[Any]:
        """Return the points, shape (points, 3), always the same."""
        rng, dtype = np.random.default_rng(0), self.precision.points
        if self.distribution == "cube":
            return rng.random((self.points, 3)).astype(dtype)
        points: NDArray[np.float64] = rng.standard_normal((self.points, 3))
        if self.distribution == "clustered":
            return np.asarray(points * 10.0 ** rng.uniform(-3, 0, (self.points, 1)), dtype)
        return np.asarray(points / np.linalg.norm(points, axis=1, keepdims=True), dtype)


@dataclass(frozen=True, eq=False)
class Problem:
    """A tree with its lists and tables.

    Attributes:
        setting: the parameters of the problem.
        greens: the Green's function.
        tree: the octree.
        lists: the lists that `Fmm` uses.
        whole_lists: the same lists before small boxes are removed.
        tables: translation tables.
        distance: lower bound on the distance of two points, if P2P needs it, see `fmmloopy.octree.near_pairs`.
    """

    setting: Setting
    greens: GreensFunction
    tree: Tree
    lists: InteractionLists
    whole_lists: InteractionLists
    tables: Tables
    distance: float | None = None

    def lists_for(self, operator: str) -> InteractionLists:
        """Return the lists that an operator is timed on.

        For operators on W or X lists, these include all small boxes: if no box has more points than a surface, `Fmm`
        leaves no work for these operators. P2P has all pairs, mutual P2P those that `Fmm` takes from it.
        """
        particles = OPERATORS[operator].particles
        if particles and particles.is_mutual:
            return self._paired
        return self.whole_lists if particles and particles.list in ("w", "x") else self.lists

    @cached_property
    def _paired(self) -> InteractionLists:
        return pair_leaves(self.tree, self.lists, processors())

    def work(self, operator: str, gradient: bool = False) -> Work:
        """Count the work of an operator."""
        lists, method = self.lists_for(operator), self.setting.method
        return count_work(self.tree, lists, method, _form(OPERATORS[operator]), gradient)[operator]

    def nbytes(self, operator: str) -> int:
        """Count the bytes that an operator has to read and write, all in the dtype that it computes in."""
        lists, method = self.lists_for(operator), self.setting.method
        return count_bytes(self.tree, lists, method, _form(OPERATORS[operator]))[operator]


def make_problem(setting: Setting, ncrit: int | None = None) -> Problem:
    """Make the tree, lists and tables of a problem, as `fmmloopy.Fmm` does.

    Args:
        setting: the parameters of the problem.
        ncrit: maximum number of points in a leaf; None for the default of the order.

    Raises:
        ValueError: near pairs cannot be computed in the dtype of the setting.
    """
    greens, precision = setting.greens, setting.precision
    points = sort_points(setting.make_points())
    tree = grow_tree(points, ncrit or ncrit_for(setting.order), split_coincident=False)
    lists = build_lists(tree)
    tables = cached_tables(greens, setting.order, level_radii(tree), precision.tables)
    absorbed = absorb_small_boxes(tree, lists, count_points(setting.order))
    distance = None
    if precision.near != precision.points and (distance := least_distance(points, tree)) is None:
        raise ValueError(f"{setting}: some points are too close together for float32; use fewer points, or float64")
    return Problem(setting, greens, tree, absorbed, lists, tables, distance)


# -- one operator


class NothingToDo(ValueError):
    """A problem has no work for an operator."""


class OperatorTimer:
    """Times kernels of one operator on one problem and device.

    Args:
        problem: the problem.
        operator: the operator.
        book: recipes of the other operators that run with it: the three stages of M2L need each other.
        runtime: an open device.
        gradient: whether P2P, L2P or M2P computes gradients too; the code must be for them.

    Attributes:
        types: the types that the code must be generated for.
    """

    def __init__(
        self, problem: Problem, operator: str, book: RecipeBook, runtime: Runtime, gradient: bool = False
    ) -> None:
        self._operator, self._components = book.operator(operator), GRADIENT if gradient else CHARGES
        setup = Setup(problem.setting.method, book, runtime.device)
        planned = PlannedProblem(problem.tree, problem.lists_for(operator), problem.tables, problem.distance)
        self._plan = Plan(runtime, setup, planned)
        self.types: Types = self._plan.types_of(self._operator, self._components)
        _fill(self._plan, np.random.default_rng(1))

    def time(self, code: CompiledOperator, runs: int = 7) -> Timing:
        """Run code several times, after one run for the device's compiler; fewer times if it is slow, see BUDGET.

        If one run exceeds BUDGET, the first run counts too, since the device's clock excludes the compiler.

        Raises:
            DeviceError: the device cannot compile or run it.
            NothingToDo: the operator has no work in this problem.
        """
        launches = self._launches(code)
        first = self._plan.run(launches)[self._operator.name]
        seconds = [first] if first > BUDGET else []
        while len(seconds) < runs and (len(seconds) < FEWEST_RUNS or sum(seconds) < BUDGET):
            seconds.append(self._plan.run(launches)[self._operator.name])
        return Timing(tuple(seconds))

    def time_by_both_clocks(self, code: CompiledOperator, runs: int = 7) -> tuple[Timing, Timing]:
        """Time code without any other operator, by the device's clock and by wall-clock time.

        The difference is spent between kernels: in Python, in the runtime, on the way to the device.

        Args:
            code: the code to run; the first run does not count.
            runs: number of runs; fewer if it is slow, see BUDGET.

        Returns:
            Seconds in kernels, and seconds from the first launch to the end of the last.

        Raises:
            DeviceError, NothingToDo: as for `time`.
        """
        launches = [launch for launch in self._launches(code) if launch.operator == self._operator.name]
        self._plan.run(launches)
        kernels: list[float] = []
        wall: list[float] = []
        while len(wall) < runs and (len(wall) < FEWEST_RUNS or sum(wall) < BUDGET):
            start = time.perf_counter()
            kernels.append(self._plan.run(launches)[self._operator.name])
            wall.append(time.perf_counter() - start)
        return Timing(tuple(kernels)), Timing(tuple(wall))

    def _launches(self, code: CompiledOperator) -> tuple[Launch, ...]:
        name = self._operator.name
        self._plan.use(code, self._components)
        do = Stages(self._plan, components=self._components)
        _record(do, self._operator, _form(self._operator))
        launches = tuple(action for action in do.launches if isinstance(action, Launch))
        if not any(launch.operator == name for launch in launches):
            raise NothingToDo(f"{name} has no work in this problem; use more points")
        return launches


def _form(operator: Operator) -> str:
    """Return the form of M2L that an operator belongs to; the first form if it belongs to none."""
    return operator.m2l or next(iter(M2L_FORMS))


def _fill(plan: Plan, rng: np.random.Generator) -> None:
    """Fill the arrays of charges and expansions with random numbers."""
    arrays = plan.expansions
    for each in (plan.points, plan.spectra):  # kernels read those of one or the other
        _ = each.charges(CHARGES)
    plan.write_charges(rng.uniform(-1, 1, (arrays.columns, plan.problem.tree.nsources)))
    for array in (arrays.multipoles, arrays.locals, arrays.checks, arrays.between):
        values = rng.uniform(-1, 1, array.shape).astype(array.dtype)
        values[-1] = 0  # stands for boxes that are not there
        plan.runtime.write(array, values)


def _record(do: Stages, operator: Operator, form: str) -> None:
    """Record the launches of one operator, and of those that it needs, by what it runs over."""
    plan = do.plan
    checks, multipoles = Checks(plan.expansions.checks), Multipoles(plan.expansions.multipoles)
    locals_ = Locals(plan.expansions.locals)
    if operator.particles:
        reads: Charges | Multipoles = multipoles if operator.particles.sources.is_surface else do.charges
        potentials = Potentials(plan.points.potentials(do.components), do.components)
        writes = potentials if operator.gives_potentials else checks
        do.particles(operator, reads, writes)
    elif operator.m2l:
        do.m2l(multipoles, form)
    elif isinstance(operator.over, Families):
        for level in range(FIRST_LEVEL, do.nlevels - 1):
            do.translate(operator, multipoles if operator.over.side == "sources" else locals_, level)
    else:
        do.upward_equivalent(checks)
        do.downward_equivalent(checks)


# -- statistics


@dataclass(frozen=True)
class Timing:
    """Seconds of several runs.

    Attributes:
        seconds: one for each run, at least one.
    """

    seconds: tuple[float, ...]

    @property
    def best(self) -> float:
        """The fastest run, in seconds, with the least disturbance by other programs."""
        return min(self.seconds)

    @property
    def median(self) -> float:
        """The median of the runs, in seconds."""
        return float(np.median(self.seconds))

    @property
    def spread(self) -> float:
        """The interquartile range divided by the median; infinite for fewer than FEWEST_RUNS runs."""
        if len(self.seconds) < FEWEST_RUNS:
            return float("inf")
        low, high = np.percentile(self.seconds, (25, 75))
        return float((high - low) / self.median)


@dataclass(frozen=True)
class Difference:
    """The comparison of two times.

    Attributes:
        ratio: how many times as fast the new one is.
        spread: the larger of both spreads.
    """

    ratio: float
    spread: float

    @property
    def is_one(self) -> bool:
        """Whether there is a difference: the larger time exceeds the smaller one by more than the spread."""
        return max(self.ratio, 1 / self.ratio) - 1 > self.spread

    def __str__(self) -> str:
        spread = "spread unknown" if self.spread == float("inf") else f"spread {self.spread:.0%}"
        if not self.is_one:
            return f"no difference: {self.ratio:.2f}x, {spread}"
        return f"{self.ratio:.2f}x as fast, {spread}"


def compare(new: Timing, old: Timing) -> Difference:
    """Compare two times; differences within the spread of either do not count.

    Medians of 7 runs of one program differ by more than the interquartile range in about 1 of 16 comparisons. The
    spread does not include changes between the two times, such as the load of a shared machine: alternate the runs.
    """
    return Difference(old.median / new.median, max(new.spread, old.spread))


def finite(number: float) -> float | None:
    """Return a number for JSON: None if it is not finite."""
    return number if np.isfinite(number) else None
