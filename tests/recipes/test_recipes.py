"""Recipes: how books are found, checked and applied, and that every step of every shipped one is a whole kernel."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.metadata
import inspect
import itertools
import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import loopy as lp
import numpy as np
import pytest
from conftest import slow, specification
from loopy.tools import LoopyKeyBuilder

import fmmloopy as fl
from fmmloopy.operators import OPERATORS
from fmmloopy.operators.operator import LANE_PARAMETERS
from fmmloopy.recipes import (
    LANE_BOUNDS,
    SEQUENTIAL,
    RecipeBook,
    RecipeError,
    apply_recipe,
    fix_lanes,
    lanes_of,
    load_recipes,
    separate_lanes,
    shipped_books,
)
from fmmloopy.recipes.fingerprint import fingerprint
from fmmloopy.recipes.lanes import Lanes
from fmmloopy.transforms import steps

ORDER = 3


def device_called(description):
    """Return a device of which nothing else is known."""
    return fl.Device("opencl", "any", description)


@functools.cache
def math(operator, dtype=np.float64):
    """The math-level kernel; kernels are immutable, so tests can share it."""
    return specification(operator, order=ORDER, types=dtype).kernel()


def generate(knl):
    """Generate code; a wish for a loop order and loopy's slower scheduler are no concern here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return lp.generate_code_v2(knl)


# -- how books are found

BOOK_FILE = """
from fmmloopy.recipes import RecipeBook, fix_lanes, separate_lanes

def p2p(knl):
    '''One after the other.'''
    yield "one at a time", separate_lanes(fix_lanes(knl))

BOOK = RecipeBook("mine", device="nothing in particular", recipes={"p2p": p2p})
"""


@pytest.fixture
def book_file(tmp_path):
    path = tmp_path / "my book.py"
    path.write_text(BOOK_FILE)
    return path


def test_book_itself():
    assert load_recipes(SEQUENTIAL) is SEQUENTIAL


@pytest.mark.parametrize("name", shipped_books())
def test_book_by_name(name):
    book = load_recipes(name)
    assert book.name == name
    assert book is shipped_books()[name]


def test_sequential_book_by_name():
    assert load_recipes("sequential") is SEQUENTIAL


@pytest.mark.parametrize("kind", [str, Path])
def test_book_by_path(kind, book_file):
    book = load_recipes(kind(book_file))
    assert book.name == "mine"
    assert [step.name for step in apply_recipe(book, "p2p", math("p2p"))] == ["one at a time"]


def test_book_by_relative_path(book_file, monkeypatch):
    monkeypatch.chdir(book_file.parent)
    assert load_recipes(book_file.name).name == "mine"


def test_two_files_of_one_name_are_two_books(tmp_path):
    books = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / "book.py"
        path.write_text(BOOK_FILE.replace("mine", folder))
        books.append(load_recipes(path))
    assert [book.name for book in books] == ["a", "b"]
    assert inspect.getmodule(books[0].recipes["p2p"]) is not inspect.getmodule(books[1].recipes["p2p"])


class EntryPoint:
    """As much of importlib.metadata.EntryPoint as is needed."""

    def __init__(self, name, loaded):
        self.name, self.loaded = name, loaded

    def load(self):
        return self.loaded


@pytest.fixture
def entry_points(monkeypatch):
    """Call with names and what they stand for."""

    def install(**loaded):
        def entry_points(*, group):
            return [EntryPoint(*item) for item in loaded.items()] if group == "fmmloopy.recipes" else []

        monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)

    return install


def test_book_by_entry_point(entry_points, book_file):
    book = RecipeBook("theirs", device="")
    module = inspect.getmodule(load_recipes(book_file).recipes["p2p"])
    entry_points(theirs=book, module=module)
    assert load_recipes("theirs") is book
    assert load_recipes("module") is module.BOOK
    with pytest.raises(RecipeError, match=r"no recipe book 'ours'; there are .*sequential, theirs, module, or give"):
        load_recipes("ours")


