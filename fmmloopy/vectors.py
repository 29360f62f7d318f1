"""What callers give and get: charges and dipole moments, and potentials with their derivatives.

Callers have a row per point, and a last axis for several vectors of charges. Inside, points are the last axis, complex
numbers are real parts and imaginary parts, and vectors are the first axis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fmmloopy.common.arguments import check_flag, finite_numbers, join_parts, real_numbers
from fmmloopy.common.exchange import on_host
from fmmloopy.components import Components
from fmmloopy.greens import SECOND, GreensFunction

Results = NDArray[Any] | tuple[NDArray[Any], ...]
"""Potentials, or potentials and derivatives."""


@dataclass(frozen=True, eq=False)
class Vectors:
    """Charges and dipole moments of all sources.

    Attributes:
        values: shape (vectors, columns, nsources), the columns as in `Components`.
        components: what the columns are, and which derivatives are wanted, for one vector.
        is_single: whether the caller gave one vector without an axis for it.
    """

    values: NDArray[Any]
    components: Components
    is_single: bool


def read_vectors(
    kernel: GreensFunction,
    nsources: int,
    dtype: np.dtype[Any],
    charges: ArrayLike | None,
    dipoles: ArrayLike | None,
    gradient: Any = False,
    hessian: Any = False,
) -> Vectors:
    """Return valid charges and dipole moments in the working dtype; the caller's arrays may change.

    Args:
        kernel: the Green's function.
        nsources: number of sources.
        dtype: the working dtype.
        charges: shape (nsources,), or (nsources, components) for several source components; and a last axis for
            several vectors. None for none.
        dipoles: shape (nsources, 3) or (nsources, components, 3); and a last axis for several vectors. None for none.
        gradient, hessian: whether derivatives are wanted.

    Raises:
        ValueError: both are None, a shape is wrong, the numbers of vectors differ, values are not finite real numbers,
            or a flag is not True or False.
    """
    wanted = Components(True, False, check_flag(gradient, "gradient"), check_flag(hessian, "hessian"))
    given = replace(wanted, charges=charges is not None, dipoles=dipoles is not None)
    parts = []
    if charges is not None:
        parts.append(_columns(kernel, nsources, dtype, charges, "charges", ()))
    if dipoles is not None:
        parts.append(_columns(kernel, nsources, dtype, dipoles, "dipoles", (3,)))
    if len(parts) == 2 and (len(parts[0][0]), parts[0][1]) != (len(parts[1][0]), parts[1][1]):
        numbers = [len(values) for values, _ in parts]
        raise ValueError(
            f"charges has shape {np.shape(charges)} and dipoles {np.shape(dipoles)}, {numbers[0]} and {numbers[1]} "  # type: ignore[arg-type]
            "vectors, expected as many of one as of the other, both with a last axis for vectors or both without"
        )
    values = np.concatenate([values for values, _ in parts], axis=1)
    return Vectors(np.ascontiguousarray(values), given, parts[0][1])


def _columns(
    kernel: GreensFunction,
    nsources: int,
    dtype: np.dtype[Any],
    given: ArrayLike,
    name: str,
    axes: tuple[int, ...],
) -> tuple[NDArray[Any], bool]:
    """Return numbers of sources, shape (vectors, columns, nsources), and whether there is no axis for vectors."""
    parts = _real_parts(given, name) if kernel.is_complex else [real_numbers(given, name)]
    components = kernel.nsource_components // len(parts)
    single = (nsources, *(() if components == 1 else (components,)), *axes)
    shape = parts[0].shape
    if shape[: len(single)] != single or len(shape) > len(single) + 1 or shape[len(single) :] == (0,):
        raise ValueError(f"{name} has shape {shape}, expected {single}: {_what(name, components)}{_several(single)}")
    is_single, count = len(shape) == len(single), 1 if len(shape) == len(single) else shape[-1]
    split = [finite_numbers(part, name, dtype).reshape(nsources, components, *axes, count) for part in parts]
    columns = np.concatenate(split, axis=1)
    rows = kernel.nsource_components * math.prod(axes)
    return columns.reshape(nsources, rows, count).transpose(2, 1, 0), is_single


def _what(name: str, components: int) -> str:
    """Say what a row of charges or dipoles is."""
    if name == "charges":
        return "one charge per source" if components == 1 else f"{components} components per source"
    return "a moment per source" if components == 1 else f"a moment for each of {components} components per source"


def _several(single: tuple[int, ...]) -> str:
    """Say which shape several vectors have."""
    return f"; or ({', '.join(map(str, single))}, k) for k vectors"


def _real_parts(values: ArrayLike, name: str) -> list[NDArray[Any]]:
    """Return real parts and imaginary parts of numbers.

    Raises:
        ValueError: values are masked or no numbers, or rows have different lengths.
    """
    try:
        array = np.asanyarray(on_host(values, name))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name} is not an array of numbers: {error}") from None
    if array.dtype.kind == "c":
        return [real_numbers(part, name) for part in (array.real, array.imag)]
    real = real_numbers(array, name)
    return [real, np.zeros_like(real)]


_PLACES = [[SECOND.index((min(a, b), max(a, b))) for b in range(3)] for a in range(3)]
"""Where the entries of a Hessian are among its different ones."""


def write_results(kernel: GreensFunction, components: Components, values: NDArray[Any], is_single: bool) -> Results:
    """Return potentials, and a tuple of potentials and derivatives if these are wanted, in the shapes of callers.

    Args:
        kernel: the Green's function.
        components: what the rows are, for one vector.
        values: shape (vectors, rows, ntargets).
        is_single: whether there is no axis for vectors.
    """
    rows, count = kernel.ntarget_components, values.shape[2]
    found = [values[:, :rows]]
    if components.gradient:
        found.append(values[:, rows : 4 * rows].reshape(len(values), rows, 3, count))
    if components.hessian:
        different = values[:, -len(SECOND) * rows :].reshape(len(values), rows, len(SECOND), count)
        found.append(different[:, :, _PLACES])
    several = len(found) > 1
    results = tuple(_result(kernel, np.moveaxis(each, (-1, 0), (0, -1)), is_single, several) for each in found)
    return results if several else results[0]


def _result(kernel: GreensFunction, values: NDArray[Any], is_single: bool, copy: bool) -> NDArray[Any]:
    """Return values of shape (ntargets, rows, ..., vectors) without the axes that the caller has not; contiguous."""
    if kernel.is_complex:
        half = values.shape[1] // 2
        values = values[:, :half] + 1j * values[:, half:]
    values = values[:, 0] if values.shape[1] == 1 else values
    values = values[..., 0] if is_single else values
    return values.copy() if copy else np.ascontiguousarray(values)


def draw_charges(random: np.random.Generator, kernel: GreensFunction, count: int) -> NDArray[Any]:
    """Return charges of both signs as a caller has them: shape (count,), or with the components of the function."""
    columns = random.uniform(-1, 1, (count, kernel.nsource_components))
    return join_parts(columns) if kernel.is_complex else columns[:, 0] if columns.shape[1] == 1 else columns
