"""Memory that was freed goes back to the system."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import numpy as np
import pytest

from fmmloopy.common import memory


def resident():
    """Return the resident memory of this process in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return os.sysconf("SC_PAGE_SIZE") * pages


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only the GNU library can do it")
def test_freed_blocks_go_back():
    """Blocks below one that is still used stay with the C library, until they are given back."""
    blocks = [np.ones(12_000) for _ in range(600)]  # 58 MB
    last = np.ones(12_000)
    del blocks
    before = resident()
    memory.give_back()
    assert resident() < before - 40 * 10**6
    assert last.sum() == 12_000


def test_other_libraries_are_left_alone(monkeypatch):
    def without(name):
        raise OSError("no such library")

    monkeypatch.setattr(memory.ctypes, "CDLL", without)
    memory.give_back()
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    memory.give_back()
