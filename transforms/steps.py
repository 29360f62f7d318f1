"""Reusable rewrites of loopy kernels: the steps of recipes.

Each takes a kernel and returns a new one that computes the same sums. The operators' documentation explains the names
of inames, rules and statements.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from pymbolic import var
from pymbolic.primitives import Comparison, ExpressionNode, If, Product, Quotient, Subscript, Sum, Variable

from fmmloopy.common.late import loopy as lp
from fmmloopy.recipes import fix_lanes, lanes_of, separate_lanes

Kernel = Any
"""A loopy translation unit."""


def itemsize(knl: Kernel) -> int:
    """Return the size in bytes, 4 or 8, of the floating-point type that the kernel computes in."""
    dtypes = (arg.dtype.numpy_dtype for arg in knl.default_entrypoint.args if arg.dtype is not None)
    return min(int(dtype.itemsize) for dtype in dtypes if dtype.kind == "f")


def sums(knl: Kernel) -> int:
    """Return the number of sums of a particle operator for each target: 1, or 4 with the gradient of a scalar."""
    ids = [insn.id for insn in knl.default_entrypoint.instructions]
    return sum(name.startswith("sum") and not name.startswith("sum_back") for name in ids)


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


def mutual_tiles(knl: Kernel, lanes: int, sources: int) -> Kernel:
    """Let ``lanes`` points of one box act on a tile of ``sources`` points of the other, and those on them.

    Before, one point of each box::

        v = 0;  for ttile: (u = 0;  u += G(x - y) q;  v += G(y - x) p;  store u);  store v

    After; the sums for the tile stay in cache, and those over its lanes are made once for each pair of boxes::

        double v[sources, lanes];
        for ttile: (double u[lanes];  for s: for t: (u[t] += G(x[t] - y[s]) q[s];  v[s, t] += G(y[s] - x[t]) p[t]);
                    store u)
        for s: store the sum of v[s, :]
    """
    knl = separate_lanes(fix_lanes(knl, tlanes=lanes, slanes=sources))
    return lp.prioritize_loops(knl, "stile,ttile,s,t")


def lane_vectors(knl: Kernel) -> Kernel:
    """Turn the arrays of `lane_arrays` or `mutual_tiles` into vectors of the device's language, and each pair's values.

    Before: ``for t in 0..7: d = x[t] - y;  rinv = rsqrt(d * d);  u[t] += rinv * q``. After, with one call per lane::

        double8 x, u, d, rinv;
        d = x - y;  rinv.s0 = rsqrt(d.s0 * d.s0); ... rinv.s7 = ...;  u += rinv * q

    Compilers vectorize such calls again if the function is inline and has no branches, like those that `newton_rsqrt`,
    `halve_rsqrt`, `polynomial_exp` and `polynomial_sin_cos` insert. Apply it after them, and after all other steps that
    add statements.

    Raises:
        ValueError: the number of lanes is not a vector width.
    """
    kernel = knl.default_entrypoint
    if (lanes := lanes_of(knl).get("tlanes", 1)) not in (2, 4, 8, 16):
        raise ValueError(f"lanes is {lanes}, expected the width of a vector: 2, 4, 8 or 16")
    pairs = [insn for insn in kernel.instructions if "t" in insn.within_inames]
    written = {name for insn in pairs for name in insn.assignee_var_names()}
    single = [name for name in written if not kernel.temporary_variables[name].shape]
    knl = lp.privatize_temporaries_with_inames(knl, "t", ",".join(single))
    for insn in pairs:
        if any(
            issubclass(kind, ExpressionNode) and kind not in _VECTOR_NODES for kind in _nodes(insn.expression).kinds
        ):
            knl = lp.duplicate_inames(knl, "t", within=f"id:{insn.id}", new_inames=[f"t_{insn.id}"])
    kernel = knl.default_entrypoint
    knl = vector_lanes(knl, ("t",), (name for name, array in kernel.temporary_variables.items() if array.shape))
    return unroll(knl, *(iname for iname in kernel.all_inames() if iname.startswith("t_")))


def work_items(knl: Kernel, lanes: int) -> Kernel:
    """Give each target of a tile its own work-item.

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


