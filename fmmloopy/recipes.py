"""Recipes: how a math-level operator becomes fast on one family of devices.

A recipe is a generator. It takes the math-level kernel of an operator, rewrites it, and yields ``(name, kernel)`` after
each step; every kernel that it yields is complete and can run. Keyword arguments of the recipe are tuning parameters::

    def p2p(knl, *, lanes: int = 8):
        '''Why this is fast on this device, and where that was measured.'''
        knl = steps.lane_arrays(knl, lanes)
        yield "targets in lanes", knl
        knl = lp.tag_inames(knl, {"ibox": "g.0"})
        yield "one work-group per box", knl

    def my_cpus(device):
        '''CPUs through my runtime.'''
        return device.kind == "cpu" and device.runtime == "mine"

    BOOK = RecipeBook("my_cpu", device=my_cpus, recipes={"p2p": p2p}, tuning={"p2p": {"lanes": (4, 8, 16)}})

An operator that a book does not mention runs as its sequential kernel: a new device is one file, and correct from its
first day.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import re
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from types import FunctionType, MappingProxyType, ModuleType
from typing import Any

import loopy as lp
from pytools.tag import UniqueTag

from fmmloopy.common.file_modules import import_file
from fmmloopy.common.sizes import LANES, ROWS
from fmmloopy.endings import Ending
from fmmloopy.fingerprint import fingerprint
from fmmloopy.hints import described, explain, nearest, place
from fmmloopy.operators import OPERATORS, Operator
from fmmloopy.operators.operator import LANE_PARAMETERS, Kernel

Recipe = Callable[..., Iterator[tuple[str, Kernel]]]

Condition = Callable[[Any], bool] | str
"""Which devices something is for: a function of a :class:`fmmloopy.Device`, whose docstring says in its first line
which those are; or a regular expression that is searched for in their descriptions."""

LANE_BOUNDS = {
    **{name: range(1, LANES + 1) for name in ("tlanes", "slanes", "blanes")},
    "ilanes": tuple(n for n in range(1, ROWS + 1) if ROWS % n == 0),
}
"""How many lanes a tile may hold: idle lanes read padding, of which there is as much as this; ilanes divides ROWS."""

ENTRY_POINTS = "fmmloopy.recipes"
"""Group of entry points under which packages offer books."""

_PHASES = {"load": "x[0-9]*", "src": "src", "begin": "begin*", "init": "init*", "fold": "fold*", "store": "store*"}
"""Statements of a lane iname outside the innermost loops, by the suffix of the iname that they get."""


class RecipeError(Exception):
    """A recipe or a book that cannot be used; the text says which, why, and what to do."""


@dataclass(frozen=True)
class Step:
    """A kernel after one named step of a recipe."""

    name: str
    kernel: Kernel


@dataclass(frozen=True)
class RecipeBook:
    """Recipes for one family of devices.

    Attributes:
        name: identifier, the name that users choose the book by.
        device: the book is a candidate for devices for which this function of a :class:`fmmloopy.Device` is true; or in
            whose descriptions this regular expression is found.
        recipes: operator -> recipe; an operator that is missing runs as its sequential kernel.
        tuning: operator -> keyword argument of its recipe -> values worth trying.
        by_device: operator -> condition, a function or a regular expression as for ``device`` -> keyword arguments of
            its recipe: what it is given, in place of its defaults, on devices for which the condition holds, the first
            that does. For processors that one runtime serves and that do not want the same.
        build_options: options for the device's compiler.
        operators: operators of its own, by the name of the one that each takes the place of.

    Raises:
        RecipeError: an unknown operator, a condition that is neither a function nor a regular expression, or a keyword
            that the recipe does not have.
    """

    name: str
    device: Condition
    recipes: Mapping[str, Recipe] = field(default_factory=dict)
    tuning: Mapping[str, Mapping[str, tuple[Any, ...]]] = field(default_factory=dict)
    build_options: tuple[str, ...] = ()
    by_device: Mapping[str, Mapping[Condition, Mapping[str, Any]]] = field(default_factory=dict)
    operators: Mapping[str, Operator] = field(default_factory=dict)

    def __post_init__(self) -> None:
        named = {
            "recipes": self.recipes,
            "tuning": self.tuning,
            "by_device": self.by_device,
            "operators": self.operators,
        }
        for what, operators in named.items():
            for operator in operators:
                if operator not in OPERATORS:
                    raise RecipeError(f"{self.name}: {what} for {operator!r}, expected one of {', '.join(OPERATORS)}")
        for operator, own in self.operators.items():
            if own.name != operator:
                raise RecipeError(f"{self.name}: the operator in place of {operator} is named {own.name!r}; name it so")
        self._check_condition("device", self.device)
        for operator, choices in self.tuning.items():
            self._check_keywords("tuning", operator, choices)
        for operator, conditions in self.by_device.items():
            for condition, keywords in conditions.items():
                self._check_condition(f"by_device of {operator}", condition)
                self._check_keywords("by_device", operator, keywords)
        object.__setattr__(self, "recipes", MappingProxyType(dict(self.recipes)))
        object.__setattr__(self, "tuning", MappingProxyType({k: dict(v) for k, v in self.tuning.items()}))
        by_device = {k: {condition: dict(given) for condition, given in v.items()} for k, v in self.by_device.items()}
        object.__setattr__(self, "by_device", MappingProxyType(by_device))
        object.__setattr__(self, "operators", MappingProxyType(dict(self.operators)))

    def _check_condition(self, what: str, condition: Condition) -> None:
        if callable(condition):
            return
        if not isinstance(condition, str):
            raise RecipeError(
                f"{self.name}: {what} is {condition!r}, expected a function of a device or a regular expression"
            )
        try:
            re.compile(condition)
        except re.error as error:
            raise RecipeError(f"{self.name}: {what} is {condition!r}, no regular expression: {error}") from None

    def _check_keywords(self, what: str, operator: str, keywords: Iterable[str]) -> None:
        known = list(inspect.signature(self.recipes[operator]).parameters)[1:] if operator in self.recipes else ()
        for keyword in keywords:
            if keyword not in known:
                raise RecipeError(
                    f"{self.name}, {operator}: {what} for {keyword!r}, which is no keyword argument of the recipe"
                )

    def __reduce__(self) -> tuple[Any, ...]:
        recipes, tuning, by_device = dict(self.recipes), dict(self.tuning), dict(self.by_device)
        return RecipeBook, (
            *(self.name, self.device, recipes, tuning, self.build_options, by_device),
            dict(self.operators),
        )

    def operator(self, name: str) -> Operator:
        """Return the operator of a name: the book's own, or else the package's."""
        return self.operators.get(name, OPERATORS[name])

    def suits(self, device: Any) -> bool:
        """Return whether the book is meant for a device.

        Raises:
            RecipeError: the function that tells fails.
        """
        return self._holds(self.device, device)

    def parameters_on(self, operator: str, device: Any, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the keyword arguments that a recipe is called with on a device: ``by_device``'s, and those given.

        Raises:
            RecipeError: a function that tells devices apart fails.
        """
        conditions = self.by_device.get(operator, {}).items()
        own = next((keywords for condition, keywords in conditions if self._holds(condition, device)), {})
        return {**own, **(given or {})}

    def _holds(self, condition: Condition, device: Any) -> bool:
        try:
            if isinstance(condition, str):
                return re.search(condition, device.description) is not None
            return bool(condition(device))
        except Exception as error:
            raise RecipeError(
                f"{self.name}: {devices_in_words(condition)!r} fails for the device {device!r}: {described(error)}"
            ) from error

    def defaults(self, operator: str) -> dict[str, Any]:
        """Return the keyword arguments of a recipe that have a default, and what that is."""
        known = inspect.signature(self.recipes[operator]).parameters if operator in self.recipes else {}
        return {
            name: parameter.default for name, parameter in known.items() if parameter.default is not parameter.empty
        }

    def defaults_on(self, operator: str, device: Any) -> dict[str, Any]:
        """Return the keyword arguments of a recipe, and what they are on a device where nothing is given."""
        return {**self.defaults(operator), **self.parameters_on(operator, device)}

    def fingerprint(self, operator: str) -> str:
        """Return a hash of the recipe of an operator, and of all that it calls; code made by it is kept under this."""
        by_device = [
            (condition if isinstance(condition, str) else fingerprint(condition), dict(keywords))
            for condition, keywords in self.by_device.get(operator, {}).items()
        ]
        options = repr(self.build_options) + (repr(by_device) if by_device else "")
        if operator in self.operators:
            options += fingerprint(self.operators[operator])
        return fingerprint(self.recipes.get(operator, sequential_recipe)) + options


