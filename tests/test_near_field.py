"""Near pairs in float32, from points in float64: how accurate they are, and where that is not to be had."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import STOKES, cube, error, helmholtz
from test_small_boxes import CASES, tree_and_lists

import fmmloopy as fl
from fmmloopy.accuracy import FLOORS
from fmmloopy.greens import GreensFunction
from fmmloopy.lists import build_lists
from fmmloopy.near_field import EXPONENTS, find_unit, local_sources, replace_by_leaves
from fmmloopy.small_boxes import absorb_small_boxes
from fmmloopy.tree import build_tree

EVERY_CASE = pytest.mark.parametrize("case", CASES)


# -- coordinates


@EVERY_CASE
def test_coordinates_relative_to_leaves_are_split_without_loss(case):
    """float64 has 53 bits, two of float32 have 48: of a coordinate relative to its leaf, 2^-48 may be lost."""
    tree, _ = tree_and_lists(case)
    unit = 2.0**10
    parts = local_sources(tree, unit)
    assert parts.dtype == np.float32
    assert parts.shape == (2, 3, tree.nsources)
    covered = np.zeros(tree.nsources, int)
    for leaf in np.flatnonzero(tree.is_leaf):
        here = slice(tree.box_source_starts[leaf], tree.box_source_ends[leaf])
        covered[here] += 1
        offsets = tree.sources[:, here] - tree.box_centres[:, leaf, None]
        lost = parts[:, :, here].astype(np.float64).sum(axis=0) / unit - offsets
        assert np.all(np.abs(lost) <= 2.0**-48 * np.abs(offsets))
        assert np.all(np.abs(parts[0, :, here]) <= unit * 1.0001 * tree.box_radii[leaf])
    np.testing.assert_array_equal(covered, 1)


@EVERY_CASE
def test_lists_of_leaves_hold_the_same_sources(case):
    tree, lists = tree_and_lists(case)
    absorbed = absorb_small_boxes(tree, lists, 26).u
    leaves = replace_by_leaves(tree, absorbed)
    assert tree.is_leaf[leaves.lists].all()
    for row in range(tree.nboxes):
        found, expected = (
            sorted(
                index
                for box in csr.lists[csr.starts[row] : csr.starts[row + 1]]
                for index in range(tree.box_source_starts[box], tree.box_source_ends[box])
            )
            for csr in (leaves, absorbed)
        )
        assert found == expected


def test_some_of_these_lists_hold_more_than_leaves():
    inner = [
        int((~tree.is_leaf[absorb_small_boxes(tree, lists, 26).u.lists]).sum())
        for tree, lists in map(tree_and_lists, CASES)
    ]
    assert sum(inner) > 100


def test_lists_of_leaves_alone_stay_as_they_are(rng):
    tree = build_tree(cube(rng, 200), None, 20)
    lists = build_lists(tree).u
    assert replace_by_leaves(tree, lists) is lists


# -- units


CUBED = GreensFunction("cubed", (("rinv**3",),), homogeneity=-3)
RATIO = GreensFunction("ratio", (("1/r",),), homogeneity=-1)
OF_A_FUNCTION = GreensFunction("of_a_function", (("exp(-rinv)",),))


@pytest.mark.parametrize("half_width", [1e-30, 1e-6, 0.999, 1.0, 1e9, 1e30])
@pytest.mark.parametrize(
    ("greens", "power", "deepest"),
    [
        (fl.laplace(), 2, 64),
        (fl.laplace().with_gradient(), 3, 24),
        (STOKES, 3, 24),
        (CUBED, 3, 24),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_powers_of_all_distances_fit_in_the_unit(greens, power, deepest, half_width):
    """From the diagonal of the root to the least difference of two points of a leaf, as find_unit states it."""
    unit = find_unit(greens, half_width, deepest)
    assert np.frexp(unit)[0] == 0.5  # a power of two: products with it are exact
    distances = unit * half_width * np.array([2 * np.sqrt(3), 2.0 ** -(deepest - 1 + 54)])
    assert np.all(distances**power <= 2.0**EXPONENTS)
    assert np.all(distances**power >= 2.0**-EXPONENTS)
    assert find_unit(greens, half_width, deepest + 1) is None


@pytest.mark.parametrize(
    ("greens", "half_width", "nlevels"),
    [
        (STOKES.with_gradient(), 1.0, 5),  # 1 / r^5
        (RATIO, 1.0, 5),
        (OF_A_FUNCTION, 1.0, 5),
        (fl.laplace(), 1.0, 1),  # no box whose centre is not zero
        (fl.yukawa(), 1.0, 12),
        (fl.yukawa(), 1e-6, 4),
        (fl.yukawa(), 1e20, 4),
        (fl.yukawa().with_gradient(), 1.0, 4),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_no_unit(greens, half_width, nlevels):
    assert find_unit(greens, half_width, nlevels) is None


@pytest.mark.parametrize("greens", [fl.yukawa(), helmholtz(2.0)], ids=lambda greens: greens.name)
def test_lengths_stay_where_a_function_has_one_of_its_own(greens):
    assert find_unit(greens, 1.0, 5) == 1.0


# -- evaluations


def pairs_at(distance):
    """Uniform in the cube, but for 20 pairs at a distance, whose potentials are the largest by far."""

    def make(rng, n):
        points = cube(rng, n)
        away = rng.standard_normal((20, 3))
        points[-20:] = points[:20] + distance * away / np.linalg.norm(away, axis=1)[:, None]
        return points

    return make


@pytest.mark.parametrize("precision", ["mixed", "reduced"])
@pytest.mark.parametrize(
    ("kernel", "distance"),
    [(kernel, distance) for kernel in (fl.laplace(), fl.yukawa(2.0)) for distance in (1e-3, 1e-6, 1e-9, 1e-12)]
    + [(STOKES, distance) for distance in (1e-6, 1e-9, 1e-12)],  # expansions of which lose more in float32
    ids=lambda value: getattr(value, "name", value),
)
def test_near_pairs_are_as_accurate_as_float32_at_any_distance(kernel, distance, precision, rng):
    """A dozen roundings of 6e-8 each; and what float64 itself rounds of coordinates, 2e-16 of the distance."""
    points, charges = pairs_at(distance)(rng, 2000), rng.uniform(-1, 1, (2000, kernel.nsource_components))
    charges = charges[:, 0] if kernel.nsource_components == 1 else charges
    fmm, double = (fl.Fmm(points, kernel=kernel, order=6, ncrit=40, precision=p) for p in (precision, "double"))
    at = [*range(20), *range(1980, 2000)]
    found, expected = ([values[at] for values in f.evaluate(charges, gradient=True)] for f in (fmm, double))
    allowed = 12 * 6e-8 + 4e-16 / distance + FLOORS[precision] * distance  # the last is of all that is far
    assert error(found[0], expected[0]) <= allowed
    assert error(found[1], expected[1]) <= 3 * allowed


@pytest.mark.parametrize("precision", ["mixed", "reduced"])
@pytest.mark.parametrize("width", [2.0**-17, 2.0**27])
def test_units_do_not_show(precision, width, rng):
    """Homogeneous of degree -1: potentials of a cube that is so much wider are so much smaller."""
    points, charges = cube(rng, 3000), rng.uniform(-1, 1, 3000)
    one, other = (
        fl.Fmm(w * points, order=5, ncrit=30, precision=precision).evaluate(charges, gradient=True)
        for w in (1.0, width)
    )
    assert error(width * other[0], one[0]) <= 2e-6
    assert error(width**2 * other[1], one[1]) <= 1e-5


@pytest.mark.parametrize("kernel", [RATIO, STOKES], ids=lambda kernel: kernel.name)
@pytest.mark.parametrize("gradient", [False, True])
def test_functions_without_a_unit_have_near_pairs_in_double(kernel, gradient, rng):
    """The gradient of Stokes' function has 1 / r^5; of r in a denominator nothing is known."""
    points, charges = pairs_at(1e-9)(rng, 1000), rng.uniform(-1, 1, (1000, kernel.nsource_components))
    charges = charges[:, 0] if kernel.nsource_components == 1 else charges
    fmm, double = (fl.Fmm(points, kernel=kernel, order=5, ncrit=40, precision=p) for p in ("reduced", "double"))
    found, expected = (f.evaluate(charges, gradient=gradient) for f in (fmm, double))
    if gradient:
        assert error(found[1], expected[1]) <= 1e-12
    else:
        near = 1e-12 if kernel is RATIO else 1e-6
        assert error(found, expected) <= near


def test_separate_targets_and_coinciding_points(rng):
    """A target at a source has nothing from it; the others have it to all of float32's digits."""
    sources, charges = cube(rng, 3000), rng.uniform(-1, 1, 3000)
    targets = np.concatenate([sources[::3], sources[1::3] + 1e-10, cube(rng, 500)])
    expected = fl.direct(sources, charges, targets)
    for precision in ("mixed", "reduced"):
        fmm = fl.Fmm(sources, targets, order=8, ncrit=40, precision=precision)
        found = fmm.evaluate(charges)
        assert error(found, expected) <= 1e-6
        assert error(found[:1000], expected[:1000]) <= 2e-6
