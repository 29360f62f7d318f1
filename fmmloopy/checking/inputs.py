"""The inputs of each layer of a check."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from fmmloopy.checking.case import DEFAULT, POLYNOMIALS, SINGLE, Case, Layout
from fmmloopy.checking.cases import make_case
from fmmloopy.checking.real_cases import real_case
from fmmloopy.greens import GreensFunction, laplace, yukawa
from fmmloopy.operators import Form, Operator, Specification
from fmmloopy.precision import Types

Hostile = Callable[[GreensFunction, int], list[Layout]]
"""Returns layouts on which schedules fail that are right for most, for a Green's function and an order."""


def inputs(layer: str, operator: Operator, types: Types, full: bool, hostile: Hostile) -> Iterator[Case]:
    """Yield the inputs of a layer.

    Args:
        layer: any but static, which has none.
        operator, types: whose.
        full: whether all seeds, orders and layouts are wanted.
        hostile: layouts; called only for layers that have some.
    """

    def specification(greens: GreensFunction, order: int) -> Specification:
        return Specification(operator, greens, order, types)

    if layer == "exact":
        for order in (3, 2, 4, 6) if full else (3,):
            for greens in POLYNOMIALS:
                for seed in range(3 if full else 1):
                    yield make_case(specification(greens, order), seed)
    elif layer == "hostile":
        for greens in POLYNOMIALS if full else POLYNOMIALS[1:]:
            for layout in hostile(greens, 3):
                yield make_case(specification(greens, 3), 1, layout)
    elif layer == "numerical":
        functions = [laplace(), yukawa(0.5)] if operator.particles else [laplace()]
        if operator.gives_potentials:
            functions += [f.with_gradient() for f in functions]
        for greens in functions:
            for layout in (DEFAULT, SINGLE) if operator.particles else (DEFAULT,):
                yield real_case(specification(greens, 3), layout=layout)
    else:
        # The least order at which every loop of a transform has more than one turn.
        greens, order = POLYNOMIALS[1], 3 if operator.form in (Form.TRANSFORM, Form.PRODUCT) else 2
        for layout in (DEFAULT, *(hostile(greens, order) if full else ())):
            yield make_case(specification(greens, order), 2, layout)
