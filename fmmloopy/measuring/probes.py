"""Small programs that run one operation as fast as a processor can, for `fmmloopy.measuring.peaks`.

An arithmetic probe runs many independent chains of one operation, so that neither latency nor memory limits it; a
memory probe streams arrays that fit in no cache. The result of a probe is checked before its time counts, so neither a
compiler that removes work nor an inaccurate operation can raise a peak. Numbers stay between 0.5 and 2, so that nothing
overflows or becomes denormal.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmmloopy.execution.backends import backend_of
from fmmloopy.execution.backends.backend import Backend
from fmmloopy.execution.devices import Device, DeviceError
from fmmloopy.execution.launch import CompiledOperator
from fmmloopy.execution.runtime import Runtime, make_runtime

FMA, SQRT_DIV, RSQRT, NEWTON, TRIAD, READ = "FMA", "sqrt+div", "rsqrt()", "Newton", "triad", "read"

ROOTS = (SQRT_DIV, RSQRT, NEWTON)
"""Methods for a reciprocal square root: a root and a division, OpenCL's ``rsqrt``, and Newton's iteration from the
exponent bits, as in the recipes' ``newton_rsqrt``. The result is multiplied by a number, as in every use of it."""

STREAMS = (TRIAD, READ)
"""Memory access patterns: out = x + a y, which moves three numbers each time; and the sum of two arrays, which moves
two."""

ACCURACY = 16.0
"""Allowed error of a result in units of eps; a less accurate root does not count."""

LONGEST = 0.4
"""Seconds after which a memory probe is not run again."""

A, B = 0.75, 0.5
"""Constants of all probes: iterating x a + b converges to 2, a / sqrt(x) to 0.83."""


@dataclass(frozen=True)
class Probe:
    """One way to measure one peak.

    Attributes:
        quantity: the measured quantity: FMA, one of ROOTS, or one of STREAMS.
        dtype: ``"float32"`` or ``"float64"``.
        width: numbers in a vector.
        chains: independent chains of a work-item, each a vector; ignored for STREAMS.
        local: work-items in a group.
    """

    quantity: str
    dtype: str
    width: int
    chains: int = 1
    local: int = 1


