"""The form that the five particle operators share: evaluate G between two ragged sets of points, box by box.

P2P, P2M, P2L, L2P and M2P differ in what their targets and sources are (points of a box, or its surface) and in the
list that couples them; each of those files states its own. What they have in common, and what recipes hold on to:

Inames
    ibox        entry of the list of target boxes worked on
    ttile, t    tile and lane of the targets of a box: target index = start + tlanes * ttile + t
    ilist       entry of the interaction list of the box
    stile, s    tile and lane of the sources of a list entry: source index = start + slanes * stile + s
Parameters that a recipe fixes
    tlanes, slanes   lanes per tile, at least 1
Substitution rules
    target(k, t)     coordinate k of target t;       source(k, s)   coordinate k of source s
    charge(c, s)     component c of the charge of source s, 0 in idle lanes
    G_i_j            entry of the Green's function, in d0, d1, d2, r, rinv and shared values
    G_gk             shared value k, where the Green's function has second derivatives or columns for dipoles
Statements
    box, tgt_start, tgt_end, ttiles, list_start, list_end       bounds, once a box
    srcbox, src_start, src_end, stiles                          bounds, once a list entry
    x0, x1, x2, init0 ...        target coordinates and sums of a tile, arrays over the lane t
    y0, y1, y2, q0 ...           one source
    d0, d1, d2, r2, rinv, r, sum0 ...     one pair; rinv and r only if G asks for them
    store0 ...                   accumulates into the output, guarded by the tile's end
    g0, g1 ...                   values that entries share, of one pair
    w0_0 ...                     entries, of one pair, of kernels for several vectors of charges
Statements of kernels that compute in float32 from points in float64
    x0_rest ..., y0_rest ..., e0 ...      P2P only: what rounding has left of coordinates, and its difference
    begin0, fold0 ...       sums over all list entries in the type of the output, where it is another one

Idle lanes read past their box: arrays of points are padded by LANES entries, and their sums are never stored.
Pairs at distance zero contribute nothing. Where one side is a surface, coordinates are relative to the centre of its
box, so that differences between near points stay accurate in single precision however deep the box.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from pymbolic.mapper import IdentityMapper
from pymbolic.mapper.dependency import DependencyMapper
from pymbolic.primitives import Product, Variable, is_zero

from fmmloopy.common.late import loopy as lp
from fmmloopy.greens import ARGUMENT_PREFIX, GreensFunction
from fmmloopy.operators.operator import (
    Argument,
    GreensParameters,
    Kernel,
    Kind,
    Number,
    Particles,
    Specification,
    counts,
    indices,
)
from fmmloopy.terms import Shared, share

LISTS: tuple[Argument, ...] = (*indices("target_boxes,list_starts,lists"), *counts("ntarget_boxes,tlanes,slanes"))
"""The last arguments of every particle operator: what it runs over."""

SHARED = "g"
"""Prefix of the names of values that entries of the Green's function share."""

TARGET_LOOPS = ("ibox", "ttile", "t")
"""Loops over targets: each target is of one box, and is stored once."""


def scaled_by(kind: Kind, *more: Number) -> tuple[Argument, ...]:
    """Return the arguments for the parameters of the Green's function and for constant factors of the result."""
    return (GreensParameters(), Number("scaling", kind, whole=2), *more)


class _Entry(IdentityMapper):  # type: ignore[misc]
    """Turn an entry of a Green's function into an expression of a kernel.

    Floating-point literals get the kernel's dtype, so that none promotes a single-precision sum; parameters get names
    that no iname or argument has.
    """

    def __init__(self, greens: GreensFunction, dtype: np.dtype[Any]) -> None:
        self.parameters, self.dtype = greens.parameters, dtype

    def map_constant(self, expr: Any) -> Any:
        return self.dtype.type(expr) if isinstance(expr, float) else expr

    def entry(self, expr: Any) -> Any:
        """Turn a whole entry; a number is of the kernel's dtype even if it is an integer, as 0 is."""
        return self.dtype.type(expr) if isinstance(expr, int) else self(expr)

    def map_variable(self, expr: Any) -> Any:
        return Variable(ARGUMENT_PREFIX + expr.name) if expr.name in self.parameters else expr


