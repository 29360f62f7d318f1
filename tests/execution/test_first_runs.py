"""A first run that is killed, and two that start at once, leave a cache that the next run can use.

`.ci/faults` tries many more moments, and full disks.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from fmmloopy.common.store import ENVIRONMENT_VARIABLE

PROGRAM = """
import sys
import numpy as np
import fmmloopy as fl

points = np.random.default_rng(0).random((800, 3))
charges = np.random.default_rng(1).standard_normal(800)
fmm = fl.Fmm(points, order=3, ncrit=60, device=sys.argv[1])
print("building is done", flush=True)
found, expected = fmm.evaluate(charges), fl.direct(points, charges)
print(np.linalg.norm(found - expected) / np.linalg.norm(expected))
"""


def start(device, folder, program=PROGRAM):
    """Start a program on caches of its own."""
    caches = {ENVIRONMENT_VARIABLE: str(folder / "own"), "POCL_CACHE_DIR": str(folder / "pocl")}
    folder.joinpath("pocl").mkdir(parents=True, exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-c", program, device],
        env={**os.environ, **caches, "XDG_CACHE_HOME": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


IMPORTED = """
loaded = {name.partition(".")[0] for name in sys.modules}
assert not loaded & {"islpy", "loopy", "matplotlib", "scipy"}, loaded
"""
"""What ends a program that has imported no package that takes long to import and is not needed."""


def is_right(process):
    """Wait for a program; return whether its potentials are right. It must not warn of its cache."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "CacheWarning" not in err
    return float(out.split()[-1]) < 1e-2


def kill(process):
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="this system has no groups of processes")
def test_first_runs_that_are_killed(opencl_device, tmp_path):
    """While the first files are written, and later; on the same cache."""
    for files in (1, 8):
        process = start(opencl_device.description, tmp_path)
        while process.poll() is None and sum(1 for _ in (tmp_path / "own").rglob("*.*")) < files:
            time.sleep(0.005)
        kill(process)
    assert is_right(start(opencl_device.description, tmp_path))


def test_processes_that_start_at_once(opencl_device, tmp_path):
    processes = [start(opencl_device.description, tmp_path) for _ in range(2)]
    assert all(map(is_right, processes))
    assert is_right(start(opencl_device.description, tmp_path))


def test_a_run_with_warm_caches_does_not_import_loopy(opencl_device, tmp_path):
    """Digits are asked for, so that near pairs are in float32 if no points are too close."""
    program = PROGRAM.replace("order=3", "digits=3")
    assert is_right(start(opencl_device.description, tmp_path, program))
    assert is_right(start(opencl_device.description, tmp_path, program + IMPORTED))
