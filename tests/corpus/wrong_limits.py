"""Mistakes that show only beyond a limit: many points, boxes, entries, pairs or columns, or large numbers of them.

Recipes with a buffer of fixed length, or an index in a small type, are right until an evaluation outgrows them.
"""

from __future__ import annotations

from collections.abc import Callable

import loopy as lp
import numpy as np

from corpus.entries import Wrong, wrong
from corpus.mistakes import Edit, Kernel, assign, at_most, guard, in_dtype, rewrite, then

CUT_OFF, NARROW = "cut off beyond a limit", "small integers at large sizes"
TABLES, BOUNDS = "wrong table", "shared bounds"


def _stride(name: str, length: str) -> Edit:
    """Give the last axis of an array another length, and so its rows another stride."""

    def edit(knl: Kernel) -> Kernel:
        kernel = knl.default_entrypoint
        old = kernel.arg_dict[name]
        shape = (*old.shape[:-1], lp.symbolic.parse(length))
        new = lp.GlobalArg(name, old.dtype, shape=shape, order="C", is_input=old.is_input, is_output=old.is_output)
        return knl.with_kernel(kernel.copy(args=[new if a.name == name else a for a in kernel.args]))

    return edit


def _points() -> list[Wrong]:
    """Boxes with more points than a buffer holds."""
    found = [
        wrong(operator, CUT_OFF, "hostile", f"at most {limit} sources of a box",
              "sources beyond the buffer's end act on nobody",
              at_most("src_end", f"src_start + {limit}", "src_start"))
        for operator, limit in (("p2p", 1024), ("p2m", 300), ("p2l", 512))
    ]  # fmt: skip
    found += [
        wrong(operator, CUT_OFF, "hostile", f"at most {limit} targets of a box",
              "targets beyond the buffer's end keep potential 0",
              at_most("tgt_end", f"tgt_start + {limit}", "tgt_start"))
        for operator, limit in (("p2p", 512), ("l2p", 1000), ("m2p", 384))
    ]  # fmt: skip
    found += [
        wrong(operator, NARROW, "hostile", f"{name} in 8 bits",
              "boxes with more than 127 tiles lose points",
              in_dtype(np.int8, name))
        for operator, name in (("p2p", "stiles"), ("p2m", "stiles"), ("l2p", "ttiles"))
    ]  # fmt: skip
    return found


def _lists() -> list[Wrong]:
    """Lists with more entries than a buffer holds."""
    return [
        wrong(operator, CUT_OFF, "hostile", f"at most {limit} entries of a list",
              "long lists are cut off",
              at_most("list_end", f"list_start + {limit}", "list_start"))
        for operator, limit in (("p2p", 100), ("p2m", 81), ("p2l", 256), ("l2p", 128), ("m2p", 200))
    ]  # fmt: skip


def _work() -> list[Wrong]:
    """More boxes, octets, pairs and chunks than a launch was made for."""
    few_columns = ("m2m", 400), ("l2l", 360), ("check_to_equivalent", 384), ("m2l", 320)
    return [
        *(
            wrong(operator, CUT_OFF, "hostile", f"at most {limit} boxes",
                  "the other boxes of a level are left out",
                  guard("store", f"({{}}) and entry(b) < {limit}"))
            for operator, limit in (("m2m", 64), ("l2l", 100), ("check_to_equivalent", 256))
        ),
        wrong("m2l", CUT_OFF, "hostile", "at most 256 boxes",
              "the other boxes of a level are left out",
              guard("store", "ibox < 256")),
        wrong("p2p", CUT_OFF, "hostile", "at most 200 target boxes",
              "the other leaves keep potential 0",
              guard("store*", "({}) and ibox < 200")),
        wrong("p2l", CUT_OFF, "hostile", "at most 1000 target boxes",
              "the other boxes get no local expansion from their X lists",
              guard("store*", "({}) and ibox < 1000")),
        *(
            wrong(operator, CUT_OFF, "hostile", f"at most {limit} pairs of a group",
                  "the pairs beyond the buffer's end do not act",
                  at_most("pair_end", f"pair_start + {limit}", "pair_start"))
            for operator, limit in (("m2l_hadamard", 12), ("m2l_svd", 16))
        ),
        *(
            wrong(operator, CUT_OFF, "hostile", "at most two chunks",
                  "the targets of later chunks get nothing",
                  guard("store[!_]" if operator == "m2l_hadamard" else "store", "({}) and chunk < 2"))
            for operator in ("m2l_hadamard", "m2l_svd")
        ),
        wrong("m2l_svd", CUT_OFF, "hostile", "at most four tiles of singular values",
              "high orders lose accuracy",
              at_most("ktile_end", "ktile_start + 4", "ktile_start")),
        wrong("m2l_forward", CUT_OFF, "hostile", "at most 64 octets",
              "spectra of the other octets are those of an earlier evaluation",
              guard("store3?", "octet < 64")),
        wrong("m2l_inverse", CUT_OFF, "hostile", "at most 100 octets",
              "the children of the other octets get nothing",
              guard("store", "({}) and octet < 100")),
        *(
            wrong(operator, CUT_OFF, "hostile", f"at most {limit} columns",
                  "high orders lose densities",
                  guard("sum", f"j < {limit}"))
            for operator, limit in few_columns
        ),
        *(
            wrong(operator, CUT_OFF, "hostile", "at most 152 check points",
                  "orders from 7 on lose check points",
                  at_most("tgt_end", "152"))
            for operator in ("p2m", "p2l")
        ),
        *(
            wrong(operator, CUT_OFF, "hostile", "at most 152 equivalent points",
                  "orders from 7 on lose densities",
                  at_most("src_end", "152"))
            for operator in ("l2p", "m2p")
        ),
    ]  # fmt: skip


