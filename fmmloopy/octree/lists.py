"""Interaction lists of a balanced octree: which boxes act on which, and how.

Boxes are adjacent if their closed cubes share a point. The colleagues of a box are the adjacent boxes of its level,
itself included. For a target box B with parent P (L. Ying, G. Biros, D. Zorin, "A kernel-independent adaptive fast
multipole algorithm in two and three dimensions", J. Comput. Phys. 196, 2004):

====  ==============  ============================================================  ====================
list  B               holds                                                         acts through
====  ==============  ============================================================  ====================
U     a leaf          the leaves adjacent to B, of any level, and B itself          P2P
V     any box         children of colleagues of P that are not adjacent to B        M2L
W     a leaf          children of colleagues of B that are not adjacent to B        M2P
X     any box         leaves that are colleagues of P and not adjacent to B         P2L
====  ==============  ============================================================  ====================

A source box is in W of a target leaf exactly if, with the roles exchanged, the leaf is in X of that box. For each leaf
B, U and W of B with V and X of B and its ancestors cover every source exactly once.

The balance of the tree (see ``tree``) is what makes these lists complete: a leaf adjacent to P is of the level of P at
the coarsest, and a child of a colleague of the leaf B that is adjacent to B is itself a leaf.

Maximum lengths of the lists, for any points:

- V: the children of the 27 colleagues of P are 6^3 boxes, 3^3 of which are B and its neighbours: 216 - 27 = 189.
- U: each of the 26 neighbouring places of B's level is part of a coarser leaf, a leaf, or split into children of which
  4 are adjacent to B across a face, 2 across an edge, 1 across a corner. All split is the most, with 6 faces, 12 edges
  and 8 corners: 6 * 4 + 12 * 2 + 8 * 1 = 56, and B itself: 57.
- W: the children of the 26 neighbours of B that are not among those 56: 26 * 8 - 56 = 152.
- X: of the 27 colleagues of P, those in the octant of B, P among them, are adjacent to B: 27 - 8 = 19.

All four are attained, as the tests show. The paper on PyExaFMM states 189, 19, 148 and 60 for V, X, W and U; by the
counts above no U list needs 60, and 148 is too few for W.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmmloopy.common.cores import map_on_cores
from fmmloopy.octree.tree import Tree

MAX_U = 57
"""Most entries in a row of U."""

MAX_V = 189
"""Most entries in a row of V."""

MAX_W = 152
"""Most entries in a row of W."""

MAX_X = 19
"""Most entries in a row of X."""

_CHUNK = 1024  # boxes at a time: so much work that threads seldom wait for each other

# Geometry of a box P, its colleague C in direction d, child o of P and child c of C; in widths of the children.
_DIRECTIONS = np.array([(x, y, z) for z in (-1, 0, 1) for y in (-1, 0, 1) for x in (-1, 0, 1)])
_OCTANTS = np.array([(x, y, z) for z in (0, 1) for y in (0, 1) for x in (0, 1)])
_OFFSETS = 2 * _DIRECTIONS[:, None, None] + _OCTANTS - _OCTANTS[:, None]  # c minus o: (27, 8, 8, 3), in -3 to 3
_TRANSFERS = ((_OFFSETS + 3) @ (1, 7, 49)).astype(np.int32)  # (27, 8, 8)
_CHILD_NEAR_CHILD = (abs(_OFFSETS) <= 1).all(axis=3)  # (27, 8, 8): c is adjacent to o
_CHILD_NEAR_BOX = _CHILD_NEAR_CHILD.any(axis=1)  # (27, 8): c is adjacent to P
_BOX_NEAR_CHILD = _CHILD_NEAR_CHILD.any(axis=2)  # (27, 8): C is adjacent to o

# Child o of P has its colleague in direction d in this column of the table (27 * 8) of the children of P's colleagues.
_NEIGHBOURS = _OCTANTS[:, None] + _DIRECTIONS
_COLLEAGUE_COLUMNS = (8 * (((_NEIGHBOURS >> 1) + 1) @ (1, 3, 9)) + (_NEIGHBOURS & 1) @ (1, 2, 4)).ravel()

# The eight directions of colleagues of P that are adjacent to child o, P's own included.
_NEAR_DIRECTIONS = np.array([np.flatnonzero(_BOX_NEAR_CHILD[:, octant]) for octant in range(8)])


@dataclass(frozen=True, eq=False)
class CSR:
    """A ragged table of box numbers: one row for each box, ascending within a row.

    Attributes:
        starts: shape (nrows + 1,), int32: row i is lists[starts[i]:starts[i + 1]].
        lists: shape (nentries,), int32: box numbers.
    """

    starts: NDArray[np.int32]
    lists: NDArray[np.int32]

    @property
    def lengths(self) -> NDArray[np.int32]:
        """Number of entries of each row: shape (nrows,), int32."""
        return np.diff(self.starts)

    @property
    def nbytes(self) -> int:
        """Bytes in both arrays."""
        return self.starts.nbytes + self.lists.nbytes


@dataclass(frozen=True, eq=False)
class InteractionLists:
    """The U, V, W and X lists of all boxes of a tree, and their colleagues.

    Rows are indexed by target box, entries are source boxes. Boxes without targets have empty rows, and boxes without
    sources are not entries of any row; neither is true for ``colleagues``.

    Attributes:
        u: leaves adjacent to each leaf, the leaf itself included, but for those in ``mutual``.
        v: for each box, boxes of its level that are children of its parent's colleagues and not adjacent to it.
        w: for each leaf, children of its colleagues that are not adjacent to it.
        x: for each box, leaves that are colleagues of its parent and not adjacent to it.
        v_transfers: shape (v.lists.size,), int32: the transfer vector of each entry of ``v``. With k the anchor of the
            source box minus that of the target box, -3 to 3 along each axis, it is (k0+3) + 7 (k1+3) + 49 (k2+3).
        colleagues: shape (nboxes, 27), int32: adjacent boxes of the same level, -1 where there is none. With a the
            direction, -1 to 1 along each axis, the column is (a0+1) + 3 (a1+1) + 9 (a2+1); the box itself is in 13.
        mutual: pairs of leaves that act on each other, each in the row of the lower number; empty unless
            `fmmloopy.octree.mutual.pair_leaves` has moved them here.
    """

    u: CSR
    v: CSR
    w: CSR
    x: CSR
    v_transfers: NDArray[np.int32]
    colleagues: NDArray[np.int32]
    mutual: CSR

    @property
    def nbytes(self) -> int:
        """Bytes in all arrays."""
        lists = sum(csr.nbytes for csr in (self.u, self.v, self.w, self.x, self.mutual))
        return lists + self.v_transfers.nbytes + self.colleagues.nbytes


@dataclass(frozen=True, eq=False)
class _Boxes:
    """The arrays of a tree that the lists need. The last row of each array is for missing boxes, number -1."""

    children: NDArray[np.int32]
    colleagues: NDArray[np.int32]
    have_sources: NDArray[np.bool_]
    have_targets: NDArray[np.bool_]
    are_source_leaves: NDArray[np.bool_]


def build_lists(tree: Tree, parents: NDArray[np.integer[Any]] | None = None) -> InteractionLists:
    """Build the interaction lists and the colleagues of all boxes, or of some.

    Args:
        tree: as ``build_tree`` returns it; the lists are complete only because it is balanced.
        parents: numbers of boxes that are split: only their children get rows, the rows of all others are empty, and
            only they, their ancestors and the children of these get colleagues. None for all boxes.

    Returns:
        The lists.

    Raises:
        ValueError: a list with 2^31 entries or more.
    """
    nowhere = np.zeros(1, np.bool_)
    have_sources = np.append(tree.box_source_starts < tree.box_source_ends, nowhere)
    children = np.concatenate([tree.box_children, np.full((1, 8), -1, np.int32)])
    split = np.flatnonzero(~tree.is_leaf)
    leaves = np.flatnonzero(tree.is_leaf & (tree.box_target_starts < tree.box_target_ends))
    above = split
    if parents is not None:
        split, above = np.unique(parents), _with_ancestors(tree, parents)
        leaves = leaves[np.isin(tree.box_parents[leaves], split)]
    boxes = _Boxes(
        children=children,
        colleagues=_find_colleagues(tree, children, above),
        have_sources=have_sources,
        have_targets=np.append(tree.box_target_starts < tree.box_target_ends, nowhere),
        are_source_leaves=have_sources & np.append(tree.is_leaf, nowhere),
    )
    v, x, transfers = _find_far(tree, boxes, split)
    u, w = _find_near(tree, boxes, leaves)
    none = CSR(np.zeros(tree.nboxes + 1, np.int32), np.empty(0, np.int32))
    return InteractionLists(u, v, w, x, transfers, boxes.colleagues[:-1], none)


def _with_ancestors(tree: Tree, boxes: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Return the numbers of boxes and of all their ancestors, ascending."""
    wanted = np.zeros(tree.nboxes, np.bool_)
    while boxes.size:
        wanted[boxes] = True
        boxes = tree.box_parents[boxes]
        boxes = boxes[boxes >= 0]
    return np.flatnonzero(wanted)


