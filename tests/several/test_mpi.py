"""Several processes of MPI, if mpi4py and a launcher are installed."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import OPENCL, error, slow_but
from faults import PLACES

import fmmloopy as fl

HERE = Path(__file__).parent

IN_SHORT = ("fmmloopy.execution.evaluation._tables", "fmmloopy.parts.part.LocalPart.exchange_multipoles")
"""Places at which processes fail also in a quick run."""


def launcher() -> str | None:
    """Return the path of mpiexec: that of this environment, as PyPI's mpich has it, or that of the system."""
    return shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")


def needs_mpi(test):
    """Skip a test where several processes cannot be started."""
    reasons = {
        "mpi4py is not installed": importlib.util.find_spec("mpi4py") is None,
        "there is no mpiexec": launcher() is None,
        "no OpenCL device": not OPENCL,
    }
    missing = [reason for reason, is_so in reasons.items() if is_so]
    return pytest.mark.skipif(bool(missing), reason="; ".join(missing))(test)


def run_processes(size, *words, cwd=None):
    """Run python with arguments in several processes, each with one thread."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(HERE.parent),
        "FMMLOOPY_DEVICE": OPENCL[0].description,
        "POCL_MAX_PTHREAD_COUNT": "1",
    }
    command = [launcher(), "-n", str(size), sys.executable, *words]
    return subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=600)


@needs_mpi
@pytest.mark.parametrize("size", slow_but(lambda size: size == 3, [1, 2, 3, 4, 7]))
def test_several_processes_agree_with_one(size):
    places = [] if size == 1 else IN_SHORT if size < 4 else PLACES
    done = run_processes(size, HERE / "mpi_program.py", *places)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("fine") == size


@needs_mpi
def test_processes_talk_to_each_other():
    """With one duplicate of a communicator, with messages in pieces, and after a failure."""
    done = run_processes(2, HERE / "transport_program.py")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("fine") == 2


@needs_mpi
def test_the_program_of_the_documentation():
    docs = HERE.parents[1] / "docs"
    done = run_processes(2, docs / "programs" / "cluster.py")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == (docs / "generated" / "output" / "cluster.txt").read_text()


@needs_mpi
@pytest.mark.parametrize("name", ["points.npz", "points.h5"])
def test_the_command_evaluates_a_file_in_several_processes(tmp_path, rng, name):
    points, charges = rng.uniform(-1, 1, (3000, 3)), rng.uniform(-1, 1, 3000)
    if name == "points.npz":
        np.savez(tmp_path / name, points=points, charges=charges)
    else:
        with h5py.File(tmp_path / name, "w") as file:
            file.create_dataset("points", data=points, chunks=(100, 3))
            file["charges"] = charges
    program = Path(sys.executable).parent / "fmmloopy"
    words = ("evaluate", name, "-o", "found.npz", "--digits", "4", "--json")
    done = run_processes(2, program, *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout)
    assert (report["sources"], report["targets"], report["processes"]) == (3000, 3000, 2)
    assert report["measured_error"] < 1e-4
    parts = [np.load(tmp_path / f"found.{rank}.npz") for rank in range(2)]
    assert np.array_equal(np.concatenate([part["points"] for part in parts]), points)
    found = np.concatenate([part["potentials"] for part in parts])
    assert error(found, fl.direct(points, charges)) < 1e-4
