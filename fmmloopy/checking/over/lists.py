"""Test cases of operators on boxes with lists: particle operators, and products by the entries of V lists."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmmloopy.checking.case import Case, Layout
from fmmloopy.checking.over.boxes import block_layouts, lengths
from fmmloopy.checking.over.fewer import GARBAGE, changed, fewer_boxes, parts
from fmmloopy.common.sizes import LANES, TRANSFERS, count_points, padded
from fmmloopy.operators import Operator, Specification
from fmmloopy.operators.operator import Lists


def indices(spec: Specification, rng: np.random.Generator, layout: Layout) -> dict[str, Any]:
    """Make lists of distinct boxes, and ranges of points if the operator has them."""
    return _of_points(spec, rng, layout) if spec.operator.particles else _of_vectors(spec, rng, layout)


def _of_points(spec: Specification, rng: np.random.Generator, layout: Layout) -> dict[str, Any]:
    nboxes, npoints = len(layout.sizes), count_points(spec.order)
    starts = (np.cumsum([0, *layout.sizes]) + layout.ahead).astype(np.int32)
    list_starts, lists = ragged_lists(rng, nboxes, layout.lists)
    boxes = rng.permutation(nboxes)
    if spec.operator.gives_potentials and not spec.operator.is_near:
        boxes = boxes[: max(nboxes - 2, 1)]
    return {
        "box_source_starts": starts[:-1].copy(),
        "box_source_ends": starts[1:].copy(),
        "box_target_starts": starts[:-1].copy(),
        "box_target_ends": starts[1:].copy(),
        "target_boxes": boxes.astype(np.int32),
        "list_starts": list_starts,
        "lists": lists,
        "ntarget_boxes": len(boxes),
        "nboxes": nboxes,
        "nsources": int(starts[-1]) + LANES,
        "ntargets": int(starts[-1]) + LANES,
        "npoints": npoints,
        "nsurface": padded(npoints),
    }


def _of_vectors(spec: Specification, rng: np.random.Generator, layout: Layout) -> dict[str, Any]:
    over = spec.operator.over
    assert isinstance(over, Lists)
    nboxes = (layout.blocks or 18) + 1
    starts, lists = ragged_lists(rng, nboxes, layout.lists)
    labels = {over.labels: rng.integers(0, TRANSFERS, len(lists)).astype(np.int32)} if over.labels else {}
    return {
        "target_boxes": rng.permutation(nboxes)[:-1].astype(np.int32),
        "list_starts": starts,
        "lists": lists,
        **labels,
        over.count: nboxes - 1,
        "nboxes": nboxes,
        **lengths(spec),
    }


def ragged_lists(
    rng: np.random.Generator, nboxes: int, counts: tuple[int, ...] | None
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Make lists of distinct boxes: all for the first box, none for the second, some for others; or ``counts`` each."""
    rows = [rng.permutation(nboxes)[: rng.integers(0, 7)] for _ in range(nboxes)]
    rows[:2] = [rng.permutation(nboxes), np.empty(0, np.intp)][:nboxes]
    if counts is not None:
        rows = [rng.permutation(nboxes)[: counts[box % len(counts)]] for box in range(nboxes)]
    starts = np.cumsum([0, *map(len, rows)])
    return starts.astype(np.int32), np.concatenate(rows).astype(np.int32)


def layouts(operator: Operator, lanes: Mapping[str, int]) -> list[Layout]:
    """Return boxes and lists of every awkward size."""
    if not operator.particles:
        *counts, garbage = block_layouts(lanes)
        full = Layout("full V lists", blocks=199, lists=(189, 0, 17))
        return [*counts, Layout("empty lists", lists=(0,)), full, garbage]
    width = max(lanes.get("tlanes", 1), lanes.get("slanes", 1))
    around = tuple(size for k in (1, 2) for size in (k * width - 1, k * width, k * width + 1))
    return [
        Layout("boxes without points", sizes=(0,) * 5),
        Layout("one point in each box", sizes=(1,) * 9),
        Layout(f"boxes of {width - 1}, {width}, {width + 1} points", sizes=around),
        Layout("one box of many points", sizes=(259,)),
        Layout("all points in one place", sizes=(3, width, 0, 2 * width + 1, 1), coincident=True),
        Layout("empty lists", sizes=(5, width, 1), lists=(0, 0, 0)),
        Layout("empty lists between full ones", sizes=(2, 3, width, 4, 1), lists=(0, 5, 0, 1, 0)),
        Layout("long lists", sizes=(2, 1, 0, 3) * 20, lists=(80, 79) * 40),
        Layout("indices beyond 16 bits", sizes=(3, width, 9), ahead=70_000),
        Layout("numbers in place of NaN", poison=GARBAGE),
    ]


def smaller(case: Case) -> Iterator[Case]:
    """Work on fewer boxes, shorter lists, or smaller boxes."""
    over = case.operator.over
    assert isinstance(over, Lists)
    yield from fewer_boxes(case, "target_boxes", over.count)
    yield from _shorter_lists(case, over.labels)
    if case.operator.particles:
        yield from _smaller_boxes(case)


def _shorter_lists(case: Case, labels: str) -> Iterator[Case]:
    """Remove entries from the lists of the boxes that are worked on; empty the other lists."""
    a = case.arguments
    starts, lists = a["list_starts"], a["lists"]
    rows = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    worked_on = np.isin(rows, a["target_boxes"])
    here = np.flatnonzero(worked_on)
    choices: list[NDArray[np.intp]] = [] if worked_on.all() else [here]
    choices += [here[kept] for kept in parts(len(here))]
    if len(here) == 1:
        choices.append(here[:0])
    for kept in choices:
        counts = np.bincount(rows[kept], minlength=len(starts) - 1)
        fewer = {"list_starts": np.append(0, np.cumsum(counts)).astype(np.int32), "lists": lists[kept]}
        yield changed(case, **fewer, **({labels: a[labels][kept]} if labels else {}))


def _smaller_boxes(case: Case) -> Iterator[Case]:
    """Remove points from the ends of boxes."""
    a = case.arguments
    for side in ("source", "target"):
        starts, ends = a[f"box_{side}_starts"], a[f"box_{side}_ends"]
        for box in np.flatnonzero(ends > starts):
            size = int(ends[box] - starts[box])
            for count in sorted({0, size // 2, size - 1}):
                fewer = ends.copy()
                fewer[box] = starts[box] + count
                yield changed(case, **{f"box_{side}_ends": fewer})


def words(case: Case) -> str:
    """Count boxes, list entries and points."""
    a, over, particles = case.arguments, case.operator.over, case.operator.particles
    assert isinstance(over, Lists)
    boxes = a["target_boxes"][: a[over.count]]
    entries = np.concatenate([a["lists"][a["list_starts"][b] : a["list_starts"][b + 1]] for b in boxes])
    points = []
    if particles and not particles.targets.is_surface:
        points.append(f"{int((a['box_target_ends'] - a['box_target_starts'])[boxes].sum())} targets")
    if particles and not particles.sources.is_surface:
        points.append(f"{int((a['box_source_ends'] - a['box_source_starts'])[entries].sum())} sources")
    return ", ".join([f"{len(boxes)} target boxes", f"{len(entries)} list entries", *points])
