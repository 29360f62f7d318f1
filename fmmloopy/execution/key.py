"""Keys of cached code: everything that the code depends on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fmmloopy import greens, precision, terms
from fmmloopy import operators as operators_package
from fmmloopy.common import sizes
from fmmloopy.common.messages import one_line
from fmmloopy.execution.backends import backend_of
from fmmloopy.execution.devices import Device
from fmmloopy.operators import Operator, Specification
from fmmloopy.recipes import apply, lanes, layouts
from fmmloopy.recipes.apply import Step, apply_recipe
from fmmloopy.recipes.book import SEQUENTIAL, RecipeBook, RecipeError
from fmmloopy.recipes.fingerprint import fingerprint, hash_of_sources
from fmmloopy.recipes.identity import kernel_identity
from fmmloopy.recipes.load import shipped_books, shipped_files

FORMAT = 6
"""Increase it when the same key must give different code."""


@dataclass(frozen=True)
class CodeKey:
    """Everything that the code of an operator depends on.

    Attributes:
        specification: the specification of its math-level kernel; the values of the Green's function's parameters do
            not matter.
        book: the recipe book.
        device: the device that the code is for.
        parameters: keyword arguments of the recipe; those that are not given have their defaults on the device.
        most_steps: number of steps of the recipe; None for all.
    """

    specification: Specification
    book: RecipeBook
    device: Device
    parameters: Mapping[str, Any] = field(default_factory=dict, hash=False)
    most_steps: int | None = None

    @property
    def operator(self) -> str:
        """The operator's name."""
        return self.specification.operator.name

    def text(self) -> str:
        """Return everything that the code depends on as text; sequential kernels are the same in all books."""
        is_own = self.operator in self.book.recipes or self.operator in self.book.operators
        return repr(
            {
                "format": FORMAT,
                "math": math_hash(self.specification.operator),
                "specification": self.specification.key,
                "book": self.book.name if is_own else SEQUENTIAL.name,
                "recipe": self.book.fingerprint(self.operator),
                "parameters": sorted(self._given.items()),
                "steps": self.most_steps,
                "device": (
                    self.device.backend,
                    backend_of(self.device).prelude,
                    self.device.description,
                    self.device.driver,
                ),
                "versions": versions(),
            }
        )

    def shipping_text(self) -> str | None:
        """Return what the code of a shipped book depends on beside the sources, as text: no device, but its backend.

        None for other books, and for a part of a recipe.
        """
        if self.most_steps is not None or self.book is not shipped_books().get(self.book.name):
            return None
        backend = self.device.backend, backend_of(self.device).prelude
        recipe = self.book.name, self.operator, sorted(self._given.items())
        return repr((FORMAT, self.specification.key, recipe, backend, dict(versions())["loopy"]))

    def steps(self) -> list[Step]:
        """Apply the recipe and return the kernel after each step.

        Raises:
            RecipeError: there is no kernel for the Green's function, or the recipe fails.
        """
        spec = self.specification
        try:
            math = spec.kernel()
        except Exception as error:
            raise RecipeError(f"{self.operator}: no kernel for {spec.greens.name!r}: {one_line(error)}") from error
        return apply_recipe(self.book, self.operator, math, self._given, self.most_steps)

    def kernel(self) -> str:
        """Return the identity of the kernel after the last step, without generating code; for errors see `steps`."""
        return kernel_identity(self.steps()[-1].kernel, self.book.build_options)

    @property
    def _given(self) -> dict[str, Any]:
        """Keyword arguments of the recipe."""
        return self.book.parameters_on(self.operator, self.device, self.parameters)


@cache
def math_hash(operator: Operator) -> str:
    """Return a hash of the code that makes the math-level kernel of an operator."""
    return fingerprint((operator, Specification))


@cache
def sources_hash() -> str:
    """Return a hash of the code of operators, books, and the modules between them, without comments and file names."""
    between = [Path(module.__file__ or "") for module in (terms, greens, precision, sizes, apply, lanes, layouts)]
    folder = Path(operators_package.__file__ or "").parent
    return hash_of_sources([*between, *folder.glob("*.py"), *shipped_files()])[:32]


@cache
def versions() -> tuple[tuple[str, str], ...]:
    """Return the versions of the packages that the code depends on."""
    found = []
    for package in ("fmmloopy", "loopy", "islpy", "pymbolic"):
        try:
            found.append((package, version(package)))
        except PackageNotFoundError:
            found.append((package, "none"))
    return tuple(found)


def recipe_hash(book: RecipeBook, operator: str) -> str:
    """Return a short hash of the recipe of an operator, and of all that it calls."""
    return hashlib.sha256(book.fingerprint(operator).encode()).hexdigest()[:32]
