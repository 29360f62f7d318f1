"""Operators on whole-numbered data: every recipe gives the sequential kernel's bits, and that gives numpy's."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import slow

from fmmloopy.checking import cases
from fmmloopy.checking.case import EXACT_LIMIT, POLYNOMIALS, Case, identical, run_case
from fmmloopy.checking.cases import make_case
from fmmloopy.execution.devices import find_devices
from fmmloopy.execution.generate import compile_operator
from fmmloopy.execution.key import CodeKey
from fmmloopy.execution.runtime import make_runtime
from fmmloopy.operators import OPERATORS, Specification
from fmmloopy.precision import find_types
from fmmloopy.recipes import SEQUENTIAL, shipped_books

DTYPES = (np.float32, np.float64)
PARTICLE_OPERATORS = ("p2p", "p2m", "p2l", "l2p", "m2p")


def _run(case: Case, book, device):
    return run_case(case, compile_operator(CodeKey(case.spec, book, device)), make_runtime(device))


def _case(operator: str, greens, dtype=np.float64) -> Case:
    return make_case(Specification(OPERATORS[operator], greens, 3, find_types(dtype)))


def _books_and_devices():
    """Every shipped book on the device that it is for, or else on the preferred one."""
    here = [device for device in find_devices() if device.backend == "opencl" and not device.is_simulator]
    return [(book, next(filter(book.suits, here), here[0])) for book in shipped_books().values() if here]


def _operators_of_books():
    """Every operator of every book, in a quick run one book for each operator."""
    return [
        pytest.param(operator, *pair, id=f"{pair[0].name}-{operator}", marks=[] if (i + j) % len(pairs) == 0 else slow)
        for pairs in [_books_and_devices()]
        for i, operator in enumerate(OPERATORS)
        for j, pair in enumerate(pairs)
    ]


@pytest.mark.parametrize(("operator", "book", "device"), _operators_of_books())
def test_recipes_give_the_bits_of_the_sequential_kernel(operator, book, device):
    # One function in one precision, others for the next operator and book; a check has both in both.
    number = [*OPERATORS].index(operator) + [*shipped_books()].index(book.name)
    greens, dtype = POLYNOMIALS[number % 2], DTYPES[number // 2 % 2]
    case = _case(operator, greens, dtype)
    expected = _run(case, SEQUENTIAL, device)
    found = _run(case, book, device)
    limit = EXACT_LIMIT * (cases.WIDE if dtype == np.float64 and greens.nsource_components > 1 else 1)
    for name, values in expected.items():
        assert identical(found[name], values), (greens.name, np.dtype(dtype).name, name)
        assert np.nanmax(np.abs(values)) < min(limit, 2.0**53)
        # The operator has done something, and only where values may be.
        assert not identical(values, case.arguments[name])


@pytest.mark.parametrize(
    ("operator", "greens"),
    [
        # In a quick run, one function for each operator, another one for the next; a check has both.
        pytest.param(name, greens, id=f"{name}-{greens.name}", marks=[] if (i + j) % len(POLYNOMIALS) == 0 else slow)
        for i, name in enumerate(OPERATORS)
        for j, greens in enumerate(POLYNOMIALS)
    ],
)
def test_sequential_kernels_agree_across_dtypes(operator, greens, monkeypatch):
    # Partial sums that float32 could not hold would differ from those in float64.
    monkeypatch.setattr(cases, "WIDE", 1.0)
    device = find_devices()[0]
    single = _run(_case(operator, greens, np.float32), SEQUENTIAL, device)
    double = _run(_case(operator, greens), SEQUENTIAL, device)
    for name in single:
        assert identical(single[name].astype(np.float64), double[name])


def _points(case: Case, box: int, side: str):
    """Return whole-numbered coordinates of a box's points on one side, and where they are in the arrays."""
    a = case.arguments
    start, end = a[f"box_{side}_starts"][box], a[f"box_{side}_ends"][box]
    return a[f"{side}s"][:, start:end].astype(np.int64), slice(start, end)


def _surface(case: Case, box: int):
    a = case.arguments
    return a["surface"][:, : a["npoints"]].astype(np.int64) * int(a["radii"][box]) + _centre(case, box)


def _centre(case: Case, box: int):
    return case.arguments["centres"][:, box].astype(np.int64)[:, None]


