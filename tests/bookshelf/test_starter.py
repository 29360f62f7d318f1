"""`fmmloopy new`: what it writes works as it is, and it destroys nothing."""

from __future__ import annotations

import os
import stat

import numpy as np
import pytest
from conftest import devices, made_up_device, made_up_intel, made_up_nvidia, made_up_pocl, slow, specification
from typer.testing import CliRunner

from fmmloopy.bookshelf.starter import start_book
from fmmloopy.checking.check import check_book
from fmmloopy.cli import app
from fmmloopy.execution.devices import C_DEVICE
from fmmloopy.recipes import RecipeError, apply_recipe, load_recipes, shipped_books
from fmmloopy.recipes.book import devices_in_words

FAMILIES = {
    "CPUs through Intel's runtime": (made_up_intel("AMD EPYC"), made_up_intel("Intel(R) Xeon(R)", "AVX-512")),
    "CPUs through PoCL 3.1": (made_up_pocl("3.1+debian"), made_up_pocl("3.1.2", "x86")),
    "CPUs through PoCL 6.0": (made_up_pocl("6.0"), made_up_pocl("6.0-pre", "x86")),
    "GPUs through PoCL 6.0": (made_up_pocl("6.0", kind="GPU"), made_up_pocl("6.0", "another", kind="GPU")),
    "GPUs through NVIDIA's driver": (made_up_nvidia("H200"), made_up_nvidia("Other")),
    "My (fast) GPU + more": (
        made_up_device("GPU", "Some Vendor", "OpenCL 3.0", 'My (fast) "GPU" + more'),
        made_up_device("GPU", "Some Vendor", "OpenCL 3.1", 'My (fast) "GPU" + more'),
    ),
    "the C compiler": (C_DEVICE, C_DEVICE),
}
"""A device, and a relative that its book should suit too."""


def passes(path, device):
    """Whether P2P of a book passes the check; the rest of it takes minutes."""
    report = check_book(path, ["p2p"], device, dtypes=[np.float64])
    assert report.ok, [str(finding) for finding in report.findings]


C_PARAMETER = devices()[-1]
"""The C compiler, which is skipped where there is none."""


@pytest.mark.parametrize("device", [devices()[0], pytest.param(*C_PARAMETER.values, marks=[*C_PARAMETER.marks, slow])])
def test_starter_passes_the_check_as_it_is(device, tmp_path, no_whole_evaluations):
    """On the preferred device and on the C compiler, whose books are not alike."""
    started = start_book(tmp_path / "my_device.py", device=device)
    book = load_recipes(started.path)
    assert book.name == started.name == "my_device"
    assert book.suits(device)
    passes(started.path, device)


def test_starter_for_gpus_has_the_form_for_a_gpu(tmp_path):
    started = start_book(tmp_path / "my_gpu.py", device=made_up_nvidia())
    steps = apply_recipe(load_recipes(started.path), "p2p", specification("p2p").kernel())
    assert [step.name for step in steps] == ["one work-item per target of a tile", "one work-group per box"]


@slow
def test_starter_for_gpus_passes_the_check(tmp_path, opencl_device):
    """On whatever is here."""
    passes(start_book(tmp_path / "my_gpu.py", device=made_up_nvidia()).path, opencl_device)


@pytest.mark.parametrize("words", FAMILIES)
def test_starter_suits_its_device_and_relatives(words, tmp_path):
    device, relative = FAMILIES[words]
    started = start_book(tmp_path / "mine.py", device=device)
    book = load_recipes(started.path)
    assert started.devices == devices_in_words(book.device) == words
    assert book.suits(device)
    assert book.suits(relative)
    assert not any(book.suits(other) for name, others in FAMILIES.items() if name != words for other in others)


