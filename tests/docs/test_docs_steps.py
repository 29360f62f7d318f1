"""Pages of the steps: each step has one, and what they show is what the code does."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from fmmloopy.transforms import steps

FOLDER = Path(__file__).parents[2] / "docs" / "steps"
if not FOLDER.is_dir():
    pytest.skip("the documentation is not here", allow_module_level=True)
sys.path.insert(0, str(FOLDER))

import excerpt  # noqa: E402
import generate  # noqa: E402
from entries import ENTRIES, Trap  # noqa: E402

# Some pages make mistakes on purpose.
pytestmark = [
    pytest.mark.filterwarnings("ignore::loopy.diagnostic.LoopyWarning"),
    pytest.mark.filterwarnings("ignore:This function is deprecated:DeprecationWarning:loopy"),
]

each_entry = pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)


def entry_of(name):
    return next(entry for entry in ENTRIES if entry.name == name)


def test_every_step_has_an_entry():
    names = generate.steps_to_document()
    assert {"lane_arrays", "work_items", "fix_lanes", "separate_lanes", "polynomial_exp"} <= set(names)
    assert sorted(entry.name for entry in ENTRIES) == sorted(names)


def test_a_new_step_asks_for_an_entry(monkeypatch, tmp_path):
    def new_step(knl):
        return knl

    new_step.__module__ = steps.__name__
    monkeypatch.setattr(steps, "new_step", new_step, raising=False)
    with pytest.raises(ValueError, match=r"steps without an entry in .*entries\.py, .*: \['new_step'\]"):
        generate.write_pages(tmp_path)


@each_entry
def test_a_page_shows_the_call_both_kernels_and_the_traps(entry):
    page = generate.page(entry)
    assert page.startswith(f"# {entry.name}\n\n{getattr(steps, entry.name).__doc__[:5]}")
    assert f"steps.{entry.name}(knl" in page
    assert page.count("\n- ") >= len(entry.traps) >= 1
    before, after = generate.before_and_after(entry)
    assert before != after
    assert "```diff" in page if entry.diff else (before in page and after in page)


@each_entry
def test_excerpts_hold_lines_of_the_code_and_no_others(entry):
    texts = generate.texts_around(entry)
    for text, shown in zip(texts, generate.before_and_after(entry), strict=True):
        arguments = {argument.strip() for line in text.splitlines() for argument in line.split("(")[-1].split(",")}
        lines = {line.strip() for line in text.splitlines()} | {argument.rstrip(")") for argument in arguments}
        assert {line.strip().removesuffix(" {") for line in shown.splitlines()} - {"...", "}"} <= lines


@each_entry
def test_every_step_of_an_example_has_code(entry):
    for step in generate.run(entry.recipe, entry):
        assert "__kernel void" in generate.source(entry.operator, step)


def test_a_text_that_is_no_longer_true_is_an_error():
    entry = entry_of("unroll")
    with pytest.raises(ValueError, match="unroll: 'ur\\[7\\]' is not new after the step"):
        generate.before_and_after(replace(entry, new=("ur[7]",)))
    with pytest.raises(ValueError, match="unroll: nothing is called nobody in the code"):
        generate.before_and_after(replace(entry, keep=("ur", "nobody")))
    with pytest.raises(ValueError, match="unroll: expected 'no such error' in an error, of"):
        generate.page(replace(entry, traps=(replace(entry.traps[0], sign="no such error"),)))
    with pytest.raises(ValueError, match="unroll: expected '' in an error"):  # the recipe is right
        generate.page(replace(entry, traps=(Trap("text", entry.recipe),)))


def test_pages_of_steps_that_are_gone_are_deleted_and_other_files_left_alone(monkeypatch, tmp_path):
    monkeypatch.setattr(generate, "page", lambda entry: f"# {entry.name}")
    (tmp_path / "old_step.md").write_text(f"{generate.MARK}\n\n# old_step\n")
    (tmp_path / "index.md").write_text("# Steps\n")
    written = generate.write_pages(tmp_path)
    assert sorted(tmp_path.glob("*.md")) == sorted([*written, tmp_path / "index.md"])
    page = tmp_path / "unroll.md"
    assert page.read_text() == f"{generate.MARK}\n\n# unroll\n"
    time = page.stat().st_mtime_ns
    generate.write_pages(tmp_path)
    assert page.stat().st_mtime_ns == time


def test_overview_has_all_steps_and_what_the_books_say():
    text = generate.overview()
    assert all(f"[{entry.name}]({entry.name}.md)" in text for entry in ENTRIES)
    assert "### pocl_cpu\n\nCPUs through PoCL 3.0 and older, such as PyPI's `pyopencl[pocl]`" in text


CODE = """
static inline int helper(int a)
{
  return a;
}

__kernel void __attribute__ ((reqd_work_group_size(1, 1, 1))) f(__global double const *__restrict__ x, int const n)
{
  double u[4];
  double y;

  for (int i = 0; i <= -1 + n; ++i)
  {
    y = x[i];
    {
      int const s = 0;

      for (int t = 0; t <= 3; ++t)
        if (t + s < n)
          u[t] = y;
    }
  }
}
"""


def test_excerpt_of_chosen_statements():
    assert excerpt.excerpt(CODE, ["u", "x"]).splitlines() == [
        "__global double const *__restrict__ x",
        "double u[4];",
        "for (int i = 0; i <= -1 + n; ++i) {",
        "  ...",
        "  int const s = 0;",
        "  for (int t = 0; t <= 3; ++t) {",
        "    if (t + s < n) {",
        "      u[t] = y;",
        "    }",
        "  }",
        "}",
    ]
    assert excerpt.excerpt(CODE, ["y"], root="i").splitlines() == [
        "for (int i = 0; i <= -1 + n; ++i) {",
        "  y = x[i];",
        "  ...",
        "}",
    ]


def test_excerpt_of_mathematics():
    text = "arrays\n    u[n]\nloops\n    for a <= i < n\n        y = x[i]   {load}\n        z = y\n        u[i] = z"
    assert excerpt.names_in(text) == {"i", "y", "z", "u"}
    assert excerpt.excerpt(text, ["u"], "i").splitlines() == ["for a <= i < n", "    ...", "    u[i] = z"]


def test_excerpt_names_what_is_missing():
    with pytest.raises(ValueError, match="no loop 'j' in the code; loops are i, t"):
        excerpt.excerpt(CODE, ["u"], "j")
    with pytest.raises(ValueError, match="none of v, w in the code"):
        excerpt.excerpt(CODE, ["v", "w"], "i")
