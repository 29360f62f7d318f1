"""P2P: potentials of the points of a leaf from the source points of its U list.

    potentials[x] += scaling * sum over y in U(leaf) of G(x - y) charges[y]

Form, inames, rules and statements: :mod:`fmmloopy.operators.pairwise`. Its own arguments:

    targets (3, ntargets + PADDING), sources (3, nsources + PADDING)     points in tree order
    charges (components, nsources + PADDING)
    potentials (components, ntargets + PADDING)                          accumulated into
    box_target_starts, box_target_ends, box_source_starts, box_source_ends     by box
    target_boxes (ntarget_boxes,), list_starts, lists                           leaves worked on; the U list, rows by
    box

From points in float64, distances in float32 are found relative to the centre of the source box, in another unit:

    sources (2, 3, nsources + PADDING)      times unit, relative to the centre of their leaf: in float32, and what
                                            rounding leaves
    centres (3, nboxes), unit               of boxes; all list entries are leaves
    scaling                                 includes what the unit makes of a homogeneous function
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import loopy as lp
import numpy as np

from fmmloopy.greens import GreensFunction
from fmmloopy.operators.pairwise import Kernel, Side, pairwise_kernel

TARGETS = Side(
    start="box_target_starts[box]",
    end="box_target_ends[box]",
    position="targets[k_, i_]",
    output="potentials[c_, i_]",
)
SOURCES = Side(
    start="box_source_starts[srcbox]",
    end="box_source_ends[srcbox]",
    position="sources[k_, i_]",
    charge="charges[c_, i_]",
)
LOCAL_TARGETS = replace(TARGETS, position="unit*(targets[k_, i_] - centres[k_, srcbox])")
LOCAL_SOURCES = replace(SOURCES, position="sources[0, k_, i_]", rest="sources[1, k_, i_]")


def p2p(greens: GreensFunction, dtype: Any = np.float64, inner: Any = None) -> Kernel:
    """Make the P2P kernel for a Green's function.

    Args:
        greens: the Green's function.
        dtype: float32 or float64, of targets, centres and potentials.
        inner: of all else, and of what is computed; None for the same, or float32.
    """
    rows, columns = greens.ntarget_components, greens.nsource_components
    dtype, inner = np.dtype(dtype), np.dtype(inner or dtype)
    local = inner != dtype
    arrays = [
        lp.GlobalArg("targets", dtype, shape="3, ntargets"),
        lp.GlobalArg("sources", inner, shape="2, 3, nsources" if local else "3, nsources"),
        lp.GlobalArg("charges", inner, shape=f"{columns}, nsources"),
        lp.GlobalArg("potentials", dtype, shape=f"{rows}, ntargets", is_input=True, is_output=True),
        lp.GlobalArg("box_target_starts,box_target_ends,box_source_starts,box_source_ends", np.int32, shape=None),
        lp.ValueArg("ntargets,nsources", np.int32),
    ]
    if not local:
        return pairwise_kernel("p2p", greens, dtype, TARGETS, SOURCES, arrays)
    arrays += [lp.GlobalArg("centres", dtype, shape="3, nboxes"), lp.ValueArg("nboxes", np.int32)]
    return pairwise_kernel("p2p", greens, inner, LOCAL_TARGETS, LOCAL_SOURCES, arrays, True, dtype, "unit")
