"""The record of an operator: everything that the rest of the package needs to know about it, besides its math.

An operator is one loopy kernel that states its formula, and one `Operator` that says what the kernel runs over, which
arrays it reads and writes, and how much work that is. Compiling, planning, checking, shrinking, timing and counting
read the record; no other part of the package knows an operator by its name.

Shapes are written as loopy writes them, with the names of other arguments, whole numbers, and these in braces:
``{rows}`` and ``{columns}``, target and source components of the Green's function; ``{order}``, ``{period}`` and
``{points}`` of the surfaces. The axis ``itiles, ilanes`` are the rows of a vector, in tiles and lanes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any

import numpy as np

from fmmloopy.common.late import loopy as lp
from fmmloopy.common.sizes import count_frequencies, count_points, grid_period
from fmmloopy.components import CHARGES, Components
from fmmloopy.greens import GreensFunction
from fmmloopy.precision import Precision, Types

Kernel = Any
"""A loopy translation unit."""

LANE_PARAMETERS = ("tlanes", "slanes", "blanes", "ilanes")
"""Numbers of lanes in a tile: parameters that are open in the math and fixed by a recipe."""


class Form(StrEnum):
    """The kind of computation of an operator."""

    PARTICLE = "particle"
    """Evaluates the Green's function between two sets of points."""
    DENSE = "dense"
    """Applies a matrix to the vectors of many boxes."""
    TRANSFORM = "transform"
    """A Fourier transform of the vectors of octets, one axis after the other."""
    PRODUCT = "product"
    """Multiplies with a matrix that pairs of boxes or octets share."""


class Kind(StrEnum):
    """The type of an argument."""

    OUTER = "outer"
    INNER = "inner"
    INDEX = "index"


class Role(StrEnum):
    """What a kernel does with an array."""

    READ = "read"
    WRITTEN = "written"
    ADDED_TO = "added to"


@dataclass(frozen=True)
class Array:
    """An array argument.

    Attributes:
        name: in the kernel.
        shape: see the module's documentation; "" if it is left open, as those of lists are.
        kind: of its numbers.
        role: what the kernel does with it.
        whole: the least and the most whole number that it holds in exact test cases. Bounds are such that every
            product and every partial sum stays below 2^24, which float32 holds exactly.
        has_zero_row: whether its last row stands for the boxes that are not there, and is zero.
        same_as: another argument that is the same array; the kernel reads and writes different rows of it.
        below: arrays of indices only: the number that all entries are below, and at least 0; "" if nothing is declared.
        has_distinct_columns: arrays of indices only: whether no two of its columns are equal.
        axes: names of its axes, with blanks between them, if a recipe may choose their order in memory; an axis that
            numbers several together names these, as ``ky*kx``. Operators that share an array name its axes alike. ""
            if axes are in memory as in the index, the last one fastest.
    """

    name: str
    shape: str = ""
    kind: Kind = Kind.INNER
    role: Role = Role.READ
    whole: tuple[int, int] = (0, 0)
    has_zero_row: bool = False
    same_as: str = ""
    below: str = ""
    has_distinct_columns: bool = False
    axes: str = ""


@dataclass(frozen=True)
class Number:
    """A number that is an argument.

    Attributes:
        name: in the kernel.
        kind: of the number; INDEX for a count.
        whole: its value in exact test cases, if it is not a count.
    """

    name: str
    kind: Kind = Kind.INDEX
    whole: int = 1


@dataclass(frozen=True)
class GreensParameters:
    """Placeholder among the arguments for the parameters of the Green's function."""


Argument = Array | Number | GreensParameters


def arrays(names: str, *args: Any, **fields: Any) -> tuple[Array, ...]:
    """Make several arrays of one shape and role from names with commas between them."""
    return tuple(Array(name, *args, **fields) for name in names.split(","))


def indices(names: str, shape: str = "") -> tuple[Array, ...]:
    """Make arrays of 32-bit indices."""
    return arrays(names, shape, Kind.INDEX)


def counts(names: str) -> tuple[Number, ...]:
    """Make counts from names with commas between them."""
    return tuple(Number(name) for name in names.split(","))


# -- what a launch runs over


@dataclass(frozen=True)
class Lists:
    """Boxes, and the entries of an interaction list of each: ``target_boxes``, ``list_starts``, ``lists``.

    Attributes:
        count: argument that counts the boxes.
        labels: array beside ``lists`` with a transfer vector for each entry; "" if there is none.
    """

    count: str
    labels: str = ""


@dataclass(frozen=True)
class Families:
    """Boxes of one level and their children: ``parents``, ``nparents``, ``children``.

    Attributes:
        side: whether the children with ``"sources"`` or those with ``"targets"`` have work.
    """

    side: str


@dataclass(frozen=True)
class Boxes:
    """Boxes: ``boxes``, ``ntargets``."""


