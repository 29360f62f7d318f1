"""Machine code for GPUs, without one: registers, instructions of the innermost loop, and what they allow.

For NVIDIA's GPUs, NVRTC compiles, and cuobjdump and nvdisasm read its code. A rate follows from the numbers of
instructions and of a card's units, if nothing ever waits for memory or results. It is predicted, not measured, and an
upper bound. For AMD's GPUs, clang compiles, and only what a kernel takes is read.
"""

from __future__ import annotations

import math
import re
import shutil
import subprocess
import sysconfig
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from fmmloopy.execution.backends import nvrtc
from fmmloopy.execution.backends.cuda_emulator import EMULATED_DEVICE
from fmmloopy.execution.device import Device, DeviceError
from fmmloopy.execution.launch import CompiledOperator
from fmmloopy.showing import amd_code
from fmmloopy.showing.occupancy import Occupancy, find_occupancy
from fmmloopy.showing.show import AppliedRecipe, compiled_step

INSTALL = "pip install nvidia-cuda-nvdisasm nvidia-cuda-cuobjdump"

KINDS = {
    "FP64": r"D(ADD|MUL|FMA|SETP|MNMX)$",
    "FP32": r"F(ADD|MUL|FMA)$",
    "special": r"MUFU$",
    "local memory": r"(LDS|STS)M?$",
    "global memory": r"(LDG|STG|ATOMG|RED)$",
    "spills": r"(LDL|STL)$",
    "conversions": r"(F2F|I2F|F2I)$",
}
"""Kinds of instructions; all others are "other"."""


@dataclass(frozen=True)
class Card:
    """A card and its units.

    Attributes:
        name: the name that vendors use.
        architecture: such as ``"sm_90"``.
        multiprocessors: on the card.
        clock: boost clock in GHz.
        units: results a cycle and multiprocessor, by kind of instruction; "slots" is for all instructions together.
        bandwidth: of its memory, in TB/s.
    """

    name: str
    architecture: str
    multiprocessors: int
    clock: float
    units: Mapping[str, int]
    bandwidth: float


HOPPER = {"slots": 128, "FP32": 128, "FP64": 64, "special": 16}

CARDS = (
    Card("A100 SXM", "sm_80", 108, 1.41, {"slots": 128, "FP32": 64, "FP64": 32, "special": 16}, 2.039),
    Card("RTX 4090", "sm_89", 128, 2.52, {"slots": 128, "FP32": 128, "FP64": 2, "special": 16}, 1.008),
    Card("H100 SXM", "sm_90", 132, 1.98, HOPPER, 3.35),
    Card("H200", "sm_90", 132, 1.98, HOPPER, 4.8),
)
"""Units: CUDA C++ Programming Guide, table "Throughput of Native Arithmetic Instructions"; four schedulers issue an
instruction of a warp each. Multiprocessors and clocks: NVIDIA's architecture papers for A100, Ada and H100; products of
multiprocessors, clock and FP32 units are the peaks in the data sheets. Bandwidths: NVIDIA's data sheets, for the A100
with 80 GB."""


def find_card(name: str) -> Card:
    """Return the card with a name, in upper or lower case; its first word is enough if only one card has it.

    Raises:
        ValueError: there is no such card.
    """
    wanted = name.strip().lower()
    found = [card for card in CARDS if wanted in (card.name.lower(), card.name.lower().split()[0])]
    if len(found) != 1:
        raise ValueError(f"--card is {name!r}, expected one of {', '.join(card.name for card in CARDS)}")
    return found[0]


