"""The translation tables' cache on disk: every bit, bad files, processes at once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import STOKES, helmholtz

from fmmloopy.common.store import cache_folder
from fmmloopy.greens import GreensFunction, laplace, yukawa
from fmmloopy.tables import cache as table_cache
from fmmloopy.tables import surfaces
from fmmloopy.tables.cache import cached_tables
from fmmloopy.tables.surfaces import Tables, build_tables

RADII = (1.25, 0.625)


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list:
    """Count builds: one entry for each call of build_tables by the cache."""
    calls: list = []

    def counted(*arguments: object) -> Tables:
        calls.append(arguments)
        return surfaces.build_tables(*arguments)

    monkeypatch.setattr(table_cache, "build_tables", counted)
    return calls


def only_file(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def assert_same(one: Tables, other: Tables) -> None:
    for name, value in vars(one).items():
        np.testing.assert_array_equal(value, getattr(other, name), err_msg=name)
        assert type(value) is type(getattr(other, name))


@pytest.mark.parametrize("greens", [laplace(), yukawa(), STOKES, helmholtz(1.0)], ids=lambda greens: greens.name)
def test_cache_reads_back_every_bit(greens: GreensFunction, tmp_path: Path, builds: list) -> None:
    built = cached_tables(greens, 3, RADII, folder=tmp_path)
    read = cached_tables(greens, 3, RADII, folder=tmp_path)
    assert len(builds) == 1
    assert_same(built, read)
    assert not any(value.flags.writeable for value in vars(read).values() if isinstance(value, np.ndarray))


def test_cache_tells_requests_apart(tmp_path: Path, builds: list) -> None:
    requests = [
        (laplace(), 3, RADII),
        (laplace(), 2, RADII),
        (laplace(), 3, RADII, np.float32),
        (laplace(), 3, RADII, np.float64, 1.1),
        (laplace(), 3, RADII, np.float64, 1.05, 2.9),
        (yukawa(1.0), 3, RADII),
        (yukawa(np.nextafter(1, 2)), 3, RADII),
        (yukawa(1.0), 3, RADII[:1]),
        (yukawa(1.0), 3, np.nextafter(RADII, 9)),
    ]
    for count, request in enumerate(requests, 1):
        cached_tables(*request, folder=tmp_path)
        assert len(builds) == len(list(tmp_path.iterdir())) == count
    # The radius of the tree does not matter to a homogeneous function.
    cached_tables(laplace(), 3, [7.0], folder=tmp_path)
    assert len(builds) == len(requests)


def test_cache_depends_on_its_format(tmp_path: Path, builds: list, monkeypatch: pytest.MonkeyPatch) -> None:
    cached_tables(laplace(), 2, RADII, folder=tmp_path)
    monkeypatch.setattr(table_cache, "TABLE_FORMAT", table_cache.TABLE_FORMAT + 1)
    cached_tables(laplace(), 2, RADII, folder=tmp_path)
    assert len(builds) == 2


def sign(path: Path) -> None:
    """Give a file that a test has changed the signature of a whole one."""
    content = path.read_bytes()[table_cache.USER_BLOCK :]
    path.write_bytes(table_cache._signature(content).ljust(table_cache.USER_BLOCK, b"\0") + content)


def flip_a_number(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["m2m"][0, 3, 2, 1] += 1e-9


def other_key(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs["key"] = file.attrs["key"].replace("laplace", "laplade")
    sign(path)


def other_table(path: Path) -> None:
    cached_tables(yukawa(), 2, RADII, folder=path.parent / "other")
    os.replace(only_file(path.parent / "other"), path)
    (path.parent / "other").rmdir()


def other_shape(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["l2l"]
        file.create_dataset("l2l", shape=(10**6, 10**6), dtype="<f8", chunks=(64, 64))
    sign(path)


def other_dtype(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        values = file["l2l"][...].astype(np.float32)
        del file["l2l"]
        file["l2l"] = values
    sign(path)


def no_key(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file.attrs["key"]
    sign(path)


def no_array(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["upward_first"]
    sign(path)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def truncate_and_sign(path: Path) -> None:
    truncate(path)
    sign(path)


def foreign(path: Path) -> None:
    path.write_text("not HDF5")


def foreign_and_signed(path: Path) -> None:
    path.write_bytes(b"not HDF5" * 1000)
    sign(path)


def foreign_hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["something"] = 1


def empty(path: Path) -> None:
    path.write_bytes(b"")


SPOILERS = [
    flip_a_number,
    other_key,
    other_table,
    other_shape,
    other_dtype,
    no_key,
    no_array,
    truncate,
    truncate_and_sign,
    foreign,
    foreign_and_signed,
    foreign_hdf5,
    empty,
    Path.unlink,
]


@pytest.mark.parametrize("spoil", SPOILERS, ids=lambda spoil: spoil.__name__)
def test_spoilt_file_is_rebuilt_and_replaced(spoil: Callable[[Path], None], tmp_path: Path, builds: list) -> None:
    good = cached_tables(laplace(), 2, RADII, folder=tmp_path)
    spoil(only_file(tmp_path))
    builds.clear()
    for _ in range(2):
        assert_same(cached_tables(laplace(), 2, RADII, folder=tmp_path), good)
    assert len(builds) == 1, "rebuilt once, then read"


def test_every_flipped_byte_is_noticed(tmp_path: Path, builds: list) -> None:
    good = cached_tables(laplace(), 2, RADII, folder=tmp_path)
    path = only_file(tmp_path)
    content = path.read_bytes()
    # The signature and HDF5's structures are at the beginning; a wrong byte in these can make HDF5 loop without end.
    positions = [*range(0, 3000, 29), len(content) - 1]
    for position in positions:
        spoilt = bytearray(content)
        spoilt[position] ^= 0x55
        path.write_bytes(spoilt)
        assert_same(cached_tables(laplace(), 2, RADII, folder=tmp_path), good)
    assert len(builds) == 1 + len(positions)


def test_a_folder_in_the_files_place_is_no_obstacle(tmp_path: Path) -> None:
    good = cached_tables(laplace(), 2, RADII, folder=tmp_path)
    path = only_file(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.warns(UserWarning, match="tables cannot be stored in"):
        assert_same(cached_tables(laplace(), 2, RADII, folder=tmp_path), good)


def test_unwritable_folder_means_no_caching(tmp_path: Path, builds: list) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(UserWarning, match="built again each time; set FMMLOOPY_CACHE_DIR") as record:
        tables = cached_tables(laplace(), 2, RADII, folder=tmp_path / "file" / "folder")
    assert len(record) == 1
    assert_same(tables, build_tables(laplace(), 2, RADII))


@pytest.mark.parametrize("step", ["replace", "write"])
def test_an_interrupted_write_leaves_nothing(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        assert not list(tmp_path.glob("*.h5")), "nothing under the final name before it is complete"
        raise OSError("No space left on device")

    if step == "replace":
        monkeypatch.setattr(os, "replace", fail)
    else:
        monkeypatch.setattr(h5py.Group, "create_dataset", fail)
    with pytest.warns(UserWarning, match="No space left on device"):
        tables = cached_tables(laplace(), 2, RADII, folder=tmp_path)
    assert not list(tmp_path.iterdir())
    assert_same(tables, build_tables(laplace(), 2, RADII))


def test_processes_at_once_agree(tmp_path: Path) -> None:
    code = (
        "import sys, hashlib; from fmmloopy.greens import yukawa; from fmmloopy.tables.cache import cached_tables\n"
        "for _ in range(10):\n"
        "    t = cached_tables(yukawa(), 3, [1.0, 0.5], folder=sys.argv[1])\n"
        "    if _ % 3 == 2: next(__import__('pathlib').Path(sys.argv[1]).glob('*.h5')).write_bytes(b'spoilt')\n"
        "print(hashlib.sha256(t.m2m.tobytes() + t.l2l.tobytes()).hexdigest())\n"
    )
    command = [sys.executable, "-W", "error", "-c", code, str(tmp_path)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = {process.communicate(timeout=100)[0] for process in running}
    assert [process.returncode for process in running] == [0, 0, 0]
    assert len(outputs) == 1
    assert only_file(tmp_path).suffix == ".h5"


def test_cache_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FMMLOOPY_CACHE_DIR", str(tmp_path / "new" / "folder"))
    assert cache_folder() == tmp_path / "new" / "folder"
    cached_tables(laplace(), 2, RADII)
    assert only_file(tmp_path / "new" / "folder").suffix == ".h5"
    monkeypatch.setenv("FMMLOOPY_CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    assert cache_folder().name == "fmmloopy"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((laplace(), 1, RADII), "order is 1"),
        ((laplace(), 4, []), "radii is"),
        ((laplace(), 4, RADII, np.int8), "dtype is int8"),
        ((laplace(), 4, RADII, np.float64, 0.5), "inner is 0.5"),
    ],
)
def test_cache_refuses_what_the_tables_refuse(arguments: tuple, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        cached_tables(*arguments, folder=tmp_path)


PROGRAM_ON_A_FULL_DISK = """
import resource, sys, warnings
from fmmloopy.greens import laplace
from fmmloopy.tables.cache import cached_tables
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
with warnings.catch_warnings(record=True) as record:
    warnings.simplefilter("always")
    tables = cached_tables(laplace(), 4, [1.0, 0.5, 0.25], folder=sys.argv[1])
print(len(record), "cannot be stored" in str(record[0].message), tables.m2m.shape)
"""


def test_a_disk_that_is_full_in_the_middle_of_a_file(tmp_path: Path) -> None:
    """HDF5 writes what it can and crashes at the end of the process, if it has the file."""
    pytest.importorskip("resource")
    command = [sys.executable, "-c", PROGRAM_ON_A_FULL_DISK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "1 True (1, 8, 56, 56)\n"), done.stderr
    assert not list(tmp_path.iterdir())
