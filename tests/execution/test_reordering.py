"""Charges and potentials that the device puts in order: the same bits as where the host does."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from conftest import OPENCL, needs_c, needs_cpp, slow_but

import fmmloopy as fl
from fmmloopy.execution.backends.cuda_emulator import EMULATED_DEVICE
from fmmloopy.execution.device import GPU
from fmmloopy.execution.devices import C_DEVICE
from fmmloopy.execution.evaluation import _Whole
from fmmloopy.execution.generate import reordering_code
from fmmloopy.execution.runtime import make_runtime

FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)

pytestmark = needs_c

GPU_DEVICE = replace(C_DEVICE, kind=GPU, description=f"{C_DEVICE.description}, as a GPU")
"""The C compiler's processor, taken for a GPU."""


def evaluations(rng, **options):
    """Return an evaluation in which the device puts numbers in order, and one in which the host does."""
    sources, targets = rng.random((400, 3)), rng.random((300, 3))
    options = {"recipes": "sequential", "order": 3, "ncrit": 30, **options}
    return [fl.Fmm(sources, targets, device=device, **options) for device in (GPU_DEVICE, C_DEVICE)]


@pytest.fixture
def reads(monkeypatch):
    """Count how often the host puts charges in order."""
    counted = []
    bring_in = _Whole.bring_in
    monkeypatch.setattr(_Whole, "bring_in", lambda self, charges: counted.append(1) or bring_in(self, charges))
    return counted


@pytest.mark.parametrize(
    ("precision", "scale"),
    slow_but(
        lambda precision, scale: (precision, scale) in {("double", 1.0), ("mixed", 1e30), ("mixed", 1e200)},
        list(product(("double", "mixed", "reduced"), (1.0, 1e30, 1e-30, 1e200))),
    ),
)
def test_the_same_bits(rng, reads, precision, scale):
    on_gpu, on_cpu = evaluations(rng, precision=precision)
    charges = scale * rng.standard_normal(400)
    found = on_gpu.evaluate(charges)
    assert not reads
    assert np.array_equal(found, on_cpu.evaluate(charges))
    assert reads
    assert "reorder" in on_gpu.timings
    assert "reorder" not in on_cpu.timings


@pytest.mark.parametrize("precision", ["double", "mixed"])
def test_derivatives_of_dipoles_of_several_vectors_of_different_size(rng, reads, precision):
    on_gpu, on_cpu = evaluations(rng, precision=precision)
    charges, dipoles = rng.standard_normal((400, 2)), rng.standard_normal((400, 3, 2))
    charges[:, 1] *= 1e250
    dipoles[..., 1] *= 1e250
    before = charges.copy()
    found = on_gpu.evaluate(charges, dipoles, gradient=True)
    assert not reads
    assert np.array_equal(charges, before)
    for mine, other in zip(found, on_cpu.evaluate(charges, dipoles, gradient=True), strict=True):
        assert np.array_equal(mine, other)


def test_single_precision_and_new_charges(rng):
    on_gpu, on_cpu = evaluations(rng, dtype=np.float32)
    for _ in range(2):
        charges = rng.standard_normal(400).astype(np.float32)
        found = on_gpu.evaluate(charges)
        assert found.dtype == np.float32
        assert np.array_equal(found, on_cpu.evaluate(charges))
    sources = rng.random((350, 3)).astype(np.float32)
    for each in (on_gpu, on_cpu):
        each.update(sources, sources)
    charges = rng.standard_normal(350).astype(np.float32)
    assert np.array_equal(on_gpu.evaluate(charges), on_cpu.evaluate(charges))


def test_potentials_that_are_too_large(rng):
    on_gpu, _ = evaluations(rng, dtype=np.float32)
    with pytest.raises(ValueError, match="the largest potential is about 1e"):
        on_gpu.evaluate(np.full(400, 1e38, np.float32))


@pytest.mark.parametrize(
    "device",
    [C_DEVICE, pytest.param(EMULATED_DEVICE, marks=needs_cpp), *OPENCL[:1]],
    ids=lambda device: device.backend,
)
@pytest.mark.parametrize(("given", "wanted"), [(FLOAT64, FLOAT32), (FLOAT32, FLOAT64), (FLOAT64, FLOAT64)])
def test_rows_in_another_order(rng, device, given, wanted):
    runtime, n = make_runtime(device), 129
    values, factors, order = rng.random((3, 140)).astype(given), rng.random(3).astype(given), rng.permutation(140)[:n]
    result = runtime.upload(np.full((3, 150), 7, wanted))
    arguments = {
        "given": runtime.upload(values),
        "factors": runtime.upload(factors),
        "order": runtime.upload(order.astype(np.int32)),
        "wanted": result,
        **{"n": n, "nrows": 3, "ngiven": 140, "nwanted": 150},
    }
    code = reordering_code(given, wanted, device)
    assert reordering_code(given, wanted, device) == code
    runtime.run([runtime.bind(code, arguments)])
    found = runtime.read(result)
    assert np.array_equal(found[:, :n], (factors[:, None] * values[:, order]).astype(wanted))
    assert (found[:, n:] == 7).all()
