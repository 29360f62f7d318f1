"""Remove boxes with few points from the W and X lists, because direct evaluation of their points is cheaper.

An entry of a W list costs an evaluation of G per target and surface point, while the box's own sources would cost one
per target and source; an entry of an X list costs one per surface point and source, while the targets would cost one
per target and source. If there are fewer points than surface points, the points themselves are cheaper, and exact (as
in PVFMM, Malhotra & Biros 2015, section 3).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fmmloopy.octree.lists import CSR, InteractionLists, make_csr
from fmmloopy.octree.tree import Tree


def absorb_small_boxes(tree: Tree, lists: InteractionLists, npoints: int) -> InteractionLists:
    """Move entries of W and X lists to U lists if P2P needs no more evaluations than M2P or P2L.

    It moves entries of W(B) with at most ``npoints`` sources, and the X lists of leaves with at most ``npoints``
    targets. Every pair of points is still covered exactly once. A U list may then contain boxes that are not leaves,
    with all their sources.

    Args:
        tree: the tree.
        lists: its interaction lists.
        npoints: points of a surface.

    Returns:
        Lists with other U, W and X.
    """
    nsources = tree.box_source_ends - tree.box_source_starts
    ntargets = tree.box_target_ends - tree.box_target_starts
    w_rows, x_rows = _rows(lists.w), _rows(lists.x)
    small_w = nsources[lists.w.lists] <= npoints
    small_x = (tree.is_leaf & (ntargets <= npoints))[x_rows]
    rows = np.concatenate([_rows(lists.u), w_rows[small_w], x_rows[small_x]])
    entries = np.concatenate([lists.u.lists, lists.w.lists[small_w], lists.x.lists[small_x]])
    return replace(
        lists,
        u=_from_pairs("U", rows, entries, tree.nboxes),
        w=_from_pairs("W", w_rows[~small_w], lists.w.lists[~small_w], tree.nboxes),
        x=_from_pairs("X", x_rows[~small_x], lists.x.lists[~small_x], tree.nboxes),
    )


def _rows(csr: CSR) -> NDArray[np.int32]:
    """Return the row of every entry."""
    return np.repeat(np.arange(len(csr.starts) - 1, dtype=np.int32), np.diff(csr.starts))


def _from_pairs(name: str, rows: NDArray[np.int32], entries: NDArray[np.int32], nrows: int) -> CSR:
    """Sort pairs into rows, ascending within each."""
    order = np.argsort(rows.astype(np.int64) * (nrows + 1) + entries)
    return make_csr(name, np.bincount(rows, minlength=nrows), entries[order])
