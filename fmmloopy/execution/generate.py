"""Generate source code from an operator, a recipe and a device, and cache it on disk.

Loopy takes about a second to generate code; the result is stored as text under a hash of everything that it depends
on, so that later processes skip code generation.
"""

from __future__ import annotations

import io
import sqlite3
import warnings
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from fmmloopy.common import store
from fmmloopy.common.surroundings import leave_caches
from fmmloopy.common.turns import BUILDING
from fmmloopy.execution.backends import backend_of
from fmmloopy.execution.devices import Device
from fmmloopy.execution.key import FORMAT, CodeKey, versions
from fmmloopy.execution.launch import CompiledOperator
from fmmloopy.execution.shipped_code import shipped_content
from fmmloopy.operators import Operator
from fmmloopy.recipes.book import RecipeBook, RecipeError
from fmmloopy.recipes.hints import explain
from fmmloopy.recipes.identity import kernel_identity
from fmmloopy.recipes.lanes import LANE_BOUNDS, lanes_of, open_lanes
from fmmloopy.recipes.layouts import layouts_of


def compile_operator(key: CodeKey) -> CompiledOperator:
    """Return the code of an operator, from disk if it was generated before.

    Raises:
        RecipeError: the recipe fails, or no code can be generated for its kernel.
    """
    with BUILDING:
        found = kept_code(key)
        if found is None:
            found = generate(key)
            keep(key, found)
        return found


def keep(key: CodeKey, code: CompiledOperator) -> None:
    """Store code on disk under its key, and beforehand that it was generated here."""
    text, content = key.text(), content_of(code)
    if code.generated_here:
        mark = _mark(text, content)
        store.keep(store.keyed_file("generated", mark, f"{key.operator}-"), mark, True)
    store.keep(store.keyed_file("code", text, f"{key.operator}-"), text, content)


def content_of(code: CompiledOperator) -> dict[str, Any]:
    """Return what is stored of code: all of it, but not where it comes from."""
    return {name: value for name, value in asdict(code).items() if name != "generated_here"}


def _mark(text: str, content: Mapping[str, Any]) -> str:
    """Return the key under which it is stored that code was generated from a key; archives are not searched for it."""
    return repr((text, store.checksum(content)))


def kept_code(key: CodeKey) -> CompiledOperator | None:
    """Return code that is on disk, or came with the package; None if there is none."""
    text = key.text()
    content = store.kept(store.keyed_file("code", text, f"{key.operator}-"), text)
    found = _code_of(content)
    if found is not None:
        mark = _mark(text, content)
        is_own = store.kept(store.keyed_file("generated", mark, f"{key.operator}-"), mark, packed=False) is True
        return replace(found, generated_here=is_own)
    shipped = _code_of(shipped_content(key))
    if shipped is None:
        return None
    shipped = replace(shipped, generated_here=True)
    keep(key, shipped)
    return shipped


def _code_of(content: Any) -> CompiledOperator | None:
    """Return code from what was stored; None if it is no code."""
    try:
        code = dict(content)
        for name in ("arguments", "lanes"):
            code[name] = tuple(map(tuple, code[name]))
        for name in ("global_size", "local_size", "steps", "build_options"):
            code[name] = tuple(code[name])
        code["layouts"] = tuple((name, tuple(order)) for name, order in code.get("layouts", ()))
        found = CompiledOperator(**{**code, "generated_here": False})
    except (KeyError, TypeError, ValueError):
        return None
    return found if _is_code(found) else None


def _is_code(code: CompiledOperator) -> bool:
    """Return whether everything that was read has its type."""
    texts = (code.operator, code.source, code.entry, code.kernel, *code.global_size, *code.steps, *code.build_options)
    return (
        all(isinstance(text, str) for text in (*texts, *(text for argument in code.arguments for text in argument)))
        and all(len(argument) == 3 for argument in code.arguments)
        and all(len(lane) == 2 and isinstance(lane[0], str) and isinstance(lane[1], int) for lane in code.lanes)
        and all(isinstance(size, int) for size in code.local_size)
        and all(isinstance(name, str) and sorted(order) == [*range(len(order))] for name, order in code.layouts)
    )


def generate(key: CodeKey) -> CompiledOperator:
    """Generate the code of an operator with loopy; for errors see `compile_operator`."""
    steps, operator = key.steps(), key.specification.operator
    names = tuple(step.name for step in steps)
    try:
        return generate_code(operator, steps[-1].kernel, key.book, key.device, names)
    except RecipeError:
        for number, step in enumerate(steps[:-1], 1):  # the first step that fails is the one to tell of
            generate_code(operator, step.kernel, key.book, key.device, names[:number])
        raise


