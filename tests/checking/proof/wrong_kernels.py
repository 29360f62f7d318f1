"""Wrong kernels, each made from a right one by one mistake; finite tests accept some of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import islpy as isl
import loopy as lp
import numpy as np
from corpus.mistakes import (
    Edit,
    add_in_place_of_storing,
    assign,
    at_most,
    bounds,
    change,
    guard,
    in_dtype,
    one_group_per,
    outside,
    rewrite,
    rule,
    staged,
    statement,
    store_in_place_of_adding,
    then,
    unchecked,
    with_dependency,
    without_dependency,
    work_items,
)
from corpus.mistakes import lanes as with_lanes
from loopy.symbolic import TypeCast

from fmmloopy.greens import GreensFunction, laplace, yukawa
from fmmloopy.kernels import helmholtz, plummer, stokeslet
from fmmloopy.operators import OPERATORS, Specification
from fmmloopy.precision import FLOAT32, FLOAT64, MIXED, Types
from fmmloopy.recipes import SEQUENTIAL, apply_recipe, fix_lanes
from fmmloopy.transforms import gpu_steps, steps
from fmmloopy.transforms.inline import INLINE, InlineFunction

Kernel = Any

LAPLACE = laplace()


@dataclass(frozen=True)
class Made:
    """A way to make a kernel.

    Attributes:
        edit: makes it from a math-level kernel.
        operator, greens, types: of that kernel.
    """

    edit: Edit
    operator: str = "p2p"
    greens: GreensFunction = LAPLACE
    types: Types = FLOAT64

    def kernels(self) -> tuple[Kernel, Kernel]:
        """Return the sequential kernel, and the one that is made."""
        specification = Specification(OPERATORS[self.operator], self.greens, 3, self.types)
        return _sequential(specification), self.edit(specification.kernel())


@cache
def _sequential(specification: Specification) -> Kernel:
    return apply_recipe(SEQUENTIAL, specification.operator.name, specification.kernel())[-1].kernel


def lane8(knl: Kernel) -> Kernel:
    return steps.lane_arrays(knl, 8)


def dense(knl: Kernel) -> Kernel:
    return steps.dense_blocks(knl, boxes=6, rows=8, chunk=32)


def mutual(*edits: Edit) -> Edit:
    """Make mistakes in mutual P2P before scheduling."""
    return then(*edits, lambda knl: steps.mutual_tiles(knl, 8, 4))


def mutual_items(*edits: Edit) -> Edit:
    """Make mistakes before the points of one box become work-items."""
    return then(*edits, lambda knl: gpu_steps.on_all_items(gpu_steps.mutual_items(knl, 8, 16), {"l.0": "t"}))


def in_blocks(knl: Kernel) -> Kernel:
    """Let each work-item store the sums of neighbouring points of the other box, which are others' in the first box."""
    knl = fix_lanes(knl, tlanes=8, slanes=16)
    shared = gpu_steps.arrays_over(knl, "t_clear")
    knl = lp.unprivatize_temporaries_with_inames(knl, {"t"}, gpu_steps.arrays_over(knl, "t") - shared)
    knl = lp.rename_iname(knl, "t_clear", "t", existing_ok=True)
    knl = lp.split_iname(knl, "s_back", 2, outer_iname="s_item", outer_tag="l.0")
    knl = lp.set_temporary_address_space(knl, ",".join(sorted(shared)), "local")
    return gpu_steps.on_all_items(lp.tag_inames(knl, {"t": "l.0", "iunit": "g.0"}), {"l.0": "t"})


def early(*edits: Edit) -> Edit:
    """Make mistakes before scheduling."""
    return then(*edits, lane8)


def late(*edits: Edit) -> Edit:
    """Make mistakes after scheduling."""
    return then(lane8, *edits)


# -- mistakes beyond those of the corpus


def again(statement_id: str, expression: Any = None) -> Edit:
    """Run a statement twice, or then with another expression."""

    def edit(knl: Kernel) -> Kernel:
        kernel = knl.default_entrypoint
        old = next(i for i in kernel.instructions if i.id == statement_id)
        new = old.copy(id=f"{statement_id}_again", depends_on=old.depends_on | {statement_id})
        if expression is not None:
            new = new.copy(expression=expression)
        others = [
            i.copy(depends_on=i.depends_on | {new.id}) if statement_id in i.depends_on and i is not old else i
            for i in kernel.instructions
        ]
        return knl.with_kernel(kernel.copy(instructions=[*others, new]))

    return edit


