"""Whole numbers fit into their types: every index, bound and condition on the way, for all sizes of the contract.

Generated code computes with 32 bits, in the order that is written, or that isl gives affine forms. So every part of an
expression must fit, every sum and product from the left, each part in its own type, and the sums of the positive and of
the negative terms of every form, at all points at which the statement runs. Bounds of a loop are computed wherever the
loops around it run, even if it is then empty.

A quotient that is rounded down needs more room: loopy subtracts the divisor less one from negative numerators, and isl
writes ``floor(-n/8)`` as ``-n + floor(7*n/8)``, in bounds of loops and in indices.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pymbolic.primitives as p
from loopy.symbolic import Reduction, TypeAnnotation, TypeCast

from fmmloopy.checking.proof.contract import assumed_ranges
from fmmloopy.checking.proof.facts import Constraint, Facts, Statement, indices, written
from fmmloopy.checking.proof.integer_reader import IntegerReader, Scope
from fmmloopy.checking.proof.integers import (
    Affine,
    Argument,
    AtLeastZero,
    Atom,
    Condition,
    Dim,
    Either,
    Load,
    atoms_of,
    dim,
    dims_in,
    of,
    parts_of,
    whole,
)
from fmmloopy.checking.proof.match import Context
from fmmloopy.checking.proof.number_reader import Reader
from fmmloopy.checking.proof.sets import make_set
from fmmloopy.checking.proof.verdict import Unproved
from fmmloopy.common.sizes import MOST_INDEX

LEAST_BYTES = 4
"""C computes with at least as many, whatever the types of numbers."""

MOST_RELATED = 6
"""Loops that have constraints with one; each may be inside or outside of it."""


def refuse_overflow(reader: Reader, context: Context, sizes: Any, tick: Callable[[], None]) -> None:
    """Refuse whole numbers that may not fit into the type that they are computed in.

    Args:
        reader: of the kernel.
        context: what holds for all points.
        sizes: of arrays, see `sizes_of_arrays`.
        tick: called now and then.

    Raises:
        Unproved: there is one.
    """
    checked: set[tuple[Any, ...]] = set()
    for statement in reader.facts.statements:
        tick()
        for conditions, values in _of_statement(reader, statement):
            key = frozenset(condition.key for condition in conditions)
            fresh = {(key, *value.key): value for value in values}
            left = [value for known, value in fresh.items() if known not in checked]
            checked |= fresh.keys()
            _refuse_values(left, conditions, statement, context, sizes)


def sizes_of_arrays(reader: Reader, context: Context) -> Any:
    """Return what follows for numbers from the arrays of the sequential kernel, each of at most `MOST_INDEX` entries.

    If one is read at ``26*chunk + d`` for each chunk, 26 times as many chunks are no more than that. Only indices and
    bounds of loops without loads say something of numbers.
    """
    found = make_set(context.names, [], context.assumptions).params()
    for statement in reader.facts.statements:
        env = _loops_of(statement.within_inames)
        scope = Scope(statement, env)
        for name, index in _flat(statement.expression):
            form = None if reader.facts.is_temporary(name) else reader.integers.value(index, scope)
            if form is None or not _is_plain(form) or all(abs(factor) == 1 for _, factor in form.terms):
                continue
            conditions = reader.integers.domain(scope)
            if all(map(_is_plain, conditions)):
                outside = [*conditions, *context.assumptions, AtLeastZero(form - whole(MOST_INDEX))]
                found = found.subtract(make_set(context.names, _dims(env), outside).params())
    return found


def _loops_of(inames: Iterable[str]) -> dict[str, Affine]:
    """Return loop variables; statements have the same ones, so that what they compute is checked once."""
    return {iname: dim(f"v_{iname}") for iname in sorted(inames)}


def _flat(e: Any) -> Iterator[tuple[str, Any]]:
    """Yield the arrays with one axis in an expression, with their indices."""
    if isinstance(e, p.Subscript) and len(indices(e)) == 1:
        yield e.aggregate.name, indices(e)[0]
    for part in indices(e) or _parts(e):
        yield from _flat(part)


def _is_plain(form: Affine | Condition) -> bool:
    """Return whether loop variables and arguments are all that is in a form."""
    return all(isinstance(atom, (Argument, Dim)) for atom in atoms_of(form))


def _dims(env: Mapping[str, Affine]) -> list[str]:
    return [value.dims()[0][0] for value in env.values()]


@dataclass(frozen=True)
class _Value:
    """A whole number that is computed.

    Attributes:
        form: the number.
        size: of its type in bytes.
        is_exact: whether its terms are added in one order, so that no part of the sum is computed.
    """

    form: Affine
    size: int = LEAST_BYTES
    is_exact: bool = False

    @property
    def key(self) -> tuple[str, int, bool]:
        """What it is known by."""
        return self.form.key, self.size, self.is_exact

    @property
    def range(self) -> tuple[int, int]:
        """The least and the most number of its type."""
        return -(2 ** (8 * self.size - 1)), 2 ** (8 * self.size - 1) - 1

    def parts(self) -> Iterator[_Value]:
        """Yield the number, and the sums of its positive and of its negative terms, which come in any order."""
        yield self
        if self.form.terms and not self.is_exact:
            yield from (replace(self, form=part) for part in _signed(self.form))


def _signed(form: Affine) -> Iterator[Affine]:
    """Yield the sums of the positive and of the negative terms of a form that has both."""
    for sign in (1, -1):
        kept = [(atom, factor) for atom, factor in form.terms if factor * sign > 0]
        constant = form.constant if form.constant * sign > 0 else 0
        if len(kept) != len(form.terms) or constant != form.constant:
            yield Affine(kept, constant)


@dataclass(frozen=True)
class _Watcher(IntegerReader):
    """Reads whole numbers, and notes each one that is computed on the way.

    Attributes:
        is_index: whether the numbers are in an index, which isl simplifies.
        seen: what was noted.
    """

    is_index: bool = False
    seen: list[_Value] = field(default_factory=list)

    def value(self, e: Any, scope: Scope) -> Affine:
        found = super().value(e, scope)
        self.seen.append(_Value(found, self._size(e)))
        if isinstance(e, (p.Sum, p.Product)):
            self.seen.extend(self._from_the_left(e, scope))
        elif isinstance(e, (p.FloorDiv, p.Remainder)):
            self.seen.extend(self._rounded_down(e, scope))
        return found

    def _size(self, e: Any) -> int:
        found = self.facts.type_of(e)
        return LEAST_BYTES if found is None else max(LEAST_BYTES, found.itemsize)

    def _from_the_left(self, e: Any, scope: Scope) -> Iterator[_Value]:
        """Yield the sums or products of the first operands: C computes each in the widest type of these operands."""
        total, size = whole(0 if isinstance(e, p.Sum) else 1), LEAST_BYTES
        for child in e.children:
            x = super().value(child, scope)
            total = total + x if isinstance(e, p.Sum) else self._product([total, x], scope.statement.id)
            size = max(size, self._size(child))
            yield _Value(total, size)

    def _rounded_down(self, e: Any, scope: Scope) -> Iterator[_Value]:
        """Yield what is computed to round a quotient down."""
        above, below = (super(_Watcher, self).value(x, scope) for x in (e.numerator, e.denominator))
        if below.is_constant and below.constant > 0:
            yield _Value(above - whole(below.constant - 1), self._size(e), is_exact=True)
            if self.is_index:
                yield _Value(self._reduced(e.numerator, below.constant, scope), self._size(e))

    def _reduced(self, e: Any, divisor: int, scope: Scope) -> Affine:
        """Return a numerator as isl writes it, with factors of variables from 0 to less than the divisor."""
        terms, constant = _linear(e)
        total = whole(constant % divisor)
        for part, factor in terms:
            total = total + super().value(part, scope).times(factor % divisor)
        return total

    def _subscript(self, e: Any, scope: Scope) -> Affine:
        return super(_Watcher, self if self.is_index else replace(self, is_index=True))._subscript(e, scope)


def _linear(e: Any) -> tuple[list[tuple[Any, int]], int]:
    """Return an expression as expressions with constant factors, and a constant."""
    if isinstance(e, (int, np.integer)):
        return [], int(e)
    if isinstance(e, p.Sum):
        parts = [_linear(child) for child in e.children]
        factors: dict[Any, int] = {}
        for part, factor in (term for terms, _ in parts for term in terms):
            factors[part] = factors.get(part, 0) + factor
        return list(factors.items()), sum(constant for _, constant in parts)
    if isinstance(e, p.Product):
        constants = [int(x) for x in e.children if isinstance(x, (int, np.integer))]
        others = [x for x in e.children if not isinstance(x, (int, np.integer))]
        if len(others) == 1:
            terms, constant = _linear(others[0])
            times = math.prod(constants)
            return [(part, factor * times) for part, factor in terms], constant * times
    return [(e, 1)], 0


Found = tuple[list[Condition], list[_Value]]
"""Numbers, and where they are computed."""


def _of_statement(reader: Reader, statement: Statement) -> Iterator[Found]:
    """Yield the whole numbers that a statement computes, and its loops."""
    facts, plain = reader.facts, reader.integers
    inames = frozenset(statement.within_inames)
    always = statement.copy(predicates=frozenset())
    env = _loops_of(inames)
    integers = _Watcher(facts, plain.launch, plain.merged, plain.read)
    scope = Scope(always, env)
    loops = integers.domain(scope)
    yield loops, _ends(env.values())
    for iname in sorted(inames):
        yield from _bounds_of(integers, facts, scope, iname)
    for condition in sorted(statement.predicates, key=str):
        yield from _inside(integers, condition, scope, loops)
    runs = plain.domain(Scope(statement, env))
    if not facts.is_temporary(written(statement)):
        # Entries of the same arguments are stored by the sequential kernel, or there is no proof: they are there.
        for index in (plain.value(i, scope) for i in indices(statement.assignee)):
            runs += [AtLeastZero(index), AtLeastZero(whole(MOST_INDEX) - index)]
    for index in indices(statement.assignee):
        yield from _computed(replace(integers, is_index=True), index, scope, runs)
    if facts.target_type(statement).kind == "i":
        yield from _computed(integers, statement.expression, scope, runs)
    else:
        yield from _inside(integers, statement.expression, scope, runs)
    yield from _strided(integers, statement.assignee, scope, runs)


def _ends(loops: Iterable[Affine]) -> list[_Value]:
    """Return the numbers that end loops: those after the last."""
    return [_Value(value + whole(1)) for value in loops]


def _bounds_of(integers: _Watcher, facts: Facts, scope: Scope, iname: str) -> Iterator[Found]:
    """Yield what is computed for the bounds of a loop, wherever loops around it run.

    Any of the loops that have constraints with it may be inside of it. Then its bounds do not depend on them.
    """
    every = frozenset(scope.env)
    related = sorted(_related(facts, every, iname))
    if len(related) > MOST_RELATED:
        raise Unproved(f"loop {iname} has bounds with {len(related)} others", scope.statement.id)
    for count in range(len(related) + 1):
        for inner in itertools.combinations(related, count):
            around = every - {iname, *inner}
            values = _of_bounds(integers, facts.domain(around | {iname}), scope, iname)
            yield integers.domain(scope, around), list(values)


def _related(facts: Facts, inames: frozenset[str], iname: str) -> set[str]:
    """Return the loops that have constraints with one, or with others that have."""
    together = [{name for name, _ in terms if name in inames} for _, terms, _ in facts.domain(inames)]
    found = {iname}
    while more := set().union(*(names for names in together if names & found)) - found:
        found |= more
    return found - {iname}


def _of_bounds(integers: _Watcher, constraints: Sequence[Constraint], scope: Scope, iname: str) -> Iterator[_Value]:
    """Yield the bounds of a loop, and what is computed to round and to compare them."""
    bounds: list[tuple[int, Affine]] = []
    for equation, terms, constant in constraints:
        factors = dict(terms)
        for name in factors:
            if isinstance(name, tuple):
                yield from _of_quotient(integers, name, scope)
        if own := factors.pop(iname, 0):
            rest = _sum_of(integers, factors.items(), constant, scope)
            yield _Value(rest)
            bounds.append((own, rest))
            for sign in (1, -1) if equation else (1,):
                if abs(own) > 1:
                    yield _Value(_modulo(integers, factors.items(), constant, sign, abs(own), scope))
    yield from _differences(bounds)


def _differences(bounds: Iterable[tuple[int, Affine]]) -> Iterator[_Value]:
    """Yield what decides which of two bounds is the tightest, or whether there is anything between them."""
    for (one, rest), (other, more) in itertools.combinations(bounds, 2):
        sign = -1 if one * other > 0 else 1
        yield _Value(rest.times(abs(other)) + more.times(sign * abs(one)))


def _of_quotient(integers: _Watcher, quotient: tuple[Any, ...], scope: Scope) -> Iterator[_Value]:
    """Yield the numerator of a quotient in a constraint, which may be rounded up or down."""
    factors, constant, divisor = quotient
    yield _Value(_sum_of(integers, factors, constant, scope))
    for sign in (1, -1):
        yield _Value(_modulo(integers, factors, constant, sign, divisor, scope))


def _sum_of(integers: _Watcher, factors: Iterable[tuple[Any, int]], constant: int, scope: Scope) -> Affine:
    total = whole(constant)
    for name, factor in factors:
        total = total + integers.in_domain(name, scope).times(factor)
    return total


def _modulo(
    integers: _Watcher, factors: Iterable[tuple[Any, int]], constant: int, sign: int, divisor: int, scope: Scope
) -> Affine:
    """Return a numerator, or its negative, with factors as isl writes them."""
    reduced = [(name, sign * factor % divisor) for name, factor in factors]
    return _sum_of(integers, reduced, sign * constant % divisor, scope)


def _computed(integers: _Watcher, e: Any, scope: Scope, where: list[Condition]) -> Iterator[Found]:
    """Yield everything that is computed for a whole number."""
    start = len(integers.seen)
    integers.value(e, scope)
    yield where, integers.seen[start:]


def _inside(integers: _Watcher, e: Any, scope: Scope, where: list[Condition]) -> Iterator[Found]:
    """Yield the whole numbers in an expression: indices and sides of comparisons."""
    if isinstance(e, p.Subscript):
        for index in indices(e):
            yield from _computed(replace(integers, is_index=True), index, scope, where)
        yield from _strided(integers, e, scope, where)
    elif isinstance(e, p.Comparison) and not any(map(integers.facts.is_real, (e.left, e.right))):
        for side in (e.left, e.right):
            yield from _computed(integers, side, scope, where)
    elif isinstance(e, Reduction):
        env = {**scope.env, **_loops_of(e.inames)}
        inner = Scope(scope.statement, env)
        loops = [*where, *integers.domain(inner, frozenset(env))]
        yield loops, _ends(env[iname] for iname in e.inames)
        for iname in e.inames:
            yield from _bounds_of(integers, integers.facts, inner, iname)
        yield from _inside(integers, e.expr, inner, loops)
    else:
        for part in _parts(e):
            yield from _inside(integers, part, scope, where)


def _parts(e: Any) -> tuple[Any, ...]:
    """Return the expressions that an expression is made of."""
    if isinstance(e, (p.Sum, p.Product, p.LogicalAnd, p.LogicalOr, p.Min, p.Max)):
        return tuple(e.children)
    if isinstance(e, (p.Quotient, p.FloorDiv, p.Remainder)):
        return e.numerator, e.denominator
    if isinstance(e, p.Power):
        return e.base, e.exponent
    if isinstance(e, p.Comparison):
        return e.left, e.right
    if isinstance(e, p.If):
        return e.condition, e.then, e.else_
    if isinstance(e, p.Call):
        return tuple(e.parameters)
    return (e.child,) if isinstance(e, (p.LogicalNot, TypeCast, TypeAnnotation)) else ()


def _strided(integers: _Watcher, e: Any, scope: Scope, where: list[Condition]) -> Iterator[Found]:
    """Yield the parts of a place in memory whose sum is one of an array, and that are none themselves.

    The place itself is one of fewer than 2^31. If no term of an index is negative, none of the terms is more than
    their sum. A stride that is a number is multiplied into each term; one that is not multiplies the sum.
    """
    name = e.aggregate.name if isinstance(e, p.Subscript) else ""
    array = integers.facts.kernel.arg_dict.get(name) or integers.facts.kernel.temporary_variables.get(name)
    lengths = getattr(array, "shape", None) or ()
    if not name or not isinstance(lengths, tuple) or len(lengths) != len(indices(e)):
        return
    values: list[_Value] = []
    for axis, index in enumerate(indices(e)):
        form, later = integers.value(index, scope), lengths[axis + 1 :]
        if any(factor < 0 for _, factor in form.terms) and all(isinstance(n, (int, np.integer)) for n in later):
            values += [_Value(part.times(math.prod(map(int, later)))) for part in _signed(form)]
    yield where, values


# -- sets


def _refuse_values(
    values: Sequence[_Value], conditions: Sequence[Condition], statement: Statement, context: Context, sizes: Any
) -> None:
    """Refuse numbers that do not fit somewhere."""
    every = {part.key: part for value in values for part in value.parts()}
    unclear = [value for value in every.values() if not _fits_anyway(value)]
    if not unclear or _outside(unclear, conditions, context).intersect_params(sizes).is_empty():
        return
    for value in unclear:
        if not _outside([value], conditions, context).intersect_params(sizes).is_empty():
            raise Unproved(f"{value.form.key} may not fit into {8 * value.size} bits", statement.id)


def _fits_anyway(value: _Value) -> bool:
    """Return whether a number fits whatever loops run."""
    least = most = value.form.constant
    for atom, factor in value.form.terms:
        ends = assumed_ranges(atom)
        if ends is None:
            return False
        least += min(factor * end for end in ends)
        most += max(factor * end for end in ends)
    return value.range[0] <= least and most <= value.range[1]


def _outside(values: Iterable[_Value], conditions: Sequence[Condition], context: Context) -> Any:
    """Return the points at which one of some numbers does not fit."""
    wrong: list[Condition] = []
    for value in values:
        least, most = value.range
        wrong += [AtLeastZero(value.form - whole(most + 1)), AtLeastZero(whole(least - 1) - value.form)]
    given = context.assumed([*conditions, Either(tuple(wrong))])
    atoms = {atom.key: atom for form in given for atom in _free(form)}
    for atom in atoms.values():
        if (ends := assumed_ranges(atom)) is not None:
            given += [AtLeastZero(of(atom) - whole(ends[0])), AtLeastZero(whole(ends[1]) - of(atom))]
    dims = sorted({name for form in given for name in dims_in(form)})
    return make_set(context.names, dims, given)


def _free(form: Affine | Condition) -> Iterator[Atom]:
    """Yield the atoms of a form but for those in the index of a load."""
    hidden = {inner.key for atom in atoms_of(form) if isinstance(atom, Load) for i in parts_of(atom)
              for inner in atoms_of(i)}  # fmt: skip
    yield from (atom for atom in atoms_of(form) if atom.key not in hidden or isinstance(atom, Load))
