"""Without a cache folder that can be used, the packages below keep theirs in a temporary one."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import platformdirs
import pytest

from fmmloopy.common import surroundings
from fmmloopy.common.store import ENVIRONMENT_VARIABLE, cache_folder, user_folder
from fmmloopy.common.surroundings import CACHE_VARIABLE, prepare, temporary_folder
from fmmloopy.common.trust import CacheWarning

PROGRAM = """
import os, warnings
with warnings.catch_warnings(record=True) as record:
    warnings.simplefilter("always")
    import fmmloopy, loopy
    from fmmloopy.execution.generate import compile_operator
    from fmmloopy.execution.key import CodeKey
    from fmmloopy.operators import OPERATORS, Specification
    from fmmloopy.precision import find_types
    from fmmloopy.recipes import SEQUENTIAL
    from fmmloopy.execution.devices import C_DEVICE
    spec = Specification(OPERATORS["p2p"], fmmloopy.laplace(), 3, find_types("float64"))
    assert "for" in compile_operator(CodeKey(spec, SEQUENTIAL, C_DEVICE)).source
for warning in record:
    if warning.category.__name__ == "CacheWarning":
        print("WARNING", warning.message)
print("FOLDER", os.environ.get("XDG_CACHE_HOME"))
"""


def run(cache: Path) -> tuple[list[str], str]:
    """Generate code in a process with this user's cache folder; return warnings, and the folder that it used."""
    environment = {name: value for name, value in os.environ.items() if name != ENVIRONMENT_VARIABLE}
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**environment, CACHE_VARIABLE: str(cache)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return re.findall("WARNING (.*)", result.stdout), re.findall("FOLDER (.*)", result.stdout)[0]


def test_a_folder_that_works_is_left_alone(tmp_path):
    assert run(tmp_path) == ([], str(tmp_path))
    assert run(tmp_path) == ([], str(tmp_path))
    assert list((tmp_path / "fmmloopy" / "code").glob("p2p-*.json"))


@pytest.mark.skipif(sys.platform != "linux", reason="no folder there that the administrator cannot write to either")
def test_a_folder_that_cannot_be_written(tmp_path):
    warnings, used = run(Path("/proc/nothing"))
    assert len(warnings) == 1
    assert "/proc/nothing cannot be used" in warnings[0]
    assert "to use another folder: export XDG_CACHE_HOME=" in warnings[0]
    assert used != "/proc/nothing"
    assert not Path(used).exists()  # it is removed at the end


@pytest.mark.parametrize("content", [b"", b"nothing of a database " * 100], ids=["empty", "garbage"])
def test_damaged_databases(tmp_path, content):
    run(tmp_path)
    databases = sorted((tmp_path / "pytools").glob("*.sqlite"))
    assert databases
    for database in databases:
        database.write_bytes(content)
    warnings, used = run(tmp_path)
    if not content:  # an empty file is a database without entries
        assert (warnings, used) == ([], str(tmp_path))
        return
    assert len(warnings) == 1
    assert f"{databases[0]} is damaged" in warnings[0]
    assert used != str(tmp_path)
    assert os.system(warnings[0].rpartition(": ")[2]) == 0  # the command that the warning names
    assert run(tmp_path) == ([], str(tmp_path))


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="this system has no owners of files")
def test_databases_that_others_can_write(tmp_path):
    run(tmp_path)
    (tmp_path / "pytools").chmod(0o777)
    warnings, used = run(tmp_path)
    assert len(warnings) == 1
    assert "pytools can be written by others (mode 777)" in warnings[0]
    assert used != str(tmp_path)


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """A process that has not prepared yet."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, os.environ.get(ENVIRONMENT_VARIABLE, ""))
    for function in (prepare, temporary_folder, surroundings.warn_once):
        function.cache_clear()
    yield tmp_path
    for function in (prepare, temporary_folder):
        function.cache_clear()


def test_a_full_disk(fresh, monkeypatch):
    real = surroundings._try_to_write

    def full(folder):
        if folder.is_relative_to(fresh):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(folder)

    monkeypatch.setattr(surroundings, "_try_to_write", full)
    with pytest.warns(CacheWarning, match="cannot be used \\(No space left on device\\)"):
        assert prepare()
    assert os.environ[CACHE_VARIABLE] == str(temporary_folder())


def test_little_room(fresh, monkeypatch):
    usage = surroundings.shutil.disk_usage(fresh)
    monkeypatch.setattr(
        surroundings.shutil,
        "disk_usage",
        lambda folder: usage._replace(free=2**20) if Path(folder).is_relative_to(fresh) else usage,
    )
    with pytest.warns(CacheWarning, match=r"cannot be used \(less than 32 MiB are free\)"):
        assert prepare()
    monkeypatch.setattr(surroundings.shutil, "disk_usage", lambda folder: usage._replace(free=0))
    monkeypatch.setattr(
        surroundings, "pocl_folder", lambda: fresh / "pocl" / "kcache"
    )  # its disk counts before it is made
    assert surroundings.full_disk() == (
        f"the disk of {fresh} is full; make room there, or export POCL_CACHE_DIR=FOLDER on another disk"
    )


def test_what_is_generated_stays_where_it_is_if_only_the_databases_are_damaged(fresh, monkeypatch):
    monkeypatch.delenv(ENVIRONMENT_VARIABLE)
    (fresh / "fmmloopy").mkdir()
    (fresh / "pytools").mkdir()
    version = ".".join(map(str, sys.version_info))
    (fresh / "pytools" / f"pdict-v5-made-up-{version}.sqlite").write_text("garbage " * 100)
    with pytest.warns(CacheWarning, match="is damaged"):
        prepare()
    assert cache_folder() == fresh / "fmmloopy"


FULL = """
import sqlite3, sys
import numpy as np
import fmmloopy as fl
import loopy as lp
from pytools.persistent_dict import WriteOncePersistentDict

run = WriteOncePersistentDict._exec_sql_fn

def full(self, function):
    if self.filename.startswith(sys.argv[1]):
        raise sqlite3.OperationalError("database or disk is full")
    return run(self, function)

WriteOncePersistentDict._exec_sql_fn = full
points = np.random.default_rng(0).random((500, 3))
own = fl.GreensFunction("own", "exp(-2*r)/r")  # its code does not come with the package
assert np.isfinite(fl.Fmm(points, kernel=own, order=3, ncrit=40).evaluate(points[:, 0])).all()
assert not lp.CACHING_ENABLED
"""


def test_a_disk_that_is_full_from_a_moment_on(tmp_path):
    """Loopy is imported, and other databases are opened when code is generated."""
    environment = {**os.environ, CACHE_VARIABLE: str(tmp_path), ENVIRONMENT_VARIABLE: str(tmp_path / "own")}
    command = [sys.executable, "-c", FULL, str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stderr


def test_no_place_for_temporary_files(fresh, monkeypatch):
    def fail(*arguments, **keywords):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(surroundings.tempfile, "mkstemp", fail)
    with pytest.warns(CacheWarning, match="no folder for temporary files can be written; set TMPDIR"):
        assert prepare()


def test_no_home(monkeypatch):
    def fail():
        raise RuntimeError("could not determine the home directory")

    monkeypatch.setattr(platformdirs, "user_cache_dir", fail)
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    with pytest.raises(FileNotFoundError, match="the user has no home folder, and XDG_CACHE_HOME is not set"):
        user_folder("cache")
    monkeypatch.setattr(platformdirs, "user_config_dir", lambda: "~/.config")  # as older releases have it
    with pytest.raises(FileNotFoundError, match="XDG_CONFIG_HOME is not set"):
        user_folder("config")
