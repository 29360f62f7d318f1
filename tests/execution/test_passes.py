"""The passes: which operator comes after which, and what each is given, told by stages that only take notes."""

from __future__ import annotations

import pytest

from fmmloopy.execution.passes import downward_pass, far_pass, near_pass, upward_pass
from fmmloopy.execution.stages import Stages


class Notes:
    """Stands for the stages: writes down the operators, and returns as a value the text of how it was made."""

    def __init__(self, nlevels):
        self.nlevels, self.operators = nlevels, []

    def __getattr__(self, stage):
        assert callable(getattr(Stages, stage)), stage

        def note(*values):
            levels = [f" {value}" for value in values if type(value) is int]
            self.operators.append(stage + "".join(levels))
            return f"{stage}({', '.join(map(str, values))})"

        return note


def evaluate(do, m2l="fft", gradient=False):
    multipoles = upward_pass(do, "charges")
    potentials = near_pass(do, "charges", gradient)
    multipoles = do.receive(multipoles)
    locals_ = downward_pass(do, "charges", multipoles, m2l)
    return far_pass(do, multipoles, locals_, potentials)


def test_the_upward_pass_goes_from_the_leaves_to_the_highest_boxes_with_expansions():
    do = Notes(5)
    multipoles = upward_pass(do, "charges")
    assert do.operators == ["p2m", "upward_equivalent", "m2m 3", "m2m 2", "send"]
    assert multipoles == "send(m2m(m2m(upward_equivalent(p2m(charges)), 3), 2))"


def test_the_downward_pass_goes_from_the_highest_boxes_to_the_leaves():
    do = Notes(5)
    locals_ = downward_pass(do, "charges", "multipoles", "svd")
    assert do.operators == ["m2l", "p2l", "downward_equivalent", "l2l 2", "l2l 3"]
    assert locals_ == "l2l(l2l(downward_equivalent(p2l(charges, m2l(multipoles, svd))), 2), 3)"


@pytest.mark.parametrize("gradient", [False, True])
def test_potentials_add_up_what_reaches_the_targets(gradient):
    do = Notes(5)
    potentials = near_pass(do, "charges", gradient)
    potentials = far_pass(do, "multipoles", "locals", potentials)
    assert do.operators == ["cleared_potentials", "p2p", "l2p", "m2p"]
    assert potentials == f"m2p(multipoles, l2p(locals, p2p(charges, cleared_potentials({gradient}))))"


@pytest.mark.parametrize("nlevels", range(1, 9))
def test_operators_of_trees_of_all_depths(nlevels):
    """A translation for each level but the last that has expansions; none in a tree without."""
    do = Notes(nlevels)
    evaluate(do)
    up, down = ([f"{name} {level}" for level in range(2, nlevels - 1)] for name in ("m2m", "l2l"))
    expected = ["p2m", "upward_equivalent", *reversed(up), "send", "cleared_potentials", "p2p", "receive"]
    assert do.operators == [*expected, "m2l", "p2l", "downward_equivalent", *down, "l2p", "m2p"]


@pytest.mark.parametrize("m2l", ["fft", "svd", "dense"])
def test_the_form_of_m2l_is_the_one_asked_for(m2l):
    assert f", {m2l})" in evaluate(Notes(3), m2l)


def test_every_multipole_that_is_read_is_complete():
    """M2L and M2P read what the whole upward pass has made."""
    do = Notes(6)
    complete = f"receive({upward_pass(do, 'charges')})"
    text = evaluate(Notes(6))
    assert f"m2l({complete}, fft)" in text
    assert f"m2p({complete}, l2p(" in text
