"""Surfaces and translation tables against the direct sum.

The chains apply the tables in plain numpy the way the driver does: no operator kernel has a part in them.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from conftest import STOKES, helmholtz

from fmmloopy.direct import direct
from fmmloopy.greens import GreensFunction, laplace, yukawa
from fmmloopy.kernels import kelvin
from fmmloopy.tables.surfaces import (
    INNER,
    OUTER,
    Tables,
    box_factors,
    build_tables,
    greens_matrix,
    m2l_matrices,
    m2l_matrix,
    m2l_spectrum,
    octant_offset,
    pseudo_inverse,
    resolved_tolerance,
    surface_grid,
    surface_points,
    transfer_vectors,
)

# Advection and diffusion: not even, so that upward and downward matrices are not each other's transpose.
WIND = GreensFunction("wind", (("exp(speed*(d0-r))*rinv",),), {"speed": 0.75})
# More target than source components: the pseudo-inverses are rectangular.
TWICE = GreensFunction("twice", (("rinv",), ("2*rinv",)), homogeneity=-1)

GREENS = [laplace(), yukawa(), STOKES, helmholtz(1.0), WIND, TWICE]
by_name = {"ids": lambda greens: greens.name}

HALF_WIDTH = 1.25
RADII = tuple(HALF_WIDTH / 2**level for level in range(2))
ORDERS = (3, 5, 7)
STAGES = ("p2m", "m2m", "m2l", "l2l")


@cache
def tables_by_name(name: str, order: int, dtype: str) -> Tables:
    (greens,) = (greens for greens in GREENS if greens.name == name)
    return build_tables(greens, order, RADII, dtype)


def chain_error(greens: GreensFunction, order: int, stage: str, dtype: str = "float64", tables: str = "") -> float:
    """Return the relative error of the potential, by chains that go one translation further with each stage.

    p2m: P2M, M2P from the leaf; m2m: P2M, M2M, M2P from the leaf's parent; m2l: then M2L, L2P from the target's parent;
    l2l: then M2L, L2L, L2P. Parents are on level 0, leaves on level 1. All is done in ``dtype``, with tables made for
    ``tables`` (the same where empty). The root mean square over three pairs of boxes, 60 sources and 50 targets each.
    """
    table = tables_by_name(greens.name, order, tables or dtype)
    radius, half = RADII
    degree = greens.homogeneity

    def at(level: int) -> int:
        return level if degree is None else 0

    def inverse_scale(level: int) -> float:
        return 1.0 if degree is None else RADII[level] ** -degree

    def in_dtype(array: np.ndarray) -> np.ndarray:
        return array.astype(dtype)

    def potential(targets: np.ndarray, sources: np.ndarray, charges: np.ndarray) -> np.ndarray:
        d = in_dtype(targets)[:, :, None] - in_dtype(sources)[:, None, :]
        components = charges.reshape(greens.nsource_components, -1)
        return np.einsum("cdts,ds->ct", greens.evaluate(d), components).ravel()

    def solve(way: str, level: int, check: np.ndarray) -> np.ndarray:
        first, second = (getattr(table, f"{way}_{part}")[at(level)] for part in ("first", "second"))
        return in_dtype(second * inverse_scale(level)) @ (in_dtype(first) @ check)

    errors = []
    for seed, (k, source_octant, target_octant) in enumerate(
        [((2, 0, 0), 0, 1), ((-3, 1, 2), 5, 2), ((0, -2, 1), 6, 7)]
    ):
        rng = np.random.default_rng(seed)
        # Everything relative to the target's parent at 0.
        parent = 2 * radius * np.array(k, float)[:, None]
        leaf, target = parent + half * octant_offset(source_octant), half * octant_offset(target_octant)
        sources = leaf + half * rng.uniform(-1, 1, (3, 60))
        targets = target + half * rng.uniform(-1, 1, (3, 50))
        charges = rng.uniform(0.1, 1, (greens.nsource_components, 60))
        equivalent = solve(
            "upward", 1, potential(leaf + table.outer * half * table.surface, sources, in_dtype(charges))
        )
        points = leaf + table.inner * half * table.surface
        if stage != "p2m":
            equivalent = in_dtype(table.m2m[at(0), source_octant]) @ equivalent
            points = parent + table.inner * radius * table.surface
        if stage in ("m2l", "l2l"):
            check = in_dtype(m2l_matrix(greens, order, radius, k)) @ equivalent
            equivalent = solve("downward", 0, check)
            points = table.outer * radius * table.surface
        if stage == "l2l":
            equivalent = in_dtype(table.l2l[at(0), target_octant]) @ equivalent
            points = target + table.outer * half * table.surface
        found = potential(targets, points, equivalent)
        exact = np.transpose(direct(sources.T, charges.T, targets.T, greens)).ravel()
        assert found.dtype == dtype
        errors.append(np.linalg.norm(found - exact) / np.linalg.norm(exact))
    return float(np.sqrt(np.mean(np.square(errors))))


@pytest.mark.parametrize("order", range(2, 17))
def test_surface_is_the_boundary_of_the_grid(order: int) -> None:
    grid, points = surface_grid(order), surface_points(order)
    assert grid.dtype == np.int32
    assert grid.shape == points.shape == (3, 6 * (order - 1) ** 2 + 2)
    keys = grid[0] * order**2 + grid[1] * order + grid[2]
    assert (np.diff(keys) > 0).all(), "lexicographic, axis 0 slowest, no point twice"
    assert grid.min() == 0
    assert grid.max() == order - 1
    np.testing.assert_array_equal(np.abs(points).max(axis=0), 1.0)
    # The boundary is its own mirror image, to the last bit.
    np.testing.assert_array_equal(points, -points[:, ::-1])


def test_surface_of_order_2_by_hand() -> None:
    expected = [[-1, -1, -1, -1, 1, 1, 1, 1], [-1, -1, 1, 1, -1, -1, 1, 1], [-1, 1, -1, 1, -1, 1, -1, 1]]
    np.testing.assert_array_equal(surface_points(2), expected)


def test_transfer_vectors_are_the_316_that_are_not_adjacent() -> None:
    vectors = list(transfer_vectors())
    assert len(vectors) == 316
    indices = [index for index, _ in vectors]
    assert indices == sorted(set(indices))
    for index, (k0, k1, k2) in vectors:
        assert index == (k0 + 3) + 7 * (k1 + 3) + 49 * (k2 + 3)
        assert 2 <= max(abs(k0), abs(k1), abs(k2)) <= 3


CHAINS = [(greens, stage) for stage in STAGES for greens in GREENS]


@pytest.mark.parametrize(("greens", "stage"), CHAINS, ids=[f"{greens.name}-{stage}" for greens, stage in CHAINS])
def test_chain_converges_with_order(greens: GreensFunction, stage: str) -> None:
    errors = [chain_error(greens, order, stage) for order in ORDERS]
    digits_per_order = -np.polyfit(ORDERS, np.log10(errors), 1)[0]
    # 0.86 to 1.1 were measured over all functions and stages; a wrong octant, scale or component does not converge.
    assert digits_per_order > 0.75, errors
    # Four times the worst stage measured: 2.6e-3, 2.3e-5, 4.3e-7 for Laplace, 3.7e-2, 4.7e-4, 9.9e-6 for the others,
    # whose length scale of about a box makes far fields smaller than the near ones that set the absolute error;
    # Stokes has 1.7e-2, 8.1e-4, 7.1e-6.
    limits = (1e-2, 1e-4, 1.8e-6) if greens.name in ("laplace", "twice") else (0.15, 2e-3, 4e-5)
    assert all(error < limit for error, limit in zip(errors, limits, strict=True)), errors


@pytest.mark.parametrize("greens", GREENS, **by_name)
def test_shapes_and_immutability(greens: GreensFunction) -> None:
    table = tables_by_name(greens.name, 4, "float64")
    ntables = 1 if greens.homogeneity is not None else len(RADII)
    n = table.npoints
    rows, columns = n * greens.ntarget_components, n * greens.nsource_components
    assert (table.order, n, table.inner, table.outer) == (4, 56, 1.05, 2.95)
    np.testing.assert_array_equal(table.radii, [1.0] if ntables == 1 else RADII)
    for way in ("upward", "downward"):
        assert getattr(table, f"{way}_first").shape == (ntables, min(rows, columns), rows)
        assert getattr(table, f"{way}_second").shape == (ntables, columns, min(rows, columns))
    assert table.m2m.shape == table.l2l.shape == (ntables, 8, columns, columns)
    for value in vars(table).values():
        if isinstance(value, np.ndarray):
            assert value.dtype == np.float64
            assert value.flags.c_contiguous
            assert not value.flags.writeable


def test_the_last_level_is_as_good_as_if_there_were_another() -> None:
    short, long = build_tables(yukawa(), 3, RADII[:1]), build_tables(yukawa(), 3, RADII[:2])
    np.testing.assert_array_equal(short.l2l[0], long.l2l[0])
    np.testing.assert_array_equal(short.m2m[0], long.m2m[0])


def test_homogeneous_scaling_equals_tables_at_each_radius() -> None:
    plain = GreensFunction("laplace", laplace().matrix, scaling=laplace().scaling, homogeneity=None)
    per_level, once = build_tables(plain, 4, RADII), build_tables(laplace(), 4, RADII)
    check = np.random.default_rng(0).random(once.npoints)
    for level, radius in enumerate(RADII):
        for way in ("upward", "downward"):
            one = getattr(once, f"{way}_second")[0] @ (getattr(once, f"{way}_first")[0] @ check) * radius
            other = getattr(per_level, f"{way}_second")[level] @ (getattr(per_level, f"{way}_first")[level] @ check)
            # The matrix of order 4 has condition 1e5, times eps: 1e-11 with a margin of a few.
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-10 * np.abs(other).max())
        np.testing.assert_allclose(per_level.m2m[level], once.m2m[0], rtol=0, atol=1e-10 * np.abs(once.m2m).max())
        np.testing.assert_allclose(per_level.l2l[level], once.l2l[0], rtol=0, atol=1e-10 * np.abs(once.l2l).max())


@pytest.mark.parametrize("greens", GREENS[:2], **by_name)
@pytest.mark.parametrize("order", [6, 8])
def test_float32_tables_reach_single_precision(greens: GreensFunction, order: int) -> None:
    # A chain in float32 loses some ten roundings of 6e-8 on top of what the order costs.
    limit = chain_error(greens, order, "l2l") + 6e-7
    assert chain_error(greens, order, "l2l", "float32") < limit


def test_float32_needs_its_own_truncation() -> None:
    # With float64's, singular values below float32's rounding are inverted: 1e-4 instead of 2e-7 was measured.
    right, wrong = (chain_error(laplace(), 10, "l2l", "float32", tables) for tables in ("float32", "float64"))
    assert wrong > 10 * right


@pytest.mark.parametrize(("greens", "most"), [(laplace(), 2.0), (STOKES, 30.0)], ids=["laplace", "stokes"])
@pytest.mark.parametrize("order", [5, 6, 7])
def test_densities_stay_as_large_as_the_charges(greens: GreensFunction, most: float, order: int) -> None:
    """Nothing is fitted that the check points do not resolve: Stokes' densities at order 7 were 1e5 with it."""
    table = tables_by_name(greens.name, order, "float64")
    rng = np.random.default_rng(0)
    sources, charges = RADII[0] * (4 + rng.uniform(-1, 1, (3, 60))), rng.uniform(-1, 1, 60 * greens.nsource_components)
    check = greens_matrix(greens, table.inner * RADII[0] * table.surface, sources) @ charges
    densities = RADII[0] * table.downward_second[0] @ (table.downward_first[0] @ check)
    assert np.abs(densities).max() <= most * np.abs(charges).max()


