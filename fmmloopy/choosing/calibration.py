"""Rates of operators on a device: measured once, on small problems, and stored in the cache folder.

A file has the rates that best fit the times of all operators in a few evaluations, under a key of everything that the
speed of the code depends on. Every process with the same key uses it. It can be deleted at any time; a file that is
damaged or for something else is ignored.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmmloopy.choosing.cost_model import Measurement, Rates, fit_rates, why_fft_alone
from fmmloopy.choosing.work import count_work, effort_per_pair
from fmmloopy.common import store
from fmmloopy.common.cores import processors
from fmmloopy.execution.device import CPU, Probes
from fmmloopy.execution.devices import is_busy
from fmmloopy.execution.evaluation import Evaluation
from fmmloopy.execution.runtime import Runtime
from fmmloopy.execution.setup import Setup
from fmmloopy.greens import laplace
from fmmloopy.operators import M2L_FORMS, OPERATORS, Operator

FORMAT = 7
"""Increase it when the same key must give different rates."""

NCRITS = (8, 24, 72)
"""The ncrit of each probe divided by the order: much M2L, balanced, much P2P. On CPUs the balanced one alone: what a
block takes is known there from the records of operators."""

PROBE_RADIUS = 0.25
"""Half width of the boxes whose tables serve all levels of a probe. Functions that are not homogeneous need tables for
each level, which would take most of the time of a first evaluation, and gigabytes at high orders."""

FEWEST_POINTS = 4096
"""Smaller problems are not worth the seconds that the probes take."""

ROUNDS, BUDGET = 5, 1.0
"""Number of rounds of evaluations, whose fastest time of each operator counts, and the seconds after which no new round
starts; at least two rounds, since the first compiles. Probes alternate, so that a disturbance of some seconds affects
all of them, and the choice stays right (docs/measurements/constants.csv)."""

STEADY, PATIENCE = 1.2, 4.0
"""Rounds continue, up to a number of seconds, until each probe takes as long as its fastest times before within this
factor, so that a short disturbance of some probes does not affect the choice."""

MEASURED = "measured on this device with probes, stored in the cache folder"
DERIVED = "those of another case on this device, by what a pair of points and an operation take here and there"
"""Where rates are from."""

BuildProbe = Callable[[NDArray[np.float64], int], Evaluation]
"""Builds an evaluation for points of shape (n, 3) and an ncrit."""


class KnownRates:
    """The rates of a setup: stored ones, or else those measured with small problems.

    Args:
        setup: the method, recipes and device.
        runtime: the open device, on which probes are measured.
        most: number of sources or targets of the problem, whichever is larger.

    Attributes:
        source: where the rates are from, in words.
    """

    def __init__(self, setup: Setup, runtime: Runtime, most: int) -> None:
        self._setup, self._runtime, self._most = setup, runtime, most
        self._found: dict[str, Rates] = {}
        self.source = "none"

    def of(self, form: str, measure: bool = False) -> Rates | None:
        """Return the rates with a form of M2L; None if there are none.

        If none are stored, they are derived from those of the case that was measured last with the same recipes and
        device, and only measured if there is no such case. Those of other forms are aligned with those of the FFT form,
        if available, so that predictions differ only in M2L. Rates that were found once stay in use even if the cache
        folder changes.

        Args:
            form: form of M2L.
            measure: whether to derive or measure rates that are not stored.
        """
        if form in self._found:
            return self._found[form]
        key = self._keys[form]

        latest: Evaluation | None = None

        def build(points: NDArray[np.float64], ncrit: int) -> Evaluation:
            nonlocal latest
            latest = Evaluation.of_points(
                *(self._setup, form, ncrit, points, self._runtime),
                previous=latest,
                radius=PROBE_RADIUS,
                ahead=self._ahead(form) if latest is None else (),
            )
            return latest

        # The tables of the dense form are too large for probes.
        probes, rates = self._setup.device.limits.probes, stored_rates(key)
        derived = self._derived(form) if measure and not rates else None
        if measure and form != "dense" and not derived:
            before = _read(key)
            rates = calibrate(key, build, self._most, probes, self._blocks(form))
            if rates and _read(key) != before:
                _refer(self._case(form), key, self._efforts(rates.per_unit))
        if rates or derived:
            self.source = DERIVED if derived else MEASURED
        rates = rates or derived
        shared = self.of("fft") if rates and form != "fft" else None
        rates = rates.beside(shared) if rates and shared else rates
        if rates:
            self._found[form] = rates
        return rates

    @cached_property
    def _keys(self) -> dict[str, str]:
        return rates_keys(self._setup, self._most)

    def _derived(self, form: str) -> Rates | None:
        """Return the rates of the case that was measured last, scaled by what a unit of work takes here and there."""
        content = store.kept(_reference_file(case := self._case(form)), case)
        try:
            measured, before = _read(content["rates"]), content["efforts"]
            if measured is None or measured.rates is None or measured.is_doubtful:
                return None
            here = self._efforts(measured.rates.per_unit)
            return Rates(
                {
                    name: (unit * here[name][0] / before[name][0], block * here[name][1] / before[name][1])
                    for name, (unit, block) in measured.rates.per_unit.items()
                }
            )
        except (KeyError, TypeError, IndexError):
            return None

    def _ahead(self, form: str) -> list[Operator]:
        """Return the operators that have work in probes, also with the form that this one is compared with."""
        forms = {form, "svd"} if form == "fft" and why_fft_alone(self._setup.method, self._most) is None else {form}
        return [operator for operator in OPERATORS.values() if not operator.m2l or operator.m2l in forms]

    def _blocks(self, form: str) -> dict[str, float] | None:
        """Return how many units of its work a block of each operator takes; None if that is not known."""
        if self._setup.device.kind != CPU:
            return None
        shared = [name for name, operator in OPERATORS.items() if not operator.m2l]
        names = [*shared, *(stage.name for stage in M2L_FORMS[form])]
        efforts, plain = self._efforts(names), effort_per_pair(laplace())
        return {
            name: OPERATORS[name].block * (plain * block / unit if OPERATORS[name].particles else 1.0)
            for name, (unit, block) in efforts.items()
        }

    def _efforts(self, operators: Iterable[str]) -> dict[str, tuple[int, int]]:
        """Return what a unit of work and a block of operators take, in bytes of numbers that are computed with."""
        method, efforts = self._setup.method, {}
        for name in operators:
            spec = method.specification(self._setup.book.operator(name))
            size, kernel = spec.types.inner.itemsize, method.translations
            entries = 1 if spec.operator.particles else kernel.ntarget_components * kernel.nsource_components
            efforts[name] = (
                size * (effort_per_pair(spec.greens) if spec.operator.particles else 1),
                size * entries,
            )
        return efforts

    def _case(self, form: str) -> str:
        """Return what cases have in common whose rates are derived from each other."""
        setup = self._setup
        recipes = {name: setup.book.fingerprint(name) for name in OPERATORS}
        device = setup.device.backend, setup.device.description, setup.device.driver
        probes = _count(self._most, setup.device.limits.probes)
        return repr(
            {"format": FORMAT, "form": form, "cores": processors(), "probes": probes, "device": device} | recipes
        )


def rates_keys(setup: Setup, npoints: int) -> dict[str, str]:
    """Return everything that the speed of operators depends on: their code, order, cores, size class of the problem.

    Args:
        setup: the method, recipes and device.
        npoints: number of sources or targets, whichever is larger.

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
    """Return the path of the measurements under a key."""
    return store.keyed_file("rates", key)


