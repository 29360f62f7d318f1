"""The inputs of each layer of a check."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from fmmloopy.checking.case import (
    DEFAULT,
    POLYNOMIAL,
    POLYNOMIAL_2X2,
    POLYNOMIAL_3X3,
    POLYNOMIAL_4X3,
    POLYNOMIALS,
    SINGLE,
    Case,
    Layout,
)
from fmmloopy.checking.cases import make_case
from fmmloopy.checking.drawn import drawn, large_points
from fmmloopy.checking.real_cases import real_case
from fmmloopy.components import CHARGES, Components
from fmmloopy.greens import GreensFunction, laplace, yukawa
from fmmloopy.kernels import KERNELS
from fmmloopy.operators import Form, Operator, Specification
from fmmloopy.precision import FLOAT64, Types

PARAMETERS = {"helmholtz": 1.0, "plummer": 0.1, "gaussian": 1.0}
"""Of functions that need one, by name."""

SHIPPED = {
    name: make(PARAMETERS[name]) if name in PARAMETERS else make()
    for name, make in KERNELS.items()
    if name not in ("laplace", "yukawa")
}
"""Green's functions that ship, beside those of Laplace and Yukawa."""

VECTORS = (2, 3, 8)
"""Numbers of vectors of charges that are evaluated at once."""

Lanes = Callable[[GreensFunction, int], Mapping[str, int]]
"""Returns the numbers of lanes that a recipe has fixed, for a Green's function and an order."""

Hostile = Callable[[GreensFunction, int], list[Layout]]
"""Returns layouts on which schedules fail that are right for most, for a Green's function and an order."""

IsProved = Callable[[GreensFunction], bool]
"""Returns whether the kernel for a Green's function is proved for all sizes."""


@dataclass(frozen=True)
class Input:
    """What a case is made from: small enough to send to another process, which makes the same case from it.

    Attributes:
        spec, layout: of the case.
        seed: of the random numbers.
        real: whether numbers are not whole, and the Green's function is a real one.
    """

    spec: Specification
    seed: int = 0
    layout: Layout = DEFAULT
    real: bool = False

    def case(self) -> Case:
        """Make the case."""
        return (real_case if self.real else make_case)(self.spec, self.seed, self.layout)


def several(types: Types) -> GreensFunction:
    """Return the function of several components for a precision: all of them are tried if all precisions are."""
    if types.is_mixed:
        return POLYNOMIAL_2X2
    return POLYNOMIAL_3X3 if types == FLOAT64 else POLYNOMIAL_4X3


def orders_of_transforms(types: Types) -> tuple[int, ...]:
    """Return the orders of transforms, beside 3, for a precision; each is code of its own."""
    if types.is_mixed:
        return (6, 7)
    return (5, 9) if types == FLOAT64 else (8, 4)


def of_other_functions(operator: Operator, types: Types, full: bool) -> Iterator[Input]:
    """Yield numerical inputs with functions other than Laplace's and Yukawa's: at level quick, one that has sines."""
    sides = operator.particles
    if not sides:
        return
    quick = [SHIPPED["helmholtz"]] if types == FLOAT64 else []
    for greens in SHIPPED.values() if full else quick:
        part = greens.between(sides.sources.is_surface, sides.targets.is_surface)
        each = all_components(part) if full else (CHARGES,)
        for function in dict.fromkeys(operator.own(components).of(part) for components in each):
            yield Input(Specification(operator, function, 3, types), real=True)


def all_components(greens: GreensFunction) -> tuple[Components, ...]:
    """Return all kinds of inputs and outputs of a function; second derivatives if it has a single component."""
    found = CHARGES, Components(gradient=True), Components(vectors=VECTORS[0])
    is_scalar = greens.ntarget_components == greens.nsource_components == 1
    return (*found, Components(dipoles=True, gradient=True, hessian=True)) if is_scalar else found


def extended(types: Types, full: bool) -> tuple[Components, ...]:
    """Return what the real functions get beside charges and gradients; it is shared out among the precisions.

    Float64 has several vectors of charges in the exact layer.
    """
    dipoles, *vectors = Components(dipoles=True, gradient=True, hessian=True), *(Components(vectors=k) for k in VECTORS)
    if full:
        return dipoles, *vectors
    return (dipoles,) if types.is_mixed else () if types == FLOAT64 else (vectors[-1],)


def inputs(
    layer: str, operator: Operator, types: Types, full: bool, lanes: Lanes, hostile: Hostile, is_proved: IsProved
) -> Iterator[Input]:
    """Yield the inputs of a layer.

    Args:
        layer: any but static, which has none.
        operator, types: whose.
        full: whether all seeds, orders and layouts are wanted.
        lanes: numbers of lanes; called only for layers whose inputs depend on them.
        hostile: layouts; called only for layers that have some.
        is_proved: unless all inputs are wanted, the first and the last of several functions stand for those whose
            kernels are proved, in the numerical layer; on inputs that are large in numbers, the last alone.
    """

    def specification(greens: GreensFunction, order: int) -> Specification:
        return Specification(operator, greens, order, types)

    functions = [POLYNOMIAL, several(types)]
    vectors = [POLYNOMIAL_2X2.for_vectors(count) for count in VECTORS] if operator.particles else []
    if layer == "exact":
        for order in (3, 2, 4, 6) if full else (3,):
            for greens in POLYNOMIALS if full else functions:
                for seed in range(3 if full else 1):
                    yield Input(specification(greens, order), seed)
        for greens in (POLYNOMIAL_3X3, POLYNOMIAL_4X3) if full else ():
            yield Input(specification(greens, 3))
        for greens in vectors if full else vectors[1:2] if types == FLOAT64 else ():
            yield Input(specification(greens, 3))
        if operator.form == Form.TRANSFORM:
            for order in (5, 7, 8, 9, 10, 11, 12) if full else orders_of_transforms(types):
                yield Input(specification(POLYNOMIAL, order))
    elif layer == "hostile":
        for greens in (*POLYNOMIALS, *vectors) if full else functions[1:]:
            for layout in hostile(greens, 3):
                yield Input(specification(greens, 3), 1, layout)
        for spec, layout in drawn(operator, types, functions, lanes(functions[1], 3), full):
            yield Input(spec, 1, layout)
    elif layer == "numerical":
        real = [laplace(), yukawa(0.5)] if operator.particles else [laplace()]
        if operator.gives_potentials:
            real += [f.with_gradient() for f in real]
        if operator.particles:
            for components in extended(types, full):
                yield Input(specification(operator.own(components).of(laplace()), 3), real=True)
        for greens in real:
            if not full and greens not in (real[0], real[-1]) and is_proved(greens):
                continue
            yield Input(specification(greens, 3), real=True)
            if operator.particles:
                yield Input(specification(greens, 3), layout=SINGLE, real=True)
            if operator.particles and (full or greens is real[-1] or not is_proved(greens)):
                yield Input(specification(greens, 2), layout=large_points(operator), real=True)
    else:
        # The least order at which every loop of a transform has more than one turn.
        greens, order = functions[1], 3 if operator.form in (Form.TRANSFORM, Form.PRODUCT) else 2
        for layout in (DEFAULT, *(hostile(greens, order) if full else ())):
            yield Input(specification(greens, order), 2, layout)
        for greens in vectors if full else ():
            yield Input(specification(greens, order), 2)
