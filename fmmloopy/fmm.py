"""The fast multipole method: potentials of many charges, in time proportional to their number.

The upward and downward passes are in :mod:`fmmloopy.execution.passes`.
"""

from __future__ import annotations

import math
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, SupportsIndex, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fmmloopy.accuracy import (
    Estimate,
    digits_from,
    estimate,
    largest_leaf,
    ncrit_for,
    settle_accuracy,
    table_for,
)
from fmmloopy.adjoint import transposed
from fmmloopy.bookshelf.certificates import warn_if_uncertified
from fmmloopy.bookshelf.tuned import tuned_parameters
from fmmloopy.choosing.calibration import FEWEST_POINTS, KnownRates
from fmmloopy.choosing.decision import Decision, decide
from fmmloopy.choosing.report import KernelRow, PlanReport, make_rows
from fmmloopy.choosing.root_size import check_width, faster_in_wider_root, width_to_try
from fmmloopy.choosing.work import count_work
from fmmloopy.common.arguments import check_count
from fmmloopy.common.bundle import Bundle, open_bundle
from fmmloopy.common.exchange import like, on_host, write_out
from fmmloopy.common.messages import counted
from fmmloopy.common.range import shift, shift_back
from fmmloopy.common.sizes import FIRST_ORDER, LAST_ORDER
from fmmloopy.common.turns import BUILDING, Turn
from fmmloopy.components import CHARGES, Components, by_vector, in_rows
from fmmloopy.direct import sum_vectors
from fmmloopy.execution.bundled import what_it_lacks
from fmmloopy.execution.devices import Device, DeviceError, choose_device, missing_devices
from fmmloopy.execution.evaluation import MOST_VECTORS, Evaluation, Timings, grower, timed
from fmmloopy.execution.key import CodeKey
from fmmloopy.execution.launch import CompiledOperator
from fmmloopy.execution.part import Result
from fmmloopy.execution.runtime import Runtime, make_runtime
from fmmloopy.execution.setup import Method, Setup
from fmmloopy.greens import GreensFunction
from fmmloopy.inputs import (
    check_box_width,
    check_choice,
    check_dtype,
    check_extent,
    check_kernel,
    check_parameters,
    check_points,
    check_precision,
    check_scaling,
    fits,
    rounding_change,
    warn_if_rounded,
)
from fmmloopy.limits import is_finite_at_zero, value_at_zero
from fmmloopy.octree.coincident import find_coincident
from fmmloopy.octree.lists import InteractionLists
from fmmloopy.octree.tree import SortedPoints, Tree, sort_points
from fmmloopy.operators import M2L_FORMS
from fmmloopy.precision import DOUBLE, SINGLE, Precision
from fmmloopy.prediction.predict import Predictor, UnpredictableError, of_dipoles
from fmmloopy.recipes.book import RecipeBook
from fmmloopy.recipes.load import load_recipes
from fmmloopy.vectors import Vectors, read_vectors, write_results

if TYPE_CHECKING:
    from fmmloopy.checking.background import BackgroundProofs
    from fmmloopy.linear import EvaluationOperator

WHEN_TO_CERTIFY = ("warn", "first-use", "require")
"""Values of ``certify=``."""


