"""Tuning: what is searched, what survives, what is certified, stored, used and shared."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
from conftest import OPENCL, needs_cpp, needs_opencl, slow

import fmmloopy as fl
from fmmloopy.bookshelf import certificates, tuned
from fmmloopy.bookshelf.tuned import Tuned, merge, read_entries, read_store, store_file, tuned_parameters, write_store
from fmmloopy.execution.backends.cuda_emulator import EMULATED_DEVICE
from fmmloopy.execution.devices import find_devices
from fmmloopy.measuring.timing import Setting, Timing
from fmmloopy.measuring.tune import (
    CODE_LIMIT,
    Trial,
    _candidates,
    _defaults,
    _search,
    count_candidates,
    import_entries,
    tune,
    verify_store,
)
from fmmloopy.recipes import RecipeBook, RecipeError, sequential_recipe, shipped_books
from fmmloopy.transforms import steps

SMALL = Setting(points=10_000, order=4)


@pytest.fixture(autouse=True)
def empty_store(tmp_path, monkeypatch, own_cache):
    monkeypatch.setenv(tuned.ENVIRONMENT_VARIABLE, str(tmp_path / "config"))


def m2m(knl, *, how: str = "sequential"):
    if how == "fails":
        raise ValueError("this one fails")
    if how == "exits":
        os._exit(1)
    if how == "hangs":
        while True:
            time.sleep(1)
    if how == "sequential":
        yield from sequential_recipe(knl)
        return
    # Faster on every device that there is: vectors of rows, and boxes that share each entry of the matrix.
    knl = steps.dense_blocks(knl, boxes=6, rows=8, chunk=4)
    yield "lanes", knl
    if how == "wrong":
        kernel = knl.default_entrypoint
        instructions = [i.copy(expression=0) if i.id == "x" else i for i in kernel.instructions]
        yield "nothing done", knl.with_kernel(kernel.copy(instructions=instructions))


BOOK = RecipeBook(
    "tunable",
    device="",
    recipes={"m2m": m2m},
    tuning={"m2m": {"how": ("fails", "exits", "wrong", "lanes", "hangs", "sequential")}},
)


def _entry(**changes):
    device = OPENCL[0] if OPENCL else find_devices()[-1]
    entry = Tuned(
        "tunable",
        "m2m",
        tuned.recipe_hash(BOOK, "m2m"),
        "float64",
        6,
        device.driver,
        dict(tuned.versions())["loopy"],
        {"how": "lanes"},
        0.5,
        1.0,
        "a problem",
    )
    return dataclasses.replace(entry, **changes)


@needs_opencl
def test_the_winner_is_certified_and_used(no_whole_evaluations):
    told = []
    device = OPENCL[0]
    (search,) = tune(
        BOOK, ["m2m"], device, 300.0, SMALL, [np.float32], limit=10.0, notify=lambda o, d, trial: told.append(trial)
    )
    outcomes = {trial.parameters["how"]: trial.outcome for trial in search.trials}
    assert search.trials[0].parameters["how"] == "sequential"
    assert outcomes["sequential"] == outcomes["lanes"] == "timed"
    assert "wrong: with how=wrong: polynomial, order 3: result[" in outcomes["wrong"]
    assert "ValueError: this one fails" in outcomes["fails"]
    assert "status 1" in outcomes["exits"]
    assert "did not return within 10 s" in outcomes["hangs"]
    assert told == list(search.trials)
    assert search.whole
    assert search.best.parameters == {"how": "lanes"}
    assert search.gain > 1
    (entry,) = read_store(device)
    assert entry.parameters == {"how": "lanes"}
    assert "lanes" in store_file(device).read_text()

    points = np.random.default_rng(0).random((500, 3))
    book = dataclasses.replace(BOOK, recipes={"m2m": m2m})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fmm = fl.Fmm(points, device=device, recipes=book, digits=3)
    assert fmm.precision == "reduced"  # its expansions are in float32
    assert fmm.parameters == {"m2m": {"how": "lanes"}}
    assert fl.Fmm(points, device=device, recipes=book, parameters={"m2m": {}}).parameters == {"m2m": {}}
    assert fl.Fmm(points, device=device, recipes="sequential").parameters == {}


@slow
@needs_cpp
def test_recipes_for_gpus_are_tuned_where_kernels_are_cuda_text(no_whole_evaluations):
    """Which candidate is faster by emulation says nothing, so each may win."""
    book = dataclasses.replace(shipped_books()["gpu"], tuning={"m2m": {"boxes": (32, 64)}})
    (search,) = tune(book, ["m2m"], EMULATED_DEVICE, 300.0, Setting(points=2000, order=2), [np.float32])
    assert [trial.parameters["boxes"] for trial in search.trials] == [64, 32]
    assert {trial.outcome for trial in search.trials} == {"timed"}
    assert search.whole
    (entry,) = read_store(EMULATED_DEVICE)
    assert entry.parameters == {name: search.best.parameters[name] for name in entry.parameters}
    assert tuned_parameters(book, EMULATED_DEVICE, "float32", 2) == {"m2m": entry.parameters}


@needs_opencl
def test_stored_parameters_are_verified_when_a_version_has_changed(no_whole_evaluations):
    device = OPENCL[0]
    good, bad = _entry(driver="an older driver"), _entry(driver="an older driver", order=4, parameters={"how": "wrong"})
    other = _entry(book="another book")
    write_store(device, [good, bad, other])
    assert tuned_parameters(BOOK, device, "float64", 6) == {}
    checked = {entry.parameters["how"]: wrong for entry, wrong in verify_store(BOOK, device)}
    assert checked["lanes"] == ""
    assert "nothing done" in checked["wrong"]
    assert {(e.book, e.driver) for e in read_store(device)} == {
        ("tunable", device.driver),
        ("another book", device.driver),
    }
    assert tuned_parameters(BOOK, device, "float64", 6) == {"m2m": {"how": "lanes"}}
    assert verify_store(BOOK, device) == ()


BAD_FILES = {
    "nothing": (b"", "it is not JSON: "),
    "other bytes": (b"\xff\xfe{}", "it is not UTF-8: byte 0 is 0xff"),
    "not a number": (b'{"format": NaN}', "it has NaN, expected finite numbers"),
    "infinite": (b'{"format": 1e999}', "it has 1e999, expected finite numbers"),
    "too large": (b'{"format": 1' + 5000 * b"0" + b"}", "expected whole numbers below 2^63"),
    "deep": (100_000 * b"[" + 100_000 * b"]", "it is nested too deeply, expected at most 32 levels"),
    "fairly deep": (50 * b"[" + 50 * b"]", "it is nested too deeply"),
    "twice": (b'{"format": 1, "format": 1}', "it has 'format' twice"),
    "a list": (b"[]", "it has no list of entries"),
    "no list": (b'{"format": 1, "device": "x", "tuned": {}}', "it has no list of entries"),
    "a format": (b'{"format": [], "device": "x", "tuned": []}', "it has format [], expected 1"),
    "a device": (b'{"format": 1, "device": 5, "tuned": []}', "it is for the device 5, expected its description"),
    "escapes": (b'{"format": 1, "device": "\\u001b[2J", "tuned": []}', "expected its description"),
    "an entry": (b'{"format": 1, "device": "x", "tuned": [5]}', "it has the entry 5, expected book, "),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files(tmp_path, name):
    content, text = BAD_FILES[name]
    path = tmp_path / "shared.json"
    path.write_bytes(content)
    with pytest.raises(ValueError) as caught:
        import_entries(path, BOOK)
    assert str(caught.value).startswith(f"{path} is not a valid file of tuned parameters: ")
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "config").exists()


BAD_FIELDS = {
    "book": ["pocl\x1b[2J", 5, None],
    "operator": [["m2m"]],
    "order": [True, "6", 6.5],
    "parameters": [[], {"two words": 1}, {"lanes": {"deep": 1}}, {"how": "\x07"}],
    "seconds": ["1", -1.0, None, True],
    "default_seconds": ["1", 0],
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field in BAD_FIELDS for value in BAD_FIELDS[field]])
def test_bad_fields(tmp_path, field, value):
    """One bad entry, after a good one: nothing is stored."""
    device, path = find_devices()[-1], tmp_path / "shared.json"
    entries = [dataclasses.asdict(_entry(order=order)) for order in (4, 6)]
    entries[1][field] = value
    path.write_text(json.dumps({"format": 1, "device": device.description, "tuned": entries}))
    with pytest.raises(ValueError, match=f"has an entry whose {field} is .*, expected "):
        import_entries(path, BOOK)
    assert not (tmp_path / "config").exists()


def test_a_file_never_says_which_code_to_run(tmp_path):
    device, path, book = find_devices()[-1], tmp_path / "shared.json", tmp_path / "harmful.py"
    book.write_text(f"open({str(tmp_path / 'harmed')!r}, 'w')\n")
    tuned.write_entries(path, device.description, [_entry(book=str(book)), _entry(book="harmful", order=4)])
    results = import_entries(path)
    assert all("no recipe book is named" in wrong for _, wrong in results)
    assert not (tmp_path / "harmed").exists()
    assert not (tmp_path / "config").exists()


def test_no_two_devices_share_a_file():
    """Descriptions differ in their last words, and in what file names cannot have."""
    device = find_devices()[-1]
    long = [dataclasses.replace(device, description="x" * 200 + end) for end in ("AVX-512", "AVX2")]
    alike = [dataclasses.replace(device, description=text) for text in ("a b", "a_b", "a/b")]
    assert len({store_file(each) for each in (*long, *alike)}) == 5
    write_store(long[0], [_entry()])
    assert read_store(long[1]) == ()
    store_file(long[0]).rename(store_file(long[1]))
    with pytest.raises(ValueError, match="is for 'x"):
        read_store(long[1])


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="this system has no owners of files")
def test_results_that_others_can_write_are_not_used(tmp_path):
    device, before = find_devices()[-1], os.umask(0)
    try:
        write_store(device, [_entry()])
    finally:
        os.umask(before)
    assert len(read_store(device)) == 1  # new folders are for this user alone, whatever the umask
    (tmp_path / "config").chmod(0o777)
    with pytest.raises(PermissionError, match="can be written by others"):
        read_store(device)
    with pytest.warns(UserWarning, match="tuned parameters are not used: .* chmod -R go-w"):
        assert tuned_parameters(BOOK, device, "float64", 6) == {}


def test_a_damaged_file_is_not_lost(tmp_path):
    device = find_devices()[-1]
    write_store(device, [_entry()])
    store_file(device).write_text("my results")
    with pytest.warns(UserWarning, match="the file is now .*damaged"):
        write_store(device, [_entry(order=4)])
    assert store_file(device).with_suffix(".damaged").read_text() == "my results"
    assert len(read_store(device)) == 1


@needs_opencl
def test_what_a_colleague_has_found_is_certified_here(tmp_path, no_whole_evaluations):
    device = OPENCL[0]
    path = tmp_path / "shared.json"
    tuned.write_entries(path, device.description, [_entry(), _entry(order=4, parameters={"how": "wrong"})])
    results = import_entries(path, BOOK)
    assert [bool(wrong) for _, wrong in results] == [True, False]
    (entry,) = read_store(device)
    assert entry.parameters == {"how": "lanes"}
    tuned.write_entries(path, "another device", [_entry()])
    with pytest.raises(fl.DeviceError, match="for 'another device', which is not among the devices here"):
        import_entries(path, BOOK)


def test_the_store_is_read_and_merged():
    device = find_devices()[-1]
    assert read_store(device) == ()
    first, second = _entry(), _entry(parameters={"how": "other"})
    write_store(device, merge([first, _entry(order=8)], [second]))
    assert second in read_store(device)
    assert first not in read_store(device)
    assert read_entries(store_file(device))[0] == device.description
    store_file(device).write_text('{"format": 1, "device": "x"}')
    with pytest.raises(ValueError, match="is not a valid file of tuned parameters: it has no 'tuned'; delete it, or"):
        read_store(device)
    with pytest.warns(UserWarning, match="tuned parameters are not used: "):
        assert tuned_parameters(BOOK, device, "float64", 6) == {}


def test_the_nearest_order_is_used():
    device = OPENCL[0] if OPENCL else find_devices()[-1]
    write_store(device, [_entry(order=4, parameters={"how": "four"}), _entry(order=9, parameters={"how": "nine"})])
    assert tuned_parameters(BOOK, device, "float64", 5) == {}, "what is not certified is not used"
    for how in ("four", "nine"):
        certificates.record(BOOK, device, ["m2m"], ["float64"], "quick", {"m2m": {"how": how}})
    assert tuned_parameters(BOOK, device, "float64", 5) == {"m2m": {"how": "four"}}
    assert tuned_parameters(BOOK, device, "float64", 8) == {"m2m": {"how": "nine"}}
    assert tuned_parameters(BOOK, device, "float32", 8) == {}


def test_a_large_space_is_searched_without_repeats():
    space = {"a": tuple(range(10)), "b": tuple(range(10))}
    trials: list[Trial] = []
    for candidate in _candidates(space, trials, {"a": 9, "b": 9}):
        seconds = 1.0 + (candidate["a"] - 3) ** 2 + (candidate["b"] - 7) ** 2
        trials.append(Trial(candidate, Timing((seconds,)) if candidate["a"] != 5 else None, "timed"))
        if len(trials) == 60:
            break
    tried = [tuple(trial.parameters.values()) for trial in trials]
    assert tried[0] == (9, 9)
    assert len(set(tried)) == 60
    assert min((t.timing.median if t.timing else math.inf) for t in trials) <= 2.0


def test_a_search_begins_with_what_the_device_has():
    device = find_devices()[0]
    book = dataclasses.replace(BOOK, by_device={"m2m": {re.escape(device.description): {"how": "lanes"}}})
    assert _defaults(book, "m2m", device, BOOK.tuning["m2m"]) == {"how": "lanes"}
    assert _defaults(BOOK, "m2m", device, BOOK.tuning["m2m"]) == {"how": "sequential"}


def test_operators_without_parameters_are_refused():
    with pytest.raises(ValueError, match="tunable has no tuning parameters for 'l2l'; it has them for m2m"):
        tune(BOOK, ["l2l"])
    with pytest.raises(RecipeError, match="no recipe book 'nonsense'"):
        tune("nonsense")


def _run(*arguments):
    command = [sys.executable, "-c", "from fmmloopy.cli import main; main()", "tune", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@needs_opencl
def test_the_command_exports_and_refuses(tmp_path):
    device = OPENCL[0]
    result = _run("--export", tmp_path / "mine.json", "--device", device.description)
    assert result.returncode == 2
    assert "nothing is stored for" in result.stderr
    write_store(device, [_entry()])
    result = _run("--export", tmp_path / "mine.json", "--device", device.description, "--json")
    assert json.loads(result.stdout)["entries"] == 1
    assert read_entries(tmp_path / "mine.json")[1] == (_entry(),)
    assert "no BOOK to tune" in _run().stderr
    assert "budget is 'soon', expected a time such as 60s" in _run("pocl_cpu", "--budget", "soon").stderr


# -- what there was to choose from, how long it may take, and what is kept where nothing wins


class Clock:
    """Time that passes when a candidate is tried."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr("fmmloopy.measuring.tune.time.monotonic", lambda: self.now)

    def search(self, seconds, deadline, book=BOOK):
        """Search with candidates that take some seconds; return trials and the limits that they got."""
        limits = []

        def try_it(limit, parameters, best):
            limits.append(limit)
            self.now += min(limit, seconds[parameters["how"]])
            stopped = seconds[parameters["how"]] > limit
            return Trial(parameters, None if stopped else Timing((1.0,)), "failed: late" if stopped else "timed")

        trials = _search(try_it, book, "m2m", find_devices()[-1], deadline, CODE_LIMIT, lambda trial: None)
        return trials, limits


