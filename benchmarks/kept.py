"""Results that the documentation is written from: those of the last full run, and of the last one on each processor."""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.results import Results, read_results, write_results

HERE = Path(__file__).parent


def last_file(folder: Path = HERE) -> Path:
    """Return where the results of the last full run are."""
    return folder / "results.json"


def keep(results: Results, folder: Path = HERE) -> None:
    """Keep results as those of the last full run; what was kept of another processor moves to its own file.

    Raises:
        ValueError: what is kept cannot be read.
        OSError: the folder cannot be written.
    """
    last, others = last_file(folder), folder / "elsewhere"
    if last.exists() and (before := read_results(last)).machine["processor"] != results.machine["processor"]:
        others.mkdir(exist_ok=True)
        write_results(before, _file(before, others))
    write_results(results, last)
    _file(results, others).unlink(missing_ok=True)


def read_elsewhere(results: Results, folder: Path = HERE) -> list[Results]:
    """Return what is kept of other processors than that of some results.

    Raises:
        ValueError: what is kept cannot be read.
    """
    found = [
        read_results(path)
        for path in (last_file(folder), *sorted((folder / "elsewhere").glob("*.json")))
        if path.exists()
    ]
    return [each for each in found if each.machine["processor"] != results.machine["processor"]]


def _file(results: Results, folder: Path) -> Path:
    return folder / f"{re.sub(r'[^a-z0-9]+', '-', results.machine['processor'].lower()).strip('-')}.json"
