"""What all tests share: a cache of their own, a random generator, sets of points, and the devices of this machine."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyopencl as cl
import pytest
from numpy.typing import ArrayLike, NDArray

from fmmloopy import cli
from fmmloopy.bookshelf.tuned import ENVIRONMENT_VARIABLE as CONFIG_VARIABLE
from fmmloopy.checking.background import ENVIRONMENT_VARIABLE as PROOFS_VARIABLE
from fmmloopy.checking.workers import Workers
from fmmloopy.common.store import ENVIRONMENT_VARIABLE, cache_folder
from fmmloopy.execution.backends import backend_of
from fmmloopy.execution.backends.opencl import device_of
from fmmloopy.execution.devices import ENVIRONMENT_VARIABLE as DEVICE_VARIABLE
from fmmloopy.execution.devices import Device, choose_device, find_devices
from fmmloopy.execution.processor import Processor
from fmmloopy.greens import GreensFunction, laplace
from fmmloopy.measuring import peaks
from fmmloopy.measuring.probes import FMA, NEWTON, TRIAD
from fmmloopy.operators import OPERATORS, Specification
from fmmloopy.precision import find_types
from fmmloopy.recipes import load_recipes

Points = NDArray[np.float64]
MakePoints = Callable[[np.random.Generator, int], Points]

# The tests stay out of the user's cache, and away from what it holds, unless the caller has chosen a folder. Set here
# and not in a fixture: devices are looked for while tests are collected, and that may already write to the cache.
if not os.environ.get(ENVIRONMENT_VARIABLE):
    _cache = tempfile.TemporaryDirectory(prefix="fmmloopy-tests-")
    os.environ[ENVIRONMENT_VARIABLE] = _cache.name
_config = tempfile.TemporaryDirectory(prefix="fmmloopy-tests-")
os.environ[CONFIG_VARIABLE] = _config.name
os.environ[PROOFS_VARIABLE] = "0"  # tests do not prove what others have used
os.environ.pop(DEVICE_VARIABLE, None)  # tests say which devices they mean


slow = pytest.mark.slow
"""A test, or a row of its parameters, that takes long and is much like others."""


def slow_but(fast: Callable[..., bool], rows: Iterable[Any]) -> list[Any]:
    """Return parameters, those marked as slow that do not stand for the others in a quick run.

    Args:
        fast: called with the parameters of a row.
        rows: parameters; tuples if there are several.
    """
    tuples = [row if isinstance(row, tuple) else (row,) for row in rows]
    return [pytest.param(*row, marks=[] if fast(*row) else slow) for row in tuples]


gc.set_threshold(50_000, 20, 20)  # tests make many objects that live long

OPENCL = sorted(
    (device for device in find_devices() if device.backend == "opencl" and not device.is_simulator),
    key=lambda device: "Asserts" in device.description,
)
"""OpenCL devices, the preferred one first; those whose compilers check themselves, which are slow, last."""

needs_opencl = pytest.mark.skipif(not OPENCL, reason="no OpenCL device")

PAIRED = [device for device in OPENCL if "p2p_mutual" in load_recipes(None, device).recipes]
"""Devices whose book has a recipe for pairs of leaves."""


@pytest.fixture
def rng() -> np.random.Generator:
    """A random generator that begins anew, with the same numbers, in every test."""
    return np.random.default_rng(20040801)


# -- sets of points: functions of a generator and a number of points, shape (n, 3)


def cube(rng: np.random.Generator, n: int) -> Points:
    """Uniform in the unit cube: leaves of much the same size, few W and X entries."""
    return rng.random((n, 3))


def sphere(rng: np.random.Generator, n: int) -> Points:
    """Uniform on the unit sphere: an adaptive tree with W and X lists."""
    points = rng.standard_normal((n, 3))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def clustered(rng: np.random.Generator, n: int) -> Points:
    """Dense around one point on all scales down to 1e-6: a deep tree (more than 10 levels), long W and X lists."""
    return rng.standard_normal((n, 3)) * 10.0 ** rng.uniform(-6, 0, (n, 1))


def line(rng: np.random.Generator, n: int) -> Points:
    """On one line that no axis is parallel to: few boxes a level, most neighbours missing."""
    return rng.random((n, 1)) * [1.0, -2.0, 0.5]


def one_point(rng: np.random.Generator, n: int) -> Points:
    """A single point, whatever n: a root that is a leaf."""
    return rng.random((1, 3))


def coincident(rng: np.random.Generator, n: int) -> Points:
    """n times the same point: no pair is apart, and no depth separates them."""
    return np.tile(rng.random((1, 3)), (n, 1))


POINT_SETS: dict[str, MakePoints] = {f.__name__: f for f in (cube, sphere, clustered, line, one_point, coincident)}


@pytest.fixture(params=POINT_SETS.values(), ids=POINT_SETS)
def make_points(request: pytest.FixtureRequest) -> MakePoints:
    """Run a test once for each set of points; call it with a generator and a number."""
    make: MakePoints = request.param
    return make


def error(values: ArrayLike, reference: ArrayLike) -> float:
    """Relative error in the 2-norm."""
    return float(np.linalg.norm(np.subtract(values, reference)) / np.linalg.norm(reference))


# -- Green's functions of several components

STOKES = GreensFunction(
    "stokes",
    tuple(tuple(f"d{i}*d{j}*rinv*rinv*rinv" + (" + rinv" if i == j else "") for j in range(3)) for i in range(3)),
    scaling=1 / (8 * np.pi),
    homogeneity=-1,
)
"""3 x 3, homogeneous: I / r + d d^T / r^3."""


def helmholtz(wavenumber: float) -> GreensFunction:
    """2 x 2, the complex function as real and imaginary parts."""
    matrix = (("cos(k*r)*rinv", "-sin(k*r)*rinv"), ("sin(k*r)*rinv", "cos(k*r)*rinv"))
    return GreensFunction("helmholtz", matrix, {"k": wavenumber}, scaling=1 / (4 * np.pi))


# -- kernels


def specification(
    operator: str, kernel: GreensFunction | None = None, order: int = 3, types: Any = "float64"
) -> Specification:
    """Return what a math-level kernel is made for: of Laplace's function, if no other is given."""
    return Specification(OPERATORS[operator], kernel or laplace(), order, find_types(types))


