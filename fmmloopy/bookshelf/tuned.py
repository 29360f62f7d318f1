"""Tuned parameters: what a search has found and a check has certified, kept per device in the user's config folder.

One readable JSON file per device. An entry holds for one recipe (by the hash of its code), operator, precision, order
and version of the driver; `fmmloopy.Fmm` uses entries that hold without being told, and passes over all others.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import platformdirs

from fmmloopy.bookshelf.certificates import CERTIFIED, operator_status
from fmmloopy.common.store import write_atomically
from fmmloopy.execution.devices import Device
from fmmloopy.execution.key import recipe_hash, versions
from fmmloopy.precision import find_precision
from fmmloopy.recipes.book import RecipeBook

ENVIRONMENT_VARIABLE = "FMMLOOPY_CONFIG_DIR"

FORMAT = 1


@dataclass(frozen=True)
class Tuned:
    """The best parameters found for one recipe.

    Attributes:
        book, operator: whose recipe.
        recipe: hash of its code.
        dtype: float32 or float64.
        order: of the surfaces of the problem that it was timed on.
        driver: version of the device's driver.
        loopy: version of loopy.
        parameters: keyword arguments of the recipe; empty where its defaults on the device are the best.
        seconds: median time on that problem.
        default_seconds: the same with the recipe's defaults on the device; None if they failed.
        problem: what it was timed on, in words.
    """

    book: str
    operator: str
    recipe: str
    dtype: str
    order: int
    driver: str
    loopy: str
    parameters: Mapping[str, Any]
    seconds: float
    default_seconds: float | None
    problem: str

    @property
    def key(self) -> tuple[Any, ...]:
        """What it is for: another entry with the same key takes its place."""
        return self.book, self.operator, self.dtype, self.order


def config_folder() -> Path:
    """Return the folder of tuned parameters: $FMMLOOPY_CONFIG_DIR if set and not empty, else the user's."""
    return Path(os.environ.get(ENVIRONMENT_VARIABLE) or platformdirs.user_config_dir("fmmloopy"))


def store_file(device: Device) -> Path:
    """Return where the tuned parameters of a device are kept."""
    return config_folder() / "tuned" / (re.sub(r"[^A-Za-z0-9.+-]+", "_", device.description).strip("_")[:150] + ".json")


def read_store(device: Device) -> tuple[Tuned, ...]:
    """Return all entries of a device; none if there is no file.

    Raises:
        ValueError: the file is there and cannot be read as one of tuned parameters.
    """
    path = store_file(device)
    return read_entries(path)[1] if path.exists() else ()


def read_entries(path: Path) -> tuple[str, tuple[Tuned, ...]]:
    """Return the device that a file is for, and its entries.

    Raises:
        ValueError: it holds no tuned parameters.
        OSError: it cannot be read.
    """
    try:
        content = json.loads(path.read_text())
        if content["format"] != FORMAT:
            raise ValueError(f"{path}: format {content['format']}, expected {FORMAT}")
        return str(content["device"]), tuple(_entry(**entry) for entry in content["tuned"])
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no tuned parameters: {error}; delete it, or tune again") from None


def _entry(**fields: Any) -> Tuned:
    """Make an entry of what a file holds.

    Raises:
        TypeError: a field is missing, unknown or of a wrong type.
    """
    entry = Tuned(**fields)
    for name in ("book", "operator", "recipe", "dtype", "driver", "loopy", "problem"):
        if not isinstance(getattr(entry, name), str):
            raise TypeError(f"{name} is {getattr(entry, name)!r}")
    if not isinstance(entry.order, int) or not isinstance(entry.parameters, dict):
        raise TypeError(f"order is {entry.order!r} and parameters {entry.parameters!r}")
    return entry


def write_store(device: Device, entries: Sequence[Tuned]) -> Path:
    """Write all entries of a device and return where they are.

    Raises:
        OSError: the folder cannot be written.
    """
    path = store_file(device)
    write_entries(path, device.description, entries)
    return path


def write_entries(path: Path, device: str, entries: Sequence[Tuned]) -> None:
    """Write a file of entries.

    Raises:
        OSError: it cannot be written.
    """
    ordered = sorted(map(asdict, entries), key=lambda e: (e["book"], e["operator"], e["dtype"], e["order"]))
    content = {"format": FORMAT, "device": device, "tuned": ordered}
    write_atomically(path, json.dumps(content, indent=2) + "\n")


def merge(entries: Sequence[Tuned], more: Sequence[Tuned]) -> list[Tuned]:
    """Return entries, those of ``more`` in place of others with the same key."""
    return list({entry.key: entry for entry in (*entries, *more)}.values())


def holds(entry: Tuned, book: RecipeBook, device: Device, dtype: str | None = None) -> bool:
    """Return whether an entry is for this very recipe, driver and loopy, and certified.

    In evaluations of a dtype, None for that of the entry.
    """
    same = (entry.book, entry.recipe, entry.driver, entry.loopy) == (
        book.name,
        recipe_hash(book, entry.operator),
        device.driver,
        dict(versions())["loopy"],
    )
    return same and operator_status(book, device, entry.operator, dtype or entry.dtype, entry.parameters) == CERTIFIED


def tuned_parameters(book: RecipeBook, device: Device, dtype: str, order: int) -> dict[str, dict[str, Any]]:
    """Return the parameters to use by operator: of the entries that hold, those of the nearest order.

    Operators whose defaults are the best are left out. Mixed kernels have those of what they compute in. A store that
    cannot be read counts as none: what is tuned is never needed.
    """
    try:
        entries = read_store(device)
    except (ValueError, OSError):
        return {}
    fitting = [
        e
        for e in entries
        if e.operator in book.recipes
        and e.dtype == book.operator(e.operator).types_in(find_precision(dtype)).inner.name
        and holds(e, book, device, dtype)
    ]
    fitting.sort(key=lambda e: abs(e.order - order), reverse=True)
    nearest = {entry.operator: dict(entry.parameters) for entry in fitting}
    return {operator: parameters for operator, parameters in nearest.items() if parameters}
