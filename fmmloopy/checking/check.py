"""Certify recipes: compare every kernel of a recipe with the sequential kernel of the same operator.

Layers, in order; a recipe is certified only if it passes all of them:

static      Code can be generated after every step, under loopy's own bounds, race and dependency checks, and the kernel
            silences no warning that the operator does not silence.
symbolic    Without a run, the kernel after the last step is shown to add the same terms to the same entries for all
            sizes. What is not proved is only tested by the other layers; it is no finding, unless results differ on an
            input that is made from the point at which the proof fails.
exact       On whole-numbered data, of all sizes around the numbers of lanes, with NaN wherever nothing may be read or
            written, results are identical to those of the sequential kernel, bit by bit, in float64 and float32.
hostile     The same on inputs designed to break schedules: no points, one point, as many as lanes and one more or less,
            coincident points, empty and long lists, large numbers in place of NaN; and on inputs that are drawn at
            random, one of them beyond 16 bits in all its numbers.
numerical   With real Green's functions, results differ from the sequential kernel's in float64 by at most
            NUMERICAL_BOUND eps times the sum of the magnitudes of the terms.
sanitized   Oclgrind reports no access out of bounds, no data race and no use of uninitialized values.
fmm         Whole evaluations with the book agree with the direct sum, twice with other charges.

Everything runs in child processes with time limits: a kernel that crashes or never returns is a finding. An error is
reported with the first step of the recipe at which it occurs (every step yields a kernel that can run, so earlier steps
are run too), and with the smallest input that reproduces it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fmmloopy.bookshelf import certificates
from fmmloopy.checking import sanitizer
from fmmloopy.checking.kernels import keep_proofs
from fmmloopy.checking.meter import Meter, Notify
from fmmloopy.checking.report import Report
from fmmloopy.checking.request import LAYERS, Request
from fmmloopy.checking.workers import Workers
from fmmloopy.common.progress import showing
from fmmloopy.execution.backends import backend_of
from fmmloopy.execution.devices import Device, DeviceError, choose_device, choose_suited
from fmmloopy.inputs import check_parameters
from fmmloopy.operators import OPERATORS
from fmmloopy.precision import DTYPE_NAMES, find_precision
from fmmloopy.recipes.book import RecipeBook
from fmmloopy.recipes.load import load_recipes

LEVELS = ("quick", "full")

COMBINATIONS = 4
"""Combinations of tuning values that are checked at level full."""


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
    """Check the recipes of a book, and store their certificates if nothing is wrong.

    Args:
        book: a book, its name, or the path of its file.
        operators: which operators; None for all that the book has a recipe for, and for the book's own operators.
        device: the device to run on; None for the first that the book is for, or else the default device.
        dtypes: precisions whose kernels are checked: float32, float64, ``"mixed"`` and ``"reduced"``. If float32 and
            float64 are given, the other two are checked too. Devices without float64 are checked in float32 only.
        level: ``"quick"``, or ``"full"`` for more seeds, orders and layouts, every choice of tuning parameters, and
            larger whole problems.
        parameters: keyword arguments of the recipes by operator, which override those for the device; such recipes are
            checked with these parameters only. The others are checked with their parameters for this device and for
            other devices.
        reproducers: folder for programs that reproduce errors; None for none.
        limit: time limit in seconds for a step of a recipe, for its code, and for a run of its kernel; None for 180,
            180 and 60, enough for a busy machine. A run in oclgrind may take five times as long.
        notify: called with the progress; None to show it on a terminal or in a notebook.

    Raises:
        ValueError: a level, operator, dtype or parameter is unknown, an operator has no recipe, or the limit is not
            positive.
        DeviceError, RecipeError: there is no such device or book, or the device supports none of the precisions.
    """
    start = time.perf_counter()
    book = load_recipes(book)
    chosen = tuple(operators) if operators else book.to_check
    _refuse(book, chosen, level, limit)
    check_parameters(parameters or {}, book)
    device = device_for(book, device)
    names, skipped = _precisions(dtypes, device)
    library, missing = _sanitizer(device)
    skipped += missing
    folder = "" if reproducers is None else str(Path(reproducers).resolve())
    given = {name: dict((parameters or {}).get(name, {})) for name in chosen if name in book.recipes}
    full = level == "full"
    common = Request(book, device, "", "", {}, full, LAYERS[:-1], folder)
    if limit is not None:
        common = replace(common, code_limit=limit, run_limit=limit)
    requests = [
        request
        for place, name in enumerate(chosen)
        for request in _requests(common, name, list(choices(book, name, device, given.get(name), full)), names, place)
    ]
    with ExitStack() as stack:
        tell = notify or stack.enter_context(showing(f"checking {book.name}"))
        workers = stack.enter_context(Workers(library, Meter(tell, len(requests), len(names), library is not None)))
        findings, proofs, ran = workers.check(requests)
        if not findings and chosen:
            findings = workers.check_whole(book, device, names, given, full, chosen)
    if not findings:
        tested: dict[tuple[str, str], set[str]] = {}
        for request, kernels in zip(requests, ran, strict=True):
            tested.setdefault((request.operator, request.dtype), set()).update(kernels)
        certificates.record(book, device, chosen, names, level, parameters, skipped, tested)
        keep_proofs(device, proofs)
    else:
        failed = {f.operator for f in findings} if all(f.operator for f in findings) else set(chosen)
        certificates.record(book, device, sorted(failed), names, certificates.FAILED, parameters)
    seconds = time.perf_counter() - start
    found, described = tuple(findings), device.description
    return Report(
        book.name, described, level, chosen, tuple(names), found, tuple(skipped), seconds, tuple(dict.fromkeys(proofs))
    )


def _requests(
    common: Request, operator: str, parameters: Sequence[Mapping[str, Any]], names: Sequence[str], place: int
) -> Iterator[Request]:
    """Yield what to check of an operator.

    At level quick, code is generated after every step in one precision, and in the others after the last step. What
    recipes have on other devices is tried in one precision, another one for the next operator.

    Args:
        common: what all requests have.
        operator: which one.
        parameters: of its recipe, its own first.
        names: precisions.
        place: of the operator among those to check.
    """
    own = common.book.operator(operator)
    types = list(dict.fromkeys(own.types_in(DTYPE_NAMES[name]).name for name in names))
    for number, choice in enumerate(parameters):
        for place_of_type, dtype in enumerate(types):
            if common.full or not number or place_of_type == (place + number) % len(types):
                every = common.full or not (number or place_of_type)
                yield replace(common, operator=operator, dtype=dtype, parameters=choice, every_step=every)


def _refuse(book: RecipeBook, operators: Sequence[str], level: str, limit: float | None) -> None:
    """Raise an error for arguments of a check that cannot be."""
    if level not in LEVELS:
        raise ValueError(f"level is {level!r}, expected {' or '.join(map(repr, LEVELS))}")
    for operator in operators:
        if operator not in OPERATORS:
            raise ValueError(f"operator is {operator!r}, expected one of {', '.join(OPERATORS)}")
        if operator not in book.to_check:
            raise ValueError(f"{book.name} has no recipe for {operator}, so the sequential kernel is used")
    if limit is not None and not 0 < limit < math.inf:
        raise ValueError(f"limit is {limit:g}, expected a number of seconds above 0")


def _precisions(dtypes: Sequence[Any], device: Device) -> tuple[list[str], list[str]]:
    """Return the names of the precisions to check, and what cannot be checked on the device.

    Raises:
        DeviceError: none is left.
    """
    names, skipped = [find_precision(dtype).dtype_name for dtype in dtypes], []
    if not device.has_float64 and set(names) - {"float32"}:
        names = [name for name in names if name == "float32"]
        skipped.append(f"{device.name} has no float64")
    if {"float32", "float64"} <= set(names):
        names += [name for name in DTYPE_NAMES if name not in names]
    if not names:
        raise DeviceError(f"no precision is left to check on {device.name}; use float32")
    return names, skipped


def _sanitizer(device: Device) -> tuple[Path | None, list[str]]:
    """Return where oclgrind is, or None and the reason why its layer cannot run."""
    library, language = sanitizer.find_library(), backend_of(device).language
    if library is None:
        return None, [sanitizer.MISSING]
    if language != sanitizer.LANGUAGE:
        return None, [f"oclgrind runs {sanitizer.LANGUAGE} only, and this is {language} code"]
    return library, []


def device_for(book: RecipeBook, device: str | Device | None = None) -> Device:
    """Return the device with a description; for None, the first that a book is for, or else the default device."""
    if device is None:
        return choose_suited(book.suits)
    return choose_device(device)


def choices(
    book: RecipeBook, operator: str, device: Device, parameters: Mapping[str, Any] | None, full: bool
) -> Iterator[Mapping[str, Any]]:
    """Yield the given parameters, or else those of the recipe on this device, and those on others if they differ.

    At level full, also yield every value in its tuning, and some combinations; nothing twice.
    """
    yield dict(parameters or {})
    if parameters:
        return
    usual, here = book.defaults(operator), book.defaults_on(operator, device)
    elsewhere = [usual, *({**usual, **keywords} for keywords in book.by_device.get(operator, {}).values())]
    tuning = book.tuning.get(operator, {})
    tuned = [{**here, name: v} for name, values in tuning.items() for v in values]
    tuned += [{**here, **together} for together in combinations(tuning)]
    seen = [here]
    for choice in (*elsewhere, *(tuned if full else ())):
        if choice not in seen:
            seen.append(choice)
            yield {name: value for name, value in choice.items() if name not in here or here[name] != value}


def combinations(tuning: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return some combinations of tuning values: all first values, all last ones, and some that are drawn.

    They are the same every time.
    """
    if len(tuning) < 2:
        return []
    rng = np.random.default_rng(0)
    found = [{name: values[place] for name, values in tuning.items()} for place in (-1, 0)]
    for _ in range(COMBINATIONS - len(found)):
        found.append({name: values[int(rng.integers(len(values)))] for name, values in tuning.items()})
    return found
