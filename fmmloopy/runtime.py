"""Run compiled operators: arrays on a device, launches that are bound once and replayed.

Two runtimes with the same methods: OpenCL through pyopencl, and C through the system's compiler. Arrays have room for
``PADDING`` more numbers than their shape says: idle lanes may read there.
"""

from __future__ import annotations

import ctypes
import hashlib
import math
import os
import shutil
import sqlite3
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fmmloopy.cache import cache_folder, write_atomically
from fmmloopy.compile import CompiledOperator
from fmmloopy.devices import Device, DeviceError
from fmmloopy.messages import one_line

PADDING = 256
"""Numbers behind the end of every array."""


@dataclass(frozen=True)
class Array:
    """An array on a device.

    Attributes:
        shape, dtype: what it holds.
        data: the device's handle, with PADDING more numbers than the shape says.
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
    """What the driver needs of a device."""

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


def make_runtime(device: Device, padding: int = PADDING) -> Runtime:
    """Open a device; ``padding`` is for those who want arrays to end where their shapes say."""
    return CRuntime(device) if device.kind == "c" else OpenCLRuntime(device, padding)


def launch_sizes(operator: CompiledOperator, arguments: Mapping[str, Any]) -> tuple[int, ...]:
    """Evaluate the number of work-groups on each axis."""
    from pymbolic import parse
    from pymbolic.mapper.evaluator import EvaluationMapper

    numbers = {
        name: int(arguments[name])
        for name, kind, dtype in operator.arguments
        if kind == "number" and dtype.startswith("int")
    }
    evaluate = EvaluationMapper({**numbers, "max": max, "min": min})
    return tuple(int(evaluate(parse(size))) for size in operator.global_size)


def _check_size(shape: tuple[int, ...]) -> None:
    """Refuse arrays that the 32-bit indices of generated code cannot reach."""
    if math.prod(shape) + PADDING >= 2**31:
        raise DeviceError(
            f"an array of shape {shape} has more than 2^31 numbers; use a larger ncrit, a lower order, or fewer points"
        )


def _check_arguments(operator: CompiledOperator, arguments: Mapping[str, Any]) -> None:
    """Make sure that a call gives every argument, and every array in the dtype that the code reads."""
    for name, kind, dtype in operator.arguments:
        if name not in arguments:
            raise TypeError(f"{operator.operator} needs {name}, which the call does not give")
        if kind == "array" and arguments[name].dtype != dtype:
            raise TypeError(f"{operator.operator}: {name} has dtype {arguments[name].dtype}, expected {dtype}")


SLICE = 4 * 2**20
"""Bytes that Intel's runtime is told to fill at once, since it fills large arrays slowly; PoCL's fills those fast, and
slices slowly. See docs/measurements/constants.csv."""


class OpenCLRuntime:
    """Run operators on an OpenCL device, in order, on one queue with timers."""

    def __init__(self, device: Device, padding: int = PADDING) -> None:
        # Without it, pyopencl fails where its own cache cannot be written, by looking this up.
        os.environ.setdefault("PYOPENCL_CACHE_FAILURE_FATAL", "")
        import pyopencl as cl

        self.device, self._padding = device, padding
        self._cl = cl
        self._context = cl.Context([device.handle])
        self._queue = cl.CommandQueue(self._context, properties=cl.command_queue_properties.PROFILING_ENABLE)
        self._programs: dict[str, Any] = {}

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Allocate an array of zeros."""
        dtype = np.dtype(dtype)
        numbers = max(1, math.prod(shape)) + self._padding
        _check_size(shape)
        try:
            array = Array(
                shape, dtype, self._cl.Buffer(self._context, self._cl.mem_flags.READ_WRITE, numbers * dtype.itemsize)
            )
            self._fill(array)
        except self._cl.Error as error:
            raise DeviceError(
                f"{self.device.name} cannot allocate {numbers * dtype.itemsize / 2**20:.0f} MiB ({one_line(error)}); "
                "use fewer points, a lower order, or dtype=numpy.float32"
            ) from error
        return array

    def upload(self, values: NDArray[Any]) -> Array:
        """Allocate an array and fill it."""
        array = self.zeros(values.shape, values.dtype)
        self.write(array, values)
        return array

    def write(self, array: Array, values: NDArray[Any]) -> None:
        """Fill an array with values of its shape."""
        if array.size:
            self._cl.enqueue_copy(self._queue, array.data, np.ascontiguousarray(values, array.dtype))

    def read(self, array: Array) -> NDArray[Any]:
        """Wait for all launches and return the values of an array."""
        values = np.empty(array.shape, array.dtype)
        self._cl.enqueue_copy(self._queue, values, array.data)
        return values

    def clear(self, array: Array) -> Launch:
        """Bind a launch that sets an array to zero."""
        return Launch("clear", lambda: self._fill(array), _span_seconds, {"array": array})

    def bind(self, operator: CompiledOperator, arguments: Mapping[str, Any]) -> Launch:
        """Bind a compiled operator to arrays and numbers."""
        _check_arguments(operator, arguments)
        kernel = self._kernel(operator)
        for index, (name, kind, dtype) in enumerate(operator.arguments):
            value = arguments[name]
            kernel.set_arg(index, np.dtype(dtype).type(value) if kind == "number" else value.data)
        groups = launch_sizes(operator, arguments)
        local = operator.local_size + (1,) * (len(groups) - len(operator.local_size))
        size = tuple(number * items for number, items in zip(groups, local, strict=True))
        enqueue, queue = self._cl.enqueue_nd_range_kernel, self._queue
        return Launch(operator.operator, lambda: enqueue(queue, kernel, size, local), _event_seconds, arguments)

    def run(self, launches: Sequence[Launch]) -> dict[str, float]:
        """Run launches in order, wait, and return seconds by operator."""
        try:
            events = [launch.start() for launch in launches]
            self._queue.finish()
        except self._cl.Error as error:
            raise DeviceError(
                f"{self.device.name} cannot run the operators ({one_line(error)}); if memory is short, use fewer "
                "points, a lower order, or dtype=numpy.float32"
            ) from error
        seconds: dict[str, float] = {}
        for launch, event in zip(launches, events, strict=True):
            seconds[launch.operator] = seconds.get(launch.operator, 0.0) + launch.seconds(event)
        return seconds

    def _fill(self, array: Array) -> list[Any]:
        # PoCL fills faster with a pattern of one byte than with a longer one.
        size, zero = array.data.size, np.zeros(1, np.uint8)
        step = SLICE if "CPU Intel" in self.device.description else size
        fill, queue = self._cl.enqueue_fill_buffer, self._queue
        return [fill(queue, array.data, zero, start, min(step, size - start)) for start in range(0, size, step)]

    def _kernel(self, operator: CompiledOperator) -> Any:
        """Make a kernel; without pyopencl's cache on disk from the moment that it cannot be used."""
        program = self._program(operator)
        try:
            return self._cl.Kernel(program, operator.entry)
        except sqlite3.Error:
            self._cl._PYOPENCL_NO_CACHE = True
            return self._cl.Kernel(program, operator.entry)

    def _program(self, operator: CompiledOperator) -> Any:
        if operator.source not in self._programs:
            try:
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", category=self._cl.CompilerWarning)
                    warnings.filterwarnings("ignore", message="PyOpenCL compiler caching failed")
                    program = self._cl.Program(self._context, operator.source).build(list(operator.build_options))
            except self._cl.Error as error:
                raise DeviceError(
                    f"{self.device.name} cannot compile {operator.operator}: {one_line(error)}"
                ) from error
            self._programs[operator.source] = program
        return self._programs[operator.source]


