"""What cannot be used is refused early, in one line that names value, expectation and remedy."""

from __future__ import annotations

import re

import numpy as np
import pytest
from conftest import slow

import fmmloopy as fl
from fmmloopy.greens import GreensFunction

POINTS = np.random.default_rng(5).random((100, 3))
CHARGES = np.random.default_rng(6).random(100)


def fails(error, text, call, *arguments, **keywords):
    """Assert that a call raises an error whose single line holds a text."""
    with pytest.raises(error, match=re.escape(text)) as caught:
        call(*arguments, **keywords)
    assert "\n" not in str(caught.value)


def changed(array, place, value):
    array = np.array(array, np.float64)
    array[place] = value
    return array


@pytest.fixture(scope="module")
def fmm():
    return fl.Fmm(POINTS, order=3)


# -- points

BAD_POINTS = {
    "nan": (changed(POINTS, (7, 1), np.nan), "[7] is [", "nan", "expected finite numbers; remove it"),
    "infinite": (changed(POINTS, (99, 0), -np.inf), "[99] is [-inf", "expected finite numbers; remove it"),
    "transposed": (POINTS.T, " has shape (3, 100), expected (n, 3): one row per point; transpose it: ", ".T"),
    "flat": (POINTS.ravel(), " has shape (300,), expected (n, 3): one row per point"),
    "two coordinates": (POINTS[:, :2], " has shape (100, 2), expected (n, 3): one row per point"),
    "three axes": (POINTS[None], " has shape (1, 100, 3), expected (n, 3): one row per point"),
    "a number": (1.0, " has shape (), expected (n, 3): one row per point"),
    "no points": (POINTS[:0], " has shape (0, 3), expected at least one point"),
    "an empty list": ([], " has shape (0,), expected (n, 3)"),
    "complex": (POINTS + 0j, " has dtype complex128, expected real numbers"),
    "strings": ([["1", "2", "3"]], " has dtype <U1, expected real numbers"),
    "objects": (np.array([[object()] * 3]), " has dtype object, expected real numbers"),
    "dates": (np.zeros((4, 3), "datetime64[s]"), " has dtype datetime64[s], expected real numbers"),
    "ragged": ([[1, 2, 3], [1, 2]], " is not an array of numbers: "),
    "masked": (
        np.ma.masked_array(POINTS, np.sort(POINTS, axis=None)[-3] < POINTS),
        " has 2 masked entries, expected numbers everywhere; fill them in, or leave these points out",
    ),
}


@pytest.mark.parametrize("which", ["sources", "targets"])
@pytest.mark.parametrize("name", BAD_POINTS)
def test_points(name, which):
    points, *texts = BAD_POINTS[name]
    arguments = {"sources": POINTS, which: points}
    fails(ValueError, which + texts[0], fl.Fmm, **arguments)
    for text in texts[1:]:
        fails(ValueError, text, fl.Fmm, **arguments)


def test_points_without_sources():
    fails(ValueError, "sources has dtype object, expected real numbers", fl.Fmm, None)


def test_complex_points_cannot_be_passed_in_parts():
    for call in (fl.Fmm, lambda points: fl.direct(points, np.ones(len(points)))):
        with pytest.raises(ValueError, match="sources has dtype complex128, expected real numbers$"):
            call(POINTS + 0j)


def test_points_beyond_single_precision():
    points = changed(POINTS, 3, 1e39)
    fails(ValueError, "1e+39", fl.Fmm, points, dtype=np.float32)
    fails(ValueError, "scale the points", fl.Fmm, points, dtype=np.float32)


@pytest.mark.parametrize(
    ("far", "dtype", "warned"),
    [(1e3, np.float32, True), (1e6, np.float32, True), (10, np.float32, False), (1e13, np.float64, False)],
)
def test_a_point_far_away_costs_digits_in_single_precision_only(rng, recwarn, opencl_device, far, dtype, warned):
    points, charges = np.append(rng.random((400, 3)), [[far, 0, 0]], axis=0), rng.standard_normal(401)
    fmm = fl.Fmm(points, dtype=dtype, device=opencl_device)
    said = [str(each.message) for each in recwarn if "float32 is too coarse" in str(each.message)]
    assert bool(said) == warned
    assert all("use dtype=numpy.float64, or leave out points far from the others" in text for text in said)
    expected = fl.direct(points, charges)
    off = np.linalg.norm(fmm.evaluate(charges) - expected) / np.linalg.norm(expected)
    assert off > 2 * fmm.error_estimate if warned else off < 2 * fmm.error_estimate


