"""Who may import whom: the layers of the package, read off its source."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import fmmloopy
import fmmloopy.transforms

PACKAGE = "fmmloopy"

# What each module may import of the package, from the bottom up; a name stands for all that is below it in its folder.
# Modules that are not here are on top: they may import anything, and nothing here may import them.
MAY_IMPORT: dict[str, set[str]] = {
    "cache": set(),
    "endings": set(),
    "fingerprint": set(),
    "greens": set(),
    "hints": set(),
    "inputs": {"greens", "precision", "recipes"},
    "messages": set(),
    "precision": set(),
    "progress": set(),
    "tree": set(),
    "direct": {"greens"},
    "lists": {"tree"},
    "balance": {"lists", "tree"},
    "small_boxes": {"tree", "lists"},
    "surfaces": {"greens", "precision"},
    "m2l_svd": {"greens", "surfaces"},
    "table_cache": {"cache", "greens", "m2l_svd", "precision", "surfaces"},
    "m2l_tables": {"greens", "lists", "surfaces", "tree"},
    "accuracy": {"greens"},
    "operators": {"greens", "operators", "precision"},
    # The one place that knows where recipe books are: it looks for them when it is asked to.
    "recipes": {"endings", "fingerprint", "hints", "transforms"},
    "transforms": {"recipes", "transforms"},
    "execution": {"cache", "execution", "messages"},
    "devices": {"execution"},
    "compile": {
        "cache", "devices", "execution", "fingerprint", "greens", "hints", "messages", "operators", "precision",
        "recipes"
    },
    "runtime": {"execution"},
    "near_field": {"greens", "lists", "tree"},
    "arrays": {"greens", "lists", "m2l_tables", "near_field", "runtime", "surfaces", "tree"},
    "plan": {
        "accuracy", "arrays", "balance", "compile", "execution", "greens", "lists", "m2l_svd", "m2l_tables",
        "near_field", "operators", "precision", "recipes", "runtime", "surfaces", "table_cache", "tree"
    },
    "certificates": {"cache", "compile", "devices", "precision", "recipes"},
    "tuned": {"cache", "certificates", "compile", "devices", "precision", "recipes"},
    "work": {"accuracy", "greens", "lists", "m2l_tables", "plan", "surfaces", "table_cache", "tree"},
    "cost_model": {"accuracy", "greens", "lists", "m2l_svd", "small_boxes", "surfaces", "tree", "work"},
    "calibration": {
        "cache", "compile", "cost_model", "devices", "execution", "greens", "lists", "plan", "precision", "recipes",
        "tree", "work"
    },
    "plan_report": {"cost_model", "work"},
    "driver": {
        "accuracy", "calibration", "certificates", "cost_model", "devices", "greens", "inputs", "lists", "near_field",
        "plan", "plan_report", "precision", "progress", "recipes", "runtime", "small_boxes", "surfaces", "table_cache",
        "tree", "tuned", "work"
    },
}  # fmt: skip

KNOWS_OPENCL = "fmmloopy.execution.backends.opencl"
"""The only module, of those that are not in MAY_IMPORT too, that may import pyopencl."""

KNOW_LOOPY = {"operators", "recipes", "transforms", "compile", "execution"}
"""Modules of MAY_IMPORT that may import loopy."""

NO_OPENCL_WORDS = {"driver", "plan", "arrays"}
"""Modules that do not even mention an attribute of ``cl``."""

RECIPES_NEED = {"loopy", "islpy", "pymbolic", "pytools", "constantdict", "cgen", "genpy", "numpy"}
"""Packages outside the standard library that recipes may import."""


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


def imports(name: str, text: str) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of everything that a module imports, at its top or inside functions."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = name.split(".")[: -node.level] if node.level else []
            base = ".".join([*above, node.module] if node.module else above)
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            first = node.args[0].values[0] if node.args and isinstance(node.args[0], ast.JoinedStr) else node.args[0]
            if isinstance(first, ast.Constant):
                yield node.lineno, str(first.value).rstrip(".")


def part_of(name: str) -> str:
    """Return the module or folder of the package that a dotted name belongs to, "" for the package itself."""
    return name.split(".")[1] if "." in name else ""


def violations(modules: Mapping[str, str]) -> list[str]:
    """Return what breaks the layers, one line each."""
    found = []
    parts = {part_of(name) for name in modules}
    for name, text in modules.items():
        part = part_of(name)
        for line, imported in imports(name, text):
            root = imported.split(".")[0]
            if root == "pyopencl" and name != KNOWS_OPENCL:
                found.append(f"{name}, line {line}: imports pyopencl, which only {KNOWS_OPENCL} may")
            if part not in MAY_IMPORT:
                continue
            target = part_of(imported) if part_of(imported) in parts else ""
            if root == PACKAGE and target not in MAY_IMPORT[part]:
                allowed = ", ".join(sorted(MAY_IMPORT[part])) or "nothing"
                found.append(f"{name}, line {line}: imports {imported}; of the package it may import {allowed}")
            if root == "loopy" and part not in KNOW_LOOPY:
                found.append(f"{name}, line {line}: imports loopy, which only {', '.join(sorted(KNOW_LOOPY))} may")
            elif part == "transforms" and root not in {PACKAGE, *RECIPES_NEED, *sys.stdlib_module_names}:
                allowed = ", ".join(sorted(RECIPES_NEED))
                found.append(f"{name}, line {line}: imports {root}; recipes may import {allowed}")
        if part in NO_OPENCL_WORDS:
            for line, words in enumerate(text.splitlines(), 1):
                if re.search(r"\bcl\.", words):
                    found.append(f"{name}, line {line}: speaks of OpenCL: {words.strip()}")
    return found


def test_the_layers_hold() -> None:
    assert violations(sources()) == []


def test_the_layers_are_of_modules_that_exist() -> None:
    parts = {part_of(name) for name in sources()}
    assert set(MAY_IMPORT) - parts == set()
    assert set().union(*MAY_IMPORT.values()) - parts == set()


@pytest.mark.parametrize(
    ("name", "planted", "message"),
    [
        ("greens", "from fmmloopy.tree import Tree", "imports fmmloopy.tree.Tree; of the package it may import no"),
        ("tree", "import fmmloopy.lists", "imports fmmloopy.lists; of the package it may import nothing"),
        ("direct", "import loopy as lp", "imports loopy, which only"),
        ("direct", "from fmmloopy import laplace", "imports fmmloopy.laplace; of the package it may import greens"),
        ("direct", "def f():\n    from . import operators", "line 2: imports fmmloopy.operators"),
        ("operators.p2p", "from fmmloopy.surfaces import INNER", "it may import greens, operators, precision"),
        ("operators.p2p", "from ..recipes import fix_lanes", "imports fmmloopy.recipes.fix_lanes"),
        ("transforms.pocl_cpu", "from fmmloopy.operators import p2p", "it may import recipes, transforms"),
        ("transforms.pocl_cpu", "from fmmloopy.driver import Fmm", "it may import recipes, transforms"),
        ("transforms.pocl_cpu", "import fmmloopy as fl", "imports fmmloopy; of the package"),
        ("transforms.steps", "import pyopencl as cl", "imports pyopencl, which only"),
        ("transforms.steps", "import scipy.linalg", "imports scipy; recipes may import"),
        ("surfaces", "importlib.import_module('fmmloopy.plan')", "imports fmmloopy.plan; of the package"),
        ("compile", "import_module(f'fmmloopy.transforms.{name}')", "imports fmmloopy.transforms; of the package"),
        ("driver", "def f():\n    import pyopencl", "line 2: imports pyopencl, which only"),
        ("execution.backends.c", "import pyopencl as cl", "imports pyopencl, which only"),
        ("show", "def f():\n    import pyopencl", "line 2: imports pyopencl, which only"),
        ("execution.device", "from fmmloopy.compile import generate", "imports fmmloopy.compile.generate"),
        ("devices", "from fmmloopy.recipes import RecipeBook", "it may import execution"),
        ("plan", "queue = cl.CommandQueue(context)", "line 1: speaks of OpenCL"),
        ("recipes", "from fmmloopy.compile import generate", "imports fmmloopy.compile.generate"),
        ("tree", "from fmmloopy.some_new_module import helper", "of the package it may import nothing"),
    ],
)
def test_a_planted_violation_is_found(name: str, planted: str, message: str) -> None:
    modules = sources()
    name = f"{PACKAGE}.{name}"
    found = violations({**modules, name: f"{planted}\n{modules[name]}"})
    assert [line for line in found if line.startswith(name) and message in line], found


@pytest.mark.parametrize("name", ["direct", "greens", "tree", "lists", "surfaces", "table_cache"])
def test_the_host_side_never_loads_loopy(name: str) -> None:
    """Import one module in a fresh interpreter, without the package's own ``__init__``, and look at what came along."""
    program = f"""
import importlib, sys, types
package = types.ModuleType("{PACKAGE}")
package.__path__ = {list(fmmloopy.__path__)!r}
sys.modules["{PACKAGE}"] = package
importlib.import_module("{PACKAGE}.{name}")
print(*sorted({{m.split(".")[0] for m in sys.modules}} & {{"loopy", "islpy", "pyopencl"}}))
print(*sorted(m for m in sys.modules if m.startswith("{PACKAGE}.")))
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    forbidden, loaded = result.stdout.split("\n")[:2]
    assert forbidden == ""
    assert f"{PACKAGE}.{name}" in loaded.split()
