"""Mistakes in the FFT form of M2L: transform, products by frequency, transform back."""

from __future__ import annotations

import re

import numpy as np

from corpus.entries import ANY_RUN, Wrong, wrong
from corpus.mistakes import (
    Edit,
    Kernel,
    add_in_place_of_storing,
    assign,
    at_most,
    bounds,
    everywhere,
    guard,
    in_dtype,
    lanes,
    only_if,
    outside,
    read_before,
    retarget,
    rewrite,
    rule,
    shorter,
    store_in_place_of_adding,
    then,
    unchecked,
    with_dependency,
    without_dependency,
)
from fmmloopy.transforms.steps import itemsize


def _forward() -> list[Wrong]:
    def entry(family: str, layer: str, name: str, effect: str, mistake: Edit, **more: object) -> Wrong:
        return wrong("m2l_forward", family, layer, name, effect, mistake, **more)

    return [
        entry("uninitialized", "exact", "grid cleared to 1", "the interior of every box is charged",
              assign("zero", "1")),
        entry("uninitialized", "exact", "last sibling's grid not cleared", "its interior holds what was in memory",
              guard("zero", "j_zero < 7"), also=ANY_RUN),
        entry("lost first", "exact", "first surface point lost", "one density of each box does not act",
              bounds(("0 <= s ", "1 <= s "))),
        entry("lost tail", "exact", "last surface point lost", "one density of each box does not act",
              bounds(("s < npoints", "s < npoints - 1"))),
        entry("lost tail", "exact", "last plane lost", "one plane of frequencies is what was in memory",
              bounds(("kz < kz_end", "kz < kz_end - 1"))),
        entry("lost tail", "exact", "last octet lost", "its boxes act on nobody",
              bounds(("octet < noctets", "octet < noctets - 1"))),
        entry("lost tail", "exact", "highest frequency lost", "the transform is not inverted",
              shorter("l3")),
        entry("lost tail", "exact", "last grid plane lost", "one face of the surface does not act",
              shorter("x3")),
        entry("wrong direction", "exact", "conjugate wave", "transfer vectors are reversed",
              rewrite("sum2i", ("g1r[x2, y2, j2]*dft_i", "(-1)*g1r[x2, y2, j2]*dft_i"))),
        entry("wrong direction", "exact", "sign of the product of imaginary parts", "the transform is no transform",
              rewrite("sum3r", ("(-1)*g2i", "g2i"))),
        entry("swapped indices", "exact", "axes of the frequencies exchanged", "boxes act along other axes",
              retarget("store3?", ("k3, l3", "l3, k3"))),
        entry("swapped indices", "exact", "axes of the grid exchanged", "boxes are mirrored",
              retarget("load", ("surface_grid[0, s], surface_grid[1, s]", "surface_grid[1, s], surface_grid[0, s]"))),
        entry("wrong box", "exact", "siblings reversed", "children sit in the opposite corners",
              rewrite("load", ("child[j_load]", "child[7 - j_load]"))),
        entry("wrong box", "exact", "children of the first octet", "all octets act alike",
              rewrite("child", ("[octet,", "[0,"))),
        entry("wrong component", "exact", "first component for all", "right for functions with one component",
              rewrite("load", ("comp, s", "0, s"))),
        entry("store instead of add", "exact", "added to what was there", "a second evaluation adds to the first",
              add_in_place_of_storing("store3r")),
        entry("half of the lanes", "exact", "four siblings of eight stored", "half of all boxes act with old densities",
              guard("store3?", "j3 < 4")),
        entry("carried sums", "exact", "sums not cleared between frequencies", "every frequency contains those before",
              outside("init3?", "l3")),
        entry("carried sums", "exact", "grid plane of the plane before", "the first plane is what was in memory",
              guard("store1r", "kz == kz_start")),
        entry("single precision", "exact", "grid in single precision", "seven digits where sixteen are asked for",
              in_dtype(np.float32, "grid")),
        entry("single precision", "exact", "sums in single precision", "seven digits where sixteen are asked for",
              in_dtype(np.float32, "a3r", "a3i")),
        entry("first plane", "hostile", "plane kz = 0 lost", "constant parts vanish: potentials are off by a constant",
              rewrite("store3r", ("a3r[j3]", "(0 if kz == 0 else a3r[j3])"))),
        entry("only some orders", "exact", "wrong at order 4 alone", "one order is wrong",
              only_if(lambda k: "x1 <= 3" in str(k.default_entrypoint.domains),
                      rewrite("load", ("multipoles", "2*multipoles"))), level="full"),
        entry("only one precision", "exact", "imaginary part lost in single precision", "right in double precision",
              only_if(lambda k: itemsize(k) == 4, rewrite("store3i", ("a3i", "0*a3i"))), dtype=np.float32),
        entry("dropped dependency", "static", "grid may be filled before it is cleared", "loopy is free to clear it",
              without_dependency("load", "zero")),
        entry("dropped dependency", "static", "second stage may run before the first",
              "loopy is free to use the plane before",
              without_dependency("sum2r", "store1r", "store1i")),
        entry("check switched off", "static", "bounds of arrays not checked",
              "a fault where memory begins, right elsewhere",
              then(read_before("octet_children[octet - 1, 0]", "child", "nboxes", "j_child"),
                   unchecked("enforce_array_accesses_within_bounds"))),
        entry("wrong footprint", "static", "plane of intermediate sums too small", "writes past its end",
              _smaller("g1r")),
        entry("read out of bounds", "static", "children of the octet before read", "a fault where memory begins",
              rewrite("child", ("[octet,", "[octet - 1,"))),
    ]  # fmt: skip


