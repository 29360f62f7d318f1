"""Mistakes in M2M, L2L, dense M2L and check -> equivalent: small matrices times the vectors of many boxes."""

from __future__ import annotations

import loopy as lp
import numpy as np

from corpus.entries import ANY_RUN, DENSE, Wrong, wrong
from corpus.mistakes import (
    Edit,
    Kernel,
    add_in_place_of_storing,
    at_most,
    bounds,
    everywhere,
    guard,
    in_dtype,
    lanes,
    outside,
    read_before,
    rewrite,
    rule,
    store_in_place_of_adding,
    then,
    unchecked,
    with_dependency,
    without_dependency,
)
from fmmloopy.recipes import fix_lanes

COUNT = {"m2m": "nparents", "l2l": "nparents", "check_to_equivalent": "ntargets"}
LIST = {"m2m": "parents", "l2l": "parents", "check_to_equivalent": "boxes"}
TRANSPOSED = ("j, itile, i]", "itile*ilanes + i, j // ilanes, j % ilanes]")


def _tails() -> list[Wrong]:
    found = []
    for operator in ("m2m", "l2l", "check_to_equivalent"):
        found += [
            wrong(operator, "lost tail", "exact", "last tile of boxes lost",
                  "the last boxes of every level are left out",
                  bounds(("btile < btiles", "btile < btiles - 1"))),
            wrong(operator, "off by one", "exact", "tiles of boxes overlap",
                  "boxes at the seams are done twice, the last ones never",
                  rule("entry", ("blanes*btile", "(blanes - 1)*btile"))),
            wrong(operator, "false assumption", "exact", "count of tiles taken for even",
                  "levels with an odd number of tiles lose the last",
                  bounds(("btile < btiles", "btile < 2*floor(btiles/2)"))),
        ]  # fmt: skip
    for operator in DENSE:
        found += [
            wrong(operator, "swapped indices", "exact", "matrix transposed",
                  "right for symmetric functions of symmetric surfaces only",
                  rewrite("sum", TRANSPOSED)),
            wrong(operator, "single precision", "exact", "sums in single precision",
                  "seven digits where sixteen are asked for",
                  in_dtype(np.float32, "u")),
            wrong(operator, "dropped dependency", "static", "sum may run before its initialisation",
                  "loopy is free to clear the sums afterwards",
                  without_dependency("sum", "init")),
        ]  # fmt: skip
    found += [
        wrong("m2m", "lost tail", "exact", "last column lost",
              "the last density of every child is left out",
              bounds(("j < ncolumns", "j < ncolumns - 1"))),
        wrong("l2l", "lost tail", "exact", "last octant lost",
              "one child in eight gets no local expansion",
              bounds(("c <= 7", "c <= 6"))),
        wrong("m2l", "lost tail", "exact", "last rows lost",
              "the last tile of check points keeps potential 0",
              bounds(("itile < itiles", "itile < itiles - 1"))),
        wrong("m2l", "lost tail", "exact", "last list entry lost",
              "one box of every V list does not act",
              rewrite("list_end", ("]", "] - 1"))),
        wrong("m2m", "lost first", "exact", "first octant lost",
              "one child in eight is not in its parent's multipole",
              bounds(("0 <= c", "1 <= c"))),
        wrong("check_to_equivalent", "lost first", "exact", "first column lost",
              "the first check point counts for nothing",
              bounds(("0 <= j", "1 <= j"))),
        wrong("l2l", "lost first", "exact", "boxes one off",
              "the first parent of every level is left out",
              rule("entry", ("blanes*btile +", "blanes*btile + 1 +"))),
        wrong("m2l", "lost first", "exact", "first list entry lost",
              "one box of every V list does not act",
              rewrite("list_start", ("]", "] + 1"))),
    ]  # fmt: skip
    return found


