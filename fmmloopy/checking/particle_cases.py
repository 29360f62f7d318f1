"""Cases of the operators on particles."""

from __future__ import annotations

from typing import Any

import numpy as np

from fmmloopy.checking.case import PADDING, Case, Layout, nsurface_of, padded, ragged_lists, whole
from fmmloopy.greens import GreensFunction
from fmmloopy.surfaces import count_points


def particle_case(
    operator: str, greens: GreensFunction, order: int, dtype: Any, rng: np.random.Generator, layout: Layout
) -> Case:
    """Points in 0 .. 4, charges in -1 .. 1: |G| <= 230; a box sees at most 260 sources or 80 surfaces of 26 points."""
    nboxes, npoints, nsurface = len(layout.sizes), count_points(order), nsurface_of(order)
    starts = (np.cumsum([0, *layout.sizes]) + layout.ahead).astype(np.int32)
    count = int(starts[-1])
    rows, columns = greens.ntarget_components, greens.nsource_components
    list_starts, lists = ragged_lists(rng, nboxes, layout.lists)
    point_output = operator in ("p2p", "l2p", "m2p")
    checks = whole(rng, (nboxes + 1, rows, nsurface), 9, dtype)
    checks[..., npoints:] = layout.poison
    densities = whole(rng, (nboxes + 1, columns, nsurface), 1, dtype)
    densities[..., npoints:] = layout.poison
    surface = rng.integers(-1, 2, (3, npoints)).astype(dtype)
    target_boxes = rng.permutation(nboxes)
    if point_output and operator != "p2p":
        target_boxes = target_boxes[: max(nboxes - 2, 1)]
    most, poison = (1 if layout.coincident else 5), layout.poison
    arguments: dict[str, Any] = {
        "targets": padded(rng.integers(0, most, (3, count)).astype(dtype), poison=poison),
        "sources": padded(rng.integers(0, most, (3, count)).astype(dtype), poison=poison),
        "charges": padded(whole(rng, (columns, count), 1, dtype), poison=poison),
        "potentials": padded(whole(rng, (rows, count), 9, dtype), poison=poison),
        "checks": checks,
        "densities": densities,
        "surface": padded(surface, nsurface - npoints, poison),
        "centres": rng.integers(0, 3, (3, nboxes)).astype(dtype),
        "radii": rng.integers(1, 3, nboxes).astype(dtype),
        "radius_factor": 1.0,
        "scaling": 2.0,
        "box_source_starts": starts[:-1].copy(),
        "box_source_ends": starts[1:].copy(),
        "box_target_starts": starts[:-1].copy(),
        "box_target_ends": starts[1:].copy(),
        "target_boxes": target_boxes.astype(np.int32),
        "list_starts": list_starts,
        "lists": lists,
        "ntarget_boxes": len(target_boxes),
        "nboxes": nboxes,
        "nsources": count + PADDING,
        "ntargets": count + PADDING,
        "npoints": npoints,
        "nsurface": nsurface,
    }
    for name in ("targets", "sources", "charges", "potentials"):
        arguments[name][:, : layout.ahead] = poison
    output = "potentials" if point_output else "checks"
    return Case(operator, greens, order, dtype, arguments, (output,))
