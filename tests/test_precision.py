"""Single, mixed and double precision: what is chosen, what it leaves, and what callers see."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conftest import OPENCL, cube, error, slow, slow_but, sphere
from loopy.symbolic import IdentityMapper, TypeCast

import fmmloopy as fl
from fmmloopy.accuracy import (
    FLOORS,
    SAFETY,
    SLOW_SAFETY,
    estimate,
    largest_leaf,
    ncrit_for,
    precision_for,
    rounding_for,
    settle_accuracy,
)
from fmmloopy.bookshelf.certificates import operator_status, record, status
from fmmloopy.checking.check import check_book
from fmmloopy.execution.devices import find_devices
from fmmloopy.greens import GreensFunction
from fmmloopy.octree.tree import sort_points
from fmmloopy.operators import OPERATORS
from fmmloopy.precision import find_precision
from fmmloopy.prediction.predict import Predictor
from fmmloopy.recipes import RecipeBook, sequential_recipe

NPOINTS = 4000
CHOSEN = {2: "reduced", 3: "reduced", 4: "reduced", 5: "reduced", 6: "mixed", 7: "double", 8: "double"}
"""Digits -> working precision."""


def near_pairs(rng, n):
    """Uniform in the cube, but for 20 pairs that are 1e-9 apart: their potentials are the largest by far."""
    points = cube(rng, n)
    points[-20:] = points[:20] + rng.uniform(-1e-9, 1e-9, (20, 3))
    return points


def far_away(rng, n):
    """Uniform in a cube a thousand times as far from the origin as it is wide."""
    return cube(rng, n) + 1000


def on_scales(rng, n):
    """Dense around one point on three scales."""
    return rng.standard_normal((n, 3)) * 10.0 ** rng.uniform(-3, 0, (n, 1))


# -- what is chosen by digits reaches them


@pytest.mark.parametrize(
    ("kernel", "digits", "make"),
    [
        *((fl.laplace(), d, make) for d in CHOSEN for make in (cube, sphere, on_scales, near_pairs, far_away)),
        *((fl.yukawa(2.0), d, make) for d in (3, 7) for make in (cube, on_scales)),
        *(pytest.param(fl.yukawa(2.0), 6, make, marks=slow) for make in (cube, on_scales)),
    ],
    ids=lambda value: getattr(value, "name", getattr(value, "__name__", value)),
)
def test_requested_digits_are_reached(kernel, digits, make, rng):
    points = make(rng, NPOINTS)
    at = [*range(20), *range(NPOINTS - 280, NPOINTS)]  # all near pairs among them
    fmm = fl.Fmm(points, kernel=kernel, digits=digits, ncrit=40)
    assert fmm.precision == CHOSEN[digits]
    for least in (-1, 0):  # charges of both signs, and of one
        charges = rng.uniform(least, 1, NPOINTS)
        potentials, gradients = fmm.evaluate(charges, gradient=True)
        assert potentials.dtype == gradients.dtype == np.float64
        expected, slopes = fl.direct(points, charges, points[at], kernel, gradient=True)
        assert error(potentials[at], expected) <= 10.0**-digits, least
        # Errors of gradients are those of potentials over the size of a leaf, of rounding as of expansions.
        assert error(gradients[at], slopes) <= 30 * 10.0**-digits, least


@pytest.mark.parametrize("order", slow_but(lambda order: order == 7, [4, 7, 10]))
@pytest.mark.parametrize("make", [cube, sphere, on_scales, far_away, near_pairs], ids=lambda make: make.__name__)
def test_what_rounding_leaves(make, order, rng):
    """Against the same method in double precision: what is left is the rounding, no error of expansions."""
    points, charges = make(rng, NPOINTS), rng.uniform(-1, 1, NPOINTS)
    precisions = ("double", "mixed", "reduced")
    double, *others = (fl.Fmm(points, order=order, ncrit=40, precision=p).evaluate(charges) for p in precisions)
    for precision, found in zip(precisions[1:], others, strict=True):
        assert error(found, double) <= FLOORS[precision]
        assert make is near_pairs or error(found, double) > 1e-9  # near pairs in float64 are all that counts


def test_the_safety_factor_decides_between_whole_digits():
    least = np.log10(1 / (SAFETY * FLOORS["mixed"]))
    assert [precision_for(fl.laplace(), digits) for digits in (least - 0.01, least + 0.01)] == ["mixed", "double"]


def test_slow_float64_is_avoided_while_digits_are_reached(rng):
    least = np.log10(1 / (SLOW_SAFETY * FLOORS["reduced"]))
    assert [precision_for(fl.laplace(), least + d, slow_float64=True) for d in (-0.01, 0.01)] == ["reduced", "mixed"]
    assert precision_for(fl.laplace(), least - 0.01) == "mixed"
    # Sums over the sources of a leaf leave no more digits in float32 than this.
    assert [precision_for(fl.laplace(), 6.3, slow_float64=slow) for slow in (True, False)] == ["mixed", "double"]
    assert precision_for(fl.laplace(), 6.4, slow_float64=True) == "double"
    assert precision_for(GreensFunction("other", "rinv*rinv"), 3, slow_float64=True) == "double"
    predictor = Predictor(fl.laplace(), sort_points(cube(rng, 20_000)), 100)
    for digits in np.arange(2.0, 6.5, 0.1):
        usual, chosen = (settle_accuracy(predictor, digits, None, None, slow_float64=slow) for slow in (False, True))
        assert estimate(predictor, chosen.order, chosen.precision).error <= 10.0**-digits
        assert chosen.order >= usual.order
        assert chosen.precision in (usual.precision, find_precision("mixed"), find_precision("reduced"))


@pytest.mark.parametrize(("share", "precision"), [(0.0, "double"), (1 / 2, "double"), (1 / 64, "mixed")])
def test_precision_is_chosen_by_the_rate_of_float64(share, precision, rng):
    """What reaches 6.3 digits with near pairs in float32 is not chosen on devices that are fast in float64."""
    points, charges = cube(rng, NPOINTS), rng.uniform(-1, 1, NPOINTS)
    device = replace(find_devices()[0], float64_share=share)
    fmm = fl.Fmm(points, digits=6.3, ncrit=40, device=device)
    assert fmm.precision == precision
    assert error(fmm.evaluate(charges)[:300], fl.direct(points, charges, points[:300])) <= 10.0**-6.3
    assert fl.Fmm(points, order=4, ncrit=40, device=device).precision == "double"
    assert fl.Fmm(points, digits=6.3, ncrit=40, device=device, precision="double").precision == "double"


@pytest.mark.parametrize(
    ("make", "precision"),
    [(sphere, "mixed"), (sphere, "reduced"), (sphere, "single"), (on_scales, "mixed"), (on_scales, "reduced")],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_what_large_leaves_leave(make, precision, rng):
    """All points are in one leaf, whose sums are in float32: errors are those of rounding alone."""
    points, charges = make(rng, 5000).astype(np.float32), rng.uniform(-1, 1, 5000)
    fmm = fl.Fmm(points.astype(np.float64), order=3, ncrit=5000, precision=precision)
    found, allowed = (
        error(fmm.evaluate(charges)[:300], fl.direct(points, charges, points[:300])),
        rounding_for(precision, 5000),
    )
    assert allowed / 5 <= found <= allowed


@pytest.mark.parametrize(("digits", "precision"), [(6, "mixed"), (5, "single"), (5, "reduced")])
def test_leaves_are_no_larger_than_digits_allow(digits, precision, rng):
    predictor = Predictor(fl.laplace(), sort_points(cube(rng, 200_000)), 100)
    accuracy = settle_accuracy(predictor, digits, None, precision)
    largest = largest_leaf(predictor, accuracy)
    errors = [estimate(predictor, accuracy.order, accuracy.precision, n).error for n in (largest, largest + 10)]
    assert largest >= ncrit_for(accuracy.order)
    assert errors[0] <= 10.0**-digits < errors[1]


def test_few_points_may_be_in_one_leaf(rng):
    """They have no expansions, so rounding may take all of the error; more than these are divided."""
    for n, is_free in ((1000, True), (2000, False)):
        predictor = Predictor(fl.laplace(), sort_points(cube(rng, n)), 100)
        assert (largest_leaf(predictor, settle_accuracy(predictor, 6, None, None)) is None) == is_free
    assert largest_leaf(predictor, settle_accuracy(predictor, 9, None, None)) is None


def test_an_order_is_worked_on_in_double_unless_precision_says_otherwise(rng):
    points = cube(rng, 100)
    assert fl.Fmm(points, order=3).precision == "double"
    assert fl.Fmm(points, order=3, precision="mixed").precision == "mixed"
    assert fl.Fmm(points, digits=3).precision == "reduced"
    assert fl.Fmm(points, digits=6, m2l="dense").precision == "mixed"


# -- what callers see


@pytest.mark.parametrize(("width", "expected"), [(1e-8, "double"), (1.0, "mixed"), (1e10, "double")])
def test_extents_beyond_float32_are_worked_on_in_double(width, expected, rng):
    points, charges = width * cube(rng, 500), rng.uniform(-1, 1, 500)
    fmm = fl.Fmm(points, ncrit=30)
    assert fmm.precision == expected
    assert error(fmm.evaluate(charges), fl.direct(points, charges)) <= 1e-6


@pytest.mark.parametrize("scaling", [1e30, 1e-30])
def test_factors_beyond_float32_are_worked_on_in_double(scaling, rng):
    """Tables hold them beside 1 / r, which is 1e7 here: the product is no number of float32."""
    points, charges = 2e-6 * cube(rng, 300), rng.uniform(-1, 1, 300)
    kernel = GreensFunction("yukawa", fl.yukawa().matrix, {"decay": 1.0}, scaling=scaling)
    fmm = fl.Fmm(points, kernel=kernel, digits=2, ncrit=10)
    assert fmm.precision == "double"
    assert error(fmm.evaluate(charges), fl.direct(points, charges, None, kernel)) <= 1e-2
    with pytest.raises(ValueError, match=r"expected from 1e-15 to 1e\+15 in float32; put the factor into the charges"):
        fl.Fmm(points, kernel=kernel, precision="single")


@pytest.mark.parametrize("precision", ["single", "mixed", "reduced"])
@pytest.mark.parametrize(("width", "scaling"), [(4e-6, 1e15), (4e-6, 1e-15), (1e9, 1e15), (1e9, 1e-15)])
def test_extreme_factors_and_extents_fit_float32(width, scaling, precision, rng):
    """A deep tree too: 12 levels and more."""
    points, charges = width * on_scales(rng, 1000) / 4, rng.uniform(-1, 1, 1000)
    kernel = GreensFunction("laplace", fl.laplace().matrix, scaling=scaling, homogeneity=-1)
    fmm = fl.Fmm(points, kernel=kernel, order=5, ncrit=5, precision=precision)
    stored = points if precision != "single" else np.float64(np.float32(points))
    expected = fl.direct(stored, charges, None, kernel)
    assert error(fmm.evaluate(charges), expected) <= 1e-3


@pytest.mark.parametrize("precision", ["single", "mixed", "reduced"])
@pytest.mark.parametrize("scale", [1e300, 1e-300])
def test_charges_beyond_float32(precision, scale, rng):
    points, charges = cube(rng, 500), rng.uniform(-1, 1, 500)
    fmm = fl.Fmm(points, order=4, ncrit=30, precision=precision)
    assert error(fmm.evaluate(scale * charges) / scale, fmm.evaluate(charges)) <= 1e-6  # roundings of float32
    np.testing.assert_array_equal(fmm.evaluate(0 * charges), 0)


def test_tolerated_words(rng):
    points = cube(rng, 100)
    with pytest.raises(ValueError, match="precision is 'half', expected 'double' or 'mixed' or 'reduced' or 'single'"):
        fl.Fmm(points, precision="half")
    with pytest.raises(ValueError, match="precision is 'mixed', expected 'single' for float32"):
        fl.Fmm(points, precision="mixed", dtype=np.float32)
    with pytest.raises(ValueError, match="digits is 6, expected a number from 1 to 5 in single precision"):
        fl.Fmm(points, precision="single", digits=6)
    assert fl.Fmm(points.astype(np.float32)).precision == "single"
    assert fl.Fmm(points, precision="single").order == fl.Fmm(points, digits=5).order


# -- certificates


def test_certificates_of_a_precision_are_those_of_its_kernels(tmp_path, monkeypatch):
    monkeypatch.setenv("FMMLOOPY_CACHE_DIR", str(tmp_path))
    operators = ("p2p", "m2m", "m2l_forward", "m2l_hadamard")
    book = RecipeBook("three", device="", recipes=dict.fromkeys(operators, sequential_recipe))
    device = find_devices()[0]
    record(book, device, operators, ["float64"], "quick")
    assert status(book, device, "float64") == "certified"
    assert status(book, device, "mixed") == "none for p2p, m2l_forward, m2l_hadamard"
    record(book, device, ["m2l_hadamard"], ["float32"], "quick")
    record(book, device, ["p2p", "m2l_forward"], ["mixed"], "quick")
    assert status(book, device, "mixed") == "certified"
    assert operator_status(book, device, "m2l_forward", "float32") == "none"
    assert status(book, device, "reduced") == "none for m2m, m2l_forward"


def test_types_of_kernels():
    operators = ("p2p", "p2m", "m2m", "m2l_forward", "m2l_hadamard")

    def types(precision):
        return [OPERATORS[name].types_in(find_precision(precision)).name for name in operators]

    assert types("mixed") == ["mixed", "float64", "float64", "mixed", "float32"]
    assert types("reduced") == ["mixed", "mixed", "float32", "float32", "float32"]
    assert types(np.float32) == ["float32"] * 5


@pytest.mark.skipif(not OPENCL, reason="no OpenCL device")
@pytest.mark.parametrize(
    ("operator", "statement", "change", "dtypes"),
    [
        pytest.param("m2l_forward", "load", lambda expression: 2 * expression, ["float32", "float64"], marks=slow),
        ("p2p", "e1", lambda expression: 0 * expression, ["mixed"]),  # what rounding leaves is left out
        # All list entries but the last:
        pytest.param("p2p", "fold0", lambda expression: expression.children[1], ["mixed"], marks=slow),
        pytest.param("p2m", "y2", lambda expression: 2 * expression, ["reduced"], marks=slow),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_recipes_that_are_wrong_in_mixed_kernels_only_are_found(operator, statement, change, dtypes):
    def recipe(knl):
        types = {arg.dtype.numpy_dtype.name for arg in knl.default_entrypoint.args if arg.dtype is not None}
        if {"float32", "float64"} <= types:
            kernel = knl.default_entrypoint
            assert statement in kernel.id_to_insn
            changed = [i.copy(expression=change(i.expression)) if i.id == statement else i for i in kernel.instructions]
            knl = knl.with_kernel(kernel.copy(instructions=changed))
        yield from sequential_recipe(knl)

    book = RecipeBook("wrong", device="", recipes={operator: recipe})
    findings = check_book(book, device=OPENCL[0], dtypes=dtypes).findings
    assert [(f.operator, f.dtype, f.layer) for f in findings] == [(operator, "mixed", "exact")]


class _Round(IdentityMapper):
    """Round points and centres to float32 where they are read."""

    def map_subscript(self, expr, *args, **kwargs):
        wide = expr.aggregate.name in ("sources", "targets", "centres")
        return TypeCast(np.float32, expr) if wide else super().map_subscript(expr, *args, **kwargs)


@pytest.mark.skipif(not OPENCL, reason="no OpenCL device")
@pytest.mark.parametrize("operator", ["p2m", pytest.param("l2p", marks=slow)])
def test_recipes_that_round_points_before_they_subtract_the_centre_are_found(operator):
    def recipe(knl):
        kernel, rounded = knl.default_entrypoint, _Round()
        rules = {n: r.copy(expression=rounded(r.expression)) for n, r in kernel.substitutions.items()}
        yield from sequential_recipe(knl.with_kernel(kernel.copy(substitutions=rules)))

    book = RecipeBook("wrong", device="", recipes={operator: recipe})
    findings = check_book(book, device=OPENCL[0], dtypes=["reduced"]).findings
    assert [(f.operator, f.dtype, f.layer) for f in findings] == [(operator, "mixed", "exact")]


@pytest.mark.parametrize(("scaling", "expected"), [(1.87e-64, "double"), (1.0, "reduced"), (1e35, "double")])
def test_constant_factors_beyond_float32_are_worked_with_in_double(scaling, expected, rng):
    """They are part of the tables, which would be zeros or infinite."""
    greens = fl.GreensFunction("gravity", (("rinv",),), scaling=scaling, homogeneity=-1)
    points, charges = cube(rng, NPOINTS), rng.uniform(0, 1, NPOINTS)
    fmm = fl.Fmm(points, kernel=greens, digits=4, ncrit=60)
    assert fmm.precision == expected
    exact = fl.direct(points, charges, points[:50], greens)
    assert np.linalg.norm(fmm.evaluate(charges)[:50] - exact) <= 1e-4 * np.linalg.norm(exact)
    if expected == "double":
        with pytest.raises(ValueError, match=r"gravity: scaling is .*, expected from 1e-15 to 1e\+15 in float32; put"):
            fl.Fmm(points, kernel=greens, precision="mixed", digits=4)