def without(statement_id: str) -> Edit:
    """Leave a statement out."""

    def edit(knl: Kernel) -> Kernel:
        kernel = knl.default_entrypoint
        others = [i.copy(depends_on=i.depends_on - {statement_id}) for i in kernel.instructions if i.id != statement_id]
        return knl.with_kernel(kernel.copy(instructions=others))

    return edit


def cast(pattern: str, dtype: Any) -> Edit:
    """Convert what statements compute on the way."""
    return change(pattern, lambda i: i.copy(expression=TypeCast(np.dtype(dtype), i.expression)))


def own_function(name: str, old: str, new: str) -> Edit:
    """Register another source for a function of the package."""

    def edit(knl: Kernel) -> Kernel:
        function = InlineFunction(name, INLINE[name].replace(old, new))
        assert function.source != INLINE[name]
        return lp.register_callable(knl, name, function, redefining_not_ok=False)

    return edit


def variable(name: str, **changes: Any) -> Edit:
    """Change a temporary variable."""

    def edit(knl: Kernel) -> Kernel:
        kernel = knl.default_entrypoint
        changed = kernel.temporary_variables[name].copy(**changes)
        return knl.with_kernel(kernel.copy(temporary_variables={**kernel.temporary_variables, name: changed}))

    return edit


def more_domains(*texts: str) -> Edit:
    """Add loops."""

    def edit(knl: Kernel) -> Kernel:
        kernel = knl.default_entrypoint
        return knl.with_kernel(kernel.copy(domains=[*kernel.domains, *map(isl.BasicSet, texts)]))

    return edit


def inside(pattern: str, *inames: str) -> Edit:
    """Take statements into loops."""
    return change(pattern, lambda i: i.copy(within_inames=i.within_inames | set(inames)))


def tagged(**tags: str) -> Edit:
    return lambda knl: lp.tag_inames(knl, tags)


def shorter_tile(knl: Kernel) -> Kernel:
    """Copy all but the last source of a tile."""
    kernel = knl.default_entrypoint
    texts = [str(domain).replace("fs <= 7", "fs <= 6") for domain in kernel.domains]
    return knl.with_kernel(kernel.copy(domains=[isl.BasicSet(text) for text in texts]))


def renamed(**names: str) -> Edit:
    """Give statements the ids of others."""

    def edit(knl: Kernel) -> Kernel:
        kernel = knl.default_entrypoint
        instructions = [
            i.copy(id=names.get(i.id, i.id), depends_on=frozenset(names.get(one, one) for one in i.depends_on))
            for i in kernel.instructions
        ]
        return knl.with_kernel(kernel.copy(instructions=instructions))

    return edit


def promise(*pairs: str) -> Edit:
    return change(pairs[0], lambda i: i.copy(no_sync_with=i.no_sync_with | {(pairs[1], "any")}))


stale_scale = then(
    statement("factor = scaling", like="box", name="factor", before="*store*"),
    rewrite("store*", ("scaling", "factor")),
    statement("factor = 0.0", like="ttiles", name="spoilt", dep=("factor", "store0")),
    inside("spoilt", "ttile"),
)
"""Every tile of targets but the first gets nothing: a variable is overwritten after it was read."""

twice_by_data = then(
    more_domains("{[rep]: 0 <= rep < 2}"), inside("store*", "rep"), guard("store*", "{} and rep == lists[rep] % 2")
)
"""Stores none, one or two times, as two loads say; if they were one load, it would be once."""

