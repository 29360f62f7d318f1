"""Explain in one line what an error of loopy means for the recipe that caused it.

Loopy's messages are about domains, tags and schedules, and some consist only of a key. `explain` adds what a recipe's
author needs: the line of the recipe, how to fix the error if that is known, and the names in the kernel.
"""

from __future__ import annotations

import difflib
import re
import traceback
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ISLPY_REMEDY = 'pip install "islpy>=2025.2.5,<2026.2"'
"""How to replace an islpy that loopy 2025.2 cannot work with."""

LONGEST = 300
"""Maximum length of an error's own text, in characters; loopy may print a page."""


LISTED = ("iname", "rule", "statement")
"""Kinds of names that are listed if it is not clear which kind is wanted."""


@dataclass(frozen=True)
class Hint:
    """What to do about one kind of error.

    Attributes:
        pattern: regular expression searched for in ``"ClassOfTheError: its text"``.
        text: what to do; ``{0}`` is the match of the pattern's first group.
        about: kinds of names that help; they are listed after the text.
    """

    pattern: str
    text: str
    about: tuple[str, ...] = LISTED


_ONE_NEST = (
    "all statements in one loop of that iname must be in one place of the loop nest: call separate_lanes after "
    "fix_lanes, or lp.duplicate_inames(knl, iname, within='id:...') with all statements of one place"
)
_FIXED_LENGTH = "only loops of fixed length, such as those over lanes, can be unrolled, vectorized or interleaved"

HINTS = (
    Hint(r"'Aff' object has no attribute 'is_equal'", f"loopy 2025.2 needs an older islpy: {ISLPY_REMEDY}"),
    Hint(
        r"contains parallel inames '([^']*)'",
        "the bounds of '{0}' or of a loop in its domain are loaded inside the kernel, so it has to stay sequential: "
        "put tags such as g.0 and l.0 on the loop over boxes and on lanes",
        ("iname",),
    ),
    Hint(
        r"^CannotBranchDomainTree",
        "loops around one statement whose bounds are loaded must share one domain: keep the operator's domains, and "
        "split or duplicate inames in them",
    ),
    Hint(r"schedulable iname nesting|Cannot schedule loop nest|^CycleError", _ONE_NEST),
    Hint(
        r"instruction '(\w+)' references inames '([^']*)' that the instruction does not depend on",
        "'{0}' has to be in the loop over {1}: if lp.precompute made it, name {1} in precompute_outer_inames",
        ("iname",),
    ),
    Hint(
        r"^DependencyCycleFound",
        "each of these statements depends on the others: remove the dependency that closes the cycle",
    ),
    Hint(
        r"no valid schedules found|^EOFError",
        "no order of loops and statements satisfies all dependencies, tags and priorities: often a loop tagged ilp or "
        "vec has to begin twice; call separate_lanes first, or remove the dependency that was added last",
    ),
    Hint(
        r"No dependency relationship found",
        "a rewrite lost the order of the two statements; restore it with lp.add_dependency(knl, 'id:LATER', "
        "'id:EARLIER')",
    ),
    Hint(
        r"domain parameter '(\w+)' may not be written inside",
        "compute '{0}' outside the loops that it bounds, where the operator does",
    ),
    Hint(r"cannot parse tag", "tags are g.0, g.1, g.2; l.0, l.1, l.2, l.auto; unr, ilp, ilp.seq, vec; for", ("iname",)),
    Hint(r"^NonUniqueTagError", "an iname has one such tag; remove the old one with lp.untag_inames", ("iname",)),
    Hint(r"has multiple inames tagged", "give each loop around a statement its own axis, or no axis", ("iname",)),
    Hint(
        r"does not use all (?:local|group) hw axes",
        "finish the step with lp.add_inames_for_unused_hw_axes(knl), as steps.one_group_per and steps.work_items do",
        ("iname",),
    ),
    Hint(
        r"address space.* of the temporary '(\w+)'",
        "work-items would have to read each other's '{0}': use steps.work_items, which gives each its own, instead of "
        "separate_lanes and a tag",
    ),
    Hint(
        r"Cannot remove indices",
        "all accesses must be over one iname: unprivatize before separate_lanes, as steps.work_items does",
    ),
    Hint(r"^KeyError: \(dtype\('\w+'\), \d+\)", "vectors have 2, 3, 4, 8 or 16 lanes"),
    Hint(
        r"index was not a compile-time constant",
        "every loop over the lanes of a vector needs the tag, its copies t_init, t_load, t_store too; see "
        "steps.vector_lanes",
    ),
    Hint(r"unbounded optimum|must be an integer, not an expression|required iname\(s\)", _FIXED_LENGTH, ("iname",)),
    Hint(
        r"no invocations of '\w+_fetch_rule' found|^AssertionError",
        "if this is add_prefetch: the array is read at offsets loaded in the kernel; stage the rule that reads it, "
        "such as source or charge, with lp.precompute",
    ),
    Hint(
        r"require more than one leaf domain",
        "these inames do not share a domain: call it for one of them at a time, the lane iname first",
    ),
    Hint(
        r"could not determine type of '(\w+)'",
        "'{0}' is no longer written, or a function in its formula is unknown on this device (C has no rsqrt: write "
        "1/sqrt(x)); lp.register_callable makes a function known",
    ),
    Hint(
        r"out-of-bounds array element",
        "an index may be out of bounds: keep the operator's masks, and split loops by divisors of their length",
    ),
    Hint(
        r"isl_\w+_read_from_str",
        "conditions look like 'n >= 1 and n % 4 = 0', sets like '[n] -> {{ [i]: 0 <= i < n }}'",
    ),
    Hint(
        r"invalid match expression",
        "write id:NAME, iname:NAME, reads:NAME or writes:NAME (* and ? match any letters), joined by and, or, not",
    ),
    Hint(r"conflicts with (?:an )?existing", "choose a name that is not in use"),
    Hint(r"contradictory values for number of dimensions", "name every axis of the array, as in 'N1,N0'"),
    Hint(
        r"this operator has none$",
        "lanes are fixed once, and steps.lane_arrays, work_items and dense_blocks do it themselves",
    ),
    Hint(
        r"'TranslationUnit' object has no attribute '(?:instructions|inames|domains|args|arg_dict|substitutions|"
        r"temporary_variables|id_to_insn|all_inames)'",
        "knl.default_entrypoint has it; lp functions and knl.with_kernel(...) return the whole translation unit",
    ),
)
"""The first hint that matches is used."""

