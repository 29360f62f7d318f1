"""The command ``fmmloopy``: one module per subcommand, each a thin shell around a function of the library.

Exit status: 0 on success; 1 if a check fails or something does not work; 2 if the command cannot run: bad arguments, no
such book, no such device. With ``--json``, standard output is a JSON document in all cases; after an error, an object
with ``"ok": false`` and ``"error"``.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from fmmloopy import __version__
from fmmloopy.cli.bench import bench
from fmmloopy.cli.bundle import bundle
from fmmloopy.cli.check import check
from fmmloopy.cli.common import BAD_INPUT, DOES_NOT_HOLD, JSON, print_json, show_error
from fmmloopy.cli.doctor import doctor
from fmmloopy.cli.evaluate import evaluate
from fmmloopy.cli.ladder import ladder
from fmmloopy.cli.new import new
from fmmloopy.cli.predict import predict
from fmmloopy.cli.recipes import recipes
from fmmloopy.cli.show import show
from fmmloopy.cli.tune import tune
from fmmloopy.common.isolation import WorkerError
from fmmloopy.common.messages import MissingPackageError, one_line
from fmmloopy.execution.devices import DeviceError
from fmmloopy.recipes.book import RecipeError

TRACEBACK = "--traceback"

INTERRUPTED = 130
"""Exit status: somebody has pressed Ctrl-C."""

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
app.command()(evaluate)
app.command()(ladder)
app.command()(bench)
app.command()(new)
app.command()(recipes)
app.command()(show)


app.command()(check)
app.command()(tune)
app.command()(bundle)
app.command()(predict)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit with its status; report any error in one line on standard error."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    wanted = TRACEBACK in words
    words = [word for word in words if word != TRACEBACK]
    as_json = JSON in words
    try:
        # In JSON, errors of usage are documents too; typer would print them as text.
        status = app(words, standalone_mode=not as_json)
        if as_json and status == INTERRUPTED:
            raise KeyboardInterrupt
        sys.exit(status)
    except (RecipeError, DeviceError, WorkerError, MissingPackageError, ValueError, OSError) as error:
        if wanted:
            traceback.print_exc()
        _fail(one_line(error, 2000), BAD_INPUT, as_json)
    except (typer.Abort, KeyboardInterrupt):
        _fail("interrupted", INTERRUPTED, as_json)
    except Exception as error:
        if not as_json:
            raise
        if hasattr(error, "format_message"):  # an error of usage, whose class depends on the version of typer
            _fail(" ".join(error.format_message().split()), BAD_INPUT, as_json)
        traceback.print_exc()  # a mistake in this program
        _fail(f"{type(error).__name__}: {one_line(error)}", DOES_NOT_HOLD, as_json)


def _fail(text: str, status: int, as_json: bool) -> NoReturn:
    """Report an error and exit."""
    show_error(text)
    if as_json:
        print_json({"ok": False, "error": text, "status": status})
    sys.exit(status)
