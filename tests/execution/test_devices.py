"""Devices: which are found, in what order, how they are chosen, and what happens without any."""

from __future__ import annotations

import mmap
import os
import pickle
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cloudpickle
import loopy as lp
import numpy as np
import pyopencl as cl
import pytest
from conftest import c_compiler, devices, made_up_device, made_up_intel, made_up_nvidia, made_up_pocl

import fmmloopy as fl
from fmmloopy.common.store import ENVIRONMENT_VARIABLE
from fmmloopy.common.surroundings import temporary_folder
from fmmloopy.execution.backends import BACKENDS, backend_of, opencl, opencl_loader
from fmmloopy.execution.backends.c import CRuntime
from fmmloopy.execution.backends.opencl import OpenCLBackend, device_of, version_of
from fmmloopy.execution.backends.opencl_loader import hidden_runtimes, load_needed, show_hidden_runtimes
from fmmloopy.execution.device import CPU, CPU_LIMITS, Limits, gpu_limits
from fmmloopy.execution.devices import C_DEVICE, Device, choose_device, choose_suited, find_devices, missing_devices
from fmmloopy.execution.devices import ENVIRONMENT_VARIABLE as DEVICE_VARIABLE
from fmmloopy.execution.generate import generate_code
from fmmloopy.execution.launch import CompiledOperator, check_size, launch_sizes
from fmmloopy.execution.processor import Processor, this_processor, vector_instructions, vendor_of
from fmmloopy.execution.runtime import make_runtime
from fmmloopy.execution.setup import Method, Setup
from fmmloopy.octree.tree import grow_tree, sort_points
from fmmloopy.operators import P2P
from fmmloopy.precision import DOUBLE, MIXED_PRECISION
from fmmloopy.recipes import SEQUENTIAL, RecipeBook, RecipeError, load_recipes
from fmmloopy.recipes.book import devices_in_words

POINTS = np.random.default_rng(5).random((400, 3))
CHARGES = np.random.default_rng(6).random(400) - 0.3


INTEL = made_up_intel()
POCL_6, POCL_31, POCL_30 = made_up_pocl("6.0"), made_up_pocl("3.1+debian"), made_up_pocl("3.0-rc2")
OTHER_CPU = made_up_device("CPU", "Some Vendor", "OpenCL 2.0", "Some Processor")
GPU = made_up_nvidia()
GRIND = made_up_device("CPU", "Oclgrind", "OpenCL 1.2 (Oclgrind 21.10)", "Oclgrind Simulator", "Oclgrind 21.10")


@pytest.fixture
def pretend(monkeypatch):
    """Call with devices: these and no others are then found, until the test ends."""

    def only(*devices):
        monkeypatch.setattr(OpenCLBackend, "find_devices", lambda self: list(devices))
        find_devices.cache_clear()

    yield only
    monkeypatch.undo()
    find_devices.cache_clear()


# -- what is found


def test_devices_of_this_machine():
    found = find_devices()
    assert found[-1] is C_DEVICE
    assert [d.backend for d in found[:-1]] == ["opencl"] * (len(found) - 1)
    assert len({d.description for d in found}) == len(found), "a device is found twice"
    assert find_devices() is found
    for device in found:
        assert device.name
        assert device.name in device.description or device is C_DEVICE
        assert device.description.split()[0] == device.backend
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
    assert this_processor.__wrapped__().instructions == expected


def test_vector_instructions_where_the_system_does_not_say(monkeypatch):
    def missing(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", missing)
    assert this_processor.__wrapped__() == Processor()


def test_facts_of_this_machines_devices():
    for device in find_devices()[:-1]:
        assert device.runtime
        assert device.version
        assert device.cores > 0
        assert device.memory > 2**28
        assert device.width >= 1
        if device.kind == "cpu":
            assert device.instructions == vector_instructions()
            is_avx2 = device.runtime == "pocl" and device.vector_bytes == 32
            assert device.limits == replace(CPU_LIMITS, narrow_pairs=is_avx2)


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        (INTEL, ("cpu", "intel", (2026, 22, 10, 0, 1), "amd", 1)),
        (made_up_intel("Intel(R) Xeon(R)", "AVX-512"), ("cpu", "intel", (2026, 22, 10, 0, 1), "intel", 16)),
        (POCL_31, ("cpu", "pocl", (3, 1), "", 1)),
        (made_up_pocl("3.0-rc2", "pthread-Intel(R) Xeon(R)", "AVX2"), ("cpu", "pocl", (3, 0), "intel", 1)),
        (GPU, ("gpu", "nvidia", (550, 54, 15), "", 1)),
        (GRIND, ("cpu", "oclgrind", (21, 10), "", 1)),
        (OTHER_CPU, ("cpu", "some_vendor", (1, 0), "", 1)),
    ],
    ids=lambda value: value.runtime if isinstance(value, Device) else "",
)
def test_what_a_driver_says_becomes_fields(device, expected):
    assert (device.kind, device.runtime, device.version, device.vendor, device.width) == expected
    assert device.is_simulator == (device is GRIND)


