"""With --json, standard output is a JSON document whatever happens."""

from __future__ import annotations

import json
import math

import pytest

from fmmloopy import cli
from fmmloopy.cli.common import print_json
from fmmloopy.common.messages import counted

COMMANDS = {
    "bench": ["bench", "no such book"],
    "bundle": ["bundle", "--output", "some.fmm", "--device", "no such device"],
    "check": ["check", "no such book"],
    "doctor": ["doctor"],
    "evaluate": ["evaluate", "no_such_file.npz"],
    "ladder": ["ladder", "no such book"],
    "predict": ["predict", "no such book", "--card", "H200"],
    "recipes": ["recipes", "no_such_file.py"],
    "show": ["show", "no such book"],
    "tune": ["tune", "no such book"],
}
"""Commands that have --json, with arguments that fail."""


def run(capsys, *words):
    """Return the exit status, the document on standard output, and standard error."""
    with pytest.raises(SystemExit) as caught:
        cli.main([*words, "--json"])
    captured = capsys.readouterr()
    return caught.value.code or 0, json.loads(captured.out), captured.err


def test_these_are_all_commands_that_have_it():
    options = {command.callback.__name__: command.callback.__annotations__ for command in cli.app.registered_commands}
    assert {name for name, found in options.items() if {"json", "as_json"} & set(found)} == set(COMMANDS)


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - {"bundle", "doctor", "evaluate", "recipes"}))
def test_what_does_not_exist(capsys, command):
    status, document, said = run(capsys, *COMMANDS[command])
    assert status == 2
    assert document["ok"] is False
    assert document["error"].startswith("no recipe book 'no such book'")
    assert f"error: {document['error']}" in said


def test_files_that_cannot_be_used_are_listed(capsys):
    status, document, _ = run(capsys, *COMMANDS["recipes"])
    assert status == 1
    assert any("no file no_such_file.py" in book["trouble"] for book in document["books"])


@pytest.mark.parametrize("command", COMMANDS)
def test_options_that_do_not_exist(capsys, command):
    status, document, _ = run(capsys, *COMMANDS[command], "--no-such-option")
    assert (status, document["ok"]) == (2, False)
    assert "--no-such-option" in document["error"]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["check"], "Missing argument 'BOOK'"),
        (["no-such-command"], "No such command 'no-such-command'"),
        (["check", "sequential", "--limit", "long"], "Invalid value for '--limit'"),
        (["tune", "--import", "no_such_file.json"], "No such file or directory: 'no_such_file.json'"),
        (["check", "sequential", "--device", "no such device"], "no device matches 'no such device'"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_wrong_arguments(capsys, words, text):
    status, document, _ = run(capsys, *words)
    assert status == 2
    assert text in document["error"]


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (KeyError("a mistake"), 1, "KeyError: 'a mistake'"),
        (RecursionError("deep\nand deeper"), 1, "RecursionError: deep and deeper"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (ValueError("bad"), 2, "bad"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_mistakes_of_the_program(capsys, monkeypatch, error, status, text):
    def fail(*arguments, **keywords):
        raise error

    monkeypatch.setattr("fmmloopy.bookshelf.catalog.list_books", fail)
    found, document, said = run(capsys, "recipes")
    assert (found, document) == (status, {"ok": False, "error": text, "status": status})
    assert ("Traceback" in said) is (isinstance(error, Exception) and status == 1)


def test_success_is_as_before(capsys):
    status, document, said = run(capsys, "recipes")
    assert (status, said) == (0, "")
    assert {book["name"] for book in document["books"]} >= {"pocl_cpu", "sequential"}


def test_errors_are_text_without_it(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["check", "no such book"])
    captured = capsys.readouterr()
    assert (caught.value.code, captured.out) == (2, "")
    assert captured.err.startswith("error: no recipe book")


def test_numbers_that_are_not_finite(capsys):
    print_json({"a": [math.nan, (1.0, -math.inf)], 5: {"b": math.inf}})
    assert json.loads(capsys.readouterr().out) == {"a": [None, [1.0, None]], "5": {"b": None}}


def test_counted():
    assert [counted(number, "finding") for number in range(3)] == ["0 findings", "1 finding", "2 findings"]
