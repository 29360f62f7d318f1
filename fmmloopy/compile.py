"""From an operator, a recipe and a device to source code that can be launched, kept on disk.

What loopy takes a second to generate is kept as text under a hash of everything that it depends on, so that later
processes skip code generation.
"""

from __future__ import annotations

import hashlib
import io
import json
import sqlite3
import warnings
from collections.abc import Mapping
from contextlib import redirect_stdout, suppress
from dataclasses import asdict
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fmmloopy import greens as greens_module
from fmmloopy import precision
from fmmloopy.cache import cache_folder, write_atomically
from fmmloopy.devices import Device
from fmmloopy.execution.backends import backend_of
from fmmloopy.execution.launch import CompiledOperator
from fmmloopy.greens import GreensFunction
from fmmloopy.hints import explain
from fmmloopy.messages import one_line
from fmmloopy.precision import dtype_name
from fmmloopy.recipes import LANE_BOUNDS, RecipeBook, RecipeError, apply_recipe, lanes_of, open_lanes

PARTICLE_OPERATORS = ("p2p", "p2m", "p2l", "l2p", "m2p")
"""Operators that evaluate the Green's function."""

FFT_OPERATORS = ("m2l_forward", "m2l_hadamard", "m2l_inverse")
"""The FFT form of M2L, which has the order in its loops."""

DENSE_OPERATORS = ("m2m", "l2l", "m2l", "m2l_svd", "check_to_equivalent")
"""Operators whose launches depend on how many lanes a tile has."""

FORMAT = 3
"""Increase whenever the same key would have to give other code."""


def compile_operator(
    operator: str,
    greens: GreensFunction,
    order: int,
    dtype: Any,
    book: RecipeBook,
    device: Device,
    parameters: Mapping[str, Any] | None = None,
    most_steps: int | None = None,
) -> CompiledOperator:
    """Return the code of an operator, from disk where it has been generated before.

    Args:
        operator: its name.
        greens: the Green's function; its expressions matter, the values of its parameters do not.
        order: of the surfaces.
        dtype: float32, float64 or mixed, see `fmmloopy.precision`.
        book: recipes.
        device: for which the code is.
        parameters: keyword arguments of the recipe; where not given, what it has on the device.
        most_steps: how many steps of it, None for all.

    Raises:
        RecipeError: the recipe fails, or what it makes cannot be turned into code.
    """
    key = operator_key(operator, greens, order, dtype, book, device, parameters, most_steps)
    path = cache_folder() / "code" / f"{operator}-{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
    cached = _read(path, key)
    if cached is None:
        cached = generate(operator, greens, order, dtype, book, device, parameters, most_steps)
        text = json.dumps({"key": key, "code": asdict(cached), "checksum": _checksum(cached)})
        with suppress(OSError):  # without a place to keep it, code is generated each time
            write_atomically(path, text)
    return cached


def operator_key(
    operator: str,
    greens: GreensFunction,
    order: int,
    dtype: Any,
    book: RecipeBook,
    device: Device,
    parameters: Mapping[str, Any] | None = None,
    most_steps: int | None = None,
) -> str:
    """Write down everything that the code of an operator depends on."""
    return repr(
        {
            "format": FORMAT,
            "operator": operator,
            "math": operators_hash(),
            "greens": _what_matters(operator, greens),
            "order": order if operator in FFT_OPERATORS else None,
            "dtype": dtype_name(dtype),
            "book": book.name,
            "recipe": book.fingerprint(operator),
            "parameters": sorted(book.parameters_on(operator, device, parameters).items()),
            "steps": most_steps,
            "device": (device.backend, backend_of(device).prelude, device.description, device.driver),
            "versions": versions(),
        }
    )


def _what_matters(operator: str, greens: GreensFunction) -> Any:
    """Return what the code of an operator depends on: the expressions, or only how many components there are."""
    if operator in PARTICLE_OPERATORS:
        return [[str(entry) for entry in row] for row in greens.matrix], list(greens.parameters), greens.nderivatives
    return greens.ntarget_components, greens.nsource_components


@cache
def operators_hash() -> str:
    """Return a hash of the text of all that makes code from operators."""
    folder = Path(__file__).parent / "operators"
    files = [*sorted(folder.glob("*.py")), *map(Path, (greens_module.__file__, precision.__file__, __file__))]
    return hashlib.sha256(b"".join(p.name.encode() + p.read_bytes() for p in files)).hexdigest()


@cache
def versions() -> tuple[tuple[str, str], ...]:
    """Return the versions of the packages that code depends on."""
    found = []
    for package in ("fmmloopy", "loopy", "islpy", "pymbolic"):
        try:
            found.append((package, version(package)))
        except PackageNotFoundError:
            found.append((package, "none"))
    return tuple(found)


def recipe_hash(book: RecipeBook, operator: str) -> str:
    """Return a short hash of the recipe of an operator, and of all that it calls."""
    return hashlib.sha256(book.fingerprint(operator).encode()).hexdigest()[:32]


def _checksum(code: CompiledOperator) -> str:
    return hashlib.sha256(json.dumps(asdict(code), sort_keys=True).encode()).hexdigest()