def devices_in_words(condition: Condition) -> str:
    """Return what a condition says of devices: the first line of a function's docstring, or a regular expression."""
    if isinstance(condition, str):
        return condition
    text = condition.__doc__ if isinstance(condition, FunctionType) else None
    return (text or "").strip().partition("\n")[0].rstrip(".") or getattr(condition, "__name__", repr(condition))


def separate_lanes(knl: Kernel) -> Kernel:
    """Give the loads, initialisations and stores of a tile lane loops of their own.

    Before, statements of one lane iname must share one loop::

        for t: load;  for source, t: sum;  for t: store

    After, with ``t`` left to the sums alone, which can then be the innermost loop::

        for t_load: load;  for t_init: init;  for source: for t: sum;  for t_store: store
    """
    for lane in ("t", "b", "b2", "k", "i"):
        for suffix, pattern in _PHASES.items():
            ids = [
                insn.id
                for insn in knl.default_entrypoint.instructions
                if lane in insn.within_inames and fnmatchcase(insn.id, pattern)
            ]
            if ids:
                within = " or ".join(f"id:{i}" for i in ids)
                knl = lp.duplicate_inames(knl, lane, within=within, new_inames=[f"{lane}_{suffix}"])
    return knl


@dataclass(frozen=True)
class Lanes(UniqueTag):
    """Note on a kernel: the lane parameters that a recipe has fixed, which decide how many tiles a launch has."""

    lanes: tuple[tuple[str, int], ...]


