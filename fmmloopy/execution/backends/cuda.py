"""NVIDIA's GPUs through cuda.core; no other module uses it.

Programs are compiled by NVRTC for the compute capability of the device. A device has one stream, and every launch is
timed by events on it. With $FMMLOOPY_CUDA_GRAPH=1, launches that are run again become a CUDA graph, which is one launch
for the host.
"""

from __future__ import annotations

import ctypes
import importlib.util
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmmloopy.common.messages import one_line
from fmmloopy.common.turns import BUILDING
from fmmloopy.execution.backends import cuda_text, nvrtc
from fmmloopy.execution.backends.backend import CUDA, Family
from fmmloopy.execution.device import GPU, Device, DeviceError, gpu_limits
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

GRAPH_VARIABLE = "FMMLOOPY_CUDA_GRAPH"
"""The environment variable that makes graphs of launches; "" or "0" is off."""

VISIBLE_VARIABLE = "CUDA_VISIBLE_DEVICES"
"""NVIDIA's environment variable that hides devices from a process."""

KEPT_GRAPHS = 8
"""Graphs that a device keeps: an evaluation has one, with and without gradients and for every chunk of charges."""

ALIGNMENT = 256
"""Sizes of allocations are multiples of this."""

LOST = ("ILLEGAL_ADDRESS", "LAUNCH_FAILED", "LAUNCH_TIMEOUT", "ECC_UNCORRECTABLE", "ASSERT", "HARDWARE", "MISALIGNED",
        "ILLEGAL_INSTRUCTION", "INVALID_PC", "INVALID_ADDRESS_SPACE", "DEVICE_UNAVAILABLE", "DEVICE_LOST",
        "CONTEXT_IS_DESTROYED")  # fmt: skip
"""Parts of the names of errors after which a process cannot use the device any more."""

PROBE_HEADER = """
#define KERNEL extern "C" __global__ void __launch_bounds__({local})
#define GLOBAL
#define restrict __restrict__
#define LOCAL_ITEM ((int) threadIdx.x)
#define ITEM ((int) (blockIdx.x * blockDim.x + threadIdx.x))
#define AS_V(x) as_{real}(x)
#define AS_L(x) as_u{whole}(x)
#define SQRT_DIV(x) x = a / {sqrt}(x)
typedef {real} V;
typedef V M;
"""
"""Macros and types for the programs of `fmmloopy.measuring.probes`."""


class CudaBackend:
    """NVIDIA's GPUs through the CUDA driver."""

    name = "cuda"
    language = CUDA
    probe_header = cuda_text.PRELUDE.replace("{", "{{").replace("}", "}}") + PROBE_HEADER
    has_groups = True
    has_vectors = False
    has_rsqrt = False
    prelude = cuda_text.PRELUDE
    no_code = ""
    last_resort = ""
    hidden = False

    def find_devices(self) -> Sequence[Device]:
        """Return the GPUs that $CUDA_VISIBLE_DEVICES lets this process see."""
        return _search()[0]

    def trouble(self) -> str:
        """Return why there are no GPUs: no driver, no cuda.core, an old driver, or hidden or old GPUs."""
        return _search()[1]

    def rank(self, device: Device) -> int:
        """Return 0: the driver lists the fastest first."""
        return 0

    def label(self, device: Device) -> str:
        """Return the device's name."""
        return device.name

    def family(self, device: Device) -> Family:
        """Return GPUs through CUDA."""
        return Family("GPUs through CUDA", (("backend", self.name),))

    def retarget(self, kernel: Any) -> Any:
        """Return a kernel for which loopy generates CUDA C++."""
        return cuda_text.retarget(kernel)

    def open(self, device: Device, padding: int) -> Runtime:
        """Open a device, with its own stream."""
        if device.handle is None:
            found = next((d for d in self.find_devices() if d.description == device.description), None)
            if found is None:
                raise DeviceError(
                    f"{device.description!r} was not found{f': {reason}' if (reason := self.trouble()) else ''}; "
                    "fmmloopy.find_devices() lists all devices"
                )
            device = found
        return CudaRuntime(device, padding, as_graphs=os.environ.get(GRAPH_VARIABLE, "0") not in ("", "0"))

    def code_environment(self, device: Device, folder: Path) -> dict[str, str]:
        """Return nothing: the runtime has the machine code of its programs."""
        return {}

    def launched_name(self, device: Device, entry: str) -> str:
        """Return the name of the function itself."""
        return entry


# -- devices


