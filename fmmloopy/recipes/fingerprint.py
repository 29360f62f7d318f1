"""Hash what a function does: its code, and all code and constants that it refers to outside pinned packages.

Objects in memory are hashed, not files, so it works for functions from a notebook, for closures and partial functions,
and for files that have been edited since they were imported.
"""

from __future__ import annotations

import ast
import dis
import functools
import hashlib
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.abc import InspectLoader
from importlib.util import find_spec
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np

_PINNED = ("loopy", "pymbolic", "islpy", "pytools", "numpy", "constantdict", "builtins", "math", "functools")
"""Packages that are identified by their versions, not by their code."""

_OWN = __name__.partition(".")[0]
"""The package whose modules count as their sources where a function imports them, since they may not be loaded yet."""


def fingerprint(function: Any) -> str:
    """Return a hash of a function, or of an object that contains functions.

    It is the same in every process that runs the same Python version.

    It covers the functions, classes and constants that the function names, in any module outside the standard library
    and the packages that cached code depends on by version; and the attributes and classes of objects. For objects of
    those packages' own classes, only the type is hashed. Modules of fmmloopy that a function imports when it runs count
    as their sources, loaded or not.
    """
    digest = hashlib.sha256(repr(sys.version_info[:2]).encode())
    _add(digest.update, function, set())
    return digest.hexdigest()


def _frame(put: Callable[[bytes], None], kind: str, data: bytes = b"") -> None:
    """Hash bytes with their kind and length, so that different sequences of items cannot hash alike."""
    put(f"{kind}:{len(data)}:".encode() + data)


def _add(put: Callable[[bytes], None], value: Any, seen: set[int]) -> None:
    """Hash one value; values seen before are not followed again, so that recursion ends."""
    kind = type(value).__qualname__
    if isinstance(value, (str, bytes, int, float, complex, bool, type(None), type(Ellipsis), range, np.generic)):
        _frame(put, kind, repr(value).encode())
        return
    _frame(put, kind)
    if isinstance(value, CodeType):
        _add_code(put, value, seen)
        return
    if not isinstance(value, (tuple, frozenset)):  # whether equal ones are one object differs from process to process
        if id(value) in seen:
            return
        seen.add(id(value))
    if isinstance(value, SimpleNamespace):
        value = vars(value)
    if isinstance(value, (tuple, list)):
        _frame(put, "items", str(len(value)).encode())
        for item in value:
            _add(put, item, seen)
    elif isinstance(value, (set, frozenset)):
        _frame(put, "items", repr(sorted(map(repr, value))).encode())
    elif isinstance(value, Mapping):
        _frame(put, "items", str(len(value)).encode())
        for key, item in value.items():
            _add(put, key, seen)
            _add(put, item, seen)
    elif isinstance(value, np.ndarray):
        _frame(put, f"{value.dtype} {value.shape}", value.tobytes())
    elif isinstance(value, functools.partial):
        for part in (value.func, value.args, value.keywords):
            _add(put, part, seen)
    elif isinstance(value, MethodType):
        _add(put, value.__func__, seen)
        _add(put, value.__self__, seen)
    elif isinstance(value, (staticmethod, classmethod)):
        _add(put, value.__func__, seen)
    elif isinstance(value, property):
        _add(put, value.fget, seen)
    elif isinstance(value, FunctionType):
        _add_function(put, value, seen)
    elif isinstance(value, type):
        if not _is_pinned(value.__module__):
            _add_class(put, value, seen)
    elif not isinstance(value, ModuleType) and not _is_pinned(type(value).__module__):
        # An object of a class of fmmloopy or of a recipe's author: hash its attributes and its class.
        _add(put, type(value), seen)
        _add(put, getattr(value, "__dict__", {}), seen)


def _add_class(put: Callable[[bytes], None], value: type, seen: set[int]) -> None:
    """Hash the methods and plain values of a class."""
    followed = (FunctionType, staticmethod, classmethod, property, str, int, float, tuple)
    for name, item in sorted(vars(value).items()):
        if isinstance(item, followed) and name not in ("__doc__", "__module__", "__firstlineno__"):
            _frame(put, name)
            _add(put, item, seen)
    for base in value.__bases__:
        _add(put, base, seen)


