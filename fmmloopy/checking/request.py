"""What to check of one operator, and what is said if it is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fmmloopy.execution.devices import Device
from fmmloopy.recipes.book import RecipeBook

LAYERS = ("static", "symbolic", "exact", "hostile", "numerical", "sanitized")
"""Layers of an operator in the order in which they run; whole evaluations follow."""

CODE_LIMIT = 180.0
"""Seconds for a step of a recipe, and for generating code, which takes tens of seconds for unrolled kernels on a busy
machine."""

RUN_LIMIT = 60.0
"""Seconds for compiling and running a kernel on a small case; the run takes milliseconds, the compiler seconds."""

SIMULATED = 5
"""Factor by which simulators may run longer: oclgrind is slow on boxes with many neighbours, and the emulated GPU runs
every launch in three orders."""


@dataclass(frozen=True)
class Request:
    """What to check.

    Attributes:
        book: the book that has the recipe.
        device: the device to run on.
        operator: name of the operator.
        dtype: float32, float64 or mixed.
        parameters: keyword arguments of the recipe.
        full: whether to check all seeds, orders and layouts.
        layers: some of LAYERS, in their order.
        reproducers: folder for reproducers, "" for none.
        code_limit: seconds for a step of the recipe, and for generating code.
        run_limit: seconds for compiling and running a kernel; SIMULATED times as many on simulators.
        smallest: whether to look for the smallest input that fails.
        every_step: whether the static layer generates code after every step, or after the last one only.
    """

    book: RecipeBook
    device: Device
    operator: str
    dtype: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    full: bool = False
    layers: tuple[str, ...] = LAYERS
    reproducers: str = ""
    code_limit: float = CODE_LIMIT
    run_limit: float = RUN_LIMIT
    smallest: bool = True
    every_step: bool = True


@dataclass(frozen=True)
class Failure:
    """What is wrong.

    Attributes:
        layer: one of LAYERS.
        step: number and name of the first step at which it fails, such as ``"2 'split sources'"``; "" if there is none.
        message: what is wrong, in one line.
        case: the smallest input that reproduces it, in words.
        reproducer: path of a program that reproduces it.
    """

    layer: str
    step: str
    message: str
    case: str = ""
    reproducer: str = ""


def reproducer_name(request: Request, layer: str) -> str:
    """Return the name of the program that reproduces an error."""
    chosen = "".join(f"-{name}-{value}" for name, value in request.parameters.items())
    return f"{request.book.name}-{request.operator}{chosen}-{request.dtype}-{layer}"
