"""Recipes: how a math-level operator becomes fast on one family of devices.

This package exports all that authors of books need; :mod:`fmmloopy.recipes.book` explains what a recipe is.
"""

from fmmloopy.operators.operator import Kernel
from fmmloopy.recipes.apply import Step, apply_recipe
from fmmloopy.recipes.book import SEQUENTIAL, Condition, Recipe, RecipeBook, RecipeError
from fmmloopy.recipes.lanes import LANE_BOUNDS, fix_lanes, lanes_of, open_lanes, separate_lanes, sequential_recipe
from fmmloopy.recipes.load import load_recipes, shipped_books

__all__ = [
    "LANE_BOUNDS",
    "SEQUENTIAL",
    "Condition",
    "Kernel",
    "Recipe",
    "RecipeBook",
    "RecipeError",
    "Step",
    "apply_recipe",
    "fix_lanes",
    "lanes_of",
    "load_recipes",
    "open_lanes",
    "separate_lanes",
    "sequential_recipe",
    "shipped_books",
]
