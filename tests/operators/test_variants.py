"""Operators of a book's own: one file states a variant, and all that works on operators takes it as it is."""

from __future__ import annotations

from dataclasses import replace

import pytest
from conftest import clustered, devices, error, slow

import fmmloopy as fl
from fmmloopy.bookshelf.certificates import status
from fmmloopy.checking.case import POLYNOMIALS
from fmmloopy.checking.cases import make_case
from fmmloopy.checking.check import check_book
from fmmloopy.checking.layers import check_operator
from fmmloopy.checking.request import Request
from fmmloopy.execution.devices import C_DEVICE
from fmmloopy.execution.generate import compile_operator
from fmmloopy.execution.runtime import make_runtime
from fmmloopy.execution.setup import Method, Setup
from fmmloopy.measuring import bench
from fmmloopy.measuring.ladder import climb
from fmmloopy.measuring.peaks import Peaks
from fmmloopy.measuring.probes import NEWTON
from fmmloopy.measuring.timing import OperatorTimer, Setting, make_problem
from fmmloopy.operators import M2L, M2M, OPERATORS, P2P, Specification
from fmmloopy.operators.dense import BLOCKS, dense_kernel
from fmmloopy.operators.m2l import TEXT as M2L_TEXT
from fmmloopy.operators.m2m import TEXT
from fmmloopy.precision import MIXED, MIXED_PRECISION
from fmmloopy.recipes import RecipeBook, RecipeError, load_recipes
from fmmloopy.showing.show import shown_operators

FILE = '''
"""P2P with distances from the first target of a leaf, in float64 whatever the precision."""

from dataclasses import replace

from fmmloopy.operators import P2P
from fmmloopy.operators.operator import Particles
from fmmloopy.operators.p2p import SOURCES, TARGETS
from fmmloopy.operators.pairwise import pairwise_kernel
from fmmloopy.recipes import RecipeBook
from fmmloopy.transforms import steps

SIDES = Particles(
    replace(TARGETS, position="targets[k_, i_] - targets[k_, tgt_start]"),
    replace(SOURCES, position="sources[k_, i_] - targets[k_, tgt_start]"),
    "u",
)


def make(spec):
    return pairwise_kernel(spec, SIDES)


VARIANT = replace(P2P, make=make, particles=SIDES, sides=("points", "points"), mixed_arguments=())


def p2p(knl, *, lanes: int = 4):
    knl = steps.lane_arrays(knl, lanes)
    yield "targets in lanes", knl
    yield "one work-group per box", steps.one_group_per(knl, "ibox")


BOOK = RecipeBook("variant", device="", recipes={"p2p": p2p}, operators={"p2p": VARIANT})
'''

DOMAINS = [*BLOCKS, "{[c]: 0 <= c < 8}"]
M2L_DOMAINS = ["{[ibox]: 0 <= ibox < ntargets}", "{[ilist]: list_start <= ilist < list_end}"]

PEAKS = {"float64": Peaks("a processor", "float64", 100e9, {NEWTON: 4e9}, 10e9)}
SMALL = Setting(points=1500, order=3)


@pytest.fixture
def book(tmp_path):
    path = tmp_path / "variant.py"
    path.write_text(FILE)
    return load_recipes(path)


def code(book, operator="p2p", device=C_DEVICE):
    return compile_operator(Setup(Method(fl.laplace(), 3), book, device).code_key(operator))


def test_a_book_gives_its_own_operators_and_the_others(book):
    assert book.operator("p2p") is book.operators["p2p"] is not P2P
    assert all(book.operator(name) is OPERATORS[name] for name in OPERATORS if name != "p2p")


def test_a_variant_is_other_code(book):
    plain = replace(book, operators={})
    keys = [Setup(Method(fl.laplace(), 3), each, C_DEVICE).code_key("p2p").text() for each in (book, plain)]
    assert keys[0] != keys[1]
    assert book.fingerprint("p2p") != plain.fingerprint("p2p")
    assert book.fingerprint("m2m") == plain.fingerprint("m2m")
    sources = [code(replace(each, recipes={})).source for each in (book, plain)]
    assert sources[0] != sources[1]


