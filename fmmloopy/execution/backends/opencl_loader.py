"""Find OpenCL runtimes that the loader does not find, and register them."""

from __future__ import annotations

import ctypes
import hashlib
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from fmmloopy.common.store import cache_folder, read_cached, write_cached
from fmmloopy.common.surroundings import temporary_folder
from fmmloopy.common.trust import make_private_folders

INTEL_LIBRARY = "libintelocl.so"
"""Library of Intel's runtime for CPUs in its wheels."""

_INTEL_NEEDS = ("libimf.so", "libintlc.so.5", "libirng.so", "libsvml.so", "libtbb.so.12", "libtbbmalloc.so.2")
"""Libraries in the same folder that it does not find by itself, in loading order."""

SYSTEM_VENDORS = Path("/etc/OpenCL/vendors")
"""Folder where every OpenCL loader looks for runtimes; a file for each names its library."""

_OUR_PREFIX = "fmmloopy_"
"""Prefix of the files by which fmmloopy registers runtimes."""


def hidden_runtimes() -> dict[str, Path]:
    """Find OpenCL runtimes that wheels or conda packages installed without registering them with the loader.

    They are in the environment's folder, where only conda's own loader looks. A wheel's .icd file may name a path of
    the machine that built it; its library is then in the environment's ``lib``. Simulators are ignored.

    Returns:
        Path of the library by name of its .icd file.
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
    """Load libraries that a runtime needs but does not find, which is the case for Intel's.

    Raises:
        OSError: a library is missing or cannot be loaded; the message names it.
    """
    if library.name == INTEL_LIBRARY:
        for needed in _INTEL_NEEDS:
            ctypes.CDLL(str(library.parent / needed), ctypes.RTLD_GLOBAL)


def show_hidden_runtimes() -> None:
    """Point the OpenCL loader to a folder that registers hidden runtimes in addition to the system's.

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
        os.environ["OCL_ICD_VENDORS"] = str(_vendors_folder(wanted))
    except OSError:
        return  # there is no place to announce them from


def _vendors_folder(wanted: Mapping[str, str]) -> Path:
    """Return a folder of the cache that has these files and no others; if that cannot be, a temporary one.

    The loader loads the library of each file that it finds there, so files that somebody added must not count.
    """
    vendors = cache_folder() / "icd" / hashlib.sha256(repr(wanted).encode()).hexdigest()[:16]
    try:
        _write_all(vendors, cache_folder(), wanted)
    except OSError:
        vendors = temporary_folder() / "icd"
        _write_all(vendors, vendors, wanted)
    return vendors


def _write_all(folder: Path, top: Path, wanted: Mapping[str, str]) -> None:
    """Make sure that a folder has these .icd files and no others."""
    make_private_folders(folder)
    for extra in {path.name for path in folder.glob("*.icd")} - set(wanted):
        raise FileExistsError(f"{folder / extra} is not from fmmloopy; remove it")
    for name, text in wanted.items():
        try:
            same = read_cached(folder / name, top) == text.encode()
        except FileNotFoundError:
            same = False
        if not same:
            write_cached(folder / name, text, top)
