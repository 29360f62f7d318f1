"""The whole method on points that are asking for trouble, and on all kinds of arrays."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import POINT_SETS, clustered, error

import fmmloopy as fl
from fmmloopy.recipes import load_recipes

# -- few, coincident, flat and far points


def small_fmm(sources, targets=None, charges=None, order=6, ncrit=20, **options):
    """Compare with the direct sum in the working precision, and return potential and gradient, and errors of both."""
    fmm = fl.Fmm(sources, targets, order=order, ncrit=ncrit, **options)
    charges = np.random.default_rng(3).random(len(sources)) - 0.3 if charges is None else charges
    values = fmm.evaluate(charges, gradient=True)
    stored = [None if a is None else np.asarray(a).astype(fmm.dtype) for a in (sources, charges, targets)]
    with np.errstate(over="ignore"):
        expected = fl.direct(*stored, gradient=True)
    return fmm, values, [error(v, e) if e.any() else np.abs(v).max() for v, e in zip(values, expected, strict=True)]


@pytest.mark.parametrize("make", POINT_SETS.values(), ids=POINT_SETS)
@pytest.mark.parametrize("n", [1, 2, 3, 17, 400])
def test_point_sets(make, n, rng):
    """Bounds for order 6 as above; without expansions, those of rounding: of sums, and of points to their distances."""
    points = make(rng, n)
    fmm, values, (of_potential, of_gradient) = small_fmm(points)
    distances = np.linalg.norm(points[:, None] - points, axis=2)
    condition = np.ptp(points, axis=0).max() / distances[distances > 0].min(initial=np.inf)
    rounding = 1e-15 * (10 + condition)
    assert of_potential <= (3e-6 if fmm.lists.v.lists.size else rounding)
    assert of_gradient <= (3e-4 if fmm.lists.v.lists.size else 2 * rounding)
    if make.__name__ in ("one_point", "coincident") or n == 1:
        for array in values:
            np.testing.assert_array_equal(array, 0)


def test_two_points_have_the_textbook_potential():
    potentials, gradients = fl.Fmm([[0, 0, 0], [0, 0, 2]]).evaluate([1.0, 3.0], gradient=True)
    expected = np.array([3.0, 1.0]) / (4 * np.pi * 2)
    np.testing.assert_allclose(potentials, expected, rtol=1e-15)  # four roundings at most
    np.testing.assert_allclose(gradients, [[0, 0, 3 / (16 * np.pi)], [0, 0, -1 / (16 * np.pi)]], rtol=1e-15)


@pytest.mark.parametrize("ncrit", [1, 2, 3, 10**6, 10**20])
def test_ncrit(ncrit, rng):
    """Leaves of one point, and one leaf for all, at order 4: bounds as above."""
    fmm, _, (of_potential, of_gradient) = small_fmm(rng.random((300, 3)), order=4, ncrit=ncrit)
    assert of_potential <= (3e-4 if ncrit < 300 else 1e-14)
    assert of_gradient <= (3e-2 if ncrit < 300 else 1e-13)
    assert (fmm.tree.nlevels == 1) == (ncrit >= 300)


def test_coincident_pairs_among_others(rng):
    _, _, (of_potential, of_gradient) = small_fmm(np.repeat(rng.random((400, 3)), 2, axis=0))
    assert of_potential <= 3e-6  # as above for order 6
    assert of_gradient <= 3e-4


def test_more_coincident_points_than_ncrit(rng):
    """No depth separates these, so none may be tried: the error of a gradient grows as the inverse of a leaf's size."""
    points = rng.random((800, 3))
    points[:50] = points[0]
    _, _, (of_potential, of_gradient) = small_fmm(points)
    assert of_potential <= 3e-6  # as above for order 6
    assert of_gradient <= 3e-4


def test_plane(rng):
    fmm, _, (of_potential, of_gradient) = small_fmm(rng.random((1000, 3)) * [1, 1, 0])
    assert fmm.tree.nlevels >= 4
    assert of_potential <= 3e-6  # as above for order 6
    assert of_gradient <= 3e-4


@pytest.mark.parametrize("distance", [3.0, 50.0, 1e4])
def test_far_targets(distance, rng):
    """One interaction carries it all, and is handed down level by level, each adding its error of 10^-6.

    No bound on the gradient: it falls with distance^2, the potential with distance, and the error with neither.
    """
    fmm, _, (of_potential, _) = small_fmm(rng.random((600, 3)), rng.random((300, 3)) + [distance, 0, 0])
    assert of_potential <= fmm.tree.nlevels * 1e-6


def test_targets_that_are_the_sources(rng):
    """Given apart, a point still leaves itself out: their distance is zero. Boxes are the same, so are all bits."""
    sources, charges = clustered(rng, 600), rng.random(600)
    same = fl.Fmm(sources, order=4, ncrit=20).evaluate(charges)
    apart = fl.Fmm(sources, sources.copy(), order=4, ncrit=20).evaluate(charges)
    assert np.isfinite(apart).all()
    assert error(apart, same) <= 1e-12  # as between books


