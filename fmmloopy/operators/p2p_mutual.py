"""Mutual P2P: potentials of the points of pairs of leaves from each other; each pair of points is evaluated once.

    potentials[x] += scaling * sum over y in B of G(x - y) charges[y]      for x in A
    potentials[y] += scaling * sum over x in A of G(y - x) charges[x]      for y in B

for each pair (A, B) of a unit. Both sums share the distance, its root, and each entry of G that is even or odd in
x - y, so a pair of boxes takes little longer than one side of it by P2P (Dehnen, "A hierarchical O(N) force calculation
algorithm", J. Comput. Phys. 179, 2002, section 3). No two units of a launch have a box in common, and the pairs of a
unit run one after the other, so no sums are added to at the same time.

Inames
    iunit              unit
    ipair              pair of boxes of the unit: A has the targets, B the sources
    stile, s           tile and lane of the points of B: index = start + slanes * stile + s
    ttile, t           tile and lane of the points of A: index = start + tlanes * ttile + t
    s_clear, t_clear   lanes of the sums for B that begin;      s_back, t_sum     of those that end
Parameters that a recipe fixes
    tlanes, slanes     lanes per tile, at least 1
Substitution rules, as in :mod:`fmmloopy.operators.pairwise`
    source(k, s), charge(c, s), G_i_j, G_gk
    other_charge(c, t)     component c of the charge of point t of A, 0 in idle lanes
    H_i_j                  the entry at y - x: G_i_j or -G_i_j, if the entry is even or odd
Statements
    pair_start, pair_end                                                  once a unit
    box, tgt_start, tgt_end, ttiles, out_start                            bounds, once a pair of boxes
    srcbox, src_start, src_end, stiles, out_src_start
    clear0 ...                      sums for the points of a tile of B, arrays over both lanes
    x0, x1, x2, p0 ..., init0 ...   coordinates, charges and sums of a tile of A, arrays over the lane t
    y0, y1, y2, q0 ...              one point of B
    d0, d1, d2, r2, rinv, r, g0 ..., w0_0 ..., h0_0 ...     one pair
    sum0 ..., sum_back0 ...         both sums
    store0 ..., back0 ...           accumulate into the output, guarded by the ends of boxes

Idle lanes stand for the last point of their box with a charge of 0, and their sums are never stored. Pairs at distance
zero contribute nothing. Arguments:

    sources (3, nsources + LANES)             points in tree order
    charges (components, nsources + LANES)
    potentials (components, ntargets + LANES)        added to; the points of a box are in the order of its sources
    box_target_starts, box_source_starts, box_source_ends        by box
    unit_starts (nunits + 1,), pair_targets, pair_sources        pairs of boxes

From points in float64, distances in float32 are found relative to the centre of B, in another unit, as by P2P:

    sources (2, 3, nsources + LANES)      times unit, relative to the centre of their leaf: in float32, and what
                                            rounding leaves
    centres (3, nboxes), unit               of boxes
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from pymbolic import var
from pymbolic.mapper.substitutor import substitute

from fmmloopy.common.late import loopy as lp
from fmmloopy.expressions import COORDINATES
from fmmloopy.operators.operator import (
    Argument,
    Array,
    Form,
    Kernel,
    Kind,
    Number,
    Operator,
    Particles,
    Role,
    Specification,
    Units,
    counts,
    indices,
)
from fmmloopy.operators.p2p import SOURCES, TARGETS
from fmmloopy.operators.pairwise import (
    entry_rule,
    pair_rules,
    pair_values,
    scaled_by,
    separations,
    source_charges,
    sums_of_terms,
)
from fmmloopy.operators.surface import POINTS
from fmmloopy.terms import parity

UNITS: tuple[Argument, ...] = (
    *indices("unit_starts,pair_targets,pair_sources"),
    *counts("nunits,tlanes,slanes"),
)


def p2p_mutual(spec: Specification) -> Kernel:
    """Make the mutual P2P kernel for a Green's function; from points in float64, distances may be in float32."""
    rows = range(spec.rows)
    return lp.make_kernel(
        [
            "{[iunit]: 0 <= iunit < nunits}",
            "{[ipair]: pair_start <= ipair < pair_end}",
            "{[stile, ttile]: 0 <= stile < stiles and 0 <= ttile < ttiles}",
            "{[s, s_clear]: 0 <= s, s_clear < slanes and s < points and s_clear < points}",
            # No bound of work-items may depend on data.
            "{[s_back]: 0 <= s_back < slanes}",
            "{[t, t_clear, t_sum]: 0 <= t, t_clear, t_sum < tlanes}",
        ],
        [*pair_rules(spec.greens, spec.types.inner), *_reversed_rules(spec), _text(spec)],
        # The length of a loop over points depends on the box; that of an array for their sums must not.
        [*spec.loopy_arguments(), *(lp.TemporaryVariable(f"v{i}", spec.types.inner, "slanes, tlanes") for i in rows)],
        name=spec.operator.name,
        assumptions="nunits >= 1 and tlanes >= 1 and slanes >= 1",
        silenced_warnings=[f"write_race({name}{i})" for name in ("store", "back") for i in rows],
        lang_version=lp.MOST_RECENT_LANGUAGE_VERSION,
    )


