"""L2L: the local of a child from that of its parent.

    locals[children[parent, c], i] += sum over columns j of table[itable, c, j, i] * locals[parent, j]

Form, inames, rules and statements: :mod:`fmmloopy.operators.dense`; each octant c is a block of outputs, and its store
is also guarded by the child's being there. Its own arguments:

    table (ntables, 8, ncolumns, nrows)   matrices by the parent's level (one for homogeneous functions) and octant
    itable                                the matrix of this level
    locals (nboxes + 1, nrows)            read at the parents, accumulated into at the children
    children (nboxes + 1, 8)              box or nboxes
    parents (nparents + PADDING,)         boxes worked on; beyond the end: nboxes
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
    <> src[b] = parents[entry(b)] {id=src}
    for c
        <> u[b, i] = 0 {id=init}
        for j, b
            <> x = locals[src[b], j] {id=x,dep=src}
            for i
                u[b, i] = u[b, i] + table[itable, c, j, itile, i]*x {id=sum,dep=init:x}
            end
        end
        if entry(b) < nparents and children[src[b], c] < nboxes
            result[children[src[b], c], itile, i] = result[children[src[b], c], itile, i] + u[b, i] \
                {id=store,dep=sum:init:src}
        end
    end
end
"""


def l2l(dtype: Any = np.float64) -> Kernel:
    """Make the L2L kernel in float32 or float64.

    ``locals`` and ``result`` are one array under two names: children and parents are rows of their own.
    """
    arrays = [
        lp.GlobalArg("table", None, shape=f"ntables, 8, {MATRIX}"),
        lp.GlobalArg("locals", None, shape=VECTOR),
        lp.GlobalArg("result", None, shape=OUTPUT, is_input=True, is_output=True),
        lp.GlobalArg("children", np.int32, shape="nboxes + 1, 8"),
        lp.GlobalArg("parents", np.int32, shape=None),
        lp.ValueArg("ntables,itable,btiles,nparents", np.int32),
    ]
    return dense_kernel("l2l", [*BLOCKS, "{[c]: 0 <= c < 8}"], TEXT, arrays, dtype)
