"""A part of a problem: its local essential tree, and what it sends to the others and receives from them.

The local essential tree has the boxes of the part, as they are in the tree of all points, and those of other parts that
its targets interact with: the ghosts. Lists of the part's boxes follow from it by the same code as those of a whole
tree. Ghosts of U and X lists come with their sources, those of V and W lists with their multipoles. What boxes that
straddle the ends of parts have in each is summed where the first part with sources is; above a number of parts, what
the coarse levels have is summed over all parts at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmmloopy.common.sizes import SIBLINGS
from fmmloopy.components import by_vector, in_rows
from fmmloopy.octree.coincident import Coincident, find_coincident
from fmmloopy.octree.lists import CSR, InteractionLists, build_lists
from fmmloopy.octree.near_pairs import least_distance
from fmmloopy.octree.small_boxes import absorb_small_boxes
from fmmloopy.octree.tree import FIRST_LEVEL, OneSide, SortedPoints, Tree, decode
from fmmloopy.parts.boxes import BOX, OwnBoxes, add_ghosts, find_boxes, first_keys, last_keys
from fmmloopy.parts.shares import END, Share, Shares, by_part, joined, move, overlapping
from fmmloopy.parts.team import Result, Team
from fmmloopy.parts.transport import Rows, Transport

REDUCED_FROM = 64
"""From this number of parts on, multipoles of the coarse levels, those with no more boxes than parts, are summed over
all parts at once: the owner of a coarse box would send it to most of them."""

MOST_POINTS = 2**31 - 1
"""The most sources, ghosts among them, or targets of a part: kernels count with 32 bits."""

_POINT = np.dtype([("key", "u8"), ("place", "f8", 3)])


def build_part(
    team: Team,
    shares: Shares,
    *,
    ncrit: int,
    max_level: int,
    npoints: int,
    searched: bool,
    coincident: bool,
    speeds: NDArray[np.float64],
    reduced_from: int = REDUCED_FROM,
) -> LocalPart:
    """Build a part: cut the curve between leaves by their work, and find boxes, lists and ghosts.

    Args:
        team: the parts.
        shares: the points of this part, cut anywhere.
        ncrit: the most sources, and targets, in a leaf.
        max_level: level at which boxes are no longer split.
        npoints: points of a surface.
        searched: whether to look for the least distance of two points.
        coincident: whether to look for points in the same place.
        speeds: shape (size,), relative speeds of the parts.
        reduced_from: see REDUCED_FROM.

    Returns:
        The part.
    """
    transport = team.transport
    rough = find_boxes(transport, shares, ncrit, max_level)
    shares = move(transport, shares, _cut_between_leaves(transport, rough, speeds))
    own = find_boxes(transport, shares, ncrit, max_level)
    boxes, is_own = add_ghosts(transport, shares, own, npoints)
    return LocalPart(team, shares, own, boxes, is_own, npoints, searched, coincident, reduced_from)


def _cut_between_leaves(transport: Transport, own: OwnBoxes, speeds: NDArray[np.float64]) -> NDArray[np.uint64]:
    """Return splitters at ends of leaves, for shares of the work in proportion to speeds.

    The work of a leaf is taken as a constant, for its expansions, and as much again for the mean number of points.
    """
    leaves = own.boxes[own.boxes["leaf"] & own.is_first(transport.rank)]
    leaves = leaves[np.argsort(first_keys(leaves))]
    points = (leaves["nsources"] + leaves["ntargets"]).astype(np.float64)
    total, count = transport.reduce(np.array([points.sum(), len(leaves)], np.float64), "sum")
    work = 1.0 + points * (count / max(total, 1.0))
    sums = np.concatenate(transport.gather(np.array([work.sum()])))
    middles = (sums[: transport.rank].sum() + np.cumsum(work) - work / 2) / sums.sum()
    shares = np.cumsum(speeds) / speeds.sum()
    parts = np.searchsorted(shares[:-1], middles, "right")
    first, places = np.unique(parts, return_index=True)
    begun = np.full(transport.size, END)
    begun[first] = first_keys(leaves)[places]
    begun = transport.reduce(begun, "min")
    inner = np.minimum.accumulate(begun[::-1])[::-1][1:]
    return np.concatenate([np.zeros(1, np.uint64), inner, [END]])


@dataclass(frozen=True)
class _Route:
    """Rows that are sent to other parts, and how many are received, by part."""

    sends: dict[int, NDArray[Any]]
    receives: dict[int, int]

    def carry(self, transport: Transport, rows: Rows) -> dict[int, Rows]:
        """Send rows, and return those received."""
        buffers = {r: np.empty((count, *rows.shape[1:]), rows.dtype) for r, count in self.receives.items()}
        transport.send({r: rows[places] for r, places in self.sends.items()}, buffers)
        return buffers


class Home:
    """The way between the callers of points and the parts that have them.

    Args:
        transport: to the other parts.
        share: the sources, or the targets, of this part.
        given: how many the caller has given to this part.
    """

    def __init__(self, transport: Transport, share: Share, given: int) -> None:
        self._transport, self._counts = transport, (len(share.home), given)
        self._here = by_part(share.home["part"], np.arange(len(share.home), dtype=np.int32), transport.size)
        rows = {part: share.home["row"][places] for part, places in self._here.items()}
        self._there = transport.exchange(rows, np.empty(0, np.uint32))

    def bring_in(self, rows: Rows) -> Rows:
        """Return rows of the points of this part, from rows in the order of the callers."""
        return self._carry(rows, self._there, self._here, self._counts[0])

    def take_out(self, rows: Rows) -> Rows:
        """Return rows in the order of the caller, from rows of the points of the parts."""
        return self._carry(rows, self._here, self._there, self._counts[1])

    def _carry(self, rows: Rows, sends: dict[int, NDArray[Any]], receives: dict[int, NDArray[Any]], count: int) -> Rows:
        rank, result = self._transport.rank, np.empty((count, *rows.shape[1:]), rows.dtype)
        others = {part: places for part, places in sends.items() if part != rank}
        route = _Route(others, {part: len(places) for part, places in receives.items() if part != rank})
        for part, found in route.carry(self._transport, rows).items():
            result[receives[part]] = found
        if rank in receives:
            result[receives[rank]] = rows[sends[rank]]
        return result


class LocalPart:
    """A part of a problem, see `fmmloopy.execution.part.Part`.

    Args:
        team, npoints, searched, coincident, reduced_from: as for `build_part`.
        shares: the points of the part, cut between leaves.
        own: the boxes of the part.
        boxes, is_own: all boxes of the local essential tree, and which have points of this part.

    Attributes:
        tree, lists, same_points, on_machine, exchanged, distance: see `fmmloopy.execution.part.Part`.
        shares: as given; their ``home`` is needed no more, ``sources`` and ``targets`` have it.
        sources, targets: the ways to the callers of the part's points.
    """

    def __init__(
        self,
        team: Team,
        shares: Shares,
        own: OwnBoxes,
        boxes: NDArray[np.void],
        is_own: NDArray[np.bool_],
        npoints: int,
        searched: bool,
        coincident: bool,
        reduced_from: int,
    ) -> None:
        self._team, self._transport, self.shares = team, team.transport, shares
        self._boxes, self._is_own, self.on_machine = boxes, is_own, team.transport.here[1]
        self.same_points = shares.targets is shares.sources
        team.together(lambda: _check_count(len(shares.targets.keys), "targets"))
        first, last = first_keys(boxes), last_keys(boxes)
        of_targets = np.searchsorted(shares.targets.keys, first), np.searchsorted(shares.targets.keys, last)
        # Of sources, lists depend on how many there are, not on where they are.
        counts = np.zeros(len(boxes), np.int64), np.minimum(boxes["nsources"], np.iinfo(np.int32).max)
        sides = [shares.targets.points] * 2
        meta = _tree(shares, boxes, counts, of_targets, sides[0], sides[1])
        self.lists: InteractionLists = absorb_small_boxes(meta, build_lists(meta), npoints)
        merged = self._find_sources(first, last)
        shares = self.shares
        of_sources = np.searchsorted(merged.keys, first), np.searchsorted(merged.keys, last)
        tree = _tree(shares, boxes, of_sources, of_targets, merged.points, shares.targets.points)
        here = np.searchsorted(shares.sources.keys, first), np.searchsorted(shares.sources.keys, last)
        self.tree = replace(
            tree,
            box_has_sources=boxes["nsources"] > 0,
            box_gathers=is_own & (here[1] > here[0]),
            first_target=self._before if self.same_points else None,
        )
        self._find_multipoles(own, reduced_from)
        self.sources = self.targets = Home(self._transport, shares.sources, shares.given[0])
        if not self.same_points:
            self.targets = Home(self._transport, shares.targets, shares.given[1])
        self.distance = self._find_distance(merged) if searched else None
        self._coincident: Coincident | None = None
        self._any_coincident = False
        if coincident:
            self._coincident = team.together(lambda: find_coincident(shares.sorted))
            self._any_coincident = bool(self._transport.reduce(np.array([int(self._coincident is not None)]), "max")[0])

    # -- what is exchanged

    def _find_sources(self, first: NDArray[np.uint64], last: NDArray[np.uint64]) -> OneSide:
        """Find which sources are ghosts here and elsewhere; return those of this part and the ghosts, sorted.

        The shares of the part then have views of these.
        """
        transport, shares = self._transport, self.shares
        sources, splitters = shares.sources, shares.splitters
        needed = _entries(len(first), self.lists.u, self.lists.x)
        starts, ends = _outermost(first[needed], last[needed])
        parts, which = overlapping(starts, ends, splitters)
        others = parts != transport.rank
        ranges = np.stack([starts, ends], axis=1)
        asked = transport.exchange(by_part(parts[others], ranges[which[others]], transport.size), ranges)
        sends = {}
        for part, wanted in asked.items():
            begin, end = np.searchsorted(sources.keys, wanted[:, 0]), np.searchsorted(sources.keys, wanted[:, 1])
            counts = end - begin
            before = np.cumsum(counts) - counts
            sends[part] = np.arange(counts.sum()) + np.repeat(begin - before, counts)
        sends = {part: places for part, places in sends.items() if len(places)}
        rows, like = {part: np.empty(len(places), _POINT) for part, places in sends.items()}, np.empty(0, _POINT)
        for part, places in sends.items():
            rows[part]["key"], rows[part]["place"] = sources.keys[places], sources.points[:, places].T
        ghosts = transport.exchange(rows, like)
        self._ghosts = _Route(sends, {part: len(ghosts[part]) for part in sorted(ghosts)})
        # Parts have ranges of keys, and what each sends is in order: one after the other, they are sorted.
        keys_of = {part: each["key"] for part, each in ghosts.items()}
        keys = joined({**keys_of, transport.rank: sources.keys}, sources.keys)
        self._team.together(lambda: _check_count(len(keys), "sources with those of its neighbours"))
        self._before = before = sum(len(each) for part, each in keys_of.items() if part < transport.rank)
        own = slice(before, before + len(sources.keys))
        points = np.empty((3, len(keys)), sources.points.dtype)
        points[:, own] = sources.points
        places = joined(ghosts, like)["place"].T
        points[:, : own.start], points[:, own.stop :] = places[:, :before], places[:, before:]
        share = replace(sources, keys=keys[own], points=points[:, own])
        self.shares = replace(shares, sources=share, targets=share if self.same_points else shares.targets)
        return OneSide(points, np.arange(len(keys), dtype=np.int32), keys)

    def _find_multipoles(self, own: OwnBoxes, reduced_from: int) -> None:
        """Find which multipoles are sent and received, and which are summed."""
        transport, boxes, rank = self._transport, self._boxes, self._transport.rank
        levels = boxes["level"]
        names = np.array(list(own.straddling), [("level", "i4"), ("key", "u8")])
        numbers: dict[tuple[int, int], int] = dict(zip(own.straddling, _find(boxes, names).tolist(), strict=True))
        reduced, sums, self._nsums = self._find_reduced(reduced_from)
        coarse = np.zeros(len(boxes), np.bool_)
        coarse[reduced] = True
        # The parts of boxes that straddle several go to the first of them that has sources.
        to: dict[int, list[int]] = {}
        taken: dict[int, list[int]] = {}
        for box in sorted(own.straddling):
            gathering = own.straddling[box][1]
            if box[0] < FIRST_LEVEL or len(gathering) < 2 or rank not in gathering or coarse[numbers[box]]:
                continue
            if gathering[0] == rank:
                for part in gathering[1:]:
                    taken.setdefault(part, []).append(numbers[box])
            else:
                to.setdefault(gathering[0], []).append(numbers[box])
        pieces = {part: np.array(rows) for part, rows in to.items()}
        summed = {part: np.array(taken[part]) for part in sorted(taken)}
        needed = _entries(len(boxes), self.lists.v, self.lists.w)
        needed = needed[(boxes["owner"][needed] != rank) & (levels[needed] >= FIRST_LEVEL) & ~coarse[needed]]
        wanted = by_part(boxes["owner"][needed], needed, transport.size)
        asked = transport.exchange({part: boxes[rows] for part, rows in wanted.items()}, boxes)
        totals = {part: _find(boxes, names) for part, names in asked.items()}
        routes = pieces, summed, totals, wanted
        # Rows of what is exchanged stand for boxes from here on.
        self.exchanged = np.unique(np.concatenate([reduced, *(rows for route in routes for rows in route.values())]))
        pieces, self._taken, totals, self._wanted = (
            {part: np.searchsorted(self.exchanged, rows) for part, rows in route.items()} for route in routes
        )
        self._pieces = _Route(pieces, {part: len(rows) for part, rows in self._taken.items()})
        self._totals = _Route(totals, {part: len(rows) for part, rows in self._wanted.items()})
        gathered = self.tree.gathers[reduced]
        self._reduced = np.searchsorted(self.exchanged, reduced), sums, gathered

    def _find_reduced(self, reduced_from: int) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
        """Return the boxes of levels that are summed over all parts, their places in the sums, and how many."""
        transport, boxes = self._transport, self._boxes
        none = np.empty(0, np.int64)
        if transport.size < reduced_from:
            return none, none, 0
        last = FIRST_LEVEL
        while SIBLINGS ** (last + 1) <= transport.size:
            last += 1
        chosen = np.flatnonzero((boxes["level"] >= FIRST_LEVEL) & (boxes["level"] <= last) & (boxes["nsources"] > 0))
        # Keys with a leading one name boxes of all levels.
        names = boxes["key"][chosen] | (np.uint64(1) << (3 * boxes["level"][chosen]).astype(np.uint64))
        everywhere = np.unique(np.concatenate(transport.gather(names)))
        return chosen, np.searchsorted(everywhere, names), len(everywhere)

    def _find_distance(self, merged: OneSide) -> float | None:
        """Return a lower bound on the distance of any two points, in all parts."""
        shares = self.shares
        targets = (
            merged
            if shares.targets is shares.sources
            else OneSide(shares.targets.points, np.arange(len(shares.targets.keys)), shares.targets.keys)
        )
        points = SortedPoints(shares.centre, shares.origin, shares.half_width, merged, targets)
        some = len(merged.keys) > 0 and len(targets.keys) > 0
        own = self._team.together(lambda: least_distance(points, self.tree) if some else np.inf)
        least = float(self._transport.reduce(np.array([own or 0.0]), "min")[0])
        return least or None

    # -- exchanges

    def bring_in(self, charges: NDArray[Any]) -> NDArray[Any]:
        """See `fmmloopy.execution.part.Part`."""
        own = self.sources.bring_in(charges.T)
        found = {**self._ghosts.carry(self._transport, own), self._transport.rank: own}
        result = np.empty((len(charges), self.tree.nsources), charges.dtype)
        end = 0
        for part in sorted(found):
            begin, end = end, end + len(found[part])
            result[:, begin:end] = found[part].T
        return result

    def take_out(self, potentials: NDArray[Any]) -> NDArray[Any]:
        """See `fmmloopy.execution.part.Part`."""
        return np.ascontiguousarray(self.targets.take_out(potentials.T).T)

    def largest(self, values: NDArray[Any]) -> NDArray[Any]:
        """See `fmmloopy.execution.part.Part`."""
        return self._transport.reduce(values, "max")

    def together(self, call: Callable[[], Result]) -> Result:
        """See `fmmloopy.execution.part.Part`."""
        return self._team.together(call)

    def exchange_multipoles(self, values: NDArray[Any]) -> None:
        """See `fmmloopy.execution.part.Part`."""
        pieces = self._pieces.carry(self._transport, values)
        for part, rows in self._taken.items():  # in the order of the parts, so that sums are the same each time
            values[rows] += pieces[part]
        totals = self._totals.carry(self._transport, values)
        for part, rows in self._wanted.items():
            values[rows] = totals[part]
        if self._nsums:
            chosen, places, gathered = self._reduced
            sums = np.zeros((self._nsums, *values.shape[1:]), values.dtype)
            sums[places[gathered]] = values[chosen[gathered]]
            values[chosen] = self._transport.reduce(sums, "sum")[places]

    def coincident(self, at_zero: NDArray[np.float64], charges: NDArray[Any]) -> NDArray[np.float64] | None:
        """Return what points in the same place contribute to each other; None if no part has any.

        Args:
            at_zero: shape (rows, columns), the function at distance zero.
            charges: shape (vectors, columns, n), of the caller's sources.

        Returns:
            Shape (vectors, rows, n), of the caller's targets.
        """
        if not self._any_coincident:
            return None
        vectors = len(charges)
        own = by_vector(self.sources.bring_in(in_rows(charges).T).T, vectors)
        found = np.zeros((vectors, len(at_zero), len(self.shares.targets.keys)))
        if self._coincident is not None:
            found[..., self._coincident.targets] = self._coincident.contributions(at_zero, own)
        return by_vector(self.take_out(in_rows(found)), vectors)


def _check_count(count: int, what: str) -> None:
    """Make sure that kernels can count the points of a part.

    Raises:
        ValueError: they cannot.
    """
    if count > MOST_POINTS:
        raise ValueError(f"a part has {count:,} {what}, expected {MOST_POINTS:,} at most; use more parts")


def _entries(nboxes: int, *lists: CSR) -> NDArray[np.int64]:
    """Return the boxes that are in any row of some lists, ascending; much faster than sorting millions of entries."""
    found = np.zeros(nboxes, np.bool_)
    for csr in lists:
        found[csr.lists] = True
    return np.flatnonzero(found)


def _outermost(first: NDArray[np.uint64], last: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Return the ranges of keys that are inside no other; any two are apart or one is inside the other."""
    order = np.lexsort((np.uint64(0) - last, first))
    first, last = first[order], last[order]
    outer = np.append(True, first[1:] >= np.maximum.accumulate(last)[:-1])[: len(first)]
    return first[outer], last[outer]


