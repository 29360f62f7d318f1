"""Right recipes that look unlike the shipped ones: the checker must have nothing to say about them."""

from __future__ import annotations

import loopy as lp
import numpy as np

from corpus.arithmetic import exp, rsqrt
from corpus.entries import Right, right
from corpus.mistakes import (
    Edit,
    Kernel,
    bounds,
    in_dtype,
    lanes,
    one_group_per,
    outside,
    rewrite,
    rule,
    staged,
    statement,
    work_items,
)
from fmmloopy.recipes import fix_lanes

BOTH = (np.float64, np.float32)


def _tagged(**tags: str) -> Edit:
    return lambda knl: lp.tag_inames(knl, tags)


def _order(names: str) -> Edit:
    return lambda knl: lp.prioritize_loops(knl, names)


def _split(iname: str, length: int, **names: str) -> Edit:
    return lambda knl: lp.split_iname(knl, iname, length, **names)


def _renamed(**names: str) -> Edit:
    def edit(knl: Kernel) -> Kernel:
        for old, new in names.items():
            knl = lp.rename_iname(knl, old, new)
        return knl

    return edit


def _reversed(iname: str, last: str) -> Edit:
    """Run a loop backwards."""
    return lambda knl: lp.affine_map_inames(knl, iname, f"{iname}_back", f"{iname}_back = {last} - {iname}")


def _assume(text: str) -> Edit:
    return lambda knl: lp.assume(knl, text)


def _staged_charges(count: int) -> Edit:
    """Copy tiles of charges to local memory, beside the points."""

    def edit(knl: Kernel) -> Kernel:
        knl = staged(count)(knl)
        knl = lp.precompute(
            knl,
            "charge",
            sweep_inames=["s"],
            precompute_inames=["gk", "gs"],
            precompute_outer_inames=frozenset({"ibox", "ttile", "ilist", "stile"}),
            temporary_name="charge_tile",
            temporary_address_space=lp.AddressSpace.LOCAL,
            default_tag=None,
            compute_insn_id="fetch_charges",
        )
        return lp.tag_inames(knl, {"gs": "l.0"})

    return edit


def _private_tile(knl: Kernel) -> Kernel:
    """Copy tiles of sources to an array of a work-item's own."""
    knl = lanes(tlanes=4, slanes=5)(knl)
    knl = lp.precompute(
        knl,
        "source",
        sweep_inames=["s"],
        precompute_inames=["fk", "fs"],
        precompute_outer_inames=frozenset({"ibox", "ttile", "ilist", "stile"}),
        temporary_name="tile",
        temporary_address_space=lp.AddressSpace.PRIVATE,
        default_tag=None,
        compute_insn_id="fetch",
    )
    return lp.tag_inames(knl, {"fk": "unr"})


def _box_per_work_item(count: int) -> Edit:
    """Give each box of a dense product a work-item, the rows a loop."""

    def edit(knl: Kernel) -> Kernel:
        knl = fix_lanes(knl, blanes=count, ilanes=2)
        knl = lp.unprivatize_temporaries_with_inames(knl, {"b"}, {"src", "u"})
        for phase in ("init", "store"):
            knl = lp.duplicate_inames(knl, "i", within=f"id:{phase}", new_inames=[f"i_{phase}"])
        return lp.add_inames_for_unused_hw_axes(lp.tag_inames(knl, {"b": "l.0", "btile": "g.0"}))

    return edit


def _row_per_work_item(knl: Kernel) -> Kernel:
    """Give each row of a tile a work-item."""
    knl = fix_lanes(knl, ilanes=8, **({"blanes": 1} if "btile" in knl.default_entrypoint.all_inames() else {}))
    knl = lp.unprivatize_temporaries_with_inames(knl, {"i"}, {"u"})
    outer = "btile" if "btile" in knl.default_entrypoint.all_inames() else "ibox"
    return lp.add_inames_for_unused_hw_axes(lp.tag_inames(knl, {"i": "l.0", "itile": "g.0", outer: "g.1"}))


