"""Code that comes with the package: the same as what is generated, for these sources only, and used where it fits."""

from __future__ import annotations

import json
import lzma
import re
from dataclasses import replace

import pytest
from conftest import OPENCL, cube, error, needs_opencl

import fmmloopy as fl
from fmmloopy.components import CHARGES, GRADIENT
from fmmloopy.execution import generate as generate_module
from fmmloopy.execution import key as key_module
from fmmloopy.execution import shipped_code
from fmmloopy.execution.generate import content_of, generate, kept_code
from fmmloopy.execution.setup import Method, Setup
from fmmloopy.execution.shipped_code import SHIPPED_FILE, shipped_content, write_shipped
from fmmloopy.precision import DOUBLE, MIXED_PRECISION
from fmmloopy.recipes import load_recipes

by_device = pytest.mark.parametrize("device", OPENCL, ids=lambda device: device.name)


@pytest.fixture
def fresh(monkeypatch):
    """Read the file anew, here and afterwards."""
    shipped_code._read.cache_clear()
    yield monkeypatch
    shipped_code._read.cache_clear()


def keys(device, kernel=None, order=7, precision=MIXED_PRECISION):
    setup = Setup(Method(kernel or fl.laplace(), order, precision), load_recipes(None, device), device)
    return {name: setup.code_key(name, GRADIENT) for name in ("l2p", "p2m", "m2m", "m2l_forward", "p2p_mutual")}


def words_of(source):
    """Return the words of each line; the terms of a sum have another order in another process."""
    return [sorted(re.findall(r"\w+|[^\w\s]", line)) for line in source.splitlines()]


def test_it_is_for_these_sources():
    document = json.loads(lzma.decompress(SHIPPED_FILE.read_bytes()))
    assert document["sources"] == key_module.sources_hash(), "run `python .ci/certify refresh`"
    assert len(document["code"]) > 500


@needs_opencl
@by_device
@pytest.mark.parametrize("kernel", [fl.laplace(), fl.yukawa(3.0)], ids=lambda kernel: kernel.name)
def test_it_is_what_is_generated(device, kernel):
    for name, key in keys(device, kernel).items():
        if name in ("p2m", "m2l_forward"):
            made, ships = json.loads(json.dumps(content_of(generate(key)))), dict(shipped_content(key))
            assert words_of(made.pop("source")) == words_of(ships.pop("source")), name
            assert made == ships, name


@needs_opencl
def test_it_is_for_values_of_parameters_and_for_functions_that_ship():
    for kernel in (fl.yukawa(0.3), fl.stokeslet(2.0), fl.stresslet(), fl.helmholtz(2.0), fl.gaussian(3.0)):
        found = keys(OPENCL[0], kernel, 9, DOUBLE)
        assert all(shipped_content(key) is not None for key in found.values()), kernel.name


@needs_opencl
def test_a_whole_evaluation_generates_nothing(fresh, tmp_path, rng):
    fresh.setenv("FMMLOOPY_CACHE_DIR", str(tmp_path))
    fresh.setattr(generate_module, "generate", None)
    points, charges = cube(rng, 3000), rng.uniform(-1, 1, 3000)
    fmm = fl.Fmm(points, device=OPENCL[0], digits=6, ncrit=60)
    potentials, _ = fmm.evaluate(charges, gradient=True)
    assert error(potentials[:100], fl.direct(points, charges, points[:100])) <= 1e-6
    again = [kept_code(key) for key in keys(OPENCL[0]).values()]
    assert all(code is not None and code.generated_here for code in again)


@needs_opencl
def test_other_books_and_parts_of_recipes_have_none():
    key = keys(OPENCL[0])["p2m"]
    own = replace(key.book)
    assert shipped_content(key) is not None
    assert shipped_content(replace(key, book=own)) is None
    assert shipped_content(replace(key, most_steps=1)) is None
    plain = Setup(Method(fl.GreensFunction("mine", "exp(-r)"), 3), key.book, key.device).code_key("p2m", CHARGES)
    assert shipped_content(plain) is None


@needs_opencl
def test_it_is_not_used_for_other_sources_or_another_loopy(fresh):
    key = keys(OPENCL[0])["p2m"]
    versions = tuple((name, "1.0" if name == "loopy" else version) for name, version in key_module.versions())
    with fresh.context() as other:
        other.setattr(key_module, "versions", lambda: versions)
        assert shipped_content(key) is None
    fresh.setattr(shipped_code, "sources_hash", lambda: "edited")
    shipped_code._read.cache_clear()
    assert shipped_content(key) is None


@needs_opencl
@pytest.mark.parametrize("damage", ["gone", "empty", "cut", "no archive", "no code"])
def test_a_damaged_file_is_no_code(fresh, tmp_path, damage):
    key, file = keys(OPENCL[0])["p2m"], tmp_path / "code.xz"
    write_shipped([(key, {"operator": "p2m", "source": "text"})], file)
    whole = file.read_bytes()
    contents = {"empty": b"", "cut": whole[:-20], "no archive": b"text", "no code": lzma.compress(b"[1]")}
    file.unlink() if damage == "gone" else file.write_bytes(contents[damage])
    fresh.setattr(shipped_code, "SHIPPED_FILE", file)
    assert shipped_content(key) is None
    file.write_bytes(whole)
    shipped_code._read.cache_clear()
    assert shipped_content(key) == {"operator": "p2m", "source": "text"}
    assert generate_module._code_of(shipped_content(key)) is None, "it lacks most of it"
