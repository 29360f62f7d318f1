"""Wrong kernels whose mistake is in what loopy, C or floating-point numbers make of a text that looks right."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import loopy as lp
import numpy as np
from constantdict import constantdict
from corpus.mistakes import (
    Edit,
    assign,
    bounds,
    change,
    guard,
    in_dtype,
    retarget,
    rewrite,
    rule,
    statement,
    then,
    with_dependency,
    work_items,
)
from corpus.mistakes import lanes as with_lanes
from loopy.kernel.function_interface import ScalarCallable
from loopy.symbolic import Reduction, parse
from loopy.types import NumpyType
from pymbolic.primitives import Call, Comparison, If, Power, Product, Sum, Variable
from wrong_kernels import Kernel, Made, dense, early, inside, more_domains, mutual, tagged

from fmmloopy.greens import GreensFunction
from fmmloopy.precision import FLOAT32


def expression(pattern: str, function: Callable[[Any], Any]) -> Edit:
    """Apply a function to what statements compute."""
    return change(pattern, lambda i: i.copy(expression=function(i.expression)))


def resolved(knl: Kernel) -> Kernel:
    """Let loopy find the functions that have been inserted."""
    return lp.translation_unit.resolve_callables(knl)


def factor(text: str) -> Edit:
    """Multiply what M2M stores with something that is one."""
    return then(assign("store", "{}*" + text), resolved)


# -- work-items


def first_apart(knl: Kernel) -> Kernel:
    """Store the first target of a tile in a loop of its own; that of the others starts at 1, in work-item 0."""
    knl = lp.duplicate_inames(work_items(8)(knl), "t", "id:store0", new_inames=["t_other"])
    kernel = knl.default_entrypoint
    other = next(i for i in kernel.instructions if i.id == "store0")
    first = other.with_transformed_expressions(lambda e: parse(str(e).replace("t_other", "t_first")))
    first = first.copy(id="store0_first", within_inames=other.within_inames - {"t_other"} | {"t_first"})
    knl = knl.with_kernel(kernel.copy(instructions=[*kernel.instructions, first]))
    loops = bounds(("0 <= t_other", "1 <= t_other")), more_domains("{[t_first]: t_first = 0}")
    return then(*loops, tagged(t_first="l.0", t_other="l.0"))(knl)


# -- sums


def triangle(knl: Kernel) -> Kernel:
    """Add all columns for the last entry of a list, and fewer for the others, in a sum within a sum."""
    kernel = with_lanes()(knl).default_entrypoint
    term = parse("table[itable, transfers[entry], column, itile, i_store]*multipoles[lists[entry], column]")
    total = Reduction("sum", ("entry",), Reduction("sum", ("column",), term))
    kept = {i.id: i for i in kernel.instructions if i.id in ("box", "list_start", "list_end", "store")}
    kept["store"] = kept["store"].copy(
        expression=kept["store"].assignee + parse("scales[box]") * total,
        depends_on=frozenset({"box", "list_start", "list_end"}),
    )
    temporaries = {name: v for name, v in kernel.temporary_variables.items() if name in kept}
    kernel = kernel.copy(instructions=list(kept.values()), temporary_variables=temporaries)
    edit = more_domains(
        "[list_start, list_end] -> {[entry]: list_start <= entry < list_end}",
        "[ncolumns, entry, list_end] -> {[column]: 0 <= column < ncolumns and column >= list_end - 1 - entry}",
    )
    return lp.remove_unused_inames(edit(knl.with_kernel(kernel)))


# -- whole numbers

eight_bits = then(
    statement("few = 100", like="box", name="few"),
    statement("many = few + few", like="box", name="many", dep=("few",), before="box"),
    in_dtype(np.int8, "few", "many"),
    rewrite("box", ("[ibox]", "[ibox + many - 200]")),
)

not_the_first = Comparison(Sum((Variable("j"), np.uint32(0), -1)), "<", Variable("ncolumns"))
unsigned = change("sum", lambda i: i.copy(predicates=frozenset([not_the_first])))
"""Loses the first column: 0 - 1 is a large number if one of them is unsigned."""


class Greater(ScalarCallable):
    """The greater of two whole numbers, under the name of the smaller one."""

    def with_types(self, arg_id_to_dtype: Any, clbl_inf_ctx: Any) -> tuple[Any, Any]:
        number = NumpyType(np.dtype(np.int32))
        types = constantdict({0: number, 1: number, -1: number})
        return self.copy(name_in_target="max", arg_id_to_dtype=types), clbl_inf_ctx


def own_min(knl: Kernel) -> Kernel:
    """Add the first entry of a list alone: ``min(ilist - list_start, 0)`` is at most 0, and the maximum is not."""
    smaller = Call(Variable("min"), (Variable("ilist") - Variable("list_start"), 0))

    def first_only(e: Any) -> Any:
        return Sum((e.children[0], If(Comparison(smaller, "<=", 0), Sum(e.children[1:]), 0)))

    knl = then(with_lanes(), expression("sum", first_only), with_dependency("sum", "list_start"), resolved)(knl)
    table = {name: Greater("min") if function.name == "min" else function for name, function in
             knl.callables_table.items()}  # fmt: skip
    return knl.copy(callables_table=type(knl.callables_table)(table))


undecided_place = then(
    with_lanes(),
    statement("places[0] = 2", like="init", name="places"),
    statement("dead[places[1]] = 1.0", like="init", name="dead", dep=("places",)),
    lambda knl: knl.with_kernel(
        knl.default_entrypoint.copy(
            temporary_variables={
                **knl.default_entrypoint.temporary_variables,
                "places": lp.TemporaryVariable("places", np.int32, shape=(4,)),
                "dead": lp.TemporaryVariable("dead", np.float64, shape=(4,)),
            }
        )
    ),
)
"""Writes where an entry says that has no value."""


# -- real numbers


def constants(*numbers: Any) -> Edit:
    """Multiply what M2M stores with numbers whose product is one."""
    return then(expression("store", lambda e: Product((*numbers, e))), with_lanes())


narrow_constant = then(
    with_lanes(),
    statement("nearly = 1.0 + 9.313225746154785e-10", like="store", name="nearly", before="store"),
    assign("store", "{}*nearly/1.0000000009313226"),
)
"""The sum of two constants that float32 holds is computed in float32."""


def idle_lanes(entry: str) -> Made:
    """Multiply charges of lanes without a point, which are 0, with a function that need not be a number there."""
    return Made(mutual(), "p2p_mutual", greens=GreensFunction("made_up", ((entry,),), {"c": 0.1}))


def difference(sequential: str, transformed: str) -> Made:
    """Write an entry of a Green's function in another way."""
    return Made(
        early(lambda knl: rule("G_0_0", (str(_entry(knl)), transformed))(knl), resolved),
        greens=GreensFunction("made_up", ((sequential,),), {"b": 0.1, "c": 0.2}),
    )


