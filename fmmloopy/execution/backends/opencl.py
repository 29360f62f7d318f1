"""OpenCL through pyopencl; no other module uses pyopencl.

This module parses what pyopencl reports about platforms and devices into the fields of `Device`. Everything else that
depends on the runtime of a device is here too.
"""

from __future__ import annotations

import math
import mmap
import os
import re
import sqlite3
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmmloopy.common.messages import one_line
from fmmloopy.common.store import at_end_of_recording, keep_program, kept_program
from fmmloopy.common.surroundings import full_disk, pocl_folder, restore_pocl_folder
from fmmloopy.common.turns import BUILDING
from fmmloopy.execution.backends.backend import OPENCL_C, Family
from fmmloopy.execution.backends.opencl_loader import show_hidden_runtimes
from fmmloopy.execution.backends.pocl_processor import name_processor
from fmmloopy.execution.device import CPU, CPU_LIMITS, GPU, OTHER, Device, DeviceError, Limits, gpu_limits
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
from fmmloopy.execution.processor import Processor, this_processor, vendor_of

POCL, INTEL, NVIDIA, AMD = "pocl", "intel", "nvidia", "amd"

PLATFORM_OF_POCL = "Portable Computing Language"

PLATFORMS = {
    PLATFORM_OF_POCL: POCL,
    "Intel(R) OpenCL": INTEL,
    "NVIDIA CUDA": NVIDIA,
    "AMD Accelerated Parallel Processing": AMD,
    "Oclgrind": "oclgrind",
}
"""Runtimes by the beginning of the names of their platforms."""

NAMES = {POCL: "PoCL", INTEL: "Intel's runtime", NVIDIA: "NVIDIA's driver", AMD: "AMD's driver"}
"""Names of the runtimes whose devices need the same recipes."""

AVX2_BYTES = 32
"""Width of a vector of AVX2, with which pairs of leaves in float32 are worth it."""

KINDS = {CPU: "CPUs", GPU: "GPUs", OTHER: "devices"}

FASTEST = ((INTEL, ()), (POCL, (3, 1)), (POCL, ()))
"""Runtimes for CPUs with their minimum versions, the fastest first.
Measured with P2P on two cores of an AMD Zen 4: 2.2, 2.0 and 1.7 Gpairs/s."""

PROBE_HEADER = """
#pragma OPENCL EXTENSION cl_khr_fp64 : enable
#define KERNEL __kernel __attribute__((reqd_work_group_size({local}, 1, 1)))
#define GLOBAL __global
#define LOCAL_ITEM get_local_id(0)
#define ITEM get_global_id(0)
#define AS_V(x) as_{real}{n}(x)
#define AS_L(x) as_u{whole}{n}(x)
#define SQRT_DIV(x) x = a / sqrt(x)
typedef {real}{n} V;
typedef V M;
"""
"""Macros and types for the programs of `fmmloopy.measuring.probes`."""


