"""CPUs through PoCL 3.1 and newer, such as Debian's ``pocl-opencl-icd``.

Like ``pocl_cpu``, but this compiler uses the full vector registers of the processor, so one vector fills one register
for any number of sums. It also vectorizes ``sqrt``, which leaves the multipliers free for other work.

Measurements: docs/measurements/pocl31_cpu.csv.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fmmloopy.recipes import RecipeBook
from fmmloopy.transforms import cpu, pocl_cpu, steps

Kernel = Any


def p2p(knl: Kernel, *, width: int = 64, roots: str = "auto") -> Iterator[tuple[str, Kernel]]:
    """A vector of targets fills a register of 64 bytes; divisions and roots overlap with multiplications.

    With one sum in f64, Newton's iteration computes half of the roots, so multipliers and divider are equally busy.
    """
    yield from cpu.particle_vectors(knl, width, cpu.choose_roots(knl, roots, "both"))


def p2p_mutual(knl: Kernel, *, width: int = 64, sources: int = 64, roots: str = "auto") -> Iterator[tuple[str, Kernel]]:
    """Each pair serves both of its points. Sums for 64 points of the other box stay in the first-level cache.

    Several sums, such as potential and gradient, need more registers, so vectors have half as many bytes.
    """
    width = width if steps.sums(knl) == 1 else width // 2
    yield from cpu.mutual_vectors(knl, width, sources, cpu.choose_roots(knl, roots, "both"))


def new_pocl(device: Any) -> bool:
    """CPUs through PoCL 3.1 and newer."""
    return bool(device.kind == "cpu" and device.runtime == "pocl" and device.version >= (3, 1))


BOOK = RecipeBook(
    "pocl31_cpu",
    device=new_pocl,
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
    tuning={
        **pocl_cpu.TUNING,
        "p2p_mutual": {"width": (32, 64), "sources": (16, 32, 64), "roots": ("auto", "newton")},
        **{key: {"width": (32, 64), "roots": ("auto", "newton")} for key in cpu.PARTICLE_OPERATORS},
    },
    by_device={
        **{key: {cpu.has_avx512: blocks} for key, blocks in cpu.LARGE_BLOCKS.items()},
        **{key: {cpu.made_by_intel: {"roots": "newton"}} for key in cpu.PARTICLE_OPERATORS},
    },
)
