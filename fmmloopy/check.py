"""Certify recipes: hold every kernel that a recipe makes against the sequential kernel of the same operator.

Layers, in order; a recipe is certified only when all hold:

static      The kernel generates code under loopy's own bounds, race and dependency checks, and silences no warning that
            the operator does not silence.
exact       On whole-numbered data, of all sizes around the widths of lanes, with NaN wherever nothing may be read or
            written, results are identical to the sequential kernel's, bit by bit, in float64 and float32.
numerical   With the Green's functions themselves, results differ from the sequential kernel's in float64 by at most
            NUMERICAL_BOUND eps times the sum of the magnitudes of the terms.
fmm         A whole evaluation with the book agrees with the direct sum.

What fails is reported with the first step of the recipe at which it fails: every step yields a kernel that can run, so
the steps before are run too.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmmloopy.cases import (
    EXACT_LIMIT,
    POLYNOMIALS,
    Case,
    identical,
    make_case,
    real_case,
    run_case,
    term_magnitudes,
)
from fmmloopy.compile import PARTICLE_OPERATORS, CompiledOperator, compile_operator, generate_code
from fmmloopy.devices import Device, DeviceError, choose_device
from fmmloopy.direct import direct
from fmmloopy.driver import Fmm
from fmmloopy.greens import laplace, yukawa
from fmmloopy.operators import math_kernel
from fmmloopy.recipes import OPERATORS, SEQUENTIAL, RecipeBook, RecipeError, Step, apply_recipe, load_recipes
from fmmloopy.runtime import Runtime, make_runtime

LEVELS = ("quick", "full")

NUMERICAL_BOUND = 32.0
"""Rounding errors allowed, in units of eps times the sum of the magnitudes of the terms.

