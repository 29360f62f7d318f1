"""The model of costs: estimated work against counted work, and choices against made-up rates."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from conftest import clustered, cube, line, sphere

from fmmloopy.accuracy import ncrit_for
from fmmloopy.choosing import cost_model, work
from fmmloopy.choosing.cost_model import (
    SVD_ORDER,
    SVD_POINTS,
    Candidate,
    Measurement,
    Rates,
    UnknownRate,
    choose,
    estimate_work,
    fit_rates,
    sample_boxes,
    search_ncrit,
    why_fft_alone,
)
from fmmloopy.choosing.work import Work, count_work
from fmmloopy.common.sizes import count_points
from fmmloopy.execution.devices import C_DEVICE
from fmmloopy.execution.setup import Method, Setup
from fmmloopy.greens import GreensFunction, laplace, yukawa
from fmmloopy.octree.lists import build_lists
from fmmloopy.octree.small_boxes import absorb_small_boxes
from fmmloopy.octree.tree import build_tree, grow_tree, sort_points
from fmmloopy.recipes import SEQUENTIAL, load_recipes

ORDER = 4
METHOD = Method(laplace(), ORDER)
SETUP = Setup(METHOD, SEQUENTIAL, C_DEVICE)
PARTICLES = ("p2p", "p2m", "p2l", "l2p", "m2p")
DENSE = ("m2m", "l2l", "check_to_equivalent", "m2l", "m2l_svd", "m2l_forward", "m2l_hadamard", "m2l_inverse")


def rates(pair=1e-9, operation=3e-11, block=0.0, **others):
    """Return made-up rates, those of P2P and such apart from those of dense products."""
    per_unit = dict.fromkeys(PARTICLES, (pair, block)) | dict.fromkeys(DENSE, (operation, 0.0))
    return Rates(per_unit | {name: (unit, 0.0) for name, unit in others.items()})


def counted(tree, m2l="fft", method=METHOD):
    lists = absorb_small_boxes(tree, build_lists(tree), count_points(ORDER))
    return count_work(tree, lists, method, m2l)


# -- estimated work


@pytest.mark.parametrize("make", [cube, sphere, clustered, line], ids=lambda make: make.__name__)
@pytest.mark.parametrize("ncrit", [20, 60])
@pytest.mark.parametrize("separate", [False, True], ids=["same", "separate"])
def test_estimated_seconds_are_near_those_of_all_work(make, ncrit, separate, rng):
    """By rates with which near and far field cost about the same.

    About 200 boxes stand for all of them. What they have to do differs by less than half, and they are spread
    evenly, so the sum is off by less than 0.5 / sqrt(200) = 4%, and by less than three times that in a bad case.
    """
    n = 30_000
    points = sort_points(make(rng, n), sphere(rng, n) if separate else None)
    tree, forms = grow_tree(points, ncrit), ("fft", "svd", "dense")
    for form, estimated in zip(forms, estimate_work(tree, SETUP, forms), strict=True):
        true = counted(tree, form)
        assert estimated.keys() == true.keys()
        expected = sum(rates().seconds(true).values())
        assert sum(rates().seconds(estimated).values()) == pytest.approx(expected, rel=0.1)


def test_pairs_of_leaves_are_estimated_from_one_of_them(rng):
    """A pair is counted where its leaf of the lower number is in the sample; the tolerance is that of other work."""
    setup = Setup(METHOD, load_recipes("pocl_cpu"), C_DEVICE)
    tree = grow_tree(sort_points(cube(rng, 30_000)), 40)
    (estimated,) = estimate_work(tree, setup, ["fft"])
    true = count_work(tree, setup.near_lists(tree, build_lists(tree)), METHOD)
    assert true["p2p_mutual"].pairs > 4 * true["p2p"].pairs
    assert estimated["p2p_mutual"].pairs == pytest.approx(true["p2p_mutual"].pairs, rel=0.1)


@pytest.mark.parametrize("greens", [laplace(), yukawa()], ids=lambda greens: greens.name)
def test_estimates_of_few_boxes_are_exact(greens, rng):
    tree = build_tree(clustered(rng, 1000), sphere(rng, 700), 20)
    assert np.count_nonzero(~tree.is_leaf) > 20
    method = Method(greens, ORDER)
    (estimated,) = estimate_work(tree, replace(SETUP, method=method), ["fft"], sample=10_000)
    true = counted(tree, method=method)
    assert estimated == true
    assert [work.blocks for work in estimated.values()] == [work.blocks for work in true.values()]


def test_chosen_boxes_stand_for_all_split_boxes(rng):
    tree = build_tree(clustered(rng, 5000), None, 10)
    parents, weights = sample_boxes(tree, 50)
    assert 0 < len(parents) <= 50
    assert not tree.is_leaf[parents].any()
    assert np.array_equal(np.flatnonzero(weights), parents)
    assert weights.sum() == pytest.approx(np.count_nonzero(~tree.is_leaf))
    assert sample_boxes(tree, tree.nboxes) == (None, None)


def test_a_root_that_is_a_leaf_has_work(rng):
    tree = build_tree(cube(rng, 30), None, 100)
    (estimated,) = estimate_work(tree, SETUP, ["fft"])
    assert estimated["p2p"] == Work(900, 900 * 12)


# -- rates


def test_rates_are_found_again():
    true = {"p2p": (2e-9, 3e-7), "m2m": (4e-11, 0.0)}
    work = [
        {"p2p": Work(10**6, 12 * 10**6, 300), "m2m": Work(0, 10**7)},
        {"p2p": Work(10**5, 12 * 10**5, 4000), "m2m": Work(0, 10**8)},
    ]
    fitted = fit_rates([Measurement(each, Rates(true).seconds(each)) for each in work])
    for name, (unit, block) in true.items():
        # Relative to what the term takes: 1e6 units a second at most.
        assert fitted.per_unit[name] == (pytest.approx(unit, rel=1e-9), pytest.approx(block, rel=1e-9, abs=1e-15))


def test_rates_are_not_negative():
    """Where more work took less time, as on a disturbed machine."""
    work = [{"p2p": Work(10**6, 12 * 10**6, 10)}, {"p2p": Work(10**5, 12 * 10**5, 1000)}]
    fitted = fit_rates([Measurement(work[0], {"p2p": 1e-3}), Measurement(work[1], {"p2p": 5e-3})])
    assert min(fitted.per_unit["p2p"]) >= 0
    assert max(fitted.per_unit["p2p"]) > 0


def test_operators_that_were_not_timed_borrow_rates():
    found = Rates({"p2m": (1e-9, 0.0), "l2p": (2e-9, 0.0)})
    work = {"p2l": Work(1000, 12_000), "m2p": Work(1000, 12_000), "m2m": Work(0, 0)}
    assert found.seconds(work) == {"p2l": pytest.approx(1e-6), "m2p": pytest.approx(2e-6)}
    with pytest.raises(UnknownRate, match="^m2m$"):
        found.seconds({"m2m": Work(0, 100)})


# -- the search


def valley(bottom):
    """Predict seconds with one minimum, at ``bottom``; P2P is the greater part above it."""
    return lambda ncrit: [Candidate(ncrit, "fft", 10**9 // ncrit, {"p2p": ncrit / bottom, "m2m": bottom / ncrit})]


@pytest.mark.parametrize("bottom", [20, 90, 150, 400, 3000])
def test_search_finds_the_bottom(bottom):
    tried = search_ncrit(150, 10**6, valley(bottom))
    assert [each.ncrit for each in tried] == sorted(each.ncrit for each in tried)
    best = min(tried, key=lambda candidate: candidate.total)
    # The last steps are by the square root of two, so half of one, 2^(1/4) = 1.19, is the most that is missed.
    assert bottom / 1.2 <= best.ncrit <= 1.2 * bottom
    assert len(tried) <= 9


def test_search_stops_at_one_box_and_at_one_point():
    assert max(each.ncrit for each in search_ncrit(150, 500, valley(10**6))) <= 2 * 500
    assert min(each.ncrit for each in search_ncrit(150, 500, valley(1e-6))) >= 1


@pytest.mark.parametrize("largest", [100, 150, 400])
def test_search_stops_at_the_largest_leaf(largest):
    tried = [each.ncrit for each in search_ncrit(150, 10**6, valley(10**4), largest)]
    assert max(tried) == largest
    assert len(tried) == len(set(tried))


# -- choices


@pytest.fixture(scope="module")
def points():
    return sort_points(sphere(np.random.default_rng(1), 20_000))


def choose_for(points, rates_of, forms=("fft",), ncrit=None):
    grow = partial(grow_tree, points)
    return choose(grow, points.most, SETUP, rates_of, forms, ncrit)


def test_ncrit_follows_the_rates(points):
    chosen = [choose_for(points, lambda form, s=s: rates(pair=s))[0].ncrit for s in (1e-10, 1e-9, 1e-8)]
    assert chosen[0] > chosen[1] > chosen[2]


def test_the_best_candidate_is_taken_and_its_tree_returned(points):
    choice, tree = choose_for(points, lambda form: rates())
    best = min(choice.candidates, key=lambda candidate: candidate.total)
    assert (choice.ncrit, choice.m2l) == (best.ncrit, best.m2l)
    assert tree.nboxes == best.nboxes == grow_tree(points, choice.ncrit).nboxes
    assert choice == choose_for(points, lambda form: rates())[0]


@pytest.mark.parametrize("other", ["dense", "svd"])
@pytest.mark.parametrize("other_is_slower", [False, True])
def test_the_form_of_m2l_follows_the_rates(points, other, other_is_slower):
    slower = {"dense": "m2l", "svd": "m2l_svd"}[other] if other_is_slower else "m2l_hadamard"
    choice, _ = choose_for(points, lambda form: rates(**{slower: 1e-6}), ("fft", other))
    assert choice.m2l == ("fft" if other_is_slower else other)
    assert {candidate.m2l for candidate in choice.candidates} == {"fft", other}


@pytest.mark.parametrize("slower", [0.5, 1.0, 3.0])
def test_rates_of_a_busy_device_beside_others(slower):
    quiet, busy = rates(block=1e-7), rates(pair=slower * 1e-9, operation=slower * 3e-11, m2l_svd=slower * 7e-11)
    without = Rates({name: rate for name, rate in quiet.per_unit.items() if name != "m2l_svd"})
    found = busy.beside(without).per_unit
    assert found["m2l_svd"] == pytest.approx((7e-11, 0.0))
    assert {name: found[name] for name in without.per_unit} == without.per_unit
    # Nothing says how busy the device was, so nothing is scaled.
    assert Rates({"m2l": (2.0, 1.0)}).beside(Rates({"p2p": (1.0, 0.0)})).per_unit["m2l"] == (2.0, 1.0)
    assert Rates({"m2l": (2.0, 1.0), "p2p": (0.0, 1.0)}).beside(Rates({"p2p": (1.0, 0.0)})).per_unit["m2l"] == (
        2.0,
        1.0,
    )


@pytest.mark.parametrize(("make", "expected"), [(sphere, "svd"), (cube, "fft")])
def test_with_equal_rates_the_form_follows_the_points(make, expected, rng):
    points = sort_points(make(rng, 10_000))
    for ncrit in (None, 60):
        choice, _ = choose_for(points, lambda form: rates(), ("fft", "svd"), ncrit)
        assert choice.m2l == expected
        other = min((c for c in choice.candidates if c.m2l != expected), key=lambda candidate: candidate.total)
        best = min(candidate.total for candidate in choice.candidates)
        assert choice.reason.endswith(f"; {other.m2l} with ncrit {other.ncrit}, {other.total / best:.2f} times as long")


def test_forms_are_compared():
    assert why_fft_alone(Method(laplace(), SVD_ORDER), SVD_POINTS) is None


DIPOLE = GreensFunction("dipole", (("d0 * rinv**3",),), homogeneity=-2)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"order": SVD_ORDER + 1}, "svd is compared up to order 8"),
        ({"most": SVD_POINTS - 1}, f"svd is compared for {SVD_POINTS:,} points or more"),
        ({"kernel": yukawa()}, "svd is compared only for homogeneous functions"),
        ({"kernel": DIPOLE}, "svd is compared only for homogeneous functions"),
    ],
)
def test_the_fft_form_alone(change, reason):
    given = {"kernel": laplace(), "order": 4, "most": SVD_POINTS, **change}
    assert why_fft_alone(Method(given["kernel"], given["order"]), given["most"]).startswith(reason)


def test_a_choice_reads_factors_once(points, monkeypatch):
    read = []

    def cached_factors(*arguments):
        read.append(arguments)
        return original(*arguments)

    original = work.cached_factors
    monkeypatch.setattr(work, "cached_factors", cached_factors)
    greens = GreensFunction("only_here", (("rinv",),), homogeneity=-1)
    for _ in range(2):
        grow = partial(grow_tree, points)
        choice, _ = choose(
            grow, points.most, replace(SETUP, method=Method(greens, 3)), lambda form: rates(), ("fft", "svd"), None
        )
        assert len({candidate.ncrit for candidate in choice.candidates}) > 1
    assert len(read) == 1


def test_one_tree_is_counted_once(monkeypatch):
    """In a uniform cube many values of ncrit have the same tree."""
    counted = []

    def estimate(tree, *arguments):
        counted.append(tree.nboxes)
        return original(tree, *arguments)

    original = cost_model.estimate_work
    monkeypatch.setattr(cost_model, "estimate_work", estimate)
    points = sort_points(np.random.default_rng(1).random((100_000, 3)))
    choice, tree = choose_for(points, lambda form: rates(), ("fft", "svd"))
    of_tree = [each for each in choice.candidates if each.nboxes == tree.nboxes]
    assert len({each.ncrit for each in of_tree}) > 1
    assert len({each.total for each in of_tree}) == 2  # of the forms
    assert len(counted) == len(set(counted)) == len({each.nboxes for each in choice.candidates})


def test_what_is_given_is_kept(points):
    def never(form):
        raise AssertionError("there is nothing to choose")

    choice, tree = choose_for(points, never, ("dense",), 77)
    assert (choice.ncrit, choice.m2l, choice.reason, choice.candidates, tree) == (77, "dense", "as given", (), None)
    choice, _ = choose_for(points, lambda form: rates(m2l_hadamard=1e-6), ("fft", "dense"), 77)
    assert (choice.ncrit, choice.m2l) == (77, "dense")
    choice, _ = choose_for(points, lambda form: rates(), ("dense",))
    assert choice.m2l == "dense"


@pytest.mark.parametrize("missing", ["all", "m2m"])
def test_without_rates_the_rule_is_used(points, missing):
    some = {name: rate for name, rate in rates().per_unit.items() if name != missing}
    choice, tree = choose_for(points, lambda form: None if missing == "all" else Rates(some))
    assert (choice.ncrit, choice.m2l, choice.candidates, tree) == (ncrit_for(ORDER), "fft", (), None)
    unknown, known = ("rates", "are known") if missing == "all" else ("rate of m2m", "is known")
    assert choice.reason == f"the rule of 25 x order, as no {unknown} of this device with M2L in this form {known}"


def test_forms_without_rates_are_passed_over(points):
    choice, _ = choose_for(points, lambda form: rates() if form == "fft" else None, ("fft", "svd"))
    assert choice.m2l == "fft"
    assert {candidate.m2l for candidate in choice.candidates} == {"fft"}
    no_svd = {name: rate for name, rate in rates().per_unit.items() if name != "m2l_svd"}
    assert choose_for(points, lambda form: Rates(no_svd), ("fft", "svd"))[0] == choice


def test_no_form_is_taken_without_a_comparison_with_the_first(points):
    choice, _ = choose_for(points, lambda form: rates(m2l_svd=1e-30) if form == "svd" else None, ("fft", "svd"))
    assert (choice.ncrit, choice.m2l, choice.candidates) == (ncrit_for(ORDER), "fft", ())


def test_trees_that_stay_the_same_end_the_search():
    """Coincident points are one leaf whatever ncrit: no smaller one is looked for, and none is taken."""
    points = sort_points(np.zeros((5000, 3)))
    grow = partial(grow_tree, points, split_coincident=False)
    choice, _ = choose(grow, points.most, SETUP, lambda form: rates(), ("fft",), None)
    assert choice.ncrit >= ncrit_for(ORDER)
    assert len(choice.candidates) <= 4
