"""Certify recipes: hold every kernel that a recipe makes against the sequential kernel of the same operator.

Layers, in order; a recipe is certified only when all hold:

static      The kernel generates code after every step, under loopy's own bounds, race and dependency checks, and
            silences no warning that the operator does not silence.
exact       On whole-numbered data, of all sizes around the widths of lanes, with NaN wherever nothing may be read or
            written, results are identical to the sequential kernel's, bit by bit, in float64 and float32.
hostile     The same on inputs made to break schedules: no points, one point, as many as there are lanes and one more or
            less, coincident points, empty and long lists, large numbers in place of NaN.
numerical   With the Green's functions themselves, results differ from the sequential kernel's in float64 by at most
            NUMERICAL_BOUND eps times the sum of the magnitudes of the terms.
sanitized   Oclgrind reports no access out of bounds, no data race and no use of uninitialized values.
fmm         A whole evaluation with the book agrees with the direct sum.

Everything runs in child processes with time limits: a kernel that crashes or never returns is a finding. What fails is
reported with the first step of the recipe at which it fails (every step yields a kernel that can run, so the steps
before are run too), and with the smallest input that shows it.
"""

from __future__ import annotations

import math
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np

from fmmloopy.bookshelf import certificates
from fmmloopy.checking import sanitizer
from fmmloopy.checking.case import Case
from fmmloopy.checking.layers import (
    LAYERS,
    Failure,
    Request,
    attempts,
    check_operator,
    count_steps,
    reproducer_name,
    run_attempt,
)
from fmmloopy.checking.over import describe
from fmmloopy.checking.reproducer import write_reproducer
from fmmloopy.checking.shrink import shrink
from fmmloopy.checking.whole import check_whole
from fmmloopy.common.isolation import ChildError, ChildTimedOut, Worker, WorkerError
from fmmloopy.common.messages import one_line
from fmmloopy.common.progress import Progress, showing
from fmmloopy.execution.backends import backend_of
from fmmloopy.execution.devices import Device, DeviceError, choose_device, choose_suited
from fmmloopy.execution.launch import CompiledOperator
from fmmloopy.inputs import check_parameters
from fmmloopy.operators import OPERATORS
from fmmloopy.precision import DTYPE_NAMES, MIXED, find_precision
from fmmloopy.recipes.book import RecipeBook
from fmmloopy.recipes.load import load_recipes

LEVELS = ("quick", "full")

AGAIN_LIMIT = 20.0
"""Seconds for running a kernel again after one has not returned; it has been compiled by then."""

CRASHES_TO_SHRINK = 6
"""Tries to make an input that crashes or hangs smaller; each may take a new process, or the whole time limit."""


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


Notify = Callable[[Progress], None]
"""Called whenever a layer of an operator begins, and when one is done."""

EFFORT = {"static": 6, "exact": 6, "hostile": 1, "numerical": 6, "sanitized": 3, "fmm": 20}
"""How long layers take, compared with one another; what is shown of the progress of a check is told from these."""


