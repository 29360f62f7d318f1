"""``fmmloopy check``: certify the recipes of a book."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from fmmloopy.cli.common import (
    DOES_NOT_HOLD,
    BookArgument,
    DeviceOption,
    JsonOption,
    OperatorOption,
    console,
    print_json,
)

DtypeOption = Annotated[
    list[str] | None, typer.Option("--dtype", help="float32 or float64; may be repeated. Default: both.")
]
LevelOption = Annotated[
    str, typer.Option("--level", help="quick, or full: more seeds, orders, layouts, and all tuning parameters.")
]
LimitOption = Annotated[
    float | None,
    typer.Option("--limit", help="Seconds that a step of a recipe, its code, or its kernel may take, each."),
]
FolderOption = Annotated[
    Path, typer.Option("--reproducers", help="Folder for programs that show what is wrong.", show_default=True)
]


def check(
    book: BookArgument,
    operator: OperatorOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    level: LevelOption = "quick",
    reproducers: FolderOption = Path("fmmloopy-reproducers"),
    limit: LimitOption = None,
    as_json: JsonOption = False,
) -> None:
    """Certify the recipes of a book against the sequential kernels.

    Exit status 0 if every layer holds. For what does not, the first failing step is named, and a program that shows it
    is written.
    """
    from fmmloopy.check import check_book

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=as_json or not sys.stderr.isatty(),
    ) as progress:
        task = progress.add_task("checking", total=None)

        def notify(name: str, precision: str, holds: bool) -> None:
            progress.update(task, description=f"{name or 'whole FMM'}, {precision}: {'holds' if holds else 'WRONG'}")

        report = check_book(
            book,
            operator,
            device,
            dtype or ("float64", "float32"),
            level,
            reproducers=reproducers,
            limit=limit,
            notify=notify,
        )
    if as_json:
        print_json(report.as_dict())
    else:
        out = console()
        for finding in report.findings:
            out.print(str(finding), style="red", markup=False)
            if finding.reproducer:
                out.print(f"    to see it: python {finding.reproducer}", markup=False)
        for text in report.skipped:
            out.print(f"not checked: {text}", style="yellow", markup=False)
        verdict = "certified" if report.ok else f"NOT certified, {len(report.findings)} findings"
        what = f"{', '.join(report.operators) or 'no recipes'} in {' and '.join(report.dtypes)}"
        out.print(f"{report.book}: {verdict} ({report.level}, {what}, {report.seconds:.0f} s)", markup=False)
        out.print(f"on {report.device}", markup=False)
    if not report.ok:
        raise typer.Exit(DOES_NOT_HOLD)
