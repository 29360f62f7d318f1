"""The checker's own test: wrong recipes, each made from a right one by one mistake, are rejected by the right layer."""

from __future__ import annotations

import loopy as lp
import numpy as np
import pytest

from fmmloopy.check import check_book
from fmmloopy.devices import find_devices
from fmmloopy.recipes import RecipeBook, fix_lanes, load_recipes, open_lanes, separate_lanes
from fmmloopy.transforms import pocl_cpu, steps

OPENCL = [d for d in find_devices() if d.kind == "opencl" and "oclgrind" not in d.description.lower()]

pytestmark = pytest.mark.skipif(not OPENCL, reason="no OpenCL device")


def _change(knl, pattern, change):
    """Apply a function to the statements whose id begins with a pattern; it must find some."""
    kernel = knl.default_entrypoint
    changed = [change(insn) if insn.id.startswith(pattern) else insn for insn in kernel.instructions]
    assert changed != kernel.instructions
    return knl.with_kernel(kernel.copy(instructions=changed))


def _rewrite(knl, pattern, *replacements):
    """Replace text in the right-hand sides of statements."""

    def change(insn):
        text = str(insn.expression)
        for old, new in replacements:
            assert old in text, (old, text)
            text = text.replace(old, new)
        return insn.copy(expression=lp.symbolic.parse(text))

    return _change(knl, pattern, change)


def _rule(knl, name, old, new):
    """Replace text in a substitution rule."""
    kernel = knl.default_entrypoint
    rule = kernel.substitutions[name]
    assert old in str(rule.expression), str(rule.expression)
    expression = lp.symbolic.parse(str(rule.expression).replace(old, new))
    rules = {**kernel.substitutions, name: rule.copy(expression=expression)}
    return knl.with_kernel(kernel.copy(substitutions=rules))


def _without_guard(knl, pattern):
    return _change(knl, pattern, lambda insn: insn.copy(predicates=frozenset()))


def _in_single_precision(knl):
    """Hold sums in float32."""
    kernel = knl.default_entrypoint
    temporaries = dict(kernel.temporary_variables)
    for name in ("u0",):
        temporaries[name] = temporaries[name].copy(dtype=np.float32)
    return knl.with_kernel(kernel.copy(temporary_variables=temporaries))


def _store_in_place_of_adding(knl):
    return _change(knl, "store", lambda insn: insn.copy(expression=insn.expression.children[-1]))


def _coarse_rsqrt(knl):
    """Replace 1/sqrt by something that is off by 1e-9."""
    if not any(insn.id == "rinv" for insn in knl.default_entrypoint.instructions):
        return knl
    return _rewrite(knl, "rinv", ("1 / ", "1.000000001 / "))


# operator, layer that finds it, mistake
MUTANTS = {
    "target tail lost": ("p2p", "exact", lambda k: _rewrite(k, "ttiles", ("+ tlanes + -1", ""))),
    "last source tile lost": ("p2p", "exact", lambda k: _rewrite(k, "src_end", ("]", "] - 1"))),
    "store without guard": ("p2p", "exact", lambda k: _without_guard(k, "store")),
    "store in place of adding": ("p2p", "exact", _store_in_place_of_adding),
    "pairs at distance zero kept": ("p2p", "exact", lambda k: _rewrite(k, "sum", ("r2 > 0", "r2 >= 0"))),
    "difference the wrong way round": ("p2p", "exact", lambda k: _rewrite(k, "d1", ("x1[t]", "y1"), ("*y1", "*x1[t]"))),
    "coordinates swapped": ("p2p", "exact", lambda k: _rewrite(k, "y2", ("source(2", "source(1"))),
    "charge of the next source": (
        "p2p",
        "exact",
        lambda k: _rule(k, "charge", "charges[c_, isrc(s_)]", "charges[c_, isrc(s_)+1]"),
    ),
    "first list entry lost": ("p2p", "exact", lambda k: _rewrite(k, "list_start", ("]", "] + 1"))),
    "list of the next box": ("m2p", "exact", lambda k: _rewrite(k, "list_start", ("box]", "box + 1]"))),
    "centre of the target box": (
        "p2m",
        "static",  # loopy notices that y0 now depends on a statement that it did not depend on
        lambda k: _rule(k, "source", "centres[k_, box]", "centres[k_, srcbox]"),
    ),
    "radius factor lost": ("l2p", "numerical", lambda k: _rule(k, "source", "radius_factor*", "")),
    "scaling lost": ("p2l", "exact", lambda k: _rewrite(k, "store", ("scaling*", ""))),
    "sums in single precision": ("p2p", "numerical", _in_single_precision),
    "coarse reciprocal root": ("p2p", "numerical", _coarse_rsqrt),
    "matrix transposed": (
        "m2m",
        "exact",
        lambda k: _rewrite(k, "sum", ("j, itile, i]", "itile*ilanes + i, j//ilanes, j % ilanes]")),
    ),
    "octants swapped": ("m2m", "exact", lambda k: _rewrite(k, "sum", ("c, j", "7 - c, j"))),
    "matrix of another level": ("l2l", "exact", lambda k: _rewrite(k, "sum", ("itable", "1 - itable"))),
    "missing children written": ("l2l", "exact", lambda k: _without_guard(k, "store")),
    "scale of the second factor lost": (
        "check_to_equivalent",
        "exact",
        lambda k: _rewrite(k, "store", ("scales[src[b]]*", "")),
    ),
    "transfer vector of the next entry": ("m2l", "exact", lambda k: _rewrite(k, "transfer", ("]", "+1]"))),
    "conjugate taken": ("m2l_hadamard", "exact", lambda k: _rewrite(k, "sumi", ("+ Ki", "- Ki"))),
    "pair written twice": ("m2l_hadamard", "exact", lambda k: _without_guard(k, "store")),
    "direction reversed": ("m2l_hadamard", "exact", lambda k: _rewrite(k, "sumr", (", d, ", ", 25 - d, "))),
    "forward wave for the inverse": ("m2l_inverse", "exact", lambda k: _rewrite(k, "sum2r", ("dft_i", "dft_r"))),
    "plane of weights": (
        "m2l_inverse",
        "exact",
        lambda k: _rewrite(k, "store2i", ("plane_weights[kz]", "plane_weights[0]")),
    ),
    "interior not cleared": ("m2l_forward", "exact", lambda k: _rewrite(k, "zero", ("0", "1"))),
}


