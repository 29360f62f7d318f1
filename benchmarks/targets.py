"""What fmmloopy is to reach, what it has reached, and why not where it has not.

Targets are ratios to limits of the machine that were measured in the same run, or seconds that belong to THEIR_PEAKS.
Reasons for misses are written by hand, in ``misses.toml``.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

from benchmarks.results import Evaluation, OperatorTime, Results
from benchmarks.suite import COLD, FIRST_CUBE, FIRST_SPHERE, MILLION, NAMES, WARM
from fmmloopy.measuring.peaks import Peaks
from fmmloopy.measuring.plots import format_share
from fmmloopy.measuring.probes import NEWTON, SQRT_DIV
from fmmloopy.operators import CHECK_TO_EQUIVALENT, M2L_FORMS

MISSES = Path(__file__).parent / "misses.toml"

FROM_PYPI, FROM_DEBIAN = "PoCL 3.0", "PoCL 3.1"
"""Labels of the runtime from PyPI, of which some targets ask for less, and of Debian's."""

THEIR_PEAKS = Peaks("2 cores of an AMD Zen 3", "float64", 98.5e9, {SQRT_DIV: 1.88e9, NEWTON: 4.2e9}, 35e9)
"""The machine that PVFMM and exafmm-t were timed on, which the seconds of the targets belong to."""


@dataclass(frozen=True)
class Reached:
    """What was measured of one target on one runtime.

    Attributes:
        value: to be held against the bound.
        note: what else a reader should know.
        lacks: what else the target asks for and is not so.
    """

    value: float
    note: str = ""
    lacks: str = ""


@dataclass(frozen=True)
class Target:
    """One row of the table.

    Attributes:
        key: its name in misses.toml.
        what: of what.
        bound, unit: what to reach: a number of ``"x"``, ``"%"``, ``"s"``, ``"ms"`` or ``"GB"``.
        reach: finds what was reached on a runtime; None if it was not measured.
        at_least: whether more is better.
        exceptions: other bounds by label of the runtime.
        remark: stands beside the bound.
    """

    key: str
    what: str
    bound: float
    unit: str
    reach: Callable[[Results, str], Reached | None]
    at_least: bool = True
    exceptions: Mapping[str, float] = field(default_factory=dict)
    remark: str = ""

    def bound_for(self, runtime: str) -> float:
        """Return the bound that holds for a runtime."""
        return self.exceptions.get(runtime, self.bound)

    def is_met(self, reached: Reached, runtime: str) -> bool:
        """Return whether this reaches the bound of a runtime, and all else holds."""
        bound = self.bound_for(runtime)
        return not reached.lacks and (reached.value >= bound if self.at_least else reached.value <= bound)

    def describe(self) -> str:
        """Return the bound as the table shows it."""
        sign = "≥" if self.at_least else "≤"
        bounds = [f"{sign} {format_value(self.bound, self.unit)}"]
        bounds += [f"{sign} {format_value(bound, self.unit)} on {label}" for label, bound in self.exceptions.items()]
        return ", ".join(bounds) + (f" ({self.remark})" if self.remark else "")


@dataclass(frozen=True)
class Verdict:
    """One target on one runtime: what was reached, None if it was not measured, and the reason of a miss."""

    target: Target
    runtime: str
    reached: Reached | None
    reason: str = ""

    @property
    def is_met(self) -> bool:
        """Whether it was measured and met."""
        return self.reached is not None and self.target.is_met(self.reached, self.runtime)

    @property
    def is_missed(self) -> bool:
        """Whether it was measured and not met."""
        return self.reached is not None and not self.is_met


Reasons = Mapping[str, Mapping[str, Mapping[str, str]]]
"""Why targets were missed: texts by processor, key of the target, and label of the runtime or ``all``."""


def format_value(value: float, unit: str) -> str:
    """Write a value with its unit."""
    if unit in ("ms", "%"):
        return f"{value * 1e3:.3g} ms" if unit == "ms" else format_share(value)
    return {"x": "{:.2f} ×", "s": "{:.3g} s", "GB": "{:.2f} GB"}[unit].format(value)


def judge(results: Results, reasons: Reasons) -> list[list[Verdict]]:
    """Hold results against all targets; reasons that were found on another processor say nothing.

    Args:
        results: what was measured.
        reasons: why some are missed.

    Returns:
        A row for each target, with a verdict for each runtime.
    """
    known = reasons.get(results.machine["processor"], {})

    def judge_one(target: Target, runtime: str) -> Verdict:
        texts = known.get(target.key, {})
        return Verdict(target, runtime, target.reach(results, runtime), texts.get(runtime, texts.get("all", "")))

    return [[judge_one(target, runtime) for runtime in results.runtimes] for target in TARGETS]


