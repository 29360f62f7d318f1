"""Code on disk: found again when nothing has changed, made again when anything has, and bound with care."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import c_compiler, devices, specification

import fmmloopy as fl
from fmmloopy.common.sizes import MOST_INDEX
from fmmloopy.common.store import ENVIRONMENT_VARIABLE
from fmmloopy.common.trust import CacheWarning
from fmmloopy.execution import generate as compile_module
from fmmloopy.execution.devices import C_DEVICE, find_devices
from fmmloopy.execution.generate import compile_operator, generate
from fmmloopy.execution.key import CodeKey
from fmmloopy.execution.launch import CompiledOperator
from fmmloopy.execution.runtime import make_runtime
from fmmloopy.greens import GreensFunction, laplace, yukawa
from fmmloopy.recipes import SEQUENTIAL, RecipeBook, RecipeError, fix_lanes, load_recipes, separate_lanes
from fmmloopy.transforms import steps

P2P = CodeKey(specification("p2p", order=4), SEQUENTIAL, C_DEVICE)


def key(operator="p2p", kernel=None, order=4, types="float64", book=SEQUENTIAL, device=C_DEVICE, parameters=None):
    """Return a key that differs from P2P's in what is given."""
    return CodeKey(specification(operator, kernel, order, types), book, device, parameters or {})


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty cache of this test's own."""
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache" / "code"


@pytest.fixture
def generated(monkeypatch):
    """Operators that code is generated for, in order."""
    names = []
    real = compile_module.generate

    def count(key):
        names.append(key.operator)
        return real(key)

    monkeypatch.setattr(compile_module, "generate", count)
    return names


# -- what is kept


def test_code_is_generated_once(folder, generated):
    first, second = compile_operator(P2P), compile_operator(P2P)
    assert first == second
    assert generated == ["p2p"]
    assert [path.suffix for path in folder.iterdir()] == [".json"], "a temporary file stays behind"


def test_code_says_what_it_is(folder):
    for code in (compile_operator(P2P), compile_operator(P2P)):
        assert isinstance(code, CompiledOperator)
        assert code.operator == "p2p"
        assert f"{code.entry}(" in code.source
        assert code.steps == ("sequential",)
        assert code.lanes == (("tlanes", 1), ("slanes", 1))
        assert (code.global_size, code.local_size) == (("1",), (1,))
        kinds = {name: (kind, dtype) for name, kind, dtype in code.arguments}
        assert kinds["sources"] == kinds["potentials"] == ("array", "float64")
        assert kinds["lists"] == ("array", "int32")
        assert kinds["ntarget_boxes"] == ("number", "int32")
        assert kinds["scaling"] == ("number", "float64")
        hash(code)  # tuples all through, also after a trip to disk


