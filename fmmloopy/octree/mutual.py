"""Pairs of leaves that act on each other: which they are, and an order in which several cores can work on them.

Where the targets are the sources, the U list of a leaf A has a leaf B exactly if that of B has A, also after boxes with
few points have moved there from W and X lists. Such a pair of leaves needs each pair of points once, but adds to the
potentials of both leaves. So the leaves are cut into chunks of similar work along the Morton curve, and pairs are
grouped into *units*: those within a chunk, and those between two chunks. A *round* has units without a common chunk, so
that these can run at the same time; the first has all chunks, the others follow from a colouring of the graph of chunks
whose leaves touch, by the greedy algorithm, the largest units first.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmmloopy.octree.lists import CSR, InteractionLists, make_csr
from fmmloopy.octree.tree import Tree

LARGEST = 16
"""Leaves with more than a core's share of all points divided by this are not paired: other cores would wait for a unit
with such a leaf."""

CHUNKS = 4
"""Chunks for each core: few, since pairs between chunks take more rounds, and enough for an even end of each round."""


@dataclass(frozen=True)
class Round:
    """Pairs of leaves in units that have no leaf in common.

    Attributes:
        unit_starts: shape (nunits + 1,), int32: where the pairs of each unit start.
        targets, sources: shape (npairs,), int32: the leaves of each pair.
    """

    unit_starts: NDArray[np.int32]
    targets: NDArray[np.int32]
    sources: NDArray[np.int32]


def pair_leaves(tree: Tree, lists: InteractionLists, cores: int) -> InteractionLists:
    """Move pairs of leaves that act on each other from U lists to `InteractionLists.mutual`.

    Args:
        tree: a tree whose targets are its sources, or those of them that are in boxes with targets.
        lists: its lists, as `absorb_small_boxes` returns them; if only some rows are there, so are only the pairs in
            which theirs is the lower number.
        cores: cores of the device.
    """
    rows = np.repeat(np.arange(len(lists.u.starts) - 1, dtype=np.int32), lists.u.lengths)
    entries, nsources = lists.u.lists, tree.box_source_ends - tree.box_source_starts
    is_paired = tree.is_leaf & tree.has_targets & tree.has_sources & (nsources <= tree.nsources / (LARGEST * cores))
    both = is_paired[rows] & is_paired[entries] & (rows != entries)
    once = both & (entries > rows)

    def of(chosen: NDArray[np.bool_], name: str) -> CSR:
        return make_csr(name, np.bincount(rows[chosen], minlength=tree.nboxes), entries[chosen])

    return replace(lists, u=of(~both, "U"), mutual=of(once, "of pairs"))


def make_rounds(tree: Tree, pairs: CSR, cores: int) -> list[Round]:
    """Divide pairs of leaves into rounds of units.

    Args:
        tree: the tree.
        pairs: from `pair_leaves`.
        cores: cores of the device.
    """
    if not pairs.lists.size:
        return []
    rows, entries = np.repeat(np.arange(tree.nboxes, dtype=np.int32), pairs.lengths), pairs.lists
    nsources = (tree.box_source_ends - tree.box_source_starts).astype(np.float64)
    work = nsources[rows] * nsources[entries]
    chunks = _cut(tree, np.bincount(rows, work, tree.nboxes) + np.bincount(entries, work, tree.nboxes), CHUNKS * cores)
    low, high = np.minimum(chunks[rows], chunks[entries]), np.maximum(chunks[rows], chunks[entries])
    count = CHUNKS * cores
    units, unit_of = np.unique(low * count + high, return_inverse=True)
    of_unit = np.bincount(unit_of, work)
    rounds = _colour(units // count, units % count, of_unit)
    order = np.lexsort((unit_of, -of_unit[unit_of], rounds[unit_of]))
    found = []
    for number in range(int(rounds.max()) + 1):
        here = order[rounds[unit_of[order]] == number]
        first = np.flatnonzero(np.diff(unit_of[here], prepend=-1))
        starts = np.append(first, len(here)).astype(np.int32)
        found.append(Round(starts, rows[here], entries[here]))
    return found


def _cut(tree: Tree, work: NDArray[Any], count: int) -> NDArray[np.int64]:
    """Return the chunk of each leaf: consecutive ones along the Morton curve, of similar work."""
    leaves = np.flatnonzero(work > 0)
    leaves = leaves[np.argsort(tree.box_source_starts[leaves], kind="stable")]
    middle = np.cumsum(work[leaves]) - work[leaves] / 2
    chunks = np.zeros(tree.nboxes, np.int64)
    chunks[leaves] = np.minimum(middle / work.sum() * count, count - 1).astype(np.int64)
    return chunks


def _colour(low: NDArray[np.int64], high: NDArray[np.int64], work: NDArray[Any]) -> NDArray[np.int64]:
    """Return the round of each unit, given its two chunks: 0 for those of one chunk."""
    rounds, taken = np.zeros(len(low), np.int64), [set[int]()]
    for unit in np.argsort(-work, kind="stable"):
        chunks = {int(low[unit]), int(high[unit])}
        if len(chunks) == 2:
            free = (number for number in range(1, len(taken)) if not taken[number] & chunks)
            rounds[unit] = number = next(free, len(taken))
            taken += [set()] * (number == len(taken))
            taken[number] |= chunks
    return rounds
