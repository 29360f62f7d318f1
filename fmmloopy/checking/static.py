"""What loopy itself says of a kernel, and whether a recipe keeps it from saying so."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

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


def first_warning(caught: Sequence[warnings.WarningMessage]) -> str:
    """Return what the first warning says that is about a kernel being wrong, or nothing."""
    return next((" ".join(str(w.message).split())[:300] for w in caught if _is_a_warning_of_loopy(w)), "")


def _is_a_warning_of_loopy(warning: warnings.WarningMessage) -> bool:
    """Return whether a warning means that a kernel may be wrong, and is not just about its scheduling."""
    from loopy.diagnostic import LoopyWarning

    harmless = ("Cannot enforce the constraint", "Falling back to a slow scheduler")
    return issubclass(warning.category, LoopyWarning) and not any(text in str(warning.message) for text in harmless)
