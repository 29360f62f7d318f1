"""Predictions of scaling: what they count is what real parts send and receive."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conftest import cube, sphere

from benchmarks.__main__ import main
from benchmarks.kept import read_kept
from benchmarks.scaling import (
    NCRITS,
    Machine,
    Network,
    Problem,
    centred_points,
    divide,
    keys_of,
    neighbourhoods,
    predict,
    sorted_keys,
    table,
    tree_of,
)
from fmmloopy.common.sizes import count_points
from fmmloopy.octree.lists import build_lists
from fmmloopy.octree.small_boxes import absorb_small_boxes
from fmmloopy.octree.tree import DEEPEST_LEVEL, grow_tree, sort_points
from fmmloopy.parts.part import build_part
from fmmloopy.parts.shares import share_out
from fmmloopy.parts.team import Team
from fmmloopy.parts.transport import Board, in_threads

NCRIT, SURFACE, ROW = 20, 26, 1000


@pytest.mark.parametrize(("make", "size"), [(cube, 2), (sphere, 5), (cube, 7)])
def test_counts_are_those_of_real_parts(make, size, rng):
    points = make(rng, 3000)
    tree = grow_tree(sort_points(points), NCRIT, split_coincident=False)
    lists = absorb_small_boxes(tree, build_lists(tree), SURFACE)
    # The work by which parts are cut at first.
    counts = (tree.box_source_ends - tree.box_source_starts) * tree.is_leaf
    seconds = np.where(tree.is_leaf, 1.0 + counts * (tree.is_leaf.sum() / counts.sum()), 0.0)
    found = predict(Problem(tree, lists, seconds, 0 * seconds, ROW), size, Network(0.0, 1e9))

    def call(thread):
        shares = share_out(thread, np.array_split(points, size)[thread.rank], None, np.dtype("f8"), np.ones(size))
        return build_part(
            Team(thread),
            shares,
            ncrit=NCRIT,
            max_level=DEEPEST_LEVEL,
            npoints=SURFACE,
            searched=False,
            coincident=False,
            speeds=np.ones(size),
        )

    parts = in_threads(Board(size), call)
    received = [
        ROW * (sum(part._totals.receives.values()) + sum(part._pieces.receives.values()))
        + 8 * sum(part._ghosts.receives.values())
        for part in parts
    ]
    messages = [sum(len(route.receives) for route in (part._totals, part._pieces, part._ghosts)) for part in parts]
    assert found.nbytes == max(received)
    assert found.messages == max(messages)
    ghosts = np.mean([sum(part._totals.receives.values()) for part in parts])
    own = np.mean([(part._is_own & (part.tree.box_levels >= 2)).sum() for part in parts])
    assert found.ghosts == pytest.approx(ghosts / own)
    assert found.sending == found.waiting > 0  # there are no near pairs that take any time


def test_one_part_sends_nothing(rng):
    tree = grow_tree(sort_points(cube(rng, 1000)), NCRIT)
    seconds = tree.is_leaf.astype(float)
    problem = Problem(tree, build_lists(tree), seconds, seconds, ROW)
    alone, many = (predict(problem, parts, Network(1e-6, 1e9)) for parts in (1, 64))
    assert (alone.nbytes, alone.messages, alone.ghosts, alone.sending) == (0, 0, 0, 0)
    assert many.sending > 64 * 1e-9
    assert many.waiting < many.sending  # multipoles come while near pairs are computed
    lines = table([alone, many]).splitlines()
    assert lines[2].split("|")[4].strip() == "100%"
    assert len(lines) == 4


@pytest.mark.parametrize("distribution", ["cube", "sphere"])
def test_a_tree_of_keys_is_that_of_the_points(distribution, rng):
    points = cube(rng, 2000) if distribution == "cube" else sphere(rng, 2000)
    expected = grow_tree(sort_points(points - points.min(axis=0) - np.ptp(points, axis=0) / 2), NCRIT)
    found = tree_of(np.sort(keys_of(points, 1.25)), 1.25, NCRIT)
    assert found.nsources == expected.nsources == found.box_source_ends[0]
    assert (np.diff(sorted_keys(distribution, 3000, 1.0).astype(np.int64)) >= 0).all()


class Exact(Machine):
    """A machine without a device: the work of a box is the number of its points, if it is a leaf."""

    def __init__(self, half_width):
        for name, value in (("half_width", half_width), ("row_bytes", ROW), ("units", {"p2m": 1.0})):
            object.__setattr__(self, name, value)

    def problem(self, keys):
        tree = tree_of(keys, self.half_width, NCRIT)
        lists = absorb_small_boxes(tree, build_lists(tree), SURFACE)
        seconds = (tree.box_source_ends - tree.box_source_starts) * tree.is_leaf * 1.0
        return Problem(tree, lists, seconds, seconds, ROW)


@pytest.mark.parametrize(("distribution", "half_width"), [("cube", 0.5), ("sphere", 1.0)])
def test_a_part_sees_in_its_neighbourhood_what_it_sees_in_the_whole(distribution, half_width, monkeypatch):
    """All points are in the neighbourhood, or the same ones: so the part has the same ghosts, bytes and messages."""
    size, per_part, machine, network = 8, 5000, Exact(half_width), Network(1e-6, 1e9)
    whole = machine.problem(sorted_keys(distribution, size * per_part, half_width))
    keys = sorted_keys(distribution, size * per_part, half_width)

    def same_points(distribution, cells, level, half_width, count, rng):
        return keys[np.isin(keys >> np.uint64(3 * (DEEPEST_LEVEL - level)), cells)]

    monkeypatch.setattr("benchmarks.scaling._filled", same_points)
    monkeypatch.setattr("benchmarks.scaling.SAMPLED", 2**22)
    monkeypatch.setattr("benchmarks.scaling.REDUCED_FROM", 8)
    for each in neighbourhoods(distribution, size, per_part, NCRIT, half_width, [0, 3, 6]):
        assert len(each.keys) < 0.75 * len(keys)
        problem = machine.problem(each.keys)
        of_leaf = each.part_of(problem, size)
        found = predict(problem, size, network, of_leaf, each.part)
        # The whole, cut where the neighbourhood is cut.
        all_keys = np.sort(whole.tree.box_keys[whole.tree.is_leaf] << _shift(whole.tree))
        here = np.sort(problem.tree.box_keys[problem.tree.is_leaf] << _shift(problem.tree))
        begin, end = here[of_leaf == each.part][0], here[of_leaf == each.part][-1]
        cut = divide(whole, size)
        cut = np.where(all_keys < begin, np.minimum(cut, each.part - 1), np.where(all_keys > end, cut, each.part))
        cut = np.where(all_keys > end, np.maximum(cut, each.part + 1), cut)
        expected = predict(whole, size, network, cut, each.part)
        assert (found.ghosts, found.working, found.nbytes) == (expected.ghosts, expected.working, expected.nbytes)
        assert abs(found.messages - expected.messages) <= 0.2 * expected.messages  # others are cut elsewhere


def _shift(tree):
    return (3 * (DEEPEST_LEVEL - tree.box_levels[tree.is_leaf])).astype(np.uint64)


def test_the_points_of_a_neighbourhood_are_as_dense_as_everywhere(monkeypatch):
    monkeypatch.setattr("benchmarks.scaling.SAMPLED", 2**22)
    for distribution, half_width in (("cube", 0.5), ("sphere", 1.0)):
        (each,) = neighbourhoods(distribution, 64, 9000, NCRIT, half_width, [21])
        machine = Exact(half_width)
        problem = machine.problem(each.keys)
        found = predict(problem, 64, Network(0.0, 1e9), each.part_of(problem, 64), each.part)
        assert found.working == pytest.approx(9000, rel=0.04)  # three standard deviations are 3.2%


def test_the_command(own_cache, tmp_path, capsys, monkeypatch):
    output = tmp_path / "scaling.md"
    monkeypatch.setattr("benchmarks.scaling.CALIBRATED", 5000)
    words = ["--points", "6000", "--distribution", "cube", "--parts", "2", "--weak-parts", "8", "--per-part", "100000"]
    assert main(["scaling", *words, "--output", str(output), "--plot", str(tmp_path / "scaling.png")]) == 0
    text = output.read_text()
    assert text.strip() == capsys.readouterr().out.strip()
    assert "6,000 points, cube" in text
    assert "| 8 | 800,000 |" in text
    assert text.count("\n| ") == 6
    assert (tmp_path / "scaling.png").stat().st_size > 1000


def test_rates_of_a_run_that_is_kept():
    """The time of all points on one part is that of the operators in the run; setting to zero is none of them."""
    kept = read_kept()[0]
    (first, *_) = kept.find_evaluations(points=1_000_000, distribution="cube", digits=6, dtype="float64")
    machine = Machine.kept("cube", 6, kept)
    assert (machine.order, machine.ncrit, machine.m2l) == (first.order, first.ncrit, first.m2l)
    assert machine.row_bytes >= 8 * count_points(first.order)
    keys = keys_of(centred_points("cube", 1_000_000, np.random.default_rng(0)), machine.half_width)
    expected = sum(spent for name, spent in first.seconds.items() if name != "clear")
    assert machine.problem(np.sort(keys)).seconds.sum() == pytest.approx(expected, rel=1e-6)
    with pytest.raises(SystemExit, match=r"have no evaluation of 1,000,000 points, cube, 17 digits; leave out --kept"):
        Machine.kept("cube", 17, kept)


def test_ncrit_is_that_of_the_least_work(monkeypatch):
    """Far fewer points have leaves that are as full."""
    monkeypatch.setattr("benchmarks.scaling.CALIBRATED", 2_000)
    machine = Machine("made up", 1, 4, 40, "fft", 0.5, ROW, {"p2p": 1e-9, "m2l_hadamard": 1e-7})
    chosen = machine.for_points("cube", 128_000)
    assert chosen.ncrit in {round(40 * factor) for factor in NCRITS}
    keys = sorted_keys("cube", 128_000, 0.5)
    times = [replace(machine, ncrit=round(40 * factor)).problem(keys).seconds.sum() for factor in NCRITS]
    assert chosen.problem(keys).seconds.sum() <= 1.1 * min(times)  # boxes at the faces are others
    assert max(times) > 1.2 * min(times)
