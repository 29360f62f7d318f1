"""Cases of the FFT form of M2L: transforms and products."""

from __future__ import annotations

from typing import Any

import numpy as np

from fmmloopy.checking.case import PADDING, Case, Layout, nsurface_of, surface_grid, whole
from fmmloopy.greens import GreensFunction
from fmmloopy.precision import outer_and_inner
from fmmloopy.surfaces import count_points


def _transform_arguments(order: int, dtype: Any, rng: np.random.Generator, layout: Layout) -> dict[str, Any]:
    """Whole numbers in place of waves: transforms are linear maps, whatever their matrices hold."""
    period = 2 * order - 1
    noctets = layout.blocks or 5
    nboxes = 8 * noctets + 1
    children = np.full((noctets, 8), nboxes)
    present = rng.random((noctets, 8)) < layout.present
    children[present] = rng.permutation(nboxes)[: present.sum()]
    return {
        "octet_children": children.astype(np.int32),
        "surface_grid": surface_grid(order),
        "dft_r": whole(rng, (order, period), 1, dtype),
        "dft_i": whole(rng, (order, period), 1, dtype),
        "noctets": noctets,
        "nboxes": nboxes,
        "npoints": count_points(order),
        "nsurface": nsurface_of(order),
        "kz_start": 1,
        "kz_end": order,
    }


def forward_case(
    operator: str, greens: GreensFunction, order: int, dtype: Any, rng: np.random.Generator, layout: Layout
) -> Case:
    """Three stages of at most 2 p products with numbers up to 1: values grow from 5 to 5 (2p)^3 at most."""
    outer, inner = outer_and_inner(dtype)
    arguments = _transform_arguments(order, inner, rng, layout)
    components, period = greens.nsource_components, 2 * order - 1
    multipoles = whole(rng, (arguments["nboxes"] + 1, components, arguments["nsurface"]), 5, outer)
    multipoles[-1] = 0
    multipoles[..., arguments["npoints"] :] = layout.poison
    shape = (order - 1, period, period, components, arguments["noctets"] + 1, 8)
    out = {name: np.full(shape, layout.poison, inner) for name in ("Mr", "Mi")}
    return Case(operator, greens, order, dtype, {**arguments, **out, "multipoles": multipoles}, ("Mr", "Mi"))


def inverse_case(
    operator: str, greens: GreensFunction, order: int, dtype: Any, rng: np.random.Generator, layout: Layout
) -> Case:
    """Stages of at most 2N, 2N and 2p products with numbers up to 1, times weights and scales up to 3."""
    outer, inner = outer_and_inner(dtype)
    arguments = _transform_arguments(order, inner, rng, layout)
    components, period = greens.ntarget_components, 2 * order - 1
    checks = whole(rng, (arguments["nboxes"] + 1, components, arguments["nsurface"]), 9, outer)
    checks[..., arguments["npoints"] :] = layout.poison
    shape = (order - 1, period, period, components, arguments["noctets"] + 1, 8)
    spectra = {name: whole(rng, shape, 3, inner) for name in ("Lr", "Li")}
    more = {
        "plane_weights": rng.integers(1, 4, order).astype(inner),
        "octet_scales": rng.integers(1, 4, arguments["noctets"]).astype(outer),
        "checks": checks,
    }
    return Case(operator, greens, order, dtype, {**arguments, **spectra, **more}, ("checks",))


def hadamard_case(
    operator: str, greens: GreensFunction, order: int, dtype: Any, rng: np.random.Generator, layout: Layout
) -> Case:
    """Two chunks of target octets; pairs of every count around the block widths, one direction without any."""
    rows, columns = greens.ntarget_components, greens.nsource_components
    size = max(10, *layout.pairs)
    nsources, ntargets, nchunks, nfreqs = 13, 2 * size, 2, 7
    targets, sources, counts = [], [], []
    for chunk in range(nchunks):
        for direction in range(26):
            count = layout.pairs[(direction + chunk) % len(layout.pairs)]
            targets.append(size * chunk + rng.permutation(size)[:count])
            sources.append(rng.integers(0, nsources, count))
            counts.append(count)
    first, last = 2, 6
    shapes = {"M": (last - first, columns, nsources + 1, 8), "L": (last - first, rows, ntargets + 1, 8)}
    arguments = {
        "Kr": whole(rng, (nfreqs, 26, rows, columns, 8, 8), 3, dtype),
        "Ki": whole(rng, (nfreqs, 26, rows, columns, 8, 8), 3, dtype),
        **{name + part: whole(rng, shape, 3, dtype) for name, shape in shapes.items() for part in "ri"},
        "pair_starts": np.cumsum([0, *counts]).astype(np.int32),
        "pair_targets": np.concatenate([*targets, np.zeros(PADDING)]).astype(np.int32),
        "pair_sources": np.concatenate([*sources, np.zeros(PADDING)]).astype(np.int32),
        "nfreqs": nfreqs,
        "f_start": first,
        "f_end": last,
        "nchunks": nchunks,
        "nsource_octets": nsources,
        "ntarget_octets": ntargets,
    }
    return Case(operator, greens, order, dtype, arguments, ("Lr", "Li"))
