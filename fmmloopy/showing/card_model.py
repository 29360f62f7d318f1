"""A whole evaluation on a card that is not there, from the machine code of its kernels: predicted, not measured.

Seconds of an operator are the larger of two times:

units    its work (`fmmloopy.choosing.work`), at the rate that the units of the card allow the innermost loop. Pairs of
         points have a reciprocal root each, and those of full tiles are computed, as kernels for GPUs do. Otherwise,
         the loop's operations are counted, a multiply-add as two.
memory   every number that it reads or writes moved once (`fmmloopy.measuring.roofline.count_bytes`), at the bandwidth

Both assume that the warps which fit hide all waiting, that the caches serve what is read again, that other work-items
than those of tiles of points are never idle, and that instructions outside the innermost loop take no time. Launches,
of some microseconds each, and transfers are left out. So an evaluation can be much slower than predicted, but only
faster where arrays stay in a cache between operators.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmmloopy.accuracy import largest_leaf, ncrit_for, settle_accuracy
from fmmloopy.choosing.cost_model import Candidate, search_ncrit, why_fft_alone
from fmmloopy.choosing.report import milliseconds, text_table
from fmmloopy.choosing.work import Work, count_work
from fmmloopy.common.arguments import check_count
from fmmloopy.common.sizes import FIRST_ORDER, LAST_ORDER, count_points
from fmmloopy.components import CHARGES, GRADIENT
from fmmloopy.execution.device import Device, gpu_limits
from fmmloopy.execution.evaluation import grower
from fmmloopy.execution.generate import compile_operator
from fmmloopy.execution.launch import CompiledOperator
from fmmloopy.execution.setup import Method, Setup
from fmmloopy.inputs import check_precision
from fmmloopy.measuring.roofline import count_bytes
from fmmloopy.measuring.timing import DISTRIBUTIONS, Setting
from fmmloopy.octree.lists import CSR, InteractionLists, build_lists
from fmmloopy.octree.near_pairs import replace_by_leaves
from fmmloopy.octree.tree import FIRST_LEVEL, Tree, sort_points
from fmmloopy.operators import OPERATORS
from fmmloopy.operators.operator import Side
from fmmloopy.precision import SINGLE
from fmmloopy.prediction.predict import Predictor
from fmmloopy.recipes.book import RecipeBook
from fmmloopy.showing.gpu_code import Card, GpuCode, code_for, device_for

MEMORY = "memory"
"""What binds if it is no unit of the card."""

ASSUMED = (
    "Assumed: nothing waits, caches serve what is read again, only innermost loops take time, and only tiles of points "
    "have idle work-items. Launches and transfers are left out."
)


@dataclass(frozen=True)
class PredictedOperator:
    """One operator.

    Attributes:
        operator: its name.
        work: its work.
        computed: pairs of points in full tiles; 0 if there are no pairs.
        nbytes: bytes that it has to move.
        unit: the unit of the card that takes longest, or "slots" for all instructions.
        unit_seconds, memory_seconds: what that unit and the memory take.
        occupancy: warps on a multiprocessor at a time, and the most that there can be; None if unknown.
    """

    operator: str
    work: Work
    computed: int
    nbytes: int
    unit: str
    unit_seconds: float
    memory_seconds: float
    occupancy: tuple[int, int] | None

    @property
    def seconds(self) -> float:
        """Predicted seconds."""
        return max(self.unit_seconds, self.memory_seconds)

    @property
    def binds(self) -> str:
        """What binds: a unit of the card, or memory."""
        return self.unit if self.unit_seconds >= self.memory_seconds else MEMORY


@dataclass(frozen=True)
class Prediction:
    """An evaluation on a card; ``str()`` gives a text table.

    Attributes:
        card: the card.
        book: name of the recipe book.
        points, distribution: the points, as in `fmmloopy.measuring.timing.Setting`.
        method: Green's function, order and precision.
        digits: the wanted digits; None if an order was given instead.
        gradient: whether gradients are computed too.
        best: ncrit and the form of M2L.
        candidates: all that were compared, in the order of ncrit.
        operators: those that have work, in the order of `fmmloopy.operators.OPERATORS`.
    """

    card: Card
    book: str
    points: int
    distribution: str
    method: Method
    digits: float | None
    gradient: bool
    best: Candidate
    candidates: tuple[Candidate, ...]
    operators: tuple[PredictedOperator, ...]

    @property
    def seconds(self) -> float:
        """Predicted seconds of all operators."""
        return sum(each.seconds for each in self.operators)

    def __str__(self) -> str:
        method, best, total = self.method, self.best, self.seconds
        order = "as given" if self.digits is None else f"for {self.digits:g} digits"
        rows = []
        for each in self.operators:
            amount = f"{each.work.pairs:.3g} pairs" if each.work.pairs else f"{each.work.flops:.3g} flop"
            warps = "{} of {}".format(*each.occupancy) if each.occupancy else ""
            idle = f"{1 - each.work.pairs / each.computed:.0%}" if each.computed else ""
            share = f"{each.seconds / total:.0%}"
            rows.append((each.operator, amount, idle, milliseconds(each.seconds), each.binds, share, warps))
        rows.append(("all of these", "", "", milliseconds(total), "", "", ""))
        return "\n".join(
            [
                f"predicted from machine code for {self.card.name}, not measured",
                f"{self.points:,} points {DISTRIBUTIONS[self.distribution]}, {method.kernel.name}, "
                f"{'potentials and gradients' if self.gradient else 'potentials'}",
                f"order {method.order} {order}, {method.precision.name} precision, recipes {self.book}",
                f"ncrit {best.ncrit}, M2L {best.m2l}, {best.nboxes:,} boxes: {self._reason()}",
                "",
                *text_table(("operator", "work", "idle", "predicted ms", "binds", "share", "warps"), rows),
                "",
                ASSUMED,
            ]
        )

    def _reason(self) -> str:
        """Return why ncrit and the form of M2L were chosen."""
        ncrits, reason = sorted({each.ncrit for each in self.candidates}), "as given"
        if len(ncrits) > 1:
            reason = f"the fastest of ncrit {', '.join(map(str, ncrits))}"
        for form in sorted({each.m2l for each in self.candidates} - {self.best.m2l}):
            other = min((c for c in self.candidates if c.m2l == form), key=lambda candidate: candidate.total)
            reason += f"; {form} with ncrit {other.ncrit} takes {other.total / self.best.total:.2f} times as long"
        return reason

    def as_dict(self) -> dict[str, Any]:
        """Return the prediction as a dictionary for JSON."""
        method, best = self.method, asdict(self.best)
        del best["seconds"]  # by operator there, in all here
        operators = {
            each.operator: {**asdict(each), "seconds": each.seconds, "binds": each.binds} for each in self.operators
        }
        return {
            "measured": False,
            "card": asdict(self.card),
            "book": self.book,
            "points": self.points,
            "distribution": self.distribution,
            "kernel": method.kernel.name,
            "order": method.order,
            "precision": method.precision.name,
            "digits": self.digits,
            "gradient": self.gradient,
            **best,
            "candidates": [{**asdict(each), "total": each.total} for each in self.candidates],
            "operators": operators,
            "seconds": self.seconds,
            "assumed": ASSUMED,
        }


class CardModel:
    """What operators take on a card.

    Args:
        card: the card.
        setup: the method, recipes and `device_of` this card.
        gradient: whether operators compute gradients too, where they can.
        tell: called with a description of the current activity.
    """

    def __init__(self, card: Card, setup: Setup, gradient: bool, tell: Callable[[str], None]) -> None:
        self.card, self.setup, self.gradient, self._tell = card, setup, gradient, tell
        self._codes: dict[str, tuple[CompiledOperator, GpuCode]] = {}

    def code(self, operator: str) -> tuple[CompiledOperator, GpuCode]:
        """Return the program and machine code of an operator; for errors see `fmmloopy.showing.gpu_code.code_for`."""
        if operator not in self._codes:
            self._tell(f"compiling {operator}")
            program = compile_operator(self.setup.code_key(operator, GRADIENT if self.gradient else CHARGES))
            self._codes[operator] = program, code_for(program, self.card.architecture)
        return self._codes[operator]

    def unit_of(self, operator: str) -> tuple[str, float]:
        """Return the unit that limits the innermost loop of an operator, and seconds for each pair or operation.

        Raises:
            ValueError: the loop has no reciprocal root, or no arithmetic, so its rate is unknown.
        """
        (_, code), on_points = self.code(operator), OPERATORS[operator].particles is not None
        if not (code.pairs if on_points else code.flops):
            wanted = "reciprocal root for each pair" if on_points else "arithmetic"
            raise ValueError(f"{operator}: the innermost loop has no {wanted}, so no rate can be predicted")
        unit, rate = code.binding(self.card)
        return unit, 1 / rate if on_points else max(code.pairs, 1) / (rate * code.flops)

    def predict(self, tree: Tree, lists: InteractionLists, m2l: str) -> tuple[PredictedOperator, ...]:
        """Predict all operators that have work, with a form of M2L.

        Args:
            tree: the tree.
            lists: the lists that operators use.
            m2l: the form of M2L.
        """
        method = self.setup.method
        work = count_work(tree, lists, method, m2l, self.gradient)
        nbytes = count_bytes(tree, lists, method, m2l, self.gradient)
        found = []
        for name, amount in work.items():
            if amount.flops:
                (unit, seconds), held = self.unit_of(name), self.code(name)[1].occupancy
                computed = self._in_full_tiles(name, tree, lists)
                seconds *= computed or amount.flops
                warps = (held.warps, held.most_warps) if held else None
                memory = nbytes[name] / (self.card.bandwidth * 1e12)
                found.append(PredictedOperator(name, amount, computed, nbytes[name], unit, seconds, memory, warps))
        return tuple(found)

    def _in_full_tiles(self, operator: str, tree: Tree, lists: InteractionLists) -> int:
        """Return the pairs of points of all tiles of targets and sources; 0 for an operator without pairs of points."""
        record = self.setup.book.operator(operator)
        if record.particles is None:
            return 0
        lanes, npoints = dict(self.code(operator)[0].lanes), count_points(self.setup.method.order)

        def full(side: Side, counts: NDArray[np.int32], tile: int) -> NDArray[np.int64]:
            points = np.full(tree.nboxes, npoints) if side.is_surface else counts.astype(np.int64)
            return -(-points // tile) * tile

        particles = record.particles
        targets = full(particles.targets, tree.box_target_ends - tree.box_target_starts, lanes.get("tlanes", 1))
        sources = full(particles.sources, tree.box_source_ends - tree.box_source_starts, lanes.get("slanes", 1))
        if particles.list == "own":
            return int((targets * sources)[tree.is_leaf & (tree.box_levels >= FIRST_LEVEL)].sum())
        csr: CSR = getattr(lists, particles.list)
        if record.is_local and record.types_in(self.setup.method.precision).is_mixed and not particles.is_mutual:
            csr = replace_by_leaves(tree, csr)
        return int(np.repeat(targets, csr.lengths) @ sources[csr.lists])


def device_of(card: Card) -> Device:
    """Return a device for a card, for which code is generated; for errors see `device_for`."""
    device, share = device_for(card.architecture), card.units["FP64"] / card.units["FP32"]
    limits = gpu_limits(card.multiprocessors, 0, device.limits.most_groups, share)
    return replace(device, name=card.name, cores=card.multiprocessors, float64_share=share, limits=limits)


def predict_evaluation(
    card: Card,
    book: RecipeBook,
    points: int,
    distribution: str = "sphere",
    kernel: str = "laplace",
    digits: float | None = None,
    *,
    order: int | None = None,
    precision: str | None = None,
    ncrit: int | None = None,
    gradient: bool = False,
    parameters: Mapping[str, Mapping[str, Any]] | None = None,
    tell: Callable[[str], None] = lambda activity: None,
) -> Prediction:
    """Predict an evaluation on a card: order, precision, ncrit and the form of M2L are chosen as `Fmm` does.

    Times for the choice are those of this model, for all boxes, not those from rates that `Fmm` has measured.

    Args:
        card: the card.
        book: recipes for GPUs.
        points, distribution, kernel: the problem, as in `fmmloopy.measuring.timing.Setting`.
        digits, order, precision, ncrit: as for `fmmloopy.Fmm`.
        gradient: whether gradients are computed too.
        parameters: keyword arguments of the recipes by operator; the others have their defaults.
        tell: called with a description of the current activity.

    Raises:
        ValueError: an argument is invalid, or a kernel has no rate, see `CardModel.unit_of`.
        DeviceError: as `fmmloopy.showing.gpu_code.gpu_code`.
    """
    order = None if order is None else check_count(order, "order", FIRST_ORDER, LAST_ORDER)
    ncrit = None if ncrit is None else check_count(ncrit, "ncrit", 1)
    dtype = "float32" if precision == SINGLE.name else "float64"
    setting = Setting(points, distribution, order or FIRST_ORDER, dtype, kernel)
    precision = check_precision(precision, setting.precision.points)
    device = device_of(card)
    if not book.suits(device):
        raise ValueError(f"the book {book.name} is not for {card.name}; the book gpu is")
    tell("sorting points")
    in_order = sort_points(setting.make_points(), None, setting.precision.points)
    predictor = Predictor(setting.greens, in_order, ncrit or ncrit_for(FIRST_ORDER))
    accuracy = settle_accuracy(predictor, digits, order, precision, slow_float64=device.has_slow_float64)
    method = Method(setting.greens, accuracy.order, accuracy.precision)
    setup = Setup(method, book, device, parameters or {})
    model, grow = CardModel(card, setup, gradient, tell), grower(in_order, accuracy.precision)
    forms = ("fft",) if why_fft_alone(method, points) else ("fft", "svd")
    operators: dict[tuple[int, str], tuple[PredictedOperator, ...]] = {}

    def compare(ncrit: int) -> list[Candidate]:
        tell(f"counting work with ncrit {ncrit}")
        tree = grow(ncrit)
        lists = setup.near_lists(tree, build_lists(tree))
        for form in forms:
            operators[ncrit, form] = model.predict(tree, lists, form)
        seconds = {form: {each.operator: each.seconds for each in operators[ncrit, form]} for form in forms}
        return [Candidate(ncrit, form, tree.nboxes, seconds[form]) for form in forms]

    largest = largest_leaf(predictor, accuracy)
    candidates = compare(ncrit) if ncrit else search_ncrit(ncrit_for(accuracy.order), points, compare, largest)
    best = min(candidates, key=lambda candidate: (candidate.total, -candidate.ncrit))
    return Prediction(
        *(card, book.name, points, distribution, method, accuracy.digits, gradient, best, tuple(candidates)),
        operators=operators[best.ncrit, best.m2l],
    )
