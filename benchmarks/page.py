"""The page ``docs/performance.md``: a template, ``performance.md`` beside this file, with tables and figures put in."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.machine import ROOT
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


def write_page(tables: Mapping[str, str], pictures: Sequence[Path], docs: Path = DOCS) -> Path:
    """Write the page and copy its pictures into a folder of documentation, and return the page's path."""
    names = {f"{PREFIX}{path.name}": path for path in pictures}
    page = make_page(TEMPLATE.read_text(), tables, set(names))
    (docs / "images").mkdir(parents=True, exist_ok=True)
    for name, path in names.items():
        write_atomically(docs / "images" / name, path.read_bytes())
    for old in (docs / "images").glob(f"{PREFIX}*.png"):
        if old.name not in names:
            old.unlink()
    write_atomically(docs / "performance.md", page)
    return docs / "performance.md"
