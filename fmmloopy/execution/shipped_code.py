"""Code that comes with the package, so that the first evaluation of a common case does not wait for loopy.

It is what the shipped books for processors generate for the functions that ship, for any device of their backend. If a
file that it depends on has changed, or loopy has another version, none of it is used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from fmmloopy.execution.key import CodeKey, sources_hash

SHIPPED_FILE = Path(__file__).with_name("shipped_code.json.xz")
"""The code, by a hash of what it depends on; ``.ci/certify`` writes it."""


def shipped_content(key: CodeKey) -> Any:
    """Return the content of the code for a key; None if it does not ship."""
    text = key.shipping_text()
    return None if text is None else _read().get(_digest(text))


def write_shipped(code: Iterable[tuple[CodeKey, Mapping[str, Any]]], file: Path = SHIPPED_FILE) -> None:
    """Write code with its keys, which are all of shipped books."""
    import lzma

    found = {_digest(text): content for key, content in code if (text := key.shipping_text()) is not None}
    # Code of one operator is much alike, so it is compressed best if it is next to each other.
    found = dict(sorted(found.items(), key=lambda item: (item[1]["operator"], item[1]["source"])))
    document = json.dumps({"sources": sources_hash(), "code": found}, separators=(",", ":"))
    file.write_bytes(lzma.compress(document.encode(), preset=9 | lzma.PRESET_EXTREME))


@cache
def _read() -> Mapping[str, Any]:
    try:
        import lzma  # not every Python has it
    except ImportError:
        return {}
    try:
        document = json.loads(lzma.decompress(SHIPPED_FILE.read_bytes()))
        code: Mapping[str, Any] = document["code"] if document["sources"] == sources_hash() else {}
    except (OSError, EOFError, ValueError, KeyError, TypeError, lzma.LZMAError):
        return {}
    return code


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:24]
