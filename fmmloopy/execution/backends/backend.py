"""The interface of backends, which find devices, compile code and launch kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from fmmloopy.execution.device import Device
from fmmloopy.execution.launch import Runtime

OPENCL_C, C, CUDA = "OpenCL", "C", "CUDA"
"""Languages of programs."""


@dataclass(frozen=True)
class Family:
    """Devices that one recipe book is for.

    Attributes:
        words: description, such as "CPUs through PoCL 3.1".
        facts: fields of `Device` with their common values; for a version, its first numbers.
    """

    words: str
    facts: tuple[tuple[str, Any], ...]


class Backend(Protocol):
    """A way to run code; devices name it in ``Device.backend``.

    Attributes:
        name: identifier.
        language: language of the programs, for tools that support only one.
        has_groups: whether launches have work-groups and work-items; else only sequential kernels run.
        has_vectors: whether the language has vectors with arithmetic; only the probes ask.
        has_rsqrt: whether the language has a function ``rsqrt``.
        prelude: the beginning of every generated program.
        probe_header: macros and types for the programs of `fmmloopy.measuring.probes`.
        no_code: what to try if no code can be generated for a recipe's kernel; begins with "; ", or is empty.
        last_resort: message to users if no other backend has a device; empty for backends that are not a last resort.
        hidden: whether its devices are used only if they are named, by the beginning of their description.
    """

    name: str
    language: str
    has_groups: bool
    has_vectors: bool
    has_rsqrt: bool
    prelude: str
    probe_header: str
    no_code: str
    last_resort: str
    hidden: bool

    def find_devices(self) -> Sequence[Device]:
        """Return all devices, with their limits; none if the backend cannot be used."""

    def trouble(self) -> str:
        """Return why there are no devices, in one line and with the remedy; "" if there are, or if none is expected."""

    def rank(self, device: Device) -> int:
        """Return 0 for the fastest runtimes for devices of one kind, and larger numbers for others."""

    def label(self, device: Device) -> str:
        """Return a short name for a device's runtime and its version, or else the device's own name."""

    def family(self, device: Device) -> Family:
        """Return the family of devices that need the same recipes."""

    def retarget(self, kernel: Any) -> Any:
        """Return a loopy kernel for which code in the backend's language is generated."""

    def open(self, device: Device, padding: int) -> Runtime:
        """Open a device; arrays get ``padding`` additional numbers after their ends."""

    def code_environment(self, device: Device, folder: Path) -> dict[str, str]:
        """Return environment variables that make a new process write the machine code of its launches to a folder.

        Raises:
            DeviceError: the runtime does not provide its code.
        """

    def launched_name(self, device: Device, entry: str) -> str:
        """Return the name in the machine code of the function that is launched."""
