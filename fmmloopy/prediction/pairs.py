"""Sample the pairs of points of a problem: on which level of the tree they meet, and how large G is between them.

Where all targets have much the same potential, it is one random number, and may be small: the sum of charges times
their distances, for a function that grows with the distance. So the sizes of potentials are seen together, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from fmmloopy.greens import GreensFunction
from fmmloopy.octree.tree import DEEPEST_LEVEL, SortedPoints, decode, encode
from fmmloopy.tables.surfaces import FloatArray

NTARGETS, NSOURCES = 400, 2000
"""Sampled targets, and sources for each of them; nearer pairs are all there."""

NCLOSEST, CLOSEST = 50_000, 4
"""Sampled targets, and how many of the nearest sources of each. These pairs may have most of the sum of the squares of
G, if it is very singular, and the few nearest of all pairs most of that."""

SELDOM = 1e-3
"""The share of targets with the nearest sources that do not count: of a very singular function, a few of them may have
most of the sum of the squares of all potentials. Errors are expected relative to the potentials of the others."""

NTOGETHER, NSHARED = 64, 5000
"""Sampled targets whose potentials are seen together, and the sources that they share."""

SMALL = 0.1
"""The share of sets of charges that have smaller potentials than those that errors are expected to be relative to."""

NSETS = 2000
"""Sets of charges that are drawn; the share above is then right to a fifteenth."""

LARGEST = 64
"""Targets whose potentials from their nearest sources vary with the charges; of all others, the sum hardly does."""

FEWEST_PLACED = 1024
"""A level with fewer pairs in the sample shows too little of where they are in their boxes."""

NPLACED = 64
"""Pairs of a level whose places in their boxes are kept: so many of the half with middle distances, and as many of each
half of the nearer and of the farther ones that are left. Of a function that decays or grows fast, the few nearest or
farthest pairs may have most of the error."""

COUNTED_LEVELS = 5
"""Down to this level pairs are counted, since the few that meet on a coarse level may have most of the error."""

SEED = 20040801

_BLOCK = 16384  # pairs at a time, so that matrices of many entries stay small
_SAME_KEY = 8  # of points with the same key, only so many are looked at

_NEIGHBOURS = np.array([(x, y, z) for z in (-1, 0, 1) for y in (-1, 0, 1) for x in (-1, 0, 1)]).T


@dataclass(frozen=True, eq=False)
class Placed:
    """Where the two points of pairs are in the boxes in which they meet.

    Attributes:
        targets, sources: shape (3, n), relative to the centres of their boxes, in half widths of these.
        vectors: shape (n, 3), from the box of the target to that of the source, in widths of a box.
        shares: shape (n,), of all pairs of the level: those that each stands for.
    """

    targets: FloatArray
    sources: FloatArray
    vectors: NDArray[np.int64]
    shares: FloatArray

    def __len__(self) -> int:
        return len(self.shares)

    def those(self, which: NDArray[np.int64], shares: FloatArray) -> Placed:
        """Return some of the pairs, with other shares."""
        return Placed(self.targets[:, which], self.sources[:, which], self.vectors[which], shares)

    def important(self, squares: FloatArray, count: int) -> Placed:
        """Return fewer pairs that stand for all, most of them those with large shares of a sum.

        Args:
            squares: shape (n,), of what is added up for each pair; what these pairs are for is much like it.
            count: the most pairs.
        """
        of_sum = self.shares * squares
        if count >= len(self) or not 0 < of_sum.sum() < np.inf:
            return self
        # Half of them are chosen by the sum, half by the shares, so that none stands for very much.
        chances = (of_sum / of_sum.sum() + self.shares / self.shares.sum()) / 2
        places = (np.arange(count) + 0.5) / count
        drawn = np.minimum(np.searchsorted(np.cumsum(chances), places), len(self) - 1)
        which, times = np.unique(drawn, return_counts=True)
        return self.those(which, times / count * self.shares[which] / chances[which])


@dataclass(frozen=True, eq=False)
class Together:
    """Pairs of a few targets with sources that they share, but for the nearest sources of each.

    Attributes:
        differences: shape (3, ntargets, nsources), x - y.
        counts: shape (ntargets, nsources), whether a source is none of the nearest.
        weight: how many pairs each stands for.
    """

    differences: FloatArray
    counts: NDArray[np.bool_]
    weight: float

    def squares(self, kernel: GreensFunction) -> FloatArray:
        """Return independent squares, whose sum is that of all potentials: of what charges of unit variance do."""
        with np.errstate(all="ignore"):
            values = kernel.evaluate(self.differences.reshape(3, -1))
        by_pair = np.where(self.counts, values.reshape(*values.shape[:2], *self.counts.shape), 0)
        matrix = by_pair.transpose(0, 2, 1, 3).reshape(len(values) * len(self.counts), -1)
        found = np.asarray(np.linalg.eigvalsh(self.weight * (matrix @ matrix.T)), np.float64)
        return found[found > 0]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of points of a problem.

    Attributes:
        half_width: of the root of the tree.
        far: how many pairs meet on each level that has any: they are in boxes that are not adjacent, whose parents are.
        far_differences: shape (3, nfar), x - y of sampled pairs of these.
        far_weight: how many pairs each of them stands for.
        near_differences: shape (3, nnear), x - y of all pairs of the sampled targets that are added one by one.
        near_weight: how many pairs each of them stands for.
        closest_differences: shape (3, nclosest), x - y of targets and their nearest sources; the others have none of
            these.
        closest_weight: how many pairs each of them stands for.
        closest_targets: shape (nclosest,), numbers of the targets among those sampled.
        together: pairs of a few targets.
        placed: the places of some pairs of each level that has enough.
    """

    half_width: float
    far: Mapping[int, float]
    placed: Mapping[int, Placed]
    far_differences: FloatArray
    far_weight: float
    near_differences: FloatArray
    near_weight: float
    closest_differences: FloatArray
    closest_weight: float
    closest_targets: NDArray[np.int64]
    together: Together

    def size(self, kernel: GreensFunction) -> float:
        """Return the sum of the squares of G over all pairs and components; not finite if G is not."""
        sampled = (
            (self.far_weight, self.far_differences),
            (self.near_weight, self.near_differences),
            (self.closest_weight, self.closest_differences),
        )
        return sum(weight * _squares(kernel, differences) for weight, differences in sampled)

    def spread(self, kernel: GreensFunction) -> float:
        """Return how much smaller potentials are in the 2-norm than on average, for charges with rather small ones."""
        nearest = self.closest_weight * np.bincount(
            self.closest_targets, _squares_of_pairs(kernel, self.closest_differences), 1
        )
        nearest.sort()
        alone = float(nearest[:-LARGEST].sum())
        squares = np.concatenate([self.together.squares(kernel), nearest[-LARGEST:]])
        drawn = np.random.default_rng(SEED).standard_normal((NSETS, len(squares))) ** 2 @ squares + alone
        small = float(np.quantile(drawn, SMALL))
        return math.sqrt((float(squares.sum()) + alone) / small) if small > 0 else 1.0


