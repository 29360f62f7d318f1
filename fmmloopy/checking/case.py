"""Small problems for single operators, on which any right schedule gives identical bits.

Data are small whole numbers, Green's functions polynomials, matrices random whole numbers, sized so that every
product and every partial sum is a whole number below 2^24, which float32 and float64 hold exactly. Floating-point
arithmetic is then exact, however a recipe reorders, tiles or fuses it: a dropped, doubled or misplaced term cannot
hide behind a tolerance.

Boxes have all sizes around the widths of lanes, some are empty; lists are empty, short and long. Every output starts as
whole numbers too, with NaN where nothing may be read or written.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmmloopy.compile import PARTICLE_OPERATORS
from fmmloopy.devices import DeviceError
from fmmloopy.execution.launch import CompiledOperator
from fmmloopy.greens import GreensFunction
from fmmloopy.runtime import Array, Runtime
from fmmloopy.surfaces import count_points

ROWS = 16
PADDING = 64

SIZES = (0, 1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 2, 0, 40)
"""Points of the boxes: none, one, and one less and one more than every width of lanes up to 32."""

PAIR_COUNTS = (0, 1, 2, 3, 4, 5, 7, 8, 9)
"""Pairs by chunk and direction, in turn: none, and around the widths of blocks."""

EXACT_LIMIT = 2**24
"""Whole numbers below this are exact in float32."""

POLYNOMIAL = GreensFunction("polynomial", (("d0*(d1 + 2)*(d2 + 3) + 2*d1*d1",),))
"""A Green's function without symmetry, whole-numbered for whole-numbered differences."""

POLYNOMIAL_2X2 = GreensFunction(
    "polynomial_2x2", (("d0 + 2*d1", "d2*d2 + 1"), ("d0*d1 + 3", "d1 + d2 + 5*d0")), nderivatives=1
)
"""Two components on both sides; the second row counts as a derivative, and is none."""

POLYNOMIALS = (POLYNOMIAL, POLYNOMIAL_2X2)


@dataclass(frozen=True)
class Layout:
    """How many of everything a case has.

    Attributes:
        name: what is special about it.
        sizes: points of the boxes (particle operators).
        lists: entries of the list of each box, None for all boxes, none, and random numbers of them.
        blocks: boxes (dense products) or octets (transforms) that are worked on, None for some.
        pairs: pairs of octets by chunk and direction, in turn (products of M2L's FFT form); of boxes by chunk and
            transfer vector (compressed M2L).
        present: share of children that are there.
        coincident: whether all points are in one place.
        ahead: points before those of the first box, which belong to none.
        poison: what stands where nothing may be read, and in outputs that are to be overwritten.
    """

    name: str = "boxes and lists of many sizes"
    sizes: tuple[int, ...] = SIZES
    lists: tuple[int, ...] | None = None
    blocks: int | None = None
    pairs: tuple[int, ...] = PAIR_COUNTS
    present: float = 0.6
    coincident: bool = False
    ahead: int = 0
    poison: float = float("nan")


DEFAULT = Layout()
"""The layout of the exact layer."""


