"""The direct sum, against sums done by hand and in plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fmmloopy.direct import direct
from fmmloopy.greens import GreensFunction, laplace, yukawa

GREENS = [laplace(), yukawa(2.0)]
# Two target and three source components, a rectangle of odd and even entries.
RECTANGLE = GreensFunction("rectangle", (("rinv", "d0*rinv**3", "d1"), ("d2*rinv", "r", "exp(-r)")), scaling=0.5)


@pytest.fixture
def points() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return 300 sources, their charges of both signs, and 70 targets elsewhere."""
    rng = np.random.default_rng(2)
    return rng.random((300, 3)), rng.normal(size=300), rng.random((70, 3)) + np.array([1.5, 0, 0])


def test_two_charges_by_hand() -> None:
    sources = [[0, 0, 0], [3, 4, 0]]
    potentials, gradient = direct(sources, [2, 10], gradient=True)
    np.testing.assert_allclose(potentials, [10 / (20 * np.pi), 2 / (20 * np.pi)], rtol=1e-15)
    # grad of q / (4 pi r) is -q d / (4 pi r^3), and d points from the source to the target.
    expected = np.array([[30, 40, 0], [-6, -8, 0]]) / (4 * np.pi * 125)
    np.testing.assert_allclose(gradient, expected, rtol=1e-15)


def test_yukawa_by_hand() -> None:
    potentials = direct([[0, 0, 0]], [3], [[0, 0, 2], [0, 0.5, 0]], yukawa(1.5))
    expected = [3 * math.exp(-3) / (8 * math.pi), 3 * math.exp(-0.75) / (2 * math.pi)]
    np.testing.assert_allclose(potentials, expected, rtol=1e-15)


@pytest.mark.parametrize("greens", GREENS, ids=lambda g: g.name)
def test_a_point_leaves_itself_out(greens: GreensFunction) -> None:
    sources = np.array([[0.1, 0.2, 0.3], [0.1, 0.2, 0.3], [0.4, 0.2, 0.3]])
    potentials, gradient = direct(sources, [1.0, 5.0, 2.0], kernel=greens, gradient=True)
    alone = direct(sources[2:], [2.0], sources[:1], greens)
    # The first two coincide: both see the third only.
    np.testing.assert_array_equal(potentials[:2], np.repeat(alone, 2))
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(direct(sources[:1], [1.0], kernel=greens), [0.0])


@pytest.mark.filterwarnings("error")
def test_singular_expressions_are_quiet_at_distance_zero() -> None:
    logarithm = GreensFunction("logarithm", (("log(r)",),))
    potentials, gradient = direct([[0, 0, 0], [0, 0, 2]], [1, 1], kernel=logarithm, gradient=True)
    np.testing.assert_allclose(potentials, np.log([2, 2]), rtol=1e-15)
    np.testing.assert_allclose(gradient, [[0, 0, -0.5], [0, 0, 0.5]], rtol=1e-15)


def test_components_and_their_order(points: tuple) -> None:
    sources, _, targets = points
    sources, targets = sources[:7], targets[:5]
    charges = np.random.default_rng(3).normal(size=(7, 3))
    potentials, gradient = direct(sources, charges, targets, RECTANGLE, gradient=True)
    assert potentials.shape == (5, 2)
    assert gradient.shape == (5, 2, 3)
    for i, x in enumerate(targets):
        expected = np.zeros(2)
        for y, q in zip(sources, charges, strict=True):
            d, r = x - y, np.linalg.norm(x - y)
            row0 = q[0] / r + q[1] * d[0] / r**3 + q[2] * d[1]
            row1 = q[0] * d[2] / r + q[1] * r + q[2] * math.exp(-r)
            expected += 0.5 * np.array([row0, row1])
        # Sums of 21 terms of order 1.
        np.testing.assert_allclose(potentials[i], expected, rtol=0, atol=1e-13)
    step = 1e-5
    for axis in range(3):
        shift = step * np.eye(3)[axis]
        difference = direct(sources, charges, targets + shift, RECTANGLE) - direct(
            sources, charges, targets - shift, RECTANGLE
        )
        # Truncation is about step^2 and rounding eps / step times potentials of order 10: 1e-9 together.
        np.testing.assert_allclose(gradient[:, :, axis], difference / (2 * step), rtol=0, atol=1e-8)


@pytest.mark.parametrize("greens", GREENS, ids=lambda g: g.name)
def test_gradient_agrees_with_finite_differences(greens: GreensFunction, points: tuple) -> None:
    sources, charges, targets = points
    _, gradient = direct(sources, charges, targets, greens, gradient=True)
    step = 1e-4
    for axis in range(3):
        shift = step * np.eye(3)[axis]
        difference = direct(sources, charges, targets + shift, greens) - direct(
            sources, charges, targets - shift, greens
        )
        # Distances are at least 0.5, so a charge's third derivative is at most 6 / (4 pi 0.5^4) = 8 (Yukawa's: 20) and
        # the truncation step^2 / 6 of it; 300 charges of random sign add up to about 17 of them: 6e-7 at the worst.
        np.testing.assert_allclose(gradient[:, axis], difference / (2 * step), rtol=0, atol=6e-7)