def check_book(
    book: RecipeBook | str | Path,
    operators: Sequence[str] | None = None,
    device: str | Device | None = None,
    dtypes: Sequence[Any] = (np.float64, np.float32),
    level: str = "quick",
    parameters: Mapping[str, Mapping[str, Any]] | None = None,
    reproducers: str | Path | None = None,
    limit: float | None = None,
    notify: Notify | None = None,
) -> Report:
    """Check the recipes of a book, and note their certificates if nothing is wrong.

    Args:
        book: a book, its name, or the path of its file.
        operators: which operators; None for all that the book has a recipe for, or that are its own.
        device: what to run on; None for the first that the book is for, or else the preferred one.
        dtypes: of evaluations: float32, float64, ``"mixed"`` and ``"reduced"``, whose kernels are checked. With float32
            and float64 the other two are, too. Devices without float64 are checked in float32 alone.
        level: ``"quick"``, or ``"full"`` for more seeds, orders and layouts, every choice of tuning parameters, and
            larger whole problems.
        parameters: keyword arguments of the recipes by operator, in place of what they have on the device; of such
            recipes nothing else is checked. The others are checked as they are on the device, and with what they
            have on other devices.
        reproducers: folder for programs that show what is wrong; None for none.
        limit: seconds that a step of a recipe, its code, and a run of its kernel may take each; None for 180, 180 and
            60, enough for a busy machine. A run in oclgrind may take five times as long.
        notify: told about progress; None to show it on a terminal or in a notebook.

    Raises:
        ValueError: an unknown level, operator, dtype or parameter, an operator without a recipe, or no such limit.
        DeviceError, RecipeError: no such device or book, or none of the precisions on the device.
    """
    start = time.perf_counter()
    if level not in LEVELS:
        raise ValueError(f"level is {level!r}, expected {' or '.join(map(repr, LEVELS))}")
    book = load_recipes(book)
    chosen = tuple(operators) if operators else book.to_check
    for operator in chosen:
        if operator not in OPERATORS:
            raise ValueError(f"operator is {operator!r}, expected one of {', '.join(OPERATORS)}")
        if operator not in book.to_check:
            raise ValueError(f"{book.name} has no recipe for {operator}, which runs as the sequential kernel")
    if limit is not None and not 0 < limit < math.inf:
        raise ValueError(f"limit is {limit:g}, expected a number of seconds above 0")
    check_parameters(parameters or {}, book)
    device = device_for(book, device)
    skipped = []
    names = [find_precision(dtype).dtype_name for dtype in dtypes]
    if not device.has_float64 and set(names) - {"float32"}:
        names = [name for name in names if name == "float32"]
        skipped.append(f"{device.name} has no float64")
    if {"float32", "float64"} <= set(names):
        names += [name for name in DTYPE_NAMES if name not in names]
    if not names:
        raise DeviceError(f"no precision is left to check on {device.name}; take float32")
    library = sanitizer.find_library()
    if library is None:
        skipped.append(sanitizer.MISSING)
    elif (language := backend_of(device).language) != sanitizer.LANGUAGE:
        skipped.append(f"oclgrind runs {sanitizer.LANGUAGE} only, and this is {language} code")
        library = None
    folder = "" if reproducers is None else str(Path(reproducers).resolve())
    full = level == "full"
    common = Request(book, device, "", "", {}, full, LAYERS[:-1], folder)
    if limit is not None:
        common = replace(common, code_limit=limit, run_limit=limit)
    requests = [
        replace(common, operator=operator, dtype=dtype, parameters=choice)
        for operator in chosen
        for choice in choices(book, operator, device, (parameters or {}).get(operator), full)
        for dtype in dict.fromkeys(book.operator(operator).types_in(DTYPE_NAMES[name]).name for name in names)
    ]
    with ExitStack() as stack:
        tell = notify or stack.enter_context(showing(f"checking {book.name}"))
        workers = stack.enter_context(_Workers(library, _Meter(tell, len(requests), len(names), library is not None)))
        findings = workers.check(requests)
        if not findings and chosen:
            some = _with(book, chosen)
            given = {o: dict((parameters or {}).get(o, {})) for o in chosen if o in book.recipes}
            findings = workers.check_whole(some, device, names, given, full)
    failed = {f.operator for f in findings} if all(f.operator for f in findings) else set(chosen)
    passed = () if "" in {f.operator for f in findings} else tuple(o for o in chosen if o not in failed)
    if not findings:
        certificates.record(book, device, passed, names, level, parameters, skipped)
    else:
        certificates.record(book, device, sorted(failed), names, certificates.FAILED, parameters)
    seconds = time.perf_counter() - start
    return Report(book.name, device.description, level, chosen, tuple(names), tuple(findings), tuple(skipped), seconds)


def _with(book: RecipeBook, operators: Sequence[str]) -> RecipeBook:
    """Return what a book has for some operators."""
    return replace(
        book,
        recipes={name: recipe for name, recipe in book.recipes.items() if name in operators},
        operators={name: own for name, own in book.operators.items() if name in operators},
        by_device={name: given for name, given in book.by_device.items() if name in operators},
        tuning={},
    )


def device_for(book: RecipeBook, device: str | Device | None = None) -> Device:
    """Return the device that is asked for; for None, the first that a book is for, or else the preferred one."""
    if device is None:
        return choose_suited(book.suits)
    return choose_device(device)


