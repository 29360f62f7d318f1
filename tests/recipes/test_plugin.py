"""Books of other packages: found by their entry points, and of no harm when they are broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import made_up_pocl

from fmmloopy.bookshelf.catalog import list_books
from fmmloopy.execution.devices import C_DEVICE
from fmmloopy.recipes import RecipeBook, RecipeError, load_recipes

PLUGIN = Path(__file__).parents[1] / "plugin"

POCL = made_up_pocl("3.0")


def install(folder: Path, entry_points: dict[str, str], name: str = "example", **modules: str) -> None:
    """Put modules and the metadata of a package into a folder, as pip does."""
    for module, text in modules.items():
        (folder / f"{module}.py").write_text(text)
    metadata = folder / f"{name}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [f"{key} = {value}" for key, value in entry_points.items()]
    (metadata / "entry_points.txt").write_text("\n".join(["[fmmloopy.recipes]", *lines, ""]))


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder that packages are installed in."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, env=environment, cwd=folder, check=False
    )


FMMLOOPY = ("-c", "from fmmloopy.cli import main; main()")

EVALUATE = """
import numpy as np, fmmloopy as fl
points, charges = np.random.default_rng(0).random((300, 3)), np.ones(300)
device = next(d for d in fl.find_devices() if d.backend == "opencl")
fmm = fl.Fmm(points, order=3, ncrit=50, recipes="example_cpu", device=device)
error = np.linalg.norm(fmm.evaluate(charges) - fl.direct(points, charges)) / np.linalg.norm(fl.direct(points, charges))
print(fl.load_recipes("example_cpu").recipes["p2p"].__module__, error < 3e-3)
"""


def test_plugin_is_found_everywhere(tmp_path, opencl_device):
    """By its name in the library, in the list of books, and by `Fmm`: in a process that has it installed."""
    project = tomllib.loads((PLUGIN / "pyproject.toml").read_text())["project"]
    source = (PLUGIN / "fmmloopy_example_plugin.py").read_text()
    entry_points = project["entry-points"]["fmmloopy.recipes"]
    install(tmp_path, entry_points, "fmmloopy_example_plugin", fmmloopy_example_plugin=source)

    done = run(tmp_path, "-W", "ignore", "-c", EVALUATE)
    assert done.stdout.split() == ["fmmloopy_example_plugin", "True"], done.stderr

    listed = run(tmp_path, *FMMLOOPY, "recipes", "--json")
    assert listed.returncode == 0, listed.stderr
    (book,) = [book for book in json.loads(listed.stdout)["books"] if book["name"] == "example_cpu"]
    assert book["origin"] == "package fmmloopy_example_plugin"
    assert book["operators"] == ["p2p"]
    assert book["tuning"] == {"p2p": {"lanes": [4, 8]}}
    assert opencl_device.description in book["suits"] or "CPU" not in opencl_device.description
    assert book["default_for"] == [], "it has to be asked for"

    shown = run(tmp_path, *FMMLOOPY, "recipes")
    assert shown.returncode == 0
    assert "example_cpu  package fmmloopy_example_plugin" in shown.stdout
    assert "vector machine: lanes=8  (p2p)" in shown.stdout


BROKEN = {
    "no module": ("no_such_module:BOOK", "", "No module named 'no_such_module'"),
    "no attribute": ("broken_book:BOOKS", "", "module 'broken_book' has no attribute 'BOOKS'"),
    "raises": (
        "broken_book:BOOK",
        "raise RuntimeError('first line\\nsecond line')",
        "RuntimeError: first line second line",
    ),
    "leaves": ("broken_book:BOOK", "raise SystemExit('bye')", "SystemExit: bye"),
    "syntax": ("broken_book:BOOK", "BOOK = = 1", "SyntaxError: invalid syntax"),
    "no book": ("broken_book", "BOOK = 1", "broken defines no BOOK; end it with BOOK = RecipeBook("),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_entry_point_is_one_line(name, site):
    value, source, expected = BROKEN[name]
    install(site, {"broken": value}, broken_book=source)
    with pytest.raises(RecipeError) as caught:
        load_recipes("broken")
    text = str(caught.value)
    assert expected in text
    assert "\n" not in text
    if name != "no book":
        assert text.startswith(f"broken ({value} of package example) cannot be loaded: ")
        assert caught.value.__cause__ is not None
    (entry,) = [entry for entry in list_books(devices=[C_DEVICE]) if entry.name == "broken"]
    assert entry.trouble == text
    assert load_recipes("pocl_cpu").name == "pocl_cpu", "others can be used"


def test_broken_entry_point_and_file_are_lines_of_the_list(tmp_path):
    install(tmp_path, {"broken": "no_such_module:BOOK"})
    (tmp_path / "mine.py").write_text("BOOK = 1\n")
    done = run(tmp_path, *FMMLOOPY, "recipes", "mine.py", "none.py")
    assert done.returncode == 1
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    for start in ("broken  package example  broken (no_such_module:BOOK", "mine.py  file  mine.py defines no BOOK; ",
                  "none.py  file  no file none.py; give the path"):  # fmt: skip
        assert len([line for line in lines if line.startswith(start)]) == 1, done.stdout
    assert any(line.startswith("pocl_cpu") for line in lines)


def test_entry_point_that_a_shipped_book_hides(site):
    install(site, {"pocl_cpu": "theirs:BOOK"}, theirs="raise RuntimeError")
    ours, theirs = [entry for entry in list_books(devices=[C_DEVICE]) if entry.name == "pocl_cpu"]
    assert (ours.origin, ours.trouble) == ("comes with fmmloopy", "")
    assert theirs.origin == "package example"
    assert "is used instead" in theirs.trouble


def test_list_says_what_suits():
    entries = {entry.name: entry for entry in list_books(devices=[POCL, C_DEVICE])}
    assert entries["pocl_cpu"].suits == entries["pocl_cpu"].default_for == (POCL.description,)
    assert entries["simd_cpu"].suits == ()
    assert entries["sequential"].default_for == (C_DEVICE.description,)
    assert set(entries["pocl_cpu"].certificates) == {POCL.description}


def test_list_has_files(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("from fmmloopy import RecipeBook\nBOOK = RecipeBook('other_name', device='PoCL')\n")
    entry = list_books([path], [POCL])[-1]
    assert (entry.name, entry.origin, entry.pattern, entry.trouble) == (str(path), "file", "PoCL", "")
    assert entry.suits == (POCL.description,)
    assert entry.default_for == ()


def test_name_that_is_nearly_right(monkeypatch, tmp_path):
    with pytest.raises(
        RecipeError, match=r"no recipe book 'pocl_gpu'; did you mean 'pocl_cpu'\? there are gpu, pocl31_cpu, "
    ):
        load_recipes("pocl_gpu")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("")
    with pytest.raises(RecipeError, match=r"^no recipe book 'mine'; to use the file of that name, give mine.py$"):
        load_recipes("mine")


def test_error_in_a_file_names_its_line(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("import math\n\nx = math.sqrt(-1)\n")
    with pytest.raises(RecipeError, match=r"mine.py cannot be loaded: ValueError: .* \(line 3\)$"):
        load_recipes(path)
    path.write_text("from fmmloopy import RecipeBook\nBOOK = RecipeBook('b', '[')\n")
    with pytest.raises(RecipeError, match=r"mine.py cannot be loaded: b: device is '\[', .* \(line 2\)$"):
        load_recipes(path)
    (tmp_path / "helper.py").write_text("\n\nx = = 1\n")
    path.write_text(f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\nimport helper\n")
    with pytest.raises(RecipeError, match=r"mine.py cannot be loaded: .*helper.py, line 3: invalid syntax$"):
        load_recipes(path)
    sys.path.remove(str(tmp_path))
    assert str(path) not in [getattr(module, "__file__", "") for module in sys.modules.values()], "half a module stays"


def test_entry_point_may_be_a_book_or_its_module(site):
    text = "from fmmloopy import RecipeBook\nBOOK = RecipeBook('b', device='')\n"
    install(site, {"book": "two_ways:BOOK", "module": "two_ways"}, two_ways=text)
    assert isinstance(load_recipes("book"), RecipeBook)
    assert load_recipes("book") is load_recipes("module")
