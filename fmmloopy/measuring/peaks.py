"""Measure the peak rates of a processor: multiply-adds, reciprocal square roots and bytes of memory per second.

A peak belongs to the processor, not to the runtime that reaches it: if several runtimes drive one processor (PoCL,
Intel's, the C compiler), each is measured and the highest rate counts for all. So the C device, which uses one core, is
compared with the peak of all cores. Rates are stored in the cache folder for each device, driver and precision; they
never decrease. Those measured while the machine was busy are measured again when it is quiet.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from fmmloopy.common.cores import processors
from fmmloopy.common.documents import parse
from fmmloopy.common.isolation import ChildError, Stage, Worker
from fmmloopy.common.store import cache_folder, read_cached, write_cached
from fmmloopy.execution.device import CPU
from fmmloopy.execution.devices import Device, DeviceError, choose_device, find_devices, is_busy
from fmmloopy.measuring.probes import FMA, ROOTS, STREAMS, Probe, measure, probes_for

FORMAT = 3
"""Increase it when stored rates are no longer comparable."""

PROBE_LIMIT = 60.0
"""Seconds for one probe, most of them for a compiler."""

Notify = Callable[[str], None]
"""Called with a description of the current measurement."""


@dataclass(frozen=True)
class Peaks:
    """The peak rates of a processor in one precision.

    Attributes:
        processor: name of the processor.
        dtype: ``"float32"`` or ``"float64"``.
        fma: FLOP/s of multiply-adds, which count as two.
        rsqrt_by: reciprocal square roots per second by method: square root and division, OpenCL's ``rsqrt``, Newton's
            iteration.
        bandwidth: bytes per second from and to memory.
        cache: bytes of the largest cache.
        busy: whether some rates were measured while other programs ran, so that they may be too low.
    """

    processor: str
    dtype: str
    fma: float
    rsqrt_by: Mapping[str, float]
    bandwidth: float
    cache: int = 0
    busy: bool = False

    @property
    def rsqrt(self) -> float:
        """Reciprocal square roots per second, by the fastest method."""
        return max(self.rsqrt_by.values())

    def as_dict(self) -> dict[str, Any]:
        """Return the peaks as a dictionary for JSON."""
        return {**asdict(self), "rsqrt": self.rsqrt}

    def __str__(self) -> str:
        ways = ", ".join(f"{name} {rate * 1e-9:.3g}" for name, rate in self.rsqrt_by.items())
        return (
            f"{self.fma * 1e-9:.4g} GFLOP/s by FMA, {self.rsqrt * 1e-9:.3g} G/s reciprocal roots ({ways}), "
            f"{self.bandwidth * 1e-9:.3g} GB/s"
        )


def machine_peaks(device: Device, dtype: str, again: bool = False, notify: Notify | None = None) -> Peaks:
    """Return the peaks of the processor behind a device, and measure those that are not known yet.

    Args:
        device: one of the devices of that processor.
        dtype: ``"float32"`` or ``"float64"``.
        again: whether to measure known peaks again.
        notify: called with a description of the current measurement; a device takes about 10 seconds.

    Raises:
        DeviceError: no device of the processor runs the probes.
    """
    return peaks_by_dtype(device, [dtype], again, notify)[dtype]


def peaks_by_dtype(
    device: Device, dtypes: Iterable[str], again: bool = False, notify: Notify | None = None
) -> dict[str, Peaks]:
    """Return the peaks of the processor behind a device in several dtypes; arguments and errors as `machine_peaks`."""
    busy_now = is_busy()  # once: the probes themselves count as load
    return {dtype: _peaks(device, dtype, again, notify, busy_now) for dtype in sorted(set(dtypes), reverse=True)}


def _peaks(device: Device, dtype: str, again: bool, notify: Notify | None, busy_now: bool) -> Peaks:
    processor = processor_of(device)
    rates: dict[str, float] = {}
    busy = False
    for member in _members(device, dtype):
        known = read_rates(member, dtype)
        if again or known is None or (known["busy"] and not busy_now):
            known = _renew(member, dtype, known, busy_now, notify or (lambda text: None))
        busy |= bool(known["busy"])
        for quantity, rate in known["rates"].items():
            rates[quantity] = max(rate, rates.get(quantity, 0.0))
    roots = {way: rates[way] for way in ROOTS if way in rates}
    streams = [rates[stream] for stream in STREAMS if stream in rates]
    if FMA not in rates or not roots or not streams:
        raise DeviceError(f"{processor}: no device runs all probes in {dtype}, so its peaks are unknown")
    return Peaks(processor, dtype, rates[FMA], roots, max(streams), cache_bytes(device), busy)


def processor_of(device: Device) -> str:
    """Return the name of the processor that a device runs on; all CPU devices of a machine share one."""
    return _cpu() if device.kind == CPU else device.name


@cache
def _cpu() -> str:
    """Return model and number of processors of this machine."""
    fields: dict[str, str] = {}
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
        fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name = fields.get("model name") or platform.processor() or platform.machine()
    numbers = " ".join(f"{key} {fields[key]}" for key in ("cpu family", "model", "stepping") if key in fields)
    return f"{name}{f' ({numbers})' if numbers else ''}, {processors()} processors"


def cache_bytes(device: Device) -> int:
    """Return the bytes of the largest cache of a device's processor, 0 if unknown; runtimes do not agree on it."""
    return max((member.cache for member in _members(device, "float32")), default=0)


