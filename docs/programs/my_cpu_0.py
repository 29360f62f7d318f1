"""P2P on my processor."""

from fmmloopy import RecipeBook

BOOK = RecipeBook("my_cpu", device="PoCL")
