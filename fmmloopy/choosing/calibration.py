"""How fast operators run on a device: measured once, on a small problem, and kept in the cache folder.

A file holds the rates that explain best what every operator took in a few evaluations, under a key of everything that
the speed of the code depends on. It is read again by whatever process asks for the same key; it can be deleted at any
moment, and a file that is damaged or stands for something else counts as none.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmmloopy.choosing.cost_model import Measurement, Rates, fit_rates
from fmmloopy.choosing.work import count_work
from fmmloopy.common import store
from fmmloopy.execution.device import Probes
from fmmloopy.execution.devices import is_busy, processors
from fmmloopy.execution.evaluation import Evaluation
from fmmloopy.execution.runtime import Runtime
from fmmloopy.execution.setup import Setup
from fmmloopy.operators import M2L_FORMS, OPERATORS

FORMAT = 5
"""Increase when the same key would have to give other rates."""

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

BuildProbe = Callable[[NDArray[np.float64], int], Evaluation]
"""Builds an evaluation for points of shape (n, 3) and an ncrit."""


class KnownRates:
    """The rates of a setup: those that are kept, or else those of evaluations of small problems.

    Args:
        setup: whose operators.
        runtime: the open device, on which probes are measured.
        most: sources or targets of the problem that rates are for, whichever are more.
    """

    def __init__(self, setup: Setup, runtime: Runtime, most: int) -> None:
        self._setup, self._runtime, self._most = setup, runtime, most
        self._found: dict[str, Rates] = {}

    def of(self, form: str, measure: bool = False) -> Rates | None:
        """Return the rates with a form of M2L, None if there are none.

        Those of other forms are put beside those of the FFT form, if there are some: predictions differ by M2L alone.
        What has been found once is used for good, whatever becomes of the cache folder.

        Args:
            form: of M2L.
            measure: whether to measure what is not kept.
        """
        if form in self._found:
            return self._found[form]
        key = self._keys[form]

        def build(points: NDArray[np.float64], ncrit: int) -> Evaluation:
            return Evaluation.of_points(self._setup, form, ncrit, points, self._runtime)

        # The tables of the dense form are too large to be made for probes.
        probes = self._setup.device.limits.probes
        rates = calibrate(key, build, self._most, probes) if measure and form != "dense" else stored_rates(key)
        shared = self.of("fft") if rates and form != "fft" else None
        rates = rates.beside(shared) if rates and shared else rates
        if rates:
            self._found[form] = rates
        return rates

    @cached_property
    def _keys(self) -> dict[str, str]:
        return rates_keys(self._setup, self._most)


def rates_keys(setup: Setup, npoints: int) -> dict[str, str]:
    """Write down everything that the speed of operators depends on: their code, the order, cores, many points or few.

    Args:
        setup: whose operators.
        npoints: sources or targets, whichever are more.

    Returns:
        The key of the rates with each form of M2L.
    """
    code = {operator: setup.code_key(operator).text() for operator in OPERATORS}
    shared = [code[operator.name] for operator in OPERATORS.values() if not operator.m2l]
    common = {
        "format": FORMAT,
        "order": setup.method.order,
        "cores": processors(),
        "probes": _count(npoints, setup.device.limits.probes),
    }
    return {
        form: repr({**common, "code": [*shared, *(code[stage.name] for stage in stages)]})
        for form, stages in M2L_FORMS.items()
    }


def _count(npoints: int, sizes: Probes) -> int:
    """Return the points of the probes for a problem."""
    return sizes.many_points if npoints >= sizes.many_from else sizes.points


def rates_file(key: str) -> Path:
    """Return where the measurements under a key are kept."""
    return store.keyed_file("rates", key)


def stored_rates(key: str) -> Rates | None:
    """Return the rates that are kept under a key; None if there are none, or none that can be used."""
    kept = _read(key)
    return kept.rates if kept else None


def calibrate(key: str, build: BuildProbe, npoints: int, sizes: Probes) -> Rates | None:
    """Return the rates that are kept under a key; measure and keep them if there are none.

    Those of a time when other programs ran are measured again when none do.

    Args:
        key: from `rates_keys`.
        build: builds what is measured.
        npoints: sources or targets of the problem that rates are for, whichever are more.
        sizes: of the probes on the device.

    Returns:
        The rates; None if they cannot be had, for whatever reason. That a device is too slow is kept too.
    """
    kept, busy = _read(key), is_busy()
    if kept is None or (kept.busy and not busy):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the evaluation that this is for says the same
                measurements = measure(build, _count(npoints, sizes), sizes)
                kept = _Kept(fit_rates(measurements) if measurements else None, busy)
        except Exception:  # whatever it is: the evaluation that this is for says so too, or does without
            return kept.rates if kept else None
        _write(key, kept)
    return kept.rates


def measure(build: BuildProbe, npoints: int, sizes: Probes) -> list[Measurement]:
    """Time a few evaluations of so many points with different ncrit; none if the device is too slow for that."""
    first = _Timed(build(probe_points(sizes.first), sizes.first // 8))
    first.run()
    if not any(_takes(first.run) <= sizes.longest for _ in range(3)):
        return []
    method = first.probe.setup.method
    order, one_by_one = method.order, method.kernel.homogeneity is None
    del first
    points = probe_points(npoints)
    # Tables for each level, which such functions need, take gigabytes at high orders.
    groups = [(ncrit,) for ncrit in NCRITS] if one_by_one else [NCRITS]
    return [found for group in groups for found in _take_turns([build(points, ncrit * order) for ncrit in group])]


def _take_turns(probes: Sequence[Evaluation]) -> list[Measurement]:
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

    def __init__(self, probe: Evaluation) -> None:
        self.probe, self.seconds = probe, dict[str, float]()
        method, problem = probe.setup.method, probe.problem
        shape = (method.kernel.nsource_components, problem.tree.nsources)
        self._charges = np.random.default_rng(1).uniform(-1, 1, shape).astype(method.precision.points)
        self._work = count_work(problem.tree, problem.lists, method, probe.m2l)

    def run(self) -> bool:
        """Evaluate once more; return whether the operators took as long as the fastest did before."""
        self.probe.run(self._charges)
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


def _write(key: str, kept: _Kept) -> None:
    rates = None if kept.rates is None else dict(kept.rates.per_unit)
    store.keep(rates_file(key), key, {"rates": rates, "busy": kept.busy})


def _read(key: str) -> _Kept | None:
    """Read rates, None if there are none."""
    content = store.kept(rates_file(key), key)
    try:
        stored = content["rates"]
        rates = None if stored is None else Rates({name: (unit, block) for name, (unit, block) in stored.items()})
        return _Kept(rates, bool(content["busy"]))
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