def _smaller(name: str) -> Edit:
    """Make an array too short by one on its first axis."""

    def edit(knl: Kernel) -> Kernel:
        kernel = knl.default_entrypoint
        old = kernel.temporary_variables[name]
        order = next(str(a.shape[0]) for a in kernel.args if a.name == "dft_r")
        shape = (int(order) - 1, int(order), 8)
        temporaries = {**kernel.temporary_variables, name: old.copy(shape=shape)}
        return knl.with_kernel(kernel.copy(temporary_variables=temporaries))

    return edit


def _hadamard() -> list[Wrong]:
    def entry(family: str, layer: str, name: str, effect: str, mistake: Edit, **more: object) -> Wrong:
        return wrong("m2l_hadamard", family, layer, name, effect, mistake, **more)

    return [
        entry("lost tail", "exact", "pairs beyond the last full tile lost", "octets lack some of their neighbours",
              rewrite("ptiles", (" + blanes + -1", ""))),
        entry("lost tail", "exact", "last direction lost", "one neighbour in 26 does not act",
              bounds(("d <= 25", "d <= 24"))),
        entry("lost tail", "exact", "last chunk lost", "the last octets of every level lack their V lists",
              bounds(("chunk < nchunks", "chunk < nchunks - 1"))),
        entry("lost tail", "exact", "last frequency lost", "potentials lack one wave",
              bounds(("f < f_end", "f < f_end - 1"))),
        entry("lost first", "exact", "first pair lost", "one pair in every direction does not act",
              rule("pair", ("pair_start +", "pair_start + 1 +"))),
        entry("lost first", "exact", "first direction lost", "one neighbour in 26 does not act",
              bounds(("0 <= d <= 25", "1 <= d <= 25"))),
        entry("off by one", "exact", "tiles of pairs overlap", "pairs at the seams count twice",
              rule("pair", ("blanes*ptile", "(blanes - 1)*ptile"))),
        entry("full tile", "exact", "tile lost where lanes divide the count", "4, 8, ... pairs lose their last tile",
              then(guard("store?", "({}) and (b < (pair_end - pair_start) % blanes or ptile < ptiles - 1)"),
                   with_dependency("store?", "ptiles")), schedule=lanes(blanes=4)),
        entry("store without guard", "exact", "store without guard", "pairs of the next direction count twice",
              guard("store?")),
        entry("store without guard", "exact", "guard one too far", "the first pair of the next direction counts twice",
              guard("storer", "pair(b) <= pair_end")),
        entry("store instead of add", "exact", "store in place of adding", "only the last direction acts",
              store_in_place_of_adding("store?")),
        entry("wrong direction", "exact", "directions reversed", "boxes act from the opposite side",
              rewrite("sumr", (", d, ", ", 25 - d, "))),
        entry("wrong direction", "exact", "conjugate taken", "transfer vectors are reversed",
              rewrite("sumi", ("+ Ki", "- Ki"))),
        entry("swapped indices", "exact", "source and target siblings exchanged", "children act from wrong corners",
              rewrite("sum?", ("j, i]", "i, j]"))),
        entry("swapped indices", "exact", "components exchanged", "right for functions whose matrix is symmetric",
              rewrite("sum?", ("row, col", "col, row"))),
        entry("wrong component", "exact", "real part for the imaginary one", "the product is no product",
              rewrite("xi", ("Mi[", "Mr["))),
        entry("wrong component", "exact", "first component of the source for all",
              "right for functions with one component",
              rewrite("x?", (", col,", ", 0,"))),
        entry("wrong level", "exact", "frequencies of the matrix counted from the launch's first",
              "right where one launch does all frequencies",
              rewrite("sumr", ("[f, d", "[f - f_start, d"))),
        entry("wrong box", "exact", "source of the first lane for all lanes", "octets get their neighbours' neighbours",
              rewrite("xr", ("src[b]", "src[0]"))),
        entry("wrong box", "exact", "source and target octets exchanged", "octets act on those that act on them",
              then(rewrite("src", ("pair_sources", "pair_targets")), rule("target", ("pair_targets", "pair_sources")))),
        entry("wrong list", "exact", "pairs of the first chunk for all", "octets of other chunks lack their V lists",
              then(rewrite("pair_start", ("26*chunk + ", "")), rewrite("pair_end", ("26*chunk + ", "")))),
        entry("half of the lanes", "exact", "four siblings of eight summed", "half of all boxes lack their V lists",
              rewrite("sumr", ("+ Kr", "+ (1 if i < 4 else 0)*Kr"))),
        entry("carried sums", "exact", "sums not cleared between components", "the second component contains the first",
              only_if(lambda k: bool(re.search("row <= [1-9]", str(k.default_entrypoint.domains))),
                      then(*(assign(f"init{p}", f"u{p}[b, i] if row > 0 else 0") for p in "ri")))),
        entry("uninitialized", "exact", "last lane not cleared", "one pair of a tile starts from what was in memory",
              guard("initr", "b < blanes - 1"), also=ANY_RUN),
        entry("single precision", "numerical", "sums in single precision", "seven digits where sixteen are asked for",
              in_dtype(np.float32, "ur", "ui")),
        entry("large box", "hostile", "at most 12 pairs in a direction", "what a block of 12 cannot hold is left out",
              at_most("pair_end", "pair_start + 12", "pair_start")),
        entry("small integers", "hostile", "pair in 8 bits", "pairs beyond the first 256 do not act",
              in_dtype(np.uint8, "pair_end")),
        entry("dropped dependency", "static", "sums may run before they are cleared", "loopy is free to clear them",
              without_dependency("sumr", "initr")),
        entry("read out of bounds", "sanitized", "the pair before is read ahead of the test",
              "a fault where memory begins, right elsewhere",
              then(read_before("pair_sources[pair(0) - 1]", "src", "nsource_octets", "b"),
                   with_dependency("before", "pair_start")), also=ANY_RUN),
    ]  # fmt: skip


