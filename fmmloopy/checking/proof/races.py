"""Work-items and entries: every entry is stored by one work-item, and every array is written within its bounds."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import islpy as isl
from pymbolic.primitives import Subscript

from fmmloopy.checking.proof.contributions import Store
from fmmloopy.checking.proof.facts import Statement, indices, written
from fmmloopy.checking.proof.integer_reader import Scope
from fmmloopy.checking.proof.integers import (
    Affine,
    AtLeastZero,
    Condition,
    Load,
    Opaque,
    atoms_of,
    dim,
    dims_in,
    of,
    whole,
)
from fmmloopy.checking.proof.match import Context, Side, determined_dims
from fmmloopy.checking.proof.number_reader import Reader
from fmmloopy.checking.proof.sets import Match, make_map, make_set, point_of
from fmmloopy.checking.proof.verdict import Unproved
from fmmloopy.operators.operator import Operator


@dataclass(frozen=True)
class Stored:
    """A store of the transformed kernel, the one of the sequential kernel that it matches, and where its points go."""

    side: Side
    sequential: Side
    match: Match


def refuse_races(stores: Sequence[Stored], operator: Operator, context: Context) -> None:
    """Refuse stores of several work-items to one entry.

    Stores of the sequential kernel go to different entries if they differ in a loop that the operator declares
    independent, whichever statements they are, or in a range of entries that it declares to have none in common. So
    each value of these loops, and each place in a range, must belong to one work-item, in all statements that store to
    the array.

    Raises:
        Unproved: it does not, or that depends on loads that these loops do not decide.
    """
    together: isl.Map | None = None
    places = [place for stored in stores if (place := _place(stored.side.store, operator.ranges)) is not None]
    for number, stored in enumerate(stores):
        values = _independent(stored, operator.independent)
        if len(places) == len(stores):
            values.append(("place", places[number]))
        axes = _axes(stored.side)
        if not axes:
            return
        work_items = _work_items(stored, values, axes, context)
        together = work_items if together is None else together.union(work_items)
    if together is not None and not together.is_single_valued():
        loops = ", ".join(sorted(stores[0].side.store.inames[name] for name in _axes(stores[0].side).values()))
        raise Unproved(f"several work-items or groups ({loops}) store to one entry", stores[0].side.store.id)


def _independent(stored: Stored, independent: Collection[str]) -> list[tuple[str, Affine]]:
    """Return the values of the loops that an operator declares independent, in the order of their inames."""
    loops = sorted((_lane(iname), name) for name, iname in stored.sequential.store.inames.items())
    return [(name, stored.match.image[name]) for lane, name in loops if lane in independent]


def _place(store: Store, ranges: Collection[str]) -> Affine | None:
    """Return the place of an entry in its range, None if its index is not the start of a range and a place there."""
    loads = [atom for atom, factor in store.index[-1].terms if isinstance(atom, Load) and factor == 1]
    if len(loads) != 1 or loads[0].array not in ranges:
        return None
    return store.index[-1] - of(loads[0])


def _lane(iname: str) -> str:
    """Return the loop of the math-level kernel that a loop over stores was made from."""
    return iname.removesuffix("_store")


def _axes(side: Side) -> dict[str, str]:
    """Return the loop variables of the axes of work-items, in order."""
    axes = side.reader.facts.axes
    return dict(sorted((axes[i], n) for n, i in side.store.inames.items() if i in axes))


def _work_items(stored: Stored, images: list[tuple[str, Affine]], axes: dict[str, str], context: Context) -> isl.Map:
    """Return which work-items have which values of some forms, at all points and some more."""
    side, match = stored.side, stored.match
    decided = determined_dims(value for _, value in images)
    if any(not _known(value, decided) for _, value in images):
        raise Unproved("which work-item stores an entry depends on loads", side.store.id)
    conditions = [c for c in side.conditions if _known(c, decided)]
    points = make_set(context.names, list(side.dims), context.assumed(conditions), match)
    values = make_map(context.names, list(side.dims), images, match)
    places = [(axis.replace(".", ""), dim(name)) for axis, name in axes.items()]
    items = make_map(context.names, list(side.dims), places, match)
    return values.intersect_domain(points).reverse().apply_range(items)


def _known(form: Affine | Condition, decided: set[str]) -> bool:
    """Return whether all loads in a form have indices that some loop variables decide."""
    return all(dims_in(of(atom)) <= decided for atom in atoms_of(form) if isinstance(atom, (Load, Opaque)))


def refuse_out_of_bounds(reader: Reader, context: Context) -> None:
    """Refuse statements that write past the ends of a temporary array.

    Raises:
        Unproved: one does, or its array has no length that is known.
    """
    for statement in reader.facts.statements:
        if isinstance(statement.assignee, Subscript) and reader.facts.is_temporary(written(statement)):
            _refuse_out_of_bounds(reader, statement, context)


def _refuse_out_of_bounds(reader: Reader, statement: Statement, context: Context) -> None:
    name = written(statement)
    shape = reader.facts.kernel.temporary_variables[name].shape
    scope = Scope(statement, {iname: dim(reader.fresh(iname)) for iname in sorted(statement.within_inames)})
    dims = [value.dims()[0][0] for value in scope.env.values()]
    index = [reader.integers.value(i, scope) for i in indices(statement.assignee)]
    if not isinstance(shape, tuple) or len(shape) != len(index):
        raise Unproved(f"{name} has {len(index)} indices, and the shape {shape}", statement.id)
    inside: list[Condition] = []
    for i, length in zip(index, shape, strict=True):
        inside += [AtLeastZero(i), AtLeastZero(reader.integers.value(length, scope) - whole(1) - i)]
    conditions = [*reader.integers.domain(scope), *inside]
    points = make_set(context.names, dims, context.assumed(conditions)[len(conditions) :] + conditions[: -len(inside)])
    outside = points.subtract(make_set(context.names, dims, inside))
    if not outside.is_empty():
        raise Unproved(f"writes {name} past its end", statement.id, point_of(outside))
    for need in scope.needs:
        unwritten = points.subtract(make_set(context.names, dims, [need.condition]))
        if not unwritten.is_empty():
            raise Unproved(need.text, need.statement, point_of(unwritten))