class OpenCLBackend:
    """Devices found by the OpenCL loader."""

    name = "opencl"
    language = OPENCL_C
    probe_header = PROBE_HEADER
    has_groups = True
    has_vectors = True
    has_rsqrt = True
    prelude = ""
    no_code = ""
    last_resort = ""
    hidden = False

    def find_devices(self) -> Sequence[Device]:
        """Return all devices of all platforms, each once."""
        show_hidden_runtimes()
        _check_process()
        try:
            import pyopencl as cl

            pocl_folder()  # while the environment is that with which PoCL starts
            platforms = cl.get_platforms()
        except Exception:  # no loader, no platform, a broken driver: whatever it is, OpenCL is not to be had
            return []
        devices: dict[str, Device] = {}
        for platform in platforms:
            try:
                handles = platform.get_devices()
            except cl.Error:
                continue  # a platform without devices
            for handle in handles:
                if platform.name.startswith(PLATFORM_OF_POCL):
                    name_processor(handle.int_ptr)
                device = device_of(platform, handle, this_processor())
                devices.setdefault(device.description, device)
        return list(devices.values())

    def trouble(self) -> str:
        """Return nothing: another backend runs on the same processors."""
        return ""

    def rank(self, device: Device) -> int:
        """Return the rank of a CPU's runtime by speed; all runtimes of other devices are equal."""
        if device.kind != CPU:
            return 0
        places = (i for i, (name, oldest) in enumerate(FASTEST) if device.runtime == name and device.version >= oldest)
        return next(places, len(FASTEST))

    def label(self, device: Device) -> str:
        """Return "PoCL 3.0", "Intel", or a device's own name."""
        if device.runtime == POCL:
            return f"PoCL {'.'.join(map(str, device.version[:2]))}".rstrip()
        return "Intel" if (device.kind, device.runtime) == (CPU, INTEL) else device.name

    def family(self, device: Device) -> Family:
        """Return devices of a kind with the same runtime; for PoCL, whose releases differ, with the same version."""
        if device.runtime not in NAMES:
            return Family(re.sub(r'["\\\s]+', " ", device.name), (("name", device.name),))
        facts: tuple[tuple[str, Any], ...] = (("kind", device.kind), ("runtime", device.runtime))
        through = NAMES[device.runtime]
        if device.runtime == POCL and device.version:
            facts, through = (*facts, ("version", device.version[:2])), self.label(device)
        return Family(f"{KINDS[device.kind]} through {through}", facts)

    def retarget(self, kernel: Any) -> Any:
        """Return the kernel unchanged: OpenCL is loopy's default target."""
        return kernel

    def open(self, device: Device, padding: int) -> Runtime:
        """Open a device, with its own context and queue."""
        _check_process()
        if device.handle is None:
            same = (d for d in self.find_devices() if d.description == device.description)
            found = next(same, None)
            if found is None:
                raise DeviceError(f"{device.description!r} was not found; fmmloopy.find_devices() lists all devices")
            device = found
        return OpenCLRuntime(device, padding)

    def split(self, device: Device, count: int) -> tuple[Device, ...]:
        """Divide the cores of a device equally among several, which share its memory (device fission).

        Raises:
            DeviceError: the device cannot be divided so.
        """
        import pyopencl as cl

        whole = self.find_devices() if device.handle is None else [device]
        handle = next((d.handle for d in whole if d.description == device.description), None)
        cores = device.cores // count
        try:
            parts = handle.create_sub_devices([cl.device_partition_property.EQUALLY, cores]) if handle and cores else []
        except cl.Error:
            parts = []
        if len(parts) < count:
            raise DeviceError(f"{device.name} with {device.cores} cores cannot be divided into {count} devices")
        return tuple(replace(device, handle=part, cores=cores) for part in parts[:count])

    def code_environment(self, device: Device, folder: Path) -> dict[str, str]:
        """Redirect PoCL's cache to the folder, as PoCL compiles at launch. Intel's runtime needs no variables."""
        if device.kind != CPU or device.runtime not in (POCL, INTEL):
            raise DeviceError(
                f"not available for {device.description!r}, only for CPUs through PoCL, Intel's runtime or C"
            )
        return {"PYOPENCL_NO_CACHE": "1", "POCL_CACHE_DIR": str(folder), "POCL_KERNEL_CACHE": "1"}

    def launched_name(self, device: Device, entry: str) -> str:
        """Return the name of PoCL's function for a work-group, which inlines the kernel or calls it."""
        return f"_pocl_kernel_{entry}_workgroup" if device.runtime == POCL else entry


# -- processes


def _check_process() -> None:
    """Make sure that this process, and not its parent, has loaded the runtimes.

    Raises:
        DeviceError: this is a forked process. It has no threads of the runtimes, so that PoCL would wait forever.
    """
    if _loader() != os.getpid():
        raise DeviceError(
            "OpenCL was used before this process was forked, and does not work in it: start processes with spawn "
            "(multiprocessing.set_start_method('spawn')), or use no device before the fork and build the Fmm in the "
            "child; device 'c' works everywhere"
        )


