"""What `digits=` promises where it is hard to keep: targets apart from sources, functions that decay fast."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import cube, error, slow, sphere

import fmmloopy as fl
from fmmloopy.accuracy import order_for, rounding_for, table_for
from fmmloopy.greens import GreensFunction
from fmmloopy.octree.tree import sort_points
from fmmloopy.precision import DOUBLE
from fmmloopy.prediction import pairs
from fmmloopy.prediction.pairs import share_without_sources
from fmmloopy.prediction.predict import Predictor

NCRIT = 50

NARROW = GreensFunction("narrow", (("exp(-400*r*r)",),), {})
STEEP = GreensFunction("steep", (("rinv**4",),), {})
LOGARITHM = GreensFunction("logarithm", (("log(r)",),), {})
SINGULAR = GreensFunction("singular", (("1/d0",),), {})


def predictor(kernel, sources, targets=None):
    return Predictor(kernel, sort_points(sources, targets), NCRIT)


def inside_a_shell(rng, n):
    """Sources around the centre of a sphere of targets."""
    return 0.1 * cube(rng, n), sphere(rng, n)


# -- targets apart from the sources


def test_targets_are_apart_if_no_sources_are_near(rng):
    points = cube(rng, 3000)
    assert share_without_sources(sort_points(points), NCRIT) == 0
    assert share_without_sources(sort_points(points, 0.5 + 0.4 * sphere(rng, 2000)), NCRIT) < 0.01
    assert share_without_sources(sort_points(*inside_a_shell(rng, 3000)), NCRIT) > 0.9
    half = np.concatenate([points[:1000], points[:1000] + 9])
    assert 0.4 < share_without_sources(sort_points(points, half), NCRIT) < 0.6


@pytest.mark.parametrize("kernel", [fl.laplace(), fl.yukawa(3.0), fl.yukawa(10.0)], ids=lambda k: str(k.parameters))
def test_digits_for_targets_that_are_apart(kernel, rng):
    """The table has 2e-2 and more of Yukawa's function where 1e-3 is wanted: its potentials are smaller here."""
    sources, targets = inside_a_shell(rng, 2000)
    fmm = fl.Fmm(sources, targets, kernel, digits=3, ncrit=NCRIT, recipes="sequential")
    assert fmm.precision == ("reduced" if kernel.name == "laplace" else "double"), "small potentials may lose digits"
    assert "predicted from chains of translations" in str(fmm.plan_report())
    charges = rng.uniform(-1, 1, (2000, 8))
    expected = np.stack([fl.direct(sources, each, targets, kernel=kernel) for each in charges.T], axis=1)
    assert error(fmm.evaluate(charges), expected) <= 1e-3


@pytest.mark.parametrize("digits", [3, pytest.param(6, marks=slow)])
def test_digits_for_a_function_that_decays_fast_at_targets_around_the_sources(digits, rng):
    """Of the pairs of a box, few have nearly all of the error, and the more so the higher the order."""
    sources, targets = inside_a_shell(rng, 2000)
    kernel = fl.yukawa(10.0)
    fmm = fl.Fmm(sources, targets, kernel, digits=digits, recipes="sequential")
    charges = rng.uniform(-1, 1, (2000, 8))
    expected = np.stack([fl.direct(sources, each, targets, kernel=kernel) for each in charges.T], axis=1)
    found = error(fmm.evaluate(charges), expected)
    assert found < fmm.error_estimate < 10 * found


def test_no_order_may_do_for_targets_that_are_far_away(rng):
    sources = cube(rng, 3000)
    with pytest.raises(ValueError, match="^digits is 3, but yukawa does not suit the method: the best"):
        fl.Fmm(sources, sources + [5, 0, 0], fl.yukawa(50.0), digits=3)


def test_the_table_serves_where_sources_are_near(rng):
    sources, targets = inside_a_shell(rng, 1000)
    assert table_for(predictor(fl.laplace(), sources)) is not None
    assert table_for(predictor(fl.laplace(), sources, targets)) is None
    few = sources[:5] + 1e-3
    assert table_for(predictor(fl.laplace(), sources, few)) is None, "potentials at few targets may be small together"
    assert table_for(predictor(fl.laplace(), few)) is not None


