"""Certificates: they are for kernels, hold while these stay the same, and spare users a warning."""

from __future__ import annotations

import dataclasses
import os
import warnings

import loopy as lp
import pytest
from conftest import made_up_nvidia, made_up_pocl

from fmmloopy.bookshelf import certificates
from fmmloopy.bookshelf.certificates import (
    FAILED,
    UncertifiedWarning,
    checked_kernels,
    kernels_of,
    record,
    status,
    warn_if_uncertified,
)
from fmmloopy.common.store import ENVIRONMENT_VARIABLE
from fmmloopy.common.trust import CacheWarning
from fmmloopy.execution.backends.cuda_emulator import EMULATED_DEVICE
from fmmloopy.recipes import RecipeBook, fix_lanes, separate_lanes, shipped_books
from fmmloopy.recipes.fingerprint import hash_of_sources

DEVICE = made_up_pocl("3.0", "pthread-a processor")


@pytest.fixture(autouse=True)
def no_certificates(tmp_path, monkeypatch):
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path))


def shipped(monkeypatch, sources, kernels, book="pocl_cpu", device=DEVICE):
    """Let a book have come with certificates of these sources, for these kernels."""
    label = certificates.shipping_label(shipped_books()[book], device)
    content = {"sources": sources, "certified": {label: {"level": "full", "kernels": kernels}}}
    monkeypatch.setattr(certificates, "read_shipped", lambda: content)


def test_every_book_comes_with_certificates_of_all_its_recipes():
    certified = certificates.read_shipped()["certified"]
    # The book for GPUs is checked elsewhere, operator by operator.
    for_cpus = set(shipped_books()) - {"gpu"}
    assert {label.partition(" on ")[0] for label in certified} - {"gpu"} == for_cpus
    for label, entry in certified.items():
        book = shipped_books()[label.partition(" on ")[0]]
        assert set(entry["kernels"]) == set(book.recipes) or book.name == "gpu"
        assert set(entry["kernels"]) <= set(book.recipes)


def test_a_certificate_by_emulation_is_none_for_a_gpu(monkeypatch):
    book = shipped_books()["gpu"]
    shipped(monkeypatch, certificates.sources_hash(), {key: [] for key in book.recipes}, "gpu", EMULATED_DEVICE)
    assert "as CUDA text, by emulation" in EMULATED_DEVICE.description
    assert [status(book, device) for device in (EMULATED_DEVICE, made_up_nvidia(), DEVICE)] == [
        "certified",
        *2 * ["none"],
    ]


def test_a_shipped_book_is_certified_where_it_was_checked(monkeypatch):
    book = shipped_books()["pocl_cpu"]
    assert status(book, DEVICE) == "none"
    shipped(monkeypatch, certificates.sources_hash(), {key: [] for key in book.recipes})
    assert status(book, DEVICE) == "certified"
    other_processor = made_up_pocl("3.0", "other")
    assert status(book, other_processor) == "certified"
    assert status(book, dataclasses.replace(DEVICE, driver="3.1")) == "none"
    assert status(dataclasses.replace(book, device="another"), DEVICE) == "none", "a copy is not what was shipped"
    record(book, DEVICE, ["p2p"], ["float64"], FAILED)
    assert status(book, DEVICE) == "failed for p2p"
    monkeypatch.setattr(certificates, "sources_hash", lambda: "edited")
    assert status(book, DEVICE).startswith("failed for p2p")


def test_an_operator_without_a_shipped_certificate_has_none(monkeypatch):
    book = shipped_books()["pocl_cpu"]
    others = [name for name in book.recipes if name != "p2p"]
    shipped(monkeypatch, certificates.sources_hash(), {key: [] for key in others})
    assert status(book, DEVICE) == "none for p2p"