def test_entry_point_that_is_no_book(entry_points):
    entry_points(theirs=np)
    with pytest.raises(RecipeError, match="theirs defines no BOOK"):
        load_recipes("theirs")


def test_shipped_books_come_before_entry_points(entry_points):
    entry_points(pocl_cpu=RecipeBook("impostor", device=""))
    assert load_recipes("pocl_cpu").name == "pocl_cpu"


def test_no_book_is_asked_for():
    """The first that suits the device, else the sequential one."""
    for device in fl.find_devices():
        book = load_recipes(None, device)
        assert book is SEQUENTIAL or book.suits(device)
    assert load_recipes(None, device_called("an abacus")) is SEQUENTIAL
    assert load_recipes() is SEQUENTIAL


# -- books


def test_suits():
    book = RecipeBook("b", device=r"PoCL [34]\.")
    assert book.suits(device_called("opencl CPU PoCL 3.1 Linux"))
    assert not book.suits(device_called("opencl CPU PoCL 5.0 Linux"))
    assert not SEQUENTIAL.suits(device_called(""))


@pytest.mark.parametrize("device", fl.find_devices(), ids=lambda device: device.name)
def test_no_two_shipped_books_claim_one_device(device):
    assert len([book for book in shipped_books().values() if book.suits(device)]) <= 1


def test_book_does_not_follow_the_dictionaries_it_was_made_of():
    recipes = {}
    book = RecipeBook("b", "", recipes)
    recipes["p2p"] = None
    assert not book.recipes
    with pytest.raises(TypeError):
        book.recipes["p2p"] = None


def one(knl, *, lanes: int = 4, boxes: int = 2):
    """Do nothing."""
    yield "one", separate_lanes(fix_lanes(knl))


def test_book_checks_operators_and_tuning():
    RecipeBook("b", "", {"p2p": one}, {"p2p": {"lanes": (4, 8), "boxes": (2,)}})
    with pytest.raises(
        RecipeError, match=r"^b: recipes for 'P2P', expected one of p2p, p2p_mutual, p2m, .*, check_to_equivalent$"
    ):
        RecipeBook("b", "", {"P2P": one})
    with pytest.raises(RecipeError, match=r"^b: tuning for 'p3p', expected one of p2p, "):
        RecipeBook("b", "", {"p2p": one}, {"p3p": {}})
    with pytest.raises(RecipeError, match=r"^b, p2p: tuning for 'lane', which is not a keyword argument of the rec"):
        RecipeBook("b", "", {"p2p": one}, {"p2p": {"lane": (1,)}})
    with pytest.raises(RecipeError, match=r"^b, p2m: tuning for 'lanes', which is not a keyword argument"):
        RecipeBook("b", "", {"p2p": one}, {"p2m": {"lanes": (1,)}})
    with pytest.raises(RecipeError, match=r"^b: by_device of p2p is '\(', not a regular expression: "):
        RecipeBook("b", "", {"p2p": one}, by_device={"p2p": {"(": {}}})
    with pytest.raises(
        RecipeError, match=r"^b, p2p: by_device for 'lane', which is not a keyword argument of the recipe$"
    ):
        RecipeBook("b", "", {"p2p": one}, by_device={"p2p": {"GPU": {"lane": 1}}})


