"""Who may import whom: the parts of the package in one order, each of which knows those before it only."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

import fmmloopy
import fmmloopy.transforms

PACKAGE = "fmmloopy"

ITSELF = "fmmloopy/__init__"
"""The package itself: what `import fmmloopy` gives."""

LAYERS = (
    # What the method is, without a device.
    "terms", "expressions", "greens", "components", "limits", "kernels", "precision", "common", "vectors",
    "direct", "files", "octree", "parts", "tables", "prediction", "accuracy", "adjoint",
    # Operators, how they become fast, and how they run.
    "operators", "recipes", "transforms", "inputs", "execution",
    # What is known of recipes and devices, and what is chosen by it.
    "bookshelf", "choosing",
    # How recipes are checked, whole evaluations that may ask for it, and commands.
    "checking", "linear", "fmm", "several", "bundles", "measuring", "showing", "diagnosis", "testing", ITSELF, "cli",
)  # fmt: skip
"""The parts of the package, folders and modules: each may import those that stand before it, and itself."""

AGAINST_THE_ORDER = {("recipes", "transforms"), ("fmm", "several")}
"""The arrows against the order, inside functions only: recipes look for the books that come with the package, and an
`Fmm` for several devices or processes is one of those that know it."""

BOOKS_KNOW = {"recipes", "transforms"}
"""Parts that books may import: they are what users write, and know no operator."""

BOOKS_NEED = {"loopy", "islpy", "pymbolic", "pytools", "constantdict", "cgen", "genpy", "numpy"}
"""Packages outside the standard library that books may import."""

KNOW_LOOPY = {"operators", "recipes", "transforms", "execution", "checking", "showing"}
"""Parts that may import loopy."""

LATE = "fmmloopy.common.late"
"""The module from which parts that may import loopy, books too, take it, so that it is imported when it is needed."""

KNOWS_OPENCL = "fmmloopy.execution.backends.opencl"
"""The only module that may import pyopencl."""

KNOW_CUDA = ("fmmloopy.execution.backends.cuda", "fmmloopy.execution.backends.nvrtc")
"""The only modules that may import NVIDIA's packages, and only inside functions: most machines have no use for them."""

WITHOUT_LOOPY = LAYERS[: LAYERS.index("operators")]
"""Parts that never load loopy, nor pyopencl."""

WRITES_OPENCL = {"checking"}
"""Parts that write programs which use pyopencl. Of the others, only backends mention an attribute of ``cl``."""


class Import(NamedTuple):
    """An import: where it stands, whether inside a function, and the dotted name of what is imported."""

    line: int
    in_function: bool
    name: str


def sources() -> dict[str, str]:
    """Return the text of every module of the package by its dotted name."""
    folders = {PACKAGE: fmmloopy.__path__, f"{PACKAGE}.transforms": fmmloopy.transforms.__path__}
    found = {}
    for package, paths in folders.items():
        folder = Path(next(iter(paths)))
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join([package, *(part for part in parts if part != "__init__")])] = path.read_text()
    return found


