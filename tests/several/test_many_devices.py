"""Several devices in one process: potentials are those of one device, and arguments and errors are those of Fmm."""

from __future__ import annotations

import threading
import warnings
from dataclasses import replace

import numpy as np
import pytest
from conftest import OPENCL, POINT_SETS, clustered, cube, error, slow, slow_but, sphere
from faults import PLACES, call, failing

import fmmloopy as fl
from fmmloopy import fmm
from fmmloopy.choosing.calibration import KnownRates
from fmmloopy.choosing.cost_model import Rates
from fmmloopy.execution import stages
from fmmloopy.execution.device import CPU, GPU, OTHER, Device
from fmmloopy.execution.devices import C_DEVICE, DeviceError, choose_devices
from fmmloopy.fmm import Fmm
from fmmloopy.octree.heavy_boxes import cut_heavy_boxes
from fmmloopy.operators import OPERATORS
from fmmloopy.parts.team import PartError
from fmmloopy.several import processes
from fmmloopy.several.devices import ManyDevices, _all_devices
from fmmloopy.several.processes import device_here

ORDER, NCRIT = 4, 40

ROUNDING = 1e-12
"""Parts add up the same numbers in another order."""

MIXED = 1e-6
"""Near pairs in float32, whose sources are relative to other boxes."""


@pytest.fixture(scope="module")
def device():
    if not OPENCL:
        pytest.skip("no OpenCL device")
    return OPENCL[0]


def both(points, device, size, **options):
    """Return an evaluation on one device and one on several."""
    options = {"order": ORDER, "ncrit": NCRIT, "m2l": "fft", **options}
    return fl.Fmm(points, device=device, **options), fl.Fmm(points, devices=[device] * size, **options)


CASES = slow_but(
    lambda points, size: (points, size) in (("sphere", 2), ("cube", 3), ("clustered", 2), ("line", 3)),
    [(points, size) for points in POINT_SETS for size in (1, 2, 3)],
)


@pytest.mark.parametrize(("points", "size"), CASES)
def test_potentials_are_those_of_one_device(points, size, device, rng):
    points = POINT_SETS[points](rng, 3000)
    charges = rng.uniform(-1, 1, len(points))
    one, many = both(points, device, size)
    assert isinstance(many, ManyDevices)
    assert isinstance(many, Fmm)
    potentials, gradients = one.evaluate(charges, gradient=True)
    found, slopes = many.evaluate(charges, gradient=True)
    assert error(found, potentials) < ROUNDING if potentials.any() else not found.any()
    assert error(slopes, gradients) < ROUNDING if gradients.any() else not slopes.any()
    assert np.array_equal(many.evaluate(charges, gradient=True)[0], found)  # the same parts, the same bits
    many.evaluate(np.ones(len(points)))
    assert np.array_equal(many.evaluate(charges), many.evaluate(charges))


@pytest.mark.parametrize(
    ("options", "bound"),
    [
        ({"m2l": "svd", "precision": "mixed"}, MIXED),
        ({"precision": "reduced", "recipes": "sequential"}, 1e-5),  # and expansions in float32
        pytest.param({"dtype": np.float32}, 1e-5, marks=slow),
        ({"kernel": fl.yukawa(2.0), "recipes": "sequential"}, ROUNDING),
        ({"m2l": "dense"}, ROUNDING),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, dict) else None,
)
def test_in_all_precisions_and_forms(options, bound, device, rng):
    points = clustered(rng, 2500)
    charges = rng.uniform(-1, 1, len(points))
    one, many = both(points, device, 2, **options)
    found = many.evaluate(charges)
    assert found.dtype == many.dtype == one.dtype
    assert error(found, one.evaluate(charges)) < bound


def test_targets_of_a_part_are_among_its_sources_on_the_device(device, rng, monkeypatch):
    """Their array is that of the sources, ghosts before and behind them; also where boxes are cut into pieces."""
    points, charges, cut = cube(rng, 3000), rng.uniform(-1, 1, 3000), []
    limits = replace(device.limits, heavy_share=1 / 256, piece_targets=8)
    monkeypatch.setattr(stages, "cut_heavy_boxes", lambda *given: cut.append(cut_heavy_boxes(*given)) or cut[-1])
    one, many = both(points, replace(device, limits=limits), 3)
    assert error(many.evaluate(charges), one.evaluate(charges)) < ROUNDING
    assert any(pieces is not None for pieces in cut)
    for part in many.parts:
        arrays = part._evaluation._plan.points
        assert arrays.points["targets"] is arrays.sources
        own = slice(arrays.first_target, arrays.first_target + part.tree.ntargets)
        assert np.array_equal(part.tree.sources[:, own], part.tree.targets)
    assert [part._evaluation._plan.points.first_target > 0 for part in many.parts] == [False, True, True]
    many.update(points, sphere(rng, 500))
    arrays = many.parts[1]._evaluation._plan.points
    assert arrays.points["targets"] is not arrays.sources
    assert arrays.first_target == 0


