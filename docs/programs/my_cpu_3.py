"""P2P on my processor: targets in short arrays, the loop over them innermost, so that the compiler makes vectors."""

import loopy as lp

from fmmloopy import RecipeBook
from fmmloopy.transforms import steps


def p2p(knl, *, lanes: int = 16):
    """Sixteen targets share each source that is loaded; compilers vectorize a short innermost loop over arrays."""
    knl = steps.lane_arrays(knl, lanes)
    yield "targets in lanes", knl
    knl = lp.tag_inames(knl, {"ibox": "g.0"})
    yield "one work-group per box", knl
    knl = steps.newton_rsqrt(knl)
    yield "reciprocal square root by Newton's iteration", knl


BOOK = RecipeBook("my_cpu", device="PoCL", recipes={"p2p": p2p}, tuning={"p2p": {"lanes": (8, 16, 32)}})
