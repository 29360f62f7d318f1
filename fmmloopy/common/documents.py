"""Read JSON that anybody may have written: every error is a ValueError in one line."""

from __future__ import annotations

import json
from typing import Any

DEEPEST = 32
"""Levels of lists and objects that a document may have; ours have fewer than ten."""

LARGEST = 2**63
"""Whole numbers must be smaller, so that programs in any language can read them."""


def parse(content: bytes) -> Any:
    """Return the content of a JSON document.

    Raises:
        ValueError: it is not UTF-8 or not JSON, is nested too deeply, or has a number that is not finite, or a name
            twice; the message continues a sentence that begins with the name of the file.
    """
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8: byte {error.start} is {content[error.start]:#x}") from None
    try:
        found = json.loads(
            text, parse_constant=_constant, parse_float=_float, parse_int=_int, object_pairs_hook=_object
        )
    except RecursionError:
        raise ValueError(f"is nested too deeply, expected at most {DEEPEST} levels") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error}") from None
    if _depth(found) > DEEPEST:
        raise ValueError(f"is nested too deeply, expected at most {DEEPEST} levels")
    return found


def _constant(text: str) -> Any:
    raise ValueError(f"has {text}, expected finite numbers")


def _float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"has {text[:30]}, expected finite numbers")
    return value


def _int(text: str) -> int:
    if len(text) > 20 or not -LARGEST <= int(text) < LARGEST:
        raise ValueError(f"has {text[:30]}, expected whole numbers below 2^63")
    return int(text)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"has {next(name for name in names if names.count(name) > 1)!r} twice")
    return found


def _depth(found: Any) -> int:
    depth, level = 0, [found]
    while level:
        level = [
            inner
            for value in level
            if isinstance(value, (dict, list))
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
        depth += bool(level)
        if depth > DEEPEST:
            break
    return depth


def is_text(value: Any) -> bool:
    """Return whether a value is text that can be shown on a terminal as it is."""
    return isinstance(value, str) and value.isprintable()


def is_number(value: Any) -> bool:
    """Return whether a value is a number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