def test_parameters_by_device():
    of_p2p = {"Xeon Max": {"lanes": 16}, "Xeon": {"lanes": 8, "boxes": 1}}
    book = RecipeBook("b", "", {"p2p": one, "p2m": one}, by_device={"p2p": of_p2p})
    assert book.parameters_on("p2p", device_called("a Xeon")) == {"lanes": 8, "boxes": 1}
    assert book.parameters_on("p2p", device_called("a Xeon Max")) == {"lanes": 16}, "the first that is found"
    assert book.parameters_on("p2p", device_called("a Xeon"), {"boxes": 3}) == {"lanes": 8, "boxes": 3}
    assert (
        book.parameters_on("p2p", device_called("an EPYC")) == book.parameters_on("p2m", device_called("a Xeon")) == {}
    )
    assert book.defaults_on("p2p", device_called("a Xeon Max")) == {"lanes": 16, "boxes": 2}
    assert book.defaults_on("m2m", device_called("a Xeon")) == {}, "no recipe"
    assert pickle.loads(pickle.dumps(book)).by_device == book.by_device
    before = book.fingerprint("p2p")
    of_p2p["Xeon"]["lanes"] = 32
    assert book.fingerprint("p2p") == before
    other = RecipeBook("b", "", {"p2p": one, "p2m": one})
    assert book.fingerprint("p2p") != other.fingerprint("p2p")
    assert book.fingerprint("p2m") == other.fingerprint("p2m")


# -- lanes


@pytest.mark.parametrize("operator", OPERATORS)
def test_lanes_that_are_not_given_are_one(operator):
    before = math(operator).default_entrypoint.arg_dict
    fixed = fix_lanes(math(operator))
    assert lanes_of(fixed) == {name: 1 for name in LANE_PARAMETERS if name in before}
    assert not set(LANE_PARAMETERS) & set(fixed.default_entrypoint.arg_dict)


def test_lanes_that_are_given():
    assert lanes_of(fix_lanes(math("p2p"), tlanes=8)) == {"tlanes": 8, "slanes": 1}
    assert lanes_of(math("p2p")) == {}
    with pytest.raises(ValueError, match="no lane parameter 'ilanes'; this operator has tlanes, slanes"):
        fix_lanes(math("p2p"), ilanes=8)


@pytest.mark.parametrize("operator", OPERATORS)
def test_separate_lanes_only_renames_lane_inames(operator):
    """Statements keep their names and their loops, but for lane inames, which get a suffix for their phase."""
    before = fix_lanes(math(operator))
    after = separate_lanes(before).default_entrypoint
    before = before.default_entrypoint
    assert [i.id for i in after.instructions] == [i.id for i in before.instructions]
    for old, new in zip(before.instructions, after.instructions, strict=True):
        assert _without_phases(new.within_inames) == _without_phases(old.within_inames)


def _without_phases(inames):
    return {n.partition("_")[0] if n.partition("_")[0] in ("t", "b", "b2", "k", "i") else n for n in inames}


def test_separate_lanes_leaves_t_to_the_sums():
    knl = separate_lanes(fix_lanes(math("p2p"), tlanes=4)).default_entrypoint
    loops = {i.id: i.within_inames & {"t", "t_load", "t_init", "t_store"} for i in knl.instructions}
    assert loops["sum0"] == {"t"}
    assert loops["x0"] == loops["x1"] == loops["x2"] == {"t_load"}
    assert loops["init0"] == {"t_init"}
    assert loops["store0"] == {"t_store"}


# -- recipes


def test_steps_have_the_names_that_the_recipe_gives():
    def recipe(knl):
        yield "first", knl
        yield "second", fix_lanes(knl)

    steps = apply_recipe(RecipeBook("b", "", {"p2p": recipe}), "p2p", math("p2p"))
    assert [step.name for step in steps] == ["first", "second"]
    assert steps[0].kernel is math("p2p")
    assert lanes_of(steps[1].kernel) == {"tlanes": 1, "slanes": 1}


def test_operator_without_a_recipe_is_sequential():
    (step,) = apply_recipe(RecipeBook("b", "", {"p2m": one}), "p2p", math("p2p"))
    assert step.name == "sequential"


def test_parameters_reach_the_recipe():
    steps = apply_recipe(load_recipes("pocl_cpu"), "p2p", math("p2p"), {"width": 32})
    assert lanes_of(steps[-1].kernel)["tlanes"] == 4
    assert lanes_of(apply_recipe(load_recipes("pocl_cpu"), "p2p", math("p2p"))[-1].kernel)["tlanes"] != 4


