"""Edits of loopy kernels: what a slip of the pen, or a misunderstanding, does to a kernel.

Every function here returns an edit, a function from a kernel to a new one; it fails if it finds nothing to change.
Statements are named by patterns of their ids, as in ``"store*"``; expressions are changed as text.
"""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

import islpy as isl
import loopy as lp
import numpy as np

from fmmloopy.recipes import fix_lanes, separate_lanes
from fmmloopy.transforms import steps

Kernel = Any
Edit = Callable[[Kernel], Kernel]


def as_it_is(knl: Kernel) -> Kernel:
    """Change nothing."""
    return knl


def then(*edits: Edit) -> Edit:
    """Apply edits in order."""

    def edit(knl: Kernel) -> Kernel:
        for one in edits:
            knl = one(knl)
        return knl

    return edit


def only_if(condition: Callable[[Kernel], bool], edit: Edit) -> Edit:
    """Apply an edit to kernels for which a condition holds."""
    return lambda knl: edit(knl) if condition(knl) else knl


def has(statement_id: str) -> Callable[[Kernel], bool]:
    """Return whether a kernel has a statement of this id."""
    return lambda knl: any(insn.id == statement_id for insn in knl.default_entrypoint.instructions)


# -- statements


def change(pattern: str, function: Callable[[Any], Any]) -> Edit:
    """Apply a function to the statements whose ids match."""

    def edit(knl: Kernel) -> Kernel:
        kernel = knl.default_entrypoint
        changed = [function(i) if fnmatchcase(i.id, pattern) else i for i in kernel.instructions]
        assert changed != kernel.instructions, f"nothing to change in {pattern}"
        return knl.with_kernel(kernel.copy(instructions=changed))

    return edit


def _replaced(expression: Any, replacements: tuple[tuple[str, str], ...]) -> Any:
    text = str(expression)
    for old, new in replacements:
        assert old in text, (old, text)
        text = text.replace(old, new)
    return lp.symbolic.parse(text)


def rewrite(pattern: str, *replacements: tuple[str, str]) -> Edit:
    """Replace text in what statements compute."""
    return change(pattern, lambda insn: insn.copy(expression=_replaced(insn.expression, replacements)))


def pair_test(*replacements: tuple[str, str]) -> Edit:
    """Replace text in the test for coinciding points, which is in the entries if there are several vectors."""
    return lambda knl: rewrite("w*" if has("w0_0")(knl) else "sum*", *replacements)(knl)


def retarget(pattern: str, *replacements: tuple[str, str]) -> Edit:
    """Replace text in what statements write to."""
    return change(pattern, lambda insn: insn.copy(assignee=_replaced(insn.assignee, replacements)))


def everywhere(pattern: str, *replacements: tuple[str, str]) -> Edit:
    """Replace text on both sides of statements."""
    return then(rewrite(pattern, *replacements), retarget(pattern, *replacements))


def assign(pattern: str, text: str) -> Edit:
    """Compute something else; ``{}`` in the text stands for what was computed."""
    return change(pattern, lambda i: i.copy(expression=lp.symbolic.parse(text.format(f"({i.expression})"))))


def at_most(pattern: str, text: str, *dependencies: str) -> Edit:
    """Compute the smaller of what was computed and something else."""
    smaller = assign(pattern, "{0} if {0} < " + text + " else " + text)
    return then(smaller, with_dependency(pattern, *dependencies)) if dependencies else smaller


def store_in_place_of_adding(pattern: str) -> Edit:
    """Overwrite what is there: ``a = a + b`` becomes ``a = b``."""
    return change(pattern, lambda insn: insn.copy(expression=insn.expression.children[-1]))


def add_in_place_of_storing(pattern: str) -> Edit:
    """Add to what is there: ``a = b`` becomes ``a = a + b``."""
    return change(pattern, lambda insn: insn.copy(expression=insn.assignee + insn.expression))


