"""Show a recipe: its steps, and the kernel after each as mathematics, as device source and as machine code.

Step 0 is the operator as written. No code can be generated for it, so the code of the sequential kernel is shown.
"""

from __future__ import annotations

import difflib
import inspect
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fmmloopy.checking.case import run_case
from fmmloopy.checking.real_cases import real_case
from fmmloopy.common.isolation import ChildError, Stage, Worker
from fmmloopy.common.messages import one_line
from fmmloopy.execution.backends import backend_of
from fmmloopy.execution.devices import Device, DeviceError, choose_device, choose_suited
from fmmloopy.execution.generate import generate_code
from fmmloopy.execution.launch import CompiledOperator
from fmmloopy.execution.runtime import make_runtime
from fmmloopy.greens import GreensFunction, laplace
from fmmloopy.operators import OPERATORS, Specification
from fmmloopy.precision import Types, find_precision
from fmmloopy.recipes.apply import Step, apply_recipe
from fmmloopy.recipes.book import RecipeBook, RecipeError
from fmmloopy.recipes.lanes import sequential_recipe
from fmmloopy.showing.disassembly import NoMachineCode
from fmmloopy.showing.machine_code import Loop, hottest_loop
from fmmloopy.showing.math_text import math_text

AS_WRITTEN = "as written"
"""Name of step 0."""

ORDER = 5
"""Order of the surfaces, which appears in the loops of M2L's FFT form."""

COMPILE_SECONDS = 120.0
"""Time limit for a compiler, in seconds."""


@dataclass(frozen=True)
class Parameter:
    """A tuning parameter of a recipe.

    Attributes:
        name: name of the recipe's keyword argument.
        default: its value on the device that the recipe is shown for.
        choices: values worth trying, from the book.
    """

    name: str
    default: Any
    choices: tuple[Any, ...] = ()


@dataclass(frozen=True)
class AppliedRecipe:
    """A recipe applied to an operator.

    Attributes:
        book: the book.
        operator: the operator's name.
        kernel, types: the Green's function and the floating-point types of the operator's kernel.
        why: the recipe's docstring.
        parameters: the tuning parameters.
        steps: the kernel as written, and after each step of the recipe.
    """

    book: RecipeBook
    operator: str
    kernel: GreensFunction
    types: Types
    why: str
    parameters: tuple[Parameter, ...]
    steps: tuple[Step, ...]

    @property
    def last(self) -> int:
        """Number of the last step."""
        return len(self.steps) - 1

    def step(self, number: int) -> Step:
        """Return a step by its number.

        Raises:
            ValueError: there is no step with this number.
        """
        if not 0 <= number <= self.last:
            raise ValueError(f"step is {number}; {self.operator} of {self.book.name} has steps 0 to {self.last}")
        return self.steps[number]


@dataclass(frozen=True)
class Difference:
    """The changes of a step.

    Attributes:
        number, name: number and name of the step.
        lines: a unified diff from the step before; empty if nothing changed.
    """

    number: int
    name: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class MachineCode:
    """The machine code of a step on a device.

    Attributes:
        device: description of the device.
        loop: the loop that does the arithmetic; None if it is not available.
        reason: why it is not available; if there is a loop, how the kernel failed when it ran.
    """

    device: str
    loop: Loop | None
    reason: str = ""

    @property
    def verdict(self) -> str:
        """What the innermost loop does, or why it is unknown, in one line."""
        return self.loop.verdict if self.loop else f"no machine code: {self.reason}"


