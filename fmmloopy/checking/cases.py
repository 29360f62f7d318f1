"""Small problems for single operators, on which any right schedule gives identical bits.

Data are small whole numbers, Green's functions polynomials, matrices random whole numbers, sized so that every
product and every partial sum is a whole number below 2^24, which float32 and float64 hold exactly. Floating-point
arithmetic is then exact, however a recipe reorders, tiles or fuses it: a dropped, doubled or misplaced term cannot
hide behind a tolerance.

Boxes have all sizes around the widths of lanes, some are empty; lists are empty, short and long. Every output starts as
whole numbers too, with NaN where nothing may be read or written.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmmloopy.compile import PARTICLE_OPERATORS, CompiledOperator
from fmmloopy.devices import DeviceError
from fmmloopy.greens import GreensFunction
from fmmloopy.runtime import Array, Runtime
from fmmloopy.surfaces import count_points

ROWS = 16
PADDING = 64

SIZES = (0, 1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 2, 0, 40)
"""Points of the boxes: none, one, and one less and one more than every width of lanes up to 32."""

PAIR_COUNTS = (0, 1, 2, 3, 4, 5, 7, 8, 9)
"""Pairs of octets by chunk and direction, in turn: none, and around the widths of blocks."""

EXACT_LIMIT = 2**24
"""Whole numbers below this are exact in float32."""

POLYNOMIAL = GreensFunction("polynomial", (("d0*(d1 + 2)*(d2 + 3) + 2*d1*d1",),))
"""A Green's function without symmetry, whole-numbered for whole-numbered differences."""

POLYNOMIAL_2X2 = GreensFunction("polynomial_2x2", (("d0 + 2*d1", "d2*d2 + 1"), ("d0*d1 + 3", "d1 + d2 + 5*d0")))
"""Two components on both sides."""

POLYNOMIALS = (POLYNOMIAL, POLYNOMIAL_2X2)


@dataclass(frozen=True)
class Layout:
    """How many of everything a case has.

    Attributes:
        name: what is special about it.
        sizes: points of the boxes (particle operators).
        lists: entries of the list of each box, None for all boxes, none, and random numbers of them.
        blocks: boxes (dense products) or octets (transforms) that are worked on, None for some.
        pairs: pairs of octets by chunk and direction, in turn (products of M2L's FFT form).
        present: share of children that are there.
        coincident: whether all points are in one place.
        ahead: points before those of the first box, which belong to none.
        poison: what stands where nothing may be read, and in outputs that are to be overwritten.
    """

    name: str = "boxes and lists of many sizes"
    sizes: tuple[int, ...] = SIZES
    lists: tuple[int, ...] | None = None
    blocks: int | None = None
    pairs: tuple[int, ...] = PAIR_COUNTS
    present: float = 0.6
    coincident: bool = False
    ahead: int = 0
    poison: float = float("nan")


MIXED = Layout()
"""The layout of the exact layer."""