def _reversed_rules(spec: Specification) -> Iterator[Any]:
    """Yield the entries of the Green's function at y - x as substitution rules ``H_i_j``."""
    backwards = {name: -1 * var(name) for name in COORDINATES}
    for i, row in enumerate(spec.greens.matrix):
        for j, entry in enumerate(row):
            sign = parity(entry, frozenset(COORDINATES))
            same = var(f"G_{i}_{j}")()
            expression = same if sign == 1 else -1 * same if sign else None
            if expression is None:
                yield entry_rule(f"H_{i}_{j}", substitute(entry, backwards), spec.greens, spec.types.inner)
            else:
                yield lp.SubstitutionRule(f"H_{i}_{j}", (), expression)


def _text(spec: Specification) -> str:
    """Write the substitution rules and the statements."""
    greens, is_local = spec.greens, spec.types.is_mixed
    real = str(spec.types.inner.name) if is_local else ""
    rows, columns = range(spec.rows), range(spec.columns)
    points, differences = separations(is_local, real)
    positions = (
        _wide_positions(real)
        if is_local
        else [f"<> x{k}[t] = source_at({k}, ireal(t)) {{id=x{k},dep=tgt_start:tgt_end}}" for k in range(3)]
    )
    factors = [f"scaling{'*unit' * greens.degree(i) if is_local else ''}" for i in rows]
    stores = [
        f"potentials[{i}, iout(t)] = potentials[{i}, iout(t)] + {factors[i]}*u{i}[t] "
        f"{{id=store{i},dep=sum{i}:init{i}:tgt_end:out_start}}"
        for i in rows
    ]
    backs = [
        f"potentials[{i}, iback(s_back)] = potentials[{i}, iback(s_back)] "
        f"+ {factors[i]}*sum(t_sum, v{i}[s_back, t_sum]) "
        f"{{id=back{i},dep=sum_back{i}:clear{i}:store{i}:src_end:out_src_start,nosync=store{i}}}"
        for i in rows
    ]
    newline = "\n"
    return f"""
iown(t_) := tgt_start + tlanes*ttile + t_
isrc(s_) := src_start + slanes*stile + s_
ireal(t_) := iown(t_) if iown(t_) < tgt_end else tgt_end - 1
iout(t_) := out_start + tlanes*ttile + t_
iback(s_) := out_src_start + slanes*stile + s_
source_at(k_, i_) := sources[{"0, " if is_local else ""}k_, i_]
source(k_, s_) := source_at(k_, isrc(s_))
{"source_rest(k_, s_) := sources[1, k_, isrc(s_)]" if is_local else ""}
charge(c_, s_) := charges[c_, isrc(s_)]
other_charge(c_, t_) := charges[c_, iown(t_)] if iown(t_) < tgt_end else 0
for iunit
    <> pair_start = unit_starts[iunit] {{id=pair_start}}
    <> pair_end = unit_starts[iunit + 1] {{id=pair_end}}
    for ipair
        <> box = pair_targets[ipair] {{id=box}}
        <> tgt_start = box_source_starts[box] {{id=tgt_start,dep=box}}
        <> tgt_end = box_source_ends[box] {{id=tgt_end,dep=box}}
        <> ttiles = (tgt_end - tgt_start + tlanes - 1) // tlanes {{id=ttiles,dep=tgt_start:tgt_end}}
        <> out_start = box_target_starts[box] {{id=out_start,dep=box}}
        <> srcbox = pair_sources[ipair] {{id=srcbox}}
        <> src_start = box_source_starts[srcbox] {{id=src_start,dep=srcbox}}
        <> src_end = box_source_ends[srcbox] {{id=src_end,dep=srcbox}}
        <> stiles = (src_end - src_start + slanes - 1) // slanes {{id=stiles,dep=src_start:src_end}}
        <> out_src_start = box_target_starts[srcbox] {{id=out_src_start,dep=srcbox}}
        for stile
            <> points = src_end - src_start - slanes*stile {{id=points,dep=src_start:src_end}}
            for s_clear, t_clear
                {newline.join(f"v{i}[s_clear, t_clear] = 0 {{id=clear{i}}}" for i in rows)}
            end
            for ttile
                {newline.join(positions)}
                {newline.join(f"<> p{j}[t] = other_charge({j}, t) {{id=p{j},dep=tgt_start:tgt_end}}" for j in columns)}
                {newline.join(f"<{real}> u{i}[t] = 0 {{id=init{i}}}" for i in rows)}
                for s
                    {points}
                    {source_charges(spec)}
                    for t
                        {differences}
                        {pair_values(greens)}
                        {sums_of_terms(greens, "u{}[t]", "sum{}", "init{}", "q{}")}
                        {sums_of_terms(greens, "v{}[s, t]", "sum_back{}", "clear{}", "p{}[t]", "H", "h")}
                    end
                end
                if iown(t) < tgt_end
                    {newline.join(stores)}
                end
            end
            if isrc(s_back) < src_end
                {newline.join(backs)}
            end
        end
    end
end
"""


