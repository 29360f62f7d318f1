"""The command ``python -m benchmarks``."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from benchmarks import scaling, several
from benchmarks.kept import FOLDER, keep, read_kept
from benchmarks.page import GENERATED, stale_lines, tables_of, write_page
from benchmarks.pictures import digest, draw_pictures, pictures_of
from benchmarks.results import Results, compare_results, read_results, write_results
from benchmarks.run import measure
from benchmarks.suite import GROUPS, choose, full_suite, quick_suite
from benchmarks.tables import describe_groups, make_table
from benchmarks.targets import judge, read_reasons
from fmmloopy.common.messages import one_line
from fmmloopy.execution.devices import DeviceError

BAD_INPUT, FAILED = 2, 1
"""Exit statuses: arguments that cannot be used; a case that failed, or a page that is stale."""

RESULTS = "results.jsonl"
"""Where a run writes what it has measured."""


class Parser(argparse.ArgumentParser):
    """Report a bad argument in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"error: {message}\n")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(
        prog="python -m benchmarks",
        description="Measure fmmloopy against the limits of the machine, against its targets, and against fmm3dpy.",
        epilog="python -m benchmarks scaling --help: predict how evaluations scale to many parts.\n"
        "python -m benchmarks several --help: compare processes with unequal devices with the ideal.\n\n"
        f"groups of cases:\n{describe_groups(GROUPS)}\n\n"
        "Exit status: 0 if no case failed, 1 if one did or the page is stale, 2 if the arguments cannot be used. "
        "Run it while nothing else runs.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="a few small cases on the preferred device, in about a minute")
    add(
        "--only",
        metavar="GROUPS",
        type=lambda text: text.split(","),
        help="groups of cases, with commas between; see below",
    )
    add("--device", action="append", help="part of a device's description; may be repeated (default: all of OpenCL)")
    add("--most-points", type=number_of_points, metavar="N", help="skip cases with more points than this, such as 1e6")
    add("--output", type=Path, metavar="DIR", default=Path("benchmark-results"), help="(default: %(default)s)")
    add("--from", dest="source", type=Path, metavar="FILE", help="measure nothing; use the results in a .jsonl file")
    add("--compare", type=Path, metavar="FILE", help="compare times with those in a .jsonl file")
    add("--write-docs", action="store_true", help="keep the results in benchmarks/results and write the page from them")
    add("--refresh-docs", action="store_true", help="measure nothing; write the page from the kept results")
    add("--check-docs", action="store_true", help="measure nothing; say whether the page is up to date")
    arguments = parser.parse_args(argv)
    if arguments.source and (arguments.quick or arguments.only or arguments.device or arguments.most_points):
        parser.error("argument --from: it measures nothing, so leave out --quick, --only, --device and --most-points")
    if (arguments.refresh_docs or arguments.check_docs) and len(sys.argv[1:] if argv is None else argv) > 1:
        parser.error("argument --refresh-docs, --check-docs: use them without other arguments")
    if arguments.write_docs and _part(arguments) != "full":
        parser.error("argument --write-docs: the page needs all cases of a full run")
    if arguments.write_docs and find_spec("matplotlib") is None:
        parser.error("argument --write-docs: the page needs pictures: python -m pip install matplotlib")
    return arguments


def _part(arguments: argparse.Namespace) -> str:
    """Name the part of the suite that is asked for, see `benchmarks.results.Results`."""
    return "quick" if arguments.quick else "part" if arguments.only or arguments.most_points else "full"


def number_of_points(text: str) -> int:
    """Read a whole number, such as 1e6."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 1 <= number < 2**31 or not number.is_integer():
        raise argparse.ArgumentTypeError(f"{text!r}, expected a whole number from 1 to 2^31, such as 1e6")
    return int(number)


def run(arguments: argparse.Namespace) -> Results:
    """Measure, or read what was measured."""
    if arguments.source:
        found = read_results(arguments.source)
        if arguments.write_docs and found.suite != "full":
            raise ValueError(f"{arguments.source} holds a {found.suite} run, expected a full one for --write-docs")
        return found
    cases = choose(quick_suite() if arguments.quick else full_suite(), arguments.only, arguments.most_points)
    start = time.perf_counter()

    def tell(text: str) -> None:
        print(f"[{time.perf_counter() - start:5.0f} s] {text}", file=sys.stderr, flush=True)

    def keep_so_far(results: Results) -> None:
        arguments.output.mkdir(parents=True, exist_ok=True)
        write_results(results, arguments.output / RESULTS)

    found = measure(cases, arguments.device, arguments.quick, tell, keep_so_far)
    return replace(found, suite=_part(arguments))


def check_folder(folder: Path) -> None:
    """Make sure that a folder can be written, or made.

    Raises:
        ValueError: it cannot.
    """
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise ValueError(f"argument --output: {folder} cannot be written")


def report(results: Results, arguments: argparse.Namespace, before: Results | None) -> None:
    """Write files, and print what they say."""
    folder = arguments.output
    folder.mkdir(parents=True, exist_ok=True)
    write_results(results, folder / RESULTS)
    tables = tables_of(results)
    shown = dict(tables)
    if before:
        rows = compare_results(results, before)
        shown["comparison"] = make_table(("runtime", "what", "ms then", "ms now", "now"), rows) or "Nothing in common."
    text = "\n\n".join(f"## {name.replace('_', ' ')}\n\n{table}" for name, table in shown.items()) + "\n"
    print(text)
    (folder / "tables.md").write_text(text)
    drawn = find_spec("matplotlib") is not None
    pictures = draw_pictures(results, folder) if drawn else []
    if not drawn:
        print("no pictures: they need matplotlib, of the extra [plot]: python -m pip install matplotlib")
    print(f"{folder}: {RESULTS}, tables.md{''.join(f', {path.name}' for path in pictures)}")
    for failure in results.failed:
        print(f"failed: {failure}")
    verdicts = [verdict for row in judge(results, read_reasons()) for verdict in row if verdict.reached]
    print(f"{sum(verdict.is_met for verdict in verdicts)} of {len(verdicts)} targets that were measured are met")
    if arguments.write_docs:
        keep(results)
        refresh_docs()


def kept_results() -> Results:
    """Return the results that the page is written from, those of the last full run.

    Raises:
        ValueError: none are kept, or they cannot be read.
    """
    found = read_kept()
    if not found:
        raise ValueError(f"{FOLDER} holds no results: python -m benchmarks --write-docs measures some and keeps them")
    return found[0]


def refresh_docs() -> None:
    """Write the page and its pictures from the results that are kept."""
    results = kept_results()
    with tempfile.TemporaryDirectory() as folder:
        print(f"{write_page(tables_of(results), draw_pictures(results, Path(folder)), GENERATED)} is written")


def check_docs() -> int:
    """Say whether the page is what the results that are kept give, and return the exit status."""
    results = kept_results()
    lines = stale_lines(tables_of(results), {name: digest(results) for name in pictures_of(results)}, GENERATED)
    page = GENERATED / "performance.md"
    if not lines:
        print(f"{page} is what {FOLDER} gives")
        return 0
    print(*lines, f"{page} is stale: python -m benchmarks --refresh-docs writes it anew", sep="\n")
    return FAILED


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    given = sys.argv[1:] if argv is None else list(argv)
    for name, command in (("scaling", scaling), ("several", several)):
        if given[:1] == [name]:
            command.main(given[1:])
            return 0
    arguments = parse_arguments(argv)
    try:
        if arguments.check_docs:
            return check_docs()
        if arguments.refresh_docs:
            refresh_docs()
            return 0
        before = read_results(arguments.compare) if arguments.compare else None
        # What cannot be used is found before all the measuring, not after.
        read_reasons()
        check_folder(arguments.output)
        results = run(arguments)
        report(results, arguments, before)
    except (ValueError, OSError, DeviceError) as error:
        print(f"error: {one_line(error, 2000)}", file=sys.stderr)
        return BAD_INPUT
    return FAILED if results.failed else 0


if __name__ == "__main__":
    sys.exit(main())
