"""CPUs through a runtime that vectorizes across work-items, as Intel's does (on any vendor's processor).

A work-group is one tile of targets; its work-items become the lanes of vector instructions, also in ``sqrt``, ``rsqrt``
and ``exp``, which the runtime's library provides for vectors. Other recipes use explicit vectors, as in ``pocl_cpu``.

Measurements: docs/measurements/simd_cpu.csv.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fmmloopy.recipes import RecipeBook
from fmmloopy.transforms import cpu, gpu_steps, pocl31_cpu, pocl_cpu, steps

Kernel = Any


def p2p(knl: Kernel, *, lanes: int = 16, roots: str = "auto") -> Iterator[tuple[str, Kernel]]:
    """Each target is a work-item, and a group of 16 fills vector registers.

    With one sum in f64, whose roots are slow, Newton's iteration is as fast or faster. The library's ``rsqrt``
    (``"builtin"``) can be the fastest on processors with AVX-512, and is far slower on others.
    """
    roots = cpu.choose_roots(knl, roots, "newton")
    knl = steps.work_items(knl, lanes)
    yield "one work-item per target of a tile", knl
    knl = steps.one_group_per(knl, "ibox")
    yield "one work-group per box", knl
    knl = yield from cpu.reciprocal_roots(knl, roots)
    knl = steps.share_factors(knl)
    yield "shared factors, one test for coinciding points", knl


def p2p_mutual(knl: Kernel, *, lanes: int = 16, sources: int = 64, roots: str = "auto") -> Iterator[tuple[str, Kernel]]:
    """Each pair serves both of its points. The work-items' sums for 64 points of the other box stay in cache."""
    everywhere = {"l.0": "t"}
    roots = cpu.choose_roots(knl, roots, "newton")
    knl = gpu_steps.on_all_items(gpu_steps.mutual_items(knl, lanes, sources), everywhere)
    yield "one work-group per unit, points of one box as work-items", knl
    knl = yield from cpu.reciprocal_roots(knl, roots)
    knl = steps.share_factors(knl)
    yield "shared factors, one test for coinciding points", knl


def m2l_hadamard(knl: Kernel, *, pairs: int = 1) -> Iterator[tuple[str, Kernel]]:
    """Like ``pocl_cpu``, but with one pair of octets per block, which loads its own matrix."""
    yield from cpu.blocks_of_pairs(knl, pairs)


def intel_runtime(device: Any) -> bool:
    """CPUs of any vendor through Intel's runtime."""
    return bool(device.kind == "cpu" and device.runtime == "intel")


BOOK = RecipeBook(
    "simd_cpu",
    device=intel_runtime,
    recipes={
        "p2p": p2p,
        "p2p_mutual": p2p_mutual,
        "p2m": p2p,
        "p2l": p2p,
        "l2p": p2p,
        "m2p": p2p,
        "m2m": cpu.dense,
        "l2l": cpu.dense,
        "check_to_equivalent": cpu.dense,
        "m2l": cpu.m2l,
        "m2l_forward": cpu.m2l_forward,
        "m2l_hadamard": m2l_hadamard,
        "m2l_inverse": cpu.m2l_inverse,
        "m2l_svd": cpu.m2l_svd,
    },
    tuning={
        **pocl_cpu.TUNING,
        **{key: {"lanes": (16, 32), "roots": ("auto", "newton")} for key in cpu.PARTICLE_OPERATORS},
        "p2p": {"lanes": (16, 32), "roots": ("auto", "newton", "builtin")},
        "p2p_mutual": {"lanes": (16, 32), "sources": (32, 64), "roots": ("auto", "newton", "builtin")},
    },
    by_device={
        **pocl31_cpu.BOOK.by_device,
        **{key: {cpu.has_avx512: {**cpu.LARGE_BLOCKS[key], "boxes": 8}} for key in cpu.DENSE_OPERATORS},
        "m2l_hadamard": {cpu.intel_with_avx512: cpu.LARGE_BLOCKS["m2l_hadamard"]},
    },
)
