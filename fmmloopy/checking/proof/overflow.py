"""Whole numbers fit into their types: every index, bound and condition on the way, for all sizes of the contract.

Generated code computes with 32 bits, in the order that is written, or that isl gives affine forms. So every part of an
expression must fit, every sum from the left, and the sums of the positive and of the negative terms of every form, at
all points at which the statement runs. Bounds of a loop are computed wherever the loops around it run, even if it is
then empty.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pymbolic.primitives as p
from loopy.symbolic import Reduction, TypeAnnotation, TypeCast

from fmmloopy.checking.proof.contract import assumed_ranges
from fmmloopy.checking.proof.facts import Facts, Statement, indices, written
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
    """

    form: Affine
    size: int = LEAST_BYTES

    @property
    def key(self) -> tuple[str, int]:
        """What it is known by."""
        return self.form.key, self.size

    @property
    def range(self) -> tuple[int, int]:
        """The least and the most number of its type."""
        return -(2 ** (8 * self.size - 1)), 2 ** (8 * self.size - 1) - 1

    def parts(self) -> Iterator[_Value]:
        """Yield the number, and the sums of its positive and of its negative terms, which come in any order."""
        yield self
        if self.form.terms:
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
        seen: what was noted.
    """

    seen: list[_Value] = field(default_factory=list)

    def value(self, e: Any, scope: Scope) -> Affine:
        found = super().value(e, scope)
        size = self._size(e)
        self.seen.append(_Value(found, size))
        if isinstance(e, p.Sum):
            terms = [super(_Watcher, self).value(child, scope) for child in e.children]
            self.seen.extend(_Value(total, size) for total in _partial_sums(terms))
        return found

    def _size(self, e: Any) -> int:
        found = self.facts.type_of(e)
        return LEAST_BYTES if found is None else max(LEAST_BYTES, found.itemsize)


def _partial_sums(terms: Iterable[Affine]) -> Iterator[Affine]:
    """Yield the sums of the first terms."""
    total = whole(0)
    for term in terms:
        total = total + term
        yield total


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
        yield from _computed(integers, index, scope, runs)
    if facts.target_type(statement).kind == "i":
        yield from _computed(integers, statement.expression, scope, runs)
    else:
        yield from _inside(integers, statement.expression, scope, runs)
    yield from _strided(integers, statement.assignee, scope, runs)


def _ends(loops: Iterable[Affine]) -> list[_Value]:
    """Return the numbers that end loops: those after the last."""
    return [_Value(value + whole(1)) for value in loops]


def _bounds_of(integers: _Watcher, facts: Facts, scope: Scope, iname: str) -> Iterator[Found]:
    """Yield the bounds of a loop, wherever the other loops run."""
    others = frozenset(scope.env) - {iname}
    bounds: list[_Value] = []
    for _, terms, constant in facts.domain(frozenset(scope.env)):
        if any(name == iname for name, _ in terms):
            rest = whole(constant)
            for name, factor in terms:
                if name != iname:
                    rest = rest + integers.in_domain(name, scope).times(factor)
            bounds.append(_Value(rest))
    yield integers.domain(scope, others), bounds


def _computed(integers: _Watcher, e: Any, scope: Scope, where: list[Condition]) -> Iterator[Found]:
    """Yield everything that is computed for a whole number."""
    start = len(integers.seen)
    integers.value(e, scope)
    yield where, integers.seen[start:]


def _inside(integers: _Watcher, e: Any, scope: Scope, where: list[Condition]) -> Iterator[Found]:
    """Yield the whole numbers in an expression: indices and sides of comparisons."""
    if isinstance(e, p.Subscript):
        for index in indices(e):
            yield from _computed(integers, index, scope, where)
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
