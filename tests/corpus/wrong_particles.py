"""Mistakes in P2P, P2M, P2L, L2P and M2P: in masks, tiles, lists, points and stores."""

from __future__ import annotations

import loopy as lp
import numpy as np

from corpus.entries import ANY_RUN, PARTICLES, Wrong, wrong
from corpus.mistakes import (
    assign,
    at_most,
    bounds,
    everywhere,
    guard,
    in_dtype,
    lanes,
    only_if,
    outside,
    pair_test,
    rewrite,
    rule,
    store_in_place_of_adding,
    then,
    unchecked,
    with_dependency,
    without_dependency,
)
from fmmloopy.transforms.steps import itemsize

REMAINDER = "and (t < (tgt_end - tgt_start) % tlanes or ttile < ttiles - 1)"
SOURCE_REMAINDER = "s_ < (src_end - src_start) % slanes or stile < stiles - 1"


def _tiles() -> list[Wrong]:
    found = []
    for operator in ("p2p", "p2m", "l2p"):
        found += [
            wrong(operator, "lost tail", "exact", "target tail lost",
                  "targets beyond the last full tile keep potential 0",
                  rewrite("ttiles", (" + tlanes + -1", ""))),
            wrong(operator, "full tile", "exact", "target tile lost where lanes divide the count",
                  "boxes of 16, 32, ... targets lose their last tile",
                  then(guard("store*", "({}) " + REMAINDER), with_dependency("store*", "ttiles")),
                  schedule=lanes(tlanes=13 if operator == "p2m" else 4)),
        ]  # fmt: skip
    for operator in ("p2p", "p2l", "m2p"):
        found += [
            wrong(operator, "lost tail", "exact", "source tail lost",
                  "sources beyond the last full tile act on nobody",
                  rewrite("stiles", (" + slanes + -1", ""))),
            wrong(operator, "full tile", "exact", "source tile lost where lanes divide the count",
                  "boxes of 16, 32, ... sources lose their last tile",
                  then(rule("charge", ("isrc(s_) < src_end", SOURCE_REMAINDER)), with_dependency("q*", "stiles")),
                  schedule=lanes(tlanes=2, slanes=13 if operator == "m2p" else 4)),
        ]  # fmt: skip
    found += [
        wrong("p2p", "very large box", "symbolic", "at most 1500 sources",
              "sources of a box beyond the first 1500 act on nobody",
              at_most("src_end", "src_start + 1500", "src_start")),
        wrong("p2p", "off by one", "exact", "tiles of targets overlap",
              "every tile does the last target of the one before again",
              rule("itgt", ("tlanes*ttile", "(tlanes - 1)*ttile"))),
        wrong("p2l", "off by one", "exact", "tiles of sources overlap",
              "sources at the seams of tiles count twice",
              rule("isrc", ("slanes*stile", "(slanes - 1)*stile"))),
        wrong("m2p", "off by one", "exact", "gaps between tiles of targets",
              "a target after every tile keeps potential 0",
              rule("itgt", ("tlanes*ttile", "(tlanes + 1)*ttile"))),
        wrong("p2m", "lost first", "exact", "first source lost",
              "the first source of each leaf is not in its multipole",
              rule("isrc", ("src_start +", "src_start + 1 +"))),
        wrong("l2p", "lost first", "exact", "first target lost",
              "the first target of each leaf keeps potential 0",
              rule("itgt", ("tgt_start +", "tgt_start + 1 +"))),
        wrong("p2l", "lost first", "exact", "first tile of sources lost",
              "small boxes of X lists act on nobody",
              bounds(("0 <= stile", "1 <= stile"))),
        wrong("p2p", "half of the lanes", "exact", "upper half of the lanes not stored",
              "half of all targets keep potential 0",
              guard("store*", "({}) and t < tlanes // 2")),
        wrong("p2m", "half of the lanes", "exact", "odd lanes sum nothing",
              "every other check potential is 0",
              pair_test(("r2 > 0", "r2 > 0 and t % 2 == 0"))),
    ]  # fmt: skip
    return found