@pytest.mark.parametrize("origin", shipped_books())
def test_copies_are_their_originals_under_another_name(origin, tmp_path):
    started = start_book(tmp_path / "mine.py", origin)
    copy, book = load_recipes(started.path), shipped_books()[origin]
    assert copy.name == started.name == "mine"
    assert copy.build_options == book.build_options
    assert started.devices == devices_in_words(copy.device) == devices_in_words(book.device)
    assert set(copy.recipes) == set(book.recipes)
    assert {k: dict(v) for k, v in copy.tuning.items()} == {k: dict(v) for k, v in book.tuning.items()}
    for device in (*(device for pair in FAMILIES.values() for device in pair), made_up_pocl("3.0")):
        assert copy.suits(device) == book.suits(device)
        assert all(copy.parameters_on(o, device) == book.parameters_on(o, device) for o in book.recipes)
    for operator in ("p2p", "m2m"):
        math = specification(operator).kernel()
        ours, theirs = (apply_recipe(b, operator, math) for b in (copy, book))
        assert [step.name for step in ours] == [step.name for step in theirs]
        assert ours[-1].kernel == theirs[-1].kernel


def test_file_has_the_rights_of_a_new_file(tmp_path):
    plain = tmp_path / "plain"
    plain.write_text("")
    path = start_book(tmp_path / "mine.py", device=C_DEVICE).path
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)
    assert sorted(os.listdir(tmp_path)) == ["mine.py", "plain"], "a temporary file stays behind"


# -- what is refused


@pytest.mark.parametrize("name", ["my-gpu.py", "my_gpu", "my_gpu.txt", "1gpu.py", "class.py", ".py", "my gpu.py"])
def test_names_that_are_no_modules(name, tmp_path):
    with pytest.raises(ValueError, match=r"does not name a Python module; expected an identifier and \.py"):
        start_book(tmp_path / name, device=C_DEVICE)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("name", ["pocl_cpu", "sequential"])
def test_names_of_shipped_books(name, tmp_path):
    """Their certificates are kept by name."""
    with pytest.raises(ValueError, match=f"^{name} is a book that comes with fmmloopy; .* such as my_{name}.py$"):
        start_book(tmp_path / f"{name}.py", device=C_DEVICE)


def test_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="^no folder .*none; create it first$"):
        start_book(tmp_path / "none" / "mine.py", device=C_DEVICE)
    assert not os.listdir(tmp_path)


def test_original_that_is_not_there(tmp_path):
    with pytest.raises(
        RecipeError, match="^no shipped recipe book 'pocl' to start with; there are gpu, pocl31_cpu, pocl_cpu, "
    ):
        start_book(tmp_path / "mine.py", "pocl")
    assert not os.listdir(tmp_path)


def test_files_are_not_overwritten(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("precious")
    with pytest.raises(FileExistsError, match="mine.py already exists; give another name, or --force to replace"):
        start_book(path, device=C_DEVICE)
    assert path.read_text() == "precious"
    start_book(path, device=C_DEVICE, force=True)
    assert load_recipes(path).name == "mine"
    (tmp_path / "folder.py").mkdir()
    with pytest.raises(FileExistsError):
        start_book(tmp_path / "folder.py", device=C_DEVICE, force=True)


# -- the command


def test_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["new", "my_gpu.py", "--from", "pocl_cpu"])
    assert done.exit_code == 0, done.output
    assert load_recipes("my_gpu.py").name == "my_gpu"
    assert "wrote my_gpu.py: a copy of pocl_cpu, for CPUs through PoCL 3.0 and older" in done.output
    assert done.output.endswith(
        "next:\n  fmmloopy check my_gpu.py\n  fmmloopy ladder my_gpu.py --operator p2p --plot ladder.png\n"
    )
    again = CliRunner().invoke(app, ["new", "my_gpu.py"])
    assert isinstance(again.exception, FileExistsError)
    forced = CliRunner().invoke(app, ["new", "my_gpu.py", "--force"])
    assert forced.exit_code == 0
    assert "P2P, explained line by line" in forced.output
