"""Mistakes in work-items and local memory: tiles of sources copied wrongly, barriers left out, races, stray reads."""

from __future__ import annotations

from collections.abc import Iterator

import loopy as lp

from corpus.entries import ANY_RUN, Wrong, wrong
from corpus.mistakes import (
    Edit,
    Kernel,
    as_it_is,
    barrier,
    bounds,
    guard,
    lanes,
    read_before,
    retarget,
    rewrite,
    staged,
    then,
    with_dependency,
    without_barriers,
)


def _late(
    operator: str,
    family: str,
    layer: str,
    name: str,
    effect: str,
    mistake: Edit,
    also: tuple[str, ...] = (),
) -> Wrong:
    return wrong(operator, family, layer, name, effect, mistake, schedule=staged(8), late=True, also=also)


def _parallel(iname: str, tag: str) -> Edit:
    """Tag a loop, and let every statement outside of it run in each work-item or work-group."""
    return lambda knl: lp.add_inames_for_unused_hw_axes(lp.tag_inames(knl, {iname: tag}))


def _with_eight_lanes() -> Wrong:
    def recipe(knl: Kernel, *, count: int = 4) -> Iterator[tuple[str, Kernel]]:
        yield "right", lanes(tlanes=count)(knl)
        mistake = rewrite("ttiles", (" + tlanes + -1", "")) if count == 8 else as_it_is
        yield "mistake", lanes(tlanes=count)(mistake(knl))

    name, effect = "target tail lost with eight lanes", "right with the recipe's default"
    values = {"count": (4, 8)}
    return Wrong("l2p", "only some parameters", "exact", name, effect, recipe, level="full", tuning=values)


ENTRIES: tuple[Wrong, ...] = (
    _late("p2p", "wrong footprint", "exact", "first tile used for all",
          "sources beyond the first tile sit where those of the first are",
          rewrite("fetch", ("isrc(fs)", "src_start + fs"))),
    _late("p2m", "wrong footprint", "exact", "tile copied but for its last source",
          "one source in eight sits where another was",
          guard("fetch", "fs < 7")),
    _late("l2p", "wrong footprint", "exact", "tile copied one point off",
          "every density acts from its neighbour's place",
          rewrite("fetch", ("isrc(fs)", "isrc(fs) + 1"))),
    _late("m2p", "wrong footprint", "exact", "tile before the current one",
          "densities act from the places of others",
          rewrite("fetch", ("isrc(fs)", "(isrc(fs) if stile == 0 else isrc(fs) - 8)"))),
    _late("p2l", "wrong footprint", "exact", "two coordinates of three copied",
          "z of the sources is what was in local memory",
          guard("fetch", "fk < 2"), also=ANY_RUN),
    _late("p2p", "wrong footprint", "exact", "tile of the first list entry",
          "the near field is that of one box",
          then(rewrite("fetch", ("isrc(fs)", "(box_source_starts[lists[list_start]] + 8*stile + fs)")),
               with_dependency("fetch", "list_start"))),
    _late("p2p", "wrong coordinate", "exact", "coordinates exchanged in the copy",
          "sources are mirrored",
          retarget("fetch", ("tile[fk", "tile[2 - fk"))),
    _late("m2p", "half of the lanes", "exact", "lower half of the tile copied",
          "every other four densities sit where others were",
          bounds(("fs <= 7", "fs <= 3"))),
    _late("p2p", "missing barrier", "exact", "no barrier after the copy",
          "sources of the tile before, at random",
          without_barriers("y*", "fetch"), also=ANY_RUN),
    _late("l2p", "missing barrier", "exact", "no barrier before the copy",
          "tiles are overwritten while others read them, at random",
          then(without_barriers("y*", "fetch"), barrier("fetch", "y*")), also=ANY_RUN),
    _late("p2m", "missing barrier", "exact", "no barrier at all",
          "right only where all work-items run in step",
          then(without_barriers("fetch", "y0", "y1", "y2"), without_barriers("y*", "fetch")), also=ANY_RUN),
    *(
        _late(operator, "uninitialized", "sanitized", "idle lanes of the tile not copied",
              "charge 0 times what was in local memory: NaN where that is infinite",
              then(guard("fetch", "isrc(fs) < src_end"), with_dependency("fetch", "src_end")), also=ANY_RUN)
        for operator in ("p2p", "p2l")
    ),
    *(
        wrong(operator, "read out of bounds", "sanitized", "the list entry before is read ahead of the test",
              "a fault where memory begins, right elsewhere",
              read_before("lists[ilist - 1]", "srcbox", "ilist"), also=ANY_RUN)
        for operator in ("p2m", "p2l")
    ),
    *(
        wrong(operator, "read out of bounds", "sanitized", "the box before is read ahead of the test",
              "a fault where memory begins, right elsewhere",
              read_before("target_boxes[ibox - 1]", "box", "ntargets"), also=ANY_RUN)
        for operator in ("p2p", "l2p", "m2p")
    ),
    wrong("p2p", "race", "sanitized", "sources as work-items, sums not joined",
          "work-items overwrite each other's sums; right where they run one after the other",
          _parallel("s", "l.0"), schedule=lanes(tlanes=1, slanes=8), late=True, also=("exact",)),
    wrong("m2l", "race", "sanitized", "columns as work-items, sums not joined",
          "work-items overwrite each other's sums; right where they run one after the other",
          then(lambda knl: lp.split_iname(knl, "j", 16), _parallel("j_inner", "l.0")),
          schedule=lanes(ilanes=2), late=True, also=("exact",)),
    wrong("m2l_hadamard", "race", "sanitized", "directions as work-groups",
          "work-groups overwrite each other's sums where they meet at an octet",
          _parallel("d", "g.0"), schedule=lanes(blanes=3), late=True, also=("exact",)),
    wrong("m2m", "race", "exact", "octants as work-groups",
          "the multipole of a parent is that of its last child",
          _parallel("c", "g.0"), schedule=lanes(blanes=3, ilanes=2), late=True),
    wrong("p2l", "race", "static", "list entries as work-groups",
          "the bounds of the loop are not known before the launch",
          _parallel("ilist", "g.0"), late=True),
    wrong("m2p", "race", "static", "tiles of sources as work-items",
          "the bounds of the loop are not known before the launch",
          _parallel("stile", "l.0"), late=True),
    _with_eight_lanes(),
)  # fmt: skip
