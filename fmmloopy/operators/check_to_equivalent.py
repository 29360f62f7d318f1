"""Check -> equivalent: half of the pseudo-inverse that turns check potentials into equivalent densities.

    equivalent[box, i] = scale[box] * sum over columns j of table[itable, j, i] * check[box, j]

Applied twice, with the factor U^T and then with V S^+ (Malhotra & Biros 2015, section 3.1: the two factors one after
the other are backward stable, their product is not). Form, inames, rules and statements:
:mod:`fmmloopy.operators.dense`. Its own arguments:

    table (ntables, ncolumns, nrows)        factors by level (one for homogeneous functions)
    itable                               the matrix of these boxes
    check (nboxes + 1, ncolumns)         what the factor is applied to
    equivalent (nboxes + 1, nrows)       written at the boxes worked on
    scales (nboxes + 1,)                 per box: r^-k for a function of homogeneity k, else 1
    boxes (ntargets + PADDING,)          boxes worked on; beyond the end: nboxes
"""

from __future__ import annotations

from typing import Any

import loopy as lp
import numpy as np

from fmmloopy.operators.dense import BLOCKS, MATRIX, OUTPUT, VECTOR, dense_kernel
from fmmloopy.operators.pairwise import Kernel

TEXT = """
entry(b_) := blanes*btile + b_
for btile, itile
    <> src[b] = boxes[entry(b)] {id=src}
    <> u[b, i] = 0 {id=init}
    for j, b
        <> x = check[src[b], j] {id=x,dep=src}
        for i
            u[b, i] = u[b, i] + table[itable, j, itile, i]*x {id=sum,dep=init:x}
        end
    end
    if entry(b) < ntargets
        equivalent[src[b], itile, i] = scales[src[b]]*u[b, i] {id=store,dep=sum:init:src}
    end
end
"""


def check_to_equivalent(dtype: Any = np.float64) -> Kernel:
    """Make the kernel that applies one factor of the pseudo-inverse, in float32 or float64."""
    arrays = [
        lp.GlobalArg("table", None, shape=f"ntables, {MATRIX}"),
        lp.GlobalArg("check", None, shape=VECTOR),
        lp.GlobalArg("equivalent", None, shape=OUTPUT, is_output=True),
        lp.GlobalArg("scales", None, shape="nboxes + 1"),
        lp.GlobalArg("boxes", np.int32, shape=None),
        lp.ValueArg("ntables,itable,btiles,ntargets", np.int32),
    ]
    return dense_kernel("check_to_equivalent", BLOCKS, TEXT, arrays, dtype)
