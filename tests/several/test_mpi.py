"""Several processes of MPI, if mpi4py and a launcher are installed."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import OPENCL, slow_but

HERE = Path(__file__).parent


def launcher() -> str | None:
    """Return the path of mpiexec: that of this environment, as PyPI's mpich has it, or that of the system."""
    return shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")


@pytest.mark.skipif(importlib.util.find_spec("mpi4py") is None, reason="mpi4py is not installed")
@pytest.mark.skipif(launcher() is None, reason="there is no mpiexec")
@pytest.mark.skipif(not OPENCL, reason="no OpenCL device")
@pytest.mark.parametrize("size", slow_but(lambda size: size in (2, 3), [1, 2, 3, 4, 7]))
def test_several_processes_agree_with_one(size):
    environment = {
        **os.environ,
        "PYTHONPATH": str(HERE.parent),
        "FMMLOOPY_DEVICE": OPENCL[0].description,
        "POCL_MAX_PTHREAD_COUNT": "1",
    }
    done = subprocess.run(
        [launcher(), "-n", str(size), sys.executable, HERE / "mpi_program.py"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("fine") == size
