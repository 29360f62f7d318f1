"""Dipoles and Hessians: formulas, finite differences, whole evaluations."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from conftest import cube, error, slow, slow_but

import fmmloopy as fl
from fmmloopy.checking.proofs import proof_of, verdict_on
from fmmloopy.components import Components
from fmmloopy.execution.setup import Method, Setup
from fmmloopy.greens import GreensFunction
from fmmloopy.kernels import KERNELS
from fmmloopy.precision import PRECISIONS
from fmmloopy.recipes import load_recipes

FUNCTIONS = {
    name: make(
        **{"helmholtz": {"wavenumber": 3.0}, "plummer": {"softening": 0.1}, "gaussian": {"width": 4.0}}.get(name, {})
    )
    for name, make in KERNELS.items()
}

WENDLAND = GreensFunction("wendland", "(1 - r/4)**4 * (r + 1) / (r*r + 1)")
"""Powers of sums, and quotients of sums."""


def strengths(rng, kernel, count, axes=()):
    """Return charges, or moments with axes (3,), for a Green's function."""
    parts = 2 if kernel.is_complex else 1
    components = kernel.nsource_components // parts
    shape = (count, *(() if components == 1 else (components,)), *axes)
    values = rng.standard_normal(shape)
    return values + 1j * rng.standard_normal(shape) if kernel.is_complex else values