def hostile_layouts(operator: str, lanes: Mapping[str, int]) -> list[Layout]:
    """Return layouts on which schedules fail that are right for most: nothing, one, and around the widths of lanes.

    Args:
        operator: its name.
        lanes: the lane parameters that the recipe has fixed.
    """
    # Whole, so that products with it are; a recipe may multiply what idle lanes have read by zero.
    garbage = Layout("numbers in place of NaN", poison=777.0)
    if operator in PARTICLE_OPERATORS:
        width = max(lanes.get("tlanes", 1), lanes.get("slanes", 1))
        around = tuple(size for k in (1, 2) for size in (k * width - 1, k * width, k * width + 1))
        return [
            Layout("boxes without points", sizes=(0,) * 5),
            Layout("one point in each box", sizes=(1,) * 9),
            Layout(f"boxes of {width - 1}, {width}, {width + 1} points", sizes=around),
            Layout("one box of many points", sizes=(259,)),
            Layout("all points in one place", sizes=(3, width, 0, 2 * width + 1, 1), coincident=True),
            Layout("empty lists", sizes=(5, width, 1), lists=(0, 0, 0)),
            Layout("empty lists between full ones", sizes=(2, 3, width, 4, 1), lists=(0, 5, 0, 1, 0)),
            Layout("long lists", sizes=(2, 1, 0, 3) * 20, lists=(80, 79) * 40),
            Layout("indices beyond 16 bits", sizes=(3, width, 9), ahead=70_000),
            garbage,
        ]
    if operator == "m2l_hadamard":
        width = lanes.get("blanes", 1)
        return [
            Layout("no pairs", pairs=(0,)),
            Layout("one pair in each chunk", pairs=(0,) * 25 + (1,)),
            Layout(f"{width - 1}, {width}, {width + 1} pairs", pairs=(width - 1, width, width + 1)),
            garbage,
        ]
    width = lanes.get("blanes", 1)
    counts = {1, 2, width - 1, width, width + 1, 2 * width + 1} - {0}
    if operator in ("m2l_forward", "m2l_inverse"):
        counts |= {7, 8, 9, 16, 17, 33}  # around the widths of tiles that a recipe may split octets into
    layouts = [Layout(f"{count} worked on", blocks=count) for count in sorted(counts)]
    if operator == "m2l":
        layouts += [Layout("empty lists", lists=(0,)), Layout("full V lists", blocks=199, lists=(189, 0, 17))]
    elif operator != "check_to_equivalent":
        layouts += [Layout("every child there", present=1.0), Layout("hardly a child there", present=0.1)]
    return [*layouts, garbage]


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

    def describe(self) -> str:
        """Say in words how large the case is."""
        a = self.arguments
        if self.operator in PARTICLE_OPERATORS:
            boxes = a["target_boxes"][: a["ntarget_boxes"]]
            entries = np.concatenate([a["lists"][a["list_starts"][b] : a["list_starts"][b + 1]] for b in boxes])
            targets = int((a["box_target_ends"] - a["box_target_starts"])[boxes].sum())
            sources = int((a["box_source_ends"] - a["box_source_starts"])[entries].sum())
            sides = {
                "p2p": f"{targets} targets, {sources} sources",
                "p2m": f"{sources} sources",
                "p2l": f"{sources} sources",
            }
            points = sides.get(self.operator, f"{targets} targets")
            return f"{len(boxes)} target boxes, {len(entries)} list entries, {points}"
        if self.operator in ("m2m", "l2l"):
            rows = a["parents"][: a["nparents"]]
            return f"{len(rows)} parents, {int((a['children'][rows] < a['nboxes']).sum())} children"
        if self.operator == "m2l":
            rows = a["target_boxes"][: a["ntargets"]]
            return f"{len(rows)} target boxes, {int(np.diff(a['list_starts'])[rows].sum())} list entries"
        if self.operator == "check_to_equivalent":
            return f"{a['ntargets']} boxes"
        if self.operator == "m2l_hadamard":
            return f"{a['pair_starts'][-1]} pairs of octets, {a['f_end'] - a['f_start']} frequencies"
        children = int((a["octet_children"] < a["nboxes"]).sum())
        return f"{a['noctets']} octets, {children} children, {a['kz_end'] - a['kz_start']} planes"


def run_case(case: Case, code: CompiledOperator, runtime: Runtime) -> dict[str, NDArray[Any]]:
    """Run compiled code on fresh copies of a case's arrays, with NaN behind their ends, and return its outputs.

    Raises:
        DeviceError: the device cannot run it, or it has written behind the end of an output.
    """
    arguments = case.arguments_for(dict(code.lanes))
    uploaded = {k: _upload(runtime, v) if isinstance(v, np.ndarray) else v for k, v in arguments.items()}
    for same, other in (("result", "multipoles"), ("result", "locals")):
        if case.operator in ("m2m", "l2l") and same in uploaded and other in uploaded:
            uploaded[same] = uploaded[other]
    runtime.run([runtime.bind(code, uploaded)])
    outputs: dict[str, NDArray[Any]] = {}
    for name in case.output:
        shape, values = arguments[name].shape, runtime.read(uploaded[name])
        outputs[name] = values[: math.prod(shape)].reshape(shape)
        if not np.isnan(values[math.prod(shape) :]).all():
            raise DeviceError(f"{name} is written to behind its end")
    return outputs


def _upload(runtime: Runtime, values: NDArray[Any]) -> Array:
    """Upload an array with PADDING numbers behind it that idle lanes may read, but never use."""
    tail = np.full(PADDING, np.nan if values.dtype.kind == "f" else 0, values.dtype)
    return runtime.upload(np.concatenate([values.ravel(), tail]))


def identical(a: NDArray[Any], b: NDArray[Any]) -> bool:
    """Return whether two arrays hold the same values, NaN where the other has NaN, and signs of zero aside."""
    return bool(np.array_equal(a, b, equal_nan=True))


MakeCase = Callable[[str, GreensFunction, int, Any, np.random.Generator, Layout], Case]


