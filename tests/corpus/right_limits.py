"""Right recipes that look as if they were cut off, narrowed or made for some inputs only, and are not."""

from __future__ import annotations

from collections.abc import Callable

import loopy as lp
import numpy as np

from corpus.entries import SCHEDULES, Right, right
from corpus.mistakes import (
    Edit,
    Kernel,
    assign,
    at_most,
    guard,
    has,
    in_dtype,
    lanes,
    one_group_per,
    pair_test,
    rewrite,
    then,
    with_dependency,
    work_items,
)

BOTH = (np.float64, np.float32)


def _columns(condition: Callable[[int], bool]) -> Callable[[Kernel], bool]:
    """Return whether a condition holds for the length of the loop over source components."""
    return lambda knl: condition(int(str(knl.default_entrypoint.get_constant_iname_length("col"))))


def _reversed(iname: str, last: str) -> Edit:
    return lambda knl: lp.affine_map_inames(knl, iname, f"{iname}_back", f"{iname}_back = {last} - {iname}")


def _chosen(condition: Callable[[Kernel], bool], yes: Edit, no: Edit) -> Edit:
    """Schedule kernels in one of two ways."""
    return lambda knl: yes(knl) if condition(knl) else no(knl)


def _particles() -> list[Right]:
    in_tiles = lanes(tlanes=4, slanes=3)
    size = "(src_end - src_start)"
    return [
        right("p2p", "numbers in 64 bits", in_dtype(np.int64, "box", "srcbox", "list_start", "list_end"), in_tiles),
        right("p2p", "numbers in 32 bits without a sign", in_dtype(np.uint32, "box", "srcbox"), in_tiles),
        right("p2p", "as many sources as the array has", at_most("src_end", "nsources"), in_tiles),
        right("p2p", "more lanes for several sums", _chosen(has("u1"), lanes(tlanes=2, slanes=5), in_tiles)),
        right("p2p", "other lanes for roots", _chosen(has("rinv"), lanes(tlanes=8), in_tiles), dtypes=BOTH),
        right("p2p", "sources from the end of their count",
              then(rewrite("src_start", ("box_source_starts[srcbox]",
                                         "box_source_ends[srcbox] - (box_source_ends[srcbox] - "
                                         "box_source_starts[srcbox])"))), in_tiles),
        right("p2p", "pairs apart where they are not together", pair_test(("r2 > 0", "r2 != 0")),
              lanes(tlanes=5)),
        right("p2p", "pairs that are not at most together",
              pair_test(("r2 > 0", "not (r2 <= 0)")), lanes(tlanes=3), dtypes=BOTH),
        right("p2m", "as many entries as the list has places", at_most("list_end", "list_starts[nboxes]"), in_tiles),
        right("p2m", "numbers in 64 bits", in_dtype(np.int64, "box", "src_start", "src_end", "stiles"), in_tiles),
        right("p2m", "check points up to the most there can be", at_most("tgt_end", "1352"), in_tiles),
        right("p2m", "boxes without sources left out by their count",
              assign("stiles", "({0} if src_end > src_start else 0)"), in_tiles),
        right("p2l", "a guard that always holds", guard("store*", "({}) and ibox < ntarget_boxes"), in_tiles),
        right("p2l", "boxes taken modulo their number", rewrite("srcbox", ("lists[ilist]", "lists[ilist] % nboxes")),
              in_tiles),
        right("p2l", "list read backwards",
              then(rewrite("srcbox", ("lists[ilist]", "lists[list_end - 1 - (ilist - list_start)]")),
                   with_dependency("srcbox", "list_start", "list_end")), in_tiles),
        right("l2p", "targets up to the end of the array", guard("store*", "({}) and itgt(t) < ntargets"), in_tiles),
        right("l2p", "densities up to the padded number", at_most("src_end", "nsurface"), lanes(tlanes=5, slanes=2)),
        right("l2p", "work-items for functions with roots, lanes for others",
              _chosen(has("rinv"), work_items(8), lanes(tlanes=4))),
        right("m2p", "numbers in 64 bits", in_dtype(np.int64, "srcbox", "box"), in_tiles, dtypes=BOTH),
        right("m2p", "tiles counted by the remainder",
              assign("stiles", f"{size}//slanes + (1 if {size} % slanes > 0 else 0)"), in_tiles),
        right("m2p", "lists of small boxes first, by their length",
              at_most("list_end", "list_start + (list_starts[box + 1] - list_starts[box])", "list_start", "box"),
              in_tiles),
    ]  # fmt: skip


def _dense() -> list[Right]:
    found = [
        right(operator, "numbers in 64 bits", in_dtype(np.int64, "src"), SCHEDULES[operator])
        for operator in ("m2m", "l2l", "check_to_equivalent", "m2l", "m2l_svd")
    ]
    found += [
        right(operator, "columns behind a guard that holds", guard("sum", "j < ncolumns"), SCHEDULES[operator])
        for operator in ("m2m", "l2l", "check_to_equivalent", "m2l")
    ]
    found += [
        right("m2m", "table by a number that is in range", rewrite("sum", ("[itable,", "[itable % ntables,")),
              lanes(blanes=5, ilanes=4)),
        right("l2l", "parents behind two guards", guard("store", "({}) and entry(b) < blanes*btiles"),
              lanes(blanes=3, ilanes=2), dtypes=BOTH),
        right("check_to_equivalent", "boxes behind a guard that holds", guard("store", "({}) and src[b] < nboxes"),
              lanes(blanes=2, ilanes=8)),
        right("m2l", "lists of at most 189 entries", at_most("list_end", "list_start + 189", "list_start"),
              lanes(ilanes=4)),
        right("m2l", "boxes of another work-group size",
              lanes(ilanes=8), lambda k: lp.split_iname(k, "ibox", 3), one_group_per("ibox_outer")),
        right("m2l_svd", "singular values backwards",
              then(lambda k: lp.affine_map_inames(k, "ktile", "back", "back = ktile_end - 1 - ktile + ktile_start"),
                   with_dependency("sum_w", "ktile_start", "ktile_end"),
                   with_dependency("sum_u", "ktile_start", "ktile_end")), lanes(blanes=3, ilanes=4)),
        right("m2l_svd", "bounds in 64 bits", in_dtype(np.int64, "pair_start", "ktile_start", "ktile_end"),
              lanes(blanes=4, ilanes=2)),
    ]  # fmt: skip
    return found


def _transforms() -> list[Right]:
    return [
        right("m2l_forward", "children in 64 bits", in_dtype(np.int64, "child")),
        right("m2l_forward", "octets behind a guard that holds", guard("store3?", "octet < noctets")),
        right("m2l_forward", "octets backwards", _reversed("octet", "noctets - 1"), dtypes=BOTH),
        right("m2l_inverse", "children in 64 bits", in_dtype(np.int64, "child")),
        right("m2l_inverse", "octets backwards", _reversed("octet", "noctets - 1")),
        right("m2l_hadamard", "chunks backwards", lanes(blanes=3), _reversed("chunk", "nchunks - 1")),
        right("m2l_hadamard", "pairs in 64 bits", in_dtype(np.int64, "pair_start", "pair_end"), lanes(blanes=4),
              dtypes=BOTH),
        right("m2l_hadamard", "blocks by the number of components",
              _chosen(_columns(lambda count: count > 1), lanes(blanes=2), lanes(blanes=5))),
    ]  # fmt: skip


ENTRIES: tuple[Right, ...] = (*_particles(), *_dense(), *_transforms())
