"""Equivalent and check surfaces of a box, and the translation tables of the kernel-independent FMM.

A box with centre c and radius r (half its width) has four surfaces, each the scaled boundary s of a p x p x p grid on
the cube [-1, 1]^3 (Ying, Biros & Zorin 2004, section 3):

====================  ====================  ==========================================================
surface               points                use
====================  ====================  ==========================================================
upward equivalent     c + inner r s         charges that represent the sources inside the box
upward check          c + outer r s         where these charges are fitted to the sources' potential
downward equivalent   c + outer r s         charges that represent the sources far from the box
downward check        c + inner r s         where these charges are fitted to the far sources' potential
====================  ====================  ==========================================================

A vector on a surface is ordered component-major: index = component * npoints + point. Points are in lexicographic order
of their grid coordinates, axis 0 slowest. Everything here is numpy in float64.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fmmloopy.common.sizes import FIRST_ORDER, LAST_ORDER, SIBLINGS, TRANSFERS, grid_period
from fmmloopy.greens import GreensFunction
from fmmloopy.precision import find_types

FloatArray = NDArray[np.float64]
Factors = tuple[FloatArray, FloatArray]

BATCH = 2**16
"""Values of a Green's function that are computed at once, so that they stay in a cache."""

INNER = 1.05
OUTER = 2.95

# Singular values below TRUNCATION * eps(dtype) * (the largest one) are dropped, where chains of translations err least
# (docs/measurements/constants.csv). In mixed precision small values make large densities, which M2L rounds to float32.
TRUNCATION = {"float64": 16.0, "float32": 1.0, "mixed": 4.5e5}

# A singular vector is unresolved if its field between the check points is larger than at these points by this factor,
# root mean square. Chains of translations err least for factors of 2 to 5 (docs/measurements/constants.csv).
RESOLVED = 3.0

EQUAL = 1e-6
"""Relative difference of singular values that are equal but for rounding."""


@dataclass(frozen=True, eq=False)
class Tables:
    """Translation tables of one Green's function, order and precision.

    Homogeneous functions have one table, at radius 1 (ntables = 1); others one per level of the tree (ntables =
    nlevels). Arrays are float64 and read-only. n = npoints; sc and tc are the source and target components of the
    Green's function; k = n min(sc, tc).

    For a function of homogeneity h, radius r costs one factor: potentials on a surface scale as r^h, so check to
    equivalent is r^(-h) second @ (first @ check); M2M and L2L are the same on every level.

    Attributes:
        order: points per cube edge, p.
        npoints: points per surface, n = 6 (p - 1)^2 + 2.
        surface: shape (3, n), the points of the surface of the cube [-1, 1]^3.
        inner: upward equivalent and downward check surfaces are at ``inner`` radii.
        outer: upward check and downward equivalent surfaces are at ``outer`` radii.
        radii: shape (ntables,), the box radius of each table.
        upward_first: shape (ntables, k, n tc), U^T of upward check from upward equivalent.
        upward_second: shape (ntables, n sc, k), V S^+ of the same matrix: equivalent = second @ (first @ check).
        downward_first: shape (ntables, k, n tc), U^T of downward check from downward equivalent.
        downward_second: shape (ntables, n sc, k), V S^+ of the same matrix.
        m2m: shape (ntables, 8, n sc, n sc), a parent's upward equivalent from that of its child in each octant;
            indexed by the parent's table. Bit a of the octant is set in the upper half along axis a.
        l2l: shape (ntables, 8, n sc, n sc), the downward equivalent of the child in each octant from its parent's;
            indexed by the parent's table. The last level has it too, as if there were one more level.
    """

    order: int
    npoints: int
    surface: FloatArray
    inner: float
    outer: float
    radii: FloatArray
    upward_first: FloatArray
    upward_second: FloatArray
    downward_first: FloatArray
    downward_second: FloatArray
    m2m: FloatArray
    l2l: FloatArray


def check_order(order: int) -> int:
    """Return the order as an int, or raise ValueError unless it is an integer from 2 to 16."""
    try:
        value = -1 if isinstance(order, bool) else operator.index(order)
    except TypeError:
        value = -1
    if not FIRST_ORDER <= value <= LAST_ORDER:
        raise ValueError(
            f"order is {order!r}, expected an integer from {FIRST_ORDER} to {LAST_ORDER}: points per cube edge; "
            "6 gives about 5 digits, 10 about 9"
        )
    return value


