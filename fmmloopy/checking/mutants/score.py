"""Check every mutant of a recipe's kernels, the cheapest layer first, and count which layer notices what.

A mutant is a recipe of one step, the kernel after the last step of the original with one fault in it, so it goes
through the same layers as any recipe, but for the symbolic one: that decides which survivors are equal to the
sequential kernel, and no mutant that another layer notices may be proved. A fault that leaves the generated code as it
is, such as a dependency that another one implies, is no mutant and is not counted.
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np

from fmmloopy.checking import sanitizer
from fmmloopy.checking.inputs import several
from fmmloopy.checking.layers import OperatorCheck, check_operator
from fmmloopy.checking.mutants.changes import KINDS, Mutation, mutated, mutations, prepared
from fmmloopy.checking.proof import Proved
from fmmloopy.checking.proofs import verdict_on
from fmmloopy.checking.request import LAYERS, Request
from fmmloopy.common.isolation import ChildError, Stage, Worker
from fmmloopy.execution.devices import Device
from fmmloopy.greens import GreensFunction, laplace, yukawa
from fmmloopy.operators import Operator, Specification
from fmmloopy.operators.operator import Kernel
from fmmloopy.precision import find_types
from fmmloopy.recipes.apply import apply_recipe
from fmmloopy.recipes.book import Recipe, RecipeBook

SAME, SURVIVED, EQUAL = "same code", "survived", "equal"

LIMIT = 60.0
"""Seconds for code generation, and for a run: a mutant that takes longer does not return."""

ORDER = 3
"""Order of the kernels that mutations are made from."""

TESTS = tuple(layer for layer in LAYERS if layer != "symbolic")
"""The layers that run kernels or generate their code, the cheapest first."""


@dataclass(frozen=True)
class Score:
    """What became of the mutants of one recipe.

    Attributes:
        operator, dtype: whose kernels.
        places: how many faults there can be, of which a part may have been tried.
        verdicts: of each mutation that was tried: the layer that noticed it, SAME, EQUAL or SURVIVED.
        unsound: those that a layer noticed though they were proved: errors of the prover, or of the layer.
    """

    operator: str
    dtype: str
    places: int
    verdicts: tuple[tuple[Mutation, str], ...]
    unsound: tuple[Mutation, ...] = ()

    @property
    def counts(self) -> Counter[str]:
        """How many mutations have each verdict."""
        return Counter(verdict for _, verdict in self.verdicts)

    @property
    def mutants(self) -> int:
        """How many faults change what is computed, as far as is known."""
        return len(self.verdicts) - self.counts[SAME] - self.counts[EQUAL]

    @property
    def killed(self) -> float:
        """The part of the mutants that some layer notices."""
        return 1 - self.counts[SURVIVED] / self.mutants if self.mutants else 1.0

    @property
    def survivors(self) -> tuple[Mutation, ...]:
        """The mutations that no layer notices."""
        return tuple(mutation for mutation, verdict in self.verdicts if verdict == SURVIVED)


def score(
    book: RecipeBook,
    operator: str,
    device: Device,
    dtype: str = "float64",
    most: int | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Score:
    """Check the mutants of a recipe's kernels.

    Args:
        book, operator: whose recipe.
        device: the device to run on.
        dtype: types of the kernels: float32, float64 or mixed.
        most: maximum number of mutations to try, drawn at random; None for all.
        tell: called with a line for each mutation.
    """
    request = Request(book, device, operator, dtype, layers=TESTS[:-1], smallest=False)
    request = replace(request, code_limit=LIMIT, run_limit=LIMIT)
    found = all_mutations(request)
    chosen = found
    if most is not None and most < len(found):
        places = np.random.default_rng(0).permutation(len(found))[:most]
        chosen = [found[place] for place in sorted(places)]
    with _Judges(request) as judges:

        def judge(mutation: Mutation) -> tuple[str, bool]:
            verdict, proved = judges.verdict(mutation)
            tell(f"{operator}, {mutation}: {verdict}{', though proved' if proved and verdict in LAYERS else ''}")
            return verdict, proved

        with ThreadPoolExecutor(judges.count) as pool:
            judged = list(zip(chosen, pool.map(judge, chosen), strict=True))
    unsound = tuple(mutation for mutation, (verdict, proved) in judged if proved and verdict in LAYERS)
    return Score(operator, dtype, len(found), tuple((mutation, verdict) for mutation, (verdict, _) in judged), unsound)


def functions(operator: Operator, dtype: str) -> tuple[GreensFunction, ...]:
    """Return Green's functions whose kernels have all places for faults: several components, a root, derivatives."""
    found = [several(find_types(dtype))]
    if operator.particles:
        real = yukawa(0.5)
        found += [laplace(), real.with_gradient() if operator.gives_potentials else real]
    return tuple(found)


def all_mutations(request: Request) -> list[Mutation]:
    """Return the mutations of all kernels of a request, in the order of KINDS."""
    operator = request.book.operator(request.operator)
    found: dict[Mutation, None] = {}
    for greens in functions(operator, request.dtype):
        math = Specification(operator, greens, ORDER, find_types(request.dtype)).kernel()
        given = request.book.parameters_on(request.operator, request.device, request.parameters)
        steps = apply_recipe(request.book, request.operator, math, given)
        found |= dict.fromkeys(mutations(prepared(steps[-1].kernel)))
    return sorted(found, key=lambda mutation: KINDS.index(mutation.kind))


