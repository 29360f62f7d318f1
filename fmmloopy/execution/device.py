"""What a device is: typed facts that code asks, in place of descriptions that it would have to parse."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

CPU, GPU, OTHER = "cpu", "gpu", "other"
"""Kinds of devices."""

SIMULATORS = ("oclgrind",)
"""Runtimes that check every access, and are hundreds of times slower than what they simulate."""


class DeviceError(Exception):
    """A device that is not there or cannot be used; the text says which there are."""


@dataclass(frozen=True)
class Probes:
    """Problems that rates are measured on (`fmmloopy.choosing.calibration`); the defaults are for CPUs.

    Attributes:
        points: points of the small probes. Still smaller ones are over before all cores have begun.
        many_points: points of the large probes, for problems of ``many_from`` points or more. They do not fit into
            caches, and keep all cores busy to the end of each launch: with the small probes, predictions for a million
            points on the sphere (3 digits, PoCL 3.1) were 20% above the truth for P2P and 10% to 50% below it for the
            stages of M2L, and the ncrit chosen was 8 to 13% slower than the best.
        many_from: up to 1e5 points the small probes tell the truth: the sum over all operators within 1% in the cube
            at 6 digits.
        first: points of a problem that is tried first: where even that takes longer than ``longest`` seconds, three
            times in a row, nothing else is tried.
        longest: see there.
    """

    points: int = 20_000
    many_points: int = 100_000
    many_from: int = 200_000
    first: int = 500
    longest: float = 0.25


@dataclass(frozen=True)
class Limits:
    """What a device allows and what suits it; the defaults are for CPUs.

    Attributes:
        most_groups: most work-groups of a launch on each axis; () where no limit is known.
        most_numbers: an array has fewer numbers: generated code has 32-bit indices.
        padding: numbers behind the end of every array, which idle lanes may read.
        workspace: bytes for transformed expansions. Planes of frequencies are handled in batches that fit, one plane at
            least.
        heavy_share: boxes with more than this share of a launch's work are cut into pieces with no more, if they have
            targets enough: a core that begins such a box last would keep the others waiting.
        piece_targets: a piece has a multiple of these: full vectors, and enough of them to pay for reading the sources.
        groups: work-groups that fill the device, many for each core.
        probes: problems that rates are measured on.
    """

    most_groups: tuple[int, ...] = ()
    most_numbers: int = 2**31
    padding: int = 256
    workspace: int = 256 * 2**20
    heavy_share: float = 1 / 1024
    piece_targets: int = 64
    groups: int = 128
    probes: Probes = Probes()


CPU_LIMITS = Limits()


def gpu_limits(cores: int, memory: int, most_groups: tuple[int, ...] = ()) -> Limits:
    """Return limits for a GPU: predicted, not measured.

    A multiprocessor holds about sixteen work-groups at a time, and a launch should have several rounds of them: no box
    has more than 1/64 of a multiprocessor's share. Transformed expansions may take a sixteenth of the memory, for each
    batch of planes is three launches, which have to fill the device. Launches of 20,000 points are over in
    microseconds, so probes are five to ten times as large as a CPU's.

    Args:
        cores: multiprocessors; 0 where unknown.
        memory: bytes; 0 where unknown.
        most_groups: as in `Limits`.
    """
    return Limits(
        most_groups=most_groups,
        workspace=max(CPU_LIMITS.workspace, memory // 16),
        heavy_share=min(CPU_LIMITS.heavy_share, 1 / (64 * max(cores, 1))),
        groups=32 * CPU_LIMITS.groups,
        probes=Probes(points=100_000, many_points=1_000_000, many_from=500_000),
    )


@dataclass(frozen=True)
class Device:
    """Something that runs operators.

    What is not known of a device has a neutral value: "" for words, () for the version, 0 for numbers, 1 for the
    work-item width. A device that has been pickled has lost its handle; its backend finds it again when it opens it.

    Attributes:
        backend: what runs code on it: "opencl", or "c" for the processor through a C compiler.
        name: what the vendor calls it.
        description: backend, type, platform, version and name in one line, of a CPU its vector instructions too; for
            display, and for choosing a device by part of it.
        driver: version of the driver or runtime in full, part of what makes compiled code stale.
        has_float64: whether it computes in double precision.
        handle: what the backend knows it by; None for "c".
        kind: "cpu", "gpu" or "other".
        runtime: whose compiler and scheduler it has: "pocl", "intel", "nvidia", "amd", "oclgrind", "c", or the
            platform's name as an identifier.
        version: of the runtime, (3, 1) for 3.1+debian; () if unknown.
        vendor: who made the processor: "intel", "amd", "nvidia", "arm", "apple"; "" if unknown.
        instructions: widest vector instructions of a CPU: "AVX-512", "AVX2", "AVX", "SVE", "Neon"; "" if unknown.
        vector_bytes: width of a vector register; 0 if unknown.
        registers: how many vector registers a core has; 0 if unknown.
        cores: cores of a CPU that the runtime uses, multiprocessors of a GPU; 0 if unknown.
        memory: bytes; 0 if unknown.
        cache: bytes of the largest cache; 0 if unknown.
        width: work-items that become one vector (float32) or one warp; 1 where the runtime leaves them apart, or if
            unknown.
        limits: what it allows, and what suits it.
    """

    backend: str
    name: str
    description: str
    driver: str = ""
    has_float64: bool = True
    handle: Any = field(default=None, compare=False, repr=False)
    kind: str = field(default=OTHER, kw_only=True)
    runtime: str = field(default="", kw_only=True)
    version: tuple[int, ...] = field(default=(), kw_only=True)
    vendor: str = field(default="", kw_only=True)
    instructions: str = field(default="", kw_only=True)
    vector_bytes: int = field(default=0, kw_only=True)
    registers: int = field(default=0, kw_only=True)
    cores: int = field(default=0, kw_only=True)
    memory: int = field(default=0, kw_only=True)
    cache: int = field(default=0, kw_only=True)
    width: int = field(default=1, kw_only=True)
    limits: Limits = field(default=CPU_LIMITS, kw_only=True, repr=False)

    @property
    def is_simulator(self) -> bool:
        """Whether it checks every access, and is hundreds of times slower than what it simulates."""
        return self.runtime in SIMULATORS

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "handle": None}