_UNKNOWN = (
    ("iname", r"iname '(\w+)' does not exist|unknown iname '(\w+)'|iname '(\w+)' not known"),
    ("rule", r"substitution rule '(\w+)' not found"),
    ("statement", r"no instructions found matching '(?:id:)?(\w+)'"),
    (
        "argument or temporary",
        r"nothing known about variable '(\w+)'|name not known in type inference: (\w+)|in '{'(\w+)'.* not used",
    ),
    ("name", r"^KeyError: '([A-Za-z_]\w*)'$"),
)
"""Errors about a name that does not exist: the kind of name that was expected, and a pattern that finds the name."""


def explain(error: BaseException, knl: Any, whose: str = "kernel", at: str = "") -> str:
    """Describe an error in one line: what it was, where it came from, what to do, and the names in the kernel.

    Args:
        error: any exception raised by a rewrite or by code generation.
        knl: the loopy translation unit that it was raised for.
        whose: the owner of the names, "kernel" or "operator".
        at: file and line of the recipe, if known.
    """
    names = names_of(knl)
    text, about = _advice(error, names, knl)
    listed = "; ".join(f"{_plural(kind)} {', '.join(names[kind]) or 'none'}" for kind in about)
    parts = [described(error) + (f" ({at})" if at else ""), text, f"the {whose} has {listed}" if listed else ""]
    return "; ".join(part for part in parts if part)


def _plural(kind: str) -> str:
    return "arguments and temporaries" if kind.startswith("argument") else f"{kind}s"


def described(error: BaseException) -> str:
    """Return the class of an error and its text, in one line."""
    text = " ".join(str(error).split()).removesuffix(".")
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]}..."
    return f"{type(error).__name__}: {text}".removesuffix(": ")


def advice(error: BaseException, names: Mapping[str, Iterable[str]], knl: Any = None) -> str:
    """Return how to fix an error, or "" if that is not known.

    Args:
        error: its class and text are compared with HINTS.
        names: names in the kernel by kind, from `names_of`.
        knl: that kernel, for advice that depends on its loops.
    """
    return _advice(error, names, knl)[0]