def _squares(kernel: GreensFunction, differences: FloatArray) -> float:
    with np.errstate(all="ignore"):
        return float(_squares_of_pairs(kernel, differences).sum())


def _squares_of_pairs(kernel: GreensFunction, differences: FloatArray) -> FloatArray:
    """Return the square of G for each pair, a sum over all components: shape (n,)."""
    starts = range(0, differences.shape[1], _BLOCK)
    with np.errstate(all="ignore"):
        squares = [(kernel.evaluate(differences[:, i : i + _BLOCK]) ** 2).sum(axis=(0, 1)) for i in starts]
    return np.concatenate([np.zeros(0), *squares])


def sample_pairs(points: SortedPoints, ncrit: int) -> Pairs:
    """Sample pairs of points.

    Args:
        points: sorted sources and targets.
        ncrit: the most sources, and targets, in a leaf.
    """
    rng = np.random.default_rng(SEED)
    sources, targets = points.sources, points.targets
    chosen_targets, chosen_sources = (
        np.sort(rng.choice(len(keys), min(most, len(keys)), replace=False))
        for keys, most in ((targets.keys, NTARGETS), (sources.keys, NSOURCES))
    )
    target_keys, x = targets.keys[chosen_targets], targets.points[:, chosen_targets].astype(np.float64)
    leaf_levels = _leaf_levels(target_keys, (sources.keys, targets.keys), ncrit)
    cells, source_cells = decode(target_keys), decode(sources.keys[chosen_sources])
    levels = _meeting_levels(cells, source_cells)
    is_far = levels <= leaf_levels[:, None]
    which_target, which_source = np.nonzero(is_far)
    y = sources.points[:, chosen_sources].astype(np.float64)
    of_targets = len(targets.keys) / len(chosen_targets)
    far_weight = of_targets * len(sources.keys) / len(chosen_sources)
    counts = far_weight * np.bincount(levels[is_far], minlength=1)
    counts[: COUNTED_LEVELS + 1] = 0
    far = {int(level): float(counts[level]) for level in np.flatnonzero(counts)} | _count_pairs(points, ncrit)
    first, last = _near_sources(cells, leaf_levels, sources.keys)
    lengths = (last - first).ravel()
    starts = np.repeat(first.ravel() - np.append(0, np.cumsum(lengths)[:-1]), lengths)
    near_sources = starts + np.arange(len(starts))
    near_targets = np.repeat(np.repeat(np.arange(x.shape[1]), first.shape[1]), lengths)
    closest = _closest(points, rng)
    radii = closest.radii_of(x)
    far_differences = x[:, which_target] - y[:, which_source]
    near_differences = x[:, near_targets] - sources.points[:, near_sources]
    return Pairs(
        half_width=points.half_width,
        far=MappingProxyType(dict(sorted(far.items()))),
        placed=MappingProxyType(_place(points, x, y, (cells, source_cells), np.where(is_far, levels, 0), rng)),
        far_differences=far_differences[:, _length(far_differences) > radii[which_target]],
        far_weight=far_weight,
        near_differences=near_differences[:, _length(near_differences) > radii[near_targets]],
        near_weight=of_targets,
        closest_differences=closest.differences,
        closest_weight=closest.weight,
        closest_targets=closest.targets,
        together=_see_together(points, closest),
    )


