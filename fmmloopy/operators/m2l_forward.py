"""M2L by Fourier transform, first stage: transform the equivalent densities of source octets.

    M[f, octet, j] = sum over the p^3 corner of exp(-2 pi i f.n / N) equivalent of child j

The method and what the three stages share: :mod:`fmmloopy.operators.fourier`.

Inames
    octet, comp             octet; component
    s, j_load; gx gy gz j_zero     surface point and sibling: load; clearing the grid
    kz                      plane of frequencies; then, per plane:
    x1 y1 z1 j1, x2 k2 y2 j2, k3 l3 x3 j3     z-, y- and x-transform (k3 = ky, l3 = kx)
Statements
    child, zero, load; per stage <n> in 1 .. 3: init<n>r/i, sum<n>r/i, store<n>r/i
Arguments
    multipoles (nboxes + 1, components, nsurface)
    octet_children (noctets, 8)     box or nboxes
    surface_grid (3, npoints)       grid coordinates
    dft_r, dft_i (p, N)             matrix of the transform
    Mr, Mi (nkz, N, N, components, noctets + 1, 8)      written

Multipoles are of the outer type, all other numbers of the inner: transforms in float32 of expansions in float64.
"""

from __future__ import annotations

from fmmloopy.common.late import loopy as lp
from fmmloopy.common.sizes import SIBLINGS, count_points, grid_period
from fmmloopy.operators.fourier import SPECTRUM, SPECTRUM_AXES, grid, ranges, spectral_numbers, transform_kernel
from fmmloopy.operators.operator import (
    Array,
    Counts,
    Form,
    Kernel,
    Kind,
    Octets,
    Operator,
    Role,
    Specification,
    counts,
)

TEXT = """
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


def m2l_forward(spec: Specification) -> Kernel:
    """Make the kernel that transforms the equivalent densities of source octets."""
    p, n = spec.order, grid_period(spec.order)
    domains = [
        "{[s]: 0 <= s < npoints}",
        *ranges("gx gy gz x1 y1 z1 x2 y2 x3", p),
        *ranges("k2 k3 l3", n),
        *ranges("j_child j_zero j_load j1 j2 j3", SIBLINGS),
    ]
    grid = lp.TemporaryVariable("grid", spec.types.inner, shape=(p, p, p, SIBLINGS))
    return transform_kernel(spec, TEXT, domains, [grid], "npoints >= 1 and ")


def _flops(spec: Specification, amount: Counts) -> float:
    """Along z to one plane of real data, then along y and x in the plane; a complex product and sum is 8 operations."""
    p, n = spec.order, grid_period(spec.order)
    plane = 4 * p * p * p + 8 * p * n * p + 8 * n * n * p
    return amount["octets"] * spec.columns * p * SIBLINGS * plane


def _traffic(spec: Specification, amount: Counts) -> float:
    """Count densities of the children, and the spectra of octets, which are complex."""
    return spec.columns * (count_points(spec.order) * amount["children"] + spectral_numbers(spec) * amount["octets"])


M2L_FORWARD = Operator(
    "m2l_forward",
    Form.TRANSFORM,
    Octets("sources"),
    sides=("expansions", "spectra"),
    make=m2l_forward,
    arguments=(
        Array("multipoles", "nboxes + 1, {columns}, nsurface", Kind.OUTER, whole=(-5, 5), has_zero_row=True),
        *grid("npoints"),
        Array("Mr", SPECTRUM.format(components="{columns}"), role=Role.WRITTEN, axes=SPECTRUM_AXES),
        Array("Mi", SPECTRUM.format(components="{columns}"), role=Role.WRITTEN, axes=SPECTRUM_AXES),
        *counts("noctets,nboxes,nsurface,npoints,kz_start,kz_end"),
    ),
    depends_on_order=True,
    flops=_flops,
    traffic=_traffic,
    m2l="fft",
    vectors=("columns", "columns"),
    independent=("octet", "comp", "kz", "k3", "l3", "j3"),
)
