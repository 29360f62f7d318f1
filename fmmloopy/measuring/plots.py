"""Figures: the ladder of a book as bars, with the roofline; the error of a function against the order."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fmmloopy.common.messages import require

if TYPE_CHECKING:
    from fmmloopy.measuring.ladder import Ladder, LadderReport, Rung
    from fmmloopy.measuring.verify import Convergence

SUFFIXES = (".png", ".pdf", ".svg")

COLUMN = 3.5
"""Width of a text column in inches: font sizes in the figure are true at this width."""

# Okabe and Ito's colours, which remain distinct for colour-blind readers and in grey.
SEQUENTIAL_COLOUR, STEP_COLOUR, WRONG_COLOUR, LIMIT_COLOUR = "#999999", "#56B4E9", "#D55E00", "#000000"
LAST_COLOUR = "#0072B2"

_FONT = 7.5
_BAR, _PITCH, _MARGIN = 0.15, 0.37, 0.72  # inches: height of a bar, from bar to bar, above and below the bars


def check_plot(path: Path) -> None:
    """Make sure that a figure can be written to a file.

    Raises:
        MissingPackageError: matplotlib is not installed.
        ValueError: the suffix is not one of SUFFIXES, or there is no such folder.
    """
    require("matplotlib", "plot", "pictures")
    if path.suffix not in SUFFIXES or not path.absolute().parent.is_dir():
        raise ValueError(
            f"plot is {path}, expected a {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} in a folder that exists"
        )


def draw_ladders(report: LadderReport, path: Path) -> None:
    """Draw the rate after every step of every operator, against the limit that binds.

    Args:
        report: the measurements, with at least one ladder.
        path: the file to write; its suffix, one of SUFFIXES, determines the format.

    Raises:
        MissingPackageError: matplotlib is not installed.
        ValueError: the path is invalid, or there is no ladder.
    """
    check_plot(path)
    import matplotlib as mpl
    from matplotlib.figure import Figure

    if not report.ladders:
        raise ValueError("no operator was timed, so there is nothing to draw")
    columns = 1 if len(report.ladders) == 1 else 2
    rows = [report.ladders[i : i + columns] for i in range(0, len(report.ladders), columns)]
    heights = [_MARGIN + _PITCH * max(len(ladder.rungs) for ladder in row) for row in rows]
    foot = 0.4
    options: Any = {"font.size": _FONT, "pdf.fonttype": 42, "svg.fonttype": "none", "font.family": "sans-serif"}
    with mpl.rc_context(options):
        width, height = COLUMN * columns, sum(heights) + foot
        figure = Figure(figsize=(width, height))
        top = height
        for row, tall in zip(rows, heights, strict=True):
            for place, ladder in enumerate(row):
                left, bars = place * COLUMN + 0.1, _PITCH * len(ladder.rungs)
                low = top - 0.32 - bars
                box = (left / width, low / height, (COLUMN - 0.2) / width, bars / height)
                _draw_ladder(figure.add_axes(box), ladder)
            top -= tall
        notes = ("rate, share of the limit, gain of the step", f"{report.book}, {report.setting}", report.device)
        for line, note in enumerate(notes):
            low = (0.31 - 0.12 * line) / height
            figure.text(0.1 / width, low, _shortened(note, 62 * columns), size=_FONT - 1.5, color="0.3")
        figure.savefig(path, dpi=300)


def draw_convergence(found: Convergence, path: Path) -> None:
    """Draw the errors of a function against the order, with what was expected and the fitted line.

    Args:
        found: the errors.
        path: the file to write; its suffix, one of SUFFIXES, determines the format.

    Raises:
        MissingPackageError: matplotlib is not installed.
        ValueError: the path is invalid.
    """
    check_plot(path)
    import matplotlib as mpl
    from matplotlib.figure import Figure

    options: Any = {"font.size": _FONT, "pdf.fonttype": 42, "svg.fonttype": "none", "font.family": "sans-serif"}
    with mpl.rc_context(options):
        figure = Figure(figsize=(COLUMN, 0.75 * COLUMN), layout="constrained")
        axes = figure.add_subplot()
        axes.semilogy(found.orders, found.errors, "o", color=LAST_COLOUR, label="whole evaluations", zorder=3)
        expected = [value if math.isfinite(value) and value > 0 else math.nan for value in found.expected]
        axes.semilogy(found.orders, expected, "x", color=WRONG_COLOUR, label="expected")
        if math.isfinite(found.digits_per_order):
            line = [10 ** -(found.digits_per_order * order + found.offset) for order in found.orders]
            label = f"fit: {found.digits_per_order:.2f} digits per order"
            axes.semilogy(found.orders, line, "-", color=SEQUENTIAL_COLOUR, linewidth=1, label=label)
        axes.set_title(f"{found.kernel}, {found.points}", loc="left", size=_FONT)
        axes.set(xlabel="order", ylabel="relative error in the 2-norm", xticks=list(found.orders))
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        figure.savefig(path, dpi=300)


def _draw_ladder(axes: Any, ladder: Ladder) -> None:
    """Draw one operator: the name of a step above its bar, rate, share of the limit and gain at its end."""
    limit = ladder.rate(ladder.roofline.seconds)
    rates = [ladder.rate(rung.timing.median) if rung.timing else 0.0 for rung in ladder.rungs]
    right = 1.02 * max(limit, *rates)
    for place, (rung, rate) in enumerate(zip(ladder.rungs, rates, strict=True)):
        last = place == len(rates) - 1
        colour = SEQUENTIAL_COLOUR if rung.number == 0 else LAST_COLOUR if last else STEP_COLOUR
        name = rung.name if rung.number == 0 else f"{rung.number}  {rung.name}"
        bar = _BAR / _PITCH
        axes.text(0.012 * right, place - bar / 2 - 0.06, name, va="bottom", ha="left")
        if rung.wrong:
            axes.barh(place, 0.08 * right, bar, color="white", edgecolor=WRONG_COLOUR, hatch="//////", linewidth=0.8)
            axes.text(0.092 * right, place, "WRONG", color=WRONG_COLOUR, weight="bold", va="center")
            continue
        axes.barh(place, rate, bar, color=colour)
        _write_beside(axes, rate, right, place, _label(ladder, rung, rate))
    axes.axvline(limit, color=LIMIT_COLOUR, linewidth=1, linestyle=(0, (4, 2)))
    missing = f", without {' and '.join(ladder.roofline.uncounted)}" if ladder.roofline.uncounted else ""
    title = f"{ladder.roofline.binding} limit {limit:.3g} {ladder.unit}{missing}"
    axes.set_title(ladder.operator, loc="left", weight="bold", size=_FONT + 1.5, pad=4)
    axes.text(limit, -0.62, title, ha="right", va="bottom", clip_on=False)
    axes.set(xlim=(0, right), ylim=(len(rates) - 0.5 - 0.1, -0.6), yticks=[])
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(ladder.unit, loc="right", size=_FONT - 1, labelpad=0)
    axes.tick_params(length=2, pad=2, labelsize=_FONT - 1)


def _label(ladder: Ladder, rung: Rung, rate: float) -> str:
    """Return a rate with its share of the limit and the gain of the step."""
    assert rung.timing is not None
    share = ladder.roofline.share(rung.timing.median)
    text = f"{rate:.3g} {ladder.unit}, {format_share(share)}"
    if rung.gain is None:
        return text
    return f"{text}, {rung.gain.ratio:.3g}x" if rung.gain.is_one else f"{text}, no difference"


def _write_beside(axes: Any, rate: float, right: float, place: int, text: str) -> None:
    """Write at the end of a bar: outside if there is room, else inside."""
    if rate < 0.55 * right:
        axes.text(rate + 0.012 * right, place, text, va="center", ha="left")
    else:
        axes.text(rate - 0.012 * right, place, text, va="center", ha="right", color="white", weight="bold")


def format_share(share: float) -> str:
    """Return a share in percent, with a decimal if it is small."""
    return f"{share:.0%}" if share >= 0.095 else f"{share:.1%}"


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
