"""Host-side tables of M2L: pairs of boxes and of octets, and the transformed Green's function of the FFT form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmmloopy.common.cores import map_on_cores
from fmmloopy.common.sizes import DIRECTIONS, SIBLINGS, TRANSFERS, grid_period
from fmmloopy.greens import GreensFunction
from fmmloopy.octree.lists import InteractionLists, entries_of
from fmmloopy.octree.tree import Tree
from fmmloopy.tables.surfaces import m2l_spectrum

OCTETS_PER_CHUNK = 256
"""Target octets per chunk: for one frequency, their sums and their neighbours' data fit in a level-2 cache."""


MOST_TARGETS, FEWEST_TARGETS, CHUNKS = 256, 64, 16
"""Target boxes handled together, where pairs are of boxes: as many as have their sums fit in a level-2 cache, but fewer
where there would be less than so many chunks, each of which is one core's; too few share too little."""

CHUNKS_TOGETHER = 32
"""Chunks whose pairs are grouped together: so few that groups have 16-bit numbers, which numpy sorts faster, and that
there is work for several cores."""


@dataclass(frozen=True)
class BoxPairs:
    """Pairs of boxes that interact, grouped by transfer vector.

    Attributes:
        starts: shape (nchunks * 343 + 1,), int32: pairs of chunk c with transfer vector v are starts[343 c + v] to
            starts[343 c + v + 1].
        targets, sources: shape (npairs,), int32: box numbers of each pair.
        nchunks: chunks of target boxes.
    """

    starts: NDArray[np.int32]
    targets: NDArray[np.int32]
    sources: NDArray[np.int32]
    nchunks: int


