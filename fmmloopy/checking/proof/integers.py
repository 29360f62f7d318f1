"""Whole numbers of a kernel: affine forms over loop variables, arguments and loads; and conditions on them.

Two forms are equal if their keys are. A load is known by its array and its index alone, so a key says what is loaded,
and for which values of the loop variables.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping


class Keyed:
    """Anything that is known by a text."""

    __slots__ = ("_hash", "key")
    key: str

    def __init__(self, key: str) -> None:
        self.key, self._hash = key, hash(key)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Keyed) and self.key == other.key

    def __repr__(self) -> str:
        return self.key


class Atom(Keyed):
    """A whole number that an affine form has a multiple of."""

    __slots__ = ()


class Dim(Atom):
    """A loop variable of one reading of a statement."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class Argument(Atom):
    """A number that is an argument of the kernel."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class Load(Atom):
    """An entry of an array of indices."""

    __slots__ = ("array", "index")

    def __init__(self, array: str, index: tuple[Affine, ...]) -> None:
        super().__init__(f"{array}[{','.join(i.key for i in index)}]")
        self.array, self.index = array, index


class Floor(Atom):
    """A quotient rounded down; the divisor is positive."""

    __slots__ = ("divisor", "numerator")

    def __init__(self, numerator: Affine, divisor: int) -> None:
        super().__init__(f"floor(({numerator.key})/{divisor})")
        self.numerator, self.divisor = numerator, divisor


class Choice(Atom):
    """One of two numbers, by a condition."""

    __slots__ = ("condition", "other", "then")

    def __init__(self, condition: Condition, then: Affine, other: Affine) -> None:
        super().__init__(f"({then.key} if {condition.key} else {other.key})")
        self.condition, self.then, self.other = condition, then, other


class Opaque(Atom):
    """Anything else: equal to another of the same name and operands, and to nothing more."""

    __slots__ = ("name", "operands")

    def __init__(self, name: str, operands: tuple[Affine, ...]) -> None:
        super().__init__(f"{name}({','.join(x.key for x in operands)})")
        self.name, self.operands = name, operands


class Affine(Keyed):
    """A sum of multiples of atoms and a constant."""

    __slots__ = ("constant", "terms")

    def __init__(self, terms: Iterable[tuple[Atom, int]] = (), constant: int = 0) -> None:
        kept = {atom.key: (atom, factor) for atom, factor in terms if factor}
        self.terms: tuple[tuple[Atom, int], ...] = tuple(kept[key] for key in sorted(kept))
        self.constant = constant
        super().__init__("+".join([*(f"{factor}*{atom.key}" for atom, factor in self.terms), str(constant)]))

    def __add__(self, other: Affine) -> Affine:
        total = dict(self.terms)
        for atom, factor in other.terms:
            total[atom] = total.get(atom, 0) + factor
        return Affine(total.items(), self.constant + other.constant)

    def __sub__(self, other: Affine) -> Affine:
        return self + other.times(-1)

    def times(self, factor: int) -> Affine:
        """Multiply by a constant."""
        return Affine([(atom, f * factor) for atom, f in self.terms], self.constant * factor)

    @property
    def is_constant(self) -> bool:
        """Whether it has no atoms."""
        return not self.terms

    @property
    def is_zero(self) -> bool:
        """Whether it is nothing at all."""
        return not self.terms and self.constant == 0

    def dims(self) -> list[tuple[str, int]]:
        """Return its loop variables with their factors, those inside of other atoms aside."""
        return [(atom.name, factor) for atom, factor in self.terms if isinstance(atom, Dim)]


def whole(value: int) -> Affine:
    """Return a constant."""
    return Affine((), int(value))


def of(atom: Atom, factor: int = 1) -> Affine:
    """Return a multiple of an atom."""
    return Affine([(atom, factor)])


def dim(name: str) -> Affine:
    """Return a loop variable."""
    return of(Dim(name))


# -- conditions


class Condition(Keyed):
    """A condition on whole numbers."""

    __slots__ = ()


class AtLeastZero(Condition):
    """A number is not negative."""

    __slots__ = ("value",)

    def __init__(self, value: Affine) -> None:
        super().__init__(f"{value.key}>=0")
        self.value = value


class IsZero(Condition):
    """A number is zero."""

    __slots__ = ("value",)

    def __init__(self, value: Affine) -> None:
        super().__init__(f"{value.key}=0")
        self.value = value


class Not(Condition):
    """A condition does not hold."""

    __slots__ = ("condition",)

    def __init__(self, condition: Condition) -> None:
        super().__init__(f"not({condition.key})")
        self.condition = condition


class Both(Condition):
    """All of some conditions hold."""

    __slots__ = ("conditions",)

    def __init__(self, conditions: tuple[Condition, ...]) -> None:
        super().__init__(f"all({','.join(c.key for c in conditions)})")
        self.conditions = conditions


class Either(Condition):
    """One of some conditions holds."""

    __slots__ = ("conditions",)

    def __init__(self, conditions: tuple[Condition, ...]) -> None:
        super().__init__(f"any({','.join(c.key for c in conditions)})")
        self.conditions = conditions


def floor_of(numerator: Affine, divisor: int) -> Affine:
    """Divide by a positive constant and round down; multiples of the divisor leave the quotient."""
    if divisor == 1:
        return numerator
    if numerator.is_constant:
        return whole(numerator.constant // divisor)
    multiple = [(a, f // divisor) for a, f in numerator.terms if f % divisor == 0]
    rest = Affine([(a, f) for a, f in numerator.terms if f % divisor], numerator.constant % divisor)
    outside = Affine(multiple, numerator.constant // divisor)
    return outside if rest.is_constant else outside + of(Floor(rest, divisor))


def choice(condition: Condition, then: Affine, other: Affine) -> Affine:
    """Return one of two numbers by a condition."""
    return then if then == other else of(Choice(condition, then, other))


# -- substitution of loop variables, and what a form contains


def substitute(value: Affine, by: Mapping[str, Affine]) -> Affine:
    """Replace loop variables, also inside of loads and quotients."""
    if not by or value.is_constant:
        return value
    total = whole(value.constant)
    for atom, factor in value.terms:
        total = total + _in_atom(atom, by).times(factor)
    return total


def _in_atom(atom: Atom, by: Mapping[str, Affine]) -> Affine:
    if isinstance(atom, Dim):
        return by.get(atom.name) or of(atom)
    if isinstance(atom, Load):
        return of(Load(atom.array, tuple(substitute(i, by) for i in atom.index)))
    if isinstance(atom, Floor):
        return floor_of(substitute(atom.numerator, by), atom.divisor)
    if isinstance(atom, Choice):
        return choice(
            substitute_in_condition(atom.condition, by), substitute(atom.then, by), substitute(atom.other, by)
        )
    if isinstance(atom, Opaque):
        return of(Opaque(atom.name, tuple(substitute(x, by) for x in atom.operands)))
    return of(atom)


def substitute_in_condition(condition: Condition, by: Mapping[str, Affine]) -> Condition:
    """Replace loop variables in a condition."""
    if isinstance(condition, (AtLeastZero, IsZero)):
        return type(condition)(substitute(condition.value, by))
    if isinstance(condition, Not):
        return Not(substitute_in_condition(condition.condition, by))
    assert isinstance(condition, (Both, Either))
    return type(condition)(tuple(substitute_in_condition(c, by) for c in condition.conditions))


def atoms_of(value: Affine | Condition) -> Iterator[Atom]:
    """Yield the atoms of a form or a condition, and those inside of them."""
    if isinstance(value, Affine):
        for atom, _ in value.terms:
            yield atom
            for part in parts_of(atom):
                yield from atoms_of(part)
    elif isinstance(value, (AtLeastZero, IsZero)):
        yield from atoms_of(value.value)
    elif isinstance(value, Not):
        yield from atoms_of(value.condition)
    elif isinstance(value, (Both, Either)):
        for condition in value.conditions:
            yield from atoms_of(condition)


def parts_of(atom: Atom) -> tuple[Affine | Condition, ...]:
    """Return what an atom is made of."""
    if isinstance(atom, Load):
        return atom.index
    if isinstance(atom, Floor):
        return (atom.numerator,)
    if isinstance(atom, Choice):
        return atom.condition, atom.then, atom.other
    return atom.operands if isinstance(atom, Opaque) else ()


def dims_in(value: Affine | Condition) -> set[str]:
    """Return the names of all loop variables, also those inside of loads and quotients."""
    return {atom.name for atom in atoms_of(value) if isinstance(atom, Dim)}
