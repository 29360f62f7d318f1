"""Find and describe the devices that operators can run on."""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from fmmloopy.cache import cache_folder, write_atomically

PREFERENCE = (r"CPU Intel\(R\) OpenCL", r"CPU .*PoCL (3\.[1-9]|[4-9]\.|\d\d)", r"CPU .*PoCL", r"CPU", r"")
"""Descriptions of devices, the fastest first: where several are found, a device that matches an earlier one is taken.
Measured with P2P on two cores of an AMD Zen 4: 2.2, 2.0 and 1.7 Gpairs/s for the first three."""


class DeviceError(Exception):
    """A device that is not there or cannot be used; the text says which there are."""


@dataclass(frozen=True)
class Device:
    """Something that runs operators.

    Attributes:
        kind: "opencl", or "c" for the processor through a C compiler.
        name: what the vendor calls it.
        description: kind, type, platform, version and name in one line; recipe books are chosen by it.
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


C_DEVICE = Device("c", "C compiler", "c CPU through the system's C compiler, sequential")
"""The processor, through loopy's C target: always there, and slow."""


def _show_intel_runtime() -> None:
    """Make Intel's CPU runtime from PyPI visible, which its wheels install but do not announce.

    The wheels' .icd file names a path of the machine that built it, and libraries that the runtime needs are not found
    from there. So: load those by hand, and point the OpenCL loader to a folder with a right .icd beside the system's.
    Does nothing if the user has set OCL_ICD_VENDORS.
    """
    library = Path(sys.prefix) / "lib" / "libintelocl.so"
    chosen = os.environ.get("OCL_ICD_VENDORS", "")
    ours = chosen.startswith(str(cache_folder() / "icd"))  # set by a parent process
    if (chosen and not ours) or not library.exists():
        return
    try:
        for needed in ("libimf.so", "libintlc.so.5", "libirng.so", "libsvml.so", "libtbb.so.12", "libtbbmalloc.so.2"):
            ctypes.CDLL(str(library.parent / needed), ctypes.RTLD_GLOBAL)
        wanted = {"fmmloopy_intel.icd": f"{library}\n"}
        for system in sorted(Path("/etc/OpenCL/vendors").glob("*.icd")):
            wanted[system.name] = system.read_text()
        vendors = cache_folder() / "icd" / hashlib.sha256(repr(wanted).encode()).hexdigest()[:16]
        for name, text in wanted.items():
            if not (vendors / name).exists() or (vendors / name).read_text() != text:
                write_atomically(vendors / name, text)
    except OSError:
        return  # the runtime is not usable here; other devices are
    os.environ["OCL_ICD_VENDORS"] = str(vendors)


@cache
def find_devices() -> tuple[Device, ...]:
    """Return all devices, the preferred one first; the last is always the C compiler."""
    return (*sorted(_opencl_devices(), key=_rank), C_DEVICE)


def _rank(device: Device) -> int:
    return next(i for i, pattern in enumerate(PREFERENCE) if re.search(pattern, device.description))


def _opencl_devices() -> list[Device]:
    _show_intel_runtime()
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
            description = " ".join(f"opencl {kind} {platform.name} {platform.version} {handle.name}".split())
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
        if which.lower() in device.description.lower():
            return device
    found = "; ".join(repr(d.description) for d in devices)
    raise DeviceError(f"no device matches {which!r}; there are {found}: give part of one of these")
