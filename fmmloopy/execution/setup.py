"""What an evaluation is made with, before there are points: values that code, plans, rates and certificates hang on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fmmloopy.execution.devices import Device
from fmmloopy.execution.key import CodeKey
from fmmloopy.greens import GreensFunction
from fmmloopy.operators import Operator, Specification
from fmmloopy.precision import DOUBLE, Precision, Types
from fmmloopy.recipes.book import RecipeBook


@dataclass(frozen=True)
class Method:
    """The discretization: what decides how much work there is, and how large the error.

    Attributes:
        kernel: the plain Green's function.
        order: points per edge of the surfaces.
        precision: which numbers are float32.
    """

    kernel: GreensFunction
    order: int
    precision: Precision = DOUBLE

    def specification(self, operator: Operator, gradient: bool = False, types: Types | None = None) -> Specification:
        """Return what the kernel of an operator is made for.

        Args:
            operator: the operator.
            gradient: whether its Green's function has rows for the gradient too.
            types: of the kernel; None for those that it has in this precision.
        """
        kernel = self.kernel.with_gradient() if gradient else self.kernel
        return Specification(operator, kernel, self.order, types or operator.types_in(self.precision))


@dataclass(frozen=True)
class Setup:
    """A method, and how it is run.

    Attributes:
        method: the discretization.
        book: recipes.
        device: what they run on.
        parameters: keyword arguments of the recipes, by operator; where not given, what they have on the device.
    """

    method: Method
    book: RecipeBook
    device: Device
    parameters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, hash=False)

    def code_key(self, operator: str, gradient: bool = False, types: Types | None = None) -> CodeKey:
        """Return what the code of an operator is made from; arguments as of `Method.specification`, but by name."""
        spec = self.method.specification(self.book.operator(operator), gradient, types)
        return CodeKey(spec, self.book, self.device, self.parameters.get(operator, {}))
