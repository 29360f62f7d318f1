"""What proofs read of a kernel beside its terms."""

from __future__ import annotations

import loopy as lp
import pytest
from corpus.mistakes import lanes as with_lanes
from corpus.mistakes import rule, then
from wrong_kernels import Made

from fmmloopy.checking.proof import NotProved, prove, proving
from fmmloopy.checking.proof.facts import read_facts
from fmmloopy.checking.proof.identity import is_spoilt
from fmmloopy.checking.proof.integers import whole
from fmmloopy.checking.proof.interface import is_row_major
from fmmloopy.checking.proof.terms import ZERO, Call, Entry, Multiply, Select, Test
from fmmloopy.operators import P2P


def test_primes_depend_on_constants_in_rules() -> None:
    # Else one could choose a constant that is one modulo the prime.
    edits = (rule("G_0_0", ("rinv", f"{factor}*rinv")) for factor in (2, 3))
    texts = {proving._text(read_facts(Made(then(edit, with_lanes())).kernels()[1])) for edit in edits}
    assert len(texts) == 2


@pytest.mark.parametrize(("width", "packed"), [(2, True), (3, False), (4, True), (8, True)])
def test_vectors_of_three_take_the_memory_of_four(width: int, packed: bool) -> None:
    knl = lp.make_kernel(
        f"{{[i, j]: 0 <= i < n and 0 <= j < {width}}}",
        "a[i, j] = 1",
        [lp.GlobalArg("a", float, shape=("n", width)), lp.ValueArg("n", int)],
        lang_version=lp.MOST_RECENT_LANGUAGE_VERSION,
    )
    argument = lp.tag_array_axes(knl, "a", "c,vec").default_entrypoint.arg_dict["a"]
    assert is_row_major(argument) == packed


def test_kernels_with_a_barrier_across_work_groups_are_not_proved() -> None:
    sequential, same = Made(with_lanes()).kernels()
    kernel = same.default_entrypoint
    barrier = lp.BarrierInstruction("all", frozenset({"box"}), synchronization_kind="global")
    stopped = same.with_kernel(kernel.copy(instructions=[*kernel.instructions, barrier]))
    assert prove(sequential, stopped, P2P, 60) == NotProved("a barrier across work-groups", "all")


def test_what_is_no_number_spoils_a_sum_unless_a_test_of_it_fails() -> None:
    entry, other = Entry("sources", (whole(0),)), Entry("sources", (whole(1),))
    positive = Test(">", entry, ZERO)
    assert is_spoilt(Multiply(ZERO, entry), entry)
    assert not is_spoilt(Multiply(ZERO, entry), other)
    assert not is_spoilt(Select(positive, entry, ZERO), entry)
    assert is_spoilt(Select(positive, other, ZERO), other)
    assert is_spoilt(Select(positive, ZERO, entry), entry)
    assert is_spoilt(Multiply(entry, Select(positive, entry, ZERO)), entry)
    perhaps = Test(">", Select(Test(">", other, ZERO), ZERO, entry), ZERO)  # the test of the other entry may hold
    assert is_spoilt(Select(perhaps, entry, ZERO), entry)
    assert is_spoilt(Select(Test(">", Call("pow", (entry, ZERO)), ZERO), entry, ZERO), entry)
