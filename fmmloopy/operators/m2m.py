"""M2M: the multipole of a parent from those of its children.

    multipoles[parent, i] = sum over octants c, columns j of table[itable, c, j, i] * multipoles[children[parent, c], j]

Form, inames, rules and statements: :mod:`fmmloopy.operators.dense`. Its own arguments:

    table (ntables, 8, ncolumns, nrows)      matrices by level (one for homogeneous functions), octant of the child
    itable                                the matrix of this level
    multipoles (nboxes + 1, nrows)        read at the children, written at the parents
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
    <> u[b, i] = 0 {id=init}
    for c
        <> src[b] = children[parents[entry(b)], c] {id=src}
        for j, b
            <> x = multipoles[src[b], j] {id=x,dep=src}
            for i
                u[b, i] = u[b, i] + table[itable, c, j, itile, i]*x {id=sum,dep=init:x}
            end
        end
    end
    if entry(b) < nparents
        result[parents[entry(b)], itile, i] = u[b, i] {id=store,dep=sum:init}
    end
end
"""


def m2m(dtype: Any = np.float64) -> Kernel:
    """Make the M2M kernel in float32 or float64.

    ``multipoles`` and ``result`` are one array under two names: children and parents are rows of their own.
    """
    arrays = [
        lp.GlobalArg("table", None, shape=f"ntables, 8, {MATRIX}"),
        lp.GlobalArg("multipoles", None, shape=VECTOR),
        lp.GlobalArg("result", None, shape=OUTPUT, is_output=True),
        lp.GlobalArg("children", np.int32, shape="nboxes + 1, 8"),
        lp.GlobalArg("parents", np.int32, shape=None),
        lp.ValueArg("ntables,itable,btiles,nparents", np.int32),
    ]
    return dense_kernel("m2m", [*BLOCKS, "{[c]: 0 <= c < 8}"], TEXT, arrays, dtype)
