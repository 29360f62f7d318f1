"""What evaluations are made with, as values: methods, setups, the keys of code, and types by precision."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from conftest import specification

from fmmloopy.components import CHARGES, GRADIENT
from fmmloopy.execution.devices import C_DEVICE
from fmmloopy.execution.setup import Method, Setup
from fmmloopy.greens import laplace, yukawa
from fmmloopy.operators import OPERATORS
from fmmloopy.precision import (
    DOUBLE,
    FLOAT32,
    FLOAT64,
    MIXED,
    MIXED_PRECISION,
    PRECISIONS,
    REDUCED,
    SINGLE,
    Types,
    find_precision,
    find_types,
)
from fmmloopy.recipes import SEQUENTIAL, load_recipes

SETUP = Setup(Method(laplace(), 4), SEQUENTIAL, C_DEVICE)
F64, F32 = np.dtype(np.float64), np.dtype(np.float32)


def texts(setup, **options):
    """Return the text of the key of every operator's code."""
    return {name: setup.code_key(name, **options).text() for name in OPERATORS}


def changed(setup, **options):
    """Return the operators whose code is another one."""
    before, after = texts(SETUP), texts(setup, **options)
    return {name for name in OPERATORS if before[name] != after[name]}


# -- what changes the code of which operators


def test_equal_setups_have_equal_keys():
    again = Setup(Method(laplace(), 4, DOUBLE), SEQUENTIAL, C_DEVICE, {})
    assert again == SETUP
    assert not changed(again)
    assert len(set(texts(SETUP).values())) == len(OPERATORS)


def test_the_order_matters_where_it_is_in_the_loops():
    other = replace(SETUP, method=replace(SETUP.method, order=5))
    assert changed(other) == {name for name, operator in OPERATORS.items() if operator.depends_on_order}


@pytest.mark.parametrize("name", OPERATORS)
def test_records_say_whether_the_order_is_in_the_loops(name):
    """Made for another order, the kernel is the same if and only if its record says so."""
    four, five = (specification(name, order=order).kernel() for order in (4, 5))
    assert (four == five) == (not OPERATORS[name].depends_on_order)


def test_other_functions_are_other_code_of_particle_operators():
    other = replace(SETUP, method=replace(SETUP.method, kernel=yukawa()))
    assert changed(other) == {name for name, operator in OPERATORS.items() if operator.particles}


def test_values_of_parameters_do_not_matter():
    near, far = (replace(SETUP, method=Method(yukawa(decay), 4)) for decay in (0.5, 7.0))
    assert texts(near) == texts(far)


@pytest.mark.parametrize("name", OPERATORS)
def test_parameters_matter_to_their_own_operator(name):
    assert changed(replace(SETUP, parameters={name: {"lanes": 3}})) == {name}


def test_other_books_devices_and_drivers_are_other_code():
    assert changed(replace(SETUP, book=load_recipes("pocl_cpu"))) == set(OPERATORS)
    assert changed(replace(SETUP, device=replace(C_DEVICE, driver="another"))) == set(OPERATORS)


@pytest.mark.parametrize("precision", PRECISIONS.values(), ids=str)
def test_the_precision_matters_where_types_change(precision):
    other = replace(SETUP, method=replace(SETUP.method, precision=precision))
    expected = {name for name, operator in OPERATORS.items() if operator.types_in(precision) != FLOAT64}
    assert changed(other) == expected
    assert precision != DOUBLE or not expected


def test_types_may_be_given_in_place_of_those_of_the_precision():
    setup = replace(SETUP, method=replace(SETUP.method, precision=REDUCED))
    assert setup.code_key("p2p", types=FLOAT64) == SETUP.code_key("p2p")
    assert setup.code_key("p2p").specification.types == MIXED


def test_gradients_are_rows_of_the_function():
    plain, gradient = (SETUP.code_key("l2p", wanted).specification for wanted in (CHARGES, GRADIENT))
    assert (plain.rows, gradient.rows) == (1, 4)
    assert plain.key != gradient.key


def test_setups_are_values():
    with pytest.raises(FrozenInstanceError):
        SETUP.method = Method(laplace(), 5)
    assert SETUP == replace(SETUP) != replace(SETUP, method=Method(laplace(), 5))


# -- precisions


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        *((name, precision) for name, precision in PRECISIONS.items()),
        *((precision, precision) for precision in PRECISIONS.values()),
        ("float64", DOUBLE),
        ("float32", SINGLE),
        (np.float64, DOUBLE),
        (F32, SINGLE),
        (float, DOUBLE),
    ],
    ids=repr,
)
def test_a_precision_is_found_by_its_names_and_dtypes(which, expected):
    assert find_precision(which) is expected
    assert find_precision(expected.dtype_name) is expected


@pytest.mark.parametrize(
    ("which", "message"),
    [
        (np.float16, "dtype is float16, expected float32 or float64"),
        ("int8", "dtype is int8, expected float32 or float64"),
        ("half", "dtype is float16, expected float32 or float64"),
        ("twofold", "dtype is 'twofold', expected float32 or float64"),
        (object(), "dtype is <object .*>, expected float32 or float64"),
    ],
)
def test_what_is_no_precision_is_refused(which, message):
    for find in (find_precision, find_types):
        with pytest.raises(ValueError, match=f"^{message}$"):
            find(which)


def test_types_are_found_by_their_names():
    for types in (FLOAT32, FLOAT64, MIXED):
        assert find_types(types.name) == find_types(types) == types
    assert find_types(np.float32) == Types(F32, F32)
    assert (MIXED.name, MIXED.is_mixed, FLOAT32.is_mixed) == ("mixed", True, False)


def test_every_precision_is_the_table_of_its_numbers():
    """As the documentation has it."""
    expected = {
        DOUBLE: ("float64", F64, F64, F64, F64),
        MIXED_PRECISION: ("mixed", F64, F32, F64, F32),
        REDUCED: ("reduced", F64, F32, F32, F32),
        SINGLE: ("float32", F32, F32, F32, F32),
    }
    found = {p: (p.dtype_name, p.points, p.near, p.expansions, p.spectra) for p in PRECISIONS.values()}
    assert found == expected


@pytest.mark.parametrize("precision", PRECISIONS.values(), ids=str)
@pytest.mark.parametrize("name", OPERATORS)
def test_kernels_have_the_types_of_what_they_stand_between(name, precision):
    """Arrays of a kernel are of no other types, and no kernel computes in more than it reads."""
    operator = OPERATORS[name]
    types = operator.types_in(precision)
    assert types.inner.itemsize <= types.outer.itemsize
    arguments = specification(name, types=types).kernel().default_entrypoint.args
    found = {argument.dtype.numpy_dtype for argument in arguments if argument.dtype.numpy_dtype.kind == "f"}
    assert found <= {types.outer, types.inner}
    assert types.inner in found