def _masks_and_stores() -> list[Wrong]:
    found = []
    for operator in PARTICLES:
        found.append(
            wrong(operator, "dropped mask", "hostile" if operator in ("l2p", "m2p") else "exact", "charge without mask",
                  "idle lanes add charges of the next box, or padding",
                  rule("charge", (" if isrc(s_) < src_end else 0", "")))
        )  # fmt: skip
    for operator in ("p2p", "p2l", "m2p"):
        found += [
            wrong(operator, "coincident points", "exact", "pairs at distance zero kept",
                  "a point acts on itself: infinite potentials",
                  pair_test(("r2 > 0", "r2 >= 0"))),
            wrong(operator, "store instead of add", "exact", "store in place of adding",
                  "what other operators have added is lost",
                  store_in_place_of_adding("store*")),
        ]  # fmt: skip
    for operator in ("p2p", "p2m", "l2p"):
        found.append(
            wrong(operator, "store without guard", "hostile" if operator == "p2m" else "exact", "store without guard",
                  "idle lanes overwrite the next box, or padding",
                  guard("store*"))
        )  # fmt: skip
    for operator in ("p2l", "m2p"):
        found.append(
            wrong(operator, "store without guard", "hostile" if operator == "p2l" else "exact", "guard one too far",
                  "the first target of the next box gets a sum too many",
                  guard("store*", "itgt(t) <= tgt_end"))
        )  # fmt: skip
    for operator in ("p2m", "l2p"):
        found.append(
            wrong(operator, "store instead of add", "exact", "added twice",
                  "potentials are doubled",
                  rewrite("store*", ("scaling*", "2*scaling*")))
        )  # fmt: skip
    for operator in ("p2p", "p2m", "l2p"):
        found.append(
            wrong(operator, "carried sums", "exact", "sums not cleared between tiles",
                  "every tile of targets contains the sums of the tiles before",
                  outside("init*", "ttile"))
        )  # fmt: skip
    found += [
        wrong("m2p", "uninitialized", "exact", "last lane not cleared",
              "one target of each tile starts from what was in memory",
              guard("init*", "t < tlanes - 1"), also=ANY_RUN),
        wrong("p2p", "coincident points", "exact", "self pair known by its index",
              "coincident points give infinite potentials",
              then(pair_test(("r2 > 0", "itgt(t) != isrc(s)")),
                   with_dependency("sum*", "tgt_start", "src_start"))),
    ]  # fmt: skip
    return found


def _lists() -> list[Wrong]:
    return [
        wrong("p2p", "lost first", "exact", "first list entry lost",
              "the nearest neighbour, often the box itself, is left out",
              rewrite("list_start", ("]", "] + 1"))),
        wrong("p2m", "lost tail", "exact", "last list entry lost",
              "boxes whose list has one entry get no multipole",
              rewrite("list_end", ("]", "] - 1"))),
        wrong("m2p", "first entry only", "exact", "first list entry only",
              "all of the W list but its first box is left out",
              then(assign("list_end", "list_start + 1"), with_dependency("list_end", "list_start"))),
        wrong("p2l", "first entry only", "exact", "first list entry again and again",
              "the first box of the X list counts for all",
              then(rewrite("srcbox", ("ilist", "list_start")), with_dependency("srcbox", "list_start"))),
        wrong("l2p", "first entry only", "exact", "at most one list entry",
              "hidden where lists have one entry, as in L2P of a whole evaluation",
              at_most("list_end", "list_start + 1", "list_start")),
        wrong("m2p", "wrong list", "exact", "list of the next box",
              "boxes act on the wrong targets",
              rewrite("list_start", ("box]", "box + 1]"))),
        wrong("p2p", "wrong list", "exact", "list by position and not by box",
              "right only where all boxes are worked on, in their order",
              then(rewrite("list_start", ("box]", "ibox]")), rewrite("list_end", ("box + 1]", "ibox + 1]")))),
        wrong("l2p", "wrong list", "exact", "position taken for the box",
              "right only where all boxes are worked on, in their order",
              rewrite("box", ("target_boxes[ibox]", "ibox"))),
        wrong("p2m", "wrong list", "exact", "box taken for its own source",
              "right in P2M of a whole evaluation until lists hold other boxes",
              rewrite("srcbox", ("lists[ilist]", "target_boxes[ibox]"))),
        wrong("p2l", "wrong list", "exact", "end of the box before",
              "sources of the box before, or none",
              rewrite("src_end", ("srcbox]", "lists[ilist] - 1]"))),
        wrong("p2p", "long list", "hostile", "at most 64 list entries",
              "long U lists are cut off",
              at_most("list_end", "list_start + 64", "list_start")),
        wrong("m2p", "long list", "hostile", "at most 70 list entries",
              "very long W lists are cut off",
              at_most("list_end", "list_start + 70", "list_start")),
        wrong("p2p", "large box", "exact", "at most 32 sources",
              "what a buffer of 32 cannot hold is left out",
              at_most("src_end", "src_start + 32", "src_start")),
        wrong("p2m", "large box", "hostile", "at most 48 sources",
              "what a buffer of 48 cannot hold is left out",
              at_most("src_end", "src_start + 48", "src_start")),
        wrong("p2l", "large box", "hostile", "at most 256 sources",
              "what a buffer of 256 cannot hold is left out",
              at_most("src_end", "src_start + 256", "src_start")),
        wrong("p2p", "large box", "hostile", "at most 256 targets",
              "targets of large boxes keep potential 0",
              at_most("tgt_end", "tgt_start + 256", "tgt_start")),
        wrong("p2m", "only some orders", "exact", "at most 32 surface points",
              "orders from 4 on lose check points",
              at_most("tgt_end", "32"), level="full"),
        wrong("l2p", "only some orders", "hostile", "at most 64 surface points",
              "orders from 5 on lose densities",
              at_most("src_end", "64")),
        wrong("m2p", "only some orders", "exact", "wrong at order 4 alone",
              "one order loses its last density",
              assign("src_end", "{0} - 1 if {0} == 56 else {0}"), level="full"),
        wrong("p2p", "small integers", "hostile", "index in 8 bits",
              "points beyond the first 256 are taken for others",
              in_dtype(np.uint8, "src_start")),
        wrong("p2p", "small integers", "hostile", "index in 16 bits",
              "points beyond the first 32768 are taken for others",
              in_dtype(np.int16, "src_start")),
        wrong("m2p", "small integers", "hostile", "box in 8 bits",
              "boxes beyond the first 256 are taken for others",
              in_dtype(np.uint8, "srcbox")),
        wrong("p2p", "false assumption", "exact", "count of boxes taken for even",
              "a box that is not there adds to the first one",
              then(lambda k: lp.assume(k, "ntarget_boxes mod 2 = 0"), lambda k: lp.split_iname(k, "ibox", 2)),
              late=True),
        wrong("l2p", "false assumption", "exact", "all counts taken for multiples of the lanes",
              "the tail of every box is lost, or the next box's head added",
              rewrite("stiles", (" + slanes + -1", "")), schedule=lanes(tlanes=1, slanes=4)),
    ]  # fmt: skip


