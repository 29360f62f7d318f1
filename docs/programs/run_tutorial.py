"""Run the programs of two pages, tutorial and kernels, a cell at a time: python run_tutorial.py [NAME] [--write]

A cell begins with a comment that is one word. With --write, what each cell prints becomes the text that the page shows.
"""

import contextlib
import io
import re
import sys
import textwrap
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROGRAMS = ("tutorial", "kernels")
OUTPUT = HERE.parent / "generated" / "output"


def cells(program: str) -> dict[str, str]:
    """Return the code of each cell by its name; the body of main() is as if it stood outside."""
    imports, body = program.split("def main() -> None:\n")
    flat = imports + textwrap.dedent(body.partition("\nif __name__")[0])
    _, *parts = re.split(r"^# (\w+)\n", flat, flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def run(program: str, write: bool) -> None:
    """Run the cells of a program."""
    names: dict[str, object] = {}
    for cell, code in cells((HERE / f"{program}.py").read_text()).items():
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, f"{program}.py, {cell}", "exec"), names)
        print(f"# {cell}\n{printed.getvalue()}", flush=True)
        if write and printed.getvalue():
            (OUTPUT / f"{program}-{cell}.txt").write_text(printed.getvalue())


def main(programs: list[str], write: bool) -> None:
    OUTPUT.mkdir(exist_ok=True)
    for program in programs or PROGRAMS:
        run(program, write)


if __name__ == "__main__":
    main([word for word in sys.argv[1:] if word != "--write"], write="--write" in sys.argv)