def generate_code(
    operator: Operator, knl: Any, book: RecipeBook, device: Device, steps: tuple[str, ...]
) -> CompiledOperator:
    """Generate device code from a kernel that a recipe has yielded.

    Raises:
        RecipeError: loopy cannot schedule the kernel or generate code for it, or splits it into several kernels.
    """
    import loopy as lp

    where = f"{book.name}, {operator.name}, after step {len(steps)} {steps[-1]!r}"
    backend = backend_of(device)
    hint = backend.no_code if book.name != "sequential" else ""
    _check_lanes(where, knl, operator)
    layouts = layouts_of(knl, operator, where)
    identity = kernel_identity(knl, book.build_options)
    knl = backend.retarget(knl)
    shown = io.StringIO()
    try:
        # If a check fails, loopy prints the kernel.
        with BUILDING, redirect_stdout(shown), warnings.catch_warnings():
            # A loop priority may name a loop that is parallel now.
            warnings.filterwarnings("ignore", message="Cannot enforce the constraint")
            # Loopy's older scheduler handles vectors; this takes longer, but the result is the same.
            warnings.filterwarnings("ignore", message=".*Falling back to a slow scheduler")
            generated = _generated(knl)
        groups, items = knl.default_entrypoint.get_grid_size_upper_bounds_as_exprs(knl.callables_table)
    except Exception as error:
        if shown.getvalue():
            error.add_note(shown.getvalue())
        raise RecipeError(f"{where}: no code for this kernel: {explain(error, knl)}{hint}") from error
    if len(generated.device_programs) != 1:
        raise RecipeError(
            f"{where}: the kernel is split into {len(generated.device_programs)} device kernels, expected one; "
            "remove what needs a barrier across work-groups"
        )
    program = generated.device_programs[0]
    types = knl.default_entrypoint.arg_dict
    names = _argument_names(program.ast)
    arguments = tuple(
        (name, "number" if isinstance(types[name], lp.ValueArg) else "array", types[name].dtype.numpy_dtype.name)
        for name in names
    )
    return CompiledOperator(
        operator=operator.name,
        source=backend.prelude + generated.device_code(),
        entry=program.name,
        arguments=arguments,
        global_size=tuple(map(_written, groups)) or ("1",),
        local_size=tuple(int(size) for size in items) or (1,) * max(len(groups), 1),
        lanes=tuple(lanes_of(knl).items()),
        steps=steps,
        build_options=book.build_options,
        kernel=identity,
        layouts=tuple(layouts.items()),
        generated_here=True,
    )


ITEMS = 64
"""Work-items of a group where a function is applied to an array."""


def apply_function(function: Any, dtype: Any, device: Device, build_options: tuple[str, ...]) -> CompiledOperator:
    """Generate code that applies a function of one number, of loopy, to an array: y[i] = function(x[i]) for i < n.

    Args:
        function: a callable of loopy.
        dtype: of x and y.
        device: what the code is for.
        build_options: options for its compiler.
    """
    import loopy as lp

    arrays = [lp.GlobalArg(name, np.dtype(dtype), shape=("n",)) for name in "xy"]
    knl = lp.make_kernel(
        "{[i]: 0 <= i < n}",
        "y[i] = function(x[i])",
        [*arrays, lp.ValueArg("n", np.int32)],
        name="apply_function",
        lang_version=lp.MOST_RECENT_LANGUAGE_VERSION,
    )
    knl = lp.register_callable(knl, "function", function)
    arguments = (*((name, "array", np.dtype(dtype).name) for name in "xy"), ("n", "number", "int32"))
    return _on_items(knl, arguments, device, build_options)


REORDER = "wanted[row, i] = factors[row]*given[row, order[i]]"
"""What puts numbers in another order."""


def reordering_code(given: np.dtype[Any], wanted: np.dtype[Any], device: Device) -> CompiledOperator:
    """Return code that puts the numbers of each row in another order, times a factor, from disk if it is there.

    Arguments: wanted (nrows, nwanted), of which the first n columns are written; given (nrows, ngiven); factors
    (nrows,), of given's dtype; order (n,), columns of given; counts.

    Args:
        given, wanted: dtypes.
        device: what the code is for.
    """
    backend = backend_of(device)
    on = device.backend, backend.prelude, device.description, device.driver
    text = repr((FORMAT, REORDER, given.name, wanted.name, on, versions()))
    file = store.keyed_file("code", text, "reorder-")
    code = _code_of(store.kept(file, text))
    if code is None:
        with BUILDING:
            code = _generate_reordering(given, wanted, device)
        store.keep(file, text, content_of(code))
    return code


def _generate_reordering(given: np.dtype[Any], wanted: np.dtype[Any], device: Device) -> CompiledOperator:
    import loopy as lp

    arrays = {"wanted": (wanted, "nrows, nwanted"), "given": (given, "nrows, ngiven"), "factors": (given, "nrows")}
    arrays["order"] = np.dtype(np.int32), "n"
    sizes = ("n", "nrows", "ngiven", "nwanted")
    knl = lp.make_kernel(
        ["{[i]: 0 <= i < n}", "{[row]: 0 <= row < nrows}"],
        REORDER,
        [
            *(lp.GlobalArg(name, dtype, shape=shape) for name, (dtype, shape) in arrays.items()),
            *(lp.ValueArg(name, np.int32) for name in sizes),
        ],
        name="reorder",
        assumptions="n >= 1 and nrows >= 1",
        lang_version=lp.MOST_RECENT_LANGUAGE_VERSION,
    )
    arguments = [(name, "array", dtype.name) for name, (dtype, _) in arrays.items()]
    return _on_items(knl, (*arguments, *((name, "number", "int32") for name in sizes)), device, ())


