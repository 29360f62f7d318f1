"""Processes with unequal devices against the ideal."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path

import pytest
from conftest import OPENCL

from benchmarks.__main__ import main
from benchmarks.several import Comparison, table


def test_the_ideal_is_that_each_works_as_fast_as_alone():
    found = Comparison(("intel", "c"), (1.0, 3.0), 1.5, 0.8)
    assert found.ideal == 0.75
    assert table([found]).splitlines()[-1] == "| intel + c | 1, 3 | 0.75 | 1.5 | 0.8 | 94% |"


HAS_MPIEXEC = shutil.which("mpiexec") or (Path(sys.executable).parent / "mpiexec").exists()


@pytest.mark.skipif(
    not (importlib.util.find_spec("mpi4py") and HAS_MPIEXEC and OPENCL and len(os.sched_getaffinity(0)) > 1),
    reason="needs mpi4py, mpiexec, an OpenCL device and two cores",
)
def test_the_command(own_cache, tmp_path, capsys):
    output, device = tmp_path / "several.md", OPENCL[0].description
    words = ["--points", "3000", "--digits", "3", "--ncrit", "60", "--repeats", "1"]
    assert main(["several", *words, "--devices", device, "c, busy core", "--output", str(output)]) == 0
    text = output.read_text()
    assert text == capsys.readouterr().out
    cells = [cell.strip() for cell in text.splitlines()[-1].split("|")]
    assert cells[1] == f"{device} + c, busy core"
    assert all(float(seconds) > 0 for seconds in (*cells[2].split(","), *cells[3:6]))


def test_errors_are_one_line(capsys):
    with pytest.raises(SystemExit, match="^error: 99 processes need a core each, and there are"):
        main(["several", "--devices", *["c"] * 99])
