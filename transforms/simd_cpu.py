"""CPUs through a runtime that vectorizes across work-items, as Intel's does (on any vendor's processor).

A work-group is one tile of targets; its work-items become the lanes of vector instructions, and so do ``rsqrt`` and
``exp``, which its library has for vectors. Dense products name their vectors themselves, as in ``pocl_cpu``.

Measured on two cores of an AMD Zen 4 with Intel's runtime 2026.2 (P2P on the sphere, 50-150 points a leaf, Gpairs/s in
f64 / f32): work-items with 1/sqrt 2.0 / 6.3, with rsqrt 3.2 / 7.3; lane arrays with Newton's iteration 2.6 / 6.2;
vectors named in the source 0.7. With the gradient, 1/sqrt reaches 5.4 in f32, rsqrt 2.2 / 4.8. Groups of 8 are not
vectorized.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fmmloopy.recipes import RecipeBook
from fmmloopy.transforms import pocl_cpu, steps

Kernel = Any


def particles(knl: Kernel, *, lanes: int = 16) -> Iterator[tuple[str, Kernel]]:
    """One work-item per target, a group of 16 filling vector registers; reciprocal square roots by the library.

    Several sums in f32, such as potential and gradient, leave no registers for that: there 1/sqrt is faster.
    """
    knl = steps.work_items(knl, lanes)
    yield "one work-item per target of a tile", knl
    knl = steps.one_group_per(knl, "ibox")
    yield "one work-group per box", knl
    if steps.itemsize(knl) == 8 or steps.sums(knl) == 1:
        knl = steps.builtin_rsqrt(knl)
        yield "OpenCL's reciprocal square root", knl
    knl = steps.share_factors(knl)
    yield "shared factors, one test for coinciding points", knl


BOOK = RecipeBook(
    "simd_cpu",
    device=r"CPU Intel\(R\) OpenCL",
    recipes={**pocl_cpu.BOOK.recipes, **dict.fromkeys(pocl_cpu.PARTICLE_OPERATORS, particles)},
    tuning={**pocl_cpu.BOOK.tuning, **{key: {"lanes": (16, 32)} for key in pocl_cpu.PARTICLE_OPERATORS}},
)
