"""Evaluations and plans: recorded once, right for any charges, with nothing left over from the charges before."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import clustered, error

from fmmloopy.components import GRADIENT, Components
from fmmloopy.direct import direct
from fmmloopy.execution.devices import choose_device
from fmmloopy.execution.evaluation import Evaluation
from fmmloopy.execution.passes import downward_pass, far_pass, near_pass, upward_pass
from fmmloopy.execution.plan import Plan
from fmmloopy.execution.runtime import make_runtime
from fmmloopy.execution.setup import Method, Setup
from fmmloopy.execution.stages import Stages
from fmmloopy.greens import laplace, yukawa
from fmmloopy.operators import M2L_FORMS
from fmmloopy.precision import DOUBLE, MIXED_PRECISION, PRECISIONS, REDUCED
from fmmloopy.recipes import load_recipes

NPOINTS, ORDER, NCRIT = 1200, 3, 20
DEVICE = choose_device()
BOOK = load_recipes(None, DEVICE)
NARROW = pytest.mark.parametrize("precision", [MIXED_PRECISION, REDUCED], ids=str)


@pytest.fixture(scope="module")
def runtime():
    return make_runtime(DEVICE)


@pytest.fixture(scope="module")
def points():
    """Dense around one point: all lists have entries."""
    return clustered(np.random.default_rng(5), NPOINTS)


def build(points, runtime, precision=DOUBLE, m2l="fft", kernel=None):
    setup = Setup(Method(kernel or laplace(), ORDER, precision), BOOK, runtime.device)
    return Evaluation.of_points(setup, m2l, NCRIT, points, runtime)


def charges_of(seed, scale=1.0):
    return scale * np.random.default_rng(seed).uniform(-1, 1, (1, NPOINTS))


# -- evaluations


@pytest.mark.parametrize("kernel", [laplace(), yukawa(2.0)], ids=lambda kernel: kernel.name)
@pytest.mark.parametrize("m2l", M2L_FORMS)
def test_potentials_and_gradients_are_those_of_the_direct_sum(m2l, kernel, points, runtime):
    """In the order of the points as they were given: first the potential, then its derivatives."""
    found = build(points, runtime, m2l=m2l, kernel=kernel).run(charges_of(1), GRADIENT)
    potentials, gradients = direct(points, charges_of(1)[0], kernel=kernel, gradient=True)
    assert found.shape == (4, NPOINTS)
    # As for Fmm of order 3 in test_fmm.py.
    assert error(found[0], potentials) <= 3e-3
    assert error(found[1:].T, gradients) <= 0.3


@pytest.mark.parametrize("precision", PRECISIONS.values(), ids=str)
@pytest.mark.parametrize("m2l", M2L_FORMS)
def test_a_second_run_gives_what_a_fresh_evaluation_gives(m2l, precision, points, runtime):
    """Every bit: launches are replayed in the same order on arrays that are cleared."""
    evaluation, fresh = (build(points, runtime, precision, m2l) for _ in range(2))
    dtype = precision.points
    first = evaluation.run(charges_of(1).astype(dtype))
    again = evaluation.run(charges_of(2, 1e6).astype(dtype))
    assert np.any(first != again)
    np.testing.assert_array_equal(again, fresh.run(charges_of(2, 1e6).astype(dtype)))
    np.testing.assert_array_equal(first, fresh.run(charges_of(1).astype(dtype)))


def test_runs_with_and_without_gradient_take_turns(points, runtime):
    evaluation = build(points, runtime)
    wanted = [build(points, runtime).run(charges_of(3), Components(gradient=gradient)) for gradient in (False, True)]
    for gradient in (False, True, False, True):
        np.testing.assert_array_equal(evaluation.run(charges_of(3), Components(gradient=gradient)), wanted[gradient])


@NARROW
def test_evaluations_that_share_a_device_do_not_meet(precision, points, runtime):
    """Charges of one are 10^60 times those of the other; what they were divided by belongs to each run alone."""
    small, large = build(points, runtime, precision), build(points[:400], runtime, precision)
    charges, many = charges_of(1, 1e-30), charges_of(2, 1e30)[:, :400]
    expected = [small.run(charges), large.run(many)]
    for _ in range(2):
        np.testing.assert_array_equal(small.run(charges), expected[0])
        np.testing.assert_array_equal(large.run(many), expected[1])
    assert error(expected[0][0], direct(points, charges[0])) <= 3e-3
    assert error(expected[1][0], direct(points[:400], many[0])) <= 3e-3


def test_timings_are_of_the_last_run(points, runtime):
    evaluation = build(points, runtime)
    assert {"lists", "tables", "setup"} == set(evaluation.timings)
    evaluation.run(charges_of(1))
    assert {"p2p", "p2m", "m2m", "m2l_hadamard", "l2l", "l2p", "clear"} <= set(evaluation.timings)


# -- plans


@pytest.fixture
def planned(request, points, runtime):
    """A plan in the precision that the test asks for, its tree, and two recordings of it: potentials, and gradients."""
    evaluation = build(points, runtime, request.param)
    plan = Plan(runtime, evaluation.setup, evaluation.problem)
    return plan, evaluation.problem.tree, [record(plan, gradient) for gradient in (False, True)]


def record(plan, gradient, m2l="fft"):
    do = Stages(plan, components=Components(gradient=gradient))
    multipoles = upward_pass(do, do.charges)
    potentials = near_pass(do, do.charges, do.components)
    multipoles = do.receive(multipoles)
    locals_ = downward_pass(do, do.charges, multipoles, m2l)
    potentials = far_pass(do, multipoles, locals_, potentials)
    return tuple(do.launches), potentials


def run(plan, recording):
    launches, potentials = recording
    plan.run(launches)
    return potentials


@pytest.mark.parametrize("planned", [MIXED_PRECISION, REDUCED], indirect=True, ids=str)
def test_a_plan_remembers_no_exponent(planned, points):
    """Potentials are read with the exponent of their own charges, whatever has been written since."""
    plan, tree, (plain, _) = planned
    charges = charges_of(1, 1e-20)[:, tree.source_order]
    exponent = plan.write_charges(charges)
    potentials = run(plan, plain)
    other = plan.write_charges(charges_of(2, 1e20)[:, tree.source_order])
    assert exponent < -60 < 60 < other
    found = plan.read_potentials(potentials, exponent, plan.points.dtype)
    expected = direct(points, charges_of(1, 1e-20)[0])[tree.target_order]
    assert error(found[0], expected) <= 3e-3
    # And the charges that are there now are the others.
    found = plan.read_potentials(run(plan, plain), other, plan.points.dtype)
    assert error(found[0], direct(points, charges_of(2, 1e20)[0])[tree.target_order]) <= 3e-3


@pytest.mark.parametrize("planned", [DOUBLE, MIXED_PRECISION], indirect=True, ids=str)
def test_two_evaluations_of_one_plan_take_turns(planned):
    """With and without gradients, with charges of different sizes: as if each had the plan to itself."""
    plan, tree, recordings = planned
    sets = [charges_of(1, 1e-15)[:, tree.source_order], charges_of(2, 1e15)[:, tree.source_order]]

    def evaluate(recording, charges):
        exponent = plan.write_charges(charges)
        return plan.read_potentials(run(plan, recording), exponent, plan.points.dtype)

    alone = [evaluate(recording, charges) for recording, charges in zip(recordings, sets, strict=True)]
    exponents = [plan.write_charges(charges) for charges in sets]
    assert (exponents[0] != exponents[1]) == (plan.setup.method.precision != DOUBLE)
    for _ in range(2):
        for recording, charges, expected in zip(recordings, sets, alone, strict=True):
            np.testing.assert_array_equal(evaluate(recording, charges), expected)


@pytest.mark.parametrize("planned", [DOUBLE], indirect=True, ids=str)
def test_forms_of_m2l_share_a_plan(planned):
    plan, tree, (fft, _) = planned
    dense = record(plan, False, "dense")
    exponent = plan.write_charges(charges_of(1)[:, tree.source_order])
    found = [plan.read_potentials(run(plan, each), exponent, plan.points.dtype) for each in (fft, dense, fft)]
    np.testing.assert_array_equal(found[0], found[2])
    assert error(found[1], found[0]) <= 1e-11  # as in test_fmm.py
