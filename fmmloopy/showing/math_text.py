"""Write a kernel as mathematics: only its arrays, rules, loops and statements.

Loops are nested as they will run, if loopy can schedule the kernel; otherwise in the order of the text, where a loop of
an operator may still have statements in several places. ``str(kernel)`` has all that is left out here.
"""

from __future__ import annotations

import io
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any

import islpy as isl
import loopy as lp
import numpy as np
from loopy.kernel.array import VectorArrayDimTag
from loopy.kernel.data import AddressSpace, GroupInameTag, LocalInameTagBase
from loopy.schedule import Barrier, EnterLoop, LeaveLoop, RunInstruction
from loopy.symbolic import StringifyMapper
from pymbolic.mapper.stringifier import PREC_NONE, PREC_PRODUCT, PREC_SUM
from pymbolic.primitives import Product

from fmmloopy.operators import Kernel

INDENT = "    "


class _Mathematics(StringifyMapper):  # type: ignore[misc]
    """Expressions in usual notation: ``a - b`` for ``a + (-1)*b``, no ``+ 0`` and ``1*``, no types of numbers."""

    def map_sum(self, expr: Any, enclosing_prec: int, *args: Any, **kwargs: Any) -> str:
        children = _flat(expr)
        whole = sum(int(term) for term in children if _is_whole(term))
        terms = [term for term in children if not _is_whole(term)]
        text = ""
        for term in [*terms, *([whole] if whole or not terms else [])]:
            minus, rest = _without_minus(term)
            sign = (" - " if minus else " + ") if text else ("-" if minus else "")
            # What follows a minus needs parentheses if it is a sum.
            text += sign + self.rec(rest, PREC_PRODUCT if minus else PREC_SUM, *args, **kwargs)
        return str(self.parenthesize_if_needed(text, enclosing_prec, PREC_SUM))

    def map_product(self, expr: Any, enclosing_prec: int, *args: Any, **kwargs: Any) -> str:
        minus, rest = _without_minus(expr)
        if minus:
            text = "-" + self.rec(rest, PREC_PRODUCT, *args, **kwargs)
            return str(self.parenthesize_if_needed(text, enclosing_prec, PREC_SUM))
        factors = tuple(factor for factor in _flat(expr) if not (_is_whole(factor) and abs(factor) == 1))
        if len(factors) < 2:
            return str(self.rec(factors[0] if factors else 1, enclosing_prec, *args, **kwargs))
        return str(super().map_product(Product(factors), enclosing_prec, *args, **kwargs))

    def map_constant(self, expr: Any, enclosing_prec: int, *args: Any, **kwargs: Any) -> str:
        text = str(expr)
        return str(self.parenthesize_if_needed(text, enclosing_prec, PREC_SUM)) if text.startswith("-") else text


def _flat(expr: Any) -> list[Any]:
    """Return the operands of a sum or product, those of sums in sums and products in products too."""
    kind = type(expr)
    return [leaf for child in expr.children for leaf in (_flat(child) if isinstance(child, kind) else [child])]


def _is_whole(term: Any) -> bool:
    return isinstance(term, (int, np.integer)) and not isinstance(term, (bool, np.bool_))


def _without_minus(term: Any) -> tuple[bool, Any]:
    """Split the sign off a term of a sum."""
    if isinstance(term, (int, float, np.integer, np.floating)) and term < 0:
        return True, -term
    if isinstance(term, Product):
        factors = _flat(term)
        rest = tuple(factor for factor in factors if not (_is_whole(factor) and factor == -1))
        if (len(factors) - len(rest)) % 2:
            return True, rest[0] if len(rest) == 1 else Product(rest)
    return False, term


_mathematics = _Mathematics()


def _text(expression: Any) -> str:
    return str(_mathematics(expression, PREC_NONE))


def math_text(knl: Kernel) -> str:
    """Write a kernel as text.

    Args:
        knl: a loopy translation unit with one kernel, such as a recipe yields.

    Returns:
        Lines: arrays that the kernel keeps to itself, and those with a vector axis; substitution rules; loops with
        their bounds and tags, and the statements in them, each followed by its id in braces where that is not the
        name of the variable.
    """
    kernel = knl.default_entrypoint
    lines = []
    if arrays := [text for array in _arrays(kernel) if (text := _array(array))]:
        lines += ["arrays", *(INDENT + text for text in arrays)]
    if kernel.substitutions:
        lines.append("rules")
        for name, rule in sorted(kernel.substitutions.items()):
            arguments = f"({', '.join(rule.arguments)})" if rule.arguments else ""
            lines.append(f"{INDENT}{name}{arguments} := {_text(rule.expression)}")
    try:
        events, order = list(_as_scheduled(knl)), "loops"
    except Exception:  # whatever loopy says: lanes still open, an order that cannot be, ...
        events, order = list(_as_written(kernel)), "loops, in the order of the text"
    return "\n".join([*lines, order, *_listing(kernel, events)])


def _arrays(kernel: Any) -> list[Any]:
    return [*sorted(kernel.temporary_variables.values(), key=lambda array: str(array.name)), *kernel.args]


def _array(array: Any) -> str:
    """Write an array's shape and where it is; nothing for scalars, and for arguments without a vector axis."""
    shape = getattr(array, "shape", None)
    if not isinstance(shape, tuple) or not shape:
        return ""
    tags = array.dim_tags or (None,) * len(shape)
    vectors = [isinstance(tag, VectorArrayDimTag) for tag in tags]
    if isinstance(array, lp.ArrayArg) and not any(vectors):
        return ""
    axes = [_text(n) + (" vec" if vector else "") for n, vector in zip(shape, vectors, strict=True)]
    local = "  local" if getattr(array, "address_space", None) == AddressSpace.LOCAL else ""
    return f"{array.name}[{', '.join(axes)}]{local}"