@pytest.mark.parametrize(("operator", "layer", "mistake"), MUTANTS.values(), ids=MUTANTS)
def test_wrong_recipes_are_rejected(operator, layer, mistake):
    def recipe(knl):
        """A right step, then a wrong one."""
        if operator.startswith("m2l_") and operator != "m2l_hadamard":
            yield "as it is written", knl
            yield "mistake", mistake(knl)
            return
        lanes = {name: count for name, count in (("tlanes", 4), ("blanes", 3)) if name in open_lanes(knl)}
        yield "lanes", separate_lanes(fix_lanes(knl, **lanes))
        yield "mistake", separate_lanes(fix_lanes(mistake(knl), **lanes))

    report = check_book(
        RecipeBook("wrong", device="", recipes={operator: recipe}), device=OPENCL[0], dtypes=[np.float64]
    )
    assert not report.ok
    assert {f.layer for f in report.findings} == {layer}
    assert all(f.operator == operator and f.step == "2 'mistake'" for f in report.findings)
    assert all("\n" not in str(f) for f in report.findings)


def _p2p(knl):
    knl = steps.lane_arrays(knl, 5)
    yield "five lanes", knl


def _fixed(knl, **lanes):
    yield "lanes", separate_lanes(fix_lanes(knl, **lanes))


RIGHT = {
    "odd tile": ("p2p", _p2p),
    "one lane": ("p2m", lambda k: _fixed(k)),
    "sources in tiles": ("p2p", lambda k: _fixed(k, slanes=7)),
    "both in tiles": ("m2p", lambda k: _fixed(k, tlanes=3, slanes=4)),
    "blocks of three": ("m2m", lambda k: _fixed(k, blanes=3, ilanes=2)),
    "rows in sixteens": ("l2l", lambda k: _fixed(k, ilanes=16)),
    "blocks of pairs": ("m2l_hadamard", lambda k: _fixed(k, blanes=5)),
    "newton and exp in work-items": ("p2p", lambda k: _functions(k)),
}


def _functions(knl):
    knl = steps.work_items(knl, 4)
    yield "work-items", knl
    yield "arithmetic", steps.polynomial_exp(steps.newton_rsqrt(knl))


@pytest.mark.parametrize(("operator", "recipe"), RIGHT.values(), ids=RIGHT)
def test_right_but_unusual_recipes_pass(operator, recipe):
    report = check_book(RecipeBook("unusual", device="", recipes={operator: recipe}), device=OPENCL[0])
    assert report.ok, [str(f) for f in report.findings]


def test_the_book_of_the_device_passes():
    report = check_book(load_recipes(None, OPENCL[0].description), device=OPENCL[0])
    assert report.ok, [str(f) for f in report.findings]
    assert set(report.operators) == set(pocl_cpu.BOOK.recipes)


def test_silenced_warnings_are_found():
    def recipe(knl):
        kernel = knl.default_entrypoint
        silenced = [*kernel.silenced_warnings, "read_no_write(u0)"]
        yield "lanes", separate_lanes(fix_lanes(knl.with_kernel(kernel.copy(silenced_warnings=silenced))))

    report = check_book(RecipeBook("loud", device="", recipes={"p2p": recipe}), device=OPENCL[0])
    assert {f.layer for f in report.findings} == {"static"}
    assert "silences read_no_write(u0)" in str(report.findings[0])


def test_recipes_that_raise_are_findings():
    def recipe(knl):
        yield "lanes", separate_lanes(fix_lanes(knl))
        yield "split", lp.split_iname(knl, "isrc", 4)

    report = check_book(RecipeBook("raises", device="", recipes={"p2p": recipe}), device=OPENCL[0])
    assert {f.layer for f in report.findings} == {"static"}
    assert "after step 1 'lanes'" in str(report.findings[0])
    assert "the kernel then has inames ibox, ilist, s, stile, t, t_init, t_load, t_store, ttile" in str(
        report.findings[0]
    )


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="level is 'fast', expected 'quick' or 'full'"):
        check_book("sequential", level="fast")
    with pytest.raises(ValueError, match="operator is 'p2q', expected one of p2p, "):
        check_book("sequential", operators=["p2q"])
