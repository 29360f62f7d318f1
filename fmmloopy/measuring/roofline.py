"""The roofline: limits of an operator from the peaks of a processor, and which of them binds.

There are three limits, each a time that no schedule can beat with the measured peaks:

FMA      all operations except roots at the rate of multiply-adds, two operations each
rsqrt    one reciprocal square root per pair, by the fastest method on the processor
memory   every number that the operator reads or writes moved once, except what fits in the largest cache

Two methods for roots at once, in units of the processor that work in parallel, could beat the second limit, but no
measurement has. The largest limit binds. None can be reached completely: subtractions use half of a multiply-add, and a
root by Newton's iteration needs multiply-adds itself. Other functions, such as Yukawa's ``exp``, have no peak: they
count as one operation, and `Roofline.uncounted` lists them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fmmloopy.choosing.work import Work, v_ranks
from fmmloopy.common.sizes import TRANSFERS, count_points
from fmmloopy.components import CHARGES, GRADIENT
from fmmloopy.execution.setup import Method
from fmmloopy.expressions import GEOMETRY
from fmmloopy.greens import GreensFunction
from fmmloopy.measuring.peaks import Peaks
from fmmloopy.octree.lists import CSR, InteractionLists
from fmmloopy.octree.tree import FIRST_LEVEL, Tree
from fmmloopy.operators import M2L_FORMS, OPERATORS, Operator, Specification
from fmmloopy.operators.operator import Boxes, Families, Lists, Octets, Pairs, Particles
from fmmloopy.tables.fft import find_octet_pairs

ROOT_FLOPS = 2
"""Operations that `fmmloopy.choosing.work` counts for the reciprocal root of a pair."""


@dataclass(frozen=True)
class Roofline:
    """The limits of an operator on a processor.

    Attributes:
        limits: minimum seconds by name of the limit: FMA, memory, and rsqrt for operators on particles.
        uncounted: functions of the Green's function that have no peak.
    """

    limits: Mapping[str, float]
    uncounted: tuple[str, ...] = ()

    @property
    def binding(self) -> str:
        """Name of the limit that binds."""
        return max(self.limits, key=lambda name: self.limits[name])

    @property
    def seconds(self) -> float:
        """Minimum seconds, by the limit that binds."""
        return self.limits[self.binding]

    def share(self, seconds: float) -> float:
        """Return the share of the limit that a time reaches: 1 if it equals the limit."""
        return self.seconds / seconds


def roofline(work: Work, nbytes: int, peaks: Peaks, kernel: GreensFunction) -> Roofline:
    """Bound the time of an operator from below.

    Args:
        work: its pairs and operations.
        nbytes: bytes that it has to read and write, see `count_bytes`.
        peaks: peaks of the processor, in the operator's precision.
        kernel: the Green's function, whose root counts separately from its other operations.
    """
    used = kernel.variables
    roots = work.pairs if used & {"r", "rinv"} else 0
    limits = {"FMA": (work.flops - ROOT_FLOPS * roots) / peaks.fma}
    if roots:
        limits["rsqrt"] = roots / peaks.rsqrt
    limits["memory"] = max(0, nbytes - peaks.cache) / peaks.bandwidth
    functions = used - {*GEOMETRY, *kernel.parameters} if work.pairs else ()
    return Roofline(limits, tuple(sorted(functions)))


def count_bytes(
    tree: Tree, lists: InteractionLists, method: Method, m2l: str = "fft", gradient: bool = False
) -> dict[str, int]:
    """Count the bytes that each operator has to read and write in one evaluation, every number once.

    Sums that are added to existing values count twice, as read and written. Lists and other indices are not counted, so
    it is a lower bound. All numbers of an operator count in the dtype that it computes in.

    Args:
        tree, lists, method, m2l, gradient: as for `fmmloopy.choosing.work.count_work`.

    Returns:
        Bytes by operator, with M2L in the given form.
    """
    counter = _Counter(tree, lists, method)
    counted = [operator for operator in OPERATORS.values() if not operator.m2l]
    return {operator.name: counter.nbytes(operator, gradient) for operator in (*counted, *M2L_FORMS[m2l])}


class _Counter:
    """Counts what operators read and write, from their records, a tree and its lists."""

    def __init__(self, tree: Tree, lists: InteractionLists, method: Method) -> None:
        self.tree, self.lists, self.method = tree, lists, method
        self.nsources = (tree.box_source_ends - tree.box_source_starts).astype(np.int64)
        self.ntargets = (tree.box_target_ends - tree.box_target_starts).astype(np.int64)
        self.has = {"sources": tree.gathers, "targets": tree.has_targets}
        self.deep, self.below = tree.box_levels >= FIRST_LEVEL, tree.box_levels > FIRST_LEVEL

    def nbytes(self, operator: Operator, gradient: bool = False) -> int:
        """Count the bytes of an operator."""
        spec = self.method.specification(operator, GRADIENT if gradient else CHARGES)
        if operator.particles:
            numbers: float = self._points(operator.particles, spec)
        else:
            assert operator.traffic is not None
            numbers = operator.traffic(spec, self._counts(operator))
        return int(numbers) * spec.types.inner.itemsize

    def _points(self, particles: Particles, spec: Specification) -> int:
        """Count numbers of an operator on particles: those of its targets, and those of its sources."""
        n, tree = count_points(spec.order), self.tree
        if particles.list == "own":
            side = "sources" if particles.targets.is_surface else "targets"
            rows = entries = tree.is_leaf & self.deep & self.has[side]
        else:
            csr: CSR = getattr(self.lists, particles.list)
            rows, entries = csr.lengths > 0, np.bincount(csr.lists, minlength=tree.nboxes) > 0
            if particles.is_mutual:
                rows = entries = rows | entries
        if particles.targets.is_surface:
            targets = 2 * n * spec.rows * int(rows.sum())
        else:
            # Coordinates that are the sources' too have been read.
            both = tree.same_points and not particles.sources.is_surface
            targets = (2 * spec.rows + (0 if both else 3)) * int(self.ntargets[rows].sum())
        if particles.sources.is_surface:
            return targets + n * spec.columns * int(entries.sum())
        leaves = entries & tree.is_leaf if not particles.targets.is_surface else entries
        return targets + (3 + spec.columns) * int(self.nsources[leaves].sum())

    def _counts(self, operator: Operator) -> Mapping[str, float]:
        """Count what other operators run over; names as of :data:`fmmloopy.operators.operator.Counts`."""
        over, tree, lists = operator.over, self.tree, self.lists
        if isinstance(over, Families):
            wanted, parents = self.has[over.side], self.deep & ~tree.is_leaf
            return {"children": int((self.below & wanted).sum()), "parents": int((parents & wanted).sum())}
        if isinstance(over, Boxes):
            upward, downward = tree.is_leaf & self.deep & self.has["sources"], self.deep & self.has["targets"]
            return {"boxes": int(upward.sum() + downward.sum())}
        if isinstance(over, Lists) or (isinstance(over, Pairs) and not over.spectra):
            v = lists.v
            sources = np.bincount(v.lists, minlength=tree.nboxes) > 0
            counts = {"sources": int(sources.sum()), "rows": int((v.lengths > 0).sum())}
            if isinstance(over, Lists):
                return {**counts, "matrices": len(np.unique(lists.v_transfers))}
            return {**counts, "kept": _kept_ranks(tree, lists, self.method)}
        octets = find_octet_pairs(tree, lists, range(FIRST_LEVEL, max(tree.nlevels, FIRST_LEVEL)))
        if isinstance(over, Pairs):
            return {"sources": len(octets.source_children), "rows": len(octets.target_children)}
        assert isinstance(over, Octets)
        children = octets.source_children if over.side == "sources" else octets.target_children
        return {"octets": len(children), "children": int((children < tree.nboxes).sum())}


def _kept_ranks(tree: Tree, lists: InteractionLists, method: Method) -> int:
    """Sum the ranks of the compressed matrices that are needed, on each level where they differ."""
    ranks = v_ranks(tree, lists, method)
    levels = np.repeat(tree.box_levels, lists.v.lengths) if method.translations.homogeneity is None else 0
    _, first = np.unique(TRANSFERS * levels + lists.v_transfers, return_index=True)
    return int(ranks[first].sum())
