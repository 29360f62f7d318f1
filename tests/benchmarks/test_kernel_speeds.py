"""Counts of special functions, beside which times of Green's functions are shown."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import fmmloopy as fl

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.kernels import Speed, count_calls, read_seconds, table


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        (fl.laplace().with_gradient(), 0),
        (fl.yukawa(), 1),
        (fl.yukawa().with_gradient(), 1),  # exp
        (fl.helmholtz(2.0), 2),  # cos and sin
        (fl.helmholtz(2.0).with_gradient(), 2),
        (fl.plummer(0.1), 1),
        (fl.gaussian(1.0).with_derivatives(gradient=True, hessian=True), 1),
        (fl.GreensFunction("nested", "exp(-1*exp(r)) + exp(r) + exp(2*r)"), 3),
        (fl.GreensFunction("order", "exp(r*d0) + exp(d0*r)"), 1),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_equal_calls_count_once(kernel, expected):
    assert count_calls(kernel) == expected


def test_seconds_are_read_from_a_page():
    speeds = [Speed("laplace", False, 0.125, 1.0, 0.0), Speed("laplace", True, 0.25, 2.0, 1.0)]
    page = f"points:\n\n{table(speeds)}\n"
    assert read_seconds(page) == {("laplace", False): 0.125, ("laplace", True): 0.25}
