"""The width of the root cube: when another one is tried, and that results do not depend on it."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from conftest import error

import fmmloopy as fl
from fmmloopy.choosing import root_size
from fmmloopy.choosing.cost_model import Candidate, Choice
from fmmloopy.choosing.decision import Decision
from fmmloopy.choosing.root_size import faster_in_wider_root, width_to_try
from fmmloopy.execution.setup import Method, Setup
from fmmloopy.octree.tree import CENTRE_BITS, HALF_WIDTH_BITS, grow_tree, sort_points
from fmmloopy.recipes.book import SEQUENTIAL

POINTS = np.random.default_rng(0).random((20_000, 3))


@pytest.fixture(autouse=True)
def few_points(monkeypatch):
    monkeypatch.setattr(root_size, "FEWEST_POINTS", 10_000)


def candidate(near, boxes, others=0.0):
    return Candidate(100, "fft", 1, {"p2p": near, "m2l_hadamard": 0.7 * boxes, "m2m": 0.3 * boxes, "l2p": others})


def tree_of(points, ncrit=100):
    """With ncrit 100, leaves in the unit cube have 40 points, of 8 along each axis."""
    return grow_tree(sort_points(points), ncrit)


@pytest.mark.parametrize(
    ("near", "boxes", "along"),
    [(1.0, 1.0, 8), (8.0, 1.0, 12), (1.0, 8.0, 6), (100.0, 1.0, 14), (0.01, 1.0, 6)],
)
def test_the_width_balances_near_pairs_and_boxes(near, boxes, along):
    """With m boxes along an axis instead of 8: near (8 / m)^3 + boxes (m / 8)^3 is least."""
    width = width_to_try(tree_of(POINTS), candidate(near, boxes), fl.laplace())
    assert width == pytest.approx(1.0 if along == 8 else 1.01 * 2 ** math.ceil(math.log2(along)) / along)
    tree = grow_tree(sort_points(POINTS, width=width), {6: 160, 8: 100, 12: 20, 14: 20}[along])
    leaves = tree.is_leaf & (tree.box_source_ends > tree.box_source_starts)
    assert along**3 * 0.9 < np.count_nonzero(leaves) < along**3 * 1.1


def test_what_takes_most_of_the_time_on_points_is_no_reason():
    assert width_to_try(tree_of(POINTS), candidate(8.0, 1.0), fl.laplace()) > 1
    assert width_to_try(tree_of(POINTS), candidate(8.0, 1.0, 100.0), fl.laplace()) == 1


def test_points_and_functions_for_which_no_width_is_tried(monkeypatch):
    heavy = candidate(8.0, 1.0)
    clustered = POINTS * 10.0 ** np.random.default_rng(1).uniform(-3, 0, (len(POINTS), 1))
    assert width_to_try(tree_of(clustered), heavy, fl.laplace()) == 1
    assert width_to_try(tree_of(POINTS, 10**6), heavy, fl.laplace()) == 1
    assert width_to_try(tree_of(POINTS), heavy, fl.yukawa(1.0)) == 1
    assert width_to_try(tree_of(POINTS), heavy, fl.helmholtz(1.0)) == 1
    monkeypatch.setattr(root_size, "FEWEST_POINTS", 10**5)
    assert width_to_try(tree_of(POINTS), heavy, fl.laplace()) == 1


def test_a_wider_root_is_taken_if_it_is_faster(opencl_device):
    setup = Setup(Method(fl.laplace(), 6), SEQUENTIAL, opencl_device)

    def decision(seconds):
        return Decision(setup, Choice(100, "fft", "fastest", (candidate(seconds, 0.0),)), None, 6.0)

    assert faster_in_wider_root(decision(1.0), decision(1.0), 1.6) is None
    taken = faster_in_wider_root(decision(3.0), decision(2.0), 1.6)
    assert taken.choice.reason == (
        "fastest; in a root as wide as the points, 1.50 times as long as in one 1.60 times as wide"
    )
    nothing = dataclasses.replace(decision(2.0), choice=Choice(100, "fft", "rule"))
    assert faster_in_wider_root(decision(3.0), nothing, 1.6) is None


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shift", [0.0, -1.0, 1e3])
@pytest.mark.parametrize("width", [1.0, 1.01, 1.6, 2.0])
def test_points_are_at_the_lower_corner_of_a_wider_root(dtype, shift, width):
    points = POINTS + shift
    sorted_points = sort_points(points, dtype=dtype, width=width)
    half_width, centre = sorted_points.half_width, sorted_points.centre
    lower = centre - half_width
    narrow = sort_points(points, dtype=dtype)
    assert half_width >= width * narrow.half_width
    assert half_width <= width * narrow.half_width * (1 + 2.0 ** (1 - HALF_WIDTH_BITS))
    mantissa = math.frexp(half_width)[0]
    assert mantissa * 2**HALF_WIDTH_BITS == round(mantissa * 2**HALF_WIDTH_BITS)
    assert (lower <= points.min(axis=0) + 1e-3 * half_width * (dtype == np.float32)).all()
    away = (narrow.centre - narrow.half_width) - lower
    assert (away <= half_width * 2.0 ** (1 - CENTRE_BITS) + 1e-12).all()
    assert (centre + half_width >= points.max(axis=0) - 1e-3 * half_width * (dtype == np.float32)).all()


@pytest.mark.parametrize("precision", ["double", "mixed", "single"])
def test_potentials_do_not_depend_on_the_width(precision, rng):
    points, charges = rng.random((3000, 3)) + 5.0, rng.uniform(-1, 1, 3000)
    expected = fl.direct(points, charges)
    for width in (1.0, 1.37, 2):
        fmm = fl.Fmm(points, order=5, ncrit=40, precision=precision, root_width=width)
        assert fmm.root_width == width
        assert error(fmm.evaluate(charges), expected) < 3e-5
    assert fmm.tree.half_width > 0.9
    fmm.update(points[:2000])
    assert fmm.tree.half_width > 0.9
    assert error(fmm.evaluate(charges[:2000]), fl.direct(points[:2000], charges[:2000])) < 3e-5


def test_what_an_evaluation_makes_has_its_root(opencl_device, rng):
    points, charges = rng.random((2000, 3)), rng.uniform(-1, 1, 2000)
    one = fl.Fmm(points, kernel=fl.rotlet(), order=4, ncrit=60, root_width=1.5, device=opencl_device)
    matrix = one.as_linear_operator()
    x, y = rng.uniform(-1, 1, (2, matrix.shape[0]))
    assert y @ matrix.matvec(x) == pytest.approx(x @ matrix.rmatvec(y), rel=1e-2)
    assert one._adjoint[0].root_width == 1.5
    several = fl.Fmm(points, order=5, ncrit=60, root_width=1.5, devices=[opencl_device, opencl_device])
    assert several.root_width == 1.5
    assert all(part.tree.half_width > 0.7 for part in several.parts)
    assert error(several.evaluate(charges), fl.direct(points, charges)) < 1e-4


def test_a_whole_choice(monkeypatch, rng):
    """Whatever is predicted: with points that are sorted again, targets too."""
    monkeypatch.setattr("fmmloopy.fmm.width_to_try", lambda tree, candidate, kernel: 1.6)
    monkeypatch.setattr("fmmloopy.fmm.faster_in_wider_root", lambda present, other, width: other)
    sources, targets, charges = rng.random((5000, 3)), rng.random((4500, 3)), rng.uniform(-1, 1, 5000)
    fmm = fl.Fmm(sources, targets, digits=3)
    assert fmm.root_width == 1.6
    assert fmm.tree.half_width > 0.75
    assert error(fmm.evaluate(charges), fl.direct(sources, charges, targets)) < 1e-3
    assert fl.Fmm(sources, targets, digits=3, ncrit=60).root_width == 1
    assert fl.Fmm(sources, targets, digits=3, root_width=1).root_width == 1


@pytest.mark.parametrize("width", [0.5, 2.5, math.nan, "wide", True])
def test_widths_that_cannot_be_used(width):
    with pytest.raises(ValueError, match=r"^root_width is .*, expected a number from 1 to 2$"):
        fl.Fmm(POINTS, root_width=width)
