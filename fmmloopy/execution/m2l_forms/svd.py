"""M2L compressed by singular values: faster than the FFT form where boxes have few neighbours, as on surfaces."""

from __future__ import annotations

from collections.abc import Callable

from fmmloopy.accuracy import svd_tolerance
from fmmloopy.execution.plan import Plan
from fmmloopy.execution.runtime import Launch
from fmmloopy.execution.values import Checks, Multipoles
from fmmloopy.operators import M2L_SVD
from fmmloopy.tables.cache import cached_factors
from fmmloopy.tables.fft import find_box_pairs
from fmmloopy.tables.svd import tiles_of_factors


def svd(
    plan: Plan, notify: Callable[[str], None], levels: range, table: int, multipoles: Multipoles, checks: Checks
) -> list[Launch]:
    """Return the launch for the boxes of some levels; arguments as for :data:`fmmloopy.execution.m2l_forms.FORMS`."""
    boxes = plan.with_v_lists(levels)
    if not len(boxes):
        return []
    arrays, tables, runtime = plan.expansions, plan.problem.tables, plan.runtime
    tolerance = svd_tolerance(tables.order, arrays.dtype)
    factors = cached_factors(plan.setup.method.translations, tables.order, tables.radii[table], tables.inner, tolerance)
    pairs = find_box_pairs(plan.copied.lists, boxes)
    ktile_starts, right, left = tiles_of_factors(factors, arrays.nsurface)
    arguments = {
        **plan.counts(M2L_SVD, boxes, arrays.rows, arrays.columns, notify),
        "right": arrays.upload(right),
        "left": arrays.upload(left),
        "ktile_starts": runtime.upload(ktile_starts),
        "nktiles": len(right),
        "multipoles": multipoles.array,
        "result": checks.array,
        "scales": arrays.scales(1),
        "pair_starts": runtime.upload(pairs.starts),
        "pair_targets": arrays.indices(pairs.targets),
        "pair_sources": arrays.indices(pairs.sources),
        "nchunks": pairs.nchunks,
    }
    return [plan.bind(M2L_SVD, arguments, notify)]
