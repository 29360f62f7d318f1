"""The validator is mutated: without one of its checks, a wrong kernel is proved that it rejects with it."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from overflow_kernels import OVERFLOWS
from subtle_kernels import SUBTLE
from wrong_kernels import WRONG

from fmmloopy.checking.proof import (
    Proved,
    compare,
    facts,
    identity,
    interface,
    lemmas,
    memory,
    overflow,
    proving,
    scatter,
    sums,
    terms,
)
from fmmloopy.checking.proof import integer_reader as integers
from fmmloopy.checking.proof import match as matching
from fmmloopy.checking.proof import number_reader as numbers
from fmmloopy.checking.proof.number_reader import Reader
from fmmloopy.operators import OPERATORS

Weaken = Callable[[pytest.MonkeyPatch], None]


def nothing(*_: Any, **__: Any) -> None:
    """Check nothing."""


def gone(owner: Any, name: str, replacement: Any = nothing) -> Weaken:
    """Replace a check of a module or a class."""
    return lambda patch: patch.setattr(owner, name, replacement)


def _plain_sum(self: Any, node: Any) -> int:
    return int((self.value(node.left) + self.value(node.right)) % self.field.prime)


def _all_factors(self: Any, node: Any) -> Any:
    """Return all factors that the sides of a sum have in common, of either kernel."""
    return self.common(node, None).elements()


def _positive(*_: Any) -> tuple[int, frozenset[int]]:
    """Return the sign of a number that is positive."""
    return 1, frozenset()


def _any_quotient(self: Any, node: Any) -> int:
    return pow(self.value(node.of), -1, self.field.prime)


def _as_it_is(self: Any, pieces: Any, *_: Any) -> Any:
    return pieces


def _always_disjoint(patch: pytest.MonkeyPatch) -> None:
    """Let several statements add one term."""
    original = compare._part
    patch.setattr(compare, "_part", lambda side, other, match, points, before, *rest: original(
        side, other, match, points, (), *rest))  # fmt: skip


def _one_prime(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(proving, "make_field", lambda text: identity.Field(2**61 - 1, text))


def _functions_in_any_type(patch: pytest.MonkeyPatch) -> None:
    """Let functions be computed in float32; 2 has a root modulo this prime."""
    _one_prime(patch)
    patch.setattr(Reader, "_refuse_narrow", nothing)


def _positive_roots(patch: pytest.MonkeyPatch) -> None:
    """Let a root of a square be the number, where that is the root that is drawn."""
    original = identity._Point._value

    def value(self: Any, node: Any) -> int:
        if isinstance(node, identity.Call) and node.name == "sqrt":
            inner = node.operands[0]
            if isinstance(inner, identity.Multiply) and self.value(inner.left) == self.value(inner.right):
                return int(self.value(inner.left))
        return original(self, node)

    patch.setattr(identity._Point, "_value", value)
    patch.setattr(identity, "_where_no_number", lambda *_: set())
    patch.setattr(terms, "is_partial", lambda _: False)


def _any_order(patch: pytest.MonkeyPatch) -> None:
    """Let statements that are in no order come one after the other."""
    original = proving.read_facts

    def read_facts(tunit: Any) -> Any:
        found = original(tunit)
        ids = {statement.id for statement in found.statements}
        later = {one: {other for other in ids if one in found.before[other]} for one in ids}
        return dataclasses.replace(found, before={one: frozenset(ids - later[one] - {one}) for one in ids})

    patch.setattr(proving, "read_facts", read_facts)


def _narrow_sums(patch: pytest.MonkeyPatch) -> None:
    """Let a sum have bounds without the loops of the sums around it; their difference may not fit either."""
    original = integers.IntegerReader.domain

    def domain(self: Any, scope: Any, inames: Any = None) -> Any:
        return original(self, scope, inames - {"entry"} if inames and "column" in inames else inames)

    patch.setattr(integers.IntegerReader, "domain", domain)
    patch.setattr(proving, "refuse_overflow", nothing)


def _any_product_is_a_square(patch: pytest.MonkeyPatch) -> None:
    """Let any product be positive or zero."""
    original = identity._is_not_negative
    patch.setattr(
        identity, "_is_not_negative", lambda point, node, positive: isinstance(node, identity.Multiply)
        or original(point, node, positive)
    )  # fmt: skip


def _positive_squares(patch: pytest.MonkeyPatch) -> None:
    """Let no square be zero."""
    original = identity._is_positive
    patch.setattr(
        identity, "_is_positive", lambda point, node, positive: isinstance(node, identity.Multiply)
        or original(point, node, positive)
    )  # fmt: skip


def _outer_roots_only(patch: pytest.MonkeyPatch) -> None:
    """Let what is under a root be a number."""
    original = identity._is_guarded

    def is_guarded(point: Any, node: Any, positive: Any) -> bool:
        if isinstance(node, identity.Call) and node.name == "sqrt":
            return identity._is_positive(point, node.operands[0], positive)
        return original(point, node, positive)

    patch.setattr(identity, "_is_guarded", is_guarded)


def _any_integers(patch: pytest.MonkeyPatch) -> None:
    """Let whole numbers be in any type that their arithmetic fits into."""
    patch.setattr(integers, "narrowed", lambda *_: False)
    patch.setattr(overflow._Watcher, "_size", lambda *_: 4)


def _any_loads(patch: pytest.MonkeyPatch) -> None:
    """Let loads decide where a term goes; a product with them may not fit either."""
    patch.setattr(matching, "_undetermined", lambda *_: "")
    patch.setattr(proving, "refuse_overflow", nothing)


def _products_that_fit(patch: pytest.MonkeyPatch) -> None:
    """Let all products of whole numbers be whole numbers that fit."""
    patch.setattr(integers.IntegerReader, "_product", _any_product)
    patch.setattr(proving, "refuse_overflow", nothing)


def _any_constant(value: Any, *_: Any) -> Any:
    """Return a constant, whatever type holds it."""
    return {0: terms.ZERO, 1: terms.ONE}.get(value) or terms.Constant(Fraction(value))


def _none(*_: Any) -> tuple[()]:
    return ()


def _any_product(self: Any, factors: Any, statement: str) -> Any:
    """Return a product of whole numbers, whatever type holds it."""
    total = integers.whole(1)
    for x in factors:
        if total.is_constant or x.is_constant:
            total = x.times(total.constant) if total.is_constant else total.times(x.constant)
        else:
            total = integers.of(integers.Opaque("*", (total, x)))
    return total


def _any_entry(_: Any, statement: Any, term: Any) -> bool:
    """Return whether a term is an entry of the array that a statement writes."""
    return str(term).startswith(f"{facts.written(statement)}[")


def _one_sum(self: Any, node: Any) -> tuple[int, ...]:
    """Return the value of a sum, whatever cancels in it."""
    return (sum(self.value(side) for side in identity._sides(node)) % self.field.prime,)


CASES: dict[str, tuple[str, Weaken]] = {
    "a later writer": ("overwritten after the read", gone(memory, "refuse_later")),
    "entries overwritten once": ("m2m: overwritten by zero", gone(compare, "_refuse_twice")),
    "types of sums": ("mixed: total in float32", gone(compare, "_narrow_loop", lambda *_: "")),
    "types of numbers": ("charges in float32", gone(Reader, "rounded", _as_it_is)),
    "assumptions": ("assumes full tiles", gone(interface, "_refuse_assumptions")),
    "loads that decide a loop": ("stored as often as data say", gone(matching, "_undetermined", lambda *_: "")),
    "differences": ("a difference expanded", gone(identity._Point, "_sum", _plain_sum)),
    "differences expanded": ("a product with a difference expanded", gone(identity._Point, "_taken_out", _all_factors)),
    "signs of arguments": (
        "a square of a sum of unknown signs expanded", gone(identity._Point, "unknown_sign", _positive)
    ),
    "signs of differences": (
        "a large difference added and subtracted", gone(identity._Point, "unknown_sign", _positive)
    ),
    "entries that are added to": ("the next entry added to", gone(memory, "_is_written", _any_entry)),
    "numbers of 32 bits": ("boxes shifted out of 32 bits", gone(proving, "refuse_overflow")),
    "whole numbers on the way": ("a sum that is taken back", gone(overflow._Watcher, "_from_the_left", _none)),
    "types of operands": ("64 bits at the end of a product", gone(overflow._Watcher, "_from_the_left", _none)),
    "rounding of negative numbers": (
        "a negative number rounded down", gone(overflow._Watcher, "_rounded_down", _none)
    ),
    "quotients in indices": (
        "a negative number rounded down in an index", gone(overflow._Watcher, "_reduced", lambda *_: integers.whole(0))
    ),
    "rounding of bounds": ("a bound rounded up", gone(overflow, "_modulo", lambda *_: integers.whole(0))),
    "quotients in bounds": ("a quotient in a bound", gone(overflow, "_of_quotient", _none)),
    "differences of bounds": ("the least of two bounds", gone(overflow, "_differences", _none)),
    "loops inside of others": ("a bound by a loop inside", gone(overflow, "_related", _none)),
    "bounds of loops": ("a bound of a loop", gone(overflow, "_bounds_of", _none)),
    "ends of loops": ("a loop to the last number of 32 bits", gone(overflow, "_ends", lambda _: [])),
    "types of whole numbers on the way": (
        "64 bits that become 32", gone(overflow._Watcher, "_size", lambda *_: 8)
    ),
    "strides": ("a stride times a position", gone(overflow, "_strided", _none)),
    "indices in numbers": ("a product in the index of a number", gone(overflow, "_inside", _none)),
    "indices in whole numbers": ("a product in an index", gone(overflow, "_computed", _none)),
    "types of whole numbers": ("boxes in int16", _any_integers),
    "bounds of arrays": ("array too short", gone(proving, "refuse_out_of_bounds")),
    "layout of temporary arrays": (
        "array of stride zero", gone(interface, "_is_injective", lambda *_: True)
    ),
    "layout of arguments": ("output by columns", gone(interface, "_is_row_major", lambda *_: True)),
    "races": ("m2l_hadamard: directions as work-groups", gone(compare, "refuse_races")),
    "work-items of ranges": ("mutual: sums of neighbours stored by one work-item", gone(compare, "refuse_races")),
    "what has been written": ("tile too short", gone(compare, "_refuse_unwritten")),
    "what idle lanes read": ("mutual: idle lanes read after the end", gone(compare, "_refuse_elsewhere")),
    "lost terms": ("list of at most 100", gone(compare, "_refuse_lost")),
    "barriers and options": ("tile without a barrier", gone(interface, "_refuse_extras")),
    "arrays of promises": (
        "mutual: a promise for another statement", gone(interface, "_unordered", lambda *_: set())
    ),
    "options": ("a check of loopy switched off", gone(interface, "_refuse_extras")),
    "sources of functions": ("another coefficient", gone(lemmas, "_is_ours", lambda *_: True)),
    "terms added by two statements": ("added twice", _always_disjoint),
    "primes that nobody knows": ("a factor that is one modulo 2^61 - 1", _one_prime),
    "signs of roots": ("the sign lost under a root in a function", _positive_roots),
    "quotients where a test fails": ("masked by a factor", gone(identity._Point, "_reciprocal", _any_quotient)),
    "lanes within the padding": (
        "more lanes than padding",
        lambda patch: patch.setattr(
            importlib.import_module("fmmloopy.checking.proof.contract"), "LANE_BOUNDS", {"tlanes": range(99),
                                                                                          "slanes": range(99)}
        ),
    ),
    "first iterations of work-items": ("an axis that starts at one", gone(facts, "_refuse_shifted_axes")),
    "axes of work-items": ("a loop of its own for work-items", gone(facts, "_refuse_idle_axes")),
    "loads that permute a loop": ("directions permuted by loads", _any_loads),
    "bounds of sums in sums": ("a sum with bounds of another", _narrow_sums),
    "order of statements": ("tile without an order", _any_order),
    "parts of sums": ("stored when one list entry is done", gone(sums, "_refuse_parts")),
    "clearing of what is scattered into": ("m2l_forward: cleared once", gone(scatter, "_is_cleared", lambda *_: True)),
    "products of 32 bits": ("a product of loops", _products_that_fit),
    "arithmetic in 8 bits": (
        "whole numbers of 8 bits", gone(integers, "narrowed", lambda source, target: source != target)
    ),
    "names of functions": ("another function named min", gone(facts.Facts, "function_of_loopy", lambda _, name: name)),
    "where temporary arrays are written": ("a place that nothing has decided", gone(proving, "refuse_out_of_bounds")),
    "constants that are whole numbers": (
        "a product of whole numbers", gone(numbers, "REAL_TYPES", (np.float32, np.float64, np.int32))
    ),
    "sizes of constants": ("constants out of float32", gone(numbers, "_constant", _any_constant)),
    "subnormal constants": ("a constant that is hardly a number", gone(numbers, "_constant", _any_constant)),
    "arithmetic of constants": ("constants in float32", gone(Reader, "rounded", _as_it_is)),
    "functions of constants": ("roots of constants in float32", _functions_in_any_type),
    "quotients": ("a quotient that may be 0/0", gone(identity, "_where_no_number", lambda *_: set())),
    "roots": ("roots of what may be negative in a square", gone(identity, "_where_no_number", lambda *_: set())),
    "products with zero": ("zero times an infinite number", gone(terms, "is_partial", lambda _: False)),
    "signs in idle lanes": (
        "idle lanes: a root of a difference", gone(identity, "_is_not_negative", lambda *_: True)
    ),
    "squares in idle lanes": ("idle lanes: a root of a product", _any_product_is_a_square),
    "positive numbers in idle lanes": ("idle lanes: one divided by a sum of squares", _positive_squares),
    "numbers in roots in idle lanes": ("idle lanes: a root in a root", _outer_roots_only),
    "cancellation": ("a large number added and subtracted", gone(identity._Point, "term", _one_sum)),
    "targets": ("for another target", gone(interface, "_refuse_extras")),
    "other entries": ("m2m: octants reversed", gone(matching, "_vanish", lambda *_: True)),
}  # fmt: skip
"""By what a check looks at: the wrong kernel that is proved without it, and how the check is taken away."""


@pytest.mark.parametrize("name", CASES)
def test_a_check_less_lets_a_wrong_kernel_through(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mistake, weaken = CASES[name]
    made = (WRONG | SUBTLE | OVERFLOWS)[mistake]
    kernels, operator = made.kernels(), OPERATORS[made.operator]
    assert not isinstance(proving.prove(*kernels, operator, 60), Proved)
    weaken(monkeypatch)
    assert isinstance(proving.prove(*kernels, operator, 60), Proved), proving.prove(*kernels, operator, 60)
