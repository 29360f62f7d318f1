"""``fmmloopy bundle``: pack what evaluations of a Green's function need into one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fmmloopy.cli.common import JsonOption, console, print_json, telling
from fmmloopy.common.messages import counted


def bundle(
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write, such as laplace.fmm.")],
    kernel: Annotated[
        str, typer.Option("--kernel", help="Green's function, such as yukawa(2.0), or a formula such as exp(-r)/r.")
    ] = "laplace()",
    digits: Annotated[str, typer.Option("--digits", help="Wanted digits, with commas between.")] = "3,6,9",
    points: Annotated[
        Path | None, typer.Option("--points", help="File with points and charges, for whose boxes tables are.")
    ] = None,
    gradient: Annotated[bool, typer.Option("--gradient/--no-gradient", help="For gradients too.")] = True,
    device: Annotated[
        str | None, typer.Option("--device", "-d", help="Part of a device's description. Default: the preferred one.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Pack code, programs, tables, rates and certificates into one file, for `Fmm(..., bundle=...)`.

    A process that has it generates, compiles and measures nothing, on devices like this one.
    """
    from fmmloopy.bundles import make_bundle
    from fmmloopy.cli.evaluate import kernel_from
    from fmmloopy.files import read_problem

    function, wanted = kernel_from(kernel), digits_from(digits)
    with telling() as tell:
        where = None if points is None else read_problem(points).sources
        made = make_bundle(output, function, wanted, device, points=where, gradient=gradient, notify=tell)
    if as_json:
        print_json({"ok": True, "file": str(made.path), "device": made.device, "cases": made.cases, "bytes": made.size})
        return
    console().print(f"wrote {made.path}: {counted(made.files, 'file')}, {made.size / 2**20:.1f} MiB, for {made.device}")
    for case in made.cases:
        console().print(f"  {case}")


def digits_from(text: str) -> list[float]:
    """Read numbers with commas between.

    Raises:
        ValueError: they are none.
    """
    try:
        return [float(each) for each in text.split(",")]
    except ValueError:
        raise ValueError(f"--digits is {text!r}, expected numbers such as 3,6,9") from None
