"""Machine code: loops found in it, and what is said of them, on code of known truth."""

from __future__ import annotations

import os
import platform
import shutil
import struct
import subprocess

import pytest

from fmmloopy.showing import disassembly
from fmmloopy.showing.disassembly import DISASSEMBLERS, NoMachineCode, disassemble, parse
from fmmloopy.showing.machine_code import hottest_loop, plain_name

X86 = platform.machine() in ("x86_64", "AMD64")
HAVE_TOOLS = X86 and shutil.which("gcc") is not None and any(map(shutil.which, DISASSEMBLERS))
needs_tools = pytest.mark.skipif(not HAVE_TOOLS, reason="no gcc, or no objdump, or not x86-64")

GNU = """
0000000000001000 <kernel>:
    1000:	vxorpd %xmm4,%xmm4,%xmm4
    1004:	movabs $0x0,%r12
			1006: R_X86_64_64	.rodata+0x8
    100e:	movabs $0x0,%rbx
			1010: R_X86_64_64	__ocl_svml_z0_exp1
    1018:	vmulsd %xmm4,%xmm4,%xmm4
    101c:	vsubpd (%rdi,%rax,8),%ymm0,%ymm1
    1020:	vfmadd231pd %ymm1,%ymm1,%ymm2
    1025:	vsqrtpd %ymm2,%ymm2
    1029:	test   %cl,%cl
    102b:	je     1036 <kernel+0x36>
    102d:	vzeroupper
    1030:	call   *%rbx
    1036:	vdivpd %ymm2,%ymm3,%ymm2
    103a:	call   2000 <_Z8_cl_sqrtd>
    103f:	add    $0x4,%rax
    1043:	cmp    %rax,%rdx
    1046:	jne    101c <kernel+0x1c>
    1048:	cmp    %rsi,%rcx
    104b:	jne    1018 <kernel+0x18>
    104d:	ret
"""

LLVM = """
0000000000001000 <kernel>:
    1000:      	vxorpd	%xmm4, %xmm4, %xmm4
    1004:      	movabsq	$0, %r12
		0000000000001006:  R_X86_64_64	.rodata+0x8
    100e:      	movabsq	$0, %rbx
		0000000000001010:  R_X86_64_64	__ocl_svml_z0_exp1
    1018:      	vmulsd	%xmm4, %xmm4, %xmm4
    101c:      	vsubpd	(%rdi,%rax,8), %ymm0, %ymm1
    1020:      	vfmadd231pd	%ymm1, %ymm1, %ymm2
    1025:      	vsqrtpd	%ymm2, %ymm2
    1029:      	testb	%cl, %cl
    102b:      	je	0x1036 <kernel+0x36>
    102d:      	vzeroupper
    1030:      	callq	*%rbx
    1036:      	vdivpd	%ymm2, %ymm3, %ymm2
    103a:      	callq	0x2000 <_Z8_cl_sqrtd>
    103f:      	addq	$4, %rax
    1043:      	cmpq	%rax, %rdx
    1046:      	jne	0x101c <kernel+0x1c>
    1048:      	cmpq	%rsi, %rcx
    104b:      	jne	0x1018 <kernel+0x18>
    104d:      	retq
"""


def loop_of(monkeypatch, text, entry="kernel"):
    """Find the loop in the text of a disassembly."""
    monkeypatch.setattr("fmmloopy.showing.machine_code.disassemble", lambda binary: parse(text))
    return hottest_loop(b"", entry)


@pytest.mark.parametrize("text", [GNU, LLVM], ids=["objdump", "llvm-objdump"])
def test_a_loop_is_described(monkeypatch, text):
    loop = loop_of(monkeypatch, text)
    assert [hex(i.address) for i in loop.instructions][:1] == ["0x101c"]  # not the loop around it
    assert (loop.lanes, loop.bits, loop.arithmetic, loop.scalar) == (4, 64, 4, 0)
    assert loop.fma
    assert loop.roots == {"sqrt": True, "div": True}
    assert [(c.name, c.lanes, c.always) for c in loop.calls] == [("exp", 1, False), ("sqrt", 1, True)]
    assert loop.verdict == (
        "inner loop: 4 x f64 lanes, FMA, sqrt + div in vectors, calls exp on some paths and sqrt, one lane at a time"
    )


@pytest.mark.parametrize(
    ("old", "new", "verdict"),
    [
        ("vdivpd %ymm2,%ymm3,%ymm2", "vdivsd %xmm2,%xmm3,%xmm2", "1 of 4 arithmetic instructions scalar, FMA, sqrt in"),
        ("vdivpd %ymm2,%ymm3,%ymm2", "vdivsd %xmm2,%xmm3,%xmm2", "sqrt in vectors, div one lane at a time"),
        ("vdivpd %ymm2,%ymm3,%ymm2", "vrsqrt14pd %ymm2,%ymm2", "sqrt + rsqrt in vectors"),
        (
            "vfmadd231pd %ymm1,%ymm1,%ymm2",
            "vmulpd %ymm1,%ymm1,%ymm2",
            "4 x f64 lanes, separate multiplies and adds (no F",
        ),
        ("vsubpd (%rdi,%rax,8),%ymm0,%ymm1", "vgatherdpd (%rdi,%xmm0,8),%ymm1{%k1}", ", gathers, calls exp"),
        ("vsubpd (%rdi,%rax,8),%ymm0,%ymm1", "vcvtps2pd %xmm0,%ymm1", ", converts between f32 and f64, calls exp"),
        ("<_Z8_cl_sqrtd>", "<_ZGVdN4v_exp>", "calls exp on some paths and exp (4 lanes), one lane at a time"),
        ("call   *%rbx", "call   *0x8(%rsp)", "calls a function of unknown name on some paths and sqrt"),
    ],
)
def test_what_is_said_follows_the_instructions(monkeypatch, old, new, verdict):
    assert old in GNU
    assert verdict in loop_of(monkeypatch, GNU.replace(old, new)).verdict


