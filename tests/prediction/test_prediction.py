"""Errors of orders: predicted, compared with tables and with whole evaluations; digits for any Green's function."""

from __future__ import annotations

import functools
import itertools
import warnings

import numpy as np
import pytest
from conftest import STOKES, clustered, cube, error, helmholtz, slow_but, sphere

import fmmloopy as fl
from fmmloopy.accuracy import ERRORS, order_for, settle_accuracy
from fmmloopy.greens import GreensFunction
from fmmloopy.octree.lists import build_lists
from fmmloopy.octree.tree import grow_tree, sort_points
from fmmloopy.precision import DOUBLE, MIXED_PRECISION, SINGLE
from fmmloopy.prediction import predict
from fmmloopy.prediction.chain import measure_chain
from fmmloopy.prediction.pairs import sample_pairs
from fmmloopy.prediction.predict import Predictor, of_dipoles

NCRIT = 50
WITHIN = 3.0
"""Predicted errors are right within this factor, and then higher by how much smaller potentials may be."""


def agrees(predicted, found, kernel, points):
    spread = Predictor(kernel, sort_points(points), NCRIT).spread
    return 1 / WITHIN <= predicted / found <= WITHIN * spread


def scalar(name, entry, **parameters):
    return GreensFunction(name, ((entry,),), parameters)


PLUMMER = scalar("plummer", "1/sqrt(r*r + eps*eps)", eps=0.3)
GAUSSIAN = scalar("gaussian", "exp(-r*r)")
LOGARITHM = scalar("logarithm", "log(r)")


@functools.cache
def predictor(kernel, make=cube, n=5000, scale=1.0):
    return Predictor(kernel, sort_points(scale * make(np.random.default_rng(31), n)), NCRIT)


# -- chains and pairs


@pytest.mark.parametrize("kernel", [fl.laplace(), fl.yukawa(1.0), fl.yukawa(8.0)], ids=lambda k: str(k.parameters))
def test_predictions_agree_with_the_tables(kernel):
    """Tables have the worst of four cases for each order, the largest error of two decay lengths for Yukawa."""
    for order in (3, 4, 5, 6, 7, 8):
        predicted = max(predictor(kernel, make).error(order, DOUBLE) for make in (cube, sphere))
        assert 1 / WITHIN <= predicted / ERRORS[kernel.name][order - 2] <= WITHIN, order


CASES = slow_but(
    lambda kernel, _: kernel is STOKES,
    [(STOKES, 4), (fl.kelvin(), 4), (helmholtz(5.0), 4), (PLUMMER, 4), (PLUMMER, 6), (GAUSSIAN, 4)],
)


@pytest.mark.parametrize(("kernel", "order"), CASES, ids=lambda value: getattr(value, "name", value))
def test_predictions_agree_with_whole_evaluations(kernel, order, rng):
    for make in (cube, sphere):
        points = make(np.random.default_rng(31), 5000)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # some of these do not suit the method, and are told so
            fmm = fl.Fmm(points, kernel=kernel, order=order, ncrit=NCRIT, recipes="sequential")
        charges = rng.uniform(-1, 1, (len(points), kernel.nsource_components))
        found = fmm.estimate_error(charges[:, 0] if kernel.nsource_components == 1 else charges, k=300)
        assert agrees(fmm.error_estimate, found, kernel, points), (make.__name__, found)


def clusters(rng, n):
    """Few of the points are far from the centre, so most pairs on coarse levels have one in the corner of a box."""
    return rng.standard_normal((n, 3)) * 10.0 ** rng.uniform(-2, 0, (n, 1)) / 4


@pytest.mark.parametrize(
    ("kernel", "make"),
    slow_but(
        lambda kernel, _: kernel.name == "rotlet",
        [(fl.rotlet(), sphere), (fl.stresslet(), sphere), (fl.helmholtz(5.0), clusters), (fl.stokeslet(), clusters)],
    ),
    ids=lambda value: getattr(value, "name", getattr(value, "__name__", "")),
)
def test_predictions_of_hard_cases(kernel, make, rng):
    """Sums that the nearest pairs dominate, and points in corners of boxes; at targets that a user would look at."""
    points = make(np.random.default_rng(31), 3000)
    fmm = fl.Fmm(points, kernel=kernel, order=4, ncrit=NCRIT, recipes="sequential")
    charges = rng.uniform(-1, 1, (len(points), kernel.nsource_components))
    found = fmm.estimate_error(charges[:, 0] + 1j * charges[:, 1] if kernel.is_complex else charges, k=300)
    assert agrees(fmm.error_estimate, found, kernel, points), found


