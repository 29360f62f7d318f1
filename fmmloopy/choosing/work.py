"""Count the work of each operator from a tree and its interaction lists; work per second is its rate.

Only work that the method needs is counted. Idle lanes, surfaces padded to a multiple of the vector length and missing
children cost time but do not count, so they never inflate a rate. An operator of a book's own counts as the one that it
stands in for, so their rates can be compared. The FFT form of M2L works on octets (the eight
children of a box) as blocks; there the block belongs to the method and counts as a whole.

Floating-point operations of one pair of points, Laplace's potential:

    d = x - y               3
    r2 = d . d              5     3 products, 2 sums
    rinv = 1 / sqrt(r2)     2     a root and a division, on any device
    u += rinv * q           2
                           --
                           12     as in PVFMM (``laplace_poten`` in its kernel.txx)

Papers that count the steps of Newton's iteration get about 20 for the same pair: compare pairs with them, not flops.
Other Green's functions add one operation for each +, -, *, /, power and function call of their expressions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymbolic.mapper import WalkMapper
from pymbolic.mapper.flop_counter import FlopCounterBase
from pymbolic.primitives import Call, ExpressionNode, Product, Sum, Variable

from fmmloopy.accuracy import svd_tolerance
from fmmloopy.common.sizes import DIRECTIONS, count_points
from fmmloopy.components import CHARGES, GRADIENT
from fmmloopy.execution.setup import Method
from fmmloopy.greens import GreensFunction
from fmmloopy.octree.lists import CSR, InteractionLists
from fmmloopy.octree.tree import FIRST_LEVEL, Tree, level_radii
from fmmloopy.operators import M2L_FORMS, OPERATORS, Operator
from fmmloopy.operators.operator import Boxes, Families, Lists, Octets, Pairs
from fmmloopy.tables.cache import cached_factors
from fmmloopy.tables.fft import OCTETS_PER_CHUNK
from fmmloopy.tables.surfaces import INNER, table_radii


@dataclass(frozen=True)
class Work:
    """The work of one operator in one evaluation.

    Attributes:
        pairs: evaluations of the Green's function, one per pair of points; 0 for dense products and transforms.
        flops: floating-point operations.
        blocks: number of pieces of work: pairs of boxes if there are pairs of points; for products by frequency, tables
            of one frequency and direction, each read for a chunk of octets; 0 for other operators. Comparisons ignore
            it, because it describes the division of the work, not its amount.
    """

    pairs: int
    flops: int
    blocks: int = field(default=0, compare=False)


def count_work(
    tree: Tree, lists: InteractionLists, method: Method, m2l: str = "fft", gradient: bool = False
) -> dict[str, Work]:
    """Count the work of every operator in one evaluation.

    Args:
        tree: the octree.
        lists: the lists that the operators use, such as ``Fmm.lists``.
        method: Green's function, order and precision, which affects the ranks of ``"svd"``.
        m2l: the form of M2L, a key of :data:`fmmloopy.operators.M2L_FORMS`; each of its stages is counted.
        gradient: whether P2P, L2P and M2P compute gradients too.

    Returns:
        Work by operator, with the keys of ``Fmm.timings``. Operators without work are included, with zeros.

    Raises:
        ValueError: ``m2l`` is not one of these forms.
    """
    return count_without_m2l(tree, lists, method, gradient) | count_m2l(tree, lists, method, m2l)


def count_without_m2l(
    tree: Tree,
    lists: InteractionLists,
    method: Method,
    gradient: bool = False,
    weights: NDArray[np.float64] | None = None,
) -> dict[str, Work]:
    """Count or estimate the work of all operators except M2L, which does not depend on the form of M2L.

    Args:
        tree, lists, method, gradient: as for `count_work`.
        weights: shape (nboxes,), how many split boxes are represented by each split box whose children have lists; 0 if
            they have none. None if all boxes have lists.
    """
    counter = _Counter(tree, lists, method, weights)
    return {op.name: counter.work(op, gradient) for op in OPERATORS.values() if not op.m2l}


def count_m2l(
    tree: Tree, lists: InteractionLists, method: Method, m2l: str, weights: NDArray[np.float64] | None = None
) -> dict[str, Work]:
    """Count or estimate the work of one form of M2L; arguments and errors as for the two functions above."""
    if m2l not in M2L_FORMS:
        raise ValueError(f"m2l is {m2l!r}, expected {' or '.join(map(repr, M2L_FORMS))}")
    counter = _Counter(tree, lists, method, weights)
    return {operator.name: counter.work(operator) for operator in M2L_FORMS[m2l]}


class _Counter:
    """Counts what operators run over, from a tree and its lists, and gets the work from their records."""

    def __init__(
        self, tree: Tree, lists: InteractionLists, method: Method, weights: NDArray[np.float64] | None
    ) -> None:
        self.tree, self.lists, self.method, self.weights = tree, lists, method, weights
        self.nsources = (tree.box_source_ends - tree.box_source_starts).astype(np.int64)
        self.ntargets = (tree.box_target_ends - tree.box_target_starts).astype(np.int64)
        self.has = {"sources": tree.gathers, "targets": tree.has_targets}
        self.leaves = tree.is_leaf & (tree.box_levels >= FIRST_LEVEL)

    def work(self, operator: Operator, gradient: bool = False) -> Work:
        """Count the work of an operator."""
        if operator.particles:
            return self._pairs(operator, gradient and operator.gives_potentials)
        assert operator.flops is not None
        counts = self._counts(operator)
        return Work(0, int(operator.flops(self.method.specification(operator), counts)), int(counts.get("tables", 0)))

    def _counts(self, operator: Operator) -> Mapping[str, float]:
        """Count what an operator runs over; names as of :data:`fmmloopy.operators.operator.Counts`."""
        over, tree = operator.over, self.tree
        if isinstance(over, Families):
            # Of the boxes, those whose parents have expansions.
            return {"children": int(((tree.box_levels > FIRST_LEVEL) & self.has[over.side]).sum())}
        if isinstance(over, Boxes):
            downward = (tree.box_levels >= FIRST_LEVEL) & self.has["targets"]
            return {"boxes": int((self.leaves & self.has["sources"]).sum() + downward.sum())}
        if isinstance(over, Lists):
            return {"entries": round(float(self._box_weights @ self.lists.v.lengths))}
        if isinstance(over, Pairs) and not over.spectra:
            ranks = v_ranks(tree, self.lists, self.method)
            return {"ranks": round(float(np.repeat(self._box_weights, self.lists.v.lengths) @ ranks))}
        nsources, ntargets, npairs, nchildren = _count_octets(
            tree, self.lists, np.ones(tree.nboxes) if self.weights is None else self.weights
        )
        if isinstance(over, Pairs):
            frequencies = self.method.specification(operator).frequencies
            return {"pairs": npairs, "tables": frequencies * DIRECTIONS * -(-ntargets // OCTETS_PER_CHUNK)}
        assert isinstance(over, Octets)
        return {"octets": nsources if over.side == "sources" else ntargets, "children": nchildren}

    def _pairs(self, operator: Operator, gradient: bool) -> Work:
        """Count pairs of points, and pairs of boxes for its blocks."""
        particles, spec = operator.particles, self.method.specification(operator, GRADIENT if gradient else CHARGES)
        assert particles is not None
        targets = self._points(particles.targets.is_surface, self.ntargets)
        sources = self._points(particles.sources.is_surface, self.nsources)
        if particles.list == "own":
            points = targets if particles.sources.is_surface else np.where(self.has["sources"], sources, 0)
            points = points[self.leaves]
            pairs, blocks = count_points(self.method.order) * int(points.sum()), int((points > 0).sum())
        else:
            weights = self._box_weights if particles.targets.is_surface else self._leaf_weights
            csr: CSR = getattr(self.lists, particles.list)
            pairs = _count_pairs(csr, weights * targets, sources)
            blocks = round(float(weights @ csr.lengths))
        flops = flops_per_pair(spec.greens)
        if particles.is_mutual:  # products with the charges on the other side
            flops += 2 * spec.greens.ntarget_components * spec.greens.nsource_components
        return Work(pairs, pairs * flops, blocks)

    def _points(self, is_surface: bool, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the points of every box on one side of an operator."""
        return np.full(self.tree.nboxes, count_points(self.method.order), np.int64) if is_surface else counts

    @property
    def _box_weights(self) -> NDArray[np.float64]:
        """How many boxes each box represents: as many as its parent."""
        return _box_weights(self.tree, self.weights)

    @property
    def _leaf_weights(self) -> NDArray[np.float64]:
        """The same for the targets of leaves: the weights add up to the number of boxes, but not exactly to that of
        targets."""
        in_leaves, weights = self.ntargets * self.tree.is_leaf, self._box_weights
        return np.asarray(weights * (in_leaves.sum() / max(weights @ in_leaves, 1.0)))


