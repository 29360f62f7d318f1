"""CPUs through a runtime that vectorizes across work-items, as Intel's does (on any vendor's processor).

A work-group is one tile of targets; its work-items become the lanes of vector instructions, and so do ``sqrt``,
``rsqrt`` and ``exp``, which its library has for vectors. All else names its vectors itself, as in ``pocl_cpu``.

Measured on two cores of an AMD Zen 4 with Intel's runtime 2026.2 (P2P on the sphere, 50-150 points a leaf, Gpairs/s in
f64 / f32): work-items with 1/sqrt 2.0 / 6.3, with rsqrt 3.2 / 7.3; lane arrays with Newton's iteration 2.6 / 6.2;
vectors named in the source 0.7. With the gradient, 1/sqrt reaches 5.4 in f32, rsqrt 2.2 / 4.8. Groups of 8 are not
vectorized. On an AMD Zen 3, which has no AVX-512, beside other load: 1/sqrt 1.5 / 4.3, rsqrt 0.9 / 2.9, Newton's
iteration 1.5 / 3.5; with the gradient 1.2 / 3.0, 0.7 / 1.9, 1.0 / 2.1. On an Intel Xeon (Emerald Rapids) 1.0 / 3.8,
2.7 / 3.6, 2.7 / 6.7; with the gradient 1.0 / 3.4, 1.6 / 3.5, 1.6 / 3.5.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fmmloopy.recipes import RecipeBook
from fmmloopy.transforms import pocl31_cpu, pocl_cpu, steps

Kernel = Any


def particles(knl: Kernel, *, lanes: int = 16, roots: str = "auto") -> Iterator[tuple[str, Kernel]]:
    """One work-item per target, a group of 16 filling vector registers.

    With one sum in f64, whose roots take long, Newton's iteration is as fast or faster. The library's ``rsqrt``
    (``"builtin"``) is the fastest where the processor has AVX-512, and far from it where it has not.
    """
    roots = pocl_cpu.choose_roots(knl, roots, "newton")
    knl = steps.work_items(knl, lanes)
    yield "one work-item per target of a tile", knl
    knl = steps.one_group_per(knl, "ibox")
    yield "one work-group per box", knl
    knl = yield from pocl_cpu.reciprocal_roots(knl, roots)
    knl = steps.share_factors(knl)
    yield "shared factors, one test for coinciding points", knl


def m2l_hadamard(knl: Kernel, *, pairs: int = 1) -> Iterator[tuple[str, Kernel]]:
    """As ``pocl_cpu``, but a block is one pair of octets, whose matrix is loaded anew.

    Measured on two cores of an AMD Zen 4, GFLOP/s with 1, 2, 4 pairs, 1e6 points in the cube, order 6: in f64 92, 77,
    88; in f32, 3e5 points, with 2, 4, 8: 117, 164, 156. With four on an Intel Xeon, where they are faster: see there.
    """
    yield from pocl_cpu.blocks_of_pairs(knl, pairs)


def intel_runtime(device: Any) -> bool:
    """CPUs of any vendor through Intel's runtime."""
    return bool(device.kind == "cpu" and device.runtime == "intel")


BOOK = RecipeBook(
    "simd_cpu",
    device=intel_runtime,
    recipes={
        **pocl31_cpu.BOOK.recipes,
        **dict.fromkeys(pocl_cpu.PARTICLE_OPERATORS, particles),
        "m2l_hadamard": m2l_hadamard,
    },
    tuning={
        **pocl_cpu.BOOK.tuning,
        **{key: {"lanes": (16, 32), "roots": ("auto", "newton")} for key in pocl_cpu.PARTICLE_OPERATORS},
        "p2p": {"lanes": (16, 32), "roots": ("auto", "newton", "builtin")},
    },
    by_device={
        **pocl31_cpu.BOOK.by_device,
        **{key: {pocl_cpu.has_avx512: {**pocl_cpu.LARGE_BLOCKS[key], "boxes": 8}} for key in pocl_cpu.DENSE_OPERATORS},
        "m2l_hadamard": {pocl_cpu.intel_with_avx512: pocl_cpu.LARGE_BLOCKS["m2l_hadamard"]},
    },
)
