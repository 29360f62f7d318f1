"""The roofline: what a processor's peaks allow an operator at most, and which of them binds.

Three limits, each a time that no schedule can beat on this processor as it was measured:

FMA      all operations but roots at the rate of multiply-adds, two operations each
rsqrt    one reciprocal square root a pair, by the fastest way that the processor has
memory   every number that the operator reads or writes moved once, less what the largest cache may hold

Two ways to roots at once, in units of the processor that work beside each other, could get past the second limit; of
what has been measured nothing has. The largest of them binds. None of it can be reached whole: subtractions use half of
a multiply-add, and a root by Newton's iteration takes multiply-adds away from the rest. Other functions, such as
Yukawa's ``exp``, have no peak: they count as one operation, and `Roofline.uncounted` names them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fmmloopy.greens import GEOMETRY, GreensFunction
from fmmloopy.lists import CSR, InteractionLists
from fmmloopy.m2l_tables import DIRECTIONS, find_octet_pairs
from fmmloopy.measuring.peaks import Peaks
from fmmloopy.plan import FIRST_LEVEL
from fmmloopy.precision import computed_in
from fmmloopy.recipes import OPERATORS
from fmmloopy.surfaces import NTRANSFERS, count_points
from fmmloopy.tree import Tree
from fmmloopy.work import Work, v_ranks

ROOT_FLOPS = 2
"""What `fmmloopy.work` counts for the reciprocal root of a pair."""


@dataclass(frozen=True)
class Roofline:
    """What a processor allows an operator.

    Attributes:
        limits: least seconds by name of the limit: FMA, memory, and rsqrt for operators on particles.
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
        """Least seconds, by the limit that binds."""
        return self.limits[self.binding]

    def share(self, seconds: float) -> float:
        """Return what share of the limit a time is: 1 for one that reaches it."""
        return self.seconds / seconds


def roofline(work: Work, nbytes: int, peaks: Peaks, greens: GreensFunction) -> Roofline:
    """Bound the time of an operator from below.

    Args:
        work: its pairs and operations.
        nbytes: what it has to read and write, see `count_bytes`.
        peaks: of the processor, in the operator's precision.
        greens: the Green's function, whose root counts apart from its other operations.
    """
    used = greens.variables
    roots = work.pairs if used & {"r", "rinv"} else 0
    limits = {"FMA": (work.flops - ROOT_FLOPS * roots) / peaks.fma}
    if roots:
        limits["rsqrt"] = roots / peaks.rsqrt
    limits["memory"] = max(0, nbytes - peaks.cache) / peaks.bandwidth
    functions = used - {*GEOMETRY, *greens.parameters} if work.pairs else ()
    return Roofline(limits, tuple(sorted(functions)))