def _is_pinned(module: str | None) -> bool:
    package = (module or "builtins").partition(".")[0]
    return package in _PINNED or package in sys.stdlib_module_names


def _add_code(put: Callable[[bytes], None], code: CodeType, seen: set[int]) -> None:
    _frame(put, "code", code.co_code)
    _frame(put, "names", repr((code.co_names, code.co_varnames, code.co_freevars, code.co_argcount)).encode())
    constants = code.co_consts[1:] if _has_docstring(code) else code.co_consts
    _frame(put, "constants", str(len(constants)).encode())
    for constant in constants:
        _add(put, constant, seen)


def _has_docstring(code: CodeType) -> bool:
    """Return whether the first constant of a function is its docstring, which does nothing."""
    if sys.version_info >= (3, 13):
        return bool(code.co_flags & inspect.CO_HAS_DOCSTRING)
    # Functions without one have None in its place; comprehensions and lambdas, whose names no function has, do not.
    is_function = bool(code.co_flags & inspect.CO_OPTIMIZED) and not code.co_name.startswith("<")
    return is_function and bool(code.co_consts) and isinstance(code.co_consts[0], str)


def _names(code: CodeType) -> set[str]:
    """Return the names that code, and functions within it, look up."""
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*map(_names, inner))


@functools.lru_cache(maxsize=1024)  # most of the time that a fingerprint takes, and code does not change
def _imports(code: CodeType) -> frozenset[str]:
    """Return the modules that code, and functions within it, import when they run."""
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    own = frozenset(str(i.argval) for i in dis.get_instructions(code) if i.opname == "IMPORT_NAME")
    return own.union(*map(_imports, inner))


@functools.cache
def _source_of(module: str) -> bytes:
    """Return a hash of what a module says, without importing it."""
    spec = find_spec(module)
    assert spec is not None
    assert isinstance(spec.loader, InspectLoader)
    return _hash_of_text(spec.loader.get_source(module) or "").encode()


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
    for name in sorted(_imports(function.__code__)):
        if name.partition(".")[0] == _OWN:
            _frame(put, name, _source_of(name))
        elif name in sys.modules:
            _add_module(put, sys.modules[name], names, seen)
    for name in sorted(names):
        value = function.__globals__.get(name)
        if isinstance(value, ModuleType):
            _add_module(put, value, names, seen)
        elif name in function.__globals__:
            _frame(put, name)
            _add(put, value, seen)
    wrapped = getattr(function, "__wrapped__", None)
    if wrapped is not None:
        _add(put, wrapped, seen)


def _add_module(put: Callable[[bytes], None], module: ModuleType, names: set[str], seen: set[int]) -> None:
    """Hash what a function may refer to in a module of ours, and in modules within it."""
    if _is_pinned(module.__name__) or id(module) in seen:
        return
    seen.add(id(module))
    for name in sorted(names & set(vars(module))):
        value = vars(module)[name]
        _frame(put, name)
        if isinstance(value, ModuleType):
            _add_module(put, value, names, seen)
        else:
            _add(put, value, seen)


def hash_of_sources(paths: Iterable[Path]) -> str:
    """Return a hash of what Python files say, whatever they are called and wherever they lie.

    Comments, docstrings, the layout of lines and imports do not count; what is imported counts where it is defined.
    The hash is the same with every version of Python that reads the files.
    """
    digests = sorted(_hash_of_text(path.read_text()) for path in paths)
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _hash_of_text(text: str) -> str:
    return hashlib.sha256("\n".join(_statements(ast.parse(text))).encode()).hexdigest()


def _statements(node: ast.AST) -> Iterator[str]:
    """Write down a tree without positions, docstrings, imports, and fields that are empty."""
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return
    yield type(node).__name__
    for name, value in ast.iter_fields(node):
        if value is None or value == [] or name in ("kind", "type_comment", "ctx"):
            continue
        items = value if isinstance(value, list) else [value]
        yield name
        for item in items:
            if isinstance(item, ast.AST):
                if not (name == "body" and _is_text(item)):
                    yield from _statements(item)
            else:
                yield repr(item)


def _is_text(node: ast.AST) -> bool:
    """Return whether a statement is a string alone, as docstrings are."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
