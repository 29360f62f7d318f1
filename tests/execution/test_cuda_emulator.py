"""The emulated CUDA GPU: it runs CUDA text, and finds what is wrong with the work-items of a program."""

from __future__ import annotations

import loopy as lp
import numpy as np
import pytest
from conftest import needs_cpp, slow_but

from fmmloopy.checking.check import _sanitizer
from fmmloopy.checking.layers import check_operator
from fmmloopy.checking.request import SIMULATED, Request
from fmmloopy.common.isolation import ChildError, Worker
from fmmloopy.execution.backends.cuda_emulator import EMULATED_DEVICE
from fmmloopy.execution.devices import DeviceError, choose_device, find_devices
from fmmloopy.execution.generate import generate_code
from fmmloopy.execution.launch import CompiledOperator
from fmmloopy.execution.runtime import make_runtime
from fmmloopy.operators import P2P
from fmmloopy.recipes.book import SEQUENTIAL
from fmmloopy.recipes.load import load_recipes

pytestmark = needs_cpp

ITEMS = 8


def test_it_is_used_only_if_it_is_named():
    assert EMULATED_DEVICE not in find_devices()
    for which in ("emulated", "Emulated CUDA", EMULATED_DEVICE.description):
        assert choose_device(which) is EMULATED_DEVICE
    for which in ("cuda", "emulation", "gpu (as"):
        with pytest.raises(DeviceError, match=f"^no device matches '{which}'".replace("(", r"\(")):
            choose_device(which)


def program(body: str, local: int = ITEMS) -> CompiledOperator:
    """Return a program whose groups have eight work-items and eight numbers each, x, and t of all work-items."""
    source = (
        'extern "C" __global__ void __launch_bounds__(8) f(double *__restrict__ x, int const n)\n'
        f"{{ __shared__ double tile[{local}]; int const t = threadIdx.x, i = {ITEMS} * blockIdx.x + t; {body} }}\n"
    )
    return CompiledOperator(
        "f", source, "f", (("x", "array", "float64"), ("n", "number", "int32")), ("n",), (ITEMS,), (), (), (), ()
    )


def run(code: CompiledOperator, groups: int = 3) -> np.ndarray:
    """Run a program on 0, 1, ..."""
    runtime = make_runtime(EMULATED_DEVICE)
    x = runtime.upload(np.arange(float(ITEMS * groups)))
    runtime.run([runtime.bind(code, {"x": x, "n": groups})])
    return runtime.read(x)


def test_barriers_order_work_items():
    """Each work-item takes the number of its neighbour: eight fibres, three groups, three orders."""
    found = run(program(f"tile[t] = x[i]; __syncthreads(); x[i] = tile[(t + 1) % {ITEMS}];"))
    assert np.array_equal(found, np.roll(np.arange(24.0).reshape(3, 8), -1, axis=1).ravel())


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (f"tile[t] = x[i]; x[i] = tile[(t + 1) % {ITEMS}];", "^x depends on the order in which work-items run"),
        (
            f"for (int k = 0; k < 2; ++k) {{ tile[t] = x[i] + k; __syncthreads(); x[i] = tile[(t + 1) % {ITEMS}]; }}",
            "^x depends on the order",
        ),
        ("x[0] = t;", "^x depends on the order"),
        ("x[0] = x[0] + i;" + "x[i % 4] = 2 * x[i % 4] + t;", "^x depends on the order"),
        ("if (t > 3) tile[t] = 1; __syncthreads(); x[i] = tile[t];", "^x depends on the order"),
        ("if (t < 4) { tile[t] = 1; __syncthreads(); } x[i] = t;", "^some work-items end while others wait at"),
        (
            "if (t < 4) { __syncthreads(); }\n else { __syncthreads(); } x[i] = t;",
            "^work-items wait at different barriers, in lines 2 and 3$",
        ),
    ],
    ids=["no barrier", "one barrier of two", "a race", "a sum", "not written", "in a branch", "in two branches"],
)
def test_what_is_wrong_is_found(body, message):
    with pytest.raises(DeviceError, match=message):
        run(program(body))


