"""What counts as equal although it is computed in another way: functions that steps insert, and what they stand for.

A step of the package may replace a function by arithmetic that is equal up to rounding: a lemma. Each is shown apart,
over the whole range of its input, by tests of the function; here it counts with exactly the source, or exactly the
arithmetic, that was tested. A function of a user's step counts as what the step declares, but then the proof is none
until `fmmloopy.checking.functions` has tested the declaration.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import pymbolic.primitives as p

from fmmloopy.checking.proof.declared import SUFFIXES, not_plain
from fmmloopy.checking.proof.facts import Facts, Statement
from fmmloopy.checking.proof.identity import Field, difference
from fmmloopy.checking.proof.terms import (
    ZERO,
    Add,
    Call,
    Constant,
    Entry,
    Multiply,
    Node,
    Piece,
    Select,
    Test,
    inside,
    product,
)
from fmmloopy.checking.proof.verdict import Lemma, Unproved
from fmmloopy.transforms.inline import (
    ANGLES,
    EXPONENTIALS,
    INLINE,
    InlineFunction,
    StandIn,
    exponential,
    sine_and_cosine,
)

RECIPROCAL_ROOTS = ("rsqrt", "fmmloopy_rsqrt")
"""Functions that stand for ``1/sqrt(x)``: OpenCL's, and the iteration of `fmmloopy.transforms.steps.newton_rsqrt`."""

POWER = "fmmloopy_power"
"""The function that `fmmloopy.transforms.steps.polynomial_exp` inserts."""

PLAIN = (
    *("sqrt", "exp", "sin", "cos", "log", "pow", "fabs", "rsqrt"),
    *("sinh", "cosh", "tanh", "atan", "erf", "erfc"),
)
"""Functions of loopy that are what their names say."""


STAND_INS = tuple(name for name in PLAIN if name != "pow")
"""Functions, of one number, that others may be declared to stand for."""


def known_function(facts: Facts, call: Any, statement: Statement) -> str:
    """Return the name of a function that an expression calls; of one that is declared, what it stands for.

    Raises:
        Unproved: it is not loopy's, nor the package's, nor declared.
    """
    name = call.function.name
    function = facts.tunit.callables_table.get(name)
    own = str(getattr(function, "name", name))
    if type(function) is StandIn:
        if len(call.parameters) != 1:
            raise Unproved(f"{own} is called with {len(call.parameters)} numbers", statement.id)
        return _lemma(function).function
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


def lemmas_of(facts: Facts) -> tuple[Lemma, ...]:
    """Return what steps declare of functions that a kernel calls.

    Raises:
        Unproved: a declaration cannot be tested, or is of one of two functions with the same name.
    """
    found = [_lemma(f) for f in facts.tunit.callables_table.values() if type(f) is StandIn]
    sources: dict[str, str] = {}
    for lemma in found:  # of functions with one name, loopy writes the first one only
        if _other_source(sources.setdefault(lemma.name, lemma.source), lemma):
            raise Unproved(f"two functions are called {lemma.name}")
    return tuple(dict.fromkeys(found))


def _other_source(source: str, lemma: Lemma) -> bool:
    return source != lemma.source


def _lemma(function: StandIn) -> Lemma:
    """Return what a step declares of a function."""
    name, types = function.name, function.arg_id_to_dtype or {}
    dtype = str(np.dtype(types[0].numpy_dtype)) if 0 in types else ""
    if dtype not in SUFFIXES or function.name_in_target != f"{name}_{SUFFIXES[dtype]}":
        raise Unproved(f"{name} is called with {dtype or 'no number'}")
    if name in INLINE or function.stands_for not in STAND_INS:
        raise Unproved(f"{name} cannot stand for {function.stands_for}; expected one of {', '.join(STAND_INS)}")
    if reason := not_plain(name, function.source):
        raise Unproved(f"{name} is no plain function of its argument: {reason}")
    return Lemma(name, function.source, dtype, function.stands_for)


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


# -- polynomials in the place of functions


def without_polynomials(pieces: list[Piece], facts: Facts, field: Field) -> list[Piece]:
    """Return numbers with ``exp(x)``, ``sin(x)`` and ``cos(x)`` for the polynomials that steps put in their place.

    They are those of `fmmloopy.transforms.steps.polynomial_exp` and `polynomial_sin_cos`. In float64, polynomials for
    float32 do not count.
    """
    if len(pieces) != 1:
        return pieces
    piece = pieces[0]
    for name, x, size in _candidates(piece.node):
        if size >= facts.least and not difference(piece.node, _key, _polynomial(name, x, size), _key, field):
            return [Piece(Call(name, (x,)), piece.loops, piece.conditions, piece.needs)]
    return pieces


def _candidates(node: Node) -> Iterator[tuple[str, Node, int]]:
    """Yield the functions, arguments and sizes of numbers whose polynomials a term may be, by its constants."""
    parts = list(inside(node))
    if isinstance(node, Select) and node.then is ZERO and any(isinstance(x, Call) and x.name == POWER for x in parts):
        for size, (dtype, _, most, *_) in EXPONENTIALS.items():
            exact = Fraction(float(dtype(most)))
            for x in parts:
                if isinstance(x, Select) and isinstance(x.then, Constant) and x.then.value == exact:
                    yield "exp", x.other, size
    elif isinstance(node, Multiply):
        for size, (dtype, most, *_) in ANGLES.items():
            exact = Fraction(float(dtype(most**2)))
            for x in parts:
                if isinstance(x, Select) and isinstance(x.test.right, Constant) and x.test.right.value == exact:
                    yield from (("sin", x.other, size), ("cos", x.other, size))


def _polynomial(name: str, x: Node, size: int) -> Node:
    """Return the term that a step writes for a function of x."""
    env: dict[str, Node] = {"x": x}
    make, suffix = (exponential, "") if name == "exp" else (sine_and_cosine, f"_{name}")
    for result, expression in make("result", p.Variable("x"), size).items():
        env[result] = _node(expression, env)
    return env[f"result{suffix}"]


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
