"""The layers of a check: what a recipe has to hold for one operator in one precision on one device.

Each layer returns what it has found wrong, or nothing. They run in a process of their own (see
`fmmloopy.common.isolation`) and announce each stage, so that a kernel that crashes or hangs is a finding too; see
`fmmloopy.checking.check` for what the layers are.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmmloopy.checking import sanitizer
from fmmloopy.checking.case import DEFAULT, POLYNOMIALS, SINGLE, Case, Layout, identical, run_case
from fmmloopy.checking.cases import make_case
from fmmloopy.checking.over import describe, domain_of
from fmmloopy.checking.real_cases import real_case, term_magnitudes, widened
from fmmloopy.checking.reproducer import write_reproducer
from fmmloopy.checking.shrink import shrink
from fmmloopy.common.isolation import Stage
from fmmloopy.common.messages import one_line
from fmmloopy.execution.devices import C_DEVICE, Device, DeviceError, choose_device
from fmmloopy.execution.generate import compile_operator, generate_code, keep
from fmmloopy.execution.key import CodeKey
from fmmloopy.execution.launch import CompiledOperator
from fmmloopy.execution.runtime import Runtime, make_runtime
from fmmloopy.greens import GreensFunction, laplace, yukawa
from fmmloopy.operators import Form, Specification
from fmmloopy.precision import FLOAT64, Types, find_types
from fmmloopy.recipes.apply import Step, apply_recipe
from fmmloopy.recipes.book import SEQUENTIAL, RecipeBook, RecipeError

LAYERS = ("static", "exact", "hostile", "numerical", "sanitized")
"""Layers of an operator, in the order in which they run; a whole FMM comes after them."""

NUMERICAL_BOUND = 12.0
"""Rounding errors allowed, in units of eps times the sum of the magnitudes of the terms.

A term counts as much as it changes with the distance, if that is more. It takes about 15 roundings (differences,
squared distance, reciprocal root, products), each at most eps / 2, and a reciprocal root by any iteration up to
2 eps; in sums of many terms these average out, but the roundings of the sum itself come to them: 7.5 + 2 + 2.5. Shipped
recipes reach 3.8 at most. One step of Newton's iteration too few is off by up to 39 eps in single precision, and by 1e5
in double.
"""

CHECKS = (
    "enforce_variable_access_ordered",
    "enforce_array_accesses_within_bounds",
    "check_dep_resolution",
    "skip_arg_checks",
)
"""Options of loopy that turn checks off."""

CODE_LIMIT = 180.0
"""Seconds for a step of a recipe, and for generating code; unrolled kernels take tens of seconds on a busy machine."""

RUN_LIMIT = 60.0
"""Seconds for compiling and running a kernel on a small case: milliseconds, and seconds for the device's compiler."""

SIMULATED = 5
"""How many times as long it may run in oclgrind, which is slow on boxes with many neighbours."""


@dataclass(frozen=True)
class Request:
    """What to check.

    Attributes:
        book: whose recipe.
        device: on what.
        operator: its name.
        dtype: float32, float64 or mixed.
        parameters: keyword arguments of the recipe.
        full: whether all seeds, orders and layouts are wanted.
        layers: which of LAYERS, in their order.
        reproducers: folder for reproducers, "" for none.
        code_limit: seconds for a step of the recipe, and for generating code.
        run_limit: seconds for compiling and running a kernel; in oclgrind it has SIMULATED times as many.
    """

    book: RecipeBook
    device: Device
    operator: str
    dtype: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    full: bool = False
    layers: tuple[str, ...] = LAYERS
    reproducers: str = ""
    code_limit: float = CODE_LIMIT
    run_limit: float = RUN_LIMIT


@dataclass(frozen=True)
class Failure:
    """What is wrong.

    Attributes:
        layer: one of LAYERS.
        step: number and name of the first step at which it fails, as ``"2 'split sources'"``; "" if there is none.
        message: what is wrong, in one line.
        case: the smallest input that shows it, in words.
        reproducer: path of a program that shows it.
    """

    layer: str
    step: str
    message: str
    case: str = ""
    reproducer: str = ""


