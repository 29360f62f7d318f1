"""Host-side factors of M2L compressed by singular values: the truncated decomposition of each M2L matrix.

A matrix between well-separated boxes has few significant singular values: at order 6, about 21 of 152 are more than
1e-6 of the largest. Other transfer vectors have as few, but other singular vectors: common bases for all vectors, as in
Fong & Darve 2009 (section 3.3), would need 128 of 152 for the same error, so each vector has its own factors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmmloopy.common.sizes import RANKS, TRANSFERS
from fmmloopy.expressions import COORDINATES
from fmmloopy.greens import GreensFunction
from fmmloopy.tables.surfaces import (
    FloatArray,
    component_sizes,
    m2l_matrix,
    not_finite,
    surface_grid,
    transfer_vectors,
)

Vector = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Factors:
    """Compressed M2L matrices: each is left.T @ right of one entry, its points renumbered.

    Attributes:
        starts: shape (nentries + 1,), int64: singular values of entry e are starts[e] to starts[e + 1].
        left: shape (starts[-1], n tc): left singular vectors times singular values.
        right: shape (starts[-1], n sc): right singular vectors.
        entries: shape (343,), int64: the entry of each transfer vector, -1 for adjacent boxes.
        points: shape (343, n), int64: point a of the entry's surfaces is point ``points[v, a]`` of vector v's.
    """

    starts: NDArray[np.int64]
    left: FloatArray
    right: FloatArray
    entries: NDArray[np.int64]
    points: NDArray[np.int64]

    @property
    def ranks(self) -> NDArray[np.int64]:
        """Singular values of each transfer vector, 0 for adjacent boxes: shape (343,)."""
        return np.where(self.entries < 0, 0, np.diff(self.starts)[self.entries])

    def of(self, transfer: int) -> tuple[FloatArray, FloatArray]:
        """Return the factors of a transfer vector, shapes (rank, n tc) and (rank, n sc)."""
        entry, points = self.entries[transfer], self.points[transfer]
        npoints = len(points)
        values = slice(*self.starts[entry : entry + 2]) if entry >= 0 else slice(0)
        result = []
        for factor in (self.left[values], self.right[values]):
            blocks = factor.reshape(len(factor), factor.shape[1] // npoints, npoints)
            renumbered = np.empty_like(blocks)
            renumbered[..., points] = blocks
            result.append(renumbered.reshape(factor.shape))
        return result[0], result[1]


def compress(kernel: GreensFunction, order: int, radius: float, inner: float, tolerance: float) -> Factors:
    """Decompose the M2L matrices of all transfer vectors.

    Functions of distance alone have 16 matrices that differ by more than the numbering of points: a reflection or an
    exchange of axes takes every other transfer vector to one of them.

    Args:
        kernel: the Green's function.
        order: p, points per cube edge.
        radius: radius of the boxes.
        inner: radius of both surfaces in box radii.
        tolerance: singular values above this times the largest of all matrices are kept, and enough of the next ones to
            fill a tile. Components are scaled to the same size first, so that none is dropped because it is small.

    Raises:
        ValueError: the Green's function is not finite between the surfaces.
    """
    vectors = _vectors_of_entries(kernel)
    rows, columns = component_sizes(kernel, m2l_matrix(kernel, order, radius, vectors[0], inner))
    kept = []
    for k in vectors:
        matrix = m2l_matrix(kernel, order, radius, k, inner)
        if not np.isfinite(matrix).all():
            raise ValueError(not_finite(kernel, radius))
        u, s, vt = np.linalg.svd(matrix / rows[:, None] / columns, full_matrices=False)
        rank = _rank(s, tolerance * s[0])  # as many as the largest of all can leave
        kept.append((s, u[:, :rank].T * s[:rank, None] * rows, vt[:rank] * columns))
    largest = max(s[0] for s, _, _ in kept)
    ranks = [_rank(s, tolerance * largest) for s, _, _ in kept]
    left = np.concatenate([left[:rank] for (_, left, _), rank in zip(kept, ranks, strict=True)])
    right = np.concatenate([right[:rank] for (_, _, right), rank in zip(kept, ranks, strict=True)])
    return arrange(kernel, order, np.array(ranks), left, right)


def _rank(s: FloatArray, least: float) -> int:
    """Return how many singular values to keep: those above the smallest, rounded up to fill a tile."""
    return min(len(s), -(-int((s > least).sum()) // RANKS) * RANKS)


def arrange(
    kernel: GreensFunction, order: int, ranks: NDArray[np.integer[Any]], left: FloatArray, right: FloatArray
) -> Factors:
    """Return factors with the entry of each transfer vector.

    Args:
        kernel: the Green's function.
        order: p, points per cube edge.
        ranks: shape (nentries,): singular values of each entry.
        left, right: as in `Factors`.
    """
    place = {k: entry for entry, k in enumerate(_vectors_of_entries(kernel))}
    grid = surface_grid(order)
    entries = np.full(TRANSFERS, -1)
    points = np.tile(np.arange(grid.shape[1]), (TRANSFERS, 1))
    for v, k in transfer_vectors():
        if k in place:
            entries[v] = place[k]
        else:
            origin, axes, signs = _representative(k)
            entries[v] = place[origin]
            points[v] = _moved_points(grid, axes, signs)
    return Factors(np.append(0, np.cumsum(ranks)), left, right, entries, points)


def count_entries(kernel: GreensFunction) -> int:
    """Return how many M2L matrices differ by more than the numbering of points: 16 or 316."""
    return len(_vectors_of_entries(kernel))


def is_radial(kernel: GreensFunction) -> bool:
    """Return whether a function depends only on the distance."""
    return not kernel.variables & set(COORDINATES)


def _vectors_of_entries(kernel: GreensFunction) -> list[Vector]:
    """Return the transfer vectors whose matrices are decomposed."""
    radial = is_radial(kernel)
    return [k for _, k in transfer_vectors() if not radial or _representative(k)[0] == k]


def tiles_of_factors(
    factors: Factors, nsurface: int
) -> tuple[NDArray[np.int32], NDArray[np.float64], NDArray[np.float64]]:
    """Arrange factors in the layout of m2l_svd, with surfaces padded to ``nsurface`` points and ranks to full tiles.

    Returns:
        Where the tiles of each transfer vector start, shape (344,); right, shape (ntiles, columns, 8); left, shape
        (ntiles, 8, rows).
    """
    ntiles = -(-factors.ranks // RANKS)
    starts, total = np.cumsum([0, *ntiles]), int(ntiles.sum())
    npoints = factors.points.shape[1]
    left, right = (
        np.zeros((RANKS * total, factor.shape[1] // npoints, nsurface)) for factor in (factors.left, factors.right)
    )
    for transfer in np.flatnonzero(ntiles):
        for whole, factor in zip((left, right), factors.of(int(transfer)), strict=True):
            first = RANKS * starts[transfer]
            whole[first : first + len(factor), :, :npoints] = factor.reshape(len(factor), whole.shape[1], npoints)
    left, right = (whole.reshape(total, RANKS, whole.shape[1] * nsurface) for whole in (left, right))
    return starts.astype(np.int32), np.ascontiguousarray(right.swapaxes(1, 2)), left


def _representative(k: Vector) -> tuple[Vector, tuple[int, ...], NDArray[np.int64]]:
    """Return the vector with the same components but ascending and not negative, and how it becomes ``k``.

    Returns:
        That vector; for each of its axes the axis of ``k``; the signs of ``k``'s axes, 1 or -1.
    """
    axes = tuple(sorted(range(3), key=lambda axis: abs(k[axis])))
    origin = (abs(k[axes[0]]), abs(k[axes[1]]), abs(k[axes[2]]))
    return origin, axes, np.where(np.array(k) < 0, -1, 1)


def _moved_points(grid: NDArray[np.int32], axes: tuple[int, ...], signs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return which point of a surface each point becomes when its axes are exchanged and then reflected."""
    last = int(grid.max())
    moved = np.empty_like(grid)
    for axis, to in enumerate(axes):
        moved[to] = grid[axis] if signs[to] > 0 else last - grid[axis]
    number = np.full((last + 1,) * 3, -1)
    number[tuple(grid)] = np.arange(grid.shape[1])
    return np.asarray(number[tuple(moved)])
