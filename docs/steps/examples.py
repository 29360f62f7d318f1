"""Recipes that the pages of the steps show: an example of each step, and the mistakes that they warn of.

Only the statements are shown, so there are no docstrings.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import loopy as lp

from fmmloopy.transforms import steps

Kernel = Any


def fix_lanes(knl: Kernel) -> Iterator[tuple[str, Kernel]]:
    knl = steps.fix_lanes(knl, tlanes=8)
    knl = steps.separate_lanes(knl)
    yield "tiles of 8 targets", knl


def lane_arrays(knl: Kernel) -> Iterator[tuple[str, Kernel]]:
    knl = steps.lane_arrays(knl, lanes=8)
    yield "targets in lanes", knl


def mutual_tiles(knl: Kernel) -> Iterator[tuple[str, Kernel]]:
    knl = steps.mutual_tiles(knl, lanes=8, sources=64)
    yield "tiles of both boxes", knl


def work_items(knl: Kernel) -> Iterator[tuple[str, Kernel]]:
    knl = steps.work_items(knl, lanes=8)
    yield "one work-item per target of a tile", knl


def one_group_per(knl: Kernel) -> Iterator[tuple[str, Kernel]]:
    knl = steps.dense_blocks(knl, boxes=4, rows=64 // steps.itemsize(knl))
    yield "blocks of boxes x rows", knl
    knl = steps.one_group_per(knl, "itile", "bchunk")
    yield "one work-group per tile of rows and chunk of boxes", knl


def order_axes(knl: Kernel) -> Iterator[tuple[str, Kernel]]:
    knl = steps.separate_lanes(steps.fix_lanes(knl, blanes=2))
    yield "pairs in tiles", knl
    knl = steps.order_axes(knl, (0, 1, 3, 2), "Mr", "Mi", "Lr", "Li")
    yield "octets next to each other", knl


def order_of_lists(knl: Kernel) -> Iterator[tuple[str, Kernel]]:
    knl = steps.order_axes(steps.separate_lanes(steps.fix_lanes(knl, ilanes=1)), (1, 0), "multipoles")
    yield "boxes next to each other", knl


def vector_lanes(knl: Kernel) -> Iterator[tuple[str, Kernel]]:
    knl = steps.separate_lanes(steps.fix_lanes(knl, ilanes=8))
    yield "rows in tiles", knl
    knl = steps.vector_lanes(knl, ("i", "i_init", "i_store"), ("table", "u", "result"))
    yield "rows in vectors", knl


def dense_blocks(knl: Kernel) -> Iterator[tuple[str, Kernel]]:
    knl = steps.dense_blocks(knl, boxes=4, rows=64 // steps.itemsize(knl))
    yield "blocks of boxes x rows", knl


def unroll(knl: Kernel) -> Iterator[tuple[str, Kernel]]:
    knl = steps.separate_lanes(steps.fix_lanes(knl, blanes=2))
    knl = steps.vector_lanes(knl, ("i", "i_init", "i_store"), ("Kr", "Ki", "Lr", "Li", "ur", "ui"))
    knl = lp.prioritize_loops(knl, "d,ptile,row,col,j,b")
    yield "siblings in vectors", knl
    knl = steps.unroll(knl, "b", "b_init", "b_src")
    yield "pairs one after the other", knl


def newton_rsqrt(knl: Kernel) -> Iterator[tuple[str, Kernel]]:
    knl = steps.lane_arrays(knl, lanes=8)
    yield "targets in lanes", knl
    knl = steps.newton_rsqrt(knl)
    yield "reciprocal square root by Newton's iteration", knl


ROOT = """
static inline double my_rsqrt_f64(double x)
{
  double const h = -0.5 * x;
  double y = as_double(0x5fe6eb50c7b537a9L - (as_long(x) >> 1));
  y = y + y * (0.5 + h * y * y);
  y = y + y * (0.5 + h * y * y);
  y = y + y * (0.5 + h * y * y);
  return y + y * (0.5 + h * y * y);
}
static inline float my_rsqrt_f32(float x)
{
  float const h = -0.5f * x;
  float y = as_float(0x5f375a86 - (as_int(x) >> 1));
  y = y + y * (0.5f + h * y * y);
  y = y + y * (0.5f + h * y * y);
  return y + y * (0.5f + h * y * y);
}
"""


def replace_function(knl: Kernel) -> Iterator[tuple[str, Kernel]]:
    knl = steps.lane_arrays(knl, lanes=8)
    yield "targets in lanes", knl
    knl = steps.replace_function(knl, "rsqrt", "my_rsqrt", ROOT)
    yield "a root of my own", knl


def halve_rsqrt(knl: Kernel) -> Iterator[tuple[str, Kernel]]:
    knl = steps.lane_arrays(knl, lanes=4)
    yield "targets in lanes", knl
    knl = steps.halve_rsqrt(knl)
    yield "half of the reciprocal square roots by Newton's iteration", knl


def halve_one_lane(knl: Kernel) -> Iterator[tuple[str, Kernel]]:
    yield "half of the roots of a single lane", steps.halve_rsqrt(knl)


def builtin_rsqrt(knl: Kernel) -> Iterator[tuple[str, Kernel]]:
    knl = steps.work_items(knl, lanes=16)
    yield "one work-item per target of a tile", knl
    knl = steps.builtin_rsqrt(knl)
    yield "OpenCL's reciprocal square root", knl


def polynomial_exp(knl: Kernel) -> Iterator[tuple[str, Kernel]]:
    knl = steps.lane_arrays(knl, lanes=8)
    yield "targets in lanes", knl
    if (rewritten := steps.polynomial_exp(knl)) is not knl:
        yield "exponential by a polynomial", rewritten


def polynomial_sin_cos(knl: Kernel) -> Iterator[tuple[str, Kernel]]:
    knl = steps.lane_arrays(knl, lanes=8)
    yield "targets in lanes", knl
    if (rewritten := steps.polynomial_sin_cos(knl)) is not knl:
        yield "sine and cosine by polynomials", rewritten


def share_factors(knl: Kernel) -> Iterator[tuple[str, Kernel]]:
    knl = steps.lane_arrays(knl, lanes=8)
    yield "targets in lanes", knl
    knl = steps.newton_rsqrt(knl)
    yield "reciprocal square root by Newton's iteration", knl
    if (rewritten := steps.polynomial_exp(knl)) is not knl:
        knl = rewritten
        yield "exponential by a polynomial", knl
    knl = steps.share_factors(knl)
    yield "shared factors, one test for coinciding points", knl


def lane_vectors(knl: Kernel) -> Iterator[tuple[str, Kernel]]:
    knl = steps.newton_rsqrt(steps.lane_arrays(knl, lanes=4))
    yield "targets in lanes, Newton", knl
    knl = steps.lane_vectors(knl)
    yield "targets in vectors", knl


# -- mistakes


def vectors_of_twelve(knl: Kernel) -> Iterator[tuple[str, Kernel]]:
    knl = steps.lane_vectors(steps.lane_arrays(knl, lanes=12))
    yield "targets in vectors", knl


def misnamed_lanes(knl: Kernel) -> Iterator[tuple[str, Kernel]]:
    knl = steps.separate_lanes(steps.fix_lanes(knl, lanes=8))
    yield "tiles of 8 targets", knl


def lanes_fixed_twice(knl: Kernel) -> Iterator[tuple[str, Kernel]]:
    knl = steps.lane_arrays(steps.fix_lanes(knl, tlanes=8), 8)
    yield "targets in lanes", knl


def lanes_by_loopy(knl: Kernel) -> Iterator[tuple[str, Kernel]]:
    knl = steps.separate_lanes(lp.fix_parameters(knl, blanes=4, ilanes=8))
    yield "blocks", knl


def too_many_lanes(knl: Kernel) -> Iterator[tuple[str, Kernel]]:
    knl = steps.lane_arrays(knl, 100)
    yield "targets in lanes", knl


def lanes_not_separated(knl: Kernel) -> Iterator[tuple[str, Kernel]]:
    knl = steps.fix_lanes(knl, tlanes=8)
    yield "tiles of 8 targets", knl


def loops_not_ordered(knl: Kernel) -> Iterator[tuple[str, Kernel]]:
    knl = steps.separate_lanes(steps.fix_lanes(knl, blanes=4, ilanes=8))
    yield "tiles", knl


def lanes_of_dense(knl: Kernel) -> Iterator[tuple[str, Kernel]]:
    knl = steps.lane_arrays(knl, 8)
    yield "targets in lanes", knl


def arrays_and_work_items(knl: Kernel) -> Iterator[tuple[str, Kernel]]:
    knl = steps.lane_arrays(steps.work_items(knl, 8), 8)
    yield "both", knl


def group_per_tile(knl: Kernel) -> Iterator[tuple[str, Kernel]]:
    knl = steps.one_group_per(steps.lane_arrays(knl, 8), "ttile")
    yield "one work-group per tile", knl


def group_per_term(knl: Kernel) -> Iterator[tuple[str, Kernel]]:
    knl = steps.one_group_per(steps.dense_blocks(knl, boxes=4, rows=8), "j")
    yield "one work-group per column", knl


def group_twice(knl: Kernel) -> Iterator[tuple[str, Kernel]]:
    knl = steps.dense_blocks(knl, boxes=4, rows=8)
    knl = steps.one_group_per(knl, "itile")
    knl = steps.one_group_per(knl, "bchunk")
    yield "one work-group per tile of rows and chunk of boxes", knl


def copy_forgotten(knl: Kernel) -> Iterator[tuple[str, Kernel]]:
    knl = steps.separate_lanes(steps.fix_lanes(knl, ilanes=8))
    knl = steps.vector_lanes(knl, ("i", "i_store"), ("table", "u", "result"))
    yield "rows in vectors", knl


def array_forgotten(knl: Kernel) -> Iterator[tuple[str, Kernel]]:
    knl = steps.separate_lanes(steps.fix_lanes(knl, ilanes=2))
    knl = steps.vector_lanes(knl, ("i", "i_init", "i_store"), ("table", "result"))
    yield "rows in vectors", knl


def masked_vectors(knl: Kernel) -> Iterator[tuple[str, Kernel]]:
    knl = steps.lane_arrays(knl, 2)
    knl = steps.vector_lanes(knl, ("t", "t_load", "t_init", "t_store"), ("x0", "x1", "x2", "u0"))
    yield "targets in vectors", knl


def three_rows(knl: Kernel) -> Iterator[tuple[str, Kernel]]:
    knl = steps.dense_blocks(knl, boxes=4, rows=3)
    yield "blocks of boxes x rows", knl


def blocks_of_m2l(knl: Kernel) -> Iterator[tuple[str, Kernel]]:
    knl = steps.dense_blocks(knl, boxes=4, rows=8)
    yield "blocks of boxes x rows", knl


def unroll_tiles(knl: Kernel) -> Iterator[tuple[str, Kernel]]:
    knl = steps.unroll(steps.lane_arrays(knl, 8), "stile")
    yield "sources one after the other", knl
