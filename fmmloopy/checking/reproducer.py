"""Stand-alone programs that reproduce an error of a kernel: a .py and a .cl file that need only numpy and pyopencl."""

from __future__ import annotations

import base64
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmmloopy.checking.case import Case
from fmmloopy.checking.over import describe
from fmmloopy.common.messages import one_line
from fmmloopy.common.sizes import LANES
from fmmloopy.common.store import write_atomically
from fmmloopy.execution.backends import backend_of
from fmmloopy.execution.backends.backend import OPENCL_C
from fmmloopy.execution.devices import Device
from fmmloopy.execution.launch import CompiledOperator, launch_sizes
from fmmloopy.recipes.layouts import as_in_memory

SHORT = 40
"""Arrays up to this size are written as lists; longer ones are packed."""

_PROGRAM = '''"""{title}

Input: {case}.
{how}
"""

import base64
import sys
import zlib
from pathlib import Path

import numpy as np
import pyopencl as cl

nan, inf = np.nan, np.inf
PADDING = {padding}  # numbers after the end of every array, which idle lanes may read but never use


def packed(dtype, shape, text):
    return np.frombuffer(zlib.decompress(base64.b85decode(text)), dtype).reshape(shape)


# in the order of the kernel's arguments
ARGUMENTS = {{
{arguments}
}}
SAME_ARRAY = {same!r}
EXPECTED = {{
{expected}
}}
ALLOWED = {{
{allowed}
}}  # errors; 0 where there is none
GLOBAL_SIZE, LOCAL_SIZE = {global_size}, {local_size}


def find_device():
    """Return the device that showed the error, or else the first."""
    devices = [d for p in cl.get_platforms() for d in p.get_devices()]
    return next((d for d in devices if {device!r}.endswith(" ".join(d.name.split()))), devices[0])


def main():
    context = cl.Context([find_device()])
    queue = cl.CommandQueue(context)
    source = Path(__file__).with_suffix(".cl").read_text()
    kernel = cl.Kernel(cl.Program(context, source).build({options!r}), {entry!r})
    buffers = {{}}
    for name, value in ARGUMENTS.items():
        if isinstance(value, np.ndarray):
            after = nan if value.dtype.kind == "f" else value[-1] + 1 if name.endswith("_starts") else 0
            tail = np.full(PADDING, after, value.dtype)
            flags = cl.mem_flags.READ_WRITE | cl.mem_flags.COPY_HOST_PTR
            buffers[name] = cl.Buffer(context, flags, hostbuf=np.concatenate([value.ravel(), tail]))
    for index, (name, value) in enumerate(ARGUMENTS.items()):
        kernel.set_arg(index, buffers.get(SAME_ARRAY.get(name, name), value))
    cl.enqueue_nd_range_kernel(queue, kernel, GLOBAL_SIZE, LOCAL_SIZE)
    queue.finish()
    wrong = 0
    for name, expected in EXPECTED.items():
        found = np.empty_like(expected)
        cl.enqueue_copy(queue, found, buffers[SAME_ARRAY.get(name, name)])
        same = (found == expected) | (np.isnan(found) & np.isnan(expected))
        same |= np.abs(found.astype(np.float64) - expected) <= ALLOWED.get(name, 0)
        for index in np.argwhere(~same)[:10]:
            where = tuple(index)
            print(f"{{name}}{{index.tolist()}} is {{found[where]:.17g}}, expected {{expected[where]:.17g}}")
        wrong += int((~same).sum())
    print(f"{{wrong}} entries differ from those of the sequential kernel" if EXPECTED else "the kernel has run")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
'''


def write_reproducer(
    folder: Path,
    name: str,
    title: str,
    case: Case,
    code: CompiledOperator,
    expected: Mapping[str, NDArray[Any]] | None,
    device: Device,
    dies: bool = False,
    allowed: Mapping[str, NDArray[Any]] | None = None,
) -> str:
    """Write ``name.py`` and ``name.cl`` and return the path of the first.

    The program exits with 1 while results differ, and with 0 once they do not.

    Args:
        folder: the folder to write to; created if it does not exist.
        name: name of the two files, without suffix.
        title: what is wrong, in one line.
        case: the input.
        code: the kernel.
        expected: the correct outputs; None if the outputs are correct, and only a simulator detects the error.
        device: the device that showed the error.
        dies: whether the kernel crashes or does not return.
        allowed: errors that results may have; None for none.

    Returns:
        The path of the program; "" if there is none: for C code, or if the folder cannot be written to.
    """
    if backend_of(device).language != OPENCL_C:
        return ""
    layouts = dict(code.layouts)
    arguments = {
        name: as_in_memory(value, layouts[name]) if name in layouts else value
        for name, value in case.arguments_for(dict(code.lanes)).items()
    }
    groups, local = launch_sizes(code, arguments, device.limits)
    output = {n: arguments[n] for n in case.operator.outputs}
    same = case.operator.aliases
    how = (
        "The kernel crashes, or does not return."
        if dies
        else (
            "This program lists the entries that differ; its exit status is 1 if there are any."
            if expected is not None
            else "Results are right by luck; run it as `oclgrind --data-races --uninitialized python THIS_FILE`."
        )
    )
    values = {n: _literal(arguments[n], dtype, kind) for n, kind, dtype in code.arguments}
    text = _PROGRAM.format(
        padding=LANES,
        title=_safe(title),
        case=_safe(describe(case)),
        how=how,
        arguments=_entries({n: values[n] for n, _, _ in code.arguments}),
        same=same,
        allowed=_entries(
            {n: _literal(as_in_memory(v, layouts.get(n)), "float64", "array") for n, v in (allowed or {}).items()}
        ),
        expected=_entries(
            {n: _literal(as_in_memory(expected[n], layouts.get(n)), v.dtype.name, "array") for n, v in output.items()}
        )
        if expected is not None
        else "",
        global_size=tuple(g * w for g, w in zip(groups, local, strict=True)),
        local_size=local,
        device=device.description,
        options=list(code.build_options),
        entry=code.entry,
    )
    path = folder / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}.py"
    try:
        write_atomically(path.with_suffix(".cl"), code.source)
        write_atomically(path, text)
    except OSError:
        return ""
    return str(path)


def _entries(values: Mapping[str, str]) -> str:
    return "\n".join(f"    {name!r}: {value}," for name, value in values.items())


def _literal(value: Any, dtype: str, kind: str) -> str:
    """Return a number or an array as Python code."""
    if kind == "number":
        return f"np.{dtype}({value!r})" if not hasattr(value, "item") else f"np.{dtype}({value.item()!r})"
    array = np.ascontiguousarray(value, dtype)
    if array.size <= SHORT:
        return f"np.array({array.tolist()!r}, {dtype!r})"
    packed = base64.b85encode(zlib.compress(array.tobytes(), 9)).decode()
    return f"packed({dtype!r}, {array.shape}, {packed!r})"


def _safe(text: str) -> str:
    """Return a text that cannot end a docstring."""
    return one_line(ValueError(text), 600).replace("\\", "/").replace('"""', "'''")
