"""What a check found."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from fmmloopy.checking.proofs import Proof, summary
from fmmloopy.precision import MIXED


@dataclass(frozen=True)
class Finding:
    """One way in which a recipe is wrong.

    Attributes:
        book, operator: book and operator of the recipe.
        dtype: float32, float64, mixed, or, for whole evaluations, reduced; several if the error is the same in all, as
            in ``"float64 and float32"``.
        layer: static, symbolic, exact, hostile, numerical, sanitized or fmm.
        step: the first failing step, such as ``"2 'split sources'"``; empty if unknown.
        message: what is wrong, in one line.
        case: the smallest input that reproduces it, in words; empty if the layer has no input, or it was not shrunk.
        reproducer: path of a program that reproduces it without fmmloopy; empty if it was not requested or impossible.
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
        book, device: the book that was checked, and the device.
        level: quick or full.
        operators, dtypes: the operators and precisions that were checked.
        findings: what is wrong; empty if the book is certified.
        skipped: layers that could not run here, with the reason.
        seconds: duration of the check.
        proofs: which kernels are proved for all sizes, and what is in the way of the others, which are tested.
    """

    book: str
    device: str
    level: str
    operators: tuple[str, ...]
    dtypes: tuple[str, ...]
    findings: tuple[Finding, ...]
    skipped: tuple[str, ...]
    seconds: float = field(compare=False)
    proofs: tuple[Proof, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings

    def as_dict(self) -> dict[str, Any]:
        """Return the report as a dictionary for JSON."""
        return {"ok": self.ok, **asdict(self)}

    @property
    def proved(self) -> list[str]:
        """Lines that say which operators are proved for all sizes, and what is in the way of the others."""
        return summary(self.proofs)


def merged(findings: Sequence[Finding]) -> list[Finding]:
    """Merge findings that are the same in several precisions except for numbers; one program reproduces them.

    A failure of a mixed kernel is dropped if another kernel fails at the same step.
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
    """Return a message without numbers, except for the parameters of the recipe."""
    chosen, separator, rest = message.partition(": ") if message.startswith("with ") else ("", "", message)
    return chosen + separator + re.sub(r"(?<![\w.])-?(\d+\.?\d*(e[+-]?\d+)?|nan|inf)", "#", rest)
