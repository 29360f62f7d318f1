"""Lanes: the number of targets, sources, boxes or rows in a tile, which recipes fix; and the sequential recipe."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from pytools.tag import UniqueTag

from fmmloopy.common.late import loopy as lp
from fmmloopy.common.sizes import LANES, ROWS
from fmmloopy.operators.operator import LANE_PARAMETERS, Kernel

LANE_BOUNDS = {
    **{name: range(1, LANES + 1) for name in ("tlanes", "slanes", "blanes")},
    "ilanes": tuple(n for n in range(1, ROWS + 1) if ROWS % n == 0),
}
"""Allowed numbers of lanes in a tile: idle lanes read padding, which is this long; ilanes must divide ROWS."""

_PHASES = {
    "load": "x[0-9]*",
    "weigh": "p[0-9]*",
    "src": "src",
    "begin": "begin*",
    "init": "init*",
    "fold": "fold*",
    "store": "store*",
}
"""Statements of a lane iname outside the innermost loops, by the suffix of their new iname."""


def separate_lanes(knl: Kernel) -> Kernel:
    """Give the loads, initialisations and stores of a tile their own lane loops.

    Before, statements of one lane iname must share one loop::

        for t: load;  for source, t: sum;  for t: store

    After, only the sums use ``t``, which can then be the innermost loop::

        for t_load: load;  for t_init: init;  for source: for t: sum;  for t_store: store
    """
    for lane in ("t", "b", "b2", "k", "i"):
        for suffix, pattern in _PHASES.items():
            ids = [
                insn.id
                for insn in knl.default_entrypoint.instructions
                if lane in insn.within_inames and fnmatchcase(insn.id, pattern)
            ]
            if ids:
                within = " or ".join(f"id:{i}" for i in ids)
                knl = lp.duplicate_inames(knl, lane, within=within, new_inames=[f"{lane}_{suffix}"])
    return knl


@dataclass(frozen=True)
class Lanes(UniqueTag):
    """Tag of a kernel: the lane parameters that a recipe has fixed, which determine the number of tiles in a launch."""

    lanes: tuple[tuple[str, int], ...]

    def update_persistent_hash(self, key_hash: Any, key_builder: Any) -> None:
        """Hash the module too: loopy's caches hold pickled notes, which cannot be read where their class is not."""
        key_builder.rec(key_hash, (type(self).__module__, type(self).__qualname__, self.lanes))


def fix_lanes(knl: Kernel, **lanes: int) -> Kernel:
    """Fix the number of lanes in a tile; lane parameters that are not given become 1."""
    known = open_lanes(knl)
    unknown = sorted(set(lanes) - set(known))
    if unknown:
        raise ValueError(f"no lane parameter {unknown[0]!r}; this operator has {', '.join(known) or 'none'}")
    fixed = {p: lanes.get(p, 1) for p in known}
    knl = lp.fix_parameters(knl, **fixed)
    return knl.with_kernel(knl.default_entrypoint.tagged(Lanes(tuple(fixed.items()))))


def open_lanes(knl: Kernel) -> list[str]:
    """Return the lane parameters of a kernel that are not fixed yet."""
    return [p for p in LANE_PARAMETERS if p in knl.default_entrypoint.arg_dict]


def lanes_of(knl: Kernel) -> dict[str, int]:
    """Return the lane parameters that `fix_lanes` has fixed in a kernel."""
    return {name: count for tag in knl.default_entrypoint.tags_of_type(Lanes) for name, count in tag.lanes}


def sequential_recipe(knl: Kernel) -> Iterator[tuple[str, Kernel]]:
    """Run the operator as written, one lane at a time, in a single work-item: the reference for all other recipes."""
    yield "sequential", separate_lanes(fix_lanes(knl))
