"""Predict the relative error of an evaluation from chains of translations on the levels of its tree.

The square of the error is a sum over the levels: pairs that meet there times the mean square of the chain's error. It
is relative to rather small potentials, so nine of ten sets of charges have smaller errors. What chains give is kept in
the cache, so it is measured once for a function, order, radius and precision. Radii are rounded for this to eighths of
a power of two; homogeneous functions are measured at radius 1.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from fmmloopy.common.store import keep, kept, keyed_file
from fmmloopy.greens import GreensFunction, Surfaces
from fmmloopy.octree.tree import SortedPoints
from fmmloopy.precision import DOUBLE, Precision
from fmmloopy.prediction.chain import NPOINTS, Squares, is_homogeneous, measure_chain, measure_pairs
from fmmloopy.prediction.pairs import Pairs, Placed, sample_pairs, share_without_sources
from fmmloopy.tables.cache import TABLE_FORMAT
from fmmloopy.tables.surfaces import FloatArray

FACTOR = 1.4
"""Errors of higher orders depend more on the places of points than those of the order at which places are compared, and
the few pairs that are compared may have none of the largest errors: docs/measurements/errors.csv."""

PLACED_ORDER, LAST_PLACED = 4, 11
"""At an order, errors of the pairs of each level are compared with those of pairs all over their boxes. They are larger
if points gather in corners of boxes, or if boxes meet their nearest neighbours more often, and more so at high orders,
above all of functions that decay, if targets have no sources nearby. For functions of one component it is the order
itself then, from the first to the last here; else it is the first, which takes little time."""

NIMPORTANT = 256
"""Pairs of a level that are compared at other orders than the first; at that, all are, and show which are important."""

STEPS = 8
"""Rounded radii per power of two."""

CHEAP_ORDER = 6
"""Up to this order all levels are measured, above it only those that matter at this order."""

MOST_LEVELS = 3
"""Levels that are measured at high orders: those with the largest errors."""

APART = 0.01
"""Targets are apart from the sources if more than this share of them has no sources nearby: enough for potentials to
depend on them, and more than a few points far away from all others."""

FEW_TARGETS = 20
"""Potentials of fewer targets that are no sources are small together more often than those that tables are from."""

SHARE = 0.9
"""These levels are fewer if they have this share of the square of the error."""


SHIPPED_FILE = Path(__file__).with_name("shipped_squares.json")
"""Chains of the homogeneous functions that ship, by key and order; `python -m benchmarks.squares` writes it."""

MADE_WITH = {"tables": TABLE_FORMAT, "points": NPOINTS}
"""What ships is ignored if it was measured with something else."""


class UnpredictableError(ValueError):
    """A Green's function is not finite where it is needed; the message says where."""


