"""Sums of products: whether they are even or odd."""

from __future__ import annotations

import pytest
from pymbolic import parse

from fmmloopy.terms import parity

ODD = frozenset(("d0", "d1", "d2"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3", 1),
        ("rinv", 1),
        ("d0", -1),
        ("-1*d0*rinv**3", -1),
        ("d0*d1*rinv**3 + rinv", 1),
        ("d0 + rinv", None),
        ("d0**3 / (r + 1)", -1),
        ("(d0*d1)**0.5", 1),
        ("d0**0.5", None),
        ("exp(-a*r)*d2", -1),
        ("exp(d0*d1)", 1),
        ("sin(d0)", None),
        ("1 if r < 1 else 2", None),
    ],
)
def test_parity(text, expected):
    assert parity(parse(text), ODD) == expected
