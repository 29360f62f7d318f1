"""Orders of axes in memory that recipes choose: read from kernels, followed by plans and checks, alike in a book."""

from __future__ import annotations

from dataclasses import replace

import loopy as lp
import numpy as np
import pytest
from conftest import needs_c, specification

import fmmloopy as fl
from fmmloopy.checking.case import POLYNOMIALS, identical, run_case
from fmmloopy.checking.cases import make_case
from fmmloopy.checking.proof.proving import prove
from fmmloopy.checking.whole import Wrong, check_whole, with_partners
from fmmloopy.execution.devices import C_DEVICE
from fmmloopy.execution.generate import compile_operator
from fmmloopy.execution.key import CodeKey
from fmmloopy.execution.runtime import make_runtime
from fmmloopy.operators import M2L_HADAMARD, OPERATORS
from fmmloopy.recipes import SEQUENTIAL, RecipeBook, RecipeError, sequential_recipe
from fmmloopy.recipes.layouts import as_in_memory, axes_in_memory, from_memory, order_in_memory
from fmmloopy.recipes.layouts import ordered as ordered_arrays
from fmmloopy.transforms import steps

MATRICES = (1, 0, 5, 4, 3, 2)
"""Directions before frequencies, targets before sources."""


def ordered(**orders):
    """Return a sequential recipe with arrays in these orders."""

    def recipe(knl):
        for name, order in orders.items():
            knl = steps.order_axes(knl, order, name)
        yield from sequential_recipe(knl)

    return recipe


def book(spectra, transformed, matrices=MATRICES):
    """Return a book whose stages of M2L's FFT form have these orders, of spectra in the products and transforms."""
    tables = {"Kr": matrices, "Ki": matrices}
    recipes = {
        "m2l_forward": ordered(**dict.fromkeys(("Mr", "Mi"), transformed)),
        "m2l_hadamard": ordered(**dict.fromkeys(("Mr", "Mi", "Lr", "Li"), spectra), **tables),
        "m2l_inverse": ordered(**dict.fromkeys(("Lr", "Li"), transformed)),
    }
    return RecipeBook("ordered", device="", recipes=recipes)


uncertified = pytest.mark.filterwarnings("ignore::fmmloopy.UncertifiedWarning")

SHAPES = {
    "octets last": ((0, 1, 3, 2), (0, 1, 2, 3, 5, 4)),
    "frequencies last": ((2, 1, 3, 0), (4, 3, 5, 0, 1, 2)),
    "siblings first": ((3, 0, 1, 2), (5, 0, 1, 2, 3, 4)),
}


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (0, 2, 1)])
@pytest.mark.parametrize("shape", ["n, 3, m + 1", "f_end - f_start, 1, 8", "2, 1, n", "4, 5, 6"])
def test_orders_are_read_from_kernels(shape, order):
    arguments = [lp.GlobalArg("a", np.float64, shape=shape), lp.ValueArg("n,m,f_start,f_end", np.int32)]
    knl = lp.make_kernel("{[i]: 0 <= i < 1}", "a[0, 0, 0] = i", arguments, lang_version=(2018, 2))
    knl = steps.order_axes(knl, order, "a")
    found = order_in_memory(knl.default_entrypoint.arg_dict["a"])
    one = [axis for axis, length in enumerate(shape.split(",")) if length.strip() == "1"]
    # An axis of length 1 has no place in memory.
    assert [axis for axis in found if axis not in one] == [axis for axis in order if axis not in one]


@pytest.mark.parametrize("tags", ["stride:1,stride:1,stride:1", "stride:16,stride:4,stride:1", "N2,N1,vec"])
def test_there_is_no_order_with_gaps_or_shared_memory(tags):
    knl = lp.make_kernel("{:}", "a[0, 0, 0] = 1", [lp.GlobalArg("a", np.float64, shape=(2, 3, 2))])
    assert order_in_memory(lp.tag_array_axes(knl, "a", tags).default_entrypoint.arg_dict["a"]) is None


def test_what_is_in_memory_comes_back(rng):
    values = rng.random((2, 3, 4, 5))
    order = (2, 0, 3, 1)
    stored = as_in_memory(values, order)
    assert stored.flags.c_contiguous
    assert stored[3, 1, 4, 2] == values[1, 2, 3, 4]
    assert np.array_equal(from_memory(stored.ravel(), values.shape, order), values)
    assert as_in_memory(values, None) is values
    assert np.array_equal(from_memory(values.ravel(), values.shape, None), values)


def test_arrays_that_are_shared_have_axes_of_the_same_names():
    names = {}
    for operator in OPERATORS.values():
        for name, array in ordered_arrays(operator).items():
            assert len(array.axes.split()) == len(array.shape.split(",")), (operator.name, name)
            assert names.setdefault(name, axes_in_memory(array, None)) == axes_in_memory(array, None)
    assert set(names) == {"Kr", "Ki", "Mr", "Mi", "Lr", "Li"}