WRONG: Mapping[str, Made] = {
    "tile guard dropped": Made(early(guard("store*"))),
    "guard with <=": Made(early(guard("store*", "itgt(t) <= tgt_end"))),
    "last targets lost": Made(early(rewrite("ttiles", (" + tlanes + -1", "")))),
    "last sources lost": Made(then(rewrite("stiles", (" + slanes + -1", "")), with_lanes(tlanes=4, slanes=3))),
    "charges of idle lanes": Made(
        then(rule("charge", (" if isrc(s_) < src_end else 0", "")), with_lanes(tlanes=4, slanes=3))
    ),
    "at most 512 sources": Made(early(at_most("src_end", "src_start + 512", "src_start"))),
    "boxes of 513 sources skipped": Made(early(assign("stiles", "{} if src_end - src_start < 513 else 0"))),
    "at most 64 targets": Made(early(at_most("tgt_end", "tgt_start + 64", "tgt_start"))),
    "targets bounded like sources": Made(
        early(
            rewrite("tgt_start", ("box_target_starts", "box_source_starts")),
            rewrite("tgt_end", ("box_target_ends", "box_source_ends")),
        )
    ),
    "sources bounded like targets": Made(
        early(
            rewrite("src_start", ("box_source_starts", "box_target_starts")),
            rewrite("src_end", ("box_source_ends", "box_target_ends")),
        )
    ),
    "list of at most 100": Made(early(at_most("list_end", "list_start + 100", "list_start"))),
    "near pairs dropped": Made(early(rewrite("sum*", ("r2 > 0", "r2 > 1e-20")))),
    "far pairs dropped": Made(early(rewrite("sum*", ("r2 > 0", "r2 > 0 and r2 < 1e20")))),
    "softened": Made(early(assign("rinv", "1/sqrt(r2 + 1e-30)"))),
    "roots in float32": Made(early(in_dtype(np.float32, "rinv"))),
    "roots through float32": Made(early(cast("rinv", np.float32))),
    "charges in float32": Made(early(in_dtype(np.float32, "q0"))),
    "sums in float32": Made(early(in_dtype(np.float32, "u0"))),
    "boxes in int16": Made(early(in_dtype(np.int16, "box"))),
    "boxes in uint8": Made(early(in_dtype(np.uint8, "srcbox"))),
    "bounds in uint32": Made(early(in_dtype(np.uint32, "src_start"))),
    "boxes modulo 65536": Made(early(assign("box", "{} % 65536"))),
    "bounds through int16": Made(early(cast("src_start", np.int16))),
    "boxes through float32": Made(early(cast("box", np.float32))),
    "boxes shifted out of 32 bits": Made(early(assign("box", "({}*65536) // 65536"))),
    "last source of a box counts": Made(
        late(lambda k: lp.duplicate_inames(k, "stile", within="id:y0", new_inames=["stile_y"]))
    ),
    "targets of the last tile": Made(
        late(lambda k: lp.duplicate_inames(k, "ttile", within="id:x0", new_inames=["ttile_x"]))
    ),
    "added twice": Made(late(again("sum0"))),
    "stored twice": Made(late(again("store0"))),
    "twice the scaling": Made(early(rewrite("store*", ("scaling*", "2*scaling*")))),
    "not cleared": Made(early(without("init0"))),
    "not cleared between tiles": Made(early(outside("init*", "ttile"))),
    "cleared for every list entry": Made(early(inside("init*", "ilist"))),
    "last lane not cleared": Made(early(guard("init*", "t < tlanes - 1"))),
    "tile too short": Made(then(staged(8), shorter_tile)),
    "tile without an order": Made(then(staged(8), without_dependency("y*", "fetch"))),
    "tile without a barrier": Made(then(staged(8), promise("y0", "fetch"))),
    "list entries as work-groups": Made(late(tagged(ilist="g.1", ibox="g.0"))),
    "sources as work-items": Made(
        then(with_lanes(slanes=8), lambda k: lp.tag_inames(k, {"s": "l.0"}), lp.add_inames_for_unused_hw_axes)
    ),
    "another coefficient": Made(late(steps.newton_rsqrt, own_function("fmmloopy_rsqrt", "0.375)", "0.374)"))),
    "two axes mixed up": Made(early(rewrite("r2", ("d1*d1", "d1*d0")))),
    "masked by a factor": Made(
        early(rewrite("sum*", ("G_0_0*q0 if r2 > 0 else 0", "G_0_0*q0*(1 if r2 > 0 else 0)")))
    ),
    "the next charge": Made(early(rule("charge", ("charges[c_, ", "charges[c_ + 1, ")))),
    "stored in place of added": Made(early(store_in_place_of_adding("store*"))),
    "a factor that is one modulo 2^61 - 1": Made(early(rewrite("store*", ("scaling*", f"{2**61}*scaling*")))),
    "a real factor that is one modulo 2^61 - 1": Made(early(rewrite("store*", ("scaling*", f"{2.0**61!r}*scaling*")))),
    "the sign lost under a root": Made(
        early(rewrite("store*", ("scaling*", "sqrt(scaling*scaling)*")))
    ),
    "a difference expanded": Made(
        early(assign("r2", "x0[t]*x0[t] - 2*x0[t]*y0 + y0*y0 + d1*d1 + d2*d2"), with_dependency("r2", "x0", "y0"))
    ),
    "a difference of squares for a square": Made(
        early(assign("r2", "d0*x0[t] - d0*y0 + d1*d1 + d2*d2"), with_dependency("r2", "x0", "y0"))
    ),
    "overwritten after the read": Made(early(stale_scale)),
    "stored as often as data say": Made(early(twice_by_data)),
    "assumes full tiles": Made(late(lambda k: lp.assume(k, isl.BasicSet("[ntargets] -> { : ntargets mod 8 = 0 }")))),
    "assumes one box": Made(late(lambda k: lp.assume(k, "ntarget_boxes = 1"))),
    "array too short": Made(late(variable("u0", shape=(7,)))),
    "array of stride zero": Made(late(variable("u0", dim_tags="stride:0", shape=(8,)))),
    "a check of loopy switched off": Made(late(unchecked("enforce_variable_access_ordered"))),
    "more lanes than padding": Made(with_lanes(tlanes=65)),
    "output by columns": Made(late(lambda k: lp.tag_array_axes(k, "potentials", "N0,N1"))),
    "infinite constant": Made(early(rewrite("store*", ("scaling*", "1e999*scaling*")))),
    "mixed: total in float32": Made(early(in_dtype(np.float32, "total0")), types=MIXED),
    "mixed: remainder added too early": Made(early(assign("d0", "(x0[t] + e0) - y0")), types=MIXED),
    "mixed: centre subtracted too late": Made(
        early(rule("target", ("unit*(targets[k_, itgt(t_)] + (-1)*centres[k_, srcbox])",
                              "(unit*targets[k_, itgt(t_)] + (-1)*unit*centres[k_, srcbox])"))),
        types=MIXED,
    ),
    "mixed: remainder left out": Made(early(assign("d0", "x0[t] - y0")), types=MIXED),
    "gradient of the potential's scale": Made(
        early(rewrite("store1", ("scaling*", "scaling*scaling*"))), greens=laplace().with_gradient()
    ),
    "gradient in another row": Made(
        early(rewrite("store2", ("u2", "u1"))), greens=laplace().with_gradient()
    ),
    "decay forgotten": Made(early(rule("G_0_0", ("exp(", "exp(0.5*"))), greens=yukawa()),
    "signs of sine and cosine lost": Made(
        late(steps.polynomial_sin_cos, assign("angle0_sign", "1.0")), greens=helmholtz(1.0)
    ),
    "sine of three quarters of a turn": Made(
        late(steps.polynomial_sin_cos, assign("angle0_turns_rounded", "angle0_halves + 6755399441055744.0")),
        greens=helmholtz(1.0),
    ),
    "sine without a power": Made(
        late(steps.polynomial_sin_cos, assign("angle0_square", "angle0_rest*angle0_argument")), greens=helmholtz(1.0)
    ),
    "m2m: guard dropped": Made(then(guard("store*"), dense), "m2m"),
    "m2m: guard with <=": Made(then(guard("store*", "entry(b) <= nparents"), dense), "m2m"),
    "m2m: boxes below 32768": Made(
        then(guard("store*", "entry(b) < nparents and parents[entry(b)] < 32768"), dense), "m2m"
    ),
    "m2m: seven children": Made(then(bounds(("c <= 7", "c <= 6")), dense), "m2m"),
    "m2m: last column lost": Made(then(bounds(("j < ncolumns", "j < ncolumns - 1")), dense), "m2m"),
    "m2m: at most 512 columns": Made(then(bounds(("j < ncolumns", "j < ncolumns and j < 512")), dense), "m2m"),
    "m2m: float32": Made(then(in_dtype(np.float32, "x"), dense), "m2m"),
    "m2m: int16": Made(then(in_dtype(np.int16, "src"), dense), "m2m"),
    "m2m: the first child": Made(then(rewrite("src", (", c]", ", 0]")), dense), "m2m"),
    "m2m: octants reversed": Made(then(rewrite("sum", ("itable, c, j", "itable, 7 - c, j")), dense), "m2m"),
    "m2m: added twice": Made(then(dense, again("sum")), "m2m"),
    "m2m: not cleared": Made(then(dense, without("init")), "m2m"),
    "m2m: not cleared in tiles": Made(then(dense, outside("init", "bchunk")), "m2m"),
    "m2m: added in place of stored": Made(then(add_in_place_of_storing("store"), dense), "m2m"),
    "m2m: overwritten by zero": Made(then(dense, again("store", 0)), "m2m"),
    "m2m: octants as work-groups": Made(then(dense, tagged(c="g.0")), "m2m"),
    "l2l: children of another parent": Made(
        then(rewrite("src", ("parents[entry(b)]", "parents[entry(b) + 1]")), dense), "l2l"
    ),
    "m2l_forward: cleared once": Made(outside("zero", "octet", "comp"), "m2l_forward"),
    "m2l_forward: scattered twice along x": Made(
        change("load", lambda i: i.copy(assignee=lp.symbolic.parse(
            "grid[surface_grid[0, s], surface_grid[0, s], surface_grid[2, s], j_load]"))), "m2l_forward"
    ),
    "m2l_inverse: next point": Made(rewrite("sx", ("[0, s]", "[0, s + 1]")), "m2l_inverse"),
    "m2l_hadamard: directions as work-groups": Made(
        then(with_lanes(blanes=2), one_group_per("chunk", "f", "d")), "m2l_hadamard"
    ),
    "m2l_svd: pairs of the first chunk": Made(rewrite("pair_start", ("chunk", "0*chunk")), "m2l_svd"),
    "mutual: tail of the first box lost": Made(mutual(rewrite("ttiles", (" + tlanes + -1", ""))), "p2p_mutual"),
    "mutual: tail of the second box lost": Made(mutual(rewrite("stiles", (" + slanes + -1", ""))), "p2p_mutual"),
    "mutual: first sums dropped": Made(mutual(without("store0")), "p2p_mutual"),
    "mutual: second sums dropped": Made(mutual(without("back0")), "p2p_mutual"),
    "mutual: second sums stored to the first box": Made(
        mutual(rewrite("out_src_start", ("srcbox", "box")), with_dependency("out_src_start", "box")), "p2p_mutual"
    ),
    "mutual: first sums stored to the second box": Made(
        mutual(rewrite("out_start", ("[box]", "[srcbox]")), with_dependency("out_start", "srcbox")), "p2p_mutual"
    ),
    "mutual: second sums replace": Made(mutual(store_in_place_of_adding("back*")), "p2p_mutual"),
    "mutual: idle lanes have charges": Made(
        mutual(rule("other_charge", ("< tgt_end", "< tgt_end + tlanes"))), "p2p_mutual"
    ),
    "mutual: idle lanes read after the end": Made(mutual(rule("ireal", ("tgt_end + -1", "ntargets"))), "p2p_mutual"),
    "mutual: idle lanes read far after their box": Made(
        mutual(rule("ireal", ("tgt_end + -1", "tgt_end + 100"))), "p2p_mutual"
    ),
    "mutual: idle lanes stored": Made(mutual(guard("store*")), "p2p_mutual"),
    "mutual: second sums not cleared": Made(mutual(outside("clear0", "stile")), "p2p_mutual"),
    "mutual: second sums cleared in every tile": Made(mutual(inside("clear0", "ttile")), "p2p_mutual"),
    "mutual: second sums stored in every tile": Made(mutual(inside("back0", "ttile")), "p2p_mutual"),
    "mutual: first sums not cleared": Made(mutual(outside("init0", "ttile")), "p2p_mutual"),
    "mutual: charges of the other box": Made(
        mutual(rewrite("sum0", ("q0", "p0[t]")), with_dependency("sum0", "p0")), "p2p_mutual"
    ),
    "mutual: pairs as work-groups": Made(
        mutual(inside("pair_*", "ipair"), tagged(ipair="g.0", iunit="g.1")), "p2p_mutual"
    ),
    "mutual: sums of neighbours stored by one work-item": Made(in_blocks, "p2p_mutual"),
    "mutual: tail of the second box lost by work-items": Made(
        mutual_items(rewrite("stiles", (" + slanes + -1", ""))), "p2p_mutual"
    ),
    "mutual: second sums stored to the first box by work-items": Made(
        mutual_items(rewrite("out_src_start", ("srcbox", "box")), with_dependency("out_src_start", "box")), "p2p_mutual"
    ),
    "mutual: a promise for another statement": Made(
        then(mutual_items(), renamed(store0="save0", sum_back0="store0")), "p2p_mutual"
    ),
    "mutual: boxes in int16": Made(mutual(in_dtype(np.int16, "srcbox")), "p2p_mutual"),
    "mutual: half of the pairs of a unit": Made(
        mutual(guard("store0", "{} and ipair < pair_start + 100"), with_dependency("store0", "pair_start")),
        "p2p_mutual",
    ),
    "mutual: force without its sign": Made(
        mutual(rule("H_1_0", ("(-1)*", ""))), "p2p_mutual", greens=laplace().with_gradient()
    ),
    "mutual: mixed, sums of all tiles in float32": Made(
        mutual(outside("init0", "stile", "ttile"), outside("store0", "stile")), "p2p_mutual", types=MIXED
    ),
    "mutual: mixed, sums of the list in float32": Made(
        mutual(outside("clear0", "ipair", "stile")), "p2p_mutual", types=MIXED
    ),
    "mutual: mixed, what rounding leaves added in some lanes": Made(
        mutual(guard("x0_wide", "t < tlanes - 1")), "p2p_mutual", types=MIXED
    ),
    "mutual: mixed, what rounding leaves added twice": Made(mutual(again("x0_wide")), "p2p_mutual", types=MIXED),
    "mutual: mixed, another centre": Made(
        mutual(rewrite("x0_centre", ("[0, box]", "[0, srcbox]"))), "p2p_mutual", types=MIXED
    ),
    "mutual: mixed, roots in float16": Made(mutual(in_dtype(np.float16, "rinv")), "p2p_mutual", types=MIXED),
}  # fmt: skip
"""Wrong kernels by mistake."""

