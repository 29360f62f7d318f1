"""Check every mutant of a recipe's kernels, the cheapest layer first, and count which layer notices what.

A mutant is a recipe of one step, the kernel after the last step of the original with one fault in it, so it goes
through the same layers as any recipe, but for the symbolic one: that decides which survivors are equal to the
sequential kernel, and no mutant that another layer notices may be proved. A fault that leaves the generated code as it
is, such as a dependency that another one implies, is no mutant and is not counted. If it is asked for, each layer that
comes after the one that notices a mutant is run alone, to see what it would notice without the others.
"""

from __future__ import annotations

import functools
import math
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np

from fmmloopy.checking import sanitizer
from fmmloopy.checking.inputs import several
from fmmloopy.checking.layers import OperatorCheck, check_operator
from fmmloopy.checking.mutants.changes import KINDS, Mutation, mutated, mutations, prepared
from fmmloopy.checking.proof import Proved, Wrong
from fmmloopy.checking.proofs import verdict_on
from fmmloopy.checking.request import LAYERS, Request
from fmmloopy.checking.whole import check_whole
from fmmloopy.common import store
from fmmloopy.common.cores import processors
from fmmloopy.common.isolation import ChildError, Stage, Worker
from fmmloopy.execution.devices import Device
from fmmloopy.greens import GreensFunction, laplace, yukawa
from fmmloopy.operators import Operator, Specification
from fmmloopy.operators.operator import Kernel
from fmmloopy.precision import find_types
from fmmloopy.recipes.apply import apply_recipe
from fmmloopy.recipes.book import Recipe, RecipeBook

SAME, SURVIVED, EQUAL = "same code", "survived", "equal"

PROVED, WRONG = "proved", "wrong"

LIMIT = 60.0
"""Seconds for code generation, and for a run: a mutant that takes longer does not return."""

ORDER = 3
"""Order of the kernels that mutations are made from."""

WHOLE = "fmm"
"""The layer of whole evaluations, which is tried for survivors."""

ENOUGH, CONFIDENCE = 0.995, 0.95
"""The part of the mutants of an operator that layers must notice, and how sure the part of all of them is."""

TESTS = tuple(layer for layer in LAYERS if layer != "symbolic")
"""The layers that run kernels or generate their code, the cheapest first."""


@dataclass(frozen=True)
class Judged:
    """What became of one mutation.

    Attributes:
        mutation: the fault.
        verdict: the first layer that noticed it, SAME, EQUAL or SURVIVED.
        proof: PROVED or WRONG if the prover says that of the mutant's kernels, of any of them for the latter; else "".
        alone: the layers that notice it by themselves, if that was asked for, but for the symbolic one.
    """

    mutation: Mutation
    verdict: str
    proof: str = ""
    alone: tuple[str, ...] = ()

    @property
    def is_mutant(self) -> bool:
        """Whether the fault changes what is computed, as far as is known."""
        return self.verdict not in (SAME, EQUAL)

    @property
    def is_unsound(self) -> bool:
        """Whether a layer noticed it though it was proved: an error of the prover, or of the layer."""
        return self.proof == PROVED and self.verdict in (*LAYERS, WHOLE)


@dataclass(frozen=True)
class Score:
    """What became of the mutants of one recipe.

    Attributes:
        operator, dtype: whose kernels.
        places: how many faults there can be, of which a part may have been tried.
        judged: what became of those that were tried.
    """

    operator: str
    dtype: str
    places: int
    judged: tuple[Judged, ...]

    @property
    def counts(self) -> Counter[str]:
        """How many mutations have each verdict."""
        return Counter(each.verdict for each in self.judged)

    @property
    def alone(self) -> Counter[str]:
        """How many mutants each layer notices by itself; for the symbolic one, those that it says are wrong."""
        return Counter(
            layer
            for each in self.judged
            if each.is_mutant
            for layer in (*each.alone, *(("symbolic",) if each.proof == WRONG else ()))
        )

    @property
    def mutants(self) -> int:
        """How many faults change what is computed, as far as is known."""
        return sum(each.is_mutant for each in self.judged)

    @property
    def killed(self) -> float:
        """The part of the mutants that some layer notices."""
        return 1 - self.counts[SURVIVED] / self.mutants if self.mutants else 1.0

    @property
    def at_least(self) -> float:
        """The part that layers notice of all mutants, with 95 % confidence, if those tried were drawn at random."""
        lower, upper, survivors = 0.0, 1.0, self.counts[SURVIVED]
        for _ in range(50):  # Clopper and Pearson (1934): so few survivors have a chance of 5 %
            middle = (lower + upper) / 2
            chance = sum(
                math.comb(self.mutants, k) * (1 - middle) ** k * middle ** (self.mutants - k)
                for k in range(survivors + 1)
            )
            lower, upper = (middle, upper) if chance < 1 - CONFIDENCE else (lower, middle)
        return lower if self.mutants else 0.0

    @property
    def suffices(self) -> bool:
        """Whether enough mutants are noticed, and nothing that was proved is."""
        return self.killed >= ENOUGH and not self.unsound

    @property
    def survivors(self) -> tuple[Mutation, ...]:
        """The mutations that no layer notices."""
        return tuple(each.mutation for each in self.judged if each.verdict == SURVIVED)

    @property
    def unsound(self) -> tuple[Mutation, ...]:
        """Those that a layer noticed though they were proved."""
        return tuple(each.mutation for each in self.judged if each.is_unsound)


