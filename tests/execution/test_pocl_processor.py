"""What PoCL is told of a processor that its LLVM does not know, tried on made-up devices in this process's memory."""

from __future__ import annotations

import ctypes
import sys

import pytest

from fmmloopy.execution.backends import pocl_processor
from fmmloopy.execution.backends.pocl_processor import LEVELS, level_of, name_processor

V2 = LEVELS[2][1]
V3 = V2 | LEVELS[1][1]
V4 = V3 | LEVELS[0][1]

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the field is found through Linux's /proc")


class MadeUp:
    """Memory that looks like a device of PoCL: numbers, addresses that lead nowhere, and texts."""

    def __init__(self, *texts: bytes) -> None:
        self._texts = [ctypes.create_string_buffer(text) for text in texts]
        self.fields = (ctypes.c_uint64 * 600)()
        self.fields[:5] = 1, 2**64 - 1, 2**63, 4096, 2**47 + 8
        for i, text in enumerate(self._texts):
            self.fields[70 + i] = ctypes.addressof(text)

    def texts(self) -> list[bytes]:
        return [ctypes.string_at(self.fields[70 + i]) for i in range(len(self._texts))]

    def named(self, monkeypatch, flags) -> str:
        monkeypatch.setattr(pocl_processor, "processor_flags", lambda: frozenset(flags))
        return name_processor.__wrapped__(ctypes.addressof(self.fields))


@pytest.mark.parametrize(
    ("flags", "level"),
    [
        (V4 | {"sse", "vaes"}, "x86-64-v4"),
        (V4 - {"avx512bw"}, "x86-64-v3"),
        (V3, "x86-64-v3"),
        (V4 - {"popcnt"}, "x86-64"),  # a level needs all that lower ones need
        (V2, "x86-64-v2"),
        (set(), "x86-64"),
    ],
)
def test_a_level_needs_its_flags_and_those_of_lower_levels(flags, level):
    assert level_of(flags) == level


@linux
@pytest.mark.parametrize(
    ("taken_for", "flags", "level"),
    [
        (b"generic", V4, "x86-64-v4"),
        (b"generic", V3, "x86-64-v3"),
        (b"znver3", V4, "x86-64-v4"),  # Zen 4 to LLVM 14
        (b"znver3", V3, ""),  # a Zen 3
        (b"skylake-avx512", V4, ""),
        (b"znver4", V4, ""),
    ],
)
def test_a_processor_taken_for_less_than_it_is_is_named_by_its_level(monkeypatch, taken_for, flags, level):
    device = MadeUp(b"pthread", b"generic", b"x86_64-unknown-linux-gnu", taken_for, b"generic")
    assert device.named(monkeypatch, flags) == level
    target = b"x86_64-unknown-linux-gnu"
    assert device.texts() == [b"pthread", b"generic", target, level.encode() or taken_for, b"generic"]


@linux
@pytest.mark.parametrize("before", [b"aarch64-unknown-linux-gnu", b"pthread", b""])
def test_where_the_field_is_not_found_nothing_is_changed(monkeypatch, before):
    device = MadeUp(before, b"generic")
    fields = bytes(device.fields)
    assert device.named(monkeypatch, V4) == ""
    assert bytes(device.fields) == fields


@linux
def test_memory_that_cannot_be_read_is_left(monkeypatch):
    monkeypatch.setattr(pocl_processor, "processor_flags", lambda: frozenset(V4))
    assert name_processor.__wrapped__(8) == ""


def test_other_systems_are_left(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    device = MadeUp(b"x86_64-pc-windows-msvc", b"generic")
    assert device.named(monkeypatch, V4) == ""
    assert device.texts()[1] == b"generic"
