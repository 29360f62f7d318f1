"""C through the system's compiler: one core, without work-groups; always available, but slow."""

from __future__ import annotations

import ctypes
import math
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmmloopy.common.store import ENVIRONMENT_VARIABLE, keep_program, kept_program, write_cached
from fmmloopy.execution.backends.backend import C, Family
from fmmloopy.execution.device import CPU, Device, DeviceError, Limits
from fmmloopy.execution.launch import (
    Array,
    CompiledOperator,
    Launch,
    Runtime,
    check_arguments,
    check_size,
    launch_sizes,
    seconds_by_operator,
)

PROBE_HEADER = """
#pragma GCC optimize ("-ffp-contract=fast", "-fno-math-errno")
#include <math.h>
#include <string.h>
#define KERNEL
#define GLOBAL
#define LOCAL_ITEM 0
#define ITEM 0
#define AS_V(x) ((V) (x))
#define AS_L(x) ((L) (x))
#define SQRT_DIV(x) do {{ {real} t[{width}]; memcpy(t, &x, sizeof t); \
  for (int l = 0; l < {width}; ++l) t[l] = a / {sqrt}(t[l]); memcpy(&x, t, sizeof t); }} while (0)
typedef {real} V __attribute__((vector_size({nbytes})));
typedef {real} M __attribute__((vector_size({nbytes}), aligned({itemsize}), may_alias));
typedef unsigned {whole} L __attribute__((vector_size({nbytes})));
"""
"""Macros and types for the programs of `fmmloopy.measuring.probes`."""

C_DEVICE = Device(
    "c",
    "C compiler",
    "c CPU through the system's C compiler, sequential",
    kind=CPU,
    runtime="c",
    cores=1,
    limits=Limits(groups=1),
)
"""The processor through loopy's C target: always available, but slow."""


class CBackend:
    """The processor through the system's C compiler."""

    name = "c"
    language = C
    probe_header = PROBE_HEADER
    has_groups = False
    has_vectors = True
    has_rsqrt = False
    prelude = "#include <stdint.h>\n"
    """For the functions that loopy writes for powers."""
    no_code = "; for device 'c' use recipes='sequential'"
    last_resort = (
        "no OpenCL device was found: running sequentially through the C compiler; "
        "`pip install pyopencl[pocl]` gives a device that runs on any processor"
    )
    hidden = False

    def find_devices(self) -> Sequence[Device]:
        """Return the one device."""
        return [C_DEVICE]

    def trouble(self) -> str:
        """Return nothing: it is always there."""
        return ""

    def rank(self, device: Device) -> int:
        """Return 0: there is only one."""
        return 0

    def label(self, device: Device) -> str:
        """Return the device's name."""
        return device.name

    def family(self, device: Device) -> Family:
        """Return this device."""
        return Family("the C compiler", (("runtime", device.runtime),))

    def retarget(self, kernel: Any) -> Any:
        """Return a kernel for which loopy generates C."""
        import loopy as lp

        return kernel.copy(target=lp.CTarget())

    def open(self, device: Device, padding: int) -> Runtime:
        """Return a runtime on one core."""
        return CRuntime(device, padding)

    def code_environment(self, device: Device, folder: Path) -> dict[str, str]:
        """Redirect fmmloopy's cache, which has the libraries, to the folder."""
        return {ENVIRONMENT_VARIABLE: str(folder)}

    def launched_name(self, device: Device, entry: str) -> str:
        """Return the name of the function itself."""
        return entry


# -- launches


class CRuntime:
    """Run operators that loopy wrote in C, on one core."""

    FLAGS: tuple[str, ...] = ("-std=c99", "-O3", "-march=native", "-fPIC", "-shared", "-lm")

    def __init__(self, device: Device, padding: int) -> None:
        self.device, self._padding = device, padding

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
        check_size(shape, self.device.limits)
        return Array(shape, dtype, np.zeros(math.prod(shape) + self._padding, dtype))

    def upload(self, values: NDArray[Any]) -> Array:
        """Allocate an array and fill it."""
        array = self.zeros(values.shape, values.dtype)
        self.write(array, values)
        return array

    def write(self, array: Array, values: NDArray[Any], rows: NDArray[np.int64] | None = None) -> None:
        """Fill an array with values of its shape, or some of its rows."""
        _shaped(array)[... if rows is None else rows] = values

    def read(self, array: Array, rows: NDArray[np.int64] | None = None) -> NDArray[Any]:
        """Return the values of an array, or of some of its rows."""
        values = _shaped(array)
        return values.copy() if rows is None else values[rows]

    def clear(self, array: Array) -> Launch:
        """Bind a launch that sets an array to zero."""
        return Launch("clear", lambda: _timed(lambda: array.data.fill(0)), float)

    def building(self) -> AbstractContextManager[Callable[[CompiledOperator], object]]:
        """Yield a function that builds a library, which the cache keeps."""
        return nullcontext(self._library)

    def bind(self, operator: CompiledOperator, arguments: Mapping[str, Any]) -> Launch:
        """Bind a compiled operator to arrays and numbers."""
        check_arguments(operator, arguments)
        groups, local = launch_sizes(operator, arguments, self.device.limits)
        if math.prod(groups) * math.prod(local) != 1:
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

    def start(self, launches: Sequence[Launch]) -> Callable[[], dict[str, float]]:
        """Run launches in order; return a function that returns seconds by operator."""
        seconds = seconds_by_operator(launches, [launch.start() for launch in launches])
        return lambda: seconds

    def run(self, launches: Sequence[Launch]) -> dict[str, float]:
        """Run launches in order and return seconds by operator."""
        return self.start(launches)()

    def machine_code(self, operator: CompiledOperator) -> bytes | None:
        """Return None: the library of a launched program is in the cache folder."""
        return None

    def _library(self, operator: CompiledOperator) -> ctypes.CDLL:
        """Load an operator's library, or build it; the name of its file ends with the hash of its content."""
        where = "c", operator.operator, repr((operator.source, self._target, self.FLAGS)), ".so"
        if found := kept_program(*where):
            path, content = found
            with suppress(OSError):
                if not path.exists():
                    write_cached(path, content)
                return ctypes.CDLL(str(path))
        with tempfile.TemporaryDirectory(prefix="fmmloopy-") as temporary:
            built = Path(temporary) / f"{operator.operator}.so"
            self._build(operator, built)
            keep_program(*where, built.read_bytes())
            return ctypes.CDLL(str(built))

    @cached_property
    def _target(self) -> str:
        """The target of the compiler: its version, and everything that -march=native enables."""
        command = [self._compiler, "-march=native", "-E", "-dM", "-x", "c", os.devnull]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    def _build(self, operator: CompiledOperator, library: Path) -> None:
        source = operator.source.encode()
        command = [self._compiler, "-x", "c", "-", "-o", str(library), *self.FLAGS]
        result = subprocess.run(command, input=source, capture_output=True, check=False)
        if result.returncode:
            said = " ".join(result.stderr.decode().split())[:300]
            raise DeviceError(f"{self._compiler} cannot compile {operator.operator}: {said}")


def _shaped(array: Array) -> NDArray[Any]:
    """Return a view of an array without its padding."""
    values: NDArray[Any] = array.data[: array.size].reshape(array.shape)
    return values


def _timed(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
