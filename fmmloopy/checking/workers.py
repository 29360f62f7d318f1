"""Child processes that check operators, so that a kernel that crashes or never returns is a finding."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from fmmloopy.checking import sanitizer
from fmmloopy.checking.crashes import smallest_crash
from fmmloopy.checking.layers import check_and_prove, check_operator, count_steps
from fmmloopy.checking.meter import Meter, layers
from fmmloopy.checking.proofs import Proof
from fmmloopy.checking.report import Finding, merged
from fmmloopy.checking.request import LAYERS, Failure, Request
from fmmloopy.checking.whole import Wrong, check_whole
from fmmloopy.common.cores import processors
from fmmloopy.common.isolation import ChildError, ChildTimedOut, Worker, WorkerError
from fmmloopy.common.messages import one_line
from fmmloopy.execution.devices import Device
from fmmloopy.recipes.book import RecipeBook

ATTEMPTS = 3
"""How often an operator is checked that takes too long, but not when the layer is run alone, as on a busy machine."""

Outcome = tuple[Failure | None, tuple[Proof, ...], frozenset[str]]
"""What is wrong with an operator, if anything, which of its kernels are proved, and which have run."""


class Workers:
    """Child processes in pairs: one for the device, one whose device is oclgrind."""

    def __init__(self, library: Path | None, meter: Meter) -> None:
        self._count = max(1, min(4, processors()))
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

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._all:
            worker.close()
        self._folder.cleanup()

    def _map(self, function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        """Call a function on several items in parallel; when interrupted, stop all children first."""
        with ThreadPoolExecutor(self._count) as pool:
            try:
                return list(pool.map(function, items))
            except BaseException:
                for worker in self._all:
                    worker.stop()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def check(self, requests: Sequence[Request]) -> tuple[list[Finding], list[Proof], list[frozenset[str]]]:
        """Check all requests, several in parallel; return findings, proofs, and the kernels that each request has run.

        All are in the order of the requests.
        """

        def check(request: Request) -> Outcome:
            pair = self._pairs.get()
            try:
                outcome = self._check(pair, request)
            finally:
                self._pairs.put(pair)
            self._meter.end(_words(request), layers(self._sanitizes))
            return outcome

        outcomes: list[Outcome] = self._map(check, requests)
        failures = [failure for failure, _, _ in outcomes]
        findings = [
            Finding(request.book.name, request.operator, request.dtype, **asdict(failure))
            for request, failure in zip(requests, failures, strict=True)
            if failure
        ]
        proofs = [proof for _, proofs, _ in outcomes for proof in proofs]
        return merged(findings), proofs, [ran for _, _, ran in outcomes]

    def _check(self, pair: tuple[Worker, Worker], request: Request) -> Outcome:
        def watch(stage: str) -> None:
            self._meter.begin(_words(request), stage.partition(":")[0])

        failure, proofs, ran = _survive(pair[0], request, watch)
        if not failure and self._sanitizes:
            failure, _, _ = _survive(pair[1], replace(request, layers=("sanitized",)), watch)
        return failure, proofs, ran

    def check_whole(
        self,
        book: RecipeBook,
        device: Device,
        dtypes: Sequence[str],
        parameters: Mapping[str, Mapping[str, Any]],
        full: bool,
        operators: Sequence[str],
    ) -> list[Finding]:
        """Check whole evaluations with the recipes of some operators."""

        def check(dtype: str) -> Wrong:
            pair = self._pairs.get()
            self._meter.begin(f"whole evaluation, {dtype}", "fmm")
            try:
                wrong: Wrong = pair[0].call(check_whole, book, device.description, dtype, parameters, full, operators)
            except WorkerError:
                raise
            except Exception as error:
                wrong = Wrong(f"{type(error).__name__}: {one_line(error)}")
            finally:
                self._pairs.put(pair)
            self._meter.end(f"whole evaluation, {dtype}", ("fmm",))
            return wrong

        found: list[Wrong] = self._map(check, dtypes)
        return merged(
            [
                Finding(book.name, wrong.operator, dtype, "fmm", wrong.step, wrong.message, wrong.case)
                for dtype, wrong in zip(dtypes, found, strict=True)
                if wrong.message
            ]
        )


def _words(request: Request) -> str:
    """Describe what a request checks."""
    return ", ".join([request.operator, *(f"{n}={v}" for n, v in request.parameters.items()), request.dtype])


def _survive(worker: Worker, request: Request, watch: Callable[[str], None], attempts: int = ATTEMPTS) -> Outcome:
    """Check an operator; if the process dies, report why, and the first step at which it does.

    If it took too long in a layer that passes when it is run alone, the machine was busy, and all layers are run again:
    those after it have not run.
    """
    try:
        outcome: Outcome = worker.call(check_and_prove, request, watch=watch)
        return outcome
    except MemoryError as error:
        return Failure("static", "", str(error)), (), frozenset()
    except ChildError as error:
        layer, step = _where(error)
        if "proving" in error.stage:  # a proof that ends like this is none, and says nothing of the kernel
            others = tuple(each for each in request.layers if each != "symbolic")
            return _survive(worker, replace(request, layers=others), watch, attempts)
        if layer not in LAYERS or layer == "static":
            reason = f"{error.reason}, {error.stage.removeprefix('static: ')}".rstrip(", ")
            return Failure("static", step, reason), (), frozenset()
        failure = _find_step(worker, replace(request, layers=(layer,)))
        if failure is None and isinstance(error, ChildTimedOut) and attempts > 1:
            return _survive(worker, request, watch, attempts - 1)
        return failure or Failure(layer, step, f"{error.reason}, but not every time"), (), frozenset()


def _where(error: ChildError) -> tuple[str, str]:
    """Return the layer, and number and name of the step, from the last stage of the process."""
    layer, _, what = error.stage.partition(": ")
    found = re.search(r"^(?:running|generating code after) step (\d+ .*)$", what)
    return layer, found[1] if found else ""


def _find_step(worker: Worker, request: Request) -> Failure | None:
    """Run growing numbers of steps of a recipe until the process dies or another error occurs.

    The whole recipe is run again first, which may pass.
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
            case, path = smallest_crash(worker, request, count, death, step)
            return Failure(request.layers[0], step, death.reason, case, path)
        if failure:
            return failure
    return Failure(request.layers[0], _where(error)[1], error.reason)
