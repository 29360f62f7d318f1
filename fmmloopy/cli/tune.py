"""``fmmloopy tune``: search the tuning parameters of recipes, and share the results."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fmmloopy.cli.common import (
    DOES_NOT_HOLD,
    DeviceOption,
    JsonOption,
    OperatorOption,
    console,
    print_json,
)

if TYPE_CHECKING:
    from fmmloopy.measuring.tune import Search

BookArgument = Annotated[
    str | None, typer.Argument(metavar="[BOOK]", help="Name of a recipe book, or path of its .py file.")
]
DtypeOption = Annotated[
    list[str] | None, typer.Option("--dtype", help="float32 or float64; may be repeated. Default: both.")
]
BudgetOption = Annotated[str, typer.Option("--budget", help="Time for search and certification, such as 60s or 5m.")]
PointsOption = Annotated[int, typer.Option("--points", help="Number of points of the problem used for timing.")]
ExportOption = Annotated[Path | None, typer.Option("--export", help="Write the device's stored results to a file.")]
ImportOption = Annotated[
    Path | None, typer.Option("--import", help="Certify the results in a file of --export, and store those that pass.")
]


def tune(
    book: BookArgument = None,
    operator: OperatorOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    budget: BudgetOption = "60s",
    points: PointsOption = 100_000,
    order: Annotated[int, typer.Option("--order", help="Order of the problem used for timing.")] = 6,
    distribution: Annotated[str, typer.Option("--distribution", help="Its points: sphere or cube.")] = "sphere",
    export_to: ExportOption = None,
    import_from: ImportOption = None,
    as_json: JsonOption = False,
) -> None:
    """Search the tuning parameters of a book's recipes; the fastest are certified, stored, and used from then on.

    Candidates that fail, crash or hang are ignored. --export and --import share the results.
    """
    if export_to:
        _export(export_to, device, as_json)
    elif import_from:
        _import(import_from, book, as_json)
    elif book is None:
        raise ValueError("no BOOK to tune; give its name or the path of its .py file, or use --export or --import")
    else:
        _tune(book, operator, device, dtype, _seconds(budget), (points, distribution, order), as_json)


def _seconds(text: str) -> float:
    """Read a time such as 60, 60s, 5m or 1h."""
    found = re.fullmatch(r"(\d+(?:\.\d*)?)\s*([smh]?)", text.strip())
    if not found:
        raise ValueError(f"budget is {text!r}, expected a time such as 60s, 5m or 1h")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]


def _tune(
    book: str,
    operators: list[str] | None,
    device: str | None,
    dtypes: list[str] | None,
    budget: float,
    problem: tuple[int, str, int],
    as_json: bool,
) -> None:
    from fmmloopy.bookshelf.tuned import store_file
    from fmmloopy.checking.check import device_for
    from fmmloopy.measuring.timing import Setting
    from fmmloopy.measuring.tune import Trial, count_candidates, space_of, tune, verify_store
    from fmmloopy.recipes.load import load_recipes

    out = console()

    def say(text: str, style: str = "") -> None:
        if not as_json:
            out.print(text, style=style, markup=False)

    numbers: Counter[tuple[str, str]] = Counter()

    def notify(name: str, precision: str, trial: Trial) -> None:
        numbers[name, precision] += 1
        number = f"{numbers[name, precision]} of {count_candidates(loaded, name, chosen)}"
        took = f"{trial.timing.median * 1e3:9.2f} ms{_spread(trial.timing.spread):>7}" if trial.timing else " " * 19
        note = "" if trial.outcome == "timed" else trial.outcome
        say(f"  {name:20} {precision} {number:>9}  {_parameters(trial.parameters):30} {took}  {note}".rstrip())

    loaded = load_recipes(book)
    chosen = device_for(loaded, device)
    say(f"{loaded.name} on {chosen.description}")
    verified = verify_store(loaded, chosen)
    for entry, wrong in verified:
        what = f"stored parameters of {entry.operator} in {entry.dtype}, {_parameters(entry.parameters)}"
        say(f"  {what}: {'removed: ' + wrong if wrong else 'certified again, since a version changed'}", style="yellow")
    points, distribution, order = problem
    setting = Setting(points, distribution, order)
    searches = tune(loaded, operators, chosen, budget, setting, dtypes or ("float64", "float32"), notify=notify)
    if as_json:
        stale = [{**asdict(entry), "wrong": wrong} for entry, wrong in verified]
        print_json({"store": str(store_file(chosen)), "verified": stale, "searches": [s.as_dict() for s in searches]})
    for search in searches:
        for parameters, wrong in search.rejected:
            say(f"  faster, but wrong: {_parameters(parameters)}: {wrong}", style="red")
        say(f"{search.operator:20} {search.dtype}: {_result(search)}", style="red" if search.best is None else "green")
    done = {(search.operator, search.dtype) for search in searches}
    tunable = [name for name in (operators or loaded.recipes) if space_of(loaded, name)]
    left_out = [name for name in tunable if done and name not in {operator for operator, _ in done}]
    if left_out:
        say(f"not searched: {', '.join(left_out)}; the budget of {budget:g} s was spent, or they have no work to do")
    if any(search.best and search.found for search in searches):
        say(f"stored in {store_file(chosen)}")
    if any(search.best is None for search in searches):
        raise typer.Exit(DOES_NOT_HOLD)


def _result(search: Search) -> str:
    """Describe the result of a search, with the spread, and how many candidates were tried."""
    tried = f"all {search.candidates}" if search.whole else f"{len(search.trials)} of {search.candidates}"
    tried += " candidates" + ("" if search.whole else ", budget spent")
    found = search.found
    if search.best is None:
        text = "no candidate is certified"
    elif search.is_faster:
        spread = f", spread{_spread(found.spread)}" if found else ""
        text = f"{_parameters(search.best.parameters)} is {search.gain:.2f}x as fast as the defaults{spread}: stored"
    elif found:
        text = f"the defaults are best: the fastest of the others is {found.ratio:.2f}x as fast, spread"
        text += f"{_spread(found.spread)}: stored"
    else:
        text = "nothing to compare the defaults with"
    return f"{text} ({tried})"


def _spread(spread: float) -> str:
    return " ?" if math.isinf(spread) else f" {spread:.0%}"


def _export(path: Path, device: str | None, as_json: bool) -> None:
    from fmmloopy.bookshelf.tuned import read_store, write_entries
    from fmmloopy.execution.devices import choose_device

    chosen = choose_device(device)
    entries = read_store(chosen)
    if not entries:
        raise ValueError(f"nothing is stored for {chosen.description}; run `fmmloopy tune BOOK` first")
    write_entries(path, chosen.description, entries)
    if as_json:
        print_json({"file": str(path), "device": chosen.description, "entries": len(entries)})
    else:
        best = sum(not entry.parameters for entry in entries)
        kept = f"{len(entries)} {'entry' if len(entries) == 1 else 'entries'}"
        kept += f", of which {best} {'says' if best == 1 else 'say'} that the defaults are best" if best else ""
        console().print(f"{path}: {kept}, for {chosen.description}", markup=False)


def _import(path: Path, book: str | None, as_json: bool) -> None:
    from fmmloopy.measuring.tune import import_entries

    results = import_entries(path, book)
    if as_json:
        print_json([{**asdict(entry), "wrong": wrong} for entry, wrong in results])
    for entry, wrong in results if not as_json else ():
        found = _parameters(entry.parameters) if entry.parameters else "the defaults are best"
        what = f"{entry.book}, {entry.operator}, {entry.dtype}: {found}"
        text = f"not stored: {wrong}" if wrong else "certified here, and stored"
        console().print(f"{what}: {text}", style="red" if wrong else "green", markup=False)
    if any(wrong for _, wrong in results):
        raise typer.Exit(DOES_NOT_HOLD)


def _parameters(parameters: Any) -> str:
    return ", ".join(f"{name}={value}" for name, value in parameters.items()) or "defaults"