def test_separate_targets_dipoles_and_vectors(device, rng):
    """Charges of very different size in turn, so that all parts must divide by the same power."""
    sources, targets = cube(rng, 2500), 0.3 * sphere(rng, 1700)
    one, many = both(sources, device, 3, targets=targets)
    charges = rng.uniform(-1, 1, (2500, 3)) * [1, 1e-200, 1e200]
    moments = rng.uniform(-1, 1, (2500, 3, 3)) * [1, 1e-200, 1e200]
    expected, found = one.evaluate(charges, moments), many.evaluate(charges, moments)
    assert found.shape == (1700, 3)
    for column in range(3):
        size = abs(charges[:, column]).max()
        assert error(found[:, column] / size, expected[:, column] / size) < ROUNDING


def test_several_components(device, rng):
    sources, forces = cube(rng, 1500), rng.uniform(-1, 1, (1500, 3))
    options = {"kernel": fl.stokeslet(), "order": 4, "recipes": "sequential"}  # whose code other tests need too
    one, many = both(sources, device, 2, targets=0.3 * sphere(rng, 900), **options)
    assert error(many.evaluate(forces), one.evaluate(forces)) < 1e-11  # errors of tables are amplified


@pytest.mark.parametrize(("far", "warned"), [(1e6, 1), (10, 0)])
def test_a_point_far_away_costs_digits_in_single_precision(far, warned, device, rng, recwarn):
    points = np.append(rng.random((400, 3)), [[far, 0, 0]], axis=0).astype(np.float32)
    many = fl.Fmm(points, order=ORDER, ncrit=NCRIT, m2l="fft", devices=[device] * 2)
    many.update(points)
    said = [str(each.message) for each in recwarn if "float32 is too coarse for these points" in str(each.message)]
    assert len(said) == 2 * warned, "once for each set of points, whatever the number of parts"


def test_points_in_the_same_place(device, rng):
    points = cube(rng, 2000)
    points[:300] = points[1000:1300]
    charges = rng.uniform(-1, 1, 2000)
    one, many = both(points, device, 3, kernel=fl.plummer(0.1), recipes="sequential")
    assert error(many.evaluate(charges), one.evaluate(charges)) < ROUNDING
    assert error(many.evaluate(charges), fl.direct(points, charges, kernel=fl.plummer(0.1))) < 1e-2


def test_update_rebalance_and_adjoint(device, rng):
    points, charges = sphere(rng, 2000), rng.uniform(-1, 1, 2000)
    one, many = both(points, device, 2)
    with pytest.raises(ValueError, match="there are no times yet; evaluate first"):
        many.rebalance()
    many.evaluate(charges)
    for part, seconds in zip(many.parts, (3.0, 1.0), strict=True):
        part._fastest = seconds
    assert many.rebalance()
    first, second = (part.tree.ntargets for part in many.parts)
    assert first + second == 2000
    assert first / second == pytest.approx(1 / 3, rel=0.2)  # leaves have up to 40 points
    assert error(many.evaluate(charges), one.evaluate(charges)) < ROUNDING
    assert many.timings["evaluate"] > 0
    for part in many.parts:
        part._fastest = 1.0
    assert not many.rebalance()  # they agree already
    assert many.estimate_error(k=200) < 1e-2
    moved, targets = cube(rng, 1500), sphere(rng, 700)
    one.update(moved, targets)
    many.update(moved, targets)
    operator, same = many.as_linear_operator(), one.as_linear_operator()
    assert operator.shape == (700, 1500)
    assert error(operator.matvec(charges[:1500]), same.matvec(charges[:1500])) < ROUNDING
    assert error(operator.rmatvec(charges[:700]), same.rmatvec(charges[:700])) < ROUNDING


