"""Timing and bench: statistics by hand, figures that are kept, the commands."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from conftest import run_command

from fmmloopy.choosing.work import Work
from fmmloopy.components import CHARGES, Components
from fmmloopy.execution.devices import C_DEVICE
from fmmloopy.execution.setup import Setup
from fmmloopy.measuring import bench, ladder, timing
from fmmloopy.measuring.peaks import Peaks
from fmmloopy.measuring.probes import NEWTON
from fmmloopy.measuring.timing import Difference, Setting, Timing, compare
from fmmloopy.recipes import load_recipes

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
        ({"dtype": "int32"}, "dtype is 'int32', expected 'float64' or 'mixed' or 'reduced' or 'float32'"),
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
    assert np.array_equal(Setting(points=10, dtype="mixed").make_points(), points)


MIXED = ("p2p", "m2l_forward", "m2l_inverse")  # tuples: every process collects the same tests in the same order
REDUCED = ("p2p", "p2m", "p2l", "m2p", "l2p")


@pytest.mark.parametrize(
    ("operator", "dtype", "of_kernel"),
    [
        *((operator, "float64", "float64") for operator in ladder.OPERATORS),
        *((operator, "mixed", "mixed" if operator in MIXED else "float64") for operator in ("m2m", *MIXED)),
        ("m2l_hadamard", "mixed", "float32"),
        *((operator, "reduced", "mixed" if operator in REDUCED else "float32") for operator in ("m2m", *REDUCED)),
    ],
)
def test_every_operator_can_be_timed_alone(operator, dtype, of_kernel):
    """On the C device, whose code needs no other device: what is launched is the operator's own code."""
    problem = timing.make_problem(dataclasses.replace(SMALL, points=4000, dtype=dtype))
    book = load_recipes("sequential")
    runtime = ladder.make_runtime(C_DEVICE)
    timer = timing.OperatorTimer(problem, operator, book, runtime)
    assert timer.types.name == of_kernel
    setup = Setup(problem.setting.method, book, C_DEVICE)
    code = ladder.compile_operator(setup.code_key(operator, types=timer.types))
    found = timer.time(code, runs=3)
    assert len(found.seconds) == 3
    assert min(found.seconds) > 0
    assert problem.work(operator).flops > 0
    assert problem.nbytes(operator) > 0
    if operator in ("p2p", "l2p", "m2p"):
        assert runtime.read(timer._plan.points.potentials(CHARGES)).any()  # charges or locals are not 0
    if operator in ("p2m", "p2l"):
        assert runtime.read(timer._plan.expansions.checks).any()


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
    book, runtime = load_recipes("sequential"), ladder.make_runtime(C_DEVICE)
    setup = Setup(problem.setting.method, book, C_DEVICE)
    code = ladder.compile_operator(setup.code_key(operator, Components(gradient=gradient)))
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
    code = ladder.compile_operator(Setup(problem.setting.method, book, C_DEVICE).code_key("p2p"))
    assert len(timing.OperatorTimer(problem, "p2p", book, runtime).time(code, runs=9).seconds) == timing.FEWEST_RUNS


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
    limits = bench.rooflines(made_up_figures(), {"float64": PEAKS})["p2p"].limits
    assert limits == pytest.approx({"FMA": 0.1, "rsqrt": 0.25, "memory": 1e-7})
    figures = made_up_figures(setting=dataclasses.replace(SMALL, dtype="mixed"))
    faster = dataclasses.replace(PEAKS, fma=2 * PEAKS.fma)
    limits = bench.rooflines(figures, {"float64": PEAKS, "float32": faster})["p2p"].limits
    assert limits["FMA"] == pytest.approx(0.05)  # P2P computes in float32


def test_two_books_take_turns(opencl_device, monkeypatch):
    order = []
    evaluate = bench.Fmm.evaluate

    def note(self, charges):
        order.append(self.recipes.name)
        return evaluate(self, charges)

    monkeypatch.setattr(bench.Fmm, "evaluate", note)
    setting = Setting(points=3000, order=3)
    mine, other = bench.measure(["pocl_cpu", "sequential"], opencl_device, setting, runs=3)
    assert order == ["pocl_cpu", "sequential"] * 4
    assert (mine.book, other.book) == ("pocl_cpu", "sequential")
    for figures in (mine, other):
        assert set(figures.work) >= {"p2p", "p2m", "m2m", "m2l_hadamard", "l2p"}
        assert set(figures.times) == {*figures.work, "clear", bench.WHOLE}
        assert all(len(each.seconds) == 3 and min(each.seconds) > 0 for each in figures.times.values())


# -- the commands


SIZE = ("--points", "1500", "--order", "3", "--runs", "3")


def test_command_bench(known_peaks, capsys, opencl_device):
    options = ("--device", opencl_device.description, *SIZE)
    status, text = run_command(capsys, "bench", "sequential", *options)
    assert status == 0
    assert "no figures are saved for this problem yet" in text
    status, text = run_command(capsys, "bench", "sequential", *options)
    assert status == 0
    assert "A  sequential on" in text
    assert "saved earlier" in text
    status, text = run_command(capsys, "bench", "pocl_cpu", *options, "--against", "sequential", "--json")
    document = json.loads(text)
    (result,) = document["results"]
    assert (status, document["ok"], result["book"]) == (0, True, "pocl_cpu")
    (comparison,) = result["comparisons"]
    assert (comparison["book"], comparison["in_turn"]) == ("sequential", True)
    assert comparison["operators"]["p2p"]["ratio"] > 0
    assert result["operators"]["p2p"]["binding"] == "rsqrt"
    assert bench.load(result["file"]).book == "pocl_cpu"


def test_command_bench_in_mixed_precision(known_peaks, capsys, opencl_device):
    options = ("--device", opencl_device.description, *SIZE, "--dtype", "mixed", "--json")
    status, text = run_command(capsys, "bench", "sequential", *options)
    (result,) = json.loads(text)["results"]
    assert status == 0
    assert list(result["peaks"]) == ["float64", "float32"]
    assert (result["peaks"]["float64"]["fma"], result["peaks"]["float32"]["fma"]) == (100e9, 200e9)
    for operator, rate in (("p2m", 100e9), ("m2l_hadamard", 200e9)):
        entry = result["operators"][operator]
        roots = entry["pairs"]  # two operations each, which count apart
        assert entry["limits"]["FMA"] == pytest.approx((entry["flops"] - 2 * roots) / rate)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("ladder", "pocl_cpu", "--plot", "x.doc"), "plot is x.doc, expected a .png, .pdf or .svg"),
        (("ladder", "pocl_cpu", "--dtype", "int8"), "dtype is 'int8', expected 'float64' or 'mixed' or"),
        (("ladder", "pocl_cpu", "-o", "p2q"), "operator is 'p2q'"),
        (("bench", "--points", "0"), "points is 0, expected at least 1"),
        (("bench", "--all-devices", "--save", "x"), "--all-devices cannot be combined with --device or --save"),
        (("bench", "--against", "nobody"), "'nobody' is neither a recipe book nor saved figures"),
        (("bench", "nobody"), "no recipe book 'nobody'"),
    ],
)
def test_commands_refuse_what_they_cannot_do(own_cache, capsys, words, message):
    status, text = run_command(capsys, *words)
    assert status == 2
    assert message in text
    assert len(text.strip().splitlines()) == 1
