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

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from pymbolic.mapper.flop_counter import FlopCounterBase

from fmmloopy.accuracy import svd_tolerance
from fmmloopy.greens import GreensFunction
from fmmloopy.lists import CSR, InteractionLists
from fmmloopy.m2l_tables import DIRECTIONS, OCTETS_PER_CHUNK
from fmmloopy.plan import FIRST_LEVEL, M2L_OPERATORS, level_radii
from fmmloopy.surfaces import INNER, count_points, table_radii
from fmmloopy.table_cache import cached_factors
from fmmloopy.tree import Tree


@dataclass(frozen=True)
class Work:
    """The work of one operator in one evaluation.

    Attributes:
        pairs: evaluations of the Green's function, one per pair of points; 0 for dense products and transforms.
        flops: floating-point operations.
        blocks: pieces of work that are begun: pairs of boxes where there are pairs of points; for ``m2l_hadamard``
            tables of one frequency and direction, each read for a chunk of octets; 0 for the other operators. How the
            work is cut up is not how much it is: it is passed over when two are compared.
    """

    pairs: int
    flops: int
    blocks: int = field(default=0, compare=False)


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
    far = count_m2l(tree, lists, order, greens, m2l, dtype)
    return count_without_m2l(tree, lists, order, greens, gradient) | far


def count_without_m2l(
    tree: Tree,
    lists: InteractionLists,
    order: int,
    greens: GreensFunction,
    gradient: bool = False,
    weights: NDArray[np.float64] | None = None,
) -> dict[str, Work]:
    """Count the work of all operators but M2L, which is the same with each form of it, or estimate it.

    Args:
        tree, lists, order, greens, gradient: as for `count_work`.
        weights: shape (nboxes,), how many split boxes each split box whose children have lists stands for; 0 where
            they have none. None if all boxes have lists.
    """
    npoints = count_points(order)
    rows, columns = greens.ntarget_components * npoints, greens.nsource_components * npoints
    nsources = (tree.box_source_ends - tree.box_source_starts).astype(np.int64)
    ntargets = (tree.box_target_ends - tree.box_target_starts).astype(np.int64)
    leaves = tree.is_leaf & (tree.box_levels >= FIRST_LEVEL)

    box_weights = _box_weights(tree, weights)
    # Boxes that stand for others stand for as many boxes as there are, but not for exactly as many targets.
    targets_in_leaves = ntargets * tree.is_leaf
    leaf_weights = box_weights * (targets_in_leaves.sum() / max(box_weights @ targets_in_leaves, 1.0))
    surface = np.full(tree.nboxes, npoints, np.int64)
    in_lists = {
        "p2p": (lists.u, leaf_weights, ntargets, nsources),
        "p2l": (lists.x, box_weights, surface, nsources),
        "m2p": (lists.w, leaf_weights, ntargets, surface),
    }
    one_by_one = {"p2m": (nsources[leaves], npoints), "l2p": (ntargets[leaves], npoints)}
    pairs = {name: _count_pairs(csr, w * rows, entries) for name, (csr, w, rows, entries) in in_lists.items()}
    pairs |= {name: n * int(points.sum()) for name, (points, n) in one_by_one.items()}
    blocks = {name: round(float(w @ csr.lengths)) for name, (csr, w, _, _) in in_lists.items()}
    blocks |= {name: int((points > 0).sum()) for name, (points, _) in one_by_one.items()}
    plain = flops_per_pair(greens)
    at_targets = flops_per_pair(greens.with_gradient()) if gradient else plain
    work = {
        name: Work(count, count * (plain if name in ("p2m", "p2l") else at_targets), blocks[name])
        for name, count in pairs.items()
    }

    translated = tree.box_levels > FIRST_LEVEL  # boxes whose parents have expansions
    work["m2m"] = _products(int((translated & (nsources > 0)).sum()), columns, columns)
    work["l2l"] = _products(int((translated & (ntargets > 0)).sum()), columns, columns)
    solved = int((leaves & (nsources > 0)).sum() + ((tree.box_levels >= FIRST_LEVEL) & (ntargets > 0)).sum())
    # Two factors, n tc x k and k x n sc, with k = n min(sc, tc): one after the other.
    work["check_to_equivalent"] = _products(solved, rows + columns, min(rows, columns))
    return work


def count_m2l(
    tree: Tree,
    lists: InteractionLists,
    order: int,
    greens: GreensFunction,
    m2l: str,
    dtype: DTypeLike,
    weights: NDArray[np.float64] | None = None,
) -> dict[str, Work]:
    """Count the work of one form of M2L, or estimate it; arguments and errors as of the two functions above."""
    if m2l not in M2L_OPERATORS:
        raise ValueError(f"m2l is {m2l!r}, expected {' or '.join(map(repr, M2L_OPERATORS))}")
    if m2l == "fft":
        return _count_m2l_fft(tree, lists, order, greens, np.ones(tree.nboxes) if weights is None else weights)
    npoints, box_weights = count_points(order), _box_weights(tree, weights)
    rows, columns = greens.ntarget_components * npoints, greens.nsource_components * npoints
    if m2l == "dense":
        return {"m2l": _products(round(float(box_weights @ lists.v.lengths)), rows, columns)}
    ranks = v_ranks(tree, lists, order, greens, dtype)
    kept = round(float(np.repeat(box_weights, lists.v.lengths) @ ranks))
    return {"m2l_svd": _products(kept, rows + columns, 1)}


