"""The identity of a kernel: a hash of everything that code is generated from, the same in every process.

Neither loopy's own hash of a kernel nor the generated source will do: both depend on the order of sets, which differs
from process to process.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Set
from enum import Enum
from types import FunctionType, MethodType
from typing import Any

import numpy as np

from fmmloopy.common.late import isl
from fmmloopy.recipes.fingerprint import fingerprint

_NOT_CODE = {
    "LoopKernel": ("silenced_warnings", "applied_iname_rewrites"),
    "Options": ("edit_code", "write_code", "write_wrapper", "allow_terminal_colors"),
}
"""What no code is generated from, by class: what warnings are hidden, and how loopy shows its work."""

_MEMOIZED = ("_memoize", "_cached", "_hash", "_pytools", "__")
"""How the names begin of what objects keep to save time."""


def kernel_identity(knl: Any, build_options: tuple[str, ...] = ()) -> str:
    """Return a hash of a kernel: of its loops, statements, arguments, temporaries, tags, options and target.

    Args:
        knl: the kernel after the last step of a recipe.
        build_options: options for the device's compiler.

    Returns:
        32 hexadecimal digits; "" if the kernel contains an object whose contents are unknown.
    """
    try:
        text = _text((knl, build_options))
    except TypeError:
        return ""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _text(value: Any) -> str:
    """Write down a value so that equal ones read alike in every process, and different ones do not."""
    if value is None or isinstance(value, (str, bytes, bool, int, float, complex)):
        return repr(value)
    if isinstance(value, Enum):
        return f"{type(value).__qualname__}.{value.name}"
    if isinstance(value, (np.generic, np.ndarray)):
        array = np.asarray(value)
        return f"{array.dtype.str}{array.shape}{array.tobytes().hex()}"
    if isinstance(value, np.dtype):
        return f"dtype {value.str if value.fields is None else value.descr}"
    if isinstance(value, type):
        return f"class {value.__module__}.{value.__qualname__}"
    if isinstance(value, (FunctionType, MethodType)):
        return f"function {fingerprint(value)}"
    if isinstance(value, Mapping):
        return _sorted("{", (f"{_text(key)}: {_text(item)}" for key, item in value.items()), "}")
    if isinstance(value, Set):
        return _sorted("{", map(_text, value), "}")
    if isinstance(value, (tuple, list)):
        return "(" + ", ".join(map(_text, value)) + ")"
    if isinstance(value, (isl.BasicSet, isl.Set)):
        return _set_text(value)
    return _object_text(value)


def _sorted(opening: str, items: Any, closing: str) -> str:
    return opening + ", ".join(sorted(items)) + closing


def _set_text(points: Any) -> str:
    """Write down an isl set with its parameters in alphabetical order."""
    names = sorted(points.get_dim_name(isl.dim_type.param, i) for i in range(points.dim(isl.dim_type.param)))
    space = isl.Space.params_alloc(points.get_ctx(), len(names))
    for position, name in enumerate(names):
        space = space.set_dim_name(isl.dim_type.param, position, name)
    return f"{points.align_params(space)}"


def _object_text(value: Any) -> str:
    """Write down an object of loopy, pymbolic or pytools, or a tag, by its attributes.

    Raises:
        TypeError: it is something else.
    """
    kind = type(value)
    skipped = _NOT_CODE.get(kind.__name__, ())
    if dataclasses.is_dataclass(value):
        names = tuple(field.name for field in dataclasses.fields(value))
    elif hasattr(kind, "fields") and isinstance(kind.fields, Set):  # pytools' records
        names = tuple(sorted(kind.fields))
    elif kind.__module__.partition(".")[0] in ("loopy", "pymbolic", "pytools"):
        slots = {name for base in kind.__mro__ for name in getattr(base, "__slots__", ()) if hasattr(value, name)}
        names = tuple(sorted(n for n in {*slots, *getattr(value, "__dict__", ())} if not n.startswith(_MEMOIZED)))
    else:
        raise TypeError(f"no identity for an object of {kind.__module__}.{kind.__qualname__}")
    parts = (f"{name}={_text(getattr(value, name))}" for name in names if name not in skipped)
    return f"{kind.__module__}.{kind.__qualname__}({', '.join(parts)})"