@cache
def _loader() -> int:
    """Return the process that has loaded the runtimes."""
    return os.getpid()


# -- describing devices


def device_of(platform: Any, handle: Any, processor: Processor) -> Device:
    """Describe a device.

    Args:
        platform, handle: objects of pyopencl.
        processor: this machine's processor, for CPU devices.
    """
    import pyopencl as cl

    kind = CPU if handle.type & cl.device_type.CPU else GPU if handle.type & cl.device_type.GPU else OTHER
    facts = processor if kind == CPU else Processor()
    type_word = kind if kind == OTHER else kind.upper()
    words = f"opencl {type_word} {platform.name} {platform.version} {handle.name} {facts.instructions}"
    runtime = next((known for begin, known in PLATFORMS.items() if platform.name.startswith(begin)), None)
    runtime = runtime or re.sub(r"\W+", "_", platform.name.lower()).strip("_")
    cores, memory = _asked(handle, "max_compute_units"), _asked(handle, "global_mem_size")
    share = _float64_share(handle) if kind == GPU else 0.0
    vector_bytes = facts.vector_bytes or (4 * _asked(handle, "native_vector_width_float") if kind == CPU else 0)
    return Device(
        "opencl",
        handle.name,
        " ".join(words.split()),
        handle.driver_version,
        bool(handle.double_fp_config),
        handle,
        kind=kind,
        runtime=runtime,
        version=version_of(handle.driver_version),
        vendor=vendor_of(handle.name, facts.vendor if kind == CPU else _asked(handle, "vendor", "")),
        instructions=facts.instructions,
        vector_bytes=vector_bytes,
        registers=facts.registers,
        cores=cores,
        memory=memory,
        cache=_asked(handle, "global_mem_cache_size"),
        width=_work_item_width(handle, kind, runtime, vector_bytes),
        float64_share=share,
        limits=replace(
            _limits(kind, cores, memory, share), narrow_pairs=runtime == POCL and vector_bytes == AVX2_BYTES
        ),
    )


def version_of(text: str) -> tuple[int, ...]:
    """Return the numbers of a version, such as (3, 1) for ``"3.1+debian"``; () if there are none."""
    numbers = re.search(r"\d+(?:\.\d+)*", text)
    return tuple(map(int, numbers[0].split("."))) if numbers else ()


FLOAT64_SHARES = {
    r"5\.|6\.1|7\.5|gfx11": 1 / 32,
    r"8\.[69]|10\.3|12\.": 1 / 64,
    r"gfx10": 1 / 16,
    r"6\.0|7\.0|8\.0|9\.0|10\.0|gfx906|gfx908|gfx94": 1 / 2,
    r"gfx90a": 1.0,
}
"""Rates of float64 as shares of that of float32, by compute capability or by the beginning of AMD's name. NVIDIA: CUDA
C++ Programming Guide, table "Throughput of Native Arithmetic Instructions". AMD: peaks in the data sheets of MI50,
MI100, MI250X and MI300X, and of Radeon RX 6900 XT and 7900 XTX. OpenCL itself does not say."""


def _float64_share(handle: Any) -> float:
    """Return the rate of float64 as a share of that of float32; 0 if it is not known."""
    major, minor = _asked(handle, "compute_capability_major_nv"), _asked(handle, "compute_capability_minor_nv")
    name = f"{major}.{minor}" if major else str(handle.name)
    return next((share for pattern, share in FLOAT64_SHARES.items() if re.match(pattern, name)), 0.0)


def _limits(kind: str, cores: int, memory: int, float64_share: float) -> Limits:
    """Return the limits of a device; accelerators that are neither CPU nor GPU get those of GPUs."""
    if kind == GPU:
        return gpu_limits(cores, memory, float64_share=float64_share)
    return CPU_LIMITS if kind == CPU else replace(CPU_LIMITS, groups=32 * CPU_LIMITS.groups)


