"""Open devices: arrays on them, and launches that are bound once and replayed."""

from __future__ import annotations

from fmmloopy.execution.backends import backend_of
from fmmloopy.execution.device import Device
from fmmloopy.execution.launch import Array, Launch, Runtime

__all__ = ["Array", "Launch", "Runtime", "make_runtime"]


def make_runtime(device: Device, padding: int | None = None) -> Runtime:
    """Open a device.

    Arrays are padded by the number of elements in the device's limits; with a padding of 0 they end exactly where their
    shapes say.
    """
    return backend_of(device).open(device, device.limits.padding if padding is None else padding)
