"""``fmmloopy doctor``: what is installed, how fast each device is, what is wrong, and how to fix it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from fmmloopy.cli.common import DOES_NOT_HOLD, JsonOption, console, print_json, telling


def doctor(
    json: JsonOption = False,
    probe: Annotated[bool, typer.Option("--probe/--no-probe", help="Time P2P on each device for a second.")] = True,
) -> None:
    """Examine this machine: packages, OpenCL runtimes, devices, caches. Exit with 1 if something does not work."""
    from fmmloopy.diagnosis.doctor import examine

    with telling() as show:
        diagnosis = examine(probe, show)
    if json:
        print_json({"ok": diagnosis.ok, **asdict(diagnosis)})
    else:
        _print(diagnosis)
    if not diagnosis.ok:
        raise typer.Exit(DOES_NOT_HOLD)


def _print(diagnosis: Any) -> None:
    from rich.table import Table
    from rich.text import Text

    from fmmloopy.diagnosis.checkups import FINE, PROBLEM, SUGGESTION

    out = console()
    if not out.is_terminal:
        out.width = 1000  # one line each
    facts = Table.grid(padding=(0, 2))
    for finding in diagnosis.of(FINE):
        facts.add_row(Text(finding.subject, style="bold"), Text(finding.text))
    out.print(facts)
    devices = Table("P2P, Gpairs/s", "book", "device", box=None, padding=(0, 2, 0, 0))
    for device in diagnosis.devices:
        rate, book = "failed" if device.trouble else "-", ""
        if device.speed:
            rate, book = f"{device.speed.gpairs:.2f} {device.speed.dtype}", device.speed.book
        devices.add_row(rate, book, Text(device.description))
    out.print()
    out.print(devices)
    for verdict, title, style in ((PROBLEM, "Problems", "red"), (SUGGESTION, "Suggestions", "yellow")):
        if diagnosis.of(verdict):
            out.print(f"\n{title}", style=style)
        for finding in diagnosis.of(verdict):
            out.print(Text(f"  {finding.subject}: {finding.text}"))
            if finding.remedy:
                out.print(Text(f"    {finding.remedy}", style="bold"))
    if diagnosis.ok:
        out.print("\nNo problems found.", style="green")
