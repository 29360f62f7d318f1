"""How parts talk to each other: as processes of MPI, or as threads of one process.

All parts call the same methods in the same order. A part that cannot go on says so with `Transport.fail`; then whoever
waits for it, or for anybody else, raises `PartError`.
"""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from fmmloopy.common.messages import one_line

Result = TypeVar("Result")

Rows = NDArray[Any]
"""Rows of numbers or of records, along the first axis."""


MOST_BYTES = 2**30
"""Larger messages are sent in pieces: MPI counts with 32 bits."""

PIECE, PIECES = 2**18, 64
"""Bytes from which on messages are sent in pieces, and about how many. MPI moves a message a little each time that it
is looked for, so a piece that has come is the sign to go on looking."""

EAGER, RELAXED, LONGEST = 1e-3, 0.05, 1e-3
"""Who waits for messages looks for them all the time for the first seconds after one has come, then at intervals that
are this share of the time waited, and these seconds at most."""

FAREWELL = 1.0
"""Seconds in which a part that fails tries to tell the others."""


class PartError(RuntimeError):
    """Another part has failed; the message says which one, and why."""


def in_all_parts(error: Exception) -> Exception:
    """Return an error, marked as one that all parts raise at the same place."""
    error.__dict__["in_all_parts"] = True
    return error


def is_in_all_parts(error: BaseException) -> bool:
    """Return whether all parts raise an error at the same place."""
    return "in_all_parts" in error.__dict__


class Transport(Protocol):
    """The parts of a problem, as one of them sees them.

    Attributes:
        rank, size: number of this part, from 0, and of parts.
        here: number of this part among those on its machine, and how many these are.
    """

    rank: int
    size: int
    here: tuple[int, int]

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

    def look(self) -> None:
        """Raise an error if another part has failed.

        Raises:
            PartError: it has. All other methods raise it too.
        """

    def fail(self, error: BaseException) -> str:
        """Tell all other parts that this one fails, unless one of them has told it; return what they raise."""


@dataclass
class _Channel:
    """Where the messages of a communicator go, until a part fails.

    Attributes:
        messages, failures: its duplicates.
        here: see `Transport`.
        told: what a part that fails has said.
        unfinished: requests that may never finish; they keep their buffers.
    """

    messages: Any
    failures: Any
    here: tuple[int, int]
    told: str | None = None
    unfinished: list[Any] = field(default_factory=list)

    def free(self) -> None:
        """Free the duplicates, unless messages are on their way."""
        if self.told is None:
            self.messages.Free()
            self.failures.Free()


