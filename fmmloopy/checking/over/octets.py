"""Test cases of operators on octets and planes of frequencies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmmloopy.checking.case import Case, Layout
from fmmloopy.checking.over.boxes import block_layouts
from fmmloopy.checking.over.fewer import changed, fewer_children, parts
from fmmloopy.common.sizes import SIBLINGS, count_points, padded
from fmmloopy.operators import Operator, Specification

TILES = (7, 8, 9, 16, 17, 33)
"""Counts around the widths of tiles that a recipe may split octets into."""


def indices(spec: Specification, rng: np.random.Generator, layout: Layout) -> dict[str, Any]:
    """Make octets with some children missing; the first plane is worked on only where boxes are many."""
    noctets, npoints = layout.blocks or 5, count_points(spec.order)
    nboxes = max(SIBLINGS * noctets + 1, layout.boxes)
    children = np.full((noctets, SIBLINGS), nboxes)
    present = rng.random((noctets, SIBLINGS)) < layout.present
    children[present] = rng.permutation(nboxes)[: present.sum()]
    return {
        "octet_children": children.astype(np.int32),
        "surface_grid": _places(spec.order, rng),
        "noctets": noctets,
        "nboxes": nboxes,
        "npoints": npoints,
        "nsurface": padded(npoints),
        "kz_start": 0 if layout.boxes else 1,
        "kz_end": spec.order,
    }


def _places(order: int, rng: np.random.Generator) -> NDArray[np.int32]:
    """Return different places on a grid, as many as a surface has points, in any order: shape (3, npoints).

    That they are all on the outside is nothing that a recipe may rely on.
    """
    chosen = rng.permutation(order**3)[: count_points(order)]
    return np.stack(np.unravel_index(chosen, (order,) * 3)).astype(np.int32)


def surface_grid(order: int) -> NDArray[np.int32]:
    """Return grid coordinates of the points of a surface, shape (3, npoints)."""
    points = np.stack(np.meshgrid(*[np.arange(order)] * 3, indexing="ij")).reshape(3, -1)
    return points[:, ((points == 0) | (points == order - 1)).any(axis=0)].astype(np.int32)


def layouts(operator: Operator, lanes: Mapping[str, int]) -> list[Layout]:
    """Return counts of octets around widths of tiles, and octets that are complete or nearly empty."""
    *counts, garbage = block_layouts(lanes, TILES)
    return [
        *counts,
        Layout("every child there", present=1.0),
        Layout("hardly a child there", present=0.1),
        garbage,
    ]


def smaller(case: Case) -> Iterator[Case]:
    """Work on fewer octets, or with fewer children."""
    count = case.arguments["noctets"]
    arrays = case.operator.arrays_for(case.spec.types)
    for kept in parts(count):
        fewer: dict[str, Any] = {"noctets": len(kept)}
        for array in arrays:
            values = case.arguments[array.name]
            if "noctets + 1" in array.shape:
                fewer[array.name] = values[..., np.append(kept, count), :]
            elif array.shape.startswith("noctets"):
                fewer[array.name] = values[kept]
        yield changed(case, **fewer)
    yield from fewer_children(case, "octet_children", range(count))


def used(case: Case) -> dict[str, NDArray[np.intp]]:
    """Return the octets that are transformed, and their children."""
    a = case.arguments
    return {"noctets": np.arange(a["noctets"]), "nboxes": np.unique(a["octet_children"][: a["noctets"]])}


def words(case: Case) -> str:
    """Count octets, children and planes."""
    a = case.arguments
    children = int((a["octet_children"] < a["nboxes"]).sum())
    return f"{a['noctets']} octets, {children} children, {a['kz_end'] - a['kz_start']} planes"