@pytest.mark.parametrize(
    "device", [devices()[0], *(pytest.param(*d.values, marks=[slow, *d.marks]) for d in devices()[1:])]
)
def test_potentials_and_gradients_are_right(book, device, rng):
    """Those of the package's operator, by the same recipe and by the sequential one: to 1e-12, as between books."""
    points, charges = clustered(rng, 1500), rng.random(1500) - 0.3
    names = ("sequential", replace(book, operators={})) if device.backend == "opencl" else ("sequential",)
    variant = book if device.backend == "opencl" else replace(book, recipes={})
    options = {"order": 4, "ncrit": 20, "device": device}
    found = fl.Fmm(points, recipes=variant, **options).evaluate(charges, gradient=True)
    for name in names:
        expected = fl.Fmm(points, recipes=name, **options).evaluate(charges, gradient=True)
        assert [error(a, b) <= 1e-12 for a, b in zip(found, expected, strict=True)] == [True, True]


def test_sides_of_a_variant_decide_its_types(book, rng, opencl_device):
    """Near pairs in float64 in every precision: of a single leaf, potentials to the last digit."""
    assert book.operator("p2p").types_in(MIXED_PRECISION).name == "float64"
    assert P2P.types_in(MIXED_PRECISION).name == "mixed"
    points, charges = rng.random((300, 3)), rng.random(300)
    expected = fl.direct(points, charges)
    options = {"order": 3, "ncrit": 300, "precision": "mixed", "device": opencl_device}
    variant, plain = (fl.Fmm(points, recipes=each, **options).evaluate(charges) for each in (book, "sequential"))
    assert error(variant, expected) <= 1e-14
    assert error(plain, expected) > 1e-9


@slow
def test_a_variant_may_compute_in_float32_without_local_sources(book, rng, opencl_device):
    """Its record has no arguments of its own for mixed kernels: cases and the plan give it points in float64."""
    record = replace(book.operator("p2p"), sides=P2P.sides)
    case = make_case(Specification(record, POLYNOMIALS[0], 3, MIXED))
    assert case.arguments["sources"].shape == (3, case.arguments["nsources"])
    assert case.arguments["sources"].dtype == "float64"
    assert "unit" not in case.arguments
    points, charges = rng.random((300, 3)), rng.random(300)
    mixed = replace(book, operators={"p2p": record})
    fmm = fl.Fmm(points, order=3, ncrit=300, precision="mixed", device=opencl_device, recipes=mixed)
    assert 1e-9 < error(fmm.evaluate(charges), fl.direct(points, charges)) < 1e-5
    request = Request(mixed, opencl_device, "p2p", "mixed", layers=("exact", "hostile"))
    assert check_operator(lambda text, limit: None, request) is None


def test_a_dense_variant_is_planned(rng, opencl_device):
    """An M2M that gives twice what it should: potentials are wrong, and right again with half of each entry."""

    def twice(spec):
        return dense_kernel(spec, DOMAINS, TEXT.replace("*x ", "*x*2 "))

    def half_of_twice(spec):
        return dense_kernel(spec, DOMAINS, TEXT.replace("*x ", "*x*2*0.5 "))

    points, charges = clustered(rng, 800), rng.random(800)
    options = {"order": 3, "ncrit": 20, "device": opencl_device}
    expected = fl.Fmm(points, recipes="sequential", **options).evaluate(charges)
    for make, is_right in ((twice, False), (half_of_twice, True)):
        book = RecipeBook(f"dense_{make.__name__}", device="", operators={"m2m": replace(M2M, make=make)})
        found = fl.Fmm(points, recipes=book, **options).evaluate(charges)
        assert (error(found, expected) <= 1e-12) == is_right


def test_a_variant_without_a_recipe_is_shown(book):
    variant = replace(book, recipes={}, tuning={})
    assert shown_operators(variant) == ("p2p",)
    assert shown_operators(replace(variant, operators={})) == tuple(OPERATORS)


def test_a_variant_is_timed_alone(book):
    problem, runtime = make_problem(SMALL), make_runtime(C_DEVICE)
    sequential = replace(book, recipes={})
    found = OperatorTimer(problem, "p2p", sequential, runtime).time(code(sequential), runs=3)
    assert len(found.seconds) == 3


