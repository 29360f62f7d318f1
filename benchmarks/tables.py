"""Results as tables in Markdown, for the terminal, a file and the documentation alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import starmap

from benchmarks.results import Evaluation, OperatorTime, Peer, Results
from benchmarks.suite import GROUPS, NAMES
from benchmarks.targets import THEIR_PEAKS, Verdict, format_value
from fmmloopy.accuracy import ERRORS
from fmmloopy.common.sizes import FIRST_ORDER
from fmmloopy.measuring.peaks import Peaks
from fmmloopy.measuring.plots import format_share
from fmmloopy.measuring.probes import SQRT_DIV

NOTHING = "–"

SOLUTIONS = (1, 10, 1000)
"""Numbers of evaluations for the same points."""


def make_tables(
    results: Results,
    verdicts: Sequence[Sequence[Verdict]],
    elsewhere: Sequence[tuple[Results, Sequence[Sequence[Verdict]]]] = (),
) -> dict[str, str]:
    """Return all tables and lists by name, each a block of Markdown; what was not measured says so.

    Args:
        results: what was measured.
        verdicts: see `benchmarks.targets.judge`.
        elsewhere: results of other processors, with their verdicts.
    """
    tables = {
        "machine": machine_list(results),
        "peaks": peaks_table(results),
        "targets": targets_table(results, verdicts),
        "details": details_table(results, verdicts),
        "misses": misses_list(verdicts),
        "elsewhere": "\n\n".join(starmap(elsewhere_section, elsewhere)) or "None are kept.",
        "evaluations": evaluations_table(results, "evaluate"),
        "operators": operators_table(results),
        "shares": shares_table(results),
        "inside": inside_table(results),
        "sizes": sizes_table(results),
        "starts": evaluations_table(results, "start"),
        "accuracy": evaluations_table(results, "accuracy"),
        "steps": steps_table(results),
        "peers": peers_table(results),
        "solutions": solutions_table(results),
        "errors": errors_table(),
        "left_out": "\n".join(f"- {line}" for line in (*results.left_out, *results.failed)) or "Nothing.",
        "disturbed": "\n".join(f"- {line}" for line in results.disturbed) or "None.",
    }
    return {name: text or "Not measured." for name, text in tables.items()}


def make_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown; empty if it has no rows."""
    lines = [f"| {' | '.join(cell.replace('|', '∣') for cell in row)} |" for row in rows]
    if not lines:
        return ""
    return "\n".join([f"| {' | '.join(headings)} |", "|---" * len(headings) + "|", *lines])


# -- the machine


def machine_list(results: Results) -> str:
    """List the machine, the runtimes and the versions."""
    machine = dict(results.machine)
    processor = f"{machine.pop('processor')}, {machine.pop('vectors', 'vectors unknown')}"
    lines = [f"processor: {processor}", *(f"{name}: {value}" for name, value in machine.items())]
    lines += [f"runtimes: {', '.join(f'{label} ({driver})' for label, driver in results.runtimes.items())}"]
    versions = ", ".join(f"{package} {version}" for package, version in results.versions.items())
    at = f" at commit {results.commit}" if results.commit else ""
    lines += [f"measured: {results.date.replace('T', ', ')} UTC"]
    return "\n".join(f"- {line}" for line in [*lines, f"versions: {versions}{at}"])


def peaks_table(results: Results) -> str:
    """List what the processor can do, beside what the machine of the targets could."""
    rows = []
    for peaks in (*results.peaks.values(), THEIR_PEAKS):
        name = f"the machine of the targets ({peaks.processor})" if peaks is THEIR_PEAKS else "this machine"
        others = ", ".join(f"{way} {rate * 1e-9:.3g}" for way, rate in peaks.rsqrt_by.items() if way != SQRT_DIV)
        sqrt_div = f"{peaks.rsqrt_by[SQRT_DIV] * 1e-9:.3g}" if SQRT_DIV in peaks.rsqrt_by else NOTHING
        busy = "; other programs ran" if peaks.busy else ""
        rows.append(
            (
                f"{name}, {peaks.dtype}{busy}",
                *(f"{peaks.fma * 1e-9:.4g}", sqrt_div, others, f"{peaks.bandwidth * 1e-9:.3g}"),
            )
        )
    return make_table(("", "FMA, GFLOP/s", "sqrt + div, G/s", "other ways to 1/√r², G/s", "memory, GB/s"), rows)


