"""Find the smallest input on which a kernel crashes or does not return.

Processes are sent what an input is made from, never its arrays, and make and run one input after the other. The last
one that a process announced before it died is the one that fails, so inputs that pass take no new process.
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fmmloopy.checking import sanitizer
from fmmloopy.checking.case import Case, run_case
from fmmloopy.checking.inputs import Input
from fmmloopy.checking.layers import OperatorCheck
from fmmloopy.checking.over import describe
from fmmloopy.checking.reproducer import write_reproducer
from fmmloopy.checking.request import CODE_LIMIT, SIMULATED, Request, reproducer_name
from fmmloopy.checking.shrink import MOST_SECONDS, MOST_TRIES, cleared, smaller_cases
from fmmloopy.common.isolation import ChildError, ChildTimedOut, Stage, Worker
from fmmloopy.execution.devices import DeviceError, choose_device
from fmmloopy.execution.launch import CompiledOperator
from fmmloopy.execution.runtime import Runtime, make_runtime

AGAIN_LIMIT = 20.0
"""Seconds for another run of a kernel after one did not return; it is already compiled."""

CRASHES_TO_SHRINK = 8
"""Crashes while a smaller input is looked for; each takes a new process."""


@dataclass(frozen=True)
class Attempt:
    """An input, perhaps made smaller, with the code to run on it.

    Attributes:
        input: what the case is made from.
        code: the kernel.
        places: which of the smaller cases is taken, one after the other.
        clear: whether there are zeros where the case uses nothing.
    """

    input: Input
    code: CompiledOperator
    places: tuple[int, ...] = ()
    clear: bool = False

    def case(self) -> Case:
        """Make the case."""
        case = self.input.case()
        for place in self.places:
            case = next(itertools.islice(smaller_cases(case), place, None))
        return cleared(case) if self.clear else case


def smallest_crash(worker: Worker, request: Request, count: int, death: ChildError, step: str) -> tuple[str, str]:
    """Return a small input on which a kernel crashes or hangs, in words, and the path of a program that reproduces it.

    Both are "" if the process does not die again.

    Args:
        worker: where the process died.
        request: of one layer.
        count: number of steps of the recipe.
        death: how the process died.
        step: number and name of the step.
    """
    try:
        tried = worker.call(attempts, request, count)
    except (ChildError, MemoryError):
        return "", ""
    number = _dies_at(worker, run_attempts, request, tried)
    if number is None:
        return "", ""
    found, hangs = tried[number], isinstance(death, ChildTimedOut)
    for attempt in (found,) if hangs else (*_smaller(worker, request, found), found):
        was_first = hangs and number == 0  # the process had run nothing before
        if was_first or _dies_at(worker, run_attempts, request, [attempt]) is not None:
            title = f"{request.book.name}, {request.operator}, {request.dtype}, step {step}: {death.reason}"
            words, path = worker.call(describe_attempt, request, attempt, title)
            return words, path
    return "", ""


def _smaller(worker: Worker, request: Request, attempt: Attempt) -> list[Attempt]:
    """Return attempts that crashed in a process that had run others before, the smallest first."""
    deadline = time.monotonic() + MOST_SECONDS
    for _ in range(CRASHES_TO_SHRINK):
        place = _dies_at(worker, run_smaller, request, attempt) if time.monotonic() < deadline else None
        if place is None:
            break
        attempt = replace(attempt, places=(*attempt.places, place))
    return [replace(attempt, clear=True), attempt]


def _dies_at(worker: Worker, function: Callable[..., None], *arguments: Any) -> int | None:
    """Call a function in the process; return the number of the input at which it dies, None if it does not."""
    try:
        worker.call(function, *arguments)
    except ChildError as error:
        found = re.search(r"^running input (\d+)$", error.stage)
        return int(found[1]) if found else None
    return None


# -- in the process


def attempts(stage: Stage, request: Request, steps: int | None = None) -> list[Attempt]:
    """Return the inputs of a request's first layer, each with its code; for arguments see `layers.check_operator`."""
    return [Attempt(*each) for each in OperatorCheck(stage, request, steps).attempts()]


def run_attempts(stage: Stage, request: Request, tried: Sequence[Attempt]) -> None:
    """Run attempts to see whether they return."""
    runtime, limit = _open(stage, request)
    for number, attempt in enumerate(tried):
        stage(f"running input {number}", limit)
        _run(attempt.case(), attempt.code, runtime)


def run_smaller(stage: Stage, request: Request, attempt: Attempt) -> None:
    """Run the code of an attempt on smaller cases to see whether it returns."""
    runtime, limit = _open(stage, request)
    deadline = time.monotonic() + MOST_SECONDS
    for number, case in enumerate(itertools.islice(smaller_cases(attempt.case()), MOST_TRIES)):
        if time.monotonic() > deadline:
            break
        stage(f"running input {number}", limit)
        _run(case, attempt.code, runtime)


def describe_attempt(_stage: Stage, request: Request, attempt: Attempt, title: str) -> tuple[str, str]:
    """Return a case in words, and the path of a program that runs it; "" if there is none."""
    case, path = attempt.case(), ""
    if request.reproducers:
        name, folder = reproducer_name(request, request.layers[0]), Path(request.reproducers)
        path = write_reproducer(folder, name, title, case, attempt.code, None, request.device, dies=True)
    return describe(case), path


def _open(stage: Stage, request: Request) -> tuple[Runtime, float]:
    """Open the device of a request; return it with the time limit of a run, in seconds."""
    stage("opening the device", CODE_LIMIT)
    if request.layers == ("sanitized",):
        return make_runtime(choose_device(sanitizer.DEVICE), padding=0), SIMULATED * request.run_limit
    return make_runtime(choose_device(request.device)), min(AGAIN_LIMIT, request.run_limit)


def _run(case: Case, code: CompiledOperator, runtime: Runtime) -> None:
    with suppress(DeviceError, TypeError, MemoryError):  # an error that is reported is no crash
        run_case(case, code, runtime)
