"""Bundles: a process that has one generates, compiles and measures nothing; other files get a clear line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from conftest import devices, error

import fmmloopy as fl
from fmmloopy.common import store
from fmmloopy.common.bundle import ABOUT, open_bundle, write_bundle
from fmmloopy.execution.devices import choose_device
from fmmloopy.recipes import load_recipes

PROGRAM = """
import sys, warnings
import numpy as np
import fmmloopy as fl

warnings.simplefilter("error")
points = np.random.default_rng(0).random((3000, 3))
charges = np.random.default_rng(1).standard_normal(3000)
fmm = fl.Fmm(points, digits=3, device=sys.argv[1], bundle=sys.argv[2])
found = fmm.evaluate(charges, gradient=True)[0]
assert not {"loopy", "islpy", "scipy"} & set(sys.modules)
expected = fl.direct(points, charges)
print(np.linalg.norm(found - expected) / np.linalg.norm(expected))
"""


@pytest.fixture(scope="module", params=[devices()[0], devices()[-1]])
def bundle(request, tmp_path_factory):
    """A bundle for 3 digits, and its device."""
    path = tmp_path_factory.mktemp("bundle") / "laplace.fmm"
    points = np.random.default_rng(0).random((3000, 3))
    made = fl.make_bundle(path, digits=[3], device=request.param.description, points=points)
    assert made.cases == ("laplace, 3 digits, with gradients",)
    assert made.size == path.stat().st_size
    return path, request.param


@pytest.fixture(autouse=True)
def no_other_bundles(monkeypatch):
    """No bundle that another test has opened, and none for others."""
    monkeypatch.setattr(store, "archives", [])


@pytest.fixture
def only_bundles(monkeypatch, tmp_path):
    """Caches that have nothing."""
    monkeypatch.setenv(store.ENVIRONMENT_VARIABLE, str(tmp_path / "cache"))


def changed(path, to, change):
    """Copy a bundle with other contents."""
    with zipfile.ZipFile(path) as file:
        contents = {name: file.read(name) for name in file.namelist()}
    about = json.loads(contents.pop(ABOUT))
    change(about, contents)
    write_bundle(to, contents, about)
    return to


def test_a_process_with_a_bundle_generates_nothing(bundle, tmp_path):
    path, device = bundle
    folders = {name: tmp_path / name for name in ("own", "pocl", "others")}
    folders["pocl"].mkdir()
    caches = [store.ENVIRONMENT_VARIABLE, "POCL_CACHE_DIR", "XDG_CACHE_HOME"]
    environment = os.environ | dict(zip(caches, map(str, folders.values()), strict=True))
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, device.description, str(path)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert float(run.stdout) < 1e-3
    written = {entry.name for entry in folders["own"].glob("*")}
    assert written <= {"c", "icd"}, "something was made again"


def test_a_bundle_for_something_else_is_told_of(bundle, only_bundles, tmp_path, rng):
    """And the potentials are right, from code that is generated."""
    path, device = bundle
    points, charges = rng.random((500, 3)), rng.standard_normal(500)

    def other_device(about, contents):
        about["device"] = "another device"

    another = changed(path, tmp_path / "another.fmm", other_device)
    with pytest.warns(
        UserWarning, match=r"^bundle another.fmm does not help here: it is for device another device, not"
    ):
        fmm = fl.Fmm(points, digits=3, device=device.description, bundle=another)
    assert error(fmm.evaluate(charges), fl.direct(points, charges)) < 1e-3
    with pytest.warns(UserWarning, match="does not help here: it is for order 4 in reduced precision, not order 3 in"):
        fl.Fmm(points, digits=2, device=device.description, bundle=path)
    tuning = load_recipes(None, device).tuning.get("p2p", {})
    if tuning:
        given = {"p2p": {name: values[0] for name, values in tuning.items()}}
        with pytest.warns(UserWarning, match="for recipes with their own parameters, not with those that"):
            fl.Fmm(points, digits=3, device=device.description, bundle=path, parameters=given)
    with pytest.warns(UserWarning, match="it is for kernel laplace, not yukawa; code is generated"):
        fl.Fmm(points, kernel=fl.yukawa(1), order=3, device=device.description, bundle=path)


def test_what_is_damaged_in_a_bundle_is_made_again(bundle, only_bundles, tmp_path, rng):
    path, device = bundle

    def damage(about, contents):
        for name in contents:
            contents[name] = contents[name][:-20]

    points, charges = rng.random((500, 3)), rng.standard_normal(500)
    fmm = fl.Fmm(points, digits=3, device=device.description, bundle=changed(path, tmp_path / "new.fmm", damage))
    assert error(fmm.evaluate(charges), fl.direct(points, charges)) < 1e-3
    content = bytearray(path.read_bytes())
    content[1000 : len(content) // 2 : 500] = b"!" * len(content[1000 : len(content) // 2 : 500])
    (tmp_path / "damaged.fmm").write_bytes(content)
    damaged = open_bundle(tmp_path / "damaged.fmm")
    assert None in {damaged.read(name) for name in damaged.names}
    assert damaged.read("no such file") is None


def test_a_bundle_that_is_deleted_is_forgotten(only_bundles, tmp_path):
    write_bundle(tmp_path / "one.fmm", {"code/a.json": b"1"}, {})
    one = open_bundle(tmp_path / "one.fmm")
    assert store.read_cached(store.cache_folder() / "code" / "a.json") == b"1"
    assert open_bundle(tmp_path / "one.fmm") == one
    assert len(store.archives) == 1
    (tmp_path / "one.fmm").unlink()
    with pytest.raises(FileNotFoundError):
        store.read_cached(store.cache_folder() / "code" / "a.json")


def not_there(path):
    pass


def empty(path):
    path.write_bytes(b"")


def another_archive(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme", "nothing")


def no_object(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(ABOUT, "[1]")


def later(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(ABOUT, '{"format": 99}')


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (not_there, "expected a file of `fmmloopy bundle`: .*No such file"),
        (empty, "expected a file of `fmmloopy bundle`: File is not a zip file"),
        (another_archive, "expected a file of `fmmloopy bundle`: .*no item named"),
        (no_object, "expected a file of `fmmloopy bundle`: "),
        (later, "has format 99, expected 1; make it again$"),
    ],
)
def test_files_that_are_no_bundles(make, message, tmp_path, rng):
    make(tmp_path / "some.fmm")
    with pytest.raises(ValueError, match=message) as caught:
        fl.Fmm(rng.random((10, 3)), bundle=tmp_path / "some.fmm")
    assert "\n" not in str(caught.value)


def test_arguments_that_cannot_be_used(tmp_path, rng):
    with pytest.raises(ValueError, match="^bundle is 5, expected the path of a file of"):
        fl.Fmm(rng.random((10, 3)), bundle=5)
    with pytest.raises(ValueError, match="^digits is empty, expected digits such as"):
        fl.make_bundle(tmp_path / "some.fmm", digits=[])
    with pytest.raises(OSError, match="some.fmm' cannot be written: .*none is no folder that you can write$"):
        fl.make_bundle(tmp_path / "none" / "some.fmm")
    with pytest.raises(OSError, match="cannot be written: it is a folder$"):
        fl.make_bundle(tmp_path)
    with pytest.raises(ValueError, match="^digits is 99, expected a number from 1 to"):
        fl.make_bundle(tmp_path / "some.fmm", digits=[99.0])
    assert list(tmp_path.iterdir()) == []


def test_recordings_have_what_is_read_and_written(only_bundles):
    path = store.keyed_file("code", "key")
    with store.recording() as first:
        store.keep(path, "key", [1, 2])
        store.at_end_of_recording(lambda: store.keep_program("c", "name", "key", ".so", b"machine code"))
    with store.recording() as second:
        assert store.kept(path, "key") == [1, 2]
        assert store.kept_program("c", "name", "key", ".so")[1] == b"machine code"
    assert first.files == second.files
    assert sorted(name.partition("/")[0] for name in first.files) == ["c", "code"]
    assert not store.is_recording()


def test_the_description_of_a_bundle(bundle):
    path, device = bundle
    about = open_bundle(path).about
    assert (about["device"], about["kernel"], about["methods"]) == (
        device.description,
        "laplace",
        ["order 4 in reduced precision"],
    )
    assert choose_device(about["device"]) == device
    assert path.stat().st_mode & 0o777 == 0o644
