"""Timing, ladder and bench: statistics by hand, ladders of small problems, figures that are kept, the commands."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os

import matplotlib.image
import numpy as np
import pytest

from fmmloopy import bench, cli, ladder
from fmmloopy.cache import ENVIRONMENT_VARIABLE
from fmmloopy.check import Finding
from fmmloopy.devices import C_DEVICE, choose_device
from fmmloopy.ladder import Ladder, LadderReport, Rung, climb
from fmmloopy.measuring import peaks, plots, timing
from fmmloopy.measuring.peaks import Peaks, store_rates
from fmmloopy.measuring.plots import draw_ladders
from fmmloopy.measuring.probes import FMA, NEWTON, TRIAD
from fmmloopy.measuring.roofline import Roofline
from fmmloopy.measuring.timing import Difference, Setting, Timing, compare
from fmmloopy.recipes import RecipeBook, RecipeError, load_recipes
from fmmloopy.transforms import pocl_cpu, steps
from fmmloopy.work import Work

PEAKS = Peaks("a processor", "float64", 100e9, {NEWTON: 4e9}, 10e9)
SMALL = Setting(points=1500, order=3)


# -- statistics


def test_median_and_spread_of_runs():
    runs = Timing((1.0, 1.2, 1.1, 9.0, 1.3))
    assert runs.median == 1.2
    assert runs.spread == pytest.approx((1.3 - 1.1) / 1.2)  # one run that was disturbed does not matter


def test_the_spread_of_too_few_runs_is_unknown():
    assert Timing((1.0, 1.0)).spread == float("inf")
    assert Timing((1.0, 1.0, 1.0)).spread == 0


@pytest.mark.parametrize(
    ("new", "old", "text"),
    [
        ((1.00, 1.05, 0.95, 1.03, 0.97), (1.02, 1.00, 1.05, 1.04, 0.99), "no difference: 1.02x, spread 6%"),
        ((1.00, 1.05, 0.95, 1.03, 0.97), (2.00, 2.01, 2.02, 1.98, 1.99), "2.00x as fast, spread 6%"),
        ((2.00, 2.01, 2.02, 1.98, 1.99), (1.00, 1.05, 0.95, 1.03, 0.97), "0.50x as fast, spread 6%"),
        ((1.00, 1.00, 1.00), (1.05, 1.05, 1.05), "1.05x as fast, spread 0%"),
        ((1.00, 1.00, 1.00), (1.0, 1.05, 1.2), "no difference: 1.05x, spread 10%"),
        ((1.00,), (3.00, 3.00, 3.00), "no difference: 3.00x, spread unknown"),
    ],
)
def test_a_difference_within_the_spread_is_none(new, old, text):
    assert str(compare(Timing(new), Timing(old))) == text


def test_slower_and_faster_by_the_same_factor_are_judged_alike():
    assert Difference(1.11, 0.1).is_one
    assert Difference(1 / 1.11, 0.1).is_one
    assert not Difference(1.09, 0.1).is_one
    assert not Difference(1 / 1.09, 0.1).is_one


def test_equal_programs_rarely_differ(rng):
    """Two medians of 7 normally distributed runs are further apart than the larger quartile range in 1 of 16 cases."""
    draws = 1 + 0.02 * rng.standard_normal((2000, 2, 7))
    called = sum(compare(Timing(tuple(a)), Timing(tuple(b))).is_one for a, b in draws)
    assert called < 0.1 * len(draws)


# -- problems


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"points": 0}, "points is 0, expected at least 1"),
        ({"order": 17}, "order is 17, expected 2 to 16"),
        ({"distribution": "line"}, "distribution is 'line', expected 'sphere' or 'cube'"),
        ({"dtype": "int32"}, "dtype is 'int32', expected 'float64' or 'float32'"),
        ({"kernel": "stokes"}, "kernel is 'stokes', expected 'laplace' or 'yukawa'"),
    ],
)
def test_settings_that_cannot_be_used(changes, message):
    with pytest.raises(ValueError, match=message):
        Setting(**changes)


def test_problems_are_the_same_every_time():
    points = Setting(points=10).make_points()
    assert np.array_equal(points, Setting(points=10).make_points())
    assert np.allclose(np.linalg.norm(points, axis=1), 1)
    assert Setting(points=10, dtype="float32", distribution="cube").make_points().dtype == np.float32


@pytest.mark.parametrize("operator", ladder.OPERATORS)
def test_every_operator_can_be_timed_alone(operator):
    """On the C device, whose code needs no other device: what is launched is the operator's own code."""
    problem = timing.make_problem(dataclasses.replace(SMALL, points=4000))
    book = load_recipes("sequential")
    runtime = ladder.make_runtime(C_DEVICE)
    timer = timing.OperatorTimer(problem, operator, book, runtime)
    dtype = np.dtype(np.float64)
    code = ladder.compile_operator(operator, problem.greens, SMALL.order, dtype, book, C_DEVICE)
    found = timer.time(code, runs=3)
    assert len(found.seconds) == 3
    assert min(found.seconds) > 0
    assert problem.work(operator).flops > 0
    assert problem.nbytes(operator) > 0


