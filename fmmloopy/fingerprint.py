"""Hash what a function does: its code, and all code and constants of ours that it refers to.

What is hashed is what is in memory, not files: it holds for functions from a notebook, for closures and partial
functions, and for files that have been edited since they were imported.
"""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Callable
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

_PINNED = ("loopy", "pymbolic", "islpy", "pytools", "numpy", "constantdict", "builtins", "math", "functools")
"""Packages that are known by their versions, not by their code."""


def fingerprint(function: Callable[..., Any]) -> str:
    """Return a hash of a function, the same in every process that runs the same Python version.

    Followed are functions, classes and constants that the function names, in any module outside the standard library
    and the packages that cached code depends on by version. Other objects count by their type.
    """
    digest = hashlib.sha256(repr(sys.version_info[:2]).encode())
    _add(digest.update, function, set())
    return digest.hexdigest()


def _add(put: Callable[[bytes], None], value: Any, seen: set[int]) -> None:
    """Hash one value; what has been seen is not followed again, so that recursion ends."""
    if isinstance(value, (str, bytes, int, float, complex, bool, type(None), type(Ellipsis))):
        put(repr(value).encode())
        return
    put(type(value).__qualname__.encode())
    if isinstance(value, CodeType):
        _add_code(put, value, seen)
        return
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, (tuple, list)):
        for item in value:
            _add(put, item, seen)
    elif isinstance(value, (set, frozenset)):
        for item in sorted(map(repr, value)):
            put(item.encode())
    elif isinstance(value, dict):
        for key, item in value.items():
            _add(put, key, seen)
            _add(put, item, seen)
    elif isinstance(value, functools.partial):
        for part in (value.func, value.args, value.keywords):
            _add(put, part, seen)
    elif isinstance(value, MethodType):
        _add(put, value.__func__, seen)
    elif isinstance(value, FunctionType):
        _add_function(put, value, seen)
    elif isinstance(value, type) and not _is_pinned(value.__module__):
        for name, item in sorted(vars(value).items()):
            if isinstance(item, (FunctionType, str, int, float, tuple)) and name != "__doc__":
                put(name.encode())
                _add(put, item, seen)


def _is_pinned(module: str | None) -> bool:
    package = (module or "builtins").partition(".")[0]
    return package in _PINNED or package in sys.stdlib_module_names


def _add_code(put: Callable[[bytes], None], code: CodeType, seen: set[int]) -> None:
    put(code.co_code)
    put(repr((code.co_names, code.co_varnames, code.co_freevars, code.co_argcount)).encode())
    # The first constant of a function that has a docstring is the docstring: harmless, and kept.
    for constant in code.co_consts:
        _add(put, constant, seen)


def _names(code: CodeType) -> set[str]:
    """Return the names that code, and functions within it, look up."""
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*map(_names, inner))


def _add_function(put: Callable[[bytes], None], function: FunctionType, seen: set[int]) -> None:
    if _is_pinned(function.__module__):
        put(function.__qualname__.encode())
        return
    _add_code(put, function.__code__, seen)
    _add(put, function.__defaults__, seen)
    _add(put, function.__kwdefaults__, seen)
    for cell in function.__closure__ or ():
        _add(put, cell.cell_contents, seen)
    names = _names(function.__code__)
    for name in sorted(names & set(function.__globals__)):
        value = function.__globals__[name]
        put(name.encode())
        if not isinstance(value, ModuleType):
            _add(put, value, seen)
        elif not _is_pinned(value.__name__):
            for attribute in sorted(names & set(vars(value))):
                _add(put, vars(value)[attribute], seen)
    wrapped = getattr(function, "__wrapped__", None)
    if wrapped is not None:
        _add(put, wrapped, seen)
