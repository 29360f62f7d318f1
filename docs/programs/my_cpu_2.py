"""P2P on my processor."""

import loopy as lp

from fmmloopy import RecipeBook
from fmmloopy.transforms import steps


def p2p(knl, *, lanes: int = 16):
    knl = steps.lane_arrays(knl, lanes)
    yield "targets in lanes", knl
    knl = lp.tag_inames(knl, {"ibox": "g.0"})
    yield "one work-group per box", knl


BOOK = RecipeBook("my_cpu", device="PoCL", recipes={"p2p": p2p})
