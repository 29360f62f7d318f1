"""Report what was chosen for an evaluation and why, and compare predicted with measured times."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from fmmloopy.accuracy import Estimate
from fmmloopy.choosing.cost_model import Choice, Rates, UnknownRate
from fmmloopy.choosing.work import Work
from fmmloopy.common.messages import counted


@dataclass(frozen=True)
class Row:
    """One operator.

    Attributes:
        operator: name of the operator.
        work: its work in one evaluation without gradients.
        predicted: seconds from the rates of the device; None without rates.
        measured: seconds in the last evaluation, by the device's clock; None before the first.
    """

    operator: str
    work: Work
    predicted: float | None
    measured: float | None

    @property
    def ratio(self) -> float | None:
        """Measured over predicted seconds."""
        return self.measured / self.predicted if self.measured and self.predicted else None


@dataclass(frozen=True)
class KernelRow:
    """One kernel that runs.

    Attributes:
        operator: name of the operator.
        greens: name of the Green's function, with its gradient or without.
        types: types of the kernel: float32, float64 or mixed.
        state: proved, tested, sequential, unknown or wrong, see `fmmloopy.checking.kernels.KernelState`.
        reason: why it is not proved; "" if nothing is in the way.
        tests: the layers that a tested kernel has passed, and the sizes; what tests of functions a proof rests on.
    """

    operator: str
    greens: str
    types: str
    state: str
    reason: str = ""
    tests: str = ""

    @property
    def words(self) -> str:
        """The state, and how a kernel was tested if it was."""
        return f"{self.state} ({self.tests})" if self.tests else self.state


@dataclass(frozen=True)
class PlanReport:
    """What was chosen, why, and how fast it is; ``str()`` gives a text table, a notebook shows it as HTML.

    Attributes:
        nsources, ntargets: numbers of points.
        digits: the wanted digits; None if an order was given instead.
        order, precision, book, device: what is used.
        expected: the expected error, and where it is from; None if it was not predicted yet, as `Fmm.error_estimate`
            does.
        choice: ncrit and the form of M2L, the reason, and the candidates.
        fft_alone: why no other form of M2L was compared; None if one was, or if the form was given.
        rates: where the rates of this device for predictions are from; "none" if there are none.
        rows: one for each operator, for the actual tree.
        more: what the last evaluation computed beside potentials of charges, which the predictions do not include.
        evaluate: wall-clock seconds of the last evaluation; None before the first.
        kernels: what is known of each kernel that was used so far.
    """

    nsources: int
    ntargets: int
    digits: float | None
    order: int
    choice: Choice
    fft_alone: str | None
    precision: str
    book: str
    device: str
    rates: str
    rows: tuple[Row, ...]
    more: str
    evaluate: float | None
    kernels: tuple[KernelRow, ...] = ()
    expected: Estimate | None = None

    def __str__(self) -> str:
        lines = [f"{name:12}{text}" for name, text in self._facts()]
        for headings, rows in self._tables():
            lines += ["", *text_table(headings, rows)]
        return "\n".join([*lines, *self._remarks()])

    def _repr_html_(self) -> str:
        """Return the same for a notebook."""
        parts = [html_table((), self._facts(), "left")]
        parts += [html_table(headings, rows, "right") for headings, rows in self._tables()]
        parts += [f"<p>{escape(remark)}</p>" for remark in self._remarks()]
        return "\n".join(parts)

    def _facts(self) -> list[tuple[str, str]]:
        choice = self.choice
        order = "as given" if self.digits is None else f"the lowest for {self.digits:g} digits"
        return [
            ("points", f"{counted(self.nsources, 'source')}, {counted(self.ntargets, 'target')}"),
            ("device", self.device),
            ("recipes", f"{self.book}, {self.precision} precision"),
            ("order", f"{self.order}: {order}"),
            ("error", str(self.expected or "not predicted yet; Fmm.error_estimate predicts it")),
            ("ncrit, M2L", f"{choice.ncrit}, {choice.m2l}: {choice.reason}"),
            *([("", f"fft alone: {self.fft_alone}")] if self.fft_alone else []),
            ("rates", self.rates),
        ]

    def _tables(self) -> Iterator[tuple[Sequence[str], Sequence[Sequence[str]]]]:
        """Yield headings and rows: what was compared, if anything was, and the operators."""
        choice = self.choice
        if choice.candidates:
            cells = [
                (
                    f"{c.ncrit}{'*' if (c.ncrit, c.m2l) == (choice.ncrit, choice.m2l) else ' '}",
                    c.m2l,
                    f"{c.nboxes:,}",
                    milliseconds(c.total),
                )
                for c in choice.candidates
            ]
            yield ("ncrit ", "M2L", "boxes", "predicted ms"), cells
        total = [_sum([row.predicted for row in self.rows]), _sum([row.measured for row in self.rows])]
        rows = [_cells(row.operator, row.work, row.predicted, row.measured) for row in self.rows]
        rows.append(_cells("all of these", None, *total))
        yield ("operator", "work", "predicted ms", "measured ms", "ratio"), rows
        if self.kernels:
            yield (
                ("kernel", "function", "types", "state"),
                [(k.operator, k.greens, k.types, k.words) for k in self.kernels],
            )

    def _remarks(self) -> list[str]:
        remarks = []
        if self.evaluate is not None:
            took = milliseconds(self.evaluate)
            remarks.append(f"The last evaluation took {took} ms, including transfers and permutations.")
        if self.more:
            longer = "P2P, L2P and M2P" if self.more == "gradients" else "operators"
            text = f"It also computed {self.more}, which predictions do not include, so {longer} took longer."
            remarks.append(text)
        return remarks


def make_rows(work: Mapping[str, Work], rates: Rates | None, measured: Mapping[str, float]) -> tuple[Row, ...]:
    """Combine predicted and measured times of every operator that has work."""

    def predict(operator: str, amount: Work) -> float | None:
        try:
            return rates.seconds_of(operator, amount) if rates else None
        except UnknownRate:  # the probes had no work for it
            return None

    return tuple(
        Row(name, amount, predict(name, amount), measured.get(name)) for name, amount in work.items() if amount.flops
    )


def _cells(name: str, work: Work | None, predicted: float | None, measured: float | None) -> tuple[str, ...]:
    amount = ""
    if work:
        amount = f"{work.pairs:.3g} pairs" if work.pairs else f"{work.flops:.3g} flop"
    ratio = f"{measured / predicted:.2f}" if measured and predicted else ""
    return name, amount, milliseconds(predicted), milliseconds(measured), ratio


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def milliseconds(seconds: float | None) -> str:
    """Return seconds as milliseconds; "" for None."""
    if seconds is None:
        return ""
    return f"{1e3 * seconds:.0f}" if seconds >= 0.1 else f"{1e3 * seconds:.3g}"


def text_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Align columns, the first to the left and all others to the right."""
    lines = [headings, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(headings))]
    return [
        "  ".join(cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    ]


def html_table(headings: Sequence[str], rows: Sequence[Sequence[str]], align: str) -> str:
    """Write a table, its first column to the left and the others as given."""

    def line(cells: Sequence[str], tag: str) -> str:
        aligned = [
            f'<{tag} style="text-align: {align if i else "left"}">{escape(c)}</{tag}>' for i, c in enumerate(cells)
        ]
        return f"<tr>{''.join(aligned)}</tr>"

    head = f"<thead>{line(headings, 'th')}</thead>" if headings else ""
    return f"<table>{head}<tbody>{''.join(line(row, 'td') for row in rows)}</tbody></table>"
