"""What all subcommands share: options, output, exit statuses."""

from __future__ import annotations

import json
import sys
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
    """Print one line to standard error."""
    Console(stderr=True, highlight=False, soft_wrap=True).print("error:", text, style="red", markup=False)
