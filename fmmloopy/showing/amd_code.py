"""Machine code for AMD's GPUs, without one: clang compiles the OpenCL text, with libclc for OpenCL's functions."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fmmloopy.execution.backends.opencl import AMD
from fmmloopy.execution.device import GPU, Device, DeviceError, gpu_limits

ARCHITECTURES = ("gfx90a",)
"""Of the Instinct MI200 cards."""

LIBRARIES = tuple(Path(folder) / "amdgcn--amdhsa.bc" for folder in ("/usr/lib/clc", "/usr/share/clc"))
"""Where distributions have libclc for AMD's runtime."""

INSTALL = "apt-get install clang-15 libclc-15"


def device_of(architecture: str) -> Device:
    """Return the device for which loopy generates code: a GPU with wavefronts of 64 that is not there."""
    return Device(
        "opencl",
        architecture,
        f"opencl GPU AMD {architecture}, to compile for",
        kind=GPU,
        runtime=AMD,
        vendor="amd",
        width=64,
        limits=gpu_limits(0, 0),
    )


@dataclass(frozen=True)
class Resources:
    """What a kernel takes.

    Attributes:
        registers: vector registers of a work-item.
        spilled: bytes of them that a work-item keeps in memory.
        scalars_spilled: scalar registers that are kept in lanes of vector registers, not in memory.
        local_bytes: local memory of a group.
    """

    registers: int
    spilled: int
    scalars_spilled: int
    local_bytes: int


def has_tools() -> bool:
    """Return whether clang and libclc are installed."""
    return _clang() is not None and _library() is not None


def compile_text(source: str, architecture: str, what: str, options: Sequence[str] = ()) -> str:
    """Compile a program to assembly.

    Args:
        source: the program, in OpenCL C.
        architecture: one of ARCHITECTURES.
        what: name of the program, for messages.
        options: additional options for clang.

    Raises:
        DeviceError: clang or libclc is not installed, or clang refuses the program.
    """
    clang, library = _clang(), _library()
    if clang is None or library is None:
        missing = "clang" if clang is None else f"libclc ({LIBRARIES[0]})"
        raise DeviceError(f"{missing} was not found; `{INSTALL}` installs it")
    command = [clang, "-x", "cl", "-cl-std=CL1.2", "-target", "amdgcn-amd-amdhsa", f"-mcpu={architecture}", "-nogpulib"]
    for option in ("-finclude-default-header", "-mlink-builtin-bitcode", str(library)):
        command += ["-Xclang", option]
    command += ["-O3", "-S", "-w", *options, "-", "-o", "-"]
    done = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DeviceError(f"clang cannot compile {what}: {' '.join(done.stderr.split())[:300]}")
    return done.stdout


def read_resources(text: str) -> Resources:
    """Read the metadata of the one kernel in clang's assembly, see LLVM's "User Guide for AMDGPU Backend"."""

    def number(name: str) -> int:
        found = re.findall(rf"^\s+\.{name}:\s+(\d+)$", text, re.MULTILINE)
        return int(found[-1])

    return Resources(
        number("vgpr_count"),
        number("private_segment_fixed_size"),
        number("sgpr_spill_count"),
        number("group_segment_fixed_size"),
    )


def _clang() -> str | None:
    names = ("clang", *(f"clang-{version}" for version in range(21, 14, -1)))
    return next((path for name in names if (path := shutil.which(name))), None)


def _library() -> Path | None:
    return next((path for path in LIBRARIES if path.exists()), None)
