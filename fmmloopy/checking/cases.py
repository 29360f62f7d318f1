"""Cases of every operator, by its name, and the layouts on which schedules fail that are right for most."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fmmloopy.checking.case import DEFAULT, Case, Layout
from fmmloopy.checking.dense_cases import (
    check_to_equivalent_case,
    compressed_m2l_case,
    dense_m2l_case,
    translation_case,
)
from fmmloopy.checking.fft_cases import forward_case, hadamard_case, inverse_case
from fmmloopy.checking.particle_cases import particle_case
from fmmloopy.compile import PARTICLE_OPERATORS
from fmmloopy.greens import GreensFunction
from fmmloopy.precision import MIXED, dtype_name


def hostile_layouts(operator: str, lanes: Mapping[str, int]) -> list[Layout]:
    """Return layouts on which schedules fail that are right for most: nothing, one, and around the widths of lanes.

    Args:
        operator: its name.
        lanes: the lane parameters that the recipe has fixed.
    """
    # Whole, so that products with it are; a recipe may multiply what idle lanes have read by zero.
    garbage = Layout("numbers in place of NaN", poison=777.0)
    if operator in PARTICLE_OPERATORS:
        width = max(lanes.get("tlanes", 1), lanes.get("slanes", 1))
        around = tuple(size for k in (1, 2) for size in (k * width - 1, k * width, k * width + 1))
        return [
            Layout("boxes without points", sizes=(0,) * 5),
            Layout("one point in each box", sizes=(1,) * 9),
            Layout(f"boxes of {width - 1}, {width}, {width + 1} points", sizes=around),
            Layout("one box of many points", sizes=(259,)),
            Layout("all points in one place", sizes=(3, width, 0, 2 * width + 1, 1), coincident=True),
            Layout("empty lists", sizes=(5, width, 1), lists=(0, 0, 0)),
            Layout("empty lists between full ones", sizes=(2, 3, width, 4, 1), lists=(0, 5, 0, 1, 0)),
            Layout("long lists", sizes=(2, 1, 0, 3) * 20, lists=(80, 79) * 40),
            Layout("indices beyond 16 bits", sizes=(3, width, 9), ahead=70_000),
            garbage,
        ]
    if operator in ("m2l_hadamard", "m2l_svd"):
        width = lanes.get("blanes", 1)
        return [
            Layout("no pairs", pairs=(0,)),
            Layout("one pair in each chunk", pairs=(0,) * 25 + (1,)),
            Layout(f"{width - 1}, {width}, {width + 1} pairs", pairs=(width - 1, width, width + 1)),
            garbage,
        ]
    width = lanes.get("blanes", 1)
    counts = {1, 2, width - 1, width, width + 1, 2 * width + 1} - {0}
    if operator in ("m2l_forward", "m2l_inverse"):
        counts |= {7, 8, 9, 16, 17, 33}  # around the widths of tiles that a recipe may split octets into
    layouts = [Layout(f"{count} worked on", blocks=count) for count in sorted(counts)]
    if operator == "m2l":
        layouts += [Layout("empty lists", lists=(0,)), Layout("full V lists", blocks=199, lists=(189, 0, 17))]
    elif operator != "check_to_equivalent":
        layouts += [Layout("every child there", present=1.0), Layout("hardly a child there", present=0.1)]
    return [*layouts, garbage]


MakeCase = Callable[[str, GreensFunction, int, Any, np.random.Generator, Layout], Case]


def make_case(
    operator: str, greens: GreensFunction, dtype: Any, order: int = 3, seed: int = 0, layout: Layout = DEFAULT
) -> Case:
    """Make a case of an operator with whole-numbered data.

    Args:
        operator: any of :data:`fmmloopy.recipes.OPERATORS`.
        greens: one of POLYNOMIALS, for particle operators; others take its number of components.
        dtype: float32, float64, or for operators between two kinds of data mixed.
        order: of the surfaces, 2 to 5.
        seed: of the random numbers.
        layout: how many boxes, points and list entries there are.
    """
    rng = np.random.default_rng(seed)
    makers: dict[str, MakeCase] = {
        "m2m": translation_case,
        "l2l": translation_case,
        "m2l": dense_m2l_case,
        "check_to_equivalent": check_to_equivalent_case,
        "m2l_svd": compressed_m2l_case,
        "m2l_forward": forward_case,
        "m2l_hadamard": hadamard_case,
        "m2l_inverse": inverse_case,
    }
    make: MakeCase = makers.get(operator, particle_case)
    return make(operator, greens, order, MIXED if dtype_name(dtype) == MIXED else np.dtype(dtype), rng, layout)
