"""Counts of work, against counting one by one on small trees, and against loopy's own count of the kernels."""

from __future__ import annotations

import itertools
import warnings
from dataclasses import replace

import loopy as lp
import numpy as np
import pytest
from conftest import specification

from fmmloopy.accuracy import svd_tolerance
from fmmloopy.choosing.work import (
    CALL_EFFORT,
    Work,
    count_work,
    effort_per_pair,
    flops_per_pair,
    mean_list_sizes,
)
from fmmloopy.execution.setup import Method
from fmmloopy.greens import GreensFunction, laplace, yukawa
from fmmloopy.octree.lists import CSR, build_lists
from fmmloopy.octree.tree import build_tree
from fmmloopy.precision import find_precision
from fmmloopy.tables.surfaces import INNER
from fmmloopy.tables.svd import compress

ORDER = 3
NPOINTS = 26

TWO_BY_THREE = GreensFunction("two_by_three", (("rinv", "r", "d0"), ("d1*d2", "rinv", "1 + r")))
TWO_BY_ONE = GreensFunction("two_by_one", (("rinv",), ("2*rinv",)), homogeneity=-1)
GREENS = pytest.mark.parametrize("greens", [laplace(), yukawa(), TWO_BY_THREE], ids=lambda greens: greens.name)


def _clustered(rng, n):
    return rng.standard_normal((n, 3)) * 10.0 ** rng.uniform(-2, 0, (n, 1))


def _sphere(rng, n):
    points = rng.standard_normal((n, 3))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def _trees():
    rng = np.random.default_rng(7)
    return {
        "clustered": build_tree(_clustered(rng, 400), None, 5),
        "separate": build_tree(_clustered(rng, 300), _sphere(rng, 200), 4),
        "sphere": build_tree(_sphere(rng, 300), None, 9),
        "two levels": build_tree(rng.random((30, 3)), None, 10),
        "one leaf": build_tree(rng.random((5, 3)), None, 10),
    }


TREES = pytest.mark.parametrize("tree", _trees().values(), ids=_trees().keys())


def _sources(tree, box):
    return int(tree.box_source_ends[box] - tree.box_source_starts[box])


def _targets(tree, box):
    return int(tree.box_target_ends[box] - tree.box_target_starts[box])


def _entries(csr):
    """Yield every (row, entry) of a list."""
    for row, (start, end) in enumerate(itertools.pairwise(csr.starts)):
        for entry in csr.lists[start:end]:
            yield row, entry


def _octets(tree, count):
    """Return the boxes from level 1 with a child that has points, and how many such children each has."""
    octets = {}
    for parent in range(tree.nboxes):
        wanted = [child for child in tree.box_children[parent] if child >= 0 and count(tree, child)]
        if wanted and tree.box_levels[parent] >= 1:
            octets[parent] = len(wanted)
    return octets


def _octet_pairs(tree):
    """Return all (target octet, source octet) that are adjacent and not the same."""
    pairs = []
    for target, source in itertools.product(_octets(tree, _targets), _octets(tree, _sources)):
        apart = np.abs(tree.box_anchors[:, target] - tree.box_anchors[:, source]).max()
        if tree.box_levels[target] == tree.box_levels[source] and apart == 1:
            pairs.append((target, source))
    return pairs


