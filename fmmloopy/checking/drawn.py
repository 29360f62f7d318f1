"""Inputs that are drawn at random from the record of an operator, within what it allows.

Boxes have other sources than targets, in another order, with gaps between them; some boxes are not worked on; lists,
pairs, tables and orders vary. One input is large in numbers and sparse in work: boxes, list places, pairs and places
of groups go beyond 2^16, tiles of singular values beyond 2^15; one box has more than 1,024 points, and lists have
hundreds of entries. At level full, octets and chunks go beyond 2^16 too.

Inputs depend on a seed alone, so that every check of a kernel sees the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from fmmloopy.checking.case import POLYNOMIAL, POLYNOMIAL_1X6, Layout
from fmmloopy.checking.cases import shape_of
from fmmloopy.checking.over import domain_of
from fmmloopy.greens import GreensFunction
from fmmloopy.operators import Form, Operator, Specification
from fmmloopy.operators.operator import Boxes, Families, Kind, Lists, Octets, Pairs
from fmmloopy.precision import Types

BEYOND = 2**16 + 2**11
"""More than any number in 16 bits."""

MOST_BYTES, MOST_BYTES_OF_LONG_VECTORS = 32 * 2**20, 72 * 2**20
"""Size of the arrays of a case; orders are lowered until they fit. M2L has a matrix for each of 343 transfer vectors,
and more than 320 columns from order 4 on."""

LONG_LIST = 320
"""Entries of the longest lists of particle operators; V lists have 189 at most."""

ORDERS = (9, 5, 4, 7, 8, 6, 2)
"""Orders beside 3, the most different ones first: above 8, odd, even."""

Drawn = tuple[Specification, Layout]


def drawn(
    operator: Operator, types: Types, functions: Sequence[GreensFunction], lanes: Mapping[str, int], full: bool
) -> Iterator[Drawn]:
    """Yield specifications and layouts: the large ones, and random ones at several orders.

    Args:
        operator, types: whose.
        functions: Green's functions to choose from.
        lanes: numbers of lanes that a recipe has fixed, around which sizes are drawn.
        full: whether to draw more.
    """
    rng = np.random.default_rng(len(operator.name))
    for layout in large(operator, full):
        yield Specification(operator, POLYNOMIAL, 2, types), layout
    if operator.form == Form.DENSE:
        layout = Layout("long vectors", blocks=4, lists=(3, 0, 1), tables=(1, 0))
        spec = Specification(operator, POLYNOMIAL_1X6, 9, types)
        yield fitting(spec, layout, MOST_BYTES_OF_LONG_VECTORS), layout
    if operator.form != Form.TRANSFORM:
        most = len(ORDERS) if full else 6 if operator.particles else 3
        for order in ORDERS[:most] * (4 if full else 1):
            greens = functions[int(rng.integers(len(functions)))]
            layout = random_layout(operator, rng, lanes)
            yield fitting(Specification(operator, greens, order, types), layout), layout


def large(operator: Operator, full: bool = False) -> Iterator[Layout]:
    """Yield layouts that are large in numbers; at level full, with more octets and chunks."""
    name, over = "numbers beyond 16 bits", operator.over
    if operator.particles:
        yield large_points(operator)
    elif isinstance(over, Lists):
        lists = (189, 0, 3, 1, 120)
        yield Layout(name, blocks=400, boxes=BEYOND, lists=lists, idle=BEYOND, tables=(4, 2), skipped=9)
    elif isinstance(over, (Boxes, Families)):
        yield Layout(name, blocks=1500, boxes=BEYOND, tables=(4, 2))
    elif isinstance(over, Octets):
        yield Layout(name, blocks=BEYOND if full else BEYOND // 8, boxes=BEYOND)
    elif isinstance(over, Pairs):
        # Both of the first counts are those of one or two groups, and together beyond 16 bits.
        pairs = (22_000, 22_000, 0, 1, 40, 0, 3, 17, 0, 5, 2, 1, 0, 14, *([0] * 20))
        frequencies, idle = (300, 290, 292), 2**15 + 2**10
        chunks = BEYOND if full else -(-BEYOND // over.groups)
        yield Layout(name, pairs=pairs, boxes=2 * BEYOND, chunks=chunks, tiles=12, idle=idle, frequencies=frequencies)


def large_points(operator: Operator) -> Layout:
    """Return a layout of few boxes with points among very many, one of them with more than 1,024."""
    rng = np.random.default_rng(7)
    sources = [1300, 0, 530, 40, 0, 7, *rng.integers(1, 3, LONG_LIST)]
    targets = [3, 1290, 0, 600, 17, 0, *rng.integers(0, 3, LONG_LIST)]
    lists = (LONG_LIST + 6, 2, 0, 40, 5, 1, *([1] * 11), 150, *([0, 1, 2] * 20))
    return Layout(
        "numbers beyond 16 bits",
        sizes=tuple(map(int, sources)),
        target_sizes=tuple(map(int, targets)),
        lists=lists,
        boxes=BEYOND,
        ahead=BEYOND,
        idle=BEYOND,
        skipped=40,
    )


def random_layout(operator: Operator, rng: np.random.Generator, lanes: Mapping[str, int]) -> Layout:
    """Draw a layout of a few boxes, octets or pairs."""
    name, over = "drawn at random", operator.over
    ntables = int(rng.integers(3, 6))
    tables = (ntables, int(rng.integers(ntables)))
    if operator.particles:
        count = int(rng.integers(3, 14))
        widths = [1, *(lanes.get(name, 1) for name in ("tlanes", "slanes"))]
        near = sorted({0, 1, 2, *(k * width + more for width in widths for k in (1, 2, 3) for more in (-1, 0, 1))})
        sizes, targets = (tuple(map(int, rng.choice(near, count))) for _ in range(2))
        lists = tuple(map(int, rng.integers(0, min(count, 5) + 1, count)))
        skipped = int(rng.integers(count // 2 + 1))
        ahead = int(rng.integers(9))
        return Layout(name, sizes, lists, target_sizes=targets, boxes=3 * count, skipped=skipped, ahead=ahead, idle=3)
    blocks, boxes = int(rng.integers(1, 40)), int(rng.integers(60, 400))
    if isinstance(over, Pairs):
        width = lanes.get("blanes", 1)
        pairs = tuple(map(int, rng.choice([0, 0, 1, width - 1, width, width + 1, 2 * width + 1], 13)))
        return Layout(name, pairs=pairs, boxes=boxes, chunks=int(rng.integers(1, 9)), tiles=int(rng.integers(1, 7)))
    lists = tuple(map(int, rng.integers(0, 6, 5)))
    present = float(rng.random())
    return Layout(name, lists=lists, blocks=blocks, boxes=boxes, present=present, tables=tables, idle=2, skipped=3)


def fitting(spec: Specification, layout: Layout, most: int = MOST_BYTES) -> Specification:
    """Return a specification at the highest order, up to its own, whose arrays take no more than ``most`` bytes."""
    for order in range(spec.order, 2, -1):
        lower = Specification(spec.operator, spec.greens, order, spec.types)
        if size_of(lower, layout) <= most:
            return lower
    return Specification(spec.operator, spec.greens, 2, spec.types)


def size_of(spec: Specification, layout: Layout) -> int:
    """Return the bytes of the arrays of a case."""
    arguments = domain_of(spec.operator).indices(spec, np.random.default_rng(0), layout)
    return sum(
        math.prod(shape_of(spec, array, arguments)) * spec.dtype_of(array.kind).itemsize
        for array in spec.operator.arrays_for(spec.types)
        if array.kind != Kind.INDEX
    )