DIPOLES = [
    (kernel, make)
    for kernel in (fl.laplace(), fl.yukawa(2.0), fl.stokeslet(), fl.biharmonic())
    for make in (cube, sphere, clusters)
]


@pytest.mark.parametrize(
    ("kernel", "make"),
    slow_but(lambda kernel, make: kernel.name == "laplace" or (kernel.name == "yukawa" and make is cube), DIPOLES),
    ids=lambda value: getattr(value, "name", getattr(value, "__name__", "")),
)
def test_predictions_for_dipoles(kernel, make, rng):
    """Of dipoles in all directions."""
    points = make(np.random.default_rng(31), 3000)
    fmm = fl.Fmm(points, kernel=kernel, order=4, ncrit=NCRIT, recipes="sequential")
    shape = (3000, 3) if kernel.nsource_components == 1 else (3000, kernel.nsource_components, 3)
    found = fmm.estimate_error(dipoles=rng.uniform(-1, 1, shape), k=300)
    assert agrees(fmm.dipole_error_estimate, found, of_dipoles(kernel), points), found


ALIKE = scalar("alike", "exp(-1e-9*r)")
"""All potentials are the sum of the charges."""


@pytest.mark.parametrize("make", [cube, clusters], ids=lambda make: make.__name__)
def test_potentials_that_are_all_alike(make):
    """They are one normal random number; a tenth of these is within 0.1257 of zero."""
    assert predictor(ALIKE, make).spread == pytest.approx(1 / 0.1257, rel=0.15)


def test_potentials_that_have_nothing_in_common():
    assert 1.0 <= predictor(scalar("alone", "exp(-100*r)"), cube).spread <= 1.1


@pytest.mark.parametrize(
    ("kernel", "make"),
    [(kernel, make) for kernel in (fl.biharmonic(), fl.laplace(), PLUMMER) for make in (cube, clusters)],
    ids=lambda value: getattr(value, "name", getattr(value, "__name__", "")),
)
def test_nine_of_ten_sets_of_charges_have_larger_potentials(kernel, make, rng):
    points = make(np.random.default_rng(31), 1000)
    with np.errstate(divide="ignore"):
        matrix = kernel.evaluate(points.T[:, :, None] - points.T[:, None, :])[0, 0]
    matrix[~np.isfinite(matrix)] = 0
    potentials = matrix @ rng.uniform(-1, 1, (1000, 2000))
    sizes = np.sqrt((potentials**2).sum(axis=0))
    spread = predictor(kernel, make, 1000).spread
    smaller = np.mean(sizes < np.sqrt(np.mean(sizes**2)) / spread)
    # 64 targets and 500 sources are a sample, which varies.
    assert 0.03 <= smaller <= 0.2


def test_a_chain_converges():
    errors = [measure_chain(fl.laplace(), order, 1.0, DOUBLE) for order in (4, 6, 8)]
    digits = [-0.5 * np.log10(squares.error / squares.size) for squares in errors]
    assert np.all(np.diff(digits) > 1.5), "two digits for two orders"


@pytest.mark.parametrize("kernel", [fl.laplace(), STOKES], ids=lambda kernel: kernel.name)
def test_chains_of_homogeneous_functions_scale(kernel):
    """A radius of 8 is exact: so are powers of it."""
    one, eight = (measure_chain(kernel, 3, radius, DOUBLE) for radius in (1.0, 8.0))
    np.testing.assert_allclose([eight.error, eight.size], np.array([one.error, one.size]) / 64, rtol=1e-6)
    assert predictor(kernel).error(4, DOUBLE) == pytest.approx(predictor(kernel, scale=1024.0).error(4, DOUBLE), 1e-6)


def test_float32_is_part_of_a_chain():
    """At order 10 rounding is all that is left; mixed precision rounds only what M2L transforms."""
    double, mixed, single = (
        np.sqrt(squares.error / squares.size)
        for squares in (measure_chain(fl.laplace(), 10, 1.0, p) for p in (DOUBLE, MIXED_PRECISION, SINGLE))
    )
    assert double < 1e-8 < mixed < single < 1e-5


