"""Test cases of operators on single boxes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmmloopy.checking.case import Case, Layout
from fmmloopy.checking.over.fewer import GARBAGE, fewer_boxes, padded_boxes
from fmmloopy.common.sizes import count_points, padded
from fmmloopy.operators import Operator, Specification


def lengths(spec: Specification, layout: Layout) -> dict[str, int]:
    """Return the lengths of the input and output vectors, and how many tables there are and which is used."""
    nsurface = padded(count_points(spec.order))
    ncolumns, nrows = (spec.sizes[components] * nsurface for components in spec.operator.vectors)
    ntables, itable = layout.tables
    return {"ncolumns": ncolumns, "nrows": nrows, "ntables": ntables, "itable": itable}


def indices(spec: Specification, rng: np.random.Generator, layout: Layout) -> dict[str, Any]:
    """Make a list of all boxes but four, in random order."""
    count = layout.blocks or 19
    nboxes = max(count + 4, layout.boxes)
    boxes = padded_boxes(rng.permutation(nboxes)[:count], nboxes)
    return {"boxes": boxes, "ntargets": count, "nblocks": count, "nboxes": nboxes, **lengths(spec, layout)}


MANY_BLOCKS, MOST_BOXES = 40, 250
"""So many blocks are several groups of work-items, or several chunks of them; and so many boxes take little time in a
simulator, too."""


def block_layouts(lanes: Mapping[str, int], more: tuple[int, ...] = ()) -> list[Layout]:
    """Return layouts with counts of boxes around the width of a block; the last one has numbers in place of NaN."""
    width = lanes.get("blanes", 1)
    counts = {1, 2, width - 1, width, width + 1, 2 * width + 1, min(MANY_BLOCKS * width + 1, MOST_BOXES), *more} - {0}
    garbage = Layout("numbers in place of NaN", poison=GARBAGE)
    return [*(Layout(f"{count} worked on", blocks=count) for count in sorted(counts)), garbage]


def layouts(operator: Operator, lanes: Mapping[str, int]) -> list[Layout]:
    """Return counts of boxes around the width of a block."""
    return block_layouts(lanes)


def smaller(case: Case) -> Iterator[Case]:
    """Work on fewer boxes."""
    yield from fewer_boxes(case, "boxes", "ntargets")


def used(case: Case) -> dict[str, NDArray[np.intp]]:
    """Return the boxes that are read."""
    return {"nboxes": case.arguments["boxes"][: case.arguments["ntargets"]]}


def words(case: Case) -> str:
    """Count boxes."""
    return f"{case.arguments['ntargets']} boxes"
