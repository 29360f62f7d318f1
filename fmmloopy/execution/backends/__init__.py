"""Backends: one file for each, and the list of all."""

from __future__ import annotations

from fmmloopy.execution.backends.backend import Backend
from fmmloopy.execution.backends.c import CBackend
from fmmloopy.execution.backends.cuda import CudaBackend
from fmmloopy.execution.backends.cuda_emulator import CudaEmulatorBackend
from fmmloopy.execution.backends.opencl import OpenCLBackend
from fmmloopy.execution.device import Device

BACKENDS: tuple[Backend, ...] = (CudaBackend(), OpenCLBackend(), CudaEmulatorBackend(), CBackend())
"""All backends; of equal devices, those of the first backend are preferred."""


def backend_of(device: Device) -> Backend:
    """Return the backend of a device.

    Raises:
        ValueError: there is no backend with this name.
    """
    for backend in BACKENDS:
        if backend.name == device.backend:
            return backend
    known = ", ".join(backend.name for backend in BACKENDS)
    raise ValueError(f"{device.description!r} has the backend {device.backend!r}, expected one of {known}")