def _entry(knl: Kernel) -> Any:
    return knl.default_entrypoint.substitutions["G_0_0"].expression


SUBTLE: Mapping[str, Made] = {
    "an axis that starts at one": Made(first_apart),
    "directions permuted by loads": Made(
        then(
            rewrite("x[ri]", (", j]", ", (j + pair_sources[j]) % 8]")),
            rewrite("sum[ri]", ("col, j, i", "col, (j + pair_sources[j]) % 8, i")),
            with_lanes(),
        ),
        "m2l_hadamard",
    ),
    "directions permuted by their squares": Made(
        then(
            rewrite("x[ri]", (", j]", ", (j + j*j) % 8]")),
            rewrite("sum[ri]", ("col, j, i", "col, (j + j*j) % 8, i")),
            with_lanes(),
        ),
        "m2l_hadamard",
    ),
    "a sum with bounds of another": Made(triangle, "m2l"),
    "whole numbers of 8 bits": Made(early(eight_bits)),
    "an unsigned constant": Made(then(unsigned, dense), "m2m"),
    "a product of loops": Made(
        then(guard("sum", "j*ncolumns >= j*ncolumns - 1"), with_lanes()), "m2m"
    ),
    "another function named min": Made(own_min, "m2l"),
    "a place that nothing has decided": Made(undecided_place, "m2m"),
    "a product of whole numbers": Made(
        constants(np.int32(65536), np.int32(65536), 2.0**-32), "m2m", types=FLOAT32
    ),
    "a power of whole numbers": Made(constants(Power(1024, 8), 1024.0**-8), "m2m"),
    "constants out of float32": Made(constants(2.0**-200, 2.0**200), "m2m", types=FLOAT32),
    "a constant that is hardly a number": Made(
        then(expression("store", lambda e: Product((e, 2.0**-1070, 2.0**535, 2.0**535))), with_lanes()), "m2m"
    ),
    "constants in float32": Made(narrow_constant, "m2m"),
    "a third in float32": Made(
        then(
            with_lanes(),
            statement("third = 1.0/3.0", like="store", name="third", before="store"),
            assign("store", "{}*third*3"),
        ),
        "m2m",
    ),
    "roots of constants in float32": Made(then(factor("sqrt(2.0)*sqrt(2.0)*0.5"), dense), "m2m"),
    "a quotient that may be 0/0": Made(then(rewrite("sum", ("*x", "*x*x/x")), dense), "m2m"),
    "a root of what may be negative": Made(then(rewrite("sum", ("*x", "*sqrt(x)*sqrt(x)")), resolved, dense), "m2m"),
    "roots of what may be negative in a square": Made(
        early(assign("r2", "sqrt(d0)*sqrt(d0)*sqrt(d0)*sqrt(d0) + d1*d1 + d2*d2"), resolved)
    ),
    "a distance along an axis in a quotient": Made(early(assign("r2", "d0*d0 + d1*d1 + d2*d2*(d2/d2)"))),
    "zero times an infinite number": Made(early(rewrite("sum*", ("else 0", "else rinv*0")))),
    "zero times a quotient": Made(then(rewrite("sum", ("*x", "*x + 0/x")), dense), "m2m"),
    "a large number added and subtracted": Made(then(rewrite("sum", ("*x", "*x + 1e20 - 1e20")), dense), "m2m"),
    "a large difference added and subtracted": Made(
        then(rewrite("sum", ("*x", "*x + 1e20*(x - 3) + 1e20*(3 - x)")), dense), "m2m"
    ),
    "a difference of large multiples in float32": Made(
        then(
            rewrite("sum", (" + table", " + 16777217*table"), ("*x", "*x - 16777216*table[itable, c, j, itile, i]*x")),
            dense,
        ),
        "m2m",
        types=FLOAT32,
    ),
    "idle lanes: a root of a difference": idle_lanes("1/sqrt(r*r - c*c)"),
    "idle lanes: a root of what a parameter decides": idle_lanes("1/sqrt(r*r + c*r)"),
    "idle lanes: a root of a product": idle_lanes("1/sqrt(r*r + d0*d1)"),
    "idle lanes: one divided by a square": idle_lanes("1/(c*c)"),
    "idle lanes: one divided by a sum of squares": idle_lanes("1/(d0*d0 + c*c)"),
    "idle lanes: a root in a root": idle_lanes("1/sqrt(r*r + sqrt(d0)*sqrt(d0))"),
    "a product with a difference expanded": difference("r*(b*d1 - c)", "(r*parameter_b*d1 - r*parameter_c)"),
    "the sign lost under a root in a function": difference("r*exp(d0)", "r*exp(sqrt(d0*d0))"),
    "a square of a sum of unknown signs expanded": difference(
        "(r + b)*(r + b)", "r*r + 2*r*parameter_b + parameter_b*parameter_b"
    ),
    "a cube of a sum of unknown signs expanded": difference(
        "(r + b)**3", "r**3 + 3*r*r*parameter_b + 3*r*parameter_b**2 + parameter_b**3"
    ),
    "a product with a sum of unknown signs expanded": difference("r*(d1 + b*d0)", "(r*d1 + r*parameter_b*d0)"),
    "a product with a sum of a sine expanded": difference("c*(r + sin(r))", "(parameter_c*r + parameter_c*sin(r))"),
    "a difference expanded and another factored": difference(
        "exp(r*d1 - r*d0)*exp(d1*(r - d0))", "exp(r*(d1 - d0))*exp(d1*r - d1*d0)"
    ),
    "a factor taken out of one side of a difference": difference("exp(r*d1 - r*d0)", "exp(r*(d1 - r*d0))"),
    "a factor taken out twice": difference("exp(r*d1 - r*d0)", "exp(r*r*(d1 - d0))"),
    "a factor and a sign taken out": difference("exp(r*d1 - r*d0)", "exp(r*(d0 - d1))"),
    "a quotient of differences": difference("exp(d1*r - r*d0)", "exp((r*d1*d1 - r*d1*d0)/d1)"),
    "the next entry added to": Made(early(rewrite("store0", ("itgt(t)", "itgt(t) + 1"))), "p2m"),
    "an entry added to that depends on data": Made(early(rewrite("store0", ("itgt(t)", "itgt(t) - 2*tgt_start")))),
    "an entry added to that a variable decides which may not have been written": Made(
        early(
            statement("shift = 0", like="box", name="shift"),
            guard("shift", "ibox > 0"),
            rewrite("store0", ("itgt(t)", "itgt(t) + shift")),
            with_dependency("store0", "shift"),
        ),
        "p2m",
    ),
    "for another target": Made(then(dense, lambda knl: knl.copy(target=lp.CTarget())), "m2m"),
    "stored when one list entry is done": Made(
        then(
            with_lanes(),
            inside("store", "ilist"),
            guard("store", "ilist <= list_start"),
            with_dependency("store", "list_start"),
        ),
        "m2l",
    ),
    "a loop of its own for work-items": Made(
        then(
            with_lanes(),
            more_domains("{[idle]: 0 <= idle < 2}"),
            statement("nothing = 1.0", like="init", name="nothing"),
            inside("nothing", "idle"),
            tagged(idle="l.0"),
        ),
        "m2m",
    ),
}  # fmt: skip
"""Wrong kernels by mistake."""

