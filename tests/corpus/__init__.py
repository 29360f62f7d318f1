"""Wrong recipes, each made from a right one by a single mistake, and right recipes unlike the shipped ones.

The checker must reject all of the first, in the right layer and at the right step, and pass all of the second.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from corpus import (
    right,
    right_limits,
    wrong_arithmetic,
    wrong_branches,
    wrong_dense,
    wrong_gpu,
    wrong_limits,
    wrong_m2l_fft,
    wrong_m2l_svd,
    wrong_mutual,
    wrong_particles,
    wrong_work_items,
)
from corpus.entries import LAYERS, Right, Wrong
from fmmloopy.operators import OPERATORS

WRONG: tuple[Wrong, ...] = (
    *wrong_particles.ENTRIES,
    *wrong_mutual.ENTRIES,
    *wrong_arithmetic.ENTRIES,
    *wrong_work_items.ENTRIES,
    *wrong_dense.ENTRIES,
    *wrong_m2l_fft.ENTRIES,
    *wrong_m2l_svd.ENTRIES,
    *wrong_limits.ENTRIES,
    *wrong_branches.ENTRIES,
    *wrong_gpu.ENTRIES,
)
RIGHT: tuple[Right, ...] = (*right.ENTRIES, *right_limits.ENTRIES)


def tables() -> str:
    """Write two tables in Markdown: how many wrong recipes each layer finds, by operator and by family of mistakes."""
    families = sorted({entry.family for entry in WRONG})
    by_operator = Counter((entry.operator, entry.layer) for entry in WRONG)
    by_family = Counter((entry.family, entry.layer) for entry in WRONG)
    accepted = Counter(entry.operator for entry in RIGHT)
    return "\n".join(
        [
            *_table("operator", OPERATORS, by_operator, {"right": accepted}),
            "",
            *_table("mistake", families, by_family, {}),
        ]
    )


def _table(
    what: str, rows: Sequence[str], counts: Counter[tuple[str, str]], more: dict[str, Counter[str]]
) -> list[str]:
    heads = [what, *LAYERS, "wrong", *more]
    lines = ["| " + " | ".join(heads) + " |", "|---" + "|---:" * (len(heads) - 1) + "|"]
    for row in rows:
        numbers = [counts[row, layer] for layer in LAYERS]
        numbers += [sum(numbers), *(column[row] for column in more.values())]
        lines.append("| " + " | ".join([row, *(str(n or "") for n in numbers)]) + " |")
    totals = [sum(counts[row, layer] for row in rows) for layer in LAYERS]
    totals += [sum(totals), *(column.total() for column in more.values())]
    lines.append("| " + " | ".join(["all", *map(str, totals)]) + " |")
    return lines