def test_clustered_points_lie_on_all_scales():
    radii = np.linalg.norm(Setting(points=4000, distribution="clustered").make_points(), axis=1)
    for scale in (1e-3, 1e-2, 1e-1):  # a third of the points for each factor of ten, less what lies beyond both ends
        assert 0.2 < np.mean((radii > scale) & (radii < 10 * scale)) < 0.4
    assert "4,000 points clustered" in str(Setting(points=4000, distribution="clustered"))


def test_leaves_hold_what_is_asked_for():
    sizes = [timing.make_problem(SMALL, ncrit).tree.box_source_ends for ncrit in (None, 10)]
    assert len(sizes[1]) > len(sizes[0])


@pytest.mark.parametrize("operator", ["p2p", "l2p", "m2l_hadamard", "m2m"])
def test_an_operator_runs_without_others_by_both_clocks(operator, monkeypatch):
    """Only its own launches; and those at targets with gradients, which are more work."""
    gradient = operator in ("p2p", "l2p")
    problem = timing.make_problem(dataclasses.replace(SMALL, points=4000))
    greens = problem.greens.with_gradient() if gradient else problem.greens
    book, runtime = load_recipes("sequential"), ladder.make_runtime(C_DEVICE)
    code = ladder.compile_operator(operator, greens, SMALL.order, np.dtype(np.float64), book, C_DEVICE)
    timer = timing.OperatorTimer(problem, operator, book, runtime, gradient)
    launched, launch_all = set(), runtime.run
    monkeypatch.setattr(runtime, "run", lambda all_: launched.update(one.operator for one in all_) or launch_all(all_))
    kernels, wall = timer.time_by_both_clocks(code, runs=3)
    assert launched == {operator}
    assert len(kernels.seconds) == len(wall.seconds) == 3
    assert all(outer > inner > 0 for inner, outer in zip(kernels.seconds, wall.seconds, strict=True))
    assert kernels.best == min(kernels.seconds)
    if gradient:
        assert problem.work(operator, gradient).flops > problem.work(operator).flops
        assert problem.work(operator, gradient).pairs == problem.work(operator).pairs


def test_slow_operators_run_fewer_times(monkeypatch):
    problem = timing.make_problem(SMALL)
    book, runtime = load_recipes("sequential"), ladder.make_runtime(C_DEVICE)
    monkeypatch.setattr(timing, "BUDGET", 0.0)
    code = ladder.compile_operator("p2p", problem.greens, 3, np.dtype(np.float64), book, C_DEVICE)
    assert len(timing.OperatorTimer(problem, "p2p", book, runtime).time(code, runs=9).seconds) == timing.FEWEST_RUNS


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
    return RecipeBook("mine", device="CPU", recipes={"p2p": recipe, "m2m": pocl_cpu.dense})


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


