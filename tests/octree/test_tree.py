"""The octree, against its definition in integers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from fmmloopy.octree.tree import DEEPEST_LEVEL, HALF_WIDTH_BITS, build_tree


def _cube(rng, n):
    return rng.random((n, 3))


def _sphere(rng, n):
    points = rng.standard_normal((n, 3))
    return 5 + points / np.linalg.norm(points, axis=1, keepdims=True)


def _clustered(rng, n):
    return rng.standard_normal((n, 3)) * 10.0 ** rng.uniform(-5, 0, (n, 1))


def _line(rng, n):
    return rng.random((n, 1)) * [1.0, -2.0, 0.5]


def _two_clusters(rng, n):
    return rng.random((n, 3)) * 1e-3 + rng.integers(0, 2, (n, 1)) * [100.0, 60.0, -3.0]


def _lattice(rng, n):
    """Many points on the boundaries of boxes, and on the faces of the root."""
    return rng.integers(0, 9, (n, 3)) / 8


def _coincident(rng, n):
    return np.full((n, 3), 0.3)


def _one_point(rng, n):
    return np.array([[1e3, -2.0, 0.1]])


POINT_SETS = (_cube, _sphere, _clustered, _line, _two_clusters, _lattice, _coincident, _one_point)

TREES = pytest.mark.parametrize(
    ("make", "ncrit", "separate", "dtype"),
    [
        pytest.param(make, ncrit, separate, dtype, id=f"{make.__name__[1:]}-{ncrit}-{name}-{np.dtype(dtype).name}")
        for make in POINT_SETS
        for ncrit, separate, name, dtype in (
            (1, False, "same", np.float64),
            (7, True, "separate", np.float64),
            (10**6, False, "same", np.float32),
            (3, True, "separate", np.float32),
        )
    ],
)


def _points(make, separate, dtype, n=300):
    rng = np.random.default_rng(7)
    sources = make(rng, n).astype(dtype)
    return sources, make(rng, n // 2).astype(dtype) if separate else None


def _ranges(tree):
    return (
        (tree.sources, tree.box_source_starts, tree.box_source_ends),
        (tree.targets, tree.box_target_starts, tree.box_target_ends),
    )


def _corners(tree, boxes, deepest=DEEPEST_LEVEL):
    """Lower and upper corners of boxes, shape (3, n), in widths of the deepest boxes: exact integers."""
    width = 1 << (deepest - tree.box_levels[boxes].astype(np.int64))
    lower = tree.box_anchors[:, boxes] * width
    return lower, lower + width


@TREES
def test_points_are_permuted_and_shifted(make, ncrit, separate, dtype):
    sources, targets = _points(make, separate, dtype)
    tree = build_tree(sources, targets, ncrit)
    assert (tree.nsources, tree.ntargets) == (len(sources), len(sources if targets is None else targets))
    for points, order, given in (
        (tree.sources, tree.source_order, sources),
        (tree.targets, tree.target_order, sources if targets is None else targets),
    ):
        assert points.dtype == dtype
        assert points.flags.c_contiguous
        assert order.dtype == np.int64
        np.testing.assert_array_equal(np.sort(order), np.arange(len(given)))
        np.testing.assert_array_equal(points, (given[order] - tree.origin).astype(dtype).T)
        if dtype == np.float64:
            differences = given[order].astype(np.longdouble) - tree.origin
            np.testing.assert_array_equal(points, differences.T)  # nothing is rounded
        assert abs(points + (tree.origin - tree.centre)[:, None]).max() <= tree.half_width
    assert tree.same_points is not separate
    if not separate:
        assert tree.targets is tree.sources
        assert tree.target_order is tree.source_order
        assert tree.box_target_starts is tree.box_source_starts
        assert tree.box_target_ends is tree.box_source_ends


@TREES
def test_points_lie_in_their_boxes(make, ncrit, separate, dtype):
    tree = build_tree(*_points(make, separate, dtype), ncrit)
    # x + half_width is rounded in float64 before the point is put into a box.
    slack = 2.0**-51 * tree.half_width
    for points, starts, ends in _ranges(tree):
        for box in range(tree.nboxes):
            distance = abs(points[:, starts[box] : ends[box]].astype(float) - tree.box_centres[:, box, None])
            assert np.all(distance <= tree.box_radii[box] + slack)


@TREES
def test_arrays_have_the_documented_types(make, ncrit, separate, dtype):
    tree = build_tree(*_points(make, separate, dtype), ncrit)
    n = tree.nboxes
    expected = {
        "centre": ((3,), np.float64),
        "origin": ((3,), np.float64),
        "level_starts": ((tree.nlevels + 1,), np.int32),
        "box_levels": ((n,), np.int32),
        "box_anchors": ((3, n), np.int32),
        "box_keys": ((n,), np.uint64),
        "box_parents": ((n,), np.int32),
        "box_children": ((n, 8), np.int32),
        "is_leaf": ((n,), np.bool_),
        "leaves": ((tree.is_leaf.sum(),), np.int32),
        "box_centres": ((3, n), np.float64),
        "box_radii": ((n,), np.float64),
        **{f"box_{what}_{end}": ((n,), np.int32) for what in ("source", "target") for end in ("starts", "ends")},
    }
    for name, (shape, kind) in expected.items():
        array = getattr(tree, name)
        assert (name, array.shape, array.dtype) == (name, shape, kind)
    assert tree.nbytes > 2 * tree.sources.nbytes // (1 if separate else 2)


@TREES
def test_boxes_are_numbered_by_level_and_morton_key(make, ncrit, separate, dtype):
    tree = build_tree(*_points(make, separate, dtype), ncrit)
    assert tree.level_starts[0] == 0
    assert tree.level_starts[-1] == tree.nboxes
    for level in range(tree.nlevels):
        boxes = slice(tree.level_starts[level], tree.level_starts[level + 1])
        assert (tree.box_levels[boxes] == level).all()
        assert np.all(tree.box_keys[boxes][1:] > tree.box_keys[boxes][:-1])
        keys = [
            sum(((int(a[axis]) >> bit) & 1) << (3 * bit + axis) for axis in range(3) for bit in range(level))
            for a in tree.box_anchors[:, boxes].T
        ]
        np.testing.assert_array_equal(tree.box_keys[boxes], np.array(keys, np.uint64))


@TREES
def test_children_and_parents_agree(make, ncrit, separate, dtype):
    tree = build_tree(*_points(make, separate, dtype), ncrit)
    parent, octant = np.nonzero(tree.box_children >= 0)
    child = tree.box_children[parent, octant]
    np.testing.assert_array_equal(child, np.arange(1, tree.nboxes))
    np.testing.assert_array_equal(tree.box_parents[child], parent)
    np.testing.assert_array_equal(tree.box_levels[child], tree.box_levels[parent] + 1)
    np.testing.assert_array_equal(tree.box_keys[child] >> np.uint64(3), tree.box_keys[parent])
    np.testing.assert_array_equal(tree.box_keys[child] & np.uint64(7), octant)
    bits = np.array([octant & 1, octant >> 1 & 1, octant >> 2])
    np.testing.assert_array_equal(tree.box_anchors[:, child], 2 * tree.box_anchors[:, parent] + bits)
    assert tree.box_parents[0] == -1
    np.testing.assert_array_equal(tree.is_leaf, ~np.isin(np.arange(tree.nboxes), parent))
    np.testing.assert_array_equal(tree.leaves, np.flatnonzero(tree.is_leaf))


@TREES
def test_ranges_are_nested_and_no_box_is_empty(make, ncrit, separate, dtype):
    tree = build_tree(*_points(make, separate, dtype), ncrit)
    filled = np.zeros(tree.nboxes, bool)
    for points, starts, ends in _ranges(tree):
        assert (starts[0], ends[0]) == (0, points.shape[1])
        assert np.all(starts <= ends)
        filled |= starts < ends
        for box in np.flatnonzero(~tree.is_leaf):
            children = tree.box_children[box][tree.box_children[box] >= 0]
            edges = [starts[box], *ends[children]]
            np.testing.assert_array_equal([*starts[children], ends[box]], edges)
    assert filled.all()


@TREES
def test_leaves_hold_at_most_ncrit(make, ncrit, separate, dtype):
    tree = build_tree(*_points(make, separate, dtype), ncrit)
    for _, starts, ends in _ranges(tree):
        counts = ends - starts
        assert np.all((counts[tree.is_leaf] <= ncrit) | (tree.box_levels[tree.is_leaf] == DEEPEST_LEVEL))


def _crowded(tree, ncrit):
    """Whether each box is split for its points, and not for balance only."""
    return np.any([ends - starts > ncrit for _, starts, ends in _ranges(tree)], axis=0)


@TREES
def test_neighbours_of_split_boxes_exist(make, ncrit, separate, dtype):
    """The rule of balance, pair by pair: no leaf adjacent to a split box is coarser than that box."""
    tree = build_tree(*_points(make, separate, dtype), ncrit)
    split, leaves = np.flatnonzero(~tree.is_leaf), np.flatnonzero(tree.is_leaf)
    lower, upper = _corners(tree, leaves)
    for box in split:
        box_lower, box_upper = _corners(tree, [box])
        adjacent = ((lower <= box_upper) & (upper >= box_lower)).all(axis=0)
        assert np.all(tree.box_levels[leaves[adjacent]] >= tree.box_levels[box])


@TREES
def test_no_box_is_split_needlessly(make, ncrit, separate, dtype):
    """A box that is not crowded is split only if an adjacent box of its children's size is split."""
    tree = build_tree(*_points(make, separate, dtype), ncrit)
    split = np.flatnonzero(~tree.is_leaf)
    lower, upper = _corners(tree, split)
    for box in np.flatnonzero(~tree.is_leaf & ~_crowded(tree, ncrit)):
        box_lower, box_upper = _corners(tree, [box])
        adjacent = ((lower <= box_upper) & (upper >= box_lower)).all(axis=0)
        assert np.any(tree.box_levels[split[adjacent]] == tree.box_levels[box] + 1)