@dataclass(frozen=True)
class GpuCode:
    """The machine code of a step.

    Attributes:
        architecture: such as ``"sm_90"`` or ``"gfx90a"``.
        registers: of a work-item.
        spilled: bytes of registers that a work-item keeps in memory.
        local_bytes: local memory of a group, with what the architecture reserves.
        kinds: instructions of the innermost loop with the most arithmetic, by kind; none for AMD's GPUs.
        pairs: reciprocal roots in an iteration of that loop: pairs of points, if each has one; 0 if there are none.
        items: work-items of a group; 0 if unknown.
        scalars_spilled: scalar registers that AMD's compiler keeps in lanes of vector registers, not in memory.
        flops: floating-point operations in an iteration of that loop: a sum or product is one, a multiply-add two.
    """

    architecture: str
    registers: int
    spilled: int
    local_bytes: int
    kinds: Mapping[str, int]
    pairs: int
    items: int = 0
    scalars_spilled: int = 0
    flops: int = 0

    @property
    def occupancy(self) -> Occupancy | None:
        """The groups on a multiprocessor at a time; None if that is not known for the architecture."""
        return find_occupancy(self.architecture, self.items, self.registers, self.local_bytes) if self.items else None

    @property
    def slots(self) -> int:
        """Instructions of an iteration."""
        return sum(self.kinds.values())

    def binding(self, card: Card) -> tuple[str, float]:
        """Return which units limit a card, and the pairs per second that they allow, or else iterations."""
        counts = {"slots": self.slots, **self.kinds}
        cycles = {unit: counts.get(unit, 0) / rate for unit, rate in card.units.items()}
        unit = max(cycles, key=lambda name: cycles[name])
        return unit, card.multiprocessors * card.clock * 1e9 * (self.pairs or 1) / cycles[unit]

    def lines(self) -> list[str]:
        """Describe the code, a line for each fact."""
        per, what = self.pairs or 1, "pair" if self.pairs else "iteration"
        kinds = ", ".join(f"{count / per:.3g} {kind}" for kind, count in self.kinds.items())
        result = [
            f"{self.architecture}: {self.registers} registers, {self.spilled} bytes spilled, "
            f"{self.local_bytes} bytes of local memory"
        ]
        if self.scalars_spilled:
            result.append(f"{self.scalars_spilled} scalar registers in lanes of vector registers, none in memory")
        if held := self.occupancy:
            result.append(
                f"occupancy: {held.groups} groups of {self.items} work-items on a multiprocessor, {held.warps} of "
                f"{held.most_warps} warps; {held.binds} bind{'s' if held.binds == 'local memory' else ''}"
            )
        if not self.architecture.startswith("gfx"):
            result.append(f"innermost loop, per {what}: {self.slots / per:.3g} issue slots ({kinds})")
        alike: dict[tuple[str, float], list[str]] = {}  # cards that differ only in their memory are in one line
        for card in (card for card in CARDS if card.architecture == self.architecture and self.slots):
            alike.setdefault(self.binding(card), []).append(card.name)
        for (unit, rate), names in alike.items():
            result.append(
                f"predicted for {', '.join(names)}, not measured: at most {rate / 1e9:,.0f} G{what}s/s, {unit} binds"
            )
        return result


