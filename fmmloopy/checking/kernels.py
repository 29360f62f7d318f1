"""What is known of a kernel that runs: proved for all sizes, tested, or neither.

The state belongs to the kernel itself (its identity) and to the device, not to the recipe that yielded it. If a recipe
yields another kernel for another order, Green's function or environment, nothing is known of that kernel yet.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from fmmloopy.bookshelf.certificates import CHECKER, came_proved, checked_kernels, kernel_for
from fmmloopy.checking.layers import check_kernel
from fmmloopy.checking.proof import Proved, Refuted, Verdict
from fmmloopy.checking.proofs import Proof, prover_hash, reason_of, rests_on, verdict_on
from fmmloopy.checking.request import LAYERS, Request
from fmmloopy.common import store
from fmmloopy.common.isolation import ChildError, Worker
from fmmloopy.common.messages import one_line
from fmmloopy.execution.devices import Device
from fmmloopy.execution.generate import generate, keep
from fmmloopy.execution.key import CodeKey, versions
from fmmloopy.execution.launch import CompiledOperator
from fmmloopy.recipes.book import RecipeError
from fmmloopy.recipes.identity import kernel_identity

PROVED, TESTED, SEQUENTIAL, UNKNOWN, WRONG = "proved", "tested", "sequential", "unknown", "wrong"

KEPT = PROVED, TESTED, WRONG, UNKNOWN
"""States that may be read from disk."""

CHECKED = *(layer for layer in LAYERS if layer not in ("static", "symbolic")), "fmm"
"""The layers of a check that run kernels."""

UNCHECKED = "it was not checked on this device"
"""Why a kernel is unknown."""

CHANGES = "the recipe yields another kernel from one call to the next"
"""Why a kernel that runs cannot be validated."""


class UncertifiedError(RecipeError):
    """A kernel is neither proved nor tested, or is wrong, and was not run."""


@dataclass(frozen=True)
class KernelState:
    """What is known of a kernel on a device.

    Attributes:
        state: ``"proved"``: it adds the same terms to the same entries as the sequential kernel, for all sizes.
            ``"tested"``: it passed the layers of a check. ``"sequential"``: it is what others are compared with.
            ``"unknown"``: none of these. ``"wrong"``: a test has found an error.
        reason: why it is not proved, or what is wrong; "" if nothing is in the way.
        tests: for ``"tested"``, the layers and the sizes; for ``"proved"``, what tests of functions it rests on.
    """

    state: str
    reason: str = ""
    tests: str = ""

    @property
    def may_run(self) -> bool:
        """Whether it may run where only certified kernels may."""
        return self.state in (PROVED, TESTED, SEQUENTIAL)


def kernel_state(key: CodeKey, code: CompiledOperator) -> KernelState:
    """Return what is known of a kernel; nothing is proved or run.

    Args:
        key: what its code was generated from.
        code: its code.
    """
    if key.operator not in key.book.to_check:
        return KernelState(SEQUENTIAL)
    if not code.kernel:
        return KernelState(UNKNOWN, "something in the kernel cannot be identified")
    if not code.generated_here:
        return KernelState(UNKNOWN, "its code was not generated here, but by whoever wrote the bundle or the cache")
    spec = key.specification
    if came_proved(spec, code.kernel):
        return KernelState(PROVED)
    kept = _kept(key, code)
    if kept is not None and kept.state != UNKNOWN:
        return kept
    checked = checked_kernels(key.book, key.device, key.operator, spec.types.name, key.parameters)
    if how := checked.get(kernel_for(spec, code.kernel)):
        return KernelState(TESTED, kept.reason if kept else "", f"{', '.join(CHECKED)}; {how}")
    return kept or KernelState(UNKNOWN, UNCHECKED)


def validate(key: CodeKey, code: CompiledOperator) -> KernelState:
    """Prove a kernel, or else test it in a child process, and store the result.

    Args:
        key: what its code was generated from.
        code: its code.
    """
    known = kernel_state(key, code)
    if known.may_run or known.state == WRONG or not code.kernel:
        return known
    verdict = _verdict(key, code, apart=True)
    if verdict is None:
        return KernelState(UNKNOWN, CHANGES)
    found = _shown(verdict) or _test(key, code, reason_of(verdict))
    _keep(key.operator, kernel_for(key.specification, code.kernel), key.device, found)
    return found


def prove_kernel(key: CodeKey, code: CompiledOperator) -> KernelState:
    """Prove a kernel if nothing is known of it, and store the result; it is not tested.

    Args:
        key: what its code was generated from.
        code: its code.
    """
    known = kernel_state(key, code)
    if known.state != UNKNOWN or not code.generated_here or not code.kernel or _kept(key, code):
        return known
    verdict = _verdict(key, code)
    if verdict is None:
        return KernelState(UNKNOWN, CHANGES)
    found = _shown(verdict) or KernelState(UNKNOWN, f"it was not proved: {reason_of(verdict)}")
    _keep(key.operator, kernel_for(key.specification, code.kernel), key.device, found)
    return found


def _verdict(key: CodeKey, code: CompiledOperator, apart: bool = False) -> Verdict | None:
    """Return what is shown of the kernel that code was generated from; None if the recipe yields another one now."""
    spec, last = key.specification, key.steps()[-1]
    if kernel_identity(last.kernel, key.book.build_options) != code.kernel:
        return None
    return verdict_on(spec, last, key.device, key.book.build_options, apart)


def _shown(verdict: Verdict) -> KernelState | None:
    """Return the state of a kernel that is proved, or that calls a function which is not what it stands for."""
    if isinstance(verdict, Proved):
        return _proved(rests_on(verdict))
    return KernelState(WRONG, reason_of(verdict)) if isinstance(verdict, Refuted) else None


def _proved(rests: Iterable[str]) -> KernelState:
    text = ", ".join(rests)
    return KernelState(PROVED, tests=f"this rests on tests on this device: {text}" if text else "")


def admit(certify: str, key: CodeKey, code: CompiledOperator) -> CompiledOperator:
    """Let a kernel run only if it is certified.

    Code that was not generated here may name a certified kernel and do something else, so it is generated anew.

    Args:
        certify: ``"first-use"`` to validate kernels that are not, ``"require"`` to refuse them.
        key, code: the kernel.

    Returns:
        The code to run, which was generated here.

    Raises:
        UncertifiedError: it is not certified.
        RecipeError: its code cannot be generated anew.
    """
    if not code.generated_here:
        code = generate(key)
        keep(key, code)
    found = validate(key, code) if certify == "first-use" else kernel_state(key, code)
    if found.may_run:
        return code
    spec = key.specification
    what = f"{key.operator} of book {key.book.name!r} ({spec.greens.name}, order {spec.order}, {spec.types.name})"
    if found.state == WRONG:
        raise UncertifiedError(f"{what} is wrong: {found.reason}; `fmmloopy check` shows more")
    raise UncertifiedError(
        f"{what} is neither proved nor tested on {key.device.name}: {found.reason}; use certify='first-use', or run "
        "`fmmloopy check` on the book"
    )


def _test(key: CodeKey, code: CompiledOperator, reason: str) -> KernelState:
    """Test a kernel in a child process; it was not proved for a reason."""
    spec = key.specification
    request = Request(key.book, key.device, key.operator, spec.types.name, dict(key.parameters))
    try:
        with Worker() as worker:
            failure, tested, how = worker.call(check_kernel, request, spec.greens, spec.order)
    except (ChildError, MemoryError) as error:
        return KernelState(WRONG, one_line(error))
    if tested != code.kernel:
        return KernelState(UNKNOWN, CHANGES)
    return KernelState(WRONG, failure.message) if failure else KernelState(TESTED, reason, how)


def keep_proofs(device: Device, proofs: Iterable[Proof]) -> None:
    """Store which kernels a check has proved, as if they were proved when they run."""
    for proof in proofs:
        if proof.proved and proof.kernel:
            _keep(proof.operator, proof.kernel, device, _proved(proof.rests))


def _kept(key: CodeKey, code: CompiledOperator) -> KernelState | None:
    """Read the state of a kernel from disk; None if there is none."""
    text = _text(kernel_for(key.specification, code.kernel), key.device)
    try:
        found = KernelState(**store.kept(_file(key.operator, text), text, packed=False))
    except TypeError:
        return None
    is_state = found.state in KEPT and isinstance(found.reason, str) and isinstance(found.tests, str)
    return found if is_state else None


def _keep(operator: str, kernel: str, device: Device, state: KernelState) -> None:
    text = _text(kernel, device)
    store.keep(_file(operator, text), text, asdict(state))


def _file(operator: str, text: str) -> Path:
    return store.keyed_file("kernels", text, f"{operator}-")


def _text(kernel: str, device: Device) -> str:
    """Return everything that the state of a kernel, as `kernel_for`, depends on as text."""
    return repr((kernel, device.description, device.driver, CHECKER, prover_hash(), versions()))
