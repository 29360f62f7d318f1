"""What an evaluation asks of the others, if its points are a part of those of a problem."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from fmmloopy.octree.lists import InteractionLists
from fmmloopy.octree.tree import Tree

Result = TypeVar("Result")


class Part(Protocol):
    """A part of a problem: its tree and lists, and exchanges with the other parts.

    All methods are called by all parts, in the same order.

    Attributes:
        tree: the part's boxes, and those of others that its targets interact with.
        lists: interaction lists of the part's boxes.
        same_points: whether the part's targets are its sources, and other parts' are not its own.
        on_machine: how many parts are on this machine, this one among them.
        exchanged: the boxes whose multipoles are sent or received, in ascending order.
        distance: lower bound on the distance of two points of the whole problem that do not coincide; None if some are
            too close together for float32, or if it is not needed.
    """

    tree: Tree
    lists: InteractionLists
    same_points: bool
    on_machine: int
    exchanged: NDArray[np.int64]
    distance: float | None

    def bring_in(self, charges: NDArray[Any]) -> NDArray[Any]:
        """Return the charges of the tree's sources.

        Args:
            charges: shape (columns, n), of the caller's sources, in the caller's order.

        Returns:
            Shape (columns, nsources), in tree order.
        """

    def take_out(self, potentials: NDArray[Any]) -> NDArray[Any]:
        """Return potentials to the callers of their targets.

        Args:
            potentials: shape (rows, ntargets), in tree order.

        Returns:
            Shape (rows, n), in the caller's order.
        """

    def largest(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return the largest values of all parts, entry by entry."""

    def exchange_multipoles(self, values: NDArray[Any]) -> None:
        """Add what other parts have of the multipoles of boxes, and fill in those of other parts' boxes.

        Args:
            values: shape (len(exchanged), columns, nsurface); changed in place.
        """

    def together(self, call: Callable[[], Result]) -> Result:
        """Return the result of a call that exchanges nothing; if it fails in any part, all parts raise an error."""