def choices(
    book: RecipeBook, operator: str, device: Device, parameters: Mapping[str, Any] | None, full: bool
) -> Iterator[Mapping[str, Any]]:
    """Yield what is asked for, or else what the recipe has on this device, and on others if that is something else.

    At level full, also every value that its tuning names; nothing twice.
    """
    yield dict(parameters or {})
    if parameters:
        return
    usual, here = book.defaults(operator), book.defaults_on(operator, device)
    elsewhere = [usual, *({**usual, **keywords} for keywords in book.by_device.get(operator, {}).values())]
    tuned = [{**here, name: v} for name, values in book.tuning.get(operator, {}).items() for v in values]
    seen = [here]
    for choice in (*elsewhere, *(tuned if full else ())):
        if choice not in seen:
            seen.append(choice)
            yield {name: value for name, value in choice.items() if name not in here or here[name] != value}


class _Workers:
    """Child processes, in pairs: one for the device, one that has oclgrind for its device."""

    def __init__(self, library: Path | None, meter: _Meter) -> None:
        self._count = max(1, min(4, _count_cores()))
        self._meter = meter
        self._folder = tempfile.TemporaryDirectory(prefix="fmmloopy-check-")
        self._sanitizes = library is not None
        self._all: list[Worker] = []
        self._pairs: SimpleQueue[tuple[Worker, Worker]] = SimpleQueue()
        for index in range(self._count):
            log = Path(self._folder.name) / f"{index}.log"
            environment = sanitizer.environment(library, log) if library else {}
            pair = Worker(), Worker(environment)
            self._all += pair
            self._pairs.put(pair)

    def __enter__(self) -> _Workers:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._all:
            worker.close()
        self._folder.cleanup()

    def _map(self, function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        """Call a function for several items at a time; when interrupted, stop all children first."""
        with ThreadPoolExecutor(self._count) as pool:
            try:
                return list(pool.map(function, items))
            except BaseException:
                for worker in self._all:
                    worker.stop()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def check(self, requests: Sequence[Request]) -> list[Finding]:
        """Check all requests, several at a time; findings are in the order of the requests."""

        def check(request: Request) -> Failure | None:
            pair = self._pairs.get()
            try:
                failure = self._check(pair, request)
            finally:
                self._pairs.put(pair)
            self._meter.end(_words(request), _layers(self._sanitizes))
            return failure

        failures: list[Failure | None] = self._map(check, requests)
        findings = [
            Finding(request.book.name, request.operator, request.dtype, **asdict(failure))
            for request, failure in zip(requests, failures, strict=True)
            if failure
        ]
        return _merged(findings)

    def _check(self, pair: tuple[Worker, Worker], request: Request) -> Failure | None:
        def watch(stage: str) -> None:
            self._meter.begin(_words(request), stage.partition(":")[0])

        failure = _survive(pair[0], request, watch)
        if failure or not self._sanitizes:
            return failure
        return _survive(pair[1], replace(request, layers=("sanitized",)), watch)

    def check_whole(
        self,
        book: RecipeBook,
        device: Device,
        dtypes: Sequence[str],
        parameters: Mapping[str, Mapping[str, Any]],
        full: bool,
    ) -> list[Finding]:
        """Check whole evaluations."""

        def check(dtype: str) -> str:
            pair = self._pairs.get()
            self._meter.begin(f"whole evaluation, {dtype}", "fmm")
            try:
                message = str(pair[0].call(check_whole, book, device.description, dtype, parameters, full))
            except WorkerError:
                raise
            except Exception as error:
                message = f"{type(error).__name__}: {one_line(error)}"
            finally:
                self._pairs.put(pair)
            self._meter.end(f"whole evaluation, {dtype}", ("fmm",))
            return message

        messages: list[str] = self._map(check, dtypes)
        return _merged([Finding(book.name, "", d, "fmm", "", m) for d, m in zip(dtypes, messages, strict=True) if m])


def _words(request: Request) -> str:
    """Say what a request checks."""
    return ", ".join([request.operator, *(f"{n}={v}" for n, v in request.parameters.items()), request.dtype])


def _layers(sanitizes: bool) -> tuple[str, ...]:
    return LAYERS if sanitizes else LAYERS[:-1]


def _count_cores() -> int:
    """Return how many cores this process may use; some systems only tell how many there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Meter:
    """Adds up what several threads have done of a check.

    Args:
        notify: told of every change.
        requests, wholes: how many operators and how many whole evaluations there are, each in one precision.
        sanitizes: whether the layer of that name runs.
    """

    def __init__(self, notify: Notify, requests: int, wholes: int, sanitizes: bool) -> None:
        self._notify, self._lock = notify, threading.Lock()
        each = sum(EFFORT[layer] for layer in _layers(sanitizes))
        self._all = requests * each + wholes * EFFORT["fmm"]
        self._done = 0
        self._begun: dict[str, list[str]] = {}

    def begin(self, what: str, layer: str) -> None:
        """Note that a layer of something begins; those of it that have begun before are done."""
        with self._lock:
            layers = self._begun.setdefault(what, [])
            if layer not in layers:
                layers.append(layer)
                self._tell(f"{what}, {layer}")

    def end(self, what: str, layers: Sequence[str]) -> None:
        """Note that something has been through all its layers, or has failed in one."""
        with self._lock:
            self._begun.pop(what, None)
            self._done += sum(EFFORT[layer] for layer in layers)
            self._tell(f"{what}, done")

    def _tell(self, what: str) -> None:
        begun = sum(EFFORT.get(layer, 0) for layers in self._begun.values() for layer in layers[:-1])
        self._notify(Progress(what, min(1.0, (self._done + begun) / self._all)))


def _merged(findings: Sequence[Finding]) -> list[Finding]:
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


def _survive(worker: Worker, request: Request, watch: Callable[[str], None]) -> Failure | None:
    """Check an operator; if the process dies of it, say why, and at which step it first does."""
    try:
        failure: Failure | None = worker.call(check_operator, request, watch=watch)
        return failure
    except MemoryError as error:
        return Failure("static", "", str(error))
    except ChildError as error:
        layer, step = _where(error)
        if layer not in LAYERS or layer == "static":
            return Failure("static", step, f"{error.reason}, {error.stage.removeprefix('static: ')}".rstrip(", "))
        return _find_step(worker, replace(request, layers=(layer,)))


def _where(error: ChildError) -> tuple[str, str]:
    """Read the layer, and number and name of the step, off what the process was doing."""
    layer, _, what = error.stage.partition(": ")
    found = re.search(r"^(?:running|generating code after) step (\d+ .*)$", what)
    return layer, found[1] if found else ""


def _find_step(worker: Worker, request: Request) -> Failure | None:
    """Run the first steps of a recipe, more and more of them, until the process dies or something else is wrong.

    The whole recipe comes first, once more: if it passes now, the machine was too busy, and nothing is wrong.
    """
    try:
        failure: Failure | None = worker.call(check_operator, request)
        return failure
    except ChildError as again:
        error = again
    for count in range(1, worker.call(count_steps, request) + 1):
        try:
            failure = worker.call(check_operator, request, count)
        except ChildError as death:
            step = _where(death)[1]
            case, path = _smallest_crash(worker, request, count, death, step)
            return Failure(request.layers[0], step, death.reason, case, path)
        if failure:
            return failure
    return Failure(request.layers[0], "", error.reason)


def _smallest_crash(worker: Worker, request: Request, count: int, death: ChildError, step: str) -> tuple[str, str]:
    """Look for a small input that crashes or hangs; return it in words, and the path of a program that shows it."""
    device = sanitizer.DEVICE if request.layers == ("sanitized",) else request.device

    def dies(case: Case, code: CompiledOperator) -> bool:
        try:
            worker.call(run_attempt, device, case, code, limit=min(AGAIN_LIMIT, request.run_limit))
        except ChildError:
            return True
        return False

    try:
        tried = worker.call(attempts, request, count)
    except ChildError:
        return "", ""
    found = next(((case, code) for case, code in tried if dies(case, code)), None)
    if found is None:
        return "", ""
    case, code = found
    smallest = case if isinstance(death, ChildTimedOut) else shrink(case, lambda c: dies(c, code), CRASHES_TO_SHRINK)
    path = ""
    if request.reproducers:
        name = reproducer_name(request, request.layers[0])
        title = f"{request.book.name}, {request.operator}, {request.dtype}, step {step}: {death.reason}"
        folder = Path(request.reproducers)
        path = write_reproducer(folder, name, title, smallest, code, None, request.device, dies=True)
    return describe(smallest), path