A term takes about 15 roundings (differences, squared distance, reciprocal root, products), each at most eps / 2, and a
reciprocal root by Newton's iteration up to 2 eps; sums of up to 500 terms add their own, which for terms of random sign
grow like the root of their number: 7.5 + 2 + 11 eps.
"""

FMM_BOUND = 3.0
"""A whole evaluation may err by this factor more than with the sequential kernels, from rounding alone."""


@dataclass(frozen=True)
class Finding:
    """One way in which a recipe is wrong.

    Attributes:
        book, operator: whose recipe.
        dtype: float32 or float64; empty if it fails in any.
        layer: static, exact, numerical or fmm.
        step: the first failing step, as ``"2 'split sources'"``; empty if unknown.
        message: what is wrong, in one line.
    """

    book: str
    operator: str
    dtype: str
    layer: str
    step: str
    message: str

    def __str__(self) -> str:
        where = ", ".join(part for part in (self.book, self.operator, self.dtype) if part)
        at = f", first at step {self.step}" if self.step else ""
        return f"{where}: {self.layer}{at}: {self.message}"


@dataclass(frozen=True)
class Report:
    """What a check found.

    Attributes:
        book, device: what was checked, and on what.
        level: quick or full.
        operators: which operators.
        findings: what is wrong; empty for a book that is certified.
        seconds: how long it took.
    """

    book: str
    device: str
    level: str
    operators: tuple[str, ...]
    findings: tuple[Finding, ...]
    seconds: float = field(compare=False)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings


def check_book(
    book: RecipeBook | str,
    operators: Sequence[str] | None = None,
    device: str | Device | None = None,
    dtypes: Sequence[Any] = (np.float64, np.float32),
    level: str = "quick",
) -> Report:
    """Check the recipes of a book.

    Args:
        book: a book, its name, or the path of its file.
        operators: which operators; None for all that the book has a recipe for.
        device: what to run on; None for the preferred one.
        dtypes: float32, float64 or both.
        level: ``"quick"``, or ``"full"`` for more seeds and orders, every choice of tuning parameters, and larger whole
            problems.

    Raises:
        ValueError: an unknown level or operator.
        DeviceError, RecipeError: no such device or book.
    """
    start = time.perf_counter()
    if level not in LEVELS:
        raise ValueError(f"level is {level!r}, expected {' or '.join(map(repr, LEVELS))}")
    book, device = load_recipes(book), choose_device(device)
    chosen = tuple(operators) if operators is not None else tuple(o for o in OPERATORS if o in book.recipes)
    for operator in chosen:
        if operator not in OPERATORS:
            raise ValueError(f"operator is {operator!r}, expected one of {', '.join(OPERATORS)}")
    checker = _Checker(book, device, make_runtime(device), level)
    findings: list[Finding] = []
    for operator in chosen:
        findings += checker.check_operator(operator, [np.dtype(dtype) for dtype in dtypes])
    if not findings and chosen:
        findings += [f for dtype in dtypes if (f := checker.check_fmm(np.dtype(dtype)))]
    seconds = time.perf_counter() - start
    return Report(book.name, device.description, level, chosen, tuple(findings), seconds)


class _Checker:
    """Checks one book on one device."""

    def __init__(self, book: RecipeBook, device: Device, runtime: Runtime, level: str) -> None:
        self.book, self.device, self.runtime, self.full = book, device, runtime, level == "full"

    def check_operator(self, operator: str, dtypes: Sequence[np.dtype[Any]]) -> list[Finding]:
        """Run the layers of one operator in order; a layer runs only where those before hold."""
        findings = []
        for parameters in self._choices(operator):
            for dtype in dtypes:
                for layer in (self._static, self._exact, self._numerical):
                    finding = layer(operator, dtype, parameters)
                    if finding:
                        findings.append(finding)
                        break
        return findings

    def check_fmm(self, dtype: np.dtype[Any]) -> Finding | None:
        """Evaluate whole problems with the book, and hold them against the direct sum."""
        rng = np.random.default_rng(1)
        for name, points in _point_sets(rng, 20000 if self.full else 3000):
            points = points.astype(dtype)
            charges = rng.uniform(-1, 1, len(points))
            expected = direct(points, charges, points[:300])
            errors = []
            for book in (self.book, SEQUENTIAL):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    fmm = Fmm(points, device=self.device, recipes=book, order=6, ncrit=60)
                found = fmm.evaluate(charges)[:300]
                errors.append(float(np.linalg.norm(found - expected) / np.linalg.norm(expected)))
            if not errors[0] <= FMM_BOUND * errors[1]:
                message = f"{name}: relative error {errors[0]:.1e}, with the sequential kernels {errors[1]:.1e}"
                return Finding(self.book.name, "", dtype.name, "fmm", "", message)
        return None

    # -- layers

    def _static(self, operator: str, dtype: np.dtype[Any], parameters: Mapping[str, Any]) -> Finding | None:
        for greens in (laplace(), POLYNOMIALS[1]):
            math = math_kernel(operator, greens, 3, dtype)
            allowed = set(math.default_entrypoint.silenced_warnings)
            try:
                steps = apply_recipe(self.book, operator, math, parameters)
                for number, step in enumerate(steps, 1):
                    silenced = sorted(set(step.kernel.default_entrypoint.silenced_warnings) - allowed)
                    if silenced:
                        message = f"silences {', '.join(silenced)}, which the operator does not; leave the check on"
                        return self._finding(operator, dtype, "static", f"{number} {step.name!r}", message, parameters)
                    with warnings.catch_warnings(record=True) as caught:
                        warnings.simplefilter("always")
                        self._code(operator, steps[:number])
                    for warning in caught:
                        if _is_a_warning_of_loopy(warning):
                            message = " ".join(str(warning.message).split())[:300]
                            where = f"{number} {step.name!r}"
                            return self._finding(operator, dtype, "static", where, message, parameters)
            except RecipeError as error:
                return self._finding(operator, dtype, "static", "", str(error), parameters)
        return None

    def _exact(self, operator: str, dtype: np.dtype[Any], parameters: Mapping[str, Any]) -> Finding | None:
        seeds, orders = (range(3), (2, 3, 4)) if self.full else (range(1), (3,))
        for greens in POLYNOMIALS:
            for order in orders:
                for seed in seeds:
                    case = make_case(operator, greens, dtype, order, seed)
                    steps = self._steps(case, parameters)
                    expected = self._reference(case)
                    difference = self._difference(case, steps, expected)
                    if difference:
                        failing = self._first_failing(steps, lambda s: self._difference(case, s, expected))  # noqa: B023
                        return self._finding(operator, dtype, "exact", failing, difference, parameters)
        return None

    def _numerical(self, operator: str, dtype: np.dtype[Any], parameters: Mapping[str, Any]) -> Finding | None:
        functions = [laplace(), yukawa(0.5)] if operator in PARTICLE_OPERATORS else [laplace()]
        if operator in ("p2p", "l2p", "m2p"):
            functions += [f.with_gradient() for f in functions]
        for greens in functions:
            case = real_case(operator, greens, dtype)
            wide = replace(case, dtype=np.dtype(np.float64), arguments=_widened(case.arguments))
            expected = self._reference(wide)
            magnitudes = term_magnitudes(wide, expected)
            steps = self._steps(case, parameters)

            def excess(some: Sequence[Step]) -> str:
                found = run_case(case, self._code(operator, some), self.runtime)  # noqa: B023
                return _excess(found, expected, magnitudes, case.dtype)  # noqa: B023

            message = excess(steps)
            if message:
                failing = self._first_failing(steps, excess)
                text = f"{greens.name}: {message}"
                return self._finding(operator, dtype, "numerical", failing, text, parameters)
        return None

    # -- how kernels are made and run

    def _choices(self, operator: str) -> Iterator[Mapping[str, Any]]:
        """Yield the recipe's defaults; at level full, also every value that its tuning names, one at a time."""
        yield {}
        if self.full:
            for keyword, values in self.book.tuning.get(operator, {}).items():
                for value in values:
                    yield {keyword: value}

    def _steps(self, case: Case, parameters: Mapping[str, Any]) -> list[Step]:
        math = math_kernel(case.operator, case.greens, case.order, case.dtype)
        return apply_recipe(self.book, case.operator, math, parameters)

    def _code(self, operator: str, steps: Sequence[Step]) -> CompiledOperator:
        names = tuple(step.name for step in steps)
        return generate_code(operator, steps[-1].kernel, self.book, self.device, names)

    def _reference(self, case: Case) -> dict[str, NDArray[Any]]:
        code = compile_operator(case.operator, case.greens, case.order, case.dtype, SEQUENTIAL, self.device)
        return run_case(case, code, self.runtime)

    def _difference(self, case: Case, steps: Sequence[Step], expected: Mapping[str, NDArray[Any]]) -> str:
        try:
            found = run_case(case, self._code(case.operator, steps), self.runtime)
        except (DeviceError, RecipeError, TypeError) as error:
            return " ".join(str(error).split())[:300]
        for name, values in expected.items():
            assert np.nanmax(np.abs(values), initial=0) < EXACT_LIMIT
            if not identical(found[name], values):
                wrong = ~((found[name] == values) | (np.isnan(found[name]) & np.isnan(values)))
                index = tuple(int(i) for i in np.argwhere(wrong)[0])
                return (
                    f"{case.greens.name}, order {case.order}: {name}{list(index)} is {found[name][index]:g}, expected "
                    f"{values[index]:g}; {int(wrong.sum())} of {wrong.size} entries differ"
                )
        return ""

    def _first_failing(self, steps: Sequence[Step], fails: Any) -> str:
        """Return number and name of the first step whose kernel fails."""
        for number in range(1, len(steps)):
            if fails(steps[:number]):
                return f"{number} {steps[number - 1].name!r}"
        return f"{len(steps)} {steps[-1].name!r}"

    def _finding(
        self, operator: str, dtype: np.dtype[Any], layer: str, step: str, message: str, parameters: Mapping[str, Any]
    ) -> Finding:
        if parameters:
            message = f"with {', '.join(f'{k}={v}' for k, v in parameters.items())}: {message}"
        return Finding(self.book.name, operator, dtype.name, layer, step, message)


