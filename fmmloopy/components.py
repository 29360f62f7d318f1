"""What charges and potentials of an evaluation consist of: charges, dipoles, derivatives, several vectors at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from fmmloopy.greens import SECOND, GreensFunction


@dataclass(frozen=True)
class Components:
    """The components of the sources and targets of an evaluation.

    Attributes:
        charges: whether sources have charges.
        dipoles: whether sources have dipole moments, three for each source component; they follow the charges.
        gradient: whether first derivatives are computed: three for each target component, after the potentials.
        hessian: whether second derivatives are computed: six for each target component, after all others.
        vectors: how many vectors of charges are evaluated at once; all components of one, then those of the next.
    """

    charges: bool = True
    dipoles: bool = False
    gradient: bool = False
    hessian: bool = False
    vectors: int = 1

    def __post_init__(self) -> None:
        if not (self.charges or self.dipoles):
            raise ValueError("charges and dipoles are None, expected at least one of them")

    def columns(self, components: int) -> int:
        """Return how many numbers a source has, given the source components of the Green's function."""
        return self.vectors * components * (self.charges + 3 * self.dipoles)

    def rows(self, components: int) -> int:
        """Return how many numbers a target has, given the target components of the Green's function."""
        return self.vectors * components * (1 + 3 * self.gradient + len(SECOND) * self.hessian)

    def of(self, kernel: GreensFunction) -> GreensFunction:
        """Return a Green's function between points with columns, rows and vectors for these components."""
        extended = kernel.with_dipoles(self.charges) if self.dipoles else kernel
        return extended.with_derivatives(self.gradient, self.hessian).for_vectors(self.vectors)

    @property
    def more(self) -> str:
        """What is computed beside potentials of one vector of charges, in words; "" for nothing."""
        wanted = {
            "fields of dipoles": self.dipoles,
            "gradients": self.gradient,
            "Hessians": self.hessian,
            f"{self.vectors} vectors at once": self.vectors > 1,
        }
        return " and ".join(what for what, is_wanted in wanted.items() if is_wanted)

    def between(self, from_surface: bool, onto_surface: bool) -> Components:
        """Return those of an operator: surfaces have neither dipoles nor derivatives.

        Args:
            from_surface: whether its sources are on a surface.
            onto_surface: whether its targets are on a surface.
        """
        kept = replace(self, charges=True, dipoles=False) if from_surface else self
        return replace(kept, gradient=False, hessian=False) if onto_surface else kept


CHARGES = Components()
"""Potentials of one vector of charges."""

GRADIENT = Components(gradient=True)
"""Potentials and gradients of one vector of charges."""


def by_vector(rows: NDArray[Any], count: int) -> NDArray[Any]:
    """Return rows of several vectors, shape (count rows, n), as an array of shape (count, rows, n); n may be 0."""
    return rows.reshape(count, len(rows) // count, rows.shape[1])


def in_rows(values: NDArray[Any]) -> NDArray[Any]:
    """Return the inverse of `by_vector`."""
    return values.reshape(values.shape[0] * values.shape[1], values.shape[2])
