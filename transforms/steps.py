"""Reusable rewrites of loopy kernels: the steps that recipes are made of.

Each takes a kernel and returns a new one that computes the same sums. Names of inames, rules and statements are
those of the operators' documentation.
"""

from __future__ import annotations

import math
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
    """Return the bytes of a number in the floating-point type that the kernel computes in: 4 or 8."""
    dtypes = (arg.dtype.numpy_dtype for arg in knl.default_entrypoint.args if arg.dtype is not None)
    return min(int(dtype.itemsize) for dtype in dtypes if dtype.kind == "f")


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
    return lp.add_inames_for_unused_hw_axes(lp.tag_inames(knl, {"t": "l.0"}))


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


_RSQRT = """
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
""".format(f64="  y = y + y * (0.5 + h * y * y);\n" * 4, f32="  y = y + y * (0.5f + h * y * y);\n" * 3)


def _horner(degree: int, suffix: str) -> str:
    """Write the Taylor polynomial of exp in r."""
    text = f"{1 / math.factorial(degree)!r}{suffix}"
    for k in reversed(range(degree)):
        text = f"({text} * r + {1 / math.factorial(k)!r}{suffix})"
    return text


# With x = k ln 2 + r and |r| <= ln 2 / 2: exp(x) = 2^k exp(r). Adding 1.5 2^52 rounds x / ln 2 to the whole number k
# and leaves it in the low bits, from where a shift makes the exponent of 2^k. The Taylor polynomial of degree 13 (7) is
# off by 0.35^14 / 14! = 4e-18 (0.35^8 / 8! = 6e-9). Below the smallest normal number the result is that number or 0.
_EXP = f"""
static inline double fmmloopy_exp_f64(double x)
{{
  double const z = x < -708.0 ? -708.0 : x > 709.0 ? 709.0 : x;
  double const t = z * 1.4426950408889634 + 6755399441055744.0;
  double const k = t - 6755399441055744.0;
  double const r = (z - k * 6.93147180369123816490e-01) - k * 1.90821492927058770002e-10;
  return x < -708.0 ? 0.0 : {_horner(13, "")} * as_double((as_long(t) + 1023L) << 52);
}}
static inline float fmmloopy_exp_f32(float x)
{{
  float const z = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
  float const t = z * 1.44269504f + 12582912.0f;
  float const k = t - 12582912.0f;
  float const r = (z - k * 6.93359375e-1f) + k * 2.12194440e-4f;
  return x < -87.0f ? 0.0f : {_horner(7, "f")} * as_float((as_int(t) + 127) << 23);
}}
"""

_INLINE = {"fmmloopy_rsqrt": _RSQRT, "fmmloopy_exp": _EXP}
"""Functions that steps insert: name without the suffix of the precision -> source."""


class InlineFunction(ScalarCallable):  # type: ignore[misc]
    """A function of one number whose source, for float32 and float64, is written before the kernel.

    Only additions, multiplications, comparisons and shifts, which any compiler vectorizes.
    """

    def with_types(self, arg_id_to_dtype: Any, clbl_inf_ctx: Any) -> tuple[Any, Any]:
        dtype = arg_id_to_dtype.get(0)
        if dtype is None:
            return self.copy(arg_id_to_dtype=constantdict(arg_id_to_dtype)), clbl_inf_ctx
        bits = 8 * np.dtype(dtype.numpy_dtype).itemsize
        types = constantdict({0: dtype, -1: dtype})
        return self.copy(name_in_target=f"{self.name}_f{bits}", arg_id_to_dtype=types), clbl_inf_ctx

    def generate_preambles(self, target: Any) -> Any:
        yield f"50_{self.name}", _INLINE[self.name]


def _calls(expression: Any, name: str) -> bool:
    function = expression.function if isinstance(expression, Call) else None
    return isinstance(function, (Variable, ResolvedFunction)) and function.name == name


class _ReplaceRsqrt(IdentityMapper):  # type: ignore[misc]
    """Replace a / sqrt(b) by a * rsqrt(b)."""

    def map_quotient(self, expr: Any, *args: Any, **kwargs: Any) -> Any:
        if _calls(expr.denominator, "sqrt"):
            (x,) = expr.denominator.parameters
            return self.rec(expr.numerator, *args, **kwargs) * var("fmmloopy_rsqrt")(self.rec(x, *args, **kwargs))
        return super().map_quotient(expr, *args, **kwargs)


class _ReplaceExp(IdentityMapper):  # type: ignore[misc]
    """Replace exp(a), and note whether there was any."""

    found = False

    def map_call(self, expr: Any, *args: Any, **kwargs: Any) -> Any:
        if _calls(expr, "exp"):
            self.found = True
            (x,) = expr.parameters
            return var("fmmloopy_exp")(self.rec(x, *args, **kwargs))
        return super().map_call(expr, *args, **kwargs)


def _rewrite(knl: Kernel, replace: Any, function: str) -> Kernel:
    """Apply a mapper to all rules and statements, and make the function that it inserts known."""
    kernel = knl.default_entrypoint
    rules = {n: r.copy(expression=replace(r.expression)) for n, r in kernel.substitutions.items()}
    instructions = [i.with_transformed_expressions(replace) for i in kernel.instructions]
    knl = knl.with_kernel(kernel.copy(substitutions=rules, instructions=instructions))
    return lp.register_callable(knl, function, InlineFunction(name=function))


def newton_rsqrt(knl: Kernel) -> Kernel:
    """Replace every reciprocal square root by an inline Newton iteration that vectorizes where ``sqrt`` does not.

    Before: ``rinv = 1 / sqrt(r2)``. After: ``rinv = fmmloopy_rsqrt_f64(r2)``: y <- y (3/2 - x y^2 / 2), four times
    (three in single precision), from a seed made of the exponent bits (Lomont 2003). The seed is off by 3.5e-2 at most;
    each iteration maps a relative error e to 3/2 e^2: 1.8e-3, 4.7e-6, 3.3e-11, then rounding.
    """
    return _rewrite(knl, _ReplaceRsqrt(), "fmmloopy_rsqrt")


def polynomial_exp(knl: Kernel) -> Kernel:
    """Replace every ``exp`` by an inline polynomial that vectorizes where the library's function does not.

    Before: ``exp(-decay * r)``. After: ``fmmloopy_exp_f64(-decay * r)``, right to a few units in the last place where
    the result is a normal number; above 709 (88 in single precision) it stays at the largest of these. A kernel that
    does not call ``exp`` stays the same object.
    """
    replace = _ReplaceExp()
    rewritten = _rewrite(knl, replace, "fmmloopy_exp")
    return rewritten if replace.found else knl
