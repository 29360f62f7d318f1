"""The decisions made before an evaluation is built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fmmloopy.choosing.cost_model import Choice, Rates, choose, why_fft_alone
from fmmloopy.execution.setup import Setup
from fmmloopy.octree.tree import Tree


@dataclass(frozen=True)
class Decision:
    """Everything that an evaluation is built from, except its points.

    Attributes:
        setup: the method, recipes and device.
        choice: ncrit and the form of M2L, with the reason.
        fft_alone: why no other form of M2L was compared; None if one was, or if the form was given.
        digits: the wanted digits; None if an order was given instead.
    """

    setup: Setup
    choice: Choice
    fft_alone: str | None
    digits: float | None


def decide(
    setup: Setup,
    grow: Callable[[int], Tree],
    most: int,
    rates_of: Callable[[str], Rates | None],
    *,
    ncrit: int | None = None,
    m2l: str | None = None,
    digits: float | None = None,
    largest: int | None = None,
) -> tuple[Decision, Tree | None]:
    """Choose ncrit and the form of M2L, unless they are given.

    Args:
        setup: the method, recipes and device.
        grow: builds the tree for an ncrit.
        most: number of sources or targets, whichever is larger.
        rates_of: returns the rates with a form of M2L, None if there are none; not called if both are given.
        ncrit: maximum number of points in a leaf; None to choose.
        m2l: the form of M2L; None to choose.
        digits: the wanted digits.
        largest: the largest ncrit to choose; None for any.

    Returns:
        The decision; and the tree for it, if it was built for the comparison.
    """
    fft_alone = None if m2l else why_fft_alone(setup.method, most)
    forms = (m2l,) if m2l else ("fft",) if fft_alone else ("fft", "svd")
    choice, tree = choose(grow, most, setup, rates_of, forms, ncrit, largest)
    return Decision(setup, choice, fft_alone, digits), tree