def test_laplace_by_hand():
    """phi = q / r + p . d / r^3, over 4 pi, with d = x - y, and its derivatives."""
    rng = np.random.default_rng(1)
    x, y, q, p = rng.random((20, 3)), rng.random((30, 3)), rng.standard_normal(30), rng.standard_normal((30, 3))
    d = x[:, None] - y
    r = np.linalg.norm(d, axis=-1)
    pd = np.einsum("sk,tsk->ts", p, d)
    identity = np.eye(3)
    dd = d[..., :, None] * d[..., None, :]
    pp = p[:, :, None] * d[..., None, :] + p[:, None, :] * d[..., :, None]

    def weigh(values, axes):
        return values.reshape(*r.shape, *[1] * axes)

    potentials = (q / r + pd / r**3).sum(1)
    gradients = (weigh(-q / r**3 - 3 * pd / r**5, 1) * d + p / weigh(r**3, 1)).sum(1)
    hessians = (
        weigh(3 * q / r**5 + 15 * pd / r**7, 2) * dd
        - weigh(q / r**3 + 3 * pd / r**5, 2) * identity
        - weigh(3 / r**5, 2) * pp
    ).sum(1)
    found = fl.direct(y, q, x, dipoles=p, gradient=True, hessian=True)
    for values, expected in zip(found, (potentials, gradients, hessians), strict=True):
        np.testing.assert_allclose(4 * np.pi * values, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize("kernel", [*FUNCTIONS.values(), WENDLAND], ids=lambda kernel: kernel.name)
def test_derivatives_are_limits_of_differences(kernel):
    """Central differences with steps of 1e-4 are off by their square, and by 1e-12 from rounding."""
    rng = np.random.default_rng(2)
    y, x = rng.uniform(-1, 1, (12, 3)), rng.uniform(2, 3, (9, 3))
    p, h = strengths(rng, kernel, len(y), (3,)), 1e-4
    axes = h * np.eye(3)

    def potentials(points):
        moments = np.moveaxis(p, -1, 0)
        return sum(
            fl.direct(y + step, moments[axis], points, kernel) - fl.direct(y - step, moments[axis], points, kernel)
            for axis, step in enumerate(axes)
        ) / (2 * h)

    found, gradient, hessian = fl.direct(y, None, x, kernel, dipoles=p, gradient=True, hessian=True)
    assert error(found, potentials(x)) <= 1e-6

    def slopes(points):
        return fl.direct(y, None, points, kernel, True, dipoles=p)[1]

    for axis, step in enumerate(axes):
        difference = fl.direct(y, None, x + step, kernel, dipoles=p) - fl.direct(y, None, x - step, kernel, dipoles=p)
        assert error(gradient[..., axis], difference / (2 * h)) <= 1e-6
        assert error(hessian[..., axis], (slopes(x + step) - slopes(x - step)) / (2 * h)) <= 1e-6
    np.testing.assert_array_equal(hessian, np.swapaxes(hessian, -1, -2))


@pytest.mark.parametrize("name", ["laplace", *(pytest.param(name, marks=slow) for name in ("helmholtz", "stokeslet"))])
def test_whole_evaluations(name):
    """Dipoles lose a digit, since their fields are rougher; derivatives lose more where far points matter most.

    Derivatives of smooth functions are small beside those of the expansions' errors.
    """
    kernel, rng = FUNCTIONS[name], np.random.default_rng(3)
    points, targets = cube(rng, 900), cube(rng, 500)
    charges, dipoles = strengths(rng, kernel, 900), 0.1 * strengths(rng, kernel, 900, (3,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fmm = fl.Fmm(points, targets, kernel, order=5, ncrit=40)
        found = fmm.evaluate(charges, dipoles, gradient=True, hessian=True)
    plain = error(fmm.evaluate(charges), fl.direct(points, charges, targets, kernel))
    expected = fl.direct(points, charges, targets, kernel, dipoles=dipoles, gradient=True, hessian=True)
    for values, exact, factor in zip(found, expected, (10, 100, 300), strict=True):
        assert values.shape == exact.shape
        assert error(values, exact) <= factor * plain + 1e-7
    assert fmm.estimate_error(charges, dipoles, k=500) == pytest.approx(error(found[0], expected[0]), rel=1e-6)


@pytest.mark.parametrize(
    ("precision", "given"),
    [
        *((precision, "both") for precision in PRECISIONS if precision not in ("mixed", "single")),
        ("mixed", "dipoles"),
        pytest.param("mixed", "charges", marks=slow),
        pytest.param("single", "both", marks=slow),
    ],
)
def test_precisions(precision, given):
    """Rounding leaves 1e-5 at most in potentials, more in derivatives."""
    rng = np.random.default_rng(4)
    points, dtype = cube(rng, 1500), np.float32 if precision == "single" else np.float64
    charges, dipoles = rng.standard_normal(1500), 0.05 * rng.standard_normal((1500, 3))
    inputs = {"charges": {"charges": charges}, "dipoles": {"dipoles": dipoles}}
    inputs["both"] = inputs["charges"] | inputs["dipoles"]
    points = points.astype(dtype).astype(np.float64)
    fmm = fl.Fmm(points, order=7, ncrit=60, precision=precision, dtype=dtype)
    found = fmm.evaluate(**inputs[given], gradient=True, hessian=True)
    expected = fl.direct(points, **inputs[given], gradient=True, hessian=True)
    for values, exact, bound in zip(found, expected, (1e-5, 3e-5, 1e-4), strict=True):
        assert values.dtype == dtype
        assert error(values, exact) <= bound


def test_hessian_without_gradient_and_charges_of_zero():
    rng = np.random.default_rng(5)
    points, dipoles = cube(rng, 600), rng.standard_normal((600, 3))
    fmm = fl.Fmm(points, order=4, ncrit=30)
    potentials, hessians = fmm.evaluate(dipoles=dipoles, hessian=True)
    both = fmm.evaluate(np.zeros(600), dipoles, gradient=True, hessian=True)
    np.testing.assert_allclose(both[0], potentials, rtol=1e-12)
    np.testing.assert_allclose(both[2], hessians, rtol=0, atol=1e-11 * np.abs(hessians).max())
    np.testing.assert_allclose(np.trace(hessians, axis1=1, axis2=2), 0, atol=1e-9 * np.abs(hessians).max())


def test_hessians_that_float32_cannot_hold(rng):
    """In boxes with half widths of 1e-10, the fifth power of 1 / r is above the largest number; potentials are fine."""
    points = np.concatenate([4e-6 * rng.random((100, 3)), 5e-10 * rng.random((600, 3))])
    charges = rng.uniform(-1, 1, len(points))
    fmm = fl.Fmm(points.astype(np.float32), order=3, ncrit=20, recipes="sequential")
    assert np.isfinite(fmm.evaluate(charges)).all()
    message = (
        "some derivatives are not finite: powers of distances overflow in single precision, where boxes have half "
    )
    with pytest.raises(ValueError, match=f"{message}.*; use dtype=numpy.float64 with precision='double', or scale"):
        fmm.evaluate(charges, hessian=True)
    _, hessians = fl.Fmm(points, order=3, ncrit=20, recipes="sequential").evaluate(charges, hessian=True)
    assert error(hessians, fl.direct(points, charges, hessian=True)[1]) <= 1e-2


def test_evaluations_of_all_kinds_take_turns():
    rng = np.random.default_rng(6)
    points, charges, dipoles = cube(rng, 500), rng.standard_normal(500), rng.standard_normal((500, 3))
    fmm = fl.Fmm(points, order=4, ncrit=30, precision="reduced", recipes="sequential")
    kinds = [{"charges": charges}, {"dipoles": dipoles}, {"charges": charges, "dipoles": dipoles}]
    first = [fmm.evaluate(**kind, gradient=True) for kind in kinds]
    for kind, expected in zip(kinds, first, strict=True):
        for found, values in zip(fmm.evaluate(**kind, gradient=True), expected, strict=True):
            np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize("book", ["pocl_cpu", "simd_cpu"])
@pytest.mark.parametrize(
    ("name", "function", "derivatives"), [("p2m", "laplace", False), ("l2p", "laplace", True), ("p2p", "yukawa", False)]
)
def test_kernels_of_books_are_proved(book, name, function, derivatives, opencl_device):
    """Each recipe does for all sizes what the sequential kernel does, for charges and dipoles and for Hessians."""
    setup = Setup(Method(FUNCTIONS[function], 4), load_recipes(book), opencl_device)
    key = setup.code_key(name, Components(True, True, derivatives, derivatives))
    assert proof_of(key.specification, verdict_on(key.specification, key.steps()[-1])).proved


@pytest.mark.parametrize("book", slow_but(lambda book: book == "sequential", ["pocl_cpu", "simd_cpu", "sequential"]))
def test_books_agree(book, opencl_device):
    """Sums run in another order. In a quick run, the other books are proved above."""
    rng = np.random.default_rng(8)
    points, dipoles = cube(rng, 400), rng.standard_normal((400, 3))
    points[200:220] = points[0]
    options = {"kernel": fl.yukawa(3.0), "order": 3, "ncrit": 30}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fmm = fl.Fmm(points, device=opencl_device, recipes=book, **options)
    expected = fl.Fmm(points, device="c", **options).evaluate(dipoles[:, 0], dipoles, hessian=True)
    for found, values in zip(fmm.evaluate(dipoles[:, 0], dipoles, hessian=True), expected, strict=True):
        assert error(found, values) <= 1e-11


def test_refused():
    points = np.random.default_rng(7).random((50, 3))
    fmm = fl.Fmm(points, order=3)
    for evaluate in (fmm.evaluate, lambda *given: fl.direct(points, given[0], dipoles=given[1])):
        for charges, dipoles, message in (
            (None, None, "charges and dipoles are None, expected at least one of them"),
            (None, np.ones(50), r"dipoles has shape \(50,\), expected \(50, 3\): a moment per source"),
            (None, np.ones((3, 50)), r"dipoles has shape \(3, 50\), expected \(50, 3\)"),
            (None, np.full((50, 3), np.nan), r"dipoles\[0\] is \[nan, nan, nan\], expected finite numbers"),
            (None, points * 1j, "dipoles has dtype complex128, expected real numbers"),
            (np.ones((50, 2)), np.ones((50, 3)), "2 and 1 vectors, expected as many of one as of the other"),
        ):
            with pytest.raises(ValueError, match=message):
                evaluate(charges, dipoles)
