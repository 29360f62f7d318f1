"""Matching the terms of two kernels: a map between their points that isl shows to be a bijection.

For every sum that the transformed kernel adds, a sum of the sequential kernel is found, and a map from the points of
the one to the points of the other under which indices and terms agree. The maps are injective, their images do not
meet, and together they are all points of the sequential kernel: so every term is added once.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import islpy as isl

from fmmloopy.checking.proof import identity
from fmmloopy.checking.proof.contributions import Store
from fmmloopy.checking.proof.integers import (
    Affine,
    AtLeastZero,
    Atom,
    Condition,
    Dim,
    IsZero,
    Load,
    Opaque,
    atoms_of,
    dims_in,
    of,
    substitute,
    whole,
)
from fmmloopy.checking.proof.number_reader import Reader
from fmmloopy.checking.proof.sets import Match, Names, make_map, make_set
from fmmloopy.checking.proof.terms import Entry, Node, Piece, inside
from fmmloopy.checking.proof.unify import Unifier

MOST_PAIRINGS = 200
"""Ways to pair the loads of two terms that are tried."""


@dataclass(frozen=True)
class Side:
    """One sum of terms of a store, or the store alone.

    Attributes:
        store: the store.
        piece: the sum; None for the store alone.
        reader: of its kernel.
    """

    store: Store
    piece: Piece | None
    reader: Reader

    @property
    def dims(self) -> dict[str, str]:
        """Loop variables with their inames."""
        of_piece = sorted(self.piece.dims) if self.piece else []
        return {**self.store.inames, **{name: self.reader.inames[name] for name in of_piece}}

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """Where it runs."""
        return (*self.store.conditions, *(self.piece.conditions if self.piece else ()))

    @property
    def entries(self) -> list[Entry]:
        """Entries of arrays in its term."""
        found = (x for x in inside(self.piece.node) if isinstance(x, Entry)) if self.piece else ()
        return list({entry.key: entry for entry in found}.values())

    @property
    def atoms(self) -> Iterator[Atom]:
        """All whole numbers in it."""
        forms: list[Affine | Condition] = [*self.store.index, *self.conditions]
        forms += (i for entry in self.entries for i in entry.index)
        return (atom for form in forms for atom in atoms_of(form))


@dataclass(frozen=True)
class Context:
    """What holds for all points, and how sets are written.

    Attributes:
        names: of parameters.
        assumptions: of the sequential kernel.
        bounds: arrays of indices whose entries are at least 0 and below a number.
        field: that terms are evaluated in.
    """

    names: Names
    assumptions: tuple[Condition, ...]
    bounds: Mapping[str, Affine]
    field: identity.Field

    def assumed(self, conditions: Iterable[Condition]) -> list[Condition]:
        """Return conditions with what is assumed of the numbers in them."""
        given = [*conditions, *self.assumptions]
        loads = {a for c in given for a in atoms_of(c) if isinstance(a, Load) and a.array in self.bounds}
        for load in sorted(loads, key=lambda atom: atom.key):
            given += [AtLeastZero(of(load)), AtLeastZero(self.bounds[load.array] - whole(1) - of(load))]
        return given


def find_match(side: Side, sequential: Side, context: Context) -> tuple[Match, isl.Set] | str:
    """Find where the points of a sum go in a sum of the sequential kernel.

    Returns:
        The map and the set of points; or why there is none.
    """
    why = "adds what the sequential kernel does not"
    for pairs in _pairings(side.entries, sequential.entries):
        if pairs is None:
            return _other_data(side, sequential)
        found = _match(side, sequential, pairs, context)
        if not isinstance(found, str):
            return found
        why = found if why.startswith("adds what") else why
    return why


def _match(
    side: Side, sequential: Side, pairs: list[tuple[Entry, Entry]], context: Context
) -> tuple[Match, isl.Set] | str:
    unifier = Unifier(sequential.dims, side.dims, sequential.conditions)
    equal = [*zip(side.store.index, sequential.store.index, strict=True)]
    for mine, other in pairs:
        equal += zip(mine.index, other.index, strict=True)
    if problem := unifier.solve(equal):
        return problem
    image = unifier.image
    if any(not dims_in(value) <= set(side.dims) for value in image.values()):
        return "the indices do not determine the loops"
    if side.piece and sequential.piece:
        names = {mine.key: other.key for mine, other in pairs}
        left, right = side.piece.node, sequential.piece.node
        if problem := _other_term(left, right, names, context):
            return problem
    match = Match(image, {substitute(of(a), image).terms[0][0].key: a.key for a in sequential.atoms if _is_named(a)})
    if unknown := _undetermined(side, match):
        return f"runs where {unknown} says, which is no number of the sequential kernel"
    points = make_set(context.names, list(side.dims), context.assumed(side.conditions), match)
    rest = [substitute(other, image) - mine for mine, other in equal]
    if not _vanish(rest, side, points, match, context):
        return "indices differ"
    return match, points


def _other_term(left: Node, right: Node, names: Mapping[str, str], context: Context) -> str:
    return identity.difference(left, lambda e: names[e.key], right, lambda e: e.key, context.field, factored=True)


def _vanish(forms: list[Affine], side: Side, points: isl.Set, match: Match, context: Context) -> bool:
    """Return whether forms are zero at all points."""
    open_ = [IsZero(form) for form in forms if not form.is_zero]
    return not open_ or points.is_subset(make_set(context.names, list(side.dims), open_, match))


def _is_named(atom: Atom) -> bool:
    return isinstance(atom, (Load, Opaque))


def _undetermined(side: Side, match: Match) -> str:
    """Return a load in the conditions or the map of a sum whose value its sequential point does not decide.

    Sets have loads as parameters. Two points of the transformed kernel that go to one point of the sequential kernel
    must have equal parameters, or a bijection for every value of the parameters is none.
    """
    determined = determined_dims(match.image.values())
    forms: list[Affine | Condition] = [*side.conditions, *match.image.values()]
    for form in forms:
        for atom in atoms_of(form):
            if _is_named(atom) and atom.key not in match.renamed and not dims_in(of(atom)) <= determined:
                return atom.key
    return ""


def determined_dims(values: Iterable[Affine]) -> set[str]:
    """Return the loop variables that the values of some forms decide."""
    values, known = list(values), set[str]()
    while True:
        found = set()
        for value in values:
            open_ = dims_in(value) - known
            within = {name for atom, _ in value.terms if not isinstance(atom, Dim) for name in dims_in(of(atom))}
            if len(open_) == 1 and not open_ & within:
                found |= open_
        if not found:
            return known
        known |= found


# -- pairs of loads


def _pairings(mine: list[Entry], others: list[Entry]) -> Iterator[list[tuple[Entry, Entry]] | None]:
    """Yield ways to pair loads of the same arrays, the likeliest first; None if there is no way."""
    groups, other_groups = _grouped(mine), _grouped(others)
    if {k: len(v) for k, v in groups.items()} != {k: len(v) for k, v in other_groups.items()}:
        yield None
        return
    ways = [itertools.permutations(groups[key]) for key in other_groups]
    for chosen in itertools.islice(itertools.product(*ways), MOST_PAIRINGS):
        groupwise = (zip(one, other_groups[key], strict=True) for key, one in zip(other_groups, chosen, strict=True))
        yield [pair for group in groupwise for pair in group]


def _grouped(entries: list[Entry]) -> dict[tuple[object, ...], list[Entry]]:
    groups: dict[tuple[object, ...], list[Entry]] = {}
    for entry in sorted(entries, key=_loaded):
        slot = tuple(i.constant if i.is_constant else None for i in entry.index)
        groups.setdefault((entry.array, slot), []).append(entry)
    return groups


def _loaded(entry: Entry) -> list[str]:
    """Return the arrays that the index of an entry is read from: where two are alike, the entries are likely a pair."""
    return sorted({atom.array for form in entry.index for atom in atoms_of(form) if isinstance(atom, Load)})


def _other_data(side: Side, sequential: Side) -> str:
    mine, others = ({e.array for e in s.entries} for s in (side, sequential))
    more, missing = sorted(mine - others), sorted(others - mine)
    return f"reads other data than the sequential kernel: {', '.join(more or missing or sorted(mine))}"


# -- maps


def mapping(side: Side, sequential: Side, match: Match, context: Context) -> isl.Map:
    """Return the map from the points of a sum to those of the sequential kernel."""
    images = [(name, match.image[name]) for name in sorted(sequential.dims)]
    return make_map(context.names, list(side.dims), images, match)


def sequential_points(sequential: Side, match: Match, context: Context) -> isl.Set:
    """Return the points of a sum of the sequential kernel, with loads named as a match does."""
    dims = sorted(sequential.dims)
    return make_set(context.names, dims, context.assumed(sequential.conditions), match, mapped=True)
