"""Places at which one part of several fails, and what calls them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import fmmloopy as fl

LOST, GONE = "a device is lost", "no memory is left"

PLACES: dict[str, tuple[str, str, type[BaseException]]] = {
    "fmmloopy.parts.shares.sort_in_root": ("build", LOST, RuntimeError),
    "fmmloopy.parts.part.build_lists": ("build", GONE, MemoryError),
    "fmmloopy.execution.evaluation._tables": ("build", LOST, RuntimeError),
    "fmmloopy.execution.evaluation.Plan": ("build", GONE, MemoryError),
    "fmmloopy.fmm._set_up": ("build", LOST, RuntimeError),
    "fmmloopy.fmm._fit": ("update", LOST, RuntimeError),
    "fmmloopy.several.processes.build_part": ("update", LOST, RuntimeError),
    "fmmloopy.parts.part.LocalPart.bring_in": ("evaluate", LOST, RuntimeError),
    "fmmloopy.parts.part.LocalPart.exchange_multipoles": ("evaluate", "KeyboardInterrupt", KeyboardInterrupt),
    "fmmloopy.parts.part.LocalPart.take_out": ("evaluate", GONE, MemoryError),
    "fmmloopy.fmm.write_results": ("evaluate", LOST, RuntimeError),
    "fmmloopy.several.processes.sum_vectors": ("compare", GONE, MemoryError),
}
"""By what fails: the call in which it does, what all parts say, and the type of what it raises."""


@contextmanager
def failing(place: str, error: BaseException, here: Callable[[], bool]) -> Iterator[None]:
    """Replace a function by one that raises an error where ``here()`` says so."""
    owner, _, name = place.rpartition(".")
    try:
        found: Any = importlib.import_module(owner)
    except ImportError:
        module, _, of = owner.rpartition(".")
        found = getattr(importlib.import_module(module), of)
    usual = getattr(found, name)

    def fail(*arguments: Any, **options: Any) -> Any:
        if here():
            raise error
        return usual(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(found, name, fail)
        yield


def call(which: str, build: Callable[[], fl.Fmm], points: Any, before: Callable[[], None]) -> None:
    """Do something, and then build an evaluation, or call one of its methods."""
    if which == "build":
        before()
    fmm = build()
    if which != "build":
        fmm.evaluate(np.ones(len(points)))
        before()
        {
            "update": lambda: fmm.update(points),
            "evaluate": lambda: fmm.evaluate(np.ones(len(points))),
            "compare": lambda: fmm.estimate_error(k=10),
        }[which]()
