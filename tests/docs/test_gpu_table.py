"""The table of the book for GPUs: all its kernels, and certificates as they are."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fmmloopy.bookshelf.certificates import shipping_label
from fmmloopy.execution.backends.cuda_emulator import EMULATED_DEVICE
from fmmloopy.execution.device import CPU, Device

sys.path.insert(0, str(Path(__file__).parents[2] / "docs" / "programs"))

import write_gpu as program


def test_the_page_is_what_the_program_writes():
    compiled = program.read_compiled()
    assert [program.Kernel(*(each[name] for name in ("operator", "types", "output"))) for each in compiled] == list(
        program.kernels()
    ), "run docs/programs/write_gpu.py"
    shown = (program.GENERATED / "gpu.md").read_text()
    assert shown == program.page(compiled), "run docs/programs/write_gpu.py --keep"


POCL_DEVICE = Device("opencl", "a processor", "a processor", "3.1", kind=CPU, runtime="pocl")


@pytest.mark.parametrize(
    ("device", "cells"),
    [(POCL_DEVICE, ("certified", "not yet")), (EMULATED_DEVICE, ("not yet", "certified"))],
    ids=lambda value: getattr(value, "backend", ""),
)
def test_certificates_are_those_that_ship(monkeypatch, device, cells):
    compiled = program.read_compiled()
    some = {
        shipping_label(program.BOOK, device): {"kernels": {"p2p": ["a"]}},
        "simd_cpu on x": {"kernels": {"m2m": ["b"]}},
    }
    monkeypatch.setattr(program, "read_shipped", lambda: {"certified": some})
    rows = [line.split(" | ") for line in program.page(compiled).splitlines() if "certified |" in line]
    assert {(row[0], *row[3:5]) for row in rows} == {("| p2p", *cells)}


def test_no_kernel_keeps_registers_in_memory():
    assert not [
        (each, name)
        for each in program.read_compiled()
        for name in program.ARCHITECTURES
        if each["codes"][name]["spilled"]
    ]