def _event_seconds(event: Any) -> float:
    return _span_seconds([event])


def _span_seconds(events: Sequence[Any]) -> float:
    """Return the seconds from the start of the first to the end of the last of commands in order."""
    return float(events[-1].profile.end - events[0].profile.start) * 1e-9


class CRuntime:
    """Run operators that loopy wrote in C, on one core."""

    FLAGS = ("-std=c99", "-O3", "-march=native", "-fPIC", "-shared", "-lm", "-include", "stdint.h")
    """The header is for the functions that loopy writes for powers."""

    def __init__(self, device: Device) -> None:
        self.device = device

    @cached_property
    def _compiler(self) -> str:
        for name in (os.environ.get("CC", ""), "cc", "gcc", "clang"):
            if name and shutil.which(name):
                return name
        raise DeviceError(
            "neither an OpenCL device nor a C compiler was found; `pip install pyopencl[pocl]` gives a device"
        )

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Allocate an array of zeros."""
        dtype = np.dtype(dtype)
        _check_size(shape)
        return Array(shape, dtype, np.zeros(math.prod(shape) + PADDING, dtype))

    def upload(self, values: NDArray[Any]) -> Array:
        """Allocate an array and fill it."""
        array = self.zeros(values.shape, values.dtype)
        self.write(array, values)
        return array

    def write(self, array: Array, values: NDArray[Any]) -> None:
        """Fill an array with values of its shape."""
        array.data[: array.size] = np.ravel(values)

    def read(self, array: Array) -> NDArray[Any]:
        """Return the values of an array."""
        values: NDArray[Any] = array.data[: array.size].reshape(array.shape).copy()
        return values

    def clear(self, array: Array) -> Launch:
        """Bind a launch that sets an array to zero."""
        return Launch("clear", lambda: _timed(lambda: array.data.fill(0)), float)

    def bind(self, operator: CompiledOperator, arguments: Mapping[str, Any]) -> Launch:
        """Bind a compiled operator to arrays and numbers."""
        _check_arguments(operator, arguments)
        if math.prod(launch_sizes(operator, arguments)) * math.prod(operator.local_size) != 1:
            raise DeviceError(f"{operator.operator}: C code has no work-groups; use the sequential recipes")
        function = getattr(self._library(operator), operator.entry)
        values = []
        for name, kind, dtype in operator.arguments:
            value = arguments[name]
            if kind == "number":
                values.append(np.ctypeslib.as_ctypes_type(np.dtype(dtype))(value))
            else:
                values.append(value.data.ctypes.data_as(ctypes.c_void_p))
        return Launch(operator.operator, lambda: _timed(lambda: function(*values)), float, arguments)

    def run(self, launches: Sequence[Launch]) -> dict[str, float]:
        """Run launches in order and return seconds by operator."""
        seconds: dict[str, float] = {}
        for launch in launches:
            seconds[launch.operator] = seconds.get(launch.operator, 0.0) + launch.seconds(launch.start())
        return seconds

    def _library(self, operator: CompiledOperator) -> ctypes.CDLL:
        """Load an operator's library, built when there is none; its file's name ends with the hash of what is in it."""
        key = hashlib.sha256(repr((operator.source, self._target, self.FLAGS)).encode()).hexdigest()[:32]
        folder = cache_folder() / "c"
        for path in sorted(folder.glob(f"{operator.operator}-{key}-*.so")):
            with suppress(OSError):
                if path.stem.endswith(hashlib.sha256(path.read_bytes()).hexdigest()):
                    return ctypes.CDLL(str(path))
        with tempfile.TemporaryDirectory(prefix="fmmloopy-") as temporary:
            built = Path(temporary) / f"{operator.operator}.so"
            self._build(operator, built)
            content = built.read_bytes()
            path = folder / f"{operator.operator}-{key}-{hashlib.sha256(content).hexdigest()}.so"
            with suppress(OSError):  # without a place to keep it, it is built each time
                write_atomically(path, content)
            return ctypes.CDLL(str(built))

    @cached_property
    def _target(self) -> str:
        """What the compiler compiles for: its version, and all that -march=native turns on."""
        command = [self._compiler, "-march=native", "-E", "-dM", "-x", "c", os.devnull]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    def _build(self, operator: CompiledOperator, library: Path) -> None:
        source = operator.source.encode()
        command = [self._compiler, "-x", "c", "-", "-o", str(library), *self.FLAGS]
        result = subprocess.run(command, input=source, capture_output=True, check=False)
        if result.returncode:
            said = " ".join(result.stderr.decode().split())[:300]
            raise DeviceError(f"{self._compiler} cannot compile {operator.operator}: {said}")


def _timed(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
