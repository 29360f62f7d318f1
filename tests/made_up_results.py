"""Made-up results of the benchmarks: 1 μs for a point, 2 Gpairs/s, 80 GFLOP/s."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import suite
from benchmarks.results import Amount, Evaluation, OperatorTime, Peer, Results, Step, sum_up_runs
from benchmarks.suite import EvaluationCase, OperatorCase, StepsCase
from fmmloopy.measuring.bench import WHOLE
from fmmloopy.measuring.peaks import Peaks
from fmmloopy.measuring.probes import NEWTON, SQRT_DIV

RUNTIMES = {"PoCL 3.0": "3.0-rc2", "PoCL 3.1": "3.1+debian", "Intel": "2026.22"}
PEAKS = {
    "float64": Peaks("a processor", "float64", 100e9, {SQRT_DIV: 2e9, NEWTON: 4e9}, 40e9),
    "float32": Peaks("a processor", "float32", 200e9, {SQRT_DIV: 6e9, NEWTON: 9e9}, 40e9),
}
MACHINE = {"processor": "a processor, 2 processors", "vectors": "AVX2", "cores": "2", "memory": "16 GB"}


def made_up(case: suite.Case, runtime: str) -> list:
    """Return what a case could have measured: 1 μs for a point, 2 Gpairs/s, 80 GFLOP/s."""
    if isinstance(case, EvaluationCase):
        times = {WHOLE: 1.0, "p2p": 0.6, "m2l_hadamard": 0.375, "clear": 0.005}
        work = {"p2p": Amount(1200, 14400, 64), "m2l_hadamard": Amount(0, 30000, 64)}
        return [
            Evaluation(
                *(runtime, case.group, case.name, case.points, case.distribution, case.dtype, case.digits),
                *(case.order or 5, 125, "fft", "double", 0.5 * 10.0 ** -(case.digits or 6)),
                *(5.9 if case.cold else 0.9, 800 * case.points),
                {"tree": 0.2, "lists": 0.1, "tables": 0.01, "setup": 0.3},
                1.0,
                *sum_up_runs(
                    {name: [case.points * share * 1e-6 * s for s in (1.1, 1, 1.2)] for name, share in times.items()}
                ),
                1.9e-6 * case.points,
                {name: Amount(*(n * case.points for n in vars(amount).values())) for name, amount in work.items()},
                2.4e-6 * case.points if case.moving else None,
            )
        ]
    if isinstance(case, OperatorCase):
        work = {name: Amount(2 * 10**9, 24 * 10**9, 10**6) for name in suite.PARTICLES}
        work |= {name: Amount(0, 80 * 10**9, 10**6) for name in (*suite.TRANSLATIONS, "m2l_svd")}
        what = case.points, case.distribution, case.order, case.ncrit or 150, case.dtype, case.gradient
        return [
            OperatorTime(runtime, name, *what, [50, 120, 300], [1.1, 1.0], 0.98, work[name]) for name in case.operators
        ]
    if isinstance(case, StepsCase):
        names = ("sequential", "targets in lanes", "one work-group per box")
        what = runtime, "a_book", case.operator, case.order
        return [Step(*what, i, name, 0.1 / (i + 1), case.points * 56) for i, name in enumerate(names)]
    return [Peer(case.library, "2.1.0", case.points, case.distribution, case.eps, case.eps, 9.0, 9.0, 10**9)]


def make_results() -> Results:
    """A full run, made up."""
    found = Results(dict(MACHINE), {"fmmloopy": "0.1.0"}, "abc1234", "2026-11-01T10:00", dict(RUNTIMES), dict(PEAKS))
    for runtime in RUNTIMES:
        for case in suite.full_suite():
            if case.everywhere or runtime == "PoCL 3.0":
                found.add(made_up(case, runtime))
    return found
