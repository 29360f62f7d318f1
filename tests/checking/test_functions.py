"""Functions that steps declare to stand for others: right ones count as these, wrong ones are findings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from types import SimpleNamespace
from typing import Any

import loopy as lp
import numpy as np
import pytest
from conftest import slow, slow_but
from corpus.arithmetic import SOURCES
from corpus.mistakes import rewrite, then

from fmmloopy.checking import functions, kernels
from fmmloopy.checking.functions import arguments, settled, what_is_wrong
from fmmloopy.checking.kernels import keep_proofs, kernel_state, prove_kernel, validate
from fmmloopy.checking.layers import check_and_prove
from fmmloopy.checking.proof import Lemma, NotProved, Proved, ProvedIf, Refuted, lemmas, prove
from fmmloopy.checking.proofs import proof_of, summary, verdict_on
from fmmloopy.checking.request import Request
from fmmloopy.execution.devices import Device, DeviceError, choose_device
from fmmloopy.execution.generate import compile_operator
from fmmloopy.execution.setup import Method, Setup
from fmmloopy.greens import GreensFunction, laplace, yukawa
from fmmloopy.operators import P2P, Specification
from fmmloopy.precision import FLOAT64
from fmmloopy.recipes import SEQUENTIAL, RecipeBook, apply_recipe
from fmmloopy.transforms import steps
from fmmloopy.transforms.inline import INLINE, StandIn
from fmmloopy.transforms.rewriting import ReplaceCalls

Kernel = Any
Patch = pytest.MonkeyPatch
LIMIT = 60.0


def double(value: str) -> str:
    """Return the source of a function in double precision."""
    return f"static inline double f_f64(double x) {{ return {value}; }}"


def single(value: str) -> str:
    """Return the source of a function in single precision."""
    return f"static inline float f_f32(float x) {{ return {value}; }}"


def lemma(function: str, source: str) -> Lemma:
    """Return the declaration of a function f in the precision that its source has."""
    return Lemma("f", source, "float64" if "f_f64" in source else "float32", function)


def root(name: str) -> str:
    """Return the source of one of the corpus' roots, called f."""
    return SOURCES[name].replace("NAME", "f")


# -- the test of a function

CORRECT = {
    "rsqrt": ("1 / sqrt(x)", "1 / sqrt(x)"),
    **{name: (f"{name}(x)", f"{name}(x)") for name in functions.FUNCTIONS if name != "rsqrt"},
}


@pytest.mark.parametrize(
    ("function", "dtype"),
    slow_but(lambda name, dtype: (name, dtype) in (("rsqrt", "float32"), ("erfc", "float64"), ("sin", "float32")),
             product(CORRECT, ("float32", "float64"))),
)  # fmt: skip
def test_what_the_library_has_is_right(opencl_device: Device, function: str, dtype: str) -> None:
    source = (single if dtype == "float32" else double)(CORRECT[function][0])
    assert what_is_wrong(lemma(function, source), opencl_device) == ""


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["package", "rsqrt_right", "rsqrt_generous"])
def test_iterations_are_right(opencl_device: Device, name: str, dtype: str) -> None:
    source = INLINE["fmmloopy_rsqrt"].replace("fmmloopy_rsqrt", "f") if name == "package" else root(name)
    assert what_is_wrong(Lemma("f", source, dtype, "rsqrt"), opencl_device) == ""


def test_signs_of_zeros_do_not_matter(opencl_device: Device) -> None:
    """What divides by zero is no number, so terms are left out there in both kernels."""
    assert what_is_wrong(lemma("sin", double("x == 0 ? 0 : sin(x)")), opencl_device) == ""


def test_results_that_are_not_normal_may_be_zero(opencl_device: Device) -> None:
    assert what_is_wrong(lemma("exp", double("x < -708.0 ? 0 : exp(x)")), opencl_device) == ""
    assert "-70" in what_is_wrong(lemma("exp", double("x < -700.0 ? 0 : exp(x)")), opencl_device)


