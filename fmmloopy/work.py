"""How much work each operator has, counted from a tree and its interaction lists: with its seconds, its rate.

What is counted is what the method asks for. Lanes that idle, surfaces padded to a multiple of the vector length and
children that are not there cost time and count nothing, so a rate is never flattered by them. The FFT form of M2L works
on octets (the eight children of a box) as blocks; there the block is the method, and it is counted whole.

Floating-point operations of one pair of points, Laplace's potential:

    d = x - y               3
    r2 = d . d              5     3 products, 2 sums
    rinv = 1 / sqrt(r2)     2     a root and a division, however a device does it
    u += rinv * q           2
                           --
                           12     as PVFMM counts it (``laplace_poten`` in its kernel.txx)

Papers that count the steps of Newton's iteration arrive at about 20 for the same pair: compare pairs, not flops, with
those. Other Green's functions add one operation for each +, -, *, /, power and function call of their expressions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from pymbolic.mapper.flop_counter import FlopCounterBase

from fmmloopy.accuracy import svd_tolerance
from fmmloopy.greens import GreensFunction
from fmmloopy.lists import CSR, InteractionLists
from fmmloopy.m2l_tables import find_octet_pairs
from fmmloopy.plan import FIRST_LEVEL
from fmmloopy.surfaces import INNER, count_points, table_radii
from fmmloopy.table_cache import cached_factors
from fmmloopy.tree import Tree


@dataclass(frozen=True)
class Work:
    """The work of one operator in one evaluation.

    Attributes:
        pairs: evaluations of the Green's function, one per pair of points; 0 for dense products and transforms.
        flops: floating-point operations.
    """

    pairs: int
    flops: int


def count_work(
    tree: Tree,
    lists: InteractionLists,
    order: int,
    greens: GreensFunction,
    m2l: str = "fft",
    gradient: bool = False,
    dtype: DTypeLike = np.float64,
) -> dict[str, Work]:
    """Count the work of every operator in one evaluation.

    Args:
        tree: the octree.
        lists: the lists that are worked through, such as ``Fmm.lists``.
        order: points per edge of the surfaces, p.
        greens: the plain Green's function, rows x columns components.
        m2l: ``"fft"``, counted as ``m2l_forward``, ``m2l_hadamard`` and ``m2l_inverse``; ``"svd"``, as ``m2l_svd``; or
            ``"dense"``, as ``m2l``.
        gradient: whether P2P, L2P and M2P compute gradients too.
        dtype: float32 or float64, on which the ranks of ``"svd"`` depend.

    Returns:
        Work by operator, with the keys of ``Fmm.timings``. Operators that have nothing to do are there, with zeros.

    Raises:
        ValueError: ``m2l`` is another word.
    """
    if m2l not in ("fft", "svd", "dense"):
        raise ValueError(f"m2l is {m2l!r}, expected 'fft' or 'svd' or 'dense'")
    npoints = count_points(order)
    rows, columns = greens.ntarget_components * npoints, greens.nsource_components * npoints
    nsources = (tree.box_source_ends - tree.box_source_starts).astype(np.int64)
    ntargets = (tree.box_target_ends - tree.box_target_starts).astype(np.int64)
    leaves = tree.is_leaf & (tree.box_levels >= FIRST_LEVEL)

    surface = np.full(tree.nboxes, npoints, np.int64)
    pairs = {
        "p2p": _count_pairs(lists.u, ntargets, nsources),
        "p2m": npoints * int(nsources[leaves].sum()),
        "p2l": _count_pairs(lists.x, surface, nsources),
        "l2p": npoints * int(ntargets[leaves].sum()),
        "m2p": _count_pairs(lists.w, ntargets, surface),
    }
    plain = flops_per_pair(greens)
    at_targets = flops_per_pair(greens.with_gradient()) if gradient else plain
    work = {
        operator: Work(count, count * (plain if operator in ("p2m", "p2l") else at_targets))
        for operator, count in pairs.items()
    }

    translated = tree.box_levels > FIRST_LEVEL  # boxes whose parents have expansions
    work["m2m"] = _products(int((translated & (nsources > 0)).sum()), columns, columns)
    work["l2l"] = _products(int((translated & (ntargets > 0)).sum()), columns, columns)
    solved = int((leaves & (nsources > 0)).sum() + ((tree.box_levels >= FIRST_LEVEL) & (ntargets > 0)).sum())
    # Two factors, n tc x k and k x n sc, with k = n min(sc, tc): one after the other.
    work["check_to_equivalent"] = _products(solved, rows + columns, min(rows, columns))
    if m2l == "dense":
        return work | {"m2l": _products(lists.v.lists.size, rows, columns)}
    if m2l == "svd":
        ranks = v_ranks(tree, lists, order, greens, dtype)
        return work | {"m2l_svd": _products(int(ranks.sum()), rows + columns, 1)}
    return work | _count_m2l_fft(tree, lists, order, greens)


def v_ranks(
    tree: Tree, lists: InteractionLists, order: int, greens: GreensFunction, dtype: DTypeLike
) -> NDArray[np.int64]:
    """Return the singular values that M2L's compressed form keeps for each entry of the V lists.

    Args:
        tree, lists, order, greens, dtype: as for `count_work`.
    """
    tolerance = svd_tolerance(order, np.dtype(dtype))
    levels = np.repeat(tree.box_levels, lists.v.lengths)
    radii = table_radii(greens, tree.half_width / 2.0 ** np.arange(FIRST_LEVEL, max(tree.nlevels, FIRST_LEVEL + 1)))
    ranks = np.stack([cached_factors(greens, order, radius, INNER, tolerance).ranks for radius in radii])
    return np.asarray(ranks[np.minimum(levels - FIRST_LEVEL, len(radii) - 1), lists.v_transfers])


def flops_per_pair(greens: GreensFunction) -> int:
    """Count the operations of one pair of points: differences, distance, every entry of G, products with the charge."""
    entries = [entry for row in greens.matrix for entry in row]
    geometry = 8 + 2 * bool(greens.variables & {"r", "rinv"}) + ("r" in greens.variables)
    count = _FlopCounter()
    return geometry + sum(int(count(entry)) + 2 for entry in entries)


def mean_list_sizes(tree: Tree, lists: InteractionLists) -> dict[str, float]:
    """Return the mean numbers of entries of the lists, over the boxes that can have any.

    |U| and |W| are means over leaves with targets, |V| and |X| over boxes with targets from level 2 on; empty lists
    count. The paper on PyExaFMM gives |U| = 11, |V| = 42, |X| = 3, |W| = 3 for 10^6 random points on a sphere and 150
    points a leaf, and does not say over which boxes. For such points ``build_lists`` gives 14.5, 41.4, 2.3 and 3.0 by
    this definition; over all boxes |U| would be 11.5, and over leaves |X| 3.0: each entry of W is one of X reversed.

    Returns:
        The means by name of the list: ``"u"``, ``"v"``, ``"w"``, ``"x"``; 0 where there is no such box.
    """
    has_targets = tree.box_target_ends > tree.box_target_starts
    near, far = has_targets & tree.is_leaf, has_targets & (tree.box_levels >= FIRST_LEVEL)
    boxes = {"u": near, "v": far, "w": near, "x": far}
    sizes = {name: np.diff(getattr(lists, name).starts)[boxes[name]] for name in boxes}
    return {name: float(size.mean()) if size.size else 0.0 for name, size in sizes.items()}


class _FlopCounter(FlopCounterBase):  # type: ignore[misc]
    """Count the operations of an expression, a function call as one."""

    def map_call(self, expression: Any) -> int:
        return 1 + sum(int(self.rec(parameter)) for parameter in expression.parameters)


def _count_pairs(csr: CSR, ntargets: NDArray[np.int64], nsources: NDArray[np.int64]) -> int:
    """Sum (targets of the row) x (sources of the entry) over all entries of a list."""
    return int(np.repeat(ntargets, np.diff(csr.starts)) @ nsources[csr.lists])


def _products(count: int, rows: int, columns: int) -> Work:
    """Count products of a matrix and a vector: a multiplication and an addition an entry."""
    return Work(0, 2 * count * rows * columns)


def _count_m2l_fft(tree: Tree, lists: InteractionLists, order: int, greens: GreensFunction) -> dict[str, Work]:
    """Count the three stages as `fmmloopy.operators.m2l_fft` writes them, all planes of frequencies in one launch.

    A complex product added to a sum is 8 operations, a real times a complex one 4.
    """
    octets = find_octet_pairs(tree, lists, range(FIRST_LEVEL, max(tree.nlevels, FIRST_LEVEL)))
    rows, columns = greens.ntarget_components, greens.nsource_components
    p, n, npoints = order, 2 * order - 1, count_points(order)
    siblings, nplanes, nfrequencies = 8, order, order * (2 * order - 1) ** 2

    # Along z to one plane of real data, then along y and x in the plane.
    forward = nplanes * siblings * (4 * p * p * p + 8 * p * n * p + 8 * n * n * p)
    # A matrix of 8 x 8 complex entries for each pair of components, then the sums added to the target's.
    hadamard = nfrequencies * (8 * siblings**2 * rows * columns + 2 * siblings * rows)
    # Along x and y in the plane, its weight, then along z to the points of the surface alone.
    inverse = nplanes * siblings * (8 * n * p * n + 8 * p * p * n + 2 * p * p + 4 * npoints)
    nchildren = int((octets.target_children < tree.nboxes).sum())
    scaled = 2 * nchildren * npoints
    return {
        "m2l_forward": Work(0, len(octets.source_children) * columns * forward),
        "m2l_hadamard": Work(0, octets.npairs * hadamard),
        "m2l_inverse": Work(0, rows * (len(octets.target_children) * inverse + scaled)),
    }
