"""Check entries of the corpus, several in a book, and say which were judged as they should be.

The test suite does this with some entries, `.ci/corpus` with all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from corpus.entries import LAYERS, Right, Wrong
from fmmloopy.checking.check import check_book
from fmmloopy.checking.proofs import Proof
from fmmloopy.checking.report import Finding, Report
from fmmloopy.execution.devices import Device
from fmmloopy.recipes import RecipeBook

AT_ONCE = 8
"""Recipes in a book: a book is checked in processes of its own, which take seconds to start."""

Group = tuple[Wrong | Right, ...]


def groups(entries: Sequence[Wrong | Right]) -> Iterator[Group]:
    """Yield entries in groups that fit in one book: each of another operator, all checked in the same way."""
    waiting = list(entries)
    while waiting:
        taken: dict[str, Wrong | Right] = {}
        for entry in waiting:
            if len(taken) < AT_ONCE and entry.operator not in taken and _alike(entry, waiting[0]):
                taken[entry.operator] = entry
        waiting = [entry for entry in waiting if entry not in taken.values()]
        yield tuple(taken.values())


def _alike(one: Wrong | Right, other: Wrong | Right) -> bool:
    if isinstance(one, Right) or isinstance(other, Right):
        return one.dtypes == other.dtypes
    alone = "fmm" in (one.layer, other.layer) and one is not other
    return not alone and (one.level, one.dtype) == (other.level, other.dtype)


def check(group: Group, device: Device, all_dtypes: bool = True) -> Report:
    """Check a group as one book; right recipes in all their types, or else in the first."""
    recipes = {entry.operator: entry.recipe for entry in group}
    tuning = {e.operator: e.tuning for e in group if isinstance(e, Wrong) and e.tuning}
    first = group[0]
    book = RecipeBook(f"corpus, {first.id}", device="", recipes=recipes, tuning=tuning)
    dtypes, level = ([first.dtype], first.level) if isinstance(first, Wrong) else (first.dtypes, "quick")
    dtypes = dtypes if all_dtypes else dtypes[:1]
    return check_book(book, device=device, dtypes=dtypes, level=level)


@dataclass(frozen=True)
class Verdict:
    """What a check said of one entry.

    Attributes:
        entry: a recipe of the corpus.
        layers: that found something, in the order of the check; none if it was accepted.
        complaint: what should have been said and was not; empty if the verdict is right.
        proved: whether all its kernels that the check looks at are proved for all sizes.
    """

    entry: Wrong | Right
    layers: tuple[str, ...]
    complaint: str = ""
    proved: bool = False


def judge(entry: Wrong | Right, findings: Sequence[Finding], proofs: Sequence[Proof] = ()) -> Verdict:
    """Pick what a check of its group has found about an entry, and compare it with what should be found.

    A wrong recipe has to be rejected by its layer alone, at the step of the mistake; a right one has to be accepted.
    """
    whole = not isinstance(entry, Wrong) or entry.layer == "fmm"
    mine = [f for f in findings if f.operator == entry.operator or (whole and f.operator == "")]
    layers = tuple(layer for layer in LAYERS if layer in {f.layer for f in mine})
    said = "; ".join(map(str, mine))
    if isinstance(entry, Right):
        shown = [proof.proved for proof in proofs if proof.operator == entry.operator]
        complaint = f"it is right, and was rejected: {said}" if mine else ""
        return Verdict(entry, layers, complaint, bool(shown) and all(shown))
    if not mine:
        return Verdict(entry, layers, "it is wrong, and was accepted")
    # Where a proof fails there may be an input on which results differ, found before the layers that come later.
    earlier = ("symbolic",) if LAYERS.index(entry.layer) > LAYERS.index("symbolic") else ()
    if entry.layer == "hostile":  # which compares the same on other inputs
        earlier += ("exact",)
    if len(layers) > 1 or layers[0] not in (entry.layer, *entry.also, *earlier):
        expected = " or ".join((entry.layer, *entry.also))
        return Verdict(entry, layers, f"rejected by {', '.join(layers)}, expected {expected}: {said}")
    steps = {f.step for f in mine}
    if steps != {entry.step}:
        return Verdict(entry, layers, f"rejected at {', '.join(sorted(steps))}, expected {entry.step}: {said}")
    return Verdict(entry, layers)


def report(verdicts: Sequence[Verdict], head: Mapping[str, str]) -> str:
    """Write a run down in Markdown.

    Args:
        verdicts: of the run.
        head: what a reader has to know of it, such as its date.

    Returns:
        A list of that, a table of the wrong recipes by family of mistakes and by the layer that rejected them, one of
        the right recipes by operator, and what was not as it should be.
    """
    wrong = [v for v in verdicts if isinstance(v.entry, Wrong)]
    right = [v for v in verdicts if isinstance(v.entry, Right)]
    by_family = {
        family: [v for v in wrong if v.entry.family == family] for family in sorted({v.entry.family for v in wrong})
    }
    by_operator: dict[str, list[Verdict]] = {}
    for verdict in right:
        by_operator.setdefault(verdict.entry.operator, []).append(verdict)
    rejected = [(name, *_by_layer(found)) for name, found in by_family.items()]
    accepted = [
        (name, len(found), sum(not v.layers for v in found), sum(v.proved for v in found))
        for name, found in by_operator.items()
    ]
    complaints = [f"- {v.entry.id}: {v.complaint}" for v in verdicts if v.complaint]
    blocks = [
        "\n".join(f"- {name}: {value}" for name, value in head.items()),
        _table(("mistake", "wrong", *(f"rejected by {layer}" for layer in LAYERS), "accepted"), rejected),
        _table(("operator", "right", "accepted", "proved"), accepted),
        "\n".join(["Not as it should be:", "", *complaints]) if complaints else "All verdicts were as they should be.",
    ]
    return "\n\n".join(block for block in blocks if block)


def _by_layer(verdicts: Sequence[Verdict]) -> tuple[int, ...]:
    """Count verdicts, those of each layer, which is the first that found something, and those of none."""
    first = Counter(v.layers[0] if v.layers else "" for v in verdicts)
    return len(verdicts), *(first[layer] for layer in LAYERS), first[""]


def _table(heads: Sequence[str], rows: Sequence[tuple[str | int, ...]]) -> str:
    """Write a table whose last row has the sums; nothing without rows."""
    if not rows:
        return ""
    sums = ("all", *(sum(int(number) for number in column) for column in list(zip(*rows, strict=True))[1:]))
    lines = ["| " + " | ".join(str(cell or "") for cell in row) + " |" for row in (*rows, sums)]
    return "\n".join(["| " + " | ".join(heads) + " |", "|---" + "|---:" * (len(heads) - 1) + "|", *lines])
