"""Operators are records: what they say is true of their kernels, and a new one needs no other file."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import fmmloopy as fl
from fmmloopy.checking import cases
from fmmloopy.checking.case import POLYNOMIALS
from fmmloopy.checking.cases import make_case, shape_of
from fmmloopy.checking.over import describe
from fmmloopy.operators import L2L, M2L, M2L_FORMS, M2M, OPERATORS, P2P, Specification
from fmmloopy.operators.operator import LANE_PARAMETERS, Array, GreensParameters, Kind, Number, Role
from fmmloopy.precision import FLOAT32, FLOAT64, MIXED

FUNCTIONS = [*POLYNOMIALS, fl.yukawa(), fl.laplace().with_gradient()]

SPECIFICATIONS = [
    pytest.param(Specification(operator, greens, 4, types), id=f"{operator.name}-{greens.name}-{types}")
    for operator in OPERATORS.values()
    for greens in FUNCTIONS
    for types in (FLOAT64, FLOAT32, MIXED)
    if (operator.gives_potentials or greens.name != "laplace_gradient")
    and (len(set(operator.sides)) > 1 or not types.is_mixed)
]


@pytest.mark.parametrize("spec", SPECIFICATIONS)
def test_records_name_the_arguments_of_their_kernels(spec):
    knl = spec.kernel().default_entrypoint
    assert knl.name == spec.operator.name
    named = [a.name for a in spec.operator.arguments_for(spec.types) if not isinstance(a, GreensParameters)]
    assert [a.name for a in knl.args if not a.name.startswith("parameter_")] == named
    arrays = {a.name: a for a in spec.operator.arrays_for(spec.types)}
    written = {name for statement in knl.instructions for name in statement.assignee_var_names()}
    assert {name for name, array in arrays.items() if array.role != Role.READ} == written & set(arrays)
    assert set(spec.operator.outputs) == written & set(arrays)
    for argument in knl.args:
        if argument.name in arrays:
            assert argument.dtype.numpy_dtype == spec.dtype_of(arrays[argument.name].kind)
    assert spec.operator.lanes == tuple(a.name for a in knl.args if a.name in LANE_PARAMETERS)


@pytest.mark.parametrize("spec", SPECIFICATIONS)
def test_cases_have_every_argument_in_the_shape_that_the_kernel_reads(spec, monkeypatch):
    monkeypatch.setattr(cases, "WIDE", 1.0)
    case = make_case(spec)
    arguments = case.arguments_for(dict.fromkeys(spec.operator.lanes, 1))
    for argument in spec.operator.arguments_for(spec.types):
        if isinstance(argument, Number) and argument.name not in spec.operator.lanes:
            assert np.isscalar(arguments[argument.name])
        if isinstance(argument, Array):
            values = arguments[argument.name]
            assert values.dtype == spec.dtype_of(argument.kind)
            if argument.kind == Kind.INDEX:
                continue
            assert values.shape == shape_of(spec, argument, arguments)
            least, most = argument.whole
            # Far-off points and potentials, and coordinates relative to a box, are other numbers.
            if argument.role == Role.READ and not spec.types.is_mixed and not argument.same_as:
                assert np.nanmin(values) >= min(least, 0)
                assert np.nanmax(values) <= most
            assert not argument.has_zero_row or not np.nan_to_num(values[-1]).any()
    assert describe(case)
    for name, same in spec.operator.aliases.items():
        assert arguments[name] is arguments[same]


def test_forms_of_m2l_have_their_stages_in_order():
    assert {form: [stage.name for stage in stages] for form, stages in M2L_FORMS.items()} == {
        "fft": ["m2l_forward", "m2l_hadamard", "m2l_inverse"],
        "svd": ["m2l_svd"],
        "dense": ["m2l"],
    }


KEYWORDS = {"fmm.py": {M2L.name}, "tables/cache.py": {M2M.name, L2L.name}}
"""Names that are no operators where they stand: a keyword of Fmm, and the tables of a file."""


def test_no_other_part_of_the_package_knows_operators_by_their_names():
    package = Path(fl.__file__).parent
    found = []
    for path in sorted(package.rglob("*.py")):
        place = path.relative_to(package)
        if place.parts[0] == "operators":
            continue
        tree = ast.parse(path.read_text())
        docstrings = {
            id(node.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        }
        names = OPERATORS.keys() - KEYWORDS.get(place.as_posix(), set())
        found += [
            f"{place}, line {node.lineno}: {node.value!r}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and node.value in names and id(node) not in docstrings
        ]
    assert found == []


def test_a_variant_has_the_name_of_what_it_stands_for():
    with pytest.raises(fl.RecipeError, match="the operator that replaces p2p is named 'other'"):
        fl.RecipeBook("b", device="", operators={"p2p": replace(P2P, name="other")})