def _particles() -> list[Right]:
    return [
        right("p2p", "five lanes", lanes(tlanes=5), dtypes=BOTH),
        right("p2p", "sources in tiles of seven", lanes(slanes=7)),
        right("p2p", "as many lanes as there may be", lanes(tlanes=64, slanes=64)),
        right("p2p", "source points in local memory", staged(16), dtypes=BOTH),
        right("p2p", "source points and charges in local memory", _staged_charges(8)),
        right("p2p", "source points in a private tile", _private_tile),
        right("p2p", "work-items of an odd number", work_items(13)),
        right("p2p", "Newton and exp in work-items", work_items(4), rsqrt("rsqrt_right"), exp("exp_right"),
              dtypes=BOTH),
        right("p2p", "more Newton steps than needed", lanes(tlanes=4), rsqrt("rsqrt_generous"), exp("exp_generous"),
              dtypes=BOTH),
        right("p2p", "list of sources backwards", lanes(tlanes=4, slanes=4), _reversed("s", "3")),
        right("p2p", "two boxes in a work-group", lanes(tlanes=4), _split("ibox", 2), one_group_per("ibox_outer")),
        right("p2p", "boxes as work-items", lanes(tlanes=2), _split("ibox", 4, outer_iname="group", inner_iname="item"),
              _tagged(group="g.0", item="l.0"), lp.add_inames_for_unused_hw_axes),
        right("p2p", "loops renamed", _renamed(ilist="neighbour", stile="block"), lanes(tlanes=4, slanes=2)),
        right("p2p", "tile loop split", lanes(tlanes=2), _split("stile", 4)),
        right("p2m", "one lane", lanes()),
        right("p2m", "lanes unrolled", lanes(tlanes=6), _tagged(t="unr", t_load="unr")),
        right("p2m", "source points in local memory", staged(8)),
        right("p2m", "work-items for sources in tiles", work_items(9, 3), dtypes=BOTH),
        right("p2m", "boxes reversed", lanes(tlanes=4), _reversed("ibox", "ntarget_boxes - 1")),
        right("p2l", "both in tiles", lanes(tlanes=3, slanes=4)),
        right("p2l", "source loop unrolled", lanes(tlanes=4, slanes=8), _tagged(s="unr"), dtypes=BOTH),
        right("p2l", "radius read once a box", rule("target", ("radius_factor*radii[box]", "scale")),
              statement("scale = radius_factor*radii[box]", like="box", name="scale", dep=("box",), before="x?"),
              lanes(tlanes=2, slanes=2), dtypes=BOTH),
        right("p2l", "one group for each box", lanes(tlanes=32), one_group_per("ibox"),
              _order("ttile,ilist,stile,s,t")),
        right("p2p_mutual", "tiles of odd numbers", lanes(tlanes=5, slanes=7)),
        right("p2p_mutual", "one point of a box at a time", lanes(tlanes=1, slanes=64)),
        right("l2p", "targets in lanes of an odd number", lanes(tlanes=11), dtypes=BOTH),
        right("l2p", "surface in local memory", staged(4)),
        right("l2p", "targets stored backwards", lanes(tlanes=4), _reversed("t_store", "3")),
        right("l2p", "work-items, Newton", work_items(32), rsqrt("rsqrt_right")),
        right("m2p", "both in tiles", lanes(tlanes=3, slanes=4)),
        right("m2p", "work-items with tiles of sources", work_items(7, 5)),
        right("m2p", "an assumption that holds", lanes(tlanes=1, slanes=2), _assume("ntarget_boxes >= 1")),
        right("m2p", "sources unrolled in two, lanes innermost", lanes(tlanes=8, slanes=2), _tagged(s="unr"),
              _order("ttile,ilist,stile,t")),
    ]  # fmt: skip