def test_a_search_keeps_to_its_time(monkeypatch):
    clock = Clock(monkeypatch)
    trials, limits = clock.search(dict.fromkeys(BOOK.tuning["m2m"]["how"], 4.0), deadline=10.0)
    assert len(trials) == 2, "the third does not end in time: nothing is known of it"
    assert limits == [CODE_LIMIT, 6.0, 2.0]
    assert clock.now == 10.0
    trials, _ = clock.search(dict.fromkeys(BOOK.tuning["m2m"]["how"], 4.0), deadline=10.0)
    assert [trial.parameters["how"] for trial in trials] == ["sequential"], "the defaults are timed in any case"


def test_candidates_are_counted_with_the_defaults():
    device = find_devices()[-1]
    assert count_candidates(BOOK, "m2m", device) == 6
    book = dataclasses.replace(BOOK, tuning={"m2m": {"how": ("lanes", "fails")}})
    assert count_candidates(book, "m2m", device) == 3


def best_is_the_default(knl, *, how: str = "lanes"):
    yield from m2m(knl, how=how)


FASTEST = RecipeBook("fastest", "", {"m2m": best_is_the_default}, {"m2m": {"how": ("lanes", "sequential")}})


@needs_opencl
def test_that_the_defaults_are_best_is_kept_exported_and_imported(tmp_path, no_whole_evaluations):
    device = OPENCL[0]
    (search,) = tune(FASTEST, ["m2m"], device, 300.0, SMALL, [np.float32])
    assert (search.is_faster, len(search.trials), search.candidates, search.whole) == (False, 2, 2, True)
    assert search.found.ratio < 1
    assert math.isfinite(search.found.spread) or search.trials[1].outcome == "abandoned"
    (entry,) = read_store(device)
    assert entry.parameters == {}
    assert entry.seconds == entry.default_seconds
    assert tuned_parameters(FASTEST, device, "float32", 4) == {}, "that is what is used anyway"
    path = tmp_path / "shared.json"
    tuned.write_entries(path, device.description, [entry])
    write_store(device, [])
    assert import_entries(path, FASTEST) == ((entry, ""),)
    assert read_store(device) == (entry,)
    # Once found, the defaults of the nearest order are used, and not what is best at another.
    write_store(device, [entry, dataclasses.replace(entry, order=8, parameters={"how": "sequential"})])
    certificates.record(FASTEST, device, ["m2m"], ["float32"], "quick", {"m2m": {"how": "sequential"}})
    assert tuned_parameters(FASTEST, device, "float32", 4) == {}
    assert tuned_parameters(FASTEST, device, "float32", 8) == {"m2m": {"how": "sequential"}}


