"""The boxes of a part, those of the tree of all points, though no part has all points or all boxes.

Only boxes that straddle the ends of parts have points in several, at most two on each level of each part. What all
parts have of these is gathered once; all other boxes are counted where their points are. The tree is balanced by one
sweep from the finest level, as that of one process, with an exchange of demands on each level.

The models are the distributed trees of Sundar, Sampath and Biros (SIAM J. Sci. Comput. 30, 2008) and the local
essential trees of Lashuk et al. (Commun. ACM 55, 2012) and PVFMM. Theirs are complete octrees whose leaves are
exchanged; here boxes without points do not exist, and each box is sent to whoever may interact with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fmmloopy.octree.tree import DEEPEST_LEVEL, Keys, decode, demanded_parents, encode, find_ranges, split_boxes
from fmmloopy.parts.shares import END, Shares, by_part, joined, overlapping
from fmmloopy.parts.transport import Transport

BOX = np.dtype(
    [("level", "i4"), ("leaf", "?"), ("owner", "i4"), ("key", "u8"), ("nsources", "i8"), ("ntargets", "i8")], align=True
)
"""What is known of a box: its place; whether it is a leaf; the first part with sources in it; how many points it has in
all parts."""

_COUNTED = np.dtype([*((n, BOX[n]) for n in BOX.names or ()), ("least", "u8"), ("most", "u8"), ("part", "i4")])
"""Of a box in one part: also the least and the largest key of its points there, and which part this is."""

_NEIGHBOURS = np.array([(x, y, z) for z in (-1, 0, 1) for y in (-1, 0, 1) for x in (-1, 0, 1)]).T


def shifts(levels: NDArray[np.integer]) -> NDArray[np.uint64]:
    """Return how many bits keys of levels have fewer than those of points."""
    return np.asarray(3 * (DEEPEST_LEVEL - np.asarray(levels))).astype(np.uint64)


def first_keys(boxes: NDArray[np.void]) -> Keys:
    """Return the first key of the points of boxes."""
    keys: Keys = boxes["key"] << shifts(boxes["level"])
    return keys


def last_keys(boxes: NDArray[np.void]) -> Keys:
    """Return one past the last key of the points of boxes."""
    keys: Keys = (boxes["key"] + np.uint64(1)) << shifts(boxes["level"])
    return keys


@dataclass(frozen=True, eq=False)
class OwnBoxes:
    """The boxes with points of a part.

    Attributes:
        boxes: shape (n,), of type BOX, by level and key.
        straddling: by level and key of each of these boxes with points in other parts too: which parts have any, and
            which of these have sources; ascending.
    """

    boxes: NDArray[np.void]
    straddling: dict[tuple[int, int], tuple[list[int], list[int]]]

    def is_first(self, rank: int) -> NDArray[np.bool_]:
        """Return of which boxes a part is the first that has points: shape (n,)."""
        first = np.ones(len(self.boxes), np.bool_)
        for (level, key), (parts, _) in self.straddling.items():
            if parts[0] != rank:
                first &= (self.boxes["level"] != level) | (self.boxes["key"] != np.uint64(key))
        return first


def find_boxes(transport: Transport, shares: Shares, ncrit: int, max_level: int) -> OwnBoxes:
    """Return the boxes of the balanced tree of all points that have points of this part.

    Args:
        transport: to the other parts.
        shares: the points of this part.
        ncrit: the most sources, and targets, in a leaf.
        max_level: level at which boxes are no longer split. Boxes whose points no level can separate are not split.
    """
    counter = _Counter(transport, shares, max_level)
    splits: list[Keys] = []
    keys = counter.existing(0, np.zeros(1, np.uint64))
    for level in range(max_level):
        split = counter.crowded(level, keys, ncrit)
        if not len(split):
            break
        splits.append(split)
        keys = counter.existing(level + 1, split_boxes(split))
    depth = int(transport.reduce(np.array([len(splits)]), "max")[0])
    splits += [np.empty(0, np.uint64)] * (depth - len(splits))
    for level in range(depth - 1, 0, -1):
        demanded = np.setdiff1d(demanded_parents(splits[level], level), splits[level - 1])
        shift = shifts(np.array(level - 1))
        parts, which = overlapping(demanded << shift, (demanded + np.uint64(1)) << shift, shares.splitters)
        found = transport.exchange(by_part(parts, demanded[which], transport.size), demanded)
        demanded = np.setdiff1d(joined(found, demanded), splits[level - 1])
        splits[level - 1] = np.union1d(splits[level - 1], counter.existing(level - 1, demanded))
    found_boxes = []
    keys = counter.existing(0, np.zeros(1, np.uint64))
    for level, split in enumerate([*splits, np.empty(0, np.uint64)]):
        row = counter.count(level, keys)
        row["leaf"] = ~np.isin(keys, split)
        found_boxes.append(row)
        keys = counter.existing(level + 1, split_boxes(split)) if len(split) else split
    boxes = np.concatenate(found_boxes)
    own = np.empty(len(boxes), BOX)
    for name in BOX.names or ():
        own[name] = boxes[name]
    return OwnBoxes(own, counter.straddling)


class _Counter:
    """Counts the points of boxes: those of this part, and of boxes that straddle its ends, those of all parts."""

    def __init__(self, transport: Transport, shares: Shares, max_level: int) -> None:
        self._sides = shares.sides
        self._rank, self._finest = transport.rank, shifts(np.array(max_level))
        self.straddling: dict[tuple[int, int], tuple[list[int], list[int]]] = {}
        start, end = shares.splitters[transport.rank : transport.rank + 2]
        outer = [each.keys[[0, -1]] for each in self._sides if len(each.keys)]
        ends = np.unique(np.concatenate([np.empty(0, np.uint64), *outer]))
        rows = []
        for level in range(max_level + 1):
            shift = shifts(np.array(level))
            keys = np.unique(ends >> shift)
            beyond = ((keys << shift) < start) | (((keys + np.uint64(1)) << shift) > end)
            rows.append(self._count_own(level, keys[beyond]))
        table = np.concatenate(transport.gather(np.concatenate(rows)))
        table = table[np.lexsort((table["part"], table["key"], table["level"]))]
        self._whole = self._sum_up(table)

    def existing(self, level: int, keys: Keys) -> Keys:
        """Return the boxes of a level that have points of this part."""
        found = self._count_own(level, keys)["most"] > 0
        return np.asarray(keys[found])

    def crowded(self, level: int, keys: Keys, ncrit: int) -> Keys:
        """Return the boxes with too many points, unless no level can separate them."""
        row = self.count(level, keys)
        apart = (row["least"] >> self._finest) != ((row["most"] - np.uint64(1)) >> self._finest)
        chosen = (np.maximum(row["nsources"], row["ntargets"]) > ncrit) & apart
        return np.asarray(keys[chosen])

    def count(self, level: int, keys: Keys) -> NDArray[np.void]:
        """Return the counts of boxes with points of this part."""
        row: NDArray[np.void] = self._count_own(level, keys)
        whole = self._whole[self._whole["level"] == level]
        if len(whole) and len(row):
            place = np.searchsorted(whole["key"], keys).clip(max=len(whole) - 1)
            found = whole["key"][place] == keys
            for name in ("nsources", "ntargets", "least", "most", "owner"):
                row[name][found] = whole[name][place[found]]
        return row

    def _count_own(self, level: int, keys: Keys) -> NDArray[np.void]:
        """Count the points of this part; ``most`` is one past the largest key, and 0 where there are no points."""
        row = np.zeros(len(keys), _COUNTED)
        row["level"], row["key"], row["owner"], row["part"], row["least"] = level, keys, self._rank, self._rank, END
        for number, each in enumerate(self._sides):
            starts, ends = find_ranges(each.keys, keys, level)
            some = ends > starts
            row["nsources" if number == 0 else "ntargets"] = ends - starts
            row["least"][some] = np.minimum(row["least"][some], each.keys[starts[some]])
            row["most"][some] = np.maximum(row["most"][some], each.keys[ends[some] - 1] + np.uint64(1))
        if len(self._sides) == 1:
            row["ntargets"] = row["nsources"]
        return row

    def _sum_up(self, table: NDArray[np.void]) -> NDArray[np.void]:
        """Sum what all parts have of the boxes that straddle their ends; rows are by level, key and part."""
        if not len(table):
            return table
        new = (np.diff(table["level"]) != 0) | (table["key"][1:] != table["key"][:-1])
        starts = np.flatnonzero(np.append(True, new))
        whole = table[starts].copy()
        for name, how in (("nsources", np.add), ("ntargets", np.add), ("least", np.minimum), ("most", np.maximum)):
            whole[name] = how.reduceat(table[name], starts)
        nobody = np.iinfo(np.int32).max
        gathering = np.where(table["nsources"] > 0, table["part"], nobody)
        whole["owner"] = np.minimum.reduceat(gathering, starts)
        ends = np.append(starts[1:], len(table))
        here = np.searchsorted(starts, np.flatnonzero(table["part"] == self._rank), "right") - 1
        for number in here[ends[here] - starts[here] > 1]:
            rows = table[starts[number] : ends[number]]
            box = int(rows["level"][0]), int(rows["key"][0])
            self.straddling[box] = rows["part"].tolist(), rows["part"][rows["nsources"] > 0].tolist()
        return whole


def add_ghosts(
    transport: Transport, shares: Shares, own: OwnBoxes, npoints: int
) -> tuple[NDArray[np.void], NDArray[np.bool_]]:
    """Return the boxes of a part and those of others that its targets may interact with.

    A box interacts only with boxes in the neighbourhood of its parent, and so does each of their descendants; so every
    box goes to the parts that have a piece of its parent's neighbourhood. Small boxes also come with all their
    descendants, since lists may have their points in place of them.

    Args:
        transport, shares: of this part.
        own: its boxes.
        npoints: boxes with more sources are not small.

    Returns:
        Boxes of type BOX, by level and key, the root at least; and which have points of this part.
    """
    mine, is_first = own.boxes, own.is_first(transport.rank)
    chosen = mine[is_first & (mine["level"] > 0)]
    levels = chosen["level"] - 1
    anchors = decode(chosen["key"] >> np.uint64(3)).astype(np.int64)
    lower, upper = np.maximum(anchors - 1, 0), np.minimum(anchors + 1, (1 << levels) - 1)
    start, end = shares.splitters[transport.rank : transport.rank + 2]
    shift = shifts(levels)
    # Keys ascend with each coordinate, so those of a neighbourhood are between those of its corners.
    outside = ((encode(lower) << shift) < start) | (((encode(upper) + np.uint64(1)) << shift) > end)
    chosen, anchors, levels, shift = chosen[outside], anchors[:, outside], levels[outside], shift[outside]
    near = anchors[:, :, None] + _NEIGHBOURS[:, None, :]
    inside = ((near >= 0) & (near < (1 << levels)[None, :, None])).all(axis=0)
    row = np.nonzero(inside)[0]
    keys = encode(near[:, inside])
    parts, which = overlapping(keys << shift[row], (keys + np.uint64(1)) << shift[row], shares.splitters)
    sends = _send(transport, parts, row[which], chosen)
    boxes, is_own = _merge([mine, joined(transport.exchange(sends, chosen), chosen)])
    partly = (boxes["nsources"] > 0) & (boxes["nsources"] <= npoints) & ~boxes["leaf"]
    partly &= (first_keys(boxes) < start) | (last_keys(boxes) > end)
    below = _descendants(transport, shares, boxes[partly], mine[is_first])
    boxes, is_own = _merge([mine, boxes[~is_own], below])
    if not len(boxes):
        root = np.zeros(1, BOX)
        root["leaf"] = True
        return root, np.zeros(1, np.bool_)
    return boxes, is_own


def _descendants(
    transport: Transport, shares: Shares, tops: NDArray[np.void], chosen: NDArray[np.void]
) -> NDArray[np.void]:
    """Return the descendants of boxes that other parts have, each from the first that has it."""
    parts, which = overlapping(first_keys(tops), last_keys(tops), shares.splitters)
    others = parts != transport.rank
    asked = transport.exchange(by_part(parts[others], tops[which[others]], transport.size), tops)
    first = first_keys(chosen)
    order = np.argsort(first, kind="stable")
    answers = {}
    for part, wanted in asked.items():
        starts = np.searchsorted(first[order], first_keys(wanted))
        ends = np.searchsorted(first[order], last_keys(wanted))
        counts = ends - starts
        of = np.repeat(np.arange(len(wanted)), counts)
        places = np.arange(len(of)) - np.repeat(np.cumsum(counts) - counts, counts) + starts[of]
        found = chosen[order[places]]
        answers[part] = found[found["level"] > wanted["level"][of]]
    return joined(transport.exchange(answers, chosen), chosen)


def _send(
    transport: Transport, parts: NDArray[np.int64], rows: NDArray[np.int64], boxes: NDArray[np.void]
) -> dict[int, NDArray[np.void]]:
    """Return boxes by receiver, each once and none to this part."""
    count = max(len(boxes), 1)
    parts, rows = np.divmod(np.unique(parts * count + rows), count)
    others = parts != transport.rank
    return by_part(parts[others], boxes[rows[others]], transport.size)


def _merge(pieces: Sequence[NDArray[np.void]]) -> tuple[NDArray[np.void], NDArray[np.bool_]]:
    """Return boxes by level and key, each once; and which are of the first piece."""
    boxes = np.concatenate(pieces)
    later = np.arange(len(boxes)) >= len(pieces[0])
    order = np.lexsort((later, boxes["key"], boxes["level"]))
    boxes, later = boxes[order], later[order]
    again = (np.diff(boxes["level"]) == 0) & (boxes["key"][1:] == boxes["key"][:-1])
    new = np.append(True, ~again)[: len(boxes)]
    return boxes[new], ~later[new]
