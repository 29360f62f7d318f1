"""GPUs through CUDA or OpenCL: boxes and octets are work-groups, with tiles in local memory and sums in registers.

Certified, not yet measured on a GPU: the recipes are checked as OpenCL on CPUs and as CUDA text on the emulated GPU.
Sizes of tiles follow from the machine code for NVIDIA's sm_90: no spilled registers, and local memory below 48 KiB.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fmmloopy.common.late import loopy as lp
from fmmloopy.recipes import RecipeBook, fix_lanes
from fmmloopy.transforms import gpu_steps, steps

Kernel = Any
Steps = Iterator[tuple[str, Kernel]]

PARTICLE_OPERATORS = ("p2p", "p2m", "p2l", "l2p", "m2p")
DENSE_OPERATORS = ("m2m", "l2l", "check_to_equivalent")


def particles(knl: Kernel, *, targets: int = 64, each: int = 2, sources: int = 32, roots: str = "seeded") -> Steps:
    """Two targets in each work-item of a warp share the loads of a source, which the group has staged.

    ``targets`` is the size of a tile, so a group has ``targets / each`` work-items.

    The unit's approximate root and one iteration take 12 operations of a pair in f64, compared with more than 20 for a
    root and a division.
    """
    if roots not in ("seeded", "sqrt"):
        raise ValueError(f"roots is {roots!r}, expected 'seeded' or 'sqrt'")
    if targets % each:
        raise ValueError(f"targets is {targets}, expected a multiple of each = {each}")
    everywhere = {"l.0": "t_item"}
    knl = gpu_steps.work_item_tiles(knl, targets // each, each, sources)
    yield "one work-group per box, targets as work-items", gpu_steps.on_all_items(knl, everywhere)
    knl = gpu_steps.stage_sources(knl)
    yield "sources staged in local memory", gpu_steps.on_all_items(knl, everywhere)
    if roots == "seeded":
        knl = gpu_steps.seeded_rsqrt(knl)
        yield "reciprocal square roots from the unit's approximation", gpu_steps.on_all_items(knl, everywhere)
    knl = steps.share_factors(knl)
    yield "shared factors, one test for coinciding points", gpu_steps.on_all_items(knl, everywhere)


def p2p_mutual(knl: Kernel, *, lanes: int = 32, sources: int = 32) -> Steps:
    """Each pair serves both of its points: a work-item for each point of one box, sums of the other in local memory.

    It takes a third more instructions than a pair of P2P, and one more operation in f64, for both sides. Pairs of
    leaves need about 45 launches, whose units are too few to fill a device, so it pays where double precision is
    slow enough for one warp of each scheduler to keep its units busy: see `fmmloopy.execution.device.gpu_limits`.

    Functions with six sums or more, as with derivatives of vectors, get fewer work-items, whose sums fit.
    """
    everywhere = {"l.0": "t"}
    sums = [f"v{row}" for row in range(steps.sums(knl))]
    while lanes > 1 and len(sums) * (lanes + 1) * sources * steps.itemsize(knl) > gpu_steps.LOCAL_BYTES:
        lanes, sources = lanes // 2, sources // 2
    knl = gpu_steps.pad_rows(gpu_steps.mutual_items(knl, lanes, sources), *sums)
    # Loopy puts a barrier before sums are cleared, first in a branch: there, PoCL 3.0 and 3.1 mix up work-items.
    knl = lp.add_barrier(
        knl,
        "id:back*",
        None,
        "next_tile",
        synchronization_kind="local",
        mem_kind="local",
        within_inames=frozenset(["iunit", "ipair", "stile"]),
    )
    yield "one work-group per unit, points of one box as work-items", gpu_steps.on_all_items(knl, everywhere)
    knl = gpu_steps.on_all_items(gpu_steps.seeded_rsqrt(knl), everywhere)
    yield "reciprocal square roots from the unit's approximation", knl
    knl = steps.share_factors(knl)
    yield "shared factors, one test for coinciding points", knl


def dense(knl: Kernel, *, boxes: int = 64, rows: int = 16, columns: int = 16) -> Steps:
    """Each box is a work-item with 16 sums in registers; the group stages 16 columns of the matrix at a time."""
    knl = gpu_steps.register_block(knl, boxes, rows)
    yield "one work-item per box", gpu_steps.on_all_items(knl, {"l.0": "b"})
    knl = gpu_steps.stage_matrix(knl, boxes, columns)
    yield "matrix staged in local memory", gpu_steps.on_all_items(knl, {"l.0": "b"})


def m2l(knl: Kernel) -> Steps:
    """The dense reference form: each row of a tile is a work-item, so that neighbours read neighbouring entries."""
    knl = gpu_steps.one_each(fix_lanes(knl, ilanes=16), "i")
    knl = lp.tag_inames(knl, {"i": "l.0", "ibox": "g.0", "itile": "g.1"})
    yield "one work-item per row", gpu_steps.on_all_items(knl, {"l.0": "i", "g.1": "itile"})


def m2l_svd(knl: Kernel, *, pairs: int = 32, rows: int = 16) -> Steps:
    """Each work-item is a pair of boxes, with a tile of singular values and a tile of rows in registers."""
    knl = lp.rename_iname(fix_lanes(knl, blanes=pairs, ilanes=rows), "b2", "b", existing_ok=True)
    knl = gpu_steps.one_each(knl, "b")
    for iname, phase, ids in (
        ("k", "init", "init_w"),
        ("k", "store", "store_w"),
        ("i", "init", "init_u"),
        ("i", "store", "store"),
    ):
        knl = lp.duplicate_inames(knl, iname, within=f"id:{ids}", new_inames=[f"{iname}_{phase}"])
    knl = lp.tag_inames(knl, {"b": "l.0", "chunk": "g.0"})
    knl = steps.unroll(knl, "k", "k_init", "k_store", "m", "i", "i_init", "i_store")
    # Work-items add to the same boxes for different transfer vectors.
    knl = lp.add_barrier(
        knl,
        "id:pair_end",
        "id:store",
        "next_transfer",
        synchronization_kind="local",
        mem_kind="global",
        within_inames=frozenset(["chunk", "transfer"]),
    )
    yield "one work-item per pair of boxes", gpu_steps.on_all_items(knl, {"l.0": "b"})


def m2l_forward(knl: Kernel, *, octets_last: bool = False) -> Steps:
    """The eight siblings and the rows of a plane are work-items; the planes of an octet are in local memory.

    For ``octets_last`` see `m2l_hadamard`.
    """
    if octets_last:
        knl = gpu_steps.octets_last(knl, "Mr", "Mi")
    period = int(str(knl.default_entrypoint.arg_dict["dft_r"].shape[1]))
    knl = lp.rename_iname(knl, "j_child", "j_load", existing_ok=True)
    knl = lp.split_iname(knl, "s", period, inner_iname="s_row", outer_iname="s_tile")
    knl = gpu_steps.rows_as_items(
        knl,
        sums={"j_load": ["child"], **{f"j{k}": [f"a{k}r", f"a{k}i"] for k in (1, 2, 3)}},
        local=("grid", "g1r", "g1i", "g2r", "g2i"),
        siblings=("j_zero", "j_load", "j1", "j2", "j3"),
        rows=("s_row", "gy", "y1", "k2", "l3"),
    )
    knl = lp.tag_inames(knl, {"octet": "g.0"})
    yield "siblings and rows of a plane as work-items", lp.add_inames_to_insn(knl, "s_row", "id:child")


def m2l_inverse(knl: Kernel, *, octets_last: bool = False) -> Steps:
    """Like `m2l_forward`, backwards."""
    if octets_last:
        knl = gpu_steps.octets_last(knl, "Lr", "Li")
    period = int(str(knl.default_entrypoint.arg_dict["dft_r"].shape[1]))
    knl = lp.rename_iname(knl, "i_child", "i_store", existing_ok=True)
    for iname in ("s_zero", "s", "s_store"):
        knl = lp.split_iname(knl, iname, period, inner_iname=f"{iname}_row", outer_iname=f"{iname}_tile")
    knl = gpu_steps.rows_as_items(
        knl,
        sums={"i_store": ["child"], "i1": ["a1r", "a1i"], "i2": ["a2r", "a2i"]},
        local=("v", "h1r", "h1i", "h2r", "h2i"),
        siblings=("i_zero", "i_store", "i1", "i2", "i3"),
        rows=("s_zero_row", "s_row", "s_store_row", "k1y", "y2"),
    )
    knl = lp.tag_inames(knl, {"octet": "g.0"})
    knl = lp.add_inames_to_insn(knl, "s_store_row", "id:child")
    siblings = frozenset({"i3", "i3_in", "i3_group"} & knl.default_entrypoint.all_inames())
    knl = lp.add_inames_to_insn(knl, siblings, "id:sx or id:sy or id:sz")
    yield "siblings and rows of a plane as work-items", knl


def m2l_hadamard(knl: Kernel, *, pairs: int = 32, rows: int = 4, octets_last: bool = False) -> Steps:
    """Each work-item has four of the eight target siblings of a pair of octets: more rows spill registers in f64.

    With ``octets_last``, to be given to all three stages, spectra are [frequency][sibling][octet]. Work-items of a warp
    have neighbouring octets, and so they read and add to neighbouring numbers here, but the transforms read and write
    numbers that are far apart. Which takes less time has not been measured.
    """
    if octets_last:
        knl = gpu_steps.octets_last(knl, "Mr", "Mi", "Lr", "Li")
    knl = gpu_steps.one_each(fix_lanes(knl, blanes=pairs), "b")
    knl = lp.unprivatize_temporaries_with_inames(knl, {"i"}, {"ur", "ui"})
    knl = lp.split_iname(knl, "i", rows, outer_iname="i_item", inner_iname="i_row", outer_tag="l.1")
    knl = lp.privatize_temporaries_with_inames(knl, "i_row", frozenset({"ur", "ui"}))
    for phase in ("init", "store"):
        knl = lp.duplicate_inames(knl, "i_row", within=f"id:{phase}r or id:{phase}i", new_inames=[f"i_{phase}"])
    knl = lp.tag_inames(knl, {"b": "l.0", "chunk": "g.0", "f": "g.1"})
    knl = steps.unroll(knl, "i_init", "i_store", "i_row", "j")
    # Work-items add to the same octets in different directions.
    knl = lp.add_barrier(
        knl,
        "id:pair_end",
        "id:storer or id:storei",
        "next_direction",
        synchronization_kind="local",
        mem_kind="global",
        within_inames=frozenset(["f", "chunk", "d"]),
    )
    yield "one work-item per pair of octets", gpu_steps.on_all_items(knl, {"l.0": "b", "l.1": "i_item"})


def is_gpu(device: Any) -> bool:
    """GPUs through CUDA or OpenCL."""
    return bool(device.kind == "gpu")


def wide_wavefronts(device: Any) -> bool:
    """GPUs that run 64 work-items as one: AMD's CDNA cards.

    A group of 32 work-items leaves half of a wavefront idle. With one target each instead of two, 64 work-items take
    48 registers on gfx90a in f32 for potentials with gradients, and 90 in f64.
    """
    return bool(device.width == 64)


def slow_float64(device: Any) -> bool:
    """GPUs whose double precision takes 16 times as long as single precision or more: consumer cards.

    For sm_89, NVRTC keeps 8 bytes of M2M's registers in memory with 16 columns of the matrix staged, and none with 32.
    These cost no instructions, on sm_86 and sm_120 neither.
    """
    return bool(device.has_slow_float64)


BOOK = RecipeBook(
    "gpu",
    device=is_gpu,
    recipes={
        **dict.fromkeys(PARTICLE_OPERATORS, particles),
        "p2p_mutual": p2p_mutual,
        **dict.fromkeys(DENSE_OPERATORS, dense),
        "m2l": m2l,
        "m2l_svd": m2l_svd,
        "m2l_forward": m2l_forward,
        "m2l_hadamard": m2l_hadamard,
        "m2l_inverse": m2l_inverse,
    },
    tuning={
        **{
            key: {"targets": (32, 64), "each": (1, 2), "sources": (16, 32, 64), "roots": ("seeded", "sqrt")}
            for key in PARTICLE_OPERATORS
        },
        "p2p_mutual": {"lanes": (16, 32), "sources": (32, 64)},
        **{key: {"boxes": (32, 64), "rows": (8, 16), "columns": (8, 16, 32)} for key in DENSE_OPERATORS},
        "m2l_hadamard": {"pairs": (32, 64), "rows": (2, 4)},
        "m2l_svd": {"pairs": (32, 64), "rows": (8, 16)},
    },
    by_device={
        **{key: {wide_wavefronts: {"each": 1}} for key in PARTICLE_OPERATORS},
        "m2m": {slow_float64: {"columns": 32}},
        "m2l_svd": {wide_wavefronts: {"pairs": 64}},
    },
)
