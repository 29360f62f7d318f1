"""What a proof takes for granted: how a kernel is launched, and what its operator declares of its arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fmmloopy.checking.proof.facts import Facts, constraints
from fmmloopy.checking.proof.integers import (
    Affine,
    Argument,
    AtLeastZero,
    Atom,
    Condition,
    IsZero,
    Load,
    floor_of,
    of,
    whole,
)
from fmmloopy.checking.proof.verdict import Unproved
from fmmloopy.common.sizes import MOST_INDEX, ROWS
from fmmloopy.operators.operator import Array, Boxes, Families, Operator
from fmmloopy.recipes.lanes import LANE_BOUNDS

TILES_OF_ROWS = "tiles of rows"
"""Stands for the length of vectors divided by ROWS, of which it is a multiple."""


@dataclass(frozen=True)
class Contract:
    """What the two kernels of a proof may assume.

    Attributes:
        operator: whose kernels they are.
        arrays: its arguments that are arrays.
    """

    operator: Operator
    arrays: Sequence[Array]

    def launch(self, lanes: Mapping[str, int]) -> dict[str, Affine]:
        """Return the arguments that plans compute from numbers of lanes: how many tiles there are.

        Raises:
            Unproved: the padding of arrays does not allow as many lanes.
        """
        for name, width in lanes.items():
            if width not in LANE_BOUNDS[name]:
                raise Unproved(f"{name} is {width}, more than the padding of arrays allows")
        found = {}
        if count := _counted(self.operator):
            width = lanes.get("blanes", 1)
            found["btiles"] = floor_of(of(Argument(count)) + whole(width - 1), width)
        if "ilanes" in self.operator.lanes:
            found["itiles"] = of(Argument(TILES_OF_ROWS), ROWS // lanes.get("ilanes", 1))
        return found

    def merged(self, lanes: Mapping[str, int]) -> dict[str, tuple[int, int]]:
        """Return the arrays with axes for tile and lane of a row: the number of the latter axis, and its length."""
        shapes = {array.name: [axis.strip() for axis in array.shape.split(",")] for array in self.arrays}
        width = lanes.get("ilanes", 1)
        return {name: (axes.index("ilanes"), width) for name, axes in shapes.items() if "ilanes" in axes}

    def bounds(self, facts: Facts) -> dict[str, Affine]:
        """Return what entries of arrays of indices are below; they are at least 0."""
        sizes: dict[str, Affine] = {}
        for array in self.arrays:
            axes = [axis.strip() for axis in array.shape.split(",")]
            for axis, length in zip(axes, facts.kernel.arg_dict[array.name].shape or (), strict=False):
                if isinstance(length, int):
                    sizes[axis] = whole(length)
        return {array.name: sizes[array.below] for array in self.arrays if array.below in sizes}

    @property
    def distinct(self) -> dict[str, int]:
        """Arrays whose columns differ, with their numbers of rows."""
        return {array.name: int(array.shape.split(",")[0]) for array in self.arrays if array.has_distinct_columns}


def _counted(operator: Operator) -> str:
    """Return the argument that counts the boxes that tiles are made of."""
    if isinstance(operator.over, Families):
        return "nparents"
    return "ntargets" if isinstance(operator.over, Boxes) else ""


def assumptions_of(facts: Facts, launch: Mapping[str, Affine]) -> tuple[Condition, ...]:
    """Return what a kernel assumes of its arguments, but for those that are computed from numbers of lanes."""
    found: list[Condition] = [AtLeastZero(of(Argument(TILES_OF_ROWS)) - whole(1))]
    for equation, terms, constant in constraints(facts.kernel.assumptions):
        value = whole(constant)
        for name, factor in terms:
            if name not in facts.kernel.arg_dict or name in launch:
                break
            value = value + of(Argument(str(name)), factor)
        else:
            found.append(IsZero(value) if equation else AtLeastZero(value))
    return tuple(found)


def assumed_ranges(atom: Atom) -> tuple[int, int] | None:
    """Return the least and the most value of a number that is loaded or an argument; None for others."""
    if isinstance(atom, Argument):
        return 0, MOST_INDEX // ROWS if atom.name == TILES_OF_ROWS else MOST_INDEX
    return (0, MOST_INDEX) if isinstance(atom, Load) else None