def score(
    book: RecipeBook,
    operator: str,
    device: Device,
    dtype: str = "float64",
    most: int | None = None,
    tell: Callable[[str], None] = lambda line: None,
    every_layer: bool = False,
) -> Score:
    """Check the mutants of a recipe's kernels.

    Args:
        book, operator: whose recipe.
        device: the device to run on.
        dtype: types of the kernels: float32, float64 or mixed.
        most: maximum number of mutations to try, drawn at random; None for all.
        tell: called with a line for each mutation.
        every_layer: whether each layer is tried alone, not only until one notices.
    """
    request = Request(book, device, operator, dtype, layers=TESTS[:-1], smallest=False)
    request = replace(request, code_limit=LIMIT, run_limit=LIMIT)
    found = all_mutations(request)
    chosen = found
    if most is not None and most < len(found):
        places = np.random.default_rng(0).permutation(len(found))[:most]
        chosen = [found[place] for place in sorted(places)]
    with _Judges(request) as judges:

        def judge(mutation: Mutation) -> Judged:
            found = judges.judge(mutation, every_layer)
            tell(f"{operator}, {mutation}: {found.verdict}{', though proved' if found.is_unsound else ''}")
            return found

        with ThreadPoolExecutor(judges.count) as pool:
            judged = tuple(pool.map(judge, chosen))
    return Score(operator, dtype, len(found), judged)


def functions(operator: Operator, dtype: str) -> tuple[GreensFunction, ...]:
    """Return Green's functions whose kernels have all places for faults: several components, a root, derivatives."""
    found = [several(find_types(dtype))]
    if operator.particles:
        real = laplace(), yukawa(0.5)
        found += [each.with_gradient() for each in real] if operator.gives_potentials else real
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


def judge_mutant(stage: Stage, request: Request, original: RecipeBook) -> tuple[str, str]:
    """Return the layer that notices a fault, SAME or SURVIVED, and what the prover says of the mutant's kernels.

    Args:
        stage: called before each stage.
        request: of the mutant.
        original: the same without the fault.
    """
    check, operator = OperatorCheck(stage, request), request.book.operator(request.operator)
    failure = check.run()
    if failure and failure.layer == "static":
        return "static", ""
    if not failure:
        others = OperatorCheck(stage, replace(request, book=original))
        found = functions(operator, request.dtype)
        if all(check.code(greens, ORDER).source == others.code(greens, ORDER).source for greens in found):
            return SAME, ""
    stage("proving the mutant", LIMIT)
    return failure.layer if failure else SURVIVED, _proof(request, operator)


def _proof(request: Request, operator: Operator) -> str:
    """Return PROVED if all kernels of a mutant are proved, WRONG if the prover says that one is wrong, else ""."""
    proved = True
    for greens in functions(operator, request.dtype):
        spec = Specification(operator, greens, ORDER, find_types(request.dtype))
        given = request.book.parameters_on(request.operator, request.device, request.parameters)
        last = apply_recipe(request.book, request.operator, spec.kernel(), given)[-1]
        verdict = verdict_on(spec, last)
        if isinstance(verdict, Wrong):
            return WRONG
        proved = proved and isinstance(verdict, Proved)
    return PROVED if proved else ""


