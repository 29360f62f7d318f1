"""Threads share an `Fmm`, forked processes do not: right numbers or one clear line, and nothing waits forever."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import fmmloopy as fl
from fmmloopy.common.store import ENVIRONMENT_VARIABLE
from fmmloopy.common.turns import Turn

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork processes")


# -- threads


def test_threads_that_share_an_fmm(device, rng):
    points, charges = rng.random((1500, 3)), rng.standard_normal((40, 1500))

    def evaluate(fmm, number):
        with_gradient = number % 3 == 0
        found = fmm.evaluate(charges[number], gradient=with_gradient)
        return np.column_stack(found) if with_gradient else found

    alone = fl.Fmm(points, order=3, device=device)
    expected = [evaluate(alone, number) for number in range(len(charges))]
    shared = fl.Fmm(points, order=3, device=device)
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda number: evaluate(shared, number), range(len(charges))))
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))


PROGRAM_WITH_THREADS = """
import sys
from concurrent.futures import ThreadPoolExecutor
import numpy as np
import fmmloopy as fl

points = np.random.default_rng(0).random((1000, 3))
charges = np.ones(1000)
filters = len(__import__("warnings").filters)

def build(decay):
    kernel = fl.yukawa(decay) if decay else fl.laplace()
    found = fl.Fmm(points, kernel=kernel, order=3, device="c").evaluate(charges)
    expected = fl.direct(points, charges, kernel=kernel)
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)

with ThreadPoolExecutor(4) as pool:
    print("errors", *pool.map(build, (0.0, 1.0, 0.0, 2.0)), file=sys.stdout)
"""


def test_threads_that_build_at_the_same_time(tmp_path):
    """On an empty cache; standard output, which is redirected while code is generated, is the program's afterwards."""
    environment = {**os.environ, ENVIRONMENT_VARIABLE: str(tmp_path), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, "-c", PROGRAM_WITH_THREADS], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    word, *errors = done.stdout.split()
    assert word == "errors"
    assert max(map(float, errors)) < 1e-3


# -- processes


@needs_fork
def test_a_lock_that_a_thread_holds_is_free_in_a_forked_process():
    turn, taken, finished = Turn(), threading.Event(), threading.Event()

    def hold():
        with turn:
            taken.set()
            finished.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    taken.wait()
    child = os.fork()
    if child == 0:
        signal.alarm(10)
        with turn:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    finished.set()
    holder.join()
    assert status == 0


PROGRAM_THAT_FORKS = """
import os, signal, sys
import numpy as np
import fmmloopy as fl

points = np.random.default_rng(0).random((1000, 3))
charges = np.ones(1000)
device, when = sys.argv[1:]
if when == "found":
    fl.find_devices()
elif when == "evaluated":
    fmm = fl.Fmm(points, order=3, device=device)
    fmm.evaluate(charges)
child = os.fork()
if child:
    sys.exit(os.waitpid(child, 0)[1])
signal.alarm(60)
try:
    if when != "evaluated":
        fmm = fl.Fmm(points, order=3, device=device)
    found = fmm.evaluate(charges)
    expected = fl.direct(points, charges)
    print("error", np.linalg.norm(found - expected) / np.linalg.norm(expected))
except fl.DeviceError as error:
    print(error)
"""


def fork(device, when):
    """Return what a forked process prints."""
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM_THAT_FORKS, device.description, when]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@needs_fork
@pytest.mark.parametrize("when", ["found", "evaluated"])
def test_a_process_that_is_forked_after_opencl_was_used(opencl_device, when):
    said = fork(opencl_device, when)
    assert said.startswith("OpenCL was used before this process was forked")
    assert "multiprocessing.set_start_method('spawn')" in said
    assert "\n" not in said


@needs_fork
def test_a_process_that_is_forked_before(device):
    word, error = fork(device, "nothing")[:80].split()
    assert word == "error"
    assert float(error) < 1e-3
