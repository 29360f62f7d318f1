"""``fmmloopy evaluate``: potentials of points and charges in a file."""

from __future__ import annotations

import ast
import os
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fmmloopy.cli.common import JsonOption, console, print_json
from fmmloopy.common.messages import counted

if TYPE_CHECKING:
    from fmmloopy.greens import GreensFunction

STARTED_BY = ("PMI_SIZE", "PMIX_RANK", "OMPI_COMM_WORLD_SIZE", "SLURM_NTASKS")
"""Environment variables by which launchers tell processes that there are several."""


def evaluate(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Points and charges: .npz, .npy, .csv, .h5, .vtk, .vtu ...")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to write: .npz, .csv, .h5, .vtk or .vtu.")
    ] = None,
    kernel: Annotated[
        str, typer.Option("--kernel", help="Green's function, such as yukawa(2.0), or a formula such as exp(-r)/r.")
    ] = "laplace()",
    digits: Annotated[float | None, typer.Option("--digits", help="Wanted correct digits. Default: 6.")] = None,
    order: Annotated[
        int | None, typer.Option("--order", "-p", help="Points per edge of the surfaces, instead of --digits.")
    ] = None,
    gradient: Annotated[bool, typer.Option("--gradient", help="Compute gradients too.")] = False,
    charges: Annotated[str, typer.Option("--charges", help="Name of the array or column with charges.")] = "charges",
    device: Annotated[
        list[str] | None, typer.Option("--device", "-d", help="Part of a device's description; repeat it for several.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option("--precision", help="double, mixed, reduced or single. Default: what digits allow.")
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option("--bundle", help="File of `fmmloopy bundle`, so that nothing is generated.")
    ] = None,
    compare: Annotated[
        int, typer.Option("--compare", min=0, help="Targets at which to compare with the direct sum; 0 for none.")
    ] = 300,
    json: JsonOption = False,
) -> None:
    """Compute the potentials of points and charges in a file, at these points or at the targets that it has.

    Files have arrays points (or sources), charges, and perhaps targets; tables have columns x, y, z and charge. Under
    mpiexec, each process takes its share of the points, and writes the results there to a file of its own.
    """
    from fmmloopy.common.progress import stepping
    from fmmloopy.execution.evaluation import DONE_IN
    from fmmloopy.files import WHOLE, Share, check_output, read_problem, write_results
    from fmmloopy.fmm import Fmm

    if output:
        check_output(output)
    function, comm = kernel_from(kernel), world()
    reading, evaluating, comparing, writing = (
        f"reading {file.name}",
        "evaluating",
        f"comparing {compare} targets with the direct sum",
        f"writing {output.name if output else ''}",
    )
    steps = [reading, *DONE_IN.values(), evaluating, *[comparing] * bool(compare), *[writing] * bool(output)]
    with stepping(steps, quiet=json or (comm is not None and comm.rank > 0)) as begin:
        begin(reading)
        share = WHOLE if comm is None else Share(comm.rank, comm.size)
        problem = read_problem(file, charges, share)
        options: dict[str, Any] = {"order": order, "precision": precision, "bundle": bundle}
        if comm is not None:
            output = output and output.with_suffix(f".{comm.rank}{output.suffix}")
            options["comm"] = comm
        if device and len(device) > 1:
            options["devices"] = device
        elif device:
            options["device"] = device[0]
        start = time.perf_counter()
        fmm = Fmm(problem.sources, problem.targets, function, digits, **options)
        built = time.perf_counter()
        begin(evaluating)
        if gradient:
            potentials, gradients = fmm.evaluate(problem.charges, gradient=True)
            found = {"potentials": potentials, "gradients": gradients}
        else:
            found = {"potentials": fmm.evaluate(problem.charges)}
        done = time.perf_counter()
        error = None
        if compare:
            begin(comparing)
            error = fmm.estimate_error(k=compare)
        if output:
            begin(writing)
            write_results(output, problem.sources if problem.targets is None else problem.targets, found)
    if comm is not None and comm.rank:
        return
    report = {
        "ok": True,
        "file": str(file),
        "output": str(output) if output else None,
        "kernel": function.name,
        "sources": problem.nsources,
        "targets": problem.ntargets,
        "processes": 1 if comm is None else comm.size,
        "device": fmm.device.description if len(device or ()) < 2 else ", ".join(device or ()),
        "order": fmm.order,
        "precision": fmm.precision,
        "expected_error": fmm.error_estimate,
        "measured_error": error,
        "seconds": {"construction": built - start, "evaluation": done - built},
    }
    if json:
        print_json(report)
    else:
        _print(report)


def world() -> Any:
    """Return the communicator of all processes, if a launcher has started several; else None."""
    if not any(name in os.environ for name in STARTED_BY) or find_spec("mpi4py") is None:
        return None
    from mpi4py import MPI

    return MPI.COMM_WORLD if MPI.COMM_WORLD.size > 1 else None


def kernel_from(text: str) -> GreensFunction:
    """Return the Green's function that a name with arguments, or a formula, stands for.

    Raises:
        ValueError: it is neither.
    """
    from fmmloopy.greens import GreensFunction
    from fmmloopy.kernels import KERNELS

    try:
        tree = ast.parse(text, mode="eval").body
    except SyntaxError:
        tree = None
    name = tree.func.id if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name) else text.strip()
    if name not in KERNELS:
        try:
            return GreensFunction("formula", ((text,),))
        except ValueError as error:
            raise ValueError(
                f"--kernel is {text!r}, expected one of {', '.join(KERNELS)} with its arguments, or a formula: {error}"
            ) from None
    try:
        given = [ast.literal_eval(each) for each in tree.args] if isinstance(tree, ast.Call) else []
        named = (
            {str(each.arg): ast.literal_eval(each.value) for each in tree.keywords}
            if isinstance(tree, ast.Call)
            else {}
        )
        made: GreensFunction = KERNELS[name](*given, **named)
    except (TypeError, ValueError) as error:
        raise ValueError(f"--kernel is {text!r}: {error}") from None
    return made


def _print(report: dict[str, Any]) -> None:
    from rich.text import Text

    out, seconds = console(), report["seconds"]
    out.print(
        Text(
            f"{counted(report['sources'], 'source')}, {counted(report['targets'], 'target')}, {report['kernel']}",
            style="bold",
        )
    )
    out.print(f"order {report['order']}, {report['precision']} precision, on {report['device']}", markup=False)
    out.print(f"{seconds['construction']:.2f} s to prepare, {seconds['evaluation']:.2f} s to evaluate")
    measured = "" if report["measured_error"] is None else f", {report['measured_error']:.1e} at some targets"
    out.print(f"relative error: {report['expected_error']:.1e} expected{measured}")
    if report["output"]:
        count = report["processes"]
        more = f", and those of the other processes in files of numbers up to {count - 1}" if count > 1 else ""
        out.print(f"the results are in {report['output']}{more}", markup=False, soft_wrap=True)
