"""Expressions of Green's functions: read, checked, differentiated.

An expression is a number, a variable, a sum, product, quotient or power of expressions, or a function of one:

===========  =====================================================================
variable     meaning
===========  =====================================================================
d0, d1, d2   components of d = x - y
r            the distance \\|d\\|
rinv         1 / r, and 0 where r = 0
pi           the number, in texts
others       the parameters of the Green's function, such as Yukawa's ``decay``
===========  =====================================================================

The functions are those in `FUNCTIONS`.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Collection, Iterable
from functools import lru_cache
from typing import Any

import numpy as np
from pymbolic import parse, var
from pymbolic.mapper import IdentityMapper, Mapper
from pymbolic.mapper.differentiator import DifferentiationMapper
from pymbolic.mapper.flattener import flatten
from pymbolic.primitives import (
    BitwiseXor,
    Call,
    Comparison,
    ExpressionNode,
    If,
    LogicalAnd,
    LogicalNot,
    LogicalOr,
    Power,
    Product,
    Quotient,
    Sum,
    Variable,
    flattened_product,
)
from pytools.lex import InvalidTokenError, ParseError

from fmmloopy.terms import simplify

Expression = Any

COORDINATES = ("d0", "d1", "d2")
GEOMETRY = (*COORDINATES, "r", "rinv")

COMPLEX_REMEDY = "write a complex function as a matrix of its real and imaginary parts, ((Re, -Im), (Im, Re))"
"""How to write what is not real."""


def _unary(function: Callable[..., Any]) -> Callable[[Any], Any]:
    """Return a function of one argument; numpy's would write to a second one."""
    return lambda x: function(x)


def _special(name: str) -> Callable[[Any], Any]:
    """Return a function of SciPy, which takes its time to import and few Green's functions need."""

    def function(x: Any) -> Any:
        from scipy import special

        return getattr(special, name)(x)

    return function


FUNCTIONS = {
    **{name: _unary(getattr(np, name)) for name in ("exp", "log", "sqrt", "sin", "cos", "sinh", "cosh", "tanh")},
    "atan": _unary(np.arctan),
    **{name: _special(name) for name in ("erf", "erfc")},
}
"""The functions that expressions may call, by name."""


# -- reading


def read_expression(text: str, variables: Collection[str]) -> Expression:
    """Parse a text; pi becomes a number, and divisions by r become products with rinv, which kernels have anyway.

    Args:
        text: an expression, as in Python.
        variables: names that are no functions, beside pi.

    Raises:
        ValueError: it is not an expression; the message says why.
    """
    if _IMAGINARY.search(text):
        raise ValueError(f"{text!r} has an imaginary number, expected real ones; {COMPLEX_REMEDY}")
    try:
        parsed = parse(text)
    except ZeroDivisionError:
        raise ValueError(f"{text!r} divides by zero") from None
    except NOT_PARSED as error:
        said = "".join(f": {line}" for line in str(error).splitlines()[:1])
        raise ValueError(f"{text!r} is not an expression{said}; write it as in Python") from None
    if (why := refusal(parsed, {*variables, "pi"})) is not None:
        raise ValueError(f"{text!r} {why}")
    return _Plain()(parsed)


NOT_PARSED = (ParseError, InvalidTokenError, ValueError, TypeError, OverflowError, RecursionError, AssertionError)
"""What pymbolic raises for texts that it cannot parse; it asserts things about True and False."""

_IMAGINARY = re.compile(r"(?<![\w.])(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?[jJ]\b")
"""A number of Python that is not real."""


def refusal(expression: Any, variables: Collection[str]) -> str | None:
    """Return why something is not an expression that can be differentiated and computed; None if it is.

    Args:
        expression: what is asked about.
        variables: names that are no functions.
    """
    match expression:
        case bool() | np.bool_():
            return f"has {expression}, expected numbers, variables and functions of them"
        case complex() | np.complexfloating():
            return f"has the number {expression}, expected real ones; {COMPLEX_REMEDY}"
        case int() | float() | np.integer() | np.floating():
            size: Any = abs(expression)
            return None if size <= sys.float_info.max else f"has the number {_number(expression)}, expected finite ones"
        case Variable(name=name):
            return f"has the function {name} without an argument, expected {name}(...)" if name in FUNCTIONS else None
        case Sum(children=parts) | Product(children=parts):
            return _first_refusal(parts, variables)
        case Quotient(numerator=above, denominator=below):
            is_zero = isinstance(below, (int, float, np.number)) and below == 0
            return "divides by zero" if is_zero else _first_refusal((above, below), variables)
        case Power(base=base, exponent=exponent):
            return _first_refusal((base, exponent), variables)
        case Call(function=Variable(name=name), parameters=arguments):
            if name in FUNCTIONS and len(arguments) != 1:
                return f"calls {name} with {len(arguments)} arguments, expected one"
            if name in variables:
                return f"calls {name}, which is no function; write a product with *"
            return _first_refusal(arguments, variables)
        case Call():
            return "calls what is no function; write a product with *"
        case BitwiseXor():
            return "has ^, which is no power; write **, as in r**2"
        case If() | Comparison() | LogicalAnd() | LogicalOr() | LogicalNot():
            return "has a condition, expected one formula for all distances"
    what = f"the operation {type(expression).__name__}" if isinstance(expression, ExpressionNode) else repr(expression)
    return f"has {what}, expected numbers, variables, + - * / ** and functions of one argument"


