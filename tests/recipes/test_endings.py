"""Recipes that go on after their last yield: what they make there is lost, so they are rejected; others are not."""

from __future__ import annotations

import contextlib
import inspect
import runpy
from pathlib import Path

import loopy as lp
import pytest
from conftest import specification
from corpus import RIGHT

from fmmloopy.recipes import RecipeBook, RecipeError, apply_recipe, fix_lanes, separate_lanes, shipped_books
from fmmloopy.transforms import steps

DROPPED = "what follows the last yield is dropped: yield it (test_endings.py, line "


def groups(knl):
    return lp.tag_inames(knl, {"ibox": "g.0"})


def first(knl):
    return separate_lanes(fix_lanes(knl, tlanes=4))


# -- wrong: each function makes a kernel in the line that ends with "# lost"


def rewritten(knl):
    yield "lanes", first(knl)
    yield "lanes again", (knl := first(knl))
    knl = groups(knl)  # lost


def under_a_new_name(knl):
    tiled = first(knl)
    yield "lanes", tiled
    fast = groups(tiled)  # lost
    assert fast


def in_a_branch(knl, *, lanes=8):
    knl = first(knl)
    yield "lanes", knl
    if lanes > 4:
        knl = groups(knl)  # lost
    else:
        yield "groups", groups(knl)


def at_the_end_of_a_loop(knl):
    knl = first(knl)
    for tag in ("unr", "g.0"):
        yield f"before {tag}", knl
        knl = lp.tag_inames(knl, {"t" if tag == "unr" else "ibox": tag})  # lost


def in_the_finally_part(knl):
    try:
        knl = first(knl)
        yield "lanes", knl
    finally:
        knl = groups(knl)  # lost


def within_a_context(knl):
    with contextlib.nullcontext():
        knl = first(knl)
        yield "lanes", knl
        knl = groups(knl)  # lost


def without_a_name(knl):
    knl = first(knl)
    yield "lanes", knl
    lp.tag_inames(knl, {"ibox": "g.0"})  # lost


def by_a_step(knl):
    knl = first(knl)
    yield "lanes", knl
    steps.one_group_per(knl, "ibox")  # lost


def into_a_dictionary(knl):
    made = {"one": first(knl)}
    yield "lanes", made["one"]
    made["two"] = groups(knl)  # lost


def returned(knl):
    knl = first(knl)
    yield "lanes", knl
    return groups(knl)  # lost


def returned_as_a_step(knl):
    knl = first(knl)
    yield "lanes", knl
    return "groups", groups(knl)  # lost


def _helper(knl):
    knl = first(knl)
    yield "lanes", knl
    return groups(knl)


def _helper_that_goes_on(knl):
    knl = first(knl)
    yield "lanes", knl
    knl = groups(knl)  # lost by the helper


def by_a_helper(knl):
    yield from _helper_that_goes_on(knl)


def after_a_helper(knl):
    yield from _helper_that_is_right(knl)
    knl = groups(first(knl))  # lost


def not_yielded_again(knl):
    knl = yield from _helper(knl)  # lost


# -- right


def _helper_that_is_right(knl):
    knl = first(knl)
    yield "lanes", knl
    return knl


def the_end(knl):
    knl = first(knl)
    yield "lanes", knl


def bare_return(knl):
    knl = first(knl)
    yield "lanes", knl
    return


def returned_as_it_was_yielded(knl):
    knl = first(knl)
    yield "lanes", knl
    return knl


def nothing_but_talk(knl, *, lanes=8):
    before = knl
    knl = first(knl)
    yield "lanes", knl
    pass
    "a remark"
    assert knl is not before
    count = len(knl.default_entrypoint.instructions)
    print(f"{count} statements", knl.default_entrypoint.name)
    del before


def changed_in_nothing(knl):
    knl = first(knl)
    yield "lanes", knl
    knl = lp.tag_inames(knl, {})


def in_a_counted_loop(knl):
    number, makers = 0, (first, groups)
    while number < 2:
        knl = makers[number](knl)
        yield f"step {number}", knl
        number += 1


def a_branch_not_taken(knl, *, newton=False):
    knl = first(knl)
    yield "lanes", knl
    if newton:
        knl = groups(knl)
        yield "groups", knl


def an_early_return(knl, *, lanes=4):
    knl = first(knl)
    if lanes == 4:
        yield "lanes", knl
        return
    knl = groups(knl)
    lp.tag_inames(knl, {})
    yield "groups", knl


