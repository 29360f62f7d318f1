"""Kernels whose whole numbers may overflow although their value is right, and kernels where they cannot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import loopy as lp
import numpy as np
from corpus.mistakes import assign, change, guard, in_dtype, lanes, rewrite, rule, statement, then, with_dependency
from loopy.symbolic import TypeCast
from pymbolic.primitives import Comparison, FloorDiv, Product, Sum, Variable
from wrong_kernels import Kernel, Made, dense, early, inside, more_domains


def dead_array(knl: Kernel) -> Kernel:
    """Declare the array that `stride_times_position` writes."""
    kernel = knl.default_entrypoint
    dead = lp.TemporaryVariable("dead", np.float64, shape=(8, 1024))
    return knl.with_kernel(kernel.copy(temporary_variables={**kernel.temporary_variables, "dead": dead}))


stride_times_position = then(
    more_domains("[tgt_start] -> {[k]: tgt_start <= k < tgt_start + 8}"),
    statement("dead[k - tgt_start, 0] = 1.0", like="box", name="dead", dep=("tgt_start",)),
    inside("dead", "k"),
    dead_array,
)
"""Writes at ``1024*k - 1024*tgt_start``."""


def in_64_bits(insn: Any) -> Any:
    """Multiply both sides of a guard, in 64 bits."""
    (test,) = insn.predicates
    left, right = (Product((1024, TypeCast(np.dtype(np.int64), side))) for side in (test.left, test.right))
    return insn.copy(predicates=frozenset([Comparison(left, test.operator, right)]))


def from_64_bits(insn: Any) -> Any:
    """Compute 1024 times the place of a list entry in 64 bits."""
    return insn.copy(expression=Product((1024, TypeCast(np.dtype(np.int64), Variable("ilist")))))


def widened_at_last(insn: Any) -> Any:
    """Compute 1024 times the place of a list entry, times one in 64 bits."""
    one = TypeCast(np.dtype(np.int64), 1)
    return insn.copy(expression=FloorDiv(Product((1024, Variable("ilist"), one)), 1024))


def dead_loop(domain: str, *inames: str) -> Made:
    """Run a statement that does nothing in loops of its own."""
    dead = statement("dead = 1.0", like="box", name="dead", dep=("tgt_start",))
    return Made(early(more_domains(domain), dead, inside("dead", *inames)))


def taken_back(insn: Any) -> Any:
    """Add a number to one side of a guard, and subtract it again."""
    (test,) = insn.predicates
    more = Variable("list_end")
    return insn.copy(
        predicates=frozenset([Comparison(test.left, test.operator, Sum((test.right, more, Product((-1, more)))))])
    )


OVERFLOWS: Mapping[str, Made] = {
    "a product in an index": Made(early(rewrite("srcbox", ("ilist", "(ilist*1024) // 1024")))),
    "a product in the index of a number": Made(
        early(rule("charge", ("charges[c_, isrc(s_)]", "charges[c_, (8*isrc(s_)) // 8]")))
    ),
    "a product in a guard": Made(early(guard("store*", "1024*(itgt(t) - tgt_end) < 0"))),
    "a product in a choice": Made(early(rule("charge", ("isrc(s_) < src_end", "2*isrc(s_) < 2*src_end")))),
    "a product in a number of tiles": Made(
        early(assign("ttiles", "(256*(tgt_end - tgt_start) + 256*7) // (256*8)"))
    ),
    "a sum that is taken back": Made(
        early(
            change("store*", taken_back), with_dependency("store*", "list_end")
        )
    ),
    "a negative sum": Made(
        early(
            guard("store*", "itgt(t) - list_end - list_start < tgt_end - list_end - list_start"),
            with_dependency("store*", "list_end", "list_start"),
        )
    ),
    "a constant out of 32 bits": Made(early(guard("store*", "itgt(t) + 1000 < tgt_end + 1000"))),
    "64 bits that become 32": Made(
        early(
            statement("place = 0", like="srcbox", name="place", before="srcbox"),
            change("place", from_64_bits),
            in_dtype(np.int32, "place"),
            rewrite("srcbox", ("ilist", "place // 1024")),
        )
    ),
    "a bound of a loop": Made(
        early(
            more_domains(
                "[list_end, ilist] -> {[rep]: 0 <= rep < 2 and rep <= 1024*list_end - 1024 - 1024*ilist}"
            ),
            inside("sum0", "rep"),
            guard("sum0", "rep < 1"),
            with_dependency("sum0", "list_end"),
        )
    ),
    "a loop to the last number of 32 bits": Made(
        early(
            more_domains("{[rep]: 2147483646 <= rep <= 2147483647}"),
            inside("store0", "rep"),
            guard("store0", "{} and rep < 2147483647"),
        )
    ),
    "64 bits at the end of a product": Made(
        early(
            statement("place = 0", like="srcbox", name="place", before="srcbox"),
            change("place", widened_at_last),
            in_dtype(np.int64, "place"),
            rewrite("srcbox", ("ilist", "place")),
        )
    ),
    "a negative number rounded down": Made(early(guard("store*", "{} and (-1*ibox) // 1024 <= 0"))),
    "a negative number rounded down in an index": Made(
        early(rewrite("srcbox", ("ilist", "ilist + (-1*ibox) // 8 - ((-1*ibox) // 8)")))
    ),
    "a bound rounded up": dead_loop("[ntargets] -> {[rep]: ntargets <= 8*rep and rep <= 5}", "rep"),
    "a bound rounded down": dead_loop("[ntargets] -> {[rep]: 0 <= rep and 1024*rep < ntargets}", "rep"),
    "a quotient in a bound": dead_loop(
        "[ntargets] -> {[rep]: 0 <= rep < 5 and rep <= -ntargets - 8*floor((-ntargets)/8)}", "rep"
    ),
    "the least of two bounds": dead_loop(
        "[ntargets, nsources] -> {[rep]: 0 <= rep < ntargets and rep < -nsources}", "rep"
    ),
    "a bound by a loop inside": dead_loop(
        "[ntargets, nsources] -> {[rep, inner]: 0 <= rep and 100*rep + inner <= 250 and 0 <= inner <= 200 and "
        "ntargets - nsources <= inner}",
        "rep",
        "inner",
    ),
    "a stride times a position": Made(early(stride_times_position)),
    "m2m: a product of columns": Made(
        then(rewrite("sum", ("c, j,", "c, (65536*j) // 65536,")), dense), "m2m"
    ),
    "m2m: a product of boxes": Made(
        then(rewrite("src", ("parents[entry(b)]", "parents[(64*entry(b)) // 64]")), dense), "m2m"
    ),
    "m2l_svd: a row of chunks": Made(
        then(rewrite("pair_start", ("343*chunk + transfer", "(2*(343*chunk + transfer)) // 2")), lanes()), "m2l_svd"
    ),
}  # fmt: skip
"""Wrong kernels by what overflows."""

FITS: Mapping[str, Made] = {
    "a product of lanes": Made(early(guard("store*", "{} and 4096*t < 4096*8"))),
    "a position within a box": Made(early(guard("store*", "itgt(t) - tgt_start < tgt_end - tgt_start"))),
    "64 bits": Made(early(change("store*", in_64_bits))),
}  # fmt: skip
"""Right kernels."""
