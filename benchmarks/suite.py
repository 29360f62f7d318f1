"""What is measured: the cases of a full run, and the few small ones of a quick one."""

from __future__ import annotations

from dataclasses import dataclass, replace

GROUPS = {
    "operators": "every operator by itself, against the roofline",
    "evaluate": "whole evaluations of a million points on the sphere, in the cube, clustered; their memory",
    "sizes": "time against the number of points",
    "start": "a thousand and ten thousand points: a warm evaluation, and the first potentials of a new process",
    "first": "the first potentials of a million points in a new process, with empty caches and with warm ones",
    "accuracy": "time against error",
    "steps": "L2P after every step of its recipe, from the sequential loop on",
    "peers": "fmm3dpy on the same points, where it is installed",
}
"""Names of the groups of cases, and what they are for."""

MILLION = 1_000_000

FIRST_SPHERE, FIRST_CUBE = "sphere, error 1.3e-6", "cube, error 2.7e-4"
"""Names of the two cases that the literature on other libraries has figures for; the targets ask for them."""

COLD, WARM = "sphere, 6 digits, empty caches", "sphere, 6 digits, warm caches"
"""Names of the cases of group first."""

TRANSLATIONS = ("m2m", "m2l_forward", "m2l_hadamard", "m2l_inverse", "l2l", "check_to_equivalent")
PARTICLES = ("p2p", "p2m", "p2l", "l2p", "m2p")

NAMES = {
    "p2p": "P2P",
    "p2p_mutual": "mutual P2P",
    "p2m": "P2M",
    "p2l": "P2L",
    "m2m": "M2M",
    "m2l": "M2L",
    "m2l_forward": "M2L: forward transform",
    "m2l_hadamard": "M2L: products",
    "m2l_inverse": "M2L: inverse transform",
    "m2l_svd": "M2L: compressed",
    "l2l": "L2L",
    "l2p": "L2P",
    "m2p": "M2P",
    "check_to_equivalent": "check → equivalent",
    "clear": "setting to zero",
}
"""Operators as the text calls them; those that are not here by the names that they have in the code."""


@dataclass(frozen=True)
class EvaluationCase:
    """Whole evaluations with one `fmmloopy.Fmm`.

    Attributes:
        group: a key of GROUPS.
        name: tells it from others of its group.
        points, distribution, dtype: see `fmmloopy.measuring.timing.Setting`.
        digits, order, precision: as for `fmmloopy.Fmm`; all else is left to it.
        runs: evaluations at least, after one that does not count; short ones run more often. The fastest counts.
        draws: sets of charges that the error is taken over, no more than runs: it differs much between them.
        processes: how often all of it is done, each time in a new process.
        everywhere: on every device, or on the first alone.
        moving: whether the points move, too: `fmmloopy.Fmm.update`, and an evaluation.
        cold: whether all caches are empty at first.
    """

    group: str
    name: str
    points: int
    distribution: str = "sphere"
    dtype: str = "float64"
    digits: float | None = None
    order: int | None = None
    precision: str | None = None
    runs: int = 4
    draws: int = 1
    processes: int = 1
    everywhere: bool = True
    moving: bool = False
    cold: bool = False


@dataclass(frozen=True)
class OperatorCase:
    """Operators by themselves, on one problem.

    Attributes:
        operators: which.
        points, distribution, order, dtype: see `fmmloopy.measuring.timing.Setting`.
        ncrit: most points of a leaf; None for what suits the order.
        gradient: whether those at targets compute gradients too.
    """

    operators: tuple[str, ...]
    points: int
    distribution: str = "sphere"
    order: int = 6
    dtype: str = "float64"
    ncrit: int | None = None
    gradient: bool = False
    group: str = "operators"
    everywhere: bool = True

    @property
    def name(self) -> str:
        """What a line of progress calls it."""
        which = self.operators[0] if len(self.operators) == 1 else f"{len(self.operators)} operators"
        return f"{which}, order {self.order}, {self.dtype}{', gradient' if self.gradient else ''}"


@dataclass(frozen=True)
class StepsCase:
    """One operator after every step of the device's recipe, at one order."""

    operator: str
    points: int
    order: int
    distribution: str = "sphere"
    group: str = "steps"
    everywhere: bool = False

    @property
    def name(self) -> str:
        """What a line of progress calls it."""
        return f"{self.operator}, order {self.order}"


@dataclass(frozen=True)
class PeerCase:
    """One evaluation of another library, at the precision that it is asked for."""

    points: int
    eps: float
    distribution: str = "sphere"
    library: str = "fmm3dpy"
    group: str = "peers"
    everywhere: bool = False

    @property
    def name(self) -> str:
        """What a line of progress calls it."""
        return f"{self.points:,} points, eps {self.eps:g}"