UNUSUAL: Mapping[str, Made] = {
    "an index written in another way": Made(early(rewrite("store0", ("itgt(t)", "itgt(t) - 2*tgt_start"))), "p2m"),
    "indices of sums written in two ways": Made(
        early(
            retarget("sum0", ("[t]", "[t + tgt_start]")),
            rewrite("sum0", ("u0[t]", "u0[t - tgt_start]")),
            with_dependency("sum0", "tgt_start"),
        ),
        "p2m",
    ),
    "a factor taken out of a difference": difference("exp(r*d1 - r*d0)", "exp(r*(d1 - d0))"),
    "a factor taken out of two differences": difference(
        "exp(r*d2*d1 - r*d2*d0) - r*(b*d0 - c*d0)", "exp(r*(d2*d1 - d2*d0)) - r*d0*(parameter_b - parameter_c)"
    ),
    "a factor taken out of sums of differences": difference(
        "exp(r*d2*d1 - r*d2*d0 + r*b)", "exp((d2*(d1 - d0) + parameter_b)*r)"
    ),
    "a product with a sum of squares expanded": difference(
        "c*(r + b*b*exp(d0))", "(parameter_c*r + parameter_b*parameter_c*exp(d0)*parameter_b)"
    ),
    "a square of a sum of multiples of one number expanded": difference(
        "(b*r + 2*b)**2", "parameter_b*parameter_b*(r*r + 4*r + 4)"
    ),
}
"""Right kernels."""