DAMAGES = {
    "empty": lambda text: "",
    "cut off": lambda text: text[: len(text) // 2],
    "not JSON": lambda text: "\x00" + text,
    "another thing": lambda text: "[1, 2]",
    "a number": lambda text: "3",
    "null": lambda text: "null",
    "no code": lambda text: json.dumps({"key": json.loads(text)["key"]}),
    "another key": lambda text: text.replace('"key": "', '"key": "x', 1),
    "a changed number": lambda text: text.replace("float64", "float32"),
    "a changed program": lambda text: text.replace("sqrt", "cbrt"),
    "an argument less": lambda text: json.dumps(
        {**json.loads(text), "content": {k: v for k, v in json.loads(text)["content"].items() if k != "lanes"}}
    ),
    "an argument more": lambda text: json.dumps(
        {**json.loads(text), "content": {**json.loads(text)["content"], "comment": "hello"}}
    ),
    "arguments of another form": lambda text: json.dumps(
        {**json.loads(text), "content": {**json.loads(text)["content"], "arguments": 3}}
    ),
    "code of another form": lambda text: json.dumps({**json.loads(text), "content": []}),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_replaced(damage, folder, generated):
    expected = compile_operator(P2P)
    (path,) = folder.iterdir()
    text = path.read_text()
    damaged = DAMAGES[damage](text)
    assert damaged != text
    path.write_text(damaged)
    assert compile_operator(P2P) == expected
    assert generated == ["p2p", "p2p"]
    assert path.read_text() == text
    compile_operator(P2P)
    assert generated == ["p2p", "p2p"]


def test_file_that_is_not_text(folder, generated):
    expected = compile_operator(P2P)
    (path,) = folder.iterdir()
    path.write_bytes(b"\xff\xfe\x00" * 100)
    assert compile_operator(P2P) == expected
    assert generated == ["p2p", "p2p"]


@pytest.mark.parametrize("what", ["cache is a file", "cache is below a file", "code is a file", "entry is a folder"])
def test_cache_that_cannot_be_written(what, folder, generated, tmp_path, monkeypatch):
    """As with a full disk or a home without rights: slower, and nothing else. (Root may write everywhere else.)"""
    if what == "cache is a file":
        folder.parent.write_text("")
    elif what == "cache is below a file":
        (tmp_path / "file").write_text("")
        monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path / "file" / "cache"))
    elif what == "code is a file":
        folder.parent.mkdir()
        folder.write_text("")
    else:
        compile_operator(P2P)
        (path,) = folder.iterdir()
        path.unlink()
        path.mkdir()
        (path / "something").write_text("")
        generated.clear()
    assert compile_operator(P2P) == compile_operator(P2P)
    assert generated == ["p2p", "p2p"]


