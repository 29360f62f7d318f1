"""How fast operators run on a device: measured once, on a small problem, and kept in the cache folder.

A file holds the rates that explain best what every operator took in a few evaluations, under a key of everything that
the speed of the code depends on. It is read again by whatever process asks for the same key; it can be deleted at any
moment, and a file that is damaged or stands for something else counts as none.
"""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fmmloopy.cache import cache_folder, write_atomically
from fmmloopy.compile import operator_key
from fmmloopy.cost_model import Measurement, Rates, fit_rates
from fmmloopy.devices import Device, is_busy, processors
from fmmloopy.greens import GreensFunction
from fmmloopy.lists import InteractionLists
from fmmloopy.plan import M2L_OPERATORS
from fmmloopy.precision import DTYPES, TYPES, kernel_dtype
from fmmloopy.recipes import RecipeBook
from fmmloopy.tree import Tree
from fmmloopy.work import count_work

FORMAT = 4
"""Increase when the same key would have to give other rates."""

POINTS, MANY_POINTS = 20_000, 100_000
"""Points of the probes, for small problems and for those of FROM points or more. Still smaller ones are over before all
cores have begun. Larger ones do not fit into caches, and keep all cores busy to the end of each launch; the small ones
would mislead there (docs/measurements/constants.csv)."""

FROM = 200_000
"""Below that the small probes predict well (docs/measurements/constants.csv)."""

NCRITS = (8, 24, 72)
"""The ncrit of each probe, over the order: much M2L, a balance, much P2P."""

FEWEST_POINTS = 4096
"""Problems smaller than this are not worth the seconds that the probes take."""

ROUNDS, BUDGET = 5, 1.0
"""Rounds of evaluations, of which the fastest time of each operator counts: so many, or as many as begin within so many
seconds, but two, since the first compiles. Probes take turns, so what slows the machine for seconds slows all of them,
and the choice stays right (docs/measurements/constants.csv)."""

STEADY, PATIENCE = 1.2, 4.0
"""Rounds go on, for so many seconds at most, until each probe takes as long as its fastest times before, within this
factor: a moment that slows some of them alone does not choose."""

SMALL = 500
"""Points of a problem that is tried first: where even that takes longer than LONGEST seconds, three times in a row,
nothing else is tried."""

LONGEST = 0.25

OPERATORS = ("p2p", "p2m", "p2l", "m2m", "l2l", "l2p", "m2p", "check_to_equivalent")
"""Operators of every evaluation."""


class Probe(Protocol):
    """What is timed: `fmmloopy.Fmm`."""

    tree: Tree
    lists: InteractionLists
    order: int
    kernel: GreensFunction
    precision: str
    m2l: str
    timings: dict[str, float]

    def evaluate(self, charges: NDArray[Any]) -> Any:
        """Evaluate once, and put seconds by operator into ``timings``."""


BuildProbe = Callable[[NDArray[np.float64], int], Probe]
"""Builds an evaluation for points of shape (n, 3) and an ncrit."""


def rates_keys(
    greens: GreensFunction,
    order: int,
    dtype: str,
    book: RecipeBook,
    device: Device,
    parameters: Mapping[str, Mapping[str, Any]],
    npoints: int,
) -> dict[str, str]:
    """Write down everything that the speed of operators depends on: their code, the order, cores, many points or few.

    The dtype is that of the evaluation: float32, float64, mixed or reduced. There are ``npoints`` sources or targets,
    whichever are more.

    Returns:
        The key of the rates with each form of M2L.
    """
    code = {
        operator: operator_key(
            operator, greens, order, kernel_dtype(operator, dtype), book, device, parameters.get(operator)
        )
        for operator in (*OPERATORS, *chain.from_iterable(M2L_OPERATORS.values()))
    }
    common = {"format": FORMAT, "order": order, "cores": processors(), "probes": _count(npoints)}
    return {
        form: repr({**common, "code": [code[operator] for operator in (*OPERATORS, *own)]})
        for form, own in M2L_OPERATORS.items()
    }


def _count(npoints: int) -> int:
    """Return the points of the probes for a problem."""
    return MANY_POINTS if npoints >= FROM else POINTS


def rates_file(key: str) -> Path:
    """Return where the measurements under a key are kept."""
    return cache_folder() / "rates" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


def stored_rates(key: str) -> Rates | None:
    """Return the rates that are kept under a key; None if there are none, or none that can be used."""
    kept = _read(rates_file(key), key)
    return kept.rates if kept else None