def read_reasons(path: Path = MISSES) -> Reasons:
    """Read the reasons for misses.

    Raises:
        ValueError: the file cannot be read, or names a target that is not there.
    """
    try:
        found = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{path}: {error}") from None
    keys = {target.key for target in TARGETS}
    for processor, reasons in found.items():
        if not isinstance(reasons, dict):
            raise ValueError(f"{path}: {processor} is {reasons!r}, expected tables by processor and target")
        for key, texts in reasons.items():
            if key not in keys:
                raise ValueError(f"{path}: there is no target {key!r}, expected one of {', '.join(sorted(keys))}")
            if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
                raise ValueError(f"{path}: {key} is {texts!r}, expected a text for each runtime, or for all")
    return found


# -- operators


def _p2p(gradient: bool = False) -> Callable[[Results, str], Reached | None]:
    """Return what finds the rate of P2P in units of the machine's rate of square roots with division."""

    def reach(results: Results, runtime: str) -> Reached | None:
        found = _operators(results, runtime, "p2p", gradient=gradient)
        peaks = results.peaks.get("float64")
        if not found or not peaks or SQRT_DIV not in peaks.rsqrt_by:
            return None
        low, middle, high = found[0].leaf_sizes
        leaves = f"leaves of {low} to {high} points, {middle} in the median"
        note = f"{found[0].rate * 1e-9:.2f} Gpairs/s; {leaves}"
        return Reached(found[0].rate / peaks.rsqrt_by[SQRT_DIV], note)

    return reach


def _p2p_single(results: Results, runtime: str) -> Reached | None:
    single, double = (_operators(results, runtime, "p2p", dtype) for dtype in ("float32", "float64"))
    if not single or not double:
        return None
    return Reached(single[0].rate / double[0].rate, f"{single[0].rate * 1e-9:.2f} Gpairs/s")


def _of_fma(*stages: str, apart: bool = False) -> Callable[[Results, str], Reached | None]:
    """Return what finds the share of the peak of multiply-adds, the least over all orders.

    Args:
        stages: operators.
        apart: each by itself, of which the slowest counts, and not one after the other.
    """

    def reach(results: Results, runtime: str) -> Reached | None:
        peaks = results.peaks.get("float64")
        times = [o for name in stages for o in _operators(results, runtime, name)]
        if not times or not peaks:
            return None
        shares: dict[str, float] = {}
        for order in sorted({o.order for o in times}):
            here = [o for o in times if o.order == order]
            if apart:
                shares |= {f"{NAMES[o.operator]}, p = {order}": _fma_share([o], peaks) for o in here}
            elif len(here) == len(stages):
                shares[f"p = {order}"] = _fma_share(here, peaks)
        return _least(shares)

    return reach


def _fma_share(times: Iterable[OperatorTime], peaks: Peaks) -> float:
    times = list(times)
    return sum(o.work.flops for o in times) / sum(min(o.kernels) for o in times) / peaks.fma


def _like_p2p(results: Results, runtime: str) -> Reached | None:
    """Find the rates of the other operators on particles, in units of that of P2P."""
    p2p = _operators(results, runtime, "p2p")
    if not p2p:
        return None
    others = [o for name in ("p2m", "p2l", "l2p", "m2p") for o in _operators(results, runtime, name)[:1]]
    return _least({NAMES[o.operator]: o.rate / p2p[0].rate for o in others})


def _least(shares: Mapping[str, float]) -> Reached | None:
    """Return the least share; the note has all of them."""
    return Reached(min(shares.values()), "; ".join(f"{k}: {v:.0%}" for k, v in shares.items())) if shares else None


def _operators(
    results: Results, runtime: str, operator: str, dtype: str = "float64", gradient: bool = False
) -> list[OperatorTime]:
    return results.find_operators(runtime=runtime, operator=operator, dtype=dtype, gradient=gradient)


# -- whole evaluations


def _case(results: Results, runtime: str, name: str) -> Evaluation | None:
    """Return the evaluation of a million points in a case of group evaluate."""
    found = results.find_evaluations(runtime=runtime, group="evaluate", name=name, points=MILLION)
    return found[0] if found else None


