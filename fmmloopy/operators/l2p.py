"""L2P: potentials of the target points of a leaf from its local.

    potentials[x] += scaling * sum over n of G(x - y_n) densities[leaf, n],   y_n on the downward equivalent surface

Form, inames, rules and statements: :mod:`fmmloopy.operators.pairwise`. Its own arguments:

    surface (3, nsurface)                 points of a surface on [-1, 1]^3, padded
    npoints                               how many of them are points
    centres (3, nboxes), radii (nboxes,)  of boxes, half widths
    radius_factor                         size of the surface in units of the radius: outer
    densities (nboxes + 1, components, nsurface)   locals
    targets (3, ntargets + PADDING)                in tree order
    potentials (components, ntargets + PADDING)    accumulated into
    box_target_starts, box_target_ends    by box
    target_boxes (ntarget_boxes,), list_starts, lists     leaves worked on; the list of a leaf is the leaf itself
"""

from __future__ import annotations

from typing import Any

import loopy as lp
import numpy as np

from fmmloopy.greens import GreensFunction
from fmmloopy.operators.pairwise import Kernel, Side, pairwise_kernel

TARGETS = Side(
    start="box_target_starts[box]",
    end="box_target_ends[box]",
    position="targets[k_, i_] - centres[k_, srcbox]",
    output="potentials[c_, i_]",
)
SOURCES = Side(
    start="0",
    end="npoints",
    position="radius_factor*radii[srcbox]*surface[k_, i_]",
    charge="densities[srcbox, c_, i_]",
)


def l2p(greens: GreensFunction, dtype: Any = np.float64) -> Kernel:
    """Make the L2P kernel for a Green's function in float32 or float64."""
    rows, columns = greens.ntarget_components, greens.nsource_components
    arrays = [
        lp.GlobalArg("surface", None, shape="3, nsurface"),
        lp.GlobalArg("centres", None, shape="3, nboxes"),
        lp.GlobalArg("radii", None, shape="nboxes"),
        lp.ValueArg("radius_factor", dtype),
        lp.GlobalArg("targets", None, shape="3, ntargets"),
        lp.GlobalArg("potentials", None, shape=f"{rows}, ntargets", is_input=True, is_output=True),
        lp.GlobalArg("box_target_starts,box_target_ends", np.int32, shape=None),
        lp.GlobalArg("densities", None, shape=f"nboxes + 1, {columns}, nsurface"),
        lp.ValueArg("ntargets,npoints,nsurface,nboxes", np.int32),
    ]
    return pairwise_kernel("l2p", greens, np.dtype(dtype), TARGETS, SOURCES, arrays, per_source_box=True)
