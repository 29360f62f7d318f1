"""Functions that ship reach the digits that are asked for, wherever the points are; and the table says so."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import fmmloopy as fl

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.accuracy import DIGITS, DISTRIBUTIONS, Accuracy, main, measure, table
from benchmarks.kernels import PARAMETERS
from fmmloopy.accuracy import errors_for
from fmmloopy.kernels import KERNELS

PREDICTED = 3.0
"""How far errors may be above what was predicted, for functions that are in no table: what the documentation says."""

CASES = {
    "yukawa": (3, 9),
    "helmholtz": DIGITS,
    "stresslet": (3, 6),
    "rotlet": DIGITS,
    "biot_savart": (3, 6),
    "kelvin": DIGITS,
    "plummer": DIGITS,
    "gaussian": DIGITS,
}
"""Functions and digits that were found to be reached. Not all are: `benchmarks.accuracy` shows which."""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "digits"), [(name, digits) for name, all_ in CASES.items() for digits in all_])
@pytest.mark.filterwarnings("ignore:.* may not suit the method")
def test_a_function_reaches_the_digits(name, digits):
    kernel = KERNELS[name](*PARAMETERS.get(name, ()))
    found = measure(kernel, digits, 5000)
    factor = PREDICTED if errors_for(kernel) is None else 1.0
    assert found.refusal or max(found.errors.values()) < factor * 10.0**-digits, found


def test_laplace_reaches_three_digits():
    found = measure(fl.laplace(), 3, 2000)
    assert found.is_met
    assert list(found.errors) == list(DISTRIBUTIONS)
    assert all(error > 1e-12 for error in found.errors.values()), "nothing was far from anything"


def test_the_table_shows_misses_and_refusals():
    reached = Accuracy("good", 3, 4, "mixed", {"sphere": 1e-4, "cube": 2e-3})
    refused = Accuracy("bad", 9, 0, "", {}, "digits is 9, expected at most 5")
    assert (reached.is_met, refused.is_met) == (False, True)
    first, second = table([reached, refused]).splitlines()[2:]
    assert first == "| good | 3 | 4 | mixed | 1.0e-04 | **2.0e-03** |"
    assert second.count("refused") == len(DISTRIBUTIONS)


def test_a_function_that_is_not_there(capsys):
    with pytest.raises(SystemExit):
        main(["laplas"])
    assert "'laplas' is no function, expected one of laplace, yukawa" in capsys.readouterr().err
