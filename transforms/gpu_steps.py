"""Rewrites of loopy kernels for GPUs: work-items, numbers staged in local memory, sums in registers.

They use no vectors of the language and no OpenCL functions, so loopy writes them in OpenCL and in CUDA. Steps that
stage numbers want a kernel in which no statement runs on all work-items yet: apply `on_all_items` last, to the kernel
that is yielded, and the next step to the kernel before it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from pymbolic import parse, var
from pymbolic.primitives import Comparison, If

from fmmloopy.common.late import isl
from fmmloopy.common.late import loopy as lp
from fmmloopy.recipes import fix_lanes
from fmmloopy.transforms import steps

Kernel = Any
"""A loopy translation unit."""

PHASES = ("begin", "init", "x", "fold", "store")
"""Beginnings of the names of statements that work on the targets of a tile once, outside the loop over pairs."""


def arrays_over(knl: Kernel, iname: str) -> set[str]:
    """Return the temporary arrays that statements inside a loop write."""
    kernel = knl.default_entrypoint
    names = {name for i in kernel.instructions if iname in i.within_inames for name in i.assignee_var_names()}
    temporaries = kernel.temporary_variables
    return {name for name in names if name in temporaries and temporaries[name].shape}


def one_each(knl: Kernel, iname: str) -> Kernel:
    """Remove the axis of temporary arrays that belongs to a loop, whose iterations become work-items.

    Before: ``for t: u[t] += G``. After: ``for t: u += G``, with a number of its own in each work-item.
    """
    return lp.unprivatize_temporaries_with_inames(knl, {iname}, arrays_over(knl, iname))


def on_all_items(knl: Kernel, inames: Mapping[str, str]) -> Kernel:
    """Let all work-items run the statements that have no iname of some axis.

    Before: ``box = target_boxes[ibox]`` belongs to no work-item. After, it runs on each of them. Unlike loopy's
    ``add_inames_for_unused_hw_axes``, this allows several inames of an axis.

    Args:
        knl: the kernel.
        inames: by axis, such as ``"l.0"``, the iname that statements without one get.
    """
    for axis, iname in inames.items():
        kernel = knl.default_entrypoint
        parallel = {name for name in kernel.all_inames() if any(str(tag) == axis for tag in kernel.iname_tags(name))}
        ids = [insn.id for insn in kernel.instructions if not parallel & insn.within_inames]
        if ids:
            knl = lp.add_inames_to_insn(knl, iname, " or ".join(f"id:{name}" for name in ids))
    return knl


# -- particle operators


def work_item_tiles(knl: Kernel, lanes: int, each: int, sources: int) -> Kernel:
    """Give a box a work-group, and each work-item of it several targets, so that each source is read once for all.

    Before, one target::

        for stile, s: u += G(x - y) q

    After, in a work-group of ``lanes``, here with ``each`` = 2::

        for stile, s: u0 += G(x0 - y) q; u1 += G(x1 - y) q        with t = get_local_id(0) and lanes + get_local_id(0)

    Apply `on_all_items` with iname ``t_item`` before a kernel is yielded.

    Args:
        knl: the kernel of a particle operator.
        lanes: work-items of a group.
        each: targets of a work-item.
        sources: sources of a tile, which `stage_sources` loads together.
    """
    knl = fix_lanes(knl, tlanes=lanes * each, slanes=sources)
    arrays = arrays_over(knl, "t")
    knl = one_each(knl, "t")
    knl = lp.split_iname(knl, "t", lanes, inner_iname="t_item", outer_iname="t_each", inner_tag="l.0")
    knl = lp.privatize_temporaries_with_inames(knl, "t_each", frozenset(arrays))
    unrolled = ["t_each"]
    for phase in PHASES:
        instructions = knl.default_entrypoint.instructions
        ids = [i.id for i in instructions if i.id.startswith(phase) and "t_each" in i.within_inames]
        if ids:
            within = " or ".join(f"id:{name}" for name in ids)
            knl = lp.duplicate_inames(knl, "t_each", within, new_inames=[f"t_{phase}"])
            unrolled.append(f"t_{phase}")
    return lp.tag_inames(steps.unroll(knl, *unrolled), {"ibox": "g.0"})


def mutual_items(knl: Kernel, lanes: int, sources: int) -> Kernel:
    """Give each point of a tile of one box a work-item, which also adds up its part of the sums of the other box.

    Before, one point of each box::

        v = 0;  for ttile: (u = 0;  u += G(x - y) q;  v += G(y - x) p;  store u);  store v

    After, in a work-group of ``lanes`` that goes through tiles of ``sources`` points of the other box::

        local double v[sources, lanes];
        for ttile: (u = 0;  for s: (u += G(x - y[s]) q[s];  v[s, get_local_id(0)] += G(y[s] - x) p);  store u)
        barrier
        for s = get_local_id(0), get_local_id(0) + lanes ..: store the sum of v[s, :]

    The points of a box belong to the same work-items whichever side the box is on, so no two store to one entry.

    Raises:
        ValueError: ``sources`` is not a multiple of ``lanes``.
    """
    if sources % lanes:
        raise ValueError(f"sources is {sources}, expected a multiple of lanes = {lanes}")
    knl = fix_lanes(knl, tlanes=lanes, slanes=sources)
    shared = arrays_over(knl, "t_clear")
    knl = lp.unprivatize_temporaries_with_inames(knl, {"t"}, arrays_over(knl, "t") - shared)
    knl = lp.rename_iname(knl, "t_clear", "t", existing_ok=True)
    knl = lp.split_iname(knl, "s_back", lanes, inner_iname="s_item", outer_iname="s_back_tile", inner_tag="l.0")
    knl = lp.set_temporary_address_space(knl, ",".join(sorted(shared)), "local")
    knl = lp.tag_inames(knl, {"t": "l.0", "iunit": "g.0"})
    return lp.prioritize_loops(knl, "stile,ttile,s")


def octets_last(knl: Kernel, *arrays: str) -> Kernel:
    """Put spectra in memory with the octet as the fastest axis, and the sibling before it, in place of the reverse.

    Args:
        knl: a kernel of a stage of M2L's FFT form.
        arrays: its spectra.
    """
    axes = len(knl.default_entrypoint.arg_dict[arrays[0]].shape)
    return steps.order_axes(knl, (*range(axes - 2), axes - 1, axes - 2), *arrays)


def pad_rows(knl: Kernel, *names: str) -> Kernel:
    """Lengthen the rows of temporary arrays by a number that nobody uses, so that columns are in different banks.

    Before, 32 work-items that read a column each wait for one bank of local memory: ``local double v[32, 32]``. After,
    their numbers are in as many banks as there are: ``local double v[32, 33]``.

    Args:
        knl: the kernel.
        names: temporary arrays with two axes.
    """
    kernel = knl.default_entrypoint
    temporaries = dict(kernel.temporary_variables)
    for name in names:
        rows, columns = temporaries[name].shape
        temporaries[name] = temporaries[name].copy(shape=(rows, columns + 1), dim_tags=None)
    return knl.with_kernel(kernel.copy(temporary_variables=temporaries))


def stage_sources(knl: Kernel) -> Kernel:
    """Let the work-items of a group load a tile of sources into local memory together.

    Before, each work-item reads every source::

        for s: y = sources[:, start + s];  q = charges[start + s];  u += G(x - y) q

    After, it reads its share of them::

        for s = get_local_id(0): source_tile[:, s] = sources[:, start + s];  charge_tile[s] = charges[start + s]
        barrier
        for s: y = source_tile[:, s];  q = charge_tile[s];  u += G(x - y) q
        barrier

    Idle lanes of a tile hold 0 instead of what lies behind the box, where coordinates may be NaN: 0 times NaN is NaN,
    once `share_factors` has moved the tests of pairs. Apply it after `work_item_tiles`.
    """
    knl = _without_idle_sources(knl)
    for rule in ("source", "source_rest", "charge"):
        if rule not in knl.default_entrypoint.substitutions:
            continue
        component, lane = f"k_{rule}", f"s_{rule}"
        knl = lp.precompute(
            knl,
            rule,
            sweep_inames=["s"],
            precompute_inames=[component, lane],
            precompute_outer_inames=frozenset(["ibox", "ttile", "ilist", "stile"]),  # without them, none is found
            temporary_name=f"{rule}_tile",
            temporary_address_space=lp.AddressSpace.LOCAL,
            default_tag=None,
            compute_insn_id=f"stage_{rule}",
        )
        knl = lp.tag_inames(knl, {lane: "l.0"})
        if component in knl.default_entrypoint.all_inames():
            knl = steps.unroll(knl, component)
    return knl


def _without_idle_sources(knl: Kernel) -> Kernel:
    """Let the rules for coordinates of sources be 0 in idle lanes, as the rule for charges is."""
    kernel = knl.default_entrypoint
    rules = dict(kernel.substitutions)
    for name in ("source", "source_rest"):
        if name in rules:
            inside = Comparison(parse(f"isrc({rules[name].arguments[1]})"), "<", var("src_end"))
            rules[name] = rules[name].copy(expression=If(inside, rules[name].expression, 0))
    readers = [
        i.copy(depends_on=i.depends_on | {"src_end"}) if i.id.startswith("y") else i for i in kernel.instructions
    ]
    return knl.with_kernel(kernel.copy(substitutions=rules, instructions=readers))


def seeded_rsqrt(knl: Kernel) -> Kernel:
    """Replace every reciprocal square root by the approximation of a GPU's unit, corrected by one iteration.

    Before: ``rinv = 1 / sqrt(r2)``. After: ``rinv = fmmloopy_gpu_rsqrt_f64(r2)``. In double precision, NVIDIA's unit
    gives a seed y from the upper half of a number, with an error of about 2^-20; with e = 1 - x y^2, one iteration of
    third order, y (1 + e / 2 + 3/8 e^2), leaves 2^-60. In single precision the unit's result is used as it is: two
    units in the last place. AMD's unit is used too; other devices get the root rounded to the upper half of a number,
    so that the iteration is needed everywhere, and tested everywhere.
    """
    from fmmloopy.transforms.inline import SEEDED_RSQRT, InlineFunction
    from fmmloopy.transforms.rewriting import ReplaceRsqrt

    name = "fmmloopy_gpu_rsqrt"
    return lp.register_callable(ReplaceRsqrt(name).in_kernel(knl), name, InlineFunction(name, SEEDED_RSQRT))


# -- dense operators


def register_block(knl: Kernel, boxes: int, rows: int) -> Kernel:
    """Give each box of a dense product a work-item, which holds a tile of rows of its result in registers.

    Before: ``for b, i: for j: u[b, i] += table[j, i] * x[b, j]``. After, in a work-group of ``boxes``::

        for j: u0 += table[j, 0] * x[j]; u1 += table[j, 1] * x[j]; ...           with b = get_local_id(0)

    Boxes are on the first axis of work-groups, since grids end at 65,535 on the others. Apply `on_all_items` with iname
    ``b`` before a kernel is yielded.

    Args:
        knl: the kernel of a dense operator.
        boxes: work-items of a group.
        rows: rows of a work-item, its sums.
    """
    knl = one_each(fix_lanes(knl, blanes=boxes, ilanes=rows), "b")
    for phase in ("init", "store"):
        knl = lp.duplicate_inames(knl, "i", within=f"id:{phase}", new_inames=[f"i_{phase}"])
    knl = lp.tag_inames(knl, {"b": "l.0", "btile": "g.0", "itile": "g.1"})
    return steps.unroll(knl, "i", "i_init", "i_store")


def stage_matrix(knl: Kernel, boxes: int, columns: int) -> Kernel:
    """Load some columns of a tile of the matrix into local memory, dealt out to the work-items of a group.

    Before, each work-item reads all entries: ``for j: u_i += table[j, i] * x[j]``. After, it reads its share of them::

        for j_tile:
            for k = get_local_id(0), + boxes, ...: table_tile[k] = table[...]
            barrier
            for j_in: u_i += table_tile[j_in, i] * x[j]
            barrier

    Args:
        knl: the kernel, after `register_block`.
        boxes: work-items of a group.
        columns: columns of a tile.
    """
    octants = "c" in knl.default_entrypoint.all_inames()
    knl = lp.split_iname(knl, "j", columns, inner_iname="j_in", outer_iname="j_tile")
    # An index that is a parameter cannot be prefetched, but a rule whose arguments are inames can.
    entry = f"table[itable, {'c, ' if octants else ''}j_, itile, i_]"
    knl = lp.extract_subst(knl, "matrix", entry, parameters="j_, i_")
    knl = join_domains(knl, "j_tile", "i")
    knl = lp.precompute(
        knl,
        "matrix",
        sweep_inames=["j_in", "i"],
        precompute_inames=["load_j", "load_i"],
        precompute_outer_inames=frozenset(["btile", "itile", "j_tile", *(["c"] if octants else [])]),
        temporary_name="table_tile",
        temporary_address_space=lp.AddressSpace.LOCAL,
        default_tag=None,
        compute_insn_id="stage_table",
    )
    knl = lp.join_inames(knl, ["load_j", "load_i"], "load_table")
    return lp.split_iname(knl, "load_table", boxes, inner_tag="l.0")


def join_domains(knl: Kernel, *inames: str) -> Kernel:
    """Put the domains of some loops together, because `loopy.precompute` wants its sweep in one domain.

    Before: ``{[i]: 0 <= i < 8}`` and ``{[j]: 0 <= j < 4}``. After: ``{[i, j]: 0 <= i < 8 and 0 <= j < 4}``.
    """
    kernel, kind = knl.default_entrypoint, isl.dim_type.set
    chosen = [domain for domain in kernel.domains if set(inames) & set(domain.get_var_names(kind))]
    joined = chosen[0]
    for domain in chosen[1:]:
        names = [*joined.get_var_names(kind), *domain.get_var_names(kind)]
        here, there = joined.dim(kind), domain.dim(kind)
        left, right = joined.add_dims(kind, there), domain.insert_dims(kind, 0, here)
        for place, name in enumerate(names):
            left, right = left.set_dim_name(kind, place, name), right.set_dim_name(kind, place, name)
        left, right = isl.align_two(left, right)
        joined = left & right
    place = kernel.domains.index(chosen[0])
    others = [domain for domain in kernel.domains if domain not in chosen]
    return knl.with_kernel(kernel.copy(domains=[*others[:place], joined, *others[place:]]))


# -- transforms

LOCAL_BYTES = 48 * 1024
"""Local memory that every GPU has for a group."""


def siblings_that_fit(knl: Kernel, arrays: Iterable[str]) -> int:
    """Return how many of eight siblings a group can have, if arrays over all eight are to be in local memory.

    Raises:
        ValueError: not even those of one sibling fit.
    """
    temporaries = knl.default_entrypoint.temporary_variables
    numbers = sum(math.prod(int(size) for size in temporaries[name].shape) for name in arrays)
    count = 8
    while count and numbers * steps.itemsize(knl) * count // 8 > LOCAL_BYTES:
        count //= 2
    if not count:
        raise ValueError(f"a plane of {numbers // 8} numbers exceeds the local memory of a group; use a lower order")
    return count


def share_siblings(knl: Kernel, inames: Iterable[str], arrays: Iterable[str], count: int) -> Kernel:
    """Share out the eight siblings of an octet among work-groups, so that a group needs local memory for a part only.

    Before: ``for j: grid[x, j] = ...``, with eight siblings. After, with ``count`` = 4::

        for j_group = get_group_id(1), j_in: grid[x, j_in] = ...          with j = 4 * j_group + j_in

    Args:
        knl: the kernel.
        inames: loops over the siblings.
        arrays: arrays whose last axis is that of the siblings; each group gets its own.
        count: siblings of a group.
    """
    from fmmloopy.transforms.rewriting import LastIndex

    inames, arrays = tuple(inames), set(arrays)
    for iname in inames:
        knl = lp.split_iname(
            knl, iname, count, inner_iname=f"{iname}_in", outer_iname=f"{iname}_group", outer_tag="g.1"
        )
    kernel = knl.default_entrypoint
    mapper = LastIndex(arrays, {f"{iname}_in" for iname in inames})
    instructions = [insn.with_transformed_expressions(mapper) for insn in kernel.instructions]
    temporaries = {
        name: t.copy(shape=(*t.shape[:-1], count), dim_tags=None) if name in arrays else t
        for name, t in kernel.temporary_variables.items()
    }
    return knl.with_kernel(kernel.copy(instructions=instructions, temporary_variables=temporaries))


def rows_as_items(
    knl: Kernel, sums: Mapping[str, Iterable[str]], local: Iterable[str], siblings: Iterable[str], rows: Iterable[str]
) -> Kernel:
    """Give the rows of a transform's planes, and the siblings of its octet, to the work-items of a group.

    Before: ``for row, j: for z: a[j] += grid[row, z, j] * dft[z];  g[row, j] = a[j]``. After::

        for z: a += grid[row, z, j] * dft[z];  g[row, j] = a        with j = get_local_id(0), row = get_local_id(1)

    Planes are in local memory, since other work-items read them in the next stage of the transform.

    Args:
        knl: the kernel.
        sums: arrays over the siblings that become numbers of a work-item, by the iname of their siblings.
        local: the planes.
        siblings: loops over siblings, shared out among groups if local memory is short, see `share_siblings`.
        rows: loops over rows.
    """
    for iname, names in sums.items():
        knl = lp.unprivatize_temporaries_with_inames(knl, {iname}, set(names))
    siblings, local = tuple(siblings), tuple(local)
    if (count := siblings_that_fit(knl, local)) < 8:
        knl = share_siblings(knl, siblings, local, count)
        siblings = tuple(f"{iname}_in" for iname in siblings)
    knl = lp.set_temporary_address_space(knl, ",".join(local), "local")
    return lp.tag_inames(knl, {**dict.fromkeys(siblings, "l.0"), **dict.fromkeys(rows, "l.1")})
