"""Near pairs in float32, from points in float64: how accurate they are, and where that is not to be had."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import STOKES, cube, error, helmholtz, slow
from test_small_boxes import CASES, tree_and_lists

import fmmloopy as fl
from fmmloopy.accuracy import FLOORS
from fmmloopy.greens import GreensFunction
from fmmloopy.octree import near_pairs as near_field
from fmmloopy.octree.lists import build_lists
from fmmloopy.octree.near_pairs import (
    EXPONENTS,
    LINE,
    NEAREST,
    _are_apart,
    find_unit,
    least_distance,
    local_sources,
    replace_by_leaves,
)
from fmmloopy.octree.small_boxes import absorb_small_boxes
from fmmloopy.octree.tree import build_tree, grow_tree, sort_points

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


# -- pairs that are too near


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("share", [0.9, 1.1])
def test_a_pair_that_is_too_near_is_found_wherever_it_is(share, separate, rng):
    """One pair among many points: in the middle of finest boxes and across their faces, edges and corners."""
    for place in ([0.3, 0.4, 0.2], [0.25, 0.4, 0.2], [0.25, -0.5, 0.2], [0.0, 0.0, 0.0], [0.125, 0.5, -0.75]):
        points = cube(rng, 3000)
        points[:2] = [[-1, -1, -1], [1, 1, 1]]  # so that boxes have round numbers
        empty = grow_tree(sort_points(points), 50)
        leaf = (min if share < 1 else max)(empty.box_radii[empty.is_leaf])
        away = rng.standard_normal(3)
        away *= share * NEAREST * leaf / np.linalg.norm(away)
        ends = np.array([place, place]) + np.array([away / 2, -away / 2])
        if separate:
            points = sort_points(np.concatenate([points, ends[:1]]), np.concatenate([cube(rng, 1000), ends[1:]]))
        else:
            points = sort_points(np.concatenate([points, ends]))
        tree = grow_tree(points, 50)
        found = least_distance(points, tree)
        assert found == (None if share < 1 else NEAREST * tree.box_radii[tree.is_leaf].min())


def test_limits_are_those_of_the_leaves_that_points_are_in(rng):
    """Dense parts have small leaves, whose points may be nearer to each other."""
    dense = 1e-5 * cube(rng, 3000)
    dense[1] = dense[0] + [0, 0, 3e-11]
    points = sort_points(np.concatenate([cube(rng, 3000), dense]))
    tree = grow_tree(points, 30)
    assert NEAREST * tree.box_radii[tree.is_leaf].max() > 1e-9
    assert least_distance(points, tree) == NEAREST * tree.box_radii[tree.is_leaf].min()
    dense[1] = dense[0] + [0, 0, 1e-14]
    points = sort_points(np.concatenate([cube(rng, 3000), dense]))
    assert least_distance(points, grow_tree(points, 30)) is None


def test_coinciding_points_are_not_too_near(rng):
    points = np.repeat(cube(rng, 500), 4, axis=0)
    points[::5] = 0.0
    points[1::5] *= -1.0
    points = sort_points(points)
    tree = grow_tree(points, 100)
    assert least_distance(points, tree) == NEAREST * tree.box_radii[tree.is_leaf].min()


def test_too_many_candidates_count_as_too_near(monkeypatch, rng):
    points = sort_points(cube(rng, 2000))
    tree = grow_tree(points, 30)
    assert least_distance(points, tree) is not None
    monkeypatch.setattr(near_field, "MOST_CANDIDATES", 10)
    assert least_distance(points, tree) is None


@pytest.mark.parametrize("kind", ["anywhere", "across the line", "on a grid", "few"])
@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_points_are_apart_as_all_their_distances_say(kind, factor, rng):
    """Many points have the same place on the line of comparison, or hardly any."""
    points = cube(rng, 10 if kind == "few" else 400)
    if kind == "across the line":
        points -= np.outer(points @ LINE, LINE) / (LINE @ LINE)
    if kind == "on a grid":
        points = np.unique(np.rint(4 * points), axis=0)
    distances = np.linalg.norm(points[:, None] - points, axis=2) + 10 * np.eye(len(points))
    limits = rng.uniform(0, 0.1, len(points)) * distances.min(axis=1)
    assert _are_apart(points, limits)
    limits[7] = distances[7].min() / factor
    assert _are_apart(points, limits) == (factor > 1)


# -- units


CUBED = GreensFunction("cubed", (("rinv**3",),), homogeneity=-3)
LONG = GreensFunction("long", (("r*d0*d1*d2*d2*rinv",),), homogeneity=4)
RATIO = GreensFunction("ratio", (("r/(d0**2 + d1**2 + d2**2)",),), homogeneity=-1)
OF_A_FUNCTION = GreensFunction("of_a_function", (("exp(-rinv)",),))


@pytest.mark.parametrize("half_width", [1e-30, 1e-6, 0.999, 1.0, 1e9, 1e30])
@pytest.mark.parametrize(
    ("greens", "power", "bits"),
    [
        (fl.laplace(), 2, 117),
        (fl.laplace().with_gradient(), 3, 77),
        (STOKES, 3, 77),
        (STOKES.with_gradient(), 5, 45),
        (CUBED, 3, 77),
        (LONG, 5, 45),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_powers_of_all_distances_fit_in_the_unit(greens, power, bits, half_width):
    """From the diagonal of the root to the least distance, so many powers of two below its half width."""
    distance = half_width * 2.0**-bits
    unit = find_unit(greens, True, half_width, distance)
    assert np.frexp(unit)[0] == 0.5  # a power of two: products with it are exact
    distances = unit * np.array([2 * np.sqrt(3) * half_width, distance])
    assert np.all(distances**power <= 2.0**EXPONENTS)
    assert np.all(distances**power >= 2.0**-EXPONENTS)
    assert find_unit(greens, True, half_width, distance / 8) is None


@pytest.mark.parametrize(
    ("greens", "half_width", "distance"),
    [
        (RATIO, 1.0, 1e-8),
        (OF_A_FUNCTION, 1.0, 1e-8),
        (fl.yukawa(), 1.0, 1e-20),
        (fl.yukawa(), 1e20, 1e12),
        (fl.yukawa().with_gradient(), 1.0, 1e-13),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_no_unit(greens, half_width, distance):
    assert find_unit(greens, greens is RATIO, half_width, distance) is None


@pytest.mark.parametrize("greens", [fl.yukawa(), helmholtz(2.0)], ids=lambda greens: greens.name)
def test_lengths_stay_where_a_function_has_one_of_its_own(greens):
    assert find_unit(greens, False, 1.0, 1e-9) == 1.0


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
    [
        *((fl.laplace(), distance) for distance in (1e-3, 1e-6, 1e-12)),
        (fl.yukawa(2.0), 1e-6),
        *(pytest.param(fl.yukawa(2.0), distance, marks=slow) for distance in (1e-3, 1e-12)),
        # Expansions of these lose more in float32.
        *(pytest.param(STOKES, distance, marks=slow) for distance in (1e-12, 1e-6)),
    ],
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


@slow
def test_functions_without_a_unit_have_near_pairs_in_double(rng):
    """Of coordinates in a denominator nothing is known."""
    points, charges = pairs_at(1e-6)(rng, 1000), rng.uniform(-1, 1, 1000)
    fmm, double = (fl.Fmm(points, kernel=RATIO, order=5, ncrit=40, precision=p) for p in ("reduced", "double"))
    found, expected = (f.evaluate(charges, gradient=True) for f in (fmm, double))
    assert error(found[0], expected[0]) <= 1e-10  # in float32 they would err by 1e-7
    assert error(found[1], expected[1]) <= 1e-10


def graded(rng, n):
    """On all scales down to 1e-30 around the centre of all points, beside which float64 has the finest differences."""
    points = rng.standard_normal((n, 3)) * 10.0 ** rng.uniform(-30, 0, (n, 1))
    return np.concatenate([np.clip(points, -1, 1), [[1, 1, 1], [-1, -1, -1]]])


@pytest.mark.parametrize("make", [graded, *(pairs_at(d) for d in (1e-7, 1e-9, 1e-11, 1e-15))], ids=lambda make: "")
@pytest.mark.parametrize("digits", [4, 6])
def test_pairs_beyond_what_float32_tells_apart_are_in_double(make, digits, rng):
    """Their potentials are the largest by far; what float64 rounds of points relative to the root is another matter."""
    points = make(rng, 1000)
    charges = rng.uniform(-1, 1, len(points))
    fmm = fl.Fmm(points, digits=digits)
    assert fmm.precision in ("reduced", "mixed")
    double = fl.Fmm(points, order=fmm.order, ncrit=fmm.ncrit, precision="double")
    found, expected = (f.evaluate(charges, gradient=True) for f in (fmm, double))
    assert error(found[0], expected[0]) <= 0.3 * 10.0**-digits
    assert error(found[1], expected[1]) <= 10.0**-digits


CONSTANT = GreensFunction("constant", (("6.674e-11*rinv",),), homogeneity=-1)


@pytest.mark.parametrize("precision", ["mixed", pytest.param("reduced", marks=slow)])
def test_constants_of_a_function_leave_room(precision, rng):
    points, charges = cube(rng, 1000), rng.uniform(0, 1, 1000)
    fmm, double = (fl.Fmm(points, kernel=CONSTANT, order=5, precision=p) for p in (precision, "double"))
    found, expected = (f.evaluate(charges, gradient=True) for f in (fmm, double))
    assert error(found[0], expected[0]) <= 1e-6
    assert error(found[1], expected[1]) <= 1e-5


def test_a_gradient_is_a_kernel_like_others(rng):
    """Its rows have two degrees, so no table of it stands for all levels; and it has a gradient of its own."""
    points, charges = cube(rng, 800), rng.uniform(0, 1, 800)
    kernel = fl.laplace().with_gradient()
    expected, slopes = fl.direct(points, charges, None, kernel, gradient=True)
    for precision in ("double", "mixed"):
        fmm = fl.Fmm(points, kernel=kernel, order=5, ncrit=40, precision=precision, recipes="sequential")
        found, their_slopes = fmm.evaluate(charges, gradient=True)
        assert error(found, expected) <= 1e-3
        assert error(their_slopes, slopes) <= 1e-3


def test_charges_in_both_types_belong_to_the_last_call(rng):
    """Of P2P's two kernels, with and without gradient, one is in float32 and one in float64 here."""
    points, kernel = cube(rng, 600) * 4e-6, fl.yukawa(2e5)
    fmm = fl.Fmm(points, kernel=kernel, order=4, ncrit=30, precision="reduced")
    for charges in rng.uniform(0, 1, (2, 600)):
        plain, (with_gradient, _) = fmm.evaluate(charges), fmm.evaluate(charges, gradient=True)
        assert error(plain, with_gradient) <= 1e-5
        assert error(plain, fl.direct(points, charges, None, kernel)) <= 1e-2


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
