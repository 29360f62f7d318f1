"""Recipes that are right for most functions, orders, scales and tuning values, and wrong for one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from corpus.entries import SCHEDULES, Wrong, wrong
from corpus.mistakes import (
    Edit,
    Kernel,
    assign,
    at_most,
    bounds,
    everywhere,
    guard,
    has,
    in_dtype,
    only_if,
    pair_test,
    rewrite,
    shorter,
    then,
    with_dependency,
)

ORDERS, FUNCTIONS = "wrong at some orders", "wrong for some functions"
WHOLE = "wrong in whole evaluations"
SCALES, TUNING = "wrong at some distances", "wrong for some tuning values"


def _loop_of(iname: str, *lengths: int) -> Callable[[Kernel], bool]:
    """Return whether a loop of fixed length has one of these lengths."""
    return lambda knl: int(str(knl.default_entrypoint.get_constant_iname_length(iname))) in lengths


def _yukawa(knl: Kernel) -> bool:
    return any("exp(" in str(rule.expression) for rule in knl.default_entrypoint.substitutions.values())


_root, _three_sums, _gradient = has("rinv"), has("sum2"), has("sum3")


def _both(*conditions: Callable[[Kernel], bool]) -> Callable[[Kernel], bool]:
    return lambda knl: all(condition(knl) for condition in conditions)


def _not(condition: Callable[[Kernel], bool]) -> Callable[[Kernel], bool]:
    return lambda knl: not condition(knl)


def _orders() -> list[Wrong]:
    """Orders between and beyond those that are tried."""
    return [
        wrong("m2l_forward", ORDERS, "exact", "last row of a transform lost at order 5",
              "one order loses accuracy",
              only_if(_loop_of("x3", 5), shorter("x3"))),
        wrong("m2l_forward", ORDERS, "exact", "last point lost above order 8",
              "high orders lose accuracy",
              only_if(_loop_of("x3", *range(9, 17)), shorter("z1"))),
        wrong("m2l_inverse", ORDERS, "exact", "last frequency lost where the order is odd and above 3",
              "odd orders lose accuracy",
              only_if(_loop_of("x1", *range(5, 17, 2)), shorter("k1"))),
        wrong("m2l_inverse", ORDERS, "exact", "last frequency lost where the transform's length is 15",
              "one order loses accuracy",
              only_if(_loop_of("k1", 15), shorter("k2")), dtype=np.float32),
        wrong("p2m", ORDERS, "hostile", "last check point lost where their number is odd in tiles of eight",
              "order 5 loses a check point",
              assign("tgt_end", "{0} - 1 if {0} == 98 else {0}")),
        wrong("l2p", ORDERS, "hostile", "last density lost at order 7",
              "one order loses a density",
              assign("src_end", "{0} - 1 if {0} == 218 else {0}")),
        wrong("m2p", ORDERS, "hostile", "last density lost at order 9",
              "one order loses a density",
              assign("src_end", "{0} - 1 if {0} == 386 else {0}")),
    ]  # fmt: skip


def _whole() -> list[Wrong]:
    """Lengths of vectors that only a whole evaluation has."""
    return [
        wrong(operator, WHOLE, "fmm", "one column lost at order 6",
              "one order loses accuracy",
              guard("sum", "j != 100 or ncolumns != 160"))
        for operator in ("m2m", "l2l", "check_to_equivalent")
    ]  # fmt: skip


def _functions() -> list[Wrong]:
    """Green's functions of three components or more, with more rows than columns, with a root, with derivatives."""
    polynomial = _both(_three_sums, _not(_root))
    more_columns = bounds(("0 <= col <= 2", "0 <= col <= 1"))

    def three(name: str) -> Callable[[Kernel], bool]:
        return lambda knl: any(f"{name} <= 2 " in str(d) for d in knl.default_entrypoint.domains)

    return [
        *(
            wrong(operator, FUNCTIONS, "exact", "third row takes the second charge for the first",
                  "functions with three components are wrong",
                  only_if(_both(_three_sums, has("q1")), rewrite("sum2", ("q0", "q1"))))
            for operator in ("p2p", "p2m", "m2p")
        ),
        *(
            wrong(operator, FUNCTIONS, "exact", "third charge left out",
                  "functions with three components are wrong",
                  only_if(has("q2"), rewrite("sum0", ("*q2", "*q2*0"))))
            for operator in ("p2l", "l2p")
        ),
        wrong("m2l_hadamard", FUNCTIONS, "exact", "at most two source components",
              "functions with three components are wrong",
              only_if(three("col"), more_columns)),
        wrong("m2l_hadamard", FUNCTIONS, "exact", "as many rows as columns",
              "functions with more rows than columns are wrong",
              only_if(three("row"), bounds(("0 <= row <= 2", "0 <= row <= 1")))),
        wrong("m2l_forward", FUNCTIONS, "exact", "at most two components",
              "functions with three components are wrong",
              only_if(three("comp"), bounds(("0 <= comp <= 2", "0 <= comp <= 1")))),
        wrong("m2l_inverse", FUNCTIONS, "exact", "at most two components",
              "functions with three components are wrong",
              only_if(three("comp"), bounds(("0 <= comp <= 2", "0 <= comp <= 1")))),
        wrong("p2p", FUNCTIONS, "numerical", "at most 64 sources if there is a root",
              "right for polynomials only",
              only_if(_root, at_most("src_end", "src_start + 64", "src_start"))),
        wrong("m2p", FUNCTIONS, "numerical", "at most 32 entries for derivatives",
              "forces of long W lists are wrong",
              only_if(_both(_root, _gradient), at_most("list_end", "list_start + 32", "list_start"))),
        wrong("p2l", FUNCTIONS, "numerical", "at most 100 sources for Yukawa's function",
              "one function is wrong",
              only_if(_yukawa, at_most("src_end", "src_start + 100", "src_start"))),
        wrong("l2p", FUNCTIONS, "numerical", "at most 41 targets for derivatives",
              "forces of large leaves are wrong",
              only_if(_both(_root, _gradient), at_most("tgt_end", "tgt_start + 41", "tgt_start"))),
        wrong("p2m", FUNCTIONS, "numerical", "box in 15 bits if there is a root",
              "right for polynomials only",
              only_if(_root, in_dtype(np.int16, "box"))),
        wrong("p2p", FUNCTIONS, "numerical", "bounds of the targets if there is a root",
              "right where sources and targets are the same points",
              only_if(_root, rewrite("src_end", ("box_source_ends", "box_target_ends")))),
        wrong("p2p", FUNCTIONS, "exact", "third row stored twice where there are derivatives",
              "forces of vector functions are wrong",
              only_if(polynomial, then(everywhere("store2", ("[2,", "[1,")), with_dependency("store2", "store1")))),
    ]  # fmt: skip