def _find(boxes: NDArray[np.void], names: NDArray[np.void]) -> NDArray[np.int64]:
    """Return the numbers of boxes in an array by level and key, in which all are."""
    result = np.empty(len(names), np.int64)
    for level in np.unique(names["level"]):
        here = names["level"] == level
        start, end = np.searchsorted(boxes["level"], [level, level + 1])
        result[here] = start + np.searchsorted(boxes["key"][start:end], names["key"][here])
    return result


def _tree(
    shares: Shares,
    boxes: NDArray[np.void],
    of_sources: tuple[NDArray[Any], NDArray[Any]],
    of_targets: tuple[NDArray[Any], NDArray[Any]],
    sources: NDArray[Any],
    targets: NDArray[Any],
) -> Tree:
    """Return the tree of the boxes of a part; whether a box is a leaf is what it is in the whole tree."""
    levels, keys = boxes["level"].astype(np.int32), boxes["key"].copy()
    order = np.arange(max(sources.shape[1], targets.shape[1]), dtype=np.int32)
    level_starts = np.searchsorted(levels, np.arange(int(levels[-1]) + 2)).astype(np.int32)
    parents = np.full(len(boxes), -1, np.int32)
    children = np.full((len(boxes), SIBLINGS), -1, np.int32)
    above = np.empty(len(boxes) - 1, BOX)
    above["level"], above["key"] = levels[1:] - 1, keys[1:] >> np.uint64(3)
    parents[1:] = _find(boxes, above)
    children[parents[1:], (keys[1:] & np.uint64(7)).astype(np.int64)] = np.arange(1, len(boxes))
    return Tree(
        centre=shares.centre,
        origin=shares.origin,
        half_width=shares.half_width,
        sources=sources,
        targets=targets,
        source_order=order[: sources.shape[1]],
        target_order=order[: targets.shape[1]],
        level_starts=level_starts,
        box_levels=levels,
        box_anchors=decode(keys),
        box_keys=keys,
        box_parents=parents,
        box_children=children,
        is_leaf=boxes["leaf"].copy(),
        box_source_starts=of_sources[0].astype(np.int32),
        box_source_ends=of_sources[1].astype(np.int32),
        box_target_starts=of_targets[0].astype(np.int32),
        box_target_ends=of_targets[1].astype(np.int32),
    )