def share_without_sources(points: SortedPoints, ncrit: int) -> float:
    """Return the share of targets that have no sources in their leaf and those next to it.

    Sources have, since a box is divided only if there are several of them.

    Args:
        points: sorted sources and targets.
        ncrit: the most sources, and targets, in a leaf.
    """
    sources, targets = points.sources, points.targets
    if targets is sources:
        return 0.0
    chosen = np.random.default_rng(SEED).choice(len(targets.keys), min(NTARGETS, len(targets.keys)), replace=False)
    keys = targets.keys[chosen]
    levels = _leaf_levels(keys, (sources.keys, targets.keys), ncrit)
    first, last = _near_sources(decode(keys), levels, sources.keys)
    return float(np.mean((last == first).all(axis=1)))


def _see_together(points: SortedPoints, closest: _Closest) -> Together:
    rng = np.random.default_rng(SEED)  # of its own, so that it does not change with what else is sampled
    x, y = (
        side.points[:, np.sort(rng.choice(len(side.keys), min(most, len(side.keys)), replace=False))].astype(np.float64)
        for side, most in ((points.targets, NTOGETHER), (points.sources, NSHARED))
    )
    differences = x[:, :, None] - y[:, None, :]
    weight = len(points.targets.keys) / x.shape[1] * len(points.sources.keys) / y.shape[1]
    return Together(differences, _length(differences) > closest.radii_of(x)[:, None], weight)


