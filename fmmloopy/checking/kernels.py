"""What is known of a kernel that runs: proved for all sizes, tested, or neither.

The state belongs to the kernel itself (its identity) and to the device, not to the recipe that yielded it. If a recipe
yields another kernel for another order, Green's function or environment, nothing is known of that kernel yet.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from fmmloopy.bookshelf.certificates import CHECKER, checked_kernels
from fmmloopy.checking.layers import check_kernel
from fmmloopy.checking.proofs import came_proved, proof_of, verdict_on
from fmmloopy.checking.request import Request
from fmmloopy.common import store
from fmmloopy.common.isolation import ChildError, Worker
from fmmloopy.common.messages import one_line
from fmmloopy.execution.key import CodeKey, versions
from fmmloopy.execution.launch import CompiledOperator
from fmmloopy.recipes.book import RecipeError
from fmmloopy.recipes.identity import kernel_identity

PROVED, TESTED, SEQUENTIAL, UNKNOWN, WRONG = "proved", "tested", "sequential", "unknown", "wrong"

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
    """

    state: str
    reason: str = ""

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
    if came_proved(key.specification, code.kernel):
        return KernelState(PROVED)
    kept = _kept(key, code)
    if kept is not None and kept.state != UNKNOWN:
        return kept
    if code.kernel in checked_kernels(key.book, key.device, key.operator, key.specification.types.name, key.parameters):
        return KernelState(TESTED, kept.reason if kept else "")
    return kept or KernelState(UNKNOWN, "it was not checked on this device")


def validate(key: CodeKey, code: CompiledOperator) -> KernelState:
    """Prove a kernel, or else test it in a child process, and store the result.

    Args:
        key: what its code was generated from.
        code: its code.
    """
    known = kernel_state(key, code)
    if known.may_run or known.state == WRONG or not code.kernel:
        return known
    spec, last = key.specification, key.steps()[-1]
    if kernel_identity(last.kernel, key.book.build_options) != code.kernel:
        return KernelState(UNKNOWN, CHANGES)
    proof = proof_of(spec, verdict_on(spec, last))
    found = KernelState(PROVED) if proof.proved else _test(key, code, proof.reason)
    store.keep(_file(key, code), _text(key, code), asdict(found))
    return found


def admit(certify: str, key: CodeKey, code: CompiledOperator) -> None:
    """Let a kernel run only if it is certified.

    Args:
        certify: ``"first-use"`` to validate kernels that are not, ``"require"`` to refuse them.
        key, code: the kernel.

    Raises:
        UncertifiedError: it is not certified.
    """
    found = validate(key, code) if certify == "first-use" else kernel_state(key, code)
    if found.may_run:
        return
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
            failure, tested = worker.call(check_kernel, request, spec.greens, spec.order)
    except (ChildError, MemoryError) as error:
        return KernelState(WRONG, one_line(error))
    if tested != code.kernel:
        return KernelState(UNKNOWN, CHANGES)
    return KernelState(WRONG, failure.message) if failure else KernelState(TESTED, reason)


def _kept(key: CodeKey, code: CompiledOperator) -> KernelState | None:
    """Read the state of a kernel from disk; None if there is none."""
    try:
        return KernelState(**store.kept(_file(key, code), _text(key, code)))
    except (KeyError, TypeError):
        return None


def _file(key: CodeKey, code: CompiledOperator) -> Path:
    return store.keyed_file("kernels", _text(key, code), f"{key.operator}-")


def _text(key: CodeKey, code: CompiledOperator) -> str:
    """Return everything that the state of a kernel depends on as text."""
    return repr((code.kernel, key.device.description, key.device.driver, CHECKER, versions()))