def test_unresolved_vectors_are_dropped_with_all_after_them() -> None:
    s = np.array([4.0, 2.0, 1.0, 0.5])
    for between, expected in (([4.0, 2, 1, 0.5], 0.0), ([4.0, 2, 3.5, 0.5], 0.25), ([13.0, 2, 1, 0.5], 1.0)):
        # Twice the rows with the same fields have the same root mean square.
        fields = np.vstack([np.diag(between)] * 2)
        assert resolved_tolerance(s, fields, nrows=4) == pytest.approx(expected, rel=1e-5)
    assert resolved_tolerance(np.zeros(2), np.zeros((2, 2)), nrows=2) == 0


@pytest.mark.parametrize("angle", [0.0, 0.3, 0.7])
@pytest.mark.parametrize(("size", "is_kept"), [(3.5, True), (5.0, False)])
def test_equal_singular_values_are_kept_or_dropped_together(angle: float, size: float, is_kept: bool) -> None:
    """Any basis of their space is as good as another, and rounding makes one of the values the largest."""
    s = np.array([4.0, 1.0 + 1e-15, 1.0, 0.1])
    basis = np.eye(4)
    basis[1:3, 1:3] = [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
    fields = np.diag([4.0, size, 1.0, 0.1]) @ basis  # of two unit vectors, one is resolved in one basis
    tolerance = resolved_tolerance(s, fields, nrows=4)
    assert list(s / s[0] > tolerance) == ([True] * 4 if is_kept else [True, False, False, False])


@pytest.mark.parametrize("order", [3, 4])
def test_inverses_do_not_depend_on_rounding(order: int) -> None:
    """Kelvin's function at order 4 had 2.5 times the error if its scaling made other values the largest."""
    one, other = kelvin(), kelvin(3.0)
    for a, b in zip(*(box_factors(f, order, 1.0, INNER, OUTER, "float64") for f in (one, other)), strict=True):
        np.testing.assert_allclose(a[1] @ a[0] * one.scaling, b[1] @ b[0] * other.scaling, rtol=1e-6, atol=1e-9)


def test_pseudo_inverse_solves_and_truncates() -> None:
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(7, 4))
    for a in (matrix, matrix.T):
        first, second = pseudo_inverse(a)
        np.testing.assert_allclose(second @ first, np.linalg.pinv(a), rtol=0, atol=1e-13)
    diagonal = np.diag([1.0, 1e-5, 1e-9, 1e-17])
    for dtype, expected in ((np.float64, [1, 1e5, 1e9, 0]), (np.float32, [1, 1e5, 0, 0])):
        first, second = pseudo_inverse(diagonal, dtype)
        np.testing.assert_allclose(np.diag(second @ first), expected, rtol=1e-14)
    with pytest.raises(ValueError, match="dtype is int32, expected float32 or float64"):
        pseudo_inverse(diagonal, np.int32)


