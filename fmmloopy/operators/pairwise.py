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
    G_i_j            entry of the Green's function, in d0, d1, d2, r, rinv
Statements
    box, tgt_start, tgt_end, ttiles, list_start, list_end       bounds, once a box
    srcbox, src_start, src_end, stiles                          bounds, once a list entry
    x0, x1, x2, init0 ...        target coordinates and sums of a tile, arrays over the lane t
    y0, y1, y2, q0 ...           one source
    d0, d1, d2, r2, rinv, r, sum0 ...     one pair; rinv and r only if G asks for them
    store0 ...                   accumulates into the output, guarded by the tile's end
Statements of kernels that compute in float32 from points in float64
    x0_rest ..., y0_rest ..., e0 ...      P2P only: what rounding has left of coordinates, and its difference
    begin0, fold0 ...       sums over all list entries in the type of the output, where it is another one

Idle lanes read past their box: arrays of points are padded by at least a tile (PADDING), their sums are never stored.
Pairs at distance zero contribute nothing. Where one side is a surface, coordinates are relative to the centre of its
box, so that differences between near points stay accurate in single precision however deep the box.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import loopy as lp
import numpy as np
from loopy.kernel.data import SubstitutionRule
from pymbolic.mapper import IdentityMapper
from pymbolic.primitives import Variable

from fmmloopy.greens import ARGUMENT_PREFIX, GreensFunction

Kernel = Any
"""A loopy translation unit."""

PADDING = 64
"""Idle lanes read up to this many entries past the last point: the most lanes that a recipe may use."""


@dataclass(frozen=True)
class Side:
    """One side of a particle operator: where its points start and end, and how one is read.

    Attributes:
        start, end: expressions, evaluated once a box (targets) or once a list entry (sources).
        position: coordinate ``k_`` of the point with index ``i_``.
        rest: sources only: what rounding has left of that coordinate; "" where it makes no difference.
        charge: sources only: charge component ``c_`` of the point with index ``i_``.
        output: targets only: the entry that component ``c_`` of target ``i_`` accumulates into.
    """

    start: str
    end: str
    position: str
    rest: str = ""
    charge: str = ""
    output: str = ""


class _Entry(IdentityMapper):  # type: ignore[misc]
    """Turn an entry of a Green's function into an expression of a kernel.

    Floating-point literals get the kernel's dtype, so that none promotes a single-precision sum; parameters get names
    that no iname or argument has.
    """

    def __init__(self, greens: GreensFunction, dtype: np.dtype[Any]) -> None:
        self.parameters, self.dtype = greens.parameters, dtype

    def map_constant(self, expr: Any) -> Any:
        return self.dtype.type(expr) if isinstance(expr, float) else expr

    def map_variable(self, expr: Any) -> Any:
        return Variable(ARGUMENT_PREFIX + expr.name) if expr.name in self.parameters else expr


def pair_rules(greens: GreensFunction, dtype: np.dtype[Any]) -> list[SubstitutionRule]:
    """Return the entries of the Green's function as substitution rules ``G_i_j``."""
    entry_of = _Entry(greens, dtype)
    return [
        SubstitutionRule(f"G_{i}_{j}", (), entry_of(entry))
        for i, row in enumerate(greens.matrix)
        for j, entry in enumerate(row)
    ]


def _pair_geometry(greens: GreensFunction) -> str:
    """Write the statements for rinv and r, if the Green's function uses them."""
    used = greens.variables
    lines = []
    if used & {"r", "rinv"}:
        lines.append("<> rinv = 1/sqrt(r2) {id=rinv,dep=r2}")
    if "r" in used:
        lines.append("<> r = r2*rinv {id=r,dep=rinv:r2}")
    return "\n                    ".join(lines)


