"""Green's functions: what they evaluate to, their derivatives, and what they refuse."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest
from pymbolic import var

from fmmloopy.greens import GreensFunction, Surfaces, laplace, yukawa

GREENS = [laplace(), yukawa(), yukawa(3.5)]
# Two rows, two columns, odd and even entries, every function that expressions may call.
MIXED = GreensFunction(
    "mixed",
    (("d0*d1*rinv**3", "exp(-width*r)*cos(d2)"), ("log(r)*rinv", "sin(r)*sqrt(r)*d1")),
    {"width": 0.75},
    scaling=2.5,
)


def greens_id(greens: GreensFunction) -> str:
    return "-".join([greens.name, *(str(value) for value in greens.parameters.values())])


@pytest.fixture
def differences() -> np.ndarray:
    """Vectors of lengths between 0.5 and 2 in all directions, shape (3, 40)."""
    rng = np.random.default_rng(1)
    d = rng.normal(size=(3, 40))
    return d / np.linalg.norm(d, axis=0) * rng.uniform(0.5, 2, 40)


def test_values_are_the_textbook_ones(differences: np.ndarray) -> None:
    r = np.linalg.norm(differences, axis=0)
    np.testing.assert_allclose(laplace().evaluate(differences)[0, 0], 1 / (4 * np.pi * r), rtol=1e-14)
    expected = np.exp(-3.5 * r) / (4 * np.pi * r)
    # The exponent, up to 7, multiplies the rounding of r.
    np.testing.assert_allclose(yukawa(3.5).evaluate(differences)[0, 0], expected, rtol=1e-14)


@pytest.mark.parametrize("greens", [*GREENS, MIXED], ids=greens_id)
def test_gradient_agrees_with_finite_differences(greens: GreensFunction, differences: np.ndarray) -> None:
    tc = greens.ntarget_components
    values = greens.with_gradient().evaluate(differences)
    np.testing.assert_array_equal(values[:tc], greens.evaluate(differences))
    # Central differences of fourth order err by about h^4 / 30 times a fifth derivative, here below 120 / 0.5^6 = 8e3
    # (1 / r at r = 0.5), and by eps / h in rounding: 3e-10 and 2e-13 at h = 1e-3, times the scaling.
    h = 1e-3
    for axis in range(3):
        step = np.zeros((3, 1))
        step[axis] = h
        near = greens.evaluate(differences + step) - greens.evaluate(differences - step)
        far = greens.evaluate(differences + 2 * step) - greens.evaluate(differences - 2 * step)
        numerical = (8 * near - far) / (12 * h)
        for row in range(tc):
            np.testing.assert_allclose(values[tc + 3 * row + axis], numerical[row], rtol=0, atol=2e-9)


@pytest.mark.parametrize("greens", [*GREENS, MIXED], ids=greens_id)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning", "ignore:invalid value:RuntimeWarning")
def test_zero_at_zero_distance_and_dtype_kept(greens: GreensFunction, dtype: type) -> None:
    d = np.array([[0, 1], [0, 1], [0, 1]], dtype)
    for function in (greens, greens.with_gradient()):
        values = function.evaluate(d)
        assert values.dtype == dtype
        assert values.shape == (function.ntarget_components, function.nsource_components, 2)
        assert not values[..., 0].any()
        assert np.isfinite(values).all()
        assert values[..., 1].any()


def test_homogeneity_is_verified() -> None:
    with pytest.raises(ValueError, match=r"homogeneity is -2, but G\(2d\) differs from 2\^-2 G\(d\)"):
        GreensFunction("wrong", (("rinv",),), homogeneity=-2)
    with pytest.raises(ValueError, match="None for one table per level"):
        GreensFunction("wrong", (("exp(-r)*rinv",),), homogeneity=-1)
    assert GreensFunction("right", (("d0*rinv**3",),), homogeneity=-2).homogeneity == -2


def test_rows_of_derivatives() -> None:
    """A gradient has rows of two degrees, so it is not homogeneous."""
    gradient = laplace().with_gradient()
    assert (gradient.homogeneity, gradient.nderivatives, gradient.with_gradient().nderivatives) == (None, 3, 12)
    with pytest.raises(ValueError, match="nderivatives is 2, expected 0 to 1 rows"):
        GreensFunction("wrong", (("rinv",),), nderivatives=2)


def test_unknown_variables_are_named() -> None:
    expected = (
        r"bad: the expressions use kappa, wavelength, expected only d0, d1, d2, r, rinv, pi, the parameters \(decay\)"
    )
    with pytest.raises(ValueError, match=expected):
        GreensFunction("bad", (("exp(-kappa*r)*rinv", "wavelength"),), {"decay": 1.0})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("two words", (("rinv",),)), "name is 'two words', expected an identifier"),
        (("ragged", (("rinv",), ("rinv", "r"))), r"rows of lengths \[1, 2\]"),
        (("empty", ()), "expected equal and > 0"),
        (("infinite", (("a*rinv",),), {"a": float("inf")}), "a is inf, expected a finite number"),
        ((3, (("rinv",),)), "name is 3, expected an identifier such as 'laplace'"),
        (("row", ("rinv",)), r"row: matrix is \('rinv',\), expected rows of expressions"),
        (("none", None), "none: matrix is None, expected rows of expressions"),
        (("entry", ((None,),)), r"entry: matrix is \(\(None,\),\), expected expressions or strings"),
        (("syntax", (("rinv +",),)), r"syntax: 'rinv \+' is not an expression: .*; write it as in Python"),
        (("call", (("exp(r, r)",),)), r"call: 'exp\(r, r\)' calls exp with 2 arguments, expected one"),
        (("complex", ((1j,),)), r"complex: 1j has the number 1j, expected real ones; write a complex function as"),
        (("root", ((var("r") * (-1) ** 0.5,),)), "root: .* has the number .*, expected real ones; write a complex"),
        (("power", (("(0 - 1)**0.5/r",),)), "power: the expressions are not real numbers; write a complex function as"),
        (("large", (("10**400/r",),)), "large: the expressions cannot be evaluated: int too large"),
        (
            ("pieces", ((var("r") // 2,),)),
            r"pieces: r // 2 has the operation FloorDiv, expected numbers, variables",
        ),
        (("inf", ((np.inf * var("r"),),)), "inf: .* has the number inf, expected finite ones"),
        (("list", (("rinv",),), [1]), r"list: parameters is \[1\], expected values by name"),
        (("value", (("a*rinv",),), {"a": "1"}), "value: a is '1', expected a finite number"),
        (("number", (("rinv",),), {3: 1.0}), "number: a parameter is named 3, expected an identifier"),
        (("circle", (("pi*r",),), {"pi": 3.0}), "circle: a parameter is named 'pi', expected an identifier other than"),
        (("scaling", (("rinv",),), {}, "1"), "scaling: scaling is '1', expected a finite number"),
        (("degree", (("rinv",),), {}, 1.0, "-1"), "degree: homogeneity is '-1', expected a whole number or None"),
        (("rows", (("rinv",),), {}, 1.0, None, "1"), "rows: nderivatives is '1', expected 0 to 1 rows"),
    ],
)
def test_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GreensFunction(*arguments)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("exp(1j*r)/r", "has an imaginary number, expected real ones; write a complex function as a matrix of its"),
        ("2.5e3J", "has an imaginary number"),
        ("True/r", "is not an expression; write it as in Python"),
        ("1/r;", "is not an expression: at index 3: ...;...; write it as in Python"),
        ("r²", "is not an expression: at index 1: ...²...; write it as in Python"),
        ("0x10/r", "is not an expression: could not convert string to float: '0x'; write it as in Python"),
        ("1/0", "divides by zero"),
        ("exp(r)/0.0", "divides by zero"),
        ("1e400/r", "has the number inf, expected finite ones"),
        (f"1{400 * '0'}/r", "has the number 10^400 or more, expected finite ones"),
        ("d0^2", "has ^, which is no power; write **, as in r**2"),
        ("r if r<1 else 0", "has a condition, expected one formula for all distances"),
        ("r and 1", "has a condition"),
        ("erfc(r,2)", "calls erfc with 2 arguments, expected one"),
        ("exp()", "calls exp with 0 arguments, expected one"),
        ("exp", "has the function exp without an argument, expected exp(...)"),
        ("a(r)", "calls a, which is no function; write a product with *"),
        ("2(r)", "calls what is no function; write a product with *"),
        ("(1, 2)", "has (1, 2), expected numbers, variables, + - * / ** and functions of one argument"),
        ("r[0]", "has the operation Subscript, expected numbers"),
    ],
)
def test_refused_texts(text: str, message: str) -> None:
    """One line, which begins with the name and the text."""
    with pytest.raises(ValueError, match=re.escape(f"mine: {text!r} {message}")) as raised:
        GreensFunction("mine", text, {"a": 1.0})
    assert "\n" not in str(raised.value)


def test_imaginary_unit() -> None:
    with pytest.raises(ValueError, match=r"mine: the expressions use i, .*; write a complex function as a matrix"):
        GreensFunction("mine", "exp(i*r)/r")
    assert GreensFunction("mine", "exp(i*r)/r", {"i": 1.0}).parameters == {"i": 1.0}


@pytest.mark.parametrize(
    "decay", [0.0, -1.0, float("nan"), float("inf"), "1", None, 1j, np.array([1.0, 2.0])], ids=repr
)
def test_yukawa_needs_a_positive_decay(decay: object) -> None:
    with pytest.raises(ValueError, match="expected a positive number; for no screening use laplace"):
        yukawa(decay)


def test_key_is_equal_for_equal_functions_only() -> None:
    assert yukawa(2.0).key == yukawa(2).key
    assert laplace().key == laplace().key
    other = GreensFunction("laplace", laplace().matrix, scaling=1.0, homogeneity=-1)
    keys = [yukawa(2.0).key, yukawa(np.nextafter(2, 3)).key, laplace().key, other.key, laplace().with_gradient().key]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_key_is_the_same_in_every_process(hash_seed: str) -> None:
    code = "from fmmloopy.greens import yukawa; print(repr(yukawa(0.1).with_gradient().key))"
    process = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONHASHSEED": hash_seed}, capture_output=True, text=True, check=True
    )
    assert process.stdout.strip() == repr(yukawa(0.1).with_gradient().key)


# -- functions from a string, and what is found from the expressions


def test_a_string_is_one_entry(differences: np.ndarray) -> None:
    mine = GreensFunction("mine", "1/(4*pi*r)")
    np.testing.assert_allclose(mine.evaluate(differences), laplace().evaluate(differences), rtol=1e-15)
    assert mine.homogeneity == -1
    assert "rinv" in str(mine.matrix), "a division that kernels have anyway"


@pytest.mark.parametrize(
    ("text", "degree", "parity"),
    [
        ("1/r", -1, 1),
        ("d0*d1/r**5", -3, 1),
        ("(d0 + d1)**2*rinv**4", -2, 1),
        ("d0/(2*r*r*a)", -1, -1),
        ("sqrt(d0*d0 + d1*d1)/r**2", -1, 1),
        ("exp(-1)/r", -1, 1),
        ("exp(d0/r)*r", 1, None),
        ("erf(d0*rinv)", 0, -1),
        ("1", 0, 1),
        ("exp(-a*r)/r", None, 1),
        ("1/sqrt(r*r + a*a)", None, 1),
        ("1/r + 1", None, 1),
        ("log(r)", None, 1),
        ("sqrt(r)", None, 1),  # of degree 1/2, which is not whole
        ("r**a", None, 1),
    ],
)
def test_homogeneity_and_parity_are_found(text: str, degree: int | None, parity: int | None) -> None:
    greens = GreensFunction("found", text, {"a": 1.5})
    assert greens.homogeneity == degree
    assert greens.parity == parity
    assert GreensFunction("given", text, {"a": 1.5}, homogeneity=None).homogeneity is None


def test_homogeneity_of_a_matrix() -> None:
    assert GreensFunction("same", (("rinv", "0"), ("0", "d0*rinv**2"))).homogeneity == -1
    assert GreensFunction("differ", (("rinv",), ("rinv**2",))).homogeneity is None
    assert laplace().with_gradient().homogeneity is None
    assert laplace().is_symmetric
    assert not GreensFunction("row", (("rinv", "rinv"),)).is_symmetric
    assert not GreensFunction("turn", (("0", "d0"), ("-1*d0", "0"))).is_symmetric


@pytest.mark.parametrize(
    "text",
    [
        *("erf(a*r)/r", "erfc(a*r)*rinv", "exp(-1*r*r)*d0/r**3", "r**3*log(r)"),
        *("sinh(r)/r", "cosh(a*r)", "tanh(d0)/r", "atan(a*r*d1)"),
    ],
)
def test_gradients_of_strings(text: str, differences: np.ndarray) -> None:
    """Central differences: the error is 1e-10 of third derivatives, and rounding 1e-16 / 1e-5."""
    greens = GreensFunction("found", text, {"a": 1.5})
    gradient = greens.with_gradient().evaluate(differences)[1:, 0]
    for axis in range(3):
        step = np.zeros((3, 1))
        step[axis] = 1e-5
        expected = (greens.evaluate(differences + step) - greens.evaluate(differences - step))[0, 0] / 2e-5
        np.testing.assert_allclose(gradient[axis], expected, rtol=1e-7, atol=1e-8)


def test_functions_between_points_and_surfaces() -> None:
    two = GreensFunction("two", (("r", "rinv"), ("2*rinv", "0")))
    onto, back = GreensFunction("onto", (("r",), ("2*rinv",))), GreensFunction("back", (("r", "rinv"),))
    greens = GreensFunction("one", "r", surfaces=Surfaces(two, onto, back))
    assert greens.translations is two
    assert greens.between(from_surface=False, onto_surface=False) is greens
    assert greens.between(from_surface=False, onto_surface=True) is onto
    assert greens.between(from_surface=True, onto_surface=False) is back
    assert laplace().translations.key == laplace().key
    assert greens.key != GreensFunction("one", "r").key
    with pytest.raises(ValueError, match=r"surfaces.sources is 1 x 2, expected 2 x 1 beside translations of 2 x 2"):
        GreensFunction("one", "r", surfaces=Surfaces(two, back, back))
    with pytest.raises(ValueError, match="odd: matrix is 1 x 1, expected even numbers for complex values"):
        GreensFunction("odd", "r", is_complex=True)
