"""What passes between generated code and a backend: programs, arrays, and launches that are bound once and replayed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fmmloopy.execution.device import Device, DeviceError, Limits


@dataclass(frozen=True)
class CompiledOperator:
    """Source of one operator for one device, and how it is launched.

    Attributes:
        operator: its name.
        source: the whole program.
        entry: name of the function in it.
        arguments: in the order of the function: (name, "array" or "number", dtype).
        global_size: number of work-groups on each axis, as expressions in the arguments that are numbers.
        local_size: work-items of a group on each axis.
        lanes: lane parameters that the recipe has fixed; they decide how many tiles there are.
        steps: names of the recipe's steps.
        build_options: for the device's compiler.
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

    @property
    def identity(self) -> str:
        """A hash of what runs: the source and how it is launched; how it came about does not matter."""
        launch = self.entry, self.arguments, self.global_size, self.local_size, self.lanes, self.build_options
        return hashlib.sha256(repr((self.source, launch)).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Array:
    """An array on a device.

    Attributes:
        shape, dtype: what it holds.
        data: the device's handle, with as many more numbers than the shape says as the device pads arrays by.
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
        operator: what it runs.
        start: begins it and returns a token.
        seconds: tells how long the call behind a token ran, once it is done.
        arguments: what it is bound to; a device does not keep the arrays of a launch alive.
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

    def write(self, array: Array, values: NDArray[Any]) -> None:
        """Fill an array with values of its shape."""

    def read(self, array: Array) -> NDArray[Any]:
        """Wait for all launches and return the values of an array."""

    def clear(self, array: Array) -> Launch:
        """Bind a launch that sets an array to zero."""

    def bind(self, operator: CompiledOperator, arguments: Mapping[str, Any]) -> Launch:
        """Bind a compiled operator to arrays and numbers."""

    def run(self, launches: Sequence[Launch]) -> dict[str, float]:
        """Run launches in order, wait, and return seconds by operator."""

    def machine_code(self, operator: CompiledOperator) -> bytes | None:
        """Compile a program and return the device's code for it; None if that is made only when it is launched."""


def launch_sizes(
    operator: CompiledOperator, arguments: Mapping[str, Any], limits: Limits
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the number of work-groups on each axis, and of work-items of a group.

    Both have as many axes: where a kernel uses more of one than of the other, sizes are filled up with ones.

    Raises:
        DeviceError: an axis has more work-groups than the device launches.
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
    """Refuse arrays that the 32-bit indices of generated code cannot reach."""
    if math.prod(shape) + limits.padding >= limits.most_numbers:
        most = limits.most_numbers
        shown = f"2^{most.bit_length() - 1}" if most & (most - 1) == 0 else most
        raise DeviceError(
            f"an array of shape {shape} has more than {shown} numbers; use a larger ncrit, a lower order, or fewer "
            "points"
        )


def check_arguments(operator: CompiledOperator, arguments: Mapping[str, Any]) -> None:
    """Make sure that a call gives every argument, and every array in the dtype that the code reads."""
    for name, kind, dtype in operator.arguments:
        if name not in arguments:
            raise TypeError(f"{operator.operator} needs {name}, which the call does not give")
        if kind == "array" and arguments[name].dtype != dtype:
            raise TypeError(f"{operator.operator}: {name} has dtype {arguments[name].dtype}, expected {dtype}")
