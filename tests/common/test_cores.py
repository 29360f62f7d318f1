"""Work that is divided among the cores of a process."""

from __future__ import annotations

import threading

import pytest

from fmmloopy.common import cores
from fmmloopy.common.cores import beside, map_on_cores, processors


@pytest.mark.parametrize("count", [1, 2, 3])
def test_results_come_in_order(count, monkeypatch):
    monkeypatch.setattr(cores, "processors", lambda: count)
    threads = set()

    def work(item):
        threads.add(threading.get_ident())
        return item**2

    assert map_on_cores(work, range(20)) == [item**2 for item in range(20)]
    assert len(threads) <= count
    assert (threads == {threading.get_ident()}) == (count == 1)
    assert map_on_cores(work, []) == []
    assert beside(lambda: 1, lambda: "two") == (1, "two")


def test_two_items_are_worked_on_at_the_same_time(monkeypatch):
    monkeypatch.setattr(cores, "processors", lambda: 2)
    both = threading.Barrier(2, timeout=60)
    map_on_cores(lambda item: both.wait(), range(2))
    beside(both.wait, both.wait)


@pytest.mark.parametrize("count", [1, 2])
def test_errors_are_raised(count, monkeypatch):
    monkeypatch.setattr(cores, "processors", lambda: count)
    with pytest.raises(ZeroDivisionError):
        map_on_cores(lambda item: 1 / item, [1, 0, 2])
    with pytest.raises(ZeroDivisionError):
        beside(lambda: 1, lambda: 1 / 0)


def test_processors_are_those_of_this_process():
    assert processors() >= 1
