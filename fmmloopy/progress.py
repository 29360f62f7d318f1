"""A progress bar while code is generated for the first time; silent when not on a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def compiling(plan: Any, title: str) -> Iterator[None]:
    """Show which operator's code is being generated."""
    yield