def find_box_pairs(lists: InteractionLists, boxes: NDArray[np.intp]) -> BoxPairs:
    """Group the entries of the V lists of some boxes.

    Args:
        lists: the lists of a tree.
        boxes: shape (nboxes,), target boxes, ascending.
    """
    size = min(max(len(boxes) // CHUNKS, FEWEST_TARGETS), MOST_TARGETS)
    nchunks = -(-len(boxes) // size)

    def group(start: int) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int64]]:
        """Return targets, sources and numbers of pairs by group for a few chunks."""
        here = boxes[start : start + size * CHUNKS_TOGETHER]
        entries, rows = entries_of(lists.v, here)
        order, starts = _group(rows // size * TRANSFERS + lists.v_transfers[entries], -(-len(here) // size) * TRANSFERS)
        return here.astype(np.int32)[rows[order]], lists.v.lists[entries[order]], np.diff(starts)

    pieces = map_on_cores(group, range(0, len(boxes), size * CHUNKS_TOGETHER))
    targets, sources, counts = (np.concatenate(each) for each in zip(*pieces, strict=True))
    return BoxPairs(np.append(0, np.cumsum(counts)).astype(np.int32), targets, sources, nchunks)


@dataclass(frozen=True)
class OctetPairs:
    """Pairs of octets (all children of one box) that interact, for boxes of some levels.

    Attributes:
        source_children: shape (nsource_octets, 8), int32: box number of each child, nboxes where there is none with
            sources.
        target_children: shape (ntarget_octets, 8), int32: the same for children with targets.
        starts: shape (nchunks * 26 + 1,), int32: pairs of chunk c in direction d are starts[26 c + d] to
            starts[26 c + d + 1].
        targets, sources: shape (npairs,), int32: octet numbers of each pair.
        nchunks: chunks of target octets.
    """

    source_children: NDArray[np.int32]
    target_children: NDArray[np.int32]
    starts: NDArray[np.int32]
    targets: NDArray[np.int32]
    sources: NDArray[np.int32]
    nchunks: int

    @property
    def npairs(self) -> int:
        """Number of pairs; each is 8 x 8 complex products a frequency."""
        return len(self.targets)


def find_octet_pairs(tree: Tree, lists: InteractionLists, levels: range) -> OctetPairs:
    """Find the pairs of octets whose children, on the given levels, are in each other's V lists.

    Args:
        tree: the tree.
        lists: its lists; the colleagues of parents are the directions.
        levels: levels of the children, consecutive.
    """
    first = tree.level_starts[max(levels.start - 1, 0)]
    last = tree.level_starts[max(levels.stop - 1, 0)]
    parents = np.arange(first, last, dtype=np.int32)
    source_children = _children(tree, tree.has_sources)
    target_children = _children(tree, tree.has_targets)
    is_source: NDArray[np.bool_] = np.any(source_children < tree.nboxes, axis=1, keepdims=False)
    is_target: NDArray[np.bool_] = np.any(target_children < tree.nboxes, axis=1, keepdims=False)

    candidates = parents[is_target[parents]]
    neighbours = np.delete(lists.colleagues[candidates], DIRECTIONS // 2, axis=1)
    interacting = (neighbours >= 0) & is_source[neighbours]
    targets = candidates[interacting.any(axis=1)]
    neighbours, interacting = neighbours[interacting.any(axis=1)], interacting[interacting.any(axis=1)]
    sources = np.unique(neighbours[interacting])

    row, direction = np.nonzero(interacting)
    source = np.searchsorted(sources, neighbours[row, direction])
    nchunks = -(-len(targets) // OCTETS_PER_CHUNK)
    order, starts = _group(row // OCTETS_PER_CHUNK * DIRECTIONS + direction, nchunks * DIRECTIONS)
    return OctetPairs(
        source_children=source_children[sources],
        target_children=target_children[targets],
        starts=starts,
        targets=row[order].astype(np.int32),
        sources=source[order].astype(np.int32),
        nchunks=nchunks,
    )


def _group(groups: NDArray[np.intp], ngroups: int) -> tuple[NDArray[np.intp], NDArray[np.int32]]:
    """Sort pairs by their group, those of one group as they came; numpy sorts 16-bit numbers faster.

    Returns:
        The order; and where each group starts in it, shape (ngroups + 1,).
    """
    order = np.argsort(groups.astype(np.uint16) if ngroups <= 2**16 else groups, kind="stable")
    return order, np.append(0, np.cumsum(np.bincount(groups, minlength=ngroups))).astype(np.int32)


def _children(tree: Tree, wanted: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Return the children that are wanted, nboxes elsewhere; shape (nboxes, 8)."""
    children = tree.box_children
    return np.where((children >= 0) & wanted[children], children, np.int32(tree.nboxes)).astype(np.int32)


def transfer_indices() -> NDArray[np.intp]:
    """Return the index of the transfer vector from child j of the neighbour in direction d to child i of a box.

    Returns:
        Shape (26, 8, 8), indexed by d, j, i; index k0 + 3 + 7 (k1 + 3) + 49 (k2 + 3), with k the vector from target to
        source in units of the children's width.
    """
    directions = np.delete(np.arange(27), DIRECTIONS // 2)
    towards = np.stack([directions % 3, directions // 3 % 3, directions // 9], axis=-1) - 1
    octants = np.arange(SIBLINGS)
    children = np.stack([octants & 1, octants >> 1 & 1, octants >> 2 & 1], axis=-1)
    k = 2 * towards[:, None, None] + children[None, :, None] - children[None, None, :]
    return np.asarray((k + 3) @ np.array([1, 7, 49]))


def hadamard_tables(
    kernel: GreensFunction, order: int, radius: float, inner: float, dtype: Any
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return real and imaginary part of the transformed Green's function, as m2l_hadamard reads it.

    Returns:
        Two arrays of shape (p * N * N, 26, target components, source components, 8, 8): frequency
        (kz N + ky) N + kx, direction, components, child of the source octet, child of the target octet.
    """
    spectrum = m2l_spectrum(kernel, order, radius, inner)
    transfers = transfer_indices()
    n, nz = spectrum.shape[-2:]
    shape = (nz, n * n, DIRECTIONS, *spectrum.shape[1:3], SIBLINGS, SIBLINGS)
    real, imaginary = np.empty(shape, dtype), np.empty(shape, dtype)
    for kz in range(nz):
        plane = spectrum[..., kz].transpose(4, 3, 0, 1, 2).reshape(n * n, *spectrum.shape[:3])
        values = plane[:, transfers].transpose(0, 1, 4, 5, 2, 3)
        real[kz], imaginary[kz] = values.real, values.imag
    return real.reshape(-1, *shape[2:]), imaginary.reshape(-1, *shape[2:])


def fourier_matrices(order: int, dtype: Any) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return real and imaginary part of exp(-2 pi i x k / N), shape (p, N), and the weights of planes kz, shape (p,).

    Weights are 1 / N^3 for kz = 0 and 2 / N^3 for the others, which stand for their conjugates too.
    """
    n = grid_period(order)
    phase = -2j * np.pi * (np.outer(np.arange(order), np.arange(n)) % n) / n
    weights = np.full(order, 2.0 / n**3)
    weights[0] /= 2
    wave = np.exp(phase)
    return wave.real.astype(dtype), wave.imag.astype(dtype), weights.astype(dtype)