SHIPPED = [fl.stokeslet(0.7), fl.stresslet(), fl.rotlet(3.0), fl.biot_savart(), fl.kelvin()]


@pytest.mark.parametrize("kernel", SHIPPED, ids=lambda kernel: kernel.name)
def test_chains_that_ship(kernel, monkeypatch):
    """They are those that would be measured, whatever the scaling; only other orders and precisions are measured."""
    unit = predict.with_unit_scaling(kernel)
    for order in (2, 4):
        ships, measured = predict.shipped_squares(unit, order, 1.0, DOUBLE), measure_chain(kernel, order, 1.0, DOUBLE)
        for here, there in ((ships.error, measured.error), (ships.size, measured.size)):
            assert kernel.scaling**2 * here == pytest.approx(there, rel=1e-4)
    assert [predict.shipped_squares(unit, p, 1.0, DOUBLE) is None for p in (2, 12, 16)] == [False, False, True]
    assert predict.shipped_squares(unit, 4, 1.0, MIXED_PRECISION) is None
    monkeypatch.setattr(predict, "measure_chain", None)
    assert predict.known_squares(kernel, 12, 1.0, DOUBLE).error > 0


def test_chains_of_other_functions_do_not_ship():
    for kernel in (fl.kelvin(1.0, 0.3), fl.biharmonic(), fl.helmholtz(1.0), fl.yukawa(), scalar("laplace", "2*rinv")):
        assert predict.shipped_squares(predict.with_unit_scaling(kernel), 4, 1.0, DOUBLE) is None
    for scaling in (0.0, 1e200, 1e-200):
        kernel = GreensFunction("laplace", "rinv", scaling=scaling)
        assert predict.with_unit_scaling(kernel) is kernel


@pytest.mark.parametrize("make", [cube, sphere, clustered], ids=lambda make: make.__name__)
def test_pairs_of_few_points_are_all_there(make, rng):
    """Few enough that nothing is sampled: near and far pairs are all pairs, and their squares sum up to all squares."""
    points = make(rng, 400)
    pairs = sample_pairs(sort_points(points), 10)
    assert pairs.far
    counted = sum(pairs.far.values()) + pairs.near_weight * pairs.near_differences.shape[1]
    counted += pairs.closest_weight * pairs.closest_differences.shape[1]
    # What meets on a coarse level is counted by boxes, where a target's leaf may be a little coarser for few targets.
    assert counted == pytest.approx(400**2, rel=0.02)
    d = points.T[:, :, None] - points.T[:, None, :]
    assert pairs.size(fl.laplace()) == pytest.approx(float((fl.laplace().evaluate(d) ** 2).sum()), rel=1e-6)


def test_pairs_meet_where_the_lists_say(rng):
    """Of a uniform cube, whose tree has neither W nor X lists: the pairs of each level are those of its V lists."""
    points = sort_points(cube(rng, 5000))
    tree = grow_tree(points, NCRIT)
    lists = build_lists(tree)
    targets = np.repeat(np.arange(tree.nboxes), lists.v.lengths)
    counts = tree.box_source_ends - tree.box_source_starts
    pairs = np.bincount(tree.box_levels[targets], counts[targets].astype(float) * counts[lists.v.lists])
    sampled = sample_pairs(points, NCRIT).far
    assert {level: pytest.approx(count, rel=0.05) for level, count in enumerate(pairs) if count} == sampled


def test_what_is_measured_is_kept(own_cache, monkeypatch):
    first = Predictor(PLUMMER, sort_points(cube(np.random.default_rng(1), 1000)), NCRIT)
    found = first.error(4, DOUBLE)
    assert list((own_cache / "errors").glob("plummer-4-*.json"))

    def refuse(*_arguments):
        raise AssertionError("measured again")

    monkeypatch.setattr(predict, "measure_chain", refuse)
    moved = sort_points(1.01 * cube(np.random.default_rng(1), 1000))  # other radii, which are rounded to the same
    assert Predictor(PLUMMER, moved, NCRIT).error(4, DOUBLE) == pytest.approx(found, rel=0.2)
    with pytest.raises(AssertionError, match="measured again"):
        Predictor(PLUMMER, sort_points(2.7 * cube(np.random.default_rng(1), 1000)), NCRIT).error(4, DOUBLE)
    with pytest.raises(AssertionError, match="measured again"):
        Predictor(scalar("plummer", "1/sqrt(r*r + eps*eps)", eps=0.2), moved, NCRIT).error(4, DOUBLE)


