"""`fmmloopy evaluate`: points and charges from files of all kinds, potentials into others."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
from conftest import OPENCL, run_command

import fmmloopy as fl
from fmmloopy import cli
from fmmloopy.cli.evaluate import kernel_from, share_of
from fmmloopy.files import Problem, read_problem, write_results

needs_opencl = pytest.mark.skipif(not OPENCL, reason="no OpenCL device")

POINTS = np.random.default_rng(3).random((40, 3))
CHARGES = np.random.default_rng(4).standard_normal(40)


def mesh(path, **data):
    meshio = pytest.importorskip("meshio")
    meshio.Mesh(POINTS, [("vertex", np.arange(len(POINTS))[:, None])], point_data=data).write(path)


def write_hdf5(path, **arrays):
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values


def write(path):
    """Write points and charges to a file of any kind."""
    table = np.column_stack([POINTS, CHARGES])
    match path.suffix:
        case ".npz":
            np.savez(path, points=POINTS, charges=CHARGES)
        case ".npy":
            np.save(path, table)
        case ".csv":
            np.savetxt(path, table, "%.17g", ",", header="x,y,z,charge", comments="")
        case ".h5":
            write_hdf5(path, points=POINTS, charges=CHARGES)
        case _:
            mesh(path, charges=CHARGES)


def run(capsys, *words):
    """Return the exit status, standard output and standard error."""
    with pytest.raises(SystemExit) as caught:
        cli.main(list(map(str, words)))
    captured = capsys.readouterr()
    return caught.value.code or 0, captured.out, captured.err


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".csv", ".h5", ".vtk", ".vtu"])
def test_points_and_charges_are_read(tmp_path, suffix):
    path = tmp_path / f"points{suffix}"
    write(path)
    problem = read_problem(path)
    np.testing.assert_allclose(problem.sources, POINTS, rtol=1e-15)
    np.testing.assert_allclose(problem.charges, CHARGES, rtol=1e-15)
    assert problem.targets is None


def test_a_table_without_names_and_one_with_other_columns(tmp_path):
    path = tmp_path / "points.csv"
    np.savetxt(path, np.column_stack([POINTS, CHARGES, 2 * CHARGES]), delimiter=",")
    assert read_problem(path).charges.shape == (40, 2)
    columns = np.column_stack([CHARGES, POINTS[:, ::-1], 2 * CHARGES])
    np.savetxt(path, columns, "%.17g", ",", header="charge, z, y, x, other", comments="")
    np.testing.assert_array_equal(read_problem(path).sources, POINTS)
    np.testing.assert_array_equal(read_problem(path).charges, CHARGES)
    np.testing.assert_array_equal(read_problem(path, "other").charges, 2 * CHARGES)


def test_targets_and_other_names(tmp_path):
    path = tmp_path / "points.h5"
    write_hdf5(path, sources=POINTS, masses=CHARGES, targets=POINTS[:5] + 1, about=1.0)
    problem = read_problem(path, "masses")
    np.testing.assert_array_equal(problem.targets, POINTS[:5] + 1)
    np.testing.assert_array_equal(problem.charges, CHARGES)


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".csv", ".vtk", ".vtu"])
def test_what_is_written_can_be_read(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    if suffix.startswith(".v"):
        pytest.importorskip("meshio")
    write_results(path, POINTS, {"potentials": CHARGES, "gradients": POINTS * 2})
    problem = read_problem(path, "potentials" if suffix != ".csv" else "potential")
    np.testing.assert_array_equal(problem.sources, POINTS)
    np.testing.assert_array_equal(problem.charges, CHARGES)
    np.testing.assert_array_equal(read_problem(path, "gradients").charges, POINTS * 2)


def test_complex_numbers_become_two_columns(tmp_path):
    write_results(tmp_path / "out.csv", POINTS, {"potentials": CHARGES * (1 + 2j)})
    assert (tmp_path / "out.csv").read_text().splitlines()[0] == "x,y,z,potentials_real,potentials_imag"
    np.testing.assert_array_equal(read_problem(tmp_path / "out.csv", "potentials_imag").charges, 2 * CHARGES)
    write_results(tmp_path / "out.h5", POINTS, {"potentials": CHARGES * (1 + 2j)})
    np.testing.assert_array_equal(read_problem(tmp_path / "out.h5", "potentials").charges, CHARGES * (1 + 2j))


def test_files_that_cannot_be_used(tmp_path):
    def said(name, content=None, **arrays):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        if arrays:
            np.savez(path, **arrays)
        with pytest.raises((ValueError, OSError)) as caught:
            read_problem(path)
        return str(caught.value)

    assert "has the suffix '.txt', expected one of .npz, .npy, .csv" in said("points.txt", b"1 2 3")
    for suffix in (".npz", ".h5", ".vtu"):
        assert f"no file {tmp_path}" in said(f"missing{suffix}")
        assert f"bad{suffix} is no {suffix} file" in said(f"bad{suffix}", b"garbage")
    assert "is no table of numbers" in said("bad.csv", b"x,y,z,charge\n1,2,3,4\n1,2,three,4\n")
    assert "has columns x, y, charge, expected x, y, z and charges" in said("flat.csv", b"x,y,charge\n1,2,3\n")
    assert "but none whose name begins with 'charges'" in said("none.csv", b"x,y,z,w\n1,2,3,4\n")
    assert "has arrays 'a', expected an array named points or sources" in said("a.npz", a=POINTS)
    assert "but no array named 'charges'" in said("p.npz", points=POINTS)
    np.save(tmp_path / "three.npy", POINTS)
    assert "expected four or more columns" in said("three.npy")


def test_kernels_by_name_and_by_formula():
    assert kernel_from("laplace") == kernel_from("laplace()") == fl.laplace()
    assert kernel_from("yukawa(decay=2.0)") == fl.yukawa(2.0)
    assert kernel_from("helmholtz(5)").is_complex
    assert kernel_from("exp(-r)/r").name == "formula"
    for text, words in {
        "helmholtz": "missing 1 required positional argument",
        "yukawa(-1)": "decay",
        "yukawa(open('x'))": "malformed",
        "laplac": "expected one of laplace, yukawa, helmholtz",
        "import os": "expected one of",
    }.items():
        with pytest.raises(ValueError, match=words):
            kernel_from(text)


@needs_opencl
def test_potentials_and_gradients_are_those_of_the_direct_sum(tmp_path, capsys):
    np.savez(tmp_path / "points.npz", points=POINTS, charges=CHARGES, targets=POINTS[:7] + 0.5)
    out = tmp_path / "out.h5"
    words = ("evaluate", tmp_path / "points.npz", "-o", out, "--gradient", "--kernel", "yukawa(2.0)", "--order", 4)
    status, text, _ = run(capsys, *words, "--device", OPENCL[0].description)
    assert status == 0
    assert "40 sources, 7 targets, yukawa" in text
    assert f"the results are in {out}" in text
    expected = fl.direct(POINTS, CHARGES, POINTS[:7] + 0.5, fl.yukawa(2.0), gradient=True)
    with h5py.File(out) as file:
        np.testing.assert_allclose(file["potentials"], expected[0], rtol=1e-4)
        np.testing.assert_allclose(file["gradients"], expected[1], rtol=1e-3, atol=1e-3)
        np.testing.assert_array_equal(file["points"], POINTS[:7] + 0.5)
    status, text, _ = run(capsys, *words, "--device", OPENCL[0].description, "--json")
    document = json.loads(text)
    assert (status, document["ok"], document["order"], document["output"]) == (0, True, 4, str(out))
    assert 0 < document["measured_error"] < 1e-3


def test_what_cannot_be_written_is_said_before_anything_is_computed(tmp_path, capsys):
    status, _, said = run(capsys, "evaluate", tmp_path / "missing.npz", "-o", tmp_path / "out.docx")
    assert status == 2
    assert "has the suffix '.docx', expected one of .npz, .csv, .h5" in said


def test_shares_of_processes():
    problem = Problem(np.arange(15).reshape(5, 3), np.arange(5), None)
    shares = [share_of(problem, rank, 7) for rank in range(7)]
    assert np.array_equal(np.concatenate([each.charges for each in shares]), problem.charges)
    assert all(len(each.sources) == len(each.charges) <= 1 and each.targets is None for each in shares)


def test_several_devices(tmp_path, capsys, rng, opencl_device):
    np.savez(tmp_path / "points.npz", points=rng.random((500, 3)), charges=rng.random(500))
    names = [opencl_device.description] * 2
    status, text = run_command(
        capsys, "evaluate", str(tmp_path / "points.npz"), "-d", names[0], "-d", names[1], "--digits", "3", "--json"
    )
    report = json.loads(text)
    assert status == 0
    assert report["device"] == ", ".join(names)
    assert report["measured_error"] < 1e-3
