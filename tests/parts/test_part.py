"""Parts of a tree: their boxes and lists are those of the whole tree, and each pair of points is in one part."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from conftest import POINT_SETS, clustered, cube, slow_but, sphere

from fmmloopy.octree.lists import build_lists
from fmmloopy.octree.near_pairs import least_distance
from fmmloopy.octree.small_boxes import absorb_small_boxes
from fmmloopy.octree.tree import DEEPEST_LEVEL, grow_tree, sort_points
from fmmloopy.parts import part as part_module
from fmmloopy.parts import shares as shares_module
from fmmloopy.parts.part import build_part
from fmmloopy.parts.shares import END, overlapping, share_out
from fmmloopy.parts.team import Team
from fmmloopy.parts.transport import Board, in_threads

NCRIT, SURFACE = 20, 26
LISTS = ("u", "v", "w", "x")


def cut(rng, points, size):
    """Return points in pieces of any size, some of them empty, in any order."""
    places = np.sort(rng.integers(0, len(points) + 1, size - 1))
    return np.split(points[rng.permutation(len(points))], places)


def build(sources, targets=None, speeds=None, reduced_from=1000):
    """Build parts of points that are given in pieces."""
    size = len(sources)
    weights = np.ones(size) if speeds is None else np.array(speeds, np.float64)

    def call(thread):
        shares = share_out(
            thread, sources[thread.rank], None if targets is None else targets[thread.rank], np.dtype("f8"), weights
        )
        return build_part(
            Team(thread),
            shares,
            ncrit=NCRIT,
            max_level=DEEPEST_LEVEL,
            npoints=SURFACE,
            searched=True,
            coincident=True,
            speeds=weights,
            reduced_from=reduced_from,
        )

    return in_threads(Board(size), call)


def whole(sources, targets=None):
    points = sort_points(sources, targets)
    tree = grow_tree(points, NCRIT, split_coincident=False)
    return points, tree, absorb_small_boxes(tree, build_lists(tree), SURFACE)


def name(tree, box):
    return int(tree.box_levels[box]), int(tree.box_keys[box])


def rows(tree, csr):
    """Return the entries of each row that has any, by names of boxes."""
    return {
        name(tree, row): {name(tree, entry) for entry in csr.lists[csr.starts[row] : csr.starts[row + 1]]}
        for row in np.flatnonzero(csr.lengths)
    }


CASES = slow_but(
    lambda points, size: (points in ("sphere", "clustered") and size == 3) or size == 7,
    [(points, size) for points in POINT_SETS for size in (1, 2, 3, 4, 7)],
)


@pytest.mark.parametrize(("points", "size"), CASES)
def test_boxes_and_lists_are_those_of_the_whole_tree(points, size, rng):
    sources = POINT_SETS[points](rng, 1500)
    points, tree, lists = whole(sources)
    parts = build(cut(rng, sources, size))
    for which in LISTS:
        found = {}
        for part in parts:
            for row, entries in rows(part.tree, getattr(part.lists, which)).items():
                assert found.setdefault(row, entries) == entries  # boxes with targets in several parts
        assert found == rows(tree, getattr(lists, which))
    known = {name(tree, box): box for box in range(tree.nboxes)}
    for part in parts:
        for box in np.flatnonzero(part.tree.box_levels > 0):
            same = known[name(part.tree, box)]
            assert part.tree.is_leaf[box] == tree.is_leaf[same]
            assert part.tree.has_sources[box] == tree.has_sources[same]
    assert {part.distance for part in parts} == {least_distance(points, tree)}


def covered(parts, nsources, ntargets):
    """Count how often each pair of points is covered: by U, or by the meeting of a V, W or X list.

    Points of a part are known by the rows that their callers have.
    """
    count = np.zeros((ntargets, nsources), np.int64)
    sources_below = {}
    for part in parts:  # all sources of a box, from the parts that have them
        tree, shares = part.tree, part.shares
        first = tree.box_keys << np.uint64(0)
        shift = (3 * (DEEPEST_LEVEL - tree.box_levels)).astype(np.uint64)
        starts = np.searchsorted(shares.sources.keys, first << shift)
        ends = np.searchsorted(shares.sources.keys, (first + np.uint64(1)) << shift)
        for box in range(tree.nboxes):
            numbers = shares.sources.home["row"][starts[box] : ends[box]]
            sources_below.setdefault((id(part), name(tree, box)), set(map(int, numbers)))
    everywhere = {}
    for (_, box), numbers in sources_below.items():
        everywhere.setdefault(box, set()).update(numbers)
    for part in parts:
        tree, targets = part.tree, part.shares.targets
        for row in range(tree.nboxes):
            below = targets.home["row"][tree.box_target_starts[row] : tree.box_target_ends[row]]
            for which in LISTS:
                csr = getattr(part.lists, which)
                for entry in csr.lists[csr.starts[row] : csr.starts[row + 1]]:
                    numbers = sorted(everywhere[name(tree, entry)])
                    count[np.ix_(below, numbers)] += 1
    return count


@pytest.mark.parametrize("seed", range(6))
def test_each_pair_of_points_is_covered_exactly_once(seed):
    """For any division of any points, with any speeds."""
    rng = np.random.default_rng(seed)
    make = (cube, sphere, clustered)[seed % 3]
    sources = make(rng, 260)
    targets = None if seed % 2 else make(rng, 150)
    size = int(rng.integers(2, 7))

    def numbered(points):
        places = np.sort(rng.integers(0, len(points) + 1, size - 1))
        return np.split(points, places), places

    pieces, starts = numbered(sources)
    others, target_starts = (None, starts) if targets is None else numbered(targets)
    parts = build(pieces, others, speeds=rng.uniform(0.1, 3, size))
    for part in parts:  # rows of callers -> numbers in all points
        for side, at in ((part.shares.sources, starts), (part.shares.targets, target_starts)):
            if side.home.flags.writeable:
                side.home["row"] += np.append(0, at)[side.home["part"]].astype(np.uint32)
                side.home.flags.writeable = False
    ntargets = len(sources) if targets is None else len(targets)
    assert (covered(parts, len(sources), ntargets) == 1).all()


def test_points_are_shared_out_by_speed(rng):
    sources = cube(rng, 8000)
    parts = build(np.split(sources, 4), speeds=[1, 1, 2, 4])
    shares = np.array([len(part.shares.sources.keys) for part in parts]) / 8000
    # A leaf has up to 20 of 8,000 points, and leaves with fewer take more time for each.
    assert shares == pytest.approx([1 / 8, 1 / 8, 1 / 4, 1 / 2], abs=0.03)


def test_more_parts_than_leaves(rng):
    sources = cube(rng, 10)
    parts = build([sources, *[np.empty((0, 3))] * 5])
    assert sorted(len(part.shares.sources.keys) for part in parts) == [0, 0, 0, 0, 0, 10]
    assert sum(part.tree.nboxes for part in parts) == 6  # a part without points has a root


def test_no_points_at_all():
    nothing = np.empty((0, 3))
    with pytest.raises(ValueError, match=r"sources has shape \(0, 3\) in all parts, expected at least one point"):
        build([nothing, nothing])


def test_more_points_than_kernels_count(rng, monkeypatch):
    monkeypatch.setattr(part_module, "MOST_POINTS", 600)
    build(np.split(cube(rng, 600), 2))
    with pytest.raises(
        ValueError, match="a part has .* sources with those of its neighbours, expected 600 at most; use"
    ):
        build(np.split(cube(rng, 1100), 2))
    with pytest.raises(ValueError, match=r"a part has \d+ targets, expected 600 at most; use more parts"):
        build(np.split(cube(rng, 1400), 2))
    monkeypatch.setattr(shares_module, "MOST_GIVEN", 600)
    with pytest.raises(ValueError, match="a part is given 700 points, expected 600 at most"):
        build(np.split(cube(rng, 1400), 2))


@pytest.mark.parametrize("reduced_from", [1000, 1])
def test_multipoles_of_all_parts_add_up(reduced_from, rng):
    """A multipole stands for the sources below its box: here it is their sum of charges."""
    sources, charges = clustered(rng, 1200), rng.integers(1, 100, 1200)
    starts = np.array([0, 100, 500, 900, 1200])
    pieces = [slice(a, b) for a, b in itertools.pairwise(starts)]
    parts = build([sources[piece] for piece in pieces], reduced_from=reduced_from)
    _, tree, _ = whole(sources)
    sums = np.append(0, np.cumsum(charges[tree.source_order]))
    expected = {
        name(tree, b): sums[tree.box_source_ends[b]] - sums[tree.box_source_starts[b]] for b in range(tree.nboxes)
    }

    def call(thread):
        part = parts[thread.rank]
        own = part.sources.bring_in(charges[pieces[thread.rank], None].astype(np.float64))[:, 0]
        below = np.append(0, np.cumsum(own))
        keys = part.shares.sources.keys
        first = part.tree.box_keys << (3 * (DEEPEST_LEVEL - part.tree.box_levels)).astype(np.uint64)
        last = (part.tree.box_keys + np.uint64(1)) << (3 * (DEEPEST_LEVEL - part.tree.box_levels)).astype(np.uint64)
        values = np.full((part.tree.nboxes + 1, 1, 1), np.nan)
        mine = part.tree.gathers
        values[:-1, 0, 0][mine] = (below[np.searchsorted(keys, last)] - below[np.searchsorted(keys, first)])[mine]
        exchanged = values[part.exchanged]
        part.exchange_multipoles(exchanged)
        values[part.exchanged] = exchanged
        return values[:, 0, 0]

    for part, values in zip(parts, in_threads(Board(4), call), strict=True):
        read = np.unique(np.concatenate([part.lists.v.lists, part.lists.w.lists]))
        assert len(read)
        assert [values[box] for box in read] == [expected[name(part.tree, box)] for box in read]


def test_ranges_that_overlap_parts():
    splitters = np.array([0, 10, 10, 20, END], np.uint64)
    first, last = np.array([0, 9, 12, 25], np.uint64), np.array([5, 11, 13, 30], np.uint64)
    parts, which = overlapping(first, last, splitters)
    found = list(zip(which.tolist(), parts.tolist(), strict=True))
    assert {(0, 0), (1, 0), (1, 2), (2, 2), (3, 3)} <= set(found)
    assert set(found) - {(1, 1)} == {(0, 0), (1, 0), (1, 2), (2, 2), (3, 3)}  # part 1 is empty
