"""CPUs through PoCL 3.1 and newer, such as Debian's ``pocl-opencl-icd``.

As ``pocl_cpu``, but its compiler uses all registers of the processor: vectors fill one each, whatever is summed. And it
makes vectors of ``sqrt``, which leaves the multipliers of a processor to other work.

Measured on two cores of an AMD Zen 4 (P2P on the sphere, 50-150 points a leaf, Gpairs/s in f64 / f32): lane arrays with
1/sqrt 1.9 / 5.7; with Newton's iteration 1.7 / 4.0; as vectors 2.7 / 6.1. With the gradient, vectors 1.3, with shared
factors 1.9 / 4.2. Yukawa: arrays 0.53, vectors 1.0. Work-items 0.5 / 0.8.

On two cores of an AMD Zen 3, beside other load, vectors of 64 bytes with roots ``newton``, ``sqrt``, ``both``: 1.5,
1.7, 2.0 in f64 and 3.4, 4.4, 3.7 in f32; with the gradient 1.1, 1.2, 1.0 and 1.9, 2.4, 2.1, and of 32 bytes 1.0, 1.3
and 2.1, 3.0 with the first two. On two cores of an Intel Xeon (Emerald Rapids), in the same order: 2.7, 1.1, 2.1 in f64
and 7.5, 3.7, 5.8 in f32; with the gradient 1.6, 1.1, 1.7 and 3.4, 3.4, 3.0.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fmmloopy.recipes import RecipeBook
from fmmloopy.transforms import pocl_cpu

Kernel = Any


def particles(knl: Kernel, *, width: int = 64, roots: str = "auto") -> Iterator[tuple[str, Kernel]]:
    """A vector of targets fills a register of 64 bytes; divisions and roots run beside multiplications.

    With one sum in f64, half of the roots are Newton's, which keeps the multipliers as busy as the divider.
    """
    yield from pocl_cpu.particle_vectors(knl, width, pocl_cpu.choose_roots(knl, roots, "both"))


def new_pocl(device: Any) -> bool:
    """CPUs through PoCL 3.1 and newer."""
    return bool(device.kind == "cpu" and device.runtime == "pocl" and device.version >= (3, 1))


BOOK = RecipeBook(
    "pocl31_cpu",
    device=new_pocl,
    recipes={
        **pocl_cpu.BOOK.recipes,
        **dict.fromkeys(pocl_cpu.PARTICLE_OPERATORS, particles),
    },
    tuning={
        **pocl_cpu.BOOK.tuning,
        **{key: {"width": (32, 64), "roots": ("auto", "newton")} for key in pocl_cpu.PARTICLE_OPERATORS},
    },
    by_device={
        **{key: {pocl_cpu.has_avx512: blocks} for key, blocks in pocl_cpu.LARGE_BLOCKS.items()},
        **{key: {pocl_cpu.made_by_intel: {"roots": "newton"}} for key in pocl_cpu.PARTICLE_OPERATORS},
    },
)
