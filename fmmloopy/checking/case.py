"""Small problems for single operators, on which any correct schedule gives identical bits.

Data are small whole numbers, Green's functions are polynomials, and matrices are random whole numbers, so small that
every product and every partial sum is a whole number below 2^24, which float32 and float64 represent exactly.
Floating-point arithmetic is then exact, however a recipe reorders, tiles or fuses it: a dropped, doubled or misplaced
term cannot hide behind a tolerance.

Boxes have all sizes around the numbers of lanes, and some are empty; lists are empty, short and long. Some zeros are
negative. Every output starts with whole numbers too, and with NaN where nothing may be read or written.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmmloopy.common.sizes import LANES
from fmmloopy.execution.devices import DeviceError
from fmmloopy.execution.launch import CompiledOperator, count_tiles
from fmmloopy.execution.runtime import Array, Runtime
from fmmloopy.greens import GreensFunction
from fmmloopy.operators import Specification
from fmmloopy.operators.operator import Operator
from fmmloopy.recipes.layouts import as_in_memory, from_memory

SIZES = (0, 1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 2, 0, 40)
"""Points of the boxes: none, one, and one less and one more than every number of lanes up to 32."""

PAIR_COUNTS = (0, 1, 2, 3, 4, 5, 7, 8, 9)
"""Pairs by chunk and group, in turn: none, and around the widths of blocks."""

EXACT_LIMIT = 2**24
"""Whole numbers below this are exact in float32."""

POLYNOMIAL = GreensFunction("polynomial", (("d0*(d1 + 2)*(d2 + 3) + 2*d1*d1",),))
"""A Green's function without symmetry, whole-numbered for whole-numbered differences."""

POLYNOMIAL_2X2 = GreensFunction(
    "polynomial_2x2", (("d0 + 2*d1", "d2*d2 + 1"), ("d0*d1 + 3", "d1 + d2 + 5*d0")), nderivatives=1
)
"""Two components on both sides; the second row is declared as a derivative, but is not one."""

POLYNOMIALS = (POLYNOMIAL, POLYNOMIAL_2X2)

POLYNOMIAL_3X3 = GreensFunction(
    "polynomial_3x3",
    (("d0 + 2*d1", "d2*d2 + 1", "d1 - 3"), ("d0*d1 + 3", "d1 + d2 + 5*d0", "d0 - d2"), ("d2", "2*d0 - 7", "d1*d2 + 1")),
)
"""Three components on both sides, without symmetry."""

POLYNOMIAL_4X3 = GreensFunction(
    "polynomial_4x3",
    (
        ("d0 + 2*d1", "d2*d2 + 1", "d1 - 3"),
        ("d0*d1 + 3", "d1 + d2 + 5*d0", "d0 - d2"),
        ("d2 + 4", "2*d0 - 7", "d1*d2 + 1"),
        ("d1 - d0", "d0*d2 + 2", "3*d2 - d1"),
    ),
    nderivatives=3,
)
"""More rows than columns; all rows but the first are declared as derivatives, as those of a gradient are."""

POLYNOMIAL_1X6 = GreensFunction(
    "polynomial_1x6", (("d0 + 2*d1", "d2*d2 + 1", "d1 - 3", "d0*d1 + 3", "d1 + d2 + 5*d0", "d0 - d2"),)
)
"""More columns than rows: vectors that are long at low orders already."""


