"""Make sure that the packages below can keep their caches, before they are imported.

Loopy, pyopencl and PoCL keep databases and programs in the user's cache folder. Loopy opens its databases when it is
imported, and its import fails where there is no home, where the disk is full, or where a database is damaged. Its
entries are pickled objects, so whoever can write them can run code here. In all these cases the packages, and
fmmloopy's own cache unless it has a folder of its own, use a temporary folder instead: everything works, but slower.
"""

from __future__ import annotations

import atexit
import errno
import os
import shlex
import shutil
import sqlite3
import sys
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

from fmmloopy.common.store import ENVIRONMENT_VARIABLE, user_folder
from fmmloopy.common.trust import UntrustedError, check_trusted, make_private_folders, warn_once

CACHE_VARIABLE = "XDG_CACHE_HOME"
"""The environment variable of the user's cache folder, which the packages below read too."""

SHARED_FOLDERS = ("pytools", "pyopencl", "pocl")
"""Their folders in the user's cache folder; loopy's databases are in that of pytools."""

ROOM = 32 * 2**20
"""Bytes that must be free on a disk: what caches of a first run take. PoCL compiles nothing if its own has no room."""

PROBE = 64 * 1024
"""Bytes that are written as a test, since a user may have no more room where the disk has."""

FULL = 4 * 2**20
"""Free bytes below which a disk counts as full when a program cannot be compiled: a compiler needs some for its files,
and has given them back by the time that its failure is seen."""

LAST_PLACES = ("/dev/shm", "/run/shm")
"""Folders in memory, for temporary files when every disk is full or read-only."""


@cache
def prepare() -> str:
    """Let other packages keep their caches in a temporary folder if they cannot in the user's, with a warning.

    Returns:
        Why they cannot, and what helps; empty if they can.
    """
    trouble = _trouble()
    if not trouble:
        return ""
    try:
        instead = temporary_folder()
    except OSError as error:
        warn_once(f"loopy cannot be used, because {trouble}; and {error}")
        return trouble
    _move_caches(instead)
    warn_once(f"programs are compiled again in each process, because {trouble}")
    return trouble


def leave_caches() -> None:
    """Let other packages open databases in a temporary folder from now on.

    Some are opened in the middle of a program, when the disk may be full that had room at its start.
    """
    with suppress(OSError):
        _move_caches(temporary_folder())


@cache
def pocl_folder() -> Path | None:
    """Return the folder of PoCL's cache, which PoCL chooses and makes when it starts; None if there is none."""
    own = os.environ.get("POCL_CACHE_DIR")
    with suppress(OSError):
        return Path(own) if own else user_folder("cache") / "pocl" / "kcache"
    return None


def restore_pocl_folder() -> str:
    """Make the folder of PoCL's cache again, without which it compiles nothing.

    Returns:
        The folder if it was missing; else empty.
    """
    folder = pocl_folder()
    with suppress(OSError):
        if folder and not folder.exists():
            make_private_folders(folder)
            return str(folder)
    return ""


def _move_caches(folder: Path) -> None:
    """Let other packages keep their caches in a folder, but fmmloopy where it can."""
    if not os.environ.get(ENVIRONMENT_VARIABLE):
        with suppress(OSError):
            own = user_folder("cache") / "fmmloopy"
            if own.is_dir() and os.access(own, os.W_OK):
                os.environ[ENVIRONMENT_VARIABLE] = str(own)
    os.environ[CACHE_VARIABLE] = str(folder)


def _trouble() -> str:
    """Return why packages cannot keep their caches in the user's folder; empty if they can."""
    place: Path | None = None
    try:
        place = user_folder("cache")
        return _damage(place)
    except UntrustedError as error:
        return str(error)
    except OSError as error:
        what = f"{place} cannot be used ({error.strerror or error})" if place else str(error)
        return f"{what}; to use another folder: export {CACHE_VARIABLE}=FOLDER"


@cache
def temporary_folder() -> Path:
    """Return a new folder that is removed when this process ends.

    Raises:
        OSError: there is none that can be written.
    """
    for folder in (None, *LAST_PLACES):
        try:
            made = Path(tempfile.mkdtemp(prefix="fmmloopy-", dir=folder))
            _try_to_write(made)
        except OSError:
            continue
        if folder:  # compilers need temporary files too
            os.environ["TMPDIR"] = tempfile.tempdir = str(made)
        atexit.register(_remove, made, os.getpid())
        return made
    raise OSError("no folder for temporary files can be written; set TMPDIR to one that can")


def _remove(folder: Path, process: int) -> None:
    if os.getpid() == process:  # and not a copy of it, which ends earlier
        shutil.rmtree(folder, ignore_errors=True)


def _damage(place: Path) -> str:
    """Return what is wrong with the databases in a folder; empty if nothing is.

    Raises:
        OSError: the folder cannot be written, or others can write it.
    """
    databases = place / SHARED_FOLDERS[0]
    make_private_folders(databases)
    for name in SHARED_FOLDERS:
        check_trusted(place / name, place / name, own_group=True)
    _try_to_write(databases)
    for database in _databases(databases):
        check_trusted(database, databases, own_group=True)
        if not _is_sound(database):
            return f"{database} is damaged; to have it made again: rm -r {shlex.quote(str(databases))}"
    return ""


def _databases(folder: Path) -> list[Path]:
    """Return the databases of loopy and pyopencl for this version of Python."""
    version = ".".join(map(str, sys.version_info))
    return sorted(folder.glob(f"pdict-*-{version}.sqlite"))


def _is_sound(database: Path) -> bool:
    """Return whether a database can be opened, and written by this user."""
    if not os.access(database, os.W_OK):
        return False
    try:
        connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=0)
        try:
            connection.execute("SELECT keyhash FROM dict LIMIT 1").fetchone()
        finally:
            connection.close()
    except sqlite3.OperationalError as error:
        return "locked" in str(error) or "no such table" in str(error)
    except sqlite3.DatabaseError:
        return False
    return True


def full_disk() -> str:
    """Return what helps if a disk with caches or temporary files is full; empty if none is."""
    folder = pocl_folder()  # where PoCL has its cache since it started, wherever others are by now
    places = {"POCL_CACHE_DIR": folder and _existing(folder), CACHE_VARIABLE: None, "TMPDIR": tempfile.gettempdir()}
    with suppress(OSError):
        places[CACHE_VARIABLE] = str(user_folder("cache"))
    for variable, place in places.items():
        with suppress(OSError):
            if place and shutil.disk_usage(place).free < FULL:
                return f"the disk of {place} is full; make room there, or export {variable}=FOLDER on another disk"
    return ""


def _existing(folder: Path) -> str:
    """Return a folder, or the nearest one above it that there is."""
    return str(next((place for place in (folder, *folder.parents) if place.exists()), folder))


def _try_to_write(folder: Path) -> None:
    """Make sure that there is room in a folder; raises OSError if not."""
    if shutil.disk_usage(folder).free < ROOM:
        raise OSError(errno.ENOSPC, f"less than {ROOM // 2**20} MiB are free")
    handle, name = tempfile.mkstemp(dir=folder, prefix=".fmmloopy-", suffix=".tmp")
    try:
        os.write(handle, bytes(PROBE))
    finally:
        os.close(handle)
        os.unlink(name)
