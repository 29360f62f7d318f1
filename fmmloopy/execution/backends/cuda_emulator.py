"""CUDA text on the processor, for checking recipes without a GPU: a C++ compiler, and work-items as fibres.

The program is the text that a GPU gets. The work-items of a group run one after the other from barrier to barrier, and
each launch runs in three orders of groups and work-items, from the same contents of its arrays. Results that depend on
the order reveal a missing barrier, two work-items that write the same number, or local memory that is read before it is
written. Barriers that not all work-items reach are errors, and so are indices beyond an array in local or private
memory, and 32-bit indices that overflow.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmmloopy.common.turns import Turn
from fmmloopy.execution.backends import cuda_text
from fmmloopy.execution.backends.backend import CUDA, Family
from fmmloopy.execution.backends.c import CRuntime
from fmmloopy.execution.backends.cuda_shim import LAUNCH, SHIM
from fmmloopy.execution.device import EMULATOR, GPU, Device, DeviceError, gpu_limits
from fmmloopy.execution.launch import CompiledOperator, Launch, Runtime, check_arguments, launch_sizes

EMULATED_DEVICE = Device(
    "cuda-emulator",
    "emulated CUDA GPU",
    "emulated CUDA GPU (as CUDA text, by emulation)",
    "1",
    kind=GPU,
    runtime=EMULATOR,
    vendor="nvidia",
    cores=1,
    width=32,
    limits=gpu_limits(1, 0, cuda_text.MOST_GROUPS),
)
"""A GPU that is this machine's processor."""

ORDERS = 3
"""Orders of groups and work-items: upwards, downwards, scrambled."""

_RUNNING = Turn()
"""Held during a launch: local memory and fibres are static data of a program."""


class CudaEmulatorBackend:
    """CUDA text, compiled for the processor by a C++ compiler; only for checking."""

    name = "cuda-emulator"
    language = CUDA
    probe_header = ""
    has_groups = True
    has_vectors = False
    has_rsqrt = False
    prelude = cuda_text.PRELUDE
    no_code = ""
    last_resort = ""
    hidden = True

    def find_devices(self) -> Sequence[Device]:
        """Return the one device."""
        return [EMULATED_DEVICE]

    def trouble(self) -> str:
        """Return nothing: a missing compiler is reported when it is needed."""
        return ""

    def rank(self, device: Device) -> int:
        """Return 0: there is only one."""
        return 0

    def label(self, device: Device) -> str:
        """Return the device's name."""
        return device.name

    def family(self, device: Device) -> Family:
        """Return GPUs: recipes are for these, not for the emulator."""
        return Family("GPUs", (("kind", GPU),))

    def retarget(self, kernel: Any) -> Any:
        """Return a kernel for which loopy generates CUDA C++."""
        return cuda_text.retarget(kernel)

    def open(self, device: Device, padding: int) -> Runtime:
        """Return a runtime on one core."""
        return EmulatorRuntime(device, padding)

    def code_environment(self, device: Device, folder: Path) -> dict[str, str]:
        """Raise an error: the processor's machine code says nothing about a GPU's."""
        raise DeviceError(f"{device.name} has no machine code of a GPU")

    def launched_name(self, device: Device, entry: str) -> str:
        """Return the name of the function itself."""
        return entry


