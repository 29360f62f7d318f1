"""fmmloopy: a kernel-transformation toolkit for the operators of the fast multipole method."""

from fmmloopy.direct import direct
from fmmloopy.execution.devices import Device, DeviceError, find_devices
from fmmloopy.fmm import Fmm
from fmmloopy.greens import GreensFunction, laplace, yukawa
from fmmloopy.recipes.book import RecipeBook, RecipeError
from fmmloopy.recipes.load import load_recipes

__version__ = "0.1.0"

__all__ = [
    "Device",
    "DeviceError",
    "Fmm",
    "GreensFunction",
    "RecipeBook",
    "RecipeError",
    "direct",
    "find_devices",
    "laplace",
    "load_recipes",
    "yukawa",
]