def has_driver() -> bool:
    """Return whether the library of NVIDIA's driver loads."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


def has_packages() -> bool:
    """Return whether the packages of the extra ``cuda`` are installed, without importing them."""
    try:
        return all(importlib.util.find_spec(name) is not None for name in ("cuda.core", "cuda.bindings"))
    except ModuleNotFoundError:
        return False


def _search() -> tuple[list[Device], str]:
    """Return all GPUs, and if there are none, the reason. Nothing of CUDA is imported on machines without a driver."""
    if not has_driver():
        return [], "no NVIDIA driver was found"
    if not has_packages():
        return [], f"an NVIDIA driver was found, but not cuda.core; `{nvrtc.INSTALL}` installs it"
    try:
        import cuda.core as core
        from cuda.bindings import driver

        supported = _driver_version(driver)
        if supported[0] < nvrtc.version()[0]:
            ours = nvrtc.version()[0]
            return [], (
                f"NVIDIA's driver is for CUDA {supported[0]}.{supported[1]}, but the packages are for CUDA {ours}; "
                f'update the driver, or `pip install "cuda-bindings=={supported[0]}.*" '
                f"nvidia-cuda-nvrtc-cu{supported[0]}`"
            )
        devices = [_device_of(handle, driver, supported) for handle in core.Device.get_all_devices()]
    except Exception as error:  # a broken or missing library, a driver that refuses: whatever it is, there is no CUDA
        hidden = f" (${VISIBLE_VARIABLE} is {os.environ[VISIBLE_VARIABLE]!r})" if VISIBLE_VARIABLE in os.environ else ""
        return [], f"CUDA cannot be used: {one_line(error)}{hidden}"
    if not devices and VISIBLE_VARIABLE in os.environ:
        return [], f"${VISIBLE_VARIABLE} is {os.environ[VISIBLE_VARIABLE]!r} and hides all GPUs; unset it"
    known = [device for device in devices if _capability(device) in nvrtc.architectures()]
    if devices and not known:
        oldest = min(nvrtc.architectures())
        return [], (
            f"{devices[0].name} has compute capability {_words(devices[0].version)}, but NVRTC "
            f"{'.'.join(map(str, nvrtc.version()))} needs {oldest // 10}.{oldest % 10} at least; "
            "`pip install nvidia-cuda-nvrtc-cu12` installs an older one"
        )
    return known, "" if known else "no NVIDIA GPU was found"


def _device_of(handle: Any, driver: Any, supported: tuple[int, int]) -> Device:
    """Describe a GPU.

    Args:
        handle: a device of cuda.core.
        driver: the module of bindings to the driver.
        supported: version of CUDA that the driver supports.
    """
    facts, capability = handle.properties, (int(handle.compute_capability[0]), int(handle.compute_capability[1]))
    memory = int(_driver_call(driver.cuDeviceTotalMem(handle.device_id)))
    words = f"cuda GPU {handle.name} sm_{capability[0]}{capability[1]} {facts.multiprocessor_count} SMs"
    ratio = int(facts.single_to_double_precision_perf_ratio)
    share, cores = 1 / ratio if ratio else 0.0, int(facts.multiprocessor_count)
    groups = (facts.max_grid_dim_x, facts.max_grid_dim_y, facts.max_grid_dim_z)
    return Device(
        "cuda",
        handle.name,
        f"{words} {memory / 2**30:.0f} GiB" + (f" number {handle.device_id}" if handle.device_id else ""),
        f"CUDA {_words(supported)}, NVRTC {_words(nvrtc.version())}",
        True,
        handle,
        kind=GPU,
        runtime="cuda",
        version=capability,
        vendor="nvidia",
        cores=cores,
        memory=memory,
        cache=int(facts.l2_cache_size),
        width=int(facts.warp_size),
        float64_share=share,
        limits=gpu_limits(cores, memory, tuple(map(int, groups)), share),
    )


def _capability(device: Device) -> int:
    return 10 * device.version[0] + device.version[1]


def _words(version: Sequence[int]) -> str:
    return ".".join(map(str, version))


def _driver_version(driver: Any) -> tuple[int, int]:
    version = int(_driver_call(driver.cuDriverGetVersion()))
    return version // 1000, version % 1000 // 10


def _driver_call(result: Any) -> Any:
    """Return what a function of the driver has returned after its status.

    Raises:
        DeviceError: the status is an error.
    """
    status, *values = result
    if int(status):
        raise DeviceError(status.name)
    return values[0] if values else None


# -- launches


class CudaRuntime:
    """Run operators on a GPU, in order, on one stream.

    Args:
        device: the device, with its handle.
        padding: additional numbers after the end of every array.
        as_graphs: whether launches that are run again become a graph.
    """

    def __init__(self, device: Device, padding: int, as_graphs: bool = False) -> None:
        import cuda.core as core
        from cuda.bindings import driver

        self.device, self._padding, self._as_graphs = device, padding, as_graphs
        self._core, self._driver, self._process = core, driver, os.getpid()
        self._programs: dict[str, Any] = {}
        self._seconds: dict[tuple[int, ...], dict[str, float]] = {}
        self._graphs: dict[tuple[int, ...], tuple[Any, Sequence[Launch]]] = {}
        self._recording: Any = None
        with self._using("be opened"):
            self._stream = device.handle.create_stream()

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Allocate an array of zeros."""
        dtype = np.dtype(dtype)
        check_size(shape, self.device.limits)
        nbytes = (max(1, math.prod(shape)) + self._padding) * dtype.itemsize
        with self._using(f"allocate {nbytes / 2**20:.0f} MiB"):
            data = self.device.handle.allocate(-(-nbytes // ALIGNMENT) * ALIGNMENT, stream=self._stream)
            data.fill(0, stream=self._stream)
        return Array(shape, dtype, data)

    def upload(self, values: NDArray[Any]) -> Array:
        """Allocate an array and fill it."""
        array = self.zeros(values.shape, values.dtype)
        self.write(array, values)
        return array

    def write(self, array: Array, values: NDArray[Any], rows: NDArray[np.int64] | None = None) -> None:
        """Fill an array with values of its shape, or some of its rows, after all launches."""
        values = np.ascontiguousarray(values, array.dtype)
        with self._using("write an array"):
            for to, place, nbytes in _copies(array, values, rows):
                _driver_call(self._driver.cuMemcpyHtoDAsync(to, place, nbytes, self._stream.handle))
            self._stream.sync()  # values may be gone after the return

    def read(self, array: Array, rows: NDArray[np.int64] | None = None) -> NDArray[Any]:
        """Wait for all launches and return the values of an array, or of some of its rows."""
        values = np.empty(array.shape if rows is None else (len(rows), *array.shape[1:]), array.dtype)
        with self._using("read an array"):
            for source, place, nbytes in _copies(array, values, rows):
                _driver_call(self._driver.cuMemcpyDtoHAsync(place, source, nbytes, self._stream.handle))
            self._stream.sync()
        return values

    def clear(self, array: Array) -> Launch:
        """Bind a launch that sets an array to zero."""
        return Launch(
            "clear", lambda: self._start(lambda on: array.data.fill(0, stream=on)), _seconds, {"array": array}
        )

    def building(self) -> AbstractContextManager[Callable[[CompiledOperator], object]]:
        """Yield a function that compiles a program, whose machine code the cache keeps."""
        return nullcontext(self._cubin)

    def bind(self, operator: CompiledOperator, arguments: Mapping[str, Any]) -> Launch:
        """Bind a compiled operator to arrays and numbers."""
        check_arguments(operator, arguments)
        groups, local = launch_sizes(operator, arguments, self.device.limits)
        cuda_text.check_items(operator.operator, local)
        if not math.prod(groups):  # CUDA refuses launches without groups
            return Launch(operator.operator, lambda: self._start(lambda on: None), _seconds, arguments)
        with self._using(f"load {operator.operator}"):
            kernel = self._kernel(operator)
            config = self._core.LaunchConfig(grid=groups, block=local)
        values = [
            arguments[name].data if kind == "array" else np.dtype(dtype).type(arguments[name])
            for name, kind, dtype in operator.arguments
        ]
        launch = self._core.launch

        def start() -> Any:
            return self._start(lambda on: launch(on, config, kernel, *values))

        return Launch(operator.operator, start, _seconds, arguments)

    def start(self, launches: Sequence[Launch]) -> Callable[[], dict[str, float]]:
        """Start launches in order; return a function that waits for them and returns seconds by operator.

        With graphs, launches are timed one by one only when they run for the first time. Later, the time of the graph
        is shared out among the operators in these proportions.
        """
        key = tuple(map(id, launches))
        known = self._seconds.get(key) if self._as_graphs else None
        with self._using("run the operators"):
            events = [launch.start() for launch in launches] if known is None else [self._replay(key, launches)]

        def finish() -> dict[str, float]:
            with self._using("run the operators"):
                self._stream.sync()
                if known is not None:
                    scale = _seconds(events[0]) / (sum(known.values()) or 1.0)
                    return {operator: scale * seconds for operator, seconds in known.items()}
                seconds = seconds_by_operator(launches, events)
            if self._as_graphs and launches:
                self._seconds[key] = seconds
            return seconds

        return finish

    def run(self, launches: Sequence[Launch]) -> dict[str, float]:
        """Run launches in order, wait, and return seconds by operator."""
        return self.start(launches)()

    def machine_code(self, operator: CompiledOperator) -> bytes | None:
        """Return the cubin of a program."""
        return self._cubin(operator)

    def _replay(self, key: tuple[int, ...], launches: Sequence[Launch]) -> tuple[Any, Any]:
        """Start launches as a graph, which is made when it is first needed, and return the events around it."""
        if key not in self._graphs:
            while len(self._graphs) >= KEPT_GRAPHS:
                oldest = next(iter(self._graphs))
                del self._graphs[oldest], self._seconds[oldest]
            self._graphs[key] = self._recorded(launches), launches  # kept, so that their ids stay theirs
        graph = self._graphs[key][0]
        before = self._event()
        graph.launch(self._stream)
        return before, self._event()

    def _recorded(self, launches: Sequence[Launch]) -> Any:
        """Return the graph of launches."""
        self._recording = self._stream.create_graph_builder().begin_building()
        try:
            for launch in launches:
                launch.start()
            return self._recording.end_building().complete()
        finally:
            self._recording = None

    def _start(self, call: Callable[[Any], None]) -> Any:
        """Start a call on the stream and return the events around it; or add it to the graph that is being recorded."""
        if self._recording is not None:
            call(self._recording)
            return None
        before = self._event()
        call(self._stream)
        return before, self._event()

    def _event(self) -> Any:
        return self._stream.record(options=self._core.EventOptions(timing_enabled=True))

    def _kernel(self, operator: CompiledOperator) -> Any:
        """Load a kernel."""
        if operator.source not in self._programs:
            with BUILDING:
                cubin = self._cubin(operator)
            self._programs[operator.source] = self._core.ObjectCode.from_cubin(cubin)
        return self._programs[operator.source].get_kernel(operator.entry)

    def _cubin(self, operator: CompiledOperator) -> bytes:
        """Compile a program. OpenCL's options, which all begin with -cl, mean nothing to NVRTC."""
        options = [option for option in operator.build_options if not option.startswith("-cl")]
        return nvrtc.compile_cubin(operator.source, f"sm_{_capability(self.device)}", operator.operator, options)

    @contextmanager
    def _using(self, what: str) -> Iterator[None]:
        """Make the device current for this thread, and describe errors of the driver in one line.

        Raises:
            DeviceError: the driver fails, or this is a forked process, for which CUDA does not work.
        """
        if os.getpid() != self._process:
            raise DeviceError(
                "CUDA was used before this process was forked, and does not work in it: start processes with spawn "
                "(multiprocessing.set_start_method('spawn')), or build the Fmm in the child"
            )
        try:
            self.device.handle.set_current()
            yield
        except Exception as error:
            raise _described(error, self.device.name, what) from error


def _described(error: Exception, name: str, what: str) -> DeviceError:
    """Return an error of the driver in one line, with what to do."""
    text = one_line(error)
    if isinstance(error, DeviceError) and not text.startswith("CUDA_ERROR"):
        return error
    if "OUT_OF_MEMORY" in text:
        return DeviceError(
            f"{name} cannot {what}: out of memory; use fewer points, a lower order, or dtype=numpy.float32"
        )
    if any(word in text for word in LOST):
        return DeviceError(f"{name} cannot {what} ({text}); this process has lost the device: start a new one")
    return DeviceError(f"{name} cannot {what} ({text})")


def _copies(array: Array, values: NDArray[Any], rows: NDArray[np.int64] | None) -> Iterator[tuple[int, int, int]]:
    """Yield addresses on the device and on the host, and bytes, of adjacent rows; of all without ``rows``."""
    numbers = np.arange(array.shape[0] if array.shape else 1) if rows is None else rows
    nbytes = values.nbytes // max(len(numbers), 1)
    ends = np.flatnonzero(np.diff(numbers, append=-1) != 1) + 1
    for begin, end in zip(np.append(0, ends), ends, strict=False):
        if nbytes:
            to, of = int(array.data.handle) + int(numbers[begin]) * nbytes, values.ctypes.data + int(begin) * nbytes
            yield to, of, int(end - begin) * nbytes


def _seconds(events: tuple[Any, Any]) -> float:
    """Return the seconds between two events."""
    before, after = events
    return float(after - before) * 1e-3
