"""``fmmloopy new``: start a recipe book with a file that works without changes."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from fmmloopy.cli.common import console


def new(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File to write, such as my_gpu.py.")],
    origin: Annotated[
        str | None, typer.Option("--from", help="Start with a copy of this book, such as pocl_cpu.", metavar="BOOK")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
) -> None:
    """Write a new recipe book to a file; it passes `fmmloopy check` without changes."""
    from rich.text import Text

    from fmmloopy.bookshelf.starter import start_book

    started = start_book(file, origin, force)
    what = f"a copy of {started.origin}" if started.origin else "P2P, explained line by line"
    path = shlex.quote(str(started.path))
    out = console()
    out.print(Text(f"wrote {started.path}: {what}, for {started.devices}"))
    out.print("next:")
    out.print(Text(f"  fmmloopy check {path}"))
    out.print(Text(f"  fmmloopy ladder {path} --operator p2p --plot ladder.png"))