class Fmm:
    """Potentials of many charges, in time proportional to their number.

    Computes f(x_i) = sum over j of G(x_i - y_j) q_j. The constructor builds the tree, the interaction lists and the
    code; `evaluate` can then be called with any number of charge vectors.

    Without targets, a source does not act on itself. Other points in the same place, and all targets that are given,
    even as the same array, see its G(0) if the function is finite at zero, as Plummer's and Gaussian functions are, and
    nothing if it is not.

    Threads may share an `Fmm`: they evaluate one after the other. Processes cannot: it does not work in a process that
    was forked after OpenCL was used, and it cannot be pickled or copied.

    Args:
        sources: shape (nsources, 3), positions of the charges, in any unit.
        targets: shape (ntargets, 3), points where potentials are wanted; None for the sources themselves.
        kernel: the Green's function.
        digits: wanted accuracy: relative error of the potentials in the 2-norm below 10^-digits, as measured for
            charges of both signs. It determines ``order`` and ``precision``, and is ignored if ``order`` is given.
            Errors of the gradients of such charges are up to ten times larger. None means 6, or 5 in single precision,
            where rounding alone leaves an error of 1e-6. Errors of Laplace's and Yukawa's functions are in a table. For
            others, and where targets have no sources nearby, they are predicted from chains of translations, to about a
            factor of 3; measuring these takes seconds once.
        device: the device to run on: part of its description, ``"c"``, or None for the best one found.
        recipes: a recipe book, its name or the path of its file; None for the one that suits the device.
        dtype: type of charges and potentials, numpy.float32 or numpy.float64; None for that of the sources.
        order: points per edge of the surfaces, 2 to 16; overrides ``digits``.
        ncrit: maximum number of sources, and of targets, in a leaf. None for the value that is predicted to be fastest
            from rates in the cache folder. If there are none yet, they are measured in a few seconds; for fewer than
            4096 points, ncrit is 25 times the order instead. Results with another ncrit differ by less than the error.
        precision: the working precision. ``"double"``: float64. ``"mixed"``: near pairs, and the transforms and
            products of M2L's FFT form, in float32, the rest in float64; rounding leaves a relative error of 3e-7 in
            the 2-norm. ``"reduced"``: expansions in float32 too, which leaves 1.6e-6. In both, points stay in float64,
            and near pairs too where some points are too close together for float32. ``"single"``: everything in
            float32; points are rounded to 6e-8 of their extent, even where close points then move relative to each
            other or coincide. None chooses reduced or mixed where ``digits`` allows three times that error, which
            holds for up to 5 and 6 digits; otherwise, or if ``order`` is given, double; and single if dtype is float32.
        m2l: ``"fft"``; ``"svd"``, which drops singular values below the error of the order and is faster where boxes
            have few neighbours, as on surfaces; or ``"dense"``, the reference for both. None chooses ``"fft"`` or
            ``"svd"``, whichever is predicted to be faster; it chooses ``"fft"`` without a comparison at orders above 8,
            for fewer than 100,000 points, and for functions that are not homogeneous functions of the distance alone.
        parameters: tuning parameters by operator and keyword. Operators that are not given use what `fmmloopy tune`
            stored for the device, or else the recipes' defaults.
        runtime: an open device, from `fmmloopy.execution.runtime.make_runtime`, instead of ``device``; evaluations
            that share a runtime share the programs built for it. None to open the device.
        certify: ``"warn"`` warns if recipes have not passed `fmmloopy check`. ``"first-use"`` validates every kernel
            before it runs for the first time: it is proved to do what the sequential kernel does for all sizes, or else
            tested, and the result is stored; this takes seconds for each new kernel. ``"require"`` runs only kernels
            that are proved or tested already. `plan_report` lists what is known of each kernel.
        eps: the wanted relative error instead of ``digits``: 1e-6 is the same as ``digits=6``.
        vectors: how many vectors of charges will be evaluated at once, for the choice of ncrit: many vectors need
            larger leaves. Any number can be evaluated, whatever it is.
        root_width: how many times as wide as the points the root cube is, 1 to 2; None to choose, which is 1 unless
            points fill their cube evenly: between the leaves of two trees is a factor of eight then, see
            `fmmloopy.choosing.root_size`.
        bundle: a file of `fmmloopy bundle`, with code, programs, tables, rates and certificates: with it, a process
            whose caches are empty generates, compiles and measures nothing. A bundle is a program: use those that you
            trust.
        devices: several devices, in place of ``device``, or ``"all"``: the points are divided among them, see
            `fmmloopy.several.devices.ManyDevices`.
        comm: a communicator of mpi4py. Each process gives its share of the points, and gets their potentials, see
            `fmmloopy.several.processes.PartFmm`.

    Attributes:
        tree, lists: the octree and its interaction lists.
        order, ncrit, dtype, precision, device, recipes, m2l, parameters: what was chosen.
        timings: seconds by stage (tree, choice, lists, tables, setup, evaluate) for the construction and the last
            evaluation, and by operator (p2p, p2m ..., clear) for the last evaluation, by the device's clock. If several
            trees are compared, the time to build them counts as choice, and so does predicting errors.

    Raises:
        ValueError: an invalid argument, or digits that no order reaches with this function; the message says what is
            expected.
        DeviceError: there is no such device, or it has too little memory.
        RecipeError: there is no such recipe book, a recipe fails, or ``certify`` does not let a kernel run.

    Warns:
        UserWarning: the bundle is for another device, or other versions or digits.
        UncertifiedWarning: the recipes have not passed `fmmloopy check` on this device, or have changed since.
        UserWarning: single precision is too coarse for distances between neighbours, such as beside a point far away.
        UserWarning: ``order`` is given, and a quick test says that the function may not suit the method.
    """

    def __new__(cls, *args: Any, devices: Any = None, comm: Any = None, **keywords: Any) -> Fmm:
        """Return an evaluation on one device, on several, or a part of one in several processes."""
        if cls is Fmm and devices is not None:
            from fmmloopy.several.devices import ManyDevices

            return object.__new__(ManyDevices)
        if cls is Fmm and comm is not None:
            from fmmloopy.several.processes import PartFmm

            return object.__new__(PartFmm)
        return object.__new__(cls)

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
        certify: str = "warn",
        eps: float | None = None,
        vectors: int = 1,
        root_width: float | None = None,
        bundle: str | Path | None = None,
        devices: str | Sequence[str | Device] | None = None,
        comm: Any = None,
    ) -> None:
        del devices, comm  # see __new__
        self.timings: Timings = {}

        def check() -> tuple[NDArray[Any], NDArray[Any] | None]:
            nonlocal m2l, ncrit, order, vectors, certify, precision, digits, root_width
            given = on_host(sources, "sources")
            self.kernel, self.dtype = check_kernel(kernel), check_dtype(dtype, given)
            points = check_points(given, "sources", self._fewest)
            others = None if targets is None else check_points(targets, "targets", self._fewest)
            m2l = None if m2l is None else check_choice(m2l, "m2l", tuple(M2L_FORMS))
            ncrit = None if ncrit is None else check_count(ncrit, "ncrit", 1)
            order = None if order is None else check_count(order, "order", FIRST_ORDER, LAST_ORDER)
            vectors = min(check_count(vectors, "vectors", 1), MOST_VECTORS)
            root_width = None if root_width is None else check_width(root_width)
            certify = check_choice(certify, "certify", WHEN_TO_CERTIFY)
            precision, digits = check_precision(precision, self.dtype), digits_from(digits, eps)
            self._bundle = None if bundle is None else open_bundle(bundle)
            return points, others

        points, others = self._together(check)
        self._check_same(
            kernel=self.kernel.key,
            dtype=self.dtype,
            targets=targets is None,
            order=order,
            digits=digits,
            ncrit=ncrit,
            m2l=m2l,
            precision=precision,
            certify=certify,
            root_width=root_width,
        )
        self._turn, self._evaluated = Turn(), CHARGES
        self._vectors: Vectors | None = None
        self._expected: Estimate | None = None
        self._parameters, self._is_given, self._certify = parameters, precision is not None, certify
        self._adjoint: tuple[Fmm, Evaluation] | None = None
        self._proofs: BackgroundProofs | None = None
        self._root_width = root_width or 1.0
        with timed(self.timings, "tree"):
            narrowest = np.float32 if precision == SINGLE.name else np.float64
            sorted_points = self._sort(points, others, narrowest, self._root_width)
        with timed(self.timings, "choice"):
            self._predicted_ncrit = ncrit or ncrit_for(FIRST_ORDER)
            self._predictor = self._predictor_of(sorted_points)
            accuracy = self._decided(
                lambda: settle_accuracy(
                    *(self._predictor, digits, order, precision, eps),
                    slow_float64=order is None and precision is None and self._is_slow(device, runtime),
                )
            )
        with self._building():

            def set_up() -> tuple[Runtime, Setup]:
                used = _open(self._usual_device() if device is None and runtime is None else device, runtime)
                self._narrowest = accuracy.precision
                fitting = _fit(self._narrowest, sorted_points, self.kernel, self._is_given)
                setup = _set_up(Method(self.kernel, accuracy.order, fitting), used.device, recipes, parameters)
                if self._bundle:
                    _warn_of_bundle(self._bundle, setup)
                if certify == "warn":
                    warn_if_uncertified(setup.book, setup.device, fitting.dtype_name, setup.parameters)
                    return used, setup
                return used, replace(setup, admit=partial(_admit, certify))

            runtime, setup = self._together(set_up)
            most = self._most_of(sorted_points)
            rates = self._rates = KnownRates(setup, runtime, most)
            measure = most >= FEWEST_POINTS

            def choose(points: SortedPoints) -> tuple[Decision, Tree | None]:
                return decide(
                    setup,
                    grower(points, setup.method.precision),
                    most,
                    lambda form: (found := rates.of(form, measure)) and found.for_vectors(vectors),
                    ncrit=ncrit,
                    m2l=m2l,
                    digits=accuracy.digits,
                    largest=largest_leaf(self._predictor, accuracy),
                )

            with timed(self.timings, "choice"):
                self._decision, tree = self._decide(setup, lambda: choose(sorted_points))
                width = 1.0
                if tree is not None and ncrit is None and root_width is None:
                    width = width_to_try(tree, self._decision.choice.best, self.kernel)
                if width > 1:
                    wider = self._sort(points, others, setup.method.precision.points, width)
                    decision, other = choose(wider)
                    if (chosen := faster_in_wider_root(self._decision, decision, width)) is not None:
                        self._decision, tree, sorted_points, self._root_width = chosen, other, wider, width
            self._evaluation = self._evaluate_on(setup, sorted_points, tree, runtime, self.timings)

    # -- what a part of a problem does in another way

    _fewest = 1
    """The least number of points."""

    def _together(self, call: Callable[[], Result]) -> Result:
        """Return the result of a call, which fails in all parts or in none."""
        return call()

    def _check_same(self, **values: Any) -> None:
        """Make sure that all parts have the same arguments."""

    def _building(self) -> AbstractContextManager[None]:
        """Return what is held while an evaluation is built."""
        return BUILDING

    def _decided(self, call: Callable[[], Result]) -> Result:
        """Return the result of a call, the same in all parts."""
        return call()

    def _decide(self, setup: Setup, call: Callable[[], tuple[Decision, Tree | None]]) -> tuple[Decision, Tree | None]:
        """Return a decision, the same in all parts except for its setup, which is as given."""
        return call()

    def _predictor_of(self, points: SortedPoints) -> Predictor:
        """Return what predicts errors for points."""
        return Predictor(self.kernel, points, self._predicted_ncrit)

    def _sort(self, points: NDArray[Any], others: NDArray[Any] | None, dtype: DTypeLike, width: float) -> SortedPoints:
        """Sort points along the curve, in a root so many times as wide."""
        found = sort_points(points, others, dtype, width)
        if width == self._root_width:  # not once more for a root that is tried
            warn_if_rounded(rounding_change(points, found.sources), found.half_width)
        return found

    def _usual_device(self) -> Device | None:
        """Return the device to use if none is given; None for the preferred one."""
        return None

    def _is_slow(self, device: str | Device | None, runtime: Runtime | None) -> bool:
        """Return whether float64 is slow on the device that will be used; what is no runtime is refused later."""
        if runtime is not None:
            return bool(getattr(getattr(runtime, "device", None), "has_slow_float64", False))
        return choose_device(self._usual_device() if device is None else device).has_slow_float64

    def _most_of(self, points: SortedPoints) -> int:
        """Return the number of sources or of targets of all parts, whichever is larger."""
        return points.most

    @property
    def _ngiven(self) -> tuple[int, int]:
        """Numbers of sources and of targets that the caller has given."""
        return self.tree.nsources, self.tree.ntargets

    @property
    def _same_points(self) -> bool:
        """Whether the targets are the sources."""
        return self.tree.same_points

    def _points(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return sources and targets as the caller has given them, rounded as the tree has them."""
        tree = self.tree
        return tree.points_of(tree.sources, tree.source_order), tree.points_of(tree.targets, tree.target_order)

    def _evaluate_on(
        self,
        setup: Setup,
        points: SortedPoints,
        tree: Tree | None,
        runtime: Runtime,
        timings: Timings,
        previous: Evaluation | None = None,
    ) -> Evaluation:
        """Build the evaluation of points whose tree may be there already."""
        with timed(timings, "tree"):
            tree = tree or grower(points, setup.method.precision)(self.ncrit)
        check_box_width(self.kernel, tree)
        self._coincident = find_coincident(points) if is_finite_at_zero(self.kernel) else None
        return Evaluation(setup, self.m2l, points, tree, runtime, timings, previous)

    # -- what was chosen

    @property
    def tree(self) -> Tree:
        """The octree."""
        return self._evaluation.problem.tree

    @property
    def lists(self) -> InteractionLists:
        """The interaction lists that the operators run over."""
        return self._evaluation.problem.lists

    @property
    def method(self) -> Method:
        """Green's function, order and precision, which determine work and accuracy."""
        return self._decision.setup.method

    @property
    def order(self) -> int:
        """Points per edge of the surfaces."""
        return self.method.order

    @property
    def precision(self) -> str:
        """The working precision: double, mixed, reduced or single."""
        return self.method.precision.name

    @property
    def ncrit(self) -> int:
        """Maximum number of sources, and of targets, in a leaf."""
        return self._decision.choice.ncrit

    @property
    def root_width(self) -> float:
        """How many times as wide as the points the root cube is."""
        return self._root_width

    @property
    def m2l(self) -> str:
        """The form of M2L: fft, svd or dense."""
        return self._decision.choice.m2l

    @property
    def device(self) -> Device:
        """The device that it runs on."""
        return self._decision.setup.device

    @property
    def recipes(self) -> RecipeBook:
        """The recipe book."""
        return self._decision.setup.book

    @property
    def parameters(self) -> Mapping[str, Mapping[str, Any]]:
        """Tuning parameters of the recipes by operator, tuned or given by the caller."""
        return self._decision.setup.parameters

    @property
    def error_estimate(self) -> float:
        """Expected relative error of potentials in the 2-norm, for charges of both signs, at a sample of the targets.

        It is from a table for Laplace's and Yukawa's functions. For others, and where targets have no sources nearby,
        it is predicted from chains of translations, to about a factor of 3, for potentials that nine of ten sets of
        charges exceed; these take seconds if ``order`` was given and they were not measured before. It is infinite if
        the function is not finite where it is needed. `plan_report` says where it is from.
        """
        with self._turn:
            if self._expected is None:
                try:
                    self._expected = estimate(self._predictor, self.order, self.method.precision, self.ncrit)
                except UnpredictableError as why:
                    self._expected = Estimate(math.inf, str(why))
            return self._expected.error

    @property
    def dipole_error_estimate(self) -> float:
        """Expected relative error of the potentials of dipoles in the 2-norm, for moments in all directions.

        It is not what ``digits`` asks for. It is predicted from chains of translations for all functions, also for
        Laplace's; these take seconds if they were not measured before. It is infinite if the function is not finite
        where it is needed.
        """
        with self._turn:
            predictor = replace(self._predictor, kernel=of_dipoles(self.kernel))
            try:
                return estimate(predictor, self.order, self.method.precision, self.ncrit).error
            except UnpredictableError:
                return math.inf

    def _expected_now(self) -> Estimate | None:
        """Return the expected error if it is known, or quick to find."""
        if self._decision.digits is not None or table_for(self._predictor) is not None:
            _ = self.error_estimate
        return self._expected

    # -- other points

    def update(self, sources: ArrayLike, targets: ArrayLike | None = None) -> None:
        """Replace the points, and keep everything that was chosen: order, ncrit, form of M2L, recipes.

        Results are those of a new `Fmm` with the same order, ncrit, precision and form of M2L, to the last bit. It
        takes less time than a new one, because device, code and tables are used again and nothing is chosen; the tree
        and its lists are built anew. If it fails, the `Fmm` keeps its points. While it runs, the arrays of both sets of
        points are on the device.

        Near pairs are computed in float64 if some of the new points are too close together for float32, and all in
        double precision if the extent of the points requires it, unless ``precision`` was given. `error_estimate` is
        for the new points: for functions whose errors are predicted, it may be above the wanted error.

        Args:
            sources: shape (nsources, 3), in any number.
            targets: shape (ntargets, 3); None for the sources themselves, even if there were other targets before.

        Raises:
            ValueError: points are not valid, or their extent is out of range for the function or the precision.
            DeviceError: the device has too little memory, or this process was forked after OpenCL was used.
        """

        def check() -> tuple[NDArray[Any], NDArray[Any] | None]:
            points = check_points(sources, "sources", self._fewest)
            return points, None if targets is None else check_points(targets, "targets", self._fewest)

        points, others = self._together(check)
        self._check_same(targets=targets is None)
        timings: Timings = {}
        with self._turn:
            before, setup = self._evaluation, self._decision.setup
            with timed(timings, "tree"):
                sorted_points = self._sort(points, others, setup.method.precision.points, self._root_width)
            decision, rates, coincident = self._decision, self._rates, self._coincident
            most = self._most_of(sorted_points)

            def set_up() -> tuple[Decision, KnownRates]:
                fitting = _fit(self._narrowest, sorted_points, self.kernel, self._is_given)
                if fitting == setup.method.precision:
                    return decision, rates
                method = replace(setup.method, precision=fitting)
                other = _set_up(method, setup.device, setup.book, self._parameters)
                other = replace(other, admit=setup.admit)
                return replace(decision, setup=other), KnownRates(other, before.runtime, most)

            decision, rates = self._together(set_up)
            try:
                evaluation = self._evaluate_on(decision.setup, sorted_points, None, before.runtime, timings, before)
            except BaseException:
                self._coincident = coincident
                raise
            self._decision, self._rates, self._evaluation, self.timings = decision, rates, evaluation, timings
            self._predictor = self._predictor_of(sorted_points)
            self._expected, self._vectors, self._evaluated = None, None, CHARGES

    # -- evaluating

    @overload
    def evaluate(
        self,
        charges: ArrayLike | None = None,
        dipoles: ArrayLike | None = None,
        gradient: Literal[False] = False,
        hessian: Literal[False] = False,
        *,
        out: NDArray[Any] | None = None,
    ) -> NDArray[Any]: ...

    @overload
    def evaluate(
        self,
        charges: ArrayLike | None = None,
        dipoles: ArrayLike | None = None,
        gradient: bool = False,
        hessian: bool = False,
        *,
        out: Any = None,
    ) -> Any: ...

    def evaluate(
        self,
        charges: ArrayLike | None = None,
        dipoles: ArrayLike | None = None,
        gradient: bool = False,
        hessian: bool = False,
        *,
        out: Any = None,
    ) -> Any:
        """Compute potentials, in the order of the targets.

        A dipole of moment p at y has the potential p . grad_y G(x - y): that of charges -1 / h at y and 1 / h at
        y + h p, for small h. Charges and dipoles add up; at least one of them must be given.

        Args:
            charges: shape (nsources,), or (nsources, components) for a Green's function with several components;
                complex numbers for a complex function. A last axis is for several vectors of charges.
            dipoles: dipole moments, shape (nsources, 3), or (nsources, components, 3); a last axis as for charges.
            gradient: whether to compute the gradient with respect to the target too.
            hessian: whether to compute the second derivatives with respect to the target too.
            out: array for the result, or a tuple of them, of its shape and dtype; None for new ones. It may be one of
                numpy, pyopencl (contiguous) or a library with DLPack, whatever charges are.

        Charges and dipoles may be numpy arrays, or arrays of pyopencl or of a library with DLPack, such as PyTorch or
        CuPy, with any strides. Results are arrays of the same library, on the same device, unless ``out`` is given.
        They are copied, except those in the memory of the host.

        Returns:
            Potentials, shape (ntargets,) or (ntargets, components). With ``gradient`` or ``hessian``, a tuple of the
            potentials; of the gradients, shape (ntargets, 3) or (ntargets, components, 3); and of the Hessians, shape
            (ntargets, 3, 3) or (ntargets, components, 3, 3), each if it is wanted. For k vectors, all of these have a
            last axis of length k.

        Raises:
            ValueError: charges or dipoles have the wrong shape or type, or are not finite, or none are given, or
                potentials are above the largest number of the dtype, or powers of distances that derivatives need are.
            DeviceError: this process was forked after OpenCL was used.
        """
        with self._turn, self._proving():  # the points stay what they are
            given = self._checked(charges, dipoles, gradient, hessian)
            found = write_results(self.kernel, given.components, self._run(given), given.is_single)

        def hand_over() -> tuple[Any, ...]:
            results = found if isinstance(found, tuple) else (found,)
            if out is not None:
                return write_out(out, results)
            model = charges if charges is not None else dipoles
            return tuple(like(result, model) for result in results)

        results = self._together(hand_over)
        return results if isinstance(found, tuple) else results[0]

    def estimate_error(
        self,
        charges: ArrayLike | None = None,
        dipoles: ArrayLike | None = None,
        *,
        k: int = 1000,
        seed: int = 0,
    ) -> float:
        """Compare potentials with the direct sum at some targets, and return the relative error in the 2-norm.

        It takes an evaluation and k times the number of sources pairs in numpy: seconds for a million sources. Points
        are those of the tree, so what single precision rounds them by is not part of the error.

        Args:
            charges, dipoles: as for `evaluate`; both None for those of the last evaluation.
            k: how many targets to compare, at random; all if there are no more.
            seed: seed of the random choice.

        Raises:
            ValueError: charges are not valid, or None before the first evaluation; or k is not a positive number.
        """
        k = check_count(k, "k", 1)
        with self._turn:
            given = self._vectors if charges is None and dipoles is None else self._checked(charges, dipoles)
            if given is None:
                raise ValueError(
                    "charges is None, expected charges before the first evaluation; give them or evaluate first"
                )
            given = replace(given, components=replace(given.components, gradient=False, hessian=False))
            tree = self.tree
            chosen = np.random.default_rng(seed).choice(tree.ntargets, min(k, tree.ntargets), replace=False)
            potentials = self._run(given)[..., tree.target_order[chosen]]
        in_order = replace(given, values=given.values[..., tree.source_order])
        expected = sum_vectors(
            self.kernel,
            in_order,
            tree.targets[:, chosen].astype(np.float64),
            tree.sources.astype(np.float64),
            chosen if tree.same_points else None,
        )
        off, size = float(np.linalg.norm(potentials - expected)), float(np.linalg.norm(expected))
        return off / size if size else math.inf if off else 0.0

    # -- as a matrix

    def as_linear_operator(self) -> EvaluationOperator:
        """Return the matrix from charges to potentials, as a `scipy.sparse.linalg.LinearOperator`.

        Its vectors are charges and potentials, flattened: the components of the first point, then those of the next. It
        applies to vectors and to matrices, whose columns are evaluated together. Its adjoint is the sum in which
        sources and targets are exchanged. If it is another sum, its tree, lists and code are made when it is first
        applied, and this takes as much memory again.

        The operator is for the number of points that there are now. After an `update` with as many points it is for
        the new ones.
        """
        from fmmloopy.linear import EvaluationOperator

        return EvaluationOperator(self.kernel, *self._ngiven, self.dtype, self.evaluate, self._evaluate_transposed)

    def _evaluate_transposed(self, charges: NDArray[Any]) -> NDArray[Any]:
        """Return sums over the targets at the sources, with the transposed function."""
        with self._turn:
            kernel = transposed(self.kernel)
            if kernel is self.kernel and self._same_points:
                return self.evaluate(charges)
            if self._adjoint is None or self._adjoint[1] is not self._evaluation:
                others, sources = self._points()
                targets = None if self._same_points else others
                adjoint = self._adjoint[0] if self._adjoint else None
                if adjoint is None:
                    adjoint = self._of_same_method(kernel, sources, targets)
                else:
                    adjoint.update(sources, targets)
                self._adjoint = adjoint, self._evaluation
            return self._adjoint[0].evaluate(charges)

    def _of_same_method(self, kernel: GreensFunction, sources: ArrayLike, targets: ArrayLike | None) -> Fmm:
        """Build an evaluation of another function and other points, with what was chosen for this one."""
        return Fmm(sources, targets, kernel, **self._options_of_method())

    def _options_of_method(self) -> dict[str, Any]:
        """Return the arguments that say what was chosen for this evaluation."""
        return {
            "recipes": self.recipes,
            "dtype": self.dtype,
            "order": self.order,
            "ncrit": self.ncrit,
            "precision": self.precision,
            "m2l": self.m2l,
            "root_width": self.root_width,
            "parameters": self.parameters,
            "runtime": self._evaluation.runtime,
            "certify": self._certify,
        }

    def _checked(
        self, charges: ArrayLike | None, dipoles: ArrayLike | None, gradient: bool = False, hessian: bool = False
    ) -> Vectors:
        """Return valid charges and dipole moments; the caller's may change."""
        return read_vectors(self.kernel, self._ngiven[0], self.dtype, charges, dipoles, gradient, hessian)

    def _run(self, given: Vectors) -> NDArray[Any]:
        """Return potentials and derivatives, shape (vectors, rows, ntargets)."""
        with self._turn:  # arrays on the device belong to one evaluation at a time
            found, seconds = [], 0.0
            for values, components in self._batches(given):
                self._evaluation.prepare(components)
                start = time.perf_counter()
                found.append(by_vector(self._evaluation.run(in_rows(values), components), len(values)))
                seconds += time.perf_counter() - start
            self._evaluated, self._vectors = replace(given.components, vectors=len(given.values)), given
            self.timings["evaluate"] = seconds
        result = (found[0] if len(found) == 1 else np.concatenate(found))[: len(given.values)]
        self._check_derivatives(result)
        return self._with_coincident(result, given).astype(self.dtype, copy=False)

    def _check_derivatives(self, results: NDArray[Any]) -> None:
        """Make sure that derivatives are finite where potentials are.

        Raises:
            ValueError: they are not, since higher powers of distances overflow.
        """
        rows = self.kernel.ntarget_components
        if np.isfinite(results[:, rows:]).all() or not np.isfinite(results[:, :rows]).all():
            return
        leaf = self.tree.half_width * 2.0 ** (1 - self.tree.nlevels)
        narrow = self.precision != DOUBLE.name
        remedy = "use dtype=numpy.float64 with precision='double', or scale" if narrow else "scale"
        raise ValueError(
            f"some derivatives are not finite: powers of distances overflow in {self.precision} precision, where boxes "
            f"have half widths of {leaf:.1g}; {remedy} the points"
        )

    def _with_coincident(self, results: NDArray[Any], given: Vectors) -> NDArray[Any]:
        """Return potentials and derivatives with what points in the same place contribute to each other."""
        at_zero = None if self._coincident is None else value_at_zero(self.kernel, given.components)
        if self._coincident is None or at_zero is None:
            return results
        exponent = shift(given.values)
        contributions = self._coincident.contributions(at_zero, np.ldexp(given.values, -exponent))
        results = results.astype(np.float64)
        results[..., self._coincident.targets] += shift_back(contributions, exponent)
        return results

    def _batches(self, given: Vectors) -> Iterator[tuple[NDArray[Any], Components]]:
        """Yield vectors that are evaluated at once, in powers of two; the last ones may be zero."""
        most = self._evaluation.most_vectors(given.components)
        for first in range(0, len(given.values), most):
            values = given.values[first : first + most]
            count = 1 << (len(values) - 1).bit_length()
            if count > len(values):
                values = np.concatenate([values, np.zeros((count - len(values), *values.shape[1:]), values.dtype)])
            yield values, replace(given.components, vectors=count)

    def __repr__(self) -> str:
        (nsources, ntargets), digits = self._ngiven, self._decision.digits
        asked = "" if digits is None else f" for {digits:g} digits"
        known = self._expected_now()
        expected = "" if known is None else f"expected error {known.error:.1e}, "
        return (
            f"<Fmm: {counted(nsources, 'source')}, {counted(ntargets, 'target')}, {self.kernel.name}, "
            f"order {self.order}{asked}, {expected}{self.precision} precision, ncrit {self.ncrit}, M2L {self.m2l}, "
            f"{self.recipes.name} on {self.device.name}>"
        )

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError(
            "an Fmm holds device memory and programs and cannot be pickled or copied: send the points, and build the "
            "Fmm in the process that uses it"
        )

    @contextmanager
    def _proving(self) -> Iterator[None]:
        """Prove kernels of which nothing is known, some seconds after an evaluation and not during one."""
        if self._proofs:
            self._proofs.wake()
        yield
        if self._certify != "warn":
            return
        if self._proofs is None:
            from fmmloopy.checking.background import BackgroundProofs

            self._proofs = BackgroundProofs()
            weakref.finalize(self, self._proofs.close)
        self._proofs.rest(self._evaluation.kernels)

    def _kernels(self) -> tuple[KernelRow, ...]:
        """Return what is known of the kernels that were bound so far."""
        from fmmloopy.checking.kernels import kernel_state

        states = [(key, kernel_state(key, code)) for key, code in self._evaluation.kernels]
        return tuple(
            KernelRow(key.operator, spec.greens.name, spec.types.name, found.state, found.reason, found.tests)
            for key, found in states
            for spec in [key.specification]
        )

    def plan_report(self) -> PlanReport:
        """Report what was chosen and why, and compare predicted times with those of the last evaluation."""
        decision, rates = self._decision, self._rates.of(self.m2l)
        work = count_work(self.tree, self.lists, self.method, self.m2l)
        return PlanReport(
            nsources=self.tree.nsources,
            ntargets=self.tree.ntargets,
            digits=decision.digits,
            order=self.order,
            expected=self._expected_now(),
            choice=decision.choice,
            fft_alone=decision.fft_alone,
            precision=self.precision,
            book=decision.setup.book.name,
            device=decision.setup.device.description,
            rates=self._rates.source,
            rows=make_rows(work, rates, self.timings),
            more=self._evaluated.more,
            evaluate=self.timings.get("evaluate"),
            kernels=self._kernels(),
        )


def _admit(certify: str, key: CodeKey, code: CompiledOperator) -> CompiledOperator:
    """Let a kernel run only if it is certified; what proves and tests kernels is imported when it is needed."""
    from fmmloopy.checking.kernels import admit

    return admit(certify, key, code)


def _warn_of_bundle(bundle: Bundle, setup: Setup) -> None:
    """Warn if a bundle does not serve a setup."""
    if reasons := what_it_lacks(bundle, setup):
        warnings.warn(
            f"bundle {bundle.path.name} does not help here: {'; '.join(reasons)}; code is generated and measured anew, "
            "which takes seconds",
            stacklevel=5,
        )


def _open(device: str | Device | None, runtime: Runtime | None) -> Runtime:
    """Return the runtime if one is given, else open the device."""
    if runtime is not None:
        if not isinstance(getattr(runtime, "device", None), Device):
            raise ValueError(
                f"runtime is {runtime!r}, expected an open device, from fmmloopy.execution.runtime.make_runtime"
            )
        if device is not None:
            raise ValueError(f"device {device!r} and a runtime are given, expected only one; leave out device")
        return runtime
    chosen = choose_device(device)
    if device is None and missing_devices():
        warnings.warn(missing_devices(), stacklevel=5)
    return make_runtime(chosen)


def _fit(precision: Precision, points: SortedPoints, kernel: GreensFunction, is_given: bool) -> Precision:
    """Return a precision whose range covers the powers of distances in the tree: the chosen one, or double.

    Raises:
        ValueError: they are out of range, and the precision was given by the caller or there is no wider one.
    """
    if not is_given and precision != SINGLE and not fits(points.half_width, kernel, precision.spectra):
        precision = DOUBLE
    check_extent(points.half_width, precision.spectra)
    check_scaling(kernel, precision.spectra)
    return precision


def _set_up(
    method: Method,
    device: Device,
    recipes: str | Path | RecipeBook | None,
    parameters: Mapping[str, Mapping[str, Any]] | None,
) -> Setup:
    """Find the recipes for a device, with their tuned parameters and those given by the caller."""
    if method.precision.points == np.float64 and not device.has_float64:
        raise DeviceError(f"{device.name} has no double precision; use precision='single' or numpy.float32")
    book = load_recipes(recipes, device)
    check_parameters(parameters or {}, book)
    tuned = tuned_parameters(book, device, method.precision.dtype_name, method.order)
    return Setup(method, book, device, {**tuned, **(parameters or {})})
