"""The fast multipole method on several devices of one process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NoReturn, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fmmloopy.common.exchange import on_host
from fmmloopy.common.messages import counted
from fmmloopy.common.turns import Turn
from fmmloopy.execution.backends import backend_of
from fmmloopy.execution.device import CPU
from fmmloopy.execution.devices import Device, choose_device, choose_devices, find_devices
from fmmloopy.fmm import Fmm
from fmmloopy.greens import GreensFunction
from fmmloopy.inputs import check_dtype, check_points
from fmmloopy.parts.team import Team
from fmmloopy.parts.transport import Board, Thread, in_threads
from fmmloopy.several.processes import PartFmm
from fmmloopy.several.report import PartsReport
from fmmloopy.vectors import Vectors

Result = TypeVar("Result")


class ManyDevices(Fmm):
    """The fast multipole method on several devices of one process: ``Fmm(points, devices=["pocl", "intel"])``.

    Each device has a range of the points along the Morton curve, and a thread that drives it. Potentials are those of
    one device up to rounding, and the same from run to run.

    Args:
        sources, targets: as for `Fmm`.
        devices: names or devices, as for ``device`` of `Fmm`, one for each part; ``"pocl/2"`` is a CPU through PoCL
            with its cores divided between two parts; ``"all"`` is all GPUs and other accelerators, and the preferred
            one of the CPU's runtimes, which would share its cores.
        options: further arguments of `Fmm`, except ``device`` and ``runtime``.

    Attributes:
        parts: the parts, one for each device; only this evaluation may use them.
        devices: the devices.
        timings: the seconds of the slowest part, by stage and by operator.
    """

    def __init__(
        self,
        sources: ArrayLike,
        targets: ArrayLike | None = None,
        *arguments: Any,
        devices: str | Sequence[str | Device] = "all",
        **options: Any,
    ) -> None:
        for name in ("device", "runtime", "comm"):
            if options.get(name) is not None:
                raise ValueError(f"devices and {name} are given, expected only one; leave out {name}")
        self.devices = _chosen(devices)
        points, others = _read(sources, targets)
        self._board = Board(len(self.devices))

        def build(thread: Thread) -> PartFmm:
            share = None if others is None else _share(others, thread)
            device = self.devices[thread.rank]
            return PartFmm(_share(points, thread), share, *arguments, team=Team(thread), device=device, **options)

        self.parts: tuple[PartFmm, ...] = tuple(in_threads(self._board, build))
        first = self.parts[0]
        self.kernel, self.dtype, self._certify = first.kernel, first.dtype, first._certify
        self._turn, self._adjoint, self._vectors, self._proofs = Turn(), None, None, None
        self._root_width = first.root_width
        self._counts = len(points), len(points if others is None else others)
        self._take_over()

    def _take_over(self) -> None:
        """Take over what all parts have in common, and the times of the slowest."""
        first = self.parts[0]
        self._decision, self._evaluation = first._decision, first._evaluation
        names = dict.fromkeys(name for part in self.parts for name in part.timings)
        self.timings = {name: max(part.timings.get(name, 0.0) for part in self.parts) for name in names}

    def _on_parts(self, call: Callable[[PartFmm, Thread], Result]) -> list[Result]:
        """Call a function for each part, in a thread of its own, and return the results in order."""
        results = in_threads(self._board, lambda thread: call(self.parts[thread.rank], thread))
        self._take_over()
        return results

    # -- what was chosen

    @property
    def tree(self) -> NoReturn:
        """There is none of all points: each part has its own."""
        raise AttributeError("several devices have a tree each, see fmm.parts[0].tree")

    @property
    def lists(self) -> NoReturn:
        """There are none of all points: each part has its own."""
        raise AttributeError("several devices have lists each, see fmm.parts[0].lists")

    @property
    def error_estimate(self) -> float:
        """See `Fmm.error_estimate`."""
        return self.parts[0].error_estimate

    @property
    def dipole_error_estimate(self) -> float:
        """See `Fmm.dipole_error_estimate`."""
        return self.parts[0].dipole_error_estimate

    @property
    def _ngiven(self) -> tuple[int, int]:
        return self._counts

    @property
    def _same_points(self) -> bool:
        return self.parts[0]._same_points

    def _points(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        found = self._on_parts(lambda part, thread: part._points())
        sources, targets = (np.concatenate(side) for side in zip(*found, strict=True))
        return sources, targets

    def _of_same_method(self, kernel: GreensFunction, sources: ArrayLike, targets: ArrayLike | None) -> Fmm:
        options = self._options_of_method()
        del options["runtime"]
        return ManyDevices(sources, targets, kernel, devices=self.devices, **options)

    # -- evaluating

    def update(self, sources: ArrayLike, targets: ArrayLike | None = None) -> None:
        """Replace the points; see `Fmm.update`."""
        points, others = _read(sources, targets)
        with self._turn:
            self._on_parts(
                lambda part, thread: part.update(
                    _share(points, thread), None if others is None else _share(others, thread)
                )
            )
            self._counts = len(points), len(points if others is None else others)
            self._vectors = None

    def rebalance(self) -> bool:
        """Move points from slow devices to fast ones, and return whether any were; see `PartFmm.rebalance`."""
        with self._turn:
            return self._on_parts(lambda part, thread: part.rebalance())[0]

    def estimate_error(
        self,
        charges: ArrayLike | None = None,
        dipoles: ArrayLike | None = None,
        *,
        k: int = 1000,
        seed: int = 0,
    ) -> float:
        """Compare potentials with the direct sum at some targets; see `Fmm.estimate_error`."""
        with self._turn:
            if charges is not None or dipoles is not None:
                self._vectors = self._checked(charges, dipoles)
            given = self._vectors
            return self._on_parts(lambda part, thread: part._compare(given and _shared(given, thread), k, seed))[0]

    def _run(self, given: Vectors) -> NDArray[Any]:
        with self._turn:
            self._vectors = given
            found = self._on_parts(lambda part, thread: part._run(_shared(given, thread)))
        return np.concatenate(found, axis=2)

    def plan_report(self) -> PartsReport:  # type: ignore[override]
        """Report for each device what was chosen and why, and how long it took."""
        with self._turn:
            return self._on_parts(lambda part, thread: part.plan_report())[0]

    def __repr__(self) -> str:
        names = ", ".join(device.name for device in self.devices)
        return (
            f"<Fmm: {counted(self._counts[0], 'source')}, {counted(self._counts[1], 'target')}, {self.kernel.name}, "
            f"order {self.order}, {self.precision} precision, ncrit {self.ncrit}, M2L {self.m2l}, "
            f"{len(self.parts)} parts on {names}>"
        )


def _chosen(devices: str | Sequence[str | Device]) -> tuple[Device, ...]:
    """Return the devices.

    Raises:
        ValueError: there are none.
        DeviceError: one is not there.
    """
    if isinstance(devices, str) and devices == "all":
        return _all_devices(find_devices()) or (choose_device(),)
    if isinstance(devices, str | Device):
        devices = [devices]
    if not isinstance(devices, Sequence) or not devices:
        raise ValueError(f"devices is {devices!r}, expected names of devices, such as ['pocl', 'intel'], or 'all'")
    chosen = (choose_devices(each) if isinstance(each, str) else (choose_device(each),) for each in devices)
    return tuple(device for each in chosen for device in each)


def _all_devices(found: Sequence[Device]) -> tuple[Device, ...]:
    """Return real devices, the preferred ones first, and among the runtimes of the CPU's cores the first."""
    real = [device for device in found if not device.is_simulator and not backend_of(device).last_resort]
    first = next((device for device in real if device.kind == CPU), None)
    return tuple(device for device in real if device.kind != CPU or device is first)


def _read(sources: ArrayLike, targets: ArrayLike | None) -> tuple[NDArray[Any], NDArray[Any] | None]:
    points = on_host(sources, "sources")
    points = check_points(points, "sources").astype(check_dtype(None, points), copy=False)
    return points, None if targets is None else check_points(on_host(targets, "targets"), "targets")


def _shared(given: Vectors, thread: Thread) -> Vectors:
    """Return the charges that a part is given."""
    return replace(given, values=np.ascontiguousarray(_share(given.values, thread, axis=2)))


def _share(rows: NDArray[Any], thread: Thread, axis: int = 0) -> NDArray[Any]:
    """Return the share of a thread of some rows, all about equally many."""
    return np.array_split(rows, thread.size, axis)[thread.rank]