def pairwise_kernel(
    name: str,
    greens: GreensFunction,
    dtype: np.dtype[Any],
    targets: Side,
    sources: Side,
    arrays: list[Any],
    per_source_box: bool = False,
    output: np.dtype[Any] | None = None,
    unit: str = "",
) -> Kernel:
    """Make the math-level kernel of a particle operator.

    Args:
        name: the operator's name, and the kernel's.
        greens: rows are the components of a target's output, columns those of a source's charge.
        dtype: float32 or float64, what pairs of points are computed in.
        targets, sources: the two sides. With a ``rest`` of the sources, that of the targets is found too, and
            differences of coordinates are as accurate as if these were in twice the dtype's precision.
        arrays: loopy arguments that the sides read and write, beside the lists.
        per_source_box: the target position depends on the source box (it is relative to that box's centre), so it is
            read once a list entry and not once a tile.
        output: of the outputs; None for ``dtype``. If it is another one, sums in ``dtype`` end with a list entry.
        unit: name of an argument by which lengths are multiplied, "" for none; derivatives are multiplied by it.

    Returns:
        A loopy translation unit with every argument's dtype given and tlanes, slanes left open.
    """
    nrows, ncolumns = greens.ntarget_components, greens.nsource_components
    output = output or dtype
    folds = output != dtype
    types = {array.dtype.numpy_dtype for array in arrays if array.dtype is not None}
    real = dtype.name if {np.dtype(np.float32), np.dtype(np.float64)} <= types else ""  # nothing to infer it from
    positions = [f"<{real}> x{k}[t] = target({k}, t) {{id=x{k}}}" for k in range(3)]
    points = [f"<{real}> y{k} = source({k}, s) {{id=y{k},dep=src_start}}" for k in range(3)]
    differences = [f"<> d{k} = x{k}[t] - y{k} {{id=d{k},dep=x{k}:y{k}}}" for k in range(3)]
    if sources.rest:
        positions += [f"<{real}> x{k}_rest[t] = target({k}, t) - x{k}[t] {{id=x{k}_rest,dep=x{k}}}" for k in range(3)]
        points += [f"<{real}> y{k}_rest = source_rest({k}, s) {{id=y{k}_rest,dep=src_start}}" for k in range(3)]
        differences = [
            f"<> e{k} = x{k}_rest[t] - y{k}_rest {{id=e{k},dep=x{k}_rest:y{k}_rest}}\n"
            f"<> d{k} = x{k}[t] - y{k} + e{k} {{id=d{k},dep=x{k}:y{k}:e{k}}}"
            for k in range(3)
        ]
    clear = "\n".join(f"<{real}> u{i}[t] = 0 {{id=init{i}}}" for i in range(nrows))
    total, begin, fold = "u", "", ""
    if folds:
        total = "total"
        begin = "\n".join(f"<{output.name}> total{i}[t] = 0 {{id=begin{i}}}" for i in range(nrows))
        fold = "\n".join(
            f"total{i}[t] = total{i}[t] + u{i}[t] {{id=fold{i},dep=sum{i}:init{i}:begin{i}}}" for i in range(nrows)
        )
    charges = "\n".join(f"<> q{j} = charge({j}, s) {{id=q{j},dep=src_start:src_end}}" for j in range(ncolumns))
    accumulate = "\n".join(
        f"u{i}[t] = u{i}[t] + ({' + '.join(f'G_{i}_{j}*q{j}' for j in range(ncolumns))} if r2 > 0 else 0) "
        f"{{id=sum{i},dep=init{i}:r*:d*:q*}}"
        for i in range(nrows)
    )
    last, begun = ("fold", "begin") if folds else ("sum", "init")
    factors = ["scaling"] * nrows
    if unit:
        factors[nrows - greens.nderivatives :] = [f"scaling*{unit}"] * greens.nderivatives
    store = "\n".join(
        f"out({i}, t) = out({i}, t) + {factor}*{total}{i}[t] {{id=store{i},dep={last}{i}:{begun}{i}:tgt_end}}"
        for i, factor in enumerate(factors)
    )
    lines = {key: "\n".join(value) for key, value in (("x", positions), ("y", points), ("d", differences))}
    text = f"""
itgt(t_) := tgt_start + tlanes*ttile + t_
isrc(s_) := src_start + slanes*stile + s_
target(k_, t_) := {targets.position.replace("i_", "itgt(t_)")}
source(k_, s_) := {sources.position.replace("i_", "isrc(s_)")}
{f"source_rest(k_, s_) := {sources.rest.replace('i_', 'isrc(s_)')}" if sources.rest else ""}
charge(c_, s_) := {sources.charge.replace("i_", "isrc(s_)")} if isrc(s_) < src_end else 0
for ibox
    <> box = target_boxes[ibox] {{id=box}}
    <> tgt_start = {targets.start} {{id=tgt_start,dep=box}}
    <> tgt_end = {targets.end} {{id=tgt_end,dep=box}}
    <> ttiles = (tgt_end - tgt_start + tlanes - 1) // tlanes {{id=ttiles,dep=tgt_start:tgt_end}}
    <> list_start = list_starts[box] {{id=list_start,dep=box}}
    <> list_end = list_starts[box + 1] {{id=list_end,dep=box}}
    for ttile
        {begin if folds else clear}
        {"" if per_source_box else lines["x"]}
        for ilist
            <> srcbox = lists[ilist] {{id=srcbox}}
            <> src_start = {sources.start} {{id=src_start,dep=srcbox}}
            <> src_end = {sources.end} {{id=src_end,dep=srcbox}}
            <> stiles = (src_end - src_start + slanes - 1) // slanes {{id=stiles,dep=src_start:src_end}}
            {lines["x"] if per_source_box else ""}
            {clear if folds else ""}
            for stile, s
                {lines["y"]}
                {charges}
                for t
                    {lines["d"]}
                    <> r2 = d0*d0 + d1*d1 + d2*d2 {{id=r2,dep=d0:d1:d2}}
                    {_pair_geometry(greens)}
                    {accumulate}
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
    for i in range(nrows):
        text = text.replace(f"out({i}, t)", targets.output.replace("c_", str(i)).replace("i_", "itgt(t)"))
    parameters = [lp.ValueArg(name, dtype) for name in greens.arguments]
    parameters += [lp.ValueArg(name, output) for name in ("scaling", unit) if name]
    knl = lp.make_kernel(
        [
            "{[ibox]: 0 <= ibox < ntarget_boxes}",
            "{[ttile, ilist]: 0 <= ttile < ttiles and list_start <= ilist < list_end}",
            "{[stile]: 0 <= stile < stiles}",
            "{[t, s]: 0 <= t < tlanes and 0 <= s < slanes}",
        ],
        [*pair_rules(greens, dtype), text],
        [
            *arrays,
            *parameters,
            lp.GlobalArg("target_boxes,list_starts,lists", np.int32, shape=None),
            lp.ValueArg("ntarget_boxes,tlanes,slanes", np.int32),
        ],
        name=name,
        assumptions="ntarget_boxes >= 1 and tlanes >= 1 and slanes >= 1",
        silenced_warnings=[f"write_race(store{i})" for i in range(nrows)],
        lang_version=lp.MOST_RECENT_LANGUAGE_VERSION,
    )
    return knl