def check_ratios(inner: float, outer: float) -> tuple[float, float]:
    """Return both ratios as floats, or raise ValueError unless 1 < inner < outer < 3.

    A surface inside the box would not enclose its points; one beyond 3 radii would meet sources of the near field.
    """
    if not 1 < inner < outer < 3:
        raise ValueError(
            f"inner is {inner}, outer is {outer}, expected 1 < inner < outer < 3; "
            f"the defaults {INNER} and {OUTER} suit all trees"
        )
    return float(inner), float(outer)


def surface_grid(order: int) -> NDArray[np.int32]:
    """Return the grid coordinates of the points of a surface.

    Args:
        order: p, points per cube edge, 2 to 16.

    Returns:
        Shape (3, n), int32, n = 6 (p - 1)^2 + 2: the points of the p x p x p grid that lie on its boundary,
        coordinates 0 to p - 1, in lexicographic order, axis 0 slowest.

    Raises:
        ValueError: order is not an integer from 2 to 16.
    """
    return _boundary(check_order(order))


def _boundary(npoints: int) -> NDArray[np.int32]:
    """Return the coordinates of the points on the boundary of a grid with so many points per edge."""
    grid = np.indices((npoints, npoints, npoints), dtype=np.int32).reshape(3, -1)
    on_boundary = ((grid == 0) | (grid == npoints - 1)).any(axis=0)
    return np.ascontiguousarray(grid[:, on_boundary])


def surface_points(order: int) -> FloatArray:
    """Return the points of a surface of the cube [-1, 1]^3: shape (3, n), float64, in the order of `surface_grid`.

    Raises:
        ValueError: order is not an integer from 2 to 16.
    """
    return _on_cube(surface_grid(order))


def _on_cube(grid: NDArray[np.int32]) -> FloatArray:
    """Return points of a grid, with coordinates from 0 on, on the cube [-1, 1]^3."""
    last = int(grid.max())
    # Integer numerator first: coordinates are exactly antisymmetric about 0.
    points: FloatArray = (2 * grid - last) / last
    return points


def greens_matrix(kernel: GreensFunction, targets: FloatArray, sources: FloatArray) -> FloatArray:
    """Return the matrix that takes charges at sources to potentials at targets.

    Args:
        kernel: the Green's function, tc x sc components.
        targets: shape (3, ntargets).
        sources: shape (3, nsources).

    Returns:
        Shape (tc ntargets, sc nsources), component-major in rows and columns, scaling included.
    """
    with np.errstate(all="ignore"):  # callers look for what is not finite
        entries = np.asarray(kernel.evaluate(targets[:, :, None] - sources[:, None, :]), np.float64)
    tc, sc, ntargets, nsources = entries.shape
    return entries.transpose(0, 2, 1, 3).reshape(tc * ntargets, sc * nsources)


def octant_offset(octant: int) -> FloatArray:
    """Return the centre of a child minus that of its parent, in radii of the child: shape (3, 1), entries -1 or 1."""
    return np.array([[2.0 * (octant >> axis & 1) - 1] for axis in range(3)])


def pseudo_inverse(matrix: FloatArray, dtype: Any = np.float64) -> Factors:
    """Return the truncated pseudo-inverse of a matrix as two factors, to be applied one after the other.

    The product of the factors is never formed: applied in turn they are backward stable, their product is not
    (Malhotra & Biros 2015, PVFMM).

    Args:
        matrix: shape (rows, columns); all zero is allowed (a Green's function that underflows) and gives zeros.
        dtype: precision that the factors will be used in, float32, float64 or mixed. Singular values below
            TRUNCATION * eps(dtype) times the largest are dropped, as are those whose inverse would overflow in dtype.

    Returns:
        (first, second), shapes (k, rows) and (columns, k), k = min(rows, columns): U^T and V S^+, with
        x = second @ (first @ b) the regularized solution of matrix @ x = b.

    Raises:
        ValueError: dtype is none of these.
    """
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    return u.T, vt.T * _truncated_inverse(s, find_types(dtype).name)


def _truncated_inverse(s: FloatArray, dtype: str, tolerance: float = 0.0) -> FloatArray:
    """Return the inverses of singular values, 0 for those that are dropped.

    Args:
        s: singular values, descending.
        dtype: as for `pseudo_inverse`.
        tolerance: values below this times the largest are dropped too.
    """
    info = np.finfo(find_types(dtype).outer)
    kept = (s > max(TRUNCATION[dtype] * float(info.eps), tolerance) * s[0]) & (s > float(info.tiny))
    inverse = np.zeros_like(s)
    np.divide(1, s, out=inverse, where=kept)
    return inverse