def _narrow() -> list[Wrong]:
    """Numbers of boxes, places and pairs in types that small evaluations fit into."""
    types = {np.uint8: "8 bits", np.int16: "15 bits", np.uint16: "16 bits"}
    choices: tuple[tuple[str, str, type], ...] = (
        ("p2p", "box", np.int16),
        ("p2p", "srcbox", np.uint16),
        ("p2p", "list_start", np.int16),
        ("p2m", "box", np.uint8),
        ("p2m", "list_end", np.uint16),
        ("p2l", "srcbox", np.int16),
        ("l2p", "box", np.uint16),
        ("m2p", "srcbox", np.int16),
        ("m2p", "tgt_start", np.uint16),
        ("m2m", "src", np.int16),
        ("l2l", "src", np.uint16),
        ("check_to_equivalent", "src", np.int16),
        ("m2l", "box", np.int16),
        ("m2l", "src", np.uint16),
        ("m2l_hadamard", "src", np.int16),
        ("m2l_hadamard", "pair_end", np.uint16),
        ("m2l_svd", "src", np.uint16),
        ("m2l_svd", "pair_start", np.int16),
        ("m2l_svd", "ktile_start", np.int16),
        ("m2l_forward", "child", np.uint16),
        ("m2l_inverse", "child", np.int16),
    )
    return [
        wrong(operator, NARROW, "hostile", f"{name} in {types[dtype]}",
              "large evaluations read and write other places",
              in_dtype(dtype, name))
        for operator, name, dtype in choices
    ]  # fmt: skip


def _tables() -> list[Wrong]:
    """Tables by level, where a test has two of them and uses the second."""
    last: Callable[[str], Edit] = lambda index: rewrite("sum", ("[itable,", f"[{index},"))  # noqa: E731
    return [
        wrong("m2m", TABLES, "hostile", "last table for all levels",
              "right for homogeneous functions, which have one table",
              last("(ntables - 1 if itable > 0 else 0)")),
        wrong("l2l", TABLES, "hostile", "second table for all levels but the first",
              "wrong from the third level on",
              last("(1 if itable > 1 else itable)")),
        wrong("m2l", TABLES, "hostile", "second table for all levels",
              "right at one level only",
              last("1")),
        wrong("check_to_equivalent", TABLES, "hostile", "tables counted from the end",
              "right where there are three levels or one",
              last("(ntables - itable if itable > 0 else 0)")),
    ]  # fmt: skip


def _bounds() -> list[Wrong]:
    """Sources and targets that are taken for the same points, or boxes for neighbours in memory."""
    swap = {"source": "target", "target": "source"}

    def of_other(statement: str, side: str) -> Edit:
        return rewrite(statement, (f"box_{side}_", f"box_{swap[side]}_"))

    before = "({0} if box < 1 else box_target_ends[box - 1])"
    return [
        wrong("p2p", BOUNDS, "hostile", "sources start where targets do",
              "right where sources and targets are the same points",
              of_other("src_start", "source")),
        wrong("p2p", BOUNDS, "hostile", "sources end where targets do",
              "right where sources and targets are the same points",
              of_other("src_end", "source")),
        wrong("p2p", BOUNDS, "hostile", "both ends of the targets are those of sources",
              "right where sources and targets are the same points",
              then(of_other("tgt_start", "target"), of_other("tgt_end", "target"))),
        wrong("p2p", BOUNDS, "hostile", "stride of the sources is that of the targets",
              "right where there are as many sources as targets",
              _stride("sources", "ntargets")),
        wrong("p2p", BOUNDS, "hostile", "stride of the potentials is that of the sources",
              "gradients go astray where there are more sources than targets",
              _stride("potentials", "nsources")),
        *(
            wrong(operator, BOUNDS, "hostile", "a box starts where the one before ends",
                  "wrong where parents and leaves are numbered together",
                  assign("tgt_start", before))
            for operator in ("p2p", "l2p", "m2p")
        ),
        wrong("p2m", BOUNDS, "hostile", "as many sources as to the next box",
              "wrong where parents and leaves are numbered together",
              assign("src_end", "({0} if srcbox + 1 >= nboxes else box_source_starts[srcbox + 1])")),
    ]  # fmt: skip


ENTRIES: tuple[Wrong, ...] = (*_points(), *_lists(), *_work(), *_narrow(), *_tables(), *_bounds())