def _distinct_recipes():
    """Each recipe of a shipped book with each of its operators, as recipe, book and operator; books share many."""
    found = {}
    for book in (*shipped_books().values(), SEQUENTIAL):
        for operator in OPERATORS:
            recipe = book.recipes.get(operator)
            if recipe is not None or book is SEQUENTIAL:
                found.setdefault((recipe, operator), book)
    return [(recipe, book, operator) for (recipe, operator), book in found.items()]


def _recipes_with_operators():
    """In a quick run, one operator of each recipe, of the next recipe the next one; `test_show.py` schedules all."""
    operators_of, rows = {}, _distinct_recipes()
    for recipe, _, operator in rows:
        operators_of.setdefault(recipe, []).append(operator)
    chosen = {recipe: names[number % len(names)] for number, (recipe, names) in enumerate(operators_of.items())}
    return [
        pytest.param(
            book, name, id=f"{book.name}-{name}", marks=[] if recipe is None or name == chosen[recipe] else slow
        )
        for recipe, book, name in rows
    ]


@pytest.mark.parametrize(("book", "operator"), _recipes_with_operators())
def test_every_step_of_every_shipped_recipe_is_a_whole_kernel(book, operator):
    steps = apply_recipe(book, operator, math(operator))
    assert len({step.name for step in steps}) == len(steps)
    for step in steps:
        generated = generate(step.kernel)
        assert len(generated.device_programs) == 1
    entry = generated.device_programs[0].name
    assert entry in generated.device_code()


@pytest.mark.parametrize(("book", "operator"), _recipes_with_operators())
def test_every_shipped_recipe_takes_single_precision(book, operator):
    knl = apply_recipe(book, operator, math(operator, np.float32))[-1].kernel.default_entrypoint
    assert {arg.dtype.numpy_dtype for arg in knl.args if arg.dtype.numpy_dtype.kind == "f"} == {np.dtype(np.float32)}


def _shipped():
    return [(book, operator) for book in shipped_books().values() for operator in book.recipes]


def test_every_shipped_recipe_says_why():
    for book, operator in _shipped():
        recipe = book.recipes[operator]
        assert (recipe.__doc__ or "").strip(), f"{book.name}, {operator}: {recipe.__name__} has no docstring"


def test_every_shipped_book_says_where_it_was_measured():
    for book in shipped_books().values():
        measured = Path(__file__).parents[2] / "docs" / "measurements" / f"{book.name}.csv"
        text = importlib.import_module(f"fmmloopy.transforms.{book.name}").__doc__
        if "not yet measured on a GPU" in text:
            assert not measured.exists()
            continue
        assert f"Measurements: docs/measurements/{measured.name}" in text
        header, *rows = measured.read_text().splitlines()
        assert {"date", "processor", "runtime"} <= set(header.split(","))
        assert rows


TOGETHER = ("octets_last",)
"""Parameters that must be the same in several recipes; tune changes those of one operator at a time."""


def test_every_shipped_parameter_has_its_default_among_the_values_worth_trying():
    for book, operator in _shipped():
        for keyword, parameter in inspect.signature(book.recipes[operator]).parameters.items():
            if keyword in TOGETHER:
                assert keyword not in book.tuning.get(operator, {}), f"{book.name}, {operator}: {keyword}"
            elif parameter.kind is parameter.KEYWORD_ONLY:
                assert parameter.default in book.tuning[operator][keyword], f"{book.name}, {operator}: {keyword}"
        for given in book.by_device.get(operator, {}).values():
            for keyword, value in given.items():
                assert value in book.tuning[operator][keyword], f"{book.name}, {operator}: {keyword}"


def _one_by_one(lists):
    """Return the first of each list, and each other value in place of one of these."""
    first = [values[0] for values in lists]
    return [first, *([*first[:i], v, *first[i + 1 :]] for i, values in enumerate(lists) for v in values[1:])]