def _chunk_by_level(tree: Tree, parents: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Yield numbers of boxes, which are ascending, a few at a time and of one level."""
    level_starts = np.searchsorted(parents, tree.level_starts)
    for level in range(tree.nlevels):
        for start in range(level_starts[level], level_starts[level + 1], _CHUNK):
            yield parents[start : min(start + _CHUNK, level_starts[level + 1])]


def _find_colleagues(tree: Tree, children: NDArray[np.int32], split: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return the colleagues of children, shape (nboxes + 1, 27): they are children of their parent's colleagues."""
    colleagues = np.full((tree.nboxes + 1, 27), -1, np.int32)
    colleagues[0, 13] = 0
    for parents in _chunk_by_level(tree, split):
        own = children[parents]
        candidates = children[colleagues[parents]].reshape(-1, 216)
        found = candidates.take(_COLLEAGUE_COLUMNS, axis=1).reshape(-1, 8, 27)
        colleagues[own[own >= 0]] = found[own >= 0]
    return colleagues


def _sort_colleagues(colleagues: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sort each row by box number.

    Args:
        colleagues: shape (n, 27).

    Returns:
        Numbers and directions, each of shape (n, width). The -1 come first in a row, and ``width`` is the number of
        colleagues in the longest row.
    """
    packed = (colleagues.astype(np.int64) << 5) | np.arange(27)
    packed.sort(axis=1)
    packed = packed[:, (packed >= 0).any(axis=0)]
    return packed >> 5, packed & 31


def _as_words(flags: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """View the flags of eight children, the last axis, as one word, to combine eight at once."""
    return np.ascontiguousarray(flags).view(np.uint64)[..., 0]


def _find_far(tree: Tree, boxes: _Boxes, split: NDArray[np.int64]) -> tuple[CSR, CSR, NDArray[np.int32]]:
    """Return V, X and the transfer vectors of V.

    The eight children of a box P choose from the same candidates: the colleagues of P, and their children. Children of
    consecutive boxes are numbered consecutively, so flags ordered by (P, child of P, colleague, child of colleague),
    with the colleagues sorted, are rows in the order of the boxes, with ascending entries.
    """
    child_far_child = _as_words(~_CHILD_NEAR_CHILD)  # (27, 8)
    v_lengths, x_lengths = np.zeros((2, tree.nboxes), np.int64)

    def find(parents: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
        """Return the entries of the children of some boxes: V, X and transfer vectors."""
        own = boxes.children[parents]
        numbers, directions = _sort_colleagues(boxes.colleagues[parents])
        candidates = boxes.children[numbers]
        n, width = numbers.shape
        wanted = boxes.have_targets[own][:, :, None]

        words = np.zeros((n, 8, width), np.uint64)
        far = child_far_child[directions].transpose(0, 2, 1)
        np.bitwise_and(far, _as_words(boxes.have_sources[candidates])[:, None], out=words, where=wanted)
        counts = words.sum(axis=2).view(np.uint8).reshape(n, 8, 8)  # of each child: no byte overflows, width is <= 27
        v_lengths[own[own >= 0]] = counts.sum(axis=2)[own >= 0]
        pair, child = np.divmod(np.flatnonzero(words.view(np.bool_)), 8)
        target, colleague = np.divmod(pair, width)
        colleague += target // 8 * width
        v = candidates.ravel()[colleague * 8 + child]
        transfers = _TRANSFERS.ravel()[directions.ravel()[colleague] * 64 + target % 8 * 8 + child]

        flags = ~_BOX_NEAR_CHILD[directions].transpose(0, 2, 1) & boxes.are_source_leaves[numbers][:, None] & wanted
        x_lengths[own[own >= 0]] = flags.sum(axis=2)[own >= 0]
        return v, np.broadcast_to(numbers[:, None], flags.shape)[flags].astype(np.int32), transfers

    v, x, transfers = _joined(3, map_on_cores(find, _chunk_by_level(tree, split)))
    return make_csr("V", v_lengths, v), make_csr("X", x_lengths, x), transfers


def _find_near(tree: Tree, boxes: _Boxes, leaves: NDArray[np.int64]) -> tuple[CSR, CSR]:
    """Return U and W.

    The leaves adjacent to a leaf are colleagues of its parent, its own colleagues, or children of these: one level
    coarser, its own, and one finer. Numbers ascend with the level, so the three come in ascending order.
    """
    u_lengths, w_lengths = np.zeros((2, tree.nboxes), np.int64)

    def find(chunk: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Return the entries of some leaves: U and W."""
        octants = (tree.box_keys[chunk] & np.uint64(7)).astype(np.int64)
        coarser = boxes.colleagues[tree.box_parents[chunk, None], _NEAR_DIRECTIONS[octants]]
        coarser.sort(axis=1)
        numbers, directions = _sort_colleagues(boxes.colleagues[chunk])
        finer = boxes.children[numbers]
        have_sources, near = boxes.have_sources[finer], _CHILD_NEAR_BOX[directions]

        candidates = (coarser, numbers, finer.reshape(chunk.size, -1))
        accepted = (boxes.are_source_leaves[coarser], boxes.are_source_leaves[numbers], have_sources & near)
        flags = np.concatenate([a.reshape(chunk.size, -1) for a in accepted], axis=1)
        u_lengths[chunk] = flags.sum(axis=1)
        u = np.concatenate(candidates, axis=1)[flags].astype(np.int32)

        flags = have_sources & ~near
        w_lengths[chunk] = flags.sum(axis=(1, 2))
        return u, finer[flags]

    u, w = _joined(2, map_on_cores(find, (leaves[s : s + _CHUNK] for s in range(0, leaves.size, _CHUNK))))
    return make_csr("U", u_lengths, u), make_csr("W", w_lengths, w)


def _joined(count: int, pieces: Sequence[tuple[NDArray[np.int32], ...]]) -> list[NDArray[np.int32]]:
    """Join the parts of several arrays, which come in pieces; there may be none."""
    return [np.concatenate([np.empty(0, np.int32), *(piece[k] for piece in pieces)]) for k in range(count)]


def make_csr(name: str, lengths: NDArray[np.int64], entries: NDArray[np.integer[Any]]) -> CSR:
    """Make a table of rows from its entries.

    Args:
        name: of the list, for the error.
        lengths: shape (nrows,), entries of each row.
        entries: of all rows, one after the other.

    Raises:
        ValueError: there are more than 32-bit numbers can count.
    """
    starts = np.concatenate([[0], np.cumsum(lengths)])
    if starts[-1] >= 2**31:
        raise ValueError(f"list {name} has {starts[-1]} entries, expected less than 2^31; raise ncrit for fewer boxes")
    return CSR(starts.astype(np.int32), entries.astype(np.int32, copy=False))


def entries_of(csr: CSR, rows: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the places of the entries of some rows in ``csr.lists``, and for each the place of its row in ``rows``."""
    lengths = csr.lengths[rows].astype(np.intp)
    ends = np.cumsum(lengths)
    places = np.repeat(csr.starts[rows] - (ends - lengths), lengths)
    places += np.arange(len(places))
    return places, np.repeat(np.arange(len(rows)), lengths)
