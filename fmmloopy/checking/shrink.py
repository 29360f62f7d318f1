"""Make a case smaller while it still fails.

Candidates are tried in turn, each with fewer boxes, list entries, points, children, pairs or frequencies than the
current case; the first that still fails replaces it, until none fails. A case that is small in work may have large
arrays still, if large numbers are what makes it fail; what it does not use is then set to zero, so that it can be
written down in a few lines.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from fmmloopy.checking.case import Case
from fmmloopy.checking.over import domain_of
from fmmloopy.checking.over.fewer import changed
from fmmloopy.operators.operator import Array, Kind

MOST_TRIES = 400
"""Most candidates that are tried; each takes milliseconds."""

MOST_SECONDS = 60.0
"""Time after which the smallest case so far is returned."""


def shrink(case: Case, fails: Callable[[Case], bool], most: int = MOST_TRIES) -> Case:
    """Return a smaller case that fails too, or the case itself.

    Args:
        case: a case that fails.
        fails: returns whether a case fails.
        most: maximum number of candidates to try.
    """
    tries, deadline = 0, time.monotonic() + MOST_SECONDS
    smaller = True
    while smaller:
        smaller = False
        for candidate in smaller_cases(case):
            if tries == most or time.monotonic() > deadline:
                return _cleared_if(case, fails)
            tries += 1
            if fails(candidate):
                case, smaller = candidate, True
                break
    return _cleared_if(case, fails)


def smaller_cases(case: Case) -> Iterator[Case]:
    """Yield cases with fewer boxes, list entries, points, children, pairs or frequencies; always in the same order."""
    return domain_of(case.operator).smaller(case)


def _cleared_if(case: Case, fails: Callable[[Case], bool]) -> Case:
    """Return the case with zeros where it uses nothing, if it still fails."""
    candidate = cleared(case)
    return candidate if candidate is not case and fails(candidate) else case


def cleared(case: Case) -> Case:
    """Return a case with zeros where it uses nothing, or the case itself if it uses everything."""
    used, zeros = domain_of(case.operator).used(case), dict[str, Any]()
    for array in case.operator.arrays_for(case.spec.types):
        if array.kind == Kind.INDEX or array.same_as:
            continue
        values = case.arguments[array.name]
        unused = _unused(array, values.shape, used)
        if unused is not None and unused.any():
            zeros[array.name] = np.where(unused, 0, values).astype(values.dtype)
    zeros |= {name: zeros[same] for name, same in case.operator.aliases.items() if same in zeros}
    return changed(case, **zeros) if zeros else case


def _unused(array: Array, shape: tuple[int, ...], used: dict[str, Any]) -> Any:
    """Return where an array is not used, in its shape; None if all of it may be."""
    for axis, name in enumerate(array.shape.replace("itiles, ilanes", "nrows").split(", ")):
        count = name.removesuffix(" + 1")
        if count in used:
            unused = np.ones(shape[axis], bool)
            unused[used[count]] = False
            return np.broadcast_to(np.expand_dims(unused, [i for i in range(len(shape)) if i != axis]), shape)
    return None
