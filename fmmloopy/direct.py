"""The direct sum of a Green's function over all pairs of points: the reference for everything else.

Plain numpy in float64, O(ntargets nsources); it never imports loopy.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fmmloopy.common.arguments import real_numbers
from fmmloopy.common.cores import map_on_cores
from fmmloopy.common.range import shift, shift_back
from fmmloopy.greens import GreensFunction, laplace
from fmmloopy.limits import value_at_zero
from fmmloopy.vectors import Vectors, read_vectors, write_results

FloatArray = NDArray[np.float64]
Numbers = NDArray[np.integer[Any]]

# Pairs evaluated at once: arrays of 1 MiB fit roughly in a core's caches, and are long enough that numpy runs without
# the interpreter lock most of the time (docs/measurements/constants.csv).
BLOCK = 131072
# Most sources in a block: the length of numpy's inner loops.
_BLOCK_SOURCES = 4096

_LAPLACE = laplace()


def direct(
    sources: ArrayLike,
    charges: ArrayLike | None = None,
    targets: ArrayLike | None = None,
    kernel: GreensFunction = _LAPLACE,
    gradient: bool = False,
    block: int = BLOCK,
    *,
    dipoles: ArrayLike | None = None,
    hessian: bool = False,
    same_as: ArrayLike | None = None,
) -> Any:
    """Sum the potential of all sources at all targets: f(x_i) = sum over j of G(x_i - y_j) q_j + p_j . grad_y G.

    It is computed in float64 for input of any dtype. The result does not depend on the number of threads.

    A source does not act on itself: where ``targets`` is None, or ``same_as`` says which source a target is, this pair
    contributes nothing. Other pairs at distance zero contribute the function's value there if it is finite, as that of
    Plummer's and Gaussian functions is, and nothing if it is not.

    Args:
        sources: shape (nsources, 3), any unit of length.
        charges: shape (nsources,) for one source component, or (nsources, sc); complex numbers for a complex function,
            which then count as one component. A last axis is for several vectors. None for none.
        targets: shape (ntargets, 3), the sources' unit; None for the sources themselves.
        kernel: the Green's function, without gradient, tc x sc components; Laplace's by default.
        gradient: whether to return the gradient with respect to the target too.
        block: pairs evaluated at once by each thread; affects speed and memory only.
        dipoles: dipole moments p, shape (nsources, 3), or (nsources, sc, 3); a last axis as for charges. None for none.
        hessian: whether to return the second derivatives with respect to the target too.
        same_as: shape (ntargets,), the number of the source that each target is, -1 for none: for targets that are some
            of the sources. It makes a difference for functions that are finite at zero only.

    Returns:
        Potentials, float64 or complex128, shape (ntargets,) where tc = 1, else (ntargets, tc). With ``gradient`` or
        ``hessian``, a tuple of these; of the gradient, shape (ntargets, 3) or (ntargets, tc, 3); and of the Hessian,
        shape (ntargets, 3, 3) or (ntargets, tc, 3, 3), each if it is wanted. For several vectors, all have the same
        last axis as the charges.

    Raises:
        ValueError: points are not of shape (n, 3), charges have another shape, values are not finite real numbers,
            potentials are above the largest number, or another argument is not of its type.
    """
    kernel, block = _check(kernel), _pairs(block)
    y = _points("sources", sources)
    x = y if targets is None else _points("targets", targets)
    given = read_vectors(kernel, y.shape[1], np.dtype(np.float64), charges, dipoles, gradient, hessian)
    own = np.arange(x.shape[1]) if targets is None else _own(same_as, x.shape[1], y.shape[1])
    values = sum_vectors(kernel, given, x, y, own, block)
    return write_results(kernel, given.components, values, given.is_single)


def sum_vectors(
    kernel: GreensFunction, given: Vectors, x: FloatArray, y: FloatArray, own: Numbers | None = None, block: int = BLOCK
) -> FloatArray:
    """Sum potentials and their derivatives of all vectors: shape (vectors, rows, ntargets).

    Args:
        kernel: the Green's function, without derivatives.
        given: charges and dipole moments, and which derivatives are wanted.
        x, y: targets and sources, shape (3, n).
        own: shape (ntargets,), the number of the source that each target is, -1 for none; None if none is one.
        block: pairs evaluated at once by each thread.

    Raises:
        ValueError: potentials are above the largest number.
    """
    values = given.values.astype(np.float64, copy=False)
    exponent = shift(values)
    q = np.ldexp(values, -exponent)
    function, at_zero = given.components.of(kernel), value_at_zero(kernel, given.components)
    own = np.full(x.shape[1], -1) if own is None else own
    return shift_back(_sum_all(function, at_zero, x, y, q, own, block), exponent)


def _check(kernel: GreensFunction) -> GreensFunction:
    if not isinstance(kernel, GreensFunction):
        raise ValueError(f"kernel is {kernel!r}, expected a GreensFunction, such as fmmloopy.laplace()")
    return kernel


def _pairs(block: int) -> int:
    expected = f"expected a positive number of pairs, such as {BLOCK}"
    try:
        count = operator.index(block)
    except TypeError:
        raise ValueError(f"block is {block!r}, {expected}") from None
    if count < 1:
        raise ValueError(f"block is {block}, {expected}")
    return count


def _points(name: str, points: ArrayLike) -> FloatArray:
    """Return points as a contiguous (3, n) array."""
    array = np.asarray(real_numbers(points, name, may_be_parts=False), np.float64)
    if array.ndim != 2 or array.shape[1] != 3:
        raise ValueError(f"{name} has shape {array.shape}, expected (n, 3): one row per point")
    if not np.isfinite(array).all():
        bad = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
        raise ValueError(f"{name}[{bad}] is {array[bad]}, expected finite coordinates; drop or repair that point")
    return np.ascontiguousarray(array.T)


def _own(same_as: ArrayLike | None, ntargets: int, nsources: int) -> Numbers | None:
    """Return the numbers of the sources that targets are."""
    if same_as is None:
        return None
    own = np.asarray(same_as)
    if own.shape != (ntargets,) or own.dtype.kind not in "iu":
        raise ValueError(
            f"same_as has shape {own.shape} and dtype {own.dtype}, expected ({ntargets},) whole numbers: "
            "the source that each target is, -1 for none"
        )
    if own.size and not -1 <= own.min() <= own.max() < nsources:
        raise ValueError(f"same_as has {own.min()} to {own.max()}, expected -1 to {nsources - 1}: numbers of sources")
    return own.astype(np.int64)


def _sum_all(
    kernel: GreensFunction,
    at_zero: FloatArray | None,
    x: FloatArray,
    y: FloatArray,
    q: FloatArray,
    own: Numbers,
    block: int,
) -> FloatArray:
    """Return potentials, shape (vectors, tc, ntargets), one thread per core over groups of targets."""
    width = max(1, min(y.shape[1], _BLOCK_SOURCES, block))
    height = max(1, block // width)
    out = np.zeros((len(q), kernel.ntarget_components, x.shape[1]))

    def fill(start: int) -> None:
        targets = slice(start, start + height)
        for source in range(0, y.shape[1], width):
            sources = slice(source, source + width)
            out[..., targets] += _sum_block(kernel, x[:, targets], y[:, sources], q[..., sources])
            if at_zero is not None:
                them = own[targets] - source
                out[..., targets] += _sum_touching(at_zero, x[:, targets], y[:, sources], q[..., sources], them)

    map_on_cores(fill, range(0, x.shape[1], height))
    return out


def _sum_block(kernel: GreensFunction, x: FloatArray, y: FloatArray, q: FloatArray) -> FloatArray:
    """Return the potentials of one block, shape (vectors, tc, ntargets)."""
    # At distance zero an expression may divide by r or take its logarithm; evaluate() discards the result.
    with np.errstate(divide="ignore", invalid="ignore"):
        entries = kernel.evaluate(x[:, :, None] - y[:, None, :])
    potentials: FloatArray = np.stack([np.einsum("cdts,ds->ct", entries, each) for each in q])
    return potentials


def _sum_touching(at_zero: FloatArray, x: FloatArray, y: FloatArray, q: FloatArray, own: Numbers) -> FloatArray:
    """Return what pairs at distance zero contribute in one block, shape (vectors, tc, ntargets)."""
    touching = np.logical_and.reduce(x[:, :, None] == y[:, None, :])
    if touching.any():
        here = np.flatnonzero((own >= 0) & (own < len(touching[0])))
        touching[here, own[here]] = False
    contributions: FloatArray = at_zero @ (q @ touching.T)
    return contributions
