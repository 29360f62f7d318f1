"""What a check says of shipped books, of recipes that do not run, and of bad arguments; `test_corpus` has the rest."""

from __future__ import annotations

import re

import loopy as lp
import numpy as np
import pytest
from conftest import OPENCL, slow_but

from fmmloopy.checking.check import check_book
from fmmloopy.operators import OPERATORS
from fmmloopy.recipes import RecipeBook, fix_lanes, load_recipes, separate_lanes
from fmmloopy.transforms import pocl_cpu

pytestmark = pytest.mark.skipif(not OPENCL, reason="no OpenCL device")


OF_EACH_FORM = {OPERATORS[name].form: name for name in reversed(pocl_cpu.BOOK.recipes)}


@pytest.mark.parametrize(
    "operators",
    slow_but(lambda names: len(names) == 1, [(("m2m",),), (tuple(OF_EACH_FORM.values()),)]),
    ids=len,
)
def test_the_book_of_the_device_passes(operators):
    """In one precision, an operator of each form, in a quick run one: `.ci/certify` checks all of a changed book.

    `test_starter.py` has a recipe of points.
    """
    assert len(OF_EACH_FORM) == 4
    book = load_recipes(None, OPENCL[0])
    assert set(pocl_cpu.BOOK.recipes) - {"p2p_mutual"} <= set(book.recipes) <= set(pocl_cpu.BOOK.recipes)
    report = check_book(book, operators, device=OPENCL[0], dtypes=[np.float64])
    assert report.ok, [str(f) for f in report.findings]
    assert set(report.operators) == set(operators)


def test_silenced_warnings_are_found():
    def recipe(knl):
        kernel = knl.default_entrypoint
        silenced = [*kernel.silenced_warnings, "read_no_write(u0)"]
        yield "lanes", separate_lanes(fix_lanes(knl.with_kernel(kernel.copy(silenced_warnings=silenced))))

    report = check_book(RecipeBook("loud", device="", recipes={"p2p": recipe}), device=OPENCL[0])
    assert {f.layer for f in report.findings} == {"static"}
    assert "silences read_no_write(u0)" in str(report.findings[0])


def test_recipes_that_raise_are_findings():
    def recipe(knl):
        yield "lanes", separate_lanes(fix_lanes(knl))
        yield "split", lp.split_iname(knl, "isrc", 4)

    report = check_book(RecipeBook("raises", device="", recipes={"p2p": recipe}), device=OPENCL[0])
    assert {f.layer for f in report.findings} == {"static"}
    assert "after step 1 'lanes'" in str(report.findings[0])
    assert "the kernel then has inames ibox, ilist, s, stile, t, t_init, t_load, t_store, ttile" in str(
        report.findings[0]
    )


def test_parameters_of_other_devices_are_checked():
    def recipe(knl, *, roots: str = "right"):
        if roots == "wrong":
            raise ValueError("not this way")
        yield "lanes", separate_lanes(fix_lanes(knl))

    found = {}
    for roots, here in (("right", "wrong"), ("wrong", "right")):
        elsewhere = {"m2m": {re.escape(OPENCL[0].description): {"roots": here}, "elsewhere": {"roots": roots}}}
        book = RecipeBook("choosy", device="", recipes={"m2m": recipe}, by_device=elsewhere)
        found[roots, here] = check_book(book, device=OPENCL[0], dtypes=[np.float64]).findings
    for findings in found.values():
        assert {f.layer for f in findings} == {"static"}
        assert all("not this way" in f.message for f in findings)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="level is 'fast', expected 'quick' or 'full'"):
        check_book("sequential", level="fast")
    with pytest.raises(ValueError, match="operator is 'p2q', expected one of p2p, "):
        check_book("sequential", operators=["p2q"])