def test_points_that_rounding_does_not_move_are_no_cause_for_a_warning(recwarn, opencl_device):
    grid = np.mgrid[:6, :6, :6].reshape(3, -1).T
    for points in (np.append(grid, [[1e6, 0, 0]], axis=0), np.ones((9, 3)), grid[:1]):
        fl.Fmm(points, dtype=np.float32, order=3, device=opencl_device)
    assert not [each for each in recwarn if "too coarse" in str(each.message)]


def test_the_hint_to_transpose_is_given_only_where_it_helps():
    with pytest.raises(ValueError) as caught:
        fl.Fmm(POINTS[:, :2])
    assert "transpose" not in str(caught.value)


# -- charges

BAD_CHARGES = {
    "nan": (changed(CHARGES, 5, np.nan), "charges[5] is nan, expected finite numbers"),
    "infinite": (changed(CHARGES, 0, np.inf), "charges[0] is inf, expected finite numbers"),
    "short": (CHARGES[:-1], "charges has shape (99,), expected (100,): one charge per source"),
    "a row": (CHARGES[None], "charges has shape (1, 100), expected (100,): one charge per source"),
    "many axes": (POINTS[:, :, None], "charges has shape (100, 3, 1), expected (100,): one charge per source"),
    "a number": (1.0, "charges has shape (), expected (100,): one charge per source"),
    "none": ([], "charges has shape (0,), expected (100,): one charge per source"),
    "complex": (CHARGES + 1j, "charges has dtype complex128, expected real numbers: pass real and imaginary parts"),
    "strings": (["1"] * 100, "charges has dtype <U1, expected real numbers"),
    "None": (None, "charges and dipoles are None, expected at least one of them"),
    "ragged": ([[1], [1, 2]], "charges is not an array of numbers: "),
    "masked": (np.ma.masked_array(CHARGES, np.arange(100) == 7), "charges has 1 masked entry, expected numbers every"),
}


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("name", BAD_CHARGES)
def test_charges(name, gradient, fmm):
    charges, text = BAD_CHARGES[name]
    fails(ValueError, text, fmm.evaluate, charges, gradient=gradient)


def test_charges_beyond_single_precision():
    fmm = fl.Fmm(POINTS, order=3, dtype=np.float32)
    fails(ValueError, "charges[2] is 1e+39", fmm.evaluate, changed(CHARGES, 2, 1e39))
    fails(ValueError, "it is too large for float32", fmm.evaluate, changed(CHARGES, 2, 1e39))


def test_charges_with_two_components():
    two = GreensFunction("two", (("rinv", "2*rinv"),), homogeneity=-1)
    fmm = fl.Fmm(POINTS, kernel=two, order=3)
    fails(ValueError, "charges has shape (100,), expected (100, 2): 2 components per source", fmm.evaluate, CHARGES)
    wrong = np.ones((2, 100))
    fails(ValueError, "charges has shape (2, 100), expected (100, 2): 2 components", fmm.evaluate, wrong)
    row = changed(np.ones((100, 2)), (4, 1), np.nan)
    fails(ValueError, "charges[4] is [1.0, nan], expected finite numbers", fmm.evaluate, row)


def test_a_bad_call_leaves_nothing_behind(fmm):
    before = fmm.evaluate(CHARGES)
    fails(ValueError, "charges[5] is nan", fmm.evaluate, BAD_CHARGES["nan"][0])
    np.testing.assert_array_equal(fmm.evaluate(CHARGES), before)


# -- options

