"""Facts about this machine's processor, from the operating system."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_VECTORS = {
    "avx512f": ("AVX-512", 64, 32),
    "avx2": ("AVX2", 32, 16),
    "avx": ("AVX", 32, 16),
    "sve": ("SVE", 16, 32),
    "asimd": ("Neon", 16, 32),
}
"""Vector instructions of processors, the widest first: name in Linux, usual name, bytes of a register (for SVE the
minimum), and number of registers."""

VENDORS = {
    "intel": r"\bintel\b|genuineintel",
    "amd": r"\bamd\b|authenticamd|\bepyc\b|\bryzen\b",
    "nvidia": r"\bnvidia\b",
    "apple": r"\bapple\b",
    "arm": r"\barm\b|\bcortex\b|\bneoverse\b",
}
"""Vendors of processors, and the parts of names that identify them."""


@dataclass(frozen=True)
class Processor:
    """Facts about a processor; unknown ones have neutral values, as in `fmmloopy.Device`."""

    vendor: str = ""
    instructions: str = ""
    vector_bytes: int = 0
    registers: int = 0


def vendor_of(*names: str) -> str:
    """Return the vendor from the first name that identifies one; ``""`` if none does."""
    found = (vendor for name in names for vendor, words in VENDORS.items() if re.search(words, name.lower()))
    return next(found, "")


@cache
def this_processor() -> Processor:
    """Return the facts about this machine's processor on Linux; nothing is known on other systems."""
    vendor = re.search(r"^vendor_id\s*:\s*(.+)$", _description(), re.MULTILINE)
    facts = next((facts for flag, facts in _VECTORS.items() if flag in processor_flags()), ("", 0, 0))
    return Processor(vendor_of(vendor[1]) if vendor else "", *facts)


def processor_flags() -> frozenset[str]:
    """Return the flags of this machine's processor, by Linux's names, such as "avx2"; none on other systems."""
    return frozenset(re.findall(r"\w+", _description()))


def _description() -> str:
    """Return what Linux says of this machine's processors."""
    with suppress(OSError):
        return Path("/proc/cpuinfo").read_text()
    return ""


def vector_instructions() -> str:
    """Return the widest vector instructions of this machine's processor; ``""`` if unknown.

    They determine how many registers recipes may fill: 32 with AVX-512, 16 with AVX2. Few runtimes report them.
    """
    return this_processor().instructions
