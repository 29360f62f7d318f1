"""The form that M2M, L2L, M2L (dense) and check -> equivalent share: a small matrix times the vectors of many boxes.

    output[box(b), i] = scale * sum over c, j of table[c, j, i] * input[source(b, c), j]

Boxes b and rows i are both tile x lane, so that a recipe may hold a block of (boxes x rows) sums in registers, use each
matrix entry for several boxes and each input value for several rows.

Inames
    btile, b        tile and lane of the boxes worked on: entry of the list = blanes * btile + b
    itile, i        tile and lane of output rows: row = ilanes * itile + i
    c               octant of a child (not in check -> equivalent)
    ilist           entry of the V list (M2L only, which has no b: each entry has a matrix of its own)
    j               column of the matrix
Parameters that a recipe fixes
    blanes, ilanes  lanes per tile; ilanes divides ROWS
Substitution rules
    entry(b)        index into the list of boxes, which is padded by LANES entries
Statements
    src             the box that lane b reads, an array over b
    init, x, sum    u[b, i] = 0;  x = input[src[b], j];  u[b, i] += table[.., j, itile, i] * x
    store           guarded by the end of the list (L2L: and by the child's being there)

Vectors on a surface are padded with zeros to nrows = ilanes * itiles, a multiple of ROWS, and so are both sides of the
matrices; those are stored column by column, rows contiguous. Box number nboxes is a row of zeros: it stands for every
box that is not there.
"""

from __future__ import annotations

from fmmloopy.common.late import loopy as lp
from fmmloopy.common.sizes import count_points
from fmmloopy.operators.operator import Kernel, Number, Specification, counts

MATRIX = "ncolumns, itiles, ilanes"
"""Shape of the last axes of a table: column, tile and lane of the row."""

VECTOR = "nboxes + 1, ncolumns"
"""Shape of an input: box, column."""

OUTPUT = "nboxes + 1, itiles, ilanes"
"""Shape of an output: box, tile and lane of the row."""

BLOCKS = ["{[btile]: 0 <= btile < btiles}", "{[b]: 0 <= b < blanes}"]
"""Domains of the boxes worked on."""

ENTRY = (-5, 5)
"""Entries of matrices and vectors in exact cases: sums of 8 * 64 products of at most 25."""

SCALES = (1, 3)
"""Scalings of boxes in exact cases."""

BOXES_AND_ROWS = ("btile", "b", "c", "itile", "i")
"""Loops over boxes and rows: no box is worked on twice, and it has different children."""

SIDES = ("expansions", "expansions")
"""Dense operators read and write expansions."""


def sizes(lanes: str) -> tuple[Number, ...]:
    """Return the last arguments of every dense operator, with its lane parameters."""
    return counts(f"nboxes,ncolumns,itiles,{lanes}")


def dense_kernel(spec: Specification, domains: list[str], text: str) -> Kernel:
    """Make a kernel over itile, i, j and the given domains, in the names of this module's documentation.

    Args:
        spec: what it is made for.
        domains: domains of the other inames.
        text: its statements.
    """
    knl = lp.make_kernel(
        [
            *domains,
            "{[itile]: 0 <= itile < itiles}",
            "{[i]: 0 <= i < ilanes}",
            "{[j]: 0 <= j < ncolumns}",
        ],
        text,
        spec.loopy_arguments(),
        name=spec.operator.name,
        assumptions="itiles >= 1 and ncolumns >= 1 and ilanes >= 1",
        silenced_warnings=["write_race(store)"],
        lang_version=lp.MOST_RECENT_LANGUAGE_VERSION,
    )
    return knl


def multiplications(applied: float, nrows: int, ncolumns: int) -> float:
    """Count the operations of products of a matrix and a vector: a multiplication and an addition per entry."""
    return 2 * applied * nrows * ncolumns


def vector_length(spec: Specification, components: int) -> int:
    """Return the number of values on a surface, without padding."""
    return components * count_points(spec.order)
