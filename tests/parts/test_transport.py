"""Threads that talk to each other, and teams that fail and decide together."""

from __future__ import annotations

import time

import numpy as np
import pytest

from fmmloopy.parts.team import PartError, Team
from fmmloopy.parts.transport import Board, in_threads


@pytest.mark.parametrize("size", [1, 2, 5])
def test_values_of_all_parts(size):
    def call(thread):
        numbers = np.arange(3) * (thread.rank + 1)
        gathered = thread.gather(numbers)
        numbers[:] = -1  # what the others have got stays as it was
        assert thread.gather(thread.rank) == list(range(size))
        return gathered, {
            how: thread.reduce(np.array([thread.rank, -thread.rank]), how) for how in ("sum", "min", "max")
        }

    for gathered, reduced in in_threads(Board(size), call):
        assert [each.tolist() for each in gathered] == [[0, r, 2 * r] for r in range(1, size + 1)]
        total, last = sum(range(size)), size - 1
        assert {how: found.tolist() for how, found in reduced.items()} == {
            "sum": [total, -total],
            "min": [0, -last],
            "max": [last, 0],
        }


def test_rows_go_where_they_are_sent():
    def call(thread):
        sends = {r: np.full((thread.rank, 2), 10 * thread.rank + r) for r in range(4)}
        found = thread.exchange(sends, np.empty((0, 2)))
        buffers = {r: np.empty((r, 2)) for r in range(4)}
        thread.send(sends, buffers)
        return found, buffers

    for rank, (found, buffers) in enumerate(in_threads(Board(4), call)):
        assert sorted(found) == [1, 2, 3]  # part 0 sends no rows
        for sender in (1, 2, 3):
            assert found[sender].tolist() == buffers[sender].tolist() == [[10 * sender + rank] * 2] * sender


def test_a_thread_that_fails_stops_the_others():
    def call(thread):
        if thread.rank == 1:
            raise KeyError("lost")
        return thread.gather(0)

    board = Board(3)
    with pytest.raises(KeyError, match="lost"):
        in_threads(board, call)
    assert in_threads(board, lambda thread: thread.gather(thread.rank)) == [[0, 1, 2]] * 3


@pytest.mark.parametrize(
    ("error", "expected"), [(ValueError("n is 3"), ValueError), (OSError("the disk is gone"), PartError)]
)
def test_all_parts_tell_of_the_first_that_fails(error, expected):
    def call(thread):
        def work():
            if thread.rank > 0:
                raise error
            time.sleep(0.01)

        try:
            Team(thread).together(work)
        except Exception as raised:
            return raised
        return None

    told = in_threads(Board(3), call)
    assert told[1] is error
    for rank in (0, 2):
        assert type(told[rank]) is expected
        assert str(told[rank]) == f"{error} (in part 1 of 3)"


def test_one_part_decides():
    asked = []

    def call(thread):
        return Team(thread).decide([1.0, 5.0, 5.0][thread.rank], lambda: asked.append(thread.rank) or "fft")

    assert in_threads(Board(3), call) == ["fft"] * 3
    assert asked == [1]


def test_arguments_that_differ_are_named():
    def call(thread):
        with pytest.raises(ValueError, match="order is 6 in part 0 and 7 in part 2, expected the same in all parts"):
            Team(thread).check_same({"kernel": "laplace", "order": 6 + thread.rank // 2})
        Team(thread).check_same({"kernel": "laplace"})

    in_threads(Board(3), call)
