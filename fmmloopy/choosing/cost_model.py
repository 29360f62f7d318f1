"""Predict the times of the operators for an ncrit before anything is built for it, and find the best ncrit.

Seconds of an operator = work x (seconds per pair or operation) + blocks x (seconds per block), with the counts of
`fmmloopy.choosing.work`; the two rates come from measurements (`fmmloopy.choosing.calibration`). Work is counted on the
actual tree of a candidate, which is cheap because the points are already sorted. Interaction lists cost more, so they
are built only for the children of a sample of boxes, which are weighted by the number of boxes that they represent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fmmloopy.accuracy import ncrit_for
from fmmloopy.choosing.work import Work, count_m2l, count_without_m2l
from fmmloopy.common.cores import map_on_cores
from fmmloopy.execution.setup import Method, Setup
from fmmloopy.octree.lists import build_lists
from fmmloopy.octree.tree import Tree
from fmmloopy.operators import OPERATORS
from fmmloopy.tables.svd import is_radial

SAMPLE = 192
"""Number of split boxes whose children have lists: enough for the sum over all operators to be close to that with all
lists, see docs/measurements/constants.csv."""

SVD_ORDER = 8
"""The highest order at which M2L's compressed form is compared: its advantage on the sphere decreases with the order,
and is almost gone at this one (docs/measurements/constants.csv)."""

SVD_POINTS = 100_000
"""Fewest points for which it is compared: with fewer, an evaluation gains less than the comparison takes
(docs/measurements/constants.csv)."""


class UnknownRate(LookupError):
    """There is no rate for an operator."""


SHARE_OF_A_VECTOR = 0.1
"""What each further vector of charges adds to the time of operators on points: a product and a sum for each pair, of
the 12 operations that Laplace's function takes."""


@dataclass(frozen=True)
class Rates:
    """Rates of operators: seconds per unit of work.

    Attributes:
        per_unit: by operator, seconds per pair of points, or per floating-point operation if there are no pairs; and
            seconds per block.
    """

    per_unit: Mapping[str, tuple[float, float]]

    def seconds(self, work: Mapping[str, Work]) -> dict[str, float]:
        """Predict seconds of every operator that has work.

        Raises:
            UnknownRate: there are no rates for one of them.
        """
        return {name: self.seconds_of(name, amount) for name, amount in work.items() if amount.flops}

    def seconds_of(self, operator: str, work: Work) -> float:
        """Predict seconds of one operator.

        Raises:
            UnknownRate: there are no rates for it.
        """
        rate = self.per_unit.get(operator) or (
            self.per_unit.get(OPERATORS[operator].timed_like) if operator in OPERATORS else None
        )
        if rate is None:
            raise UnknownRate(operator)
        unit, block = rate
        return unit * (work.pairs or work.flops) + block * work.blocks

    def for_vectors(self, count: int) -> Rates:
        """Return rates for several vectors of charges at once: operators on points share pairs, others repeat all."""

        def factor(name: str) -> float:
            shares = name in OPERATORS and OPERATORS[name].particles
            return 1 + SHARE_OF_A_VECTOR * (count - 1) if shares else count

        return Rates(
            {name: (unit * factor(name), block * factor(name)) for name, (unit, block) in self.per_unit.items()}
        )

    def beside(self, others: Rates) -> Rates:
        """Return these rates as if they had been measured together with others, so that predictions are comparable.

        Operators in both get the others' rates. All other rates are scaled by the median ratio of these, since a device
        that was busy during one measurement was slow for all operators.
        """
        shared = self.per_unit.keys() & others.per_unit.keys()
        units = [(others.per_unit[name][0], self.per_unit[name][0]) for name in shared]
        ratios = [theirs / own for theirs, own in units if theirs and own]
        factor = float(np.median(ratios)) if ratios else 1.0
        scaled = {name: (unit * factor, block * factor) for name, (unit, block) in self.per_unit.items()}
        return Rates({**scaled, **others.per_unit})


def why_fft_alone(method: Method, most: int) -> str | None:
    """Return why M2L's compressed form need not be compared with the FFT form; None if it should be.

    Args:
        method: Green's function and order.
        most: number of sources or targets, whichever is larger.
    """
    if method.order > SVD_ORDER:
        return f"svd is compared up to order {SVD_ORDER}"
    if most < SVD_POINTS:
        return f"svd is compared for {SVD_POINTS:,} points or more"
    if method.translations.homogeneity is None or not is_radial(method.translations):
        return "svd is compared only for homogeneous functions of the distance, which need 16 matrices"
    return None


@dataclass(frozen=True)
class Measurement:
    """Work and times of operators in one evaluation.

    Attributes:
        work, seconds: by operator.
    """

    work: Mapping[str, Work]
    seconds: Mapping[str, float]


