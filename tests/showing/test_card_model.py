"""Evaluations on cards that are not there: relations that predicted times must keep."""

from __future__ import annotations

import json
from dataclasses import replace
from math import ceil

import numpy as np
import pytest
from conftest import run_command
from test_gpu_code import needs_tools

from fmmloopy.choosing.work import Work
from fmmloopy.execution.backends import nvrtc
from fmmloopy.execution.device import DeviceError
from fmmloopy.execution.evaluation import grower
from fmmloopy.execution.setup import Setup
from fmmloopy.measuring.timing import Setting
from fmmloopy.octree.lists import build_lists
from fmmloopy.octree.tree import sort_points
from fmmloopy.precision import DOUBLE
from fmmloopy.recipes import shipped_books
from fmmloopy.showing import card_model as module
from fmmloopy.showing.card_model import CardModel, PredictedOperator, device_of, predict_evaluation
from fmmloopy.showing.gpu_code import CARDS, find_card

BOOK = shipped_books()["gpu"]
H100, H200 = find_card("H100"), find_card("H200")
ORDER = 4


@pytest.fixture(scope="module", autouse=True)
def compiled_once():
    """Compile each program once for all tests here."""
    codes, compile_code = {}, module.code_for

    def code_for(program, architecture):
        key = program.source, architecture
        if key not in codes:
            codes[key] = compile_code(program, architecture)
        return codes[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "code_for", code_for)
        yield


def predict(card, points=20_000, **options):
    return predict_evaluation(card, BOOK, points, **{"order": ORDER, **options})


@pytest.mark.parametrize(
    ("name", "expected"), [("h200", "H200"), (" H100 ", "H100 SXM"), ("H100 SXM", "H100 SXM"), ("a100", "A100 SXM")]
)
def test_cards_by_name(name, expected):
    assert find_card(name).name == expected


def test_the_cards_with_the_same_chip_differ_in_their_memory():
    assert replace(H100, name=H200.name, bandwidth=H200.bandwidth) == H200
    assert all(0.5 < card.bandwidth < 10 for card in CARDS)  # TB/s


@pytest.mark.parametrize("name", ["H300", "SXM", ""])
def test_a_card_that_is_not_known(capsys, name):
    status, said = run_command(capsys, "predict", "gpu", "--card", name)
    assert status == 2
    assert f"--card is {name!r}, expected one of A100 SXM, RTX 4090, H100 SXM, H200" in said


def test_what_binds_is_what_takes_longer():
    row = PredictedOperator("p2p", Work(100, 1200, 1), 128, 800, "FP64", 2.0, 1.0, (32, 64))
    assert (row.seconds, row.binds) == (2.0, "FP64")
    row = replace(row, memory_seconds=3.0)
    assert (row.seconds, row.binds) == (3.0, "memory")


@needs_tools
@pytest.mark.parametrize("distribution", ["sphere", "cube"])
@pytest.mark.parametrize("gradient", [False, True])
def test_the_total_is_the_sum(distribution, gradient):
    found = predict(H200, distribution=distribution, gradient=gradient)
    assert {"p2p", "p2m", "m2m", "check_to_equivalent", "l2l", "l2p"} <= {each.operator for each in found.operators}
    assert found.seconds == pytest.approx(sum(each.seconds for each in found.operators))
    assert found.best.total == pytest.approx(found.seconds)
    assert found.best.total == min(each.total for each in found.candidates)
    assert all(each.seconds > 0 for each in found.operators)


@needs_tools
def test_gradients_take_longer():
    plain, both = (predict(H200, ncrit=100, gradient=gradient).best.seconds for gradient in (False, True))
    assert {name for name in plain if both[name] > plain[name]} == {"p2p", "l2p"}
    assert all(both[name] == plain[name] for name in plain.keys() - {"p2p", "l2p"})


@needs_tools
def test_twice_the_points_take_about_twice_as_long():
    """Leaves on the sphere have four times the points of the next level's, so times per point vary by some tenths."""
    once, twice = (predict(H200, points).seconds for points in (100_000, 200_000))
    assert 1.5 < twice / once < 2.7


