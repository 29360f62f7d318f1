"""Particle operators that have a surface on one side: what P2M and P2L, and L2P and M2P, have in common.

The operators' own files state their formulas and lists. Arguments, beside those of
:mod:`fmmloopy.operators.pairwise`:

    surface (3, nsurface)                 points of a surface on [-1, 1]^3, padded
    npoints                               how many of them are points
    centres (3, nboxes), radii (nboxes,)  of boxes, half widths
    radius_factor                         size of the surface in units of the radius
    target_boxes (ntarget_boxes,), list_starts, lists     boxes worked on; their lists, rows by box

onto a surface (P2M, P2L):

    sources (3, nsources + PADDING), charges (components, nsources + PADDING)     in tree order
    box_source_starts, box_source_ends    by box
    checks (nboxes + 1, components, nsurface)      check potentials, accumulated into

from a surface (L2P, M2P):

    densities (nboxes + 1, components, nsurface)   multipoles or locals
    targets (3, ntargets + PADDING)                in tree order
    potentials (components, ntargets + PADDING)    accumulated into
    box_target_starts, box_target_ends    by box

Mixed kernels have points, centres and potentials in float64, all else in float32, and compute in float32.
"""

from __future__ import annotations

from typing import Any

import loopy as lp
import numpy as np

from fmmloopy.greens import GreensFunction
from fmmloopy.operators.pairwise import Kernel, Side, pairwise_kernel

SURFACE_TARGETS = Side(
    start="0",
    end="npoints",
    position="radius_factor*radii[box]*surface[k_, i_]",
    output="checks[box, c_, i_]",
)
POINT_SOURCES = Side(
    start="box_source_starts[srcbox]",
    end="box_source_ends[srcbox]",
    position="sources[k_, i_] - centres[k_, box]",
    charge="charges[c_, i_]",
)
POINT_TARGETS = Side(
    start="box_target_starts[box]",
    end="box_target_ends[box]",
    position="targets[k_, i_] - centres[k_, srcbox]",
    output="potentials[c_, i_]",
)
SURFACE_SOURCES = Side(
    start="0",
    end="npoints",
    position="radius_factor*radii[srcbox]*surface[k_, i_]",
    charge="densities[srcbox, c_, i_]",
)


def _surface_arguments(dtype: Any, inner: Any) -> list[Any]:
    return [
        lp.GlobalArg("surface", inner, shape="3, nsurface"),
        lp.GlobalArg("centres", dtype, shape="3, nboxes"),
        lp.GlobalArg("radii", inner, shape="nboxes"),
        lp.ValueArg("radius_factor", inner),
        lp.ValueArg("npoints,nsurface,nboxes", np.int32),
    ]


def onto_surface_kernel(name: str, greens: GreensFunction, dtype: Any, inner: Any = None) -> Kernel:
    """Make the kernel that sums charges of points onto the check surface of a box.

    Points and centres are of ``dtype``, all else of ``inner``, None for the same.
    """
    rows, columns = greens.ntarget_components, greens.nsource_components
    dtype, inner = np.dtype(dtype), np.dtype(inner or dtype)
    arrays = [
        *_surface_arguments(dtype, inner),
        lp.GlobalArg("sources", dtype, shape="3, nsources"),
        lp.GlobalArg("charges", inner, shape=f"{columns}, nsources"),
        lp.GlobalArg("checks", inner, shape=f"nboxes + 1, {rows}, nsurface", is_input=True, is_output=True),
        lp.GlobalArg("box_source_starts,box_source_ends", np.int32, shape=None),
        lp.ValueArg("nsources", np.int32),
    ]
    return pairwise_kernel(name, greens, inner, SURFACE_TARGETS, POINT_SOURCES, arrays)


def from_surface_kernel(name: str, greens: GreensFunction, dtype: Any, inner: Any = None) -> Kernel:
    """Make the kernel that sums densities on the equivalent surfaces of boxes onto points.

    Points, centres and potentials are of ``dtype``, all else of ``inner``, None for the same.
    """
    rows, columns = greens.ntarget_components, greens.nsource_components
    dtype, inner = np.dtype(dtype), np.dtype(inner or dtype)
    arrays = [
        *_surface_arguments(dtype, inner),
        lp.GlobalArg("targets", dtype, shape="3, ntargets"),
        lp.GlobalArg("densities", inner, shape=f"nboxes + 1, {columns}, nsurface"),
        lp.GlobalArg("potentials", dtype, shape=f"{rows}, ntargets", is_input=True, is_output=True),
        lp.GlobalArg("box_target_starts,box_target_ends", np.int32, shape=None),
        lp.ValueArg("ntargets", np.int32),
    ]
    return pairwise_kernel(name, greens, inner, POINT_TARGETS, SURFACE_SOURCES, arrays, True, dtype)
