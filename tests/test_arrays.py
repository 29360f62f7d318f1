"""Arrays of other libraries, and arrays for results."""

from __future__ import annotations

import numpy as np
import pyopencl as cl
import pyopencl.array
import pytest
from conftest import OPENCL, cube

import fmmloopy as fl
from fmmloopy.common.exchange import on_host

N = 500


class Foreign:
    """An array of a library that is exchanged by DLPack; it counts how often it is read."""

    def __init__(self, values, device=1):
        self.values, self.where, self.reads = values, device, 0

    def __dlpack_device__(self):
        return self.where, 0

    def __dlpack__(self, **keywords):
        self.reads += 1
        return self.values.__dlpack__(**keywords)

    def __array_namespace__(self):
        return type(self)

    @classmethod
    def asarray(cls, values):
        return cls(values)


class OnDevice(Foreign):
    """One on a device, which its library copies to the host."""

    def __dlpack__(self, **keywords):
        raise BufferError("not in the memory of the host")

    def cpu(self):
        self.reads += 1
        return self.values


class Exchanged:
    """What has DLPack and nothing else: no library that makes arrays."""

    def __init__(self, values, device=1):
        self.values, self.where = values, device

    def __dlpack_device__(self):
        return self.where, 0

    def __dlpack__(self, **keywords):
        return self.values.__dlpack__(**keywords)


@pytest.fixture(scope="module")
def points():
    return cube(np.random.default_rng(1), N)


@pytest.fixture(scope="module")
def fmm(points):
    return fl.Fmm(points, order=3, ncrit=60)


@pytest.fixture(scope="module")
def charges():
    return np.random.default_rng(2).standard_normal(N)


def test_what_only_exchanges_arrays_gets_those_of_numpy(fmm, points, charges):
    found = fmm.evaluate(Exchanged(charges))
    assert type(found) is np.ndarray
    np.testing.assert_array_equal(found, fmm.evaluate(charges))
    np.testing.assert_array_equal(fl.direct(Exchanged(points), Exchanged(charges)), fl.direct(points, charges))
    with pytest.raises(ValueError, match=r"it is on a device, and has no method to copy it to the host\); convert it"):
        fmm.evaluate(Exchanged(charges, device=2))


@pytest.mark.parametrize("make", [Foreign, lambda values: OnDevice(values, 2)], ids=["host", "device"])
def test_arrays_with_dlpack(fmm, points, charges, make):
    expected = fmm.evaluate(charges, gradient=True)
    given = make(charges)
    found = fmm.evaluate(given, gradient=True)
    assert given.reads == 1
    for one, other in zip(found, expected, strict=True):
        assert type(one) is type(given)
        assert np.array_equal(one.values, other)
    of_points = fl.Fmm(make(points), make(points[:50]), order=3, ncrit=60)
    assert of_points.tree.ntargets == 50
    assert isinstance(of_points.evaluate(charges), np.ndarray)
    assert np.array_equal(fl.direct(make(points), make(charges)), fl.direct(points, charges))


def test_complex_charges_of_another_library(points):
    fmm = fl.Fmm(points, kernel=fl.helmholtz(1.0), order=3, ncrit=60)
    charges = np.exp(1j * np.arange(N))
    assert np.array_equal(fmm.evaluate(Foreign(charges)).values, fmm.evaluate(charges))


def test_the_dtype_is_that_of_the_points(points):
    assert fl.Fmm(Foreign(points.astype(np.float32)), order=3).dtype == np.float32


@pytest.mark.skipif(not OPENCL, reason="no OpenCL device")
def test_arrays_of_pyopencl(fmm, points, charges):
    context = cl.Context([OPENCL[0].handle])
    queue = cl.CommandQueue(context)
    given = cl.array.to_device(queue, charges)
    found = fmm.evaluate(given, gradient=True)
    for one, other in zip(found, fmm.evaluate(charges, gradient=True), strict=True):
        assert isinstance(one, cl.array.Array)
        assert one.queue == queue
        assert np.array_equal(one.get(), other)
    assert fl.Fmm(cl.array.to_device(queue, points.astype(np.float32)), order=3).dtype == np.float32
    with pytest.raises(ValueError, match=r"charges is an array of type pyopencl.array.Array, which cannot be read \("):
        fmm.evaluate(given.with_queue(None))
    with pytest.raises(ValueError, match=r"charges has shape \(499,\), expected \(500,\)"):
        fmm.evaluate(given[:-1])


def test_torch(fmm, points, charges):
    torch = pytest.importorskip("torch")
    found = fmm.evaluate(torch.asarray(charges))
    assert isinstance(found, torch.Tensor)
    assert np.array_equal(found.numpy(), fmm.evaluate(charges))
    assert fl.Fmm(torch.asarray(points, dtype=torch.float32), order=3).dtype == np.float32


