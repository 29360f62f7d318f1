"""Certify recipes in your own test suite.

A pytest test needs one line::

    from fmmloopy.testing import assert_recipe


    def test_my_recipe():
        assert_recipe("my_cpu.py", "p2p")
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fmmloopy.checking.check import check_book
from fmmloopy.execution.devices import Device
from fmmloopy.recipes.book import RecipeBook


def assert_recipe(
    recipe: RecipeBook | str | Path | Callable[..., Any],
    operator: str | None = None,
    device: str | Device | None = None,
    dtypes: Sequence[Any] = (np.float64, np.float32),
    level: str = "quick",
    reproducers: str | Path | None = None,
) -> None:
    """Fail unless a recipe is certified.

    Args:
        recipe: a book, its name, the path of its file, or a recipe itself: a function that takes a kernel and yields
            ``(name, kernel)``.
        operator: the operator to check; required for a recipe function. For a book, None checks all of its operators.
        device: part of a device's description; None for the first device that the book is for, or else the default.
        dtypes: float32, float64 or both.
        level: ``"quick"`` or ``"full"``, see :func:`fmmloopy.checking.check.check_book`.
        reproducers: folder for programs that reproduce errors, such as pytest's ``tmp_path``.

    Raises:
        AssertionError: the recipe is wrong; the message has one line per finding.
        DeviceError, RecipeError, ValueError: the recipe cannot be checked.
    """
    __tracebackhide__ = True
    if callable(recipe):
        if operator is None:
            raise ValueError("operator is None, expected the operator that the recipe is for, such as 'p2p'")
        recipe = RecipeBook(getattr(recipe, "__name__", "recipe"), device="", recipes={operator: recipe})
    report = check_book(recipe, operator and [operator], device, dtypes, level, reproducers=reproducers)
    if not report.ok:
        lines = [str(f) + (f"; to see it: python {f.reproducer}" if f.reproducer else "") for f in report.findings]
        raise AssertionError("\n".join(lines))
