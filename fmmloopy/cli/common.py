"""What all subcommands share: options, output, exit statuses."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.console import Console

DOES_NOT_HOLD = 1
"""Exit status: what was asked does not hold."""

BAD_INPUT = 2
"""Exit status: it could not be asked."""

BookArgument = Annotated[str, typer.Argument(metavar="BOOK", help="Name of a recipe book, or path of its .py file.")]
OperatorOption = Annotated[
    list[str] | None, typer.Option("--operator", "-o", help="Operator, such as p2p; may be repeated. Default: all.")
]
DeviceOption = Annotated[
    str | None, typer.Option("--device", "-d", help="Part of a device's description. Default: the one the book is for.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on standard output, and nothing else there.")]


def console() -> Console:
    """Return standard output as rich writes to it: colours on a terminal, plain text elsewhere."""
    return Console(highlight=False, soft_wrap=not sys.stdout.isatty())


def print_json(document: Any) -> None:
    """Print a document as JSON."""
    print(json.dumps(document, indent=2, default=str, allow_nan=False))


def show_error(text: str) -> None:
    """Print an error on standard error."""
    show_message(f"error: {text}", "red", Console(stderr=True, highlight=False, soft_wrap=True))


def show_message(text: str, style: str = "", out: Console | None = None) -> None:
    """Print a message: on a terminal as a paragraph of its width, elsewhere, where programs may read it, in one line.

    Args:
        text: without line breaks.
        style: as rich names it.
        out: where; standard output by default.
    """
    out = out or console()
    lines = wrapped(text, out.width) if out.is_terminal else [text]
    for line in lines:
        out.print(line, style=style, markup=False, soft_wrap=True)


def listed(names: Sequence[str]) -> str:
    """Join names as a sentence does."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def wrapped(text: str, width: int) -> list[str]:
    """Break a message between words; lines after the first are indented, and paths and names stay whole."""
    options = {"subsequent_indent": "    ", "break_long_words": False, "break_on_hyphens": False}
    return textwrap.wrap(text, max(20, width), **options) or [""]  # type: ignore[arg-type]