def table_radii(kernel: GreensFunction, radii: Sequence[float] | NDArray[np.floating[Any]]) -> FloatArray:
    """Return the box radii that need a table each: (1,) for a homogeneous function, else one per level.

    Args:
        kernel: the Green's function.
        radii: shape (nlevels,), the box radius (half width) on each level of the tree, each half of the one before.

    Raises:
        ValueError: no radii, one that is not positive and finite, or one that is not half of the one before.
    """
    levels = np.array(radii, np.float64)
    if levels.ndim != 1 or not len(levels) or not np.all(np.isfinite(levels) & (levels > 0)):
        raise ValueError(f"radii is {radii!r}, expected one positive finite box radius (half width) per level")
    if not np.allclose(levels[1:], levels[:-1] / 2, rtol=1e-12, atol=0):
        raise ValueError(f"radii is {radii!r}, expected each to be half of the one before: half_width / 2**level")
    return levels if kernel.homogeneity is None else np.ones(1)


def build_tables(
    kernel: GreensFunction,
    order: int,
    radii: Sequence[float] | NDArray[np.floating[Any]],
    dtype: Any = np.float64,
    inner: float = INNER,
    outer: float = OUTER,
) -> Tables:
    """Build the translation tables of a Green's function.

    Args:
        kernel: the Green's function, without gradient rows.
        order: p, points per cube edge, 2 to 16.
        radii: shape (nlevels,), the box radius (half width) on each level of the tree: half_width / 2**level.
        dtype: precision that the tables will be used in, float32, float64 or mixed; decides how the pseudo-inverses are
            truncated. The tables are float64 either way.
        inner: radius of upward equivalent and downward check surfaces, in box radii.
        outer: radius of upward check and downward equivalent surfaces, in box radii.

    Returns:
        The tables; one for a homogeneous function, else one per level.

    Raises:
        ValueError: order is not an integer from 2 to 16, not 1 < inner < outer < 3, dtype is not float32, float64 or
            mixed, radii are not positive and halving, or the Green's function is not finite between the surfaces.
    """
    order, (inner, outer) = check_order(order), check_ratios(inner, outer)
    precision = find_types(dtype).name
    needed = table_radii(kernel, radii)
    surface = surface_points(order)
    npoints = surface.shape[1]
    factors = [box_factors(kernel, order, radius, inner, outer, precision) for radius in needed]
    shape = (len(needed), SIBLINGS, npoints * kernel.nsource_components, npoints * kernel.nsource_components)
    m2m, l2l = np.empty(shape), np.empty(shape)
    for table, radius in enumerate(needed):
        upward, downward = factors[table]
        if kernel.homogeneity is not None:
            child = downward[0], downward[1] * 2.0**kernel.homogeneity
        elif table + 1 < len(needed):
            child = factors[table + 1][1]
        else:
            child = box_factors(kernel, order, radius / 2, inner, outer, precision)[1]
        for octant in range(SIBLINGS):
            offset = radius / 2 * octant_offset(octant)
            child_inner = offset + inner * radius / 2 * surface
            box_outer = outer * radius * surface
            m2m[table, octant] = upward[1] @ (upward[0] @ greens_matrix(kernel, box_outer, child_inner))
            l2l[table, octant] = child[1] @ (child[0] @ greens_matrix(kernel, child_inner, box_outer))
    tables = Tables(
        order=order,
        npoints=npoints,
        surface=surface,
        inner=inner,
        outer=outer,
        radii=needed,
        upward_first=np.ascontiguousarray(np.stack([upward[0] for upward, _ in factors])),
        upward_second=np.ascontiguousarray(np.stack([upward[1] for upward, _ in factors])),
        downward_first=np.ascontiguousarray(np.stack([downward[0] for _, downward in factors])),
        downward_second=np.ascontiguousarray(np.stack([downward[1] for _, downward in factors])),
        m2m=m2m,
        l2l=l2l,
    )
    for value in vars(tables).values():
        if isinstance(value, np.ndarray):
            value.flags.writeable = False
    return tables


