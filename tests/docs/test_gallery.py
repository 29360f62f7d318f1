"""Pages of the examples: each has one, with its picture and output."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "gallery"
if not FOLDER.is_dir():
    pytest.skip("the documentation is not here", allow_module_level=True)
sys.path.insert(0, str(FOLDER))

import pages  # noqa: E402


def test_every_example_has_a_page_with_what_it_prints_and_draws(tmp_path):
    written = {path.name for path in pages.write_pages(tmp_path)}
    assert written == {*(f"{name}.md" for name in pages.names()), pages.OVERVIEW}
    assert {"nbody_leapfrog", "vortex_ring", "stokes_swimmers"} <= set(pages.names())
    overview = (tmp_path / pages.OVERVIEW).read_text()
    for name in pages.names():
        text = (tmp_path / f"{name}.md").read_text()
        assert f"({name}.md)" in overview
        assert f"literalinclude}} ../../examples/{name}.py" in text
        for kept in (pages.output_of(name), pages.picture_of(name)):
            assert kept.stat().st_size > 100
            assert kept.name in text


def test_pages_of_examples_that_are_gone_are_deleted_and_other_files_left_alone(tmp_path):
    (tmp_path / "gone.md").write_text(f"{pages.MARK}\n\n# Gone\n")
    (tmp_path / "index.md").write_text("# Examples\n")
    pages.write_pages(tmp_path)
    assert not (tmp_path / "gone.md").exists()
    assert (tmp_path / "index.md").read_text() == "# Examples\n"


@pytest.mark.parametrize("name", pages.names())
def test_docstrings_name_the_command(name):
    heading, text = pages.heading_and_text(name)
    assert heading
    assert f"python examples/{name}.py" in text