def order_axes(knl: Kernel, order: Sequence[int], *arrays: str) -> Kernel:
    """Put the axes of arrays in memory in another order: what index varies fastest, and what is side by side.

    The index of an entry stays the same. Of the arguments, those may be ordered whose record names their axes: the
    spectra and the matrices of M2L's FFT form. Recipes of operators that share an array must order it alike; plans
    write tables, and checks their cases, as the recipe has ordered them.

    Args:
        knl: the kernel.
        order: numbers of axes, the slowest in memory first; (1, 0) puts columns after one another.
        arrays: arguments or temporary arrays with so many axes.

    Raises:
        ValueError: the order is not one of all axes of an array.
    """
    kernel = knl.default_entrypoint
    for name in arrays:
        count = len((kernel.arg_dict | kernel.temporary_variables)[name].shape)
        if sorted(order) != list(range(count)):
            raise ValueError(f"order is {tuple(order)}, expected the numbers 0 to {count - 1} of the axes of {name}")
        levels = {axis: count - 1 - place for place, axis in enumerate(order)}
        knl = lp.tag_array_axes(knl, name, ",".join(f"N{levels[axis]}" for axis in range(count)))
    return knl


def one_group_per(knl: Kernel, *inames: str) -> Kernel:
    """Run the iterations of loops as independent work-groups: the first iname on axis 0, the next on axis 1.

    Before: ``for ibox: ...``. After: ``ibox = get_group_id(0)``.
    """
    knl = lp.tag_inames(knl, {iname: f"g.{axis}" for axis, iname in enumerate(inames)})
    return lp.add_inames_for_unused_hw_axes(knl)


def vector_lanes(knl: Kernel, inames: Iterable[str], arrays: Iterable[str]) -> Kernel:
    """Turn loops of fixed length into vectors, and the last axis of the arrays that they run over into vector lanes.

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
    ``chunk`` blocks of boxes in sequence, so that their slice of the matrix stays in cache::

        for btile in chunk: for j: u[0] += table[j] * x[0, j]; u[1] += table[j] * x[1, j]; ...

    If each octant has its own matrix, the loop over octants is outside the loop over blocks; if a sum runs over
    octants, as in M2M, the sums of all blocks are kept.
    """
    knl = separate_lanes(fix_lanes(knl, blanes=boxes, ilanes=rows))
    knl = lp.split_iname(knl, "btile", chunk, outer_iname="bchunk", inner_iname="btile_inner")
    octants = "c" in knl.default_entrypoint.all_inames()
    kept = octants and "c" not in knl.default_entrypoint.id_to_insn["init"].within_inames
    if kept:
        knl = lp.privatize_temporaries_with_inames(knl, "btile_inner", "u")
        for phase in ("init", "store"):
            knl = lp.duplicate_inames(knl, "btile_inner", f"id:{phase}", new_inames=[f"btile_{phase}"])
    elif octants:
        knl = lp.add_inames_to_insn(knl, "c", "id:src")
    knl = vector_lanes(knl, ("i", "i_init", "i_store"), ("table", _output(knl)))
    knl = lp.tag_array_axes(knl, "u", "N0,vec,N1" if kept else "N0,vec")
    knl = unroll(knl, "b", "b_init")
    return lp.prioritize_loops(knl, f"{'c,' if octants else ''}btile_inner,j,b")


def _output(knl: Kernel) -> str:
    """Return the name of the array that the kernel's store writes."""
    return str(next(i for i in knl.default_entrypoint.instructions if i.id == "store").assignee_name)


def unroll(knl: Kernel, *inames: str) -> Kernel:
    """Unroll loops of fixed length.

    Before: ``for b in 0..3: u[b] += a * x[b]``. After: ``u[0] += a * x[0]; u[1] += ...``, so that the sums of a block
    can stay in registers.
    """
    return lp.tag_inames(knl, dict.fromkeys(inames, "unr"))


def builtin_rsqrt(knl: Kernel) -> Kernel:
    """Replace every reciprocal square root by OpenCL's ``rsqrt``, for devices on which it is faster than ``1 / sqrt``.

    Before: ``rinv = 1 / sqrt(r2)``. After: ``rinv = rsqrt(r2)``, accurate to two units in the last place. C has no
    ``rsqrt``.
    """
    from fmmloopy.transforms.rewriting import ReplaceRsqrt

    return ReplaceRsqrt("rsqrt").in_kernel(knl)


