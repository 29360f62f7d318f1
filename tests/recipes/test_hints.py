"""Errors of loopy in recipes: each is one line that says where, what, what to do, and which names there are."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import islpy as isl
import loopy as lp
import pytest
from conftest import specification

from fmmloopy.execution.devices import C_DEVICE, Device
from fmmloopy.execution.generate import generate
from fmmloopy.execution.key import CodeKey
from fmmloopy.recipes import RecipeBook, RecipeError, fix_lanes, separate_lanes
from fmmloopy.recipes.hints import advice, described
from fmmloopy.transforms import steps

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # loopy's, on the way to its errors

OPENCL = Device("opencl", "any", "opencl CPU any")
"""Code is generated for it, and never runs."""


def lanes(knl, count=8):
    return separate_lanes(fix_lanes(knl, tlanes=count))


def changed(knl, pattern, **changes):
    """Change the statements of a kernel whose ids match."""
    kernel = knl.default_entrypoint
    return knl.with_kernel(
        kernel.copy(instructions=[i.copy(**changes) if fnmatchcase(i.id, pattern) else i for i in kernel.instructions])
    )


def formula(knl, statement, text):
    return changed(knl, statement, expression=lp.symbolic.parse(text))


def two_domains(knl):
    """Loops of one nest, each with bounds of its own that are loaded."""
    kernel = lanes(knl).default_entrypoint
    domains = [
        isl.BasicSet("[ntarget_boxes] -> { [ibox] : 0 <= ibox < ntarget_boxes }"),
        isl.BasicSet("[ttiles] -> { [ttile] : 0 <= ttile < ttiles }"),
        isl.BasicSet("[list_end, list_start] -> { [ilist] : list_start <= ilist < list_end }"),
        *kernel.domains[2:],
    ]
    return knl.with_kernel(kernel.copy(domains=domains))


def no_order(knl):
    """What loopy shows its failed attempts for."""
    knl = lp.tag_inames(fix_lanes(knl, tlanes=8), {"t": "ilp"})
    return lp.add_dependency(knl, "id:list_start", "id:x0")


def vectors(knl, count, *inames):
    return steps.vector_lanes(lanes(knl, count), inames, ("u0",))


def staged(knl, outer=None):
    """Copy source points of a tile beforehand."""
    return lp.precompute(knl, "source", ["s"], precompute_outer_inames=outer, default_tag=None)


WRONG = {
    "unknown iname": (lambda k: lp.tag_inames(lanes(k), {"ibx": "g.0"}), "iname 'ibx' does not exist", "'ibox'?"),
    "iname is a rule": (lambda k: lp.split_iname(lanes(k), "isrc", 8), "KeyError: 'isrc'", "'isrc' is a rule,"),
    "unknown name": (lambda k: lp.duplicate_inames(lanes(k), "tt", within="id:x0"), "'tt'", "did you mean 't'?"),
    "unknown rule": (lambda k: lp.precompute(lanes(k), "sorce", ["s"]), "rule 'sorce' not found", "mean 'source'?"),
    "unknown array": (lambda k: lp.add_prefetch(lanes(k), "sorces"), "variable 'sorces'", "did you mean 'sources'?"),
    "unknown statement": (lambda k: lp.add_dependency(lanes(k), "id:sum9", "id:x0"), "matching 'id:sum9'", "'sum0'?"),
    "unknown in an order": (lambda k: lp.prioritize_loops(lanes(k), "ttile,ilst"), "iname 'ilst'", "mean 'ilist'?"),
    "unknown in a formula": (lambda k: formula(lanes(k), "rinv", "1/sqrt(rr2)"), "not known in type", "mean 'r2'?"),
    "misspelt function": (lambda k: lp.tag_iname(lanes(k), {"t": "unr"}), "no attribute 'tag_iname'", "'tag_inames'?"),
    "not the kernel": (lambda k: lanes(k).instructions, "no attribute 'instructions'", "knl.default_entrypoint has it"),
    "match": (lambda k: lp.duplicate_inames(lanes(k), "t", within="id=x0"), "invalid match", "write id:NAME, iname:"),
    "taken name": (lambda k: lp.rename_iname(lanes(k), "t", "ibox"), "conflicts with", "choose a name that is not"),
    "tag": (lambda k: lp.tag_inames(lanes(k), {"ibox": "g0"}), "cannot parse tag: g0", "tags are g.0, g.1"),
    "two tags": (lambda k: steps.one_group_per(steps.unroll(lanes(k), "t"), "t"), "NonUniqueTagError", "untag_inames"),
    "condition": (lambda k: lp.assume(lanes(k), "ntargets >="), "syntax error", "conditions look like 'n >= 1"),
    "lanes twice": (lambda k: steps.work_items(lanes(k), 8), "no lane parameter 'tlanes'", "lanes are fixed once"),
    "lanes never": (separate_lanes, "tlanes, slanes not fixed", "call fix_lanes with them"),
    "too many lanes": (lambda k: lanes(k, 128), "tlanes is 128", "expected 1 to 64"),
    "prefetch": (lambda k: lp.add_prefetch(lanes(k), "sources", ["s"]), "sources_fetch_rule", "with lp.precompute"),
    "staged over two loops": (
        lambda k: lp.precompute(lanes(k), "source", ["s", "stile"], default_tag=None), "leaf domain", "one of them at a"
    ),
    "axes": (lambda k: lp.tag_array_axes(lanes(k), "sources", "N0"), "got 1 but expected 2", "as in 'N1,N0'"),
    "parallel ragged loop": (
        lambda k: lp.tag_inames(lanes(k), {"stile": "l.0"}), "contains parallel inames 'stile'", "stay sequential"
    ),
    "unrolled ragged loop": (lambda k: steps.unroll(lanes(k), "stile"), "unbounded optimum", "loops of fixed length"),
    "branch": (two_domains, "CannotBranchDomainTree", "must share one domain"),
    "one nest": (lambda k: fix_lanes(k, tlanes=8), "schedulable iname nesting", "call separate_lanes after fix_lanes"),
    "no order": (no_order, "no valid schedules found", "call separate_lanes first"),
    "circle": (lambda k: lp.add_dependency(lanes(k), "id:box", "id:store0"), "DependencyCycle", "closes the cycle"),
    "barrier in a nest": (
        lambda k: lp.add_barrier(lanes(k), "id:box", "id:tgt_start", synchronization_kind="global"),
        "CycleError", "one place of the loop nest",
    ),
    "lost order": (lambda k: changed(lanes(k), "sum0", depends_on=frozenset()), "No dependency", "lp.add_dependency("),
    "unused axis": (
        lambda k: lp.tag_inames(fix_lanes(k), {"t": "g.0"}), "group hw axes", "lp.add_inames_for_unused_hw_axes(knl)"
    ),
    "two loops on an axis": (
        lambda k: lp.tag_inames(lanes(k), {"t": "l.0", "s": "l.0"}),
        "multiple inames tagged", "s and t share the axis l.0: give one of them l.1, which is free",
    ),
    "two loops on an axis of groups": (
        lambda k: lp.tag_inames(lanes(k), {"ibox": "g.0", "ttile": "g.0", "t": "g.1"}),
        "multiple inames tagged 'g.0'", "give one of them g.2, which is free",
    ),
    "staged above its box": (
        lambda k: staged(lanes(k)), "schedulable iname nesting",
        "'source' runs inside the loop over stile but outside the loop over ibox: call lp.precompute with "
        'precompute_outer_inames=frozenset({"ibox", "ilist", "stile", "ttile"})',
    ),
    "staged above its box, by work-items": (
        lambda k: staged(steps.work_items(k, 8)), "schedulable iname nesting",
        'precompute_outer_inames=frozenset({"ibox", "ilist", "stile", "ttile"})',
    ),
    "staged above its tile": (
        lambda k: staged(lanes(k), frozenset({"ibox"})), "references inames 'stile'",
        "'source' has to be in the loop over stile: if lp.precompute made it, name stile in precompute_outer_",
    ),
    "unknown iname of a map": (
        lambda k: lp.affine_map_inames(lanes(k), "sx", "back", "back = 3 - sx"), "iname 'sx' not known", "mean 's'?"
    ),
    "unknown temporary": (
        lambda k: lp.unprivatize_temporaries_with_inames(fix_lanes(k, tlanes=8), {"t"}, {"uu0"}),
        "not used in kernel", "did you mean 'u0'?",
    ),
    "work-items of arrays": (lambda k: lp.tag_inames(lanes(k), {"t": "l.0"}), "'u0'", "use steps.work_items"),
    "unprivatized too late": (
        lambda k: lp.unprivatize_temporaries_with_inames(lanes(k), {"t"}, {"u0"}),
        "Cannot remove indices", "unprivatize before separate_lanes",
    ),
    "width of a vector": (
        lambda k: vectors(k, 5, "t", "t_init", "t_store"), "(dtype('float64'), 5)", "2, 3, 4, 8 or 16 lanes"
    ),
    "half a vector": (lambda k: vectors(k, 8, "t"), "not a compile-time constant", "t_init, t_load, t_store too"),
    "bound in its loop": (
        lambda k: changed(fix_lanes(k), "list_start", within_inames=frozenset({"ibox", "ilist"})),
        "may not be written inside", "compute 'list_start' outside",
    ),
    "nothing writes it": (lambda k: lp.remove_instructions(lanes(k), {"x0"}), "type of 'x0'", "'x0' is no longer"),
}  # fmt: skip
"""A rewrite that fails -> what the line says of the failure, and what to do about it."""


def failure(rewrite, operator="p2p", device=OPENCL):
    """Return the error of a recipe that does one rewrite, after a step that is right."""

    def recipe(knl):
        yield "right", lanes(knl) if operator == "p2p" else knl
        yield "wrong", rewrite(knl)
        yield "later", rewrite(knl)

    book = RecipeBook("bad", "", {operator: recipe})
    with pytest.raises(RecipeError) as caught:
        generate(CodeKey(specification(operator), book, device))
    return caught.value


@pytest.mark.parametrize("name", WRONG)
def test_line(name, capfd):
    rewrite, failed, remedy = WRONG[name]
    error = failure(rewrite)
    text = str(error)
    assert text.startswith(("bad, p2p, after step 1 'right': ", "bad, p2p, after step 2 'wrong': ")), text
    assert failed in text
    assert remedy in text.split(failed, 1)[1]
    assert "\n" not in text
    assert len(text) < 1500
    assert capfd.readouterr() == ("", ""), "loopy prints beside"
    if "lanes" not in name:
        assert isinstance(error.__cause__, Exception)


def test_names_are_those_of_the_step_that_failed():
    """Inames that the step before has made, and the line of the recipe."""
    text = str(failure(lambda knl: lp.split_iname(knl, "nothing", 2)))
    assert text.startswith("bad, p2p, after step 1 'right': KeyError: 'nothing' (test_hints.py, line ")
    assert text.endswith("; the kernel then has inames ibox, ilist, s, stile, t, t_init, t_load, t_store, ttile")
    text = str(failure(lambda knl: lp.split_iname(fix_lanes(knl, tlanes=8), "t", 4, inner_iname="mine")))
    assert text.startswith("bad, p2p, after step 2 'wrong': no code for this kernel: LoopyError: ")
    assert "; the kernel has inames ibox, ilist, mine, s, stile, t_outer, ttile; rules " in text
    assert ", sum0, store0" in text


@pytest.mark.parametrize(
    ("rewrite", "listed"),
    [
        (lambda k: lp.rename_iname(lanes(k), "bx", "y"), ["inames"]),
        (lambda k: lp.tag_inames(lanes(k), {"ibx": "g.0"}), ["inames"]),
        (lambda k: lp.tag_inames(lanes(k), {"t": "l.0", "s": "l.0"}), ["inames"]),
        (lambda k: lp.precompute(lanes(k), "sorce", ["s"]), ["rules"]),
        (lambda k: lp.add_dependency(lanes(k), "id:sum9", "id:x0"), ["statements"]),
        (lambda k: lp.add_prefetch(lanes(k), "sorces"), ["arguments and temporaries"]),
        (lambda k: lanes(k).default_entrypoint.arg_dict["potental"], ["inames", "rules", "statements"]),
    ],
)
def test_only_names_of_the_kind_that_is_wanted_are_listed(rewrite, listed):
    text = str(failure(rewrite))
    found = text.split("the kernel", 1)[1].split(" has ", 1)[1].split("; ")
    assert [part.rsplit(" ", len(part.split(", ")))[0] for part in found] == listed, text


def test_an_iname_is_not_taken_for_the_statement_of_a_similar_name():
    """`bx` is as near to the statement `box` as to the iname `ibox`."""
    assert "did you mean 'ibox'?" in str(failure(lambda knl: lp.rename_iname(lanes(knl), "bx", "y")))


def test_the_loops_that_a_hint_names_are_enough():
    """Where a staging loop landed above its box, the remedy gives a kernel with a schedule."""

    def p2p(knl):
        knl = staged(separate_lanes(fix_lanes(knl, slanes=8)), frozenset({"ibox", "ilist", "stile", "ttile"}))
        yield "staged", knl

    assert generate(CodeKey(specification("p2p"), RecipeBook("good", "", {"p2p": p2p}), OPENCL)).source


def test_first_wrong_step_is_named():
    """All later ones fail as well."""
    assert "after step 2 'wrong'" in str(failure(no_order))


def test_what_loopy_prints_is_kept_for_the_traceback():
    (note,) = failure(no_order).__cause__.__notes__
    assert "loopy did not find a schedule for your kernel" in note


def test_index_out_of_bounds():
    """Loopy sees these only where loops have bounds that it knows."""
    text = str(failure(lambda knl: formula(knl, "store1r", "a1r[j1 + 1]"), "m2l_forward"))
    assert text.startswith(
        "bad, m2l_forward, after step 2 'wrong': no code for this kernel: LoopyIndexError: 'a1r[j1 + 1]'"
    )
    assert "; an index may be out of bounds: keep the operator's masks" in text


def test_function_that_the_device_does_not_know():
    text = str(failure(lambda knl: formula(lanes(knl), "rinv", "rsqrt(r2)"), device=C_DEVICE))
    assert "could not determine type of 'rinv'" in text
    assert "C has no rsqrt: write 1/sqrt(x)" in text
    assert text.endswith("; for device 'c' use recipes='sequential'")


def test_islpy_that_is_too_new():
    """As `'Aff' object has no attribute 'is_equal'` comes from loopy with islpy 2026.2."""

    class Aff:
        pass

    with pytest.raises(AttributeError) as caught:
        Aff().is_equal  # noqa: B018
    assert advice(caught.value, {}) == 'loopy 2025.2 needs an older islpy: pip install "islpy>=2025.2.5,<2026.2"'


def test_prompt_that_a_recipe_runs_into_itself():
    """By generating code on its own, without a terminal."""
    assert "no order of loops" in advice(EOFError("EOF when reading a line"), {})


def test_errors_without_a_hint_and_without_a_text():
    assert advice(ValueError("something else"), {}) == ""
    assert described(AssertionError()) == "AssertionError"
    assert described(ValueError("a\nb " + 500 * "x")).endswith("xxx...")


# -- on a terminal

PROGRAM = """
import sys
sys.path[:0] = sys.argv[1:]
from test_hints import failure, no_order
assert sys.stdin.isatty() and sys.stdout.isatty()
print("ERROR:", failure(no_order))
"""


def test_a_kernel_without_a_schedule_asks_nothing_on_a_terminal():
    """Loopy left to itself waits for Enter."""
    parent, child = pty.openpty()
    here = Path(__file__).parent
    command = [sys.executable, "-c", PROGRAM, str(here), str(here.parent)]
    with subprocess.Popen(command, stdin=child, stdout=child, stderr=child) as process:
        os.close(child)
        said = b""
        try:
            while chunk := os.read(parent, 4096):
                said += chunk
                if b"Enter:" in said:
                    process.kill()
        except OSError:  # how the end of a terminal looks
            pass
    os.close(parent)
    assert process.returncode == 0, said.decode()
    assert b"Enter:" not in said
    assert b"ERROR: bad, p2p, after step 2 'wrong': no code for this kernel: RuntimeError: no valid sched" in said