def test_whole_method_without_a_cache(opencl_device, tmp_path, monkeypatch):
    """Tables, code and the runtime's own programs: none can be kept."""
    pytest.importorskip("pyopencl.invoker")  # on import it makes a cache folder of its own, which has to succeed
    (tmp_path / "file").write_text("")
    for name in (ENVIRONMENT_VARIABLE, "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "file" / "cache"))
    points, charges = np.random.default_rng(0).random((300, 3)), np.ones(300)
    with pytest.warns(
        UserWarning, match=f"tables cannot be stored in .*; set {ENVIRONMENT_VARIABLE} to a writable folder"
    ):
        fmm = fl.Fmm(points, order=3, ncrit=10, device=opencl_device)
    expected = fl.direct(points, charges)
    # 3 times 10^-3 for order 3, as in test_fmm.py.
    assert np.linalg.norm(fmm.evaluate(charges) - expected) <= 3e-3 * np.linalg.norm(expected)


# -- what code depends on


def other_p2p(knl):
    """As the sequential recipe."""
    yield "another name", separate_lanes(fix_lanes(knl))


def wide_p2p(knl, *, lanes: int = 2):
    """With a keyword."""
    yield "lanes", steps.lane_arrays(knl, lanes)


BY_DEVICE = {"p2p": {C_DEVICE.description: {"lanes": 4}, "": {"lanes": 1}}}


def test_code_is_made_with_the_parameters_of_the_device():
    book = RecipeBook("b", "", {"p2p": wide_p2p}, by_device=BY_DEVICE)
    assert dict(generate(key(book=book)).lanes)["tlanes"] == 4
    assert dict(generate(key(book=book, device=replace(C_DEVICE, description="another"))).lanes)["tlanes"] == 1
    assert dict(generate(key(book=book, parameters={"lanes": 8})).lanes)["tlanes"] == 8


def with_many_registers(device):
    """Processors with 32 registers."""
    return device.registers >= 32


def test_key_holds_what_a_device_gets_whatever_its_description():
    """Facts that a description does not have may choose parameters too."""
    by_device = {"p2p": {with_many_registers: {"lanes": 8}}}
    book = RecipeBook("sequential", "", {"p2p": wide_p2p}, by_device=by_device)
    few, many = (key(book=book, device=replace(C_DEVICE, registers=n)) for n in (16, 32))
    assert few.text() != many.text()
    assert dict(compile_operator(few).lanes)["tlanes"] == 2
    assert dict(compile_operator(many).lanes)["tlanes"] == 8
    assert replace(few, parameters={"lanes": 8}).text() == many.text(), "the same code"


DIFFERENCES = {
    "operator": {"operator": "p2m"},
    "expressions": {"kernel": GreensFunction("laplace", (("rinv*rinv",),))},
    "components": {"kernel": GreensFunction("laplace", (("rinv", "rinv"),))},
    "gradient": {"kernel": laplace().with_gradient()},
    "parameters of the function": {"kernel": yukawa()},
    "types": {"types": "float32"},
    "mixed types": {"types": "mixed"},
    "name of the book": {"book": RecipeBook("b", "", {"p2p": other_p2p})},
    "recipe": {"book": RecipeBook("sequential", "", {"p2p": other_p2p})},
    "options of the compiler": {"book": replace(SEQUENTIAL, build_options=("-w",))},
    "recipe with keywords": {"book": RecipeBook("sequential", "", {"p2p": wide_p2p})},
    "parameters by device": {"book": RecipeBook("sequential", "", {"p2p": wide_p2p}, by_device=BY_DEVICE)},
    "tuning parameters": {"parameters": {"lanes": 8}},
    "other tuning parameters": {"parameters": {"lanes": 16}},
    "kind of device": {"device": replace(C_DEVICE, backend="opencl")},
    "device": {"device": replace(C_DEVICE, description="another compiler")},
    "driver": {"device": replace(C_DEVICE, driver="2.0")},
}


def test_everything_that_matters_is_in_the_key():
    texts = {name: key(**change).text() for name, change in DIFFERENCES.items()}
    texts["fewer steps"] = replace(P2P, most_steps=1).text()
    assert len({P2P.text(), *texts.values()}) == 1 + len(texts), texts


def test_books_share_the_code_of_operators_that_they_have_no_recipe_for():
    assert key(book=RecipeBook("b", "", {"m2m": other_p2p})).text() == P2P.text()


def test_versions_are_in_the_key(monkeypatch):
    before = P2P.text()
    assert all(package in before for package in ("loopy", "islpy", "pymbolic"))
    monkeypatch.setattr("fmmloopy.execution.key.versions", lambda: (("loopy", "1999.1"),))
    assert P2P.text() != before


def test_values_of_parameters_are_not_in_the_key(folder, generated):
    """They are arguments of the code: a new decay must not cost a new compilation."""
    codes = [compile_operator(key(kernel=yukawa(decay))) for decay in (0.5, 7.0)]
    assert codes[0] == codes[1]
    assert generated == ["p2p"]
    numbers = [name for name, kind, dtype in codes[0].arguments if (kind, dtype) == ("number", "float64")]
    assert [name for name in numbers if name.endswith("decay")] == [name for name in numbers if name != "scaling"]
    assert len(numbers) == 2


def test_scaling_is_not_in_the_key():
    assert P2P.text() == key(kernel=replace(laplace(), scaling=2.0)).text()


def test_order_is_in_the_key_where_it_is_in_the_loops():
    for operator in ("p2p", "m2m", "m2l", "check_to_equivalent"):
        assert key(operator, order=9).text() == key(operator).text()
    for operator in ("m2l_forward", "m2l_inverse"):
        assert key(operator, order=9).text() != key(operator).text()


# for programs that import this file and what it imports
TEST_FOLDERS = f"{Path(__file__).parent}:{Path(__file__).parents[1]}"


def test_two_processes_make_the_same_key():
    """Hashes of text and orders of sets differ from process to process; keys must not."""
    program = (
        "import sys; sys.path += sys.argv[1].split(':')\n"
        "from fmmloopy.recipes import load_recipes\n"
        "from test_code import key\n"
        "print(key(book=load_recipes('pocl_cpu')).text())"
    )
    command = [sys.executable, "-c", program, TEST_FOLDERS]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == key(book=load_recipes("pocl_cpu")).text()


PROGRAM_THAT_LOSES_CACHES = """
import shutil, sys; sys.path += sys.argv[1].split(":")
from dataclasses import replace
from pathlib import Path
from fmmloopy.execution.devices import choose_device
from test_code import *
root = Path(sys.argv[2])
runtime = make_runtime(choose_device(sys.argv[3]))
for name, greens in (("first", laplace()), ("second", yukawa())):
    code = compile_operator(key(kernel=greens, device=runtime.device))
    code = replace(code, entry=name, source=code.source.replace("p2p", name))
    runtime.bind(code, p2p_arguments(runtime) | {"parameter_decay": 1.0})
    print(name, [path.name for path in root.iterdir()])
    for path in root.iterdir():
        shutil.rmtree(path)
"""


def test_caches_of_loopy_and_pyopencl_may_vanish(opencl_device, tmp_path):
    """They are in the user's cache folder too, which may be emptied while a program runs."""
    command = [sys.executable, "-c", PROGRAM_THAT_LOSES_CACHES, TEST_FOLDERS, str(tmp_path)]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), ENVIRONMENT_VARIABLE: str(tmp_path / "own")}
    environment["POCL_CACHE_DIR"] = str(tmp_path.parent / "pocl")  # it needs its own
    done = subprocess.run([*command, opencl_device.description], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert "pytools" in first
    assert "own" in second


# -- what others can write


HARMFUL = """
#include <stdio.h>
__attribute__((constructor)) static void harm(void) { fclose(fopen("%s", "w")); }
"""


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="this system has no owners of files")
@pytest.mark.parametrize("planted", ["file", "folder"])
def test_a_library_that_somebody_has_planted_is_not_loaded(folder, tmp_path, planted):
    """Its name has the hash of its content, which anybody can compute."""
    compiler = c_compiler()
    if compiler is None:
        pytest.skip("no C compiler")
    runtime = make_runtime(C_DEVICE)
    code = compile_operator(P2P)
    runtime.bind(code, p2p_arguments(runtime))
    (library,) = (folder.parent / "c").glob("*.so")
    (tmp_path / "harm.c").write_text(HARMFUL % (tmp_path / "harmed"))
    subprocess.run([compiler, "-shared", "-fPIC", "-o", tmp_path / "harm.so", tmp_path / "harm.c"], check=True)
    content = (tmp_path / "harm.so").read_bytes()
    library.unlink()
    start = library.stem.rpartition("-")[0]
    library = library.with_name(f"{start}-{hashlib.sha256(content).hexdigest()}.so")
    library.write_bytes(content)
    (library if planted == "file" else library.parent).chmod(0o777)
    with pytest.warns(CacheWarning, match="can be written by others"):
        make_runtime(C_DEVICE).bind(code, p2p_arguments(runtime))
    assert not (tmp_path / "harmed").exists()


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="this system has no owners of files")
def test_code_that_others_can_write_is_generated_again(folder, generated):
    compile_operator(P2P)
    folder.chmod(0o777)
    with pytest.warns(CacheWarning, match="chmod -R go-w"):
        compile_operator(P2P)
    compile_operator(P2P)
    assert generated == ["p2p"] * 3