@pytest.mark.parametrize("counts", [(1, 500), (500, 1), (30, 500), (500, 30)])
def test_few_sources_or_few_targets(counts, rng):
    nsources, ntargets = counts
    _, values, (of_potential, of_gradient) = small_fmm(rng.random((nsources, 3)), rng.random((ntargets, 3)))
    assert values[0].shape == (ntargets,)
    # A single source has one error where many average theirs: ten times the bounds above.
    assert of_potential <= 3e-5
    assert of_gradient <= 3e-3


@pytest.mark.parametrize(
    ("extent", "dtype"), [(1e-8, np.float64), (1e8, np.float64), (1e-5, np.float32), (1e8, np.float32)]
)
def test_extents(extent, dtype, rng):
    _, _, (of_potential, of_gradient) = small_fmm((extent * rng.random((500, 3))).astype(dtype))
    assert of_potential <= 3e-6  # as above for order 6, in single precision too
    assert of_gradient <= 3e-4


@pytest.mark.parametrize("extent", [1e-22, 1e-28])
def test_extents_beyond_single_precision_are_not_silently_wrong(extent, rng):
    """Squares of such distances underflow; a wrong potential without a word is the one thing that must not be."""
    points, charges = (extent * rng.random((500, 3))).astype(np.float32), rng.random(500)
    try:
        fmm, refusal = fl.Fmm(points, order=6, ncrit=20), None
    except ValueError as raised:
        refusal = str(raised)
    if refusal is None:
        assert error(fmm.evaluate(charges).astype(float), fl.direct(points, charges)) <= 3e-6  # as above for order 6
    else:
        assert "float64" in refusal


def test_clouds_of_very_different_extents(rng):
    """Coordinates are relative to the root's centre: eps * 1e6 = 1e-10 against distances of 1e-2, so 1e-8 in these."""
    points = np.concatenate([rng.random((300, 3)), 1e6 * rng.random((300, 3))])
    fmm, _, (of_potential, of_gradient) = small_fmm(points)
    assert fmm.tree.nlevels > 15
    assert of_potential <= 3e-6  # as above for order 6
    assert of_gradient <= 3e-4


# -- kinds of arrays

POINTS = np.random.default_rng(12).integers(0, 64, (200, 3)) / 64
"""On a grid that float16 holds exactly, so that every kind of array has the same points."""

KINDS = {
    "list": lambda a: a.tolist(),
    "tuples": lambda a: tuple(map(tuple, a.tolist())) if a.ndim == 2 else tuple(a.tolist()),
    "columns": np.asfortranarray,
    "every other": lambda a: np.repeat(a, 2, axis=0)[::2],
    "backwards": lambda a: a[::-1].copy()[::-1],
    "read-only": lambda a: np.frombuffer(a.tobytes()).reshape(a.shape),
    "big-endian": lambda a: a.astype(">f8"),
    "float16": lambda a: a.astype(np.float16),
    "longdouble": lambda a: a.astype(np.longdouble),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_arrays(kind):
    charges = np.random.default_rng(3).integers(-8, 9, 200) / 8
    expected = fl.Fmm(POINTS, POINTS[:50] + 1 / 128, order=3, ncrit=20).evaluate(charges)
    convert = KINDS[kind]
    fmm = fl.Fmm(convert(POINTS), convert(POINTS[:50] + 1 / 128), order=3, ncrit=20, dtype=np.float64)
    found = fmm.evaluate(convert(charges))
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.uint16, bool])
def test_whole_numbers(dtype, rng):
    sources = rng.integers(0, 2 if dtype is bool else 50, (300, 3)).astype(dtype)
    charges = rng.integers(0, 2, 300).astype(dtype)
    found = fl.Fmm(sources, order=3, ncrit=20).evaluate(charges)
    expected = fl.Fmm(sources.astype(float), order=3, ncrit=20).evaluate(charges.astype(float))
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("charges_dtype", [np.float32, np.float64])
@pytest.mark.parametrize("targets_dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sources_dtype", [np.float32, np.float64])
def test_mixtures_of_precisions(sources_dtype, targets_dtype, charges_dtype, rng):
    """The sources decide; bounds of order 4."""
    sources, targets = rng.random((300, 3)).astype(sources_dtype), rng.random((200, 3)).astype(targets_dtype)
    charges = rng.random(300).astype(charges_dtype)
    fmm, values, (of_potential, of_gradient) = small_fmm(sources, targets, charges, order=4)
    assert fmm.dtype == sources_dtype
    assert {array.dtype for array in values} == {np.dtype(sources_dtype)}
    assert of_potential <= 3e-4
    assert of_gradient <= 3e-2


def test_dtype_is_obeyed(rng):
    sources = rng.random((200, 3))
    assert fl.Fmm(sources, order=3, dtype=np.float32).evaluate(np.ones(200)).dtype == np.float32
    assert fl.Fmm(sources.astype(np.float32), order=3, dtype=np.float64).evaluate(np.ones(200)).dtype == np.float64


def test_choices_are_told(rng):
    fmm = fl.Fmm(rng.random((200, 3)), order=3, ncrit=17)
    assert (fmm.order, fmm.ncrit, fmm.dtype) == (3, 17, np.float64)
    assert fmm.device is fl.find_devices()[0]
    assert fmm.recipes is load_recipes(None, fmm.device)
    assert fmm.kernel.name == "laplace"
