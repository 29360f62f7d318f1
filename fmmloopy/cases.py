"""Small problems for single operators, on which any right schedule gives identical bits.

Data are small whole numbers, Green's functions polynomials, matrices random whole numbers, sized so that every
product and every partial sum is a whole number below 2^24, which float32 and float64 hold exactly. Floating-point
arithmetic is then exact, however a recipe reorders, tiles or fuses it: a dropped, doubled or misplaced term cannot
hide behind a tolerance.

Boxes have all sizes around the widths of lanes, some are empty; lists are empty, short and long. Every output starts as
whole numbers too, with NaN where nothing may be read or written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmmloopy.compile import PARTICLE_OPERATORS, CompiledOperator
from fmmloopy.greens import GreensFunction
from fmmloopy.runtime import Array, Runtime
from fmmloopy.surfaces import count_points

ROWS = 16
PADDING = 64

SIZES = (0, 1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 2, 0, 40)
"""Points of the boxes: none, one, and one less and one more than every width of lanes up to 32."""

EXACT_LIMIT = 2**24
"""Whole numbers below this are exact in float32."""

POLYNOMIAL = GreensFunction("polynomial", (("d0*(d1 + 2)*(d2 + 3) + 2*d1*d1",),))
"""A Green's function without symmetry, whole-numbered for whole-numbered differences."""

POLYNOMIAL_2X2 = GreensFunction("polynomial_2x2", (("d0 + 2*d1", "d2*d2 + 1"), ("d0*d1 + 3", "d1 + d2 + 5*d0")))
"""Two components on both sides."""

POLYNOMIALS = (POLYNOMIAL, POLYNOMIAL_2X2)


