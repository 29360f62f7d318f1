"""Small boxes that leave the W and X lists: every pair stays covered once, and only those leave that should."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
from conftest import POINT_SETS

from fmmloopy.octree.lists import build_lists
from fmmloopy.octree.small_boxes import absorb_small_boxes
from fmmloopy.octree.tree import build_tree


def _ragged(rng, n):
    """A cube with a deep cluster where eight boxes of every level meet, and another beside it: long W and X lists."""
    deep = 0.5 + 1e-4 * (rng.random((n // 3, 3)) - 0.5)
    beside = [0.6, 0.5, 0.5] + 1e-3 * rng.random((n // 3, 3))
    return np.concatenate([rng.random((n - 2 * (n // 3), 3)), deep, beside])


MAKERS = {**POINT_SETS, "ragged": _ragged}
CASES = [f"{make}-{targets}-{ncrit}" for make in MAKERS for targets in ("same", "separate") for ncrit in (1, 10, 30)]


@functools.cache
def tree_and_lists(case):
    make, targets, ncrit = case.split("-")
    rng = np.random.default_rng(9)
    sources = MAKERS[make](rng, 300)
    tree = build_tree(sources, MAKERS[make](rng, 200) if targets == "separate" else None, int(ncrit))
    return tree, build_lists(tree)


EVERY_CASE = pytest.mark.parametrize("case", CASES)
EVERY_THRESHOLD = pytest.mark.parametrize("npoints", [0, 1, 8, 26, 10**6])


def pairs(csr):
    """Row and entry of each entry of all lists, as a set."""
    rows = np.repeat(np.arange(csr.starts.size - 1), np.diff(csr.starts))
    return set(zip(rows.tolist(), csr.lists.tolist(), strict=True))


@EVERY_CASE
@EVERY_THRESHOLD
def test_every_pair_of_points_is_covered_exactly_once(case, npoints):
    tree, lists = tree_and_lists(case)
    lists = absorb_small_boxes(tree, lists, npoints)
    covered = np.zeros((tree.ntargets, tree.nsources), int)
    for name in ("u", "v", "w", "x"):
        csr = getattr(lists, name)
        for box, (start, end) in enumerate(itertools.pairwise(csr.starts)):
            targets = slice(tree.box_target_starts[box], tree.box_target_ends[box])
            for source_box in csr.lists[start:end]:
                covered[targets, tree.box_source_starts[source_box] : tree.box_source_ends[source_box]] += 1
    np.testing.assert_array_equal(covered, 1)


@EVERY_CASE
@EVERY_THRESHOLD
def test_only_small_boxes_move(case, npoints):
    tree, before = tree_and_lists(case)
    after = absorb_small_boxes(tree, before, npoints)
    nsources = tree.box_source_ends - tree.box_source_starts
    ntargets = tree.box_target_ends - tree.box_target_starts
    small_w = {(row, entry) for row, entry in pairs(before.w) if nsources[entry] <= npoints}
    small_x = {(row, entry) for row, entry in pairs(before.x) if tree.is_leaf[row] and ntargets[row] <= npoints}
    assert pairs(after.w) == pairs(before.w) - small_w
    assert pairs(after.x) == pairs(before.x) - small_x
    assert pairs(after.u) == pairs(before.u) | small_w | small_x
    assert pairs(after.v) == pairs(before.v)


@EVERY_CASE
@EVERY_THRESHOLD
def test_form_of_the_lists(case, npoints):
    """Rows ascend and hold no box twice; U and W are lists of leaves; types are what kernels read."""
    tree, before = tree_and_lists(case)
    after = absorb_small_boxes(tree, before, npoints)
    for name in ("u", "w", "x"):
        csr = getattr(after, name)
        assert (csr.starts.dtype, csr.lists.dtype) == (np.int32, np.int32)
        assert (csr.starts.size, csr.starts[0], csr.starts[-1]) == (tree.nboxes + 1, 0, csr.lists.size)
        for start, end in itertools.pairwise(csr.starts):
            assert np.all(np.diff(csr.lists[start:end]) > 0)
        assert name == "x" or tree.is_leaf[np.flatnonzero(np.diff(csr.starts))].all()


def test_the_cases_have_something_to_move():
    """Else the tests above would say nothing about W and X."""
    tree, before = tree_and_lists("ragged-same-10")
    assert min(before.w.lists.size, before.x.lists.size) > 0
    some, everything = (absorb_small_boxes(tree, before, npoints) for npoints in (8, 10**6))
    assert 0 < some.w.lists.size < before.w.lists.size
    assert 0 < some.x.lists.size < before.x.lists.size
    assert everything.w.lists.size == 0
    assert everything.x.lists.size < before.x.lists.size


def test_the_lists_given_are_left_as_they_were():
    tree, before = tree_and_lists("ragged-same-10")
    copies = [(getattr(before, n).starts.copy(), getattr(before, n).lists.copy()) for n in "uvwx"]
    absorb_small_boxes(tree, before, 26)
    for name, (starts, lists) in zip("uvwx", copies, strict=True):
        np.testing.assert_array_equal(getattr(before, name).starts, starts)
        np.testing.assert_array_equal(getattr(before, name).lists, lists)