def check_operator(stage: Stage, request: Request, steps: int | None = None) -> Failure | None:
    """Run the layers of a request in order, up to the first that fails.

    Args:
        stage: announces what comes.
        request: what to check.
        steps: how many steps of the recipe, None for all.
    """
    return OperatorCheck(stage, request, steps).run()


def attempts(stage: Stage, request: Request, steps: int | None = None) -> list[tuple[Case, CompiledOperator]]:
    """Return the inputs of a request's first layer, each with its code; arguments as `check_operator`."""
    return OperatorCheck(stage, request, steps).attempts()


def count_steps(stage: Stage, request: Request) -> int:
    """Return how many steps a recipe has."""
    return OperatorCheck(stage, request).count_steps()


def reproducer_name(request: Request, layer: str) -> str:
    """Name the program that shows what is wrong."""
    chosen = "".join(f"-{name}-{value}" for name, value in request.parameters.items())
    return f"{request.book.name}-{request.operator}{chosen}-{request.dtype}-{layer}"


def run_attempt(_stage: Stage, device: str | Device, case: Case, code: CompiledOperator) -> None:
    """Run code on a case, to see whether it comes back."""
    chosen = choose_device(device)
    with suppress(DeviceError, TypeError):  # an error that is reported is no crash
        run_case(case, code, make_runtime(chosen, padding=0) if device == sanitizer.DEVICE else make_runtime(chosen))


