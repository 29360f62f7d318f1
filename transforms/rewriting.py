"""Rewriters of expressions, which extend loopy's.

Steps import this module where they use it, because importing loopy takes longer than a run that generates no code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loopy.symbolic import IdentityMapper, ResolvedFunction, WalkMapper, get_dependencies
from pymbolic import var
from pymbolic.mapper.flattener import flatten
from pymbolic.primitives import Call, ExpressionNode, If, Product, Sum, Variable

Kernel = Any
"""A loopy translation unit."""


def _calls(expression: Any, name: str) -> bool:
    function = expression.function if isinstance(expression, Call) else None
    return isinstance(function, (Variable, ResolvedFunction)) and function.name == name


class _InKernel(IdentityMapper):  # type: ignore[misc]
    """Rewrites the expressions of a kernel."""

    def in_kernel(self, knl: Kernel) -> Kernel:
        """Rewrite all statements and rules."""
        kernel = knl.default_entrypoint
        rules = {n: r.copy(expression=self(r.expression)) for n, r in kernel.substitutions.items()}
        instructions = [i.with_transformed_expressions(self) for i in kernel.instructions]
        return knl.with_kernel(kernel.copy(substitutions=rules, instructions=instructions))


class ReplaceRsqrt(_InKernel):
    """Replace a / sqrt(b) by a * f(b) with a function f for rsqrt, only where a condition holds if one is given."""

    def __init__(self, function: str, condition: Any = None) -> None:
        super().__init__()
        self.function, self.condition = function, condition

    def map_quotient(self, expr: Any, *args: Any, **kwargs: Any) -> Any:
        same = super().map_quotient(expr, *args, **kwargs)
        if not _calls(expr.denominator, "sqrt"):
            return same
        other = same.numerator * var(self.function)(*same.denominator.parameters)
        return other if self.condition is None else If(self.condition, other, same)


class ReplaceCalls(_InKernel):
    """Replace the calls of a function by calls of another one."""

    def __init__(self, function: str, other: str) -> None:
        super().__init__()
        self.function, self.other = function, other

    def map_call(self, expr: Any, *args: Any, **kwargs: Any) -> Any:
        same = super().map_call(expr, *args, **kwargs)
        return var(self.other)(*same.parameters) if _calls(same, self.function) else same


class Nodes(WalkMapper):  # type: ignore[misc]
    """Collect the kinds of nodes in an expression, and the names of the functions that it calls."""

    def __init__(self) -> None:
        super().__init__()
        self.kinds: set[type] = set()
        self.functions: set[str] = set()

    def visit(self, expr: Any, *args: Any, **kwargs: Any) -> bool:
        self.kinds.add(type(expr))
        if isinstance(expr, Call):
            self.functions.add(expr.function.name)
        return True


class HoistCalls(IdentityMapper):  # type: ignore[misc]
    """Replace calls of some functions by variables: one for each argument, with the suffix of the function."""

    def __init__(self, suffixes: Mapping[str, str], prefix: str, first: int) -> None:
        super().__init__()
        self.suffixes, self.prefix, self.first = suffixes, prefix, first
        self.arguments: dict[Any, str] = {}
        self.results: set[str] = set()

    def map_call(self, expr: Any, *args: Any, **kwargs: Any) -> Any:
        called = next((name for name in self.suffixes if _calls(expr, name)), None)
        if called is None:
            return super().map_call(expr, *args, **kwargs)
        (x,) = (flatten(self.rec(x, *args, **kwargs)) for x in expr.parameters)
        argument = self.arguments.setdefault(x, f"{self.prefix}{self.first + len(self.arguments)}")
        result = argument + self.suffixes[called]
        self.results.add(result)
        return var(result)


LARGEST_POWER = 8
"""Powers of a variable up to this are written as products."""


class Order(IdentityMapper):  # type: ignore[misc]
    """Order the factors of products: constants first, factors that depend on the direction of a pair last.

    Powers of variables become products, and terms with the same direction factors are collected.
    """

    def map_power(self, expr: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(expr.base, Variable) and isinstance(expr.exponent, int) and 0 < expr.exponent <= LARGEST_POWER:
            return Product((expr.base,) * expr.exponent)
        return super().map_power(expr, *args, **kwargs)

    def map_product(self, expr: Any, *args: Any, **kwargs: Any) -> Any:
        sorted_factors = sorted(
            factors(Product(tuple(self.rec(factor, *args, **kwargs) for factor in factors(expr)))), key=_place
        )
        return Product(tuple(sorted_factors))

    def map_sum(self, expr: Any, *args: Any, **kwargs: Any) -> Any:
        terms: dict[tuple[Any, ...], list[Any]] = {}
        for term in (self.rec(child, *args, **kwargs) for child in expr.children):
            directed = tuple(factor for factor in factors(term) if _place(factor) == 2)
            terms.setdefault(directed, []).append(term)
        collected = tuple(child for group in terms.items() for child in self._collected(*group))
        return Sum(collected) if len(collected) > 1 else collected[0]

    @staticmethod
    def _collected(directed: tuple[Any, ...], terms: list[Any]) -> list[Any]:
        """Combine terms with the same direction factors into one."""
        if not directed or len(terms) == 1:
            return terms
        others = (tuple(factor for factor in factors(term) if _place(factor) < 2) for term in terms)
        return [Product((Sum(tuple(Product(other or (1,)) for other in others)), *directed))]


def _place(factor: Any) -> int:
    if not isinstance(factor, ExpressionNode):
        return 0
    return 2 if {"d0", "d1", "d2"} & get_dependencies(factor) else 1


def factors(expression: Any) -> list[Any]:
    """Return the factors of an expression that is not a product of products any more; itself if it is no product."""
    if isinstance(expression, Product):
        return [factor for child in expression.children for factor in factors(child)]
    return [expression]


class Untested(IdentityMapper):  # type: ignore[misc]
    """Replace a conditional by its value where the condition is true."""

    def map_if(self, expr: Any, *args: Any, **kwargs: Any) -> Any:
        return self.rec(expr.then, *args, **kwargs)


class LastIndex(IdentityMapper):  # type: ignore[misc]
    """Replace the last index of some arrays by the one of some inames that it depends on."""

    def __init__(self, arrays: set[str], inames: set[str]) -> None:
        super().__init__()
        self.arrays, self.inames = arrays, inames

    def map_subscript(self, expr: Any, *args: Any, **kwargs: Any) -> Any:
        if expr.aggregate.name not in self.arrays:
            return super().map_subscript(expr, *args, **kwargs)
        (iname,) = self.inames & get_dependencies(expr.index_tuple[-1])
        return expr.aggregate[(*expr.index_tuple[:-1], var(iname))]