def box_factors(
    kernel: GreensFunction, order: int, radius: float, inner: float, outer: float, dtype: str
) -> tuple[Factors, Factors]:
    """Return the upward and the downward pseudo-inverse of a box; arguments as for `build_tables`, dtype by name.

    Both keep as many vectors as the downward check surface resolves. Upward, what check points miss is a smaller error
    of the far field; a field on the downward check surface is that of all points in the box.
    """
    surface, finer = surface_points(order), _on_cube(_boundary(order + 1))
    inside, outside = inner * radius * surface, outer * radius * surface
    upward = greens_matrix(kernel, outside, inside)
    downward = greens_matrix(kernel, inside, outside)
    if not (np.isfinite(upward).all() and np.isfinite(downward).all()):
        raise ValueError(not_finite(kernel, radius))
    # Components are scaled to the same size, so that the largest singular value is a measure for each of them.
    rows, columns = component_sizes(kernel, downward)
    upward, downward = upward / rows[:, None] / columns, downward / rows[:, None] / columns
    u, s, vt = np.linalg.svd(upward, full_matrices=False)
    # An even Green's function has the transposed matrix downward, to the last bit: one decomposition serves both.
    is_even = np.array_equal(downward, upward.T)
    below = (vt.T, s, u.T) if is_even else np.linalg.svd(downward, full_matrices=False)
    finer_rows = np.repeat(rows[:: surface.shape[1]], finer.shape[1])
    between = greens_matrix(kernel, inner * radius * finer, outside) / finer_rows[:, None] / columns @ below[2].T
    tolerance = resolved_tolerance(below[1], between, len(downward))
    upward_inverse, downward_inverse = (_truncated_inverse(values, dtype, tolerance) for values in (s, below[1]))
    return (
        (u.T / rows, vt.T * upward_inverse / columns[:, None]),
        (below[0].T / rows, below[2].T * downward_inverse / columns[:, None]),
    )


