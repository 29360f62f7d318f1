"""Test cases of operators on pairs in groups that share a matrix: octets by direction, boxes by transfer vector."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmmloopy.checking.case import Case, Layout
from fmmloopy.checking.over.boxes import lengths
from fmmloopy.checking.over.fewer import GARBAGE, changed, padded_boxes, parts
from fmmloopy.common.sizes import DIRECTIONS
from fmmloopy.operators import Operator, Specification
from fmmloopy.operators.operator import Pairs

GROUPS = DIRECTIONS
"""Groups that have pairs: all groups, or this many if there are more."""

WORKED_ON = 6
"""Chunks that have pairs: all chunks, or this many if there are more."""


def indices(spec: Specification, rng: np.random.Generator, layout: Layout) -> dict[str, Any]:
    """Make groups with counts of pairs around the widths of blocks, one without pairs; no target twice in a group."""
    over = spec.operator.over
    assert isinstance(over, Pairs)
    size = max(10, *layout.pairs)
    spectra = over.spectra
    chunks = np.unique(np.linspace(0, layout.chunks - 1, WORKED_ON).astype(int))
    ntargets = max(len(chunks) * size if spectra else len(chunks) * size + 3, layout.boxes)
    nsources = max(13, layout.boxes) if over.sources != over.targets else ntargets
    worked_on = np.arange(GROUPS)
    if over.groups > GROUPS:
        worked_on = np.append(rng.permutation(over.groups - 1)[: GROUPS - 1], over.groups - 1)
    numbers = rng.permutation(ntargets)[: len(chunks) * size]
    if spectra:
        numbers.sort()
    targets, sources, counts = [], [], np.zeros((layout.chunks, over.groups), np.int32)
    for index, chunk in enumerate(chunks):
        counts[chunk, worked_on] = [layout.pairs[(place + index) % len(layout.pairs)] for place in range(GROUPS)]
        for count in counts[chunk]:
            targets.append(numbers[size * index + rng.choice(size, count, replace=False, shuffle=False)])
            sources.append(rng.integers(0, nsources, count))
    found = {
        "pair_starts": np.append(0, np.cumsum(counts)).astype(np.int32),
        "pair_targets": padded_boxes(np.concatenate(targets), 0),
        "pair_sources": padded_boxes(np.concatenate(sources), 0),
        "nchunks": layout.chunks,
        over.targets: ntargets,
        over.sources: nsources,
    }
    if spectra:
        return found | dict(zip(("nfreqs", "f_start", "f_end"), layout.frequencies, strict=True))
    starts = _tiles(rng, over.groups, worked_on, layout)
    return found | {"ktile_starts": starts, "nktiles": int(starts[-1]), **lengths(spec, layout)}


def _tiles(rng: np.random.Generator, ngroups: int, worked_on: NDArray[np.intp], layout: Layout) -> NDArray[np.int32]:
    """Give each group some tiles of singular values, or none; return where those of each group start."""
    ntiles = rng.permutation(np.arange(ngroups) % 4 // 2 * rng.integers(1, 4, ngroups))
    ntiles[worked_on] = np.arange(len(worked_on)) % 4 * layout.tiles // 3
    ntiles[np.setdiff1d(np.arange(ngroups), worked_on)[:1]] += layout.idle
    return np.cumsum([0, *ntiles]).astype(np.int32)


def layouts(operator: Operator, lanes: Mapping[str, int]) -> list[Layout]:
    """Return counts of pairs around the width of a block."""
    width = lanes.get("blanes", 1)
    return [
        Layout("no pairs", pairs=(0,)),
        Layout("one pair in each chunk", pairs=(0,) * (GROUPS - 1) + (1,)),
        Layout(f"{width - 1}, {width}, {width + 1} pairs", pairs=(width - 1, width, width + 1)),
        Layout("numbers in place of NaN", poison=GARBAGE),
    ]


def smaller(case: Case) -> Iterator[Case]:
    """Remove pairs, or frequencies; the chunks and groups of the other pairs stay the same."""
    a = case.arguments
    starts = a["pair_starts"]
    count = int(starts[-1])
    groups = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    for kept in parts(count):
        counts = np.bincount(groups[kept], minlength=len(starts) - 1)
        fewer = {"pair_starts": np.append(0, np.cumsum(counts)).astype(np.int32)}
        fewer |= {name: padded_boxes(a[name][:count][kept], 0) for name in ("pair_targets", "pair_sources")}
        yield changed(case, **fewer)
    over = case.operator.over
    assert isinstance(over, Pairs)
    if over.spectra:
        yield from _fewer_frequencies(case)


def _fewer_frequencies(case: Case) -> Iterator[Case]:
    first, last = case.arguments["f_start"], case.arguments["f_end"]
    names = [a.name for a in case.operator.arrays_for(case.spec.types) if a.shape.startswith("f_end - f_start")]
    if last - first > 1:
        middle = (first + last) // 2
        yield changed(case, f_end=middle, **{n: case.arguments[n][: middle - first] for n in names})
        yield changed(case, f_start=middle, **{n: case.arguments[n][middle - first :] for n in names})


def used(case: Case) -> dict[str, NDArray[np.intp]]:
    """Return the boxes or octets of the pairs."""
    a, over = case.arguments, case.operator.over
    assert isinstance(over, Pairs)
    targets, sources = (np.unique(a[name][: a["pair_starts"][-1]]) for name in ("pair_targets", "pair_sources"))
    if over.targets == over.sources:
        return {over.targets: np.union1d(targets, sources)}
    return {over.targets: targets, over.sources: sources}


def words(case: Case) -> str:
    """Count pairs, and frequencies if there are some."""
    a, over = case.arguments, case.operator.over
    assert isinstance(over, Pairs)
    if over.spectra:
        return f"{a['pair_starts'][-1]} pairs of octets, {a['f_end'] - a['f_start']} frequencies"
    return f"{a['pair_starts'][-1]} pairs of boxes"
