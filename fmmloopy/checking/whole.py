"""The last layer of a check: compare whole evaluations with the direct sum."""

from __future__ import annotations

import functools
import itertools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmmloopy.checking.inputs import orders_of_transforms
from fmmloopy.common.isolation import Stage
from fmmloopy.common.sizes import FIRST_ORDER
from fmmloopy.components import CHARGES, GRADIENT
from fmmloopy.direct import direct
from fmmloopy.execution.devices import Device, choose_device
from fmmloopy.execution.evaluation import Evaluation
from fmmloopy.execution.key import CodeKey
from fmmloopy.execution.runtime import Runtime, make_runtime
from fmmloopy.execution.setup import Method, Setup
from fmmloopy.greens import GreensFunction, laplace, yukawa
from fmmloopy.operators import M2L_FORMS, M2L_FORWARD, Specification
from fmmloopy.precision import find_precision, find_types
from fmmloopy.recipes.apply import apply_recipe
from fmmloopy.recipes.book import SEQUENTIAL, Recipe, RecipeBook
from fmmloopy.recipes.layouts import layouts_of, ordered

FMM_BOUND = 3.0
"""Factor by which the error of a whole evaluation may exceed that of the sequential kernels, from rounding alone."""

SAMPLE = 300
"""Points at which potentials are summed directly."""

LIMIT = 600.0
"""Seconds for one evaluation, most of them to generate and compile the code of all operators."""

FEWEST = 100
"""Sources that an evaluation keeps at least, however small it is made."""


@dataclass(frozen=True)
class Problem:
    """A whole evaluation.

    Attributes:
        name: what is special about it.
        sources: positions, shape (n, 3).
        targets: positions; None for the sources.
        kernel: the Green's function.
        order: of the surfaces.
        ncrit: the most points of a leaf.
        m2l: form of M2L.
        gradient: whether gradients are wanted too.
        pairs: whether pairs of leaves are evaluated for both at once, if the book can, as it does with many points.
    """

    name: str
    sources: NDArray[np.float64]
    targets: NDArray[np.float64] | None
    kernel: GreensFunction
    order: int
    ncrit: int
    m2l: str
    gradient: bool
    pairs: bool = False

    def __str__(self) -> str:
        what = f"{self.kernel.name}{' with gradients' if self.gradient else ''}"
        pairs = ", pairs of leaves" if self.pairs else ""
        return f"{self.name}, {what}, order {self.order}, M2L by {self.m2l}{pairs}"


@dataclass(frozen=True)
class Wrong:
    """What is wrong with a whole evaluation.

    Attributes:
        message: in one line; "" if nothing is.
        operator: the one whose sequential kernel makes it right; "" if there is no such operator.
        step: number and name of the first step of its recipe with which it is wrong; "" if unknown.
        case: how many points show it.
    """

    message: str = ""
    operator: str = ""
    step: str = ""
    case: str = ""


def check_whole(
    stage: Stage,
    book: RecipeBook,
    device: str,
    dtype: str,
    parameters: Mapping[str, Mapping[str, Any]],
    full: bool,
    operators: Sequence[str] = (),
) -> Wrong:
    """Evaluate whole problems with the book and with the sequential kernels, twice each with other charges.

    A book's own operators replace those of the package, and only this layer compares them with the package's sequential
    kernels. If an evaluation is wrong, it is repeated with the sequential kernel of one operator after the other, and
    then with more and more steps of the recipe of that operator which makes the difference.

    Args:
        stage: called before each stage.
        book: the recipes and operators that are used.
        device: description of the device.
        dtype: float32, float64, mixed or reduced.
        parameters: keyword arguments for every recipe of the book.
        full: whether there are more problems, and larger ones.
        operators: those whose recipes are used, with those that they need, see `with_partners`; () for all.
    """
    runtime = make_runtime(choose_device(device))  # shared, so that programs are built once
    if operators:
        book = _with(book, with_partners(book, operators, runtime.device))
    for problem in problems(book, dtype, full):
        trial = _Trial(stage, problem, runtime, dtype)
        if wrong := trial.wrong(book, parameters):
            operator, step = _blame(trial, book, parameters)
            smallest = _smallest(stage, trial, book, parameters)
            return Wrong(f"{problem}: {smallest.wrong(book, parameters) or wrong}", operator, step, smallest.words())
    return Wrong()


def with_partners(book: RecipeBook, operators: Sequence[str], device: Device) -> tuple[str, ...]:
    """Return operators, and those whose recipes must be used with theirs: they share arrays that these order otherwise.

    Args:
        book: the book.
        operators: some that it has recipes for.
        device: the device; recipes have their parameters for it.
    """
    found = list(operators)
    for name in found:  # it grows
        mine = ordered(book.operator(name)).keys()
        found += [
            other for other in book.to_check if other not in found and mine & ordered(book.operator(other)).keys()
        ]
    for name in found if len(found) > len(operators) else ():
        spec = Specification(book.operator(name), laplace(), FIRST_ORDER, find_types("float32"))
        if layouts_of(CodeKey(spec, book, device).steps()[-1].kernel, spec.operator, f"{book.name}, {name}"):
            return tuple(found)
    return tuple(operators)


