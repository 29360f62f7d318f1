"""Run by test_mpi: what processes of MPI tell each other, without an evaluation."""

from __future__ import annotations

import sys

import numpy as np
from mpi4py import MPI

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
    print(f"process {comm.rank}: fine")


if __name__ == "__main__":
    try:
        main(MPI.COMM_WORLD)
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
        MPI.COMM_WORLD.Abort(1)
