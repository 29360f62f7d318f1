"""What proofs read of a kernel beside its terms."""

from __future__ import annotations

import loopy as lp
import pytest
from corpus.mistakes import lanes as with_lanes
from corpus.mistakes import rule, then
from wrong_kernels import Made

from fmmloopy.checking.proof import NotProved, prove, proving
from fmmloopy.checking.proof.facts import read_facts
from fmmloopy.checking.proof.interface import _is_row_major
from fmmloopy.operators import P2P


def test_primes_depend_on_constants_in_rules() -> None:
    # Else one could choose a constant that is one modulo the prime.
    edits = (rule("G_0_0", ("rinv", f"{factor}*rinv")) for factor in (2, 3))
    texts = {proving._text(read_facts(Made(then(edit, with_lanes())).kernels()[1])) for edit in edits}
    assert len(texts) == 2


@pytest.mark.parametrize(("width", "is_row_major"), [(2, True), (3, False), (4, True), (8, True)])
def test_vectors_of_three_take_the_memory_of_four(width: int, is_row_major: bool) -> None:
    knl = lp.make_kernel(
        f"{{[i, j]: 0 <= i < n and 0 <= j < {width}}}",
        "a[i, j] = 1",
        [lp.GlobalArg("a", float, shape=("n", width)), lp.ValueArg("n", int)],
        lang_version=lp.MOST_RECENT_LANGUAGE_VERSION,
    )
    argument = lp.tag_array_axes(knl, "a", "c,vec").default_entrypoint.arg_dict["a"]
    assert _is_row_major(argument) == is_row_major


def test_kernels_with_a_barrier_across_work_groups_are_not_proved() -> None:
    sequential, same = Made(with_lanes()).kernels()
    kernel = same.default_entrypoint
    barrier = lp.BarrierInstruction("all", frozenset({"box"}), synchronization_kind="global")
    stopped = same.with_kernel(kernel.copy(instructions=[*kernel.instructions, barrier]))
    assert prove(sequential, stopped, P2P, 60) == NotProved("a barrier across work-groups", "all")
