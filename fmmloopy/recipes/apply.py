"""Apply a recipe: the kernel after each of its steps, and errors that say where it failed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fmmloopy.common.late import loopy as lp
from fmmloopy.operators.operator import Kernel
from fmmloopy.recipes.book import RecipeBook, RecipeError
from fmmloopy.recipes.endings import Ending
from fmmloopy.recipes.hints import explain, place
from fmmloopy.recipes.lanes import sequential_recipe


@dataclass(frozen=True)
class Step:
    """A kernel after one named step of a recipe."""

    name: str
    kernel: Kernel


def apply_recipe(
    book: RecipeBook,
    operator: str,
    knl: Kernel,
    parameters: Mapping[str, Any] | None = None,
    most: int | None = None,
    watch: Callable[[str], None] | None = None,
) -> list[Step]:
    """Apply a book's recipe to the math-level kernel of an operator and return the kernel after each step.

    Args:
        book: the book that has the recipe.
        operator: one of OPERATORS.
        knl: its math-level kernel.
        parameters: keyword arguments of the recipe; those that are not given keep their defaults.
        most: maximum number of steps; None for all.
        watch: called before each step with the position in the recipe: ``"before its first step"``,
            ``"after step 1 'lanes'"``.

    Raises:
        RecipeError: the recipe raises, yields nothing, yields anything other than ``(name, kernel)``, or makes a kernel
            after its last step without yielding it; the message names book, operator and step.
    """
    recipe = book.recipes.get(operator, sequential_recipe)
    where = f"{book.name}, {operator}"
    steps: list[Step] = []
    watch = watch or (lambda place: None)
    try:
        watch(_after(steps))
        made: Any = recipe(knl, **(parameters or {}))
        if isinstance(made, lp.TranslationUnit) or not isinstance(made, Iterable):
            raise RecipeError(f"{where}: the recipe returned a {type(made).__name__}; {_YIELD}")
        items, ending = iter(made), Ending(made, lp.TranslationUnit)
        while True:
            try:
                item = next(items)
            except StopIteration as end:
                dropped = ending.dropped(steps[-1].kernel, end.value) if steps else ""
                if dropped:
                    raise RecipeError(f"{where}, {_after(steps)}: {dropped}") from None
                break
            steps.append(_step(item, f"{where}, step {len(steps) + 1}"))
            if len(steps) == most:
                break
            ending.look()
            watch(_after(steps))
    except RecipeError:
        raise
    except (Exception, SystemExit) as error:
        last, whose = (steps[-1].kernel, "kernel then") if steps else (knl, "operator")
        raise RecipeError(f"{where}, {_after(steps)}: {explain(error, last, whose, place(error))}") from error
    if not steps:
        raise RecipeError(f"{where}: the recipe yielded no step; {_YIELD}")
    return steps


def _after(steps: Sequence[Step]) -> str:
    return f"after step {len(steps)} {steps[-1].name!r}" if steps else "before its first step"


_YIELD = "yield (name, kernel) after each rewrite"


def _step(item: Any, where: str) -> Step:
    """Make sure that a recipe has yielded a step."""
    if isinstance(item, lp.TranslationUnit):
        raise RecipeError(f"{where}: yielded the kernel alone, expected (name, kernel)")
    if not (isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str)):
        raise RecipeError(f"{where}: yielded {' '.join(repr(item).split()):.60}, expected (name, kernel)")
    if not isinstance(item[1], lp.TranslationUnit):
        raise RecipeError(f"{where} {item[0]!r}: yielded a {type(item[1]).__name__}, expected the kernel")
    return Step(*item)