@dataclass(frozen=True)
class Pairs:
    """Pairs in groups that share a matrix: ``pair_starts`` by chunk and group, ``pair_targets``, ``pair_sources``.

    Attributes:
        groups: how many groups a chunk of targets has.
        targets, sources: arguments that count what pairs are of.
        spectra: whether a matrix is one frequency's, from ``f_start`` to ``f_end``.
    """

    groups: int
    targets: str
    sources: str
    spectra: bool = False


@dataclass(frozen=True)
class Octets:
    """Octets, the eight children of a box: ``octet_children``, ``noctets``, for planes ``kz_start`` to ``kz_end``.

    Attributes:
        side: whether they have the children with ``"sources"`` or those with ``"targets"``.
    """

    side: str


@dataclass(frozen=True)
class Units:
    """Pairs of boxes that act on each other, in units that share no box: ``unit_starts``, ``pair_targets``,
    ``pair_sources``.

    Attributes:
        count: argument that counts the units.
    """

    count: str


Over = Lists | Families | Boxes | Pairs | Octets | Units


# -- operators on particles


@dataclass(frozen=True)
class Side:
    """One side of a particle operator: where its points start and end, and how one is read.

    Attributes:
        start, end: expressions, evaluated once a box (targets) or once a list entry (sources).
        position: coordinate ``k_`` of the point with index ``i_``.
        array: argument that is added to (targets), or that holds the charges or densities (sources).
        value: the entry of ``array`` for component ``c_`` of the point with index ``i_``.
        rest: sources only: what rounding has left of the coordinate; "" where it makes no difference.
        is_surface: whether its points are those of a box's surface.
    """

    start: str
    end: str
    position: str
    array: str
    value: str
    rest: str = ""
    is_surface: bool = False


@dataclass(frozen=True)
class Particles:
    """The two sides of a particle operator and the list that couples them.

    Attributes:
        targets, sources: the sides.
        list: which interaction list: ``"u"``, ``"w"``, ``"x"``, ``"own"`` for the box itself, or ``"mutual"`` for
            pairs of boxes that act on each other.
        surface: radius of the surface: ``"inner"`` or ``"outer"``; "" if both sides are points.
    """

    targets: Side
    sources: Side
    list: str
    surface: str = ""

    @property
    def is_mutual(self) -> bool:
        """Whether pairs of boxes act on each other, so that each pair of points adds to two sums."""
        return self.list == "mutual"


# -- the record


Counts = Mapping[str, float]
"""How many of everything an evaluation has, by name; which names there are depends on what an operator runs over:

families        children, parents: with sources or targets
boxes           boxes: that are solved for
lists           entries, rows, sources, matrices: of V lists, and the different matrices among their transfer vectors
pairs of boxes  ranks: singular values of all entries of V lists; kept: of the different matrices; rows, sources
pairs of octets pairs, rows, sources
octets          octets, children
"""


@dataclass(frozen=True)
class Operator:
    """An operator.

    Attributes:
        name: an identifier; recipe books, commands and results know it by this.
        form: what kind of computation it is.
        over: what a launch runs over.
        sides: the kinds of numbers that it stands between, see `fmmloopy.precision.Precision`.
        make: makes its math-level kernel.
        arguments: of the kernel, in its order.
        mixed_arguments: the same for kernels of mixed types, where they are others; else empty.
        particles: its two sides, if it is a particle operator.
        depends_on_order: whether the order is in its loops, so that every order has code of its own.
        flops: counts floating-point operations, if it is no particle operator.
        traffic: counts the numbers that are read and written, each once, if it is no particle operator.
        m2l: the form of M2L that it is a stage of; "" if of none.
        timed_like: an operator that works alike, whose rates stand for its own where it was not timed.
        block: on CPUs, a block of its work takes as long as so many pairs of points with Laplace's function, or
            operations (docs/measurements/constants.csv).
        vectors: components of the vectors that it reads and of those that it writes: ``"columns"`` of densities or
            ``"rows"`` of check potentials.
        independent: loops of the math-level kernel: iterations that differ in one of them store to different entries.
            Only these may become work-items or work-groups that store.
        ranges: arrays of the starts of ranges, one for each box that is stored to, that have no entry in common.
            Work-items may share a range if each entry belongs to one of them.
        tiled: loops of the math-level kernel over tiles of the points of one box. In mixed types, sums over them may
            be held in the inner type, as sums over the points of one tile are.
    """

    name: str
    form: Form
    over: Over
    sides: tuple[str, str]
    make: Callable[[Specification], Kernel]
    arguments: tuple[Argument, ...]
    mixed_arguments: tuple[Argument, ...] = ()
    particles: Particles | None = None
    depends_on_order: bool = False
    flops: Callable[[Specification, Counts], float] | None = None
    traffic: Callable[[Specification, Counts], float] | None = None
    m2l: str = ""
    timed_like: str = ""
    block: float = 0.0
    vectors: tuple[str, str] = ("columns", "rows")
    independent: tuple[str, ...] = ()
    ranges: tuple[str, ...] = ()
    tiled: tuple[str, ...] = ()

    def types_in(self, precision: Precision) -> Types:
        """Return the types of its kernel in an evaluation of a precision."""
        return precision.types_of(self.sides)

    def arguments_for(self, types: Types) -> tuple[Argument, ...]:
        """Return the arguments of the kernel for these types."""
        return self.mixed_arguments if types.is_mixed and self.mixed_arguments else self.arguments

    def arrays_for(self, types: Types) -> tuple[Array, ...]:
        """Return the arguments that are arrays."""
        return tuple(argument for argument in self.arguments_for(types) if isinstance(argument, Array))

    def own(self, components: Components) -> Components:
        """Return those components of charges and potentials that the operator works on."""
        if self.particles is None:
            return CHARGES
        return components.between(self.particles.sources.is_surface, self.particles.targets.is_surface)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the arrays that it writes."""
        written = (a for a in self.arguments if isinstance(a, Array) and a.role != Role.READ)
        return tuple(array.name for array in written)

    @property
    def aliases(self) -> dict[str, str]:
        """Arguments that are the same array as another one."""
        return {a.name: a.same_as for a in self.arguments if isinstance(a, Array) and a.same_as}

    @property
    def lanes(self) -> tuple[str, ...]:
        """Its lane parameters, which a recipe fixes."""
        return tuple(a.name for a in self.arguments if isinstance(a, Number) and a.name in LANE_PARAMETERS)

    @property
    def gives_potentials(self) -> bool:
        """Whether its targets are those of the evaluation; gradients then add rows to its Green's function."""
        return self.particles is not None and not self.particles.targets.is_surface

    @property
    def depends_on_ncrit(self) -> bool:
        """Whether its work depends on the number of points in a leaf; it does not if each point meets one surface."""
        return self.particles is None or self.particles.list != "own"

    @property
    def is_near(self) -> bool:
        """Whether both of its sides are the points themselves."""
        return self.gives_potentials and self.particles is not None and not self.particles.sources.is_surface

    @property
    def is_local(self) -> bool:
        """Whether mixed kernels have sources relative to the centres of their leaves, in a unit: P2P's do."""
        return self.is_near and bool(self.mixed_arguments)