class OperatorCheck:
    """Checks one recipe in one precision on one device."""

    def __init__(self, stage: Stage, request: Request, steps: int | None = None) -> None:
        self._stage, self._request, self._layer = stage, request, ""
        self._operator, self._types = request.book.operator(request.operator), find_types(request.dtype)
        self._most = steps
        self._code_of: dict[tuple[str, int, int], CompiledOperator] = {}
        self._steps_of: dict[tuple[str, int], list[Step]] = {}

    def run(self) -> Failure | None:
        """Run the layers that are asked for."""
        layers: dict[str, Callable[[], Failure | None]] = {
            "static": self._static,
            "exact": self._exact,
            "hostile": self._hostile,
            "numerical": self._numerical,
            "sanitized": self._sanitized,
        }
        for layer in self._request.layers:
            self._layer = layer
            try:
                failure = layers[layer]()
            except RecipeError as error:
                failure = self._failure("", self._without_names(error))
            except Exception as error:
                failure = self._failure("", f"{type(error).__name__}: {one_line(error)}")
            if failure:
                return failure
        self._keep_code()
        return None

    # -- layers

    def _static(self) -> Failure | None:
        """Generate code after each step, for a Green's function with roots and for one with several components.

        Without loopy's caches: what comes from them has lost its warnings.
        """
        from loopy import CacheMode

        for greens in (POLYNOMIALS[1], laplace()):
            math = self._specification(greens, 3).kernel()
            allowed = set(math.default_entrypoint.silenced_warnings)
            steps = self._steps(greens, 3)
            for number, step in enumerate(steps, 1):
                options, expected = step.kernel.default_entrypoint.options, math.default_entrypoint.options
                off = [name for name in CHECKS if getattr(options, name) != getattr(expected, name)]
                if off:
                    text = f"sets loopy's option {', '.join(off)}, which the operator does not; leave the check on"
                    return self._failure(_name(steps, number), text)
                silenced = sorted(set(step.kernel.default_entrypoint.silenced_warnings) - allowed)
                if silenced:
                    text = f"silences {', '.join(silenced)}, which the operator does not; leave the check on"
                    return self._failure(_name(steps, number), text)
                with CacheMode(False), warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    try:
                        self._code(greens, 3, number)
                    except RecipeError as error:
                        return self._failure(_name(steps, number), self._without_names(error))
                for warning in caught:
                    if _is_a_warning_of_loopy(warning):
                        text = " ".join(str(warning.message).split())[:300]
                        return self._failure(_name(steps, number), text)
        return None

    def _exact(self) -> Failure | None:
        return next(filter(None, map(self._same_bits, self.cases("exact"))), None)

    def _hostile(self) -> Failure | None:
        return next(filter(None, map(self._same_bits, self.cases("hostile"))), None)

    def _same_bits(self, case: Case) -> Failure | None:
        """Compare with the sequential kernel; of what differs, look for the first step and the smallest input."""

        def difference(number: int, some: Case = case) -> str:
            found = self._run(some, number)
            return found if isinstance(found, str) else _difference(found, self._reference(some))

        return self._first_and_smallest(case, difference, f"{case.spec.greens.name}, order {case.spec.order}: ")

    def _sanitized(self) -> Failure | None:
        """Run on oclgrind; this process must have been started with its environment."""
        log = Path(os.environ[sanitizer.LOG_VARIABLE])
        assert self._runtime  # opening a device empties the log, so it is opened before the log's size counts

        def report(number: int, some: Case) -> str:
            before = sanitizer.log_size(log)
            found = self._run(some, number)
            return found if isinstance(found, str) else sanitizer.read_log(log, before)

        for case in self.cases("sanitized"):
            failure = self._first_and_smallest(case, lambda n, c=case: report(n, c))
            if failure:
                return failure
        return None

    def _first_and_smallest(self, case: Case, wrong: Callable[..., str], prefix: str = "") -> Failure | None:
        """Say what is wrong with a case, if something is: from which step on, and the smallest case like it."""
        steps = self._steps(case.spec.greens, case.spec.order)
        message = wrong(len(steps), case)
        if not message:
            return None
        number = _first(wrong, len(steps))
        smallest = shrink(case, lambda c: bool(wrong(number, c)))
        text = prefix + (wrong(number, smallest) or message)
        return self._failure(_name(steps, number), text, smallest, number)

    def _numerical(self) -> Failure | None:
        for case in self.cases("numerical"):
            wide = widened(case)
            expected = self._reference(wide)
            magnitudes = term_magnitudes(wide, expected)

            def excess(number: int) -> str:
                found = self._run(case, number)  # noqa: B023
                return found if isinstance(found, str) else _excess(found, expected, magnitudes, self._types)  # noqa: B023

            steps = self._steps(case.spec.greens, case.spec.order)
            message = excess(len(steps))
            if message:
                return self._failure(_name(steps, _first(excess, len(steps))), f"{case.spec.greens.name}: {message}")
        return None

    def cases(self, layer: str) -> Iterator[Case]:
        """Yield the inputs of a layer."""
        full, operator = self._request.full, self._operator
        particles = operator.particles is not None
        if layer == "exact":
            for order in (3, 2, 4, 6) if full else (3,):
                for greens in POLYNOMIALS:
                    for seed in range(3 if full else 1):
                        yield make_case(self._specification(greens, order), seed)
        elif layer == "hostile":
            for greens in POLYNOMIALS if full else POLYNOMIALS[1:]:
                for layout in self._hostile_layouts(greens, 3):
                    yield make_case(self._specification(greens, 3), 1, layout)
        elif layer == "numerical":
            functions = [laplace(), yukawa(0.5)] if particles else [laplace()]
            if operator.gives_potentials:
                functions += [f.with_gradient() for f in functions]
            for greens in functions:
                for layout in (DEFAULT, SINGLE) if particles else (DEFAULT,):
                    yield real_case(self._specification(greens, 3), layout=layout)
        else:
            # The least order at which every loop of a transform has more than one turn.
            greens, order = POLYNOMIALS[1], 3 if operator.form in (Form.TRANSFORM, Form.PRODUCT) else 2
            for layout in (DEFAULT, *(self._hostile_layouts(greens, order) if full else ())):
                yield make_case(self._specification(greens, order), 2, layout)

    def _specification(self, greens: GreensFunction, order: int) -> Specification:
        return Specification(self._operator, greens, order, self._types)

    def _hostile_layouts(self, greens: GreensFunction, order: int) -> list[Layout]:
        lanes = self._code(greens, order, len(self._steps(greens, order))).lanes
        return domain_of(self._operator).layouts(self._operator, dict(lanes))

    def count_steps(self) -> int:
        """Return how many steps the recipe has."""
        return len(self._steps(POLYNOMIALS[1], 3))

    def attempts(self) -> list[tuple[Case, CompiledOperator]]:
        """Return the inputs of the request's first layer, each with the code that it is for."""
        self._layer = self._request.layers[0]
        cases = self.cases(self._layer)
        return [(c, self._code_of_case(c, len(self._steps(c.spec.greens, c.spec.order)))) for c in cases]

    # -- what they share

    def _run(self, case: Case, number: int) -> dict[str, NDArray[Any]] | str:
        """Run the kernel after a step on a case; what keeps it from running is returned as text."""
        try:
            code = self._code_of_case(case, number)
            limit = self._request.run_limit * (SIMULATED if self._layer == "sanitized" else 1)
            self._announce(f"running step {number} {code.steps[-1]!r}", limit)
            return run_case(case, code, self._runtime)
        except (DeviceError, RecipeError, TypeError) as error:
            return one_line(error)

    def _steps(self, greens: GreensFunction, order: int) -> list[Step]:
        key = greens.name, order
        if key not in self._steps_of:
            math = self._specification(greens, order).kernel()
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
        key = greens.name, order, number
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
        """Keep the code after the last step: certificates name it."""
        for greens in (laplace(), yukawa(), laplace().with_gradient(), yukawa().with_gradient()):
            names = self._steps_of.get((greens.name, 3), ())
            code = self._code_of.get((greens.name, 3, len(names)))
            if code and self._most is None:
                spec, request = self._specification(greens, 3), self._request
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
        device = choose_device(sanitizer.DEVICE if sanitized else self._request.device)
        return make_runtime(device, padding=0) if sanitized else make_runtime(device)

    def _announce(self, what: str, limit: float) -> None:
        self._stage(f"{self._layer}: {what}", limit)

    def _without_names(self, error: RecipeError) -> str:
        """Return what an error says, without book and operator, which a finding names itself."""
        prefix = f"{self._request.book.name}, {self._request.operator}"
        return str(error).removeprefix(prefix).lstrip(",: ")

    def _failure(self, step: str, message: str, case: Case | None = None, number: int = 0) -> Failure:
        """Say what is wrong; with a case, write a program that shows it."""
        if self._request.parameters:
            chosen = ", ".join(f"{k}={v}" for k, v in self._request.parameters.items())
            message = f"with {chosen}: {message}"
        path = ""
        if case and self._request.reproducers:
            code = self._code_of_case(case, number)
            sanitized = self._layer == "sanitized"
            expected = None if sanitized else self._reference(case)
            name = reproducer_name(self._request, self._layer)
            title = f"{self._request.book.name}, {self._operator.name}, {self._types}, step {step}: {self._layer}"
            path = write_reproducer(
                Path(self._request.reproducers), name, f"{title}: {message}", case, code, expected, self._request.device
            )
        return Failure(self._layer, step, message, describe(case) if case else "", path)


