"""Other points for the same method: results are those of a new evaluation, and a failed update changes nothing."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import clustered, cube, slow, sphere

import fmmloopy as fl
from fmmloopy.execution.evaluation import Evaluation
from fmmloopy.tables import cache

N = 3000


def anew(fmm, sources, targets=None):
    """Build an evaluation of the same method."""
    return fl.Fmm(
        sources,
        targets,
        fmm.kernel,
        order=fmm.order,
        ncrit=fmm.ncrit,
        m2l=fmm.m2l,
        precision=fmm.precision,
        dtype=fmm.dtype,
        recipes=fmm.recipes,
    )


def assert_same(fmm, new, charges, **wanted):
    """Compare the results of two evaluations, bit by bit."""
    found, expected = (each.evaluate(charges, gradient=True, **wanted) for each in (fmm, new))
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("m2l", ["fft", "svd", "dense"])
@pytest.mark.parametrize("precision", ["double", "reduced"])
def test_results_are_those_of_a_new_evaluation(rng, m2l, precision):
    points = sphere(rng, N)
    charges = rng.standard_normal(N)
    fmm = fl.Fmm(points, order=4, ncrit=30, m2l=m2l, precision=precision)
    fmm.evaluate(charges, gradient=True)
    for step in range(3):
        points = 1.5 * points + 0.1 * rng.standard_normal((N, 3)) + step
        fmm.update(points)
        assert fmm.lists.v.lists.size, "nothing goes through expansions"
        assert_same(fmm, anew(fmm, points), charges)


@pytest.mark.parametrize(
    "kernel",
    [fl.yukawa(2.0), pytest.param(fl.helmholtz(1.0), marks=slow), fl.stokeslet()],
    ids=lambda kernel: kernel.name,
)
def test_other_functions_and_scales(rng, kernel):
    points = cube(rng, N)
    shape = (N,) if kernel.nsource_components in (1, 2) else (N, kernel.nsource_components)
    charges = rng.standard_normal(shape)
    fmm = fl.Fmm(points, kernel=kernel, order=4, ncrit=60, recipes="sequential")
    fmm.evaluate(charges)
    for scale in (1.0, 1.3):  # tables of functions that are not homogeneous are for other radii
        fmm.update(scale * points[::-1])
        assert_same(fmm, anew(fmm, scale * points[::-1]), charges)


def test_float32(rng):
    points = cube(rng, N).astype(np.float32)
    fmm = fl.Fmm(points, order=4, ncrit=40)
    fmm.update(points + 1)
    assert fmm.evaluate(np.ones(N)).dtype == np.float32
    assert_same(fmm, anew(fmm, points + 1), rng.random(N))


def test_other_numbers_of_points_and_targets(rng):
    fmm = fl.Fmm(cube(rng, N), order=3, ncrit=40)
    for nsources, ntargets in ((500, None), (5000, 700), (1, 900), (N, 1), (2000, None)):
        sources = clustered(rng, nsources)
        targets = None if ntargets is None else sphere(rng, ntargets)
        fmm.update(sources, targets)
        assert (fmm.tree.nsources, fmm.tree.ntargets) == (nsources, ntargets or nsources)
        assert_same(fmm, anew(fmm, sources, targets), rng.standard_normal(nsources))


@slow
def test_several_vectors_and_dipoles(rng):
    points, charges = cube(rng, N), rng.standard_normal((N, 3))
    dipoles = rng.standard_normal((N, 3, 3))
    fmm = fl.Fmm(points, order=3, ncrit=60)
    fmm.evaluate(charges, dipoles)
    fmm.update(points**2)
    assert_same(fmm, anew(fmm, points**2), charges, dipoles=dipoles)


def test_near_pairs_go_to_float64_and_back(rng):
    points, charges = cube(rng, N), rng.standard_normal(N)
    fmm = fl.Fmm(points, order=4, ncrit=40, precision="mixed")
    close = points.copy()
    close[1] = close[0] + [1e-13, 0, 0]
    for each in (close, points):
        fmm.update(each)
        assert_same(fmm, anew(fmm, each), charges)
        assert (fmm._evaluation.problem.distance is None) == (each is close)


def test_double_precision_where_the_extent_requires_it(rng):
    points, charges = cube(rng, N), rng.standard_normal(N)
    fmm = fl.Fmm(points, digits=4)
    narrow = fmm.precision
    assert narrow != "double"
    for scale, expected in ((1e40, "double"), (1.0, narrow)):
        fmm.update(scale * points)
        assert fmm.precision == expected
        assert_same(fmm, anew(fmm, scale * points), charges)


def test_given_precision_is_kept_or_refused(rng):
    points = cube(rng, N)
    fmm = fl.Fmm(points, order=4, precision="reduced")
    with pytest.raises(ValueError, match="the extent of the points is .* expected"):
        fmm.update(1e40 * points)


def _bad(points, value):
    points = points.copy()
    points[7, 1] = value
    return points


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.T, r"sources has shape \(3, 3000\), expected \(n, 3\)"),
        (lambda p: p[:0], r"sources has shape \(0, 3\), expected at least one point"),
        (lambda p: _bad(p, np.nan), r"sources\[7\] is .* expected finite numbers"),
        (lambda p: p * 1e200, "expected"),
        (lambda p: 200 * p, "the extent of the points is .* expected at most"),
    ],
    ids=["shape", "none", "nan", "extent", "box width"],
)
def test_a_failed_update_changes_nothing(rng, change, message):
    points, charges = cube(rng, N), rng.standard_normal(N)
    fmm = fl.Fmm(points, kernel=fl.helmholtz(1.0), order=3, ncrit=60)
    before, timings = fmm.evaluate(charges), dict(fmm.timings)
    with pytest.raises(ValueError, match=message):
        fmm.update(change(points))
    assert fmm.timings == timings
    assert np.array_equal(fmm.evaluate(charges), before)


def test_a_failure_while_arrays_are_made_changes_nothing(rng, monkeypatch):
    points, charges = cube(rng, N), rng.standard_normal(N)
    fmm = fl.Fmm(points, order=3, ncrit=60)
    before = fmm.evaluate(charges)

    def fail(*arguments):
        raise fl.DeviceError("no memory")

    with monkeypatch.context() as patched:
        patched.setattr(Evaluation, "prepare", fail)
        with pytest.raises(fl.DeviceError):
            fmm.update(points[::2])
    assert np.array_equal(fmm.evaluate(charges), before)


def test_code_and_tables_are_not_loaded_again(rng, monkeypatch):
    fmm = fl.Fmm(cube(rng, N), order=3, ncrit=60)
    charges = np.ones(N)
    fmm.evaluate(charges, gradient=True)

    def fail(*arguments):
        raise AssertionError("loaded again")

    monkeypatch.setattr("fmmloopy.execution.plan.compile_together", fail)
    monkeypatch.setattr(cache, "_kept", fail)
    fmm.update(2 * cube(rng, N))
    fmm.evaluate(charges, gradient=True)


def test_what_is_reported_is_of_the_new_points(rng):
    fmm = fl.Fmm(cube(rng, N), order=4, ncrit=60)
    fmm.evaluate(np.ones(N))
    fmm.update(cube(rng, 500))
    assert "500 sources" in repr(fmm)
    assert fmm.plan_report().nsources == 500
    assert set(fmm.timings) >= {"tree", "lists", "tables", "setup"}
    with pytest.raises(ValueError, match="charges is None"):
        fmm.estimate_error()
    assert fmm.estimate_error(rng.standard_normal(500)) < 1e-2
    with pytest.raises(ValueError, match=r"charges has shape \(3000,\), expected \(500,\)"):
        fmm.evaluate(np.ones(N))


def test_threads_see_one_set_of_points_or_the_other(rng):
    first, second, charges = cube(rng, N), sphere(rng, N), rng.standard_normal(N)
    fmm = fl.Fmm(first, order=3, ncrit=60)
    fresh = anew(fmm, second)
    allowed = [fmm.evaluate(charges), fresh.evaluate(charges)]
    with ThreadPoolExecutor(4) as pool:
        results = [pool.submit(fmm.evaluate, charges) for _ in range(8)]
        updates = [pool.submit(fmm.update, points) for points in (second, first, second)]
        results += [pool.submit(fmm.evaluate, charges) for _ in range(8)]
    for update in updates:
        update.result()
    for result in results:
        assert any(np.array_equal(result.result(), each) for each in allowed)
    fmm.update(second)  # the last of several that run at once may be any of them
    assert np.array_equal(fmm.evaluate(charges), allowed[1])
