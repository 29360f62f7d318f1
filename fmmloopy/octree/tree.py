"""Morton-ordered, adaptive, 2:1 balanced linear octree over sources and targets.

The tree is built without a loop over boxes or points, in four steps:

1. the root cube, and a 63-bit Morton key for every point (21 bits an axis, so leaves are at level 21 at the deepest);
2. the points sorted by key: a box is then a range of points, found by bisection;
3. from the root down, the keys of the boxes with too many points, which are split;
4. from the finest level up, the keys of the boxes that must be split as well to balance the tree.

Balance. Call two boxes adjacent if their closed cubes share a point (a face, an edge or a corner). Wherever a box P is
split, every box with points that is adjacent to P and of the size of P exists in the tree; so a leaf adjacent to P is
at most one level coarser than the children of P. This is what 2:1 balance across faces, edges and corners means in a
complete octree (H. Sundar, R. Sampath, G. Biros, "Bottom-up construction and 2:1 balance refinement of linear octrees
in parallel", SIAM J. Sci. Comput. 30, 2008), in which P has all its eight children. Here boxes without points are
pruned and do not affect the balance, which leaves fewer boxes and the same guarantee for those that exist.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fmmloopy.common.cores import map_on_cores

Points = NDArray[np.floating[Any]]
Keys = NDArray[np.uint64]

DEEPEST_LEVEL = 21
"""Level of the finest boxes that a 63-bit Morton key can name: 21 bits an axis."""

FIRST_LEVEL = 2
"""Boxes of levels 0 and 1 have no well-separated boxes, so there are no expansions above this level."""

CENTRE_BITS = 7
"""The root's centre is a multiple of a power of two, 1/64 to 1/128 of the half width."""

HALF_WIDTH_BITS = 8
"""Significant bits of the root's half width."""

_BLOCK = 32768  # points at a time: few enough for caches, enough for threads seldom to wait for each other
_OCTANTS = np.arange(8, dtype=np.uint64)

# Steps that move the bits of a 21-bit integer three apart: shift, then keep these bits. Read backwards they undo it.
_SPREAD = (
    (32, 0x001F00000000FFFF),
    (16, 0x001F0000FF0000FF),
    (8, 0x100F00F00F00F00F),
    (4, 0x10C30C30C30C30C3),
    (2, 0x1249249249249249),
)


