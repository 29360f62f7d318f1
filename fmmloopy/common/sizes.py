"""Numbers that the method fixes, each in one place: sizes of surfaces and grids, neighbours, tiles and padding."""

from __future__ import annotations

FIRST_ORDER, LAST_ORDER = 2, 16
"""The orders that surfaces may have: one point an edge makes no surface, and above 16 rounding ends all gain."""

SIBLINGS = 8
"""Children of a box."""

DIRECTIONS = 26
"""Neighbours of a box."""

TRANSFERS = 343
"""Transfer vectors: from a box to the children of its parent's neighbours, -3 to 3 along each axis. Those of adjacent
boxes are among them and have no pairs."""

RANKS = 8
"""Singular values of M2L's compressed form come in tiles of this size: ranks are rounded up to fill one."""

ROWS = 16
"""Vectors on a surface are padded to a multiple of this: the most lanes of rows that a recipe may use."""

LANES = 64
"""The most lanes that a recipe may give to a tile of points, boxes or pairs. Idle lanes read past the end of what they
work on, so arrays of points and lists of boxes or pairs are padded by this many entries."""

PADDING = 4 * LANES
"""Numbers after the end of every array on a device, which idle lanes may read."""

MOST_INDEX = 2**31 - 1 - PADDING
"""Generated code has indices of 32 bits, so an array and its padding are fewer than 2^31 numbers. Whole numbers that
are arguments of a kernel, or entries of arrays of indices, are at most this, and at least 0."""


def count_points(order: int) -> int:
    """Return the number of points of a surface of order p: 6 (p - 1)^2 + 2."""
    return 6 * (order - 1) ** 2 + 2


def padded(count: int) -> int:
    """Return the length of a row of numbers that is padded to a multiple of ROWS."""
    return -(-count // ROWS) * ROWS


def grid_period(order: int) -> int:
    """Return N, the least period with which M2L's convolution is exact for surfaces of order p: 2p - 1."""
    return 2 * order - 1


def count_frequencies(order: int) -> int:
    """Return how many frequencies M2L keeps: p planes of N x N, since data are real."""
    return order * grid_period(order) ** 2
