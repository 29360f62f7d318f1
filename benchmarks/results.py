"""What was measured: records, the machine that they belong to, and files that hold a record a line."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from fmmloopy.choosing.work import Work
from fmmloopy.common.store import write_atomically
from fmmloopy.greens import laplace
from fmmloopy.measuring.bench import WHOLE
from fmmloopy.measuring.peaks import Peaks
from fmmloopy.measuring.roofline import Roofline, roofline
from fmmloopy.measuring.timing import Timing, compare
from fmmloopy.operators import OPERATORS
from fmmloopy.precision import PRECISIONS

FORMAT = 3
"""Increase whenever files of results would no longer be comparable."""

DIGITS = 5
"""Significant digits of the numbers in a file: two more than most tables show, so that ratios come out the same."""


@dataclass(frozen=True)
class Amount:
    """The work of an operator: pairs, operations (`fmmloopy.choosing.work`), bytes (`fmmloopy.measuring.roofline`)."""

    pairs: int
    flops: int
    nbytes: int

    def roofline(self, peaks: Peaks) -> Roofline:
        """Return what a processor allows, for Laplace's Green's function."""
        return roofline(Work(self.pairs, self.flops), self.nbytes, peaks, laplace())


@dataclass(frozen=True)
class Evaluation:
    """Whole evaluations in one process.

    Attributes:
        runtime: label of the device's runtime, see `benchmarks.machine.runtime_label`.
        group, name, points, distribution, dtype, digits: of the case.
        order, ncrit, m2l, precision: what `fmmloopy.Fmm` has chosen.
        error: relative, in the 2-norm, against the direct sum at random targets of each draw of charges.
        first: seconds from the start of the process to its first potentials.
        memory: most bytes that the process has held until then.
        construction: seconds by stage of building it (tree, choice, lists, tables, setup), the better of two,
            or the only one for more than a million points.
        construction_cpu: core-seconds of that.
        seconds: of each operator, in its fastest run.
        runs: seconds of each call of ``evaluate`` by the clock on the wall.
        outside: seconds outside kernels: the median of the runs, since a single one may be lucky.
        cpu: core-seconds of the run that took fewest.
        work: by operator.
        update: seconds of ``update`` with moved points and one evaluation, the best of several; None if not measured.
    """

    runtime: str
    group: str
    name: str
    points: int
    distribution: str
    dtype: str
    digits: float | None
    order: int
    ncrit: int
    m2l: str
    precision: str
    error: float
    first: float
    memory: int
    construction: dict[str, float]
    construction_cpu: float
    seconds: dict[str, float]
    runs: list[float]
    outside: float
    cpu: float
    work: dict[str, Amount]
    update: float | None = None

    @property
    def evaluate(self) -> float:
        """Seconds of the fastest run."""
        return min(self.runs)

    @property
    def outside_share(self) -> float:
        """Share of an evaluation outside kernels, of medians."""
        return self.outside / median(self.runs)

    @property
    def preparation(self) -> float:
        """Seconds of the construction: tree, choice, lists, tables, and the setup with all uploads."""
        return sum(self.construction.values())

    def computed_in(self, operator: str) -> str:
        """Return what an operator computes in: float32 or float64."""
        precision = PRECISIONS[self.precision]
        if operator not in OPERATORS:  # setting expansions to zero
            return str(precision.expansions.name)
        return str(OPERATORS[operator].types_in(precision).inner.name)

    def least(self, peaks: Mapping[str, Peaks]) -> float:
        """Return seconds that no schedule of this work can beat: the limits of the operators, one after the other.

        Args:
            peaks: by what operators compute in.
        """
        return sum(amount.roofline(peaks[self.computed_in(name)]).seconds for name, amount in self.work.items())


@dataclass(frozen=True)
class OperatorTime:
    """One operator by itself.

    Attributes:
        runtime: label of the device's runtime.
        operator, points, distribution, order, ncrit, dtype, gradient: what was timed, on what.
        leaf_sizes: how many points share the leaf of a point: the 5th, 50th and 95th percentile.
        kernels: seconds of each run inside its kernels.
        inside: share of the time on the wall that is spent in kernels, in the run that took least.
        work: what it did.
    """

    runtime: str
    operator: str
    points: int
    distribution: str
    order: int
    ncrit: int
    dtype: str
    gradient: bool
    leaf_sizes: list[int]
    kernels: list[float]
    inside: float
    work: Amount

    @property
    def rate(self) -> float:
        """Pairs of points, or else operations, per second, in the fastest run."""
        return (self.work.pairs or self.work.flops) / min(self.kernels)


@dataclass(frozen=True)
class Step:
    """An operator after one step of a recipe.

    Attributes:
        runtime, book, operator, order: what was timed.
        number, name: of the step; 0 for the sequential kernel.
        seconds: of the fastest run; None if the step is wrong.
        pairs: what it did.
        wrong: what is wrong with it.
    """

    runtime: str
    book: str
    operator: str
    order: int
    number: int
    name: str
    seconds: float | None
    pairs: int
    wrong: str = ""


@dataclass(frozen=True)
class Peer:
    """One evaluation of another library.

    Attributes:
        library, version: which.
        points, distribution, eps: what it was asked for.
        error: relative, in the 2-norm, as for `Evaluation`.
        seconds, cpu: on the wall, and of all cores together, of the fastest run.
        memory: most bytes that the process has held.
    """

    library: str
    version: str
    points: int
    distribution: str
    eps: float
    error: float
    seconds: float
    cpu: float
    memory: int


Record = Evaluation | OperatorTime | Step | Peer

KINDS: Mapping[str, type[Record]] = {
    "evaluations": Evaluation,
    "operators": OperatorTime,
    "steps": Step,
    "peers": Peer,
}
"""Attributes of `Results` that are lists, and what of."""


@dataclass(frozen=True)
class Results:
    """All that one run has measured.

    Attributes:
        machine: processor, cores, memory and so on, see `benchmarks.machine.describe_machine`.
        versions: of the packages that matter.
        commit: of the clone; None without git.
        date: when the run began, such as 2026-11-22T16:20, in UTC.
        runtimes: driver by label of the runtime, in the order of the tables.
        peaks: of the processor by precision.
        evaluations, operators, steps, peers: what was measured.
        left_out, failed: what was not, and why.
        disturbed: cases during which the machine was slower than at other times.
        suite: which cases were asked for: ``"full"``, ``"quick"``, or ``"part"`` of them.
    """

    machine: dict[str, str]
    versions: dict[str, str]
    commit: str | None
    date: str
    runtimes: dict[str, str]
    peaks: dict[str, Peaks]
    evaluations: list[Evaluation] = field(default_factory=list)
    operators: list[OperatorTime] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    peers: list[Peer] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    disturbed: list[str] = field(default_factory=list)
    suite: str = "full"

    def add(self, records: Sequence[Record]) -> None:
        """Take up what one case has given."""
        for record in records:
            getattr(self, next(name for name, kind in KINDS.items() if isinstance(record, kind))).append(record)

    def find_evaluations(self, **wanted: Any) -> list[Evaluation]:
        """Return the evaluations whose attributes have these values."""
        return [e for e in self.evaluations if _has(e, wanted)]

    def find_operators(self, **wanted: Any) -> list[OperatorTime]:
        """Return the times of operators whose attributes have these values."""
        return [o for o in self.operators if _has(o, wanted)]


def _has(record: Any, wanted: Mapping[str, Any]) -> bool:
    return all(getattr(record, name) == value for name, value in wanted.items())


# -- runs


def sum_up_runs(seconds: Mapping[str, Sequence[float]]) -> tuple[dict[str, float], list[float], float]:
    """Return what `Evaluation` keeps of several runs.

    Args:
        seconds: by operator, and for WHOLE, one for each run.

    Returns:
        Of each operator the fastest; of the whole all; and the median of what is outside kernels.
    """
    whole = list(seconds[WHOLE])
    kernels = {name: runs for name, runs in seconds.items() if name != WHOLE}
    outside = median(all_of_it - sum(run) for all_of_it, *run in zip(whole, *kernels.values(), strict=True))
    return {name: min(runs) for name, runs in kernels.items()}, whole, float(outside)


def share_inside(kernels: Sequence[float], wall: Sequence[float]) -> float:
    """Return the share of the time on the wall that is inside kernels, in the run that took least."""
    best = wall.index(min(wall))
    return kernels[best] / wall[best]


# -- files


def write_results(results: Results, path: Path) -> None:
    """Write results to a file, see `results_text`."""
    write_atomically(path, results_text(results))


def results_text(results: Results) -> str:
    """Return results as JSON Lines: what belongs to all of them, then the peaks and the records, one a line."""
    fields = asdict(results)
    lists = {kind.__name__: fields.pop(name) for name, kind in KINDS.items()}
    peaks = {Peaks.__name__: list(fields.pop("peaks").values())}
    records = [{"kind": kind, **record} for kind, found in (peaks | lists).items() for record in found]
    lines = [json.dumps(_rounded(line), allow_nan=False) for line in ({"format": FORMAT, **fields}, *records)]
    return "\n".join(lines) + "\n"


def _rounded(value: Any) -> Any:
    """Round the numbers of a record that are not whole to DIGITS."""
    if isinstance(value, Mapping):
        return {name: _rounded(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_rounded(entry) for entry in value]
    return _round(value) if isinstance(value, float) else value


def _round(number: float) -> float | int:
    rounded = float(f"{number:.{DIGITS}g}")
    return int(rounded) if abs(rounded) >= 10**DIGITS else rounded


def read_results(path: Path) -> Results:
    """Read what `write_results` has written.

    Raises:
        ValueError: the file cannot be read, or holds something else.
    """
    try:
        first, *lines = path.read_text().splitlines() or [""]
        # Files of format 2 and before were one object over many lines, which begin with "{" alone.
        stored = json.loads(first) if first.strip() != "{" else {"format": "2 or before"}
        if (found := stored.pop("format")) != FORMAT:
            raise ValueError(f"its format is {found}, expected {FORMAT}: run the benchmarks again")
        results = Results(**stored, peaks={})
        for line in lines:
            entry = json.loads(line)
            if entry["kind"] == Peaks.__name__:
                peaks = Peaks(**{name: value for name, value in entry.items() if name != "kind"})
                results.peaks[peaks.dtype] = peaks
            else:
                results.add([record_from_dict(entry)])
        return results
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} holds no results of the benchmarks: {type(error).__name__}: {error}") from None


def record_from_dict(entry: Mapping[str, Any]) -> Record:
    """Return the record that ``{"kind": name of its class, **asdict(record)}`` stands for."""
    kinds = {kind.__name__: kind for kind in KINDS.values()}
    kind, values = kinds[entry["kind"]], {name: value for name, value in entry.items() if name != "kind"}
    if kind is Evaluation:
        values["work"] = {name: Amount(**amount) for name, amount in values["work"].items()}
        if not values["runs"]:
            raise ValueError("an evaluation without a run")
    elif kind is OperatorTime:
        values["work"] = Amount(**values["work"])
    return kind(**values)


# -- one run against another


def compare_results(new: Results, old: Results) -> list[tuple[str, ...]]:
    """Compare evaluations and operators that both have.

    Returns:
        Rows: runtime, what, milliseconds before and now (medians), and how they compare.
    """
    rows: list[tuple[str, ...]] = []
    for label, now, before in _matching(new, old):
        difference = compare(now, before)
        rows.append((*label, f"{before.median * 1e3:.3g}", f"{now.median * 1e3:.3g}", str(difference)))
    return rows


def _matching(new: Results, old: Results) -> list[tuple[tuple[str, str], Timing, Timing]]:
    earlier, later = _timings(old), _timings(new)
    return [(label, timing, earlier[label]) for label, timing in later.items() if label in earlier]


def _timings(results: Results) -> dict[tuple[str, str], Timing]:
    """Return times by runtime and what was timed."""
    found: dict[tuple[str, str], Timing] = {}
    for e in results.evaluations:
        label = e.runtime, f"{e.group}: {e.name}, {e.points:,} points, {e.dtype}"
        others = found[label].seconds if label in found else ()  # several processes of group start
        found[label] = Timing((*others, *e.runs))
    for o in results.operators:
        gradient = ", gradient" if o.gradient else ""
        what = f"{o.operator}: {o.distribution}, order {o.order}, {o.points:,} points, {o.dtype}{gradient}"
        found[o.runtime, what] = Timing(tuple(o.kernels))
    return found
