"""Points and charges from files, and potentials into files: NumPy, CSV, HDF5, and what ParaView opens.

What a file is follows from its suffix. Arrays have names: ``points`` (or ``sources``), ``targets``, and charges under
any name, ``charges`` by default. In CSV files, coordinates are columns x, y, z, or the first three if there is no
header.
"""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmmloopy.common.messages import require

MESHES = (".vtk", ".vtu", ".vtp", ".ply", ".xdmf")
"""Files that meshio reads and writes."""

HDF5 = (".h5", ".hdf5")

SUFFIXES = (".npz", ".npy", ".csv", *HDF5, *MESHES)
"""Suffixes of files that are read."""

WRITTEN = (".npz", ".csv", *HDF5, ".vtk", ".vtu")
"""Suffixes of files that are written."""

SOURCES, TARGETS, CHARGES = ("points", "sources"), ("targets",), "charges"
"""Names of arrays with coordinates, and the usual one of those with charges."""

Array = NDArray[Any]


@dataclass(frozen=True)
class Problem:
    """What a file has.

    Attributes:
        sources: shape (n, 3).
        charges: shape (n,) or (n, components).
        targets: shape (m, 3); None if there are none.
    """

    sources: Array
    charges: Array
    targets: Array | None = None


def read_problem(path: str | Path, charges: str = CHARGES) -> Problem:
    """Read points and charges.

    Args:
        path: a file with a suffix of `SUFFIXES`. A .npy file is mapped into memory: four or more columns, coordinates
            first.
        charges: name of the array with charges; in CSV files, of the column, or the beginning of the names of several.

    Raises:
        ValueError: the suffix is unknown, the file is not what its suffix says, or it has no points or charges.
        OSError: the file cannot be read.
        MissingPackageError: meshio is not installed.
    """
    path = Path(path)
    suffix = check_suffix(path, SUFFIXES)
    if suffix == ".csv":
        return _from_table(path, *_read_csv(path), charges)
    if suffix == ".npy":
        return _from_table(path, [], _loaded(path, np.load, mmap_mode="r"), charges)
    if suffix in HDF5:
        arrays = _loaded(path, _read_hdf5)
    elif suffix == ".npz":
        arrays = _loaded(path, _read_npz)
    else:
        arrays = _read_mesh(path)
    name = next((name for name in SOURCES if name in arrays), None)
    if name is None:
        raise ValueError(f"{path} has {_listed(arrays)}, expected an array named {' or '.join(SOURCES)}")
    if charges not in arrays:
        raise ValueError(f"{path} has {_listed(arrays)}, but no array named {charges!r} for the charges")
    return Problem(arrays[name], arrays[charges], arrays.get(TARGETS[0]))


def write_results(path: str | Path, points: Array, results: Mapping[str, Array]) -> None:
    """Write results at points.

    Args:
        path: a file with a suffix of `WRITTEN`; it is replaced.
        points: shape (n, 3).
        results: by name, each of shape (n, ...). In CSV and mesh files, complex numbers become two arrays, and axes
            after the second are joined with it; all other files have them as they are.

    Raises:
        ValueError: the suffix is unknown.
        OSError: the file cannot be written.
        MissingPackageError: meshio is not installed.
    """
    path = Path(path)
    suffix = check_suffix(path, WRITTEN)
    if suffix == ".npz":
        with path.open("wb") as file:
            arrays: dict[str, Any] = {SOURCES[0]: points, **results}
            np.savez(file, **arrays)
    elif suffix in HDF5:
        import h5py

        with h5py.File(path, "w") as file:
            for name, values in {SOURCES[0]: points, **results}.items():
                file[name] = values
    elif suffix == ".csv":
        _write_csv(path, points, _flat(results))
    else:
        require("meshio", "files", f"{suffix} files")
        import meshio

        cells = [("vertex", np.arange(len(points))[:, None])]
        meshio.Mesh(np.asarray(points, np.float64), cells, point_data=_flat(results)).write(path)