def _points() -> list[Wrong]:
    return [
        wrong("p2p", "wrong coordinate", "exact", "y read twice",
              "z of the sources is taken to be y",
              rewrite("y2", ("source(2", "source(1"))),
        wrong("p2m", "wrong coordinate", "exact", "x of the centre for all coordinates",
              "boxes off the diagonal get wrong multipoles",
              rule("source", ("centres[k_", "centres[0"))),
        wrong("l2p", "wrong coordinate", "exact", "x and z of the surface exchanged",
              "right for functions of r alone only because the surface is symmetric",
              rule("source", ("surface[k_", "surface[2 - k_"))),
        wrong("m2p", "wrong coordinate", "exact", "difference the wrong way round",
              "odd functions, such as gradients, change sign",
              rewrite("d1", ("x1[t] + (-1)*y1", "y1 - x1[t]"))),
        wrong("p2p", "wrong point", "exact", "charge of the next source",
              "every source has its neighbour's charge",
              rule("charge", ("charges[c_, isrc(s_)]", "charges[c_, isrc(s_) + 1]"))),
        wrong("p2l", "wrong point", "exact", "charge by lane and not by source",
              "all boxes have the charges of the first",
              rule("charge", ("charges[c_, isrc(s_)]", "charges[c_, slanes*stile + s_]"))),
        wrong("m2p", "wrong point", "exact", "density of the first point",
              "all points of a surface have one density",
              rule("charge", ("isrc(s_)] if", "0] if"))),
        wrong("l2p", "wrong point", "static", "densities of the target box",
              "right where a box is its own source",
              rule("charge", ("densities[srcbox", "densities[box"))),
        wrong("p2m", "wrong box", "static", "centre of the source box",
              "right where a box is its own source",
              rule("source", ("centres[k_, box]", "centres[k_, srcbox]"))),
        wrong("m2p", "wrong box", "static", "centre of the target box",
              "potentials of shifted points",
              rule("target", ("centres[k_, srcbox]", "centres[k_, box]"))),
        wrong("p2l", "wrong box", "exact", "radius of the first box",
              "right where all boxes are on one level",
              rule("target", ("radii[box]", "radii[0]"))),
        wrong("l2p", "wrong box", "exact", "radius of the target box",
              "right where source and target are on one level",
              rule("source", ("radii[srcbox]", "radii[target_boxes[ibox]]"))),
        wrong("p2m", "lost scaling", "numerical", "radius factor lost on the check surface",
              "the check surface has a third of its size",
              rule("target", ("radius_factor*", ""))),
        wrong("l2p", "lost scaling", "numerical", "radius factor lost on the equivalent surface",
              "densities act from the wrong places",
              rule("source", ("radius_factor*", ""))),
        wrong("p2l", "lost scaling", "exact", "radius of the box lost",
              "right at one level only",
              rule("target", ("radii[box]*", ""))),
        *(
            wrong(operator, "lost scaling", "exact", "scaling lost",
                  "potentials lack their factor 1 / (4 pi)",
                  rewrite("store*", ("scaling*", "")))
            for operator in ("p2p", "p2l", "m2p")
        ),
        wrong("p2m", "lost scaling", "exact", "scaled twice",
              "multipoles have a factor 1 / (4 pi) too many",
              rewrite("store*", ("scaling*", "scaling*scaling*"))),
        wrong("p2p", "wrong component", "exact", "first charge for both components",
              "right for functions with one component",
              only_if(_two_components, rewrite("q1", ("charge(1", "charge(0")))),
        wrong("l2p", "wrong component", "exact", "Green's function transposed",
              "right for functions whose matrix is symmetric",
              only_if(_two_components, then(rewrite("sum0", ("G_0_1", "G_1_0")), rewrite("sum1", ("G_1_0", "G_0_1"))))),
        wrong("p2m", "wrong component", "exact", "second sum stored in the first row",
              "right for functions with one component",
              only_if(_two_components, then(everywhere("store1", ("[box, 1,", "[box, 0,")),
                                           with_dependency("store1", "store0")))),
        wrong("m2p", "wrong component", "exact", "second charge left out of the first row",
              "right for functions with one component",
              only_if(_two_components, rewrite("sum0", (" + G_0_1*q1", "")))),
        wrong("p2l", "wrong component", "exact", "second sum not cleared",
              "the second component carries sums from tile to tile",
              only_if(_two_components, assign("init1", "u1[t] if ttile > 0 else 0"))),
        wrong("p2p", "wrong component", "numerical", "derivative of the wrong point",
              "forces have the wrong sign, potentials are right",
              only_if(_gradient, rewrite("sum2", ("G_2_0*q0", "(-1)*G_2_0*q0")))),
        wrong("m2p", "wrong component", "numerical", "derivatives along y and z exchanged",
              "forces point elsewhere, potentials are right",
              only_if(_gradient, then(rewrite("sum2", ("G_2_0", "G_3_0")), rewrite("sum3", ("G_3_0", "G_2_0"))))),
        wrong("l2p", "dropped dependency", "numerical", "gradient stored twice without an order",
              "fails for somebody who asks for forces, alone",
              only_if(_gradient, everywhere("store2", ("[2,", "[3,"))), also=("static",)),
        wrong("p2p", "only one precision", "exact", "tail lost in single precision",
              "right in double precision",
              only_if(lambda k: itemsize(k) == 4, rewrite("ttiles", (" + tlanes + -1", ""))), dtype=np.float32),
        wrong("p2l", "only one precision", "exact", "mask dropped in double precision",
              "right in single precision",
              only_if(lambda k: itemsize(k) == 8, rule("charge", (" if isrc(s_) < src_end else 0", "")))),
        wrong("p2p", "dropped dependency", "static", "sum may run before its initialisation",
              "loopy is free to clear the sums afterwards",
              without_dependency("sum*", "init0", "init1")),
        wrong("p2p", "check switched off", "static", "order of statements not checked",
              "loopy is free to clear the sums afterwards, and does not say so",
              then(without_dependency("sum*", "init0", "init1"), unchecked("enforce_variable_access_ordered"))),
        wrong("p2m", "dropped dependency", "static", "store may run before the sum",
              "loopy is free to store sums that are not done",
              without_dependency("store*", "sum0", "sum1", "init0", "init1")),
        wrong("l2p", "dropped dependency", "static", "difference may run before the source is read",
              "loopy is free to use the source before",
              without_dependency("d0", "y0")),
        wrong("m2p", "dropped dependency", "static", "bounds may be used before they are read",
              "loopy is free to use the bounds of the entry before",
              without_dependency("stiles", "src_start", "src_end")),
    ]  # fmt: skip


def _two_components(knl: object) -> bool:
    return set(knl.default_entrypoint.temporary_variables) >= {"q0", "q1", "u0", "u1"}


def _gradient(knl: object) -> bool:
    """Whether there are more sums than potentials, for one vector of charges."""
    names = knl.default_entrypoint.temporary_variables
    return "u3" in names and "w0_0" not in names


ENTRIES: tuple[Wrong, ...] = (*_tiles(), *_masks_and_stores(), *_lists(), *_points())