@dataclass(frozen=True, eq=False)
class Tree:
    """An octree over a cube: boxes level by level from the root (box 0), in Morton order inside a level.

    Every box holds at least one source or target. All coordinates are relative to ``origin``. The octant of a box in
    its parent is x + 2 y + 4 z, with x, y, z in {0, 1} the position along axes 0, 1, 2.

    Attributes:
        centre: shape (3,), float64: centre of the root cube, in the caller's coordinates.
        origin: shape (3,), float64: what coordinates are relative to, in the caller's. In float32 it is the centre; in
            float64 it is chosen so that subtracting it rounds no coordinate, see `_find_origin`.
        half_width: half the side of the root cube, > 0, with at most 8 significant bits: the coordinates of box
            centres, which are integers times half_width / 2^level, are exact in float32 down to level 15. It is 1 if
            all points coincide, and kept 2^40 above the smallest number of the dtype, so that no box width underflows.
        sources: shape (3, nsources), C-contiguous, in the input's dtype: coordinates of the sources in Morton order.
        targets: shape (3, ntargets), likewise; the same object as ``sources`` where the targets are the sources.
        source_order: shape (nsources,), int64: number in the input of each source of ``sources``.
        target_order: shape (ntargets,), int64: likewise for ``targets``.
        level_starts: shape (nlevels + 1,), int32: boxes of level l are level_starts[l] to level_starts[l + 1] - 1.
        box_levels: shape (nboxes,), int32: level of each box, 0 for the root.
        box_anchors: shape (3, nboxes), int32: position of each box, in widths of that box from the root's lower corner.
        box_keys: shape (nboxes,), uint64: Morton key of each box at its level. ``key >> 3`` is the parent's key,
            ``key & 7`` the octant in the parent.
        box_parents: shape (nboxes,), int32: -1 for the root.
        box_children: shape (nboxes, 8), int32: child in each octant, -1 where there is none. Children are contiguous.
        is_leaf: shape (nboxes,), bool: whether a box has no children.
        box_source_starts: shape (nboxes,), int32: first of the sources in each box, leaf or not.
        box_source_ends: shape (nboxes,), int32: one past the last of the sources in each box.
        box_target_starts: shape (nboxes,), int32: likewise for targets.
        box_target_ends: shape (nboxes,), int32: likewise for targets.
        box_has_sources: shape (nboxes,), bool: whether a box has sources, in this part of the tree or in another; None
            for a whole tree, where ranges of sources say so.
        box_gathers: shape (nboxes,), bool: whether a box has sources whose multipoles are computed here; None likewise.
        first_target: number of the first target among the sources, where the targets are consecutive sources but not
            all of them; None elsewhere.
    """

    centre: NDArray[np.float64]
    origin: NDArray[np.float64]
    half_width: float
    sources: Points
    targets: Points
    source_order: NDArray[np.int64]
    target_order: NDArray[np.int64]
    level_starts: NDArray[np.int32]
    box_levels: NDArray[np.int32]
    box_anchors: NDArray[np.int32]
    box_keys: Keys
    box_parents: NDArray[np.int32]
    box_children: NDArray[np.int32]
    is_leaf: NDArray[np.bool_]
    box_source_starts: NDArray[np.int32]
    box_source_ends: NDArray[np.int32]
    box_target_starts: NDArray[np.int32]
    box_target_ends: NDArray[np.int32]
    box_has_sources: NDArray[np.bool_] | None = None
    box_gathers: NDArray[np.bool_] | None = None
    first_target: int | None = None

    @property
    def has_sources(self) -> NDArray[np.bool_]:
        """Which boxes have sources, and so a multipole: shape (nboxes,)."""
        return self._or_ranges(self.box_has_sources)

    @property
    def gathers(self) -> NDArray[np.bool_]:
        """Which boxes have sources whose multipoles are computed here: shape (nboxes,)."""
        return self._or_ranges(self.box_gathers)

    def _or_ranges(self, flags: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
        return self.box_source_ends > self.box_source_starts if flags is None else flags

    @property
    def has_targets(self) -> NDArray[np.bool_]:
        """Which boxes have targets: shape (nboxes,)."""
        return self.box_target_ends > self.box_target_starts

    @property
    def same_points(self) -> bool:
        """Whether the targets are the sources."""
        return self.targets is self.sources

    @property
    def nboxes(self) -> int:
        """Number of boxes of all levels."""
        return self.box_levels.size

    @property
    def nlevels(self) -> int:
        """Number of levels, the root's included."""
        return self.level_starts.size - 1

    def has_boxes_of(self, other: Tree) -> bool:
        """Whether another tree of the same points has the same boxes."""
        same = np.array_equal(self.level_starts, other.level_starts)
        return same and np.array_equal(self.box_keys, other.box_keys)

    @property
    def nsources(self) -> int:
        """Number of sources."""
        return len(self.sources[0])

    @property
    def ntargets(self) -> int:
        """Number of targets."""
        return len(self.targets[0])

    @property
    def leaves(self) -> NDArray[np.int32]:
        """Numbers of the leaves, ascending: shape (nleaves,), int32."""
        return np.flatnonzero(self.is_leaf).astype(np.int32)

    @property
    def box_radii(self) -> NDArray[np.float64]:
        """Half widths of the boxes: shape (nboxes,), float64."""
        return np.ldexp(self.half_width, -self.box_levels)

    @property
    def box_centres(self) -> NDArray[np.float64]:
        """Centres of the boxes, relative to ``origin``: shape (3, nboxes), float64, exact."""
        from_root = (2 * self.box_anchors + 1 - (1 << self.box_levels)) * self.box_radii
        centres: NDArray[np.float64] = from_root + (self.centre - self.origin)[:, None]
        return centres

    def points_of(self, points: Points, order: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return points in the caller's order and coordinates, shape (n, 3).

        Args:
            points: ``sources`` or ``targets``.
            order: ``source_order`` or ``target_order``.
        """
        result = np.empty((len(order), 3))
        result[order] = points.T + self.origin
        return result

    @property
    def nbytes(self) -> int:
        """Bytes in all arrays, those shared by sources and targets counted once."""
        arrays = {id(a): a for a in (getattr(self, f.name) for f in fields(self)) if isinstance(a, np.ndarray)}
        return sum(array.nbytes for array in arrays.values())


class OneSide(NamedTuple):
    """Sorted sources, or sorted targets."""

    points: Points  # (3, n), Morton order, relative to the origin
    order: NDArray[np.int64]  # (n,), number in the input
    keys: Keys  # (n,), at the deepest level, ascending


@dataclass(frozen=True, eq=False)
class SortedPoints:
    """Points in Morton order, from which `grow_tree` makes trees of any ncrit.

    Attributes:
        centre, origin, half_width: as in `Tree`.
        sources, targets: coordinates, order and Morton keys; one object where the targets are the sources.
    """

    centre: NDArray[np.float64]
    origin: NDArray[np.float64]
    half_width: float
    sources: OneSide
    targets: OneSide

    @property
    def most(self) -> int:
        """The number of sources or of targets, whichever is larger."""
        return max(self.sources.keys.size, self.targets.keys.size)


def build_tree(
    sources: Points,
    targets: Points | None = None,
    ncrit: int = 150,
    max_level: int = DEEPEST_LEVEL,
    dtype: DTypeLike | None = None,
    split_coincident: bool = True,
) -> Tree:
    """Build the balanced octree over sources and targets.

    A box is split while it holds more than ``ncrit`` sources or more than ``ncrit`` targets and is above
    ``max_level``. The boxes do not depend on the order of the points.

    Args:
        sources: shape (nsources, 3), float32 or float64, finite.
        targets: shape (ntargets, 3), in the dtype of the sources, finite; None if the targets are the sources. Given
            targets are other points, even if it is the same array.
        ncrit: maximum number of sources, and of targets, in a leaf above ``max_level``.
        max_level: level at which boxes are no longer split, at most 21. Coincident points end up there.
        dtype: type of the tree's points, float32 or float64, to which they are rounded relative to its origin; None for
            that of the sources.
        split_coincident: whether to split boxes down to ``max_level`` even if no level can separate their points.

    Returns:
        The tree, with copies of the points.

    Raises:
        ValueError: a shape or dtype is wrong, there are no points, coordinates are not finite or too large, sources and
            targets have different dtypes, ncrit < 1, or max_level is not 0 to 21.
    """
    _check_limits(ncrit, max_level)
    return grow_tree(sort_points(sources, targets, dtype), ncrit, max_level, split_coincident)


def sort_points(
    sources: Points, targets: Points | None = None, dtype: DTypeLike | None = None, width: float = 1.0
) -> SortedPoints:
    """Find the root cube of points and sort them, the first part of `build_tree`.

    Args:
        sources, targets, dtype: as there.
        width: how many times as wide as the points the root is, at least 1; they are at its lower corner.

    Raises:
        ValueError: as there.
    """
    _check_points(sources, "sources")
    if targets is not None:
        _check_points(targets, "targets")
        if targets.dtype != sources.dtype:
            raise ValueError(
                f"targets are {targets.dtype} and sources {sources.dtype}, expected one dtype; convert one"
            )
    kept = np.dtype(dtype if dtype is not None else sources.dtype)
    sides = [("sources", sources), *([] if targets is None else [("targets", targets)])]
    corners = [find_bounds(side, name) for name, side in sides]
    root = find_root(
        np.min([lower for lower, _ in corners], axis=0), np.max([upper for _, upper in corners], 0), kept, width
    )
    sorted_sources = sort_in_root(sources, *root, kept)
    sorted_targets = sorted_sources if targets is None else sort_in_root(targets, *root, kept)
    return SortedPoints(*root, sorted_sources, sorted_targets)


def grow_tree(points: SortedPoints, ncrit: int, max_level: int = DEEPEST_LEVEL, split_coincident: bool = True) -> Tree:
    """Split boxes of sorted points and balance them, the last part of `build_tree`; arguments and errors as there.

    The cost depends on the number of boxes, and hardly on that of points.
    """
    _check_limits(ncrit, max_level)
    point_keys = list({id(each): each.keys for each in (points.sources, points.targets)}.values())
    splits = _balance(_find_splits(point_keys, ncrit, max_level, split_coincident), point_keys)
    return _assemble(points, splits)


def _check_limits(ncrit: int, max_level: int) -> None:
    if ncrit < 1:
        raise ValueError(f"ncrit is {ncrit}, expected at least 1: the most points in a leaf")
    if not 0 <= max_level <= DEEPEST_LEVEL:
        raise ValueError(f"max_level is {max_level}, expected 0 to {DEEPEST_LEVEL}: a Morton key has 21 bits an axis")


def _check_points(points: Points, name: str) -> None:
    """Check shape and dtype; the bounding box shows whether points are finite."""
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"{name} has shape {points.shape}, expected (n, 3): one row per point")
    if points.dtype not in (np.float32, np.float64):
        raise ValueError(f"{name} are {points.dtype}, expected float32 or float64; convert them with astype")
    if not 0 < len(points) < 2**31:
        raise ValueError(f"{name} has {len(points)} points, expected 1 to 2^31 - 1")


def find_bounds(points: Points, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the lower and the upper corner of the bounding box, each of shape (3,)."""
    lower, upper = (np.array([reduce(points[:, axis]) for axis in range(3)], np.float64) for reduce in (np.min, np.max))
    if not np.isfinite([lower, upper]).all():
        row = int(np.argmin(np.isfinite(points).all(axis=1)))
        raise ValueError(f"{name}[{row}] is {points[row].tolist()}, expected finite coordinates; remove such points")
    return lower, upper


def find_root(
    lower: NDArray[np.float64], upper: NDArray[np.float64], dtype: np.dtype[Any], width: float = 1.0
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Return centre, origin and half width of a cube that contains all points after rounding; see `Tree`.

    Args:
        lower, upper: shape (3,), corners of the bounding box of the points.
        dtype: type of the tree's points.
        width: as for `sort_points`.

    Raises:
        ValueError: coordinates are too large.
    """
    centre, half_width = _find_cube(lower, upper, dtype)
    if width > 1:
        corner, half_width = centre - half_width, _of_few_bits(width * half_width)
        grid = _grid(half_width)
        centre = np.floor((corner + half_width) / grid) * grid + 0.0
    return centre, _find_origin(centre, half_width, dtype), half_width


def _find_cube(
    lower: NDArray[np.float64], upper: NDArray[np.float64], dtype: np.dtype[Any]
) -> tuple[NDArray[np.float64], float]:
    """Return centre and half width of the root."""
    largest = 2.0**-10 * float(np.finfo(dtype).max)
    magnitude = float(max(-lower.min(), upper.max()))
    if magnitude > largest:
        raise ValueError(f"a coordinate is {magnitude:g}, expected at most {largest:g} in size; scale the points")
    centre = lower + (upper - lower) / 2
    extent = float(max((upper - centre).max(), (centre - lower).max()))
    if extent == 0:
        return centre, 1.0
    extent = max(extent, 2.0**40 * float(np.finfo(dtype).tiny))  # so that no box width underflows
    # A centre of few bits, such as 0 for points around the origin: then most differences from it are exact.
    grid = _grid(extent)
    centre = np.round(centre / grid) * grid + 0.0  # no -0
    extent = float(max((upper - centre).max(), (centre - lower).max(), extent))
    return centre, _of_few_bits(extent)


def _grid(half_width: float) -> float:
    """Return what centres are multiples of."""
    return math.ldexp(1.0, math.frexp(half_width)[1] - CENTRE_BITS)


def _of_few_bits(half_width: float) -> float:
    """Return a half width that is not smaller, with at most `HALF_WIDTH_BITS` significant bits."""
    mantissa, exponent = math.frexp(half_width)
    return math.ldexp(math.ceil(math.ldexp(mantissa, HALF_WIDTH_BITS)), exponent - HALF_WIDTH_BITS)


def _find_origin(centre: NDArray[np.float64], half_width: float, dtype: np.dtype[Any]) -> NDArray[np.float64]:
    """Return what is subtracted from coordinates: the root's centre, or in float64 0 on axes where that may round.

    Rounding to a multiple of eps times the half width is an error of digits where points are much closer together
    than that, such as points near 0 beside one far away. On an axis whose centre is more than two half widths from 0,
    all coordinates are multiples of eps times the half width, and the difference from the centre is exact.
    """
    if dtype != np.float64:
        return centre
    return np.where(np.abs(centre) <= 2 * half_width, 0.0, centre)


def _shift(points: Points, origin: NDArray[np.float64], dtype: np.dtype[Any]) -> Points:
    """Subtract the origin from points of shape (n, 3) in float64; return shape (3, n), rounded to the dtype."""
    shifted = np.empty((3, len(points)), dtype)
    return np.subtract(points.T, origin[:, None], out=shifted, dtype=np.float64, casting="same_kind")


def sort_in_root(
    points: Points,
    centre: NDArray[np.float64],
    origin: NDArray[np.float64],
    half_width: float,
    dtype: np.dtype[Any],
) -> OneSide:
    """Sort points of shape (n, 3) by Morton key, and shift them to the origin."""
    keys = np.empty(len(points), np.uint64)
    shifted = np.empty((3, len(points)), dtype)
    blocks = [slice(start, start + _BLOCK) for start in range(0, len(points), _BLOCK)]
    ncells = 1 << DEEPEST_LEVEL

    def find_keys(block: slice) -> None:
        # Dividing, not multiplying by a rounded inverse: a point on the boundary of two boxes goes to the upper one.
        cells = np.add(_shift(points[block], centre, dtype), half_width, dtype=np.float64)
        np.divide(cells, 2 * half_width / ncells, out=cells)
        np.minimum(cells, ncells - 1, out=cells)
        keys[block] = encode(cells.astype(np.int32))

    def put_in_order(block: slice) -> None:
        shifted[:, block] = _shift(points.take(order[block], axis=0), origin, dtype)

    map_on_cores(find_keys, blocks)
    order = np.argsort(keys)
    map_on_cores(put_in_order, blocks)
    return OneSide(shifted, order, keys.take(order))


def encode(anchors: NDArray[np.integer[Any]]) -> Keys:
    """Interleave the bits of anchors, shape (3, n), each in 0 to 2^21 - 1, into Morton keys, shape (n,)."""
    spread = anchors.astype(np.uint64)
    shifted = np.empty_like(spread)
    for shift, keep in _SPREAD:
        np.left_shift(spread, np.uint64(shift), out=shifted)
        np.bitwise_or(spread, shifted, out=spread)
        np.bitwise_and(spread, np.uint64(keep), out=spread)
    keys: Keys = spread[0] | spread[1] << np.uint64(1) | spread[2] << np.uint64(2)
    return keys


def decode(keys: Keys) -> NDArray[np.int32]:
    """Return the anchors, shape (3, n), of Morton keys, shape (n,): the inverse of ``encode``."""
    anchors = np.stack([keys, keys >> np.uint64(1), keys >> np.uint64(2)])
    masks = [keep for _, keep in reversed(_SPREAD)] + [(1 << DEEPEST_LEVEL) - 1]
    anchors &= np.uint64(masks[0])
    for (shift, _), keep in zip(reversed(_SPREAD), masks[1:], strict=True):
        anchors |= anchors >> np.uint64(shift)
        anchors &= np.uint64(keep)
    return anchors.astype(np.int32)


def split_boxes(boxes: Keys) -> Keys:
    """Return the keys of the eight children of each box, ascending as the boxes are."""
    return ((boxes << np.uint64(3))[:, None] | _OCTANTS).ravel()


def find_ranges(point_keys: Keys, boxes: Keys, level: int) -> NDArray[np.int64]:
    """Return the first point of each box of a level, and one past its last: shape (2, n); boxes are ascending."""
    shift = np.uint64(3 * (DEEPEST_LEVEL - level))
    ranges = np.empty((2, boxes.size), np.int64)
    ranges[0] = np.searchsorted(point_keys, boxes << shift)
    # Most boxes end where the next one begins.
    ends_apart = np.append(boxes[1:] != boxes[:-1] + np.uint64(1), True)[: boxes.size]
    ranges[1, :-1] = ranges[0, 1:]
    ranges[1, ends_apart] = np.searchsorted(point_keys, (boxes[ends_apart] + np.uint64(1)) << shift)
    return ranges


def _find_largest_counts(point_keys: Sequence[Keys], boxes: Keys, level: int) -> NDArray[np.int64]:
    """Return for each box of a level its number of sources or of targets, whichever is larger."""
    counts = [np.diff(find_ranges(keys, boxes, level), axis=0)[0] for keys in point_keys]
    largest: NDArray[np.int64] = np.max(counts, axis=0)
    return largest


def _find_splits(point_keys: Sequence[Keys], ncrit: int, max_level: int, split_coincident: bool) -> list[Keys]:
    """Return for each level, from the root's, the keys of the boxes with too many points, ascending."""
    splits: list[Keys] = []
    boxes = np.zeros(1, np.uint64)
    for level in range(max_level):
        crowded = boxes[_find_largest_counts(point_keys, boxes, level) > ncrit]
        if not split_coincident:
            crowded = crowded[_are_separable(point_keys, crowded, level, max_level)]
        if not crowded.size:
            break
        splits.append(crowded)
        boxes = split_boxes(crowded)
    return splits


def _are_separable(point_keys: Sequence[Keys], boxes: Keys, level: int, max_level: int) -> NDArray[np.bool_]:
    """Return which boxes have points in more than one cell of the finest level."""
    shift = np.uint64(3 * (DEEPEST_LEVEL - max_level))
    least, most = np.full(len(boxes), ~np.uint64(0)), np.zeros(len(boxes), np.uint64)
    for keys in point_keys:
        starts, ends = find_ranges(keys, boxes, level)
        some = starts < ends
        least[some] = np.minimum(least[some], keys[starts[some]])
        most[some] = np.maximum(most[some], keys[ends[some] - 1])
    return np.asarray((least >> shift) != (most >> shift))


def demanded_parents(boxes: Keys, level: int) -> Keys:
    """Return the boxes of the next coarser level that must be split if those of a level are, see `_balance`."""
    anchors = decode(boxes)
    below, above = (anchors - 1) >> 1, (anchors + 1) >> 1
    corners = [[(below, above)[octant >> axis & 1][axis] for octant in range(8)] for axis in range(3)]
    parents = np.array(corners).reshape(3, -1)
    inside = ((parents >= 0) & (parents < 1 << (level - 1))).all(axis=0)
    return encode(parents[:, inside])


def _balance(splits: Sequence[Keys], point_keys: Sequence[Keys]) -> list[Keys]:
    """Add the boxes that must be split for balance, in one sweep from the finest level.

    A box P at anchor a is split only where the parents of P and of its 26 neighbours are. Along each axis the
    neighbours have anchors a - 1, a and a + 1, so these parents are at (a - 1) >> 1 and (a + 1) >> 1: eight in all.
    Splitting them demands nothing of the level of P, so one sweep is enough.
    """
    balanced = list(splits)
    for level in range(len(splits) - 1, 0, -1):
        demanded = np.setdiff1d(demanded_parents(balanced[level], level), balanced[level - 1])
        demanded = demanded[_find_largest_counts(point_keys, demanded, level - 1) > 0]
        balanced[level - 1] = np.union1d(balanced[level - 1], demanded)
    return balanced


def _assemble(points: SortedPoints, splits: Sequence[Keys]) -> Tree:
    """Number the boxes that have points, from the keys of those that are split, and tabulate them."""
    sources, targets = points.sources, points.targets
    nboxes = 0
    box_keys, box_parents, source_ranges, target_ranges = [], [], [], []
    keys, parents = np.zeros(1, np.uint64), np.full(1, -1)
    for level, split in enumerate([*splits, np.empty(0, np.uint64)]):
        of_sources = find_ranges(sources.keys, keys, level)
        of_targets = of_sources if targets is sources else find_ranges(targets.keys, keys, level)
        full = (of_sources[0] < of_sources[1]) | (of_targets[0] < of_targets[1])
        box_keys.append(keys[full])
        box_parents.append(parents[full])
        source_ranges.append(of_sources[:, full])
        target_ranges.append(of_targets[:, full])
        parents = np.repeat(nboxes + np.searchsorted(box_keys[level], split), 8)
        keys = split_boxes(split)
        nboxes += box_keys[level].size
    sizes = [keys.size for keys in box_keys]
    all_keys, all_parents = np.concatenate(box_keys), np.concatenate(box_parents).astype(np.int32)
    children = np.full((nboxes, 8), -1, np.int32)
    children[all_parents[1:], all_keys[1:] & np.uint64(7)] = np.arange(1, nboxes)
    source_starts, source_ends = np.concatenate(source_ranges, axis=1).astype(np.int32)
    if targets is sources:
        target_starts, target_ends = source_starts, source_ends
    else:
        target_starts, target_ends = np.concatenate(target_ranges, axis=1).astype(np.int32)
    return Tree(
        centre=points.centre,
        origin=points.origin,
        half_width=points.half_width,
        sources=sources.points,
        targets=targets.points,
        source_order=sources.order,
        target_order=targets.order,
        level_starts=np.cumsum([0, *sizes], dtype=np.int32),
        box_levels=np.repeat(np.arange(len(sizes), dtype=np.int32), sizes),
        box_anchors=decode(all_keys),
        box_keys=all_keys,
        box_parents=all_parents,
        box_children=children,
        is_leaf=np.all(children < 0, axis=1),
        box_source_starts=source_starts,
        box_source_ends=source_ends,
        box_target_starts=target_starts,
        box_target_ends=target_ends,
    )


def level_radii(tree: Tree) -> NDArray[np.float64]:
    """Return the box radius (half width) on each level that has expansions, from FIRST_LEVEL on: one at least."""
    levels = np.arange(FIRST_LEVEL, max(tree.nlevels, FIRST_LEVEL + 1))
    return np.asarray(tree.half_width / 2.0**levels, np.float64)
