"""The table of kernels: orders and times are those that were measured last."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "docs" / "programs"))

import write_convergence as program

from fmmloopy.kernels import KERNELS


def test_the_page_is_what_the_program_writes():
    measured = program.read_measured()
    assert list(measured) == list(KERNELS)
    shown = (program.GENERATED / "convergence.md").read_text()
    assert shown == program.page(measured), "run docs/programs/write_convergence.py --keep"


def test_orders_are_those_that_digits_chose():
    orders = program.chosen_orders(program.ACCURACY)
    assert orders["laplace"][3] in ("3", "4", "5")
    assert orders["plummer"][9] == "refused"
    rows = {row[0]: row for row in program.rows_of(program.GENERATED / "convergence.md")}
    assert rows["`plummer(softening)`"][4].endswith("refused, refused")
