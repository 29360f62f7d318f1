"""Conditions on loop variables as sets of isl, with loads as parameters.

A load is a parameter of the sets, although its value depends on loop variables. That is sound where its index is a
function of the point at which sets are compared, see `Names`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import islpy as isl

from fmmloopy.checking.proof.integers import (
    Affine,
    AtLeastZero,
    Atom,
    Both,
    Choice,
    Condition,
    Dim,
    Either,
    Floor,
    IsZero,
    Not,
    of,
    substitute,
)


@dataclass
class Names:
    """Names of the parameters of sets, by what they stand for."""

    of_key: dict[str, str] = field(default_factory=dict)

    def __call__(self, key: str) -> str:
        """Return the name for a key."""
        plain = "".join(c if c.isalnum() else "_" for c in key)[:40]
        return self.of_key.setdefault(key, f"p{len(self.of_key)}_{plain}")


class Text:
    """Writes conditions as isl reads them.

    Args:
        names: of parameters.
        image: values of loop variables, where sets are written for what they are mapped to.
        renamed: keys of loads that have another name.
    """

    def __init__(self, names: Names, image: Mapping[str, Affine], renamed: Mapping[str, str]) -> None:
        self._names, self._image, self._renamed = names, image, renamed
        self._parameters: dict[str, None] = {}
        self._extra: dict[str, str] = {}
        self._definitions: list[str] = []

    def value(self, value: Affine) -> str:
        """Write an affine form."""
        return "(" + " + ".join([*(f"{f}*{self._atom(a)}" for a, f in value.terms), str(value.constant)]) + ")"

    def _atom(self, atom: Atom) -> str:
        if isinstance(atom, Dim):
            return atom.name
        if isinstance(atom, (Floor, Choice)):
            return self._defined(atom)
        key = substitute(of(atom), self._image).terms[0][0].key
        name = self._names(self._renamed.get(key, key))
        self._parameters[name] = None
        return name

    def _defined(self, atom: Floor | Choice) -> str:
        if atom.key in self._extra:
            return self._extra[atom.key]
        name = self._extra[atom.key] = f"e{len(self._extra)}"
        if isinstance(atom, Floor):
            above, n = self.value(atom.numerator), atom.divisor
            self._definitions.append(f"{n}*{name} <= {above} and {above} <= {n}*{name} + {n - 1}")
        else:
            holds, fails = self.condition(atom.condition), self.condition(atom.condition, True)
            then, other = self.value(atom.then), self.value(atom.other)
            self._definitions.append(f"(({holds} and {name} = {then}) or ({fails} and {name} = {other}))")
        return name

    def condition(self, condition: Condition, fails: bool = False) -> str:
        """Write a condition, or that it fails."""
        if isinstance(condition, Not):
            return self.condition(condition.condition, not fails)
        if isinstance(condition, AtLeastZero):
            return f"{self.value(condition.value)} {'<' if fails else '>='} 0"
        if isinstance(condition, IsZero):
            value = self.value(condition.value)
            return f"({value} < 0 or {value} > 0)" if fails else f"{value} = 0"
        assert isinstance(condition, (Both, Either))
        every = isinstance(condition, Both) != fails
        parts = [self.condition(c, fails) for c in condition.conditions]
        return "(" + (" and " if every else " or ").join(parts) + ")" if parts else ("0 = 0" if every else "1 = 0")

    def finish(self, space: str, conditions: Iterable[str]) -> str:
        """Write a set or map over a space."""
        body = " and ".join([*conditions, *self._definitions]) or "0 = 0"
        if self._extra:
            body = f"exists ({', '.join(self._extra.values())}: {body})"
        return f"[{', '.join(self._parameters)}] -> {{ {space} : {body} }}"


@dataclass(frozen=True)
class Match:
    """Where a point of one kernel goes in the other.

    Attributes:
        image: values of the sequential kernel's loop variables, in those of the transformed one.
        renamed: names of loads of the transformed kernel in the sequential one's loop variables: those that are the
            same where the points are. Loads of both kernels have one name then, whichever statement they are in.
    """

    image: Mapping[str, Affine]
    renamed: Mapping[str, str]


NOWHERE = Match({}, {})


def make_set(
    names: Names, dims: Sequence[str], conditions: Iterable[Condition], match: Match = NOWHERE, mapped: bool = False
) -> isl.Set:
    """Return the set of the points at which conditions hold.

    Args:
        names: of parameters.
        dims: loop variables.
        conditions: on them.
        match: which gives loads their names.
        mapped: whether the loop variables are those of the sequential kernel, which the match gives values.
    """
    text = Text(names, match.image if mapped else {}, match.renamed)
    body = [text.condition(c) for c in dict.fromkeys(conditions)]
    return isl.Set(text.finish(f"[{', '.join(dims)}]", body))


def make_map(names: Names, dims: Sequence[str], images: Sequence[tuple[str, Affine]], match: Match) -> isl.Map:
    """Return the map from points to values of some names."""
    text = Text(names, {}, match.renamed)
    body = [f"{name}_ = {text.value(value)}" for name, value in images]
    return isl.Map(text.finish(f"[{', '.join(dims)}] -> [{', '.join(f'{name}_' for name, _ in images)}]", body))


def point_of(found: isl.Set) -> str:
    """Return a point of a set as text."""
    point, space = found.sample_point(), found.get_space()
    values = []
    for kind in (isl.dim_type.param, isl.dim_type.set):
        for i in range(space.dim(kind)):
            name = str(space.get_dim_name(kind, i)).split("_", 1)[1]
            values.append(f"{name}={point.get_coordinate_val(kind, i).to_python()}")
    return ", ".join(values)


def difference_of(one: isl.Set | None, other: isl.Set) -> str:
    """Return a point of either set that is not in the other, or nothing."""
    if one is None:
        return "" if other.is_empty() else point_of(other)
    for x, y in ((other, one), (one, other)):
        rest = x.subtract(y)
        if not rest.is_empty():
            return point_of(rest)
    return ""
