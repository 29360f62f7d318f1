"""How results are compared with those of the sequential kernel: bit by bit, or by what rounding explains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmmloopy.checking.case import identical
from fmmloopy.precision import Types

NUMERICAL_BOUND = 12.0
"""Rounding errors allowed, in units of eps times the sum of the magnitudes of the terms.

The magnitude of a term is replaced by its change with the distance if that is larger. A term takes about 15 roundings
(differences, squared distance, reciprocal root, products), each at most eps / 2, and a reciprocal root by any iteration
up to 2 eps; in sums of many terms these average out, but the roundings of the sum itself are added: 7.5 + 2 + 2.5.
Shipped recipes reach 3.8 at most. If one step of Newton's iteration is missing, the error is up to 39 eps in single
precision, and 1e5 in double.
"""


def difference(found: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]]) -> str:
    """Describe where results differ from those of the sequential kernel; "" if they agree."""
    for name, values in expected.items():
        if not identical(found[name], values):
            wrong = ~((found[name] == values) | (np.isnan(found[name]) & np.isnan(values)))
            index = tuple(int(i) for i in np.argwhere(wrong)[0])
            entry, right, count = f"{found[name][index]:.16g}", f"{values[index]:.16g}", int(wrong.sum())
            return f"{name}{list(index)} is {entry}, expected {right}; {count} of {wrong.size} entries differ"
    return ""


def allowances(magnitudes: Mapping[str, NDArray[Any]], types: Types) -> dict[str, NDArray[Any]]:
    """Return the largest errors that rounding explains."""
    limits = np.finfo(types.inner)
    eps, tiny = float(limits.eps), 2 * float(limits.tiny)  # what underflows may be lost
    return {name: NUMERICAL_BOUND * eps * values + tiny for name, values in magnitudes.items()}


def excess(
    found: Mapping[str, NDArray[Any]],
    expected: Mapping[str, NDArray[Any]],
    magnitudes: Mapping[str, NDArray[Any]],
    types: Types,
) -> str:
    """Describe where an error is larger than rounding explains; "" if it is nowhere."""
    eps, allowed = float(np.finfo(types.inner).eps), allowances(magnitudes, types)
    for name, values in expected.items():
        error = np.abs(found[name].astype(np.float64) - values)
        wrong = ~((error <= allowed[name]) | (np.isnan(values) & np.isnan(found[name])))
        if wrong.any():
            index = tuple(int(i) for i in np.argwhere(wrong)[0])
            units = error[index] / (eps * magnitudes[name][index])
            return (
                f"{name}{list(index)} is {found[name][index]:.9g}, expected {values[index]:.9g}: off by {units:.3g} "
                f"eps times the sum of the terms' magnitudes, allowed {NUMERICAL_BOUND:g}"
            )
    return ""
