"""Options, output and exit statuses that the subcommands share."""

from __future__ import annotations

import json
import math
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console

DOES_NOT_HOLD = 1
"""Exit status: a check failed, or something does not work."""

BAD_INPUT = 2
"""Exit status: the command could not run."""

BookArgument = Annotated[str, typer.Argument(metavar="BOOK", help="Name of a recipe book, or path of its .py file.")]
OperatorOption = Annotated[
    list[str] | None, typer.Option("--operator", "-o", help="Operator, such as p2p; may be repeated. Default: all.")
]
DeviceOption = Annotated[
    str | None, typer.Option("--device", "-d", help="Part of a device's description. Default: one that suits the book.")
]
JSON = "--json"

JsonOption = Annotated[bool, typer.Option(JSON, help="Print only JSON on standard output.")]


def console() -> Console:
    """Return a rich console on standard output: colours on a terminal, plain text elsewhere."""
    return Console(highlight=False, soft_wrap=not sys.stdout.isatty())


@contextmanager
def telling() -> Iterator[Callable[[str], None]]:
    """Yield a function that shows the current activity on standard error if that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda text: None
        return
    from rich.markup import escape

    from fmmloopy.common.progress import shown_by

    with Console(stderr=True).status("") as status:
        now = ""

        def tell(text: str) -> None:
            nonlocal now
            now = text
            status.update(escape(text))

        with shown_by(lambda what, share: status.update(escape(f"{now}: {what}"))):
            yield tell


def print_json(document: Any) -> None:
    """Print a document as JSON; numbers that are not finite, which JSON does not have, become null."""
    print(json.dumps(_finite(document), indent=2, default=str, allow_nan=False))


def _finite(document: Any) -> Any:
    """Return a document in which numbers that are not finite are None."""
    if isinstance(document, Mapping):
        return {str(name): _finite(value) for name, value in document.items()}
    if isinstance(document, (list, tuple)):
        return [_finite(value) for value in document]
    return None if isinstance(document, float) and not math.isfinite(document) else document


def show_error(text: str) -> None:
    """Print an error on standard error."""
    show_message(f"error: {text}", "red", Console(stderr=True, highlight=False, soft_wrap=True))


def show_message(text: str, style: str = "", out: Console | None = None) -> None:
    """Print a message: on a terminal wrapped to its width, elsewhere in one line, for programs to read.

    Args:
        text: the message, without line breaks.
        style: name of a rich style.
        out: the console to print on; standard output by default.
    """
    out = out or console()
    lines = wrapped(text, out.width) if out.is_terminal else [text]
    for line in lines:
        out.print(line, style=style, markup=False, soft_wrap=True)


def listed(names: Sequence[str]) -> str:
    """Join names as in a sentence."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def wrapped(text: str, width: int) -> list[str]:
    """Break a message between words; lines after the first are indented, and paths and names are not broken."""
    options = {"subsequent_indent": "    ", "break_long_words": False, "break_on_hyphens": False}
    return textwrap.wrap(text, max(20, width), **options) or [""]  # type: ignore[arg-type]