def shown_operators(book: RecipeBook, operators: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return the given operators; if there are none, those that the book has recipes for or brings, or else all.

    Raises:
        ValueError: an operator is unknown.
    """
    for operator in operators or ():
        if operator not in OPERATORS:
            raise ValueError(f"operator is {operator!r}, expected one of {', '.join(OPERATORS)}")
    return tuple(operators or book.to_check or OPERATORS)


def suited_device(book: RecipeBook, which: str | Device | None = None) -> Device:
    """Return the given device; for None, one that the book is for, or else the default device.

    Raises:
        DeviceError: no device matches.
    """
    return choose_device(which) if which else choose_suited(book.suits)


def list_steps(
    book: RecipeBook,
    operator: str,
    kernel: GreensFunction | None = None,
    dtype: Any = "float64",
    device: Device | None = None,
) -> AppliedRecipe:
    """Apply a book's recipe for an operator, or the sequential one if it has none.

    Args:
        book: the book that has the recipe.
        operator: one of :data:`fmmloopy.operators.OPERATORS`.
        kernel: the Green's function; Laplace's by default.
        dtype: precision of an evaluation, float64, float32, mixed or reduced, which determines the kernel's types.
        device: the device that the recipe's parameters are for; None for their defaults.

    Raises:
        ValueError: the operator or dtype is unknown.
        RecipeError: the recipe fails.
    """
    shown_operators(book, [operator])
    kernel, types = kernel or laplace(), book.operator(operator).types_in(find_precision(dtype))
    recipe = book.recipes.get(operator, sequential_recipe)
    choices = book.tuning.get(operator, {})
    given = book.parameters_on(operator, device) if device else {}
    parameters = tuple(
        Parameter(name, given.get(name, parameter.default), tuple(choices.get(name, ())))
        for name, parameter in inspect.signature(recipe).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    )
    math = Specification(book.operator(operator), kernel, ORDER, types).kernel()
    steps = (Step(AS_WRITTEN, math), *apply_recipe(book, operator, math, given))
    return AppliedRecipe(book, operator, kernel, types, inspect.getdoc(recipe) or "", parameters, steps)


def compiled_step(recipe: AppliedRecipe, number: int, device: Device) -> CompiledOperator:
    """Generate the code of a step; for step 0, that of the sequential kernel.

    Raises:
        ValueError: there is no such step.
        RecipeError: no code can be generated for the kernel on the device.
    """
    step = recipe.step(number)
    names = [applied.name for applied in recipe.steps[1 : number + 1]]
    if number == 0:
        ((name, kernel),) = sequential_recipe(step.kernel)
        step, names = Step(name, kernel), [name]
    return generate_code(recipe.book.operator(recipe.operator), step.kernel, recipe.book, device, tuple(names))


def step_troubles(recipe: AppliedRecipe, device: Device, numbers: Iterable[int]) -> dict[int, str]:
    """Return why steps cannot be scheduled for a device, by number; empty if all can be.

    Args:
        recipe: an applied recipe.
        device: the device to generate code for.
        numbers: numbers of the steps to try.
    """
    troubles = {}
    for number in numbers:
        try:
            compiled_step(recipe, number, device)
        except RecipeError as error:
            # Book, operator and step are shown separately.
            _, found, reason = str(error).partition("no code for this kernel: ")
            troubles[number] = (reason if found else str(error)).partition("; the kernel has ")[0]
    return troubles


def device_source(recipe: AppliedRecipe, number: int, device: Device) -> str:
    """Return the generated source of a step; arguments and errors as `compiled_step`."""
    return compiled_step(recipe, number, device).source


def step_diffs(
    recipe: AppliedRecipe, number: int | None = None, device: Device | None = None
) -> tuple[Difference, ...]:
    """Return the changes of each step of a recipe.

    Args:
        recipe: an applied recipe.
        number: number of a single step, at least 1; None for all steps.
        device: if given, compare the source for this device instead of the mathematics.

    Raises:
        ValueError: there is no such step.
        RecipeError: no code can be generated for a step.
    """
    if number == 0:
        raise ValueError(f"step is 0, which has no earlier step to compare with; expected 1 to {recipe.last}")
    numbers = range(1, recipe.last + 1) if number is None else [number]
    return tuple(_difference(recipe, n, device) for n in numbers)


def _difference(recipe: AppliedRecipe, number: int, device: Device | None) -> Difference:
    old, new = (
        device_source(recipe, n, device) if device else math_text(recipe.step(n).kernel) for n in (number - 1, number)
    )
    before, after = (f"{n} {recipe.steps[n].name}" for n in (number - 1, number))
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), before, after, lineterm="")
    return Difference(number, recipe.steps[number].name, tuple(lines))


# -- machine code


def machine_code(recipe: AppliedRecipe, number: int, device: Device) -> MachineCode:
    """Compile a step in a separate process and examine its innermost loop.

    If there is no loop, because the runtime does not provide its code, the compiler fails or crashes, or the code
    cannot be read here, the result has the reason.

    Raises:
        ValueError: there is no such step.
        RecipeError: no source can be generated for the kernel on the device.
    """
    code = compiled_step(recipe, number, device)
    try:
        binary, failure = _compile(recipe, code, device)
        loop = hottest_loop(binary, code.entry, backend_of(device).launched_name(device, code.entry))
        return MachineCode(device.description, loop, failure)
    except (NoMachineCode, DeviceError, ChildError) as error:
        return MachineCode(device.description, None, one_line(error, 400))


def _compile(recipe: AppliedRecipe, code: CompiledOperator, device: Device) -> tuple[bytes, str]:
    """Let a device's compiler generate code in a separate process; return it, and how that process failed.

    Some runtimes return their code. Others leave it in a cache when a kernel is launched; this cache is redirected to a
    temporary folder.
    """
    with tempfile.TemporaryDirectory(prefix="fmmloopy-") as folder:
        environment = backend_of(device).code_environment(device, Path(folder))
        spec = Specification(recipe.book.operator(recipe.operator), recipe.kernel, ORDER, recipe.types)
        binary, failure = None, ""
        try:
            with Worker(environment) as worker:
                binary = worker.call(_build_or_launch, code, spec, device, limit=COMPILE_SECONDS)
        except ChildError as error:
            failure = str(error)
        libraries = [path for path in Path(folder).rglob("*.so") if code.entry in path.name]
        if binary is None and not libraries:
            raise NoMachineCode(failure or f"{device.description!r} left no code in its cache")
        return binary or libraries[0].read_bytes(), failure


def _build_or_launch(stage: Stage, code: CompiledOperator, spec: Specification, device: Device) -> bytes | None:
    """Ask the runtime for the code of an operator; if it does not return it, run the operator on a small problem."""
    runtime = make_runtime(device)
    binary = runtime.machine_code(code)
    if binary is None:
        run_case(real_case(spec), code, runtime)
    return binary
