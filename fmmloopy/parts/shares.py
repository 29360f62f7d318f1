"""The points of a part: a range of the Morton curve, found by sampling all keys (sample sort).

No part ever has all points. A sample of keys, of which each stands for the same weight, gives the splitters, the first
keys of all parts; then every point goes to the part that its key belongs to.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmmloopy.octree.tree import (
    DEEPEST_LEVEL,
    Keys,
    OneSide,
    Points,
    SortedPoints,
    find_bounds,
    find_root,
    sort_in_root,
)
from fmmloopy.parts.team import Team
from fmmloopy.parts.transport import Rows, Transport, in_all_parts

END = np.uint64(1) << np.uint64(3 * DEEPEST_LEVEL)
"""One past the last key."""

SAMPLES = 256
"""Samples for each part: the largest has about 1 + 1 / SAMPLES of the mean."""


HOME = np.dtype([("part", np.int32), ("row", np.uint32)])
"""The part that a point was given to, and its row there."""

MOST_GIVEN = 2**32
"""The most points that may be given to a part, see HOME."""

_MOVED = np.dtype([("key", np.uint64), ("place", np.float64, 3), ("home", HOME)])

MOST_SAMPLED = 100_000
"""About the most sources, or targets, of which errors are predicted."""


@dataclass(frozen=True, eq=False)
class Share:
    """The sources, or the targets, of a part.

    Attributes:
        keys: shape (n,), ascending.
        points: shape (3, n), relative to the origin, in the dtype of the tree.
        home: shape (n,), see HOME; shape (0,) when it is needed no more.
    """

    keys: Keys
    points: Points
    home: NDArray[np.void]


@dataclass(frozen=True, eq=False)
class Shares:
    """The points of a part.

    Attributes:
        centre, origin, half_width: of the root of the whole tree.
        splitters: shape (size + 1,), the first key of each part, and END.
        sources, targets: the same object where the targets are the sources.
        given: numbers of sources and of targets that the caller has given to this part.
    """

    centre: NDArray[np.float64]
    origin: NDArray[np.float64]
    half_width: float
    splitters: Keys
    sources: Share
    targets: Share
    given: tuple[int, int]

    @property
    def sides(self) -> list[Share]:
        """Sources and targets, or one of them where the targets are the sources."""
        return [self.sources] if self.targets is self.sources else [self.sources, self.targets]

    def without_home(self) -> Shares:
        """Return the points without what is known of where they were given; see `fmmloopy.parts.part.Home`."""
        sides = [replace(each, home=np.empty(0, HOME)) for each in self.sides]
        return replace(self, sources=sides[0], targets=sides[-1])

    @cached_property
    def sorted(self) -> SortedPoints:
        """The points by themselves, numbered in their own order."""
        sides = [OneSide(each.points, np.arange(len(each.keys)), each.keys) for each in self.sides]
        return SortedPoints(self.centre, self.origin, self.half_width, sides[0], sides[-1])


def by_part(parts: NDArray[np.integer[Any]], rows: Rows, size: int) -> dict[int, Rows]:
    """Return rows by the part that each belongs to, in their order."""
    order = np.argsort(parts, kind="stable")
    edges = np.searchsorted(parts[order], np.arange(size + 1))
    return {r: rows[order[edges[r] : edges[r + 1]]] for r in range(size) if edges[r] < edges[r + 1]}


def joined(pieces: Mapping[int, Rows], like: Rows) -> Rows:
    """Return rows of all parts, one after the other."""
    return np.concatenate([like[:0], *(pieces[r] for r in sorted(pieces))])


def overlapping(first: Keys, last: Keys, splitters: Keys) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return which parts overlap ranges of keys.

    Args:
        first, last: shape (n,), the first key of each range, and one past its last.
        splitters: of all parts.

    Returns:
        Part and number of the range, for each overlap.
    """
    starts = splitters[:-1]
    begin = np.searchsorted(starts, first, "right") - 1
    end = np.searchsorted(starts, last - np.uint64(1), "right") - 1
    counts = end - begin + 1
    which = np.repeat(np.arange(len(first)), counts)
    return np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts) + begin[which], which


