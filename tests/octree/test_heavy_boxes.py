"""Balance: boxes with much work are cut into pieces that cover the same pairs, and nothing else changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conftest import cube, devices, slow

import fmmloopy as fl
from fmmloopy.execution.device import CPU_LIMITS
from fmmloopy.octree.heavy_boxes import cut_heavy_boxes
from fmmloopy.octree.lists import CSR, build_lists
from fmmloopy.octree.tree import build_tree

SHARE, TARGETS = CPU_LIMITS.heavy_share, CPU_LIMITS.piece_targets


def lumpy(rng, n):
    """Half of the points in the cube, the others in two lumps: leaves of very different sizes, whatever ncrit is."""
    lumps = [centre + 1e-9 * rng.random((size, 3)) for centre, size in ((0.3, n // 3), (0.8, n - n // 2 - n // 3))]
    return np.concatenate([rng.random((n // 2, 3)), *lumps])


def lumpy_tree(rng, n=6000):
    return build_tree(lumpy(rng, n), None, 20, max_level=5)


def work_of(starts, ends, csr: CSR, rows, sources) -> dict:
    """Return {target: sorted entries of its lists}, and the work of each row."""
    entries = {}
    for start, end, row in zip(starts, ends, rows, strict=True):
        for target in range(start, end):
            assert target not in entries, "in one piece"
            entries[target] = csr.lists[csr.starts[row] : csr.starts[row + 1]].tolist()
    return entries


@pytest.mark.parametrize("by_sources", [True, False])
def test_pieces_cover_what_the_boxes_did(by_sources, rng):
    tree = lumpy_tree(rng)
    u = build_lists(tree).u
    boxes = np.flatnonzero(u.lengths)
    nsources = tree.box_source_ends - tree.box_source_starts
    pieces = cut_heavy_boxes(tree, boxes, u, nsources if by_sources else None, SHARE, TARGETS)
    before = work_of(tree.box_target_starts[boxes], tree.box_target_ends[boxes], u, boxes, nsources)
    after = work_of(pieces.starts, pieces.ends, pieces.csr, range(len(pieces.starts)), nsources)
    # With the same entries in the same order, so that sums have the same bits.
    assert after == before
    assert len(before) == tree.ntargets


def test_pieces_are_small_and_last(rng):
    tree = lumpy_tree(rng)
    u = build_lists(tree).u
    boxes = np.flatnonzero(u.lengths)
    nsources = tree.box_source_ends - tree.box_source_starts
    pieces = cut_heavy_boxes(tree, boxes, u, nsources, SHARE, TARGETS)
    sizes = pieces.ends - pieces.starts
    per_target = np.add.reduceat(nsources[pieces.csr.lists], pieces.csr.starts[:-1])
    work = per_target * sizes
    assert ((work <= SHARE * work.sum()) | (sizes <= TARGETS)).all()
    ranges = list(zip(tree.box_target_starts[boxes], tree.box_target_ends[boxes], strict=True))
    found = list(zip(pieces.starts, pieces.ends, strict=True))
    whole = [one for one in ranges if one in set(found)]
    assert 0 < len(whole) < len(ranges)
    assert found[: len(whole)] == whole
    assert ((sizes % TARGETS == 0) | np.isin(pieces.ends, tree.box_target_ends[boxes])).all()


def test_boxes_alike_stay_whole(rng):
    tree = build_tree(cube(rng, 20_000), None, 10)
    u = build_lists(tree).u
    boxes = np.flatnonzero(u.lengths)
    nsources = tree.box_source_ends - tree.box_source_starts
    assert len(boxes) > 2 / SHARE
    assert cut_heavy_boxes(tree, boxes, u, nsources, SHARE, TARGETS) is None


def test_no_boxes_at_all(rng):
    tree = build_tree(cube(rng, 10), None, 20)
    empty = CSR(np.zeros(tree.nboxes + 1, np.int32), np.zeros(0, np.int32))
    assert cut_heavy_boxes(tree, np.zeros(0, np.intp), empty, None, SHARE, TARGETS) is None


@pytest.mark.parametrize(
    "device", [devices()[0], *(pytest.param(*d.values, marks=[slow, *d.marks], id=d.id) for d in devices()[1:])]
)
def test_no_bit_changes(device, rng):
    """Every target has the same sums in the same order; with gradients, and of W lists too."""
    points = np.concatenate([0.3 + 1e-9 * rng.random((700, 3)), rng.random((800, 3)) ** 3])
    charges = rng.uniform(-1, 1, len(points))
    results = []
    for share in (SHARE, 1.0):
        limits = replace(device.limits, heavy_share=share)
        fmm = fl.Fmm(points, order=3, ncrit=30, precision="single", device=replace(device, limits=limits))
        results.append((fmm.evaluate(charges), *fmm.evaluate(charges, gradient=True)))
    assert fmm.tree.is_leaf.any()
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)
