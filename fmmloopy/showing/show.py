"""Look at a recipe: its steps, the kernel after each as mathematics, as device source and as machine code.

Step 0 is the operator as written. It has no code of its own, so where code is asked for, the sequential kernel
stands for it.
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
"""Of the surfaces: the FFT form of M2L has it in its loops."""

COMPILE_SECONDS = 120.0
"""Time that a compiler gets."""


@dataclass(frozen=True)
class Parameter:
    """A tuning parameter of a recipe.

    Attributes:
        name: of the recipe's keyword argument.
        default: its value, on the device that the recipe is shown for.
        choices: values that the book says are worth trying.
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
        kernel, types: the Green's function and the floating-point types that the operator's kernel is made for.
        why: the recipe's docstring.
        parameters: what can be tuned.
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
            ValueError: there is none of this number.
        """
        if not 0 <= number <= self.last:
            raise ValueError(f"step is {number}; {self.operator} of {self.book.name} has steps 0 to {self.last}")
        return self.steps[number]


@dataclass(frozen=True)
class Difference:
    """What a step has changed.

    Attributes:
        number, name: of the step.
        lines: a unified diff from the step before; empty if nothing has changed.
    """

    number: int
    name: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class MachineCode:
    """What a device's compiler makes of a step.

    Attributes:
        device: the device's description.
        loop: the loop that does the arithmetic; None if it cannot be had.
        reason: why it cannot be had; beside a loop, how the kernel failed when it ran.
    """

    device: str
    loop: Loop | None
    reason: str = ""

    @property
    def verdict(self) -> str:
        """What the innermost loop does, or why nobody knows, in one line."""
        return self.loop.verdict if self.loop else f"no machine code: {self.reason}"


def shown_operators(book: RecipeBook, operators: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return the operators asked for; all that the book has recipes for if none are, and all there are if it has none.

    Raises:
        ValueError: an unknown operator.
    """
    for operator in operators or ():
        if operator not in OPERATORS:
            raise ValueError(f"operator is {operator!r}, expected one of {', '.join(OPERATORS)}")
    return tuple(operators or [o for o in OPERATORS if o in book.recipes] or OPERATORS)


def suited_device(book: RecipeBook, which: str | Device | None = None) -> Device:
    """Return the device asked for; if none is, one that the book is for, and the preferred one if there is none.

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
    """Apply a book's recipe for an operator, or the sequential one where it has none.

    Args:
        book: where the recipe is.
        operator: one of :data:`fmmloopy.operators.OPERATORS`.
        kernel: the Green's function; Laplace's by default.
        dtype: of an evaluation: float64, float32, mixed or reduced; the operator's kernel is in what it has there.
        device: which the recipe's parameters are for; None for their usual values.

    Raises:
        ValueError: an unknown operator or dtype.
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
    """Generate the code of a step; for step 0, of the sequential kernel.

    Raises:
        ValueError: no such step.
        RecipeError: there is no code for the kernel on the device.
    """
    step = recipe.step(number)
    names = [applied.name for applied in recipe.steps[1 : number + 1]]
    if number == 0:
        ((name, kernel),) = sequential_recipe(step.kernel)
        step, names = Step(name, kernel), [name]
    return generate_code(recipe.book.operator(recipe.operator), step.kernel, recipe.book, device, tuple(names))


def step_troubles(recipe: AppliedRecipe, device: Device, numbers: Iterable[int]) -> dict[int, str]:
    """Return why steps cannot be scheduled for a device, by their numbers; empty where all can be.

    Args:
        recipe: an applied recipe.
        device: whose code the kernels should become.
        numbers: of the steps to try.
    """
    troubles = {}
    for number in numbers:
        try:
            compiled_step(recipe, number, device)
        except RecipeError as error:
            # Book, operator and step stand beside it.
            _, found, reason = str(error).partition("no code for this kernel: ")
            troubles[number] = (reason if found else str(error)).partition("; the kernel has ")[0]
    return troubles


def device_source(recipe: AppliedRecipe, number: int, device: Device) -> str:
    """Return the source that is generated for a step. Arguments and errors as `compiled_step`."""
    return compiled_step(recipe, number, device).source


def step_diffs(
    recipe: AppliedRecipe, number: int | None = None, device: Device | None = None
) -> tuple[Difference, ...]:
    """Return what each step of a recipe has changed.

    Args:
        recipe: an applied recipe.
        number: of the only step to look at, at least 1; all steps if None.
        device: compare the source for this device, and not the mathematics.

    Raises:
        ValueError: no such step.
        RecipeError: there is no code for a step.
    """
    if number == 0:
        raise ValueError(f"step is 0, which has none before it to compare with; expected 1 to {recipe.last}")
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
    """Compile a step in a process of its own and look at its innermost loop.

    What cannot be had, because the runtime does not give its code, the compiler fails or dies, or nothing here can
    read the code, is said in the result.

    Raises:
        ValueError: no such step.
        RecipeError: there is no source for the kernel on the device.
    """
    code = compiled_step(recipe, number, device)
    try:
        binary, failure = _compile(recipe, code, device)
        loop = hottest_loop(binary, code.entry, backend_of(device).launched_name(device, code.entry))
        return MachineCode(device.description, loop, failure)
    except (NoMachineCode, DeviceError, ChildError) as error:
        return MachineCode(device.description, None, one_line(error, 400))


def _compile(recipe: AppliedRecipe, code: CompiledOperator, device: Device) -> tuple[bytes, str]:
    """Let a device's compiler make its code in a process of its own; return it, and how that process failed.

    Some runtimes hand their code out. Others leave it in a cache when a kernel is launched, which is put into a folder
    of this function.
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
            raise NoMachineCode(failure or f"{device.description!r} has kept no code in its cache")
        return binary or libraries[0].read_bytes(), failure


def _build_or_launch(stage: Stage, code: CompiledOperator, spec: Specification, device: Device) -> bytes | None:
    """Ask the runtime for the code of an operator; where it does not give it, run the operator on a small problem."""
    runtime = make_runtime(device)
    binary = runtime.machine_code(code)
    if binary is None:
        run_case(real_case(spec), code, runtime)
    return binary
