"""Run the program of the tutorial, a cell at a time: python run_tutorial.py [--write]

A cell begins with a comment that is one word. With --write, what each cell prints becomes the text that the page shows.
"""

import contextlib
import io
import re
import sys
import textwrap
from pathlib import Path

HERE = Path(__file__).resolve().parent
OUTPUT = HERE.parent / "generated" / "output"


def cells(program: str) -> dict[str, str]:
    """Return the code of each cell by its name; the body of main() is as if it stood outside."""
    imports, body = program.split("def main() -> None:\n")
    flat = imports + textwrap.dedent(body.partition("\nif __name__")[0])
    _, *parts = re.split(r"^# (\w+)\n", flat, flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def main(write: bool) -> None:
    OUTPUT.mkdir(exist_ok=True)
    names: dict[str, object] = {}
    for cell, code in cells((HERE / "tutorial.py").read_text()).items():
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, f"tutorial.py, {cell}", "exec"), names)
        print(f"# {cell}\n{printed.getvalue()}", flush=True)
        if write and printed.getvalue():
            (OUTPUT / f"tutorial-{cell}.txt").write_text(printed.getvalue())


if __name__ == "__main__":
    main(write="--write" in sys.argv)
