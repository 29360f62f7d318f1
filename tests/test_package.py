"""What a user meets first: the version, how objects show themselves, optional packages, other systems."""

from __future__ import annotations

import copy
import json
import os
import pickle
import re
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from conftest import run_command

import fmmloopy as fl
from fmmloopy.common.isolation import missing_limits

ROOT = Path(__file__).parents[1]
in_checkout = pytest.mark.skipif(not (ROOT / "CITATION.cff").exists(), reason="not in a checkout")


@pytest.fixture(scope="module")
def fmm():
    points = np.random.default_rng(0).random((300, 3))
    return fl.Fmm(points, device="c", recipes="sequential", order=3, ncrit=40)


# -- version


def test_version(capsys):
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", fl.__version__)
    assert run_command(capsys, "--version") == (0, f"fmmloopy {fl.__version__}\n")


@in_checkout
def test_the_version_is_the_same_everywhere():
    assert f"\nversion: {fl.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"[{fl.__version__}]" in (ROOT / "CHANGELOG.md").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "fmmloopy.__version__"}


# -- how an Fmm and its report show themselves


def test_an_fmm_says_what_it_is(fmm):
    text = repr(fmm)
    for part in ("300 sources", "laplace", "order 3,", "double precision", "ncrit 40", fmm.m2l, "sequential"):
        assert part in text
    assert "\n" not in text
    with_digits = fl.Fmm(np.random.default_rng(1).random((50, 3)), device="c", recipes="sequential", digits=2)
    assert "for 2 digits" in repr(with_digits)


@pytest.mark.parametrize("duplicate", [pickle.dumps, copy.copy, copy.deepcopy], ids=lambda f: f.__name__)
def test_an_fmm_is_not_copied(fmm, duplicate):
    with pytest.raises(
        TypeError, match="cannot be pickled or copied: send the points, and build the Fmm in the process"
    ) as e:
        duplicate(fmm)
    assert "\n" not in str(e.value)


