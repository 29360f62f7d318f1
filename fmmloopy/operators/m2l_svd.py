"""M2L compressed by singular values: check potentials from the multipoles of the V list, through few numbers a pair.

    checks[target, i] += scale[target] * sum over pairs (target, source), with transfer vector v, and over k, j of
                         left[v, k, i] * right[v, k, j] * multipoles[source, j]

For each transfer vector, left and right are what its M2L matrix keeps of its singular value decomposition, so that one
matrix of n x n becomes two of n x rank. Pairs of boxes are grouped by transfer vector, and a block of them shares each
entry of both matrices: a product of matrices with matrices. (Fong & Darve 2009, section 3.3, compress with bases that
all transfer vectors share; :mod:`fmmloopy.m2l_svd` says why each has its own here.)

Target boxes are taken in chunks that a cache holds. Singular values come in tiles of RANKS; a tile is applied to all
pairs of a chunk and transfer vector before the next.

Inames
    chunk, transfer   chunk of target boxes; transfer vector, numbered as in :data:`fmmloopy.lists`
    ktile             tile of singular values
    ptile, b, b2      tile and lane of pairs: pair = pair_start + blanes * ptile + b; b2 the same lane for rows
    j                 column: a number of the source's multipole
    k, m              lane of a singular value: as a result of ``right``, and as a column of ``left``
    itile, i          tile and lane of rows: row = ilanes * itile + i
Parameters that a recipe fixes
    blanes, ilanes    lanes per tile; ilanes divides ROWS of :mod:`fmmloopy.operators.dense`
Substitution rules
    pair(b)           index into the lists of pairs, which are padded
    target(b)         the box that pair b adds to
Statements
    pair_start, pair_end, ptiles, ktile_start, ktile_end
    src               the box that pair b reads, an array over b
    init_w, x, sum_w  w[b, k] = 0;  x = multipoles[src[b], j];  w[b, k] += right[ktile, j, k] * x
    store_w           z = w, in memory
    init_u, y, sum_u  u[b2, i] = 0;  y = z[b2, m];  u[b2, i] += left[ktile, m, itile, i] * y
    store             accumulates, guarded by the end of the pairs
Arguments
    right (nktiles, ncolumns, RANKS), left (nktiles, RANKS, nrows)    factors of all transfer vectors, one after another
    ktile_starts (TRANSFERS + 1,)         tiles by transfer vector
    multipoles (nboxes + 1, ncolumns); result (nboxes + 1, nrows), accumulated into
    scales (nboxes + 1,)                  per box: r^k for a function of homogeneity k, else 1
    pair_starts (nchunks * TRANSFERS + 1,); pair_targets, pair_sources (npairs + padding,)    boxes of each pair

In one chunk, a transfer vector has at most one pair for each target.
"""

from __future__ import annotations

from typing import Any

import loopy as lp
import numpy as np

from fmmloopy.operators.dense import OUTPUT, VECTOR, dense_kernel
from fmmloopy.operators.pairwise import Kernel

TRANSFERS = 343
"""Transfer vectors, those of adjacent boxes, which have no pairs, among them."""

RANKS = 8
"""Singular values of a tile: ranks are multiples of this."""

TEXT = f"""
pair(b_) := pair_start + blanes*ptile + b_
target(b_) := pair_targets[pair(b_)]
for chunk, transfer
    <> pair_start = pair_starts[{TRANSFERS}*chunk + transfer] {{id=pair_start}}
    <> pair_end = pair_starts[{TRANSFERS}*chunk + transfer + 1] {{id=pair_end}}
    <> ptiles = (pair_end - pair_start + blanes - 1) // blanes {{id=ptiles,dep=pair_start:pair_end}}
    <> ktile_start = ktile_starts[transfer] {{id=ktile_start}}
    <> ktile_end = ktile_starts[transfer + 1] {{id=ktile_end}}
    for ktile, ptile
        <> src[b] = pair_sources[pair(b)] {{id=src,dep=pair_start}}
        <> w[b, k] = 0 {{id=init_w}}
        for j, b
            <> x = multipoles[src[b], j] {{id=x,dep=src}}
            for k
                w[b, k] = w[b, k] + right[ktile, j, k]*x {{id=sum_w,dep=init_w:x}}
            end
        end
        <> z[b, k] = w[b, k] {{id=store_w,dep=sum_w:init_w}}
        for itile
            <> u[b2, i] = 0 {{id=init_u}}
            for m, b2
                <> y = z[b2, m] {{id=y,dep=store_w}}
                for i
                    u[b2, i] = u[b2, i] + left[ktile, m, itile, i]*y {{id=sum_u,dep=init_u:y}}
                end
            end
            if pair(b2) < pair_end
                result[target(b2), itile, i] = result[target(b2), itile, i] + scales[target(b2)]*u[b2, i] \
                    {{id=store,dep=sum_u:init_u:pair_end}}
            end
        end
    end
end
"""


def m2l_svd(dtype: Any = np.float64) -> Kernel:
    """Make the compressed M2L kernel in float32 or float64; ``result`` are the check potentials."""
    arrays = [
        lp.GlobalArg("right", None, shape=f"nktiles, ncolumns, {RANKS}"),
        lp.GlobalArg("left", None, shape=f"nktiles, {RANKS}, itiles, ilanes"),
        lp.GlobalArg("multipoles", None, shape=VECTOR),
        lp.GlobalArg("result", None, shape=OUTPUT, is_input=True, is_output=True),
        lp.GlobalArg("scales", None, shape="nboxes + 1"),
        lp.GlobalArg("ktile_starts,pair_starts,pair_targets,pair_sources", np.int32, shape=None),
        lp.ValueArg("nktiles,nchunks", np.int32),
    ]
    domains = [
        "{[chunk]: 0 <= chunk < nchunks}",
        f"{{[transfer]: 0 <= transfer < {TRANSFERS}}}",
        "{[ktile, ptile]: ktile_start <= ktile < ktile_end and 0 <= ptile < ptiles}",
        "{[b]: 0 <= b < blanes}",
        "{[b2]: 0 <= b2 < blanes}",
        f"{{[k]: 0 <= k < {RANKS}}}",
        f"{{[m]: 0 <= m < {RANKS}}}",
    ]
    return dense_kernel("m2l_svd", domains, TEXT, arrays, dtype)