@pytest.mark.parametrize("block", [1, 7, 300, 301, 4096, 10**7])
def test_blocks_are_irrelevant(block: int, points: tuple) -> None:
    sources, charges, targets = points
    whole = np.array([math.fsum(charges / np.linalg.norm(x - sources, axis=1)) for x in targets]) / (4 * np.pi)
    # Rounding of a sum of 300 terms of size at most 1 / (4 pi 0.5), in any order.
    np.testing.assert_allclose(direct(sources, charges, targets, block=block), whole, rtol=0, atol=1e-13)


def test_many_sources_span_blocks_and_repeat_exactly() -> None:
    rng = np.random.default_rng(4)
    sources, charges, targets = rng.random((10_000, 3)), rng.random(10_000), rng.random((100, 3)) + 2
    potentials = direct(sources, charges, targets)
    whole = [math.fsum(charges / np.linalg.norm(x - sources, axis=1)) / (4 * np.pi) for x in targets]
    np.testing.assert_allclose(potentials, whole, rtol=1e-13)
    np.testing.assert_array_equal(direct(sources, charges, targets), potentials)


def test_computes_in_double_whatever_comes_in(points: tuple) -> None:
    sources, charges, targets = (array.astype(np.float32) for array in points)
    potentials = direct(sources, charges, targets)
    assert potentials.dtype == np.float64
    wide = direct(sources.astype(np.float64), charges.astype(np.float64), targets.astype(np.float64))
    np.testing.assert_array_equal(potentials, wide)


def test_nothing_in_nothing_out() -> None:
    np.testing.assert_array_equal(direct(np.empty((0, 3)), [], [[1, 2, 3]]), [0.0])
    assert direct([[1, 2, 3]], [1.0], np.empty((0, 3))).shape == (0,)
    assert direct(np.empty((0, 3)), np.empty((0, 3)), kernel=RECTANGLE, gradient=True)[1].shape == (0, 2, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[1, 2]], [1]), r"sources has shape \(1, 2\), expected \(n, 3\): one row per point"),
        (([[1, 2, 3]], [1], [1, 2, 3]), r"targets has shape \(3,\), expected \(n, 3\)"),
        (([[1, 2, 3]], [1, 2]), r"charges has shape \(2,\), expected \(1,\): one charge per source"),
        (([[1, 2, 3]], [1], None, RECTANGLE), r"charges has shape \(1,\), expected \(1, 3\): 3 components per source"),
        (([[0, 0, 0], [1, np.nan, 3]], [1, 1]), r"sources\[1\] is .* expected finite coordinates; drop or repair"),
        (([[1, 2, 3]], [np.inf]), r"charges\[0\] is inf, expected finite numbers; remove it"),
        (([[1, 2, 3]], [1], None, laplace(), False, 0), "block is 0, expected a positive number of pairs"),
        (([[1, 2, 3]], [1], None, laplace(), False, 1.5), "block is 1.5, expected a positive number of pairs"),
        (([[1, 2, 3]], [1], None, laplace(), False, "1"), "block is '1', expected a positive number of pairs"),
        (([[1, 2, 3]], [1], None, laplace(), []), r"gradient is \[\], expected True or False"),
        (([[1, 2, 3]], [1], None, 3), r"kernel is 3, expected a GreensFunction, such as fmmloopy.laplace\(\)"),
        (([[1, 2, 3]], [1j]), "charges has dtype complex128, expected real numbers: pass real and imaginary parts"),
        (([[1, 2, 3j]], [1]), "sources has dtype complex128, expected real numbers"),
        (([["1", "2", "3"]], [1]), "sources has dtype <U1, expected real numbers"),
        (([[1, 2, 3], [1, 2]], [1, 1]), "sources is not an array of numbers: "),
        (([[1, 2, 3]], np.ma.masked_array([1.0], [True])), "charges has 1 masked entry, expected numbers everywhere"),
    ],
)
def test_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        direct(*arguments)


@pytest.mark.parametrize("scale", [1e-300, 1e300])
def test_very_large_and_small_charges(scale: float) -> None:
    points, charges = np.random.default_rng(0).random((2, 20, 3))
    expected = direct(points, charges[:, 0])
    np.testing.assert_allclose(direct(points, scale * charges[:, 0]), scale * expected, rtol=1e-14, atol=0)


def test_large_charges_that_cancel() -> None:
    """Each of the two terms is above the largest number, and their sum is not."""
    sources = [[1e-5, 0, 0], [-1.1e-5, 0, 0]]
    found = direct(sources, [1e305, -1.1e305], [[0, 0, 0]])
    assert abs(found[0]) < 1e300


def test_potentials_above_the_largest_number() -> None:
    with pytest.raises(ValueError, match="the largest potential is about 1e310, expected at most 1.8e.308, .* divide"):
        direct([[0, 0, 0], [1e-3, 0, 0]], [1e308, 1e308])
