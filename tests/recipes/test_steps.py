"""Steps that change the arithmetic: right to a few units in the last place, for all Green's functions."""

from __future__ import annotations

import loopy as lp
import numpy as np
import pytest
from conftest import OPENCL, slow, specification

from fmmloopy import Fmm, GreensFunction, laplace
from fmmloopy.recipes import shipped_books
from fmmloopy.transforms import inline, steps
from fmmloopy.transforms.inline import InlineFunction


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
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_newton_rsqrt_is_right_wherever_its_seed_is(dtype):
    """The seed's error repeats with every factor of 4; in between, near every other number is one of these."""
    x = np.linspace(1, 4, 100_001, dtype=dtype)
    found = _apply(steps.newton_rsqrt, "1/sqrt(x[i])", x)
    assert np.max(np.abs(found * np.sqrt(x.astype(np.longdouble)) - 1)) <= 1.5 * np.finfo(dtype).eps


def test_half_of_the_lanes_have_roots_by_newton():
    knl = steps.lane_vectors(steps.halve_rsqrt(_p2p(["rinv"])))
    code = lp.generate_code_v2(knl.with_kernel(knl.default_entrypoint)).device_code()
    for lane in range(4):
        (statement,) = [line for line in code.splitlines() if line.strip().startswith(f"rinv.s{lane} =")]
        condition, newton, root = f"{lane} < 2) ? ", f"fmmloopy_rsqrt_f64(r2.s{lane}) : ", f"1.0 / sqrt(r2.s{lane})"
        assert statement.index(condition) < statement.index(newton) < statement.index(root)


def test_halves_need_an_even_number_of_lanes():
    with pytest.raises(ValueError, match="lanes is 3, expected an even number"):
        steps.halve_rsqrt(steps.lane_arrays(specification("p2p").kernel(), 3))


def test_inline_functions_count_as_parts_of_a_kernel():
    """So loopy's cache does not give out code with the text that a function had once."""
    made = [
        lp.register_callable(_p2p(["rinv"]), "f", InlineFunction("f", source)) for source in ("text", "text", "other")
    ]
    keys = [lp.tools.LoopyKeyBuilder()(knl.callables_table) for knl in made]
    assert keys[0] == keys[1] != keys[2]


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


def test_polynomials_leave_other_kernels_alone():
    knl = lp.make_kernel("{[i]: 0 <= i < n}", "y[i] = 1/sqrt(x[i])", lang_version=lp.MOST_RECENT_LANGUAGE_VERSION)
    assert steps.polynomial_exp(knl) is knl
    assert steps.polynomial_sin_cos(knl) is knl


@pytest.mark.skipif(not OPENCL, reason="no OpenCL device")
@pytest.mark.parametrize("function", ["sin", "cos"])
@pytest.mark.parametrize(("dtype", "most"), [(np.float32, 1e4), (np.float64, 1e6)])
def test_polynomial_sin_cos_is_right_to_two_units_in_the_last_place(rng, dtype, most, function):
    x = np.concatenate([rng.uniform(-most, most, 20000), rng.uniform(-7, 7, 20000), [0]]).astype(dtype)
    found = _apply(steps.polynomial_sin_cos, f"{function}(x[i])", x)
    expected = getattr(np, function)(x.astype(np.longdouble))
    eps = np.finfo(dtype).eps  # near zeros, the rounding of the third part of pi / 2 is more
    assert (np.abs(found - expected) <= 2 * eps * np.abs(expected) + most * inline.ANGLES[x.itemsize][3][2] * eps).all()


def test_polynomial_sin_cos_shares_the_argument():
    knl = steps.polynomial_sin_cos(_p2p(["cos(3*r)*rinv", "sin(3*r)*rinv"], ["cos(3*r)", "sin(2*r)"]))
    ids = {insn.id for insn in knl.default_entrypoint.instructions}
    assert {"angle0_cos", "angle0_sin", "angle1_sin"} <= ids
    assert not ids & {"angle1_cos", "angle2_argument"}  # what nothing uses is not computed


