"""Search the tuning parameters of recipes; the best are certified before they are stored.

Every candidate is generated, compiled and timed in a child process, so a candidate that fails, crashes or hangs costs
only its time. Small spaces are searched exhaustively, large ones by Optuna's tree-structured Parzen estimator.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from fmmloopy.bookshelf.certificates import CERTIFIED, operator_status
from fmmloopy.bookshelf.tuned import Tuned, holds, merge, read_entries, read_store, write_store
from fmmloopy.checking.check import check_book, device_for
from fmmloopy.checking.layers import check_operator
from fmmloopy.checking.request import Request
from fmmloopy.common.isolation import Stage, Worker, WorkerError
from fmmloopy.common.messages import one_line, require
from fmmloopy.execution.devices import Device, DeviceError, choose_device, find_devices
from fmmloopy.execution.generate import compile_operator
from fmmloopy.execution.key import recipe_hash, versions
from fmmloopy.execution.runtime import Runtime, make_runtime
from fmmloopy.execution.setup import Setup
from fmmloopy.measuring.timing import (
    Difference,
    NothingToDo,
    OperatorTimer,
    Problem,
    Setting,
    Timing,
    compare,
    finite,
    make_problem,
)
from fmmloopy.precision import DTYPE_NAMES, find_precision
from fmmloopy.recipes.book import RecipeBook, RecipeError
from fmmloopy.recipes.load import load_known, load_recipes

EXHAUSTIVE = 32
"""Spaces of up to this many candidates are searched exhaustively."""

FAR_SLOWER = 2.0
"""A candidate is abandoned if its first run takes this many times the best time."""

CODE_LIMIT = 120.0
"""Seconds for generating a candidate's code, and for compiling and running it in addition to the time of the best."""

SEARCHING = 0.5
"""Fraction of a recipe's share of the time for the search; the rest is for certification, or for the next recipe."""

RUNS = 7
"""Runs of a candidate that is not abandoned."""


@dataclass(frozen=True)
class Trial:
    """One candidate.

    Attributes:
        parameters: keyword arguments of the recipe.
        timing: its times; None if it failed or is wrong.
        outcome: ``"timed"``, ``"abandoned"`` after one slow run, ``"failed: <why>"``, or ``"wrong: <what>"`` if it was
            fast but its results differ from those of the sequential kernel.
    """

    parameters: Mapping[str, Any]
    timing: Timing | None
    outcome: str


@dataclass(frozen=True)
class Search:
    """The result of a search for one recipe in one precision.

    Attributes:
        operator, dtype: the operator and precision.
        trials: all candidates in the order in which they were tried, the recipe's defaults first.
        candidates: number of candidates in the space.
        best: the fastest that is certified; None if even the defaults are not. If there was no time for others, the
            defaults, which are not checked then.
        rejected: candidates that were faster but are wrong, with the findings of the check.
        is_faster: whether the best differs from the defaults by more than the spread.
    """

    operator: str
    dtype: str
    trials: tuple[Trial, ...]
    candidates: int
    best: Trial | None
    rejected: tuple[tuple[Mapping[str, Any], str], ...]
    is_faster: bool

    @property
    def whole(self) -> bool:
        """Whether all candidates were tried."""
        return len(self.trials) >= self.candidates

    @property
    def found(self) -> Difference | None:
        """The fastest correct candidate other than the defaults, compared with the defaults; None if there is none."""
        wrong = [parameters for parameters, _ in self.rejected]
        others = [t.timing for t in self.trials[1:] if t.timing and t.parameters not in wrong]
        default = self.trials[0].timing
        return compare(min(others, key=lambda timing: timing.median), default) if others and default else None

    def as_dict(self) -> dict[str, Any]:
        """Return the search as a dictionary for JSON."""
        spread = finite(self.found.spread) if self.found else None
        return {**asdict(self), "whole": self.whole, "gain": self.gain, "spread": spread}

    @property
    def gain(self) -> float:
        """Speedup of the best over the defaults; 1 if the defaults are best."""
        default = self.trials[0].timing
        if not (self.best and self.best.timing and default):
            return 1.0
        return default.median / self.best.timing.median


Notify = Callable[[str, str, Trial], None]
"""Called with operator, precision and trial after each candidate."""


def space_of(book: RecipeBook, operator: str) -> dict[str, tuple[Any, ...]]:
    """Return keyword -> values of the tuning parameters of a recipe."""
    return {keyword: tuple(values) for keyword, values in book.tuning.get(operator, {}).items() if values}


