"""The checker's own test: wrong recipes of the corpus are rejected by the right layer, right ones pass.

Of each kind, one is tested; all of them with FMMLOOPY_WHOLE_CORPUS=1 in the environment.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import cache
from typing import TypeVar

import numpy as np
import pytest
from corpus import RIGHT, WRONG, tables
from corpus.entries import LAYERS, Right, Wrong

from fmmloopy.check import Finding, check_book
from fmmloopy.checking import sanitizer
from fmmloopy.devices import find_devices
from fmmloopy.recipes import OPERATORS, RecipeBook

OPENCL = [d for d in find_devices() if d.backend == "opencl" and not d.is_simulator]

Entry = TypeVar("Entry", Right, Wrong)

needs_opencl = pytest.mark.skipif(not OPENCL, reason="no OpenCL device")
needs_oclgrind = pytest.mark.skipif(sanitizer.find_library() is None, reason="oclgrind is not installed")

AT_ONCE = 8
"""Recipes in a book: a book is checked in processes of its own, which take seconds to start."""

WHOLE = bool(os.environ.get("FMMLOOPY_WHOLE_CORPUS"))
"""Whether to test every entry, ten minutes on two cores, and not one of each kind."""


def _tested(
    entries: Sequence[Entry], kind: Callable[[Entry], Hashable], spread: Callable[[Entry], Hashable]
) -> list[Entry]:
    """Return one entry of each kind, as different as can be in another way; all if the whole corpus is wanted."""
    if WHOLE:
        return list(entries)
    kinds: dict[Hashable, list[Entry]] = {}
    for entry in entries:
        kinds.setdefault(kind(entry), []).append(entry)
    chosen: list[Entry] = []
    for alike in sorted(kinds.values(), key=len):
        taken = Counter(map(spread, chosen))
        chosen.append(min(alike, key=lambda entry: taken[spread(entry)]))
    return chosen


TESTED_WRONG = _tested(WRONG, kind=lambda e: e.family, spread=lambda e: e.operator)
TESTED_RIGHT = _tested(RIGHT, kind=lambda e: e.operator, spread=lambda e: e.dtypes)


def _books(entries: Sequence[Wrong | Right]) -> Iterator[tuple[Wrong | Right, ...]]:
    """Yield entries in groups that fit in one book: each of another operator, all checked in the same way."""
    waiting = list(entries)
    while waiting:
        taken: dict[str, Wrong | Right] = {}
        for entry in waiting:
            if len(taken) < AT_ONCE and entry.operator not in taken and _alike(entry, waiting[0]):
                taken[entry.operator] = entry
        waiting = [entry for entry in waiting if entry not in taken.values()]
        yield tuple(taken.values())


def _alike(one: Wrong | Right, other: Wrong | Right) -> bool:
    if isinstance(one, Right) or isinstance(other, Right):
        return one.dtypes == other.dtypes
    alone = "fmm" in (one.layer, other.layer) and one is not other
    return not alone and (one.level, one.dtype) == (other.level, other.dtype)


@cache
def _findings(group: tuple[Wrong | Right, ...]) -> tuple[Finding, ...]:
    recipes = {entry.operator: entry.recipe for entry in group}
    tuning = {e.operator: e.tuning for e in group if isinstance(e, Wrong) and e.tuning}
    first = group[0]
    book = RecipeBook(f"corpus, {first.id}", device="", recipes=recipes, tuning=tuning)
    wrong = isinstance(first, Wrong)
    dtypes, level = ([first.dtype], first.level) if wrong else (first.dtypes, "quick")
    return check_book(book, device=OPENCL[0], dtypes=dtypes, level=level).findings


def _parameters(entries: Sequence[Wrong | Right]) -> list[object]:
    """Return an entry and its group for each test, groups one after the other."""
    return [
        pytest.param(
            entry,
            group,
            id=entry.id,
            marks=[needs_oclgrind] if isinstance(entry, Wrong) and entry.layer == "sanitized" else [],
        )
        for group in _books(entries)
        for entry in group
    ]


@needs_opencl
@pytest.mark.parametrize(("entry", "group"), _parameters(TESTED_WRONG))
def test_wrong_recipes_are_rejected(entry, group):
    findings = [f for f in _findings(group) if f.operator == entry.operator or entry.layer == "fmm"]
    texts = [str(f) for f in findings]
    assert {f.layer for f in findings} in [{layer} for layer in (entry.layer, *entry.also)], texts
    assert {f.step for f in findings} == {"" if entry.layer == "fmm" else entry.step}, texts
    assert not any("\n" in text or "\0" in text for text in texts)


@needs_opencl
@pytest.mark.parametrize(("entry", "group"), _parameters(TESTED_RIGHT))
def test_right_recipes_pass(entry, group):
    findings = [f for f in _findings(group) if f.operator in (entry.operator, "")]
    assert not findings, [str(f) for f in findings]


@needs_opencl
def test_the_first_wrong_step_is_named():
    def four_steps(recipe):
        def longer(knl):
            (_, good), (_, bad) = recipe(knl)
            yield "right", good
            yield "right still", good
            yield "mistake", bad
            yield "after the mistake", bad

        return longer

    exact = [e for e in WRONG if e.layer == "exact" and e.level == "quick" and e.dtype is np.float64]
    operators = OPERATORS if WHOLE else ("p2m", "l2l", "m2l_inverse")
    recipes = {e.operator: four_steps(e.recipe) for e in exact if e.operator in operators}
    findings = check_book(RecipeBook("four steps", "", recipes), device=OPENCL[0], dtypes=[np.float64]).findings
    assert {f.operator: f.step for f in findings} == dict.fromkeys(operators, "3 'mistake'")


def test_the_corpus_is_wide():
    wrong, right = Counter(e.operator for e in WRONG), Counter(e.operator for e in RIGHT)
    assert len({e.id for e in WRONG}) == len(WRONG) >= 120
    assert len({e.id for e in RIGHT}) == len(RIGHT) >= 40
    for operator in OPERATORS:
        assert wrong[operator] >= 5
        assert right[operator] >= 2
    assert {e.layer for e in WRONG} == {e.layer for e in TESTED_WRONG} == set(LAYERS)
    assert all(e.effect and e.family for e in WRONG)


def test_the_tables_count_all_entries():
    by_operator, by_family = tables().split("\n\n")
    for table, count in ((by_operator, len(OPERATORS)), (by_family, len({e.family for e in WRONG}))):
        head, rule, *rows, total = table.splitlines()
        columns = head.count("|")
        assert all(line.count("|") == columns for line in (rule, *rows, total))
        assert len(rows) == count
        assert f"| {len(WRONG)} |" in total
