"""Cache translation tables on disk, one HDF5 file per set.

A file is valid only as a whole: it must have the full key and the checksum of its entire content. Files that are
damaged, truncated, foreign or unreadable are rebuilt and replaced. Files are written next to their final location and
renamed, so that readers and writers in any number of processes see a complete file or none.

The checksum covers the file's bytes and is stored before them, in the user block of HDF5, because HDF5 must never read
damaged bytes: a single wrong byte in its structures made it loop forever.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from fmmloopy.common.sizes import count_points
from fmmloopy.common.store import ENVIRONMENT_VARIABLE, cache_folder, read_cached, write_cached
from fmmloopy.common.trust import UntrustedError
from fmmloopy.greens import GreensFunction
from fmmloopy.precision import find_types
from fmmloopy.tables.surfaces import (
    INNER,
    OUTER,
    Tables,
    build_tables,
    check_order,
    check_ratios,
    surface_points,
    table_radii,
)
from fmmloopy.tables.svd import Factors, arrange, compress, count_entries

# Increase whenever a table of the same key would have another layout or other numbers.
TABLE_FORMAT = 5

# Bytes before HDF5's own: the smallest block that it can leave.
USER_BLOCK = 512

# In a shape: however many there are.
ANY = -1

Arrays = dict[str, NDArray[np.float64]]


def cached_tables(
    kernel: GreensFunction,
    order: int,
    radii: Sequence[float] | NDArray[np.floating[Any]],
    dtype: Any = np.float64,
    inner: float = INNER,
    outer: float = OUTER,
    folder: str | os.PathLike[str] | None = None,
) -> Tables:
    """Return the result of `build_tables`, to the last bit, from disk if it was built before.

    If the folder is not writable, tables are built but not stored, with a warning.

    Args:
        kernel: the Green's function, without gradient rows.
        order: p, points per cube edge, 2 to 16.
        radii: shape (nlevels,), the box radius (half width) on each level; a homogeneous function's tables, and so its
            file, do not depend on it.
        dtype: precision that the tables will be used in, float32, float64 or mixed.
        inner: radius of upward equivalent and downward check surfaces, in box radii.
        outer: radius of upward check and downward equivalent surfaces, in box radii.
        folder: folder of the files; None for `cache_folder`.

    Raises:
        ValueError: as `build_tables`.
    """
    order, (inner, outer) = check_order(order), check_ratios(inner, outer)
    needed = table_radii(kernel, radii)
    key = _key(kernel, order, needed, find_types(dtype).name, inner, outer)
    shapes = _shapes(kernel, order, len(needed))

    def build() -> Arrays:
        tables = build_tables(kernel, order, radii, dtype, inner, outer)
        return {name: getattr(tables, name) for name in shapes}

    surface = surface_points(order)
    surface.flags.writeable = needed.flags.writeable = False
    return Tables(order, surface.shape[1], surface, inner, outer, needed, **_kept(folder, key, shapes, build))


def cached_factors(
    kernel: GreensFunction,
    order: int,
    radius: float,
    inner: float,
    tolerance: float,
    folder: str | os.PathLike[str] | None = None,
) -> Factors:
    """Return the result of `fmmloopy.tables.svd.compress`, to the last bit, from disk if it was computed before.

    If the folder is not writable, factors are computed but not stored, with a warning.

    Args:
        kernel, order, radius, inner, tolerance: as there.
        folder: folder of the files; None for `cache_folder`.
    """
    key = _text({**_common(kernel, order, inner), "m2l svd": [float(radius), tolerance]})
    npoints = count_points(order)
    shapes = {
        "ranks": (count_entries(kernel),),
        "left": (ANY, npoints * kernel.ntarget_components),
        "right": (ANY, npoints * kernel.nsource_components),
    }

    def build() -> Arrays:
        factors = compress(kernel, order, radius, inner, tolerance)
        ranks = np.diff(factors.starts).astype(np.float64)
        return {"ranks": ranks, "left": factors.left, "right": factors.right}

    arrays = _kept(folder, key, shapes, build)
    return arrange(kernel, order, arrays["ranks"].astype(np.int64), arrays["left"], arrays["right"])


def _kept(
    folder: str | os.PathLike[str] | None, key: str, shapes: dict[str, tuple[int, ...]], build: Callable[[], Arrays]
) -> Arrays:
    """Return the arrays of a key, read-only, from the folder or built and put there."""
    place = Path(folder) if folder is not None else cache_folder()
    path = place / f"tables-{hashlib.sha256(key.encode()).hexdigest()}.h5"
    arrays = _read(path, place, key, shapes)
    if arrays is not None:
        return arrays
    arrays = build()
    for array in arrays.values():
        array.flags.writeable = False
    try:
        write_cached(path, _written(key, arrays), place)
    except UntrustedError:
        pass  # a warning has said so
    except (OSError, RuntimeError) as error:
        warnings.warn(
            f"tables cannot be stored in {place} ({error}), so they are built again each time; "
            f"set {ENVIRONMENT_VARIABLE} to a writable folder",
            stacklevel=3,
        )
    return arrays


def _key(kernel: GreensFunction, order: int, radii: NDArray[np.float64], dtype: str, inner: float, outer: float) -> str:
    """Return everything that tables depend on as text; floats in it are exact."""
    return _text({**_common(kernel, order, inner), "radii": radii.tolist(), "dtype": dtype, "outer": outer})


def _common(kernel: GreensFunction, order: int, inner: float) -> dict[str, Any]:
    """Return what all tables depend on."""
    try:
        package = version("fmmloopy")
    except PackageNotFoundError:
        package = "not installed"
    return {
        "kernel": repr(kernel.key),
        "order": order,
        "inner": inner,
        "package": package,
        "format": TABLE_FORMAT,
    }


def _text(key: dict[str, Any]) -> str:
    return json.dumps(key, sort_keys=True)


def _shapes(kernel: GreensFunction, order: int, ntables: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of each array in a file, by its name in Tables."""
    npoints = surface_points(order).shape[1]
    checks, charges = npoints * kernel.ntarget_components, npoints * kernel.nsource_components
    k = min(checks, charges)
    first, second, translation = (ntables, k, checks), (ntables, charges, k), (ntables, 8, charges, charges)
    return {
        "upward_first": first,
        "upward_second": second,
        "downward_first": first,
        "downward_second": second,
        "m2m": translation,
        "l2l": translation,
    }


