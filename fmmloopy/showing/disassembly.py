"""Disassemble x86-64 code by ``objdump`` or ``llvm-objdump``: from the bytes of an ELF file to instructions."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

DISASSEMBLERS = ("objdump", "llvm-objdump")

X86_64 = 62
"""ELF's number of the architecture."""

MACHINES = {3: "x86 (32 bits)", 21: "POWER", 183: "AArch64", 243: "RISC-V"}

PREFIXES = ("data16", "cs", "ds", "rep", "repz", "repnz", "lock", "bnd", "notrack", "{vex}", "{evex}")
"""Words that objdump writes before a mnemonic."""


class NoMachineCode(Exception):
    """There is no readable machine code; the message says why."""


@dataclass(frozen=True)
class Instruction:
    """One line of a disassembly, in AT&T syntax: the last operand is the destination."""

    address: int
    mnemonic: str
    operands: str
    symbol: str = ""
    """What a relocation or the disassembler's remark names: the function called, or the address loaded."""

    @property
    def target(self) -> int | None:
        """Address that a direct jump goes to."""
        found = re.match(r"(?:0x)?([0-9a-f]+)\b", self.operands)
        return int(found[1], 16) if found and self.jumps else None

    @property
    def jumps(self) -> bool:
        """Whether it is a jump, conditional or not."""
        return self.mnemonic[0] == "j"

    @property
    def calls(self) -> bool:
        """Whether it calls a function."""
        return self.mnemonic.startswith("call")

    def __str__(self) -> str:
        name = f"  <{self.symbol}>" if self.symbol and "<" not in self.operands else ""
        return f"{self.address:8x}:  {self.mnemonic:<16}{self.operands}{name}".rstrip()


def disassemble(binary: bytes) -> dict[str, tuple[Instruction, ...]]:
    """Disassemble code and return the instructions of each function.

    Args:
        binary: an ELF file: a library or an object file, or Intel's container of one.

    Raises:
        NoMachineCode: it is for another architecture, or there is no disassembler.
    """
    code = _object_file(binary)
    tool = next(filter(None, map(shutil.which, DISASSEMBLERS)), None)
    if tool is None:
        raise NoMachineCode("no disassembler: neither objdump nor llvm-objdump was found; apt-get install binutils")
    with tempfile.TemporaryDirectory(prefix="fmmloopy-") as folder:
        path = Path(folder) / "code.o"
        path.write_bytes(code)
        command = [tool, "-d", "-r", "--no-show-raw-insn", str(path)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise NoMachineCode(f"{tool} cannot read the code: {' '.join(result.stderr.split())[:200]}")
    return parse(result.stdout)


def _object_file(binary: bytes) -> bytes:
    """Return the x86-64 code in a binary: the binary itself, or a section of the container of Intel's runtime."""
    if binary[:5] != b"\x7fELF\x02":
        raise NoMachineCode("the runtime's binary is not a 64-bit ELF file")
    (machine,) = struct.unpack_from("<H", binary, 18)
    if machine != X86_64:
        raise NoMachineCode(f"cannot read code for {MACHINES.get(machine, f'ELF machine {machine}')}, only for x86-64")
    (start,) = struct.unpack_from("<Q", binary, 40)
    size, count, names = struct.unpack_from("<HHH", binary, 58)
    # Of a section's header: offset of its name, offset of its content, size.
    headers = [struct.unpack_from("<I20xQQ", binary, start + size * index) for index in range(count)]
    for name, offset, length in headers:
        at = headers[names][1] + name
        if binary[at : binary.index(b"\0", at)] == b".ocl.obj":
            return _object_file(binary[offset : offset + length])
    return binary


def parse(text: str) -> dict[str, tuple[Instruction, ...]]:
    """Parse the output of objdump or llvm-objdump (AT&T syntax, with relocations): instructions by function."""
    functions: dict[str, list[Instruction]] = {}
    body: list[Instruction] = []
    for line in text.splitlines():
        if header := re.match(r"[0-9a-f]+ <(.+)>:$", line):
            body = functions.setdefault(header[1], [])
        elif relocation := re.match(r"\s+[0-9a-f]+:\s+R_X86_64_\w+\s+(\S+)", line):
            if body:
                body[-1] = replace(body[-1], symbol=re.sub(r"[-+]0x[0-9a-f]+$", "", relocation[1]))
        elif found := re.match(r"\s*([0-9a-f]+):\s+(\S.*)$", line):
            body.append(_instruction(int(found[1], 16), found[2]))
    return {name: tuple(code) for name, code in functions.items() if code}


def _instruction(address: int, text: str) -> Instruction:
    code, _, remark = text.partition("#")
    words = code.split()
    while len(words) > 1 and words[0] in PREFIXES:
        words = words[1:]
    operands = " ".join(words[1:]).replace(", ", ",")
    instruction = Instruction(address, words[0], operands)
    # A direct call has the name behind the address; one through a table has it in a remark.
    named = re.search(r"<([^>]+)>", operands + remark) if instruction.calls else None
    return replace(instruction, symbol=named[1]) if named else instruction