def test_too_much_local_memory():
    body = "tile[t] = t; __syncthreads(); x[i] = tile[t];"
    with pytest.raises(DeviceError, match="^f declares 49160 bytes of local memory, expected 49152 at most; stage"):
        run(program(body, local=6145))
    assert np.array_equal(run(program(body, local=6144)), np.tile(np.arange(8.0), 3))


def _run(stage, code):
    run(code)


@pytest.mark.parametrize(
    "body", [f"tile[t + {ITEMS} - 3] = t;", "x[i] = 65536 * (65536 * n);"], ids=["tile", "32 bits"]
)
def test_programs_that_go_too_far_end_the_process(body):
    with Worker() as worker, pytest.raises(ChildError, match="SIGILL|SIGTRAP|signal"):
        worker.call(_run, program(body), limit=60)


def test_grids_and_groups_are_those_of_a_gpu():
    runtime = make_runtime(EMULATED_DEVICE)
    x = runtime.zeros((8,), np.float64)
    arguments = {"x": x, "n": 70_000}
    code = program("x[i] = t;")
    wide = CompiledOperator(*(getattr(code, n) if n != "global_size" else ("1", "n") for n in vars(code)))
    with pytest.raises(DeviceError, match="^f has 70000 work-groups on axis 1, expected 65535 at most"):
        runtime.bind(wide, arguments)
    large = CompiledOperator(*(getattr(code, n) if n != "local_size" else (2048,) for n in vars(code)))
    with pytest.raises(DeviceError, match="^f has 2048 work-items in a group, expected 1024 at most"):
        runtime.bind(large, arguments)


def test_all_axes_of_groups_and_work_items():
    knl = lp.make_kernel(
        "{[b, c, i, j]: 0 <= b < n and 0 <= c < 3 and 0 <= i < 4 and 0 <= j < 8}",
        "out[b, c, i, j] = 1000*b + 100*c + 10*i + j",
        [lp.GlobalArg("out", np.float32, shape=("n", 3, 4, 8)), lp.ValueArg("n", np.int32)],
        name="blocks",
        lang_version=lp.MOST_RECENT_LANGUAGE_VERSION,
    )
    knl = lp.tag_inames(knl, {"b": "g.0", "c": "g.1", "i": "l.1", "j": "l.0"})
    code = generate_code(P2P, knl, SEQUENTIAL, EMULATED_DEVICE, ("blocks",))
    runtime = make_runtime(EMULATED_DEVICE)
    out = runtime.zeros((5, 3, 4, 8), np.float32)
    runtime.run([runtime.bind(code, {"out": out, "n": 5})])
    b, c, i, j = np.ogrid[:5, :3, :4, :8]
    assert np.array_equal(runtime.read(out), 1000 * b + 100 * c + 10 * i + j)


def test_a_program_that_is_no_program():
    with pytest.raises(DeviceError, match=r"cannot compile f: .*y.* was not declared|undeclared"):
        run(program("x[i] = y;"))


@pytest.mark.parametrize(
    "layers", slow_but(lambda layers: "exact" in layers, [(("static", "exact"),), (("hostile", "numerical"),)])
)
def test_a_recipe_is_checked_as_cuda_text(layers):
    """Work-items of the SIMD book, in every layer that needs no other process."""
    request = Request(load_recipes("simd_cpu"), EMULATED_DEVICE, "p2m", "float32", layers=layers)
    limits = set()

    def announce(what, limit):
        if "running step" in what:
            limits.add(limit)

    assert check_operator(announce, request) is None
    assert limits == {SIMULATED * request.run_limit}


def test_where_a_check_runs():
    library, skipped = _sanitizer(EMULATED_DEVICE)
    assert library is None
    assert skipped == ["oclgrind runs OpenCL only, and this is CUDA code"] or "oclgrind was not found" in skipped[0]
