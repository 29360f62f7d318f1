"""Potentials from pairs of leaves that act on each other, against P2P alone and against the direct sum."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conftest import PAIRED, clustered

import fmmloopy as fl

WITHOUT_PARITY = fl.GreensFunction("one_sided", "(1 + 0.3*d0*rinv)*rinv")

pytestmark = [
    pytest.mark.skipif(not PAIRED, reason="no device whose book has a recipe for pairs of leaves"),
    pytest.mark.filterwarnings("ignore::fmmloopy.UncertifiedWarning"),
]

slow = pytest.mark.slow
CASES = [
    pytest.param(fl.laplace(), "double", {"gradient": True}, id="laplace"),
    pytest.param(fl.laplace(), "mixed", {"gradient": True}, id="laplace, mixed"),
    pytest.param(WITHOUT_PARITY, "double", {}, id="a function that is neither even nor odd"),
    pytest.param(fl.stokeslet(), "double", {"gradient": True}, id="stokeslet", marks=slow),
    pytest.param(fl.yukawa(2.0), "mixed", {"hessian": True}, id="yukawa, mixed", marks=slow),
    pytest.param(fl.helmholtz(1.0), "double", {}, id="helmholtz", marks=slow),
]


def paired_alone(**options):
    """Return an evaluation by pairs of leaves, on a device on which few points are enough, and one without."""
    device, points = PAIRED[0], clustered(np.random.default_rng(4), 1500)
    small = replace(device, limits=replace(device.limits, pairs_from=0, narrow_pairs=True))
    return [fl.Fmm(points, device=each, order=4, ncrit=40, m2l="fft", **options) for each in (small, device)]


@pytest.mark.parametrize(("kernel", "precision", "outputs"), CASES)
def test_pairs_give_the_same_potentials(kernel, precision, outputs, rng):
    paired, alone = paired_alone(kernel=kernel, precision=precision)
    charges = rng.uniform(-1, 1, (1500, kernel.nsource_components // (2 if kernel.is_complex else 1))).squeeze()
    both = [fmm.evaluate(charges, **outputs) for fmm in (paired, alone)]
    assert paired.timings["p2p_mutual"] > 0
    assert "p2p_mutual" not in alone.timings
    # Both have the same far field; the near pairs of a point, a few hundred, are rounded in float64 or in float32.
    eps = 1e-13 if precision == "double" else 1e-5
    for ours, expected in zip(*(each if outputs else (each,) for each in both), strict=True):
        assert np.abs(ours - expected).max() <= eps * np.abs(expected).max()


@pytest.mark.slow
def test_pairs_give_the_same_potentials_of_several_vectors_and_dipoles(rng):
    paired, alone = paired_alone()
    charges, dipoles = rng.uniform(-1, 1, (1500, 3)), rng.uniform(-1, 1, (1500, 3, 3))
    ours, expected = (fmm.evaluate(charges, dipoles) for fmm in (paired, alone))
    assert paired.timings["p2p_mutual"] > 0
    assert np.abs(ours - expected).max() <= 1e-13 * np.abs(expected).max()


def test_an_update_pairs_the_new_leaves(rng):
    paired, _ = paired_alone()
    points, charges = rng.random((1500, 3)), rng.uniform(-1, 1, 1500)
    paired.update(points)
    expected = fl.direct(points, charges, points[:100])
    # Order 4 has 3 to 4 digits.
    assert np.linalg.norm(paired.evaluate(charges)[:100] - expected) <= 1e-3 * np.linalg.norm(expected)


@pytest.mark.parametrize("precision", ["double", pytest.param("mixed", marks=slow)])
def test_parts_pair_their_own_leaves(precision, rng):
    points, charges = clustered(np.random.default_rng(4), 1500), rng.uniform(-1, 1, 1500)
    device = PAIRED[0]
    small = replace(device, limits=replace(device.limits, pairs_from=0, narrow_pairs=True))
    options = {"order": 4, "ncrit": 40, "m2l": "fft", "precision": precision}
    paired, alone = fl.Fmm(points, devices=[small] * 2, **options), fl.Fmm(points, devices=[device] * 2, **options)
    ours, expected = (fmm.evaluate(charges, gradient=True) for fmm in (paired, alone))
    assert paired.timings["p2p_mutual"] > 0
    assert "p2p_mutual" not in alone.timings
    eps = 1e-13 if precision == "double" else 1e-5  # as above
    for found, others in zip(ours, expected, strict=True):
        assert np.abs(found - others).max() <= eps * np.abs(others).max()