def fit_rates(measurements: Sequence[Measurement], blocks: Mapping[str, float] | None = None) -> Rates:
    """Fit rates to measurements: least squares of the relative deviations, with no negative rates.

    Args:
        measurements: of one evaluation or more.
        blocks: how many units of its work a block of each operator takes, which leaves one rate to fit; None to fit
            both.
    """
    per_unit = {}
    for name in sorted({name for m in measurements for name in m.work}):
        timed = [(m.work[name], m.seconds[name]) for m in measurements if m.seconds.get(name) and m.work[name].flops]
        if not timed:
            continue
        terms = np.array([(work.pairs or work.flops, work.blocks) for work, _ in timed], np.float64)
        seconds = np.array([seconds for _, seconds in timed])
        if blocks is None:
            unit, block = _fit_two(terms, seconds)
        else:
            per_second = terms @ (1.0, blocks.get(name, 0.0)) / seconds
            unit = per_second.sum() / (per_second @ per_second)
            block = unit * blocks.get(name, 0.0)
        per_unit[name] = (float(unit), float(block))
    return Rates(per_unit)


def _fit_two(terms: NDArray[np.float64], seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fit what a unit of work and a block take to terms of shape (n, 2), and seconds of shape (n,)."""
    from scipy.optimize import nnls  # takes a quarter of a second to import

    sizes = np.maximum(terms.max(axis=0), 1.0)  # columns of size one: the solver's threshold is absolute
    solution, _ = nnls(terms / sizes / seconds[:, None], np.ones(len(seconds)))
    fitted: NDArray[np.float64] = solution / sizes
    return fitted


@dataclass(frozen=True)
class Candidate:
    """The prediction for one ncrit and form of M2L.

    Attributes:
        ncrit, m2l: the ncrit and the form.
        nboxes: boxes of its tree.
        seconds: predicted, by operator.
    """

    ncrit: int
    m2l: str
    nboxes: int
    seconds: Mapping[str, float]

    @cached_property
    def total(self) -> float:
        """Predicted seconds of all operators."""
        return sum(self.seconds.values())

    @property
    def is_near_heavy(self) -> bool:
        """Whether P2P takes longer than the operators whose work would grow with a smaller ncrit."""
        near = {name for name in self.seconds if OPERATORS[name].is_near}
        same = {name for name in self.seconds if not OPERATORS[name].depends_on_ncrit}
        rest = sum(seconds for name, seconds in self.seconds.items() if name not in near | same)
        return sum(self.seconds[name] for name in near) > rest


def estimate_work(tree: Tree, setup: Setup, forms: Sequence[str], sample: int = SAMPLE) -> list[dict[str, Work]]:
    """Estimate the work of every operator from the lists of a few boxes.

    Args:
        tree: the octree.
        setup: Green's function, order and precision; and whether pairs of leaves are evaluated for both at once.
        forms: forms of M2L.
        sample: number of split boxes whose children have lists; if the tree has no more, the work is exact.

    Returns:
        Work as from `fmmloopy.choosing.work.count_work`, for each form.
    """
    parents, weights = sample_boxes(tree, sample)
    lists, method = setup.near_lists(tree, build_lists(tree, parents)), setup.method
    shared = count_without_m2l(tree, lists, method, weights=weights)
    return [shared | count_m2l(tree, lists, method, form, weights) for form in forms]


def sample_boxes(tree: Tree, sample: int) -> tuple[NDArray[np.int64] | None, NDArray[np.float64] | None]:
    """Choose a sample of split boxes, the same each time, spread evenly over the tree's order.

    Only boxes with targets have lists, so these are preferred: of the probability, one half is uniform over them, which
    suits the work of boxes, 0.4 is proportional to the targets in their leaves, which suits the work of points, and the
    rest is uniform over all boxes. The weights of boxes with targets, and of those without, sum to their numbers.

    Returns:
        Their numbers, and shape (nboxes,): how many split boxes each represents, 0 if it was not chosen. (None, None)
        if the tree has no more split boxes than the sample.
    """
    split = np.flatnonzero(~tree.is_leaf)
    if split.size <= sample:
        return None, None
    leaves = np.flatnonzero(tree.is_leaf)
    ntargets = tree.box_target_ends - tree.box_target_starts
    in_leaves = np.bincount(tree.box_parents[leaves], ntargets[leaves], tree.nboxes)[split]
    receive = ntargets[split] > 0
    chances = 0.1 / split.size + 0.5 * receive / receive.sum() + 0.4 * in_leaves / in_leaves.sum()
    edges = np.cumsum(chances)
    hits = np.searchsorted(edges, (np.arange(sample) + 0.5) / sample * edges[-1])
    chosen, times = np.unique(hits, return_counts=True)
    weights = np.zeros(tree.nboxes)
    weights[split[chosen]] = times / (sample * chances[chosen])
    for part in (split[receive], split[~receive]):
        if weights[part].any():
            weights[part] *= part.size / weights[part].sum()
    return split[chosen], weights


def search_ncrit(
    start: int, most: int, predict: Callable[[int], Sequence[Candidate]], largest: int | None = None
) -> list[Candidate]:
    """Search for the ncrit with the lowest predicted time: by factors of two, then of the square root of two.

    The search goes up if P2P takes less time than the rest, and down otherwise, until the time increases or the tree
    stays the same.

    Args:
        start: the first ncrit to try.
        most: the search stops at the first ncrit that puts this many points into one box.
        predict: predicts for an ncrit, with each form of M2L.
        largest: the largest ncrit to try; None for any.

    Returns:
        All candidates that were tried, in the order of ncrit.
    """
    tried: dict[int, Sequence[Candidate]] = {}

    def best_of(ncrit: int) -> Candidate:
        ncrit = ncrit if largest is None else min(ncrit, largest)
        if ncrit not in tried:
            tried[ncrit] = predict(ncrit)
        return min(tried[ncrit], key=lambda candidate: candidate.total)

    best = best_of(start)
    factor = 0.5 if best.is_near_heavy else 2.0
    while 2 <= best.ncrit < most:
        following = best_of(round(best.ncrit * factor))
        if following.total > best.total or following.nboxes == best.nboxes:
            break
        best = following
    if 2 <= best.ncrit < most:
        map_on_cores(best_of, [round(best.ncrit * factor) for factor in (0.5**0.5, 2.0**0.5)])
    return [candidate for ncrit in sorted(tried) for candidate in tried[ncrit]]


@dataclass(frozen=True)
class Choice:
    """The choice, and the candidates.

    Attributes:
        ncrit, m2l: the choice.
        reason: the reason, in words.
        candidates: all that were compared, in the order of ncrit; empty if nothing was compared.
    """

    ncrit: int
    m2l: str
    reason: str
    candidates: tuple[Candidate, ...] = ()

    @property
    def best(self) -> Candidate:
        """The candidate that was chosen."""
        return next(each for each in self.candidates if (each.ncrit, each.m2l) == (self.ncrit, self.m2l))


def choose(
    grow: Callable[[int], Tree],
    most: int,
    setup: Setup,
    rates_of: Callable[[str], Rates | None],
    forms: Sequence[str],
    ncrit: int | None,
    largest: int | None = None,
) -> tuple[Choice, Tree | None]:
    """Choose ncrit and the form of M2L, unless they are given, by the fastest prediction.

    Args:
        grow: builds the tree for an ncrit.
        most: number of sources or targets, whichever is larger.
        setup: the method, recipes and device.
        rates_of: returns the rates with a form of M2L, None if there are none; not called if both are given.
        forms: forms of M2L to choose from; the first is used if there are no rates for it, others only if there are.
        ncrit: None to choose it.
        largest: the largest ncrit to choose; None for any.

    Returns:
        The choice; and the tree for it, if it was built for the comparison.
    """
    if ncrit is not None and len(forms) == 1:
        return Choice(ncrit, forms[0], "as given"), None
    first = rates_of(forms[0])
    rates = {forms[0]: first} if first else {}
    if first:
        rates |= {form: found for form in forms[1:] if (found := rates_of(form))}
    trees: dict[int, Tree] = {}
    predicted: dict[int, list[Candidate]] = {}

    def predict(ncrit: int) -> list[Candidate]:
        tree = grow(ncrit)
        for other in list(predicted):
            if trees[other].has_boxes_of(tree):
                trees[ncrit] = trees[other]
                return [replace(candidate, ncrit=ncrit) for candidate in predicted[other]]
        found, known = [], dict(rates)
        for (form, of_form), work in zip(known.items(), estimate_work(tree, setup, list(known)), strict=True):
            try:
                found.append(Candidate(ncrit, form, tree.nboxes, of_form.seconds(work)))
            except UnknownRate:  # the probes had no work for this operator
                if form == forms[0]:
                    raise
                rates.pop(form, None)
        trees[ncrit], predicted[ncrit] = tree, found
        return found

    rule, missing = ncrit_for(setup.method.order), "rates"
    if rates:
        try:
            candidates = predict(ncrit) if ncrit is not None else search_ncrit(rule, most, predict, largest)
            best = min(candidates, key=lambda candidate: (candidate.total, -candidate.ncrit))
            reason = "predicted to be the fastest" if ncrit is None else "ncrit as given, M2L predicted to be faster"
            for form in (form for form in rates if form != best.m2l):
                other = min((c for c in candidates if c.m2l == form), key=lambda candidate: candidate.total)
                reason += f"; {form} with ncrit {other.ncrit}, {other.total / best.total:.2f} times as long"
            return Choice(best.ncrit, best.m2l, reason, tuple(candidates)), trees[best.ncrit]
        except UnknownRate as error:
            missing = f"rate of {error}"
    if ncrit is not None:
        return Choice(ncrit, forms[0], "ncrit as given"), None
    be = "are" if missing == "rates" else "is"
    reason = f"the rule of 25 x order, as no {missing} of this device with M2L in this form {be} known"
    return Choice(rule, forms[0], reason), None
