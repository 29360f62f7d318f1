"""Peaks: probes compute what they claim, rates are kept and only rise; and rooflines, by hand."""

from __future__ import annotations

import dataclasses
import os
import re

import numpy as np
import pytest

from fmmloopy.accuracy import svd_tolerance
from fmmloopy.choosing.work import Work, count_work, flops_per_pair
from fmmloopy.execution import devices as devices_module
from fmmloopy.execution.devices import C_DEVICE, Device, DeviceError, is_busy
from fmmloopy.execution.setup import Method
from fmmloopy.greens import GreensFunction, laplace, yukawa
from fmmloopy.measuring import peaks as peaks_module
from fmmloopy.measuring import probes
from fmmloopy.measuring.peaks import Peaks, machine_peaks, processor_of, read_rates, store_rates
from fmmloopy.measuring.probes import FMA, NEWTON, READ, RSQRT, SQRT_DIV, TRIAD, Probe, measure, probes_for
from fmmloopy.measuring.roofline import Roofline, count_bytes, roofline
from fmmloopy.measuring.timing import Setting, make_problem
from fmmloopy.precision import SINGLE
from fmmloopy.tables.cache import cached_factors
from fmmloopy.transforms.inline import INLINE

PEAKS = Peaks("a processor", "float64", 100e9, {SQRT_DIV: 2e9, NEWTON: 4e9}, 10e9, cache=10_000_000)


# -- probes


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("quantity", [FMA, SQRT_DIV, NEWTON])
def test_a_probe_runs_on_every_device_and_computes_what_it_says(device, quantity, dtype):
    # 32 bytes: wider roots end PoCL 3.0's process on some processors.
    width = 32 // np.dtype(dtype).itemsize
    assert 0 < measure(Probe(quantity, dtype, width, 2), device, seconds=1e-5, repeats=1) < np.inf


def test_opencl_s_own_root_in_work_items(opencl_device):
    assert 0 < measure(Probe(RSQRT, "float32", 1, 2, 16), opencl_device, seconds=1e-5, repeats=1) < np.inf


@pytest.mark.parametrize("quantity", [TRIAD, READ])
def test_a_memory_probe_streams_all_of_its_arrays(device, quantity):
    assert 0 < measure(Probe(quantity, "float64", 4), device, repeats=1) < np.inf


def test_the_probe_of_newton_has_the_numbers_of_the_recipes():
    for seed, iterations in probes._NEWTON.values():
        for number in (seed, *re.findall(r"\d\.\d+f?", " ".join(iterations))):
            assert number in INLINE["fmmloopy_rsqrt"]


def test_a_probe_with_a_wrong_result_has_no_rate(monkeypatch):
    """One of its two iterations leaves six digits."""
    good = probes._step
    monkeypatch.setattr(
        probes, "_step", lambda probe, name: good(probe, name).replace(" y = y + y", " y = y - 0 * y", 1)
    )
    with pytest.raises(DeviceError, match=r"the probe of Newton in float64 is off by [\d.e+]+ eps"):
        measure(Probe(NEWTON, "float64", 4, 2), C_DEVICE, seconds=1e-5, repeats=1)


def test_a_probe_whose_work_is_left_out_has_no_rate(monkeypatch):
    monkeypatch.setattr(probes, "_step", lambda probe, name: "")
    with pytest.raises(DeviceError, match="the probe of FMA in float64 is off"):
        measure(Probe(FMA, "float64", 4, 2), C_DEVICE, seconds=1e-5, repeats=1)


def test_every_quantity_has_probes(device):
    quantities = {probe.quantity for probe in probes_for(device, "float32")}
    assert quantities == {FMA, SQRT_DIV, NEWTON, TRIAD, READ} | ({RSQRT} if device.backend == "opencl" else set())


# -- what is kept


def rates(fma: float) -> dict[str, float]:
    return {FMA: fma, SQRT_DIV: 2e9, TRIAD: 10e9, READ: 12e9}


def seed_all(device: Device, fma: float = 100e9, busy: bool = False) -> None:
    """Keep rates for all devices of a processor, so that nothing is measured."""
    for number, member in enumerate(peaks_module._members(device, "float64")):
        store_rates(member, "float64", rates(fma + number), busy)


