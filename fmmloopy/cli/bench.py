"""``fmmloopy bench``: time all operators on a device; compare them with the roofline and with saved figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fmmloopy.cli.common import DOES_NOT_HOLD, DeviceOption, JsonOption, print_json, show_error, telling
from fmmloopy.cli.ladder import (
    DistributionOption,
    DtypeOption,
    KernelOption,
    OrderOption,
    PeaksOption,
    PointsOption,
    RunsOption,
    describe_peaks,
    wide_console,
)

if TYPE_CHECKING:
    from fmmloopy.execution.devices import Device
    from fmmloopy.measuring.bench import Figures
    from fmmloopy.measuring.peaks import Peaks
    from fmmloopy.measuring.timing import Setting
    from fmmloopy.recipes.book import RecipeBook

MOST_COLUMNS = 6
"""Most figures that are compared in one table."""


def bench(
    book: Annotated[
        str | None,
        typer.Argument(metavar="[BOOK]", help="Name of a recipe book, or path of its .py file. Default: the device's."),
    ] = None,
    device: DeviceOption = None,
    all_devices: Annotated[
        bool, typer.Option("--all-devices", help="Run on every device found, one after the other.")
    ] = False,
    dtype: DtypeOption = "float64",
    points: PointsOption = 100_000,
    distribution: DistributionOption = "sphere",
    order: OrderOption = 6,
    kernel: KernelOption = "laplace",
    runs: RunsOption = 7,
    save: Annotated[
        str | None,
        typer.Option(
            "--save",
            help="Name or .json file to save the figures under. Default: a name made of book, device and problem.",
        ),
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(
            "--against",
            help="Compare with a book, whose runs alternate with these, or with saved figures: a name or .json file; "
            "may be repeated. Default: all figures saved for the same problem.",
        ),
    ] = None,
    measure_peaks: PeaksOption = False,
    json: JsonOption = False,
) -> None:
    """Time all operators in whole evaluations; compare with the roofline, other books and other devices.

    Differences within the spread of the runs do not count. Exit with 1 if a device could not be measured.
    """
    from fmmloopy.execution.devices import DeviceError, find_devices
    from fmmloopy.measuring.timing import Setting
    from fmmloopy.recipes.book import RecipeError

    setting = Setting(points, distribution, order, dtype, kernel)
    if all_devices and (save or device):
        raise ValueError("--all-devices cannot be combined with --device or --save")
    results, failed = [], {}
    with telling() as tell:
        for which in [d for d in find_devices() if not d.is_simulator] if all_devices else [device]:
            try:
                results.append(_measure(book, which, setting, runs, save, against, measure_peaks, tell))
            except (DeviceError, RecipeError) as error:
                if not all_devices:
                    raise
                failed[which.description] = str(error)  # type: ignore[union-attr]
    if json:
        print_json({"ok": not failed, "results": [_as_json(*result) for result in results], "failed": failed})
    else:
        for result in results:
            _print(*result)
        for description, reason in failed.items():
            show_error(f"{description}: {reason}")
    if failed:
        raise typer.Exit(DOES_NOT_HOLD)


def _measure(
    book: str | None,
    which: str | Device | None,
    setting: Setting,
    runs: int,
    save: str | None,
    against: Sequence[str] | None,
    measure_peaks: bool,
    tell: Callable[[str], None],
) -> tuple[Figures, Mapping[str, Peaks], list[Figures], list[Figures], str]:
    """Measure one device; return its figures, peaks, figures of books run in turn, saved figures, and their path."""
    from fmmloopy.checking.check import device_for
    from fmmloopy.execution.devices import choose_device
    from fmmloopy.measuring import bench
    from fmmloopy.measuring.peaks import peaks_by_dtype
    from fmmloopy.operators import OPERATORS
    from fmmloopy.recipes.load import load_recipes

    chosen = load_recipes(book) if book else None
    device = device_for(chosen, which) if chosen else choose_device(which)
    books, kept = _opponents(against or ())
    setting.check_device(device)
    peaks = peaks_by_dtype(device, map(setting.computed_in, OPERATORS), measure_peaks, tell)
    kept = kept if against else bench.kept_figures(setting)
    for figures in kept:
        if figures.setting != setting:
            raise ValueError(f"{figures.book} was timed with {figures.setting}, expected {setting}")
    mine, *others = bench.measure([chosen or load_recipes(None, device), *books], device, setting, runs, tell)
    for figures in others:
        bench.save(figures)
    return mine, peaks, others, kept, str(bench.save(mine, save))


def _opponents(names: Sequence[str]) -> tuple[list[RecipeBook], list[Figures]]:
    """Separate books from saved figures."""
    from fmmloopy.measuring.bench import load
    from fmmloopy.recipes.book import RecipeError
    from fmmloopy.recipes.load import load_recipes

    books, kept = [], []
    for name in names:
        try:
            books.append(load_recipes(name))
        except RecipeError as error:
            if name.endswith(".py"):
                raise
            try:
                kept.append(load(name))
            except ValueError as other:
                raise ValueError(f"{name!r} is neither a recipe book nor saved figures: {other}") from error
    return books, kept


def _as_json(
    mine: Figures, peaks: Mapping[str, Peaks], others: list[Figures], kept: list[Figures], path: str
) -> dict[str, Any]:
    from fmmloopy.measuring.bench import compare_all, edited_recipes, rooflines
    from fmmloopy.measuring.timing import finite

    document = mine.as_dict()
    for operator, entry in document["operators"].items():
        timing = mine.times[operator]
        entry |= {"median": timing.median, "spread": finite(timing.spread)}
    for operator, limit in rooflines(mine, peaks).items():
        share = limit.share(mine.times[operator].median)
        document["operators"][operator] |= {"limits": dict(limit.limits), "binding": limit.binding, "share": share}
    document["comparisons"] = [
        {
            "book": old.book,
            "device": old.device,
            "in_turn": old in others,
            "edited_recipes": edited_recipes(mine, old),
            "operators": {
                name: {"ratio": d.ratio, "spread": finite(d.spread), "is_difference": d.is_one}
                for name, d in compare_all(mine, old).items()
            },
        }
        for old in (*others, *kept)
    ]
    return {**document, "peaks": {dtype: each.as_dict() for dtype, each in peaks.items()}, "file": path}


def _print(mine: Figures, peaks: Mapping[str, Peaks], others: list[Figures], kept: list[Figures], path: str) -> None:
    from rich.table import Table
    from rich.text import Text

    from fmmloopy.measuring.bench import rooflines
    from fmmloopy.measuring.plots import format_share

    out = wide_console()
    out.print(Text(f"{mine.book} on {mine.device}", style="bold"))
    for line in (str(mine.setting), *describe_peaks(peaks)):
        out.print(Text(line))
    limits = rooflines(mine, peaks)
    table = Table("\noperator", box=None, padding=(0, 2, 0, 0))
    for heading in ("\nms", "\nspread", "\nrate", "of the\nlimit"):
        table.add_column(heading, justify="right")
    table.add_column("\nlimit")
    for name, timing in mine.times.items():
        cells = [f"{timing.median * 1e3:.3g}", f"{timing.spread:.0%}"]
        if name in limits:
            work, limit = mine.work[name], limits[name]
            amount, unit = (work.pairs, "Gpairs/s") if work.pairs else (work.flops, "GFLOP/s")
            cells += [
                f"{amount / timing.median * 1e-9:.3g} {unit}",
                format_share(limit.share(timing.median)),
                limit.binding,
            ]
        table.add_row(name, *cells)
    out.print(table)
    uncounted = sorted({function for limit in limits.values() for function in limit.uncounted})
    if uncounted:
        out.print(f"{', '.join(uncounted)}: no known peak, counted as one operation, so limits are too high")
    _print_comparisons(out, mine, others, kept)
    out.print(Text(f"saved in {path}\n"))


def _print_comparisons(out: Any, mine: Figures, others: list[Figures], kept: list[Figures]) -> None:
    """Print how many times as fast this is as others; each letter is one book on one device."""
    from rich.table import Table
    from rich.text import Text

    from fmmloopy.measuring.bench import compare_all, edited_recipes

    shown = [*others, *kept][:MOST_COLUMNS]
    if not shown:
        out.print("\nno figures are saved for this problem yet, so there is nothing to compare with")
        return
    letters = "ABCDEF"[: len(shown)]
    out.print(Text("\ncompared with others: how many times as fast, and the spread", style="bold"))
    for letter, old in zip(letters, shown, strict=True):
        when = "run in turn" if old in others else "saved earlier: the machine may have changed since"
        edited = edited_recipes(mine, old)
        changes = f"; edited since: {', '.join(edited)}" if edited else ""
        out.print(Text(f"  {letter}  {old.book} on {old.device[:70]} ({when}{changes})"))
    table = Table("operator", *letters, box=None, padding=(0, 2, 0, 0))
    compared = [compare_all(mine, old) for old in shown]
    for name in mine.times:
        table.add_row(name, *(str(differences[name]) if name in differences else "" for differences in compared))
    out.print(table)
    if len(others) + len(kept) > MOST_COLUMNS:
        out.print(f"and {len(others) + len(kept) - MOST_COLUMNS} more: see --json")
