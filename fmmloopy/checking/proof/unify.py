"""Finding where a point of the transformed kernel goes in the sequential one: from the indices of stores and loads.

If two stores, and all loads in two terms, are to have equal indices, the sequential kernel's loop variables are affine
forms of the transformed kernel's. This is the search alone; `fmmloopy.checking.proof.match` verifies what is found.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fmmloopy.checking.proof.integers import (
    Affine,
    AtLeastZero,
    Atom,
    Condition,
    Dim,
    Floor,
    IsZero,
    Load,
    Opaque,
    dim,
    dims_in,
    of,
    substitute,
    whole,
)

ROUNDS = 300
"""Most attempts to bind a loop variable."""


class Unifier:
    """Binds the sequential kernel's loop variables.

    Args:
        unknown: the sequential kernel's loop variables with their inames.
        known: the transformed kernel's.
        conditions: on the sequential kernel's; those that allow one value bind a variable to it.
    """

    def __init__(self, unknown: Mapping[str, str], known: Mapping[str, str], conditions: Iterable[Condition]) -> None:
        self._unknown = unknown
        self._named: dict[str, list[str]] = {}
        for name, iname in known.items():
            self._named.setdefault(iname, []).append(name)
        self.image: dict[str, Affine] = _single_values(set(unknown), conditions)
        self._waiting: list[tuple[Affine, Affine]] = []

    def solve(self, pairs: Iterable[tuple[Affine, Affine]]) -> str:
        """Bind all variables so that pairs are equal: of the transformed kernel, and of the sequential one.

        Returns:
            Why that is impossible, or nothing.
        """
        self._waiting = list(pairs)
        for _ in range(ROUNDS):
            if not self._waiting:
                break
            if not self._step() and not self._guess():
                return "the indices do not determine the loops"
        for name in sorted(set(self._unknown) - set(self.image)):
            if not self._bind_by_iname(name):
                return f"loop {self._unknown[name]} of the sequential kernel has no counterpart"
        return ""

    def _bind(self, name: str, value: Affine) -> None:
        self.image = {k: substitute(v, {name: value}) for k, v in self.image.items()} | {name: value}

    def _bind_by_iname(self, name: str) -> bool:
        candidates = self._named.get(self._unknown[name], [])
        if len(candidates) == 1:
            self._bind(name, dim(candidates[0]))
        return len(candidates) == 1

    def _open(self, value: Affine | Atom) -> set[str]:
        form = of(value) if isinstance(value, Atom) else value
        return dims_in(form) & (set(self._unknown) - set(self.image))

    def _step(self) -> bool:
        """Use every waiting pair once; return whether that led anywhere."""
        progress = False
        for pair in list(self._waiting):
            rest = substitute(pair[1], self.image) - pair[0]
            if not self._open(rest):
                self._waiting.remove(pair)  # equal or not, there is nothing to find
                progress = True
            elif self._bind_from(rest):
                self._waiting.remove(pair)
                progress = True
            else:
                progress |= self._descend(rest)
        return progress

    def _bind_from(self, rest: Affine) -> bool:
        """Bind the one open variable of a form that is to be zero."""
        open_ = [(name, factor) for name, factor in rest.dims() if name in self._open(rest)]
        if len(open_) != 1:
            return False
        name, factor = open_[0]
        others = rest - of(Dim(name), factor)
        if self._open(others) or any(f % factor for f in (*(f for _, f in others.terms), others.constant)):
            return False
        self._bind(name, Affine([(a, -f // factor) for a, f in others.terms], -others.constant // factor))
        return True

    def _descend(self, rest: Affine) -> bool:
        """Match loads, quotients and functions with open variables in them with others of the same kind."""
        atoms = [(atom, factor) for atom, factor in rest.terms if not isinstance(atom, Dim)]
        open_ = [(atom, factor) for atom, factor in atoms if self._open(atom)]
        progress = False
        for atom, factor in open_:
            like = [a for a, f in atoms if (a, f) not in open_ and _kind(a) == _kind(atom) and f == -factor]
            rivals = [a for a, f in open_ if _kind(a) == _kind(atom) and f == factor]
            if len(like) == 1 and len(rivals) == 1:
                for known, unknown in zip(_inside(like[0]), _inside(atom), strict=True):
                    progress |= self._add(known, unknown)
        return progress

    def _add(self, known: Affine, unknown: Affine) -> bool:
        if (known, unknown) in self._waiting or substitute(unknown, self.image) == known:
            return False
        self._waiting.append((known, unknown))
        return True

    def _guess(self) -> bool:
        """Bind a variable to the loop of the same name, or to what makes one pair equal."""
        for _, unknown in reversed(self._waiting):  # the innermost first: a tile is found from what is in it
            for name in sorted(self._open(unknown)):
                if self._bind_by_iname(name):
                    return True
        for known, unknown in self._waiting:
            rest = substitute(unknown, self.image) - known
            if any(self._open(atom) for atom, _ in rest.terms if not isinstance(atom, Dim)):
                continue
            for name, factor in rest.dims():
                if name in self._open(rest) and abs(factor) == 1:
                    self._bind(name, (rest - of(Dim(name), factor)).times(-factor))
                    return True
        return False


def _kind(atom: Atom) -> tuple[object, ...]:
    if isinstance(atom, Load):
        return "load", atom.array, len(atom.index)
    if isinstance(atom, Opaque):
        return "opaque", atom.name, len(atom.operands)
    return ("floor", atom.divisor) if isinstance(atom, Floor) else (type(atom).__name__,)


def _inside(atom: Atom) -> tuple[Affine, ...]:
    if isinstance(atom, Load):
        return atom.index
    if isinstance(atom, Opaque):
        return atom.operands
    return (atom.numerator,) if isinstance(atom, Floor) else ()


def _single_values(names: set[str], conditions: Iterable[Condition]) -> dict[str, Affine]:
    """Return the variables that conditions allow one value only."""
    least: dict[str, int] = {}
    most: dict[str, int] = {}
    for condition in conditions:
        if not isinstance(condition, (AtLeastZero, IsZero)) or len(condition.value.terms) != 1:
            continue
        (atom, factor), constant = condition.value.terms[0], condition.value.constant
        if not isinstance(atom, Dim) or atom.name not in names or abs(factor) != 1:
            continue
        if factor == 1 or isinstance(condition, IsZero):
            least[atom.name] = max(least.get(atom.name, -constant * factor), -constant * factor)
        if factor == -1 or isinstance(condition, IsZero):
            most[atom.name] = min(most.get(atom.name, -constant * factor), -constant * factor)
    return {name: whole(value) for name, value in least.items() if most.get(name) == value}
