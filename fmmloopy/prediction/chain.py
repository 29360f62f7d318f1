"""The error of one chain of translations: P2M, M2M, M2L, L2L and L2P between well-separated boxes, in numpy.

For charges that are independent and of zero mean, the mean square of a potential is the sum of the squares of G over
all sources; the mean square of its error is the sum of the squares of the error of G. So the relative error in the
2-norm is a ratio of two such sums, and no charges are needed: a chain is applied to unit charges. The mean squares are
over random points in both boxes, and over transfer vectors as often as they occur.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmmloopy.common.sizes import SIBLINGS
from fmmloopy.greens import GreensFunction
from fmmloopy.precision import Precision
from fmmloopy.tables.surfaces import (
    INNER,
    OUTER,
    Factors,
    FloatArray,
    box_factors,
    greens_matrix,
    octant_offset,
    surface_grid,
    surface_points,
    transfer_vectors,
)

NPOINTS = 128
"""Random points in each of the two boxes. The error is largest near their corners, so few points underestimate it."""

SEED = 20040801

Array = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Squares:
    """Mean squares over pairs of points in boxes of a V list, each a sum over all components.

    Attributes:
        error: of the error of G.
        size: of G.
    """

    error: float
    size: float


def is_homogeneous(kernel: GreensFunction) -> bool:
    """Return whether the errors of chains are known for all radii if they are for one."""
    parts = (kernel.between(a, b) for a in (False, True) for b in (False, True))
    return all(part.homogeneity is not None for part in parts)


def measure_chain(kernel: GreensFunction, order: int, radius: float, precision: Precision) -> Squares:
    """Return mean squares for two boxes of the same radius, whose points are in children of half the radius.

    Args:
        kernel: the Green's function, without gradient.
        order: p, points per cube edge, 2 to 16.
        radius: half width of both boxes; any for a homogeneous function, whose squares scale with it.
        precision: the types of expansions and spectra, and the truncation of the tables. Points are not rounded.

    Raises:
        ValueError: the Green's function is not finite between the surfaces.
    """
    rng = np.random.default_rng(SEED)
    sources, targets = radius * rng.uniform(-1, 1, (2, 3, NPOINTS))
    with np.errstate(all="ignore"):  # values that are not finite are errors that are not finite
        chain = _Chain.build(kernel, order, radius, precision)
        charges, values = chain.up(sources), chain.down(targets)
        on_surface = INNER * radius * surface_points(order)
        error = size = 0.0
        for k, weight in _vectors(rng):
            offset = 2 * radius * np.array(k, np.float64)[:, None]
            across = greens_matrix(kernel.translations, on_surface, on_surface + offset).astype(precision.spectra)
            checks = (across @ charges.astype(precision.spectra)).astype(precision.expansions)
            exact = greens_matrix(kernel, targets, sources + offset)
            error += weight * float(((values @ checks - exact) ** 2).mean())
            size += weight * float((exact**2).mean())
    components = kernel.ntarget_components * kernel.nsource_components
    return Squares(components * error, components * size)


def measure_pairs(
    kernel: GreensFunction,
    order: int,
    radius: float,
    precision: Precision,
    targets: FloatArray,
    sources: FloatArray,
    vectors: NDArray[np.int64],
) -> FloatArray:
    """Return the square of the error of G for given pairs of points, a sum over all components: shape (n,).

    Args:
        kernel: the Green's function, without gradient.
        order: p, points per cube edge, 2 to 16.
        radius: half width of both boxes of all pairs.
        precision: as for `measure_chain`.
        targets, sources: shape (3, n), relative to the centres of their boxes, in half widths.
        vectors: shape (n, 3), from the box of the target to that of the source, in widths of a box.

    Raises:
        ValueError: the Green's function is not finite between the surfaces.
    """
    with np.errstate(all="ignore"):
        chain = _Chain.build(kernel, order, radius, precision)
        x, y = radius * targets, radius * sources
        charges, values = chain.up(y), chain.down(x)
        charges = charges.reshape(kernel.translations.nsource_components, -1, kernel.nsource_components, x.shape[1])
        values = values.reshape(kernel.ntarget_components, -1, values.shape[1])
        differences, which = _differences(order)
        squares = np.empty(len(vectors))
        for k in np.unique(vectors, axis=0):
            offset, here = 2 * radius * k[:, None], (vectors == k).all(axis=1)
            across = kernel.translations.evaluate(INNER * radius * differences - offset).astype(precision.spectra)
            there = charges[..., here].astype(precision.spectra)
            checks = np.concatenate(
                [
                    sum(np.tensordot(entry[which], each, 1) for entry, each in zip(row, there, strict=True))
                    for row in across
                ]
            )
            found = np.einsum("tpc,csp->tsp", values[:, here], checks.astype(precision.expansions))
            exact = kernel.evaluate(x[:, here] - y[:, here] - offset)
            squares[here] = ((found - exact) ** 2).sum(axis=(0, 1))
    return squares


def _differences(order: int) -> tuple[FloatArray, NDArray[np.int64]]:
    """Return all differences of two points of the surface of [-1, 1]^3, and which that of each two points is.

    They are those of a grid, fewer than pairs of points.

    Returns:
        Shapes (3, (2 p - 1)^3) and (n, n): of the first point minus the second.
    """
    grid, edge = surface_grid(order), 2 * order - 1
    apart = grid[:, :, None] - grid[:, None, :] + order - 1
    all_of_them = np.indices((edge,) * 3).reshape(3, -1) - (order - 1)
    return 2 * all_of_them / (order - 1), np.ravel_multi_index(tuple(apart), (edge,) * 3)


@dataclass(frozen=True, eq=False)
class _Chain:
    """Translations between points in the children of a box and the surfaces of the box.

    Attributes:
        kernel: the Green's function between points.
        radius: half width of the box.
        dtype: type of expansions.
        surface: points of the surface of the cube [-1, 1]^3.
        upward, downward: pseudo-inverses of the box.
        child_upward, child_downward: pseudo-inverses of its children.
    """

    kernel: GreensFunction
    radius: float
    dtype: np.dtype[Any]
    surface: FloatArray
    upward: Factors
    downward: Factors
    child_upward: Factors
    child_downward: Factors

    @staticmethod
    def build(kernel: GreensFunction, order: int, radius: float, precision: Precision) -> _Chain:
        """Decompose the matrices of the box and of its children, one decomposition for a homogeneous function."""
        dtype = precision.tables.name

        def factors(r: float) -> tuple[Factors, Factors]:
            return box_factors(kernel.translations, order, r, INNER, OUTER, dtype)

        degree = kernel.translations.homogeneity
        if degree is None:
            own, of_child = factors(radius), factors(radius / 2)
        else:
            first, second = factors(1.0)
            own, of_child = (
                ((first[0], first[1] * scale), (second[0], second[1] * scale))
                for scale in (radius**-degree, (radius / 2) ** -degree)
            )
        return _Chain(kernel, radius, precision.expansions, surface_points(order), *own, *of_child)

    def up(self, points: FloatArray) -> Array:
        """Return the equivalent charges of the box for unit charges at points, shape (n sc, npoints sc): P2M, M2M."""
        npoints, outer = points.shape[1], OUTER * self.radius * self.surface
        between, inner = self.kernel.translations, INNER / 2 * self.radius * self.surface
        onto_surface = self.kernel.between(from_surface=False, onto_surface=True)
        rows = len(self.upward[1])
        charges = np.empty((rows, self.kernel.nsource_components, npoints), self.dtype)
        for of_octant, centre in _octants(points, self.radius):
            checks = self._matrix(onto_surface, centre + outer / 2, points[:, of_octant])
            of_child = self._apply(self.child_upward, checks)
            checks = self._matrix(between, outer, centre + inner) @ of_child
            own = self._apply(self.upward, checks)
            charges[:, :, of_octant] = own.reshape(rows, self.kernel.nsource_components, -1)
        return charges.reshape(rows, -1)

    def down(self, points: FloatArray) -> Array:
        """Return potentials at points from check potentials of the box, shape (npoints tc, n tc): L2L, L2P."""
        npoints, outer = points.shape[1], OUTER * self.radius * self.surface
        between, inner = self.kernel.translations, INNER / 2 * self.radius * self.surface
        from_surface, columns = self.kernel.between(from_surface=True, onto_surface=False), self.downward[0].shape[1]
        values = np.empty((self.kernel.ntarget_components, npoints, columns), self.dtype)
        for of_octant, centre in _octants(points, self.radius):
            potentials = self._matrix(from_surface, points[:, of_octant], centre + outer / 2)
            checks = potentials @ self._cast(self.child_downward[1]) @ self._cast(self.child_downward[0])
            charges = checks @ self._matrix(between, centre + inner, outer)
            own = charges @ self._cast(self.downward[1]) @ self._cast(self.downward[0])
            values[:, of_octant] = own.reshape(self.kernel.ntarget_components, -1, columns)
        return values.reshape(-1, columns)

    def _matrix(self, kernel: GreensFunction, targets: FloatArray, sources: FloatArray) -> Array:
        return self._cast(greens_matrix(kernel, targets, sources))

    def _apply(self, factors: Factors, checks: Array) -> Array:
        return self._cast(factors[1]) @ (self._cast(factors[0]) @ checks)

    def _cast(self, array: FloatArray) -> Array:
        return array.astype(self.dtype, copy=False)


def _octants(points: FloatArray, radius: float) -> Iterator[tuple[NDArray[np.bool_], FloatArray]]:
    """Yield which points are in each child of a box at 0, if any are, and the child's centre, shape (3, 1)."""
    octants = np.array([1, 2, 4]) @ (points >= 0)
    for octant in range(SIBLINGS):
        if (octants == octant).any():
            yield octants == octant, radius / 2 * octant_offset(octant)


@cache
def _occurrences() -> dict[tuple[int, ...], list[tuple[tuple[int, int, int], float]]]:
    """Return the transfer vectors by the sizes of their components, each with how often it occurs.

    A child whose anchor is even along an axis meets components -2 to 3 there, the other children -3 to 2.
    """
    classes: dict[tuple[int, ...], list[tuple[tuple[int, int, int], float]]] = {}
    for _, k in transfer_vectors():
        times = float(np.prod([1 if abs(component) == 3 else 2 for component in k]))
        classes.setdefault(tuple(sorted(map(abs, k))), []).append((k, times))
    return classes


def _vectors(rng: np.random.Generator) -> Iterator[tuple[tuple[int, int, int], float]]:
    """Yield one random transfer vector of each of the 16 classes, with the class's share of all occurrences."""
    classes = _occurrences()
    everything = sum(times for members in classes.values() for _, times in members)
    for _, members in sorted(classes.items()):
        times = np.array([times for _, times in members])
        chosen = rng.choice(len(members), p=times / times.sum())
        yield members[chosen][0], float(times.sum()) / everything
