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

import loopy as lp
import numpy as np

from fmmloopy.operators.pairwise import Kernel

DIRECTIONS = 26
"""Neighbours of a box, numbered as in :data:`fmmloopy.lists.InteractionLists.colleagues` with the box itself left
out."""

_LANGUAGE = {"lang_version": lp.MOST_RECENT_LANGUAGE_VERSION}


def grid_length(order: int) -> int:
    """Return N, the period of the convolution for surfaces of order p: 2p - 1."""
    return 2 * order - 1


def _planes(order: int) -> str:
    """State what loopy may assume of the planes that a launch handles."""
    return f"0 <= kz_start < kz_end <= {order}"


def m2l_forward(order: int, components: int, dtype: Any = np.float64, inner: Any = None) -> Kernel:
    """Make the kernel that transforms the equivalent densities of source octets.

    Inames: octet, comp (component), s and j_load (surface point, sibling: load), gx gy gz j_zero (clearing the grid),
    kz; then per plane z-transform x1 y1 z1 j1, y-transform x2 k2 y2 j2, x-transform k3 l3 x3 j3 (k3 = ky, l3 = kx).

    Statements: child, zero, load; per stage <n> in 1..3: init<n>r/i, sum<n>r/i, store<n>r/i.

    Arguments: multipoles (nboxes + 1, components, nsurface), octet_children (noctets, 8) box or nboxes,
    surface_grid (3, npoints) grid coordinates, dft_r, dft_i (p, N), and the output Mr, Mi
    (nkz, N, N, components, noctets + 1, 8). Multipoles are of ``dtype``, all other numbers of ``inner``, None for the
    same: transforms in float32 of expansions in float64.
    """
    p, n, inner = order, grid_length(order), inner or dtype
    text = """
for octet
    <> child[j_child] = octet_children[octet, j_child] {id=child}
    for comp
        grid[gx, gy, gz, j_zero] = 0 {id=zero}
        for s, j_load
            grid[surface_grid[0, s], surface_grid[1, s], surface_grid[2, s], j_load] = \
                multipoles[child[j_load], comp, s] {id=load,dep=zero:child}
        end
        for kz
            for x1, y1
                <> a1r[j1] = 0 {id=init1r}
                <> a1i[j1] = 0 {id=init1i}
                for z1
                    a1r[j1] = a1r[j1] + grid[x1, y1, z1, j1]*dft_r[z1, kz] {id=sum1r,dep=init1r:load:zero}
                    a1i[j1] = a1i[j1] + grid[x1, y1, z1, j1]*dft_i[z1, kz] {id=sum1i,dep=init1i:load:zero}
                end
                <> g1r[x1, y1, j1] = a1r[j1] {id=store1r,dep=sum1r}
                <> g1i[x1, y1, j1] = a1i[j1] {id=store1i,dep=sum1i}
            end
            for x2, k2
                <> a2r[j2] = 0 {id=init2r}
                <> a2i[j2] = 0 {id=init2i}
                for y2
                    a2r[j2] = a2r[j2] + g1r[x2, y2, j2]*dft_r[y2, k2] - g1i[x2, y2, j2]*dft_i[y2, k2] \
                        {id=sum2r,dep=init2r:store1*}
                    a2i[j2] = a2i[j2] + g1r[x2, y2, j2]*dft_i[y2, k2] + g1i[x2, y2, j2]*dft_r[y2, k2] \
                        {id=sum2i,dep=init2i:store1*}
                end
                <> g2r[x2, k2, j2] = a2r[j2] {id=store2r,dep=sum2r}
                <> g2i[x2, k2, j2] = a2i[j2] {id=store2i,dep=sum2i}
            end
            for k3, l3
                <> a3r[j3] = 0 {id=init3r}
                <> a3i[j3] = 0 {id=init3i}
                for x3
                    a3r[j3] = a3r[j3] + g2r[x3, k3, j3]*dft_r[x3, l3] - g2i[x3, k3, j3]*dft_i[x3, l3] \
                        {id=sum3r,dep=init3r:store2*}
                    a3i[j3] = a3i[j3] + g2r[x3, k3, j3]*dft_i[x3, l3] + g2i[x3, k3, j3]*dft_r[x3, l3] \
                        {id=sum3i,dep=init3i:store2*}
                end
                Mr[kz - kz_start, k3, l3, comp, octet, j3] = a3r[j3] {id=store3r,dep=sum3r}
                Mi[kz - kz_start, k3, l3, comp, octet, j3] = a3i[j3] {id=store3i,dep=sum3i}
            end
        end
    end
end
"""
    corner = f"0 <= {{0}} < {p}"
    knl = lp.make_kernel(
        [
            "{[octet]: 0 <= octet < noctets}",
            f"{{[comp]: 0 <= comp < {components}}}",
            "{[kz]: kz_start <= kz < kz_end}",
            "{[s]: 0 <= s < npoints}",
            *[
                f"{{[{name}]: {corner.format(name)}}}"
                for name in ["gx", "gy", "gz", "x1", "y1", "z1", "x2", "y2", "x3"]
            ],
            *[f"{{[{name}]: 0 <= {name} < {n}}}" for name in ("k2", "k3", "l3")],
            *[f"{{[{name}]: 0 <= {name} < 8}}" for name in ("j_child", "j_zero", "j_load", "j1", "j2", "j3")],
        ],
        text,
        [
            lp.GlobalArg("multipoles", dtype, shape=f"nboxes + 1, {components}, nsurface"),
            lp.GlobalArg("octet_children", np.int32, shape="noctets, 8"),
            lp.GlobalArg("surface_grid", np.int32, shape="3, npoints"),
            lp.GlobalArg("dft_r,dft_i", inner, shape=(p, n)),
            lp.GlobalArg(
                "Mr,Mi", inner, shape=f"kz_end - kz_start, {n}, {n}, {components}, noctets + 1, 8", is_output=True
            ),
            lp.ValueArg("noctets,nboxes,nsurface,npoints,kz_start,kz_end", np.int32),
            lp.TemporaryVariable("grid", inner, shape=(p, p, p, 8)),
        ],
        name="m2l_forward",
        assumptions=f"noctets >= 1 and npoints >= 1 and {_planes(order)}",
        **_LANGUAGE,
    )
    return knl


