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
    boxes (ntargets + LANES,)          boxes worked on; beyond the end: nboxes
"""

from __future__ import annotations

from fmmloopy.operators.dense import (
    BLOCKS,
    BOXES_AND_ROWS,
    ENTRY,
    MATRIX,
    OUTPUT,
    SCALES,
    SIDES,
    VECTOR,
    dense_kernel,
    multiplications,
    sizes,
    vector_length,
)
from fmmloopy.operators.operator import (
    Array,
    Boxes,
    Counts,
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


def check_to_equivalent(spec: Specification) -> Kernel:
    """Make the kernel that applies one factor of the pseudo-inverse, in float32 or float64."""
    return dense_kernel(spec, BLOCKS, TEXT)


def _flops(spec: Specification, amount: Counts) -> float:
    """Count both factors, n tc x k and k x n sc, k = n min(sc, tc): one after the other."""
    rows, columns = vector_length(spec, spec.rows), vector_length(spec, spec.columns)
    return multiplications(amount["boxes"], rows + columns, min(rows, columns))


def _traffic(spec: Specification, amount: Counts) -> float:
    return vector_length(spec, spec.rows + spec.columns) * amount["boxes"]


CHECK_TO_EQUIVALENT = Operator(
    "check_to_equivalent",
    Form.DENSE,
    Boxes(),
    SIDES,
    make=check_to_equivalent,
    arguments=(
        Array("table", f"ntables, {MATRIX}", whole=ENTRY),
        Array("check", VECTOR, whole=ENTRY, has_zero_row=True),
        Array("equivalent", OUTPUT, role=Role.WRITTEN),
        Array("scales", "nboxes + 1", whole=SCALES),
        *indices("boxes"),
        *counts("ntables,itable,btiles,ntargets"),
        *sizes("blanes,ilanes"),
    ),
    flops=_flops,
    traffic=_traffic,
    vectors=("rows", "columns"),
    independent=BOXES_AND_ROWS,
)
