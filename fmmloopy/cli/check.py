"""``fmmloopy check``: certify the recipes of a book."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from fmmloopy.cli.common import (
    DOES_NOT_HOLD,
    BookArgument,
    DeviceOption,
    JsonOption,
    OperatorOption,
    console,
    listed,
    print_json,
    show_message,
)
from fmmloopy.common.messages import counted

DtypeOption = Annotated[
    list[str] | None, typer.Option("--dtype", help="float32 or float64; may be repeated. Default: both.")
]
LevelOption = Annotated[
    str, typer.Option("--level", help="quick, or full: more seeds, orders, layouts, and all tuning parameters.")
]
LimitOption = Annotated[
    float | None,
    typer.Option("--limit", help="Time limit in seconds for a step of a recipe, for its code, and for its kernel."),
]
FolderOption = Annotated[
    Path, typer.Option("--reproducers", help="Folder for programs that reproduce what is wrong.", show_default=True)
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

    Exit with 0 if every layer passes. Otherwise the first failing step is named, and a program that reproduces the
    error is written.
    """
    from fmmloopy.checking.check import check_book

    chosen = dtype or ("float64", "float32")
    # None: on a terminal, progress is shown on standard error.
    notify = (lambda progress: None) if as_json else None
    report = check_book(book, operator, device, chosen, level, reproducers=reproducers, limit=limit, notify=notify)
    if as_json:
        print_json(report.as_dict())
    else:
        out = console()
        for finding in report.findings:
            show_message(str(finding), "red", out)
            if finding.reproducer:
                out.print(f"    to see it: python {shlex.quote(finding.reproducer)}", markup=False, soft_wrap=True)
        for text in report.skipped:
            show_message(f"not checked: {text}", "yellow", out)
        for text in report.proved:
            show_message(text, out=out)
        verdict = "certified" if report.ok else f"NOT certified, {counted(len(report.findings), 'finding')}"
        what = f"{listed(report.operators) or 'no recipes'} in {listed(report.dtypes)}"
        show_message(f"{report.book}: {verdict} ({report.level}, {what}, {report.seconds:.0f} s)", out=out)
        show_message(f"on {report.device}", out=out)
    if not report.ok:
        raise typer.Exit(DOES_NOT_HOLD)
