"""Read the machine code of a kernel: its innermost loop, and what that loop does.

Compilers do not report whether they vectorize. This module finds the loop with the arithmetic in the disassembled code
(x86-64, by ``objdump`` or ``llvm-objdump``), and describes it: how many lanes its instructions have, whether
multiplications and additions are fused, how square roots and divisions are computed, and which functions it calls::

    inner loop: 8 x f64 lanes, FMA, sqrt + div in vectors, no calls

Loops are the natural loops of the control-flow graph (Aho, Lam, Sethi & Ullman 2006, section 9.6). The one with the
most arithmetic is chosen, where each level of nesting counts as NESTING iterations; compilers leave scalar copies of a
vectorized loop for the remaining iterations, and these have less.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from fmmloopy.showing.disassembly import Instruction, NoMachineCode, disassemble

NESTING = 8
"""Assumed number of iterations of a loop."""

ARITHMETIC = re.compile(
    r"v?(add|sub|mul|div|sqrt|rsqrt|rcp|addsub|rsqrt14|rsqrt28|rcp14|rcp28|fn?m(?:add|sub)(?:132|213|231))([sp])([sd])$"
)
REGISTER_BITS = {"x": 128, "y": 256, "z": 512}


@dataclass(frozen=True)
class Call:
    """A call in a loop.

    Attributes:
        name: name of the function, without compiler decorations; empty if unknown.
        lanes: numbers that it processes at once, from its name; 1 for the functions of the C library.
        always: whether every iteration calls it.
    """

    name: str
    lanes: int = 1
    always: bool = True

    def __str__(self) -> str:
        name = self.name or "a function of unknown name"
        return name + (f" ({self.lanes} lanes)" if self.lanes > 1 else "") + ("" if self.always else " on some paths")


@dataclass(frozen=True)
class Loop:
    """A loop of a function in machine code, without its inner loops, and its arithmetic.

    Attributes:
        function: the function that contains it.
        instructions: its instructions in the order of their addresses.
        bits: size of the floating-point numbers, 64 or 32.
        lanes: numbers that its widest arithmetic instructions work on; 1 if it is scalar.
        arithmetic: number of arithmetic instructions.
        scalar: how many of these work on one number.
        fma: whether some instructions multiply and add at once.
        apart: whether it multiplies and adds by separate instructions only.
        roots: "sqrt", "div", "rsqrt", "rcp" -> whether all of these instructions are vector instructions.
        calls: functions that it calls, each once.
        gathers: whether it gathers from, or scatters to, scattered addresses.
        converts: whether it converts between float32 and float64.
        operations: kinds of arithmetic in it, such as ("add", "fma", "sqrt").
        others: lanes of loops of the same depth with the same operations on fewer or more lanes: compilers leave
            copies of a loop for the iterations that do not fill all lanes.
    """

    function: str
    instructions: tuple[Instruction, ...] = field(repr=False)
    bits: int
    lanes: int
    arithmetic: int
    scalar: int
    fma: bool
    apart: bool
    roots: Mapping[str, bool]
    calls: tuple[Call, ...]
    gathers: bool
    converts: bool
    operations: tuple[str, ...]
    others: tuple[int, ...] = ()

    @property
    def text(self) -> str:
        """The instructions, a line each."""
        return "\n".join(map(str, self.instructions))

    @property
    def verdict(self) -> str:
        """What the loop does, in one line."""
        parts = [f"{self.lanes} x f{self.bits} lanes" if self.lanes > 1 else f"scalar f{self.bits}"]
        if self.lanes > 1 and self.scalar:
            parts.append(f"{self.scalar} of {self.arithmetic} arithmetic instructions scalar")
        if self.fma or self.apart:
            parts.append("FMA" if self.fma else "separate multiplies and adds (no FMA)")
        in_vectors = [name for name, vector in self.roots.items() if vector]
        one_by_one = [name for name, vector in self.roots.items() if not vector]
        if in_vectors:
            parts.append(" + ".join(in_vectors) + " in vectors")
        if one_by_one:
            parts.append(" + ".join(one_by_one) + (" one lane at a time" if self.lanes > 1 else ""))
        if self.gathers:
            parts.append("gathers")
        if self.converts:
            parts.append("converts between f32 and f64")
        parts.append("calls " + " and ".join(map(str, self.calls)) if self.calls else "no calls")
        if self.lanes > 1 and any(call.name and call.lanes == 1 for call in self.calls):
            parts[-1] += ", one lane at a time"
        others = [f"{lanes} lanes" if lanes > 1 else "scalar" for lanes in self.others]
        return "inner loop: " + ", ".join(parts) + (f"; others like it: {', '.join(others)}" if others else "")


def hottest_loop(binary: bytes, entry: str, launched: str = "") -> Loop:
    """Find the loop of a kernel that does its arithmetic.

    Args:
        binary: an ELF file: a library or an object file, or Intel's container of one.
        entry: name of the kernel.
        launched: name of the function that is launched, if it differs.

    Raises:
        NoMachineCode: the file is for another architecture, there is no disassembler, or no loop does arithmetic.
    """
    functions = disassemble(binary)
    first = {name: code for name, code in functions.items() if name == launched}
    related = {name: code for name, code in functions.items() if entry in name and not name.endswith("@plt")}
    for candidates in (first, related, functions):
        loops = [found for name, code in candidates.items() for found in _weighed_loops(name, code)]
        if loops:
            _, depth, loop = max(loops, key=lambda found: found[0])
            like_it = {x.lanes for _, deep, x in loops if deep == depth and x.operations == loop.operations}
            return replace(loop, others=tuple(sorted(like_it - {loop.lanes}, reverse=True)))
    raise NoMachineCode(f"no loop of {entry!r} does floating-point arithmetic")


# -- from instructions to loops


def _weighed_loops(function: str, code: Sequence[Instruction]) -> list[tuple[int, int, Loop]]:
    """Return the loops of a function that do arithmetic: an estimate of how much, the depth, and the loop."""
    blocks = _blocks(code)
    loops = _natural_loops(blocks)
    found = []
    for header, (body, latches) in loops.items():
        inside = {block for other, (inner, _) in loops.items() if other != header and inner < body for block in inner}
        depth = sum(body <= outer for outer, _ in loops.values())
        always = _dominators_within(blocks, header, body)
        sure = frozenset.intersection(*(always[latch] for latch in latches))
        runs = [(blocks[block][0], block in sure) for block in sorted(body - inside)]
        instructions = tuple(i for run, _ in runs for i in run)
        if arithmetic := [known for known in map(_arithmetic, instructions) if known]:
            work = sum(lanes for _, lanes, _ in arithmetic) * NESTING**depth
            found.append((work, depth, _describe(function, instructions, arithmetic, _calls(runs, code))))
    return found


Blocks = dict[int, tuple[tuple[Instruction, ...], tuple[int, ...]]]
"""Address of the first instruction of a block -> its instructions, and the blocks that may follow."""


def _blocks(code: Sequence[Instruction]) -> Blocks:
    """Split a function into basic blocks: entered at the first instruction and left at the last."""
    addresses = {i.address for i in code}
    jumps = [i for i in code if i.jumps]
    ends = {i.address for i in code if i.jumps or i.mnemonic.startswith(("ret", "ud2", "hlt"))}
    starts = {code[0].address} | {t for i in jumps if (t := i.target) in addresses and t is not None}
    starts |= {after.address for before, after in pairwise(code) if before.address in ends}
    runs: list[list[Instruction]] = []
    for instruction in code:
        if instruction.address in starts:
            runs.append([])
        runs[-1].append(instruction)
    blocks: Blocks = {}
    for index, run in enumerate(runs):
        last, following = run[-1], []
        if last.jumps and last.target in addresses and last.target is not None:
            following.append(last.target)
        falls_through = last.address not in ends or (last.jumps and not last.mnemonic.startswith("jmp"))
        if falls_through and index + 1 < len(runs):
            following.append(runs[index + 1][0].address)
        blocks[run[0].address] = (tuple(run), tuple(following))
    return blocks


def _dominators_within(blocks: Blocks, entry: int, body: frozenset[int]) -> dict[int, frozenset[int]]:
    """Return the dominators of each block in a part of a function with a single entry block."""
    before: dict[int, list[int]] = {block: [] for block in body}
    for block in body:
        for after in blocks[block][1]:
            if after in body and after != entry:
                before[after].append(block)
    dominators = dict.fromkeys(body, body)
    dominators[entry] = frozenset([entry])
    changed = True
    while changed:
        changed = False
        for block in sorted(body - {entry}):
            ways = [dominators[p] for p in before[block]]
            now = frozenset([block]) | (frozenset.intersection(*ways) if ways else frozenset())
            if now != dominators[block]:
                dominators[block], changed = now, True
    return dominators


def _natural_loops(blocks: Blocks) -> dict[int, tuple[frozenset[int], tuple[int, ...]]]:
    """Return the loops of a function: header -> all blocks, and those that jump back to the header."""
    entry = next(iter(blocks))
    reached, todo = {entry}, [entry]
    while todo:
        for after in blocks[todo.pop()][1]:
            if after not in reached:
                reached.add(after)
                todo.append(after)
    dominators = _dominators_within(blocks, entry, frozenset(reached))
    before: dict[int, list[int]] = {block: [] for block in reached}
    latches: dict[int, list[int]] = {}
    for block in sorted(reached):
        for after in blocks[block][1]:
            before[after].append(block)
            if after in dominators[block]:
                latches.setdefault(after, []).append(block)
    loops = {}
    for header, sources in latches.items():
        body, todo = {header}, list(sources)
        while todo:
            block = todo.pop()
            if block not in body:
                body.add(block)
                todo += before[block]
        loops[header] = (frozenset(body), tuple(sources))
    return loops


# -- what a loop does


def _arithmetic(instruction: Instruction) -> tuple[str, int, int] | None:
    """Return what a floating-point instruction does, on how many numbers, of how many bits."""
    found = ARITHMETIC.match(instruction.mnemonic)
    if found is None:
        return None
    bits = 32 if found[3] == "s" else 64
    # The widest operand counts: a conversion or extraction aside, all are registers of one width.
    width = max((REGISTER_BITS[r] for r in re.findall(r"%([xyz])mm\d+", instruction.operands)), default=128)
    return found[1], (width // bits if found[2] == "p" else 1), bits


def _describe(
    function: str,
    instructions: tuple[Instruction, ...],
    arithmetic: Sequence[tuple[str, int, int]],
    calls: tuple[Call, ...],
) -> Loop:
    """Describe a loop that does arithmetic."""
    work: Counter[tuple[int, int]] = Counter()
    for _, lanes, bits in arithmetic:
        work[lanes, bits] += lanes
    (lanes, bits), _ = max(work.items(), key=lambda item: (item[1], item[0]))
    does = {_operation(name) for name, _, _ in arithmetic}
    widths = {kind: [n for name, n, _ in arithmetic if _operation(name) == kind] for kind in does}
    mnemonics = {i.mnemonic for i in instructions}
    return Loop(
        function=function,
        instructions=instructions,
        bits=bits,
        lanes=lanes,
        arithmetic=len(arithmetic),
        scalar=sum(n == 1 for _, n, _ in arithmetic),
        fma="fma" in does,
        apart="fma" not in does and {"mul", "add"} <= does,
        roots={kind: min(widths[kind]) > 1 for kind in ("sqrt", "div", "rsqrt", "rcp") if kind in does},
        calls=calls,
        gathers=any(re.match(r"v(gather|scatter)", m) for m in mnemonics),
        converts=any(re.match(r"v?cvt(ps2pd|pd2ps|ss2sd|sd2ss)", m) for m in mnemonics),
        operations=tuple(sorted(does)),
    )


def _operation(name: str) -> str:
    """Return the kind of arithmetic of an instruction, for any order of its operands."""
    if name.startswith("f"):
        return "fma"
    return {"sub": "add", "addsub": "add"}.get(name, re.sub(r"(14|28)$", "", name))


def _calls(runs: Sequence[tuple[Sequence[Instruction], bool]], code: Sequence[Instruction]) -> tuple[Call, ...]:
    """Return the functions that blocks of a function call, each once; with each block, whether it always runs."""
    found: dict[tuple[str, int], bool] = {}
    for run, always in runs:
        for place, instruction in enumerate(run):
            if instruction.calls:
                callee = plain_name(_callee(instruction, run[:place], code))
                found[callee] = found.get(callee, False) or always
    return tuple(Call(name, lanes, always) for (name, lanes), always in found.items())


def _callee(call: Instruction, before: Sequence[Instruction], code: Sequence[Instruction]) -> str:
    """Return the symbol that an instruction calls; empty if unknown.

    In the large code model its address is loaded into a register first: before it in the same block, or anywhere; then
    it is known if the function loads no other symbol into that register. Symbols that begin with a dot are sections
    with constants.
    """
    if call.symbol:
        return call.symbol
    register = re.match(r"\*(%r\w+)$", call.operands)
    if register is None:
        return ""
    writes = [
        i for i in before if i.operands.split(",")[-1] == register[1] and not i.mnemonic.startswith(("cmp", "test"))
    ]
    if writes:
        return writes[-1].symbol
    loads = [i.symbol for i in code if i.mnemonic.startswith("movabs") and i.operands.endswith("," + register[1])]
    names = {symbol for symbol in loads if symbol and not symbol.startswith(".")}
    return names.pop() if len(names) == 1 else ""


def plain_name(symbol: str) -> tuple[str, int]:
    """Return the name of a function as programmers know it, and on how many numbers at once it works.

    ``sqrt@plt`` is (sqrt, 1), PoCL's ``_Z8_cl_sqrtDv4_d`` (sqrt, 4), Intel's ``__svml_exp8_l9`` (exp, 8), the GNU C
    library's ``_ZGVdN4v_exp`` (exp, 4) and SLEEF's ``Sleef_expd8_u10`` (exp, 8).
    """
    name = symbol.split("@")[0]
    if found := re.match(r"_ZGV\w[MN](\d+)v+_(\w+)$", name):
        return found[2], int(found[1])
    if found := re.match(r"_?_?(?:ocl_)?svml_(?:[a-z]\d_)?([a-z]+[a-z\d]*?)(\d+)?(?:_.*)?$", name):
        return found[1], int(found[2] or 1)
    if found := re.match(r"Sleef_([a-z]\w*?)([df])(\d*)_u\d+", name):
        return found[1], int(found[3] or 1)
    if found := re.match(r"_Z(\d+)(\w+)$", name):
        length = int(found[1])
        base, types = found[2][:length], found[2][length:]
        vector = re.match(r"Dv(\d+)_", types)
        return base.removeprefix("_cl_"), int(vector[1]) if vector else 1
    return name, 1