# -- devices


def c_compiler() -> str | None:
    """Return the C compiler that the C device would use, or None."""
    candidates = (os.environ.get("CC", ""), "cc", "gcc", "clang")
    return next((name for name in candidates if name and shutil.which(name)), None)


needs_c = pytest.mark.skipif(c_compiler() is None, reason="no C compiler: none of $CC, cc, gcc, clang is there")

needs_cpp = pytest.mark.skipif(
    not any(shutil.which(name) for name in (os.environ.get("CXX", ""), "g++", "clang++", "c++")),
    reason="no C++ compiler: none of $CXX, g++, clang++, c++ is there",
)
"""Tests of the emulated GPU, whose programs are C++."""


def made_up_device(kind: str, platform: str, version: str, name: str, driver: str = "1.0", vectors: str = "") -> Device:
    """Return the device that the OpenCL backend makes of what a driver says; without a handle to open it.

    Args:
        kind: CPU or GPU.
        platform, version, name, driver: as pyopencl has them.
        vectors: vector instructions of this machine's processor.
    """
    handle = SimpleNamespace(
        type=getattr(cl.device_type, kind),
        name=name,
        driver_version=driver,
        double_fp_config=63,
        max_compute_units=8,
        global_mem_size=2**34,
    )
    processor = Processor("", vectors, {"AVX-512": 64, "AVX2": 32}.get(vectors, 0), {"AVX-512": 32}.get(vectors, 16))
    return replace(device_of(SimpleNamespace(name=platform, version=version), handle, processor), handle=None)


