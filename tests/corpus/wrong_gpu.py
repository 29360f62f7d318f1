"""Mistakes in the schedules of the book for GPUs: barriers left out, tiles that only some work-items stage, races.

Every mistake is found as OpenCL and as CUDA text on the emulated GPU.
"""

from __future__ import annotations

import loopy as lp

from corpus.entries import ANY_RUN, Wrong, wrong
from corpus.mistakes import Edit, Kernel, guard, retarget, rewrite, statement, then, without_barriers
from fmmloopy.recipes import shipped_books
from fmmloopy.transforms import gpu_steps

BOOK = shipped_books()["gpu"]


def _last_step(operator: str) -> Edit:
    """Schedule a kernel as the book does."""

    def edit(knl: Kernel) -> Kernel:
        *_, (_, scheduled) = BOOK.recipes[operator](knl)
        return scheduled

    return edit


def _without(statement: str) -> Edit:
    """Remove a statement that nothing reads, such as a barrier."""

    def edit(knl: Kernel) -> Kernel:
        kernel = knl.default_entrypoint
        kept = [i.copy(depends_on=i.depends_on - {statement}) for i in kernel.instructions if i.id != statement]
        assert len(kept) == len(kernel.instructions) - 1
        return knl.with_kernel(kernel.copy(instructions=kept))

    return edit


def _flat(name: str, size: int) -> Edit:
    """Give a temporary array one axis of this size."""

    def edit(knl: Kernel) -> Kernel:
        kernel = knl.default_entrypoint
        flat = kernel.temporary_variables[name].copy(shape=(size,), dim_tags=None, dim_names=None)
        return knl.with_kernel(kernel.copy(temporary_variables={**kernel.temporary_variables, name: flat}))

    return edit


def _targets_as_items(knl: Kernel) -> Kernel:
    """Schedule a particle operator up to its first step."""
    return gpu_steps.on_all_items(gpu_steps.work_item_tiles(knl, 4, 2, 6), {"l.0": "t_item"})


def _sources_as_items(knl: Kernel) -> Kernel:
    """Deal out sources over a second axis of work-items."""
    return gpu_steps.on_all_items(lp.split_iname(knl, "s", 3, outer_iname="s_item", outer_tag="l.1"), {"l.1": "s_item"})


def _late(
    operator: str, family: str, layer: str, name: str, effect: str, mistake: Edit, also: tuple[str, ...] = ()
) -> Wrong:
    return wrong(
        operator, family, layer, f"GPU, {name}", effect, mistake, schedule=_last_step(operator), late=True, also=also
    )


ENTRIES: tuple[Wrong, ...] = (
    _late("p2p", "missing barrier", "exact", "no barrier after sources and charges are staged",
          "sources of the tile before, unless all work-items run in step",
          without_barriers("[yq]*", "stage_source", "stage_charge"), also=ANY_RUN),
    _late("l2p", "missing barrier", "exact", "no barrier after the charges are staged",
          "charges of the tile before, unless all work-items run in step",
          without_barriers("q*", "stage_charge"), also=ANY_RUN),
    _late("m2m", "missing barrier", "exact", "no barrier after the matrix is staged",
          "entries of the columns before, unless all work-items run in step",
          without_barriers("sum", "stage_table"), also=ANY_RUN),
    _late("m2l_hadamard", "race", "sanitized", "no barrier between directions",
          "work-items overwrite each other's sums where two directions meet at an octet",
          _without("next_direction"), also=("exact", "numerical")),
    _late("m2l_svd", "race", "sanitized", "no barrier between transfer vectors",
          "work-items overwrite each other's sums where two transfer vectors meet at a box",
          _without("next_transfer"), also=("exact", "numerical")),
    _late("l2l", "wrong footprint", "exact", "half of the work-items stage the matrix",
          "half of the entries are those of the columns before",
          guard("stage_table", "load_table_inner < 32"), also=ANY_RUN),
    _late("m2p", "wrong footprint", "exact", "one coordinate of the sources is not staged",
          "z of the sources is what was in local memory",
          guard("stage_source", "k_source < 2"), also=ANY_RUN),
    _late("p2l", "uninitialized", "exact", "the last charge of a tile is not staged",
          "one charge in 32 is what was in local memory",
          guard("stage_charge", "s_charge < 31"), also=ANY_RUN),
    _late("m2l_forward", "wrong footprint", "exact", "planes cleared over one of two axes of work-items",
          "rows but the first have what was in local memory",
          guard("zero", "gy < 1"), also=ANY_RUN),
    _late("check_to_equivalent", "wrong footprint", "exact", "rows of 17 against bank conflicts, read as rows of 16",
          "entries of the matrix are those of other rows",
          then(_flat("table_tile", 17 * 16),
               retarget("stage_table", ("load_table_outer*64) // 16 + 0, (", "load_table_outer*64) // 16 * 17 + (")),
               rewrite("sum", ("table_tile[j_in, i]", "table_tile[16*j_in + i]"))), also=ANY_RUN),
    _late("p2m", "missing barrier", "exact", "no barriers, because a warp runs in step",
          "sources of other tiles: since Volta, work-items of a warp need not run in step",
          then(without_barriers("stage_*", "y0", "y1", "y2", "q0"),
               without_barriers("[yq]*", "stage_source", "stage_charge")), also=ANY_RUN),
    _late("m2p", "overflow", "hostile", "box and work-group in one number of 32 bits",
          "boxes from number 2,148 on are others",
          then(statement("flat = 999983*box + ibox % 999983", like="box", name="flat", dep=("box",),
                         before="tgt_start"),
               rewrite("tgt_start", ("[box]", "[flat // 999983]"))), also=("exact",)),
    wrong("p2p", "race", "sanitized", "GPU, two work-items add to a target",
          "work-items overwrite each other's sums; right where they run one after the other",
          _sources_as_items, schedule=_targets_as_items, late=True, also=("exact", "numerical")),
)  # fmt: skip