def component_sizes(kernel: GreensFunction, matrix: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the size of each row, and of each column in rows of size one, by components: largest entries.

    Sizes are powers of two, so that division by them is exact.
    """
    blocks = np.abs(matrix).reshape(
        kernel.ntarget_components, -1, kernel.nsource_components, matrix.shape[1] // kernel.nsource_components
    )
    sizes = blocks.max(axis=(1, 3))

    def powers(largest: FloatArray) -> FloatArray:
        return np.exp2(np.ceil(np.log2(np.where((largest > 0) & np.isfinite(largest), largest, 1.0))))

    rows = powers(sizes.max(axis=1))
    columns = powers((sizes / rows[:, None]).max(axis=0))
    return np.repeat(rows, blocks.shape[1]), np.repeat(columns, blocks.shape[3])


def resolved_tolerance(s: FloatArray, fields: FloatArray, nrows: int) -> float:
    """Return the largest singular value, relative to the first, whose vector the check points do not resolve.

    The field of such a vector is small at the check points and larger between them. Its coefficient cannot be found
    from potentials at these points: errors of the potentials, divided by the small singular value, would make large
    densities. Vectors with smaller singular values oscillate more, so none of these is kept either. A cube has
    symmetries, so singular values come in groups of two or three equal ones, whose vectors are arbitrary within the
    group: it is kept or dropped as a whole.

    Args:
        s: singular values of the map from densities to potentials at the check points, descending.
        fields: potentials of the right singular vectors on a finer surface, shape (finer rows, k).
        nrows: rows of the map.

    Returns:
        A tolerance for `_truncated_inverse`; 0 if all are resolved.
    """
    if not s[0] > 0:
        return 0.0
    squares = (fields**2).sum(axis=0) * (nrows / len(fields))
    rounding = 4 * np.finfo(s.dtype).eps * s[0]
    for group in np.split(np.arange(len(s)), np.flatnonzero(s[1:] < s[:-1] * (1 - EQUAL) - rounding) + 1):
        if squares[group].mean() > RESOLVED**2 * (s[group] ** 2).mean():
            return float(s[group[0]] / s[0]) * (1 + EQUAL)
    return 0.0


def not_finite(kernel: GreensFunction, radius: float) -> str:
    """Return the error for a Green's function that is not finite between surfaces of boxes of a radius."""
    return (
        f"{kernel.name} is not finite at distances of about {radius}, the radius of a box, expected finite values; "
        "scale the points or change the parameters"
    )


def transfer_vectors() -> Iterator[tuple[int, tuple[int, int, int]]]:
    """Yield (index, k) of the 316 M2L transfer vectors.

    k = source anchor - target anchor has components -3 to 3, the largest of them at least 2 in magnitude (nearer boxes
    are adjacent); index = (k0 + 3) + 7 (k1 + 3) + 49 (k2 + 3), 0 to 342, is in increasing order.
    """
    for k2, k1, k0 in product(range(-3, 4), repeat=3):
        if max(abs(k0), abs(k1), abs(k2)) >= 2:
            yield k0 + 3 + 7 * (k1 + 3) + 49 * (k2 + 3), (k0, k1, k2)


def m2l_matrix(kernel: GreensFunction, order: int, radius: float, k: Sequence[int], inner: float = INNER) -> FloatArray:
    """Return the M2L matrix of one transfer vector.

    Args:
        kernel: the Green's function.
        order: p, points per cube edge, 2 to 16.
        radius: radius of both boxes.
        k: source anchor - target anchor, three integers: source centre = target centre + 2 radius k.
        inner: radius of both surfaces in box radii.

    Returns:
        Shape (n tc, n sc): potentials on the target's downward check surface from charges on the source's upward
        equivalent surface.

    Raises:
        ValueError: order is not an integer from 2 to 16, or k is not three integers with 2 <= max|k| <= 3.
    """
    if tuple(k) not in {vector for _, vector in transfer_vectors()}:
        raise ValueError(f"k is {tuple(k)}, expected three integers with 2 <= max|k| <= 3; adjacent boxes use P2P")
    points = inner * radius * surface_points(order)
    return greens_matrix(kernel, points, points + 2 * radius * np.array(k, np.float64)[:, None])


def m2l_matrices(
    kernel: GreensFunction, order: int, radius: float, inner: float = INNER, dtype: DTypeLike = np.float64
) -> NDArray[np.floating[Any]]:
    """Return the M2L matrices of all transfer vectors.

    They take 316 (n tc) (n sc) numbers: 58 MB in float64 for Laplace at order 6, 600 MB at order 10.

    Args:
        kernel: the Green's function.
        order: p, points per cube edge, 2 to 16.
        radius: radius of the boxes.
        inner: radius of both surfaces in box radii.
        dtype: dtype of the result; each matrix is computed in float64.

    Returns:
        Shape (343, n tc, n sc), indexed as in `transfer_vectors`; zero for adjacent boxes.

    Raises:
        ValueError: order is not an integer from 2 to 16.
    """
    npoints = surface_grid(order).shape[1]
    shape = (TRANSFERS, npoints * kernel.ntarget_components, npoints * kernel.nsource_components)
    matrices = np.zeros(shape, dtype)
    for index, k in transfer_vectors():
        matrices[index] = m2l_matrix(kernel, order, radius, k, inner)
    return matrices


def m2l_spectrum(kernel: GreensFunction, order: int, radius: float, inner: float = INNER) -> NDArray[np.complex128]:
    """Return the discrete Fourier transforms of the M2L convolution kernels.

    Both surfaces of M2L lie on regular grids of the same spacing, so M2L is a convolution (Ying, Biros & Zorin 2004,
    section 3.4). With N = 2 p - 1, equivalent charges at the surface points of a zero p x p x p grid, padded to N^3,

        irfftn(rfftn(charges) * spectrum[index, row, column])[:p, :p, :p]

    is, at the surface points, the M2L matrix of that transfer vector applied to the charges.

    Args:
        kernel: the Green's function.
        order: p, points per cube edge, 2 to 16.
        radius: radius of the boxes.
        inner: radius of both surfaces in box radii.

    Returns:
        Shape (343, tc, sc, N, N, N // 2 + 1), indexed as in `transfer_vectors`; zero for adjacent boxes. It takes
        84 MB for Laplace at order 16.

    Raises:
        ValueError: order is not an integer from 2 to 16, or the function is not finite at distances between the grids.
    """
    order = check_order(order)
    size = grid_period(order)
    # Grid differences i - j of target and source points, in the order of a cyclic convolution: 0 to p - 1, 1 - p to -1.
    differences = np.fft.fftfreq(size, 1 / size)
    steps = np.stack(np.meshgrid(differences, differences, differences, indexing="ij"))
    steps *= 2 * inner * radius / (order - 1)
    components = (kernel.ntarget_components, kernel.nsource_components)
    spectrum = np.zeros((TRANSFERS, *components, size, size, size // 2 + 1), np.complex128)
    indices, vectors = zip(*transfer_vectors(), strict=True)
    away = 2 * radius * np.array(vectors, np.float64).T[..., None, None, None]
    at_once = max(1, BATCH // size**3)
    for first in range(0, len(indices), at_once):
        some = slice(first, first + at_once)
        with np.errstate(all="ignore"):
            values = kernel.evaluate(steps[:, None] - away[:, some])
        if not np.isfinite(values).all():
            raise ValueError(not_finite(kernel, radius))
        spectrum[list(indices[some])] = np.moveaxis(np.fft.rfftn(values, axes=(3, 4, 5)), 2, 0)
    return spectrum
