"""Devices: which are found, in what order, how they are chosen, and what happens without any."""

from __future__ import annotations

import os
import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from conftest import c_compiler

import fmmloopy as fl
from fmmloopy.cache import ENVIRONMENT_VARIABLE
from fmmloopy.devices import (
    C_DEVICE,
    PREFERENCE,
    Device,
    _show_hidden_runtimes,
    choose_device,
    find_devices,
    hidden_runtimes,
    load_needed,
    vector_instructions,
)
from fmmloopy.recipes import load_recipes

POINTS = np.random.default_rng(5).random((400, 3))
CHARGES = np.random.default_rng(6).random(400) - 0.3


def fake(description):
    return Device("opencl", description.split()[-1], description)


INTEL = fake("opencl CPU Intel(R) OpenCL OpenCL 3.1 LINUX AMD EPYC")
POCL_6 = fake("opencl CPU Portable Computing Language OpenCL 3.0 PoCL 6.0 Linux cpu-znver4")
POCL_31 = fake("opencl CPU Portable Computing Language OpenCL 3.0 PoCL 3.1+debian Linux cpu-skylake")
POCL_30 = fake("opencl CPU Portable Computing Language OpenCL 3.0 PoCL 3.0-rc2 Linux cpu-generic")
OTHER_CPU = fake("opencl CPU Some Vendor OpenCL 2.0 Some Processor")
GPU = fake("opencl GPU NVIDIA CUDA OpenCL 3.0 CUDA 12.4 H200")


@pytest.fixture
def pretend(monkeypatch):
    """Call with devices: these and no others are then found, until the test ends."""

    def only(*devices):
        monkeypatch.setattr("fmmloopy.devices._opencl_devices", lambda: list(devices))
        find_devices.cache_clear()

    yield only
    monkeypatch.undo()
    find_devices.cache_clear()


# -- what is found


def test_devices_of_this_machine():
    found = find_devices()
    assert found[-1] is C_DEVICE
    assert [d.kind for d in found[:-1]] == ["opencl"] * (len(found) - 1)
    assert len({d.description for d in found}) == len(found), "a device is found twice"
    assert find_devices() is found
    for device in found:
        assert device.name
        assert device.name in device.description or device is C_DEVICE
        assert device.description.split()[0] == device.kind
        assert "\n" not in device.description
        on_cpu = device.description.startswith("opencl CPU ")
        assert not on_cpu or device.description.endswith(vector_instructions())


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("fpu sse2 avx avx2 fma avx512f avx512dq", "AVX-512"),
        ("fpu sse2 avx avx2 fma avx_vnni", "AVX2"),
        ("fp asimd evtstrm", "Neon"),
        ("fpu sse2", ""),
    ],
)
def test_vector_instructions(flags, expected, monkeypatch):
    text = f"processor\t: 0\nflags\t\t: {flags}\n\nprocessor\t: 1\nflags\t\t: {flags}\n"
    monkeypatch.setattr(Path, "read_text", lambda path: text)
    assert vector_instructions.__wrapped__() == expected


def test_vector_instructions_where_the_system_does_not_say(monkeypatch):
    def missing(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", missing)
    assert vector_instructions.__wrapped__() == ""


def test_devices_of_this_machine_are_in_order_of_preference():
    ranks = [next(i for i, p in enumerate(PREFERENCE) if re.search(p, d.description)) for d in find_devices()[:-1]]
    assert ranks == sorted(ranks)


def test_order_of_preference(pretend):
    """GPUs are last until there are recipes for them."""
    pretend(GPU, OTHER_CPU, POCL_30, POCL_31, INTEL, POCL_6)
    assert find_devices() == (INTEL, POCL_31, POCL_6, POCL_30, OTHER_CPU, GPU, C_DEVICE)
    assert choose_device(None) == INTEL


# -- how one is chosen


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        ("pocl", POCL_31),
        ("PoCL 3.0", POCL_30),
        ("INTEL", INTEL),
        ("h200", GPU),
        ("GPU", GPU),
        ("c", C_DEVICE),
        ("C", C_DEVICE),
        ("C compiler", C_DEVICE),
        (C_DEVICE, C_DEVICE),
        (GPU, GPU),
        (None, INTEL),
    ],
    ids=str,
)
def test_choice(which, expected, pretend):
    pretend(POCL_30, GPU, POCL_31, INTEL)
    assert choose_device(which) == expected


