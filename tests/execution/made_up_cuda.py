"""A driver of CUDA whose GPU is the emulator: what the CUDA backend uses of cuda.core and of cuda.bindings."""

from __future__ import annotations

import ctypes
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fmmloopy.execution.backends import cuda, nvrtc
from fmmloopy.execution.backends.cuda_emulator import EMULATED_DEVICE, EmulatedProgram, EmulatorRuntime


class Status(int):
    """A status of the driver."""

    name = "CUDA_SUCCESS"


class Failed(Exception):
    """What cuda.core raises."""


class Buffer:
    """Memory of the GPU: memory of this process, found by its address."""

    def __init__(self, nbytes: int) -> None:
        self.content = np.full(nbytes, 0xAB, np.uint8)
        self.handle = self.content.ctypes.data

    def fill(self, value: int, *, stream: Any) -> None:
        content = self.content
        stream.do(lambda: content.fill(value))


class Event:
    def __init__(self, time: int) -> None:
        self.time = time

    def __sub__(self, other: Event) -> float:
        return float(self.time - other.time)


class Stream:
    """Work is done at once, and takes a millisecond."""

    handle = "stream"

    def __init__(self) -> None:
        self.time = 0

    def do(self, work: Any) -> None:
        self.time += 1
        work()

    def record(self, options: Any) -> Event:
        assert options.timing_enabled
        return Event(self.time)

    def sync(self) -> None:
        pass

    def create_graph_builder(self) -> Builder:
        return Builder()


class Builder:
    """A graph: work that is done when it is launched."""

    def __init__(self) -> None:
        self.work: list[Any] = []

    def do(self, work: Any) -> None:
        self.work.append(work)

    def begin_building(self) -> Builder:
        return self

    def end_building(self) -> Builder:
        return self

    def complete(self) -> Builder:
        return self

    def launch(self, stream: Stream) -> None:
        for work in self.work:
            stream.do(work)


class MadeUpDriver:
    """The driver and its one GPU.

    Attributes:
        supported: version of CUDA, as the driver has it.
        failing: name of a function of the driver, and the error with which it fails.
        devices: how many GPUs there are.
        ratio: rate of float32 by that of float64.
        launched: names of the kernels that were launched one by one.
    """

    def __init__(self) -> None:
        self.supported, self.devices, self.ratio = 13_050, 1, 2
        self.capability = (9, 0)
        self.failing: tuple[str, str] = ("", "")
        self.launched: list[str] = []
        self._emulator = EmulatorRuntime(EMULATED_DEVICE, 0)

    def _may_fail(self, function: str) -> None:
        if function == self.failing[0]:
            raise Failed(f"{self.failing[1]}: this is what the driver says of it")

    def modules(self) -> dict[str, ModuleType]:
        """Return the modules by name."""
        core, bindings, driver, top = (
            ModuleType(n) for n in ("cuda.core", "cuda.bindings", "cuda.bindings.driver", "cuda")
        )
        top.core, top.bindings, bindings.driver = core, bindings, driver  # type: ignore[attr-defined]
        core.Device = SimpleNamespace(get_all_devices=self._all)  # type: ignore[attr-defined]
        core.EventOptions = core.LaunchConfig = SimpleNamespace  # type: ignore[attr-defined]
        core.ObjectCode = SimpleNamespace(from_cubin=self._load)  # type: ignore[attr-defined]
        core.launch = self._launch  # type: ignore[attr-defined]
        driver.cuDriverGetVersion = lambda: (Status(0), self.supported)  # type: ignore[attr-defined]
        driver.cuDeviceTotalMem = lambda number: (Status(0), 141 * 2**30)  # type: ignore[attr-defined]
        driver.cuMemcpyHtoDAsync = self._copy  # type: ignore[attr-defined]
        driver.cuMemcpyDtoHAsync = self._copy  # type: ignore[attr-defined]
        return {module.__name__: module for module in (top, core, bindings, driver)}

    def _all(self) -> list[Any]:
        self._may_fail("get_all_devices")
        facts = SimpleNamespace(
            multiprocessor_count=132,
            single_to_double_precision_perf_ratio=self.ratio,
            max_grid_dim_x=2**31 - 1,
            max_grid_dim_y=65_535,
            max_grid_dim_z=65_535,
            l2_cache_size=50 * 2**20,
            warp_size=32,
        )
        return [
            SimpleNamespace(
                name="NVIDIA H200",
                device_id=number,
                compute_capability=self.capability,
                properties=facts,
                set_current=lambda: None,
                create_stream=Stream,
                allocate=self._allocate,
            )
            for number in range(self.devices)
        ]

    def _allocate(self, nbytes: int, *, stream: Stream) -> Buffer:
        assert nbytes % 256 == 0
        self._may_fail("allocate")
        return Buffer(nbytes)

    def _copy(self, to: int, source: int, nbytes: int, stream: str) -> tuple[Status]:
        assert stream == Stream.handle
        ctypes.memmove(to, source, nbytes)
        return (Status(0),)

    def _load(self, cubin: bytes) -> Any:
        return SimpleNamespace(get_kernel=lambda entry: (self._emulator._load(cubin.decode(), entry), entry))

    def _launch(self, on: Any, config: Any, kernel: Any, *values: Any) -> None:
        self._may_fail("launch")
        library, entry = kernel
        if isinstance(on, Stream):
            self.launched.append(entry)
        arrays = {str(i): value.content for i, value in enumerate(values) if isinstance(value, Buffer)}
        given = [arrays.get(str(i), value) for i, value in enumerate(values)]
        on.do(lambda: EmulatedProgram(library, entry).run(config.grid, config.block, given, arrays))


@pytest.fixture
def made_up_driver(monkeypatch: pytest.MonkeyPatch) -> MadeUpDriver:
    """Let the CUDA backend find a GPU. NVRTC's machine code is the text, which the emulator runs."""
    driver = MadeUpDriver()
    for name, module in driver.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(cuda, "has_driver", lambda: True)
    monkeypatch.setattr(cuda, "has_packages", lambda: True)
    monkeypatch.setattr(nvrtc, "version", lambda: (13, 5))
    monkeypatch.setattr(nvrtc, "architectures", lambda: (75, 80, 90))
    monkeypatch.setattr(nvrtc, "compile_cubin", lambda source, architecture, what, options=(): source.encode())
    monkeypatch.delenv(cuda.VISIBLE_VARIABLE, raising=False)
    return driver
