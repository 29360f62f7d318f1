"""Test cases of operators on parents and children."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmmloopy.checking.case import Case, Layout
from fmmloopy.checking.over.boxes import block_layouts, lengths
from fmmloopy.checking.over.fewer import fewer_boxes, fewer_children, padded_boxes
from fmmloopy.common.sizes import SIBLINGS
from fmmloopy.operators import Operator, Specification


def indices(spec: Specification, rng: np.random.Generator, layout: Layout) -> dict[str, Any]:
    """Make families with some children missing; one parent is not worked on."""
    count = layout.blocks or 20
    present = rng.random((count + 1, SIBLINGS)) < layout.present
    nboxes = max(count + 1 + int(present.sum()), layout.boxes)
    boxes = rng.permutation(nboxes) if layout.boxes else np.arange(nboxes)
    parents = rng.permutation(boxes[: count + 1])
    numbers = np.full((count + 1, SIBLINGS), nboxes, np.int32)
    numbers[present] = rng.permutation(boxes[count + 1 :])[: present.sum()]
    children = np.full((nboxes + 1, SIBLINGS), nboxes, np.int32)
    children[parents] = numbers
    return {
        "children": children,
        "parents": padded_boxes(parents[:-1], nboxes),
        "nparents": count,
        "nblocks": count,
        "nboxes": nboxes,
        **lengths(spec, layout),
    }


def layouts(operator: Operator, lanes: Mapping[str, int]) -> list[Layout]:
    """Return counts of parents around the width of a block, and families that are complete or nearly empty."""
    *counts, garbage = block_layouts(lanes)
    return [
        *counts,
        Layout("every child there", present=1.0),
        Layout("hardly a child there", present=0.1),
        garbage,
    ]


def smaller(case: Case) -> Iterator[Case]:
    """Work on fewer parents, or with fewer children."""
    yield from fewer_boxes(case, "parents", "nparents")
    yield from fewer_children(case, "children", case.arguments["parents"][: case.arguments["nparents"]])


def used(case: Case) -> dict[str, NDArray[np.intp]]:
    """Return the parents, and the children that are there."""
    a = case.arguments
    parents = a["parents"][: a["nparents"]]
    return {"nboxes": np.union1d(parents, a["children"][parents])}


def words(case: Case) -> str:
    """Count parents and children."""
    rows = case.arguments["parents"][: case.arguments["nparents"]]
    children = int((case.arguments["children"][rows] < case.arguments["nboxes"]).sum())
    return f"{len(rows)} parents, {children} children"
