"""M2L, dense: check potentials of a box from the multipoles of its V list. The reference for the FFT form.

    checks[box, i] += scale[box] * sum over entries l of V(box), columns j of
                      table[itable, transfers[l], j, i] * multipoles[lists[l], j]

Form, inames, rules and statements: :mod:`fmmloopy.operators.dense`, with the box itself in place of btile and b. Its
own:

    ibox                                  entry of the list of target boxes
    box, list_start, list_end             statements: the box and the bounds of its list
    table (ntables, 343, ncolumns, nrows)    matrices by level (one for homogeneous functions) and transfer vector
    itable                                the matrices of these boxes
    multipoles (nboxes + 1, nrows); checks (nboxes + 1, nrows), accumulated into
    scales (nboxes + 1,)                  per box: r^k for a function of homogeneity k, else 1
    target_boxes (ntargets,), list_starts, lists, transfers     boxes worked on; the V list, rows by box
"""

from __future__ import annotations

from typing import Any

import loopy as lp
import numpy as np

from fmmloopy.operators.dense import MATRIX, OUTPUT, VECTOR, dense_kernel
from fmmloopy.operators.pairwise import Kernel

TEXT = """
for ibox
    <> box = target_boxes[ibox] {id=box}
    <> list_start = list_starts[box] {id=list_start,dep=box}
    <> list_end = list_starts[box + 1] {id=list_end,dep=box}
    for itile
        <> u[i] = 0 {id=init}
        for ilist
            <> src = lists[ilist] {id=src}
            <> transfer = transfers[ilist] {id=transfer}
            for j
                <> x = multipoles[src, j] {id=x,dep=src}
                for i
                    u[i] = u[i] + table[itable, transfer, j, itile, i]*x {id=sum,dep=init:x:transfer}
                end
            end
        end
        result[box, itile, i] = result[box, itile, i] + scales[box]*u[i] {id=store,dep=sum:init:box}
    end
end
"""


def m2l(dtype: Any = np.float64) -> Kernel:
    """Make the dense M2L kernel in float32 or float64; ``result`` are the check potentials."""
    arrays = [
        lp.GlobalArg("table", None, shape=f"ntables, 343, {MATRIX}"),
        lp.GlobalArg("multipoles", None, shape=VECTOR),
        lp.GlobalArg("result", None, shape=OUTPUT, is_input=True, is_output=True),
        lp.GlobalArg("scales", None, shape="nboxes + 1"),
        lp.GlobalArg("target_boxes,list_starts,lists,transfers", np.int32, shape=None),
        lp.ValueArg("ntables,itable,ntargets", np.int32),
    ]
    domains = ["{[ibox]: 0 <= ibox < ntargets}", "{[ilist]: list_start <= ilist < list_end}"]
    return dense_kernel("m2l", domains, TEXT, arrays, dtype)
