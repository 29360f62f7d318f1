"""What a kernel consists of: statements, variables and their types, the order of statements, work-items."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import islpy as isl
import loopy as lp
import numpy as np
from loopy.kernel.data import (
    ForceSequentialTag,
    GroupInameTag,
    IlpBaseTag,
    LocalInameTag,
    UnrollHintTag,
    UnrollTag,
    VectorizeTag,
)
from loopy.kernel.function_interface import ScalarCallable
from loopy.kernel.tools import get_hw_axis_base_for_codegen
from loopy.symbolic import pw_aff_to_expr
from loopy.type_inference import TypeReader
from pymbolic.primitives import Subscript, Variable

from fmmloopy.checking.proof.verdict import Unproved

Statement = Any
"""An assignment of loopy."""

SEQUENTIAL_TAGS = (UnrollTag, UnrollHintTag, ForceSequentialTag, VectorizeTag, IlpBaseTag)
"""Tags of loops whose iterations one work-item runs; loopy gives those of vectors copies of what they write."""

Constraint = tuple[bool, tuple[tuple[Any, int], ...], int]
"""Of a domain: whether it is an equation, factors by name, constant. The name of a quotient is a tuple itself."""


@dataclass(frozen=True)
class Facts:
    """A kernel whose rules are expanded and whose types are known.

    Attributes:
        tunit, kernel: of loopy.
        statements: its assignments.
        writers: assignments by the variable that they write.
        before: ids of the statements that each one comes after, by id.
        axes: the axes of work-items and groups that inames are, such as ``"l.0"``.
        types: finds types of expressions.
        least: size in bytes of the narrowest real argument.
        is_mixed: whether there are arguments of several real types.
    """

    tunit: Any
    kernel: Any
    statements: tuple[Statement, ...]
    writers: Mapping[str, tuple[Statement, ...]]
    before: Mapping[str, frozenset[str]]
    axes: Mapping[str, str]
    types: Any
    least: int
    is_mixed: bool
    domains: dict[frozenset[str], tuple[Constraint, ...]]

    def is_temporary(self, name: str) -> bool:
        """Whether a variable is one of the kernel's own."""
        return name in self.kernel.temporary_variables

    def temporary_type(self, name: str) -> np.dtype[Any]:
        """Return the type of a temporary variable."""
        return _dtype(self.kernel.temporary_variables[name].dtype)

    def argument_type(self, name: str) -> np.dtype[Any]:
        """Return the type of an argument."""
        return _dtype(self.kernel.arg_dict[name].dtype)

    def target_type(self, statement: Statement) -> np.dtype[Any]:
        """Return the type of what a statement writes."""
        name = written(statement)
        return self.temporary_type(name) if self.is_temporary(name) else self.argument_type(name)

    def type_of(self, expression: Any) -> np.dtype[Any] | None:
        """Return the type of an expression; None for numbers that take on the type of what they meet."""
        if isinstance(expression, np.generic):
            return np.dtype(type(expression))
        try:
            found = self.types(expression)
        except Exception:  # loopy raises different errors for what has no type of its own
            return None
        return _dtype(found)

    def is_real(self, expression: Any) -> bool:
        """Whether an expression is a floating-point number."""
        found = self.type_of(expression)
        return isinstance(expression, float) if found is None else found.kind == "f"

    def is_local(self, name: str) -> bool:
        """Whether the work-items of a group share a temporary variable."""
        return bool(self.kernel.temporary_variables[name].address_space == lp.AddressSpace.LOCAL)

    def axis(self, iname: str, name: str) -> str | None:
        """Return what makes two inames one loop for a variable.

        For a private variable, work-items are their axis; for one that they share, they are told apart by its index
        alone, which is None.
        """
        axis = self.axes.get(iname)
        if axis is None:
            return iname
        return None if axis.startswith("l") and self.is_local(name) else axis

    def shared(self, some: frozenset[str], others: frozenset[str], name: str) -> dict[str, str]:
        """Return which of some inames are one loop with which of the others, for a variable."""
        of_others = {self.axis(iname, name): iname for iname in sorted(others)}
        axes = {iname: self.axis(iname, name) for iname in sorted(some)}
        return {iname: of_others[axis] for iname, axis in axes.items() if axis is not None and axis in of_others}

    def function_of_loopy(self, name: str) -> str:
        """Return the name of a function that loopy has itself, and that generated code calls by it; else nothing."""
        function = self.tunit.callables_table.get(name)
        own, in_target = str(getattr(function, "name", name)), getattr(function, "name_in_target", None)
        is_loopys = isinstance(function, ScalarCallable) and type(function).__module__.startswith("loopy.")
        return own if is_loopys and in_target in (own, f"{own}f") else ""

    def domain(self, inames: frozenset[str]) -> tuple[Constraint, ...]:
        """Return the constraints of inames, without those of other inames."""
        if inames not in self.domains:
            whole = self.kernel.get_inames_domain(inames)
            self.domains[inames] = constraints(whole.project_out_except(sorted(inames), [isl.dim_type.set]))
        return self.domains[inames]


