"""The symbolic layer of a check: what it reports, and when a suspicion is a finding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from corpus.mistakes import at_most, then
from corpus.mistakes import lanes as with_lanes

from fmmloopy.bookshelf.certificates import read_shipped
from fmmloopy.checking import layers, proofs
from fmmloopy.checking.layers import check_and_prove
from fmmloopy.checking.proof import NotProved, Proved, Wrong
from fmmloopy.checking.proofs import Proof, functions, proof_of, stated, summary, witness_layouts
from fmmloopy.checking.report import Report
from fmmloopy.checking.request import Request
from fmmloopy.execution.devices import Device
from fmmloopy.greens import laplace
from fmmloopy.operators import M2M, P2P, Specification
from fmmloopy.precision import FLOAT64
from fmmloopy.recipes import RecipeBook, load_recipes


def request(device: Device, *edits: Any) -> Request:
    """Return a request for the symbolic layer of a recipe for P2P."""

    def recipe(knl: Any) -> Iterator[tuple[str, Any]]:
        yield "right", with_lanes(tlanes=4)(knl)
        if edits:
            yield "mistake", then(*edits)(knl)

    return Request(
        RecipeBook("mine", device="", recipes={"p2p": recipe}), device, "p2p", "float64", layers=("symbolic",)
    )


def test_a_right_recipe_is_proved(opencl_device: Device) -> None:
    failure, proofs, ran = check_and_prove(lambda text, limit: None, request(opencl_device))
    assert failure is None
    assert not ran
    assert len({proof.kernel for proof in proofs} - {""}) == len(proofs)
    assert {proof.greens for proof in proofs} == {greens.name for greens in functions(P2P)}
    assert all(proof.proved for proof in proofs)


def test_a_suspicion_that_a_run_shows_is_a_finding(opencl_device: Device) -> None:
    # The other layers have no box with so many sources that they would see this.
    mistake = at_most("src_end", "src_start + 1500", "src_start"), with_lanes(tlanes=4)
    failure, proofs, ran = check_and_prove(lambda text, limit: None, request(opencl_device, *mistake))
    assert ran, "the kernel ran at the point at which it is wrong"
    assert not any(proof.proved for proof in proofs)
    assert failure is not None
    assert (failure.layer, failure.step) == ("symbolic", "2 'mistake'")
    assert "expected" in failure.message


def test_a_suspicion_that_no_run_shows_is_none(opencl_device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "verdict_on", lambda *_: Wrong("ntargets=3", "store0: terms are lost"))
    failure, proofs, _ = check_and_prove(lambda text, limit: None, request(opencl_device))
    assert failure is None
    assert all(proof.reason == "store0: terms are lost, at ntargets=3" for proof in proofs)


def test_kernels_that_came_proved_are_proved_anew_at_level_full(
    opencl_device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "verdict_on", lambda *_: NotProved("tried"))
    shipped = Request(load_recipes("pocl_cpu"), opencl_device, "m2m", "float64", layers=("symbolic",))

    def tried(request: Request) -> bool:
        _, found, _ = check_and_prove(lambda text, limit: None, request)
        assert len(found) == len(stated(M2M) if request.full else functions(M2M))
        return any(proof.reason == "tried" for proof in found)

    monkeypatch.setattr(proofs, "sources_hash", lambda: read_shipped()["sources"])
    monkeypatch.setattr(proofs, "prover_hash", lambda: read_shipped()["prover"])
    assert not tried(shipped)
    assert tried(replace(shipped, full=True))
    # A book's own operator is another one, and so are operators that were edited since.
    own = replace(M2M, timed_like="l2l")
    assert tried(replace(shipped, book=replace(shipped.book, operators={"m2m": own})))
    for name in ("sources_hash", "prover_hash"):
        with monkeypatch.context() as edited:
            edited.setattr(proofs, name, lambda: "edited")
            assert tried(shipped)


def test_a_report_says_what_is_proved() -> None:
    spec = Specification(M2M, laplace(), 3, FLOAT64)
    proved = proof_of(spec, Proved(1))
    tested = replace(proof_of(spec, NotProved("took too long", "store")), operator="p2p")
    assert summary([proved, tested, replace(tested, dtype="mixed")]) == [
        "proved for all sizes: m2m",
        "tested, not proved: p2p (laplace in float64, laplace in mixed): store: took too long",
    ]
    report = Report("mine", "a device", "quick", ("m2m",), ("float64",), (), (), 1.0, (proved, tested))
    assert report.ok
    assert report.as_dict()["proofs"][1] == {
        "operator": "p2p", "dtype": "float64", "greens": "laplace", "order": 3, "proved": False,
        "reason": "store: took too long", "rests": (), "kernel": "",
    }  # fmt: skip
    assert report.proved == summary([proved, tested])


def test_layouts_have_the_sizes_of_a_witness() -> None:
    found = list(witness_layouts(Wrong("ncolumns=514, j=512, b=0, s0_x=99999", "")))
    assert [layout.sizes[0] for layout in found] == [512, 514]
    assert summary([Proof("p2p", "float64", "laplace", 3, True)]) == ["proved for all sizes: p2p"]
    assert np.all([layout.pairs[0] > 1 for layout in found])
