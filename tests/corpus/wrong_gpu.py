"""Mistakes in the schedules of the book for GPUs: barriers left out, tiles that only some work-items stage, races."""

from __future__ import annotations

from corpus.entries import ANY_RUN, Wrong, wrong
from corpus.mistakes import Edit, Kernel, guard, without_barriers
from fmmloopy.recipes import shipped_books

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
          _without("next_direction"), also=("exact",)),
    _late("m2l_svd", "race", "sanitized", "no barrier between transfer vectors",
          "work-items overwrite each other's sums where two transfer vectors meet at a box",
          _without("next_transfer"), also=("exact",)),
    _late("l2l", "wrong footprint", "exact", "half of the work-items stage the matrix",
          "half of the entries are those of the columns before",
          guard("stage_table", "load_table_inner < 32"), also=ANY_RUN),
    _late("m2p", "wrong footprint", "exact", "one coordinate of the sources is not staged",
          "z of the sources is what was in local memory",
          guard("stage_source", "k_source < 2"), also=ANY_RUN),
    _late("p2l", "uninitialized", "exact", "the last charge of a tile is not staged",
          "one charge in 32 is what was in local memory",
          guard("stage_charge", "s_charge < 31"), also=ANY_RUN),
)  # fmt: skip