@pytest.mark.parametrize("decay", [30.0, 100.0, 250.0, 1e4])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.filterwarnings("error")
def test_underflow_gives_finite_tables(decay: float, dtype: type) -> None:
    table = build_tables(yukawa(decay), 4, (1.0, 0.5), dtype)
    for name in ("upward_second", "downward_second", "m2m", "l2l"):
        assert np.isfinite(getattr(table, name).astype(dtype)).all()
    if decay == 1e4:
        # exp(-1e4 * 1.9 / 2) is zero in float64: nothing is transferred, which is right to all digits.
        assert not table.upward_second.any()
        assert not table.m2m.any()
    assert np.isfinite(m2l_spectrum(yukawa(decay), 3, 1.0)).all()


@pytest.mark.parametrize("order", [2, 3, 5, 6])
@pytest.mark.parametrize("greens", GREENS, **by_name)
def test_spectrum_convolves_as_the_matrices_do(greens: GreensFunction, order: int) -> None:
    radius, inner, size = 0.3, 1.1, 2 * order - 1
    spectrum = m2l_spectrum(greens, order, radius, inner)
    rows, columns = greens.ntarget_components, greens.nsource_components
    assert spectrum.shape == (343, rows, columns, size, size, order)
    grid = tuple(surface_grid(order))
    npoints = len(grid[0])
    charges = np.random.default_rng(order).normal(size=(columns, npoints))
    padded = np.zeros((columns, size, size, size))
    padded[:, *grid] = charges
    transformed = np.fft.rfftn(padded, axes=(1, 2, 3))
    everything = np.fft.irfftn(
        np.einsum("vrcxyz,cxyz->vrxyz", spectrum, transformed), s=(size, size, size), axes=(2, 3, 4)
    )
    potentials = everything[:, :, *grid].reshape(343, -1)
    dense = m2l_matrices(greens, order, radius, inner)
    expected = dense @ charges.ravel()
    # eps times the few passes of a transform, relative to the largest potential.
    np.testing.assert_allclose(potentials, expected, rtol=0, atol=1e-13 * np.abs(dense).max() * npoints)
    far = {index for index, _ in transfer_vectors()}
    adjacent = [index for index in range(343) if index not in far]
    assert len(adjacent) == 27
    assert not spectrum[adjacent].any()
    assert not dense[adjacent].any()
    assert all(dense[index].any() and spectrum[index].any() for index in far)