def pair_rules(greens: GreensFunction, dtype: np.dtype[Any]) -> list[Any]:
    """Return the entries of the Green's function as substitution rules ``G_i_j``, and values that they share."""
    entry_of, shared = _Entry(greens, dtype), _shared(greens)
    places = [(i, j) for i in range(greens.ntarget_components) for j in range(greens.nsource_components)]
    return [
        *(lp.SubstitutionRule(f"G_{name}", (), entry_of(value)) for name, value in shared.values),
        *(
            lp.SubstitutionRule(f"G_{i}_{j}", (), entry_of.entry(entry))
            for (i, j), entry in zip(places, shared.expressions, strict=True)
        ),
    ]


def entry_rule(name: str, entry: Any, greens: GreensFunction, dtype: np.dtype[Any]) -> Any:
    """Return an entry of a Green's function as a substitution rule."""
    return lp.SubstitutionRule(name, (), _Entry(greens, dtype).entry(entry))


@lru_cache(maxsize=64)
def _shared(greens: GreensFunction) -> Shared:
    """Return the entries, row by row, and the values that they share."""
    entries = tuple(entry for row in greens.matrix for entry in row)
    return share(entries, "rinv", SHARED) if greens.shares_terms else Shared((), entries)


def pairwise_kernel(spec: Specification, particles: Particles, unit: str = "") -> Kernel:
    """Make the math-level kernel of a particle operator.

    The Green's function's rows are the components of a target's output, its columns those of a source's charge. Where
    the sources have a ``rest``, that of the targets is found too, and differences of coordinates are as accurate as
    with twice the digits.

    Args:
        spec: what the kernel is made for.
        particles: its two sides.
        unit: name of an argument by which lengths are multiplied, "" for none; derivatives are multiplied by it.

    Returns:
        A loopy translation unit with every argument's dtype given and tlanes, slanes left open.
    """
    knl = lp.make_kernel(
        [
            "{[ibox]: 0 <= ibox < ntarget_boxes}",
            "{[ttile, ilist]: 0 <= ttile < ttiles and list_start <= ilist < list_end}",
            "{[stile]: 0 <= stile < stiles}",
            "{[t, s]: 0 <= t < tlanes and 0 <= s < slanes}",
        ],
        [*pair_rules(spec.greens, spec.types.inner), _text(spec, particles, unit)],
        spec.loopy_arguments(),
        name=spec.operator.name,
        assumptions="ntarget_boxes >= 1 and tlanes >= 1 and slanes >= 1",
        silenced_warnings=[f"write_race(store{i})" for i in range(spec.rows)],
        lang_version=lp.MOST_RECENT_LANGUAGE_VERSION,
    )
    return knl


def _text(spec: Specification, particles: Particles, unit: str) -> str:
    """Write the substitution rules and the statements."""
    targets, sources = particles.targets, particles.sources
    # A target is relative to the centre of the source box if its position says so: read once a list entry then.
    per_source_box = "srcbox" in targets.position
    positions, points, differences = _coordinates(sources.rest, declared(spec, particles))
    begin, clear, fold, store = _sums(spec, particles, unit)
    return f"""
itgt(t_) := tgt_start + tlanes*ttile + t_
isrc(s_) := src_start + slanes*stile + s_
target(k_, t_) := {targets.position.replace("i_", "itgt(t_)")}
source(k_, s_) := {sources.position.replace("i_", "isrc(s_)")}
{f"source_rest(k_, s_) := {sources.rest.replace('i_', 'isrc(s_)')}" if sources.rest else ""}
charge(c_, s_) := {sources.value.replace("i_", "isrc(s_)")} if isrc(s_) < src_end else 0
for ibox
    <> box = target_boxes[ibox] {{id=box}}
    <> tgt_start = {targets.start} {{id=tgt_start,dep=box}}
    <> tgt_end = {targets.end} {{id=tgt_end,dep=box}}
    <> ttiles = (tgt_end - tgt_start + tlanes - 1) // tlanes {{id=ttiles,dep=tgt_start:tgt_end}}
    <> list_start = list_starts[box] {{id=list_start,dep=box}}
    <> list_end = list_starts[box + 1] {{id=list_end,dep=box}}
    for ttile
        {begin if begin else clear}
        {"" if per_source_box else positions}
        for ilist
            <> srcbox = lists[ilist] {{id=srcbox}}
            <> src_start = {sources.start} {{id=src_start,dep=srcbox}}
            <> src_end = {sources.end} {{id=src_end,dep=srcbox}}
            <> stiles = (src_end - src_start + slanes - 1) // slanes {{id=stiles,dep=src_start:src_end}}
            {positions if per_source_box else ""}
            {clear if begin else ""}
            for stile, s
                {points}
                {source_charges(spec)}
                for t
                    {differences}
                    {pair_values(spec.greens)}
                    {_terms(spec)}
                end
            end
            {fold}
        end
        if itgt(t) < tgt_end
            {store}
        end
    end
end
"""


