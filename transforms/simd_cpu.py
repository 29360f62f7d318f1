"""CPUs through a runtime that vectorizes across work-items, as Intel's does (on any vendor's processor).

In single precision a work-group is one tile of targets; its work-items become the lanes of vector instructions,
square roots and divisions included. In double precision those two are slow in hardware, and arrays of target lanes with
Newton's iteration, as in ``pocl_cpu``, are faster. Dense products name their vectors themselves, as there.

Measured on two cores of an AMD Zen 4 with Intel's runtime 2026.2, P2P of 1e6 charges on the sphere, order 6, seconds in
f64 / f32: work-items 0.61 / 0.197, lane arrays with Newton's iteration 0.49 / 0.203; P2M 0.069 / 0.023 against
0.059 / 0.028. Lane arrays with 1/sqrt reach a fifth of that, vectors named in the source a third.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fmmloopy.recipes import RecipeBook
from fmmloopy.transforms import pocl_cpu, steps

Kernel = Any


def particles(knl: Kernel, *, lanes: int = 16) -> Iterator[tuple[str, Kernel]]:
    """In f32 one work-item per target, a group of 16 filling a vector register; in f64 lane arrays and Newton."""
    if steps.itemsize(knl) == 8:
        yield from pocl_cpu.pair_arithmetic(knl, lanes)
        return
    knl = steps.work_items(knl, lanes)
    yield "one work-item per target of a tile", knl
    knl = steps.one_group_per(knl, "ibox")
    yield "one work-group per box", knl
    knl = steps.share_factors(knl)
    yield "shared factors, one test for coinciding points", knl


BOOK = RecipeBook(
    "simd_cpu",
    device=r"CPU Intel\(R\) OpenCL",
    recipes={**pocl_cpu.BOOK.recipes, **dict.fromkeys(pocl_cpu.PARTICLE_OPERATORS, particles)},
    tuning={**pocl_cpu.BOOK.tuning, **{key: {"lanes": (8, 16, 32)} for key in pocl_cpu.PARTICLE_OPERATORS}},
)