@dataclass(frozen=True, eq=False)
class _Closest:
    """Pairs of sampled targets and their nearest sources.

    Attributes:
        differences: shape (3, n), x - y.
        weight: how many pairs each stands for.
        targets: shape (n,), numbers of the targets among those sampled.
        radii_of: returns the distance of the farthest source that is among the nearest of targets, shape (3, m).
    """

    differences: FloatArray
    weight: float
    targets: NDArray[np.int64]
    radii_of: Callable[[FloatArray], FloatArray]


def _closest(points: SortedPoints, rng: np.random.Generator) -> _Closest:
    """Find the nearest sources of many targets; a source in the place of a target is none of them."""
    from scipy.spatial import KDTree  # takes its time to import

    sources, targets = points.sources, points.targets
    # Many points in one place would take long, and add nothing.
    kept = np.ones(len(sources.keys), np.bool_)
    kept[_SAME_KEY:] = sources.keys[_SAME_KEY:] != sources.keys[:-_SAME_KEY]
    tree = KDTree(sources.points[:, kept].T.astype(np.float64), balanced_tree=False, compact_nodes=False)
    count = min(CLOSEST + 1, tree.n)

    def query(x: FloatArray) -> tuple[FloatArray, NDArray[np.int64]]:
        distances, numbers = tree.query(x.T, k=np.arange(1, count + 1))
        return distances, numbers

    chosen = np.sort(rng.choice(len(targets.keys), min(NCLOSEST, len(targets.keys)), replace=False))
    x = targets.points[:, chosen].astype(np.float64)
    distances, numbers = query(x)
    distances[distances == 0] = np.inf
    nearest = distances.min(axis=1)
    distances[np.argsort(nearest)[: int(SELDOM * len(nearest))]] = np.inf
    which, rank = np.nonzero(np.isfinite(distances))
    differences = x[:, which] - tree.data[numbers[which, rank]].T
    return _Closest(differences, len(targets.keys) / len(chosen), which, lambda x: query(x)[0][:, -1])


def _length(differences: FloatArray) -> FloatArray:
    lengths: FloatArray = np.sqrt((differences**2).sum(axis=0))
    return lengths


def _place(
    points: SortedPoints,
    x: FloatArray,
    y: FloatArray,
    cells: tuple[NDArray[np.int32], NDArray[np.int32]],
    levels: NDArray[np.int64],
    rng: np.random.Generator,
) -> dict[int, Placed]:
    """Return the places of pairs that meet on each level: shape (ntargets, nsources), 0 for those that do not."""
    placed = {}
    middle = points.centre - points.origin
    for level in map(int, np.unique(levels[levels > 0])):
        which_target, which_source = np.nonzero(levels == level)
        if len(which_target) < FEWEST_PLACED:
            continue
        chosen, shares = _choose_by_distance(_length(x[:, which_target] - y[:, which_source]), rng)
        radius, shift = points.half_width / 2.0**level, DEEPEST_LEVEL - level
        relative, anchors = [], []
        for side, which, of in ((x, which_target[chosen], cells[0]), (y, which_source[chosen], cells[1])):
            anchors.append((of[:, which] >> shift).astype(np.int64))
            centres = middle[:, None] - points.half_width + radius * (2 * anchors[-1] + 1)
            relative.append((side[:, which] - centres) / radius)
        placed[level] = Placed(relative[0], relative[1], (anchors[1] - anchors[0]).T, shares)
    return placed


def _choose_by_distance(distances: FloatArray, rng: np.random.Generator) -> tuple[NDArray[np.int64], FloatArray]:
    """Choose some pairs of middle distances, and as many of each half of the nearer and the farther ones that are left.

    Returns:
        Numbers of pairs, and the share of all that each stands for.
    """
    order = np.argsort(distances)
    half = len(order) // 2
    chosen, shares = [], []
    for side in (order[:half][::-1], order[half:]):  # away from the middle
        while len(side):
            part = len(side) if len(side) <= NPLACED else len(side) // 2
            count = min(part, NPLACED)
            chosen.append(side[:part][rng.choice(part, count, replace=False)])
            shares.append(np.full(count, part / count / len(order)))
            side = side[part:]
    return np.concatenate(chosen), np.concatenate(shares)


