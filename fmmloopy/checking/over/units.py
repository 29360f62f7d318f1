"""Test cases of operators on pairs of boxes that act on each other, in units that have no box in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmmloopy.checking.case import Case, Layout
from fmmloopy.checking.over import lists
from fmmloopy.checking.over.fewer import changed, parts
from fmmloopy.common.sizes import LANES, count_points, padded
from fmmloopy.operators import Operator, Specification

UNITS = 4
"""Units of a case, of which the first has no pairs."""


def indices(spec: Specification, rng: np.random.Generator, layout: Layout) -> dict[str, Any]:
    """Divide boxes among units, and pair some within each; sources and targets are the same points in two orders."""
    nboxes, npoints = max(len(layout.sizes), layout.boxes), count_points(spec.order)
    here = lists.numbers(rng, nboxes, len(layout.sizes))
    pairs: list[list[tuple[int, int]]] = [[]]
    for members in np.array_split(rng.permutation(here), UNITS - 1):
        unit = []
        for place, box in enumerate(members.tolist()):
            others = np.delete(members, place)
            some = layout.lists
            count = some[place % len(some)] if some is not None else len(others) if place == 0 else rng.integers(0, 4)
            unit += [(box, other) for other in rng.permutation(others)[:count].tolist()]
        pairs.append(unit)
    starts = layout.idle + np.cumsum([0, *map(len, pairs)])
    both = np.array([pair for unit in pairs for pair in unit], np.int32).reshape(-1, 2)
    both = np.concatenate([rng.integers(0, nboxes, (layout.idle, 2)), both])
    if layout.target_sizes is None:
        source_starts, source_ends, nsources = lists.in_order(layout.sizes, layout.ahead)
    else:
        source_starts, source_ends, nsources = lists.scattered(rng, here, nboxes, layout.sizes, layout.ahead)
    target_starts, target_ends, ntargets = lists.scattered(rng, here, nboxes, layout.sizes, layout.ahead // 2 + 5)
    return {
        "box_source_starts": source_starts,
        "box_source_ends": source_ends,
        "box_target_starts": target_starts,
        "box_target_ends": target_ends,
        "unit_starts": starts.astype(np.int32),
        "pair_targets": both[:, 0].astype(np.int32),
        "pair_sources": both[:, 1].astype(np.int32),
        "nunits": len(pairs),
        "nboxes": nboxes,
        "nsources": nsources + LANES,
        "ntargets": ntargets + LANES,
        "npoints": npoints,
        "nsurface": padded(npoints),
    }


def layouts(operator: Operator, lanes: Mapping[str, int]) -> list[Layout]:
    """Return boxes and lists of every awkward size."""
    found = lists.layouts(operator, lanes)
    return [replace(each, sizes=(259, 131)) if len(each.sizes) == 1 else each for each in found]


def smaller(case: Case) -> Iterator[Case]:
    """Work on fewer pairs, or on smaller boxes."""
    a = case.arguments
    here = np.arange(a["unit_starts"][0], a["unit_starts"][-1])
    unit_of = np.repeat(np.arange(a["nunits"]), np.diff(a["unit_starts"]))
    choices = list(parts(len(here))) + ([np.arange(0)] if len(here) == 1 else [])
    for kept in choices:
        counts = np.bincount(unit_of[kept], minlength=a["nunits"])
        fewer = {name: a[name][here[kept]] for name in ("pair_targets", "pair_sources")}
        yield changed(case, unit_starts=np.append(0, np.cumsum(counts)).astype(np.int32), **fewer)
    for box in used(case)["nboxes"]:
        size = int(a["box_source_ends"][box] - a["box_source_starts"][box])
        for count in sorted({0, *(size - -(-size // 2**k) for k in range(1, 6)), size - 1} - {size, -1}):
            ends = dict[str, NDArray[Any]]()
            for side in ("source", "target"):
                ends[f"box_{side}_ends"] = a[f"box_{side}_ends"].copy()
                ends[f"box_{side}_ends"][box] = a[f"box_{side}_starts"][box] + count
            yield changed(case, **ends)


def pairs_of(case: Case) -> NDArray[np.int32]:
    """Return the pairs of boxes that are worked on: shape (npairs, 2)."""
    a = case.arguments
    here = slice(a["unit_starts"][0], a["unit_starts"][a["nunits"]])
    return np.stack([a["pair_targets"][here], a["pair_sources"][here]], axis=1)


def used(case: Case) -> dict[str, NDArray[np.intp]]:
    """Return the boxes and points that are read."""
    a, boxes = case.arguments, np.unique(pairs_of(case))
    found = {"nboxes": boxes.astype(np.intp)}
    for side in ("source", "target"):
        ranges = zip(a[f"box_{side}_starts"][boxes], a[f"box_{side}_ends"][boxes], strict=True)
        found[f"n{side}s"] = np.concatenate([np.arange(0), *(np.arange(start, end) for start, end in ranges)])
    return found


def words(case: Case) -> str:
    """Count pairs and points."""
    count = len(pairs_of(case))
    return f"{count} {'pair' if count == 1 else 'pairs'} of boxes, {len(used(case)['nsources'])} points"