def _inverse() -> list[Wrong]:
    def entry(family: str, layer: str, name: str, effect: str, mistake: Edit, **more: object) -> Wrong:
        return wrong("m2l_inverse", family, layer, name, effect, mistake, **more)

    return [
        entry("lost tail", "exact", "last surface point lost", "one check point of each box keeps potential 0",
              shorter("s")),
        entry("lost tail", "exact", "highest frequency lost", "potentials lack one wave",
              shorter("k1")),
        entry("lost tail", "exact", "last octet lost", "its boxes lack their V lists",
              bounds(("octet < noctets", "octet < noctets - 1"))),
        entry("lost first", "exact", "constant part lost", "potentials are off by a constant",
              bounds(("0 <= k2 ", "1 <= k2 "))),
        entry("lost first", "exact", "first plane lost", "potentials are off by a constant",
              bounds(("kz_start <= kz", "kz_start < kz"))),
        entry("wrong direction", "exact", "forward wave for the inverse", "transfer vectors are reversed",
              rewrite("sum2r", ("dft_i", "dft_r"))),
        entry("wrong direction", "exact", "imaginary part added with the wrong sign", "the real part is not one",
              rewrite("sum", ("+ h2i", "- h2i"))),
        entry("wrong level", "exact", "scaling of the first octet", "right at one level only",
              rewrite("store", ("octet_scales[octet]", "octet_scales[0]"))),
        entry("lost scaling", "exact", "scaling of the level lost", "right at one level only",
              rewrite("store", ("octet_scales[octet]*", ""))),
        entry("lost scaling", "exact", "weight of one plane for all", "waves and their conjugates count as one",
              rewrite("store2i", ("plane_weights[kz]", "plane_weights[0]"))),
        entry("lost scaling", "exact", "weights lost", "potentials are N^3 times too large",
              rewrite("store2?", ("plane_weights[kz]*", ""))),
        entry("swapped indices", "exact", "axes of the grid exchanged", "boxes are mirrored",
              rewrite("sum", ("[sx, sy, i3]", "[sy, sx, i3]"))),
        entry("swapped indices", "exact", "axes of the frequencies exchanged", "boxes are mirrored",
              rewrite("sum1?", ("k1y, k1,", "k1, k1y,"))),
        entry("wrong coordinate", "exact", "y read for z", "potentials of points elsewhere on the surface",
              rewrite("sz", ("surface_grid[2", "surface_grid[1"))),
        entry("wrong box", "exact", "siblings reversed", "children get the potentials of those in opposite corners",
              then(everywhere("store", ("child[i_store]", "child[7 - i_store]")),
                   guard("store", "child[7 - i_store] < nboxes"))),
        entry("wrong component", "exact", "first component for all", "right for functions with one component",
              rewrite("sum1r", (", comp,", ", 0,"))),
        entry("store without guard", "exact", "missing children written", "rows of zeros fill with numbers",
              guard("store")),
        entry("store instead of add", "exact", "store in place of adding", "what P2L has added is lost",
              store_in_place_of_adding("store")),
        entry("carried sums", "exact", "sums not cleared between octets", "every octet contains those before",
              outside("zero", "octet", "comp")),
        entry("carried sums", "exact", "sums not cleared between components", "the second component contains the first",
              outside("zero", "comp")),
        entry("carried sums", "exact", "sums not cleared between lines", "every line contains those before",
              outside("init1?", "x1")),
        entry("uninitialized", "exact", "last sibling not cleared", "it starts from what was in memory",
              guard("zero", "i_zero < 7"), also=ANY_RUN),
        entry("half of the lanes", "exact", "four siblings of eight stored", "half of all boxes lack their V lists",
              guard("store", "({}) and i_store < 4")),
        entry("single precision", "numerical", "sums in single precision", "seven digits where sixteen are asked for",
              in_dtype(np.float32, "v")),
        entry("single precision", "numerical", "plane in single precision", "seven digits where sixteen are asked for",
              in_dtype(np.float32, "h2r", "h2i")),
        entry("first plane", "hostile", "weight of plane kz = 0 doubled", "constant parts count twice",
              rewrite("store2?", ("plane_weights[kz]", "(2 if kz == 0 else 1)*plane_weights[kz]"))),
        entry("small integers", "hostile", "box in 8 bits", "boxes beyond the first 256 are taken for others",
              in_dtype(np.uint8, "child")),
        entry("only some orders", "exact", "at most 100 surface points", "orders from 6 on lose check points",
              guard("store", "({}) and s_store < 100")),
        entry("dropped dependency", "static", "store may run before the last plane", "loopy is free to store too early",
              without_dependency("store", "sum", "zero")),
    ]  # fmt: skip


ENTRIES: tuple[Wrong, ...] = (*_forward(), *_hadamard(), *_inverse())
