"""Recipes: how a math-level operator becomes fast on one family of devices.

A recipe is a generator. It takes the math-level kernel of an operator, rewrites it, and yields ``(name, kernel)`` after
each step; every yielded kernel is complete and can run. Keyword arguments of the recipe are tuning parameters::

    def p2p(knl, *, lanes: int = 8):
        '''Why this is fast on this device, and where that was measured.'''
        knl = steps.lane_arrays(knl, lanes)
        yield "targets in lanes", knl
        knl = lp.tag_inames(knl, {"ibox": "g.0"})
        yield "one work-group per box", knl

    def my_cpus(device):
        '''CPUs through my runtime.'''
        return device.kind == "cpu" and device.runtime == "mine"

    BOOK = RecipeBook("my_cpu", device=my_cpus, recipes={"p2p": p2p}, tuning={"p2p": {"lanes": (4, 8, 16)}})

An operator without a recipe runs as its sequential kernel: a new device needs one file, and is correct before it is
fast.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import FunctionType, MappingProxyType
from typing import Any

from fmmloopy.operators import OPERATORS, Operator
from fmmloopy.operators.operator import Kernel
from fmmloopy.recipes.fingerprint import fingerprint
from fmmloopy.recipes.hints import described
from fmmloopy.recipes.lanes import sequential_recipe

Recipe = Callable[..., Iterator[tuple[str, Kernel]]]

Condition = Callable[[Any], bool] | str
"""A condition on devices: a function of a :class:`fmmloopy.Device`, whose docstring describes the devices in its first
line; or a regular expression that is searched for in the descriptions of devices."""


class RecipeError(Exception):
    """A recipe or a book cannot be used; the message says which, why, and what to do."""


@dataclass(frozen=True)
class RecipeBook:
    """Recipes for one family of devices.

    Attributes:
        name: identifier by which users choose the book.
        device: the devices that the book is for: a function of a :class:`fmmloopy.Device` that is true for them, or a
            regular expression that is found in their descriptions.
        recipes: operator -> recipe; operators without one run as their sequential kernels.
        tuning: operator -> keyword argument of its recipe -> values worth trying.
        by_device: operator -> condition, a function or a regular expression as for ``device`` -> keyword arguments of
            its recipe, which override the defaults on devices that meet the condition. The first condition that is met
            counts. Use it where processors with the same runtime need different parameters.
        build_options: options for the device's compiler.
        operators: the book's own operators, by the name of the operator that each replaces.

    Raises:
        RecipeError: an operator is unknown, a condition is neither a function nor a regular expression, or the recipe
            has no such keyword.
    """

    name: str
    device: Condition
    recipes: Mapping[str, Recipe] = field(default_factory=dict)
    tuning: Mapping[str, Mapping[str, tuple[Any, ...]]] = field(default_factory=dict)
    build_options: tuple[str, ...] = ()
    by_device: Mapping[str, Mapping[Condition, Mapping[str, Any]]] = field(default_factory=dict)
    operators: Mapping[str, Operator] = field(default_factory=dict)

    def __post_init__(self) -> None:
        named = {
            "recipes": self.recipes,
            "tuning": self.tuning,
            "by_device": self.by_device,
            "operators": self.operators,
        }
        for what, operators in named.items():
            for operator in operators:
                if operator not in OPERATORS:
                    raise RecipeError(f"{self.name}: {what} for {operator!r}, expected one of {', '.join(OPERATORS)}")
        for operator, own in self.operators.items():
            if own.name != operator:
                raise RecipeError(
                    f"{self.name}: the operator that replaces {operator} is named {own.name!r}; name it {operator!r}"
                )
        self._check_condition("device", self.device)
        for operator, choices in self.tuning.items():
            self._check_keywords("tuning", operator, choices)
        for operator, conditions in self.by_device.items():
            for condition, keywords in conditions.items():
                self._check_condition(f"by_device of {operator}", condition)
                self._check_keywords("by_device", operator, keywords)
        object.__setattr__(self, "recipes", MappingProxyType(dict(self.recipes)))
        object.__setattr__(self, "tuning", MappingProxyType({k: dict(v) for k, v in self.tuning.items()}))
        by_device = {k: {condition: dict(given) for condition, given in v.items()} for k, v in self.by_device.items()}
        object.__setattr__(self, "by_device", MappingProxyType(by_device))
        object.__setattr__(self, "operators", MappingProxyType(dict(self.operators)))

    def _check_condition(self, what: str, condition: Condition) -> None:
        if callable(condition):
            return
        if not isinstance(condition, str):
            raise RecipeError(
                f"{self.name}: {what} is {condition!r}, expected a function of a device or a regular expression"
            )
        try:
            re.compile(condition)
        except re.error as error:
            raise RecipeError(f"{self.name}: {what} is {condition!r}, not a regular expression: {error}") from None

    def _check_keywords(self, what: str, operator: str, keywords: Iterable[str]) -> None:
        known = list(inspect.signature(self.recipes[operator]).parameters)[1:] if operator in self.recipes else ()
        for keyword in keywords:
            if keyword not in known:
                raise RecipeError(
                    f"{self.name}, {operator}: {what} for {keyword!r}, which is not a keyword argument of the recipe"
                )

    def __reduce__(self) -> tuple[Any, ...]:
        recipes, tuning, by_device = dict(self.recipes), dict(self.tuning), dict(self.by_device)
        return RecipeBook, (
            *(self.name, self.device, recipes, tuning, self.build_options, by_device),
            dict(self.operators),
        )

    def operator(self, name: str) -> Operator:
        """Return the operator with a name: the book's own if it has one, else the package's."""
        return self.operators.get(name, OPERATORS[name])

    @property
    def to_check(self) -> tuple[str, ...]:
        """Names of the operators that have a recipe here or are the book's own; all others are known to be right."""
        return tuple(name for name in OPERATORS if name in self.recipes or name in self.operators)

    def suits(self, device: Any) -> bool:
        """Return whether the book is meant for a device.

        Raises:
            RecipeError: the condition of the book fails.
        """
        return self._holds(self.device, device)

    def parameters_on(self, operator: str, device: Any, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the keyword arguments of a recipe on a device: those of ``by_device``, overridden by those given.

        Raises:
            RecipeError: a condition of ``by_device`` fails.
        """
        conditions = self.by_device.get(operator, {}).items()
        own = next((keywords for condition, keywords in conditions if self._holds(condition, device)), {})
        return {**own, **(given or {})}

    def _holds(self, condition: Condition, device: Any) -> bool:
        try:
            if isinstance(condition, str):
                return re.search(condition, device.description) is not None
            return bool(condition(device))
        except Exception as error:
            raise RecipeError(
                f"{self.name}: {devices_in_words(condition)!r} fails for the device {device!r}: {described(error)}"
            ) from error

    def defaults(self, operator: str) -> dict[str, Any]:
        """Return the keyword arguments of a recipe that have a default, with their defaults."""
        known = inspect.signature(self.recipes[operator]).parameters if operator in self.recipes else {}
        return {
            name: parameter.default for name, parameter in known.items() if parameter.default is not parameter.empty
        }

    def defaults_on(self, operator: str, device: Any) -> dict[str, Any]:
        """Return the keyword arguments of a recipe, with their defaults on a device."""
        return {**self.defaults(operator), **self.parameters_on(operator, device)}

    def fingerprint(self, operator: str) -> str:
        """Return a hash of the recipe of an operator and of all that it calls, the key of cached code."""
        by_device = [
            (condition if isinstance(condition, str) else fingerprint(condition), dict(keywords))
            for condition, keywords in self.by_device.get(operator, {}).items()
        ]
        options = repr(self.build_options) + (repr(by_device) if by_device else "")
        if operator in self.operators:
            options += fingerprint(self.operators[operator])
        return fingerprint(self.recipes.get(operator, sequential_recipe)) + options


def devices_in_words(condition: Condition) -> str:
    """Describe a condition: the first line of a function's docstring, or the regular expression."""
    if isinstance(condition, str):
        return condition
    text = condition.__doc__ if isinstance(condition, FunctionType) else None
    return (text or "").strip().partition("\n")[0].rstrip(".") or getattr(condition, "__name__", repr(condition))


def no_device(device: Any) -> bool:
    """None, unless the book is chosen by name."""
    return False


SEQUENTIAL = RecipeBook("sequential", device=no_device)
"""The book without recipes: every operator runs as its sequential kernel, on any device."""
