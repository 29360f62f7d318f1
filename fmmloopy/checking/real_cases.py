"""Cases with numbers that are not whole, and the magnitudes of the terms of their sums."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmmloopy.checking.case import DEFAULT, Case, Layout
from fmmloopy.checking.cases import global_arguments, local_arguments, make_case, points_in_boxes, positions_of
from fmmloopy.checking.over.octets import surface_grid
from fmmloopy.checking.over.units import pairs_of
from fmmloopy.components import by_vector
from fmmloopy.greens import GreensFunction
from fmmloopy.operators import Specification
from fmmloopy.precision import FLOAT64

SCALES = {(8, 0): 1e140, (8, 1): 1e95, (4, 0): 1e16, (4, 1): 1e11}
"""Largest scale of boxes with one source each, by bytes of a number and by whether there are derivatives; the smallest
is its inverse. Squares, and cubes for derivatives, and their inverses are normal numbers."""

NEAR = 1e-6
"""Distance of some points if P2P has coordinates in float64 and computes in float32: with rounded coordinates, only one
digit of it would be left."""

GRID = 2.0**40
"""Such points are multiples of 1 / GRID, and centres are multiples of 1/8: differences between them are exact, and
coinciding points coincide in all precisions."""

RADIUS_FACTOR = 2.95
"""Radius factor of surfaces, large enough that no point is near them."""


def real_case(spec: Specification, seed: int = 0, layout: Layout = DEFAULT) -> Case:
    """Make a case with numbers that are not whole, for a real Green's function.

    Points are drawn from boxes of half width 1 around whole-numbered centres, and some coincide; surfaces enclose the
    boxes with no points near them. If the layout is scaled, all charges have the same sign, and distances are within
    SCALES.
    """
    case, rng = make_case(spec, seed, layout), np.random.default_rng(seed + 1)
    particles = spec.operator.particles
    arguments = dict(case.arguments)
    zero_rows = {array.name for array in spec.operator.arrays_for(spec.types) if array.has_zero_row}
    for name, value in arguments.items():
        if isinstance(value, np.ndarray) and value.dtype.kind == "f":
            one_sign = layout.scaled and particles is not None and name == particles.sources.array
            noise = np.asarray(rng.uniform(0.5 if one_sign else -1, 1, value.shape))
            noise[np.isnan(value)] = np.nan
            if name in zero_rows:
                noise[-1] = 0
            arguments[name] = noise.astype(value.dtype)
    arguments |= {name: arguments[same] for name, same in spec.operator.aliases.items()}
    if particles:
        arguments |= _points(spec, arguments, rng)
        if layout.scaled:
            arguments |= _single(spec, arguments, rng)
        if spec.operator.is_local and spec.types.is_mixed:
            unit = 1.0 if spec.greens.homogeneity is None else 8.0
            arguments |= local_arguments(arguments, unit)
            arguments["scaling"] *= unit ** -(spec.greens.homogeneity or 0)
    return Case(spec, arguments)


def _points(spec: Specification, arguments: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """Draw points around centres, and surfaces around them."""
    outer, inner = spec.types.outer, spec.types.inner
    local = spec.operator.is_local and spec.types.is_mixed
    count, nboxes = max(arguments["nsources"], arguments["ntargets"]), arguments["nboxes"]
    positions = rng.uniform(-1, 1, (3, count))
    positions[:, count // 2 :: 5] = positions[:, count // 2][:, None]
    if local:
        near = positions[:, 1::7]
        near[...] = positions[:, ::7][:, : near.shape[1]] + NEAR * rng.standard_normal(near.shape)
        positions = np.round(positions * GRID) / GRID
    centres = rng.uniform(-0.25, 0.25, (3, nboxes))
    surface = np.full((3, arguments["nsurface"]), np.nan, inner)
    surface[:, : arguments["npoints"]] = surface_grid(spec.order) * (2.0 / (spec.order - 1)) - 1
    points = {side: positions[:, : arguments[f"n{side}s"]].astype(outer) for side in ("target", "source")}
    for side, values in points.items():
        values[:, ~points_in_boxes(arguments, side)] = np.nan
    return {
        "targets": points["target"],
        "sources": points["source"],
        "surface": surface,
        "radii": np.ones(nboxes, inner),
        "centres": (np.round(8 * centres) / 8 if local else centres).astype(outer),
        "radius_factor": RADIUS_FACTOR,
        "scaling": spec.greens.scaling,
        **spec.greens.arguments,
    }


def _single(spec: Specification, arguments: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """Give every box a scale, and a list with only the next box; results start at zero."""
    outer, inner, nboxes = spec.types.outer, spec.types.inner, arguments["nboxes"]
    particles = spec.operator.particles
    assert particles
    largest = SCALES[inner.itemsize, int(spec.greens.nderivatives > 0)]
    scales = rng.permutation(np.geomspace(1 / largest, largest, nboxes))
    following = np.roll(np.arange(nboxes), -1)
    targets = rng.uniform(-0.5, 0.5, (3, nboxes))
    away = rng.standard_normal((3, nboxes))
    # If both sides are points, they are apart, so that their difference is as accurate as they are.
    sources = targets + away / np.linalg.norm(away, axis=0) * rng.uniform(1, 2, nboxes)
    if not spec.operator.is_near:
        sources = rng.uniform(-1, 1, (3, nboxes))
    radii = np.empty(nboxes)
    radii[np.arange(nboxes) if particles.targets.is_surface else following] = scales
    moved = np.empty_like(sources)
    moved[:, following] = scales * sources
    if particles.is_mutual:  # pairs of a box and the next one, on the scale of the first
        numbers = np.arange(nboxes, dtype=np.int32)
        places = np.where(numbers % 2, scales[numbers - 1] * sources, scales * targets)
        return {
            "sources": _padded(places.astype(outer), arguments["nsources"]),
            "centres": np.zeros((3, nboxes), outer),
            "unit_starts": np.array([0, nboxes // 4, nboxes // 2], np.int32),
            "nunits": 2,
            "pair_targets": numbers[:-1:2],
            "pair_sources": numbers[1::2],
            **{name: 0 * arguments[name] for name in spec.operator.outputs},
        }
    return {
        "targets": _padded((scales * targets).astype(outer), arguments["ntargets"]),
        "sources": _padded(moved.astype(outer), arguments["nsources"]),
        "radii": radii.astype(inner),
        "centres": np.zeros((3, nboxes), outer),
        "list_starts": np.arange(nboxes + 1, dtype=np.int32),
        "lists": following.astype(np.int32),
        **{name: 0 * arguments[name] for name in spec.operator.outputs},
    }


def _padded(points: NDArray[Any], length: int) -> NDArray[Any]:
    """Append NaN, which must not be used."""
    values = np.full((3, length), np.nan, points.dtype)
    values[:, : points.shape[1]] = points
    return values


def widened(case: Case) -> Case:
    """Return a case with the same numbers in float64."""
    arguments = {
        name: value.astype(np.float64) if isinstance(value, np.ndarray) and value.dtype.kind == "f" else value
        for name, value in case.arguments.items()
    }
    if case.operator.is_local and case.spec.types.is_mixed:
        arguments |= global_arguments(arguments, case.spec.greens.homogeneity)
    return Case(replace(case.spec, types=FLOAT64), arguments)


def term_magnitudes(case: Case, results: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return, for every entry of the outputs, the sum of the magnitudes of the terms that add up to it.

    For particle operators it is computed in numpy; the magnitude of a term is replaced by its change with the distance
    if that is larger, because rounding the distance loses that much. For dense products and transforms, whose terms are
    random and of similar size, the largest result of the array is used instead: sums of up to 4,000 random terms are
    about a sixtieth of the sum of their magnitudes, so this is the stricter measure.

    Args:
        case: a case in float64.
        results: results of the sequential kernel.
    """
    particles = case.operator.particles
    if particles is None:
        return {name: np.full(values.shape, np.nanmax(np.abs(values))) for name, values in results.items()}
    a, name = case.arguments, particles.targets.array
    magnitudes = np.abs(a[name])
    surface = a["radius_factor"] * a["surface"][:, : a["npoints"]]
    for box, entries in _coupled(case):
        here = slice(a["box_target_starts"][box], a["box_target_ends"][box])
        y, q = _sources_of(case, entries, surface)
        where: Any = (slice(None), here)
        if particles.targets.is_surface:
            x, where = a["radii"][box] * surface + a["centres"][:, box, None], (box, slice(None), slice(a["npoints"]))
        else:
            side = "source" if particles.is_mutual else "target"
            x = a[positions_of(particles.targets)][:, a[f"box_{side}_starts"][box] : a[f"box_{side}_ends"][box]]
        values = _condition(case.spec.greens, x[:, :, None] - y[:, None, :])
        by_charges = np.einsum("ijts,vjs->vit", values, np.abs(by_vector(q, case.spec.greens.vectors)))
        vectors, rows, ntargets = by_charges.shape  # no targets, if a pair of boxes has an empty one
        magnitudes[where] += by_charges.reshape(vectors * rows, ntargets)
    return {name: magnitudes}