def test_few_important_pairs_stand_for_all_of_a_level(rng):
    """Also for a sum that is only much like the one by which they are chosen."""
    placed = predictor(fl.laplace(), cube(rng, 5000))._pairs.placed[2]
    squares = np.exp(3 * rng.standard_normal(len(placed)))
    few = placed.important(squares, 256)
    assert len(few) < 256 < len(placed)
    number = {(*x, *y): i for i, (x, y) in enumerate(zip(placed.targets.T, placed.sources.T, strict=True))}
    which = [number[*x, *y] for x, y in zip(few.targets.T, few.sources.T, strict=True)]
    np.testing.assert_array_equal(few.vectors, placed.vectors[which])
    for power, within in ((1, 0.05), (1.2, 0.2)):
        assert few.shares @ squares[which] ** power == pytest.approx(placed.shares @ squares**power, rel=within)
    assert placed.important(np.zeros(len(placed)), 256) is placed


# -- functions that decay fast


def test_the_nearest_pairs_of_a_narrow_function_are_seen(rng, monkeypatch):
    """They have almost all of the error, and are few of those in boxes that meet. Samples of any differ by 90 times."""
    points, found = cube(rng, 5000), []
    for seed in range(4):
        monkeypatch.setattr(pairs, "SEED", seed)
        found.append(predictor(NARROW, points).error(4, DOUBLE))
    assert max(found) < 3 * min(found)


def test_sampled_pairs_stand_for_all_of_their_level(rng):
    for placed in predictor(NARROW, cube(rng, 5000))._pairs.placed.values():
        assert placed.shares.sum() == pytest.approx(1)
        lengths = np.linalg.norm(placed.targets - placed.sources - 2 * placed.vectors.T, axis=0)
        for order in (np.argsort(lengths), np.argsort(-lengths)):
            kept = np.cumsum(placed.shares[order]).searchsorted(0.01) / len(order)
            assert kept > 0.1, "more of the hundredth of the nearest pairs, and of the farthest"


@pytest.mark.parametrize("n", [300, 3000])
def test_float64_rounds_too(n, rng):
    """All points are in one leaf; the least that is expected is what rounding leaves."""
    points, charges = sphere(rng, n), rng.uniform(-1, 1, n)
    fmm = fl.Fmm(points, kernel=NARROW, digits=6, ncrit=n, recipes="sequential")
    assert 1 <= fmm.error_estimate / rounding_for("double", n) <= 1.5  # more by how much smaller potentials may be
    assert fmm.estimate_error(charges) <= fmm.error_estimate


# -- few targets


@pytest.mark.parametrize("kernel", [fl.rotlet(), STEEP], ids=lambda kernel: kernel.name)
def test_few_targets_have_small_potentials_more_often(kernel, rng):
    """Their nearest sources have almost all of their potentials, and are few, so that these vary with the charges."""
    sources, targets = cube(rng, 1000), cube(rng, 5)
    matrix = kernel.evaluate(targets.T[:, :, None] - sources.T[:, None, :])
    potentials = np.einsum("ijts,jsk->itk", matrix, rng.uniform(-1, 1, (kernel.nsource_components, 1000, 4000)))
    sizes = np.sqrt((potentials**2).sum(axis=(0, 1)))
    small = np.mean(sizes < np.sqrt(np.mean(sizes**2)) / predictor(kernel, sources, targets).spread)
    # One source may have most of a potential, and a uniform charge is small less often than a normal one.
    assert 0.03 <= small <= 0.15


# -- what callers read


def test_an_error_that_is_too_small_is_answered_as_an_error(rng):
    points = cube(rng, 3000)
    with pytest.raises(ValueError, match="^eps is 1e-20, expected a relative error from 1e-12 to 0.1 in double precis"):
        fl.Fmm(points, eps=1e-20)
    with pytest.raises(ValueError, match=r"^eps is 1e-06, expected at least \d\.\de-04 for logarithm and these points"):
        order_for(predictor(LOGARITHM, points), 6.0, eps=1e-6)
    with pytest.raises(ValueError, match="^eps is 1e-06, but singular is not finite"):
        order_for(predictor(SINGULAR, points), 6.0, eps=1e-6)


def test_one_point_is_no_plural():
    fmm = fl.Fmm(np.zeros((1, 3)), recipes="sequential")
    assert "1 source, 1 target, laplace" in repr(fmm)
    assert "1 source, 1 target" in str(fmm.plan_report())
