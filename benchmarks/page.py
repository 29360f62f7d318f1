"""The page on performance in ``docs/generated``: a template, ``performance.md`` here, with tables and pictures put in.

The page is made from the records in ``benchmarks/results`` alone, so whether it is stale can be told without measuring.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import unified_diff
from pathlib import Path

from benchmarks.kept import FOLDER, read_elsewhere
from benchmarks.machine import ROOT
from benchmarks.results import Results
from benchmarks.tables import make_tables
from benchmarks.targets import judge, read_reasons
from fmmloopy.common.store import write_atomically

TEMPLATE = Path(__file__).parent / "performance.md"
GENERATED = ROOT / "docs" / "generated"
"""What programs write for the documentation."""

PREFIX = "performance_"
"""Begins the names of the page's pictures."""

PLACE = re.compile(r"\{\{ *(\w+) *\}\}")
"""Where a table stands in the template."""

PICTURE = re.compile(r"^!\[[^\]]*\]\(images/([\w.]+)\)\n\n?", re.MULTILINE)

HEAD = (
    "<!-- Generated: python -m benchmarks --refresh-docs writes it from benchmarks/performance.md "
    f"and {FOLDER.relative_to(ROOT).as_posix()}/. -->\n\n"
)


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


def tables_of(results: Results) -> dict[str, str]:
    """Return all tables of some results, with the targets on other processors of which results are kept.

    Raises:
        ValueError: the reasons for misses, or what is kept, cannot be read.
    """
    reasons = read_reasons()
    elsewhere = [(other, judge(other, reasons)) for other in read_elsewhere(results)]
    return make_tables(results, judge(results, reasons), elsewhere)


def write_page(tables: Mapping[str, str], pictures: Sequence[Path], folder: Path = GENERATED) -> Path:
    """Write the page and copy its pictures into a folder, and return the page's path."""
    names = {f"{PREFIX}{path.name}": path for path in pictures}
    page = make_page(TEMPLATE.read_text(), tables, set(names))
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for name, path in names.items():
        write_atomically(folder / "images" / name, path.read_bytes())
    for old in (folder / "images").glob(f"{PREFIX}*.png"):
        if old.name not in names:
            old.unlink()
    write_atomically(folder / "performance.md", page)
    return folder / "performance.md"


def stale_lines(tables: Mapping[str, str], pictures: Mapping[str, str], folder: Path = GENERATED) -> list[str]:
    """Say what of the page is not what its results give.

    Args:
        tables: of the results.
        pictures: what each picture says that it was drawn from, by the name of its file without PREFIX.
        folder: where the page is.

    Returns:
        Lines: how the text would change, and which pictures would; none if the page is up to date.
    """
    there = {path.name: _drawn_from(path) for path in (folder / "images").glob(f"{PREFIX}*.png")}
    wanted = {f"{PREFIX}{name}": digest for name, digest in pictures.items()}
    page, made = folder / "performance.md", make_page(TEMPLATE.read_text(), tables, set(wanted))
    text = page.read_text() if page.exists() else ""
    lines = list(unified_diff(text.splitlines(), made.splitlines(), "as it is", "as it should be", lineterm="", n=0))
    lines += [f"{name} was drawn from other results" for name in sorted(wanted) if there.get(name) != wanted[name]]
    return lines + [f"{name} shows nothing of the results" for name in sorted(there.keys() - wanted.keys())]


def _drawn_from(picture: Path) -> str:
    """Return what a picture says that it was drawn from; nothing if it does not say."""
    from PIL import Image

    with Image.open(picture) as image:
        return str(image.info.get("Source", ""))
