"""The CUDA backend: devices and errors with a made-up driver, machine code by NVRTC, and GPUs where there are any."""

from __future__ import annotations

import multiprocessing
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import error, slow_but, specification
from made_up_cuda import MadeUpDriver, made_up_driver

import fmmloopy as fl
from fmmloopy.common.store import cache_folder
from fmmloopy.execution.backends import cuda, nvrtc
from fmmloopy.execution.backends.cuda import GRAPH_VARIABLE, VISIBLE_VARIABLE, CudaBackend
from fmmloopy.execution.backends.cuda_emulator import EMULATED_DEVICE
from fmmloopy.execution.backends.cuda_text import PRELUDE
from fmmloopy.execution.device import GPU, NEVER
from fmmloopy.execution.devices import DeviceError, choose_device, find_devices
from fmmloopy.execution.generate import compile_operator
from fmmloopy.execution.key import CodeKey
from fmmloopy.execution.launch import CompiledOperator
from fmmloopy.execution.runtime import make_runtime
from fmmloopy.operators import OPERATORS
from fmmloopy.precision import DTYPE_NAMES
from fmmloopy.recipes.book import SEQUENTIAL

__all__ = ["made_up_driver"]

HAS_NVRTC = cuda.has_packages()
"""Whether programs can be compiled for GPUs here."""

KERNELS = sorted({(name, each.types_in(p).name) for name, each in OPERATORS.items() for p in DTYPE_NAMES.values()})
"""Every operator in all types of numbers that it has in some precision."""

GPUS = [device for device in find_devices() if device.backend == "cuda"]
"""GPUs of this machine."""

needs_nvrtc = pytest.mark.skipif(not HAS_NVRTC, reason=f"NVRTC is not installed: {nvrtc.INSTALL}")
needs_gpu = pytest.mark.skipif(not GPUS, reason=f"no GPU: {CudaBackend().trouble()}")


@pytest.fixture
def gpu(made_up_driver):
    """The made-up GPU."""
    return CudaBackend().find_devices()[0]


ADD = CompiledOperator(
    "add",
    'extern "C" __global__ void add(double *x, int const n, double const a)\n'
    "{ x[blockIdx.x * blockDim.x + threadIdx.x] += a; }\n",
    "add",
    (("x", "array", "float64"), ("n", "number", "int32"), ("a", "number", "float64")),
    ("n",),
    (4,),
    (),
    (),
    (),
)


# -- devices


def test_what_the_driver_says_of_a_gpu(gpu):
    assert gpu.description == "cuda GPU NVIDIA H200 sm_90 132 SMs 141 GiB"
    assert (gpu.kind, gpu.runtime, gpu.vendor, gpu.version, gpu.cores) == (GPU, "cuda", "nvidia", (9, 0), 132)
    assert (gpu.width, gpu.memory, gpu.float64_share) == (32, 141 * 2**30, 0.5)
    assert gpu.limits.most_groups == (2**31 - 1, 65_535, 65_535)
    assert (gpu.has_slow_float64, gpu.limits.pairs_from) == (False, NEVER)
    assert gpu.driver == "CUDA 13.5, NVRTC 13.5"


def test_gpus_come_first(made_up_driver, monkeypatch):
    find_devices.cache_clear()
    try:
        assert choose_device().backend == "cuda"
        assert choose_device("h200").backend == "cuda"
        assert [device.backend for device in find_devices()].count("cuda") == 1
    finally:
        find_devices.cache_clear()


def test_two_equal_gpus_have_descriptions_of_their_own(made_up_driver):
    made_up_driver.devices = 2
    first, second = CudaBackend().find_devices()
    assert (second.name, second.description) == (first.name, f"{first.description} number 1")


def old_driver(driver: MadeUpDriver) -> None:
    driver.supported = 12_040


def hidden(driver: MadeUpDriver) -> None:
    driver.devices = 0


def old_gpu(driver: MadeUpDriver) -> None:
    driver.capability = (7, 0)


def broken(driver: MadeUpDriver) -> None:
    driver.failing = "get_all_devices", "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (old_driver, 'is for CUDA 12.4, but the packages are for CUDA 13; update .* `pip install "cuda-bindings==12'),
        (hidden, r"^\$CUDA_VISIBLE_DEVICES is '-1' and hides all GPUs; unset it$"),
        (old_gpu, "^NVIDIA H200 has compute capability 7.0, but NVRTC 13.5 needs 7.5 at least; `pip install"),
        (broken, "^CUDA cannot be used: CUDA_ERROR_SYSTEM_DRIVER_MISMATCH: this is what"),
    ],
)
def test_why_there_is_no_gpu(made_up_driver, monkeypatch, change, message):
    change(made_up_driver)
    monkeypatch.setenv(VISIBLE_VARIABLE, "-1")
    assert CudaBackend().find_devices() == []
    reason = CudaBackend().trouble()
    assert re.search(message, reason)
    find_devices.cache_clear()
    try:
        with pytest.raises(DeviceError, match=re.escape(f"no device matches 'cuda' ({reason}); there are ")):
            choose_device("cuda")
    finally:
        find_devices.cache_clear()


