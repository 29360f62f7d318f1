"""Run cases one after the other, each in a process of its own, and gather what they have measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import child
from benchmarks.machine import (
    ROOT,
    choose_devices,
    commit,
    describe_machine,
    free_memory,
    installed_versions,
    runtime_label,
)
from benchmarks.results import Evaluation, Record, Results, record_from_dict
from benchmarks.suite import Case, EvaluationCase, PeerCase
from fmmloopy.diagnosis.doctor import installed_version
from fmmloopy.execution.devices import Device
from fmmloopy.measuring.peaks import Peaks, peaks_by_dtype
from fmmloopy.measuring.probes import measure as run_probe
from fmmloopy.measuring.probes import probes_for

LIMIT = 600.0
"""Seconds for one process."""

BYTES, BYTES_PER_POINT = 400e6, {"float64": 1000, "float32": 700, "fmm3dpy": 8000}
"""More than any case has needed, as a whole and for each point, so that a machine with little memory leaves out what
would not fit. See docs/measurements/constants.csv."""

ATTEMPTS = 3
"""How often a case is measured at most, if the machine was slow at the time."""

SLOW = 0.9
"""A machine that reaches less than this share of what it has reached before is shared with something else."""

Notify = Callable[[str], None]
"""Told what is being done, and what has come out."""


class CaseFailed(Exception):
    """A process did not measure what it should; the text says why."""


class Quietness:
    """Tell by a probe of multiply-adds whether a machine is as fast as it was at its best.

    It sees what no load average shows: other machines on the same processor.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._probe = probes_for(device, "float64" if device.has_float64 else "float32")[0]
        self._best = 0.0

    def is_quiet(self) -> bool:
        """Run the probe, a tenth of a second, and compare with the best so far."""
        rate = run_probe(self._probe, self._device)
        self._best = max(self._best, rate)
        return rate >= SLOW * self._best


def measure(
    cases: Sequence[Case],
    names: Sequence[str] | None,
    quick: bool,
    notify: Notify,
    keep: Callable[[Results], None] = lambda results: None,
) -> Results:
    """Measure cases on devices, and the peaks of their processor.

    Args:
        cases: what to measure.
        names: parts of devices' descriptions; None for all OpenCL devices.
        quick: take only the first of those, whether or not the machine is quiet, and only peaks of float64, which need
            not be measured if they are known.
        notify: told what is being done.
        keep: given the results after every case, so that nothing is lost if the run is interrupted.

    Returns:
        The results; a case that does not fit is in ``left_out``, one that fails in ``failed``, and one for which the
        machine never was as fast as at other times in ``disturbed``.

    Raises:
        DeviceError: no such device, or it cannot run the probes.
    """
    devices = choose_devices(names)
    if quick and not names:
        devices = devices[:1]
    peaks = _measure_peaks(devices[0], quick, notify)
    labels = {runtime_label(device): device.driver or "system's" for device in devices}
    machine = describe_machine(devices[0])
    date = f"{datetime.now(UTC):%Y-%m-%dT%H:%M}"
    results = Results(machine, installed_versions(), commit(), date, labels, peaks)
    quietness = None if quick else Quietness(devices[0])
    if any(isinstance(case, PeerCase) for case in cases) and not installed_version("fmm3dpy"):
        results.left_out.append("fmm3dpy is not installed, so nothing is compared with it: pip install -e '.[bench]'")
        notify(results.left_out[-1])
        cases = [case for case in cases if not isinstance(case, PeerCase)]
    with tempfile.TemporaryDirectory(prefix="fmmloopy-benchmarks-") as folder:
        for case in cases:
            for device in devices:  # one after the other: the machine may be another one some minutes later
                if case.everywhere or device is devices[0]:
                    _measure_case(case, device, Path(folder), results, quietness, notify)
                    keep(results)
    return results