# -- digits


def test_digits_for_a_function_without_a_table(rng):
    points, charges = cube(rng, 3000), rng.uniform(-1, 1, 3000)
    fmm = fl.Fmm(points, kernel=GAUSSIAN, digits=4, ncrit=NCRIT, recipes="sequential")
    assert fmm.precision == "double", "what rounding costs is not known"
    assert fmm.error_estimate <= 1e-4
    assert error(fmm.evaluate(charges), fl.direct(points, charges, kernel=GAUSSIAN)) <= 1e-4
    assert "predicted from chains of translations" in str(fmm.plan_report())
    assert f"order {fmm.order} for 4 digits, expected error {fmm.error_estimate:.1e}" in repr(fmm)
    predictor = Predictor(GAUSSIAN, sort_points(points), NCRIT)
    assert [predictor.error(order, DOUBLE) <= 1e-4 for order in (fmm.order - 1, fmm.order)] == [False, True]


def test_single_precision_counts(rng):
    assert order_for(predictor(STOKES), 4, "single") >= order_for(predictor(STOKES), 4)
    points = cube(rng, 100).astype(np.float32)
    with pytest.raises(ValueError, match="digits is 6, expected a number from 1 to 5 in single precision"):
        fl.Fmm(points, kernel=STOKES, digits=6)


def test_eps_is_a_synonym(rng):
    points = cube(rng, 100)
    assert fl.Fmm(points, eps=1e-4).order == fl.Fmm(points, digits=4).order
    assert "for 4 digits" in repr(fl.Fmm(points, eps=1e-4))
    with pytest.raises(ValueError, match="digits 4 and eps 0.0001 are given, expected only one"):
        fl.Fmm(points, digits=4, eps=1e-4)
    for wrong in (0, -1e-3, 2, "small", np.nan, True):
        with pytest.raises(ValueError, match="eps is .*, expected a relative error of at most 0.1, such as 1e-6"):
            fl.Fmm(points, eps=wrong)


def test_more_digits_take_higher_orders():
    orders = [order_for(predictor(STOKES), digits) for digits in (1, 2, 3, 4)]
    assert all(low < high for low, high in itertools.pairwise(orders))


def test_expected_errors_of_tables_are_known_at_once(rng, monkeypatch):
    monkeypatch.setattr(predict, "measure_chain", None)
    fmm = fl.Fmm(cube(rng, 100), order=6)
    assert fmm.error_estimate == ERRORS["laplace"][4]
    assert "from the table of measured errors" in str(fmm.plan_report())


def test_a_report_does_not_wait_for_a_prediction(rng):
    fmm = fl.Fmm(cube(rng, 300), kernel=STOKES, order=4, ncrit=20)
    assert "not predicted yet" in str(fmm.plan_report())
    assert "expected error" not in repr(fmm)
    assert 1e-4 < fmm.error_estimate < 1e-1
    assert f"{fmm.error_estimate:.1e}, predicted" in fmm.plan_report()._repr_html_()


# -- functions that do not suit the method

FINITE = "is not finite, or overflows"
BAD = {
    "singular on a plane": (scalar("bad", "1/d0"), FINITE),
    "singular on a sphere": (scalar("bad", "1/(r - 0.7)"), "bad does not suit the method: the best expected error is"),
    "not real somewhere": (scalar("bad", "sqrt(r - 1)"), f"bad {FINITE}, between some of the points"),
    "overflow": (scalar("bad", "exp(1000*r*r)"), FINITE),
    "growth": (scalar("bad", "r**40"), "bad does not suit the method"),
    "logarithm": (LOGARITHM, "expected at most 3.* for logarithm and these points: the best expected error is"),
    "narrow Gaussian": (scalar("bad", "exp(-100*r*r)"), "expected at most 2.* and higher orders do not help; most of"),
    "short waves": (scalar("bad", "sin(100*r)*rinv"), "boxes of half width .* surfaces cannot represent it; use fmmlo"),
}


@pytest.mark.parametrize(("kernel", "message"), BAD.values(), ids=BAD)
def test_digits_that_no_order_reaches_are_refused(kernel, message):
    with pytest.raises(ValueError, match=message) as refusal:
        order_for(predictor(kernel), 6)
    assert "\n" not in str(refusal.value)
    assert str(refusal.value).startswith("digits is 6, ")