@needs_tools
def test_more_bandwidth_is_no_slower():
    slow, fast = (predict(card, distribution="cube", ncrit=60).best.seconds for card in (H100, H200))
    assert all(fast[name] <= slow[name] for name in slow)


@needs_tools
def test_memory_binds_if_it_is_slow():
    found = predict(replace(H200, bandwidth=1e-6), ncrit=60)
    assert {each.binds for each in found.operators} == {"memory"}
    row = found.operators[0]
    assert row.seconds == pytest.approx(row.nbytes / 1e6)


@needs_tools
def test_float64_binds_if_there_are_few_units():
    card = replace(H200, units={**H200.units, "FP64": 2})
    found = predict(card, precision="double", ncrit=60)
    assert {each.binds for each in found.operators} == {"FP64"}
    assert "p2p_mutual" in {each.operator for each in found.operators}  # it pays where float64 is slow
    narrow = predict(card, precision="single", ncrit=60)
    assert "FP64" not in {each.binds for each in narrow.operators}


@needs_tools
@pytest.mark.parametrize("operator", ["p2p", "p2m", "l2p"])
def test_pairs_of_full_tiles(operator):
    """Pairs by brute force: tiles have 64 targets and 32 sources; a surface of order 4 has 56 points."""
    setup = Setup(Setting(3000, order=ORDER).method, BOOK, device_of(H200))
    tree = grower(sort_points(Setting(3000).make_points(), None, np.float64), DOUBLE)(50)
    lists = setup.near_lists(tree, build_lists(tree))
    count = (tree.box_source_ends - tree.box_source_starts).tolist()
    rows = CardModel(H200, setup, False, lambda activity: None).predict(tree, lists, "fft")
    found = next(each for each in rows if each.operator == operator)
    pairs = []
    for box in np.flatnonzero(tree.is_leaf):
        entries = lists.u.lists[lists.u.starts[box] : lists.u.starts[box + 1]] if operator == "p2p" else [box]
        for entry in entries:
            targets = 56 if operator == "p2m" else count[box]
            pairs.append((targets, 56 if operator == "l2p" else count[entry]))
    assert found.work.pairs == sum(targets * sources for targets, sources in pairs)
    assert found.computed == sum(ceil(targets / 64) * 64 * ceil(sources / 32) * 32 for targets, sources in pairs)


@needs_tools
def test_command(capsys):
    words = ["predict", "gpu", "--card", "H200", "--points", "20000", "--order", "4", "--distribution", "cube"]
    status, said = run_command(capsys, *words)
    assert status == 0
    assert said.startswith("predicted from machine code for H200, not measured\n20,000 points in the cube, laplace")
    assert all(text in said for text in ("all of these", "Assumed: nothing waits", "order 4 as given"))
    status, said = run_command(capsys, *words, "--json", "--ncrit", "60")
    document = json.loads(said)
    assert (status, document["ok"], document["measured"], document["ncrit"]) == (0, True, False, 60)
    assert document["seconds"] == pytest.approx(sum(each["seconds"] for each in document["operators"].values()))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--points", "0"), "points is 0, expected at least 1"),
        (("--distribution", "disc"), "distribution is 'disc', expected 'sphere' or 'cube'"),
        (("--order", "99"), "order is 99"),
        (("--precision", "half"), "precision is 'half'"),
        (("--ncrit", "0"), "ncrit is 0"),
    ],
)
def test_wrong_arguments(capsys, words, message):
    status, said = run_command(capsys, "predict", "gpu", "--card", "H200", *words)
    assert status == 2
    assert message in said


@needs_tools
def test_a_book_for_other_devices(capsys):
    status, said = run_command(capsys, "predict", "pocl_cpu", "--card", "H200")
    assert status == 2
    assert "the book pocl_cpu is not for H200; the book gpu is" in said


def test_without_nvrtc(monkeypatch):
    def architectures():
        raise DeviceError(f"NVRTC is not installed; `{nvrtc.INSTALL}` installs it")

    monkeypatch.setattr(nvrtc, "architectures", architectures)
    with pytest.raises(DeviceError, match="^NVRTC is not installed; "):
        predict(H200)
