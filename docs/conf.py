"""Sphinx configuration."""

import sys
from importlib.metadata import version as installed_version
from pathlib import Path

project = "fmmloopy"
author = "The fmmloopy developers"
copyright = "2026, The fmmloopy developers"
version = release = installed_version("fmmloopy")

extensions = [
    *("myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"),
    *("sphinx.ext.mathjax", "sphinx-mathjax-offline"),  # the second has MathJax, for pages that are read offline
]
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3
exclude_patterns = [
    "_build",
    "steps/overview.md",
    "gallery/overview.md",
    "corpus.md",
    "generated/convergence.md",
    "generated/corpus_run.md",
    "generated/faults.md",
    "generated/gpu.md",
    "generated/mutants.md",
    "generated/proofs.md",
    "generated/scaling.md",
    "generated/several.md",
]

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
napoleon_numpy_docstring = False
napoleon_use_ivar = True

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["narrow.css"]
html_title = "fmmloopy"


def write_steps(app):
    """Write the pages of the steps, with newly generated code."""
    sys.path.insert(0, str(Path(app.srcdir) / "steps"))
    from generate import write_pages

    write_pages()


def write_gallery(app):
    """Write the pages of the examples."""
    sys.path.insert(0, str(Path(app.srcdir) / "gallery"))
    import pages

    pages.write_pages()


def write_corpus(app):
    """Write the tables of the wrong recipes that the check must reject."""
    folder = Path(app.srcdir)
    sys.path.insert(0, str(folder.parent / "tests"))
    from corpus import tables

    (folder / "corpus.md").write_text(tables() + "\n")


def setup(app):
    app.connect("builder-inited", write_steps)
    app.connect("builder-inited", write_gallery)
    app.connect("builder-inited", write_corpus)
