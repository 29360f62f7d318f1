"""JSON from anywhere: what is no document is a ValueError in one line, never another error."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest

from fmmloopy.common.documents import parse
from fmmloopy.common.store import checksum, keep, kept


def test_documents():
    content = {"a": [1, -2.5, True, None, "text", {"b": [[]]}], "largest": 2**63 - 1, "umlaut": "ä"}
    assert parse(json.dumps(content).encode()) == content
    assert parse(json.dumps(content, ensure_ascii=False).encode()) == content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not JSON: Expecting value"),
        (b"{", "is not JSON: "),
        (b'{"a": 1} 2', "is not JSON: Extra data"),
        (b"\xef\xbb\xbf{}", "is not JSON: "),
        (b'"\xe4"', "is not UTF-8: byte 1 is 0xe4"),
        (b"[Infinity]", "has Infinity, expected finite numbers"),
        (b"[-1e400]", "has -1e400, expected finite numbers"),
        (b"[9223372036854775808]", "has 9223372036854775808, expected whole numbers below 2.63"),
        (b'{"a": {"b": 1, "b": 2}}', "has 'b' twice"),
        (b'{"a":' * 40 + b"1" + b"}" * 40, "is nested too deeply, expected at most 32 levels"),
        (b"[" * 10**6, "is nested too deeply, expected at most 32 levels"),
    ],
)
def test_refused(content, message):
    with pytest.raises(ValueError, match=message) as caught:
        parse(content)
    assert "\n" not in str(caught.value)


def test_any_bytes_are_a_document_or_a_value_error():
    random = np.random.default_rng(0)
    good = json.dumps({"key": "k", "checksum": "c", "content": [1.5, {"a": None}]}).encode()
    for _ in range(2000):
        changed = bytearray(good)
        for place in random.integers(0, len(good), 3):
            changed[place] = random.integers(0, 256)
        with contextlib.suppress(ValueError):
            parse(bytes(changed))


def test_a_changed_file_is_not_kept_content(tmp_path, monkeypatch):
    """Every byte of it, in turn."""
    monkeypatch.setenv("FMMLOOPY_CACHE_DIR", str(tmp_path))
    path, content = tmp_path / "file", {"source": "code", "sizes": [1, 2]}
    keep(path, "key", content)
    good = path.read_bytes()
    assert kept(path, "key") == content
    for place in range(len(good)):
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        assert kept(path, "key") in (None, content), place
    assert checksum(content) != checksum({**content, "sizes": [1, 3]})