def _signature(content: bytes | memoryview) -> bytes:
    """Return what the user block of a file begins with: a name and the SHA-256 of all that follows the block."""
    return b"fmmloopy tables, sha256 " + hashlib.sha256(content).hexdigest().encode() + b"\n"


def _read(path: Path, place: Path, key: str, shapes: dict[str, tuple[int, ...]]) -> Arrays | None:
    """Return the arrays of a file, read-only, or None unless it is whole and has this key."""
    try:
        content = read_cached(path, place)
    except OSError:
        return None
    signature = _signature(memoryview(content)[USER_BLOCK:])
    if content[:USER_BLOCK] != signature.ljust(USER_BLOCK, b"\0"):
        return None
    # From here on the file is one that we wrote, though perhaps for another key or by another version.
    try:
        with h5py.File(io.BytesIO(content), "r") as file:
            if file.attrs["key"] != key:
                return None
            if not all(_fits(file[name], shape) for name, shape in shapes.items()):
                return None
            arrays: Arrays = {name: file[name][...] for name in shapes}
    except (OSError, KeyError):
        return None
    for array in arrays.values():
        array.flags.writeable = False
    return arrays


def _fits(stored: Any, shape: tuple[int, ...]) -> bool:
    """Return whether a stored array is of a shape, and of float64."""
    lengths = zip(stored.shape, shape, strict=False)
    return stored.dtype == np.float64 and stored.ndim == len(shape) and all(e in (n, ANY) for n, e in lengths)


def _written(key: str, arrays: Arrays) -> bytes:
    """Return the content of a file of tables; made in memory, since HDF5 crashes where a disk is full."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", userblock_size=USER_BLOCK) as file:
        file.attrs["key"] = key
        for name, array in arrays.items():
            file.create_dataset(name, data=array, dtype="<f8")
    view = buffer.getbuffer()
    signature = _signature(view[USER_BLOCK:])
    view[: len(signature)] = signature
    return bytes(view)
