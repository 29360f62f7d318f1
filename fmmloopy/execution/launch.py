"""The interface between generated code and backends: programs, arrays, and launches, bound once and replayed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fmmloopy.common.sizes import MOST_INDEX
from fmmloopy.execution.device import Device, DeviceError, Limits


@dataclass(frozen=True)
class CompiledOperator:
    """Source of one operator for one device, and how it is launched.

    Attributes:
        operator: name of the operator.
        source: the whole program.
        entry: name of the function in it.
        arguments: in the order of the function: (name, "array" or "number", dtype).
        global_size: number of work-groups on each axis, as expressions in the arguments that are numbers.
        local_size: work-items of a group on each axis.
        lanes: lane parameters that the recipe has fixed; they determine the number of tiles.
        steps: names of the recipe's steps.
        build_options: options for the device's compiler.
        layouts: orders in memory of the axes of arguments, the slowest first, where these are not as in the index.
        kernel: identity of the kernel that it was generated from, see `fmmloopy.recipes.identity`; "" if there is none.
        generated_here: whether a process of this user has generated it, or it came with the package. Else it was read
            from a file that anybody may have written, and need not be what the kernel generates.
    """

    operator: str
    source: str
    entry: str
    arguments: tuple[tuple[str, str, str], ...]
    global_size: tuple[str, ...]
    local_size: tuple[int, ...]
    lanes: tuple[tuple[str, int], ...]
    steps: tuple[str, ...]
    build_options: tuple[str, ...]
    kernel: str = ""
    layouts: tuple[tuple[str, tuple[int, ...]], ...] = ()
    generated_here: bool = field(default=False, compare=False)


@dataclass(frozen=True)
class Array:
    """An array on a device.

    Attributes:
        shape, dtype: those of the contents.
        data: the device's handle; the buffer also includes the device's padding after the array.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    data: Any

    @property
    def size(self) -> int:
        """Number of entries, without padding."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Launch:
    """One bound call.

    Attributes:
        operator: name of the operator.
        start: starts the call and returns a token.
        seconds: returns the duration of the call with this token, once it is done.
        arguments: the bound arguments; they are kept here because a device does not keep arrays alive.
    """

    operator: str
    start: Callable[[], Any]
    seconds: Callable[[Any], float]
    arguments: Mapping[str, Any] = field(default_factory=dict, repr=False)


class Runtime(Protocol):
    """An open device."""

    device: Device

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Allocate an array of zeros."""

    def upload(self, values: NDArray[Any]) -> Array:
        """Allocate an array and fill it."""

    def write(self, array: Array, values: NDArray[Any], rows: NDArray[np.int64] | None = None) -> None:
        """Fill an array with values of its shape, or some of its rows, after all launches."""

    def read(self, array: Array, rows: NDArray[np.int64] | None = None) -> NDArray[Any]:
        """Wait for all launches and return the values of an array, or of some of its rows."""

    def clear(self, array: Array) -> Launch:
        """Bind a launch that sets an array to zero."""

    def building(self) -> AbstractContextManager[Callable[[CompiledOperator], object]]:
        """Yield a function that builds a program, so that `bind` finds it; any thread may call it."""

    def bind(self, operator: CompiledOperator, arguments: Mapping[str, Any]) -> Launch:
        """Bind a compiled operator to arrays and numbers."""

    def start(self, launches: Sequence[Launch]) -> Callable[[], dict[str, float]]:
        """Start launches in order; return a function that waits for them and returns seconds by operator."""

    def run(self, launches: Sequence[Launch]) -> dict[str, float]:
        """Run launches in order, wait, and return seconds by operator."""

    def machine_code(self, operator: CompiledOperator) -> bytes | None:
        """Compile a program and return its machine code; None if it is generated only at launch."""


def seconds_by_operator(launches: Sequence[Launch], tokens: Sequence[Any]) -> dict[str, float]:
    """Return the seconds of calls that are done, by operator.

    Args:
        launches: what was started.
        tokens: what each call has returned.
    """
    seconds: dict[str, float] = {}
    for launch, token in zip(launches, tokens, strict=True):
        seconds[launch.operator] = seconds.get(launch.operator, 0.0) + launch.seconds(token)
    return seconds


def count_tiles(boxes: int, rows: int, lanes: Mapping[str, int]) -> dict[str, int]:
    """Return how many tiles of boxes and of rows a dense product is launched with, ``btiles`` and ``itiles``.

    Proofs take these numbers for granted (`fmmloopy.checking.proof.contract`).

    Args:
        boxes: number of boxes, or of parents; the last tile may be partly filled.
        rows: length of the vectors, a multiple of the number of lanes.
        lanes: numbers of lanes that a recipe has fixed, by name.
    """
    return {"btiles": -(-boxes // lanes.get("blanes", 1)), "itiles": rows // lanes.get("ilanes", 1)}


def launch_sizes(
    operator: CompiledOperator, arguments: Mapping[str, Any], limits: Limits
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the number of work-groups, and of work-items in a group, on each axis.

    Both have the same number of axes; missing axes have size one.

    Raises:
        DeviceError: an axis has more work-groups than the device can launch.
    """
    from pymbolic import parse
    from pymbolic.mapper.evaluator import EvaluationMapper

    numbers = {
        name: int(arguments[name])
        for name, kind, dtype in operator.arguments
        if kind == "number" and dtype.startswith("int")
    }
    evaluate = EvaluationMapper({**numbers, "max": max, "min": min})
    groups = tuple(int(evaluate(parse(size))) for size in operator.global_size)
    for axis, (count, most) in enumerate(zip(groups, limits.most_groups, strict=False)):
        if count > most:
            raise DeviceError(
                f"{operator.operator} has {count} work-groups on axis {axis}, expected {most} at most; put the loop "
                "with the most boxes on axis 0"
            )
    axes = max(len(groups), len(operator.local_size))
    filled = (sizes + (1,) * (axes - len(sizes)) for sizes in (groups, operator.local_size))
    return next(filled), next(filled)


def check_size(shape: tuple[int, ...], limits: Limits) -> None:
    """Raise an error for arrays that are too large for the 32-bit indices of generated code."""
    if math.prod(shape) + limits.padding >= limits.most_numbers:
        most = limits.most_numbers
        shown = f"2^{most.bit_length() - 1}" if most & (most - 1) == 0 else most
        raise DeviceError(
            f"an array of shape {shape} has more than {shown} numbers; use a larger ncrit, a lower order, or fewer "
            "points"
        )


def check_arguments(operator: CompiledOperator, arguments: Mapping[str, Any]) -> None:
    """Make sure that a call has every argument, every array in the dtype that the code reads, and no other counts.

    Proofs take for granted that counts lie in this range (`fmmloopy.checking.proof.contract`).
    """
    for name, kind, dtype in operator.arguments:
        if name not in arguments:
            raise TypeError(f"{operator.operator} needs {name}, which is missing in the call")
        if kind == "number" and dtype.startswith("int") and not 0 <= arguments[name] <= MOST_INDEX:
            raise ValueError(f"{operator.operator}: {name} is {arguments[name]}, expected 0 to {MOST_INDEX}")
        if kind == "array" and arguments[name].dtype != dtype:
            raise TypeError(f"{operator.operator}: {name} has dtype {arguments[name].dtype}, expected {dtype}")
