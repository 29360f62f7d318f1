"""``fmmloopy recipes``: which recipe books there are, for which devices, and whether they are certified."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Annotated, Any

import typer

from fmmloopy.cli.common import DOES_NOT_HOLD, JsonOption, console, print_json


def recipes(
    files: Annotated[
        list[str] | None, typer.Argument(metavar="[FILE]...", help="Files with your own books, to list as well.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """List recipe books: those that come with fmmloopy, those of installed packages, and files.

    Exit with 1 if any of them cannot be used.
    """
    from fmmloopy.bookshelf.catalog import list_books
    from fmmloopy.execution.devices import find_devices
    from fmmloopy.recipes.load import load_recipes

    books = list_books(files or ())
    defaults = {device.description: load_recipes(None, device).name for device in find_devices()}
    if json:
        print_json({"books": [asdict(book) for book in books], "defaults": defaults})
    else:
        _print(books, defaults)
    if any(book.trouble for book in books):
        raise typer.Exit(DOES_NOT_HOLD)


def _print(books: Any, defaults: dict[str, str]) -> None:
    from rich.text import Text

    out = console()
    for book in books:
        title = Text.assemble((book.name, "bold"), f"  {book.origin}")
        if book.trouble:
            out.print(Text.assemble(title, "  ", (book.trouble, "red")))
            continue
        out.print(title)
        lines = [("for devices", book.pattern), ("operators", ", ".join(book.operators) or "none: all are sequential")]
        lines += [("tuning", text) for text in _tuning(book.tuning)]
        lines += [("by device", text) for text in _by_device(book.by_device)]
        lines += [
            ("certificate", f"{text} on {device}") for device, text in book.certificates.items() if book.operators
        ]
        for label, text in lines:
            out.print(Text.assemble(f"  {label:<13}", text))
    out.print(Text("\nDefault books of the devices on this machine", style="bold"))
    width = max(map(len, defaults.values()))
    for device, name in defaults.items():
        out.print(Text(f"  {name:<{width}}  {device}"))


def _tuning(tuning: Any) -> list[str]:
    """Return the keywords that may be tuned, in one line for all operators that share them."""
    return _shared(
        (operator, ", ".join(f"{keyword}={'|'.join(map(str, values))}" for keyword, values in choices.items()))
        for operator, choices in tuning.items()
    )


def _by_device(by_device: Any) -> list[str]:
    """Return the parameters of recipes on some devices, in one line for all operators that share them."""
    return _shared(
        (
            operator,
            f"{devices}: " + ", ".join(f"{keyword}={value}" for keyword, value in given.items()),
        )
        for operator, conditions in by_device.items()
        for devices, given in conditions.items()
    )


def _shared(texts: Iterable[tuple[str, str]]) -> list[str]:
    operators: dict[str, list[str]] = {}
    for operator, text in texts:
        operators.setdefault(text, []).append(operator)
    return [f"{text}  ({', '.join(names)})" for text, names in operators.items()]
