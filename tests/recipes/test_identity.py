"""Identities of kernels: the same in every process, different for kernels that generate different code."""

from __future__ import annotations

import os
import subprocess
import sys

import loopy as lp
import numpy as np
import pytest
from loopy.tools import LoopyKeyBuilder

from fmmloopy.greens import laplace
from fmmloopy.operators import OPERATORS, Specification
from fmmloopy.precision import FLOAT64
from fmmloopy.recipes.identity import kernel_identity
from fmmloopy.transforms import steps

PROGRAM = """
from fmmloopy.greens import laplace
from fmmloopy.operators import OPERATORS, Specification
from fmmloopy.precision import FLOAT64
from fmmloopy.recipes.identity import kernel_identity
from fmmloopy.transforms import steps
for name in ("p2p", "m2l_forward"):
    knl = Specification(OPERATORS[name], laplace(), 3, FLOAT64).kernel()
    print(kernel_identity(steps.lane_arrays(knl, 4) if name == "p2p" else knl))
"""


def _kernel(**changes):
    options = {"bound": "n", "dtype": np.float64, "text": "y[i] = 2*x[i] + 1 {id=a}", "tag": None, **changes}
    knl = lp.make_kernel(
        "{[i]: 0 <= i < " + options["bound"] + "}",
        options["text"],
        [lp.GlobalArg("x,y", options["dtype"], shape="n"), lp.ValueArg("n", np.int32)],
        name="double",
        lang_version=lp.MOST_RECENT_LANGUAGE_VERSION,
    )
    return lp.tag_inames(knl, {"i": options["tag"]}) if options["tag"] else knl


def test_processes_with_other_orders_of_sets_agree():
    found = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for seed in (0, 1)
    ]
    assert found[0] == found[1]
    assert len(set(found[0])) == 2
    assert all(len(identity) == 32 for identity in found[0])


@pytest.mark.parametrize(
    "changes",
    [
        {"bound": "n - 1"},
        {"dtype": np.float32},
        {"tag": "g.0"},
        {"text": "y[i] = 2*x[i] + 2 {id=a}"},
        {"text": "y[i] = 2.0*x[i] + 1 {id=a}"},
        {"text": "y[i] = 1 + 2*x[i] {id=a}"},
        {"text": "y[i] = 2*x[i] + 1 {id=b}"},
        {"text": "y[i] = 2*x[i] + 1 {id=a, if=n > 3}"},
        {"text": "y[i] = 2*x[i] + 1 {id=a}\ny[i] = y[i] {id=b, dep=a}"},
        {"text": "y[i] = 2*x[i] + 1 {id=a}\ny[i] = y[i] {id=b}"},
    ],
)
def test_kernels_that_differ_have_other_identities(changes):
    assert kernel_identity(_kernel()) == kernel_identity(_kernel())
    assert kernel_identity(_kernel(**changes)) != kernel_identity(_kernel())


def test_a_dependency_and_an_option_count():
    two = "y[i] = 2*x[i] + 1 {id=a}\ny[i] = y[i] {id=b%s}"
    assert kernel_identity(_kernel(text=two % "")) != kernel_identity(_kernel(text=two % ", dep=a"))
    knl = _kernel()
    assert kernel_identity(lp.set_options(knl, disable_global_barriers=True)) != kernel_identity(knl)
    assert kernel_identity(knl, ("-cl-fast-relaxed-math",)) != kernel_identity(knl)


def test_a_step_changes_the_identity_and_hidden_warnings_do_not():
    knl = Specification(OPERATORS["p2p"], laplace(), 3, FLOAT64).kernel()
    tiled = steps.lane_arrays(knl, 4)
    assert len({kernel_identity(knl), kernel_identity(tiled), kernel_identity(steps.lane_arrays(knl, 8))}) == 3
    hidden = tiled.with_kernel(tiled.default_entrypoint.copy(silenced_warnings=frozenset({"write_race(store0)"})))
    assert kernel_identity(hidden) == kernel_identity(tiled)


def test_what_loopy_remembers_does_not_count():
    knl = _kernel()
    before = kernel_identity(knl)
    LoopyKeyBuilder()(knl)
    lp.generate_code_v2(knl)
    assert kernel_identity(knl) == before


def test_a_function_counts_by_what_it_does():
    def with_preamble(text):
        kernel = _kernel().default_entrypoint
        return _kernel().with_kernel(kernel.copy(preamble_generators=(lambda info: iter([("0", text)]),)))

    found = [kernel_identity(with_preamble(text)) for text in ("a", "b", "a")]
    assert found[0] == found[2] != found[1]


def test_a_kernel_with_something_unknown_has_no_identity():
    class Unknown:
        pass

    knl = _kernel()
    kernel = knl.default_entrypoint
    assert kernel_identity(knl.with_kernel(kernel.copy(preambles=(("0", Unknown()),)))) == ""
