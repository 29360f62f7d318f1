"""Cases of any operator, made from its record: index arrays by what it runs over, all other arrays by their shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymbolic import parse
from pymbolic.mapper.evaluator import EvaluationMapper

from fmmloopy.checking.case import DEFAULT, Case, Layout
from fmmloopy.checking.over import domain_of
from fmmloopy.common.sizes import count_points
from fmmloopy.operators import Specification
from fmmloopy.operators.operator import Array, Kind, Number, Role, Side

FAR, LARGE = 2.0**26, 2.0**40
"""Whole numbers from here on are multiples of 8, and of 131,072, in float32."""

UNIT = 2.0
"""By which lengths are multiplied where near pairs are in float32."""


def make_case(spec: Specification, seed: int = 0, layout: Layout = DEFAULT) -> Case:
    """Make a case of an operator with whole-numbered data.

    Where points are in float64 and sums in float32, points and centres are FAR, where float32 rounds them, and
    potentials begin where it rounds all that is added to them. Near pairs have the points alone FAR, and lengths
    doubled: |G| <= 1010.

    Args:
        spec: what the kernel is made for; of a particle operator, with a polynomial for its Green's function.
        seed: of the random numbers.
        layout: how many boxes, points and list entries there are.
    """
    rng = np.random.default_rng(seed)
    operator, arguments = spec.operator, domain_of(spec.operator).indices(spec, rng, layout)
    for number in operator.arguments_for(spec.types):
        if isinstance(number, Number) and number.kind != Kind.INDEX:
            arguments[number.name] = float(number.whole)
    # Of two arrays with one name that of kernels that are not mixed: what mixed ones have is made of it.
    for array in (*operator.arguments, *operator.arrays_for(spec.types)):
        if isinstance(array, Array) and array.kind != Kind.INDEX and array.name not in arguments:
            arguments[array.name] = _filled(spec, array, arguments, rng, layout)
    arguments |= {name: arguments[same] for name, same in operator.aliases.items()}
    if operator.particles and spec.types.is_mixed:
        _move_far(spec, arguments)
    return Case(spec, arguments)


def shape_of(spec: Specification, array: Array, arguments: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the shape of an array, its rows in one axis."""
    shape = array.shape.format(**spec.sizes).replace("itiles, ilanes", "nrows")
    evaluate = EvaluationMapper({name: value for name, value in arguments.items() if np.isscalar(value)})
    axes = parse(f"({shape},)")
    return tuple(int(evaluate(axis)) for axis in axes)


def positions_of(side: Side) -> str:
    """Return the array that holds the coordinates of one side."""
    found = re.match(r"\w+", side.position)
    assert found
    return found[0]


def _filled(
    spec: Specification, array: Array, arguments: Mapping[str, Any], rng: np.random.Generator, layout: Layout
) -> NDArray[Any]:
    """Fill an array with whole numbers, and with poison where nothing may be read."""
    shape, dtype = shape_of(spec, array, arguments), spec.dtype_of(array.kind)
    if array.role == Role.WRITTEN:
        return np.full(shape, layout.poison, dtype)
    least, most = array.whole
    particles = spec.operator.particles
    if particles and layout.coincident and array.name in _point_arrays(spec):
        most = least
    values = rng.integers(least, most + 1, shape).astype(dtype)
    if array.has_zero_row:
        values[-1] = 0
    last = array.shape.rpartition(", ")[2]
    if last == "nsurface":
        values[..., count_points(spec.order) :] = layout.poison
    if last in ("nsources", "ntargets"):
        values[..., : layout.ahead] = layout.poison
        values[..., layout.ahead + sum(layout.sizes) :] = layout.poison
    return values


def _point_arrays(spec: Specification) -> set[str]:
    """Return the arrays that hold coordinates of points."""
    particles = spec.operator.particles
    sides = (particles.targets, particles.sources) if particles else ()
    return {positions_of(side) for side in sides if not side.is_surface}


def _move_far(spec: Specification, arguments: dict[str, Any]) -> None:
    """Move points to where float32 rounds them, and potentials to where it rounds what is added to them."""
    operator = spec.operator
    for name in _point_arrays(spec) | (set() if operator.is_near else {"centres"}):
        arguments[name] = arguments[name].astype(spec.types.outer) + FAR
    if operator.gives_potentials:
        for name in operator.outputs:
            arguments[name] += LARGE
    if operator.is_local:
        arguments |= local_arguments(arguments, UNIT)


def local_arguments(arguments: Mapping[str, Any], unit: float) -> dict[str, Any]:
    """Return what P2P in float32 has in place of sources in float64: relative to the centres of their boxes, split.

    As `fmmloopy.octree.near_pairs` does it for a tree, but not by it: a check stands on its own.
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