def _wide_positions(real: str) -> list[str]:
    """Write the statements for the coordinates of A relative to the centre of B, and for what rounding leaves of them.

    Both numbers of a coordinate are added in float64, one after the other.
    """
    return [
        f"<float64> z{k}[t] = unit*(centres[{k}, box] - centres[{k}, srcbox]) {{id=x{k}_centre,dep=box:srcbox}}\n"
        f"z{k}[t] = z{k}[t] + sources[0, {k}, ireal(t)] {{id=x{k}_near,dep=x{k}_centre:tgt_start:tgt_end}}\n"
        f"z{k}[t] = z{k}[t] + sources[1, {k}, ireal(t)] {{id=x{k}_wide,dep=x{k}_near:tgt_start:tgt_end}}\n"
        f"<{real}> x{k}[t] = z{k}[t] {{id=x{k},dep=x{k}_wide}}\n"
        f"<{real}> x{k}_rest[t] = z{k}[t] - x{k}[t] {{id=x{k}_rest,dep=x{k}}}"
        for k in range(3)
    ]


_CHARGES = Array("charges", "{columns}, nsources", whole=(-1, 1))
_POTENTIALS = Array("potentials", "{rows}, ntargets", Kind.OUTER, Role.ADDED_TO, (-9, 9))
_RANGES: tuple[Argument, ...] = (
    *indices("box_target_starts,box_source_starts,box_source_ends"),
    *counts("ntargets,nsources"),
)

P2P_MUTUAL = Operator(
    "p2p_mutual",
    Form.PARTICLE,
    Units("nunits"),
    sides=("points", "near"),
    make=p2p_mutual,
    arguments=(
        Array("sources", "3, nsources", Kind.OUTER, whole=POINTS),
        _CHARGES,
        _POTENTIALS,
        *_RANGES,
        *scaled_by(Kind.OUTER),
        *UNITS,
    ),
    mixed_arguments=(
        Array("sources", "2, 3, nsources"),
        _CHARGES,
        _POTENTIALS,
        *_RANGES,
        Array("centres", "3, nboxes", Kind.OUTER, whole=(0, 2)),
        *counts("nboxes"),
        *scaled_by(Kind.OUTER, Number("unit", Kind.OUTER)),
        *UNITS,
    ),
    particles=Particles(replace(TARGETS, position=SOURCES.position), SOURCES, "mutual"),
    timed_like="p2p",
    block=150.0,
    independent=("iunit",),
    ranges=("box_target_starts",),
    tiled=("stile", "ttile"),
)
