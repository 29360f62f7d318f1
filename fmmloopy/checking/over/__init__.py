"""What operators run over, as test cases: index arrays, hostile layouts, smaller cases, and a case in words.

One module for each kind that `fmmloopy.operators.operator` names, with the functions of `Domain`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, cast

import numpy as np

from fmmloopy.checking.case import Case, Layout
from fmmloopy.checking.over import boxes, families, lists, octets, pairs
from fmmloopy.operators import Operator, Specification
from fmmloopy.operators.operator import Boxes, Families, Lists, Octets, Pairs


class Domain(Protocol):
    """What a module knows of one kind.

    Attributes:
        indices: makes index arrays and counts for a specification, a generator of random numbers and a layout.
        layouts: returns layouts on which schedules fail that are right for most, given the lanes that a recipe has
            fixed: nothing, one, and around the widths of lanes.
        smaller: yields cases with fewer boxes, list entries, points, children, pairs or frequencies.
        words: says how large a case is.
    """

    indices: Callable[[Specification, np.random.Generator, Layout], dict[str, Any]]
    layouts: Callable[[Operator, Mapping[str, int]], list[Layout]]
    smaller: Callable[[Case], Iterator[Case]]
    words: Callable[[Case], str]


_DOMAINS: dict[type, Any] = {Lists: lists, Families: families, Boxes: boxes, Pairs: pairs, Octets: octets}


def domain_of(operator: Operator) -> Domain:
    """Return what is known of what an operator runs over."""
    return cast(Domain, _DOMAINS[type(operator.over)])


def describe(case: Case) -> str:
    """Say in words how large a case is."""
    return domain_of(case.operator).words(case)
