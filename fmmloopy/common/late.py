"""Modules that are imported when something of them is first used.

Importing loopy and isl takes longer than all else that a run with warm caches does before its first potential, and
needs neither.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any


class LateModule(ModuleType):
    """A module that is imported when an attribute of it is first read."""

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module(self.__name__), name)


loopy: Any = LateModule("loopy")
isl: Any = LateModule("islpy")