# -- what cannot be compiled


def two_kernels(knl):
    """A barrier across groups between the sums and their store."""
    import loopy as lp

    knl = separate_lanes(fix_lanes(knl))
    yield "two kernels", lp.add_barrier(knl, "id:box", "id:tgt_start", synchronization_kind="global")


def test_kernel_that_falls_apart(folder):
    book = RecipeBook("bad", "", {"p2p": two_kernels})
    with pytest.raises(RecipeError, match=r"^bad, p2p, after step 1 'two kernels': ") as caught:
        compile_operator(key(book=book))
    assert "\n" not in str(caught.value)
    assert not folder.exists(), "a failure is kept"


# -- binding


def p2p_arguments(runtime):
    """One box of three sources at distances 1 and 2 from each other."""
    points = np.zeros((3, 16))
    points[0, :3] = 0, 1, 2
    charges = np.zeros((1, 16))
    charges[0, :3] = 1, 10, 100
    arrays = {
        "sources": points,
        "targets": points,
        "charges": charges,
        "potentials": np.zeros((1, 16)),
        **{f"box_{which}_starts": np.array([0], np.int32) for which in ("source", "target")},
        **{f"box_{which}_ends": np.array([3], np.int32) for which in ("source", "target")},
        "target_boxes": np.zeros(65, np.int32),
        "list_starts": np.array([0, 1], np.int32),
        "lists": np.array([0], np.int32),
    }
    numbers = {"nsources": 16, "ntargets": 16, "ntarget_boxes": 1, "scaling": 1.0}
    return {name: runtime.upload(array) for name, array in arrays.items()} | numbers


