"""Sphinx configuration."""

from importlib.metadata import version as installed_version

project = "fmmloopy"
author = "The fmmloopy developers"
copyright = "2026, The fmmloopy developers"
version = release = installed_version("fmmloopy")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
napoleon_numpy_docstring = False
napoleon_use_ivar = True

html_theme = "furo"
html_title = "fmmloopy"
