"""Recipes that the books for CPUs share, and the processors that want other parameters of them.

All of them name their vectors in the source, since few compilers make vectors of loops over arrays or of work-items.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

from fmmloopy.common.late import loopy as lp
from fmmloopy.recipes import LANE_BOUNDS
from fmmloopy.transforms import steps

Kernel = Any
Steps = Iterator[tuple[str, Kernel]]


ROOTS = {
    "newton": (steps.newton_rsqrt, "reciprocal square root by Newton's iteration"),
    "both": (steps.halve_rsqrt, "half of the reciprocal square roots by Newton's iteration"),
    "builtin": (steps.builtin_rsqrt, "OpenCL's reciprocal square root"),
}
"""Ways to compute reciprocal square roots besides ``"sqrt"``, which keeps them as written."""


def reciprocal_roots(knl: Kernel, roots: str) -> Generator[tuple[str, Kernel], None, Kernel]:
    """Yield the step that computes reciprocal square roots in this way, unless it is "sqrt"; return the kernel."""
    if roots == "sqrt":
        return knl
    if roots not in ROOTS:
        raise ValueError(f"roots is {roots!r}, expected one of {', '.join(map(repr, ('auto', 'sqrt', *ROOTS)))}")
    step, title = ROOTS[roots]
    knl = step(knl)
    yield title, knl
    return knl


def particle_vectors(knl: Kernel, width: int, roots: str = "newton") -> Steps:
    """Put targets in vectors of ``width`` bytes, and use arithmetic that vectorizes: no ``exp``, ``sin`` or ``cos``."""
    knl = steps.lane_arrays(knl, width // steps.itemsize(knl))
    yield "targets in lanes", knl
    knl = steps.one_group_per(knl, "ibox")
    yield "one work-group per box", knl
    yield from vector_arithmetic(knl, roots)


def mutual_vectors(knl: Kernel, width: int, sources: int, roots: str) -> Steps:
    """Put the points of one box in vectors of ``width`` bytes, and share each pair with a point of the other box."""
    knl = steps.mutual_tiles(knl, width // steps.itemsize(knl), sources)
    yield "tiles of both boxes", knl
    knl = steps.one_group_per(knl, "iunit")
    yield "one work-group per unit", knl
    yield from vector_arithmetic(knl, roots)


def vector_arithmetic(knl: Kernel, roots: str) -> Steps:
    """Use arithmetic that vectorizes, and then vectors."""
    knl = yield from reciprocal_roots(knl, roots)
    if (rewritten := steps.polynomial_exp(knl)) is not knl:
        knl = rewritten
        yield "exponential by a polynomial", knl
    if (rewritten := steps.polynomial_sin_cos(knl)) is not knl:
        knl = rewritten
        yield "sine and cosine by polynomials", knl
    knl = steps.share_factors(knl)
    yield "shared factors, one test for coinciding points", knl
    yield "targets in vectors", steps.lane_vectors(knl)


def choose_roots(knl: Kernel, roots: str, of_one_sum: str) -> str:
    """Return how to compute reciprocal square roots; ``"auto"`` is ``of_one_sum`` for one sum in f64, else ``"sqrt"``.

    In f32, iterations keep the multipliers as busy as in f64, but roots take half as long; and several sums leave few
    registers. So several sums in f32 always use ``sqrt``.
    """
    several = steps.sums(knl) > 1
    if steps.itemsize(knl) == 4:
        return "sqrt" if several or roots == "auto" else roots
    return ("sqrt" if several else of_one_sum) if roots == "auto" else roots


MOST_ROWS: int = max(LANE_BOUNDS["ilanes"])
"""Most rows of a tile: the lanes of one OpenCL vector."""


def rows_of(knl: Kernel, vectors: int) -> int:
    """Return the rows in this many vectors of 64 bytes, at most those of a tile, which in f32 are one vector."""
    rows: int = vectors * 64 // steps.itemsize(knl)
    return min(rows, MOST_ROWS)


def dense(knl: Kernel, *, boxes: int = 6, vectors: int = 1, chunk: int = 32) -> Steps:
    """Six boxes share each load of a matrix entry; their sums fill AVX2's registers and hide multiplication latency.

    With AVX-512, two vectors of rows also share each load of an input, because computing its address takes as long.
    """
    rows = rows_of(knl, vectors)
    knl = steps.dense_blocks(knl, boxes=boxes, rows=rows, chunk=chunk * rows_of(knl, 1) // rows)
    yield "blocks of boxes x rows", knl
    knl = steps.one_group_per(knl, "itile", "bchunk")
    yield "one work-group per tile of rows and chunk of boxes", knl


def m2l(knl: Kernel) -> Steps:
    """The dense reference form, with rows of the matrix as vectors."""
    knl = steps.separate_lanes(steps.fix_lanes(knl, ilanes=8))
    knl = steps.vector_lanes(knl, ("i", "i_init", "i_store"), ("table", "u", "result"))
    yield "rows in vectors", knl
    knl = steps.one_group_per(knl, "ibox")
    yield "one work-group per box", knl


def m2l_forward(knl: Kernel) -> Steps:
    """Every stage of the transform uses vectors of the eight siblings of an octet."""
    arrays = ("grid", "Mr", "Mi", "a1r", "a1i", "g1r", "g1i", "a2r", "a2i", "g2r", "g2i", "a3r", "a3i")
    knl = steps.vector_lanes(knl, ("j_zero", "j1", "j2", "j3"), arrays)
    knl = steps.unroll(knl, "j_load")
    yield "siblings in vectors", knl
    knl = steps.one_group_per(knl, "octet")
    yield "one work-group per octet", knl


def m2l_hadamard(knl: Kernel, *, pairs: int = 2) -> Steps:
    """The eight target siblings are one vector; two pairs of octets with the same direction share each matrix load.

    Four pairs share it in f32, whose vectors are half as long, and with AVX-512 on Intel: 16 sums hide the latency.
    """
    yield from blocks_of_pairs(knl, pairs)


def blocks_of_pairs(knl: Kernel, pairs: int) -> Steps:
    """Compute M2L's products for blocks of this many pairs of octets, at least four in f32.

    Chunks of octets are the faster axis of the groups, so all chunks of a frequency run while its spectra are in cache.
    The stores are unrolled, so that sums stay in registers until they are stored.
    """
    blanes = pairs if steps.itemsize(knl) == 8 else max(pairs, 4)
    knl = steps.separate_lanes(steps.fix_lanes(knl, blanes=blanes))
    knl = steps.vector_lanes(knl, ("i", "i_init", "i_store"), ("Kr", "Ki", "Lr", "Li", "ur", "ui"))
    knl = steps.unroll(knl, "b", "b_init", "b_src", "b_store")
    knl = lp.prioritize_loops(knl, "d,ptile,row,col,j,b")
    yield "blocks of pairs x siblings", knl
    knl = steps.one_group_per(knl, "chunk", "f")
    yield "one work-group per chunk of octets and frequency", knl


def m2l_svd(knl: Kernel, *, pairs: int = 4, vectors: int = 1) -> Steps:
    """Vectors are eight singular values, then a tile of rows; four pairs of boxes share each load of a matrix entry.

    With the registers of AVX-512, eight pairs share it, and the rows fill two vectors.
    """
    knl = steps.separate_lanes(steps.fix_lanes(knl, blanes=pairs, ilanes=rows_of(knl, vectors)))
    inames = ("k", "k_init", "i", "i_init", "i_store")
    knl = steps.vector_lanes(knl, inames, ("right", "left", "w", "u", "result"))
    knl = steps.unroll(knl, "k_store", "b", "b_src", "b_init", "b_store", "b2", "b2_init", "b2_store")
    knl = lp.prioritize_loops(knl, "transfer,ktile,ptile,j,b")
    knl = lp.prioritize_loops(knl, "ptile,itile,m,b2")
    yield "blocks of pairs x singular values, then x rows", knl
    knl = steps.one_group_per(knl, "chunk")
    yield "one work-group per chunk of boxes", knl


def m2l_inverse(knl: Kernel) -> Steps:
    """Every stage of the transform uses vectors of the eight siblings of an octet."""
    arrays = ("Lr", "Li", "a1r", "a1i", "h1r", "h1i", "a2r", "a2i", "h2r", "h2i", "v")
    knl = steps.vector_lanes(knl, ("i_zero", "i1", "i2", "i3"), arrays)
    knl = steps.unroll(knl, "i_store")
    yield "siblings in vectors", knl
    knl = steps.one_group_per(knl, "octet")
    yield "one work-group per octet", knl


def made_by_intel(device: Any) -> bool:
    """Processors of Intel.

    They divide slowly and multiply fast, so recipes that can choose use Newton's iteration on them. AMD's processors
    divide faster, and the iteration would occupy multipliers that the rest of a pair needs.
    """
    return bool(device.vendor == "intel")


def has_avx512(device: Any) -> bool:
    """Processors with AVX-512.

    It has 32 registers, twice as many as AVX2, which is room for blocks of twice the size.
    """
    return bool(device.instructions == "AVX-512")


def intel_with_avx512(device: Any) -> bool:
    """Intel's processors with AVX-512."""
    return made_by_intel(device) and has_avx512(device)


PARTICLE_OPERATORS = ("p2p", "p2m", "p2l", "l2p", "m2p")
DENSE_OPERATORS = ("m2m", "l2l", "check_to_equivalent")

LARGE_BLOCKS = {
    **{key: {"vectors": 2} for key in DENSE_OPERATORS},
    "m2l_hadamard": {"pairs": 4},
    "m2l_svd": {"pairs": 8, "vectors": 2},
}
"""Block sizes that fill the registers of AVX-512, by operator."""
