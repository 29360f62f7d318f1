"""The last layer of a check: compare whole evaluations with the direct sum."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmmloopy.common.isolation import Stage
from fmmloopy.direct import direct
from fmmloopy.execution.devices import choose_device
from fmmloopy.execution.evaluation import Evaluation
from fmmloopy.execution.runtime import make_runtime
from fmmloopy.execution.setup import Method, Setup
from fmmloopy.greens import laplace
from fmmloopy.operators import M2L_FORMS
from fmmloopy.precision import find_precision
from fmmloopy.recipes.book import SEQUENTIAL, RecipeBook

FMM_BOUND = 3.0
"""Factor by which the error of a whole evaluation may exceed that of the sequential kernels, from rounding alone."""

SAMPLE = 300
"""Points at which potentials are summed directly."""

ORDER, NCRIT = 6, 60
"""Order and ncrit of the evaluations: trees of several levels, with all lists."""

LIMIT = 600.0
"""Seconds for one evaluation, most of them to generate and compile the code of all operators."""


def check_whole(
    stage: Stage, book: RecipeBook, device: str, dtype: str, parameters: Mapping[str, Mapping[str, Any]], full: bool
) -> str:
    """Evaluate whole problems with the book and with the sequential kernels, in all forms of M2L at level full.

    A book's own operators replace those of the package, and only this layer compares them with the package's sequential
    kernels: it evaluates every form of M2L that has one of them as a stage, and gradients if one gives potentials.

    Args:
        stage: called before each stage.
        book: all its recipes and operators are used.
        device: description of the device.
        dtype: float32, float64, mixed or reduced.
        parameters: keyword arguments for every recipe of the book.
        full: whether problems are larger.

    Returns:
        What is wrong, in one line; "" if nothing is.
    """
    rng = np.random.default_rng(1)
    precision = find_precision(dtype)
    gradient = any(own.gives_potentials for own in book.operators.values())
    runtime = make_runtime(choose_device(device))  # shared, so that programs are built once
    for name, points in _point_sets(rng, 20000 if full else 3000):
        points = points.astype(precision.points)
        charges = rng.uniform(-1, 1, len(points)).astype(precision.points)
        expected = _values(direct(points, charges, points[:SAMPLE], gradient=True))
        for m2l in _forms(book, dtype, full):
            found = []
            for some, given in ((book, parameters), (SEQUENTIAL, {})):
                stage(f"fmm: {name}, recipes of {some.name}", LIMIT)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    setup = Setup(Method(laplace(), ORDER, precision), some, runtime.device, given)
                    evaluation = Evaluation.of_points(setup, m2l, NCRIT, points, runtime)
                result = evaluation.run(charges[None], gradient)
                found.append(_values((result[0], result[1:].T)) if gradient else _values(result[0]))
            for what in found[0]:
                if wrong := _difference(found[0][what], found[1][what], expected[what]):
                    return f"{name}: {what}{wrong}"
    return ""


def _forms(book: RecipeBook, dtype: str, full: bool) -> tuple[str, ...]:
    """Return the forms of M2L to evaluate with: the FFT form, and those with an operator of the book's own."""
    if full and dtype in ("float32", "float64"):
        return tuple(M2L_FORMS)
    return tuple(
        form
        for form, stages in M2L_FORMS.items()
        if form == "fft" or any(stage.name in book.operators for stage in stages)
    )


def _values(result: Any) -> dict[str, NDArray[Any]]:
    """Return results by the name used in messages: "" for potentials, "gradients, " for gradients."""
    return dict(zip(("", "gradients, "), result, strict=True)) if isinstance(result, tuple) else {"": result}


def _difference(found: NDArray[Any], sequential: NDArray[Any], expected: NDArray[Any]) -> str:
    """Describe errors that are larger than those of the sequential kernels; "" if there are none."""
    errors = [float(np.linalg.norm(v[:SAMPLE] - expected) / np.linalg.norm(expected)) for v in (found, sequential)]
    if not errors[0] <= FMM_BOUND * errors[1]:
        return f"relative error {errors[0]:.1e}, with the sequential kernels {errors[1]:.1e}"
    difference = float(np.linalg.norm(found - sequential) / np.linalg.norm(sequential))
    if not difference <= FMM_BOUND * errors[1]:
        return f"{difference:.1e} from the sequential kernels, whose error is {errors[1]:.1e}"
    return ""


def _point_sets(rng: np.random.Generator, count: int) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Yield a surface, whose tree is adaptive, and clusters, whose W and X lists are long."""
    surface = rng.standard_normal((count, 3))
    yield "sphere", surface / np.linalg.norm(surface, axis=1)[:, None]
    yield "clusters", rng.standard_normal((count, 3)) * 10.0 ** rng.uniform(-3, 0, (count, 1))