@dataclass(frozen=True)
class Case:
    """Arguments of one operator.

    Attributes:
        operator: its name.
        greens, order, dtype: what its kernel is made for; the dtype is numpy's, or `fmmloopy.precision.MIXED`.
        arguments: arrays and numbers by name; tile counts are left to `arguments_for`.
        output: names of the arrays that are written.
        blocks: entries of the list of boxes and rows of the output, for operators that work on blocks, else None.
    """

    operator: str
    greens: GreensFunction
    order: int
    dtype: Any
    arguments: Mapping[str, Any]
    output: tuple[str, ...]
    blocks: tuple[int, int] | None = None

    def arguments_for(self, lanes: Mapping[str, int]) -> dict[str, Any]:
        """Return all arguments, with the numbers of tiles that these lanes give."""
        arguments = dict(self.arguments)
        if self.blocks:
            arguments["btiles"] = -(-self.blocks[0] // lanes.get("blanes", 1))
            arguments["itiles"] = self.blocks[1] // lanes.get("ilanes", 1)
        return arguments

    def describe(self) -> str:
        """Say in words how large the case is."""
        a = self.arguments
        if self.operator in PARTICLE_OPERATORS:
            boxes = a["target_boxes"][: a["ntarget_boxes"]]
            entries = np.concatenate([a["lists"][a["list_starts"][b] : a["list_starts"][b + 1]] for b in boxes])
            targets = int((a["box_target_ends"] - a["box_target_starts"])[boxes].sum())
            sources = int((a["box_source_ends"] - a["box_source_starts"])[entries].sum())
            sides = {
                "p2p": f"{targets} targets, {sources} sources",
                "p2m": f"{sources} sources",
                "p2l": f"{sources} sources",
            }
            points = sides.get(self.operator, f"{targets} targets")
            return f"{len(boxes)} target boxes, {len(entries)} list entries, {points}"
        if self.operator in ("m2m", "l2l"):
            rows = a["parents"][: a["nparents"]]
            return f"{len(rows)} parents, {int((a['children'][rows] < a['nboxes']).sum())} children"
        if self.operator == "m2l":
            rows = a["target_boxes"][: a["ntargets"]]
            return f"{len(rows)} target boxes, {int(np.diff(a['list_starts'])[rows].sum())} list entries"
        if self.operator == "m2l_svd":
            return f"{a['pair_starts'][-1]} pairs of boxes"
        if self.operator == "check_to_equivalent":
            return f"{a['ntargets']} boxes"
        if self.operator == "m2l_hadamard":
            return f"{a['pair_starts'][-1]} pairs of octets, {a['f_end'] - a['f_start']} frequencies"
        children = int((a["octet_children"] < a["nboxes"]).sum())
        return f"{a['noctets']} octets, {children} children, {a['kz_end'] - a['kz_start']} planes"


def run_case(case: Case, code: CompiledOperator, runtime: Runtime) -> dict[str, NDArray[Any]]:
    """Run compiled code on fresh copies of a case's arrays, with NaN behind their ends, and return its outputs.

    Raises:
        DeviceError: the device cannot run it, or it has written behind the end of an output.
    """
    arguments = case.arguments_for(dict(code.lanes))
    uploaded = {k: _upload(runtime, v) if isinstance(v, np.ndarray) else v for k, v in arguments.items()}
    for same, other in (("result", "multipoles"), ("result", "locals")):
        if case.operator in ("m2m", "l2l") and same in uploaded and other in uploaded:
            uploaded[same] = uploaded[other]
    runtime.run([runtime.bind(code, uploaded)])
    outputs: dict[str, NDArray[Any]] = {}
    for name in case.output:
        shape, values = arguments[name].shape, runtime.read(uploaded[name])
        outputs[name] = values[: math.prod(shape)].reshape(shape)
        if not np.isnan(values[math.prod(shape) :]).all():
            raise DeviceError(f"{name} is written to behind its end")
    return outputs


def _upload(runtime: Runtime, values: NDArray[Any]) -> Array:
    """Upload an array with PADDING numbers behind it that idle lanes may read, but never use."""
    tail = np.full(PADDING, np.nan if values.dtype.kind == "f" else 0, values.dtype)
    return runtime.upload(np.concatenate([values.ravel(), tail]))


def identical(a: NDArray[Any], b: NDArray[Any]) -> bool:
    """Return whether two arrays hold the same values, NaN where the other has NaN, and signs of zero aside."""
    return bool(np.array_equal(a, b, equal_nan=True))


def whole(rng: np.random.Generator, shape: tuple[int, ...], most: int, dtype: Any) -> NDArray[Any]:
    """Draw whole numbers from -most to most."""
    return rng.integers(-most, most + 1, shape).astype(dtype)


def padded(values: NDArray[Any], padding: int = PADDING, poison: float = np.nan) -> NDArray[Any]:
    """Append what nobody may use to the last axis."""
    return np.concatenate([values, np.full((*values.shape[:-1], padding), poison, values.dtype)], axis=-1)


def ragged_lists(
    rng: np.random.Generator, nboxes: int, counts: tuple[int, ...] | None
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Make lists of distinct boxes: the first box sees all, the second none, others some; or as many as are counted."""
    rows = [rng.permutation(nboxes)[: rng.integers(0, 7)] for _ in range(nboxes)]
    rows[:2] = [rng.permutation(nboxes), np.empty(0, np.intp)][:nboxes]
    if counts is not None:
        rows = [rng.permutation(nboxes)[: counts[box % len(counts)]] for box in range(nboxes)]
    starts = np.cumsum([0, *map(len, rows)])
    return starts.astype(np.int32), np.concatenate(rows).astype(np.int32)


def nsurface_of(order: int) -> int:
    """Return the number of points of a surface, padded."""
    return -(-count_points(order) // ROWS) * ROWS


def surface_grid(order: int) -> NDArray[np.int32]:
    """Return grid coordinates of the points of a surface, shape (3, npoints)."""
    points = np.stack(np.meshgrid(*[np.arange(order)] * 3, indexing="ij")).reshape(3, -1)
    return points[:, ((points == 0) | (points == order - 1)).any(axis=0)].astype(np.int32)