def test_edited_sources_that_generate_the_same_kernels_stay_certified(monkeypatch):
    book = shipped_books()["pocl_cpu"]
    some = dataclasses.replace(
        book, recipes={name: book.recipes[name] for name in ("m2m", "l2l")}, tuning={}, by_device={}
    )
    monkeypatch.setattr(certificates, "shipped_books", lambda: {"pocl_cpu": some})
    kernels = {name: list(kernels_of(some, DEVICE, name, "float64")) for name in some.recipes}
    shipped(monkeypatch, "of another commit", kernels)
    assert status(some, DEVICE) == "certified"
    shipped(monkeypatch, "of another commit", {**kernels, "l2l": ["of another kernel"]})
    assert status(some, DEVICE) == "none for l2l"


def _groups(knl):
    """A docstring."""
    yield "groups", lp.tag_inames(separate_lanes(fix_lanes(knl)), {"ibox": "g.0"})  # a comment


def _written_in_another_way(knl):
    knl = separate_lanes(fix_lanes(knl))
    knl = lp.tag_inames(knl, "ibox:g.0")
    yield "groups", knl


def _another_schedule(knl):
    yield "lanes", separate_lanes(fix_lanes(knl, tlanes=2))


def test_a_certificate_is_for_the_kernels_that_have_run_too():
    book = RecipeBook("mine", "", {"p2p": _groups})
    tested = {("p2p", "float64"): ["one that has run"], ("p2p", "float32"): ["another"]}
    record(book, DEVICE, ["p2p"], ["float64"], "quick", skipped=["no oclgrind"], tested=tested)
    found = checked_kernels(book, DEVICE, "p2p", "float64")
    assert set(found) == {*kernels_of(book, DEVICE, "p2p", "float64"), "one that has run"}
    assert set(found.values()) == {"level quick; no oclgrind"}
    assert not checked_kernels(book, DEVICE, "p2p", "float32")
    assert status(book, DEVICE) == "certified"


def test_a_certificate_is_for_kernels_and_not_for_the_code_that_makes_them():
    def status_of(recipe):
        return status(RecipeBook("mine", "", {"p2p": recipe}), DEVICE)

    record(RecipeBook("mine", "", {"p2p": _groups}), DEVICE, ["p2p"], ["float64"], "quick")
    assert status_of(_groups) == "certified"
    assert status_of(_written_in_another_way) == "certified"
    assert status_of(_another_schedule) == "stale: recipe changed since"


@pytest.mark.parametrize(
    ("edited", "same"),
    [
        ('"""Other words."""\nimport os\n\n\ndef f(x):\n    # why\n    return x+1\n', True),
        ('def f(x):\n    """Says what it does."""\n\n    return (x + 1)\n', True),
        ("def f(x):\n    return x + 2\n", False),
        ("def f(y):\n    return y + 1\n", False),
        ('def f(x):\n    return x + 1\n\n\nTITLE = "one"\n', False),
    ],
)
def test_comments_and_docstrings_of_sources_do_not_count(tmp_path, edited, same):
    before, after = tmp_path / "before.py", tmp_path / "moved" / "after.py"
    after.parent.mkdir()
    before.write_text("def f(x):\n    return x + 1\n")
    after.write_text(edited)
    assert (hash_of_sources([before]) == hash_of_sources([after])) is same


def _recipe(knl, *, lanes: int = 4, shape: tuple = (2, 2)):
    yield "nothing", knl


def test_a_quick_check_does_not_replace_a_full_one_and_defaults_are_defaults():
    book = RecipeBook("a/b", "", {"p2p": _recipe})
    record(book, DEVICE, ["p2p"], ["float64"], "full")
    record(book, DEVICE, ["p2p"], ["float64"], "quick")
    assert '"level": "full"' in certificates.certificates_file(book, DEVICE).read_text()
    assert status(book, DEVICE, parameters={"p2p": {"lanes": 4}}) == "certified"
    assert status(book, DEVICE, parameters={"p2p": {"lanes": 8}}) == "none"
    record(book, DEVICE, ["p2p"], ["float64"], "quick", {"p2p": {"shape": (4, 1)}})
    assert status(book, DEVICE, parameters={"p2p": {"shape": [4, 1]}}) == "certified"


