"""Start a recipe book: write a file that works, with comments that explain what to do next."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import keyword
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fmmloopy.common.store import write_atomically
from fmmloopy.execution.backends import backend_of
from fmmloopy.execution.device import GPU
from fmmloopy.execution.devices import Device, choose_device
from fmmloopy.recipes.book import SEQUENTIAL, RecipeError, devices_in_words
from fmmloopy.recipes.load import shipped_books

STARTER = '''"""{name}: recipes for {device}.

Explain here why they are fast on this device, and where that was measured.

A recipe takes the kernel of an operator, which is pure mathematics, and rewrites it. It yields a name and the kernel
after each step. Every kernel that it yields is complete: it can be checked, shown and timed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fmmloopy.recipes import RecipeBook
from fmmloopy.transforms import steps

Kernel = Any


def p2p(knl: Kernel, *, lanes: int = 16) -> Iterator[tuple[str, Kernel]]:
    """Sum the potentials at a leaf's points from the points of its neighbours; most of the time is spent here."""
    # The loops, from the outermost: ibox, leaves; ttile and t, the targets of a leaf in tiles of some number of lanes;
    # ilist, its neighbours; stile and s, the sources of a neighbour in the same way.
{recipe}
    # What to try next, one step at a time, with `fmmloopy check` after each:
    # - knl = steps.newton_rsqrt(knl), if the compiler does not vectorize square roots;{other}
    # - other values of lanes;
    # - any rewrite of loopy (import loopy as lp), such as lp.split_iname, lp.precompute or lp.tag_inames.


def my_devices(device: Any) -> bool:
    """{words}."""
    # Other fields of a device that may be used here: vendor, instructions, registers, cores, memory, width, ...
    return bool({condition})


BOOK = RecipeBook(
    "{name}",
    # The devices for which this book is the default.
    device=my_devices,
    # Operators without a recipe run as their sequential kernels, which are correct but slow. P2M, P2L, L2P and M2P have
    # the same loops as P2P, so its recipe works for them too: "p2m": p2p, ...
    recipes={{"p2p": p2p}},
    # Values of the recipe's keyword arguments that `fmmloopy tune` tries.
    tuning={{"p2p": {{"lanes": (8, 16, 32)}}}},
)
'''

LANES = """
    # A tile has one target per lane. The loop over them becomes the innermost one, over short arrays, which compilers
    # turn into vector instructions.
    knl = steps.lane_arrays(knl, lanes)
    yield "targets in lanes", knl
"""
GROUPS = """
    # Leaves are independent: each one becomes a work-group, and work-groups run in parallel. Here, this is the same as
    # lp.tag_inames(knl, {"ibox": "g.0"}).
    knl = steps.one_group_per(knl, "ibox")
    yield "one work-group per box", knl
"""
ITEMS = """
    # A tile has one target per lane, and each target gets its own work-item; GPUs run the work-items of a tile in
    # parallel.
    knl = steps.work_items(knl, lanes)
    yield "one work-item per target of a tile", knl
"""
TRY_ITEMS = """
    # - steps.work_items(knl, lanes) instead of lane_arrays: a work-item for each target, for compilers that turn
    #   work-items into lanes;"""
TRY_LANES = """
    # - steps.lane_arrays(knl, lanes) instead of work_items: several targets for each work-item, in short arrays;"""


@dataclass(frozen=True)
class Started:
    """A file that was written.

    Attributes:
        path: path of the file.
        name: name of the book in it.
        origin: name of the book that it is a copy of; empty if it is the starter.
        devices: the devices that it is for, in words or as a regular expression.
    """

    path: Path
    name: str
    origin: str
    devices: str


def start_book(
    path: str | Path, origin: str | None = None, force: bool = False, device: Device | None = None
) -> Started:
    """Write a new recipe book to a file; it passes `fmmloopy check` without changes.

    Args:
        path: path of the file, an identifier and ``.py``; the book is named after it.
        origin: name of a shipped book to copy; None for a small book with P2P and explanations.
        force: whether to replace an existing file.
        device: the device that the starter is for; None for the default device.

    Raises:
        ValueError: the file name is not an identifier and ``.py``, or a shipped book has that name.
        OSError: the file exists, its folder does not, or it cannot be written.
        RecipeError: there is no such shipped book.
    """
    path = Path(path)
    name = path.stem
    if path.suffix != ".py" or not name.isidentifier() or keyword.iskeyword(name):
        raise ValueError(
            f"{path.name!r} does not name a Python module; expected an identifier and .py, such as my_gpu.py"
        )
    if name in (*shipped_books(), SEQUENTIAL.name):
        raise ValueError(f"{name} is a book that comes with fmmloopy; choose another name, such as my_{name}.py")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no folder {path.parent}; create it first")
    if path.is_dir() or (path.exists() and not force):
        raise FileExistsError(f"{path} already exists; give another name, or --force to replace the file")
    text, devices = _copy(origin, name) if origin else _starter(name, device or choose_device())
    write_atomically(path, lambda temporary: _write(temporary, text))
    return Started(path, name, origin or "", devices)


def _write(temporary: Path, text: str) -> None:
    """Write the file again with the permissions of the user's files, since temporary files are private."""
    temporary.unlink()
    temporary.write_text(text)


def _starter(name: str, device: Device) -> tuple[str, str]:
    """Return the text of a small book for the family of a device, and a description of the family."""
    backend = backend_of(device)
    family = backend.family(device)
    condition = " and ".join(_asking(name, value) for name, value in family.facts)
    form, other = (ITEMS, TRY_LANES) if device.kind == GPU else (LANES, TRY_ITEMS)
    recipe, other = (form + GROUPS, other) if backend.has_groups else (form, "")
    described = {"device": device.name, "words": family.words, "condition": condition}
    return STARTER.format(name=name, recipe=recipe, other=other, **described), family.words


def _asking(name: str, value: Any) -> str:
    """Return code that compares a field of a device with a value; for a version, its first numbers."""
    start = f"[:{len(value)}]" if isinstance(value, tuple) else ""
    return f"device.{name}{start} == {json.dumps(value) if isinstance(value, str) else repr(value)}"


def _copy(origin: str, name: str) -> tuple[str, str]:
    """Return the text of a shipped book under another name, and the devices that it is for."""
    books = shipped_books()
    if origin not in books:
        raise RecipeError(f"no shipped recipe book {origin!r} to start with; there are {', '.join(books)}")
    text = inspect.getsource(importlib.import_module(f"fmmloopy.transforms.{origin}"))
    call = next(
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "RecipeBook"
    )
    lines = text.splitlines(keepends=True)
    line, where = lines[call.args[0].lineno - 1], call.args[0]
    lines[where.lineno - 1] = line[: where.col_offset] + f'"{name}"' + line[where.end_col_offset :]
    return "".join(lines), devices_in_words(books[origin].device)
