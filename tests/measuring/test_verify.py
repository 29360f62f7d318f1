"""Errors of whole evaluations against the order, with a fitted line, as text and as a picture."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

import fmmloopy as fl
from fmmloopy.measuring.verify import fit_digits


def test_errors_are_printed_fitted_and_drawn(rng, tmp_path, capsys):
    found = fl.verify_kernel(fl.laplace(), (4, 3, 5), points=rng.random((1500, 3)), plot=tmp_path / "laplace.png")
    assert isinstance(found, fl.Convergence)
    assert found.orders == (3, 4, 5)
    assert all(1 / 10 < error / expected < 3 for error, expected in zip(found.errors, found.expected, strict=True))
    assert 0.7 < found.digits_per_order < 1.3, "about a digit for an order"
    printed = capsys.readouterr().out
    assert printed == f"{found}\n"
    assert "laplace, 1,500 points" in printed
    assert f"fit: error = 10^-({found.digits_per_order:.2f} p " in printed
    assert (tmp_path / "laplace.png").read_bytes().startswith(b"\x89PNG")
    svg = tmp_path / "laplace.svg"
    found.plot(svg)
    assert f"{found.digits_per_order:.2f} digits per order" in svg.read_text()


def test_the_fit_is_a_line_through_the_digits():
    orders = [3, 4, 6]
    assert fit_digits(orders, [10.0 ** -(0.8 * p - 0.5) for p in orders]) == pytest.approx((0.8, -0.5))
    assert fit_digits([3, 4, 5, 6], [1e-3, 1e-4, 1e-15, 0.0]) == pytest.approx((1, 0)), "rounding is no part of it"
    assert all(map(math.isnan, fit_digits([3, 4], [1e-3, math.inf])))
    found = fl.Convergence("k", "p", (3,), (1e-3,), (math.inf,), math.nan, math.nan)
    assert "fit: none" in str(found)


def test_a_fit_that_falls_too_little_says_so():
    def said(digits, *errors):
        return fl.Convergence("k", "p", (3, 4), errors, errors, digits, 0.0).fit

    assert said(0.9, 1e-3, 1e-4) == "fit: error = 10^-(0.90 p +0.00), p the order"
    assert said(0.05, 1e-3, 9e-4).endswith(
        "as surfaces do not represent the function: give it Surfaces, or use fmmloopy.direct"
    )
    assert "errors hardly fall" in said(0.9, 1e-3, math.nan)


@pytest.mark.parametrize("formula", ["exp(1000*r)", "1/(r-0.3)"])
def test_functions_that_are_not_finite_are_refused_in_one_line(formula, recwarn, opencl_device):
    kernel = fl.GreensFunction("mine", formula)
    with pytest.raises(ValueError, match="mine is not finite at distances of about .*, the radius of a box"):
        fl.verify_kernel(kernel, (3, 8), echo=lambda line: None, device=opencl_device)
    assert not [each for each in recwarn if issubclass(each.category, (RuntimeWarning, UserWarning))]


def test_a_function_that_does_not_converge_is_drawn_too(tmp_path):
    found = fl.Convergence("k", "p", (3, 4), (1e-3, math.inf), (math.inf, 0.0), math.nan, math.nan)
    found.plot(tmp_path / "k.png")
    assert (tmp_path / "k.png").stat().st_size > 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.kernel = "other"


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"orders": ()}, "orders is empty, expected orders such as"),
        ({"orders": (1,)}, "orders is 1, expected"),
        ({"points": np.ones((3, 2))}, "points has shape"),
        ({"plot": "errors.txt"}, "plot is errors.txt, expected a .png, .pdf or .svg"),
        ({"kernel": "laplace"}, "kernel is 'laplace', expected a GreensFunction"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_invalid_arguments(keywords, message):
    with pytest.raises(ValueError, match=message):
        fl.verify_kernel(**{"kernel": fl.laplace(), **keywords})


def test_it_runs_on_the_device_that_is_asked_for():
    found = fl.verify_kernel(fl.laplace(), (2,), np.random.default_rng(0).random((200, 3)), "c", echo=lambda _: None)
    assert found.errors[0] < 0.1
