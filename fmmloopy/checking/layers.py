"""The layers of a check, for one operator in one precision on one device.

Each layer returns an error, or nothing. They run in a separate process (see `fmmloopy.common.isolation`) and announce
each stage, so that a kernel that crashes or hangs is a finding too; `fmmloopy.checking.check` describes the layers.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from loopy.tools import LoopyKeyBuilder
from numpy.typing import NDArray

from fmmloopy.bookshelf.certificates import kernel_for
from fmmloopy.checking import sanitizer
from fmmloopy.checking.case import POLYNOMIALS, Case, Layout, run_case
from fmmloopy.checking.cases import make_case
from fmmloopy.checking.compare import allowances, difference, excess
from fmmloopy.checking.inputs import Input, inputs, of_other_functions, several
from fmmloopy.checking.over import describe, domain_of
from fmmloopy.checking.proof import Proved, Refuted, Wrong
from fmmloopy.checking.proofs import (
    ORDER,
    Proof,
    functions,
    is_still_proved,
    proof_of,
    stated,
    verdict_on,
    witness_layouts,
)
from fmmloopy.checking.real_cases import real_case, term_magnitudes, widened
from fmmloopy.checking.reproducer import write_reproducer
from fmmloopy.checking.request import CODE_LIMIT, RUN_LIMIT, SIMULATED, Failure, Request, reproducer_name
from fmmloopy.checking.shrink import shrink
from fmmloopy.checking.static import first_warning, out_of_bounds, weakened
from fmmloopy.common.isolation import Stage
from fmmloopy.common.messages import one_line
from fmmloopy.execution.devices import C_DEVICE, Device, DeviceError, choose_device
from fmmloopy.execution.generate import compile_operator, generate_code, keep
from fmmloopy.execution.key import CodeKey
from fmmloopy.execution.launch import CompiledOperator
from fmmloopy.execution.runtime import Runtime, make_runtime
from fmmloopy.greens import GreensFunction, laplace, yukawa
from fmmloopy.operators import Specification
from fmmloopy.precision import FLOAT64, find_types
from fmmloopy.recipes.apply import Step, apply_recipe
from fmmloopy.recipes.book import SEQUENTIAL, RecipeError
from fmmloopy.recipes.identity import kernel_identity


def check_operator(stage: Stage, request: Request, steps: int | None = None) -> Failure | None:
    """Run the layers of a request in order, up to the first that fails.

    Args:
        stage: called before each stage.
        request: what to check.
        steps: number of steps of the recipe to run; None for all.
    """
    return OperatorCheck(stage, request, steps).run()


def check_and_prove(stage: Stage, request: Request) -> tuple[Failure | None, tuple[Proof, ...], frozenset[str]]:
    """Run the layers of a request in order; return the failure, what the symbolic layer has shown, and what has run.

    The latter are the kernels after the last step, as `fmmloopy.bookshelf.certificates.kernel_for`.
    """
    check = OperatorCheck(stage, request)
    return check.run(), tuple(check.proofs), frozenset(check.ran) - {""}


def check_kernel(stage: Stage, request: Request, greens: GreensFunction, order: int) -> tuple[Failure | None, str, str]:
    """Test one kernel of a recipe; return the failure, the identity of the kernel, and the largest input in words."""
    check = OperatorCheck(stage, request)
    return check.run_kernel(greens, order), check.identity(greens, order), check.largest


def count_steps(stage: Stage, request: Request) -> int:
    """Return how many steps a recipe has."""
    return OperatorCheck(stage, request).count_steps()


class OperatorCheck:
    """Checks one recipe in one precision on one device."""

    def __init__(self, stage: Stage, request: Request, steps: int | None = None) -> None:
        self._stage, self._request, self._layer = stage, request, ""
        self._operator, self._types = request.book.operator(request.operator), find_types(request.dtype)
        self._most = steps
        self._math_of: dict[tuple[GreensFunction, int], tuple[str, Any]] = {}
        self._steps_of: dict[str, list[Step]] = {}
        self._code_of: dict[tuple[str, int], CompiledOperator] = {}
        self._suspicions: list[tuple[int, Wrong]] = []
        self.proofs: list[Proof] = []
        self.largest = ""
        self.ran: set[str] = set()

    def run(self) -> Failure | None:
        """Run the layers of the request."""
        layers: dict[str, Callable[[], Failure | None]] = {
            "static": self._static,
            "symbolic": self._symbolic,
            "exact": self._exact,
            "hostile": self._exact,
            "numerical": self._numerical,
            "sanitized": self._sanitized,
        }
        for layer in self._request.layers:
            if failure := self._try(layer, layers[layer]):
                return failure
        if failure := self._confirmed():
            return failure
        self._keep_code()
        return None

    def run_kernel(self, greens: GreensFunction, order: int) -> Failure | None:
        """Test the last kernel for a Green's function and an order: as in the exact, hostile and numerical layers."""

        spec, sizes = self._specification(POLYNOMIALS[1], order), dict[int, str]()

        def same_bits(case: Case) -> Failure | None:
            sizes[sum(int(np.size(value)) for value in case.arguments.values())] = describe(case)
            return self._same_bits(case)

        def exact() -> Failure | None:
            return next(filter(None, (same_bits(make_case(spec, seed)) for seed in range(2))), None)

        def hostile() -> Failure | None:
            layouts = self._hostile_layouts(POLYNOMIALS[1], order)
            return next(filter(None, (same_bits(make_case(spec, 1, layout)) for layout in layouts)), None)

        def numerical() -> Failure | None:
            return self._within_rounding(real_case(self._specification(greens, order)))

        tests = {"exact": exact, "hostile": hostile, "numerical": numerical}
        failure = next(filter(None, (self._try(layer, test) for layer, test in tests.items())), None)
        self.largest = f"{', '.join(tests)}; at most {sizes[max(sizes)]}" if sizes else ""
        return failure

    def identity(self, greens: GreensFunction, order: int) -> str:
        """Return the identity of the last kernel for a Green's function and an order."""
        return self._code(greens, order, len(self._steps(greens, order))).kernel

    def _try(self, layer: str, check: Callable[[], Failure | None]) -> Failure | None:
        """Run a layer; an exception is a failure too."""
        self._layer = layer
        try:
            return check()
        except RecipeError as error:
            return self._failure("", self._without_names(error))
        except Exception as error:
            return self._failure("", f"{type(error).__name__}: {one_line(error)}")

    # -- layers

    def _static(self) -> Failure | None:
        """Generate code after the steps, for a Green's function with roots and for one with several components."""
        for greens in (several(self._types), laplace()):
            (_, math), steps = self._math(greens, 3), self._steps(greens, 3)
            for number, step in enumerate(steps, 1):
                if number < len(steps) and not self._request.every_step:
                    continue
                if wrong := weakened(step.kernel, math) or out_of_bounds(step.kernel) or self._warned(greens, number):
                    return self._failure(_name(steps, number), wrong)
        return None

    def _warned(self, greens: GreensFunction, number: int) -> str:
        """Generate code without loopy's caches, which keep no warnings, and say what is wrong with it."""
        from loopy import CacheMode

        with CacheMode(False), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                self._code(greens, 3, number)
            except RecipeError as error:
                return self._without_names(error)
        return first_warning(caught)

    def _symbolic(self) -> Failure | None:
        """Prove the last kernels; whether those that seem wrong are is seen after the other layers.

        A function that is not what a step declares is wrong at once.
        Level full proves those of all orders, and proves anew what came proved with the shipped books.
        """
        quick = [(greens, ORDER) for greens in functions(self._operator)]
        for greens, order in stated(self._operator) if self._request.full else quick:
            steps, spec = self._steps(greens, order), self._specification(greens, order)
            if not self._request.full and is_still_proved(spec, self._identity(steps[-1])):
                self.proofs.append(proof_of(spec, Proved(0)))
                continue
            self._announce(f"proving the kernel after step {_name(steps, len(steps))}", self._request.code_limit)
            verdict = verdict_on(spec, steps[-1], self._request.device, self._request.book.build_options)
            self.proofs.append(proof_of(spec, verdict, self._identity(steps[-1])))
            if isinstance(verdict, Wrong):
                self._suspicions.append((order, verdict))
            if isinstance(verdict, Refuted):
                return self._failure(_name(steps, _first_with(steps, verdict.lemma.name)), verdict.reason)
        return None

    def _identity(self, last: Step) -> str:
        return kernel_identity(last.kernel, self._request.book.build_options)

    def _is_proved(self, greens: GreensFunction) -> bool:
        return any(proof.proved and proof.greens == greens.name for proof in self.proofs)

    def _confirmed(self) -> Failure | None:
        """Run the kernel at the points at which proofs say that it is wrong; what agrees there is no finding."""
        self._layer = "symbolic"
        return next(filter(None, map(self._same_bits, self._cases())), None)

    def _witnesses(self) -> Iterator[Input]:
        """Yield inputs that are made from the points at which proofs say that kernels are wrong."""
        for order, wrong in self._suspicions:
            spec = self._specification(several(self._types), order)
            yield from (Input(spec, layout=layout) for layout in witness_layouts(wrong))

    def _exact(self) -> Failure | None:
        return next(filter(None, map(self._same_bits, self._cases())), None)

    def _same_bits(self, case: Case) -> Failure | None:
        """Compare with the sequential kernel; if results differ, find the first failing step and the smallest input."""

        def wrong(number: int, some: Case = case) -> str:
            found = self._run(some, number)
            return found if isinstance(found, str) else difference(found, self._reference(some))

        return self._first_and_smallest(case, wrong, f"{case.spec.greens.name}, order {case.spec.order}: ")

    def _sanitized(self) -> Failure | None:
        """Run on oclgrind; this process must have been started with its environment."""
        log = Path(os.environ[sanitizer.LOG_VARIABLE])
        assert self._runtime  # opening a device empties the log, so it is opened before the log's size counts

        def report(number: int, some: Case) -> str:
            before = sanitizer.log_size(log)
            found = self._run(some, number)
            return found if isinstance(found, str) else sanitizer.read_log(log, before)

        for case in self._cases():
            failure = self._first_and_smallest(case, lambda n, c=case: report(n, c))
            if failure:
                return failure
        return None

    def _first_and_smallest(self, case: Case, wrong: Callable[..., str], prefix: str = "") -> Failure | None:
        """Describe what is wrong with a case, if anything, with the first failing step and a smallest similar case."""
        steps = self._steps(case.spec.greens, case.spec.order)
        message = wrong(len(steps), case)
        if not message:
            return None
        number = _first(wrong, len(steps))
        smallest = shrink(case, lambda c: bool(wrong(number, c))) if self._request.smallest else case
        text = prefix + (wrong(number, smallest) or message)
        return self._failure(_name(steps, number), text, smallest, number)

    def _numerical(self) -> Failure | None:
        return next(filter(None, map(self._within_rounding, self._cases())), None)

    def _within_rounding(self, case: Case) -> Failure | None:
        """Compare with the sequential kernel in float64; for larger errors than rounding explains, as `_same_bits`."""

        def wrong(number: int, some: Case = case) -> str:
            found = self._run(some, number)
            return found if isinstance(found, str) else excess(found, *self._sums(some), self._types)

        return self._first_and_smallest(case, wrong, f"{case.spec.greens.name}: ")

    def _sums(self, case: Case) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
        """Return the results in float64, and the sums of the magnitudes of their terms."""
        wide = widened(case)
        expected = self._reference(wide)
        return expected, term_magnitudes(wide, expected)

    def _inputs(self) -> Iterator[Input]:
        """Yield the inputs of the layer."""
        if self._layer == "symbolic":
            yield from self._witnesses()
            return
        full, is_proved = self._request.full, self._is_proved
        yield from inputs(self._layer, self._operator, self._types, full, self._lanes, self._hostile_layouts, is_proved)
        if self._layer == "numerical" and not self._request.parameters:
            yield from of_other_functions(self._operator, self._types, full)

    def _cases(self) -> Iterator[Case]:
        return (each.case() for each in self._inputs())

    def _specification(self, greens: GreensFunction, order: int) -> Specification:
        return Specification(self._operator, greens, order, self._types)

    def _hostile_layouts(self, greens: GreensFunction, order: int) -> list[Layout]:
        return domain_of(self._operator).layouts(self._operator, self._lanes(greens, order))

    def _lanes(self, greens: GreensFunction, order: int) -> dict[str, int]:
        return dict(self._code(greens, order, len(self._steps(greens, order))).lanes)

    def count_steps(self) -> int:
        """Return how many steps the recipe has."""
        return len(self._steps(several(self._types), 3))

    def code(self, greens: GreensFunction, order: int) -> CompiledOperator:
        """Return the code after the last step."""
        self._layer = self._request.layers[0]
        return self._code(greens, order, len(self._steps(greens, order)))

    def attempts(self) -> list[tuple[Input, CompiledOperator]]:
        """Return the inputs of the request's first layer, each with its code."""
        self._layer = self._request.layers[0]
        if self._layer == "symbolic":
            self._symbolic()
        specs = ((each, each.spec.greens, each.spec.order) for each in self._inputs())
        return [(each, self._code(greens, order, len(self._steps(greens, order)))) for each, greens, order in specs]

    # -- shared by the layers

    def _run(self, case: Case, number: int) -> dict[str, NDArray[Any]] | str:
        """Run the kernel after a step on a case; if it cannot run, return the reason as text."""
        try:
            code = self._code_of_case(case, number)
            limit = self._request.run_limit * (SIMULATED if self._runtime.device.is_simulator else 1)
            self._announce(f"running step {number} {code.steps[-1]!r}", limit)
            found = run_case(case, code, self._runtime)
        except (DeviceError, RecipeError, TypeError) as error:
            return one_line(error)
        if number == len(self._steps(case.spec.greens, case.spec.order)):
            self.ran.add(kernel_for(case.spec, code.kernel))
        return found

    def _math(self, greens: GreensFunction, order: int) -> tuple[str, Any]:
        """Return the kernel of the math with its hash; that of most operators is the same for all orders."""
        order = order if self._operator.depends_on_order else ORDER
        key = greens, order
        if key not in self._math_of:
            kernel = self._specification(greens, order).kernel()
            self._math_of[key] = LoopyKeyBuilder()(kernel), kernel
        return self._math_of[key]

    def _steps(self, greens: GreensFunction, order: int) -> list[Step]:
        key, math = self._math(greens, order)
        if key not in self._steps_of:
            request = self._request
            self._steps_of[key] = apply_recipe(
                request.book,
                request.operator,
                math,
                request.book.parameters_on(request.operator, request.device, request.parameters),
                self._most,
                lambda place: self._announce(f"in the recipe, {place}", request.code_limit),
            )
        return self._steps_of[key]

    def _code(self, greens: GreensFunction, order: int, number: int) -> CompiledOperator:
        """Return the code after a step."""
        key = self._math(greens, order)[0], number
        if key not in self._code_of:
            steps = self._steps(greens, order)[:number]
            self._announce(f"generating code after step {_name(steps, number)}", self._request.code_limit)
            names = tuple(step.name for step in steps)
            self._code_of[key] = generate_code(
                self._operator, steps[-1].kernel, self._request.book, self._runtime.device, names
            )
        return self._code_of[key]

    def _code_of_case(self, case: Case, number: int) -> CompiledOperator:
        return self._code(case.spec.greens, case.spec.order, number)

    def _keep_code(self) -> None:
        """Store the code after the last step, which certificates refer to and whole evaluations use."""
        plain = laplace(), yukawa()
        real = {greens.name for f in plain for greens in (f, f.with_gradient())}
        kept = set()
        for (greens, order), (math, _) in self._math_of.items():
            code = self._code_of.get((math, len(self._steps_of.get(math, ()))))
            wanted = greens.name in real or not self._operator.particles
            if wanted and code and self._most is None and math not in kept:
                kept.add(math)
                spec, request = self._specification(greens, order), self._request
                keep(CodeKey(spec, request.book, request.device, request.parameters), code)

    def _reference(self, case: Case) -> dict[str, NDArray[Any]]:
        self._announce("running the sequential kernel", CODE_LIMIT + RUN_LIMIT)
        runtime = self._runtime
        if case.spec.types == FLOAT64 and not runtime.device.has_float64:
            runtime = make_runtime(C_DEVICE)
        return run_case(case, compile_operator(CodeKey(case.spec, SEQUENTIAL, runtime.device)), runtime)

    @cached_property
    def _runtime(self) -> Runtime:
        self._announce("opening the device", CODE_LIMIT)
        sanitized = self._request.layers == ("sanitized",)
        return _open(choose_device(sanitizer.DEVICE if sanitized else self._request.device), sanitized)

    def _announce(self, what: str, limit: float) -> None:
        self._stage(f"{self._layer}: {what}", limit)

    def _without_names(self, error: RecipeError) -> str:
        """Return the text of an error without book and operator, which the finding names."""
        prefix = f"{self._request.book.name}, {self._request.operator}"
        return str(error).removeprefix(prefix).lstrip(",: ")

    def _failure(self, step: str, message: str, case: Case | None = None, number: int = 0) -> Failure:
        """Return a failure; if there is a case, write a program that reproduces it."""
        if self._request.parameters:
            chosen = ", ".join(f"{k}={v}" for k, v in self._request.parameters.items())
            message = f"with {chosen}: {message}"
        path = ""
        if case and self._request.reproducers:
            code = self._code_of_case(case, number)
            sanitized = self._layer == "sanitized"
            expected, allowed = None if sanitized else self._reference(case), None
            if self._layer == "numerical":
                expected, magnitudes = self._sums(case)
                allowed = allowances(magnitudes, self._types)
            name = reproducer_name(self._request, self._layer)
            title = f"{self._request.book.name}, {self._operator.name}, {self._types}, step {step}: {self._layer}"
            folder, text = Path(self._request.reproducers), f"{title}: {message}"
            path = write_reproducer(folder, name, text, case, code, expected, self._request.device, allowed=allowed)
        return Failure(self._layer, step, message, describe(case) if case else "", path)


@cache
def _open(device: Device, sanitized: bool) -> Runtime:
    """Open a device, once in a process."""
    return make_runtime(device, padding=0) if sanitized else make_runtime(device)


def _name(steps: Sequence[Step], number: int) -> str:
    return f"{number} {steps[number - 1].name!r}"


def _first_with(steps: Sequence[Step], function: str) -> int:
    """Return the number of the first step whose kernel may call a function of this name; the last one does."""
    tables = (step.kernel.callables_table.values() for step in steps)
    numbers = (n for n, table in enumerate(tables, 1) if any(getattr(each, "name", "") == function for each in table))
    return next(numbers, len(steps))


def _first(fails: Callable[[int], Any], count: int) -> int:
    """Return the number of the first step that fails; the last one is known to fail."""
    return next((number for number in range(1, count) if fails(number)), count)
