"""Functions that steps declare to stand for others, run over the whole range of their argument on a device.

A declaration holds for all numbers of a range, which belongs to what the function stands for. It is tested with numbers
of every exponent, with dense ones where the function changes, and with the ends of the range. This is no proof: a
function that is wrong at a single number may pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmmloopy.checking.proof import Lemma, NotProved, Proved, ProvedIf, Refuted, Verdict
from fmmloopy.common.isolation import Stage, Worker
from fmmloopy.common.messages import one_line
from fmmloopy.execution.devices import Device, DeviceError
from fmmloopy.execution.generate import apply_function
from fmmloopy.execution.runtime import make_runtime
from fmmloopy.transforms.inline import ANGLES, StandIn

Numbers = NDArray[Any]

ROOT, OTHER = 2.0, 4.0
"""Largest errors in eps. The bound of the numerical layer, 12 eps, has 2 for the root and 7.5 for 15 roundings, which
leaves little for sums. Exponentials and angles, whose arguments are rounded too, may have the 4 that the package's own
polynomials are tested for."""

NEAR, FAR = 1, 30
"""Where the error function is a series, and from where on it is 1."""

POSITIVE, NOT_NEGATIVE, ALL = "positive", "not negative", "all"

EXACT_ANGLES = {"float32": 1e4, "float64": 1e6}
"""Angles up to these must be right; larger ones may be rounded once more, up to the bounds in `ANGLES`."""

DENSE, EACH = 2**18, 64
"""Random numbers in the interval where a function changes, and with each exponent; a 16th on simulators. In float32,
there are 16 times as many."""


LIMIT = 180.0
"""Seconds for the test of a function, which takes one; nearly all of it are those of a busy compiler."""


@dataclass(frozen=True)
class Function:
    """What a function is, and where a function that stands for it must be right.

    Attributes:
        exact: computes it, in the type of its argument.
        range: of the argument: POSITIVE for normal positive numbers, beside which subnormal ones must give numbers, as
            idle lanes may have them; NOT_NEGATIVE for these and both zeros; ALL for all, with infinities and NaN.
        dense: interval in which it changes most.
        bound: largest error in eps.
    """

    exact: Callable[[Numbers], Numbers]
    range: str
    dense: tuple[float, float]
    bound: float = OTHER


def erf(x: Numbers) -> Numbers:
    """Return the error function, near 0 as 2 / sqrt(pi) exp(-x^2) times the sum of 2^k x^(2k+1) / (2k+1)!!.

    DLMF 7.6.2.
    """
    found, size = np.sign(x), np.abs(x)
    near = x[size < NEAR]
    term = total = near
    for k in range(1, 60):
        term = term * (2 * near * near / (2 * k + 1))
        total = total + term
    found[size < NEAR] = total * np.exp(-near * near) * _two_over_root_pi(x.dtype)
    for some, terms in _beyond(size):
        found[some] *= 1 - _erfc_beyond(size[some], terms)
    return found


def erfc(x: Numbers) -> Numbers:
    """Return 1 - erf(x), without cancellation where it is small."""
    found = 1 - erf(x)
    for some, terms in _beyond(x):
        found[some] = _erfc_beyond(x[some], terms)
    return found


def _beyond(x: Numbers) -> Iterator[tuple[NDArray[np.bool_], int]]:
    """Yield where numbers are from NEAR to FAR, with terms that leave an error of exp(-2 x sqrt(2 n)) = 5e-25 or less.

    In float64, with which results in float32 are compared, it is 1e-11.
    """
    few = x.dtype == np.float64
    for least, most, terms in ((NEAR, 3 * NEAR, 80 if few else 400), (3 * NEAR, FAR, 20 if few else 50)):
        yield (x >= least) & (x < most), terms


def _erfc_beyond(x: Numbers, terms: int) -> Numbers:
    """Return erfc by the continued fraction DLMF 7.9.1."""
    below = x
    for k in range(terms, 0, -1):
        below = x + (k * x.dtype.type(0.5)) / below
    # The square of x is the sum of two products without an error, which would be one of x^2 eps in the exponential.
    high = x.astype(np.float32).astype(x.dtype)
    found: Numbers = np.exp(-high * high) * np.exp((high - x) * (high + x)) / below * (_two_over_root_pi(x.dtype) / 2)
    return found


def _two_over_root_pi(dtype: np.dtype[Any]) -> Any:
    return 2 / np.sqrt(4 * np.arctan(dtype.type(1)))


FUNCTIONS = {
    "sqrt": Function(np.sqrt, NOT_NEGATIVE, (1, 4), ROOT),
    "rsqrt": Function(lambda x: 1 / np.sqrt(x), POSITIVE, (1, 4), ROOT),
    "log": Function(np.log, POSITIVE, (0.5, 2)),
    "exp": Function(np.exp, ALL, (-746, 711)),
    "sinh": Function(np.sinh, ALL, (-711, 711)),
    "cosh": Function(np.cosh, ALL, (-711, 711)),
    "tanh": Function(np.tanh, ALL, (-25, 25)),
    "atan": Function(np.arctan, ALL, (-8, 8)),
    "erf": Function(erf, ALL, (-7, 7)),
    "erfc": Function(erfc, ALL, (-7, 28)),
    "sin": Function(np.sin, ALL, (-30, 30)),
    "cos": Function(np.cos, ALL, (-30, 30)),
    "fabs": Function(np.fabs, ALL, (-2, 2)),
}
"""By name in loopy, what a function may be declared to stand for."""


def settled(
    verdict: Verdict, device: Device | None, build_options: tuple[str, ...] = (), apart: bool = False
) -> Verdict:
    """Return what is shown of a kernel on a device: test the lemmas that a proof rests on.

    Args:
        verdict: of a proof.
        device: to test on; without one, nothing that rests on lemmas is proved.
        build_options: with which the kernel is built.
        apart: whether to run them in a child process, because they may crash.
    """
    if not isinstance(verdict, ProvedIf):
        return verdict
    for lemma in verdict.lemmas:
        if device is None:
            return NotProved(f"{lemma.name} is {lemma.function} only on devices on which that was tested")
        try:
            wrong = (_apart if apart else what_is_wrong)(lemma, device, build_options)
        except Exception as error:  # whatever stops the test, the lemma is not tested
            return NotProved(f"{lemma.name} was not tested as {lemma.function} in {lemma.dtype}: {one_line(error)}")
        if wrong:
            return Refuted(lemma, wrong)
    return Proved(verdict.sums, verdict.lemmas)


def _apart(lemma: Lemma, device: Device, build_options: tuple[str, ...]) -> str:
    """Do what `what_is_wrong` does in a child process."""
    with Worker() as worker:
        wrong: str = worker.call(_in_child, lemma, device, build_options, limit=LIMIT)
    return wrong


def _in_child(stage: Stage, lemma: Lemma, device: Device, build_options: tuple[str, ...]) -> str:
    return what_is_wrong(lemma, device, build_options)


@cache
def what_is_wrong(lemma: Lemma, device: Device, build_options: tuple[str, ...] = ()) -> str:
    """Run a function on a device, and say at which argument it is not what it stands for; "" if it is everywhere.

    Raises:
        DeviceError: it cannot be run here, or there is nothing more precise to compare with.
        Exception: loopy generates no code for it.
    """
    dtype = np.dtype(lemma.dtype)
    wide: np.dtype[Any] = np.dtype(np.longdouble if dtype == np.float64 else np.float64)
    if np.finfo(wide).nmant < np.finfo(dtype).nmant + 11:
        raise DeviceError("numpy has no type here that is more precise")
    function = FUNCTIONS[lemma.function]
    code = apply_function(StandIn(lemma.name, lemma.source, lemma.function), dtype, device, build_options)
    runtime, worst, text = make_runtime(device), 0.0, ""
    for x in arguments(lemma.function, dtype, 16 if device.is_simulator else 1):
        y = runtime.upload(np.full_like(x, np.nan))
        runtime.run([runtime.bind(code, {"x": runtime.upload(x), "y": y, "n": len(x)})])
        found = runtime.read(y)
        with np.errstate(all="ignore"):
            exact = function.exact(x.astype(wide))
            off = errors(lemma.function, x, found, exact)
        place = int(np.argmax(off))
        if off[place] > max(worst, function.bound):
            worst, text = float(off[place]), _words(lemma, x[place], found[place], exact[place], off[place])
    return text


def _words(lemma: Lemma, x: Any, found: Any, exact: Any, off: Any) -> str:
    """Say what is wrong at an argument."""
    far = f", {off:.3g} eps off" if np.isfinite(off) else ""
    with np.errstate(all="ignore"):
        expected = exact.astype(x.dtype)
    what = "a finite number" if _beside(lemma.function, x[None])[0] else f"{expected!s}"
    return f"{lemma.name} is not {lemma.function}: in {lemma.dtype}, at x = {x!s} it is {found!s}, expected {what}{far}"


def arguments(name: str, dtype: np.dtype[Any], divided: int = 1) -> Iterator[Numbers]:
    """Yield the numbers that a function is tested with, some hundred thousand at a time, the same in every test.

    Args:
        name: what it stands for.
        dtype: of the numbers.
        divided: by how much there are fewer.
    """
    for x in _numbers(name, dtype, divided):
        yield x[~_outside(name, x)]


def _numbers(name: str, dtype: np.dtype[Any], divided: int) -> Iterator[Numbers]:
    info, rng, more = np.finfo(dtype), np.random.default_rng(0), 16 if dtype == np.float32 else 1
    bits, one = np.dtype(f"uint{dtype.itemsize * 8}"), 1 << info.nmant
    kept = [*range(4), *(one - k for k in range(1, 4)), *(1 << k for k in range(info.nmant)), one // 3, 2 * one // 3]
    exponents = np.arange(2 ** (info.bits - 1 - info.nmant) - 1, dtype=bits)
    each = max(EACH * more // divided, 4)
    drawn = rng.integers(0, one, (len(exponents), each), bits)
    mantissas = np.hstack([np.tile(np.array(kept, bits), (len(exponents), 1)), drawn])
    signs = (1,) if FUNCTIONS[name].range == POSITIVE else (1, -1)
    for some, theirs in zip(np.array_split(exponents, 8), np.array_split(mantissas, 8), strict=True):
        positive = ((some[:, None] << bits.type(info.nmant)) | theirs).view(dtype).ravel()
        yield np.concatenate([sign * positive for sign in signs])
    for _ in range(more):
        yield rng.uniform(*FUNCTIONS[name].dense, DENSE // divided).astype(dtype)
    if name in ("sin", "cos"):
        most = EXACT_ANGLES[dtype.name]
        yield (np.arange(int(most / np.pi * 2), step=divided) * (np.longdouble(np.pi) / 2)).astype(dtype)
        yield rng.uniform(-most, most, DENSE // divided).astype(dtype)
    yield np.array([0.0, -0.0, np.inf, -np.inf, np.nan, info.max, info.tiny, info.smallest_subnormal], dtype)


def errors(name: str, x: Numbers, found: Numbers, exact: Numbers) -> NDArray[np.float64]:
    """Return how far results are off in eps: infinitely where they are no numbers, or not as infinite as expected.

    Results below twice the smallest normal number may be 0. Signs of zeros do not matter, as in all layers.

    Args:
        name: what the function stands for.
        x: its arguments.
        found, exact: what it gives, and what it should give, in a wider type.
    """
    info, bound = np.finfo(x.dtype), FUNCTIONS[name].bound
    size = np.maximum(np.abs(exact), exact.dtype.type(info.tiny))
    off = np.abs(found - exact) / (size * exact.dtype.type(info.eps))
    if name in ("sin", "cos"):
        _, most, _, parts = ANGLES[x.itemsize]
        usual, magnitude = EXACT_ANGLES[x.dtype.name], np.abs(x.astype(exact.dtype))
        # Near zeros, the rounding of the third part of pi / 2, times the number of quarters, is an error of its own.
        slack = np.where(magnitude <= usual, usual * parts[2], 2 + magnitude)
        off = np.maximum(off - slack / size, 0)
        off = np.where(magnitude > most, 0, off)
    off = np.where(np.isnan(off), np.inf, off)
    too_large = np.abs(exact) > exact.dtype.type(info.max) * (1 - bound * exact.dtype.type(info.eps))
    off = np.where(np.isinf(found) & too_large & (np.sign(found) == np.sign(exact)), 0, off)
    off = np.where((found == 0) & (np.abs(exact) < 2 * exact.dtype.type(info.tiny)), 0, off)
    off = np.where(np.isnan(found) & np.isnan(exact), 0, off)
    off = np.where(_beside(name, x), np.where(np.isfinite(found), 0, np.inf), off)
    return off.astype(np.float64)


def _beside(name: str, x: Numbers) -> NDArray[np.bool_]:
    """Return where any number will do: positive ones that are not normal, for roots and logarithms."""
    if FUNCTIONS[name].range == ALL:
        return np.zeros(x.shape, bool)
    return np.asarray((x > 0) & (x < np.finfo(x.dtype).tiny))


def _outside(name: str, x: Numbers) -> NDArray[np.bool_]:
    """Return which arguments are not in the range of a function."""
    if FUNCTIONS[name].range == ALL:
        return np.isinf(x) if name in ("sin", "cos") else np.zeros(x.shape, bool)
    return ~np.asarray((x > 0) & np.isfinite(x) | (x == 0) & (FUNCTIONS[name].range == NOT_NEGATIVE))
