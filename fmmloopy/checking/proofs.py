"""The symbolic layer: which kernels of a recipe are proved for all sizes, and what is in the way of the others."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path

from fmmloopy.bookshelf.certificates import came_proved, kernel_for, read_shipped
from fmmloopy.checking import functions as functions_module
from fmmloopy.checking import proof
from fmmloopy.checking.case import POLYNOMIAL_2X2, Layout
from fmmloopy.checking.functions import settled
from fmmloopy.checking.inputs import SHIPPED
from fmmloopy.checking.proof import NotProved, Proved, Refuted, Verdict, Wrong, prove
from fmmloopy.common.sizes import FIRST_ORDER, LAST_ORDER
from fmmloopy.components import CHARGES, Components
from fmmloopy.execution.devices import Device
from fmmloopy.execution.key import sources_hash
from fmmloopy.greens import GreensFunction, laplace, yukawa
from fmmloopy.operators import Form, Operator, Specification
from fmmloopy.operators.operator import Kernel
from fmmloopy.recipes.apply import Step
from fmmloopy.recipes.fingerprint import hash_of_sources
from fmmloopy.recipes.lanes import sequential_recipe

ORDER = 3
"""The order that kernels are proved for in a check; only transforms have another kernel for another order."""

OTHERS = SHIPPED["stokeslet"], *(function for name, function in SHIPPED.items() if name != "stokeslet")
"""Green's functions whose kernels are proved for shipped books and at level full, too: the first has 3 x 3 entries."""

EXTENDED = (
    Components(dipoles=True),
    Components(gradient=True, hessian=True),
    Components(dipoles=True, gradient=True, hessian=True),
    Components(vectors=2),
    Components(vectors=8),
)
"""What is proved, for Laplace's function, beside charges and gradients."""

LARGEST_WITNESS = 2000
"""Numbers of points up to this are tried where a proof says that kernels differ."""


@dataclass(frozen=True)
class Proof:
    """What was shown of one kernel, the last of a recipe.

    Attributes:
        operator, dtype: whose kernel, and in which types.
        greens: name of the Green's function.
        order: of the surfaces.
        proved: whether it does what the sequential kernel does for all sizes; else it is only tested.
        reason: why it is not proved, with the statement that is in the way.
        rests: what it rests on, as tested on the device of the check: what functions that steps declare are.
        kernel: which one, see `fmmloopy.bookshelf.certificates.kernel_for`; "" if it is not known.
    """

    operator: str
    dtype: str
    greens: str
    order: int
    proved: bool
    reason: str = ""
    rests: tuple[str, ...] = ()
    kernel: str = field(default="", compare=False)


def functions(operator: Operator) -> tuple[GreensFunction, ...]:
    """Return the Green's functions whose kernels are proved."""
    if not operator.particles:
        return laplace(), POLYNOMIAL_2X2
    plain = laplace(), yukawa()
    return *plain, *(f.with_gradient() for f in plain if operator.gives_potentials), POLYNOMIAL_2X2


def stated(operator: Operator) -> tuple[tuple[GreensFunction, int], ...]:
    """Return the Green's functions and orders for which the kernels of shipped books are proved."""
    more = [order for order in range(FIRST_ORDER, LAST_ORDER + 1) if order != ORDER]
    orders = [ORDER, *(more if operator.form == Form.TRANSFORM else ())]
    found = *functions(operator), *(_others(operator) if operator.particles else OTHERS[:1])
    return tuple((greens, order) for order in orders for greens in found)


def _others(operator: Operator) -> tuple[GreensFunction, ...]:
    """Return the other functions whose kernels are proved for shipped books.

    Of functions of several components, only the Stokeslet has its gradient among them: each of these takes up to six
    seconds, a dozen times for each operator. Where they are used, they are proved in the background.
    """
    gradients = [f.with_gradient() for f in OTHERS if f is OTHERS[0] or len(f.matrix) == len(f.matrix[0]) == 1]
    components = dict.fromkeys(operator.own(each) for each in EXTENDED)
    more = [each.of(laplace()) for each in components if each not in (CHARGES, Components(gradient=True))]
    return (*OTHERS, *(gradients if operator.gives_potentials else ()), *more)


