"""Evaluations as linear operators of scipy, for its iterative solvers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator

from fmmloopy.greens import GreensFunction

Evaluate = Callable[[NDArray[Any]], NDArray[Any]]
"""Returns potentials of charges, both with a last axis for several vectors."""


class EvaluationOperator(LinearOperator):  # type: ignore[misc]
    """The matrix of an evaluation: charges of all sources, flattened, to potentials at all targets, flattened.

    Args:
        kernel: the Green's function.
        nsources, ntargets: numbers of points.
        dtype: float32 or float64, the type of the evaluation.
        evaluate: the evaluation.
        evaluate_transposed: that of the transposed matrix.
    """

    def __init__(
        self,
        kernel: GreensFunction,
        nsources: int,
        ntargets: int,
        dtype: np.dtype[Any],
        evaluate: Evaluate,
        evaluate_transposed: Evaluate,
    ) -> None:
        parts = 2 if kernel.is_complex else 1
        rows, columns = kernel.ntarget_components // parts, kernel.nsource_components // parts
        self._domain, self._range = (nsources, columns), (ntargets, rows)
        self._forward, self._backward, self._is_complex = evaluate, evaluate_transposed, kernel.is_complex
        whole = np.result_type(dtype, np.complex64) if kernel.is_complex else dtype
        super().__init__(whole, (ntargets * rows, nsources * columns))

    def _matvec(self, x: NDArray[Any]) -> NDArray[Any]:
        return self._matmat(x.reshape(-1, 1))

    def _matmat(self, x: NDArray[Any]) -> NDArray[Any]:
        return self._apply(self._forward, self._domain, x)

    def _rmatvec(self, x: NDArray[Any]) -> NDArray[Any]:
        return self._rmatmat(x.reshape(-1, 1))

    def _rmatmat(self, x: NDArray[Any]) -> NDArray[Any]:
        return self._apply(self._backward, self._range, x.conj()).conj()

    def _apply(self, evaluate: Evaluate, points: tuple[int, int], x: NDArray[Any]) -> NDArray[Any]:
        """Apply an evaluation to columns; complex ones of a real function are evaluated in two parts."""
        count, components = points
        width = x.shape[1]
        if not width:
            raise ValueError(f"the matrix has shape {x.shape}, expected at least one column")
        split = np.iscomplexobj(x) and not self._is_complex
        columns = np.concatenate([x.real, x.imag], axis=1) if split else x
        shape = (count, columns.shape[1]) if components == 1 else (count, components, columns.shape[1])
        found = evaluate(columns.reshape(shape))
        found = found.reshape(-1, columns.shape[1])
        return found[:, :width] + 1j * found[:, width:] if split else found
