"""What a kernel is beside its statements: arguments, layouts, options. What would change its code is refused."""

from __future__ import annotations

import random
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import islpy as isl
import loopy as lp
from loopy.kernel import KernelState
from loopy.kernel.array import ComputedStrideArrayDimTag, FixedStrideArrayDimTag, VectorArrayDimTag
from loopy.symbolic import get_dependencies
from pymbolic.mapper.evaluator import EvaluationMapper

from fmmloopy.checking.proof.facts import Facts
from fmmloopy.checking.proof.verdict import Unproved
from fmmloopy.checking.static import CHECKS

LEAST_INDEX = 4
"""Size in bytes of the narrowest type for indices."""

SAMPLES = 4
"""Values of sizes for which strides are compared; they are products of sizes."""


def refuse_interface(transformed: Facts, sequential: Facts, merged: Mapping[str, tuple[int, int]]) -> None:
    """Refuse a kernel that takes other arguments than the sequential one, or has something that is not read.

    Args:
        transformed, sequential: the kernels.
        merged: arrays whose axes for tile and lane of a row may be split in another way: number and length of the
            latter axis.

    Raises:
        Unproved: it does.
    """
    kernel, other = transformed.kernel, sequential.kernel
    if set(kernel.arg_dict) != set(other.arg_dict):
        raise Unproved(f"other arguments: {', '.join(sorted(set(kernel.arg_dict) ^ set(other.arg_dict)))}")
    for name, argument in kernel.arg_dict.items():
        _refuse_argument(name, argument, other.arg_dict[name], merged.get(name))
    for name, variable in kernel.temporary_variables.items():
        if not _is_injective(variable):
            raise Unproved(f"entries of {name} may share memory")
    _refuse_extras(transformed, sequential)
    _refuse_assumptions(kernel, other)


def _refuse_argument(name: str, argument: Any, other: Any, merged: tuple[int, int] | None) -> None:
    if type(argument) is not type(other) or argument.dtype != other.dtype:
        raise Unproved(f"argument {name} is {argument.dtype}, expected {other.dtype}")
    if not isinstance(argument, lp.ArrayArg):
        return
    if argument.address_space != other.address_space or argument.offset != other.offset:
        raise Unproved(f"argument {name} is elsewhere in memory")
    shape, expected = argument.shape, other.shape
    if merged and isinstance(shape, tuple):
        axis, width = merged
        expected = (*expected[:axis], width, *expected[axis + 1 :])
    if str(shape) != str(expected):
        raise Unproved(f"argument {name} has shape {shape}, expected {expected}")
    if argument.dim_tags is not None and not _is_row_major(argument):
        raise Unproved(f"argument {name} has another layout: {argument.dim_tags}")


def _is_row_major(array: Any) -> bool:
    """Whether entries are in memory in the order of their indices, the last one fastest."""
    tags, shape = list(array.dim_tags), list(array.shape) if array.shape else [1] * len(array.dim_tags)
    width = 1
    if tags and isinstance(tags[-1], VectorArrayDimTag):
        width, tags, shape = shape[-1], tags[:-1], shape[:-1]
        if width == 3:  # takes the memory of 4 numbers
            return False
    if all(isinstance(tag, FixedStrideArrayDimTag) for tag in tags):
        return _has_strides([tag.stride for tag in tags], shape, width)
    if not all(isinstance(tag, ComputedStrideArrayDimTag) and not tag.pad_to for tag in tags):
        return False
    levels = [tag.layout_nesting_level for tag in tags]
    return levels == sorted(levels, reverse=True) and len(set(levels)) == len(levels)


def _has_strides(strides: list[Any], shape: list[Any], width: int) -> bool:
    """Whether strides are the products of the lengths of the later axes."""
    names = sorted({str(name) for x in (*shape, *strides) for name in get_dependencies(x)})
    chance = random.Random(0)
    for _ in range(SAMPLES):
        value = EvaluationMapper({name: chance.randrange(2, 10**6) for name in names})
        expected = width
        for stride, length in zip(reversed(strides), reversed(shape), strict=True):
            if value(stride) != expected:
                return False
            expected *= value(length)
    return True


