"""The user's cache folder, and how files get there whole or not at all.

Everything in it can be deleted at any moment; it is made again when it is needed.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

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