@needs_c
@pytest.mark.parametrize("operator", ["m2l_forward", "m2l_hadamard", "m2l_inverse"])
@pytest.mark.parametrize("greens", POLYNOMIALS, ids=lambda greens: greens.name)
@pytest.mark.parametrize("orders", SHAPES.values(), ids=SHAPES)
def test_kernels_of_any_order_do_the_same(operator, greens, orders):
    case = make_case(specification(operator, greens))
    runtime = make_runtime(C_DEVICE)
    expected = run_case(case, compile_operator(CodeKey(case.spec, SEQUENTIAL, C_DEVICE)), runtime)
    code = compile_operator(CodeKey(case.spec, book(*orders), C_DEVICE))
    found = run_case(case, code, runtime)
    assert code.layouts
    assert all(identical(found[name], values) for name, values in expected.items())
    unread = run_case(case, replace(code, layouts=()), runtime)
    assert not all(identical(unread[name], values) for name, values in expected.items())


@pytest.mark.parametrize("operator", ["m2l_forward", "m2l_hadamard", "m2l_inverse"])
def test_kernels_of_another_order_count_as_tested(operator):
    spec = specification(operator, POLYNOMIALS[1])
    ((_, sequential),) = sequential_recipe(spec.kernel())
    last = CodeKey(spec, book(*SHAPES["octets last"]), C_DEVICE).steps()[-1].kernel
    assert "has another layout" in prove(sequential, last, spec.operator).reason


@needs_c
@uncertified
@pytest.mark.parametrize("orders", SHAPES.values(), ids=SHAPES)
def test_whole_evaluations(orders, rng):
    points, charges = rng.random((700, 3)), rng.standard_normal(700)
    options = {"device": C_DEVICE, "order": 3, "ncrit": 20, "m2l": "fft"}
    fmm = fl.Fmm(points, recipes=book(*orders), **options)
    assert fmm.lists.v.lists.size
    assert np.array_equal(fmm.evaluate(charges), fl.Fmm(points, recipes="sequential", **options).evaluate(charges))


@needs_c
@uncertified
def test_stages_of_different_orders_are_refused(rng):
    (spectra, _), (_, transformed) = SHAPES["octets last"], SHAPES["siblings first"]
    with pytest.raises(RecipeError) as raised:
        fl.Fmm(rng.random((700, 3)), device=C_DEVICE, recipes=book(spectra, transformed), order=3, ncrit=20, m2l="fft")
    assert str(raised.value) == (
        "ordered: axes of Mr are in memory as sibling kz ky kx component octet in m2l_forward, and as kz ky kx "
        "component sibling octet in m2l_hadamard; order them alike in both recipes"
    )


@pytest.mark.parametrize("operator", ["m2l_forward", "m2l_hadamard", "m2l_inverse"])
def test_operators_are_checked_with_those_that_share_their_arrays(operator):
    """Whole evaluations of a check of one operator need the recipes of all three stages, if these order axes."""
    recipes = {**book(*SHAPES["octets last"]).recipes, "m2m": sequential_recipe}
    found = with_partners(RecipeBook("ordered", device="", recipes=recipes), [operator], C_DEVICE)
    assert (found[0], set(found)) == (operator, {"m2l_forward", "m2l_hadamard", "m2l_inverse"})
    plain = RecipeBook("plain", device="", recipes=dict.fromkeys(recipes, sequential_recipe))
    assert with_partners(plain, [operator], C_DEVICE) == (operator,)
    matrices = RecipeBook("matrices", device="", recipes={"m2l_hadamard": ordered(Kr=MATRICES)})
    assert with_partners(matrices, ["m2l_hadamard"], C_DEVICE) == ("m2l_hadamard",)


@needs_c
@uncertified
@pytest.mark.parametrize("operators", [("m2l_inverse",), ()])
def test_whole_evaluations_of_checks(operators):
    """Of all recipes, and of one that needs the others."""

    def run(made):
        return check_whole(lambda name, limit: None, made, C_DEVICE.description, "mixed", {}, False, operators)

    right, wrong = book(*SHAPES["octets last"]), book(SHAPES["octets last"][0], SHAPES["siblings first"][1])
    assert run(right) == Wrong()
    with pytest.raises(RecipeError, match="order them alike in both recipes"):
        run(wrong)


def test_other_arguments_keep_their_order():
    wrong = RecipeBook("ordered", device="", recipes={"m2l_forward": ordered(multipoles=(0, 2, 1))})
    with pytest.raises(RecipeError, match=r"axes of multipoles are in memory in the order \(0, 2, 1\); only those of "):
        compile_operator(CodeKey(specification("m2l_forward", POLYNOMIALS[1]), wrong, C_DEVICE))
    with pytest.raises(ValueError, match=r"order is \(0, 1\), expected the numbers 0 to 3 of the axes of Mr"):
        steps.order_axes(specification(M2L_HADAMARD.name).kernel(), (0, 1), "Mr")
