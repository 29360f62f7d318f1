"""Check the arguments of public functions early, with messages in the caller's terms."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fmmloopy.common.arguments import finite_numbers, real_numbers
from fmmloopy.greens import GreensFunction, laplace
from fmmloopy.octree.tree import FIRST_LEVEL, OneSide, Tree
from fmmloopy.precision import PRECISIONS
from fmmloopy.recipes.book import RecipeBook

HALF_WIDTHS = {"float32": (1e-6, 1e9), "float64": (1e-90, 1e90)}
"""The smallest and largest half width of a tree, by dtype."""

SCALINGS = {"float32": (1e-15, 1e15), "float64": (1e-150, 1e150)}
"""The smallest and largest constant factor of a Green's function, by dtype. The factor is part of the translation
tables, multiplied by powers of the distances that HALF_WIDTHS allows: 1 / r is up to 2e12 in float32, for boxes 21
levels below the smallest root. The bounds leave room for sums of a million such entries."""


def check_dtype(dtype: DTypeLike | None, points: ArrayLike) -> np.dtype[Any]:
    """Return the dtype that was given; for None, float32 if the points have it, else float64."""
    if dtype is None:
        return np.dtype(np.float32 if getattr(points, "dtype", None) == np.float32 else np.float64)
    try:
        given = np.dtype(dtype)
    except TypeError:
        raise ValueError(f"dtype is {dtype!r}, expected numpy.float32 or numpy.float64") from None
    if given not in (np.float32, np.float64):
        raise ValueError(f"dtype is {given}, expected numpy.float32 or numpy.float64")
    return given


def check_points(points: ArrayLike, name: str, fewest: int = 1) -> NDArray[Any]:
    """Return points of shape (n, 3) in float64; the tree rounds them, relative to its centre.

    Raises:
        ValueError: the shape is wrong, there are fewer points, or values are not finite real numbers.
    """
    array = real_numbers(points, name, may_be_parts=False)
    if array.ndim != 2 or array.shape[1] != 3:
        hint = f"; transpose it: {name}.T" if array.ndim == 2 and array.shape[0] == 3 else ""
        raise ValueError(f"{name} has shape {array.shape}, expected (n, 3): one row per point{hint}")
    if len(array) < fewest:
        raise ValueError(f"{name} has shape (0, 3), expected at least one point")
    return finite_numbers(array, name, np.dtype(np.float64))


def check_kernel(kernel: Any) -> GreensFunction:
    """Return a Green's function; Laplace's for None."""
    if kernel is None:
        return laplace()
    if not isinstance(kernel, GreensFunction):
        raise ValueError(f"kernel is {kernel!r}, expected a GreensFunction, such as fmmloopy.laplace()")
    return kernel


def fits(half_width: float, kernel: GreensFunction, dtype: np.dtype[Any]) -> bool:
    """Return whether tables, and powers of distances in a tree of this half width, are in the range of the dtype."""
    return _within(half_width, HALF_WIDTHS, dtype) and _within(abs(kernel.scaling), SCALINGS, dtype)


def _within(value: float, bounds: Mapping[str, tuple[float, float]], dtype: np.dtype[Any]) -> bool:
    least, most = bounds[dtype.name]
    return least <= value <= most


def check_scaling(kernel: GreensFunction, dtype: np.dtype[Any]) -> None:
    """Make sure that tables with the constant factor of a function are within the dtype's range; a factor of 0 is fine.

    Raises:
        ValueError: the factor is too large or too small.
    """
    if kernel.scaling and not _within(abs(kernel.scaling), SCALINGS, dtype):
        least, most = SCALINGS[dtype.name]
        raise ValueError(
            f"{kernel.name}: scaling is {kernel.scaling:g}, expected from {least:g} to {most:g} in {dtype}; put the "
            f"factor into the charges{_WIDER if dtype == np.float32 else ''}"
        )


_WIDER = " or use precision='double' with dtype=numpy.float64"


def check_extent(half_width: float, dtype: np.dtype[Any]) -> None:
    """Make sure that squares and inverse cubes of distances are within the range of the dtype.

    Raises:
        ValueError: the root of the tree is too large or too small.
    """
    if not _within(half_width, HALF_WIDTHS, dtype):
        least, most = HALF_WIDTHS[dtype.name]
        remedy = f"scale the points{_WIDER if dtype == np.float32 else ''}"
        raise ValueError(
            f"the extent of the points is {2 * half_width:.3g}, expected {2 * least:g} to {2 * most:g} in {dtype}: "
            f"outside, powers of distances overflow or underflow; {remedy}"
        )


ROUNDED, SAMPLED = 3e-5, 10000
"""Relative change of distances between neighbours above which rounding them costs digits, and how many are compared. In
single precision, whose errors are 4e-6 without it, changes of 1e-4 were seen to leave errors of 3e-5."""


def rounding_change(points: NDArray[Any], side: OneSide) -> float | None:
    """Return by how much float32 changes the distances of neighbours, relative to them, in the median.

    Args:
        points: shape (n, 3), the sources in float64.
        side: the same points, sorted and rounded relative to the origin.

    Returns:
        None for points in float64, and if there are no two points in different places.
    """
    if side.points.dtype != np.float32 or len(points) < 2:
        return None
    first = np.unique(np.linspace(0, len(points) - 2, SAMPLED).astype(np.int64))
    exact = points[side.order[first + 1]] - points[side.order[first]]
    kept = (side.points[:, first + 1].astype(np.float64) - side.points[:, first]).T
    distances = np.linalg.norm(exact, axis=1)
    apart = distances > 0
    if not apart.any():
        return None
    return float(np.median(np.linalg.norm(kept - exact, axis=1)[apart] / distances[apart]))


def warn_if_rounded(change: float | None, half_width: float) -> None:
    """Warn if float32 is too coarse for the distances of neighbours, such as beside a point far away.

    Args:
        change: of these distances, see `rounding_change`.
        half_width: of the root.
    """
    if change is not None and change > ROUNDED:
        warnings.warn(
            f"float32 is too coarse for these points: their extent is {2 * half_width:.1g}, and rounding "
            f"changes distances between neighbours by {min(change, 1.0):.0e} of their size, so potentials have fewer "
            "digits than expected; use dtype=numpy.float64, or leave out points far from the others",
            stacklevel=4,
        )


def check_box_width(kernel: GreensFunction, tree: Tree) -> None:
    """Make sure that the largest boxes with expansions are no wider than a Green's function allows.

    Raises:
        ValueError: they are wider.
    """
    width, most = tree.half_width * 2.0 ** (1 - FIRST_LEVEL), kernel.max_box_width
    if most is not None and tree.nlevels > FIRST_LEVEL and width > most:
        values = ", ".join(f"{name} = {value:g}" for name, value in kernel.parameters.items())
        raise ValueError(
            f"the extent of the points is {2 * tree.half_width:.3g}, expected at most {most * 2**FIRST_LEVEL:.3g} for "
            f"{kernel.name} with {values}: surfaces represent it in boxes up to a width of {most:.3g}, a quarter of "
            "that; use fewer points at a time, or fmmloopy.direct"
        )


def check_parameters(parameters: Mapping[str, Mapping[str, Any]], book: RecipeBook) -> None:
    """Make sure that tuning parameters name existing operators and keywords.

    Raises:
        ValueError: an operator or keyword is unknown.
    """
    if not isinstance(parameters, Mapping):
        raise ValueError(f"parameters is {parameters!r}, expected values by operator and keyword")
    for operator_name, choices in parameters.items():
        if operator_name not in book.recipes:
            known = ", ".join(book.recipes) or "none"
            raise ValueError(
                f"parameters for {operator_name!r}, expected operators with a recipe in {book.name}: {known}"
            )
        known_keywords = list(inspect.signature(book.recipes[operator_name]).parameters)[1:]
        if not isinstance(choices, Mapping):
            raise ValueError(f"parameters[{operator_name!r}] is {choices!r}, expected values by keyword")
        for keyword in choices:
            if keyword not in known_keywords:
                expected = ", ".join(known_keywords) or "none"
                where = f"parameters[{operator_name!r}] has {keyword!r}"
                raise ValueError(f"{where}, expected keywords of the recipe in {book.name}: {expected}")


def check_precision(precision: Any, dtype: np.dtype[Any]) -> str | None:
    """Return a working precision that is valid for the dtype; None lets the digits decide.

    Raises:
        ValueError: the name is unknown, or the precision is wider than float32 for float32.
    """
    if precision is None:
        return "single" if dtype == np.float32 else None
    chosen = check_choice(precision, "precision", tuple(PRECISIONS))
    if dtype == np.float32 and chosen != "single":
        raise ValueError(f"precision is {chosen!r}, expected 'single' for float32; give dtype=numpy.float64")
    return chosen


def check_choice(value: Any, name: str, choices: Sequence[str]) -> str:
    """Return one of several words."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} is {value!r}, expected {' or '.join(map(repr, choices))}")
    return str(value)
