"""The machine, the devices to measure, and the versions of what runs on it."""

from __future__ import annotations

import platform
import re
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from fmmloopy.common.cores import processors
from fmmloopy.diagnosis.doctor import installed_version
from fmmloopy.execution.backends import backend_of
from fmmloopy.execution.devices import Device, DeviceError, choose_device, find_devices
from fmmloopy.execution.key import versions
from fmmloopy.execution.processor import vector_instructions
from fmmloopy.measuring.peaks import processor_of

ROOT = Path(__file__).resolve().parent.parent
"""The clone."""


def choose_devices(names: Sequence[str] | None = None) -> list[Device]:
    """Return the devices with these names, or all OpenCL devices of one processor, or else the C compiler.

    What is measured is held against the peaks of one processor, that of the preferred device.

    Raises:
        DeviceError: a name matches none, or they name devices of several processors.
    """
    if names:
        chosen = list(dict.fromkeys(choose_device(name) for name in names))
        if len({processor_of(device) for device in chosen}) > 1:
            which = ", ".join(device.name for device in chosen)
            raise DeviceError(f"{which} are different processors, each with peaks of its own; measure one at a time")
        return chosen
    found = [device for device in find_devices() if not (backend_of(device).last_resort or device.is_simulator)]
    return [device for device in found if processor_of(device) == processor_of(found[0])] or [choose_device("c")]


def runtime_label(device: Device) -> str:
    """Return a short name for a device's runtime: PoCL 3.0, Intel; or else the device's own."""
    return backend_of(device).label(device)


def describe_machine(device: Device) -> dict[str, str]:
    """Return what a reader has to know of the machine: processor, vectors, memory, system, Python."""
    described = {"processor": processor_of(device), "cores": str(processors())}
    described["vectors"] = vector_instructions() or "vectors unknown"
    with suppress(OSError):
        kilobytes = re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())
        described["memory"] = f"{int(kilobytes[1]) * 1024 / 1e9:.0f} GB" if kilobytes else "unknown"
    with suppress(OSError):
        described["system"] = platform.freedesktop_os_release()["PRETTY_NAME"]
    return described | {"kernel": f"{platform.system()} {platform.machine()}", "python": platform.python_version()}


def free_memory() -> int | None:
    """Return the bytes that programs may take now, None where the system does not say."""
    with suppress(OSError):
        kilobytes = re.search(r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text())
        return int(kilobytes[1]) * 1024 if kilobytes else None
    return None


def installed_versions() -> dict[str, str]:
    """Return the versions of the packages that speed depends on."""
    others = ("numpy", "pyopencl", "fmm3dpy")
    return dict(versions()) | {name: installed_version(name) or "none" for name in others}


def commit() -> str | None:
    """Return the commit of the clone, with a + for what is not committed; None without git."""
    try:
        command = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip() or None
    except (OSError, subprocess.CalledProcessError):
        return None
