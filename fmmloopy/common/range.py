"""Keep charges in a range where sums neither overflow nor underflow: potentials are linear in them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

COMFORTABLE = {"float32": 16, "float64": 64}
"""Charges up to 2 to this power, and at least its inverse, stay as they are: what `fmmloopy.inputs` allows for points
and functions leaves room for them."""


def shift(charges: NDArray[Any]) -> int:
    """Return the exponent of a power of two by which charges are to be divided, so that the largest is about 1.

    A power of two changes no digit of the result. It is 0 if the charges are in a comfortable range.
    """
    largest = float(np.abs(charges).max(initial=0.0))
    exponent = math.frexp(largest)[1]
    return 0 if largest == 0 or abs(exponent) <= COMFORTABLE[charges.dtype.name] else exponent


def shift_back(potentials: NDArray[Any], exponent: int) -> NDArray[Any]:
    """Multiply potentials by the power of two that charges were divided by.

    Raises:
        ValueError: a potential is above the largest number of the dtype.
    """
    if not exponent:
        return potentials
    with np.errstate(over="ignore", under="ignore"):
        shifted: NDArray[Any] = np.ldexp(potentials, exponent)
    if exponent > 0 and (np.isinf(shifted) & np.isfinite(potentials)).any():
        largest = float(np.abs(potentials[np.isfinite(potentials)]).max())
        power = math.log10(largest) + exponent * math.log10(2)
        raise ValueError(
            f"the largest potential is about 1e{power:.0f}, expected at most {np.finfo(shifted.dtype).max:.1e}, the "
            f"largest number in {shifted.dtype}; divide the charges by a constant"
        )
    return shifted
