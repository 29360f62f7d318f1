"""One fault in a kernel: which there can be, and how to put one in.

A mutation names the place of its fault by what it is in, such as a statement, and by its number among the places of
this kind there. So one mutation applies to the kernels for several Green's functions and orders, wherever they have
this place; a kernel that does not have it stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import islpy as isl
import loopy as lp
import numpy as np
from loopy.symbolic import UncachedIdentityMapper
from pymbolic.primitives import Comparison, If, Product, Subscript, Sum

from fmmloopy.operators.operator import Kernel

KINDS = (
    "bound", "guard", "condition", "comparison", "index", "coefficient", "term", "type", "initialization", "dependency",
    "barrier",
)  # fmt: skip
"""Kinds of faults, in the order in which they are made."""

RELAXED = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "=="}

NARROWER = {
    "float64": ("float32",),
    "float32": (),
    "int64": ("int16", "int8"),
    "int32": ("int16", "int8"),
    "int16": ("int8",),
}
"""Types that hold less; half precision is not tried, because few devices have it."""


@dataclass(frozen=True)
class Mutation:
    """One fault.

    Attributes:
        kind: one of KINDS.
        place: what it is in: the id of a statement, the name of a variable, the text of a domain.
        number: which place of this kind there.
        detail: what is done, where there are several ways.
    """

    kind: str
    place: str
    number: int = 0
    detail: str = ""

    def __str__(self) -> str:
        number = f", number {self.number + 1}" if self.number else ""
        return f"{self.kind} of {self.place}{number}" + (f": {self.detail}" if self.detail else "")


def prepared(knl: Kernel) -> Kernel:
    """Return a kernel with its substitution rules applied, so that a fault is in one place and not in all uses."""
    return lp.expand_subst(knl)


def mutations(knl: Kernel) -> Iterator[Mutation]:
    """Yield all mutations of a kernel that is `prepared`."""
    kernel = knl.default_entrypoint
    yield from _bounds(kernel)
    for insn in kernel.instructions:
        if isinstance(insn, lp.BarrierInstruction):
            yield Mutation("barrier", insn.id)
            continue
        for number in range(len(insn.predicates)):
            yield Mutation("guard", insn.id, number, "removed")
        for kind in _CHANGES:
            for number in range(_count(insn, kind)):
                yield Mutation(kind, insn.id, number)
        if _is_constant(insn):
            for iname in sorted(insn.within_inames):
                yield Mutation("initialization", insn.id, detail=f"outside {iname}")
            yield Mutation("initialization", insn.id, detail="never")
        for other in sorted(insn.depends_on):
            yield Mutation("dependency", insn.id, detail=f"not after {other}")
    inferred = lp.infer_unknown_types(lp.preprocess_program(knl), expect_completion=True).default_entrypoint
    for name in sorted(kernel.temporary_variables):
        dtype = inferred.temporary_variables[name].dtype.numpy_dtype.name
        for narrow in NARROWER.get(dtype, ()):
            yield Mutation("type", name, detail=narrow)


def mutated(knl: Kernel, mutation: Mutation) -> Kernel:
    """Return a kernel with a fault; the kernel itself if it has no such place."""
    kernel = knl.default_entrypoint
    if mutation.kind == "bound":
        changed = _with_bound(kernel, mutation)
    elif mutation.kind == "type":
        changed = _with_type(kernel, mutation)
    elif mutation.kind == "barrier":
        changed = _without(kernel, mutation.place)
    else:
        instructions = [_faulty(i, mutation) if i.id == mutation.place else i for i in kernel.instructions]
        changed = kernel.copy(instructions=instructions)
    return knl.with_kernel(changed)


# -- bounds of loops


def _names(domain: isl.BasicSet) -> list[str]:
    """Return the loops of a domain."""
    return [str(domain.get_dim_name(isl.dim_type.set, i)) for i in range(domain.dim(isl.dim_type.set))]


def _inequalities(domain: isl.BasicSet) -> list[isl.Constraint]:
    """Return the constraints of a domain that bound its loops, in an order of their own."""
    loops = range(domain.dim(isl.dim_type.set))
    found = [
        constraint
        for constraint in domain.get_constraints()
        if not constraint.is_equality() and any(constraint.involves_dims(isl.dim_type.set, loop, 1) for loop in loops)
    ]
    return sorted(found, key=str)


def _bounds(kernel: Any) -> Iterator[Mutation]:
    for domain in kernel.domains:
        for number in range(len(_inequalities(domain))):
            for detail in ("tighter", "looser"):
                yield Mutation("bound", ", ".join(_names(domain)), number, detail)


def _with_bound(kernel: Any, mutation: Mutation) -> Any:
    domains = list(kernel.domains)
    for index, domain in enumerate(domains):
        bounds = _inequalities(domain)
        if ", ".join(_names(domain)) == mutation.place and mutation.number < len(bounds):
            chosen = bounds[mutation.number]
            step = -1 if mutation.detail == "tighter" else 1
            moved = chosen.set_constant_val(chosen.get_constant_val() + step)
            others = [c for c in domain.get_constraints() if str(c) != str(chosen)]
            changed = isl.BasicSet.universe(domain.get_space())
            for constraint in (*others, moved):
                changed = changed.add_constraint(constraint)
            domains[index] = changed
            break
    return kernel.copy(domains=domains)


# -- types, barriers


def _with_type(kernel: Any, mutation: Mutation) -> Any:
    temporaries = dict(kernel.temporary_variables)
    if mutation.place in temporaries:
        dtype = lp.types.to_loopy_type(np.dtype(mutation.detail))
        temporaries[mutation.place] = temporaries[mutation.place].copy(dtype=dtype)
    return kernel.copy(temporary_variables=temporaries)


def _without(kernel: Any, name: str) -> Any:
    """Remove a barrier; what came after it comes after what came before it."""
    gone = next((i for i in kernel.instructions if i.id == name), None)
    if gone is None:
        return kernel
    instructions = [
        i.copy(depends_on=(i.depends_on - {name}) | gone.depends_on) if name in i.depends_on else i
        for i in kernel.instructions
        if i.id != name
    ]
    return kernel.copy(instructions=instructions)


# -- statements


def _is_constant(insn: Any) -> bool:
    """Return whether a statement sets something to a number."""
    return isinstance(getattr(insn, "expression", None), (int, float, np.number))


def _faulty(insn: Any, mutation: Mutation) -> Any:
    if mutation.kind == "guard":
        kept = sorted(insn.predicates, key=str)
        return insn.copy(predicates=frozenset(kept[: mutation.number] + kept[mutation.number + 1 :]))
    if mutation.kind == "initialization":
        if mutation.detail == "never":
            return insn.copy(predicates=insn.predicates | {lp.symbolic.parse("0 > 1")})
        return insn.copy(within_inames=insn.within_inames - {mutation.detail.removeprefix("outside ")})
    if mutation.kind == "dependency":
        return insn.copy(depends_on=insn.depends_on - {mutation.detail.removeprefix("not after ")})
    return _changed(insn, _Nth(_CHANGES[mutation.kind], mutation.number))


def _changed(insn: Any, mapper: _Nth) -> Any:
    """Apply a mapper to a statement: its guards, what it writes to, and what it computes."""
    guards = [mapper(predicate) for predicate in sorted(insn.predicates, key=str)]
    if not isinstance(insn, lp.Assignment):
        return insn.copy(predicates=frozenset(guards))
    assignee = mapper(insn.assignee)
    return insn.copy(predicates=frozenset(guards), assignee=assignee, expression=mapper(insn.expression))


def _count(insn: Any, kind: str) -> int:
    counter = _Nth(_CHANGES[kind], -1)
    _changed(insn, counter)
    return counter.seen


Change = Callable[[Any], Iterable[Any]]
"""Returns what a node of an expression may be changed to: nothing if it is not of the kind."""


class _Nth(UncachedIdentityMapper):  # type: ignore[misc]
    """Changes one node of an expression: of all changes that there are, the one with a number."""

    def __init__(self, changes: Change, number: int) -> None:
        super().__init__()
        self._changes, self._number = changes, number
        self.seen = 0

    def rec(self, expr: Any, *args: Any) -> Any:
        """Change a node, or those below it."""
        for change in self._changes(expr):
            self.seen += 1
            if self.seen - 1 == self._number:
                return change
        return super().rec(expr, *args)

    __call__ = rec


def _indices(expr: Any) -> Iterable[Any]:
    """Read or write one place further along an axis."""
    if isinstance(expr, Subscript):
        for axis in range(len(expr.index_tuple)):
            index = tuple(entry + 1 if i == axis else entry for i, entry in enumerate(expr.index_tuple))
            yield Subscript(expr.aggregate, index)


def _coefficients(expr: Any) -> Iterable[Any]:
    """Add 1 to a number, or change the sign of a term."""
    if isinstance(expr, (int, float, np.number)) and not isinstance(expr, bool):
        yield expr + 1
    if isinstance(expr, Sum):
        for place in range(len(expr.children)):
            yield Sum(tuple(Product((-1, c)) if i == place else c for i, c in enumerate(expr.children)))


def _terms(expr: Any) -> Iterable[Any]:
    """Leave out a term of a sum, or a factor of a product."""
    if isinstance(expr, (Sum, Product)) and len(expr.children) > 1:
        for place in range(len(expr.children)):
            rest = expr.children[:place] + expr.children[place + 1 :]
            yield rest[0] if len(rest) == 1 else type(expr)(rest)


def _comparisons(expr: Any) -> Iterable[Any]:
    """Include what was not, or the other way round."""
    if isinstance(expr, Comparison):
        yield Comparison(expr.left, RELAXED[expr.operator], expr.right)


def _conditions(expr: Any) -> Iterable[Any]:
    """Take the same branch always."""
    if isinstance(expr, If):
        yield expr.then
        yield expr.else_


_CHANGES: dict[str, Change] = {
    "condition": _conditions,
    "comparison": _comparisons,
    "index": _indices,
    "coefficient": _coefficients,
    "term": _terms,
}
