"""Several kernels at the same time: the code is the same, whoever generates it, and failures are told as ever."""

from __future__ import annotations

import time
import warnings
from contextlib import contextmanager
from dataclasses import replace

import pytest
from conftest import specification

import fmmloopy as fl
from fmmloopy.common import isolation
from fmmloopy.common.isolation import Worker
from fmmloopy.common.store import ENVIRONMENT_VARIABLE
from fmmloopy.execution import together
from fmmloopy.execution.devices import C_DEVICE
from fmmloopy.execution.generate import compile_operator, generate
from fmmloopy.execution.key import CodeKey
from fmmloopy.execution.runtime import make_runtime
from fmmloopy.operators import OPERATORS
from fmmloopy.recipes import SEQUENTIAL, RecipeBook, RecipeError

NAMES = ("p2p", "p2m", "m2m", "l2l", "l2p", "m2p", "p2l", "check_to_equivalent")


@pytest.fixture
def keys(tmp_path, monkeypatch):
    """Keys of code that the cache does not have, for a device that anybody has."""
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(together, "processors", lambda: 4)
    return [CodeKey(specification(name, order=3), SEQUENTIAL, C_DEVICE) for name in NAMES]


class Builder:
    """Stands for an open device: notes what it builds."""

    def __init__(self, fails=False):
        self.built, self.fails = [], fails

    @contextmanager
    def building(self):
        yield self.build

    def build(self, code):
        self.built.append(code.operator)
        if self.fails:
            raise fl.DeviceError("the compiler has crashed")


def together_with(keys, builder=None):
    """Return the code of all keys and the operators that this process has announced."""
    told = []
    return together.compile_together(keys, builder or Builder(), told.append), told


def wait_for_helpers(monkeypatch):
    """Let this process generate nothing before a helper has, so that a test sees what helpers do."""
    real, has_begun = Worker.call, []

    def call(self, function, *arguments, **options):
        result = real(self, function, *arguments, **options)
        has_begun.append(function)
        return result

    def first_help(key):
        while together._compile not in has_begun:
            time.sleep(0.01)
        return compile_operator(key)

    monkeypatch.setattr(Worker, "call", call)
    monkeypatch.setattr(together, "compile_operator", first_help)


def characters(code):
    """Return what does not depend on the order of anything."""
    return code.kernel, code.entry, sorted(code.arguments), sorted(code.source)


def test_code_is_the_same_whoever_generates_it(keys, monkeypatch):
    wait_for_helpers(monkeypatch)
    builder = Builder()
    codes, told = together_with(keys, builder)
    # Loopy's order of declarations and sums differs from process to process.
    assert [characters(code) for code in codes] == [characters(generate(key)) for key in keys]
    assert sorted(builder.built) == sorted(NAMES)
    assert told[0] == NAMES[0]
    assert len(told) < len(NAMES), "no other process has helped"


def test_code_on_disk_is_built_and_not_generated(keys):
    expected = [compile_operator(key) for key in keys]
    builder = Builder()
    codes, told = together_with(keys, builder)
    assert (codes, told) == (expected, [])
    assert sorted(builder.built) == sorted(NAMES)


@pytest.mark.parametrize("fails", ["start", "kernel"])
def test_helpers_that_fail_leave_their_kernels_to_this_process(fails, keys, monkeypatch):
    def call(self, function, *arguments, **options):
        if fails == "start" or function is not together._import:
            raise isolation.ChildCrashed("the process died of signal 9")

    monkeypatch.setattr(Worker, "call", call)
    codes, told = together_with(keys)
    assert codes == [generate(key) for key in keys]
    assert sorted(told) == sorted(NAMES)


def test_what_cannot_be_built_is_left_to_whoever_binds_it(keys):
    codes, _ = together_with(keys[:2], Builder(fails=True))
    assert [code.operator for code in codes] == list(NAMES[:2])


def test_recipes_that_fail_say_so(keys):
    def broken(knl):
        raise ValueError("no such loop")
        yield

    book = RecipeBook("broken", ".*", {"check_to_equivalent": broken})
    with pytest.raises(RecipeError, match="check_to_equivalent.*no such loop"):
        together_with([*keys[:-1], replace(keys[-1], book=book)])


@pytest.mark.parametrize(
    ("cores", "missing", "helpers"), [(1, 12, 0), (2, 12, 1), (2, 5, 0), (2, 6, 1), (64, 12, 3), (64, 0, 0)]
)
def test_helpers_are_as_many_as_cores_and_kernels_allow(cores, missing, helpers, monkeypatch):
    monkeypatch.setattr(together, "processors", lambda: cores)
    assert together._count_helpers(missing) == helpers
    monkeypatch.setattr(isolation, "is_child", True)
    assert together._count_helpers(missing) == 0


def test_a_process_of_a_worker_knows_that_it_is_one():
    assert not isolation.is_child
    for forked in (True, False):
        with Worker(forked=forked) as worker:
            assert worker.call(_is_child)


def _is_child(stage):
    return isolation.is_child


def test_builds_leave_the_filters_of_warnings_alone(opencl_device, keys):
    before = list(warnings.filters)
    together_with([replace(key, device=opencl_device) for key in keys[:4]], make_runtime(opencl_device))
    assert warnings.filters == before


def test_an_evaluation_prepares_the_operators_that_have_work(rng):
    points = rng.uniform(-1, 1, (600, 3))
    clustered = points * 10.0 ** rng.uniform(-3, 0, (600, 1))
    for cloud, lists in ((points[:20], set()), (clustered, {"p2l", "m2p"})):
        fmm = fl.Fmm(cloud, order=3, ncrit=10, device="c", m2l="fft")
        used = {key.operator for key, _ in fmm._evaluation.kernels}
        prepared = {operator.name for operator in fmm._evaluation._plan.operators("fft")}
        assert used == prepared <= OPERATORS.keys()
        assert lists <= used
        assert "m2l_svd" not in used
