"""Find devices and choose among them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from functools import cache

from fmmloopy.common.cores import processors
from fmmloopy.execution.backends import BACKENDS, backend_of
from fmmloopy.execution.backends.c import C_DEVICE
from fmmloopy.execution.backends.opencl import OpenCLBackend
from fmmloopy.execution.device import CPU, GPU, OTHER, Device, DeviceError

__all__ = [
    "C_DEVICE",
    "ENVIRONMENT_VARIABLE",
    "Device",
    "DeviceError",
    "choose_device",
    "choose_devices",
    "choose_suited",
    "find_devices",
    "is_busy",
    "match_device",
    "missing_devices",
    "processors",
]

ENVIRONMENT_VARIABLE = "FMMLOOPY_DEVICE"
"""The environment variable that names the default device."""

_KINDS = (GPU, CPU, OTHER)
"""The preferred kind first."""


@cache
def find_devices() -> tuple[Device, ...]:
    """Return all devices except hidden ones, the preferred one first; the last is always the C compiler.

    Real devices come before simulators; among them GPUs before CPUs, then those with float64; among CPUs, the fastest
    runtime is first. The first device is the default, unless $FMMLOOPY_DEVICE names another.
    """
    found = (device for backend in BACKENDS if not backend.hidden for device in backend.find_devices())
    return tuple(sorted(found, key=_rank))


def _rank(device: Device) -> tuple[int, ...]:
    backend = backend_of(device)
    return (
        bool(backend.last_resort),
        device.is_simulator,
        _KINDS.index(device.kind),
        not device.has_float64,
        BACKENDS.index(backend),
        backend.rank(device),
    )


def choose_device(which: str | Device | None = None) -> Device:
    """Choose a device.

    Args:
        which: a device; part of a description, in any case (such as ``"pocl"``, ``"PoCL 3.0"`` or ``"c"``);
            ``"emulated"`` for the emulated CUDA GPU, which is never chosen otherwise; or None for the one that
            $FMMLOOPY_DEVICE names in the same way, or else the preferred one.

    Raises:
        DeviceError: no device matches.
    """
    if isinstance(which, Device):
        return which
    if which is not None and not isinstance(which, str):
        raise DeviceError(f"device is {which!r}, expected part of a device's description, such as 'pocl' or 'c'")
    if which is not None:
        return _matching(which, "")
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    return _matching(named, f"${ENVIRONMENT_VARIABLE}: ") if named else find_devices()[0]


def choose_devices(which: str) -> tuple[Device, ...]:
    """Choose a device, or parts of one: ``"pocl/2"`` is PoCL with its cores divided between two devices.

    Raises:
        DeviceError: no device matches, or the one that does cannot be divided.
    """
    parts = re.fullmatch(r"(.*)/\s*([1-9]\d*)\s*", which)
    if parts is None:
        return (choose_device(which),)
    device, count = choose_device(parts[1].strip()), int(parts[2])
    backend = backend_of(device)
    if not isinstance(backend, OpenCLBackend):
        raise DeviceError(f"{which!r}: {device.name} cannot be divided; only OpenCL devices can")
    return backend.split(device, count)


def match_device(which: str, devices: Sequence[Device]) -> Device | None:
    """Return the first device with this description, or else with a description that contains it, or else None.

    Hidden devices, which are not among these, match the beginning of their description.
    """
    if which.lower() == "c":
        return C_DEVICE
    same = (device for device in devices if which == device.description)
    alike = (device for device in devices if which.lower() in device.description.lower())
    hidden = (device for backend in BACKENDS if backend.hidden for device in backend.find_devices())
    named = (device for device in hidden if which and device.description.lower().startswith(which.lower()))
    return next(same, None) or next(alike, None) or next(named, None)


def _matching(which: str, where: str) -> Device:
    found = match_device(which, find_devices())
    if found is not None:
        return found
    there = "; ".join(repr(d.description) for d in find_devices())
    reasons = (backend.trouble() for backend in BACKENDS if backend.name in which.lower())
    why = "".join(f" ({reason})" for reason in reasons if reason)
    raise DeviceError(f"{where}no device matches {which!r}{why}; there are {there}; give part of one of these")


def choose_suited(suits: Callable[[Device], bool]) -> Device:
    """Return the default device if it suits, else the first device that does, else the default device.

    Raises:
        DeviceError: $FMMLOOPY_DEVICE matches no device.
    """
    usual = choose_device()
    return next((device for device in (usual, *find_devices()) if suits(device)), usual)


def missing_devices() -> str:
    """Return what is missing if the default device is a last resort; ``""`` if not, or $FMMLOOPY_DEVICE is set."""
    asked = os.environ.get(ENVIRONMENT_VARIABLE)
    return "" if asked else backend_of(find_devices()[0]).last_resort


BUSY = 0.75
"""Runnable processes per processor above which times are not trusted."""


def is_busy() -> bool:
    """Return whether this machine was too busy for measurements in the last minute."""
    try:
        return os.getloadavg()[0] > BUSY * processors()
    except OSError:
        return False
