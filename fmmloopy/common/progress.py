"""Show progress during long work, on a terminal or in a notebook; silent elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

STAGES = 11
"""Maximum number of kernels that a construction prepares."""


Show = Callable[[str, float], None]
"""Shows what is being done, and the fraction of the current step that is done."""

_SHOWN: ContextVar[Show | None] = ContextVar("_SHOWN", default=None)
"""What shows progress now, which what is shown inside it goes to, since a terminal has room for one bar."""


@contextmanager
def shown_by(show: Show) -> Iterator[None]:
    """Let everything in this thread that shows progress meanwhile do so by calling ``show``."""
    token = _SHOWN.set(show)
    try:
        yield
    finally:
        _SHOWN.reset(token)


@contextmanager
def doing(what: str) -> Iterator[None]:
    """Say what a block does, if progress is shown; what is shown inside the block is a detail of it."""
    outer = _SHOWN.get()
    if outer is None:
        yield
        return
    outer(what, 0.0)
    with shown_by(lambda detail, share: outer(f"{what}: {detail.rpartition(': ')[2]}", share)):
        yield


@contextmanager
def generating(title: str) -> Iterator[Callable[[str], None]]:
    """Show a progress bar on standard error while code is generated and compiled.

    Args:
        title: device and book.

    Yields:
        A function to call with the name of each operator before its code is generated; repeated names count once.
    """
    seen: set[str] = set()
    if outer := _SHOWN.get():

        def pass_on(operator: str) -> None:
            seen.add(operator)
            outer(f"code for {operator}", min(len(seen) / STAGES, 1.0))

        yield pass_on
        return
    if not _on_terminal():
        yield lambda operator: None
        return
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn

    with _bar(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()) as progress:
        task = progress.add_task(f"{title}: preparing", total=STAGES)

        def show(operator: str) -> None:
            seen.add(operator)
            progress.update(task, description=f"{title}: code for {operator}", completed=len(seen))

        yield show


@contextmanager
def stepping(steps: Sequence[str], quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """Show the current one of several steps, and the elapsed time, on standard error if that is a terminal.

    Args:
        steps: what is done, in order.
        quiet: whether to show nothing, neither of the steps nor of what is done in them.

    Yields:
        A function to call with each step when it begins; it may be called from any thread.
    """
    if quiet or not _on_terminal():
        with shown_by(lambda what, share: None):
            yield lambda step: None
        return
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.fields[step]}", markup=False), TextColumn("{task.description}", markup=False))
    with _bar(*columns, BarColumn(), TimeElapsedColumn()) as bar:
        task, done = bar.add_task("", total=len(steps), step=""), 0.0

        def within(what: str, share: float) -> None:
            nonlocal done
            step = what.partition(": ")[0]
            now = steps.index(step) if step in steps else int(done)
            done = max(done, now + min(share, 0.99))
            text = what if step in steps else f"{steps[now]}: {what}"
            bar.update(task, description=text, completed=done, step=f"{int(done) + 1}/{len(steps)}")

        with shown_by(within):
            yield lambda step: within(step, 0.0)


def _on_terminal() -> bool:
    """Return whether standard error is a terminal, and this thread the one that may draw on it."""
    return sys.stderr.isatty() and threading.current_thread() is threading.main_thread()


def _bar(*columns: Any) -> Any:
    """Return a bar of rich on standard error, which vanishes at the end."""
    from rich.console import Console
    from rich.progress import Progress as Bar

    return Bar(*columns, console=Console(stderr=True), transient=True)


@dataclass(frozen=True)
class Progress:
    """The progress of some work.

    Attributes:
        what: the current activity, in a few words.
        share: fraction of the work that is done, from 0 to 1.
    """

    what: str
    share: float

    def __str__(self) -> str:
        return f"{self.what}, {self.share:.0%} done"


@contextmanager
def showing(title: str) -> Iterator[Callable[[Progress], None]]:
    """Show the current activity, the percentage done and the time left, until the block ends.

    On a terminal, on its standard error; in a notebook, under its cell. Nothing is shown elsewhere.

    Args:
        title: of the work.

    Yields:
        A function to call with the progress; any thread may call it.
    """
    if _in_notebook():
        yield _Cell(title).show
    elif sys.stderr.isatty():
        from rich.progress import BarColumn, TextColumn

        columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[left]}"))
        with _bar(*columns) as bar:
            task, clock = bar.add_task(title, total=1.0, left=""), _Clock()

            def show(progress: Progress) -> None:
                text = f"{title}: {progress.what}"
                bar.update(task, description=text, completed=progress.share, left=clock.left(progress.share))

            yield show
    else:
        yield lambda progress: None


class _Clock:
    """Predicts when work will be done if it continues at the same pace."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def left(self, share: float) -> str:
        """Return the percentage done and, if it can be estimated, the time left."""
        elapsed = time.monotonic() - self._start
        if not 0.02 < share < 1 or elapsed < 1:
            return f"{share:4.0%}"
        return f"{share:4.0%}, about {_duration(elapsed * (1 - share) / share)} left"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 90 else f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _in_notebook() -> bool:
    """Return whether what is displayed goes to a notebook."""
    if "IPython" not in sys.modules:
        return False
    from rich.console import Console

    return Console().is_jupyter


class _Cell:
    """A line of text under a cell of a notebook, which changes; it needs no widgets."""

    def __init__(self, title: str) -> None:
        self._title, self._clock = title, _Clock()
        self._handle: Any = None

    def show(self, progress: Progress) -> None:
        """Show a line in place of the one before."""
        from IPython.display import display

        shown = {"text/plain": f"{self._title}: {progress.what}  {self._clock.left(progress.share)}"}
        if self._handle is None:
            self._handle = display(shown, raw=True, display_id=True)
        else:
            self._handle.update(shown, raw=True)