def _is_injective(variable: Any) -> bool:
    """Whether different indices of a temporary array are different places in memory."""
    if not variable.shape or variable.dim_tags is None:
        return True
    tags = [tag for tag in variable.dim_tags if not isinstance(tag, VectorArrayDimTag)]
    if len(variable.dim_tags) - len(tags) > 1 or variable.storage_shape not in (None, variable.shape):
        return False
    if all(isinstance(tag, ComputedStrideArrayDimTag) for tag in tags):
        levels = [tag.layout_nesting_level for tag in tags]
        return len(set(levels)) == len(levels)
    if not all(isinstance(tag, FixedStrideArrayDimTag) and isinstance(tag.stride, int) for tag in tags):
        return False
    axes = [
        (tag.stride, n)
        for tag, n in zip(variable.dim_tags, variable.shape, strict=True)
        if not isinstance(tag, VectorArrayDimTag)
    ]
    if not all(isinstance(n, int) for _, n in axes):
        return False
    width = next(
        (n for tag, n in zip(variable.dim_tags, variable.shape, strict=True) if isinstance(tag, VectorArrayDimTag)), 1
    )
    reached = width - 1
    for stride, length in sorted(axes):
        if stride <= reached and length > 1:
            return False
        reached += stride * (length - 1)
    return True


def _refuse_extras(transformed: Facts, sequential: Facts) -> None:
    """Refuse what changes code beside statements, domains and arguments."""
    kernel, other = transformed.kernel, sequential.kernel
    if kernel.state > KernelState.PREPROCESSED or kernel.linearization is not None:
        raise Unproved("a kernel that has been scheduled")
    if kernel.preambles or kernel.preamble_generators or kernel.symbol_manglers:
        raise Unproved("a kernel with text or functions of its own")
    if any(map(any, kernel.iname_slab_increments.values())) or kernel.overridden_get_grid_sizes_for_insn_ids:
        raise Unproved("a kernel with launch sizes, or first and last iterations, of its own")
    if transformed.tunit.target != sequential.tunit.target:
        raise Unproved(f"code is generated for another target, {type(transformed.tunit.target).__name__}")
    if len(transformed.tunit.entrypoints) != 1:
        raise Unproved("several kernels")
    if kernel.index_dtype.numpy_dtype.kind != "i" or kernel.index_dtype.itemsize < LEAST_INDEX:
        raise Unproved(f"indices are {kernel.index_dtype}")
    off = [name for name in CHECKS if getattr(kernel.options, name) != getattr(other.options, name)]
    if off:
        raise Unproved(f"loopy's option {', '.join(off)} differs")
    promised = frozenset().union(*(i.no_sync_with for i in other.instructions))
    for statement in kernel.instructions:
        if statement.no_sync_with - promised:
            raise Unproved("declares that it needs no barrier", statement.id)
        if names := _unordered(transformed, statement):
            raise Unproved(f"declares that it needs no barrier for {', '.join(sorted(names))}", statement.id)


def _unordered(facts: Facts, statement: Any) -> set[str]:
    """Return the arrays in local memory that a statement has in common with those that it needs no barrier after.

    The sequential kernel, which has no local memory, promises something about its arguments only.
    """
    patterns = [pattern for pattern, _ in statement.no_sync_with]
    others = [i for i in facts.statements if any(fnmatchcase(i.id, pattern) for pattern in patterns)]
    common = set().union(*(i.dependency_names() for i in others)) & set(statement.dependency_names())
    return {name for name in common if facts.is_temporary(name) and facts.is_local(name)}


def _refuse_assumptions(kernel: Any, other: Any) -> None:
    """Refuse assumptions on arguments that the sequential kernel does not make: loopy leaves out tests by them."""
    mine, given = (
        isl.Set.from_basic_set(k.assumptions) if isinstance(k.assumptions, isl.BasicSet) else k.assumptions
        for k in (kernel, other)
    )
    mine, given = _aligned(mine, given), _aligned(given, mine)
    if not given.is_subset(mine):
        raise Unproved("assumes more of its arguments than the sequential kernel")


def _aligned(one: Any, other: Any) -> Any:
    return one.align_params(other.get_space())
