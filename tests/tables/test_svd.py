"""M2L compressed by singular values: factors against matrices, pairs against lists, and what is kept on disk."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from conftest import error
from test_surfaces import GREENS, by_name

import fmmloopy as fl
from fmmloopy.accuracy import svd_tolerance
from fmmloopy.common.sizes import RANKS, TRANSFERS, count_points
from fmmloopy.greens import GreensFunction, laplace, yukawa
from fmmloopy.octree.lists import build_lists
from fmmloopy.octree.tree import build_tree
from fmmloopy.tables import cache as table_cache
from fmmloopy.tables import fft as m2l_tables
from fmmloopy.tables import svd as m2l_svd
from fmmloopy.tables.cache import cached_factors
from fmmloopy.tables.surfaces import INNER, component_sizes, m2l_matrix, transfer_vectors
from fmmloopy.tables.svd import Factors, compress, tiles_of_factors

RADIUS = 0.7
RADIAL = ("laplace", "yukawa", "helmholtz", "twice")


def _order(greens: GreensFunction) -> int:
    """Return a low order: of functions that are not radial, 316 matrices are decomposed."""
    return 4 if greens.name in RADIAL else 3 if greens.ntarget_components == 1 else 2


@pytest.mark.parametrize("greens", GREENS, **by_name)
def test_factors_reproduce_the_matrices(greens: GreensFunction) -> None:
    """What is left out of a matrix is its next singular value, and that is below the tolerance; 1e-14 is rounding.

    All in units of the components' sizes, which are powers of two.
    """
    tolerance, order = 1e-3, _order(greens)
    factors = compress(greens, order, RADIUS, INNER, tolerance)
    assert len(factors.starts) - 1 == (16 if greens.name in RADIAL else 316)
    matrices = {v: m2l_matrix(greens, order, RADIUS, k) for v, k in transfer_vectors()}
    rows, columns = component_sizes(greens, next(iter(matrices.values())))
    matrices = {v: matrix / rows[:, None] / columns for v, matrix in matrices.items()}
    largest = max(np.linalg.norm(matrix, 2) for matrix in matrices.values())
    for v, matrix in matrices.items():
        left, right = factors.of(v)
        left, right = left / rows, right / columns
        values = np.append(np.linalg.svd(matrix, compute_uv=False), 0)
        rank = len(left)
        assert rank == factors.ranks[v] == len(right)
        assert rank % RANKS == 0 or rank == len(values) - 1
        assert values[rank] <= tolerance * largest
        assert rank <= RANKS or values[rank - RANKS] > tolerance * largest
        assert np.linalg.norm(matrix - left.T @ right, 2) <= values[rank] * (1 + 1e-10) + 1e-14 * largest


def test_a_weak_component_is_as_accurate_as_a_strong_one(rng) -> None:
    """One component is 1e-5 of the other, and the tolerance at order 4 is 1.6e-4."""
    weak = GreensFunction("weak", (("rinv", "0*rinv"), ("0*rinv", "1e-5*rinv")), homogeneity=-1)
    points, charges = rng.random((400, 3)), rng.uniform(-1, 1, (400, 2))
    found, expected = (
        fl.Fmm(points, kernel=weak, order=4, ncrit=8, m2l=m2l).evaluate(charges) for m2l in ("svd", "dense")
    )
    for component in range(2):
        # As much as compression may add to the error of the order.
        assert error(found[:, component], expected[:, component]) <= 3e-4


def test_functions_that_are_not_finite_are_refused() -> None:
    growing = GreensFunction("growing", (("exp(800*r)*rinv",),))
    with np.errstate(over="ignore"), pytest.raises(ValueError, match="growing is not finite at distances of about 1"):
        compress(growing, 3, 1.0, INNER, 1e-3)


def test_a_lower_tolerance_keeps_more() -> None:
    ranks = [compress(laplace(), 4, 1.0, INNER, tolerance).ranks for tolerance in (1e-1, 1e-3, 1e-6)]
    assert (np.diff(ranks, axis=0) >= 0).all()
    assert (np.diff(np.sum(ranks, axis=1)) > 0).all()
    adjacent = np.setdiff1d(np.arange(TRANSFERS), [v for v, _ in transfer_vectors()])
    assert not ranks[-1][adjacent].any()


def test_tolerances_follow_the_order() -> None:
    double, single = ([svd_tolerance(order, np.dtype(t)) for order in range(2, 17)] for t in ("float64", "float32"))
    assert np.all(np.diff(double) < 0)
    # What single precision cannot resolve need not be kept.
    assert single[:4] == double[:4]
    assert min(single) >= np.finfo(np.float32).eps


@pytest.mark.parametrize("greens", GREENS, **by_name)
def test_tiles_hold_the_factors_and_zeros(greens: GreensFunction) -> None:
    npoints, nsurface = count_points(_order(greens)), 64
    factors = compress(greens, _order(greens), RADIUS, INNER, 1e-2)
    starts, right, left = tiles_of_factors(factors, nsurface)
    assert starts[-1] == len(left) == len(right)
    for v in range(TRANSFERS):
        here = slice(starts[v], starts[v + 1])
        whole = right[here].swapaxes(1, 2), left[here]
        for tiles, factor in zip(whole, factors.of(v)[::-1], strict=True):
            values = tiles.reshape(-1, tiles.shape[2] // nsurface, nsurface)
            assert np.array_equal(values[: len(factor), :, :npoints].reshape(factor.shape), factor)
            assert not values[len(factor) :].any()
            assert not values[..., npoints:].any()
            assert len(values) < len(factor) + RANKS


@pytest.mark.parametrize("chunk", [1, 7, 256])
def test_pairs_are_the_entries_of_the_lists(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(m2l_tables, "FEWEST_TARGETS", chunk)
    monkeypatch.setattr(m2l_tables, "MOST_TARGETS", chunk)
    rng = np.random.default_rng(3)
    tree = build_tree(rng.standard_normal((600, 3)) * 10.0 ** rng.uniform(-2, 0, (600, 1)), None, 8)
    lists = build_lists(tree)
    boxes = np.flatnonzero(lists.v.lengths)[2:]
    pairs = m2l_tables.find_box_pairs(lists, boxes)
    assert pairs.nchunks == -(-len(boxes) // chunk)
    assert pairs.starts[-1] == len(pairs.targets) == len(pairs.sources)
    found = []
    for group, (start, end) in enumerate(itertools.pairwise(pairs.starts)):
        targets = pairs.targets[start:end]
        assert len(set(targets)) == len(targets)
        assert set(targets) <= set(boxes[group // TRANSFERS * chunk :][:chunk])
        found += [(t, s, group % TRANSFERS) for t, s in zip(targets, pairs.sources[start:end], strict=True)]
    expected = [
        (box, lists.v.lists[entry], lists.v_transfers[entry])
        for box in boxes
        for entry in range(lists.v.starts[box], lists.v.starts[box + 1])
    ]
    assert sorted(found) == sorted(expected)


def test_a_function_that_underflows_keeps_nothing() -> None:
    """At a decay of 1e4 all that is apart is 0, and what is near is P2P's."""
    rng = np.random.default_rng(2)
    points, charges, kernel = rng.random((1000, 3)), rng.random(1000), yukawa(1e4)
    starts, right, left = tiles_of_factors(compress(kernel, 3, RADIUS, INNER, 1e-3), 32)
    assert not starts.any()
    assert right.shape == (0, 32, 8)
    assert left.shape == (0, 8, 32)
    fft, svd = (fl.Fmm(points, kernel=kernel, order=3, ncrit=20, m2l=m2l).evaluate(charges) for m2l in ("fft", "svd"))
    assert np.array_equal(fft, svd)


