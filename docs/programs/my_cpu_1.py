"""P2P on my processor."""

from fmmloopy import RecipeBook
from fmmloopy.transforms import steps


def p2p(knl, *, lanes: int = 16):
    knl = steps.lane_arrays(knl, lanes)
    yield "targets in lanes", knl


BOOK = RecipeBook("my_cpu", device="PoCL", recipes={"p2p": p2p})
