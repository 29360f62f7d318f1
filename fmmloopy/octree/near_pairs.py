"""Near pairs in float32 from points in float64: when this is possible, and with which coordinates and unit.

Coordinates relative to a leaf are stored as two float32 numbers, the rounded value and the rounding error, which lose
2^-49 of the leaf's radius. So distances above NEAREST radii have the full accuracy of float32; a search makes sure that
no points are closer. The unit of length is chosen so that powers of all distances are in the range of float32.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymbolic.mapper import CombineMapper
from pymbolic.mapper.dependency import DependencyMapper

from fmmloopy.expressions import GEOMETRY
from fmmloopy.greens import GreensFunction
from fmmloopy.octree.lists import CSR, make_csr
from fmmloopy.octree.tree import DEEPEST_LEVEL, SortedPoints, Tree

NEAREST = 2.0**-24
"""The smallest distance of two points, in radii of the leaf: both lose 2^-49 in each coordinate, which equals the
rounding of such a distance in float32."""

MOST_CANDIDATES = 200_000
"""Most points that may be close to another one; with more, the search for such pairs would take a second."""

EXPONENTS = 120
"""Powers of distances stay between 2^-EXPONENTS and 2^EXPONENTS: float32 has 126, the rest is for sums of many."""

LINE = np.array([0.5773, 0.6180, 0.5335])
"""Direction of a line on which candidates are compared, not longer than 1."""

MOST_SHIFTS, ROUNDINGS = 16, 2.0**-49
"""Points that follow a point on this line and are compared with it, fewer than so many; and an upper bound on rounding
errors of distances there, relative to the largest coordinate: 3 products with sqrt(3) times it, at both ends."""

_BLOCK = 16384  # points at a time, so that temporaries stay in cache


def least_distance(points: SortedPoints, tree: Tree) -> float | None:
    """Return a lower bound on the distance of points that do not coincide; None if some are too close together.

    Points closer than NEAREST radii of the leaf of one of them are in the same finest box, or on both sides of a face
    of such boxes: few points are near a face, and few boxes have two points. Only a hundredth to a tenth of all points
    have to be compared with each other.
    """
    sides = [(points.sources, tree.box_source_starts, tree.box_source_ends)]
    if points.targets is not points.sources:
        sides.append((points.targets, tree.box_target_starts, tree.box_target_ends))
    width = 2 * points.half_width / 2**DEEPEST_LEVEL
    candidates, limits = [], []
    for (each, starts, ends), (others, *_) in zip(sides, reversed(sides), strict=True):
        limit = NEAREST * _by_point(tree, tree.box_radii, starts, ends)
        chosen = _near_faces(each.points, points.centre - points.origin - points.half_width, width, limit)
        same = each.keys[1:] == each.keys[:-1]
        chosen[1:] |= same
        chosen[:-1] |= same
        if others is not each:
            places = np.searchsorted(others.keys, each.keys).clip(max=len(others.keys) - 1)
            chosen |= others.keys[places] == each.keys
        candidates.append(each.points[:, chosen])
        limits.append(limit[chosen])
    found = np.concatenate(candidates, axis=1)
    if found.shape[1] > MOST_CANDIDATES:
        return None
    apart, first = np.unique(found.T + 0.0, axis=0, return_index=True)  # no -0, which is 0 in other bits
    if not _are_apart(apart, np.concatenate(limits)[first]):
        return None
    return NEAREST * float(tree.box_radii[tree.is_leaf].min())


def _are_apart(points: NDArray[Any], limits: NDArray[Any]) -> bool:
    """Return whether no two points, of shape (n, 3), are closer than the limit of one of them.

    Two points are at most as far apart along a line as they are in space, and few are as close along a line that no
    grid of points is aligned with. Where more are, a search tree finds the nearest.
    """
    along = points @ LINE
    order = np.argsort(along)
    along, points, limits = along[order], points[order], limits[order]
    widest = limits.max(initial=0.0) + ROUNDINGS * np.abs(points).max(initial=0.0)
    for shift in range(1, min(MOST_SHIFTS, len(points))):
        (close,) = np.nonzero(along[shift:] - along[:-shift] < widest)
        if not close.size:
            return True
        distances = np.sqrt(((points[close + shift] - points[close]) ** 2).sum(axis=1))
        if (distances < np.maximum(limits[close], limits[close + shift])).any():
            return False
    if len(points) <= MOST_SHIFTS:
        return True
    from scipy.spatial import cKDTree  # takes a fifth of a second to import

    return not (cKDTree(points).query(points, k=2)[0][:, 1] < limits).any()


def _by_point(tree: Tree, values: NDArray[Any], starts: NDArray[Any], ends: NDArray[Any]) -> NDArray[Any]:
    """Return the value of the leaf that each point is in, for points in tree order: shape (..., n)."""
    leaves = np.flatnonzero(tree.is_leaf)
    leaves = leaves[np.argsort(starts[leaves], kind="stable")]
    return np.repeat(values[..., leaves], (ends - starts)[leaves], axis=-1)


def _near_faces(
    points: NDArray[Any], corner: NDArray[np.float64], width: float, limit: NDArray[Any]
) -> NDArray[np.bool_]:
    """Return which points are so close to a face of their finest box that a point behind it may be too close: (n,).

    A neighbouring leaf, whose limit counts too, is at most twice as large; another factor of two covers rounding.
    """
    near = np.empty(points.shape[1], np.bool_)
    for start in range(0, points.shape[1], _BLOCK):
        block = slice(start, start + _BLOCK)
        places = (points[:, block] - corner[:, None]) / width
        places -= np.rint(places)
        near[block] = (np.abs(places, out=places) <= limit[block] * (4 / width)).any(axis=0)
    return near


def find_unit(kernel: GreensFunction, is_homogeneous: bool, half_width: float, distance: float) -> float | None:
    """Find a factor for lengths that keeps the result of any pair of points in the range of float32.

    Args:
        kernel: the Green's function, with rows of the gradient if it is computed.
        is_homogeneous: whether all rows are homogeneous, each of some degree; otherwise lengths cannot be scaled.
        half_width: half width of the root of the tree.
        distance: lower bound on the distance of two points.

    Returns:
        A power of two, 1 for functions that are not homogeneous; None if there is none.
    """
    power = max(2.0, *(power(entry) for row in kernel.matrix for entry in row for power in (_INVERSE, _DIRECT)))
    most = math.floor(EXPONENTS / power)  # exponents of distances stay between -most and most
    largest = math.frexp(half_width)[1] + 2  # any distance in the root is less than 2^largest
    smallest = math.frexp(distance)[1] - 1
    shift = -(largest + smallest) // 2 if is_homogeneous else 0
    return 2.0**shift if -most <= smallest + shift and largest + shift <= most else None


def local_sources(tree: Tree, unit: float) -> NDArray[np.float32]:
    """Return sources relative to the centre of their leaf, and their rounding errors: shape (2, 3, nsources)."""
    leaves = _by_point(tree, np.arange(tree.nboxes), tree.box_source_starts, tree.box_source_ends)
    centres, result = tree.box_centres, np.empty((2, 3, tree.nsources), np.float32)
    for start in range(0, tree.nsources, _BLOCK):
        block = slice(start, start + _BLOCK)
        offsets = unit * (tree.sources[:, block] - centres.take(leaves[block], axis=1))
        result[0, :, block] = offsets
        result[1, :, block] = offsets - result[0, :, block]
    return result


def replace_by_leaves(tree: Tree, lists: CSR) -> CSR:
    """Replace the boxes in lists that are not leaves by their leaves that have sources."""
    inner = ~tree.is_leaf[lists.lists]
    if not inner.any():
        return lists
    ranges = tree.box_source_starts, tree.box_source_ends
    leaves = np.flatnonzero(tree.is_leaf & (ranges[0] < ranges[1]))
    leaves = leaves[np.argsort(tree.box_source_starts[leaves])].astype(np.int32)
    # Boxes hold consecutive leaves; a leaf holds one, itself.
    first, last = (np.searchsorted(tree.box_source_starts[leaves], each) for each in ranges)
    counts = (last - first)[lists.lists]
    ends = np.append(0, np.cumsum(counts))
    places = np.repeat(first[lists.lists] - ends[:-1], counts)
    places += np.arange(len(places))
    return make_csr("U", np.diff(ends[lists.starts]), leaves[places])


class _HighestPower(CombineMapper):  # type: ignore[misc]
    """Find the most factors of some names in the terms of an expression; infinity if it cannot be determined."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.names = names

    def combine(self, values: Iterable[float]) -> float:
        return max(values, default=0.0)

    def map_constant(self, expr: Any) -> float:
        return 0.0

    def map_variable(self, expr: Any) -> float:
        return 1.0 if expr.name in self.names else 0.0

    def map_product(self, expr: Any) -> float:
        return float(sum(self.rec(child) for child in expr.children))

    def map_power(self, expr: Any) -> float:
        if isinstance(expr.exponent, int) and expr.exponent >= 0:
            return float(expr.exponent * self.rec(expr.base))
        return math.inf

    def map_quotient(self, expr: Any) -> float:
        used = {variable.name for variable in DependencyMapper(composite_leaves=False)(expr.denominator)}
        return math.inf if used & set(GEOMETRY) else float(self.rec(expr.numerator))

    def map_call(self, expr: Any) -> float:
        return math.inf if "rinv" in self.names and any(map(self.rec, expr.parameters)) else 0.0


_INVERSE, _DIRECT = _HighestPower("rinv"), _HighestPower("d0", "d1", "d2", "r")
"""How high 1 / r and r may become while a product is made, in whatever order."""
