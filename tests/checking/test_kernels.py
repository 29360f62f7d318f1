"""What is known of the kernels that run, and evaluations that run certified kernels only."""

from __future__ import annotations

import warnings
from dataclasses import replace
from types import SimpleNamespace

import loopy as lp
import numpy as np
import pytest
from conftest import error

import fmmloopy as fl
from fmmloopy.checking.check import check_book
from fmmloopy.checking.kernels import KernelState, UncertifiedError, kernel_state
from fmmloopy.components import Components
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


def test_a_new_kernel_is_refused_then_proved_then_known(opencl_device, own_cache):
    with pytest.raises(UncertifiedError, match="p2p of book 'mine' .laplace, order 3, float64. is neither proved nor"):
        _evaluate(_book(_right), opencl_device, "require")
    fmm, wrong = _evaluate(_book(_right), opencl_device, "first-use")
    assert wrong < 1e-2
    assert _states(fmm)["p2p"] == "proved"
    assert _states(fmm)["m2m"] == "sequential"
    fmm, _ = _evaluate(_book(_right, "another name"), opencl_device, "require")
    assert _states(fmm)["p2p"] == "proved", "the state is that of the kernel, whatever yields it"


def test_a_right_kernel_that_is_not_proved_is_tested(opencl_device, own_cache):
    fmm, wrong = _evaluate(_book(_unusual), opencl_device, "first-use")
    assert wrong < 1e-2
    (row,) = (row for row in fmm.plan_report().kernels if row.operator == "p2p")
    assert row.state in ("proved", "tested")
    assert (row.state == "proved") == (row.reason == "")


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


def test_a_certificate_does_not_cover_the_kernel_of_another_order(opencl_device, own_cache):
    def transform(knl):
        yield "lanes", separate_lanes(fix_lanes(knl))

    book = RecipeBook("transforms", "", {"m2l_forward": transform})
    assert check_book(book, device=opencl_device, dtypes=[np.float64]).ok
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fmm, _ = _evaluate(book, opencl_device, "require")
    assert _states(fmm)["m2l_forward"] in ("proved", "tested")
    points = np.random.default_rng(3).random((FEW, 3))
    with pytest.raises(UncertifiedError, match=r"m2l_forward of book 'transforms' \(laplace, order 4, float64\)"):
        fl.Fmm(points, order=4, ncrit=30, recipes=book, device=opencl_device, certify="require")


@pytest.mark.parametrize("order", [5, 6])
def test_kernels_of_shipped_books_come_proved(opencl_device, own_cache, order):
    """Transforms have another kernel for each order; all of an evaluation in reduced precision, with gradients."""
    setup = fl.Fmm(np.zeros((1, 3)), order=order, precision="reduced", device=opencl_device)._decision.setup
    if setup.book.name == "sequential":
        pytest.skip("no shipped book is for this device")
    for operator in setup.book.recipes:
        for gradient in (False, True) if OPERATORS[operator].gives_potentials else (False,):
            key = setup.code_key(operator, Components(gradient=gradient))
            assert kernel_state(key, SimpleNamespace(kernel=key.kernel())) == KernelState("proved")


def test_kernels_of_shipped_books_are_not_proved_for_other_operators(opencl_device, own_cache):
    """A recipe may yield what is right for the package's operator, whatever a book's own operator is."""
    book = load_recipes("pocl_cpu")
    own = replace(M2M, timed_like="l2l")
    for operators, state in (({}, "proved"), ({"m2m": own}, "unknown")):
        key = Setup(Method(fl.laplace(), 3), replace(book, operators=operators), opencl_device).code_key("m2m")
        assert kernel_state(key, SimpleNamespace(kernel=key.kernel())).state == state


def test_sequential_kernels_may_always_run(opencl_device):
    fmm, _ = _evaluate("sequential", opencl_device, "require")
    assert set(_states(fmm).values()) == {"sequential"}
    assert "sequential" in str(fmm.plan_report())


def test_other_words_are_refused():
    with pytest.raises(ValueError, match="certify is 'always', expected 'warn' or 'first-use' or 'require'"):
        fl.Fmm(np.zeros((1, 3)), certify="always")
