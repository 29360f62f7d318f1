"""A part of a fast multipole method in several processes, or in several threads."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fmmloopy.choosing.calibration import FEWEST_POINTS
from fmmloopy.choosing.cost_model import UnknownRate
from fmmloopy.choosing.decision import Decision
from fmmloopy.choosing.work import count_work
from fmmloopy.common.arguments import check_count
from fmmloopy.common.cores import processors
from fmmloopy.common.memory import give_back
from fmmloopy.common.range import shift, shift_back
from fmmloopy.common.sizes import count_points
from fmmloopy.components import by_vector, in_rows
from fmmloopy.direct import sum_vectors
from fmmloopy.execution.device import CPU
from fmmloopy.execution.devices import ENVIRONMENT_VARIABLE, Device, find_devices
from fmmloopy.execution.evaluation import Evaluation, Timings, deepest_level, grower, timed
from fmmloopy.execution.runtime import Runtime
from fmmloopy.execution.setup import Setup
from fmmloopy.fmm import Fmm
from fmmloopy.greens import GreensFunction
from fmmloopy.inputs import check_box_width, rounding_change, warn_if_rounded
from fmmloopy.limits import is_finite_at_zero, value_at_zero
from fmmloopy.octree.lists import build_lists
from fmmloopy.octree.small_boxes import absorb_small_boxes
from fmmloopy.octree.tree import SortedPoints, Tree, sort_in_root
from fmmloopy.operators import OPERATORS
from fmmloopy.parts.part import LocalPart, build_part
from fmmloopy.parts.shares import Shares, sample, share_out
from fmmloopy.parts.team import Result, Team
from fmmloopy.parts.transport import Mpi
from fmmloopy.prediction.predict import Predictor
from fmmloopy.several.report import PartReport, PartsReport
from fmmloopy.vectors import Vectors

BALANCED = 1.05
"""Points stay where they are if the slowest part takes at most so many times as long as the mean."""


GIVEN_BACK_FROM = 1_000_000
"""Points of a part from which on memory that was freed while it was built goes back to the system, which takes some
milliseconds now, and again when the next evaluation needs it."""


class PartFmm(Fmm):
    """The fast multipole method in several processes: ``Fmm(points_of_this_process, comm=MPI.COMM_WORLD)``.

    Each process gives any share of the points, which may be empty, in any order, and gets the potentials of its own
    targets, in its order. Inside, each process has a range of the points along the Morton curve, and a device.

    Every method that computes something is called by all processes, in the same order and with arguments of the same
    kind. Potentials are those of one process up to rounding, and the same from run to run. If a process fails, the
    others raise `fmmloopy.parts.team.PartError`, or ValueError for arguments, with what it says and its number.

    Args:
        sources, targets: as for `Fmm`, the share of this process: shape (n, 3), and n may be 0.
        comm: a communicator of mpi4py, which must not be freed before this. A duplicate carries the messages; there is
            one for each communicator, however many evaluations use it.
        speeds: shape (size,), how fast the parts are, relative to each other; None for what the rates of their devices
            say, and equal speeds if the devices are alike or have no rates.
        options: further arguments of `Fmm`, the same in all processes except ``device`` and ``runtime``.

    Attributes:
        tree, lists: the boxes of this part of the points, those of others that they interact with, and their lists.
        timings: as for `Fmm`; ``exchange`` has the seconds that the device has waited for multipoles of others.
    """

    _fewest = 0
    _evaluation: Evaluation

    def __init__(
        self,
        sources: ArrayLike,
        targets: ArrayLike | None = None,
        *arguments: Any,
        comm: Any = None,
        speeds: NDArray[np.float64] | None = None,
        team: Team | None = None,
        **options: Any,
    ) -> None:
        self._team = team or Team(Mpi(comm))
        self._are_speeds_given = speeds is not None
        self._speeds = np.ones(self._team.size) if speeds is None else speeds
        self._fastest: float | None = None
        with self._team.calling():
            super().__init__(sources, targets, *arguments, **options)
        self._give_back()

    # -- what is done by all parts

    def _together(self, call: Callable[[], Result]) -> Result:
        return self._team.together(call)

    def _check_same(self, **values: Any) -> None:
        self._team.check_same(values)

    def _building(self) -> AbstractContextManager[None]:
        # Parts wait for each other, and may be threads: what they hold meanwhile must not be what another waits for.
        return nullcontext()

    def _decided(self, call: Callable[[], Result]) -> Result:
        points = self._shares.sorted
        return self._team.decide(min(len(points.sources.keys), len(points.targets.keys)), call)

    def _decide(self, setup: Setup, call: Callable[[], tuple[Decision, Tree | None]]) -> tuple[Decision, Tree | None]:
        def choose() -> tuple[Any, ...]:
            found, _ = call()
            return found.choice, found.fft_alone, found.digits

        decision = Decision(setup, *self._decided(choose))
        self._predict_speeds(decision)
        return decision, None

    def _predict_speeds(self, decision: Decision) -> None:
        """Let parts on different devices have work in proportion to their rates, if all of these are known."""
        transport, setup, choice = self._team.transport, decision.setup, decision.choice
        if self._are_speeds_given or len(set(transport.gather(setup.device.description))) == 1:
            return

        def seconds() -> float:
            points = self._predictor.points  # a sample, the same in all parts
            rates = self._rates.of(choice.m2l, measure=True) if points.most >= FEWEST_POINTS else None
            tree = grower(points, setup.method.precision)(choice.ncrit)
            lists = absorb_small_boxes(tree, build_lists(tree), count_points(setup.method.order))
            try:
                work = count_work(tree, lists, setup.method, choice.m2l)
                return np.nan if rates is None else sum(rates.seconds(work).values())
            except UnknownRate:
                return np.nan

        found = np.array(transport.gather(self._together(seconds)))
        if np.isfinite(found).all() and found.min() > 0:
            self._speeds = found.min() / found

    def _predictor_of(self, points: SortedPoints) -> Predictor:
        # All parts have the same sample of all points, so that each predicts the same by itself.
        found, share = sample(self._team.transport, self._shares)
        return Predictor(self.kernel, found, max(round(share * self._predicted_ncrit), 1))

    def _sort(self, points: NDArray[Any], others: NDArray[Any] | None, dtype: DTypeLike, width: float) -> SortedPoints:
        transport = self._team.transport
        self._shares: Shares = share_out(transport, points, others, np.dtype(dtype), self._speeds, width)
        self._warn_if_rounded(points, np.dtype(dtype))
        return self._shares.sorted

    def _warn_if_rounded(self, points: NDArray[Any], dtype: np.dtype[Any]) -> None:
        """Warn in the first part if float32 is too coarse for most parts, by the points that were given to each."""
        if dtype != np.float32:
            return
        shares = self._shares
        root = shares.centre, shares.origin, shares.half_width
        change = rounding_change(points, sort_in_root(points, *root, dtype)) if len(points) > 1 else None
        changes = [each for each in self._team.transport.gather(change) if each is not None]
        if self._team.rank == 0 and changes:
            warn_if_rounded(float(np.median(changes)), shares.half_width)

    def _usual_device(self) -> Device | None:
        return None if os.environ.get(ENVIRONMENT_VARIABLE) else device_here(find_devices(), *self._team.transport.here)

    def _most_of(self, points: SortedPoints) -> int:
        counts = np.array([len(points.sources.keys), len(points.targets.keys)])
        return int(self._team.transport.reduce(counts, "sum").max())

    def _evaluate_on(
        self,
        setup: Setup,
        points: SortedPoints,
        tree: Tree | None,
        runtime: Runtime,
        timings: Timings,
        previous: Evaluation | None = None,
    ) -> Evaluation:
        precision = setup.method.precision
        with timed(timings, "lists"):
            part = build_part(
                self._team,
                self._shares,
                ncrit=self.ncrit,
                max_level=deepest_level(precision),
                npoints=count_points(setup.method.order),
                searched=precision.near != precision.points,
                coincident=is_finite_at_zero(self.kernel),
                speeds=self._speeds,
            )
        self._shares = part.shares = part.shares.without_home()
        self._coincident = None
        self._together(lambda: check_box_width(self.kernel, part.tree))
        return Evaluation(setup, self.m2l, points, part.tree, runtime, timings, previous, part=part)

    @property
    def _part(self) -> LocalPart:
        part = self._evaluation.problem.part
        assert isinstance(part, LocalPart)
        return part

    # -- evaluating

    def _checked(
        self, charges: ArrayLike | None, dipoles: ArrayLike | None, gradient: bool = False, hessian: bool = False
    ) -> Vectors:
        given: Vectors = self._together(lambda: super(PartFmm, self)._checked(charges, dipoles, gradient, hessian))
        self._check_same(charges=given.components, vectors=len(given.values), axis=given.is_single)
        return given

    @property
    def _ngiven(self) -> tuple[int, int]:
        return self._part.shares.given

    @property
    def _same_points(self) -> bool:
        shares = self._part.shares
        return shares.targets is shares.sources

    def _points(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        part, shares = self._part, self._part.shares
        with self._team.calling():
            sources, targets = (
                home.take_out(np.ascontiguousarray(side.points.T + shares.origin))
                for home, side in ((part.sources, shares.sources), (part.targets, shares.targets))
            )
        return sources, targets

    def _check_derivatives(self, results: NDArray[Any]) -> None:
        self._together(lambda: super(PartFmm, self)._check_derivatives(results))

    def _with_coincident(self, results: NDArray[Any], given: Vectors) -> NDArray[Any]:
        at_zero = value_at_zero(self.kernel, given.components) if is_finite_at_zero(self.kernel) else None
        if at_zero is None:
            return results
        largest = self._part.largest(np.array([np.abs(given.values).max(initial=0.0)], given.values.dtype))
        exponent = shift(largest)
        added = self._part.coincident(at_zero, np.ldexp(given.values, -exponent))
        return results if added is None else results + shift_back(added, exponent)

    def estimate_error(
        self,
        charges: ArrayLike | None = None,
        dipoles: ArrayLike | None = None,
        *,
        k: int = 1000,
        seed: int = 0,
    ) -> float:
        """Compare potentials with the direct sum at some targets of all parts; see `Fmm.estimate_error`."""
        with self._team.calling():
            given = self._vectors if charges is None and dipoles is None else self._checked(charges, dipoles)
            return self._compare(given, k, seed)

    def _compare(self, given: Vectors | None, k: int, seed: int) -> float:
        """Return the relative error at some targets of all parts."""

        def check() -> Vectors:
            check_count(k, "k", 1)
            if given is None:
                raise ValueError(
                    "charges is None, expected charges before the first evaluation; give them or evaluate first"
                )
            return replace(given, components=replace(given.components, gradient=False, hessian=False))

        vectors, team = self._together(check), self._team
        potentials = self._run(vectors)
        part = self._part
        sources, targets = part.shares.sources, part.shares.targets
        # Targets are chosen where they are; their potentials come from the callers.
        counts = team.transport.gather(len(targets.keys))
        total, before = sum(counts), sum(counts[: team.rank])
        chosen = np.random.default_rng(seed).choice(total, min(k, total), replace=False)
        chosen.sort()
        chosen -= before
        is_own = (chosen >= 0) & (chosen < len(targets.keys))
        own = part.targets.bring_in(in_rows(potentials).T)[chosen[is_own]]
        x = np.concatenate(team.transport.gather(targets.points[:, chosen[is_own]]), axis=1).astype(np.float64)
        found = np.concatenate(team.transport.gather(own)).T
        values = part.sources.bring_in(in_rows(vectors.values).T).T
        in_order = replace(vectors, values=by_vector(values, len(vectors.values)))
        numbers = np.where(is_own, chosen, -1) if sources is targets else None
        sums = team.together(lambda: sum_vectors(self.kernel, in_order, x, sources.points.astype(np.float64), numbers))
        expected = in_rows(team.transport.reduce(np.ascontiguousarray(sums), "sum"))
        off, size = float(np.linalg.norm(found - expected)), float(np.linalg.norm(expected))
        return off / size if size else np.inf if off else 0.0

    def plan_report(self) -> PartsReport:  # type: ignore[override]
        """Report for all parts what was chosen and why, and how long they took; called by all processes."""
        with self._team.calling():
            return PartsReport(tuple(self._team.transport.gather(self._together(self._report))))

    def _report(self) -> PartReport:
        shares, timings = self._part.shares, self.timings
        nsources = len(shares.sources.keys)
        return PartReport(
            device=self.device.name,
            nsources=nsources,
            ntargets=len(shares.targets.keys),
            nghosts=self.tree.nsources - nsources,
            working=sum(timings.get(name, 0.0) for name in OPERATORS) if "evaluate" in timings else None,
            waiting=timings.get("exchange"),
            plan=super().plan_report(),
        )

    def rebalance(self) -> bool:
        """Move points from slow parts to fast ones, by the times that the operators took in the last evaluations.

        The fastest time of each part counts, of the evaluations since its points were moved that computed the same as
        the last one. Afterwards all parts take about as long, if work costs the same wherever it is; repeat it after
        some more evaluations until it returns False. The tree is built anew, which takes as long as `update`.

        Returns:
            Whether points were moved: they stay where they are if the slowest part is within 5% of the mean.

        Raises:
            ValueError: there was no evaluation yet.
        """

        def measured() -> float:
            if self._fastest is None:
                raise ValueError("there are no times yet; evaluate first")
            return self._fastest

        with self._team.calling():
            seconds = np.array(self._team.transport.gather(self._together(measured)))
            if seconds.max() <= BALANCED * seconds.mean():
                return False
            self._speeds = self._speeds / np.maximum(seconds, seconds[seconds > 0].min())
            self._speeds /= self._speeds.sum()
            sources, targets = self._points()
            self.update(sources, None if self._same_points else targets)
        return True

    def update(self, sources: ArrayLike, targets: ArrayLike | None = None) -> None:
        """Replace the points; see `Fmm.update`."""
        with self._team.calling():
            super().update(sources, targets)
        self._fastest = None
        self._give_back()

    def _give_back(self) -> None:
        if self._part.shares.sources.keys.size >= GIVEN_BACK_FROM:
            give_back()

    def evaluate(self, *arguments: Any, **options: Any) -> Any:
        """Compute potentials, at the targets of this process and with its charges; see `Fmm.evaluate`."""
        with self._team.calling():
            return super().evaluate(*arguments, **options)

    def _evaluate_transposed(self, charges: NDArray[Any]) -> NDArray[Any]:
        with self._team.calling():
            return super()._evaluate_transposed(charges)

    def _run(self, given: Vectors) -> NDArray[Any]:
        before = self._evaluated
        with self._team.calling():
            found = super()._run(given)
        seconds = sum(self.timings.get(name, 0.0) for name in OPERATORS)
        is_first = self._fastest is None or self._evaluated != before
        self._fastest = seconds if is_first else min(seconds, self._fastest or seconds)
        return found

    def _of_same_method(self, kernel: GreensFunction, sources: ArrayLike, targets: ArrayLike | None) -> Fmm:
        return PartFmm(sources, targets, kernel, team=self._team, speeds=self._speeds, **self._options_of_method())

    def __repr__(self) -> str:
        return f"<part {self._team.rank} of {self._team.size}: {super().__repr__()[1:]}"


def device_here(found: Sequence[Device], number: int, count: int) -> Device | None:
    """Return the device of a process: all of the best kind in turn, since processes share a machine.

    Args:
        found: the devices of the machine, the preferred one first.
        number: of this process among those on this machine, from 0.
        count: how many these are.

    Returns:
        A device; None for the preferred one.

    Warns:
        UserWarning: each process would use all cores; the first one on the machine says so.
    """
    best = found[0]
    if best.kind == CPU:
        cores = min(best.cores, processors())
        if number == 0 and count > 1 and cores * count > (os.cpu_count() or 1):
            warnings.warn(
                f"{count} processes on this machine use {cores} cores each, and it has {os.cpu_count()}; bind them to "
                "cores (mpiexec -bind-to core, srun --cpu-bind=cores), or set POCL_MAX_PTHREAD_COUNT",
                stacklevel=2,
            )
        return None
    alike = [each for each in found if (each.kind, each.runtime) == (best.kind, best.runtime)]
    return alike[number % len(alike)]
