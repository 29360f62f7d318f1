"""List recipe books and what they are for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from fmmloopy.bookshelf.certificates import status
from fmmloopy.execution.devices import Device, find_devices
from fmmloopy.recipes.book import SEQUENTIAL, RecipeBook, RecipeError, devices_in_words
from fmmloopy.recipes.load import installed_books, load_installed, load_recipes, shipped_books


@dataclass(frozen=True)
class Entry:
    """A book, or the reason why it cannot be used.

    Attributes:
        name: the name for :func:`fmmloopy.load_recipes`.
        origin: where it comes from.
        pattern: the devices that it is for, in words or as a regular expression.
        suits: descriptions of the devices here that it is for.
        default_for: those of them for which it is the default.
        operators: operators that it has a recipe for, or brings itself.
        tuning: values worth trying, by operator and keyword.
        by_device: keyword arguments that override defaults, by operator and devices, which are described as in
            ``pattern``.
        certificates: by description of a device that it suits: certified, stale with the reason, or none.
        trouble: why it cannot be used, in one line; empty if it can.
    """

    name: str
    origin: str
    pattern: str = ""
    suits: tuple[str, ...] = ()
    default_for: tuple[str, ...] = ()
    operators: tuple[str, ...] = ()
    tuning: Mapping[str, Mapping[str, tuple[Any, ...]]] = field(default_factory=dict)
    by_device: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    certificates: Mapping[str, str] = field(default_factory=dict)
    trouble: str = ""


def list_books(paths: Sequence[str | Path] = (), devices: Iterable[Device] | None = None) -> tuple[Entry, ...]:
    """List the books shipped with fmmloopy, those of other packages, and those in files.

    Args:
        paths: paths of files that define BOOK.
        devices: devices that books may suit; None for those of this machine.
    """
    found = tuple(find_devices() if devices is None else devices)
    entries = [_entry(book.name, "comes with fmmloopy", book, found) for book in shipped_books().values()]
    entries.append(_entry(SEQUENTIAL.name, "comes with fmmloopy", SEQUENTIAL, found))
    taken = {entry.name for entry in entries}
    for name, point in sorted(installed_books().items()):
        origin = f"package {point.dist.name}" if point.dist else f"entry point {point.value}"
        if name in taken:
            trouble = f"a book that comes with fmmloopy is named {name} and is used instead; give this one another name"
            entries.append(Entry(name, origin, trouble=trouble))
        else:
            entries.append(_tried(name, origin, partial(load_installed, point), found))
    for path in paths:
        entries.append(_tried(str(path), "file", partial(load_recipes, Path(path)), found))
    return tuple(entries)


def _tried(name: str, origin: str, load: Callable[[], RecipeBook], devices: Sequence[Device]) -> Entry:
    try:
        return _entry(name, origin, load(), devices)
    except RecipeError as error:
        return Entry(name, origin, trouble=str(error))


def _entry(name: str, origin: str, book: RecipeBook, devices: Sequence[Device]) -> Entry:
    default_for = tuple(d.description for d in devices if load_recipes(None, d) is book)
    suited = [d for d in devices if book.suits(d) or d.description in default_for]
    return Entry(
        name,
        origin,
        devices_in_words(book.device),
        tuple(d.description for d in suited),
        default_for,
        book.to_check,
        dict(book.tuning),
        {
            operator: {devices_in_words(condition): given for condition, given in conditions.items()}
            for operator, conditions in book.by_device.items()
        },
        {d.description: status(book, d) for d in suited},
    )
