"""What is decided before an evaluation is built: a function of the setup, the points and the rates."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from conftest import cube, sphere

from fmmloopy.accuracy import ncrit_for
from fmmloopy.choosing import cost_model
from fmmloopy.choosing.cost_model import SVD_ORDER, SVD_POINTS, Rates
from fmmloopy.choosing.decision import decide
from fmmloopy.execution.devices import C_DEVICE
from fmmloopy.execution.setup import Method, Setup
from fmmloopy.greens import laplace
from fmmloopy.octree.tree import grow_tree, sort_points
from fmmloopy.operators import OPERATORS
from fmmloopy.recipes import SEQUENTIAL

NPOINTS = 10_000
SETUP = Setup(Method(laplace(), 4), SEQUENTIAL, C_DEVICE)


def rates(pair=1e-9, **others):
    """Return made-up seconds for each pair of points, and for each operation of other operators."""
    per_unit = {o.name: (pair if o.particles else 3e-11, 0.0) for o in OPERATORS.values()}
    return Rates(per_unit | {name: (unit, 0.0) for name, unit in others.items()})


@pytest.fixture(scope="module")
def grow():
    return partial(grow_tree, sort_points(sphere(np.random.default_rng(3), NPOINTS)))


@pytest.fixture
def compared(monkeypatch):
    """Let forms of M2L be compared for few points."""
    monkeypatch.setattr(cost_model, "SVD_POINTS", NPOINTS)


def never(form):
    raise AssertionError("there is nothing to choose")


def test_what_is_given_is_decided_without_rates(grow):
    decision, tree = decide(SETUP, grow, NPOINTS, never, ncrit=77, m2l="dense", digits=3.5)
    assert (decision.choice.ncrit, decision.choice.m2l, decision.choice.reason) == (77, "dense", "as given")
    assert (decision.setup, decision.digits, decision.fft_alone, tree) == (SETUP, 3.5, None, None)


def test_ncrit_follows_the_rates_of_pairs(grow):
    chosen = [
        decide(SETUP, grow, NPOINTS, lambda form, pair=pair: rates(pair), m2l="fft")[0].choice.ncrit
        for pair in (1e-10, 1e-9, 1e-8)
    ]
    assert chosen[0] > chosen[1] > chosen[2]


def test_the_tree_is_that_of_the_ncrit(grow):
    decision, tree = decide(SETUP, grow, NPOINTS, lambda form: rates())
    assert tree.nboxes == grow(decision.choice.ncrit).nboxes
    assert decision.digits is None


def test_the_same_rates_give_the_same_decision(grow):
    first, second = (decide(SETUP, grow, NPOINTS, lambda form: rates())[0] for _ in range(2))
    assert first == second


def test_without_rates_the_rule_is_used(grow):
    decision, tree = decide(SETUP, grow, NPOINTS, lambda form: None)
    assert (decision.choice.ncrit, decision.choice.m2l, tree) == (ncrit_for(4), "fft", None)


def test_few_points_ask_for_rates_of_the_fft_form_alone(grow):
    asked = []
    decision, _ = decide(SETUP, grow, NPOINTS, lambda form: asked.append(form) or rates(m2l_svd=1e-30))
    assert asked == ["fft"]
    assert decision.choice.m2l == "fft"
    assert decision.fft_alone == f"svd is compared for {SVD_POINTS:,} points or more"


@pytest.mark.parametrize(("slower", "expected"), [("m2l_hadamard", "svd"), ("m2l_svd", "fft")])
def test_the_form_of_m2l_follows_the_rates(grow, compared, slower, expected):
    asked = []
    decision, _ = decide(SETUP, grow, NPOINTS, lambda form: asked.append(form) or rates(**{slower: 1e-6}))
    assert asked == ["fft", "svd"]
    assert (decision.choice.m2l, decision.fft_alone) == (expected, None)
    assert {candidate.m2l for candidate in decision.choice.candidates} == {"fft", "svd"}


@pytest.mark.parametrize(("make", "expected"), [(sphere, "svd"), (cube, "fft")])
def test_with_equal_rates_the_form_follows_the_points(make, expected, compared, rng):
    grow = partial(grow_tree, sort_points(make(rng, NPOINTS)))
    assert decide(SETUP, grow, NPOINTS, lambda form: rates())[0].choice.m2l == expected


def test_high_orders_take_the_fft_form(grow, compared):
    setup = Setup(Method(laplace(), SVD_ORDER + 1), SEQUENTIAL, C_DEVICE)
    decision, _ = decide(setup, grow, NPOINTS, lambda form: rates(m2l_svd=1e-30))
    assert decision.choice.m2l == "fft"
    assert decision.fft_alone == f"svd is compared up to order {SVD_ORDER}"


@pytest.mark.parametrize("form", ["svd", "dense"])
def test_a_form_that_is_given_is_not_compared(grow, compared, form):
    asked = []
    decision, _ = decide(SETUP, grow, NPOINTS, lambda form: asked.append(form) or rates(), m2l=form)
    assert asked == [form]
    assert (decision.choice.m2l, decision.fft_alone) == (form, None)
    assert {candidate.m2l for candidate in decision.choice.candidates} == {form}


def test_an_ncrit_that_is_given_leaves_the_form_to_choose(grow, compared):
    decision, _ = decide(SETUP, grow, NPOINTS, lambda form: rates(m2l_hadamard=1e-6), ncrit=60)
    assert (decision.choice.ncrit, decision.choice.m2l) == (60, "svd")