def _read(path: Path, key: str) -> CompiledOperator | None:
    """Read code from disk; a file that is damaged or stands for something else counts as none."""
    try:
        stored = json.loads(path.read_text())
        code = stored["code"]
        for name in ("arguments", "lanes"):
            code[name] = tuple(map(tuple, code[name]))
        for name in ("global_size", "local_size", "steps", "build_options"):
            code[name] = tuple(code[name])
        compiled = CompiledOperator(**code)
        return compiled if stored["key"] == key and stored["checksum"] == _checksum(compiled) else None
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None


def generate(
    operator: str,
    greens: GreensFunction,
    order: int,
    dtype: Any,
    book: RecipeBook,
    device: Device,
    parameters: Mapping[str, Any] | None = None,
    most_steps: int | None = None,
) -> CompiledOperator:
    """Generate the code of an operator with loopy. Arguments and errors as `compile_operator`."""
    from fmmloopy.operators import math_kernel

    try:
        math = math_kernel(operator, greens, order, dtype)
    except Exception as error:
        raise RecipeError(f"{operator}: no kernel for {greens.name!r}: {one_line(error)}") from error
    given = book.parameters_on(operator, device, parameters)
    steps = apply_recipe(book, operator, math, given, most_steps)
    names = tuple(step.name for step in steps)
    try:
        return generate_code(operator, steps[-1].kernel, book, device, names)
    except RecipeError:
        for number, step in enumerate(steps[:-1], 1):  # the first step that fails is the one to tell of
            generate_code(operator, step.kernel, book, device, names[:number])
        raise


def generate_code(
    operator: str, knl: Any, book: RecipeBook, device: Device, steps: tuple[str, ...]
) -> CompiledOperator:
    """Generate device code from a kernel that a recipe has yielded.

    Raises:
        RecipeError: loopy cannot schedule the kernel or generate code for it, or it falls apart into several kernels.
    """
    import loopy as lp

    where = f"{book.name}, {operator}, after step {len(steps)} {steps[-1]!r}"
    backend = backend_of(device)
    hint = backend.no_code if book.name != "sequential" else ""
    _check_lanes(where, knl, operator)
    knl = backend.retarget(knl)
    shown = io.StringIO()
    try:
        # Where a check fails, loopy prints the kernel.
        with redirect_stdout(shown), warnings.catch_warnings():
            # A wish for a loop order that names a loop which is now parallel is no mistake.
            warnings.filterwarnings("ignore", message="Cannot enforce the constraint")
            # Vectors are scheduled by loopy's older scheduler; a matter of a second, not of the result.
            warnings.filterwarnings("ignore", message=".*Falling back to a slow scheduler")
            generated = _generated(knl)
        groups, items = knl.default_entrypoint.get_grid_size_upper_bounds_as_exprs(knl.callables_table)
    except Exception as error:
        if shown.getvalue():
            error.add_note(shown.getvalue())
        raise RecipeError(f"{where}: no code for this kernel: {explain(error, knl)}{hint}") from error
    if len(generated.device_programs) != 1:
        raise RecipeError(
            f"{where}: the kernel falls apart into {len(generated.device_programs)} device kernels, expected one; "
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
        operator=operator,
        source=backend.prelude + generated.device_code(),
        entry=program.name,
        arguments=arguments,
        global_size=tuple(str(size) for size in groups) or ("1",),
        local_size=tuple(int(size) for size in items) or (1,) * max(len(groups), 1),
        lanes=tuple(lanes_of(knl).items()),
        steps=steps,
        build_options=book.build_options,
    )


def _generated(knl: Any) -> Any:
    """Generate code; without loopy's own cache from the moment that it cannot be used, say since it was deleted."""
    import loopy as lp

    try:
        return lp.generate_code_v2(_scheduled(knl))
    except sqlite3.Error:
        lp.set_caching_enabled(False)
        return lp.generate_code_v2(_scheduled(knl))


def _scheduled(knl: Any) -> Any:
    """Put the statements of a kernel in order, as `loopy.generate_code_v2` does.

    Except that a kernel without such an order is an error at once: left to itself, loopy waits for somebody at the
    terminal to press Enter and look at its attempts.
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


def _check_lanes(where: str, knl: Any, operator: str) -> None:
    """Make sure that lane parameters are fixed where the plan can read them, to what the padding of arrays allows."""
    if open_lanes(knl):
        raise RecipeError(f"{where}: {', '.join(open_lanes(knl))} not fixed; call fix_lanes with them")
    lanes = lanes_of(knl)
    for name, bounds in LANE_BOUNDS.items():
        if name in lanes and lanes[name] not in bounds:
            expected = f"{bounds[0]} to {bounds[-1]}" if isinstance(bounds, range) else f"one of {bounds}"
            raise RecipeError(f"{where}: {name} is {lanes[name]}, expected {expected}")
    if operator in DENSE_OPERATORS and "ilanes" not in lanes:
        raise RecipeError(
            f"{where}: ilanes was fixed by other means than fix_lanes, so nobody knows how many tiles there are"
        )


def _argument_names(node: Any) -> list[str]:
    """Read the order of a function's arguments off its declaration."""
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
