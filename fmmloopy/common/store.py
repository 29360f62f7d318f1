"""The user's cache folder, and functions that write complete files or none.

Everything in the cache can be deleted at any time and is made again when it is needed. Content that is stored under a
key is returned only for the same key, and only if it is undamaged.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import platformdirs

ENVIRONMENT_VARIABLE = "FMMLOOPY_CACHE_DIR"


def cache_folder() -> Path:
    """Return the folder of cached files: $FMMLOOPY_CACHE_DIR if set and not empty, else the user's cache folder."""
    return Path(os.environ.get(ENVIRONMENT_VARIABLE) or platformdirs.user_cache_dir("fmmloopy"))


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
        write_atomically(path, json.dumps({"key": key, "checksum": _checksum(content), "content": content}))


def kept(path: Path, key: str) -> Any:
    """Return the content stored under a key; None if there is none, or the file is damaged or for another key."""
    try:
        stored = json.loads(path.read_text())
        content = stored["content"]
        return content if stored["key"] == key and stored["checksum"] == _checksum(content) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _checksum(content: Any) -> str:
    return _digest(json.dumps(content, sort_keys=True))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