def mutant(book: RecipeBook, operator: str, mutation: Mutation | None) -> RecipeBook:
    """Return a book whose recipe makes kernels with a fault in one step; without one, those of the original."""
    by_device = {operator: book.by_device[operator]} if operator in book.by_device else {}
    recipe = _one_step(book.recipes[operator], mutation)
    return replace(book, recipes={operator: recipe}, tuning={}, by_device=by_device)


def _one_step(recipe: Recipe, mutation: Mutation | None) -> Recipe:
    @functools.wraps(recipe)
    def one_step(knl: Kernel, **parameters: Any) -> Iterator[tuple[str, Kernel]]:
        *_, (_, last) = recipe(knl, **parameters)
        whole = prepared(last)
        yield "mutant", mutated(whole, mutation) if mutation else whole

    return one_step


def judge_mutant(stage: Stage, request: Request, original: RecipeBook) -> tuple[str, bool]:
    """Return the layer that notices a fault, SAME or SURVIVED, and whether the mutant's kernels are proved.

    Args:
        stage: called before each stage.
        request: of the mutant.
        original: the same without the fault.
    """
    check, operator = OperatorCheck(stage, request), request.book.operator(request.operator)
    failure = check.run()
    if failure and failure.layer == "static":
        return "static", False
    if not failure:
        others = OperatorCheck(stage, replace(request, book=original))
        found = functions(operator, request.dtype)
        if all(check.code(greens, ORDER).source == others.code(greens, ORDER).source for greens in found):
            return SAME, False
    stage("proving the mutant", LIMIT)
    return failure.layer if failure else SURVIVED, _is_proved(request, operator)


def _is_proved(request: Request, operator: Operator) -> bool:
    """Return whether the kernels of a mutant are proved to do what the sequential ones do, for all functions."""
    for greens in functions(operator, request.dtype):
        spec = Specification(operator, greens, ORDER, find_types(request.dtype))
        given = request.book.parameters_on(request.operator, request.device, request.parameters)
        last = apply_recipe(request.book, request.operator, spec.kernel(), given)[-1]
        if not isinstance(verdict_on(spec, last), Proved):
            return False
    return True


class _Judges:
    """Processes that check mutants, in pairs: one for the device, one whose device is oclgrind."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._folder = tempfile.TemporaryDirectory(prefix="fmmloopy-mutants-")
        self._pairs: SimpleQueue[tuple[Worker, Worker | None]] = SimpleQueue()
        self._all: list[Worker] = []
        self.count = max(1, min(4, os.cpu_count() or 1))
        library = sanitizer.find_library()
        for index in range(self.count):
            second = None
            if library:
                second = Worker(sanitizer.environment(library, Path(self._folder.name) / f"{index}.log"))
            pair = Worker(), second
            self._all += [worker for worker in pair if worker]
            self._pairs.put(pair)

    def __enter__(self) -> _Judges:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._all:
            worker.close()
        self._folder.cleanup()

    def verdict(self, mutation: Mutation) -> tuple[str, bool]:
        """Return what becomes of a mutation, and whether the mutant is proved."""
        request, pair = self._request, self._pairs.get()
        whole = replace(request, book=mutant(request.book, request.operator, mutation))
        original = mutant(request.book, request.operator, None)
        try:
            found, proved = _noticed(lambda: pair[0].call(judge_mutant, whole, original))
            if found == SURVIVED and pair[1]:
                second = pair[1]
                found, _ = _noticed(lambda: second.call(judge_simulated, replace(whole, layers=("sanitized",))))
        finally:
            self._pairs.put(pair)
        return EQUAL if found == SURVIVED and proved else found, proved


def judge_simulated(stage: Stage, request: Request) -> tuple[str, bool]:
    """Return ``"sanitized"`` if oclgrind notices a fault, else SURVIVED; nothing is proved."""
    return "sanitized" if check_operator(stage, request) else SURVIVED, False


def _noticed(judge: Callable[[], tuple[str, bool]]) -> tuple[str, bool]:
    """Call a judge; if its process dies or does not return, the layer that it was in has noticed."""
    try:
        return judge()
    except ChildError as error:
        layer = error.stage.partition(":")[0]
        return layer if layer in LAYERS else "static", False


def table(scores: Sequence[Score], head: Mapping[str, str]) -> str:
    """Write scores down in Markdown: a table by operator, and the survivors."""
    columns = (*TESTS, SURVIVED)
    lines = [f"- {name}: {text}" for name, text in head.items()]
    lines += ["", "| operator | numbers | faults tried | of | same code | proved equal | mutants | "]
    lines[-1] += " | ".join(columns) + " | score |"
    lines.append("|---|---" + "|---:" * (len(columns) + 6) + "|")
    for each in scores:
        counts = each.counts
        numbers = [len(each.verdicts), each.places, counts[SAME], counts[EQUAL], each.mutants]
        numbers += [counts[column] for column in columns]
        cells = [each.operator, each.dtype, *(str(number or "") for number in numbers), f"{100 * each.killed:.1f} %"]
        lines.append("| " + " | ".join(cells) + " |")
    survivors = [(each, mutation) for each in scores for mutation in each.survivors]
    unsound = [(each, mutation) for each in scores for mutation in each.unsound]
    for title, found in (("Survivors", survivors), ("Noticed though proved", unsound)):
        lines += ["", f"{title}: {len(found)}."]
        if found:
            lines += ["", *(f"- {each.operator}, {each.dtype}: {mutation}" for each, mutation in found)]
    return "\n".join(lines) + "\n"