def m2l_hadamard(rows: int, columns: int, dtype: Any = np.float64) -> Kernel:
    """Make the kernel that multiplies with the transformed Green's function, frequency by frequency.

    Target octets are taken in chunks that a cache holds; within a chunk and direction d, pairs (target octet, source
    octet) form blocks of ``blanes`` that share the 8 x 8 matrix K[f, d].

    Inames: f, chunk, d, row, col (components), ptile and b (tile and lane of pairs), j (source child), i (target
    child). Parameter: blanes.

    Statements: pair_start, pair_end, ptiles; src; initr, initi; xr, xi; sumr, sumi; storer, storei (accumulate,
    guarded by the end of the pairs).

    Arguments: Kr, Ki (all frequencies, 26, rows, columns, 8 children j, 8 children i); Mr, Mi (nfreq, columns,
    nsource_octets + 1, 8); Lr, Li (nfreq, rows, ntarget_octets + 1, 8), accumulated into; pair_starts
    (nchunks * 26 + 1,); pair_targets, pair_sources (npairs + padding,): octet numbers; f_start: first frequency.
    """
    text = """
pair(b_) := pair_start + blanes*ptile + b_
target(b_) := pair_targets[pair(b_)]
for f, chunk, d
    <> pair_start = pair_starts[26*chunk + d] {id=pair_start}
    <> pair_end = pair_starts[26*chunk + d + 1] {id=pair_end}
    <> ptiles = (pair_end - pair_start + blanes - 1) // blanes {id=ptiles,dep=pair_start:pair_end}
    for ptile
        <> src[b] = pair_sources[pair(b)] {id=src,dep=pair_start}
        for row
            <> ur[b, i] = 0 {id=initr}
            <> ui[b, i] = 0 {id=initi}
            for col, j, b
                <> xr = Mr[f - f_start, col, src[b], j] {id=xr,dep=src}
                <> xi = Mi[f - f_start, col, src[b], j] {id=xi,dep=src}
                for i
                    ur[b, i] = ur[b, i] + Kr[f, d, row, col, j, i]*xr \
                        - Ki[f, d, row, col, j, i]*xi {id=sumr,dep=initr:xr:xi}
                    ui[b, i] = ui[b, i] + Kr[f, d, row, col, j, i]*xi \
                        + Ki[f, d, row, col, j, i]*xr {id=sumi,dep=initi:xr:xi}
                end
            end
            if pair(b) < pair_end
                Lr[f - f_start, row, target(b), i] = Lr[f - f_start, row, target(b), i] + ur[b, i] \
                    {id=storer,dep=sumr:initr:pair_end}
                Li[f - f_start, row, target(b), i] = Li[f - f_start, row, target(b), i] + ui[b, i] \
                    {id=storei,dep=sumi:initi:pair_end}
            end
        end
    end
end
"""
    knl = lp.make_kernel(
        [
            "{[f]: f_start <= f < f_end}",
            "{[chunk]: 0 <= chunk < nchunks}",
            f"{{[d]: 0 <= d < {DIRECTIONS}}}",
            "{[ptile]: 0 <= ptile < ptiles}",
            f"{{[row]: 0 <= row < {rows}}}",
            f"{{[col]: 0 <= col < {columns}}}",
            "{[b]: 0 <= b < blanes}",
            "{[j, i]: 0 <= j < 8 and 0 <= i < 8}",
        ],
        text,
        [
            lp.GlobalArg("Kr,Ki", dtype, shape=f"nfreqs, {DIRECTIONS}, {rows}, {columns}, 8, 8"),
            lp.GlobalArg("Mr,Mi", dtype, shape=f"f_end - f_start, {columns}, nsource_octets + 1, 8"),
            lp.GlobalArg(
                "Lr,Li", dtype, shape=f"f_end - f_start, {rows}, ntarget_octets + 1, 8", is_input=True, is_output=True
            ),
            lp.GlobalArg("pair_starts,pair_targets,pair_sources", np.int32, shape=None),
            lp.ValueArg("nfreqs,f_start,f_end,nchunks,nsource_octets,ntarget_octets,blanes", np.int32),
        ],
        name="m2l_hadamard",
        assumptions="nchunks >= 1 and blanes >= 1 and 0 <= f_start < f_end",
        silenced_warnings=["write_race(storer)", "write_race(storei)"],
        **_LANGUAGE,
    )
    return knl


