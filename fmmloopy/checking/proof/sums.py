"""What a temporary variable of real numbers holds: what was assigned to it last, and what has been added since.

An accumulator is the sum of its updates over the loops that they are in and the assignment is not. It is cleared in
every iteration of the loops that assignment, updates and reader share, and the reader is in no other loop of the
updates, or it would see a part of the sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fmmloopy.checking.proof import memory
from fmmloopy.checking.proof.facts import Statement
from fmmloopy.checking.proof.integer_reader import Scope
from fmmloopy.checking.proof.integers import Affine, Condition, IsZero, dims_in
from fmmloopy.checking.proof.terms import Need, Piece, plus
from fmmloopy.checking.proof.verdict import Unproved

if TYPE_CHECKING:
    from fmmloopy.checking.proof.number_reader import Reader


@dataclass(frozen=True)
class Read:
    """The read of an entry of a temporary variable.

    Attributes:
        reader: reads the kernel.
        name, index: of the entry.
        scope: where it is read.
    """

    reader: Reader
    name: str
    index: tuple[Affine, ...]
    scope: Scope

    @property
    def statement(self) -> Statement:
        """The statement that reads."""
        return self.scope.statement

    def shared(self, one: Statement, other: Statement) -> dict[str, str]:
        """Return which inames of a statement are loops of another, with its names."""
        return self.reader.facts.shared(one.within_inames, other.within_inames, self.name)

    def solve(self, writer: Statement, shared: Mapping[str, str], scope: Scope) -> memory.Instance:
        """Find the iteration of a writer that wrote the entry."""
        return memory.solve(self.reader.integers, writer, self.index, scope, shared, self.reader.fresh)

    def conditions(
        self, writer: Statement, instance: memory.Instance, more: Iterable[Affine] = ()
    ) -> tuple[list[Condition], dict[Need, None]]:
        """Return when there is such an iteration, and what must hold for its loops to be known."""
        inner = Scope(writer, instance.env)
        domain = self.reader.integers.domain(inner)
        return [*domain, *map(IsZero, (*instance.equations, *more))], inner.needs

    def needs(self, writer: Statement, conditions: Iterable[Condition]) -> dict[Need, None]:
        """Return what must hold for a writer to have written the entry."""
        text = f"reads {self.name} where {writer.id} has not written it"
        return {Need(condition, text, self.statement.id): None for condition in conditions}

    def refuse_open(self, writer: Statement, free: Mapping[str, str]) -> None:
        """Refuse to read what every iteration of a loop overwrites."""
        if free:
            loop = next(iter(free.values()))
            reason = f"reads {self.name}, which {writer.id} writes again in every iteration of {loop}"
            raise Unproved(reason, self.statement.id)


def read_sum(read: Read) -> list[Piece]:
    """Return what a temporary variable holds where it is read.

    Raises:
        Unproved: that is not one assignment and sums over whole loops, or it may not have been written.
    """
    writers = memory.writers_of(read.reader.integers, read.name, read.statement)
    refuse_later(read, writers)
    first, updates = writers.first, writers.updates
    shared = read.shared(first, read.statement)
    for update in updates:
        common = read.shared(first, update)
        shared = {own: other for own, other in shared.items() if own in common}
    pieces, instance = assigned(read, first, shared)
    cleared, _ = read.conditions(first, instance)
    for update in updates:
        pieces = pieces + _updated(read, first, instance, update, shared, cleared)
    return as_one(pieces)


def refuse_later(read: Read, writers: memory.Writers) -> None:
    """Refuse a read that may see what a later statement wrote in an earlier iteration of a loop."""
    integers, fresh = read.reader.integers, read.reader.fresh
    memory.refuse_later(integers, writers.later, writers.first, read.name, read.index, read.scope, fresh)


def assigned(read: Read, first: Statement, shared: Mapping[str, str]) -> tuple[list[Piece], memory.Instance]:
    """Return what was assigned to an entry, and the iteration that did so."""
    here = read.scope.apart()
    instance = read.solve(first, shared, here)
    read.refuse_open(first, instance.free)
    every = read.shared(first, read.statement)
    same = [instance.env[own] - read.scope.env[other] for own, other in every.items() if own not in shared]
    conditions, more = read.conditions(first, instance, [value for value in same if not value.is_zero])
    needs = {**here.needs, **more, **read.needs(first, conditions)}
    inner = Scope(first, instance.env)
    return [x.under((), needs) for x in read.reader.written_value(first, inner, first.expression)], instance


def _updated(
    read: Read,
    first: Statement,
    cleared: memory.Instance,
    update: Statement,
    shared: Mapping[str, str],
    known: Iterable[Condition],
) -> list[Piece]:
    """Return what an update has added to an entry, over all iterations since the assignment.

    Where the entry was assigned (``known``) must hold of the reader anyway, so that is no condition of the update.
    """
    here = read.scope.apart()
    of_first = read.shared(update, first)
    own = {u: shared[f] for u, f in of_first.items() if f in shared}
    instance = read.solve(update, own, here)
    _refuse_parts(read, update, own, instance)
    for iname, other in of_first.items():
        if iname not in own and instance.env[iname] != cleared.env[other]:
            raise Unproved(f"adds to {read.name} over loop {iname}, in which {first.id} clears it", update.id)
    _refuse_together(read, update, own, instance)
    size = read.reader.facts.temporary_type(read.name).itemsize
    loops = frozenset((new, size) for new in instance.free)
    conditions, more = read.conditions(update, instance)
    term = memory.update_of(read.reader.integers, update)
    pieces = read.reader.written_value(update, Scope(update, instance.env), term)
    needs = {**here.needs, **more, **read.needs(first, known)}
    left = tuple(condition for condition in conditions if condition not in set(known))
    return [Piece(x.node, x.loops | loops, left, x.needs).under(x.conditions, needs) for x in pieces]


def _refuse_parts(read: Read, update: Statement, own: Mapping[str, str], instance: memory.Instance) -> None:
    """Refuse to read a sum in a loop in which it is still added to."""
    for iname, other in read.shared(update, read.statement).items():
        if iname not in own and instance.env[iname] != read.scope.env[other]:
            reason = f"reads {read.name} within loop {other}, in which {update.id} still adds to it"
            raise Unproved(reason, read.statement.id)


def _refuse_together(read: Read, update: Statement, own: Mapping[str, str], instance: memory.Instance) -> None:
    """Refuse sums that several work-items add to."""
    for iname in update.within_inames:
        if iname in read.reader.facts.axes and iname not in own and dims_in(instance.env[iname]) & set(instance.free):
            raise Unproved(f"work-items of {iname} add to {read.name} together", update.id)


def as_one(pieces: list[Piece]) -> list[Piece]:
    """Add the pieces that are one number each."""
    total: list[Piece] = []
    for piece in pieces:
        total = plus(total, [piece]) if piece.is_plain else total
    return [*total, *(x for x in pieces if not x.is_plain)]
