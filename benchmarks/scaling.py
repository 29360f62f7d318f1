"""Predict how evaluations scale to many parts: ``python -m benchmarks scaling``.

Real points are cut into parts as :mod:`fmmloopy.parts` cuts them after rebalancing, by work. The work of each part, the
ghosts that it receives, and their messages and bytes are counted on the real tree and its lists. Times follow from the
rates of operators on this machine, as measured for the choice of ncrit, and from a network that is stated; with
``--kept``, from an evaluation in the last full run of the benchmarks, so that nothing is measured. Nothing is sent: all
figures are predicted. An evaluation takes as long as its slowest part. Charges of ghosts come before it, and multipoles
while near pairs are computed.

Strong scaling divides the same points among more and more parts. In weak scaling all parts have as many points as one
that is alone. Together they have too many for one machine, so some parts are looked at, and of others only what these
see of them: all points around them, and farther away the boxes.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.kept import read_kept
from benchmarks.results import Results
from fmmloopy.choosing.calibration import KnownRates
from fmmloopy.choosing.root_size import MARGIN
from fmmloopy.choosing.work import count_work
from fmmloopy.common.sizes import count_points, padded
from fmmloopy.execution.setup import Method
from fmmloopy.fmm import Fmm
from fmmloopy.greens import laplace
from fmmloopy.octree.lists import CSR, InteractionLists, build_lists
from fmmloopy.octree.small_boxes import absorb_small_boxes
from fmmloopy.octree.tree import (
    DEEPEST_LEVEL,
    FIRST_LEVEL,
    OneSide,
    SortedPoints,
    Tree,
    decode,
    encode,
    find_bounds,
    find_root,
    grow_tree,
)
from fmmloopy.operators import M2M, OPERATORS, P2P, P2P_MUTUAL
from fmmloopy.parts.part import REDUCED_FROM
from fmmloopy.precision import PRECISIONS

PARTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)

WEAK = (1, 8, 64, 512, 4096)

CALIBRATED = 1_000_000
"""Points of the evaluation that gives order, ncrit and rates."""

PIECE = 2**22
"""Points that are made at a time."""

ROWS = 100_000
"""Boxes whose lists are looked at at a time."""

CELLS = 16
"""In weak scaling, parts have at least so many cells, between which they are cut like leaves."""

SAMPLED = 2**26
"""Points that show how many points of a sphere are in each cell."""

SAME_LEAVES = 64
"""With so many times fewer points, leaves are as full: two levels less in the cube, three on the sphere."""

NCRITS = tuple(2.0 ** (step / 2) for step in range(-3, 4))
"""Values of ncrit that are compared for other numbers of points, relative to the one that was chosen."""

WIDTHS = (1.0, *(MARGIN * 32 / count for count in range(30, 16, -2)))
"""Widths of the root, relative to the points, that an evaluation may have chosen."""

CHOSEN = 5
"""In weak scaling, how many of the parts are looked at."""


@dataclass(frozen=True)
class Network:
    """A network between parts.

    Attributes:
        latency: seconds for each message.
        bandwidth: bytes per second, in and out of a part.
    """

    latency: float
    bandwidth: float

    def seconds(self, messages: NDArray[Any], nbytes: NDArray[Any]) -> NDArray[np.float64]:
        """Return the seconds of some messages, one after the other."""
        return np.asarray(messages * self.latency + nbytes / self.bandwidth, np.float64)


@dataclass(frozen=True)
class Prediction:
    """A prediction for a number of parts.

    Attributes:
        parts: how many.
        seconds: of the slowest part.
        working: mean seconds of the operators.
        slowest: seconds of the operators in the part with the most work.
        sending: the most seconds that a part sends and receives.
        waiting: the most seconds of these in which a part does nothing else.
        messages: the most that a part receives in one evaluation.
        ghosts: mean number of multipoles that a part receives, over that of its own boxes.
        nbytes: the most bytes that a part receives.
    """

    parts: int
    seconds: float
    working: float
    slowest: float
    sending: float
    waiting: float
    messages: int
    ghosts: float
    nbytes: int


@dataclass(frozen=True, eq=False)
class Problem:
    """Points whose division is predicted.

    Attributes:
        tree, lists: of all points.
        seconds: shape (nboxes,), predicted seconds of all operators, by target box, or by box for the upward pass.
        near: shape (nboxes,), those of near pairs, by target box.
        row_bytes: bytes of a multipole.
    """

    tree: Tree
    lists: InteractionLists
    seconds: NDArray[np.float64]
    near: NDArray[np.float64]
    row_bytes: int


def sorted_keys(distribution: str, count: int, half_width: float) -> NDArray[np.uint64]:
    """Return the sorted Morton keys of points in the unit cube or on the unit sphere, which are made in pieces.

    Args:
        distribution: "cube" or "sphere".
        count: number of points.
        half_width: of the root, whose centre is that of the points.
    """
    rng, keys = np.random.default_rng(0), np.empty(count, np.uint64)
    for start in range(0, count, PIECE):
        piece = keys[start : start + PIECE]
        piece[:] = keys_of(centred_points(distribution, len(piece), rng), half_width)
    keys.sort()
    return keys


def centred_points(distribution: str, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return points of the unit cube or on the unit sphere, around 0: shape (count, 3)."""
    if distribution == "cube":
        return rng.random((count, 3)) - 0.5
    points = rng.standard_normal((count, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return points


def keys_of(points: NDArray[np.float64], half_width: float, level: int = DEEPEST_LEVEL) -> NDArray[np.uint64]:
    """Return the Morton keys, on a level, of points around 0."""
    cells = ((points + half_width) * (2.0**level / (2 * half_width))).astype(np.int32)
    return encode(np.clip(cells, 0, 2**level - 1).T)


def tree_of(keys: NDArray[np.uint64], half_width: float, ncrit: int) -> Tree:
    """Return the tree of points with these keys. It has their counts, but not their coordinates."""
    nowhere = np.broadcast_to(np.float64(0), (3, len(keys)))
    side = OneSide(nowhere, np.broadcast_to(np.int64(0), len(keys)), keys)
    return grow_tree(SortedPoints(np.zeros(3), np.zeros(3), half_width, side, side), ncrit, split_coincident=False)


def weights_of(operator: str, tree: Tree, lists: InteractionLists) -> NDArray[np.float64]:
    """Return the work of an operator on each box of targets, or of the upward pass, in its own unit."""
    nsources = (tree.box_source_ends - tree.box_source_starts).astype(np.float64)
    ntargets = (tree.box_target_ends - tree.box_target_starts).astype(np.float64)
    particles = OPERATORS[operator].particles
    if operator.startswith("m2l"):
        return lists.v.lengths.astype(np.float64)
    if particles is None:
        return np.where(tree.box_levels >= FIRST_LEVEL, 1.0, 0.0)
    if particles.list == "own":
        return nsources * tree.is_leaf
    csr: CSR = getattr(lists, particles.list)
    each = np.ones(len(csr.lists)) if particles.sources.is_surface else nsources[csr.lists]
    sums = np.append(0.0, np.cumsum(each))
    of_lists: NDArray[np.float64] = sums[csr.starts[1:]] - sums[csr.starts[:-1]]
    return of_lists if particles.targets.is_surface else of_lists * ntargets


@dataclass(frozen=True, eq=False)
class Machine:
    """A machine that has a part, by measured rates, and the method.

    Attributes:
        name, cores: of the processor.
        order, ncrit, m2l: what was chosen for some points.
        half_width: of the root cube.
        row_bytes: bytes of a multipole.
        units: seconds of each operator for its unit of work, see `weights_of`.
    """

    name: str
    cores: int
    order: int
    ncrit: int
    m2l: str
    half_width: float
    row_bytes: int
    units: Mapping[str, float]

    @classmethod
    def measured(cls, distribution: str, digits: float, device: str | None) -> Machine:
        """Choose order and ncrit for some points, measure rates, and predict the seconds of each operator by them."""
        points = centred_points(distribution, CALIBRATED, np.random.default_rng(0))
        fmm = Fmm(points, digits=digits, device=device, m2l="fft")
        rates = KnownRates(fmm._decision.setup, fmm._evaluation.runtime, CALIBRATED).of("fft", measure=True)
        assert rates is not None
        tree = fmm.tree
        lists = absorb_small_boxes(tree, build_lists(tree), count_points(fmm.order))
        units = _units(rates.seconds(count_work(tree, lists, fmm.method)), tree, lists)
        arrays = fmm._evaluation._plan.expansions
        row_bytes = arrays.columns * padded(arrays.npoints) * arrays.dtype.itemsize
        name, cores = fmm.device.name, fmm.device.cores
        return cls(name, cores, fmm.order, fmm.ncrit, fmm.m2l, float(tree.half_width), row_bytes, units)

    @classmethod
    def kept(cls, distribution: str, digits: float, results: Results) -> Machine:
        """Return the machine of a run of the benchmarks, with what it has chosen and how long its operators took."""
        found = results.find_evaluations(points=CALIBRATED, distribution=distribution, digits=digits, dtype="float64")
        if not found:
            case = f"{CALIBRATED:,} points, {distribution}, {digits:g} digits"
            raise SystemExit(f"error: the results of {results.date} have no evaluation of {case}; leave out --kept")
        best = found[0]
        points = centred_points(distribution, CALIBRATED, np.random.default_rng(0))
        half_width = find_root(*find_bounds(points, "points"), np.dtype(np.float64))[2]

        def grow(width: float) -> tuple[int, float, Tree, InteractionLists]:
            """Return how far the number of translations is from that of the run, half width, tree and lists."""
            wide = half_width * width
            tree = tree_of(np.sort(keys_of(points, wide)), wide, best.ncrit)
            lists = absorb_small_boxes(tree, build_lists(tree), count_points(best.order))
            work = count_work(tree, lists, Method(laplace(), best.order, PRECISIONS[best.precision]), best.m2l)
            return abs(work[M2M.name].flops - best.work[M2M.name].flops), wide, tree, lists

        _, half_width, tree, lists = min(map(grow, WIDTHS), key=lambda each: each[0])
        seconds = {name: spent for name, spent in best.seconds.items() if name in OPERATORS}
        # Both operators of near pairs have the pairs of U lists here.
        seconds[P2P.name] = seconds.get(P2P.name, 0.0) + seconds.pop(P2P_MUTUAL.name, 0.0)
        row_bytes = padded(count_points(best.order)) * PRECISIONS[best.precision].expansions.itemsize
        processor, cores = results.machine["processor"], int(results.machine["cores"])
        units = _units(seconds, tree, lists)
        return cls(processor.partition(" (")[0], cores, best.order, best.ncrit, best.m2l, half_width, row_bytes, units)

    @property
    def method(self) -> str:
        """Order, ncrit and form of M2L in words."""
        return f"order {self.order}, ncrit {self.ncrit}, M2L {self.m2l}"

    def for_points(self, distribution: str, count: int) -> Machine:
        """Return the machine with the ncrit that is fastest for a number of points, by far fewer that show it."""
        while count > 2 * CALIBRATED:
            count //= SAME_LEAVES
        keys = sorted_keys(distribution, count, self.half_width)
        candidates = [replace(self, ncrit=max(round(self.ncrit * factor), 1)) for factor in NCRITS]
        return min(candidates, key=lambda each: float(each.problem(keys).seconds.sum()))

    def problem(self, keys: NDArray[np.uint64]) -> Problem:
        """Return the problem of points with these keys, and the seconds of each box."""
        tree = tree_of(keys, self.half_width, self.ncrit)
        lists = absorb_small_boxes(tree, build_lists(tree), count_points(self.order))
        seconds = {name: unit * weights_of(name, tree, lists) for name, unit in self.units.items() if unit}
        none = np.zeros(tree.nboxes)
        return Problem(tree, lists, sum(seconds.values(), none), seconds.get("p2p", none), self.row_bytes)


def _units(seconds: Mapping[str, float], tree: Tree, lists: InteractionLists) -> dict[str, float]:
    """Return the seconds of each operator for its unit of work, from those that all its work takes."""
    return {name: spent / max(weights_of(name, tree, lists).sum(), 1.0) for name, spent in seconds.items()}


def divide(problem: Problem, parts: int) -> NDArray[np.int64]:
    """Cut the curve between leaves into parts of equal work; return the part of each leaf along the curve."""
    leaves = np.flatnonzero(problem.tree.is_leaf)
    seconds = problem.seconds[leaves[np.argsort(_first_keys(problem.tree)[leaves])]]
    work = np.cumsum(seconds)
    parts_of: NDArray[np.int64] = np.minimum((work - seconds / 2) / work[-1] * parts, parts - 1).astype(np.int64)
    return parts_of


def predict(
    problem: Problem,
    parts: int,
    network: Network,
    of_leaf: NDArray[np.int64] | None = None,
    only: int | None = None,
) -> Prediction:
    """Predict the slowest of some parts.

    Args:
        problem: the points.
        parts: how many parts there are.
        network: between them.
        of_leaf: the part of each leaf along the curve; None for parts of equal work.
        only: the one part that counts; None for all.
    """
    tree, lists = problem.tree, problem.lists
    first_key = _first_keys(tree)
    last_key = first_key + ((np.uint64(1) << _shift(tree)) - np.uint64(1))
    of_leaf = divide(problem, parts) if of_leaf is None else of_leaf
    starts = np.sort(first_key[tree.is_leaf])
    first = of_leaf[np.searchsorted(starts, first_key)]  # each box has a leaf, which may begin after it
    last = of_leaf[np.searchsorted(starts, last_key, "right") - 1]
    spans = last - first + 1

    def expand(boxes: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return box and part, for each part that a box is in."""
        counts = spans[boxes]
        places = np.repeat(np.arange(len(boxes)), counts)
        return places, first[boxes][places] + np.arange(len(places)) - np.repeat(np.cumsum(counts) - counts, counts)

    boxes = np.arange(tree.nboxes)
    which, part = expand(boxes)
    busy, near = (np.bincount(part, each[which], parts) for each in (problem.seconds, problem.near))
    own = np.bincount(part, tree.box_levels[which] >= FIRST_LEVEL, parts)
    reduced, nreduced = _reduced(tree, parts)
    row_bytes = problem.row_bytes

    def asked(names: Sequence[str], left_out: NDArray[np.bool_]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return who asks for which boxes of others: parts and boxes."""
        found = [np.empty(0, np.int64)]
        for name in names:
            csr: CSR = getattr(lists, name)
            rows = np.flatnonzero(csr.lengths)
            if only is not None:
                rows = rows[(first[rows] <= only) & (only <= last[rows])]
            for piece in np.array_split(rows, len(rows) // ROWS + 1):
                place, row_part = expand(piece)
                lengths = csr.lengths[piece[place]].astype(np.int64)
                at = np.repeat(csr.starts[piece[place]] - (np.cumsum(lengths) - lengths), lengths)
                sources, to = csr.lists[at + np.arange(len(at))], np.repeat(row_part, lengths)
                away = (first[sources] != to) & ~left_out[sources]
                found.append(np.unique(to[away] * tree.nboxes + sources[away]))
        to, sources = np.divmod(np.unique(np.concatenate(found)), tree.nboxes)
        return to, sources

    # Multipoles of ghosts, and pieces of the multipoles of boxes in several parts, to the first of them.
    to, sources = asked(("v", "w"), reduced)
    straddling = boxes[(spans > 1) & ~reduced]
    place, holder = expand(straddling)
    later = holder != first[straddling][place]
    owners, holders = first[straddling][place[later]], holder[later]
    received, sent = (
        row_bytes * (np.bincount(a, minlength=parts) + np.bincount(b, minlength=parts))
        for a, b in ((to, owners), (first[sources], holders))
    )
    pairs = np.concatenate([np.unique(to * parts + first[sources]), np.unique(owners * parts + holders)])
    messages = np.bincount(pairs // parts, minlength=parts)
    multipoles = network.seconds(messages, np.maximum(received, sent))
    if nreduced:
        multipoles += 2 * network.seconds(np.log2([parts]), np.array([nreduced * row_bytes]))
    # Charges of ghosts.
    to_near, near_sources = asked(("u", "x"), np.zeros_like(reduced))
    sizes = 8 * (tree.box_source_ends - tree.box_source_starts)[near_sources]
    charges_in, charges_out = (np.bincount(each, sizes, parts) for each in (to_near, first[near_sources]))
    senders = np.unique(to_near * parts + first[near_sources]) // parts
    charge_messages = np.bincount(senders, minlength=parts)
    charges = network.seconds(charge_messages, np.maximum(charges_in, charges_out))
    waiting = charges + np.maximum(multipoles - near, 0.0)
    chosen = slice(None) if only is None else slice(only, only + 1)
    return Prediction(
        parts,
        float((busy + waiting)[chosen].max()),
        float(busy[chosen].mean()),
        float(busy[chosen].max()),
        float((charges + multipoles)[chosen].max()),
        float(waiting[chosen].max()),
        int((messages + charge_messages)[chosen].max()),
        float(np.bincount(to, minlength=parts)[chosen].mean() / max(own[chosen].mean(), 1)),
        int((received + charges_in)[chosen].max()),
    )


def _shift(tree: Tree) -> NDArray[np.uint64]:
    return (3 * (DEEPEST_LEVEL - tree.box_levels)).astype(np.uint64)


def _first_keys(tree: Tree) -> NDArray[np.uint64]:
    """Return the first key, on the deepest level, of each box."""
    return tree.box_keys << _shift(tree)


def _reduced(tree: Tree, parts: int) -> tuple[NDArray[np.bool_], int]:
    """Return which boxes no part asks for, because all sum them or they have no multipoles, and how many are summed."""
    last = FIRST_LEVEL - 1
    while parts >= REDUCED_FROM and (last < FIRST_LEVEL or 8 ** (last + 1) <= parts):
        last += 1
    reduced = tree.box_levels <= last
    return reduced, int((reduced & (tree.box_levels >= FIRST_LEVEL)).sum())


# -- parts of so many points that no machine has them all


@dataclass(frozen=True, eq=False)
class Neighbourhood:
    """One of many parts: all points of it and around it, and elsewhere only so many that the boxes are there.

    Attributes:
        keys: sorted Morton keys of these points.
        part: the number of the part.
        level, cells, ends: the level of the cells, the keys of those with points, and how many points these and all
            before them have.
    """

    keys: NDArray[np.uint64]
    part: int
    level: int
    cells: NDArray[np.uint64]
    ends: NDArray[np.float64]

    def part_of(self, problem: Problem, parts: int) -> NDArray[np.int64]:
        """Return the part of each leaf along the curve; all parts have the same number of points."""
        tree = problem.tree
        leaves = np.flatnonzero(tree.is_leaf)
        starts = np.sort(_first_keys(tree)[leaves])
        cell = np.searchsorted(self.cells, starts >> np.uint64(3 * (DEEPEST_LEVEL - self.level)), "right") - 1
        here = np.searchsorted(self.keys, starts)  # points before each leaf, of those that were made
        bounds = np.searchsorted(self.keys, self.cells << np.uint64(3 * (DEEPEST_LEVEL - self.level)))
        made = np.append(bounds[1:], len(self.keys)) - bounds
        counts = np.diff(self.ends, prepend=0.0)
        before = self.ends[cell] - counts[cell] + counts[cell] * ((here - bounds[cell]) / np.maximum(made[cell], 1))
        parts_of: NDArray[np.int64] = np.minimum(before / self.ends[-1] * parts, parts - 1).astype(np.int64)
        return parts_of


def neighbourhoods(
    distribution: str, parts: int, per_part: int, ncrit: int, half_width: float, chosen: Sequence[int]
) -> Iterator[Neighbourhood]:
    """Yield some of many parts with as many points each.

    A box interacts with children of its parent's neighbours. So what a part does and receives depends on the points of
    the cells that it overlaps and of their neighbours, and above the level of the cells on which boxes there are.
    """
    rng = np.random.default_rng(1)
    level = FIRST_LEVEL
    while len(cells := _cells(distribution, level, half_width)[0]) < CELLS * parts:
        level += 1
    cells, shares = _cells(distribution, level, half_width)
    if parts * per_part < 2 * ncrit * len(cells):
        least = 2 * ncrit * len(cells) // parts
        raise SystemExit(f"error: --per-part is {per_part:,}, expected at least {least:,} with ncrit {ncrit}")
    counts = shares * (parts * per_part)
    ends = np.cumsum(counts)
    begins = ends - counts
    bits = np.uint64(3 * (DEEPEST_LEVEL - level))
    for number in chosen:
        start, end = number * per_part, (number + 1) * per_part
        own = cells[(begins < end) & (ends > start)]
        around = np.isin(cells, _adjacent(own, level))
        filled = _filled(distribution, cells[around], level, half_width, parts * per_part, rng)
        # As many points as it takes to split their parents.
        _, family, siblings = np.unique(cells >> np.uint64(3), return_inverse=True, return_counts=True)
        least = -(-(ncrit + 1) // siblings[family])
        few = np.repeat(cells[~around] << bits, least[~around])
        few |= rng.integers(0, 1 << int(bits), len(few), np.uint64)
        keys = np.concatenate([filled, few])
        keys.sort()
        yield Neighbourhood(keys, number, level, cells, ends)


@lru_cache
def _cells(distribution: str, level: int, half_width: float) -> tuple[NDArray[np.uint64], NDArray[np.float64]]:
    """Return the cells of a level that have points, along the curve, and the shares of the points that they have."""
    if distribution == "cube":
        edges = np.clip(np.linspace(-half_width, half_width, 2**level + 1), -0.5, 0.5)
        kept = np.flatnonzero(np.diff(edges))
        places = np.stack(np.meshgrid(kept, kept, kept, indexing="ij")).reshape(3, -1)
        cells, shares = encode(places.astype(np.int32)), np.diff(edges)[places].prod(axis=0)
        order = np.argsort(cells)
        return cells[order], shares[order]
    keys = _sampled(distribution, half_width) >> np.uint64(3 * (DEEPEST_LEVEL - level))
    cells, counts = np.unique(keys, return_counts=True)
    return cells, counts / counts.sum()


@lru_cache(1)
def _sampled(distribution: str, half_width: float) -> NDArray[np.uint64]:
    """Return the sorted keys of points that show how many there are in each cell."""
    return sorted_keys(distribution, SAMPLED, half_width)


def _adjacent(cells: NDArray[np.uint64], level: int) -> NDArray[np.uint64]:
    """Return cells and their neighbours."""
    steps = np.stack(np.meshgrid(*[np.arange(-1, 2)] * 3)).reshape(3, 1, -1)
    places = (decode(cells)[:, :, None] + steps).reshape(3, -1)
    inside = ((places >= 0) & (places < 2**level)).all(axis=0)
    return np.unique(encode(places[:, inside]))


def _filled(
    distribution: str,
    cells: NDArray[np.uint64],
    level: int,
    half_width: float,
    count: int,
    rng: np.random.Generator,
) -> NDArray[np.uint64]:
    """Return the keys of the points in some cells, if there are ``count`` in all."""
    width = 2 * half_width / 2**level
    centres = (decode(cells).T + 0.5) * width - half_width
    lower, upper = centres.min(axis=0) - width / 2, centres.max(axis=0) + width / 2
    if distribution == "cube":  # points in the box around the cells
        lower, upper = np.maximum(lower, -0.5), np.minimum(upper, 0.5)
        share = float((upper - lower).prod())
    else:  # points on the cap around the cells
        axis = centres.mean(axis=0)
        axis /= np.linalg.norm(axis)
        farthest = np.linalg.norm(centres / np.linalg.norm(centres, axis=1)[:, None] - axis, axis=1).max()
        height = min((farthest + 2 * width) ** 2 / 2, 2.0)
        share = height / 2
    found = []
    for size in np.diff([*range(0, total := rng.poisson(count * share), PIECE), total]):
        if distribution == "cube":
            points = lower + (upper - lower) * rng.random((size, 3))
        else:
            points = _on_cap(axis, height, size, rng)
        keys = keys_of(points, half_width)
        found.append(keys[np.isin(keys >> np.uint64(3 * (DEEPEST_LEVEL - level)), cells)])
    return np.concatenate(found)


def _on_cap(axis: NDArray[np.float64], height: float, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return points on the cap of the unit sphere around an axis: shape (count, 3)."""
    along, angle = 1 - height * rng.random(count), 2 * np.pi * rng.random(count)
    aside = np.linalg.svd(axis[None])[2][1:]  # two directions across the axis
    radius = np.sqrt(np.maximum(1 - along**2, 0))
    across: NDArray[np.float64] = (radius * np.array([np.cos(angle), np.sin(angle)])).T @ aside
    return across + along[:, None] * axis


def weak(machine: Machine, distribution: str, per_part: int, parts: int, network: Network) -> Prediction:
    """Predict the slowest of some of many parts with as many points each, and of one that is alone."""
    if parts == 1:
        return predict(machine.problem(sorted_keys(distribution, per_part, machine.half_width)), 1, network)
    chosen = sorted(np.random.default_rng(3).choice(parts, min(parts, CHOSEN), replace=False).tolist())
    found = []
    for each in neighbourhoods(distribution, parts, per_part, machine.ncrit, machine.half_width, chosen):
        problem = machine.problem(each.keys)
        found.append(predict(problem, parts, network, each.part_of(problem, parts), each.part))
    slowest = max(found, key=lambda each: each.seconds)
    return replace(slowest, working=float(np.mean([each.working for each in found])))


def table(found: Sequence[Prediction], per_part: int | None = None) -> str:
    """Return a table in Markdown.

    Args:
        found: predictions, the first for one part.
        per_part: points of each part, in weak scaling; None for strong scaling.
    """
    more = "points" if per_part else "slowest / mean work"
    lines = [
        f"| parts | {more} | seconds | efficiency | work | waiting, share | messages | ghost boxes / own | MB in |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for each in found:
        size = each.parts * per_part if per_part else 0
        lines.append(
            f"| {each.parts:,} | {f'{size:,}' if per_part else f'{each.slowest / each.working:.2f}'} "
            f"| {each.seconds:.3g} | {efficiency(found[0], each, per_part):.0%} "
            f"| {each.working * (1 if per_part else each.parts) / found[0].working:.3f} "
            f"| {each.waiting / each.seconds:.0%} | {each.messages} | {each.ghosts:.2f} | {each.nbytes / 1e6:.2f} |"
        )
    return "\n".join(lines)


def efficiency(alone: Prediction, many: Prediction, per_part: int | None = None) -> float:
    """Return the efficiency of weak scaling, or of strong scaling without ``per_part``."""
    return alone.seconds / many.seconds / (1 if per_part else many.parts)


def draw(strong: Curves, weakly: Curves, per_part: int, network: Network, path: Path) -> None:
    """Draw the efficiency against the number of parts."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    sides = [(f"Weak scaling, {per_part:,} points a part", weakly, per_part), ("Strong scaling", strong, None)]
    for axes, (title, curves, points) in zip(figure.subplots(1, 2, sharey=True), sides, strict=True):
        for name, found in curves.items():
            axes.plot([e.parts for e in found], [efficiency(found[0], e, points) for e in found], "o-", label=name)
        axes.set_xscale("log", base=2)
        axes.set_ylim(0, 1.05)
        axes.axhline(0.8, color="grey", linewidth=0.8, linestyle="--")
        axes.set_xlabel("parts")
        axes.set_title(title)
        axes.legend(loc="lower left")
    figure.axes[0].set_ylabel("efficiency, predicted")
    figure.suptitle(f"{network.latency * 1e6:g} us a message, {network.bandwidth / 1e9:g} GB/s", fontsize="medium")
    figure.savefig(path, dpi=150)


Curves = Mapping[str, Sequence[Prediction]]


def main(argv: Sequence[str] | None = None) -> None:
    """Predict and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks scaling", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--points", type=int, nargs="*", default=[10_000_000], help="strong scaling (%(default)s)")
    parser.add_argument("--per-part", type=int, default=1_000_000, help="weak scaling (%(default)s)")
    parser.add_argument("--distribution", nargs="+", choices=("cube", "sphere"), default=["cube", "sphere"])
    parser.add_argument("--parts", type=int, nargs="*", default=list(PARTS), help="strong scaling (powers of two)")
    parser.add_argument("--weak-parts", type=int, nargs="*", default=list(WEAK), help="weak scaling (%(default)s)")
    parser.add_argument("--digits", type=float, default=6, help="(default: %(default)s)")
    rates = parser.add_mutually_exclusive_group()
    rates.add_argument("--device", help="part of a device's description")
    rates.add_argument("--kept", action="store_true", help="rates of the last full run of the benchmarks that is kept")
    parser.add_argument("--latency", type=float, default=2e-6, help="seconds a message (default: %(default)s)")
    parser.add_argument("--bandwidth", type=float, default=12.5e9, help="bytes per second (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="file for the tables, beside the screen")
    parser.add_argument("--plot", type=Path, help="picture of the efficiency; needs matplotlib")
    arguments = parser.parse_args(argv)
    warnings.filterwarnings("ignore", category=UserWarning)
    network = Network(arguments.latency, arguments.bandwidth)
    text = (
        f"Each part is {{device}} with {{cores}} cores; {network.latency * 1e6:g} us a message, "
        f"{network.bandwidth / 1e9:g} GB/s. *Work* is relative to one part that is alone"
    )
    strong, weakly, per_part = dict[str, list[Prediction]](), dict[str, list[Prediction]](), arguments.per_part
    for distribution in arguments.distribution:
        if arguments.kept:
            machine = Machine.kept(distribution, arguments.digits, read_kept()[0])
        else:
            machine = Machine.measured(distribution, arguments.digits, arguments.device)
        if distribution == arguments.distribution[0]:
            text = f"{text.format(device=machine.name, cores=machine.cores)}.\n\n"
            print(text, end="")
        tables = []
        if arguments.weak_parts:
            sizes = sorted({1, *arguments.weak_parts})
            weakly[distribution] = [weak(machine, distribution, per_part, parts, network) for parts in sizes]
            title = f"Weak scaling, {per_part:,} points a part, {distribution}, {machine.method}"
            tables.append(f"{title}:\n\n{table(weakly[distribution], per_part)}\n\n")
            print(tables[-1], end="", flush=True)
        for count in arguments.points if arguments.parts else []:
            fitting = machine.for_points(distribution, count)
            problem = fitting.problem(sorted_keys(distribution, count, machine.half_width))
            found = [predict(problem, parts, network) for parts in sorted({1, *arguments.parts})]
            strong[f"{distribution}, {count:,} points"] = found
            boxes = f"{problem.tree.nboxes:,} boxes"
            method = f"{distribution}, {fitting.method}"
            tables.append(f"Strong scaling, {count:,} points, {method}, {boxes}:\n\n{table(found)}\n\n")
            print(tables[-1], end="", flush=True)
        text += "".join(tables)
    if arguments.output:
        arguments.output.write_text(text.rstrip() + "\n")
    if arguments.plot:
        draw(strong, weakly, per_part, network, arguments.plot)


if __name__ == "__main__":
    main()
