"""What a temporary variable holds where it is read: which statement wrote it last, in which iteration of its loops."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pymbolic.primitives as p
from loopy.symbolic import get_dependencies

from fmmloopy.checking.proof.facts import Statement, indices, written
from fmmloopy.checking.proof.integer_reader import IntegerReader, Scope
from fmmloopy.checking.proof.integers import Affine, dim, dims_in, substitute
from fmmloopy.checking.proof.verdict import Unproved

Fresh = Callable[[str], str]
"""Makes a new loop variable for an iname."""


def update_of(integers: IntegerReader, statement: Statement) -> Any:
    """Return the term that a statement adds to what it writes, for ``v = v + term``; else None.

    Raises:
        Unproved: an index cannot be read.
    """
    if not isinstance(statement.expression, p.Sum):
        return None
    waiting, terms = list(statement.expression.children), []
    while waiting:
        child = waiting.pop(0)
        if isinstance(child, p.Sum):
            waiting = [*child.children, *waiting]
        else:
            terms.append(child)
    rest = [term for term in terms if not _is_written(integers, statement, term)]
    name = written(statement)
    if len(terms) != len(rest) + 1 or not rest or any(name in get_dependencies(term) for term in rest):
        return None
    return rest[0] if len(rest) == 1 else p.Sum(tuple(rest))


def _is_written(integers: IntegerReader, statement: Statement, term: Any) -> bool:
    """Return whether a term is the entry that a statement writes.

    Their indices must be equal, and what must have been written for the first, for the second one, too.
    """
    entry = statement.assignee
    if not isinstance(term, p.Subscript) or not isinstance(entry, p.Subscript) or term.aggregate != entry.aggregate:
        return bool(term == entry)
    env = {iname: dim(iname) for iname in statement.within_inames}
    read, write = Scope(statement, env), Scope(statement, env)
    same = [integers.value(i, read) for i in indices(term)] == [integers.value(i, write) for i in indices(entry)]
    return same and read.needs.keys() <= write.needs.keys()


@dataclass(frozen=True)
class Writers:
    """The statements that made what is read.

    Attributes:
        first: the last assignment before the read.
        updates: statements that added to it since.
        later: statements that write the variable after the read.
    """

    first: Statement
    updates: tuple[Statement, ...]
    later: tuple[Statement, ...]


def writers_of(integers: IntegerReader, name: str, reader: Statement, is_bound: bool = False) -> Writers:
    """Return who wrote a variable that a statement reads.

    Args:
        integers: reads the indices of what is added to.
        name: of the variable.
        reader: the statement.
        is_bound: whether it is a bound of the reader's loops, which loopy itself computes before.

    Raises:
        Unproved: nobody did, or statements are in no order.
    """
    facts = integers.facts
    every = facts.writers.get(name, ())
    others = [w for w in every if w.id != reader.id]
    before = [w for w in others if w.id in facts.before[reader.id] or (is_bound and len(every) == 1)]
    later = [w for w in every if w.id == reader.id or (w not in before and reader.id in facts.before[w.id])]
    for other in others:
        if other not in before and other not in later:
            raise Unproved(f"reads {name} in no order with {other.id}, which writes it", reader.id)
    if not before:
        raise Unproved(f"reads {name}, which nothing has written", reader.id)
    updates = [w for w in before if update_of(integers, w) is not None]
    assignments = [w for w in before if w not in updates]
    last = [a for a in assignments if all(b is a or b.id in facts.before[a.id] for b in assignments)]
    if len(last) != 1:
        why = "in no order" if assignments else "and nothing has cleared it"
        raise Unproved(f"reads {name}, which {', '.join(w.id for w in before)} write {why}", reader.id)
    first = last[0]
    for update in updates:
        if first.id not in facts.before[update.id] and update.id not in facts.before[first.id]:
            raise Unproved(f"{first.id} and {update.id} write {name} in no order", reader.id)
    since = tuple(u for u in updates if first.id in facts.before[u.id])
    return Writers(first, since, tuple(later))


@dataclass(frozen=True)
class Instance:
    """The iteration of a statement that wrote an entry.

    Attributes:
        env: values of its inames.
        equations: forms that are zero where there is one.
        free: new loop variables that the entry does not decide, with their inames.
    """

    env: Mapping[str, Affine]
    equations: tuple[Affine, ...]
    free: Mapping[str, str]


def solve(
    integers: IntegerReader,
    writer: Statement,
    index: tuple[Affine, ...],
    scope: Scope,
    shared: Mapping[str, str],
    fresh: Fresh,
) -> Instance:
    """Find the iteration of a writer that wrote an entry.

    Args:
        integers: reads the index that is written.
        writer: the statement.
        index: of the entry, as it is read.
        scope: of the reader; the needs of the index that is written are added.
        shared: inames of the writer that are loops of the reader, too, with the reader's names.
        fresh: makes names for the others.
    """
    unknown = {fresh(iname): iname for iname in sorted(writer.within_inames) if iname not in shared}
    env = {iname: dim(new) for new, iname in unknown.items()} | {i: scope.env[j] for i, j in shared.items()}
    inner = Scope(writer, env)
    writes = tuple(integers.value(i, inner) for i in indices(writer.assignee))
    if len(writes) != len(index):
        raise Unproved(f"{written(writer)} is written with {len(writes)} indices", scope.statement.id)
    known: dict[str, Affine] = {}
    left = [one - other for one, other in zip(writes, index, strict=True)]
    while found := _solvable(left, known, unknown):
        equation, name, value = found
        known = {k: substitute(v, {name: value}) for k, v in known.items()} | {name: value}
        left.remove(equation)
    equations = tuple(e for e in (substitute(e, known) for e in left) if not e.is_zero)
    scope.needs.update(dict.fromkeys(inner.needs))
    env = {iname: substitute(value, known) for iname, value in env.items()}
    return Instance(env, equations, {new: iname for new, iname in unknown.items() if new not in known})


def _solvable(
    equations: list[Affine], known: Mapping[str, Affine], unknown: Mapping[str, str]
) -> tuple[Affine, str, Affine] | None:
    """Return an equation that decides a loop variable, with its value."""
    for equation in equations:
        value = substitute(equation, known)
        for name, factor in value.dims():
            rest = value - dim(name).times(factor)
            if name in unknown and abs(factor) == 1 and name not in dims_in(rest):
                return equation, name, rest.times(-factor)
    return None


def refuse_later(
    integers: IntegerReader,
    later: tuple[Statement, ...],
    first: Statement,
    name: str,
    index: tuple[Affine, ...],
    scope: Scope,
    fresh: Fresh,
) -> None:
    """Refuse a read that may see what a later statement wrote in an earlier iteration of a loop.

    It does not if the first writer runs again in every iteration of the loops that reader and later writer share, or
    if the index says that the later writer writes the entry in the same iteration only.

    Raises:
        Unproved: it may.
    """
    reader = scope.statement.within_inames
    again = set(integers.facts.shared(reader, first.within_inames, name))
    for writer in later:
        common = integers.facts.shared(writer.within_inames, reader, name)
        within = {i: r for i, r in common.items() if r in again}
        open_ = {i: r for i, r in common.items() if r not in again}
        if not open_:
            continue
        instance = solve(integers, writer, index, scope.apart(), within, fresh)
        for iname, own in open_.items():
            if instance.env[iname] != scope.env[own]:
                reason = f"may read {name} as {writer.id} wrote it in an earlier iteration of {own}"
                raise Unproved(reason, scope.statement.id)