@dataclass(frozen=True, eq=False)
class Predictor:
    """Predicts errors for a Green's function and points.

    Attributes:
        kernel: the Green's function, without gradient.
        points: sorted sources and targets.
        ncrit: the most points in a leaf.
    """

    kernel: GreensFunction
    points: SortedPoints
    ncrit: int

    @cached_property
    def is_apart(self) -> bool:
        """Whether there are targets without sources nearby, in their leaf and those next to it."""
        return share_without_sources(self.points, self.ncrit) > APART

    @property
    def has_few_targets(self) -> bool:
        """Whether there are few targets, which are not the sources."""
        targets = self.points.targets
        return targets is not self.points.sources and len(targets.keys) < FEW_TARGETS

    @cached_property
    def _pairs(self) -> Pairs:
        return sample_pairs(self.points, self.ncrit)

    @cached_property
    def _sums(self) -> tuple[float, Mapping[int, float], float]:
        """The half width of the root, how many pairs meet on each level, and the sum of the squares of G over all."""
        size = self._pairs.size(self.kernel)
        if not math.isfinite(size):
            raise UnpredictableError(f"{self.kernel.name} is not finite, or overflows, between some of the points")
        return self._pairs.half_width, self._pairs.far, size

    @cached_property
    def spread(self) -> float:
        """How much smaller the potentials of some charges are than on average: all but a tenth of them are larger."""
        return self._pairs.spread(self.kernel)

    @cached_property
    def _by_place(self) -> dict[tuple[float, int], dict[int, float]]:
        """What `_weights` has found before."""
        return {}

    def _weight(self, level: int, order: int) -> float:
        """Return the mean square of the errors of the pairs of a level, over that of pairs all over their boxes.

        A level with few pairs in the sample is taken for like the next coarser one.
        """
        coarser = [each for each in self._pairs.placed if each <= level]
        if not coarser:
            return 1.0
        place = self._radius(coarser[-1]), placed_order(self.kernel, order) if self.is_apart else PLACED_ORDER
        if place not in self._by_place:
            self._by_place[place] = self._weights(*place)
        return self._by_place[place].get(coarser[-1], 1.0)

    def _weights(self, radius: float, order: int) -> dict[int, float]:
        """Return the weight of each level that has pairs and boxes of a radius, rounded."""
        everywhere = known_squares(self.kernel, order, radius, DOUBLE).error
        if not 0 < everywhere < math.inf:
            return {}
        placed = self._placed_in(radius)
        if order != PLACED_ORDER:
            first = self._first_squares(radius)
            placed = {level: placed[level].important(first[level], NIMPORTANT) for level in placed}
        return {
            level: float(placed[level].shares @ squares) / everywhere
            for level, squares in self._squares_by_place(placed, radius, order).items()
        }

    def _placed_in(self, radius: float) -> dict[int, Placed]:
        """Return the pairs of the levels that have boxes of a radius, rounded."""
        return {level: placed for level, placed in self._pairs.placed.items() if self._radius(level) == radius}

    def _first_squares(self, radius: float) -> dict[int, FloatArray]:
        """Return the squares of the errors of all pairs of these levels, at the order that takes little time."""
        if radius not in self._squares:
            self._squares[radius] = self._squares_by_place(self._placed_in(radius), radius, PLACED_ORDER)
        return self._squares[radius]

    @cached_property
    def _squares(self) -> dict[float, dict[int, FloatArray]]:
        """What `_first_squares` has found before."""
        return {}

    def _squares_by_place(self, placed: Mapping[int, Placed], radius: float, order: int) -> dict[int, FloatArray]:
        """Return the square of the error of each pair, by level; none if the function is not finite there."""
        targets, sources = (
            np.concatenate([getattr(each, side) for each in placed.values()], axis=1) for side in ("targets", "sources")
        )
        vectors = np.concatenate([each.vectors for each in placed.values()])
        try:
            squares = measure_pairs(self.kernel, order, radius, DOUBLE, targets, sources, vectors)
        except (ValueError, np.linalg.LinAlgError):  # not finite between surfaces, which the chains show too
            squares = np.full(len(vectors), np.inf)
        ends = np.cumsum([len(each) for each in placed.values()])
        return dict(zip(placed, np.split(squares, ends[:-1]), strict=True))

    def _radius(self, level: int) -> float:
        """Return the half width of the boxes of a level, rounded; 1 for homogeneous functions, whatever the level."""
        if is_homogeneous(self.kernel):
            return 1.0
        return float(2.0 ** (round(STEPS * math.log2(self._sums[0] / 2.0**level)) / STEPS))

    def error(self, order: int, precision: Precision) -> float:
        """Return the relative error in the 2-norm, without rounding in sums over points.

        Args:
            order: points per edge of the surfaces.
            precision: which numbers are float32.

        Raises:
            UnpredictableError: the Green's function is not finite between points or surfaces.
        """
        levels = list(self._sums[1])
        if order > CHEAP_ORDER and not is_homogeneous(self.kernel) and len(levels) > 1:
            parts = self._parts(levels, CHEAP_ORDER, precision)
            levels = _largest(parts)
        return self._relative(sum(self._parts(levels, order, precision).values()))

    def worst_radius(self, order: int, precision: Precision) -> float | None:
        """Return the half width of the boxes with the largest part of the error; None if no pair is far."""
        half_width, far, _ = self._sums
        parts = self._parts(list(far), min(order, CHEAP_ORDER), precision)
        return half_width / 2.0 ** max(parts, key=lambda level: parts[level]) if parts else None

    def _relative(self, square: float) -> float:
        if square == 0:
            return 0.0
        size = self._sums[2]
        return FACTOR * self.spread * math.sqrt(square / size) if size > 0 else math.inf

    def _parts(self, levels: list[int], order: int, precision: Precision) -> dict[int, float]:
        """Return the sum of the squares of the errors of all pairs that meet on each level."""
        return {level: self._sums[1][level] * self._square(level, order, precision) for level in levels}

    def _square(self, level: int, order: int, precision: Precision) -> float:
        radius = self._sums[0] / 2.0**level
        homogeneity = self.kernel.homogeneity if is_homogeneous(self.kernel) else None
        squares = known_squares(self.kernel, order, self._radius(level), precision)
        if not math.isfinite(squares.error):
            raise UnpredictableError(
                f"{self.kernel.name} is not finite, or overflows, at distances of about {radius:.3g}, the radius of "
                "a box"
            )
        if squares.error == 0:
            return 0.0
        scale = radius ** (2 * homogeneity) if homogeneity is not None else 1.0
        return squares.error * scale * self._weight(level, order)


