"""Time all operators of a book in whole evaluations, and compare with the roofline, other books and other devices.

Results are saved in the cache folder, so that a later run of an edited book, of another book or on another device can
be compared with them if the problem is the same. Two books run in turn, one evaluation each, because a shared machine
may be slower later. Differences within the spread of the runs do not count.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fmmloopy.accuracy import ncrit_for
from fmmloopy.checking.check import device_for
from fmmloopy.choosing.work import Work, count_work
from fmmloopy.common.documents import is_number, parse
from fmmloopy.common.store import cache_folder, read_cached, write_atomically, write_cached
from fmmloopy.execution.devices import Device
from fmmloopy.execution.key import versions
from fmmloopy.fmm import Fmm
from fmmloopy.measuring.peaks import Peaks
from fmmloopy.measuring.roofline import Roofline, count_bytes, roofline
from fmmloopy.measuring.timing import FEWEST_RUNS, Difference, Setting, Timing, compare
from fmmloopy.recipes.book import RecipeBook, RecipeError
from fmmloopy.recipes.load import load_recipes

FORMAT = 1
"""Increase it when files of figures are no longer comparable."""

WHOLE = "evaluate"
"""Name of the whole evaluation among the operators; its time is wall-clock time."""

BUDGET = 20.0
"""Seconds for each book after which no new evaluation starts, once there have been FEWEST_RUNS."""

Notify = Callable[[str], None]
"""Called with a description of the current activity."""


@dataclass(frozen=True)
class Figures:
    """Times of all operators of one book on one device.

    Attributes:
        book, device, driver: the book that was timed, and the device.
        setting: the problem.
        times: by operator, and for WHOLE.
        work, nbytes: operations and bytes by operator, see `fmmloopy.choosing.work` and `fmmloopy.measuring.roofline`.
        fingerprints: hashes of the recipes by operator; they change with the code of a recipe.
        versions: versions of the packages that the code depends on.
    """

    book: str
    device: str
    driver: str
    setting: Setting
    times: Mapping[str, Timing]
    work: Mapping[str, Work]
    nbytes: Mapping[str, int]
    fingerprints: Mapping[str, str]
    versions: Mapping[str, str]

    @property
    def name(self) -> str:
        """The name under which they are saved: that of the book, and a hash of device and problem."""
        key = repr((self.device, self.driver, asdict(self.setting)))
        return f"{self.book}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as a dictionary for JSON; `from_dict` is the inverse."""
        operators: dict[str, dict[str, Any]] = {name: {"seconds": list(t.seconds)} for name, t in self.times.items()}
        for name, work in self.work.items():
            operators[name] |= {**asdict(work), "bytes": self.nbytes[name]}
        return {
            "format": FORMAT,
            "book": self.book,
            "device": self.device,
            "driver": self.driver,
            "setting": asdict(self.setting),
            "operators": operators,
            "fingerprints": dict(self.fingerprints),
            "versions": dict(self.versions),
        }


def from_dict(stored: Mapping[str, Any]) -> Figures:
    """Return figures from the result of `Figures.as_dict`.

    Raises:
        ValueError: the argument is something else, or has another format.
    """
    try:
        if stored["format"] != FORMAT:
            raise ValueError(f"figures of format {stored['format']}, expected {FORMAT}; run the benchmark again")
        operators = stored["operators"]
        return Figures(
            str(stored["book"]),
            str(stored["device"]),
            str(stored["driver"]),
            Setting(**stored["setting"]),
            {name: _timing(entry["seconds"]) for name, entry in operators.items()},
            {
                name: Work(int(entry["pairs"]), int(entry["flops"]))
                for name, entry in operators.items()
                if "flops" in entry
            },
            {name: int(entry["bytes"]) for name, entry in operators.items() if "bytes" in entry},
            dict(stored["fingerprints"]),
            dict(stored["versions"]),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"these are not the figures of a benchmark: {type(error).__name__} {error}") from None


def _timing(seconds: Any) -> Timing:
    if not isinstance(seconds, list) or not seconds or not all(is_number(each) and each >= 0 for each in seconds):
        raise TypeError(f"seconds are {seconds!r:.80}, expected a list of times")
    return Timing(tuple(map(float, seconds)))


# -- saved figures


def figures_folder() -> Path:
    """Return the folder of saved figures."""
    return cache_folder() / "bench"


def save(figures: Figures, name: str | Path | None = None) -> Path:
    """Save figures to a file.

    Args:
        figures: the figures.
        name: a name in the cache folder; a path that ends in .json; or None for their own name, which replaces earlier
            figures of the same book for the same problem and device.

    Returns:
        The path of the file.

    Raises:
        ValueError: the name is that of a recipe book, or has characters that are not allowed.
    """
    path = _path(name or figures.name)
    if name and path.parent == figures_folder() and _is_book(str(name)):
        raise ValueError(f"{name} is the name of a recipe book; choose another name for the figures")
    write = write_cached if path.parent == figures_folder() else write_atomically
    write(path, json.dumps(figures.as_dict(), indent=2))
    return path