def test_what_is_reported(device, rng):
    _, many = both(cube(rng, 500), device, 2)
    assert [part.working for part in many.plan_report().parts] == [None, None]
    many.evaluate(np.ones(500))
    assert "500 sources" in repr(many)
    assert "2 parts on" in repr(many)
    report = many.plan_report()
    parts = report.parts
    assert sum(part.nsources for part in parts) == sum(part.ntargets for part in parts) == 500
    assert all(part.nghosts > 0 and part.working > 0 and part.waiting >= 0 for part in parts)
    assert parts[report.slowest].working == max(part.working for part in parts)
    lines = str(report).splitlines()
    assert [line.split()[0] for line in lines[1:3]] == [f"{n}{'*' * (n == report.slowest)}" for n in range(2)]
    assert lines[4] == f"Part {report.slowest}, the slowest"
    assert report._repr_html_().count("<table>") == 1 + parts[0].plan._repr_html_().count("<table>")
    assert (many.order, many.ncrit, many.m2l) == (ORDER, NCRIT, "fft")
    assert many.error_estimate == many.parts[1].error_estimate
    with pytest.raises(AttributeError, match=r"several devices have a tree each, see fmm.parts\[0\].tree"):
        _ = many.tree


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"devices": []}, "devices is .*, expected names of devices, such as"),
        ({"devices": 3}, "devices is 3, expected names of devices"),
        ({"devices": ["c"], "device": "c"}, "devices and device are given, expected only one; leave out device"),
        ({"devices": ["c"], "order": 99}, "order is 99, expected a whole number from 2 to 16"),
    ],
)
def test_invalid_arguments(options, message, rng):
    with pytest.raises(ValueError, match=message):
        fl.Fmm(cube(rng, 20), **options)


def test_devices_that_are_not_there(rng):
    with pytest.raises(DeviceError, match="no device matches 'nonsense'"):
        fl.Fmm(cube(rng, 20), devices=["nonsense"])
    with pytest.raises(DeviceError, match="cannot be divided; only OpenCL devices can"):
        choose_devices("c/2")


def test_all_devices_are_accelerators_and_one_runtime_of_the_cpu():
    def made_up(name, kind, **more):
        return Device("opencl", name, name, "1", True, kind=kind, **more)

    first, second, gpu, other = (
        made_up("b", CPU),
        made_up("a", CPU),
        made_up("g", GPU),
        made_up("o", OTHER),
    )
    simulator = made_up("s", GPU, runtime="oclgrind")
    found = (gpu, first, second, other, simulator, C_DEVICE)
    assert _all_devices(found) == (gpu, first, other)
    assert _all_devices((first, second, C_DEVICE)) == (first,)
    assert _all_devices((C_DEVICE,)) == ()


def test_processes_on_a_machine_take_its_devices_in_turn(monkeypatch):
    def made_up(name, kind, cores, runtime):
        return Device("opencl", name, name, kind=kind, cores=cores, runtime=runtime)

    gpus = tuple(made_up(f"g{number}", GPU, 132, "nvidia") for number in range(3))
    cpu = made_up("c", CPU, 8, "intel")
    found = (*gpus, made_up("g0 again", GPU, 132, "pocl"), cpu)
    assert [device_here(found, number, 4) for number in range(4)] == [*gpus, gpus[0]]
    monkeypatch.setattr(processes.os, "cpu_count", lambda: 8)
    monkeypatch.setattr(processes, "processors", lambda: 8)
    with pytest.warns(UserWarning, match="2 processes on this machine use 8 cores each, and it has 8; bind them"):
        assert device_here((cpu,), 0, 2) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        device_here((cpu,), 1, 2)  # the first one says it
        device_here((cpu,), 0, 1)
        monkeypatch.setattr(processes, "processors", lambda: 4)
        device_here((cpu,), 0, 2)  # bound to their cores


def test_the_choice_of_ncrit_knows_all_points(device, rng, monkeypatch):
    """Rates are measured for, and looked up by, the number of points of the whole problem."""
    asked = []

    class Rates(KnownRates):
        def __init__(self, setup, runtime, most):
            asked.append(most)
            super().__init__(setup, runtime, most)

    monkeypatch.setattr(fmm, "KnownRates", Rates)
    fl.Fmm(cube(rng, 900), cube(rng, 1000), devices=[device] * 2, order=ORDER)
    assert asked == [1000, 1000]


def test_unequal_devices_have_work_by_their_rates_from_the_start(device, rng, monkeypatch):
    """Where rates are known, whatever the devices are; equal work where one has none."""
    points = cube(rng, 5000)
    options = {"order": ORDER, "ncrit": NCRIT, "m2l": "fft"}

    class Known(KnownRates):
        def of(self, form, measure=False):
            seconds = 1.0 if self._setup.device == C_DEVICE else 3.0
            return Rates(dict.fromkeys(OPERATORS, (seconds, 0.0)))

    monkeypatch.setattr(fmm, "KnownRates", Known)
    fast, slow = (part.tree.ntargets for part in fl.Fmm(points, devices=["c", device], **options).parts)
    assert fast / slow == pytest.approx(3, rel=0.1)  # leaves have up to 40 points
    one, other = (part.tree.ntargets for part in fl.Fmm(points, devices=[device] * 2, **options).parts)
    assert one / other == pytest.approx(1, rel=0.1)
    monkeypatch.setattr(Known, "of", lambda self, form, measure=False: None)
    one, other = (part.tree.ntargets for part in fl.Fmm(points, devices=["c", device], **options).parts)
    assert one / other == pytest.approx(1, rel=0.1)


