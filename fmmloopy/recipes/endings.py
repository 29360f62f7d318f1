"""Find kernels that a recipe makes after its last ``yield``; they are dropped and never checked.

`Ending` inspects the frames of a recipe's generator before each of its steps, and again when it has returned. A kernel
that was made in between is lost. Generators that the recipe delegates to with ``yield from`` are inspected, too.
"""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

DROPPED = "what follows the last yield is dropped: yield it"

MAKES_KERNELS = ("loopy", "fmmloopy.transforms", "fmmloopy.recipes")
"""Packages whose functions return a kernel and have no side effects: a call whose result is not used is lost."""


@dataclass(frozen=True)
class _Seen:
    """A generator at a yield: its frame, the line of the yield, and its local variables that are kernels."""

    frame: FrameType
    line: int
    kernels: Mapping[str, Any]


class Ending:
    """Finds what a generator does with kernels after its last yield.

    Args:
        made: the object returned by a recipe; if it is not a generator, nothing is found.
        kind: the class of kernels.
    """

    def __init__(self, made: Any, kind: type) -> None:
        self._made, self._kind = made, kind
        self._seen: list[_Seen] = []

    def look(self) -> None:
        """Record where the generator is suspended; call this after each yield, before resuming it."""
        self._seen = []
        generator = self._made
        while inspect.isgenerator(generator) and generator.gi_frame is not None:
            frame = generator.gi_frame
            self._seen.append(_Seen(frame, frame.f_lineno, self._kernels(frame)))
            generator = generator.gi_yieldfrom

    def dropped(self, yielded: Any, returned: Any) -> str:
        """Describe the kernel made after the last yield, once the generator has returned; "" if there is none.

        Args:
            yielded: the kernel of the last step.
            returned: the return value of the generator.
        """
        for seen in reversed(self._seen):
            if line := self._line_of_loss(seen, yielded):
                return _at(seen.frame, line)
        values = returned if isinstance(returned, tuple) else (returned,)
        if self._seen and any(isinstance(value, self._kind) and value != yielded for value in values):
            return _at(self._seen[0].frame, self._seen[0].frame.f_lineno)
        return ""

    def _kernels(self, frame: FrameType) -> dict[str, Any]:
        return {name: value for name, value in frame.f_locals.items() if isinstance(value, self._kind)}

    def _line_of_loss(self, seen: _Seen, yielded: Any) -> int:
        """Return the line on which a generator made a kernel that was not yielded; 0 if there is none.

        A loop may try a kernel and reject it, so a new kernel counts only if no variable refers to the yielded one, or
        if the statement that made it comes after the yield.
        """
        now = self._kernels(seen.frame)
        new = {n for n, k in now.items() if k is not seen.kernels.get(n) and k is not yielded and k != yielded}
        is_lost = bool(new) and not any(kernel is yielded for kernel in now.values())
        later = _statements_after(seen.frame, seen.line)
        for statement in later:
            if _assigned(statement) & new:
                return statement.lineno
        if is_lost:
            return seen.frame.f_lineno
        return next((s.lineno for s in later if self._is_lost(s, seen.frame, now)), 0)

    def _is_lost(self, statement: ast.stmt, frame: FrameType, kernels: Mapping[str, Any]) -> bool:
        """Return whether a statement passes a kernel to a call whose result is not assigned to a variable."""
        if _reads(statement).isdisjoint(kernels):
            return False
        if isinstance(statement, ast.Assign):
            return not all(isinstance(t, ast.Name | ast.Tuple) for t in statement.targets) and _calls(statement)
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
            function = _looked_up(statement.value.func, {**frame.f_globals, **frame.f_locals})
            module = str(getattr(function, "__module__", ""))
            return any(module == package or module.startswith(f"{package}.") for package in MAKES_KERNELS)
        return False


def _at(frame: FrameType, line: int) -> str:
    return f"{DROPPED} ({Path(frame.f_code.co_filename).name}, line {line})"


def _statements_after(frame: FrameType, line: int) -> list[ast.stmt]:
    """Return the statements of a function that can run after the one on a line, without another turn of a loop.

    They are in source order; statements that contain a yield, and functions and classes, are left out. The list is
    empty if the source is not available.
    """
    try:
        lines, first = inspect.getsourcelines(frame.f_code)
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, SyntaxError, TypeError):
        return []
    ast.increment_lineno(tree, max(first, 1) - 1)
    function = tree.body[0]
    if not isinstance(function, ast.FunctionDef):
        return []
    return [s for s in _following(function.body, line)[0] if not any(map(_is_yield, ast.walk(s)))]


def _following(body: list[ast.stmt], line: int) -> tuple[list[ast.stmt], type | None]:
    """Return what follows a line in a block and its inner blocks; of branches, only the one with the line counts.

    Also return how the block is left, if that is certain: the class of a return, raise, break or continue.
    """
    found: list[ast.stmt] = []
    for index, statement in enumerate(body):
        if not statement.lineno <= line <= (statement.end_lineno or 0):
            continue
        blocks = _blocks(statement)
        own = next((block for block in blocks if block and block[0].lineno <= line <= (block[-1].end_lineno or 0)), [])
        found, left = _following(own, line)
        if isinstance(statement, ast.Try):
            more = statement.finalbody if left else [*statement.orelse, *statement.finalbody]
            found += [s for s in _simple(more) if s.lineno > line]
        if isinstance(statement, ast.For | ast.While):
            left = None if left in (ast.Break, ast.Continue) else left
            found += [s for s in _simple(statement.orelse) if s.lineno > line]
        if left:
            return found, left
        rest = body[index + 1 :]
        end = next((n for n, s in enumerate(rest) if isinstance(s, _LEAVE)), None)
        return [*found, *_simple(rest[:end])], None if end is None else type(rest[end])
    return found, None


_LEAVE = (ast.Return, ast.Raise, ast.Break, ast.Continue)


def _blocks(statement: ast.stmt) -> list[list[ast.stmt]]:
    """Return the blocks of a statement."""
    inner = [part.body for name in ("handlers", "cases") for part in getattr(statement, name, [])]
    return [*(getattr(statement, name, []) for name in ("body", "orelse", "finalbody")), *inner]


def _simple(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements of a block without blocks of their own, at any depth."""
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        blocks = _blocks(statement)
        if not any(blocks):
            yield statement
        for block in blocks:
            yield from _simple(block)


def _is_yield(node: ast.AST) -> bool:
    return isinstance(node, ast.Yield | ast.YieldFrom)


def _calls(statement: ast.stmt) -> bool:
    return any(isinstance(node, ast.Call) for node in ast.walk(statement))


def _reads(statement: ast.stmt) -> set[str]:
    return {n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}


def _assigned(statement: ast.stmt) -> set[str]:
    return {n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


def _looked_up(node: ast.expr, names: Mapping[str, Any]) -> Any:
    """Return the object that a dotted name refers to; None for other expressions."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = _looked_up(node.value, names)
        # Only modules: reading an attribute of anything else may run code.
        return vars(owner).get(node.attr) if isinstance(owner, type(sys)) else None
    return None