def _members(device: Device, dtype: str) -> list[Device]:
    """Return the devices of the same processor, except simulators."""
    processor = processor_of(device)
    members = [d for d in find_devices() if processor_of(d) == processor and not d.is_simulator]
    if device not in members:
        members.append(device)
    return [d for d in members if d.has_float64 or dtype != "float64"]


# -- stored rates


def read_rates(device: Device, dtype: str) -> dict[str, Any] | None:
    """Read the stored rates of a device; None if there is no file, or it is damaged or for something else.

    Returns:
        ``{"rates": {quantity: rate}, "busy": bool, ...}``, see `store_rates`.
    """
    try:
        stored = parse(read_cached(_path(device, dtype)))
        stored["rates"] = {str(name): float(rate) for name, rate in stored["rates"].items()}
        return stored if stored["key"] == _key(device, dtype) and isinstance(stored["busy"], bool) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def store_rates(device: Device, dtype: str, rates: Mapping[str, float], busy: bool) -> dict[str, Any]:
    """Store the rates of a device by quantity (see `fmmloopy.measuring.probes`), and whether the machine was busy."""
    stored = {"key": _key(device, dtype), "rates": dict(rates), "busy": busy}
    with suppress(OSError):  # if they cannot be stored, they are measured each time
        write_cached(_path(device, dtype), json.dumps(stored, indent=2))
    return stored


def _key(device: Device, dtype: str) -> list[str]:
    return [str(FORMAT), processor_of(device), device.description, device.driver, dtype]


def _path(device: Device, dtype: str) -> Path:
    name = hashlib.sha256(repr(_key(device, dtype)).encode()).hexdigest()[:32]
    return cache_folder() / "peaks" / f"{dtype}-{name}.json"


# -- measuring


def _renew(device: Device, dtype: str, known: Mapping[str, Any] | None, busy: bool, notify: Notify) -> dict[str, Any]:
    """Measure a device and keep the higher of the old and the new value of each rate."""
    rates = dict(known["rates"]) if known else {}
    with Worker() as worker:
        for probe in probes_for(device, dtype):
            notify(f"{device.description[:60]}: {probe.quantity} in {dtype}")
            # If a runtime cannot compile a probe, or crashes, the other probes still count.
            with suppress(ChildError, DeviceError, MemoryError):
                rate = worker.call(_measure, device.description, probe, cache_bytes(device), limit=PROBE_LIMIT)
                rates[probe.quantity] = max(rate, rates.get(probe.quantity, 0.0))
    return store_rates(device, dtype, rates, busy)


def _measure(_stage: Stage, device: str, probe: Probe, cache: int) -> float:
    return measure(probe, choose_device(device), cache)
