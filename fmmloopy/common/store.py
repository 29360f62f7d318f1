"""Files that are kept: the user's cache folder, and how files get there whole or not at all.

Everything in the cache can be deleted at any moment; it is made again when it is needed. What is kept under a key is
found again only by the same key, and only undamaged.
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
    """Write a file beside its place and rename it, so that others see all of it or nothing.

    Args:
        path: where the file is to be; its folder is made.
        content: what writes it, called with the temporary path, or what is to be in the file.

    Raises:
        OSError: it cannot be written; whatever ``content`` raises. Nothing is left behind.
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
    """Return the file in a folder of the cache that holds what is kept under a key.

    Args:
        folder: of the cache.
        key: everything that the content depends on, written down.
        prefix: begins the name of the file, for readers of the folder.
    """
    return cache_folder() / folder / f"{prefix}{_digest(key)[:32]}.json"


def keep(path: Path, key: str, content: Any) -> None:
    """Keep what JSON can hold; without a place to keep it, nothing is kept."""
    with suppress(OSError):
        write_atomically(path, json.dumps({"key": key, "checksum": _checksum(content), "content": content}))


def kept(path: Path, key: str) -> Any:
    """Return what is kept under a key; None if there is none, or the file is damaged or for another key."""
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