MISTAKES = {
    "one step too few": ("rsqrt", root("rsqrt_too_few"), "eps off"),
    "another first guess": ("rsqrt", root("rsqrt_wrong_seed"), "eps off"),
    "off in the last three bits": ("rsqrt", double("as_double(as_long(1 / sqrt(x)) & -8L)"), "eps off"),
    "huge numbers": ("rsqrt", double("x > 1e300 ? 0 : 1 / sqrt(x)"), "e+30"),
    "one exponent": ("rsqrt", double("as_ulong(x) >> 52 == 1500 ? 1 : 1 / sqrt(x)"), "e+14"),
    "one exponent in float32": ("rsqrt", single("as_uint(x) >> 23 == 200 ? 1 : 1 / sqrt(x)"), "e+2"),
    "the largest number": ("rsqrt", double("x > 1.797693134862315e308 ? 0 : 1 / sqrt(x)"), "1.7976931348623157e+308"),
    "no number for subnormal ones": (
        "rsqrt", double("x < 2.2250738585072014e-308 ? sqrt(-1.0) : 1 / sqrt(x)"), "expected a finite number"
    ),
    "subnormal numbers": ("erfc", double("x > 0 && x < 2.2250738585072014e-308 ? 0 : erfc(x)"), "e-3"),
    "minus zero": ("erfc", double("as_ulong(x) >> 63 == 1 && x == 0 ? 2 : erfc(x)"), "x = -0.0"),
    "a root of minus zero": ("sqrt", double("as_long(x) < 0 ? x / 0 * 0 : sqrt(x)"), "x = -0.0"),
    "negative numbers": ("erf", double("erf(fabs(x))"), "x = -"),
    "infinity": ("exp", double("exp(x > 709.0 ? 709 : x)"), "expected inf"),
    "infinite too early": ("exp", double("x > 709.0 ? exp(710.0) : exp(x)"), "it is inf"),
    "of the other sign": ("sinh", double("x < -710.5 ? sinh(-x) : sinh(x)"), "expected -inf"),
    "no number": ("tanh", double("fmin(fmax(tanh(x), -1.0), 1.0) + 0 * x / (1 + fabs(x))"), "inf it is nan"),
    "a number where there is none": ("tanh", double("x > 20.0 ? 1 : x > -20.0 ? tanh(x) : -1"), "x = nan"),
    "a small interval": ("exp", double("x > 100.0 && x < 100.1 ? 1 : exp(x)"), "x = 100.0"),
    "near quarters of a turn": ("cos", double("fabs(cos(x)) < 1e-13 ? 1e-17 : cos(x)"), "expected"),
    "another function": ("sin", double("cos(x)"), "expected"),
    "float32 inside": ("rsqrt", double("1 / sqrt((float) x)"), "expected"),
    "float32 at the end": ("exp", double("(float) exp(x)"), "expected"),
    "angles above a thousand": ("sin", double("fabs(x) > 1e5 ? sin((double) (float) x) : sin(x)"), "expected"),
}  # fmt: skip
"""By mistake: what a function is declared as, its source, and what the finding says."""


@pytest.mark.parametrize("name", MISTAKES)
def test_wrong_functions_are_found(opencl_device: Device, name: str) -> None:
    function, source, words = MISTAKES[name]
    found = what_is_wrong(lemma(function, source), opencl_device)
    assert found.startswith(f"f is not {function}: in float")
    assert words in found


def test_a_finding_says_what_was_expected(opencl_device: Device) -> None:
    found = what_is_wrong(lemma("rsqrt", double("x > 1e300 ? 0 : 1 / sqrt(x)")), opencl_device)
    x, got, expected = (found.split(word)[1].split()[0].rstrip(",") for word in ("x = ", "it is ", "expected "))
    assert float(x) > 1e300
    assert float(got) == 0
    assert float(expected) == pytest.approx(float(x) ** -0.5, rel=1e-15)
    assert found.endswith(" eps off")


