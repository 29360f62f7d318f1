"""One program for a laptop and for a cluster: mpiexec -n 2 python cluster.py"""

import numpy as np
from mpi4py import MPI

import fmmloopy as fl

comm = MPI.COMM_WORLD
rng = np.random.default_rng(comm.rank)
points = rng.random((10_000, 3))  # those of this process, anywhere
charges = rng.uniform(-1, 1, len(points))

fmm = fl.Fmm(points, digits=6, comm=comm)
potentials = fmm.evaluate(charges)  # of these points, in this order

error = fmm.estimate_error()  # compares some targets of all processes with the direct sum
report = fmm.plan_report()
if comm.rank == 0:
    print(f"{comm.size} processes, {comm.size * len(points):,} points, {len(potentials):,} potentials here")
    print(f"relative error below 1e-6: {error < 1e-6}")
    for number, part in enumerate(report.parts):
        print(f"part {number}: about {round(part.nsources, -3):,} points")