def test_device_that_is_not_there(pretend):
    pretend(POCL_31)
    with pytest.raises(fl.DeviceError) as caught:
        choose_device("intel")
    expected = "; ".join(repr(d.description) for d in (POCL_31, C_DEVICE))
    assert str(caught.value) == f"no device matches 'intel'; there are {expected}: give part of one of these"


@pytest.mark.parametrize(
    ("device", "book"),
    [
        (INTEL, "simd_cpu"),
        (POCL_6, "pocl31_cpu"),
        (POCL_31, "pocl31_cpu"),
        (POCL_30, "pocl_cpu"),
        (C_DEVICE, "sequential"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_book_for_a_device(device, book):
    assert load_recipes(None, device.description).name == book


@pytest.mark.parametrize("which", [None, GPU])
def test_simulators_are_last(which, pretend):
    """Whoever announces one to all programs does not want all of them to be a hundred times slower."""
    grind = fake("opencl CPU Oclgrind OpenCL 1.2 (Oclgrind 21.10) Oclgrind Simulator")
    pretend(grind, OTHER_CPU, GPU)
    assert find_devices() == (OTHER_CPU, GPU, grind, C_DEVICE)
    assert choose_device(which) == (which or OTHER_CPU)


# -- what wheels hide


@pytest.fixture
def prefix(monkeypatch, tmp_path):
    """An environment without runtimes, and a system that announces one."""
    (tmp_path / "env/etc/OpenCL/vendors").mkdir(parents=True)
    (tmp_path / "env/lib").mkdir()
    (tmp_path / "system").mkdir()
    (tmp_path / "system/pocl.icd").write_text("libpocl.so.2\n")
    monkeypatch.setattr("sys.prefix", str(tmp_path / "env"))
    monkeypatch.setattr("fmmloopy.devices.SYSTEM_VENDORS", tmp_path / "system")
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.delenv("OCL_ICD_VENDORS", raising=False)
    return tmp_path / "env"


def announce(prefix, name, path, *libraries):
    (prefix / f"etc/OpenCL/vendors/{name}.icd").write_text(f"{path}\n")
    for library in libraries:
        (prefix / "lib" / library).write_text("")


def test_hidden_runtimes(prefix):
    """A path of another machine, a relative one, a right one, one that leads nowhere, and a simulator."""
    announce(prefix, "moved", "/build/machine/lib/libmoved.so", "libmoved.so")
    announce(prefix, "relative", "librelative.so", "librelative.so")
    announce(prefix, "right", prefix / "lib/libright.so.1", "libright.so.1")
    announce(prefix, "nowhere", "/build/machine/lib/libnowhere.so")
    announce(prefix, "grind", "liboclgrind-rt-icd.so", "liboclgrind-rt-icd.so")
    lib = prefix / "lib"
    assert hidden_runtimes() == {
        "moved.icd": lib / "libmoved.so",
        "relative.icd": lib / "librelative.so",
        "right.icd": lib / "libright.so.1",
    }


def test_hidden_runtimes_are_shown_beside_those_of_the_system(prefix):
    announce(prefix, "moved", "/build/machine/lib/libmoved.so", "libmoved.so")
    _show_hidden_runtimes()
    vendors = Path(os.environ["OCL_ICD_VENDORS"])
    assert {path.name: path.read_text().strip() for path in vendors.iterdir()} == {
        "fmmloopy_moved.icd": str(prefix / "lib/libmoved.so"),
        "pocl.icd": "libpocl.so.2",
    }
    announce(prefix, "second", "libsecond.so", "libsecond.so")
    _show_hidden_runtimes()
    assert "fmmloopy_second.icd" in os.listdir(os.environ["OCL_ICD_VENDORS"]), "what a parent process has set stays"


def test_nothing_is_set_where_nothing_is_hidden(prefix):
    _show_hidden_runtimes()
    assert "OCL_ICD_VENDORS" not in os.environ
    assert not (prefix.parent / "cache").exists()


def test_runtime_whose_libraries_are_missing_stays_hidden(prefix):
    """Intel's without its other package; the loader would drop it, after a complaint."""
    announce(prefix, "intel", "libintelocl.so", "libintelocl.so")
    with pytest.raises(OSError, match="libimf.so: cannot open shared object file"):
        load_needed(hidden_runtimes()["intel.icd"])
    announce(prefix, "other", "libother.so", "libother.so")
    _show_hidden_runtimes()
    assert sorted(os.listdir(os.environ["OCL_ICD_VENDORS"])) == ["fmmloopy_other.icd", "pocl.icd"]


def test_choice_of_the_user_is_left_alone(prefix, monkeypatch):
    announce(prefix, "moved", "libmoved.so", "libmoved.so")
    monkeypatch.setenv("OCL_ICD_VENDORS", "/somewhere")
    _show_hidden_runtimes()
    assert os.environ["OCL_ICD_VENDORS"] == "/somewhere"
    assert not (prefix.parent / "cache").exists()


def test_runtimes_stay_hidden_where_nothing_can_be_written(prefix, monkeypatch):
    announce(prefix, "moved", "libmoved.so", "libmoved.so")
    (prefix.parent / "file").write_text("")
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(prefix.parent / "file" / "cache"))
    _show_hidden_runtimes()
    assert "OCL_ICD_VENDORS" not in os.environ


# -- without devices


def test_no_opencl_runs_through_the_c_compiler(pretend):
    if c_compiler() is None:
        pytest.skip("no C compiler")
    pretend()
    assert find_devices() == (C_DEVICE,)
    with pytest.warns(UserWarning, match="no OpenCL device was found") as warned:
        fmm = fl.Fmm(POINTS, order=4, ncrit=20)
    assert [w.filename for w in warned if "OpenCL device" in str(w.message)] == [__file__], "it names another line"
    remedies = [str(w.message) for w in warned if "pip install pyopencl[pocl]" in str(w.message)]
    assert len(remedies) == 1
    assert fmm.device is C_DEVICE
    assert fmm.lists.v.lists.size > 0
    potentials = fmm.evaluate(CHARGES)
    expected = fl.direct(POINTS, CHARGES)
    # 3 times 10^-4 for order 4, as in test_fmm.py.
    assert np.linalg.norm(potentials - expected) <= 3e-4 * np.linalg.norm(expected)


def test_asking_for_the_c_compiler_gives_no_warning():
    if c_compiler() is None:
        pytest.skip("no C compiler")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fl.Fmm(POINTS, order=4, ncrit=500, device="c")


@pytest.mark.parametrize("device", [None, "c"])
def test_neither_opencl_nor_a_compiler(device, pretend, monkeypatch, tmp_path):
    pretend()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path / "cache"))
    assert shutil.which("cc") is None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        with pytest.raises(fl.DeviceError) as caught:
            fl.Fmm(POINTS, order=4, ncrit=500, device=device)
    assert str(caught.value) == (
        "neither an OpenCL device nor a C compiler was found; `pip install pyopencl[pocl]` gives a device"
    )


