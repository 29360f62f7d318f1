"""Functions in child processes: what comes back, and what happens when nothing does."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from fmmloopy.common.isolation import ChildCrashed, ChildTimedOut, Worker
from fmmloopy.recipes import load_recipes


def add(stage, a, b):
    return a + b


def crash(stage):
    stage("reading address 0", 60.0)
    print("about to fail", flush=True)
    ctypes.string_at(0)


def hang(stage, limit):
    stage("looping", limit)
    while True:
        pass


def leave(stage):
    sys.exit(3)


def raise_own(stage):
    class Own(Exception):
        """Cannot be imported by name."""

        def __init__(self, one, two):
            super().__init__(one)

    raise Own("a reason", 2)


def take_all_memory(stage):
    blocks = []
    while True:
        blocks.append(np.empty(2**30, np.uint8))  # counts, though nothing is written to it


@pytest.fixture(scope="module")
def worker():
    with Worker() as worker:
        yield worker


def test_results_and_exceptions_come_back(worker):
    assert worker.call(add, 1, 2) == 3
    offset = 10
    assert worker.call(lambda stage, a: a + offset, 1) == 11
    with pytest.raises(ZeroDivisionError):
        worker.call(lambda stage: 1 / 0)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        worker.call(lambda stage: Path("/nowhere").read_text())
    with pytest.raises(Exception, match="a reason"):
        worker.call(raise_own)


def test_a_crash_is_an_exception_and_the_next_call_works(worker):
    with pytest.raises(ChildCrashed) as caught:
        worker.call(crash)
    assert "signal 11" in str(caught.value)
    assert "about to fail" in str(caught.value)
    assert caught.value.stage == "reading address 0"
    assert worker.call(add, 2, 3) == 5


def test_a_function_that_does_not_return_is_stopped(worker):
    worker.call(add, 0, 0)
    start = time.monotonic()
    with pytest.raises(ChildTimedOut, match="did not return within 0.5 s, looping"):
        worker.call(hang, 0.5)
    assert time.monotonic() - start >= 0.5
    assert worker.call(add, 2, 3) == 5


def test_a_process_that_exits_is_an_exception(worker):
    with pytest.raises(ChildCrashed, match="status 3"):
        worker.call(leave)


def test_memory_is_limited(worker):
    with pytest.raises(MemoryError):
        worker.call(take_all_memory)


def test_recipes_of_a_file_travel(worker, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from fmmloopy import RecipeBook\nfrom fmmloopy.transforms import steps\n"
        "def p2p(knl, *, lanes=4):\n    yield 'lanes', steps.lane_arrays(knl, lanes)\n"
        "BOOK = RecipeBook('mine', '', {'p2p': p2p}, {'p2p': {'lanes': (4, 8)}}, ('-cl-mad-enable',))\n"
    )
    book = load_recipes(path)
    found = worker.call(lambda stage, b: (b.name, b.fingerprint("p2p"), dict(b.tuning), b.build_options), book)
    assert found == ("mine", book.fingerprint("p2p"), {"p2p": {"lanes": (4, 8)}}, ("-cl-mad-enable",))


def test_a_child_ends_with_its_parent():
    program = """
from fmmloopy.common.isolation import Worker
worker = Worker()
print(worker.call(lambda stage: __import__("os").getpid()), flush=True)
worker.call(lambda stage: [stage("waiting", 600.0), __import__("time").sleep(600)])
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and _is_running(child):
        time.sleep(0.05)
    assert not _is_running(child)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