def _is_a_warning_of_loopy(warning: warnings.WarningMessage) -> bool:
    """Return whether a warning says that a kernel may be wrong; not how it was scheduled."""
    from loopy.diagnostic import LoopyWarning

    harmless = ("Cannot enforce the constraint", "Falling back to a slow scheduler")
    return issubclass(warning.category, LoopyWarning) and not any(text in str(warning.message) for text in harmless)


def _widened(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same numbers in float64."""
    return {
        name: value.astype(np.float64) if isinstance(value, np.ndarray) and value.dtype.kind == "f" else value
        for name, value in arguments.items()
    }


def _excess(
    found: Mapping[str, NDArray[Any]],
    expected: Mapping[str, NDArray[Any]],
    magnitudes: Mapping[str, NDArray[Any]],
    dtype: np.dtype[Any],
) -> str:
    """Say where an error is larger than rounding explains, or nothing."""
    eps = float(np.finfo(dtype).eps)
    for name, values in expected.items():
        allowed = NUMERICAL_BOUND * eps * magnitudes[name]
        error = np.abs(found[name].astype(np.float64) - values)
        wrong = ~((error <= allowed) | (np.isnan(values) & np.isnan(found[name])))
        if wrong.any():
            index = tuple(int(i) for i in np.argwhere(wrong)[0])
            units = error[index] / (eps * magnitudes[name][index])
            return (
                f"{name}{list(index)} is {found[name][index]:.9g}, expected {values[index]:.9g}: off by {units:.3g} "
                f"eps times the sum of the terms' magnitudes, allowed {NUMERICAL_BOUND:g}"
            )
    return ""


def _point_sets(rng: np.random.Generator, count: int) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Yield a surface, whose tree is adaptive, and clusters, whose W and X lists are long."""
    surface = rng.standard_normal((count, 3))
    yield "sphere", surface / np.linalg.norm(surface, axis=1)[:, None]
    yield "clusters", rng.standard_normal((count, 3)) * 10.0 ** rng.uniform(-3, 0, (count, 1))
