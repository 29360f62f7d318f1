"""Write the pages of the examples from their docstrings, with the output and the pictures that are kept.

``docs/conf.py`` calls :func:`write_pages`; so does ``python docs/gallery/pages.py``. With ``--run`` and names of
examples, or none for all, these run first, and what they print and draw is kept.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "examples"
GENERATED = HERE.parent / "generated"
MARK = "% Made by docs/gallery/pages.py; do not edit."
"""First line of every page that this program writes, and may therefore delete."""

OVERVIEW = "overview.md"
"""Included by the index: a picture of each example."""

ARGUMENTS = {
    "from_fmm3dpy": ("--n", "5000", "--digits", "4"),
    "laplace_sphere": ("--n", "200000"),
    "vortex_ring": ("--steps", "36"),
}
"""What examples run with for their pages, where it is not the default."""


def names() -> list[str]:
    """Return the names of all examples that run as programs."""
    return sorted(path.stem for path in EXAMPLES.glob("*.py") if '__name__ == "__main__"' in path.read_text())


def output_of(name: str) -> Path:
    """Return the file with what an example has printed."""
    return GENERATED / "output" / f"example-{name}.txt"


def picture_of(name: str) -> Path:
    """Return the picture of an example."""
    return GENERATED / "images" / f"example_{name}.png"


def command_of(name: str) -> str:
    """Return the command whose output and picture are kept."""
    return " ".join(["python", f"examples/{name}.py", *ARGUMENTS.get(name, ())])


def run(name: str) -> None:
    """Run an example in an empty folder, and keep what it prints and draws."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(EXAMPLES / f"{name}.py"), *ARGUMENTS.get(name, ()), "--plot", "picture.png"]
        environment = {**os.environ, "COLUMNS": "120", "NO_COLOR": "1", "MPLBACKEND": "Agg"}
        result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        if result.returncode:
            raise RuntimeError(f"{' '.join(command)}: exit status {result.returncode}\n{result.stdout}{result.stderr}")
        kept = (line.rstrip() for line in result.stdout.splitlines() if "picture" not in line)
        output_of(name).write_text("".join(f"{line}\n" for line in kept))
        drawn = Path(folder) / "picture.png"
        if drawn.exists():
            shutil.copy(drawn, picture_of(name))


def heading_and_text(name: str) -> tuple[str, str]:
    """Return the first sentence of an example's docstring and the rest of it, as Markdown."""
    docstring = ast.get_docstring(ast.parse((EXAMPLES / f"{name}.py").read_text())) or ""
    heading, _, text = docstring.partition("\n")
    # Names of arrays and functions are as in Markdown already, apart from the double quotes of reStructuredText.
    return heading.rstrip("."), re.sub(r"``(.+?)``", r"`\1`", text.strip("\n"))


def page(name: str) -> str:
    """Return the page of an example."""
    heading, text = heading_and_text(name)
    parts = [MARK, f"# {heading}", text]
    if picture_of(name).exists():
        parts.append(f"![{heading}](../generated/images/{picture_of(name).name})")
    if output_of(name).exists():
        parts.append(
            f"## Output\n\nOf `{command_of(name)}`; times are those of a shared machine with two cores.\n\n"
            f"```{{literalinclude}} ../generated/output/{output_of(name).name}\n:language: text\n```"
        )
    parts.append(f"## Program\n\n```{{literalinclude}} ../../examples/{name}.py\n:language: python\n```")
    return "\n\n".join(parts) + "\n"


def overview() -> str:
    """Return the pictures of all examples, each with its first sentence, as a link to its page."""
    entries = []
    for name in names():
        heading, _ = heading_and_text(name)
        picture = f"[![{heading}](../generated/images/{picture_of(name).name})]({name}.md)\n\n"
        entries.append(f"## {name}\n\n{picture if picture_of(name).exists() else ''}[{heading}]({name}.md).")
    return "\n\n".join([MARK, *entries]) + "\n"


def write_pages(folder: Path = HERE) -> list[Path]:
    """Write a page for each example, and the overview; delete pages of examples that no longer exist.

    Pages that have not changed are left alone, so that Sphinx need not read them again.
    """
    pages = {f"{name}.md": page(name) for name in names()} | {OVERVIEW: overview()}
    for path in folder.glob("*.md"):
        if path.name not in pages and path.read_text().startswith(MARK):
            path.unlink()
    for name, text in pages.items():
        path = folder / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
    return [folder / name for name in pages]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", nargs="*", metavar="EXAMPLE", help="run these examples first, or all")
    arguments = parser.parse_args(argv)
    for name in arguments.run if arguments.run else names() if arguments.run == [] else []:
        print(name, flush=True)
        run(name)
    write_pages()


if __name__ == "__main__":
    main()