def test_pyopencl_without_a_platform_is_no_error(monkeypatch):
    """What pyopencl raises where there is no loader or no driver differs from system to system."""
    cl = pytest.importorskip("pyopencl")
    from fmmloopy.devices import _opencl_devices

    def fail():
        raise RuntimeError("clGetPlatformIDs failed: PLATFORM_NOT_FOUND_KHR")

    monkeypatch.setattr(cl, "get_platforms", fail)
    assert _opencl_devices() == []


def test_compiler_of_the_user_comes_first(monkeypatch, tmp_path):
    """And one that is not there is passed over."""
    from fmmloopy.runtime import CRuntime

    compiler = tmp_path / "mycc"
    compiler.write_text("#!/bin/sh\nexit 3\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    assert CRuntime(C_DEVICE)._compiler == str(compiler)
    monkeypatch.setenv("CC", str(tmp_path / "none"))
    if c_compiler() is not None:
        assert CRuntime(C_DEVICE)._compiler in ("cc", "gcc", "clang")


def test_compiler_that_fails(monkeypatch, tmp_path):
    compiler = tmp_path / "mycc"
    compiler.write_text("#!/bin/sh\necho 'error: first line' >&2\necho 'second line' >&2\nexit 3\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path / "cache"))
    with pytest.raises(fl.DeviceError, match="cannot compile p2p: error: first line") as caught:
        fl.Fmm(POINTS, order=4, ncrit=500, device="c")
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache").rglob("*.so")), "half a library stays behind"
