"""How parts talk to each other: as processes of MPI, or as threads of one process.

All parts call the same methods in the same order.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

Result = TypeVar("Result")

Rows = NDArray[Any]
"""Rows of numbers or of records, along the first axis."""


class Transport(Protocol):
    """The parts of a problem, as one of them sees them.

    Attributes:
        rank, size: number of this part, from 0, and of parts.
    """

    rank: int
    size: int

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all parts, in order."""

    def reduce(self, values: NDArray[Any], how: str) -> NDArray[Any]:
        """Return the ``"sum"``, ``"min"`` or ``"max"`` of all parts, entry by entry."""

    def exchange(self, sends: Mapping[int, Rows], like: Rows) -> dict[int, Rows]:
        """Send rows to some parts, and return the rows that others have sent, by their number.

        Args:
            sends: rows by receiver.
            like: rows of the same type, of any number.
        """

    def send(self, sends: Mapping[int, Rows], buffers: Mapping[int, Rows]) -> None:
        """Send rows to some parts, and fill buffers by their sender; their sizes are known."""


class Mpi:
    """Processes of MPI.

    Args:
        comm: a communicator of mpi4py, which must not be freed before this. Its duplicate carries the messages.
    """

    def __init__(self, comm: Any) -> None:
        self._comm = _duplicate(comm)
        self.rank, self.size = int(comm.rank), int(comm.size)

    def gather(self, value: Any) -> list[Any]:
        found: list[Any] = self._comm.allgather(value)
        return found

    def reduce(self, values: NDArray[Any], how: str) -> NDArray[Any]:
        from mpi4py import MPI

        result = np.empty_like(values)
        self._comm.Allreduce(
            np.ascontiguousarray(values), result, {"sum": MPI.SUM, "min": MPI.MIN, "max": MPI.MAX}[how]
        )
        return result

    def exchange(self, sends: Mapping[int, Rows], like: Rows) -> dict[int, Rows]:
        counts, incoming = np.zeros((2, self.size), np.int64)
        for receiver, rows in sends.items():
            counts[receiver] = len(rows)
        self._comm.Alltoall(counts, incoming)
        buffers = {r: np.empty((n, *like.shape[1:]), like.dtype) for r, n in enumerate(incoming) if n}
        self.send(sends, buffers)
        return buffers

    def send(self, sends: Mapping[int, Rows], buffers: Mapping[int, Rows]) -> None:
        from mpi4py import MPI

        packed = {receiver: _bytes(np.ascontiguousarray(rows)) for receiver, rows in sends.items() if len(rows)}
        requests = [self._comm.Irecv(_bytes(rows), sender) for sender, rows in buffers.items() if len(rows)]
        requests += [self._comm.Isend(rows, receiver) for receiver, rows in packed.items()]
        MPI.Request.Waitall(requests)


def _duplicate(comm: Any) -> Any:
    """Return the duplicate of a communicator, made once: MPI has only some 2,000 communicators."""
    found = comm.Get_attr(_place())
    if found is None:
        found = comm.Dup()
        comm.Set_attr(_place(), found)
    return found


@cache
def _place() -> int:
    """Return the key under which communicators have their duplicates, which are freed with them."""
    from mpi4py import MPI

    key: int = MPI.Comm.Create_keyval(delete_fn=lambda comm, key, duplicate: duplicate.Free())
    return key


def _bytes(rows: Rows) -> NDArray[np.uint8]:
    """View contiguous rows as bytes."""
    return rows.reshape(-1).view(np.uint8)


class Board:
    """Where threads leave what others read."""

    def __init__(self, size: int) -> None:
        self.size, self.barrier, self.slots = size, threading.Barrier(size), [None] * size


class Thread:
    """One of several threads of a process.

    Args:
        board: shared by all of them.
        rank: number of this one.
    """

    def __init__(self, board: Board, rank: int) -> None:
        self._board, self.rank, self.size = board, rank, board.size

    def gather(self, value: Any) -> list[Any]:
        slots: list[Any] = self._board.slots
        slots[self.rank] = value.copy() if isinstance(value, np.ndarray) else value  # its owner may change it
        self._board.barrier.wait()
        found = list(slots)
        self._board.barrier.wait()
        return found

    def reduce(self, values: NDArray[Any], how: str) -> NDArray[Any]:
        result: NDArray[Any] = getattr(np.stack(self.gather(values)), how)(axis=0)
        return result

    def exchange(self, sends: Mapping[int, Rows], like: Rows) -> dict[int, Rows]:
        own = {receiver: np.array(rows) for receiver, rows in sends.items() if len(rows)}
        return {r: each[self.rank] for r, each in enumerate(self.gather(own)) if self.rank in each}

    def send(self, sends: Mapping[int, Rows], buffers: Mapping[int, Rows]) -> None:
        found = self.exchange(sends, np.empty(0))
        for sender, rows in buffers.items():
            if len(rows):
                rows[...] = found[sender]


def in_threads(board: Board, call: Callable[[Thread], Result]) -> list[Result]:
    """Call a function once in each of as many threads as a board has, and return the results in order.

    Raises:
        Exception: that of the first thread that has failed by itself.
    """
    results: list[Any] = [None] * board.size
    errors: list[BaseException | None] = [None] * board.size

    def body(rank: int) -> None:
        try:
            results[rank] = call(Thread(board, rank))
        except BaseException as error:
            errors[rank] = error
            board.barrier.abort()  # the others wait for this one

    threads = [threading.Thread(target=body, args=(rank,)) for rank in range(1, board.size)]
    for each in threads:
        each.start()
    body(0)
    for each in threads:
        each.join()
    raised = [error for error in errors if error is not None]
    if raised:
        board.barrier.reset()
        raise next((error for error in raised if not isinstance(error, threading.BrokenBarrierError)), raised[0])
    return results
