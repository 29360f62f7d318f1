"""Rates that are kept: when they are measured, when they are read, what makes them stale; and what the report says."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import cube, sphere

import fmmloopy as fl
from fmmloopy.choosing import calibration
from fmmloopy.choosing.calibration import (
    FEWEST_POINTS,
    PROBE_RADIUS,
    KnownRates,
    calibrate,
    probe_points,
    rates_file,
    rates_keys,
    stored_rates,
)
from fmmloopy.choosing.cost_model import Measurement, Rates
from fmmloopy.choosing.report import make_rows
from fmmloopy.choosing.work import Work, count_work, effort_per_pair
from fmmloopy.common.store import ENVIRONMENT_VARIABLE, cache_folder
from fmmloopy.execution import evaluation
from fmmloopy.execution.device import GPU, Probes
from fmmloopy.execution.devices import C_DEVICE
from fmmloopy.execution.runtime import make_runtime
from fmmloopy.execution.setup import Method, Setup
from fmmloopy.octree.lists import build_lists
from fmmloopy.octree.tree import build_tree
from fmmloopy.operators import OPERATORS
from fmmloopy.precision import DOUBLE, SINGLE, find_precision
from fmmloopy.recipes import SEQUENTIAL, load_recipes
from fmmloopy.tables.cache import cached_tables

SIZES = Probes()

MEASURED = [Measurement({"p2p": Work(10**6, 12 * 10**6, 100)}, {"p2p": 1e-3})]


@pytest.fixture
def count_measurements(own_cache, monkeypatch):
    """Put made-up measurements in place of those of a device, and count how often they are asked for."""
    asked = []

    def measure(build, count, sizes, ncrits):
        asked.append(build)
        return MEASURED

    monkeypatch.setattr(calibration, "measure", measure)
    return asked


def never(points, ncrit):
    raise AssertionError("nothing should be built")


# -- the store


def test_rates_are_measured_once(count_measurements):
    assert stored_rates("key") is None
    first = calibrate("key", never, 5000, SIZES)
    assert first.per_unit["p2p"][0] == pytest.approx(1e-9, rel=0.1)
    assert calibrate("key", never, 5000, SIZES) == stored_rates("key") == first
    assert len(count_measurements) == 1
    calibrate("another key", never, 5000, SIZES)
    assert len(count_measurements) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: text.replace('"p2p"', '"p2m"'),
        lambda text: text.replace('"key": "key"', '"key": "other"'),
        lambda text: "[]",
        lambda text: "\0" + text,
    ],
)
def test_damaged_files_count_as_none(damage, count_measurements):
    expected = calibrate("key", never, 5000, SIZES)
    file = rates_file("key")
    assert damage(file.read_text()) != file.read_text()
    file.write_text(damage(file.read_text()))
    assert stored_rates("key") is None
    assert calibrate("key", never, 5000, SIZES) == expected
    assert len(count_measurements) == 2
    assert stored_rates("key") == expected


def test_rates_of_a_busy_machine_are_measured_again_when_it_is_quiet(count_measurements, monkeypatch):
    for busy, times in ((True, 1), (True, 1), (False, 2), (True, 2), (False, 2)):
        monkeypatch.setattr(calibration, "is_busy", lambda busy=busy: busy)
        assert calibrate("key", never, 5000, SIZES) == stored_rates("key")
        assert len(count_measurements) == times


def test_rates_of_a_busy_machine_are_better_than_none(count_measurements, monkeypatch):
    monkeypatch.setattr(calibration, "is_busy", lambda: True)
    kept = calibrate("key", never, 5000, SIZES)
    monkeypatch.setattr(calibration, "is_busy", lambda: False)

    def fails(build, count, sizes, ncrits):
        raise fl.DeviceError("gone")

    monkeypatch.setattr(calibration, "measure", fails)
    assert calibrate("key", never, 5000, SIZES) == kept


def test_a_deleted_file_is_made_again(count_measurements):
    calibrate("key", never, 5000, SIZES)
    rates_file("key").unlink()
    calibrate("key", never, 5000, SIZES)
    assert len(count_measurements) == 2


def test_a_cache_that_cannot_be_written(count_measurements, own_cache, monkeypatch):
    (own_cache / "a file").write_text("")
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(own_cache / "a file"))
    assert calibrate("key", never, 5000, SIZES).per_unit["p2p"][0] > 0
    assert stored_rates("key") is None


def test_a_device_that_fails_has_no_rates(own_cache):
    def fails(points, ncrit):
        raise fl.DeviceError("busy")

    assert calibrate("key", fails, 5000, SIZES) is None
    assert not rates_file("key").exists()


def probe(tree, kernel, timings, run):
    """Return what stands for an evaluation of order 3, with the FFT form of M2L."""
    setup = Setup(Method(kernel, 3, DOUBLE), SEQUENTIAL, C_DEVICE)
    problem = SimpleNamespace(tree=tree, lists=build_lists(tree))
    return SimpleNamespace(setup=setup, m2l="fft", problem=problem, timings=timings, run=run)


def test_a_device_that_takes_long_is_tried_once(own_cache, monkeypatch):
    clock, built = [0.0], []
    monkeypatch.setattr(calibration.time, "perf_counter", lambda: clock[-1])

    def build(points, ncrit):
        built.append(len(points))
        tree = build_tree(points, None, ncrit)

        def run(charges):
            assert charges.shape == (1, tree.nsources)
            clock.append(clock[-1] + 10.0)

        return probe(tree, fl.laplace(), {}, run)

    assert calibrate("key", build, 5000, SIZES) is None
    assert built == [SIZES.first]
    assert calibrate("key", never, 5000, SIZES) is None
    assert stored_rates("key") is None


class Machine:
    """Builds probes whose operators take a nanosecond for each unit of work, times what is told of round and probe."""

    def __init__(self, slowness, clock, kernel):
        self.slowness, self.clock, self.kernel = slowness, clock, kernel
        self.built, self.evaluated = 0, []
        points = probe_points(300)
        self.trees = [build_tree(points, None, ncrit) for ncrit in (20, 40, 80)]

    def __call__(self, points, ncrit):
        which, self.built = max(self.built - 1, 0), self.built + 1  # the first is to see whether the device is too slow
        tree = self.trees[which]
        timings = {"setup": 100.0}  # which is of the construction
        work = count_work(tree, build_lists(tree), Method(self.kernel, 3), "fft")

        def run(charges):
            if self.built > 1:
                slow = self.slowness(self.evaluated.count(which), which)
                self.evaluated.append(which)
                timings.update({name: 1e-9 * slow * (each.pairs or each.flops) for name, each in work.items()})
                self.clock[0] += 0.1

        return probe(tree, self.kernel, timings, run)


@pytest.mark.parametrize(
    ("slowness", "rounds"),
    [
        (lambda number, probe: 1.0, 4),  # more than a second
        (lambda number, probe: 1.0 if number else 1.1, 4),
        (lambda number, probe: 3.0 if (number, probe) < (2, 1) else 1.0, 5),
        (lambda number, probe: 2.0 if (number, probe) == (3, 2) else 1.0, 5),
        (lambda number, probe: 1.0 if (number, probe) >= (3, 2) else 3.0, 6),
        (lambda number, probe: 1.5**-number if probe else 1.0, 14),  # more than four seconds
    ],
)
def test_probes_take_turns_until_the_machine_is_steady(slowness, rounds, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(calibration.time, "perf_counter", lambda: clock[0])
    machine = Machine(slowness, clock, fl.laplace())
    found = calibration.measure(machine, 300, SIZES)
    assert machine.built == 4
    assert machine.evaluated == [0, 1, 2] * rounds
    for probe, measurement in enumerate(found):
        fastest = min(slowness(number, probe) for number in range(rounds))
        for name, seconds in measurement.seconds.items():
            work = measurement.work[name]
            assert seconds == pytest.approx(1e-9 * fastest * (work.pairs or work.flops))


def test_probes_have_one_table_whatever_the_function(opencl_device, own_cache, monkeypatch):
    """Tables for each level of each probe would take most of the time of a first evaluation."""
    asked = []
    monkeypatch.setattr(evaluation, "cached_tables", lambda *given: asked.append(given[2]) or cached_tables(*given))
    runtime = make_runtime(opencl_device)
    setup = Setup(Method(fl.yukawa(), 3), load_recipes("pocl31_cpu"), runtime.device)
    assert KnownRates(setup, runtime, FEWEST_POINTS).of("fft", measure=True)
    assert [list(radii) for radii in asked] == [[PROBE_RADIUS]]


@pytest.mark.parametrize(("npoints", "probes"), [(100_000, SIZES.points), (10**6, SIZES.many_points)])
def test_large_problems_have_large_probes(npoints, probes, own_cache, monkeypatch):
    asked = []
    monkeypatch.setattr(calibration, "measure", lambda build, count, sizes, ncrits: asked.append(count) or MEASURED)
    calibrate("key", never, npoints, SIZES)
    assert asked == [probes]


def test_probes_are_the_same_every_time():
    points = probe_points(1000)
    assert points.shape == (1000, 3)
    assert np.array_equal(points, probe_points(1000))


# -- the key


def key(m2l="fft", kernel=None, order=6, dtype="float64", book=None, device=C_DEVICE, parameters=None, npoints=5000):
    method = Method(kernel or fl.laplace(), order, find_precision(dtype))
    setup = Setup(method, book or load_recipes("pocl_cpu"), device, parameters or {})
    return rates_keys(setup, npoints)[m2l]


def test_the_key_holds_what_rates_depend_on():
    book = load_recipes("pocl_cpu")
    other = {**book.recipes, "l2l": book.recipes["p2p"]}
    keys = {
        key(),
        key(kernel=fl.yukawa()),
        key(order=7),
        key(dtype="float32"),
        key(dtype="mixed"),
        key(book=replace(book, recipes=other, tuning={}, by_device={})),
        key(device=replace(C_DEVICE, driver="newer")),
        key(m2l="dense"),
        key(npoints=SIZES.many_from),
        key(parameters={"p2p": {"lanes": 4}}),
    }
    assert len(keys) == 10
    assert key() == key()
    assert key() == key(npoints=SIZES.many_from - 1)
    # The values of parameters are arguments of the code.
    assert key(kernel=fl.yukawa(1.0)) == key(kernel=fl.yukawa(2.0))


# -- in an evaluation


@pytest.fixture(scope="module")
def sphere_points():
    points = np.random.default_rng(2).standard_normal((FEWEST_POINTS, 3))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def test_an_evaluation_measures_chooses_and_reports(sphere_points, opencl_device, own_cache):
    fmm = fl.Fmm(sphere_points, digits=2, device=opencl_device)
    assert len(list((own_cache / "rates").iterdir())) == 2  # the rates, and which were measured last
    report = fmm.plan_report()
    assert report.choice.reason == "predicted to be the fastest"
    assert (report.order, report.choice.ncrit, report.choice.m2l) == (fmm.order, fmm.ncrit, "fft")
    assert fmm.ncrit in [candidate.ncrit for candidate in report.choice.candidates]
    assert all(row.predicted > 0 and row.measured is None and row.ratio is None for row in report.rows)
    assert report.evaluate is None

    charges = np.ones(len(sphere_points))
    potentials = fmm.evaluate(charges)
    report = fmm.plan_report()
    assert all(row.measured == fmm.timings[row.operator] and row.ratio > 0 for row in report.rows)
    lines = str(report).splitlines()
    assert "order       3: the lowest for 2 digits" in lines
    assert f"ncrit, M2L  {fmm.ncrit}, fft: predicted to be the fastest" in lines
    assert any(re.match(rf"{fmm.ncrit}\* +fft +{fmm.tree.nboxes:,} +[\d.]+$", line) for line in lines)
    assert any(re.match(r"p2p +[\d.e+]+ pairs +[\d.]+ +[\d.]+ +[\d.]+$", line) for line in lines)
    assert "gradients" not in str(report)
    fmm.evaluate(charges, gradient=True)
    assert "It also computed gradients" in str(fmm.plan_report())

    # Another evaluation reads what was measured; what is given is kept; and the choice changes no potentials.
    again = fl.Fmm(sphere_points, digits=2, device=opencl_device)
    assert again.ncrit == fmm.ncrit
    given = fl.Fmm(sphere_points, order=3, ncrit=60, precision="reduced", m2l="fft", device=opencl_device)
    assert (given.ncrit, given.plan_report().choice.candidates) == (60, ())
    assert all(row.predicted for row in given.plan_report().rows)
    assert "order       3: as given" in str(given.plan_report()).splitlines()
    assert len(list((own_cache / "rates").iterdir())) == 2
    assert np.linalg.norm(given.evaluate(charges) - potentials) < 2e-2 * np.linalg.norm(potentials)


@pytest.fixture
def quiet(monkeypatch):
    """Make all measurements those of a quiet machine, so that none is repeated."""
    monkeypatch.setattr(calibration, "is_busy", lambda: False)


def kept_rates(setup):
    return KnownRates(setup, make_runtime(setup.device), FEWEST_POINTS).of("fft", measure=True)


def test_rates_of_other_cases_are_derived_from_those_measured_last(opencl_device, quiet, count_measurements):
    def setup(kernel=None, order=4, precision=DOUBLE, book="pocl31_cpu"):
        return Setup(Method(kernel or fl.laplace(), order, precision), load_recipes(book), opencl_device)

    unit, block = kept_rates(setup()).per_unit["p2p"]
    assert len(count_measurements) == 1
    # Another order changes no pair; a function with more operations does; numbers of half the size take half the time.
    assert kept_rates(setup(order=6)).per_unit["p2p"] == (unit, block)
    ratio = effort_per_pair(fl.stokeslet()) / effort_per_pair(fl.laplace())
    assert kept_rates(setup(fl.stokeslet())).per_unit["p2p"] == (pytest.approx(ratio * unit), block)
    assert kept_rates(setup(precision=SINGLE)).per_unit["p2p"] == pytest.approx((unit / 2, block / 2))
    assert len(count_measurements) == 1
    # Other recipes are not alike.
    kept_rates(setup(book="pocl_cpu"))
    assert len(count_measurements) == 2


@pytest.mark.parametrize("damage", [b"", b"{}", b'{"rates": 3}'])
def test_a_case_is_measured_if_none_can_be_derived_from(damage, opencl_device, quiet, count_measurements):
    def setup(order):
        return Setup(Method(fl.laplace(), order), load_recipes("pocl31_cpu"), opencl_device)

    kept_rates(setup(3))
    (latest,) = (cache_folder() / "rates").glob("latest-*")
    latest.write_bytes(damage)
    kept_rates(setup(4))
    assert len(count_measurements) == 2
    # And so if the rates themselves are gone.
    for path in set((cache_folder() / "rates").iterdir()) - set((cache_folder() / "rates").glob("latest-*")):
        path.unlink()
    kept_rates(setup(5))
    assert len(count_measurements) == 3


def test_the_report_says_that_rates_are_derived(sphere_points, opencl_device, quiet, own_cache):
    assert fl.Fmm(sphere_points, order=3, device=opencl_device).plan_report().rates == calibration.MEASURED
    report = fl.Fmm(sphere_points, order=4, device=opencl_device).plan_report()
    assert report.rates == calibration.DERIVED
    assert report.choice.reason == "predicted to be the fastest"


@pytest.fixture
def made_up_rates(own_cache, monkeypatch):
    """Put rates alike for all operators in place of those of a device; collect the forms that they are asked for."""
    asked = []
    equal = dict.fromkeys(OPERATORS, (3e-11, 0.0)) | dict.fromkeys(("p2p", "p2m", "p2l", "l2p", "m2p"), (1e-9, 0.0))

    def rates(key, build=None, npoints=0, sizes=None, blocks=None):
        if build is not None:
            asked.append("svd" if "m2l_svd" in key else "fft")
        # Those of the compressed form have another rate of P2M, as if the device had been slower then.
        return Rates(equal | {"p2m": (1.0, 0.0)} if "m2l_svd" in key else equal)

    monkeypatch.setattr("fmmloopy.choosing.calibration.calibrate", rates)
    monkeypatch.setattr("fmmloopy.choosing.calibration.stored_rates", rates)
    monkeypatch.setattr("fmmloopy.choosing.cost_model.SVD_POINTS", 10_000)
    return asked


@pytest.mark.parametrize(("make", "expected"), [(sphere, "svd"), (cube, "fft")])
def test_the_default_compares_forms_of_m2l(make, expected, made_up_rates, rng, opencl_device):
    points = make(rng, 10_000)
    fmm = fl.Fmm(points, order=4, device=opencl_device)
    report = fmm.plan_report()
    assert made_up_rates == ["fft", "svd"]
    assert (fmm.m2l, report.choice.m2l, report.fft_alone) == (expected, expected, None)
    assert {candidate.m2l for candidate in report.choice.candidates} == {"fft", "svd"}
    # What is predicted for both forms differs by M2L alone.
    predicted = {row.operator: row.predicted for row in report.rows}
    assert predicted["p2m"] == pytest.approx(1e-9 * 56 * len(points))
    lines = str(report).splitlines()
    assert any(line.startswith(f"ncrit, M2L  {fmm.ncrit}, {expected}: predicted to be the fastest; ") for line in lines)
    for form in ("fft", "svd"):
        assert any(re.match(rf"{fmm.ncrit}[* ] +{form} ", line) for line in lines)


def test_the_report_needs_no_cache(sphere_points, opencl_device, count_measurements, monkeypatch):
    """What was chosen by is what is reported, whether or not it could be kept."""
    monkeypatch.setattr(
        "fmmloopy.choosing.calibration.calibrate",
        lambda key, build, npoints, sizes, blocks: Rates(dict.fromkeys(OPERATORS, (1e-9, 0.0))),
    )
    report = fl.Fmm(sphere_points, order=3, device=opencl_device).plan_report()
    assert not list((cache_folder() / "rates").glob("*"))
    assert report.choice.reason == "predicted to be the fastest"
    assert all(row.predicted for row in report.rows)
    assert "rates       measured on this device with probes" in str(report)


def test_an_operator_without_a_rate_leaves_the_others():
    work = {"p2p": Work(1000, 12_000), "m2m": Work(0, 100), "m2p": Work(0, 0)}
    p2p, m2m = make_rows(work, Rates({"p2p": (1e-9, 0.0)}), {"p2p": 2e-6, "m2m": 1e-6})
    assert (p2p.predicted, p2p.ratio) == (pytest.approx(1e-6), pytest.approx(2.0))
    assert (m2m.predicted, m2m.measured, m2m.ratio) == (None, 1e-6, None)


def test_a_form_that_is_given_is_not_compared(made_up_rates, rng, opencl_device):
    for m2l in ("fft", "svd"):
        fmm = fl.Fmm(sphere(rng, 10_000), order=4, m2l=m2l, device=opencl_device)
        report = fmm.plan_report()
        assert (fmm.m2l, report.fft_alone) == (m2l, None)
        assert {candidate.m2l for candidate in report.choice.candidates} == {m2l}
    assert made_up_rates == ["fft", "svd"]


@pytest.mark.parametrize("precision", ["mixed", "reduced"])
def test_forms_are_compared_in_less_than_double_precision_too(precision, made_up_rates, rng, opencl_device):
    fmm = fl.Fmm(sphere(rng, 10_000), order=4, precision=precision, device=opencl_device)
    assert made_up_rates == ["fft", "svd"]
    assert {candidate.m2l for candidate in fmm.plan_report().choice.candidates} == {"fft", "svd"}


def test_small_problems_measure_nothing_and_use_what_is_kept(sphere_points, opencl_device, own_cache, monkeypatch):
    few = sphere_points[: FEWEST_POINTS - 1]
    fmm = fl.Fmm(few, order=3, device=opencl_device)
    assert not (own_cache / "rates").exists()
    report = fmm.plan_report()
    assert fmm.ncrit == 75
    assert report.rates == "none"
    assert "the rule of 25 x order" in str(report)
    assert "rates       none" in str(report).splitlines()
    rates = {row.operator: (1e-15 if row.operator == "p2p" else 1e-6, 0.0) for row in report.rows}
    monkeypatch.setattr("fmmloopy.choosing.calibration.stored_rates", lambda key: Rates(rates))
    assert fl.Fmm(few, order=3, device=opencl_device).ncrit > 75


def test_probes_share_the_programs_of_the_evaluation(sphere_points, opencl_device, own_cache, monkeypatch):
    opened = []

    def open_device(device):
        opened.append(device)
        return make_runtime(device)

    monkeypatch.setattr("fmmloopy.fmm.make_runtime", open_device)
    fmm = fl.Fmm(sphere_points, order=3, device=opencl_device)
    assert fmm.plan_report().rates != "none"
    assert opened == [opencl_device]


def test_a_runtime_stands_for_its_device(sphere_points, opencl_device, own_cache):
    runtime, options = make_runtime(opencl_device), {"order": 3, "ncrit": 60, "m2l": "fft"}
    charges = np.ones(len(sphere_points))
    first, second = (fl.Fmm(sphere_points, runtime=runtime, **options).evaluate(charges) for _ in range(2))
    apart = fl.Fmm(sphere_points, device=opencl_device, **options)
    # The same programs on the same numbers in the same order.
    assert np.array_equal(first, second)
    assert np.array_equal(first, apart.evaluate(charges))
    with pytest.raises(ValueError, match="expected only one; leave out device"):
        fl.Fmm(sphere_points, device="c", runtime=runtime, **options)


def test_one_probe_is_enough_on_cpus(opencl_device, quiet, own_cache, monkeypatch):
    """The rate of a block is known from that of a pair; on other devices, three probes give both."""
    asked = []

    def measure(build, count, sizes, ncrits):
        asked.append(ncrits)
        return MEASURED

    monkeypatch.setattr(calibration, "measure", measure)

    def p2p(kernel, kind):
        device = replace(opencl_device, kind=kind, driver=kind)
        setup = Setup(Method(kernel, 3), load_recipes("pocl31_cpu"), device)
        return KnownRates(setup, make_runtime(opencl_device), FEWEST_POINTS).of("fft", measure=True).per_unit["p2p"]

    unit, block = p2p(fl.laplace(), opencl_device.kind)
    blocks = OPERATORS["p2p"].block
    assert block == pytest.approx(blocks * unit)
    work = MEASURED[0].work["p2p"]
    assert unit * work.pairs + block * work.blocks == pytest.approx(MEASURED[0].seconds["p2p"])
    p2p(fl.laplace(), GPU)
    assert asked == [calibration.NCRITS[1:2], calibration.NCRITS]


def test_a_block_takes_as_long_whatever_the_function(opencl_device):
    def blocks(kernel):
        setup = Setup(Method(kernel, 3), load_recipes("pocl31_cpu"), opencl_device)
        return KnownRates(setup, None, FEWEST_POINTS)._blocks("fft")

    ratio = effort_per_pair(fl.stokeslet()) / effort_per_pair(fl.laplace())
    assert blocks(fl.laplace()) == pytest.approx({name: OPERATORS[name].block for name in blocks(fl.laplace())})
    assert blocks(fl.stokeslet())["p2p"] == pytest.approx(OPERATORS["p2p"].block / ratio)
    assert blocks(fl.stokeslet())["m2l_hadamard"] == OPERATORS["m2l_hadamard"].block
    assert "m2l_svd" not in blocks(fl.laplace())
