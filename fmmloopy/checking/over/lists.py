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
    nboxes, npoints = max(len(layout.sizes), layout.boxes), count_points(spec.order)
    here = numbers(rng, nboxes, len(layout.sizes))
    list_starts, lists, idle = _lists(rng, nboxes, here, layout)
    boxes = np.setdiff1d(rng.permutation(nboxes), idle, assume_unique=True)
    skipped = layout.skipped
    if skipped is None:
        skipped = 2 if spec.operator.gives_potentials and not spec.operator.is_near else 0
    boxes = boxes[: max(len(boxes) - skipped, 1)]
    source_starts, source_ends, nsources = in_order(layout.sizes, layout.ahead)
    target_starts, target_ends, ntargets = source_starts.copy(), source_ends.copy(), nsources
    if layout.target_sizes is not None:
        source_starts, source_ends, nsources = scattered(rng, here, nboxes, layout.sizes, layout.ahead)
        ahead = layout.ahead + layout.ahead // 32 + 17
        target_starts, target_ends, ntargets = scattered(rng, here, nboxes, layout.target_sizes, ahead)
    return {
        "box_source_starts": source_starts,
        "box_source_ends": source_ends,
        "box_target_starts": target_starts,
        "box_target_ends": target_ends,
        "target_boxes": boxes.astype(np.int32),
        "list_starts": list_starts,
        "lists": lists,
        "ntarget_boxes": len(boxes),
        "nboxes": nboxes,
        "nsources": nsources + LANES,
        "ntargets": ntargets + LANES,
        "npoints": npoints,
        "nsurface": padded(npoints),
    }


def numbers(rng: np.random.Generator, nboxes: int, count: int) -> NDArray[np.intp]:
    """Choose numbers of boxes: all, or the first, the last, those around powers of two, and others, in random order."""
    if count == nboxes:
        return np.arange(nboxes)
    edges = [number for power in (7, 8, 15, 16) for number in (2**power - 1, 2**power) if number < nboxes - 1]
    found = np.array([0, nboxes - 1, *edges])[:count]
    others = np.setdiff1d(rng.permutation(nboxes), found, assume_unique=True)
    return np.asarray(rng.permutation(np.append(found, others[: count - len(found)])))


def in_order(sizes: tuple[int, ...], ahead: int) -> tuple[NDArray[np.int32], NDArray[np.int32], int]:
    """Return where the points of boxes start and end, one box after the other, and the end of the last."""
    starts = (np.cumsum([0, *sizes]) + ahead).astype(np.int32)
    return starts[:-1].copy(), starts[1:].copy(), int(starts[-1])


def scattered(
    rng: np.random.Generator, here: NDArray[np.intp], nboxes: int, sizes: tuple[int, ...], ahead: int
) -> tuple[NDArray[np.int32], NDArray[np.int32], int]:
    """Return where the points of boxes start and end, and the end of all: in random order, with gaps in between.

    The boxes that are not ``here`` are empty, somewhere.
    """
    order, gaps = rng.permutation(len(sizes)), rng.integers(0, 3, len(sizes))
    lengths = np.array(sizes)[order]
    ends = ahead + np.cumsum(lengths + gaps)
    starts = rng.integers(0, ends[-1] + 1, nboxes).astype(np.int32)
    starts[here[order]] = ends - lengths
    sizes_of = np.zeros(nboxes, np.int32)
    sizes_of[here] = sizes
    return starts, starts + sizes_of, int(ends[-1])


def _of_vectors(spec: Specification, rng: np.random.Generator, layout: Layout) -> dict[str, Any]:
    over = spec.operator.over
    assert isinstance(over, Lists)
    count = (layout.blocks or 18) + 1
    nboxes = max(count, layout.boxes)
    starts, lists, idle = _lists(rng, nboxes, numbers(rng, nboxes, count), layout)
    boxes = np.setdiff1d(rng.permutation(nboxes), idle, assume_unique=True)[: -(layout.skipped or 1)]
    labels = {over.labels: rng.integers(0, TRANSFERS, len(lists)).astype(np.int32)} if over.labels else {}
    return {
        "target_boxes": boxes.astype(np.int32),
        "list_starts": starts,
        "lists": lists,
        **labels,
        over.count: len(boxes),
        "nboxes": nboxes,
        **lengths(spec, layout),
    }


