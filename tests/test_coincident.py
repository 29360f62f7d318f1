"""Points in the same place: a source leaves out itself, and sees the others where the function is finite at zero."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from conftest import OPENCL, cube, error, slow_but

import fmmloopy as fl
from fmmloopy.components import Components
from fmmloopy.limits import is_finite_at_zero, value_at_zero
from fmmloopy.octree.coincident import find_coincident
from fmmloopy.octree.tree import sort_points

EVERYTHING = Components(charges=True, dipoles=True, gradient=True, hessian=True)
SMOOTHED = fl.GreensFunction("smoothed", "erf(a*r)/r", {"a": 2.0})


def by_hand(kernel, points, charges):
    """Sum over all other points, with the function a little off zero for pairs at distance zero."""
    potentials = np.zeros(len(points))
    for i in range(len(points)):
        for j in range(len(points)):
            if i != j:
                d = points[i] - points[j]
                d = d if d.any() else np.array([1e-30, 0, 0])
                potentials[i] += kernel.evaluate(d)[0, 0] * charges[j]
    return potentials


def doubled(rng, n):
    """Points of which some are in the same place as one, two or three others, in any order."""
    points = cube(rng, n)
    return rng.permutation(np.concatenate([points, points[: n // 4], points[: n // 8], points[:3]]))


# -- values at zero


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        (fl.plummer(1e-3), 1e3),
        (fl.gaussian(3.0), 1.0),
        (SMOOTHED, 4 / np.sqrt(np.pi)),
        (fl.GreensFunction("constant", "2"), 2.0),
        (fl.GreensFunction("exponential", "exp(-1*r)"), 1.0),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_functions_that_are_finite_at_zero(kernel, expected):
    assert is_finite_at_zero(kernel)
    np.testing.assert_allclose(value_at_zero(kernel, Components()), [[expected]], rtol=1e-12)


@pytest.mark.parametrize(
    "kernel",
    [
        fl.laplace(),
        fl.yukawa(),
        fl.helmholtz(2.0),  # whose imaginary part is finite
        fl.stokeslet(),
        fl.GreensFunction("logarithm", "log(r)"),
        fl.GreensFunction("slow", "r**(-0.01)"),
        fl.GreensFunction("direction", "d0*d0/r/r"),
        fl.GreensFunction("weak", "1 + 1e-20/r"),
        fl.GreensFunction("imaginary", "sqrt(r - 1)"),
    ],
    ids=lambda kernel: kernel.name,
)
def test_functions_that_are_not(kernel):
    assert not is_finite_at_zero(kernel)
    assert value_at_zero(kernel, EVERYTHING) is None


def test_nothing_at_zero():
    """A function that is zero there is finite; its derivatives depend on the direction."""
    assert is_finite_at_zero(fl.biharmonic())
    assert value_at_zero(fl.biharmonic(), EVERYTHING) is None


@pytest.mark.parametrize(
    ("kernel", "value", "slope"),
    [(fl.plummer(0.5), 2.0, -8.0), (fl.gaussian(0.5), 1.0, -8.0)],
    ids=lambda value: getattr(value, "name", ""),
)
def test_derivatives_at_zero(kernel, value, slope):
    """G = G(0) + slope r^2 / 2: rows are potential, gradient, Hessian; columns are charge and dipole."""
    expected = np.zeros((10, 4))
    expected[0, 0] = value
    expected[1:4, 1:4] = -slope * np.eye(3)
    expected[[4, 7, 9], 0] = slope
    np.testing.assert_allclose(value_at_zero(kernel, EVERYTHING), expected, rtol=1e-12)


# -- the direct sum


@pytest.mark.parametrize("kernel", [fl.plummer(0.1), SMOOTHED, fl.laplace()], ids=lambda kernel: kernel.name)
def test_direct_sum_by_hand(kernel, rng):
    points = doubled(rng, 24)
    charges = rng.uniform(-1, 1, len(points))
    if kernel.name == "laplace":  # nothing from the same place
        apart = np.abs(points[:, None] - points).any(axis=2)
        d = np.where(apart[..., None], points[:, None] - points, 1.0)
        expected = np.where(apart, kernel.evaluate(np.moveaxis(d, -1, 0))[0, 0], 0) @ charges
    else:
        expected = by_hand(kernel, points, charges)
    found = fl.direct(points, charges, kernel=kernel, block=7)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    chosen = rng.permutation(len(points))[:9]
    some = fl.direct(points, charges, points[chosen], kernel, same_as=chosen)
    np.testing.assert_allclose(some, expected[chosen], rtol=1e-12, atol=1e-12)
    others = fl.direct(points, charges, points, kernel)  # other points in the places of the sources
    at_zero = value_at_zero(kernel, Components())
    own = 0 if at_zero is None else at_zero[0, 0] * charges
    np.testing.assert_allclose(others, expected + own, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("same_as", "message"),
    [
        ([0, 1], r"same_as has shape \(2,\) and dtype int64, expected \(3,\) whole numbers"),
        ([0.0, 1.0, 2.0], r"same_as has shape \(3,\) and dtype float64, expected \(3,\) whole numbers"),
        ([0, 1, 9], "same_as has 0 to 9, expected -1 to 8: numbers of sources"),
    ],
)
def test_refused(same_as, message, rng):
    points = cube(rng, 9)
    with pytest.raises(ValueError, match=message):
        fl.direct(points, np.ones(9), points[:3], same_as=same_as)


# -- whole evaluations


@pytest.mark.parametrize("separate", [False, True], ids=["own targets", "other targets"])
@pytest.mark.parametrize("dtype", slow_but(lambda dtype: dtype is np.float64, [np.float32, np.float64]))
def test_whole_evaluations(separate, dtype, rng):
    """Most of a potential is from the same place, so a term that is missing or doubled is no small error."""
    sources = doubled(rng, 800).astype(dtype)
    targets = np.concatenate([sources[::3], rng.random((50, 3)).astype(dtype)]) if separate else None
    charges = rng.uniform(-1, 1, (len(sources), 2))
    kernel = fl.plummer(1e-3)
    fmm = fl.Fmm(sources, targets, kernel, order=4, ncrit=40, recipes="sequential")
    assert fmm.tree.nlevels > 2
    bound = 1e-3 if dtype == np.float64 else 2e-2  # points in float32 are rounded by 1e-4 of the softening
    for values, expected in zip(
        fmm.evaluate(charges, gradient=True), fl.direct(sources, charges, targets, kernel, gradient=True), strict=True
    ):
        assert error(values, expected) <= bound
    assert fmm.estimate_error(k=200) <= bound


@pytest.mark.parametrize("build", [fl.Fmm, partial(fl.Fmm, devices=OPENCL[:1] or ["c"])], ids=["one", "parts"])
def test_sources_given_as_targets(build, rng):
    """Where targets are given, none of them is a source, even if it is the same array, also after an update."""
    points, charges, kernel = cube(rng, 60), rng.uniform(-1, 1, 60), fl.plummer(0.1)
    fmm = build(points, points, kernel, order=2, ncrit=100, recipes="sequential")  # near pairs only
    for sources, targets in ((points, points), (2 * points, None), (points, points)):
        fmm.update(sources, targets)
        assert error(fmm.evaluate(charges), fl.direct(sources, charges, targets, kernel)) <= 1e-12
        assert fmm.estimate_error() <= 1e-12


def test_dipoles_and_hessians(rng):
    """Near pairs only; dipoles in the same place give a gradient, charges a Hessian."""
    points = doubled(rng, 60)
    charges, dipoles = rng.uniform(-1, 1, len(points)), rng.uniform(-1, 1, (len(points), 3))
    kernel = fl.plummer(0.01)
    fmm = fl.Fmm(points, kernel=kernel, order=2, ncrit=500, recipes="sequential")
    found = fmm.evaluate(charges, dipoles, gradient=True, hessian=True)
    expected = fl.direct(points, charges, None, kernel, True, dipoles=dipoles, hessian=True)
    for values, sums in zip(found, expected, strict=True):
        assert error(values, sums) <= 1e-11


def test_other_points_later(rng):
    """Places belong to the points: an update finds them anew."""
    kernel, charges = fl.plummer(0.01), rng.uniform(-1, 1, 40)
    alone, pairs = cube(rng, 40), np.repeat(cube(rng, 20), 2, axis=0)
    fmm = fl.Fmm(alone, kernel=kernel, order=2, ncrit=100, recipes="sequential")
    for points in (alone, pairs, alone):
        fmm.update(points)
        assert error(fmm.evaluate(charges), fl.direct(points, charges, kernel=kernel)) <= 1e-12


def test_large_charges(rng):
    points, charges = np.zeros((3, 3)), np.array([1e300, 2e300, 4e300])
    fmm = fl.Fmm(points, kernel=fl.plummer(1.0), order=2, recipes="sequential")
    np.testing.assert_allclose(fmm.evaluate(charges), [6e300, 5e300, 3e300], rtol=1e-12)
    with pytest.raises(ValueError, match="the largest potential is about 1e308"):
        fmm.evaluate(charges * 4e7)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kernel", [fl.stresslet(), fl.rotlet(), fl.laplace()], ids=lambda kernel: kernel.name)
def test_infinite_values_are_no_warning(kernel):
    assert not is_finite_at_zero(kernel)


# -- places


def test_places_of_points(make_points, rng):
    points = make_points(rng, 200)
    points = rng.permutation(np.concatenate([points, points[:20]]))
    same = (points[:, None] == points).all(axis=2)
    found = find_coincident(sort_points(points))
    assert found is not None
    assert found.same_points
    assert set(found.sources) == set(np.flatnonzero(same.sum(axis=1) > 1))
    numbers = found.source_places
    np.testing.assert_array_equal(numbers[:, None] == numbers, same[np.ix_(found.sources, found.sources)])


def test_places_of_sources_and_targets(rng):
    sources, targets = doubled(rng, 50), cube(rng, 30)
    assert find_coincident(sort_points(sources, targets)) is None
    assert find_coincident(sort_points(targets)) is None
    targets[[3, 7, 8]] = sources[[1, 2, 2]]
    found = find_coincident(sort_points(sources, targets))
    assert sorted(found.targets) == [3, 7, 8]
    pairs = {
        (int(t), int(s))
        for t, place in zip(found.targets, found.target_places, strict=True)
        for s in found.sources[found.source_places == place]
    }
    assert pairs == {(t, s) for t in range(30) for s in range(len(sources)) if (targets[t] == sources[s]).all()}


def test_places_of_zeros_of_both_signs():
    points = np.array([[0.0, 0.0, 1.0], [-0.0, 0.0, 1.0], [0.0, 0.0, -1.0]])
    assert sorted(find_coincident(sort_points(points)).sources) == [0, 1]
