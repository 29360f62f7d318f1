"""The user's cache folder, and functions that write complete files or none.

Everything in the cache can be deleted at any time and is made again when it is needed. Content that is stored under a
key is returned only for the same key, and only if it is undamaged. A cache that others can write is not used, see
`fmmloopy.common.trust`.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import platformdirs

from fmmloopy.common.documents import parse
from fmmloopy.common.trust import UntrustedError, check_trusted, make_private_folders, warn_once

ENVIRONMENT_VARIABLE = "FMMLOOPY_CACHE_DIR"


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


def read_cached(path: Path, top: Path | None = None) -> bytes:
    """Return the content of a file in the cache.

    Args:
        path: path of the file.
        top: folder of the cache; None for `cache_folder`.

    Raises:
        OSError: there is no such file, or others can have written it; the latter is also a warning, once.
    """
    _check(path, top or cache_folder())
    return path.read_bytes()


def write_cached(path: Path, content: Callable[[Path], None] | str | bytes, top: Path | None = None) -> None:
    """Write a file of the cache, see `write_atomically`; new folders are for this user alone.

    Raises:
        OSError: the file cannot be written, or others can write to its folder; the latter is also a warning, once.
    """
    make_private_folders(path.parent)
    _check(path.parent, top or cache_folder())
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


def kept(path: Path, key: str) -> Any:
    """Return the content stored under a key; None if there is none, or the file is damaged or for another key."""
    try:
        stored = parse(read_cached(path))
        content = stored["content"]
        return content if stored["key"] == key and stored["checksum"] == checksum(content) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def checksum(content: Any) -> str:
    """Return a checksum of content that JSON can represent; it detects damage, not intent."""
    return _digest(json.dumps(content, sort_keys=True))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
