"""CPUs through PoCL 3.1 and newer, such as Debian's ``pocl-opencl-icd``.

As ``pocl_cpu``, but its compiler uses all registers of the processor: vectors fill one each, whatever is summed. And it
makes vectors of ``sqrt``, which leaves the multipliers of a processor to other work.

What was measured, and where: docs/measurements/pocl31_cpu.csv.
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
