"""M2L compressed by singular values: check potentials from the multipoles of the V list, through few numbers a pair.

    checks[target, i] += scale[target] * sum over pairs (target, source), with transfer vector v, and over k, j of
                         left[v, k, i] * right[v, k, j] * multipoles[source, j]

For each transfer vector, left and right are what its M2L matrix keeps of its singular value decomposition, so that one
matrix of n x n becomes two of n x rank. Pairs of boxes are grouped by transfer vector, and a block of them shares each
entry of both matrices: a product of matrices with matrices. (Fong & Darve 2009, section 3.3, compress with bases that
all transfer vectors share; :mod:`fmmloopy.tables.svd` says why each has its own here.)

Target boxes are taken in chunks that a cache holds. Singular values come in tiles of RANKS; a tile is applied to all
pairs of a chunk and transfer vector before the next.

Inames
    chunk, transfer   chunk of target boxes; transfer vector, numbered as in :data:`fmmloopy.octree.lists`
    ktile             tile of singular values
    ptile, b, b2      tile and lane of pairs: pair = pair_start + blanes * ptile + b; b2 the same lane for rows
    j                 column: a number of the source's multipole
    k, m              lane of a singular value: as a result of ``right``, and as a column of ``left``
    itile, i          tile and lane of rows: row = ilanes * itile + i
Parameters that a recipe fixes
    blanes, ilanes    lanes per tile; ilanes divides ROWS of :mod:`fmmloopy.common.sizes`
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
    multipoles (nboxes + 1, ncolumns); result (nboxes + 1, nrows), added to
    scales (nboxes + 1,)                  per box: r^k for a function of homogeneity k, else 1
    pair_starts (nchunks * TRANSFERS + 1,); pair_targets, pair_sources (npairs + padding,)    boxes of each pair

In one chunk, a transfer vector has at most one pair for each target.
"""

from __future__ import annotations

from fmmloopy.common.sizes import RANKS, TRANSFERS
from fmmloopy.operators.dense import OUTPUT, SCALES, SIDES, VECTOR, dense_kernel, multiplications, sizes, vector_length
from fmmloopy.operators.operator import (
    Array,
    Counts,
    Form,
    Kernel,
    Operator,
    Pairs,
    Role,
    Specification,
    counts,
    indices,
)

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


def m2l_svd(spec: Specification) -> Kernel:
    """Make the compressed M2L kernel in float32 or float64; ``result`` are the check potentials."""
    domains = [
        "{[chunk]: 0 <= chunk < nchunks}",
        f"{{[transfer]: 0 <= transfer < {TRANSFERS}}}",
        "{[ktile, ptile]: ktile_start <= ktile < ktile_end and 0 <= ptile < ptiles}",
        "{[b]: 0 <= b < blanes}",
        "{[b2]: 0 <= b2 < blanes}",
        f"{{[k]: 0 <= k < {RANKS}}}",
        f"{{[m]: 0 <= m < {RANKS}}}",
    ]
    return dense_kernel(spec, domains, TEXT)


def _flops(spec: Specification, amount: Counts) -> float:
    return multiplications(amount["ranks"], vector_length(spec, spec.rows + spec.columns), 1)


def _traffic(spec: Specification, amount: Counts) -> float:
    """Count the vectors, the sums twice, and the factors of each matrix that occurs."""
    rows, columns = vector_length(spec, spec.rows), vector_length(spec, spec.columns)
    return columns * amount["sources"] + 2 * rows * amount["rows"] + (rows + columns) * amount["kept"]


FACTOR = (-2, 2)
"""Entries of factors in exact cases, with vectors in -1 .. 1: at order 6, sums of 320 products of 2, times sums of 24
products of 2, times 26 transfer vectors and scales of 3."""

M2L_SVD = Operator(
    "m2l_svd",
    Form.PRODUCT,
    Pairs(TRANSFERS, targets="nboxes", sources="nboxes"),
    SIDES,
    make=m2l_svd,
    arguments=(
        Array("right", f"nktiles, ncolumns, {RANKS}", whole=FACTOR),
        Array("left", f"nktiles, {RANKS}, itiles, ilanes", whole=FACTOR),
        Array("multipoles", VECTOR, whole=(-1, 1), has_zero_row=True),
        Array("result", OUTPUT, role=Role.ADDED_TO, whole=(-9, 9)),
        Array("scales", "nboxes + 1", whole=SCALES),
        *indices("ktile_starts,pair_starts,pair_targets,pair_sources"),
        *counts("nktiles,nchunks"),
        *sizes("blanes,ilanes"),
    ),
    flops=_flops,
    traffic=_traffic,
    m2l="svd",
    independent=("chunk", "itile", "i"),
)
