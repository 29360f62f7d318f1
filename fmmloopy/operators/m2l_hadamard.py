"""M2L by Fourier transform, second stage: multiply with the transformed Green's function, frequency by frequency.

    L[f, target octet, i] += sum over neighbour octets in direction d, and their children j,
                             of K[f, d, j, i] M[f, source octet, j]

Target octets are taken in chunks that a cache holds. Within a chunk and direction d, pairs (target octet, source octet)
form blocks of ``blanes`` that share the 8 x 8 matrix K[f, d]. The method: :mod:`fmmloopy.operators.fourier`.

Inames
    f, chunk, d       frequency; chunk of target octets; direction
    row, col          components of the target and of the source
    ptile, b          tile and lane of pairs
    j, i              source child; target child
Parameter that a recipe fixes
    blanes            lanes per tile
Substitution rules
    pair(b)           index into the lists of pairs, which are padded
    target(b)         the octet that pair b adds to
Statements
    pair_start, pair_end, ptiles; src; initr, initi; xr, xi; sumr, sumi
    storer, storei    add to the output, guarded by the end of the pairs
Arguments
    Kr, Ki (nfreqs, 26, rows, columns, 8, 8)               by child j, then i; all frequencies
    Mr, Mi (nf, columns, nsource_octets + 1, 8)            nf = f_end - f_start
    Lr, Li (nf, rows, ntarget_octets + 1, 8)               added to
    pair_starts (nchunks * 26 + 1,); pair_targets, pair_sources (npairs + padding,)       octet numbers
    f_start, f_end    frequencies of a launch
"""

from __future__ import annotations

from fmmloopy.common.late import loopy as lp
from fmmloopy.common.sizes import DIRECTIONS, SIBLINGS, count_frequencies
from fmmloopy.operators.fourier import spectral_numbers
from fmmloopy.operators.operator import (
    Counts,
    Form,
    Kernel,
    Operator,
    Pairs,
    Role,
    Specification,
    arrays,
    counts,
    indices,
)

SPECTRUM_AXES = "kz*ky*kx component octet sibling"
"""Names of the axes of spectra, as in the transforms."""

TEXT = f"""
pair(b_) := pair_start + blanes*ptile + b_
target(b_) := pair_targets[pair(b_)]
for f, chunk, d
    <> pair_start = pair_starts[{DIRECTIONS}*chunk + d] {{id=pair_start}}
    <> pair_end = pair_starts[{DIRECTIONS}*chunk + d + 1] {{id=pair_end}}
    <> ptiles = (pair_end - pair_start + blanes - 1) // blanes {{id=ptiles,dep=pair_start:pair_end}}
    for ptile
        <> src[b] = pair_sources[pair(b)] {{id=src,dep=pair_start}}
        for row
            <> ur[b, i] = 0 {{id=initr}}
            <> ui[b, i] = 0 {{id=initi}}
            for col, j, b
                <> xr = Mr[f - f_start, col, src[b], j] {{id=xr,dep=src}}
                <> xi = Mi[f - f_start, col, src[b], j] {{id=xi,dep=src}}
                for i
                    ur[b, i] = ur[b, i] + Kr[f, d, row, col, j, i]*xr \
                        - Ki[f, d, row, col, j, i]*xi {{id=sumr,dep=initr:xr:xi}}
                    ui[b, i] = ui[b, i] + Kr[f, d, row, col, j, i]*xi \
                        + Ki[f, d, row, col, j, i]*xr {{id=sumi,dep=initi:xr:xi}}
                end
            end
            if pair(b) < pair_end
                Lr[f - f_start, row, target(b), i] = Lr[f - f_start, row, target(b), i] + ur[b, i] \
                    {{id=storer,dep=sumr:initr:pair_end}}
                Li[f - f_start, row, target(b), i] = Li[f - f_start, row, target(b), i] + ui[b, i] \
                    {{id=storei,dep=sumi:initi:pair_end}}
            end
        end
    end
end
"""


def m2l_hadamard(spec: Specification) -> Kernel:
    """Make the kernel that multiplies with the transformed Green's function."""
    return lp.make_kernel(
        [
            "{[f]: f_start <= f < f_end}",
            "{[chunk]: 0 <= chunk < nchunks}",
            f"{{[d]: 0 <= d < {DIRECTIONS}}}",
            "{[ptile]: 0 <= ptile < ptiles}",
            f"{{[row]: 0 <= row < {spec.rows}}}",
            f"{{[col]: 0 <= col < {spec.columns}}}",
            "{[b]: 0 <= b < blanes}",
            f"{{[j, i]: 0 <= j < {SIBLINGS} and 0 <= i < {SIBLINGS}}}",
        ],
        TEXT,
        spec.loopy_arguments(),
        name=spec.operator.name,
        assumptions="nchunks >= 1 and blanes >= 1 and 0 <= f_start < f_end",
        silenced_warnings=["write_race(storer)", "write_race(storei)"],
        lang_version=lp.MOST_RECENT_LANGUAGE_VERSION,
    )


def _flops(spec: Specification, amount: Counts) -> float:
    """Count a matrix of 8 x 8 complex entries for each pair of components, then the sums added to the target's."""
    product = 8 * SIBLINGS**2 * spec.rows * spec.columns + 2 * SIBLINGS * spec.rows
    return amount["pairs"] * count_frequencies(spec.order) * product


def _traffic(spec: Specification, amount: Counts) -> float:
    """Count the spectra of the sources once, those of the targets twice, and the matrices of all directions."""
    matrices = 2 * count_frequencies(spec.order) * DIRECTIONS * SIBLINGS**2 * spec.rows * spec.columns
    vectors = spec.columns * amount["sources"] + 2 * spec.rows * amount["rows"]
    return spectral_numbers(spec) * vectors + matrices


M2L_HADAMARD = Operator(
    "m2l_hadamard",
    Form.PRODUCT,
    Pairs(DIRECTIONS, targets="ntarget_octets", sources="nsource_octets", spectra=True),
    sides=("spectra", "spectra"),
    make=m2l_hadamard,
    arguments=(
        *arrays(
            "Kr,Ki",
            f"nfreqs, {DIRECTIONS}, {{rows}}, {{columns}}, {SIBLINGS}, {SIBLINGS}",
            whole=(-3, 3),
            axes="frequency direction row column source_sibling target_sibling",
        ),
        *arrays(
            "Mr,Mi",
            f"f_end - f_start, {{columns}}, nsource_octets + 1, {SIBLINGS}",
            whole=(-3, 3),
            axes=SPECTRUM_AXES,
        ),
        *arrays(
            "Lr,Li",
            f"f_end - f_start, {{rows}}, ntarget_octets + 1, {SIBLINGS}",
            role=Role.ADDED_TO,
            whole=(-3, 3),
            axes=SPECTRUM_AXES,
        ),
        *indices("pair_starts,pair_targets,pair_sources"),
        *counts("nfreqs,f_start,f_end,nchunks,nsource_octets,ntarget_octets,blanes"),
    ),
    flops=_flops,
    traffic=_traffic,
    m2l="fft",
    block=5000.0,
    independent=("f", "chunk", "row", "i"),
)