def _work_item_width(handle: Any, kind: str, runtime: str, vector_bytes: int) -> int:
    """Return how many work-items run as one: Intel's runtime vectorizes them on CPUs, GPUs have warps."""
    if kind == CPU:
        return max(vector_bytes // 4, 1) if runtime == INTEL else 1
    return _asked(handle, "warp_size_nv") or _asked(handle, "wavefront_width_amd") or 1


def _asked(handle: Any, name: str, unknown: Any = 0) -> Any:
    """Return a property of a device from pyopencl, or a neutral value if the driver does not report it."""
    with suppress(Exception):
        return getattr(handle, name)
    return unknown


# -- launches

PAGE, LINE = mmap.PAGESIZE, 64
"""Bytes of a page, and of a line of cache."""

SLICE = 4 * 2**20
"""Bytes per fill command for Intel's runtime: 23 GB/s, compared with 4 for a fill of 200 MiB. PoCL fills 200 MiB at 50,
and slices at 20."""

HAVE_BINARIES = (POCL, INTEL, NVIDIA, AMD)
"""Runtimes whose binaries can be kept: with an empty cache of its own, PoCL loads nine in 0.03 s and compiles them in
1.5 s, Intel's runtime in 0.02 and 0.8 s. With its cache, PoCL takes 0.2 s."""

PROGRAMS = 512
"""Programs that a process keeps, of all devices; an evaluation has a dozen."""

UNKNOWN_PROCESSOR = "unknown target CPU"
"""What PoCL says where its LLVM is older than the processor."""

OTHER_RUNTIMES = "apt-get install pocl-opencl-icd, or pip install intel-opencl-rt intel-cmplr-lib-rt"
"""How to get a runtime that is newer than PyPI's PoCL."""

ATTEMPTS, AGAIN = 3, "\ntypedef int fmmloopy_again_{};\n"
"""How often a program is built that does not work, and what is added to its text."""


class OpenCLRuntime:
    """Run operators on an OpenCL device, in order, on one queue with timers."""

    def __init__(self, device: Device, padding: int) -> None:
        # Without this attribute, pyopencl fails if its own cache is not writable, because it looks it up.
        os.environ.setdefault("PYOPENCL_CACHE_FAILURE_FATAL", "")
        import pyopencl as cl

        self.device, self._padding = device, padding
        self._cl = cl
        self._context = _context(device.handle)
        self._queue = cl.CommandQueue(self._context, properties=cl.command_queue_properties.PROFILING_ENABLE)

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Allocate an array of zeros."""
        _check_process()
        dtype = np.dtype(dtype)
        nbytes = (max(1, math.prod(shape)) + self._padding) * dtype.itemsize
        check_size(shape, self.device.limits)
        try:
            if self.device.kind == CPU and not self.device.is_simulator:  # a simulator sees where arrays end
                return Array(shape, dtype, self._in_host_memory(nbytes))
            array = Array(shape, dtype, self._cl.Buffer(self._context, self._cl.mem_flags.READ_WRITE, nbytes))
            self._fill(array)
        except (self._cl.Error, MemoryError) as error:
            raise DeviceError(
                f"{self.device.name} cannot allocate {nbytes / 2**20:.0f} MiB ({one_line(error)}); "
                "use fewer points, a lower order, or dtype=numpy.float32"
            ) from error
        return array

    def _in_host_memory(self, nbytes: int) -> Any:
        """Return a buffer of zeros in memory of numpy, which is in huge pages where the system has them.

        To touch it for the first time takes less time, and nothing has to be filled. Runtimes of CPUs use it as it is
        if it begins at a page and ends with a line of cache.
        """
        whole = np.zeros(nbytes + PAGE + LINE, np.uint8)
        start = -whole.ctypes.data % PAGE
        # Launches that nobody waits for, after an interrupt, may still use it when its buffer is gone.
        weakref.finalize(whole, _finish, self._queue, os.getpid()).atexit = False
        flags = self._cl.mem_flags.READ_WRITE | self._cl.mem_flags.USE_HOST_PTR
        return self._cl.Buffer(self._context, flags, hostbuf=whole[start : start + -(-nbytes // LINE) * LINE])

    def upload(self, values: NDArray[Any]) -> Array:
        """Allocate an array and fill it."""
        array = self.zeros(values.shape, values.dtype)
        self.write(array, values)
        return array

    def write(self, array: Array, values: NDArray[Any], rows: NDArray[np.int64] | None = None) -> None:
        """Fill an array with values of its shape, or some of its rows, after all launches."""
        _check_process()
        if rows is not None:
            with self._mapped(array, self._cl.map_flags.READ | self._cl.map_flags.WRITE) as mapped:
                mapped[rows] = values
        elif array.size:
            self._cl.enqueue_copy(self._queue, array.data, np.ascontiguousarray(values, array.dtype))

    def read(self, array: Array, rows: NDArray[np.int64] | None = None) -> NDArray[Any]:
        """Wait for all launches and return the values of an array, or of some of its rows."""
        _check_process()
        if rows is not None:
            with self._mapped(array, self._cl.map_flags.READ) as mapped:
                return mapped[rows]
        values = np.empty(array.shape, array.dtype)
        self._cl.enqueue_copy(self._queue, values, array.data)
        return values

    def clear(self, array: Array) -> Launch:
        """Bind a launch that sets an array to zero."""
        return Launch("clear", lambda: self._fill(array), _span_seconds, {"array": array})

    @contextmanager
    def building(self) -> Iterator[Callable[[CompiledOperator], object]]:
        """Yield a function that builds a program, which this process keeps."""
        with _without_warnings():
            yield lambda operator: _build(self._context, operator.source, operator.build_options)

    def bind(self, operator: CompiledOperator, arguments: Mapping[str, Any]) -> Launch:
        """Bind a compiled operator to arrays and numbers."""
        _check_process()
        check_arguments(operator, arguments)
        kernel = self._kernel(operator)
        for index, (name, kind, dtype) in enumerate(operator.arguments):
            value = arguments[name]
            kernel.set_arg(index, np.dtype(dtype).type(value) if kind == "number" else value.data)
        groups, local = launch_sizes(operator, arguments, self.device.limits)
        size = tuple(number * items for number, items in zip(groups, local, strict=True))
        enqueue, queue = self._cl.enqueue_nd_range_kernel, self._queue
        return Launch(operator.operator, lambda: enqueue(queue, kernel, size, local), _event_seconds, arguments)

    def start(self, launches: Sequence[Launch]) -> Callable[[], dict[str, float]]:
        """Start launches in order; return a function that waits for them and returns seconds by operator."""
        _check_process()
        with self._running():
            events = [launch.start() for launch in launches]
            self._queue.flush()

        def finish() -> dict[str, float]:
            with self._running():
                self._queue.finish()
            return seconds_by_operator(launches, events)

        return finish

    def run(self, launches: Sequence[Launch]) -> dict[str, float]:
        """Run launches in order, wait, and return seconds by operator."""
        return self.start(launches)()

    @contextmanager
    def _running(self) -> Iterator[None]:
        """Describe errors of launches in one line."""
        try:
            yield
        except self._cl.Error as error:
            raise DeviceError(
                f"{self.device.name} cannot run the operators ({one_line(error)}); if memory is short, use fewer "
                "points, a lower order, or dtype=numpy.float32"
            ) from error

    @contextmanager
    def _mapped(self, array: Array, flags: int) -> Iterator[NDArray[Any]]:
        """View an array after all launches; on a CPU nothing is copied."""
        values, _ = self._cl.enqueue_map_buffer(self._queue, array.data, flags, 0, array.shape, array.dtype)
        try:
            yield values
        finally:
            values.base.release(self._queue)

    def machine_code(self, operator: CompiledOperator) -> bytes | None:
        """Return a program's binary if it is machine code, which is true for Intel's runtime."""
        if self.device.runtime != INTEL:
            return None
        return bytes(self._program(operator).get_info(self._cl.program_info.BINARIES)[0])

    def _fill(self, array: Array) -> list[Any]:
        # PoCL fills two to three times as fast with a pattern of one byte as with a longer one.
        size, zero = array.data.size, np.zeros(1, np.uint8)
        step = SLICE if (self.device.kind, self.device.runtime) == (CPU, INTEL) else size
        fill, queue = self._cl.enqueue_fill_buffer, self._queue
        return [fill(queue, array.data, zero, start, min(step, size - start)) for start in range(0, size, step)]

    def _kernel(self, operator: CompiledOperator) -> Any:
        """Make a kernel; without pyopencl's cache on disk once that cannot be used."""
        try:
            return self._made(operator, lambda program: self._cl.Kernel(program, operator.entry))
        except sqlite3.Error:
            self._cl._PYOPENCL_NO_CACHE = True
            return self._made(operator, lambda program: self._cl.Kernel(program, operator.entry))

    def _program(self, operator: CompiledOperator) -> Any:
        return self._made(operator, lambda program: program)

    def _made(self, operator: CompiledOperator, make: Callable[[Any], Any]) -> Any:
        """Build a program and make something of it; again if that fails, since files of a cache may be damaged or gone.

        What is built again has a longer text, for which PoCL finds nothing in its cache.
        """
        deleted = ""
        for attempt in range(ATTEMPTS):
            source = operator.source + (AGAIN.format(attempt) if attempt else "")
            try:
                with BUILDING, _without_warnings():
                    return make(_build(self._context, source, operator.build_options))
            except self._cl.Error as error:
                if self.device.runtime == POCL:
                    deleted = restore_pocl_folder() or deleted
                if attempt == ATTEMPTS - 1:
                    reason = f"{deleted} was deleted meanwhile; run it again" if deleted else one_line(error)
                    if UNKNOWN_PROCESSOR in reason:
                        reason = f"its LLVM does not know this processor; {OTHER_RUNTIMES}"
                    reason = full_disk() or reason
                    raise DeviceError(f"{self.device.name} cannot compile {operator.operator}: {reason}") from error
        raise AssertionError


def _finish(queue: Any, process: int) -> None:
    """Wait for all launches of a queue, unless this process has inherited it."""
    if os.getpid() == process:
        queue.finish()


@cache
def _context(handle: Any) -> Any:
    """Return the context of a device; all runtimes of a process share it, and with it the programs."""
    import pyopencl as cl

    return cl.Context([handle])


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Ignore what compilers and pyopencl's cache say of programs that work."""
    import pyopencl as cl

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=cl.CompilerWarning)
        warnings.filterwarnings("ignore", message="PyOpenCL compiler caching failed")
        yield


