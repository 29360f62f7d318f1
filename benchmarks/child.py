"""One measurement in a process of its own: ``python -m benchmarks.child TASK``, which `benchmarks.run` starts.

TASK is what `task` makes. The process prints FIRST as soon as it has potentials, and at the end a line of JSON: the
records of what was measured. Points and charges have few enough digits for float32, so that both precisions solve the
same problem.
"""

from __future__ import annotations

import json
import re
import resource
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import runtime_label
from benchmarks.results import Amount, Evaluation, OperatorTime, Peer, Step, share_inside, sum_up_runs
from benchmarks.suite import Case, EvaluationCase, OperatorCase, PeerCase, StepsCase
from fmmloopy.accuracy import ncrit_for
from fmmloopy.choosing.work import count_work
from fmmloopy.components import CHARGES, GRADIENT
from fmmloopy.direct import direct
from fmmloopy.execution.devices import choose_device
from fmmloopy.execution.generate import compile_operator
from fmmloopy.execution.runtime import make_runtime
from fmmloopy.execution.setup import Setup
from fmmloopy.fmm import Fmm
from fmmloopy.measuring.bench import WHOLE
from fmmloopy.measuring.ladder import climb
from fmmloopy.measuring.roofline import count_bytes
from fmmloopy.measuring.timing import OperatorTimer, Setting, make_problem
from fmmloopy.recipes import load_recipes

FIRST = "the first potentials are there"
"""What the process prints when it has them."""

MOST_CHECKED, MOST_PAIRS = 1000, 10**9
"""Targets whose potentials are compared with the direct sum, and pairs that it may take."""

OPERATOR_RUNS = 25
"""Runs of one operator by itself, fewer if it is slow: short launches may find a processor asleep, in spells."""

FEWEST_PEER_RUNS = 3
"""Runs of another library, after one of SMALL points that loads it."""

SMALL = 1000

SHORT, MOST_RUNS = 0.5, 30
"""Seconds that all runs together take at least, and runs after which it is enough."""

MOVES, STEP = 4, 1e-3
"""How often points move, of which the first may generate code, and how far: a step of a simulation."""

CONSTRUCTION = ("tree", "choice", "lists", "tables", "setup")
"""Keys of ``Fmm.timings`` that belong to its construction."""

Array = NDArray[Any]


def task(case: Case, device: str, folder: Path) -> str:
    """Write down one measurement for a child: the case, the device's description, a folder for potentials to reuse."""
    return json.dumps({"kind": type(case).__name__, "case": asdict(case), "device": device, "folder": str(folder)})


def is_cold(text: str) -> bool:
    """Return whether a task wants empty caches."""
    return bool(json.loads(text)["case"].get("cold"))


def main(text: str) -> None:
    """Do a task; print what was measured."""
    asked = json.loads(text)
    kinds: dict[str, tuple[Callable[..., Case], Callable[..., list[Any]]]] = {
        "EvaluationCase": (EvaluationCase, evaluate),
        "OperatorCase": (OperatorCase, time_operators),
        "StepsCase": (StepsCase, time_steps),
        "PeerCase": (PeerCase, run_peer),
    }
    make, measure = kinds[asked["kind"]]
    warnings.simplefilter("ignore")  # what the C device, and recipes that are not certified, say of themselves
    records = measure(make(**asked["case"]), asked["device"], Path(asked["folder"]))
    print(json.dumps([{"kind": type(record).__name__, **asdict(record)} for record in records]), flush=True)


# -- problems


def make_points(case: EvaluationCase | PeerCase) -> Array:
    """Return the points of a case, shape (points, 3), float64 numbers that float32 can hold."""
    return Setting(case.points, case.distribution, dtype="float32").make_points().astype(np.float64)


def make_charges(points: int, draw: int = 0) -> Array:
    """Return charges of both signs, uniform in (-1, 1), that float32 can hold; others for each draw."""
    return np.random.default_rng((1, draw)).uniform(-1, 1, points).astype(np.float32).astype(np.float64)