def guard(pattern: str, text: str = "") -> Edit:
    """Give statements another guard; none without a text, and ``{}`` in it stands for the old one."""

    def function(insn: Any) -> Any:
        old = " and ".join(f"({p})" for p in insn.predicates)
        new = text.format(old)
        return insn.copy(predicates=frozenset([lp.symbolic.parse(new)] if new else []))

    return change(pattern, function)


def without_dependency(pattern: str, *ids: str) -> Edit:
    """Forget that statements come after others."""
    return change(pattern, lambda insn: insn.copy(depends_on=insn.depends_on - set(ids)))


def with_dependency(pattern: str, *ids: str) -> Edit:
    """Let statements come after others."""
    return change(pattern, lambda insn: insn.copy(depends_on=insn.depends_on | set(ids)))


def outside(pattern: str, *inames: str) -> Edit:
    """Take statements out of loops: they run once before, not in every iteration."""
    return change(pattern, lambda insn: insn.copy(within_inames=insn.within_inames - set(inames)))


def without_barriers(pattern: str, *others: str) -> Edit:
    """Promise loopy that no barrier is needed between statements."""
    unneeded = frozenset((other, "any") for other in others)
    return change(pattern, lambda insn: insn.copy(no_sync_with=insn.no_sync_with | unneeded))


def barrier(after: str, before: str) -> Edit:
    """Add a barrier between a statement and those that match a pattern, in the loops that they share."""

    def edit(knl: Kernel) -> Kernel:
        kernel = knl.default_entrypoint
        inames = frozenset.intersection(
            *(i.within_inames for i in kernel.instructions if i.id == after or fnmatchcase(i.id, before))
        )
        sequential = frozenset(n for n in inames if not kernel.iname_tags_of_type(n, lp.kernel.data.LocalInameTag))
        new = lp.BarrierInstruction(
            "barrier",
            depends_on=frozenset([after]),
            within_inames=sequential,
            synchronization_kind="local",
            mem_kind="local",
        )
        instructions = [
            i.copy(depends_on=i.depends_on | {"barrier"}) if fnmatchcase(i.id, before) else i
            for i in kernel.instructions
        ]
        return knl.with_kernel(kernel.copy(instructions=[*instructions, new]))

    return edit


def statement(text: str, *, like: str, name: str, dep: tuple[str, ...] = (), before: str = "") -> Edit:
    """Add an assignment.

    Args:
        text: ``name = expression``; a new name becomes a temporary variable of the type that it needs.
        like: id of a statement in whose loops it is.
        name: its id.
        dep: ids of statements that come before.
        before: pattern of the ids of statements that come after.
    """
    left, right = (lp.symbolic.parse(side) for side in text.split(" = "))

    def edit(knl: Kernel) -> Kernel:
        kernel = knl.default_entrypoint
        inames = next(i.within_inames for i in kernel.instructions if i.id == like)
        new = lp.Assignment(left, right, id=name, depends_on=frozenset(dep), within_inames=inames)
        temporaries = dict(kernel.temporary_variables)
        variable = str(left).partition("[")[0]
        if variable not in temporaries and variable not in kernel.arg_dict:
            temporaries[variable] = lp.TemporaryVariable(
                variable, None, shape=lp.auto if "[" in text.partition(" = ")[0] else ()
            )
        instructions = [
            i.copy(depends_on=i.depends_on | {name}) if before and fnmatchcase(i.id, before) else i
            for i in kernel.instructions
        ]
        return knl.with_kernel(kernel.copy(instructions=[*instructions, new], temporary_variables=temporaries))

    return edit


def read_before(what: str, statement_id: str, number: str, *outside_of: str) -> Edit:
    """Read a whole number, and add it only if another one is negative, which it never is."""
    return then(
        statement(f"before = {what}", like=statement_id, name="before", before=statement_id),
        outside("before", *outside_of) if outside_of else as_it_is,
        assign(statement_id, "{} + before*(1 if " + number + " < 0 else 0)"),
    )


