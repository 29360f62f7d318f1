"""Run by test_mpi: what processes of MPI tell each other, without an evaluation."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from mpi4py import MPI

from fmmloopy.parts import transport as transports
from fmmloopy.parts.team import PartError, Team
from fmmloopy.parts.transport import Mpi

MOST = 2046
"""Communicators that MPICH has for a process."""


def main(comm: MPI.Intracomm) -> None:
    for _ in range(MOST + 1):
        transport = Mpi(comm)
    assert transport.gather(comm.rank) == list(range(comm.size))
    for _ in range(MOST + 1):  # duplicates are freed with their communicators
        other = comm.Dup()
        assert Mpi(other).reduce(np.array([1]), "sum")[0] == comm.size
        other.Free()
    transports.MOST_BYTES = 24  # of messages, so that these go in pieces
    rows = np.arange(70.0).reshape(14, 5) + comm.rank
    found = transport.exchange(dict.fromkeys(range(comm.size), rows), rows)
    assert all(np.array_equal(found[each], rows - comm.rank + each) for each in range(comm.size))
    assert [len(each) for each in transport.gather("word" * (20 + comm.rank))] == [
        4 * (20 + each) for each in range(comm.size)
    ]
    assert np.array_equal(transport.reduce(rows, "max"), rows - comm.rank + comm.size - 1)
    team = Team(transport)
    lost = KeyError("lost")

    def work() -> None:
        with team.calling():
            if comm.rank == 0:
                raise lost
            transport.gather(0)

    with pytest.raises(KeyError if comm.rank == 0 else PartError) as raised:
        work()
    assert raised.value is lost or str(raised.value) == f"'lost' (in part 0 of {comm.size})"
    assert Team(Mpi(comm)).transport.gather(comm.rank) == list(range(comm.size))
    print(f"process {comm.rank}: fine")


if __name__ == "__main__":
    try:
        main(MPI.COMM_WORLD)
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
        MPI.COMM_WORLD.Abort(1)