@dataclass(frozen=True)
class Specification:
    """The specification of a math-level kernel.

    Attributes:
        operator: which operator.
        greens: decides the formula of a particle operator, and how many components the others have.
        order: of the surfaces, p.
        types: floating-point types of the kernel.
    """

    operator: Operator
    greens: GreensFunction
    order: int
    types: Types

    @property
    def rows(self) -> int:
        """Target components of the Green's function, for each vector in turn."""
        return self.greens.vectors * self.greens.ntarget_components

    @property
    def columns(self) -> int:
        """Source components of the Green's function, for each vector in turn."""
        return self.greens.vectors * self.greens.nsource_components

    @property
    def sizes(self) -> dict[str, int]:
        """Values of the names in braces in the shapes of arguments."""
        order = self.order
        sizes = {"order": order, "period": grid_period(order), "points": count_points(order)}
        return {"rows": self.rows, "columns": self.columns, **sizes}

    @property
    def frequencies(self) -> int:
        """Frequencies of M2L's transforms."""
        return count_frequencies(self.order)

    @property
    def key(self) -> tuple[Any, ...]:
        """Everything that the kernel depends on, which excludes the values of the Green's function's parameters."""
        greens: Any = self.rows, self.columns
        if self.operator.form == Form.PARTICLE:
            matrix = [[str(entry) for entry in row] for row in self.greens.matrix]
            greens = matrix, list(self.greens.parameters), self.greens.nderivatives
            if self.greens.shares_terms or self.greens.vectors > 1:
                greens += (self.greens.nsecond, self.greens.ndipoles, self.greens.vectors)
        return self.operator.name, greens, self.order if self.operator.depends_on_order else None, self.types.name

    def kernel(self) -> Kernel:
        """Make the math-level kernel; the last ones that were made are kept."""
        return _made(self)

    def dtype_of(self, kind: Kind) -> np.dtype[Any]:
        """Return the type of an argument."""
        return {Kind.OUTER: self.types.outer, Kind.INNER: self.types.inner, Kind.INDEX: np.dtype(np.int32)}[kind]

    def loopy_arguments(self) -> list[Any]:
        """Return the arguments of the kernel for loopy."""
        found: list[Any] = []
        for argument in self.operator.arguments_for(self.types):
            if isinstance(argument, GreensParameters):
                found += [lp.ValueArg(name, self.types.inner) for name in self.greens.arguments]
            elif isinstance(argument, Number):
                found.append(lp.ValueArg(argument.name, self.dtype_of(argument.kind)))
            else:
                found.append(self._array(argument))
        return found

    def _array(self, array: Array) -> Any:
        roles: dict[Role, dict[str, bool]] = {
            Role.READ: {},
            Role.WRITTEN: {"is_output": True},
            Role.ADDED_TO: {"is_input": True, "is_output": True},
        }
        shape = array.shape.format(**self.sizes) or None
        return lp.GlobalArg(array.name, self.dtype_of(array.kind), shape=shape, **roles[array.role])


@lru_cache(maxsize=64)
def _made(spec: Specification) -> Kernel:
    return spec.operator.make(spec)