@dataclass(frozen=True)
class Layout:
    """The sizes of a case.

    Attributes:
        name: what is special about it.
        sizes: points of each box (particle operators); of their sources alone if there are target_sizes.
        lists: entries of the list of each box; None for all boxes, none, and random numbers of them.
        blocks: boxes (dense products) or octets (transforms) to work on; None for a few.
        pairs: pairs by chunk and group, in turn.
        present: fraction of children that exist.
        coincident: whether all points are in one place.
        ahead: points before those of the first box, which belong to no box; some more of targets if there are
            target_sizes.
        poison: value where nothing may be read, and in outputs that must be overwritten.
        target_sizes: targets of each box, if they are others than the sources; the points of the boxes are then in
            another order than the boxes, with gaps in between.
        boxes: number of boxes, if most of them have nothing; the others have numbers from the first to the last.
        idle: number of list entries of a box that is not worked on, or tiles of singular values of a transfer vector
            without pairs; those of most others come after them.
        skipped: number of boxes that are not worked on; None for few.
        tables: number of tables, and the index of the one that is used.
        chunks: number of chunks; if there are many, most have no pairs.
        tiles: largest number of tiles of singular values of a transfer vector.
        frequencies: number of frequencies, and the first and the end of those that are worked on.
        scaled: whether numbers that are not whole have a scale for each box, and lists only the next box.
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
    target_sizes: tuple[int, ...] | None = None
    boxes: int = 0
    idle: int = 0
    skipped: int | None = None
    tables: tuple[int, int] = (2, 1)
    chunks: int = 2
    tiles: int = 3
    frequencies: tuple[int, int, int] = (7, 2, 6)
    scaled: bool = False


DEFAULT = Layout()
"""The layout of the exact layer."""

SINGLE = Layout("one source each", sizes=(1,) * 150, lists=(1,), scaled=True)
"""Sums of one term or over one surface, each on its own scale, so that errors of terms cannot average out."""


@dataclass(frozen=True)
class Case:
    """Arguments of one operator.

    Attributes:
        spec: the specification of its kernel.
        arguments: arrays and numbers by name, except for numbers of tiles, which `arguments_for` adds; ``nrows`` is the
            length of the vectors that dense operators write.
    """

    spec: Specification
    arguments: Mapping[str, Any]

    @property
    def operator(self) -> Operator:
        """The operator that the arguments are for."""
        return self.spec.operator

    def arguments_for(self, lanes: Mapping[str, int]) -> dict[str, Any]:
        """Return all arguments, including the numbers of tiles for these lanes."""
        arguments = dict(self.arguments)
        tiles = count_tiles(arguments.get("nblocks", 0), arguments.get("nrows", 0), lanes)
        if "nrows" in arguments:
            arguments["itiles"] = tiles["itiles"]
        if "nblocks" in arguments:
            arguments["btiles"] = tiles["btiles"]
        return arguments


def run_case(case: Case, code: CompiledOperator, runtime: Runtime) -> dict[str, NDArray[Any]]:
    """Run compiled code on fresh copies of a case's arrays, with NaN after their ends, and return its outputs.

    Arrays are in memory as the recipe has ordered their axes.

    Raises:
        DeviceError: the device cannot run the code, or the code wrote past the end of an output.
    """
    arguments, layouts = case.arguments_for(dict(code.lanes)), dict(code.layouts)
    uploaded = {
        k: _upload(runtime, k, as_in_memory(v, layouts.get(k))) if isinstance(v, np.ndarray) else v
        for k, v in arguments.items()
    }
    uploaded |= {name: uploaded[same] for name, same in case.operator.aliases.items()}
    runtime.run([runtime.bind(code, uploaded)])
    outputs: dict[str, NDArray[Any]] = {}
    for name in case.operator.outputs:
        shape, values = arguments[name].shape, runtime.read(uploaded[name])
        outputs[name] = from_memory(values[: math.prod(shape)], shape, layouts.get(name))
        if not np.isnan(values[math.prod(shape) :]).all():
            raise DeviceError(f"{name} is written past its end")
    return outputs


def _upload(runtime: Runtime, name: str, values: NDArray[Any]) -> Array:
    """Upload an array followed by LANES numbers that idle lanes may read, but never use.

    After the last group of something, there is one of one entry, as in programs of `fmmloopy.checking.reproducer`.
    """
    after = np.nan if values.dtype.kind == "f" else values[-1] + 1 if name.endswith("_starts") else 0
    return runtime.upload(np.concatenate([values.ravel(), np.full(LANES, after, values.dtype)]))


def identical(a: NDArray[Any], b: NDArray[Any]) -> bool:
    """Return whether two arrays have the same values; NaN equals NaN, and signs of zero are ignored."""
    return bool(np.array_equal(a, b, equal_nan=True))