def test_no_driver_and_no_packages(monkeypatch):
    monkeypatch.setattr(cuda, "has_driver", lambda: False)
    assert CudaBackend().trouble() == "no NVIDIA driver was found"
    monkeypatch.setattr(cuda, "has_driver", lambda: True)
    monkeypatch.setattr(cuda, "has_packages", lambda: False)
    assert CudaBackend().trouble() == (
        'an NVIDIA driver was found, but not cuda.core; `pip install "fmmloopy[cuda]"` installs it'
    )


def test_cuda_is_imported_only_where_there_is_a_driver():
    program = """
import sys
import fmmloopy.execution.backends.cuda as cuda
cuda.has_driver = lambda: False
from fmmloopy.execution.devices import find_devices
find_devices()
assert not any(name.split(".")[0] == "cuda" for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


# -- launches


def test_arrays_and_launches(gpu):
    runtime = make_runtime(gpu)
    x = runtime.upload(np.arange(12.0))
    assert np.array_equal(runtime.read(runtime.zeros((3, 4), np.int32)), np.zeros((3, 4)))
    seconds = runtime.run([runtime.bind(ADD, {"x": x, "n": 3, "a": 0.5}), runtime.bind(ADD, {"x": x, "n": 1, "a": 2})])
    assert np.array_equal(runtime.read(x), np.arange(12) + 0.5 + 2 * (np.arange(12) < 4))
    assert seconds == {"add": 0.002}
    runtime.run([runtime.clear(x)])
    assert not runtime.read(x).any()


def test_rows_of_arrays_come_and_go(gpu):
    runtime, values = make_runtime(gpu), np.arange(60.0).reshape(10, 2, 3)
    array, rows = runtime.upload(values), np.array([1, 2, 3, 7, 9])
    assert np.array_equal(runtime.read(array, rows), values[rows])
    runtime.write(array, -values[rows], rows)
    values[rows] *= -1
    assert np.array_equal(runtime.read(array), values)
    assert runtime.read(array, rows[:0]).shape == (0, 2, 3)


def test_launches_run_while_the_host_does_something_else(gpu, made_up_driver):
    runtime = make_runtime(gpu)
    x = runtime.upload(np.zeros(4))
    finish = runtime.start([runtime.bind(ADD, {"x": x, "n": 1, "a": 1.0})])
    assert made_up_driver.launched == ["add"]
    assert finish() == {"add": 0.001}


def test_a_launch_without_groups_does_nothing(gpu, made_up_driver):
    runtime = make_runtime(gpu)
    x = runtime.upload(np.arange(4.0))
    runtime.run([runtime.bind(ADD, {"x": x, "n": 0, "a": 1.0})])
    assert made_up_driver.launched == []
    assert np.array_equal(runtime.read(x), np.arange(4))


def test_launches_become_a_graph_when_they_are_run_again(gpu, made_up_driver, monkeypatch):
    monkeypatch.setenv(GRAPH_VARIABLE, "1")
    runtime = make_runtime(gpu)
    x = runtime.upload(np.zeros(8))
    launches = [runtime.clear(x), *(runtime.bind(ADD, {"x": x, "n": n, "a": 1.0}) for n in (1, 2))]
    for _ in range(3):
        assert runtime.run(launches) == pytest.approx({"clear": 0.001, "add": 0.002})
        assert np.array_equal(runtime.read(x), [2, 2, 2, 2, 1, 1, 1, 1])
    assert made_up_driver.launched == ["add", "add"]


def test_too_many_work_items_or_groups(gpu):
    runtime = make_runtime(gpu)
    x = runtime.zeros((4,), np.float64)
    many = CompiledOperator(*(getattr(ADD, name) if name != "local_size" else (64, 32) for name in vars(ADD)))
    with pytest.raises(DeviceError, match="^add has 2048 work-items in a group, expected 1024 at most; use fewer"):
        runtime.bind(many, {"x": x, "n": 1, "a": 1.0})


@pytest.mark.parametrize(
    ("failing", "message"),
    [
        (
            ("allocate", "CUDA_ERROR_OUT_OF_MEMORY"),
            "^NVIDIA H200 cannot allocate 8 MiB: out of memory; use fewer points",
        ),
        (
            ("launch", "CUDA_ERROR_ILLEGAL_ADDRESS"),
            r"^NVIDIA H200 cannot run the operators \(CUDA_ERROR_ILLEGAL_ADDRESS",
        ),
        (("launch", "CUDA_ERROR_LAUNCH_FAILED"), "this process has lost the device: start a new one$"),
    ],
)
def test_errors_of_the_driver(gpu, made_up_driver, failing, message):
    runtime = make_runtime(gpu)
    x = runtime.zeros((4,), np.float64)
    launch = runtime.bind(ADD, {"x": x, "n": 1, "a": 1.0})
    made_up_driver.failing = failing
    call = (
        (lambda: runtime.zeros((2**20,), np.float64)) if failing[0] == "allocate" else (lambda: runtime.run([launch]))
    )
    with pytest.raises(DeviceError, match=message):
        call()


def test_a_pickled_device_is_found_again(gpu, made_up_driver):
    again = pickle.loads(pickle.dumps(gpu))
    assert again.handle is None
    assert make_runtime(again).device.handle is not None
    made_up_driver.devices = 0
    with pytest.raises(DeviceError, match="was not found: no NVIDIA GPU was found; fmmloopy.find_devices"):
        make_runtime(again)


def _use(runtime, pipe):
    try:
        runtime.zeros((4,), np.float64)
    except DeviceError as error:
        pipe.send(str(error))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this system")
def test_a_forked_process_cannot_use_the_gpu(gpu):
    runtime = make_runtime(gpu)
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=_use, args=(runtime, theirs))
    child.start()
    child.join(30)
    assert ours.poll(1)
    assert ours.recv().startswith("CUDA was used before this process was forked")


@pytest.mark.parametrize("graph", ["", "1"])
def test_a_whole_evaluation(gpu, made_up_driver, monkeypatch, rng, graph):
    """From points to potentials, through every operator's CUDA text: sequential, so that only launching is new."""
    monkeypatch.setenv(GRAPH_VARIABLE, graph)
    points, charges = rng.random((300, 3)), rng.random((2, 300))
    fmm = fl.Fmm(points, order=4, ncrit=20, m2l="fft", device=gpu, recipes="sequential")
    for some in (*charges, charges[0]):
        assert error(fmm.evaluate(some), fl.direct(points, some)) < 1e-3
    counts = {name: made_up_driver.launched.count(name) for name in set(made_up_driver.launched)}
    assert all(count % (1 if graph else 3) == 0 for count in counts.values())
    assert set(fmm.timings) >= {"p2p", "m2l_hadamard"}


