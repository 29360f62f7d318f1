"""The proof that a transformed kernel does what the sequential one does, for all sizes; nothing is run."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import islpy as isl

from fmmloopy.checking.proof.compare import Kernel, compare
from fmmloopy.checking.proof.contract import Contract, assumptions_of
from fmmloopy.checking.proof.contributions import read_stores
from fmmloopy.checking.proof.facts import Facts, read_facts
from fmmloopy.checking.proof.identity import make_field
from fmmloopy.checking.proof.interface import refuse_interface
from fmmloopy.checking.proof.lemmas import lemmas_of
from fmmloopy.checking.proof.match import Context
from fmmloopy.checking.proof.number_reader import Reader
from fmmloopy.checking.proof.overflow import refuse_overflow, sizes_of_arrays
from fmmloopy.checking.proof.races import refuse_out_of_bounds
from fmmloopy.checking.proof.sets import Names
from fmmloopy.checking.proof.verdict import NotProved, Proved, ProvedIf, Unproved, Verdict
from fmmloopy.common.messages import one_line
from fmmloopy.operators.operator import Array, Operator
from fmmloopy.recipes.lanes import lanes_of

TIME_LIMIT = 15.0
"""Seconds of processor time for a proof. Most take less than one, the longest ten, and slow machines must prove as much
as others."""

MOST_OPERATIONS = 20_000_000
"""Operations of isl that one set may take, so that the time limit is seen."""


def prove(sequential: Any, transformed: Any, operator: Operator, limit: float = TIME_LIMIT) -> Verdict:
    """Prove that a transformed kernel adds the same terms to the same entries as the sequential one.

    Args:
        sequential: the kernel of the sequential recipe, a loopy translation unit.
        transformed: the kernel of another recipe, of the same types and Green's function.
        operator: its record, which declares what both may assume.
        limit: seconds of processor time; a proof that takes longer is none.
    """
    context = isl.DEFAULT_CONTEXT
    context.reset_operations()
    context.set_max_operations(MOST_OPERATIONS)
    try:
        return _prove(sequential, transformed, operator, _Clock(limit))
    except Unproved as end:
        return end.verdict
    except Exception as error:  # whatever stops a proof, there is none
        return NotProved(f"{type(error).__name__}: {one_line(error)}")
    finally:
        context.set_max_operations(0)
        context.reset_operations()


def _prove(sequential: Any, transformed: Any, operator: Operator, tick: _Clock) -> Proved | ProvedIf:
    lanes = lanes_of(transformed)
    one, two = read_facts(sequential), read_facts(transformed)
    lemmas = tuple(dict.fromkeys((*lemmas_of(one), *lemmas_of(two))))
    field = make_field(f"{_text(one)}\n{_text(two)}")
    tick()
    arrays = [a for a in operator.arguments if isinstance(a, Array)]
    if set(one.kernel.arg_dict) >= {a.name for a in operator.mixed_arguments if isinstance(a, Array)}:
        arrays = [a for a in operator.mixed_arguments if isinstance(a, Array)] or arrays
    contract = Contract(operator, arrays)
    refuse_interface(two, one, contract.merged(lanes))
    launch: Mapping[str, Any] = contract.launch({})
    first = Reader(one, "s", field, launch, contract.merged({}), contract.distinct)
    second = Reader(two, "t", field, contract.launch(lanes), contract.merged(lanes), contract.distinct)
    context = Context(Names(), assumptions_of(one, launch), contract.bounds(one), field)
    before = Kernel(first, read_stores(first))
    tick()
    refuse_out_of_bounds(second, context)
    tick()
    after = Kernel(second, read_stores(second))
    tick()
    found = compare(before, after, operator, context, tick)
    refuse_overflow(second, context, sizes_of_arrays(first, context), tick)
    return ProvedIf(found, lemmas) if lemmas else Proved(found)


def _text(facts: Facts) -> str:
    """Return what a kernel computes, as text, with the rules expanded: every constant must be in it."""
    return "\n".join([str(facts.kernel.domains), *(str(i) for i in facts.kernel.instructions)])


class _Clock:
    """Ends a proof that takes too long when it is called.

    Args:
        limit: seconds.
    """

    def __init__(self, limit: float) -> None:
        self._end: float = time.thread_time() + limit
        self._limit = limit

    def __call__(self) -> None:
        if time.thread_time() > self._end:
            raise Unproved(f"took too long, more than {self._limit:g} s")
