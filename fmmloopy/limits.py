"""The values of Green's functions at distance zero, where they are finite there.

Operators leave out all pairs at distance zero. So a point does not act on itself, and singular functions need no
special case. Functions that are finite there, such as Plummer's, also have contributions from other points in the same
place: their value at zero times the charges. These are added to what the operators give.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fmmloopy.components import Components
from fmmloopy.greens import GreensFunction

EXPONENTS = (-200, -210, -220)
"""Distances at which limits are read off, as powers of two. Their inverse may be taken to the fourth power."""

AGREEMENT = 1e-9
"""Values at these distances, in all directions, agree to this relative difference if there is a limit."""

_DIRECTIONS = np.array([[0.48, 0.6, -0.64], [-0.36, 0.48, 0.8], [0.8, -0.36, 0.48], [-0.6, -0.8, 0.0], [0.0, 0.0, 1.0]])


def value_at_zero(kernel: GreensFunction, components: Components) -> NDArray[np.float64] | None:
    """Return what two different points in the same place contribute to each other.

    The function is finite at zero if each of its expressions tends to a number that does not depend on the direction;
    rinv is 1 / r there, not 0. Expressions are evaluated at distances down to 1e-66, so differences of large terms that
    nearly cancel there are taken for what floating point makes of them. An entry for derivatives or dipoles that has no
    limit is 0: it would depend on the direction.

    Args:
        kernel: the Green's function, without derivatives.
        components: of charges and potentials.

    Returns:
        Shape (rows, columns) for one vector of charges, with the scaling; None if all of it is zero, or if the function
        is not finite at zero.
    """
    if not is_finite_at_zero(kernel):
        return None
    limits, _ = _converge(components.of(kernel))
    return limits if limits.any() else None


def is_finite_at_zero(kernel: GreensFunction) -> bool:
    """Return whether each entry of a function has a limit at distance zero."""
    return bool(_converge(kernel)[1].all())


def _converge(kernel: GreensFunction) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the limit of each entry, 0 where there is none, and whether there is one."""
    distances = np.ldexp(1.0, EXPONENTS)
    with np.errstate(all="ignore"):
        values = kernel.evaluate(_DIRECTIONS.T[:, :, None] * distances)
        first, last = values[..., 0], values[..., -1]
        size = np.abs(last).max(axis=-1)
        spread = np.ptp(values.reshape(*values.shape[:2], -1), axis=-1)
        is_constant = spread <= AGREEMENT * size
        vanishes = size < np.abs(first).max(axis=-1) / 2
        limits = np.where(is_constant, last.mean(axis=-1), 0.0)
    exist = np.isfinite(values).all(axis=(2, 3)) & (is_constant | vanishes)
    return np.where(exist, limits, 0.0), exist
