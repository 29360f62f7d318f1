"""Reusable rewrites of loopy kernels: the steps that recipes are made of.

Each takes a kernel and returns a new one that computes the same sums. Names of inames, rules and statements are
those of the operators' documentation.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import loopy as lp
import numpy as np
from constantdict import constantdict
from loopy.kernel.function_interface import ScalarCallable
from loopy.symbolic import IdentityMapper, ResolvedFunction
from pymbolic import var
from pymbolic.primitives import Call, Variable

from fmmloopy.recipes import fix_lanes, separate_lanes

Kernel = Any
"""A loopy translation unit."""


def itemsize(knl: Kernel) -> int:
    """Return the bytes of a number in the kernel's floating-point type: 4 or 8."""
    dtypes = (arg.dtype.numpy_dtype for arg in knl.default_entrypoint.args if arg.dtype is not None)
    return int(next(dtype.itemsize for dtype in dtypes if dtype.kind == "f"))


def lane_arrays(knl: Kernel, lanes: int) -> Kernel:
    """Work on ``lanes`` targets at once, as short arrays with the lane loop innermost.

    Before, one target::

        for stile: u += G(x - y) q

    After; compilers turn the inner loop into vector instructions::

        double u[lanes];
        for stile: for t in 0 .. lanes-1: u[t] += G(x[t] - y) q
    """
    knl = separate_lanes(fix_lanes(knl, tlanes=lanes))
    return lp.prioritize_loops(knl, "ttile,ilist,stile,s,t")


def work_items(knl: Kernel, lanes: int) -> Kernel:
    """Give each target of a tile a work-item of its own.

    Before, one target::

        u = 0;  for stile: u += G(x - y) q

    After, in a work-group of ``lanes``; compilers that vectorize across work-items do the rest::

        u = 0;  for stile: u += G(x - y) q       with target index start + lanes * ttile + get_local_id(0)
    """
    knl = fix_lanes(knl, tlanes=lanes)
    arrays = {
        name
        for insn in knl.default_entrypoint.instructions
        if "t" in insn.within_inames
        for name in insn.assignee_var_names()
        if name in knl.default_entrypoint.temporary_variables and knl.default_entrypoint.temporary_variables[name].shape
    }
    knl = lp.unprivatize_temporaries_with_inames(knl, {"t"}, arrays)
    return lp.tag_inames(knl, {"t": "l.0"})


def one_group_per(knl: Kernel, *inames: str) -> Kernel:
    """Run the iterations of loops as independent work-groups: the first iname on axis 0, the next on axis 1.

    Before: ``for ibox: ...``. After: ``ibox = get_group_id(0)``.
    """
    knl = lp.tag_inames(knl, {iname: f"g.{axis}" for axis, iname in enumerate(inames)})
    return lp.add_inames_for_unused_hw_axes(knl)


def vector_lanes(knl: Kernel, inames: Iterable[str], arrays: Iterable[str]) -> Kernel:
    """Turn loops of fixed length into vectors, and the last axis of the arrays that they run over into the vector's.

    Before: ``for j: a[k, j] += w * b[k, j]``. After: ``double8 a[..]; a[k] += w * b[k]``.
    """
    knl = lp.tag_inames(knl, dict.fromkeys(inames, "vec"))
    kernel = knl.default_entrypoint
    for name in arrays:
        array = kernel.arg_dict.get(name) or kernel.temporary_variables[name]
        outer = [f"N{axis}" for axis in reversed(range(len(array.shape) - 1))]
        knl = lp.tag_array_axes(knl, name, ",".join([*outer, "vec"]))
    return knl


def dense_blocks(knl: Kernel, boxes: int, rows: int, chunk: int = 16) -> Kernel:
    """Hold a block of boxes x rows sums of a dense product in registers, the rows as vectors.

    Before: ``for b, i: for j: u += table[j, i] * x[b, j]``. After, with ``boxes`` accumulators of ``rows`` lanes, and
    ``chunk`` blocks of boxes one after the other, so that their slice of the matrix stays in cache::

        for btile in chunk: for j: u[0] += table[j] * x[0, j]; u[1] += table[j] * x[1, j]; ...
    """
    knl = separate_lanes(fix_lanes(knl, blanes=boxes, ilanes=rows))
    knl = lp.split_iname(knl, "btile", chunk, outer_iname="bchunk", inner_iname="btile_inner")
    knl = vector_lanes(knl, ("i", "i_init", "i_store"), ("table", "u", _output(knl)))
    knl = unroll(knl, "b", "b_init")
    octants = "c," if "c" in knl.default_entrypoint.all_inames() else ""
    return lp.prioritize_loops(knl, f"btile_inner,{octants}j,b")