def device_for(architecture: str) -> Device:
    """Return a device for whose architecture code is generated and compiled, which need not be there.

    Raises:
        ValueError: there is no such architecture, or NVRTC does not know it.
        DeviceError: NVRTC is not installed.
    """
    if architecture in amd_code.ARCHITECTURES:
        return amd_code.device_of(architecture)
    known = [f"sm_{capability}" for capability in nvrtc.architectures()]
    if architecture not in known:
        raise ValueError(f"--arch is {architecture!r}, expected one of {', '.join((*known, *amd_code.ARCHITECTURES))}")
    capability = int(architecture.removeprefix("sm_"))
    units = next((card.units for card in CARDS if card.architecture == architecture), None)
    share = units["FP64"] / units["FP32"] if units else 0.0
    return replace(EMULATED_DEVICE, version=(capability // 10, capability % 10), float64_share=share)


def gpu_code(recipe: AppliedRecipe, number: int, architecture: str) -> GpuCode:
    """Compile a step for an architecture and read its machine code.

    Raises:
        ValueError: there is no such step or architecture.
        DeviceError: the compiler or the tools that read machine code are not installed, or the compiler refuses the
            code.
    """
    return code_for(compiled_step(recipe, number, device_for(architecture)), architecture)


def code_for(code: CompiledOperator, architecture: str) -> GpuCode:
    """Compile a program for an architecture and read its machine code; for errors see `gpu_code`.

    Args:
        code: made for `device_for` this architecture.
        architecture: such as ``"sm_90"`` or ``"gfx90a"``.
    """
    items = math.prod(code.local_size)
    own = [option for option in code.build_options if option.startswith("-cl")]
    if architecture in amd_code.ARCHITECTURES:
        takes = amd_code.read_resources(amd_code.compile_text(code.source, architecture, code.operator, own))
        return GpuCode(
            architecture,
            takes.registers,
            takes.spilled,
            takes.local_bytes,
            {},
            0,
            items,
            takes.scalars_spilled,
        )
    options = [option for option in code.build_options if option not in own]
    with tempfile.TemporaryDirectory(prefix="fmmloopy-") as folder:
        path = Path(folder) / "code.cubin"
        path.write_bytes(nvrtc.compile_cubin(code.source, architecture, code.operator, options))
        usage, text = _said("cuobjdump", "--dump-resource-usage", path), _said("nvdisasm", "-c", path)
    return replace(read_code(architecture, usage, text), items=items)


def read_code(architecture: str, usage: str, text: str) -> GpuCode:
    """Read what cuobjdump says of resources, and nvdisasm's text."""
    usage_of = {name: int(value) for name, value in re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", usage)}
    loops = [Counter(map(_kind, opcodes)) for opcodes in innermost_loops(text)]
    kinds = max(loops, key=lambda loop: loop["FP64"] + loop["FP32"] + loop["special"], default=Counter[str]())
    opcodes = next((o for o in innermost_loops(text) if Counter(map(_kind, o)) == kinds), [])
    roots = sum(opcode.startswith("MUFU.RSQ") for opcode in opcodes)
    flops = sum(1 + (found[1] == "FMA") for opcode in opcodes if (found := re.match(r"[DF](ADD|MUL|FMA)\b", opcode)))
    ordered = {kind: kinds[kind] for kind in (*KINDS, "other") if kinds[kind]}
    spilled = usage_of.get("STACK", 0) + usage_of.get("LOCAL", 0)
    return GpuCode(architecture, usage_of["REG"], spilled, usage_of["SHARED"], ordered, roots, flops=flops)


def innermost_loops(text: str) -> list[list[str]]:
    """Return the opcodes of the loops that have no loops inside: from a label to a branch back to it."""
    lines, labels, spans = text.splitlines(), dict[str, int](), list[tuple[int, int]]()
    for place, line in enumerate(lines):
        if label := re.match(r"\s*(\.L_\w+):", line):
            labels[label[1]] = place
        if (branch := re.search(r"\bBRA\b.*`\((\.L_\w+)\)", line)) and labels.get(branch[1], place) < place - 1:
            spans.append((labels[branch[1]], place))
    inner = [a for a in spans if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in spans)]
    return [[o for line in lines[first : last + 1] if (o := _opcode(line))] for first, last in inner]


def _opcode(line: str) -> str:
    found = re.match(r"\s*(?:/\*[0-9a-f]+\*/)?\s*(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]+)\b", line)
    return found[1] if found else ""


def _kind(opcode: str) -> str:
    name = opcode.partition(".")[0]
    return next((kind for kind, pattern in KINDS.items() if re.match(pattern, name)), "other")


def _said(tool: str, *arguments: object) -> str:
    """Return the output of one of NVIDIA's tools."""
    packages = Path(sysconfig.get_path("purelib")) / "nvidia"
    path = next(iter(sorted(packages.glob(f"cu*/bin/{tool}"))), None) or shutil.which(tool)
    if path is None:
        raise DeviceError(f"{tool} was not found; `{INSTALL}` installs it")
    done = subprocess.run([str(path), *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise DeviceError(f"{tool} failed: {' '.join(done.stderr.split())[:200]}")
    return done.stdout
