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
    entry(b)        index into the list of boxes, which is padded by PADDING entries
Statements
    src             the box that lane b reads, an array over b
    init, x, sum    u[b, i] = 0;  x = input[src[b], j];  u[b, i] += table[.., j, itile, i] * x
    store           guarded by the end of the list (L2L: and by the child's being there)

Vectors on a surface are padded with zeros to nrows = ilanes * itiles, a multiple of ROWS, and so are both sides of the
matrices; those are stored column by column, rows contiguous. Box number nboxes is a row of zeros: it stands for every
box that is not there.
"""

from __future__ import annotations

from typing import Any

import loopy as lp
import numpy as np

from fmmloopy.operators.pairwise import Kernel

ROWS = 16
"""Surface vectors are padded to a multiple of this: the most lanes of rows that a recipe may use."""

MATRIX = "ncolumns, itiles, ilanes"
"""Shape of the last axes of a table: column, tile and lane of the row."""

VECTOR = "nboxes + 1, ncolumns"
"""Shape of an input: box, column."""

OUTPUT = "nboxes + 1, itiles, ilanes"
"""Shape of an output: box, tile and lane of the row."""


def dense_kernel(name: str, domains: list[str], text: str, arrays: list[Any], dtype: Any) -> Kernel:
    """Make a kernel over itile, i, j and the given domains, in the names of this module's documentation.

    Args:
        name: the kernel's name.
        domains: domains of the other inames.
        text: its statements.
        arrays: loopy arguments; those without a dtype get ``dtype``.
        dtype: float32 or float64.
    """
    lanes = "blanes," if "blanes" in text else ""
    knl = lp.make_kernel(
        [
            *domains,
            "{[itile]: 0 <= itile < itiles}",
            "{[i]: 0 <= i < ilanes}",
            "{[j]: 0 <= j < ncolumns}",
        ],
        text,
        [*arrays, lp.ValueArg(f"nboxes,ncolumns,itiles,{lanes}ilanes", np.int32)],
        name=name,
        assumptions="itiles >= 1 and ncolumns >= 1 and ilanes >= 1",
        silenced_warnings=["write_race(store)"],
        lang_version=lp.MOST_RECENT_LANGUAGE_VERSION,
    )
    return lp.add_dtypes(knl, {a.name: dtype for a in arrays if a.dtype is None})


BLOCKS = ["{[btile]: 0 <= btile < btiles}", "{[b]: 0 <= b < blanes}"]
"""Domains of the boxes worked on."""
