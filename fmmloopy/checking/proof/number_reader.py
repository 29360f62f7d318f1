"""Reading real numbers: expressions become sums of terms, and temporary variables what was written to them."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import loopy as lp
import numpy as np
import pymbolic.primitives as p
from loopy.library.reduction import SumReductionOperation
from loopy.symbolic import Reduction, TypeAnnotation, TypeCast

from fmmloopy.checking.proof import lemmas
from fmmloopy.checking.proof.facts import Facts, Statement, indices
from fmmloopy.checking.proof.identity import Field
from fmmloopy.checking.proof.integer_reader import IntegerReader, Scope
from fmmloopy.checking.proof.integers import Affine, Condition, Not, dim
from fmmloopy.checking.proof.memory import writers_of
from fmmloopy.checking.proof.scatter import read_scattered
from fmmloopy.checking.proof.sums import Read, read_sum, refuse_later
from fmmloopy.checking.proof.terms import (
    ONE,
    ZERO,
    Call,
    Constant,
    Entry,
    Need,
    Node,
    Parameter,
    Piece,
    Reciprocal,
    Select,
    Test,
    multiplied,
    plus,
)
from fmmloopy.checking.proof.verdict import Unproved

LARGEST_POWER = 16
"""Whole powers up to this are read as products."""

REAL_TYPES = (np.float32, np.float64)
"""Types of constants; C computes with whole numbers that have a type as such, and their products may not fit."""

LARGEST_CONSTANT = 2**63
"""Whole numbers that are written in a kernel are less than this, or no type holds them."""


class Reader:
    """Reads what a kernel computes.

    Args:
        facts: of the kernel.
        prefix: of the names of its loop variables, so that those of two kernels differ.
        field: that terms are evaluated in.
        launch, merged: see `IntegerReader`.
        distinct: see `fmmloopy.checking.proof.scatter`.
    """

    def __init__(
        self,
        facts: Facts,
        prefix: str,
        field: Field,
        launch: Mapping[str, Affine],
        merged: Mapping[str, tuple[int, int]],
        distinct: Mapping[str, int],
    ) -> None:
        self.facts, self._prefix, self._field, self._distinct = facts, prefix, field, distinct
        self.integers = IntegerReader(facts, launch, merged, self._read_integer)
        self.inames: dict[str, str] = {}
        self._integers: dict[Any, tuple[Affine, dict[Need, None]]] = {}
        self._sums: dict[Any, list[Piece]] = {}
        self._reading: set[Any] = set()

    def fresh(self, iname: str) -> str:
        """Return a new loop variable for an iname."""
        name = f"{self._prefix}{len(self.inames)}_{iname}"
        self.inames[name] = iname
        return name

    # -- whole numbers in temporary variables

    def _read_integer(self, name: str, index: tuple[Affine, ...], scope: Scope, is_bound: bool) -> Affine:
        key = name, index, scope.key, is_bound
        if key not in self._integers:
            self._enter(key, scope)
            self._integers[key] = self._integer(name, index, scope, is_bound)
            self._reading.remove(key)
        value, needs = self._integers[key]
        scope.needs.update(needs)
        return value

    def _integer(
        self, name: str, index: tuple[Affine, ...], scope: Scope, is_bound: bool
    ) -> tuple[Affine, dict[Need, None]]:
        facts, read = self.facts, Read(self, name, index, scope.apart())
        if facts.temporary_type(name).kind != "i":
            raise Unproved(f"{name} is no whole number", scope.statement.id)
        writers = writers_of(self.integers, name, scope.statement, is_bound)
        if writers.updates:
            raise Unproved(f"{name} is a sum of whole numbers", scope.statement.id)
        refuse_later(read, writers)
        first = writers.first
        instance = read.solve(first, read.shared(first, scope.statement), read.scope)
        read.refuse_open(first, instance.free)
        conditions, needs = read.conditions(first, instance)
        inner = Scope(first, instance.env)
        value = self.integers.value(first.expression, inner)
        value = self.integers.converted(value, facts.type_of(first.expression), facts.temporary_type(name))
        return value, {**read.scope.needs, **needs, **inner.needs, **read.needs(first, conditions)}

    # -- real numbers

    def value(self, e: Any, scope: Scope) -> list[Piece]:
        """Return the sums of terms that an expression is.

        Raises:
            Unproved: it is beyond what terms say.
        """
        if isinstance(e, (int, float, np.number)) and not isinstance(e, bool):
            if isinstance(e, np.number) and (e.dtype not in REAL_TYPES or e.dtype.itemsize < self.facts.least):
                raise Unproved(f"a constant in {e.dtype}", scope.statement.id)
            return [Piece(_constant(e, self.facts.least, scope.statement))]
        if isinstance(e, (p.Variable, p.Subscript)):
            return self._variable(e, scope)
        if isinstance(e, p.Sum):
            total: list[Piece] = []
            for child in e.children:
                total = plus(total, self.value(child, scope))
            return total
        if isinstance(e, p.Product):
            return self._product(e.children, scope)
        if isinstance(e, p.Quotient):
            below = self.one(e.denominator, scope)
            above = self.value(e.numerator, scope)
            return multiplied(above, [Piece(Reciprocal(below.node), needs=below.needs)], scope.statement.id)
        if isinstance(e, p.Power):
            return self._power(e, scope)
        if isinstance(e, p.Call):
            return self._call(e, scope)
        if isinstance(e, p.If):
            return self._if(e, scope)
        if isinstance(e, TypeCast):
            pieces = self.value(e.child, scope)
            return self.rounded(pieces, self.facts.type_of(e.child), np.dtype(e.type.numpy_dtype), scope.statement)
        if isinstance(e, TypeAnnotation):
            return self.value(e.child, scope)
        if isinstance(e, Reduction):
            return self._reduction(e, scope)
        raise Unproved(f"a number that is a {type(e).__name__}", scope.statement.id)

    def one(self, e: Any, scope: Scope) -> Piece:
        """Return an expression that is one number, not a sum over a loop, nor under a condition."""
        pieces = self.value(e, scope)
        if len(pieces) != 1 or not pieces[0].is_plain:
            raise Unproved("a sum over a loop, or a number under a condition, within a function", scope.statement.id)
        return pieces[0]

    def _variable(self, e: Any, scope: Scope) -> list[Piece]:
        name = e.name if isinstance(e, p.Variable) else e.aggregate.name
        inner = scope.apart()
        index = tuple(self.integers.value(i, inner) for i in indices(e))
        needs = tuple(inner.needs)
        if self.facts.is_temporary(name):
            if self.facts.temporary_type(name).kind != "f":
                raise Unproved(f"{name}, a whole number, is used as a real one", scope.statement.id)
            return [piece.under((), needs) for piece in self.read(name, index, scope)]
        argument = self.facts.kernel.arg_dict.get(name)
        if argument is None or self.facts.argument_type(name).kind != "f":
            raise Unproved(f"{name}, no real number, is used as one", scope.statement.id)
        if name in self.facts.writers:
            raise Unproved(f"reads {name}, which the kernel writes", scope.statement.id)
        if isinstance(argument, lp.ValueArg):
            return [Piece(Parameter(name))]
        return [Piece(Entry(name, self.integers.merge(name, index)), needs=needs)]

    def _product(self, factors: Any, scope: Scope) -> list[Piece]:
        total = [Piece(ONE)]
        for factor in factors:
            total = multiplied(total, self.value(factor, scope), scope.statement.id)
        return total

    def _power(self, e: Any, scope: Scope) -> list[Piece]:
        exponent = e.exponent
        if isinstance(exponent, int) and 0 < exponent <= LARGEST_POWER:
            self._refuse_narrow(e.base, scope)
            return self._product([e.base] * exponent, scope)
        self._refuse_narrow(e, scope)
        base, power = self.one(e.base, scope), self.one(exponent, scope)
        return [Piece(Call("pow", (base.node, power.node)), needs=base.needs).under((), power.needs)]

    def _call(self, e: Any, scope: Scope) -> list[Piece]:
        name = lemmas.known_function(self.facts, e, scope.statement)
        self._refuse_narrow(e, scope)
        operands = [self.one(x, scope) for x in e.parameters]
        nodes = tuple(piece.node for piece in operands)
        node: Node = Call(name, nodes)
        if name in lemmas.RECIPROCAL_ROOTS:
            node = Reciprocal(Call("sqrt", nodes))
        return [Piece(node).under((), (need for piece in operands for need in piece.needs))]

    def _reduction(self, e: Any, scope: Scope) -> list[Piece]:
        if not isinstance(e.operation, SumReductionOperation):
            raise Unproved("a reduction that is no sum", scope.statement.id)
        size = (self.facts.type_of(e.expr) or np.dtype(np.float32)).itemsize
        new = {iname: self.fresh(iname) for iname in e.inames}
        inner = Scope(scope.statement, {**scope.env, **{iname: dim(name) for iname, name in new.items()}})
        domain = self.integers.domain(inner, frozenset(inner.env))  # with the loops of sums around this one
        loops = frozenset((name, size) for name in new.values())
        pieces = self.value(e.expr, inner)
        return [
            Piece(x.node, x.loops | loops, tuple(domain), x.needs).under(x.conditions, tuple(inner.needs))
            for x in pieces
        ]

    def _refuse_narrow(self, e: Any, scope: Scope) -> None:
        """Refuse a power or a function that is computed in a type narrower than all arguments, as of constants."""
        found = self.facts.type_of(e)
        if found is not None and (found.kind != "f" or found.itemsize < self.facts.least):
            raise Unproved(f"a function or a power is computed in {found}", scope.statement.id)

    # -- conditions

    def _if(self, e: Any, scope: Scope) -> list[Piece]:
        condition = e.condition
        if isinstance(condition, p.LogicalAnd):
            chain = e.then
            for one in reversed(condition.children):
                chain = p.If(one, chain, e.else_)
            return self.value(chain, scope)
        if isinstance(condition, p.LogicalOr):
            chain = e.else_
            for one in reversed(condition.children):
                chain = p.If(one, e.then, chain)
            return self.value(chain, scope)
        if isinstance(condition, p.LogicalNot):
            return self.value(p.If(condition.child, e.else_, e.then), scope)
        if isinstance(condition, p.Comparison) and any(map(self.facts.is_real, (condition.left, condition.right))):
            return self._select(e, scope)
        inner = scope.apart()
        holds: Condition = self.integers.condition(condition, inner)
        then = [x.under((holds,), tuple(inner.needs)) for x in self.value(e.then, scope)]
        other = [x.under((Not(holds),), tuple(inner.needs)) for x in self.value(e.else_, scope)]
        return lemmas.same_either_way(then, other, self._field) or [*then, *other]

    def _select(self, e: Any, scope: Scope) -> list[Piece]:
        operator = getattr(e.condition.operator, "value", e.condition.operator)
        left, right = self.one(e.condition.left, scope), self.one(e.condition.right, scope)
        needs = (*left.needs, *right.needs)
        if operator in ("<", "<="):
            operator, left, right = {"<": ">", "<=": ">="}[operator], right, left
        test = Test(operator, left.node, right.node)
        then, other = self.value(e.then, scope), self.value(e.else_, scope)
        if all(x.node is ZERO and x.is_plain for x in other):
            needs = (*needs, *(need for x in other for need in x.needs))
            return [
                Piece(ZERO if x.node is ZERO else Select(test, x.node, ZERO), x.loops, x.conditions, x.needs).under(
                    (), needs
                )
                for x in then
            ]
        if len(then) != 1 or len(other) != 1 or not then[0].is_plain or not other[0].is_plain:
            raise Unproved("a test of sums over loops", scope.statement.id)
        piece = Piece(Select(test, then[0].node, other[0].node), needs=then[0].needs)
        return [piece.under((), (*other[0].needs, *needs))]

    # -- types

    def rounded(
        self, pieces: list[Piece], source: np.dtype[Any] | None, target: np.dtype[Any], statement: Statement
    ) -> list[Piece]:
        """Return numbers after they became another type: a function of them, if that type may be narrower.

        Rounding to the only real type of the arguments, or to a wider one, changes no more than arithmetic does. Only
        constants have a narrower type than all arguments, and arithmetic with them rounds to it.
        """
        if target.kind != "f" or (source is not None and source.kind != "f" and not _constants(pieces)):
            raise Unproved(f"a {source} becomes a {target}", statement.id)
        least = self.facts.least
        if source is not None and source.kind == "f" and source.itemsize < min(target.itemsize, least):
            target = source  # which constants were computed in
        wide = target.itemsize > least or (target.itemsize == least and not self.facts.is_mixed)
        wider = source is not None and source.kind == "f" and least <= source.itemsize <= target.itemsize
        if wide or wider:
            return pieces
        return [
            x if _is_exact(x.node, target) else Piece(Call(f"as {target}", (x.node,)), x.loops, x.conditions, x.needs)
            for x in pieces
        ]

    # -- temporary variables

    def read(self, name: str, index: tuple[Affine, ...], scope: Scope) -> list[Piece]:
        """Return what a temporary variable holds."""
        key = name, index, scope.key
        if key not in self._sums:
            self._enter(key, scope)
            read = Read(self, name, index, scope)
            pieces = read_scattered(read, self._distinct) or read_sum(read)
            self._sums[key] = lemmas.without_polynomials(pieces, self.facts, self._field)
            self._reading.remove(key)
        return self._sums[key]

    def _enter(self, key: Any, scope: Scope) -> None:
        if key in self._reading:
            raise Unproved(f"{key[0]} depends on itself", scope.statement.id)
        self._reading.add(key)

    def written_value(self, writer: Statement, scope: Scope, what: Any) -> list[Piece]:
        """Return an expression of a statement, in the type of what the statement writes."""
        pieces = self.value(what, scope)
        return self.rounded(pieces, self.facts.type_of(what), self.facts.target_type(writer), writer)


def _constant(value: Any, least: int, statement: Statement) -> Node:
    """Return a number that is written in a kernel.

    Args:
        value: the number.
        least: size in bytes of the type that it may become.
        statement: that has it.

    Raises:
        Unproved: it is not one of the normal numbers of that type, nor zero.
    """
    if isinstance(value, (int, np.integer)):
        if abs(int(value)) >= LARGEST_CONSTANT:
            raise Unproved(f"{value} fits into no type", statement.id)
        exact = Fraction(int(value))
    else:
        type_ = np.finfo(np.float32 if least < np.dtype(np.float64).itemsize else np.float64)
        if value and not float(type_.tiny) <= abs(float(value)) <= float(type_.max):
            raise Unproved(f"{value} is no number in {type_.dtype}", statement.id)
        exact = Fraction(float(value))
    return {Fraction(0): ZERO, Fraction(1): ONE}.get(exact) or Constant(exact)


def _constants(pieces: list[Piece]) -> bool:
    return all(isinstance(x.node, Constant) for x in pieces)


def _is_exact(node: Node, target: np.dtype[Any]) -> bool:
    """Return whether a term is a constant that a type holds, or a choice between two."""
    if isinstance(node, Select):
        return _is_exact(node.then, target) and _is_exact(node.other, target)
    return isinstance(node, Constant) and Fraction(float(target.type(float(node.value)))) == node.value