def v_ranks(tree: Tree, lists: InteractionLists, method: Method) -> NDArray[np.int64]:
    """Return the singular values that M2L's compressed form keeps for each entry of the V lists.

    Args:
        tree, lists, method: as for `count_work`.
    """
    tolerance = svd_tolerance(method.order, method.precision.expansions)
    radii = table_radii(method.translations, level_radii(tree))
    tables = (
        np.repeat(tree.box_levels - FIRST_LEVEL, lists.v.lengths) if len(radii) > 1 else np.zeros_like(lists.v.lists)
    )
    found = np.zeros(len(lists.v_transfers), np.int64)
    for table in np.unique(tables):
        here = tables == table
        found[here] = _ranks(method.translations, method.order, float(radii[table]), tolerance)[lists.v_transfers[here]]
    return found


@lru_cache(maxsize=256)  # a choice of ncrit asks for the same ranks again and again
def _ranks(kernel: GreensFunction, order: int, radius: float, tolerance: float) -> NDArray[np.int64]:
    """Return the singular values kept for each transfer vector by boxes of a radius, read-only: shape (343,)."""
    ranks = cached_factors(kernel, order, radius, INNER, tolerance).ranks
    ranks.flags.writeable = False
    return ranks


def flops_per_pair(kernel: GreensFunction) -> int:
    """Count the operations of one pair of points: differences, distance, every entry of G, products with the charge."""
    entries = [entry for row in kernel.matrix for entry in row]
    geometry = 8 + 2 * bool(kernel.variables & {"r", "rinv"}) + ("r" in kernel.variables)
    count = _FlopCounter()
    return geometry + sum(int(count(entry)) + 2 for entry in entries)


