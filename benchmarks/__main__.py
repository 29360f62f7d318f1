"""The command ``python -m benchmarks``."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from benchmarks.kept import keep, read_elsewhere
from benchmarks.page import DOCS, write_page
from benchmarks.pictures import draw_pictures
from benchmarks.results import Results, compare_results, read_results, write_results
from benchmarks.run import measure
from benchmarks.suite import GROUPS, choose, full_suite, quick_suite
from benchmarks.tables import describe_groups, make_table, make_tables
from benchmarks.targets import Reasons, judge, read_reasons
from fmmloopy.devices import DeviceError
from fmmloopy.messages import one_line

BAD_INPUT, FAILED = 2, 1
"""Exit statuses: arguments that cannot be used; a case that failed."""


class Parser(argparse.ArgumentParser):
    """Report a bad argument in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"error: {message}\n")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(
        prog="python -m benchmarks",
        description="Measure fmmloopy against the limits of the machine, against its targets, and against fmm3dpy.",
        epilog=f"groups of cases:\n{describe_groups(GROUPS)}\n\n"
        "Exit status: 0 if no case failed, 1 if one did, 2 if the arguments cannot be used. "
        "Run it while nothing else runs.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="a few small cases on the preferred device, in about a minute")
    add("--only", metavar="GROUPS", type=lambda text: text.split(","), help="groups of cases, with commas; see below")
    add("--device", action="append", help="part of a device's description; may be repeated (default: all by OpenCL)")
    add("--most-points", type=number_of_points, metavar="N", help="leave out cases with more points, such as 1e6")
    add("--output", type=Path, metavar="DIR", default=Path("benchmark-results"), help="(default: %(default)s)")
    add("--from", dest="source", type=Path, metavar="FILE", help="measure nothing, take the results in a .json file")
    add("--compare", type=Path, metavar="FILE", help="say how times compare with those in a .json file")
    add(
        "--write-docs", action="store_true", help="write docs/performance.md, its pictures, and benchmarks/results.json"
    )
    arguments = parser.parse_args(argv)
    if arguments.source and (arguments.quick or arguments.only or arguments.device or arguments.most_points):
        parser.error("argument --from: results that are there do not go with cases or devices to measure")
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
        write_results(results, arguments.output / "results.json")

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


def report(results: Results, arguments: argparse.Namespace, before: Results | None, reasons: Reasons) -> None:
    """Write files, and print what they say."""
    folder = arguments.output
    folder.mkdir(parents=True, exist_ok=True)
    write_results(results, folder / "results.json")
    judged = judge(results, reasons)
    tables = make_tables(results, judged, [(other, judge(other, reasons)) for other in read_elsewhere(results)])
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
    print(f"{folder}: results.json, tables.md{''.join(f', {path.name}' for path in pictures)}")
    for failure in results.failed:
        print(f"failed: {failure}")
    verdicts = [verdict for row in judged for verdict in row if verdict.reached]
    print(f"{sum(verdict.is_met for verdict in verdicts)} of {len(verdicts)} targets that were measured are met")
    if arguments.write_docs:
        keep(results)
        print(f"{write_page(tables, pictures, DOCS)} is written")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    arguments = parse_arguments(argv)
    try:
        before = read_results(arguments.compare) if arguments.compare else None
        # What cannot be used is found before all the measuring, not after.
        reasons = read_reasons()
        check_folder(arguments.output)
        results = run(arguments)
        report(results, arguments, before, reasons)
    except (ValueError, OSError, DeviceError) as error:
        print(f"error: {one_line(error, 2000)}", file=sys.stderr)
        return BAD_INPUT
    return FAILED if results.failed else 0


if __name__ == "__main__":
    sys.exit(main())
