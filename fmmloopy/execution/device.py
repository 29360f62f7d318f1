"""Devices as typed facts, so that no code has to parse descriptions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fmmloopy.common.sizes import PADDING

CPU, GPU, OTHER = "cpu", "gpu", "other"
"""Kinds of devices."""

EMULATOR = "emulator"
"""The runtime of the emulated CUDA GPU."""

SLOW_FLOAT64 = 1 / 16
"""Rate of float64 as a share of that of float32 up to which it is slow: consumer GPUs have 1/16 to 1/64, others 1/2 or
1."""

NEVER = 2**62
"""More points than there are."""

SIMULATORS = ("oclgrind", EMULATOR)
"""Runtimes that look for faults, and are hundreds of times slower than the devices that they simulate."""


class DeviceError(Exception):
    """A device does not exist or cannot be used; the message lists those that exist."""


@dataclass(frozen=True)
class Probes:
    """Problems on which rates are measured (`fmmloopy.choosing.calibration`); the defaults are for CPUs.

    Attributes:
        points: points of the small probes. Smaller problems finish before all cores have started.
        many_points: points of the large probes, for problems of ``many_from`` points or more. They exceed the caches,
            and keep all cores busy to the end of each launch: with the small probes, predictions for a million points
            on the sphere (3 digits, PoCL 3.1) were 20% above the measured times for P2P and 10% to 50% below them for
            the stages of M2L, and the chosen ncrit was 8 to 13% slower than the best.
        many_from: up to 1e5 points the small probes are accurate: the sum over all operators is within 1% in the cube
            at 6 digits.
        first: points of a problem that is tried first: if it takes longer than ``longest`` seconds three times in a
            row, nothing else is tried.
        longest: time limit for the first problem, in seconds.
    """

    points: int = 20_000
    many_points: int = 100_000
    many_from: int = 200_000
    first: int = 500
    longest: float = 0.25


@dataclass(frozen=True)
class Limits:
    """Limits of a device and sizes that suit it; the defaults are for CPUs.

    Attributes:
        most_groups: maximum number of work-groups of a launch on each axis; () if no limit is known.
        most_numbers: upper bound on the size of an array, because generated code has 32-bit indices.
        padding: numbers after the end of every array, which idle lanes may read.
        workspace: bytes for transformed expansions. Planes of frequencies are processed in batches that fit, at least
            one plane at a time.
        heavy_share: boxes with more than this share of a launch's work are split into pieces below it, if they have
            enough targets: the other cores would wait for a core that starts such a box last.
        piece_targets: the number of targets of a piece is a multiple of this: full vectors, and enough of them to pay
            for reading the sources.
        groups: work-groups that fill the device, many for each core.
        pairs_from: fewest points for which pairs of leaves are evaluated for both at once, in several launches; with
            fewer, these take a good part of an evaluation.
        narrow_pairs: whether they are, too, if near pairs are in float32. With AVX-512 this takes as long for
            potentials as one side after the other, and 1.6 times as long with gradients; with AVX2, PoCL takes two
            thirds and three quarters of the time.
        probes: problems on which rates are measured.
    """

    most_groups: tuple[int, ...] = ()
    most_numbers: int = 2**31
    padding: int = PADDING
    workspace: int = 256 * 2**20
    heavy_share: float = 1 / 1024
    piece_targets: int = 64
    groups: int = 128
    pairs_from: int = 20_000
    narrow_pairs: bool = False
    probes: Probes = Probes()


CPU_LIMITS = Limits()


def is_slow(float64_share: float) -> bool:
    """Return whether float64 is slow, given its rate as a share of that of float32; not if that is 0, unknown."""
    return 0 < float64_share <= SLOW_FLOAT64


def gpu_limits(cores: int, memory: int, most_groups: tuple[int, ...] = (), float64_share: float = 0.0) -> Limits:
    """Return limits for a GPU: predicted, not measured.

    A multiprocessor runs about sixteen work-groups at a time, and a launch should have several rounds of them, so no
    box has more than 1/64 of a multiprocessor's share. Transformed expansions may take a sixteenth of the memory,
    because each batch of planes takes three launches, which have to fill the device. Launches with 20,000 points finish
    in microseconds, so probes are five to ten times as large as for a CPU.

    Pairs of leaves are evaluated for both at once only where float64 is slow. A million points take 32 to 63 launches,
    most of them with fewer than two units for each multiprocessor, each a warp. That keeps two units for float64 busy,
    but not 64 of them, as docs/write_a_gpu_recipe.md predicts.

    Args:
        cores: number of multiprocessors; 0 if unknown.
        memory: memory in bytes; 0 if unknown.
        most_groups: as in `Limits`.
        float64_share: as in `Device`.
    """
    return Limits(
        most_groups=most_groups,
        workspace=max(CPU_LIMITS.workspace, memory // 16),
        heavy_share=min(CPU_LIMITS.heavy_share, 1 / (64 * max(cores, 1))),
        groups=32 * CPU_LIMITS.groups,
        pairs_from=CPU_LIMITS.pairs_from if is_slow(float64_share) else NEVER,
        probes=Probes(points=100_000, many_points=1_000_000, many_from=500_000),
    )


@dataclass(frozen=True)
class Device:
    """A device that runs operators.

    Unknown facts have neutral values: "" for words, () for the version, 0 for numbers, 1 for the work-item width. A
    pickled device loses its handle; its backend finds the device again when it opens it.

    Attributes:
        backend: the backend that runs code on it: "cuda", "opencl", "cuda-emulator", or "c" for the processor through
            a C compiler.
        name: the vendor's name for it.
        description: backend, type, platform, version and name in one line, for a CPU also its vector instructions; for
            display, and for choosing a device by part of it.
        driver: full version of the driver or runtime; compiled code depends on it.
        has_float64: whether it computes in double precision.
        handle: the backend's object for the device; None for "c".
        kind: "cpu", "gpu" or "other".
        runtime: the runtime with its compiler and scheduler: "pocl", "intel", "nvidia", "amd", "oclgrind", "cuda",
            "emulator", "c", or the platform's name as an identifier.
        version: version of the runtime, such as (3, 1) for 3.1+debian; () if unknown.
        vendor: vendor of the processor: "intel", "amd", "nvidia", "arm", "apple"; "" if unknown.
        instructions: widest vector instructions of a CPU: "AVX-512", "AVX2", "AVX", "SVE", "Neon"; "" if unknown.
        vector_bytes: width of a vector register; 0 if unknown.
        registers: number of vector registers of a core; 0 if unknown.
        cores: cores of a CPU that the runtime uses, multiprocessors of a GPU; 0 if unknown.
        memory: bytes; 0 if unknown.
        cache: bytes of the largest cache; 0 if unknown.
        width: work-items that become one vector (float32) or one warp; 1 if the runtime does not combine them, or if
            unknown.
        float64_share: rate of float64 operations as a share of that of float32 operations; 0 if unknown.
        limits: limits of the device, and sizes that suit it.
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
    float64_share: float = field(default=0.0, kw_only=True)
    limits: Limits = field(default=CPU_LIMITS, kw_only=True, repr=False)

    @property
    def is_simulator(self) -> bool:
        """Whether it looks for faults, and is hundreds of times slower than the device that it simulates."""
        return self.runtime in SIMULATORS

    @property
    def has_slow_float64(self) -> bool:
        """Whether operations in float64 take many times as long as those in float32."""
        return is_slow(self.float64_share)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "handle": None}