def test_registers_are_those_of_the_processor():
    wide, narrow = made_up_pocl("3.1", "x", "AVX-512"), made_up_pocl("3.1", "x", "AVX2")
    assert (wide.vector_bytes, wide.registers, wide.instructions) == (64, 32, "AVX-512")
    assert (narrow.vector_bytes, narrow.registers, narrow.instructions) == (32, 16, "AVX2")
    assert (GPU.vector_bytes, GPU.registers, GPU.instructions) == (0, 0, ""), "not the GPU's"


def test_what_a_driver_refuses_to_tell_is_neutral():
    """Most queries are optional; on a CPU without /proc the width of vectors is what OpenCL says."""

    class Handle(SimpleNamespace):
        @property
        def global_mem_size(self):
            raise cl.LogicError("clGetDeviceInfo failed: INVALID_VALUE")

    told = {"name": "a CPU", "driver_version": "none", "double_fp_config": 0, "native_vector_width_float": 8}
    device = device_of(SimpleNamespace(name="x", version="y"), Handle(type=cl.device_type.CPU, **told), Processor())
    assert (device.memory, device.cores, device.cache, device.version) == (0, 0, 0, ())
    assert (device.vector_bytes, device.registers, device.vendor, device.has_float64) == (32, 0, "", False)


@pytest.mark.parametrize(
    ("platform", "nbytes", "expected"),
    [
        ("Portable Computing Language", 32, True),
        ("Portable Computing Language", 64, False),
        ("Intel(R) OpenCL", 32, False),
    ],
)
def test_pairs_in_float32_are_for_avx2(platform, nbytes, expected):
    told = {"name": "a CPU", "driver_version": "1", "double_fp_config": 1, "type": cl.device_type.CPU}
    processor = Processor("amd", "AVX2" if nbytes == 32 else "AVX-512", nbytes, 16)
    device = device_of(SimpleNamespace(name=platform, version="3.0"), SimpleNamespace(**told), processor)
    assert device.limits.narrow_pairs == expected
    setup = Setup(Method(fl.laplace(), 4, MIXED_PRECISION), load_recipes("pocl_cpu"), device)
    tree = grow_tree(sort_points(np.random.default_rng(0).random((30_000, 3))), 1000)
    assert setup.pairs_leaves(tree) == expected
    assert replace(setup, method=Method(fl.laplace(), 4, DOUBLE)).pairs_leaves(tree)


def test_warps_are_asked_for():
    told = {"name": "a GPU", "driver_version": "1", "double_fp_config": 1, "vendor": "NVIDIA Corporation"}
    platform = SimpleNamespace(name="NVIDIA CUDA", version="OpenCL 3.0 CUDA 12.4")
    handle = SimpleNamespace(type=cl.device_type.GPU, warp_size_nv=32, **told)
    device = device_of(platform, handle, Processor("intel", "AVX2", 32, 16))
    assert (device.width, device.vendor) == (32, "nvidia")
    assert device.description == "opencl GPU NVIDIA CUDA OpenCL 3.0 CUDA 12.4 a GPU"


@pytest.mark.parametrize(
    ("text", "expected"), [("3.1+debian", (3, 1)), ("Oclgrind 21.10", (21, 10)), ("6", (6,)), ("unknown", ())]
)
def test_versions(text, expected):
    assert version_of(text) == expected


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("pthread-skylake-avx512-Intel(R) Xeon(R) Processor",), "intel"),
        (("cpu-znver4-AMD EPYC 9R14", "intel"), "amd"),
        (("generic", "GenuineIntel"), "intel"),
        (("Neoverse-V1",), "arm"),
        (("Apple M2",), "apple"),
        (("a prince of darmstadt",), ""),
    ],
)
def test_vendors(names, expected):
    assert vendor_of(*names) == expected


