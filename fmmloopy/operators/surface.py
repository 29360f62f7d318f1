"""Particle operators with a surface on one side: the common parts of P2M and P2L, and of L2P and M2P.

The operators' own files state their formulas and lists. Arguments, beside those of
:mod:`fmmloopy.operators.pairwise`:

    surface (3, nsurface)                 points of a surface on [-1, 1]^3, padded
    npoints                               how many of them are points
    centres (3, nboxes), radii (nboxes,)  of boxes, half widths
    radius_factor                         size of the surface in units of the radius
    target_boxes (ntarget_boxes,), list_starts, lists     boxes worked on; their lists, rows by box

onto a surface (P2M, P2L):

    sources (3, nsources + LANES), charges (components, nsources + LANES)     in tree order
    box_source_starts, box_source_ends    by box
    checks (nboxes + 1, components, nsurface)      check potentials, added to

from a surface (L2P, M2P):

    densities (nboxes + 1, components, nsurface)   multipoles or locals
    targets (3, ntargets + LANES)                  in tree order
    potentials (components, ntargets + LANES)      added to
    box_target_starts, box_target_ends    by box

Mixed kernels have points, centres and potentials in float64, all else in float32, and compute in float32.
"""

from __future__ import annotations

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

SURFACE_TARGETS = Side(
    start="0",
    end="npoints",
    position="radius_factor*radii[box]*surface[k_, i_]",
    array="checks",
    value="checks[box, c_, i_]",
    is_surface=True,
)
POINT_SOURCES = Side(
    start="box_source_starts[srcbox]",
    end="box_source_ends[srcbox]",
    position="sources[k_, i_] - centres[k_, box]",
    array="charges",
    value="charges[c_, i_]",
)
POINT_TARGETS = Side(
    start="box_target_starts[box]",
    end="box_target_ends[box]",
    position="targets[k_, i_] - centres[k_, srcbox]",
    array="potentials",
    value="potentials[c_, i_]",
)
SURFACE_SOURCES = Side(
    start="0",
    end="npoints",
    position="radius_factor*radii[srcbox]*surface[k_, i_]",
    array="densities",
    value="densities[srcbox, c_, i_]",
    is_surface=True,
)

POINTS = (0, 4)
"""Coordinates of points in exact cases, whose charges and densities are -1 to 1: with the polynomials that stand for
the Green's function there, |G| <= 230, and a box sees at most 260 sources or 80 surfaces of 26 points."""

_SURFACE: tuple[Argument, ...] = (
    Array("surface", "3, nsurface", whole=(-1, 1)),
    Array("centres", "3, nboxes", Kind.OUTER, whole=(0, 2)),
    Array("radii", "nboxes", whole=(1, 2)),
    Number("radius_factor", Kind.INNER),
    *counts("npoints,nsurface,nboxes"),
)


def onto_surface(name: str, interactions: str, surface: str) -> Operator:
    """Make the record of an operator that sums charges of points onto the check surface of a box.

    Args:
        name: of the operator.
        interactions: which list it works through.
        surface: which of the two radii its check surface has.
    """
    arguments: tuple[Argument, ...] = (
        *_SURFACE,
        Array("sources", "3, nsources", Kind.OUTER, whole=POINTS),
        Array("charges", "{columns}, nsources", whole=(-1, 1)),
        Array("checks", "nboxes + 1, {rows}, nsurface", role=Role.ADDED_TO, whole=(-9, 9)),
        *indices("box_source_starts,box_source_ends"),
        *counts("nsources"),
        *scaled_by(Kind.INNER),
        *LISTS,
    )
    particles = Particles(SURFACE_TARGETS, POINT_SOURCES, interactions, surface)
    return _with_surface(name, particles, arguments)


def from_surface(name: str, interactions: str, surface: str) -> Operator:
    """Make the record of an operator that sums densities on the equivalent surfaces of boxes onto points.

    Args:
        name: of the operator.
        interactions: which list it works through.
        surface: which of the two radii the equivalent surfaces have.
    """
    arguments: tuple[Argument, ...] = (
        *_SURFACE,
        Array("targets", "3, ntargets", Kind.OUTER, whole=POINTS),
        Array("densities", "nboxes + 1, {columns}, nsurface", whole=(-1, 1)),
        Array("potentials", "{rows}, ntargets", Kind.OUTER, Role.ADDED_TO, (-9, 9)),
        *indices("box_target_starts,box_target_ends"),
        *counts("ntargets"),
        *scaled_by(Kind.OUTER),
        *LISTS,
    )
    return _with_surface(name, Particles(POINT_TARGETS, SURFACE_SOURCES, interactions, surface), arguments)


def surface_kernel(spec: Specification) -> Kernel:
    """Make the kernel of a particle operator with a surface on one side."""
    assert spec.operator.particles is not None
    return pairwise_kernel(spec, spec.operator.particles)


def _with_surface(name: str, particles: Particles, arguments: tuple[Argument, ...]) -> Operator:
    return Operator(
        name,
        Form.PARTICLE,
        Lists("ntarget_boxes"),
        sides=("points", "expansions"),
        make=surface_kernel,
        arguments=arguments,
        particles=particles,
        independent=TARGET_LOOPS,
    )
