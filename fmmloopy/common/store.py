"""The user's cache folder, and functions that write complete files or none.

Everything in the cache can be deleted at any time and is made again when it is needed. Content that is stored under a
key is returned only for the same key, and only if it is undamaged. A cache that others can write is not used, see
`fmmloopy.common.trust`. What is not in the cache is looked up in the bundles that were opened
(`fmmloopy.common.bundle`), which are made by recording what a process reads and writes.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import platformdirs

from fmmloopy.common.documents import parse
from fmmloopy.common.trust import UntrustedError, check_trusted, make_private_folders, warn_once

ENVIRONMENT_VARIABLE = "FMMLOOPY_CACHE_DIR"


class Archive(Protocol):
    """Files in the layout of the cache, by their paths below it, such as ``"code/p2p-0123.json"``."""

    @property
    def names(self) -> frozenset[str]:
        """The files that there are."""

    def read(self, name: str) -> bytes | None:
        """Return the content of a file; None if there is none, or it is damaged."""


archives: list[Archive] = []
"""What is searched after the cache, in order."""


@dataclass(frozen=True)
class Recording:
    """What a process has read from the cache and written to it.

    Attributes:
        files: contents by path below the cache folder.
        at_end: what is called at the end of the recording, and may write more.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    at_end: list[Callable[[], None]] = field(default_factory=list)


_recordings: list[Recording] = []


@contextmanager
def recording() -> Iterator[Recording]:
    """Record what this process reads from the cache folder and writes to it."""
    found = Recording()
    _recordings.append(found)
    try:
        yield found
        for call in found.at_end:
            call()
    finally:
        _recordings.remove(found)


def is_recording() -> bool:
    """Return whether the use of the cache is recorded."""
    return bool(_recordings)


def at_end_of_recording(call: Callable[[], None]) -> None:
    """Call a function at the end of the recording, if there is one."""
    for each in _recordings:
        each.at_end.append(call)


def _note(path: Path, top: Path, content: bytes) -> None:
    for each in _recordings:
        each.files[path.relative_to(top).as_posix()] = content


def cache_folder() -> Path:
    """Return the folder of cached files: $FMMLOOPY_CACHE_DIR if set and not empty, else the user's cache folder."""
    given = os.environ.get(ENVIRONMENT_VARIABLE)
    return Path(given) if given else user_folder("cache") / "fmmloopy"


def user_folder(kind: str) -> Path:
    """Return a folder of the user: ``"cache"`` or ``"config"``.

    Raises:
        FileNotFoundError: the user has no home.
    """
    variable = f"XDG_{kind.upper()}_HOME"
    if sys.platform == "darwin" and os.environ.get(variable):
        return Path(os.environ[variable])  # which other packages read there, but platformdirs does not
    try:
        found = Path(platformdirs.user_cache_dir() if kind == "cache" else platformdirs.user_config_dir())
    except RuntimeError:
        found = Path()
    if not found.is_absolute():
        raise FileNotFoundError(f"the user has no home folder, and {variable} is not set")
    return found


def write_atomically(path: Path, content: Callable[[Path], None] | str | bytes) -> None:
    """Write a file next to its final location and rename it, so that other processes see a complete file or none.

    Args:
        path: final path of the file; its folder is created.
        content: a function that writes the file, called with the temporary path; or the content of the file.

    Raises:
        OSError: the file cannot be written, or any exception of ``content``; no file is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem[:16]}-", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        if isinstance(content, str):
            temporary.write_text(content)
        elif isinstance(content, bytes):
            temporary.write_bytes(content)
        else:
            content(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_cached(path: Path, top: Path | None = None, packed: bool = True) -> bytes:
    """Return the content of a file in the cache, or else of the same file in an archive.

    Args:
        path: path of the file.
        top: folder of the cache; None for `cache_folder`.
        packed: whether archives are searched; others than this user may have written them.

    Raises:
        OSError: there is no such file, or others can have written it; the latter is also a warning, once.
    """
    top = top or cache_folder()
    try:
        _check(path, top)
        content = path.read_bytes()
    except OSError:
        searched = archives if packed else ()
        contents = (archive.read(path.relative_to(top).as_posix()) for archive in searched)
        found = next((each for each in contents if each is not None), None)
        if found is None:
            raise
        content = found
    _note(path, top, content)
    return content


def write_cached(path: Path, content: str | bytes, top: Path | None = None) -> None:
    """Write a file of the cache, see `write_atomically`; new folders are for this user alone.

    Raises:
        OSError: the file cannot be written, or others can write to its folder; the latter is also a warning, once.
    """
    top = top or cache_folder()
    _note(path, top, content.encode() if isinstance(content, str) else content)
    make_private_folders(path.parent)
    _check(path.parent, top)
    write_atomically(path, content)


def _check(path: Path, top: Path) -> None:
    try:
        check_trusted(path, top)
    except UntrustedError as error:
        warn_once(f"the cache is not used, because {error}")
        raise


def keyed_file(folder: str, key: str, prefix: str = "") -> Path:
    """Return the path of the content stored under a key in a folder of the cache.

    Args:
        folder: name of the folder in the cache.
        key: everything that the content depends on, as text.
        prefix: beginning of the file name, for people who read the folder.
    """
    return cache_folder() / folder / f"{prefix}{_digest(key)[:32]}.json"


def keep(path: Path, key: str, content: Any) -> None:
    """Store content that JSON can represent; do nothing if the file cannot be written."""
    with suppress(OSError):
        write_cached(path, json.dumps({"key": key, "checksum": checksum(content), "content": content}))


def kept(path: Path, key: str, packed: bool = True) -> Any:
    """Return the content stored under a key; None if there is none, or the file is damaged or for another key.

    Args:
        path, key: where it is stored.
        packed: whether archives are searched, see `read_cached`.
    """
    try:
        stored = parse(read_cached(path, packed=packed))
        content = stored["content"]
        return content if stored["key"] == key and stored["checksum"] == checksum(content) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def keep_program(folder: str, name: str, key: str, suffix: str, content: bytes) -> None:
    """Store machine code under a key, with a checksum in the name of its file; nothing if it cannot be written.

    Args:
        folder: name of the folder in the cache.
        name: beginning of the file name, for people who read the folder.
        key: everything that the machine code depends on, as text.
        suffix: of the file name, such as ``".so"``.
        content: the machine code.
    """
    with suppress(OSError):
        write_cached(cache_folder() / folder / f"{name}-{_digest(key)[:32]}-{_digest(content)}{suffix}", content)


def kept_program(folder: str, name: str, key: str, suffix: str) -> tuple[Path, bytes] | None:
    """Return the content of what `keep_program` has stored, and the path, where no file is if it is in an archive.

    Returns:
        Path and content; None if there is none that is undamaged.
    """
    top, prefix = cache_folder(), f"{name}-{_digest(key)[:32]}-"
    packed = {top / each for archive in archives for each in archive.names if each.startswith(f"{folder}/{prefix}")}
    for path in sorted({*(top / folder).glob(f"{prefix}*{suffix}"), *packed}):
        with suppress(OSError):
            content = read_cached(path)
            if path.stem.endswith(_digest(content)):
                return path, content
    return None


def checksum(content: Any) -> str:
    """Return a checksum of content that JSON can represent; it detects damage, not intent."""
    return _digest(json.dumps(content, sort_keys=True))


def _digest(content: str | bytes) -> str:
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()