def check_suffix(path: str | Path, known: tuple[str, ...]) -> str:
    """Return the suffix of a file.

    Raises:
        ValueError: it is not one of those known.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in known:
        raise ValueError(f"{path} has the suffix {suffix!r}, expected one of {', '.join(known)}")
    return suffix


# -- reading


def _loaded(path: Path, load: Any, **options: Any) -> Any:
    """Load a file; anything but a system's error means that it is not what its suffix says."""
    if not path.exists():
        raise FileNotFoundError(f"no file {path}")
    try:
        return load(path, **options)
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is no {path.suffix} file with arrays: {error}") from None
    except OSError as error:
        if error.errno is not None:
            raise
        raise ValueError(f"{path} is no {path.suffix} file: {error}") from None  # h5py says so with an OSError


def _read_npz(path: Path) -> dict[str, Array]:
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def _read_hdf5(path: Path) -> dict[str, Array]:
    import h5py

    with h5py.File(path, "r") as file:
        return {name: item[()] for name, item in file.items() if isinstance(item, h5py.Dataset) and item.shape}


def _read_mesh(path: Path) -> dict[str, Array]:
    require("meshio", "files", f"{path.suffix} files")
    import meshio

    if not path.exists():
        raise FileNotFoundError(f"no file {path}")
    try:
        mesh = meshio.read(path)
    except (Exception, SystemExit) as error:  # meshio's readers raise whatever they meet
        raise ValueError(f"{path} is no {path.suffix} file that meshio reads: {error}") from None
    points = mesh.points
    if points.shape[1] == 2:
        points = np.column_stack([points, np.zeros(len(points))])
    return {SOURCES[0]: points, **mesh.point_data}


def _read_csv(path: Path) -> tuple[list[str], Array]:
    """Return the names of the columns, none if there is no header, and the numbers."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        first = next(csv.reader(file), [])
    header = [] if all(map(_is_number, first)) else [name.strip() for name in first]
    try:
        values = np.loadtxt(path, delimiter=",", skiprows=1 if header else 0, ndmin=2, encoding="utf-8-sig")
    except ValueError as error:
        raise ValueError(f"{path} is no table of numbers with commas between them: {error}") from None
    return header, values


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _from_table(path: Path, header: list[str], values: Array, charges: str) -> Problem:
    """Split the columns of a table into coordinates and charges."""
    if not header:
        if values.ndim != 2 or values.shape[1] < 4:
            raise ValueError(
                f"{path} has an array of shape {values.shape}, expected four or more columns: x, y, z, charge"
            )
        return Problem(values[:, :3], values[:, 3] if values.shape[1] == 4 else values[:, 3:])
    places = {name.lower(): place for place, name in enumerate(header)}
    if not {"x", "y", "z"} <= set(places):
        raise ValueError(f"{path} has columns {', '.join(header)}, expected x, y, z and charges")
    wanted = [place for place, name in enumerate(header) if name.startswith(charges.removesuffix("s"))]
    if not wanted:
        raise ValueError(f"{path} has columns {', '.join(header)}, but none whose name begins with {charges!r}")
    found = values[:, wanted]
    return Problem(values[:, [places[axis] for axis in "xyz"]], found[:, 0] if len(wanted) == 1 else found)


def _listed(names: Mapping[str, Any]) -> str:
    return f"arrays {', '.join(map(repr, names))}" if names else "no arrays"


# -- writing


def _flat(results: Mapping[str, Array]) -> dict[str, Array]:
    """Return real arrays of one or two axes."""
    flat: dict[str, Array] = {}
    for name, values in results.items():
        parts = (
            {f"{name}_real": values.real, f"{name}_imag": values.imag} if values.dtype.kind == "c" else {name: values}
        )
        flat |= {part: each.reshape(len(each), -1) if each.ndim > 2 else each for part, each in parts.items()}
    return flat


def _write_csv(path: Path, points: Array, results: Mapping[str, Array]) -> None:
    names, columns = ["x", "y", "z"], [points]
    for name, values in results.items():
        count = 1 if values.ndim == 1 else values.shape[1]
        names += [name] if values.ndim == 1 else [f"{name}_{number}" for number in range(count)]
        columns.append(values.reshape(len(values), count))
    np.savetxt(path, np.column_stack(columns), "%.17g", ",", header=",".join(names), comments="")
