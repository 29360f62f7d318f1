"""Certificates: which recipes have passed which checks, on which device, with which versions of everything.

One file per book and device in the cache folder. Deleted, recipes count as unchecked until they are checked again. A
certificate holds only while everything that it names is the same: a recipe that was edited, an operator that changed,
or another driver make it stale.

Books that come with fmmloopy bring certificates for the runtimes that they were checked on. Those are for a runtime and
not for a processor, and hold while the text of books and operators is what it was.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from fmmloopy import recipes
from fmmloopy.cache import cache_folder, write_atomically
from fmmloopy.compile import operators_hash, recipe_hash, versions
from fmmloopy.devices import Device
from fmmloopy.precision import kernel_dtype
from fmmloopy.recipes import RecipeBook, shipped_books, shipped_files

CHECKER = 2
"""Increase when the check finds what it did not find before: older certificates are stale then."""

SHIPPED_FILE = Path(__file__).parent / "shipped_certificates.json"
"""Certificates of the books that come with fmmloopy; ``.ci/certify`` makes it."""

NONE, CERTIFIED, STALE, FAILED = "none", "certified", "stale", "failed"


class UncertifiedWarning(UserWarning):
    """A recipe is used that has not passed `fmmloopy check` on this device, or has changed since."""


def certificates_file(book: RecipeBook, device: Device) -> Path:
    """Return where the certificates of a book on a device are kept."""
    digest = hashlib.sha256(device.description.encode()).hexdigest()[:12]
    name = re.sub(r"[^A-Za-z0-9._-]", "_", book.name)[:80]
    return cache_folder() / "certificates" / f"{name}-{digest}.json"


def record(
    book: RecipeBook,
    device: Device,
    operators: Sequence[str],
    dtypes: Sequence[str],
    level: str,
    parameters: Mapping[str, Mapping[str, Any]] | None = None,
    skipped: Sequence[str] = (),
) -> None:
    """Note that recipes have passed a check, or failed it.

    What a full check has found of the same recipe stays when a quick one passes.

    Args:
        book, device, operators: what was checked.
        dtypes: in which precisions.
        level: quick or full, or FAILED.
        parameters: keyword arguments of the recipes, by operator, other than their defaults on the device.
        skipped: layers that could not be run here, in words.
    """
    path = certificates_file(book, device)
    entries = _read(path)
    for operator in operators:
        for dtype in dtypes:
            key = _key(book, device, operator, kernel_dtype(operator, dtype), (parameters or {}).get(operator))
            entry = {"level": level, "skipped": list(skipped), "subject": _subject(book, device, operator)}
            known = entries.get(key, {})
            if not (level == "quick" and known.get("level") == "full" and known.get("subject") == entry["subject"]):
                entries[key] = entry
    content = {"book": book.name, "device": device.description, "certificates": entries}
    with suppress(OSError):  # without a place to keep them, recipes stay uncertified
        write_atomically(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


def operator_status(
    book: RecipeBook, device: Device, operator: str, dtype: str, parameters: Mapping[str, Any] | None = None
) -> str:
    """Return ``"certified"``, ``"failed"``, ``"none"``, or ``"stale: <what has changed>"`` for one recipe.

    An operator without a recipe runs as its sequential kernel, to which all others are held: it counts as certified.
    """
    return _statuses(book, device, {operator: parameters}, dtype)[operator]


def status(
    book: RecipeBook, device: Device, dtype: str = "float64", parameters: Mapping[str, Mapping[str, Any]] | None = None
) -> str:
    """Return the status of a whole book: of its recipes, the worst."""
    found = _statuses(book, device, {operator: (parameters or {}).get(operator) for operator in book.recipes}, dtype)
    failed = [operator for operator, text in found.items() if text == FAILED]
    if failed:
        return f"{FAILED} for {', '.join(failed)}"
    missing = [operator for operator, text in found.items() if text == NONE]
    if missing and len(missing) < len(found):
        return f"{NONE} for {', '.join(missing)}"
    return NONE if missing else next((text for text in found.values() if text != CERTIFIED), CERTIFIED)


def warn_if_uncertified(
    book: RecipeBook, device: Device, dtype: str, parameters: Mapping[str, Mapping[str, Any]] | None = None
) -> None:
    """Warn, once in a process, when recipes are used on a device that they have not been checked on."""
    if not book.recipes:
        return
    found = status(book, device, dtype, parameters)
    if found != CERTIFIED:
        what = "no certificate" if found.startswith(NONE) else f"a stale certificate ({found.partition(': ')[2]})"
        if found.startswith(FAILED):
            what = "failed `fmmloopy check`"
        of = "" if found.startswith(STALE) else found.removeprefix(NONE).removeprefix(FAILED)
        has = "" if found.startswith(FAILED) else "has "
        _warn_once(f"recipe book {book.name!r} {has}{what}{of} in {dtype} on {device.name}; run `fmmloopy check` on it")


@cache
def _warn_once(text: str) -> None:
    """Warn of a text the first time; warnings' own memory of that is lost whenever their filters change."""
    warnings.warn(text, UncertifiedWarning, stacklevel=4)