def test_a_failing_device_fails_all(device, rng, monkeypatch):
    _, many = both(cube(rng, 500), device, 2)

    def lost(launches):
        raise DeviceError("the device is gone")

    monkeypatch.setattr(many.parts[1]._evaluation.runtime, "run", lost)
    with pytest.raises((DeviceError, PartError), match="the device is gone"):
        many.evaluate(np.ones(500))
    monkeypatch.undo()
    assert np.isfinite(many.evaluate(np.ones(500))).all()


def test_near_pairs_are_computed_while_multipoles_are_on_their_way(device, rng, monkeypatch):
    _, many = both(cube(rng, 2000), device, 2)
    many.evaluate(np.ones(2000))
    told, part = [], many.parts[0]
    runtime, local = part._evaluation.runtime, part._part
    start, exchange = runtime.start, local.exchange_multipoles

    def starting(launches):
        told.append([launch.operator for launch in launches])
        finish = start(launches)
        return lambda: (told.append("done"), finish())[1]

    monkeypatch.setattr(runtime, "start", starting)
    monkeypatch.setattr(local, "exchange_multipoles", lambda values: (told.append("exchange"), exchange(values)))
    many.evaluate(np.ones(2000))
    upward, done, near, between, also_done, downward, last = told
    assert (done, between, also_done, last) == ("done", "exchange", "done", "done")
    assert "p2m" in upward
    assert set(near) <= {"clear", "p2p", "p2p_mutual"}
    assert {"l2l", "l2p"} <= set(downward)
    assert "p2p" not in upward + downward


def test_a_part_without_a_queue(device, rng):
    """Code of the C compiler runs when it is started."""
    points, charges = cube(rng, 1000), rng.uniform(-1, 1, 1000)
    options = {"order": ORDER, "ncrit": NCRIT, "m2l": "fft"}
    many = fl.Fmm(points, devices=["c", device], **options)
    assert error(many.evaluate(charges), fl.Fmm(points, device=device, **options).evaluate(charges)) < ROUNDING


def test_parts_on_a_machine_share_the_workspace_of_its_processor(device, rng):
    one, many = both(cube(rng, 500), device, 4)
    workspaces = {part._evaluation._plan.workspace for part in many.parts}
    assert workspaces == {one._evaluation._plan.workspace // 4} == {device.limits.workspace // 4}


IN_THREADS = [place for place in PLACES if not place.endswith("write_results")]  # which no part calls


@pytest.mark.parametrize("place", slow_but(lambda place: place.endswith("take_out"), IN_THREADS))
def test_a_thread_fails_anywhere(place, device, rng):
    which, text, kind = PLACES[place]
    points, began, fault = cube(rng, 300), [], kind(text)

    def build():
        return fl.Fmm(points, devices=[device] * 2, order=ORDER, ncrit=NCRIT, m2l="fft")

    def here():
        return bool(began) and threading.current_thread() is not threading.main_thread()

    with failing(place, fault, here), pytest.raises(kind, match=text):
        call(which, build, points, lambda: began.append(1))
    assert build().evaluate(np.ones(300)).shape == (300,)


def test_parts_that_may_differ_are_not_used_again(device, rng):
    points = cube(rng, 300)
    many = fl.Fmm(points, devices=[device] * 2, order=ORDER, ncrit=NCRIT, m2l="fft")

    def here():
        return threading.current_thread() is not threading.main_thread()

    fault = RuntimeError("lost")
    with failing("fmmloopy.several.processes.build_part", fault, here), pytest.raises(RuntimeError, match="^lost$"):
        many.update(points)
    with pytest.raises(PartError, match=r"an earlier call has failed: lost \(in part 1 of 2\); build it anew"):
        many.evaluate(np.ones(300))


def test_a_device_is_divided(device, rng):
    if device.cores < 2:
        pytest.skip("the device has one core")
    try:
        parts = choose_devices(f"{device.description}/2")
    except DeviceError as reason:
        pytest.skip(str(reason))
    assert [part.cores for part in parts] == [device.cores // 2] * 2
    points, charges = cube(rng, 1000), np.ones(1000)
    one = fl.Fmm(points, device=device, order=ORDER, ncrit=NCRIT)
    many = fl.Fmm(points, devices=[f"{device.description}/2"], order=ORDER, ncrit=NCRIT)
    assert len(many.parts) == 2
    assert error(many.evaluate(charges), one.evaluate(charges)) < ROUNDING
    with pytest.raises(DeviceError, match="cannot be divided into 1000 devices"):
        choose_devices(f"{device.description}/1000")
