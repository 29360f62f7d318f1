"""Certificates of the books that come with fmmloopy: they are of these very sources, and spare users a warning."""

from __future__ import annotations

import dataclasses
import warnings

import pytest
from conftest import made_up_pocl

from fmmloopy.bookshelf import certificates
from fmmloopy.bookshelf.certificates import FAILED, UncertifiedWarning, record, status, warn_if_uncertified
from fmmloopy.common.store import ENVIRONMENT_VARIABLE
from fmmloopy.recipes import RecipeBook, shipped_books

DEVICE = made_up_pocl("3.0", "pthread-a processor")


@pytest.fixture(autouse=True)
def no_certificates(tmp_path, monkeypatch):
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path))


def test_shipped_certificates_are_of_these_sources():
    message = "operators, books or steps have changed: run `.ci/certify` and commit what it writes"
    assert certificates.read_shipped()["sources"] == certificates.sources_hash(), message
    checked = {label.partition(" on ")[0] for label in certificates.read_shipped()["certified"]}
    assert checked == set(shipped_books())


def test_a_shipped_book_is_certified_where_it_was_checked(monkeypatch):
    book = shipped_books()["pocl_cpu"]
    assert status(book, DEVICE) == "none"
    shipped = {"sources": certificates.sources_hash(), "certified": [certificates.shipping_label(book, DEVICE)]}
    monkeypatch.setattr(certificates, "read_shipped", lambda: shipped)
    assert status(book, DEVICE) == "certified"
    other_processor = made_up_pocl("3.0", "other")
    assert status(book, other_processor) == "certified"
    assert status(book, dataclasses.replace(DEVICE, driver="3.1")) == "none"
    assert status(dataclasses.replace(book, device="another"), DEVICE) == "none", "a copy is not what was shipped"
    record(book, DEVICE, ["p2p"], ["float64"], FAILED)
    assert status(book, DEVICE) == "failed for p2p"
    monkeypatch.setattr(certificates, "sources_hash", lambda: "edited")
    assert status(book, DEVICE) == "failed for p2p"


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