def _lists(
    rng: np.random.Generator, nboxes: int, here: NDArray[np.intp], layout: Layout
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.intp]]:
    """Make lists of distinct boxes for the boxes that are ``here``; the others have empty lists, or idle entries.

    The first box has all boxes in its list, the second none, others some; or the layout says how many.

    Returns:
        The start of each list and the end of the last, the entries, and the boxes with idle entries.
    """
    count, some = len(here), layout.lists
    rows = [rng.permutation(here)[: rng.integers(0, 7)] for _ in range(count)]
    rows[:2] = [rng.permutation(here), np.empty(0, np.intp)][:count]
    if some is not None:
        rows = [rng.permutation(here)[: some[box % len(some)]] for box in range(count)]
    lists = dict(zip(here.tolist(), rows, strict=True))
    idle = np.setdiff1d(np.arange(nboxes // 3, nboxes), here)[:1] if layout.idle else np.empty(0, np.intp)
    lists |= {box: rng.integers(0, nboxes, layout.idle) for box in idle.tolist()}
    lengths = np.zeros(nboxes, np.intp)
    for box, row in lists.items():
        lengths[box] = len(row)
    entries = np.concatenate([lists[box] for box in sorted(lists)])
    return np.append(0, np.cumsum(lengths)).astype(np.int32), entries.astype(np.int32), idle


def layouts(operator: Operator, lanes: Mapping[str, int]) -> list[Layout]:
    """Return boxes and lists of every awkward size."""
    if not operator.particles:
        *counts, garbage = block_layouts(lanes)
        full = Layout("full V lists", blocks=199, lists=(189, 0, 17, *([1, 0, 2] * 20)))
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
        yield from _only_boxes_in_use(case)
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


def used(case: Case) -> dict[str, NDArray[np.intp]]:
    """Return the boxes and points that are read."""
    a, over = case.arguments, case.operator.over
    assert isinstance(over, Lists)
    boxes = a["target_boxes"][: a[over.count]]
    lists = [a["lists"][a["list_starts"][box] : a["list_starts"][box + 1]] for box in boxes]
    entries = np.unique(np.concatenate([*lists, boxes[:0]]))
    found = {"nboxes": np.union1d(boxes, entries)}
    for side, numbers in (("source", entries), ("target", boxes)) if case.operator.particles else ():
        ranges = zip(a[f"box_{side}_starts"][numbers], a[f"box_{side}_ends"][numbers], strict=True)
        found[f"n{side}s"] = np.concatenate([np.arange(0), *(np.arange(start, end) for start, end in ranges)])
    return found


def _only_boxes_in_use(case: Case) -> Iterator[Case]:
    """Remove the points of all boxes that are not in use."""
    a, over = case.arguments, case.operator.over
    assert isinstance(over, Lists)
    boxes = a["target_boxes"][: a[over.count]]
    in_use = {"target": boxes, "source": used(case)["nboxes"]}
    fewer = {}
    for side, numbers in in_use.items():
        ends = a[f"box_{side}_starts"].copy()
        ends[numbers] = a[f"box_{side}_ends"][numbers]
        fewer[f"box_{side}_ends"] = ends
    if any((a[name] != ends).any() for name, ends in fewer.items()):
        yield changed(case, **fewer)


def _smaller_boxes(case: Case) -> Iterator[Case]:
    """Remove points from the ends of boxes."""
    a = case.arguments
    for side in ("source", "target"):
        starts, ends = a[f"box_{side}_starts"], a[f"box_{side}_ends"]
        for box in np.flatnonzero(ends > starts):
            size = int(ends[box] - starts[box])
            for count in sorted({0, *(size - -(-size // 2**k) for k in range(1, 6)), size - 1}):
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
