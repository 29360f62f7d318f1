"""NVRTC, NVIDIA's compiler of CUDA C++: from text to machine code, without a driver or a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from fmmloopy.common.messages import one_line
from fmmloopy.common.store import keep_program, kept_program
from fmmloopy.execution.device import DeviceError

OPTIONS = ("--std=c++17", "--device-as-default-execution-space")
"""Options of every program. Loopy writes the functions for powers without a word on where they run."""

INSTALL = 'pip install "fmmloopy[cuda]"'
"""The command that installs NVRTC."""


def load() -> Any:
    """Return NVRTC's Python module.

    Raises:
        DeviceError: it is not installed.
    """
    try:
        from cuda.bindings import nvrtc

        nvrtc.nvrtcVersion()
    except (ImportError, RuntimeError) as error:
        raise DeviceError(f"NVRTC is not installed ({one_line(error)}); `{INSTALL}` installs it") from error
    return nvrtc


@cache
def version() -> tuple[int, int]:
    """Return NVRTC's version; for errors see `load`."""
    major, minor = _call(load().nvrtcVersion())
    return int(major), int(minor)


@cache
def architectures() -> tuple[int, ...]:
    """Return the compute capabilities that NVRTC compiles for, such as 90 for 9.0; for errors see `load`."""
    return tuple(map(int, _call(load().nvrtcGetSupportedArchs())))


def compile_cubin(source: str, architecture: str, what: str, options: Sequence[str] = ()) -> bytes:
    """Compile a program to machine code, or read it from the cache.

    The result is a cubin and not PTX, because a driver refuses PTX of a newer NVRTC than itself.

    Args:
        source: the program.
        architecture: such as ``"sm_90"``.
        what: name of the program, for messages.
        options: additional options for NVRTC.

    Raises:
        DeviceError: NVRTC is not installed, or refuses the program.
    """
    where = "cuda", architecture, repr((source, architecture, OPTIONS, tuple(options), version())), ".cubin"
    if found := kept_program(*where):
        return found[1]
    built = _compiled(source, (f"--gpu-architecture={architecture}", *OPTIONS, *options), what)
    keep_program(*where, built)
    return built


def _compiled(source: str, options: Sequence[str], what: str) -> bytes:
    nvrtc = load()
    program = _call(nvrtc.nvrtcCreateProgram(source.encode(), f"{what}.cu".encode(), 0, [], []))
    try:
        words = [option.encode() for option in options]
        if nvrtc.nvrtcCompileProgram(program, len(words), words)[0] != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise DeviceError(f"NVRTC cannot compile {what}: {_log(program)}")
        code = b" " * int(_call(nvrtc.nvrtcGetCUBINSize(program)))
        _call(nvrtc.nvrtcGetCUBIN(program, code))
        return code
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _log(program: Any) -> str:
    """Return the first error of a log, in one line."""
    nvrtc = load()
    log = b" " * int(_call(nvrtc.nvrtcGetProgramLogSize(program)))
    _call(nvrtc.nvrtcGetProgramLog(program, log))
    lines = [line.strip() for line in log.decode(errors="replace").replace("\0", "").splitlines() if line.strip()]
    return " ".join(next(([line] for line in lines if "error" in line), lines))[:300]


def _call(result: Any) -> Any:
    """Return what a function of NVRTC has returned after its status.

    Raises:
        DeviceError: the status is an error.
    """
    status, *values = result
    if int(status):
        raise DeviceError(f"NVRTC failed with {status.name}")
    return values[0] if len(values) == 1 else values
