"""Mutants: faults are put where they are named, layers notice them, and what changes no code is no mutant."""

from __future__ import annotations

from dataclasses import replace

import pytest
from conftest import OPENCL, needs_opencl

from fmmloopy.checking.inputs import several
from fmmloopy.checking.mutants.changes import KINDS, Mutation, mutated, mutations, prepared
from fmmloopy.checking.mutants.score import (
    EQUAL,
    PROVED,
    SAME,
    SURVIVED,
    TESTS,
    WRONG,
    Judged,
    Score,
    all_mutations,
    judge_mutant,
    keep_score,
    kept_score,
    mutant,
    score,
    table,
    with_section,
)
from fmmloopy.checking.request import Request
from fmmloopy.operators import OPERATORS, Specification
from fmmloopy.precision import FLOAT64
from fmmloopy.recipes import RecipeBook, fix_lanes, separate_lanes


def in_lanes(knl, *, lanes: int = 3):
    """Fix lanes, and separate their loops."""
    yield "lanes", separate_lanes(fix_lanes(knl, blanes=lanes, ilanes=4))


BOOK = RecipeBook("lanes", "", {"check_to_equivalent": in_lanes})


def _kernel(name: str):
    return prepared(fix_lanes(Specification(OPERATORS[name], several(FLOAT64), 3, FLOAT64).kernel()))


def _request() -> Request:
    return Request(BOOK, OPENCL[0], "check_to_equivalent", "float64", layers=TESTS[:-1], smallest=False)


def _verdict(mutation: Mutation) -> str:
    return _judged(mutation)[0]


def _judged(mutation: Mutation) -> tuple[str, str]:
    request, original = _request(), mutant(BOOK, "check_to_equivalent", None)
    book = mutant(BOOK, "check_to_equivalent", mutation)
    return judge_mutant(lambda what, limit: None, replace(request, book=book), original)


@pytest.mark.parametrize("name", ["p2p", "l2l", "m2l_hadamard"])
def test_every_fault_changes_the_kernel(name):
    knl = _kernel(name)
    found = list(mutations(knl))
    assert len(set(found)) == len(found) > 80
    assert {m.kind for m in found} == set(KINDS) - {"barrier"} - ({"condition"} if name != "p2p" else set())
    assert len({str(m) for m in found}) == len(found)
    for mutation in found[:: len(found) // 25]:
        assert mutated(knl, mutation) != knl, mutation


def test_a_kernel_without_the_place_stays_as_it_is():
    knl = _kernel("l2l")
    for mutation in (Mutation("index", "sum99"), Mutation("type", "nothing", detail="int8"), Mutation("barrier", "b")):
        assert mutated(knl, mutation) == knl


def test_faults_are_what_they_say():
    knl = _kernel("check_to_equivalent")

    def statement(mutation: Mutation, name: str):
        return next(i for i in mutated(knl, mutation).default_entrypoint.instructions if i.id == name)

    assert statement(Mutation("guard", "store", 0, "removed"), "store").predicates == frozenset()
    (relaxed,) = statement(Mutation("comparison", "store"), "store").predicates
    assert relaxed.operator == "<="
    assert "init" not in statement(Mutation("dependency", "sum", detail="not after init"), "sum").depends_on
    assert "btile" not in statement(Mutation("initialization", "init", detail="outside btile"), "init").within_inames
    assert str(statement(Mutation("index", "init"), "init").assignee) == "u[b + 1, i]"
    assert str(statement(Mutation("coefficient", "init"), "init").expression) == "1"


@needs_opencl
def test_layers_notice_faults_and_what_changes_no_code_is_no_mutant():
    assert _verdict(Mutation("guard", "store", 0, "removed")) == "exact"
    assert _verdict(Mutation("type", "u", detail="float32")) == "exact"
    assert _verdict(Mutation("dependency", "sum", detail="not after init")) == "static"
    assert _verdict(Mutation("type", "nothing", detail="int8")) == SAME


@needs_opencl
def test_only_mutants_that_do_the_same_are_proved():
    assert _judged(Mutation("guard", "store", 0, "removed")) == ("exact", WRONG)
    # One tile more, in which a mask lets no box through.
    assert _judged(Mutation("bound", "btile", 0, "looser")) == (SURVIVED, PROVED)


@needs_opencl
def test_a_score_counts_what_was_tried():
    lines: list[str] = []
    found = score(BOOK, "check_to_equivalent", OPENCL[0], most=4, tell=lines.append, every_layer=True)
    assert len(found.judged) == len(lines) == 4
    assert all(each.verdict in each.alone for each in found.judged if each.verdict in TESTS)
    assert found.places == len(all_mutations(_request())) > 80
    assert set(found.counts) <= {*TESTS, SAME, EQUAL}
    assert not found.unsound


def test_scores_are_written_down():
    one, two = Mutation("index", "sum"), Mutation("bound", "j", 1, "tighter")
    noticed = Judged(two, "exact", WRONG, ("exact", "hostile"))
    found = Score("m2m", "float64", 9, (Judged(one, SURVIVED), noticed, Judged(replace(one, number=1), SAME)))
    assert (found.mutants, found.killed, found.survivors) == (2, 0.5, (one,))
    text = table([found], {"book": "a book"})
    assert "| m2m | float64 | 3 | 9 | 1 |  | 2 |  | 1 |  |  |  |  | 1 | 50.0 % | 2.5 % |" in text
    assert "| m2m | float64 | 2 |  | 1 | 1 | 1 |  |  |" in text
    assert "Survivors: 1." in text
    assert "Noticed though proved: 0." in text
    assert "- m2m, float64: index of sum\n" in text


def test_scores_are_kept_and_pages_have_sections(own_cache):
    noticed = Judged(Mutation("bound", "j", 1, "tighter"), "exact", WRONG, ("exact", "hostile"))
    found = Score("m2m", "float64", 9, (noticed,) * 300)
    assert kept_score("key") is None
    keep_score("key", found)
    assert kept_score("key") == found
    assert found.suffices
    assert found.at_least == pytest.approx(0.05 ** (1 / 300)), "the chance of no survivor is 5 %"
    assert not replace(found, judged=(*found.judged, replace(noticed, proof=PROVED))).suffices
    assert not replace(found, judged=(noticed, Judged(noticed.mutation, SURVIVED))).suffices
    page = with_section("head\n", "a, float64", "one")
    page = with_section(page, "b, float64", "two")
    page = with_section(page, "a, float64", "three")
    assert page == "head\n\n#### a, float64\n\nthree\n\n#### b, float64\n\ntwo\n"