def _advice(error: BaseException, names: Mapping[str, Iterable[str]], knl: Any) -> tuple[str, tuple[str, ...]]:
    """Return how to fix an error, and the kinds of names that help."""
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"
    for kind, pattern in _UNKNOWN:
        if match := re.search(pattern, text):
            wanted = "iname" if kind == "name" and _is_about_inames(error) else kind
            about = (wanted,) if wanted in names else LISTED
            return _meant(next(word for word in match.groups() if word), wanted, names), about
    if knl is not None and (match := re.search(r"has multiple inames tagged '([lg])\.\d'", text)):
        return _free_axis(knl, match[1]), ("iname",)
    for hint in HINTS:
        if match := re.search(hint.pattern, text):
            staged = _staged_too_early(knl) if knl is not None and hint.text == _ONE_NEST else ""
            return staged or hint.text.format(*match.groups()), ("iname",) if staged else hint.about
    if isinstance(error, AttributeError) and error.obj is not None:
        return nearest(str(error.name), dir(error.obj)), LISTED
    return "", LISTED


def _is_about_inames(error: BaseException) -> bool:
    """Return whether a name was looked up among inames: not loopy's KeyError but the line that raised it tells."""
    frames = traceback.extract_tb(error.__traceback__)[-1:]
    return any("loopy" in Path(f.filename).parts and "iname" in f"{f.name} {f.line}" for f in frames)


def _axes(knl: Any) -> dict[str, list[str]]:
    """Return the inames on each axis of work-groups and work-items."""
    taken: dict[str, list[str]] = {}
    for name, iname in sorted(knl.default_entrypoint.inames.items()):
        for tag in iname.tags:
            if re.fullmatch(r"[lg]\.\d", str(tag)):
                taken.setdefault(str(tag), []).append(name)
    return taken


def _free_axis(knl: Any, kind: str) -> str:
    """Report which inames share an axis of a kind, "l" or "g", and which axis is free."""
    taken = _axes(knl)
    axis, inames = next(((a, i) for a, i in taken.items() if a.startswith(kind) and len(i) > 1), (f"{kind}.0", []))
    free = next((f"{kind}.{n}" for n in range(3) if f"{kind}.{n}" not in taken), "")
    own = f"give one of them {free}, which is free, or no axis" if free else "no axis is free: remove one of the tags"
    return f"{' and '.join(inames)} share the axis {axis}: {own}"


def _staged_too_early(knl: Any) -> str:
    """Name the loops for a statement that shares an inner loop with others, but not the loops around it."""
    instructions = {insn.id: insn for insn in knl.default_entrypoint.instructions}
    items = {name for axis, names in _axes(knl).items() if axis.startswith("l") for name in names}
    counts = Counter(iname for insn in instructions.values() for iname in insn.within_inames - items)
    outermost = counts.most_common(1)[0][0] if counts else ""
    for insn in instructions.values():
        if outermost in insn.within_inames:
            continue
        shared = {i for other in instructions.values() if outermost in other.within_inames for i in other.within_inames}
        inner = sorted(insn.within_inames & shared - items)
        before = frozenset().union(*(instructions[i].within_inames for i in insn.depends_on if i in instructions))
        if inner and outermost in before:
            loops = ", ".join(f'"{name}"' for name in sorted((before | set(inner)) - items))
            return (
                f"'{insn.id}' runs inside the loop over {inner[0]} but outside the loop over {outermost}: "
                f"call lp.precompute with precompute_outer_inames=frozenset({{{loops}}})"
            )
    return ""


def names_of(knl: Any) -> dict[str, list[str]]:
    """Return the names in a kernel that a recipe may refer to, by kind."""
    kernel = knl.default_entrypoint
    return {
        "iname": sorted(kernel.all_inames()),
        "rule": sorted(kernel.substitutions),
        "statement": [insn.id for insn in kernel.instructions],
        "argument or temporary": sorted([*kernel.arg_dict, *kernel.temporary_variables]),
    }


def _meant(word: str, kind: str, names: Mapping[str, Iterable[str]]) -> str:
    """Report that a word names something else, or suggest the most similar name of its kind."""
    wanted = "iname" if kind == "name" else kind
    owner = next((other for other, known in names.items() if word in known), None)
    if owner is None:
        return nearest(word, names[kind] if kind in names else [name for known in names.values() for name in known])
    return (
        "" if owner == wanted else f"'{word}' is {'a' if owner in ('rule', 'statement') else 'an'} {owner}, no {wanted}"
    )


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a question that suggests the known word most similar to another; "" if none is similar."""
    matches = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean '{matches[0]}'?" if matches else ""


def place(error: BaseException) -> str:
    """Return file and line of the recipe that raised an error, where the caller caught it from the recipe."""
    at = error.__traceback__.tb_next if error.__traceback__ else None
    return f"{Path(at.tb_frame.f_code.co_filename).name}, line {at.tb_lineno}" if at else ""
