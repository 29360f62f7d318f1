"""M2L by full matrices, one for each transfer vector: the reference for the other forms."""

from __future__ import annotations

from collections.abc import Callable

from fmmloopy.execution.plan import Plan
from fmmloopy.execution.runtime import Launch
from fmmloopy.execution.values import Checks, Multipoles
from fmmloopy.operators import M2L
from fmmloopy.tables.surfaces import m2l_matrices


def dense(
    plan: Plan, notify: Callable[[str], None], levels: range, table: int, multipoles: Multipoles, checks: Checks
) -> list[Launch]:
    """Return the launch for the boxes of some levels; arguments as for :data:`fmmloopy.execution.m2l_forms.FORMS`."""
    boxes = plan.with_v_lists(levels)
    if not len(boxes):
        return []
    arrays, tables, method = plan.expansions, plan.problem.tables, plan.setup.method
    matrices = m2l_matrices(method.translations, method.order, tables.radii[table], tables.inner)
    arguments = {
        **plan.counts(M2L, boxes, arrays.rows, arrays.columns, notify),
        **arrays.csr(plan.copied.lists.v),
        "table": arrays.matrix(f"m2l {table}", matrices[None], arrays.rows, arrays.columns),
        "itable": 0,
        "ntables": 1,
        "multipoles": multipoles.array,
        "result": checks.array,
        "scales": arrays.scales(1),
        "target_boxes": arrays.indices(boxes),
        "ntargets": len(boxes),
        "transfers": arrays.labels(plan.copied.lists.v_transfers),
    }
    return [plan.bind(M2L, arguments, notify)]