def test_options_of_the_compiler_count(opencl_device: Device) -> None:
    """They are those of the book: a function may be right without them only."""
    one = lemma("exp", double("exp(x)"))
    with pytest.raises(DeviceError):
        what_is_wrong(one, opencl_device, ("-no-such-option",))
    assert what_is_wrong(one, opencl_device) == ""


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_exponent_is_tried(dtype: Any) -> None:
    info, found = np.finfo(dtype), set[int]()
    for x in arguments("erf", np.dtype(dtype)):
        bits = x.view(f"uint{8 * x.itemsize}")
        found |= set((bits >> info.nmant).astype(int).tolist())
    assert found == set(range(2 ** (info.bits - info.nmant)))


# -- the test without one of its parts


def _skipped(choose: Callable[[np.ndarray[Any, Any]], Any]) -> Callable[[Patch], None]:
    """Leave some arguments out."""

    def weaken(patch: Patch) -> None:
        original = functions._numbers
        patch.setattr(functions, "_numbers", lambda *given: (x[~choose(x)] for x in original(*given)))

    return weaken


def _only(*names: int) -> Callable[[Patch], None]:
    """Keep only some of the blocks of arguments, by their place."""

    def weaken(patch: Patch) -> None:
        original = functions.arguments
        patch.setattr(functions, "arguments", lambda *given: (list(original(*given))[place] for place in names))

    return weaken


def _more_tolerant(patch: Patch) -> None:
    patch.setattr(functions, "FUNCTIONS", {n: replace(f, bound=1e6) for n, f in functions.FUNCTIONS.items()})


def _any_result_beside(patch: Patch) -> None:
    """Accept whatever a function gives for numbers that are beside its range."""
    beside, outside = functions._beside, functions._outside
    patch.setattr(functions, "_outside", lambda name, x: outside(name, x) | beside(name, x))


def _in_double(patch: Patch) -> None:
    """Compare with what is not more precise."""
    patch.setattr(np, "longdouble", np.float64)


LESS: dict[str, tuple[str, Callable[[Patch], None]]] = {
    "the bound": ("one step too few", _more_tolerant),
    "every exponent": ("one exponent", _only(8)),
    "extreme mantissas": ("the largest number", _only(0, 1, 2, 3, 4, 5, 6, 8)),
    "dense numbers": ("a small interval", _only(0, 1, 2, 3, 4, 5, 6, 7, 9)),
    "quarters of a turn": ("near quarters of a turn", _only(0, 1, 2, 3, 4, 5, 6, 7, 8, 10)),
    "subnormal numbers": ("subnormal numbers", _skipped(lambda x: (x != 0) & (np.abs(x) < np.finfo(x.dtype).tiny))),
    "what is beside the range": ("no number for subnormal ones", _any_result_beside),
    "minus zero": ("minus zero", _skipped(lambda x: (x == 0) & np.signbit(x))),
    "negative numbers": ("negative numbers", _skipped(lambda x: x < 0)),
    "NaN": ("a number where there is none", _skipped(np.isnan)),
    "infinities": ("no number", _skipped(np.isinf)),
}  # fmt: skip
"""By what a part of the test looks at: the wrong function that passes without it, and how it is taken away."""


@pytest.mark.parametrize("name", LESS)
def test_a_part_less_lets_a_wrong_function_through(opencl_device: Device, name: str, monkeypatch: Patch) -> None:
    mistake, weaken = LESS[name]
    function, source, _ = MISTAKES[mistake]
    what_is_wrong.cache_clear()
    assert what_is_wrong(lemma(function, source), opencl_device)
    what_is_wrong.cache_clear()
    weaken(monkeypatch)
    assert what_is_wrong(lemma(function, source), opencl_device) == ""
    what_is_wrong.cache_clear()