@pytest.mark.parametrize(
    "chosen", [_one_by_one, pytest.param(lambda lists: itertools.product(*lists), id="all", marks=slow)]
)
def test_shipped_tuning_values_can_be_applied(chosen):
    """Each recipe is tried on the first operator that has it."""
    first = {(book.name, book.recipes[operator]): (book, operator) for book, operator in reversed(_shipped())}
    for book, operator in first.values():
        math, tuning = specification(operator).kernel(), book.tuning.get(operator, {})
        for values in chosen([*tuning.values()]):
            *_, last = apply_recipe(book, operator, math, dict(zip(tuning, values, strict=True)))
            for lane, count in lanes_of(last.kernel).items():
                assert count in LANE_BOUNDS[lane], f"{book.name}, {operator}, {values}: {lane} is {count}"


# -- fingerprints


def test_fingerprint_of_an_unchanged_file_stays(book_file):
    first, second = load_recipes(book_file), load_recipes(book_file)
    assert first.fingerprint("p2p") == second.fingerprint("p2p")
    assert first.fingerprint("p2p") != first.fingerprint("p2m"), "one has a recipe in that file and one has not"


def test_fingerprint_changes_with_the_file(book_file):
    before = load_recipes(book_file).fingerprint("p2p")
    book_file.write_text(BOOK_FILE.replace("one at a time", "one by one"))
    assert load_recipes(book_file).fingerprint("p2p") != before


def test_fingerprint_changes_with_a_module_that_the_file_uses(book_file, monkeypatch):
    """Else code that was made with the old module would be taken from the cache."""
    monkeypatch.syspath_prepend(book_file.parent)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # two versions of a second and size look alike to Python
    helper = book_file.parent / "my_rewrites.py"
    book_file.write_text("import my_rewrites\n" + BOOK_FILE.replace("fix_lanes(knl)", "my_rewrites.lanes(knl)"))
    found = []
    for lanes in (4, 8):
        helper.write_text(
            f"from fmmloopy.recipes import fix_lanes\ndef lanes(knl): return fix_lanes(knl, tlanes={lanes})"
        )
        sys.modules.pop("my_rewrites", None)
        importlib.invalidate_caches()
        found.append(load_recipes(book_file).fingerprint("p2p"))
    sys.modules.pop("my_rewrites", None)
    assert found[0] != found[1]


def _same_digits():
    """Pairs of functions that differ in what they do, and not in the characters of their constants."""

    def positional(a=1, b=64):
        yield a, b

    def other_positional(a=16, b=4):
        yield a, b

    def of(value):
        def recipe(knl):
            yield value, knl

        return recipe

    class Callable:
        def __init__(self, lanes):
            self.lanes = lanes

        def __call__(self, knl):
            yield self.lanes, knl

        def method(self, knl):
            yield self.lanes, knl

    other_positional.__code__ = positional.__code__
    return {
        "defaults": (positional, other_positional),
        "tuples": (of((1, 64)), of((16, 4))),
        "scalars of numpy": (of(np.int64(1)), of(np.int64(2))),
        "arrays": (of(np.array([1, 2])), of(np.array([1, 3]))),
        "ranges": (of(range(3)), of(range(4))),
        "namespaces": (of(SimpleNamespace(a=1)), of(SimpleNamespace(a=2))),
        "callable objects": (Callable(4), Callable(8)),
        "bound methods": (Callable(4).method, Callable(8).method),
    }


@pytest.mark.parametrize("one_and_other", _same_digits().values(), ids=_same_digits())
def test_fingerprints_of_different_recipes_differ(one_and_other):
    one, other = one_and_other
    assert fingerprint(one) != fingerprint(other)
    assert fingerprint(one) == fingerprint(one)


