"""Oclgrind: a simulator of OpenCL devices that detects reads out of bounds, data races and uninitialized values.

It is a separate package (Debian: ``apt-get install oclgrind``), used if it is installed. It is not registered with the
OpenCL loader, and is configured by environment variables, so it runs in a separate process.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from fmmloopy.execution.backends.backend import OPENCL_C

DEVICE = "Oclgrind"
"""Part of the description of its device."""

MISSING = "oclgrind was not found, so races, reads out of bounds and uninitialized values were not checked; install it \
with `apt-get install oclgrind`"

LANGUAGE = OPENCL_C
"""The language that it runs."""

LOG_VARIABLE = "OCLGRIND_LOG"

_LIBRARY = "liboclgrind-rt-icd.so"
_FOLDERS = ("/usr/lib/oclgrind", "/usr/lib/x86_64-linux-gnu/oclgrind", "/usr/local/lib", "/usr/lib")


def find_library() -> Path | None:
    """Return the path of oclgrind's library for OpenCL loaders, None where it is not installed."""
    folders = [*_FOLDERS]
    if program := shutil.which("oclgrind"):
        folders.insert(0, str(Path(program).resolve().parent.parent / "lib"))
    paths = (Path(folder) / _LIBRARY for folder in folders)
    return next((path for path in paths if path.is_file()), None)


def environment(library: Path, log: Path) -> dict[str, str]:
    """Return the variables with which a process sees oclgrind as its only OpenCL device.

    Args:
        library: from `find_library`.
        log: file for its reports, in a writable folder.
    """
    vendors = log.parent / "vendors"
    vendors.mkdir(exist_ok=True)
    (vendors / "oclgrind.icd").write_text(f"{library}\n")
    return {
        "OCL_ICD_VENDORS": str(vendors),
        "PYOPENCL_NO_CACHE": "1",  # cached programs have no source code that reports could quote
        "OCLGRIND_DATA_RACES": "1",
        "OCLGRIND_UNIFORM_WRITES": "1",  # two writes of the same number are a race too
        "OCLGRIND_UNINITIALIZED": "1",
        "OCLGRIND_MAX_ERRORS": "1000000",  # per process, not per run
        LOG_VARIABLE: str(log),
    }


def log_size(log: Path) -> int:
    """Return the size of the log so far, in bytes."""
    return log.stat().st_size if log.exists() else 0


def read_log(log: Path, since: int) -> str:
    """Return the first new report in a log as one line, with the line of source code that it is about; "" if none.

    Args:
        log: the log file.
        since: the earlier result of `log_size`.
    """
    size = log_size(log)
    if size == since:
        return ""
    with log.open("rb") as file:
        file.seek(since if since < size else 0)
        text = file.read(10_000).decode(errors="replace")
    blocks = [block for block in re.split(r"\n(?=\S)", text) if block.strip()]
    if not blocks:
        return ""
    lines = blocks[0].strip().splitlines()
    code = [lines[i + 1].strip() for i, line in enumerate(lines[:-1]) if re.match(r"\s*At line \d+", line)]
    what = re.sub(r" at (global|local|private) memory address 0x[0-9a-f]+", r" in \1 memory", lines[0].strip())
    return f"{what}: {code[0]}" if code else what
