"""M2L by Fourier transform: octets are transformed, multiplied at each frequency, and transformed back.

Planes of frequencies are processed in batches that fit in the workspace.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from fmmloopy.common.sizes import SIBLINGS, count_frequencies, grid_period
from fmmloopy.execution.plan import Plan
from fmmloopy.execution.runtime import Array, Launch
from fmmloopy.execution.values import Checks, Multipoles
from fmmloopy.operators import M2L_FORWARD, M2L_HADAMARD, M2L_INVERSE
from fmmloopy.recipes.layouts import Order, as_in_memory, check_same_layouts
from fmmloopy.tables.fft import OctetPairs, find_octet_pairs, hadamard_tables

Arguments = dict[str, Any]


def fft(
    plan: Plan, notify: Callable[[str], None], levels: range, table: int, multipoles: Multipoles, checks: Checks
) -> list[Launch]:
    """Return the launches for the boxes of some levels; arguments as for :data:`fmmloopy.execution.m2l_forms.FORMS`."""
    pairs = find_octet_pairs(plan.copied.tree, plan.copied.lists, levels)
    if not pairs.npairs:
        return []
    layouts = _layouts(plan, notify)
    order = plan.setup.method.order
    plane = grid_period(order) ** 2  # frequencies
    nsources, ntargets = len(pairs.source_children), len(pairs.target_children)
    nplanes = _planes_at_a_time(plan, nsources, ntargets)
    spectra = plan.spectra.spectra(nplanes * plane * SIBLINGS, nsources + 1, ntargets + 1)
    common = {
        **spectra,
        **plan.spectra.fourier,
        "surface_grid": plan.expansions.surface_grid,
        "npoints": plan.expansions.npoints,
        "nsurface": plan.expansions.nsurface,
        "nboxes": plan.copied.tree.nboxes,
    }
    forward = common | _forward(plan, pairs, multipoles.array)
    hadamard = common | _hadamard(plan, pairs, table, layouts)
    inverse = common | _inverse(plan, pairs, checks.array)
    launches = []
    for start in range(0, order, nplanes):
        end = min(start + nplanes, order)
        planes, frequencies = {"kz_start": start, "kz_end": end}, {"f_start": start * plane, "f_end": end * plane}
        launches += [
            plan.bind(M2L_FORWARD, forward | planes, notify),
            *(plan.runtime.clear(spectra[name]) for name in ("Lr", "Li")),
            plan.bind(M2L_HADAMARD, hadamard | frequencies, notify),
            plan.bind(M2L_INVERSE, inverse | planes, notify),
        ]
    return launches


def _layouts(plan: Plan, notify: Callable[[str], None]) -> dict[str, Order]:
    """Return the orders in memory of the axes of tables that the products read, as their recipe has chosen them.

    Raises:
        RecipeError: two stages have different orders for the spectra that they share.
    """
    book, stages = plan.setup.book, (M2L_FORWARD, M2L_HADAMARD, M2L_INVERSE)
    layouts = {stage.name: dict(plan.code(stage, notify).layouts) for stage in stages}
    check_same_layouts(book.name, ((book.operator(name), chosen) for name, chosen in layouts.items()))
    return layouts[M2L_HADAMARD.name]


def _planes_at_a_time(plan: Plan, nsources: int, ntargets: int) -> int:
    """Return how many planes of frequencies fit in the workspace, with complex numbers of eight siblings each."""
    order, arrays = plan.setup.method.order, plan.spectra
    octets = arrays.columns * (nsources + 1) + arrays.rows * (ntargets + 1)
    nbytes = 2 * grid_period(order) ** 2 * SIBLINGS * octets * arrays.dtype.itemsize
    return int(min(order, max(1, plan.workspace // nbytes)))


def _forward(plan: Plan, pairs: OctetPairs, multipoles: Array) -> Arguments:
    return {
        "octet_children": plan.runtime.upload(pairs.source_children),
        "noctets": len(pairs.source_children),
        "multipoles": multipoles,
    }


def _hadamard(plan: Plan, pairs: OctetPairs, table: int, layouts: dict[str, Order]) -> Arguments:
    tables, method = plan.problem.tables, plan.setup.method

    def make() -> dict[str, NDArray[Any]]:
        dtype = plan.spectra.dtype
        spectra = hadamard_tables(method.translations, method.order, tables.radii[table], tables.inner, dtype)
        return {n: as_in_memory(each, layouts.get(n)) for n, each in zip(("Kr", "Ki"), spectra, strict=True)}

    chosen = [layouts.get(name) for name in ("Kr", "Ki")]
    spectra = plan.spectra.of_tables(f"hadamard {table} {chosen}", make)
    return {
        **spectra,
        "pair_starts": plan.runtime.upload(pairs.starts),
        "pair_targets": plan.expansions.indices(pairs.targets),
        "pair_sources": plan.expansions.indices(pairs.sources),
        "nchunks": pairs.nchunks,
        "nsource_octets": len(pairs.source_children),
        "ntarget_octets": len(pairs.target_children),
        "nfreqs": count_frequencies(method.order),
    }


def _inverse(plan: Plan, pairs: OctetPairs, checks: Array) -> Arguments:
    arrays, a_child = plan.expansions, pairs.target_children.min(axis=1)
    return {
        "octet_children": plan.runtime.upload(pairs.target_children),
        "noctets": len(pairs.target_children),
        "octet_scales": arrays.upload(arrays.scaling(plan.copied.tree.box_radii[a_child], 1)),
        "checks": checks,
    }
