"""L2L: the local of a child from that of its parent.

    locals[children[parent, c], i] += sum over columns j of table[itable, c, j, i] * locals[parent, j]

Form, inames, rules and statements: :mod:`fmmloopy.operators.dense`; each octant c is a block of outputs, and its store
is also guarded by the child's being there. Its own arguments:

    table (ntables, 8, ncolumns, nrows)   matrices by the parent's level (one for homogeneous functions) and octant
    itable                                the matrix of this level
    locals (nboxes + 1, nrows)            read at the parents, added to at the children
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


def l2l(spec: Specification) -> Kernel:
    """Make the L2L kernel in float32 or float64.

    ``locals`` and ``result`` are one array under two names: children and parents are rows of their own.
    """
    return dense_kernel(spec, [*BLOCKS, f"{{[c]: 0 <= c < {SIBLINGS}}}"], TEXT)


def _flops(spec: Specification, amount: Counts) -> float:
    length = vector_length(spec, spec.columns)
    return multiplications(amount["children"], length, length)


def _traffic(spec: Specification, amount: Counts) -> float:
    """Count the parents once, and the children twice: sums are read and written."""
    return vector_length(spec, spec.columns) * (2 * amount["children"] + amount["parents"])


L2L = Operator(
    "l2l",
    Form.DENSE,
    Families("targets"),
    SIDES,
    make=l2l,
    arguments=(
        Array("table", f"ntables, {SIBLINGS}, {MATRIX}", whole=ENTRY),
        Array("locals", VECTOR, whole=ENTRY, has_zero_row=True),
        Array("result", OUTPUT, role=Role.ADDED_TO, same_as="locals"),
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