def _indices() -> list[Wrong]:
    return [
        wrong("m2m", "wrong direction", "exact", "octants mirrored in the table",
              "children sit in the opposite corners",
              rewrite("sum", ("c, j", "7 - c, j"))),
        wrong("l2l", "wrong direction", "exact", "octants with x and z exchanged",
              "six children of eight sit in wrong corners",
              rewrite("sum", ("c, j", "4*(c % 2) + 2*((c // 2) % 2) + c // 4, j"))),
        wrong("m2m", "wrong direction", "exact", "next octant's child",
              "children act from their siblings' places",
              rewrite("src", (", c]", ", (c + 1) % 8]"))),
        wrong("l2l", "wrong direction", "exact", "stored at the next octant's child",
              "children get their siblings' expansions",
              then(everywhere("store", (", c]", ", (c + 1) % 8]")),
                   guard("store", "entry(b) < nparents and children[src[b], (c + 1) % 8] < nboxes"))),
        wrong("m2l", "wrong direction", "exact", "transfer vector of the next entry",
              "boxes act from their neighbours' places",
              rewrite("transfer", ("]", "+ 1]"))),
        wrong("m2l", "wrong direction", "exact", "transfer vector reversed",
              "right for even functions of symmetric surfaces only",
              rewrite("transfer", ("transfers[ilist]", "342 - transfers[ilist]"))),
        wrong("m2l", "first entry only", "exact", "transfer vector of the first entry",
              "all of the V list acts from one place",
              then(rewrite("transfer", ("ilist", "list_start")), with_dependency("transfer", "list_start"))),
        wrong("m2l", "wrong list", "exact", "list by position and not by box",
              "right only where all boxes are worked on, in their order",
              then(rewrite("list_start", ("box]", "ibox]")), rewrite("list_end", ("box + 1]", "ibox + 1]")))),
        wrong("m2m", "wrong level", "exact", "matrices of the first level",
              "right for homogeneous functions",
              rewrite("sum", ("itable", "0"))),
        wrong("l2l", "wrong level", "exact", "matrices of another level",
              "right for homogeneous functions",
              rewrite("sum", ("itable", "1 - itable"))),
        wrong("check_to_equivalent", "wrong level", "exact", "matrices of the first level",
              "right for homogeneous functions",
              rewrite("sum", ("itable", "0"))),
        wrong("m2l", "wrong level", "exact", "matrices of the first level",
              "right for homogeneous functions",
              rewrite("sum", ("itable", "0"))),
        wrong("m2l", "lost scaling", "exact", "scaling of the level lost",
              "right at one level only",
              rewrite("store", ("scales[box]*", ""))),
        wrong("m2l", "lost scaling", "exact", "scaling of the first box",
              "right at one level only",
              rewrite("store", ("scales[box]", "scales[0]"))),
        wrong("check_to_equivalent", "lost scaling", "exact", "scaling of the level lost",
              "right at one level only",
              rewrite("store", ("scales[src[b]]*", ""))),
        wrong("check_to_equivalent", "lost scaling", "exact", "scaling by position and not by box",
              "right only where all boxes are worked on, in their order",
              rewrite("store", ("scales[src[b]]", "scales[entry(b)]"))),
        wrong("m2m", "wrong box", "exact", "child of the first lane for all lanes",
              "parents get the children of another parent",
              rewrite("x", ("src[b]", "src[0]"))),
        wrong("check_to_equivalent", "wrong box", "exact", "check potentials of the first lane",
              "boxes get the densities of another box",
              rewrite("x", ("src[b]", "src[0]"))),
        wrong("l2l", "wrong box", "exact", "position taken for the box",
              "right only where all boxes are worked on, in their order",
              rewrite("src", ("parents[entry(b)]", "entry(b)"))),
    ]  # fmt: skip