def test_pickled_devices_have_lost_their_handle_and_open_all_the_same(opencl_device):
    copy = pickle.loads(pickle.dumps(opencl_device))
    assert copy == opencl_device
    assert copy.handle is None
    values = np.arange(5.0)
    runtime = make_runtime(copy)
    assert np.array_equal(runtime.read(runtime.upload(values)), values)


def test_devices_that_are_gone_cannot_be_opened():
    with pytest.raises(fl.DeviceError, match="^'opencl GPU NVIDIA CUDA .* was not found; fmmloopy.find_devices"):
        make_runtime(GPU)


def test_device_of_an_unknown_backend():
    with pytest.raises(
        ValueError, match="^'an abacus' has the backend 'beads', expected one of cuda, opencl, cuda-emulator, c$"
    ):
        make_runtime(Device("beads", "abacus", "an abacus"))


# -- in which order


def test_order_of_preference(pretend):
    pretend(OTHER_CPU, POCL_30, POCL_31, INTEL, POCL_6, GPU)
    assert find_devices() == (GPU, INTEL, POCL_31, POCL_6, POCL_30, OTHER_CPU, C_DEVICE)
    assert choose_device(None) == GPU


def test_double_precision_comes_first_among_equals(pretend):
    single = replace(GPU, has_float64=False, description="another GPU")
    half = replace(INTEL, has_float64=False, description="another CPU")
    pretend(half, single, POCL_30, GPU)
    assert find_devices() == (GPU, single, POCL_30, half, C_DEVICE)


def test_order_of_preference_is_kept_here():
    kinds = [("gpu", "cpu", "other").index(d.kind) for d in find_devices()[:-1] if not d.is_simulator]
    assert kinds == sorted(kinds)


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
        (None, GPU),
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
    assert str(caught.value) == f"no device matches 'intel'; there are {expected}; give part of one of these"


