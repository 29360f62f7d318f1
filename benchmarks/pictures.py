"""Results as pictures, each drawn from what was measured and left out where nothing was."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.results import OperatorTime, Results, results_text
from benchmarks.suite import NAMES
from fmmloopy.common.sizes import count_points
from fmmloopy.measuring.plots import (
    LAST_COLOUR,
    LIMIT_COLOUR,
    SEQUENTIAL_COLOUR,
    STEP_COLOUR,
    WRONG_COLOUR,
    format_share,
)

COLOURS = (LAST_COLOUR, "#E69F00", "#009E73", "#CC79A7", STEP_COLOUR)
"""Of runtimes, in their order; by Okabe and Ito."""

PEER_COLOUR, SINGLE_COLOUR = WRONG_COLOUR, STEP_COLOUR

WIDTH = 7.2
"""Inches."""


def draw_pictures(results: Results, folder: Path) -> list[Path]:
    """Draw all pictures that the results have data for, as .png files in a folder.

    Args:
        results: what was measured.
        folder: it exists.

    Returns:
        The files.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    written, source = [], digest(results)
    options: Any = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False}
    for name, (draw, height) in PICTURES.items():
        with mpl.rc_context(options):
            figure = Figure(figsize=(WIDTH, height), layout="constrained")
            if draw(results, figure.add_subplot()):
                written.append(folder / f"{name}.png")
                figure.savefig(written[-1], dpi=150, metadata={"Source": source})
    return written


def digest(results: Results) -> str:
    """Return what the pictures say that they were drawn from."""
    return f"records {hashlib.sha256(results_text(results).encode()).hexdigest()[:16]}"


def pictures_of(results: Results) -> list[str]:
    """Return the names of the files that `draw_pictures` writes."""
    there = {
        "work_precision": results.find_evaluations(group="accuracy"),
        "sizes": results.find_evaluations(group="sizes"),
        "shares": _barred(results),
        "inside": _barred(results),
        "steps": [s for s in results.steps if s.seconds],
    }
    return [f"{name}.png" for name in PICTURES if there[name]]


def draw_work_precision(results: Results, axes: Any) -> bool:
    """Draw seconds against errors: ours in both precisions, with and without the tree, and other libraries'."""
    found = results.find_evaluations(group="accuracy")
    if not found:
        return False
    points = found[0].points
    for dtype, colour, name in (("float64", COLOURS[0], "f64"), ("float32", SINGLE_COLOUR, "f32")):
        ours = sorted((e for e in found if e.dtype == dtype), key=lambda e: -e.error)
        if not ours:
            continue
        errors, label = [e.error for e in ours], f"fmmloopy, {name}"
        axes.plot(errors, [e.evaluate for e in ours], "o-", color=colour, label=f"{label}: evaluate")
        whole = [e.evaluate + e.preparation for e in ours]
        axes.plot(errors, whole, "o:", color=colour, markerfacecolor="white", label=f"{label}: with its tree")
        for e in ours:
            axes.annotate(
                f"{e.digits:g}", (e.error, e.evaluate), (0, -12), textcoords="offset points", ha="center", size=7
            )
    peers = sorted((p for p in results.peers if p.points == points), key=lambda p: -p.error)
    if peers:
        threads = max(1, round(peers[0].cpu / peers[0].seconds))
        label = f"{peers[0].library}, {threads} thread{'s' if threads > 1 else ''}: with its tree"
        axes.plot([p.error for p in peers], [p.seconds for p in peers], "s-", color=PEER_COLOUR, label=label)
        for p in peers:
            axes.annotate(f"{p.eps:g}", (p.error, p.seconds), (0, 6), textcoords="offset points", ha="center", size=7)
    axes.set(xscale="log", yscale="log", xlabel="relative error in the 2-norm", ylabel="seconds")
    axes.margins(y=0.1)  # room for the numbers below the first points
    axes.invert_xaxis()
    axes.grid(alpha=0.25)
    asked = ", numbers: digits asked for" + (", eps" if peers else "")
    _title(
        axes,
        f"Time against error, {points:,} points on the sphere",
        f"{found[0].runtime}, {_processor(results)}{asked}",
    )
    axes.figure.legend(fontsize=7.5, loc="outside lower center", ncols=3)
    return True


def draw_sizes(results: Results, axes: Any) -> bool:
    """Draw microseconds per point against the number of points."""
    found = results.find_evaluations(group="sizes")
    if not found:
        return False
    for runtime, colour in _coloured(results):
        ours = sorted((e for e in found if e.runtime == runtime), key=lambda e: e.points)
        if not ours:
            continue
        numbers = [e.points for e in ours]
        axes.plot(
            numbers, [e.evaluate / e.points * 1e6 for e in ours], "o-", color=colour, label=f"{runtime}: evaluate"
        )
        whole = [(e.evaluate + e.preparation) / e.points * 1e6 for e in ours]
        axes.plot(numbers, whole, "o:", color=colour, markerfacecolor="white", label="with tree, lists and setup")
    axes.set(xscale="log", yscale="log", xlabel="points", ylabel="μs a point")
    axes.grid(alpha=0.25, which="both")
    _title(axes, f"Time for each point: {found[0].name}, {found[0].dtype}", _processor(results))
    axes.figure.legend(fontsize=7.5, loc="outside lower center", ncols=len(results.runtimes))
    return True