def test_nothing_is_tested_against_what_is_no_more_precise(opencl_device: Device, monkeypatch: Patch) -> None:
    _in_double(monkeypatch)
    with pytest.raises(DeviceError, match="numpy has no type here that is more precise"):
        what_is_wrong(lemma("exp", double("exp(x) ")), opencl_device)


# -- kernels that call functions


def replaced(source: str, function: str = "rsqrt", name: str = "f") -> Callable[[Kernel], Kernel]:
    """Return a recipe's step that puts a function in the place of another one."""
    return lambda knl: steps.replace_function(knl, function, name, source)


def pair(step: Callable[[Kernel], Kernel], greens: GreensFunction | None = None) -> tuple[Specification, Any, Kernel]:
    """Return P2P's specification, its sequential kernel, and one in lanes after a step."""
    spec = Specification(P2P, greens or laplace(), 3, FLOAT64)
    sequential = apply_recipe(SEQUENTIAL, "p2p", spec.kernel())[-1].kernel
    return spec, sequential, step(steps.lane_arrays(spec.kernel(), 4))


def verdict(step: Callable[[Kernel], Kernel], greens: GreensFunction | None = None) -> Any:
    """Return what is shown of a kernel without a device."""
    _, sequential, last = pair(step, greens)
    return prove(sequential, last, P2P, LIMIT)


def shown(step: Callable[[Kernel], Kernel], device: Device, greens: GreensFunction | None = None) -> Any:
    """Return what is shown of a kernel on a device."""
    spec, _, last = pair(step, greens)
    return verdict_on(spec, SimpleNamespace(kernel=last), device)


RIGHT = root("rsqrt_right")


def test_a_proof_with_a_function_is_none_until_it_is_tested(opencl_device: Device) -> None:
    found = verdict(replaced(RIGHT))
    assert found == ProvedIf(1, (Lemma("f", RIGHT, "float64", "rsqrt"),))
    assert not isinstance(found, Proved)
    assert settled(found, opencl_device) == Proved(1, found.lemmas)
    missing = settled(found, None)
    assert missing == NotProved("f is rsqrt only on devices on which that was tested")


def test_the_package_proves_nothing_with_a_function_for_every_device() -> None:
    """As in `.ci/certify`, whose proofs hold on every device."""
    spec, _, last = pair(replaced(RIGHT))
    assert not proof_of(spec, verdict_on(spec, SimpleNamespace(kernel=last))).proved


def test_functions_of_a_greens_function_count_too(opencl_device: Device) -> None:
    def both(knl: Kernel) -> Kernel:
        return replaced(double("exp(x)").replace("f_f64", "g_f64"), "exp", "g")(replaced(RIGHT)(knl))

    found = shown(both, opencl_device, yukawa())
    assert isinstance(found, Proved)
    assert {(lemma.name, lemma.function) for lemma in found.lemmas} == {("f", "rsqrt"), ("g", "exp")}


def test_a_kernel_without_the_function_is_left_alone() -> None:
    _, _, last = pair(lambda knl: knl)
    assert replaced(double("exp(x)"), "exp")(last) is last


def test_roots_that_the_kernel_calls_by_name_are_replaced() -> None:
    _, _, last = pair(lambda knl: replaced(RIGHT)(steps.builtin_rsqrt(knl)))
    assert "f(r2)" in str(next(i for i in last.default_entrypoint.instructions if i.id == "rinv").expression)


def _two_of_one_name(knl: Kernel) -> Kernel:
    knl = ReplaceCalls("exp", "g").in_kernel(replaced(RIGHT)(knl))
    return lp.register_callable(knl, "g", StandIn("f", double("exp(x)"), "exp"))


def _registered(knl: Kernel, function: StandIn) -> Kernel:
    return lp.register_callable(knl, function.name, function, redefining_not_ok=False)


