"""What a kernel stores: for every store, the entries, and the sums of terms that are stored or added there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fmmloopy.checking.proof.facts import Statement, indices, written
from fmmloopy.checking.proof.integer_reader import Scope
from fmmloopy.checking.proof.integers import Affine, Condition, dim
from fmmloopy.checking.proof.memory import update_of
from fmmloopy.checking.proof.number_reader import Reader
from fmmloopy.checking.proof.terms import Piece


@dataclass(frozen=True)
class Store:
    """What one statement stores.

    Attributes:
        array, index: where.
        adds: whether it adds to what is there.
        pieces: sums of terms.
        inames: names of loops by loop variable.
        conditions: where it runs.
        statement: the statement.
    """

    array: str
    index: tuple[Affine, ...]
    adds: bool
    pieces: tuple[Piece, ...]
    inames: Mapping[str, str]
    conditions: tuple[Condition, ...]
    statement: Statement

    @property
    def id(self) -> str:
        """The id of the statement."""
        return str(self.statement.id)

    @property
    def slot(self) -> tuple[int | None, ...]:
        """The constants in its index; two stores with different ones never meet."""
        return tuple(i.constant if i.is_constant else None for i in self.index)


def read_stores(reader: Reader) -> list[Store]:
    """Read all statements that store to arguments.

    Raises:
        Unproved: one of them cannot be read.
    """
    facts = reader.facts
    return [_store(reader, s) for s in facts.statements if not facts.is_temporary(written(s))]


def _store(reader: Reader, statement: Statement) -> Store:
    name = written(statement)
    scope = Scope(statement, {iname: dim(reader.fresh(iname)) for iname in sorted(statement.within_inames)})
    inames = {value.dims()[0][0]: iname for iname, value in scope.env.items()}
    conditions = tuple(reader.integers.domain(scope))
    index = tuple(reader.integers.value(i, scope) for i in indices(statement.assignee))
    term = update_of(reader.integers, statement)
    pieces = reader.written_value(statement, scope, statement.expression if term is None else term)
    return Store(
        name,
        reader.integers.merge(name, index),
        term is not None,
        tuple(piece.under((), scope.needs) for piece in pieces),
        inames,
        conditions,
        statement,
    )
