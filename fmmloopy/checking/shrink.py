"""Make a case smaller while it still fails.

Candidates are tried in turn, each with fewer boxes, list entries, points, children, pairs or frequencies than the
current case; the first that still fails replaces it, until none fails.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from fmmloopy.checking.case import Case
from fmmloopy.checking.over import domain_of

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
        for candidate in domain_of(case.operator).smaller(case):
            if tries == most or time.monotonic() > deadline:
                return case
            tries += 1
            if fails(candidate):
                case, smaller = candidate, True
                break
    return case
