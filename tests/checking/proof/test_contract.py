"""What proofs take for granted of an operator's arrays holds for those that plans and cases have."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fmmloopy.checking.case import POLYNOMIAL, POLYNOMIAL_2X2
from fmmloopy.checking.cases import make_case
from fmmloopy.checking.over import octets
from fmmloopy.checking.proof.contract import TILES_OF_ROWS, Contract
from fmmloopy.checking.proof.integers import Affine, Argument, Floor
from fmmloopy.common.sizes import FIRST_ORDER, LAST_ORDER, ROWS
from fmmloopy.execution.launch import count_tiles
from fmmloopy.operators import OPERATORS, Specification
from fmmloopy.operators.operator import Array, Boxes, Families, Lists, Number, Octets, Operator, Pairs, Units
from fmmloopy.precision import FLOAT64
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


def _groups(over: Any, arguments: Any) -> list[NDArray[Any]]:
    """Return what each iteration of the independent loops stores to: boxes, octets or points, one array for each."""
    match over:
        case Lists() if "box_target_starts" in arguments:
            starts, ends = arguments["box_target_starts"], arguments["box_target_ends"]
            return [np.arange(starts[box], ends[box]) for box in arguments["target_boxes"]]
        case Lists():
            return list(arguments["target_boxes"][:, None])
        case Boxes():
            return list(arguments["boxes"][: arguments["ntargets"], None])
        case Families():
            parents = arguments["parents"][: arguments["nparents"]]
            children = arguments["children"][parents].ravel()
            return [*parents[:, None], *children[children < arguments["nboxes"], None]]
        case Octets():
            children = arguments["octet_children"].ravel()
            return list(children[children < arguments["nboxes"], None])
        case Pairs():
            starts, targets = arguments["pair_starts"], arguments["pair_targets"]
            bounds = starts[:: over.groups]
            return [np.unique(targets[start:end]) for start, end in pairwise(bounds)]
        case Units():
            both = np.stack([arguments["pair_targets"], arguments["pair_sources"]])
            bounds = arguments["unit_starts"][: arguments["nunits"] + 1]
            return [np.unique(both[:, start:end]) for start, end in pairwise(bounds)]
    raise AssertionError(over)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", OPERATORS)
def test_independent_loops_store_to_different_entries(name: str, seed: int) -> None:
    operator = OPERATORS[name]
    greens = POLYNOMIAL if operator.particles else POLYNOMIAL_2X2
    case = make_case(Specification(operator, greens, 3, FLOAT64), seed)
    groups = [group for group in _groups(operator.over, case.arguments) if len(group)]
    entries = np.concatenate(groups)
    assert len(groups) > 1
    assert len(np.unique(entries)) == len(entries)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("operator", [operator for operator in OPERATORS.values() if operator.ranges])
def test_ranges_have_no_entry_in_common(operator: Operator, seed: int) -> None:
    arguments = make_case(Specification(operator, POLYNOMIAL, 3, FLOAT64), seed).arguments
    boxes = np.unique([arguments["pair_targets"], arguments["pair_sources"]])
    counts = arguments["box_source_ends"] - arguments["box_source_starts"]
    entries = [start + np.arange(count) for start, count in zip(arguments[operator.ranges[0]], counts, strict=True)]
    stored = np.concatenate([entries[box] for box in boxes])
    assert len(boxes) > 2
    assert len(np.unique(stored)) == len(stored)


def _value(form: Affine, sizes: dict[str, int]) -> int:
    """Evaluate what a proof assumes of a number of tiles."""

    def of_atom(atom: Any) -> int:
        match atom:
            case Argument():
                return sizes[atom.name]
            case Floor():
                return _value(atom.numerator, sizes) // atom.divisor
        raise AssertionError(atom)

    return form.constant + sum(factor * of_atom(atom) for atom, factor in form.terms)


@pytest.mark.parametrize("name", ["m2m", "l2l", "check_to_equivalent", "m2l", "m2l_svd"])
def test_proofs_assume_as_many_tiles_as_are_launched(name: str) -> None:
    operator = OPERATORS[name]
    count = {Families: "nparents", Boxes: "ntargets"}.get(type(operator.over))
    seen = set()
    for blanes in (1, 2, 3, 8):
        for ilanes in (1, 2, 4, 8):
            lanes = {"blanes": blanes, "ilanes": ilanes}
            assumed = Contract(operator, []).launch(lanes)
            seen |= set(assumed)
            for boxes in range(20):
                for blocks in (1, 7):
                    sizes = {TILES_OF_ROWS: blocks, **({count: boxes} if count else {})}
                    launched = count_tiles(boxes, blocks * ROWS, lanes)
                    assert {n: _value(form, sizes) for n, form in assumed.items()} == {n: launched[n] for n in assumed}
    assert seen == {a.name for a in operator.arguments if isinstance(a, Number)} & {"btiles", "itiles"}
