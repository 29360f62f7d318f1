"""The benchmarks: small measurements in child processes, and what keeps them apart from a slow machine."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import made_up_device, slow

sys.path.insert(0, str(Path(__file__).parents[2]))

from made_up_results import PEAKS, made_up, make_results

from benchmarks import child, machine, run
from benchmarks.results import Evaluation
from benchmarks.suite import EvaluationCase, OperatorCase, PeerCase
from fmmloopy.execution.devices import C_DEVICE, DeviceError
from fmmloopy.measuring.bench import WHOLE


@slow  # `python -m benchmarks --quick` runs several
def test_one_case_in_a_process_of_its_own(opencl_device, tmp_path):
    case = EvaluationCase("sizes", "cube, 3 digits", 2000, "cube", digits=3, runs=2, draws=2)
    (found,) = run.run_child(child.task(case, opencl_device.description, tmp_path))
    assert isinstance(found, Evaluation)
    assert (found.group, found.name, found.points, found.digits) == (case.group, case.name, 2000, 3)
    assert found.error < 1e-3
    assert [len(np.load(path)) for path in tmp_path.iterdir()] == [1000, 1000]  # targets that were checked, of 2000
    assert found.order == 4
    assert found.first > found.evaluate > 0
    assert 2**20 < found.memory < 2**40
    assert set(found.work) <= set(found.seconds)
    assert WHOLE not in found.seconds
    assert found.work["p2p"].pairs >= 2000
    assert 0 < found.outside < max(found.runs)
    assert len(found.runs) >= 2
    assert found.cpu > 0
    assert set(found.construction) >= {"tree", "lists", "tables", "setup"}


def test_operators_in_a_process_of_its_own(opencl_device, tmp_path):
    case = OperatorCase(("p2p", "m2p"), 2000, "cube", order=3, ncrit=40, gradient=True)
    found = run.run_child(child.task(case, opencl_device.description, tmp_path))
    assert found[0].operator == "p2p"
    assert found[0].work.flops > 12 * found[0].work.pairs > 0
    assert all(size <= 40 for size in found[0].leaf_sizes)
    assert {o.gradient for o in found} == {True}


def test_a_process_that_fails_says_why(tmp_path):
    case = EvaluationCase("sizes", "cube", 100, digits=3)
    with pytest.raises(run.CaseFailed, match=r"ended with status 1 \(.*no device matches 'abacus'"):
        run.run_child(child.task(case, "abacus", tmp_path))
    with pytest.raises(run.CaseFailed, match="ended with status -9, after 0.01 s"):
        run.run_child(child.task(case, "abacus", tmp_path), limit=0.01)


def test_cases_that_do_not_fit_or_fail_leave_the_others(monkeypatch):
    def run_child(task: str) -> list:
        if json.loads(task)["case"]["digits"] == 2:
            raise run.CaseFailed("its process ended with status 1")
        return made_up(cases[2], "C compiler")

    cases = [EvaluationCase("sizes", f"{d} digits", n, digits=d) for d, n in ((1, 10**9), (2, 10), (3, 10))]
    monkeypatch.setattr(run, "run_child", run_child)
    monkeypatch.setattr(run, "peaks_by_dtype", lambda device, dtypes, again: {d: PEAKS[d] for d in dtypes})
    monkeypatch.setattr(run, "free_memory", lambda: 10**9)
    monkeypatch.setattr(run, "choose_devices", lambda names: [C_DEVICE])
    monkeypatch.setattr(run, "installed_version", lambda package: None)
    kept = []
    found = run.measure(
        [*cases, PeerCase(10, 1e-3)], None, True, lambda text: None, lambda r: kept.append(len(r.failed))
    )
    assert kept == [0, 1, 1]
    assert [e.name for e in found.evaluations] == ["3 digits"]
    assert [line.split(", ")[1] for line in found.failed] == ["sizes: 2 digits"]
    assert "not installed" in found.left_out[0]
    assert "it may take 1000 GB, and 1 GB are free" in found.left_out[1]
    assert list(found.peaks) == ["float64"]


def test_what_is_measured_while_the_machine_is_slow_is_measured_again(monkeypatch):
    """Probes before and after: slow after the first attempt, quiet for the second; always slow for the second case."""
    rates = iter([10.0, 8.0, 10.0, 9.5, *[5.0] * 6])
    monkeypatch.setattr(run, "run_probe", lambda probe, device: next(rates))
    tried = []
    monkeypatch.setattr(run, "run_child", lambda task: tried.append(task) or made_up(case, "C compiler"))
    found, said = replace(make_results(), evaluations=[], disturbed=[]), []
    quietness = run.Quietness(C_DEVICE)
    for number in (2, 1 + run.ATTEMPTS + 1):
        case = EvaluationCase("sizes", f"case {number}", 10, digits=3)
        run._measure_case(case, C_DEVICE, Path(), found, quietness, said.append)
        assert len(tried) == number
    assert sum("the machine was slow" in line for line in said) == 1 + run.ATTEMPTS
    assert len(found.evaluations) == 2
    assert [line.split(", ")[1] for line in found.disturbed] == [f"sizes: case {number}"]


def test_devices_of_several_processors_are_not_held_against_one(monkeypatch):
    cpu, gpu = (made_up_device(kind, "A vendor", "", f"{kind} {n}") for kind, n in (("CPU", "one"), ("GPU", "two")))
    monkeypatch.setattr(machine, "find_devices", lambda: [cpu, gpu, C_DEVICE])
    assert machine.choose_devices() == [cpu]
    monkeypatch.setattr(machine, "choose_device", lambda name: {"one": cpu, "two": gpu}[name])
    assert machine.choose_devices(["two"]) == [gpu]
    with pytest.raises(DeviceError, match="CPU one, GPU two are different processors"):
        machine.choose_devices(["one", "two"])


def test_errors_are_measured_against_the_same_sums(tmp_path):
    case = EvaluationCase("sizes", "cube", 300, "cube")
    points, charges = child.make_points(case), np.array([child.make_charges(300, draw) for draw in range(2)])
    assert np.array_equal(points, points.astype(np.float32))
    assert np.array_equal(charges, charges.astype(np.float32))
    assert not np.array_equal(*charges)
    distances = np.linalg.norm(points[:, None] - points, axis=2)
    np.fill_diagonal(distances, np.inf)
    exact = list(charges @ (1 / distances) / (4 * np.pi))
    # Sums of 300 numbers in two orders: some eps.
    assert child.relative_error(case, points, exact, tmp_path) < 1e-13
    kept = sorted(tmp_path.iterdir())
    assert len(kept) == 2
    np.save(kept[1], 2 * np.load(kept[1]))
    assert child.relative_error(case, points, exact, tmp_path) == pytest.approx(0.5 / 2**0.5)


@pytest.mark.parametrize("cold", [True, False])
def test_cold_cases_have_empty_caches_of_their_own(cold, monkeypatch):
    seen = {}

    def start(command, *, env, **options):
        seen.update(env)
        raise FileNotFoundError

    monkeypatch.setattr(run.subprocess, "Popen", start)
    case = EvaluationCase("first", "cube", 10, digits=3, cold=cold)
    with pytest.raises(FileNotFoundError):
        run.run_child(child.task(case, "any", Path()))
    own = [
        seen.get(name) != os.environ.get(name) for name in ("FMMLOOPY_CACHE_DIR", "POCL_CACHE_DIR", "XDG_CACHE_HOME")
    ]
    assert own == [cold] * 3