def load(name: str | Path) -> Figures:
    """Read figures, by their name in the cache folder or the path of their .json file.

    Raises:
        ValueError: there are none with this name, or the file contains something else.
    """
    path = _path(name)
    try:
        return from_dict(parse(_content(path)))
    except OSError:
        kept = ", ".join(sorted(p.stem for p in figures_folder().glob("*.json"))) or "none yet"
        raise ValueError(f"no figures {name}; there are {kept}, or give the path of a .json file") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _content(path: Path) -> bytes:
    return read_cached(path) if path.parent == figures_folder() else path.read_bytes()


def _path(name: str | Path) -> Path:
    if str(name).endswith(".json"):
        return Path(name)
    if not re.fullmatch(r"[\w.+-]+", str(name)):
        raise ValueError(
            f"figures are named {str(name)!r}, expected letters, digits and .+-_, or a path ending in .json"
        )
    return figures_folder() / f"{name}.json"


def _is_book(name: str) -> bool:
    try:
        load_recipes(name)
    except RecipeError:
        return False
    return True


def kept_figures(setting: Setting) -> list[Figures]:
    """Return all saved figures for a problem, in the order of their names; files that cannot be read are ignored."""
    found = []
    for path in sorted(figures_folder().glob("*.json")):
        try:
            figures = load(path)
        except ValueError:
            continue
        if figures.setting == setting:
            found.append(figures)
    return found


# -- measuring


def measure(
    books: Sequence[RecipeBook | str | Path],
    device: str | Device | None = None,
    setting: Setting | None = None,
    runs: int = 7,
    notify: Notify | None = None,
) -> list[Figures]:
    """Time all operators of books on one device; the evaluations of the books alternate.

    Args:
        books: books, their names, or the paths of their files.
        device: the device to run on; None for the first that the first book is for, or else the default device.
        setting: the problem; None for 100,000 points on the sphere at order 6 in float64.
        runs: evaluations with each book, after one for the device's compiler; fewer if they are slow, see BUDGET.
        notify: called with a description of the current activity.

    Raises:
        DeviceError, RecipeError: there is no such device or book, or it fails.
    """
    setting, notify = setting or Setting(), notify or (lambda text: None)
    loaded = [load_recipes(book) for book in books]
    device = device_for(loaded[0], device)
    setting.check_device(device)
    points, fmms = setting.make_points(), []
    for book in loaded:
        notify(f"{book.name}: code for {device.description[:60]}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the C device warns about itself
            # Use the same tree for every book and at any time, so that figures are for the same work.
            fmms.append(
                Fmm(
                    points,
                    kernel=setting.greens,
                    device=device,
                    recipes=book,
                    order=setting.order,
                    ncrit=ncrit_for(setting.order),
                    precision=setting.precision.name,
                    m2l="fft",
                )
            )
    charges = np.random.default_rng(1).uniform(-1, 1, setting.points)
    seconds: list[dict[str, list[float]]] = [{} for _ in fmms]
    for fmm in fmms:
        fmm.evaluate(charges)
    start = time.perf_counter()
    for run in range(runs):
        if run >= FEWEST_RUNS and time.perf_counter() - start > BUDGET * len(fmms):
            break
        notify(f"evaluation {run + 1} of {runs} on {device.description[:60]}")
        for fmm, collected in zip(fmms, seconds, strict=True):
            fmm.evaluate(charges)
            for operator, taken in fmm.timings.items():
                collected.setdefault(operator, []).append(taken)
    return [_figures(book, fmm, setting, s) for book, fmm, s in zip(loaded, fmms, seconds, strict=True)]


def _figures(book: RecipeBook, fmm: Fmm, setting: Setting, seconds: Mapping[str, Sequence[float]]) -> Figures:
    counted = count_work(fmm.tree, fmm.lists, setting.method, fmm.m2l)
    work = {operator: counted[operator] for operator in counted if counted[operator].flops and operator in seconds}
    times = {operator: Timing(tuple(seconds[operator])) for operator in (*work, "clear", WHOLE) if operator in seconds}
    fingerprints = {operator: book.fingerprint(operator) for operator in work}
    device = fmm.device
    nbytes = count_bytes(fmm.tree, fmm.lists, setting.method, fmm.m2l)
    nbytes = {operator: nbytes[operator] for operator in work}
    what = (book.name, device.description, device.driver)
    return Figures(*what, setting, times, work, nbytes, fingerprints, dict(versions()))


def rooflines(figures: Figures, peaks: Mapping[str, Peaks]) -> dict[str, Roofline]:
    """Return the limits of every timed operator, from peaks by the dtype that operators compute in."""
    setting = figures.setting
    return {
        name: roofline(work, figures.nbytes[name], peaks[setting.computed_in(name)], setting.greens)
        for name, work in figures.work.items()
    }


def edited_recipes(new: Figures, old: Figures) -> list[str]:
    """Return the operators whose recipes differ between figures of one book."""
    if new.book != old.book:
        return []
    return [name for name, value in new.fingerprints.items() if old.fingerprints.get(name, value) != value]


def compare_all(new: Figures, old: Figures) -> dict[str, Difference]:
    """Compare the operators that both figures contain, and the whole evaluation.

    Raises:
        ValueError: their problems differ.
    """
    if new.setting != old.setting:
        raise ValueError(f"figures are for {old.setting}, expected {new.setting}: other problems cannot be compared")
    return {name: compare(new.times[name], old.times[name]) for name in new.times if name in old.times}
