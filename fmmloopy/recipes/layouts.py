"""Layouts: in which order a recipe puts the axes of an argument in memory.

A recipe may choose the order for arguments whose record names their axes (:class:`fmmloopy.operators.operator.Array`),
with `fmmloopy.transforms.steps.order_axes` or loopy's ``tag_array_axes``. It is read from the kernel after the last
step: plans write tables by it, checks their cases, and operators that share an array must have the same.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmmloopy.operators.operator import Array, Kernel, Operator
from fmmloopy.recipes.book import RecipeError

Order = tuple[int, ...]
"""Numbers of axes, the slowest in memory first."""

SAMPLES = 4
"""Values of sizes for which strides are compared; they are products of sizes."""


def ordered(operator: Operator) -> dict[str, Array]:
    """Return the arrays of an operator whose axes a recipe may order, by name."""
    arguments = (*operator.arguments, *operator.mixed_arguments)
    return {array.name: array for array in arguments if isinstance(array, Array) and array.axes}


def order_in_memory(array: Any) -> Order | None:
    """Return the order of the axes of an argument of a kernel in memory; None if there is none or there are gaps.

    Args:
        array: an argument of loopy that has a shape.
    """
    from loopy.kernel.array import ComputedStrideArrayDimTag, FixedStrideArrayDimTag

    tags, shape = array.dim_tags, array.shape
    if not tags or not isinstance(shape, tuple) or len(tags) != len(shape):
        return None
    if all(isinstance(tag, ComputedStrideArrayDimTag) and not tag.pad_to for tag in tags):
        levels = [tag.layout_nesting_level for tag in tags]
        return tuple(sorted(range(len(tags)), key=lambda axis: -levels[axis])) if None not in levels else None
    if not all(isinstance(tag, FixedStrideArrayDimTag) and is_polynomial(tag.stride) for tag in tags):
        return None
    orders = {_order_of_strides(*_sample([tag.stride for tag in tags], shape, seed)) for seed in range(SAMPLES)}
    return orders.pop() if len(orders) == 1 else None


def is_polynomial(e: Any) -> bool:
    """Return whether an expression is sums and products of names and whole numbers, so that few values tell it."""
    from pymbolic.primitives import Product, Sum, Variable

    if isinstance(e, Sum | Product):
        return all(map(is_polynomial, e.children))
    return isinstance(e, int | Variable)


def _sample(strides: Sequence[Any], shape: Sequence[Any], seed: int) -> tuple[list[int], list[int]]:
    """Return strides and lengths for some values of the sizes that are in them."""
    from loopy.symbolic import get_dependencies
    from pymbolic.mapper.evaluator import EvaluationMapper

    names = sorted({str(name) for x in (*shape, *strides) for name in get_dependencies(x)})
    chance = random.Random(f"{seed} {strides} {shape}")  # sizes that whoever writes the strides cannot choose
    # Ends are above starts: both are sizes, and their differences are lengths.
    value = EvaluationMapper({n: chance.randrange(2, 10**6) + 10**6 * n.endswith("_end") for n in names})
    return [int(value(stride)) for stride in strides], [int(value(length)) for length in shape]


def _order_of_strides(strides: Sequence[int], lengths: Sequence[int]) -> Order | None:
    """Return the order of axes with these strides; None if there are gaps, or entries that share memory."""
    order = sorted(range(len(strides)), key=lambda axis: (-strides[axis], -lengths[axis]))
    expected = 1
    for axis in reversed(order):
        if strides[axis] != expected:
            return None
        expected *= lengths[axis]
    return tuple(order)


def layouts_of(knl: Kernel, operator: Operator, where: str) -> dict[str, Order]:
    """Return the orders of axes in memory that a recipe has chosen, by argument; none where axes are as in the index.

    Args:
        knl: the kernel after the last step of the recipe.
        operator: its record.
        where: for messages: book, operator and step.

    Raises:
        RecipeError: the order of an argument is not free.
    """
    found, free = {}, ordered(operator)
    for name, argument in knl.default_entrypoint.arg_dict.items():
        order = order_in_memory(argument) if getattr(argument, "dim_tags", None) else None
        if order is None or order == tuple(range(len(order))):
            continue
        if name not in free:
            may = f"only those of {', '.join(free)} may be" if free else "no argument of the operator may be"
            raise RecipeError(f"{where}: axes of {name} are in memory in the order {order}; {may} in another order")
        found[name] = order
    return found


def axes_in_memory(array: Array, order: Order | None) -> tuple[str, ...]:
    """Return the names of the axes of an array, the slowest in memory first.

    Args:
        array: an array whose record names its axes.
        order: their order; None for that of the index.
    """
    axes = array.axes.split()
    return tuple(name for axis in order or range(len(axes)) for name in axes[axis].split("*"))


def check_same_layouts(book: str, operators: Iterable[tuple[Operator, Mapping[str, Order]]]) -> None:
    """Make sure that operators that share an array have it in memory in the same order.

    Args:
        book: its name.
        operators: each with the layouts that its recipe has chosen.

    Raises:
        RecipeError: two differ.
    """
    known = dict[str, tuple[str, tuple[str, ...]]]()
    for operator, layouts in operators:
        for name, array in ordered(operator).items():
            axes = axes_in_memory(array, layouts.get(name))
            first, expected = known.setdefault(name, (operator.name, axes))
            if axes != expected:
                raise RecipeError(
                    f"{book}: axes of {name} are in memory as {' '.join(expected)} in {first}, and as {' '.join(axes)} "
                    f"in {operator.name}; order them alike in both recipes"
                )


def as_in_memory(values: NDArray[Any], order: Order | None) -> NDArray[Any]:
    """Return values with their axes in the order in which they are in memory; unchanged without an order."""
    return values if order is None else np.ascontiguousarray(values.transpose(order))


def from_memory(values: NDArray[Any], shape: Sequence[int], order: Order | None) -> NDArray[Any]:
    """Return what `as_in_memory` has made of values of a shape, which may have been flattened, as it was."""
    if order is None:
        return values.reshape(shape)
    return values.reshape([shape[axis] for axis in order]).transpose(np.argsort(order))