@slow
@needs_opencl
def test_the_command_says_how_many_candidates_and_what_the_spread_was(tmp_path):
    device = OPENCL[0]
    path = tmp_path / "mine.py"
    path.write_text(
        "from fmmloopy import RecipeBook\nfrom fmmloopy.transforms import steps\n"
        "def m2m(knl, *, boxes=4):\n    yield 'blocks', steps.dense_blocks(knl, boxes, rows=8)\n"
        "BOOK = RecipeBook('mine', '', {'m2m': m2m}, {'m2m': {'boxes': (2, 4, 8)}})\n"
    )
    options = ("--device", device.description, "--dtype", "float32", "--points", "10000", "--order", "4")
    result = _run(path, *options, "--budget", "0.001")
    assert result.returncode == 0, result.stderr
    assert re.search(r"m2m +float32 +1 of 3 +boxes=4 +[\d.]+ ms +\d+%", result.stdout)
    assert "nothing to compare the defaults with (1 of 3 candidates, budget spent)" in result.stdout
    result = _run(path, *options, "--budget", "5m")
    assert result.returncode == 0, result.stderr
    assert re.search(r"(spread|stored).* \(all 3 candidates\)", result.stdout)
    assert "spread" in result.stdout
    result = _run("--export", tmp_path / "out.json", "--device", device.description)
    assert "out.json: 1 entry" in result.stdout