def _on_items(
    knl: Any, arguments: tuple[tuple[str, str, str], ...], device: Device, build_options: tuple[str, ...]
) -> CompiledOperator:
    """Generate code of a kernel whose loop over i < n is divided among work-items, on devices that have them."""
    import loopy as lp

    backend = backend_of(device)
    if backend.has_groups:
        knl = lp.split_iname(knl, "i", ITEMS, outer_tag="g.0", inner_tag="l.0")
    knl = backend.retarget(knl)
    with BUILDING:
        generated = _generated(knl)
    (program,) = generated.device_programs
    return CompiledOperator(
        operator=program.name,
        source=backend.prelude + generated.device_code(),
        entry=program.name,
        arguments=arguments,
        global_size=(f"(n + {ITEMS - 1}) // {ITEMS}" if backend.has_groups else "1",),
        local_size=(ITEMS if backend.has_groups else 1,),
        lanes=(),
        steps=(),
        build_options=build_options,
    )


def _written(size: Any) -> str:
    """Return an expression of sizes as text with sorted terms, whose order in loopy differs between processes."""
    from pymbolic.primitives import Product, Sum

    if isinstance(size, (Sum, Product)):
        sign = " + " if isinstance(size, Sum) else "*"
        return sign.join(sorted(f"({_written(child)})" for child in size.children))
    return str(size)


def _generated(knl: Any) -> Any:
    """Generate code; without loopy's own cache if that cannot be used.

    The cache may have been deleted, or another version of this package may have written it with other classes.
    """
    import loopy as lp

    try:
        return lp.generate_code_v2(_scheduled(knl))
    except sqlite3.Error:
        lp.set_caching_enabled(False)
        leave_caches()
        return lp.generate_code_v2(_scheduled(knl))
    except (AttributeError, ImportError):
        with lp.CacheMode(False):
            return lp.generate_code_v2(_scheduled(knl))


def _scheduled(knl: Any) -> Any:
    """Schedule the statements of a kernel, as `loopy.generate_code_v2` does.

    A kernel that cannot be scheduled raises an error at once; loopy alone would wait for a user at the terminal to
    press Enter and look at its attempts.
    """
    import loopy as lp
    from loopy.check import pre_schedule_checks
    from loopy.kernel.function_interface import CallableKernel

    knl = lp.infer_unknown_types(lp.preprocess_program(knl), expect_completion=True)
    pre_schedule_checks(knl)
    table = knl.callables_table
    for name, function in table.items():
        if isinstance(function, CallableKernel):
            scheduled = _first_schedule(function.subkernel, table)
            table = table.set(name, function.copy(subkernel=scheduled))
    return knl.copy(callables_table=table)


def _first_schedule(kernel: Any, table: Any) -> Any:
    from loopy.schedule import MinRecursionLimitForScheduling, generate_loop_schedules

    def first() -> Any:  # the generator has to be gone when the limit is taken back
        return next(iter(generate_loop_schedules(kernel, table, debug_args={"interactive": False})))

    with MinRecursionLimitForScheduling(kernel):
        return first()


def _check_lanes(where: str, knl: Any, operator: Operator) -> None:
    """Make sure that lane parameters are fixed by `fix_lanes`, to values that the padding of arrays allows."""
    if open_lanes(knl):
        raise RecipeError(f"{where}: {', '.join(open_lanes(knl))} not fixed; call fix_lanes with them")
    lanes = lanes_of(knl)
    for name, bounds in LANE_BOUNDS.items():
        if name in lanes and lanes[name] not in bounds:
            expected = f"{bounds[0]} to {bounds[-1]}" if isinstance(bounds, range) else f"one of {bounds}"
            raise RecipeError(f"{where}: {name} is {lanes[name]}, expected {expected}")
    if "ilanes" in operator.lanes and "ilanes" not in lanes:
        raise RecipeError(
            f"{where}: ilanes was not fixed by fix_lanes, so the number of tiles is unknown; call fix_lanes with it"
        )


def _argument_names(node: Any) -> list[str]:
    """Read the order of a function's arguments from its declaration."""
    while not hasattr(node, "fdecl"):
        node = node.contents[-1]
    declaration = node.fdecl
    while not hasattr(declaration, "arg_decls"):
        declaration = declaration.subdecl
    names = []
    for argument in declaration.arg_decls:
        while not hasattr(argument, "name"):
            argument = argument.subdecl
        names.append(argument.name)
    return names
