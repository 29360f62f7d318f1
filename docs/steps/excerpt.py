"""Cut the interesting part out of generated code: chosen statements, and the loops around them.

Statements and loops are chosen by name, the variable that is assigned and the iname, never by place. Whatever lies
between them becomes ``...``. It works on OpenCL and on the mathematics of :func:`fmmloopy.showing.math_text.math_text`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

HIDDEN = "..."
"""What stands for statements that are left out."""


@dataclass(frozen=True)
class Node:
    """A line of code; what is nested in it, if it opens a loop or a condition."""

    text: str
    inner: tuple[Node, ...] = ()

    @property
    def name(self) -> str:
        """The iname of a loop, or the variable that a statement assigns or declares; empty for conditions."""
        if self.inner:
            loop = re.match(r"for \(int (\w+)|for (?:.*? <=? )?(\w+)", self.text)
            return (loop[1] or loop[2]) if loop else ""
        return (re.split(r"[\[(.;]| :?=", self.text)[0].split() or [""])[-1]

    @property
    def declares(self) -> bool:
        """Whether nothing happens here: a declaration or an argument."""
        return self.is_single or not (self.inner or re.search(r"[=(]", self.text))

    @property
    def is_single(self) -> bool:
        """Whether this is the variable of a loop of one iteration, which is written only where it is used."""
        return self.text.startswith("int const ") and "=" in self.text


def read_code(code: str) -> tuple[Node, ...]:
    """Read the nesting of code off its indentation and braces.

    Args:
        code: an OpenCL program with one kernel, whose arguments become the first nodes; or indented mathematics.
    """
    nodes: tuple[Node, ...] = ()
    if kernel := re.search(r"^__kernel .* \w+\(([^()]*)\)\n\{\n(.*?)^\}", code, re.MULTILINE | re.DOTALL):
        nodes = tuple(Node(argument) for argument in kernel[1].split(", "))
        code = kernel[2]
    lines = [(len(line) - len(line.lstrip()), line.strip()) for line in code.splitlines() if line.strip()]
    return (*nodes, *_block(lines, 0)[0])


def _block(lines: Sequence[tuple[int, str]], place: int) -> tuple[tuple[Node, ...], int]:
    """Read the lines that are indented at least as the first is; return them and the place after them."""
    nodes: list[Node] = []
    indent = lines[place][0]
    while place < len(lines) and lines[place][0] >= indent and lines[place][1] != "}":
        text = lines[place][1]
        if text == "{":  # the block of a loop of one iteration, which loopy does not write as a loop
            inner, place = _block(lines, place + 1)
            nodes.extend(inner)
            place += 1
            continue
        place += 1
        inner = ()
        if place < len(lines) and not text.endswith(";"):
            braces = lines[place] == (indent, "{")
            if braces or lines[place][0] > indent:
                inner, place = _block(lines, place + braces)
                place += braces
        nodes.append(Node(text, inner))
    return tuple(nodes), place


def excerpt(code: str, keep: Sequence[str], root: str = "") -> str:
    """Return chosen statements of code, and the loops around them.

    Args:
        code: an OpenCL program, or mathematics.
        keep: variables whose assignments, declarations and loops are wanted.
        root: iname of the outermost loop wanted; all of the code if it is empty.

    Raises:
        ValueError: the code has no such loop, or none of the statements.
    """
    nodes = read_code(code)
    if root:
        nodes = tuple(node for node in _all(nodes) if node.inner and node.name == root)
        if not nodes:
            raise ValueError(f"no loop {root!r} in the code; loops are {', '.join(sorted(_loops(read_code(code))))}")
    lines = list(_written(nodes, frozenset(keep), "", "{" if "__kernel " in code else ""))
    if all(line.strip() == HIDDEN for line in lines):
        raise ValueError(f"none of {', '.join(keep)} in the code")
    return "\n".join(lines)


def _all(nodes: Sequence[Node]) -> Iterator[Node]:
    for node in nodes:
        yield node
        yield from _all(node.inner)


def _loops(nodes: Sequence[Node]) -> set[str]:
    return {node.name for node in _all(nodes) if node.inner and node.name}


def names_in(code: str) -> set[str]:
    """Return all that `excerpt` can be asked for: inames of loops, variables assigned or declared."""
    return {node.name for node in _all(read_code(code)) if node.name}


def _written(nodes: Sequence[Node], keep: frozenset[str], indent: str, brace: str) -> Iterator[str]:
    """Write nodes that are wanted or hold such, and one line of dots for those between them."""
    wanted_nodes = [node for node in nodes if any(inner.name in keep for inner in _all([node]))]
    shown = (inner.text for inner in _all(wanted_nodes) if inner.inner or inner.name in keep)
    words = set(re.findall(r"\w+", " ".join(shown)))
    hiding = False
    for node in nodes:
        wanted = node in wanted_nodes or (node.is_single and node.name in words)
        if wanted and node.inner:
            yield f"{indent}{node.text} {brace}".rstrip()
            yield from _written(node.inner, keep, indent + ("  " if brace else "    "), brace)
            if brace:
                yield indent + "}"
        elif wanted:
            yield indent + node.text
        elif not (hiding or node.declares):
            yield indent + HIDDEN
        hiding = not wanted and (hiding or not node.declares)
