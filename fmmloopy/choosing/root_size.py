"""Choose how much wider than the points the root cube is.

Leaves of the same level have the same width, and the next level has half of it. Where points are spread evenly, that
leaves a factor of eight between the numbers of points in the leaves of two trees, and the best number may lie in
between. In a root cube that is wider than the points, leaves of any width fit: if it is 1.6 times as wide, points in a
cube fill 20 of 32 boxes of a level along each axis.
"""

from __future__ import annotations

import math
import numbers
from dataclasses import replace

import numpy as np

from fmmloopy.choosing.cost_model import Candidate
from fmmloopy.choosing.decision import Decision
from fmmloopy.greens import GreensFunction
from fmmloopy.octree.tree import FIRST_LEVEL, Tree
from fmmloopy.operators import OPERATORS

FEWEST_POINTS = 50_000
"""Smaller problems are not worth another sort."""

LEAST_GAIN = 0.07
"""The predicted share of an evaluation below which nothing is tried: another sort and choice take about as long as a
third of an evaluation for 3 to 6 digits."""

EVEN = 0.8
"""The share of points that must be in leaves of one level."""

MARGIN = 1.01
"""What the root is wider than whole boxes: its centre and half width are rounded, and a layer of boxes with few points
would be added where points reach into it."""


def width_to_try(tree: Tree, candidate: Candidate, kernel: GreensFunction) -> float:
    """Return how many times as wide as the points the root should be; 1 if another width gains too little.

    With m boxes along an axis instead of the present number, near pairs take (m0 / m)^d of their time, and operators on
    boxes (m / m0)^d, where d is the dimension of what the points fill. Operators on the points of leaves do not change.

    Args:
        tree: the tree in a root that is as wide as the points.
        candidate: its predicted times.
        kernel: the Green's function. Only tables of homogeneous ones serve boxes of any width.
    """
    is_any_width = kernel.translations.homogeneity is not None and kernel.max_box_width is None
    if max(tree.nsources, tree.ntargets) < FEWEST_POINTS or not is_any_width:
        return 1.0
    level, dimension = _leaf_level(tree)
    if level <= FIRST_LEVEL:
        return 1.0
    near = sum(seconds for name, seconds in candidate.seconds.items() if OPERATORS[name].is_near)
    boxes = sum(seconds for name, seconds in candidate.seconds.items() if OPERATORS[name].particles is None)
    others, now = candidate.total - near - boxes, 2**level
    counts = np.arange(now // 2 + 2, 2 * now, 2)
    ratios = (counts / now) ** dimension
    predicted = near / ratios + boxes * ratios + others
    best = int(np.argmin(predicted))
    if predicted[best] > (1 - LEAST_GAIN) * candidate.total or counts[best] == now:
        return 1.0
    return float(MARGIN * 2.0 ** math.ceil(math.log2(counts[best])) / counts[best])


def _leaf_level(tree: Tree) -> tuple[int, float]:
    """Return the level of most leaves and the dimension of what points fill; (0, 0) if leaves are on many levels."""
    npoints = tree.box_target_ends - tree.box_target_starts
    on_level = np.bincount(tree.box_levels, np.where(tree.is_leaf, npoints, 0))
    level = int(np.argmax(on_level))
    if on_level[level] < EVEN * on_level.sum():
        return 0, 0.0
    occupied = np.bincount(tree.box_levels[npoints > 0], minlength=level + 1)
    return level, math.log2(max(occupied[level] / max(occupied[level - 1], 1), 1.0)) if level else 0.0


def faster_in_wider_root(present: Decision, other: Decision, width: float) -> Decision | None:
    """Return the decision for a wider root if it is predicted to be faster than the present one, else None."""
    before, after = present.choice.best.total, other.choice.best.total if other.choice.candidates else math.inf
    if after >= before:
        return None
    reason = f"{other.choice.reason}; in a root as wide as the points, {before / after:.2f} times as long as in one "
    reason += f"{width:.2f} times as wide"
    return replace(other, choice=replace(other.choice, reason=reason))


def check_width(width: float) -> float:
    """Return a given width.

    Raises:
        ValueError: it is not a number from 1 to 2.
    """
    if not isinstance(width, numbers.Real) or isinstance(width, bool) or not 1 <= float(width) <= 2:
        raise ValueError(f"root_width is {width!r}, expected a number from 1 to 2")
    return float(width)