def placed_order(kernel: GreensFunction, order: int) -> int:
    """Return the order at which places are compared, for errors at an order.

    The last is an odd one or the even one before it, as the order is: places matter more at odd orders.
    """
    between = kernel.translations
    if order < PLACED_ORDER or max(between.ntarget_components, between.nsource_components) > 1:
        return PLACED_ORDER
    return order if order <= LAST_PLACED else LAST_PLACED - (order - LAST_PLACED) % 2


def of_dipoles(kernel: GreensFunction) -> GreensFunction:
    """Return the function from the moments of dipoles to potentials, with the densities of the kernel on surfaces."""

    def moments(function: GreensFunction) -> GreensFunction:
        degree = None if function.homogeneity is None else function.homogeneity - 1
        return replace(function.with_dipoles(charges=False), homogeneity=degree)

    sources, targets = kernel.between(False, True), kernel.between(True, False)
    return replace(moments(kernel), surfaces=Surfaces(kernel.translations, moments(sources), targets))


def _largest(parts: dict[int, float]) -> list[int]:
    """Return the levels that have most of the square of the error."""
    ordered = sorted(parts, key=lambda level: -parts[level])
    whole, cumulated = sum(parts.values()), np.cumsum([parts[level] for level in ordered])
    return ordered[: min(MOST_LEVELS, 1 + int(np.searchsorted(cumulated, SHARE * whole)))]


def known_squares(kernel: GreensFunction, order: int, radius: float, precision: Precision) -> Squares:
    """Return the result of `measure_chain`: as it ships, or else from the cache if it was measured before.

    Raises:
        UnpredictableError: the Green's function is not finite between the surfaces.
    """
    unit = with_unit_scaling(kernel)
    if (found := shipped_squares(unit, order, radius, precision)) is None:
        found = _kept_squares(unit, order, radius, precision)
    scale = 1.0 if unit is kernel else kernel.scaling**2
    return Squares(scale * found.error, scale * found.size)


def with_unit_scaling(kernel: GreensFunction) -> GreensFunction:
    """Return a function with a scaling of 1, whose squares are proportional; itself if its parts differ in scaling."""
    parts = [kernel.between(a, b) for a in (False, True) for b in (False, True)]
    if not 1e-100 < abs(kernel.scaling) < 1e100 or any(part.scaling != kernel.scaling for part in parts):
        return kernel  # squares of such scalings overflow, or there is no common one
    _, sources, targets, translations = (replace(part, scaling=1.0) for part in parts)
    surfaces = None if kernel.surfaces is None else Surfaces(translations, sources, targets)
    return replace(kernel, scaling=1.0, surfaces=surfaces)


@cache
def _read_shipped() -> Mapping[str, Any]:
    content = json.loads(SHIPPED_FILE.read_text()) if SHIPPED_FILE.exists() else {}
    return content["functions"] if content.get("made_with") == MADE_WITH else {}


def shipped_squares(kernel: GreensFunction, order: int, radius: float, precision: Precision) -> Squares | None:
    """Return what ships for a function with a scaling of 1; None if nothing does."""
    if radius != 1 or precision.expansions != DOUBLE.expansions or precision.spectra != DOUBLE.spectra:
        return None
    found = _read_shipped().get(repr(kernel.key), {}).get(str(order))
    return None if found is None else Squares(*found)


def _kept_squares(kernel: GreensFunction, order: int, radius: float, precision: Precision) -> Squares:
    try:
        package = version("fmmloopy")
    except PackageNotFoundError:
        package = "not installed"
    # Points of reduced and single precision differ, but chains do not round points.
    types = [str(precision.expansions), str(precision.spectra)]
    key = json.dumps([repr(kernel.key), order, radius, types, package, TABLE_FORMAT, NPOINTS])
    path = keyed_file("errors", key, f"{kernel.name[:30]}-{order}-")
    content = kept(path, key)
    if isinstance(content, list):
        return Squares(*(math.inf if value is None else float(value) for value in content))
    try:
        squares = measure_chain(kernel, order, radius, precision)
    except (ValueError, np.linalg.LinAlgError):  # not finite between surfaces
        squares = Squares(math.inf, math.inf)
    keep(path, key, [value if math.isfinite(value) else None for value in (squares.error, squares.size)])
    return squares
