"""Evaluations as linear operators, against matrices of direct sums, and in an iterative solver."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import cube, error, slow, sphere
from scipy.sparse.linalg import LinearOperator, gmres

import fmmloopy as fl
from fmmloopy.adjoint import transposed
from fmmloopy.greens import GreensFunction

N, M = 400, 250
ACCURATE = 2e-3
"""Errors at order 5 are below 1e-3 for these functions; a wrong sign or transpose is an error of about 1."""

UNEVEN = GreensFunction("uneven", (("d0*rinv*rinv*rinv + rinv", "rinv"),))
"""One row, two columns, neither even nor odd, harmonic."""

FUNCTIONS = [
    fl.laplace(),
    fl.helmholtz(2.0),
    fl.stokeslet(),
    fl.rotlet(),
    fl.biot_savart(),
    fl.biharmonic(),
    fl.stresslet(),
    UNEVEN,
]


def matrix(kernel, sources, targets):
    """The dense matrix of direct sums."""
    d = (targets[:, None] - sources).transpose(2, 0, 1)
    values = kernel.evaluate(d)
    if kernel.is_complex:
        rows, columns = (n // 2 for n in values.shape[:2])
        values = values[:rows, :columns] + 1j * values[rows:, :columns]
    rows, columns = values.shape[:2]
    return values.transpose(2, 0, 3, 1).reshape(len(targets) * rows, len(sources) * columns)


def vectors(rng, dense, count, axis):
    shape = (dense.shape[axis], count)
    real = rng.standard_normal(shape)
    return real + 1j * rng.standard_normal(shape) if np.iscomplexobj(dense) else real


@pytest.mark.filterwarnings("ignore:.* may not suit the method")
@pytest.mark.parametrize(
    ("kernel", "separate"),
    [
        (fl.laplace(), True),
        pytest.param(fl.helmholtz(2.0), True, marks=slow),
        (UNEVEN, True),
        (fl.laplace(), False),
        pytest.param(fl.rotlet(), False, marks=slow),
    ],
    ids=lambda value: value.name if isinstance(value, GreensFunction) else "separate" if value else "same",
)
def test_it_is_the_matrix_of_direct_sums(rng, kernel, separate):
    sources = cube(rng, N)
    targets = 0.8 * sphere(rng, M) + 0.5 if separate else None
    dense = matrix(kernel, sources, sources if targets is None else targets)
    fmm = fl.Fmm(sources, targets, kernel, order=5, ncrit=25, recipes="sequential")
    operator = fmm.as_linear_operator()
    assert fmm.lists.v.lists.size, "nothing goes through expansions"
    assert isinstance(operator, LinearOperator)
    assert (operator.shape, operator.dtype) == (dense.shape, dense.dtype)
    x, y = vectors(rng, dense, 3, 1), vectors(rng, dense, 3, 0)
    adjoint = dense.conj().T
    for found, expected in (
        (operator @ x[:, 0], dense @ x[:, 0]),
        (operator @ x, dense @ x),
        (operator.rmatvec(y[:, 0]), adjoint @ y[:, 0]),
        (operator.H @ y, adjoint @ y),
    ):
        assert found.shape == expected.shape
        assert error(found, expected) < ACCURATE


@pytest.mark.parametrize("kernel", FUNCTIONS, ids=lambda kernel: kernel.name)
def test_transposed_functions(kernel, rng):
    other, points = transposed(kernel), cube(rng, 5)
    dense = matrix(kernel, points, points[:3] + 2)
    assert np.allclose(matrix(other, points[:3] + 2, points), dense.T, rtol=1e-12, atol=1e-12)
    again = transposed(other)
    assert np.allclose(matrix(again, points, points[:3] + 2), dense, rtol=1e-12, atol=1e-12)


def test_symmetric_functions_need_no_other_evaluation(rng):
    for kernel in (fl.laplace(), fl.helmholtz(1.0), fl.stokeslet(), fl.gaussian(10.0)):
        assert transposed(kernel) is kernel
    assert transposed(fl.rotlet()).matrix != fl.rotlet().matrix
    fmm = fl.Fmm(cube(rng, N), order=3, ncrit=60)
    fmm.as_linear_operator().rmatvec(np.ones(N))
    assert fmm._adjoint is None


def test_complex_vectors_of_a_real_function(rng):
    points, x = cube(rng, N), rng.standard_normal(N) + 1j * rng.standard_normal(N)
    operator = fl.Fmm(points, order=5, ncrit=25).as_linear_operator()
    assert error(operator @ x, matrix(fl.laplace(), points, points) @ x) < ACCURATE
    assert error(operator.H @ x, matrix(fl.laplace(), points, points) @ x) < ACCURATE


def test_float32(rng):
    points = cube(rng, N).astype(np.float32)
    operator = fl.Fmm(points, order=4, ncrit=25).as_linear_operator()
    assert operator.dtype == np.float32
    assert (operator @ np.ones(N, np.float32)).dtype == np.float32
    assert fl.Fmm(points, kernel=fl.helmholtz(1.0), order=4).as_linear_operator().dtype == np.complex64


def test_after_an_update_it_is_of_the_new_points(rng):
    kernel, first, targets = fl.rotlet(), cube(rng, N), sphere(rng, M)
    fmm = fl.Fmm(first, targets, kernel, order=5, ncrit=25, recipes="sequential")
    operator, y = fmm.as_linear_operator(), rng.standard_normal(3 * M)
    for sources in (first, first**2, 3 * first):
        fmm.update(sources, targets)
        assert error(operator.rmatvec(y), matrix(kernel, sources, targets).T @ y) < ACCURATE
    fmm.update(first[:100], targets)
    with pytest.raises(ValueError, match="charges has shape"):
        operator.matvec(np.ones(3 * N))


def test_wrong_shapes(rng):
    operator = fl.Fmm(cube(rng, N), order=3).as_linear_operator()
    with pytest.raises(ValueError, match="dimension mismatch"):
        operator.matvec(np.ones(N + 1))
    with pytest.raises(ValueError, match="expected at least one column"):
        operator.matmat(np.ones((N, 0)))


def test_gmres_solves_a_second_kind_equation(rng):
    points, weight = sphere(rng, 1000), 4 * np.pi / 1000
    single = fl.Fmm(points, order=7, ncrit=60).as_linear_operator()
    equation = LinearOperator(single.shape, lambda x: x + weight * (single @ x), dtype=single.dtype)
    expected = rng.standard_normal(1000)
    dense = np.eye(1000) + weight * matrix(fl.laplace(), points, points)
    found, failed = gmres(equation, dense @ expected, rtol=1e-10, maxiter=40)
    assert not failed
    assert error(found, expected) < 1e-4
