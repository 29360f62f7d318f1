"""Machine code for GPUs: what is read from the tools' output, and that P2P keeps to its budget."""

from __future__ import annotations

import json
import shutil
import sysconfig
from pathlib import Path

import pytest
from conftest import run_command, slow_but, specification

from fmmloopy.components import CHARGES, GRADIENT
from fmmloopy.execution.backends import cuda, nvrtc
from fmmloopy.execution.device import DeviceError
from fmmloopy.execution.generate import compile_operator
from fmmloopy.execution.key import CodeKey
from fmmloopy.greens import laplace
from fmmloopy.precision import DTYPE_NAMES
from fmmloopy.recipes import shipped_books
from fmmloopy.showing import amd_code
from fmmloopy.showing import gpu_code as module
from fmmloopy.showing.gpu_code import CARDS, code_for, device_for, innermost_loops, read_code
from fmmloopy.showing.occupancy import MULTIPROCESSORS, Occupancy, find_occupancy

TOOLS = all(
    shutil.which(tool) or any((Path(sysconfig.get_path("purelib")) / "nvidia").glob(f"cu*/bin/{tool}"))
    for tool in ("nvdisasm", "cuobjdump")
)
needs_tools = pytest.mark.skipif(
    not (TOOLS and cuda.has_packages()), reason=f"NVRTC, nvdisasm or cuobjdump is not installed: {nvrtc.INSTALL}"
)

needs_clang = pytest.mark.skipif(
    not amd_code.has_tools(), reason=f"clang or libclc is not installed: {amd_code.INSTALL}"
)

BOOK = shipped_books()["gpu"]

USAGE = " Function p2p:\n  REG:58 STACK:16 SHARED:2048 LOCAL:8 CONSTANT[0]:636\n"

TEXT = """
.text.p2p:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
.L_x_1:
        /*0010*/                   LDG.E R2, desc[UR4][R2.64] ;
.L_x_2:
        /*0020*/                   LDS.128 R4, [R1] ;
        /*0030*/                   DADD R6, R4, -R8 ;
        /*0040*/                   DFMA R6, R6, R6, R10 ;
        /*0050*/                   MUFU.RSQ64H R11, R7 ;
        /*0060*/              @!P0 DMUL R6, R6, R12 ;
        /*0070*/                   MUFU.RSQ64H R13, R9 ;
        /*0080*/                   STL [R1], R6 ;
        /*0090*/                   ISETP.NE.AND P2, PT, R1, RZ, PT ;
        /*00a0*/               @P2 BRA `(.L_x_2) ;
        /*00b0*/               @P1 BRA `(.L_x_1) ;
.L_x_3:
        /*00c0*/                   BRA `(.L_x_3);
"""


def test_the_innermost_loop_is_counted():
    assert len(innermost_loops(TEXT)) == 1
    code = read_code("sm_90", USAGE, TEXT)
    assert (code.registers, code.spilled, code.local_bytes, code.pairs) == (58, 24, 2048, 2)
    assert code.kinds == {"FP64": 3, "special": 2, "local memory": 1, "spills": 1, "other": 2}
    assert code.lines()[1] == (
        "innermost loop, per pair: 4.5 issue slots (1.5 FP64, 1 special, 0.5 local memory, 0.5 spills, 1 other)"
    )


def test_what_binds_a_card():
    """Two special results take 1/8 of a cycle of 16 units; three FP64 operations take 3/64 or, with two units, 3/2."""
    code = read_code("sm_90", USAGE, TEXT)
    h100 = next(card for card in CARDS if card.architecture == "sm_90")
    assert code.binding(h100) == ("special", pytest.approx(132 * 1.98e9 * 2 / (2 / 16)))
    ada = next(card for card in CARDS if card.architecture == "sm_89")
    assert code.binding(ada) == ("FP64", pytest.approx(128 * 2.52e9 * 2 / (3 / 2)))
    assert code.lines()[2] == "predicted for H100 SXM, H200, not measured: at most 4,182 Gpairs/s, special binds"


