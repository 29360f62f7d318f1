"""Inline functions as recipes insert them, with the mistakes that are made in writing them."""

from __future__ import annotations

import math
from typing import Any

import loopy as lp

from corpus.mistakes import Edit, Kernel, has, only_if
from fmmloopy.transforms.inline import InlineFunction


def _rsqrt(f64_steps: int, f32_steps: int, f64_seed: str = "0x5fe6eb50c7b537a9L", f32_seed: str = "0x5f375a86") -> str:
    """Write 1/sqrt by Newton's iteration."""
    return f"""
static inline double NAME_f64(double x)
{{
  double const h = -0.5 * x;
  double y = as_double({f64_seed} - (as_long(x) >> 1));
{"  y = y + y * (0.5 + h * y * y);" * f64_steps}
  return y;
}}
static inline float NAME_f32(float x)
{{
  float const h = -0.5f * x;
  float y = as_float({f32_seed} - (as_int(x) >> 1));
{"  y = y + y * (0.5f + h * y * y);" * f32_steps}
  return y;
}}
"""


def _horner(degree: int, suffix: str) -> str:
    text = f"{1 / math.factorial(degree)!r}{suffix}"
    for k in reversed(range(degree)):
        text = f"({text} * r + {1 / math.factorial(k)!r}{suffix})"
    return text


def _exp(
    f64_degree: int = 13, f32_degree: int = 7, low: str = "1.90821492927058770002e-10", least: str = "-708.0"
) -> str:
    """Write exp by a polynomial."""
    return f"""
static inline double NAME_f64(double x)
{{
  double const z = x < {least} ? {least} : x > 709.0 ? 709.0 : x;
  double const t = z * 1.4426950408889634 + 6755399441055744.0;
  double const k = t - 6755399441055744.0;
  double const r = (z - k * 6.93147180369123816490e-01) - k * {low};
  return x < {least} ? 0.0 : {_horner(f64_degree, "")} * as_double((as_long(t) + 1023L) << 52);
}}
static inline float NAME_f32(float x)
{{
  float const z = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
  float const t = z * 1.44269504f + 12582912.0f;
  float const k = t - 12582912.0f;
  float const r = (z - k * 6.93359375e-1f) + k * 2.12194440e-4f;
  return x < -87.0f ? 0.0f : {_horner(f32_degree, "f")} * as_float((as_int(t) + 127) << 23);
}}
"""


SOURCES = {
    "rsqrt_right": _rsqrt(4, 3),
    "rsqrt_generous": _rsqrt(5, 4),
    "rsqrt_too_few": _rsqrt(3, 2),
    "rsqrt_far_too_few": _rsqrt(1, 1),
    "rsqrt_wrong_seed": _rsqrt(4, 3, "0x5fe6eb50c7b537a9L + (1L << 53)", "0x5f375a86 + (1 << 24)"),
    "exp_right": _exp(),
    "exp_generous": _exp(15, 9),
    "exp_low_degree": _exp(9, 4),
    "exp_short": _exp(10, 5),
    "exp_one_constant": _exp(low="0.0"),
    "exp_unclamped": _exp(least="-1e300"),
    "exp_cut_off": _exp(least="-20.0"),
}
"""Name -> source, with NAME where the name goes."""


def _with_functions(knl: Kernel, old: str, new: str) -> Kernel:
    """Replace text in statements and rules where it occurs."""
    kernel = knl.default_entrypoint

    def replaced(expression: Any) -> Any:
        text = str(expression)
        return lp.symbolic.parse(text.replace(old, new)) if old in text else expression

    rules = {n: r.copy(expression=replaced(r.expression)) for n, r in kernel.substitutions.items()}
    instructions = [i.copy(expression=replaced(i.expression)) for i in kernel.instructions]
    return knl.with_kernel(kernel.copy(substitutions=rules, instructions=instructions))


def rsqrt(name: str) -> Edit:
    """Replace 1 / sqrt(r2), where there is one."""

    def edit(knl: Kernel) -> Kernel:
        knl = _with_functions(knl, "1 / sqrt(r2)", f"{name}(r2)")
        return lp.register_callable(knl, name, InlineFunction(name, SOURCES[name].replace("NAME", name)))

    return only_if(has("rinv"), edit)


def exp(name: str) -> Edit:
    """Replace exp, where there is one."""

    def edit(knl: Kernel) -> Kernel:
        changed = _with_functions(knl, "exp(", f"{name}(")
        return lp.register_callable(changed, name, InlineFunction(name, SOURCES[name].replace("NAME", name)))

    return only_if(
        lambda knl: any("exp(" in str(r.expression) for r in knl.default_entrypoint.substitutions.values()), edit
    )