def declared(spec: Specification, particles: Particles) -> str:
    """Return the type of coordinates and sums, where loopy has two to infer it from; else ""."""
    used = {a.kind for a in spec.operator.arrays_for(spec.types) if a.kind != Kind.INDEX}
    return str(spec.types.inner.name) if spec.types.is_mixed and len(used) > 1 else ""


def _coordinates(rest: str, real: str) -> tuple[str, str, str]:
    """Write the statements for target coordinates, source coordinates, and their differences."""
    positions = [f"<{real}> x{k}[t] = target({k}, t) {{id=x{k}}}" for k in range(3)]
    if rest:
        positions += [f"<{real}> x{k}_rest[t] = target({k}, t) - x{k}[t] {{id=x{k}_rest,dep=x{k}}}" for k in range(3)]
    points, differences = separations(bool(rest), real)
    return "\n".join(positions), points, differences


def separations(has_rest: bool, real: str) -> tuple[str, str]:
    """Write the statements for the coordinates of a source, and for their differences to those of a target.

    Args:
        has_rest: whether coordinates are two numbers, of which the second is what rounding has left.
        real: type of coordinates; "" if loopy infers it.
    """
    points = [f"<{real}> y{k} = source({k}, s) {{id=y{k},dep=src_start}}" for k in range(3)]
    differences = [f"<> d{k} = x{k}[t] - y{k} {{id=d{k},dep=x{k}:y{k}}}" for k in range(3)]
    if has_rest:
        points += [f"<{real}> y{k}_rest = source_rest({k}, s) {{id=y{k}_rest,dep=src_start}}" for k in range(3)]
        differences = [
            f"<> e{k} = x{k}_rest[t] - y{k}_rest {{id=e{k},dep=x{k}_rest:y{k}_rest}}\n"
            f"<> d{k} = x{k}[t] - y{k} + e{k} {{id=d{k},dep=x{k}:y{k}:e{k}}}"
            for k in range(3)
        ]
    return "\n".join(points), "\n".join(differences)


def source_charges(spec: Specification) -> str:
    """Write the statements that read the charge of a source."""
    return "\n".join(f"<> q{j} = charge({j}, s) {{id=q{j},dep=src_start:src_end}}" for j in range(spec.columns))


def pair_values(greens: GreensFunction) -> str:
    """Write the statements for what entries of the Green's function have in common, of one pair.

    These are r2, rinv and r, if the function uses them, and values that its entries share.
    """
    used = greens.variables
    lines = ["<> r2 = d0*d0 + d1*d1 + d2*d2 {id=r2,dep=d0:d1:d2}"]
    if used & {"r", "rinv"}:
        lines.append("<> rinv = 1/sqrt(r2) {id=rinv,dep=r2}")
    if "r" in used:
        lines.append("<> r = r2*rinv {id=r,dep=rinv:r2}")
    return "\n".join([*lines, *_values(greens)])


def _values(greens: GreensFunction) -> list[str]:
    """Write the statements for values that entries share; functions and quotients are 0 at distance zero."""
    names, lines = set[str](), list[str]()
    for name, value in _shared(greens).values:
        used = sorted(names & {str(variable) for variable in DependencyMapper()(value)})
        tested = f"G_{name}" if isinstance(value, Product) else f"(G_{name} if r2 > 0 else 0)"
        lines.append(f"<> {name} = {tested} {{id={name},dep={':'.join(['r*', 'd*', *used])}}}")
        names.add(name)
    return lines


