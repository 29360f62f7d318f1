"""Split boxes with much work into pieces, so that all cores are busy to the end of a launch.

One core works on one box. Most trees have thousands of boxes, none with more than its share; but where points are
denser than the deepest level resolves, a leaf may have thousands of points, and a fifth of the work of P2P.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmmloopy.octree.lists import CSR, entries_of, make_csr
from fmmloopy.octree.tree import Tree


@dataclass(frozen=True)
class Pieces:
    """Ranges of targets, each with a list, in the order in which they are processed.

    Attributes:
        starts, ends: shape (npieces,), int32: targets of each piece, in tree order.
        csr: the list of each piece.
    """

    starts: NDArray[np.int32]
    ends: NDArray[np.int32]
    csr: CSR


def cut_heavy_boxes(
    tree: Tree, boxes: NDArray[np.intp], csr: CSR, sources: NDArray[np.integer[Any]] | None, share: float, targets: int
) -> Pieces | None:
    """Split boxes with much work into pieces, which come last.

    Runtimes assign work-groups in chunks that shrink towards the end of a launch, so that not all pieces of a box go to
    one core there. The other boxes keep their order, in which neighbours share data in cache.

    Args:
        tree: the tree.
        boxes: shape (n,), boxes to work on.
        csr: their lists.
        sources: shape (nboxes,): number of sources of each box as an entry of a list; None for equal numbers.
        share: boxes with more than this share of a launch's work are split into pieces below it, if they have enough
            targets.
        targets: the number of targets of a piece is a multiple of this.

    Returns:
        The pieces; None if no box has too much work.
    """
    lengths = csr.lengths[boxes].astype(np.int64)
    first = np.cumsum(lengths) - lengths
    entries, rows_of_entries = entries_of(csr, boxes)
    weights = np.ones(len(entries)) if sources is None else sources[csr.lists[entries]].astype(np.float64)
    per_target = np.bincount(rows_of_entries, weights, len(boxes))
    starts, ends = tree.box_target_starts[boxes], tree.box_target_ends[boxes]
    most = share * float(per_target @ (ends - starts))
    size = np.maximum(most / np.maximum(per_target, 1) // targets, 1) * targets
    counts = np.ceil((ends - starts) / size).astype(np.int64)
    if counts.max(initial=0) <= 1:
        return None
    order = np.argsort(counts > 1, kind="stable")
    rows = np.repeat(order, counts[order])
    number = np.arange(len(rows)) - np.repeat(np.cumsum(counts[order]) - counts[order], counts[order])
    begin = starts[rows] + (number * size[rows]).astype(np.int64)
    end = np.minimum(begin + size[rows].astype(np.int64), ends[rows])
    of_pieces = lengths[rows]
    offset = np.cumsum(of_pieces) - of_pieces
    places = np.repeat(first[rows] - offset, of_pieces) + np.arange(of_pieces.sum())
    lists = make_csr("of pieces", of_pieces, csr.lists[entries[places]])
    return Pieces(begin.astype(np.int32), end.astype(np.int32), lists)
