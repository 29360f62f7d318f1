"""Modules made from files: they cannot be imported by name, so other processes receive their code."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

PREFIX = "fmmloopy_recipes_"
"""Prefix of the names of these modules."""


def import_file(path: Path) -> ModuleType:
    """Import a file under a unique name; if the import fails, nothing remains."""
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