# -- targets


def targets_table(results: Results, verdicts: Sequence[Sequence[Verdict]]) -> str:
    """List every target with what was reached on every runtime, and whether it was met."""
    rows = [(row[0].target.what, row[0].target.describe(), *map(_verdict, row)) for row in verdicts if row]
    return make_table(("what", "target", *results.runtimes), rows)


def _verdict(verdict: Verdict) -> str:
    if verdict.reached is None:
        return "not measured"
    value = format_value(verdict.reached.value, verdict.target.unit)
    lacks = f" ({verdict.reached.lacks})" if verdict.reached.lacks else ""
    return f"{value}, met" if verdict.is_met else f"**{value}, missed{lacks}**"


def details_table(results: Results, verdicts: Sequence[Sequence[Verdict]]) -> str:
    """List what else there is to say of what was reached."""
    rows = [(row[0].target.what, *(v.reached.note if v.reached else NOTHING for v in row)) for row in verdicts if row]
    return make_table(("what", *results.runtimes), [row for row in rows if set(row[1:]) != {NOTHING}])


def misses_list(verdicts: Sequence[Sequence[Verdict]]) -> str:
    """List the misses with their reasons; runtimes with the same reason together."""
    lines = []
    for row in verdicts:
        missed: dict[str, list[str]] = {}
        for verdict in row:
            if verdict.is_missed:
                missed.setdefault(verdict.reason or "no reason is given yet.", []).append(verdict.runtime)
        lines += [f"- {row[0].target.what} ({', '.join(runtimes)}): {why}" for why, runtimes in missed.items()]
    return "\n".join(lines) or "None of those that were measured."


def elsewhere_section(results: Results, verdicts: Sequence[Sequence[Verdict]]) -> str:
    """Return the targets on another processor, with what it can do and the reasons of misses."""
    at = f", at commit {results.commit}" if results.commit else ""
    at += f", {results.date[:10]}"
    peaks = "; ".join(f"{dtype} {each}" for dtype, each in results.peaks.items())
    heading = f"### {results.machine['processor']}"
    return "\n\n".join(
        (
            heading,
            f"{peaks}{at}.",
            targets_table(results, verdicts),
            "Missed targets, and the reasons:",
            misses_list(verdicts),
        )
    )


# -- whole evaluations


def evaluations_table(results: Results, group: str) -> str:
    """List the evaluations of a group: what was chosen, the error, times, the share of the limit, memory."""
    rows = []
    for e in _best_of_processes(results, group):
        chosen = f"{e.order}, {e.ncrit}, {e.m2l}" + (f", {e.precision}" if e.precision else "")
        times = _seconds(e.evaluate), _limit_share(results, e), format_share(e.outside_share)
        others = _seconds(e.preparation), f"{e.memory * 1e-9:.2f} GB"
        rows.append((e.name, f"{e.points:,}", e.dtype, e.runtime, chosen, f"{e.error:.1e}", *times, *others))
    headings = (
        *("case", "points", "data", "runtime", "order, ncrit, M2L", "error", "evaluate", "of the limit"),
        *("outside kernels", "tree, lists, setup", "memory"),
    )
    return make_table(headings, rows)


def _best_of_processes(results: Results, group: str) -> list[Evaluation]:
    """Return the evaluations of a group as they were measured, of those of one case and runtime the fastest."""
    best: dict[tuple[str, ...], Evaluation] = {}
    for e in results.find_evaluations(group=group):
        key = (e.name, str(e.points), e.dtype, e.runtime)
        best[key] = min(e, best.get(key, e), key=lambda one: one.evaluate)
    return list(best.values())


def _limit_share(results: Results, e: Evaluation) -> str:
    known = {e.computed_in(name) for name in e.work} <= results.peaks.keys()
    return format_share(e.least(results.peaks) / e.evaluate) if known and e.work else NOTHING


