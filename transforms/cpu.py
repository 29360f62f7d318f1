"""Recipes that the books for CPUs share, and the processors that want other parameters of them.

All of them name their vectors in the source, since few compilers make vectors of loops over arrays or of work-items.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

import loopy as lp

from fmmloopy.recipes import LANE_BOUNDS
from fmmloopy.transforms import steps

Kernel = Any
Steps = Iterator[tuple[str, Kernel]]


ROOTS = {
    "newton": (steps.newton_rsqrt, "reciprocal square root by Newton's iteration"),
    "both": (steps.halve_rsqrt, "half of the reciprocal square roots by Newton's iteration"),
    "builtin": (steps.builtin_rsqrt, "OpenCL's reciprocal square root"),
}
"""Ways to reciprocal square roots besides ``"sqrt"``, which is as they are written."""


def reciprocal_roots(knl: Kernel, roots: str) -> Generator[tuple[str, Kernel], None, Kernel]:
    """Yield the step that computes reciprocal square roots this way, if there is one to take; return the kernel."""
    if roots == "sqrt":
        return knl
    if roots not in ROOTS:
        raise ValueError(f"roots is {roots!r}, expected one of {', '.join(map(repr, ('auto', 'sqrt', *ROOTS)))}")
    step, title = ROOTS[roots]
    knl = step(knl)
    yield title, knl
    return knl


def particle_vectors(knl: Kernel, width: int, roots: str = "newton") -> Steps:
    """Targets in vectors of ``width`` bytes, and arithmetic that suits them: no ``exp``, factors shared."""
    knl = steps.lane_arrays(knl, width // steps.itemsize(knl))
    yield "targets in lanes", knl
    knl = steps.one_group_per(knl, "ibox")
    yield "one work-group per box", knl
    knl = yield from reciprocal_roots(knl, roots)
    if (rewritten := steps.polynomial_exp(knl)) is not knl:
        knl = rewritten
        yield "exponential by a polynomial", knl
    knl = steps.share_factors(knl)
    yield "shared factors, one test for coinciding points", knl
    yield "targets in vectors", steps.lane_vectors(knl)


def choose_roots(knl: Kernel, roots: str, of_one_sum: str) -> str:
    """Return the way to reciprocal square roots; ``"auto"`` is ``of_one_sum`` for one sum in f64, else ``"sqrt"``.

    In f32 iterations take as much of the multipliers as in f64, and roots half as long; and several sums leave few
    registers. So several sums in f32 have roots whatever is fast for one.
    """
    several = steps.sums(knl) > 1
    if steps.itemsize(knl) == 4:
        return "sqrt" if several or roots == "auto" else roots
    return ("sqrt" if several else of_one_sum) if roots == "auto" else roots


MOST_ROWS: int = max(LANE_BOUNDS["ilanes"])
"""Of a tile: what one OpenCL vector holds."""


def rows_of(knl: Kernel, vectors: int) -> int:
    """Return the rows in so many vectors of 64 bytes, as far as a tile may have them; in f32 it has those of one."""
    rows: int = vectors * 64 // steps.itemsize(knl)
    return min(rows, MOST_ROWS)


def dense(knl: Kernel, *, boxes: int = 6, vectors: int = 1, chunk: int = 32) -> Steps:
    """Six boxes share each load of a matrix entry; their sums hide the latency of multiplications in AVX2's registers.

    With AVX-512, two vectors of rows also share each load of an input, whose addresses take as long to compute.
    """
    rows = rows_of(knl, vectors)
    knl = steps.dense_blocks(knl, boxes=boxes, rows=rows, chunk=chunk * rows_of(knl, 1) // rows)
    yield "blocks of boxes x rows", knl
    knl = steps.one_group_per(knl, "itile", "bchunk")
    yield "one work-group per tile of rows and chunk of boxes", knl


def m2l(knl: Kernel) -> Steps:
    """The dense reference form: a row of the matrix is a vector."""
    knl = steps.separate_lanes(steps.fix_lanes(knl, ilanes=8))
    knl = steps.vector_lanes(knl, ("i", "i_init", "i_store"), ("table", "u", "result"))
    yield "rows in vectors", knl
    knl = steps.one_group_per(knl, "ibox")
    yield "one work-group per box", knl


def m2l_forward(knl: Kernel) -> Steps:
    """The eight siblings of an octet are one vector in every stage of the transform."""
    arrays = ("grid", "Mr", "Mi", "a1r", "a1i", "g1r", "g1i", "a2r", "a2i", "g2r", "g2i", "a3r", "a3i")
    knl = steps.vector_lanes(knl, ("j_zero", "j1", "j2", "j3"), arrays)
    knl = steps.unroll(knl, "j_load")
    yield "siblings in vectors", knl
    knl = steps.one_group_per(knl, "octet")
    yield "one work-group per octet", knl


def m2l_hadamard(knl: Kernel, *, pairs: int = 2) -> Steps:
    """The eight target siblings are one vector; two pairs of octets with one direction share each load of the matrix.

    Four in f32, whose vectors are half as long, and with AVX-512 on Intel's processors: 16 sums that hide latency.
    """
    yield from blocks_of_pairs(knl, pairs)


def blocks_of_pairs(knl: Kernel, pairs: int) -> Steps:
    """M2L's products, for blocks of so many pairs of octets, in f32 of four at least.

    Chunks of octets are the faster axis of the groups, so those of one frequency run while its spectra are in cache.
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
    """Eight singular values, then a tile of rows, are a vector; four pairs of boxes share each load of a matrix.

    With the registers of AVX-512 eight pairs do, and rows fill two vectors.
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
    """The eight siblings of an octet are one vector in every stage of the transform."""
    arrays = ("Lr", "Li", "a1r", "a1i", "h1r", "h1i", "a2r", "a2i", "h2r", "h2i", "v")
    knl = steps.vector_lanes(knl, ("i_zero", "i1", "i2", "i3"), arrays)
    knl = steps.unroll(knl, "i_store")
    yield "siblings in vectors", knl
    knl = steps.one_group_per(knl, "octet")
    yield "one work-group per octet", knl


def made_by_intel(device: Any) -> bool:
    """Processors of Intel.

    They divide slowly and multiply fast, so recipes that have the choice take Newton's iteration there. AMD's divide
    faster, and the iteration would keep multipliers from the rest of a pair.
    """
    return bool(device.vendor == "intel")


def has_avx512(device: Any) -> bool:
    """Processors with AVX-512.

    It has twice the registers of AVX2, 32: room for blocks of twice the size.
    """
    return bool(device.instructions == "AVX-512")


def intel_with_avx512(device: Any) -> bool:
    """Processors of Intel with AVX-512."""
    return made_by_intel(device) and has_avx512(device)


PARTICLE_OPERATORS = ("p2p", "p2m", "p2l", "l2p", "m2p")
DENSE_OPERATORS = ("m2m", "l2l", "check_to_equivalent")

LARGE_BLOCKS = {
    **{key: {"vectors": 2} for key in DENSE_OPERATORS},
    "m2l_hadamard": {"pairs": 4},
    "m2l_svd": {"pairs": 8, "vectors": 2},
}
"""What fills the registers of AVX-512, by operator."""
