"""Several vectors of charges at once."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from conftest import OPENCL, clustered, cube, error, slow, slow_but

import fmmloopy as fl
from fmmloopy.checking.proofs import proof_of, verdict_on
from fmmloopy.choosing.cost_model import Rates
from fmmloopy.components import Components
from fmmloopy.execution.setup import Method, Setup
from fmmloopy.kernels import helmholtz, stokeslet
from fmmloopy.octree.copies import copies, copy_boxes
from fmmloopy.octree.lists import build_lists
from fmmloopy.octree.tree import build_tree
from fmmloopy.operators import M2L_FORMS
from fmmloopy.precision import PRECISIONS
from fmmloopy.recipes import load_recipes

COUNT = 900
BOUND = {"double": 1e-13, "mixed": 1e-6, "reduced": 1e-6, "single": 1e-5}
"""Sums run in the same order, but compilers may contract products and sums differently."""


def one_by_one(fmm, charges, **wanted):
    """Return the results of each vector alone, with a last axis for vectors."""
    found = [fmm.evaluate(charges[..., v], **wanted) for v in range(charges.shape[-1])]
    return [np.stack(parts, axis=-1) for parts in zip(*found, strict=True)] if wanted else [np.stack(found, axis=-1)]


@pytest.mark.parametrize("m2l", M2L_FORMS)
def test_vectors_are_those_alone(m2l):
    rng = np.random.default_rng(1)
    points, targets = clustered(rng, COUNT), clustered(rng, 700)
    fmm = fl.Fmm(points, targets, order=4, ncrit=20, m2l=m2l)
    charges = rng.standard_normal((COUNT, 8))
    for count in (1, 3, 8):
        (expected,) = one_by_one(fmm, charges[:, :count])
        found = fmm.evaluate(charges[:, :count])
        assert found.shape == (700, count)
        assert error(found, expected) <= BOUND["double"]
    assert error(found, fl.direct(points, charges, targets)) <= 1e-3
    assert fmm.estimate_error(k=700) == pytest.approx(error(found, fl.direct(points, charges, targets)), rel=1e-6)


@pytest.mark.parametrize("device", OPENCL, ids=lambda device: f"{device.runtime}-{device.driver}")
def test_entries_that_are_zero(device):
    """The type of a number such as 0 is that of the kernel: a device's compiler takes no other one in a vector."""
    rng = np.random.default_rng(3)
    points, charges = cube(rng, COUNT), rng.standard_normal((COUNT, 2, 2))
    kernel = fl.GreensFunction("half", (("1/r", 0), (0, 0)))
    found = fl.Fmm(points, kernel=kernel, order=3, ncrit=100, device=device, m2l="dense").evaluate(charges)
    assert error(found, fl.direct(points, charges, kernel=kernel)) <= 3e-2


@pytest.mark.parametrize("precision", slow_but(lambda precision: precision in ("double", "mixed"), PRECISIONS))
def test_precisions_and_sizes_of_charges(precision):
    """Vectors may be of very different size; those beyond a batch are evaluated after it."""
    rng = np.random.default_rng(2)
    points, dtype = cube(rng, COUNT), np.float32 if precision == "single" else np.float64
    charges = rng.standard_normal((COUNT, 11))
    charges[:, 3] *= 1e-20
    charges[:, 7] *= 1e20
    charges[:, 5] = 0
    fmm = fl.Fmm(points, order=4, ncrit=40, precision=precision, dtype=dtype)
    found = fmm.evaluate(charges)
    (expected,) = one_by_one(fmm, charges)
    for v in range(11):
        alone, together = (values[:, v].astype(np.float64) for values in (expected, found))
        assert found.dtype == dtype
        assert np.linalg.norm(together - alone) <= BOUND[precision] * np.linalg.norm(alone)


