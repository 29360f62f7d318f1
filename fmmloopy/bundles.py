"""Make bundles: everything that evaluations of a Green's function need, found out by evaluating it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fmmloopy.bookshelf.tuned import ENVIRONMENT_VARIABLE as TUNED_VARIABLE
from fmmloopy.choosing.calibration import probe_points
from fmmloopy.choosing.cost_model import SVD_POINTS
from fmmloopy.common import store
from fmmloopy.common.bundle import write_bundle
from fmmloopy.common.isolation import Stage, Worker
from fmmloopy.execution.bundled import in_words, purpose
from fmmloopy.execution.devices import choose_device
from fmmloopy.fmm import Fmm
from fmmloopy.greens import GreensFunction
from fmmloopy.inputs import check_kernel, check_points
from fmmloopy.operators import M2L_FORMS
from fmmloopy.vectors import draw_charges

DIGITS = (3, 6, 9)
"""Digits that bundles are for, if no others are given."""

TAKEN = ("certificates", "code", "c", "cuda", "errors", "opencl", "rates")
"""Folders of the cache that belong in a bundle, with the tables beside them. Others are about one machine."""

NEAR = 1e-13
"""Distance of two points, in the extent of all, that are too near for float32: near pairs are in float64 then."""

LONGEST = 1800.0
"""Seconds that one case may take."""


@dataclass(frozen=True)
class BundleReport:
    """What a bundle has.

    Attributes:
        path: its file.
        cases: what was evaluated for it, in words.
        files: number of files in it.
        size: its bytes.
        device: description of the device that it is for.
    """

    path: Path
    cases: tuple[str, ...]
    files: int
    size: int
    device: str


def make_bundle(
    path: str | Path,
    kernel: GreensFunction | None = None,
    digits: Sequence[float] = DIGITS,
    device: str | None = None,
    *,
    points: ArrayLike | None = None,
    gradient: bool = True,
    notify: Callable[[str], None] | None = None,
) -> BundleReport:
    """Put code, programs, tables, rates and certificates into one file, for ``Fmm(..., bundle=path)``.

    Everything is found out by evaluating, in another process: what that reads from the cache and writes to it is in the
    bundle. A bundle serves devices of the same description with the same driver, the same versions of Python,
    fmmloopy, loopy, islpy and pymbolic, and any points; only tables of functions that are not homogeneous are for the
    sizes of boxes that they were made for.

    Args:
        path: file to write.
        kernel: the Green's function; Laplace's by default.
        digits: wanted digits, each a case.
        device: part of a device's description; the preferred one by default.
        points: points of shape (n, 3), if tables of a function that is not homogeneous are wanted for their extent; by
            default many in the cube [-1, 1]^3, on the unit sphere and in a cluster.
        gradient: whether gradients are wanted too.
        notify: called with each case, in words, before it is evaluated.

    Returns:
        What the bundle has.

    Raises:
        ValueError: an argument cannot be used, or digits cannot be reached.
        DeviceError: there is no such device.
        OSError: the file cannot be written.
    """
    kernel, chosen, where = check_kernel(kernel), choose_device(device), Path(path)
    if not digits:
        raise ValueError("digits is empty, expected digits such as (3, 6, 9)")
    folder = where.absolute().parent
    if where.is_dir() or not os.access(folder, os.W_OK):  # which is found out before all the work
        why = "it is a folder" if where.is_dir() else f"{folder} is no folder that you can write"
        raise OSError(f"{str(path)!r} cannot be written: {why}")
    if points is None:  # rates are measured for two sizes
        clouds = [
            probe_points(count) for count in sorted({SVD_POINTS, max(SVD_POINTS, chosen.limits.probes.many_from)})
        ]
    else:
        clouds = [check_points(points, "points", 1)]
    recorded: list[_Case] = []
    cases: list[str] = []
    with TemporaryDirectory() as empty, Worker({TUNED_VARIABLE: empty}, forked=False) as worker:
        for wanted in digits:
            cases.append(f"{kernel.name}, {wanted:g} digits{', with gradients' if gradient else ''}")
            if notify:
                notify(cases[-1])
            case = kernel, wanted, chosen.description, clouds, gradient
            recorded.append(worker.call(_record, *case, limit=LONGEST))
    files = {name: content for each in recorded for name, content in each.files.items()}
    write_bundle(where, files, {**recorded[0].purpose, "methods": [each.method for each in recorded]})
    return BundleReport(where, tuple(cases), len(files), os.path.getsize(where), chosen.description)


@dataclass(frozen=True)
class _Case:
    """What evaluations have used.

    Attributes:
        files: contents by path below the cache folder.
        purpose: what they are for, by name.
        method: order and precision, in words.
    """

    files: dict[str, bytes]
    purpose: dict[str, str]
    method: str


def _record(
    stage: Stage, kernel: GreensFunction, digits: float, device: str, clouds: list[NDArray[Any]], gradient: bool
) -> _Case:
    """Evaluate with all forms of M2L, with and without points that are too near for float32; return what that used."""
    random, points = np.random.default_rng(0), clouds[0]
    extent = float(np.ptp(points, axis=0).max())
    near = np.concatenate([points, points[:1] + [NEAR * extent, 0, 0]])
    with warnings.catch_warnings(), store.recording() as found:
        warnings.simplefilter("ignore")  # whoever uses the bundle sees what there is to see
        for cloud in clouds:
            compared = Fmm(cloud, kernel=kernel, digits=digits, device=device)
        forms = [compared.m2l] if compared.plan_report().fft_alone else [f for f in M2L_FORMS if f != "dense"]
        for where, form in [(points, form) for form in forms] + [(near, forms[0])]:
            fmm = Fmm(where, kernel=kernel, digits=digits, device=device, m2l=form)
            charges = draw_charges(random, kernel, len(where))
            for with_gradient in (False, True) if gradient else (False,):
                fmm.evaluate(charges, gradient=with_gradient)
    files = {name: content for name, content in found.files.items() if "/" not in name or name.split("/")[0] in TAKEN}
    return _Case(files, purpose(compared.device, compared.recipes, compared.method), in_words(compared.method))
