"""Say what is being generated during a long first run; silent when not on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

STAGES = 11
"""Kernels that a construction prepares, at most."""


@contextmanager
def generating(title: str) -> Iterator[Callable[[str], None]]:
    """Show a progress bar on standard error while code is generated and compiled.

    Args:
        title: device and book.

    Yields:
        A function to call with the name of each operator before its code is made; repeated names count once.
    """
    if not sys.stderr.isatty():
        yield lambda operator: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    seen: set[str] = set()
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"{title}: preparing", total=STAGES)

        def show(operator: str) -> None:
            seen.add(operator)
            progress.update(task, description=f"{title}: code for {operator}", completed=len(seen))

        yield show