def count_bytes(
    tree: Tree, lists: InteractionLists, order: int, greens: GreensFunction, itemsize: int, m2l: str = "fft"
) -> dict[str, int]:
    """Count what each operator has to read and write in one evaluation, every number once, however often it is used.

    Sums that are added to count twice, read and written. Lists and other indices are left out: so it is a lower bound.

    Args:
        tree, lists, order, greens, m2l: as for `fmmloopy.work.count_work`.
        itemsize: bytes of a number.

    Returns:
        Bytes by operator, with M2L in the form asked for.
    """
    n, rows, columns = count_points(order), greens.ntarget_components, greens.nsource_components
    nsources = (tree.box_source_ends - tree.box_source_starts).astype(np.int64)
    ntargets = (tree.box_target_ends - tree.box_target_starts).astype(np.int64)
    deep, below = tree.box_levels >= FIRST_LEVEL, tree.box_levels > FIRST_LEVEL
    parents = deep & ~tree.is_leaf
    upward, downward = tree.is_leaf & deep & (nsources > 0), deep & (ntargets > 0)
    leaves = tree.is_leaf & downward
    checks, source = 2 * n * rows, 3 + columns
    target = 2 * rows if tree.same_points else 2 * rows + 3
    entries = {name: _entries(getattr(lists, name), tree.nboxes) for name in "uvwx"}
    acting = {name: _rows(getattr(lists, name)) for name in "uvwx"}

    numbers = {
        "p2p": target * _sum(ntargets, acting["u"]) + source * _sum(nsources, entries["u"] & tree.is_leaf),
        "p2m": source * _sum(nsources, upward) + checks * int(upward.sum()),
        "p2l": source * _sum(nsources, entries["x"]) + checks * int(acting["x"].sum()),
        "l2p": (2 * rows + 3) * _sum(ntargets, leaves) + n * columns * int(leaves.sum()),
        "m2p": (2 * rows + 3) * _sum(ntargets, acting["w"]) + n * columns * int(entries["w"].sum()),
        "m2m": n * columns * int((below & (nsources > 0)).sum() + 2 * (parents & (nsources > 0)).sum()),
        "l2l": n * columns * int(2 * (below & (ntargets > 0)).sum() + (parents & (ntargets > 0)).sum()),
        "check_to_equivalent": n * (rows + columns) * int(upward.sum() + downward.sum()),
    }
    vectors = n * columns * int(entries["v"].sum()) + checks * int(acting["v"].sum())
    if m2l == "dense":
        numbers["m2l"] = vectors + n * n * rows * columns * len(np.unique(lists.v_transfers))
    elif m2l == "svd":
        numbers["m2l_svd"] = vectors + n * (rows + columns) * _ranks(tree, lists, order, greens, itemsize)
    else:
        numbers |= _fft_numbers(tree, lists, order, greens)
    return {name: itemsize * count for name, count in numbers.items()}


def count_bytes_in(
    dtype: str, tree: Tree, lists: InteractionLists, order: int, greens: GreensFunction, m2l: str = "fft"
) -> dict[str, int]:
    """Count them in an evaluation of a dtype, see `fmmloopy.precision`: all of an operator in what it computes in."""
    inner = {name: computed_in(name, dtype) for name in OPERATORS}
    counts = {i: count_bytes(tree, lists, order, greens, np.dtype(i).itemsize, m2l) for i in set(inner.values())}
    return {name: counts[i][name] for name, i in inner.items() if name in counts[i]}


def _fft_numbers(tree: Tree, lists: InteractionLists, order: int, greens: GreensFunction) -> dict[str, int]:
    """Count numbers of the three stages of M2L: spectra are complex, and of eight siblings each."""
    n, rows, columns = count_points(order), greens.ntarget_components, greens.nsource_components
    octets = find_octet_pairs(tree, lists, range(FIRST_LEVEL, max(tree.nlevels, FIRST_LEVEL)))
    frequencies = order * (2 * order - 1) ** 2
    multipoles = 2 * 8 * frequencies * columns * len(octets.source_children)
    locals_ = 2 * 8 * frequencies * rows * len(octets.target_children)
    children = [int((c < tree.nboxes).sum()) for c in (octets.source_children, octets.target_children)]
    return {
        "m2l_forward": n * columns * children[0] + multipoles,
        "m2l_hadamard": multipoles + 2 * locals_ + 2 * frequencies * DIRECTIONS * 8 * 8 * rows * columns,
        "m2l_inverse": locals_ + 2 * n * rows * children[1],
    }


def _ranks(tree: Tree, lists: InteractionLists, order: int, greens: GreensFunction, itemsize: int) -> int:
    """Sum the ranks of the compressed matrices that are needed, on each level where they differ."""
    ranks = v_ranks(tree, lists, order, greens, f"f{itemsize}")
    levels = np.repeat(tree.box_levels, lists.v.lengths) if greens.homogeneity is None else 0
    _, first = np.unique(NTRANSFERS * levels + lists.v_transfers, return_index=True)
    return int(ranks[first].sum())


def _entries(csr: CSR, nboxes: int) -> NDArray[np.bool_]:
    """Return which boxes are in some row of a list."""
    return np.bincount(csr.lists, minlength=nboxes) > 0


def _rows(csr: CSR) -> NDArray[np.bool_]:
    """Return which boxes have a row with entries."""
    return np.asarray(csr.lengths > 0)


def _sum(numbers: NDArray[np.int64], where: NDArray[np.bool_]) -> int:
    return int(numbers[where].sum())
