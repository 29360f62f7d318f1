"""Steps that put other arithmetic in place of functions: right to a few units in the last place."""

from __future__ import annotations

import loopy as lp
import numpy as np
import pytest

from fmmloopy.devices import find_devices
from fmmloopy.transforms import steps

OPENCL = [d for d in find_devices() if d.kind == "opencl" and "oclgrind" not in d.description.lower()]


def _apply(step, expression, x):
    """Evaluate an expression in x[i] on a device, after a step."""
    import pyopencl as cl

    knl = lp.make_kernel("{[i]: 0 <= i < n}", f"y[i] = {expression}", lang_version=lp.MOST_RECENT_LANGUAGE_VERSION)
    knl = step(lp.add_dtypes(knl, {"x": x.dtype, "y": x.dtype}))
    context = cl.Context([OPENCL[0].handle])
    queue = cl.CommandQueue(context)
    _, (y,) = knl.executor(context)(queue, x=x, n=np.int32(len(x)))
    return y if isinstance(y, np.ndarray) else y.get()


@pytest.mark.skipif(not OPENCL, reason="no OpenCL device")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_newton_rsqrt_is_right_to_two_units_in_the_last_place(rng, dtype):
    # The squares of distances that occur: from coincident but for rounding to far beyond any tree.
    x = (10.0 ** rng.uniform(-30, 30, 20000)).astype(dtype)
    found = _apply(steps.newton_rsqrt, "1/sqrt(x[i])", x)
    expected = 1 / np.sqrt(x.astype(np.longdouble))
    assert np.max(np.abs(found / expected - 1)) <= 2 * np.finfo(dtype).eps


@pytest.mark.skipif(not OPENCL, reason="no OpenCL device")
@pytest.mark.parametrize(("dtype", "least"), [(np.float32, -87), (np.float64, -708)])
def test_polynomial_exp_is_right_to_two_units_in_the_last_place(rng, dtype, least):
    x = np.concatenate([rng.uniform(least, 80, 20000), rng.uniform(-1, 1, 20000), [0, least]]).astype(dtype)
    found = _apply(steps.polynomial_exp, "exp(x[i])", x)
    expected = np.exp(x.astype(np.longdouble))
    assert np.max(np.abs(found / expected - 1)) <= 2 * np.finfo(dtype).eps


@pytest.mark.skipif(not OPENCL, reason="no OpenCL device")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_polynomial_exp_of_very_negative_numbers_is_zero(dtype):
    x = np.array([-1e3, -1e30, np.finfo(dtype).min], dtype)
    assert not _apply(steps.polynomial_exp, "exp(x[i])", x).any()


def test_polynomial_exp_leaves_other_kernels_alone():
    knl = lp.make_kernel("{[i]: 0 <= i < n}", "y[i] = 1/sqrt(x[i])", lang_version=lp.MOST_RECENT_LANGUAGE_VERSION)
    assert steps.polynomial_exp(knl) is knl
