"""Test cases by what operators run over: index arrays, hostile layouts, smaller cases, and descriptions in words.

There is one module for each kind in `fmmloopy.operators.operator`, with the functions of `Domain`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from fmmloopy.checking.case import Case, Layout
from fmmloopy.checking.over import boxes, families, lists, octets, pairs, units
from fmmloopy.operators import Operator, Specification
from fmmloopy.operators.operator import Boxes, Families, Lists, Octets, Pairs, Units


class Domain(Protocol):
    """The functions that a module provides for one kind.

    Attributes:
        indices: makes index arrays and counts for a specification, a generator of random numbers and a layout.
        layouts: returns layouts that break schedules which work on most inputs, given the lanes that a recipe has
            fixed: sizes of zero, one, and around the numbers of lanes.
        smaller: yields cases with fewer boxes, list entries, points, children, pairs or frequencies.
        used: returns which boxes, octets or points a case has to do with, by the count that their axis has.
        words: describes the size of a case.
    """

    indices: Callable[[Specification, np.random.Generator, Layout], dict[str, Any]]
    layouts: Callable[[Operator, Mapping[str, int]], list[Layout]]
    smaller: Callable[[Case], Iterator[Case]]
    used: Callable[[Case], dict[str, NDArray[np.intp]]]
    words: Callable[[Case], str]


_DOMAINS: dict[type, Any] = {Lists: lists, Families: families, Boxes: boxes, Pairs: pairs, Octets: octets, Units: units}


def domain_of(operator: Operator) -> Domain:
    """Return the module for what an operator runs over."""
    return cast(Domain, _DOMAINS[type(operator.over)])


def describe(case: Case) -> str:
    """Describe the size of a case in words."""
    return domain_of(case.operator).words(case)