def _stores() -> list[Wrong]:
    return [
        wrong("m2m", "check switched off", "static", "order of statements not checked",
              "loopy is free to store sums that are not done, and does not say so",
              then(without_dependency("store", "sum"), unchecked("enforce_variable_access_ordered"))),
        wrong("m2m", "store instead of add", "exact", "added to what was there",
              "a second evaluation adds to the first",
              add_in_place_of_storing("store")),
        wrong("check_to_equivalent", "store instead of add", "exact", "added to what was there",
              "a second evaluation adds to the first",
              add_in_place_of_storing("store")),
        wrong("l2l", "store instead of add", "exact", "store in place of adding",
              "what M2L and P2L have added is lost",
              store_in_place_of_adding("store")),
        wrong("m2l", "store instead of add", "exact", "store in place of adding",
              "what P2L has added is lost",
              store_in_place_of_adding("store")),
        wrong("l2l", "store without guard", "exact", "missing children written",
              "the row of zeros that stands for missing boxes fills with numbers",
              guard("store", "entry(b) < nparents")),
        wrong("check_to_equivalent", "store without guard", "exact", "store without guard",
              "idle lanes write the row of zeros that stands for missing boxes",
              guard("store")),
        wrong("check_to_equivalent", "store without guard", "exact", "guard one too far",
              "the row of zeros that stands for missing boxes is written",
              guard("store", "entry(b) <= ntargets")),
        wrong("m2m", "store without guard", "exact", "guard one short",
              "the last parent of every level gets no multipole",
              guard("store", "entry(b) < nparents - 1")),
        wrong("m2m", "full tile", "exact", "tile lost where lanes divide the count",
              "levels of 4, 8, ... parents lose their last tile",
              guard("store", "b < nparents % blanes or btile < btiles - 1"), schedule=lanes(blanes=4, ilanes=2)),
        wrong("m2m", "half of the lanes", "exact", "upper lanes not stored",
              "one parent in three gets no multipole",
              guard("store", "({}) and b < blanes - 1")),
        wrong("m2l", "half of the lanes", "exact", "odd rows not stored",
              "every other check point keeps potential 0",
              guard("store", "i % 2 == 0")),
        wrong("l2l", "carried sums", "exact", "sums not cleared between octants",
              "every child contains its elder siblings' expansions",
              outside("init", "c")),
        wrong("m2m", "carried sums", "exact", "sums not cleared between tiles of rows",
              "every tile of rows contains those before",
              outside("init", "itile")),
        wrong("check_to_equivalent", "carried sums", "exact", "sums not cleared between boxes",
              "every box contains those before",
              outside("init", "btile")),
        wrong("m2l", "carried sums", "exact", "sums not cleared between tiles of rows",
              "every tile of rows contains those before",
              outside("init", "itile")),
        wrong("check_to_equivalent", "uninitialized", "exact", "last lane not cleared",
              "one box of each tile starts from what was in memory",
              guard("init", "b < blanes - 1"), also=ANY_RUN),
        wrong("m2m", "only some orders", "exact", "at most 32 columns",
              "orders from 4 on lose densities",
              bounds(("j < ncolumns", "j < ncolumns and j < 64")), level="full"),
        wrong("check_to_equivalent", "only some orders", "hostile", "at most 128 columns",
              "orders from 6 on lose check points",
              bounds(("j < ncolumns", "j < ncolumns and j < 128"))),
        wrong("l2l", "only some orders", "hostile", "at most 128 columns",
              "orders from 6 on lose densities",
              bounds(("j < ncolumns", "j < ncolumns and j < 128"))),
        wrong("m2l", "long list", "hostile", "at most 128 list entries",
              "long V lists, which have up to 189 entries, are cut off",
              at_most("list_end", "list_start + 128", "list_start")),
        wrong("m2m", "small integers", "hostile", "box in 8 bits",
              "boxes beyond the first 256 are taken for others",
              in_dtype(np.uint8, "src")),
        wrong("check_to_equivalent", "small integers", "hostile", "box in 8 bits",
              "boxes beyond the first 256 are taken for others",
              in_dtype(np.uint8, "src")),
        wrong("m2l", "small integers", "exact", "transfer vector in 8 bits",
              "vectors beyond the first 256 are taken for others",
              in_dtype(np.uint8, "transfer")),
        wrong("check_to_equivalent", "only one precision", "exact", "row lost in single precision",
              "right in double precision",
              _last_row_lost_in_float32, dtype=np.float32),
        *(
            wrong(operator, "read out of bounds", "sanitized", "the box before is read ahead of the test",
                  "a fault where memory begins, right elsewhere",
                  read_before(f"{LIST[operator]}[entry(0) - 1]", "src", "nboxes", "b"), also=ANY_RUN)
            for operator in COUNT
        ),
        wrong("m2l", "read out of bounds", "sanitized", "the list entry before is read ahead of the test",
              "a fault where memory begins, right elsewhere",
              read_before("lists[ilist - 1]", "src", "nboxes"), also=ANY_RUN),
        *(
            wrong(operator, "race with right answers", "sanitized", "last box done again by idle work-items",
                  "all write the same, which the standard does not allow",
                  _clamped(operator), schedule=_box_per_work_item)
            for operator in ("m2m", "check_to_equivalent")
        ),
        wrong("l2l", "race", "exact", "last box done again by idle work-items",
              "children of the last parent get its expansion several times",
              then(_clamped("l2l"), guard("store", "children[src[b], c] < nboxes")), schedule=_box_per_work_item),
    ]  # fmt: skip


def _last_row_lost_in_float32(knl: Kernel) -> Kernel:
    table = knl.default_entrypoint.arg_dict["table"]
    return guard("store", "({}) and i < ilanes - 1")(knl) if table.dtype.itemsize == 4 else knl


def _clamped(operator: str) -> Edit:
    """Let idle lanes work on the last box, in place of a guard."""
    count = COUNT[operator]
    clamped = f"(blanes*btile + b_ if blanes*btile + b_ < {count} else {count} - 1)"
    return then(rule("entry", ("blanes*btile + b_", clamped)), guard("store"))


def _box_per_work_item(knl: Kernel) -> Kernel:
    """Give each box of a tile a work-item."""
    knl = fix_lanes(knl, blanes=3, ilanes=2)
    knl = lp.unprivatize_temporaries_with_inames(knl, {"b"}, {"src", "u"})
    for phase in ("init", "store"):
        knl = lp.duplicate_inames(knl, "i", within=f"id:{phase}", new_inames=[f"i_{phase}"])
    return lp.add_inames_for_unused_hw_axes(lp.tag_inames(knl, {"b": "l.0", "btile": "g.0"}))


ENTRIES: tuple[Wrong, ...] = (*_tails(), *_indices(), *_stores())