def fix_lanes(knl: Kernel, **lanes: int) -> Kernel:
    """Fix how many lanes a tile holds, 1 for lane parameters that are not given."""
    known = open_lanes(knl)
    unknown = sorted(set(lanes) - set(known))
    if unknown:
        raise ValueError(f"no lane parameter {unknown[0]!r}; this operator has {', '.join(known) or 'none'}")
    fixed = {p: lanes.get(p, 1) for p in known}
    knl = lp.fix_parameters(knl, **fixed)
    return knl.with_kernel(knl.default_entrypoint.tagged(Lanes(tuple(fixed.items()))))


def open_lanes(knl: Kernel) -> list[str]:
    """Return the lane parameters that a kernel still leaves open."""
    return [p for p in LANE_PARAMETERS if p in knl.default_entrypoint.arg_dict]


def lanes_of(knl: Kernel) -> dict[str, int]:
    """Return the lane parameters that `fix_lanes` has fixed in a kernel."""
    return {name: count for tag in knl.default_entrypoint.tags_of_type(Lanes) for name, count in tag.lanes}


def sequential_recipe(knl: Kernel) -> Iterator[tuple[str, Kernel]]:
    """Run the operator as it is written, one lane at a time, in a single work-item: the reference for all others."""
    yield "sequential", separate_lanes(fix_lanes(knl))


def no_device(device: Any) -> bool:
    """None, unless it is asked for."""
    return False


SEQUENTIAL = RecipeBook("sequential", device=no_device)
"""The book without recipes: every operator as its sequential kernel, on any device."""


def apply_recipe(
    book: RecipeBook,
    operator: str,
    knl: Kernel,
    parameters: Mapping[str, Any] | None = None,
    most: int | None = None,
    watch: Callable[[str], None] | None = None,
) -> list[Step]:
    """Apply a book's recipe to the math-level kernel of an operator and return the kernel after each step.

    Args:
        book: where the recipe is looked up.
        operator: one of OPERATORS.
        knl: its math-level kernel.
        parameters: keyword arguments of the recipe; its own defaults where not given.
        most: steps after which to stop; None for all.
        watch: told where the recipe is, before it goes on: ``"before its first step"``, ``"after step 1 'lanes'"``.

    Raises:
        RecipeError: the recipe raises, yields nothing, yields something else than ``(name, kernel)``, or makes a kernel
            that it does not yield after its last step; the text names book, operator and step.
    """
    recipe = book.recipes.get(operator, sequential_recipe)
    where = f"{book.name}, {operator}"
    steps: list[Step] = []
    watch = watch or (lambda place: None)
    try:
        watch(_after(steps))
        made: Any = recipe(knl, **(parameters or {}))
        if isinstance(made, lp.TranslationUnit) or not isinstance(made, Iterable):
            raise RecipeError(f"{where}: the recipe returned a {type(made).__name__}; {_YIELD}")
        items, ending = iter(made), Ending(made, lp.TranslationUnit)
        while True:
            try:
                item = next(items)
            except StopIteration as end:
                dropped = ending.dropped(steps[-1].kernel, end.value) if steps else ""
                if dropped:
                    raise RecipeError(f"{where}, {_after(steps)}: {dropped}") from None
                break
            steps.append(_step(item, f"{where}, step {len(steps) + 1}"))
            if len(steps) == most:
                break
            ending.look()
            watch(_after(steps))
    except RecipeError:
        raise
    except Exception as error:
        last, whose = (steps[-1].kernel, "kernel then") if steps else (knl, "operator")
        raise RecipeError(f"{where}, {_after(steps)}: {explain(error, last, whose, place(error))}") from error
    if not steps:
        raise RecipeError(f"{where}: the recipe yielded no step; {_YIELD}")
    return steps


def _after(steps: Sequence[Step]) -> str:
    return f"after step {len(steps)} {steps[-1].name!r}" if steps else "before its first step"


_YIELD = "yield (name, kernel) after each rewrite"


