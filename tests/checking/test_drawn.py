"""Inputs that are drawn at random: large, independent, the same every time, and exact; failing ones are made small."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import cloudpickle
import loopy as lp
import numpy as np
import pytest
from conftest import OPENCL, needs_opencl, slow_but

import fmmloopy as fl
from fmmloopy.checking import cases
from fmmloopy.checking.case import (
    EXACT_LIMIT,
    POLYNOMIAL,
    POLYNOMIAL_3X3,
    SINGLE,
    Case,
    identical,
    run_case,
)
from fmmloopy.checking.cases import make_case
from fmmloopy.checking.check import check_book
from fmmloopy.checking.drawn import BEYOND, drawn, large, large_points
from fmmloopy.checking.inputs import SHIPPED, VECTORS, inputs, of_other_functions, orders_of_transforms, several
from fmmloopy.checking.over import describe, domain_of
from fmmloopy.checking.over.fewer import parts
from fmmloopy.checking.real_cases import SCALES, real_case, term_magnitudes
from fmmloopy.checking.shrink import shrink
from fmmloopy.execution.generate import compile_operator
from fmmloopy.execution.key import CodeKey
from fmmloopy.execution.runtime import make_runtime
from fmmloopy.operators import OPERATORS, P2P, Specification
from fmmloopy.operators.operator import Form
from fmmloopy.precision import FLOAT32, FLOAT64, MIXED
from fmmloopy.recipes import SEQUENTIAL, RecipeBook, fix_lanes, separate_lanes

FUNCTIONS = (POLYNOMIAL, POLYNOMIAL_3X3)


def _large(name: str, types=FLOAT32):
    operator = OPERATORS[name]
    return make_case(Specification(operator, POLYNOMIAL, 2, types), 1, next(large(operator)))


def _run(case):
    return run_case(case, compile_operator(CodeKey(case.spec, SEQUENTIAL, OPENCL[0])), make_runtime(OPENCL[0]))


@pytest.mark.parametrize("name", OPERATORS)
def test_large_inputs_go_beyond_16_bits(name):
    a = _large(name).arguments
    lists = {"target_boxes", "lists", "boxes", "parents", "octet_children", "pair_targets", "pair_sources"} & set(a)
    for index in lists:
        assert a[index].max() >= 2**16, index
        assert a[index].min() < 2**8, index
    if "list_starts" in a:
        starts = a["list_starts"][a["target_boxes"]]
        assert (starts >= 2**16).any()
        assert (starts < 2**8).any()
    if "pair_starts" in a:
        assert a["pair_starts"][-1] > 2**16
        assert len(a["pair_starts"]) > 2**16
    if "ktile_starts" in a:
        assert np.diff(a["ktile_starts"]).max() > 4
        assert a["nktiles"] > 2**15
    if OPERATORS[name].form == Form.TRANSFORM:
        assert a["noctets"] > 2**13
        assert a["kz_start"] == 0
    if any(getattr(argument, "name", "") == "itable" for argument in OPERATORS[name].arguments):
        assert 1 < a["itable"] < a["ntables"] - 1


def test_large_boxes_and_lists_hold_more_than_any_buffer():
    a = _large("p2p").arguments
    for side in ("source", "target"):
        starts, ends = a[f"box_{side}_starts"], a[f"box_{side}_ends"]
        assert (ends - starts).max() > 1024
        assert (starts > 2**16).any()
        # Boxes lie in another order than their numbers, with gaps in between, and share no point.
        order = np.argsort(starts[ends > starts])
        assert (np.diff(order) < 0).any()
        ranges = sorted(zip(starts[ends > starts], ends[ends > starts], strict=True))
        assert all(end <= start for (_, end), (start, _) in pairwise(ranges))
    assert a["nsources"] != a["ntargets"]
    lengths = np.diff(a["list_starts"])[a["target_boxes"]]
    assert lengths.max() > 300
    # Some boxes that are not worked on have lists, and stale numbers.
    skipped = np.setdiff1d(np.arange(a["nboxes"]), a["target_boxes"])
    assert np.diff(a["list_starts"])[skipped].max() > 2**16


@pytest.mark.parametrize("name", OPERATORS)
def test_inputs_are_the_same_every_time(name):
    def arguments():
        found = drawn(OPERATORS[name], FLOAT32, FUNCTIONS, {"tlanes": 4, "blanes": 3}, False)
        return [make_case(spec, 1, layout).arguments for spec, layout in list(found)[1:]]

    for first, second in zip(arguments(), arguments(), strict=True):
        assert first.keys() == second.keys()
        assert all(np.array_equal(first[key], second[key], equal_nan=True) for key in first)


def test_orders_are_odd_even_and_above_eight():
    found = [spec.order for spec, _ in drawn(P2P, FLOAT64, FUNCTIONS, {}, False)]
    assert set(found) >= {2, 4, 5, 6, 7, 8, 9}
    transforms = {order for types in (FLOAT64, FLOAT32, MIXED) for order in orders_of_transforms(types)}
    assert transforms >= {4, 5, 6, 7, 8, 9}


def test_functions_have_several_shapes():
    shapes = {(f.ntarget_components, f.nsource_components) for f in map(several, (FLOAT64, FLOAT32, MIXED))}
    assert shapes == {(3, 3), (4, 3), (2, 2)}


def test_numbers_of_single_terms_span_the_range_of_a_type():
    case = real_case(Specification(P2P, fl.laplace(), 3, FLOAT64), layout=SINGLE)
    sizes = np.abs(case.arguments["targets"])
    assert np.nanmin(sizes[sizes > 0]) < 1e-139
    assert np.nanmax(sizes) > 1e138
    for (nbytes, derivatives), largest in SCALES.items():
        limits = np.finfo(np.float64 if nbytes == 8 else np.float32)
        power = 3 if derivatives else 2
        assert (6 * largest) ** power < limits.max
        assert largest**-power > limits.tiny


def test_some_zeros_are_negative():
    charges = _large("p2p").arguments["charges"]
    zeros = charges[charges == 0]
    assert np.signbit(zeros).any()
    assert not np.signbit(zeros).all()


@pytest.mark.parametrize("layer", ["exact", "hostile", "numerical", "sanitized"])
@pytest.mark.parametrize("name", ["p2p", "m2l_svd"])
def test_inputs_make_the_same_cases_in_another_process(name, layer):
    """What an input is made from is small, whatever it is made into."""
    operator = OPERATORS[name]
    for each in inputs(layer, operator, MIXED, False, lambda *_: {"tlanes": 4}, lambda *_: [SINGLE], lambda _: False):
        text = cloudpickle.dumps(each)
        assert len(text) < 20_000
        here, there = each.case().arguments, cloudpickle.loads(text).case().arguments
        assert here.keys() == there.keys()
        assert all(np.array_equal(here[key], there[key], equal_nan=True) for key in here)


@pytest.mark.parametrize("name", ["p2p", "p2m", "l2p", "m2p"])
def test_full_has_every_function_with_its_inputs_and_outputs(name):
    """Operators with a surface have the functions that stand for it there."""
    operator, found = OPERATORS[name], {}
    for each in of_other_functions(operator, FLOAT64, True):
        found.setdefault(each.spec.greens.name.split("_gradient")[0].split("_times")[0], []).append(each.spec.greens)
    sides = operator.particles
    for greens in SHIPPED.values():
        part = greens.between(sides.sources.is_surface, sides.targets.is_surface)
        functions = found[part.name]
        assert part in functions
        assert any(function.vectors > 1 for function in functions)
        assert any(function.nderivatives for function in functions) == operator.gives_potentials
    dipoles = [name for name in found if "dipoles" in name]
    assert bool(dipoles) == (not sides.sources.is_surface)


@pytest.mark.parametrize("layer", ["exact", "hostile", "numerical", "sanitized"])
def test_full_has_several_vectors_in_all_layers(layer):
    given = inputs(layer, P2P, FLOAT64, True, lambda *_: {"tlanes": 4}, lambda *_: [SINGLE], lambda _: False)
    assert {each.spec.greens.vectors for each in given} == {1, *VECTORS}


@pytest.mark.parametrize("name", ["p2p", "l2p", "p2m"])
def test_terms_of_several_vectors_are_those_of_each(name):
    """Each vector of potentials is as large as its own charges make it."""
    greens = SHIPPED["helmholtz"]
    case = real_case(Specification(OPERATORS[name], greens.for_vectors(3), 3, FLOAT64))
    particles = case.operator.particles
    potentials, charges = particles.targets.array, particles.sources.array
    found = term_magnitudes(case, {potentials: case.arguments[potentials]})[potentials]
    axis = 1 if particles.targets.is_surface else 0
    for vector in range(3):
        here = np.arange(2 * vector, 2 * vector + 2)
        own = dict(case.arguments)
        own[potentials] = case.arguments[potentials].take(here, axis)
        own[charges] = case.arguments[charges].take(here, 1 if particles.sources.is_surface else 0)
        alone = Case(Specification(OPERATORS[name], greens, 3, FLOAT64), own)
        expected = term_magnitudes(alone, {potentials: own[potentials]})[potentials]
        np.testing.assert_array_equal(found.take(here, axis), expected)


@needs_opencl
@pytest.mark.parametrize(
    "name",
    slow_but(
        lambda name: name in ("p2p", "m2l_svd", "m2l_inverse"),
        ["p2p", "l2p", "l2l", "m2l_svd", "m2l_hadamard", "m2l_inverse"],
    ),
)
def test_drawn_inputs_are_exact_in_single_precision(name, monkeypatch):
    monkeypatch.setattr(cases, "WIDE", 1.0)
    operator = OPERATORS[name]
    for spec, layout in drawn(operator, FLOAT32, FUNCTIONS, {}, False):
        wide = Specification(operator, spec.greens, spec.order, FLOAT64)
        single, double = (_run(make_case(each, 1, layout)) for each in (spec, wide))
        for output, values in double.items():
            assert identical(single[output].astype(np.float64), values), (spec.order, layout.name)
            assert np.nanmax(np.abs(values)) < EXACT_LIMIT


@pytest.mark.parametrize(("name", "linear"), [("p2p", "charges"), ("l2p", "densities"), ("l2l", "locals")])
def test_numbers_of_several_components_need_float64(name, linear):
    """A recipe that rounds one of several components to float32 gives other bits."""
    for types, factor in ((FLOAT64, cases.WIDE), (FLOAT32, 1)):
        values = make_case(Specification(OPERATORS[name], several(types), 3, types)).arguments[linear]
        here = values[np.isfinite(values) & (values != 0)]
        assert np.abs(here).min() == factor
        assert (here.astype(np.float32) == here).all() == (types == FLOAT32)


def test_parts_are_small_and_then_large():
    assert [list(part) for part in parts(3)] == [[0], [1, 2], [1, 2], [0, 2], [0, 1]]
    found = [len(part) for part in parts(40)]
    assert (sum(found[:16]), max(found[:16])) == (40, 3)
    assert found[16:23] == [20, 20, 30, 30, 30, 30, 35]


@pytest.mark.parametrize("name", OPERATORS)
def test_large_inputs_are_made_small_and_clear(name):
    case = _large(name)
    small = shrink(case, lambda some: True, 60)
    if "target_boxes" in case.arguments:
        assert small.arguments[OPERATORS[name].over.count] <= 2
    used = domain_of(case.operator).used(small)
    assert all(len(numbers) <= 3000 for numbers in used.values())
    for array in case.operator.arrays_for(case.spec.types):
        values = small.arguments[array.name]
        if array.kind != "index" and "nboxes" in array.shape and len(used["nboxes"]) < BEYOND // 2:
            assert np.count_nonzero(values) < values.size / 2, array.name
    assert describe(small) != describe(case)


@needs_opencl
def test_a_rounding_error_is_shrunk_and_reproduced(tmp_path):
    """A buffer for sources that is too short, used where there is a root only: a finding of the numerical layer."""

    def recipe(knl):
        kernel = knl.default_entrypoint
        if any(i.id == "rinv" for i in kernel.instructions):
            kernel = kernel.copy(
                instructions=[
                    i.copy(expression=lp.symbolic.parse("box_source_starts[srcbox] + 1")) if i.id == "src_end" else i
                    for i in kernel.instructions
                ]
            )
        yield "one source", separate_lanes(fix_lanes(knl.with_kernel(kernel), tlanes=4))

    report = check_book(
        RecipeBook("short", "", {"p2m": recipe}), device=OPENCL[0], dtypes=[np.float64], reproducers=tmp_path
    )
    (finding,) = report.findings
    assert (finding.operator, finding.layer, finding.step) == ("p2m", "numerical", "1 'one source'")
    assert finding.case in {f"1 target boxes, 1 list entries, {count} sources" for count in (0, 2)}
    result = subprocess.run([sys.executable, finding.reproducer], capture_output=True, text=True, check=False)
    assert result.returncode == 1, result.stderr


def test_large_layouts_are_few_points_among_many_boxes():
    layout = large_points(P2P)
    assert layout.boxes > 100 * len(layout.sizes)
    assert len(layout.sizes) == len(layout.target_sizes)
