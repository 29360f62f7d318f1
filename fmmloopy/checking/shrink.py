"""Make a case smaller while it still shows what is wrong.

Candidates are tried in turn, each with fewer boxes, list entries, points, children, pairs or frequencies than the case
before; the first that still fails takes its place, until none does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmmloopy.checking.case import PADDING, Case
from fmmloopy.compile import PARTICLE_OPERATORS

MOST_TRIES = 400
"""Candidates that are tried, each in milliseconds."""


MOST_SECONDS = 60.0
"""Time after which the smallest case so far is good enough."""


def shrink(case: Case, fails: Callable[[Case], bool], most: int = MOST_TRIES) -> Case:
    """Return a smaller case that fails too, or the case itself.

    Args:
        case: it fails.
        fails: whether a case fails.
        most: candidates to try.
    """
    tries, deadline = 0, time.monotonic() + MOST_SECONDS
    smaller = True
    while smaller:
        smaller = False
        for candidate in _candidates(case):
            if tries == most or time.monotonic() > deadline:
                return case
            tries += 1
            if fails(candidate):
                case, smaller = candidate, True
                break
    return case


def _candidates(case: Case) -> Iterator[Case]:
    if case.operator in PARTICLE_OPERATORS:
        yield from _fewer_entries(case, "target_boxes", "ntarget_boxes")
        yield from _shorter_lists(case)
        yield from _smaller_boxes(case)
    elif case.operator in ("m2m", "l2l"):
        yield from _fewer_entries(case, "parents", "nparents", PADDING)
        yield from _fewer_children(case, "children", case.arguments["parents"][: case.arguments["nparents"]])
    elif case.operator == "m2l":
        yield from _fewer_entries(case, "target_boxes", "ntargets")
        yield from _shorter_lists(case)
    elif case.operator == "m2l_svd":
        yield from _fewer_pairs(case)
    elif case.operator == "check_to_equivalent":
        yield from _fewer_entries(case, "boxes", "ntargets", PADDING)
    elif case.operator == "m2l_hadamard":
        yield from _fewer_pairs(case)
        yield from _fewer_frequencies(case)
    else:
        yield from _fewer_octets(case)
        yield from _fewer_children(case, "octet_children", range(case.arguments["noctets"]))


def _with(case: Case, **arguments: Any) -> Case:
    return replace(case, arguments={**case.arguments, **arguments})


def _parts(count: int) -> Iterator[NDArray[np.intp]]:
    """Yield which of ``count`` things to keep: one half, the other, then all but one."""
    if count > 1:
        half = count // 2
        yield np.arange(half)
        yield np.arange(half, count)
    if count > 2:
        for left_out in range(count):
            yield np.delete(np.arange(count), left_out)


def _fewer_entries(case: Case, name: str, number: str, padding: int = 0) -> Iterator[Case]:
    """Work on fewer boxes."""
    boxes, count = case.arguments[name], case.arguments[number]
    for kept in _parts(count):
        rest = boxes[count : count + padding] if padding else boxes[:0]
        changed = _with(case, **{name: np.concatenate([boxes[kept], rest]), number: len(kept)})
        yield replace(changed, blocks=(len(kept), case.blocks[1])) if case.blocks else changed


def _shorter_lists(case: Case) -> Iterator[Case]:
    """Leave entries out of the lists of the boxes that are worked on; empty those of others."""
    a = case.arguments
    starts, lists = a["list_starts"], a["lists"]
    rows = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    worked_on = np.isin(rows, a["target_boxes"])
    here = np.flatnonzero(worked_on)
    choices: list[NDArray[np.intp]] = [] if worked_on.all() else [here]
    choices += [here[kept] for kept in _parts(len(here))]
    if len(here) == 1:
        choices.append(here[:0])
    for kept in choices:
        counts = np.bincount(rows[kept], minlength=len(starts) - 1)
        changed = {"list_starts": np.append(0, np.cumsum(counts)).astype(np.int32), "lists": lists[kept]}
        if "transfers" in a:
            changed["transfers"] = a["transfers"][kept]
        yield _with(case, **changed)


def _smaller_boxes(case: Case) -> Iterator[Case]:
    """Take points out of boxes, from the end of each."""
    a = case.arguments
    for side in ("source", "target"):
        starts, ends = a[f"box_{side}_starts"], a[f"box_{side}_ends"]
        for box in np.flatnonzero(ends > starts):
            size = int(ends[box] - starts[box])
            for smaller in sorted({0, size // 2, size - 1}):
                changed = ends.copy()
                changed[box] = starts[box] + smaller
                yield _with(case, **{f"box_{side}_ends": changed})


def _fewer_children(case: Case, name: str, rows: Any) -> Iterator[Case]:
    """Leave out children, all but one or one by one."""
    children, none = case.arguments[name], case.arguments["nboxes"]
    there = [(row, octant) for row in rows for octant in np.flatnonzero(children[row] < none)]
    for kept in _parts(len(there)):
        changed = np.full_like(children, none)
        for index in kept:
            changed[there[index]] = children[there[index]]
        yield _with(case, **{name: changed})


def _fewer_pairs(case: Case) -> Iterator[Case]:
    """Leave out pairs; how they are divided into chunks and directions or transfer vectors stays."""
    a = case.arguments
    starts = a["pair_starts"]
    count = int(starts[-1])
    groups = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    for kept in _parts(count):
        counts = np.bincount(groups[kept], minlength=len(starts) - 1)
        changed = {"pair_starts": np.append(0, np.cumsum(counts)).astype(np.int32)}
        for name in ("pair_targets", "pair_sources"):
            changed[name] = np.concatenate([a[name][:count][kept], np.zeros(PADDING, np.int32)])
        yield _with(case, **changed)


def _fewer_frequencies(case: Case) -> Iterator[Case]:
    """Work on fewer frequencies."""
    first, last = case.arguments["f_start"], case.arguments["f_end"]
    if last - first > 1:
        middle = (first + last) // 2
        yield _with(case, f_end=middle, **{n: case.arguments[n][: middle - first] for n in ("Mr", "Mi", "Lr", "Li")})
        yield _with(case, f_start=middle, **{n: case.arguments[n][middle - first :] for n in ("Mr", "Mi", "Lr", "Li")})


def _fewer_octets(case: Case) -> Iterator[Case]:
    """Work on fewer octets."""
    a = case.arguments
    count = a["noctets"]
    spectra = ("Mr", "Mi") if case.operator == "m2l_forward" else ("Lr", "Li")
    for kept in _parts(count):
        changed = {name: a[name][..., np.append(kept, count), :] for name in spectra}
        if "octet_scales" in a:
            changed["octet_scales"] = a["octet_scales"][kept]
        yield _with(case, octet_children=a["octet_children"][kept], noctets=len(kept), **changed)
