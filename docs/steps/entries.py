"""The text of the page of each step, and which part of its example's code the page shows.

An example is a recipe that calls its step once. The page shows the kernel before and after that call.
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
    """A mistake that is easy to make.

    Attributes:
        text: what to do, or to avoid.
        recipe: one that makes the mistake; its error is shown.
        operator: what it is applied to; the entry's if empty.
        keep, root: if the mistake gives wrong code and no error, the excerpt of it to show.
        sign: text that the error, or the code shown, must contain; if it does not, the page is out of date.
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
        when: on which devices the step pays, and why.
        recipe: the example.
        operator, greens, dtype: what it is applied to.
        look: what to see in the code.
        new: what the code shown has only after the step; otherwise the page is out of date.
        keep, root: variables and loops to show, outermost loop to show; see :func:`excerpt.excerpt`.
        mathematics: show mathematics: before this step the kernel has no code, or the code does not show the change.
        diff: show one text with the changed lines marked instead of two texts.
        inserted: functions that the step adds before the kernel, to show.
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
MUTUAL_POINTS = ("ttile", "p0", "y0", "rinv", "u0", "v0", "potentials")
PAIR = ("d0", "d1", "d2", "r2", "rinv", "u0")

ENTRIES = (
    Entry(
        "fix_lanes",
        when="""Everywhere, once. An operator leaves the widths of its tiles open, and code can be generated only when
            they are fixed. [lane_arrays](lane_arrays.md), [work_items](work_items.md) and
            [dense_blocks](dense_blocks.md) call it themselves; call it directly if a recipe is made of smaller steps.
            Width 1 is the plain loop. The best width depends on the length of a device's vectors, so make it a keyword
            of the recipe, and list values to try in the book's `tuning`.""",
        recipe=examples.fix_lanes,
        operator="p2p",
        look="The parts that change, as mathematics: `tlanes` becomes 8, and `slanes` becomes 1.",
        keep=("u0", "itgt", "isrc", "ttiles", "ttile", "stiles", "stile", "s", "t"),
        new=("u0[8]", "for 0 <= t <= 7", "for s = 0", "ttiles = (tgt_end - tgt_start + 7) // 8"),
        mathematics=True,
        diff=True,
        traps=(
            Trap(
                "The lane parameters are called `tlanes` and `slanes`, or `blanes` and `ilanes`.",
                examples.misnamed_lanes,
                sign="this operator has tlanes, slanes",
            ),
            Trap(
                "Each is fixed once. Steps that take a number of lanes call `fix_lanes` themselves.",
                examples.lanes_fixed_twice,
                sign="lanes are fixed once",
            ),
            Trap(
                """Loopy's own `fix_parameters` does not record the width, but the number of tiles in a launch depends
                on it.""",
                examples.lanes_by_loopy,
                operator="m2m",
                sign="ilanes was not fixed by fix_lanes",
            ),
            Trap(
                "Idle lanes read padding, which has a fixed size. `ilanes` must divide 16.",
                examples.too_many_lanes,
                sign="expected 1 to 64",
            ),
            Trap("The kernel is not complete yet: [separate_lanes](separate_lanes.md) must follow."),
        ),
    ),
    Entry(
        "separate_lanes",
        when="""Everywhere, after [fix_lanes](fix_lanes.md): a tile has loads, initializations and stores outside the
            loops over sources or columns, and loopy cannot put the statements of one loop in several places.
            [lane_arrays](lane_arrays.md) and [dense_blocks](dense_blocks.md) call it themselves;
            [work_items](work_items.md) does not need it, because its lanes are not a loop.""",
        recipe=examples.fix_lanes,
        operator="p2p",
        look="""Before, the loop over `t` would have to be in three places. After, each place has its own loop, and `t`
            remains for the sums. The kernel is shown as mathematics, because there is no code before the step.""",
        keep=("u0", "x0", "y0", "d0", "t", "potentials", "stile"),
        new=("for 0 <= t_init <= 7", "for 0 <= t_load <= 7", "for 0 <= t_store <= 7"),
        root="ttile",
        mathematics=True,
        traps=(
            Trap(
                "Without it, loopy finds no order of the loops:",
                examples.lanes_not_separated,
                sign="does not have a schedulable iname nesting",
            ),
            Trap(
                """It makes loops but does not order them, so loopy chooses an order. If the order matters, call
                `lp.prioritize_loops` next. Here `b` should be inside `j`, so that boxes share each load of `table`:""",
                examples.loops_not_ordered,
                operator="m2m",
                keep=("x", "u"),
                root="b",
                sign="for (int j = 0",
            ),
            Trap("The new loops, such as `t_load`, `t_init` and `t_store`, are not `t`: if you tag `t`, tag them too."),
        ),
    ),
    Entry(
        "lane_arrays",
        when="""For particle operators (P2P, P2M, P2L, L2P, M2P), with compilers that vectorize a short innermost loop
            over arrays, such as PoCL's. One target at a time leaves all but one lane of a vector register idle and
            loads every source again; here a source is loaded once for a tile. PoCL 3.1 vectorizes square roots and
            divisions too. PoCL 3.0 calls `sqrt` once per lane, so [newton_rsqrt](newton_rsqrt.md) must follow there.
            [lane_vectors](lane_vectors.md) can make the result faster still. Intel's compiler does better with
            [work_items](work_items.md).""",
        recipe=examples.lane_arrays,
        operator="p2p",
        look="""Before, there is one target at a time. After, there are eight, and the loop over them, `t`, is
            innermost.""",
        keep=POINTS,
        new=("for (int t = 0; t <= 7; ++t)", "u0[t]"),
        root="ttile",
        traps=(
            Trap(
                """The last tile of a box has idle lanes, which cost as much as the others. So more lanes are not always
                faster, least of all if boxes have few targets."""
            ),
            Trap(
                """Only operators with tiles of targets have `tlanes`. For dense operators see
                [dense_blocks](dense_blocks.md).""",
                examples.lanes_of_dense,
                operator="m2m",
                sign="this operator has blanes, ilanes",
            ),
            Trap(
                "A tile has at most 64 lanes, because idle lanes may read that far past the end of an array.",
                examples.too_many_lanes,
                sign="expected 1 to 64",
            ),
        ),
    ),
    Entry(
        "mutual_tiles",
        when="""For mutual P2P, with the compilers that [lane_arrays](lane_arrays.md) suits. Each pair of points adds to
            the sums of both. Those of a lane are in registers, those of a tile of the other box in an array over its
            points and the lanes, which is read and written for each pair, and should fit into the first-level cache.
            Follow with [one_group_per](one_group_per.md), with `iunit`, and [lane_vectors](lane_vectors.md).""",
        recipe=examples.mutual_tiles,
        operator="p2p_mutual",
        look="""Before, there is one point of each box. After, `s` runs over the points of a tile of one box, and the
            innermost loop over eight points of the other.""",
        keep=MUTUAL_POINTS,
        new=("v0[8 * s + t]", "for (int t = 0; t <= 7; ++t)"),
        root="stile",
        traps=(
            Trap(
                """Larger tiles have fewer sums over lanes, of which there is one for each point of a tile and each pair
                of boxes, but more sums in cache."""
            ),
        ),
    ),
    Entry(
        "order_axes",
        when="""Where neighbouring work-items, or lanes, run over an axis that is not the fastest in memory: on a GPU, a
            warp that reads neighbouring numbers takes one transaction, and one that reads every eighth takes eight. In
            M2L's FFT form, spectra are [frequency][octet][sibling], which suits vectors of eight siblings; work-items
            that have an octet each want [frequency][sibling][octet].""",
        recipe=examples.order_axes,
        operator="m2l_hadamard",
        look="""Before, the eight siblings of an octet are next to each other. After, the octets are, and siblings are
            `nsource_octets + 1` numbers apart.""",
        keep=("xr",),
        new=("src[b] + (nsource_octets + 1) * j",),
        traps=(
            Trap(
                """Operators that share an array need the same order: M2L's three stages share its spectra. An
                evaluation with recipes that differ raises an error that names both orders."""
            ),
            Trap(
                """Only arguments whose record names their axes may be ordered: who writes the others does not know of
                the order.""",
                examples.order_of_lists,
                operator="m2l",
                sign="may be in another order",
            ),
        ),
    ),
    Entry(
        "work_items",
        when="""For particle operators, with compilers that vectorize across work-items, such as Intel's: the work-items
            of a group become the lanes of vector instructions, also for square roots and divisions. In double precision
            these two are slow in hardware: see [newton_rsqrt](newton_rsqrt.md). PoCL's compilers do not vectorize
            work-items unless they are allowed to change the rounding. On a GPU only work-items run in parallel, so
            start from this form there.""",
        recipe=examples.work_items,
        operator="p2p",
        dtype="float32",
        look="""Before, there is one target at a time. After, each work-item has one target of a tile, and its number in
            the work-group, `lid(0)`, replaces `t`.""",
        keep=POINTS,
        new=("x0 = targets[8 * ttile + lid(0) + tgt_start]", "d0 = x0 +"),
        root="ttile",
        traps=(
            Trap(
                "Use either short arrays or work-items: both use the lanes of the targets.",
                examples.arrays_and_work_items,
                sign="lanes are fixed once",
            ),
            Trap("One work-group still does all boxes: call [one_group_per](one_group_per.md) next, with `ibox`."),
            Trap("Idle work-items of the last tile of a box do everything that the others do, except the store."),
        ),
    ),
    Entry(
        "one_group_per",
        when="""On every device with more than one core: it distributes work-groups to them. The step takes loops whose
            iterations write to different places, and whose bounds are known before the launch: `ibox` of particle
            operators and of dense M2L; `itile` and `bchunk` after [dense_blocks](dense_blocks.md); `octet`, or `f` and
            `chunk`, of M2L by FFT; `chunk` of compressed M2L. Two loops use two axes of the launch.""",
        recipe=examples.one_group_per,
        operator="m2m",
        look="""The loops over `itile` and `bchunk` are gone: `gid(0)` and `gid(1)`, the number of the work-group on
            each axis, replace them.""",
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
                "Each loop needs its own axis: name all loops in one call.",
                examples.group_twice,
                sign="has multiple inames tagged 'g.0'",
            ),
            Trap(
                """Never use a loop that a sum runs over. There is no error, and the work-groups overwrite each other's
                results; `fmmloopy check` finds this. Here the loop is `j`, over the columns:""",
                examples.group_per_term,
                keep=("x", "u", "result"),
                root="bchunk",
                sign="src[0] + gid(0)]",
            ),
        ),
    ),
    Entry(
        "vector_lanes",
        when="""If the code should state its vectors rather than let the compiler find them. The shipped books do this
            for dense products on all CPUs, which consist of multiplications and additions only. A vector holds a tile
            of rows or, in M2L by FFT, the eight siblings of an octet. For particle operators there is
            [lane_vectors](lane_vectors.md).""",
        recipe=examples.vector_lanes,
        operator="m2l",
        look="""Rows of `table`, `u` and `result` become vectors of eight, `double8`, and the loops over `i` disappear.
            The arguments and declarations that change are shown above the code.""",
        keep=("table", "result", "u", "j"),
        new=("double8 const *__restrict__ table", "double8 *__restrict__ result", "double8 u;", "u = u + table["),
        traps=(
            Trap(
                "Every loop over the lanes needs the tag, including those made by [separate_lanes](separate_lanes.md).",
                examples.copy_forgotten,
                sign="'i_init'",
            ),
            Trap(
                """Every array that has these lanes as its last axis must be named. If one is missing, loopy warns the
                first time, `Vectorization of ... failed`, and goes on. The code is then written lane by lane and uses a
                loop variable that no longer exists, so no device compiles it.""",
                examples.array_forgotten,
                keep=("u", "result"),
                root="itile",
                sign="u[i_store]",
            ),
            Trap(
                """A condition on the lane itself cannot be a vector. Loopy gives the same warning; the condition uses a
                loop variable that no longer exists, here `t_store`, so no device compiles it. Also, `sqrt` is called
                once per lane.""",
                examples.masked_vectors,
                operator="p2p",
                keep=("rinv", "u0", "potentials"),
                root="ttile",
                sign="+ t_store < tgt_end",
            ),
            Trap("OpenCL's vectors have 2, 3, 4, 8 or 16 numbers, so `ilanes` must be 2, 4, 8 or 16."),
        ),
    ),
    Entry(
        "dense_blocks",
        when="""For M2M, L2L and check → equivalent on CPUs: small matrices, each times the vectors of many boxes. With
            one box at a time, an entry of the matrix is loaded for each multiplication; here `boxes` boxes share each
            load. `rows` numbers make a vector, preferably of 64 bytes, and `chunk` blocks of boxes use a slice of the
            matrix one after the other while it is in cache. Tune `boxes` and `chunk`.""",
        recipe=examples.dense_blocks,
        operator="check_to_equivalent",
        look="""Before, there is one box and one row at a time. After, there are four boxes, `u[0]` to `u[3]`, times
            eight rows, `double8`. The loops over `itile` and `bchunk` are for [one_group_per](one_group_per.md). In M2M
            and L2L the loop over octants goes outside the loop over blocks.""",
        keep=("bchunk", "btile", "btile_inner", "itile", "j", "x", "u", "table", "equivalent"),
        new=("double8 u[4]", "u[3] = u[3] + table["),
        traps=(
            Trap(
                """In dense M2L each entry of a list has its own matrix, so there are no `blanes`; use
                [vector_lanes](vector_lanes.md).""",
                examples.blocks_of_m2l,
                operator="m2l",
                sign="no lane parameter 'blanes'",
            ),
            Trap(
                "The vectors of a surface are padded to a multiple of 16, and `rows` must divide 16.",
                examples.three_rows,
                sign="expected one of (1, 2, 4, 8, 16)",
            ),
            Trap("The larger `chunk` is, the fewer work-groups there are for the cores."),
        ),
    ),
    Entry(
        "unroll",
        when="""For the block of a product, on CPUs: in the unrolled loop each sum is a separate variable and can stay
            in a register. Also for loads and stores of single lanes of a vector (`j_load`, `i_store` of M2L by
            FFT).""",
        recipe=examples.unroll,
        operator="m2l_hadamard",
        look="`b` counts pairs of octets, which share the loads of `Kr`. Imaginary parts are omitted.",
        keep=("b_src", "b_init", "b", "src", "xr", "ur"),
        new=("ur[0] = ur[0] +", "ur[1] = ur[1] +"),
        root="ptile",
        traps=(
            Trap(
                "Only loops of fixed length can be unrolled: lanes, not tiles.",
                examples.unroll_tiles,
                operator="p2p",
                sign="only loops of fixed length",
            ),
            Trap(
                """Everything inside the loop is repeated, including inner loops. First put the loop in its place with
                `lp.prioritize_loops`."""
            ),
            Trap("The code gets longer, and takes longer to generate and to compile."),
        ),
    ),
    Entry(
        "newton_rsqrt",
        when="""If the compiler does not vectorize `sqrt`, such as that of PoCL 3.0, which calls it once per lane; and
            if square roots and divisions are slow in hardware, as they are in double precision. It follows
            [lane_arrays](lane_arrays.md) or [work_items](work_items.md). Newton's iteration, started from the exponent
            bits, needs only multiplications, additions and shifts. PoCL 3.1 vectorizes square roots itself: there,
            [halve_rsqrt](halve_rsqrt.md) uses both ways.""",
        recipe=examples.newton_rsqrt,
        operator="p2p",
        look="One statement changes, and a function is added before the kernel, here the one for double precision.",
        keep=PAIR,
        new=("fmmloopy_rsqrt_f64(r2)",),
        root="t",
        inserted=("fmmloopy_rsqrt_f64",),
        traps=(
            Trap(
                """It changes the arithmetic, by at most two units in the last place, so results are no longer identical
                to those of the sequential kernel. Make it one of the last steps."""
            ),
            Trap("It replaces only quotients by `sqrt(...)`, such as `1/sqrt(r2)` in particle operators."),
            Trap("For 0 it gives a large number, not infinity; operators ignore pairs at distance zero."),
        ),
    ),
    Entry(
        "replace_function",
        when="""If you know a faster way to compute `rsqrt`, `exp` or another function on your device than the compiler
            and the other steps do. You write it in the device's language, and say what it stands for. A
            [check](../certified.md#functions-of-your-own) runs it over the whole range of its argument, and then
            kernels with it are proved like others.""",
        recipe=examples.replace_function,
        operator="p2p",
        look="One statement changes, and the function is added before the kernel, here the one for double precision.",
        keep=PAIR,
        new=("my_rsqrt_f64(r2)",),
        root="t",
        inserted=("my_rsqrt_f64",),
        traps=(
            Trap(
                """A recipe is for all Green's functions, and a kernel without the function is returned as the same
                object: yield a step only if it is a different one."""
            ),
            Trap(
                """The function must be right everywhere, not only for the numbers that you have in mind. A root that
                passes through single precision, `native_rsqrt((float) x)`, is wrong in double precision for numbers
                above 3e38 and below 1e-38, which the check finds."""
            ),
            Trap("Branches, and functions of the library, keep compilers from vectorizing its calls."),
        ),
    ),
    Entry(
        "halve_rsqrt",
        when="""If processor and compiler vectorize `sqrt`, and the unit for roots and divisions can work in parallel
            with the units that multiply and add: in double precision, with one sum for each target. The
            [measurements](../measurements/index.md#pocl31_cpu) show the gain over roots alone and over
            [newton_rsqrt](newton_rsqrt.md). In single precision one of those two has always been faster.""",
        recipe=examples.halve_rsqrt,
        operator="p2p",
        look="""One statement changes. [lane_vectors](lane_vectors.md), which comes next, writes it lane by lane, so
            that the compiler knows the value of `t < 2` in each.""",
        keep=PAIR,
        new=("(t < 2) ? ", "fmmloopy_rsqrt_f64(r2) : 1.0 / sqrt(r2)"),
        root="stile",
        traps=(
            Trap(
                "Fix the lanes first; their number must be even.",
                examples.halve_one_lane,
                operator="p2p",
                sign="expected an even number",
            ),
            Trap(
                """Without [lane_vectors](lane_vectors.md) the choice stays inside the loop over lanes, and compilers
                may compute both ways for every lane."""
            ),
        ),
    ),
    Entry(
        "builtin_rsqrt",
        when="""If the runtime's library has a fast vectorized `rsqrt`, as Intel's has for work-items on processors with
            AVX-512: use the keyword `roots="builtin"` of `simd_cpu`. Without AVX-512, P2P is 1.7 times as fast with
            `1/sqrt` or [newton_rsqrt](newton_rsqrt.md) in double precision, and 1.5 times with `1/sqrt` in single
            precision. PoCL computes it as `1/sqrt`.""",
        recipe=examples.builtin_rsqrt,
        operator="p2p",
        look="One statement changes.",
        keep=PAIR,
        new=("rsqrt(r2)",),
        root="stile",
        traps=(
            Trap("C has no such function, so a book with this step is for OpenCL devices only."),
            Trap(
                """It changes the arithmetic, by at most two units in the last place. For 0 it gives infinity, like
                `1/sqrt`."""
            ),
        ),
    ),
    Entry(
        "polynomial_exp",
        when="""For Green's functions with `exp`, such as Yukawa's, if the compiler calls the library function once per
            lane; the books for PoCL use it. A polynomial, and a shift for the power of two, can be vectorized like any
            other arithmetic.""",
        recipe=examples.polynomial_exp,
        operator="p2p",
        greens="Yukawa",
        look="""Statements for the polynomial are added before the sum, and a function for the power of two before the
            kernel, here the one for double precision.""",
        keep=(*PAIR, "r", "exp0", "exp0_argument", "exp0_rounded", "exp0_whole", "exp0_rest", "exp0_scale"),
        new=("exp0_scale = fmmloopy_power_f64(", "exp0_rest ="),
        root="t",
        inserted=("fmmloopy_power_f64",),
        traps=(
            Trap(
                """A recipe is for all Green's functions, and a kernel without `exp` is returned as the same object:
                yield a step only if it is a different one, as above."""
            ),
            Trap(
                """Above 709 (88 in single precision) the result stays at its value there, so an overflow does not give
                infinity. Results below the smallest normal number are 0."""
            ),
            Trap("It changes the arithmetic, by two units in the last place at most."),
        ),
    ),
    Entry(
        "polynomial_sin_cos",
        when="""For Green's functions with `sin` and `cos`, such as Helmholtz', if the compiler calls the library
            functions once per lane; the books for PoCL use it. The reduction to a quarter of a turn, by rounding, and
            two polynomials can be vectorized like any other arithmetic, and sine and cosine of the same argument share
            them.""",
        recipe=examples.polynomial_sin_cos,
        operator="p2p",
        greens="Helmholtz",
        look="""Statements for the argument's quarter, its rest and the polynomials are added before the sums. `odd` and
            `sign` say which of them, with which sign, are the sine and the cosine.""",
        keep=("u0", "angle0_argument", "angle0_rest", "angle0_odd", "angle0_sign", "angle0_sin", "angle0_cos"),
        new=("angle0_cos = ", "angle0_rest ="),
        root="t",
        traps=(
            Trap(
                """A recipe is for all Green's functions, and a kernel without `sin` and `cos` is returned as the same
                object: yield a step only if it is a different one, as above."""
            ),
            Trap(
                """Above 1e6 (1e4 in single precision) the reduction rounds the argument once more, and an argument
                above 2^51 (2^22) counts as 0."""
            ),
            Trap("It changes the arithmetic, by two units in the last place at most."),
        ),
    ),
    Entry(
        "share_factors",
        when="""For particle operators whose Green's function has several entries, or a gradient: the components differ
            only in a factor `d0`, `d1` or `d2`. Compilers may not reorder products, so they compute a common factor
            once only if all products begin with it. Functions with one entry gain too, because the test for coinciding
            points moves out of the sum. All CPU books use it.""",
        recipe=examples.share_factors,
        operator="p2p",
        greens="Laplace with its gradient",
        look="The test is done once for each pair, and all products begin with the same factors.",
        keep=("t", "r2", "rinv", "u0", "u1"),
        new=("rinv = ((r2 > 0.0)", "rinv * q0 * d0;"),
        root="t",
        traps=(
            Trap(
                """The test moves only if each term is certain to vanish with `rinv`: it has that factor and calls no
                function. So call [polynomial_exp](polynomial_exp.md) first."""
            ),
            Trap("It changes the order of factors, and with it the last bits of results."),
        ),
    ),
    Entry(
        "lane_vectors",
        when="""For particle operators, after [lane_arrays](lane_arrays.md) and all steps that change the arithmetic, if
            the compiler does not vectorize loops over arrays well, such as PoCL's. The recipes for PoCL end with it.
            With Intel's compiler it is a third as fast as arrays.""",
        recipe=examples.lane_vectors,
        operator="p2p",
        look="Points, sums and all values of a pair are vectors now; only the function is called lane by lane.",
        keep=("x0", "d0", "r2", "rinv", "u0"),
        new=("u0 = u0 +", "rinv.s0 ="),
        root="stile",
        traps=(
            Trap(
                "The number of lanes must be the width of a vector, preferably of one or two registers.",
                examples.vectors_of_twelve,
                sign="expected the width of a vector",
            ),
            Trap(
                """Loopy cannot write calls and powers for vectors, so they are done lane by lane. Compilers vectorize
                them again if the function is inline and has no branches."""
            ),
        ),
    ),
)