def verdict_on(
    spec: Specification,
    last: Step,
    device: Device | None = None,
    build_options: tuple[str, ...] = (),
    apart: bool = False,
) -> Verdict:
    """Return what is shown of the last kernel of a recipe.

    Args:
        spec: the specification of its math-level kernel.
        last: the last step.
        device: on which the functions that steps declare are tested; without one, no proof rests on any, and what is
            proved holds on every device.
        build_options: with which the kernel is built there.
        apart: whether the functions run in a child process.
    """
    return settled(prove(_sequential(spec), last.kernel, spec.operator), device, build_options, apart)


@lru_cache(maxsize=32)
def _sequential(spec: Specification) -> Kernel:
    ((_, sequential),) = sequential_recipe(spec.kernel())
    return sequential


def is_still_proved(spec: Specification, identity: str) -> bool:
    """Return whether a kernel came proved, and what proved it and the operators are the same as then."""
    shipped = read_shipped()
    hashes = shipped["prover"], shipped["sources"]
    return came_proved(spec, identity) and hashes == (prover_hash(), sources_hash())


def proof_of(spec: Specification, verdict: Verdict, identity: str = "") -> Proof:
    """Return a verdict on a kernel with an identity as a report has it."""
    operator, dtype = spec.operator.name, spec.types.name
    proved, kernel = isinstance(verdict, Proved), kernel_for(spec, identity)
    return Proof(operator, dtype, spec.greens.name, spec.order, proved, reason_of(verdict), rests_on(verdict), kernel)


def rests_on(verdict: Verdict) -> tuple[str, ...]:
    """Say what a proof takes from tests on a device."""
    lemmas = verdict.lemmas if isinstance(verdict, Proved) else ()
    return tuple(f"{lemma.name} is {lemma.function} in {lemma.dtype}" for lemma in lemmas)


def reason_of(verdict: Verdict) -> str:
    """Say why a kernel is not proved; nothing if it is."""
    if isinstance(verdict, NotProved):
        return f"{verdict.statement}: {verdict.reason}" if verdict.statement else verdict.reason
    if isinstance(verdict, Refuted):
        return verdict.reason
    return f"{verdict.where}, at {verdict.witness}" if isinstance(verdict, Wrong) else ""


@cache
def prover_hash() -> str:
    """Return a hash of the code that proves, without comments and file names."""
    folder = Path(proof.__file__ or "").parent
    return hash_of_sources(sorted([*folder.glob("*.py"), Path(functions_module.__file__ or "")]))[:32]


def witness_layouts(wrong: Wrong) -> Iterator[Layout]:
    """Yield layouts with as many points, boxes and pairs as a point at which kernels seem to differ says."""
    numbers = {int(n) for n in re.findall(r"=(\d+)", wrong.witness)}
    for n in sorted(n for n in numbers if 1 < n <= LARGEST_WITNESS):
        name = f"{n} points, boxes or pairs"
        yield Layout(name, sizes=(n, 1, n + 1), blocks=min(n + 1, 300), pairs=(n, 0, n + 1))


def summary(proofs: Sequence[Proof]) -> list[str]:
    """Say in a few lines which operators are proved, and what is in the way of the others."""
    operators = dict.fromkeys(proof.operator for proof in proofs)
    open_ = {name: [p for p in proofs if p.operator == name and not p.proved] for name in operators}
    proved = [name for name, rest in open_.items() if not rest]
    lines = [f"proved for all sizes: {', '.join(proved)}"] if proved else []
    if rests := dict.fromkeys(text for proof in proofs if proof.proved for text in proof.rests):
        lines.append(f"this rests on tests on this device: {', '.join(rests)}")
    for name, rest in open_.items():
        if rest:
            which = ", ".join(dict.fromkeys(f"{p.greens} in {p.dtype}" for p in rest))
            lines.append(f"tested, not proved: {name} ({which}): {rest[0].reason}")
    return lines
