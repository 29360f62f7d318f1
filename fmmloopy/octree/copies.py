"""Trees whose boxes are there several times, once for each vector of charges.

Translations between boxes are the same for every vector of charges. With copies of all boxes, the vectors of a box are
more columns of the same matrix product, and operators that translate need to know nothing of vectors.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmmloopy.octree.lists import CSR, InteractionLists
from fmmloopy.octree.tree import Tree


def copies(boxes: NDArray[Any], count: int) -> NDArray[Any]:
    """Return the numbers of the copies of boxes: copy v of box b is count b + v; -1 stays -1.

    Args:
        boxes: shape (n, ...), numbers of boxes.
        count: copies of each box.

    Returns:
        Shape (n count, ...).
    """
    which = np.tile(np.arange(count, dtype=boxes.dtype), len(boxes)).reshape(-1, *[1] * (boxes.ndim - 1))
    repeated = np.repeat(boxes, count, axis=0)
    return np.where(repeated >= 0, count * repeated + which, repeated)


def copy_boxes(tree: Tree, lists: InteractionLists, count: int) -> tuple[Tree, InteractionLists]:
    """Return a tree and its V lists and colleagues with several copies of each box; points are those of every copy.

    Args:
        tree: the tree.
        lists: its lists; U, W and X lists stay as they are.
        count: copies of each box.
    """
    names = ("box_levels", "box_keys", "is_leaf", *(f"box_{s}_{e}" for s in _SIDES for e in ("starts", "ends")))
    repeated: dict[str, Any] = {name: np.repeat(getattr(tree, name), count) for name in names}
    for name in ("box_has_sources", "box_gathers"):
        flags = getattr(tree, name)
        repeated[name] = None if flags is None else np.repeat(flags, count)
    copied = replace(
        tree,
        level_starts=tree.level_starts * count,
        box_anchors=np.repeat(tree.box_anchors, count, axis=1),
        box_parents=copies(tree.box_parents, count),
        box_children=copies(tree.box_children, count),
        **repeated,
    )
    lengths = np.repeat(lists.v.lengths, count)
    starts = np.append(0, np.cumsum(lengths)).astype(np.int32)
    entries = np.repeat(lists.v.starts[:-1], count)
    entries = np.repeat(entries - starts[:-1], lengths) + np.arange(starts[-1], dtype=np.int32)
    which = np.repeat(np.tile(np.arange(count, dtype=np.int32), tree.nboxes), lengths)
    return copied, replace(
        lists,
        v=CSR(starts, count * lists.v.lists[entries] + which),
        v_transfers=lists.v_transfers[entries],
        colleagues=copies(lists.colleagues, count),
    )


_SIDES = ("source", "target")
