"""M2L by fast Fourier transform: the equivalent-to-check map between two boxes is a convolution on a regular grid.

The equivalent surface of a source box and the check surface of a target box of the same size are the boundaries of
p x p x p grids with one spacing h, so check[m] = sum over n of G(2 r k + h (m - n)) equivalent[n], with k the transfer
vector: a convolution, exact on a period of N = 2p - 1. Three kernels (Ying, Biros & Zorin 2004, section 3.3; blocked by
octets of siblings as in PVFMM, Malhotra & Biros 2015):

    m2l_forward     M[f, octet, j] = sum over the p^3 corner of exp(-2 pi i f.n / N) equivalent of child j
    m2l_hadamard    L[f, target octet, i] += sum over neighbour octets in direction d, and their children j,
                                             of K[f, d, j, i] M[f, source octet, j]
    m2l_inverse     check potentials of child i += scale * Re sum over f of exp(+2 pi i f.m / N) L[f, octet, i] / N^3

An octet is the eight children of one box, missing ones zero; d counts the 26 neighbours of a box. Data are real, so
only the frequencies kz = 0 .. p-1 are kept (N is odd: all but kz = 0 stand for their conjugates too). Real and
imaginary parts are separate arrays, the eight siblings the innermost axis. Transforms are products with the p x N
matrix of a discrete Fourier transform, axis by axis, one kz plane at a time, so their intermediate planes stay in
cache.

Frequencies are numbered f = (kz N + ky) N + kx; a launch handles the planes kz = kz_start .. kz_end - 1, so that
workspace can be bounded.
"""

from __future__ import annotations

from typing import Any

from fmmloopy.common.late import loopy as lp
from fmmloopy.common.sizes import SIBLINGS, count_frequencies
from fmmloopy.operators.operator import Array, Kernel, Kind, Role, Specification, arrays, indices

WAVE = (-1, 1)
"""Entries of the matrices of the transform in exact cases: a transform is a linear map with any matrix entries."""

SPECTRUM = f"kz_end - kz_start, {{{{period}}}}, {{{{period}}}}, {{components}}, noctets + 1, {SIBLINGS}"
"""Shape of transformed vectors with these components: axes kz, ky, kx."""

SPECTRUM_AXES = "kz ky kx component octet sibling"
"""Names of its axes, whose order in memory recipes choose; they are alike in all three stages."""


def grid(points: str) -> tuple[Array, ...]:
    """Return arguments of both transforms: the children, the grid coordinates of so many points, the transform."""
    return (
        *indices("octet_children", f"noctets, {SIBLINGS}"),
        Array("surface_grid", f"3, {points}", Kind.INDEX, below="{order}", has_distinct_columns=True),
        *arrays("dft_r,dft_i", "{order}, {period}", whole=WAVE),
    )


def spectral_numbers(spec: Specification) -> int:
    """Return how many numbers the spectra of one octet and component are: complex ones of eight siblings."""
    return 2 * SIBLINGS * count_frequencies(spec.order)


def ranges(names: str, end: Any) -> list[str]:
    """Write the domains of inames, with blanks between them, that run from 0 to an end."""
    return [f"{{[{name}]: 0 <= {name} < {end}}}" for name in names.split()]


def transform_kernel(
    spec: Specification, text: str, domains: list[str], temporaries: list[Any], assumptions: str = ""
) -> Kernel:
    """Make the kernel of a transform.

    Args:
        spec: what it is made for.
        text: its statements.
        domains: of all inames but octet, comp and kz.
        temporaries: loopy temporaries.
        assumptions: what loopy may assume beside the ranges of octets and planes, ending with "and".
    """
    components = {"columns": spec.columns, "rows": spec.rows}[spec.operator.vectors[0]]
    adds = any(array.role == Role.ADDED_TO for array in spec.operator.arrays_for(spec.types))
    return lp.make_kernel(
        ["{[octet]: 0 <= octet < noctets}", *ranges("comp", components), "{[kz]: kz_start <= kz < kz_end}", *domains],
        text,
        [*spec.loopy_arguments(), *temporaries],
        name=spec.operator.name,
        assumptions=f"noctets >= 1 and {assumptions}0 <= kz_start < kz_end <= {spec.order}",
        silenced_warnings=["write_race(store)"] if adds else [],
        lang_version=lp.MOST_RECENT_LANGUAGE_VERSION,
    )