def probes_for(device: Device, dtype: str) -> list[Probe]:
    """Return the probes worth running on a device; some compilers need vectors for fast code, others work-items.

    Twelve vectors of 64 bytes are enough for two units with 5 cycles of latency; six fit in 16 registers of 32 bytes.
    """
    lanes = 64 // np.dtype(dtype).itemsize
    vectors = [Probe(FMA, dtype, lanes, chains) for chains in (12, 6)]
    vectors += [Probe(way, dtype, width, chains) for way in ROOTS for width, chains in ((lanes, 6), (lanes // 2, 8))]
    streams = [Probe(TRIAD, dtype, lanes), Probe(READ, dtype, lanes)]
    probes, backend = [*vectors, *streams], backend_of(device)
    if backend.has_groups:
        items = [Probe(quantity, dtype, 1, 8, 64) for quantity in (FMA, *ROOTS)]
        wide = [Probe(TRIAD, dtype, lanes, local=16), Probe(TRIAD, dtype, 1, local=256)]
        probes = [*vectors, *items, *streams, *wide]
    if not backend.has_vectors:
        probes = [probe for probe in probes if probe.width == 1]
    return [probe for probe in probes if backend.has_rsqrt or probe.quantity != RSQRT]


def measure(probe: Probe, device: Device, cache: int = 0, seconds: float = 0.004, repeats: int = 25) -> float:
    """Run a probe and return its best rate.

    Args:
        probe: the probe to run.
        device: the device to run on.
        cache: bytes of the device's largest cache, which memory probes exceed.
        seconds: minimum duration of a run of an arithmetic probe.
        repeats: number of runs; the fastest counts.

    Returns:
        FLOP/s for FMA, reciprocal roots per second, or bytes per second.

    Raises:
        DeviceError: the device cannot compile or run the probe, or its result is wrong.
    """
    if probe.quantity in STREAMS:
        return _measure_stream(probe, device, min(max(2**26, 4 * cache), 2**28), repeats)
    return _measure_arithmetic(probe, make_runtime(device), seconds, repeats)


def _measure_arithmetic(probe: Probe, runtime: Runtime, seconds: float, repeats: int) -> float:
    groups = runtime.device.limits.groups
    start = np.linspace(1, 2, probe.chains * probe.local * probe.width).astype(probe.dtype)
    out = runtime.zeros((groups * probe.local * probe.width,), probe.dtype)
    code = _code(probe, groups, backend_of(runtime.device))
    arguments = {"out": out, "x": runtime.upload(start), "y": out, "a": A, "b": B}

    runtime.run([runtime.bind(code, {**arguments, "n": 1})])
    once = start * A + B if probe.quantity == FMA else A / np.sqrt(start)
    _compare(probe, runtime.read(out).reshape(groups, -1), once.reshape(probe.chains, -1).sum(axis=0))

    n, taken = 32, 0.0
    while taken < seconds and n < 2**28:
        n *= 2
        launch = runtime.bind(code, {**arguments, "n": n})
        taken = runtime.run([launch])[probe.quantity]
    best = min(taken, *(runtime.run([launch])[probe.quantity] for _ in range(repeats)))
    operations = groups * start.size * n
    return (2 if probe.quantity == FMA else 1) * operations / best


def _measure_stream(probe: Probe, device: Device, nbytes: int, repeats: int) -> float:
    """Stream arrays of this many bytes each; sums of small whole numbers, which are exact."""
    runtime, arrays = _arrays_on(device, probe.dtype, nbytes)
    itemsize = np.dtype(probe.dtype).itemsize
    vectors = nbytes // itemsize // probe.width
    alone = probe.quantity == READ or not backend_of(device).has_groups  # a work-item goes through many vectors
    groups = device.limits.groups if alone else vectors // probe.local
    n = vectors // (groups * probe.local)
    numbers = n * groups * probe.local * probe.width
    launch = runtime.bind(_code(probe, groups, backend_of(device)), {**arrays, "a": A, "b": B, "n": n})
    runtime.run([runtime.clear(arrays["out"]), launch])
    found = runtime.read(arrays["out"])
    if probe.quantity == READ:
        _compare(probe, found[: groups * probe.local * probe.width], np.asarray(3.0 * n))
    else:
        _compare(probe, found[:numbers], np.asarray(1 + 2 * A))
    runs = [runtime.run([launch])[probe.quantity]]
    while len(runs) < repeats and (len(runs) < 3 or sum(runs) < LONGEST):
        runs.append(runtime.run([launch])[probe.quantity])
    return (2 if probe.quantity == READ else 3) * numbers * itemsize / min(runs)


@lru_cache(maxsize=1)
def _arrays_on(device: Device, dtype: str, nbytes: int) -> tuple[Runtime, dict[str, Any]]:
    """Return arrays of this many bytes each for all memory probes: memory new to a process can be slow to come by."""
    runtime, number = make_runtime(device), nbytes // np.dtype(dtype).itemsize
    x, y = (runtime.upload(np.full(number, value, dtype)) for value in (1, 2))
    return runtime, {"out": runtime.zeros((number,), dtype), "x": x, "y": y}


def _compare(probe: Probe, found: NDArray[Any], expected: NDArray[Any]) -> None:
    error = float(np.max(np.abs(found - expected) / expected) / np.finfo(probe.dtype).eps)
    if not error <= ACCURACY:
        raise DeviceError(f"the probe of {probe.quantity} in {probe.dtype} is off by {error:.3g} eps")


# -- source, the same for all backends but for what is defined before it

_FUNCTION = """
KERNEL void probe(GLOBAL {real} *restrict out, GLOBAL {real} const *restrict x, GLOBAL {real} const *restrict y,
                  {real} const a, {real} const b, int const n)
{{
  GLOBAL M *const out_v = (GLOBAL M *) out;
  GLOBAL M const *const x_v = (GLOBAL M const *) x;
  GLOBAL M const *const y_v = (GLOBAL M const *) y;
BODY
}}
"""

_TRIAD = """\
  for (long k = (long) ITEM * n; k < (long) (ITEM + 1) * n; ++k)
    out_v[k] = x_v[k] + a * y_v[k];"""

_READ = """\
  V sum_x = x_v[(long) ITEM * n], sum_y = y_v[(long) ITEM * n];
  for (long k = (long) ITEM * n + 1; k < (long) (ITEM + 1) * n; ++k)
  {
    sum_x += x_v[k];
    sum_y += y_v[k];
  }
  out_v[ITEM] = sum_x + sum_y;"""


def _step(probe: Probe, name: str) -> str:
    """Write one operation of one chain."""
    if probe.quantity == FMA:
        return f"{name} = {name} * a + b;"
    if probe.quantity == SQRT_DIV:
        return f"SQRT_DIV({name});"
    if probe.quantity == RSQRT:
        return f"{name} = a * rsqrt({name});"
    seed, series = _NEWTON[probe.dtype]
    steps = "".join(f" e = 1 - {name} * y * y; y = y + y * e * ({terms});" for terms in series)
    return f"{{ V y = AS_V({seed} - (AS_L({name}) >> 1)); V e;{steps} {name} = a * y; }}"


_NEWTON = {
    "float64": (
        "0x5fe6eb50c7b537a9UL",
        ("0.5000006595671703 + e * (0.3760593113616581 + e * 0.31290051686638776)", "0.5 + e * 0.375"),
    ),
    "float32": ("0x5f375a86u", ("0.49999834f + e * (0.37500035f + e * (0.31393535f + e * 0.27407937f))",)),
}
"""Seed, and the terms of each iteration, as the recipes have them."""


def _body(probe: Probe) -> str:
    if probe.quantity in STREAMS:
        return _TRIAD if probe.quantity == TRIAD else _READ
    names = [f"x{chain}" for chain in range(probe.chains)]
    loads = [f"  V {name} = x_v[{chain} * {probe.local} + LOCAL_ITEM];" for chain, name in enumerate(names)]
    steps = [f"    {_step(probe, name)}" for name in names]
    loop = ["  for (int k = 0; k < n; ++k)", "  {", *steps, "  }"]
    return "\n".join([*loads, *loop, f"  out_v[ITEM] = {' + '.join(names)};"])


def _code(probe: Probe, groups: int, backend: Backend) -> CompiledOperator:
    """Write the program of a probe."""
    double = probe.dtype == "float64"
    itemsize = 8 if double else 4
    words = {
        "real": "double" if double else "float",
        "whole": "long" if double else "int",
        "sqrt": "sqrt" if double else "sqrtf",
        "n": "" if probe.width == 1 else probe.width,
        "width": probe.width,
        "itemsize": itemsize,
        "nbytes": itemsize * probe.width,
        "local": probe.local,
    }
    source = backend.probe_header + _FUNCTION
    arrays = [(name, "array", probe.dtype) for name in ("out", "x", "y")]
    numbers = [(name, "number", probe.dtype) for name in ("a", "b")]
    return CompiledOperator(
        operator=probe.quantity,
        source=source.format(**words).replace("BODY", _body(probe)),
        entry="probe",
        arguments=(*arrays, *numbers, ("n", "number", "int32")),
        global_size=(str(groups),),
        local_size=(probe.local,),
        lanes=(),
        steps=("probe",),
        build_options=(),
    )