class _Judges:
    """Processes that check mutants, in pairs: one for the device, one whose device is oclgrind."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._folder = tempfile.TemporaryDirectory(prefix="fmmloopy-mutants-")
        self._pairs: SimpleQueue[tuple[Worker, Worker | None]] = SimpleQueue()
        self._all: list[Worker] = []
        self.count = max(1, min(4, processors()))
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

    def judge(self, mutation: Mutation, every_layer: bool) -> Judged:
        """Return what becomes of a mutation, and also what each layer alone would notice, if asked."""
        request, (device, simulator) = self._request, self._pairs.get()
        whole = replace(request, book=mutant(request.book, request.operator, mutation))
        original = mutant(request.book, request.operator, None)

        def notices(layer: str) -> bool:
            worker = simulator if layer == "sanitized" else device
            if worker is None:
                return False
            part = replace(whole, layers=(layer,))
            return _noticed(lambda: (layer if worker.call(check_operator, part) else SURVIVED, ""))[0] != SURVIVED

        try:
            verdict, proof = _noticed(lambda: device.call(judge_mutant, whole, original))
            if verdict == SURVIVED and notices("sanitized"):
                verdict = "sanitized"
            if verdict == SURVIVED and proof != PROVED and _noticed_whole(device, whole):
                verdict = WHOLE
            alone: tuple[str, ...] = (verdict,) if verdict in TESTS else ()
            # Other layers cannot run what has no code.
            if every_layer and verdict in TESTS and verdict != "static":
                alone += tuple(layer for layer in TESTS[TESTS.index(verdict) + 1 :] if notices(layer))
        finally:
            self._pairs.put((device, simulator))
        if verdict == SURVIVED and proof == PROVED:
            verdict = EQUAL
        return Judged(mutation, verdict, proof, alone if every_layer else ())


def _noticed_whole(worker: Worker, request: Request) -> bool:
    """Return whether whole evaluations with a mutant are wrong, or do not return."""
    parameters = {request.operator: dict(request.parameters)}
    arguments = request.book, request.device.description, request.dtype, parameters, False
    try:
        return bool(worker.call(check_whole, *arguments).message)
    except ChildError:
        return True


def _noticed(judge: Callable[[], tuple[str, str]]) -> tuple[str, str]:
    """Call a judge; if its process dies or does not return, the layer that it was in has noticed."""
    try:
        return judge()
    except ChildError as error:
        layer = error.stage.partition(":")[0]
        return layer if layer in LAYERS else "static", ""


def keep_score(key: str, found: Score) -> None:
    """Store a score on disk under everything that it depends on, so that a run can be resumed."""
    store.keep(store.keyed_file("mutants", key), key, asdict(found))


def kept_score(key: str) -> Score | None:
    """Return the score that is stored under a key; None if there is none."""
    try:
        content = store.kept(store.keyed_file("mutants", key), key, packed=False)
        judged = tuple(
            Judged(Mutation(**each["mutation"]), each["verdict"], each["proof"], tuple(each["alone"]))
            for each in content["judged"]
        )
        return Score(content["operator"], content["dtype"], content["places"], judged)
    except (TypeError, KeyError):
        return None


def with_section(page: str, title: str, text: str) -> str:
    """Return a page with one section replaced, or with a new one at its end; others stay."""
    head, *sections = re.split(r"(?m)^(?=#### )", page)
    new = f"#### {title}\n\n{text.strip()}\n"
    at = next((n for n, old in enumerate(sections) if old.startswith(f"#### {title}\n")), len(sections))
    sections[at : at + 1] = [new]
    return head.rstrip() + "\n\n" + "\n".join(section.strip() + "\n" for section in sections)


def table(scores: Sequence[Score], head: Mapping[str, str]) -> str:
    """Write scores down in Markdown: tables by operator, and the survivors."""
    lines = [f"- {name}: {text}" for name, text in head.items()]
    columns = (
        "operator",
        "numbers",
        "faults tried",
        "of",
        "same code",
        "proved equal",
        "mutants",
        *TESTS,
        WHOLE,
        SURVIVED,
    )
    lines += _head(*columns, "score", "at least, 95 %")
    for each in scores:
        counts = each.counts
        numbers = [len(each.judged), each.places, counts[SAME], counts[EQUAL], each.mutants]
        numbers += [counts[column] for column in (*TESTS, WHOLE, SURVIVED)]
        shown = f"{100 * each.killed:.1f} %", f"{100 * each.at_least:.1f} %"
        lines.append(_row(each.operator, each.dtype, *numbers, *shown))
    if any(judged.alone for each in scores for judged in each.judged):
        lines += [
            "",
            "Mutants that each layer notices by itself; the symbolic one gives a point at which they are wrong:",
        ]
        lines += _head("operator", "numbers", "mutants", *LAYERS)
        lines += [_row(s.operator, s.dtype, s.mutants, *(s.alone[layer] for layer in LAYERS)) for s in scores]
    survivors = [(each, mutation) for each in scores for mutation in each.survivors]
    unsound = [(each, mutation) for each in scores for mutation in each.unsound]
    for title, found in (("Survivors", survivors), ("Noticed though proved", unsound)):
        lines += ["", f"{title}: {len(found)}."]
        if found:
            lines += ["", *(f"- {each.operator}, {each.dtype}: {mutation}" for each, mutation in found)]
    return "\n".join(lines) + "\n"


def _head(operator: str, numbers: str, *columns: str) -> list[str]:
    return ["", _row(operator, numbers, *columns), "|---|---" + "|---:" * len(columns) + "|"]


def _row(*cells: str | int) -> str:
    return "| " + " | ".join(str(cell or "") for cell in cells) + " |"
