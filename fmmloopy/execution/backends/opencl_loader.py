"""OpenCL runtimes that the loader does not find on its own, and how it is pointed to them."""

from __future__ import annotations

import ctypes
import hashlib
import os
import sys
from contextlib import suppress
from pathlib import Path

from fmmloopy.common.store import cache_folder, write_atomically

INTEL_LIBRARY = "libintelocl.so"
"""Intel's runtime for CPUs, as its wheels install it."""

_INTEL_NEEDS = ("libimf.so", "libintlc.so.5", "libirng.so", "libsvml.so", "libtbb.so.12", "libtbbmalloc.so.2")
"""Libraries beside it that it does not find on its own, in the order in which they load."""

SYSTEM_VENDORS = Path("/etc/OpenCL/vendors")
"""Where every OpenCL loader looks for runtimes: a file for each, which names its library."""

_OUR_PREFIX = "fmmloopy_"
"""Begins the names of the files that we announce runtimes with."""


def hidden_runtimes() -> dict[str, Path]:
    """Find OpenCL runtimes that wheels or conda packages have installed, but do not announce to the loader.

    They lie below the environment's folder, where only conda's own loader looks. A wheel's announcement may name a path
    of the machine that built it; its library is then in the environment's ``lib``. Simulators stay out of sight.

    Returns:
        Path of the library by name of the file that announces it.
    """
    prefix = Path(sys.prefix)
    found = {}
    for announcement in sorted((prefix / "etc/OpenCL/vendors").glob("*.icd")):
        named = Path(announcement.read_text().strip())
        library = next((p for p in (prefix / "lib" / named, prefix / "lib" / named.name) if p.is_file()), None)
        if library and "oclgrind" not in library.name:
            found[announcement.name] = library
    return found


def load_needed(library: Path) -> None:
    """Load what a runtime needs and does not find from where it lies; that is known of Intel's.

    Raises:
        OSError: a library is missing or cannot be loaded; the text names it.
    """
    if library.name == INTEL_LIBRARY:
        for needed in _INTEL_NEEDS:
            ctypes.CDLL(str(library.parent / needed), ctypes.RTLD_GLOBAL)


def show_hidden_runtimes() -> None:
    """Point the OpenCL loader to a folder that announces hidden runtimes beside the system's.

    Does nothing if the user has set OCL_ICD_VENDORS, or if nothing is hidden.
    """
    chosen = os.environ.get("OCL_ICD_VENDORS", "")
    if chosen and not any(Path(chosen).glob(f"{_OUR_PREFIX}*.icd")):  # else a parent process of ours has set it
        return
    wanted = {}
    try:
        for name, library in hidden_runtimes().items():
            with suppress(OSError):  # this one is not usable here; others are
                load_needed(library)
                wanted[_OUR_PREFIX + name] = f"{library}\n"
        if not wanted:
            return
        for system in sorted(SYSTEM_VENDORS.glob("*.icd")):
            wanted[system.name] = system.read_text()
        vendors = cache_folder() / "icd" / hashlib.sha256(repr(wanted).encode()).hexdigest()[:16]
        for name, text in wanted.items():
            if not (vendors / name).exists() or (vendors / name).read_text() != text:
                write_atomically(vendors / name, text)
    except OSError:
        return  # there is no place to announce them from
    os.environ["OCL_ICD_VENDORS"] = str(vendors)