# -- machine code


@needs_nvrtc
@pytest.mark.parametrize(
    ("operator", "types"), slow_but(lambda *row: row in {("p2p", "mixed"), ("m2l_forward", "float32")}, KERNELS)
)
def test_every_operator_compiles(operator, types):
    code = compile_operator(CodeKey(specification(operator, types=types), SEQUENTIAL, EMULATED_DEVICE))
    for architecture in ("sm_80", "sm_90"):
        assert nvrtc.compile_cubin(code.source, architecture, operator).startswith(b"\x7fELF")


@needs_nvrtc
def test_machine_code_is_kept(own_cache, monkeypatch):
    source = PRELUDE + ADD.source
    code = nvrtc.compile_cubin(source, "sm_90", "add")
    (path,) = (cache_folder() / "cuda").iterdir()
    monkeypatch.setattr(nvrtc, "_compiled", lambda *_: b"another")
    assert nvrtc.compile_cubin(source, "sm_90", "add") == code
    assert nvrtc.compile_cubin(source, "sm_80", "add") == b"another"
    path.write_bytes(b"damaged")
    assert nvrtc.compile_cubin(source, "sm_90", "add") == b"another"


@needs_nvrtc
def test_a_program_that_nvrtc_refuses():
    with pytest.raises(DeviceError, match=r'^NVRTC cannot compile p2p: p2p.cu\(1\): error: .*"y" is undefined'):
        nvrtc.compile_cubin('extern "C" __global__ void f(int *x) { *x = y; }', "sm_90", "p2p")


@pytest.mark.skipif(HAS_NVRTC, reason="NVRTC is installed")
def test_without_nvrtc():
    with pytest.raises(DeviceError, match=r'^NVRTC is not installed .*`pip install "fmmloopy\[cuda\]"` installs it$'):
        nvrtc.load()


# -- GPUs


@needs_gpu
@pytest.mark.parametrize("graph", ["", "1"])
@pytest.mark.parametrize("precision", ["double", "single", "mixed"])
def test_an_evaluation_on_a_gpu(monkeypatch, rng, precision, graph):
    monkeypatch.setenv(GRAPH_VARIABLE, graph)
    points, charges = rng.random((20_000, 3)), rng.random((2, 20_000))
    fmm = fl.Fmm(points, order=6, ncrit=100, m2l="fft", device=GPUS[0], precision=precision)
    sample = np.arange(0, 20_000, 100)
    for some in (*charges, charges[0]):
        assert error(fmm.evaluate(some)[sample], fl.direct(points, some, points[sample])) < 1e-4


@needs_gpu
def test_an_array_that_no_gpu_has_memory_for():
    runtime = make_runtime(GPUS[0])
    fitting = GPUS[0].memory // 2**33 + 1
    with pytest.raises(DeviceError, match="cannot allocate 8192 MiB: out of memory"):
        [runtime.zeros((2**30 - 512,), np.float64) for _ in range(fitting)]
