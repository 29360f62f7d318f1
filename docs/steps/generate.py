"""Write the pages of the reusable steps, with code that is generated when the documentation is built.

``docs/conf.py`` calls :func:`write_pages`; so does ``python docs/steps/generate.py``. The text is in
``entries.py``.
"""

from __future__ import annotations

import difflib
import inspect
import re
import sys
import textwrap
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

from entries import ENTRIES, NO_STEPS, Entry, Trap
from excerpt import excerpt, names_in

from fmmloopy.execution.devices import Device
from fmmloopy.execution.generate import generate_code
from fmmloopy.greens import laplace, yukawa
from fmmloopy.kernels import helmholtz
from fmmloopy.operators import OPERATORS, Specification
from fmmloopy.precision import find_types
from fmmloopy.recipes import RecipeBook, RecipeError, Step, apply_recipe, open_lanes, sequential_recipe, shipped_books
from fmmloopy.showing.math_text import math_text
from fmmloopy.transforms import cpu, steps

Kernel = Any

HERE = Path(__file__).parent
MARK = "% Made by docs/steps/generate.py; do not edit."
"""First line of every page that this program writes, and may therefore delete."""

OVERVIEW = "overview.md"
"""Included by the index: the table of all pages, and what the shipped books say about their devices."""

DEVICE = Device("opencl", "", "any device that speaks OpenCL")
"""Code is generated for it; nothing is compiled or run."""

GREENS = {
    "Laplace": laplace,
    "Yukawa": yukawa,
    "Helmholtz": lambda: helmholtz(1.0),
    "Laplace with its gradient": lambda: laplace().with_gradient(),
}


def steps_to_document() -> list[str]:
    """Return the names of the public functions of ``fmmloopy.transforms.steps`` that are steps."""
    functions = inspect.getmembers(steps, inspect.isfunction)
    ours = {name for name, function in functions if function.__module__.startswith("fmmloopy.")}
    return sorted(name for name in ours - NO_STEPS if not name.startswith("_"))


def write_pages(folder: Path = HERE) -> list[Path]:
    """Write a page for each step, and the overview; delete pages of steps that no longer exist.

    Pages that have not changed are left alone, so that Sphinx need not read them again.

    Raises:
        ValueError: a step has no entry, or an entry no step.
        RecipeError: an example can no longer be turned into code.
    """
    names = [entry.name for entry in ENTRIES]
    if odd := set(names) ^ set(steps_to_document()):
        raise ValueError(f"steps without an entry in {HERE / 'entries.py'}, or entries without a step: {sorted(odd)}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # loopy's, of the kernels of mistakes
        texts = {f"{entry.name}.md": page(entry) for entry in ENTRIES} | {OVERVIEW: overview()}
    for path in folder.glob("*.md"):
        if path.name not in texts and path.read_text().startswith(MARK):
            path.unlink()
    for name, text in texts.items():
        path, text = folder / name, f"{MARK}\n\n{text}\n"
        if not path.is_file() or path.read_text() != text:
            path.write_text(text)
    return [folder / name for name in texts]


# -- one page


def page(entry: Entry) -> str:
    """Write the page of a step."""
    before, after = before_and_after(entry)
    language = "text" if entry.mathematics else "c"
    parts = [
        f"# {entry.name}",
        _first_paragraph(getattr(steps, entry.name)),
        "## When it pays",
        _prose(entry.when),
        f"Called by {_users(entry.name)}",
        "## In a recipe",
        _block("python", _body(entry.recipe)),
        "## Before and after",
        f"`{entry.operator}`, {entry.greens}'s potential, {entry.dtype}. {_prose(entry.look)}",
    ]
    if entry.diff:
        lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=len(before))
        parts.append(_block("diff", "\n".join(line for line in lines if not re.match(r"---|\+\+\+|@@", line))))
    else:
        parts += ["Before:", _block(language, before), "After:", _block(language, after)]
    parts += [_block("c", inline_function(entry, name)) for name in entry.inserted]
    parts += ["## Traps", *(_trap(trap, entry) for trap in entry.traps)]
    parts.append(f"Arguments and formulas: {{py:func}}`{getattr(steps, entry.name).__module__}.{entry.name}`.")
    return "\n\n".join(parts)


@cache
def texts_around(entry: Entry) -> tuple[str, str]:
    """Return the whole text of the kernel that a step gets in its example, and of the one that it returns."""
    before, after = call_of_step(entry)
    return full_text(entry, before), full_text(entry, after)


def before_and_after(entry: Entry) -> tuple[str, str]:
    """Return the excerpts of both texts that the page shows.

    Raises:
        ValueError: a name that is to be shown is in neither, or the step does not do what the page says.
    """
    texts = texts_around(entry)
    if unknown := set(entry.keep) - names_in(texts[0]) - names_in(texts[1]):
        raise ValueError(f"{entry.name}: nothing is called {', '.join(sorted(unknown))} in the code")
    before, after = (excerpt(text, entry.keep, entry.root) for text in texts)
    for fragment in entry.new:
        if fragment in before or fragment not in after:
            raise ValueError(f"{entry.name}: {fragment!r} is not new after the step, which makes\n{after}")
    return before, after


def full_text(entry: Entry, knl: Kernel) -> str:
    """Return the mathematics of a kernel, or its OpenCL code; that of the sequential kernel while lanes are open."""
    if entry.mathematics:
        return math_text(knl)
    if open_lanes(knl):
        ((_, knl),) = sequential_recipe(knl)
    return source(entry.operator, Step("", knl))


def source(operator: str, step: Step) -> str:
    """Generate the OpenCL code of a kernel."""
    return generate_code(OPERATORS[operator], step.kernel, _book(operator, None), DEVICE, (step.name,)).source


