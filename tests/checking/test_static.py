"""What is wrong with a kernel before it runs: entries of temporary arrays that are not there."""

from __future__ import annotations

import loopy as lp
import numpy as np
import pytest

from fmmloopy.checking.static import out_of_bounds


def kernel(bound="8", index="j", length=8, guard=""):
    """Copy entries in pieces to a temporary array, in a loop whose bounds are loaded."""
    return lp.make_kernel(
        ["{[i]: 0 <= i < n}", f"[start, end, count] -> {{[t, j]: start <= t < end and 0 <= j < {bound}}}"],
        f"""
        for i
            <> start = starts[i] {{id=start}}
            <> end = starts[i + 1] {{id=end}}
            <> count = counts[i] {{id=count}}
            for t, j
                piece[{index}] = values[t] {{id=copy, dep=start:end:count{guard}}}
            end
        end
        """,
        [
            lp.GlobalArg("starts", np.int32, shape="n + 1"),
            lp.GlobalArg("counts", np.int32, shape="n"),
            lp.GlobalArg("values", np.float64, shape="nvalues"),
            lp.TemporaryVariable("piece", np.float64, shape=(length,)),
            lp.ValueArg("n, nvalues", np.int32),
        ],
        lang_version=(2018, 2),
    )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"bound": "count"},  # the number may be small enough
        {"bound": "9", "guard": ", if=j < 8"},
        {"bound": "9", "guard": ", if=j < count"},
        {"index": "start"},
        {"bound": "4", "index": "2*j + 1"},
    ],
)
def test_entries_that_are_there_or_may_be(changes):
    assert out_of_bounds(kernel(**changes)) == ""


@pytest.mark.parametrize(
    "changes", [{"bound": "9"}, {"length": 7}, {"index": "j - 1"}, {"index": "j + 1"}, {"index": "2*j"}]
)
def test_entries_that_are_not_there(changes):
    """Loopy says nothing of them, because the bounds of a loop around them are loaded."""
    knl = kernel(**changes)
    lp.generate_code_v2(knl)
    assert out_of_bounds(knl).startswith("piece[")
    assert "in copy is out of bounds: piece has shape" in out_of_bounds(knl)
