"""Small functions of one number that steps insert into kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
from constantdict import constantdict
from loopy.kernel.function_interface import ScalarCallable

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


# With a whole number k in its low bits, a shift makes the exponent of 2^k of it.
_POWER = """
static inline double fmmloopy_power_f64(double t) { return as_double((as_long(t) + 1023L) << 52); }
static inline float fmmloopy_power_f32(float t) { return as_float((as_int(t) + 127) << 23); }
"""

_INLINE = {"fmmloopy_rsqrt": _RSQRT, "fmmloopy_power": _POWER}
"""Functions that steps insert: name without the suffix of the precision -> source."""


class InlineFunction(ScalarCallable):  # type: ignore[misc]
    """A function of one number whose source, for float32 and float64, is written before the kernel.

    Only additions, multiplications and shifts, which any compiler vectorizes.
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