def make_case(
    operator: str, greens: GreensFunction, dtype: Any, order: int = 3, seed: int = 0, layout: Layout = MIXED
) -> Case:
    """Make a case of an operator with whole-numbered data.

    Args:
        operator: any of :data:`fmmloopy.recipes.OPERATORS`.
        greens: one of POLYNOMIALS, for particle operators; others take its number of components.
        dtype: float32 or float64.
        order: of the surfaces, 2 to 5.
        seed: of the random numbers.
        layout: how many boxes, points and list entries there are.
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
    return make(operator, greens, order, np.dtype(dtype), rng, layout)


def _whole(rng: np.random.Generator, shape: tuple[int, ...], most: int, dtype: Any) -> NDArray[Any]:
    return rng.integers(-most, most + 1, shape).astype(dtype)


def _padded(values: NDArray[Any], padding: int = PADDING, poison: float = np.nan) -> NDArray[Any]:
    """Append what nobody may use to the last axis."""
    return np.concatenate([values, np.full((*values.shape[:-1], padding), poison, values.dtype)], axis=-1)


def _ragged_lists(
    rng: np.random.Generator, nboxes: int, counts: tuple[int, ...] | None
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Make lists of distinct boxes: the first box sees all, the second none, others some; or as many as are counted."""
    rows = [rng.permutation(nboxes)[: rng.integers(0, 7)] for _ in range(nboxes)]
    rows[:2] = [rng.permutation(nboxes), np.empty(0, np.intp)][:nboxes]
    if counts is not None:
        rows = [rng.permutation(nboxes)[: counts[box % len(counts)]] for box in range(nboxes)]
    starts = np.cumsum([0, *map(len, rows)])
    return starts.astype(np.int32), np.concatenate(rows).astype(np.int32)


