"""CPUs through PoCL 3.1 and newer, such as Debian's ``pocl-opencl-icd``.

Its compiler vectorizes short inner loops over arrays, ``sqrt`` and division included, but no work-items unless it is
told to be careless about rounding. So this is ``pocl_cpu`` without Newton's iteration.

Measured on two cores of an AMD Zen 4 (P2P, leaves of 70-130 points, Gpairs/s in f64 / f32): lane arrays with 1/sqrt
2.0 / 5.3 (8 lanes), 2.0 / 6.1 (16 lanes); with Newton's iteration 1.9 / 4.3; work-items 0.5 / 0.8.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fmmloopy.recipes import RecipeBook
from fmmloopy.transforms import pocl_cpu, steps

Kernel = Any


def particles(knl: Kernel, *, lanes: int = 16) -> Iterator[tuple[str, Kernel]]:
    """Targets as short arrays, which this compiler turns into vectors, square roots included."""
    knl = steps.lane_arrays(knl, lanes)
    yield "targets in lanes", knl
    knl = steps.one_group_per(knl, "ibox")
    yield "one work-group per box", knl
    if (rewritten := steps.polynomial_exp(knl)) is not knl:
        yield "exponential by a polynomial", rewritten


BOOK = RecipeBook(
    "pocl31_cpu",
    device=r"CPU .*PoCL (3\.[1-9]|[4-9]\.|\d\d)",
    recipes={**pocl_cpu.BOOK.recipes, **dict.fromkeys(pocl_cpu.PARTICLE_OPERATORS, particles)},
    tuning=pocl_cpu.BOOK.tuning,
)