def v_ranks(
    tree: Tree, lists: InteractionLists, order: int, greens: GreensFunction, dtype: DTypeLike
) -> NDArray[np.int64]:
    """Return the singular values that M2L's compressed form keeps for each entry of the V lists.

    Args:
        tree, lists, order, greens, dtype: as for `count_work`.
    """
    tolerance = svd_tolerance(order, np.dtype(dtype))
    radii = table_radii(greens, level_radii(tree))
    tables = (
        np.repeat(tree.box_levels - FIRST_LEVEL, lists.v.lengths) if len(radii) > 1 else np.zeros_like(lists.v.lists)
    )
    found = np.zeros(len(lists.v_transfers), np.int64)
    for table in np.unique(tables):
        here = tables == table
        found[here] = _ranks(greens, order, float(radii[table]), tolerance)[lists.v_transfers[here]]
    return found


@lru_cache(maxsize=256)  # a choice of ncrit asks for the same ranks again and again
def _ranks(greens: GreensFunction, order: int, radius: float, tolerance: float) -> NDArray[np.int64]:
    """Return the singular values kept for each transfer vector by boxes of a radius, read-only: shape (343,)."""
    ranks = cached_factors(greens, order, radius, INNER, tolerance).ranks
    ranks.flags.writeable = False
    return ranks


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


def _box_weights(tree: Tree, weights: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Return how many boxes each box stands for: as many as its parent, by the weights of `count_without_m2l`."""
    box_weights = np.ones(tree.nboxes) if weights is None else weights[tree.box_parents]
    box_weights[0] = 1.0
    return box_weights


def _count_pairs(csr: CSR, ntargets: NDArray[np.float64], nsources: NDArray[np.int64]) -> int:
    """Sum (targets of the row) x (sources of the entry) over all entries of a list."""
    return round(float(np.repeat(ntargets, csr.lengths) @ nsources[csr.lists]))


def _products(count: int, rows: int, columns: int) -> Work:
    """Count products of a matrix and a vector: a multiplication and an addition an entry."""
    return Work(0, 2 * count * rows * columns)


def _count_m2l_fft(
    tree: Tree, lists: InteractionLists, order: int, greens: GreensFunction, weights: NDArray[np.float64]
) -> dict[str, Work]:
    """Count the three stages as `fmmloopy.operators.m2l_fft` writes them, all planes of frequencies in one launch.

    A complex product added to a sum is 8 operations, a real times a complex one 4.
    """
    nsources, ntargets, npairs, nchildren = _count_octets(tree, lists, weights)
    rows, columns = greens.ntarget_components, greens.nsource_components
    p, n, npoints = order, 2 * order - 1, count_points(order)
    siblings, nplanes, nfrequencies = 8, order, order * (2 * order - 1) ** 2

    # Along z to one plane of real data, then along y and x in the plane.
    forward = nplanes * siblings * (4 * p * p * p + 8 * p * n * p + 8 * n * n * p)
    # A matrix of 8 x 8 complex entries for each pair of components, then the sums added to the target's.
    hadamard = nfrequencies * (8 * siblings**2 * rows * columns + 2 * siblings * rows)
    # Along x and y in the plane, its weight, then along z to the points of the surface alone.
    inverse = nplanes * siblings * (8 * n * p * n + 8 * p * p * n + 2 * p * p + 4 * npoints)
    scaled = 2 * nchildren * npoints
    tables = nfrequencies * DIRECTIONS * -(-ntargets // OCTETS_PER_CHUNK)
    return {
        "m2l_forward": Work(0, nsources * columns * forward),
        "m2l_hadamard": Work(0, npairs * hadamard, tables),
        "m2l_inverse": Work(0, rows * (ntargets * inverse + scaled)),
    }


def _count_octets(tree: Tree, lists: InteractionLists, weights: NDArray[np.float64]) -> tuple[int, int, int, int]:
    """Count octets that send, octets that receive, their pairs, and the children that receive.

    These are the numbers that `fmmloopy.m2l_tables.find_octet_pairs` finds, weighted.
    """
    parents = ~tree.is_leaf & (tree.box_levels >= FIRST_LEVEL - 1)
    sends = parents & (tree.box_source_ends > tree.box_source_starts)
    receives = parents & (tree.box_target_ends > tree.box_target_starts)
    some = np.flatnonzero(parents & (weights > 0))
    weights, colleagues = weights[some], np.delete(lists.colleagues[some], DIRECTIONS // 2, axis=1)
    from_each = ((colleagues >= 0) & sends[colleagues]).sum(axis=1) * receives[some]
    to_each = ((colleagues >= 0) & receives[colleagues]).sum(axis=1) * sends[some]
    children = np.bincount(tree.box_parents[1:], (tree.box_target_ends > tree.box_target_starts)[1:], tree.nboxes)[some]
    counts = ((to_each > 0), (from_each > 0), from_each, children * (from_each > 0))
    sending, receiving, pairs, receiving_children = (round(float(weights @ count)) for count in counts)
    return sending, receiving, pairs, receiving_children
