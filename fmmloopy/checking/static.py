"""What loopy itself says of a kernel, and whether a recipe keeps it from saying so."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import islpy as isl

CHECKS = (
    "enforce_variable_access_ordered",
    "enforce_array_accesses_within_bounds",
    "check_dep_resolution",
    "skip_arg_checks",
)
"""Loopy options that turn checks off."""


def weakened(knl: Any, math: Any) -> str:
    """Say which checks of loopy a kernel goes without and the operator's math-level kernel does not, or nothing."""
    kernel, operator = knl.default_entrypoint, math.default_entrypoint
    off = [name for name in CHECKS if getattr(kernel.options, name) != getattr(operator.options, name)]
    if off:
        return f"sets loopy's option {', '.join(off)}, which the operator does not; leave the check on"
    silenced = sorted(set(kernel.silenced_warnings) - set(operator.silenced_warnings))
    if silenced:
        return f"silences {', '.join(silenced)}, which the operator does not; leave the check on"
    return ""


def out_of_bounds(knl: Any) -> str:
    """Say which statement reads or writes a temporary array before its start or past its end, or nothing.

    Loopy checks no statement in a loop whose bounds are loaded. Here it is checked, too, where the index has only loops
    whose own bounds are not.
    """
    from loopy import expand_subst
    from loopy.kernel.instruction import get_insn_domain
    from loopy.symbolic import DependencyMapper
    from pymbolic.primitives import Subscript

    kernel = expand_subst(knl).default_entrypoint
    loaded, find = frozenset(kernel.temporary_variables), DependencyMapper(include_subscripts=True)
    for insn in kernel.instructions:
        domain = get_insn_domain(insn, kernel)
        if loaded.isdisjoint(domain.get_var_names(isl.dim_type.param)):
            continue
        for side in (insn.assignee, insn.expression) if hasattr(insn, "assignee") else ():
            for part in sorted(find(side), key=str):
                array = kernel.temporary_variables.get(part.aggregate.name) if isinstance(part, Subscript) else None
                if array is not None and _goes_beyond(domain, part.index_tuple, array.shape, loaded):
                    return f"{part} in {insn.id} is out of bounds: {array.name} has shape {array.shape}"
    return ""


def _goes_beyond(domain: Any, index: tuple[Any, ...], shape: tuple[Any, ...], loaded: frozenset[str]) -> bool:
    """Return whether an index goes beyond an array, where that does not depend on numbers that are loaded."""
    from loopy.diagnostic import UnableToDetermineAccessRangeError
    from loopy.isl_helpers import make_slab
    from loopy.symbolic import get_access_map, get_dependencies

    used = get_dependencies(index)
    if not all(isinstance(length, int) for length in shape) or not used <= set(domain.get_var_names(isl.dim_type.set)):
        return False
    for name in domain.get_var_names(isl.dim_type.set):
        if name not in used:
            domain = domain.project_out(*domain.get_var_dict()[name], 1)
    for piece in domain.get_basic_sets():
        for constraint in piece.get_constraints():
            names = {name for name, place in domain.get_var_dict().items() if constraint.involves_dims(*place, 1)}
            if names & used and names & loaded:
                return False
    try:
        entries = get_access_map(domain, index).range().project_out_all_params()
    except UnableToDetermineAccessRangeError:
        return False
    return not all(
        entries.is_subset(make_slab(entries.get_space(), (isl.dim_type.in_, axis), 0, length))
        for axis, length in enumerate(shape)
    )


def first_warning(caught: Sequence[warnings.WarningMessage]) -> str:
    """Return what the first warning says that is about a kernel being wrong, or nothing."""
    return next((" ".join(str(w.message).split())[:300] for w in caught if _is_a_warning_of_loopy(w)), "")


def _is_a_warning_of_loopy(warning: warnings.WarningMessage) -> bool:
    """Return whether a warning means that a kernel may be wrong, and is not just about its scheduling."""
    from loopy.diagnostic import LoopyWarning

    harmless = ("Cannot enforce the constraint", "Falling back to a slow scheduler")
    return issubclass(warning.category, LoopyWarning) and not any(text in str(warning.message) for text in harmless)
