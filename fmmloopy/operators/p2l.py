"""P2L: downward check potentials of a box from the source points of its X list.

    checks[box, m] += scaling * sum over y in X(box) of G(x_m - y) charges[y],   x_m on the downward check surface

Form, inames, rules and statements: :mod:`fmmloopy.operators.pairwise`. Its own arguments:

    surface (3, nsurface)                 points of a surface on [-1, 1]^3, padded
    npoints                               how many of them are points
    centres (3, nboxes), radii (nboxes,)  of boxes, half widths
    radius_factor                         size of the surface in units of the radius: inner
    sources (3, nsources + PADDING), charges (components, nsources + PADDING)     in tree order
    box_source_starts, box_source_ends    by box
    checks (nboxes + 1, components, nsurface)      downward check potentials, accumulated into
    target_boxes (ntarget_boxes,), list_starts, lists     boxes worked on; the X list, rows by box
"""

from __future__ import annotations

from typing import Any

import loopy as lp
import numpy as np

from fmmloopy.greens import GreensFunction
from fmmloopy.operators.pairwise import Kernel, Side, pairwise_kernel

TARGETS = Side(
    start="0",
    end="npoints",
    position="radius_factor*radii[box]*surface[k_, i_]",
    output="checks[box, c_, i_]",
)
SOURCES = Side(
    start="box_source_starts[srcbox]",
    end="box_source_ends[srcbox]",
    position="sources[k_, i_] - centres[k_, box]",
    charge="charges[c_, i_]",
)


def p2l(greens: GreensFunction, dtype: Any = np.float64) -> Kernel:
    """Make the P2L kernel for a Green's function in float32 or float64."""
    rows, columns = greens.ntarget_components, greens.nsource_components
    arrays = [
        lp.GlobalArg("surface", None, shape="3, nsurface"),
        lp.GlobalArg("centres", None, shape="3, nboxes"),
        lp.GlobalArg("radii", None, shape="nboxes"),
        lp.ValueArg("radius_factor", dtype),
        lp.GlobalArg("sources", None, shape="3, nsources"),
        lp.GlobalArg("charges", None, shape=f"{columns}, nsources"),
        lp.GlobalArg("box_source_starts,box_source_ends", np.int32, shape=None),
        lp.GlobalArg("checks", None, shape=f"nboxes + 1, {rows}, nsurface", is_input=True, is_output=True),
        lp.ValueArg("nsources,npoints,nsurface,nboxes", np.int32),
    ]
    return pairwise_kernel("p2l", greens, np.dtype(dtype), TARGETS, SOURCES, arrays)