def test_code_without_loops():
    code = read_code("sm_90", USAGE, ".text.f:\n  /*0000*/  EXIT ;\n")
    assert (code.slots, code.pairs, dict(code.kinds), len(code.lines())) == (0, 0, {}, 2)


@pytest.mark.parametrize(
    ("architecture", "items", "registers", "local_bytes", "expected"),
    [
        # 512 registers in each of four parts of an SM hold 8 warps with 64 each; a warp is a group.
        ("sm_90", 32, 58, 2048, Occupancy(32, 32, 64, "registers")),
        ("sm_80", 64, 255, 0, Occupancy(4, 8, 64, "registers")),
        ("sm_80", 128, 32, 31 * 1024, Occupancy(5, 20, 64, "local memory")),  # and one reserved: 164 = 5 x 32 + 4
        ("sm_89", 32, 32, 512, Occupancy(24, 24, 48, "groups")),
        ("sm_90", 256, 16, 0, Occupancy(8, 64, 64, "warps")),
        # 98 registers become 104, of which 512 hold four; a wavefront that is half full counts as one.
        ("gfx90a", 32, 98, 896, Occupancy(16, 16, 32, "registers")),
        ("gfx90a", 128, 24, 0, Occupancy(16, 32, 32, "warps")),
        ("gfx90a", 64, 24, 0, Occupancy(32, 32, 32, "registers")),
    ],
)
def test_occupancy(architecture, items, registers, local_bytes, expected):
    found = find_occupancy(architecture, items, registers, local_bytes)
    assert found is not None
    assert (found.groups, found.warps, found.most_warps) == (expected.groups, expected.warps, expected.most_warps)
    if (architecture, items) not in {("gfx90a", 128), ("gfx90a", 64)}:  # there, two limits are equal
        assert found.binds == expected.binds


def test_occupancy_of_an_architecture_that_is_not_in_the_table():
    assert find_occupancy("sm_120", 32, 58, 2048) is None
    assert {card.architecture for card in CARDS} <= set(MULTIPROCESSORS)


def made_for(architecture, operator, types="float64", components=CHARGES):
    """Return the machine code of the book's kernel of order 6."""
    spec = specification(operator, components.of(laplace()), 6, types)
    return code_for(compile_operator(CodeKey(spec, BOOK, device_for(architecture))), architecture)


def kernels(architectures):
    """Return all kernels of the book: operators, types, with and without gradients where these are other kernels."""
    return [
        (name, types, derivatives, architecture)
        for name in BOOK.recipes
        for types in sorted({BOOK.operator(name).types_in(precision).name for precision in DTYPE_NAMES.values()})
        for derivatives in (CHARGES, GRADIENT)[: 1 + BOOK.operator(name).gives_potentials]
        for architecture in architectures
    ]


def identify(value):
    return ("gradient" if value == GRADIENT else "potential") if value in (CHARGES, GRADIENT) else None


@needs_tools
@pytest.mark.parametrize(
    ("operator", "types", "derivatives", "architecture"),
    slow_but(
        lambda name, types, derivatives, architecture: (
            (name, types, derivatives, architecture) == ("p2p", "mixed", GRADIENT, "sm_90")
            or (name, types, architecture) == ("m2l_hadamard", "float64", "sm_80")
            or (name, types, architecture) == ("m2m", "float64", "sm_89")
        ),
        kernels(("sm_80", "sm_89", "sm_90")),
    ),
    ids=identify,
)
def test_no_kernel_spills_registers(operator, types, derivatives, architecture):
    code = made_for(architecture, operator, types, derivatives)
    assert (code.spilled, code.kinds.get("spills", 0)) == (0, 0)
    assert code.occupancy is not None
    assert code.occupancy.groups > 0


@needs_clang
@pytest.mark.parametrize(
    ("operator", "types", "derivatives", "architecture"),
    slow_but(
        lambda name, types, derivatives, _: (name, types, derivatives) == ("p2p", "float64", GRADIENT),
        kernels(("gfx90a",)),
    ),
    ids=identify,
)
def test_no_kernel_spills_registers_on_amd(operator, types, derivatives, architecture):
    """Scalar registers go to lanes of vector registers; of these, none goes to memory."""
    code = made_for(architecture, operator, types, derivatives)
    assert code.spilled == 0
    assert code.occupancy is not None
    assert code.occupancy.groups > 0