def test_rates_survive_the_file(own_cache):
    assert read_rates(C_DEVICE, "float64") is None
    store_rates(C_DEVICE, "float64", rates(5e9), busy=False)
    found = read_rates(C_DEVICE, "float64")
    assert found is not None
    assert (found["rates"], found["busy"]) == (rates(5e9), False)
    assert read_rates(C_DEVICE, "float32") is None
    assert read_rates(dataclasses.replace(C_DEVICE, driver="another"), "float64") is None


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", '{"key": [], "rates": {}, "busy": false}', '{"rates": {"FMA": "x"}}']
)
def test_a_damaged_file_counts_as_none(own_cache, text):
    store_rates(C_DEVICE, "float64", rates(5e9), busy=False)
    peaks_module._path(C_DEVICE, "float64").write_text(text)
    assert read_rates(C_DEVICE, "float64") is None


def test_the_highest_rate_of_a_processor_counts(own_cache):
    seed_all(C_DEVICE)
    found = machine_peaks(C_DEVICE, "float64")
    assert found.fma == 100e9 + len(peaks_module._members(C_DEVICE, "float64")) - 1
    assert (found.rsqrt, found.bandwidth, found.busy) == (2e9, 12e9, False)
    assert found.processor == processor_of(C_DEVICE)


def test_all_cpu_devices_share_a_processor(device):
    if device.kind != "cpu":
        pytest.skip("not a CPU")
    assert processor_of(device) == processor_of(C_DEVICE)


def test_rates_of_a_busy_machine_are_measured_again_when_it_is_quiet(own_cache, monkeypatch):
    measured = []

    def renew(member, dtype, known, busy, notify):
        measured.append(member)
        return store_rates(member, dtype, rates(200e9), busy=False)

    monkeypatch.setattr(peaks_module, "_renew", renew)
    seed_all(C_DEVICE, busy=True)
    monkeypatch.setattr(peaks_module, "is_busy", lambda: True)
    assert machine_peaks(C_DEVICE, "float64").busy
    assert measured == []
    monkeypatch.setattr(peaks_module, "is_busy", lambda: False)
    found = machine_peaks(C_DEVICE, "float64")
    assert (found.fma, found.busy) == (200e9, False)
    assert len(measured) == len(peaks_module._members(C_DEVICE, "float64"))


def test_rates_only_rise(own_cache, monkeypatch):
    """Measuring again gives 1 for everything; what was higher stays."""
    monkeypatch.setattr(peaks_module, "_measure", lambda stage, device, probe, cache: 1.0)
    renewed = peaks_module._renew(C_DEVICE, "float64", {"rates": {FMA: 5e9}, "busy": True}, False, lambda text: None)
    assert renewed["rates"] == {FMA: 5e9, SQRT_DIV: 1.0, NEWTON: 1.0, TRIAD: 1.0, READ: 1.0}


def test_a_probe_that_crashes_leaves_the_others(own_cache, monkeypatch):
    def crash_in_roots(stage, device, probe, cache):
        if probe.quantity == "Newton":
            os.abort()
        return 1.0

    monkeypatch.setattr(peaks_module, "_measure", crash_in_roots)
    renewed = peaks_module._renew(C_DEVICE, "float64", None, False, lambda text: None)
    assert set(renewed["rates"]) == {FMA, SQRT_DIV, TRIAD, READ}


def test_a_processor_that_runs_no_probe_has_no_peaks(own_cache, monkeypatch):
    monkeypatch.setattr(peaks_module, "_renew", lambda *_: {"rates": {}, "busy": False})
    with pytest.raises(DeviceError, match="no device runs all probes in float64"):
        machine_peaks(C_DEVICE, "float64")


def test_load_decides_what_is_busy(monkeypatch):
    monkeypatch.setattr(devices_module, "processors", lambda: 4)
    monkeypatch.setattr(os, "getloadavg", lambda: (2.9, 0, 0))
    assert not is_busy()
    monkeypatch.setattr(os, "getloadavg", lambda: (3.1, 0, 0))
    assert is_busy()


# -- rooflines


def test_pairs_are_bound_by_their_roots():
    """A billion pairs of 12 operations, 10 of them beside the root: 0.1 s of FMA, 0.25 s of Newton's roots."""
    found = roofline(Work(10**9, 12 * 10**9), 10_000_000, PEAKS, laplace())
    assert found.limits == pytest.approx({"FMA": 0.1, "rsqrt": 0.25, "memory": 0.0})
    assert (found.binding, found.seconds, found.uncounted) == ("rsqrt", pytest.approx(0.25), ())
    assert found.share(0.5) == pytest.approx(0.5)