def test_what_the_check_finds_marks_the_step_and_those_after_it(opencl_device, monkeypatch):
    finding = Finding("mine", "p2p", "float64", "numerical", "2 'one work-group per box'", "off by 1e6 eps")

    class Report:
        findings = (finding,)

    monkeypatch.setattr(ladder, "check_book", lambda *_, **__: Report)
    report = climb(book_of(right), ["p2p"], opencl_device, SMALL, PEAKS, runs=3)
    assert [rung.wrong for rung in report.ladders[0].rungs] == ["", "", "numerical: off by 1e6 eps"]
    assert not report.ok


def test_a_certified_ladder(opencl_device):
    report = climb(book_of(right), ["p2p"], opencl_device, SMALL, PEAKS, runs=3)
    assert report.findings == ()
    assert report.ok


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
    with pytest.raises(ValueError, match="m2m has nothing to do with 10 points on the sphere"):
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


# -- bench


def made_up_figures(seconds=(1.0, 1.1, 0.9), **changes) -> bench.Figures:
    values = {
        "book": "mine",
        "device": "a device",
        "driver": "1",
        "setting": SMALL,
        "times": {"p2p": Timing(seconds), "evaluate": Timing((2.0, 2.0, 2.0))},
        "work": {"p2p": Work(10**9, 12 * 10**9)},
        "nbytes": {"p2p": 1000},
        "fingerprints": {"p2p": "abc"},
        "versions": {"loopy": "2025.2"},
    }
    return bench.Figures(**(values | changes))


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path / "cache"))
    return tmp_path


def test_figures_survive_the_file(own_cache):
    figures = made_up_figures()
    for name in (None, "quiet", own_cache / "figures.json"):
        path = bench.save(figures, name)
        assert bench.load(name or figures.name) == figures
        assert path.is_file()
    assert bench.kept_figures(SMALL) == [figures, figures]  # the third is not in the cache folder
    assert bench.kept_figures(Setting()) == []


def test_figures_of_other_problems_and_devices_have_other_names():
    names = {
        made_up_figures().name,
        made_up_figures(setting=Setting()).name,
        made_up_figures(device="another").name,
        made_up_figures(book="other").name,
    }
    assert len(names) == 4
    assert made_up_figures().name == made_up_figures(seconds=(5.0,)).name


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1}', '{"format": 0}'])
def test_files_that_hold_no_figures(own_cache, text):
    path = bench.save(made_up_figures())
    path.write_text(text)
    with pytest.raises(ValueError, match=path.name):
        bench.load(made_up_figures().name)
    assert bench.kept_figures(SMALL) == []


def test_names_of_figures(own_cache):
    with pytest.raises(ValueError, match="no figures nothing; there are none yet"):
        bench.load("nothing")
    with pytest.raises(ValueError, match="pocl_cpu is the name of a recipe book"):
        bench.save(made_up_figures(), "pocl_cpu")
    with pytest.raises(ValueError, match=r"figures are named '\.\./up'"):
        bench.save(made_up_figures(), "../up")


def test_comparing_figures():
    old = made_up_figures(seconds=(3.0, 3.1, 2.9))
    found = bench.compare_all(made_up_figures(), old)
    assert {name: str(difference) for name, difference in found.items()} == {
        "p2p": "3.00x as fast, spread 10%",
        "evaluate": "no difference: 1.00x, spread 0%",
    }
    with pytest.raises(ValueError, match="other problems cannot be compared"):
        bench.compare_all(made_up_figures(), made_up_figures(setting=Setting()))


def test_edited_recipes_are_named():
    edited = made_up_figures(fingerprints={"p2p": "def"})
    assert bench.edited_recipes(edited, made_up_figures()) == ["p2p"]
    assert bench.edited_recipes(made_up_figures(), made_up_figures()) == []
    assert bench.edited_recipes(edited, made_up_figures(book="other")) == []


def test_rooflines_of_figures():
    limits = bench.rooflines(made_up_figures(), PEAKS)["p2p"].limits
    assert limits == pytest.approx({"FMA": 0.1, "rsqrt": 0.25, "memory": 1e-7})


