"""`fmmloopy evaluate`: points and charges from files of all kinds, potentials into others."""

from __future__ import annotations

import json
import mmap
import os
import zipfile

import h5py
import numpy as np
import pytest
from conftest import OPENCL, needs_opencl, run_command

import fmmloopy as fl
from fmmloopy import cli
from fmmloopy.cli.evaluate import kernel_from
from fmmloopy.files import Share, check_output, read_problem, write_results

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


def test_headers_of_numpy_and_tables_without_rows(tmp_path, recwarn):
    path = tmp_path / "points.csv"
    np.savetxt(path, np.column_stack([POINTS, CHARGES]), "%.17g", ",", header="x, y, z, charge")
    np.testing.assert_array_equal(read_problem(path).charges, CHARGES)
    path.write_text("x,y,z,charge\n\n")
    problem = read_problem(path)
    assert (problem.sources.shape, problem.charges.shape) == ((0, 3), (0,))
    assert not recwarn, "numpy warns of files without data"


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
    assert "is no table of numbers" in said("binary.csv", bytes(range(256)))
    assert "has 5 names of columns and 4 columns" in said("more.csv", b"x,y,z,charge,w\n1,2,3,4\n")
    assert "expected four or more columns" in said("empty.csv", b"")
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
    status, _, said = run(capsys, "evaluate", tmp_path / "missing.npz", "-o", tmp_path / "nowhere" / "out.h5")
    assert status == 2
    assert "nowhere to write out.h5 to" in said


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".csv", ".h5", ".vtu"])
def test_shares_of_processes(tmp_path, suffix):
    path = tmp_path / f"points{suffix}"
    write(path)
    for size in (1, 3, 47):
        shares = [read_problem(path, share=Share(rank, size)) for rank in range(size)]
        np.testing.assert_allclose(np.concatenate([each.sources for each in shares]), POINTS, rtol=1e-15)
        np.testing.assert_allclose(np.concatenate([each.charges for each in shares]), CHARGES, rtol=1e-15)
        assert all(abs(len(each.sources) - 40 / size) < 1 for each in shares)
        assert all((each.targets, each.nsources, each.ntargets) == (None, 40, 40) for each in shares)


def is_mapped(array):
    """Whether an array is a part of a file that is mapped into memory."""
    while isinstance(array, np.ndarray):
        array = array.base
    return isinstance(array, mmap.mmap)


def test_a_share_of_arrays_in_chunks_reads_only_its_rows(tmp_path, monkeypatch):
    path = tmp_path / "points.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("points", data=POINTS, chunks=(8, 3), compression="gzip")
        file.create_dataset("charges", data=CHARGES, chunks=(8,))
        file["other"] = CHARGES
    read, getitem = [], h5py.Dataset.__getitem__
    monkeypatch.setattr(h5py.Dataset, "__getitem__", lambda self, rows: read.append(rows) or getitem(self, rows))
    problem = read_problem(path, share=Share(1, 4))
    np.testing.assert_array_equal(problem.sources, POINTS[10:20])
    np.testing.assert_array_equal(problem.charges, CHARGES[10:20])
    assert (problem.nsources, problem.ntargets) == (40, 40)
    assert read == [slice(10, 20)] * 2, "nothing of other arrays"


@pytest.mark.parametrize("dtype", ["<f8", ">f8", "<f4", "<i4", ">c16"])
@pytest.mark.parametrize("userblock", [0, 512])
def test_arrays_are_mapped(tmp_path, dtype, userblock):
    points, charges = (100 * POINTS).astype("<f4"), (100 * CHARGES).astype(dtype)
    np.savez(tmp_path / "points.npz", points=np.asfortranarray(points), charges=charges, targets=points[:9])
    with h5py.File(tmp_path / "points.h5", "w", userblock_size=userblock) as file:
        file["points"], file["charges"], file["targets"] = points, charges, points[:9]
    for name in ("points.npz", "points.h5"):
        problem = read_problem(tmp_path / name)
        assert all(map(is_mapped, (problem.sources, problem.charges, problem.targets)))
        np.testing.assert_array_equal(problem.sources, points)
        np.testing.assert_array_equal(problem.charges, charges)
        np.testing.assert_array_equal(problem.targets, points[:9])
        assert problem.charges.dtype == np.dtype(dtype)
        assert is_mapped(read_problem(tmp_path / name, share=Share(1, 3)).sources)


