"""Comparing what two kernels store: the same entries, each as often, and the same sums of terms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import islpy as isl

from fmmloopy.checking.proof.contributions import Store
from fmmloopy.checking.proof.identity import is_nothing
from fmmloopy.checking.proof.integers import (
    Affine,
    AtLeastZero,
    Condition,
    IsZero,
    Load,
    Opaque,
    atoms_of,
    dim,
    dims_in,
    of,
    substitute,
    substitute_in_condition,
    whole,
)
from fmmloopy.checking.proof.match import Context, Side, find_match, mapping, sequential_points
from fmmloopy.checking.proof.number_reader import Reader
from fmmloopy.checking.proof.races import Stored, refuse_races
from fmmloopy.checking.proof.sets import Match, difference_of, make_set, point_of
from fmmloopy.checking.proof.terms import Entry, Piece
from fmmloopy.checking.proof.verdict import Unproved
from fmmloopy.common.sizes import LANES
from fmmloopy.operators.operator import Operator

Slot = tuple[str, tuple[int | None, ...]]
"""An array, and the constants in the index of a store to it."""


@dataclass(frozen=True)
class Kernel:
    """A kernel that has been read."""

    reader: Reader
    stores: Sequence[Store]

    def sides(self) -> list[Side]:
        """Return all sums that it stores."""
        return [Side(store, piece, self.reader) for store in self.stores for piece in store.pieces]


def compare(
    sequential: Kernel, transformed: Kernel, operator: Operator, context: Context, tick: Callable[[], None]
) -> int:
    """Show that a kernel stores what the sequential one does, and return the number of sums.

    Args:
        sequential, transformed: the kernels.
        operator: whose kernels they are.
        context: what holds for all points.
        tick: called now and then; raises an error if the proof takes too long.

    Raises:
        Unproved: it does not, or that is not shown.
    """
    _compare_arrays(sequential, transformed)
    goes_to = _compare_stores(sequential, transformed, operator, context, tick)
    return _compare_sums(sequential, transformed, goes_to, operator.tiled, context, tick)


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


@dataclass(frozen=True)
class _Entries:
    """A store, the map from its points to those of one of the sequential kernel, and all points of that one."""

    stored: Stored
    moved: isl.Map
    every: isl.Set


def _compare_stores(
    sequential: Kernel, transformed: Kernel, operator: Operator, context: Context, tick: Callable[[], None]
) -> dict[str, str]:
    """Show that the same entries are stored, each by one work-item, and those that are overwritten once.

    Returns:
        Which statement of the sequential kernel stores to the entries of each one of the transformed kernel.
    """
    slots: dict[Slot, list[Store]] = {}
    for store in sequential.stores:
        slots.setdefault((store.array, store.slot), []).append(store)
    if any(len(stores) > 1 and not all(store.adds for store in stores) for stores in slots.values()):
        raise Unproved("two statements of the sequential kernel overwrite the same entries")
    found: dict[Slot, list[_Entries]] = {slot: [] for slot in slots}
    for store in transformed.stores:
        tick()
        slot = store.array, store.slot
        if slot not in slots:
            raise Unproved(f"stores to other entries of {store.array} than the sequential kernel", store.id)
        side = Side(store, None, transformed.reader)
        others = [Side(other, None, sequential.reader) for other in slots[slot]]
        found[slot].append(_find_entries(side, others, context))
    for slot, stored in found.items():
        tick()
        first = slots[slot][0]
        if not first.adds:
            _refuse_twice(first, stored)
        refuse_races([one.stored for one in stored], operator, context)
    every = [one.stored for stored in found.values() for one in stored]
    return {one.side.store.id: one.sequential.store.id for one in every}


def _find_entries(side: Side, others: Sequence[Side], context: Context) -> _Entries:
    """Find the store of the sequential kernel whose entries a store goes to."""
    reasons: dict[str, str] = {}
    for other in others:
        found = find_match(side, other, context)
        if isinstance(found, str):
            reasons.setdefault(f"stores to other entries of {side.store.array}: {found}", "")
            continue
        match, points = found
        every = sequential_points(other, match, context)
        moved = mapping(side, other, match, context).intersect_domain(points)
        if moved.range().is_subset(every):
            return _Entries(Stored(side, other, match), moved, every)
        reasons.setdefault(f"stores to other entries of {side.store.array}", point_of(moved.range().subtract(every)))
    reason, witness = next(iter(reasons.items()))
    raise Unproved(reason, side.store.id, witness)


def _refuse_twice(sequential: Store, stored: Sequence[_Entries]) -> None:
    """Refuse to overwrite other than all entries of a store of the sequential kernel, each once."""
    if not stored:
        raise Unproved(f"nothing stores to {sequential.array} as {sequential.id} does")
    union = isl.Set.empty(stored[0].every.get_space())
    for one in stored:
        image = one.moved.range()
        if not one.moved.is_injective() or not image.is_disjoint(union):
            raise Unproved(f"overwrites an entry of {sequential.array} twice", one.stored.side.store.id)
        union = union.union(image)
    last = stored[-1]
    if not last.every.is_subset(union):
        where = last.stored.side.store.id
        raise Unproved(f"entries of {sequential.array} are not stored", where, difference_of(union, last.every))


# -- sums


@dataclass(frozen=True)
class _Found:
    """A part of a sum of the sequential kernel: the points that are added, and all of them, both with its names."""

    image: isl.Set
    every: isl.Set
    store: Store


def _compare_sums(
    sequential: Kernel,
    transformed: Kernel,
    goes_to: Mapping[str, str],
    tiled: Sequence[str],
    context: Context,
    tick: Callable[[], None],
) -> int:
    """Show that every term is added once."""
    others = [x for x in sequential.sides() if x.piece and not is_nothing(x.piece.node, context.field)]
    found: dict[int, list[_Found]] = {number: [] for number in range(len(others))}
    sides = transformed.sides()
    added = [x for x in sides if x.piece and not is_nothing(x.piece.node, context.field)]
    likes = list({_named(x, like): (x, like) for x in added for like in x.entries}.values())
    idle = dict[Any, tuple[Side, isl.Set, Entry]]()
    for side in sides:
        tick()
        points = make_set(context.names, list(side.dims), context.assumed(side.conditions))
        if points.is_empty():
            continue
        assert side.piece is not None
        _refuse_unwritten(side, side.piece, context)
        if side not in added:
            idle |= {_named(side, entry): (side, points, entry) for entry in side.entries}
        else:
            same = {n: other for n, other in enumerate(others) if other.store.id == goes_to[side.store.id]}
            number, part = _find(side, same, found, tiled, context)
            found[number].append(part)
    for number, parts in found.items():
        tick()
        _refuse_lost(others[number], parts, context)
    for side, points, entry in idle.values():
        tick()
        _refuse_elsewhere(side, points, entry, likes, context)
    return sum(map(len, found.values()))


def _named(side: Side, entry: Entry) -> Any:
    """Return what tells the entries that sums read apart: the entry, and the points at which it is read."""
    return tuple(side.dims), tuple(side.conditions), entry.key


def _refuse_elsewhere(
    side: Side, points: isl.Set, entry: Entry, likes: Sequence[tuple[Side, Entry]], context: Context
) -> None:
    """Refuse idle lanes that read where no number may be: further than `LANES` after an entry that is added."""
    for other, like in sorted(likes, key=lambda pair: pair[1].key != entry.key):  # the same entry is enough mostly
        region = _near(side, entry, other, like, context)
        points = points.subtract(region) if region is not None else points
        if points.is_empty():
            return
    raise Unproved(f"idle lanes read {entry.array} elsewhere", side.store.id)


def _near(side: Side, entry: Entry, other: Side, like: Entry, context: Context) -> isl.Set | None:
    """Return the points at which an entry is at most `LANES` after one of another sum, for the same loads."""
    if entry.array != like.array or len(entry.index) != len(like.index):
        return None
    forms: list[Affine | Condition] = [*other.conditions, *like.index]
    fixed = {name for form in forms for atom in atoms_of(form) if isinstance(atom, (Load, Opaque))
             for name in dims_in(of(atom))}  # fmt: skip
    if not fixed <= set(side.dims):
        return None
    moved = {name: f"{name}_other" for name in other.dims if name not in fixed}
    by = {name: dim(new) for name, new in moved.items()}
    *apart, last = (x - substitute(y, by) for x, y in zip(entry.index, like.index, strict=True))
    given = [substitute_in_condition(condition, by) for condition in other.conditions]
    given += [*map(IsZero, apart), AtLeastZero(last), AtLeastZero(whole(LANES) - last)]
    dims = [*side.dims, *moved.values()]
    found = make_set(context.names, dims, context.assumed(given))
    return found.project_out(isl.dim_type.set, len(side.dims), len(moved))


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


def _find(
    side: Side,
    others: Mapping[int, Side],
    found: Mapping[int, Sequence[_Found]],
    tiled: Sequence[str],
    context: Context,
) -> tuple[int, _Found]:
    """Find which sum of the sequential kernel a sum is a part of."""
    reasons: dict[str, str] = {}
    for number, other in others.items():
        matched = find_match(side, other, context)
        if isinstance(matched, str):
            reasons.setdefault(matched, "")
            continue
        part, reason, witness = _part(side, other, *matched, found[number], tiled, context)
        if part:
            return number, part
        reasons.setdefault(reason, witness)
    reason, witness = next(iter(reasons.items()), ("adds what the sequential kernel does not", ""))
    raise Unproved(reason, side.store.id, witness)


def _part(
    side: Side,
    other: Side,
    match: Match,
    points: isl.Set,
    before: Sequence[_Found],
    tiled: Sequence[str],
    context: Context,
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
    if loop := _narrow_loop(side, other, match, tiled):
        return None, f"sums over {loop} in a narrower type than the sequential kernel", ""
    return _Found(image, every, side.store), "", ""


def _narrow_loop(side: Side, other: Side, match: Match, tiled: Sequence[str]) -> str:
    """Return a loop over which a sum is held in a narrower type than that of the sequential kernel, but for tiles."""
    sizes, other_sizes = _sizes(side), _sizes(other)
    for name, value in match.image.items():
        if other.dims[name] in tiled:
            continue
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
