"""Modules that are made from files: nobody can import them by name, so other processes are sent their code."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

PREFIX = "fmmloopy_recipes_"
"""Begins the names of these modules."""


def import_file(path: Path) -> ModuleType:
    """Import a file under a name of its own; what fails leaves nothing behind."""
    name = f"{PREFIX}{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path.absolute())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def file_modules() -> list[ModuleType]:
    """Return those that this process has imported."""
    return [module for name, module in list(sys.modules.items()) if name.startswith(PREFIX)]
