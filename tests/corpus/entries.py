"""What the corpus holds: recipes with one mistake in them, and right ones that look unlike the shipped ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from corpus.mistakes import Edit, Kernel, as_it_is, lanes, then
from fmmloopy.recipes import Recipe, RecipeBook

LAYERS = ("static", "exact", "numerical", "hostile", "symbolic", "sanitized", "fmm")
"""Layers in the order in which they find something: suspicions of the symbolic layer are tried after other inputs."""

ANY_RUN = ("exact", "hostile", "numerical", "sanitized")
"""Layers that may see what depends on what happens to be in memory, whichever runs first."""

PARTICLES = ("p2p", "p2m", "p2l", "l2p", "m2p")
DENSE = ("m2m", "l2l", "m2l", "check_to_equivalent")
TRANSFORMS = ("m2l_forward", "m2l_hadamard", "m2l_inverse")

SCHEDULES: Mapping[str, Edit] = {
    **dict.fromkeys((*PARTICLES, "p2p_mutual"), lanes(tlanes=4, slanes=3)),
    **dict.fromkeys(("m2m", "l2l", "check_to_equivalent"), lanes(blanes=3, ilanes=2)),
    "m2l": lanes(ilanes=2),
    "m2l_hadamard": lanes(blanes=3),
    "m2l_svd": lanes(blanes=3, ilanes=2),
    **dict.fromkeys(("m2l_forward", "m2l_inverse"), as_it_is),
}
"""How operators are scheduled where it does not matter: with tiles that nothing divides."""


@dataclass(frozen=True, eq=False)
class Wrong:
    """A recipe with a mistake.

    Attributes:
        operator: whose recipe.
        family: the kind of mistake.
        layer: of the check, the one that is to find it.
        name: what the mistake is.
        effect: what it would do in the field.
        recipe: ends with the mistake.
        step: the step of the mistake, as findings name it.
        dtype: what the check runs in.
        level: of the check: full for what quick does not try.
        also: layers that find it first on devices that run work-items in step, or work-groups in another order.
        tuning: values of the recipe's keyword arguments.
    """

    operator: str
    family: str
    layer: str
    name: str
    effect: str
    recipe: Recipe
    step: str = "2 'mistake'"
    dtype: Any = np.float64
    level: str = "quick"
    also: tuple[str, ...] = ()
    tuning: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Operator and name, unique."""
        return f"{self.operator}: {self.name}"

    @property
    def book(self) -> RecipeBook:
        """A book with this recipe alone."""
        tuning = {self.operator: self.tuning} if self.tuning else {}
        return RecipeBook(self.id, device="", recipes={self.operator: self.recipe}, tuning=tuning)


def wrong(
    operator: str,
    family: str,
    layer: str,
    name: str,
    effect: str,
    mistake: Edit,
    *,
    schedule: Edit | None = None,
    late: bool = False,
    dtype: Any = np.float64,
    level: str = "quick",
    also: tuple[str, ...] = (),
) -> Wrong:
    """Make a recipe of two steps, a right one and the same with a mistake.

    Args:
        operator, family, layer, name, effect, dtype, level, also: as in `Wrong`.
        mistake: an edit.
        schedule: what the right step does, and the wrong one too; None for the operator's in SCHEDULES.
        late: make the mistake after scheduling and not before.
    """
    chosen = schedule or SCHEDULES[operator]
    whole = then(chosen, mistake) if late else then(mistake, chosen)

    def recipe(knl: Kernel) -> Iterator[tuple[str, Kernel]]:
        yield "right", chosen(knl)
        yield "mistake", whole(knl)

    return Wrong(operator, family, layer, name, effect, recipe, dtype=dtype, level=level, also=also)


@dataclass(frozen=True, eq=False)
class Right:
    """A right recipe.

    Attributes:
        operator: whose recipe.
        name: what is unusual about it.
        recipe: the recipe.
        dtypes: what the check runs in.
    """

    operator: str
    name: str
    recipe: Recipe
    dtypes: tuple[Any, ...] = (np.float64,)

    @property
    def id(self) -> str:
        """Operator and name, unique."""
        return f"{self.operator}: {self.name}"

    @property
    def book(self) -> RecipeBook:
        """A book with this recipe alone."""
        return RecipeBook(self.id, device="", recipes={self.operator: self.recipe})


def right(operator: str, name: str, *edits: Edit, dtypes: tuple[Any, ...] = (np.float64,)) -> Right:
    """Make a recipe of the edits, all in one step: what they make of a kernel on the way need not run."""
    whole = then(*edits)

    def recipe(knl: Kernel) -> Iterator[tuple[str, Kernel]]:
        yield name, whole(knl)

    return Right(operator, name, recipe, dtypes)
