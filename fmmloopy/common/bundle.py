"""Bundles: files of the cache in one archive, which other processes and machines search after their own cache.

A bundle is a ZIP file with the layout of the cache, and a description of what it was made for. Its files are found
under the keys that they have in the cache, so a bundle for something else is never used by mistake: it is useless.
Whoever writes a bundle can make programs run their code, as with a recipe.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from fmmloopy.common import store
from fmmloopy.common.documents import parse
from fmmloopy.common.messages import one_line

FORMAT = 1
"""Increase it when older versions cannot read a bundle."""

ABOUT = "bundle.json"
"""The file in a bundle that says what it was made for."""

DAMAGE = (OSError, KeyError, ValueError, EOFError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""What reading of a file raises that is no archive, or a damaged one."""

PACKED = (".json",)
"""Suffixes of files that become smaller when they are compressed."""


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk.

    Attributes:
        path: its file.
        about: what it was made for, by name.
        names: the files that there are.
    """

    path: Path
    about: Mapping[str, Any]
    names: frozenset[str]

    def read(self, name: str) -> bytes | None:
        """Return the content of a file; None if there is none, or it is damaged.

        The bundle is opened each time, so that forked processes do not share a position in its file.
        """
        if name not in self.names:
            return None
        try:
            with zipfile.ZipFile(self.path) as file:
                return file.read(name)
        except DAMAGE:
            return None

    def differences(self, here: Mapping[str, str]) -> list[str]:
        """Return in words what this bundle was made for that is different here, given what is the case, by name."""
        return [
            f"it is for {name} {self.about[name]}, not {value}"
            for name, value in here.items()
            if self.about.get(name, value) != value
        ]


def write_bundle(path: Path, files: Mapping[str, bytes], about: Mapping[str, Any]) -> None:
    """Write a bundle, all of it or nothing.

    Args:
        path: its file.
        files: contents by path below the cache folder.
        about: what it is for; JSON can represent it.

    Raises:
        OSError: it cannot be written.
    """

    def write(to: Path) -> None:
        with zipfile.ZipFile(to, "w") as file:
            file.writestr(ABOUT, json.dumps({"format": FORMAT, **about}, indent=2) + "\n")
            for name, content in sorted(files.items()):
                packed = PurePosixPath(name).suffix in PACKED
                file.writestr(name, content, zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED)

    store.write_atomically(path, write)
    path.chmod(0o644)  # for others to read


def open_bundle(path: str | Path) -> Bundle:
    """Let this process find what is in a bundle.

    Args:
        path: a file of ``fmmloopy bundle``.

    Raises:
        ValueError: there is no such file, it is no bundle, or one of a later version.
    """
    if not isinstance(path, (str, Path)):
        raise ValueError(f"bundle is {path!r}, expected the path of a file of `fmmloopy bundle`")
    where = Path(path).absolute()
    try:
        with zipfile.ZipFile(where) as file:
            about, names = parse(file.read(ABOUT)), frozenset(file.namelist()) - {ABOUT}
        found = about["format"]
    except (TypeError, *DAMAGE) as error:
        raise ValueError(f"bundle is {str(path)!r}, expected a file of `fmmloopy bundle`: {one_line(error)}") from error
    if found != FORMAT:
        raise ValueError(f"bundle {str(path)!r} has format {found!r}, expected {FORMAT}; make it again")
    bundle = Bundle(where, about, names)
    store.archives[:] = [each for each in store.archives if getattr(each, "path", None) != where]
    store.archives.append(bundle)
    return bundle
