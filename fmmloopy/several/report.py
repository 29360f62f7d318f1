"""Report what each part of a problem does, and how long it takes."""

from __future__ import annotations

from dataclasses import dataclass

from fmmloopy.choosing.report import PlanReport, html_table, milliseconds, text_table


@dataclass(frozen=True)
class PartReport:
    """A part.

    Attributes:
        device: name of its device.
        nsources, ntargets: its own points.
        nghosts: sources of other parts that its targets are near to.
        working: seconds of the operators in the last evaluation; None before the first.
        waiting: seconds in which its device waited for multipoles of other parts.
        plan: what was chosen and why, with predicted and measured times of each operator.
    """

    device: str
    nsources: int
    ntargets: int
    nghosts: int
    working: float | None
    waiting: float | None
    plan: PlanReport


@dataclass(frozen=True)
class PartsReport:
    """All parts; ``str()`` gives a table of them and the report of the slowest, a notebook shows it as HTML.

    Attributes:
        parts: one report for each part, in order.
    """

    parts: tuple[PartReport, ...]

    @property
    def slowest(self) -> int:
        """The number of the part whose operators took longest, or that has the most targets before they were timed."""
        return max(range(len(self.parts)), key=lambda n: (self.parts[n].working or 0.0, self.parts[n].ntargets))

    def __str__(self) -> str:
        return "\n".join([*text_table(_HEADINGS, self._rows()), "", self._title, str(self.parts[self.slowest].plan)])

    def _repr_html_(self) -> str:
        slowest = self.parts[self.slowest].plan._repr_html_()
        return f"{html_table(_HEADINGS, self._rows(), 'right')}\n<h4>{self._title}</h4>\n{slowest}"

    @property
    def _title(self) -> str:
        return f"Part {self.slowest}, the slowest" if len(self.parts) > 1 else "Part 0"

    def _rows(self) -> list[tuple[str, ...]]:
        return [
            (
                f"{number}{'*' if number == self.slowest else ' '}",
                part.device,
                f"{part.nsources:,}",
                f"{part.ntargets:,}",
                f"{part.nghosts:,}",
                milliseconds(part.working),
                milliseconds(part.waiting),
            )
            for number, part in enumerate(self.parts)
        ]


_HEADINGS = ("part", "device", "sources", "targets", "ghosts", "operators ms", "waiting ms")