# -- loops and statements, as a sequence of events


@dataclass(frozen=True)
class _Enter:
    iname: str


@dataclass(frozen=True)
class _Leave:
    pass


@dataclass(frozen=True)
class _Run:
    statement: Any


@dataclass(frozen=True)
class _Say:
    text: str


_Event = _Enter | _Leave | _Run | _Say


def _as_scheduled(knl: Kernel) -> Iterator[_Event]:
    """Let loopy schedule the kernel; what the hardware does in parallel is outermost."""
    # If loopy cannot schedule, it prints, and waits for a key if it thinks that it runs interactively.
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        prepared = lp.preprocess_program(knl)
        scheduled = lp.get_one_linearized_kernel(prepared.default_entrypoint, prepared.callables_table)
    kernel = knl.default_entrypoint
    statements = {**scheduled.id_to_insn, **kernel.id_to_insn}
    order = {insn.id: place for place, insn in enumerate(kernel.instructions)}
    parallel = sorted(
        (str(tag), str(iname.name))
        for iname in kernel.inames.values()
        for tag in iname.tags_of_type((GroupInameTag, LocalInameTagBase))
    )
    yield from (_Enter(iname) for _, iname in parallel)
    run: list[Any] = []
    for item in scheduled.linearization:
        if isinstance(item, RunInstruction):
            run.append(statements[item.insn_id])
            continue
        yield from map(_Run, _in_order(run, order))
        run = []
        if isinstance(item, EnterLoop):
            yield _Enter(item.iname)
        elif isinstance(item, LeaveLoop):
            yield _Leave()
        elif isinstance(item, Barrier):
            yield _Say(f"barrier ({item.synchronization_kind})")
    yield from map(_Run, _in_order(run, order))


def _in_order(statements: Sequence[Any], order: dict[str, int]) -> list[Any]:
    """Put statements without a loop between them in source order, as far as their dependencies allow."""
    left, done = sorted(statements, key=lambda insn: order.get(insn.id, len(order))), []
    while left:
        waiting = {insn.id for insn in left}
        ready = next((insn for insn in left if not (insn.depends_on & waiting) - {insn.id}), left[0])
        left.remove(ready)
        done.append(ready)
    return done


def _as_written(kernel: Any) -> Iterator[_Event]:
    """Open and close loops as the statements need them, in source order."""
    counts = Counter(iname for insn in kernel.instructions for iname in insn.within_inames)
    names = [name for domain in kernel.domains for name in domain.get_var_names(isl.dim_type.set)]
    stack: list[str] = []
    for insn in kernel.instructions:
        kept = next((i for i, iname in enumerate(stack) if iname not in insn.within_inames), len(stack))
        for _ in stack[kept:]:
            yield _Leave()
        new = sorted(insn.within_inames - set(stack[:kept]), key=lambda n: (-counts[n], names.index(n)))
        yield from map(_Enter, new)
        stack = [*stack[:kept], *new]
        yield _Run(insn)


def _listing(kernel: Any, events: Sequence[_Event]) -> Iterator[str]:
    """Write events as indented lines; statements under one condition share its line."""
    stack: list[str] = []
    condition = ""
    for event in events:
        indent = INDENT * (len(stack) + 1)
        if isinstance(event, _Run):
            now = " and ".join(sorted(map(_text, event.statement.predicates)))
            if now and now != condition:
                yield f"{indent}if {now}"
            condition = now
            yield indent + (INDENT if now else "") + _statement(event.statement)
            continue
        condition = ""
        if isinstance(event, _Enter):
            yield indent + _loop(kernel, event.iname, stack)
            stack.append(event.iname)
        elif isinstance(event, _Leave):
            stack.pop()
        else:
            yield indent + event.text


def _loop(kernel: Any, iname: str, outer: Sequence[str]) -> str:
    """Write the header of a loop: its bounds, given the loops around it, and its tags."""
    tags = sorted(str(tag) for tag in kernel.inames[iname].tags) if iname in kernel.inames else []
    return f"for {_bounds(kernel, iname, outer)}" + (f"  [{', '.join(tags)}]" if tags else "")


def _bounds(kernel: Any, iname: str, outer: Sequence[str]) -> str:
    """Write the constraints of isl on an iname within other loops; only its name if there are none."""
    try:
        domain = kernel.domains[kernel.get_home_domain_index(iname)].to_set()
    except (KeyError, ValueError):
        return iname
    for name in domain.get_var_names(isl.dim_type.set):
        place = domain.find_dim_by_name(isl.dim_type.set, name)
        if name in outer:
            end = domain.dim(isl.dim_type.param)
            domain = domain.move_dims(isl.dim_type.param, end, isl.dim_type.set, place, 1)
        elif name != iname:
            domain = domain.project_out(isl.dim_type.set, place, 1)
    text = str(domain.gist_params(domain.params())).split("->")[-1].strip()
    inside = text.strip("{} ")
    head, _, constraints = inside.partition(":")
    bounds = re.sub(r"\b(\d+)([A-Za-z_])", r"\1*\2", constraints.strip() or head.strip("[] "))
    return bounds or iname


def _statement(insn: Any) -> str:
    """Write an assignment, with its id if that differs from the variable's name."""
    if not hasattr(insn, "expression"):
        return str(insn)
    names = [str(getattr(getattr(a, "aggregate", a), "name", a)) for a in insn.assignees]
    left = ", ".join(map(_text, insn.assignees))
    return f"{left} = {_text(insn.expression)}" + ("" if [insn.id] == names else f"   {{{insn.id}}}")
