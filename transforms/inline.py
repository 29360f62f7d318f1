"""Small functions of one number that steps insert into kernels, as source or as statements."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from constantdict import constantdict
from loopy.kernel.function_interface import ScalarCallable
from pymbolic import var
from pymbolic.primitives import Comparison, If

# A first guess y0 from the exponent bits has an error of up to 3.4 %. With e = 1 - x y0^2, the best polynomial for
# 1 / sqrt(1 - e) on this range has an error of 2.3e-8; in f64, one with an error of 1.0e-6, then two more terms of the
# series, leave 3e-18. Shifts are unsigned, because AVX2 has none for signed 64-bit numbers.
_RSQRT = """
static inline double fmmloopy_rsqrt_f64(double x)
{
  double const y0 = as_double(0x5fe6eb50c7b537a9UL - (as_ulong(x) >> 1));
  double const e0 = 1 - x * y0 * y0;
  double const y1 = y0 + y0 * e0 * (0.5000006595671703 + e0 * (0.3760593113616581 + e0 * 0.31290051686638776));
  double const e1 = 1 - x * y1 * y1;
  return y1 + y1 * e1 * (0.5 + e1 * 0.375);
}
static inline float fmmloopy_rsqrt_f32(float x)
{
  float const y0 = as_float(0x5f375a86u - (as_uint(x) >> 1));
  float const e0 = 1 - x * y0 * y0;
  return y0 + y0 * e0 * (0.49999834f + e0 * (0.37500035f + e0 * (0.31393535f + e0 * 0.27407937f)));
}
"""


# With a whole number k in the low bits, a shift moves it to the exponent: 2^k.
_POWER = """
static inline double fmmloopy_power_f64(double t) { return as_double((as_long(t) + 1023L) << 52); }
static inline float fmmloopy_power_f32(float t) { return as_float((as_int(t) + 127) << 23); }
"""

SEEDED_RSQRT = """
#if defined(__CUDA_ARCH__) || defined(__NV_CL_C_VERSION)
#define FMMLOOPY_SEED_F64(y, x) asm("rsqrt.approx.ftz.f64 %0, %1;" : "=d"(y) : "d"(x))
#define FMMLOOPY_SEED_F32(y, x) asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x))
#elif defined(__AMDGCN__)
#define FMMLOOPY_SEED_F64(y, x) y = __builtin_amdgcn_rsq(x)
#define FMMLOOPY_SEED_F32(y, x) y = __builtin_amdgcn_rsqf(x)
#else
#define FMMLOOPY_SEED_F64(y, x) y = as_double(as_long(1 / sqrt(x)) & -0x100000000L)
#define FMMLOOPY_SEED_F32(y, x) y = 1 / sqrt(x)
#endif
static inline double fmmloopy_gpu_rsqrt_f64(double x)
{
  double y;
  FMMLOOPY_SEED_F64(y, x);
  double const e = 1 - x * y * y;
  return y + y * e * (0.5 + e * 0.375);
}
static inline float fmmloopy_gpu_rsqrt_f32(float x)
{
  float y;
  FMMLOOPY_SEED_F32(y, x);
  return y;
}
"""
"""The approximation of a GPU's unit, and in double precision an iteration of third order, see `seeded_rsqrt`."""


INLINE = {"fmmloopy_rsqrt": _RSQRT, "fmmloopy_power": _POWER}
"""Functions that steps insert: name without the precision suffix -> source."""


EXPONENTIALS = {
    8: (np.float64, -708.0, 709.0, 1.5 * 2.0**52, 6.93147180369123816490e-01, 1.90821492927058770002e-10, 13),
    4: (np.float32, -87.0, 88.0, 1.5 * 2.0**23, 6.93359375e-01, -2.12194440e-04, 7),
}
"""By size of a number in bytes: type, bounds of x, the constant that rounds to whole numbers, ln 2 in two parts,
degree."""


def exponential(result: str, x: Any, size: int) -> dict[str, Any]:
    """Return the statements for exp(x), temporary -> expression, in a form that can be vectorized.

    With x = k ln 2 + r and |r| <= ln 2 / 2: exp(x) = 2^k exp(r). Adding 1.5 2^52 (1.5 2^23) rounds x / ln 2 to the
    whole number k and leaves it in the low bits. The error of the Taylor polynomial of degree 13 (7) is 0.35^14 / 14!
    = 4e-18 (0.35^8 / 8! = 6e-9). Below the lower bound of x, 2^k is not a normal number, and the result is 0.
    """
    dtype, least, most, rounding, high, low, degree = EXPONENTIALS[size]
    z, t, k, r, scale = (var(f"{result}_{part}") for part in ("argument", "rounded", "whole", "rest", "scale"))
    polynomial: Any = dtype(1 / math.factorial(degree))
    for power in reversed(range(degree)):
        polynomial = polynomial * r + dtype(1 / math.factorial(power))
    return {
        z.name: If(Comparison(x, ">", dtype(most)), dtype(most), x),
        t.name: z * dtype(1 / math.log(2)) + dtype(rounding),
        k.name: t - dtype(rounding),
        r.name: (z - k * dtype(high)) - k * dtype(low),
        scale.name: var("fmmloopy_power")(t),
        result: If(Comparison(z, "<", dtype(least)), dtype(0), polynomial * scale),
    }


