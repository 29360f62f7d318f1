"""Errors in one line."""

from __future__ import annotations


def one_line(error: BaseException, most: int = 300) -> str:
    """Return what an error says, without its line breaks and no longer than ``most`` characters."""
    return " ".join(str(error).split())[:most]