def _coupled(case: Case) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield the boxes with targets, and the entries of their lists."""
    a, particles = case.arguments, case.operator.particles
    assert particles
    if particles.is_mutual:
        for pair in pairs_of(case):
            yield int(pair[0]), pair[1:]
            yield int(pair[1]), pair[:1]
        return
    boxes = a["target_boxes"]
    has_work = a["list_starts"][boxes + 1] > a["list_starts"][boxes]
    if not particles.targets.is_surface:
        has_work &= a["box_target_ends"][boxes] > a["box_target_starts"][boxes]
    for box in boxes[has_work].tolist():
        yield box, a["lists"][a["list_starts"][box] : a["list_starts"][box + 1]]


def _sources_of(case: Case, entries: NDArray[Any], surface: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the positions and charges of all sources of list entries."""
    a, particles = case.arguments, case.operator.particles
    assert particles
    charges = a[particles.sources.array]
    if particles.sources.is_surface:
        positions = a["centres"][:, entries, None] + a["radii"][entries, None] * surface[:, None, :]
        densities = charges[entries, :, : a["npoints"]].transpose(1, 0, 2)
        return positions.reshape(3, -1), densities.reshape(len(densities), -1)
    starts, ends = a["box_source_starts"][entries], a["box_source_ends"][entries]
    points = np.concatenate([np.arange(start, end) for start, end in zip(starts, ends, strict=True)])
    return a[positions_of(particles.sources)][:, points], charges[:, points]


def _condition(greens: GreensFunction, d: NDArray[Any]) -> NDArray[Any]:
    """Return the magnitude of a Green's function, or of r dG/dr if that is larger."""
    step = 1e-4
    change = (greens.evaluate((1 + step) * d) - greens.evaluate((1 - step) * d)) / (2 * step)
    magnitudes: NDArray[Any] = np.maximum(np.abs(greens.evaluate(d)), np.abs(change))
    return magnitudes