@lru_cache(maxsize=PROGRAMS)
def _build(context: Any, source: str, options: tuple[str, ...]) -> Any:
    """Build a program, which takes 20 ms even if PoCL has it in its cache; or load its binary, which takes 2 ms.

    Binaries are kept only for bundles, after all launches: PoCL compiles machine code when something is launched, and
    once more for a binary.
    """
    import pyopencl as cl

    (handle,) = context.devices
    device = device_of(handle.platform, handle, this_processor())
    if device.runtime not in HAVE_BINARIES:
        return cl.Program(context, source).build(list(options))
    key = source, options, os.environ.get("PYOPENCL_BUILD_OPTIONS"), device.description, device.driver
    where = "opencl", device.runtime, repr(key), ".bin"
    if found := kept_program(*where):
        with suppress(cl.Error):
            return _loaded(context, found[1], options)
    program = cl.Program(context, source).build(list(options))
    at_end_of_recording(lambda: keep_program(*where, program.get_info(cl.program_info.BINARIES)[0]))
    return program


def _loaded(context: Any, binary: bytes, options: tuple[str, ...]) -> Any:
    """Return a program from its binary."""
    import pyopencl as cl

    return cl.Program(context, context.devices, [binary]).build(list(options))


def _event_seconds(event: Any) -> float:
    return _span_seconds([event])


def _span_seconds(events: Sequence[Any]) -> float:
    """Return the seconds from the start of the first command to the end of the last."""
    return float(events[-1].profile.end - events[0].profile.start) * 1e-9
