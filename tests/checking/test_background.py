"""Kernels are proved while a program rests: it never notices, and nothing is left of it."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import slow

import fmmloopy as fl
from fmmloopy.checking import background
from fmmloopy.checking.background import ENVIRONMENT_VARIABLE, BackgroundProofs
from fmmloopy.common import isolation
from fmmloopy.common.isolation import WorkerError
from fmmloopy.execution.key import CodeKey
from fmmloopy.recipes import RecipeBook
from fmmloopy.transforms import steps

LONGEST = 120.0
"""Seconds that a proof at the lowest priority may take on a busy machine."""


def _recipe(knl):
    yield "targets in lanes", steps.one_group_per(steps.lane_arrays(knl, 8), "ibox")


@pytest.fixture
def fmm(opencl_device, own_cache, monkeypatch):
    """An evaluation whose P2P has a recipe of its own, and that rests soon."""
    monkeypatch.delenv(ENVIRONMENT_VARIABLE)
    monkeypatch.setattr(background, "IDLE", 0.01)
    points = np.random.default_rng(3).random((400, 3))
    book = RecipeBook("mine", "", {"p2p": _recipe})
    return fl.Fmm(points, order=3, ncrit=5, recipes=book, device=opencl_device)


def _p2p(fmm):
    return next(row for row in fmm.plan_report().kernels if row.operator == "p2p")


def _p2p_code(fmm):
    return next(code for key, code in fmm._evaluation.kernels if key.operator == "p2p")


def _wait(until):
    end = time.monotonic() + LONGEST
    while not until() and time.monotonic() < end:
        time.sleep(0.05)
    assert until()


@pytest.mark.filterwarnings("ignore::fmmloopy.UncertifiedWarning")
def test_a_new_kernel_is_proved_after_the_first_evaluation(fmm):
    fmm.evaluate(np.ones(400))
    assert _p2p(fmm).state == "unknown"
    _wait(lambda: _p2p(fmm).state == "proved")
    _wait(lambda: fmm._proofs._worker is None)
    fmm.evaluate(np.ones(400))
    assert fmm._proofs._timer is None, "nothing is left to prove"


@pytest.mark.filterwarnings("ignore::fmmloopy.UncertifiedWarning")
def test_where_no_process_can_be_started_nothing_is_proved(fmm, monkeypatch):
    def refuse(*_):
        raise WorkerError("no processes here")

    monkeypatch.setattr(isolation.Worker, "call", refuse)
    fmm.evaluate(np.ones(400))
    _wait(lambda: _p2p_code(fmm).kernel in fmm._proofs._done and fmm._proofs._worker is None)
    fmm.evaluate(np.ones(400))
    assert _p2p(fmm).state == "unknown"


@pytest.mark.filterwarnings("ignore::fmmloopy.UncertifiedWarning")
@pytest.mark.parametrize("what", ["a worker's", "one of several"])
def test_processes_beside_others_prove_nothing(fmm, monkeypatch, what):
    if what == "a worker's":
        monkeypatch.setattr(isolation, "is_child", True)
    else:
        monkeypatch.setitem(sys.modules, "mpi4py.MPI", sys)
    fmm.evaluate(np.ones(400))
    assert fmm._proofs._timer is None


def test_what_was_closed_starts_nothing(fmm):
    proofs = BackgroundProofs()
    proofs.close()
    proofs.rest(fmm._evaluation.kernels)
    assert proofs._timer is None


PROGRAM = """
import sys, time, warnings
import numpy as np
import fmmloopy as fl
from fmmloopy.checking import background

warnings.simplefilter("ignore")
background.IDLE = 0.01
points = np.random.default_rng(3).random((400, 3))
kernel = fl.GreensFunction("mine", "1/r**3")
fmm = fl.Fmm(points, order=3, ncrit=5, kernel=kernel, device=sys.argv[1])
fmm.evaluate(np.ones(400))
end = time.monotonic() + 60
while fmm._proofs._worker is None or fmm._proofs._worker._process is None:
    assert time.monotonic() < end
    time.sleep(0.01)
print(fmm._proofs._worker._process.pid)
"""


@slow
def test_no_process_is_left_behind(opencl_device, own_cache):
    environment = {k: v for k, v in os.environ.items() if k != ENVIRONMENT_VARIABLE}
    words = [sys.executable, "-c", PROGRAM, opencl_device.description]
    run = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert not run.stderr
    pid = int(run.stdout)

    def has_ended():
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        return False

    _wait(has_ended)


def test_an_evaluation_makes_no_keys_anew(rng, monkeypatch):
    """They are asked for after each evaluation, and take milliseconds, as much as a small evaluation itself."""
    fmm = fl.Fmm(rng.random((500, 3)), order=3, ncrit=100)
    fmm.evaluate(np.ones(500))
    made = []
    original = CodeKey.text
    monkeypatch.setattr(CodeKey, "text", lambda key: made.append(key) or original(key))
    fmm.evaluate(np.ones(500))
    assert not made
    assert fmm.plan_report().kernels