class Cells(HTMLParser):
    """Reads the cells of all tables, and makes sure that what is opened is closed."""

    def __init__(self, text):
        super().__init__()
        self.cells, self.open = [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.cells.append(data)


def test_a_report_is_a_table_in_a_notebook(fmm):
    fmm.evaluate(np.ones(300))
    report = fmm.plan_report()
    html = report._repr_html_()
    cells = Cells(html).cells
    assert {"300 sources, 300 targets", "operator", "p2p", "measured ms"} <= set(cells)
    assert "The last evaluation took" in html
    assert all(cell in str(report) for cell in cells), "both say the same"


def test_names_in_a_report_are_no_html():
    import dataclasses

    points = np.random.default_rng(0).random((50, 3))
    report = fl.Fmm(points, device="c", recipes="sequential", order=2).plan_report()
    html = dataclasses.replace(report, device="a <b>device</b> & more")._repr_html_()
    assert "a &lt;b&gt;device&lt;/b&gt; &amp; more" in html


# -- optional packages

WITHOUT = """
import sys
from importlib.abc import MetaPathFinder


class Missing(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)


import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in {names} else found(name, package)
sys.meta_path.insert(0, Missing())
"""


def run_without(packages, program, *arguments, cwd=None):
    """Run a program where packages are not installed."""
    command = [sys.executable, "-c", WITHOUT.format(names=packages) + program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


COMMAND = "from fmmloopy.cli import main; main()"


def test_optional_packages_are_not_imported_with_the_package():
    program = "import fmmloopy, fmmloopy.cli, fmmloopy.measuring.tune, fmmloopy.measuring.plots; print('fine')"
    assert run_without(["matplotlib", "optuna"], program).stdout == "fine\n"


def test_a_ladder_without_matplotlib_is_one_line_before_anything_is_measured(tmp_path):
    result = run_without(["matplotlib"], COMMAND, "ladder", "pocl_cpu", "--plot", tmp_path / "l.png")
    assert result.returncode == 2
    assert result.stderr == ("error: pictures need matplotlib (extra [plot]): python -m pip install matplotlib\n")


def test_the_example_runs_to_its_end_without_matplotlib(tmp_path):
    program = f"import runpy; runpy.run_path({str(ROOT / 'examples' / 'laplace_sphere.py')!r}, run_name='__main__')"
    result = run_without(["matplotlib"], program, "--n", "500", "--order", "2", "--device", "c", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    last = result.stdout.splitlines()[-1]
    assert last == "No picture: it needs matplotlib (extra [plot]): python -m pip install matplotlib"
    assert not list(tmp_path.iterdir())


LARGE = """
from fmmloopy import RecipeBook
from fmmloopy.recipes import sequential_recipe
def p2p(knl, *, a=0, b=0):
    yield from sequential_recipe(knl)
BOOK = RecipeBook("large", "", {"p2p": p2p}, {"p2p": {"a": tuple(range(10)), "b": tuple(range(10))}})
"""


def test_a_large_search_without_optuna_is_one_line(tmp_path):
    path = tmp_path / "large.py"
    path.write_text(LARGE)
    result = run_without(["optuna"], COMMAND, "tune", path, "--device", "c")
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: searches of more than 32 candidates")
    assert line.endswith("need optuna (extra [tune]): python -m pip install optuna")


@in_checkout
def test_extras():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.match(r"[\w-]+", requirement)[0] for requirement in project["dependencies"]}
    assert not names & {"matplotlib", "optuna"}
    extras = project["optional-dependencies"]
    assert extras["plot"][0].startswith("matplotlib")
    assert extras["tune"][0].startswith("optuna")
    assert "fmmloopy[files,plot,tune]" in extras["test"]
    assert any(requirement.startswith("fmmloopy[") and "test" in requirement for requirement in extras["dev"])


# -- other systems

ELSEWHERE = """
import os, sys
from pathlib import Path
sys.modules["resource"] = None
for name in ("sched_getaffinity", "sched_setaffinity"):
    if hasattr(os, name):
        delattr(os, name)
known = os.sysconf
def sysconf(name):
    if name in ("SC_AVPHYS_PAGES", "SC_LEVEL3_CACHE_SIZE", "SC_LEVEL2_CACHE_SIZE"):
        raise ValueError("unrecognized configuration name")
    return known(name)
os.sysconf = sysconf
import builtins, io
opened = builtins.open
def open(file, *arguments, **options):
    if str(file).startswith("/proc/"):
        raise FileNotFoundError(2, "No such file or directory", str(file))
    return opened(file, *arguments, **options)
builtins.open = io.open = open
"""
"""What macOS has not: limits of memory here, which cores a process may use, the folder /proc, Linux's names."""


def run_elsewhere(program, *arguments, poll=True):
    before = ELSEWHERE + ("" if poll else "import select\nif hasattr(select, 'poll'): del select.poll\n")
    return subprocess.run(
        [sys.executable, "-c", before + program, *arguments], capture_output=True, text=True, check=False
    )


def test_the_package_evaluates_where_there_is_no_linux():
    program = """
import numpy as np, fmmloopy as fl
points = np.random.default_rng(0).random((200, 3))
fmm = fl.Fmm(points, device="c", recipes="sequential", digits=3)
found, exact = fmm.evaluate(np.ones(200)), fl.direct(points, np.ones(200))
print(np.linalg.norm(found - exact) < 1e-3 * np.linalg.norm(exact))
"""
    result = run_elsewhere(program)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "True\n"


@pytest.mark.parametrize("poll", [True, False])
def test_child_processes_work_where_there_is_no_linux(poll, tmp_path):
    """A child imports what the parent has; a file that Python reads at its start makes it one of another system."""
    (tmp_path / "sitecustomize.py").write_text(
        ELSEWHERE + ("" if poll else "import select\nif hasattr(select, 'poll'): del select.poll\n")
    )
    program = """
from fmmloopy.common.isolation import Worker, ChildTimedOut
def seen(stage):
    import os, sys
    return sys.modules["resource"] is None, hasattr(os, "sched_getaffinity")
def endless(stage):
    while True: pass
with Worker() as worker:
    print(worker.call(seen))
    try:
        worker.call(endless, limit=0.2)
    except ChildTimedOut as error:
        print(error)
    print(worker.call(lambda stage: 7))
"""
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "(True, False)\ndid not return within 0.2 s\n7\n"


def test_commands_work_where_there_is_no_linux():
    for words in (["recipes"], ["show", "sequential", "-o", "p2p"], ["--version"]):
        result = run_elsewhere(COMMAND, *words)
        assert result.returncode == 0, result.stderr


def test_the_doctor_says_what_is_missing():
    result = run_elsewhere(COMMAND, "doctor", "--no-probe", "--json")
    found = {finding["subject"]: finding["text"] for finding in json.loads(result.stdout)["findings"]}
    assert found["child processes"].endswith("child processes may use all memory")
    assert (
        run_elsewhere("from fmmloopy.common.isolation import missing_limits; assert missing_limits()").returncode == 0
    )
    assert missing_limits() == ""


# -- what is written of it


@in_checkout
def test_the_readme_has_no_links_that_only_a_clone_can_follow():
    """The picture may be missing elsewhere: its text says what it shows."""
    text = (ROOT / "README.md").read_text()
    links = re.findall(r"(!?)\[([^\]]*)\]\(([^)]*)\)", text)
    assert links
    for image, words, target in links:
        assert target.startswith("https://") or (image and len(words) > 20), target
    named = re.findall(r"`([\w/]+\.(?:md|cff))`", text)
    assert set(named) >= {"docs/write_a_recipe.md", "CONTRIBUTING.md", "CHANGELOG.md", "CITATION.cff"}
    assert all((ROOT / name).is_file() for name in named)


@in_checkout
def test_the_first_command_of_the_readme_brings_what_draws_its_picture():
    text = (ROOT / "README.md").read_text()
    command = next(line.strip() for line in text.splitlines() if line.startswith("    "))
    assert command == 'python -m pip install -e ".[plot]" && python examples/laplace_sphere.py'
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(re.findall(r"pip install -e \"\.\[(\w+)\]\"", text)) <= set(extras)


@in_checkout
def test_what_contributors_are_told_is_there():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    named = re.findall(r"`((?:docs|fmmloopy|tests|transforms|\.ci)/[\w./]*)`", text)
    assert len(named) > 5
    for name in named:
        assert (ROOT / name).exists(), name