# What a P2P kernel may take for a pair: in f32, 11 slots are one root, three differences, three products and sums, the
# test of coincidence, the product with the charge, its sum and a share of the loads; in f64, three operations correct
# the root. Gradients take seven operations more.
@needs_tools
@pytest.mark.parametrize(
    ("types", "derivatives", "unit", "most", "architecture"),
    slow_but(
        lambda types, derivatives, unit, most, architecture: (
            (types, derivatives, architecture)
            in {
                ("float32", CHARGES, "sm_90"),
                ("float64", CHARGES, "sm_90"),
            }
        ),
        [
            (*budget, architecture)
            for budget in (
                ("float32", CHARGES, "slots", 12),
                ("float32", GRADIENT, "slots", 19),
                ("float64", CHARGES, "FP64", 13),
                ("float64", GRADIENT, "FP64", 19),
                ("mixed", CHARGES, "slots", 20),
                ("mixed", GRADIENT, "slots", 26),
            )
            for architecture in ("sm_80", "sm_90")
        ],
    ),
    ids=identify,
)
def test_p2p_keeps_to_its_budget(types, derivatives, unit, most, architecture):
    code = made_for(architecture, "p2p", types, derivatives)
    assert code.spilled == 0
    assert {"slots": code.slots, **code.kinds}[unit] <= most * code.pairs


def test_what_amd_says_of_a_kernel_is_read():
    values = {"agpr_count": 0, "group_segment_fixed_size": 1024, "private_segment_fixed_size": 16, "sgpr_count": 30}
    values |= {"sgpr_spill_count": 236, "vgpr_count": 62, "vgpr_spill_count": 4}
    text = "\n".join(f"    .{name}:{' ' * 9}{value}" for name, value in values.items())
    assert amd_code.read_resources(text) == amd_code.Resources(62, 16, 236, 1024)


def test_compiling_for_amd_without_clang(monkeypatch):
    monkeypatch.setattr(amd_code.shutil, "which", lambda name: None)
    with pytest.raises(DeviceError, match="^clang was not found; `apt-get install clang-15 libclc-15` installs it"):
        amd_code.compile_text("", "gfx90a", "p2p")


@needs_clang
def test_a_program_that_clang_refuses():
    with pytest.raises(DeviceError, match="^clang cannot compile p2p: .*undeclared identifier 'y'"):
        amd_code.compile_text("__kernel void f(__global int *x) { *x = y; }", "gfx90a", "p2p")


@needs_clang
def test_command_for_amd(capsys):
    status, said = run_command(capsys, "show", "gpu", "--operator", "m2l_svd", "--asm", "--arch", "gfx90a")
    assert status == 0
    assert "gfx90a: " in said
    assert " scalar registers in lanes of vector registers, none in memory" in said
    assert "occupancy: " in said


@needs_tools
def test_command(capsys):
    status, said = run_command(capsys, "show", "gpu", "--operator", "p2p", "--asm", "--arch", "sm_90")
    assert status == 0
    assert "predicted for H100 SXM, H200, not measured: at most" in said
    status, said = run_command(capsys, "show", "gpu", "--operator", "l2p", "--asm", "--arch", "sm_80", "--json")
    assert json.loads(said)["operators"][0]["architecture"] == "sm_80"
    status, said = run_command(capsys, "show", "gpu", "--operator", "p2p", "--asm", "--arch", "sm_1")
    assert (status != 0, "--arch is 'sm_1', expected one of sm_" in said, "gfx90a" in said) == (True, True, True)


def test_architecture_without_machine_code(capsys):
    status, said = run_command(capsys, "show", "gpu", "--operator", "p2p", "--arch", "sm_90")
    assert status != 0
    assert "--arch is given without --asm" in said


def test_tools_that_are_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(module.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    with pytest.raises(DeviceError, match="^nvdisasm was not found; `pip install nvidia-cuda-nvdisasm"):
        module._said("nvdisasm")