BAD_OPTIONS = {
    "order 1": ({"order": 1}, "order is 1, expected a whole number from 2 to 16"),
    "order 17": ({"order": 17}, "order is 17, expected a whole number from 2 to 16"),
    "order 6.0": ({"order": 6.0}, "order is 6.0, expected a whole number from 2 to 16"),
    "order text": ({"order": "6"}, "order is '6', expected a whole number from 2 to 16"),
    "ncrit 0": ({"ncrit": 0}, "ncrit is 0, expected a whole number of at least 1"),
    "ncrit -5": ({"ncrit": -5}, "ncrit is -5, expected a whole number of at least 1"),
    "ncrit 2.5": ({"ncrit": 2.5}, "ncrit is 2.5, expected a whole number of at least 1"),
    "ncrit nan": ({"ncrit": np.nan}, "ncrit is nan, expected a whole number of at least 1"),
    "float16": ({"dtype": np.float16}, "dtype is float16, expected numpy.float32 or numpy.float64"),
    "int": ({"dtype": int}, "dtype is int64, expected numpy.float32 or numpy.float64"),
    "complex64": ({"dtype": "complex64"}, "dtype is complex64, expected numpy.float32 or numpy.float64"),
    "no dtype": ({"dtype": "double precision"}, "dtype is 'double precision', expected numpy.float32 or numpy.float64"),
    "m2l qr": ({"m2l": "qr"}, "m2l is 'qr', expected 'fft' or 'svd' or 'dense'"),
    "digits 0": ({"digits": 0, "order": None}, "digits is 0, expected"),
    "digits -3": ({"digits": -3, "order": None}, "digits is -3, expected"),
    "digits 40": ({"digits": 40, "order": None}, "digits is 40, expected"),
    "digits nan": ({"digits": np.nan, "order": None}, "digits is nan, expected"),
    "digits text": ({"digits": "six", "order": None}, "digits is 'six', expected"),
    "digits of single precision": ({"digits": 9, "order": None, "dtype": np.float32}, "digits is 9, expected"),
    "kernel text": ({"kernel": "laplace"}, "kernel is 'laplace', expected"),
    "kernel uncalled": ({"kernel": fl.laplace}, "kernel is <function laplace"),
    "parameters list": ({"parameters": [1]}, "parameters"),
    "parameters number": ({"parameters": {"p2p": 8}}, "parameters"),
}


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_options(name):
    keywords, text = BAD_OPTIONS[name]
    fails(ValueError, text, fl.Fmm, POINTS, **{"order": 3, **keywords})


@pytest.mark.parametrize("value", [2, pytest.param(16, marks=slow), np.int32(3), np.uint8(4)])
def test_every_kind_of_whole_number_is_an_order(value):
    assert fl.Fmm(POINTS, order=value, ncrit=np.int64(200)).order == value


@pytest.mark.parametrize("which", ["abacus", "OpenCL 17"])
def test_unknown_device(which):
    text = f"no device matches {which!r}; there are '"
    fails(fl.DeviceError, text, fl.Fmm, POINTS, device=which)
    fails(fl.DeviceError, "c CPU through the system's C compiler, sequential", fl.Fmm, POINTS, device=which)
    fails(fl.DeviceError, "; give part of one of these", fl.Fmm, POINTS, device=which)


@pytest.mark.parametrize("which", [5, 1.5, ["c"]])
def test_device_of_a_wrong_type(which):
    fails((ValueError, fl.DeviceError), repr(which), fl.Fmm, POINTS, device=which)


# -- recipe books


def test_unknown_book():
    fails(fl.RecipeError, "no recipe book 'abacus'; there are ", fl.Fmm, POINTS, recipes="abacus")
    fails(fl.RecipeError, "sequential, or give the path of a .py file that defines BOOK", fl.load_recipes, "abacus")


@pytest.mark.parametrize("which", [5, ["sequential"]])
def test_book_of_a_wrong_type(which):
    fails((ValueError, fl.RecipeError), repr(which), fl.load_recipes, which)


def write(folder, text):
    path = folder / "book.py"
    path.write_text(text)
    return path


@pytest.mark.parametrize("kind", [str, lambda path: path], ids=["text", "Path"])
def test_missing_book_file(kind, tmp_path):
    path = kind(tmp_path / "none.py")
    fails(fl.RecipeError, f"no file {path}; give the path of a .py file that defines BOOK", fl.load_recipes, path)
    fails(fl.RecipeError, f"no file {path}; ", fl.Fmm, POINTS, recipes=path)


def test_book_file_is_a_folder(tmp_path):
    fails(fl.RecipeError, f"no file {tmp_path}; ", fl.load_recipes, tmp_path)


