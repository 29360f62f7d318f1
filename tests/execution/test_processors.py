"""What shipped books give to processors that one runtime serves and that do not want the same."""

from __future__ import annotations

import pytest
from conftest import made_up_intel, made_up_pocl

from fmmloopy.recipes import shipped_books
from fmmloopy.transforms import cpu


@pytest.mark.parametrize(
    ("name", "runtime"),
    [
        ("pocl31_cpu", lambda processor: made_up_pocl("3.1+debian", f"pthread-znver4-{processor}")),
        ("simd_cpu", made_up_intel),
    ],
)
@pytest.mark.parametrize(
    ("processor", "roots"),
    [
        ("Intel(R) Xeon(R) Processor", "newton"),
        ("13th Gen Intel(R) Core(TM) i7-1360P", "newton"),
        ("INTEL(R) XEON(R) PLATINUM 8581C CPU @ 2.30GHz", "newton"),
        ("Intel Xeon Processor (SapphireRapids)", "newton"),
        ("AMD EPYC 9R14", "auto"),
        ("a processor of another vendor", "auto"),
    ],
)
def test_processors_of_intel_have_newtons_iteration_on_every_runtime(name, runtime, processor, roots):
    book, device = shipped_books()[name], runtime(processor)
    assert book.suits(device)
    assert book.defaults_on("p2p", device)["roots"] == roots


@pytest.mark.parametrize(
    ("name", "processor", "instructions", "vectors", "pairs"),
    [
        ("simd_cpu", "Intel(R) Xeon(R) Processor", "AVX-512", 2, 4),
        ("simd_cpu", "Intel(R) Xeon(R) CPU E5-2690 v4", "AVX2", 1, 1),
        ("simd_cpu", "AMD EPYC 9R14", "AVX-512", 2, 1),
        ("pocl31_cpu", "Intel(R) Xeon(R) Processor", "AVX-512", 2, 4),
        ("pocl31_cpu", "AMD EPYC 9R14", "AVX-512", 2, 4),
        ("pocl31_cpu", "AMD EPYC 7R13", "AVX2", 1, 2),
        ("pocl_cpu", "Intel(R) Xeon(R) Processor", "AVX-512", 2, 4),
        ("pocl_cpu", "AMD EPYC 9R14", "AVX-512", 2, 4),
        ("pocl_cpu", "AMD EPYC 7R13", "AVX2", 1, 2),
    ],
)
def test_blocks_fill_the_registers_that_there_are(name, processor, instructions, vectors, pairs):
    book = shipped_books()[name]
    device = {
        "simd_cpu": made_up_intel(processor, instructions),
        "pocl31_cpu": made_up_pocl("3.1", processor, instructions),
        "pocl_cpu": made_up_pocl("3.0-rc2", processor, instructions),
    }[name]
    assert book.suits(device)
    for operator in ("m2m", "l2l", "check_to_equivalent", "m2l_svd"):
        assert book.defaults_on(operator, device)["vectors"] == vectors
    assert book.defaults_on("m2l_hadamard", device)["pairs"] == pairs


def test_boxes_are_blocked_for_the_registers_of_intels_runtime():
    book = shipped_books()["simd_cpu"]
    assert book.defaults_on("m2m", made_up_intel("AMD EPYC 9R14", "AVX-512"))["boxes"] == 8
    assert book.defaults_on("m2m", made_up_intel("AMD EPYC 7R13", "AVX2"))["boxes"] == 6


def test_ways_to_roots_are_named_where_one_does_not_exist():
    with pytest.raises(ValueError, match="roots is 'cube', expected one of 'auto', 'sqrt', 'newton', 'both'"):
        list(cpu.reciprocal_roots(None, "cube"))