def _dtype(of_loopy: Any) -> np.dtype[Any]:
    """Return a type of loopy as numpy has it."""
    found: np.dtype[Any] = np.dtype(of_loopy.numpy_dtype)
    return found


def written(statement: Statement) -> str:
    """Return the name of the variable that a statement writes."""
    return str(statement.assignee_var_names()[0])


def indices(reference: Any) -> tuple[Any, ...]:
    """Return the expressions in the index of a variable, none if it has none."""
    return tuple(reference.index_tuple) if isinstance(reference, Subscript) else ()


def read_facts(tunit: Any) -> Facts:
    """Read a kernel.

    Raises:
        Unproved: it has something in it that proofs do not cover.
    """
    from loopy.preprocess import find_temporary_address_space, realize_ilp

    tunit = lp.infer_unknown_types(lp.expand_subst(tunit), expect_completion=True)
    kernel = find_temporary_address_space(realize_ilp(tunit.default_entrypoint))
    tunit = tunit.with_kernel(kernel)
    statements = tuple(i for i in kernel.instructions if _is_assignment(i))
    writers: dict[str, list[Statement]] = {}
    for statement in statements:
        writers.setdefault(written(statement), []).append(statement)
    for name, variable in kernel.temporary_variables.items():
        _refuse_variable(name, variable)
    real = [a.dtype.numpy_dtype for a in kernel.args if a.dtype.numpy_dtype.kind == "f"]
    axes = _axes(kernel)
    _refuse_idle_axes(statements, axes)
    _refuse_shifted_axes(kernel, axes)
    return Facts(
        tunit,
        kernel,
        statements,
        {name: tuple(found) for name, found in writers.items()},
        kernel.recursive_insn_dep_map(),
        axes,
        TypeReader(kernel, tunit.callables_table),
        min((t.itemsize for t in real), default=8),
        len(set(real)) > 1,
        {},
    )


def _is_assignment(statement: Any) -> bool:
    if isinstance(statement, lp.BarrierInstruction) and statement.synchronization_kind != "local":
        raise Unproved("a barrier across work-groups", statement.id)
    if isinstance(statement, (lp.NoOpInstruction, lp.BarrierInstruction)):
        return False
    if not isinstance(statement, lp.Assignment):
        raise Unproved(f"a {type(statement).__name__}", statement.id)
    if statement.atomicity:
        raise Unproved("atomic", statement.id)
    if not isinstance(statement.assignee, (Variable, Subscript)):
        raise Unproved(f"assigns to a {type(statement.assignee).__name__}", statement.id)
    return True


