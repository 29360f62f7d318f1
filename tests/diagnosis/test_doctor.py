"""The doctor: what it finds where something is missing, too new, broken or crashing, and the command that mends it."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import c_compiler, made_up_intel, made_up_nvidia, made_up_pocl
from typer.testing import CliRunner

from fmmloopy.cli import app
from fmmloopy.common.isolation import ChildCrashed, ChildTimedOut
from fmmloopy.diagnosis.checkups import (
    FINE,
    PROBLEM,
    SUGGESTION,
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
from fmmloopy.diagnosis.doctor import Diagnosis, _probe, cards_on_the_bus, examine
from fmmloopy.diagnosis.p2p_speed import Speed, measure
from fmmloopy.execution.devices import C_DEVICE, Device, DeviceError, find_devices
from fmmloopy.recipes.hints import ISLPY_REMEDY


def found(device):
    return DeviceFinding(device.description, device.driver, runtime=device.runtime, version=device.version)


INTEL, POCL_30, POCL_31, NVIDIA = map(
    found, (made_up_intel(), made_up_pocl("3.0"), made_up_pocl("3.1+debian"), made_up_nvidia())
)


def verdicts(findings):
    return [finding.verdict for finding in findings]


# -- packages

REQUIREMENTS = [
    "numpy>=1.26",
    "loopy==2025.2",
    "islpy<2026.2,>=2025.2.5",
    "pyopencl[pocl]>=2025.1",
    "constantdict",
    "sphinx>=7; extra == 'docs'",
]
GOOD = {
    "fmmloopy": "0.1.0",
    "numpy": "2.4.6",
    "loopy": "2025.2",
    "islpy": "2026.1",
    "pyopencl": "2026.1.4",
    "constantdict": "1",
}


def packages(**versions):
    return check_packages(REQUIREMENTS, {**GOOD, **versions}.get)


def test_packages_that_are_right():
    (finding,) = packages()
    assert finding.verdict == FINE
    for text in ("python 3.", "fmmloopy 0.1.0", "loopy 2025.2", "islpy 2026.1"):
        assert text in finding.text
    assert "sphinx" not in finding.text


@pytest.mark.parametrize(
    ("name", "version", "expected", "remedy"),
    [
        (
            "islpy",
            "2026.2",
            "2026.2 is installed, expected >=2025.2.5, <2026.2: with islpy 2026.2, loopy",
            ISLPY_REMEDY,
        ),
        ("islpy", "2026.2.2", "'Aff' object has no attribute 'is_equal'", ISLPY_REMEDY),
        ("islpy", "2025.2.4", "2025.2.4 is installed", ISLPY_REMEDY),
        ("loopy", "2025.1", "2025.1 is installed, expected ==2025.2", 'pip install "loopy==2025.2"'),
        ("loopy", "2025.2.1", "2025.2.1 is installed", 'pip install "loopy==2025.2"'),
        ("loopy", None, "is not installed", 'pip install "loopy==2025.2"'),
        ("pyopencl", "2024.3", "expected >=2025.1", 'pip install "pyopencl[pocl]>=2025.1"'),
        ("pyopencl", None, "is not installed", 'pip install "pyopencl[pocl]>=2025.1"'),
        ("constantdict", None, "is not installed", 'pip install "constantdict"'),
    ],
)
def test_packages_that_are_wrong(name, version, expected, remedy):
    _, finding = packages(**{name: version})
    assert (finding.subject, finding.verdict, finding.remedy) == (name, PROBLEM, remedy)
    assert expected in finding.text


@pytest.mark.parametrize(
    "versions", [{"loopy": "2025.2.0"}, {"islpy": "2025.2.5"}, {"islpy": "2026.1.99"}, {"numpy": "10.0"}]
)
def test_versions_are_compared_as_numbers(versions):
    assert len(packages(**versions)) == 1


def test_package_without_metadata():
    findings = check_packages([], {}.get)
    assert findings[1] == Finding("fmmloopy", "is not installed as a package", PROBLEM, "pip install -e .")


def test_requirements_are_those_of_the_package():
    """Else the doctor would approve of what nobody has installed it for."""
    requirements = importlib.metadata.requires("fmmloopy")
    found = check_packages(requirements, lambda name: "0.0.1")
    remedies = [finding.remedy for finding in found]
    assert ISLPY_REMEDY in remedies
    assert 'pip install "loopy==2025.2"' in remedies


def test_development_version_of_loopy():
    (finding,) = check_loopy(["namedisl", "numpy"])
    assert (finding.verdict, finding.remedy) == (PROBLEM, 'pip install --force-reinstall "loopy==2025.2"')
    assert check_loopy(["islpy>=2025.2.5"]) == []


# -- runtimes


def test_no_opencl():
    (finding,) = check_opencl([])
    assert (finding.verdict, finding.remedy) == (PROBLEM, 'pip install "pyopencl[pocl]"')
    assert check_opencl([POCL_30]) == []


def test_pocl():
    known, old = check_pocl([POCL_31, POCL_30])
    assert (known.subject, old.subject) == ("PoCL 3.1", "PoCL 3.0")
    assert "including square roots (known, not measured)" in known.text
    assert "not square roots (known, not measured)" in old.text
    assert verdicts([known, old]) == [FINE, FINE]


@pytest.mark.parametrize("devices", [[], [POCL_30], [INTEL]])
def test_newer_pocl_is_suggested(devices):
    finding = check_pocl(devices)[-1]
    assert (finding.verdict, finding.remedy) == (SUGGESTION, "apt-get install pocl-opencl-icd")


@pytest.mark.parametrize(
    ("gain", "text"), [(7.0, "vectorizes: lanes are 7.0 times"), (1.1, "does not vectorize: lanes are")]
)
def test_pocl_that_was_measured(gain, text):
    finding = check_pocl([replace(POCL_31, speed=Speed("b", "float64", 2.0, gain))])[0]
    assert finding.text.startswith(text)
    assert finding.text.endswith("(measured)")


LIBRARY = {"intel-cpu.icd": Path("/env/lib/libintelocl.so")}


def intel(hidden, versions, devices, error=None, **more):
    def load(library):
        if error:
            raise OSError(error)

    return check_intel(hidden, versions.get, load, devices, **{"machine": "x86_64", **more})


def test_intel():
    both = {"intel-opencl-rt": "2026.2.0", "intel-cmplr-lib-rt": "2026.2.0"}
    missing = "libimf.so: cannot open shared object file: No such file or directory"
    (finding,) = intel(LIBRARY, both, [INTEL])
    assert (finding.verdict, finding.text) == (FINE, "2026.2.0, its libraries load")
    (finding,) = intel(LIBRARY, {"intel-opencl-rt": "2026.2.0"}, [], missing)
    assert (finding.verdict, finding.remedy) == (PROBLEM, "pip install intel-cmplr-lib-rt")
    assert missing in finding.text
    (finding,) = intel(LIBRARY, both, [], missing)
    assert (finding.verdict, finding.remedy) == (PROBLEM, "pip install --force-reinstall intel-opencl-rt")
    (finding,) = intel({}, {}, [POCL_30])
    assert (finding.verdict, finding.remedy) == (SUGGESTION, "pip install intel-opencl-rt intel-cmplr-lib-rt")
    assert intel({}, {}, [POCL_30], machine="aarch64") == []
    assert verdicts(intel({}, {}, [INTEL])) == [FINE], "from the system"
    (finding,) = intel(LIBRARY, both, [POCL_30], chosen=True)
    assert (finding.verdict, finding.remedy) == (SUGGESTION, "unset OCL_ICD_VENDORS")


def test_device_of_the_environment():
    devices = [made_up_intel(), made_up_pocl("3.0")]
    assert check_choice("", devices) == []
    (finding,) = check_choice("pocl", devices)
    assert (finding.subject, finding.verdict) == ("$FMMLOOPY_DEVICE", FINE)
    assert finding.text == f"is 'pocl', so the default device is {POCL_30.description}"
    (finding,) = check_choice("c", devices)
    assert C_DEVICE.description in finding.text
    (finding,) = check_choice("nvidia", devices)
    assert (finding.verdict, finding.remedy) == (PROBLEM, "unset FMMLOOPY_DEVICE")
    assert finding.text == "is 'nvidia', which matches no device here, so evaluations without device= fail"


def test_oclgrind():
    assert check_oclgrind(Path("/usr/lib/x.so")) == [Finding("oclgrind", "/usr/lib/x.so")]
    (finding,) = check_oclgrind(None)
    assert (finding.verdict, finding.remedy) == (SUGGESTION, "apt-get install oclgrind")


def test_cuda():
    assert verdicts(check_cuda(False, False, [])) == [FINE]
    assert verdicts(check_cuda(True, True, [NVIDIA])) == [FINE]
    (finding,) = check_cuda(True, True, [POCL_30])
    assert finding.verdict == SUGGESTION
    assert finding.remedy.endswith("echo libnvidia-opencl.so.1 > /etc/OpenCL/vendors/nvidia.icd")
    (finding,) = check_cuda(True, False, [POCL_30])
    assert (finding.verdict, finding.remedy) == (SUGGESTION, "apt-get install nvidia-opencl-icd")


def test_gpus_through_cuda_and_why_there_are_none():
    gpu = DeviceFinding("cuda GPU NVIDIA H200", "CUDA 13.5", runtime="cuda")
    (finding,) = check_cuda(True, False, [gpu, POCL_30])
    assert (finding.verdict, finding.text) == (FINE, "cuda GPU NVIDIA H200")
    missing = 'an NVIDIA driver was found, but not cuda.core; `pip install "fmmloopy[cuda]"` installs it'
    first, second = check_cuda(True, True, [NVIDIA], missing)
    assert (first.verdict, first.remedy) == (SUGGESTION, 'pip install "fmmloopy[cuda]"')
    assert (second.verdict, second.remedy) == (FINE, "")
    assert verdicts(check_cuda(True, False, [POCL_30], "no NVIDIA GPU was found")) == [SUGGESTION, SUGGESTION]
    assert verdicts(check_cuda(False, False, [], "no NVIDIA driver was found")) == [FINE]


def test_cards_that_no_runtime_sees(tmp_path):
    kinds = {
        "0": ("0x030000", "0x10de"),
        "1": ("0x120000", "0x1002"),
        "2": ("0x020000", "0x8086"),
        "3": ("no", "0x8086"),
    }
    for name, (kind, vendor) in kinds.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "class").write_text(f"{kind}\n")
        (tmp_path / name / "vendor").write_text(f"{vendor}\n")
    found = cards_on_the_bus(tmp_path)
    assert found == [0x10DE, 0x1002], "neither network cards, nor what cannot be read"
    assert cards_on_the_bus(tmp_path / "nothing") == []
    remedies = [finding.remedy for finding in check_cards([*found, 0x1002], [POCL_30], False)]
    assert remedies == ["apt-get install nvidia-driver", "apt-get install rocm-opencl-runtime"]
    radeon = DeviceFinding("opencl GPU AMD Accelerated Parallel Processing gfx90a", "3.0", runtime="AMD")
    assert check_cards(found, [radeon], True) == []
    assert verdicts(check_cards([0x8086], [POCL_30], True)) == [SUGGESTION]


# -- compiler, caches


def test_compiler():
    assert check_compiler("gcc", False) == [Finding("C compiler", "gcc")]
    assert verdicts(check_compiler(None, True)) == [SUGGESTION]
    (finding,) = check_compiler(None, False)
    assert (finding.verdict, finding.remedy) == (PROBLEM, "apt-get install gcc")


def test_cache(tmp_path):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "x").write_bytes(bytes(3 * 2**20))
    (finding,) = check_cache(tmp_path)
    assert (finding.verdict, finding.text) == (FINE, f"{tmp_path}, 3 MiB, writable")
    assert [path.name for path in tmp_path.iterdir()] == ["code"], "something stays behind"


def test_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    (finding,) = check_cache(tmp_path / "file" / "cache")
    assert finding.verdict == PROBLEM
    assert "Not a directory" in finding.text
    assert finding.remedy.startswith("export FMMLOOPY_CACHE_DIR=")


def test_other_caches(tmp_path):
    assert check_other_caches(tmp_path) == []
    (tmp_path / "pocl").mkdir()
    (tmp_path / "browser").mkdir()
    assert check_other_caches(tmp_path) == [Finding("other caches", f"{tmp_path}: pocl 0 MiB")]


# -- devices


def test_speed(opencl_device):
    speed = measure(opencl_device, 0.05)
    assert speed.gpairs > 0
    assert speed.dtype == ("float64" if opencl_device.has_float64 else "float32")
    assert (speed.gain is None) == (speed.book == "sequential")


def test_device_that_computes_something_else_is_found_out(opencl_device, monkeypatch):
    """Held against the direct sum, which here is made wrong in its place."""
    monkeypatch.setattr("fmmloopy.diagnosis.p2p_speed.direct", lambda *arguments: 1.01 * _direct(*arguments))
    from fmmloopy.direct import direct as _direct

    with pytest.raises(DeviceError, match=r"^potentials are wrong by 0.01 of the largest; "):
        measure(opencl_device, 0.05)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            ChildCrashed("the process died of signal 11, Segmentation fault", "summing pairs"),
            "ChildCrashed: the process",
        ),
        (
            ChildTimedOut("did not return within 60 s", "summing pairs"),
            "ChildTimedOut: did not return within 60 s, summing",
        ),
        (DeviceError("cannot compile\np2p"), "DeviceError: cannot compile p2p"),
    ],
)
def test_device_that_fails_is_a_line(error, text):
    class Worker:
        def call(self, *arguments, limit):
            raise error

    probed = _probe(Worker(), POCL_30)
    assert probed.trouble.startswith(text)
    (finding,) = check_speeds([INTEL, probed])
    assert (finding.subject, finding.verdict) == (POCL_30.description, PROBLEM)
    assert "\n" not in finding.text


def test_crash_while_devices_are_looked_for(tmp_path):
    here = tmp_path / "cpu"
    here.mkdir()
    (finding,) = check_listing("died", [Path("/v/a.icd")], here)
    assert finding == Finding("OpenCL", "the runtime of /v/a.icd crashes (died)", PROBLEM, "mv /v/a.icd /v/a.icd.off")
    assert check_listing("died", [], here) == [Finding("OpenCL", "the search for devices crashed (died)", PROBLEM)]
    (finding,) = check_listing("died", [], tmp_path / "none")
    assert (finding.verdict, finding.remedy) == (PROBLEM, "mount -t sysfs sysfs /sys")


def test_runtime_that_takes_the_process_down(tmp_path, monkeypatch, opencl_device):
    """It is named, and everything else is examined all the same."""
    if c_compiler() is None:
        pytest.skip("no C compiler")
    source, library = tmp_path / "crash.c", tmp_path / "libcrash.so"
    source.write_text("#include <stdlib.h>\n__attribute__((constructor)) static void crash(void) { abort(); }\n")
    subprocess.run([c_compiler(), "-shared", "-fPIC", "-o", library, source], check=True)
    (tmp_path / "crash.icd").write_text(f"{library}\n")
    (tmp_path / "nothing.icd").write_text("libnothing.so\n")
    monkeypatch.setenv("OCL_ICD_VENDORS", str(tmp_path))
    diagnosis = examine(probe=False)
    (problem,) = [finding for finding in diagnosis.of(PROBLEM) if finding.subject == "OpenCL"]
    assert problem.text.startswith(
        f"the runtime of {tmp_path}/crash.icd crashes (the process died of signal 6, Aborted"
    )
    assert problem.remedy == f"mv {tmp_path}/crash.icd {tmp_path}/crash.icd.off"
    assert diagnosis.devices == ()
    assert {"packages", "cache"} <= {finding.subject for finding in diagnosis.of(FINE)}


# -- all of it


def test_suggestions_are_no_problems():
    fine, better, wrong = (Finding("a", "b", verdict) for verdict in (FINE, SUGGESTION, PROBLEM))
    assert Diagnosis((fine, better), ()).ok
    assert not Diagnosis((fine, better, wrong), ()).ok
    assert Diagnosis((fine, better, wrong), ()).of(SUGGESTION) == (better,)


def test_this_machine():
    shown = []
    diagnosis = examine(probe=False, show=shown.append)
    assert [device.description for device in diagnosis.devices] == [device.description for device in find_devices()]
    assert diagnosis.devices[-1].description == C_DEVICE.description
    assert all(device.speed is None and not device.trouble for device in diagnosis.devices)
    assert shown == ["looking for devices"]


@pytest.fixture
def diagnose(monkeypatch):
    """Call with a diagnosis that the command then gets."""

    def install(diagnosis):
        monkeypatch.setattr("fmmloopy.diagnosis.doctor.examine", lambda probe, show: diagnosis)

    return install


SPEED = Speed("pocl_cpu", "float64", 1.234, 4.0)
HEALTHY = Diagnosis(
    (Finding("packages", "all there"), Finding("oclgrind", "is not installed", SUGGESTION, "apt-get install oclgrind")),
    (replace(POCL_30, speed=SPEED), INTEL),
)
ILL = Diagnosis(
    (Finding("islpy", "[too] new", PROBLEM, ISLPY_REMEDY), *HEALTHY.findings),
    (replace(POCL_30, trouble="it died"),),
)


def test_command(diagnose):
    diagnose(HEALTHY)
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 0, done.output
    lines = [" ".join(line.split()) for line in done.output.splitlines()]
    assert "packages all there" in lines
    assert f"1.23 float64 pocl_cpu {POCL_30.description}" in lines
    assert (
        lines.index("Suggestions") < lines.index("oclgrind: is not installed") < lines.index("apt-get install oclgrind")
    )
    assert lines[-1] == "No problems found."
    assert "Problems" not in lines


def test_command_where_something_is_wrong(diagnose):
    diagnose(ILL)
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 1
    lines = [" ".join(line.split()) for line in done.output.splitlines()]
    assert (
        lines.index("Problems")
        < lines.index("islpy: [too] new")
        < lines.index(ISLPY_REMEDY)
        < lines.index("Suggestions")
    )
    assert f"failed {POCL_30.description}" in lines
    assert "No problems found." not in lines


@pytest.mark.parametrize("diagnosis", [HEALTHY, ILL])
def test_command_for_machines(diagnosis, diagnose):
    diagnose(diagnosis)
    done = CliRunner().invoke(app, ["doctor", "--json"])
    assert done.exit_code == (0 if diagnosis.ok else 1)
    document = json.loads(done.stdout)
    assert document["ok"] == diagnosis.ok
    assert [finding["remedy"] for finding in document["findings"]] == [f.remedy for f in diagnosis.findings]
    assert [device["description"] for device in document["devices"]] == [d.description for d in diagnosis.devices]


def test_device_without_double_precision_is_measured_in_single(opencl_device):
    assert isinstance(opencl_device, Device)
    assert measure(replace(opencl_device, has_float64=False), 0.05).dtype == "float32"
