"""The page ``docs/performance.md``: a template, ``performance.md`` beside this file, with tables and figures put in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from benchmarks.machine import ROOT
from benchmarks.pictures import draw_pictures
from benchmarks.results import Results
from benchmarks.tables import make_tables
from fmmloopy.cache import write_atomically

TEMPLATE = Path(__file__).parent / "performance.md"
DOCS = ROOT / "docs"
PREFIX = "performance_"
"""Begins the names of the page's pictures."""

PLACE = re.compile(r"\{\{ *(\w+) *\}\}")
"""Where a table stands in the template."""

PICTURE = re.compile(r"^!\[[^\]]*\]\(images/([\w.]+)\)\n\n?", re.MULTILINE)

HEAD = "<!-- Written by python -m benchmarks --write-docs; what it says stands in benchmarks/performance.md. -->\n\n"


def make_page(template: str, tables: Mapping[str, str], pictures: set[str]) -> str:
    """Fill in a template.

    Args:
        template: Markdown, with ``{{ name }}`` where a table is to be.
        tables: by name, see `benchmarks.tables.make_tables`.
        pictures: names of the files that there are; those of others with PREFIX are left out.

    Raises:
        ValueError: the template asks for a table that there is not.
    """
    asked = set(PLACE.findall(template))
    if unknown := sorted(asked - set(tables)):
        raise ValueError(f"the template asks for {unknown[0]!r}, expected one of {', '.join(tables)}")
    there = PICTURE.sub(
        lambda found: found[0] if found[1] in pictures or not found[1].startswith(PREFIX) else "", template
    )
    return HEAD + PLACE.sub(lambda found: tables[found[1]], there)


def write_page(results: Results, reasons: Mapping[str, Mapping[str, str]], docs: Path = DOCS) -> Path:
    """Write the page and its pictures into a folder of documentation, and return the page's path."""
    (docs / "images").mkdir(parents=True, exist_ok=True)
    for old in (docs / "images").glob(f"{PREFIX}*.png"):
        old.unlink()
    pictures = draw_pictures(results, docs / "images", PREFIX)
    page = make_page(TEMPLATE.read_text(), make_tables(results, reasons), {path.name for path in pictures})
    write_atomically(docs / "performance.md", page)
    return docs / "performance.md"
