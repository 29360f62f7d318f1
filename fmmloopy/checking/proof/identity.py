"""Whether two terms are equal, by evaluation modulo a prime at points that nobody can choose.

Sums and products of terms that are equal as rational functions have equal values modulo a prime; others differ at
nearly all points. The prime and the points are drawn from a text that both kernels are part of, so that no constant can
be made to vanish. Beside the rules of rational functions:

- A function has a random value for each value of its arguments. A square root is one of the two roots, and all choices
  of signs are tried: ``sqrt(x)*sqrt(x)`` is x, and ``sqrt(x*x)`` is not x.
- A sum is a difference unless its sides have the same sign wherever they are numbers: squares, roots and exponentials
  are not negative, arguments may have any sign. A difference is a random number for each pair of its sides, but for a
  common sign. So it cannot be expanded: neither ``x^2 - 2xy + y^2`` is ``(x - y)^2``, nor ``qx - qy`` is ``q(x - y)``,
  which are far more accurate. Only where a difference is a term itself, its sides may be added one after the other.
  The other way round is more accurate: a factor that both sides of a difference of the sequential kernel have may be
  taken out of it.
- Quotients, roots, logarithms and powers are numbers wherever those of the sequential kernel are: ``x*x/x`` is not x,
  which may be zero.
- The sums of those sides of a term that have the same sign are equal, each for itself: ``x + c - c`` is not x.
- Tests, such as ``r2 > 0``, are tried both ways. If one fails, quotients are no numbers, so that a term is not masked
  by a factor zero.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from fmmloopy.checking.proof.terms import (
    ZERO,
    Add,
    Call,
    Constant,
    Entry,
    Multiply,
    Node,
    Parameter,
    Reciprocal,
    Select,
    Test,
    children,
    inside,
    is_partial,
)

POINTS = 2
"""How many points must agree: the chance of an error at one is the degree of the terms divided by the prime."""

TRIES = 200
"""Points that are tried; square roots exist modulo a prime for half of the numbers only."""

MOST_TESTS, MOST_ROOTS = 4, 4
"""More tests or roots in a term are not tried in all combinations, so nothing is shown."""

NOT_NEGATIVE = ("cosh", "erfc", "exp", "fabs", "sqrt")
"""Functions that are not negative."""

TestKey = tuple[str, int, int]

Sign = tuple[int, frozenset[int]]
"""Of a term: 1 or -1, times the signs of numbers that may be positive or negative, by their values up to sign."""

Factor = tuple[int, Sign]
"""The value and the sign of a factor."""


class _NotANumber(Exception):
    """A quotient where a test fails."""


class _NoRoot(Exception):
    """There is no square root of this number modulo this prime."""


class _RootOfRoot(Exception):
    """A number under a root depends on the sign of another root."""


@dataclass(frozen=True)
class Field:
    """The whole numbers modulo a prime, with a source of points.

    Attributes:
        prime: of the form 4 k + 3, so that roots are powers.
        seed: that points are drawn from.
    """

    prime: int
    seed: str

    def draw(self, *key: object) -> int:
        """Return a random number other than zero for a key."""
        text = repr((self.seed, key)).encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=16).digest(), "big") % (self.prime - 1) + 1


def make_field(text: str) -> Field:
    """Return a field whose prime, of 62 bits, and whose points are drawn from a text."""
    seed = hashlib.sha256(text.encode()).hexdigest()
    number = (int(seed[:15], 16) | 1 << 61) // 4 * 4 + 3
    while not _is_prime(number):
        number += 4
    return Field(number, seed)


def _is_prime(number: int) -> bool:
    """Return whether a number is prime, by the test of Miller and Rabin with random bases."""
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    chance = random.Random(number)
    for _ in range(24):
        x = pow(chance.randrange(2, number - 1), odd, number)
        if x in (1, number - 1):
            continue
        for _ in range(twos - 1):
            x = x * x % number
            if x == number - 1:
                break
        else:
            return False
    return True


@dataclass
class _Point:
    """Values of terms at one point.

    Attributes:
        field: in which they are.
        number: of the point.
        name: what an entry of an array is known by.
        signs: of square roots, by the number under the root; None to note the numbers in ``roots``.
        truth: whether tests hold; None where all quotients are numbers and choices are functions.
        strict: whether quotients are no numbers where a test fails.
        taken: factors that are taken out of differences.
    """

    field: Field
    number: int
    name: Callable[[Entry], str]
    signs: Mapping[int, int] | None
    truth: Mapping[TestKey, bool] | None = None
    strict: bool = True
    taken: frozenset[Factor] = frozenset()
    roots: dict[int, None] = dataclasses.field(default_factory=dict)
    known: dict[int, tuple[Node, int | None]] = dataclasses.field(default_factory=dict)
    signs_of: dict[Node, Sign] = dataclasses.field(default_factory=dict)

    def term(self, node: Node) -> dict[Sign, int]:
        """Return the sums of those sides of a term that have the same sign; they may be added one after the other."""
        sums: dict[Sign, int] = {}
        for side in _sides(node):
            if value := self.value(side):
                sums[self.sign(side)] = (sums.get(self.sign(side), 0) + value) % self.field.prime
        return sums

    def value(self, node: Node) -> int:
        """Return the value of a part of a term."""
        if id(node) not in self.known:
            try:
                self.known[id(node)] = node, self._value(node)
            except _NotANumber:
                self.known[id(node)] = node, None
        found = self.known[id(node)][1]
        if found is None:
            raise _NotANumber
        return found

    def _value(self, node: Node) -> int:
        prime, draw = self.field.prime, self.field.draw
        if isinstance(node, Constant):
            return node.value.numerator * pow(node.value.denominator, -1, prime) % prime
        if isinstance(node, Parameter):
            return draw(self.number, "parameter", node.name)
        if isinstance(node, Entry):
            return draw(self.number, "entry", self.name(node))
        if isinstance(node, Add):
            return self._sum(node)
        if isinstance(node, Multiply):
            return self.value(node.left) * self.value(node.right) % prime
        if isinstance(node, Reciprocal):
            return self._reciprocal(node)
        if isinstance(node, Call):
            operands = [self.value(x) for x in node.operands]
            return self._root(operands[0]) if node.name == "sqrt" else draw(self.number, "call", node.name, operands)
        assert isinstance(node, Select), node
        return self._chosen(node)

    def _sum(self, node: Add) -> int:
        left, right, prime = self.value(node.left), self.value(node.right), self.field.prime
        if not self.is_difference(node):
            return (left + right) % prime
        common = math.prod(value for value, _ in self._taken_out(node))
        left, right = (x * pow(common, -1, prime) % prime for x in (left, right))
        same, opposite = sorted((left, right)), sorted((-left % prime, -right % prime))
        drawn = self.field.draw(self.number, "difference", min(same, opposite)) * common
        return (drawn if same < opposite else -drawn) % prime

    def is_difference(self, node: Add) -> bool:
        """Return whether the sides of a sum, neither of which is zero, may have other signs."""
        sides = node.left, node.right
        return all(map(self.value, sides)) and self.sign(node.left) != self.sign(node.right)

    def sign(self, node: Node) -> Sign:
        """Return the sign of a part of a term."""
        if node not in self.signs_of:
            self.signs_of[node] = self._sign(node)
        return self.signs_of[node]

    def _sign(self, node: Node) -> Sign:
        if isinstance(node, Constant):
            return -1 if node.value < 0 else 1, frozenset()
        if isinstance(node, Multiply):
            return _times(self.sign(node.left), self.sign(node.right))
        if isinstance(node, Reciprocal):
            return self.sign(node.of)
        if isinstance(node, Call) and node.name in NOT_NEGATIVE:
            return 1, frozenset()
        if isinstance(node, Select) and self.truth is not None:
            return self.sign(node.then if self.truth[self.test(node.test)] else node.other)
        if isinstance(node, Add) and not self.is_difference(node):
            return self.sign(node.left if self.value(node.left) else node.right)
        value, sign = self.value(node), (1, frozenset[int]())
        for taken, other in self._taken_out(node) if isinstance(node, Add) else ():
            value, sign = value * pow(taken, -1, self.field.prime) % self.field.prime, _times(sign, other)
        return _times(sign, self.unknown_sign(value))

    def unknown_sign(self, value: int) -> Sign:
        """Return the sign of a number that may be positive or negative."""
        least = min(value, -value % self.field.prime)
        return 1 if value == least else -1, frozenset({least})

    def _taken_out(self, node: Add) -> Iterator[Factor]:
        """Return the factors that are taken out of a difference."""
        return self.common(node, self.taken).elements() if self.taken else iter(())

    def common(self, node: Add, allowed: frozenset[Factor] | None) -> Counter[Factor]:
        """Return the factors that both sides of a sum have, of those that are allowed or of all."""
        both = self._split(node.left, allowed) & self._split(node.right, allowed)
        return both if allowed is None else Counter({factor: n for factor, n in both.items() if factor in allowed})

    def _split(self, node: Node, allowed: frozenset[Factor] | None) -> Counter[Factor]:
        """Return the factors of a term; what both sides of a sum have is one."""
        if isinstance(node, Multiply):
            return self._split(node.left, allowed) + self._split(node.right, allowed)
        if isinstance(node, Constant):
            return Counter()
        shared = self.common(node, allowed) if isinstance(node, Add) else Counter()
        return shared or Counter([(self.value(node), self.sign(node))])

    def _reciprocal(self, node: Reciprocal) -> int:
        below = self.value(node.of)
        if below == 0 or (self.strict and self.truth is not None and not all(self.truth.values())):
            raise _NotANumber
        return pow(below, -1, self.field.prime)

    def _root(self, number: int) -> int:
        prime = self.field.prime
        root = pow(number, (prime + 1) // 4, prime)
        if root * root % prime != number:
            raise _NoRoot
        if self.signs is None:
            self.roots[number] = None
            return root
        if number not in self.signs:
            raise _RootOfRoot
        return min(root, prime - root) * self.signs[number] % prime

    def _chosen(self, node: Select) -> int:
        key = self.test(node.test)
        if self.truth is None:
            return self.field.draw(self.number, "choice", key, self.value(node.then), self.value(node.other))
        return self.value(node.then if self.truth[key] else node.other)

    def test(self, test: Test) -> TestKey:
        """Return what a test is known by: its operator and the values of its sides."""
        if self.truth is None:
            return test.operator, self.value(test.left), self.value(test.right)
        plain = _Point(self.field, self.number, self.name, self.signs)
        return plain.test(test)


def _times(left: Sign, right: Sign) -> Sign:
    """Return the sign of a product: the sign of a square is known."""
    return left[0] * right[0], left[1] ^ right[1]


Naming = Callable[[Entry], str]
Sides = tuple[tuple[Node, Naming], tuple[Node, Naming]]


def difference(
    left: Node, name_left: Naming, right: Node, name_right: Naming, field: Field, factored: bool = False
) -> str:
    """Say where two terms differ, or where the first one alone is no number; else return nothing.

    Args:
        left, right: the terms.
        name_left, name_right: what entries of arrays are known by; the same for the same entry.
        field: that they are evaluated in.
        factored: whether factors may be taken out of differences of the second one.
    """
    sides: Sides = ((left, name_left), (right, name_right))
    done = 0
    for number in range(TRIES):
        try:
            found = _at_point(field, number, sides, factored)
        except _NoRoot:
            continue
        except _RootOfRoot:
            return "a root of a root"
        if found:
            return found
        done += 1
        if done == POINTS:
            return ""
    return "no point was found at which all roots exist"


def is_nothing(node: Node, field: Field) -> bool:
    """Return whether a term is zero because factors are, and a test guards all quotients and roots in it."""
    if node is ZERO:
        return True
    if not _has_zero(node):
        return False
    for number in range(TRIES):
        try:
            return _is_guarded(_Point(field, number, lambda entry: entry.key, None), node, frozenset())
        except _NoRoot:
            continue
    return False


def _has_zero(node: Node) -> bool:
    if isinstance(node, Multiply):
        return _has_zero(node.left) or _has_zero(node.right)
    if isinstance(node, Add):
        return _has_zero(node.left) and _has_zero(node.right)
    if isinstance(node, Select):
        return _has_zero(node.then) and _has_zero(node.other)
    return node is ZERO


def _is_guarded(point: _Point, node: Node, positive: frozenset[int]) -> bool:
    """Return whether a term is a number where some values are positive."""
    if isinstance(node, Reciprocal):
        return all(_is_positive(point, x, positive) for x in _factors(node.of)) and _is_guarded(
            point, node.of, positive
        )
    if isinstance(node, Call) and is_partial(node):
        operand = node.operands[0]
        return node.name == "sqrt" and _is_positive(point, operand, positive) and _is_guarded(point, operand, positive)
    if isinstance(node, Select) and node.test.operator == ">" and node.test.right is ZERO:
        then = _is_guarded(point, node.then, positive | {point.value(node.test.left)})
        return then and _is_guarded(point, node.other, positive) and _is_guarded(point, node.test.left, positive)
    return all(_is_guarded(point, x, positive) for x in children(node))


def _is_positive(point: _Point, node: Node, positive: frozenset[int]) -> bool:
    """Return whether a term, if it is a number, is positive where some values are, however sums are rounded."""
    if point.value(node) in positive:
        return True
    if isinstance(node, Add):
        either = _is_positive(point, node.left, positive) or _is_positive(point, node.right, positive)
        return either and all(_is_not_negative(point, x, positive) for x in (node.left, node.right))
    return isinstance(node, Constant) and node.value > 0


def _is_not_negative(point: _Point, node: Node, positive: frozenset[int]) -> bool:
    """Return whether a term, if it is a number, is not negative: squares are not."""
    if isinstance(node, Add):
        return all(_is_not_negative(point, x, positive) for x in (node.left, node.right))
    if isinstance(node, Multiply) and point.value(node.left) == point.value(node.right):
        return True
    return _is_positive(point, node, positive)


def _at_point(field: Field, number: int, sides: Sides, factored: bool) -> str:
    """Say how terms differ at a point, with all signs of roots."""
    roots: dict[int, None] = {}
    for node, name in sides:
        _value(_Point(field, number, name, None, roots=roots), node)
    if len(roots) > MOST_ROOTS:
        return f"{len(roots)} roots in a term, more than are tried"
    for chosen in itertools.product((1, -1), repeat=len(roots)):
        signs = dict(zip(roots, chosen, strict=True))
        points = [_Point(field, number, name, signs) for _, name in sides]
        tests = [{p.test(t) for t in _tests(node)} for p, (node, _) in zip(points, sides, strict=True)]
        if tests[0] != tests[1]:
            return "other tests than in the sequential kernel"
        mine, others = (_where_no_number(p, node) for p, (node, _) in zip(points, sides, strict=True))
        if mine - others:
            return "a quotient, root, logarithm or power that is no number where the sequential kernel's term is"
        if len(tests[0]) > MOST_TESTS:
            return f"{len(tests[0])} tests in a term, more than are tried"
        if found := _with_outcomes(field, number, sides, signs, sorted(tests[0]), factored):
            return found
    return ""


def _with_outcomes(
    field: Field, number: int, sides: Sides, signs: Mapping[int, int], tests: list[TestKey], factored: bool
) -> str:
    """Say how terms differ at a point, with all outcomes of tests."""
    for outcome in itertools.product((True, False), repeat=len(tests)):
        truth = dict(zip(tests, outcome, strict=True))
        for strict in (True, False):
            points = [_Point(field, number, name, signs, truth, strict) for _, name in sides]
            values = [_value(point, node) for point, (node, _) in zip(points, sides, strict=True)]
            if factored and values[0] != values[1] and None not in values:
                (mine, _), (other, _) = sides
                taken = _shared_factors(points[1], other) - _shared_factors(points[0], mine)
                values[1] = _value(dataclasses.replace(points[1], taken=taken, known={}, signs_of={}), other)
            if values[0] != values[1] or (all(outcome) and None in values):
                where = "" if all(outcome) else " where a test fails"
                return f"another term{where}{', which is no number there' if None in values else ''}"
    return ""


def _shared_factors(point: _Point, node: Node) -> frozenset[Factor]:
    """Return the factors that both sides of a difference have, of any in a term."""
    found: set[Factor] = set()
    for x in inside(node):
        with contextlib.suppress(_NotANumber):  # it is not chosen here
            if isinstance(x, Add) and point.is_difference(x):
                found |= set(point.common(x, None))
    return frozenset(found)


def _sides(node: Node) -> Iterator[Node]:
    """Yield the terms that a sum is made of."""
    if isinstance(node, Add):
        yield from _sides(node.left)
        yield from _sides(node.right)
    else:
        yield node


def _where_no_number(point: _Point, node: Node) -> set[tuple[object, ...]]:
    """Return what must not be zero, or negative, for a term to be a number."""
    found: set[tuple[object, ...]] = set()
    for x in inside(node):
        if isinstance(x, Reciprocal):
            found |= {("zero", _up_to_sign(point, factor)) for factor in _factors(x.of)}
        elif isinstance(x, Call) and is_partial(x):
            found.add((x.name, *(point.value(operand) for operand in x.operands)))
    return found


def _up_to_sign(point: _Point, node: Node) -> int:
    value = point.value(node)
    return min(value, -value % point.field.prime)


def _factors(node: Node) -> Iterator[Node]:
    """Yield what is zero where a term is; quotients and constants are not."""
    if isinstance(node, Multiply):
        yield from _factors(node.left)
        yield from _factors(node.right)
    elif isinstance(node, Call) and node.name == "sqrt":
        yield from _factors(node.operands[0])
    elif not isinstance(node, Reciprocal) and not (isinstance(node, Constant) and node.value):
        yield node


def _tests(node: Node) -> list[Test]:
    return [x for x in inside(node) if isinstance(x, Test)]


def _value(point: _Point, node: Node) -> dict[Sign, int] | None:
    try:
        return point.term(node)
    except _NotANumber:
        return None