def tune(
    book: RecipeBook | str,
    operators: Sequence[str] | None = None,
    device: str | Device | None = None,
    budget: float = 60.0,
    setting: Setting | None = None,
    dtypes: Sequence[Any] = (np.float64, np.float32),
    limit: float = CODE_LIMIT,
    notify: Notify | None = None,
) -> tuple[Search, ...]:
    """Search the tuning parameters of a book's recipes, certify the best, and store them for `fmmloopy.Fmm`.

    Args:
        book: a book, its name, or the path of its file.
        operators: which operators; None for all that have tuning parameters.
        device: part of a description; None for the first device that the book is for.
        budget: seconds for all searches together and for certifying their results, which gets half of each share. The
            first recipe's defaults are always timed, and a check that has started is finished, but candidates are
            stopped at the end of the time. Recipes that come later are skipped.
        setting: the problem that candidates are timed on; its dtype does not matter.
        dtypes: float32, float64 or both.
        limit: seconds for generating a candidate's code, and for compiling and running it in addition to the time of
            the best.
        notify: called after each candidate.

    Raises:
        ValueError: an operator has no tuning parameters, or a dtype is not float32 or float64.
        DeviceError, RecipeError: there is no such device or book.
        MissingPackageError: a space of parameters is too large for an exhaustive search, and Optuna is not installed.
    """
    book = load_recipes(book)
    device = device_for(book, device)
    chosen = list(operators) if operators else [o for o in book.recipes if space_of(book, o)]
    for operator in chosen:
        if not space_of(book, operator):
            known = ", ".join(o for o in book.recipes if space_of(book, o)) or "none"
            raise ValueError(f"{book.name} has no tuning parameters for {operator!r}; it has them for {known}")
        if count_candidates(book, operator, device) > EXHAUSTIVE:
            require("optuna", "tune", f"searches of more than {EXHAUSTIVE} candidates, as of {book.name}, {operator},")
    names = [find_precision(dtype).dtype_name for dtype in dtypes]
    for name in names:
        if name not in ("float64", "float32"):
            raise ValueError(f"dtype is {name}, expected float32 or float64; mixed kernels use the results of float32")
    names = [name for name in names if device.has_float64 or name != "float64"]
    jobs = [(operator, dtype) for operator in chosen for dtype in names]
    searches: list[Search] = []
    deadline = time.monotonic() + budget
    with Worker() as worker:
        for left, (operator, dtype) in zip(range(len(jobs), 0, -1), jobs, strict=True):
            now = time.monotonic()
            if searches and now >= deadline:
                break
            share = now + SEARCHING * max(0.0, deadline - now) / left
            problem = replace(setting or Setting(), dtype=dtype)
            try_it = partial(_try, worker, book, operator, device, problem)
            try:
                trials = _search(
                    try_it, book, operator, device, share, limit, partial(notify or _ignore, operator, dtype)
                )
            except NothingToDo:
                if operators:
                    raise
                continue  # some operators may have no work in a problem
            search = _certify(book, operator, device, dtype, trials)
            _store(book, device, problem, search)
            searches.append(search)
    return tuple(searches)


def verify_store(book: RecipeBook | str, device: str | Device | None = None) -> tuple[tuple[Tuned, str], ...]:
    """Certify stored parameters of a book again that became invalid because a version changed.

    Returns:
        The entries that were checked, each with its error, "" for those that are valid again. Wrong entries are removed
        from the store, and so are entries for recipes that have changed.
    """
    book = load_recipes(book)
    device = device_for(book, device)
    kept, checked = [], []
    try:
        entries = read_store(device)
    except ValueError:
        entries = ()  # a damaged file has no entries
    for entry in entries:
        if entry.book != book.name or holds(entry, book, device):
            kept.append(entry)
            continue
        renewed, wrong = verify(entry, book, device)
        checked.append((entry, wrong))
        if renewed:
            kept.append(renewed)
    if checked:
        write_store(device, kept)
    return tuple(checked)


def verify(entry: Tuned, book: RecipeBook, device: Device) -> tuple[Tuned | None, str]:
    """Certify stored parameters now; return the entry with the current versions, or None and the reason."""
    if entry.operator not in book.recipes or entry.recipe != recipe_hash(book, entry.operator):
        return None, "the recipe has changed; tune again"
    chosen = {entry.operator: entry.parameters}
    report = check_book(book, [entry.operator], device, [entry.dtype], parameters=chosen, notify=_ignore)
    if not report.ok:
        return None, str(report.findings[0])
    return replace(entry, driver=device.driver, loopy=dict(versions())["loopy"]), ""