def test_a_variant_is_laddered(book, opencl_device, own_cache):
    """Every step is held against the sequential kernel of the variant itself."""
    report = climb(book, ["p2p"], opencl_device, SMALL, PEAKS, certify=False, runs=3)
    (found,) = report.ladders
    assert report.ok
    assert [rung.name for rung in found.rungs] == ["sequential", "targets in lanes", "one work-group per box"]
    assert all(len(rung.timing.seconds) == 3 for rung in found.rungs)


def test_a_variant_is_benched(book, opencl_device, own_cache):
    (figures,) = bench.measure([book], opencl_device, SMALL, runs=3)
    assert len(figures.times["p2p"].seconds) == 3
    assert figures.work["p2p"].pairs > 0
    assert figures.fingerprints["p2p"] == book.fingerprint("p2p")


def test_a_wrong_recipe_for_a_variant_is_rejected(book, opencl_device, own_cache):
    """It takes the wrong target for the origin of the sources."""

    def wrong(knl):
        kernel = knl.default_entrypoint
        rules = dict(kernel.substitutions)
        rules["source"] = rules["source"].copy(expression=rules["source"].expression.children[0])
        yield from book.recipes["p2p"](knl.with_kernel(kernel.copy(substitutions=rules)))

    report = check_book(replace(book, recipes={"p2p": wrong}), ["p2p"], opencl_device, dtypes=["float64"])
    assert [(finding.operator, finding.layer) for finding in report.findings] == [("p2p", "exact")]


def test_a_wrong_operator_without_a_recipe_is_rejected(opencl_device, own_cache):
    """Whole evaluations show it, in the form of M2L that it is a stage of; until then it has no certificate."""

    def twice(spec):
        return dense_kernel(spec, M2L_DOMAINS, M2L_TEXT.replace("*x ", "*x*2 "))

    book = RecipeBook("only_an_operator", device="", operators={"m2l": replace(M2L, make=twice)})
    assert book.to_check == ("m2l",)
    assert status(book, opencl_device) == "none"
    (finding,) = check_book(book, device=opencl_device, dtypes=["float64"]).findings
    assert (finding.operator, finding.layer, finding.step) == ("m2l", "fmm", "")
    assert finding.message.startswith("sphere, laplace, order 6, M2L by ")
    assert ": relative error" in finding.message
    assert status(book, opencl_device) == "failed for m2l"


@slow
def test_a_right_operator_without_a_recipe_is_certified(opencl_device, own_cache):
    book = RecipeBook("only_an_operator", device="", operators={"m2m": M2M})
    assert status(book, opencl_device) == "none"
    assert check_book(book, device=opencl_device, dtypes=["float64"]).ok
    assert status(book, opencl_device) == "certified"


@slow
def test_a_wrong_gradient_of_a_variant_is_rejected(opencl_device, own_cache):
    """Derivatives have the wrong sign, and potentials are right."""

    def make(spec):
        derivatives = [f"store{row}" for row in range(spec.rows - spec.greens.nderivatives, spec.rows)]
        kernel = P2P.make(spec).default_entrypoint
        instructions = [
            i.copy(expression=subtracted(i.expression)) if i.id in derivatives else i for i in kernel.instructions
        ]
        return P2P.make(spec).with_kernel(kernel.copy(instructions=instructions))

    def subtracted(total):
        before, added = total.children
        return before - added

    book = RecipeBook("wrong_gradient", device="", operators={"p2p": replace(P2P, make=make)})
    (finding,) = check_book(book, device=opencl_device, dtypes=["float64"]).findings
    assert (finding.operator, finding.layer) == ("p2p", "fmm")
    assert finding.message.startswith("sphere, laplace with gradients, order 6, M2L by ")
    assert ": gradients, relative error" in finding.message


def test_an_operator_of_another_name_is_refused():
    with pytest.raises(RecipeError, match="^mine: the operator that replaces m2m is named 'p2p'; name it 'm2m'$"):
        RecipeBook("mine", device="", operators={"m2m": P2P})
