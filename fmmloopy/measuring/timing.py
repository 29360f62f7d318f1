"""Time operators on a realistic problem, and say whether two times differ.

A problem is a tree with random charges on the unit sphere, in the unit cube, or clustered around a point. An operator
is timed alone, on the arrays of a whole evaluation filled with random numbers, by the device's clock, several times.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmmloopy.accuracy import ncrit_for
from fmmloopy.devices import Device, DeviceError
from fmmloopy.execution.launch import CompiledOperator
from fmmloopy.greens import GreensFunction, laplace, yukawa
from fmmloopy.lists import InteractionLists, build_lists
from fmmloopy.measuring.roofline import count_bytes_in
from fmmloopy.near_field import least_distance
from fmmloopy.plan import FIRST_LEVEL, M2L_OPERATORS, Plan, level_radii
from fmmloopy.precision import TYPES, computed_in, tables_dtype
from fmmloopy.recipes import RecipeBook
from fmmloopy.runtime import Launch, Runtime
from fmmloopy.small_boxes import absorb_small_boxes
from fmmloopy.surfaces import Tables, count_points
from fmmloopy.table_cache import cached_tables
from fmmloopy.tree import Tree, grow_tree, sort_points
from fmmloopy.work import Work, count_work

DISTRIBUTIONS: Mapping[str, str] = {"sphere": "on the sphere", "cube": "in the cube", "clustered": "clustered"}
"""How points may lie, and how a sentence says it. Clustered ones are normally distributed around one point, on all
scales from 1 down to 1/1000."""
KERNELS: Mapping[str, Callable[[], GreensFunction]] = {"laplace": laplace, "yukawa": yukawa}

FEWEST_RUNS = 3
"""A spread needs that many."""

BUDGET = 3.0
"""Seconds after which an operator is not run again, if it has run FEWEST_RUNS times."""

WHOLE_LISTS = ("m2p", "p2l")
"""Operators timed on lists with all small boxes in them: where points outnumber those of a surface in no box, `Fmm`
gives these operators nothing to do."""


# -- problems


@dataclass(frozen=True)
class Setting:
    """What a problem is made from; two times of one operator are comparable if their settings are the same.

    Attributes:
        points: how many points, sources and targets at once.
        distribution: ``"sphere"``, its surface, ``"cube"``, its inside, or ``"clustered"``, see DISTRIBUTIONS.
        order: points per edge of the surfaces.
        dtype: of an evaluation: ``"float64"``, ``"float32"``, or for points in float64 that are worked on in less
            ``"mixed"`` or ``"reduced"``, see `fmmloopy.precision`.
        kernel: name of the Green's function, a key of KERNELS.

    Raises:
        ValueError: a value that cannot be used.
    """

    points: int = 100_000
    distribution: str = "sphere"
    order: int = 6
    dtype: str = "float64"
    kernel: str = "laplace"

    def __post_init__(self) -> None:
        if self.points < 1:
            raise ValueError(f"points is {self.points}, expected at least 1")
        if not 2 <= self.order <= 16:
            raise ValueError(f"order is {self.order}, expected 2 to 16")
        for name, choices in (
            ("distribution", tuple(DISTRIBUTIONS)),
            ("dtype", tuple(TYPES)),
            ("kernel", tuple(KERNELS)),
        ):
            if getattr(self, name) not in choices:
                expected = " or ".join(map(repr, choices))
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected {expected}")

    @property
    def greens(self) -> GreensFunction:
        """The Green's function."""
        return KERNELS[self.kernel]()

    def computed_in(self, operator: str) -> str:
        """Return what an operator computes in: float64 or float32."""
        return computed_in(operator, self.dtype)

    def check_device(self, device: Device) -> None:
        """Make sure that a device has what the problem is in.

        Raises:
            DeviceError: it has no double precision.
        """
        if self.dtype != "float32" and not device.has_float64:
            raise DeviceError(f"{device.name} has no double precision; take float32")

    def __str__(self) -> str:
        where = DISTRIBUTIONS[self.distribution]
        return f"{self.points:,} points {where}, order {self.order}, {self.dtype}, {self.kernel}"

    def make_points(self) -> NDArray[Any]:
        """Return the points, shape (points, 3), always the same."""
        rng, dtype = np.random.default_rng(0), TYPES[self.dtype].points
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
        setting: what it was made from.
        greens: the Green's function.
        tree: the octree.
        lists: as `Fmm` works through them.
        whole_lists: the same before small boxes are taken out, for WHOLE_LISTS.
        tables: translation tables.
        distance: what no two points are nearer than, where that matters to P2P, see `fmmloopy.near_field`.
    """

    setting: Setting
    greens: GreensFunction
    tree: Tree
    lists: InteractionLists
    whole_lists: InteractionLists
    tables: Tables
    distance: float | None = None

    def lists_for(self, operator: str) -> InteractionLists:
        """Return the lists that an operator is timed on."""
        return self.whole_lists if operator in WHOLE_LISTS else self.lists

    def work(self, operator: str, gradient: bool = False) -> Work:
        """Count the work of an operator."""
        lists, setting = self.lists_for(operator), self.setting
        form, dtype = _form(operator), TYPES[setting.dtype].expansions
        return count_work(self.tree, lists, setting.order, self.greens, form, gradient, dtype=dtype)[operator]

    def nbytes(self, operator: str) -> int:
        """Count the bytes that an operator has to read and write, all in what it computes in."""
        lists, setting = self.lists_for(operator), self.setting
        form = _form(operator)
        return count_bytes_in(setting.dtype, self.tree, lists, setting.order, self.greens, form)[operator]


def make_problem(setting: Setting, ncrit: int | None = None) -> Problem:
    """Make the tree, lists and tables of a problem, as `fmmloopy.Fmm` does.

    Args:
        setting: what it is made from.
        ncrit: most points of a leaf; None for what suits the order.

    Raises:
        ValueError: near pairs cannot be in the dtype that the setting asks for.
    """
    greens, types = setting.greens, TYPES[setting.dtype]
    points = sort_points(setting.make_points())
    tree = grow_tree(points, ncrit or ncrit_for(setting.order), split_coincident=False)
    lists = build_lists(tree)
    tables = cached_tables(greens, setting.order, level_radii(tree), tables_dtype(setting.dtype))
    absorbed = absorb_small_boxes(tree, lists, count_points(setting.order))
    distance = None
    if types.near != types.points and (distance := least_distance(points, tree)) is None:
        raise ValueError(f"of {setting}, some are too near each other for float32; take fewer points, or float64")
    return Problem(setting, greens, tree, absorbed, lists, tables, distance)


# -- one operator


class NothingToDo(ValueError):
    """A problem has no work for an operator."""


class OperatorTimer:
    """Times kernels of one operator on one problem and device.

    Args:
        problem: the problem.
        operator: the operator.
        book: recipes of the other operators that run along with it: the three stages of M2L need each other.
        runtime: an open device.
        gradient: whether P2P, L2P or M2P computes gradients too; the code must be for them.

    Attributes:
        dtype: what code has to be made for.
    """

    def __init__(
        self, problem: Problem, operator: str, book: RecipeBook, runtime: Runtime, gradient: bool = False
    ) -> None:
        self._operator, self._runtime, self._gradient = operator, runtime, gradient
        data = problem.tree, problem.lists_for(operator), problem.tables, problem.greens, problem.setting.dtype
        self._plan = _Plan(runtime, *data, book, {}, problem.distance)
        self.dtype = self._plan.dtype_of(operator, gradient)
        self._plan.fill(np.random.default_rng(1))

    def time(self, code: CompiledOperator, runs: int = 7) -> Timing:
        """Run code several times, after once for the device's compiler; fewer times if it is slow, see BUDGET.

        Of code slower than that the first run counts, too: by the device's clock, its compiler takes no time.

        Raises:
            DeviceError: the device cannot compile or run it.
            NothingToDo: the operator has nothing to do in this problem.
        """
        launches = self._launches(code)
        first = self._plan.run(launches)[self._operator]
        seconds = [first] if first > BUDGET else []
        while len(seconds) < runs and (len(seconds) < FEWEST_RUNS or sum(seconds) < BUDGET):
            seconds.append(self._plan.run(launches)[self._operator])
        return Timing(tuple(seconds))

    def time_by_both_clocks(self, code: CompiledOperator, runs: int = 7) -> tuple[Timing, Timing]:
        """Run code without any other operator, by the device's clock and by the one on the wall at once.

        What is more on the wall is spent between kernels: in Python, in the runtime, on the way to the device.

        Args:
            code: what to run; once before any time counts.
            runs: how often; fewer times if it is slow, see BUDGET.

        Returns:
            Seconds in kernels, and seconds from the first launch to the end of the last.

        Raises:
            DeviceError, NothingToDo: as for `time`.
        """
        launches = [launch for launch in self._launches(code) if launch.operator == self._operator]
        self._plan.run(launches)
        kernels: list[float] = []
        wall: list[float] = []
        while len(wall) < runs and (len(wall) < FEWEST_RUNS or sum(wall) < BUDGET):
            start = time.perf_counter()
            kernels.append(self._plan.run(launches)[self._operator])
            wall.append(time.perf_counter() - start)
        return Timing(tuple(kernels)), Timing(tuple(wall))

    def _launches(self, code: CompiledOperator) -> tuple[Launch, ...]:
        launches = self._plan.launches_with(self._operator, code, self._gradient)
        if not any(launch.operator == self._operator for launch in launches):
            raise NothingToDo(f"{self._operator} has nothing to do in this problem; take more points")
        return launches


class _Plan(Plan):
    """A plan in which the code of one operator can be exchanged, and one operator launched by itself."""

    _chosen: CompiledOperator | None = None

    def compiled(self, operator: str, gradient: bool = False) -> CompiledOperator:
        """Return the exchanged code of an operator, or its own."""
        if self._chosen and operator == self._chosen.operator:
            return self._chosen
        return super().compiled(operator, gradient)

    def launches_with(self, operator: str, code: CompiledOperator, gradient: bool = False) -> tuple[Launch, ...]:
        """Return the launches of an operator, with this code for it."""
        self._chosen = code
        return self.record(lambda plan: _launch(plan, operator, gradient))

    def fill(self, rng: np.random.Generator) -> None:
        """Put random numbers where a whole evaluation would have put charges and expansions."""
        arrays = self._expansions
        for each in (self._points, self._spectra):  # kernels read those of one or the other
            _ = each.charges
        self.write_charges(rng.uniform(-1, 1, (arrays.columns, self._tree.nsources)))
        for array in (arrays.multipoles, arrays.locals, arrays.checks, arrays.between):
            values = rng.uniform(-1, 1, array.shape).astype(array.dtype)
            values[-1] = 0  # stands for boxes that are not there
            self._runtime.write(array, values)


def _launch(plan: Plan, operator: str, gradient: bool) -> None:
    """Append the launches of one operator, and of those that it cannot do without."""
    if operator in ("p2p", "l2p", "m2p"):
        getattr(plan, operator)(gradient)
    elif operator in ("p2m", "p2l"):
        getattr(plan, operator)()
    elif operator in ("m2m", "l2l"):
        for level in range(FIRST_LEVEL, plan.nlevels - 1):
            getattr(plan, operator)(level)
    elif operator == "check_to_equivalent":
        plan.upward_equivalent()
        plan.downward_equivalent()
    else:
        plan.m2l(_form(operator))


def _form(operator: str) -> str:
    """Return the form of M2L that an operator belongs to; the first, if to none."""
    return next((form for form, own in M2L_OPERATORS.items() if operator in own), next(iter(M2L_OPERATORS)))


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
        """The fastest run, in seconds: what the machine can do when nothing else runs on it."""
        return min(self.seconds)

    @property
    def median(self) -> float:
        """The median of the runs, in seconds."""
        return float(np.median(self.seconds))

    @property
    def spread(self) -> float:
        """The interquartile range over the median; infinite for fewer than FEWEST_RUNS runs, of which none is known."""
        if len(self.seconds) < FEWEST_RUNS:
            return float("inf")
        low, high = np.percentile(self.seconds, (25, 75))
        return float((high - low) / self.median)


@dataclass(frozen=True)
class Difference:
    """How one time compares with another.

    Attributes:
        ratio: how many times as fast it is.
        spread: the larger of both spreads.
    """

    ratio: float
    spread: float

    @property
    def is_one(self) -> bool:
        """Whether there is a difference: the ratio, the larger over the smaller, is beyond the spread."""
        return max(self.ratio, 1 / self.ratio) - 1 > self.spread

    def __str__(self) -> str:
        spread = "spread unknown" if self.spread == float("inf") else f"spread {self.spread:.0%}"
        if not self.is_one:
            return f"no difference: {self.ratio:.2f}x, {spread}"
        return f"{self.ratio:.2f}x as fast, {spread}"


def compare(new: Timing, old: Timing) -> Difference:
    """Compare two times; a difference that is within the spread of either is none.

    Medians of 7 runs of one program differ by more than the interquartile range in about 1 of 16 comparisons. What
    changes between two times, such as the load of a shared machine, is not in the spread: take runs in turn.
    """
    return Difference(old.median / new.median, max(new.spread, old.spread))


def finite(number: float) -> float | None:
    """Return a number as JSON has it: None for what is not finite."""
    return number if np.isfinite(number) else None
