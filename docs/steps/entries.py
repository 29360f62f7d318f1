"""What each page of a step says in words, and which part of its example's code it shows.

An example is a recipe that calls its step once; what the step gets and what it returns are the page's "before" and
"after".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import examples

Kernel = Any
Recipe = Callable[[Kernel], Iterator[tuple[str, Kernel]]]


@dataclass(frozen=True)
class Trap:
    """A mistake that is easily made.

    Attributes:
        text: what to do, or to leave.
        recipe: one that makes the mistake; its error is shown.
        operator: what it is applied to; the entry's if empty.
        keep, root: if there is no error, but wrong code: the excerpt of it to show.
        sign: what has to be in the error, or in the code shown; if it is not, the text is out of date.
    """

    text: str
    recipe: Recipe | None = None
    operator: str = ""
    keep: tuple[str, ...] = ()
    root: str = ""
    sign: str = ""


@dataclass(frozen=True)
class Entry:
    """The page of a step.

    Attributes:
        name: of the step, a function of :mod:`fmmloopy.transforms.steps`.
        when: on which devices it pays, and why.
        recipe: the example.
        operator, greens, dtype: what it is applied to.
        look: what to see in the code.
        new: what the code shown has only after the step; if it does not, the text is out of date.
        keep, root: variables and loops to show, outermost loop to show; see :func:`excerpt.excerpt`.
        mathematics: show the kernel as mathematics: before this step it has no code, or the code does not tell.
        diff: show one text with the lines that have changed marked, in place of two.
        inserted: functions that the step writes before the kernel, to be shown.
        traps: mistakes.
    """

    name: str
    when: str
    recipe: Recipe
    operator: str
    look: str
    keep: tuple[str, ...]
    new: tuple[str, ...]
    root: str = ""
    greens: str = "Laplace"
    dtype: str = "float64"
    mathematics: bool = False
    diff: bool = False
    inserted: tuple[str, ...] = ()
    traps: tuple[Trap, ...] = ()


NO_STEPS = {"itemsize", "lanes_of", "sums"}
"""Public functions beside the steps: they return no kernel."""

POINTS = ("ttile", "x0", "y0", "d0", "r2", "rinv", "u0", "potentials")
PAIR = ("d0", "d1", "d2", "r2", "rinv", "u0")

ENTRIES = (
    Entry(
        "fix_lanes",
        when="""Everywhere, once: an operator leaves the widths of its tiles open, and has no code before they are
            numbers. [lane_arrays](lane_arrays.md), [work_items](work_items.md) and [dense_blocks](dense_blocks.md) call
            it themselves; call it where a recipe is made of smaller steps. Width 1 is the plain loop. Which width is
            best depends on the length of a device's vectors, so make it a keyword of the recipe, with values worth
            trying in the book's `tuning`.""",
        recipe=examples.fix_lanes,
        operator="p2p",
        look="The parts that change, as mathematics: `tlanes` has become 8, `slanes` 1.",
        keep=("u0", "itgt", "isrc", "ttiles", "ttile", "stiles", "stile", "s", "t"),
        new=("u0[8]", "for 0 <= t <= 7", "for s = 0", "ttiles = (tgt_end - tgt_start + 7) // 8"),
        mathematics=True,
        diff=True,
        traps=(
            Trap(
                "Lane parameters have names: `tlanes` and `slanes`, or `blanes` and `ilanes`.",
                examples.misnamed_lanes,
                sign="this operator has tlanes, slanes",
            ),
            Trap(
                "They are fixed once. Steps that take a number of lanes do it themselves.",
                examples.lanes_fixed_twice,
                sign="lanes are fixed once",
            ),
            Trap(
                """Loopy's own `fix_parameters` leaves no note of the width, but the number of tiles in a launch depends
                on it.""",
                examples.lanes_by_loopy,
                operator="m2m",
                sign="fixed by other means than fix_lanes",
            ),
            Trap(
                "Idle lanes read padding, and there is only so much of it. `ilanes` divides 16.",
                examples.too_many_lanes,
                sign="expected 1 to 64",
            ),
            Trap("It makes no complete kernel yet: [separate_lanes](separate_lanes.md) has to follow."),
        ),
    ),
    Entry(
        "separate_lanes",
        when="""Everywhere, after [fix_lanes](fix_lanes.md): a tile has loads, initialisations and stores outside of the
            loops over sources or columns, and loopy cannot put the statements of one loop in several places.
            [lane_arrays](lane_arrays.md) and [dense_blocks](dense_blocks.md) call it themselves;
            [work_items](work_items.md) does without, since its lanes are no loop.""",
        recipe=examples.fix_lanes,
        operator="p2p",
        look="""Before, the loop over `t` has to be in three places. After, each has a loop of its own, and `t` is left
            to the sums. As mathematics, since before there is no code.""",
        keep=("u0", "x0", "y0", "d0", "t", "potentials", "stile"),
        new=("for 0 <= t_init <= 7", "for 0 <= t_load <= 7", "for 0 <= t_store <= 7"),
        root="ttile",
        mathematics=True,
        traps=(
            Trap(
                "Without it there is no order of loops:",
                examples.lanes_not_separated,
                sign="does not have a schedulable iname nesting",
            ),
            Trap(
                """It makes loops and does not order them, so loopy chooses. If the order matters, let
                `lp.prioritize_loops` follow. Here `b` should be inside of `j`, so that boxes share each load of
                `table`:""",
                examples.loops_not_ordered,
                operator="m2m",
                keep=("x", "u"),
                root="b",
                sign="for (int j = 0",
            ),
            Trap("The new loops, such as `t_load`, `t_init`, `t_store`, are not `t`: tag them too if you tag `t`."),
        ),
    ),
    Entry(
        "lane_arrays",
        when="""For particle operators (P2P, P2M, P2L, L2P, M2P), with compilers that turn a short innermost loop over
            arrays into vector instructions, such as PoCL's. One target at a time leaves all but one lane of a vector
            register idle and loads each source anew; here a source is loaded once for a tile. PoCL 3.1 makes vectors of
            square roots and divisions too. PoCL 3.0 calls `sqrt` once per lane, so there
            [newton_rsqrt](newton_rsqrt.md) has to follow. [lane_vectors](lane_vectors.md) make more of them. Intel's
            compiler does better with [work_items](work_items.md).""",
        recipe=examples.lane_arrays,
        operator="p2p",
        look="Before, one target at a time; after, eight, and the loop over them, `t`, is the innermost.",
        keep=POINTS,
        new=("for (int t = 0; t <= 7; ++t)", "u0[t]"),
        root="ttile",
        traps=(
            Trap(
                """A box's last tile has idle lanes, which cost as much as others: more lanes are not always faster,
                least of all where boxes have few targets."""
            ),
            Trap(
                "Only operators with tiles of targets have `tlanes`; for products see [dense_blocks](dense_blocks.md).",
                examples.lanes_of_dense,
                operator="m2m",
                sign="this operator has blanes, ilanes",
            ),
            Trap(
                "A tile has 64 lanes at most: that is how far idle ones may read past the end of an array.",
                examples.too_many_lanes,
                sign="expected 1 to 64",
            ),
        ),
    ),
    Entry(
        "work_items",
        when="""For particle operators, with compilers that vectorize across work-items, as Intel's does: a
            work-group's items become the lanes of vector instructions, square roots and divisions included. In double
            precision those two are slow in hardware: see [newton_rsqrt](newton_rsqrt.md). PoCL's compilers make no
            vectors of work-items unless they are told to be careless about rounding. On a graphics processor work-items
            are all that runs side by side, so there this is the form to start from.""",
        recipe=examples.work_items,
        operator="p2p",
        dtype="float32",
        look="""Before, one target at a time; after, a work-item has one target of a tile, and its number in the
            work-group, `lid(0)`, takes the place of `t`.""",
        keep=POINTS,
        new=("x0 = targets[8 * ttile + lid(0) + tgt_start]", "d0 = x0 +"),
        root="ttile",
        traps=(
            Trap(
                "Either short arrays or work-items: both take the lanes of the targets.",
                examples.arrays_and_work_items,
                sign="lanes are fixed once",
            ),
            Trap("All boxes are still one work-group's: let [one_group_per](one_group_per.md) follow, with `ibox`."),
            Trap("Idle work-items of a box's last tile do all that others do, except the store."),
        ),
    ),
    Entry(
        "one_group_per",
        when="""On every device with more than one core: work-groups are what it hands out to them. It takes loops whose
            iterations write to different places, and whose bounds are known before the launch: `ibox` of particle
            operators and of dense M2L; `itile` and `bchunk` after [dense_blocks](dense_blocks.md); `octet`, or `f` and
            `chunk`, of M2L by FFT; `chunk` of compressed M2L. Two loops take two axes of the launch.""",
        recipe=examples.one_group_per,
        operator="m2m",
        look="""The loops over `itile` and `bchunk` are gone: `gid(0)` and `gid(1)`, the work-group's number on each
            axis, take their place.""",
        keep=("itile", "bchunk", "btile_inner", "b_store", "result"),
        new=("gid(0)", "gid(1)"),
        traps=(
            Trap(
                "A parallel loop may not have bounds that are loaded inside the kernel.",
                examples.group_per_tile,
                operator="p2p",
                sign="so it has to stay sequential",
            ),
            Trap(
                "Each loop needs an axis of its own: name all in one call.",
                examples.group_twice,
                sign="has multiple inames tagged 'g.0'",
            ),
            Trap(
                """Never give away a loop that a sum is taken over. Nobody complains, and the work-groups overwrite each
                other's results; `fmmloopy check` finds it. Here it is `j`, the column:""",
                examples.group_per_term,
                keep=("x", "u", "result"),
                root="bchunk",
                sign="src[0] + gid(0)]",
            ),
        ),
    ),
    Entry(
        "vector_lanes",
        when="""Where a compiler should be told of vectors rather than find them. The shipped books do so for dense
            products on all CPUs: multiplications and additions are vectors from end to end. A tile of rows fills a
            vector, or, in M2L by FFT, the eight siblings of an octet. For particle operators there is
            [lane_vectors](lane_vectors.md).""",
        recipe=examples.vector_lanes,
        operator="m2l",
        look="""Rows of `table`, `u` and `result` have become vectors of eight, `double8`, and the loops over `i` are
            gone. Above the code are the arguments and declarations that change.""",
        keep=("table", "result", "u", "j"),
        new=("double8 const *__restrict__ table", "double8 *__restrict__ result", "double8 u;", "u = u + table["),
        traps=(
            Trap(
                "Every loop over the lanes needs the tag, the copies of [separate_lanes](separate_lanes.md) too.",
                examples.copy_forgotten,
                sign="'i_init'",
            ),
            Trap(
                """Every array with these lanes as last axis has to be named. If one is not, loopy warns the
                first time, `Vectorization of ... failed`, and goes on: the code falls apart into lanes, and names a
                loop variable that is gone, so that no device compiles it.""",
                examples.array_forgotten,
                keep=("u", "result"),
                root="itile",
                sign="u[i_store]",
            ),
            Trap(
                """A condition on the lane itself is no vector. There is the same warning; the loop's variable stays in
                the condition and is gone, here `t_store`, so that no device compiles it. And `sqrt` is called once per
                lane.""",
                examples.masked_vectors,
                operator="p2p",
                keep=("rinv", "u0", "potentials"),
                root="ttile",
                sign="+ t_store < tgt_end",
            ),
            Trap("OpenCL's vectors have 2, 3, 4, 8 or 16 numbers, so `ilanes` is 2, 4, 8 or 16."),
        ),
    ),
    Entry(
        "dense_blocks",
        when="""For M2M, L2L and check → equivalent on CPUs: small matrices, each times the vectors of many boxes. One
            box at a time, an entry of the matrix is loaded for each multiplication; here `boxes` boxes share each load.
            `rows` numbers make a vector, best of 64 bytes, and `chunk` blocks of boxes use a slice of the matrix one
            after the other while it is in cache. `boxes` and `chunk` are worth tuning.""",
        recipe=examples.dense_blocks,
        operator="check_to_equivalent",
        look="""Before, one box and one row at a time; after, four boxes, `u[0]` to `u[3]`, times eight rows, `double8`.
            The loops over `itile` and `bchunk` are left to [one_group_per](one_group_per.md). In M2M and L2L the loop
            over octants goes outside of that over blocks.""",
        keep=("bchunk", "btile", "btile_inner", "itile", "j", "x", "u", "table", "equivalent"),
        new=("double8 u[4]", "u[3] = u[3] + table["),
        traps=(
            Trap(
                """In dense M2L each entry of a list has a matrix of its own, so there are no `blanes`; use
                [vector_lanes](vector_lanes.md).""",
                examples.blocks_of_m2l,
                operator="m2l",
                sign="no lane parameter 'blanes'",
            ),
            Trap(
                "A surface's vectors are padded to a multiple of 16, and `rows` divides that.",
                examples.three_rows,
                sign="expected one of (1, 2, 4, 8, 16)",
            ),
            Trap("The larger `chunk`, the fewer work-groups there are for the cores."),
        ),
    ),
    Entry(
        "unroll",
        when="""For the block of a product, on CPUs: written out, each sum is a variable of its own and can live in a
            register. Also for loads and stores of the single lanes of a vector (`j_load`, `i_store` of M2L by FFT).""",
        recipe=examples.unroll,
        operator="m2l_hadamard",
        look="`b` counts pairs of octets; both share the loads of `Kr`. Imaginary parts are left out.",
        keep=("b_src", "b_init", "b", "src", "xr", "ur"),
        new=("ur[0] = ur[0] +", "ur[1] = ur[1] +"),
        root="ptile",
        traps=(
            Trap(
                "Only loops of fixed length can be written out: lanes, no tiles.",
                examples.unroll_tiles,
                operator="p2p",
                sign="only loops of fixed length",
            ),
            Trap(
                """What is inside of the loop is repeated as a whole, loops included. Give the loop its place first:
                `lp.prioritize_loops`."""
            ),
            Trap("The code gets longer, and so does the time to generate and to compile it."),
        ),
    ),
    Entry(
        "newton_rsqrt",
        when="""Where the compiler makes no vectors of `sqrt`, as PoCL 3.0's, which calls it once per lane; and where
            square roots and divisions are slow in hardware, as they are in double precision. It follows
            [lane_arrays](lane_arrays.md) or [work_items](work_items.md). Newton's iteration from a seed made of the
            exponent bits takes multiplications, additions and shifts only. PoCL 3.1 makes vectors of square roots
            itself: there [halve_rsqrt](halve_rsqrt.md) does both.""",
        recipe=examples.newton_rsqrt,
        operator="p2p",
        look="One statement changes, and a function is written before the kernel, here the one for double precision.",
        keep=PAIR,
        new=("fmmloopy_rsqrt_f64(r2)",),
        root="t",
        inserted=("fmmloopy_rsqrt_f64",),
        traps=(
            Trap(
                """It changes the arithmetic, by two units in the last place at most: results are no longer those of the
                sequential kernel to the last bit. Let it be one of the last steps."""
            ),
            Trap("It knows quotients by `sqrt(...)`, such as `1/sqrt(r2)` of particle operators, and nothing else."),
            Trap("Of 0 it makes a large number and not infinity; operators leave pairs at distance zero out."),
        ),
    ),
    Entry(
        "halve_rsqrt",
        when="""Where processor and compiler have vectors of `sqrt`, and the unit for roots and divisions can
            work beside those that multiply and add: in double precision, with one sum for each target. How much it
            gains over roots alone, and over [newton_rsqrt](newton_rsqrt.md), is among the
            [measurements](../measurements/index.md#pocl31_cpu). In single precision one of those two has always been
            faster.""",
        recipe=examples.halve_rsqrt,
        operator="p2p",
        look="""One statement changes. [lane_vectors](lane_vectors.md), which come next, write it out lane by lane, so
            the compiler knows every `t < 2`.""",
        keep=PAIR,
        new=("(t < 2) ? ", "fmmloopy_rsqrt_f64(r2) : 1.0 / sqrt(r2)"),
        root="stile",
        traps=(
            Trap(
                "Lanes have to be fixed before, and their number has to be even.",
                examples.halve_one_lane,
                operator="p2p",
                sign="expected an even number",
            ),
            Trap(
                """Without [lane_vectors](lane_vectors.md) the choice stays within the loop over lanes, where compilers
                may compute both for every lane."""
            ),
        ),
    ),
    Entry(
        "builtin_rsqrt",
        when="""Where the runtime's library has a fast `rsqrt` for vectors, as Intel's has for work-items on processors
            with AVX-512: the keyword `roots="builtin"` of `simd_cpu`. Without, P2P is 1.7 times as fast with `1/sqrt`
            or [newton_rsqrt](newton_rsqrt.md) in double precision, and 1.5 times with `1/sqrt` in single precision.
            PoCL writes it as `1/sqrt`.""",
        recipe=examples.builtin_rsqrt,
        operator="p2p",
        look="One statement changes.",
        keep=PAIR,
        new=("rsqrt(r2)",),
        root="stile",
        traps=(
            Trap("C has no such function: a book with it serves OpenCL's devices alone."),
            Trap(
                """It changes the arithmetic, by two units in the last place at most; of 0 it makes infinity, as
                `1/sqrt` does."""
            ),
        ),
    ),
    Entry(
        "polynomial_exp",
        when="""For Green's functions with `exp`, such as Yukawa's, where the compiler calls the library's function once
            per lane; PoCL's books have it. A polynomial, and a shift for the power of two, become vectors like all
            else.""",
        recipe=examples.polynomial_exp,
        operator="p2p",
        greens="Yukawa",
        look="""Statements for the polynomial come before the sum, and a function for the power of two before the
            kernel, here the one for double precision.""",
        keep=(*PAIR, "r", "exp0", "exp0_argument", "exp0_rounded", "exp0_whole", "exp0_rest", "exp0_scale"),
        new=("exp0_scale = fmmloopy_power_f64(", "exp0_rest ="),
        root="t",
        inserted=("fmmloopy_power_f64",),
        traps=(
            Trap(
                """A recipe serves all Green's functions, and a kernel without `exp` comes back as the same object:
                yield a step only if it is another, as above."""
            ),
            Trap(
                """Above 709 (88 in single precision) the result stays what it is there, so that no infinity tells of an
                overflow; below the smallest normal number it is 0."""
            ),
            Trap("It changes the arithmetic, by two units in the last place at most."),
        ),
    ),
    Entry(
        "share_factors",
        when="""For particle operators whose Green's function has several entries, or a gradient: its components differ
            in a factor `d0`, `d1` or `d2` only. Without leave to be careless about rounding, compilers compute what is
            common once only if products begin with it. One entry alone gains by the test for coinciding points, which
            leaves the sum. All CPU books have it.""",
        recipe=examples.share_factors,
        operator="p2p",
        greens="Laplace with its gradient",
        look="The test is done once for a pair, and all products begin alike.",
        keep=("t", "r2", "rinv", "u0", "u1"),
        new=("rinv = ((r2 > 0.0)", "rinv * q0 * d0;"),
        root="t",
        traps=(
            Trap(
                """The test moves only if each term surely vanishes with `rinv`: it has that factor and calls no
                function. So [polynomial_exp](polynomial_exp.md) comes before."""
            ),
            Trap("It changes the order of factors, and so the last bits of results."),
        ),
    ),
    Entry(
        "lane_vectors",
        when="""For particle operators, after [lane_arrays](lane_arrays.md) and all that changes the arithmetic, where
            the compiler makes less of loops over arrays than it could, as PoCL's do. The books of PoCL end with it.
            With Intel's compiler it is a third as fast as arrays.""",
        recipe=examples.lane_vectors,
        operator="p2p",
        look="Points, sums and all that belongs to a pair are vectors now; only the function is called lane by lane.",
        keep=("x0", "d0", "r2", "rinv", "u0"),
        new=("u0 = u0 +", "rinv.s0 ="),
        root="stile",
        traps=(
            Trap(
                "The number of lanes is the width of a vector, best of the bytes of a register or two.",
                examples.vectors_of_twelve,
                sign="expected the width of a vector",
            ),
            Trap(
                """What loopy cannot write for vectors, such as calls and powers, is done lane by lane; compilers make
                vectors of that again if the function is inline and has no branches."""
            ),
        ),
    ),
)