def test_the_wider_of_two_copies_is_taken_and_the_other_named(monkeypatch):
    scalar = """
    104d:	vmulss (%rdi),%xmm1,%xmm1
    1052:	vaddss %xmm1,%xmm0,%xmm0
    1057:	jne    104d <kernel+0x4d>
"""
    vector = scalar.replace("ss", "ps").replace("xmm", "zmm").replace("104d", "105d").replace("105", "106")
    loop = loop_of(monkeypatch, f"0000000000001040 <kernel>:{scalar}{vector}    1070:\tret\n")
    assert loop.verdict == (
        "inner loop: 16 x f32 lanes, separate multiplies and adds (no FMA), no calls; others like it: scalar"
    )


def test_code_without_arithmetic_in_loops(monkeypatch):
    with pytest.raises(NoMachineCode, match="no loop of 'kernel' does floating-point arithmetic"):
        loop_of(monkeypatch, "0000000000001000 <kernel>:\n    1000:\tvaddsd %xmm0,%xmm0,%xmm0\n    1004:\tret\n")


@pytest.mark.parametrize(
    ("symbol", "name", "lanes"),
    [
        ("sqrt", "sqrt", 1),
        ("sqrt@plt", "sqrt", 1),
        ("exp@GLIBC_2.29", "exp", 1),
        ("_Z8_cl_sqrtd", "sqrt", 1),
        ("_Z8_cl_sqrtDv4_d", "sqrt", 4),
        ("__svml_exp8_l9", "exp", 8),
        ("__svml_sqrt8_mask", "sqrt", 8),
        ("__ocl_svml_z0_expf16", "expf", 16),
        ("__ocl_svml_l9_exp1", "exp", 1),
        ("_ZGVdN4v_exp", "exp", 4),
        ("_ZGVeN8vv_pow", "pow", 8),
        ("Sleef_expd8_u10", "exp", 8),
        ("fmmloopy_rsqrt_f64", "fmmloopy_rsqrt_f64", 1),
    ],
)
def test_names_of_functions(symbol, name, lanes):
    assert plain_name(symbol) == (name, lanes)


# -- what a compiler makes of a loop that is known to be vectorized, or not

SOURCE = """
double sqrt(double);
double kernel(double const *restrict x, double *restrict y, int n)
{
  for (int i = 0; i < n; ++i)
    y[i] = x[i] / sqrt(x[i] * x[i] + 2.0);
}
"""


def built(tmp_path, *flags):
    (tmp_path / "k.c").write_text(SOURCE)
    command = ["gcc", "-w", "-c", str(tmp_path / "k.c"), "-o", str(tmp_path / "k.o"), *flags]
    subprocess.run(command, check=True)
    return (tmp_path / "k.o").read_bytes()


@needs_tools
@pytest.mark.parametrize("tool", DISASSEMBLERS)
@pytest.mark.parametrize(
    ("flags", "lanes", "fma", "roots", "calls"),
    [
        ("-O3 -ffast-math -mavx512f -mprefer-vector-width=512 -mrecip=none", 8, True, {"sqrt": True, "div": True}, []),
        ("-O3 -fno-math-errno -mavx2 -mfma -ffp-contract=fast", 4, True, {"sqrt": True, "div": True}, []),
        ("-O3 -fno-math-errno -mavx2", 4, False, {"sqrt": True, "div": True}, []),
        ("-O3 -fno-math-errno -msse2", 2, False, {"sqrt": True, "div": True}, []),
        ("-O1 -fno-math-errno", 1, False, {"sqrt": False, "div": False}, []),
        ("-O3 -mavx2 -fno-builtin", 1, False, {"div": False}, [("sqrt", True)]),
        ("-O3 -mavx2", 1, False, {"sqrt": False, "div": False}, [("sqrt", False)]),
        ("-O2 -fno-builtin -mcmodel=large -fno-pic", 1, False, {"div": False}, [("sqrt", True)]),
    ],
)
def test_the_truth_about_what_gcc_makes(tmp_path, monkeypatch, tool, flags, lanes, fma, roots, calls):
    if shutil.which(tool) is None:
        pytest.skip(f"no {tool}")
    monkeypatch.setattr(disassembly, "DISASSEMBLERS", (tool,))
    loop = hottest_loop(built(tmp_path, *flags.split()), "kernel")
    assert (loop.lanes, loop.bits, loop.fma, dict(loop.roots)) == (lanes, 64, fma, roots), loop.text
    assert [(call.name, call.always) for call in loop.calls] == calls


# -- what cannot be read


@needs_tools
def test_without_a_disassembler_the_remedy_is_named(tmp_path, monkeypatch):
    binary = built(tmp_path, "-O1")
    monkeypatch.setenv("PATH", os.devnull)
    with pytest.raises(NoMachineCode, match="no disassembler: .*apt-get install binutils"):
        disassemble(binary)


def test_code_for_another_architecture_is_not_guessed_at():
    header = b"\x7fELF\x02\x01" + bytes(12) + struct.pack("<H", 183) + bytes(44)
    with pytest.raises(NoMachineCode, match="cannot read code for AArch64, only for x86-64"):
        disassemble(header)


def test_what_is_no_elf_file_is_refused():
    with pytest.raises(NoMachineCode, match="not a 64-bit ELF file"):
        disassemble(b"poclbin\x00")