# -- rules, domains, variables


def rule(name: str, *replacements: tuple[str, str]) -> Edit:
    """Replace text in a substitution rule."""

    def edit(knl: Kernel) -> Kernel:
        kernel = knl.default_entrypoint
        old = kernel.substitutions[name]
        rules = {**kernel.substitutions, name: old.copy(expression=_replaced(old.expression, replacements))}
        return knl.with_kernel(kernel.copy(substitutions=rules))

    return edit


def bounds(*replacements: tuple[str, str]) -> Edit:
    """Replace text in the domains of loops."""

    def edit(knl: Kernel) -> Kernel:
        kernel = knl.default_entrypoint
        texts = [str(domain) for domain in kernel.domains]
        for old, new in replacements:
            assert any(old in text for text in texts), (old, texts)
            texts = [text.replace(old, new) for text in texts]
        return knl.with_kernel(kernel.copy(domains=[isl.BasicSet(text) for text in texts]))

    return edit


def shorter(iname: str) -> Edit:
    """Leave out the last iteration of a loop of fixed length."""

    def edit(knl: Kernel) -> Kernel:
        kernel = knl.default_entrypoint
        last = int(str(kernel.get_constant_iname_length(iname))) - 1
        return bounds((f" {iname} <= {last}", f" {iname} <= {last - 1}"))(knl)

    return edit


def in_dtype(dtype: Any, *names: str) -> Edit:
    """Hold temporary variables in another type."""

    def edit(knl: Kernel) -> Kernel:
        kernel = knl.default_entrypoint
        temporaries = dict(kernel.temporary_variables)
        for name in names:
            temporaries[name] = temporaries[name].copy(dtype=lp.types.to_loopy_type(np.dtype(dtype)))
        return knl.with_kernel(kernel.copy(temporary_variables=temporaries))

    return edit


def unchecked(option: str) -> Edit:
    """Switch one of loopy's checks off."""
    return lambda knl: lp.set_options(knl, **{option: False})


# -- schedules


def lanes(**counts: int) -> Edit:
    """Fix the lanes and separate their loops."""
    return lambda knl: separate_lanes(fix_lanes(knl, **counts))


def work_items(count: int, slanes: int = 1) -> Edit:
    """Give each target of a tile a work-item; tiles of sources too."""

    def edit(knl: Kernel) -> Kernel:
        knl = fix_lanes(knl, tlanes=count, slanes=slanes)
        arrays = [n for n in ("x0", "x1", "x2", "u0", "u1", "u2", "u3") if _has_lanes(knl, n)]
        knl = lp.unprivatize_temporaries_with_inames(knl, {"t"}, set(arrays))
        return lp.add_inames_for_unused_hw_axes(lp.tag_inames(knl, {"t": "l.0", "ibox": "g.0"}))

    return edit


def _has_lanes(knl: Kernel, name: str) -> bool:
    return name in knl.default_entrypoint.temporary_variables


def staged(count: int) -> Edit:
    """Give each target of a tile a work-item, and let them copy tiles of sources to local memory together."""

    def edit(knl: Kernel) -> Kernel:
        knl = work_items(count, count)(knl)
        knl = lp.precompute(
            knl,
            "source",
            sweep_inames=["s"],
            precompute_inames=["fk", "fs"],
            precompute_outer_inames=frozenset({"ibox", "ttile", "ilist", "stile"}),
            temporary_name="tile",
            temporary_address_space=lp.AddressSpace.LOCAL,
            default_tag=None,
            compute_insn_id="fetch",
        )
        return lp.tag_inames(knl, {"fs": "l.0", "fk": "unr"})

    return edit


def one_group_per(*inames: str) -> Edit:
    """Run iterations as work-groups."""
    return lambda knl: steps.one_group_per(knl, *inames)
