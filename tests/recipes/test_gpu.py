"""The book for GPUs: which devices it is for, that its kernels fit a GPU, and that every barrier in them is needed."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from conftest import STOKES, error, made_up_device, made_up_nvidia, made_up_pocl, slow_but, specification

import fmmloopy as fl
from fmmloopy.checking.case import POLYNOMIALS, run_case
from fmmloopy.checking.cases import make_case
from fmmloopy.checking.real_cases import real_case
from fmmloopy.common.isolation import ChildError, Worker
from fmmloopy.execution.backends.cuda_emulator import EMULATED_DEVICE
from fmmloopy.execution.device import DeviceError, gpu_limits
from fmmloopy.execution.devices import C_DEVICE
from fmmloopy.execution.generate import compile_operator
from fmmloopy.execution.key import CodeKey
from fmmloopy.execution.runtime import make_runtime
from fmmloopy.operators import OPERATORS
from fmmloopy.recipes import SEQUENTIAL, RecipeError, shipped_books

BOOK = shipped_books()["gpu"]

BARRIER = "__syncthreads()"

STAGED = ("p2p", "p2p_mutual", "m2m", "m2l_forward", "m2l_inverse", "m2l_hadamard", "m2l_svd")
"""One operator of each recipe that has barriers."""


def code_of(operator, greens=None, order=3, types="float64", book=BOOK, parameters=None):
    spec = specification(operator, greens, order, types)
    return compile_operator(CodeKey(spec, book, EMULATED_DEVICE, parameters or {}))


def test_devices_of_the_book():
    amd = made_up_device("GPU", "AMD Accelerated Parallel Processing", "OpenCL 2.1", "gfx90a")
    assert all(BOOK.suits(device) for device in (EMULATED_DEVICE, made_up_nvidia(), amd))
    assert not any(BOOK.suits(device) for device in (C_DEVICE, made_up_pocl("3.1+debian")))
    assert set(BOOK.recipes) == set(OPERATORS)


def test_wavefronts_of_64_are_full():
    """Groups of one tile have as many work-items as run as one."""
    amd = replace(made_up_device("GPU", "AMD Accelerated Parallel Processing", "OpenCL 2.1", "gfx90a"), width=64)
    for device in (amd, EMULATED_DEVICE):
        for operator in ("p2p", "p2m", "p2l", "l2p", "m2p", "m2l_svd"):
            code = compile_operator(CodeKey(specification(operator), BOOK, device, {}))
            assert code.local_size == (device.width,)


@pytest.mark.parametrize(("greens", "items"), [(POLYNOMIALS[0], 32), (STOKES, 32), (STOKES.for_vectors(2), 16)])
def test_sums_of_pairs_of_leaves_fit_in_local_memory(greens, items):
    """Functions with six sums get half as many work-items."""
    code = code_of("p2p_mutual", greens)
    sizes = re.findall(r"__shared__ double \w+\[([\d* +]+)\]", code.source)
    assert len(sizes) == greens.ntarget_components * greens.vectors
    assert 8 * sum(eval(size) for size in sizes) <= 48 * 1024
    assert code.local_size == (items,)


def test_roots_of_another_kind():
    with pytest.raises(RecipeError, match="roots is 'newton', expected 'seeded' or 'sqrt'"):
        code_of("p2p", parameters={"roots": "newton"})


def wrong(code, case, expected=None):
    """Say what is wrong with a program; "" if nothing is."""
    try:
        found = run_case(case, code, make_runtime(EMULATED_DEVICE))
    except DeviceError as error:
        return str(error)
    same = all(np.array_equal(found[name], values, equal_nan=True) for name, values in (expected or {}).items())
    return "" if same else "results differ"


def without_barrier(source, number):
    """Return a program without one of its barriers."""
    place = [match.start() for match in re.finditer(re.escape(BARRIER), source)][number]
    return source[:place] + "(void) 0" + source[place + len(BARRIER) :]


def cases(operator):
    """Return small and larger inputs with the results of the sequential kernel."""
    runtime = make_runtime(EMULATED_DEVICE)
    for seed in range(2):
        case = make_case(specification(operator, POLYNOMIALS[0]), seed)
        yield case, run_case(case, code_of(operator, POLYNOMIALS[0], book=SEQUENTIAL), runtime)


@pytest.mark.parametrize("operator", slow_but(lambda operator: operator in ("p2p", "m2m", "m2l_hadamard"), STAGED))
def test_every_barrier_is_needed(operator):
    """Between two directions of M2L, only real numbers tell: sums of whole numbers are the same in any order."""
    whole, real = code_of(operator, POLYNOMIALS[0]), code_of(operator)
    inputs, rounded = list(cases(operator)), real_case(specification(operator))
    assert all(wrong(whole, case, expected) == "" for case, expected in inputs)
    assert wrong(real, rounded) == ""
    assert whole.source.count(BARRIER) == real.source.count(BARRIER) > 0
    for number in range(real.source.count(BARRIER)):
        mutant = replace(whole, source=without_barrier(whole.source, number))
        if not any(wrong(mutant, case, expected) for case, expected in inputs):
            mutant = replace(real, source=without_barrier(real.source, number))
            assert "depends on the order" in wrong(mutant, rounded), f"barrier {number}"


@pytest.mark.parametrize("operator", ["m2l_forward", "m2l_hadamard", "m2l_inverse"])
def test_spectra_with_octets_last(operator):
    code = code_of(operator, POLYNOMIALS[0], parameters={"octets_last": True})
    assert {order[-2:] for _, order in code.layouts} in ({(5, 4)}, {(3, 2)})
    for case, expected in cases(operator):
        assert not wrong(code, case, expected)
        assert wrong(replace(code, layouts=()), case, expected)


def test_a_barrier_in_a_branch():
    code = code_of("p2p", POLYNOMIALS[0])
    case, expected = next(cases("p2p"))
    mutant = replace(code, source=code.source.replace(BARRIER, f"if (threadIdx.x < 16) {BARRIER}", 1))
    assert re.search("work-items (end|wait)", wrong(mutant, case, expected))


def test_a_tile_that_is_too_small_for_its_sources():
    code = code_of("p2p", POLYNOMIALS[0])
    case, _ = next(cases("p2p"))
    source, changed = re.subn(r"(__shared__ double source_tile)\[[^;]*\]", r"\1[3 * 31]", code.source)
    assert changed == 1
    with Worker() as worker, pytest.raises(ChildError, match="SIG|signal"):
        worker.call(_run, case, replace(code, source=source), limit=60)


def _run(stage, case, code):
    run_case(case, code, make_runtime(EMULATED_DEVICE))


def test_a_matrix_that_only_some_work_items_stage():
    code = code_of("m2m", POLYNOMIALS[0])
    case, expected = next(cases("m2m"))
    (line,) = [line for line in code.source.splitlines() if "table_tile[" in line and " = table[" in line]
    mutant = replace(code, source=code.source.replace(line, f"if (threadIdx.x < 32) {line}"))
    assert wrong(mutant, case, expected)


@pytest.mark.parametrize("operator", STAGED)
def test_only_the_first_axis_of_groups_grows_with_the_problem(operator):
    """The others end at 65,535: they have tiles of rows, frequencies or siblings."""
    _, *others = code_of(operator).global_size
    assert set(re.findall(r"[a-z]\w*", " ".join(others))) <= {"itiles", "f_start", "f_end"}


@pytest.mark.parametrize("order", [9, 12, 16])
@pytest.mark.parametrize("operator", ["m2l_forward", "m2l_inverse"])
def test_planes_of_all_orders_fit_in_local_memory(operator, order):
    """The siblings of an octet are shared out among groups as the order grows."""
    code = code_of(operator, order=order)
    sizes = re.findall(r"__shared__ double \w+\[([\d* +]+)\]", code.source)
    assert 8 * sum(eval(size) for size in sizes) <= 48 * 1024
    assert len(code.global_size) == 2


@pytest.mark.filterwarnings("ignore::fmmloopy.UncertifiedWarning")
def test_seeded_roots_are_right_to_two_units_in_the_last_place(rng):
    """The seed is rounded to the upper half of a number, as that of NVIDIA's unit, before it is corrected."""
    points, charges = rng.random((2, 3)), np.array([1.0, 0.0])
    fmm = fl.Fmm(points, order=3, ncrit=10, m2l="fft", device=EMULATED_DEVICE, recipes="gpu")
    assert fmm.evaluate(charges)[1] == pytest.approx(fl.direct(points, charges)[1], rel=5e-16)