@pytest.mark.parametrize("kernel", [case[0] for case in BAD.values()], ids=BAD)
@pytest.mark.parametrize("order", [4, 8])
def test_an_order_for_such_a_function_is_taken_with_a_warning(kernel, order):
    with pytest.warns(UserWarning, match="compare with fmmloopy.direct") as told:
        assert settle_accuracy(predictor(kernel), None, order, None).order == order
    assert len(told) == 1
    assert "\n" not in str(told[0].message)


def test_the_warning_points_to_the_caller(rng):
    points, charges = sphere(rng, 1000), rng.uniform(-1, 1, 1000)
    with pytest.warns(UserWarning, match="logarithm may not suit the method: .* order . after .* order") as told:
        fmm = fl.Fmm(points, kernel=LOGARITHM, order=4, ncrit=NCRIT)
    assert [each.filename for each in told if "may not suit" in str(each.message)] == [__file__]
    assert 1e-3 < fmm.estimate_error(charges) < 1e-1, "what it warns of is true"


SHIPPED = [fl.stokeslet(), fl.stresslet(), fl.rotlet(), fl.biot_savart(), fl.kelvin(), fl.biharmonic()]
SHIPPED += [fl.helmholtz(5.0), fl.plummer(1e-3), fl.gaussian(3.0)]


@pytest.mark.parametrize("kernel", SHIPPED, ids=lambda kernel: kernel.name)
def test_functions_that_ship_are_used_without_a_warning(kernel):
    """Softening is shorter here than the boxes, and the Gaussian wider: the others would be right to warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        settle_accuracy(predictor(kernel), None, 6, None)


@pytest.mark.parametrize(
    ("kernel", "order"),
    [(STOKES, 4), (helmholtz(20.0), 8), (scalar("constant", "1 + 0*r"), 3), (scalar("zero", "0*r"), 4), (GAUSSIAN, 6)],
    ids=lambda value: getattr(value, "name", value),
)
def test_functions_that_suit_the_method_are_used_without_a_warning(kernel, order):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        settle_accuracy(predictor(kernel), None, order, None)


def test_points_that_are_all_near_need_no_expansions(rng):
    points = cube(rng, 30)
    fmm = fl.Fmm(points, kernel=scalar("bad", "1/(r - 0.7)"), digits=9)
    assert fmm.order == 2
    assert fmm.error_estimate < 1e-14, "rounding alone"
    assert fmm.estimate_error(np.ones(30)) < 1e-13


# -- errors that were reached


def test_an_error_is_estimated_from_some_targets(rng):
    sources, targets, charges = cube(rng, 2000), sphere(rng, 1500), rng.uniform(-1, 1, 2000)
    fmm = fl.Fmm(sources, targets, order=4, ncrit=NCRIT)
    with pytest.raises(ValueError, match="expected charges before the first evaluation; give them or evaluate first"):
        fmm.estimate_error()
    found = error(fmm.evaluate(charges), fl.direct(sources, charges, targets))
    used = charges.copy()
    charges[:] = 0  # the caller's own
    assert fmm.estimate_error(k=1500) == pytest.approx(found, rel=1e-3)
    assert fmm.estimate_error(used, k=10**6) == pytest.approx(found, rel=1e-3)
    assert found / 2 < fmm.estimate_error(k=300) < 2 * found
    assert fmm.estimate_error(k=300) != fmm.estimate_error(k=300, seed=1)
    assert fmm.estimate_error(np.zeros(2000)) == 0
    with pytest.raises(ValueError, match="k is 0, expected"):
        fmm.estimate_error(k=0)
    with pytest.raises(ValueError, match="charges has shape"):
        fmm.estimate_error(np.ones(3))


def test_errors_of_complex_potentials(rng):
    points, charges = cube(rng, 500), rng.uniform(-1, 1, 500) + 1j * rng.uniform(-1, 1, 500)
    kernel = fl.helmholtz(2.0)
    fmm = fl.Fmm(points, kernel=kernel, order=4, ncrit=30, recipes="sequential")
    found = error(fmm.evaluate(charges), fl.direct(points, charges, kernel=kernel))
    assert 1e-5 < found < 1e-1
    assert fmm.estimate_error(k=500) == pytest.approx(found, rel=1e-3)
    assert fmm.estimate_error(1j * charges, k=500) == pytest.approx(found, rel=1e-3)
