"""Points and charges from files, and potentials into files: NumPy, CSV, HDF5, and what ParaView opens.

What a file is follows from its suffix. Arrays have names: ``points`` (or ``sources``), ``targets``, and charges under
any name, ``charges`` by default. In CSV files, coordinates are columns x, y, z, or the first three if there is no
header. Arrays that a file has as they are in memory are mapped into it.
"""

from __future__ import annotations

import csv
import os
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
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
class Share:
    """One of several nearly equal shares of the rows of an array; with more shares than rows, some are empty."""

    number: int = 0
    of: int = 1

    def __call__(self, array: Any) -> Array:
        """Return the rows of this share; of an array in a file, only these are read."""
        count = len(array)
        rows: Array = array[count * self.number // self.of : count * (self.number + 1) // self.of]
        return rows


WHOLE = Share()


@dataclass(frozen=True)
class Problem:
    """What a file has.

    Attributes:
        sources: shape (n, 3).
        charges: shape (n,) or (n, components).
        targets: shape (m, 3); None if there are none.
        nsources, ntargets: numbers of sources and targets in the whole file; without targets, they are the sources.
    """

    sources: Array
    charges: Array
    targets: Array | None
    nsources: int
    ntargets: int


def read_problem(path: str | Path, charges: str = CHARGES, share: Share = WHOLE) -> Problem:
    """Read points and charges.

    Arrays of .npy files, uncompressed ones of .npz files, and contiguous ones of HDF5 files are mapped into memory, so
    that only what is used is read, without the checksums of .npz files. Of .npz and HDF5 files, no other arrays are
    read.

    Args:
        path: a file with a suffix of `SUFFIXES`. A .npy file has four or more columns, coordinates first.
        charges: name of the array with charges; in CSV files, of the column, or the beginning of the names of several.
        share: the share of the rows to return.

    Raises:
        ValueError: the suffix is unknown, the file is not what its suffix says, or it has no points or charges.
        OSError: the file cannot be read.
        MissingPackageError: meshio is not installed.
    """
    path = Path(path)
    suffix = check_suffix(path, SUFFIXES)
    if not path.exists():
        raise FileNotFoundError(f"no file {path}")
    if suffix == ".csv":
        return _from_table(path, *_read_csv(path), charges, share)
    if suffix == ".npy":
        with _readable(path):
            table = np.load(path, mmap_mode="r")
        return _from_table(path, [], table, charges, share)
    if suffix in HDF5:
        opened = _hdf5(path)
    elif suffix == ".npz":
        opened = _npz(path)
    else:
        opened = _mesh(path)
    with opened as (names, array_of):
        name = next((name for name in SOURCES if name in names), None)
        if name is None:
            raise ValueError(f"{path} has {_listed(names)}, expected an array named {' or '.join(SOURCES)}")
        if charges not in names:
            raise ValueError(f"{path} has {_listed(names)}, but no array named {charges!r} for the charges")
        with _readable(path):
            wanted = [each for each in (name, charges, TARGETS[0]) if each in names]
            arrays = [array_of(each) for each in wanted]
            for array, each in zip(arrays, wanted, strict=True):
                if not array.shape:
                    raise ValueError(f"{each!r} is a single number")
            sources, weights, *others = map(share, arrays)
            nsources, ntargets = len(arrays[0]), len(arrays[-1 if others else 0])
            return Problem(sources, weights, others[0] if others else None, nsources, ntargets)


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
    write = {".npz": _write_npz, ".csv": _write_csv, **dict.fromkeys(HDF5, _write_hdf5)}.get(
        check_suffix(path, WRITTEN), _write_mesh
    )
    path = path.resolve()  # a link stays one
    # The points may be mapped from the very file that is replaced, which must not change before it is.
    beside = path.with_name(f".{path.stem[:100]}-{os.getpid()}{path.suffix}")
    try:
        write(beside, points, results)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def check_output(path: str | Path) -> None:
    """Make sure, before anything is computed, that a file can be written.

    Raises:
        ValueError: its suffix is unknown.
        OSError: there is no such folder, or it cannot be written to.
        MissingPackageError: meshio is not installed.
    """
    path = Path(path)
    if check_suffix(path, WRITTEN) in MESHES:
        require("meshio", "files", f"{path.suffix} files")
    folder = path.resolve().parent
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder} to write {path.name} to")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{path.name} cannot be written to folder {folder}: permission denied")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, expected the name of a file")


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


NOT_SO = (ValueError, KeyError, EOFError, NotImplementedError, RuntimeError)
"""What numpy, zipfile and h5py raise for files that they cannot read."""

Opened = tuple[Iterable[str], Callable[[str], Any]]
"""The names of the arrays of a file, and a function that returns one of them: it has a shape, and slices are arrays."""


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Take any error but a system's as a sign that the file is not what its suffix says."""
    try:
        yield
    except (*NOT_SO, zipfile.BadZipFile, zlib.error, struct.error) as error:
        raise ValueError(f"{path} is no {path.suffix} file with arrays: {error}") from None
    except OSError as error:
        if error.errno is not None:
            raise
        raise ValueError(f"{path} is no {path.suffix} file: {error}") from None  # h5py says so with an OSError


@contextmanager
def _npz(path: Path) -> Iterator[Opened]:
    with _readable(path):
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("it has a single array, as .npy files have")
    with file, zipfile.ZipFile(path) as members:

        def array_of(name: str) -> Array:
            mapped = _map_member(path, members.getinfo(f"{name}.npy"))
            found: Array = file[name] if mapped is None else mapped
            return found

        yield file.files, array_of


