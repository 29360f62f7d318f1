"""The examples, run as a user runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "laplace_sphere.py"
VECTORS = SCRIPT.with_name("many_right_hand_sides.py")
SMALL = ("--n", "3000", "--digits", "3")


def _run(folder, *arguments):
    """Run the example in a folder, with a terminal's width and without its colours."""
    environment = {**os.environ, "COLUMNS": "120", "NO_COLOR": "1"}
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The example with no more said than how large it is, and the folder that it ran in."""
    folder = tmp_path_factory.mktemp("plain")
    return _run(folder, *SMALL), folder


def test_six_steps_and_a_table(plain):
    result, _ = plain
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert [line.split()[:2] for line in lines[:6]] == [["step", str(number)] for number in range(1, 7)]
    assert all(" s   " in line for line in lines[:6])
    assert "3,000 on the unit sphere" in lines[0]
    assert "second evaluation; the first took" in lines[4]
    assert "at 1,000 random targets, as requested" in lines[5]
    table = "\n".join(lines[6:])
    for word in ("p2m", "check_to_equivalent", "m2l_hadamard", "p2p", "Gpairs/s", "GFLOP/s", "all else", "100.0%"):
        assert word in table


def test_the_picture_is_drawn_where_it_runs(plain):
    _, folder = plain
    assert [path.name for path in folder.iterdir()] == ["laplace_sphere.png"]
    height, width = matplotlib.image.imread(folder / "laplace_sphere.png").shape[:2]
    assert 1000 <= width <= 2000
    assert height < width
    assert 50_000 < (folder / "laplace_sphere.png").stat().st_size < 1_000_000


def test_json_and_a_picture(tmp_path):
    result = _run(tmp_path, *SMALL, "--json", "--plot", "picture.png", "--ncrit", "40", "--seed", "5")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["n"] == 3000
    assert report["seed"] == 5
    assert report["ncrit"] == 40
    assert report["digits"] == 3
    assert report["passed"] is True
    assert 0 < report["error"] < 1e-3
    assert 2 < report["nlevels"] < report["nleaves"] < report["nboxes"] < 3000
    assert list(report["list_sizes"]) == ["u", "v", "w", "x"]
    assert set(report["seconds"]) >= {"points", "tree", "lists", "tables", "setup", "evaluate", "check"}
    # Each of the 3,000 points meets itself and the rest of its leaf, at least.
    assert report["operators"]["p2p"]["pairs"] >= 3000**2 / report["nleaves"]
    for operator in report["operators"].values():
        assert operator["flops"] == pytest.approx(operator["gflops_per_second"] * operator["seconds"] * 1e9)
        assert operator["pairs"] == pytest.approx(operator["gpairs_per_second"] * operator["seconds"] * 1e9)
    assert sum(operator["share"] for operator in report["operators"].values()) < 1
    assert report["plot"] == "picture.png"
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]


def test_an_error_above_what_was_asked_is_exit_status_1(tmp_path):
    result = _run(tmp_path, "--n", "3000", "--order", "3", "--digits", "9", "--no-plot")
    assert result.returncode == 1, result.stderr
    assert "MORE than 1e-9" in result.stdout
    assert not list(tmp_path.iterdir())


def test_an_order_alone_asks_for_no_error(tmp_path):
    result = _run(tmp_path, "--n", "2000", "--order", "2", "--no-plot", "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert (report["order"], report["digits"], report["passed"]) == (2, None, None)
    assert report["error"] > 1e-6
    assert report["plot"] is None


def test_one_point(tmp_path):
    result = _run(tmp_path, "--n", "1", "--order", "2", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["error"] == 0


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--n", "-3"), "argument --n: invalid whole_number value: '-3'"),
        (("--n", "0"), "sources has shape (0, 3), expected at least one point"),
        (("--order", "99"), "order is 99, expected a whole number from 2 to 16"),
        (("--dtype", "float16"), "argument --dtype: invalid choice: 'float16'"),
        (("--device", "abacus"), "no device matches 'abacus'"),
        (("--recipes", "nowhere.py"), "no file nowhere.py"),
        (("--plot", "nowhere/picture.png"), "not a .png, .pdf or .svg file in a folder that exists"),
        (("--digit", "3"), "unrecognized arguments: --digit 3"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_bad_arguments_are_one_line_and_exit_status_2(tmp_path, arguments, text):
    result = _run(tmp_path, "--n", "50", *arguments)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert text in result.stderr
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_many_right_hand_sides(tmp_path):
    command = [sys.executable, str(VECTORS), "--n", "4000", "--digits", "4", "--plot", "harmonics.png"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "shape (25600, 8)" in result.stdout
    assert matplotlib.image.imread(tmp_path / "harmonics.png").shape[1] >= 1000


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("nbody_leapfrog", ("--n", "2000", "--steps", "6"), "energy -0.2"),
        ("bie_gmres", ("--n", "3000"), "charge of the first sphere 19.29"),
    ],
)
def test_examples_with_points_and_equations(tmp_path, name, arguments, said):
    command = [sys.executable, str(SCRIPT.with_name(f"{name}.py")), *arguments]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert said in result.stdout
    assert [path.name for path in tmp_path.iterdir()] == [f"{name}.png"]