def _p2p(*rows, dtype=np.float64):
    return steps.lane_arrays(specification("p2p", GreensFunction("g", rows), types=dtype).kernel(), 4)


def _tests_of_distance(knl):
    """Return the statements that ask whether points coincide."""
    return sorted(i.id for i in knl.default_entrypoint.instructions if "r2 > 0" in str(i.expression))


def test_share_factors_asks_once_whether_points_coincide():
    knl = steps.lane_arrays(specification("p2p", laplace().with_gradient()).kernel(), 4)
    assert _tests_of_distance(knl) == ["sum0", "sum1", "sum2", "sum3"]
    assert _tests_of_distance(steps.share_factors(knl)) == ["rinv_tested"]


@pytest.mark.parametrize(
    "entry",
    ["r", "rinv + d0", "log(r)*rinv", "rinv/(r + r)", "(1 + rinv)*d1", "rinv*exp(d0/(r + r))", "rinv*sin(d0/(r + r))"],
)
def test_share_factors_leaves_the_test_where_a_term_may_not_vanish(entry):
    """At distance zero rinv is 0, but these are not, or are not numbers."""
    knl = steps.polynomial_sin_cos(steps.polynomial_exp(_p2p(["rinv"], [entry])))
    assert "sum0" in _tests_of_distance(steps.share_factors(knl))


@pytest.mark.parametrize(
    "entry", ["rinv", "exp(-r)*rinv", "exp(rinv)*rinv*d0", "cos(r)*sin(r)*rinv", "(rinv + r*rinv)*d1", "rinv**3*d2**2"]
)
def test_share_factors_moves_the_test_where_all_terms_vanish(entry):
    knl = steps.polynomial_sin_cos(steps.polynomial_exp(_p2p([entry])))
    assert "sum0" not in _tests_of_distance(steps.share_factors(knl))


def test_share_factors_makes_products_begin_alike():
    knl = steps.share_factors(steps.lane_arrays(specification("p2p", laplace().with_gradient()).kernel(), 4))
    sums = {i.id: str(i.expression) for i in knl.default_entrypoint.instructions if i.id in ("sum1", "sum2", "sum3")}
    assert len({text.replace(f"u{k}", "u").removesuffix(f"d{int(k) - 1}") for (*_, k), text in sums.items()}) == 1


def test_lane_vectors_need_the_width_of_a_vector():
    with pytest.raises(ValueError, match=r"lanes is 12, expected the width of a vector: 2, 4, 8 or 16"):
        steps.lane_vectors(steps.lane_arrays(specification("p2p").kernel(), 12))


ODD = [
    (("rinv**3*d0**2 + r**2*exp(-r)*(1 + d1)", "log(r)"), ("sin(d0)*rinv", "d1*d2/(1 + r)")),
    # At distance zero exp is not a number, or infinite.
    (("rinv*exp(d0/r)", "rinv"), ("rinv*(d0*rinv)**4", "10*exp(0.1/r)*rinv")),
]


@pytest.mark.filterwarnings("ignore::fmmloopy.bookshelf.certificates.UncertifiedWarning")
@pytest.mark.parametrize(
    ("entries", "book"),
    [
        pytest.param(entries, book, id=f"{book}-{i}", marks=[] if (i + j) % len(ODD) == 0 else slow)
        for i, entries in enumerate(ODD)
        for j, book in enumerate(sorted(shipped_books()))
    ],
)
def test_books_serve_green_s_functions_with_powers_calls_and_several_entries(rng, book, entries):
    """What cannot be a vector is done lane by lane, and the sums are those of the sequential kernels."""
    greens = GreensFunction("odd", entries)
    points, charges = rng.uniform(-1, 1, (300, 3)), rng.uniform(-1, 1, (300, 2))
    found, expected = (
        Fmm(points, kernel=greens, order=3, ncrit=1000, recipes=name).evaluate(charges) for name in (book, "sequential")
    )
    # One leaf, so P2P alone: sums of 300 terms, each right to a few units in the last place.
    assert np.max(np.abs(found - expected)) <= 300 * np.finfo(float).eps * np.max(np.abs(expected))
