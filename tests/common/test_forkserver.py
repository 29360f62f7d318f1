"""Child processes that are copies of a server: what each begins with, and what happens without a server."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from fmmloopy.common import forkserver
from fmmloopy.common.isolation import Worker

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks")


def server_of(worker):
    """Return the process that a worker's process is a copy of."""
    return worker.call(lambda stage: os.getppid())


def of_new(function, count=1, environment=None):
    """Call a function in new workers, all of which are there at the same time."""
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(environment)) for _ in range(count)]
        return [worker.call(lambda stage: function()) for worker in workers]


def test_children_share_a_server_and_nothing_that_one_of_them_does():
    def change():
        sys.modules["left_behind"] = sys
        os.environ["LEFT_BEHIND"] = "1"
        return os.getppid()

    def look():
        return os.getppid(), "left_behind" in sys.modules, "LEFT_BEHIND" in os.environ

    (server,) = of_new(change)
    assert of_new(look, 2) == [(server, False, False)] * 2
    assert server != os.getpid()


def test_a_child_has_the_surroundings_of_its_owner(monkeypatch, tmp_path):
    of_new(os.getpid)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NEW_HERE", "1")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "beside.py").write_text("ANSWER = 42\n")

    def look():
        import beside

        return os.getcwd(), os.environ["NEW_HERE"], os.environ["ONLY_THERE"], beside.ANSWER

    assert of_new(look, environment={"ONLY_THERE": "2"}) == [(str(tmp_path), "1", "2", 42)]


def test_random_numbers_of_children_differ():
    drawn = of_new(lambda: (random.random(), np.random.random()), 3)  # noqa: NPY002
    assert len({number for numbers in drawn for number in numbers}) == 6


def test_a_variable_that_imports_read_asks_for_another_server(monkeypatch):
    def look():
        import pyopencl

        return os.getppid(), pyopencl._PYOPENCL_NO_CACHE

    monkeypatch.delenv("PYOPENCL_NO_CACHE", raising=False)
    (one, cached), (other, not_cached) = *of_new(look), *of_new(look, environment={"PYOPENCL_NO_CACHE": "1"})
    assert (cached, not_cached) == (False, True)
    assert one != other
    assert [server for server, _ in of_new(look)] == [one]


def test_children_write_to_databases_at_the_same_time():
    import loopy  # noqa: F401  a server imports what this process has imported

    def store():
        from loopy.codegen import code_gen_cache

        for number in range(50):
            code_gen_cache.store_if_not_present(f"{os.getpid()} {number}", number)
        return [code_gen_cache.fetch(f"{os.getpid()} {number}") for number in range(50)]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: of_new(store)[0], range(4)))
    assert found == [list(range(50))] * 4


def test_without_a_server_a_process_is_started_by_itself():
    with Worker() as worker:
        server = server_of(worker)
        os.kill(server, signal.SIGKILL)
    with Worker() as worker:
        assert server_of(worker) == os.getpid()
    with Worker() as worker:
        assert server_of(worker) not in {os.getpid(), server}


def test_other_systems_do_not_fork(monkeypatch):
    monkeypatch.setattr(forkserver.sys, "platform", "darwin")
    with Worker() as worker:
        assert server_of(worker) == os.getpid()


def test_many_threads_start_children():
    with ThreadPoolExecutor(8) as pool:
        pids = list(pool.map(lambda _: of_new(os.getpid)[0], range(40)))
    assert len(pids) == 40
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline, "the server has not waited for its children"
        time.sleep(0.05)