def _name(steps: Sequence[Step], number: int) -> str:
    return f"{number} {steps[number - 1].name!r}"


def _first(fails: Callable[[int], Any], count: int) -> int:
    """Return the number of the first step that fails; the last is known to."""
    return next((number for number in range(1, count) if fails(number)), count)


def _is_a_warning_of_loopy(warning: warnings.WarningMessage) -> bool:
    """Return whether a warning says that a kernel may be wrong; not how it was scheduled."""
    from loopy.diagnostic import LoopyWarning

    harmless = ("Cannot enforce the constraint", "Falling back to a slow scheduler")
    return issubclass(warning.category, LoopyWarning) and not any(text in str(warning.message) for text in harmless)


def _difference(found: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]]) -> str:
    """Say where results differ from those of the sequential kernel, or nothing."""
    for name, values in expected.items():
        if not identical(found[name], values):
            wrong = ~((found[name] == values) | (np.isnan(found[name]) & np.isnan(values)))
            index = tuple(int(i) for i in np.argwhere(wrong)[0])
            return (
                f"{name}{list(index)} is {found[name][index]:g}, expected {values[index]:g}; {int(wrong.sum())} of "
                f"{wrong.size} entries differ"
            )
    return ""


def _excess(
    found: Mapping[str, NDArray[Any]],
    expected: Mapping[str, NDArray[Any]],
    magnitudes: Mapping[str, NDArray[Any]],
    types: Types,
) -> str:
    """Say where an error is larger than rounding explains, or nothing."""
    limits = np.finfo(types.inner)
    eps, tiny = float(limits.eps), 2 * float(limits.tiny)  # what underflows may be lost
    for name, values in expected.items():
        allowed = NUMERICAL_BOUND * eps * magnitudes[name] + tiny
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