def _evaluate(name: str, error: float) -> Callable[[Results, str], Reached | None]:
    """Return what finds the seconds of a case, whose error has to be below a bound."""

    def reach(results: Results, runtime: str) -> Reached | None:
        found, peaks = _case(results, runtime, name), results.peaks.get("float64")
        if not found or not peaks:
            return None
        there = at_their_peaks(found, peaks)
        share = found.least(results.peaks) / found.evaluate
        note = f"{found.evaluate:.3g} s on this machine, {share:.0%} of the limit; error {found.error:.1e}"
        return Reached(there, note, "" if found.error <= error else f"error {found.error:.1e}")

    return reach


def at_their_peaks(found: Evaluation, peaks: Peaks) -> float:
    """Return seconds of an evaluation in double precision, scaled to the machine that the targets' seconds belong to.

    The scale is that of what the roofline allows on each, by ways to a reciprocal root that were measured on both.
    """
    both = {way: rate for way, rate in peaks.rsqrt_by.items() if way in THEIR_PEAKS.rsqrt_by}
    theirs = replace(THEIR_PEAKS, rsqrt_by={way: THEIR_PEAKS.rsqrt_by[way] for way in both})
    here = replace(peaks, rsqrt_by=both)
    return found.evaluate * found.least({peaks.dtype: theirs}) / found.least({peaks.dtype: here})


def _preparation(results: Results, runtime: str) -> Reached | None:
    found = _case(results, runtime, FIRST_SPHERE)
    if not found:
        return None
    note = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in found.construction.items())
    return Reached(found.preparation, note)


def _outside(results: Results, runtime: str) -> Reached | None:
    cases = (_case(results, runtime, name) for name in (FIRST_SPHERE, FIRST_CUBE))
    shares = {found.distribution: found.outside_share for found in cases if found}
    if not shares:
        return None
    return Reached(max(shares.values()), "; ".join(f"{where}: {share:.1%}" for where, share in shares.items()))


def _small(points: int, outside_most: float = math.inf) -> Callable[[Results, str], Reached | None]:
    """Return what finds the seconds of an evaluation of few points, of which no more than some are outside kernels."""

    def reach(results: Results, runtime: str) -> Reached | None:
        found = _starts(results, runtime, points)
        if not found:
            return None
        seconds = median(e.outside for e in found)
        outside = f"{seconds * 1e3:.2f} ms outside kernels"
        note = f"{outside}; error {found[0].error:.1e}; the median of {len(found)} processes"
        return Reached(median(e.evaluate for e in found), note, outside if seconds > outside_most else "")

    return reach


def _growth(results: Results, runtime: str) -> Reached | None:
    found = {e.points: e.evaluate / e.points for e in results.find_evaluations(runtime=runtime, group="sizes")}
    if not {100_000, 10 * MILLION} <= found.keys():
        return None
    per_point = [seconds for points, seconds in found.items() if points >= 100_000]
    low, high = min(per_point), max(per_point)
    return Reached(high / low - 1, f"{low * 1e6:.2f} to {high * 1e6:.2f} μs a point")


def _memory(results: Results, runtime: str) -> Reached | None:
    found = _case(results, runtime, FIRST_SPHERE)
    return Reached(found.memory * 1e-9, "of the whole process") if found else None


def _first(results: Results, runtime: str) -> Reached | None:
    found = _starts(results, runtime, 10_000)
    return Reached(min(e.first for e in found), f"best of {len(found)} processes") if found else None


def _starts(results: Results, runtime: str, points: int) -> list[Evaluation]:
    return results.find_evaluations(runtime=runtime, group="start", points=points, digits=6)


def _update(results: Results, runtime: str) -> Reached | None:
    """Find the time to move the points and evaluate, in evaluations, at its worst."""
    cases = results.find_evaluations(runtime=runtime, group="evaluate", points=MILLION)
    moved = {e.distribution: e.update / e.evaluate for e in cases if e.update is not None}
    if not moved:
        return None
    return Reached(max(moved.values()), "; ".join(f"{where}: {ratio:.2f}" for where, ratio in moved.items()))


def _cold(results: Results, runtime: str) -> Reached | None:
    """Find the seconds that empty caches cost the first potentials, beyond those of a warm run."""
    cold, warm = (results.find_evaluations(runtime=runtime, group="first", name=name) for name in (COLD, WARM))
    if not cold or not warm:
        return None
    seconds, least = cold[0].first, min(e.first for e in warm)
    return Reached(seconds - least, f"{seconds:.1f} s, with warm caches {least:.1f} s")


