"""``fmmloopy bundle``, and ``fmmloopy evaluate`` with what it has made."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fmmloopy import cli
from fmmloopy.common import store


def run(capsys, *words):
    """Return the exit status, standard output and standard error."""
    with pytest.raises(SystemExit) as caught:
        cli.main(list(map(str, words)))
    captured = capsys.readouterr()
    return caught.value.code or 0, captured.out, captured.err


def test_a_bundle_is_made_and_used(capsys, tmp_path, monkeypatch, opencl_device, rng):
    monkeypatch.setattr(store, "archives", [])
    points, charges = tmp_path / "points.npz", rng.standard_normal(3000)
    np.savez(points, points=rng.random((3000, 3)), charges=charges)
    where, device = tmp_path / "laplace.fmm", ("--device", opencl_device.description)
    status, said, _ = run(capsys, "bundle", "-o", where, "--digits", "2,3", "--points", points, *device)
    assert (status, said.splitlines()[1:]) == (0, [f"  laplace, {digits} digits, with gradients" for digits in (2, 3)])
    assert said.startswith(f"wrote {where}: ")
    status, said, _ = run(capsys, "evaluate", points, "--digits", 3, "--bundle", where, *device, "--json")
    assert status == 0
    assert json.loads(said)["measured_error"] < 1e-3


def test_arguments_that_cannot_be_used(capsys, tmp_path):
    where = tmp_path / "some.fmm"
    status, said, _ = run(capsys, "bundle", "-o", where, "--digits", "3;6", "--json")
    assert (status, json.loads(said)["error"]) == (2, "--digits is '3;6', expected numbers such as 3,6,9")
    status, _, error = run(capsys, "bundle", "-o", tmp_path / "none" / "some.fmm")
    assert (status, "cannot be written" in error) == (2, True)
    status, _, error = run(capsys, "bundle", "-o", where, "--kernel", "laplas")
    assert (status, "--kernel is 'laplas'" in error) == (2, True)
    assert not where.exists()
