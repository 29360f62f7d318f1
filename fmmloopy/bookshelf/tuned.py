"""Tuned parameters: found by a search, certified by a check, and stored per device in the user's config folder.

There is one readable JSON file per device. An entry is valid for one recipe (by the hash of its code), operator,
precision, order and driver version; `fmmloopy.Fmm` uses valid entries automatically, and ignores all others.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from fmmloopy.bookshelf.certificates import CERTIFIED, operator_status
from fmmloopy.common.documents import is_number, is_text, parse
from fmmloopy.common.store import user_folder, write_atomically
from fmmloopy.common.trust import UntrustedError, check_trusted, make_private_folders, warn_once
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
        book, operator: book and operator of the recipe.
        recipe: hash of its code.
        dtype: float32 or float64.
        order: order of the problem that it was timed on.
        driver: version of the device's driver.
        loopy: version of loopy.
        parameters: keyword arguments of the recipe; empty if its defaults on the device are the best.
        seconds: median time on that problem.
        default_seconds: the same with the recipe's defaults on the device; None if they failed.
        problem: the problem that it was timed on, in words.
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
        """What the entry is for; a new entry with the same key replaces it."""
        return self.book, self.operator, self.dtype, self.order


def config_folder() -> Path:
    """Return the folder of tuned parameters: $FMMLOOPY_CONFIG_DIR if set and not empty, else the user's."""
    given = os.environ.get(ENVIRONMENT_VARIABLE)
    return Path(given) if given else user_folder("config") / "fmmloopy"


def store_file(device: Device) -> Path:
    """Return the path of the tuned parameters of a device: no two devices share one."""
    words = re.sub(r"[^A-Za-z0-9.+-]+", "_", device.description).strip("_")[:120]
    digest = hashlib.sha256(device.description.encode()).hexdigest()[:12]
    return config_folder() / "tuned" / f"{words}-{digest}.json"


def read_store(device: Device) -> tuple[Tuned, ...]:
    """Return all entries of a device; none if there is no file.

    Raises:
        ValueError: the file exists but is not a valid file of tuned parameters, or is for another device.
        OSError: it cannot be read, or others can write it.
    """
    path = store_file(device)
    if not path.exists():
        return ()
    check_trusted(path, config_folder(), own_group=True)
    description, entries = read_entries(path)
    if description != device.description:
        raise ValueError(f"{path} is for {description!r}, expected {device.description!r}; delete it, or tune again")
    return entries


def read_entries(path: Path) -> tuple[str, tuple[Tuned, ...]]:
    """Return the device that a file is for, and its entries.

    Raises:
        ValueError: the file has no tuned parameters.
        OSError: the file cannot be read.
    """
    try:
        content = parse(path.read_bytes())
        if not isinstance(content, dict) or not isinstance(content["tuned"], list):
            raise TypeError("has no list of entries")
        if content["format"] != FORMAT:
            raise ValueError(f"has format {content['format']!r}, expected {FORMAT}")
        if not is_text(content["device"]):
            raise TypeError(f"is for the device {content['device']!r}, expected its description")
        return content["device"], tuple(map(_entry, content["tuned"]))
    except KeyError as error:
        raise ValueError(f"{path} is not a valid file of tuned parameters: it has no {error}; {_REMEDY}") from None
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is not a valid file of tuned parameters: it {error}; {_REMEDY}") from None


_REMEDY = "delete it, or tune again"


def _entry(stored: Any) -> Tuned:
    """Make an entry from what is in a file.

    Raises:
        TypeError: a field is missing, unknown or has the wrong type; the message continues a sentence.
    """
    names = {field.name for field in fields(Tuned)}
    if not isinstance(stored, dict) or stored.keys() != names:
        raise TypeError(f"has the entry {stored!r:.80}, expected {', '.join(sorted(names))}")
    entry = Tuned(**stored)
    expected: dict[str, tuple[bool, str]] = {
        name: (is_text(stored[name]), "text")
        for name in ("book", "operator", "recipe", "dtype", "driver", "loopy", "problem")
    }
    expected["order"] = (isinstance(entry.order, int) and is_number(entry.order), "a whole number")
    expected["parameters"] = (_are_parameters(entry.parameters), "values by keyword")
    expected["seconds"] = (is_number(entry.seconds) and entry.seconds > 0, "a positive number")
    default = entry.default_seconds
    expected["default_seconds"] = (default is None or (is_number(default) and default > 0), "a positive number or null")
    for name, (is_right, what) in expected.items():
        if not is_right:
            raise TypeError(f"has an entry whose {name} is {stored[name]!r:.80}, expected {what}")
    return entry


def _are_parameters(found: Any) -> bool:
    """Return whether these may be keyword arguments of a recipe: numbers, text, truth values, and lists of them."""
    if not isinstance(found, dict) or not all(name.isidentifier() for name in found):
        return False
    values = [value for given in found.values() for value in (given if isinstance(given, list) else [given])]
    return all(value is None or isinstance(value, bool) or is_number(value) or is_text(value) for value in values)


def write_store(device: Device, entries: Sequence[Tuned]) -> Path:
    """Write all entries of a device and return the path of the file; a damaged file is kept under another name.

    Raises:
        OSError: the folder is not writable.
    """
    path = store_file(device)
    try:
        read_store(device)
    except ValueError as error:
        aside = path.with_suffix(".damaged")
        path.replace(aside)
        warn_once(f"{error}; the file is now {aside}")
    make_private_folders(path.parent)
    write_entries(path, device.description, entries)
    return path


def write_entries(path: Path, device: str, entries: Sequence[Tuned]) -> None:
    """Write a file of entries.

    Raises:
        OSError: the file cannot be written.
    """
    ordered = sorted(map(asdict, entries), key=lambda e: (e["book"], e["operator"], e["dtype"], e["order"]))
    content = {"format": FORMAT, "device": device, "tuned": ordered}
    write_atomically(path, json.dumps(content, indent=2) + "\n")


def merge(entries: Sequence[Tuned], more: Sequence[Tuned]) -> list[Tuned]:
    """Return all entries; those of ``more`` replace others with the same key."""
    return list({entry.key: entry for entry in (*entries, *more)}.values())


def holds(entry: Tuned, book: RecipeBook, device: Device, dtype: str | None = None) -> bool:
    """Return whether an entry is for exactly this recipe, driver and loopy version, and certified.

    The certificate is for evaluations in ``dtype``; None for that of the entry.
    """
    same = (entry.book, entry.recipe, entry.driver, entry.loopy) == (
        book.name,
        recipe_hash(book, entry.operator),
        device.driver,
        dict(versions())["loopy"],
    )
    return same and operator_status(book, device, entry.operator, dtype or entry.dtype, entry.parameters) == CERTIFIED


def tuned_parameters(book: RecipeBook, device: Device, dtype: str, order: int) -> dict[str, dict[str, Any]]:
    """Return the parameters to use by operator: from the valid entries of the nearest order.

    Operators whose defaults are the best are left out. Mixed kernels use the parameters for the dtype that they compute
    in. A file that cannot be used is ignored with a warning, because tuned parameters are optional.
    """
    try:
        entries = read_store(device)
    except (ValueError, UntrustedError) as error:
        warn_once(f"tuned parameters are not used: {error}")
        return {}
    except OSError:
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
