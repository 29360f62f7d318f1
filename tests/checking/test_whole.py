"""The last layer of a check: whole evaluations of shipped books are right, and say what is wrong."""

from __future__ import annotations

from dataclasses import replace

import pytest
from conftest import PAIRED, slow_but
from corpus.mistakes import rewrite

from fmmloopy.checking.whole import Wrong, check_whole
from fmmloopy.precision import PRECISIONS
from fmmloopy.recipes import load_recipes

pytestmark = pytest.mark.skipif(not PAIRED, reason="no OpenCL device whose book has a recipe for pairs of leaves")

TYPES = {"double": "float64", "single": "float32"}


def check(book, dtype):
    """Return what is wrong, and the stages that were gone through."""
    stages = []
    wrong = check_whole(lambda name, limit: stages.append(name), book, PAIRED[0].description, dtype, {}, False)
    return wrong, stages


# Double precision is in the checks of other tests.
@pytest.mark.parametrize("precision", slow_but(lambda precision: precision == "mixed", PRECISIONS))
def test_a_shipped_book_is_right(precision):
    wrong, stages = check(load_recipes(None, PAIRED[0]), TYPES.get(precision, precision))
    assert wrong == Wrong()
    assert any("pairs of leaves" in stage for stage in stages)


def test_a_mistake_in_mutual_p2p_is_named():
    book = load_recipes(None, PAIRED[0])

    def wrong_recipe(knl):
        yield from book.recipes["p2p_mutual"](rewrite("store*", ("scaling*", "2*scaling*"))(knl))

    recipes = {**book.recipes, "p2p_mutual": wrong_recipe}
    wrong, _ = check(replace(book, recipes=recipes, tuning={}, by_device={}), "float64")
    assert wrong.operator == "p2p_mutual"
    assert wrong.step.startswith("1 ")
    assert "pairs of leaves" in wrong.message