def operators_table(results: Results) -> str:
    """List the operators of the first case of group evaluate in every runtime: seconds, share of the limit."""
    first = next(iter(results.find_evaluations(group="evaluate")), None)
    if first is None:
        return ""
    found = results.find_evaluations(group="evaluate", name=first.name, points=first.points, dtype=first.dtype)
    names = sorted({name for e in found for name in e.seconds}, key=lambda name: -first_seconds(found, name))
    rows = [(NAMES.get(name, name), *(_operator_cell(results, e, name) for e in found)) for name in names]
    rows.append(("outside kernels", *(f"{_seconds(e.outside)}, {format_share(e.outside_share)}" for e in found)))
    rows.append(("evaluate", *(f"{_seconds(e.evaluate)}, {_limit_share(results, e)} of the limit" for e in found)))
    text = make_table(("operator", *(e.runtime for e in found)), rows)
    case = f"{first.name}, {first.points:,} points, {first.dtype}, order {first.order}"
    return f"Operator by operator ({case}): seconds, share of the evaluation, rate, share of its limit.\n\n{text}"


def first_seconds(found: Sequence[Evaluation], name: str) -> float:
    """Return the seconds that an operator takes where it is first found."""
    return next((e.seconds[name] for e in found if name in e.seconds), 0.0)


def _operator_cell(results: Results, e: Evaluation, name: str) -> str:
    if name not in e.seconds:
        return NOTHING
    seconds, amount = e.seconds[name], e.work.get(name)
    cell = f"{_seconds(seconds)}, {format_share(seconds / e.evaluate)}"
    if not amount or not seconds:
        return cell
    rate = (
        f"{amount.pairs / seconds * 1e-9:.2f} Gpairs/s"
        if amount.pairs
        else f"{amount.flops / seconds * 1e-9:.0f} GFLOP/s"
    )
    peaks = results.peaks.get(e.computed_in(name))
    if not peaks:
        return f"{cell}; {rate}"
    limit = amount.roofline(peaks)
    return f"{cell}; {rate}, {format_share(limit.share(seconds))} of the limit ({limit.binding})"


# -- operators by themselves


def shares_table(results: Results) -> str:
    """List operators by themselves: time, rate and share of the limit on every runtime, and what the limit is."""
    rows = []
    for name, found in _by_name(results).items():
        peaks = results.peaks.get(found[0].dtype)
        binding = found[0].work.roofline(peaks).binding if peaks else NOTHING
        here = {o.runtime: _operator_figures(o, peaks) for o in found}
        rows.append((name, binding, *(here.get(runtime, NOTHING) for runtime in results.runtimes)))
    return make_table(("operator", "limit", *results.runtimes), rows)


def inside_table(results: Results) -> str:
    """List the share of the time on the wall that operators by themselves are inside kernels."""
    rows = []
    for name, found in _by_name(results).items():
        here = {o.runtime: f"{o.inside:.1%}" for o in found}
        rows.append((name, *(here.get(runtime, NOTHING) for runtime in results.runtimes)))
    return make_table(("operator", *results.runtimes), rows)


def _by_name(results: Results) -> dict[str, list[OperatorTime]]:
    """Return times of operators by what a reader calls them, in the order in which they were measured."""
    found: dict[str, list[OperatorTime]] = {}
    for o in results.operators:
        gradient = " with gradient" if o.gradient else ""
        name = f"{NAMES.get(o.operator, o.operator)}{gradient}, {o.distribution}, order {o.order}, {o.dtype}"
        found.setdefault(name, []).append(o)
    return found


def _operator_figures(o: OperatorTime, peaks: Peaks | None) -> str:
    unit = "Gpairs/s" if o.work.pairs else "GFLOP/s"
    share = f", {format_share(o.work.roofline(peaks).share(min(o.kernels)))}" if peaks else ""
    return f"{_seconds(min(o.kernels))}, {o.rate * 1e-9:.3g} {unit}{share}"


# -- time against points, steps, other libraries


def sizes_table(results: Results) -> str:
    """List microseconds per point and errors by number of points and runtime."""
    found = results.find_evaluations(group="sizes")
    if not found:
        return ""
    by = {(e.points, e.runtime): e for e in found}
    rows = []
    for points in sorted({e.points for e in found}):
        here = [by.get((points, runtime)) for runtime in results.runtimes]
        cells = [
            f"{_seconds(e.evaluate)}, {e.evaluate / points * 1e6:.2f} μs, {e.error:.1e}" if e else NOTHING for e in here
        ]
        rows.append((f"{points:,}", *cells))
    return f"{found[0].name}: seconds, seconds per point, error.\n\n" + make_table(("points", *results.runtimes), rows)