def _number(value: Any) -> str:
    return str(value) if isinstance(value, (float, np.floating)) else f"10^{len(str(abs(value))) - 1} or more"


def _first_refusal(parts: Iterable[Expression], variables: Collection[str]) -> str | None:
    return next((why for part in parts if (why := refusal(part, variables)) is not None), None)


def is_expression(value: Any) -> bool:
    """Return whether a value is a number or a node of pymbolic's."""
    return isinstance(value, (ExpressionNode, int, float, complex, np.number))


class _Plain(IdentityMapper):  # type: ignore[misc]
    """Write pi as a number, and divisions by r as products with rinv, which kernels have anyway."""

    def map_variable(self, expr: Any) -> Any:
        return math.pi if expr.name == "pi" else expr

    def map_quotient(self, expr: Any) -> Any:
        above, below = self.rec(expr.numerator), flatten(self.rec(expr.denominator))
        others: list[Expression] = []
        for factor in below.children if isinstance(below, Product) else (below,):
            base, exponent = (factor.base, factor.exponent) if isinstance(factor, Power) else (factor, 1)
            if base == var("r") and isinstance(exponent, int) and exponent > 0:
                above = above * (var("rinv") if exponent == 1 else var("rinv") ** exponent)
            else:
                others.append(factor)
        return above / flattened_product(others) if others else above


# -- degrees


class Degree(Mapper):  # type: ignore[misc]
    """Find the degree of homogeneity of an expression: a number, any for 0, or NONE if it has none."""

    NONE, ANY = "none", "any"

    def map_constant(self, expr: Any) -> Any:
        return self.ANY if expr == 0 else 0

    def map_variable(self, expr: Any) -> Any:
        return {**dict.fromkeys((*COORDINATES, "r"), 1), "rinv": -1}.get(expr.name, 0)

    def map_sum(self, expr: Any) -> Any:
        degrees = {self.rec(child) for child in expr.children} - {self.ANY}
        return degrees.pop() if len(degrees) == 1 else self.NONE if degrees else self.ANY

    def map_product(self, expr: Any) -> Any:
        degrees = [self.rec(child) for child in expr.children]
        return self.ANY if self.ANY in degrees else self.NONE if self.NONE in degrees else sum(degrees)

    def map_quotient(self, expr: Any) -> Any:
        above, below = self.rec(expr.numerator), self.rec(expr.denominator)
        if above == self.ANY:
            return above
        return self.NONE if self.NONE in (above, below) or below == self.ANY else above - below

    def map_power(self, expr: Any) -> Any:
        base, exponent = self.rec(expr.base), expr.exponent
        known = isinstance(exponent, (int, float)) and not isinstance(base, str)
        return base * exponent if known else 0 if base == 0 and self.rec(exponent) == 0 else self.NONE

    def map_call(self, expr: Any) -> Any:
        degree = self.rec(expr.parameters[0])
        if expr.function == var("sqrt") and degree != self.NONE:
            return degree if degree == self.ANY else degree / 2
        return 0 if degree in (0, self.ANY) else self.NONE

    def map_foreign(self, expr: Any, *args: Any, **kwargs: Any) -> Any:
        return self.map_constant(expr) if isinstance(expr, (int, float, np.number)) else self.NONE

    def handle_unsupported_expression(self, expr: Any, *args: Any, **kwargs: Any) -> Any:
        return self.NONE


# -- derivatives


def _function_derivative(
    argument: int, function: Expression, parameters: tuple[Expression, ...], allowed_nonsmoothness: str
) -> Expression:
    """Return the derivative of each function that a Green's function may call, for pymbolic."""
    (x,) = parameters
    bell = (2 / math.sqrt(math.pi)) * var("exp")(-1 * (x * x))
    derivatives = {
        "exp": var("exp")(x),
        "log": 1 / x,
        "sqrt": 1 / (2 * var("sqrt")(x)),
        "sin": var("cos")(x),
        "cos": -1 * var("sin")(x),
        "sinh": var("cosh")(x),
        "cosh": var("sinh")(x),
        "tanh": 1 - var("tanh")(x) ** 2,
        "atan": 1 / (1 + x * x),
        "erf": bell,
        "erfc": -1 * bell,
    }
    return derivatives[function.name]


def _partial(expression: Expression, variable: str) -> Expression:
    """Differentiate with respect to one variable, with all others fixed."""
    return DifferentiationMapper(var(variable), func_map=_function_derivative)(expression)


def differentiate(expression: Expression, axis: int) -> Expression:
    """Differentiate an expression in d, r and rinv with respect to x along ``axis``, by the chain rule.

    With d = x - y: dr/dx_k = d_k rinv and drinv/dx_k = -d_k rinv^3.
    """
    d, rinv = var(COORDINATES[axis]), var("rinv")
    return flatten(
        _partial(expression, COORDINATES[axis])
        + _partial(expression, "r") * (d * rinv)
        - _partial(expression, "rinv") * (d * (rinv * rinv * rinv))
    )


def derivative(expression: Expression, axis: int) -> Expression:
    """Differentiate as `differentiate` does, and simplify; what has been asked before is remembered."""
    return _simplified(str(expression), expression, axis)


@lru_cache(maxsize=4096)
def _simplified(text: str, expression: Expression, axis: int) -> Expression:
    """Return a derivative. Expressions that differ in ``2`` and ``2.0`` are equal, but their texts are not."""
    return simplify(differentiate(expression, axis))
