"""The interaction lists, against their definitions and against every pair of points."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest

from fmmloopy.octree.lists import MAX_U, MAX_V, MAX_W, MAX_X, build_lists, make_csr
from fmmloopy.octree.tree import DEEPEST_LEVEL, build_tree


def _cube(rng, n):
    return rng.random((n, 3))


def _sphere(rng, n):
    points = rng.standard_normal((n, 3))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def _clustered(rng, n):
    return rng.standard_normal((n, 3)) * 10.0 ** rng.uniform(-5, 0, (n, 1))


def _line(rng, n):
    return rng.random((n, 1)) ** 3 * [1.0, 1.0, 0.5]


def _two_clusters(rng, n):
    return rng.random((n, 3)) * 1e-3 + rng.integers(0, 2, (n, 1)) * [1.0, 0.6, -0.3]


def _corner(rng, n):
    """A uniform cube with a deep cluster at its middle, where eight boxes of every level meet."""
    deep = 0.5 + 1e-4 * (rng.random((n // 3, 3)) - 0.5)
    return np.concatenate([rng.random((n - len(deep), 3)), deep])


def _coincident(rng, n):
    return np.full((n, 3), 0.3)


def _one_point(rng, n):
    return np.array([[1.0, 2.0, 3.0]])


CASES = {
    f"{make.__name__[1:]}-{name}-{ncrit}": (make, shift, ncrit)
    for make in (_cube, _sphere, _clustered, _line, _two_clusters, _corner, _coincident, _one_point)
    for name, shift in (("same", None), ("separate", 0.0), ("apart", 0.4))
    for ncrit in (1, 6, 40)
}


@functools.cache
def _tree_and_lists(case):
    """Targets are the sources, other points of the same kind, or those shifted partly out of the sources."""
    make, shift, ncrit = CASES[case]
    rng = np.random.default_rng(11)
    sources = make(rng, 240)
    tree = build_tree(sources, None if shift is None else make(rng, 150) + shift, ncrit)
    return tree, build_lists(tree)


EVERY_CASE = pytest.mark.parametrize("case", CASES)


def _rows(csr):
    return [csr.lists[start:end] for start, end in itertools.pairwise(csr.starts)]


def _as_matrix(csr):
    """Flags, shape (nrows, nrows): whether a box is in the row of another."""
    flags = np.zeros((csr.starts.size - 1,) * 2, bool)
    flags[np.repeat(np.arange(csr.starts.size - 1), csr.lengths), csr.lists] = True
    return flags


def _adjacency(tree):
    """Flags, shape (nboxes, nboxes): whether closed cubes share a point; in exact integers."""
    width = 1 << (DEEPEST_LEVEL - tree.box_levels.astype(np.int64))
    lower = tree.box_anchors * width
    upper = lower + width
    return ((lower[:, :, None] <= upper[:, None]) & (upper[:, :, None] >= lower[:, None])).all(axis=0)


def _definitions(tree):
    """U, V, W and X as flags, shape (nboxes, nboxes), row by target box, from their definitions alone."""
    adjacent, levels, leaf = _adjacency(tree), tree.box_levels, tree.is_leaf
    root = tree.box_parents < 0
    colleagues = adjacent & (levels[:, None] == levels)
    parents_are_colleagues = colleagues[np.ix_(tree.box_parents, tree.box_parents)] & ~root[:, None] & ~root
    targets = (tree.box_target_starts < tree.box_target_ends)[:, None]
    sources = tree.box_source_starts < tree.box_source_ends
    child_of_colleague = colleagues[:, tree.box_parents] & ~root
    colleague_of_parent = colleagues[tree.box_parents] & ~root[:, None]
    u = leaf[:, None] & leaf & adjacent
    v = parents_are_colleagues & ~adjacent
    w = leaf[:, None] & child_of_colleague & ~adjacent
    x = leaf & colleague_of_parent & ~adjacent
    return {name: flags & targets & sources for name, flags in {"u": u, "v": v, "w": w, "x": x}.items()}


@EVERY_CASE
def test_every_pair_of_points_is_covered_exactly_once(case):
    tree, lists = _tree_and_lists(case)
    covered = np.zeros((tree.ntargets, tree.nsources), int)
    u, v, w, x = map(_rows, (lists.u, lists.v, lists.w, lists.x))

    def cover(target_box, source_boxes):
        targets = slice(tree.box_target_starts[target_box], tree.box_target_ends[target_box])
        for box in source_boxes:
            covered[targets, tree.box_source_starts[box] : tree.box_source_ends[box]] += 1

    for box in range(tree.nboxes):
        # V and X of a box act on all targets in it: this is what its descendants inherit.
        cover(box, v[box])
        cover(box, x[box])
        if tree.is_leaf[box]:
            cover(box, u[box])
            cover(box, w[box])
    np.testing.assert_array_equal(covered, 1)


@EVERY_CASE
@pytest.mark.parametrize("name", ["u", "v", "w", "x"])
def test_lists_are_as_defined(case, name):
    tree, lists = _tree_and_lists(case)
    csr = getattr(lists, name)
    np.testing.assert_array_equal(_as_matrix(csr), _definitions(tree)[name])
    assert (csr.starts.dtype, csr.lists.dtype) == (np.int32, np.int32)
    assert (csr.starts.size, csr.starts[0], csr.starts[-1]) == (tree.nboxes + 1, 0, csr.lists.size)
    np.testing.assert_array_equal(csr.lengths, [row.size for row in _rows(csr)])
    assert all(np.all(row[1:] > row[:-1]) for row in _rows(csr))


@EVERY_CASE
def test_leaves_of_u_differ_by_one_level_and_w_and_x_are_dual(case):
    tree, lists = _tree_and_lists(case)
    target, source = np.nonzero(_as_matrix(lists.u))
    assert np.all(abs(tree.box_levels[target] - tree.box_levels[source]) <= 1)
    if tree.same_points:
        leaf = tree.is_leaf
        np.testing.assert_array_equal(_as_matrix(lists.w), _as_matrix(lists.x).T)
        np.testing.assert_array_equal(_as_matrix(lists.u), _as_matrix(lists.u).T & leaf)
        np.testing.assert_array_equal(_as_matrix(lists.v), _as_matrix(lists.v).T)


@EVERY_CASE
def test_transfer_vectors_are_differences_of_anchors(case):
    tree, lists = _tree_and_lists(case)
    target = np.repeat(np.arange(tree.nboxes), lists.v.lengths)
    vectors = tree.box_anchors[:, lists.v.lists] - tree.box_anchors[:, target]
    assert lists.v_transfers.dtype == np.int32
    np.testing.assert_array_equal(lists.v_transfers, np.array([1, 7, 49]) @ (vectors + 3))
    assert np.all(abs(vectors) <= 3)
    assert np.all(abs(vectors).max(axis=0, initial=0) >= 2)


@EVERY_CASE
def test_colleagues_are_the_neighbours_of_the_same_level(case):
    tree, lists = _tree_and_lists(case)
    boxes = {place: box for box, place in enumerate(zip(tree.box_levels, *tree.box_anchors, strict=True))}
    expected = [
        [boxes.get((level, x + a, y + b, z + c), -1) for c in (-1, 0, 1) for b in (-1, 0, 1) for a in (-1, 0, 1)]
        for level, x, y, z in boxes
    ]
    assert lists.colleagues.dtype == np.int32
    np.testing.assert_array_equal(lists.colleagues, expected)


def _lengths(lists):
    return tuple(int(csr.lengths.max()) for csr in (lists.u, lists.v, lists.w, lists.x))


@EVERY_CASE
def test_lengths_are_bounded(case):
    _, lists = _tree_and_lists(case)
    assert np.all(np.array(_lengths(lists)) <= (MAX_U, MAX_V, MAX_W, MAX_X))


@pytest.mark.parametrize("seed", range(12))
def test_lengths_are_bounded_on_ragged_trees(seed):
    """Clusters of random depth in a full cube: many levels meet, and no box is missing for want of points."""
    rng = np.random.default_rng(seed)
    clusters = rng.random((12, 1, 3)) + 10.0 ** rng.uniform(-4, 0, (12, 1, 1)) * rng.standard_normal((12, 300, 3))
    points = np.concatenate([rng.random((3000, 3)), clusters.reshape(-1, 3) % 1])
    lists = build_lists(build_tree(points, ncrit=int(rng.integers(1, 12))))
    assert np.all(np.array(_lengths(lists)) <= (MAX_U, MAX_V, MAX_W, MAX_X))
    assert min(_lengths(lists)) > 0


def _grid(level, refined=()):
    """One point in each box of a level, and in each child of the refined boxes; ncrit = 1 makes these the leaves.

    The points are at the centres, but for the two at the corners of the unit cube, which fix the root.
    """
    places = list(itertools.product(range(1 << level), repeat=3))
    coarse = [np.add(place, 0.5) / 2**level for place in places if place not in refined]
    octants = list(itertools.product((0.25, 0.75), repeat=3))
    fine = [np.add(place, octant) / 2**level for place in refined for octant in octants]
    points = np.array(coarse + fine)
    points[points.sum(axis=1).argmin()] = 0
    points[points.sum(axis=1).argmax()] = 1
    return points


NEIGHBOURS_OF_111 = [place for place in itertools.product(range(3), repeat=3) if place != (1, 1, 1)]


@pytest.mark.parametrize(
    ("level", "refined", "expected"),
    [
        pytest.param(3, (), {"v": MAX_V}, id="uniform"),
        pytest.param(2, NEIGHBOURS_OF_111, {"u": MAX_U, "w": MAX_W}, id="all neighbours of a leaf are split"),
        pytest.param(2, [(1, 1, 1)], {"x": MAX_X}, id="all neighbours of a split box are leaves"),
    ],
)
def test_bounds_are_attained(level, refined, expected):
    tree = build_tree(_grid(level, refined), ncrit=1)
    lists = build_lists(tree)
    assert {name: getattr(lists, name).lengths.max() for name in expected} == expected


def test_all_transfer_vectors_appear():
    """Those of -3 to 3 along each axis that are not of adjacent boxes: 7^3 - 3^3."""
    lists = build_lists(build_tree(_grid(3), ncrit=1))
    assert np.unique(lists.v_transfers).size == 7**3 - 3**3


@pytest.mark.parametrize("chunk", [1, 3, 1000])
def test_chunks_do_not_matter(chunk, monkeypatch):
    tree, lists = _tree_and_lists("corner-apart-6")
    monkeypatch.setattr("fmmloopy.octree.lists._CHUNK", chunk)
    chunked = build_lists(tree)
    for name in ("u", "v", "w", "x"):
        np.testing.assert_array_equal(getattr(lists, name).starts, getattr(chunked, name).starts)
        np.testing.assert_array_equal(getattr(lists, name).lists, getattr(chunked, name).lists)
    np.testing.assert_array_equal(lists.v_transfers, chunked.v_transfers)
    np.testing.assert_array_equal(lists.colleagues, chunked.colleagues)


def test_nbytes_counts_all_arrays():
    _, lists = _tree_and_lists("cube-same-6")
    csrs = (lists.u, lists.v, lists.w, lists.x, lists.mutual)
    arrays = [array for csr in csrs for array in (csr.starts, csr.lists)] + [lists.v_transfers, lists.colleagues]
    assert lists.nbytes == sum(array.nbytes for array in arrays)


def test_lists_beyond_32_bits_are_refused():
    with pytest.raises(ValueError, match="list U has 2147483649 entries, expected less than 2\\^31; raise ncrit"):
        make_csr("U", np.array([2**31, 1]), [])
