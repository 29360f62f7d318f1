"""What is known of the kernels that run, and evaluations that run certified kernels only."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import loopy as lp
import numpy as np
import pytest
from conftest import error, slow, slow_but

import fmmloopy as fl
from fmmloopy.checking import kernels
from fmmloopy.checking.check import check_book
from fmmloopy.checking.kernels import KernelState, UncertifiedError, kernel_state, validate
from fmmloopy.checking.proof import NotProved
from fmmloopy.common import store
from fmmloopy.common.bundle import open_bundle, write_bundle
from fmmloopy.components import Components
from fmmloopy.execution.generate import compile_operator, kept_code
from fmmloopy.execution.setup import Method, Setup
from fmmloopy.operators import M2M, OPERATORS
from fmmloopy.recipes import RecipeBook, fix_lanes, load_recipes, separate_lanes
from fmmloopy.transforms import steps

FEW = 400


def _right(knl):
    yield "targets in lanes", steps.one_group_per(steps.lane_arrays(knl, 8), "ibox")


def _unusual(knl):
    """Right, but hard to prove: the boxes are split."""
    knl = separate_lanes(fix_lanes(knl, tlanes=4))
    yield "boxes in pairs", lp.split_iname(knl, "ibox", 2)


def _without_tail(knl):
    """Drop the targets after the last full tile."""
    knl = steps.lane_arrays(knl, 8)
    kernel = knl.default_entrypoint
    statements = [
        i.copy(expression=lp.symbolic.parse("(tgt_end - tgt_start) // 8")) if i.id == "ttiles" else i
        for i in kernel.instructions
    ]
    yield "last tile lost", knl.with_kernel(kernel.copy(instructions=statements))


def _book(recipe, name="mine"):
    return RecipeBook(name, "", {"p2p": recipe})


def _evaluate(book, device, certify, **options):
    rng = np.random.default_rng(3)
    points, charges = rng.random((FEW, 3)), rng.random(FEW)
    fmm = fl.Fmm(points, order=3, ncrit=5, recipes=book, device=device, certify=certify, **options)
    return fmm, error(fmm.evaluate(charges), fl.direct(points, charges))


def _states(fmm):
    return {row.operator: row.state for row in fmm.plan_report().kernels}


@pytest.fixture
def unshared_cache(tmp_path, monkeypatch):
    """A cache that shares no code with those of other tests."""
    monkeypatch.setenv(store.ENVIRONMENT_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def _code(key):
    """What is generated from a key, as far as its state depends on it."""
    return SimpleNamespace(kernel=key.kernel(), generated_here=True)


def _plant(folder, change):
    """Change the code of P2P in a cache, with a checksum that is right."""
    (path,) = (folder / "code").glob("p2p-*.json")
    stored = json.loads(path.read_text())
    change(stored["content"])
    path.write_text(json.dumps({**stored, "checksum": store.checksum(stored["content"])}))
    return path


def _halved(code):
    """Let the kernel end with the first half of the work-groups; its identity stays."""
    code["global_size"] = [f"({code['global_size'][0]}) // 2", *code["global_size"][1:]]


def test_a_new_kernel_is_refused_then_proved_then_known(opencl_device, own_cache):
    with pytest.raises(UncertifiedError, match="p2p of book 'mine' .laplace, order 3, float64. is neither proved nor"):
        _evaluate(_book(_right), opencl_device, "require")
    fmm, wrong = _evaluate(_book(_right), opencl_device, "first-use")
    assert wrong < 1e-2
    assert _states(fmm)["p2p"] == "proved"
    assert _states(fmm)["m2m"] == "sequential"
    fmm, _ = _evaluate(_book(_right, "another name"), opencl_device, "require")
    assert _states(fmm)["p2p"] == "proved", "the state is that of the kernel, whatever yields it"


@pytest.mark.parametrize(
    ("where", "certify"),
    slow_but(
        lambda *row: row in (("cache", "require"), ("bundle", "first-use")),
        product(("cache", "bundle"), ("require", "first-use")),
    ),
)
def test_planted_code_with_the_identity_of_a_proved_kernel_never_runs(
    opencl_device, unshared_cache, tmp_path, monkeypatch, where, certify
):
    monkeypatch.setattr(store, "archives", [])
    fmm, wrong = _evaluate(_book(_right), opencl_device, "first-use")
    assert wrong < 1e-2
    path = _plant(unshared_cache, _halved)
    if where == "bundle":
        files = {str(p.relative_to(unshared_cache)): p.read_bytes() for p in unshared_cache.glob("*/*.json")}
        write_bundle(tmp_path / "planted.fmm", files, {})
        for folder in ("code", "generated", "kernels"):
            shutil.rmtree(unshared_cache / folder)
        open_bundle(tmp_path / "planted.fmm")
    fmm, wrong = _evaluate(_book(_right), opencl_device, "warn")
    assert wrong > 0.1, "this is what was planted"
    assert _states(fmm)["p2p"] == "unknown"
    if where == "bundle" and certify == "require":  # nor does what the bundle says of kernels count
        with pytest.raises(UncertifiedError, match="neither proved nor tested"):
            _evaluate(_book(_right), opencl_device, certify)
        return
    fmm, wrong = _evaluate(_book(_right), opencl_device, certify)
    assert wrong < 1e-2
    assert _states(fmm)["p2p"] == "proved"
    assert "// 2" not in str(json.loads(path.read_text())["content"]["global_size"]), "it was generated anew"


@pytest.mark.parametrize("kernel", [["of another"], 7, None, {}])
def test_code_whose_identity_is_no_text_is_no_code(opencl_device, unshared_cache, kernel):
    key = Setup(Method(fl.laplace(), 3), _book(_right), opencl_device).code_key("p2p")
    compile_operator(key)
    assert kept_code(key).generated_here
    _plant(unshared_cache, lambda code: code.update(kernel=kernel))
    assert kept_code(key) is None


@pytest.mark.parametrize("content", [{"state": "certain"}, {"state": "proved", "reason": 1}, ["proved"], "proved"])
def test_states_that_are_none_do_not_count(opencl_device, unshared_cache, content):
    key = Setup(Method(fl.laplace(), 3), _book(_right), opencl_device).code_key("p2p")
    validate(key, compile_operator(key))
    (path,) = (unshared_cache / "kernels").glob("p2p-*.json")
    stored = json.loads(path.read_text())
    path.write_text(json.dumps({**stored, "content": content, "checksum": store.checksum(content)}))
    assert kernel_state(key, compile_operator(key)).state == "unknown"


def test_a_kernel_that_is_proved_for_one_function_is_not_for_another(opencl_device):
    """A recipe that keeps the first kernel that it has made yields it for every function."""
    setup = Setup(Method(fl.laplace(), 3), load_recipes("pocl_cpu"), opencl_device)
    other = Setup(Method(fl.stokeslet(), 3), load_recipes("pocl_cpu"), opencl_device)
    code, key = _code(setup.code_key("p2p")), other.code_key("p2p")
    assert kernel_state(setup.code_key("p2p"), code).state == kernel_state(key, _code(key)).state == "proved"
    assert kernel_state(key, code).state == "unknown"


def test_a_right_kernel_that_is_not_proved_is_tested(opencl_device, own_cache, monkeypatch):
    monkeypatch.setattr(kernels, "verdict_on", lambda *_: NotProved("what it does is unusual", "it"))
    fmm, wrong = _evaluate(_book(_unusual), opencl_device, "first-use")
    assert wrong < 1e-2
    (row,) = (row for row in fmm.plan_report().kernels if row.operator == "p2p")
    assert (row.state, row.reason) == ("tested", "it: what it does is unusual")
    assert re.match(r"exact, hostile, numerical; at most .*\d target boxes, [\d,]+ list entries, ", row.tests), (
        row.tests
    )
    assert f"tested ({row.tests})" in str(fmm.plan_report())


def test_a_wrong_kernel_never_runs(opencl_device, own_cache):
    for _ in range(2):  # the second time, it is known
        with pytest.raises(UncertifiedError, match="p2p of book 'mine' .* is wrong: "):
            _evaluate(_book(_without_tail), opencl_device, "first-use")


def test_a_recipe_that_yields_something_else_each_time_is_refused(opencl_device, own_cache):
    calls = []

    def recipe(knl):
        calls.append(None)
        yield "lanes", steps.lane_arrays(knl, 4 * len(calls))

    with pytest.raises(UncertifiedError, match="the recipe yields another kernel from one call to the next"):
        _evaluate(_book(recipe), opencl_device, "first-use")


@slow
def test_a_check_covers_the_kernels_that_it_has_run_and_no_others(opencl_device, own_cache):
    """A check at level quick runs transforms in float64 at orders 3, 5 and 9."""

    def transform(knl):
        yield "lanes", separate_lanes(fix_lanes(knl))

    book = RecipeBook("transforms", "", {"m2l_forward": transform})
    assert check_book(book, device=opencl_device, dtypes=[np.float64]).ok
    points = np.random.default_rng(3).random((FEW, 3))
    given = {"recipes": book, "device": opencl_device, "certify": "require"}
    for order, state in ((3, "proved"), (5, "tested")):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fmm = fl.Fmm(points, order=order, ncrit=30, m2l="fft", **given)
            fmm.evaluate(np.ones(FEW))
        assert _states(fmm)["m2l_forward"] == state
    (row,) = (row for row in fmm.plan_report().kernels if row.operator == "m2l_forward")
    assert row.tests.startswith("exact, hostile, numerical, sanitized, fmm; level quick")
    with pytest.raises(UncertifiedError, match=r"m2l_forward of book 'transforms' \(laplace, order 4, float64\)"):
        fl.Fmm(points, order=4, ncrit=30, m2l="fft", **given)


@pytest.mark.parametrize("order", [5, 6])
def test_kernels_of_shipped_books_come_proved(opencl_device, own_cache, order):
    """Transforms have another kernel for each order; all of an evaluation in reduced precision, with gradients."""
    setup = fl.Fmm(np.zeros((1, 3)), order=order, precision="reduced", device=opencl_device)._decision.setup
    if setup.book.name == "sequential":
        pytest.skip("no shipped book is for this device")
    for operator in setup.book.recipes:
        for gradient in (False, True) if OPERATORS[operator].gives_potentials else (False,):
            key = setup.code_key(operator, Components(gradient=gradient))
            assert kernel_state(key, _code(key)) == KernelState("proved")


def test_kernels_of_shipped_books_are_not_proved_for_other_operators(opencl_device, own_cache):
    """A recipe may yield what is right for the package's operator, whatever a book's own operator is."""
    book = load_recipes("pocl_cpu")
    own = replace(M2M, timed_like="l2l")
    for operators, state in (({}, "proved"), ({"m2m": own}, "unknown")):
        key = Setup(Method(fl.laplace(), 3), replace(book, operators=operators), opencl_device).code_key("m2m")
        assert kernel_state(key, _code(key)).state == state


def test_sequential_kernels_may_always_run(opencl_device):
    fmm, _ = _evaluate("sequential", opencl_device, "require")
    assert set(_states(fmm).values()) == {"sequential"}
    assert "sequential" in str(fmm.plan_report())


def test_other_words_are_refused():
    with pytest.raises(ValueError, match="certify is 'always', expected 'warn' or 'first-use' or 'require'"):
        fl.Fmm(np.zeros((1, 3)), certify="always")
