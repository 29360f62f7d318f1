"""Reading whole numbers: loop variables, arguments, loads and temporary variables become affine forms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import loopy as lp
import numpy as np
import pymbolic.primitives as p
from loopy.symbolic import TypeCast

from fmmloopy.checking.proof.facts import Facts, Statement, indices
from fmmloopy.checking.proof.integers import (
    Affine,
    Argument,
    AtLeastZero,
    Both,
    Condition,
    Either,
    IsZero,
    Load,
    Not,
    Opaque,
    choice,
    floor_of,
    of,
    whole,
)
from fmmloopy.checking.proof.terms import Need
from fmmloopy.checking.proof.verdict import Unproved


@dataclass
class Scope:
    """Where an expression is read.

    Attributes:
        statement: that it stands in.
        env: values of the statement's inames.
        needs: what must hold there, which reading adds to.
    """

    statement: Statement
    env: Mapping[str, Affine]
    needs: dict[Need, None] = field(default_factory=dict)

    def apart(self) -> Scope:
        """Return it with needs of its own."""
        return Scope(self.statement, self.env)

    @property
    def key(self) -> tuple[Any, ...]:
        """What the values of variables depend on here."""
        return self.statement.id, tuple(sorted((name, value.key) for name, value in self.env.items()))


ReadTemporary = Callable[[str, tuple[Affine, ...], Scope, bool], Affine]
"""Reads a temporary variable with an index in a scope; and whether it is the bound of a loop."""


def narrowed(source: np.dtype[Any] | None, target: np.dtype[Any]) -> bool:
    """Return whether a whole number may change when it becomes another type, or was computed in a narrow one."""
    if target.kind != "i" or target.itemsize < 4:
        return True
    return source is not None and (source.kind != "i" or source.itemsize > max(target.itemsize, 8))


@dataclass(frozen=True)
class IntegerReader:
    """Reads whole numbers and conditions on them.

    Attributes:
        facts: of the kernel.
        launch: values of arguments that the number of lanes decides.
        merged: arrays whose axes for tile and lane are read as one: the number of the latter axis, and its length.
        read: how temporary variables are read.
    """

    facts: Facts
    launch: Mapping[str, Affine]
    merged: Mapping[str, tuple[int, int]]
    read: ReadTemporary

    def value(self, e: Any, scope: Scope) -> Affine:
        """Return the value of an expression.

        Raises:
            Unproved: it is beyond what affine forms say.
        """
        if isinstance(e, (int, np.int32, np.int64)) and not isinstance(e, bool):
            return whole(int(e))
        if isinstance(e, p.Variable):
            return self._variable(e.name, scope)
        if isinstance(e, p.Subscript):
            return self._subscript(e, scope)
        if isinstance(e, p.Sum):
            total = whole(0)
            for child in e.children:
                total = total + self.value(child, scope)
            return total
        if isinstance(e, p.Product):
            return self._product([self.value(child, scope) for child in e.children], scope.statement.id)
        if isinstance(e, (p.FloorDiv, p.Remainder)):
            return self._quotient(e, scope)
        if isinstance(e, p.If):
            then, other = self.value(e.then, scope), self.value(e.else_, scope)
            return choice(self.condition(e.condition, scope), then, other)
        if isinstance(e, (p.Min, p.Max)):
            return self._extreme(isinstance(e, p.Min), e.children, scope)
        if isinstance(e, p.Call) and (name := self.facts.function_of_loopy(e.function.name)) in ("min", "max"):
            return self._extreme(name == "min", e.parameters, scope)
        if isinstance(e, TypeCast):
            return self.converted(self.value(e.child, scope), self.facts.type_of(e.child), e.type.numpy_dtype)
        raise Unproved(f"a whole number that is a {type(e).__name__}", scope.statement.id)

    def _variable(self, name: str, scope: Scope) -> Affine:
        if name in scope.env:
            return scope.env[name]
        if self.facts.is_temporary(name):
            return self.read(name, (), scope, False)
        if name in self.facts.kernel.all_inames():
            raise Unproved(f"uses loop {name} outside of it", scope.statement.id)
        return self.argument(name, scope)

    def argument(self, name: str, scope: Scope) -> Affine:
        """Return an argument."""
        if name in self.launch:
            return self.launch[name]
        argument = self.facts.kernel.arg_dict.get(name)
        if not isinstance(argument, lp.ValueArg) or self.facts.argument_type(name).kind != "i":
            raise Unproved(f"{name} is no whole number", scope.statement.id)
        return of(Argument(name))

    def _subscript(self, e: Any, scope: Scope) -> Affine:
        name = e.aggregate.name
        index = tuple(self.value(i, scope) for i in indices(e))
        if self.facts.is_temporary(name):
            return self.read(name, index, scope, False)
        if name in self.facts.writers:
            raise Unproved(f"reads {name}, which the kernel writes", scope.statement.id)
        if self.facts.argument_type(name).kind != "i":
            raise Unproved(f"{name} has no whole numbers", scope.statement.id)
        return of(Load(name, self.merge(name, index)))

    def merge(self, name: str, index: tuple[Affine, ...]) -> tuple[Affine, ...]:
        """Read the axes of an array that are tile and lane of a row as one."""
        if name not in self.merged:
            return index
        axis, width = self.merged[name]
        return *index[: axis - 1], index[axis - 1].times(width) + index[axis], *index[axis + 1 :]

    def _product(self, factors: list[Affine], statement: str) -> Affine:
        total = whole(1)
        for x in factors:
            if total.is_constant or x.is_constant:
                total = x.times(total.constant) if total.is_constant else total.times(x.constant)
            else:
                raise Unproved(f"{total.key} times {x.key} may not fit into 32 bits", statement)
        return total

    def _quotient(self, e: Any, scope: Scope) -> Affine:
        above, below = self.value(e.numerator, scope), self.value(e.denominator, scope)
        if not below.is_constant or below.constant <= 0:
            return of(Opaque(type(e).__name__, (above, below)))
        down = floor_of(above, below.constant)
        return down if isinstance(e, p.FloorDiv) else above - down.times(below.constant)

    def _extreme(self, least: bool, items: Any, scope: Scope) -> Affine:
        values = [self.value(item, scope) for item in items]
        found = values[0]
        for x in values[1:]:
            found = choice(AtLeastZero(x - found if least else found - x), found, x)
        return found

    def converted(self, value: Affine, source: np.dtype[Any] | None, target: Any) -> Affine:
        """Return a number after it became another type."""
        target = np.dtype(target)
        if target.kind != "i":
            raise Unproved(f"a whole number as {target}")
        fits = value.is_constant and np.iinfo(target).min <= value.constant <= np.iinfo(target).max
        return of(Opaque(f"as {target}", (value,))) if narrowed(source, target) and not fits else value

    def condition(self, e: Any, scope: Scope) -> Condition:
        """Return a condition on whole numbers."""
        if isinstance(e, p.LogicalAnd):
            return Both(tuple(self.condition(c, scope) for c in e.children))
        if isinstance(e, p.LogicalOr):
            return Either(tuple(self.condition(c, scope) for c in e.children))
        if isinstance(e, p.LogicalNot):
            return Not(self.condition(e.child, scope))
        if not isinstance(e, p.Comparison):
            raise Unproved(f"a condition that is a {type(e).__name__}", scope.statement.id)
        left, right = self.value(e.left, scope), self.value(e.right, scope)
        operator = getattr(e.operator, "value", e.operator)
        if operator in ("==", "!="):
            equal = IsZero(left - right)
            return equal if operator == "==" else Not(equal)
        if operator in (">", ">="):
            left, right, operator = right, left, {">": "<", ">=": "<="}[operator]
        return AtLeastZero(right - left - whole(1 if operator == "<" else 0))

    def domain(self, scope: Scope, inames: frozenset[str] | None = None) -> list[Condition]:
        """Return when a statement runs: the bounds of its loops, and its predicates."""
        inames = frozenset(scope.statement.within_inames) if inames is None else inames
        found: list[Condition] = []
        for equation, terms, constant in self.facts.domain(inames):
            value = whole(constant)
            for name, factor in terms:
                value = value + self.in_domain(name, scope).times(factor)
            found.append(IsZero(value) if equation else AtLeastZero(value))
        found += [self.condition(c, scope) for c in sorted(scope.statement.predicates, key=str)]
        return found

    def in_domain(self, name: Any, scope: Scope) -> Affine:
        """Return a number in the bounds of loops, or a quotient that is rounded down."""
        if isinstance(name, tuple):
            factors, constant, divisor = name
            value = whole(constant)
            for one, factor in factors:
                value = value + self.in_domain(one, scope).times(factor)
            return floor_of(value, divisor)
        if name in scope.env:
            return scope.env[name]
        if self.facts.is_temporary(name):
            return self.read(name, (), scope, True)
        return self.argument(name, scope)