def _measure_peaks(device: Device, quick: bool, notify: Notify) -> dict[str, Peaks]:
    notify("peaks of the processor")
    dtypes = ["float64"] if device.has_float64 else []
    if not quick or not dtypes:
        dtypes.append("float32")
    found = peaks_by_dtype(device, dtypes, not quick)
    for dtype, peaks in found.items():
        notify(f"{dtype}: {peaks}")
    return found


def _measure_case(
    case: Case, device: Device, folder: Path, results: Results, quietness: Quietness | None, notify: Notify
) -> None:
    where = case.library if isinstance(case, PeerCase) else runtime_label(device)
    what = f"{where}, {case.group}: {case.name}"
    if isinstance(case, EvaluationCase):
        what += f", {case.points:,} points, {case.dtype}"
    if short := _lacking_memory(case):
        results.left_out.append(f"{what}: {short}")
        notify(results.left_out[-1])
        return
    records: list[Record] = []
    processes = case.processes if isinstance(case, EvaluationCase) else 1
    try:
        for _ in range(ATTEMPTS):
            quiet = quietness is None or quietness.is_quiet()
            task = child.task(case, device.description, folder)
            records = [r for _ in range(processes) for r in run_child(task)]
            if quietness is None or (quiet and quietness.is_quiet()):
                break
            notify(f"{what}: the machine was slow")
        else:
            results.disturbed.append(what)
    except CaseFailed as error:
        results.failed.append(f"{what}: {error}")
        notify(f"failed: {results.failed[-1]}")
        return
    results.add(records)
    times = [f"{r.evaluate:.3g} s, error {r.error:.1e}" for r in records if isinstance(r, Evaluation)]
    notify(f"{what}{': ' if times else ''}{'; '.join(times)}")


def _lacking_memory(case: Case) -> str:
    """Say that a case needs more memory than there is; nothing if it does not."""
    kind = case.library if isinstance(case, PeerCase) else getattr(case, "dtype", "float64")
    needed, free = BYTES + BYTES_PER_POINT[kind] * case.points, free_memory()
    if free is None or needed <= 0.9 * free:
        return ""
    return f"it may take {needed / 1e9:.0f} GB, and {free / 1e9:.0f} GB are free"


def run_child(task: str, limit: float = LIMIT) -> list[Record]:
    """Do a task in a new process; a case that is cold gets caches of its own.

    Returns:
        Its records; evaluations with the seconds from the start of the process to its first potentials.

    Raises:
        CaseFailed: the process fails, or does not end in time.
    """
    command = [sys.executable, "-m", "benchmarks.child", task]
    environment = {**os.environ, "MPLBACKEND": "Agg"}
    with tempfile.TemporaryFile("w+") as errors, tempfile.TemporaryDirectory() as caches:
        if child.is_cold(task):
            environment |= dict.fromkeys(("XDG_CACHE_HOME", "FMMLOOPY_CACHE_DIR", "POCL_CACHE_DIR"), caches)
        start = time.perf_counter()
        with subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process:
            timer = threading.Timer(limit, process.kill)
            timer.start()
            try:
                assert process.stdout is not None
                first, last = 0.0, ""
                for line in process.stdout:
                    first = time.perf_counter() - start if line.strip() == child.FIRST else first
                    last = line
                status = process.wait()
            except BaseException:
                process.kill()
                raise
            finally:
                timer.cancel()
        if status:
            errors.seek(0)
            said = [text.strip() for text in errors.read()[-2000:].splitlines() if text.strip()]
            late = f", after {limit:g} s" if time.perf_counter() - start > limit else ""
            raise CaseFailed(f"its process ended with status {status}{late}{f' ({said[-1][:200]})' if said else ''}")
    try:
        entries = json.loads(last)
    except ValueError:
        raise CaseFailed(f"its process printed {last[:80]!r}, expected records") from None
    records = [record_from_dict(entry) for entry in entries]
    return [replace(record, first=first) if isinstance(record, Evaluation) else record for record in records]