def call_of_step(entry: Entry) -> tuple[Kernel, Kernel]:
    """Run the example of a step, and return what the step's only call got and returned."""
    calls = []
    step = getattr(steps, entry.name)

    def noted(knl: Kernel, *args: Any, **kwargs: Any) -> Kernel:
        calls.append((knl, step(knl, *args, **kwargs)))
        return calls[-1][1]

    with patch.object(steps, entry.name, noted):
        run(entry.recipe, entry)
    (call,) = calls
    return call


def run(recipe: Callable[..., Any], entry: Entry, operator: str = "") -> list[Step]:
    """Apply a recipe to an entry's operator, or another, and return what it yields."""
    operator = operator or entry.operator
    knl = Specification(OPERATORS[operator], GREENS[entry.greens](), 5, find_types(entry.dtype)).kernel()
    return apply_recipe(_book(operator, recipe), operator, knl)


def _book(operator: str, recipe: Callable[..., Any] | None) -> RecipeBook:
    return RecipeBook("my_book", device="(?!)", recipes={operator: recipe} if recipe else {})


def inline_function(entry: Entry, name: str) -> str:
    """Return a function that a step writes before the kernel."""
    found = re.search(rf"^static inline \w+ {name}\(.*?^\}}", texts_around(entry)[1], re.M | re.S)
    if not found:
        raise ValueError(f"{entry.name}: the code has no function {name}")
    return found[0]


def outcome(trap: Trap, entry: Entry) -> tuple[str, str]:
    """Walk into a trap: return the error as ("text", message), or what is generated without one as ("c", excerpt)."""
    operator = trap.operator or entry.operator
    try:
        code = source(operator, run(trap.recipe, entry, operator)[-1])
    except RecipeError as error:
        message = re.sub(r" \(examples\.py, line \d+\)|; the (kernel|operator) has inames .*", "", str(error))
        return "text", textwrap.fill(f"RecipeError: {message}", 110, break_long_words=False)
    return "c", excerpt(code, trap.keep, trap.root) if trap.keep else code


def _trap(trap: Trap, entry: Entry) -> str:
    parts = [_prose(trap.text)]
    if trap.recipe:
        language, text = outcome(trap, entry)
        if (language == "c") != bool(trap.keep) or trap.sign not in _prose(text):
            expected = repr(trap.sign) + (" in the code" if trap.keep else " in an error")
            raise ValueError(f"{entry.name}: expected {expected}, of\n{_body(trap.recipe)}\ngot\n{text}")
        parts += [_block("python", _body(trap.recipe)), _block(language, text)]
    return "- " + textwrap.indent("\n\n".join(parts), "  ").lstrip()


def _users(name: str) -> str:
    """Tell which recipes of the shipped books, and which other steps, call a step by its name."""
    books: dict[str, list[str]] = {}
    for book in shipped_books().values():
        operators = [f"`{o}`" for o, recipe in book.recipes.items() if _calls(recipe, name)]
        if operators:
            books.setdefault(", ".join(operators), []).append(f"`{book.name}`")
    others = [n for n in steps_to_document() if _calls(getattr(steps, n), name)]
    users = [f"the recipes for {operators} in {', '.join(names)}" for operators, names in books.items()]
    users += [f"[{n}]({n}.md)" for n in others]
    return ("; ".join(users) or "no shipped book yet") + "."


def _calls(function: Callable[..., Any], name: str, seen: frozenset[Any] = frozenset()) -> bool:
    """Tell whether a function, what it is a partial of, or a recipe that it goes on with, has a name in its text."""
    function = getattr(function, "func", function)
    code = getattr(function, "__code__", None)
    if code is None or name in code.co_names:
        return code is not None
    seen |= {function}
    places = {sys.modules[function.__module__], cpu}
    named = [getattr(module, called, None) for module in places for called in code.co_names]
    return any(
        _calls(recipe, name, seen) for recipe in filter(inspect.isgeneratorfunction, named) if recipe not in seen
    )


# -- the overview


def overview() -> str:
    """Write the table of steps, and what the shipped books say of their devices."""
    rows = [f"| [{e.name}]({e.name}.md) | {_first_paragraph(getattr(steps, e.name))} |" for e in ENTRIES]
    parts = ["\n".join(["| step | what it does |", "|---|---|", *rows])]
    parts.append(_block("{toctree}", "\n".join([":hidden:", "", *(entry.name for entry in ENTRIES)])))
    parts.append("## Where they pay\n\nWhat the shipped books say about their devices:")
    for book in shipped_books().values():
        modules = [m for name, m in sys.modules.items() if name.startswith("fmmloopy.transforms.")]
        (module,) = (m for m in modules if getattr(m, "BOOK", None) is book)
        parts.append(f"### {book.name}\n\n{_markdown(inspect.getdoc(module) or '')}")
    return "\n\n".join(parts)


# -- Markdown


def _first_paragraph(function: Callable[..., Any]) -> str:
    return _prose(_markdown(inspect.getdoc(function) or "").split("\n\n")[0])


def _markdown(text: str) -> str:
    """Turn a docstring's quotes of code, with and without a role, into Markdown's."""
    return re.sub(r"(?::[\w:]+:)?(``?)~?([^`]+)\1", r"`\2`", text)


def _prose(text: str) -> str:
    """Put a paragraph of a Python string on one line."""
    return " ".join(text.split())


def _block(language: str, text: str) -> str:
    return f"```{language}\n{text}\n```"


def _body(recipe: Callable[..., Any]) -> str:
    """Return the statements of a recipe."""
    return textwrap.dedent("".join(inspect.getsourcelines(recipe)[0][1:])).rstrip()


if __name__ == "__main__":
    for written in write_pages():
        print(written)