def test_arrays_that_cannot_be_mapped_are_read(tmp_path):
    np.savez_compressed(tmp_path / "compressed.npz", points=POINTS, charges=CHARGES)
    np.savez(tmp_path / "empty.npz", points=POINTS, charges=CHARGES, targets=np.empty((0, 3)))
    with h5py.File(tmp_path / "pieces.h5", "w") as file:
        file.create_dataset("points", data=POINTS, chunks=(7, 3), shuffle=True, fletcher32=True)
        file.create_dataset("charges", data=CHARGES, external=[(str(tmp_path / "outside"), 0, CHARGES.nbytes)])
        file["targets"] = np.empty((0, 3))
    for name in ("compressed.npz", "empty.npz", "pieces.h5"):
        problem = read_problem(tmp_path / name)
        np.testing.assert_array_equal(problem.sources, POINTS)
        np.testing.assert_array_equal(problem.charges, CHARGES)
        assert problem.targets is None or problem.targets.shape == (0, 3)
        assert is_mapped(problem.sources) == (name == "empty.npz")


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".h5"])
def test_files_that_end_early(tmp_path, suffix):
    path = tmp_path / f"points{suffix}"
    write(path)
    content = path.read_bytes()
    for length in (len(content) - 8, len(content) // 2, 60, 3, 0):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=f"is no {suffix} file"):
            read_problem(path)


def test_archives_with_other_things_in_them(tmp_path):
    def said(path):
        with pytest.raises(ValueError, match=r"is no \.npz file with arrays") as caught:
            read_problem(path)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    path = tmp_path / "points.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("points.npy", b"no array")
        archive.writestr("charges.npy", b"no array")
    assert "magic string is not correct" in said(path)
    np.savez(path, points=POINTS, charges=np.array([{}] * 40))
    assert "Object arrays cannot be loaded" in said(path)
    np.savez(path, points=POINTS, charges=1.0)
    assert "'charges' is a single number" in said(path)
    np.savez_compressed(path, points=POINTS, charges=CHARGES)
    content = bytearray(path.read_bytes())
    content[60:600] = bytes(540)
    path.write_bytes(content)
    said(path)
    with path.open("wb") as file:
        np.save(file, POINTS)
    assert "a single array" in said(path)


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".csv", ".vtu"])
def test_the_file_that_was_read_can_be_replaced(tmp_path, suffix):
    path = tmp_path / f"points{suffix}"
    write(path)
    (tmp_path / f"link{suffix}").symlink_to(path)
    problem = read_problem(path)
    write_results(tmp_path / f"link{suffix}", problem.sources, {"charges": 2 * problem.charges})
    np.testing.assert_allclose(problem.charges, CHARGES, rtol=1e-15)
    found = read_problem(path)
    np.testing.assert_allclose(found.sources, POINTS, rtol=1e-15)
    np.testing.assert_allclose(found.charges, 2 * CHARGES, rtol=1e-15)
    assert (tmp_path / f"link{suffix}").is_symlink()
    assert len(os.listdir(tmp_path)) == 2, "nothing else is left"


def test_a_file_that_cannot_be_written_leaves_the_one_before(tmp_path):
    path = tmp_path / "points.h5"
    write(path)
    with pytest.raises(TypeError):
        write_results(path, POINTS, {"potentials": np.array([object()])})
    np.testing.assert_array_equal(read_problem(path).charges, CHARGES)
    assert os.listdir(tmp_path) == ["points.h5"]


def test_places_that_cannot_be_written_to(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"no folder .*missing to write out\.h5 to"):
        check_output(tmp_path / "missing" / "out.h5")
    (tmp_path / "folder.h5").mkdir()
    with pytest.raises(IsADirectoryError, match="is a folder, expected the name of a file"):
        check_output(tmp_path / "folder.h5")
    check_output(tmp_path / "out.h5")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(PermissionError, match=r"out\.h5 cannot be written to folder"):
        check_output(tmp_path / "out.h5")


@needs_opencl
def test_results_replace_the_points(tmp_path, capsys):
    path = tmp_path / "points.npz"
    np.savez(path, points=POINTS, charges=CHARGES, targets=POINTS[:7] + 0.5)
    words = ("evaluate", path, "-o", path, "--order", 4, "--device", OPENCL[0].description)
    assert run(capsys, *words)[0] == 0
    with np.load(path) as file:
        np.testing.assert_array_equal(file["points"], POINTS[:7] + 0.5)
        np.testing.assert_allclose(file["potentials"], fl.direct(POINTS, CHARGES, POINTS[:7] + 0.5), rtol=1e-4)


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
