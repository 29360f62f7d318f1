"""Predictions of scaling: what they count is what real parts send and receive."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import cube, sphere

from benchmarks.scaling import Network, Problem, main, predict, table
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
    found = predict(Problem(tree, lists, seconds, ROW), size, Network(0.0, 1e9))

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
    assert found.sending > 0


def test_one_part_sends_nothing(rng):
    tree = grow_tree(sort_points(cube(rng, 1000)), NCRIT)
    problem = Problem(tree, build_lists(tree), tree.is_leaf.astype(float), ROW)
    alone, many = (predict(problem, parts, Network(1e-6, 1e9)) for parts in (1, 64))
    assert (alone.nbytes, alone.messages, alone.ghosts, alone.sending) == (0, 0, 0, 0)
    assert many.sending > 64 * 1e-9
    lines = table([alone, many]).splitlines()
    assert lines[2].split("|")[3].strip() == "100%"
    assert len(lines) == 4


def test_the_command(own_cache, tmp_path, capsys):
    output = tmp_path / "scaling.md"
    main(["--points", "6000", "--distribution", "cube", "--parts", "2", "--output", str(output)])
    text = output.read_text()
    assert text.strip() == capsys.readouterr().out.strip()
    assert "6,000 points, cube" in text
    assert text.count("\n| ") == 3
