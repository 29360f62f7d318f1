"""What a bundle is for, and why it does not serve a setup."""

from __future__ import annotations

import sys

from fmmloopy.common.bundle import Bundle
from fmmloopy.execution.device import Device
from fmmloopy.execution.key import versions
from fmmloopy.execution.setup import Method, Setup
from fmmloopy.recipes.book import RecipeBook


def purpose(device: Device, book: RecipeBook, method: Method) -> dict[str, str]:
    """Return what a bundle is for that serves a method and others like it, by name."""
    return {
        "device": device.description,
        "driver": device.driver,
        "kernel": method.kernel.name,
        "recipes": book.name,
        "python": ".".join(map(str, sys.version_info[:2])),
        **dict(versions()),
    }


def in_words(method: Method) -> str:
    """Return what a bundle says of a method that it has."""
    return f"order {method.order} in {method.precision.name} precision"


def what_it_lacks(bundle: Bundle, setup: Setup) -> list[str]:
    """Return why a bundle does not serve a setup, in words; nothing if it does."""
    found = bundle.differences(purpose(setup.device, setup.book, setup.method))
    methods = [str(each) for each in bundle.about.get("methods", ())]
    if setup.parameters:
        found.append("it is for recipes with their own parameters, not with those that are tuned or given")
    if not found and in_words(setup.method) not in methods:
        found.append(f"it is for {', '.join(methods)}, not {in_words(setup.method)}")
    return found