def test_defaults_are_those_of_the_device():
    book = RecipeBook("a/b", "", {"p2p": _recipe}, by_device={"p2p": {"a processor": {"lanes": 8}}})
    record(book, DEVICE, ["p2p"], ["float64"], "quick")
    assert status(book, DEVICE, parameters={"p2p": {"lanes": 8}}) == "certified"
    assert status(book, DEVICE, parameters={"p2p": {"lanes": 4}}) == "none"
    record(book, DEVICE, ["p2p"], ["float64"], "quick", {"p2p": {"lanes": 4}})
    assert status(book, DEVICE, parameters={"p2p": {"lanes": 4}}) == "certified"


def test_certificates_end_when_a_device_gets_other_defaults():
    by_device = {"p2p": {lambda device: device.cores > 8: {"lanes": 8}}}
    book = RecipeBook("a/b", "", {"p2p": _recipe}, by_device=by_device)
    record(book, DEVICE, ["p2p"], ["float64"], "quick")
    assert status(book, DEVICE) == "certified"
    assert status(book, dataclasses.replace(DEVICE, cores=64)) == "stale: parameters changed since"


def test_the_warning_comes_once():
    book = RecipeBook("warned_of_once", "", {"p2p": _recipe})
    with pytest.warns(
        UncertifiedWarning, match="'warned_of_once' has no certificate in float64 on pthread-a processor"
    ):
        warn_if_uncertified(book, DEVICE, "float64")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_if_uncertified(book, DEVICE, "float64")
        record(book, DEVICE, ["p2p"], ["float64"], FAILED)
        warn_if_uncertified(book, DEVICE, "float64")
    assert [str(w.message) for w in caught] == [
        "recipe book 'warned_of_once' failed `fmmloopy check` for p2p in float64 on pthread-a processor; "
        "run `fmmloopy check` on it"
    ]


@pytest.mark.parametrize("recorded", ["quick", FAILED])
@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace('"level": "failed"', '"level": "full"').replace('"quick"', '"full"'),
        lambda text: text[: len(text) // 2],
        lambda text: text.replace("mine", "ours"),
        lambda text: "[" * 100_000,
        lambda text: "",
    ],
    ids=["edited", "cut", "of another book", "deep", "empty"],
)
def test_a_file_that_was_changed_has_no_certificates(recorded, change):
    book = RecipeBook("mine", "", {"p2p": _recipe})
    record(book, DEVICE, ["p2p"], ["float64"], recorded)
    assert status(book, DEVICE).startswith("certified" if recorded == "quick" else "failed")
    path = certificates.certificates_file(book, DEVICE)
    path.write_text(change(path.read_text()))
    assert status(book, DEVICE) == "none"
    record(book, DEVICE, ["p2p"], ["float64"], "quick")
    assert status(book, DEVICE) == "certified"


def test_levels_that_are_not_known_do_not_count():
    book = RecipeBook("mine", "", {"p2p": _recipe})
    record(book, DEVICE, ["p2p"], ["float64"], "thorough")
    assert status(book, DEVICE) == "none"


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="this system has no owners of files")
def test_certificates_that_others_can_write_do_not_count():
    book = RecipeBook("mine", "", {"p2p": _recipe})
    record(book, DEVICE, ["p2p"], ["float64"], "quick")
    certificates.certificates_file(book, DEVICE).chmod(0o666)
    with pytest.warns(CacheWarning, match="can be written by others"):
        assert status(book, DEVICE) == "none"


def test_books_with_long_or_odd_names_have_files_of_their_own():
    names = ["a/b", "a_b", "x" * 80, "x" * 80 + "1", "x" * 80 + "2"]
    files = {certificates.certificates_file(RecipeBook(name, "", {}), DEVICE) for name in names}
    assert len(files) == len(names)