def _reference_file(case: str) -> Path:
    return store.keyed_file("rates", case, "latest-")


def _refer(case: str, key: str, efforts: Mapping[str, tuple[int, int]]) -> None:
    """Remember under which key rates were measured last, and what a unit of work takes there."""
    store.keep(_reference_file(case), case, {"rates": key, "efforts": efforts})


def stored_rates(key: str) -> Rates | None:
    """Return the rates that are stored under a key; None if there are none, or none that can be used."""
    kept = _read(key)
    return kept.rates if kept else None


def calibrate(
    key: str, build: BuildProbe, npoints: int, sizes: Probes, blocks: Mapping[str, float] | None = None
) -> Rates | None:
    """Return the rates that are stored under a key; measure and store them if there are none.

    Rates that were measured while other programs ran are measured again when the machine is quiet.

    Args:
        key: from `rates_keys`.
        build: builds the evaluation to measure.
        npoints: number of sources or targets of the problem, whichever is larger.
        sizes: sizes of the probes on the device.
        blocks: how many units of its work a block of each operator takes, for which one probe is enough; None if that
            is not known.

    Returns:
        The rates; None if they cannot be measured. The result that a device is too slow is stored too.
    """
    kept = _read(key)
    if kept is None or kept.is_doubtful:
        busy = is_busy()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the evaluation that this is for says the same
                measurements = measure(build, _count(npoints, sizes), sizes, NCRITS[1:2] if blocks else NCRITS)
                kept = _Kept(fit_rates(measurements, blocks) if measurements else None, busy)
        except Exception:  # whatever it is: the evaluation that this is for says so too, or does without
            return kept.rates if kept else None
        _write(key, kept)
    return kept.rates


def measure(build: BuildProbe, npoints: int, sizes: Probes, ncrits: Sequence[int] = NCRITS) -> list[Measurement]:
    """Time evaluations of a number of points, each with an ncrit; none if the device is too slow for that."""
    first = _Timed(build(probe_points(sizes.first), sizes.first // 8))
    first.run()
    if not any(_takes(first.run) <= sizes.longest for _ in range(3)):
        return []
    order = first.probe.setup.method.order
    del first
    points = probe_points(npoints)
    return _take_turns([build(points, ncrit * order) for ncrit in ncrits])


def _take_turns(probes: Sequence[Evaluation]) -> list[Measurement]:
    """Time evaluations of probes, one of each per round, until the times repeat."""
    timed, start = [_Timed(probe) for probe in probes], time.perf_counter()
    for completed in count(1):
        agreed = [each.run() for each in timed]
        spent = time.perf_counter() - start
        enough = all(agreed) and (completed >= ROUNDS or spent > BUDGET)
        if completed >= 2 and (enough or spent > PATIENCE):
            break
    return [each.measurement() for each in timed]


def _takes(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


class _Timed:
    """An evaluation that is repeated, and the shortest time of each operator."""

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
    """The content of a file: rates, None for a device that is too slow, and whether other programs ran meanwhile."""

    rates: Rates | None
    busy: bool

    @property
    def is_doubtful(self) -> bool:
        """Whether to measure them again, now that the machine is quiet; those of bundles are used as they are."""
        return self.busy and not store.archives and not is_busy()


def _write(key: str, kept: _Kept) -> None:
    rates = None if kept.rates is None else dict(kept.rates.per_unit)
    store.keep(rates_file(key), key, {"rates": rates, "busy": kept.busy})


def _read(key: str) -> _Kept | None:
    """Read rates; None if there are none."""
    content = store.kept(rates_file(key), key)
    try:
        stored = content["rates"]
        rates = (
            None
            if stored is None
            else Rates({name: (float(unit), float(block)) for name, (unit, block) in stored.items()})
        )
        return _Kept(rates, bool(content["busy"]))
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
