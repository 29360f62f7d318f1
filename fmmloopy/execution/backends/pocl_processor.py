"""Tell PoCL the level of a processor that its LLVM is too old to know.

PoCL compiles for the processor that LLVM finds. An LLVM that is older than one of AMD's takes it for the last one that
it knows, or finds "generic", which its own compiler then refuses ("unknown target CPU 'generic'", pocl/pocl issue
1049). PoCL 3.0 from PyPI, with LLVM 14, so compiles AVX2 on Zen 4, and nothing at all on Zen 5. It has no option for
the name, which is a field of the device.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Collection
from collections.abc import Set as AbstractSet
from contextlib import suppress
from functools import cache

from fmmloopy.execution.processor import processor_flags

UNKNOWN = b"generic"
"""What LLVM calls a processor that it does not know."""

WITHOUT_AVX512 = (b"znver1", b"znver2", b"znver3")
"""AMD's processors without AVX-512, which an older LLVM takes later ones for."""

LEVELS = (
    ("x86-64-v4", {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}),
    ("x86-64-v3", {"avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"}),
    ("x86-64-v2", {"cx16", "popcnt", "sse4_1", "sse4_2", "ssse3"}),
    ("x86-64", frozenset[str]()),
)
"""Levels of x86-64, which LLVM 12 and later compile for, and the flags that Linux shows for each; those of a level
include those of the levels after it. Source: the psABI of x86-64, section 3.1.1."""

_SEARCHED = 4096
"""Bytes of a device in which its fields are looked for; PoCL 3.0's have 4,000, with the name at 640."""

_TEXT = 64
"""Bytes that are read of a field's text."""


@cache
def name_processor(handle: int) -> str:
    """Let PoCL compile for this processor's level of x86-64 if its LLVM takes the processor for less than it is.

    The field is found by what it and the one before it hold: such a name, after the target, such as
    "x86_64-unknown-linux-gnu". Where it is not found, nothing is changed, and PoCL does as it did.

    Args:
        handle: address of PoCL's device.

    Returns:
        The level; empty if PoCL knows the processor, or if it cannot be told.
    """
    if not sys.platform.startswith("linux"):
        return ""
    level = level_of(processor_flags())
    taken_for = (UNKNOWN, *(WITHOUT_AVX512 if level == LEVELS[0][0] else ()))
    with suppress(OSError), open("/proc/self/mem", "r+b", buffering=0) as memory:
        place = _place_of_name(memory.fileno(), handle, taken_for)
        if place:
            os.pwrite(memory.fileno(), struct.pack("=Q", ctypes.addressof(_kept(level))), place)
            return level
    return ""


def level_of(flags: AbstractSet[str]) -> str:
    """Return the highest level of x86-64 whose flags, and those of all lower levels, a processor has."""
    level = ""
    for name, needed in reversed(LEVELS):
        if not needed <= flags:
            break
        level = name
    return level


def _place_of_name(memory: int, handle: int, names: Collection[bytes]) -> int:
    """Return the address of the field that names the processor if it holds one of these names; else 0."""
    fields = _read(memory, handle, _SEARCHED)
    pointers = struct.unpack(f"={len(fields) // 8}Q", fields[: len(fields) // 8 * 8])
    for i, pointer in enumerate(pointers[1:]):
        if _text(memory, pointer) in names and _text(memory, pointers[i]).startswith(b"x86_64-"):
            return handle + 8 * (i + 1)
    return 0


def _text(memory: int, address: int) -> bytes:
    """Return the text at an address; empty where there is none."""
    return _read(memory, address, _TEXT).split(b"\0")[0]


def _read(memory: int, address: int, size: int) -> bytes:
    """Return up to `size` bytes of this process; none where it has none at the address."""
    with suppress(OSError, OverflowError):
        return os.pread(memory, size, address)
    return b""


@cache
def _kept(name: str) -> ctypes.Array[ctypes.c_char]:
    """Return a text in memory that stays where it is."""
    return ctypes.create_string_buffer(name.encode())