@pytest.mark.parametrize("greens", GREENS, **by_name)
def test_m2l_matrix_is_what_the_direct_sum_says(greens: GreensFunction) -> None:
    radius, k = 0.4, (3, -2, 1)
    surface = 1.05 * radius * surface_points(3)
    source = surface + 2 * radius * np.array(k)[:, None]
    charges = np.random.default_rng(5).normal(size=(greens.nsource_components, surface.shape[1]))
    expected = np.transpose(direct(source.T, charges.T, surface.T, greens)).ravel()
    found = m2l_matrix(greens, 3, radius, k) @ charges.ravel()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13 * np.abs(expected).max())
    single = m2l_matrices(greens, 3, radius, dtype=np.float32)
    assert single.dtype == np.float32
    np.testing.assert_array_equal(single[6 + 7 * 1 + 49 * 4], m2l_matrix(greens, 3, radius, k).astype(np.float32))


def test_greens_matrix_is_component_major() -> None:
    targets, sources = np.array([[0.0, 1], [0, 0], [0, 0]]), np.array([[0.0, 0, 0], [2, 3, 4], [0, 0, 1]])
    matrix = greens_matrix(STOKES, targets, sources)
    assert matrix.shape == (6, 9)
    block = STOKES.evaluate(targets[:, 1] - sources[:, 2])
    np.testing.assert_array_equal(matrix[1::2, 2::3], block)