def _scales() -> list[Wrong]:
    """Distances that occur in double precision: units may be metres or light years."""
    threshold: dict[str, tuple[str, str]] = {
        "p2p": ("r2 > 1e-30", "nothing acts within 1e-15"),
        "p2m": ("r2 > 1e-40", "small boxes have no multipole"),
        "l2p": ("r2 > 0 and r2 < 1e30", "large domains have no potential"),
        "m2p": ("r2 > 0 and r2 < 1e100", "large domains have no potential"),
        "p2l": ("r2 > 1e-200", "small boxes have no local expansion"),
    }
    return [
        *(
            wrong(operator, SCALES, "numerical", f"pairs only where {text}", effect,
                  only_if(_root, pair_test(("r2 > 0", text))))
            for operator, (text, effect) in threshold.items()
        ),
        wrong("p2p", SCALES, "numerical", "root of a number that never vanishes",
              "potentials within 1e-20 are wrong",
              only_if(_root, rewrite("rinv", ("sqrt(r2)", "sqrt(r2 + 1e-60)")))),
        wrong("m2p", SCALES, "numerical", "root by two factors",
              "potentials beyond 1e80 are wrong",
              only_if(_both(_root, _not(_gradient)), rewrite("rinv", ("1 / sqrt(r2)", "r2 / sqrt(r2*r2*r2)")))),
    ]  # fmt: skip


def _tuned(operator: str, name: str, effect: str, mistake: Edit, tuning: dict[str, tuple[int, ...]]) -> Wrong:
    """Make a recipe with tuning values whose last ones, taken together, make a mistake."""
    chosen = SCHEDULES[operator]

    def recipe(knl: Kernel, *, first: int = 1, second: int = 1) -> Iterator[tuple[str, Kernel]]:
        yield "right", chosen(knl)
        if first == tuning["first"][-1] and second == tuning["second"][-1]:
            yield "mistake", then(mistake, chosen)(knl)

    return Wrong(operator, TUNING, "exact", name, effect, recipe, level="full", tuning=tuning)


def _tuning() -> list[Wrong]:
    return [
        _tuned("p2p", "source tail lost for two values together", "the fastest choice is wrong",
               rewrite("stiles", (" + slanes + -1", "")), {"first": (1, 2), "second": (1, 2)}),
        _tuned("m2m", "last column lost for two values together", "the fastest choice is wrong",
               bounds(("j < ncolumns", "j < ncolumns - 1")), {"first": (1, 2, 4), "second": (1, 3)}),
        _tuned("m2l_hadamard", "mask dropped for two values together", "the fastest choice is wrong",
               guard("store?"), {"first": (1, 2, 3), "second": (1, 2)}),
    ]  # fmt: skip


ENTRIES: tuple[Wrong, ...] = (*_orders(), *_whole(), *_functions(), *_scales(), *_tuning())
