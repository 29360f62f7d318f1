"""Compare processes with unequal devices with the ideal: ``python -m benchmarks several``.

Two processes of MPI have one core each. The ideal is as in a table for clusters of mixed devices: all devices work at
the speed that each has alone, so the time is one over the sum of their inverse times. A device that is slower than the
others is another runtime on the same processor, the C compiler's sequential code, or one whose core has other work.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.scaling import centred_points
from fmmloopy import Fmm

CASES = (("intel", "intel"), ("intel", "pocl"), ("pocl", "pocl, busy core"), ("intel", "c"))
"""What the processes use; the core of one may have a process that computes all the time."""

BUSY = ", busy core"

ROUNDS = 6
"""Points are moved at most so many times."""

BUSY_PROGRAM = "import os, sys\nos.sched_setaffinity(0, [int(sys.argv[1])])\nwhile os.getppid() > 1: pass\n"


@dataclass(frozen=True)
class Comparison:
    """Processes with a device each.

    Attributes:
        devices: their names.
        alone: seconds of an evaluation on each of them alone.
        first, balanced: seconds on all of them, before and after points were moved.
    """

    devices: tuple[str, ...]
    alone: tuple[float, ...]
    first: float
    balanced: float

    @property
    def ideal(self) -> float:
        """Seconds if each worked as fast as alone."""
        return 1 / sum(1 / seconds for seconds in self.alone)


def compare(devices: Sequence[str], options: Mapping[str, Any]) -> Comparison:
    """Measure each device alone, with its core, and all of them together."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < len(devices):
        raise SystemExit(f"error: {len(devices)} processes need a core each, and there are {len(cores)}")
    alone = [run([device], [core], options)[-1] for device, core in zip(devices, cores, strict=False)]
    together = run(devices, cores[: len(devices)], options)
    return Comparison(tuple(devices), tuple(alone), together[0], together[-1])


def run(devices: Sequence[str], cores: Sequence[int], options: Mapping[str, Any]) -> list[float]:
    """Return the seconds of an evaluation, the best of some, before and after each time that points were moved."""
    task = {**options, "devices": [device.removesuffix(BUSY) for device in devices], "cores": list(cores)}
    launcher = Path(sys.executable).parent / "mpiexec"
    command = [str(launcher) if launcher.exists() else "mpiexec", "-n", str(len(devices)), sys.executable]
    environment = {**os.environ, "POCL_MAX_PTHREAD_COUNT": "1", "FMMLOOPY_BACKGROUND_PROOFS": "0"}
    with busy(core for device, core in zip(devices, cores, strict=True) if device.endswith(BUSY)):
        done = subprocess.run(
            [*command, "-m", "benchmarks.several", "--task", json.dumps(task)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise SystemExit(f"error: {' '.join(done.stderr.split())[-300:]}")
    seconds: list[float] = json.loads(done.stdout.splitlines()[-1])
    return seconds


@contextmanager
def busy(cores: Iterator[int]) -> Iterator[None]:
    """Let a process compute on each of some cores."""
    running = [subprocess.Popen([sys.executable, "-c", BUSY_PROGRAM, str(core)]) for core in cores]
    try:
        yield
    finally:
        for each in running:
            each.kill()
            each.wait()


def do_task(task: Mapping[str, Any]) -> None:
    """Be one of the processes, and let the first print the seconds of all."""
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    os.sched_setaffinity(0, [task["cores"][comm.rank]])  # before a runtime starts its threads
    warnings.simplefilter("ignore")
    rng = np.random.default_rng(0)
    points = centred_points(task["distribution"], task["points"], rng)
    charges, own = rng.uniform(-1, 1, len(points)), np.arange(comm.rank, len(points), comm.size)
    options: dict[str, Any] = {name: task[name] for name in ("digits", "ncrit")}
    if comm.size > 1:
        options["comm"] = comm
    fmm = Fmm(points[own], device=task["devices"][comm.rank], m2l="fft", **options)
    seconds = []
    for _ in range(ROUNDS):
        best = np.inf
        for _ in range(task["repeats"]):
            comm.Barrier()
            start = time.perf_counter()
            fmm.evaluate(charges[own])
            comm.Barrier()
            best = min(best, time.perf_counter() - start)
        seconds.append(best)
        if comm.size == 1 or not fmm.rebalance():  # type: ignore[attr-defined]
            break
    if comm.rank == 0:
        print(json.dumps(seconds))


def table(found: Sequence[Comparison]) -> str:
    """Return a table in Markdown."""
    lines = ["| devices, a core each | alone, s | ideal, s | at first, s | rebalanced, s | share of the ideal |"]
    lines.append("|---|---|---|---|---|---|")
    for each in found:
        alone = ", ".join(f"{seconds:.3g}" for seconds in each.alone)
        cells = [" + ".join(each.devices), alone, f"{each.ideal:.3g}", f"{each.first:.3g}", f"{each.balanced:.3g}"]
        lines.append(f"| {' | '.join(cells)} | {each.ideal / each.balanced:.0%} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks several", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--points", type=int, default=300_000, help="(default: %(default)s)")
    parser.add_argument("--distribution", choices=("cube", "sphere"), default="cube")
    parser.add_argument("--digits", type=float, default=6, help="(default: %(default)s)")
    parser.add_argument("--ncrit", type=int, default=150, help="the same for all devices (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="evaluations of which the best counts")
    parser.add_argument("--devices", nargs="+", help="names of devices, one for each process, in place of the usual")
    parser.add_argument("--output", type=Path, help="file for the table, beside the screen")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.task:
        do_task(json.loads(arguments.task))
        return
    options = {name: getattr(arguments, name) for name in ("points", "distribution", "digits", "ncrit", "repeats")}
    cases = [arguments.devices] if arguments.devices else CASES
    text = table([compare(devices, options) for devices in cases])
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
