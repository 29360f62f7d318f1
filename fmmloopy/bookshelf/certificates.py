"""Certificates: which recipes have passed which checks, on which device, and with which versions.

There is one file per book and device in the cache folder; without it, recipes count as unchecked. A certificate is for
the kernels that the recipe and the operator generate, with parameters, on a device. It identifies the code of both by
hashes, which do not depend on comments, docstrings or the locations of files. If a hash has changed, the kernels after
the last step are compared with those that were checked: if they are the same, the certificate is still valid. Another
driver, or another version of loopy, makes it stale.

Books shipped with fmmloopy have certificates for the runtimes that they were checked on. These are for a runtime, not
for a processor. Their kernels that are proved are listed by identity: a proof holds on every device.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from fmmloopy import greens, precision
from fmmloopy.common.documents import parse
from fmmloopy.common.store import cache_folder, checksum, read_cached, write_cached
from fmmloopy.execution.devices import Device
from fmmloopy.execution.key import CodeKey, math_hash, recipe_hash, sources_hash, versions
from fmmloopy.operators import OPERATORS, Form, Specification
from fmmloopy.recipes.book import RecipeBook, RecipeError
from fmmloopy.recipes.load import shipped_books

CHECKER = 4
"""Increase it when the check detects more errors than before; this makes older certificates stale."""

SHIPPED_FILE = Path(__file__).parent / "shipped_certificates.json"
"""Certificates of the books shipped with fmmloopy; ``.ci/certify`` writes the file."""

REFERENCE_ORDER = 3
"""Order of the kernels that are compared: every check generates code for it."""

CODE = ("recipe", "operator")
"""Parts of a certificate that may change as long as the kernels stay the same."""

NONE, CERTIFIED, STALE, FAILED = "none", "certified", "stale", "failed"


LEVELS = ("quick", "full", FAILED)
"""Results of checks. Others, of later versions or of nobody knows whom, do not count."""


class UncertifiedWarning(UserWarning):
    """A recipe has not passed `fmmloopy check` on this device, or has changed since."""


def certificates_file(book: RecipeBook, device: Device) -> Path:
    """Return the path of the certificates of a book on a device."""
    name = re.sub(r"[^A-Za-z0-9._-]", "_", book.name)[:80]
    # Two names that are the same when they are cut have files of their own.
    for_file = device.description if name == book.name else repr((book.name, device.description))
    digest = hashlib.sha256(for_file.encode()).hexdigest()[:12]
    return cache_folder() / "certificates" / f"{name}-{digest}.json"


def record(
    book: RecipeBook,
    device: Device,
    operators: Sequence[str],
    dtypes: Sequence[str],
    level: str,
    parameters: Mapping[str, Mapping[str, Any]] | None = None,
    skipped: Sequence[str] = (),
    tested: Mapping[tuple[str, str], Iterable[str]] | None = None,
) -> None:
    """Record that recipes have passed or failed a check.

    The result of a full check is not replaced when a quick check of the same recipe passes.

    Args:
        book, device, operators: the recipes that were checked, and the device.
        dtypes: the precisions that were checked.
        level: quick, full or FAILED.
        parameters: keyword arguments of the recipes, by operator, other than their defaults on the device.
        skipped: layers that could not be run here, in words.
        tested: by operator and types, the kernels that have run, as `kernel_for`.
    """
    path = certificates_file(book, device)
    entries = _read(path)
    for operator in operators:
        for dtype in dtypes:
            types = _types(book, operator, dtype)
            key = _key(book, device, operator, types, (parameters or {}).get(operator))
            entry = {"level": level, "skipped": list(skipped), "subject": _subject(book, device, operator)}
            if level != FAILED:
                chosen = (parameters or {}).get(operator)
                with suppress(RecipeError):  # without kernels, an edited recipe must be checked again
                    always = kernels_of(book, device, operator, types, chosen)
                    entry["kernels"] = sorted({*always, *(tested or {}).get((operator, types), ())})
            known = entries.get(key, {})
            if not (level == "quick" and known.get("level") == "full" and known.get("subject") == entry["subject"]):
                entries[key] = entry
    content: dict[str, Any] = {"book": book.name, "device": device.description, "certificates": entries}
    content["checksum"] = checksum(content)
    with suppress(OSError):  # if they cannot be stored, recipes stay uncertified
        write_cached(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


def operator_status(
    book: RecipeBook, device: Device, operator: str, dtype: str, parameters: Mapping[str, Any] | None = None
) -> str:
    """Return ``"certified"``, ``"failed"``, ``"none"``, or ``"stale: <what has changed>"`` for one recipe.

    An operator of the package without a recipe runs as its sequential kernel, the reference for all others, and counts
    as certified.
    """
    return _statuses(book, device, {operator: parameters}, dtype)[operator]


def status(
    book: RecipeBook, device: Device, dtype: str = "float64", parameters: Mapping[str, Mapping[str, Any]] | None = None
) -> str:
    """Return the status of a whole book: the worst status of its operators."""
    found = _statuses(book, device, {operator: (parameters or {}).get(operator) for operator in book.to_check}, dtype)
    failed = [operator for operator, text in found.items() if text == FAILED]
    if failed:
        return f"{FAILED} for {', '.join(failed)}"
    missing = [operator for operator, text in found.items() if text == NONE]
    if missing and len(missing) < len(found):
        return f"{NONE} for {', '.join(missing)}"
    return NONE if missing else next((text for text in found.values() if text != CERTIFIED), CERTIFIED)


def warn_if_uncertified(
    book: RecipeBook, device: Device, dtype: str, parameters: Mapping[str, Mapping[str, Any]] | None = None
) -> None:
    """Warn, once per process, if recipes are used on a device on which they have not been checked."""
    if not book.to_check:
        return
    found = status(book, device, dtype, parameters)
    if found != CERTIFIED:
        what = "no certificate" if found.startswith(NONE) else f"a stale certificate ({found.partition(': ')[2]})"
        if found.startswith(FAILED):
            what = "failed `fmmloopy check`"
        of = "" if found.startswith(STALE) else found.removeprefix(NONE).removeprefix(FAILED)
        has = "" if found.startswith(FAILED) else "has "
        _warn_once(f"recipe book {book.name!r} {has}{what}{of} in {dtype} on {device.name}; run `fmmloopy check` on it")


@cache
def _warn_once(text: str) -> None:
    """Issue a warning once; the warnings module would repeat it after its filters change."""
    warnings.warn(text, UncertifiedWarning, stacklevel=6)


def _statuses(
    book: RecipeBook, device: Device, parameters_of: Mapping[str, Mapping[str, Any] | None], dtype: str
) -> dict[str, str]:
    """Return the status of each operator: from checks on this machine, or from the shipped certificates."""
    entries = _read(certificates_file(book, device))
    found = {}
    for operator, parameters in parameters_of.items():
        types = _types(book, operator, dtype)
        here = _status(entries, book, device, operator, types, parameters)
        if here not in (CERTIFIED, FAILED) and not _other_than_defaults(book, device, operator, parameters):
            here = CERTIFIED if comes_certified(book, device, operator, types) else here
        found[operator] = here
    return found


def comes_certified(book: RecipeBook, device: Device, operator: str, types: str) -> bool:
    """Return whether a recipe has a shipped certificate for the runtime of a device and generates the same kernels.

    Args:
        book, operator: book and operator of the recipe, which has its parameters for the device.
        device: the device.
        types: types of the kernel: float32, float64 or mixed.
    """
    if book is not shipped_books().get(book.name):
        return False
    shipped = read_shipped()
    certified = shipped["certified"].get(shipping_label(book, device))
    if certified is None or operator not in certified["kernels"]:
        return False
    if shipped["sources"] == sources_hash():
        return True
    return _kernels_of_shipped(book.name, device, operator, types) <= {*certified["kernels"].get(operator, ())} - {""}


@cache
def _kernels_of_shipped(book: str, device: Device, operator: str, types: str) -> frozenset[str]:
    """Return the kernels of a book that ships, as `kernels_of`, which takes a second for all operators."""
    return frozenset(kernels_of(shipped_books()[book], device, operator, types))


def checked_kernels(
    book: RecipeBook, device: Device, operator: str, types: str, parameters: Mapping[str, Any] | None = None
) -> dict[str, str]:
    """Return the kernels that a recipe's certificate is for, as `kernel_for`; none if it has no valid one.

    Each comes with the level of the check, and with what could not be run then.

    Certificates of bundles do not count: others may have written them.

    Args:
        book, device, operator: the recipe, and the device.
        types: types of the kernel: float32, float64 or mixed.
        parameters: keyword arguments of the recipe.
    """
    entries = _read(certificates_file(book, device), packed=False)
    if _status(entries, book, device, operator, types, parameters) == CERTIFIED:
        entry = entries[_key(book, device, operator, types, parameters)]
        how = "; ".join([f"level {entry['level']}", *map(str, entry.get("skipped", ()))])
        return {kernel: how for kernel in entry.get("kernels", ()) if kernel}
    if _other_than_defaults(book, device, operator, parameters) or not comes_certified(book, device, operator, types):
        return {}
    shipped = read_shipped()["certified"][shipping_label(book, device)]
    level = shipped.get("levels", {}).get(operator, shipped["level"])
    return {kernel: f"level {level}" for kernel in shipped["kernels"].get(operator, ()) if kernel}


@cache
def proved_kernels(operator: str) -> frozenset[str]:
    """Return the kernels of an operator that came proved for all sizes with the shipped books, as `kernel_for`."""
    return frozenset(read_shipped()["proved"].get(operator, "").split())


def came_proved(spec: Specification, identity: str) -> bool:
    """Return whether a kernel of the package's operator came proved with the shipped books, for a specification."""
    name = spec.operator.name
    return kernel_for(spec, identity) in proved_kernels(name) and spec.operator == OPERATORS[name]