def share_out(
    transport: Transport,
    sources: Points,
    targets: Points | None,
    dtype: np.dtype[Any],
    speeds: NDArray[np.float64],
    width: float = 1.0,
) -> Shares:
    """Give each part a range of the curve, with points in proportion to its speed.

    Args:
        transport: to the other parts.
        sources, targets: shape (n, 3), float64, finite: those given to this part, which may be none; no targets if they
            are the sources.
        dtype: type of the tree's points.
        speeds: shape (size,), relative speeds of the parts.
        width: how many times as wide as the points the root is.

    Raises:
        ValueError: there are no sources or no targets in any part, too many in one, or coordinates are too large.
    """
    given = [sources] if targets is None else [sources, targets]
    counts = transport.reduce(np.array([len(side) for side in given]), "sum")
    for name, count in zip(("sources", "targets"), counts, strict=False):
        if not count:
            raise in_all_parts(ValueError(f"{name} has shape (0, 3) in all parts, expected at least one point"))
    most = int(transport.reduce(np.array([max(map(len, given))]), "max")[0])
    if most > MOST_GIVEN:
        raise in_all_parts(ValueError(f"a part is given {most:,} points, expected {MOST_GIVEN:,} at most"))
    bounds = Team(transport).together(lambda: [find_bounds(side, "points") for side in given if len(side)])
    lower = np.min([each for each, _ in bounds], axis=0, initial=np.inf) if bounds else np.full(3, np.inf)
    upper = np.max([each for _, each in bounds], axis=0, initial=-np.inf) if bounds else np.full(3, -np.inf)
    root = find_root(transport.reduce(lower, "min"), transport.reduce(upper, "max"), dtype, width)
    sides = [_read(transport, side, root, dtype) for side in given]
    keys = sides[0].keys if len(sides) == 1 else np.sort(np.concatenate([side.keys for side in sides]))
    splitters = _sample(transport, keys, speeds)
    sides = [_move(transport, side, splitters) for side in sides]
    return Shares(*root, splitters, sides[0], sides[-1], (len(sources), len(given[-1])))


def sample(transport: Transport, shares: Shares) -> tuple[SortedPoints, float]:
    """Return a sample of the points of all parts, the same in all of them, and its share of the larger side."""
    largest = int(transport.reduce(np.array([len(side.keys) for side in shares.sides]), "sum").max())
    share = min(1.0, MOST_SAMPLED / largest)
    sides = []
    for side in shares.sides:
        count = math.ceil(share * len(side.keys))
        chosen = np.arange(count) * len(side.keys) // max(count, 1)
        keys = np.concatenate(transport.gather(side.keys[chosen]))
        points = np.concatenate(transport.gather(side.points[:, chosen]), axis=1)
        sides.append(OneSide(points, np.arange(len(keys)), keys))
    return SortedPoints(shares.centre, shares.origin, shares.half_width, sides[0], sides[-1]), share


def move(transport: Transport, shares: Shares, splitters: Keys) -> Shares:
    """Return the points of a part for other splitters."""
    sides = [_move(transport, side, splitters) for side in shares.sides]
    return replace(shares, splitters=splitters, sources=sides[0], targets=sides[-1])


def _read(transport: Transport, points: Points, root: tuple[Any, Any, float], dtype: np.dtype[Any]) -> Share:
    side = sort_in_root(points, *root, dtype)
    home = np.empty(len(side.order), HOME)
    home["part"], home["row"] = transport.rank, side.order
    return Share(side.keys, side.points, home)


def _sample(transport: Transport, keys: Keys, speeds: NDArray[np.float64]) -> Keys:
    """Return splitters that give each part its share of all keys."""
    total = int(transport.reduce(np.array([len(keys)]), "sum")[0])
    most = SAMPLES * transport.size
    count = max(round(len(keys) / total * most), 1) if len(keys) else 0
    places = ((np.arange(count) + 0.5) * (len(keys) / max(count, 1))).astype(np.int64)
    samples = np.sort(np.concatenate(transport.gather(keys[places])))
    shares = np.cumsum(speeds) / speeds.sum()
    inner = samples[np.minimum((shares[:-1] * len(samples)).astype(np.int64), len(samples) - 1)]
    return np.concatenate([np.zeros(1, np.uint64), inner, [END]])


def _move(transport: Transport, share: Share, splitters: Keys) -> Share:
    """Send points to the parts that their keys belong to; they are sorted there."""
    edges = np.searchsorted(share.keys, splitters)
    stay = slice(*edges[transport.rank : transport.rank + 2])
    sends = {}
    for part, (begin, end) in enumerate(itertools.pairwise(edges)):
        if part != transport.rank and begin < end:
            sends[part] = rows = np.empty(end - begin, _MOVED)
            rows["key"], rows["home"] = share.keys[begin:end], share.home[begin:end]
            rows["place"] = share.points[:, begin:end].T
    found = transport.exchange(sends, np.empty(0, _MOVED))
    del sends  # up to all points, which take as much memory again
    pieces: dict[int, tuple[Keys, Points, NDArray[np.void]]] = {
        part: (rows["key"], rows["place"].T, rows["home"]) for part, rows in found.items()
    }
    pieces[transport.rank] = share.keys[stay], share.points[:, stay], share.home[stay]
    in_turn = [pieces[part] for part in sorted(pieces)]
    keys = np.concatenate([each for each, _, _ in in_turn])
    points = np.concatenate([each for _, each, _ in in_turn], axis=1, dtype=share.points.dtype, casting="same_kind")
    home = np.concatenate([each for _, _, each in in_turn])
    del found, pieces, in_turn
    if (keys[1:] >= keys[:-1]).all():  # where parts had ranges of keys before
        return Share(keys, points, home)
    order = np.argsort(keys, kind="stable")
    return Share(keys[order], points.take(order, axis=1), home[order])
