"""Ladders: every step of a recipe timed and held against exact cases, their figures, the command."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os

import matplotlib.image
import pytest
from conftest import run_command, slow

from fmmloopy.checking.check import check_book
from fmmloopy.checking.report import Finding
from fmmloopy.choosing.work import Work
from fmmloopy.execution.devices import C_DEVICE
from fmmloopy.measuring import ladder, plots
from fmmloopy.measuring.ladder import Ladder, LadderReport, Rung, climb
from fmmloopy.measuring.peaks import Peaks
from fmmloopy.measuring.plots import draw_ladders
from fmmloopy.measuring.probes import NEWTON
from fmmloopy.measuring.roofline import Roofline
from fmmloopy.measuring.timing import Setting, Timing, compare
from fmmloopy.recipes import RecipeBook, RecipeError
from fmmloopy.transforms import cpu, steps

PEAKS = {"float64": Peaks("a processor", "float64", 100e9, {NEWTON: 4e9}, 10e9)}
SMALL = Setting(points=1500, order=3)


# -- ladders


def right(knl, *, lanes: int = 8):
    knl = steps.lane_arrays(knl, lanes)
    yield "targets in lanes", knl
    yield "one work-group per box", steps.one_group_per(knl, "ibox")


def wrong_in_the_middle(knl):
    """Leave out the last source of a tile, and put it back."""
    good = steps.lane_arrays(knl, 8)
    yield "targets in lanes", good
    yield "a source too few", _drop_sources(good)
    yield "one work-group per box", steps.one_group_per(good, "ibox")


def _drop_sources(knl):
    """Take every charge as nothing."""
    kernel = knl.default_entrypoint
    rules = dict(kernel.substitutions)
    rules["charge"] = rules["charge"].copy(expression=0)
    return knl.with_kernel(kernel.copy(substitutions=rules))


def book_of(recipe) -> RecipeBook:
    return RecipeBook("mine", device="CPU", recipes={"p2p": recipe, "m2m": cpu.dense})


def test_a_ladder_has_the_sequential_kernel_and_every_step(opencl_device):
    report = climb(book_of(right), ["p2p"], opencl_device, SMALL, PEAKS, certify=False, runs=3)
    (found,) = report.ladders
    assert [rung.name for rung in found.rungs] == ["sequential", "targets in lanes", "one work-group per box"]
    assert [rung.number for rung in found.rungs] == [0, 1, 2]
    assert report.ok
    assert found.unit == "Gpairs/s"
    for rung in found.rungs:
        assert len(rung.timing.seconds) == 3
        assert found.rate(rung.timing.median) > 0
    first, second, third = found.rungs
    assert first.gain is None
    assert second.gain == compare(second.timing, first.timing)
    assert third.gain == compare(third.timing, second.timing)
    assert found.total == compare(third.timing, first.timing)


def test_a_wrong_step_has_no_rate(opencl_device):
    report = climb(book_of(wrong_in_the_middle), ["p2p"], opencl_device, SMALL, PEAKS, certify=False, runs=3)
    first, second, third, fourth = report.ladders[0].rungs
    assert not report.ok
    assert third.timing is None
    assert third.gain is None
    assert third.wrong.startswith("exact: ")
    assert [rung.wrong for rung in (first, second, fourth)] == ["", "", ""]
    assert fourth.gain == compare(fourth.timing, second.timing)


def test_what_the_check_finds_marks_the_step_and_those_after_it(opencl_device, own_cache, monkeypatch):
    finding = Finding("mine", "p2p", "float64", "numerical", "2 'one work-group per box'", "off by 1e6 eps")

    class Report:
        findings = (finding,)

    monkeypatch.setattr(ladder, "check_book", lambda *_, **__: Report)
    report = climb(book_of(right), ["p2p"], opencl_device, SMALL, PEAKS, runs=3)
    assert [rung.wrong for rung in report.ladders[0].rungs] == ["", "", "numerical: off by 1e6 eps"]
    assert not report.ok


def test_a_ladder_is_certified_once(opencl_device, own_cache, no_whole_evaluations, monkeypatch):
    checked = []

    def check(book, operators, *arguments, **options):
        checked.append(tuple(operators))
        return check_book(book, operators, *arguments, **options)

    monkeypatch.setattr(ladder, "check_book", check)
    for _ in range(2):
        report = climb(book_of(right), ["m2m"], opencl_device, Setting(points=10_000, order=3), PEAKS, runs=3)
        assert report.findings == ()
        assert report.ok
        assert checked == [("m2m",)]


def unfinished_in_the_middle(knl):
    """Leave lane parameters open, and fix them a step later."""
    yield "nothing fixed", knl
    yield "targets in lanes", steps.lane_arrays(knl, 8)


def test_a_step_that_gives_no_code_is_wrong(opencl_device):
    report = climb(book_of(unfinished_in_the_middle), ["p2p"], opencl_device, SMALL, PEAKS, certify=False, runs=3)
    _, second, third = report.ladders[0].rungs
    assert "tlanes, slanes not fixed" in second.wrong
    assert third.timing is not None
    assert not report.ok


def test_a_step_that_crashes_is_wrong(opencl_device, monkeypatch):
    def crash(stage, request, number):
        stage(f"running step {number}", 60.0)
        os.abort()

    monkeypatch.setattr(ladder, "check_operator", crash)
    report = climb(book_of(right), ["p2p"], opencl_device, SMALL, PEAKS, certify=False, runs=3)
    _, second, third = report.ladders[0].rungs
    assert "signal 6" in second.wrong
    assert second.wrong.endswith("running step 1")
    assert third.wrong.endswith("running step 2")
    assert report.ladders[0].total is None


def test_a_recipe_that_fails_is_reported_with_its_step(opencl_device):
    def unfinished(knl):
        yield "nothing fixed", knl

    with pytest.raises(RecipeError, match="mine, p2p, after step 1 'nothing fixed': tlanes, slanes not fixed"):
        climb(book_of(unfinished), ["p2p"], opencl_device, SMALL, PEAKS, certify=False, runs=3)


@pytest.mark.parametrize(
    ("operators", "error", "message"),
    [
        (["p2q"], ValueError, "operator is 'p2q', expected one of p2p"),
        (["l2p"], RecipeError, "mine has no recipe for l2p, so there are no steps to time"),
    ],
)
def test_operators_that_cannot_be_asked_for(operators, error, message):
    with pytest.raises(error, match=message):
        climb(book_of(right), operators, C_DEVICE, SMALL, PEAKS)


def test_a_book_without_recipes_has_no_ladder():
    with pytest.raises(RecipeError, match="sequential has no recipes"):
        climb("sequential", None, C_DEVICE, SMALL, PEAKS)


def test_an_operator_with_nothing_to_do(opencl_device):
    tiny = Setting(points=10, order=3)
    with pytest.raises(ValueError, match="m2m has no work with 10 points on the sphere"):
        climb(book_of(right), ["m2m"], opencl_device, tiny, PEAKS, certify=False)
    report = climb(book_of(right), None, opencl_device, tiny, PEAKS, certify=False, runs=3)
    assert (report.idle, [found.operator for found in report.ladders]) == (("m2m",), ["p2p"])


# -- figures of ladders


def made_up_report(count: int = 1) -> LadderReport:
    slow, fast = Timing((1.0, 1.0, 1.0)), Timing((0.25, 0.25, 0.25))
    rungs = (
        Rung(0, "sequential", slow),
        Rung(1, "targets in lanes", None, "exact: potentials[0] is 1, expected 2"),
        Rung(2, "reciprocal square root by Newton's iteration", fast, gain=compare(fast, slow)),
    )
    limits = Roofline({"FMA": 0.05, "rsqrt": 0.125, "memory": 0.0})
    ladders = tuple(Ladder("p2p", Work(10**9, 12 * 10**9), limits, rungs) for _ in range(count))
    return LadderReport("mine", "a device", Setting(), PEAKS, ladders, (), None)


@pytest.mark.parametrize("count", [1, 3])
def test_a_figure_is_as_wide_as_its_columns(tmp_path, count):
    path = tmp_path / "ladder.png"
    draw_ladders(made_up_report(count), path)
    pixels = matplotlib.image.imread(path)
    assert pixels.shape[1] == round(300 * plots.COLUMN * min(count, 2))
    assert pixels.shape[0] > 300
    grey = pixels[..., :3].mean(axis=2)
    assert 0.05 < (grey < 0.9).mean() < 0.6  # there is something on it, and room between


@pytest.mark.parametrize(("suffix", "words"), [(".svg", b"WRONG"), (".pdf", b"%PDF")])
def test_figures_that_scale(tmp_path, suffix, words):
    path = tmp_path / f"ladder{suffix}"
    draw_ladders(made_up_report(), path)
    content = path.read_bytes()
    assert words in content
    if suffix == ".svg":
        for text in (b"rsqrt limit 8 Gpairs/s", b"4 Gpairs/s, 50%, 4x", b"1 Gpairs/s, 12%", b"targets in lanes"):
            assert text in content


def test_figures_that_cannot_be_written(tmp_path):
    with pytest.raises(ValueError, match=r"expected a .png, .pdf or .svg in a folder that exists"):
        draw_ladders(made_up_report(), tmp_path / "ladder.doc")
    with pytest.raises(ValueError, match="there is nothing to draw"):
        draw_ladders(dataclasses.replace(made_up_report(), ladders=()), tmp_path / "ladder.png")


# -- the command

BOOK = '''
from fmmloopy.recipes import RecipeBook
from fmmloopy.transforms import steps


def p2p(knl):
    """Targets in lanes."""
    yield "targets in lanes", steps.lane_arrays(knl, 8)


BOOK = RecipeBook("mine", device="CPU", recipes={"p2p": p2p})
'''

SIZE = ("--points", "1500", "--order", "3", "--runs", "3")


def test_command_ladder(known_peaks, capsys, opencl_device):
    book, plot = known_peaks / "mine.py", known_peaks / "ladder.png"
    book.write_text(BOOK)
    options = ("--device", opencl_device.description, *SIZE, "--no-check")
    status, text = run_command(capsys, "ladder", str(book), *options, "--plot", str(plot))
    assert status == 0
    for words in (
        "p2p   limits in Gpairs/s:",
        "rsqrt 4 (binds)",
        "0  sequential",
        "1  targets in lanes",
        "not certified",
    ):
        assert words in text
    assert plot.stat().st_size > 10_000
    status, text = run_command(capsys, "ladder", str(book), *options, "--json")
    document = json.loads(text)
    assert (status, document["ok"], document["certified"]) == (0, True, None)
    (found,) = document["operators"]
    assert (found["operator"], found["binding"]) == ("p2p", "rsqrt")
    assert [step["name"] for step in found["steps"]] == ["sequential", "targets in lanes"]
    assert all(step["rate"] > 0 and 0 < step["share"] < 1 for step in found["steps"])


@slow
def test_command_ladder_in_mixed_precision(known_peaks, capsys, opencl_device, monkeypatch):
    """The kernels that are timed and held against exact cases are mixed, and limits those of float32."""
    dtypes, compile_it, request = set(), ladder.compile_operator, ladder.Request

    def compiled(key):
        dtypes.add(key.specification.types.name)
        return compile_it(key)

    def requested(book, device, operator, dtype, **options):
        dtypes.add(dtype)
        return request(book, device, operator, dtype, **options)

    monkeypatch.setattr(ladder, "compile_operator", compiled)
    monkeypatch.setattr(ladder, "Request", requested)
    options = ("-o", "p2p", "--device", opencl_device.description, *SIZE, "--no-check", "--dtype", "mixed")
    status, text = run_command(capsys, "ladder", "pocl_cpu", *options)
    assert status == 0
    assert dtypes == {"mixed"}
    assert "1,500 points on the sphere, order 3, mixed, laplace" in text
    assert "200 GFLOP/s by FMA" in text
    assert "rsqrt 8 (binds)" in text
    assert "WRONG" not in text


def test_command_ladder_fails_with_a_wrong_step(known_peaks, capsys, opencl_device):
    book = known_peaks / "mine.py"
    text = BOOK.replace("steps.lane_arrays(knl, 8)", "broken(steps.lane_arrays(knl, 8))")
    book.write_text(inspect.getsource(_drop_sources).replace("_drop_sources", "broken") + text)
    status, text = run_command(capsys, "ladder", str(book), "--device", opencl_device.description, *SIZE, "--no-check")
    assert status == 1
    assert "step 1 is WRONG: exact: polynomial, order 3" in text
