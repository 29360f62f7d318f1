"""Find and describe the devices that operators can run on."""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from fmmloopy.cache import cache_folder, write_atomically

PREFERENCE = (
    r"CPU Intel\(R\) OpenCL",
    r"CPU .*PoCL (3\.[1-9]|[4-9]\.|\d\d)",
    r"CPU .*PoCL",
    r"^(?!.*Oclgrind).*CPU",
    r"^(?!.*Oclgrind)",
    r"",
)
"""Descriptions of devices, the fastest first: where several are found, a device that matches an earlier one is taken.
Simulators are last. Rates of the first three: docs/measurements/constants.csv."""


class DeviceError(Exception):
    """A device that is not there or cannot be used; the text says which there are."""


@dataclass(frozen=True)
class Device:
    """Something that runs operators.

    Attributes:
        kind: "opencl", or "c" for the processor through a C compiler.
        name: what the vendor calls it.
        description: kind, type, platform, version and name in one line, of a CPU its vector instructions too; recipe
            books, and their parameters by device, are chosen by it.
        driver: version of the driver or runtime, part of what makes compiled code stale.
        has_float64: whether it computes in double precision.
        handle: the pyopencl device; None for "c".
    """

    kind: str
    name: str
    description: str
    driver: str = ""
    has_float64: bool = True
    handle: Any = field(default=None, compare=False, repr=False)

    @property
    def is_simulator(self) -> bool:
        """Whether it checks every access, and is hundreds of times slower than what it simulates."""
        return "oclgrind" in self.description.lower()


C_DEVICE = Device("c", "C compiler", "c CPU through the system's C compiler, sequential")
"""The processor, through loopy's C target: always there, and slow."""


INTEL_LIBRARY = "libintelocl.so"
"""Intel's runtime for CPUs, as its wheels install it."""

_INTEL_NEEDS = ("libimf.so", "libintlc.so.5", "libirng.so", "libsvml.so", "libtbb.so.12", "libtbbmalloc.so.2")
"""Libraries beside it that it does not find on its own, in the order in which they load."""

SYSTEM_VENDORS = Path("/etc/OpenCL/vendors")
"""Where every OpenCL loader looks for runtimes: a file for each, which names its library."""

_OUR_PREFIX = "fmmloopy_"
"""Begins the names of the files that we announce runtimes with."""


def hidden_runtimes() -> dict[str, Path]:
    """Find OpenCL runtimes that wheels or conda packages have installed, but do not announce to the loader.

    They lie below the environment's folder, where only conda's own loader looks. A wheel's announcement may name a path
    of the machine that built it; its library is then in the environment's ``lib``. Simulators stay out of sight.

    Returns:
        Path of the library by name of the file that announces it.
    """
    prefix = Path(sys.prefix)
    found = {}
    for announcement in sorted((prefix / "etc/OpenCL/vendors").glob("*.icd")):
        named = Path(announcement.read_text().strip())
        library = next((p for p in (prefix / "lib" / named, prefix / "lib" / named.name) if p.is_file()), None)
        if library and "oclgrind" not in library.name:
            found[announcement.name] = library
    return found


def load_needed(library: Path) -> None:
    """Load what a runtime needs and does not find from where it lies; that is known of Intel's.

    Raises:
        OSError: a library is missing or cannot be loaded; the text names it.
    """
    if library.name == INTEL_LIBRARY:
        for needed in _INTEL_NEEDS:
            ctypes.CDLL(str(library.parent / needed), ctypes.RTLD_GLOBAL)


def _show_hidden_runtimes() -> None:
    """Point the OpenCL loader to a folder that announces hidden runtimes beside the system's.

    Does nothing if the user has set OCL_ICD_VENDORS, or if nothing is hidden.
    """
    chosen = os.environ.get("OCL_ICD_VENDORS", "")
    if chosen and not any(Path(chosen).glob(f"{_OUR_PREFIX}*.icd")):  # else a parent process of ours has set it
        return
    wanted = {}
    try:
        for name, library in hidden_runtimes().items():
            with suppress(OSError):  # this one is not usable here; others are
                load_needed(library)
                wanted[_OUR_PREFIX + name] = f"{library}\n"
        if not wanted:
            return
        for system in sorted(SYSTEM_VENDORS.glob("*.icd")):
            wanted[system.name] = system.read_text()
        vendors = cache_folder() / "icd" / hashlib.sha256(repr(wanted).encode()).hexdigest()[:16]
        for name, text in wanted.items():
            if not (vendors / name).exists() or (vendors / name).read_text() != text:
                write_atomically(vendors / name, text)
    except OSError:
        return  # there is no place to announce them from
    os.environ["OCL_ICD_VENDORS"] = str(vendors)


@cache
def find_devices() -> tuple[Device, ...]:
    """Return all devices, the preferred one first; the last is always the C compiler."""
    return (*sorted(_opencl_devices(), key=_rank), C_DEVICE)


def _rank(device: Device) -> int:
    return next(i for i, pattern in enumerate(PREFERENCE) if re.search(pattern, device.description))


_VECTORS = {"avx512f": "AVX-512", "avx2": "AVX2", "avx": "AVX", "sve": "SVE", "asimd": "Neon"}
"""Vector instructions of processors, the widest first: as Linux lists them, and as they are called."""


@cache
def vector_instructions() -> str:
    """Return the widest vector instructions that this machine's processor has, ``""`` where the system does not say.

    How many registers recipes may fill follows from it: 32 with AVX-512, 16 with AVX2. Few runtimes tell.
    """
    with suppress(OSError):
        flags = set(re.findall(r"\w+", Path("/proc/cpuinfo").read_text()))
        return next((name for flag, name in _VECTORS.items() if flag in flags), "")
    return ""


def _opencl_devices() -> list[Device]:
    _show_hidden_runtimes()
    try:
        import pyopencl as cl

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
            kind = "CPU" if handle.type & cl.device_type.CPU else "GPU" if handle.type & cl.device_type.GPU else "other"
            vectors = vector_instructions() if kind == "CPU" else ""
            words = f"opencl {kind} {platform.name} {platform.version} {handle.name} {vectors}"
            description = " ".join(words.split())
            double = bool(handle.double_fp_config)
            device = Device("opencl", handle.name, description, handle.driver_version, double, handle)
            devices.setdefault(description, device)
    return list(devices.values())


def choose_device(which: str | Device | None = None) -> Device:
    """Choose a device.

    Args:
        which: a device; part of a description, whatever its case (such as ``"pocl"``, ``"PoCL 3.0"`` or ``"c"``); or
            None for the preferred one.

    Raises:
        DeviceError: no device matches.
    """
    if isinstance(which, Device):
        return which
    if which is not None and not isinstance(which, str):
        raise DeviceError(f"device is {which!r}, expected part of a device's description, such as 'pocl' or 'c'")
    devices = find_devices()
    if which is None:
        return devices[0]
    if which.lower() == "c":
        return C_DEVICE
    for device in devices:
        if which == device.description:
            return device
    for device in devices:
        if which.lower() in device.description.lower():
            return device
    found = "; ".join(repr(d.description) for d in devices)
    raise DeviceError(f"no device matches {which!r}; there are {found}: give part of one of these")


def processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


BUSY = 0.75
"""Runnable processes per processor from which on times are not trusted."""


def is_busy() -> bool:
    """Return whether programs ran on this machine in the last minute that leave too little for a measurement."""
    try:
        return os.getloadavg()[0] > BUSY * processors()
    except OSError:
        return False
