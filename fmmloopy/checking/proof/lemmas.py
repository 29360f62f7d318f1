"""What counts as equal although it is computed in another way: functions that steps insert, and what they stand for.

A step of the package may replace a function by arithmetic that is equal up to rounding: a lemma. Each is shown apart,
over the whole range of its input, by tests of the function; here it counts with exactly the source, or exactly the
arithmetic, that was tested.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import pymbolic.primitives as p

from fmmloopy.checking.proof.facts import Facts, Statement
from fmmloopy.checking.proof.identity import Field, difference
from fmmloopy.checking.proof.terms import (
    ZERO,
    Add,
    Call,
    Constant,
    Entry,
    Node,
    Piece,
    Select,
    Test,
    inside,
    product,
)
from fmmloopy.checking.proof.verdict import Unproved
from fmmloopy.transforms.inline import EXPONENTIALS, INLINE, InlineFunction, exponential

RECIPROCAL_ROOTS = ("rsqrt", "fmmloopy_rsqrt")
"""Functions that stand for ``1/sqrt(x)``: OpenCL's, and the iteration of `fmmloopy.transforms.steps.newton_rsqrt`."""

POWER = "fmmloopy_power"
"""The function that `fmmloopy.transforms.steps.polynomial_exp` inserts."""

PLAIN = ("sqrt", "exp", "sin", "cos", "log", "pow", "fabs", "rsqrt", "tanh", "erf", "erfc")
"""Functions of loopy that are what their names say."""


def known_function(facts: Facts, name: str, statement: Statement) -> str:
    """Return the name of a function that an expression calls.

    Raises:
        Unproved: it is not loopy's, nor the package's.
    """
    function = facts.tunit.callables_table.get(name)
    own = str(getattr(function, "name", name))
    if own in INLINE:
        if not _is_ours(function, own):
            raise Unproved(f"{own} is not as the package's steps insert it", statement.id)
        return own
    if facts.function_of_loopy(name) not in PLAIN:
        raise Unproved(f"{own} is no function that is known", statement.id)
    return own


def _is_ours(function: Any, name: str) -> bool:
    """Return whether a function has the package's source."""
    names = (f"{name}_f32", f"{name}_f64")
    return type(function) is InlineFunction and function.source == INLINE[name] and function.name_in_target in names


def same_either_way(then: list[Piece], other: list[Piece], field: Field) -> list[Piece]:
    """Return a number that a condition chooses the arithmetic for, and not the value; else nothing.

    Args:
        then, other: the number where the condition holds, and where it does not; each under that condition.
        field: that terms are evaluated in.
    """
    pieces = (*then, *other)
    if len(then) != 1 or len(other) != 1 or any(x.loops or len(x.conditions) != 1 for x in pieces):
        return []
    if difference(other[0].node, _key, then[0].node, _key, field):
        return []
    return [Piece(then[0].node, needs=then[0].needs).under((), other[0].needs)]


def _key(entry: Entry) -> str:
    return entry.key


# -- the polynomial for exp


def without_polynomials(pieces: list[Piece], facts: Facts, field: Field) -> list[Piece]:
    """Return numbers with ``exp(x)`` for what `fmmloopy.transforms.steps.polynomial_exp` computes in its place.

    In float64, the polynomial for float32 does not count.
    """
    if len(pieces) != 1 or not _may_be_exponential(pieces[0].node):
        return pieces
    piece = pieces[0]
    for size in (8, 4)[: 1 if facts.least == 8 else 2]:
        most = Fraction(float(np.dtype(EXPONENTIALS[size][0]).type(EXPONENTIALS[size][2])))
        for x in _arguments(piece.node, most):
            if not difference(piece.node, _key, _polynomial(x, size), _key, field):
                return [Piece(Call("exp", (x,)), piece.loops, piece.conditions, piece.needs)]
    return pieces


def _may_be_exponential(node: Node) -> bool:
    if not isinstance(node, Select) or node.then is not ZERO:
        return False
    return any(isinstance(x, Call) and x.name == POWER for x in inside(node))


def _arguments(node: Node, most: Fraction) -> list[Node]:
    """Return what is cut off at a number, which may be the argument."""
    return [
        x.other for x in inside(node) if isinstance(x, Select) and isinstance(x.then, Constant) and x.then.value == most
    ]


def _polynomial(x: Node, size: int) -> Node:
    """Return the term that the step writes for exp(x)."""
    env: dict[str, Node] = {"x": x}
    for name, expression in exponential("result", p.Variable("x"), size).items():
        env[name] = _node(expression, env)
    return env["result"]


def _node(e: Any, env: Mapping[str, Node]) -> Node:
    if isinstance(e, p.Variable):
        return env[e.name]
    if isinstance(e, p.Sum):
        first, *others = (_node(child, env) for child in e.children)
        for other in others:
            first = Add(first, other)
        return first
    if isinstance(e, p.Product):
        first, *others = (_node(child, env) for child in e.children)
        for other in others:
            first = product(first, other)
        return first
    if isinstance(e, p.Call):
        return Call(e.function.name, tuple(_node(x, env) for x in e.parameters))
    if isinstance(e, p.If):
        left, right = _node(e.condition.left, env), _node(e.condition.right, env)
        if e.condition.operator in ("<", getattr(type(e.condition.operator), "LT", None)):
            left, right = right, left
        return Select(Test(">", left, right), _node(e.then, env), _node(e.else_, env))
    value = Fraction(float(e))
    return ZERO if value == 0 else Constant(value)