def _terms(spec: Specification) -> str:
    """Write the statements that add what a pair of points gives to the target."""
    return sums_of_terms(spec.greens, "u{}[t]", "sum{}", "init{}", "q{}")


def sums_of_terms(
    greens: GreensFunction, total: str, name: str, begun: str, charge: str, entries: str = "G", weights: str = "w"
) -> str:
    """Write the statements that add what a pair of points gives; entries that are 0 add nothing.

    Args:
        greens: the Green's function.
        total: what is added to, with braces for the row; ``name`` and ``begun``: the ids of the statements that add,
            and of those that set it to zero.
        charge: a charge, with braces for the column.
        entries: prefix of the rules for entries.
        weights: prefix of the temporaries for entries, of kernels for several vectors of charges.
    """
    rows, ncolumns = range(greens.ntarget_components), greens.nsource_components
    columns = [nonzero_columns(row) for row in greens.matrix]
    shared = f":{SHARED}*" if _shared(greens).values else ""
    charges = charge.format("*").split("[")[0]

    def added(row: int, terms: str, needs: str) -> str:
        into, begin = total.format(row), begun.format(row)
        return f"{into} = {into} + {terms} {{id={name.format(row)},dep={begin}:{needs}:{charges}{shared}}}"

    if greens.vectors > 1:
        before = f"r*:d*{shared}"
        values = [
            f"<> {weights}{i}_{j} = ({entries}_{i}_{j} if r2 > 0 else 0) {{id={weights}{i}_{j},dep={before}}}"
            for i in rows
            for j in columns[i]
        ]
        sums = [
            (
                len(rows) * vector + i,
                " + ".join(f"{weights}{i}_{j}*{charge.format(ncolumns * vector + j)}" for j in columns[i]),
            )
            for vector in range(greens.vectors)
            for i in rows
        ]
        return "\n".join([*values, *(added(i, terms, f"{weights}*") for i, terms in sums)])
    products = [" + ".join(f"{entries}_{i}_{j}*{charge.format(j)}" for j in columns[i]) for i in rows]
    return "\n".join(added(i, f"({product} if r2 > 0 else 0)", "r*:d*") for i, product in enumerate(products))


def nonzero_columns(row: tuple[Any, ...]) -> list[int]:
    """Return the columns of a row whose entries are not 0; the first if all are."""
    return [j for j, entry in enumerate(row) if not is_zero(entry)] or [0]


def _sums(spec: Specification, particles: Particles, unit: str) -> tuple[str, str, str, str]:
    """Write the statements that begin, clear, fold and store the sums of a tile.

    If the output is of a wider type, sums end with a list entry and are folded into totals; else nothing begins or
    folds.
    """
    rows, real = range(spec.rows), declared(spec, particles)
    output = next(a for a in spec.operator.arrays_for(spec.types) if a.name == particles.targets.array)
    wide = spec.dtype_of(output.kind)
    clear = "\n".join(f"<{real}> u{i}[t] = 0 {{id=init{i}}}" for i in rows)
    total, begin, fold, last, begun = "u", "", "", "sum", "init"
    if wide != spec.types.inner:
        total, last, begun = "total", "fold", "begin"
        begin = "\n".join(f"<{wide.name}> total{i}[t] = 0 {{id=begin{i}}}" for i in rows)
        fold = "\n".join(
            f"total{i}[t] = total{i}[t] + u{i}[t] {{id=fold{i},dep=sum{i}:init{i}:begin{i}}}" for i in rows
        )
    factors = [f"scaling{f'*{unit}' * spec.greens.degree(i) if unit else ''}" for i in rows]
    store = "\n".join(
        f"out({i}, t) = out({i}, t) + {factor}*{total}{i}[t] {{id=store{i},dep={last}{i}:{begun}{i}:tgt_end}}"
        for i, factor in enumerate(factors)
    )
    for i in rows:
        store = store.replace(f"out({i}, t)", particles.targets.value.replace("c_", str(i)).replace("i_", "itgt(t)"))
    return begin, clear, fold, store