def m2l_inverse(order: int, components: int, dtype: Any = np.float64, inner: Any = None) -> Kernel:
    """Make the kernel that transforms back and accumulates check potentials of the children of target octets.

    Inames: octet, comp; kz; per plane x-transform y1 x1 i1 over k1, y-transform x2 y2 i2 over k2; z-transform of the
    surface points s and i3; i_child, s_zero and i_zero, s_store and i_store.

    Statements: child, zero; init<n>r/i, sum<n>r/i, store<n>r/i for n = 1, 2; sum; store (guarded by the child's being
    there).

    Arguments: Lr, Li (nkz, N, N, components, noctets + 1, 8) with axes kz, ky, kx; octet_children, surface_grid, dft_r,
    dft_i as in m2l_forward; plane_weights (p,): 1/N^3 for kz = 0, 2/N^3 for others; octet_scales (noctets,); check
    potentials ``checks`` (nboxes + 1, components, nsurface), accumulated into. Check potentials and scales are of
    ``dtype``, all other numbers of ``inner``, None for the same.
    """
    p, n, inner = order, grid_length(order), inner or dtype
    npoints = 6 * (p - 1) ** 2 + 2
    text = """
for octet
    <> child[i_child] = octet_children[octet, i_child] {id=child}
    for comp
        <> v[s_zero, i_zero] = 0 {id=zero}
        for kz
            for k1y, x1
                <> a1r[i1] = 0 {id=init1r}
                <> a1i[i1] = 0 {id=init1i}
                for k1
                    a1r[i1] = a1r[i1] + Lr[kz - kz_start, k1y, k1, comp, octet, i1]*dft_r[x1, k1] \
                        + Li[kz - kz_start, k1y, k1, comp, octet, i1]*dft_i[x1, k1] {id=sum1r,dep=init1r}
                    a1i[i1] = a1i[i1] + Li[kz - kz_start, k1y, k1, comp, octet, i1]*dft_r[x1, k1] \
                        - Lr[kz - kz_start, k1y, k1, comp, octet, i1]*dft_i[x1, k1] {id=sum1i,dep=init1i}
                end
                <> h1r[x1, k1y, i1] = a1r[i1] {id=store1r,dep=sum1r}
                <> h1i[x1, k1y, i1] = a1i[i1] {id=store1i,dep=sum1i}
            end
            for x2, y2
                <> a2r[i2] = 0 {id=init2r}
                <> a2i[i2] = 0 {id=init2i}
                for k2
                    a2r[i2] = a2r[i2] + h1r[x2, k2, i2]*dft_r[y2, k2] + h1i[x2, k2, i2]*dft_i[y2, k2] \
                        {id=sum2r,dep=init2r:store1*}
                    a2i[i2] = a2i[i2] + h1i[x2, k2, i2]*dft_r[y2, k2] - h1r[x2, k2, i2]*dft_i[y2, k2] \
                        {id=sum2i,dep=init2i:store1*}
                end
                h2r[x2, y2, i2] = plane_weights[kz]*a2r[i2] {id=store2r,dep=sum2r}
                h2i[x2, y2, i2] = plane_weights[kz]*a2i[i2] {id=store2i,dep=sum2i}
            end
            for s
                <> sx = surface_grid[0, s] {id=sx}
                <> sy = surface_grid[1, s] {id=sy}
                <> sz = surface_grid[2, s] {id=sz}
                v[s, i3] = v[s, i3] + h2r[sx, sy, i3]*dft_r[sz, kz] + h2i[sx, sy, i3]*dft_i[sz, kz] \
                    {id=sum,dep=zero:store2*:sx:sy:sz}
            end
        end
        if child[i_store] < nboxes
            checks[child[i_store], comp, s_store] = checks[child[i_store], comp, s_store] \
                + octet_scales[octet]*v[s_store, i_store] {id=store,dep=sum:child:zero}
        end
    end
end
"""
    knl = lp.make_kernel(
        [
            "{[octet]: 0 <= octet < noctets}",
            f"{{[comp]: 0 <= comp < {components}}}",
            "{[kz]: kz_start <= kz < kz_end}",
            *[f"{{[{name}]: 0 <= {name} < {npoints}}}" for name in ("s_zero", "s", "s_store")],
            *[f"{{[{name}]: 0 <= {name} < {p}}}" for name in ("x1", "x2", "y2")],
            *[f"{{[{name}]: 0 <= {name} < {n}}}" for name in ("k1", "k1y", "k2")],
            *[f"{{[{name}]: 0 <= {name} < 8}}" for name in ("i_child", "i_zero", "i1", "i2", "i3", "i_store")],
        ],
        text,
        [
            lp.GlobalArg("Lr,Li", inner, shape=f"kz_end - kz_start, {n}, {n}, {components}, noctets + 1, 8"),
            lp.GlobalArg("octet_children", np.int32, shape="noctets, 8"),
            lp.GlobalArg("surface_grid", np.int32, shape=(3, npoints)),
            lp.GlobalArg("dft_r,dft_i", inner, shape=(p, n)),
            lp.GlobalArg("plane_weights", inner, shape=(p,)),
            lp.GlobalArg("octet_scales", dtype, shape="noctets"),
            lp.GlobalArg("checks", dtype, shape=f"nboxes + 1, {components}, nsurface", is_input=True, is_output=True),
            lp.ValueArg("noctets,nboxes,nsurface,kz_start,kz_end", np.int32),
            *[lp.TemporaryVariable(name, inner, shape=(p, p, 8)) for name in ("h2r", "h2i")],
        ],
        name="m2l_inverse",
        assumptions=f"noctets >= 1 and {_planes(order)}",
        silenced_warnings=["write_race(store)"],
        **_LANGUAGE,
    )
    return knl
