"""Check what fmmloopy needs, one item at a time: packages, OpenCL runtimes, compilers, caches.

Each ``check_...`` takes the facts as arguments and returns findings, with the command that fixes each problem.
"""

from __future__ import annotations

import platform
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fmmloopy.common.store import ENVIRONMENT_VARIABLE, write_cached
from fmmloopy.common.trust import UntrustedError, check_trusted
from fmmloopy.diagnosis.p2p_speed import Speed
from fmmloopy.execution.backends.opencl import INTEL, NVIDIA, POCL
from fmmloopy.execution.backends.opencl_loader import INTEL_LIBRARY, SYSTEM_VENDORS
from fmmloopy.execution.devices import ENVIRONMENT_VARIABLE as DEVICE_VARIABLE
from fmmloopy.execution.devices import Device, match_device

FINE, SUGGESTION, PROBLEM = "fine", "suggestion", "problem"

GAIN = 1.5
"""If lanes are this many times as fast as one target at a time, the compiler vectorizes."""

OTHER_CACHES = ("pytools", "pyopencl", "pocl")
"""Folders in the user's cache; loopy's cache is in that of pytools."""

WHY = {
    "islpy": "with islpy 2026.2, loopy 2025.2 fails on some kernels: 'Aff' object has no attribute 'is_equal'",
    "loopy": "recipes and operators need that release",
}
"""Packages with versions that are known to fail, and the reason."""


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        subject: the item that was checked.
        text: the result.
        verdict: FINE; SUGGESTION, if something could be faster or better; PROBLEM, if something does not work.
        remedy: one command that fixes it; empty if none is known or needed.
    """

    subject: str
    text: str
    verdict: str = FINE
    remedy: str = ""


@dataclass(frozen=True)
class DeviceFinding:
    """The result for one device.

    Attributes:
        description, driver: those of the device.
        speed: speed of P2P; None if it was not measured or failed.
        trouble: why it failed, in one line.
        runtime, version: those of the device.
    """

    description: str
    driver: str
    speed: Speed | None = None
    trouble: str = ""
    runtime: str = ""
    version: tuple[int, ...] = ()


# -- packages


def check_packages(requirements: Sequence[str], version_of: Callable[[str], str | None]) -> list[Finding]:
    """Compare installed versions with the requirements of fmmloopy.

    Args:
        requirements: as in package metadata, such as ``"islpy<2026.2,>=2025.2.5"``; those of extras are ignored.
        version_of: returns the version of a package, or None.
    """
    there, wrong = [f"python {platform.python_version()}", f"fmmloopy {version_of('fmmloopy')}"], []
    if not requirements:
        wrong.append(Finding("fmmloopy", "is not installed as a package", PROBLEM, "pip install -e ."))
    for requirement in requirements:
        match = re.match(r"([\w.-]+)(?:\[[\w,]+\])?\s*([^;]*)", requirement)
        if match is None or "extra ==" in requirement:
            continue
        name, bounds = match[1], sorted(filter(None, re.split(r"[,\s()]+", match[2])), reverse=True)
        version = version_of(name)
        remedy = f'pip install "{match[0].split(match[2])[0] if match[2] else match[0]}{",".join(bounds)}"'
        if version is None:
            wrong.append(Finding(name, "is not installed", PROBLEM, remedy))
            continue
        there.append(f"{name} {version}")
        if not all(_within(version, bound) for bound in bounds):
            why = f": {WHY[name]}" if name in WHY else ""
            text = f"{version} is installed, expected {', '.join(bounds)}{why}"
            wrong.append(Finding(name, text, PROBLEM, remedy))
    return [Finding("packages", ", ".join(there)), *wrong]


def _within(version: str, bound: str) -> bool:
    """Return whether a version satisfies a bound such as ``>=2025.2``; bounds of other kinds count as satisfied."""
    match = re.match(r"(>=|<=|==|<|>)([\d.]+)$", bound)
    if match is None:
        return True
    ours, theirs = _numbers(version), _numbers(match[2])
    length = max(len(ours), len(theirs))
    ours, theirs = (numbers + (0,) * (length - len(numbers)) for numbers in (ours, theirs))
    return {">=": ours >= theirs, "<=": ours <= theirs, "==": ours == theirs, "<": ours < theirs, ">": ours > theirs}[
        match[1]
    ]


def _numbers(version: str) -> tuple[int, ...]:
    release = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, release[0].split("."))) if release else ()


def check_loopy(requirements: Sequence[str]) -> list[Finding]:
    """Detect the development version of loopy, which has the same version number but is incompatible."""
    if not any(requirement.startswith("namedisl") for requirement in requirements):
        return []
    text = "is a development version that no longer uses islpy; fmmloopy needs the release 2025.2"
    return [Finding("loopy", text, PROBLEM, 'pip install --force-reinstall "loopy==2025.2"')]


# -- OpenCL


def check_listing(
    trouble: str, culprits: Sequence[Path], cpus: Path = Path("/sys/devices/system/cpu")
) -> list[Finding]:
    """Report which runtime crashed during the search for devices."""
    if not cpus.is_dir():
        text = f"the search for devices crashed ({trouble}); PoCL needs /sys, which is not mounted"
        return [Finding("OpenCL", text, PROBLEM, "mount -t sysfs sysfs /sys")]
    if not culprits:
        return [Finding("OpenCL", f"the search for devices crashed ({trouble})", PROBLEM)]
    return [
        Finding("OpenCL", f"the runtime of {path} crashes ({trouble})", PROBLEM, f"mv {path} {path}.off")
        for path in culprits
    ]


def check_opencl(devices: Sequence[DeviceFinding]) -> list[Finding]:
    """Make sure that there is a device other than the C compiler."""
    if devices:
        return []
    text = "no OpenCL device was found, so operators run on one core through the C compiler"
    return [Finding("OpenCL", text, PROBLEM, 'pip install "pyopencl[pocl]"')]


def check_choice(named: str, devices: Sequence[Device]) -> list[Finding]:
    """Report which device $FMMLOOPY_DEVICE selects as the default.

    Args:
        named: the value of the variable.
        devices: the devices found.
    """
    if not named:
        return []
    device = match_device(named, devices)
    if device is None:
        text = f"is {named!r}, which matches no device here, so evaluations without device= fail"
        return [Finding(f"${DEVICE_VARIABLE}", text, PROBLEM, f"unset {DEVICE_VARIABLE}")]
    text = f"is {named!r}, so the default device is {device.description}"
    return [Finding(f"${DEVICE_VARIABLE}", text)]


def check_pocl(devices: Sequence[DeviceFinding]) -> list[Finding]:
    """Report the versions of PoCL, and whether they vectorize, from the measurement or else from the version."""
    found, versions = [], []
    for device in devices:
        if device.runtime != POCL:
            continue
        versions.append(device.version[:2])
        if device.speed and device.speed.gain:
            word = "vectorizes" if device.speed.gain >= GAIN else "does not vectorize"
            text = f"{word}: lanes are {device.speed.gain:.1f} times as fast as single targets (measured)"
        elif versions[-1] >= (3, 1):
            text = "vectorizes loops over lanes, including square roots (known, not measured)"
        else:
            text = "vectorizes loops over lanes, but not square roots (known, not measured)"
        found.append(Finding(f"PoCL {'.'.join(map(str, versions[-1]))}", text))
    if not any(version >= (3, 1) for version in versions):
        text = "PoCL 3.1 and newer vectorize square roots too; not found here"
        found.append(Finding("PoCL", text, SUGGESTION, "apt-get install pocl-opencl-icd"))
    return found


def check_intel(
    hidden: Mapping[str, Path],
    version_of: Callable[[str], str | None],
    load: Callable[[Path], None],
    devices: Sequence[DeviceFinding],
    chosen: bool = False,
    machine: str = platform.machine(),
) -> list[Finding]:
    """Check Intel's runtime for CPUs.

    Args:
        hidden: runtimes that are not registered with the OpenCL loader: path of the library by name.
        version_of: returns the version of a package, or None.
        load: loads the libraries that a library needs, or raises OSError.
        devices: the devices found.
        chosen: whether the user selects the runtimes by OCL_ICD_VENDORS.
        machine: type of processor.
    """
    name = "Intel's OpenCL runtime"
    library = next((path for path in hidden.values() if path.name == INTEL_LIBRARY), None)
    if library is None and any(device.runtime == INTEL for device in devices):
        return [Finding(name, "is installed system-wide")]
    if library is None:
        if machine not in ("x86_64", "AMD64"):
            return []
        text = "is not installed; it is the fastest for CPUs of this type, including AMD's"
        return [Finding(name, text, SUGGESTION, "pip install intel-opencl-rt intel-cmplr-lib-rt")]
    version = version_of("intel-opencl-rt") or "of unknown version"
    try:
        load(library)
    except OSError as error:
        package = (
            "intel-cmplr-lib-rt" if version_of("intel-cmplr-lib-rt") is None else "--force-reinstall intel-opencl-rt"
        )
        return [Finding(name, f"{version} does not load: {error}", PROBLEM, f"pip install {package}")]
    if chosen and not any(device.runtime == INTEL for device in devices):
        text = f"{version} is hidden, because OCL_ICD_VENDORS is set and does not include it"
        return [Finding(name, text, SUGGESTION, "unset OCL_ICD_VENDORS")]
    return [Finding(name, f"{version}, its libraries load")]


def check_oclgrind(library: Path | None) -> list[Finding]:
    """Look for the simulator with which `fmmloopy check` finds races and reads out of bounds."""
    if library is not None:
        return [Finding("oclgrind", str(library))]
    text = "is not installed; with it, `fmmloopy check` finds races and reads out of bounds"
    return [Finding("oclgrind", text, SUGGESTION, "apt-get install oclgrind")]


def check_cuda(driver: bool, runtime: bool, devices: Sequence[DeviceFinding], trouble: str = "") -> list[Finding]:
    """Look for NVIDIA GPUs that neither CUDA nor OpenCL sees.

    Args:
        driver: whether libcuda loads, which comes with the driver of a GPU.
        runtime: whether NVIDIA's OpenCL library loads.
        devices: the devices found.
        trouble: why there are no GPUs through CUDA, with the remedy in backquotes if a command fixes it.
    """
    if not driver:
        return [Finding("CUDA", "no NVIDIA driver")]
    through_cuda = [device.description for device in devices if device.runtime == "cuda"]
    if through_cuda:
        return [Finding("CUDA", "; ".join(through_cuda))]
    commands = re.findall(r"`([^`]+)`", trouble)
    found = [Finding("CUDA", trouble, SUGGESTION, commands[0] if commands else "")] if trouble else []
    if any(device.runtime == NVIDIA for device in devices):
        return [*found, Finding("CUDA", "driver and NVIDIA's OpenCL runtime are installed")]
    if runtime:
        remedy = f"mkdir -p {SYSTEM_VENDORS} && echo libnvidia-opencl.so.1 > {SYSTEM_VENDORS}/nvidia.icd"
        return [*found, Finding("CUDA", "NVIDIA's OpenCL runtime is installed but not registered", SUGGESTION, remedy)]
    text = "the driver is installed, but NVIDIA's OpenCL runtime is not"
    return [*found, Finding("CUDA", text, SUGGESTION, "apt-get install nvidia-opencl-icd")]


@dataclass(frozen=True)
class Vendor:
    """A maker of GPUs.

    Attributes:
        name: in messages, and in descriptions of devices.
        words: one of these is in the description of each device.
        remedy: the command that installs what its GPUs need.
    """

    name: str
    words: tuple[str, ...]
    remedy: str


VENDORS = {
    0x10DE: Vendor("NVIDIA", ("NVIDIA",), "apt-get install nvidia-driver"),
    0x1002: Vendor("AMD", ("AMD", "Advanced Micro Devices"), "apt-get install rocm-opencl-runtime"),
    0x8086: Vendor("Intel", ("Intel",), "apt-get install intel-opencl-icd"),
}
"""By number on the PCI bus. The packages of NVIDIA and AMD are in Debian's non-free section, and in AMD's archive."""


def check_cards(vendors: Sequence[int], devices: Sequence[DeviceFinding], has_driver: bool) -> list[Finding]:
    """Look for GPUs in this machine that no runtime sees.

    Args:
        vendors: numbers of the makers of the GPUs on the PCI bus.
        devices: the devices found.
        has_driver: whether NVIDIA's driver loads; what it lacks then is for `check_cuda` to say.
    """
    seen = [device.description for device in devices if " GPU " in device.description]
    found = []
    for vendor in (VENDORS[number] for number in dict.fromkeys(vendors) if number in VENDORS):
        if any(word in description for word in vendor.words for description in seen):
            continue
        if vendor.name != "NVIDIA" or not has_driver:
            text = f"a GPU of {vendor.name} is in this machine, but no runtime sees it"
            found.append(Finding("GPU", text, SUGGESTION, vendor.remedy))
    return found


# -- compiler, caches, speed


def check_compiler(compiler: str | None, opencl: bool) -> list[Finding]:
    """Look for the compiler behind the device "c"."""
    if compiler is not None:
        return [Finding("C compiler", compiler)]
    verdict = SUGGESTION if opencl else PROBLEM
    return [Finding("C compiler", "none of $CC, cc, gcc, clang was found", verdict, "apt-get install gcc")]


def check_cache(folder: Path) -> list[Finding]:
    """Make sure that the cache is writable, and report its size."""
    probe = folder / "doctor"
    try:
        check_trusted(folder, folder)
        write_cached(probe, "", folder)
        probe.unlink()
    except UntrustedError as error:
        return [Finding("cache", f"is not used, because {error.reason}", PROBLEM, error.remedy)]
    except OSError as error:
        text = f"{folder} is not writable ({error.strerror}), so each process generates its code again"
        remedy = f"export {ENVIRONMENT_VARIABLE}={tempfile.gettempdir()}/fmmloopy"
        return [Finding("cache", text, PROBLEM, remedy)]
    return [Finding("cache", f"{folder}, {_mebibytes(folder)} MiB, writable")]


def check_other_caches(folder: Path, trouble: str = "") -> list[Finding]:
    """Report the sizes of the caches of loopy and related packages.

    Args:
        folder: the folder that has them.
        trouble: why they are not in the user's folder, and after a colon what helps; empty if they are.
    """
    if trouble:
        reason, _, remedy = trouble.rpartition(": ")
        return [Finding("other caches", f"are temporary, because {reason}", PROBLEM, remedy)]
    names = [name for name in OTHER_CACHES if (folder / name).is_dir()]
    sizes = ", ".join(f"{name} {_mebibytes(folder / name)} MiB" for name in names)
    return [Finding("other caches", f"{folder}: {sizes}")] if names else []


def _mebibytes(folder: Path) -> int:
    size = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            size += path.lstat().st_size
    return round(size / 2**20)


def check_speeds(devices: Sequence[DeviceFinding]) -> list[Finding]:
    """Report devices that fail."""
    return [Finding(device.description, device.trouble, PROBLEM) for device in devices if device.trouble]