ANGLES = {
    8: (np.float64, 2.0**51, 1.5 * 2.0**52, (1.57079632673412561417, 6.077100506303966e-11, 2.022266248795951e-21)),
    4: (np.float32, 2.0**22, 1.5 * 2.0**23, (1.5703125, 4.837512969970703125e-4, 7.549789954891882e-8)),
}
"""By size of a number in bytes: type, bound of x, the constant that rounds to whole numbers, pi / 2 in three parts."""

ANGLE_DEGREES = {8: (17, 16), 4: (9, 8)}
"""Degrees of the polynomials for sine and cosine."""


def sine_and_cosine(result: str, x: Any, size: int) -> dict[str, Any]:
    """Return the statements for sin(x) and cos(x), temporary -> expression, in a form that can be vectorized.

    With x = k pi / 2 + r and |r| <= pi / 4, both are the sine or the cosine of r, up to signs, which depend on the last
    two bits of k, the number of quarters of a turn. Adding 1.5 2^52 (1.5 2^23) rounds to whole numbers. The first two
    parts of pi / 2 have 33 (8 and 11) bits, so their products with k are exact up to |k| = 2^20 (2^13). The errors of
    the Taylor polynomials are at most 0.79^19 / 19! = 9e-20 and 0.79^18 / 18! = 2e-18 (2e-9 and 2e-8). An x above the
    bound, where the next number is half a radian away, counts as 0.
    """
    dtype, most, rounding, parts = ANGLES[size]
    z, r, square, odd, sign, sine, cosine = (
        var(f"{result}_{part}") for part in ("argument", "rest", "square", "odd", "sign", "sine", "cosine")
    )

    def rounded(name: str, y: Any) -> dict[str, Any]:
        """Return the statements that round y to a whole number. Together they would be a sum in another order."""
        return {f"{name}_rounded": y + dtype(rounding), name: var(f"{name}_rounded") - dtype(rounding)}

    def series(degree: int) -> Any:
        """Return the terms of the sine divided by r, for an odd degree, or else of the cosine, from the second on."""
        first, *others = (dtype((-1) ** (power // 2) / math.factorial(power)) for power in range(degree, 1, -2))
        polynomial: Any = first
        for coefficient in others:
            polynomial = polynomial * square + coefficient
        return polynomial * square

    quarters, halves, turns = (var(f"{result}_{part}") for part in ("quarters", "halves", "turns"))
    of_sine, of_cosine = ANGLE_DEGREES[size]
    return {
        z.name: If(Comparison(x * x, ">", dtype(most**2)), dtype(0), x),
        **rounded(quarters.name, z * dtype(2 / math.pi)),
        r.name: ((z - quarters * dtype(parts[0])) - quarters * dtype(parts[1])) - quarters * dtype(parts[2]),
        square.name: r * r,
        **rounded(halves.name, quarters * dtype(0.5) - dtype(0.25)),
        **rounded(turns.name, halves * dtype(0.5) - dtype(0.25)),
        odd.name: quarters - halves * dtype(2),
        sign.name: (halves - turns * dtype(2)) * dtype(-2) + dtype(1),
        sine.name: r + r * series(of_sine),
        cosine.name: series(of_cosine) + dtype(1),
        f"{result}_sin": sign * If(Comparison(odd, ">", dtype(0.5)), cosine, sine),
        f"{result}_cos": sign * (odd * dtype(-2) + dtype(1)) * If(Comparison(odd, ">", dtype(0.5)), sine, cosine),
    }


@dataclass(frozen=True, init=False)
class InlineFunction(ScalarCallable):  # type: ignore[misc]
    """A function of one number whose source, for float32 and float64, is placed before the kernel.

    It uses only additions, multiplications and shifts, which any compiler vectorizes. The source is part of the kernel
    for loopy, so loopy's cache never returns code with another source.
    """

    source: str

    def __init__(
        self,
        name: str,
        source: str,
        arg_id_to_dtype: Any = None,
        arg_id_to_descr: Any = None,
        name_in_target: str | None = None,
    ) -> None:
        super().__init__(name, arg_id_to_dtype, arg_id_to_descr, name_in_target)
        object.__setattr__(self, "source", source)

    def with_types(self, arg_id_to_dtype: Any, clbl_inf_ctx: Any) -> tuple[Any, Any]:
        dtype = arg_id_to_dtype.get(0)
        if dtype is None:
            return self.copy(arg_id_to_dtype=constantdict(arg_id_to_dtype)), clbl_inf_ctx
        bits = 8 * np.dtype(dtype.numpy_dtype).itemsize
        types = constantdict({0: dtype, -1: dtype})
        return self.copy(name_in_target=f"{self.name}_f{bits}", arg_id_to_dtype=types), clbl_inf_ctx

    def generate_preambles(self, target: Any) -> Any:
        yield f"50_{self.name}", self.source


@dataclass(frozen=True, init=False)
class StandIn(InlineFunction):
    """A function that stands for one of loopy's, such as ``"rsqrt"``: a check tests whether it is that function.

    See `fmmloopy.transforms.steps.replace_function`, which inserts it.
    """

    stands_for: str

    def __init__(
        self,
        name: str,
        source: str,
        stands_for: str,
        arg_id_to_dtype: Any = None,
        arg_id_to_descr: Any = None,
        name_in_target: str | None = None,
    ) -> None:
        super().__init__(name, source, arg_id_to_dtype, arg_id_to_descr, name_in_target)
        object.__setattr__(self, "stands_for", stands_for)
