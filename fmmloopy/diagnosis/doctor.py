"""Check everything that fmmloopy needs: packages, OpenCL runtimes, devices, compilers and caches.

Whatever may crash the process, such as a runtime, runs in another process.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from fmmloopy.checking.sanitizer import find_library
from fmmloopy.common.isolation import ChildError, Stage, Worker, missing_limits
from fmmloopy.common.store import cache_folder, user_folder
from fmmloopy.common.surroundings import prepare
from fmmloopy.diagnosis.checkups import (
    PROBLEM,
    DeviceFinding,
    Finding,
    check_cache,
    check_cards,
    check_choice,
    check_compiler,
    check_cuda,
    check_intel,
    check_listing,
    check_loopy,
    check_oclgrind,
    check_opencl,
    check_other_caches,
    check_packages,
    check_pocl,
    check_speeds,
)
from fmmloopy.diagnosis.p2p_speed import Speed, measure
from fmmloopy.execution.backends import backend_of
from fmmloopy.execution.backends.cuda import CudaBackend
from fmmloopy.execution.backends.opencl_loader import SYSTEM_VENDORS, hidden_runtimes, load_needed
from fmmloopy.execution.devices import ENVIRONMENT_VARIABLE, Device, find_devices
from fmmloopy.recipes.hints import described

GPU_CLASSES = (0x03, 0x12)
"""Classes of devices on the PCI bus: display controllers, and accelerators, as some GPUs for computing are."""

LISTING_LIMIT, BUILDING_LIMIT = 60.0, 120.0
"""Seconds for finding all devices, and for generating code for one device and measuring it."""


@dataclass(frozen=True)
class Diagnosis:
    """The result of an examination.

    Attributes:
        findings: the results of all checks, in order.
        devices: the results for the devices, the default device first.
    """

    findings: tuple[Finding, ...]
    devices: tuple[DeviceFinding, ...]

    @property
    def ok(self) -> bool:
        """Whether there is no problem; suggestions do not count."""
        return not self.of(PROBLEM)

    def of(self, verdict: str) -> tuple[Finding, ...]:
        """Return the findings with one verdict."""
        return tuple(finding for finding in self.findings if finding.verdict == verdict)


def examine(probe: bool = True, show: Callable[[str], None] = lambda text: None) -> Diagnosis:
    """Examine this machine.

    Args:
        probe: whether to time P2P on each device, which takes some seconds each.
        show: called with a description of the current activity.
    """
    show("looking for devices")
    with Worker() as worker:
        try:
            devices: list[Device] = worker.call(_list_devices, limit=LISTING_LIMIT)
            crashed, trouble = [], worker.call(_cuda_trouble, limit=LISTING_LIMIT)
        except ChildError as error:
            devices, crashed, trouble = [], check_listing(str(error), crashing_runtimes()), ""
        probed = [DeviceFinding(d.description, d.driver, runtime=d.runtime, version=d.version) for d in devices]
        for i, device in enumerate(devices if probe else []):
            show(f"measuring P2P on {device.name}")
            probed[i] = _probe(worker, probed[i])
    fit = [p for p, device in zip(probed, devices, strict=True) if not backend_of(device).last_resort]
    chosen, driver = bool(os.environ.get("OCL_ICD_VENDORS")), _loads("libcuda.so.1")
    findings = [
        *check_packages(_requirements(), installed_version),
        *check_loopy(_requirements("loopy")),
        *(crashed or check_opencl(fit)),
        *check_choice(os.environ.get(ENVIRONMENT_VARIABLE, ""), devices),
        *check_pocl(fit),
        *check_intel(hidden_runtimes(), installed_version, load_needed, fit, chosen),
        *check_oclgrind(find_library()),
        *check_cuda(driver, _loads("libnvidia-opencl.so.1"), fit, trouble),
        *check_cards(cards_on_the_bus(), fit, driver),
        *check_compiler(_compiler(), bool(fit)),
        *([Finding("child processes", limits)] if (limits := missing_limits()) else []),
        *check_cache(cache_folder()),
        *check_other_caches(user_folder("cache"), prepare()),
        *check_speeds(probed),
    ]
    return Diagnosis(tuple(findings), tuple(probed))


def cards_on_the_bus(folder: Path = Path("/sys/bus/pci/devices")) -> list[int]:
    """Return the numbers of the makers of display controllers and accelerators on the PCI bus; none beside Linux."""
    found = []
    for each in sorted(folder.glob("*")):
        try:
            kind, vendor = (int((each / name).read_text(), 16) for name in ("class", "vendor"))
        except (OSError, ValueError):
            continue
        if kind >> 16 in GPU_CLASSES:
            found.append(vendor)
    return found


def installed_version(package: str) -> str | None:
    """Return the version of an installed package; None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _requirements(package: str = "fmmloopy") -> list[str]:
    try:
        return importlib.metadata.requires(package) or []
    except importlib.metadata.PackageNotFoundError:
        return []


def _loads(library: str) -> bool:
    with suppress(OSError):
        ctypes.CDLL(library)
        return True
    return False


def _compiler() -> str | None:
    candidates = (os.environ.get("CC", ""), "cc", "gcc", "clang")
    return next((name for name in candidates if name and shutil.which(name)), None)


def _list_devices(stage: Stage) -> list[Device]:
    return [replace(device, handle=None) for device in find_devices()]


def _cuda_trouble(stage: Stage) -> str:
    return CudaBackend().trouble()


def crashing_runtimes() -> list[Path]:
    """Find the runtimes that crash a process during the search for devices, by their .icd files."""
    folder = Path(os.environ.get("OCL_ICD_VENDORS") or SYSTEM_VENDORS)
    if _crashes_with():
        return []  # it crashes without any of them
    return [announcement for announcement in sorted(folder.glob("*.icd")) if _crashes_with(announcement)]


def _crashes_with(*announcements: Path) -> bool:
    """Search for devices with only these runtimes registered, and the one that comes with pyopencl."""
    with tempfile.TemporaryDirectory() as folder:
        for announcement in announcements:
            shutil.copy(announcement, folder)
        with Worker({"OCL_ICD_VENDORS": folder}) as worker:
            try:
                worker.call(_list_devices, limit=LISTING_LIMIT)
            except ChildError:
                return True
    return False


def _measure(stage: Stage, description: str) -> Speed:
    stage("summing pairs", BUILDING_LIMIT)
    return measure(next(device for device in find_devices() if device.description == description))


def _probe(worker: Worker, device: DeviceFinding) -> DeviceFinding:
    """Measure a device in another process; report any failure there."""
    try:
        return replace(device, speed=worker.call(_measure, device.description, limit=BUILDING_LIMIT))
    except Exception as error:
        return replace(device, trouble=described(error))
