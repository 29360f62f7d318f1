"""Cases of the dense products: M2M, L2L, M2L and check -> equivalent."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmmloopy.checking.case import PADDING, Case, Layout, nsurface_of, ragged_lists, whole
from fmmloopy.greens import GreensFunction


def _family(rng: np.random.Generator, nparents: int, share: float) -> tuple[int, NDArray[np.int32], NDArray[np.int32]]:
    """Return how many boxes there are, the children of each (some missing), and which boxes are parents, padded."""
    present = rng.random((nparents, 8)) < share
    nboxes = nparents + int(present.sum())
    children = np.full((nboxes + 1, 8), nboxes, np.int32)
    numbers = np.full((nparents, 8), nboxes, np.int32)
    numbers[present] = nparents + rng.permutation(nboxes - nparents)
    children[:nparents] = numbers
    parents = np.concatenate([rng.permutation(nparents)[:-1], np.full(PADDING, nboxes)])
    return nboxes, children, parents.astype(np.int32)


def _vectors(rng: np.random.Generator, nboxes: int, width: int, dtype: Any) -> NDArray[Any]:
    """Return a whole-numbered vector for every box, zeros for the box that stands for missing ones."""
    vectors = whole(rng, (nboxes + 1, width), 5, dtype)
    vectors[nboxes] = 0
    return vectors


def translation_case(
    operator: str, greens: GreensFunction, order: int, dtype: Any, rng: np.random.Generator, layout: Layout
) -> Case:
    """Matrices and vectors in -5 .. 5: sums of 8 * 64 products of at most 25."""
    count = layout.blocks or 20
    nboxes, children, parents = _family(rng, count + 1, layout.present)
    width = greens.nsource_components * nsurface_of(order)
    vectors = _vectors(rng, nboxes, width, dtype)
    arguments = {
        "table": whole(rng, (2, 8, width, width), 5, dtype),
        "itable": 1,
        "ntables": 2,
        "multipoles" if operator == "m2m" else "locals": vectors,
        "result": vectors,
        "children": children,
        "parents": parents,
        "nparents": count,
        "nboxes": nboxes,
        "ncolumns": width,
    }
    return Case(operator, greens, order, dtype, arguments, ("result",), (count, width))


def check_to_equivalent_case(
    operator: str, greens: GreensFunction, order: int, dtype: Any, rng: np.random.Generator, layout: Layout
) -> Case:
    nboxes = (layout.blocks or 19) + 4
    rows, columns = greens.nsource_components * nsurface_of(order), greens.ntarget_components * nsurface_of(order)
    boxes = np.concatenate([rng.permutation(nboxes)[: nboxes - 4], np.full(PADDING, nboxes)]).astype(np.int32)
    arguments = {
        "table": whole(rng, (2, columns, rows), 5, dtype),
        "itable": 1,
        "ntables": 2,
        "check": _vectors(rng, nboxes, columns, dtype),
        "equivalent": np.full((nboxes + 1, rows), layout.poison, dtype),
        "scales": rng.integers(1, 4, nboxes + 1).astype(dtype),
        "boxes": boxes,
        "ntargets": nboxes - 4,
        "nboxes": nboxes,
        "ncolumns": columns,
    }
    return Case(operator, greens, order, dtype, arguments, ("equivalent",), (nboxes - 4, rows))


def dense_m2l_case(
    operator: str, greens: GreensFunction, order: int, dtype: Any, rng: np.random.Generator, layout: Layout
) -> Case:
    nboxes = (layout.blocks or 18) + 1
    rows, columns = greens.ntarget_components * nsurface_of(order), greens.nsource_components * nsurface_of(order)
    starts, lists = ragged_lists(rng, nboxes, layout.lists)
    arguments = {
        "table": whole(rng, (2, 343, columns, rows), 5, dtype),
        "itable": 1,
        "ntables": 2,
        "multipoles": _vectors(rng, nboxes, columns, dtype),
        "result": whole(rng, (nboxes + 1, rows), 9, dtype),
        "scales": rng.integers(1, 4, nboxes + 1).astype(dtype),
        "target_boxes": rng.permutation(nboxes)[:-1].astype(np.int32),
        "list_starts": starts,
        "lists": lists,
        "transfers": rng.integers(0, 343, len(lists)).astype(np.int32),
        "ntargets": nboxes - 1,
        "nboxes": nboxes,
        "ncolumns": columns,
    }
    return Case(operator, greens, order, dtype, arguments, ("result",), (nboxes - 1, rows))


def compressed_m2l_case(
    operator: str, greens: GreensFunction, order: int, dtype: Any, rng: np.random.Generator, layout: Layout
) -> Case:
    """Two chunks of target boxes; 26 of the transfer vectors have pairs, and up to three tiles of singular values.

    Factors in -2 .. 2, vectors in -1 .. 1: at order 6, sums of 320 products of 2, times sums of 24 products of 2, times
    26 and scales of 3.
    """
    rows, columns = greens.ntarget_components * nsurface_of(order), greens.nsource_components * nsurface_of(order)
    ntransfers, nchunks, size = 343, 2, max(10, *layout.pairs)
    nboxes = nchunks * size + 3
    ntiles = rng.permutation(np.arange(ntransfers) % 4 // 2 * rng.integers(1, 4, ntransfers))
    worked_on = np.append(rng.permutation(ntransfers - 1)[:25], ntransfers - 1)
    ntiles[worked_on] = np.arange(26) % 4
    starts = np.cumsum([0, *ntiles]).astype(np.int32)
    boxes = rng.permutation(nboxes)
    targets, sources, counts = [], [], np.zeros((nchunks, ntransfers), np.int32)
    for chunk in range(nchunks):
        counts[chunk, worked_on] = [layout.pairs[(place + chunk) % len(layout.pairs)] for place in range(26)]
        for count in counts[chunk]:
            targets.append(boxes[size * chunk + rng.permutation(size)[:count]])
            sources.append(rng.integers(0, nboxes, count))
    vectors = whole(rng, (nboxes + 1, columns), 1, dtype)
    vectors[nboxes] = 0
    arguments = {
        "right": whole(rng, (starts[-1], columns, 8), 2, dtype),
        "left": whole(rng, (starts[-1], 8, rows), 2, dtype),
        "ktile_starts": starts,
        "nktiles": int(starts[-1]),
        "multipoles": vectors,
        "result": whole(rng, (nboxes + 1, rows), 9, dtype),
        "scales": rng.integers(1, 4, nboxes + 1).astype(dtype),
        "pair_starts": np.append(0, np.cumsum(counts)).astype(np.int32),
        "pair_targets": np.concatenate([*targets, np.zeros(PADDING)]).astype(np.int32),
        "pair_sources": np.concatenate([*sources, np.zeros(PADDING)]).astype(np.int32),
        "nchunks": nchunks,
        "nboxes": nboxes,
        "ncolumns": columns,
    }
    return Case(operator, greens, order, dtype, arguments, ("result",), (nboxes, rows))