@dataclass(frozen=True)
class Case:
    """Arguments of one operator.

    Attributes:
        operator: its name.
        greens, order, dtype: what its kernel is made for.
        arguments: arrays and numbers by name; tile counts are left to `arguments_for`.
        output: names of the arrays that are written.
        blocks: entries of the list of boxes and rows of the output, for operators that work on blocks, else None.
    """

    operator: str
    greens: GreensFunction
    order: int
    dtype: np.dtype[Any]
    arguments: Mapping[str, Any]
    output: tuple[str, ...]
    blocks: tuple[int, int] | None = None

    def arguments_for(self, lanes: Mapping[str, int]) -> dict[str, Any]:
        """Return all arguments, with the numbers of tiles that these lanes give."""
        arguments = dict(self.arguments)
        if self.blocks:
            arguments["btiles"] = -(-self.blocks[0] // lanes.get("blanes", 1))
            arguments["itiles"] = self.blocks[1] // lanes.get("ilanes", 1)
        return arguments


def run_case(case: Case, code: CompiledOperator, runtime: Runtime) -> dict[str, NDArray[Any]]:
    """Run compiled code on fresh copies of a case's arrays and return what its outputs hold."""
    arguments = case.arguments_for(dict(code.lanes))
    uploaded = {k: runtime.upload(v) if isinstance(v, np.ndarray) else v for k, v in arguments.items()}
    for same, other in (("result", "multipoles"), ("result", "locals")):
        if case.operator in ("m2m", "l2l") and same in uploaded and other in uploaded:
            uploaded[same] = uploaded[other]
    runtime.run([runtime.bind(code, uploaded)])
    outputs: dict[str, NDArray[Any]] = {}
    for name in case.output:
        array: Array = uploaded[name]
        outputs[name] = runtime.read(array)
    return outputs


def identical(a: NDArray[Any], b: NDArray[Any]) -> bool:
    """Return whether two arrays hold the same values, NaN where the other has NaN, and signs of zero aside."""
    return bool(np.array_equal(a, b, equal_nan=True))


MakeCase = Callable[[str, GreensFunction, int, Any, np.random.Generator], Case]


def make_case(operator: str, greens: GreensFunction, dtype: Any, order: int = 3, seed: int = 0) -> Case:
    """Make a case of an operator with whole-numbered data.

    Args:
        operator: any of :data:`fmmloopy.recipes.OPERATORS`.
        greens: one of POLYNOMIALS, for particle operators; others take its number of components.
        dtype: float32 or float64.
        order: of the surfaces, 2 to 5.
        seed: of the random numbers.
    """
    rng = np.random.default_rng(seed)
    makers: dict[str, MakeCase] = {
        "m2m": _translation_case,
        "l2l": _translation_case,
        "m2l": _dense_m2l_case,
        "check_to_equivalent": _check_to_equivalent_case,
        "m2l_forward": _forward_case,
        "m2l_hadamard": _hadamard_case,
        "m2l_inverse": _inverse_case,
    }
    make: MakeCase = makers.get(operator, _particle_case)
    return make(operator, greens, order, np.dtype(dtype), rng)


def _whole(rng: np.random.Generator, shape: tuple[int, ...], most: int, dtype: Any) -> NDArray[Any]:
    return rng.integers(-most, most + 1, shape).astype(dtype)


def _padded(values: NDArray[Any], padding: int = PADDING) -> NDArray[Any]:
    """Append NaN to the last axis."""
    return np.concatenate([values, np.full((*values.shape[:-1], padding), np.nan, values.dtype)], axis=-1)


def _ragged_lists(rng: np.random.Generator, nboxes: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Make lists of distinct boxes in random order: the first box sees all, the second none, others some."""
    rows = [rng.permutation(nboxes)[: rng.integers(0, 7)] for _ in range(nboxes)]
    rows[0], rows[1] = rng.permutation(nboxes), np.empty(0, np.intp)
    starts = np.cumsum([0, *map(len, rows)])
    return starts.astype(np.int32), np.concatenate(rows).astype(np.int32)


def _nsurface(order: int) -> int:
    return -(-count_points(order) // ROWS) * ROWS


def _particle_case(operator: str, greens: GreensFunction, order: int, dtype: Any, rng: np.random.Generator) -> Case:
    """Points in 0 .. 4, charges in -1 .. 1: |G| <= 230; the first box sees 225 sources or 17 surfaces of 26 points."""
    nboxes, npoints, nsurface = len(SIZES), count_points(order), _nsurface(order)
    starts = np.cumsum([0, *SIZES]).astype(np.int32)
    count = int(starts[-1])
    rows, columns = greens.ntarget_components, greens.nsource_components
    list_starts, lists = _ragged_lists(rng, nboxes)
    point_output = operator in ("p2p", "l2p", "m2p")
    checks = _whole(rng, (nboxes + 1, rows, nsurface), 9, dtype)
    checks[..., npoints:] = np.nan
    densities = _whole(rng, (nboxes + 1, columns, nsurface), 1, dtype)
    densities[..., npoints:] = np.nan
    surface = rng.integers(-1, 2, (3, npoints)).astype(dtype)
    target_boxes = rng.permutation(nboxes)
    if point_output and operator != "p2p":
        target_boxes = target_boxes[: nboxes - 2]
    arguments = {
        "targets": _padded(rng.integers(0, 5, (3, count)).astype(dtype)),
        "sources": _padded(rng.integers(0, 5, (3, count)).astype(dtype)),
        "charges": _padded(_whole(rng, (columns, count), 1, dtype)),
        "potentials": _padded(_whole(rng, (rows, count), 9, dtype)),
        "checks": checks,
        "densities": densities,
        "surface": _padded(surface, nsurface - npoints),
        "centres": rng.integers(0, 3, (3, nboxes)).astype(dtype),
        "radii": rng.integers(1, 3, nboxes).astype(dtype),
        "radius_factor": 1.0,
        "scaling": 2.0,
        "box_source_starts": starts[:-1].copy(),
        "box_source_ends": starts[1:].copy(),
        "box_target_starts": starts[:-1].copy(),
        "box_target_ends": starts[1:].copy(),
        "target_boxes": target_boxes.astype(np.int32),
        "list_starts": list_starts,
        "lists": lists,
        "ntarget_boxes": len(target_boxes),
        "nboxes": nboxes,
        "nsources": count + PADDING,
        "ntargets": count + PADDING,
        "npoints": npoints,
        "nsurface": nsurface,
    }
    output = "potentials" if point_output else "checks"
    return Case(operator, greens, order, dtype, arguments, (output,))


def _family(rng: np.random.Generator, nparents: int) -> tuple[int, NDArray[np.int32], NDArray[np.int32]]:
    """Return how many boxes there are, the children of each (some missing), and which boxes are parents, padded."""
    present = rng.random((nparents, 8)) < 0.6
    nboxes = nparents + int(present.sum())
    children = np.full((nboxes + 1, 8), nboxes, np.int32)
    numbers = np.full((nparents, 8), nboxes, np.int32)
    numbers[present] = nparents + rng.permutation(nboxes - nparents)
    children[:nparents] = numbers
    parents = np.concatenate([rng.permutation(nparents)[:-1], np.full(PADDING, nboxes)])
    return nboxes, children, parents.astype(np.int32)


def _vectors(rng: np.random.Generator, nboxes: int, width: int, dtype: Any) -> NDArray[Any]:
    """Return a whole-numbered vector for every box, zeros for the box that stands for missing ones."""
    vectors = _whole(rng, (nboxes + 1, width), 5, dtype)
    vectors[nboxes] = 0
    return vectors


def _translation_case(operator: str, greens: GreensFunction, order: int, dtype: Any, rng: np.random.Generator) -> Case:
    """Matrices and vectors in -5 .. 5: sums of 8 * 64 products of at most 25."""
    nboxes, children, parents = _family(rng, 21)
    width = greens.nsource_components * _nsurface(order)
    vectors = _vectors(rng, nboxes, width, dtype)
    arguments = {
        "table": _whole(rng, (2, 8, width, width), 5, dtype),
        "itable": 1,
        "ntables": 2,
        "multipoles" if operator == "m2m" else "locals": vectors,
        "result": vectors,
        "children": children,
        "parents": parents,
        "nparents": 20,
        "nboxes": nboxes,
        "ncolumns": width,
    }
    return Case(operator, greens, order, dtype, arguments, ("result",), (20, width))


def _check_to_equivalent_case(
    operator: str, greens: GreensFunction, order: int, dtype: Any, rng: np.random.Generator
) -> Case:
    nboxes = 23
    rows, columns = greens.nsource_components * _nsurface(order), greens.ntarget_components * _nsurface(order)
    boxes = np.concatenate([rng.permutation(nboxes)[:19], np.full(PADDING, nboxes)]).astype(np.int32)
    arguments = {
        "table": _whole(rng, (2, columns, rows), 5, dtype),
        "itable": 1,
        "ntables": 2,
        "check": _vectors(rng, nboxes, columns, dtype),
        "equivalent": np.full((nboxes + 1, rows), np.nan, dtype),
        "scales": rng.integers(1, 4, nboxes + 1).astype(dtype),
        "boxes": boxes,
        "ntargets": 19,
        "nboxes": nboxes,
        "ncolumns": columns,
    }
    return Case(operator, greens, order, dtype, arguments, ("equivalent",), (19, rows))


def _dense_m2l_case(operator: str, greens: GreensFunction, order: int, dtype: Any, rng: np.random.Generator) -> Case:
    nboxes = 19
    rows, columns = greens.ntarget_components * _nsurface(order), greens.nsource_components * _nsurface(order)
    starts, lists = _ragged_lists(rng, nboxes)
    arguments = {
        "table": _whole(rng, (1, 343, columns, rows), 5, dtype),
        "itable": 0,
        "ntables": 1,
        "multipoles": _vectors(rng, nboxes, columns, dtype),
        "result": _whole(rng, (nboxes + 1, rows), 9, dtype),
        "scales": rng.integers(1, 4, nboxes + 1).astype(dtype),
        "target_boxes": rng.permutation(nboxes)[:-1].astype(np.int32),
        "list_starts": starts,
        "lists": lists,
        "transfers": rng.integers(0, 343, len(lists)).astype(np.int32),
        "ntargets": nboxes - 1,
        "nboxes": nboxes,
        "ncolumns": columns,
    }
    return Case(operator, greens, order, dtype, arguments, ("result",), (nboxes - 1, rows))


def _grid(order: int) -> NDArray[np.int32]:
    """Return grid coordinates of the points of a surface, shape (3, npoints)."""
    points = np.stack(np.meshgrid(*[np.arange(order)] * 3, indexing="ij")).reshape(3, -1)
    return points[:, ((points == 0) | (points == order - 1)).any(axis=0)].astype(np.int32)


def _transform_arguments(order: int, dtype: Any, rng: np.random.Generator) -> dict[str, Any]:
    """Whole numbers in place of waves: transforms are linear maps, whatever their matrices hold."""
    period = 2 * order - 1
    noctets, nboxes = 5, 31
    children = np.full((noctets, 8), nboxes)
    present = rng.random((noctets, 8)) < 0.7
    children[present] = rng.permutation(nboxes)[: present.sum()]
    return {
        "octet_children": children.astype(np.int32),
        "surface_grid": _grid(order),
        "dft_r": _whole(rng, (order, period), 1, dtype),
        "dft_i": _whole(rng, (order, period), 1, dtype),
        "noctets": noctets,
        "nboxes": nboxes,
        "npoints": count_points(order),
        "nsurface": _nsurface(order),
        "kz_start": 1,
        "kz_end": order,
    }


def _forward_case(operator: str, greens: GreensFunction, order: int, dtype: Any, rng: np.random.Generator) -> Case:
    """Three stages of at most 2 p products with numbers up to 1: values grow from 5 to 5 (2p)^3 at most."""
    arguments = _transform_arguments(order, dtype, rng)
    components, period = greens.nsource_components, 2 * order - 1
    multipoles = _whole(rng, (arguments["nboxes"] + 1, components, arguments["nsurface"]), 5, dtype)
    multipoles[-1] = 0
    multipoles[..., arguments["npoints"] :] = np.nan
    shape = (order - 1, period, period, components, arguments["noctets"] + 1, 8)
    out = {name: np.full(shape, np.nan, dtype) for name in ("Mr", "Mi")}
    return Case(operator, greens, order, dtype, {**arguments, **out, "multipoles": multipoles}, ("Mr", "Mi"))


def _inverse_case(operator: str, greens: GreensFunction, order: int, dtype: Any, rng: np.random.Generator) -> Case:
    """Stages of at most 2N, 2N and 2p products with numbers up to 1, times weights and scales up to 3."""
    arguments = _transform_arguments(order, dtype, rng)
    components, period = greens.ntarget_components, 2 * order - 1
    checks = _whole(rng, (arguments["nboxes"] + 1, components, arguments["nsurface"]), 9, dtype)
    checks[..., arguments["npoints"] :] = np.nan
    shape = (order - 1, period, period, components, arguments["noctets"] + 1, 8)
    spectra = {name: _whole(rng, shape, 3, dtype) for name in ("Lr", "Li")}
    more = {
        "plane_weights": rng.integers(1, 4, order).astype(dtype),
        "octet_scales": rng.integers(1, 4, arguments["noctets"]).astype(dtype),
        "checks": checks,
    }
    return Case(operator, greens, order, dtype, {**arguments, **spectra, **more}, ("checks",))


def _hadamard_case(operator: str, greens: GreensFunction, order: int, dtype: Any, rng: np.random.Generator) -> Case:
    """Two chunks of target octets; pairs of every count around the block widths, one direction without any."""
    rows, columns = greens.ntarget_components, greens.nsource_components
    nsources, ntargets, nchunks, nfreqs = 13, 20, 2, 7
    targets, sources, counts = [], [], []
    for chunk in range(nchunks):
        for direction in range(26):
            count = (0, 1, 2, 3, 4, 5, 7, 8, 9)[(direction + chunk) % 9]
            targets.append(10 * chunk + rng.permutation(10)[:count])
            sources.append(rng.integers(0, nsources, count))
            counts.append(count)
    first, last = 2, 6
    shapes = {"M": (last - first, columns, nsources + 1, 8), "L": (last - first, rows, ntargets + 1, 8)}
    arguments = {
        "Kr": _whole(rng, (nfreqs, 26, rows, columns, 8, 8), 3, dtype),
        "Ki": _whole(rng, (nfreqs, 26, rows, columns, 8, 8), 3, dtype),
        **{name + part: _whole(rng, shape, 3, dtype) for name, shape in shapes.items() for part in "ri"},
        "pair_starts": np.cumsum([0, *counts]).astype(np.int32),
        "pair_targets": np.concatenate([*targets, np.zeros(PADDING)]).astype(np.int32),
        "pair_sources": np.concatenate([*sources, np.zeros(PADDING)]).astype(np.int32),
        "nfreqs": nfreqs,
        "f_start": first,
        "f_end": last,
        "nchunks": nchunks,
        "nsource_octets": nsources,
        "ntarget_octets": ntargets,
    }
    return Case(operator, greens, order, dtype, arguments, ("Lr", "Li"))


def real_case(operator: str, greens: GreensFunction, dtype: Any, order: int = 3, seed: int = 0) -> Case:
    """Make a case with numbers that are not whole, for a Green's function itself.

    Points are drawn from boxes of half width 1 around whole-numbered centres, some of them coincident; surfaces lie
    around the boxes, so that no point is near them.
    """
    plain = POLYNOMIALS[0] if operator not in PARTICLE_OPERATORS else greens
    case = make_case(operator, plain, dtype, order, seed)
    rng = np.random.default_rng(seed + 1)
    arguments = dict(case.arguments)
    for name, value in arguments.items():
        if isinstance(value, np.ndarray) and value.dtype.kind == "f":
            noise = rng.uniform(-1, 1, value.shape)
            vanishes = (value == 0) if name in ("multipoles", "locals", "check") else np.False_
            arguments[name] = np.where(np.isnan(value), np.nan, np.where(vanishes, 0, noise)).astype(value.dtype)
    if operator in ("m2m", "l2l"):
        arguments["result"] = arguments["multipoles" if operator == "m2m" else "locals"]
    if operator in PARTICLE_OPERATORS:
        grid = _grid(order) * (2.0 / (order - 1)) - 1
        count = int(arguments["box_source_ends"][-1])
        positions = rng.uniform(-1, 1, (3, count))
        positions[:, count // 2 :: 5] = positions[:, count // 2][:, None]
        for name in ("targets", "sources"):
            arguments[name] = _padded(positions.astype(case.dtype))
        arguments["surface"] = _padded(grid.astype(case.dtype), arguments["nsurface"] - arguments["npoints"])
        arguments["radii"] = np.ones(arguments["nboxes"], case.dtype)
        arguments["centres"] = rng.uniform(-0.25, 0.25, (3, arguments["nboxes"])).astype(case.dtype)
        arguments |= {"radius_factor": 2.95, "scaling": greens.scaling, **greens.arguments}
    return Case(operator, case.greens, order, case.dtype, arguments, case.output, case.blocks)


def term_magnitudes(case: Case, results: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return, for every entry of the outputs, the sum of the magnitudes of the terms that add up to it.

    For particle operators that is the sum itself, in numpy; for dense products and transforms, whose terms are random
    and of one size, the largest result of the array stands for it: sums of up to 4,000 random terms are about a
    sixtieth of the sum of their magnitudes, so this is the stricter measure.

    Args:
        case: in float64.
        results: what the sequential kernel gives.
    """
    if case.operator not in PARTICLE_OPERATORS:
        return {name: np.full(values.shape, np.nanmax(np.abs(values))) for name, values in results.items()}
    a, name = case.arguments, case.output[0]
    magnitudes = np.abs(a[name])
    surface = a["radius_factor"] * a["surface"][:, : a["npoints"]]
    for box in a["target_boxes"]:
        here = slice(a["box_target_starts"][box], a["box_target_ends"][box])
        for source in a["lists"][a["list_starts"][box] : a["list_starts"][box + 1]]:
            there = slice(a["box_source_starts"][source], a["box_source_ends"][source])
            x, y, q = a["targets"][:, here], a["sources"][:, there], a["charges"][:, there]
            where: Any = (slice(None), here)
            if case.operator in ("p2m", "p2l"):
                x, y = a["radii"][box] * surface, y - a["centres"][:, box, None]
                where = (box, slice(None), slice(0, a["npoints"]))
            elif case.operator != "p2p":
                x, y = x - a["centres"][:, source, None], a["radii"][source] * surface
                q = a["densities"][source, :, : a["npoints"]]
            values = np.abs(case.greens.evaluate(x[:, :, None] - y[:, None, :]))
            magnitudes[where] += np.einsum("ijts,js->it", values, np.abs(q))
    return {name: magnitudes}
