"""Pairs of leaves that act on each other: each in one place, and no leaf in two units of a round."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from conftest import clustered, cube, line, sphere

from fmmloopy.octree.lists import build_lists
from fmmloopy.octree.mutual import LARGEST, make_rounds, pair_leaves
from fmmloopy.octree.small_boxes import absorb_small_boxes
from fmmloopy.octree.tree import build_tree


def rows_of(csr):
    return np.repeat(np.arange(len(csr.starts) - 1), csr.lengths)


@pytest.fixture(params=[cube, sphere, clustered, line], ids=lambda make: make.__name__)
def tree(request, rng):
    return build_tree(request.param(rng, 3000), None, 30)


@pytest.mark.parametrize("cores", [1, 3])
def test_every_near_pair_is_in_one_place(tree, cores):
    lists = absorb_small_boxes(tree, build_lists(tree), 40)
    paired = pair_leaves(tree, lists, cores)
    expected = Counter(zip(rows_of(lists.u).tolist(), lists.u.lists.tolist(), strict=True))
    mutual = list(zip(rows_of(paired.mutual).tolist(), paired.mutual.lists.tolist(), strict=True))
    alone = list(zip(rows_of(paired.u).tolist(), paired.u.lists.tolist(), strict=True))
    assert mutual, "nothing is paired"
    assert not [(a, b) for a, b in alone if a != b and tree.is_leaf[b] and cores == 1], "one-sided pairs of leaves"
    assert Counter([*alone, *mutual, *((b, a) for a, b in mutual)]) == expected


@pytest.mark.parametrize("cores", [1, 2, 7])
def test_units_of_a_round_share_no_leaf(tree, cores):
    pairs = pair_leaves(tree, build_lists(tree), 1).mutual
    rounds = make_rounds(tree, pairs, cores)
    found = Counter()
    for each in rounds:
        assert each.unit_starts[0] == 0
        assert each.unit_starts[-1] == len(each.targets) == len(each.sources)
        assert (np.diff(each.unit_starts) > 0).all()
        units = zip(each.unit_starts[:-1], each.unit_starts[1:], strict=True)
        leaves = [set(each.targets[a:b].tolist()) | set(each.sources[a:b].tolist()) for a, b in units]
        assert sum(map(len, leaves)) == len(set().union(*leaves))
        found.update(zip(each.targets.tolist(), each.sources.tolist(), strict=True))
    assert found == Counter(zip(rows_of(pairs).tolist(), pairs.lists.tolist(), strict=True))


def test_large_leaves_are_not_paired(rng):
    """Another core would wait for a unit with such a leaf."""
    points = np.concatenate([rng.random((900, 3)), np.full((100, 3), 0.123)])
    tree = build_tree(points, None, 20)
    nsources = tree.box_source_ends - tree.box_source_starts
    paired = pair_leaves(tree, build_lists(tree), 1)
    both = np.concatenate([rows_of(paired.mutual), paired.mutual.lists])
    assert nsources.max() > 1000 / LARGEST >= nsources[both].max()


def test_leaves_without_pairs_make_no_rounds(rng):
    tree = build_tree(cube(rng, 20), None, 30)
    assert make_rounds(tree, pair_leaves(tree, build_lists(tree), 2).mutual, 2) == []