def import_entries(path: Path, book: RecipeBook | str | None = None) -> tuple[tuple[Tuned, str], ...]:
    """Import results that somebody else found on the same kind of device: certify each entry here, then store it.

    Args:
        path: a file written by `fmmloopy tune --export`.
        book: the book with the recipes of the entries; None to look up each entry's book by name, among those that
            come with fmmloopy or with installed packages. A file never says which code to run.

    Returns:
        The entries of the file, each with the reason why it was not stored, or "" if it was.

    Raises:
        ValueError: the file, or the one where results are stored, has no valid tuned parameters; nothing is stored.
        DeviceError: the file is for a device that does not exist here.
        OSError: the file cannot be read.
    """
    description, entries = read_entries(path)
    device = next((d for d in find_devices() if d.description == description), None)
    if device is None:
        raise DeviceError(f"{path} is for {description!r}, which is not among the devices here")
    stored = read_store(device)
    given = None if book is None else load_recipes(book)
    results, kept = [], []
    for entry in entries:
        try:
            renewed, wrong = verify(entry, given or load_known(entry.book), device)
        except RecipeError as error:
            renewed, wrong = None, str(error)
        results.append((entry, wrong))
        if renewed:
            kept.append(renewed)
    if kept:
        write_store(device, merge(stored, kept))
    return tuple(results)


def _ignore(*_: object) -> None:
    """Do nothing."""


def _search(
    try_it: Callable[[float, Mapping[str, Any], float], Trial],
    book: RecipeBook,
    operator: str,
    device: Device,
    deadline: float,
    limit: float,
    notify: Callable[[Trial], None],
) -> tuple[Trial, ...]:
    """Try candidates until the time is up, and return the trials; the time for the defaults is not limited by that."""
    trials: list[Trial] = []
    space = space_of(book, operator)
    for parameters in _candidates(space, trials, _defaults(book, operator, device, space)):
        left = deadline - time.monotonic()
        if trials and left <= 0:
            break
        timed = [t.timing.median for t in trials if t.timing]
        most = min(limit, left) if trials else limit
        trial = try_it(most, parameters, min(timed, default=math.inf))
        if trials and trial.timing is None and time.monotonic() >= deadline:
            break  # stopped at the end of the time: its result is unknown
        trials.append(trial)
        notify(trial)
    return tuple(trials)


def count_candidates(book: RecipeBook, operator: str, device: Device) -> int:
    """Return the number of candidates of a search, including the defaults."""
    space = space_of(book, operator)
    defaults = _defaults(book, operator, device, space)
    is_one = all(defaults.get(name) in values for name, values in space.items())
    return math.prod(map(len, space.values())) + (not is_one)