class EmulatorRuntime(CRuntime):
    """Run CUDA text on one core of the processor."""

    FLAGS = (
        "-std=c++17",
        "-O1",
        "-ffp-contract=off",
        "-fsanitize=bounds,signed-integer-overflow",
        "-fsanitize-undefined-trap-on-error",
        "-fPIC",
        "-shared",
        "-w",
    )

    @cached_property
    def _compiler(self) -> str:
        for name in (os.environ.get("CXX", ""), "g++", "clang++", "c++"):
            if name and shutil.which(name):
                return name
        raise DeviceError("the emulator needs a C++ compiler: none of $CXX, g++, clang++, c++ was found")

    def building(self) -> AbstractContextManager[Callable[[CompiledOperator], object]]:
        """Yield a function that builds a library, which the cache keeps."""
        return nullcontext(lambda operator: self._load(operator.source, operator.entry))

    def bind(self, operator: CompiledOperator, arguments: Mapping[str, Any]) -> Launch:
        """Bind a compiled operator to arrays and numbers."""
        check_arguments(operator, arguments)
        groups, items = launch_sizes(operator, arguments, self.device.limits)
        cuda_text.check_items(operator.operator, items)
        program = EmulatedProgram(self._load(operator.source, operator.entry), operator.operator)
        arrays = {name: arguments[name].data for name, kind, _ in operator.arguments if kind == "array"}
        values = [
            arrays[name] if kind == "array" else np.dtype(dtype).type(arguments[name])
            for name, kind, dtype in operator.arguments
        ]

        def start() -> float:
            began = time.perf_counter()
            program.run(groups, items, values, arrays)
            return time.perf_counter() - began

        return Launch(operator.operator, start, float, arguments)

    def _load(self, source: str, entry: str) -> ctypes.CDLL:
        """Build the library of a program, or load it."""
        text = SHIM + source + LAUNCH.replace("ENTRY", entry)
        return self._library(CompiledOperator(entry, text, entry, (), (), (), (), (), ()))

    def _build(self, operator: CompiledOperator, library: Path) -> None:
        command = [self._compiler, "-x", "c++", "-", "-o", str(library), *self.FLAGS]
        result = subprocess.run(command, input=operator.source.encode(), capture_output=True, check=False)
        if result.returncode:
            said = " ".join(result.stderr.decode().split())[:300]
            raise DeviceError(f"{self._compiler} cannot compile {operator.operator}: {said}")


class EmulatedProgram:
    """A loaded program.

    Args:
        library: from the text between `SHIM` and `LAUNCH`.
        operator: name of the operator, for messages.
    """

    def __init__(self, library: ctypes.CDLL, operator: str) -> None:
        self._library, self._operator = library, operator
        library.fmmloopy_local_bytes.restype = ctypes.c_long

    def run(
        self,
        groups: Sequence[int],
        items: Sequence[int],
        values: Sequence[Any],
        arrays: Mapping[str, NDArray[Any]],
    ) -> None:
        """Run a launch in all orders, each from the same contents of the arrays.

        Args:
            groups, items: work-groups, and work-items of a group, on each axis.
            values: the arguments: arrays and numbers of numpy.
            arrays: the arrays among them, by name.

        Raises:
            DeviceError: not all work-items reach a barrier, results depend on the order, or there is too much local
                memory.
        """
        used = int(self._library.fmmloopy_local_bytes())
        if used > cuda_text.LOCAL_BYTES:
            raise DeviceError(
                f"{self._operator} declares {used} bytes of local memory, expected {cuda_text.LOCAL_BYTES} at most; "
                "stage smaller tiles"
            )
        with _RUNNING:
            before = {name: array.copy() for name, array in arrays.items()}
            first: dict[str, NDArray[Any]] = {}
            for order in range(ORDERS):
                for name, array in arrays.items():
                    array[...] = before[name]
                self._launch(groups, items, values, order)
                for name, array in arrays.items():
                    if order and array.tobytes() != first[name].tobytes():
                        raise DeviceError(
                            f"{name} depends on the order in which work-items run: a barrier is missing, two "
                            "work-items write the same number, or local memory is read before it is written"
                        )
                first = {name: array.copy() for name, array in arrays.items()}

    def _launch(self, groups: Sequence[int], items: Sequence[int], values: Sequence[Any], order: int) -> None:
        sizes = [(ctypes.c_uint * 3)(*some, *(1,) * (3 - len(some))) for some in (groups, items)]
        numbers = [np.array([value.ctypes.data if value.ndim else value]) for value in values]
        pointers = (ctypes.c_void_p * len(numbers))(*(number.ctypes.data for number in numbers))
        wrong = self._library.fmmloopy_launch(pointers, *sizes, order)
        lines = (ctypes.c_int * 2)()
        self._library.fmmloopy_lines(lines)
        if wrong == 1:
            raise DeviceError(f"some work-items end while others wait at the barrier in line {lines[0]}")
        if wrong == 2:
            raise DeviceError(f"work-items wait at different barriers, in lines {lines[0]} and {lines[1]}")