def test_the_faster_way_to_a_root_counts():
    slow = dataclasses.replace(PEAKS, rsqrt_by={SQRT_DIV: 2e9, NEWTON: 1e9})
    assert roofline(Work(10**9, 12 * 10**9), 0, slow, laplace()).limits["rsqrt"] == pytest.approx(0.5)


def test_dense_products_are_bound_by_multiply_adds_or_memory():
    found = roofline(Work(0, 10**9), 10_000_000, PEAKS, laplace())
    assert (found.binding, found.limits) == ("FMA", pytest.approx({"FMA": 0.01, "memory": 0.0}))
    found = roofline(Work(0, 10**9), 1_010_000_000, PEAKS, laplace())  # 10 MB of it in the cache
    assert (found.binding, found.limits) == ("memory", pytest.approx({"FMA": 0.01, "memory": 0.1}))


def test_functions_without_a_peak_are_named():
    work = Work(1000, 1000 * flops_per_pair(yukawa()))
    assert roofline(work, 0, PEAKS, yukawa()).uncounted == ("exp",)
    assert roofline(Work(0, 1000), 0, PEAKS, yukawa()).uncounted == ()


def test_a_function_without_a_root_has_no_limit_by_roots():
    polynomial = GreensFunction("polynomial", (("d0*d1",),))
    work = Work(100, 100 * flops_per_pair(polynomial))
    limits = roofline(work, 0, PEAKS, polynomial).limits
    assert limits == pytest.approx({"FMA": work.flops / 100e9, "memory": 0.0})


def test_the_limit_that_binds_is_the_longest_time():
    assert Roofline({"FMA": 1.0, "rsqrt": 3.0, "memory": 2.0}).binding == "rsqrt"


@pytest.mark.parametrize("distribution", ["sphere", "cube"])
def test_bytes_are_those_of_the_arrays(distribution):
    """With every box a target and a source, P2P touches each charge and potential, P2M each leaf's check potentials."""
    problem = make_problem(Setting(points=20_000, distribution=distribution, order=4))
    tree, npoints = problem.tree, 6 * 3**2 + 2
    found = count_bytes(tree, problem.lists, Method(laplace(), 4))
    nleaves = int(tree.is_leaf.sum())
    assert found["p2p"] == 8 * 20_000 * (2 + 4)
    assert found["p2m"] == 8 * (20_000 * 4 + nleaves * 2 * npoints)
    assert found["l2p"] == 8 * (20_000 * 5 + nleaves * npoints)
    children = int((tree.box_levels > 2).sum())
    parents = int((~tree.is_leaf & (tree.box_levels >= 2)).sum())
    assert found["m2m"] == 8 * npoints * (children + 2 * parents)
    assert found["l2l"] == 8 * npoints * (2 * children + parents)
    assert all(count >= 0 for count in found.values())
    single = count_bytes(tree, problem.lists, Method(laplace(), 4, SINGLE))
    assert {name: 2 * count for name, count in single.items()} == found


@pytest.mark.parametrize("m2l", ["fft", "svd", "dense"])
def test_bytes_are_counted_of_the_operators_whose_work_is(m2l):
    problem = make_problem(Setting(points=5_000, order=4))
    arguments = (problem.tree, problem.lists, Method(laplace(), 4), m2l)
    assert count_bytes(*arguments).keys() == count_work(*arguments).keys()


def test_bytes_of_compressed_m2l():
    """Multipoles of all sources once, check potentials of all targets twice, both factors of each vector that is there.

    One set of factors serves all levels: Laplace's function is homogeneous.
    """
    problem = make_problem(Setting(points=20_000, order=4))
    v, tables = problem.lists.v, problem.tables
    factors = cached_factors(laplace(), 4, tables.radii[0], tables.inner, svd_tolerance(4, np.dtype(np.float64)))
    vectors = len(np.unique(v.lists)) + 2 * int((v.lengths > 0).sum())
    ranks = int(factors.ranks[np.unique(problem.lists.v_transfers)].sum())
    assert problem.nbytes("m2l_svd") == 8 * (6 * 3**2 + 2) * (vectors + 2 * ranks)