def _defaults(book: RecipeBook, operator: str, device: Device, space: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of the tuned parameters on a device before tuning."""
    defaults = book.defaults_on(operator, device)
    return {name: defaults[name] for name in space if name in defaults}


def _candidates(
    space: Mapping[str, tuple[Any, ...]], trials: Sequence[Trial], defaults: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Yield candidates, the defaults first and none twice; ``trials`` has the results of earlier candidates."""
    yield dict(defaults)
    seen = [dict(defaults)]
    if math.prod(map(len, space.values())) <= EXHAUSTIVE:
        for values in itertools.product(*space.values()):
            candidate = dict(zip(space, values, strict=True))
            if candidate not in seen:
                yield candidate
        return
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
    distributions: dict[str, Any] = {n: optuna.distributions.CategoricalDistribution(v) for n, v in space.items()}
    repeated = 0
    while repeated < 10 * EXHAUSTIVE and len(seen) <= math.prod(map(len, space.values())):
        asked = study.ask(distributions)
        candidate = dict(asked.params)
        if candidate in seen:
            repeated += 1
        else:
            seen.append(candidate)
            yield candidate
        # A candidate that failed counts as very slow, so that the search avoids it.
        times = [t.timing.median for t in trials if t.timing]
        found = next((t.timing for t in trials if dict(t.parameters) == candidate), None)
        study.tell(asked, found.median if found else 10 * max(times, default=1.0))


def _try(
    worker: Worker,
    book: RecipeBook,
    operator: str,
    device: Device,
    setting: Setting,
    limit: float,
    parameters: Mapping[str, Any],
    best: float,
) -> Trial:
    """Time a candidate with a limit for each of its stages; failures are outcomes too."""
    arguments = setting, book, operator, device.description, parameters, best, limit
    try:
        timing, abandoned = worker.call(time_candidate, *arguments)
        wrong = None
        if timing.median < best:  # a wrong candidate must not become the best; the full check comes at the end
            request = Request(book, device, operator, setting.dtype, parameters, layers=("exact",))
            wrong = worker.call(check_operator, request)
    except (NothingToDo, WorkerError):
        raise
    except Exception as error:
        return Trial(parameters, None, f"failed: {one_line(error, 200)}")
    if wrong:
        return Trial(parameters, None, f"wrong: {one_line(ValueError(wrong.message), 200)}")
    return Trial(parameters, timing, "abandoned" if abandoned else "timed")


def time_candidate(
    stage: Stage,
    setting: Setting,
    book: RecipeBook,
    operator: str,
    device: str,
    parameters: Mapping[str, Any],
    best: float,
    limit: float,
) -> tuple[Timing, bool]:
    """Time a recipe with some parameters; stop after one run if it is far slower than the best."""
    stage("making the problem", 300.0)
    problem, runtime = _opened(setting, device)
    timer = OperatorTimer(problem, operator, book, runtime)
    stage("generating code", limit)
    setup = Setup(setting.method, book, runtime.device, {operator: parameters})
    code = compile_operator(setup.code_key(operator))
    # This includes the device's compiler and one run, which may be slow, but not endless.
    stage("compiling and running it", limit if math.isinf(best) else limit + 20 * best)
    first = timer.time(code, 1)
    if first.median > FAR_SLOWER * best:
        return first, True
    return timer.time(code, RUNS), False


@cache
def _opened(setting: Setting, device: str) -> tuple[Problem, Runtime]:
    """Return a problem and an open device; a process that times many candidates makes them once."""
    return make_problem(setting), make_runtime(choose_device(device))


def _certify(book: RecipeBook, operator: str, device: Device, dtype: str, trials: Sequence[Trial]) -> Search:
    """Choose the fastest candidate that the check certifies, or has certified."""
    count = count_candidates(book, operator, device)
    if len(trials) == 1 and trials[0].timing and count > 1:
        return Search(operator, dtype, tuple(trials), count, trials[0], (), False)
    timed = sorted((t for t in trials if t.timing), key=lambda t: t.timing.median if t.timing else math.inf)
    default = trials[0]
    rejected: list[tuple[Mapping[str, Any], str]] = []
    for trial in timed:
        is_faster = _is_faster(trial, default)
        if not is_faster and trial is not default and default.timing:
            continue  # no better than the defaults, which come later
        # Mixed kernels use the parameters for the type that they compute in.
        record = book.operator(operator)
        mixed = [n for n, p in DTYPE_NAMES.items() if dtype == "float32" and record.types_in(p).is_mixed]
        # If points are too close together for float32, P2P uses the kernel for float64.
        more = [*mixed, *(["float64"] if record.is_near and mixed else [])]
        dtypes = [dtype, *(more if device.has_float64 else [])]
        chosen = {} if trial is default else trial.parameters
        wrong = _wrong(book, operator, device, dtypes, chosen)
        if not wrong:
            return Search(operator, dtype, tuple(trials), count, trial, tuple(rejected), is_faster)
        rejected.append((trial.parameters, wrong))
    return Search(operator, dtype, tuple(trials), count, None, tuple(rejected), False)


def _wrong(
    book: RecipeBook, operator: str, device: Device, dtypes: Sequence[str], parameters: Mapping[str, Any]
) -> str:
    """Check a recipe with some parameters, unless it has a certificate; return what is wrong, "" if nothing is."""
    if all(operator_status(book, device, operator, dtype, parameters) == CERTIFIED for dtype in dtypes):
        return ""
    report = check_book(book, [operator], device, dtypes, parameters={operator: parameters}, notify=_ignore)
    return "" if report.ok else str(report.findings[0])


def _is_faster(trial: Trial, default: Trial) -> bool:
    if trial is default or trial.timing is None:
        return False
    if default.timing is None:
        return True
    difference = compare(trial.timing, default.timing)
    return difference.is_one and difference.ratio > 1


def _store(book: RecipeBook, device: Device, setting: Setting, search: Search) -> None:
    """Store the best parameters; if the defaults are best, store an entry without parameters."""
    try:
        entries = list(read_store(device))
    except ValueError:
        entries = []  # a damaged file is replaced
    key = book.name, search.operator, setting.dtype, setting.order
    best, default = search.best, search.trials[0].timing
    if best and best.timing and len(search.trials) > 1:
        entry = Tuned(
            book.name,
            search.operator,
            recipe_hash(book, search.operator),
            setting.dtype,
            setting.order,
            device.driver,
            dict(versions())["loopy"],
            dict(best.parameters) if search.is_faster else {},
            best.timing.median,
            default.median if default else None,
            str(setting),
        )
        write_store(device, merge(entries, [entry]))
    elif not best and any(entry.key == key for entry in entries):
        write_store(device, [entry for entry in entries if entry.key != key])