@pytest.mark.filterwarnings("ignore::fmmloopy.UncertifiedWarning")
@pytest.mark.parametrize("precision", slow_but(lambda name: name == "mixed", ["single", "mixed", "double"]))
def test_a_whole_evaluation_with_gradients_of_three_vectors(rng, precision):
    """At order 3 the method leaves errors of 1e-2, and of twice that in gradients; float32 adds nothing to these."""
    points, charges = rng.random((120, 3)), rng.random((120, 3))
    fmm = fl.Fmm(points, order=3, ncrit=12, m2l="fft", device=EMULATED_DEVICE, recipes="gpu", precision=precision)
    found, expected = fmm.evaluate(charges, gradient=True), fl.direct(points, charges, gradient=True)
    assert len(fmm.timings) > 8
    for values, right in zip(found, expected, strict=True):
        for vector in range(3):
            assert error(values[..., vector], right[..., vector]) < 3e-2


@pytest.mark.filterwarnings("ignore::fmmloopy.UncertifiedWarning")
def test_pairs_of_leaves_are_evaluated_for_both_where_float64_is_slow(rng):
    """The far field is the same; the near pairs of a point, a few hundred, are added in another order."""
    points, charges, found = rng.random((200, 3)), rng.random(200), []
    for share in (1 / 2, 1 / 64):
        limits = gpu_limits(1, 0, float64_share=share)
        limits = replace(limits, pairs_from=limits.pairs_from // 10**6)  # 200 points are few
        device = replace(EMULATED_DEVICE, float64_share=share, limits=limits)
        fmm = fl.Fmm(points, order=3, ncrit=12, m2l="fft", device=device, recipes="gpu")
        found.append(fmm.evaluate(charges))
        assert ("p2p_mutual" in fmm.timings) == (share < 0.1)
    assert found[1] == pytest.approx(found[0], rel=1e-13)
