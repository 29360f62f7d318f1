"""Mistakes in arithmetic: precision, Newton's iteration, exponentials, algebra that rounding does not allow."""

from __future__ import annotations

import numpy as np

from corpus.arithmetic import exp, rsqrt
from corpus.entries import PARTICLES, Wrong, wrong
from corpus.mistakes import assign, has, in_dtype, only_if, pair_test, rewrite, then, with_dependency

EXPANDED = " + ".join(f"x{k}[t]*x{k}[t] + y{k}*y{k} - 2*x{k}[t]*y{k}" for k in range(3))

ENTRIES: tuple[Wrong, ...] = (
    *(
        wrong(operator, "single precision", "exact", "sums in single precision",
              "seven digits where sixteen are asked for",
              in_dtype(np.float32, "u0"))
        for operator in PARTICLES
    ),
    wrong("p2p", "single precision", "numerical", "targets in single precision",
          "positions are rounded to seven digits",
          in_dtype(np.float32, "x0", "x1", "x2")),
    wrong("l2p", "single precision", "numerical", "differences in single precision",
          "positions are rounded to seven digits",
          in_dtype(np.float32, "d0", "d1", "d2"), also=("hostile",)),
    wrong("p2m", "single precision", "numerical", "squared distance in single precision",
          "seven digits where sixteen are asked for",
          in_dtype(np.float32, "r2")),
    wrong("m2p", "single precision", "exact", "charges in single precision",
          "densities are rounded to seven digits",
          in_dtype(np.float32, "q0")),
    *(
        wrong(operator, "Newton's iteration", "numerical", "one Newton step too few",
              "eleven digits where sixteen are asked for",
              rsqrt("rsqrt_too_few"))
        for operator in ("p2p", "p2m", "m2p")
    ),
    *(
        wrong(operator, "Newton's iteration", "numerical", "one Newton step too few in single precision",
              "five digits where seven are asked for",
              rsqrt("rsqrt_too_few"), dtype=np.float32)
        for operator in ("p2p", "p2l", "l2p")
    ),
    wrong("p2l", "Newton's iteration", "numerical", "one Newton step in all",
          "three digits",
          rsqrt("rsqrt_far_too_few")),
    wrong("l2p", "Newton's iteration", "numerical", "seed with a wrong exponent",
          "the iteration does not converge",
          rsqrt("rsqrt_wrong_seed")),
    wrong("p2p", "Newton's iteration", "numerical", "reciprocal root off by 1e-9",
          "nine digits",
          only_if(has("rinv"), rewrite("rinv", ("1 / ", "1.000000001 / ")))),
    wrong("p2p", "exponential", "numerical", "polynomial of degree 9",
          "ten digits where sixteen are asked for",
          exp("exp_low_degree")),
    wrong("p2m", "exponential", "numerical", "polynomial of degree 4 in single precision",
          "five digits where seven are asked for",
          exp("exp_low_degree"), dtype=np.float32),
    wrong("m2p", "exponential", "numerical", "polynomial of degree 10",
          "twelve digits where sixteen are asked for",
          exp("exp_short")),
    wrong("l2p", "exponential", "numerical", "range reduced by one constant",
          "nine digits where sixteen are asked for",
          exp("exp_one_constant")),
    wrong("p2p", "exponential", "hostile", "no clamp where exp underflows",
          "points many screening lengths apart act with random strength",
          exp("exp_unclamped"), also=("numerical",)),
    wrong("p2m", "exponential", "hostile", "cut off at exp(-20)",
          "points 20 screening lengths apart do not act on each other",
          exp("exp_cut_off"), also=("numerical",)),
    wrong("p2p", "fast-math algebra", "numerical", "softened by 1e-10",
          "ten digits where sixteen are asked for",
          only_if(has("rinv"), rewrite("rinv", ("sqrt(r2)", "sqrt(r2 + 1e-10)")))),
    wrong("p2p", "fast-math algebra", "hostile", "softened by 1e-20",
          "points 1e-9 apart are wrong in the second digit",
          only_if(has("rinv"), rewrite("rinv", ("sqrt(r2)", "sqrt(r2 + 1e-20)"))), also=("numerical",)),
    wrong("p2p", "fast-math algebra", "hostile", "pairs nearer than 1e-8 left out",
          "the largest terms of all are lost",
          pair_test(("r2 > 0", "r2 > 1e-16")), also=("numerical",)),
    wrong("p2p", "fast-math algebra", "hostile", "pairs nearer than 1e-5 left out in single precision",
          "the largest terms of all are lost",
          pair_test(("r2 > 0", "r2 > 1e-10")), dtype=np.float32, also=("numerical",)),
    wrong("p2p", "fast-math algebra", "hostile", "pairs farther than 1000 left out",
          "right in the unit cube",
          pair_test(("r2 > 0", "r2 > 0 and r2 < 1000000")), also=("numerical",)),
    wrong("p2p", "fast-math algebra", "numerical", "squared distance by expansion",
          "x^2 + y^2 - 2 x y cancels for near points and at distance zero",
          then(assign("r2", EXPANDED), with_dependency("r2", "x0", "x1", "x2", "y0", "y1", "y2"))),
    wrong("m2p", "fast-math algebra", "numerical", "square root taken of a sum in single precision",
          "a native square root has seven digits",
          only_if(has("rinv"), in_dtype(np.float32, "rinv"))),
)  # fmt: skip
