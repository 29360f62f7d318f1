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

CHUNKS, GROUPS = 2, DIRECTIONS
"""Chunks of targets, and groups that have pairs: all groups, or this many if there are more."""

FREQUENCIES, FIRST, LAST = 7, 2, 6
"""Number of frequencies, and the range that a launch works on."""


def indices(spec: Specification, rng: np.random.Generator, layout: Layout) -> dict[str, Any]:
    """Make groups with counts of pairs around the widths of blocks, one without pairs; no target twice in a group."""
    over = spec.operator.over
    assert isinstance(over, Pairs)
    size = max(10, *layout.pairs)
    spectra = over.spectra
    ntargets = CHUNKS * size if spectra else CHUNKS * size + 3
    nsources = 13 if over.sources != over.targets else ntargets
    worked_on = np.arange(GROUPS)
    if over.groups > GROUPS:
        worked_on = np.append(rng.permutation(over.groups - 1)[: GROUPS - 1], over.groups - 1)
    numbers = np.arange(ntargets) if spectra else rng.permutation(ntargets)
    targets, sources, counts = [], [], np.zeros((CHUNKS, over.groups), np.int32)
    for chunk in range(CHUNKS):
        counts[chunk, worked_on] = [layout.pairs[(place + chunk) % len(layout.pairs)] for place in range(GROUPS)]
        for count in counts[chunk]:
            targets.append(numbers[size * chunk + rng.permutation(size)[:count]])
            sources.append(rng.integers(0, nsources, count))
    found = {
        "pair_starts": np.append(0, np.cumsum(counts)).astype(np.int32),
        "pair_targets": padded_boxes(np.concatenate(targets), 0),
        "pair_sources": padded_boxes(np.concatenate(sources), 0),
        "nchunks": CHUNKS,
        over.targets: ntargets,
        over.sources: nsources,
    }
    if spectra:
        return found | {"nfreqs": FREQUENCIES, "f_start": FIRST, "f_end": LAST}
    starts = _tiles(rng, over.groups, worked_on)
    return found | {"ktile_starts": starts, "nktiles": int(starts[-1]), **lengths(spec)}


def _tiles(rng: np.random.Generator, ngroups: int, worked_on: NDArray[np.intp]) -> NDArray[np.int32]:
    """Give each group up to three tiles of singular values, some none; return where the tiles of each group start."""
    ntiles = rng.permutation(np.arange(ngroups) % 4 // 2 * rng.integers(1, 4, ngroups))
    ntiles[worked_on] = np.arange(len(worked_on)) % 4
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


def words(case: Case) -> str:
    """Count pairs, and frequencies if there are some."""
    a, over = case.arguments, case.operator.over
    assert isinstance(over, Pairs)
    if over.spectra:
        return f"{a['pair_starts'][-1]} pairs of octets, {a['f_end'] - a['f_start']} frequencies"
    return f"{a['pair_starts'][-1]} pairs of boxes"
