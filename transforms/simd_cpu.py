"""CPUs through a runtime that vectorizes across work-items, as Intel's does (on any vendor's processor).

A work-group is one tile of targets; its work-items become the lanes of vector instructions, square roots and divisions
included. Dense products name their vectors themselves, as in ``pocl_cpu``.

Measured on two cores of an AMD Zen 4 with Intel's runtime 2026.2 (P2P, leaves of 70-130 points, Gpairs/s in f64 / f32):
16 work-items 2.2 / 6.7, 32 work-items 2.0 / 6.3; lane arrays with 1/sqrt 0.5 / 0.8 (16 lanes), with Newton's iteration
2.7 / 6.5.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fmmloopy.recipes import RecipeBook
from fmmloopy.transforms import pocl_cpu, steps

Kernel = Any


def particles(knl: Kernel, *, lanes: int = 16) -> Iterator[tuple[str, Kernel]]:
    """One work-item per target; a group of 16 fills two vector registers in f64, one in f32."""
    knl = steps.work_items(knl, lanes)
    yield "one work-item per target of a tile", knl
    knl = steps.one_group_per(knl, "ibox")
    yield "one work-group per box", knl


BOOK = RecipeBook(
    "simd_cpu",
    device=r"CPU Intel\(R\) OpenCL",
    recipes={**pocl_cpu.BOOK.recipes, **dict.fromkeys(pocl_cpu.PARTICLE_OPERATORS, particles)},
    tuning=pocl_cpu.BOOK.tuning,
)
