"""Make cases for any operator from its record: index arrays by what it runs over, other arrays by their shapes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
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
from fmmloopy.precision import FLOAT64

FAR, LARGE = 2.0**26, 2.0**40
"""Whole numbers from here on are multiples of 8, and of 131,072, in float32."""

WIDE = 2.0**25 + 1
"""Factor of what operators are linear in, such as charges, in float64: products stay below 2^50, and float32 rounds
them. Functions of one component keep small numbers, which are easy to read: real ones are tried with one, too."""

UNIT = 2.0
"""Factor of lengths if near pairs are in float32."""


def make_case(spec: Specification, seed: int = 0, layout: Layout = DEFAULT) -> Case:
    """Make a case of an operator with whole-numbered data.

    If points are in float64 and sums in float32, points and centres are shifted by FAR, where float32 rounds them, and
    potentials start so large that float32 rounds everything added to them. For near pairs, only the points are shifted
    by FAR, and lengths are doubled: |G| <= 1010.

    Args:
        spec: the specification of the kernel; for a particle operator, the Green's function is a polynomial.
        seed: seed of the random numbers.
        layout: numbers of boxes, points and list entries.
    """
    rng = np.random.default_rng(seed)
    operator, arguments = spec.operator, domain_of(spec.operator).indices(spec, rng, layout)
    for number in operator.arguments_for(spec.types):
        if isinstance(number, Number) and number.kind != Kind.INDEX:
            arguments[number.name] = float(number.whole)
    # Of two arrays with the same name, that of unmixed kernels comes first: the mixed one is made from it.
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
    """Return the name of the array with the coordinates of one side."""
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
    is_linear = array.has_zero_row or (particles is not None and array.name == particles.sources.array)
    if is_linear and spec.types == FLOAT64 and spec.greens.nsource_components > 1:
        values *= WIDE
    if array.has_zero_row:
        values[-1] = 0
    last = array.shape.rpartition(", ")[2]
    if last == "nsurface":
        values[..., count_points(spec.order) :] = layout.poison
    if last in ("nsources", "ntargets"):
        values[..., ~points_in_boxes(arguments, last.removeprefix("n").removesuffix("s"))] = layout.poison
    if dtype.kind == "f":
        values[(values == 0) & (rng.random(shape[-1]) < 0.5)] *= -1
    return values


def points_in_boxes(arguments: Mapping[str, Any], side: str) -> NDArray[np.bool_]:
    """Return which points of a side, source or target, belong to a box."""
    change = np.zeros(arguments[f"n{side}s"] + 1, np.int64)
    np.add.at(change, arguments[f"box_{side}_starts"], 1)
    np.add.at(change, arguments[f"box_{side}_ends"], -1)
    return np.asarray(np.cumsum(change)[:-1] > 0)


def _point_arrays(spec: Specification) -> set[str]:
    """Return the names of the arrays with coordinates of points."""
    particles = spec.operator.particles
    sides = (particles.targets, particles.sources) if particles else ()
    return {positions_of(side) for side in sides if not side.is_surface}


def _move_far(spec: Specification, arguments: dict[str, Any]) -> None:
    """Shift points to where float32 rounds them, and potentials to where it rounds everything added to them."""
    operator = spec.operator
    for name in _point_arrays(spec) | (set() if operator.is_near else {"centres"}):
        arguments[name] = arguments[name].astype(spec.types.outer) + FAR
    if operator.gives_potentials:
        for name in operator.outputs:
            arguments[name] += LARGE
    if operator.is_local:
        arguments |= local_arguments(arguments, UNIT)


def local_arguments(arguments: Mapping[str, Any], unit: float) -> dict[str, Any]:
    """Return the arguments of P2P in float32 that replace sources in float64: relative to box centres, and split.

    `fmmloopy.octree.near_pairs` does the same for a tree; this code is separate, so that the check is independent.
    """
    centres = np.zeros_like(arguments["sources"])
    for box, here in _with_sources(arguments):
        centres[:, here] = arguments["centres"][:, box, None]
    offsets = unit * (arguments["sources"] - centres)
    rounded = offsets.astype(np.float32)
    return {"sources": np.stack([rounded, (offsets - rounded).astype(np.float32)]), "unit": unit}


def global_arguments(arguments: Mapping[str, Any], homogeneity: int | None) -> dict[str, Any]:
    """Return the corresponding arguments of P2P in float64: the inverse of `local_arguments`."""
    sources, unit = arguments["sources"].astype(np.float64).sum(axis=0) / arguments["unit"], arguments["unit"]
    for box, here in _with_sources(arguments):
        sources[:, here] += arguments["centres"][:, box, None]
    return {"sources": sources, "scaling": arguments["scaling"] * unit ** (homogeneity or 0)}


def _with_sources(arguments: Mapping[str, Any]) -> Iterator[tuple[int, slice]]:
    """Yield the boxes that have sources, and where these are."""
    starts, ends = arguments["box_source_starts"], arguments["box_source_ends"]
    for box in np.flatnonzero(ends > starts):
        yield int(box), slice(starts[box], ends[box])