def _map_member(path: Path, member: zipfile.ZipInfo) -> Array | None:
    """Map an array of a .npz file, that is, a .npy file in a zip file; None if it must be read."""
    if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:  # compressed or encrypted
        return None
    with path.open("rb") as file:
        file.seek(member.header_offset + 26)  # the lengths of the name and of what follows it end a header of 30 bytes
        file.seek(sum(struct.unpack("<HH", file.read(4))), os.SEEK_CUR)
        version = np.lib.format.read_magic(file)
        if version > (2, 0):
            return None
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, in_columns, dtype = read_header(file)
        return _map(path, dtype, file.tell(), shape, "F" if in_columns else "C")


@contextmanager
def _hdf5(path: Path) -> Iterator[Opened]:
    import h5py

    with _readable(path):
        file = h5py.File(path, "r")
    with file:
        with _readable(path):
            names = [name for name, item in file.items() if isinstance(item, h5py.Dataset) and item.shape]

        def array_of(name: str) -> Any:
            data = file[name]
            place = data.id.get_offset()  # None, or with anything else but one piece, chunks
            is_plain = data.id.get_type() == h5py.h5t.py_create(data.dtype, logical=True)
            if place is None or data.external or not is_plain:
                return data
            mapped = _map(path, data.dtype, place, data.shape)
            return data if mapped is None else mapped

        yield names, array_of


def _map(path: Path, dtype: np.dtype[Any], place: int, shape: tuple[int, ...], order: Any = "C") -> Array | None:
    """Map a part of a file; None if there is nothing to map."""
    return np.memmap(path, dtype, "r", place, shape, order) if dtype.kind in "biufc" and 0 not in shape else None


@contextmanager
def _mesh(path: Path) -> Iterator[Opened]:
    require("meshio", "files", f"{path.suffix} files")
    import meshio

    try:
        mesh = meshio.read(path)
    except (Exception, SystemExit) as error:  # meshio's readers raise whatever they meet
        raise ValueError(f"{path} is no {path.suffix} file that meshio reads: {error}") from None
    points = mesh.points
    if points.shape[1] == 2:
        points = np.column_stack([points, np.zeros(len(points))])
    arrays = {SOURCES[0]: points, **mesh.point_data}
    yield arrays, arrays.__getitem__


def _read_csv(path: Path) -> tuple[list[str], Array]:
    """Return the names of the columns, none if there is no header, and the numbers."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            first = next(csv.reader(file), [])
            # numpy.savetxt begins a header with #.
            header = [] if all(map(_is_number, first)) else [name.strip(" #") for name in first]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "loadtxt: input contained no data", UserWarning)
            values = np.loadtxt(path, delimiter=",", skiprows=1 if header else 0, ndmin=2, encoding="utf-8-sig")
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path} is no table of numbers with commas between them: {error}") from None
    if not values.size:
        return header, np.empty((0, len(header)))
    if header and len(header) != values.shape[1]:
        raise ValueError(f"{path} has {len(header)} names of columns and {values.shape[1]} columns, expected as many")
    return header, values


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _from_table(path: Path, header: list[str], values: Array, charges: str, share: Share) -> Problem:
    """Split the columns of a table into coordinates and charges."""
    if not header:
        if values.ndim != 2 or values.shape[1] < 4:
            raise ValueError(
                f"{path} has an array of shape {values.shape}, expected four or more columns: x, y, z, charge"
            )
        mine = share(values)
        found = mine[:, 3] if values.shape[1] == 4 else mine[:, 3:]
        return Problem(mine[:, :3], found, None, len(values), len(values))
    places = {name.lower(): place for place, name in enumerate(header)}
    if not {"x", "y", "z"} <= set(places):
        raise ValueError(f"{path} has columns {', '.join(header)}, expected x, y, z and charges")
    wanted = [place for place, name in enumerate(header) if name.startswith(charges.removesuffix("s"))]
    if not wanted:
        raise ValueError(f"{path} has columns {', '.join(header)}, but none whose name begins with {charges!r}")
    mine = share(values)
    found = mine[:, wanted[0]] if len(wanted) == 1 else mine[:, wanted]
    return Problem(mine[:, [places[axis] for axis in "xyz"]], found, None, len(values), len(values))


def _listed(names: Iterable[str]) -> str:
    listed = ", ".join(map(repr, names))
    return f"arrays {listed}" if listed else "no arrays"


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


def _write_npz(path: Path, points: Array, results: Mapping[str, Array]) -> None:
    arrays: dict[str, Any] = {SOURCES[0]: points, **results}
    with path.open("wb") as file:  # savez would add a suffix to .NPZ
        np.savez(file, **arrays)


def _write_hdf5(path: Path, points: Array, results: Mapping[str, Array]) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        for name, values in {SOURCES[0]: points, **results}.items():
            file[name] = values


def _write_mesh(path: Path, points: Array, results: Mapping[str, Array]) -> None:
    require("meshio", "files", f"{path.suffix} files")
    import meshio

    cells = [("vertex", np.arange(len(points))[:, None])]
    meshio.Mesh(np.asarray(points, np.float64), cells, point_data=_flat(results)).write(path)


def _write_csv(path: Path, points: Array, results: Mapping[str, Array]) -> None:
    names, columns = ["x", "y", "z"], [points]
    for name, values in _flat(results).items():
        count = 1 if values.ndim == 1 else values.shape[1]
        names += [name] if values.ndim == 1 else [f"{name}_{number}" for number in range(count)]
        columns.append(values.reshape(len(values), count))
    np.savetxt(path, np.column_stack(columns), "%.17g", ",", header=",".join(names), comments="")