def _arithmetic(operator, greens, **sizes):
    """Count the operations of a kernel on real numbers with loopy."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        counts = lp.get_op_map(specification(operator, greens, ORDER).kernel(), subgroup_size=1)
    return counts.filter_by(dtype=[np.float64]).eval_and_sum(sizes)


@TREES
@GREENS
def test_particle_operators(tree, greens):
    lists = build_lists(tree)
    work = count_work(tree, lists, Method(greens, ORDER))
    leaves = [b for b in range(tree.nboxes) if tree.is_leaf[b] and tree.box_levels[b] >= 2]
    pairs = {
        "p2p": sum(_targets(tree, b) * _sources(tree, c) for b, c in _entries(lists.u)),
        "p2m": sum(NPOINTS * _sources(tree, b) for b in leaves),
        "p2l": sum(NPOINTS * _sources(tree, c) for _, c in _entries(lists.x)),
        "l2p": sum(NPOINTS * _targets(tree, b) for b in leaves),
        "m2p": sum(NPOINTS * _targets(tree, b) for b, _ in _entries(lists.w)),
    }
    assert {name: work[name] for name in pairs} == {
        name: Work(count, count * flops_per_pair(greens)) for name, count in pairs.items()
    }


def test_p2p_covers_all_pairs_of_one_leaf():
    tree = _trees()["one leaf"]
    work = count_work(tree, build_lists(tree), Method(laplace(), ORDER))
    assert work.pop("p2p") == Work(25, 25 * 12)
    assert set(work.values()) == {Work(0, 0)}


def test_a_gradient_costs_more_at_targets_only():
    tree = _trees()["clustered"]
    lists = build_lists(tree)
    plain, gradient = (count_work(tree, lists, Method(laplace(), ORDER), gradient=g) for g in (False, True))
    assert {name for name in plain if plain[name] != gradient[name]} == {"p2p", "l2p", "m2p"}
    assert all(plain[name].pairs == gradient[name].pairs for name in plain)


@TREES
@GREENS
def test_dense_products(tree, greens):
    rows, columns = greens.ntarget_components * NPOINTS, greens.nsource_components * NPOINTS
    lists = build_lists(tree)
    work = count_work(tree, lists, Method(greens, ORDER), m2l="dense")
    expected = dict.fromkeys(("m2m", "l2l", "m2l", "check_to_equivalent"), 0)
    for box in range(tree.nboxes):
        for operator, count in (("m2m", _sources), ("l2l", _targets)):
            if tree.box_levels[box] >= 3 and count(tree, box):
                expected[operator] += 2 * columns * columns
        upward = bool(tree.is_leaf[box] and _sources(tree, box))
        downward = bool(_targets(tree, box))
        if tree.box_levels[box] >= 2:
            middle = min(rows, columns)
            expected["check_to_equivalent"] += (upward + downward) * (2 * middle * rows + 2 * columns * middle)
    expected["m2l"] = sum(2 * rows * columns for _ in _entries(lists.v))
    assert {name: work[name] for name in expected} == {name: Work(0, count) for name, count in expected.items()}


@TREES
@GREENS
def test_transforms_are_counted_as_loopy_counts_them(tree, greens):
    work = count_work(tree, build_lists(tree), Method(greens, ORDER))
    pairs = _octet_pairs(tree)
    sources, targets = {source for _, source in pairs}, {target for target, _ in pairs}
    sizes = {"kz_start": 0, "kz_end": ORDER, "npoints": NPOINTS}
    forward = _arithmetic("m2l_forward", greens, noctets=1, **sizes)
    inverse = _arithmetic("m2l_inverse", greens, noctets=1, **sizes)
    # Children that are not there have no check potentials: loopy counts their scale and sum, they are not done.
    children = _octets(tree, _targets)
    absent = sum(8 - children[target] for target in targets) * 2 * NPOINTS * greens.ntarget_components
    assert work["m2l_forward"] == Work(0, len(sources) * forward)
    assert work["m2l_inverse"] == Work(0, len(targets) * inverse - absent)


@TREES
@GREENS
def test_hadamard_products(tree, greens):
    multiply_add, accumulate = 8, 2  # operations on real numbers: complex product and sum; complex sum
    flops = 0
    for _ in _octet_pairs(tree):
        for _row, _child in itertools.product(range(greens.ntarget_components), range(8)):
            flops += greens.nsource_components * 8 * multiply_add + accumulate
    work = count_work(tree, build_lists(tree), Method(greens, ORDER))
    assert work["m2l_hadamard"] == Work(0, flops * ORDER * (2 * ORDER - 1) ** 2)


@pytest.mark.parametrize(
    ("greens", "flops"),
    [
        (laplace(), 3 + 5 + 2 + 2),
        # r = r2*rinv, then exp(-1*decay*r)*rinv: two products, exp, one product; the charge.
        (yukawa(), 3 + 5 + 2 + 1 + 4 + 2),
        (GreensFunction("one", (("1",),)), 3 + 5 + 2),
        (TWO_BY_THREE, 3 + 5 + 2 + 1 + 6 * 2 + 1 + 1),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_flops_per_pair(greens, flops):
    assert flops_per_pair(greens) == flops


@TREES
@pytest.mark.parametrize("greens", [laplace(), yukawa(), TWO_BY_ONE], ids=lambda greens: greens.name)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_compressed_m2l(tree, greens, dtype):
    lists = build_lists(tree)
    work = count_work(tree, lists, Method(greens, ORDER, find_precision(dtype)), m2l="svd")
    ranks = {
        level: compress(greens, ORDER, tree.half_width / 2**level, INNER, svd_tolerance(ORDER, np.dtype(dtype))).ranks
        for level in range(2, tree.nlevels)
    }
    rows, columns = greens.ntarget_components * NPOINTS, greens.nsource_components * NPOINTS
    expected = sum(
        2 * (rows + columns) * ranks[tree.box_levels[box]][transfer]
        for (box, _), transfer in zip(_entries(lists.v), lists.v_transfers, strict=True)
    )
    assert work["m2l_svd"] == Work(0, expected)
    assert {name for name in work if name.startswith("m2l")} == {"m2l_svd"}


@TREES
def test_mean_list_sizes(tree):
    lists = build_lists(tree)
    sizes = mean_list_sizes(tree, lists)
    assert list(sizes) == ["u", "v", "w", "x"]
    with_targets = [b for b in range(tree.nboxes) if _targets(tree, b)]
    boxes = {
        "near": [b for b in with_targets if tree.is_leaf[b]],
        "far": [b for b in with_targets if tree.box_levels[b] >= 2],
    }
    for name, kind in zip("uvwx", ("near", "far", "near", "far"), strict=True):
        entries = sum(row in boxes[kind] for row, _ in _entries(getattr(lists, name)))
        assert sizes[name] == pytest.approx(entries / max(len(boxes[kind]), 1))


def test_levels_without_entries_of_v_need_no_factors(monkeypatch):
    """Twenty levels, with tables of their own each, of which none is wanted."""
    monkeypatch.setattr("fmmloopy.choosing.work.cached_factors", None)
    tree = build_tree(np.array([[0.0, 0, 0], [1, 1, 1], [2.0**-20] * 3]), None, 1)
    lists = build_lists(tree)
    assert tree.nlevels > 15
    v = CSR(np.zeros_like(lists.v.starts), lists.v.lists[:0])
    empty = replace(lists, v=v, v_transfers=lists.v_transfers[:0])
    work = count_work(tree, empty, Method(yukawa(), ORDER), m2l="svd")
    assert work["m2l_svd"] == Work(0, 0)


def test_m2l_is_checked():
    tree = _trees()["one leaf"]
    with pytest.raises(ValueError, match="m2l is 'qr', expected 'fft' or 'svd' or 'dense'"):
        count_work(tree, build_lists(tree), Method(laplace(), ORDER), m2l="qr")


@pytest.mark.parametrize(
    ("greens", "effort"),
    [
        (laplace(), 11 + 0 + 2),
        # r = r2*rinv comes once, as do its factors.
        (GreensFunction("twice", (("exp(-r)*r", "exp(-r)*r"),)), 11 + (1 + CALL_EFFORT + 1) + 4),
        (GreensFunction("one", (("1",),)), 11 + 2),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_effort_per_pair_counts_common_parts_once(greens, effort):
    assert effort_per_pair(greens) == effort
