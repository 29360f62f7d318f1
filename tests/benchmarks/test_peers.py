"""Another library's program beside ours: what it prints is read, and its fastest run that is accurate enough counts."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import peers
from benchmarks.peers import Run, main, read_output, row_of, run_theirs

PRINTED = """
--------------- Time ---------------
Build Tree           : 2.5000000e-01
Build Lists          : 1.2500000e-01
Precomputation       : 5.0000000e-01
M2L Setup            : 1.2500000e-01
P2P                  : 1.1179480e+00
Evaluation           : 2.2500000e+00
Evaluation Gflop     : 1.0274084e+02
-------------- Error ---------------
Potential Error L2   : 1.5266419e-06
"""

PROGRAM = f"""#!{sys.executable}
import os, sys
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
assert options.keys() == {{"-n", "-d", "-P", "-c", "-T"}}, options
assert os.environ["OPENBLAS_NUM_THREADS"] == "1"
open("tables.dat", "w").close()
assert os.environ["OMP_NUM_THREADS"] == options["-T"]
print(FOUND.replace("2.2500000e+00", f"{{int(options['-c']) / 100:.7e}}").replace("e-06", f"e-0{{options['-P']}}"))
""".replace("FOUND", repr(PRINTED))


@pytest.fixture
def program(tmp_path):
    """A program that takes longer with larger leaves, and is more accurate with higher orders."""
    path = tmp_path / "fmm_laplace"
    path.write_text(PROGRAM)
    path.chmod(0o755)
    return path


def test_times_and_errors_are_read():
    assert read_output(PRINTED, "p=6") == Run("p=6", 1.0, 2.25, 1.5266419e-06)
    with pytest.raises(ValueError, match="^exafmm-t, p=6, has printed no Evaluation: .*Potential Error L2"):
        read_output(PRINTED.replace("Evaluation  ", "Result  "), "p=6")


def test_a_program_is_run(program, tmp_path):
    """In the folder, where it leaves files."""
    folder = tmp_path / "folder"
    folder.mkdir()
    assert run_theirs(program, str(folder), 1000, "cube", 4, 300) == Run("p=4, ncrit=300", 1.0, 3.0, 1.5266419e-04)
    assert [path.name for path in folder.iterdir()] == ["tables.dat"]


def test_the_fastest_run_that_is_accurate_enough_counts():
    theirs = [Run("a", 1.0, 2.0, 2e-6), Run("b", 1.0, 4.0, 5e-7), Run("c", 1.0, 3.0, 9e-7)]
    ours = Run("order 7, ncrit 100", 0.5, 1.5, 4e-7)
    row = row_of("cube", 6, theirs, ours)
    assert row[0] == "cube, 6 digits"
    assert row[5:] == ["c", "9.0e-07", "1.00", "3.00", "2.00", "2.00"]
    assert "none of 1 runs is accurate enough" in row_of("cube", 6, theirs[:1], ours)


def test_a_whole_comparison(program, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(peers, "LEAF_SIZES", (300, 200))
    assert main(["--exafmm-t", str(program), "--points", "3000", "--digits", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[2].startswith("| sphere, 3 digits | order 4, ncrit ")
    assert not (tmp_path / "tables.dat").exists()
    assert "| p=4, ncrit=200 | 1.5e-04 | 1.00 | 2.00 |" in lines[3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "error: exafmm-t, p=4, ncrit=100: .*No such file"),
        ("import sys; sys.exit(3)", "error: exafmm-t, p=4, ncrit=100: .*exit status 3"),
        ("print('nothing')", "error: exafmm-t, p=4, ncrit=100, has printed no Build Tree: nothing"),
    ],
)
def test_programs_that_cannot_be_used(text, message, program, tmp_path, capfd):
    if text is None:
        program.unlink()
    else:
        program.write_text(f"#!{sys.executable}\n{text}\n")
    assert main(["--exafmm-t", str(program), "--points", "1000", "--digits", "3"]) == 2
    said = capfd.readouterr().err
    assert len(said.splitlines()) == 1
    assert re.match(message, said)