def _against_debian(results: Results, runtime: str) -> Reached | None:
    """Find how many times as long as Debian's PoCL a runtime takes for a million points, at its worst."""

    def seconds(label: str) -> dict[tuple[str, str], float]:
        found = results.find_evaluations(runtime=label, group="evaluate", points=MILLION)
        return {(e.name, e.dtype): e.evaluate for e in found}

    here, there = seconds(runtime), seconds(FROM_DEBIAN)
    ratios = {name: here[name] / there[name] for name in here if name in there}
    if not ratios:
        return None
    low, high = min(ratios, key=lambda name: ratios[name]), max(ratios, key=lambda name: ratios[name])
    note = "; ".join(f"{ratios[name]:.2f} × at {', '.join(name)}" for name in (low, high))
    return Reached(ratios[high], note)


M2L = tuple(operator.name for operator in (*M2L_FORMS["fft"], CHECK_TO_EQUIVALENT))

TARGETS = (
    Target(
        "p2p",
        "P2P, f64, ragged leaves, all lists: × the rate of sqrt + div",
        1.0,
        "x",
        _p2p(),
        exceptions={FROM_PYPI: 0.75},
    ),
    Target("p2p_gradient", "the same with gradient", 0.7, "x", _p2p(gradient=True), exceptions={FROM_PYPI: 0.525}),
    Target("p2p_single", "P2P, f32: × the rate of f64", 2.5, "x", _p2p_single),
    Target("hadamard", "M2L's products, f64: of the FMA peak", 0.70, "%", _of_fma("m2l_hadamard")),
    Target("m2l", "M2L whole, check → equivalent with it, f64: of the FMA peak", 0.45, "%", _of_fma(*M2L)),
    Target("particles", "P2M, P2L, L2P, M2P, f64: of the rate of P2P", 0.80, "%", _like_p2p),
    Target(
        "translations",
        "M2M, L2L, check → equivalent, f64: of the FMA peak",
        0.40,
        "%",
        _of_fma("m2m", "l2l", "check_to_equivalent", apart=True),
    ),
    Target(
        "preparation",
        "tree, lists and upload, 1,000,000 points on the sphere",
        0.7,
        "s",
        _preparation,
        at_least=False,
        remark="exafmm-t 0.6, without upload",
    ),
    Target(
        "sphere",
        "evaluate, 1,000,000 points on the sphere, error ≤ 1.3e-6, f64 in and out",
        1.25,
        "s",
        _evaluate(FIRST_SPHERE, 1.3e-6),
        at_least=False,
        remark="PVFMM 2.5 to 2.9, exafmm-t 3.0",
    ),
    Target(
        "cube",
        "evaluate, 1,000,000 points in the cube, error ≤ 2.7e-4, f64 in and out",
        0.9,
        "s",
        _evaluate(FIRST_CUBE, 2.7e-4),
        at_least=False,
        remark="PVFMM 1.65, exafmm-t 1.74",
    ),
    Target("outside", "time outside kernels in those two", 0.03, "%", _outside, at_least=False),
    Target(
        "small",
        "evaluate, 10,000 points in the cube, 6 digits, warm",
        0.006,
        "ms",
        _small(10_000, 1e-3),
        at_least=False,
        remark="launch overhead ≤ 1 ms",
    ),
    Target(
        "tiny",
        "evaluate, 1,000 points in the cube, 6 digits, warm",
        0.001,
        "ms",
        _small(1_000),
        at_least=False,
    ),
    Target(
        "update",
        "`update` with 1,000,000 points, and an evaluation, 6 digits: × an evaluation",
        1.5,
        "x",
        _update,
        at_least=False,
    ),
    Target(
        "growth",
        "time per point, 100,000 to 10,000,000 points on the sphere, 3 digits: slowest over fastest, less 1",
        0.25,
        "%",
        _growth,
        at_least=False,
    ),
    Target(
        "memory",
        "memory, 1,000,000 points on the sphere, p = 6, f64",
        1.0,
        "GB",
        _memory,
        at_least=False,
        remark="exafmm-t 1.27, PVFMM 2.0",
    ),
    Target(
        "first",
        "first potentials of a new process, 10,000 points, warm caches",
        1.5,
        "s",
        _first,
        at_least=False,
    ),
    Target(
        "cold",
        "first potentials of a new process, 1,000,000 points, 6 digits: empty caches beyond warm ones",
        6.0,
        "s",
        _cold,
        at_least=False,
    ),
    Target(
        "pypi",
        "evaluate, 1,000,000 points, all cases: × the time of Debian's PoCL",
        1.15,
        "x",
        _against_debian,
        at_least=False,
    ),
)
"""All targets, in the order of the table."""