BAD_FILES = {
    "syntax": ("x = 1\ny = = 2\n", "book.py, line 2: invalid syntax"),
    "unclosed": ("BOOK = (\n", "book.py, line 1: '(' was never closed"),
    "raises": ("raise RuntimeError('first line\\nsecond line')\n", "book.py cannot be loaded: RuntimeError: first"),
    "imports": ("import no_such_module\n", "book.py cannot be loaded: ModuleNotFoundError: No module named"),
    "no BOOK": ("x = 1\n", "book.py defines no BOOK; end it with BOOK = RecipeBook(name, device=..., recipes=...)"),
    "not a book": ("BOOK = {}\n", "book.py defines no BOOK; end it with BOOK = RecipeBook("),
    "operator": (
        "from fmmloopy import RecipeBook\nBOOK = RecipeBook('b', '', {'p2q': None})\n",
        "b: recipes for 'p2q', expected one of p2p, p2p_mutual, p2m, ",
    ),
    "tuning": (
        "from fmmloopy import RecipeBook\nBOOK = RecipeBook('b', '', tuning={'p2p': {'lanes': (1,)}})\n",
        "b, p2p: tuning for 'lanes', which is not a keyword argument of the recipe",
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_book_file(name, tmp_path):
    source, text = BAD_FILES[name]
    fails(fl.RecipeError, text, fl.Fmm, POINTS, recipes=write(tmp_path, source))


# -- recipes


def nothing(knl):
    yield from ()


def kernel_alone(knl):
    yield knl


def kernel_first(knl):
    yield knl, "the wrong way round"


def no_kernel(knl):
    yield "read", knl.default_entrypoint
    yield "rewritten", knl


def raises_at_once(knl):
    raise KeyError("first line\nsecond line")
    yield


def raises_later(knl):
    from fmmloopy.recipes import fix_lanes, separate_lanes

    knl = separate_lanes(fix_lanes(knl))
    yield "sequential", knl
    fix_lanes(knl, blanes=3)
    yield "never", knl


def returns_none(knl):
    return None


BAD_RECIPES = {
    nothing: "bad, p2p: the recipe yielded no step; yield (name, kernel) after each rewrite",
    kernel_alone: "bad, p2p, step 1: yielded ",
    kernel_first: "bad, p2p, step 1: yielded ",
    no_kernel: "bad, p2p, step 1 'read': yielded a LoopKernel, expected the kernel",
    raises_at_once: "bad, p2p, before its first step: KeyError: 'first line",
    raises_later: "bad, p2p, after step 1 'sequential': ValueError: no lane parameter 'blanes'; this operator has ",
    returns_none: "bad, p2p: the recipe returned a NoneType; yield (name, kernel) after each rewrite",
}


@pytest.mark.parametrize("recipe", BAD_RECIPES, ids=lambda recipe: recipe.__name__)
def test_recipe(recipe):
    book = fl.RecipeBook("bad", device="", recipes={"p2p": recipe})
    fails(fl.RecipeError, BAD_RECIPES[recipe], fl.Fmm, POINTS, order=3, recipes=book)


def test_a_failing_recipe_is_told_the_names_that_it_may_hold_on_to():
    book = fl.RecipeBook("bad", device="", recipes={"p2p": raises_at_once})
    for text in ("the operator has inames ibox, ilist, ", "rules G_0_0, charge, ", "statements box, tgt_start, "):
        fails(fl.RecipeError, text, fl.Fmm, POINTS, order=3, recipes=book)


def unschedulable(knl):
    import loopy as lp

    from fmmloopy.recipes import fix_lanes

    yield "sums before they begin", lp.add_dependency(fix_lanes(knl), "id:init0", "id:sum0")


def test_kernel_without_a_schedule():
    book = fl.RecipeBook("bad", device="", recipes={"p2p": unschedulable})
    text = "bad, p2p, after step 1 'sums before they begin': no code for this kernel: "
    fails(fl.RecipeError, text, fl.Fmm, POINTS, order=3, recipes=book)


# -- tuning parameters


def test_unknown_tuning_parameter(opencl_device):
    parameters = {"p2p": {"fingers": 8}}
    text = "parameters['p2p'] has 'fingers', expected keywords of the recipe in pocl_cpu: width"
    fails(ValueError, text, fl.Fmm, POINTS, order=3, recipes="pocl_cpu", parameters=parameters, device=opencl_device)


def test_tuning_an_unknown_operator():
    fails((ValueError, fl.RecipeError), "p2q", fl.Fmm, POINTS, order=3, parameters={"p2q": {"lanes": 8}})


@pytest.mark.parametrize("lanes", [0, -1, 2.5, "8", 65])
def test_lanes_out_of_range(lanes, opencl_device):
    """More lanes than 64 would read past the padding of point arrays (fmmloopy.operators.pairwise.PADDING)."""
    options = {"recipes": "simd_cpu", "parameters": {"p2p": {"lanes": lanes}}, "device": opencl_device}
    fails((ValueError, fl.RecipeError), "p2p", fl.Fmm, POINTS, order=3, **options)


def test_book_that_the_c_compiler_cannot_use():
    fails(fl.RecipeError, "sequential", fl.Fmm, POINTS, order=3, device="c", recipes="pocl_cpu")


def test_options_that_the_compiler_refuses(opencl_device):
    book = fl.RecipeBook("bad", device="", build_options=("-no-such-option",))
    text = f"{opencl_device.name} cannot compile p2m"
    fails(fl.DeviceError, text, fl.Fmm, POINTS, order=3, ncrit=2, device=opencl_device, recipes=book)


# -- values of other types


@pytest.mark.parametrize("gradient", [[], "no", None, 2, np.zeros(2)], ids=repr)
def test_gradient(fmm, gradient):
    fails(ValueError, "expected True or False", fmm.evaluate, CHARGES, gradient=gradient)


def test_gradients_that_are_truth_values_of_numpy(fmm):
    assert len(fmm.evaluate(CHARGES, gradient=np.True_)) == 2


def test_runtime():
    expected = "runtime is 5, expected an open device, from fmmloopy.execution.runtime.make_runtime"
    fails(ValueError, expected, fl.Fmm, POINTS, runtime=5)


@pytest.mark.parametrize("name", ["order", "ncrit"])
def test_truth_values_are_no_numbers(name):
    fails(ValueError, f"{name} is True, expected a whole number", fl.Fmm, POINTS, **{name: True})


@pytest.mark.parametrize("name", ["m2l", "precision"])
def test_words(name):
    fails(ValueError, f"{name} is [], expected ", fl.Fmm, POINTS, **{name: []})


def test_masked_arrays_without_masked_entries(fmm):
    np.testing.assert_array_equal(fmm.evaluate(np.ma.masked_array(CHARGES)), fmm.evaluate(CHARGES))


# -- charges near the ends of the range


@pytest.mark.parametrize(
    ("options", "largest"),
    [({"dtype": np.float32}, 1e36), ({}, 1e300), ({"precision": "mixed"}, 1e300), ({"precision": "reduced"}, 1e300)],
    ids=["single", "double", "mixed", "reduced"],
)
def test_very_large_and_small_charges(options, largest):
    """Potentials are up to 15 times the charges here, and sums on surfaces are larger."""
    fmm, dtype = fl.Fmm(POINTS, order=3, **options), options.get("dtype", np.float64)
    charges = CHARGES.astype(dtype) / 2
    expected = fmm.evaluate(charges)
    for exponent in (int(np.log2(largest)), -int(np.log2(largest))):
        found = fmm.evaluate(np.ldexp(charges, exponent))
        # A power of two changes no digit, and in single precision the smallest results have fewer digits.
        np.testing.assert_allclose(np.ldexp(found, -exponent), expected, rtol=1e-4 if dtype == np.float32 else 1e-14)


@pytest.mark.parametrize("options", [{"dtype": np.float32}, {}, {"precision": "mixed"}], ids=str)
def test_potentials_above_the_largest_number(options):
    fmm = fl.Fmm(POINTS, order=3, **options)
    largest = np.finfo(fmm.dtype).max
    for gradient in (False, True):
        fails(ValueError, "divide the charges by a constant", fmm.evaluate, np.full(100, largest), gradient=gradient)
    assert np.isfinite(fmm.evaluate(CHARGES)).all()