Case = EvaluationCase | OperatorCase | StepsCase | PeerCase


def full_suite() -> list[Case]:
    """Return all cases; on two cores, about five minutes for each device."""
    ragged = OperatorCase(PARTICLES, 500_000, ncrit=300)  # 97% of the points are in leaves of 50 to 300
    cube = OperatorCase(TRANSLATIONS, 400_000, "cube")
    cases: list[Case] = [
        ragged,
        replace(ragged, operators=("p2p",), gradient=True),
        replace(ragged, operators=("p2p",), dtype="float32"),
        cube,
        replace(cube, operators=TRANSLATIONS, order=10),
        replace(cube, operators=("m2l_svd",), distribution="sphere"),  # where it is chosen
        EvaluationCase("evaluate", FIRST_SPHERE, MILLION, digits=5.88, order=6, runs=5, draws=3),
        EvaluationCase("evaluate", FIRST_CUBE, MILLION, "cube", digits=3.56, order=4, runs=5, draws=3),
    ]
    for case, precision in zip(cases[-2:], ("mixed", "reduced"), strict=True):
        assert isinstance(case, EvaluationCase)
        cases.append(replace(case, name=f"{case.name}, {precision}", precision=precision))
    for distribution in ("sphere", "cube", "clustered"):
        for digits, dtype in ((6, "float64"), (3, "float64"), (3, "float32")):
            name = f"{distribution}, {digits} digits"
            case = EvaluationCase("evaluate", name, MILLION, distribution, dtype, digits, runs=3, draws=3)
            cases.append(replace(case, moving=digits == 6))
    for distribution in ("sphere", "cube"):
        name = f"{distribution}, 9 digits"
        cases.append(EvaluationCase("evaluate", name, MILLION, distribution, digits=9, runs=3, draws=3))
    cases.append(EvaluationCase("first", COLD, MILLION, digits=6, runs=1, cold=True))
    cases.append(EvaluationCase("first", WARM, MILLION, digits=6, runs=1, processes=2))
    for points in (10_000, 30_000, 100_000, 300_000, MILLION, 3 * MILLION, 10 * MILLION):
        cases.append(EvaluationCase("sizes", "sphere, 3 digits", points, digits=3, runs=3))
    for points in (1_000, 10_000):
        cases.append(EvaluationCase("start", "cube, 6 digits", points, "cube", digits=6, runs=20, processes=4))
    for dtype, most in (("float64", 12), ("float32", 5)):
        for digits in range(2, most + 1):
            name = f"sphere, {digits} digits"
            case = EvaluationCase("accuracy", name, 100_000, dtype=dtype, digits=digits, runs=3, draws=3)
            cases.append(replace(case, everywhere=False))
    cases += [StepsCase("l2p", 200_000, order) for order in (4, 6, 8)]
    cases += [PeerCase(100_000, eps) for eps in (1e-1, 1e-2, 1e-4, 1e-5, 1e-6, 1e-7)]
    return [*cases, PeerCase(MILLION, 1e-2)]


def quick_suite() -> list[Case]:
    """Return a few small cases of every group: about a minute in all where code has been generated before."""
    particles = OperatorCase(PARTICLES, 20_000, order=4, ncrit=300)
    return [
        particles,
        replace(particles, operators=("p2p",), dtype="float32"),
        OperatorCase(TRANSLATIONS, 20_000, "cube", order=4),
        EvaluationCase("evaluate", "sphere, 3 digits", 20_000, digits=3, moving=True),
        EvaluationCase("evaluate", "cube, 3 digits", 20_000, "cube", "float32", digits=3),
        EvaluationCase("sizes", "sphere, 3 digits", 10_000, digits=3),
        EvaluationCase("sizes", "sphere, 3 digits", 30_000, digits=3),
        EvaluationCase("start", "cube, 3 digits", 10_000, "cube", digits=3, processes=2),
        *(EvaluationCase("accuracy", f"sphere, {d} digits", 20_000, digits=d, everywhere=False) for d in (2, 3)),
        StepsCase("l2p", 10_000, 4),
        PeerCase(20_000, 1e-2),
    ]


def choose(cases: list[Case], groups: list[str] | None = None, most_points: int | None = None) -> list[Case]:
    """Return the cases of some groups that have no more than so many points.

    Raises:
        ValueError: no such group, or no case is left.
    """
    for group in groups or ():
        if group not in GROUPS:
            raise ValueError(f"there is no group {group!r} of cases, expected some of {', '.join(GROUPS)}")
    chosen = [c for c in cases if (not groups or c.group in groups) and (not most_points or c.points <= most_points)]
    if not chosen:
        raise ValueError(f"no case has {most_points:,} points or fewer" if most_points else "no case is left")
    return chosen