def _leaf_levels(
    targets: NDArray[np.uint64], keys: tuple[NDArray[np.uint64], NDArray[np.uint64]], ncrit: int
) -> NDArray[np.int64]:
    """Return the level of the leaf of each target, apart from what balance adds."""
    levels = np.full(len(targets), DEEPEST_LEVEL)
    for level in range(DEEPEST_LEVEL - 1, -1, -1):
        shift = np.uint64(3 * (DEEPEST_LEVEL - level))
        boxes = targets >> shift
        bounds = (boxes << shift, (boxes + np.uint64(1)) << shift)
        counts = [np.searchsorted(each, bounds[1]) - np.searchsorted(each, bounds[0]) for each in keys]
        levels[np.max(counts, axis=0) <= ncrit] = level
    return levels


def _meeting_levels(targets: NDArray[np.int32], sources: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return the first level on which the boxes of each pair of cells are not adjacent, or a deeper one than any."""
    levels = np.full((targets.shape[1], sources.shape[1]), DEEPEST_LEVEL + 1)
    for level in range(DEEPEST_LEVEL, 0, -1):
        shift = DEEPEST_LEVEL - level
        apart = np.zeros(levels.shape, np.bool_)
        for axis in range(3):
            apart |= np.abs((targets[axis] >> shift)[:, None] - (sources[axis] >> shift)) > 1
        levels[apart] = level
    return levels


def _count_pairs(points: SortedPoints, ncrit: int) -> dict[int, float]:
    """Return how many pairs meet on each of the coarse levels that has any."""
    found = {}
    nsources, ntargets = (_box_counts(side.keys, 1) for side in (points.sources, points.targets))
    for level in range(2, COUNTED_LEVELS + 1):
        is_split = np.maximum(nsources, ntargets) > ncrit
        of_parents = np.where(is_split, _with_neighbours(nsources), 0)
        nsources, ntargets = (_box_counts(side.keys, level) for side in (points.sources, points.targets))
        of_parents, is_split = (a.repeat(2, 0).repeat(2, 1).repeat(2, 2) for a in (of_parents, is_split))
        pairs = float((ntargets * (of_parents - np.where(is_split, _with_neighbours(nsources), 0))).sum())
        if pairs:
            found[level] = pairs
    return found


def _box_counts(keys: NDArray[np.uint64], level: int) -> FloatArray:
    """Return the number of points in each box of a level, by anchor: shape (2^level,) * 3."""
    boxes = np.arange(8**level + 1, dtype=np.uint64)
    shift = np.uint64(3 * (DEEPEST_LEVEL - level))
    counts = np.zeros((1 << level,) * 3)
    counts[tuple(decode(boxes[:-1]))] = np.diff(np.searchsorted(keys, boxes << shift))
    return counts


def _with_neighbours(counts: FloatArray) -> FloatArray:
    """Return the sum over each box and those next to it."""
    for axis in range(3):
        padded = np.pad(counts, [(1, 1) if axis == a else (0, 0) for a in range(3)])
        n = counts.shape[axis]
        counts = np.sum([padded.take(range(first, first + n), axis) for first in range(3)], axis=0)
    return counts


def _near_sources(
    cells: NDArray[np.int32], leaf_levels: NDArray[np.int64], keys: NDArray[np.uint64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first source of each box next to a target's, and one past its last; shape (ntargets, 27)."""
    shift = (DEEPEST_LEVEL - leaf_levels)[:, None]
    anchors = (cells >> shift.T)[:, :, None] + _NEIGHBOURS[:, None, :]
    inside = ((anchors >= 0) & (anchors < 1 << leaf_levels[:, None])).all(axis=0)
    boxes = encode(np.where(inside, anchors, 0).reshape(3, -1)).reshape(inside.shape)
    bits = (3 * shift).astype(np.uint64)
    first = np.searchsorted(keys, boxes << bits)
    last = np.searchsorted(keys, (boxes + np.uint64(1)) << bits)
    return first, np.where(inside, last, first)
