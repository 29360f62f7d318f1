"""fmmloopy: a kernel-transformation toolkit for the operators of the fast multipole method.

Names are imported when they are first used, so that ``import fmmloopy`` does not wait for loopy.
"""

from __future__ import annotations

import sqlite3
from importlib import import_module
from typing import TYPE_CHECKING, Any

from fmmloopy.common.surroundings import leave_caches as _leave_caches
from fmmloopy.common.surroundings import prepare as _prepare
from fmmloopy.direct import direct
from fmmloopy.greens import GreensFunction, Surfaces, laplace, yukawa
from fmmloopy.kernels import (
    biharmonic,
    biot_savart,
    gaussian,
    helmholtz,
    kelvin,
    plummer,
    rotlet,
    stokeslet,
    stresslet,
)

if TYPE_CHECKING:
    from fmmloopy.bookshelf.certificates import UncertifiedWarning
    from fmmloopy.bookshelf.tuned import tuned_parameters
    from fmmloopy.checking.check import check_book
    from fmmloopy.checking.report import Finding, Report
    from fmmloopy.choosing.report import PlanReport
    from fmmloopy.execution.devices import Device, DeviceError, find_devices
    from fmmloopy.fmm import Fmm
    from fmmloopy.measuring.ladder import climb
    from fmmloopy.measuring.peaks import machine_peaks
    from fmmloopy.measuring.timing import Setting
    from fmmloopy.measuring.tune import Search, import_entries, tune
    from fmmloopy.measuring.verify import Convergence, verify_kernel
    from fmmloopy.recipes.book import RecipeBook, RecipeError
    from fmmloopy.recipes.load import load_recipes

__version__ = "0.1.0"

__all__ = [
    "Convergence",
    "Device",
    "DeviceError",
    "Finding",
    "Fmm",
    "GreensFunction",
    "PlanReport",
    "RecipeBook",
    "RecipeError",
    "Report",
    "Search",
    "Setting",
    "Surfaces",
    "UncertifiedWarning",
    "biharmonic",
    "biot_savart",
    "check_book",
    "climb",
    "direct",
    "find_devices",
    "gaussian",
    "helmholtz",
    "import_entries",
    "kelvin",
    "laplace",
    "load_recipes",
    "machine_peaks",
    "make_bundle",
    "plummer",
    "rotlet",
    "stokeslet",
    "stresslet",
    "tune",
    "tuned_parameters",
    "verify_kernel",
    "yukawa",
]

_MODULES = {
    "bookshelf.certificates": ("UncertifiedWarning",),
    "bookshelf.tuned": ("tuned_parameters",),
    "bundles": ("make_bundle",),
    "checking.check": ("check_book",),
    "checking.report": ("Finding", "Report"),
    "choosing.report": ("PlanReport",),
    "execution.devices": ("Device", "DeviceError", "find_devices"),
    "fmm": ("Fmm",),
    "measuring.ladder": ("climb",),
    "measuring.peaks": ("machine_peaks",),
    "measuring.timing": ("Setting",),
    "measuring.tune": ("Search", "import_entries", "tune"),
    "measuring.verify": ("Convergence", "verify_kernel"),
    "recipes.book": ("RecipeBook", "RecipeError"),
    "recipes.load": ("load_recipes",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

_prepare()  # before anything imports loopy


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = f"{__name__}.{_HOMES[name]}"
    try:
        module = import_module(home)
    except sqlite3.Error:  # a database of loopy that was sound a moment ago
        _leave_caches()
        module = import_module(home)
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
