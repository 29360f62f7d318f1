"""A recipe book in a package of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fmmloopy.recipes import RecipeBook
from fmmloopy.transforms import steps


def p2p(knl: Any, *, lanes: int = 4) -> Iterator[tuple[str, Any]]:
    """Targets as short arrays."""
    yield "lanes of the plug-in", steps.one_group_per(steps.lane_arrays(knl, lanes), "ibox")


BOOK = RecipeBook(
    "example_cpu",
    device="CPU",
    recipes={"p2p": p2p},
    tuning={"p2p": {"lanes": (4, 8)}},
    by_device={"p2p": {"vector machine": {"lanes": 8}}},
)
