"""Checks whose process dies: what is run again, and what is a finding."""

from __future__ import annotations

import numpy as np
import pytest

from fmmloopy.checking.layers import check_and_prove, check_operator, count_steps
from fmmloopy.checking.request import LAYERS, Failure, Request
from fmmloopy.checking.workers import ATTEMPTS, _survive
from fmmloopy.common.isolation import ChildCrashed, ChildTimedOut
from fmmloopy.execution.devices import C_DEVICE
from fmmloopy.recipes import SEQUENTIAL

REQUEST = Request(SEQUENTIAL, C_DEVICE, "p2p", np.dtype(np.float64).name, {}, False, LAYERS[:-1], "")
SLOW, DEAD = (
    ChildTimedOut("did not return", "hostile: running step 2 'x'"),
    ChildCrashed("died", "exact: running step 2 'x'"),
)
WRONG = Failure("numerical", "2 'x'", "wrong")


class Made:
    """A worker whose calls end as they are told to, those of whole checks one after the other."""

    def __init__(self, *outcomes, alone=None):
        self.outcomes, self.alone, self.layers = [*outcomes], alone, []

    def call(self, function, request, *_, watch=None):
        if function is count_steps:
            return 0
        if function is check_operator:
            self.layers.append(request.layers)
            found = self.alone
        else:
            assert function is check_and_prove
            found = self.outcomes.pop(0)
        if isinstance(found, Exception):
            raise found
        return found


@pytest.mark.parametrize("failure", [None, WRONG])
def test_layers_after_one_that_took_too_long_are_run(failure):
    """A busy machine once let a recipe pass that the numerical layer rejects."""
    worker = Made(SLOW, (failure, (), frozenset()))
    assert _survive(worker, REQUEST, print)[0] == failure
    assert worker.layers == [("hostile",)]
    assert not worker.outcomes


def test_what_takes_too_long_again_and_again_is_a_finding():
    failure = _survive(Made(*[SLOW] * ATTEMPTS), REQUEST, print)[0]
    assert (failure.layer, failure.step, failure.message) == ("hostile", "2 'x'", "did not return, but not every time")


def test_a_crash_is_a_finding_even_if_it_does_not_come_again():
    failure = _survive(Made(DEAD), REQUEST, print)[0]
    assert (failure.layer, failure.step, failure.message) == ("exact", "2 'x'", "died, but not every time")


def test_what_fails_alone_is_that_finding():
    assert _survive(Made(SLOW, alone=WRONG), REQUEST, print)[0] == WRONG
