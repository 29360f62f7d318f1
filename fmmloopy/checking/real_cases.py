"""Cases with numbers that are not whole, and the size of the terms of their sums."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmmloopy.checking.case import DEFAULT, POLYNOMIALS, Case, Layout, padded, surface_grid
from fmmloopy.checking.cases import make_case
from fmmloopy.checking.particle_cases import global_arguments, local_arguments
from fmmloopy.compile import PARTICLE_OPERATORS
from fmmloopy.greens import GreensFunction
from fmmloopy.precision import outer_and_inner

SINGLE = Layout("one source each", sizes=(1,) * 150, lists=(1,))
"""Sums of one term or over one surface, in which errors of terms cannot average out, each on a scale of its own."""

SCALES = (1e-10, 1e5)
"""From the least to the greatest of those scales: squares, and inverse cubes, are normal numbers in float32."""

NEAR = 1e-6
"""Distance of some points where P2P has coordinates in float64 and computes in float32: rounded coordinates would leave
one digit of it."""

GRID = 2.0**40
"""There these points are multiples of 1 / GRID, and centres of 1/8: differences between them are exact, and coinciding
points coincide in all precisions."""


def real_case(
    operator: str, greens: GreensFunction, dtype: Any, order: int = 3, seed: int = 0, layout: Layout = DEFAULT
) -> Case:
    """Make a case with numbers that are not whole, for a Green's function itself.

    Points are drawn from boxes of half width 1 around whole-numbered centres, some of them coincident; surfaces lie
    around the boxes, so that no point is near them. With the layout SINGLE, all charges have one sign, and distances
    are within SCALES.
    """
    plain = POLYNOMIALS[0] if operator not in PARTICLE_OPERATORS else greens
    case = make_case(operator, plain, dtype, order, seed, layout)
    rng = np.random.default_rng(seed + 1)
    arguments = dict(case.arguments)
    for name, value in arguments.items():
        if isinstance(value, np.ndarray) and value.dtype.kind == "f":
            one_sign = layout is SINGLE and name in ("charges", "densities")
            noise = rng.uniform(0.5 if one_sign else -1, 1, value.shape)
            vanishes = (value == 0) if name in ("multipoles", "locals", "check") else np.False_
            arguments[name] = np.where(np.isnan(value), np.nan, np.where(vanishes, 0, noise)).astype(value.dtype)
    if operator in ("m2m", "l2l"):
        arguments["result"] = arguments["multipoles" if operator == "m2m" else "locals"]
    if operator in PARTICLE_OPERATORS:
        grid = surface_grid(order) * (2.0 / (order - 1)) - 1
        count = int(arguments["box_source_ends"][-1])
        positions = rng.uniform(-1, 1, (3, count))
        positions[:, count // 2 :: 5] = positions[:, count // 2][:, None]
        outer, inner = outer_and_inner(case.dtype)
        local = operator == "p2p" and outer != inner
        if local:
            near = positions[:, 1::7]
            near[...] = positions[:, ::7][:, : near.shape[1]] + NEAR * rng.standard_normal(near.shape)
            positions = np.round(positions * GRID) / GRID
        for name in ("targets", "sources"):
            arguments[name] = padded(positions.astype(outer))
        arguments["surface"] = padded(grid.astype(inner), arguments["nsurface"] - arguments["npoints"])
        arguments["radii"] = np.ones(arguments["nboxes"], inner)
        centres = rng.uniform(-0.25, 0.25, (3, arguments["nboxes"]))
        arguments["centres"] = (np.round(8 * centres) / 8 if local else centres).astype(outer)
        arguments |= {"radius_factor": 2.95, "scaling": greens.scaling, **greens.arguments}
        if layout is SINGLE:
            arguments |= _single_arguments(operator, arguments, case.dtype, rng)
        if local:
            unit = 1.0 if greens.homogeneity is None else 8.0
            arguments |= local_arguments(arguments, unit)
            arguments["scaling"] *= unit ** -(greens.homogeneity or 0)
    return Case(operator, case.greens, order, case.dtype, arguments, case.output, case.blocks)


def _single_arguments(
    operator: str, arguments: Mapping[str, Any], dtype: Any, rng: np.random.Generator
) -> dict[str, Any]:
    """Give every box a scale and the next box for its list; results start at zero."""
    outer, inner = outer_and_inner(dtype)
    nboxes = arguments["nboxes"]
    scales = rng.permutation(np.geomspace(*SCALES, nboxes))
    following = np.roll(np.arange(nboxes), -1)
    targets = rng.uniform(-0.5, 0.5, (3, nboxes))
    away = rng.standard_normal((3, nboxes))
    # Where both sides are points, they are apart, so that their difference is as accurate as they are.
    sources = targets + away / np.linalg.norm(away, axis=0) * rng.uniform(1, 2, nboxes)
    if operator != "p2p":
        sources = rng.uniform(-1, 1, (3, nboxes))
    radii = np.empty(nboxes)
    radii[np.arange(nboxes) if operator in ("p2m", "p2l") else following] = scales
    moved = np.empty_like(sources)
    moved[:, following] = scales * sources
    output = "checks" if operator in ("p2m", "p2l") else "potentials"
    return {
        "targets": padded((scales * targets).astype(outer)),
        "sources": padded(moved.astype(outer)),
        "radii": radii.astype(inner),
        "centres": np.zeros((3, nboxes), outer),
        "list_starts": np.arange(nboxes + 1, dtype=np.int32),
        "lists": following.astype(np.int32),
        output: 0 * arguments[output],
    }


def widened(case: Case) -> Case:
    """Return the same numbers as a case in float64."""
    arguments = {
        name: value.astype(np.float64) if isinstance(value, np.ndarray) and value.dtype.kind == "f" else value
        for name, value in case.arguments.items()
    }
    if "unit" in arguments:
        arguments |= global_arguments(arguments, case.greens.homogeneity)
    return replace(case, dtype=np.dtype(np.float64), arguments=arguments)


def term_magnitudes(case: Case, results: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return, for every entry of the outputs, the sum of the magnitudes of the terms that add up to it.

    For particle operators that is the sum itself, in numpy, where a term counts as much as it changes with the
    distance, if that is more: what is lost when a distance is rounded. For dense products and transforms, whose terms
    are random and of one size, the largest result of the array stands for it: sums of up to 4,000 random terms are
    about a sixtieth of the sum of their magnitudes, so this is the stricter measure.

    Args:
        case: in float64.
        results: what the sequential kernel gives.
    """
    if case.operator not in PARTICLE_OPERATORS:
        return {name: np.full(values.shape, np.nanmax(np.abs(values))) for name, values in results.items()}
    a, name = case.arguments, case.output[0]
    magnitudes = np.abs(a[name])
    surface = a["radius_factor"] * a["surface"][:, : a["npoints"]]
    for box in a["target_boxes"]:
        here = slice(a["box_target_starts"][box], a["box_target_ends"][box])
        for source in a["lists"][a["list_starts"][box] : a["list_starts"][box + 1]]:
            there = slice(a["box_source_starts"][source], a["box_source_ends"][source])
            x, y, q = a["targets"][:, here], a["sources"][:, there], a["charges"][:, there]
            where: Any = (slice(None), here)
            if case.operator in ("p2m", "p2l"):
                x, y = a["radii"][box] * surface, y - a["centres"][:, box, None]
                where = (box, slice(None), slice(0, a["npoints"]))
            elif case.operator != "p2p":
                x, y = x - a["centres"][:, source, None], a["radii"][source] * surface
                q = a["densities"][source, :, : a["npoints"]]
            values = _condition(case.greens, x[:, :, None] - y[:, None, :])
            magnitudes[where] += np.einsum("ijts,js->it", values, np.abs(q))
    return {name: magnitudes}


def _condition(greens: GreensFunction, d: NDArray[Any]) -> NDArray[Any]:
    """Return the magnitude of a Green's function, or of r dG/dr if that is larger."""
    step = 1e-4
    change = (greens.evaluate((1 + step) * d) - greens.evaluate((1 - step) * d)) / (2 * step)
    magnitudes: NDArray[Any] = np.maximum(np.abs(greens.evaluate(d)), np.abs(change))
    return magnitudes