@pytest.mark.parametrize("make", POINT_SETS)
@pytest.mark.parametrize("ncrit", [1, 20])
def test_boxes_do_not_depend_on_the_order_of_points(make, ncrit):
    sources, targets = _points(make, True, np.float64)
    rng = np.random.default_rng(3)
    one = build_tree(sources, targets, ncrit)
    other = build_tree(rng.permutation(sources), np.asfortranarray(rng.permutation(targets)), ncrit)
    assert (one.half_width, *one.centre) == (other.half_width, *other.centre)
    for name in ("level_starts", "box_keys", "box_levels", "box_anchors", "box_parents", "box_children", "is_leaf"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    for (_, *ours), (_, *theirs) in zip(_ranges(one), _ranges(other), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("scale", [1e-290, 1e-30, 0.3, 1.0, 7e11, 1e300])
def test_root_is_a_tight_cube_with_a_short_half_width(scale):
    points = _cube(np.random.default_rng(1), 50) * scale
    tree = build_tree(points, ncrit=5)
    extent = np.ptp(points, axis=0).max() / 2
    assert extent * (1 - 1e-15) <= tree.half_width <= extent * (1 + 2.0**-7) ** 2
    mantissa, _ = np.frexp(tree.half_width)
    assert (mantissa * 2**HALF_WIDTH_BITS).is_integer()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_box_width_underflows(dtype):
    tiny = np.finfo(dtype).tiny
    tree = build_tree(np.array([[0, 0, 0], [tiny, 0, 0], [2 * tiny, 0, 0]], dtype), ncrit=1)
    assert tree.half_width >= 2.0**40 * tiny
    assert tree.nlevels == DEEPEST_LEVEL + 1
    assert (tree.box_radii.astype(dtype) >= tiny).all()


def test_box_centres_are_exact_in_float32_down_to_level_15():
    points = np.concatenate([_cube(np.random.default_rng(1), 10), [[0.1, 0.2, 0.3]] * 2])
    tree = build_tree(points, ncrit=1)
    shallow = tree.box_levels <= 15
    assert tree.nlevels > 16
    centres = tree.box_centres[:, shallow]
    np.testing.assert_array_equal(centres.astype(np.float32), centres)


@pytest.mark.parametrize("n", [1, 5])
def test_few_points_stay_in_the_root(n):
    tree = build_tree(_coincident(None, n), ncrit=5)
    assert (tree.nboxes, tree.nlevels) == (1, 1)
    assert tree.is_leaf.tolist() == [True]
    assert tree.box_children.tolist() == [[-1] * 8]
    assert tree.half_width > 0


def test_coincident_points_stop_at_the_deepest_level():
    tree = build_tree(_coincident(None, 6), ncrit=5)
    assert tree.box_levels.tolist() == list(range(DEEPEST_LEVEL + 1))
    assert tree.box_source_ends[tree.leaves].tolist() == [6]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("level", [19, 20, 21])
def test_close_points_are_separated_at_great_depth(level, dtype):
    """Root of half width 1 about 0; two points in neighbouring boxes of the level, inside one of the level above."""
    width = 2.0 ** (1 - level)
    corners = [[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]]
    near = np.array([[0.25, 0.25, 0.25], [0.25 + width, 0.25, 0.25]]) + width / 2
    tree = build_tree(np.concatenate([corners, near]).astype(dtype), ncrit=1)
    assert tree.nlevels == level + 1
    deep = tree.leaves[tree.box_levels[tree.leaves] == level]
    assert (tree.box_source_ends - tree.box_source_starts)[deep].tolist() == [1, 1]


@pytest.mark.parametrize("max_level", [0, 1, 3])
def test_max_level_stops_the_splitting(max_level):
    tree = build_tree(_cube(np.random.default_rng(0), 5000), ncrit=1, max_level=max_level)
    assert tree.nlevels == max_level + 1


def test_balance_crosses_edges_and_corners():
    """A deep chain of boxes at the middle of the root refines what it touches there, through corners only."""
    deep = 0.5 + 2.0**-12 * np.array(list(itertools.product((0.25, 0.75), repeat=3)))
    far = [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]
    # One point a quadrant, near the middle: its leaf would be of level 1, but the deep boxes touch it at the middle.
    others = np.array(list(itertools.product((0.49, 0.51), repeat=3)))[:-1]
    tree = build_tree(np.concatenate([deep, far, others]), ncrit=4)
    lower, upper = _corners(tree, tree.leaves)
    middle = 1 << (DEEPEST_LEVEL - 1)
    touching = ((lower <= middle) & (upper >= middle)).all(axis=0)
    assert tree.nlevels > 11
    assert np.ptp(tree.box_levels[tree.leaves[touching]]) <= 1


def test_targets_alone_can_split_a_box():
    rng = np.random.default_rng(0)
    sources, targets = _cube(rng, 5), _cube(rng, 500)
    tree = build_tree(sources, targets, ncrit=20)
    assert tree.nlevels >= 3
    assert np.any(tree.box_source_starts == tree.box_source_ends)


def test_inputs_are_left_alone():
    points = _cube(np.random.default_rng(0), 100)
    before = points.copy()
    build_tree(points, points, 5)
    np.testing.assert_array_equal(points, before)


def test_targets_are_the_sources_only_if_none_are_given():
    points = _cube(np.random.default_rng(0), 100)
    assert build_tree(points, None, 5).same_points
    assert not build_tree(points, points, 5).same_points


GOOD = np.random.default_rng(0).random((4, 3))
WITH_NAN = np.where(np.arange(12).reshape(4, 3) == 7, np.nan, GOOD)
WITH_INF = np.where(np.arange(12).reshape(4, 3) == 3, -np.inf, GOOD)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((GOOD.T,), r"sources has shape \(3, 4\), expected \(n, 3\): one row per point"),
        ((GOOD[0],), r"sources has shape \(3,\), expected \(n, 3\)"),
        ((GOOD, GOOD[:, :2]), r"targets has shape \(4, 2\), expected \(n, 3\)"),
        ((GOOD[:0],), r"sources has 0 points, expected 1"),
        ((GOOD, GOOD[:0]), r"targets has 0 points, expected 1"),
        ((GOOD.astype(int),), r"sources are int64, expected float32 or float64; convert them with astype"),
        ((GOOD.astype(">f8"),), r"sources are >f8, expected float32 or float64"),
        ((GOOD, GOOD.astype(np.float32)), r"targets are float32 and sources float64, expected one dtype; convert one"),
        ((WITH_NAN,), r"sources\[2\] is \[.*nan.*\], expected finite coordinates; remove such points"),
        ((GOOD, WITH_INF), r"targets\[1\] is \[-inf, .*\], expected finite coordinates"),
        ((1e307 * GOOD,), r"a coordinate is .*e\+306, expected at most 1\.7.*e\+305 in size; scale the points"),
        ((GOOD, None, 0), r"ncrit is 0, expected at least 1: the most points in a leaf"),
        ((GOOD, None, 1, 22), r"max_level is 22, expected 0 to 21: a Morton key has 21 bits an axis"),
        ((GOOD, None, 1, -1), r"max_level is -1, expected 0 to 21"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_tree(*arguments)
