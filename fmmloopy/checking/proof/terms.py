"""Numbers that a kernel computes: terms, and sums of them over loops and conditions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TypeVar

from fmmloopy.checking.proof.integers import Affine, Condition, Keyed
from fmmloopy.checking.proof.verdict import Unproved

T = TypeVar("T")


class Node:
    """A term, as a tree whose branches may be shared."""


@dataclass(frozen=True, eq=False)
class Constant(Node):
    """A number that is written in the kernel."""

    value: Fraction


@dataclass(frozen=True, eq=False)
class Parameter(Node):
    """A number that is an argument."""

    name: str


@dataclass(frozen=True, eq=False)
class Entry(Node):
    """An entry of an array that is an argument."""

    array: str
    index: tuple[Affine, ...]

    @property
    def key(self) -> str:
        """What it is known by."""
        return f"{self.array}[{','.join(i.key for i in self.index)}]"


@dataclass(frozen=True, eq=False)
class Add(Node):
    """A sum."""

    left: Node
    right: Node


@dataclass(frozen=True, eq=False)
class Multiply(Node):
    """A product."""

    left: Node
    right: Node


@dataclass(frozen=True, eq=False)
class Reciprocal(Node):
    """One divided by a term."""

    of: Node


@dataclass(frozen=True, eq=False)
class Call(Node):
    """A function of terms; rounding to another type is one, too."""

    name: str
    operands: tuple[Node, ...]


@dataclass(frozen=True, eq=False)
class Test(Node):
    """A comparison of two terms."""

    operator: str
    left: Node
    right: Node


@dataclass(frozen=True, eq=False)
class Select(Node):
    """One of two terms, by a test."""

    test: Test
    then: Node
    other: Node


PARTIAL = ("sqrt", "log", "pow")
"""Functions that are no numbers for some arguments; those of constants are what they are."""

ZERO, ONE = Constant(Fraction(0)), Constant(Fraction(1))


def product(left: Node, right: Node) -> Node:
    """Multiply two terms; zero times what may not be a number is kept."""
    for one, other in ((left, right), (right, left)):
        if one is ZERO and not any(is_partial(x) for x in inside(other)):
            return ZERO
    if left is ONE or right is ONE:
        return right if left is ONE else left
    return Multiply(left, right)


def is_partial(node: Node) -> bool:
    """Whether a term is a quotient or a function that is no number at some points."""
    if isinstance(node, Reciprocal):
        return not isinstance(node.of, Constant)
    return isinstance(node, Call) and node.name in PARTIAL and not isinstance(node.operands[0], Constant)


def children(node: Node) -> tuple[Node, ...]:
    """Return the terms that a term is made of."""
    if isinstance(node, (Add, Multiply, Test)):
        return node.left, node.right
    if isinstance(node, Reciprocal):
        return (node.of,)
    if isinstance(node, Call):
        return node.operands
    return (node.test, node.then, node.other) if isinstance(node, Select) else ()


def inside(node: Node) -> Iterator[Node]:
    """Yield a term and everything in it, each once."""
    waiting, seen = [node], set()
    while waiting:
        one = waiting.pop()
        if id(one) not in seen:
            seen.add(id(one))
            yield one
            waiting += children(one)


class Need(Keyed):
    """What must hold wherever a number is used: what it reads has been written.

    Args:
        condition: which must hold.
        text: what is wrong where it does not.
        statement: which reads.
    """

    __slots__ = ("condition", "statement", "text")

    def __init__(self, condition: Condition, text: str, statement: str) -> None:
        super().__init__(f"{statement} {text}: {condition.key}")
        self.condition, self.text, self.statement = condition, text, statement


@dataclass(frozen=True)
class Piece:
    """A sum of one term over some loops, under some conditions.

    Attributes:
        node: the term.
        loops: loop variables that it is summed over, each with the size in bytes of the numbers that hold the sums.
        conditions: where the term counts.
        needs: what must hold there.
    """

    node: Node
    loops: frozenset[tuple[str, int]] = frozenset()
    conditions: tuple[Condition, ...] = ()
    needs: tuple[Need, ...] = ()

    @property
    def dims(self) -> frozenset[str]:
        """Names of the loop variables that it is summed over."""
        return frozenset(name for name, _ in self.loops)

    @property
    def is_plain(self) -> bool:
        """Whether it is one number under no condition."""
        return not self.loops and not self.conditions

    def under(self, conditions: Iterable[Condition] = (), needs: Iterable[Need] = ()) -> Piece:
        """Return it under more conditions, and with more that must hold."""
        return replace(self, conditions=joined(self.conditions, conditions), needs=joined(self.needs, needs))


def joined(first: tuple[T, ...], second: Iterable[T]) -> tuple[T, ...]:
    """Append what is not there yet."""
    return tuple(dict.fromkeys((*first, *second)))


def plus(left: list[Piece], right: list[Piece]) -> list[Piece]:
    """Add two sums; terms over the same loops and under the same conditions become one."""
    total = list(left)
    for piece in right:
        for number, other in enumerate(total):
            if other.loops == piece.loops and set(other.conditions) == set(piece.conditions):
                total[number] = replace(other, node=_added(other.node, piece.node)).under((), piece.needs)
                break
        else:
            total.append(piece)
    return total


def _added(left: Node, right: Node) -> Node:
    if left is ZERO or right is ZERO:
        return right if left is ZERO else left
    return Add(left, right)


def multiplied(left: list[Piece], right: list[Piece], statement: str) -> list[Piece]:
    """Multiply two sums.

    Raises:
        Unproved: both are sums over one loop.
    """
    found = []
    for one in left:
        for other in right:
            if one.dims & other.dims:
                raise Unproved("a product of sums over one loop", statement)
            joint = Piece(product(one.node, other.node), one.loops | other.loops, one.conditions, one.needs)
            found.append(joint.under(other.conditions, other.needs))
    return found