def draw_shares(results: Results, axes: Any) -> bool:
    """Draw the share of the limit that each operator reaches by itself."""

    def share(o: OperatorTime) -> float:
        return o.work.roofline(results.peaks[o.dtype]).share(min(o.kernels))

    if not _draw_bars(results, axes, share):
        return False
    axes.axvline(1, color=LIMIT_COLOUR, linewidth=1, linestyle=(0, (4, 2)))
    _title(axes, "Share of the machine's limit that each operator reaches", f"{_processor(results)}, f64, by itself")
    return True


def draw_inside(results: Results, axes: Any) -> bool:
    """Draw the share of wall time that each operator spends inside kernels, as figure 4 of the paper on PyExaFMM."""
    if not _draw_bars(results, axes, lambda o: o.inside):
        return False
    axes.set_xlim(0, 1.12)
    _title(axes, "Share of the time on the wall that is spent inside kernels", f"{_processor(results)}, f64, by itself")
    return True


def _draw_bars(results: Results, axes: Any, value: Callable[[OperatorTime], float]) -> bool:
    """Draw a bar for each operator and runtime, all in double precision."""
    found = _barred(results)
    if not found:
        return False
    orders = {o.order for o in found}
    rows = list(dict.fromkeys((o.operator, o.order) for o in found))
    colours = list(_coloured(results))
    thick = 0.8 / len(colours)
    for place, (operator, order) in enumerate(rows):
        for number, (runtime, colour) in enumerate(colours):
            for o in found:
                if (o.operator, o.order, o.runtime) == (operator, order, runtime):
                    y = place + (number - (len(colours) - 1) / 2) * thick
                    axes.barh(y, value(o), thick * 0.9, color=colour)
                    axes.text(value(o), y, f" {format_share(value(o))}", va="center", size=6.5)
    labels = [NAMES.get(operator, operator) + (f", p = {order}" if len(orders) > 1 else "") for operator, order in rows]
    axes.set_yticks(range(len(rows)), labels)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    from matplotlib.patches import Patch

    handles = [Patch(color=colour, label=runtime) for runtime, colour in colours]
    axes.figure.legend(handles=handles, loc="outside lower center", ncols=len(colours))
    return True


def _barred(results: Results) -> list[OperatorTime]:
    return [o for o in results.operators if o.dtype == "float64" and not o.gradient and o.dtype in results.peaks]


def draw_steps(results: Results, axes: Any) -> bool:
    """Draw L2P, from the sequential loop over leaves to its recipe, as figure 3 of the paper on PyExaFMM."""
    found = [s for s in results.steps if s.seconds]
    if not found:
        return False
    orders = sorted({s.order for s in found})
    names = list(dict.fromkeys((s.number, s.name) for s in found))
    thick = 0.8 / len(names)
    for place, (number, name) in enumerate(names):
        colour = SEQUENTIAL_COLOUR if not number else LAST_COLOUR if number == names[-1][0] else STEP_COLOUR
        label = f"{number}  {name}" if number else "sequential: a loop over leaves, targets and surface points"
        alpha = 1 if number in (0, names[-1][0]) else 0.35 + 0.65 * number / len(names)
        for column, order in enumerate(orders):
            here = {s.number: s.seconds for s in found if s.seconds and s.order == order}
            if number not in here:
                continue
            x = column + (place - (len(names) - 1) / 2) * thick
            axes.bar(x, here[number] * 1e3, thick * 0.92, color=colour, alpha=alpha, label=None if column else label)
            if number and 0 in here:
                gain = f"{here[0] / here[number]:.3g}×"
                axes.text(x, here[number] * 1e3, gain, ha="center", va="bottom", size=7)
    axes.set_xticks(range(len(orders)), [f"p = {order}" for order in orders])
    axes.set_ylabel("milliseconds")
    first = found[0]
    operator = NAMES.get(first.operator, first.operator)
    points = first.pairs / count_points(first.order)
    title = f"{operator} after every step of its recipe, and how many times as fast"
    _title(axes, title, f"{first.runtime}, {_processor(results)}, f64, {points:,.0f} points")
    axes.figure.legend(fontsize=7.5, loc="outside lower center", ncols=2)
    return True


def _coloured(results: Results) -> Sequence[tuple[str, str]]:
    return [(runtime, COLOURS[i % len(COLOURS)]) for i, runtime in enumerate(results.runtimes)]


def _processor(results: Results) -> str:
    return results.machine["processor"]


def _title(axes: Any, title: str, below: str) -> None:
    """Write a title and a line below it, flush with the left edge of the axes."""
    axes.set_title(title, loc="left", weight="bold", size=10.5, pad=20)
    axes.text(0, 1.02, below, transform=axes.transAxes, size=7.5, color="0.35", va="bottom")


PICTURES: dict[str, tuple[Callable[[Results, Any], bool], float]] = {
    "work_precision": (draw_work_precision, 4.6),
    "sizes": (draw_sizes, 3.8),
    "shares": (draw_shares, 7.0),
    "inside": (draw_inside, 7.0),
    "steps": (draw_steps, 3.8),
}
"""Pictures by name: what draws them, and their height in inches."""
