"""``fmmloopy show``: what a recipe does, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import indent
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.syntax import Syntax
from rich.text import Text

from fmmloopy.cli.common import (
    DOES_NOT_HOLD,
    BookArgument,
    DeviceOption,
    JsonOption,
    OperatorOption,
    console,
    print_json,
    show_message,
    telling,
)

if TYPE_CHECKING:
    from fmmloopy.execution.devices import Device
    from fmmloopy.recipes.book import RecipeBook
    from fmmloopy.showing.show import AppliedRecipe, Difference, MachineCode

COLOURS = {"+": "green", "-": "red", "@": "cyan"}


def show(
    book: BookArgument,
    operator: OperatorOption = None,
    step: Annotated[
        int | None,
        typer.Option(
            "--step", "-s", help="Show the kernel after this step. 0: before the recipe, or its sequential code."
        ),
    ] = None,
    diff: Annotated[bool, typer.Option("--diff", help="Show what each step, or the chosen one, changes.")] = False,
    code: Annotated[
        bool, typer.Option("--code", help="Show source for the device instead of mathematics. Default step: the last.")
    ] = False,
    asm: Annotated[
        bool,
        typer.Option("--asm", help="Show machine code of the innermost loop, and rate it. Default step: the last."),
    ] = False,
    arch: Annotated[
        str | None,
        typer.Option("--arch", help="With --asm: compile for this GPU, such as sm_90 or gfx90a, without having one."),
    ] = None,
    device: DeviceOption = None,
    dtype: Annotated[str, typer.Option("--dtype", help="float64, float32, mixed or reduced.")] = "float64",
    kernel: Annotated[str, typer.Option("--kernel", help="Green's function: laplace or yukawa.")] = "laplace",
    as_json: JsonOption = False,
) -> None:
    """Show the steps of recipes: as mathematics, as source for a device, as machine code.

    Steps whose kernels cannot be scheduled are marked. Exit with 1 if there are any, or if there is no machine code.
    """
    from fmmloopy.greens import SHIPPED
    from fmmloopy.precision import DTYPE_NAMES
    from fmmloopy.recipes.load import load_recipes
    from fmmloopy.showing.show import list_steps, shown_operators, suited_device

    if dtype not in DTYPE_NAMES:
        raise ValueError(f"--dtype is {dtype!r}, expected {' or '.join(DTYPE_NAMES)}")
    if kernel not in SHIPPED:
        raise ValueError(f"--kernel is {kernel!r}, expected {' or '.join(SHIPPED)}")
    if diff and asm:
        raise ValueError(
            "--diff and --asm are given, expected only one; --diff compares mathematics, or source with --code"
        )
    if arch and not asm:
        raise ValueError("--arch is given without --asm; it is for machine code")
    recipes = load_recipes(book)
    if arch:
        _show_gpu_code(recipes, operator, step, arch, dtype, kernel, as_json)
        return
    suited = suited_device(recipes, device)
    chosen = suited if code or asm or device else None
    names = shown_operators(recipes, operator)
    applied = [list_steps(recipes, name, SHIPPED[kernel](), dtype, suited) for name in names]
    # The book may be for a device that is not here; then no code can be generated.
    tried = chosen or (suited if recipes.suits(suited) or not recipes.recipes else None)
    listing = step is None and not (diff or code or asm)
    with telling() as tell:
        views = []
        for recipe in applied:
            tell(f"{recipe.operator}: scheduling steps")
            views.append(_View(recipe, step, diff, code, asm, chosen, tried))
    if as_json:
        print_json(
            {
                "book": recipes.name,
                "device": chosen.description if chosen else None,
                "dtype": dtype,
                "kernel": kernel,
                "operators": [view.document() for view in views],
            }
        )
    elif listing:
        _print_lists(recipes, views, everything=not operator)
    else:
        if chosen:
            console().print(Text(f"device: {chosen.description}"))
        for place, view in enumerate(views):
            view.print(blank=place > 0)
    if any(view.troubles or (view.machine_code and view.machine_code.loop is None) for view in views):
        raise typer.Exit(DOES_NOT_HOLD)


def _show_gpu_code(
    book: RecipeBook,
    operators: Sequence[str] | None,
    step: int | None,
    architecture: str,
    dtype: str,
    kernel: str,
    as_json: bool,
) -> None:
    """Show what machine code for a GPU says of a step."""
    from dataclasses import asdict

    from fmmloopy.greens import SHIPPED
    from fmmloopy.showing.gpu_code import device_for, gpu_code
    from fmmloopy.showing.show import list_steps, shown_operators

    documents, device = [], device_for(architecture)
    for name in shown_operators(book, operators):
        recipe = list_steps(book, name, SHIPPED[kernel](), dtype, device)
        number = recipe.last if step is None else step
        found = gpu_code(recipe, number, architecture)
        documents.append({"operator": name, "step": number, **asdict(found), "lines": found.lines()})
        if not as_json:
            console().print(_title(recipe, number))
            for line in found.lines():
                console().print(Text(line), soft_wrap=True)
    if as_json:
        print_json({"book": book.name, "dtype": dtype, "kernel": kernel, "operators": documents})


class _View:
    """What is shown for one operator."""

    def __init__(
        self,
        recipe: AppliedRecipe,
        step: int | None,
        diff: bool,
        code: bool,
        asm: bool,
        device: Device | None,
        tried: Device | None,
    ) -> None:
        from fmmloopy.showing.math_text import math_text
        from fmmloopy.showing.show import device_source, machine_code, step_diffs, step_troubles

        self.recipe, self.code = recipe, code
        self.number = recipe.last if step is None else step
        recipe.step(self.number)
        self.troubles: dict[int, str] = {}
        self.diffs: tuple[Difference, ...] = ()
        every = step is None and (diff or not (code or asm))
        first = 1 if every else max(0, self.number - (diff and code))
        if tried:
            self.troubles = step_troubles(recipe, tried, range(first, self.number + 1))
        if diff:
            for number in [step] if step is not None else range(1, recipe.last + 1):
                if not (code and {number, number - 1} & set(self.troubles)):
                    self.diffs += step_diffs(recipe, number, device if code else None)
        works = self.number not in self.troubles
        self.source = device_source(recipe, self.number, device) if code and device and works and not diff else ""
        self.machine_code: MachineCode | None = None
        if asm and device and works:
            self.machine_code = machine_code(recipe, self.number, device)
        self.math = ""
        if step is not None and not (diff or code or asm):
            self.math = math_text(recipe.steps[self.number].kernel)

    def document(self) -> dict[str, Any]:
        """Return everything that is known, for JSON."""
        recipe, machine = self.recipe, self.machine_code
        document: dict[str, Any] = {
            "operator": recipe.operator,
            "has_recipe": recipe.operator in recipe.book.recipes,
            "why": recipe.why,
            "parameters": [{"name": p.name, "default": p.default, "choices": p.choices} for p in recipe.parameters],
            "steps": [{"number": n, "name": s.name} for n, s in enumerate(recipe.steps)],
        }
        for number, trouble in self.troubles.items():
            document["steps"][number]["cannot_be_scheduled"] = trouble
        if self.math or self.source or machine:
            document["step"] = self.number
        if self.math:
            document["math"] = self.math
        if self.source:
            document["code"] = self.source
        if self.diffs:
            document["diffs"] = [{"number": d.number, "name": d.name, "lines": d.lines} for d in self.diffs]
        if machine:
            document["machine_code"] = {"verdict": machine.verdict, "reason": machine.reason, "loop": None}
            if loop := machine.loop:
                document["machine_code"]["loop"] = {
                    "function": loop.function,
                    "lanes": loop.lanes,
                    "bits": loop.bits,
                    "arithmetic": loop.arithmetic,
                    "scalar": loop.scalar,
                    "fma": loop.fma,
                    "roots": {name: "vector" if vector else "scalar" for name, vector in loop.roots.items()},
                    "calls": [{"name": c.name, "lanes": c.lanes, "always": c.always} for c in loop.calls],
                    "gathers": loop.gathers,
                    "converts": loop.converts,
                    "others": loop.others,
                    "text": loop.text,
                }
        return document

    def print(self, blank: bool) -> None:
        """Print what the options select, after a blank line if ``blank``."""
        out, recipe = console(), self.recipe
        for place, difference in enumerate(self.diffs):
            out.print(*[""] * (blank or place > 0), _title(recipe, difference.number), sep="\n")
            for line in difference.lines or ["no change"]:
                out.print(Text(line, style=COLOURS.get(line[:1], "")), soft_wrap=True)
        if not self.diffs:
            out.print(*[""] * blank, _title(recipe, self.number), sep="\n")
        for number, trouble in self.troubles.items():
            show_message(f"step {number} cannot be scheduled: {trouble}", "red", out)
        if self.math:
            out.print(Text(self.math), soft_wrap=True)
        if self.source:
            coloured = Syntax(self.source, "c", theme="ansi_dark", background_color="default")
            out.print(coloured if out.is_terminal else Text(self.source), soft_wrap=True)
        if self.machine_code:
            if loop := self.machine_code.loop:
                out.print(Text(loop.text), soft_wrap=True)
                if self.machine_code.reason:
                    out.print(
                        Text(f"the kernel compiles, but failed when run: {self.machine_code.reason}", style="yellow")
                    )
            out.print(Text(self.machine_code.verdict, style="bold" if self.machine_code.loop else "yellow"))


def _title(recipe: AppliedRecipe, number: int) -> Text:
    where = f"{recipe.book.name}, {recipe.operator}, step {number}: {recipe.steps[number].name}"
    return Text(where, style="bold")


def _print_lists(book: RecipeBook, views: Sequence[_View], everything: bool) -> None:
    """Print the steps of recipes; operators that share all of them share a heading."""
    from fmmloopy.operators import OPERATORS
    from fmmloopy.recipes.book import devices_in_words

    out = console()
    if book.recipes:
        out.print(Text(f"{book.name}, for devices: {devices_in_words(book.device)}\n"))
    alike: dict[str, list[_View]] = {}
    for view in views:
        names = [step.name for step in view.recipe.steps]
        alike.setdefault(repr((view.recipe.why, view.recipe.parameters, names, view.troubles)), []).append(view)
    for group in alike.values():
        recipe, troubles = group[0].recipe, group[0].troubles
        out.print(Text(", ".join(view.recipe.operator for view in group), style="bold"))
        out.print(Text(indent(recipe.why, "  ")))
        for parameter in recipe.parameters:
            choices = f"   worth trying: {', '.join(map(str, parameter.choices))}" if parameter.choices else ""
            out.print(Text(f"  {parameter.name} = {parameter.default}{choices}"))
        for number, step in enumerate(recipe.steps):
            mark = "   CANNOT BE SCHEDULED" if number in troubles else ""
            out.print(Text.assemble(f"  {number:3}  {step.name}", (mark, "bold red")))
        for number, trouble in troubles.items():
            show_message(f"  step {number}: {trouble}", "red", out)
        out.print()
    without = [operator for operator in OPERATORS if operator not in book.recipes]
    if everything and book.recipes and without:
        out.print(Text(f"sequential, because they have no recipe: {', '.join(without)}"))