UNPROVED = {
    "get_global_id": (replaced(double("get_global_id(0) + 1 / sqrt(x)")), "f is no plain function of its argument"),
    "state": (replaced("static int calls = 0; " + double("1 / sqrt(x)")), "f is no plain function of its argument"),
    "another name": (replaced(RIGHT, name="g"), "g is no plain function of its argument"),
    "two of one name": (_two_of_one_name, "two functions are called f"),
    "the package's name": (
        replaced(RIGHT.replace("f_f", "fmmloopy_rsqrt_f"), name="fmmloopy_rsqrt"),
        "fmmloopy_rsqrt cannot stand for rsqrt",
    ),
    "two numbers": (then(replaced(RIGHT), rewrite("rinv", ("f(r2)", "f(r2, r2)"))), "f is called with 2 numbers"),
    "a function of two numbers": (
        then(replaced(RIGHT), lambda knl: _registered(knl, StandIn("f", RIGHT, "pow"))), "f cannot stand for pow",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNPROVED)
def test_what_cannot_be_tested_is_not_proved(name: str) -> None:
    step, reason = UNPROVED[name]
    found = verdict(step, yukawa())
    assert isinstance(found, NotProved)
    assert found.reason.startswith(reason)


def test_without_a_look_at_the_source_it_may_read_anything(opencl_device: Device, monkeypatch: Patch) -> None:
    """The test runs few work-items in the place where the function is wrong."""
    step = replaced(double("1 / sqrt(x) + (get_global_id(0) > 100000000 ? 1 : 0)"))
    assert isinstance(shown(step, opencl_device), NotProved)
    monkeypatch.setattr(lemmas, "not_plain", lambda *_: "")
    assert isinstance(shown(step, opencl_device), Proved)


def test_of_two_functions_with_one_name_code_has_one(opencl_device: Device, monkeypatch: Patch) -> None:
    step = _two_of_one_name
    assert isinstance(shown(step, opencl_device, yukawa()), NotProved)
    monkeypatch.setattr(lemmas, "_other_source", lambda *_: False)
    assert isinstance(shown(step, opencl_device, yukawa()), Proved)
    _, _, last = pair(step, yukawa())
    assert lp.generate_code_v2(last).device_code().count("static inline double f_f64") == 1


def test_a_function_that_crashes_is_not_proved(opencl_device: Device, monkeypatch: Patch) -> None:
    """It runs in a child process where a program of the user's would end with it."""
    found = settled(verdict(replaced(RIGHT)), opencl_device, apart=True)
    assert isinstance(found, Proved)
    monkeypatch.setattr(functions, "_in_child", lambda stage, *_: __import__("os").abort())
    found = settled(verdict(replaced(RIGHT)), opencl_device, apart=True)
    assert isinstance(found, NotProved)
    assert "f was not tested as rsqrt in float64" in found.reason


# -- checks, first uses and proofs in the background


def book(source: str) -> RecipeBook:
    """Return a book whose recipe for P2P has a function as its second step."""

    def recipe(knl: Kernel) -> Iterator[tuple[str, Kernel]]:
        knl = steps.lane_arrays(knl, 4)
        yield "lanes", knl
        yield "own root", replaced(source)(knl)

    return RecipeBook("mine", "", {"p2p": recipe})


def key_of(source: str, device: Device) -> Any:
    """Return what P2P's code is generated from."""
    return Setup(Method(laplace(), 3), book(source), device).code_key("p2p")


def cannot_run(*_: Any) -> None:
    raise DeviceError("no such device")


def test_a_check_proves_kernels_with_a_right_function(opencl_device: Device) -> None:
    request = Request(book(RIGHT), opencl_device, "p2p", "float64", layers=("symbolic",))
    failure, proofs, _ = check_and_prove(lambda *_: None, request)
    assert failure is None
    assert all(proof.proved for proof in proofs)
    assert {proof.rests for proof in proofs} == {(), ("f is rsqrt in float64",)}  # one function has no root
    assert summary(proofs)[1] == "this rests on tests on this device: f is rsqrt in float64"


def test_a_wrong_function_is_a_finding_of_a_check(opencl_device: Device) -> None:
    request = Request(book(root("rsqrt_too_few")), opencl_device, "p2p", "float64", layers=("symbolic", "exact"))
    failure, proofs, ran = check_and_prove(lambda *_: None, request)
    assert failure is not None
    assert (failure.layer, failure.step) == ("symbolic", "2 'own root'")
    assert failure.message.startswith("f is not rsqrt: in float64, at x = ")
    assert not ran
    assert not any(proof.proved for proof in proofs)


def test_a_function_that_cannot_be_tested_leaves_kernels_unproved(opencl_device: Device, monkeypatch: Patch) -> None:
    monkeypatch.setattr(functions, "what_is_wrong", cannot_run)
    request = Request(book(RIGHT), opencl_device, "p2p", "float64", layers=("symbolic",))
    failure, proofs, _ = check_and_prove(lambda *_: None, request)
    assert failure is None
    found = [proof for proof in proofs if "laplace" in proof.greens]
    assert found
    assert all(p.reason == "f was not tested as rsqrt in float64: no such device" and not p.proved for p in found)


def test_first_uses_test_the_function(opencl_device: Device, own_cache: Any) -> None:
    key = key_of(RIGHT, opencl_device)
    found = validate(key, compile_operator(key))
    assert (found.state, found.tests) == ("proved", "this rests on tests on this device: f is rsqrt in float64")
    assert kernel_state(key, compile_operator(key)) == found
    elsewhere = replace(key, device=replace(opencl_device, description="another device"))
    assert kernel_state(elsewhere, compile_operator(key)).state == "unknown", "a test says nothing of other devices"


def test_a_wrong_function_never_runs(opencl_device: Device, own_cache: Any) -> None:
    key = key_of(root("rsqrt_too_few"), opencl_device)
    found = validate(key, compile_operator(key))
    assert found.state == "wrong"
    assert found.reason.startswith("f is not rsqrt: in float64, at x = ")


def test_background_proofs_keep_nothing_that_is_not_tested(
    opencl_device: Device, own_cache: Any, monkeypatch: Patch
) -> None:
    key = key_of(RIGHT, opencl_device)
    code = compile_operator(key)
    with monkeypatch.context() as without_device:
        without_device.setattr(functions, "what_is_wrong", cannot_run)
        found = prove_kernel(key, code)
        assert found.state == kernel_state(key, code).state == "unknown"
        assert found.reason == "it was not proved: f was not tested as rsqrt in float64: no such device"
    assert validate(key, code).state == "proved"


def test_background_proofs_test_the_function(opencl_device: Device, own_cache: Any) -> None:
    for source, state in ((RIGHT, "proved"), (root("rsqrt_far_too_few"), "wrong")):
        key = key_of(source, opencl_device)
        assert prove_kernel(key, compile_operator(key)).state == state
        assert kernel_state(key, compile_operator(key)).state == state


def test_proofs_that_a_check_keeps_say_what_they_rest_on(opencl_device: Device, own_cache: Any) -> None:
    key = key_of(RIGHT, opencl_device)
    code, spec = compile_operator(key), key.specification
    found = verdict_on(spec, key.steps()[-1], opencl_device)
    keep_proofs(opencl_device, [proof_of(spec, found, code.kernel)])
    assert kernel_state(key, code) == kernels._shown(found)
    wrong = replace(found.lemmas[0], source=root("rsqrt_too_few"))
    assert isinstance(settled(ProvedIf(1, (*found.lemmas, wrong)), opencl_device), Refuted)


@slow
def test_functions_are_tested_on_the_emulated_gpu() -> None:
    emulated = choose_device("emulated")
    for source, is_right in ((RIGHT, True), (root("rsqrt_too_few"), False)):
        for dtype in ("float32", "float64"):
            assert (what_is_wrong(Lemma("f", source, dtype, "rsqrt"), emulated) == "") == is_right
