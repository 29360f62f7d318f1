"""Green's functions as matrices of pymbolic expressions.

A Green's function ``G(x, y)`` depends only on ``d = x - y`` (target minus source). It is written once, as a matrix of
real expressions in the variables and functions of :mod:`fmmloopy.expressions`; operators, tables and the direct sum
all use this matrix.

Here and in operators, pairs at distance zero contribute nothing, for any expression, so a point does not act on itself.
What other points in the same place contribute is in `fmmloopy.limits`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymbolic import var
from pymbolic.mapper.dependency import DependencyMapper
from pymbolic.mapper.evaluator import EvaluationMapper
from pymbolic.primitives import Variable

from fmmloopy.expressions import (
    COMPLEX_REMEDY,
    FUNCTIONS,
    GEOMETRY,
    Degree,
    Expression,
    derivative,
    differentiate,
    is_expression,
    read_expression,
    refusal,
)

Matrix = tuple[tuple[Expression, ...], ...]

ARGUMENT_PREFIX = "parameter_"
"""Prefix of the names of parameters in kernels."""


TAKEN = (*GEOMETRY, "pi", *FUNCTIONS)
"""Names that no parameter may have."""

_TO_BE_FOUND: Any = object()
"""Homogeneity that is found from the expressions."""

_POINTS = np.array([[0.5, -1.25, 2.0], [0.75, 0.5, -1.0], [-0.25, 1.5, 3.0]])
"""Differences at which expressions are tried."""


def _is_finite(value: Any) -> bool:
    """Return whether a value is a finite real number; strings are none, even if they could be read as numbers."""
    return isinstance(value, (int, float, np.integer, np.floating)) and bool(np.isfinite(value))


SECOND = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))
"""The pairs of axes of second derivatives: a Hessian is symmetric."""


@dataclass(frozen=True)
class Surfaces:
    """What operators with surfaces evaluate in place of a Green's function.

    Densities of the function's own kind cannot represent every field of its sources: a single density cannot for a
    biharmonic function, which needs two, fitted to two potentials. PVFMM (Malhotra & Biros 2015) makes the same
    distinction with its kernels k_s2m, k_m2m, k_m2t and so on.

    Attributes:
        translations: check potentials from equivalent densities: the pseudo-inverses, M2M, M2L, L2L.
        sources: check potentials from the charges of points: P2M, P2L.
        targets: potentials at points from equivalent densities: L2P, M2P.
    """

    translations: GreensFunction
    sources: GreensFunction
    targets: GreensFunction


@dataclass(frozen=True)
class GreensFunction:
    """A translation-invariant Green's function, as a matrix of expressions.

    Attributes:
        name: the function's name in tables, caches and reports; an identifier.
        matrix: rows are target components, columns source components; each entry is an expression (or a string that
            pymbolic parses) in d0, d1, d2, r, rinv, pi and the parameters. A single string is a matrix of one entry.
        parameters: values of the parameters, by name.
        scaling: constant factor of the whole matrix, applied once per target rather than once per pair.
        homogeneity: degree k if G(a d) = a^k G(d) for all a > 0, else None. Homogeneous functions need only one
            translation table for all levels of the tree. It is found from the expressions if it is not given, and
            verified if it is.
        nderivatives: how many of the last rows are derivatives with respect to x; first derivatives scale with one more
            inverse length than the other rows, second derivatives with two more.
        nsecond: how many of these, the last, are second derivatives.
        ndipoles: how many of the last columns are derivatives with respect to y, for the moments of dipoles; they scale
            with one more inverse length than the other columns.
        vectors: how many vectors of charges particle operators read at once; each has its own potentials.
        surfaces: what operators with surfaces evaluate, if not this function itself; see `Surfaces`.
        is_complex: whether charges and potentials are complex numbers at the interface. Then the first half of the rows
            and columns are for real parts, the second half for imaginary parts.
        max_box_width: the largest boxes for whose sources surfaces can stand, in the unit of the points; None for any.

    Raises:
        ValueError: the matrix is ragged or empty, a variable or function is unknown, a parameter is not a finite
            number, the expressions do not have the given homogeneity, there are more derivatives than rows, or the
            functions for surfaces do not fit.
    """

    name: str
    matrix: Matrix
    parameters: Mapping[str, float] = field(default_factory=dict, hash=False)
    scaling: float = 1.0
    homogeneity: int | None = _TO_BE_FOUND
    nderivatives: int = 0
    surfaces: Surfaces | None = None
    is_complex: bool = False
    max_box_width: float | None = None
    nsecond: int = 0
    ndipoles: int = 0
    vectors: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.isidentifier():
            raise ValueError(f"name is {self.name!r}, expected an identifier such as 'laplace'")
        if not isinstance(self.parameters, Mapping):
            raise ValueError(f"{self.name}: parameters is {self.parameters!r}, expected values by name")
        rows = self._rows()
        if not isinstance(self.nderivatives, int) or not 0 <= self.nderivatives <= len(rows):
            raise ValueError(f"{self.name}: nderivatives is {self.nderivatives!r}, expected 0 to {len(rows)} rows")
        for what, count, most in (
            ("nsecond", self.nsecond, self.nderivatives),
            ("ndipoles", self.ndipoles, len(rows[0])),
        ):
            if not isinstance(count, int) or not 0 <= count <= most:
                raise ValueError(f"{self.name}: {what} is {count!r}, expected 0 to {most}")
        object.__setattr__(self, "matrix", rows)
        for parameter, value in {**self.parameters, "scaling": self.scaling}.items():
            if not isinstance(parameter, str) or not parameter.isidentifier() or parameter in TAKEN:
                taken = ", ".join(TAKEN)
                raise ValueError(
                    f"{self.name}: a parameter is named {parameter!r}, expected an identifier other than {taken}"
                )
            if not _is_finite(value):
                raise ValueError(f"{self.name}: {parameter} is {value!r}, expected a finite number")
        is_found = self.homogeneity is _TO_BE_FOUND
        if not is_found and self.homogeneity is not None and not _is_finite(self.homogeneity):
            raise ValueError(f"{self.name}: homogeneity is {self.homogeneity!r}, expected a whole number or None")
        parameters = {name: float(value) for name, value in self.parameters.items()}
        object.__setattr__(self, "parameters", MappingProxyType(parameters))
        self._check_variables()
        self._check_values()
        if is_found:
            object.__setattr__(self, "homogeneity", self._find_homogeneity())
        self._check_homogeneity()
        self._check_components()

    def _rows(self) -> Matrix:
        """Return the matrix with its strings parsed."""
        try:
            given: Any = ((self.matrix,),) if isinstance(self.matrix, str) else self.matrix
            if any(isinstance(row, str) for row in given):
                raise TypeError("text is no row")
            matrix = tuple(map(tuple, given))
        except TypeError:
            raise ValueError(
                f"{self.name}: matrix is {self.matrix!r}, expected rows of expressions, such as (('rinv',),) for one "
                "entry"
            ) from None
        rows = tuple(tuple(self._parsed(entry) for entry in row) for row in matrix)
        if not rows or not rows[0] or len({len(row) for row in rows}) != 1:
            raise ValueError(
                f"{self.name}: matrix has rows of lengths {[len(r) for r in rows]}, expected equal and > 0"
            )
        return rows

    def _parsed(self, entry: Any) -> Expression:
        variables = {*GEOMETRY, *self.parameters}
        if isinstance(entry, str):
            try:
                return read_expression(entry, variables)
            except ValueError as error:
                raise ValueError(f"{self.name}: {error}") from None
        if not is_expression(entry):
            raise ValueError(f"{self.name}: matrix is {self.matrix!r}, expected expressions or strings")
        if (why := refusal(entry, variables)) is not None:
            raise ValueError(f"{self.name}: {entry} {why}")
        return entry

    @property
    def ntarget_components(self) -> int:
        """Number of rows: values per target."""
        return len(self.matrix)

    @property
    def nsource_components(self) -> int:
        """Number of columns: charges per source."""
        return len(self.matrix[0])

    def degree(self, row: int) -> int:
        """Return of what degree the derivatives in a row are; rows are counted on for several vectors of charges."""
        place = row % self.ntarget_components - self.ntarget_components
        return 2 if place >= -self.nsecond else 1 if place >= -self.nderivatives else 0

    def between(self, from_surface: bool, onto_surface: bool) -> GreensFunction:
        """Return what is evaluated between points and surfaces.

        Args:
            from_surface: whether the sources are an equivalent surface, not points.
            onto_surface: whether the targets are a check surface, not points.
        """
        if self.surfaces is None or not (from_surface or onto_surface):
            return self
        if from_surface and onto_surface:
            return self.surfaces.translations
        return self.surfaces.targets if from_surface else self.surfaces.sources

    @property
    def translations(self) -> GreensFunction:
        """The function between surfaces, which tables are made for."""
        return self.between(from_surface=True, onto_surface=True)

    @property
    def parity(self) -> int | None:
        """1 if G(-d) = G(d), -1 if G(-d) = -G(d), None for neither; found by evaluation."""
        there, back = self.evaluate(_POINTS), self.evaluate(-_POINTS)
        return next((sign for sign in (1, -1) if np.allclose(back, sign * there, rtol=1e-12, atol=0)), None)

    @property
    def is_symmetric(self) -> bool:
        """Whether the matrix equals its transpose; found by evaluation."""
        values = self.evaluate(_POINTS)
        return len(values) == values.shape[1] and np.allclose(values, values.swapaxes(0, 1), rtol=1e-12, atol=0)

    @property
    def shares_terms(self) -> bool:
        """Whether kernels compute what its entries share once per pair, as values of their own.

        Entries of gradients share only the beginnings of products, which compilers find.
        """
        return bool(self.nsecond or self.ndipoles)

    @property
    def arguments(self) -> dict[str, float]:
        """The parameters, under their names in kernels, which no iname or array shares."""
        return {ARGUMENT_PREFIX + name: value for name, value in self.parameters.items()}

    @property
    def variables(self) -> frozenset[str]:
        """Names used by the expressions: from GEOMETRY, parameters and functions."""
        mapper = DependencyMapper(composite_leaves=False)
        return frozenset(v.name for row in self.matrix for e in row for v in mapper(e) if isinstance(v, Variable))

    @property
    def key(self) -> tuple[Any, ...]:
        """Everything that tables depend on: expressions, parameters, scaling; hashable, the same in every process."""
        expressions = tuple(tuple(str(e) for e in row) for row in self.matrix)
        values = tuple(sorted(self.parameters.items())), self.scaling, self.homogeneity
        more = [self.nderivatives] if self.nderivatives else []
        new = self.nsecond, self.ndipoles, self.vectors
        more += new if new != (0, 0, 1) else ()
        between = (self.surfaces.translations, self.surfaces.sources, self.surfaces.targets) if self.surfaces else ()
        return (self.name, expressions, *values, *more, *(function.key for function in between))

    def with_gradient(self) -> GreensFunction:
        """Return this function with target rows for its gradient with respect to x.

        The rows are those of this function, followed by d/dx0, d/dx1, d/dx2 of each.
        """
        rows = list(self.matrix)
        for row in self.matrix:
            rows += [tuple(differentiate(entry, axis) for entry in row) for axis in range(3)]
        nderivatives = 3 * len(self.matrix)
        return self._extended("gradient", rows, nderivatives)

    def with_derivatives(self, gradient: bool, hessian: bool) -> GreensFunction:
        """Return this function with target rows for its derivatives with respect to x.

        The rows are those of this function, then with ``gradient`` d/dx0, d/dx1, d/dx2 of each, then with ``hessian``
        the second derivatives of each, for the pairs of axes in `SECOND`.
        """
        if not hessian:
            return self.with_gradient() if gradient else self
        rows = list(self.matrix)
        if gradient:
            rows += [tuple(derivative(e, axis) for e in row) for row in self.matrix for axis in range(3)]
        rows += [tuple(derivative(derivative(e, a), b) for e in row) for row in self.matrix for a, b in SECOND]
        nderivatives = len(rows) - len(self.matrix)
        name = "gradient_hessian" if gradient else "hessian"
        return self._extended(name, rows, nderivatives, len(SECOND) * len(self.matrix))

    def with_dipoles(self, charges: bool) -> GreensFunction:
        """Return this function with source columns for the moments of dipoles.

        A dipole of moment p at y gives p . grad_y G(x - y), which is -p . grad G at d = x - y.

        Args:
            charges: whether there are columns for charges too, before those for dipoles. Each column of this function
                then has three for dipoles, along the axes.
        """
        rows = [
            (row if charges else ()) + tuple(derivative(-1 * e, axis) for e in row for axis in range(3))
            for row in self.matrix
        ]
        name = "charges_dipoles" if charges else "dipoles"
        return self._extended(name, rows, self.nderivatives, self.nsecond, 3 * self.nsource_components)

    def for_vectors(self, count: int) -> GreensFunction:
        """Return this function for several vectors of charges at once."""
        return self if count == self.vectors else replace(self, name=f"{self.name}_times_{count}", vectors=count)

    def _extended(
        self, what: str, rows: list[tuple[Expression, ...]], nderivatives: int, nsecond: int = 0, ndipoles: int = 0
    ) -> GreensFunction:
        """Return a function with more rows or columns; it stands for points, so it has no functions for surfaces."""
        return GreensFunction(
            f"{self.name}_{what}",
            tuple(rows),
            self.parameters,
            self.scaling,
            None,
            nderivatives,
            nsecond=nsecond,
            ndipoles=ndipoles or self.ndipoles,
        )

    def evaluate(self, d: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        """Evaluate the matrix for an array of differences.

        Args:
            d: shape (3, ...), x - y.

        Returns:
            Shape (ntarget_components, nsource_components, ...), dtype of d, including the scaling; zero where d = 0.
        """
        r2 = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
        apart, evaluate = r2 > 0, EvaluationMapper(self._context(d, r2))
        out = np.empty((self.ntarget_components, self.nsource_components, *d.shape[1:]), d.dtype)
        for i, row in enumerate(self.matrix):
            for j, entry in enumerate(row):
                out[i, j] = np.where(apart, self.scaling * evaluate(entry), 0)
        return out

    def _context(self, d: NDArray[np.floating[Any]], r2: NDArray[np.floating[Any]]) -> dict[str, Any]:
        """Return the values of all names in the expressions, given differences and squares of distances."""
        rinv = np.zeros_like(r2)
        np.divide(1, np.sqrt(r2), out=rinv, where=r2 > 0)
        return {"d0": d[0], "d1": d[1], "d2": d[2], "r": r2 * rinv, "rinv": rinv, **self.parameters, **FUNCTIONS}

    def _check_variables(self) -> None:
        known = {*GEOMETRY, *self.parameters, *FUNCTIONS}
        if unknown := self.variables - known:
            remedy = f"; {COMPLEX_REMEDY}" if unknown & {"i", "j", "I"} else ""
            raise ValueError(
                f"{self.name}: the expressions use {', '.join(sorted(unknown))}, expected only "
                f"{', '.join(GEOMETRY)}, pi, the parameters ({', '.join(self.parameters) or 'none'}) and the functions "
                f"{', '.join(FUNCTIONS)}{remedy}"
            )

    def _check_values(self) -> None:
        """Make sure that the expressions can be evaluated, and that their values are real."""
        try:
            with np.errstate(all="ignore"):
                evaluate = EvaluationMapper(self._context(_POINTS, (_POINTS**2).sum(axis=0)))
                values = [np.asarray(evaluate(entry)) for row in self.matrix for entry in row]
        except (ArithmeticError, TypeError) as error:  # Python's numbers overflow; numpy's functions refuse large ones
            said = " ".join(str(error).split())
            raise ValueError(f"{self.name}: the expressions cannot be evaluated: {said}") from None
        if any(value.dtype.kind not in "fiu" for value in values):
            raise ValueError(f"{self.name}: the expressions are not real numbers; {COMPLEX_REMEDY}")

    def _find_homogeneity(self) -> int | None:
        """Return the degree of the expressions, if all have the same and it is a whole number."""
        degrees = {Degree()(entry) for row in self.matrix for entry in row} - {Degree.ANY}
        degree = degrees.pop() if len(degrees) == 1 else None
        return int(degree) if isinstance(degree, (int, float)) and degree == int(degree) else None

    def _check_components(self) -> None:
        """Make sure that complex values have two parts, and that functions for surfaces have the right components."""
        if self.is_complex and (self.ntarget_components % 2 or self.nsource_components % 2):
            raise ValueError(
                f"{self.name}: matrix is {self.ntarget_components} x {self.nsource_components}, expected even numbers "
                "for complex values: real parts, then imaginary parts"
            )
        if self.surfaces is None:
            return
        translations, sources, targets = self.surfaces.translations, self.surfaces.sources, self.surfaces.targets
        for name, function, expected in (
            ("sources", sources, (translations.ntarget_components, self.nsource_components)),
            ("targets", targets, (self.ntarget_components, translations.nsource_components)),
        ):
            if (function.ntarget_components, function.nsource_components) != expected:
                raise ValueError(
                    f"{self.name}: surfaces.{name} is {function.ntarget_components} x {function.nsource_components}, "
                    f"expected {expected[0]} x {expected[1]} beside translations of {translations.ntarget_components} "
                    f"x {translations.nsource_components}"
                )

    def _check_homogeneity(self) -> None:
        if self.homogeneity is None:
            return
        with np.errstate(all="ignore"):  # what is not finite there may be so where it is needed
            once, twice = self.evaluate(_POINTS), self.evaluate(2 * _POINTS)
            # Both sides round a handful of times; 1e-12 is far above that and far below a wrong degree.
            is_right = np.allclose(twice, 2.0**self.homogeneity * once, rtol=1e-12, atol=0)
        if not is_right:
            raise ValueError(
                f"{self.name}: homogeneity is {self.homogeneity}, but G(2d) differs from 2^{self.homogeneity} G(d); "
                "give the right degree, or None for one table per level"
            )


def check_positive(name: str, value: float, remedy: str = "") -> None:
    """Make sure that a parameter is a positive finite number.

    Raises:
        ValueError: it is not; the message ends with the remedy.
    """
    if not _is_finite(value) or not value > 0:
        raise ValueError(f"{name} is {value!r}, expected a positive number{f'; {remedy}' if remedy else ''}")


def laplace() -> GreensFunction:
    """Laplace's Green's function in three dimensions: G = 1 / (4 pi r)."""
    return GreensFunction("laplace", ((var("rinv"),),), scaling=1 / (4 * np.pi), homogeneity=-1)


def yukawa(decay: float = 1.0) -> GreensFunction:
    """Yukawa's (the screened Laplace) Green's function: G = exp(-decay r) / (4 pi r).

    Args:
        decay: inverse screening length, in 1 / (unit of the points); positive.
    """
    check_positive("decay", decay, "for no screening use laplace()")
    entry = var("exp")(-1 * var("decay") * var("r")) * var("rinv")
    return GreensFunction("yukawa", ((entry,),), {"decay": decay}, scaling=1 / (4 * np.pi))


SHIPPED: Mapping[str, Callable[[], GreensFunction]] = {"laplace": laplace, "yukawa": yukawa}
"""The Green's functions that come with fmmloopy, by name; parameters have their defaults."""