def _dense() -> list[Right]:
    return [
        right("m2m", "blocks of three", lanes(blanes=3, ilanes=2), dtypes=BOTH),
        right("m2m", "rows as work-items", _row_per_work_item),
        right("m2m", "boxes as work-items", _box_per_work_item(5)),
        right("m2m", "octants backwards", lanes(blanes=2, ilanes=4), _reversed("c", "7")),
        right("m2m", "octants unrolled", lanes(blanes=1, ilanes=16), _tagged(c="unr")),
        right("m2m", "columns split", lanes(blanes=3, ilanes=4), _split("j", 5), _order("c,j_outer,j_inner,b")),
        right("m2m", "chunks of tiles as work-groups", lanes(blanes=4, ilanes=2),
              _split("btile", 3, outer_iname="chunk"), one_group_per("chunk", "itile")),
        right("l2l", "tiles rounded up to an even count", bounds(("btile < btiles", "btile < 2*floor((btiles + 1)/2)")),
              lanes(blanes=3, ilanes=2)),
        right("l2l", "rows in sixteens", lanes(ilanes=16), dtypes=BOTH),
        right("l2l", "octants and rows renamed", lanes(blanes=2, ilanes=8), _renamed(c="octant", j="column")),
        right("l2l", "rows as work-items", _row_per_work_item),
        right("l2l", "octants as work-groups", lanes(blanes=5, ilanes=2), one_group_per("c", "btile")),
        right("m2l", "rows in sixteens", lanes(ilanes=16), dtypes=BOTH),
        right("m2l", "rows as work-items", _row_per_work_item),
        right("m2l", "columns backwards", lanes(ilanes=4), _reversed("j", "ncolumns - 1")),
        right("m2l", "columns split and unrolled", lanes(ilanes=2), _split("j", 4, inner_tag="unr")),
        right("m2l_svd", "blocks of five pairs", lanes(blanes=5, ilanes=2), dtypes=BOTH),
        right("m2l_svd", "transfer vectors backwards", lanes(blanes=2, ilanes=4), _reversed("transfer", "342")),
        right("m2l_svd", "singular values unrolled", lanes(blanes=1, ilanes=16),
              _tagged(k="unr", k_init="unr", k_store="unr", m="unr")),
        right("m2l_svd", "two chunks in a work-group", lanes(blanes=3, ilanes=8), _split("chunk", 2),
              one_group_per("chunk_outer")),
        right("check_to_equivalent", "blocks of seven", lanes(blanes=7, ilanes=8), dtypes=BOTH),
        right("check_to_equivalent", "boxes as work-items", _box_per_work_item(6)),
        right("check_to_equivalent", "rows before boxes", lanes(blanes=4, ilanes=4), _order("itile,btile,j,b,i")),
        right("check_to_equivalent", "rows unrolled", lanes(blanes=2, ilanes=8), _tagged(i="unr", i_init="unr",
              i_store="unr")),
        right("check_to_equivalent", "sums in double precision", lanes(blanes=2, ilanes=8), in_dtype(np.float64, "u"),
              dtypes=BOTH),
    ]  # fmt: skip


def _transforms() -> list[Right]:
    return [
        right("m2l_forward", "grid cleared once an octet", outside("zero", "comp")),
        right("m2l_forward", "siblings unrolled", _tagged(j1="unr", j2="unr", j3="unr"), dtypes=BOTH),
        right("m2l_forward", "octets in pairs", _split("octet", 2), one_group_per("octet_outer")),
        right("m2l_forward", "one sibling in vectors of the last stage", one_group_per("octet"), _tagged(x3="unr")),
        right("m2l_hadamard", "blocks of five pairs", lanes(blanes=5), dtypes=BOTH),
        right("m2l_hadamard", "frequencies as work-items", lanes(blanes=2), _split("f", 4),
              _tagged(f_outer="g.0", f_inner="l.0"), lp.add_inames_for_unused_hw_axes),
        right("m2l_hadamard", "directions backwards", lanes(blanes=3), _reversed("d", "25")),
        right("m2l_hadamard", "children unrolled", lanes(blanes=1), _tagged(j="unr", i="unr")),
        right("m2l_inverse", "siblings unrolled", _tagged(i1="unr", i2="unr", i3="unr"), dtypes=BOTH),
        right("m2l_inverse", "weights applied with the last stage", rewrite("store2?", ("plane_weights[kz]*", "")),
              rewrite("sum", ("*dft_r[sz, kz]", "*(plane_weights[kz]*dft_r[sz, kz])"),
                      ("*dft_i[sz, kz]", "*(plane_weights[kz]*dft_i[sz, kz])"))),
        right("m2l_inverse", "octets and components as work-groups", one_group_per("octet", "comp")),
        right("m2l_inverse", "surface points split", _split("s", 5), _split("s_store", 3)),
    ]  # fmt: skip


ENTRIES: tuple[Right, ...] = (*_particles(), *_dense(), *_transforms())
