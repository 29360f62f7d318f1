"""Arrays that are written where an array of indices says: ``grid[columns[0, s], columns[1, s]] = value``.

Where an operator declares that the columns differ, every entry is written once at most. So it is the sum over s of
``value`` where the index is that of the entry, beside what was there before.
"""

from __future__ import annotations

from collections.abc import Mapping

from fmmloopy.checking.proof import memory
from fmmloopy.checking.proof.facts import Statement, indices
from fmmloopy.checking.proof.integer_reader import Scope
from fmmloopy.checking.proof.integers import Affine, Load, atoms_of, dim, dims_in
from fmmloopy.checking.proof.sums import Read, as_one, assigned, refuse_later
from fmmloopy.checking.proof.terms import Piece
from fmmloopy.checking.proof.verdict import Unproved


def read_scattered(read: Read, distinct: Mapping[str, int]) -> list[Piece] | None:
    """Return what an entry of an array holds that was scattered into; None if it was not.

    Args:
        read: of the entry.
        distinct: arrays whose columns differ, with their numbers of rows.

    Raises:
        Unproved: two iterations may write an entry, or it is not cleared as often as it is written.
    """
    facts = read.reader.facts
    if not any(_array(read, w, distinct) for w in facts.writers.get(read.name, ())):
        return None
    writers = memory.writers_of(read.reader.integers, read.name, read.statement)
    refuse_later(read, writers)
    scatter = writers.first
    array = _array(read, scatter, distinct)
    cleared = [w for w in facts.writers[read.name] if w.id in facts.before[scatter.id]]
    if writers.updates or writers.later or len(cleared) != 1 or not array:
        raise Unproved(f"{read.name} is scattered into, and written by more than one other statement", scatter.id)
    clear = cleared[0]
    loops, again = read.shared(scatter, read.statement), read.shared(clear, read.statement)
    if not _is_cleared(loops, again, read.shared(clear, scatter)):
        raise Unproved(f"{clear.id} does not clear {read.name} as often as {scatter.id} writes it", read.statement.id)
    before, _ = assigned(read, clear, again)
    return as_one(before) + _scattered(read, scatter, array, distinct[array], loops)


def _is_cleared(loops: Mapping[str, str], again: Mapping[str, str], common: Mapping[str, str]) -> bool:
    """Return whether an array is cleared as often as it is written: the loops shared with the reader are the same."""
    return set(loops.values()) == set(again.values()) and len(common) == len(again)


def _array(read: Read, writer: Statement, distinct: Mapping[str, int]) -> str:
    """Return the array of columns that decides where a statement writes, "" if none does."""
    index = _written_index(read, writer, {iname: dim(iname) for iname in writer.within_inames})
    names = {atom.array for one in index for atom in atoms_of(one) if isinstance(atom, Load)}
    return next(iter(names)) if len(names) == 1 and names <= set(distinct) else ""


def _written_index(read: Read, writer: Statement, env: Mapping[str, Affine]) -> list[Affine]:
    return [read.reader.integers.value(i, Scope(writer, env)) for i in indices(writer.assignee)]


def _scattered(read: Read, scatter: Statement, array: str, rows: int, loops: Mapping[str, str]) -> list[Piece]:
    """Return what was scattered to an entry, as a sum over the columns."""
    here = read.scope.apart()
    instance = read.solve(scatter, loops, here)
    if len(instance.free) != 1:
        raise Unproved(f"several iterations write an entry of {read.name}", scatter.id)
    (column,) = instance.free
    deciding = [x for x in _written_index(read, scatter, instance.env) if column in dims_in(x)]
    if not _is_column(deciding, rows, column, array):
        raise Unproved(f"the index is no column of {array}", scatter.id)
    conditions, more = read.conditions(scatter, instance)
    pieces = read.reader.written_value(scatter, Scope(scatter, instance.env), scatter.expression)
    if any(not x.is_plain for x in pieces):
        raise Unproved(f"{read.name} is scattered sums", scatter.id)
    # One term at most is not rounded as a sum is.
    loop = frozenset([(column, 8)])
    return [Piece(x.node, loop, tuple(conditions), x.needs).under((), {**here.needs, **more}) for x in pieces]


def _is_column(deciding: list[Affine], rows: int, column: str, array: str) -> bool:
    """Return whether some forms are all entries of one column of an array."""
    loads = [x.terms[0][0] for x in deciding if len(x.terms) == 1 and x.terms[0][1] == 1 and x.constant == 0]
    columns = {x.index[1] for x in loads if isinstance(x, Load) and x.array == array and len(x.index) == 2}
    found = [x.index[0].constant for x in loads if isinstance(x, Load) and x.index[0].is_constant]
    return len(deciding) == rows and sorted(found) == list(range(rows)) and columns == {dim(column)}