def _step(item: Any, where: str) -> Step:
    """Make sure that a recipe has yielded a step."""
    if isinstance(item, lp.TranslationUnit):
        raise RecipeError(f"{where}: yielded the kernel alone, expected (name, kernel)")
    if not (isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str)):
        raise RecipeError(f"{where}: yielded {' '.join(repr(item).split()):.60}, expected (name, kernel)")
    if not isinstance(item[1], lp.TranslationUnit):
        raise RecipeError(f"{where} {item[0]!r}: yielded a {type(item[1]).__name__}, expected the kernel")
    return Step(*item)


def shipped_books() -> dict[str, RecipeBook]:
    """Return the books that come with fmmloopy, by name."""
    books = {}
    for path in shipped_files():
        if path.stem not in ("__init__", "inline", "steps"):
            book = _book_of(importlib.import_module(f"fmmloopy.transforms.{path.stem}"), str(path))
            books[book.name] = book
    return books


def shipped_files() -> list[Path]:
    """Return the files of the books that come with fmmloopy, and of what they share."""
    import fmmloopy.transforms as transforms

    return sorted(Path(next(iter(transforms.__path__))).glob("*.py"))


def load_recipes(which: str | Path | RecipeBook | None = None, device: Any = None) -> RecipeBook:
    """Find a recipe book.

    Args:
        which: a book; the name of a shipped book or of an entry point in group ``fmmloopy.recipes``; the path of a .py
            file that defines ``BOOK``; ``"sequential"``; or None for the first shipped book that suits the device.
        device: a :class:`fmmloopy.Device`, for ``which=None``; without it, that is ``"sequential"``.

    Raises:
        RecipeError: there is no such book, or its file cannot be used.
    """
    if isinstance(which, RecipeBook):
        return which
    if which is not None and not isinstance(which, (str, Path)):
        raise RecipeError(f"recipes is {which!r}, expected a book, its name, or the path of its file")
    if which is None:
        if isinstance(device, str):
            raise RecipeError(f"device is {device!r}, expected one of fmmloopy.find_devices()")
        books_for = () if device is None else shipped_books().values()
        return next((book for book in books_for if book.suits(device)), SEQUENTIAL)
    if isinstance(which, Path) or which.endswith(".py"):
        return _load_file(Path(which))
    if which == SEQUENTIAL.name:
        return SEQUENTIAL
    books = shipped_books()
    if which in books:
        return books[which]
    installed = installed_books()
    if which in installed:
        return load_installed(installed[which])
    if Path(f"{which}.py").is_file():
        raise RecipeError(f"no recipe book {which!r}; for the file of that name give {which}.py")
    known = [*books, SEQUENTIAL.name, *installed]
    there = f"{nearest(which, known)} there are {', '.join(known)}".lstrip()
    raise RecipeError(f"no recipe book {which!r}; {there}, or give the path of a .py file that defines BOOK")


def installed_books() -> dict[str, importlib.metadata.EntryPoint]:
    """Return the entry points by which other packages offer books, by name."""
    return {entry.name: entry for entry in importlib.metadata.entry_points(group=ENTRY_POINTS)}


def load_installed(entry: importlib.metadata.EntryPoint) -> RecipeBook:
    """Return the book that an entry point stands for: itself, or ``BOOK`` of a module.

    Raises:
        RecipeError: it cannot be imported, or is no book.
    """
    try:
        loaded = entry.load()
    except (Exception, SystemExit) as error:
        package = f" of package {entry.dist.name}" if entry.dist else ""
        raise RecipeError(f"{entry.name} ({entry.value}{package}) cannot be loaded: {described(error)}") from error
    return loaded if isinstance(loaded, RecipeBook) else _book_of(loaded, entry.name)


def _load_file(path: Path) -> RecipeBook:
    if not path.is_file():
        raise RecipeError(f"no file {path}; give the path of a .py file that defines BOOK")
    try:
        module = import_file(path)
    except SyntaxError as error:
        file = path if error.filename == str(path.absolute()) else f"{path} cannot be loaded: {error.filename}"
        raise RecipeError(f"{file}, line {error.lineno}: {error.msg}") from error
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        line = next((f" (line {f.lineno})" for f in reversed(frames) if f.filename == str(path.absolute())), "")
        text = str(error) if isinstance(error, RecipeError) else described(error)
        raise RecipeError(f"{path} cannot be loaded: {text}{line}") from error
    return _book_of(module, str(path))


def _book_of(module: ModuleType, where: str) -> RecipeBook:
    book = getattr(module, "BOOK", None)
    if not isinstance(book, RecipeBook):
        raise RecipeError(f"{where} defines no BOOK; end it with BOOK = RecipeBook(name, device=..., recipes=...)")
    return book