def read_shipped() -> dict[str, Any]:
    """Return the shipped certificates.

    Returns:
        ``sources``: the hash of all sources at that time. ``certified``: by label, ``level``, ``processor``,
        ``levels`` of operators that were checked at another level, and ``kernels`` by operator, as `kernel_for`, for
        the types and parameters that were checked. ``proved``: by
        operator, separated by spaces, the kernels that are proved for all sizes. ``prover``: the hash of what proved
        them.
    """
    content: dict[str, Any] = json.loads(SHIPPED_FILE.read_text())
    return content


def shipping_label(book: RecipeBook, device: Device) -> str:
    """Return a label for a book, a kind of device and its runtime, on any processor, with driver and loopy versions."""
    runtime = f"{device.backend} {device.kind} {device.runtime}"
    return f"{book.name} on {runtime}, driver {device.driver}, loopy {dict(versions())['loopy']}"


def kernels_of(
    book: RecipeBook, device: Device, operator: str, types: str, parameters: Mapping[str, Any] | None = None
) -> tuple[str, ...]:
    """Return the kernels that a recipe yields for a few Green's functions, as `kernel_for`; all checks include them.

    Raises:
        RecipeError: the recipe fails.
    """
    record = book.operator(operator)
    functions = [greens.laplace()]
    if record.form == Form.PARTICLE:
        functions.append(greens.yukawa())
    if record.gives_potentials:
        functions += [function.with_gradient() for function in functions]
    specs = [Specification(record, function, REFERENCE_ORDER, precision.find_types(types)) for function in functions]
    return tuple(kernel_for(spec, CodeKey(spec, book, device, parameters or {}).kernel()) for spec in specs)


