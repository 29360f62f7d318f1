"""M2L, dense: check potentials of a box from the multipoles of its V list. The reference for the FFT form.

    checks[box, i] += scale[box] * sum over entries l of V(box), columns j of
                      table[itable, transfers[l], j, i] * multipoles[lists[l], j]

Form, inames, rules and statements: :mod:`fmmloopy.operators.dense`, with the box itself in place of btile and b. Its
own:

    ibox                                  entry of the list of target boxes
    box, list_start, list_end             statements: the box and the bounds of its list
    table (ntables, TRANSFERS, ncolumns, nrows)    matrices by level (one for homogeneous functions) and transfer vector
    itable                                the matrices of these boxes
    multipoles (nboxes + 1, nrows); checks (nboxes + 1, nrows), added to
    scales (nboxes + 1,)                  per box: r^k for a function of homogeneity k, else 1
    target_boxes (ntargets,), list_starts, lists, transfers     boxes worked on; the V list, rows by box
"""

from __future__ import annotations

from fmmloopy.common.sizes import TRANSFERS
from fmmloopy.operators.dense import (
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
    Counts,
    Form,
    Kernel,
    Lists,
    Operator,
    Role,
    Specification,
    counts,
    indices,
)

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


def m2l(spec: Specification) -> Kernel:
    """Make the dense M2L kernel in float32 or float64; ``result`` are the check potentials."""
    domains = ["{[ibox]: 0 <= ibox < ntargets}", "{[ilist]: list_start <= ilist < list_end}"]
    return dense_kernel(spec, domains, TEXT)


def _flops(spec: Specification, amount: Counts) -> float:
    return multiplications(amount["entries"], vector_length(spec, spec.rows), vector_length(spec, spec.columns))


def _traffic(spec: Specification, amount: Counts) -> float:
    """Count the vectors, the sums twice, and each matrix that occurs."""
    rows, columns = vector_length(spec, spec.rows), vector_length(spec, spec.columns)
    return columns * amount["sources"] + 2 * rows * amount["rows"] + rows * columns * amount["matrices"]


M2L = Operator(
    "m2l",
    Form.DENSE,
    Lists("ntargets", labels="transfers"),
    SIDES,
    make=m2l,
    arguments=(
        Array("table", f"ntables, {TRANSFERS}, {MATRIX}", whole=ENTRY),
        Array("multipoles", VECTOR, whole=ENTRY, has_zero_row=True),
        Array("result", OUTPUT, role=Role.ADDED_TO, whole=(-9, 9)),
        Array("scales", "nboxes + 1", whole=SCALES),
        *indices("target_boxes,list_starts,lists,transfers"),
        *counts("ntables,itable,ntargets"),
        *sizes("ilanes"),
    ),
    flops=_flops,
    traffic=_traffic,
    m2l="dense",
    independent=("ibox", "itile", "i"),
)
