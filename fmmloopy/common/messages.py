"""One-line messages."""

from __future__ import annotations

from importlib.util import find_spec


class MissingPackageError(ImportError):
    """An optional package is not installed; the message says which, and how to install it."""


def require(package: str, extra: str, purpose: str) -> None:
    """Make sure that an optional package is there.

    Args:
        package: name of the package.
        extra: the extra of fmmloopy that includes it.
        purpose: what needs it, as a plural subject of the message.

    Raises:
        MissingPackageError: the package is not installed.
    """
    if find_spec(package) is None:
        command = f"python -m pip install {package}"
        raise MissingPackageError(f"{purpose} need {package} (extra [{extra}]): {command}", name=package)


def one_line(error: BaseException, most: int = 300) -> str:
    """Return the text of an error without line breaks, at most ``most`` characters long."""
    return " ".join(str(error).split())[:most]


def counted(count: int, noun: str) -> str:
    """Return a number of things in words: ``"1 finding"``, ``"2,000 findings"``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