RIGHT: Mapping[str, Made] = {
    "lanes": Made(lane8),
    "sources in local memory": Made(staged(8)),
    "five targets, three sources": Made(with_lanes(tlanes=5, slanes=3)),
    "work-items": Made(work_items(13)),
    "constants collected": Made(early(rewrite("store*", ("scaling*", "2*scaling*0.5*")))),
    "a product in another order": Made(early(rewrite("sum*", ("G_0_0*q0", "q0*G_0_0")))),
    "a difference the other way round": Made(early(assign("d0", "-1*(y0 - x0[t])"))),
    "polynomials for sine and cosine": Made(late(steps.polynomial_sin_cos), greens=helmholtz(1.0)),
    "polynomials for sine and cosine in float32": Made(
        late(steps.polynomial_sin_cos), greens=helmholtz(1.0), types=FLOAT32
    ),
    "sums of differences with a common factor": Made(
        late(steps.polynomial_sin_cos, steps.share_factors), greens=helmholtz(1.0).with_gradient()
    ),
    "mutual P2P in tiles": Made(mutual(), "p2p_mutual"),
    "mutual P2P in tiles, stresses from densities": Made(mutual(), "p2p_mutual", greens=stokeslet(0.7)),
    "mutual P2P in tiles, a softened potential": Made(mutual(), "p2p_mutual", greens=plummer(0.1)),
    "mutual P2P in tiles, mixed": Made(mutual(), "p2p_mutual", types=MIXED),
    "mutual P2P, sequential tiles": Made(with_lanes(tlanes=5, slanes=3), "p2p_mutual"),
    "mutual P2P by work-items": Made(mutual_items(), "p2p_mutual"),
    "mutual P2P by work-items, mixed": Made(mutual_items(), "p2p_mutual", types=MIXED),
    "m2m in blocks": Made(dense, "m2m"),
    "m2l_forward as it is": Made(lambda k: k, "m2l_forward"),
    "m2l_inverse as it is": Made(lambda k: k, "m2l_inverse"),
}
"""Right kernels."""