def relative_error(case: EvaluationCase | PeerCase, points: Array, potentials: Sequence[Array], folder: Path) -> float:
    """Compare with the direct sum at random targets, the same for all that is done with these points and charges.

    Args:
        case: what was asked for.
        points: of the case.
        potentials: of all points, for each draw of charges.
        folder: where direct sums are kept for other processes.

    Returns:
        The error relative to the potentials, in the 2-norm, as the root mean square over the draws.
    """
    checked = min(case.points, MOST_CHECKED, max(1, MOST_PAIRS // case.points))
    squares = []
    for draw, found in enumerate(potentials):
        some = np.random.default_rng((2, draw)).choice(case.points, checked, replace=False)
        kept = folder / f"{case.distribution}-{case.points}-{draw}.npy"
        if not kept.exists():
            np.save(kept, direct(points, make_charges(case.points, draw), points[some]))
        exact = np.load(kept)
        squares.append(np.sum((found[some] - exact) ** 2) / np.sum(exact**2))
    return float(np.sqrt(np.mean(squares)))


def peak_memory() -> int:
    """Return the most bytes that this process has held.

    ``ru_maxrss`` alone would not do: on Linux a process inherits it from the one that has started it.
    """
    with suppress(OSError):
        kilobytes = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
        if kilobytes:
            return int(kilobytes[1]) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


# -- measurements


def evaluate(case: EvaluationCase, device: str, folder: Path) -> list[Evaluation]:
    """Build an `Fmm`, evaluate several times, and compare with the direct sum."""
    points = make_points(case).astype(case.dtype)
    charges = [make_charges(case.points, draw).astype(case.dtype) for draw in range(case.draws)]
    options = {name: value for name in ("digits", "order", "precision") if (value := getattr(case, name)) is not None}

    def build() -> tuple[Fmm, dict[str, float], float]:
        start = time.process_time()
        fmm = Fmm(points, device=device, **options)
        stages = {stage: fmm.timings[stage] for stage in CONSTRUCTION if stage in fmm.timings}
        return fmm, stages, time.process_time() - start

    fmm, construction, construction_cpu = build()
    fmm.evaluate(charges[0])
    print(FIRST, flush=True)
    memory = peak_memory()
    if case.points <= 10**6:  # the first one has imported modules and filled caches
        del fmm
        fmm, again, cpu_again = build()
        if sum(again.values()) < sum(construction.values()):
            construction, construction_cpu = again, cpu_again
        fmm.evaluate(charges[0])
    seconds, cpu, potentials = _repeat(fmm, charges, case.runs)
    error = relative_error(case, points.astype(np.float64), potentials, folder)
    moved = _time_moves(fmm, points, charges[0]) if case.moving else None
    if not np.isfinite(error):
        raise ValueError(f"the potentials are no numbers, or the direct sum is 0: the error is {error}")
    return [
        Evaluation(
            runtime_label(fmm.device),
            *(case.group, case.name, case.points, case.distribution, case.dtype, case.digits),
            *(fmm.order, fmm.ncrit, fmm.m2l, fmm.precision),
            error,
            0.0,  # the parent has the time of the first potentials
            memory,
            construction,
            construction_cpu,
            *sum_up_runs(seconds),
            min(cpu),
            _amounts(fmm, seconds),
            moved,
        )
    ]


def _time_moves(fmm: Fmm, points: Array, charges: Array) -> float:
    """Move all points a little, several times, and return the fewest seconds for that and an evaluation."""
    rng, seconds = np.random.default_rng(3), []
    for _ in range(MOVES):
        there = points + rng.normal(0, STEP, points.shape).astype(points.dtype)
        start = time.perf_counter()
        fmm.update(there)
        fmm.evaluate(charges)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _amounts(fmm: Fmm, timed: Iterable[str]) -> dict[str, Amount]:
    """Return the work of the operators that were timed; numbers take as many bytes as what it is computed in."""
    problem = fmm.tree, fmm.lists, fmm.method, fmm.m2l
    work, nbytes = count_work(*problem), count_bytes(*problem)
    return {n: Amount(w.pairs, w.flops, nbytes[n]) for n, w in work.items() if w.flops and n in timed}


def _repeat(fmm: Fmm, charges: Sequence[Array], runs: int) -> tuple[dict[str, list[float]], list[float], list[Array]]:
    """Evaluate several times, one draw of charges after the other.

    Returns:
        Seconds by operator and for WHOLE, and core-seconds, of each run; potentials of each draw.
    """
    seconds: dict[str, list[float]] = {}
    cpu: list[float] = []
    potentials: list[Array] = []
    while len(cpu) < runs or (sum(seconds[WHOLE]) < SHORT and len(cpu) < MOST_RUNS):
        chosen = charges[len(cpu) % len(charges)]
        start, start_cpu = time.perf_counter(), time.process_time()
        found = fmm.evaluate(chosen)
        whole = time.perf_counter() - start
        cpu.append(time.process_time() - start_cpu)
        if len(potentials) < len(charges):
            potentials.append(found)
        for name, taken in {**fmm.timings, WHOLE: whole}.items():
            if name not in CONSTRUCTION:
                seconds.setdefault(name, []).append(taken)
    return seconds, cpu, potentials


def time_operators(case: OperatorCase, device: str, folder: Path) -> list[OperatorTime]:
    """Time operators by themselves; those that have nothing to do are left out."""
    chosen = choose_device(device)
    book, runtime = load_recipes(None, chosen), make_runtime(chosen)
    ncrit = case.ncrit or ncrit_for(case.order)
    problem = make_problem(Setting(case.points, case.distribution, case.order, case.dtype), ncrit)
    setup, tree = Setup(problem.setting.method, book, chosen), problem.tree
    sizes = (tree.box_source_ends - tree.box_source_starts)[tree.is_leaf]
    sizes = np.repeat(sizes, sizes)  # one for each point
    found = []
    for operator in case.operators:
        work = problem.work(operator, case.gradient)
        if not work.flops:
            continue
        timer = OperatorTimer(problem, operator, book, runtime, case.gradient)
        code = compile_operator(setup.code_key(operator, GRADIENT if case.gradient else CHARGES))
        kernels, wall = timer.time_by_both_clocks(code, OPERATOR_RUNS)
        found.append(
            OperatorTime(
                runtime_label(chosen),
                *(operator, case.points, case.distribution, case.order, ncrit, case.dtype, case.gradient),
                [int(size) for size in np.percentile(sizes, (5, 50, 95))],
                list(kernels.seconds),
                share_inside(kernels.seconds, wall.seconds),
                Amount(work.pairs, work.flops, problem.nbytes(operator)),
            )
        )
    return found


def time_steps(case: StepsCase, device: str, folder: Path) -> list[Step]:
    """Time an operator after every step of the device's recipe."""
    chosen = choose_device(device)
    book = load_recipes(None, chosen)
    setting = Setting(case.points, case.distribution, case.order)
    (ladder,) = climb(book, [case.operator], chosen, setting, certify=False).ladders
    return [
        Step(
            *(runtime_label(chosen), book.name, case.operator, case.order, rung.number, rung.name),
            rung.timing.best if rung.timing else None,
            ladder.work.pairs,
            rung.wrong,
        )
        for rung in ladder.rungs
    ]


def run_peer(case: PeerCase, device: str, folder: Path) -> list[Peer]:
    """Evaluate with fmm3dpy, which builds its tree each time, several times with other charges."""
    from fmm3dpy import lfmm3d

    points = make_points(case)
    sources = np.asfortranarray(points.T)
    lfmm3d(eps=case.eps, sources=np.asfortranarray(sources[:, :SMALL]), charges=make_charges(SMALL), pg=1)
    runs: list[tuple[float, float]] = []
    potentials = []
    for draw in range(FEWEST_PEER_RUNS):
        charges = make_charges(case.points, draw)
        start, start_cpu = time.perf_counter(), time.process_time()
        found = lfmm3d(eps=case.eps, sources=sources, charges=charges, pg=1).pot
        runs.append((time.perf_counter() - start, time.process_time() - start_cpu))
        potentials.append(np.asarray(found).reshape(-1))
    error = relative_error(case, points, potentials, folder)
    what = case.library, version(case.library), case.points, case.distribution, case.eps
    return [Peer(*what, error, *min(runs), peak_memory())]


if __name__ == "__main__":
    main(sys.argv[1])
