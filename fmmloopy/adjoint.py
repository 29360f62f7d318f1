"""The Green's function of the transposed sum, in which sources and targets are exchanged."""

from __future__ import annotations

from dataclasses import replace

from pymbolic import substitute, var

from fmmloopy.greens import GreensFunction, Matrix, Surfaces


def transposed(kernel: GreensFunction) -> GreensFunction:
    """Return the function H(d) = G(-d)^T, without conjugation: the sum of H over the targets is the transposed sum.

    It is G itself if G is symmetric and even, and G with another sign if it is symmetric and odd. A complex function is
    transposed as a complex matrix. Functions between points and surfaces are exchanged.

    Args:
        kernel: the function G, without derivatives.
    """
    parity, surfaces = kernel.parity, kernel.surfaces
    if parity is not None and _is_symmetric(kernel):
        if parity == 1:
            return kernel
        if surfaces is None:
            return replace(kernel, scaling=-kernel.scaling)
    if surfaces is not None:
        translations, sources, targets = (
            transposed(function) for function in (surfaces.translations, surfaces.targets, surfaces.sources)
        )
        surfaces = Surfaces(translations, sources, targets)
    return replace(
        kernel,
        name=f"{kernel.name}_transposed",
        matrix=_transpose(kernel) if parity is not None else _reverse(_transpose(kernel)),
        scaling=-kernel.scaling if parity == -1 else kernel.scaling,
        surfaces=surfaces,
    )


def _is_symmetric(kernel: GreensFunction) -> bool:
    """Return whether the matrix, of complex numbers if they are, equals its transpose."""
    return _transpose(kernel) == kernel.matrix or (kernel.is_symmetric and not kernel.is_complex)


def _transpose(kernel: GreensFunction) -> Matrix:
    """Return the transposed matrix; for complex numbers, each of the four blocks of real and imaginary parts."""
    parts = 2 if kernel.is_complex else 1
    rows, columns = kernel.ntarget_components // parts, kernel.nsource_components // parts
    return tuple(
        tuple(kernel.matrix[a * rows + i][b * columns + j] for b in range(parts) for i in range(rows))
        for a in range(parts)
        for j in range(columns)
    )


def _reverse(matrix: Matrix) -> Matrix:
    """Return the entries at -d."""
    opposite = {name: -1 * var(name) for name in ("d0", "d1", "d2")}
    return tuple(tuple(substitute(entry, opposite) for entry in row) for row in matrix)
