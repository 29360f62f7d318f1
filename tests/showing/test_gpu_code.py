"""Machine code for GPUs: what is read from the tools' output, and that P2P keeps to its budget."""

from __future__ import annotations

import json
import shutil
import sysconfig
from pathlib import Path

import pytest
from conftest import run_command

from fmmloopy.execution.backends import cuda, nvrtc
from fmmloopy.execution.backends.cuda_emulator import EMULATED_DEVICE
from fmmloopy.execution.device import DeviceError
from fmmloopy.greens import laplace
from fmmloopy.recipes import load_recipes
from fmmloopy.showing import gpu_code as module
from fmmloopy.showing.gpu_code import CARDS, gpu_code, innermost_loops, read_code
from fmmloopy.showing.show import list_steps

TOOLS = all(
    shutil.which(tool) or any((Path(sysconfig.get_path("purelib")) / "nvidia").glob(f"cu*/bin/{tool}"))
    for tool in ("nvdisasm", "cuobjdump")
)
needs_tools = pytest.mark.skipif(
    not (TOOLS and cuda.has_packages()), reason=f"NVRTC, nvdisasm or cuobjdump is not installed: {nvrtc.INSTALL}"
)

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


@needs_tools
@pytest.mark.parametrize(("dtype", "unit", "most"), [("float32", "slots", 12), ("float64", "FP64", 13)])
def test_p2p_keeps_to_its_budget(dtype, unit, most):
    recipe = list_steps(load_recipes("gpu"), "p2p", laplace(), dtype, EMULATED_DEVICE)
    code = gpu_code(recipe, recipe.last, "sm_90")
    assert code.spilled == 0
    assert {"slots": code.slots, **code.kinds}[unit] <= most * code.pairs


@needs_tools
def test_command(capsys):
    status, said = run_command(capsys, "show", "gpu", "--operator", "p2p", "--asm", "--arch", "sm_90")
    assert status == 0
    assert "predicted for H100 SXM, H200, not measured: at most" in said
    status, said = run_command(capsys, "show", "gpu", "--operator", "l2p", "--asm", "--arch", "sm_80", "--json")
    assert json.loads(said)["operators"][0]["architecture"] == "sm_80"
    status, said = run_command(capsys, "show", "gpu", "--operator", "p2p", "--asm", "--arch", "sm_1")
    assert (status != 0, "--arch is 'sm_1', expected one of sm_" in said) == (True, True)


def test_architecture_without_machine_code(capsys):
    status, said = run_command(capsys, "show", "gpu", "--operator", "p2p", "--arch", "sm_90")
    assert status != 0
    assert "--arch is given without --asm" in said


def test_tools_that_are_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(module.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    with pytest.raises(DeviceError, match="^nvdisasm was not found; `pip install nvidia-cuda-nvdisasm"):
        module._said("nvdisasm")