def the_other_branch(knl, *, lanes=4):
    made = {}
    if lanes == 4:
        knl = first(knl)
        yield "lanes", knl
    else:
        made["other"] = groups(knl)
        yield "groups", made["other"]


def tries_that_are_rejected(knl):
    for rewrite in (first, groups, lambda knl: lp.tag_inames(knl, {"t": "unr"})):
        candidate = rewrite(knl)
        if "g.0" in str(candidate) or rewrite is first:
            knl = candidate
            yield "a step", knl


def a_helper_whose_kernel_is_used(knl):
    knl = yield from _helper(knl)
    knl = lp.tag_inames(knl, {"t": "unr"})
    yield "unrolled", knl


def a_helper_at_the_end(knl):
    knl = yield from _helper_that_is_right(knl)


def an_error_is_handled(knl):
    knl = first(knl)
    try:
        yield "lanes", knl
    except GeneratorExit:
        knl = groups(knl)
        raise


WRONG = [
    rewritten, under_a_new_name, in_a_branch, at_the_end_of_a_loop, in_the_finally_part, within_a_context,
    without_a_name, by_a_step, into_a_dictionary, returned, returned_as_a_step, by_a_helper, after_a_helper,
    not_yielded_again,
]  # fmt: skip
GOOD = [
    the_end, bare_return, returned_as_it_was_yielded, nothing_but_talk, changed_in_nothing, in_a_counted_loop,
    a_branch_not_taken, an_early_return, the_other_branch, tries_that_are_rejected, a_helper_whose_kernel_is_used,
    a_helper_at_the_end, an_error_is_handled,
]  # fmt: skip


def apply(recipe, operator="p2p", parameters=None, **options):
    math = specification(operator).kernel()
    return apply_recipe(RecipeBook("mine", "", {operator: recipe}), operator, math, parameters, **options)


def line_of(recipe, mark):
    lines, start = inspect.getsourcelines(recipe)
    return next(start + n for n, line in enumerate(lines) if mark in line)


@pytest.mark.parametrize("recipe", WRONG, ids=lambda recipe: recipe.__name__)
def test_what_is_made_after_the_last_yield_is_rejected(recipe):
    with pytest.raises(RecipeError) as caught:
        apply(recipe)
    text = str(caught.value)
    assert text.startswith("mine, p2p, after step ")
    assert "\n" not in text
    where = _helper_that_goes_on if recipe is by_a_helper else recipe
    assert f": {DROPPED}{line_of(where, '# lost')})" in text


@pytest.mark.parametrize("recipe", GOOD, ids=lambda recipe: recipe.__name__)
def test_endings_without_a_kernel_are_accepted(recipe):
    assert apply(recipe)


def test_a_recipe_without_its_text_is_rejected_too():
    names = {"first": first, "groups": groups}
    exec("def p2p(knl):\n    knl = first(knl)\n    yield 'lanes', knl\n    knl = groups(knl)\n", names)
    with pytest.raises(RecipeError, match=r"what follows the last yield is dropped: yield it \(<string>, line 4\)"):
        apply(names["p2p"])


def test_some_steps_of_a_recipe_say_nothing_of_its_end():
    assert len(apply(rewritten, most=2)) == 2


def test_the_line_of_a_failing_recipe_is_that_of_the_recipe():
    def p2p(knl):
        yield "lanes", first(knl)
        raise ValueError("broken")  # here

    with pytest.raises(RecipeError, match=f"ValueError: broken \\(test_endings.py, line {line_of(p2p, '# here')}\\)"):
        apply(p2p)


@pytest.mark.parametrize("entry", RIGHT, ids=lambda entry: f"{entry.operator}: {entry.name}")
def test_unusual_right_recipes_are_accepted(entry):
    assert apply(entry.recipe, entry.operator)


def test_shipped_books_and_those_of_the_documentation_are_accepted():
    folder = Path(__file__).parents[2] / "docs" / "programs"
    own = [runpy.run_path(str(path))["BOOK"] for path in sorted(folder.glob("my_cpu_*.py"))]
    done = set()
    for book in (*shipped_books().values(), *own):
        for operator, recipe in book.recipes.items():
            if recipe not in done:  # test_recipes.py has all tuning values
                done.add(recipe)
                assert apply(recipe, operator)
    assert len(done) >= 20