def test_an_array_that_cannot_be_read(fmm, charges):
    with pytest.raises(
        ValueError, match=r"charges is an array of type .*OnDevice, which cannot be read \(not in the mem"
    ):
        fmm.evaluate(OnDevice(charges))


def test_results_are_written_to_out(fmm, charges):
    alone, expected = fmm.evaluate(charges), fmm.evaluate(charges, gradient=True)
    out = np.full(N, np.nan)
    assert fmm.evaluate(charges, out=out) is out
    assert np.array_equal(out, alone)
    both = np.empty((N, 2))[:, 0], np.empty((N, 3))
    found = fmm.evaluate(charges, gradient=True, out=both)
    assert all(one is other for one, other in zip(found, both, strict=True))
    assert all(np.array_equal(one, other) for one, other in zip(both, expected, strict=True))
    assert fmm.evaluate(Foreign(charges), out=out) is out


class Writeable(Foreign):
    """One that can be written to, as most libraries' can."""

    def __init__(self, values):
        super().__init__(values)
        self.shape, self.dtype = values.shape, f"library.{values.dtype}"

    def __setitem__(self, where, other):
        self.values[where] = other.values


def test_results_are_written_to_arrays_of_other_libraries(fmm, charges):
    expected = fmm.evaluate(charges, gradient=True)
    out = Writeable(np.empty(N)), Writeable(np.empty((N, 3)))
    found = fmm.evaluate(charges, gradient=True, out=out)
    assert all(one is other for one, other in zip(found, out, strict=True))
    assert all(np.array_equal(one.values, other) for one, other in zip(out, expected, strict=True))
    with pytest.raises(ValueError, match=r"out has shape \(499,\) and dtype float64, expected shape \(500,\)"):
        fmm.evaluate(charges, out=Writeable(np.empty(N - 1)))
    constant = Foreign(np.empty(N))
    constant.shape, constant.dtype = (N,), np.dtype(np.float64)
    with pytest.raises(ValueError, match=r"out is an array of type .*Foreign, which cannot be written to \("):
        fmm.evaluate(charges, out=constant)


@pytest.mark.skipif(not OPENCL, reason="no OpenCL device")
def test_results_are_written_to_arrays_of_pyopencl(fmm, charges):
    context = cl.Context([OPENCL[0].handle])
    queue = cl.CommandQueue(context)
    expected = fmm.evaluate(charges, gradient=True)
    in_columns = cl.array.to_device(queue, np.zeros((N, 3), order="F"))
    out = cl.array.zeros(queue, N, np.float64), in_columns
    assert fmm.evaluate(charges, gradient=True, out=out)[1] is in_columns
    assert all(np.array_equal(one.get(), other) for one, other in zip(out, expected, strict=True))
    with pytest.raises(ValueError, match="out has shape .* and dtype float32, expected shape .* and dtype float64"):
        fmm.evaluate(charges, out=cl.array.zeros(queue, N, np.float32))
    with pytest.raises(ValueError, match="out is an array of pyopencl with gaps, expected a contiguous one"):
        fmm.evaluate(charges, out=cl.array.zeros(queue, 2 * N, np.float64)[::2])


@pytest.mark.skipif(not OPENCL, reason="no OpenCL device")
@pytest.mark.parametrize(
    "take", [lambda a: a[::2], lambda a: a[1:, :2], lambda a: a[:, 1], lambda a: a.T, lambda a: a[1::3].T]
)
def test_arrays_of_pyopencl_with_any_strides(take):
    context = cl.Context([OPENCL[0].handle])
    queue = cl.CommandQueue(context)
    values = np.arange(24.0).reshape(8, 3)
    assert np.array_equal(on_host(take(cl.array.to_device(queue, values)), "values"), take(values))


def _read_only():
    array = np.empty(N)
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (np.empty(N - 1), r"out has shape \(499,\) and dtype float64, expected shape \(500,\) and dtype float64"),
        (np.empty(N, np.float32), r"out has shape \(500,\) and dtype float32, expected"),
        (np.ma.zeros(N), "out is an array of type numpy.ma.*MaskedArray, expected one of numpy, pyopencl or DLP"),
        ([0.0] * N, "out has 500 arrays, expected 1"),
        ((np.empty(N), np.empty((N, 3))), "out has 2 arrays, expected 1"),
        (_read_only(), "out cannot be written to"),
    ],
    ids=["shape", "dtype", "masked", "list", "too many", "read-only"],
)
def test_wrong_out(fmm, charges, out, message):
    with pytest.raises(ValueError, match=message):
        fmm.evaluate(charges, out=out)
