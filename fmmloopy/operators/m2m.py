"""M2M: the multipole of a parent from those of its children.

    multipoles[parent, i] = sum over octants c, columns j of table[itable, c, j, i] * multipoles[children[parent, c], j]

Form, inames, rules and statements: :mod:`fmmloopy.operators.dense`. Its own arguments:

    table (ntables, 8, ncolumns, nrows)      matrices by level (one for homogeneous functions), octant of the child
    itable                                the matrix of this level
    multipoles (nboxes + 1, nrows)        read at the children, written at the parents
    children (nboxes + 1, 8)              box or nboxes
    parents (nparents + LANES,)         boxes worked on; beyond the end: nboxes
"""

from __future__ import annotations

from fmmloopy.common.sizes import SIBLINGS
from fmmloopy.operators.dense import (
    BLOCKS,
    BOXES_AND_ROWS,
    ENTRY,
    MATRIX,
    OUTPUT,
    SIDES,
    VECTOR,
    dense_kernel,
    multiplications,
    sizes,
    vector_length,
)
from fmmloopy.operators.operator import (
    Array,
    Counts,
    Families,
    Form,
    Kernel,
    Operator,
    Role,
    Specification,
    counts,
    indices,
)

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


def m2m(spec: Specification) -> Kernel:
    """Make the M2M kernel in float32 or float64.

    ``multipoles`` and ``result`` are one array under two names: children and parents are rows of their own.
    """
    return dense_kernel(spec, [*BLOCKS, f"{{[c]: 0 <= c < {SIBLINGS}}}"], TEXT)


def _flops(spec: Specification, amount: Counts) -> float:
    length = vector_length(spec, spec.columns)
    return multiplications(amount["children"], length, length)


def _traffic(spec: Specification, amount: Counts) -> float:
    """Count the children once, and the parents twice: sums are read and written."""
    return vector_length(spec, spec.columns) * (amount["children"] + 2 * amount["parents"])


M2M = Operator(
    "m2m",
    Form.DENSE,
    Families("sources"),
    SIDES,
    make=m2m,
    arguments=(
        Array("table", f"ntables, {SIBLINGS}, {MATRIX}", whole=ENTRY),
        Array("multipoles", VECTOR, whole=ENTRY, has_zero_row=True),
        Array("result", OUTPUT, role=Role.WRITTEN, same_as="multipoles"),
        *indices("children", f"nboxes + 1, {SIBLINGS}"),
        *indices("parents"),
        *counts("ntables,itable,btiles,nparents"),
        *sizes("blanes,ilanes"),
    ),
    flops=_flops,
    traffic=_traffic,
    vectors=("columns", "columns"),
    independent=BOXES_AND_ROWS,
)