# -- the cache


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list:
    """Count what is made: one entry for each call of compress by the cache."""
    calls: list = []

    def counted(*arguments: object) -> Factors:
        calls.append(arguments)
        return m2l_svd.compress(*arguments)

    monkeypatch.setattr(table_cache, "compress", counted)
    return calls


@pytest.mark.parametrize("greens", GREENS, **by_name)
def test_the_cache_reads_back_every_bit(greens: GreensFunction, tmp_path: Path, made: list) -> None:
    built = cached_factors(greens, 2, RADIUS, INNER, 1e-2, tmp_path)
    read = cached_factors(greens, 2, RADIUS, INNER, 1e-2, tmp_path)
    assert len(made) == 1
    for name, value in vars(built).items():
        np.testing.assert_array_equal(value, getattr(read, name), err_msg=name)
        assert value.dtype == getattr(read, name).dtype
    assert not any(f.left.flags.writeable or f.right.flags.writeable for f in (built, read))


def test_the_cache_tells_requests_apart(tmp_path: Path, made: list) -> None:
    requests = [
        (laplace(), 3, RADIUS, INNER, 1e-2),
        (laplace(), 2, RADIUS, INNER, 1e-2),
        (laplace(), 3, RADIUS, 1.1, 1e-2),
        (laplace(), 3, RADIUS, INNER, 1e-3),
        (yukawa(), 3, RADIUS, INNER, 1e-2),
        (yukawa(), 3, RADIUS / 2, INNER, 1e-2),
    ]
    for count, request in enumerate(requests, 1):
        cached_factors(*request, tmp_path)
        assert len(made) == len(list(tmp_path.iterdir())) == count


def test_a_damaged_file_is_made_again(tmp_path: Path, made: list) -> None:
    built = cached_factors(laplace(), 3, RADIUS, INNER, 1e-2, tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-8])
    again = cached_factors(laplace(), 3, RADIUS, INNER, 1e-2, tmp_path)
    assert len(made) == 2
    np.testing.assert_array_equal(built.left, again.left)
