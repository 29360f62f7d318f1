"""What is shown during long work: on a terminal, in a notebook, and nowhere else."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from types import ModuleType

import numpy as np
from conftest import OPENCL, needs_opencl

from fmmloopy.checking.meter import Meter
from fmmloopy.checking.request import LAYERS
from fmmloopy.cli.common import wrapped
from fmmloopy.common import progress
from fmmloopy.common.progress import Progress, doing, generating, showing, stepping

BOOK = """
from fmmloopy import RecipeBook
from fmmloopy.recipes import fix_lanes, separate_lanes


def m2m(knl, *, ilanes=4):
    knl = separate_lanes(fix_lanes(knl, ilanes=ilanes, blanes=1))
    yield "lanes", knl
    if WRONG:
        kernel = knl.default_entrypoint
        changed = [i.copy(expression=2 * i.expression) if i.id.startswith("store") else i for i in kernel.instructions]
        yield "twice", knl.with_kernel(kernel.copy(instructions=changed))


BOOK = RecipeBook("mine", device="", recipes={"m2m": m2m})
"""


def on_a_terminal(columns, *words, **variables):
    """Run a command on a terminal; return its exit status and what it wrote there, without colours and cursor moves."""
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    environment |= {"TERM": "xterm", "NO_COLOR": "1"} | variables
    with subprocess.Popen(
        [sys.executable, *words], stdin=child, stdout=child, stderr=child, env=environment
    ) as process:
        os.close(child)
        said = b""
        try:
            while chunk := os.read(parent, 65536):
                said += chunk
        except OSError:  # how the end of a terminal looks
            pass
    os.close(parent)
    return process.returncode, re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", said.decode())


COMMAND = ("-c", "from fmmloopy.cli import main; main()")


@needs_opencl
def test_a_check_shows_operator_layer_percentage_and_time_left(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("WRONG = False\n" + BOOK)
    words = ("check", str(path), "--device", OPENCL[0].description, "--dtype", "float64")
    status, text = on_a_terminal(100, *COMMAND, *words)
    assert status == 0, text
    assert re.search("checking mine: m2m, float64, (static|exact|hostile|numerical|sanitized)", text)
    assert "checking mine: whole evaluation, float64, fmm" in text
    shares = [int(share) for share in re.findall(r"(\d+)%", text)]
    assert min(shares) < max(shares)
    assert shares == sorted(shares)
    assert re.search(r"%, about \d+ (s|min) left", text)


@needs_opencl
def test_findings_are_merged_across_precisions_and_wrapped(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("WRONG = True\n" + BOOK)
    words = (*COMMAND, "check", str(path), "--device", OPENCL[0].description, "--reproducers", str(tmp_path))
    status, text = on_a_terminal(70, *words)
    assert status == 1
    found = text[text.rindex("mine, m2m, ") :].splitlines()
    assert found[0].startswith("mine, m2m, float64 and float32: exact, first at step 2 'twice'")
    assert all(line.startswith("    ") for line in found[1:3])
    assert all(len(line) <= 70 for line in found if "to see it" not in line)
    (program,) = (line for line in found if "to see it: python " in line)
    assert os.path.exists(program.split("python ", 1)[1].strip()), "a command to copy is not broken"
    assert "NOT certified, 1 finding (" in text
    result = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    assert result.stdout.splitlines()[0].startswith("mine, m2m, float64 and float32: exact, ")
    assert result.stdout.splitlines()[1].startswith("    to see it"), "one line each where programs read"
    assert "checking mine" not in result.stdout + result.stderr, "progress is for terminals"


@needs_opencl
def test_an_evaluation_shows_one_bar_with_its_steps(tmp_path):
    rng = np.random.default_rng(1)
    np.savez(tmp_path / "points.npz", points=rng.random((300, 3)), charges=rng.random(300))
    output = tmp_path / "out.h5"
    # Of a function whose code does not come with the package.
    words = ("evaluate", str(tmp_path / "points.npz"), "-o", str(output), "--device", OPENCL[0].description)
    words += ("--kernel", "exp(-2*r)/r")
    environment = {"FMMLOOPY_CACHE_DIR": str(tmp_path / "cache")}
    status, text = on_a_terminal(100, *COMMAND, *words, **environment)
    assert status == 0, text
    shown, printed = text.split("300 sources", 1)
    assert re.search(r"\d/9 code and arrays: code for \w+ ", shown)
    assert "preparing" not in shown, "kernels have no bar of their own"
    numbers = [int(number) for number in re.findall(r"(\d)/9 ", shown)]
    assert numbers == sorted(numbers)
    assert numbers[-1] == 9
    assert f"{os.path.basename(output)}" in printed
    status, text = on_a_terminal(100, *COMMAND, *words, "--json", **environment)
    assert text.lstrip().startswith("{"), "no bar"


def test_steps_and_what_is_done_in_them(monkeypatch):
    bars = []

    class Bar:
        def __init__(self, *columns):
            bars.append([])

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def add_task(self, *_, **__):
            return 0

        def update(self, task, description, completed, step):
            bars[-1].append((step, description, round(completed, 2)))

    monkeypatch.setattr(progress, "_on_terminal", lambda: True)
    monkeypatch.setattr(progress, "_bar", Bar)
    with stepping(["reading", "tables", "code", "writing"]) as begin:
        begin("reading")
        with doing("tables"), doing("code"), generating("gpu") as notify:
            notify("p2p")
        with doing("code"), generating("gpu") as notify:
            notify("p2p")
            notify("l2p")
        begin("writing")
        with generating("gpu") as notify:
            notify("m2p")
    assert len(bars) == 1
    assert bars[0] == [
        ("1/4", "reading", 0),
        ("2/4", "tables", 1),
        ("2/4", "tables: code", 1),
        ("2/4", "tables: code for p2p", 1.09),
        ("3/4", "code", 2),
        ("3/4", "code: code for p2p", 2.09),
        ("3/4", "code: code for l2p", 2.18),
        ("4/4", "writing", 3),
        ("4/4", "writing: code for m2p", 3.09),
    ]


def test_errors_wrap_on_a_terminal():
    status, text = on_a_terminal(50, *COMMAND, "check", "no_such_book_at_all")
    lines = text.splitlines()
    assert status == 2
    assert lines[0].startswith("error: no recipe book 'no_such_book_at_all'")
    assert len(lines) > 2
    assert all(line.startswith("    ") for line in lines[1:])
    assert max(map(len, lines)) <= 50


def test_words_and_paths_stay_whole():
    path = "/a/path/" + 40 * "long/" + "file.py"
    assert path in wrapped(f"see {path} for a well-known remedy", 30)[1]
    assert wrapped("a well-known remedy", 8 + 20) == ["a well-known remedy"]
    assert wrapped("", 80) == [""]


# -- what is known of the progress


def test_work_of_several_threads_is_added_up():
    told = []
    meter = Meter(told.append, requests=2, wholes=1, sanitizes=False)
    for what in ("p2p, float64", "p2p, float32"):
        for layer in ("static", "static", "symbolic", "exact", "hostile", "numerical"):
            meter.begin(what, layer)
    meter.end("p2p, float64", LAYERS[:-1])
    meter.end("p2p, float32", LAYERS[:-1])
    meter.begin("whole evaluation, float64", "fmm")
    meter.end("whole evaluation, float64", ("fmm",))
    assert [progress.what for progress in told[:2]] == ["p2p, float64, static", "p2p, float64, symbolic"]
    shares = [progress.share for progress in told]
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert shares[-1] == 1
    assert len(told) == 5 + 5 + 2 + 2


def test_time_left(monkeypatch):
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    clock = progress._Clock()
    assert clock.left(0.5) == " 50%", "nothing is known yet"
    now = 130.0
    assert clock.left(0.25) == " 25%, about 2 min left"
    assert clock.left(0.5) == " 50%, about 30 s left"
    assert clock.left(1.0) == "100%"
    now = 100.0 + 3 * 3600
    assert clock.left(0.5) == " 50%, about 3.0 h left"


def test_a_notebook_has_a_line_that_changes(monkeypatch):
    """As IPython's kernel shows it: one output, updated."""
    shown = []

    class Handle:
        def update(self, content, raw):
            shown.append(("updated", content["text/plain"]))

    def display(content, raw, display_id):
        assert raw
        assert display_id
        shown.append(("displayed", content["text/plain"]))
        return Handle()

    module = ModuleType("IPython.display")
    module.display = display
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    monkeypatch.setattr(progress, "_in_notebook", lambda: True)
    with showing("checking mine") as show:
        show(Progress("p2p, float64, static", 0.0))
        show(Progress("p2p, float64, exact", 0.25))
    assert shown == [
        ("displayed", "checking mine: p2p, float64, static    0%"),
        ("updated", "checking mine: p2p, float64, exact   25%"),
    ]


def test_elsewhere_there_is_nothing(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with showing("checking") as show:
        show(Progress("p2p", 0.5))
    assert stream.getvalue() == ""
