"""The forms of M2L and how each is bound to a plan: a form is a function that returns the launches for some levels."""

from __future__ import annotations

from collections.abc import Callable

from fmmloopy.execution.m2l_forms.dense import dense
from fmmloopy.execution.m2l_forms.fft import fft
from fmmloopy.execution.m2l_forms.svd import svd
from fmmloopy.execution.runtime import Launch

FORMS: dict[str, Callable[..., list[Launch]]] = {form.__name__: form for form in (fft, svd, dense)}
"""Forms by name. Each is called with a plan, a function to notify of operators, the levels of the target boxes, the
number of their table, the multipoles, and the check potentials that it accumulates into."""

__all__ = ["FORMS"]