CALL_EFFORT = 8
"""What a call of a function such as the exponential takes, in operations: P2P takes 1.9 times as long with Yukawa's
function as with Laplace's."""


def effort_per_pair(kernel: GreensFunction) -> int:
    """Estimate what one pair of points takes, in operations: what entries of G have in common is computed once."""
    effort, seen = _Effort(), {entry for row in kernel.matrix for entry in row}
    for entry in seen:
        effort(entry)
    return 11 + effort.total + 2 * kernel.ntarget_components * kernel.nsource_components


class _Effort(WalkMapper):  # type: ignore[misc]
    """Sums the operations of the different parts of expressions."""

    def __init__(self) -> None:
        super().__init__()
        self.total, self._seen = 0, set[Any]()

    def visit(self, expression: Any, *args: Any) -> bool:
        """Return whether a part is a new one."""
        if expression in self._seen:
            return False
        self._seen.add(expression)
        if isinstance(expression, Call):
            self.total += CALL_EFFORT
        elif isinstance(expression, Sum | Product):
            self.total += len(expression.children) - 1
        elif isinstance(expression, ExpressionNode) and not isinstance(expression, Variable):
            self.total += 1
        return True


def mean_list_sizes(tree: Tree, lists: InteractionLists) -> dict[str, float]:
    """Return the mean numbers of entries of the lists, over the boxes that can have any.

    |U| and |W| are means over leaves with targets, |V| and |X| over boxes with targets from level 2 on; empty lists
    count. The paper on PyExaFMM gives |U| = 11, |V| = 42, |X| = 3, |W| = 3 for 10^6 random points on a sphere and 150
    points per leaf, without naming the boxes. For such points ``build_lists`` gives 14.5, 41.4, 2.3 and 3.0 by this
    definition; over all boxes |U| would be 11.5, and over leaves |X| 3.0: each entry of W is one of X reversed.

    Returns:
        The means by name of the list: ``"u"``, ``"v"``, ``"w"``, ``"x"``; 0 if there is no such box.
    """
    has_targets = tree.box_target_ends > tree.box_target_starts
    near, far = has_targets & tree.is_leaf, has_targets & (tree.box_levels >= FIRST_LEVEL)
    paired = lists.mutual.lengths + np.bincount(lists.mutual.lists, minlength=tree.nboxes)
    boxes = {"u": near, "v": far, "w": near, "x": far}
    lengths = {name: getattr(lists, name).lengths + (paired if name == "u" else 0) for name in boxes}
    sizes = {name: lengths[name][boxes[name]] for name in boxes}
    return {name: float(size.mean()) if size.size else 0.0 for name, size in sizes.items()}


class _FlopCounter(FlopCounterBase):  # type: ignore[misc]
    """Count the operations of an expression, a function call as one."""

    def map_call(self, expression: Any) -> int:
        return 1 + sum(int(self.rec(parameter)) for parameter in expression.parameters)


def _box_weights(tree: Tree, weights: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Return how many boxes each box represents: as many as its parent, by the weights of `count_without_m2l`."""
    box_weights = np.ones(tree.nboxes) if weights is None else weights[tree.box_parents]
    box_weights[0] = 1.0
    return box_weights


def _count_pairs(csr: CSR, ntargets: NDArray[np.float64], nsources: NDArray[np.int64]) -> int:
    """Sum (targets of the row) x (sources of the entry) over all entries of a list."""
    return round(float(np.repeat(ntargets, csr.lengths) @ nsources[csr.lists]))


def _count_octets(tree: Tree, lists: InteractionLists, weights: NDArray[np.float64]) -> tuple[int, int, int, int]:
    """Count octets that send, octets that receive, their pairs, and the children that receive.

    These are the numbers that `fmmloopy.tables.fft.find_octet_pairs` finds, weighted.
    """
    parents = ~tree.is_leaf & (tree.box_levels >= FIRST_LEVEL - 1)
    sends, receives = parents & tree.has_sources, parents & tree.has_targets
    some = np.flatnonzero(parents & (weights > 0))
    weights, colleagues = weights[some], np.delete(lists.colleagues[some], DIRECTIONS // 2, axis=1)
    from_each = ((colleagues >= 0) & sends[colleagues]).sum(axis=1) * receives[some]
    to_each = ((colleagues >= 0) & receives[colleagues]).sum(axis=1) * sends[some]
    children = np.bincount(tree.box_parents[1:], (tree.box_target_ends > tree.box_target_starts)[1:], tree.nboxes)[some]
    counts = ((to_each > 0), (from_each > 0), from_each, children * (from_each > 0))
    sending, receiving, pairs, receiving_children = (round(float(weights @ count)) for count in counts)
    return sending, receiving, pairs, receiving_children
