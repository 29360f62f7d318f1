"""Backends: one file each, and the list of them."""

from __future__ import annotations

from fmmloopy.execution.backends.backend import Backend
from fmmloopy.execution.backends.c import CBackend
from fmmloopy.execution.backends.opencl import OpenCLBackend
from fmmloopy.execution.device import Device

BACKENDS: tuple[Backend, ...] = (OpenCLBackend(), CBackend())
"""All backends; where two have equal devices, those of the first are preferred."""


def backend_of(device: Device) -> Backend:
    """Return the backend of a device.

    Raises:
        ValueError: there is none of its name.
    """
    for backend in BACKENDS:
        if backend.name == device.backend:
            return backend
    known = ", ".join(backend.name for backend in BACKENDS)
    raise ValueError(f"{device.description!r} has the backend {device.backend!r}, expected one of {known}")
