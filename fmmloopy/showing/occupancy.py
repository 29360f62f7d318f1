"""How many work-groups a multiprocessor holds at a time, from what the machine code of a kernel takes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Multiprocessor:
    """What a multiprocessor has for the groups that are on it: NVIDIA's SM, AMD's compute unit.

    Attributes:
        width: work-items of a warp.
        schedulers: parts that share the warps, each with its registers.
        warps: the most warps.
        groups: the most work-groups.
        registers: of a scheduler, for a work-item each: the number for a warp, over its width.
        unit: registers of a work-item are allotted in multiples of this.
        local_bytes: local memory.
        reserved: local memory that the system takes for each group, beyond what a kernel's code declares.
        lone: the most groups of a single warp, which need no barrier, if there may be more of these; 0 if not.
    """

    width: int
    schedulers: int
    warps: int
    groups: int
    registers: int
    unit: int
    local_bytes: int
    reserved: int = 0
    lone: int = 0


MULTIPROCESSORS = {
    "sm_80": Multiprocessor(32, 4, 64, 32, 512, 8, 164 * 1024, 1024),
    "sm_89": Multiprocessor(32, 4, 48, 24, 512, 8, 100 * 1024, 1024),
    "sm_90": Multiprocessor(32, 4, 64, 32, 512, 8, 228 * 1024),
    "gfx90a": Multiprocessor(64, 4, 32, 16, 512, 8, 64 * 1024, lone=32),
}
"""By architecture. NVIDIA: CUDA C++ Programming Guide, table "Technical Specifications per Compute Capability"; 65,536
registers, allotted to warps by 256. One kilobyte is reserved for each group (tuning guides for Ampere, Ada, Hopper),
which cubins for sm_90 include. AMD: "CDNA 2" instruction set architecture guide and LLVM's "User Guide for AMDGPU
Backend"; eight wavefronts and 512 vector registers a work-item in each of four SIMDs, 64 KiB of local memory, barriers
for 16 groups."""


@dataclass(frozen=True)
class Occupancy:
    """The groups on a multiprocessor.

    Attributes:
        groups: at a time.
        warps: at a time, of all these groups.
        most_warps: that the multiprocessor could hold.
        binds: what limits them: registers, local memory, warps or groups.
    """

    groups: int
    warps: int
    most_warps: int
    binds: str


def find_occupancy(architecture: str, items: int, registers: int, local_bytes: int) -> Occupancy | None:
    """Return how many groups are on a multiprocessor at a time; None if the architecture is not in the table.

    Args:
        architecture: such as ``"sm_90"``.
        items: work-items of a group.
        registers: of a work-item.
        local_bytes: of a group, as the code declares it.
    """
    of = MULTIPROCESSORS.get(architecture)
    if of is None:
        return None
    warps = -(-items // of.width)
    allotted = max(-(-registers // of.unit), 1) * of.unit
    local = local_bytes + of.reserved
    most = {
        "registers": of.schedulers * (of.registers // allotted) // warps,
        "local memory": of.local_bytes // local if local else of.warps,
        "warps": of.warps // warps,
        "groups": of.lone if warps == 1 and of.lone else of.groups,
    }
    binds = min(most, key=lambda name: most[name])
    return Occupancy(most[binds], most[binds] * warps, of.warps, binds)
