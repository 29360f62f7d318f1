"""Errors in one line."""

from __future__ import annotations

from importlib.util import find_spec


class MissingPackageError(ImportError):
    """A package that only some features need is not installed; the text says which, and how to install it."""


def require(package: str, extra: str, purpose: str) -> None:
    """Make sure that an optional package is there.

    Args:
        package: its name.
        extra: of fmmloopy, the one that brings it.
        purpose: what needs it, to begin a sentence with, in the plural.

    Raises:
        MissingPackageError: it is not installed.
    """
    if find_spec(package) is None:
        command = f"python -m pip install {package}"
        raise MissingPackageError(f"{purpose} need {package}, of the extra [{extra}]: {command}", name=package)


def one_line(error: BaseException, most: int = 300) -> str:
    """Return what an error says, without its line breaks and no longer than ``most`` characters."""
    return " ".join(str(error).split())[:most]