def test_fingerprint_covers_what_a_shipped_recipe_is_made_of(monkeypatch, book_file):
    """A book that builds on a shipped recipe depends on that recipe's steps too, two modules away."""
    own = 'yield "one at a time", separate_lanes(fix_lanes(knl))'
    book_file.write_text(
        "from fmmloopy.transforms import pocl_cpu\n" + BOOK_FILE.replace(own, "yield from pocl_cpu.p2p(knl)")
    )
    books = load_recipes(book_file), load_recipes("pocl_cpu")
    before = [book.fingerprint("p2p") for book in books]
    assert [book.fingerprint("p2p") for book in books] == before
    monkeypatch.setattr("fmmloopy.transforms.steps.one_group_per", lambda knl, *inames: knl)
    assert all(book.fingerprint("p2p") != old for book, old in zip(books, before, strict=True))


@pytest.mark.parametrize("before", ["", "import fmmloopy.transforms.rewriting", "import loopy"])
def test_fingerprint_does_not_depend_on_what_is_loaded(before):
    program = f"""
{before}
from fmmloopy.recipes.fingerprint import fingerprint
from fmmloopy.transforms import steps
print(fingerprint(steps.share_factors))
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == fingerprint(steps.share_factors)


def test_fingerprint_covers_modules_that_a_step_imports_when_it_runs(monkeypatch):
    before = fingerprint(steps.share_factors)
    monkeypatch.setattr("fmmloopy.recipes.fingerprint._source_of", lambda module: b"another source")
    assert fingerprint(steps.share_factors) != before


def test_fingerprint_changes_with_the_options_of_the_compiler():
    fast = RecipeBook("b", "", build_options=("-cl-fast-relaxed-math",))
    assert fast.fingerprint("p2p") != RecipeBook("b", "").fingerprint("p2p")


def test_fingerprint_tells_recipes_with_other_arguments_apart():
    four, eight = (RecipeBook("b", "", {"p2p": functools.partial(one, lanes=n)}) for n in (4, 8))
    assert four.fingerprint("p2p") != eight.fingerprint("p2p")


def test_fingerprint_tells_recipes_of_one_file_apart():
    """Made by one function, which has captured different values."""

    def recipe(lanes):
        def particles(knl):
            yield "lanes", separate_lanes(fix_lanes(knl, tlanes=lanes))

        return particles

    four, eight = (RecipeBook("b", "", {"p2p": recipe(n)}) for n in (4, 8))
    assert four.fingerprint("p2p") != eight.fingerprint("p2p")


def test_recipe_typed_at_the_prompt(tmp_path):
    """There is no file to hash, and a changed recipe must not run as its old code."""
    program = BOOK_FILE + "print(BOOK.fingerprint('p2p'))\n"
    prints = []
    for text in (program, program.replace("one at a time", "one by one")):
        done = subprocess.run(
            [sys.executable, "-"], input=text, text=True, capture_output=True, cwd=tmp_path, env=os.environ, check=False
        )
        assert done.returncode == 0, done.stderr[-300:]
        prints.append(done.stdout.split()[-1])
    assert prints[0] != prints[1]


def test_loopys_caches_tell_notes_of_other_modules_apart():
    """They hold pickled notes, which a version of the package with the class in another place cannot read."""
    note = Lanes((("tlanes", 4),))
    elsewhere = dataclasses.make_dataclass("Lanes", ["lanes"], bases=(Lanes,), frozen=True)
    elsewhere.__module__, elsewhere.__qualname__ = "fmmloopy.elsewhere", Lanes.__qualname__
    builder = LoopyKeyBuilder()
    assert builder(note) == builder(Lanes((("tlanes", 4),)))
    assert len({builder(note), builder(elsewhere(note.lanes)), builder(Lanes((("tlanes", 8),)))}) == 3


@pytest.mark.parametrize("after", [0, 1])
def test_recipe_that_ends_the_program(after):
    def leaves(knl):
        if after:
            yield "lanes", fix_lanes(knl)
        raise SystemExit("bye")

    where = "after step 1 'lanes'" if after else "before its first step"
    with pytest.raises(RecipeError, match=f"^mine, p2p, {where}: SystemExit: bye "):
        apply_recipe(RecipeBook("mine", "", {"p2p": leaves}), "p2p", specification("p2p").kernel())