def imports(name: str, text: str) -> Iterator[Import]:
    """Yield everything that a module imports, at its top or inside functions."""
    tree = ast.parse(text)
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    inside = {id(node) for function in functions for node in ast.walk(function)}
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = name.split(".")[: -node.level] if node.level else []
            base = ".".join([*above, node.module] if node.module else above)
            names = [f"{base}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            first = node.args[0].values[0] if node.args and isinstance(node.args[0], ast.JoinedStr) else node.args[0]
            names = [str(first.value).rstrip(".")] if isinstance(first, ast.Constant) else []
        yield from (Import(node.lineno, id(node) in inside, imported) for imported in names)


def part_of(name: str, modules: Mapping[str, str]) -> str:
    """Return the part that a dotted name belongs to; the package itself for what is no module or folder of it."""
    module = ".".join(name.split(".")[:2])
    if module == PACKAGE or not any(f"{known}.".startswith(f"{module}.") for known in modules):
        return ITSELF
    return module.split(".")[1]


def violations(modules: Mapping[str, str], planted: Mapping[str, str] | None = None) -> list[str]:
    """Return what breaks the layers, one line each: in all modules, or in those that are planted among them."""
    found = []
    modules = {**modules, **(planted or {})}
    for name, text in (planted or modules).items():
        part = part_of(name, modules)
        if part not in LAYERS:
            found.append(f"{name} is in no part; name {part!r} in LAYERS, or put it into a folder of one of these")
            continue
        for each in imports(name, text):
            found += [f"{name}, line {each.line}: {why}" for why in _wrong(name, part, each, modules)]
        if part not in WRITES_OPENCL and ".backends" not in name:
            for line, words in enumerate(text.splitlines(), 1):
                if re.search(r"\bcl\.", words):
                    found.append(f"{name}, line {line}: speaks of OpenCL: {words.strip()}")
    return found


def _wrong(name: str, part: str, each: Import, modules: Mapping[str, str]) -> Iterator[str]:
    """Yield what is wrong with one import."""
    root = each.name.split(".")[0]
    if each.name.startswith(f"{LATE}."):
        root = "loopy"
    if root == PACKAGE:
        may = BOOKS_KNOW if part == "transforms" else set(LAYERS[: LAYERS.index(part) + 1])
        target = part_of(each.name, modules)
        if target not in may and not ((part, target) in AGAINST_THE_ORDER and each.in_function):
            allowed = ", ".join(layer for layer in LAYERS if layer in may)
            yield f"imports {each.name}, of {target}; {part} may import {allowed}"
    elif root == "pyopencl" and name != KNOWS_OPENCL:
        yield f"imports pyopencl, which only {KNOWS_OPENCL} may"
    elif root == "cuda" and not (name in KNOW_CUDA and each.in_function):
        yield f"imports {each.name}, which only functions of {' and '.join(KNOW_CUDA)} may"
    elif root == "loopy" and part not in KNOW_LOOPY:
        yield f"imports loopy, which only {', '.join(sorted(KNOW_LOOPY))} may"
    elif part == "transforms" and root not in {*BOOKS_NEED, *sys.stdlib_module_names}:
        yield f"imports {root}; books may import {', '.join(sorted(BOOKS_NEED))}"


def test_the_layers_hold() -> None:
    assert violations(sources()) == []


def test_every_part_is_there() -> None:
    modules = sources()
    assert {part_of(name, modules) for name in modules} == set(LAYERS)
    assert len(set(LAYERS)) == len(LAYERS)


@pytest.mark.parametrize(
    ("name", "planted", "message"),
    [
        ("greens", "from fmmloopy.octree.planted import Tree", "fmmloopy.octree.planted.Tree, of octree; greens may"),
        ("octree.planted", "import fmmloopy.tables.planted", "of tables; octree may import terms, expressions, greens"),
        ("octree.planted", "from fmmloopy.no_such_module import helper", "of fmmloopy/__init__; octree may import"),
        (
            "common.planted",
            "from fmmloopy.recipes import RecipeBook",
            "of recipes; common may import terms",
        ),
        ("direct", "import loopy as lp", "imports loopy, which only"),
        ("direct", "from fmmloopy.common.late import loopy as lp", "imports loopy, which only"),
        ("direct", "from fmmloopy import laplace", "imports fmmloopy.laplace, of fmmloopy/__init__; direct may"),
        ("direct", "def f():\n    from . import operators", "line 2: imports fmmloopy.operators, of operators"),
        ("operators.p2p", "from ..recipes import fix_lanes", "imports fmmloopy.recipes.fix_lanes, of recipes"),
        ("operators.p2p", "from fmmloopy.execution.setup import Method", "of execution; operators may import"),
        ("recipes", "import fmmloopy.transforms.steps", "of transforms; recipes may import"),
        ("recipes", "def f():\n    from fmmloopy.execution.setup import Setup", "of execution; recipes may import"),
        ("transforms.pocl_cpu", "from fmmloopy.operators import P2P", "transforms may import recipes, transforms"),
        ("transforms.pocl_cpu", "from fmmloopy.fmm import Fmm", "transforms may import recipes, transforms"),
        ("transforms.pocl_cpu", "import fmmloopy as fl", "imports fmmloopy, of fmmloopy/__init__; transforms may"),
        ("transforms.steps", "import pyopencl as cl", "imports pyopencl, which only"),
        ("transforms.steps", "import scipy.linalg", "imports scipy; books may import"),
        ("tables.planted", "importlib.import_module('fmmloopy.execution.plan')", "of execution; tables may import"),
        ("execution.setup", "import_module(f'fmmloopy.checking.{name}')", "of checking; execution may import"),
        ("execution.plan", "from fmmloopy.choosing.decision import decide", "of choosing; execution may import"),
        ("execution.plan", "queue = cl.CommandQueue(context)", "line 1: speaks of OpenCL"),
        ("execution.backends.c", "import pyopencl as cl", "imports pyopencl, which only"),
        ("choosing.decision", "from fmmloopy.fmm import Fmm", "of fmm; choosing may import"),
        ("execution.backends.c", "def f():\n    import cuda.core", "line 2: imports cuda.core, which only functions"),
        ("execution.backends.cuda", "import cuda.core as core", "line 1: imports cuda.core, which only functions of"),
        ("fmm", "def f():\n    import pyopencl", "line 2: imports pyopencl, which only"),
        ("fmm", "import fmmloopy", "imports fmmloopy, of fmmloopy/__init__; fmm may import"),
        ("measuring.timing", "from fmmloopy.showing.math_text import math_text", "of showing; measuring may import"),
        ("diagnosis.planted", "from fmmloopy.cli.common import echo", "of cli; diagnosis may import"),
        ("some_new_module", "import numpy", "fmmloopy.some_new_module is in no part; name 'some_new_module' in LAYERS"),
    ],
)
def test_a_planted_violation_is_found(name: str, planted: str, message: str) -> None:
    modules = sources()
    name = f"{PACKAGE}.{name}"
    folders = {f"{PACKAGE}.{folder}.planted": "" for folder in LAYERS if folder != ITSELF}
    found = violations({**folders, **modules}, {name: f"{planted}\n{modules.get(name, '')}"})
    assert [line for line in found if line.startswith(name) and message in line], found


def test_recipes_may_look_for_books_when_they_are_asked() -> None:
    modules = sources()
    name = next(name for name in modules if part_of(name, modules) == "recipes")
    planted = f"{modules[name]}\ndef look():\n    import fmmloopy.transforms.pocl_cpu\n"
    assert violations(modules, {name: planted}) == []


@pytest.mark.parametrize("part", WITHOUT_LOOPY)
def test_the_host_side_never_loads_loopy(part: str) -> None:
    """Import a part in a fresh interpreter, without the package's own ``__init__``, and look at what came along."""
    modules = sources()
    names = [name for name in modules if part_of(name, modules) == part]
    program = f"""
import importlib, sys, types
package = types.ModuleType("{PACKAGE}")
package.__path__ = {list(fmmloopy.__path__)!r}
sys.modules["{PACKAGE}"] = package
for name in {names!r}:
    importlib.import_module(name)
print(*sorted({{m.split(".")[0] for m in sys.modules}} & {{"loopy", "islpy", "pyopencl"}}))
print(*sorted(m for m in sys.modules if m.startswith("{PACKAGE}.")))
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    forbidden, loaded = result.stdout.split("\n")[:2]
    assert forbidden == ""
    assert names
    assert set(names) <= set(loaded.split())
