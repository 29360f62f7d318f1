"""Pairs of near points in float32, from points in float64: when that can be done, and with what.

Coordinates relative to a leaf, rounded, and what rounding leaves of them hold 48 bits together, about as much as
float64 has of points in a small box. So a distance is as accurate as float32 is, whatever it is, as long as its powers
are numbers of that type. The unit of length is chosen to make them so.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymbolic.mapper import CombineMapper
from pymbolic.mapper.dependency import DependencyMapper

from fmmloopy.greens import GEOMETRY, GreensFunction
from fmmloopy.lists import CSR, make_csr
from fmmloopy.tree import Tree

EXPONENTS = 120
"""Powers of distances stay between 2^-EXPONENTS and 2^EXPONENTS: float32 has 126, the rest is for sums of many."""

RESOLUTION = 54
"""Points of a leaf that are apart differ by at least 2^-RESOLUTION of its radius relative to its centre: no coordinate
of a centre is nearer to zero than the radius, so differences from it are rounded to that in float64."""


def find_unit(greens: GreensFunction, half_width: float, nlevels: int) -> float | None:
    """Find by what lengths are to be multiplied, so that float32 holds what any near pair gives.

    Args:
        greens: the Green's function, with rows of the gradient if it is wanted.
        half_width: of the root of the tree.
        nlevels: of the tree.

    Returns:
        A power of two: 1 for functions that are not homogeneous, in which lengths cannot be changed; None if there
        is none, since powers are too high or the tree too deep.
    """
    if nlevels == 1:  # the centre of the only box is zero, from which float64 has differences of any size
        return None
    power = max(2.0, max(_inverse_power(entry) for row in greens.matrix for entry in row))
    most = math.floor(EXPONENTS / power)  # exponents of distances stay between -most and most
    largest = math.frexp(half_width)[1] + 2  # any distance in the root is less than 2^largest
    smallest = math.frexp(half_width)[1] - 1 - (nlevels - 1) - RESOLUTION
    if greens.homogeneity is None:
        return 1.0 if -most <= smallest and largest <= most else None
    shift = most - largest
    return 2.0**shift if -most <= smallest + shift else None


def local_sources(tree: Tree, unit: float) -> NDArray[np.float32]:
    """Return sources relative to the centre of their leaf, and what rounding leaves of that: shape (2, 3, nsources)."""
    leaves = np.flatnonzero(tree.is_leaf)
    leaves = leaves[np.argsort(tree.box_source_starts[leaves], kind="stable")]
    lengths = (tree.box_source_ends - tree.box_source_starts)[leaves]
    result = np.empty((2, 3, tree.nsources), np.float32)
    for axis in range(3):
        offsets = unit * (tree.sources[axis] - np.repeat(tree.box_centres[axis, leaves], lengths))
        result[0, axis] = offsets
        result[1, axis] = offsets - result[0, axis]
    return result


def replace_by_leaves(tree: Tree, lists: CSR) -> CSR:
    """Replace the boxes in lists that are no leaves by the leaves in them that have sources."""
    inner = ~tree.is_leaf[lists.lists]
    if not inner.any():
        return lists
    nsources = tree.box_source_ends - tree.box_source_starts
    leaves = np.flatnonzero(tree.is_leaf & (nsources > 0))
    leaves = leaves[np.argsort(tree.box_source_starts[leaves])].astype(np.int32)
    starts = tree.box_source_starts[leaves]
    first = np.where(inner, np.searchsorted(starts, tree.box_source_starts[lists.lists]), 0)
    last = np.where(inner, np.searchsorted(starts, tree.box_source_ends[lists.lists]), 1)
    counts = last - first
    total = np.cumsum(counts)
    places = np.arange(total[-1]) - np.repeat(total - counts, counts) + np.repeat(first, counts)
    entries = np.where(np.repeat(inner, counts), leaves[places], np.repeat(lists.lists, counts))
    nrows = len(lists.starts) - 1
    rows = np.repeat(np.arange(nrows), lists.lengths)
    return make_csr("U", np.bincount(rows, counts, nrows).astype(np.int64), [entries])


class _InversePower(CombineMapper):  # type: ignore[misc]
    """Find the highest power of 1 / r among the terms of an expression; infinity where it cannot be told."""

    def combine(self, values: Any) -> float:
        return max(values, default=0.0)

    def map_constant(self, expr: Any) -> float:
        return 0.0

    def map_variable(self, expr: Any) -> float:
        return 1.0 if expr.name == "rinv" else 0.0

    def map_product(self, expr: Any) -> float:
        return float(sum(self.rec(child) for child in expr.children))

    def map_power(self, expr: Any) -> float:
        if isinstance(expr.exponent, int) and expr.exponent >= 0:
            return float(expr.exponent * self.rec(expr.base))
        return math.inf

    def map_quotient(self, expr: Any) -> float:
        return float(self.rec(expr.numerator)) if not _variables(expr.denominator) & set(GEOMETRY) else math.inf

    def map_call(self, expr: Any) -> float:
        return math.inf if any(self.rec(parameter) for parameter in expr.parameters) else 0.0


_inverse_power = _InversePower()


def _variables(expression: Any) -> set[str]:
    return {variable.name for variable in DependencyMapper(composite_leaves=False)(expression)}
