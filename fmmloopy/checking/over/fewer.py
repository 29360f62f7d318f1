"""Ways to make cases smaller that several kinds of operators share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmmloopy.checking.case import Case
from fmmloopy.common.sizes import LANES

MANY = 16
"""As many items are made a sixteenth before they are halved."""


def changed(case: Case, **arguments: Any) -> Case:
    """Return a case with other arguments."""
    return replace(case, arguments={**case.arguments, **arguments})


def parts(count: int) -> Iterator[NDArray[np.intp]]:
    """Yield which of ``count`` items to keep: a half, the other, then all but a quarter, all but an eighth, ... one.

    Of many items, the first are sixteenths: what fails may cost a process, what passes costs nothing.
    """
    if count >= MANY:
        yield from np.array_split(np.arange(count), MANY)
    if count > 1:
        half = count // 2
        yield np.arange(half)
        yield np.arange(half, count)
    length = max(count // 4, 1)
    while count > 2:
        for start in range(0, count, length):
            yield np.delete(np.arange(count), np.s_[start : start + length])
        if length == 1:
            break
        length //= 2


def fewer_boxes(case: Case, name: str, number: str) -> Iterator[Case]:
    """Work on fewer boxes, of a list that may be padded."""
    boxes, count = case.arguments[name], case.arguments[number]
    for kept in parts(count):
        numbers = {number: len(kept)} | ({"nblocks": len(kept)} if "nblocks" in case.arguments else {})
        yield changed(case, **{name: np.concatenate([boxes[kept], boxes[count:]])}, **numbers)


def fewer_children(case: Case, name: str, rows: Iterable[int]) -> Iterator[Case]:
    """Remove half of the children, or one of them."""
    children, none = case.arguments[name], case.arguments["nboxes"]
    there = [(row, octant) for row in rows for octant in np.flatnonzero(children[row] < none)]
    for kept in parts(len(there)):
        fewer = np.full_like(children, none)
        for index in kept:
            fewer[there[index]] = children[there[index]]
        yield changed(case, **{name: fewer})


def padded_boxes(boxes: NDArray[Any], beyond: int) -> NDArray[np.int32]:
    """Append padding, which idle lanes read, to a list of boxes or pairs: in turn a number and others of the list."""
    padding = np.full(LANES, beyond)
    if len(boxes):
        padding[1::2] = np.resize(boxes, LANES // 2)
    return np.append(boxes, padding).astype(np.int32)


GARBAGE = 777.0
"""A number in place of NaN. It is whole, so that products with it are whole: a recipe may multiply padding by zero."""
