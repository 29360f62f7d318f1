"""Find sources and targets that are in the same place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmmloopy.octree.tree import SortedPoints

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Coincident:
    """Places that have a source and another point: a target, or a second source where the targets are the sources.

    Attributes:
        sources, targets: shape (n,), int64: their numbers in the caller's arrays.
        source_places, target_places: shape (n,), int64: the place of each, counted from 0.
        nplaces: how many places there are.
        same_points: whether the targets are the sources; then both lists are the same.
    """

    sources: NDArray[np.int64]
    targets: NDArray[np.int64]
    source_places: NDArray[np.int64]
    target_places: NDArray[np.int64]
    nplaces: int
    same_points: bool

    def contributions(self, at_zero: FloatArray, charges: NDArray[np.floating[Any]]) -> FloatArray:
        """Return what other sources in the places of the targets contribute, shape (vectors, rows, n).

        Where the targets are the sources, each charge is subtracted from the sum over its place, which rounds to the
        last digit of the largest charge there.

        Args:
            at_zero: shape (rows, columns), the function at distance zero.
            charges: shape (vectors, columns, nsources).
        """
        chosen = charges[..., self.sources].astype(np.float64, copy=False)
        sums = np.array([[np.bincount(self.source_places, row, self.nplaces) for row in vector] for vector in chosen])
        others: FloatArray = sums[..., self.target_places] - (chosen if self.same_points else 0.0)
        return at_zero @ others


def find_coincident(points: SortedPoints) -> Coincident | None:
    """Return which points are in the same place, by the coordinates of the tree; None if there are no such points.

    Only points with the same Morton key are compared, so this takes little time if few are near each other.
    """
    sources, targets = points.sources, points.targets
    same_points = sources is targets
    if same_points:
        again = sources.keys[1:] == sources.keys[:-1]
        near_sources = near_targets = np.flatnonzero(np.append(again, False) | np.append(False, again))
    else:
        near_sources = np.flatnonzero(_are_in(sources.keys, targets.keys))
        near_targets = np.flatnonzero(_are_in(targets.keys, sources.keys))
    if not len(near_sources):
        return None
    coordinates = [sources.points[:, near_sources].T]
    if not same_points:
        coordinates.append(targets.points[:, near_targets].T)
    # Zero of either sign is the same place.
    _, places = np.unique(np.concatenate(coordinates) + 0.0, axis=0, return_inverse=True)
    places = places.ravel()
    source_places = places[: len(near_sources)]
    target_places = source_places if same_points else places[len(near_sources) :]
    nplaces = int(places.max()) + 1
    # A place counts if it has a source and another point.
    of_sources = np.bincount(source_places, minlength=nplaces)
    counts = of_sources > 1 if same_points else (of_sources > 0) & (np.bincount(target_places, minlength=nplaces) > 0)
    if not counts.any():
        return None
    numbers = np.cumsum(counts) - 1
    kept_sources, kept_targets = counts[source_places], counts[target_places]
    return Coincident(
        sources.order[near_sources[kept_sources]],
        targets.order[near_targets[kept_targets]],
        numbers[source_places[kept_sources]],
        numbers[target_places[kept_targets]],
        int(counts.sum()),
        same_points,
    )


def _are_in(keys: NDArray[np.uint64], others: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Return which of the sorted keys are among other sorted keys."""
    if not len(others):
        return np.zeros(len(keys), np.bool_)
    places = np.minimum(np.searchsorted(others, keys), len(others) - 1)
    return np.asarray(others[places] == keys)
