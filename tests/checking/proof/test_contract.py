"""What proofs take for granted of an operator's arrays holds for those that plans and cases have."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fmmloopy.checking.over import octets
from fmmloopy.common.sizes import FIRST_ORDER, LAST_ORDER
from fmmloopy.operators import OPERATORS
from fmmloopy.operators.operator import Array, Number
from fmmloopy.tables import surfaces

DECLARED = {
    (array.name, array.below, array.has_distinct_columns)
    for operator in OPERATORS.values()
    for array in operator.arguments
    if isinstance(array, Array) and (array.below or array.has_distinct_columns)
}


def test_all_declared_arrays_are_tested() -> None:
    assert {("surface_grid", "{order}", True)} == DECLARED


@pytest.mark.parametrize("grid_of", [surfaces.surface_grid, octets.surface_grid], ids=["plans", "cases"])
def test_grid_coordinates_are_below_the_order_and_differ(grid_of: Any) -> None:
    for order in range(FIRST_ORDER, LAST_ORDER + 1):
        grid: NDArray[np.int32] = grid_of(order)
        assert grid.min() >= 0
        assert grid.max() < order
        assert len(np.unique(grid, axis=1).T) == grid.shape[1]


def test_every_operator_declares_independent_loops_of_its_kernel() -> None:
    for operator in OPERATORS.values():
        assert operator.independent, operator.name
        assert not {a.name for a in operator.arguments if isinstance(a, (Array, Number))} & set(operator.independent)