@pytest.mark.parametrize("order", [1, 17, 0, -3, 4.0, "6", None, True])
def test_bad_order_is_refused(order: object) -> None:
    message = f"order is {order!r}, expected an integer from 2 to 16"
    for function in (surface_grid, surface_points, lambda order: build_tables(laplace(), order, [1.0])):
        with pytest.raises(ValueError, match=message):
            function(order)
    assert surface_grid(np.int64(3)).shape == (3, 26)


@pytest.mark.parametrize(("inner", "outer"), [(1.0, 2.95), (1.05, 3.0), (2.0, 1.5), (1.5, 1.5), (float("nan"), 2.0)])
def test_bad_surface_radii_are_refused(inner: float, outer: float) -> None:
    message = f"inner is {inner}, outer is {outer}, expected 1 < inner < outer < 3; the defaults 1.05 and 2.95 suit"
    with pytest.raises(ValueError, match=message):
        build_tables(laplace(), 4, [1.0], inner=inner, outer=outer)


@pytest.mark.parametrize("radii", [[], [0.0], [-1.0], [float("inf")], [[1.0, 0.5]], [1.0, 0.25]])
def test_bad_radii_are_refused(radii: list) -> None:
    for greens in (laplace(), yukawa()):
        with pytest.raises(ValueError, match=r"radii is .* expected"):
            build_tables(greens, 4, radii)


def test_other_refusals() -> None:
    with pytest.raises(ValueError, match=r"k is \(1, 0, -1\), expected three integers with 2 <= max|k| <= 3"):
        m2l_matrix(laplace(), 4, 1.0, (1, 0, -1))
    with pytest.raises(ValueError, match="dtype is float16, expected float32 or float64"):
        build_tables(laplace(), 4, [1.0], np.float16)
    growing = GreensFunction("growing", (("exp(r)*rinv",),))
    with pytest.raises(ValueError, match="growing is not finite at distances of about 800"):
        build_tables(growing, 2, [800.0])
    pole = GreensFunction("pole", "1/(d0 - 4)")
    with np.errstate(all="raise"), pytest.raises(ValueError, match="pole is not finite at distances of about 2.0"):
        m2l_spectrum(pole, 3, 2.0)