def _refuse_variable(name: str, variable: Any) -> None:
    """Refuse temporary variables that are not plain arrays of their own."""
    if variable.base_storage is not None or any(variable.base_indices or ()) or variable.offset:
        raise Unproved(f"{name} shares storage")
    if variable.initializer is not None:
        raise Unproved(f"{name} is a table")
    if variable.address_space not in (lp.AddressSpace.PRIVATE, lp.AddressSpace.LOCAL):
        raise Unproved(f"{name} is in global memory")


def _axes(kernel: Any) -> dict[str, str]:
    axes = {}
    for name, iname in kernel.inames.items():
        for tag in iname.tags:
            if isinstance(tag, LocalInameTag):
                axes[name] = f"l.{tag.axis}"
            elif isinstance(tag, GroupInameTag):
                axes[name] = f"g.{tag.axis}"
            elif not isinstance(tag, SEQUENTIAL_TAGS):
                raise Unproved(f"loop {name} has the tag {tag}")
    return axes


def _refuse_idle_axes(statements: tuple[Statement, ...], axes: Mapping[str, str]) -> None:
    """Refuse statements that more work-items run than they have inames for."""
    for statement in statements:
        own = [axes[i] for i in statement.within_inames if i in axes]
        if set(own) != set(axes.values()) or len(own) != len(set(own)):
            raise Unproved("not every axis of the work-items is one of its loops", statement.id)


def _refuse_shifted_axes(kernel: Any, axes: Mapping[str, str]) -> None:
    """Refuse loops of one axis that start at different numbers: work-item 0 runs the first iteration of each."""
    first: dict[str, str] = {}
    for iname, axis in axes.items():
        start = str(pw_aff_to_expr(get_hw_axis_base_for_codegen(kernel, iname).to_pw_aff()))
        if first.setdefault(axis, start) != start:
            raise Unproved(f"loop {iname} starts at {start}, and another loop of its axis at {first[axis]}")


def constraints(domain: Any) -> tuple[Constraint, ...]:
    """Return the constraints of a set of isl that is one basic set.

    Raises:
        Unproved: it is a union.
    """
    basic = [domain] if isinstance(domain, isl.BasicSet) else domain.get_basic_sets()
    if len(basic) != 1:
        raise Unproved("a domain that is a union")
    return tuple(_constraint(c, _names(basic[0])) for c in basic[0].get_constraints())


def _names(basic: Any) -> list[tuple[Any, int, str]]:
    kinds = (isl.dim_type.param, isl.dim_type.set)
    return [(kind, i, basic.get_dim_name(kind, i)) for kind in kinds for i in range(basic.dim(kind))]


def _constraint(constraint: Any, names: list[tuple[Any, int, str]]) -> Constraint:
    terms: list[tuple[Any, int]] = [(n, constraint.get_coefficient_val(kind, i).to_python()) for kind, i, n in names]
    for number in range(constraint.dim(isl.dim_type.div)):
        factor = constraint.get_coefficient_val(isl.dim_type.div, number).to_python()
        if factor:
            terms.append((_quotient(constraint.get_div(number), names), factor))
    kept = tuple((name, int(factor)) for name, factor in terms if factor)
    return constraint.is_equality(), kept, int(constraint.get_constant_val().to_python())


def _quotient(div: Any, names: list[tuple[Any, int, str]]) -> tuple[tuple[tuple[str, int], ...], int, int]:
    """Return factors by name, the constant and the divisor of a quotient that is rounded down."""
    if div.dim(isl.dim_type.div):
        for number in range(div.dim(isl.dim_type.div)):
            if not div.get_coefficient_val(isl.dim_type.div, number).is_zero():
                raise Unproved("a quotient of quotients in a domain")
    divisor = div.get_denominator_val().to_python()
    factors = (
        (n, int((div.get_coefficient_val(isl.dim_type.in_ if k == isl.dim_type.set else k, i) * divisor).to_python()))
        for k, i, n in names
    )
    return tuple((n, f) for n, f in factors if f), int((div.get_constant_val() * divisor).to_python()), divisor