def _polynomial(case: Case, d):
    """Evaluate the Green's functions of the cases, written here a second time."""
    d0, d1, d2 = d
    if case.spec.greens.name == "polynomial":
        return [[d0 * (d1 + 2) * (d2 + 3) + 2 * d1 * d1]]
    return [[d0 + 2 * d1, d2 * d2 + 1], [d0 * d1 + 3, d1 + d2 + 5 * d0]]


@pytest.mark.parametrize("operator", PARTICLE_OPERATORS)
@pytest.mark.parametrize("greens", POLYNOMIALS, ids=lambda g: g.name)
def test_sequential_particle_operators_give_the_sums_of_numpy(operator, greens):
    case = _case(operator, greens)
    a = case.arguments
    output = case.operator.outputs[0]
    expected = a[output].copy()
    for box in a["target_boxes"]:
        for source in a["lists"][a["list_starts"][box] : a["list_starts"][box + 1]]:
            if operator in ("p2m", "p2l"):
                x, where = _surface(case, box), (box, slice(None), slice(0, a["npoints"]))
            else:
                x, here = _points(case, box, "target")
                where = (slice(None), here)
            if operator in ("l2p", "m2p"):
                y, q = _surface(case, source), a["densities"][source, :, : a["npoints"]]
            else:
                y, here = _points(case, source, "source")
                q = a["charges"][:, here]
            d = x[:, :, None] - y[:, None, :]
            apart = (d * d).sum(axis=0) > 0
            for i, row in enumerate(_polynomial(case, d)):
                total = sum((np.where(apart, g, 0) * q[j].astype(np.int64)).sum(axis=1) for j, g in enumerate(row))
                expected[where][i] += 2 * total
    found = _run(case, SEQUENTIAL, find_devices()[0])[output]
    assert identical(found, expected)


@pytest.mark.parametrize("greens", POLYNOMIALS, ids=lambda g: g.name)
def test_sequential_m2m_and_l2l_give_the_products_of_numpy(greens):
    for operator, name in (("m2m", "multipoles"), ("l2l", "locals")):
        case = _case(operator, greens)
        a = case.arguments
        vectors, matrices = a[name], a["table"][a["itable"]]
        expected = vectors.copy()
        for parent in a["parents"][: a["nparents"]]:
            if operator == "m2m":
                expected[parent] = sum(vectors[a["children"][parent, c]] @ matrices[c] for c in range(8))
                continue
            for c, child in enumerate(a["children"][parent]):
                if child < a["nboxes"]:
                    expected[child] += vectors[parent] @ matrices[c]
        assert identical(_run(case, SEQUENTIAL, find_devices()[0])["result"], expected)


@pytest.mark.parametrize("greens", POLYNOMIALS, ids=lambda g: g.name)
def test_sequential_compressed_m2l_gives_the_products_of_numpy(greens):
    case = _case("m2l_svd", greens)
    a = case.arguments
    expected = a["result"].copy()
    for group in range(343 * a["nchunks"]):
        start, end = a["ktile_starts"][group % 343 : group % 343 + 2]
        right = np.moveaxis(a["right"][start:end], 1, 2).reshape(-1, a["right"].shape[1])
        left = a["left"][start:end].reshape(-1, a["left"].shape[2])
        for pair in range(a["pair_starts"][group], a["pair_starts"][group + 1]):
            target, source = a["pair_targets"][pair], a["pair_sources"][pair]
            expected[target] += a["scales"][target] * (left.T @ (right @ a["multipoles"][source]))
    assert identical(_run(case, SEQUENTIAL, find_devices()[0])["result"], expected)


@pytest.mark.parametrize("greens", POLYNOMIALS, ids=lambda g: g.name)
def test_sequential_hadamard_gives_the_products_of_numpy(greens):
    case = _case("m2l_hadamard", greens)
    a = case.arguments
    kernel, m = a["Kr"] + 1j * a["Ki"], a["Mr"] + 1j * a["Mi"]
    expected = a["Lr"] + 1j * a["Li"]
    for f in range(a["f_start"], a["f_end"]):
        for group in range(26 * a["nchunks"]):
            for pair in range(a["pair_starts"][group], a["pair_starts"][group + 1]):
                target, source = a["pair_targets"][pair], a["pair_sources"][pair]
                g = f - a["f_start"]
                product = np.einsum("rcji,cj->ri", kernel[f, group % 26], m[g, :, source])
                expected[g, :, target] += product
    found = _run(case, SEQUENTIAL, find_devices()[0])
    assert identical(found["Lr"], expected.real)
    assert identical(found["Li"], expected.imag)
