"""Mistakes in mutual P2P: in tiles, charges of idle lanes, and stores of both sums."""

from __future__ import annotations

from corpus.entries import Wrong, wrong
from corpus.mistakes import rewrite, rule, store_in_place_of_adding

ENTRIES: tuple[Wrong, ...] = (
    wrong("p2p_mutual", "lost tail", "exact", "tail of the first box lost",
          "points beyond its last full tile keep potential 0",
          rewrite("ttiles", (" + tlanes + -1", ""))),
    wrong("p2p_mutual", "lost tail", "exact", "tail of the second box lost",
          "points beyond its last full tile act on nobody",
          rewrite("stiles", (" + slanes + -1", ""))),
    wrong("p2p_mutual", "store", "exact", "sums of the first box replace what is there",
          "only the last pair of a box counts",
          store_in_place_of_adding("store*")),
    wrong("p2p_mutual", "store", "exact", "sums of the second box replace what is there",
          "only the last pair of a box counts",
          store_in_place_of_adding("back*")),
    wrong("p2p_mutual", "mask", "exact", "idle lanes have charges",
          "the last point of a box acts several times",
          rule("other_charge", ("< tgt_end", "< tgt_end + tlanes"))),
)  # fmt: skip
