"""Sources of functions that steps declare: what may depend on more than the argument is refused."""

from __future__ import annotations

import pytest
from corpus.arithmetic import SOURCES

from fmmloopy.checking.functions import FUNCTIONS
from fmmloopy.checking.proof.declared import not_plain
from fmmloopy.checking.proof.lemmas import STAND_INS
from fmmloopy.transforms.inline import INLINE

DOUBLE = "static inline double f_f64(double x) {%s}\n"
FLOAT = "static inline float f_f32(float x) {%s}\n"


def test_all_functions_that_may_be_declared_have_a_test() -> None:
    assert set(FUNCTIONS) == set(STAND_INS)


@pytest.mark.parametrize("name", [*INLINE, *SOURCES])
def test_inline_functions_are_plain(name: str) -> None:
    source = INLINE.get(name) or SOURCES[name].replace("NAME", name)
    assert not_plain(name, source) == ""


@pytest.mark.parametrize(
    "source",
    [
        DOUBLE % "return x;",
        FLOAT % "return x;" + DOUBLE % "return x;",
        DOUBLE.replace("(double x)", "(const double x)") % "return x; /* anything # % [] */ // even 'this'\n",
        DOUBLE % "double const y = (x > 0 && x < 1e-3) ? x : -x; return y * y;",
        DOUBLE % "double y = 0x1.8p3; if (x > 1) { double z = 2; y = z * (double) (float) x; } return y;",
        DOUBLE % "return as_double(as_long(x) & 0xffL) * (x) * 1 & 1;",
        DOUBLE % "return fma(x, native_rsqrt(x), ldexp(x, 3));",
    ],
)
def test_plain_sources(source: str) -> None:
    assert not_plain("f", source) == ""


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (DOUBLE % "return get_global_id(0) * x;", "get_global_id is not known"),
        (DOUBLE % "return lid(0) * x;", "lid is not known"),
        (DOUBLE % "static double y = 0; y = y + x; return y;", "static is not known"),
        (DOUBLE % "double y; return y;", "declared without a value"),
        (DOUBLE % "double y = y; return y;", "y is not known"),
        (DOUBLE % "double y = x, z; return z;", "z is not known"),
        (DOUBLE % "{ double x = x; return x; } return x;", "x is declared twice"),
        (DOUBLE % "{ double y = 1; } return y;", "y is not known"),
        (DOUBLE % "return *(&x + 1);", "as for pointers"),
        (DOUBLE % "return x * *(double *) 5;", "as for pointers"),
        (DOUBLE % "return (long) &x;", "as for pointers"),
        (DOUBLE % "double *p = 0; return x;", "declared without a value"),
        (DOUBLE % "return x[1];", "it has '['"),
        (DOUBLE % "for (;;) return x;", "for is not known"),
        (DOUBLE % "return f_f64(x);", "f_f64 is not known"),
        (DOUBLE % "return x; // \\\n", "it has"),
        (DOUBLE % "return x; // \r volatile \n", "it has"),
        (DOUBLE % f"return x; // {'?' * 2}/\n", "it has"),
        ("#define x 1\n" + DOUBLE % "return x;", "it has '#'"),
        (DOUBLE % 'asm("nop"); return x;', "it has"),
        (DOUBLE % "asm(1); return x;", "asm is not known"),
        (DOUBLE % "if (x > 0) return 1;", "does not end with return"),
        (DOUBLE % "if (x > 0) { return 1; }", "does not end with return"),
        (DOUBLE % "if (x > 0) return 1; else return 2;", "does not end with return"),
        (DOUBLE % "", "does not end with return"),
        (DOUBLE % "return x;" + "static inline double g;", "no more"),
        (DOUBLE % "return x;" + DOUBLE % "return x;", "no more"),
        (DOUBLE % "return x;" + "static inline double exp(double x) {return x;}", "no more"),
        (DOUBLE.replace("(double x)", "(float x)") % "return x;", "no more"),
        (DOUBLE.replace("(double x)", "(double *x)") % "return x;", "no more"),
        (DOUBLE.replace("(double x)", "(double x, double y)") % "return x;", "no more"),
        (DOUBLE.replace("static inline ", "") % "return x;", "no more"),
        ("static inline double f_f64(double x)", "a body does not end"),
        ("static inline double f_f64", "no more"),
        ("static inline double f_f64(double x) ; {}", "a body is missing"),
        ("", "it is empty"),
    ],
)
def test_other_sources(source: str, reason: str) -> None:
    assert reason in not_plain("f", source)
