"""The command ``fmmloopy``: one module per subcommand, each a thin shell around a function of the library.

Exit status: 0 on success; 1 if a check fails or something does not work; 2 if the command cannot run: bad arguments, no
such book, no such device.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from fmmloopy import __version__
from fmmloopy.cli.bench import bench
from fmmloopy.cli.check import check
from fmmloopy.cli.common import BAD_INPUT, show_error
from fmmloopy.cli.doctor import doctor
from fmmloopy.cli.ladder import ladder
from fmmloopy.cli.new import new
from fmmloopy.cli.recipes import recipes
from fmmloopy.cli.show import show
from fmmloopy.cli.tune import tune
from fmmloopy.common.isolation import WorkerError
from fmmloopy.common.messages import MissingPackageError, one_line
from fmmloopy.execution.devices import DeviceError
from fmmloopy.recipes.book import RecipeError

TRACEBACK = "--traceback"

app = typer.Typer(
    name="fmmloopy",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Write, certify, inspect, time and tune recipes for the operators of the fast multipole method.",
    epilog=f"{TRACEBACK}, with any command: after an error, print the Python traceback.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"fmmloopy {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Make ``fmmloopy`` a command with subcommands, even if there is only one."""


app.command()(doctor)
app.command()(ladder)
app.command()(bench)
app.command()(new)
app.command()(recipes)
app.command()(show)


app.command()(check)
app.command()(tune)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit with its status; report any error in one line on standard error."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    wanted = TRACEBACK in words
    words = [word for word in words if word != TRACEBACK]
    try:
        app(words)
    except (RecipeError, DeviceError, WorkerError, MissingPackageError, ValueError, OSError) as error:
        if wanted:
            traceback.print_exc()
        show_error(one_line(error, 2000))
        sys.exit(BAD_INPUT)
