"""Comparing what two kernels store: the same entries, each as often, and the same sums of terms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import islpy as isl

from fmmloopy.checking.proof.contributions import Store
from fmmloopy.checking.proof.identity import is_nothing
from fmmloopy.checking.proof.integers import dims_in
from fmmloopy.checking.proof.match import Context, Side, find_match, mapping, sequential_points
from fmmloopy.checking.proof.number_reader import Reader
from fmmloopy.checking.proof.races import Stored, refuse_races
from fmmloopy.checking.proof.sets import Match, difference_of, make_set, point_of
from fmmloopy.checking.proof.terms import Piece
from fmmloopy.checking.proof.verdict import Unproved


@dataclass(frozen=True)
class Kernel:
    """A kernel that has been read."""

    reader: Reader
    stores: Sequence[Store]

    def sides(self) -> list[Side]:
        """Return all sums that it stores."""
        return [Side(store, piece, self.reader) for store in self.stores for piece in store.pieces]


def compare(
    sequential: Kernel, transformed: Kernel, independent: Sequence[str], context: Context, tick: Callable[[], None]
) -> int:
    """Show that a kernel stores what the sequential one does, and return the number of sums.

    Args:
        sequential, transformed: the kernels.
        independent: loops whose iterations store to different entries.
        context: what holds for all points.
        tick: called now and then; raises an error if the proof takes too long.

    Raises:
        Unproved: it does not, or that is not shown.
    """
    _compare_arrays(sequential, transformed)
    _compare_stores(sequential, transformed, independent, context, tick)
    return _compare_sums(sequential, transformed, context, tick)


def _compare_arrays(sequential: Kernel, transformed: Kernel) -> None:
    kinds = [{(store.array, store.adds) for store in kernel.stores} for kernel in (sequential, transformed)]
    for array, adds in sorted(kinds[0] ^ kinds[1]):
        how = "adds to" if adds else "overwrites"
        who = "the sequential kernel alone" if (array, adds) in kinds[0] else "the sequential kernel does not"
        raise Unproved(f"{how} {array}: {who}")
    arrays = [array for array, _ in kinds[0]]
    if len(set(arrays)) != len(arrays):
        raise Unproved("an array is both overwritten and added to")


# -- entries


def _compare_stores(
    sequential: Kernel, transformed: Kernel, independent: Sequence[str], context: Context, tick: Callable[[], None]
) -> None:
    """Show that the same entries are stored, each by one work-item, and those that are overwritten once."""
    slots = [(store.array, store.slot) for store in sequential.stores]
    if len(set(slots)) != len(slots):
        raise Unproved("two statements of the sequential kernel store to the same entries")
    found: dict[tuple[str, tuple[int | None, ...]], list[tuple[Stored, isl.Set]]] = {slot: [] for slot in slots}
    by_slot = dict(zip(slots, sequential.stores, strict=True))
    for store in transformed.stores:
        tick()
        slot = store.array, store.slot
        if slot not in by_slot:
            raise Unproved(f"stores to other entries of {store.array} than the sequential kernel", store.id)
        side, other = Side(store, None, transformed.reader), Side(by_slot[slot], None, sequential.reader)
        match = find_match(side, other, context)
        if isinstance(match, str):
            raise Unproved(f"stores to other entries of {store.array}: {match}", store.id)
        found[slot].append((Stored(side, match[0]), match[1]))
    for slot, stored in found.items():
        tick()
        _compare_entries(Side(by_slot[slot], None, sequential.reader), stored, context)
        refuse_races([one for one, _ in stored], by_slot[slot], independent, context)


def _compare_entries(sequential: Side, stored: Sequence[tuple[Stored, isl.Set]], context: Context) -> None:
    """Show that stores go to entries of a sequential one, and if it overwrites: to all of them, once."""
    store, union = sequential.store, None
    for one, points in stored:
        every = sequential_points(sequential, one.match, context)
        moved = mapping(one.side, sequential, one.match, context).intersect_domain(points)
        image = moved.range()
        where = one.side.store.id
        if not image.is_subset(every):
            raise Unproved(f"stores to other entries of {store.array}", where, point_of(image.subtract(every)))
        if not store.adds and (not moved.is_injective() or (union is not None and not image.is_disjoint(union))):
            raise Unproved(f"overwrites an entry of {store.array} twice", where)
        union = image if union is None else union.union(image)
        if one is stored[-1][0] and not store.adds and not every.is_subset(union):
            raise Unproved(f"entries of {store.array} are not stored", where, difference_of(union, every))
    if not stored and not store.adds:
        raise Unproved(f"nothing stores to {store.array} as {store.id} does")


# -- sums


@dataclass(frozen=True)
class _Found:
    """A part of a sum of the sequential kernel: the points that are added, and all of them, both with its names."""

    image: isl.Set
    every: isl.Set
    store: Store


def _compare_sums(sequential: Kernel, transformed: Kernel, context: Context, tick: Callable[[], None]) -> int:
    """Show that every term is added once."""
    others = [x for x in sequential.sides() if x.piece and not is_nothing(x.piece.node, context.field)]
    found: dict[int, list[_Found]] = {number: [] for number in range(len(others))}
    for side in transformed.sides():
        tick()
        points = make_set(context.names, list(side.dims), context.assumed(side.conditions))
        if points.is_empty():
            continue
        assert side.piece is not None
        _refuse_unwritten(side, side.piece, context)
        if not is_nothing(side.piece.node, context.field):
            number, part = _find(side, others, found, context)
            found[number].append(part)
    for number, parts in found.items():
        tick()
        _refuse_lost(others[number], parts, context)
    return sum(map(len, found.values()))


def _refuse_unwritten(side: Side, piece: Piece, context: Context) -> None:
    """Refuse sums that read what may not have been written."""
    if not piece.needs:
        return
    dims = list(side.dims)
    conditions = list(side.conditions)
    needs = list(dict.fromkeys(need.condition for need in piece.needs))
    every = context.assumed([*conditions, *needs])
    given = list(every[len(conditions) + len(needs) :])
    points = make_set(context.names, dims, [*conditions, *given])
    if points.is_subset(make_set(context.names, dims, needs)):
        return
    for need in piece.needs:
        outside = points.subtract(make_set(context.names, dims, [need.condition]))
        if not outside.is_empty():
            raise Unproved(need.text, need.statement, point_of(outside))


def _find(side: Side, others: Sequence[Side], found: dict[int, list[_Found]], context: Context) -> tuple[int, _Found]:
    """Find which sum of the sequential kernel a sum is a part of."""
    reasons: dict[str, str] = {}
    for number, other in enumerate(others):
        if (other.store.array, other.store.slot) != (side.store.array, side.store.slot):
            continue
        matched = find_match(side, other, context)
        if isinstance(matched, str):
            reasons.setdefault(matched, "")
            continue
        part, reason, witness = _part(side, other, *matched, found[number], context)
        if part:
            return number, part
        reasons.setdefault(reason, witness)
    reason, witness = next(iter(reasons.items()), ("adds what the sequential kernel does not", ""))
    raise Unproved(reason, side.store.id, witness)


def _part(
    side: Side, other: Side, match: Match, points: isl.Set, before: Sequence[_Found], context: Context
) -> tuple[_Found | None, str, str]:
    """Return the part of a sum that another one is; or None, why it is none, and a point."""
    every = sequential_points(other, match, context)
    moved = mapping(side, other, match, context).intersect_domain(points)
    image = moved.range()
    if not image.is_subset(every):
        return None, "adds terms that are not there", point_of(image.subtract(every))
    if not moved.is_injective():
        return None, "adds a term more than once", ""
    if any(not image.is_disjoint(part.image) for part in before):
        return None, "adds a term that another statement adds, too", ""
    if loop := _narrow_loop(side, other, match):
        return None, f"sums over {loop} in a narrower type than the sequential kernel", ""
    return _Found(image, every, side.store), "", ""


def _narrow_loop(side: Side, other: Side, match: Match) -> str:
    """Return a loop over which a sum is held in a narrower type than that of the sequential kernel."""
    sizes, other_sizes = _sizes(side), _sizes(other)
    for name, value in match.image.items():
        for mine in dims_in(value):
            if sizes[mine] < other_sizes[name]:
                return side.dims[mine]
    return ""


def _sizes(side: Side) -> dict[str, int]:
    """Return the size in bytes of the numbers that hold sums over loops."""
    assert side.piece is not None
    size = side.reader.facts.argument_type(side.store.array).itemsize
    return {**dict.fromkeys(side.dims, size), **dict(side.piece.loops)}


def _refuse_lost(side: Side, parts: Sequence[_Found], context: Context) -> None:
    """Refuse to lose terms of a sum of the sequential kernel."""
    if not parts:
        every = make_set(context.names, list(side.dims), context.assumed(side.conditions))
        if not every.is_empty():
            raise Unproved(f"the terms of {side.store.id} are missing")
        return
    union = parts[0].image
    for part in parts[1:]:
        union = union.union(part.image)
    for part in parts:
        if not part.every.is_subset(union):
            raise Unproved("terms are lost", part.store.id, point_of(part.every.subtract(union)))
