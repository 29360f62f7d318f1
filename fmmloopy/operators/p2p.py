"""P2P: potentials of the points of a leaf from the source points of its U list.

    potentials[x] += scaling * sum over y in U(leaf) of G(x - y) charges[y]

Form, inames, rules and statements: :mod:`fmmloopy.operators.pairwise`. Its own arguments:

    targets (3, ntargets + LANES), sources (3, nsources + LANES)     points in tree order
    charges (components, nsources + LANES)
    potentials (components, ntargets + LANES)                          added to
    box_target_starts, box_target_ends, box_source_starts, box_source_ends     by box
    target_boxes (ntarget_boxes,), list_starts, lists                           leaves worked on; the U list, rows by
    box

From points in float64, distances in float32 are found relative to the centre of the source box, in another unit:

    sources (2, 3, nsources + LANES)      times unit, relative to the centre of their leaf: in float32, and what
                                            rounding leaves
    centres (3, nboxes), unit               of boxes; all list entries are leaves
    scaling                                 includes what the unit makes of a homogeneous function
"""

from __future__ import annotations

from dataclasses import replace

from fmmloopy.operators.operator import (
    Argument,
    Array,
    Form,
    Kernel,
    Kind,
    Lists,
    Number,
    Operator,
    Particles,
    Role,
    Side,
    Specification,
    counts,
    indices,
)
from fmmloopy.operators.pairwise import LISTS, TARGET_LOOPS, pairwise_kernel, scaled_by
from fmmloopy.operators.surface import POINTS

TARGETS = Side(
    start="box_target_starts[box]",
    end="box_target_ends[box]",
    position="targets[k_, i_]",
    array="potentials",
    value="potentials[c_, i_]",
)
SOURCES = Side(
    start="box_source_starts[srcbox]",
    end="box_source_ends[srcbox]",
    position="sources[k_, i_]",
    array="charges",
    value="charges[c_, i_]",
)
LOCAL_TARGETS = replace(TARGETS, position="unit*(targets[k_, i_] - centres[k_, srcbox])")
LOCAL_SOURCES = replace(SOURCES, position="sources[0, k_, i_]", rest="sources[1, k_, i_]")

_TARGETS = Array("targets", "3, ntargets", Kind.OUTER, whole=POINTS)
_CHARGES = Array("charges", "{columns}, nsources", whole=(-1, 1))
_POTENTIALS = Array("potentials", "{rows}, ntargets", Kind.OUTER, Role.ADDED_TO, (-9, 9))
_RANGES: tuple[Argument, ...] = (
    *indices("box_target_starts,box_target_ends,box_source_starts,box_source_ends"),
    *counts("ntargets,nsources"),
)


def p2p(spec: Specification) -> Kernel:
    """Make the P2P kernel for a Green's function; from points in float64, distances may be in float32."""
    if spec.types.is_mixed:
        return pairwise_kernel(spec, Particles(LOCAL_TARGETS, LOCAL_SOURCES, "u"), unit="unit")
    return pairwise_kernel(spec, Particles(TARGETS, SOURCES, "u"))


P2P = Operator(
    "p2p",
    Form.PARTICLE,
    Lists("ntarget_boxes"),
    sides=("points", "near"),
    make=p2p,
    arguments=(
        _TARGETS,
        Array("sources", "3, nsources", Kind.OUTER, whole=POINTS),
        _CHARGES,
        _POTENTIALS,
        *_RANGES,
        *scaled_by(Kind.OUTER),
        *LISTS,
    ),
    mixed_arguments=(
        _TARGETS,
        Array("sources", "2, 3, nsources"),
        _CHARGES,
        _POTENTIALS,
        *_RANGES,
        Array("centres", "3, nboxes", Kind.OUTER, whole=(0, 2)),
        *counts("nboxes"),
        *scaled_by(Kind.OUTER, Number("unit", Kind.OUTER)),
        *LISTS,
    ),
    particles=Particles(TARGETS, SOURCES, "u"),
    block=150.0,
    independent=TARGET_LOOPS,
)
