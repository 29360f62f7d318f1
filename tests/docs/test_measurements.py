"""Files of measurements: every row is complete, and every book of the package has a file that the page shows."""

from __future__ import annotations

import csv
import re
from datetime import date
from pathlib import Path

import pytest

from fmmloopy.recipes import shipped_books

FOLDER = Path(__file__).parents[2] / "docs" / "measurements"
if not FOLDER.is_dir():
    pytest.skip("the documentation is not here", allow_module_level=True)

COLUMNS = ["date", "processor", "runtime", "subject", "case", "change", "quantity", "before", "after"]
FILES = sorted(FOLDER.glob("*.csv"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_rows_are_complete_and_differ(path):
    with path.open(newline="") as file:
        columns, *rows = csv.reader(file)
    assert columns == COLUMNS
    seen = set()
    for number, row in enumerate(rows, 2):
        assert len(row) == len(COLUMNS), f"line {number}"
        values = dict(zip(columns, row, strict=True))
        date.fromisoformat(values["date"])
        missing = [name for name in COLUMNS if not values[name] and name not in ("change", "before")]
        assert not missing, f"line {number} has no {missing[0]}"
        what = tuple(row[:-2])
        assert what not in seen, f"line {number} repeats {what}"
        seen.add(what)


def test_every_book_has_a_file_and_every_file_is_shown():
    shown = re.findall(r"^:file: (\S+)$", (FOLDER / "index.md").read_text(), re.MULTILINE)
    assert sorted(shown) == [path.name for path in FILES]
    books = {name for name in shipped_books() if name not in ("sequential", "gpu")}  # not yet measured on a GPU
    assert books <= {path.stem for path in FILES}