def _output(knl: Kernel) -> str:
    """Return the name of the array that the kernel's store writes."""
    return str(next(i for i in knl.default_entrypoint.instructions if i.id == "store").assignee_name)


def unroll(knl: Kernel, *inames: str) -> Kernel:
    """Write out the iterations of loops of fixed length one after the other.

    Before: ``for b in 0..3: u[b] += a * x[b]``. After: ``u[0] += a * x[0]; u[1] += ...``: the sums of a block can then
    live in registers.
    """
    return lp.tag_inames(knl, dict.fromkeys(inames, "unr"))


_NEWTON = """
static inline double fmmloopy_rsqrt_f64(double x)
{{
  double const h = -0.5 * x;
  double y = as_double(0x5fe6eb50c7b537a9L - (as_long(x) >> 1));
{f64}  return y;
}}
static inline float fmmloopy_rsqrt_f32(float x)
{{
  float const h = -0.5f * x;
  float y = as_float(0x5f375a86 - (as_int(x) >> 1));
{f32}  return y;
}}
"""


class NewtonRsqrt(ScalarCallable):  # type: ignore[misc]
    """1 / sqrt(x) by Newton's iteration y <- y (3/2 - x y^2 / 2) from a seed made of the exponent bits.

    The seed (Lomont 2003) is off by 3.5e-2 at most; each iteration maps a relative error e to 3/2 e^2: 1.8e-3, 4.7e-6,
    3.3e-11, then rounding. Only additions, multiplications and shifts, which any compiler vectorizes.
    """

    def with_types(self, arg_id_to_dtype: Any, clbl_inf_ctx: Any) -> tuple[Any, Any]:
        dtype = arg_id_to_dtype.get(0)
        if dtype is None:
            return self.copy(arg_id_to_dtype=constantdict(arg_id_to_dtype)), clbl_inf_ctx
        bits = 8 * np.dtype(dtype.numpy_dtype).itemsize
        types = constantdict({0: dtype, -1: dtype})
        return self.copy(name_in_target=f"fmmloopy_rsqrt_f{bits}", arg_id_to_dtype=types), clbl_inf_ctx

    def generate_preambles(self, target: Any) -> Any:
        f64 = "  y = y + y * (0.5 + h * y * y);\n" * 4
        f32 = "  y = y + y * (0.5f + h * y * y);\n" * 3
        yield "50_fmmloopy_rsqrt", _NEWTON.format(f64=f64, f32=f32)


class _ReplaceRsqrt(IdentityMapper):  # type: ignore[misc]
    """Replace a / sqrt(b) by a * rsqrt(b)."""

    def map_quotient(self, expr: Any, *args: Any, **kwargs: Any) -> Any:
        divisor = expr.denominator
        function = divisor.function if isinstance(divisor, Call) else None
        if isinstance(function, (Variable, ResolvedFunction)) and function.name == "sqrt":
            (x,) = divisor.parameters
            return self.rec(expr.numerator, *args, **kwargs) * var("fmmloopy_rsqrt")(self.rec(x, *args, **kwargs))
        return super().map_quotient(expr, *args, **kwargs)


def newton_rsqrt(knl: Kernel) -> Kernel:
    """Replace every reciprocal square root by an inline Newton iteration that vectorizes where ``sqrt`` does not.

    Before: ``rinv = 1 / sqrt(r2)``. After: ``rinv = fmmloopy_rsqrt_f64(r2)``, four iterations (three in single
    precision) from a seed made of the exponent bits, exact to a few units in the last place for normal numbers.
    """
    kernel = knl.default_entrypoint
    replace = _ReplaceRsqrt()
    rules = {n: r.copy(expression=replace(r.expression)) for n, r in kernel.substitutions.items()}
    instructions = [i.with_transformed_expressions(replace) for i in kernel.instructions]
    knl = knl.with_kernel(kernel.copy(substitutions=rules, instructions=instructions))
    return lp.register_callable(knl, "fmmloopy_rsqrt", NewtonRsqrt(name="fmmloopy_rsqrt"))
