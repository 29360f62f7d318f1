"""Predict how evaluations scale to many parts: ``python -m benchmarks.scaling``.

Real points are cut into parts as :mod:`fmmloopy.parts` cuts them after rebalancing, by work. The work of each part, the
ghosts that it receives, and their messages and bytes are counted on the real tree and its lists. Times follow from the
rates of operators on this machine, as measured for the choice of ncrit, and from a network that is stated. Nothing is
sent: all figures are predicted. An evaluation takes as long as its slowest part; computing and sending do not overlap.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmmloopy.choosing.calibration import KnownRates
from fmmloopy.choosing.work import count_work
from fmmloopy.common.sizes import count_points, padded
from fmmloopy.execution.evaluation import grower
from fmmloopy.fmm import Fmm
from fmmloopy.octree.lists import CSR, InteractionLists, build_lists
from fmmloopy.octree.small_boxes import absorb_small_boxes
from fmmloopy.octree.tree import DEEPEST_LEVEL, FIRST_LEVEL, Tree, sort_points
from fmmloopy.operators import OPERATORS
from fmmloopy.parts.part import REDUCED_FROM

PARTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)

CALIBRATED = 200_000
"""Points of the evaluation that gives order, ncrit and rates."""


@dataclass(frozen=True)
class Network:
    """A network between parts.

    Attributes:
        latency: seconds for each message.
        bandwidth: bytes per second, in and out of a part.
    """

    latency: float
    bandwidth: float


@dataclass(frozen=True)
class Prediction:
    """A prediction for a number of parts.

    Attributes:
        parts: how many.
        seconds: of the slowest part.
        working: mean seconds of the operators.
        slowest: seconds of the operators in the part with the most work.
        sending: the most seconds that a part sends and receives.
        messages: the most that a part receives in one evaluation.
        ghosts: mean number of multipoles that a part receives, over that of its own boxes.
        nbytes: the most bytes that a part receives.
    """

    parts: int
    seconds: float
    working: float
    slowest: float
    sending: float
    messages: int
    ghosts: float
    nbytes: int


@dataclass(frozen=True, eq=False)
class Problem:
    """Points whose division is predicted.

    Attributes:
        tree, lists: of all points.
        seconds: shape (nboxes,), predicted seconds of all operators, by target box, or by box for the upward pass.
        row_bytes: bytes of a multipole.
    """

    tree: Tree
    lists: InteractionLists
    seconds: NDArray[np.float64]
    row_bytes: int


def make_points(distribution: str, count: int) -> NDArray[np.float64]:
    """Return points in the unit cube or on the unit sphere: shape (count, 3)."""
    rng = np.random.default_rng(0)
    if distribution == "cube":
        return rng.random((count, 3))
    points = rng.standard_normal((count, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return points


def prepare(distribution: str, count: int, digits: float, device: str | None) -> tuple[Problem, Fmm]:
    """Build the tree of all points, and predict the seconds of each box."""
    points = make_points(distribution, count)
    fmm = Fmm(points[:: max(1, count // CALIBRATED)], digits=digits, device=device, m2l="fft")
    setup, runtime = fmm._decision.setup, fmm._evaluation.runtime
    rates = KnownRates(setup, runtime, CALIBRATED).of("fft", measure=True)
    assert rates is not None
    tree = grower(sort_points(points, None, setup.method.precision.points), setup.method.precision)(fmm.ncrit)
    lists = absorb_small_boxes(tree, build_lists(tree), count_points(fmm.order))
    work = count_work(tree, lists, setup.method)
    predicted = rates.seconds(work)
    nsources = (tree.box_source_ends - tree.box_source_starts).astype(np.float64)
    ntargets = (tree.box_target_ends - tree.box_target_starts).astype(np.float64)
    of_leaves, of_boxes = nsources * tree.is_leaf, np.where(tree.box_levels >= FIRST_LEVEL, 1.0, 0.0)
    seconds = np.zeros(tree.nboxes)
    for name, spent in predicted.items():
        particles = OPERATORS[name].particles
        if name.startswith("m2l"):
            weights = lists.v.lengths.astype(np.float64)
        elif particles is None:
            weights = of_boxes
        elif particles.list == "own":
            weights = of_leaves
        else:
            csr: CSR = getattr(lists, particles.list)
            each = np.ones(len(csr.lists)) if particles.sources.is_surface else nsources[csr.lists]
            sums = np.append(0.0, np.cumsum(each))
            weights = (sums[csr.starts[1:]] - sums[csr.starts[:-1]]) * (1 if particles.targets.is_surface else ntargets)
        seconds += spent * weights / max(weights.sum(), 1e-300)
    arrays = fmm._evaluation._plan.expansions
    return Problem(tree, lists, seconds, arrays.columns * padded(arrays.npoints) * arrays.dtype.itemsize), fmm


def predict(problem: Problem, parts: int, network: Network) -> Prediction:
    """Cut the curve between leaves into parts of equal work, and predict the slowest."""
    tree, lists = problem.tree, problem.lists
    shift = (3 * (DEEPEST_LEVEL - tree.box_levels)).astype(np.uint64)
    first_key, last_key = tree.box_keys << shift, ((tree.box_keys + np.uint64(1)) << shift) - np.uint64(1)
    leaves = np.flatnonzero(tree.is_leaf)
    leaves = leaves[np.argsort(first_key[leaves])]
    work = np.cumsum(problem.seconds[leaves])
    of_leaf = np.minimum((work - problem.seconds[leaves] / 2) / work[-1] * parts, parts - 1).astype(np.int64)
    starts = first_key[leaves]
    first = of_leaf[np.searchsorted(starts, first_key)]  # each box has a leaf, which may begin after it
    last = of_leaf[np.searchsorted(starts, last_key, "right") - 1]
    spans = last - first + 1

    def expand(boxes: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return box and part, for each part that a box is in."""
        counts = spans[boxes]
        places = np.repeat(np.arange(len(boxes)), counts)
        return places, first[boxes][places] + np.arange(len(places)) - np.repeat(np.cumsum(counts) - counts, counts)

    boxes = np.arange(tree.nboxes)
    which, part = expand(boxes)
    busy = np.bincount(part, problem.seconds[which], parts)
    own = np.bincount(part, tree.box_levels[which] >= FIRST_LEVEL, parts)
    reduced = tree.box_levels < FIRST_LEVEL
    nreduced = 0
    if parts >= REDUCED_FROM:
        last_level = FIRST_LEVEL
        while 8 ** (last_level + 1) <= parts:
            last_level += 1
        reduced = tree.box_levels <= last_level
        nreduced = int((reduced & (tree.box_levels >= FIRST_LEVEL)).sum())

    received, sent, messages = np.zeros((3, parts))
    ghosts = 0
    pairs = []
    for names, size_of in ((("v", "w"), None), (("u", "x"), tree.box_source_ends - tree.box_source_starts)):
        keys = []
        for name in names:
            csr: CSR = getattr(lists, name)
            rows = np.flatnonzero(csr.lengths)
            place, row_part = expand(rows)
            lengths = csr.lengths[rows[place]].astype(np.int64)
            at = np.repeat(csr.starts[rows[place]] - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())
            sources, to = csr.lists[at], np.repeat(row_part, lengths)
            away = first[sources] != to
            if size_of is None:
                away &= ~reduced[sources]
            keys.append(np.unique(to[away] * tree.nboxes + sources[away]))
        to, sources = np.divmod(np.unique(np.concatenate(keys)), tree.nboxes)
        sizes = np.full(len(sources), problem.row_bytes) if size_of is None else 8 * size_of[sources]
        received += np.bincount(to, sizes, parts)
        sent += np.bincount(first[sources], sizes, parts)
        ghosts += len(sources) if size_of is None else 0
        pairs.append(np.unique(to * parts + first[sources]))
    # Pieces of the multipoles of boxes in several parts, to the first of them.
    straddling = boxes[(spans > 1) & ~reduced]
    place, holder = expand(straddling)
    later = holder != first[straddling][place]
    received += np.bincount(first[straddling][place[later]], minlength=parts) * problem.row_bytes
    sent += np.bincount(holder[later], minlength=parts) * problem.row_bytes
    pairs.append(np.unique(first[straddling][place[later]] * parts + holder[later]))
    for each in pairs:
        messages += np.bincount(each // parts, minlength=parts)
    sending = messages * network.latency + np.maximum(received, sent) / network.bandwidth
    if nreduced:
        rounds = np.log2(parts)
        sending += 2 * (rounds * network.latency + nreduced * problem.row_bytes / network.bandwidth)
    return Prediction(
        parts,
        float((busy + sending).max()),
        float(busy.mean()),
        float(busy.max()),
        float(sending.max()),
        int(messages.max()),
        ghosts / parts / max(own.mean(), 1),
        int(received.max()),
    )


def table(found: Sequence[Prediction]) -> str:
    """Return a table in Markdown; efficiency is that of strong scaling."""
    lines = [
        "| parts | seconds | efficiency | slowest / mean work | repeated work | sending, share | messages | "
        "ghost boxes / own | MB received |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    alone = found[0]
    for each in found:
        lines.append(
            f"| {each.parts:,} | {each.seconds:.3g} | {alone.seconds / each.parts / each.seconds:.0%} "
            f"| {each.slowest / each.working:.2f} | {each.working * each.parts / alone.working - 1:.1%} "
            f"| {each.sending / each.seconds:.0%} | {each.messages} | {each.ghosts:.2f} | {each.nbytes / 1e6:.2f} |"
        )
    return "\n".join(lines)


def draw(curves: Mapping[str, Sequence[Prediction]], network: Network, path: Path) -> None:
    """Draw the efficiency of strong scaling against the number of parts."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for name, found in curves.items():
        efficiency = [found[0].seconds / each.parts / each.seconds for each in found]
        axes.plot([each.parts for each in found], efficiency, "o-", label=name)
    axes.set_xscale("log", base=2)
    axes.set_ylim(0, 1.05)
    axes.axhline(0.8, color="grey", linewidth=0.8, linestyle="--")
    axes.set_xlabel("parts")
    axes.set_ylabel("efficiency, predicted")
    axes.set_title(f"Strong scaling, {network.latency * 1e6:g} us a message, {network.bandwidth / 1e9:g} GB/s")
    axes.legend(loc="lower left")
    figure.savefig(path, dpi=150)


def main(argv: Sequence[str] | None = None) -> None:
    """Predict and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--points", type=int, nargs="+", default=[10_000_000], help="(default: %(default)s)")
    parser.add_argument("--distribution", nargs="+", choices=("cube", "sphere"), default=["cube", "sphere"])
    parser.add_argument("--parts", type=int, nargs="+", default=list(PARTS), help="from 1 on (default: powers of two)")
    parser.add_argument("--digits", type=float, default=6, help="(default: %(default)s)")
    parser.add_argument("--device", help="part of a device's description")
    parser.add_argument("--latency", type=float, default=2e-6, help="seconds a message (default: %(default)s)")
    parser.add_argument("--bandwidth", type=float, default=12.5e9, help="bytes per second (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="file for the tables, beside the screen")
    parser.add_argument("--plot", type=Path, help="picture of the efficiency; needs matplotlib")
    arguments = parser.parse_args(argv)
    warnings.filterwarnings("ignore", category=UserWarning)
    network = Network(arguments.latency, arguments.bandwidth)
    text, curves = "", dict[str, list[Prediction]]()
    for distribution in arguments.distribution:
        for count in arguments.points:
            problem, fmm = prepare(distribution, count, arguments.digits, arguments.device)
            found = [predict(problem, parts, network) for parts in sorted({1, *arguments.parts})]
            lines = (
                f"{count:,} points, {distribution}, order {fmm.order}, ncrit {fmm.ncrit}, "
                f"{problem.tree.nboxes:,} boxes; each part is {fmm.device.name} with {fmm.device.cores} cores; "
                f"{network.latency * 1e6:g} us a message, {network.bandwidth / 1e9:g} GB/s:\n\n{table(found)}\n\n"
            )
            print(lines, end="", flush=True)
            text += lines
            curves[f"{distribution}, {count:,} points"] = found
    if arguments.output:
        arguments.output.write_text(text.rstrip() + "\n")
    if arguments.plot:
        draw(curves, network, arguments.plot)


if __name__ == "__main__":
    main()
