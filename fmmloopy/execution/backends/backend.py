"""What a backend is: everything that depends on how devices are found, compiled for and launched on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from fmmloopy.execution.device import Device
from fmmloopy.execution.launch import Runtime

OPENCL_C, C = "OpenCL", "C"
"""Languages of programs."""


@dataclass(frozen=True)
class Family:
    """Devices that one recipe book is for.

    Attributes:
        words: which they are, such as "CPUs through PoCL 3.1".
        facts: fields of `Device` and what they have in common; of a version, its first numbers.
    """

    words: str
    facts: tuple[tuple[str, Any], ...]


class Backend(Protocol):
    """A way to run code; devices name it in ``Device.backend``.

    Attributes:
        name: identifier.
        language: what programs are written in: tools that know one language only ask for it.
        has_groups: whether launches have work-groups and work-items; else only sequential kernels run.
        has_rsqrt: whether the language has a function ``rsqrt``.
        prelude: what every generated program begins with.
        probe_header: macros and types that the programs of `fmmloopy.measuring.probes` are written in.
        no_code: what to try where there is no code for a recipe's kernel; begins with "; ", or is empty.
        last_resort: what to tell users where no other backend has a device; empty for backends that are no makeshift.
    """

    name: str
    language: str
    has_groups: bool
    has_rsqrt: bool
    prelude: str
    probe_header: str
    no_code: str
    last_resort: str

    def find_devices(self) -> Sequence[Device]:
        """Return the devices that are there, with their limits; none where the backend cannot be used."""

    def rank(self, device: Device) -> int:
        """Return 0 for the fastest runtimes for devices of one kind, more for others."""

    def label(self, device: Device) -> str:
        """Return a short name for a device's runtime and its version, or else the device's own name."""

    def family(self, device: Device) -> Family:
        """Return the devices that want the same recipes."""

    def retarget(self, kernel: Any) -> Any:
        """Return a loopy kernel for which code in the backend's language is generated."""

    def open(self, device: Device, padding: int) -> Runtime:
        """Open a device; arrays get ``padding`` more numbers than their shapes say."""

    def code_environment(self, device: Device, folder: Path) -> dict[str, str]:
        """Return variables with which a new process leaves the machine code of what it launches in a folder.

        Raises:
            DeviceError: the runtime does not give its code.
        """

    def launched_name(self, device: Device, entry: str) -> str:
        """Return what the function of a program that is launched is called in its machine code."""
