"""CPUs through PoCL 3.0 and older, such as PyPI's ``pyopencl[pocl]``: the runtime that every installation has.

Its compiler vectorizes neither work-items nor ``sqrt``, and loops over arrays with only half of the processor's vector
width. So all recipes use explicit vectors (``double8``), and compute 1/sqrt and exp by arithmetic.

Measurements: docs/measurements/pocl_cpu.csv.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fmmloopy.recipes import RecipeBook
from fmmloopy.transforms import cpu, steps

Kernel = Any


def p2p(knl: Kernel, *, width: int = 64) -> Iterator[tuple[str, Kernel]]:
    """Vectors of targets of 64 bytes, two of this compiler's registers, hide the latency of the iteration.

    Several sums, such as potential and gradient, need more registers, so vectors have half as many bytes.
    """
    yield from cpu.particle_vectors(knl, width if steps.sums(knl) == 1 else width // 2)


def p2p_mutual(knl: Kernel, *, width: int = 64, sources: int = 64) -> Iterator[tuple[str, Kernel]]:
    """Each pair serves both of its points. Sums for 64 points of the other box stay in the first-level cache."""
    yield from cpu.mutual_vectors(knl, width if steps.sums(knl) == 1 else width // 2, sources, "newton")


def old_pocl(device: Any) -> bool:
    """CPUs through PoCL 3.0 and older."""
    return bool(device.kind == "cpu" and device.runtime == "pocl" and () < device.version < (3, 1))


TUNING: dict[str, dict[str, tuple[Any, ...]]] = {
    **{key: {"width": (32, 64)} for key in cpu.PARTICLE_OPERATORS},
    **{key: {"boxes": (4, 6, 8), "vectors": (1, 2), "chunk": (16, 32)} for key in cpu.DENSE_OPERATORS},
    "m2l_hadamard": {"pairs": (1, 2, 4)},
    "m2l_svd": {"pairs": (4, 6, 8), "vectors": (1, 2)},
}
"""Values to try, also by the other books for CPUs."""

BOOK = RecipeBook(
    "pocl_cpu",
    device=old_pocl,
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
        "m2l_hadamard": cpu.m2l_hadamard,
        "m2l_inverse": cpu.m2l_inverse,
        "m2l_svd": cpu.m2l_svd,
    },
    tuning={**TUNING, "p2p_mutual": {"width": (32, 64), "sources": (16, 32, 64)}},
    by_device={key: {cpu.has_avx512: blocks} for key, blocks in cpu.LARGE_BLOCKS.items()},
)