def steps_table(results: Results) -> str:
    """List an operator after every step of a recipe, a column for each order."""
    if not results.steps:
        return ""
    orders = sorted({s.order for s in results.steps})
    rows = []
    for number, name in dict.fromkeys((s.number, s.name) for s in results.steps):
        cells = []
        for order in orders:
            here = [s for s in results.steps if s.order == order]
            naive = next((s.seconds for s in here if s.number == 0), None)
            step = next((s for s in here if s.number == number), None)
            if step is None or not step.seconds:
                cells.append(f"wrong: {step.wrong[:60]}" if step else NOTHING)
            else:
                gain = f", {naive / step.seconds:.3g} ×" if naive and number else ""
                cells.append(f"{_seconds(step.seconds)}{gain}")
        rows.append((f"{number} {name}" if number else name, *cells))
    first = results.steps[0]
    title = f"{NAMES.get(first.operator, first.operator)} on {first.runtime}, recipe of {first.book}:"
    return f"{title}\n\n" + make_table(("step", *(f"p = {order}" for order in orders)), rows)


def peers_table(results: Results) -> str:
    """List what other libraries took, and the fastest evaluation of ours of the same points that errs no more."""
    rows = []
    for peer in sorted(results.peers, key=lambda p: (p.points, -p.eps)):
        what = f"{peer.library} {peer.version}", f"{peer.points:,}", f"{peer.eps:g}", f"{peer.error:.1e}"
        figures = _seconds(peer.seconds), _seconds(peer.cpu), f"{peer.memory * 1e-9:.2f} GB"
        rows.append((*what, *figures, *_against(_fastest(results, peer, 1), peer.seconds, peer.cpu)))
    headings = (
        *("library", "points", "eps", "error", "time", "time of all cores", "memory"),
        *("fmmloopy: construction and evaluate", "times as fast", "time of all cores: times as fast"),
    )
    return make_table(headings, rows)


def solutions_table(results: Results) -> str:
    """List the time to solution for some numbers of evaluations, of other libraries and of the fastest of ours."""
    rows = []
    for peer in sorted(results.peers, key=lambda p: (p.points, -p.eps)):
        cells = []
        for count in SOLUTIONS:
            ours = _fastest(results, peer, count)
            theirs, least = count * peer.seconds, ours and ours.preparation + count * ours.evaluate
            cells.append(f"{_seconds(theirs)}, {_seconds(least)}: {theirs / least:.3g}" if least else NOTHING)
        rows.append((f"{peer.library} {peer.version}", f"{peer.points:,}", f"{peer.error:.1e}", *cells))
    return make_table(("library", "points", "error", *map(str, SOLUTIONS)), rows)


def _fastest(results: Results, peer: Peer, count: int) -> Evaluation | None:
    """Return the fastest of our evaluations of the same points, so many times, that err no more; None if none is."""
    ours = [
        e
        for e in results.evaluations
        if (e.points, e.distribution) == (peer.points, peer.distribution) and e.error <= peer.error
    ]
    return min(ours, key=lambda e: e.preparation + count * e.evaluate, default=None)


def _against(ours: Evaluation | None, seconds: float, cpu: float) -> tuple[str, str, str]:
    if ours is None:
        return "no case with as small an error", NOTHING, NOTHING
    whole = ours.evaluate + ours.preparation
    times = f"{_seconds(whole)} ({_seconds(ours.evaluate)} evaluate)"
    what = f"{times}, error {ours.error:.1e}, {ours.dtype}, {ours.runtime}"
    return what, f"{seconds / whole:.3g}", f"{cpu / (ours.construction_cpu + ours.cpu):.3g}"


def errors_table() -> str:
    """List the errors that ``digits`` goes by, for every second order."""
    orders = range(4, FIRST_ORDER + len(ERRORS["laplace"]), 2)
    rows = [(name.capitalize(), *(f"{found[p - FIRST_ORDER]:.1e}" for p in orders)) for name, found in ERRORS.items()]
    return make_table(("order", *map(str, orders)), rows)


def _seconds(seconds: float) -> str:
    """Write a time."""
    return f"{seconds:.3g} s" if seconds > 0.0995 else f"{seconds * 1e3:.3g} ms"


def describe_groups(names: Iterable[str]) -> str:
    """Return what groups of cases are for, a line each."""
    return "\n".join(f"  {name:10} {GROUPS[name]}" for name in names)