def newton_rsqrt(knl: Kernel) -> Kernel:
    """Replace every reciprocal square root by additions and multiplications, which vectorize where ``sqrt`` does not.

    Before: ``rinv = 1 / sqrt(r2)``. After: ``rinv = fmmloopy_rsqrt_f64(r2)``. It starts from a seed y made of the
    exponent bits (Lomont 2003), with an error of at most 3.4e-2, and applies Newton-like iterations of higher order:
    y <- y (1 + e / 2 + 3/8 e^2 + ...) with e = 1 - x y^2. One of fifth order leaves an error of 2.3e-8 in single
    precision; one of fourth and one of third order leave 3e-18 in double precision. Rounding errors come on top. The
    coefficients of the first iteration are not those of the series, but the best ones for its interval of e.
    """
    from fmmloopy.transforms.rewriting import ReplaceRsqrt

    return _with_function(ReplaceRsqrt("fmmloopy_rsqrt").in_kernel(knl), "fmmloopy_rsqrt")


def halve_rsqrt(knl: Kernel) -> Kernel:
    """Compute the reciprocal square roots of half of the lanes like `newton_rsqrt`; do not change the others.

    Before: ``rinv[t] = 1 / sqrt(r2[t])``. After, with 8 lanes::

        rinv[t] = fmmloopy_rsqrt_f64(r2[t]) if t < 4 else 1 / sqrt(r2[t])

    Processors have a separate unit for divisions and roots, which then works in parallel with the multipliers and
    adders. Apply it after `lane_arrays` and before `lane_vectors`, which unrolls the lanes, so that no condition is
    left at run time.

    Raises:
        ValueError: the number of lanes is odd.
    """
    from fmmloopy.transforms.rewriting import ReplaceRsqrt

    lanes = lanes_of(knl).get("tlanes", 1)
    if lanes % 2:
        raise ValueError(f"lanes is {lanes}, expected an even number: call lane_arrays before")
    first = Comparison(var("t"), "<", lanes // 2)
    return _with_function(ReplaceRsqrt("fmmloopy_rsqrt", first).in_kernel(knl), "fmmloopy_rsqrt")


def replace_function(knl: Kernel, function: str, name: str, source: str) -> Kernel:
    """Replace every call of a function by a call of your own, which a check tests over the whole range of its input.

    Before: ``sum += exp(-decay * r) * q``. After, with ``"exp"`` and ``"my_exp"``: ``sum += my_exp_f64(-decay * r) *
    q``. For ``"rsqrt"``, quotients by ``sqrt(...)`` are replaced, as `newton_rsqrt` does. A kernel that has nothing to
    replace is returned unchanged, as the same object.

    Args:
        knl: the kernel.
        function: what yours stands for: ``"rsqrt"``, ``"sqrt"``, ``"exp"``, ... (docs/certified.md lists them all).
        name: an identifier that no other function has.
        source: two functions of one number in the device's language: ``static inline double NAME_f64(double x) {...}``
            and ``static inline float NAME_f32(float x) {...}``.
    """
    from fmmloopy.transforms.inline import StandIn
    from fmmloopy.transforms.rewriting import ReplaceCalls, ReplaceRsqrt

    calls = ReplaceCalls(function, name).in_kernel(knl)
    rewritten = ReplaceRsqrt(name).in_kernel(calls) if function == "rsqrt" else calls
    kernel = rewritten.default_entrypoint
    texts = [x.expression for x in (*kernel.instructions, *kernel.substitutions.values()) if hasattr(x, "expression")]
    if not any(name in _nodes(expression).functions for expression in texts):
        return knl
    return lp.register_callable(rewritten, name, StandIn(name, source, function))


def _with_function(knl: Kernel, name: str) -> Kernel:
    from fmmloopy.transforms.inline import INLINE, InlineFunction

    return lp.register_callable(knl, name, InlineFunction(name, INLINE[name]))


def _nodes(expression: Any) -> Any:
    from fmmloopy.transforms.rewriting import Nodes

    nodes = Nodes()
    nodes(expression)
    return nodes


_VECTOR_NODES = (Sum, Product, Quotient, If, Comparison, Subscript, Variable)
"""Nodes that loopy writes as vectors; it writes all others, such as calls and powers, for each lane."""


def _expand(knl: Kernel, which: Callable[[str, Any], bool]) -> Kernel:
    """Expand some substitution rules, chosen by name and expression, wherever they are used."""
    from loopy.symbolic import SubstitutionRuleExpander

    kernel = knl.default_entrypoint
    rules = {n: r for n, r in kernel.substitutions.items() if which(n, r.expression)}
    expand = SubstitutionRuleExpander(rules)
    others = {n: r.copy(expression=expand(r.expression)) for n, r in kernel.substitutions.items() if n not in rules}
    instructions = [i.with_transformed_expressions(expand) for i in kernel.instructions]
    return knl.with_kernel(kernel.copy(substitutions=others, instructions=instructions))


def _by_statements(
    knl: Kernel, suffixes: Mapping[str, str], prefix: str, make: Callable[[str, Any, int], dict[str, Any]]
) -> Kernel:
    """Replace every call of some functions by statements; return a kernel without such calls as the same object.

    Args:
        knl: the kernel.
        suffixes: of the variables that hold the results, by name of the function.
        prefix: of all new variables.
        make: from the name of an argument, the argument and the size of a number, the statements: variable ->
            expression.
    """
    from fmmloopy.transforms.rewriting import HoistCalls

    expanded = _expand(knl, lambda _, expression: bool(suffixes.keys() & _nodes(expression).functions))
    kernel = expanded.default_entrypoint
    users = [insn for insn in kernel.instructions if suffixes.keys() & _nodes(insn.expression).functions]
    if not users:
        return knl
    size, narguments = itemsize(knl), 0
    names: dict[str, Any] = {}
    instructions = {insn.id: insn for insn in kernel.instructions}
    for inames in dict.fromkeys(insn.within_inames for insn in users):
        group = [insn for insn in users if insn.within_inames == inames]
        hoist = HoistCalls(suffixes, prefix, narguments)
        replaced = [insn.with_transformed_expressions(hoist) for insn in group]
        narguments += len(hoist.arguments)
        made: list[Any] = []
        for x, argument in hoist.arguments.items():
            unused = {argument + suffix for suffix in suffixes.values()} - hoist.results
            for name, expression in make(argument, x, size).items():
                if name not in unused:
                    before = group[0].depends_on | {insn.id for insn in made}
                    made.append(group[0].copy(id=name, assignee=var(name), expression=expression, depends_on=before))
        ids = {insn.id for insn in made}
        instructions |= {insn.id: insn for insn in made}
        instructions |= {insn.id: insn.copy(depends_on=insn.depends_on | ids) for insn in replaced}
        names |= dict.fromkeys(ids)
    dtype, private = {8: np.float64, 4: np.float32}[size], lp.AddressSpace.PRIVATE
    made_of = {name: lp.TemporaryVariable(name, dtype, shape=(), address_space=private) for name in names}
    return knl.with_kernel(
        kernel.copy(
            instructions=list(instructions.values()), temporary_variables={**kernel.temporary_variables, **made_of}
        )
    )


def polynomial_exp(knl: Kernel) -> Kernel:
    """Replace every ``exp`` by statements for a polynomial, which vectorize where the library's function does not.

    Before: ``sum += exp(-decay * r) * q``. After: ``exp0 = ...;  sum += exp0 * q``, accurate to a few units in the last
    place if the result is a normal number, and 0 below that; arguments above 709 (88 in single precision) count as 709
    (88). A kernel that does not call ``exp`` is returned unchanged, as the same object.
    """
    from fmmloopy.transforms.inline import exponential

    rewritten = _by_statements(knl, {"exp": ""}, "exp", exponential)
    return knl if rewritten is knl else _with_function(rewritten, "fmmloopy_power")


def polynomial_sin_cos(knl: Kernel) -> Kernel:
    """Replace every ``sin`` and ``cos`` by statements for polynomials, which vectorize where the library's do not.

    Before: ``sum += cos(k * r) * q``. After: ``angle0_cos = ...;  sum += angle0_cos * q``; sine and cosine of the same
    argument share most statements. Results are accurate to a few units in the last place for arguments up to 1e6 (1e4
    in single precision). Above that they are as accurate as an argument that is rounded once more, and arguments above
    2^51 (2^22), whose roundings are a good part of a period, count as 0. A kernel that calls neither is returned
    unchanged, as the same object.
    """
    from fmmloopy.transforms.inline import sine_and_cosine

    return _by_statements(knl, {"sin": "_sin", "cos": "_cos"}, "angle", sine_and_cosine)


def _vanishes(term: Any, unsafe: set[str]) -> bool:
    """Return whether a term is 0 where rinv is 0: rinv is a factor, and no other can be infinite or NaN there."""
    from fmmloopy.transforms.rewriting import factors

    if isinstance(term, Sum):
        return all(_vanishes(child, unsafe) for child in term.children)
    found = factors(term)
    has_rinv = any(f == var("rinv") or (isinstance(f, Sum) and _vanishes(f, unsafe)) for f in found)
    return has_rinv and all(_is_polynomial(factor, unsafe) for factor in found)


def _is_polynomial(expression: Any, unsafe: set[str]) -> bool:
    """Return whether an expression is a polynomial in variables other than the unsafe ones."""
    if isinstance(expression, (Sum, Product)):
        return all(_is_polynomial(child, unsafe) for child in expression.children)
    if isinstance(expression, Subscript):
        return _is_polynomial(expression.aggregate, unsafe)
    if isinstance(expression, Variable):
        return expression.name not in unsafe
    return not isinstance(expression, ExpressionNode)


def _unsafe_functions(knl: Kernel) -> set[str]:
    """Return results of `polynomial_exp` and `polynomial_sin_cos` whose arguments may be NaN at distance zero.

    An argument such as d0 / r may be.
    """
    unsafe: set[str] = set()
    for insn in knl.default_entrypoint.instructions:
        result = insn.id.removesuffix("_argument")
        if result != insn.id and not _is_polynomial(insn.expression.else_, unsafe):
            unsafe |= {result, f"{result}_sin", f"{result}_cos"}
    return unsafe


def share_factors(knl: Kernel) -> Kernel:
    """Let the sums of a pair share common factors of their terms, and the test for coinciding points.

    Before, each sum has its own products::

        u0 += rinv * q if r2 > 0 else 0;  u1 += -1 * d0 * rinv * rinv * rinv * q if r2 > 0 else 0; ...

    After; compilers compute the common beginnings of products once::

        rinv = rinv if r2 > 0 else 0
        u0 += rinv * q;  u1 += -1 * rinv * rinv * rinv * q * d0;  u2 += -1 * rinv * rinv * rinv * q * d1; ...

    The tests are not moved if a term may not vanish with rinv: if it has no factor rinv, divides, or calls a function
    (so apply `polynomial_exp` and `polynomial_sin_cos` first). Factors of nested products are sorted, so each power of
    rinv alone must be in the range of the kernel's precision.
    """
    from fmmloopy.transforms.rewriting import Order, Untested

    knl = _expand(knl, lambda name, _: name.startswith(("G_", "H_")))
    order = Order()
    kernel = knl.default_entrypoint
    sums = {i.id: i.with_transformed_expressions(order) for i in kernel.instructions if i.id.startswith("sum")}
    instructions = [sums.get(insn.id, insn) for insn in kernel.instructions]
    tested = [child for insn in sums.values() for child in insn.expression.children if isinstance(child, If)]
    unsafe = _unsafe_functions(knl)
    if tested and all(_vanishes(child.then, unsafe) for child in tested):
        untested = Untested()
        rinv = next(insn for insn in instructions if insn.id == "rinv")
        masked = rinv.copy(
            id="rinv_tested", expression=If(tested[0].condition, var("rinv"), 0), depends_on=rinv.depends_on | {"rinv"}
        )
        instructions = [
            insn.copy(depends_on=insn.depends_on | {masked.id}) if "rinv" in insn.depends_on else insn
            for insn in (i.with_transformed_expressions(untested) if i.id in sums else i for i in instructions)
        ]
        instructions.append(masked)
    return knl.with_kernel(kernel.copy(instructions=instructions))
