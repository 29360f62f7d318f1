"""Measure the gain of each step of a recipe: compare the kernel after every step with the sequential one, and time it.

A step whose kernel does not give the sequential kernel's results is marked as wrong and gets no rate, however fast.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fmmloopy.bookshelf.certificates import CERTIFIED, operator_status
from fmmloopy.checking.check import check_book, device_for
from fmmloopy.checking.layers import check_operator
from fmmloopy.checking.report import Finding
from fmmloopy.checking.request import Request
from fmmloopy.choosing.work import Work
from fmmloopy.common.isolation import ChildError, Worker
from fmmloopy.common.messages import one_line
from fmmloopy.execution.devices import Device, DeviceError
from fmmloopy.execution.generate import compile_operator
from fmmloopy.execution.launch import CompiledOperator
from fmmloopy.execution.runtime import Runtime, make_runtime
from fmmloopy.execution.setup import Setup
from fmmloopy.measuring.peaks import Peaks, peaks_by_dtype
from fmmloopy.measuring.roofline import Roofline, roofline
from fmmloopy.measuring.timing import Difference, OperatorTimer, Problem, Setting, Timing, compare, finite, make_problem
from fmmloopy.operators import OPERATORS
from fmmloopy.precision import Types
from fmmloopy.recipes.book import SEQUENTIAL, RecipeBook, RecipeError
from fmmloopy.recipes.load import load_recipes

Notify = Callable[[str], None]
"""Called with a description of the current activity."""


@dataclass(frozen=True)
class Rung:
    """A kernel after one step of a recipe.

    Attributes:
        number: 0 for the sequential kernel, then 1 for the first step.
        name: name of the step.
        timing: its times; None if it is wrong.
        wrong: what is wrong with it; empty if nothing is.
        gain: its time compared with that of the last correct rung before; None for the first.
    """

    number: int
    name: str
    timing: Timing | None
    wrong: str = ""
    gain: Difference | None = None


@dataclass(frozen=True)
class Ladder:
    """All steps of one recipe.

    Attributes:
        operator: the operator of the recipe.
        work: the work of one run of the operator.
        roofline: the limits of the processor.
        rungs: the sequential kernel, then every step.
    """

    operator: str
    work: Work
    roofline: Roofline
    rungs: tuple[Rung, ...]

    @property
    def unit(self) -> str:
        """Unit of its rates: pairs of points for operators on particles, operations for others."""
        return "Gpairs/s" if self.work.pairs else "GFLOP/s"

    def rate(self, seconds: float) -> float:
        """Return the rate of a run with this duration, in the ladder's unit."""
        return (self.work.pairs or self.work.flops) / seconds * 1e-9

    @property
    def total(self) -> Difference | None:
        """The time of the last correct rung compared with the sequential kernel's; None if there is no other."""
        right = [rung.timing for rung in self.rungs if rung.timing]
        return compare(right[-1], right[0]) if len(right) > 1 else None

    @property
    def ok(self) -> bool:
        """Whether every step is correct."""
        return not any(rung.wrong for rung in self.rungs)

    def as_dict(self) -> dict[str, Any]:
        """Return the contents as a dictionary for JSON."""
        return {
            "operator": self.operator,
            "ok": self.ok,
            "pairs": self.work.pairs,
            "flops": self.work.flops,
            "unit": self.unit,
            "limits": {name: {"seconds": s, "rate": self.rate(s)} for name, s in self.roofline.limits.items() if s},
            "binding": self.roofline.binding,
            "functions_without_peak": list(self.roofline.uncounted),
            "total_gain": self.total.ratio if self.total else None,
            "steps": [self._rung_as_dict(rung) for rung in self.rungs],
        }

    def _rung_as_dict(self, rung: Rung) -> dict[str, Any]:
        found: dict[str, Any] = {"number": rung.number, "name": rung.name, "wrong": rung.wrong}
        if rung.timing is None:
            return found
        median = rung.timing.median
        found |= {"seconds": list(rung.timing.seconds), "median": median, "spread": finite(rung.timing.spread)}
        found |= {"rate": self.rate(median), "share": self.roofline.share(median)}
        if rung.gain:
            found |= {"gain": rung.gain.ratio, "is_difference": rung.gain.is_one}
        return found


