"""The fast multipole method: an upward pass, a downward pass, and what surrounds them."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, NoReturn, SupportsIndex, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fmmloopy.accuracy import digits_for, order_for, precision_for
from fmmloopy.calibration import FEWEST_POINTS, calibrate, rates_keys, stored_rates
from fmmloopy.certificates import warn_if_uncertified
from fmmloopy.cost_model import Rates, choose, why_fft_alone
from fmmloopy.devices import Device, DeviceError, choose_device
from fmmloopy.greens import GreensFunction
from fmmloopy.inputs import (
    check_charges,
    check_choice,
    check_count,
    check_dtype,
    check_extent,
    check_kernel,
    check_parameters,
    check_points,
    check_precision,
    check_scaling,
    fits,
)
from fmmloopy.lists import build_lists
from fmmloopy.near_field import least_distance
from fmmloopy.plan import FIRST_LEVEL, M2L_OPERATORS, Plan, level_radii
from fmmloopy.plan_report import PlanReport, make_rows
from fmmloopy.precision import DTYPES, TYPES, Types, tables_dtype
from fmmloopy.progress import generating
from fmmloopy.recipes import RecipeBook, load_recipes
from fmmloopy.runtime import Launch, Runtime, make_runtime
from fmmloopy.small_boxes import absorb_small_boxes
from fmmloopy.surfaces import count_points
from fmmloopy.table_cache import cached_tables
from fmmloopy.tree import DEEPEST_LEVEL, SortedPoints, Tree, grow_tree, sort_points
from fmmloopy.tuned import tuned_parameters
from fmmloopy.work import count_work


def upward_pass(plan: Plan) -> None:
    """Gather charges into multipoles, from the leaves to the root (Ying, Biros & Zorin 2004, section 3.2)."""
    plan.clear_checks()
    plan.p2m()
    plan.upward_equivalent()
    for level in reversed(range(FIRST_LEVEL, plan.nlevels - 1)):
        plan.m2m(level)


def downward_pass(plan: Plan, m2l: str) -> None:
    """Spread multipoles into locals, from the root to the leaves."""
    plan.clear_checks()
    plan.m2l(m2l)
    plan.p2l()
    plan.downward_equivalent()
    for level in range(FIRST_LEVEL, plan.nlevels - 1):
        plan.l2l(level)


def potential_pass(plan: Plan, gradient: bool) -> None:
    """Add up what reaches the targets: locals, multipoles of W lists, charges of U lists."""
    plan.clear_potentials(gradient)
    plan.l2p(gradient)
    plan.m2p(gradient)
    plan.p2p(gradient)


class Fmm:
    """Potentials of many charges, in time proportional to their number.

    Computes f(x_i) = sum over j of G(x_i - y_j) q_j; pairs at distance zero contribute nothing. Building it makes the
    tree, the interaction lists and the code; `evaluate` can then be called for any number of charges.

    Args:
        sources: shape (nsources, 3), points of the charges, in any unit.
        targets: shape (ntargets, 3), points where potentials are wanted; None for the sources themselves.
        kernel: the Green's function.
        digits: wanted accuracy: relative error of the potentials in the 2-norm below 10^-digits, as measured for
            charges of both signs; decides ``order`` and ``precision``, and is passed over if ``order`` is given.
            Gradients of such charges err up to ten times as much. None for 6, or 5 in single precision, whose rounding
            leaves 1e-6.
        device: what to run on: part of a device's description, ``"c"``, or None for the best that is found.
        recipes: a recipe book, its name or the path of its file; None for the one that suits the device.
        dtype: of charges and potentials, numpy.float32 or numpy.float64; None for that of the sources.
        order: points per edge of the surfaces, 2 to 16, in place of what ``digits`` picks.
        ncrit: most sources, and most targets, in a leaf. None for the one that is predicted to be the fastest, by rates
            that are kept in the cache folder. Where there are none yet, probes are run for a few seconds, or, for less
            than 4096 points, 25 times the order is taken. Results with another ncrit differ by less than the error.
        precision: what to work in. ``"double"``: float64. ``"mixed"``: pairs of near points, and transforms and
            products of M2L's FFT form, in float32, the rest in float64; its rounding leaves a relative error of 3e-7 in
            the 2-norm. ``"reduced"``: expansions in float32 too, which leaves 1.6e-6. In both, points stay in float64,
            and so do near pairs where some are too near for float32. ``"single"``: all in float32, points rounded to
            it, to 6e-8 of their extent, whatever distance that leaves between near ones. None for reduced or mixed
            where ``digits`` allow three times that error, that is for up to 5 and 6; else, or with ``order``, for
            double; and for single where dtype is float32.
        m2l: ``"fft"``; ``"svd"``, compressed by singular values below the error of the order, faster where boxes have
            few neighbours, as on surfaces; or ``"dense"``, the reference for both. None for ``"fft"`` or ``"svd"``,
            whichever is predicted to be faster; for ``"fft"`` without a comparison at orders above 8, for less than
            100,000 points, and for functions that are not homogeneous functions of the distance alone.
        parameters: tuning parameters by operator and keyword; for operators that are not given, what `fmmloopy tune`
            has stored for the device, else the recipes' defaults.
        runtime: an open device, from `fmmloopy.runtime.make_runtime`, in place of ``device``: evaluations that share it
            share the programs that are built for it. None to open the device.

    Attributes:
        tree, lists: the octree and its interaction lists.
        order, ncrit, dtype, precision, device, recipes, m2l, parameters: what was chosen.
        timings: seconds by stage (tree, choice, lists, tables, setup, evaluate), of the construction and of the last
            evaluation, and by operator (p2p, p2m ..., clear), of the last evaluation, as the device's clock has them.
            The tree is made with the choice where several are compared.

    Raises:
        ValueError: an argument that cannot be used; the text says what is expected.
        DeviceError: no such device, or not enough memory on it.
        RecipeError: no such recipe book, or a recipe that fails.

    Warns:
        UncertifiedWarning: the recipes have not passed `fmmloopy check` on this device, or have changed since.
    """

    def __init__(
        self,
        sources: ArrayLike,
        targets: ArrayLike | None = None,
        kernel: GreensFunction | None = None,
        digits: float | None = None,
        device: str | Device | None = None,
        recipes: str | Path | RecipeBook | None = None,
        dtype: DTypeLike | None = None,
        *,
        order: int | None = None,
        ncrit: int | None = None,
        precision: str | None = None,
        m2l: str | None = None,
        parameters: Mapping[str, Mapping[str, Any]] | None = None,
        runtime: Runtime | None = None,
    ) -> None:
        self.timings: dict[str, float] = {}
        self._evaluated_gradient = False
        self._known_rates: dict[str, Rates] = {}
        self.kernel = check_kernel(kernel)
        self.dtype = check_dtype(dtype, sources)
        points = check_points(sources, "sources")
        others = None if targets is None else check_points(targets, "targets")
        m2l = None if m2l is None else check_choice(m2l, "m2l", tuple(M2L_OPERATORS))
        ncrit = None if ncrit is None else check_count(ncrit, "ncrit", 1)
        self._settle_accuracy(digits, order, check_precision(precision, self.dtype))
        if runtime is not None and device is not None:
            raise ValueError(f"device {device!r} and a runtime are given, expected one of them; leave out device")
        self.device = choose_device(device) if runtime is None else runtime.device
        if self.device.kind == "c" and device is None and runtime is None:
            warnings.warn(
                "no OpenCL device was found: running sequentially through the C compiler; "
                "`pip install pyopencl[pocl]` gives a device that runs on any processor",
                stacklevel=2,
            )
        if self._types.points == np.float64 and not self.device.has_float64:
            raise DeviceError(f"{self.device.name} has no double precision; use precision='single' or numpy.float32")
        self.recipes = load_recipes(recipes, self.device.description)
        check_parameters(parameters or {}, self.recipes)
        self._runtime = runtime or make_runtime(self.device)

        with _timed(self.timings, "tree"):
            sorted_points = sort_points(points, others, self._types.points)
            self._settle_precision(sorted_points.half_width, precision is not None)
            # Boxes around coincident points would only cost digits of gradients, whose errors are those of potentials
            # over the size of the box; and in float32 centres of boxes are exact down to level 15.
            deepest = 15 if self._types.points == np.float32 else DEEPEST_LEVEL
            grow = partial(grow_tree, sorted_points, max_level=deepest, split_coincident=False)
        tuned = tuned_parameters(self.recipes, self.device, DTYPES[self.precision], self.order)
        self.parameters = {**tuned, **(parameters or {})}
        warn_if_uncertified(self.recipes, self.device, DTYPES[self.precision], self.parameters)
        with _timed(self.timings, "choice"):
            tree = self._choose(grow, sorted_points.most, ncrit, m2l)
        with _timed(self.timings, "tree"):
            self.tree = tree or grow(self.ncrit)
        with _timed(self.timings, "lists"):
            self.lists = absorb_small_boxes(self.tree, build_lists(self.tree), count_points(self.order))
        with _timed(self.timings, "tables"):
            self.tables = cached_tables(
                self.kernel, self.order, level_radii(self.tree), tables_dtype(DTYPES[self.precision])
            )
        with _timed(self.timings, "setup"):
            self._set_up(sorted_points)

    # -- the stages of the construction

    def _settle_accuracy(self, digits: float | None, order: int | None, precision: str | None) -> None:
        """Set order and precision, from the digits or as given."""
        if order is None:
            self.order = order_for(self.kernel, digits, precision or "double")
            self.precision = precision or precision_for(self.kernel, digits)
        else:
            self.order, self.precision = check_count(order, "order", 2, 16), precision or "double"
        self._digits = None if order is not None else digits_for(digits, self.precision)

    def _settle_precision(self, half_width: float, is_given: bool) -> None:
        """Make sure that powers of distances in the tree fit the precision, or take one that they do."""
        if not is_given and self.precision != "single" and not fits(half_width, self.kernel, self._types.spectra):
            self.precision = "double"
        check_extent(half_width, self._types.spectra)
        check_scaling(self.kernel, self._types.spectra)

    @property
    def _types(self) -> Types:
        """What the numbers of an evaluation are in."""
        return TYPES[DTYPES[self.precision]]

    def _choose(self, grow: Callable[[int], Tree], most: int, ncrit: int | None, m2l: str | None) -> Tree | None:
        """Set ncrit and the form of M2L; return the tree for them, if it was made to choose."""
        self._most = most
        self._fft_alone = None if m2l else why_fft_alone(self.kernel, self.order, most)
        forms = (m2l,) if m2l else ("fft",) if self._fft_alone else ("fft", "svd")
        rates_of = partial(self._rates, measure=most >= FEWEST_POINTS)
        expansions = self._types.expansions
        self._choice, tree = choose(grow, most, self.order, self.kernel, expansions, rates_of, forms, ncrit)
        self.ncrit, self.m2l = self._choice.ncrit, self._choice.m2l
        return tree

    def _set_up(self, points: SortedPoints) -> None:
        """Bind all launches of an evaluation without gradients to what is uploaded for it."""
        data, dtype = (self.tree, self.lists, self.tables), DTYPES[self.precision]
        distance = least_distance(points, self.tree) if self._types.near != self._types.points else None
        self._plan = Plan(self._runtime, *data, self.kernel, dtype, self.recipes, self.parameters, distance)
        upward, downward, last = self._record(
            upward_pass, lambda plan: downward_pass(plan, self.m2l), lambda plan: potential_pass(plan, False)
        )
        self._passes, self._last = (*upward, *downward), {False: last}
        self._target_places = np.empty_like(self.tree.target_order)
        self._target_places[self.tree.target_order] = np.arange(self.tree.ntargets)

    # -- evaluating

    @overload
    def evaluate(self, charges: ArrayLike, gradient: Literal[False] = False) -> NDArray[Any]: ...

    @overload
    def evaluate(self, charges: ArrayLike, gradient: Literal[True]) -> tuple[NDArray[Any], NDArray[Any]]: ...

    def evaluate(self, charges: ArrayLike, gradient: bool = False) -> NDArray[Any] | tuple[NDArray[Any], NDArray[Any]]:
        """Compute potentials, in the order of the targets.

        Args:
            charges: shape (nsources,), or (nsources, components) for a Green's function with several.
            gradient: whether the gradient with respect to the target is wanted too.

        Returns:
            Potentials, shape (ntargets,) or (ntargets, components). With ``gradient``, also the gradients, shape
            (ntargets, 3) or (ntargets, components, 3).

        Raises:
            ValueError: charges of a wrong shape or type, or not finite.
        """
        rows, columns = self.kernel.ntarget_components, self.kernel.nsource_components
        values = check_charges(charges, self.tree.nsources, columns, self.dtype)
        if gradient not in self._last:
            (self._last[gradient],) = self._record(lambda plan: potential_pass(plan, gradient))
        start = time.perf_counter()
        # Permuted by reading in a random order: writing in one takes longer. No index is out of range to be clipped.
        self._plan.write_charges(values.take(self.tree.source_order, axis=1, mode="clip"))
        seconds = self._plan.run((*self._passes, *self._last[gradient]))
        found = self._plan.read_potentials(gradient).take(self._target_places, axis=1, mode="clip")
        result = found.astype(self.dtype, copy=False)
        self.timings.update(seconds)
        self._evaluated_gradient = gradient
        self.timings["evaluate"] = time.perf_counter() - start
        potentials = result[0] if rows == 1 else result[:rows].T.copy()
        if not gradient:
            return potentials
        gradients = np.moveaxis(result[rows:].reshape(rows, 3, -1), -1, 0).copy()
        return (potentials.copy(), gradients[:, 0]) if rows == 1 else (potentials, gradients)

    def __repr__(self) -> str:
        tree, digits = self.tree, "" if self._digits is None else f" for {self._digits:g} digits"
        return (
            f"<Fmm: {tree.nsources:,} sources, {tree.ntargets:,} targets, {self.kernel.name}, "
            f"order {self.order}{digits}, {self.precision} precision, ncrit {self.ncrit}, M2L {self.m2l}, "
            f"{self.recipes.name} on {self.device.name}>"
        )

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError(
            "an Fmm holds memory and programs of a device, and cannot be pickled or copied: send the points, and build "
            "it in the process that uses it"
        )

    def plan_report(self) -> PlanReport:
        """Say what was chosen and why, and what was predicted against what the last evaluation took."""
        rates = self._rates(self.m2l, measure=False)
        work = count_work(self.tree, self.lists, self.order, self.kernel, self.m2l, dtype=self._types.expansions)
        return PlanReport(
            nsources=self.tree.nsources,
            ntargets=self.tree.ntargets,
            digits=self._digits,
            order=self.order,
            choice=self._choice,
            fft_alone=self._fft_alone,
            precision=self.precision,
            book=self.recipes.name,
            device=self.device.description,
            rates=rates is not None,
            rows=make_rows(work, rates, self.timings),
            gradient=self._evaluated_gradient,
            evaluate=self.timings.get("evaluate"),
        )

    def _rates(self, form: str, measure: bool) -> Rates | None:
        """Return the rates that are kept for a form of M2L, or else those of evaluations of small problems.

        Those of other forms are put beside those of the FFT form, if there are some: predictions differ by M2L alone.
        What has been found once is used for good, whatever becomes of the cache folder.
        """
        if form in self._known_rates:
            return self._known_rates[form]
        kernel, order, precision, book = self.kernel, self.order, self.precision, self.recipes

        def build(points: NDArray[np.float64], ncrit: int) -> Fmm:
            options: dict[str, Any] = {"ncrit": ncrit, "m2l": form, "parameters": self.parameters}
            options |= {"order": order, "precision": precision, "runtime": self._runtime}
            return Fmm(points, kernel=kernel, recipes=book, dtype=self.dtype, **options)

        key = self._keys[form]
        # The tables of the dense form are too large to be made for probes.
        rates = calibrate(key, build, self._most) if measure and form != "dense" else stored_rates(key)
        shared = self._rates("fft", measure=False) if rates and form != "fft" else None
        rates = rates.beside(shared) if rates and shared else rates
        if rates:
            self._known_rates[form] = rates
        return rates

    @cached_property
    def _keys(self) -> dict[str, str]:
        """Keys of the rates with each form of M2L."""
        dtype = DTYPES[self.precision]
        return rates_keys(self.kernel, self.order, dtype, self.recipes, self.device, self.parameters, self._most)

    def _record(self, *passes: Callable[[Plan], None]) -> list[tuple[Launch, ...]]:
        """Record the launches of passes; the first time, this generates and compiles code."""
        with generating(f"{self.device.name}, {self.recipes.name}") as notify:
            return [self._plan.record(each, notify) for each in passes]


class _timed:
    """Add the seconds that a block takes to a dictionary."""

    def __init__(self, timings: dict[str, float], name: str) -> None:
        self._timings, self._name = timings, name

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._timings[self._name] = self._timings.get(self._name, 0.0) + time.perf_counter() - self._start
