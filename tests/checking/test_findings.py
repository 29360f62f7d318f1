"""What a check reports: first failing step, smallest input, a program that shows it; crashes and hangs are findings."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import loopy as lp
import numpy as np
import pytest
from conftest import OPENCL, slow, specification

from fmmloopy.bookshelf.certificates import operator_status, status
from fmmloopy.checking import sanitizer
from fmmloopy.checking.case import run_case
from fmmloopy.checking.check import check_book
from fmmloopy.checking.real_cases import real_case
from fmmloopy.checking.reproducer import write_reproducer
from fmmloopy.execution.generate import compile_operator
from fmmloopy.execution.key import CodeKey
from fmmloopy.execution.runtime import make_runtime
from fmmloopy.recipes import RecipeBook, load_recipes
from fmmloopy.testing import assert_recipe
from fmmloopy.transforms import steps

pytestmark = pytest.mark.skipif(not OPENCL, reason="no OpenCL device")

needs_oclgrind = pytest.mark.skipif(sanitizer.find_library() is None, reason="oclgrind is not installed")


def _statement(knl, pattern, text):
    """Replace the right-hand side of statements whose id begins with a pattern."""
    kernel = knl.default_entrypoint
    changed = [
        i.copy(expression=lp.symbolic.parse(text)) if i.id.startswith(pattern) else i for i in kernel.instructions
    ]
    return knl.with_kernel(kernel.copy(instructions=changed))


def _book(mistake, operator="p2p"):
    def recipe(knl):
        knl = steps.lane_arrays(knl, 8)
        yield "targets in lanes", knl
        knl = steps.one_group_per(knl, "ibox")
        yield "one group per box", knl
        knl = mistake(knl)
        yield "mistake", knl
        yield "nothing more", steps.unroll(knl, "t_store")

    return RecipeBook("wrong", device="", recipes={operator: recipe})


def _check(book, **options):
    return check_book(book, device=OPENCL[0], dtypes=[np.float64], **options)


def test_a_wrong_result_is_shrunk_and_reproduced(tmp_path):
    book = _book(lambda knl: _statement(knl, "ttiles", "(tgt_end - tgt_start) // 8"))
    report = _check(book, reproducers=tmp_path)
    (finding,) = report.findings
    assert (finding.operator, finding.layer, finding.step) == ("p2p", "exact", "3 'mistake'")
    assert finding.case == "1 target boxes, 1 list entries, 1 targets, 1 sources"
    assert "; 1 of " in finding.message
    assert "expected" in finding.message
    program = Path(finding.reproducer)
    assert {path.suffix for path in tmp_path.iterdir()} == {".py", ".cl"}
    assert "fmmloopy" not in program.read_text().replace(str(tmp_path), "")
    result = subprocess.run([sys.executable, program], capture_output=True, text=True, check=False)
    assert result.returncode == 1, result.stderr
    assert "1 entries differ" in result.stdout
    # Mended, the program says so.
    fixed = program.with_suffix(".cl")
    source = fixed.read_text()
    wrong = next(line for line in source.splitlines() if line.strip().startswith("ttiles ="))
    fixed.write_text(source.replace(wrong, "ttiles = (tgt_end - tgt_start + 7) / 8;"))
    assert subprocess.run([sys.executable, program], capture_output=True, check=False).returncode == 0


def test_programs_launch_kernels_with_more_local_axes_than_groups(tmp_path):
    """As the runtime does: what the device computes is what the program then expects."""
    device, case = OPENCL[0], real_case(specification("p2p"))
    code = compile_operator(CodeKey(case.spec, load_recipes("simd_cpu"), device))
    code = replace(code, local_size=(*code.local_size, 1, 1))
    assert len(code.global_size) < len(code.local_size)
    expected = run_case(case, code, make_runtime(device))
    assert not np.isnan(expected["potentials"][:, :1]).any()
    program = write_reproducer(tmp_path, "many_axes", "a title", case, code, expected, device)
    result = subprocess.run([sys.executable, program], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "0 entries differ from those of the sequential kernel\n")


@slow
def test_a_segmentation_fault_on_large_inputs_is_a_finding(tmp_path):
    """An index that is wrong beyond 16 bits; the input is small in work, and in the program that reproduces it."""

    def recipe(knl):
        knl = steps.lane_arrays(knl, 4)
        yield "lanes", knl
        place = "itgt(t_load) + 700000000*(tgt_start // 65000)"
        yield "mistake", _statement(knl, "x0", f"targets[0, {place}] - centres[0, srcbox]")

    report = _check(RecipeBook("wrong", "", {"l2p": recipe}), reproducers=tmp_path)
    (finding,) = report.findings
    assert (finding.layer, finding.step) == ("hostile", "2 'mistake'")
    assert "signal 11" in finding.message
    assert re.fullmatch(r"1 target boxes, [12] list entries, [1-9] targets", finding.case)
    program = Path(finding.reproducer)
    assert program.stat().st_size < 2**20
    assert subprocess.run([sys.executable, program], capture_output=True, check=False).returncode == -11


def test_a_kernel_that_does_not_return_is_a_finding():
    def endless(knl):
        knl = _statement(knl, "x", "targets[0, 0] + 0*tgt_start")
        # One work-group alone, which keeps one core busy.
        return _statement(knl, "ttiles", "if(ibox == 0, 2000000000, (tgt_end - tgt_start + 7) // 8)")

    def recipe(knl):
        knl = steps.one_group_per(steps.lane_arrays(knl, 8), "ibox")
        yield "lanes and groups", knl
        yield "mistake", endless(knl)

    report = _check(RecipeBook("wrong", "", {"p2p": recipe}), limit=2.0)
    (finding,) = report.findings
    assert (finding.layer, finding.step) == ("exact", "2 'mistake'")
    assert "did not return within 2 s" in finding.message


def test_a_recipe_that_does_not_return_is_a_finding():
    def endless(knl):
        while True:
            time.sleep(1)

    report = _check(_book(endless), limit=5.0)
    (finding,) = report.findings
    assert finding.layer == "static"
    assert "did not return within 5 s" in finding.message
    assert "after step 2 'one group per box'" in finding.message


def test_a_recipe_that_ends_the_process_is_a_finding():
    report = _check(_book(lambda knl: os._exit(0)))
    (finding,) = report.findings
    assert finding.layer == "static"
    assert "the process exited with status 0" in finding.message


@needs_oclgrind
def test_a_race_that_gives_the_right_answer_is_a_finding(tmp_path):
    def recipe(knl):
        knl = steps.fix_lanes(knl, blanes=1, ilanes=8)
        yield "lanes", steps.separate_lanes(knl)
        knl = steps.separate_lanes(knl)
        # Two groups for each box, which both do all of it and store the same numbers.
        kernel = knl.default_entrypoint
        instructions = [
            i.copy(within_inames=i.within_inames | {"twice"}) if "btile" in i.within_inames else i
            for i in kernel.instructions
        ]
        more = lp.make_kernel("{[twice]: 0 <= twice < 2}", "<> a = twice", lang_version=(2018, 2)).default_entrypoint
        kernel = kernel.copy(instructions=instructions, domains=[*kernel.domains, *more.domains])
        yield "twice", lp.tag_inames(knl.with_kernel(kernel), {"btile": "g.0", "twice": "g.1"})

    book = RecipeBook("racy", device="", recipes={"check_to_equivalent": recipe})
    report = _check(book, reproducers=tmp_path)
    (finding,) = report.findings
    assert (finding.layer, finding.step) == ("sanitized", "2 'twice'")
    assert "data race" in finding.message
    assert "equivalent[" in finding.message
    assert finding.case == "1 boxes"
    assert "oclgrind" in Path(finding.reproducer).read_text()


def test_without_oclgrind_a_line_says_so(monkeypatch, no_whole_evaluations):
    monkeypatch.setattr(sanitizer, "find_library", lambda: None)
    report = _check(RecipeBook("right", "", {"check_to_equivalent": _lanes}), operators=["check_to_equivalent"])
    assert report.ok
    assert any("oclgrind was not found" in text and "apt-get install oclgrind" in text for text in report.skipped)


def _lanes(knl):
    yield "lanes", steps.separate_lanes(steps.fix_lanes(knl, blanes=3, ilanes=4))


def test_certificates_hold_until_something_changes(own_cache, no_whole_evaluations):
    device = OPENCL[0]
    book = RecipeBook("certified_here", "", {"check_to_equivalent": _lanes, "m2m": _lanes})
    assert status(book, device) == "none"
    assert check_book(book, ["check_to_equivalent"], device, [np.float64]).ok
    assert operator_status(book, device, "check_to_equivalent", "float64") == "certified"
    assert operator_status(book, device, "check_to_equivalent", "float32") == "none"
    assert operator_status(book, device, "p2p", "float64") == "certified"  # runs as the sequential kernel
    assert status(book, device) == "none for m2m"

    def other(knl):
        yield "other lanes", steps.separate_lanes(steps.fix_lanes(knl, blanes=2, ilanes=4))

    changed = RecipeBook("certified_here", "", {"check_to_equivalent": other})
    assert status(changed, device) == "stale: recipe changed since"
    assert operator_status(book, device, "check_to_equivalent", "float64", {}) == "certified"
    newer = type(device)(device.backend, device.name, device.description, "another driver", True, device.handle)
    assert operator_status(book, newer, "check_to_equivalent", "float64") == "stale: driver changed since"

    def wrong(knl):
        yield "mistake", steps.separate_lanes(steps.fix_lanes(_statement(knl, "store", "0*scales[0]"), ilanes=4))

    failing = RecipeBook("certified_here", "", {"check_to_equivalent": wrong})
    assert not check_book(failing, device=device, dtypes=[np.float64]).ok
    assert status(failing, device) == "failed for check_to_equivalent"


def test_assert_recipe(no_whole_evaluations):
    def wrong(knl):
        yield from _lanes(knl)
        yield "mistake", steps.separate_lanes(steps.fix_lanes(_statement(knl, "store", "0*scales[0]"), ilanes=4))

    assert_recipe(_lanes, "check_to_equivalent", OPENCL[0], [np.float64])
    book = RecipeBook("wrong", "", {"check_to_equivalent": wrong})
    with pytest.raises(AssertionError, match="wrong, check_to_equivalent, float64: exact, first at step 2 'mistake'"):
        assert_recipe(book, "check_to_equivalent", dtypes=["float64"])
    with pytest.raises(ValueError, match="certified_p2p has no recipe for p2m"):
        assert_recipe(RecipeBook("certified_p2p", "", {"p2p": _lanes}), "p2m")
    with pytest.raises(ValueError, match="dtype is 'foo', expected float32 or float64"):
        assert_recipe(_lanes, "check_to_equivalent", dtypes=["foo"])
    with pytest.raises(ValueError, match="operator is None, expected the operator that the recipe is for"):
        assert_recipe(_lanes)


# -- the command


def test_an_interrupted_check_ends_at_once_and_leaves_no_process(tmp_path):
    slow = "import time\ndef p2p(knl):\n    time.sleep(100)\n    yield 'late', knl\n"
    (tmp_path / "slow.py").write_text(HEAD + slow + TAIL)
    command = [sys.executable, "-c", "from fmmloopy.cli import main; main()", "check", "slow.py"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not _children(process.pid):
        time.sleep(0.1)
    time.sleep(3)
    children = _children(process.pid)
    assert children
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode != 0
    deadline = time.monotonic() + 10  # a fork server ends when its owner has
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < deadline, children
        time.sleep(0.05)


def _children(pid):
    found = Path(f"/proc/{pid}/task").glob("*/children")
    return [child for path in found for child in path.read_text().split()]


def _run(*arguments, cwd):
    command = [sys.executable, "-c", "from fmmloopy.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


HEAD = "import loopy as lp\nfrom fmmloopy import RecipeBook\nfrom fmmloopy.transforms import steps\n"
TAIL = "BOOK = RecipeBook('bad', device='', recipes={'p2p': p2p})\n"

# text of the recipe, exit status, what the line says
BAD = {
    "syntax error": ("def p2p(knl)\n    yield\n", 2, "bad.py, line 4: expected ':'"),
    "no book": (None, 2, "defines no BOOK"),
    "yields nothing": ("def p2p(knl):\n    return\n    yield\n", 1, "the recipe yielded no step"),
    "wrong type": ("def p2p(knl):\n    yield 'one', 3\n", 1, "step 1 'one': yielded a"),
    "raises": (
        "def p2p(knl):\n    yield 'one', lp.split_iname(knl, 'isrc', 4)\n",
        1,
        "no iname 'isrc'|'isrc' is a rule",
    ),
}


@pytest.mark.parametrize(("text", "code", "line"), BAD.values(), ids=BAD)
def test_a_bad_file_is_one_line_and_leaves_nothing_behind(text, code, line, tmp_path):
    (tmp_path / "bad.py").write_text(HEAD + (text + TAIL if text else ""))
    result = _run("check", "bad.py", cwd=tmp_path)
    assert result.returncode == code, result.stdout + result.stderr
    said = (result.stdout + result.stderr).splitlines()
    (about,) = [words for words in said if any(part in words for part in line.split("|"))]
    assert "Traceback" not in result.stderr
    assert len(said) <= 3
    assert {path.name for path in tmp_path.iterdir()} <= {"bad.py", "__pycache__"}, about


def test_the_command_reports_in_text_and_in_json(tmp_path):
    text = """
        def check_to_equivalent(knl):
            yield "lanes", steps.separate_lanes(steps.fix_lanes(knl, ilanes=4))
        BOOK = RecipeBook("small", device="", recipes={"check_to_equivalent": check_to_equivalent})
    """
    (tmp_path / "small.py").write_text(HEAD + textwrap.dedent(text))
    options = ("check", "small.py", "--dtype", "float64", "--device", OPENCL[0].description)
    result = _run(*options, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "small: certified (quick, check_to_equivalent in float64" in result.stdout
    document = json.loads(_run(*options, "--json", cwd=tmp_path).stdout)
    assert document["ok"]
    assert document["operators"] == ["check_to_equivalent"]
    result = _run("check", "small.py", "--operator", "p3p", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert "operator is 'p3p', expected one of p2p, p2p_mutual, p2m" in result.stderr
