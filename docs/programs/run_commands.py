"""Run the commands of a page of the documentation, in order, in an empty folder: python run_commands.py [--write]

Commands are the lines that begin with "$ " in blocks of ``console``. A file that a page shows with the caption NAME.py
is NAME.py in that folder from there on. With --write, what the commands print becomes the text that the page shows, and
the pictures that they draw the page's pictures. Without it, a listing of code that differs from the page's fails, and
commands that check or measure do so with less: in float64, and on few points.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent
GENERATED = DOCS / "generated"
PAGE = DOCS / "write_a_recipe.md"

BLOCK = re.compile(r"^```(\{literalinclude\} (?P<file>\S+)|console)\n(?P<text>.*?)^```", re.MULTILINE | re.DOTALL)

LESS = {"check": " --dtype float64", "ladder": " --points 5000", "tune": " --points 5000 --dtype float64"}
"""What is added to commands whose output is not kept."""


def actions(page: Path) -> Iterator[tuple[str, str]]:
    """Yield ("copy", "file name") and ("run", command) as they come on the page."""
    for block in BLOCK.finditer(page.read_text()):
        if block["file"]:
            caption = re.search(r":caption: (\S+\.py)", block["text"])
            if caption:
                yield "copy", f"{block['file']} {caption[1]}"
        else:
            yield from (("run", line[2:]) for line in block["text"].splitlines() if line.startswith("$ "))


def output_name(command: str) -> str:
    """Return the file that holds what a command prints."""
    words = [word for word in command.replace("fmmloopy ", "").replace("--operator p2p", "").split() if "/" not in word]
    return "-".join(word.strip("-").removesuffix(".py") for word in words) + ".txt"


def is_the_same_everywhere(command: str) -> bool:
    """Return whether a command prints the same on every machine: what a step does to a kernel, not rates or devices."""
    return "show" in command and "--step" in command


def main(write: bool) -> int:
    (GENERATED / "output").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for what, text in actions(PAGE):
            if what == "copy":
                source, name = text.split()
                shutil.copy(DOCS / source, Path(folder) / name)
                continue
            command = text if write else text + LESS.get(text.split()[1], "")
            print("$", command, flush=True)
            environment = {**os.environ, "COLUMNS": "100"}
            result = subprocess.run(command, shell=True, cwd=folder, capture_output=True, text=True, env=environment)
            print(result.stdout, result.stderr, flush=True)
            if result.returncode:
                print(f"exit status {result.returncode}")
                return 1
            listing = GENERATED / "output" / output_name(text)
            printed = "".join(f"{line.rstrip()}\n" for line in result.stdout.splitlines())
            if write:
                listing.write_text(printed)
            elif is_the_same_everywhere(text) and printed != listing.read_text():
                print(f"{listing} is stale: python {Path(__file__).relative_to(DOCS.parent)} --write writes it anew")
                return 1
        if write:
            for picture in Path(folder).glob("*.png"):
                shutil.copy(picture, GENERATED / "images" / picture.name)
    return 0


if __name__ == "__main__":
    sys.exit(main(write="--write" in sys.argv))