@dataclass(frozen=True)
class LadderReport:
    """The ladders of a book.

    Attributes:
        book, device: the book that was timed, and the device.
        setting: the problem.
        peaks: peaks of the processor, by the dtype that operators compute in.
        ladders: one for each operator that has work.
        idle: operators of the book without work in this problem, if no operators were given by name.
        findings: errors found by the check; None if there was no check.
    """

    book: str
    device: str
    setting: Setting
    peaks: Mapping[str, Peaks]
    ladders: tuple[Ladder, ...]
    idle: tuple[str, ...]
    findings: tuple[Finding, ...] | None

    @property
    def ok(self) -> bool:
        """Whether every step of every operator is correct, and the book certified if it was checked."""
        return not self.findings and all(ladder.ok for ladder in self.ladders)

    def as_dict(self) -> dict[str, Any]:
        """Return the contents as a dictionary for JSON."""
        return {
            "ok": self.ok,
            "book": self.book,
            "device": self.device,
            "setting": asdict(self.setting),
            "peaks": {dtype: peaks.as_dict() for dtype, peaks in self.peaks.items()},
            "certified": None if self.findings is None else not self.findings,
            "findings": [asdict(finding) for finding in self.findings or ()],
            "nothing_to_do": list(self.idle),
            "operators": [ladder.as_dict() for ladder in self.ladders],
        }


def climb(
    book: RecipeBook | str | Path,
    operators: Sequence[str] | None = None,
    device: str | Device | None = None,
    setting: Setting | None = None,
    peaks: Mapping[str, Peaks] | None = None,
    certify: bool = True,
    runs: int = 7,
    notify: Notify | None = None,
) -> LadderReport:
    """Time the kernel after every step of a book's recipes.

    Args:
        book: a book, its name, or the path of its file.
        operators: which operators; None for all that the book has a recipe for.
        device: the device to run on; None for the first that the book is for, or else the default device.
        setting: the problem; None for 100,000 points on the sphere at order 6 in float64.
        peaks: peaks of the processor, by the dtype that operators compute in; None to look them up or measure them.
        certify: whether to check recipes without a certificate first, at level quick; if not, steps are compared on
            the exact cases only.
        runs: number of runs of each kernel.
        notify: called with a description of the current activity.

    Raises:
        ValueError: an operator is unknown, or was given by name and has no work in this problem.
        RecipeError: there is no such book, no recipe for an operator, or a recipe fails.
        DeviceError: there is no such device, or it cannot run the operators.
    """
    book, setting, notify = load_recipes(book), setting or Setting(), notify or (lambda text: None)
    device = device_for(book, device)
    setting.check_device(device)
    chosen = _choose(book, operators)
    peaks = peaks or peaks_by_dtype(device, map(setting.computed_in, chosen), notify=notify)
    findings = None
    if certify:
        findings = _certify(book, chosen, device, setting.dtype, notify)
    notify("tree, lists and tables")
    problem, runtime = make_problem(setting), make_runtime(device)
    idle = tuple(operator for operator in chosen if not problem.work(operator).flops)
    if operators and idle:
        raise ValueError(f"{idle[0]} has no work with {setting}; use more points, or the sphere")
    with Worker() as worker:
        climber = _Climber(book, problem, runtime, worker, peaks, findings, runs, notify)
        ladders = tuple(climber.climb(operator) for operator in chosen if operator not in idle)
    return LadderReport(book.name, device.description, setting, peaks, ladders, idle, findings)


def _certify(
    book: RecipeBook, operators: Sequence[str], device: Device, dtype: str, notify: Notify
) -> tuple[Finding, ...]:
    """Check recipes without a certificate, with the parameters that they have on the device."""
    here = {operator: book.defaults_on(operator, device) for operator in operators}
    unknown = [o for o in operators if operator_status(book, device, o, dtype, here[o]) != CERTIFIED]
    if not unknown:
        return ()
    notify(f"{book.name}: certifying {', '.join(unknown)}")
    chosen = {operator: here[operator] for operator in unknown}
    return check_book(
        book, unknown, device, [dtype], parameters=chosen, notify=lambda p: notify(f"certifying {p}")
    ).findings


