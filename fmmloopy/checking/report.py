"""What a check found."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from fmmloopy.precision import MIXED


@dataclass(frozen=True)
class Finding:
    """One way in which a recipe is wrong.

    Attributes:
        book, operator: whose recipe.
        dtype: float32, float64, mixed, or of a whole evaluation reduced; where it is the same in several, all of them,
            as in ``"float64 and float32"``.
        layer: static, exact, hostile, numerical, sanitized or fmm.
        step: the first failing step, as ``"2 'split sources'"``; empty if unknown.
        message: what is wrong, in one line.
        case: the smallest input that shows it, in words; empty where the layer has no input, or it was not shrunk.
        reproducer: path of a program that shows it without fmmloopy; empty if none was asked for, or none is possible.
    """

    book: str
    operator: str
    dtype: str
    layer: str
    step: str
    message: str
    case: str = ""
    reproducer: str = ""

    def __str__(self) -> str:
        where = ", ".join(part for part in (self.book, self.operator, self.dtype) if part)
        at = f", first at step {self.step}" if self.step else ""
        with_input = f" (with {self.case})" if self.case else ""
        return f"{where}: {self.layer}{at}: {self.message}{with_input}"


@dataclass(frozen=True)
class Report:
    """What a check found.

    Attributes:
        book, device: what was checked, and on what.
        level: quick or full.
        operators, dtypes: which operators, in which precisions.
        findings: what is wrong; empty for a book that is certified.
        skipped: layers that could not be run here, and why.
        seconds: how long it took.
    """

    book: str
    device: str
    level: str
    operators: tuple[str, ...]
    dtypes: tuple[str, ...]
    findings: tuple[Finding, ...]
    skipped: tuple[str, ...]
    seconds: float = field(compare=False)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as what JSON can hold."""
        return {"ok": self.ok, **asdict(self)}


def merged(findings: Sequence[Finding]) -> list[Finding]:
    """Join findings that are the same in several precisions, whatever numbers they name; one program shows them.

    What fails in a mixed kernel at the step at which it fails in another says nothing new.
    """
    plain = {(f.operator, f.layer, f.step) for f in findings if f.dtype != MIXED.name}
    alike: dict[Finding, list[Finding]] = {}
    for finding in findings:
        if finding.dtype == MIXED.name and (finding.operator, finding.layer, finding.step) in plain:
            continue
        key = replace(finding, dtype="", case="", reproducer="", message=_without_numbers(finding.message))
        alike.setdefault(key, []).append(finding)
    return [replace(same[0], dtype=" and ".join(dict.fromkeys(f.dtype for f in same))) for same in alike.values()]


def _without_numbers(message: str) -> str:
    """Return a message without what it has found; what a recipe was called with stays."""
    chosen, separator, rest = message.partition(": ") if message.startswith("with ") else ("", "", message)
    return chosen + separator + re.sub(r"(?<![\w.])-?(\d+\.?\d*(e[+-]?\d+)?|nan|inf)", "#", rest)