def kernel_for(spec: Specification, identity: str) -> str:
    """Return what a certificate says of a kernel: its identity, bound to what it was compared with.

    A recipe may yield the same kernel for two functions, and then it is right for one of them at most.

    Args:
        spec: the specification of the sequential kernel.
        identity: of the kernel; "" if there is none, and then nothing can be said of it.
    """
    return hashlib.sha256(repr((spec.key, identity)).encode()).hexdigest()[:32] if identity else ""


def _status(
    entries: Mapping[str, Any],
    book: RecipeBook,
    device: Device,
    operator: str,
    dtype: str,
    parameters: Mapping[str, Any] | None,
) -> str:
    if operator not in book.to_check:
        return CERTIFIED
    entry = entries.get(_key(book, device, operator, dtype, parameters))
    if entry is None:
        return NONE
    then, now = entry["subject"], _subject(book, device, operator)
    changed = [name for name in now if then.get(name) != now[name]]
    if changed and set(changed) <= set(CODE) and _same_kernels(entry, book, device, operator, dtype, parameters):
        changed = []
    if changed:
        return f"{STALE}: {', '.join(changed)} changed since"
    return FAILED if entry["level"] == FAILED else CERTIFIED


def _same_kernels(
    entry: Mapping[str, Any],
    book: RecipeBook,
    device: Device,
    operator: str,
    types: str,
    parameters: Mapping[str, Any] | None,
) -> bool:
    """Return whether a recipe still generates the kernels that were checked, even if its code has changed."""
    try:
        return set(kernels_of(book, device, operator, types, parameters)) <= {*entry.get("kernels", ())} - {""}
    except RecipeError:
        return False


def _other_than_defaults(
    book: RecipeBook, device: Device, operator: str, parameters: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return the parameters that differ from the recipe's defaults on the device."""
    defaults = book.defaults_on(operator, device)
    return {name: value for name, value in (parameters or {}).items() if defaults.get(name) != value}


def _types(book: RecipeBook, operator: str, dtype: str) -> str:
    """Return the types of an operator's kernel in an evaluation of a dtype: float32, float64 or mixed."""
    return book.operator(operator).types_in(precision.find_precision(dtype)).name


def _key(book: RecipeBook, device: Device, operator: str, dtype: str, parameters: Mapping[str, Any] | None) -> str:
    other = _other_than_defaults(book, device, operator, parameters)
    # A tuple becomes a list in a JSON file.
    chosen = ", ".join(f"{name}={json.dumps(value, default=repr)}" for name, value in sorted(other.items()))
    return f"{operator} {dtype}" + (f" {chosen}" if chosen else "")


def _subject(book: RecipeBook, device: Device, operator: str) -> dict[str, str]:
    """Return everything that a certificate depends on."""
    packages = {name: version for name, version in versions() if name != "fmmloopy"}
    return {
        "recipe": recipe_hash(book, operator),
        "parameters": repr(sorted(book.parameters_on(operator, device).items())),
        "operator": math_hash(book.operator(operator))[:32],
        "driver": device.driver,
        "checker": str(CHECKER),
        **packages,
    }


def _read(path: Path, packed: bool = True) -> dict[str, Any]:
    """Read certificates, from bundles too if wanted; a file that is damaged, or that others can write, has none."""
    try:
        content = parse(read_cached(path, packed=packed))
        if content.pop("checksum") != checksum(content):
            return {}
        return {key: entry for key, entry in content["certificates"].items() if _is_certificate(entry)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _is_certificate(entry: Any) -> bool:
    """Return whether an entry has a level that this version knows, and a subject."""
    return entry["level"] in LEVELS and all(isinstance(value, str) for value in entry["subject"].values())
