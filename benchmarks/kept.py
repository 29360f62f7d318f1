"""Results that the documentation is written from: those of the last full run on each processor, a file for each."""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.results import Results, read_results, write_results

FOLDER = Path(__file__).parent / "results"


def keep(results: Results, folder: Path = FOLDER) -> None:
    """Keep results in place of those that were kept of the same processor.

    Raises:
        OSError: the folder is not writable.
    """
    folder.mkdir(exist_ok=True)
    name = re.sub(r"[^a-z0-9]+", "-", results.machine["processor"].lower()).strip("-")
    write_results(results, folder / f"{name}.jsonl")


def read_kept(folder: Path = FOLDER) -> list[Results]:
    """Return what is kept, the newest first.

    Raises:
        ValueError: a file cannot be read.
    """
    found = [read_results(path) for path in sorted(folder.glob("*.jsonl"))]
    return sorted(found, key=lambda each: each.date, reverse=True)


def read_elsewhere(results: Results, folder: Path = FOLDER) -> list[Results]:
    """Return what is kept of other processors than that of some results, the newest first.

    Raises:
        ValueError: a file cannot be read.
    """
    return [each for each in read_kept(folder) if each.machine["processor"] != results.machine["processor"]]