@pytest.mark.parametrize(
    ("kernel", "gradient"),
    [(stokeslet(), False), pytest.param(helmholtz(2.0), True, marks=slow)],
    ids=lambda value: getattr(value, "name", ""),
)
def test_components_dipoles_and_derivatives(kernel, gradient):
    rng = np.random.default_rng(3)
    points, axes = cube(rng, 500), (3,) if kernel.name == "stokeslet" else ()
    charges, dipoles = rng.standard_normal((500, *axes, 3)), rng.standard_normal((500, *axes, 3, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fmm = fl.Fmm(points, kernel=kernel, order=3, ncrit=40)

    def both(evaluate, *arguments, **keywords):
        result = evaluate(*arguments, **keywords, gradient=gradient)
        return result if gradient else (result,)

    found = both(fmm.evaluate, charges, dipoles)
    exact = both(fl.direct, points, charges, None, kernel, dipoles=dipoles)
    assert [values.shape for values in found] == [values.shape for values in exact]
    for v in range(3):
        alone = both(fmm.evaluate, charges[..., v], dipoles[..., v])
        for values, expected in zip(found, alone, strict=True):
            assert error(values[..., v], expected) <= BOUND["double"]


@pytest.mark.parametrize("book", ["pocl_cpu", "simd_cpu"])
@pytest.mark.parametrize(("name", "count"), [("p2p", 2), ("p2m", 8), ("m2p", 3)])
def test_kernels_of_books_are_proved(book, name, count, opencl_device):
    """Each recipe does for all sizes what the sequential kernel does."""
    setup = Setup(Method(fl.yukawa(), 4), load_recipes(book), opencl_device)
    key = setup.code_key(name, Components(vectors=count))
    assert proof_of(key.specification, verdict_on(key.specification, key.steps()[-1])).proved


@pytest.mark.parametrize("count", [1, 3])
def test_copies_of_boxes(count):
    """Copies have the relations of their boxes, each among copies for the same vector."""
    tree = build_tree(clustered(np.random.default_rng(4), 400), ncrit=10)
    lists = build_lists(tree)
    copied, copied_lists = copy_boxes(tree, lists, count)
    assert copied.nboxes == count * tree.nboxes
    np.testing.assert_array_equal(copied.box_levels[copied.level_starts[:-1]], np.arange(tree.nlevels))
    for box in range(0, tree.nboxes, 7):
        for v in range(count):
            own = count * box + v
            np.testing.assert_array_equal(copied.box_children[own], copies(tree.box_children[box], count)[v::count])
            expected = count * lists.v.lists[lists.v.starts[box] : lists.v.starts[box + 1]] + v
            row = slice(*copied_lists.v.starts[own : own + 2])
            np.testing.assert_array_equal(copied_lists.v.lists[row], expected)
            parent = tree.box_parents[box]
            assert copied.box_parents[own] == (-1 if parent < 0 else count * parent + v)


def test_batches_fit_in_memory(monkeypatch):
    """A device with little memory evaluates fewer vectors at once, down to one."""
    rng = np.random.default_rng(5)
    fmm = fl.Fmm(cube(rng, COUNT), order=4, ncrit=20)
    evaluation = fmm._evaluation
    assert [evaluation.most_vectors(c) for c in (Components(), Components(gradient=True, hessian=True))] == [8, 2]
    monkeypatch.setattr("fmmloopy.execution.evaluation.MEMORY_SHARE", 10**9)
    assert evaluation.most_vectors(Components()) == 1
    charges = rng.standard_normal((COUNT, 3))
    np.testing.assert_array_equal(fmm.evaluate(charges), one_by_one(fmm, charges)[0])


def test_reports_say_what_predictions_do_not_include():
    rng = np.random.default_rng(6)
    fmm = fl.Fmm(cube(rng, 300), order=3, ncrit=40)
    fmm.evaluate(np.ones((300, 2)), np.ones((300, 3, 2)))
    assert "It also computed fields of dipoles and 2 vectors at once, which" in str(fmm.plan_report())
    fmm.evaluate(np.ones(300))
    assert "also computed" not in str(fmm.plan_report())


def test_many_vectors_have_larger_leaves():
    """Pairs are computed once for all vectors, and everything else for each."""
    rates = Rates({"p2p": (1e-9, 0.0), "m2l_hadamard": (1e-10, 0.0)}).for_vectors(8)
    assert rates.per_unit["p2p"][0] == pytest.approx(1.7e-9)
    assert rates.per_unit["m2l_hadamard"][0] == pytest.approx(8e-10)
    with pytest.raises(ValueError, match="vectors is 0, expected a whole number of at least 1"):
        fl.Fmm(np.ones((3, 3)), vectors=0)