def _choose(book: RecipeBook, operators: Sequence[str] | None) -> tuple[str, ...]:
    """Return the chosen operators; the book has recipes for all of them."""
    there = tuple(operator for operator in OPERATORS if operator in book.recipes)
    for operator in operators or ():
        if operator not in OPERATORS:
            raise ValueError(f"operator is {operator!r}, expected one of {', '.join(OPERATORS)}")
        if operator not in there:
            raise RecipeError(f"{book.name} has no recipe for {operator}, so there are no steps to time")
    if not there:
        raise RecipeError(f"{book.name} has no recipes, so there are no steps to time")
    return tuple(dict.fromkeys(operators)) if operators else there


class _Climber:
    """Makes the ladders of one book on one device and problem."""

    def __init__(
        self,
        book: RecipeBook,
        problem: Problem,
        runtime: Runtime,
        worker: Worker,
        peaks: Mapping[str, Peaks],
        findings: Sequence[Finding] | None,
        runs: int,
        notify: Notify,
    ) -> None:
        self._book, self._problem, self._runtime, self._worker = book, problem, runtime, worker
        self._peaks, self._findings, self._runs, self._notify = peaks, findings, runs, notify
        self._sequential = replace(SEQUENTIAL, operators=book.operators)

    def climb(self, operator: str) -> Ladder:
        """Time the sequential kernel of an operator and the kernel after every step."""
        problem = self._problem
        timer = OperatorTimer(problem, operator, self._book, self._runtime)
        self._notify(f"{operator}: the sequential kernel")
        rungs = [Rung(0, "sequential", timer.time(self._code(operator, timer.types, self._sequential), self._runs))]
        names = self._code(operator, timer.types, self._book).steps
        for number, name in enumerate(names, 1):
            self._notify(f"{operator}: step {number}, {name}")
            rungs.append(self._rung(timer, operator, number, name, number == len(names), rungs))
        work = problem.work(operator)
        peaks = self._peaks[problem.setting.computed_in(operator)]
        limits = roofline(work, problem.nbytes(operator), peaks, problem.greens)
        return Ladder(operator, work, limits, tuple(rungs))

    def _rung(
        self, timer: OperatorTimer, operator: str, number: int, name: str, last: bool, before: Sequence[Rung]
    ) -> Rung:
        wrong = self._finding(operator, number, last)
        if not wrong and not (last and self._findings is not None):  # the certificate covers the last step
            wrong = self._difference(operator, timer.types, number)
        if wrong:
            return Rung(number, name, None, wrong)
        try:
            timing = timer.time(self._code(operator, timer.types, self._book, number), self._runs)
        except (RecipeError, DeviceError) as error:
            return Rung(number, name, None, one_line(error))
        previous = next(rung.timing for rung in reversed(before) if rung.timing)
        return Rung(number, name, timing, gain=compare(timing, previous))

    def _finding(self, operator: str, number: int, last: bool) -> str:
        """Return what the check found at a step or before it; if it does not know the step, at the last one."""
        for finding in self._findings or ():
            if finding.operator == operator:
                first = finding.step.partition(" ")[0]
                if number >= int(first) if first.isdigit() else last:
                    return f"{finding.layer}: {finding.message}"
        return ""

    def _difference(self, operator: str, types: Types, number: int) -> str:
        """Describe how the kernel after a step differs from the sequential one on exact cases.

        It runs in a separate process, where it may crash or hang; for the cases see `fmmloopy.checking.cases`.
        """
        request = Request(self._book, self._runtime.device, operator, types.name, layers=("exact",))
        try:
            failure = self._worker.call(check_operator, request, number)
        except (ChildError, MemoryError) as error:
            return one_line(error)
        return f"{failure.layer}: {failure.message}" if failure else ""

    def _code(self, operator: str, types: Types, book: RecipeBook, steps: int | None = None) -> CompiledOperator:
        key = Setup(self._problem.setting.method, book, self._runtime.device).code_key(operator, types=types)
        return compile_operator(replace(key, most_steps=steps))
