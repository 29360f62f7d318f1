"""Sums of products: derivatives written compactly, and the factors that many of them share.

An expression becomes a sum of terms, each a number times powers of *factors*: variables, and everything that is no sum
or product of others, such as ``exp(r)`` or ``1 / (r + 1)``. Products of sums are not multiplied out, because the terms
of ``(1 - r)**4`` are much larger than their sum where r is about 1.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from pymbolic import var
from pymbolic.primitives import Call, ExpressionNode, Power, Product, Quotient, Sum, Variable

Expression = Any
Term = tuple[tuple[Expression, int], ...]
"""Factors and their powers, in the order of their texts."""

Terms = dict[Term, Any]
"""Terms and the numbers that they are multiplied by."""


def simplify(expression: Expression) -> Expression:
    """Write an expression as a sum of terms, in an order that does not depend on the process; r / r is 1."""
    return _written(_terms(expression))


@dataclass(frozen=True)
class Shared:
    """Expressions, and the values that they share.

    Attributes:
        values: names and expressions of the values, each in terms of variables and the values before it.
        expressions: the expressions, in terms of variables and values.
    """

    values: tuple[tuple[str, Expression], ...]
    expressions: tuple[Expression, ...]


def share(expressions: Sequence[Expression], kept: str, prefix: str) -> Shared:
    """Find values that several terms of some expressions share.

    Functions and quotients become values first. Then the pair of factors that occurs in most terms becomes a value,
    until none occurs twice. A power is a factor that occurs several times in a term.

    Args:
        expressions: sums of products.
        kept: a variable; each term that has it keeps one factor of it.
        prefix: of the names of values.
    """
    values: list[tuple[str, Expression]] = []
    named: dict[Expression, Expression] = {}

    def name(value: Expression) -> Expression:
        if value not in named:
            values.append((f"{prefix}{len(values)}", value))
            named[value] = var(values[-1][0])
        return named[value]

    rows: list[list[tuple[Any, list[Expression], list[Expression]]]] = []
    for expression in expressions:
        row = []
        for term, number in _terms(expression).items():
            factors = [f if isinstance(f, Variable) else name(f) for f, power in term for _ in range(power)]
            keeps = [var(kept)] if var(kept) in factors else []
            for factor in keeps:
                factors.remove(factor)
            row.append((number, keeps, sorted(factors, key=str)))
        rows.append(row)
    while pair := _most_frequent([factors for row in rows for _, _, factors in row]):
        value = name(Product(pair))
        for row in rows:
            for _, _, factors in row:
                _replace(factors, pair, value)
    return Shared(
        tuple(values),
        tuple(_sum(_product(number, keeps + factors) for number, keeps, factors in row) for row in rows),
    )


def _most_frequent(terms: Iterable[Sequence[Expression]]) -> tuple[Expression, Expression] | None:
    """Return the pair of factors that is in most terms, if it is in two; the first one by name of several."""
    counts: Counter[tuple[Expression, Expression]] = Counter()
    for factors in {tuple(factors) for factors in terms}:
        counts.update(set(combinations(factors, 2)))
    best = min(counts, key=lambda pair: (-counts[pair], str(pair)), default=None)
    return best if best is not None and counts[best] > 1 else None


def _replace(factors: list[Expression], pair: tuple[Expression, Expression], value: Expression) -> None:
    """Replace a pair of factors by a value, as often as it is there."""
    first, second = pair
    while first in factors and second in factors and (first != second or factors.count(first) > 1):
        factors.remove(first)
        factors.remove(second)
        factors.append(value)
    factors.sort(key=str)


def _terms(expression: Expression) -> Terms:
    """Return the terms of an expression."""
    if isinstance(expression, Sum):
        found: Terms = {}
        for child in expression.children:
            for term, number in _terms(child).items():
                found[term] = found.get(term, 0) + number
        return {term: number for term, number in found.items() if number != 0}
    if isinstance(expression, Product):
        result: Terms = {(): 1}
        for child in expression.children:
            result = _times(result, _terms(child))
        return result
    if isinstance(expression, Quotient):
        return _times(_terms(expression.numerator), _inverse(expression.denominator))
    if isinstance(expression, Power) and isinstance(expression.exponent, int) and expression.exponent > 0:
        base = _single(_terms(expression.base))
        result = {(): 1}
        for _ in range(expression.exponent):
            result = _times(result, base)
        return result
    if isinstance(expression, Call):
        expression = Call(expression.function, tuple(simplify(parameter) for parameter in expression.parameters))
    if isinstance(expression, ExpressionNode):
        return {((expression, 1),): 1}
    return {(): expression} if expression != 0 else {}


def _inverse(expression: Expression) -> Terms:
    """Return the terms of 1 / expression; those of a product are the products of the inverses."""
    ((term, number),) = _single(_terms(expression)).items()
    result: Terms = {(): 1 / number if number != 1 else 1}
    for factor, power in term:
        inverse: Terms = {((Quotient(1, factor), 1),): 1}
        inverse = _terms(factor.denominator) if isinstance(factor, Quotient) else inverse
        for _ in range(power):
            result = _times(result, inverse)
    return result


def _single(terms: Terms) -> Terms:
    """Return one term: a sum of several becomes a factor."""
    return terms if len(terms) == 1 else {((_written(terms), 1),): 1}


def _times(first: Terms, second: Terms) -> Terms:
    """Multiply; of two sums of several terms, the second becomes a factor."""
    if not first or not second:
        return {}
    if len(first) > 1 and len(second) > 1:
        second = _single(second)
    found: Terms = {}
    for term, number in first.items():
        for other, times in second.items():
            powers = Counter(dict(term))
            powers.update(dict(other))
            cancelled = min(powers[var("r")], powers[var("rinv")])
            for name in ("r", "rinv"):
                powers[var(name)] -= cancelled
            product = tuple(sorted(((f, n) for f, n in powers.items() if n), key=lambda entry: str(entry[0])))
            found[product] = found.get(product, 0) + number * times
    return {term: number for term, number in found.items() if number != 0}


def _written(terms: Terms) -> Expression:
    """Write terms as an expression."""
    ordered = sorted(terms.items(), key=lambda entry: str(entry[0]))
    return _sum(_product(number, [f for f, power in term for _ in range(power)]) for term, number in ordered)


def _sum(terms: Iterable[Expression]) -> Expression:
    children = tuple(terms)
    return children[0] if len(children) == 1 else Sum(children) if children else 0


def _product(number: Any, factors: Sequence[Expression]) -> Expression:
    children = (*(() if number == 1 and factors else (number,)), *factors)
    return children[0] if len(children) == 1 else Product(children)


def parity(expression: Expression, odd: frozenset[str]) -> int | None:
    """Return 1 if an expression stays the same where some variables change their sign, -1 if it changes its sign.

    Args:
        expression: the expression.
        odd: the names of these variables.

    Returns:
        None if it does neither, or if its form does not show it.
    """
    if isinstance(expression, Variable):
        return -1 if expression.name in odd else 1
    if not isinstance(expression, ExpressionNode):
        return 1
    if isinstance(expression, Sum):
        found = {parity(child, odd) for child in expression.children}
        return found.pop() if len(found) == 1 else None
    if isinstance(expression, Product | Quotient):
        parts = (
            expression.children if isinstance(expression, Product) else (expression.numerator, expression.denominator)
        )
        signs = [parity(child, odd) for child in parts]
        return None if None in signs else math.prod(sign for sign in signs if sign)
    if isinstance(expression, Power):
        sign = parity(expression.base, odd)
        is_whole = isinstance(expression.exponent, int) and sign is not None
        return sign if is_whole and expression.exponent % 2 else 1 if sign == 1 or is_whole else None
    if isinstance(expression, Call):
        return 1 if all(parity(child, odd) == 1 for child in expression.parameters) else None
    return None