def test_two_books_take_turns(opencl_device, monkeypatch):
    order = []
    evaluate = bench.Fmm.evaluate

    def note(self, charges):
        order.append(self.recipes.name)
        return evaluate(self, charges)

    monkeypatch.setattr(bench.Fmm, "evaluate", note)
    setting = Setting(points=3000, order=3)
    mine, other = bench.measure([book_of(right), "sequential"], opencl_device, setting, runs=3)
    assert order == ["mine", "sequential"] * 4
    assert (mine.book, other.book) == ("mine", "sequential")
    for figures in (mine, other):
        assert set(figures.work) >= {"p2p", "p2m", "m2m", "m2l_hadamard", "l2p"}
        assert set(figures.times) == {*figures.work, "clear", bench.WHOLE}
        assert all(len(each.seconds) == 3 and min(each.seconds) > 0 for each in figures.times.values())


# -- the commands


@pytest.fixture
def known_peaks(own_cache):
    """Keep rates for all devices, so that none is measured."""
    for device in peaks._members(choose_device(), "float64"):
        store_rates(device, "float64", {FMA: 100e9, NEWTON: 4e9, TRIAD: 10e9}, busy=False)
    return own_cache


def run(capsys, *words: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as exit:
        cli.main(words)
    captured = capsys.readouterr()
    return int(exit.value.code or 0), captured.out + captured.err


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
    status, text = run(capsys, "ladder", str(book), *options, "--plot", str(plot))
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
    status, text = run(capsys, "ladder", str(book), *options, "--json")
    document = json.loads(text)
    assert (status, document["ok"], document["certified"]) == (0, True, None)
    (found,) = document["operators"]
    assert (found["operator"], found["binding"]) == ("p2p", "rsqrt")
    assert [step["name"] for step in found["steps"]] == ["sequential", "targets in lanes"]
    assert all(step["rate"] > 0 and 0 < step["share"] < 1 for step in found["steps"])


def test_command_ladder_fails_with_a_wrong_step(known_peaks, capsys, opencl_device):
    book = known_peaks / "mine.py"
    text = BOOK.replace("steps.lane_arrays(knl, 8)", "broken(steps.lane_arrays(knl, 8))")
    book.write_text(inspect.getsource(_drop_sources).replace("_drop_sources", "broken") + text)
    status, text = run(capsys, "ladder", str(book), "--device", opencl_device.description, *SIZE, "--no-check")
    assert status == 1
    assert "step 1 is WRONG: exact: polynomial, order 3" in text


def test_command_bench(known_peaks, capsys, opencl_device):
    options = ("--device", opencl_device.description, *SIZE)
    status, text = run(capsys, "bench", "sequential", *options)
    assert status == 0
    assert "no figures are kept for this problem yet" in text
    status, text = run(capsys, "bench", "sequential", *options)
    assert status == 0
    assert "A  sequential on" in text
    assert "kept from before" in text
    status, text = run(capsys, "bench", "pocl_cpu", *options, "--against", "sequential", "--json")
    document = json.loads(text)
    (result,) = document["results"]
    assert (status, document["ok"], result["book"]) == (0, True, "pocl_cpu")
    (comparison,) = result["comparisons"]
    assert (comparison["book"], comparison["in_turn"]) == ("sequential", True)
    assert comparison["operators"]["p2p"]["ratio"] > 0
    assert result["operators"]["p2p"]["binding"] == "rsqrt"
    assert bench.load(result["file"]).book == "pocl_cpu"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("ladder", "pocl_cpu", "--plot", "x.doc"), "plot is x.doc, expected a .png, .pdf or .svg"),
        (("ladder", "pocl_cpu", "--dtype", "int8"), "dtype is 'int8', expected 'float64' or 'float32'"),
        (("ladder", "pocl_cpu", "-o", "p2q"), "operator is 'p2q'"),
        (("bench", "--points", "0"), "points is 0, expected at least 1"),
        (("bench", "--all-devices", "--save", "x"), "--all-devices goes with neither --device nor --save"),
        (("bench", "--against", "nobody"), "'nobody' is neither a recipe book nor kept figures"),
        (("bench", "nobody"), "no recipe book 'nobody'"),
    ],
)
def test_commands_refuse_what_they_cannot_do(own_cache, capsys, words, message):
    status, text = run(capsys, *words)
    assert status == 2
    assert message in text
    assert len(text.strip().splitlines()) == 1
