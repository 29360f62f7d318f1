"""CPUs through PoCL 3.0 and older, such as PyPI's ``pyopencl[pocl]``: the runtime that every installation has.

Its compiler makes vectors of neither work-items nor ``sqrt``, and of loops over arrays with half of what the processor
has. So all recipes name their vectors themselves (``double8``), and 1/sqrt and exp are arithmetic.

Measured on two cores of an AMD Zen 4 (P2P on the sphere, 50-150 points a leaf, Gpairs/s in f64 / f32): sequential 0.2;
lane arrays alone 0.5 / 0.8; with Newton's iteration 1.6 / 3.9; as vectors 1.9 / 4.5; with shared factors 2.0 / 4.6.
With the gradient, arrays and Newton 0.73, vectors 0.89, shared factors 1.25. Yukawa: arrays 0.43, vectors 0.62.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

import loopy as lp

from fmmloopy.recipes import LANE_BOUNDS, RecipeBook
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


def particles(knl: Kernel, *, width: int = 64) -> Steps:
    """Vectors of targets of 64 bytes, two registers of this compiler's, hide the latency of the iteration.

    Several sums, such as potential and gradient, need the registers for themselves: vectors of half as many bytes.
    """
    yield from particle_vectors(knl, width if steps.sums(knl) == 1 else width // 2)


MOST_ROWS: int = max(LANE_BOUNDS["ilanes"])
"""Of a tile: what one OpenCL vector holds."""


def rows_of(knl: Kernel, vectors: int) -> int:
    """Return the rows in so many vectors of 64 bytes, as far as a tile may have them; in f32 it has those of one."""
    rows: int = vectors * 64 // steps.itemsize(knl)
    return min(rows, MOST_ROWS)


def dense(knl: Kernel, *, boxes: int = 6, vectors: int = 1, chunk: int = 32) -> Steps:
    """Six boxes share each load of a matrix entry; a row vector fills 64 bytes, a slice of the matrix L1 or L2.

    With AVX2 their sums take 12 of 16 registers: enough to hide the latency of multiplications; those of eight boxes
    are more than there are. Measured on two cores of an AMD Zen 3, beside other load, f64, GFLOP/s of a peak of 100,
    of M2M and check -> equivalent in the cube with 4, 6, 8 boxes, at order 6 with 3e5 points: PoCL 3.0 23, 27, 23 and
    35, 44, 23; PoCL 3.1 27, 32, 23 and 35, 39, 23; Intel 48, 47, 20 and 42, 47, 39; at order 10 with 1e5: 24, 36, 25
    and 38, 40, 27; 31, 38, 20 and 38, 55, 27; 27, 25, 25 and 53, 64, 43. With 16 blocks a chunk as fast, or slower. On
    a Zen 4, whose AVX-512 has 32 registers, PoCL 3.1's M2M, L2L, check -> equivalent reached 60, 47, 59 with four boxes
    and 65, 55, 67 with eight (order 6).

    With AVX-512, two vectors of rows share each load of an input, and each of its addresses, which these compilers
    compute in vectors, in the way of multiplications. Measured on two cores of an Intel Xeon (Emerald Rapids), f64,
    GFLOP/s of a peak of 178, of M2M, L2L, check -> equivalent in the cube, one vector of rows and then two: at order 6
    with 2e5 points PoCL 3.0 39, 36, 39 and 56, 50, 59; PoCL 3.1 44, 37, 49 and 60, 53, 62; Intel 61, 52, 56 and 92, 77,
    88; at order 10 with 1e5: 34, 32, 47 and 53, 44, 72; 32, 30, 42 and 45, 37, 60; 43, 58, 57 and 65, 62, 88.
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

    In f32, where a vector is half as long, four do or more. Measured on two cores of an AMD Zen 4, order 6, GFLOP/s
    with 2, 4, 8 pairs, 3e5 points in the cube: PoCL 3.0 in f64 80, 68, 66, in f32 132, 153, 135; PoCL 3.1 in f64 88,
    87, 74, in f32 132, 153, 132.

    With AVX-512 on Intel's processors four pairs do in f64 too: their 16 sums are what hides the latency of
    multiplications, and stay in registers until they are stored, since the stores are unrolled. Measured on two cores
    of an Intel Xeon (Emerald Rapids), f64, GFLOP/s of a peak of 178, with two pairs (Intel: one) and with four: order
    6, 2e5 points in the cube, PoCL 3.0 94 and 109, PoCL 3.1 89 and 96 to 113, Intel 101 and 111; 3e5 on the sphere 84
    and 95, 82 and 88, 87 and 94; order 10, 1e5 in the cube 83 and 97, 84 and 105, 90 and 97. Six and eight pairs are
    up to 6% faster here and 20% slower there. The unrolled stores give f32 up to 20%.
    """
    yield from blocks_of_pairs(knl, pairs)


def blocks_of_pairs(knl: Kernel, pairs: int) -> Steps:
    """M2L's products, for blocks of so many pairs of octets, in f32 of four at least.

    Chunks of octets are the faster axis of the groups: those of one frequency run one after the other, while its
    spectra are in cache. Measured on PoCL 3.1, order 6, f64, 1e6 points, GFLOP/s with frequencies as the faster axis
    and with chunks: in the cube 69 and 85, on the sphere 60 and 70.
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

    With AVX-512 eight pairs do, and rows fill two vectors. Measured on two cores of an Intel Xeon (Emerald Rapids),
    f64, order 6, GFLOP/s of a peak of 178, before and with these: 1e5 points in the cube, PoCL 3.0 54 and 71, PoCL 3.1
    56 and 80, Intel 72 and 90; 2e5 on the sphere 42 and 55, 49 and 72, 64 and 64.
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


def old_pocl(device: Any) -> bool:
    """CPUs through PoCL 3.0 and older."""
    return bool(device.kind == "cpu" and device.runtime == "pocl" and () < device.version < (3, 1))


def made_by_intel(device: Any) -> bool:
    """Processors of Intel.

    On any runtime. Two cores of a Xeon (Emerald Rapids) compute 1.2 G reciprocal roots a second with 1/sqrt in f64 and
    5.4 with Newton's iteration, those of an AMD Zen 3 1.9 and 3.8, where the iteration keeps multipliers from all else
    that a pair of points needs. So recipes that have the choice take it on these; only that one was measured.
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

BOOK = RecipeBook(
    "pocl_cpu",
    device=old_pocl,
    recipes={
        **dict.fromkeys(PARTICLE_OPERATORS, particles),
        **dict.fromkeys(DENSE_OPERATORS, dense),
        "m2l": m2l,
        "m2l_forward": m2l_forward,
        "m2l_hadamard": m2l_hadamard,
        "m2l_inverse": m2l_inverse,
        "m2l_svd": m2l_svd,
    },
    tuning={
        **{key: {"width": (32, 64)} for key in PARTICLE_OPERATORS},
        **{key: {"boxes": (4, 6, 8), "vectors": (1, 2), "chunk": (16, 32)} for key in DENSE_OPERATORS},
        "m2l_hadamard": {"pairs": (1, 2, 4)},
        "m2l_svd": {"pairs": (4, 6, 8), "vectors": (1, 2)},
    },
    # For AMD's processors this compiler makes code for AVX2, whatever they have.
    by_device={key: {intel_with_avx512: blocks} for key, blocks in LARGE_BLOCKS.items()},
)