@pytest.fixture(params=devices())
def runtime(request):
    return make_runtime(request.param)


def p2p_code(runtime):
    return compile_operator(key(device=runtime.device))


def test_bound_operator_adds_to_its_output(runtime):
    """Twice is twice; sums of 10 + 50, 1 + 100, 0.5 + 10 are exact."""
    arguments = p2p_arguments(runtime)
    launch = runtime.bind(p2p_code(runtime), {**arguments, "not an argument": None})
    for times in (1, 2):
        seconds = runtime.run([launch])
        assert list(seconds) == ["p2p"]
        values = runtime.read(arguments["potentials"])
        np.testing.assert_array_equal(values[0, :3], times * np.array([60, 101, 10.5]))
        np.testing.assert_array_equal(values[0, 3:], 0)
    runtime.run([runtime.clear(arguments["potentials"])])
    np.testing.assert_array_equal(runtime.read(arguments["potentials"]), 0)


@pytest.mark.parametrize("name", ["sources", "lists", "scaling", "ntarget_boxes"])
def test_bind_refuses_a_missing_argument(name, runtime):
    arguments = p2p_arguments(runtime)
    del arguments[name]
    with pytest.raises(TypeError, match=f"^p2p needs {name}, which is missing in the call$"):
        runtime.bind(p2p_code(runtime), arguments)


@pytest.mark.parametrize("value", [-1, MOST_INDEX + 1])
def test_bind_refuses_a_count_that_proofs_do_not_cover(value, runtime):
    arguments = {**p2p_arguments(runtime), "nsources": value}
    with pytest.raises(ValueError, match=f"^p2p: nsources is {value}, expected 0 to 2147483391$"):
        runtime.bind(p2p_code(runtime), arguments)


@pytest.mark.parametrize(
    ("name", "dtype", "expected"), [("charges", np.float32, "float64"), ("lists", np.int64, "int32")]
)
def test_bind_refuses_an_array_of_another_dtype(name, dtype, expected, runtime):
    arguments = {**p2p_arguments(runtime), name: runtime.upload(np.zeros((1, 16), dtype))}
    with pytest.raises(TypeError, match=f"^p2p: {name} has dtype {np.dtype(dtype)}, expected {expected}$"):
        runtime.bind(p2p_code(runtime), arguments)


def test_arrays_come_back_as_they_went(runtime):
    for values in (
        np.arange(12.0).reshape(3, 4).T,
        np.array([[1, -2], [3, 4]], np.int32),
        np.zeros((0,)),
        np.zeros((2, 0)),
    ):
        array = runtime.upload(values)
        assert (array.shape, array.dtype, array.size) == (values.shape, values.dtype, values.size)
        np.testing.assert_array_equal(runtime.read(array), values)
    array = runtime.zeros((2, 3), np.dtype(np.float32))
    np.testing.assert_array_equal(runtime.read(array), np.zeros((2, 3)))
    runtime.write(array, np.ones((2, 3)))
    np.testing.assert_array_equal(runtime.read(array), np.ones((2, 3), np.float32))


def test_rows_of_arrays_come_and_go(runtime):
    values = np.arange(60.0).reshape(10, 2, 3)
    array, rows = runtime.upload(values), np.array([1, 2, 3, 7, 9])
    np.testing.assert_array_equal(runtime.read(array, rows), values[rows])
    runtime.write(array, -values[rows], rows)
    values[rows] *= -1
    np.testing.assert_array_equal(runtime.read(array), values)
    assert runtime.read(array, rows[:0]).shape == (0, 2, 3)


def test_unused_devices_cost_nothing():
    """Describing a device opens none: handles stay with the devices that were found."""
    assert [d.handle is None for d in find_devices()] == [d.backend == "c" for d in find_devices()]
