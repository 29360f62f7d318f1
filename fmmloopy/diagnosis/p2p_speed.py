"""Measure how fast a device sums pairs: P2P on leaves of typical size, for about a second."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmmloopy.common.sizes import LANES
from fmmloopy.direct import direct
from fmmloopy.execution.devices import Device, DeviceError
from fmmloopy.execution.generate import compile_operator
from fmmloopy.execution.runtime import Runtime, make_runtime
from fmmloopy.execution.setup import Method, Setup
from fmmloopy.greens import laplace
from fmmloopy.operators import P2P
from fmmloopy.precision import find_precision
from fmmloopy.recipes.book import SEQUENTIAL, RecipeBook
from fmmloopy.recipes.load import load_recipes

BOXES, POINTS, NEIGHBOURS = 512, 96, 8
"""Number of leaves, points in each, and leaves that each interacts with."""

ERROR = 1e-3
"""Relative error of a potential above which the result is wrong; rounding errors are far smaller."""


@dataclass(frozen=True)
class Speed:
    """The speed of a device with its default book.

    Attributes:
        book: name of the book.
        dtype: float64, or float32 if the device has no float64.
        gpairs: 10^9 pairs of target and source per second.
        gain: how many times as fast the book's recipe is as the sequential kernel, None if the book has none.
    """

    book: str
    dtype: str
    gpairs: float
    gain: float | None


def measure(device: Device, seconds: float = 1.0) -> Speed:
    """Run P2P with Laplace's kernel on a device.

    Args:
        device: the device to run on, with the book that suits it.
        seconds: how long to run, in addition to code generation.

    Raises:
        DeviceError, RecipeError: the device cannot run it, or gives wrong potentials.
    """
    book = load_recipes(None, device)
    dtype = np.dtype(np.float64 if device.has_float64 else np.float32)
    runtime = make_runtime(device)
    arguments = _leaves(dtype)
    gpairs = _rate(runtime, book, dtype, arguments, seconds)
    gain = None
    if P2P.name in book.recipes:
        gain = gpairs / _rate(runtime, SEQUENTIAL, dtype, arguments, seconds / 2)
    return Speed(book.name, dtype.name, gpairs, gain)


def _leaves(dtype: np.dtype[Any]) -> dict[str, Any]:
    """Return the arguments of P2P, except for its output and the number of target boxes."""
    rng = np.random.default_rng(0)
    count = BOXES * POINTS
    points = np.zeros((3, count + LANES), dtype)
    points[:, :count] = rng.random((3, count))
    charges = np.zeros((1, count + LANES), dtype)
    charges[:, :count] = rng.random(count)
    starts = np.arange(BOXES + 1, dtype=np.int32) * POINTS
    return {
        "targets": points,
        "sources": points,
        "charges": charges,
        **{f"box_{which}_starts": starts[:-1] for which in ("target", "source")},
        **{f"box_{which}_ends": starts[1:] for which in ("target", "source")},
        "target_boxes": np.arange(BOXES, dtype=np.int32),
        "list_starts": np.arange(BOXES + 1, dtype=np.int32) * NEIGHBOURS,
        "lists": np.concatenate([rng.permutation(BOXES)[:NEIGHBOURS] for _ in range(BOXES)]).astype(np.int32),
        "nsources": count + LANES,
        "ntargets": count + LANES,
        "scaling": laplace().scaling,
    }


def _rate(
    runtime: Runtime,
    book: RecipeBook,
    dtype: np.dtype[Any],
    arguments: Mapping[str, Any],
    seconds: float,
) -> float:
    """Return 10^9 pairs per second, for a number of boxes that takes a twentieth of the time."""
    code = compile_operator(Setup(Method(laplace(), 2, find_precision(dtype)), book, runtime.device).code_key(P2P.name))
    uploaded = {k: runtime.upload(v) if isinstance(v, np.ndarray) else v for k, v in arguments.items()}
    uploaded["potentials"] = runtime.zeros((1, arguments["ntargets"]), dtype)
    boxes = 4
    launch = runtime.bind(code, {**uploaded, "ntarget_boxes": boxes})
    runtime.run([launch])
    _compare(runtime.read(uploaded["potentials"]), arguments, runtime.device)
    while (taken := runtime.run([launch])[P2P.name]) < seconds / 20 and boxes < BOXES:
        boxes = min(4 * boxes, BOXES)
        launch = runtime.bind(code, {**uploaded, "ntarget_boxes": boxes})
    best = spent = taken
    while spent < seconds:
        taken = runtime.run([launch])[P2P.name]
        best, spent = min(best, taken), spent + taken
    return boxes * NEIGHBOURS * POINTS**2 / best / 1e9


def _compare(potentials: NDArray[Any], arguments: Mapping[str, Any], device: Device) -> None:
    """Compare the potentials of the first box with the direct sum."""
    sources = np.concatenate([np.arange(POINTS) + POINTS * box for box in arguments["lists"][:NEIGHBOURS]])
    points, charges = arguments["sources"].T, arguments["charges"][0]
    expected = direct(points[sources], charges[sources], points[:POINTS])
    error = np.abs(potentials[0, :POINTS] - expected).max() / np.abs(expected).max()
    if not error <= ERROR:
        raise DeviceError(f"potentials are wrong by {error:.1g} of the largest; the compiler or driver has a bug")