def _nsurface(order: int) -> int:
    return -(-count_points(order) // ROWS) * ROWS


def _particle_case(
    operator: str, greens: GreensFunction, order: int, dtype: Any, rng: np.random.Generator, layout: Layout
) -> Case:
    """Points in 0 .. 4, charges in -1 .. 1: |G| <= 230; a box sees at most 260 sources or 80 surfaces of 26 points."""
    nboxes, npoints, nsurface = len(layout.sizes), count_points(order), _nsurface(order)
    starts = (np.cumsum([0, *layout.sizes]) + layout.ahead).astype(np.int32)
    count = int(starts[-1])
    rows, columns = greens.ntarget_components, greens.nsource_components
    list_starts, lists = _ragged_lists(rng, nboxes, layout.lists)
    point_output = operator in ("p2p", "l2p", "m2p")
    checks = _whole(rng, (nboxes + 1, rows, nsurface), 9, dtype)
    checks[..., npoints:] = layout.poison
    densities = _whole(rng, (nboxes + 1, columns, nsurface), 1, dtype)
    densities[..., npoints:] = layout.poison
    surface = rng.integers(-1, 2, (3, npoints)).astype(dtype)
    target_boxes = rng.permutation(nboxes)
    if point_output and operator != "p2p":
        target_boxes = target_boxes[: max(nboxes - 2, 1)]
    most, poison = (1 if layout.coincident else 5), layout.poison
    arguments: dict[str, Any] = {
        "targets": _padded(rng.integers(0, most, (3, count)).astype(dtype), poison=poison),
        "sources": _padded(rng.integers(0, most, (3, count)).astype(dtype), poison=poison),
        "charges": _padded(_whole(rng, (columns, count), 1, dtype), poison=poison),
        "potentials": _padded(_whole(rng, (rows, count), 9, dtype), poison=poison),
        "checks": checks,
        "densities": densities,
        "surface": _padded(surface, nsurface - npoints, poison),
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
    for name in ("targets", "sources", "charges", "potentials"):
        arguments[name][:, : layout.ahead] = poison
    output = "potentials" if point_output else "checks"
    return Case(operator, greens, order, dtype, arguments, (output,))


def _family(rng: np.random.Generator, nparents: int, share: float) -> tuple[int, NDArray[np.int32], NDArray[np.int32]]:
    """Return how many boxes there are, the children of each (some missing), and which boxes are parents, padded."""
    present = rng.random((nparents, 8)) < share
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


def _translation_case(
    operator: str, greens: GreensFunction, order: int, dtype: Any, rng: np.random.Generator, layout: Layout
) -> Case:
    """Matrices and vectors in -5 .. 5: sums of 8 * 64 products of at most 25."""
    count = layout.blocks or 20
    nboxes, children, parents = _family(rng, count + 1, layout.present)
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
        "nparents": count,
        "nboxes": nboxes,
        "ncolumns": width,
    }
    return Case(operator, greens, order, dtype, arguments, ("result",), (count, width))


def _check_to_equivalent_case(
    operator: str, greens: GreensFunction, order: int, dtype: Any, rng: np.random.Generator, layout: Layout
) -> Case:
    nboxes = (layout.blocks or 19) + 4
    rows, columns = greens.nsource_components * _nsurface(order), greens.ntarget_components * _nsurface(order)
    boxes = np.concatenate([rng.permutation(nboxes)[: nboxes - 4], np.full(PADDING, nboxes)]).astype(np.int32)
    arguments = {
        "table": _whole(rng, (2, columns, rows), 5, dtype),
        "itable": 1,
        "ntables": 2,
        "check": _vectors(rng, nboxes, columns, dtype),
        "equivalent": np.full((nboxes + 1, rows), layout.poison, dtype),
        "scales": rng.integers(1, 4, nboxes + 1).astype(dtype),
        "boxes": boxes,
        "ntargets": nboxes - 4,
        "nboxes": nboxes,
        "ncolumns": columns,
    }
    return Case(operator, greens, order, dtype, arguments, ("equivalent",), (nboxes - 4, rows))


def _dense_m2l_case(
    operator: str, greens: GreensFunction, order: int, dtype: Any, rng: np.random.Generator, layout: Layout
) -> Case:
    nboxes = (layout.blocks or 18) + 1
    rows, columns = greens.ntarget_components * _nsurface(order), greens.nsource_components * _nsurface(order)
    starts, lists = _ragged_lists(rng, nboxes, layout.lists)
    arguments = {
        "table": _whole(rng, (2, 343, columns, rows), 5, dtype),
        "itable": 1,
        "ntables": 2,
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


def _transform_arguments(order: int, dtype: Any, rng: np.random.Generator, layout: Layout) -> dict[str, Any]:
    """Whole numbers in place of waves: transforms are linear maps, whatever their matrices hold."""
    period = 2 * order - 1
    noctets = layout.blocks or 5
    nboxes = 8 * noctets + 1
    children = np.full((noctets, 8), nboxes)
    present = rng.random((noctets, 8)) < layout.present
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


def _forward_case(
    operator: str, greens: GreensFunction, order: int, dtype: Any, rng: np.random.Generator, layout: Layout
) -> Case:
    """Three stages of at most 2 p products with numbers up to 1: values grow from 5 to 5 (2p)^3 at most."""
    arguments = _transform_arguments(order, dtype, rng, layout)
    components, period = greens.nsource_components, 2 * order - 1
    multipoles = _whole(rng, (arguments["nboxes"] + 1, components, arguments["nsurface"]), 5, dtype)
    multipoles[-1] = 0
    multipoles[..., arguments["npoints"] :] = layout.poison
    shape = (order - 1, period, period, components, arguments["noctets"] + 1, 8)
    out = {name: np.full(shape, layout.poison, dtype) for name in ("Mr", "Mi")}
    return Case(operator, greens, order, dtype, {**arguments, **out, "multipoles": multipoles}, ("Mr", "Mi"))


def _inverse_case(
    operator: str, greens: GreensFunction, order: int, dtype: Any, rng: np.random.Generator, layout: Layout
) -> Case:
    """Stages of at most 2N, 2N and 2p products with numbers up to 1, times weights and scales up to 3."""
    arguments = _transform_arguments(order, dtype, rng, layout)
    components, period = greens.ntarget_components, 2 * order - 1
    checks = _whole(rng, (arguments["nboxes"] + 1, components, arguments["nsurface"]), 9, dtype)
    checks[..., arguments["npoints"] :] = layout.poison
    shape = (order - 1, period, period, components, arguments["noctets"] + 1, 8)
    spectra = {name: _whole(rng, shape, 3, dtype) for name in ("Lr", "Li")}
    more = {
        "plane_weights": rng.integers(1, 4, order).astype(dtype),
        "octet_scales": rng.integers(1, 4, arguments["noctets"]).astype(dtype),
        "checks": checks,
    }
    return Case(operator, greens, order, dtype, {**arguments, **spectra, **more}, ("checks",))


def _hadamard_case(
    operator: str, greens: GreensFunction, order: int, dtype: Any, rng: np.random.Generator, layout: Layout
) -> Case:
    """Two chunks of target octets; pairs of every count around the block widths, one direction without any."""
    rows, columns = greens.ntarget_components, greens.nsource_components
    size = max(10, *layout.pairs)
    nsources, ntargets, nchunks, nfreqs = 13, 2 * size, 2, 7
    targets, sources, counts = [], [], []
    for chunk in range(nchunks):
        for direction in range(26):
            count = layout.pairs[(direction + chunk) % len(layout.pairs)]
            targets.append(size * chunk + rng.permutation(size)[:count])
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


SINGLE = Layout("one source each", sizes=(1,) * 150, lists=(1,))
"""Sums of one term or over one surface, in which errors of terms cannot average out, each on a scale of its own."""

SCALES = (1e-10, 1e5)
"""From the least to the greatest of those scales: squares, and inverse cubes, are normal numbers in float32."""


def real_case(
    operator: str, greens: GreensFunction, dtype: Any, order: int = 3, seed: int = 0, layout: Layout = MIXED
) -> Case:
    """Make a case with numbers that are not whole, for a Green's function itself.

    Points are drawn from boxes of half width 1 around whole-numbered centres, some of them coincident; surfaces lie
    around the boxes, so that no point is near them. With the layout SINGLE, all charges have one sign, and distances
    are within SCALES.
    """
    plain = POLYNOMIALS[0] if operator not in PARTICLE_OPERATORS else greens
    case = make_case(operator, plain, dtype, order, seed, layout)
    rng = np.random.default_rng(seed + 1)
    arguments = dict(case.arguments)
    for name, value in arguments.items():
        if isinstance(value, np.ndarray) and value.dtype.kind == "f":
            one_sign = layout is SINGLE and name in ("charges", "densities")
            noise = rng.uniform(0.5 if one_sign else -1, 1, value.shape)
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
        if layout is SINGLE:
            arguments |= _single_arguments(operator, arguments, case.dtype, rng)
    return Case(operator, case.greens, order, case.dtype, arguments, case.output, case.blocks)


def _single_arguments(
    operator: str, arguments: Mapping[str, Any], dtype: np.dtype[Any], rng: np.random.Generator
) -> dict[str, Any]:
    """Give every box a scale and the next box for its list; results start at zero."""
    nboxes = arguments["nboxes"]
    scales = rng.permutation(np.geomspace(*SCALES, nboxes))
    following = np.roll(np.arange(nboxes), -1)
    targets = rng.uniform(-0.5, 0.5, (3, nboxes))
    away = rng.standard_normal((3, nboxes))
    # Where both sides are points, they are apart, so that their difference is as accurate as they are.
    sources = targets + away / np.linalg.norm(away, axis=0) * rng.uniform(1, 2, nboxes)
    if operator != "p2p":
        sources = rng.uniform(-1, 1, (3, nboxes))
    radii = np.empty(nboxes)
    radii[np.arange(nboxes) if operator in ("p2m", "p2l") else following] = scales
    moved = np.empty_like(sources)
    moved[:, following] = scales * sources
    output = "checks" if operator in ("p2m", "p2l") else "potentials"
    return {
        "targets": _padded((scales * targets).astype(dtype)),
        "sources": _padded(moved.astype(dtype)),
        "radii": radii.astype(dtype),
        "centres": np.zeros((3, nboxes), dtype),
        "list_starts": np.arange(nboxes + 1, dtype=np.int32),
        "lists": following.astype(np.int32),
        output: 0 * arguments[output],
    }


def term_magnitudes(case: Case, results: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return, for every entry of the outputs, the sum of the magnitudes of the terms that add up to it.

    For particle operators that is the sum itself, in numpy, where a term counts as much as it changes with the
    distance, if that is more: what is lost when a distance is rounded. For dense products and transforms, whose terms
    are random and of one size, the largest result of the array stands for it: sums of up to 4,000 random terms are
    about a sixtieth of the sum of their magnitudes, so this is the stricter measure.

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
            values = _condition(case.greens, x[:, :, None] - y[:, None, :])
            magnitudes[where] += np.einsum("ijts,js->it", values, np.abs(q))
    return {name: magnitudes}


def _condition(greens: GreensFunction, d: NDArray[Any]) -> NDArray[Any]:
    """Return the magnitude of a Green's function, or of r dG/dr if that is larger."""
    step = 1e-4
    change = (greens.evaluate((1 + step) * d) - greens.evaluate((1 - step) * d)) / (2 * step)
    magnitudes: NDArray[Any] = np.maximum(np.abs(greens.evaluate(d)), np.abs(change))
    return magnitudes
