"""What shipped books give to processors that one runtime serves and that do not want the same."""

from __future__ import annotations

import pytest

from fmmloopy.recipes import shipped_books
from fmmloopy.transforms import pocl_cpu


@pytest.mark.parametrize("name", ["pocl31_cpu", "simd_cpu"])
def test_processors_of_intel_have_newtons_iteration_on_every_runtime(name):
    book = shipped_books()[name]
    for runtime in (
        "Intel(R) OpenCL OpenCL 3.1 LINUX ",
        "Portable Computing Language OpenCL 3.0 PoCL 3.1 pthread-znver4-",
    ):
        for processor, roots in (
            ("Intel(R) Xeon(R) Processor", "newton"),
            ("13th Gen Intel(R) Core(TM) i7-1360P", "newton"),
            ("INTEL(R) XEON(R) PLATINUM 8581C CPU @ 2.30GHz", "newton"),
            ("Intel Xeon Processor (SapphireRapids)", "newton"),
            ("AMD EPYC 9R14", "auto"),
        ):
            description = f"opencl CPU {runtime}{processor}"
            assert book.defaults_on("p2p", description)["roots"] == roots, description


@pytest.mark.parametrize(
    ("name", "processor", "vectors", "pairs"),
    [
        ("simd_cpu", "Intel(R) Xeon(R) Processor AVX-512", 2, 4),
        ("simd_cpu", "Intel(R) Xeon(R) CPU E5-2690 v4 AVX2", 1, 1),
        ("simd_cpu", "AMD EPYC 9R14 AVX-512", 2, 1),
        ("pocl31_cpu", "Intel(R) Xeon(R) Processor AVX-512", 2, 4),
        ("pocl31_cpu", "AMD EPYC 9R14 AVX-512", 2, 4),
        ("pocl31_cpu", "AMD EPYC 7R13 AVX2", 1, 2),
        ("pocl_cpu", "Intel(R) Xeon(R) Processor AVX-512", 2, 4),
        ("pocl_cpu", "AMD EPYC 9R14 AVX-512", 1, 2),  # PoCL 3.0 compiles AVX2 for it
    ],
)
def test_blocks_fill_the_registers_that_there_are(name, processor, vectors, pairs):
    book, description = shipped_books()[name], f"opencl CPU A runtime {processor}"
    for operator in ("m2m", "l2l", "check_to_equivalent", "m2l_svd"):
        assert book.defaults_on(operator, description)["vectors"] == vectors
    assert book.defaults_on("m2l_hadamard", description)["pairs"] == pairs


def test_ways_to_roots_are_named_where_one_does_not_exist():
    with pytest.raises(ValueError, match="roots is 'cube', expected one of 'auto', 'sqrt', 'newton', 'both'"):
        list(pocl_cpu.reciprocal_roots(None, "cube"))
