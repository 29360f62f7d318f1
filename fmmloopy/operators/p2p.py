"""P2P: potentials of the points of a leaf from the source points of its U list.

    potentials[x] += scaling * sum over y in U(leaf) of G(x - y) charges[y]

Form, inames, rules and statements: :mod:`fmmloopy.operators.pairwise`. Its own arguments:

    targets (3, ntargets + PADDING), sources (3, nsources + PADDING)     points in tree order
    charges (components, nsources + PADDING)
    potentials (components, ntargets + PADDING)                          accumulated into
    box_target_starts, box_target_ends, box_source_starts, box_source_ends     by box
    target_boxes (ntarget_boxes,), list_starts, lists                           leaves worked on; the U list, rows by
    box
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
    position="targets[k_, i_]",
    output="potentials[c_, i_]",
)
SOURCES = Side(
    start="box_source_starts[srcbox]",
    end="box_source_ends[srcbox]",
    position="sources[k_, i_]",
    charge="charges[c_, i_]",
)


def p2p(greens: GreensFunction, dtype: Any = np.float64) -> Kernel:
    """Make the P2P kernel for a Green's function in float32 or float64."""
    rows, columns = greens.ntarget_components, greens.nsource_components
    arrays = [
        lp.GlobalArg("targets", None, shape="3, ntargets"),
        lp.GlobalArg("sources", None, shape="3, nsources"),
        lp.GlobalArg("charges", None, shape=f"{columns}, nsources"),
        lp.GlobalArg("potentials", None, shape=f"{rows}, ntargets", is_input=True, is_output=True),
        lp.GlobalArg("box_target_starts,box_target_ends,box_source_starts,box_source_ends", np.int32, shape=None),
        lp.ValueArg("ntargets,nsources", np.int32),
    ]
    return pairwise_kernel("p2p", greens, np.dtype(dtype), TARGETS, SOURCES, arrays)
