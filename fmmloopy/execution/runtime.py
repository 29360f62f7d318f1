"""Open devices: arrays on them, and launches that are bound once and replayed."""

from __future__ import annotations

from fmmloopy.execution.backends import backend_of
from fmmloopy.execution.device import Device
from fmmloopy.execution.launch import Array, Launch, Runtime

__all__ = ["Array", "Launch", "Runtime", "make_runtime"]


def make_runtime(device: Device, padding: int | None = None) -> Runtime:
    """Open a device.

    Arrays have room for as many more numbers than their shapes say as the device's limits want; 0 is for those who want
    arrays to end where their shapes say.
    """
    return backend_of(device).open(device, device.limits.padding if padding is None else padding)