class Mpi:
    """Processes of MPI. They never wait in MPI itself, so that they notice if one of them fails.

    Args:
        comm: a communicator of mpi4py, which must not be freed before this. Duplicates carry the messages.
    """

    def __init__(self, comm: Any) -> None:
        self._whole = comm
        self._channel = _channel(comm)
        self.rank, self.size, self.here = int(comm.rank), int(comm.size), self._channel.here

    def gather(self, value: Any) -> list[Any]:
        packed = np.frombuffer(pickle.dumps(value, pickle.HIGHEST_PROTOCOL), np.uint8)
        sizes = self._gather_equal(np.array([len(packed)]))[:, 0]
        pieces: list[list[NDArray[np.uint8]]] = [[] for _ in sizes]
        step = max(MOST_BYTES // self.size, 1)
        for start in range(0, int(sizes.max()), step):
            counts = np.clip(sizes - start, 0, step)
            ends = np.cumsum(counts)
            found = np.empty(ends[-1], np.uint8)
            sent = packed[start : start + step]
            self._wait([self._messages.Iallgatherv(sent, [found, counts, ends - counts, _mpi().BYTE])])
            for piece, count, end in zip(pieces, counts, ends, strict=True):
                piece.append(found[end - count : end])
        return [pickle.loads(np.concatenate(piece).data) for piece in pieces]

    def reduce(self, values: NDArray[Any], how: str) -> NDArray[Any]:
        operation = {"sum": _mpi().SUM, "min": _mpi().MIN, "max": _mpi().MAX}[how]
        given = np.ascontiguousarray(values)
        result = np.empty_like(given)
        for part, into in zip(_pieces(given.reshape(-1)), _pieces(result.reshape(-1)), strict=True):
            self._wait([self._messages.Iallreduce(part, into, operation)])
        return result

    def exchange(self, sends: Mapping[int, Rows], like: Rows) -> dict[int, Rows]:
        counts, incoming = np.zeros((2, self.size), np.int64)
        for receiver, rows in sends.items():
            counts[receiver] = len(rows)
        self._wait([self._messages.Ialltoall(counts, incoming)])
        buffers = {r: np.empty((n, *like.shape[1:]), like.dtype) for r, n in enumerate(incoming) if n}
        self.send(sends, buffers)
        return buffers

    def send(self, sends: Mapping[int, Rows], buffers: Mapping[int, Rows]) -> None:
        requests = []
        for sender, rows in buffers.items():
            requests += [self._messages.Irecv(piece, sender) for piece in _bytes(rows)]
        for receiver, rows in sends.items():
            requests += [self._messages.Isend(piece, receiver) for piece in _bytes(np.ascontiguousarray(rows))]
        self._wait(requests)

    def look(self) -> None:
        if self._channel.told is None and self._channel.failures.Iprobe():
            status = _mpi().Status()
            self._channel.failures.Probe(status=status)
            told = np.empty(status.Get_count(), np.uint8)
            self._channel.failures.Recv(told, status.source)
            self._channel.told = told.tobytes().decode()
        if self._channel.told is not None:
            raise PartError(self._channel.told)

    def fail(self, error: BaseException) -> str:
        channel = self._channel
        if channel.told is None:
            channel.told = _line(error, self.rank, self.size)
            told = np.frombuffer(channel.told.encode(), np.uint8)
            sent = [channel.failures.Isend(told, other) for other in range(self.size) if other != self.rank]
            channel.unfinished += sent
            end = time.perf_counter() + FAREWELL
            while not _mpi().Request.Testall(sent) and time.perf_counter() < end:
                time.sleep(LONGEST)
        return channel.told

    @property
    def _messages(self) -> Any:
        """The communicator that carries the messages: a new one after a part has failed, in an earlier call."""
        if self._channel.told is not None:
            self._channel = _channel(self._whole)
        return self._channel.messages

    def _gather_equal(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return arrays of the same shape of all parts, along a new first axis."""
        found = np.empty((self.size, *values.shape), values.dtype)
        self._wait([self._messages.Iallgather(values, found)])
        return found

    def _wait(self, requests: list[Any]) -> None:
        """Wait until messages have come and gone."""
        start = time.perf_counter()
        try:
            while (some := _mpi().Request.Testsome(requests)) is not None:
                if some:
                    start = time.perf_counter()
                    continue
                self.look()
                waited = time.perf_counter() - start
                time.sleep(min(RELAXED * waited, LONGEST) if waited > EAGER else 0)
        except BaseException:
            self._channel.unfinished += requests
            raise


def _mpi() -> Any:
    """Return the module, which starts MPI when it is imported."""
    from mpi4py import MPI

    return MPI


def _channel(comm: Any) -> _Channel:
    """Return the channel of a communicator, made once: MPI has only some 2,000 communicators.

    After a part has failed, there is a new one: messages of the old one may still come.
    """
    found: _Channel | None = comm.Get_attr(_place())
    if found is None or found.told is not None:
        machine = comm.Split_type(_mpi().COMM_TYPE_SHARED)
        here = int(machine.rank), int(machine.size)
        machine.Free()
        found = _Channel(comm.Dup(), comm.Dup(), here, unfinished=[] if found is None else found.unfinished)
        comm.Set_attr(_place(), found)
    return found


@cache
def _place() -> int:
    """Return the key under which communicators have their channels, which are freed with them."""
    key: int = _mpi().Comm.Create_keyval(delete_fn=lambda comm, key, channel: channel.free())
    return key


def _line(error: BaseException, rank: int, size: int) -> str:
    """Return what the others say of an error in a part."""
    name = type(error).__name__
    text = one_line(error)
    if not isinstance(error, Exception) or not text:  # such as KeyboardInterrupt
        text = f"{name}: {text}" if text else name
    return f"{text} (in part {rank} of {size})"


def _bytes(rows: Rows) -> list[NDArray[np.uint8]]:
    """Return the bytes of contiguous rows, in pieces."""
    values = rows.reshape(-1).view(np.uint8)
    return _pieces(values, min(max(PIECE, -(-len(values) // PIECES)), MOST_BYTES))


def _pieces(values: NDArray[Any], most: int | None = None) -> list[NDArray[Any]]:
    """Return contiguous pieces of an array, none of which has too many bytes; none of an empty array."""
    step = max((most or MOST_BYTES) // values.itemsize, 1)
    return [values[start : start + step] for start in range(0, len(values), step)]


class Board:
    """Where threads leave what others read.

    Attributes:
        size: number of threads.
        barrier: where they wait for each other.
        slots: shape (size,), what each has left.
        told: what a thread that fails has said.
    """

    def __init__(self, size: int) -> None:
        self.size, self.barrier, self.slots = size, threading.Barrier(size), [None] * size
        self.told: str | None = None


class Thread:
    """One of several threads of a process.

    Args:
        board: shared by all of them.
        rank: number of this one.
    """

    def __init__(self, board: Board, rank: int) -> None:
        self._board, self.rank, self.size, self.here = board, rank, board.size, (rank, board.size)

    def gather(self, value: Any) -> list[Any]:
        slots: list[Any] = self._board.slots
        slots[self.rank] = value.copy() if isinstance(value, np.ndarray) else value  # its owner may change it
        self._wait()
        found = list(slots)
        self._wait()
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

    def look(self) -> None:
        if self._board.told is not None:
            raise PartError(self._board.told)

    def fail(self, error: BaseException) -> str:
        told = self._board.told = self._board.told or _line(error, self.rank, self.size)
        self._board.barrier.abort()
        return told

    def _wait(self) -> None:
        try:
            self._board.barrier.wait()
        except threading.BrokenBarrierError:
            self.look()
            raise


def in_threads(board: Board, call: Callable[[Thread], Result]) -> list[Result]:
    """Call a function once in each of as many threads as a board has, and return the results in order.

    Raises:
        Exception: that of the first thread that has failed by itself.
    """
    results: list[Any] = [None] * board.size
    errors: list[BaseException | None] = [None] * board.size

    def body(rank: int) -> None:
        thread = Thread(board, rank)
        try:
            results[rank] = call(thread)
        except BaseException as error:
            errors[rank] = error
            if not is_in_all_parts(error):
                thread.fail(error)  # the others wait for this one

    threads = [threading.Thread(target=body, args=(rank,)) for rank in range(1, board.size)]
    for each in threads:
        each.start()
    body(0)
    for each in threads:
        each.join()
    raised = [error for error in errors if error is not None]
    if raised:
        board.barrier.reset()
        board.told = None
        raise next((error for error in raised if not isinstance(error, PartError)), raised[0])
    return results
