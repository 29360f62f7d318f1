"""M2L by Fourier transform, last stage: transform back, onto the check surfaces of the children of target octets.

    check potentials of child i += scale * Re sum over f of exp(+2 pi i f.m / N) L[f, octet, i] / N^3

The method and what the three stages share: :mod:`fmmloopy.operators.fourier`.

Inames
    octet, comp             octet; component
    kz                      plane of frequencies; then, per plane:
    k1y x1 k1 i1, x2 y2 k2 i2     x- and y-transform, over k1 and k2
    s, i3                   z-transform: surface point, sibling
    i_child; s_zero, i_zero; s_store, i_store     children; clearing and adding the results
Statements
    child, zero; init<n>r/i, sum<n>r/i, store<n>r/i for n = 1, 2; sx, sy, sz, sum
    store                   guarded by the child's being there
Arguments
    Lr, Li (nkz, N, N, components, noctets + 1, 8)      axes kz, ky, kx
    octet_children, surface_grid, dft_r, dft_i          as in m2l_forward
    plane_weights (p,)                                  1 / N^3 for kz = 0, 2 / N^3 for others
    octet_scales (noctets,)                             r^k for a function of homogeneity k, else 1
    checks (nboxes + 1, components, nsurface)           added to

Check potentials and scales are of the outer type, all other numbers of the inner.
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


def m2l_inverse(spec: Specification) -> Kernel:
    """Make the kernel that transforms back and adds to check potentials of the children of target octets."""
    p, n = spec.order, grid_period(spec.order)
    domains = [
        *ranges("s_zero s s_store", count_points(p)),
        *ranges("x1 x2 y2", p),
        *ranges("k1 k1y k2", n),
        *ranges("i_child i_zero i1 i2 i3 i_store", SIBLINGS),
    ]
    temporaries = [lp.TemporaryVariable(name, spec.types.inner, shape=(p, p, SIBLINGS)) for name in ("h2r", "h2i")]
    return transform_kernel(spec, TEXT, domains, temporaries)


def _flops(spec: Specification, amount: Counts) -> float:
    """Along x and y in the plane, its weight, then along z to the points of the surface alone; then the scaling."""
    p, n, npoints = spec.order, grid_period(spec.order), count_points(spec.order)
    plane = 8 * n * p * n + 8 * p * p * n + 2 * p * p + 4 * npoints
    return spec.rows * (amount["octets"] * p * SIBLINGS * plane + 2 * amount["children"] * npoints)


def _traffic(spec: Specification, amount: Counts) -> float:
    """Count the spectra of octets, and the check potentials of the children twice."""
    return spec.rows * (spectral_numbers(spec) * amount["octets"] + 2 * count_points(spec.order) * amount["children"])


M2L_INVERSE = Operator(
    "m2l_inverse",
    Form.TRANSFORM,
    Octets("targets"),
    sides=("expansions", "spectra"),
    make=m2l_inverse,
    arguments=(
        Array("Lr", SPECTRUM.format(components="{rows}"), whole=(-3, 3), axes=SPECTRUM_AXES),
        Array("Li", SPECTRUM.format(components="{rows}"), whole=(-3, 3), axes=SPECTRUM_AXES),
        *grid("{points}"),
        Array("plane_weights", "{order}", whole=(1, 3)),
        Array("octet_scales", "noctets", Kind.OUTER, whole=(1, 3)),
        Array("checks", "nboxes + 1, {rows}, nsurface", Kind.OUTER, Role.ADDED_TO, (-9, 9)),
        *counts("noctets,nboxes,nsurface,kz_start,kz_end"),
    ),
    depends_on_order=True,
    flops=_flops,
    traffic=_traffic,
    m2l="fft",
    vectors=("rows", "rows"),
    independent=("octet", "comp", "s", "i"),
)