def _with(book: RecipeBook, operators: Sequence[str]) -> RecipeBook:
    """Return what a book has for some operators."""
    return replace(
        book,
        recipes={name: recipe for name, recipe in book.recipes.items() if name in operators},
        operators={name: own for name, own in book.operators.items() if name in operators},
        by_device={name: given for name, given in book.by_device.items() if name in operators},
        tuning={},
    )


def problems(book: RecipeBook, dtype: str, full: bool) -> Iterator[Problem]:
    """Yield the problems of a precision; those of all precisions together have every form of M2L at level quick too.

    Orders are those for which other layers have made the transforms' code.

    Args:
        book: whose own operators decide which forms of M2L are tried in every precision.
        dtype: float32, float64, mixed or reduced.
        full: whether all problems are wanted with all forms of M2L.
    """
    rng = np.random.default_rng(1)
    count = 20000 if full else 3000
    sphere, clusters, cube = (points(rng, count) for points in (_on_sphere, _in_clusters, _in_cube))
    apart = np.concatenate([rng.permutation(clusters)[: count // 3], clusters[: count // 9] + 1e-4, cube + 2.5])
    own = any(operator.gives_potentials for operator in book.operators.values())
    first, second, third = _forms(book, dtype, full)
    low, high = sorted(orders_of_transforms(M2L_FORWARD.types_in(find_precision(dtype))))
    yield from (Problem("sphere", sphere, None, laplace(), 6, 60, form, own, pairs=True) for form in first)
    deep = Problem("separate targets, near and far, of clusters", clusters, apart, yukawa(2.0), low, 20, "", True)
    yield from (replace(deep, m2l=form) for form in second)
    large = Problem("cube with large leaves", cube[: count // 2], None, laplace(), high, count // 7, "", own)
    yield from (replace(large, m2l=form) for form in third)


def _forms(book: RecipeBook, dtype: str, full: bool) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Return the forms of M2L for the sphere, for clusters, and for large leaves.

    The FFT form is tried in all precisions; each of the others in one, or in both at level full. Forms with an operator
    of the book's own are always tried.
    """
    has_own = tuple(f for f, stages in M2L_FORMS.items() if any(stage.name in book.operators for stage in stages))
    if dtype not in ("float32", "float64"):
        return tuple(dict.fromkeys(("fft", *has_own))), ("fft",), ()
    if full:
        return tuple(M2L_FORMS), tuple(M2L_FORMS), ("fft", "svd")
    other = "dense" if dtype == "float32" else "svd"
    return tuple(dict.fromkeys((other, *has_own))), ("fft",), ("fft",)


class _Trial:
    """One problem in one precision: evaluates it with books, and says which are wrong."""

    def __init__(self, stage: Stage, problem: Problem, runtime: Runtime, dtype: str) -> None:
        self.problem = problem
        self._stage, self._runtime, self._dtype = stage, runtime, dtype
        self._precision = find_precision(dtype)
        points = self._precision.points
        self._sources = problem.sources.astype(points)
        self._targets = None if problem.targets is None else problem.targets.astype(points)
        rng = np.random.default_rng(2)
        self._charges = [rng.uniform(-1, 1, len(self._sources)).astype(points) for _ in range(2)]
        places = self._sources if self._targets is None else self._targets
        self._sample = np.unique(np.linspace(0, len(places) - 1, SAMPLE).astype(int))
        self._expected = [
            _values(direct(self._sources, charges, places[self._sample], problem.kernel, gradient=True))
            for charges in self._charges
        ]
        self._sequential = self._evaluate(SEQUENTIAL, {})

    def wrong(self, book: RecipeBook, parameters: Mapping[str, Mapping[str, Any]]) -> str:
        """Evaluate with a book and say what is wrong, in one line; "" if nothing is."""
        given = {name: keywords for name, keywords in parameters.items() if name in book.recipes}
        for number, found in enumerate(self._evaluate(book, given)):
            again = "" if number == 0 else "second charges, "
            for what, values in found.items():
                sequential, expected = self._sequential[number][what], self._expected[number][what]
                if wrong := _difference(values, sequential, expected, self._sample):
                    return f"{again}{what}{wrong}"
        return ""

    def with_half(self, stage: Stage) -> _Trial:
        """Return the same with every other source and target."""
        problem = self.problem
        targets = None if problem.targets is None else problem.targets[::2]
        fewer = replace(problem, sources=problem.sources[::2], targets=targets)
        return _Trial(stage, fewer, self._runtime, self._dtype)

    def words(self) -> str:
        """Count the points."""
        targets = self.problem.targets
        return f"{len(self.problem.sources)} sources" + ("" if targets is None else f", {len(targets)} targets")

    def steps(self, book: RecipeBook, name: str, parameters: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the names of the steps of a recipe."""
        operator = book.operator(name)
        greens = self.problem.kernel
        if self.problem.gradient and operator.gives_potentials:
            greens = greens.with_gradient()
        spec = Specification(operator, greens, self.problem.order, operator.types_in(self._precision))
        given = book.parameters_on(name, self._runtime.device, parameters)
        return tuple(step.name for step in apply_recipe(book, name, spec.kernel(), given))

    def _evaluate(self, book: RecipeBook, parameters: Mapping[str, Mapping[str, Any]]) -> list[dict[str, NDArray[Any]]]:
        """Evaluate twice, with other charges."""
        problem = self.problem
        self._stage(f"fmm: {problem}, recipes of {book.name}", LIMIT)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            method = Method(problem.kernel, problem.order, self._precision)
            device = self._runtime.device
            fewest = 0 if problem.pairs else len(problem.sources) + 1
            limits = replace(device.limits, pairs_from=fewest, narrow_pairs=True)
            setup = Setup(method, book, replace(device, limits=limits), parameters)
            evaluation = Evaluation.of_points(
                setup, problem.m2l, problem.ncrit, self._sources, self._runtime, self._targets
            )
            found = [
                evaluation.run(charges[None], GRADIENT if problem.gradient else CHARGES) for charges in self._charges
            ]
        return [_values((each[0], each[1:].T) if problem.gradient else each[0]) for each in found]


def _blame(trial: _Trial, book: RecipeBook, parameters: Mapping[str, Mapping[str, Any]]) -> tuple[str, str]:
    """Return the operator without whose recipe an evaluation is right, and the first step with which it is wrong."""
    for operator in book.to_check:
        if trial.wrong(_without(book, operator), parameters):
            continue
        recipe = book.recipes.get(operator)
        names = trial.steps(book, operator, parameters.get(operator, {})) if recipe else ()
        for count, name in enumerate(names, 1):
            assert recipe
            if trial.wrong(replace(book, recipes={**book.recipes, operator: _first(recipe, count)}), parameters):
                return operator, f"{count} {name!r}"
        return operator, ""
    return "", ""


def _smallest(stage: Stage, trial: _Trial, book: RecipeBook, parameters: Mapping[str, Mapping[str, Any]]) -> _Trial:
    """Return a trial with fewer points that is wrong too, or the trial itself."""
    while len(trial.problem.sources) >= FEWEST:
        fewer = trial.with_half(stage)
        if not fewer.wrong(book, parameters):
            break
        trial = fewer
    return trial


def _without(book: RecipeBook, operator: str) -> RecipeBook:
    """Return a book without what it has for an operator."""

    def others(mapping: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in mapping.items() if name != operator}

    return replace(
        book,
        recipes=others(book.recipes),
        operators=others(book.operators),
        by_device=others(book.by_device),
        tuning=others(book.tuning),
    )


def _first(recipe: Recipe, count: int) -> Recipe:
    """Return a recipe of the first steps of another."""

    @functools.wraps(recipe)
    def first(knl: Any, **keywords: Any) -> Iterator[tuple[str, Any]]:
        yield from itertools.islice(recipe(knl, **keywords), count)

    return first


def _values(result: Any) -> dict[str, NDArray[Any]]:
    """Return results by the name used in messages: "" for potentials, "gradients, " for gradients."""
    return dict(zip(("", "gradients, "), result, strict=True)) if isinstance(result, tuple) else {"": result}


def _difference(found: NDArray[Any], sequential: NDArray[Any], expected: NDArray[Any], sample: NDArray[np.intp]) -> str:
    """Describe errors that are larger than those of the sequential kernels; "" if there are none."""
    errors = [float(np.linalg.norm(v[sample] - expected) / np.linalg.norm(expected)) for v in (found, sequential)]
    if not errors[0] <= FMM_BOUND * errors[1]:
        return f"relative error {errors[0]:.1e}, with the sequential kernels {errors[1]:.1e}"
    difference = float(np.linalg.norm(found - sequential) / np.linalg.norm(sequential))
    if not difference <= FMM_BOUND * errors[1]:
        return f"{difference:.1e} from the sequential kernels, whose error is {errors[1]:.1e}"
    return ""


def _on_sphere(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Return points of a surface, whose tree is adaptive."""
    surface = rng.standard_normal((count, 3))
    return np.asarray(surface / np.linalg.norm(surface, axis=1)[:, None])


def _in_clusters(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Return points around one point, whose tree is deep and whose W and X lists are long."""
    return np.asarray(rng.standard_normal((count, 3)) * 10.0 ** rng.uniform(-3, 0, (count, 1)))


def _in_cube(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Return points that fill a cube."""
    return rng.uniform(-1, 1, (count, 3))
