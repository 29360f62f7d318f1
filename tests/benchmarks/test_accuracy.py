"""Functions that ship reach the digits that are asked for, wherever the points are; and the table says so."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from conftest import slow_but

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.accuracy import DIGITS, DISTRIBUTIONS, Accuracy, main, measure, table
from benchmarks.kernels import PARAMETERS
from fmmloopy.accuracy import errors_for
from fmmloopy.kernels import KERNELS

PREDICTED = 3.0
"""How far errors may be above what was predicted, for functions that are in no table: what the documentation says."""

SETS = 8
"""Sets of charges: the potentials of a single one may be several times smaller than expected, and the relative error as
much larger, where the sum of the charges, or of charges times distances, decides."""

QUICK = [("laplace", 3, "cluster")]

CASES = slow_but(
    lambda *row: row in QUICK,
    [(name, digits, where) for name in KERNELS for digits in DIGITS for where in DISTRIBUTIONS],
)
"""All that the page of accuracy shows, with fewer points."""


@pytest.mark.parametrize(("name", "digits", "where"), CASES)
@pytest.mark.filterwarnings("ignore:.* may not suit the method")
def test_a_function_reaches_the_digits(name, digits, where):
    kernel = KERNELS[name](*PARAMETERS.get(name, ()))
    is_predicted = errors_for(kernel) is None
    count = 2000 if digits == 3 else 5000 if is_predicted else 20_000  # as on the page, so that not all pairs are near
    found = measure(kernel, digits, count, [where], SETS)
    factor = PREDICTED if is_predicted else 1.0
    if found.refusal:
        assert name == "plummer"
        assert digits > 3
        assert "the best expected error is" in found.refusal
        return
    assert found.errors[where] < factor * 10.0**-digits, found
    assert found.errors[where] > 1e-16, "nothing was far from anything"


def test_the_table_shows_misses_and_refusals():
    reached = Accuracy("good", 3, 4, "mixed", {"sphere": 1e-4, "cube": 2e-3})
    refused = Accuracy("bad", 9, 0, "", {}, "digits is 9, expected at most 5")
    assert (reached.is_met, refused.is_met) == (False, True)
    first, second = table([reached, refused]).splitlines()[2:]
    assert first.startswith("| good | 3 | 4 | mixed | 1.0e-04 | **2.0e-03** | refused |")
    assert second.count("refused") == len(DISTRIBUTIONS)
    assert first.count("refused") == len(DISTRIBUTIONS) - 2, "where there is no error, it was refused"


def test_a_function_that_is_not_there(capsys):
    with pytest.raises(SystemExit):
        main(["laplas"])
    assert "'laplas' is no function, expected one of laplace, yukawa" in capsys.readouterr().err