def calibrate(key: str, build: BuildProbe, npoints: int) -> Rates | None:
    """Return the rates that are kept under a key; measure and keep them if there are none.

    Those of a time when other programs ran are measured again when none do.

    Args:
        key: from `rates_keys`.
        build: builds what is measured.
        npoints: sources or targets of the problem that rates are for, whichever are more.

    Returns:
        The rates; None if they cannot be had, for whatever reason. That a device is too slow is kept too.
    """
    kept, busy = _read(rates_file(key), key), is_busy()
    if kept is None or (kept.busy and not busy):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the evaluation that this is for says the same
                measurements = measure(build, _count(npoints))
                kept = _Kept(fit_rates(measurements) if measurements else None, busy)
        except Exception:  # whatever it is: the evaluation that this is for says so too, or does without
            return kept.rates if kept else None
        with suppress(OSError):  # without a place to keep it, it is measured each time
            _write(rates_file(key), key, kept)
    return kept.rates


def measure(build: BuildProbe, npoints: int) -> list[Measurement]:
    """Time a few evaluations of so many points with different ncrit; none if the device is too slow for that."""
    first = _Timed(build(probe_points(SMALL), SMALL // 8))
    first.run()
    if not any(_takes(first.run) <= LONGEST for _ in range(3)):
        return []
    order, one_by_one = first.probe.order, first.probe.kernel.homogeneity is None
    del first
    points = probe_points(npoints)
    # Tables for each level, which such functions need, take gigabytes at high orders.
    groups = [(ncrit,) for ncrit in NCRITS] if one_by_one else [NCRITS]
    return [found for group in groups for found in _take_turns([build(points, ncrit * order) for ncrit in group])]


def _take_turns(probes: Sequence[Probe]) -> list[Measurement]:
    """Time evaluations of probes, one of each in a round, until they take as long as before."""
    timed, share = [_Timed(probe) for probe in probes], len(probes) / len(NCRITS)
    start = time.perf_counter()
    for completed in count(1):
        agreed = [each.run() for each in timed]
        spent = time.perf_counter() - start
        enough = all(agreed) and (completed >= ROUNDS or spent > share * BUDGET)
        if completed >= 2 and (enough or spent > share * PATIENCE):
            break
    return [each.measurement() for each in timed]


def _takes(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


class _Timed:
    """An evaluation that is repeated, and the least seconds of each operator."""

    def __init__(self, probe: Probe) -> None:
        self.probe, self.seconds = probe, dict[str, float]()
        shape = (probe.tree.nsources, probe.kernel.nsource_components)
        charges = np.random.default_rng(1).uniform(-1, 1, shape)
        self._charges = charges[:, 0] if shape[1] == 1 else charges
        expansions = TYPES[DTYPES[probe.precision]].expansions
        self._work = count_work(probe.tree, probe.lists, probe.order, probe.kernel, probe.m2l, dtype=expansions)

    def run(self) -> bool:
        """Evaluate once more; return whether the operators took as long as the fastest did before."""
        self.probe.evaluate(self._charges)
        latest = {name: seconds for name, seconds in self.probe.timings.items() if name in self._work}
        low, high = sorted((sum(latest.values()), sum(self.seconds.values())))
        self.seconds = {name: min(seconds, self.seconds.get(name, seconds)) for name, seconds in latest.items()}
        return high <= STEADY * low

    def measurement(self) -> Measurement:
        return Measurement(self._work, self.seconds)


def probe_points(count: int) -> NDArray[np.float64]:
    """Return points in the cube, on a sphere and in a cluster that is denser towards its centre: shape (count, 3)."""
    random = np.random.default_rng(0)
    each = [count // 3, count // 3, count - 2 * (count // 3)]
    surface, cluster = random.standard_normal((each[1], 3)), random.standard_normal((each[2], 3))
    surface /= np.linalg.norm(surface, axis=1, keepdims=True)
    cluster *= 10.0 ** random.uniform(-3, -1, (each[2], 1))
    return np.concatenate([random.uniform(-1, 1, (each[0], 3)), surface, cluster])


@dataclass(frozen=True)
class _Kept:
    """What a file holds: rates, None for a device that is too slow, and whether other programs ran meanwhile."""

    rates: Rates | None
    busy: bool


def _write(path: Path, key: str, kept: _Kept) -> None:
    stored = None if kept.rates is None else dict(kept.rates.per_unit)
    content = {"key": key, "checksum": _checksum(stored), "rates": stored, "busy": kept.busy}
    write_atomically(path, json.dumps(content))


def _read(path: Path, key: str) -> _Kept | None:
    """Read rates; a file that is damaged or stands for something else counts as none."""
    try:
        content = json.loads(path.read_text())
        stored = content["rates"]
        if content["key"] != key or content["checksum"] != _checksum(stored):
            return None
        rates = None if stored is None else Rates({name: (unit, block) for name, (unit, block) in stored.items()})
        return _Kept(rates, bool(content["busy"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _checksum(stored: Any) -> str:
    return hashlib.sha256(json.dumps(stored, sort_keys=True).encode()).hexdigest()
