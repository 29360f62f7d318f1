"""Looking at recipes: their steps, the mathematics and the code after each, and what the machine code does."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil

import loopy as lp
import numpy as np
import pytest
from conftest import devices, made_up_device, made_up_nvidia, made_up_pocl

from fmmloopy.cli import main
from fmmloopy.execution.devices import C_DEVICE, find_devices
from fmmloopy.greens import laplace, yukawa
from fmmloopy.operators import OPERATORS
from fmmloopy.recipes import SEQUENTIAL, RecipeBook, RecipeError, fix_lanes, load_recipes, shipped_books
from fmmloopy.showing import show
from fmmloopy.showing.disassembly import DISASSEMBLERS
from fmmloopy.showing.math_text import math_text
from fmmloopy.showing.show import (
    _build_or_launch,
    compiled_step,
    device_source,
    list_steps,
    machine_code,
    shown_operators,
    step_diffs,
    suited_device,
)

CAN_READ = platform.machine() in ("x86_64", "AMD64") and any(map(shutil.which, DISASSEMBLERS))
needs_disassembler = pytest.mark.skipif(not CAN_READ, reason="neither objdump nor llvm-objdump, or not x86-64")


# -- steps


def test_the_steps_of_a_recipe():
    recipe = list_steps(load_recipes("pocl_cpu"), "p2p")
    assert [step.name for step in recipe.steps] == [
        "as written",
        "targets in lanes",
        "one work-group per box",
        "reciprocal square root by Newton's iteration",
        "shared factors, one test for coinciding points",
        "targets in vectors",
    ]
    assert recipe.why.startswith("Vectors of targets")
    assert recipe.parameters == (show.Parameter("width", 64, (32, 64)),)


def test_steps_are_those_of_the_device():
    book = load_recipes("pocl31_cpu")
    names = {}
    for processor, roots in (("AMD EPYC", "auto"), ("Intel(R) Xeon(R)", "newton")):
        recipe = list_steps(book, "p2p", device=made_up_pocl("3.1", processor))
        assert next(p.default for p in recipe.parameters if p.name == "roots") == roots
        names[roots] = recipe.steps[3].name
    assert names["newton"] == "reciprocal square root by Newton's iteration"
    assert (
        names["auto"]
        == list_steps(book, "p2p").steps[3].name
        == "half of the reciprocal square roots by Newton's iteration"
    )


def test_an_operator_without_a_recipe_has_its_sequential_step():
    recipe = list_steps(RecipeBook("empty", device="x"), "m2l")
    assert [step.name for step in recipe.steps] == ["as written", "sequential"]
    assert recipe.parameters == ()


def test_yukawa_has_a_step_more():
    steps = list_steps(load_recipes("pocl_cpu"), "p2p", yukawa()).steps
    assert steps[4].name == "exponential by a polynomial"


def test_which_operators_are_shown():
    book = RecipeBook("one", device="x", recipes={"m2p": show.sequential_recipe})
    assert shown_operators(book) == ("m2p",)
    assert shown_operators(book, ["p2p", "l2l"]) == ("p2p", "l2l")
    assert shown_operators(SEQUENTIAL) == tuple(OPERATORS)
    with pytest.raises(ValueError, match="operator is 'p2q', expected one of p2p, p2p_mutual, p2m"):
        shown_operators(book, ["p2q"])


def test_a_step_out_of_range():
    recipe = list_steps(load_recipes("pocl_cpu"), "p2p")
    for number in (-1, 6):
        with pytest.raises(ValueError, match=f"step is {number}; p2p of pocl_cpu has steps 0 to 5"):
            recipe.step(number)


def test_a_recipe_that_raises_is_reported_as_by_the_recipes():
    def broken(knl):
        yield "lanes", fix_lanes(knl, tlanes=4)
        raise RuntimeError("out of ideas")

    with pytest.raises(RecipeError, match=r"mine, p2p, after step 1 'lanes': RuntimeError: out of ideas"):
        list_steps(RecipeBook("mine", device="x", recipes={"p2p": broken}), "p2p")


def test_the_device_that_a_book_is_for():
    first = find_devices()[0]
    assert suited_device(RecipeBook("any", device="(?!)")) == first
    assert suited_device(RecipeBook("c", device="^c CPU")) == C_DEVICE
    assert suited_device(RecipeBook("c", device="^c CPU"), first) == first


# -- mathematics


def expression(text):
    knl = lp.make_kernel("{[i]: 0 <= i < n}", f"y[i] = {text}", lang_version=lp.MOST_RECENT_LANGUAGE_VERSION)
    return math_text(knl).splitlines()[-1].split(" = ")[1].split("   {")[0]


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("a - b", "a - b"),
        ("a - (b - c)", "a - (b - c)"),
        ("a - b*c", "a - b*c"),
        ("-a*b + c", "-a*b + c"),
        ("a*(-b)", "-a*b"),
        ("a*(-b)*(-c)", "a*b*c"),
        ("c - a*(-b)", "c + a*b"),
        ("a - (-2)", "a + 2"),
        ("(-a)**2", "(-a)**2"),
        ("a*(b - c)*(-1)", "-a*(b - c)"),
        ("a + 3 - 1", "a + 2"),
        ("a - 1*b", "a - b"),
        ("1*a", "a"),
        ("0 + a", "a"),
        ("1 - 1", "0"),
        ("(a - b)*c", "(a - b)*c"),
        ("-(a + b)*c", "-(a + b)*c"),
        ("(a + b)**2", "(a + b)**2"),
        ("a / (b*c)", "a / (b*c)"),
        ("(a - b) // 4", "(a - b) // 4"),
        ("2.5*a", "2.5*a"),
        ("a if b > 0 else c - 1", "a if b > 0 else c - 1"),
    ],
)
def test_expressions(text, written):
    assert expression(text) == written


@pytest.mark.parametrize("text", ["a - (b - c*(a - 3) - 1)*(-2)", "-(a - 2*(b - c) - (c - b)*3) - 7 + 2*(1 - a)"])
def test_expressions_mean_what_they_meant(text, rng):
    for _ in range(5):
        values = dict(zip("abc", map(int, rng.integers(-9, 9, 3)), strict=True))
        assert eval(expression(text), values.copy()) == eval(text, values.copy())


def math_of(operator, book, number, dtype=np.float64):
    recipe = list_steps(load_recipes(book), operator, yukawa() if operator == "p2p" else None, dtype)
    return math_text(recipe.step(number).kernel)


def test_the_mathematics_as_they_are_written():
    lines = math_of("p2p", "pocl_cpu", 0).splitlines()
    assert "    G_0_0 := exp(-parameter_decay*r)*rinv" in lines
    assert "loops, in the order of the text" in lines
    start = lines.index("                for 0 <= stile < stiles")
    assert lines[start + 1].strip() == "for 0 <= s < slanes"
    assert lines[start + 6].strip() == "for 0 <= t < tlanes"
    assert lines[-2].strip() == "if itgt(t) < tgt_end"


def test_the_mathematics_as_they_will_run():
    text = math_of("p2p", "pocl_cpu", 2)
    assert "    u0[8]\n" in text
    heads = [line.strip() for line in text.splitlines() if line.strip().startswith("for ")]
    assert heads == [
        "for 0 <= ibox < ntarget_boxes  [g.0]",
        "for 0 <= ttile < ttiles",
        "for 0 <= t_init <= 7",
        "for 0 <= t_load <= 7",
        "for list_start <= ilist < list_end",
        "for 0 <= stile < stiles",
        "for s = 0",
        "for 0 <= t <= 7",
        "for 0 <= t_store <= 7",
    ]


def test_vectors_splits_and_work_items():
    text = math_of("check_to_equivalent", "pocl_cpu", 2)
    assert "u[6, 8 vec]" in text
    assert "for bchunk >= 0 and 32*bchunk < btiles  [g.1]" in text
    assert "for 0 <= btile_inner <= 31 and btile_inner < btiles - 32*bchunk" in text
    assert "for 0 <= i <= 7  [vec]" in text
    assert "for 0 <= b <= 5  [unr]" in text
    assert "for 0 <= t <= 15  [l.0]" in math_of("p2p", "simd_cpu", 2, np.float32)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("book", shipped_books())
def test_no_statement_is_lost_at_any_step(book, operator):
    recipe = list_steps(load_recipes(book), operator)
    for number, step in enumerate(recipe.steps):
        lines = math_text(step.kernel).splitlines()
        body = lines[next(i for i, line in enumerate(lines) if line.startswith("loops")) + 1 :]
        written = [line for line in body if not line.strip().startswith(("for ", "if ", "barrier"))]
        ids = [m[1] if (m := re.search(r"\{(\w+)\}$", line)) else re.match(r"\s*(\w+)", line)[1] for line in written]
        # A sum within an expression has statements of its own once it is scheduled.
        ids = [name for name in ids if not re.search(r"_t_sum_(init|update)$", name)]
        instructions = step.kernel.default_entrypoint.instructions
        assert sorted(ids) == sorted(i.id for i in instructions if not isinstance(i, lp.BarrierInstruction))
        # Every kernel that a recipe yields can be scheduled.
        assert number == 0 or "loops" in lines


# -- source and differences


def test_the_source_of_a_step_is_that_of_its_kernel(opencl_device):
    recipe, device = list_steps(load_recipes("pocl_cpu"), "p2p"), opencl_device
    assert "fmmloopy_rsqrt_f64(r2)" in device_source(recipe, 3, device)
    assert "gid(0)" in device_source(recipe, 2, device)
    assert "gid(0)" not in device_source(recipe, 1, device)
    assert compiled_step(recipe, 2, device).steps == ("targets in lanes", "one work-group per box")


def test_the_source_of_step_0_is_the_sequential_kernel_s():
    device = find_devices()[0]
    first = device_source(list_steps(load_recipes("pocl_cpu"), "p2p"), 0, device)
    assert first == device_source(list_steps(SEQUENTIAL, "p2p"), 1, device)


def test_differences(opencl_device):
    recipe = list_steps(load_recipes("pocl_cpu"), "p2p")
    assert [d.number for d in step_diffs(recipe)] == [1, 2, 3, 4, 5]
    (third,) = step_diffs(recipe, 3)
    assert third.lines[:2] == ("--- 2 one work-group per box", f"+++ 3 {third.name}")
    changed = [line.replace("  ", "") for line in third.lines[3:] if line[0] in "+-"]
    assert changed == ["-rinv = 1 / sqrt(r2)", "+rinv = fmmloopy_rsqrt(r2)"]
    (code,) = step_diffs(recipe, 2, opencl_device)
    assert any(line.startswith("+") and "target_boxes[gid(0)]" in line for line in code.lines)
    with pytest.raises(ValueError, match="step is 0, which has no earlier step .* expected 1 to 5"):
        step_diffs(recipe, 0)
    with pytest.raises(ValueError, match="step is 6; p2p of pocl_cpu has steps 0 to 5"):
        step_diffs(recipe, 6)


# -- machine code


def find(pattern):
    """Return the first device whose description has a pattern; skip without one."""
    found = next((d for d in find_devices() if re.search(pattern, d.description)), None)
    if found is None:
        pytest.skip(f"no device with {pattern!r}")
    return found


POCL_30, POCL_31, INTEL = r"PoCL 3\.0", r"PoCL 3\.1", r"CPU Intel\(R\) OpenCL"


@needs_disassembler
@pytest.mark.parametrize(
    ("pattern", "book", "number", "dtype", "vector", "roots", "calls"),
    [
        # PoCL 3.0 calls sqrt, one number at a time, whatever the loop; without the call it makes vectors.
        (POCL_30, "sequential", 1, "float64", False, {"div": False}, ["sqrt"]),
        (POCL_30, "pocl_cpu", 2, "float64", False, {"div": False}, ["sqrt"]),
        (POCL_30, "pocl_cpu", 3, "float64", True, {}, []),
        (POCL_30, "pocl_cpu", 3, "float32", True, {}, []),
        # PoCL 3.1 makes vectors of lane arrays, square roots included, but not of work-items.
        (POCL_31, "sequential", 1, "float64", False, {"sqrt": False, "div": False}, []),
        (POCL_31, "pocl_cpu", 2, "float64", True, {"sqrt": True, "div": True}, []),
        (POCL_31, "simd_cpu", 2, "float32", False, {"sqrt": False, "div": False}, []),
        # Intel's runtime makes vectors of work-items, and of sources one after the other, square roots included.
        (INTEL, "sequential", 1, "float64", True, {"sqrt": True, "div": True}, []),
        (INTEL, "pocl_cpu", 3, "float64", True, {}, []),
        (INTEL, "simd_cpu", 2, "float32", True, {"sqrt": True, "div": True}, []),
    ],
)
def test_the_truth_about_runtimes(pattern, book, number, dtype, vector, roots, calls):
    found = machine_code(list_steps(load_recipes(book), "p2p", dtype=dtype), number, find(pattern))
    assert found.loop is not None, found.reason
    loop = found.loop
    assert (loop.lanes > 1, dict(loop.roots)) == (vector, roots), loop.text
    assert [call.name for call in loop.calls] == calls
    assert loop.bits == 8 * np.dtype(dtype).itemsize
    assert loop.scalar == (0 if vector else loop.arithmetic)


@needs_disassembler
@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc")
def test_the_truth_about_the_c_compiler(monkeypatch):
    monkeypatch.setenv("CC", "gcc")
    loop = machine_code(list_steps(SEQUENTIAL, "p2p"), 1, C_DEVICE).loop
    assert loop is not None
    assert (loop.lanes, loop.bits, dict(loop.roots)) == (1, 64, {"sqrt": False, "div": False})
    # For negative numbers, which set errno.
    assert [(call.name, call.always) for call in loop.calls] == [("sqrt", False)]


@needs_disassembler
def test_scalar_and_vector_functions_of_intel_s_library_are_told_apart():
    device = find(INTEL)
    arrays = machine_code(list_steps(load_recipes("pocl_cpu"), "p2p", yukawa()), 3, device).loop
    items = machine_code(list_steps(load_recipes("simd_cpu"), "p2p", yukawa(), np.float32), 2, device).loop
    assert arrays is not None
    assert items is not None
    assert [(call.name, call.lanes) for call in arrays.calls] == [("exp", 1)]
    assert [(call.name, call.lanes) for call in items.calls] == [("expf", items.lanes)]


@needs_disassembler
@pytest.mark.parametrize("device", devices())
@pytest.mark.parametrize("operator", ["m2m", "m2l_forward", "l2p"])
def test_other_operators(operator, device):
    found = machine_code(list_steps(load_recipes("pocl_cpu"), operator), 0, device)
    assert found.loop is not None, found.reason
    assert found.loop.bits == 64
    assert found.verdict.startswith("inner loop: ")


@pytest.mark.parametrize(
    ("device", "reason"),
    [
        (made_up_nvidia(), "not available for 'opencl"),
        (made_up_device("CPU", "Oclgrind", "OpenCL 1.2", "x"), "not available for 'opencl"),
    ],
)
def test_devices_that_keep_their_code(device, reason):
    found = machine_code(list_steps(SEQUENTIAL, "p2p"), 1, device)
    assert found.loop is None
    assert found.verdict.startswith("no machine code: ")
    assert reason in found.reason


def crash(stage, *arguments):
    os.abort()


def crash_after_compiling(stage, *arguments):
    _build_or_launch(stage, *arguments)
    os.abort()


def test_a_compiler_that_crashes_is_reported(monkeypatch):
    monkeypatch.setattr(show, "_build_or_launch", crash)
    found = machine_code(list_steps(SEQUENTIAL, "p2p"), 1, C_DEVICE)
    assert found.loop is None
    assert re.search(r"no machine code: the process died of signal 6", found.verdict)


@needs_disassembler
@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc")
def test_a_kernel_that_crashes_when_it_runs_is_looked_at_all_the_same(monkeypatch):
    monkeypatch.setattr(show, "_build_or_launch", crash_after_compiling)
    found = machine_code(list_steps(SEQUENTIAL, "p2p"), 1, C_DEVICE)
    assert found.loop is not None
    assert "died of signal 6" in found.reason


def test_source_that_does_not_compile_is_reported(opencl_device):
    if opencl_device.runtime not in ("pocl", "intel"):
        pytest.skip("the preferred device does not give its code")
    book = RecipeBook("bad", device="x", build_options=("-Dy0=)",))
    found = machine_code(list_steps(book, "p2p"), 1, opencl_device)
    assert found.loop is None
    assert "cannot compile p2p" in found.reason


# -- the command


def run(capsys, *words):
    """Run ``fmmloopy show`` and return its exit status, standard output and standard error."""
    with pytest.raises(SystemExit) as stop:
        main(["show", *words])
    out, err = capsys.readouterr()
    return stop.value.code or 0, out, err


def test_command_lists_steps(capsys):
    status, out, _ = run(capsys, "pocl_cpu")
    assert status == 0
    assert "p2p, p2m, p2l, l2p, m2p\n  Vectors of targets" in out
    assert "  width = 64   worth trying: 32, 64\n    0  as written\n    1  targets in lanes\n" in out


def test_command_lists_the_sequential_book(capsys):
    status, out, _ = run(capsys, "sequential", "-o", "p2p", "-o", "m2l")
    assert status == 0
    assert out.startswith("p2p, m2l\n")
    assert "1  sequential" in out


def test_command_shows_mathematics_of_a_step(capsys):
    status, out, _ = run(capsys, "pocl_cpu", "-o", "p2p", "--step", "3")
    assert status == 0
    assert out.startswith("pocl_cpu, p2p, step 3: reciprocal square root by Newton's iteration\narrays\n")
    assert "rinv = fmmloopy_rsqrt(r2)" in out


@pytest.mark.usefixtures("opencl_device")
def test_command_shows_differences_and_code(capsys):
    status, out, _ = run(capsys, "pocl_cpu", "-o", "p2p", "--diff")
    assert status == 0
    assert out.count("\n+++ ") == 5
    status, out, _ = run(capsys, "pocl_cpu", "-o", "p2p", "--code")
    assert status == 0
    assert out.startswith("device: ")
    assert "fmmloopy_rsqrt_f64(r2.s0);" in out
    status, out, _ = run(capsys, "pocl_cpu", "-o", "p2p", "--diff", "--code", "--step", "3", "--dtype", "float32")
    assert status == 0
    assert re.search(r"^\+ +rinv = .*fmmloopy_rsqrt_f32\(r2\);$", out, re.MULTILINE)


@needs_disassembler
def test_command_prints_json_and_nothing_else(capsys, opencl_device):
    status, out, _ = run(
        capsys, "sequential", "-o", "p2p", "--asm", "--code", "--json", "-d", opencl_device.description
    )
    document = json.loads(out)
    (operator,) = document["operators"]
    assert status == (0 if operator["machine_code"]["loop"] else 1)
    assert document["device"] == opencl_device.description
    assert operator["steps"] == [{"number": 0, "name": "as written"}, {"number": 1, "name": "sequential"}]
    assert "sqrt(r2)" in operator["code"]
    assert operator["machine_code"]["verdict"]


def test_command_fails_where_there_is_no_machine_code(capsys, monkeypatch):
    monkeypatch.setattr(show, "_build_or_launch", crash)
    status, out, _ = run(capsys, "sequential", "-o", "p2p", "--asm", "-d", "c")
    assert status == 1
    assert "no machine code: the process died of signal 6" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pocl_cpu", "-o", "p2q"], "operator is 'p2q', expected one of p2p"),
        (["pocl_cpu", "-o", "p2p", "--step", "9"], "step is 9; p2p of pocl_cpu has steps 0 to 5"),
        (["pocl_cpu", "-o", "p2p", "--step", "0", "--diff"], "step is 0, which has no earlier step"),
        (["pocl_cpu", "--dtype", "half"], "--dtype is 'half', expected float64 or mixed or"),
        (["pocl_cpu", "--kernel", "stokes"], "--kernel is 'stokes', expected laplace or yukawa"),
        (["pocl_cpu", "--diff", "--asm"], "--diff and --asm are given, expected only one"),
        (["no_such_book"], "no recipe book 'no_such_book'"),
        (["pocl_cpu", "--code", "-d", "no such device"], "no device matches 'no such device'"),
    ],
)
def test_command_says_what_is_wrong(capsys, words, message):
    status, out, err = run(capsys, *words)
    assert (status, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1


def test_the_default_green_s_function_is_laplace_s():
    assert list_steps(SEQUENTIAL, "p2p").kernel == laplace()


@pytest.fixture
def unschedulable(tmp_path):
    """The file of a book whose second step, of three, has no schedule."""
    path = tmp_path / "mine.py"
    path.write_text(
        "from fmmloopy import RecipeBook\nfrom fmmloopy.transforms import steps\n"
        "def p2p(knl):\n    knl = steps.lane_arrays(knl, 8)\n    yield 'lanes', knl\n"
        "    yield 'unrolled', steps.unroll(knl, 'stile')\n    yield 'groups', steps.one_group_per(knl, 'ibox')\n"
        "BOOK = RecipeBook('mine', device='', recipes={'p2p': p2p})\n"
    )
    return str(path)


@pytest.mark.parametrize(
    ("words", "marked"),
    [
        ([], "2  unrolled   CANNOT BE SCHEDULED\n    3  groups\n  step 2: "),
        (["--step", "2"], "step 2: unrolled\nstep 2 cannot be scheduled: "),
        (["--diff"], "step 2 cannot be scheduled: "),
        (["--diff", "--code"], "step 2 cannot be scheduled: "),
        (["--diff", "--code", "--step", "3"], "step 2 cannot be scheduled: "),
        (["--code", "--step", "2"], "step 2 cannot be scheduled: "),
        (["--asm", "--step", "2"], "step 2 cannot be scheduled: "),
    ],
    ids=" ".join,
)
def test_command_marks_a_step_without_a_schedule(capsys, unschedulable, words, marked):
    status, out, err = run(capsys, unschedulable, *words)
    assert (status, err) == (1, "")
    (line,) = [line for line in out.splitlines() if "only loops of fixed length" in line]
    assert marked in out
    assert "inames" not in line


def test_command_marks_no_other_step(capsys, unschedulable):
    for words in (["--step", "1"], ["--step", "3"], ["--code"], ["--diff", "--step", "1"]):
        status, out, _ = run(capsys, unschedulable, *words)
        assert (status, "scheduled" in out) == (0, False)
    _, out, _ = run(capsys, unschedulable, "--json")
    steps = json.loads(out)["operators"][0]["steps"]
    assert ["cannot_be_scheduled" in step for step in steps] == [False, False, True, False]