def made_up_intel(name: str = "AMD EPYC", vectors: str = "") -> Device:
    """Return a CPU through Intel's runtime."""
    return made_up_device("CPU", "Intel(R) OpenCL", "OpenCL 3.1 LINUX", name, "2026.22.10.0.01_160000", vectors)


def made_up_pocl(release: str, name: str = "cpu", vectors: str = "", kind: str = "CPU") -> Device:
    """Return a device through a release of PoCL, such as 3.1+debian."""
    version = f"OpenCL 3.0 PoCL {release} Linux"
    return made_up_device(kind, "Portable Computing Language", version, name, release, vectors)


def made_up_nvidia(name: str = "H200") -> Device:
    """Return a GPU through NVIDIA's driver."""
    return made_up_device("GPU", "NVIDIA CUDA", "OpenCL 3.0 CUDA 12.4", name, "550.54.15")


def _device_id(device: Device) -> str:
    """Return a short name: the runtime's and its version, where they are known."""
    return backend_of(device).label(device).replace(" ", "-")


def devices(*, simulators: bool = False) -> list[Any]:
    """Return every device found here as a parameter for ``pytest.mark.parametrize("device", devices())``.

    Simulators are left out, unless asked for. The C compiler is among them, marked to be skipped where there is none.
    """
    parameters, names = [], set()
    for device in find_devices():
        if not simulators and device.is_simulator:
            continue
        name = _device_id(device)
        name = name if name not in names else f"{name}-{len(names)}"
        names.add(name)
        missing = device.backend == "c" and c_compiler() is None
        reason = "no C compiler: none of $CC, cc, gcc, clang is there"
        marks = [pytest.mark.skipif(missing, reason=reason)] if device.backend == "c" else []
        parameters.append(pytest.param(device, id=name, marks=marks))
    return parameters


@pytest.fixture(params=devices())
def device(request: pytest.FixtureRequest) -> Device:
    """Run a test once for each device."""
    found: Device = request.param
    return found


@pytest.fixture
def opencl_device() -> Device:
    """An OpenCL device whose compiler is fast; tests that take it are skipped where there is none."""
    if not OPENCL:
        pytest.skip("no OpenCL device was found")
    return OPENCL[0]


# -- commands


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let a test find no certificates, rates or peaks of others; returns the cache's folder.

    Generated code is shared, and so are tables that are there: to make them again is most of the time of a check, and
    tests nothing.
    """
    folder = tmp_path / "cache"
    folder.mkdir()
    for shared in ("code", "generated", "c"):
        (cache_folder() / shared).mkdir(parents=True, exist_ok=True)
        (folder / shared).symlink_to(cache_folder() / shared)
    for tables in cache_folder().glob("tables-*.h5"):
        with suppress(OSError):  # another process may delete them now
            (folder / tables.name).hardlink_to(tables)
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(folder))
    return folder


@pytest.fixture
def no_whole_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the last layer of checks, which takes longest, where a test is about what surrounds the layers."""
    monkeypatch.setattr(Workers, "check_whole", lambda *_: [])


@pytest.fixture
def known_peaks(own_cache: Path) -> Path:
    """Keep rates for all devices, so that none is measured."""
    for dtype, factor in (("float64", 1), ("float32", 2)):
        for device in peaks._members(choose_device(), dtype):
            rates = {FMA: factor * 100e9, NEWTON: factor * 4e9, TRIAD: 10e9}
            peaks.store_rates(device, dtype, rates, busy=False)
    return own_cache


def run_command(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Run ``fmmloopy`` with words, and return its exit status and what it wrote, errors last."""
    with pytest.raises(SystemExit) as exit:
        cli.main(words)
    captured = capsys.readouterr()
    return int(exit.value.code or 0), captured.out + captured.err
