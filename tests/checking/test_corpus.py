"""The checker's own test: wrong recipes of the corpus are rejected by the right layer, right ones pass.

One wrong recipe is tested for each layer, of operators of all forms, and one right recipe for each form (one of these
in a quick run), in one precision at level quick; `.ci/corpus` checks all of them in all of theirs. Recipes of the
shipped books are right, too, and are checked for every operator.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from conftest import OPENCL, needs_opencl, slow
from corpus import RIGHT, WRONG, tables, wrong_gpu
from corpus.entries import LAYERS, Right, Wrong
from corpus.run import Group, check, groups, judge, report

from fmmloopy.checking import sanitizer
from fmmloopy.checking.check import check_book
from fmmloopy.checking.proofs import Proof
from fmmloopy.checking.report import Finding
from fmmloopy.execution.backends.cuda_emulator import EMULATED_DEVICE
from fmmloopy.operators import OPERATORS
from fmmloopy.recipes import RecipeBook

needs_cxx = pytest.mark.skipif(
    not any(shutil.which(name) for name in (os.environ.get("CXX", ""), "g++", "clang++", "c++")),
    reason="no C++ compiler: none of $CXX, g++, clang++, c++ is there",
)

Entry = TypeVar("Entry", Right, Wrong)

needs_oclgrind = pytest.mark.skipif(sanitizer.find_library() is None, reason="oclgrind is not installed")


def _tested(
    entries: Sequence[Entry], kind: Callable[[Entry], Hashable], spread: Callable[[Entry], Hashable]
) -> list[Entry]:
    """Return one entry of each kind, as different as can be in another way."""
    kinds: dict[Hashable, list[Entry]] = {}
    for entry in entries:
        kinds.setdefault(kind(entry), []).append(entry)
    chosen: list[Entry] = []
    for alike in sorted(kinds.values(), key=len):
        taken = Counter(map(spread, chosen))
        chosen.append(min(alike, key=lambda entry: taken[spread(entry)]))
    return chosen


QUICK = [entry for entry in WRONG if entry.level == "quick"]
TESTED_WRONG = _tested(QUICK, kind=lambda e: e.layer, spread=lambda e: OPERATORS[e.operator].form)
TESTED_RIGHT = _tested(RIGHT, kind=lambda e: OPERATORS[e.operator].form, spread=lambda e: e.dtypes)


@cache
def _findings(group: Group) -> tuple[Finding, ...]:
    return check(group, OPENCL[0], all_dtypes=False).findings


def _parameters(entries: Sequence[Wrong | Right]) -> list[object]:
    """Return an entry and its group for each test, groups one after the other; slow entries have their own."""
    quick, others = ([e for e in entries if (slow in _marks(e)) == is_slow] for is_slow in (False, True))
    return [
        pytest.param(entry, group, id=entry.id, marks=_marks(entry))
        for group in (*groups(quick), *groups(others))
        for entry in group
    ]


def _marks(entry: Wrong | Right) -> list[pytest.MarkDecorator]:
    """Return the marks of an entry; test_findings.py and test_proofs.py have quicker tests of two of the layers."""
    if isinstance(entry, Wrong):
        return {"sanitized": [needs_oclgrind, slow], "symbolic": [slow]}.get(entry.layer, [])
    return [slow] if OPERATORS[entry.operator].form != "dense" else []


@needs_opencl
@pytest.mark.parametrize(("entry", "group"), _parameters(TESTED_WRONG))
def test_wrong_recipes_are_rejected(entry, group):
    findings = _findings(group)
    assert judge(entry, findings).complaint == ""
    assert not any("\n" in text or "\0" in text for text in map(str, findings))


@slow
@needs_cxx
@pytest.mark.parametrize("group", list(groups(wrong_gpu.ENTRIES)), ids=lambda group: group[0].id)
def test_mistakes_that_only_gpus_have_are_found_in_cuda_text(group):
    """`tests/recipes/test_gpu.py` has quicker ones, in the text itself."""
    findings = check(group, EMULATED_DEVICE, all_dtypes=False)
    assert not [verdict.complaint for entry in group if (verdict := judge(entry, findings)).complaint]


def test_the_page_on_gpus_names_the_mistakes_that_are_found():
    page = (Path(__file__).parents[2] / "docs" / "write_a_gpu_recipe.md").read_text()
    for entry in wrong_gpu.ENTRIES:
        assert f"| {entry.name.removeprefix('GPU, ')} | {entry.operator} |" in page


@needs_opencl
@pytest.mark.parametrize(("entry", "group"), _parameters(TESTED_RIGHT))
def test_right_recipes_pass(entry, group):
    assert judge(entry, _findings(group)).complaint == ""


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
    operators = ("p2m", "l2l")
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
    forms = {record.form for record in OPERATORS.values()}
    for tested in (TESTED_WRONG, TESTED_RIGHT):
        assert {OPERATORS[e.operator].form for e in tested} == forms
    assert all(e.effect and e.family for e in WRONG)


def test_the_tables_count_all_entries():
    by_operator, by_family = tables().split("\n\n")
    for table, count in ((by_operator, len(OPERATORS)), (by_family, len({e.family for e in WRONG}))):
        head, rule, *rows, total = table.splitlines()
        columns = head.count("|")
        assert all(line.count("|") == columns for line in (rule, *rows, total))
        assert len(rows) == count
        assert f"| {len(WRONG)} |" in total


def _finding(entry: Wrong | Right, layer: str, step: str = "2 'mistake'", operator: str | None = None) -> Finding:
    name = entry.operator if operator is None else operator
    return Finding("a book", name, "float64", layer=layer, step=step, message="it differs")


def test_verdicts_compare_findings_with_what_should_be_found():
    exact = next(e for e in WRONG if e.layer == "exact" and not e.also)
    fmm = next(e for e in WRONG if e.layer == "fmm")
    right = RIGHT[0]
    other = _finding(exact, "static", operator="another")
    proof = Proof(right.operator, "float64", "laplace", 3, proved=True)
    assert not judge(right, [], [proof, replace(proof, proved=False)]).proved
    good = [
        judge(exact, [_finding(exact, "exact", exact.step), other]),
        judge(fmm, [_finding(fmm, "fmm", fmm.step)]),
        judge(fmm, [_finding(fmm, "symbolic", fmm.step)]),
        judge(right, [other], [proof, replace(proof, operator="another", proved=False)]),
    ]
    assert [(v.layers, v.complaint) for v in good] == [(("exact",), ""), (("fmm",), ""), (("symbolic",), ""), ((), "")]
    bad = {
        "it is wrong, and was accepted": judge(exact, [other]),
        "rejected by numerical, expected exact: ": judge(exact, [_finding(exact, "numerical", exact.step)]),
        "rejected by static, exact, expected exact: ": judge(
            exact, [_finding(exact, "exact", exact.step), _finding(exact, "static", exact.step)]
        ),
        "rejected at 1 'right', expected 2 'mistake': ": judge(exact, [_finding(exact, "exact", "1 'right'")]),
        "it is right, and was rejected: ": judge(right, [_finding(right, "exact")]),
    }
    for start, verdict in bad.items():
        assert verdict.complaint.startswith(start)

    good.pop(2)
    text = report([*good, bad["it is wrong, and was accepted"]], {"run": "2026-11-23, at commit abc"})
    assert text.startswith("- run: 2026-11-23, at commit abc\n")
    assert f"| {exact.family} | 2 |  | 1 |  |  |  |  |  | 1 |" in text
    assert f"| {fmm.family} | 1 |  |  |  |  |  |  | 1 |  |" in text
    assert "| all | 3 |  | 1 |  |  |  |  | 1 | 1 |" in text
    assert f"| {right.operator} | 1 | 1 | 1 |" in text
    assert f"- {exact.id}: it is wrong, and was accepted" in text
    assert report(good, {}).endswith("All verdicts were as they should be.")


def test_groups_hold_every_entry_once_and_one_of_an_operator():
    for entries in (WRONG, RIGHT):
        found = list(groups(entries))
        assert Counter(e.id for group in found for e in group) == Counter(e.id for e in entries)
        assert all(len({e.operator for e in group}) == len(group) for group in found)
