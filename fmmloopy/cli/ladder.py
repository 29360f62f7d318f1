"""``fmmloopy ladder``: how much each step of a recipe gains."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fmmloopy.cli.common import (
    DOES_NOT_HOLD,
    BookArgument,
    DeviceOption,
    JsonOption,
    OperatorOption,
    console,
    print_json,
    show_message,
    telling,
)
from fmmloopy.common.messages import counted

if TYPE_CHECKING:
    from fmmloopy.measuring.ladder import Ladder, LadderReport, Rung
    from fmmloopy.measuring.peaks import Peaks

DtypeOption = Annotated[str, typer.Option("--dtype", help="float64, float32, mixed or reduced.")]
PointsOption = Annotated[int, typer.Option("--points", "-n", help="Number of points, with a charge each.")]
DistributionOption = Annotated[
    str, typer.Option("--distribution", help="Where the points are: sphere (surface), cube (volume), or clustered.")
]
OrderOption = Annotated[int, typer.Option("--order", "-p", help="Points per edge of the surfaces, 2 to 16.")]
KernelOption = Annotated[str, typer.Option("--kernel", help="Green's function: laplace or yukawa.")]
RunsOption = Annotated[int, typer.Option("--runs", min=3, help="Runs of each kernel; slow kernels run 3 times.")]
PeaksOption = Annotated[
    bool, typer.Option("--measure-peaks", help="Measure the machine's peak rates again; the higher ones are kept.")
]


def ladder(
    book: BookArgument,
    operator: OperatorOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = "float64",
    points: PointsOption = 100_000,
    distribution: DistributionOption = "sphere",
    order: OrderOption = 6,
    kernel: KernelOption = "laplace",
    runs: RunsOption = 7,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw the ladder to this .png, .pdf or .svg file.")
    ] = None,
    check: Annotated[
        bool,
        typer.Option("--check/--no-check", help="Certify the book first if needed; else compare exact cases only."),
    ] = True,
    measure_peaks: PeaksOption = False,
    json: JsonOption = False,
) -> None:
    """Time the kernel after every step of a recipe, and compare it with the limits of the machine.

    Exit with 1 if a step is wrong or the book is not certified. An operator takes about a minute, because every ladder
    starts with a slow sequential kernel; use fewer points if that is too long.
    """
    from fmmloopy.measuring.ladder import climb
    from fmmloopy.measuring.peaks import peaks_by_dtype
    from fmmloopy.measuring.plots import check_plot, draw_ladders
    from fmmloopy.measuring.timing import Setting
    from fmmloopy.operators import OPERATORS

    if plot:
        check_plot(plot)
    setting = Setting(points, distribution, order, dtype, kernel)
    with telling() as tell:
        peaks = None
        if measure_peaks:
            chosen = chosen_device(book, device)
            setting.check_device(chosen)
            peaks = peaks_by_dtype(chosen, map(setting.computed_in, operator or OPERATORS), True, tell)
        report = climb(book, operator or None, device, setting, peaks, check, runs, tell)
    if plot and report.ladders:
        draw_ladders(report, plot)
    if json:
        print_json({**report.as_dict(), "plot": str(plot) if plot else None})
    else:
        _print(report, plot)
    if not report.ok:
        raise typer.Exit(DOES_NOT_HOLD)


def chosen_device(book: str, device: str | None) -> Any:
    """Return the device that a command works on."""
    from fmmloopy.checking.check import device_for
    from fmmloopy.recipes.load import load_recipes

    return device_for(load_recipes(book), device)


def wide_console() -> Any:
    """Return standard output; lines of tables are broken only on a terminal."""
    out = console()
    if not out.is_terminal:
        out.width = 1000
    return out


def describe_peaks(peaks: Mapping[str, Peaks]) -> list[str]:
    """Return lines of text with the peak rates of the machine, and with doubts about them."""
    lines = [f"peaks: {each} in {dtype}" for dtype, each in peaks.items()]
    lines.append(f"       of {next(iter(peaks.values())).processor}")
    if any(each.busy for each in peaks.values()):
        lines.append("       measured while the machine was busy: they may be too low, and shares too high")
    return lines


def _print(report: LadderReport, plot: Path | None) -> None:
    from rich.text import Text

    out = wide_console()
    out.print(Text(f"{report.book} on {report.device}", style="bold"))
    for line in (str(report.setting), *describe_peaks(report.peaks)):
        out.print(Text(line))
    for each in report.ladders:
        _print_ladder(out, each)
    if report.idle:
        out.print(Text(f"\noperators without work in this problem: {', '.join(report.idle)}"))
    out.print()
    for finding in report.findings or ():
        show_message(str(finding), "red", out)
    if report.findings is None:
        out.print("not certified: every step was compared on the exact cases only (--no-check)")
    elif not report.findings:
        passed = "passes" if len(report.ladders) == 1 else "pass"
        out.print(f"certified: {counted(len(report.ladders), 'operator')} {passed} all layers of `fmmloopy check`")
    else:
        out.print(Text(f"not certified: {counted(len(report.findings), 'finding')}", style="bold red"))
    if plot:
        out.print(Text(f"the figure is in {plot}"))


def _print_ladder(out: Any, ladder: Ladder) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("step", box=None, padding=(0, 2, 0, 0))
    for heading in (ladder.unit, f"of {ladder.roofline.binding}", "gain", "spread", "runs"):
        table.add_column(heading, justify="right")
    for rung in ladder.rungs:
        table.add_row(Text(f"{rung.number}  {rung.name}"), *_cells(ladder, rung))
    limits = ", ".join(
        f"{name} {ladder.rate(seconds):.3g}{' (binds)' if name == ladder.roofline.binding else ''}"
        for name, seconds in ladder.roofline.limits.items()
        if seconds
    )
    out.print(Text.assemble("\n", (ladder.operator, "bold"), f"   limits in {ladder.unit}: {limits}"))
    if ladder.roofline.uncounted:
        out.print(
            f"{', '.join(ladder.roofline.uncounted)}: no known peak, counted as one operation, so the limit is too high"
        )
    out.print(table)
    for rung in ladder.rungs:
        if rung.wrong:
            show_message(f"step {rung.number} is WRONG: {rung.wrong}", "red", out)
    if ladder.total:
        out.print(Text(f"total: {ladder.total}"))


def _cells(ladder: Ladder, rung: Rung) -> list[Any]:
    from rich.text import Text

    from fmmloopy.measuring.plots import format_share

    if rung.timing is None:
        return [Text("WRONG", style="bold red")]
    median = rung.timing.median
    gain = ""
    if rung.gain:
        gain = f"{rung.gain.ratio:.2f}x" if rung.gain.is_one else f"none ({rung.gain.ratio:.2f}x)"
    return [
        f"{ladder.rate(median):.3g}",
        format_share(ladder.roofline.share(median)),
        gain,
        f"{rung.timing.spread:.0%}",
        str(len(rung.timing.seconds)),
    ]