def _statuses(
    book: RecipeBook, device: Device, operators: Mapping[str, Mapping[str, Any] | None], dtype: str
) -> dict[str, str]:
    """Return the status of each operator: of what the book came with, unless it has failed here; else of here."""
    entries = _read(certificates_file(book, device))
    came_with = comes_certified(book, device)
    found = {}
    for operator, parameters in operators.items():
        here = _status(entries, book, device, operator, kernel_dtype(operator, dtype), parameters)
        defaults = not _other_than_defaults(book, device, operator, parameters)
        found[operator] = CERTIFIED if came_with and defaults and here != FAILED else here
    return found


def comes_certified(book: RecipeBook, device: Device) -> bool:
    """Return whether a book came with fmmloopy, is as it came, and was checked on the runtime of a device."""
    if book is not shipped_books().get(book.name):
        return False
    shipped = read_shipped()
    return shipped["sources"] == sources_hash() and shipping_label(book, device) in shipped["certified"]


def read_shipped() -> dict[str, Any]:
    """Return what was checked before this was released: the hash of all sources, and a list of labels."""
    content: dict[str, Any] = json.loads(SHIPPED_FILE.read_text())
    return content


def shipping_label(book: RecipeBook, device: Device) -> str:
    """Name a book, a kind of device and its runtime, whatever the processor, and the versions of runtime and loopy."""
    runtime = f"{device.backend} {device.kind} {device.runtime}"
    return f"{book.name} on {runtime}, driver {device.driver}, loopy {dict(versions())['loopy']}"


def sources_hash() -> str:
    """Return a hash of the text of operators, books, and what lies between them."""
    folders = [Path(recipes.__file__).parent / "recipes.py", *shipped_files()]
    digest = hashlib.sha256(operators_hash().encode())
    for path in sorted(folders, key=lambda path: path.name):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:32]


def _status(
    entries: Mapping[str, Any],
    book: RecipeBook,
    device: Device,
    operator: str,
    dtype: str,
    parameters: Mapping[str, Any] | None,
) -> str:
    if operator not in book.recipes:
        return CERTIFIED
    entry = entries.get(_key(book, device, operator, dtype, parameters))
    if entry is None:
        return NONE
    then, now = entry["subject"], _subject(book, device, operator)
    changed = [name for name in now if then.get(name) != now[name]]
    if changed:
        return f"{STALE}: {', '.join(changed)} changed since"
    return FAILED if entry["level"] == FAILED else CERTIFIED


def _other_than_defaults(
    book: RecipeBook, device: Device, operator: str, parameters: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return the parameters that the recipe does not have on the device anyway."""
    defaults = book.defaults_on(operator, device)
    return {name: value for name, value in (parameters or {}).items() if defaults.get(name) != value}


def _key(book: RecipeBook, device: Device, operator: str, dtype: str, parameters: Mapping[str, Any] | None) -> str:
    other = _other_than_defaults(book, device, operator, parameters)
    # A tuple that has been in a JSON file is a list.
    chosen = ", ".join(f"{name}={json.dumps(value, default=repr)}" for name, value in sorted(other.items()))
    return f"{operator} {dtype}" + (f" {chosen}" if chosen else "")


def _subject(book: RecipeBook, device: Device, operator: str) -> dict[str, str]:
    """Name everything that a certificate depends on."""
    packages = {name: version for name, version in versions() if name != "fmmloopy"}
    return {
        "recipe": recipe_hash(book, operator),
        "parameters": repr(sorted(book.parameters_on(operator, device).items())),
        "operators": operators_hash()[:32],
        "driver": device.driver,
        "checker": str(CHECKER),
        **packages,
    }


def _read(path: Path) -> dict[str, Any]:
    """Read certificates; a file that is damaged counts as none."""
    try:
        entries = json.loads(path.read_text())["certificates"]
        return {key: entry for key, entry in entries.items() if isinstance(entry["subject"], dict)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
