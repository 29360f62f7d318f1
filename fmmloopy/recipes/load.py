"""Find recipe books: those shipped with fmmloopy, those of other packages, and files."""

from __future__ import annotations

import importlib.metadata
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from fmmloopy.common.file_modules import import_file
from fmmloopy.recipes.book import SEQUENTIAL, RecipeBook, RecipeError
from fmmloopy.recipes.hints import described, nearest

ENTRY_POINTS = "fmmloopy.recipes"
"""Group of entry points by which packages provide books."""


def shipped_books() -> dict[str, RecipeBook]:
    """Return the books shipped with fmmloopy, by name."""
    books = {}
    for path in shipped_files():
        if path.stem not in ("__init__", "cpu", "gpu_steps", "inline", "rewriting", "steps"):
            book = _book_of(importlib.import_module(f"fmmloopy.transforms.{path.stem}"), str(path))
            books[book.name] = book
    return books


def shipped_files() -> list[Path]:
    """Return the files of the books shipped with fmmloopy, and of the modules that they share."""
    import fmmloopy.transforms as transforms

    return sorted(Path(next(iter(transforms.__path__))).glob("*.py"))


def load_recipes(which: str | Path | RecipeBook | None = None, device: Any = None) -> RecipeBook:
    """Find a recipe book.

    Args:
        which: a book; the name of a shipped book or of an entry point in group ``fmmloopy.recipes``; the path of a .py
            file that defines ``BOOK``; ``"sequential"``; or None for the first shipped book that suits the device.
        device: a :class:`fmmloopy.Device`, for ``which=None``; if it is None too, the book is ``"sequential"``.

    Raises:
        RecipeError: there is no such book, or its file cannot be used.
    """
    if isinstance(which, RecipeBook):
        return which
    if which is not None and not isinstance(which, (str, Path)):
        raise RecipeError(f"recipes is {which!r}, expected a book, its name, or the path of its file")
    if which is None:
        if isinstance(device, str):
            raise RecipeError(f"device is {device!r}, expected one of fmmloopy.find_devices()")
        books_for = () if device is None else shipped_books().values()
        return next((book for book in books_for if book.suits(device)), SEQUENTIAL)
    if isinstance(which, Path) or which.endswith(".py"):
        return _load_file(Path(which))
    if which == SEQUENTIAL.name:
        return SEQUENTIAL
    books = shipped_books()
    if which in books:
        return books[which]
    installed = installed_books()
    if which in installed:
        return load_installed(installed[which])
    if Path(f"{which}.py").is_file():
        raise RecipeError(f"no recipe book {which!r}; to use the file of that name, give {which}.py")
    known = [*books, SEQUENTIAL.name, *installed]
    there = f"{nearest(which, known)} there are {', '.join(known)}".lstrip()
    raise RecipeError(f"no recipe book {which!r}; {there}, or give the path of a .py file that defines BOOK")


def load_known(name: str) -> RecipeBook:
    """Find a book by its name alone: one that comes with fmmloopy, or with an installed package.

    Raises:
        RecipeError: there is no such book; paths are no names.
    """
    known = [*shipped_books(), SEQUENTIAL.name, *installed_books()]
    if name not in known:
        raise RecipeError(f"no recipe book is named {name!r}; there are {', '.join(known)}, or give the book yourself")
    return load_recipes(name)


def installed_books() -> dict[str, importlib.metadata.EntryPoint]:
    """Return the entry points by which other packages provide books, by name."""
    return {entry.name: entry for entry in importlib.metadata.entry_points(group=ENTRY_POINTS)}


def load_installed(entry: importlib.metadata.EntryPoint) -> RecipeBook:
    """Return the book of an entry point, which is a book or a module with a ``BOOK``.

    Raises:
        RecipeError: it cannot be imported, or is not a book.
    """
    try:
        loaded = entry.load()
    except (Exception, SystemExit) as error:
        package = f" of package {entry.dist.name}" if entry.dist else ""
        raise RecipeError(f"{entry.name} ({entry.value}{package}) cannot be loaded: {described(error)}") from error
    return loaded if isinstance(loaded, RecipeBook) else _book_of(loaded, entry.name)


def _load_file(path: Path) -> RecipeBook:
    if not path.is_file():
        raise RecipeError(f"no file {path}; give the path of a .py file that defines BOOK")
    try:
        module = import_file(path)
    except SyntaxError as error:
        file = path if error.filename == str(path.absolute()) else f"{path} cannot be loaded: {error.filename}"
        raise RecipeError(f"{file}, line {error.lineno}: {error.msg}") from error
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        line = next((f" (line {f.lineno})" for f in reversed(frames) if f.filename == str(path.absolute())), "")
        text = str(error) if isinstance(error, RecipeError) else described(error)
        raise RecipeError(f"{path} cannot be loaded: {text}{line}") from error
    return _book_of(module, str(path))


def _book_of(module: ModuleType, where: str) -> RecipeBook:
    book = getattr(module, "BOOK", None)
    if not isinstance(book, RecipeBook):
        raise RecipeError(f"{where} defines no BOOK; end it with BOOK = RecipeBook(name, device=..., recipes=...)")
    return book