@pytest.mark.parametrize(
    ("device", "book"),
    [
        (INTEL, "simd_cpu"),
        (POCL_6, "pocl31_cpu"),
        (POCL_31, "pocl31_cpu"),
        (POCL_30, "pocl_cpu"),
        (made_up_pocl("1.8"), "pocl_cpu"),
        (made_up_pocl("2.1"), "pocl_cpu"),
        (made_up_pocl("3.2"), "pocl31_cpu"),
        (made_up_pocl("10.0"), "pocl31_cpu"),
        (made_up_pocl("unknown"), "sequential"),
        (made_up_pocl("6.0", kind="GPU"), "gpu"),
        (made_up_device("GPU", "Intel(R) OpenCL Graphics", "OpenCL 3.0", "Iris"), "gpu"),
        (OTHER_CPU, "sequential"),
        (GRIND, "sequential"),
        (GPU, "gpu"),
        (C_DEVICE, "sequential"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_book_for_a_device(device, book):
    assert load_recipes(None, device).name == book


@pytest.mark.parametrize("which", [None, OTHER_CPU])
def test_simulators_are_last(which, pretend):
    """Whoever announces one to all programs does not want all of them to be a hundred times slower."""
    pretend(GRIND, OTHER_CPU, GPU)
    assert find_devices() == (GPU, OTHER_CPU, GRIND, C_DEVICE)
    assert choose_device(which) == (which or GPU)


# -- what the environment chooses


@pytest.mark.parametrize(
    ("named", "expected"), [("pocl", POCL_31), ("PoCL 3.0", POCL_30), ("c", C_DEVICE), ("", GPU), (None, GPU)]
)
def test_environment_chooses_where_nobody_asks(named, expected, pretend, monkeypatch):
    pretend(POCL_30, GPU, POCL_31, INTEL)
    if named is not None:
        monkeypatch.setenv(DEVICE_VARIABLE, named)
    assert choose_device() == expected
    assert choose_device("intel") == INTEL, "asked for"
    assert find_devices()[0] == GPU, "the order stays"


def test_environment_that_names_no_device(pretend, monkeypatch):
    pretend(POCL_31)
    monkeypatch.setenv(DEVICE_VARIABLE, "nvidia")
    with pytest.raises(fl.DeviceError, match="^\\$FMMLOOPY_DEVICE: no device matches 'nvidia'; there are 'opencl CPU"):
        choose_device()
    assert choose_device("pocl") == POCL_31


def test_device_that_suits(pretend, monkeypatch):
    """The one of the environment if it suits, else the first, else the one that is taken anyway."""
    pretend(POCL_30, POCL_31, INTEL)
    assert choose_suited(lambda device: device.runtime == "pocl") == POCL_31
    assert choose_suited(lambda device: False) == INTEL
    monkeypatch.setenv(DEVICE_VARIABLE, "PoCL 3.0")
    assert choose_suited(lambda device: device.runtime == "pocl") == POCL_30
    assert choose_suited(lambda device: device.runtime == "intel") == INTEL
    assert choose_suited(lambda device: False) == POCL_30


def test_c_compiler_of_the_environment_gives_no_warning(pretend, monkeypatch):
    pretend()
    assert "no OpenCL device was found" in missing_devices()
    monkeypatch.setenv(DEVICE_VARIABLE, "c")
    assert missing_devices() == ""
    pretend(POCL_31)
    monkeypatch.delenv(DEVICE_VARIABLE)
    assert missing_devices() == ""


# -- what books say of devices


def on_wide_cpus(device):
    """CPUs with many registers.

    More of it.
    """
    return device.registers >= 32


def test_books_ask_fields_of_a_device():
    def recipe(knl, *, lanes: int = 4):
        yield "step", knl

    by_device = {"p2p": {on_wide_cpus: {"lanes": 8}, "H200": {"lanes": 32}}}
    book = RecipeBook("b", lambda device: device.kind == "gpu", {"p2p": recipe}, by_device=by_device)
    assert book.suits(GPU)
    assert not book.suits(INTEL)
    assert book.defaults_on("p2p", made_up_pocl("3.1", vectors="AVX-512")) == {"lanes": 8}
    assert book.defaults_on("p2p", INTEL) == {"lanes": 4}
    assert book.defaults_on("p2p", GPU) == {"lanes": 32}
    copy = cloudpickle.loads(cloudpickle.dumps(book))
    assert copy.suits(GPU)
    assert copy.defaults_on("p2p", made_up_pocl("3.1", vectors="AVX-512")) == {"lanes": 8}
    assert copy.fingerprint("p2p") == book.fingerprint("p2p")
    assert "0x" not in book.fingerprint("p2p"), "it would differ in every process"


def test_fingerprint_follows_the_condition():
    def recipe(knl, *, lanes: int = 4):
        yield "step", knl

    def book(condition, lanes=8):
        return RecipeBook("b", "", {"p2p": recipe}, by_device={"p2p": {condition: {"lanes": lanes}}})

    def limit(least):
        return lambda device: device.registers >= least

    prints = {
        book(condition, lanes).fingerprint("p2p")
        for condition, lanes in [(limit(16), 8), (limit(32), 8), (limit(32), 4), ("a", 8), ("b", 8)]
    }
    assert len(prints) == 5
    assert book(limit(16)).fingerprint("p2p") == book(limit(16)).fingerprint("p2p")


def test_conditions_that_fail_or_are_none():
    book = RecipeBook("b", lambda device: device.colour == "blue")
    with pytest.raises(
        RecipeError, match="^b: '<lambda>' fails for the device Device.*'Device' object has no attribute"
    ):
        book.suits(GPU)
    with pytest.raises(RecipeError, match="^b: device is 7, expected a function of a device or a regular expression$"):
        RecipeBook("b", 7)
    with pytest.raises(RecipeError, match="^device is 'PoCL', expected one of fmmloopy.find_devices"):
        load_recipes(None, "PoCL")


def test_conditions_in_words():
    assert devices_in_words(on_wide_cpus) == "CPUs with many registers"
    assert devices_in_words("PoCL 3") == "PoCL 3"
    assert devices_in_words(lambda device: True) == "<lambda>"
    assert devices_in_words(SEQUENTIAL.device) == "None, unless the book is chosen by name"


# -- limits and sizes


def test_limits_of_gpus_grow_with_them():
    assert Limits() == CPU_LIMITS
    small, large = gpu_limits(10, 2**32), gpu_limits(132, 139 * 2**30)
    assert small.workspace == CPU_LIMITS.workspace < large.workspace
    assert CPU_LIMITS.heavy_share == small.heavy_share > large.heavy_share
    assert gpu_limits(0, 0).heavy_share == 1 / 1024
    assert large.probes.points > CPU_LIMITS.probes.points
    assert GPU.limits == gpu_limits(8, 2**34)


@pytest.mark.parametrize(
    ("facts", "share"),
    [
        ({"compute_capability_major_nv": 9, "compute_capability_minor_nv": 0, "name": "H200"}, 1 / 2),
        ({"compute_capability_major_nv": 8, "compute_capability_minor_nv": 9, "name": "RTX 4090"}, 1 / 64),
        ({"compute_capability_major_nv": 10, "compute_capability_minor_nv": 0, "name": "B200"}, 1 / 2),
        ({"compute_capability_major_nv": 12, "compute_capability_minor_nv": 0, "name": "RTX 5090"}, 1 / 64),
        ({"name": "gfx90a:sramecc+:xnack-"}, 1.0),
        ({"name": "gfx908"}, 1 / 2),
        ({"name": "gfx942"}, 1 / 2),
        ({"name": "gfx1030"}, 1 / 16),
        ({"name": "gfx1100"}, 1 / 32),
        ({"name": "Intel(R) Arc(TM) A770"}, 0.0),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else None,
)
def test_what_float64_takes_on_gpus_through_opencl(facts, share):
    assert opencl._float64_share(SimpleNamespace(**facts)) == share
    limits = gpu_limits(8, 2**34, float64_share=share)
    slow = replace(GPU, float64_share=share, limits=limits).has_slow_float64
    assert slow == (0 < share < 1 / 8)
    assert (limits.pairs_from < 10**6) == slow, "pairs of leaves pay where float64 is slow"


def program(groups, items):
    arguments = (("n", "number", "int32"), ("out", "array", "float64"))
    return CompiledOperator("p2p", "", "f", arguments, groups, items, (), (), ())


@pytest.mark.parametrize(
    ("groups", "items", "expected"),
    [
        (("n",), (4,), ((6,), (4,))),
        (("n", "2 + n"), (4,), ((6, 8), (4, 1))),
        (("n",), (4, 8), ((6, 1), (4, 8))),
        (("1",), (4, 2, 3), ((1, 1, 1), (4, 2, 3))),
        (("n",), (), ((6,), (1,))),
    ],
)
def test_sizes_of_a_launch(groups, items, expected):
    assert launch_sizes(program(groups, items), {"n": 6, "out": None}, CPU_LIMITS) == expected


def test_launches_that_the_device_does_not_allow():
    limits = Limits(most_groups=(100, 5))
    assert launch_sizes(program(("n", "5", "9"), ()), {"n": 100}, limits)[0] == (100, 5, 9)
    with pytest.raises(fl.DeviceError, match="^p2p has 6 work-groups on axis 1, expected 5 at most; "):
        launch_sizes(program(("1", "n"), ()), {"n": 6}, limits)


def test_arrays_that_indices_do_not_reach():
    check_size((1000, 1000), CPU_LIMITS)
    with pytest.raises(fl.DeviceError, match=r"^an array of shape \(65536, 32768\) has more than 2\^31 numbers; use"):
        check_size((2**16, 2**15), CPU_LIMITS)


def test_arrays_of_cpus_begin_at_a_page_and_are_kept_until_launches_end(opencl_device, monkeypatch):
    if opencl_device.kind != CPU:
        pytest.skip("not in host memory")
    waited = []
    monkeypatch.setattr(opencl, "_finish", lambda queue, process: waited.append(process))
    runtime = make_runtime(opencl_device)
    values = np.arange(1000, dtype=np.float32).reshape(10, 100)
    array = runtime.upload(values)
    memory = array.data.get_host_array((1000,), np.float32)
    assert memory.ctypes.data % mmap.PAGESIZE == 0
    assert np.array_equal(memory, values.ravel())
    assert np.array_equal(runtime.read(array), values)
    assert not runtime.read(runtime.zeros((3, 5), np.float64)).any()
    before = len(waited)
    del array, memory
    assert waited[before:] == [os.getpid()]


def test_simulators_see_where_arrays_end(monkeypatch):
    """What is beyond the padding is no memory of the array."""
    device = next((device for device in find_devices() if device.backend == "opencl" and device.kind == CPU), None)
    if device is None:
        pytest.skip("no CPU through OpenCL")
    monkeypatch.setattr(Device, "is_simulator", property(lambda device: True))
    assert make_runtime(device, padding=0).zeros((3,), np.float64).data.size == 24


@pytest.mark.parametrize("device", devices(simulators=True))
def test_kernel_with_more_local_axes_than_groups_runs(device):
    """Each work-group on one axis writes a block of 4 x 8 numbers."""
    if not backend_of(device).has_groups:
        pytest.skip("no work-groups")
    knl = lp.make_kernel(
        "{[b, i, j]: 0 <= b < n and 0 <= i < 4 and 0 <= j < 8}",
        "out[b, i, j] = 100*b + 10*i + j",
        [lp.GlobalArg("out", np.float32, shape=("n", 4, 8)), lp.ValueArg("n", np.int32)],
        name="blocks",
        lang_version=lp.MOST_RECENT_LANGUAGE_VERSION,
    )
    knl = lp.tag_inames(knl, {"b": "g.0", "i": "l.1", "j": "l.0"})
    code = generate_code(P2P, knl, SEQUENTIAL, device, ("blocks",))
    assert (len(code.global_size), len(code.local_size)) == (1, 2)
    runtime = make_runtime(device)
    out = runtime.zeros((5, 4, 8), np.float32)
    runtime.run([runtime.bind(code, {"out": out, "n": 5})])
    b, i, j = np.ogrid[:5, :4, :8]
    assert np.array_equal(runtime.read(out), 100 * b + 10 * i + j)


# -- backends


def test_backends_are_told_apart():
    assert len({backend.name for backend in BACKENDS}) == len(BACKENDS)
    assert {device.backend for device in find_devices()} <= {backend.name for backend in BACKENDS}
    assert [bool(backend.last_resort) for backend in BACKENDS] == [False] * (len(BACKENDS) - 1) + [True]


def test_a_backend_is_all_that_a_device_needs(monkeypatch, tmp_path):
    """A copy of the C backend under another name: found, ranked, compiled for, launched, and looked into."""
    if c_compiler() is None:
        pytest.skip("no C compiler")

    class Other(type(backend_of(C_DEVICE))):
        name = "other"
        last_resort = ""

        def find_devices(self):
            return [replace(C_DEVICE, backend="other", description="other GPU", kind="gpu", name="Other")]

    backends = (*BACKENDS, Other())
    monkeypatch.setattr("fmmloopy.execution.backends.BACKENDS", backends)
    monkeypatch.setattr("fmmloopy.execution.devices.BACKENDS", backends)
    find_devices.cache_clear()
    try:
        assert choose_device().backend == "other"
        fmm = fl.Fmm(POINTS, order=4, ncrit=500, recipes="sequential")
        potentials = fmm.evaluate(CHARGES)
    finally:
        monkeypatch.undo()
        find_devices.cache_clear()
    assert fmm.device.name == "Other"
    expected = fl.direct(POINTS, CHARGES)
    assert np.linalg.norm(potentials - expected) <= 1e-13 * np.linalg.norm(expected)


# -- what wheels hide


@pytest.fixture
def prefix(monkeypatch, tmp_path):
    """An environment without runtimes, and a system that announces one."""
    (tmp_path / "env/etc/OpenCL/vendors").mkdir(parents=True)
    (tmp_path / "env/lib").mkdir()
    (tmp_path / "system").mkdir()
    (tmp_path / "system/pocl.icd").write_text("libpocl.so.2\n")
    monkeypatch.setattr("sys.prefix", str(tmp_path / "env"))
    monkeypatch.setattr("fmmloopy.execution.backends.opencl_loader.SYSTEM_VENDORS", tmp_path / "system")
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
    show_hidden_runtimes()
    vendors = Path(os.environ["OCL_ICD_VENDORS"])
    assert {path.name: path.read_text().strip() for path in vendors.iterdir()} == {
        "fmmloopy_moved.icd": str(prefix / "lib/libmoved.so"),
        "pocl.icd": "libpocl.so.2",
    }
    announce(prefix, "second", "libsecond.so", "libsecond.so")
    show_hidden_runtimes()
    assert "fmmloopy_second.icd" in os.listdir(os.environ["OCL_ICD_VENDORS"]), "what a parent process has set stays"


def test_nothing_is_set_where_nothing_is_hidden(prefix):
    show_hidden_runtimes()
    assert "OCL_ICD_VENDORS" not in os.environ
    assert not (prefix.parent / "cache").exists()


def test_runtime_whose_libraries_are_missing_stays_hidden(prefix):
    """Intel's without its other package; the loader would drop it, after a complaint."""
    announce(prefix, "intel", "libintelocl.so", "libintelocl.so")
    with pytest.raises(OSError, match="libimf.so: cannot open shared object file"):
        load_needed(hidden_runtimes()["intel.icd"])
    announce(prefix, "other", "libother.so", "libother.so")
    show_hidden_runtimes()
    assert sorted(os.listdir(os.environ["OCL_ICD_VENDORS"])) == ["fmmloopy_other.icd", "pocl.icd"]


def test_choice_of_the_user_is_left_alone(prefix, monkeypatch):
    announce(prefix, "moved", "libmoved.so", "libmoved.so")
    monkeypatch.setenv("OCL_ICD_VENDORS", "/somewhere")
    show_hidden_runtimes()
    assert os.environ["OCL_ICD_VENDORS"] == "/somewhere"
    assert not (prefix.parent / "cache").exists()


def test_runtimes_are_shown_from_a_temporary_folder_if_the_cache_cannot_be_written(prefix, monkeypatch):
    announce(prefix, "moved", "libmoved.so", "libmoved.so")
    (prefix.parent / "file").write_text("")
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(prefix.parent / "file" / "cache"))
    show_hidden_runtimes()
    vendors = Path(os.environ["OCL_ICD_VENDORS"])
    assert vendors.is_relative_to(temporary_folder())
    assert "fmmloopy_moved.icd" in os.listdir(vendors)


def test_runtimes_stay_hidden_where_nothing_can_be_written(prefix, monkeypatch):
    def fail():
        raise OSError("no folder for temporary files can be written")

    announce(prefix, "moved", "libmoved.so", "libmoved.so")
    (prefix.parent / "file").write_text("")
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(prefix.parent / "file" / "cache"))
    monkeypatch.setattr(opencl_loader, "temporary_folder", fail)
    show_hidden_runtimes()
    assert "OCL_ICD_VENDORS" not in os.environ


def plant_a_file(vendors):
    (vendors / "harmful.icd").write_text("/tmp/libharmful.so")


def open_the_folder(vendors):
    vendors.chmod(0o777)


def open_a_file(vendors):
    (vendors / "fmmloopy_moved.icd").chmod(0o666)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="this system has no owners of files")
@pytest.mark.parametrize("plant", [plant_a_file, open_the_folder, open_a_file])
@pytest.mark.filterwarnings("ignore:the cache is not used")
def test_runtimes_that_somebody_has_planted_are_not_shown(prefix, plant):
    announce(prefix, "moved", "libmoved.so", "libmoved.so")
    show_hidden_runtimes()
    vendors = Path(os.environ.pop("OCL_ICD_VENDORS"))
    plant(vendors)
    show_hidden_runtimes()
    assert Path(os.environ["OCL_ICD_VENDORS"]) != vendors
    assert sorted(os.listdir(os.environ["OCL_ICD_VENDORS"])) == ["fmmloopy_moved.icd", "pocl.icd"]


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

    def fail():
        raise RuntimeError("clGetPlatformIDs failed: PLATFORM_NOT_FOUND_KHR")

    monkeypatch.setattr(cl, "get_platforms", fail)
    assert OpenCLBackend().find_devices() == []


def test_compiler_of_the_user_comes_first(monkeypatch, tmp_path):
    """And one that is not there is passed over."""
    compiler = tmp_path / "mycc"
    compiler.write_text("#!/bin/sh\nexit 3\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    assert CRuntime(C_DEVICE, 0)._compiler == str(compiler)
    monkeypatch.setenv("CC", str(tmp_path / "none"))
    if c_compiler() is not None:
        assert CRuntime(C_DEVICE, 0)._compiler in ("cc", "gcc", "clang")


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
