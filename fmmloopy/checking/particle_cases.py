"""Cases of the operators on particles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fmmloopy.checking.case import PADDING, Case, Layout, nsurface_of, padded, ragged_lists, whole
from fmmloopy.greens import GreensFunction
from fmmloopy.precision import outer_and_inner
from fmmloopy.surfaces import count_points

FAR, LARGE = 2.0**26, 2.0**40
"""Whole numbers from here on are multiples of 8, and of 131,072, in float32."""


def local_arguments(arguments: Mapping[str, Any], unit: float) -> dict[str, Any]:
    """Return what P2P in float32 has in place of sources in float64: relative to the centres of their boxes, split.

    As `fmmloopy.near_field` does it for a tree, but not by it: a check stands on its own.
    """
    centres = np.zeros_like(arguments["sources"])
    starts, ends = arguments["box_source_starts"], arguments["box_source_ends"]
    for box, (start, end) in enumerate(zip(starts, ends, strict=True)):
        centres[:, start:end] = arguments["centres"][:, box, None]
    offsets = unit * (arguments["sources"] - centres)
    rounded = offsets.astype(np.float32)
    return {"sources": np.stack([rounded, (offsets - rounded).astype(np.float32)]), "unit": unit}


def global_arguments(arguments: Mapping[str, Any], homogeneity: int | None) -> dict[str, Any]:
    """Return what P2P in float64 has in place of that: the inverse of `local_arguments`."""
    sources, unit = arguments["sources"].astype(np.float64).sum(axis=0) / arguments["unit"], arguments["unit"]
    starts, ends = arguments["box_source_starts"], arguments["box_source_ends"]
    for box, (start, end) in enumerate(zip(starts, ends, strict=True)):
        sources[:, start:end] += arguments["centres"][:, box, None]
    return {"sources": sources, "scaling": arguments["scaling"] * unit ** (homogeneity or 0)}


def particle_case(
    operator: str, greens: GreensFunction, order: int, dtype: Any, rng: np.random.Generator, layout: Layout
) -> Case:
    """Points in 0 .. 4, charges in -1 .. 1: |G| <= 230; a box sees at most 260 sources or 80 surfaces of 26 points.

    Where points are in float64 and sums in float32, points and centres are FAR, where float32 rounds them, and
    potentials begin where it rounds all that is added to them. P2P has the points alone FAR, and lengths doubled:
    |G| <= 1010.
    """
    outer, inner = outer_and_inner(dtype)
    nboxes, npoints, nsurface = len(layout.sizes), count_points(order), nsurface_of(order)
    starts = (np.cumsum([0, *layout.sizes]) + layout.ahead).astype(np.int32)
    count = int(starts[-1])
    rows, columns = greens.ntarget_components, greens.nsource_components
    list_starts, lists = ragged_lists(rng, nboxes, layout.lists)
    point_output = operator in ("p2p", "l2p", "m2p")
    checks = whole(rng, (nboxes + 1, rows, nsurface), 9, inner)
    checks[..., npoints:] = layout.poison
    densities = whole(rng, (nboxes + 1, columns, nsurface), 1, inner)
    densities[..., npoints:] = layout.poison
    surface = rng.integers(-1, 2, (3, npoints)).astype(inner)
    target_boxes = rng.permutation(nboxes)
    if point_output and operator != "p2p":
        target_boxes = target_boxes[: max(nboxes - 2, 1)]
    most, poison = (1 if layout.coincident else 5), layout.poison
    arguments: dict[str, Any] = {
        "targets": padded(rng.integers(0, most, (3, count)).astype(outer), poison=poison),
        "sources": padded(rng.integers(0, most, (3, count)).astype(outer), poison=poison),
        "charges": padded(whole(rng, (columns, count), 1, inner), poison=poison),
        "potentials": padded(whole(rng, (rows, count), 9, outer), poison=poison),
        "checks": checks,
        "densities": densities,
        "surface": padded(surface, nsurface - npoints, poison),
        "centres": rng.integers(0, 3, (3, nboxes)).astype(outer),
        "radii": rng.integers(1, 3, nboxes).astype(inner),
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
        arguments[name][..., : layout.ahead] = poison
    if outer != inner:
        for name in ("targets", "sources", *([] if operator == "p2p" else ["centres"])):
            arguments[name] += FAR
        arguments["potentials"] += LARGE
    if operator == "p2p" and outer != inner:
        arguments |= local_arguments(arguments, 2.0)
    output = "potentials" if point_output else "checks"
    return Case(operator, greens, order, dtype, arguments, (output,))
