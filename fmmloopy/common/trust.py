"""Whether files can be trusted: nobody else may have written them.

Code that a process reads from a cache is run by it. So a file counts only if it and the folders above it, up to the top
of the cache, belong to this user and cannot be written by others. Systems without owners of files are not checked.
"""

from __future__ import annotations

import os
import shlex
import stat
import warnings
from functools import cache
from pathlib import Path

SYSTEM_OWNER = 0
"""The administrator, who can change this program too."""


class CacheWarning(UserWarning):
    """A cache cannot be used; everything works without it, but slower."""


class UntrustedError(PermissionError):
    """A file or folder belongs to somebody else or can be written by others.

    Attributes:
        reason: which one, and why.
        remedy: a command that fixes it.
    """

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}; to use it: {remedy}")
        self.reason, self.remedy = reason, remedy


def check_trusted(path: Path, top: Path, own_group: bool = False) -> None:
    """Make sure that nobody else can have written a file, or can replace it; what does not exist is fine.

    Args:
        path: the file or folder.
        top: a folder above it, the highest one that is checked.
        own_group: whether a group that has only this user may write; other packages create their folders with the
            permissions of the system, which often allow that.

    Raises:
        UntrustedError: the file, or a folder up to ``top``, is not only this user's.
    """
    for each in _between(path, top):
        reason, remedy = _doubts(each, top, own_group)
        if reason:
            raise UntrustedError(f"{each} {reason}", remedy)


def make_private_folders(path: Path) -> None:
    """Create a folder and those above it where they are missing, for this user alone."""
    missing = []
    while not path.exists():
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        folder.mkdir(mode=0o700, exist_ok=True)


@cache
def warn_once(text: str) -> None:
    """Say once per process that a cache cannot be used."""
    warnings.warn(text, CacheWarning, stacklevel=4)


def _between(path: Path, top: Path) -> list[Path]:
    """Return the folders from the top down to a path, and the path; for one that is elsewhere, its own folder too."""
    if path == top:
        return [path]
    above = [parent for parent in path.parents if parent.is_relative_to(top)]
    return [*reversed(above or [path.parent]), path]


def _doubts(path: Path, top: Path, own_group: bool) -> tuple[str, str]:
    """Return why a path is not trusted, and what helps; empty if it is."""
    if not hasattr(os, "geteuid"):
        return "", ""
    try:
        found = path.stat()
    except OSError:
        return "", ""
    if found.st_uid not in (os.geteuid(), SYSTEM_OWNER):
        return f"belongs to user {found.st_uid}, expected {os.geteuid()}", f"rm -r {shlex.quote(str(path))}"
    others = stat.S_IWOTH if own_group and _has_one_member(found.st_gid) else stat.S_IWOTH | stat.S_IWGRP
    if found.st_mode & others:
        mode = f"{stat.S_IMODE(found.st_mode):o}"
        return f"can be written by others (mode {mode})", f"chmod -R go-w {shlex.quote(str(top))}"
    return "", ""


def _has_one_member(group: int) -> bool:
    """Return whether a group is this user's alone, which is recognized by its name."""
    import grp
    import pwd

    try:
        entry, user = grp.getgrgid(group), pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return False
    return entry.gr_name == user and not set(entry.gr_mem) - {user}
