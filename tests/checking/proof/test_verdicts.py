"""Verdicts on kernels: wrong ones are never proved; all steps of the shipped books are."""

from __future__ import annotations

import pytest
from conftest import slow
from overflow_kernels import FITS, OVERFLOWS
from subtle_kernels import SUBTLE, UNUSUAL
from wrong_kernels import RIGHT, WRONG, Made

from fmmloopy.checking.proof import NotProved, Proved, Wrong, prove
from fmmloopy.greens import laplace, yukawa
from fmmloopy.operators import OPERATORS, Form, Specification
from fmmloopy.precision import FLOAT32, FLOAT64, MIXED
from fmmloopy.recipes import SEQUENTIAL, apply_recipe, shipped_books

LIMIT = 60.0
"""Seconds: a busy machine is no reason to fail."""


@pytest.mark.parametrize("name", [*WRONG, *SUBTLE])
def test_wrong_kernels_are_not_proved(name: str) -> None:
    made = (WRONG | SUBTLE)[name]
    verdict = prove(*made.kernels(), OPERATORS[made.operator], LIMIT)
    assert not isinstance(verdict, Proved)
    assert not isinstance(verdict, NotProved) or "Error" not in verdict.reason, verdict


@pytest.mark.parametrize("name", OVERFLOWS)
def test_kernels_whose_whole_numbers_may_overflow_are_not_proved(name: str) -> None:
    made = OVERFLOWS[name]
    verdict = prove(*made.kernels(), OPERATORS[made.operator], LIMIT)
    assert isinstance(verdict, NotProved)
    assert verdict.reason.endswith("may not fit into 32 bits")


@pytest.mark.parametrize("operator", OPERATORS)
def test_sequential_kernels_do_not_overflow(operator: str) -> None:
    specification = Specification(OPERATORS[operator], laplace(), 3, FLOAT64)
    sequential = apply_recipe(SEQUENTIAL, operator, specification.kernel())[-1].kernel
    assert isinstance(prove(sequential, sequential, OPERATORS[operator], LIMIT), Proved)


@pytest.mark.parametrize("name", [*RIGHT, *FITS, *UNUSUAL])
def test_right_kernels_are_proved(name: str) -> None:
    made = (RIGHT | FITS | UNUSUAL)[name]
    assert isinstance(prove(*made.kernels(), OPERATORS[made.operator], LIMIT), Proved)


def _refuted(book: str, operator: str, specification: Specification, last_only: bool) -> list[str]:
    """Return what is not proved of the steps of a recipe."""
    math = specification.kernel()
    sequential = apply_recipe(SEQUENTIAL, operator, math)[-1].kernel
    steps = apply_recipe(shipped_books()[book], operator, math)
    verdicts = {
        step.name: prove(sequential, step.kernel, OPERATORS[operator], LIMIT)
        for step in (steps[-1:] if last_only else steps)
    }
    return [f"{name}: {verdict}" for name, verdict in verdicts.items() if not isinstance(verdict, Proved)]


@pytest.mark.parametrize("operator", OPERATORS)
def test_every_step_of_a_shipped_book_is_proved(operator: str) -> None:
    assert not _refuted("pocl_cpu", operator, Specification(OPERATORS[operator], laplace(), 3, FLOAT64), False)


@pytest.mark.parametrize(
    ("book", "operator"),
    [
        # In a quick run, one book for each operator, the other one for the next.
        pytest.param(book, operator, id=f"{book}-{operator}", marks=[] if (i + j) % 2 == 0 else slow)
        for i, book in enumerate(("pocl31_cpu", "simd_cpu"))
        for j, operator in enumerate(OPERATORS)
    ],
)
def test_the_last_step_is_proved_in_other_types_and_for_other_functions(book: str, operator: str) -> None:
    record = OPERATORS[operator]
    greens = yukawa().with_gradient() if record.gives_potentials else laplace()
    types = MIXED if book == "simd_cpu" and record.form in (Form.PARTICLE, Form.TRANSFORM) else FLOAT32
    assert not _refuted(book, operator, Specification(record, greens, 3, types), True)


def test_the_verdict_says_where() -> None:
    made = WRONG["m2m: at most 512 columns"]
    verdict = prove(*made.kernels(), OPERATORS["m2m"], LIMIT)
    assert isinstance(verdict, Wrong)
    assert "store: terms are lost" in verdict.where
    assert "j=512" in verdict.witness
    made = WRONG["another coefficient"]
    verdict = prove(*made.kernels(), OPERATORS["p2p"], LIMIT)
    assert verdict == NotProved("fmmloopy_rsqrt is not as the package's steps insert it", "rinv")


def test_a_proof_that_takes_too_long_is_none() -> None:
    verdict = prove(*RIGHT["lanes"].kernels(), OPERATORS["p2p"], 0.0)
    assert isinstance(verdict, NotProved)
    assert "took too long" in verdict.reason


def test_a_proof_is_no_proof_for_another_operator() -> None:
    sequential, _ = Made(lambda k: k, "p2m").kernels()
    _, other = RIGHT["lanes"].kernels()
    assert isinstance(prove(sequential, other, OPERATORS["p2m"], LIMIT), NotProved)
